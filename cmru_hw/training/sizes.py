"""Sizes that train with the weights: logarithms of the unit transistor's area, of the units of every row, of
latches and biases, and of the unit current.

Their gradients come by reparameterisation: mismatch is a sigma that follows from the sizes times normal
deviates that do not, rounding a uniform error of one unit, and area and power are functions of them (`cost`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cmru_hw.training.chips import Sizes
from cmru_hw.training.hardware import Hardware
from cmru_hw.training.quantization import round_to_units

Range = tuple[float, float]


@dataclass(frozen=True)
class Bounds:
    """Smallest and largest: unit transistors of a row, area of one over the card's, A of a model unit."""

    units: Range
    unit_area: Range
    unit_current: Range


class TrainableSizes(nn.Module):
    """Sizes around those that a circuit of FQ-BMRUs was planned with, which they start from.

    Rows whose difference a matrix takes have one number of units. The rows of candidates have as many as the
    latches' currents.
    """

    def __init__(self, hardware: Hardware, bounds: Bounds) -> None:
        super().__init__()
        self.hardware, self.bounds = hardware, bounds
        rows, planned, card = hardware.circuit.rows, hardware.planned, hardware.technology
        free = [name for name, row in rows.items() if row.free]
        self.groups = _tied(free, [sums.sources for sums in hardware.circuit.sums.values() if sums.tensor])
        starts = [math.log(rows[group[0]].diode) for group in self.groups]
        like = hardware.sizes.diode
        self.log_units = nn.Parameter(like.new_tensor(starts))
        self.log_latch = nn.Parameter(like.new_tensor(math.log(card.latch_units)))
        self.log_bias = nn.Parameter(like.new_tensor(math.log(planned.bias_units)))
        self.log_area = nn.Parameter(like.new_tensor(math.log(card.unit_area)))
        self.log_current = nn.Parameter(like.new_tensor(math.log(planned.unit_current)))
        of = {name: k for k, group in enumerate(self.groups) for name in group}
        # Behind the groups' numbers, that of latches: rows that are not free follow it.
        self._index = torch.tensor([of.get(name, len(self.groups)) for name in rows])
        self.project_()

    @torch.no_grad()
    def project_(self) -> None:
        """Back into the bounds."""
        for parameter, (low, high) in (
            (self.log_units, self.bounds.units),
            (self.log_latch, self.bounds.units),
            (self.log_bias, self.bounds.units),
            (self.log_area, self.bounds.unit_area),
            (self.log_current, self.bounds.unit_current),
        ):
            parameter.clamp_(math.log(low), math.log(high))

    @torch.no_grad()
    def round_(self) -> None:
        """To whole units, and to three digits of area and current."""
        for parameter in (self.log_units, self.log_latch, self.log_bias):
            parameter.copy_(parameter.exp().round().clamp(min=1).log())
        for parameter, (low, high) in (
            (self.log_area, self.bounds.unit_area),
            (self.log_current, self.bounds.unit_current),
        ):
            value = min(max(float(f"{parameter.exp().item():.3g}"), low), high)
            parameter.copy_(torch.tensor(math.log(value)))

    def sizes(self) -> Sizes:
        """What mismatch and area follow from."""
        card = self.hardware.technology
        latch = self.log_latch.exp()
        diode = torch.cat([self.log_units.exp(), latch[None]])[self._index]
        return Sizes(
            area=self.log_area.exp() / card.unit_area, diode=diode, weight=diode, bias=self.log_bias.exp(),
            latch=latch / card.latch_units,
        )  # fmt: skip

    @torch.no_grad()
    def bake(self, network: nn.Module, max_ratio: float) -> None:
        """Matrix weights to whole units within the largest ratio, once units are whole; in place."""
        for name, units in self.grid().items():
            weight = network.get_parameter(f"{name}.weight")
            weight.copy_(round_to_units(weight, units, max_ratio))

    @property
    def unit_current(self) -> Tensor:
        """A of a model unit."""
        return self.log_current.exp()

    def mapping(self) -> dict[str, Any]:
        """The keys of the mapping that build these sizes, once they are round."""
        units = [round(math.exp(value)) for value in self.log_units.tolist()]
        return {
            "unit_area": float(f"{self.log_area.exp().item():.3g}"),
            "unit_current": float(f"{self.log_current.exp().item():.3g}"),
            "latch_units": round(self.log_latch.exp().item()),
            "bias_units": round(self.log_bias.exp().item()),
            "rows": {name: n for group, n in zip(self.groups, units, strict=True) for name in group},
        }

    def grid(self) -> Mapping[str, int]:
        """By matrix, the units that make a weight of 1, once they are whole."""
        rows = self.mapping()["rows"]
        return {
            sums.tensor: rows[sums.sources[0]] for sums in self.hardware.circuit.sums.values() if sums.tensor
        }


def _tied(names: list[str], together: list[tuple[str, ...]]) -> list[list[str]]:
    """The names in groups: those in one of `together` are in one."""
    groups = [[name] for name in names]
    for tie in together:
        joined = [group for group in groups if set(group) & set(tie)]
        groups = [group for group in groups if group not in joined]
        groups.append([name for group in joined for name in group])
    return sorted(groups, key=lambda group: names.index(group[0]))
