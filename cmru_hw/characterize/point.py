"""One run of a sweep."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cmru_hw.spice.job import Job
from cmru_hw.spice.rawfile import RawData

Row = dict[str, Any]
"""A point's condition and what was measured there."""

AT = "at"
"""Key of a row that holds its condition."""


@dataclass(frozen=True)
class Point:
    """What is measured where: `at`, plain values in SI units (temperature in degrees Celsius)."""

    at: dict[str, float | str]
    job: Job
    read: Callable[[RawData], Row]

    @property
    def condition(self) -> Row:
        return {AT: self.at}

    @property
    def key(self) -> str:
        """The condition as text."""
        return json.dumps(self.condition, sort_keys=True)
