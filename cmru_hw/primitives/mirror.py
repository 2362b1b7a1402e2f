"""Current mirrors: weighted sums, ReLU and bias, and the input diodes that feed them.

A row of summing nodes computes, in current and for every output j,

    I_j = relu( sum_i (k_ji / D) I_i + b_j ),        k whole, D the unit transistors of the input's diode.

The diode at the node is the ReLU: it carries what pull-up and pull-down leave over, in one direction
only. A `p` node (pMOS diode) is pulled down by nMOS transistors for positive contributions and pushed up
by pMOS ones for negative contributions; an `n` node the other way round. A contribution of the polarity
that its source does not offer comes through a copy (one more mirror). Weights are whole numbers of the
unit transistor in parallel, because scaling W does not scale a subthreshold current.
Mismatch: a transistor's current is off by exp(-dV_T / (n U_T)).
Source: T. Delbruck and A. van Schaik, "Bias current generators with wide dynamic range", 2005, for unit
transistors in subthreshold mirrors; the ReLU node was measured in ngspice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numba import njit

from cmru_hw.primitives.device import Array, DeviceArray, Shifts, Units, strength
from cmru_hw.primitives.signal import (
    Frame,
    Load,
    Signal,
    copy_gate,
    gate,
    over_batch,
    rail,
    reference_current,
    shift,
    transistor,
)
from cmru_hw.technology import Polarity, Technology

if TYPE_CHECKING:
    from PySpice.Spice.Netlist import SubCircuit


@dataclass(frozen=True, eq=False, kw_only=True)
class Input(Signal):
    """Currents from outside, pushed by ideal sources into nMOS diodes (`n`) or drawn from pMOS ones (`p`)."""

    kind: ClassVar[str] = "input"

    def devices(self, technology: Technology) -> dict[str, DeviceArray]:
        """Every transistor of the stage by part."""
        return self.signal_devices(technology)

    def supply_current(self, value: Array) -> Array:
        """Current from the supply (A): the sources and the copies."""
        return (value * (1 + self.copied)).sum(-1)

    @property
    def bias_current(self) -> float:
        """Current of the reference branches (A)."""
        return 0.0

    def advance(self, frame: Frame, currents: None) -> None:
        """Its value is given."""
        frame.drawn[self.name] = self.supply_current(frame.values[self.name])

    def subcircuit(self, signals: Mapping[str, Signal], shifts: Shifts, technology: Technology) -> SubCircuit:
        """The input diodes as a SPICE cell."""
        from PySpice.Spice.Netlist import SubCircuit

        cell = SubCircuit(self.name, "vdd", "vbias", *self.ports())
        self.draw_signal(cell, shifts, technology)
        return cell


@dataclass(frozen=True, eq=False)
class Term:
    """Contributions of one source: `units` [out, in], whole, signed; `trained`, the weights they are."""

    source: str
    units: Units
    trained: Array


@dataclass(frozen=True, eq=False, kw_only=True)
class Mirror(Signal):
    """A row of summing nodes with ReLU diodes. `bias` in A, signed; each bias has a reference of its own."""

    kind: ClassVar[str] = "mirror"
    terms: tuple[Term, ...]
    bias: Array
    bias_units: int
    read: bool = False

    @property
    def measured(self) -> bool:
        return self.read

    def taken(self) -> list[tuple[str, int]]:
        """Sources and the size that each must have."""
        return [(term.source, term.units.shape[1]) for term in self.terms]

    def loads(self, signals: Mapping[str, Signal], technology: Technology) -> Iterator[Load]:
        """A column of each matrix on each element of its source, and of each polarity."""
        for term in self.terms:
            source = signals[term.source]
            for positive in (True, False):
                columns = np.maximum(term.units if positive else -term.units, 0).sum(axis=0)
                for i in np.flatnonzero(columns):
                    net = self._gate_of(source, int(i), positive)
                    yield Load(term.source, net, self.transistor_polarity(positive), int(columns[i]))

    def transistor_polarity(self, positive: bool) -> Polarity:
        """Polarity of the transistor that makes a positive (negative) contribution at this node."""
        return self.other if positive else self.polarity

    def devices(self, technology: Technology) -> dict[str, DeviceArray]:
        """Every transistor of the stage by part; a matrix is two arrays, one a polarity."""
        parts = self.signal_devices(technology)
        for term in self.terms:
            for positive in (True, False):
                units = np.maximum(term.units if positive else -term.units, 0)
                parts[self.part(term, positive)] = DeviceArray(
                    self.transistor_polarity(positive), units, technology.unit
                )
        for positive in (True, False):
            units = np.where(self.bias > 0 if positive else self.bias < 0, self.bias_units, 0)
            for part in ("bias", "bias_reference"):
                name = f"{part}_{_SIGN[positive]}"
                parts[name] = DeviceArray(self.transistor_polarity(positive), units, technology.unit)
        return parts

    @staticmethod
    def part(term: Term, positive: bool) -> str:
        """Name of the transistors that make a term's positive (negative) contributions."""
        return f"from_{term.source}_{_SIGN[positive]}"

    def currents(
        self, signals: Mapping[str, Signal], shifts: Shifts, technology: Technology
    ) -> dict[tuple[str, bool], Array]:
        """What a chip's mismatch makes of the nodes: gains and bias currents, all >= 0.

        {(source, positive): gains [..., out, in], ("bias", positive): A [..., out]}.
        """
        found = {}
        for positive in (True, False):
            polarity, sign = self.transistor_polarity(positive), _SIGN[positive]
            for term in self.terms:
                units = np.maximum(term.units if positive else -term.units, 0)
                if units.any():
                    gain = (
                        units * signals[term.source].gain_per_unit(polarity, shifts, technology)[..., None, :]
                    )
                    if shifts:
                        part = shifts[f"{self.name}.{self.part(term, positive)}"]
                        gain = gain * strength(part, polarity, technology)
                    found[term.source, positive] = gain
            bias = np.maximum(self.bias if positive else -self.bias, 0.0)
            bias = technology.mirrored(polarity, bias, self.bias_units)
            if shifts:
                bias = bias * strength(shifts[f"{self.name}.bias_{sign}"], polarity, technology)
                bias = bias / strength(shifts[f"{self.name}.bias_reference_{sign}"], polarity, technology)
            found["bias", positive] = bias
        return found

    def step(
        self,
        drives: Mapping[tuple[str, Polarity], Array],
        currents: Mapping[tuple[str, bool], Array],
        supply: float,
        technology: Technology,
    ) -> tuple[Array, Array]:
        """The nodes' currents and their positive contributions alone (A), [..., batch, out].

        Where the node settles, at V of its diode, what arrives less what is taken is what the diode carries:
        sum+ f(V_DD - V) - sum- f(V) = I_diode(V), with f the output curves. A node whose sums cancel is not
        off: f of the side that takes falls first.
        """
        sums = {}
        for positive in (True, False):
            polarity = self.transistor_polarity(positive)
            total = over_batch(currents["bias", positive])
            for term in self.terms:
                if (term.source, positive) in currents:
                    gains = np.swapaxes(currents[term.source, positive], -1, -2)
                    total = total + drives[term.source, polarity] @ gains
            sums[positive] = total
        shape = np.broadcast_shapes(sums[True].shape, sums[False].shape)
        plus, minus = (np.ascontiguousarray(np.broadcast_to(sums[sign], shape)) for sign in (True, False))
        value, raised = settle(
            plus.ravel(), minus.ravel(), self.diode_units,
            technology.slope_factor.of(self.polarity) * technology.thermal_voltage,
            technology.gate_voltage_at_1na.of(self.polarity), supply,
            *(technology.curve(p) for p in (self.polarity, self.other, self.polarity)),
        )  # fmt: skip
        return value.reshape(shape), raised.reshape(shape)

    def supply_current(self, value: Array, positive: Array) -> Array:
        """Current from the supply (A). Kirchhoff: a node takes from it just its positive contributions."""
        return positive.sum(-1) + (value * self.copied).sum(-1)

    def advance(self, frame: Frame, currents: Mapping[tuple[str, bool], Array]) -> None:
        """The sums of this frame."""
        technology = frame.technology
        value, positive = self.step(frame.drives, currents, technology.supply, technology)
        frame.values[self.name] = value
        frame.drawn[self.name] = self.supply_current(value, positive)

    @property
    def bias_current(self) -> float:
        """Current of the reference branches (A)."""
        return float(np.abs(self.bias).sum())

    def subcircuit(self, signals: Mapping[str, Signal], shifts: Shifts, technology: Technology) -> SubCircuit:
        """The nodes as a SPICE cell; a comment a node gives the trained values."""
        from PySpice.Spice.Netlist import SubCircuit

        taken = dict.fromkeys(
            self._gate_of(signals[term.source], i, bool(units > 0))
            for term in self.terms
            for (_, i), units in np.ndenumerate(term.units)
            if units
        )
        cell = SubCircuit(self.name, "vdd", "vbias", *self.ports(), *taken)
        cell.raw_spice = self._comments()
        self.draw_signal(cell, shifts, technology)
        for term in self.terms:
            for (j, i), units in np.ndenumerate(term.units):
                if units:
                    positive = bool(units > 0)
                    polarity = self.transistor_polarity(positive)
                    transistor(
                        cell, f"{j}_from_{term.source}_{i}", polarity, gate(self.name, j),
                        self._gate_of(signals[term.source], i, positive), rail(polarity), abs(int(units)),
                        shift(shifts, f"{self.name}.{self.part(term, positive)}", (j, i)), technology,
                    )  # fmt: skip
        for j in np.flatnonzero(self.bias):
            self._draw_bias(cell, int(j), shifts, technology)
        return cell

    def _draw_bias(self, cell: SubCircuit, j: int, shifts: Shifts, technology: Technology) -> None:
        positive = bool(self.bias[j] > 0)
        polarity, sign, net = self.transistor_polarity(positive), _SIGN[positive], f"bias_{j}"
        reference_current(cell, net, net, polarity, float(abs(self.bias[j])))
        for name, drain, part in (("reference", net, "bias_reference"), ("bias", gate(self.name, j), "bias")):
            transistor(
                cell, f"{name}_{j}", polarity, drain, net, rail(polarity, bias=part == "bias_reference"),
                self.bias_units, shift(shifts, f"{self.name}.{part}_{sign}", j), technology,
            )  # fmt: skip

    def _gate_of(self, signal: Signal, i: int, positive: bool) -> str:
        native = self.transistor_polarity(positive) == signal.polarity
        return gate(signal.name, i) if native else copy_gate(signal.name, i)

    def _comments(self) -> str:
        lines = []
        for j in range(self.size):
            parts = [
                f"{term.trained[j, i]:+.6g} {term.source}[{i}]"
                for term in self.terms
                for i in np.flatnonzero(term.units[j])
            ]
            lines.append(f"* {gate(self.name, j)} = relu({' '.join(parts)}), bias {self.bias[j]:+.4g} A\n")
        return "".join(lines)


_SIGN = {True: "positive", False: "negative"}


FLAT = 0.12  # V, from which on an output curve rises by less than 0.4 in 1 V


@njit(cache=True, inline="always")
def _on_curve(curve: Array, volts: float) -> tuple[float, float]:
    """A curve on a grid of 1 mV, and its slope (1/V)."""
    at = volts * 1e3
    k = min(int(at), len(curve) - 2)
    rise = curve[k + 1] - curve[k]
    return curve[k] + (at - k) * rise, rise * 1e3


@njit(cache=True, nogil=True)
def settle(
    plus: Array, minus: Array, units: int, slope: float, volts_at_1na: float, supply: float,
    diode_curve: Array, plus_curve: Array, minus_curve: Array,
) -> tuple[Array, Array]:  # fmt: skip
    """Currents (A) of diodes at nodes, [n], by Newton's method kept within a shrinking bracket; and what
    arrives there.

    `plus` and `minus` are what is mirrored into and out of a node where the curves are 1, `slope` is n U_T.
    """
    value, arriving = np.empty_like(plus), np.empty_like(plus)
    for k in range(len(plus)):
        low, high = 0.0, supply
        ideal = plus[k] - minus[k]
        if ideal > 0.03 * plus[k]:
            volts = min(max(volts_at_1na + slope * np.log(ideal / (units * 1e-9)), 0.0), supply)
            if ideal > 0.2 * plus[k] and volts > FLAT:  # the currents say it all, and hardly change with V
                arriving[k] = plus[k] * _on_curve(plus_curve, supply - volts)[0]
                value[k] = arriving[k] - minus[k] * _on_curve(minus_curve, volts)[0]
                continue
        else:  # what takes falls to what arrives, and leaves the diode next to nothing
            volts = 1e-3 * np.searchsorted(minus_curve[:150], plus[k] / max(minus[k], 1e-15))
        for _ in range(60):
            over, over_slope = _on_curve(plus_curve, supply - volts)
            under, under_slope = _on_curve(minus_curve, volts)
            own, own_slope = _on_curve(diode_curve, volts)
            gate = units * 1e-9 * np.exp((volts - volts_at_1na) / slope)
            error = plus[k] * over - minus[k] * under - gate * own
            rises = gate * (own / slope + own_slope)
            falls = plus[k] * over_slope + minus[k] * under_slope
            step = error / (rises + falls)
            if error > 0:
                low = volts
            else:
                high = volts
            following = volts + step
            if not low <= following <= high:
                following = 0.5 * (low + high)
            if abs(following - volts) < 1e-5:
                break
            volts = following
        value[k] = max(gate * own + step * rises, 0.0)
        arriving[k] = plus[k] * over
    return value, arriving
