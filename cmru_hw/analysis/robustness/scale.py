"""Yield against the size of mismatch: Pelgrom's from sizes, and one spread for all transistors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from cmru_hw.analysis.robustness.analysis import Analysis, Results, keyed, under
from cmru_hw.analysis.robustness.lot import CHIPS_A_JOB, Chips, Lot, Task, joined
from cmru_hw.analysis.robustness.yields import distribution
from cmru_hw.farm import chunks

FACTORS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
THREE_SIGMA = (0.05, 0.1, 0.15, 0.2, 0.3)


@dataclass(frozen=True)
class Scale(Analysis):
    """Factors on Pelgrom's sigmas, and currents that are off by log-normal factors of given 3 sigma."""

    name: ClassVar[str] = "scale"
    lot: Lot
    chips: int
    yield_target: float
    factors: Sequence[float] = FACTORS
    three_sigma: Sequence[float] = THREE_SIGMA

    def _points(self) -> dict[str, tuple[dict[str, float], dict[str, Any]]]:
        """By key: what a report says of a point, and what makes its chips."""
        pelgrom = {f"pelgrom_{f:g}x": ({"pelgrom": float(f)}, {"scale": f}) for f in self.factors}
        alike = {f"alike_{s:g}": ({"three_sigma": float(s)}, {"relative": s / 3}) for s in self.three_sigma}
        return {**pelgrom, **alike}

    def tasks(self) -> dict[str, Task]:
        """The same chips at every point."""
        numbers = chunks(range(self.chips), CHIPS_A_JOB, "chips")
        found: dict[str, Task] = {}
        for point, (_, how) in self._points().items():
            found |= keyed(f"{self.name}_{point}", {key: Chips(few, **how) for key, few in numbers.items()})
        return found

    def summary(self, results: Results) -> dict[str, Any]:
        """`points`: each with `pelgrom`, a factor, or `three_sigma`, and its chips' accuracies."""
        points = [
            {
                **said,
                **distribution(joined(under(f"{self.name}_{point}", results), "accuracy"), self.yield_target),
            }
            for point, (said, _) in self._points().items()
        ]
        return {"yield_target": self.yield_target, "points": points}
