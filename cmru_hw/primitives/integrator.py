"""Current integrator: a current copied back and forth between two transistors, the state of an alphaCMRU.

    I' = clip(I + a up - a down, I_low, I_high),  a >= 0 a row of currents or a constant;    output = I
    h = I - I_middle,   I_middle = 4/3 rails,  I_low = I_middle - rails,  I_high = I_middle + rails

Transistor X1 carries I as long as its gate is held. A frame without a decision switches nothing. With one,
X2, a diode until the strobe p1, has tracked what X1 sinks, plus or minus a; for as long as p1 is high X2 is
held and X1 is the diode that takes the new current over. A copied current depends on no threshold, no
capacitance, no temperature and not on the length of the strobe, so a packet is a current, equal to a as far
as the mirrors of a are equal, and up and down packets differ only by these mirrors. Both gates rest near half
the supply: then X1 and X2 see the same drain voltage in both phases, and the charges of the two switches undo
each other. What is left of both is the error of a copy, `Copying.error`.
Rails: two ReLU nodes compute what a step would pass a rail by, from the state and a, and take it off again.
Power-up reset: X1, as a diode, takes I_middle while rst is high. The offset I_middle folds into the next
bias. Clock: `BankClock`, phases p1 and rst. 54 transistors; references, the output diode and the comparator
not counted. Two capacitors of 1 pF.
Mismatch: each mirror's current is off by exp(-dV_T / (n U_T)); X1, X2 and the switches do not count.
Source: current copiers, S. J. Daubert, D. Vallancourt and Y. P. Tsividis, Electronics Letters 24(25), 1988;
alphaCMRU, the relaxed variant in arXiv 2605.11855; rails, phases and circuit are ours.
Circuit: `circuits/integrator.sub`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from cmru_hw.config import Strict
from cmru_hw.errors import MappingError
from cmru_hw.primitives.branch_noise import Spectrum, shot
from cmru_hw.primitives.clock import BankClock, clock_net
from cmru_hw.primitives.comparator import WindowComparator
from cmru_hw.primitives.device import Array, DeviceArray, Shifts, strength
from cmru_hw.primitives.signal import (
    Frame,
    Load,
    Memory,
    Signal,
    gate,
    over_batch,
    rail,
    reference_current,
    shift,
    source_net,
    transistor,
)
from cmru_hw.technology import TYPICAL, Geometry, Polarity, Technology

if TYPE_CHECKING:
    from PySpice.Spice.Netlist import SubCircuit

PREFERRED_RAILS = 5e-10
"""A; larger ones cost power and copy less evenly, smaller ones take longer."""
LOW, MIDDLE, HIGH = 2, 8, 14
"""Unit transistors of the reference and of I_low, of I_middle and of I_high."""

_PHASES = "nnpp" * 3 + "np" * 3 + "nnpp" * 2
_ANALOG: dict[str, dict[str, tuple[Polarity, str]]] = {
    "memory": {
        "state": ("n", "memory"),
        "held": ("p", "memory"),
        "copy_switch": ("n", "switch"),
        "track_switch": ("n", "switch"),
        "cut_switch": ("p", "switch"),
        "middle": ("p", "middle"),
        "middle_switch": ("p", "switch"),
        "wake_switch": ("n", "switch"),
        "output": ("n", "memory"),
    },
    "packet": {
        "copy": ("p", "packet"),
        "sink": ("n", "memory"),
        "pull": ("n", "memory"),
        "push": ("p", "packet"),
        "up_switch": ("n", "long"),
        "down_switch": ("n", "way"),
        "up_track_switch": ("n", "long"),
        "down_track_switch": ("n", "way"),
        "wake_switch": ("n", "way"),
        "over": ("p", "memory"),
        "under": ("n", "memory"),
    },
    "rails": {
        "over_state": ("n", "memory"),
        "over_sink": ("n", "memory"),
        "high": ("p", "high"),
        "over": ("p", "memory"),
        "under_state": ("n", "memory"),
        "under_push": ("p", "packet"),
        "low": ("p", "low"),
        "under": ("n", "memory"),
    },
}
"""Transistors X1, X2, ... of the subcircuits by part: polarity and size."""


class Copying(Strict):
    """What the nominal cell makes of packets, measured at one I_middle (A)."""

    middle: float
    up: float  # packet over a
    down: float
    error: list[float]  # of a copy, over I_middle: c0 + c1 x + c2 x^2 with x = h / rails
    start: float  # h / rails after the reset
    low: float  # h / rails at the rails
    high: float


class IntegratorGeometry(Strict):
    """What a technology card says about the integrator, under `cells.integrator`."""

    supply: float  # V
    logic: Geometry
    switch: Geometry  # of the memories: small, for the charge that it leaves
    way: Geometry  # switches of the packets: wide, to pass a whole one at the lower rail
    memory_n: Geometry  # long, so that both memories' gates rest near half the supply
    memory_p: Geometry
    packet_units: int  # unit transistors that mirror the amplitude
    capacitance: float  # F on each memory's gate
    settled: float  # time constants C n U_T / I that a copy takes
    wake_charge: float  # C; over I_middle, how long the reset takes
    celsius: list[float]  # at which `characterize` measures what copies add
    droop: list[list[float]]  # (degrees Celsius, 1/s): how fast a held h goes to `rest`
    rest: float = 0.0  # over I_middle; -1 where the junctions of a switch empty the capacitor
    copying: list[Copying]  # by I_middle, from the smallest that may be built to the largest
    memory_weight: float  # d ln(current) / d ln(strength) of a transistor that carries I
    rail_weight: float  # of a pMOS unit at the rails' currents
    packet_weight: float  # of one at a packet's
    clock: float  # F that the edges of p1 charge every frame
    moved: float  # F that logic charges in a frame with a decision
    leakage: float  # of the logic, in those of an nMOS unit transistor


def integrator_geometry(technology: Technology) -> IntegratorGeometry:
    """The integrator's part of a card. Raises MappingError where the technology has none."""
    return technology.cell("integrator", IntegratorGeometry)


def rails_range(technology: Technology) -> tuple[float, float]:
    """Smallest and largest rails (A) at which the cell was measured."""
    middles = [each.middle for each in integrator_geometry(technology).copying]
    ratio = (HIGH - LOW) / (2 * MIDDLE)
    return (1 - 1e-9) * ratio * middles[0], (1 + 1e-9) * ratio * middles[-1]


def settling_rails(clock: BankClock, technology: Technology) -> float:
    """The smallest rails (A) with which a copy at the lower rail fits into the strobe."""
    geometry = integrator_geometry(technology)
    slope = technology.slope_factor.n * technology.thermal_voltage
    return geometry.settled * geometry.capacitance * slope / clock.strobe * (HIGH - LOW) / (2 * LOW)


def output_units(
    rails: float, unit_current: float, units: int, clock: BankClock, technology: Technology
) -> int:
    """D, the unit transistors in an output diode whose gates make a weight of 1 with `units` of them.

    The state's currents are a share D / units of the model's, so that its `rails` (in `unit_current`, A) lie
    where the cell was measured, as near to `PREFERRED_RAILS` as can be. Raises MappingError if they cannot.
    """
    per_unit = integrator_geometry(technology).packet_units * units
    smallest, largest = rails_range(technology)
    smallest = max(smallest, settling_rails(clock, technology))
    full = rails * unit_current / units  # rails (A) for one unit in the diode
    fits = [
        count
        for count in range(1, per_unit + 1)
        if per_unit % count == 0 and smallest <= full * count <= largest
    ]
    if not fits:
        raise MappingError(
            f"rails of {rails:g} at {unit_current:g} A a unit: no number of unit transistors brings them "
            f"within {smallest:.3g} and {largest:.3g} A, which its circuit and clock need; change rails, "
            "unit_current or frame_period"
        )
    return min(fits, key=lambda count: abs(np.log(full * count / PREFERRED_RAILS)))


@dataclass(frozen=True, eq=False, kw_only=True)
class Integrator(Memory):
    """A row of integrators, moved by the `comparator` stage. `rails` in A, [size]: h in -rails .. rails.

    `amplitude_signal` names a row of pMOS diodes that carries a; where there is none, `i_packet` is a in A,
    [size], else it is 0. The state is h in A: the output current less the nominal `i_middle`. In a result it
    is in units of `state_current` (A).
    """

    kind: ClassVar[str] = "integrator"
    cell_file: ClassVar[str] = "integrator.sub"
    has_logic: ClassVar[bool] = True
    dtype: ClassVar[type[np.generic]] = np.float64
    comparator: str
    amplitude_signal: str | None = None
    i_packet: Array
    rails: Array
    clock: str
    state_current: float = 1.0

    def __post_init__(self) -> None:
        if self.polarity != "p":
            raise MappingError(f"{self.name}: an integrator's output is a pMOS diode")
        if (wrong := ~(self.rails > 0)).any():
            j = int(np.argmax(wrong))
            raise MappingError(f"{self.name}: unit {j}: rails must be > 0, got {self.rails[j]:g} A")
        wrong = self.i_packet != 0 if self.amplitude_signal else ~(self.i_packet > 0)
        if wrong.any():
            j = int(np.argmax(wrong))
            rule = f"0, as {self.amplitude_signal} sets it" if self.amplitude_signal else "> 0"
            raise MappingError(f"{self.name}: unit {j}: packet must be {rule}, got {self.i_packet[j]:g} A")
        self.check_amplitude(self.i_packet)

    @property
    def measured(self) -> bool:
        """Always: the output tells the state."""
        return True

    @property
    def lowest(self) -> float:
        return -float(self.rails.max())

    @property
    def extremes(self) -> Array:
        return np.stack([-self.rails, self.rails])

    @property
    def absent(self) -> float:
        return float("nan")

    @property
    def counts(self) -> bool:
        return True

    @property
    def decider(self) -> str:
        return self.comparator

    def taken(self) -> list[tuple[str, int]]:
        """The comparators and the amplitudes."""
        rows = [self.comparator, *([self.amplitude_signal] if self.amplitude_signal else [])]
        return [(name, self.size) for name in rows]

    def loads(self, signals: Mapping[str, Signal], technology: Technology) -> Iterator[Load]:
        """The amplitude's mirrors: two of the packets, one of the rails."""
        if self.amplitude_signal:
            units = 3 * integrator_geometry(technology).packet_units
            for j in range(self.size):
                yield Load(self.amplitude_signal, gate(self.amplitude_signal, j), "p", units)

    def start(self, currents: Mapping[str, Array] | None = None) -> Array:
        """h = 0; of chips what the reset makes of it."""
        return np.zeros(self.size) if currents is None else self.woken(currents)

    @property
    def unit(self) -> float:
        return self.state_current

    @property
    def resolution(self) -> float:
        """2 % of the rails."""
        return 0.02 * float(self.rails.min()) / self.state_current

    @property
    def i_reference(self) -> Array:
        """Current of the reference branches (A), which is I_low."""
        return self.rails * (2 * LOW / (HIGH - LOW))

    @property
    def i_middle(self) -> Array:
        """Current (A) of h = 0, nominal."""
        return self.rails * (2 * MIDDLE / (HIGH - LOW))

    def check_amplitude(self, largest: Array) -> None:
        """Raises MappingError if a packet of `largest` (A, [size]) is wider than the whole range."""
        if (wrong := largest > 2 * self.rails).any():
            j = int(np.argmax(wrong))
            raise MappingError(
                f"{self.name}: unit {j}: a packet of {largest[j]:.3g} A does not fit between rails "
                f"{2 * self.rails[j]:.3g} A apart"
            )

    def check_measured(self, technology: Technology) -> None:
        """Raises MappingError for rails, a supply, a corner or a size at which the cell was not measured."""
        geometry = integrator_geometry(technology)
        if technology.corner != TYPICAL:
            raise MappingError(f"{self.name}: was not measured at corner {technology.corner}")
        if technology.unit_area != 1:
            raise MappingError(
                f"{self.name}: integrators were measured with unit transistors of unit_area 1, "
                f"not {technology.unit_area:g}"
            )
        if abs(technology.supply / geometry.supply - 1) > 0.01:
            raise MappingError(
                f"{self.name}: measured at {geometry.supply:g} V, but the supply is {technology.supply:g} V"
            )
        celsius = {at for at, _ in geometry.droop}
        if not min(celsius) <= technology.temperature_celsius <= max(celsius):
            raise MappingError(
                f"{self.name}: measured from {min(celsius):g} to {max(celsius):g} C, but the temperature is "
                f"{technology.temperature_celsius:g} C"
            )
        smallest, largest = rails_range(technology)
        if (wrong := (self.rails < smallest) | (self.rails > largest)).any():
            j = int(np.argmax(wrong))
            raise MappingError(
                f"{self.name}: unit {j}: rails must be within {smallest:.3g} and {largest:.3g} A, got "
                f"{self.rails[j]:.3g} A"
            )

    def check_clock(self, clock: BankClock, technology: Technology) -> None:
        """Raises MappingError if copying at the lower rail outlasts the strobe."""
        if (wrong := self.rails < (smallest := settling_rails(clock, technology))).any():
            j = int(np.argmax(wrong))
            raise MappingError(
                f"{self.name}: unit {j}: with rails of {self.rails[j]:.3g} A a copy outlasts the strobe of "
                f"{clock.strobe:.2g} s; rails of {smallest:.3g} A would do"
            )

    def wakes_in(self, technology: Technology) -> Array:
        """How long the reset must last when all nodes start at 0 V (s), [size]."""
        return integrator_geometry(technology).wake_charge / self.i_middle

    def _sized(self, polarity: Polarity, size: str, technology: Technology) -> tuple[int, Geometry]:
        """Units in parallel and geometry of one analog transistor."""
        geometry = integrator_geometry(technology)
        if size == "memory":
            return 1, geometry.memory_n if polarity == "n" else geometry.memory_p
        if size in ("switch", "way", "long"):
            return 1, {"switch": geometry.switch, "way": geometry.way, "long": technology.switch}[size]
        units = {"packet": geometry.packet_units, "low": LOW, "middle": MIDDLE, "high": HIGH}
        return units[size], technology.unit

    def devices(self, technology: Technology) -> dict[str, DeviceArray]:
        """Every transistor by part, [size]."""
        geometry = integrator_geometry(technology)
        one = np.ones(self.size, dtype=np.int64)
        parts = self.signal_devices(technology)
        parts["reference"] = DeviceArray("p", one * LOW, technology.unit)
        if not self.amplitude_signal:
            parts["reference_packet"] = DeviceArray("p", one * geometry.packet_units, technology.unit)
        for number, letter in enumerate(_PHASES, start=1):
            parts[f"phases_{number}"] = DeviceArray("n" if letter == "n" else "p", one, geometry.logic)
        for cell, transistors in _ANALOG.items():
            for part, (polarity, size) in transistors.items():
                units, drawn = self._sized(polarity, size, technology)
                parts[f"{cell}_{part}"] = DeviceArray(polarity, one * units, drawn)
        return parts

    def _copying(self, technology: Technology, key: str) -> Array:
        """A measured property at each unit's I_middle, over its logarithm: [size] or [size, 3]."""
        known = integrator_geometry(technology).copying
        at = np.log([each.middle for each in known])
        values = np.array([getattr(each, key) for each in known], dtype=np.float64)
        middle = np.log(self.i_middle)
        if values.ndim == 1:
            return np.interp(middle, at, values)
        return np.stack([np.interp(middle, at, column) for column in values.T], axis=-1)

    def currents(
        self, signals: Mapping[str, Signal], shifts: Shifts, technology: Technology
    ) -> dict[str, Array]:
        """What a chip's mismatch makes of the cells, [..., size].

        `up`, `down`, `over_packet`, `under_packet`: gain of a, by where it is mirrored to. `over_state`,
        `under_state`: gain of the state. `over`, `under`: of what is taken off at the rails. `start`, `low`,
        `high`: I after the reset and at the rails, A. `read`: output over I. `error`: of a copy, A, nominal,
        [size, 3]. `rest`: what a held I goes to, A, nominal, [size].
        """
        geometry = integrator_geometry(technology)

        def part(name: str, polarity: Polarity, weight: float = 1.0) -> Array:
            if not shifts:
                return np.ones(())
            return strength(shifts[f"{self.name}.{name}"], polarity, technology) ** weight

        def memory(name: str) -> Array:
            return part(name, "n", geometry.memory_weight)

        def packet(name: str) -> Array:
            return part(name, "p", geometry.packet_weight)

        def level(name: str) -> Array:
            return part(name, "p", geometry.rail_weight)

        row: Array = 1.0 / packet("reference_packet") if not self.amplitude_signal else np.ones(())
        if self.amplitude_signal:
            gain = signals[self.amplitude_signal].gain_per_unit("p", shifts, technology)
            nominal = signals[self.amplitude_signal].gain_per_unit("p", {}, technology)
            row = geometry.packet_units * nominal * (gain / nominal) ** geometry.packet_weight
        row = row * np.ones(self.size)
        sunk = row * packet("packet_copy") / part("packet_sink", "n") * self._copying(technology, "up")
        pushed = row * self._copying(technology, "down")
        state, reference = memory("memory_state"), level("reference")
        levels = {
            key: self.i_middle + self.rails * self._copying(technology, key)
            for key in ("start", "low", "high")
        }
        return {
            "up": sunk * part("packet_pull", "n"),
            "down": pushed * packet("packet_push"),
            "over_packet": sunk * part("rails_over_sink", "n"),
            "under_packet": pushed * packet("rails_under_push"),
            "over_state": memory("rails_over_state") / state,
            "under_state": memory("rails_under_state") / state,
            "over": part("packet_over", "p") / part("rails_over", "p"),
            "under": part("packet_under", "n") / part("rails_under", "n"),
            "start": levels["start"] * level("memory_middle") / reference,
            "high": levels["high"] * level("rails_high") / reference,
            "low": levels["low"] * level("rails_low") / reference,
            "read": np.ones(self.size) * memory("memory_output") / state,
            "error": self._copying(technology, "error") * self.i_middle[:, None],
            "rest": self.i_middle * (1 + geometry.rest),
        }

    def woken(self, currents: Mapping[str, Array]) -> Array:
        """The states (A) of chips after the power-up reset, [..., size]."""
        return currents["read"] * currents["start"] - self.i_middle

    def step(self, state: Array, decision: Array, amplitude: Array | None = None) -> Array:
        """The states (A) after a frame of an ideal cell; decision in -1, 0, 1, [..., size].

        `amplitude` is a in A, where it is not `i_packet`.
        """
        a = self.i_packet if amplitude is None else amplitude
        return np.where(decision != 0, np.clip(state + decision * a, -self.rails, self.rails), state)

    def move(
        self, state: Array, decision: Array, currents: Mapping[str, Array], amplitude: Array | None = None,
        kept: float = 1.0,
    ) -> Array:  # fmt: skip
        """The states (A) of chips after a frame; decision in -1, 0, 1 and states [..., batch, size].

        `amplitude` is the row named by `amplitude_signal`, in A at its diodes; `kept` the share of a held h
        that a frame leaves.
        """
        gain = {key: over_batch(value) for key, value in currents.items() if key != "error"}
        a = self.i_packet if amplitude is None else amplitude
        held = gain["rest"] + kept * ((state + self.i_middle) / gain["read"] - gain["rest"])
        over = np.maximum(gain["over_state"] * held + gain["over_packet"] * a - gain["high"], 0.0)
        under = np.maximum(gain["low"] + gain["under_packet"] * a - gain["under_state"] * held, 0.0)
        risen = held + gain["up"] * a - gain["over"] * over
        fallen = held - gain["down"] * a + gain["under"] * under
        moved = np.where(decision > 0, risen, fallen)
        x, error = (moved - self.i_middle) / self.rails, currents["error"]
        moved = moved + error[:, 0] + x * (error[:, 1] + x * error[:, 2])
        return gain["read"] * np.where(decision != 0, moved, held) - self.i_middle

    def noise_sources(
        self, frame: Frame, currents: Mapping[str, Array]
    ) -> tuple[Array | float, Spectrum | None, Array | float]:
        """The output's mirror; its gate is held."""
        return shot(frame.values[self.name], "n", frame.technology), None, 0.0

    def advance(self, frame: Frame, currents: Mapping[str, Array]) -> None:
        """The states after the strobe."""
        technology, clock = frame.technology, frame.clocks[self.clock]
        before, decision = frame.before[self.name], frame.states[self.comparator]
        amplitude = frame.values[self.amplitude_signal] if self.amplitude_signal else None
        kept = self.kept(clock.frame_period, technology)
        state = self.held(self.move(before, decision, currents, amplitude, kept), currents)
        frame.states[self.name], frame.values[self.name] = state, self.output(state)
        if frame.metered:
            packet = None if amplitude is None else over_batch(currents["down"]) * amplitude
            frame.drawn[self.name] = self.supply_current(
                before, state, decision, clock, technology.supply, technology, packet
            )

    def kept(self, frame_period: float, technology: Technology) -> float:
        """Share of what a held h is from its rest that a frame leaves."""
        celsius, rate = np.array(integrator_geometry(technology).droop).T
        log_rate = np.interp(technology.temperature_celsius, celsius, np.log(rate))
        return float(np.exp(-np.exp(log_rate) * frame_period))

    def faded(self, state: Array, currents: Mapping[str, Array], kept: float) -> Array:
        """The states (A) of chips, [..., batch, size], held until `kept` of their way to rest is left."""
        read, rest = over_batch(currents["read"]), currents["rest"]
        return read * (rest + kept * ((state + self.i_middle) / read - rest)) - self.i_middle

    def output(self, state: Array) -> Array:
        """Output current in A of states."""
        return state + self.i_middle

    def state_vectors(self) -> list[str]:
        """The output currents."""
        return [f"i(v{source_net(self.name, j)})" for j in range(self.size)]

    def read_state(self, vectors: Array, supply: float) -> Array:
        """The states."""
        return (vectors - self.i_middle) / self.state_current

    def supply_current(
        self, before: Array, state: Array, decision: Array, clock: BankClock, supply: float,
        technology: Technology, amplitude: Array | None = None,
    ) -> Array:  # fmt: skip
        """Current from the supply (A): output, both memories' branch, rails, packets, logic; not the clock's.

        `amplitude` as it arrives in the cells. I flows in the memories, in one rail's node and in the output,
        I_low and a in the other rail's; a besides in its copy, and while X2 tracks a step up.
        """
        geometry = integrator_geometry(technology)
        a = self.i_packet if amplitude is None else amplitude
        mean = self.i_middle + clock.strobes * before + (1 - clock.strobes) * state
        tracked = 1 - clock.equalised - clock.strobe / clock.frame_period
        flowing = (3 + self.copied) * mean + self.i_reference + a * (3 + tracked * (decision > 0))
        charged = geometry.moved * (decision != 0) * supply / clock.frame_period
        return (flowing + charged + geometry.leakage * technology.leakage.n).sum(-1)

    def clock_current(self, frame_period: float, supply: float, technology: Technology) -> float:
        """Current (A) that the clock's drivers take from the supply for the row."""
        return self.size * integrator_geometry(technology).clock * supply / frame_period

    @property
    def bias_current(self) -> float:
        """Current of the reference branches (A)."""
        return float(self.i_reference.sum() + self.i_packet.sum())

    def stored(self, index: int) -> str:
        """Net that holds the state: the gate of X1."""
        return f"{self.name}_{index}_state"

    def clock_nets(self) -> list[str]:
        """Clock phases it takes, as nets."""
        return [clock_net(self.clock, phase) for phase in ("p1", "rst")]

    def subcircuit(self, signals: Mapping[str, Signal], shifts: Shifts, technology: Technology) -> SubCircuit:
        """The integrators as a SPICE cell; the phases' logic has a supply of its own, `vlogic`."""
        from PySpice.Spice.Netlist import SubCircuit

        moved_by = signals[self.comparator]
        if not isinstance(moved_by, WindowComparator):
            raise MappingError(f"{self.name}: {self.comparator} is not a comparator")
        taken = [*moved_by.decisions(), *self.clock_nets()]
        if self.amplitude_signal:
            row = signals[self.amplitude_signal]
            if row.polarity != "p":
                raise MappingError(f"{self.name}: {self.amplitude_signal} is not a row of pMOS diodes")
            taken += [gate(self.amplitude_signal, j) for j in range(self.size)]
        nets = [self.stored(j) for j in range(self.size)]
        cell = SubCircuit(self.name, "vdd", "vbias", "vlogic", *self.ports(), *nets, *taken)
        cell.raw_spice = "".join(
            f"* {gate(self.name, j)}: {self.i_middle[j]:.5g} A -+ {self.rails[j]:.5g} A, moved by "
            + (f"{self.amplitude_signal}[{j}]\n" if self.amplitude_signal else f"{self.i_packet[j]:.5g} A\n")
            for j in range(self.size)
        )
        self.draw_signal(cell, shifts, technology)
        for j in range(self.size):
            self._draw(cell, j, moved_by, shifts, technology)
        return cell

    def _draw(
        self, cell: SubCircuit, j: int, moved_by: WindowComparator, shifts: Shifts, technology: Technology
    ) -> None:
        geometry = integrator_geometry(technology)
        amplitude = gate(self.amplitude_signal, j) if self.amplitude_signal else f"reference_packet_{j}"
        references = {"reference": (LOW, self.i_reference)}
        if not self.amplitude_signal:
            references["reference_packet"] = (geometry.packet_units, self.i_packet)
        for part, (units, current) in references.items():
            net = f"{part}_{j}"
            reference_current(cell, net, net, "p", float(current[j]))
            transistor(
                cell, net, "p", net, net, rail("p", bias=True), units,
                shift(shifts, f"{self.name}.{part}", j), technology,
            )  # fmt: skip
        p1, rst = self.clock_nets()
        up, down = (moved_by.decision(j, half) for half in ("up", "down"))
        node, sink, over, under, track, copy, wake, wakeb, reference = (
            f"{net}_{j}"
            for net in ("node", "sink", "over", "under", "track", "copy", "wake", "wakeb", "reference")
        )
        placed = {
            "phases": [p1, rst, up, down, track, copy, wake, wakeb, "vlogic"],
            "memory": [self.stored(j), gate(self.name, j), reference, node, track, copy, wake, wakeb, "vdd"],
            "packet": [node, amplitude, sink, over, under, up, down, track, wakeb, "vdd"],
            "rails": [self.stored(j), amplitude, sink, reference, over, under, "vdd"],
        }
        for name, nets in placed.items():
            parameters = self.sizes(name, technology)
            if shifts:
                numbered = [str(k) for k in range(1, len(_PHASES) + 1)]
                parts = list(_ANALOG[name]) if name in _ANALOG else numbered
                for k, part in enumerate(parts, start=1):
                    parameters[f"D{k}"] = repr(shift(shifts, f"{self.name}.{name}_{part}", j))
            cell.X(f"{name}_{j}", f"integrator_{name}", *nets, **parameters)

    @staticmethod
    def sizes(name: str, technology: Technology) -> dict[str, object]:
        """Sizes that the subcircuit `integrator_{name}` takes: W and L in um with a "u", units, F."""
        geometry, unit = integrator_geometry(technology), technology.unit

        def drawn(suffix: str, size: Geometry) -> dict[str, object]:
            return {f"W{suffix}": f"{size.w_um:g}u", f"L{suffix}": f"{size.l_um:g}u"}

        if name == "phases":
            return drawn("", geometry.logic)
        sizes = drawn("", unit) | drawn("1", geometry.memory_n) | drawn("2", geometry.memory_p)
        if name == "memory":
            capacitance = f"{geometry.capacitance:g}"
            return sizes | drawn("S", geometry.switch) | {"UM": MIDDLE, "CS": capacitance, "CT": capacitance}
        sizes |= {"UA": geometry.packet_units}
        if name == "packet":
            return sizes | drawn("S", geometry.way) | drawn("U", technology.switch)
        return sizes | {"UH": HIGH, "UL": LOW}
