"""Bank of 2K clocked latches: a saturating up/down thermometer counter, the state of a CMRU.

    count:  s' = clip(s + up - down, -K, K),   s in -K .. K;        output = (s + K) I_alpha
    sign, the state of a BMRU:     s' = +1 if up, -1 if down, else s;        output = (s + 1) I_alpha
    bit, the state of an FQ-BMRU:  s' = +1 if up, 0 if down, else s;         output = s I_alpha

Unit i of 2K is set while s + K >= i. A unit is two cross-coupled AOI21 gates: `up` sets it if the unit below
is set, `down` resets it if the unit above is not. A parity latch lets only the odd or only the even units
move in a step, so that a step cannot run on through the bank; neighbours drive gates only, and a held state
is static: it neither leaks nor drifts. Each set unit lets one I_alpha flow into the output's pMOS diode. The
offset K I_alpha folds into the next bias. A sign or a bit is one latch and needs no parity: the strobe p1
gates it directly; the output step of a sign is 2 I_alpha.
Clock: `BankClock`. 54 + 34K transistors with the comparator, or 27 for one latch; references and the
output diode not counted.
Source: CMRU, arXiv 2605.11855, and BMRU, arXiv 2601.09495; saturation and circuit are ours.
Circuit: `circuits/latch_bank.sub`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numba import guvectorize

from cmru_hw.config import Strict
from cmru_hw.errors import MappingError
from cmru_hw.primitives.branch_noise import Spectrum, reference_noise, shot
from cmru_hw.primitives.clock import clock_net
from cmru_hw.primitives.comparator import WindowComparator
from cmru_hw.primitives.device import Array, DeviceArray, Shifts, Single, Units, strength
from cmru_hw.primitives.node import mirrored
from cmru_hw.primitives.signal import (
    Frame,
    Memory,
    Signal,
    gate,
    rail,
    reference_current,
    shift,
    transistor,
)
from cmru_hw.technology import Geometry, Polarity, Technology

if TYPE_CHECKING:
    from PySpice.Spice.Netlist import SubCircuit

BANK_UNITS = 4
"""Unit transistors in a bank's output diode: few, so that little current flows for a state."""
_LOGIC = {
    "set_reset": "nnnpppnnnppp",
    "bank_reset": "n",
    "parity_odd": "nn",
    "parity_even": "pp",
    "parity_end": "p",
    "parity_latch": "npnpnnppnp",
    "strobe_and": "nnnpppnp",
}
"""Cells of the subcircuit file by the polarity of their transistors X1, X2, ..."""


class Draw(Strict):
    """What one bank takes from the supply besides its output. A capacitance C stands for an energy C V^2."""

    clock: float  # F that the edges of its clock charge every frame
    held: float  # F that its own logic charges every frame
    decided: float  # F more in a frame with a decision
    moved: float  # F more in a frame whose decision moves the state
    leakage: float  # in those of an nMOS unit transistor
    leakage_a_latch: float


class BankGeometry(Strict):
    """What a technology card says about the bank, under `cells.latch_bank`."""

    logic: Geometry
    switch: Geometry  # of the output steps
    bank: Draw
    single: Draw


def bank_geometry(technology: Technology) -> BankGeometry:
    """The bank's part of a card. Raises MappingError where the technology has none."""
    return technology.cell("latch_bank", BankGeometry)


@guvectorize(
    [f"(float{n}[:], float{n}, float64, float64, float{n}[:])" for n in (32, 64)],
    "(n),(),(),()->()",
    cache=True,
)
def _of_state(outputs: Array, state: float, lowest: float, step: float, found: Array) -> None:
    """What a state, of all from the lowest in equal steps, puts out."""
    count = (state - lowest) / step + 0.5
    if np.isnan(count):
        found[0] = count
    else:
        found[0] = outputs[int(min(max(count, 0.0), len(outputs) - 1.0))]


@dataclass(frozen=True, eq=False, kw_only=True)
class LatchBank(Memory):
    """A row of banks, moved by the `comparator` stage. `i_alpha` in A and `initial_state` in s, [size].

    `holds` says what the state is, `levels` is K of a count and 1 else.
    """

    kind: ClassVar[str] = "latch_bank"
    cell_file: ClassVar[str] = "latch_bank.sub"
    has_logic: ClassVar[bool] = True
    comparator: str
    holds: Literal["count", "sign", "bit"] = "count"
    levels: int = 1
    i_alpha: Array
    initial_state: Units
    clock: str
    read: bool = False

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise MappingError(f"{self.name}: levels must be >= 1, got {self.levels}")
        if self.single and self.levels != 1:
            raise MappingError(f"{self.name}: a {self.holds} has levels = 1, got {self.levels}")
        if (wrong := ~(self.i_alpha > 0)).any():
            j = int(np.argmax(wrong))
            raise MappingError(f"{self.name}: unit {j}: I_alpha must be > 0, got {self.i_alpha[j]:g} A")
        if (wrong := ~np.isin(self.initial_state, self.states)).any():
            j = int(np.argmax(wrong))
            rule = f"one of {', '.join(f'{s:g}' for s in self.states)}"
            raise MappingError(
                f"{self.name}: unit {j}: initial state must be {rule}, got {self.initial_state[j]}"
            )

    @property
    def measured(self) -> bool:
        return self.read

    @property
    def single(self) -> bool:
        """Whether it is one latch."""
        return self.holds != "count"

    @property
    def states(self) -> Array:
        """Every state, by units set."""
        if self.single:
            return np.array([self.lowest, 1.0])
        return np.arange(-self.levels, self.levels + 1.0)

    @property
    def lowest(self) -> float:
        return 0.0 if self.holds == "bit" else float(-self.levels)

    @property
    def extremes(self) -> Array:
        return np.stack([np.full(self.size, self.lowest), np.full(self.size, self.states[-1])])

    @property
    def counts(self) -> bool:
        return self.holds == "count"

    @property
    def decider(self) -> str:
        return self.comparator

    def taken(self) -> list[tuple[str, int]]:
        """The comparators."""
        return [(self.comparator, self.size)]

    def start(self, currents: Any = None) -> Array:
        """The initial states."""
        return self.initial_state.astype(Single)

    def initial_voltages(self, supply: float) -> dict[str, float]:
        """Every unit at the rail of the initial state."""
        starts = self.is_set(self.initial_state)
        return {
            net: supply * float(bit)
            for j in range(self.size)
            for net, bit in zip(self.stored(j), starts[j], strict=True)
        }

    def state_vectors(self) -> list[str]:
        """q of every unit."""
        return [f"v({net})" for j in range(self.size) for net in self.stored(j)]

    def read_state(self, vectors: Array, supply: float) -> Array:
        """The states."""
        units = vectors.reshape(*vectors.shape[:-1], self.size, self.latches)
        return self.state((units > supply / 2).astype(np.float64))

    @property
    def latches(self) -> int:
        """Set-reset units of one bank."""
        return 1 if self.single else 2 * self.levels

    def is_set(self, state: Array | Units) -> Array:
        """Which units are set in a state: [..., size] to [..., size, latches]."""
        count = (state - self.lowest) / self._step
        return (count[..., None] > np.arange(self.latches) + 0.5).astype(np.float64)

    def state(self, units: Array) -> Array:
        """The state s that units 0 or 1 stand for: [..., size, latches] to [..., size]."""
        return self.states[units.sum(axis=-1).astype(np.int64)]

    def _logic(self) -> dict[str, int]:
        """How many of each logic cell a bank has."""
        cells = {"set_reset": self.latches, "bank_reset": self.latches}
        if self.single:
            return cells
        parity = {"parity_odd": self.levels, "parity_even": self.levels - 1, "parity_end": 2}
        return cells | parity | {"parity_latch": 1, "strobe_and": 4}

    def devices(self, technology: Technology) -> dict[str, DeviceArray]:
        """Every transistor by part: a logic cell's are `{cell}_{n}` [size, cells of the bank]."""
        geometry = bank_geometry(technology)
        parts = self.signal_devices(technology)
        for cell, count in self._logic().items():
            one = np.ones((self.size, count), dtype=np.int64)
            for number, letter in enumerate(_LOGIC[cell], start=1):
                polarity: Polarity = "n" if letter == "n" else "p"
                parts[f"{cell}_{number}"] = DeviceArray(polarity, one, geometry.logic)
        steps = np.ones((self.size, self.latches), dtype=np.int64)
        parts["switch"] = DeviceArray("n", steps, geometry.switch)
        parts["alpha"] = DeviceArray("n", steps * self._step_units(technology), technology.unit)
        reference = np.full(self.size, technology.latch_units, dtype=np.int64)
        parts["reference_alpha"] = DeviceArray("n", reference, technology.unit)
        return parts

    def _step_units(self, technology: Technology) -> int:
        return technology.latch_units * int(self._step)

    @property
    def _step(self) -> float:
        """Change of the state with one unit."""
        return float(self.states[1] - self.states[0])

    def currents(
        self, signals: Mapping[str, Signal], shifts: Shifts, technology: Technology
    ) -> dict[str, Array]:
        """What a chip's mismatch makes of the output: `outputs` [..., size, latches + 1] (A) by units set.

        An I_alpha mirror's V_DS is the switch's gate at the supply less its V_GS.
        """
        each = self.i_alpha * self._step
        geometry, unit = bank_geometry(technology), technology.unit
        wider = (geometry.switch.w_um / geometry.switch.l_um) / (unit.w_um / unit.l_um)
        below_switch = technology.supply - technology.gate_voltage("n", each / wider)
        each = mirrored(technology, "n", each, self._step_units(technology))
        each = each * technology.saturation("n", below_switch)
        steps = np.repeat(each[:, None], self.latches, axis=-1)
        if shifts:
            reference = strength(shifts[f"{self.name}.reference_alpha"], "n", technology)
            steps = steps * strength(shifts[f"{self.name}.alpha"], "n", technology) / reference[..., None]
        none = np.zeros((*steps.shape[:-1], 1))
        return {"outputs": np.concatenate([none, np.cumsum(steps, axis=-1)], axis=-1)}

    def step(self, state: Array, decision: Array) -> Array:
        """The states after a frame; decision [..., size] in -1, 0, 1."""
        if self.single:
            return np.where(decision > 0, 1.0, np.where(decision < 0, self.lowest, state))
        return np.clip(state + decision, -self.levels, self.levels)

    def output(self, state: Array, currents: Mapping[str, Array]) -> Array:
        """Output current in A of states [..., batch, size]."""
        outputs = currents["outputs"]
        table = outputs[..., None, :, :] if outputs.ndim > 2 else outputs
        return np.asarray(_of_state(table, state, self.lowest, self._step))

    def noise_sources(
        self, frame: Frame, currents: Mapping[str, Array]
    ) -> tuple[Array | float, Spectrum | None, Array | float]:
        """The steps' mirrors, and all of them the reference's."""
        output, technology = frame.values[self.name], frame.technology
        loads = self.latches * self._step_units(technology)
        reference = reference_noise(self.i_alpha, "n", technology.latch_units, loads, technology)
        return shot(output, "n", technology), reference.times(output / self.i_alpha), 0.0

    def drains(self, technology: Technology) -> Array | float:
        """The steps' switches."""
        width = bank_geometry(technology).switch.w_um / technology.unit.w_um
        return self.latches * width * technology.drain_capacitance.n

    def advance(self, frame: Frame, currents: Mapping[str, Array]) -> None:
        """The states after the strobe."""
        before, decision = frame.before[self.name], frame.states[self.comparator]
        state = self.held(self.step(before, decision), currents)
        output = self.output(state, currents)
        period = frame.clocks[self.clock].frame_period
        frame.states[self.name], frame.values[self.name] = state, output
        if frame.metered:
            frame.drawn[self.name] = self.supply_current(
                before, state, decision, output, period, frame.technology.supply, frame.technology
            )

    def supply_current(
        self, before: Array, state: Array, decision: Array, output: Array, frame_period: float,
        supply: float, technology: Technology,
    ) -> Array:  # fmt: skip
        """Current from the supply (A): the output, what logic and moves charge, leakage; not the clock's."""
        draw = self._draw(technology)
        charged = draw.held + draw.decided * (decision != 0) + draw.moved * (state != before)
        leakage = (draw.leakage + self.latches * draw.leakage_a_latch) * technology.leakage.n
        return (output * (1 + self.copied) + charged * supply / frame_period + leakage).sum(-1)

    def clock_current(self, frame_period: float, supply: float, technology: Technology) -> float:
        """Current (A) that the clock's drivers take from the supply for the row."""
        return self.size * self._draw(technology).clock * supply / frame_period

    def _draw(self, technology: Technology) -> Draw:
        geometry = bank_geometry(technology)
        return geometry.single if self.single else geometry.bank

    @property
    def bias_current(self) -> float:
        """Current of the reference branches (A)."""
        return float(self.i_alpha.sum())

    def stored(self, index: int) -> list[str]:
        """Nets that hold the state: the q of each unit, from the lowest."""
        return [f"{self.name}_{index}_q{i}" for i in range(1, self.latches + 1)]

    def clock_nets(self) -> list[str]:
        """Clock phases it takes, as nets."""
        phases = ("p1", "rst") if self.single else ("ph", "p1", "rst")
        return [clock_net(self.clock, phase) for phase in phases]

    def subcircuit(self, signals: Mapping[str, Signal], shifts: Shifts, technology: Technology) -> SubCircuit:
        """The banks as a SPICE cell; steering and parity have a supply of their own, `vlogic`."""
        from PySpice.Spice.Netlist import SubCircuit

        moved_by = signals[self.comparator]
        if not isinstance(moved_by, WindowComparator):
            raise MappingError(f"{self.name}: {self.comparator} is not a comparator")
        nets = [net for j in range(self.size) for net in self.stored(j)]
        taken = [*moved_by.decisions(), *self.clock_nets()]
        cell = SubCircuit(self.name, "vdd", "vbias", "vlogic", *self.ports(), *nets, *taken)
        cell.raw_spice = "".join(
            f"* {gate(self.name, j)}: I_alpha {self.i_alpha[j]:.5g} A, K {self.levels}, "
            f"starts at {self.initial_state[j]}\n"
            for j in range(self.size)
        )
        self.draw_signal(cell, shifts, technology)
        for j in range(self.size):
            for placed in self._logic_cells(j, moved_by):
                self._place(cell, j, *placed, shifts, technology)
            self._draw_output(cell, j, shifts, technology)
        return cell

    def _logic_cells(self, j: int, moved_by: WindowComparator) -> Iterator[tuple[str, int, list[str]]]:
        """Logic of bank j: (cell, which of them, nets)."""
        up, down = (moved_by.decision(j, half) for half in ("up", "down"))
        p1, rst = (clock_net(self.clock, phase) for phase in ("p1", "rst"))
        q = ["vdd", *self.stored(j), "none"]
        qb = ["none", *(f"{net}b" for net in self.stored(j)), "vdd"]
        starts = self.is_set(self.initial_state)[j]
        for i in range(1, self.latches + 1):
            yield "bank_reset", i - 1, [qb[i] if starts[i - 1] else q[i], rst]
        if self.single:
            yield "set_reset", 0, [p1, p1, q[1], qb[1], up, down, "vdd"]
            return
        par, even, odd, ph = f"parity_{j}", f"even_{j}", f"odd_{j}", clock_net(self.clock, "ph")
        strobes = {
            "up_odd": (up, even), "up_even": (up, odd), "down_odd": (down, odd), "down_even": (down, even)
        }  # fmt: skip
        for number, (strobe, (decision, parity)) in enumerate(strobes.items()):
            yield "strobe_and", number, [p1, decision, parity, f"{strobe}_{j}", "vlogic"]
        yield "parity_latch", 0, [par, even, odd, ph, "vlogic"]
        for i in range(1, self.latches + 1):
            which = "odd" if i % 2 else "even"
            strobed = [f"up_{which}_{j}", f"down_{which}_{j}"]
            yield "set_reset", i - 1, [q[i - 1], qb[i + 1], q[i], qb[i], *strobed, "vdd"]
        yield "parity_end", 0, [par, q[1], "vlogic"]
        yield "parity_end", 1, [par, qb[self.latches], "vlogic"]
        for i in range(1, self.latches):
            if i % 2:
                yield "parity_odd", i // 2, [par, q[i], qb[i + 1]]
            else:
                yield "parity_even", i // 2 - 1, [par, qb[i], q[i + 1], "vlogic"]

    def _place(
        self, cell: SubCircuit, j: int, name: str, number: int, nets: list[str], shifts: Shifts,
        technology: Technology,
    ) -> None:  # fmt: skip
        logic = bank_geometry(technology).logic
        parameters = {"W": f"{logic.w_um:g}u", "L": f"{logic.l_um:g}u"}
        if shifts:
            for k in range(1, len(_LOGIC[name]) + 1):
                parameters[f"D{k}"] = repr(shift(shifts, f"{self.name}.{name}_{k}", (j, number)))
        cell.X(f"{name}_{j}_{number + 1}", name, *nets, **parameters)

    def _draw_output(self, cell: SubCircuit, j: int, shifts: Shifts, technology: Technology) -> None:
        net, unit, switch = f"alpha_{j}", technology.unit, bank_geometry(technology).switch
        reference_current(cell, net, net, "n", float(self.i_alpha[j]))
        transistor(
            cell, f"reference_alpha_{j}", "n", net, net, rail("n"), technology.latch_units,
            shift(shifts, f"{self.name}.reference_alpha", j), technology,
        )  # fmt: skip
        for i, q in enumerate(self.stored(j)):
            parameters: dict[str, object] = {
                "WS": f"{switch.w_um:g}u", "LS": f"{switch.l_um:g}u", "W": f"{unit.w_um:g}u",
                "L": f"{unit.l_um:g}u", "U": self._step_units(technology),
            }  # fmt: skip
            if shifts:
                for k, part in ((1, "switch"), (2, "alpha")):
                    parameters[f"D{k}"] = repr(shift(shifts, f"{self.name}.{part}", (j, i)))
            cell.X(f"step_{j}_{i + 1}", "output_step", gate(self.name, j), q, net, **parameters)
