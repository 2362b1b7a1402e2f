"""What `network.yaml` says about a network."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from cmru_hw.config import Strict
from cmru_hw.nn.pooling import Pool

UnitName = Literal["fq_bmru", "bmru", "cmru", "alpha_cmru", "lru", "min_gru", "gru"]
Size = Annotated[int, Field(ge=1, le=2**20)]

UNITS_WITH_OPTION: dict[str, tuple[UnitName, ...]] = {
    "levels": ("cmru",),
    "rails": ("alpha_cmru",),
    "input_dependent_threshold": ("bmru", "cmru", "alpha_cmru"),
    "epsilon": ("fq_bmru", "bmru"),
}


class NetworkConfig(Strict):
    """What `network.yaml` says: sizes I, H, N, L, C, the unit and its options.

    `levels` (cmru only) is the saturation K; `rails` (alpha_cmru only) the magnitude, in model units, at
    which the state stops; `epsilon` (fq_bmru, bmru) is 0 for the unit itself and rises to 1 only while
    training anneals it; the CMRU has none, being the BMRU at epsilon = 1.
    `norm`, `glu` and `dropout` are for learning studies: such a network cannot be mapped to hardware.
    """

    unit: UnitName
    input_size: Size
    model_size: Size
    hidden_size: Size
    num_layers: Annotated[int, Field(ge=1, le=256)]
    num_classes: Size
    skip: bool = True
    pool: Pool = "mean"
    levels: Size | None = None
    rails: Annotated[float, Field(gt=0)] | None = None
    input_dependent_threshold: bool = False
    epsilon: Annotated[float, Field(ge=0, le=1)] = 0.0
    norm: Literal["none", "layer"] = "none"
    glu: bool = False
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _options_fit_the_unit(self) -> Self:
        for option, units in UNITS_WITH_OPTION.items():
            if getattr(self, option) and self.unit not in units:
                raise ValueError(f"{option} belongs to {' and '.join(units)} only, unit is {self.unit}")
        return self

    def unit_options(self) -> dict[str, Any]:
        """The keyword arguments of the unit's cell."""
        return {
            option: getattr(self, option) for option, units in UNITS_WITH_OPTION.items() if self.unit in units
        }
