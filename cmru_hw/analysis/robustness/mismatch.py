"""Mismatch Monte Carlo: how accuracy spreads over chips, and how many reach a target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

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
        return {**self.lot.jobs(range(self.chips)), NOMINAL: Chips(range(1), scale=0.0)}

    def summary(self, results: Results) -> dict[str, Any]:
        """Distribution and yield, and the `accuracies` by chip."""
        chips = under("chips", results)
        accuracies = joined(chips, "accuracy")
        margins = joined(chips, "margin")
        return {
            **summarize(accuracies, self.lot.seed, self.lot.sigma_scale, self.yield_target).to_json(),
            "nominal_accuracy": float(results[NOMINAL]["accuracy"][0]),
            "mean_margin": float(margins.mean()),
            "std_margin": float(margins.std()),
            "accuracies": accuracies.tolist(),
        }
