"""Mismatch Monte Carlo: how many chips of a design still decide well enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from cmru_hw.behavioral import BehavioralModel
from cmru_hw.config import cores
from cmru_hw.design import Design
from cmru_hw.errors import ConfigError
from cmru_hw.primitives.device import Array
from cmru_hw.stimulus import Stimulus
from cmru_hw.variation import draw

ROWS_A_FRAME = 4096
"""Chips times inputs in one model, about: what they hold stays in a core's cache, and outweighs Python."""


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


def chip_accuracies(
    design: Design,
    stimulus: Stimulus,
    labels: NDArray[np.int64],
    chips: Sequence[int],
    seed: int,
    sigma_scale: float = 1.0,
    progress: Callable[[int], None] | None = None,
    workers: int | None = None,
    noise: bool = False,
) -> Array:
    """Accuracy of each numbered chip on the inputs, on `workers` threads (default: one a core).

    With `noise` the circuit's own, the same draw for every chip.

    Memory does not grow with the number of chips, and results do not depend on the number of threads.
    """

    together = max(1, ROWS_A_FRAME // len(stimulus))

    def some(start: int) -> Array:
        numbers = chips[start : start + together]
        model = BehavioralModel(design, draw(design, numbers, seed, sigma_scale), seed=seed, intrinsic=noise)
        return np.asarray((model.decisions(stimulus) == labels).mean(axis=-1))

    found: list[Array] = []
    with ThreadPoolExecutor(workers or cores()) as pool:
        for accuracies in pool.map(some, range(0, len(chips), together)):
            found.append(accuracies)
            if progress:
                progress(sum(map(len, found)))
    return np.concatenate(found)


def summarize(accuracies: Array, seed: int, sigma_scale: float, yield_target: float) -> Robustness:
    """Distribution and yield: the share of chips with at least `yield_target` accuracy."""
    if not 0 <= yield_target <= 1:
        raise ConfigError(f"robustness: yield_target must be within 0 and 1, got {yield_target}")
    good = int((accuracies >= yield_target).sum())
    interval = binomtest(good, len(accuracies)).proportion_ci(0.95)
    return Robustness(
        chips=len(accuracies),
        seed=seed,
        sigma_scale=sigma_scale,
        mean_accuracy=float(accuracies.mean()),
        std_accuracy=float(accuracies.std()),
        p05_accuracy=float(np.quantile(accuracies, 0.05)),
        yield_=good / len(accuracies),
        yield_target=yield_target,
        yield_ci95=(float(interval.low), float(interval.high)),
    )
