"""All analyses of one design: which there are, what they take, and what `robustness.json` holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cmru_hw.analysis.robustness.analysis import Analysis
from cmru_hw.analysis.robustness.corners import Corners
from cmru_hw.analysis.robustness.lot import Lot
from cmru_hw.analysis.robustness.mismatch import Mismatch
from cmru_hw.analysis.robustness.noise import NoiseSweeps
from cmru_hw.analysis.robustness.rare import Rare
from cmru_hw.analysis.robustness.retention import Retention
from cmru_hw.analysis.robustness.scale import Scale
from cmru_hw.analysis.robustness.sensitivity import Sensitivity
from cmru_hw.analysis.robustness.stuck import StuckCells
from cmru_hw.analysis.robustness.yields import check_target
from cmru_hw.errors import ConfigError

CHIPS_OF_SWEEPS = 200
"""At most: at each point of a sweep, each corner, each temperature."""


@dataclass(frozen=True)
class Study:
    """A lot with what the analyses take. `folder` is the design's, with the network that it came from."""

    lot: Lot
    chips: int
    yield_target: float
    folder: Path

    def __post_init__(self) -> None:
        check_target(self.yield_target)
        if self.chips < 1:
            raise ConfigError(f"robustness: chips must be 1 or more, got {self.chips}")

    @cached_property
    def analyses(self) -> dict[str, Analysis]:
        """Every analysis by its name, in the order of a report."""
        lot, target, few = self.lot, self.yield_target, min(self.chips, CHIPS_OF_SWEEPS)
        mismatch = Mismatch(lot, self.chips, target)
        every: list[Analysis] = [
            mismatch,
            Sensitivity(mismatch),
            Scale(lot, few, target),
            Corners(lot, few // 2 or 1, target),
            NoiseSweeps(lot, self.folder),
            Retention(lot, few // 2 or 1),
            StuckCells(lot, target),
            Rare(lot, target),
        ]
        return {analysis.name: analysis for analysis in every}

    def chosen(self, names: Sequence[str]) -> list[Analysis]:
        """Analyses by name, or `all`. Raises ConfigError for an unknown one."""
        known = self.analyses
        for name in names:
            if name not in (*known, "all"):
                raise ConfigError(f"--analysis: none called {name!r}; there are {', '.join(known)}, all")
        return [analysis for name, analysis in known.items() if name in names or "all" in names]

    def report(self, summaries: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """What `robustness.json` holds."""
        facts = self.lot.design.facts
        return {
            "unit": facts.unit,
            "technology": facts.technology,
            "temperature_celsius": facts.temperature_celsius,
            "supply": facts.supply,
            "corner": facts.corner,
            **self.lot.identity,
            "inputs_decided": len(self.lot.stimulus),
            "analyses": summaries,
        }
