"""Mismatch Monte Carlo: how accuracy spreads over chips, and how many reach a target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cmru_hw.analysis.robustness.analysis import Analysis, Results, under
from cmru_hw.analysis.robustness.lot import Chips, Lot, Task, joined
from cmru_hw.analysis.robustness.yields import summarize

NOMINAL = "nominal"
"""Key of the chip without mismatch."""


@dataclass(frozen=True)
class Mismatch(Analysis):
    """Of `chips` numbered chips."""

    name: ClassVar[str] = "mismatch"
    lot: Lot
    chips: int
    yield_target: float

    def tasks(self) -> dict[str, Task]:
        """The chips, and the one without mismatch."""
        return {NOMINAL: Chips(range(1), scale=0.0), **self.lot.jobs(range(self.chips))}

    def summary(self, results: Results) -> dict[str, Any]:
        """Distribution and yield; `histogram` lists accuracies with the number of chips that have them."""
        chips = under("chips", results)
        accuracies = joined(chips, "accuracy")
        margins = joined(chips, "margin")
        values, counts = np.unique(accuracies, return_counts=True)
        return {
            **summarize(accuracies, self.lot.seed, self.lot.sigma_scale, self.yield_target).to_json(),
            "nominal_accuracy": float(results[NOMINAL]["accuracy"][0]),
            "mean_margin": float(margins.mean()),
            "std_margin": float(margins.std()),
            "histogram": [[float(value), int(count)] for value, count in zip(values, counts, strict=True)],
        }
