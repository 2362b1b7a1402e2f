"""Area and supply power of the circuit that a network becomes, differentiable in weights and sizes.

    area  = W L (sum of all unit transistors) + W L of the switches
    power = V_DD I_unit (sum of the currents from the supply, over the unit current)

What each stage has and draws is as in its primitive: a diode, a copy where the other polarity is taken, |w| D
transistors for a weight read from a row of D, two for a bias and its reference; a node draws its positive
contributions, a latch min(c + I_width bit, I_thresh) + I_width bit + output. For FQ-BMRUs on 9T latches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cmru_hw.errors import ConfigError
from cmru_hw.training.chips import Sizes
from cmru_hw.training.circuit import Sums
from cmru_hw.training.hardware import Hardware, Parameters

SWITCHES = 2  # of a latch, M3 and M6


class Cost:
    """Of a network's circuit. Raises ConfigError for a circuit that it has no model of."""

    def __init__(self, hardware: Hardware) -> None:
        unit = hardware.network.config.unit
        if unit != "fq_bmru":
            raise ConfigError(f"optimize: network.unit: power is modelled for fq_bmru alone, not for {unit}")
        self.hardware, self.circuit = hardware, hardware.circuit
        self._row = {name: k for k, name in enumerate(self.circuit.rows)}

    def area(self, parameters: Parameters, sizes: Sizes) -> Tensor:
        """m^2; that of `Design.area` where sizes are whole."""
        card, rows = self.hardware.technology, self.circuit.rows
        gains, bias = self._quiet(parameters, sizes)
        diodes = {name: sizes.diode[k] for name, k in self._row.items()}
        units = torch.stack([(rows[name].size * diode) for name, diode in diodes.items()]).sum()
        for name, copied in self._copied(gains).items():
            units = units + 2 * diodes[name] * copied.sum()
        for name, sums in self.circuit.sums.items():
            for source, _, gain in self._blocks(sums, gains[name]):
                whole = sizes.diode if sums.tensor is None else sizes.weight
                units = units + whole[self._row[source]] * gain.abs().sum()
        units = units + 2 * sizes.bias * sum((value != 0).sum() for value in bias.values())
        cells = sum(part.area_um2 * part.shape[0] for part in self.circuit.parts if part.cell)
        latches = self.circuit.layers * self.hardware.network.config.hidden_size
        switches = SWITCHES * latches * card.switch.w_um * card.switch.l_um
        um2 = units * card.unit.w_um * card.unit.l_um + cells * sizes.latch + switches
        return 1e-12 * sizes.area * um2

    def power(
        self, parameters: Parameters, sizes: Sizes, unit_current: Tensor, x: Tensor, lengths: Tensor
    ) -> Tensor:
        """W at the technology's supply, mean over inputs x [B, T, I] and each one's valid frames."""
        hardware = self.hardware
        deviates = sizes.diode.new_zeros(1, hardware.mismatch.count)
        chips = hardware.draw(parameters, deviates, sizes)
        values, _, states = hardware.rows(x, parameters, chips)
        values = {name: value[0] for name, value in values.items()}
        gains, bias = ({k: v[0] for k, v in one.items()} for one in (chips.gains, chips.bias))
        drawn = values["input_pos"].sum(1) + values["input_neg"].sum(1)
        for name, copied in self._copied(gains).items():
            drawn = drawn + values[name] @ copied
        for name, sums in self.circuit.sums.items():
            for source, _, gain in self._blocks(sums, gains[name]):
                positive = gain.relu()
                drawn = drawn + values[source] @ (positive if positive.ndim == 1 else positive.sum(0))
            if name in bias:
                drawn = drawn + bias[name].relu().sum() + bias[name].abs().sum()
        for layer, state in enumerate(states):
            high, low = hardware.latch_thresholds(layer, parameters, chips)
            unit, bit = f"layers.{layer}.unit", state.flatten(0, 1)
            threshold = hardware.programmed_threshold(high[0])
            width = (threshold - low[0]).relu()
            c = values[f"layer{layer}_candidate"]
            drawn = drawn + (torch.minimum(c + width * bit, threshold) + width * bit).sum(1)
            drawn = drawn + values[f"layer{layer}_latch"].sum(1)
            drawn = drawn + (threshold + width + parameters[f"{unit}.gain"]).sum()
        each = drawn.view(*x.shape[:2])
        valid = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        mean = ((each * valid).sum(1) / valid.sum(1)).mean()
        return hardware.technology.supply * unit_current * mean

    def _quiet(self, parameters: Parameters, sizes: Sizes) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Gains and biases without mismatch, by sum."""
        deviates = sizes.diode.new_zeros(1, self.hardware.mismatch.count)
        chips = self.hardware.draw(parameters, deviates, sizes)
        return {k: v[0] for k, v in chips.gains.items()}, {k: v[0] for k, v in chips.bias.items()}

    def _blocks(self, sums: Sums, gains: Tensor) -> list[tuple[str, str, Tensor]]:
        """(source, row, gains [out, in], or [size] where 1:1) of a sum."""
        if sums.tensor is None:
            return [(source, sums.rows[0], gain) for source, gain in zip(sums.sources, gains, strict=True)]
        found = []
        for row, lines in zip(sums.rows, gains.chunk(len(sums.rows), dim=0), strict=True):
            parts = lines.split([self.circuit.rows[source].size for source in sums.sources], dim=1)
            found += [(source, row, part) for source, part in zip(sums.sources, parts, strict=True)]
        return found

    def _copied(self, gains: dict[str, Tensor]) -> dict[str, Tensor]:
        """1 by element of a row that something takes at the other polarity."""
        rows = self.circuit.rows
        found = {name: torch.zeros(row.size) for name, row in rows.items()}
        for name, sums in self.circuit.sums.items():
            for source, row, gain in self._blocks(sums, gains[name].detach()):
                is_p = (gain > 0) != (rows[row].polarity == "p")
                other = (gain != 0) & (is_p != (rows[source].polarity == "p"))
                taken = other if other.ndim == 1 else other.any(dim=0)
                found[source] = torch.maximum(found[source].to(gain), taken.to(gain))
        return found
