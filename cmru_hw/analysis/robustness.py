"""Mismatch Monte Carlo: how many chips of a design still decide well enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from cmru_hw.behavioral import BehavioralModel
from cmru_hw.design import Design
from cmru_hw.errors import ConfigError
from cmru_hw.farm import Arrays, Farm, Store, chunks, digest, run_jobs
from cmru_hw.primitives.device import Array
from cmru_hw.stimulus import Stimulus
from cmru_hw.variation import draw

ROWS_A_FRAME = 4096
"""Chips times inputs in one model, about: what they hold stays in a core's cache, and outweighs Python."""
CHIPS_A_JOB = 50


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


@dataclass(frozen=True, eq=False)
class Lot:
    """Chips of a design by the seed that draws them, and the labelled inputs that each decides.

    With `noise` the circuit's own acts, the same draw for every chip.
    """

    design: Design
    stimulus: Stimulus
    labels: NDArray[np.int64]
    seed: int
    sigma_scale: float = 1.0
    noise: bool = False

    def accuracies(self, numbers: range) -> Arrays:
        """The `accuracy` of each numbered chip, in memory that does not grow with their number."""
        together = max(1, ROWS_A_FRAME // len(self.stimulus))
        found = []
        for few in chunks(numbers, together, "chips").values():
            shifts = draw(self.design, few, self.seed, self.sigma_scale)
            model = BehavioralModel(self.design, shifts, seed=self.seed, intrinsic=self.noise)
            found.append((model.decisions(self.stimulus) == self.labels).mean(axis=-1))
        return {"accuracy": np.concatenate(found)}

    def jobs(self, chips: range) -> dict[str, range]:
        """Chips as jobs of a farm, for `accuracies`."""
        return chunks(chips, CHIPS_A_JOB, "chips")

    @property
    def identity(self) -> dict[str, Any]:
        """What a store of its results must be of."""
        stimulus = self.stimulus
        return {
            "design": self.design.fingerprint,
            "inputs": digest(stimulus.x, stimulus.lengths, stimulus.starts, self.labels),
            "seed": self.seed,
            "sigma_scale": self.sigma_scale,
            "noise": self.noise,
        }


def chip_accuracies(
    lot: Lot,
    chips: range,
    farm: Farm | None = None,
    store: Store | None = None,
    progress: Callable[[int], None] | None = None,
) -> Array:
    """Accuracy of each numbered chip of a lot; does not depend on where they run.

    `progress` is told how many chips are done.
    """

    def done(jobs: int) -> None:
        if progress:
            progress(min(jobs * CHIPS_A_JOB, len(chips)))

    found = run_jobs(Lot.accuracies, lot, lot.jobs(chips), farm, store, done)
    return np.concatenate([result["accuracy"] for result in found.values()])


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
