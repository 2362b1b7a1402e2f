"""Process x supply x temperature: the nominal circuit and mismatched chips at every corner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, ClassVar

from cmru_hw.analysis.robustness.analysis import Analysis, Results, keyed, under
from cmru_hw.analysis.robustness.lot import CHIPS_A_JOB, Chips, Lot, Task, joined
from cmru_hw.analysis.robustness.yields import distribution
from cmru_hw.errors import ConfigError, MappingError
from cmru_hw.farm import chunks
from cmru_hw.technology import TYPICAL

SUPPLIES = (0.9, 1.0, 1.1)  # of the design's
CELSIUS = (-20.0, 27.0, 85.0)


@dataclass(frozen=True)
class Condition:
    """Where a circuit works: process corner, supply (V), temperature (degrees Celsius)."""

    corner: str
    supply: float
    celsius: float

    @property
    def key(self) -> str:
        """As part of a job's name."""
        return f"{self.corner}_{self.supply:g}V_{self.celsius:+g}C"


@dataclass(frozen=True)
class Corners(Analysis):
    """All corners of the technology card; what was not characterised is named, not run.

    Without `chips`, of the nominal circuit alone.
    """

    name: ClassVar[str] = "corners"
    lot: Lot
    chips: int
    yield_target: float
    supplies: Sequence[float] = SUPPLIES
    celsius: Sequence[float] = CELSIUS

    @cached_property
    def _conditions(self) -> dict[Condition, str | None]:
        """Each with why it cannot be run, None where it can."""
        design = self.lot.design
        names = (TYPICAL, *design.technology.corners)
        found: dict[Condition, str | None] = {}
        for corner, share, celsius in product(names, self.supplies, self.celsius):
            condition = Condition(corner, float(f"{share * design.facts.supply:g}"), float(celsius))
            try:
                design.at(condition.celsius, condition.supply, corner)
                found[condition] = None
            except (ConfigError, MappingError) as error:
                found[condition] = str(error)
        return found

    def tasks(self) -> dict[str, Task]:
        """At each condition the nominal circuit and the same chips."""
        numbers = chunks(range(self.chips), CHIPS_A_JOB, "chips")
        found: dict[str, Task] = {}
        for at in (at for at, refused in self._conditions.items() if refused is None):
            where = {"celsius": at.celsius, "supply": at.supply, "corner": at.corner}
            each: dict[str, Task] = {key: Chips(few, **where) for key, few in numbers.items()}  # type: ignore[arg-type]
            each["nominal"] = Chips(range(1), scale=0.0, **where)  # type: ignore[arg-type]
            found |= keyed(f"{self.name}_{at.key}", each)
        return found

    def summary(self, results: Results) -> dict[str, Any]:
        """`conditions`, the least accurate as `worst`, and those `refused` with the reason."""
        corners = self.lot.design.technology.corners
        rows: list[dict[str, Any]] = []
        for at in (at for at, refused in self._conditions.items() if refused is None):
            own = under(f"{self.name}_{at.key}", results)
            chips = {key: result for key, result in own.items() if not key.endswith("_nominal")}
            rows.append(
                {
                    "corner": at.corner,
                    "supply": at.supply,
                    "celsius": at.celsius,
                    "nominal_accuracy": float(own[f"{self.name}_{at.key}_nominal"]["accuracy"][0]),
                    **(distribution(joined(chips, "accuracy"), self.yield_target) if chips else {}),
                }
            )

        return {
            "yield_target": self.yield_target,
            "shifts_v": {name: {"n": shift.n, "p": shift.p} for name, shift in corners.items()},
            "conditions": rows,
            "worst": min(
                rows, key=lambda row: (row["nominal_accuracy"], row.get("mean_accuracy", 0.0)), default=None
            ),
            "refused": [
                {"corner": at.corner, "supply": at.supply, "celsius": at.celsius, "reason": reason}
                for at, reason in self._conditions.items()
                if reason is not None
            ],
        }
