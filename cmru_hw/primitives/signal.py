"""What every stage of a design is: a row of currents that others mirror, and its place in a frame."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np

from cmru_hw.primitives.branch_noise import Spectrum, conductance, shot
from cmru_hw.primitives.device import Array, DeviceArray, Shifts, Units, strength
from cmru_hw.primitives.node import copied, mirrored
from cmru_hw.technology import Polarity, Technology

if TYPE_CHECKING:
    from PySpice.Spice.Netlist import SubCircuit

    from cmru_hw.primitives.clock import BankClock


@dataclass(frozen=True, eq=False, kw_only=True)
class Frame:
    """One frame of a behavioural run, filled by the stages in signal order; [..., batch, size] each.

    `values` are currents (A) at the diodes, `states` what stages hold at the frame's end, `before` what they
    held at its start; `drawn`, where `metered`, currents (A) from the supply without reference branches.
    `noise` is that of diodes and copies, `capacitances` those of their nodes (F).
    """

    technology: Technology
    clocks: Mapping[str, BankClock]
    before: Mapping[str, Array]
    values: dict[str, Array]
    metered: bool = True
    capacitances: Mapping[str, tuple[Array, Array]] = field(default_factory=dict)
    noise: dict[tuple[str, Polarity], Spectrum] = field(default_factory=dict)
    states: dict[str, Array] = field(default_factory=dict)
    drawn: dict[str, Array] = field(default_factory=dict)
    drives: dict[tuple[str, Polarity], Array] = field(default_factory=dict)


class Load(NamedTuple):
    """Unit transistors of a stage whose gates are on a net of another's."""

    source: str
    net: str
    polarity: Polarity
    units: int


def gate(source: str, index: int) -> str:
    """Net that carries element `index` of a signal, at the polarity of its diode."""
    return f"{source}_{index}"


def copy_gate(source: str, index: int) -> str:
    """Net of the same signal at the other polarity."""
    return f"{source}_{index}_copy"


def source_net(name: str, index: int) -> str:
    """Source terminal of a measured diode; an ammeter ties it to its supply."""
    return f"{name}_{index}_source"


@dataclass(frozen=True, eq=False, kw_only=True)
class Signal(ABC):
    """What can be mirrored: `size` currents, each in a diode of `diode_units` transistors of `polarity`."""

    kind: ClassVar[str]
    cell_file: ClassVar[str | None] = None  # in circuits/, what its SPICE cell includes
    has_logic: ClassVar[bool] = False  # whether its SPICE cell has a rail `vlogic`
    name: str
    polarity: Polarity
    diode_units: int
    copied: Units  # 1 where a copy of the other polarity is needed, else 0; shape [size]

    @property
    def size(self) -> int:
        return len(self.copied)

    @property
    def other(self) -> Polarity:
        return "n" if self.polarity == "p" else "p"

    def elements(self, first: int, last: int) -> Self:
        """Elements `first` to `last` - 1 of the row, as a row."""
        values = ((each.name, getattr(self, each.name)) for each in fields(self))
        cut: dict[str, Any] = {name: v[first:last] for name, v in values if isinstance(v, np.ndarray)}
        return replace(self, **cut)

    def signal_devices(self, technology: Technology) -> dict[str, DeviceArray]:
        """The diode and, where needed, the copying transistor and its diode."""
        diode = np.full(self.size, self.diode_units, dtype=np.int64)
        copy = diode * self.copied
        return {
            "diode": DeviceArray(self.polarity, diode, technology.unit),
            "copy": DeviceArray(self.polarity, copy, technology.unit),
            "copy_diode": DeviceArray(self.other, copy, technology.unit),
        }

    def gain_per_unit(self, polarity: Polarity, shifts: Shifts, technology: Technology) -> Array:
        """Current of one nominal unit transistor of `polarity`, relative to the signal; [..., size]."""
        gain = np.asarray(
            1.0 / (self.diode_units * self._strength("diode", self.polarity, shifts, technology))
        )
        if polarity != self.polarity:
            gain = gain * self._strength("copy", self.polarity, shifts, technology)
            gain = gain / self._strength("copy_diode", self.other, shifts, technology)
        return gain

    def drive(self, value: Array, polarity: Polarity, technology: Technology) -> Array:
        """Current (A) that as many transistors as the diode has, on this signal's gates of a polarity, would
        carry where their output curve is 1.
        """
        carried = mirrored if polarity == self.polarity else copied
        return carried(technology, self.polarity, value, self.diode_units)

    def fluctuate(self, frame: Frame, currents: Any) -> None:
        """Fill in the noise of its diodes and copies, of a frame that the stage has been taken through."""
        technology, value = frame.technology, frame.values[self.name]
        node, copy = frame.capacitances[self.name]
        made, arrives, sink = self.noise_sources(frame, currents)
        own = conductance(value, self.polarity, technology)
        bandwidth = (own + sink) / (4 * node)
        white = Spectrum.white(made + shot(value, self.polarity, technology), bandwidth)
        if arrives is not None:
            white = white.plus(arrives.through(bandwidth))
        found = white.times(own / np.maximum(own + sink, 1e-30))
        frame.noise[self.name, self.polarity] = found
        if self.copied.any():
            bandwidth = conductance(value, self.other, technology) / (4 * copy)
            made = shot(value, self.polarity, technology) + shot(value, self.other, technology)
            both = Spectrum.white(made, bandwidth).plus(found.through(bandwidth))
            frame.noise[self.name, self.other] = both

    def noise_sources(
        self, frame: Frame, currents: Any
    ) -> tuple[Array | float, Spectrum | None, Array | float]:
        """At its diodes: density (A^2/Hz) of the branches besides them, noise of other stages that arrives,
        and the conductance (S) of what is out of saturation.
        """
        return 0.0, None, 0.0

    def drains(self, technology: Technology) -> Array | float:
        """Capacitance (F) at its diodes of transistors that end there."""
        return 0.0

    def nets(self) -> list[tuple[str, str]]:
        """Nets of its diodes and of its copies' diodes."""
        return [(gate(self.name, j), copy_gate(self.name, j)) for j in range(self.size)]

    def _strength(self, part: str, polarity: Polarity, shifts: Shifts, technology: Technology) -> Array:
        ones = np.ones(self.size)
        return ones * strength(shifts[f"{self.name}.{part}"], polarity, technology) if shifts else ones

    def draw_signal(
        self, cell: SubCircuit, shifts: Shifts, technology: Technology, diode: bool = True
    ) -> None:
        """Add the diode (unless the cell has its own) and the copies to a SPICE cell."""
        for j in range(self.size):
            if diode:
                at = source_net(self.name, j) if self.measured else rail(self.polarity)
                transistor(
                    cell, f"diode_{j}", self.polarity, gate(self.name, j), gate(self.name, j), at,
                    self.diode_units, shift(shifts, f"{self.name}.diode", j), technology,
                )  # fmt: skip
            if self.copied[j]:
                transistor(
                    cell, f"copy_{j}", self.polarity, copy_gate(self.name, j), gate(self.name, j),
                    rail(self.polarity), self.diode_units, shift(shifts, f"{self.name}.copy", j), technology,
                )  # fmt: skip
                transistor(
                    cell, f"copy_diode_{j}", self.other, copy_gate(self.name, j), copy_gate(self.name, j),
                    rail(self.other), self.diode_units, shift(shifts, f"{self.name}.copy_diode", j),
                    technology,
                )  # fmt: skip

    @property
    def measured(self) -> bool:
        """Whether the diode's current is read, through an ammeter at its source terminal."""
        return False

    def ports(self) -> list[str]:
        """Nets this signal offers to others, and its ammeters."""
        nets = [gate(self.name, j) for j in range(self.size)]
        nets += [copy_gate(self.name, j) for j in range(self.size) if self.copied[j]]
        if self.measured:
            nets += [source_net(self.name, j) for j in range(self.size)]
        return nets

    @abstractmethod
    def devices(self, technology: Technology) -> dict[str, DeviceArray]:
        """Every transistor of the stage by part."""

    def taken(self) -> list[tuple[str, int]]:
        """Stages it takes from and the size that each must have."""
        return []

    def mirrors(self) -> Iterator[tuple[str, Polarity]]:
        """Rows and polarities of the gates whose currents it multiplies, as `Frame.drives` has them."""
        return iter(())

    def loads(self, signals: Mapping[str, Signal], technology: Technology) -> Iterator[Load]:
        """Gates that it puts on the nets of rows of currents before it."""
        return iter(())

    def currents(self, signals: Mapping[str, Signal], shifts: Shifts, technology: Technology) -> Any:
        """What a chip's mismatch makes of the stage; handed back to `advance`."""
        return None

    @abstractmethod
    def advance(self, frame: Frame, currents: Any) -> None:
        """Take the stage through a frame: its value, its state if it holds one, if metered what it draws."""

    @property
    @abstractmethod
    def bias_current(self) -> float:
        """Current of the reference branches (A)."""

    def start(self, currents: Any = None) -> Array | None:
        """What it (a chip, with its currents) holds before the first frame, [..., size]; or None."""
        return None

    def clock_nets(self) -> list[str]:
        """Clock phases it takes, as nets."""
        return []

    def clock_current(self, frame_period: float, supply: float, technology: Technology) -> float:
        """Current (A) that the clock's drivers take from the supply for the row."""
        return 0.0

    def initial_voltages(self, supply: float) -> dict[str, float]:
        """Node voltages (V) that a simulation starts from."""
        return {}

    @abstractmethod
    def subcircuit(self, signals: Mapping[str, Signal], shifts: Shifts, technology: Technology) -> SubCircuit:
        """The stage as a SPICE cell."""


def block_of(stage: str) -> str:
    """Part of the network a stage belongs to: input, projection, layer0, ..., readout."""
    return stage.partition("_")[0]


def chosen_units(rows: Mapping[str, int], row: str, default: int) -> int:
    """Unit transistors of a row: its own in `rows`, else its block's, else the default."""
    return rows.get(row, rows.get(block_of(row), default))


def devices_of(stages: Iterable[Signal], technology: Technology) -> dict[str, DeviceArray]:
    """Every transistor of some stages, as `{stage}.{part}`."""
    return {
        f"{stage.name}.{part}": array for stage in stages for part, array in stage.devices(technology).items()
    }


def node_capacitances(
    signals: Mapping[str, Signal], technology: Technology
) -> dict[str, tuple[Array, Array]]:
    """By stage, F at its diodes and at the diodes of its copies, [size] each."""
    found: dict[str, tuple[Array, Array]] = {}
    nets: dict[str, float] = {}
    for stage in signals.values():
        for load in stage.loads(signals, technology):
            per_unit = technology.gate_capacitance.of(load.polarity)
            nets[load.net] = nets.get(load.net, 0.0) + load.units * per_unit
    for stage in signals.values():
        diode = stage.diode_units * technology.diode_capacitance.of(stage.polarity)
        copy = stage.diode_units * technology.diode_capacitance.of(stage.other)
        copied_gate = stage.copied * stage.diode_units * technology.gate_capacitance.of(stage.polarity)
        drains = stage.drains(technology)
        copied_drain = stage.diode_units * technology.drain_capacitance.of(stage.polarity)
        loads = np.array([[nets.get(net, 0.0) for net in nets_of] for nets_of in stage.nets()])
        found[stage.name] = (
            diode + copied_gate + drains + loads[:, 0],
            copy + copied_drain + loads[:, 1],
        )
    return found


class Decider(Signal):
    """A stage that compares a layer's candidates with their thresholds."""

    @property
    @abstractmethod
    def threshold_row(self) -> str | None:
        """The row whose currents are the thresholds, None if they are constant."""

    @abstractmethod
    def candidate_noise(self, frame: Frame, currents: Any) -> Array:
        """Variance (A^2) of the candidates as they are decided on, [..., size]."""

    @property
    @abstractmethod
    def shaken(self) -> str:
        """The row whose currents stand for the candidates' noise."""

    @abstractmethod
    def candidate_rows(self) -> list[str]:
        """Rows that its candidate and threshold are made of."""

    @abstractmethod
    def candidates(self, values: Mapping[str, Array]) -> Array:
        """The candidates in A, from the currents of `candidate_rows`."""

    @abstractmethod
    def thresholds(self, currents: Any, values: Mapping[str, Array]) -> tuple[Array, Array]:
        """Upper and lower threshold in A of the candidate, [..., size]."""


class Memory(Signal):
    """A stage that holds the state of a layer."""

    dtype: ClassVar[type[np.generic]] = np.int8  # of states in a result

    @property
    def whole(self) -> bool:
        """Whether states are whole numbers."""
        return np.issubdtype(self.dtype, np.integer)

    @property
    def unit(self) -> float:
        """What a state of 1 in a result is here."""
        return 1.0

    @property
    def resolution(self) -> float:
        """States of a result closer than this are one state."""
        return 0.5

    @abstractmethod
    def start(self, currents: Any = None) -> Array:
        """The initial state, [size]."""

    def check_measured(self, technology: Technology) -> None:
        """Raises an error where the technology was not characterised for the stage."""

    @property
    def absent(self) -> float:
        """What stands in a result for the state past an input's end."""
        return self.lowest - 1

    @property
    @abstractmethod
    def lowest(self) -> float:
        """The lowest state."""

    @property
    @abstractmethod
    def extremes(self) -> Array:
        """The lowest and the highest state of each cell, [2, size]."""

    @staticmethod
    def held(state: Array, currents: Any) -> Array:
        """States [..., batch, size] but of cells that are stuck, at `currents["stuck"]`; NaN: free."""
        if currents is None or "stuck" not in currents:
            return state
        stuck = over_batch(currents["stuck"])
        return np.where(np.isnan(stuck), state, stuck)

    @property
    @abstractmethod
    def counts(self) -> bool:
        """Whether the state adds up what happened, rather than tell what happened last."""

    @property
    @abstractmethod
    def decider(self) -> str:
        """The stage whose decisions move it."""

    @abstractmethod
    def step(self, state: Array, decision: Array) -> Array:
        """The states after a frame; decisions in -1, 0, 1."""

    @abstractmethod
    def state_vectors(self) -> list[str]:
        """What a simulator saves to know the state."""

    @abstractmethod
    def read_state(self, vectors: Array, supply: float) -> Array:
        """The states of a result, [..., size], from the saved vectors, [..., len(state_vectors)]."""


def rail(polarity: Polarity, bias: bool = False) -> str:
    """Supply net at the source terminal of a transistor; reference branches have one of their own."""
    if polarity == "n":
        return "0"
    return "vbias" if bias else "vdd"


def shift(shifts: Shifts, part: str, index: int | tuple[int, ...]) -> float:
    """Threshold shift of one transistor, for the netlist."""
    return float(shifts[part][index]) if shifts else 0.0


def reference_current(cell: SubCircuit, name: str, net: str, polarity: Polarity, amperes: float) -> None:
    """An ideal bias current from `vbias` into an nMOS diode at `net`, or from a pMOS one to ground."""
    cell.I(name, *(("vbias", net) if polarity == "n" else (net, "0")), repr(amperes))


def transistor(
    cell: SubCircuit, name: str, polarity: Polarity, drain: str, gate_net: str, source: str,
    units: int, dvt: float, technology: Technology, switch: bool = False,
) -> None:  # fmt: skip
    """Add `units` unit transistors (or the latch's switch) in parallel; bulk at the supply rail."""
    size = technology.switch if switch else technology.unit
    parameters = {"W": f"{size.w_um:g}u", "L": f"{size.l_um:g}u", "M": units}
    if dvt:
        parameters["dvt"] = repr(dvt)
    bulk = "0" if polarity == "n" else "vdd"
    cell.X(name, f"{polarity}fet", drain, gate_net, source, bulk, **parameters)


def over_batch(parameter: Array) -> Array:
    """A parameter [size] or [chips, size], lined up with values [..., batch, size]."""
    return parameter[..., None, :] if parameter.ndim > 1 else parameter
