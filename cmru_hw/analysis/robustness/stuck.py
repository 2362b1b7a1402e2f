"""One cell at a time stuck at its lowest or its highest state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cmru_hw.analysis.robustness.analysis import Analysis, Results, keyed, under
from cmru_hw.analysis.robustness.lot import Chips, Lot, Task, joined, judged
from cmru_hw.analysis.robustness.mismatch import NOMINAL
from cmru_hw.design import Design
from cmru_hw.farm import Arrays, chunks
from cmru_hw.primitives.device import Array

FAULTS_A_JOB = 20
LEVELS = ("low", "high")


def faults(design: Design) -> list[tuple[int, int, int]]:
    """Layer, cell and level (0 low, 1 high) of each."""
    return [
        (layer, cell, level)
        for layer, memory in enumerate(design.memories)
        for cell in range(memory.size)
        for level in range(len(LEVELS))
    ]


@dataclass(frozen=True)
class Stuck(Task):
    """Numbered faults of the nominal circuit, one a chip."""

    numbers: range

    def run(self, lot: Lot) -> Arrays:
        """Their `accuracy` and mean `margin`."""
        memories, every = lot.design.memories, faults(lot.design)
        found: list[Array] = []
        for few in lot.batches(self.numbers):
            stuck = {memory.name: np.full((len(few), memory.size), np.nan) for memory in memories}
            for row, number in enumerate(few):
                layer, cell, level = every[number]
                memory = memories[layer]
                stuck[memory.name][row, cell] = memory.extremes[level, cell]
            found.append(lot.margins({}, stuck=stuck))
        return judged(found)


@dataclass(frozen=True)
class StuckCells(Analysis):
    """Every cell at both extremes, ranked."""

    name: ClassVar[str] = "stuck"
    lot: Lot
    yield_target: float

    def tasks(self) -> dict[str, Task]:
        """A chip a fault."""
        numbers = range(len(faults(self.lot.design)))
        own = {key: Stuck(few) for key, few in chunks(numbers, FAULTS_A_JOB, "faults").items()}
        return {**keyed(self.name, own), NOMINAL: Chips(range(1), scale=0.0)}

    def summary(self, results: Results) -> dict[str, Any]:
        """`faults`, the worst first, and the share of them that leaves the target accuracy."""
        own = under(self.name, results)
        accuracy, margin = joined(own, "accuracy"), joined(own, "margin")
        every = faults(self.lot.design)
        order = np.lexsort((margin, accuracy))
        return {
            "nominal_accuracy": float(results[NOMINAL]["accuracy"][0]),
            "yield_target": self.yield_target,
            "survived": float((accuracy >= self.yield_target).mean()),
            "mean_accuracy": float(accuracy.mean()),
            "faults": [
                {
                    "layer": every[i][0], "cell": every[i][1], "stuck": LEVELS[every[i][2]],
                    "accuracy": float(accuracy[i]), "margin": float(margin[i]),
                }
                for i in map(int, order)
            ],
        }  # fmt: skip
