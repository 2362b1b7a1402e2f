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
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from cmru_hw.primitives.branch_noise import Spectrum, reference_noise, shot
from cmru_hw.primitives.device import Array, DeviceArray, Shifts, Units, strength
from cmru_hw.primitives.node import arrive, mirrored, settle, summed
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
        return np.asarray(value @ (1.0 + self.copied))

    @property
    def bias_current(self) -> float:
        """Current of the reference branches (A)."""
        return 0.0

    def advance(self, frame: Frame, currents: None) -> None:
        """Its value is given."""
        if frame.metered:
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

    def elements(self, first: int, last: int) -> Self:
        """Elements `first` to `last` - 1 of the row, as a row."""
        terms = (Term(one.source, one.units[first:last], one.trained[first:last]) for one in self.terms)
        return replace(super().elements(first, last), terms=tuple(terms))

    def taken(self) -> list[tuple[str, int]]:
        """Sources and the size that each must have."""
        return [(term.source, term.units.shape[1]) for term in self.terms]

    def mirrors(self) -> Iterator[tuple[str, Polarity]]:
        """Rows and polarities of the gates that its transistors are on."""
        for term in self.terms:
            for positive in (True, False):
                if (term.units > 0 if positive else term.units < 0).any():
                    yield term.source, self.transistor_polarity(positive)

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
            bias = mirrored(technology, polarity, bias, self.bias_units)
            if shifts:
                bias = bias * strength(shifts[f"{self.name}.bias_{sign}"], polarity, technology)
                bias = bias / strength(shifts[f"{self.name}.bias_reference_{sign}"], polarity, technology)
            found["bias", positive] = bias
        return found

    def _sums(
        self, drives: Mapping[tuple[str, Polarity], Array], currents: Mapping[tuple[str, bool], Array]
    ) -> dict[bool, Array]:
        """What is mirrored into (True) and out of (False) the nodes where the output curves are 1 (A)."""
        sums = {}
        for positive in (True, False):
            polarity = self.transistor_polarity(positive)
            terms = [
                (drives[term.source, polarity], currents[term.source, positive])
                for term in self.terms
                if (term.source, positive) in currents
            ]
            sums[positive] = summed(currents["bias", positive], terms)
        return sums

    def _nodes(
        self, sums: Mapping[bool, Array], technology: Technology
    ) -> tuple[Technology, Polarity, Array, Array, int]:
        return technology, self.polarity, sums[True], sums[False], self.diode_units

    def noise_sources(
        self, frame: Frame, currents: Mapping[tuple[str, bool], Array]
    ) -> tuple[Array | float, Spectrum | None, Array | float]:
        """Every mirror's own noise, a bias's reference, and what the sources' gates bring with them."""
        technology, sums = frame.technology, self._sums(frame.drives, currents)
        value, arriving = (of(*self._nodes(sums, technology)) for of in (settle, arrive))
        made = shot(arriving, self.other, technology) + shot(arriving - value, self.polarity, technology)
        arrives = Spectrum(np.zeros(self.size), np.zeros(self.size))
        for positive in (True, False):
            polarity = self.transistor_polarity(positive)
            bias, units = over_batch(currents["bias", positive]), self.bias_units
            arrives = arrives.plus(reference_noise(bias, polarity, units, units, technology))
            for term in self.terms:
                if (term.source, positive) in currents:
                    gains = np.swapaxes(currents[term.source, positive], -1, -2) ** 2
                    each = Spectrum(*(part @ gains for part in frame.noise[term.source, polarity]))
                    arrives = arrives.plus(each)
        volts = technology.gate_voltage(self.polarity, value / self.diode_units)
        step = 5e-3  # V
        falls = [
            (technology.saturation(polarity, at + step) - technology.saturation(polarity, at - step)) * total
            for polarity, at, total in (
                (self.polarity, volts, sums[False]),
                (self.other, technology.supply - volts, sums[True]),
            )
        ]
        return made, arrives, (falls[0] + falls[1]) / (2 * step)

    def drains(self, technology: Technology) -> Array | float:
        """Of every mirror and bias."""
        total = np.zeros(self.size)
        for positive in (True, False):
            units = np.where(self.bias > 0 if positive else self.bias < 0, self.bias_units, 0)
            for term in self.terms:
                units = units + np.maximum(term.units if positive else -term.units, 0).sum(axis=1)
            total += units * technology.drain_capacitance.of(self.transistor_polarity(positive))
        return total

    def supply_current(self, value: Array, positive: Array) -> Array:
        """Current from the supply (A). Kirchhoff: a node takes from it just its positive contributions."""
        return positive @ np.ones(self.size) + value @ self.copied.astype(float)

    def advance(self, frame: Frame, currents: Mapping[tuple[str, bool], Array]) -> None:
        """The sums of this frame.

        A node whose sums cancel is not off: where it settles, the side that takes has left saturation.
        """
        sums = self._sums(frame.drives, currents)
        frame.values[self.name] = value = settle(*self._nodes(sums, frame.technology))
        if frame.metered:
            arriving = arrive(*self._nodes(sums, frame.technology))
            frame.drawn[self.name] = self.supply_current(value, arriving)

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
