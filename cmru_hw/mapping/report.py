"""What a mapping cost and what it had to change; `mapping.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cmru_hw.config import write_atomically


@dataclass(frozen=True)
class Clip:
    """A trained value that the circuit cannot have, and what is built instead (model units)."""

    tensor: str
    index: list[int]
    trained: float
    built: float
    reason: str


@dataclass(frozen=True)
class RestPoint:
    """A candidate that rests, with no input, closer to a threshold than the technology's margin (A)."""

    tensor: str
    index: list[int]
    candidate: float
    threshold: float


@dataclass
class MappingReport:
    """What mapping found out; `save` writes it as `mapping.json`."""

    choices: dict[str, Any] = field(default_factory=dict)  # as the `mapping` section of a configuration
    transistors: int = 0
    transistors_by_stage: dict[str, int] = field(default_factory=dict)
    area_m2: float = 0.0
    unit_histogram: dict[int, int] = field(default_factory=dict)  # units in parallel: how many weights
    quantization_error: dict[str, float] = field(default_factory=dict)  # rms error / rms weight
    clipped: list[Clip] = field(default_factory=list)
    rest_points: list[RestPoint] = field(default_factory=list)
    smallest_rest_margin: float = float("inf")  # A

    def save(self, folder: Path) -> None:
        """Write `mapping.json`."""
        write_atomically(folder / "mapping.json", json.dumps(asdict(self), indent=1) + "\n")
