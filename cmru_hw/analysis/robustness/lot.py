"""A lot of chips: who decides what, and how well each numbered chip does it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmru_hw.behavioral import BehavioralModel
from cmru_hw.design import Design
from cmru_hw.errors import ConfigError
from cmru_hw.farm import Arrays, Farm, Store, chunks, digest, run_jobs
from cmru_hw.primitives.device import Array, Shifts
from cmru_hw.stimulus import Stimulus
from cmru_hw.variation import draw

ROWS_A_FRAME = 5000
"""Chips times inputs in one model, at most: what they hold stays in a core's cache, and outweighs Python."""
CHIPS_A_JOB = 50


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

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_scale < np.inf:
            raise ConfigError(f"robustness: sigma_scale must be >= 0, got {self.sigma_scale}")

    def at(self, celsius: float | None = None, supply: float | None = None, corner: str | None = None) -> Lot:
        """The same chips at another temperature (degrees Celsius), supply (V) or corner."""
        return replace(self, design=self.design.at(celsius, supply, corner))

    def batches(self, numbers: range) -> Iterator[range]:
        """Numbers of chips that go through the model together."""
        together = max(1, ROWS_A_FRAME // len(self.stimulus))
        for first in range(0, len(numbers), together):
            yield numbers[first : first + together]

    def margins(self, shifts: Shifts, **changes: Any) -> Array:
        """How clearly each chip decides each input right, [chips, B]; >= 0 is right. See `Pooled.margins`.

        `changes` are further arguments of the behavioural model.
        """
        model = BehavioralModel(
            self.design, shifts, **({"seed": self.seed, "intrinsic": self.noise} | changes)
        )
        return np.atleast_2d(model.margins(self.stimulus, self.labels))

    def judge(self, numbers: range, drawn: Callable[[range], Shifts]) -> Arrays:
        """The `accuracy` and mean `margin` of chips, [chips], a batch at a time."""
        return judged([self.margins(drawn(few)) for few in self.batches(numbers)])

    def jobs(self, chips: range) -> dict[str, Chips]:
        """Chips as jobs of a farm."""
        return {key: Chips(numbers) for key, numbers in chunks(chips, CHIPS_A_JOB, "chips").items()}

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


def judged(margins: list[Array]) -> Arrays:
    """Accuracies and mean margins from margins [chips, B]."""
    rows = np.concatenate(margins)
    return {"accuracy": (rows >= 0).mean(axis=-1), "margin": rows.mean(axis=-1)}


class Task(ABC):
    """A job on a lot; what it gives depends on these two alone."""

    @abstractmethod
    def run(self, lot: Lot) -> Arrays:
        """The result."""


def run_task(lot: Lot, task: Task) -> Arrays:
    """A job of a farm whose context is a lot."""
    return task.run(lot)


@dataclass(frozen=True)
class Chips(Task):
    """Numbered chips. `scale` is a factor on the lot's sigmas; with `relative`, all transistors spread alike.

    `celsius`, `supply` (V) and `corner` are those of the lot's design by default.
    """

    numbers: range
    scale: float = 1.0
    relative: float | None = None
    celsius: float | None = None
    supply: float | None = None
    corner: str | None = None

    def run(self, lot: Lot) -> Arrays:
        """Their `accuracy` and mean `margin`, [chips]."""
        there = lot.at(self.celsius, self.supply, self.corner)
        scale = self.scale * lot.sigma_scale
        return there.judge(self.numbers, lambda few: draw(there.design, few, lot.seed, scale, self.relative))


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

    found = run_jobs(run_task, lot, lot.jobs(chips), farm, store, done)
    return joined(found, "accuracy")


def joined(results: dict[str, Arrays], name: str) -> Array:
    """An array of several jobs, end to end."""
    return np.concatenate([result[name] for result in results.values()])
