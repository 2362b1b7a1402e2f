"""Choices of the mapping: the `mapping` section of a configuration file."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cmru_hw.config import Strict
from cmru_hw.design import Boundary
from cmru_hw.primitives.signal import chosen_units

Units = Annotated[int, Field(ge=1, le=256)]


class MappingConfig(Strict):
    """Choices of the mapping."""

    boundary: Boundary = "full"
    latch: Literal["9t", "clocked"] | None = None  # default: 9t for fq_bmru, clocked for bmru
    accumulator: Literal["latch_bank", "integrator"] | None = None  # default: what the unit's state asks for
    levels: Annotated[int, Field(ge=1, le=64)] | None = None  # K of a cmru that was trained without
    units: Units = 16  # unit transistors in a diode that weights divide by
    copy_units: Units = 8  # in a diode that is only copied 1:1
    bias_units: Units = 4  # in a bias current and in its reference
    latch_units: Units | None = None  # for each current of a latch or comparator; default: the card's
    rows: dict[str, Units] = Field(default_factory=dict)  # in the diodes of a row, or of a block's rows
    bias_rows: dict[str, Units] = Field(default_factory=dict)  # in the biases of a row, or of a block's
    unit_area: Annotated[float, Field(gt=0)] = 1.0  # W L of a unit transistor over the card's
    unit_current: Annotated[float, Field(gt=0)] = 1e-9  # A for one model unit
    quiescent_current: Annotated[float, Field(ge=0)] = 3e-11  # A in both currents of an input pair
    frame_period: Annotated[float, Field(gt=0)] = 1e-2  # s
    ramp: Annotated[float, Field(gt=0)] | None = None  # s; default: a tenth of the frame, clocked a fiftieth
    strict: bool = False  # refuse what would have to be clipped

    @model_validator(mode="after")
    def _ramp_fits_the_frame(self) -> Self:
        if self.ramp and not self.ramp < self.frame_period:
            raise ValueError(f"ramp must be shorter than frame_period, {self.frame_period:g} s")
        return self

    def row_units(self, row: str, default: int) -> int:
        """Unit transistors in the diodes of a row: its own, else its block's, else the default."""
        return chosen_units(self.rows, row, default)

    def row_bias_units(self, row: str) -> int:
        """Unit transistors in each bias of a row, and in its reference."""
        return chosen_units(self.bias_rows, row, self.bias_units)
