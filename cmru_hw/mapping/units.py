"""How many unit transistors make a weight of 1, matrix by matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cmru_hw.mapping.config import MappingConfig

if TYPE_CHECKING:
    from cmru_hw.nn.network_config import NetworkConfig


def on_integrator(config: NetworkConfig, choices: MappingConfig) -> bool:
    """Whether the state is a current on an integrator."""
    return config.unit == "alpha_cmru" or choices.accumulator == "integrator"


def is_clocked(config: NetworkConfig, choices: MappingConfig) -> bool:
    """Whether decisions are taken by clocked comparators."""
    return choices.latch == "clocked" or (choices.latch is None and config.unit != "fq_bmru")


def weight_units(config: NetworkConfig, choices: MappingConfig) -> dict[str, int]:
    """By matrix, as "projection": a weight is a whole number of unit transistors over this one.

    It is the number in the diodes of the row that the matrix takes from; behind banks and integrators, whose
    currents are scaled by what their diodes have, it is `units`.
    """
    found = {"projection": choices.row_units("input_pos", choices.units)}
    for layer in range(config.num_layers):
        x = choices.row_units(f"layer{layer}_x", choices.units)
        found |= {f"layers.{layer}.unit.{part}": x for part in ("candidate", "threshold", "amplitude")}
        latch = choices.row_units(f"layer{layer}_latch", choices.units)
        found[f"layers.{layer}.output"] = choices.units if is_clocked(config, choices) else latch
    found["readout"] = choices.row_units("readout_x", choices.units)
    return found
