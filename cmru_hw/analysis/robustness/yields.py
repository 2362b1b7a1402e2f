"""Accuracies of chips as numbers for a report: their distribution and the yield with its interval."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from cmru_hw.errors import ConfigError
from cmru_hw.primitives.device import Array


@dataclass(frozen=True)
class Robustness:
    """Accuracy over mismatched chips; `yield_ci95` is the exact (Clopper-Pearson) 95 % interval."""

    chips: int
    seed: int
    sigma_scale: float
    mean_accuracy: float
    std_accuracy: float
    p05_accuracy: float
    yield_: float
    yield_target: float
    yield_ci95: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        """Plain values, `yield` under its own name."""
        return {name.rstrip("_"): value for name, value in asdict(self).items()}


def summarize(accuracies: Array, seed: int, sigma_scale: float, yield_target: float) -> Robustness:
    """Distribution and yield: the share of chips with at least `yield_target` accuracy."""
    check_target(yield_target)
    good = int((accuracies >= yield_target).sum())
    return Robustness(
        chips=len(accuracies),
        seed=seed,
        sigma_scale=sigma_scale,
        mean_accuracy=float(accuracies.mean()),
        std_accuracy=float(accuracies.std()),
        p05_accuracy=float(np.quantile(accuracies, 0.05)),
        yield_=good / len(accuracies),
        yield_target=yield_target,
        yield_ci95=interval(good, len(accuracies)),
    )


def distribution(accuracies: Array, yield_target: float) -> dict[str, Any]:
    """The part of a summary that is about the chips alone."""
    found = summarize(accuracies, 0, 0.0, yield_target).to_json()
    return {key: value for key, value in found.items() if key not in ("seed", "sigma_scale", "yield_target")}


def check_target(yield_target: float) -> None:
    """Raises ConfigError for a target that is no share."""
    if not 0 <= yield_target <= 1:
        raise ConfigError(f"robustness: yield_target must be within 0 and 1, got {yield_target}")


def interval(good: int, chips: int) -> tuple[float, float]:
    """Exact (Clopper-Pearson) 95 % interval of a share."""
    found = binomtest(good, chips).proportion_ci(0.95)
    return float(found.low), float(found.high)
