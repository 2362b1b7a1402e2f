"""What benches of clocked memories share: inputs, comparators and memory cells on one clock, in ngspice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, Generic, Self, TypeVar

import numpy as np
from PySpice.Spice.Netlist import Circuit

from cmru_hw.design import Stage
from cmru_hw.errors import SimulationError
from cmru_hw.primitives.clock import BankClock, clock_net
from cmru_hw.primitives.comparator import WindowComparator
from cmru_hw.primitives.device import Array, DeviceArray, Shifts, Units, draw_shifts
from cmru_hw.primitives.integrator import Integrator
from cmru_hw.primitives.latch_bank import LatchBank
from cmru_hw.primitives.mirror import Input
from cmru_hw.primitives.signal import devices_of
from cmru_hw.spice.job import LATCH, STRICT, Job, Tolerances, Transient
from cmru_hw.spice.netlist import (
    RAILS,
    ammeters,
    assemble,
    clock_drives,
    clock_phases,
    corners,
    includes,
    initial_voltages,
    rails,
    supplies,
    waveform,
)
from cmru_hw.spice.ngspice import run_many
from cmru_hw.spice.rawfile import RawData
from cmru_hw.spice.simulate import LONGEST_STEP
from cmru_hw.technology import Technology

CLOCK = "clock"
RAMP = 5e-5  # s, in which inputs move
SECONDS_A_FRAME = 10.0  # time limit, for each cell


@dataclass(frozen=True, eq=False, kw_only=True)
class Run:
    """What a bench did. Power in W for each cell, by block, averaged over all frames but the first."""

    state: Array  # at the frames' ends, [steps, cells]
    expected: Array
    decisions: Array  # up less down at the frames' ends, [steps, cells]
    power: dict[str, float]
    data: RawData


R = TypeVar("R", bound=Run)


@dataclass(frozen=True, eq=False, kw_only=True)
class Bench(ABC, Generic[R]):
    """`cells` memories side by side on one clock, each with a random sequence of its own. SI units.

    The technology's supply is the bench's. `rows` overrides the random `inputs`. `shifts` [cells] (V) as
    `draw` gives them: one mismatched chip a cell.
    """

    steps_a_frame: ClassVar[int]  # at least; clock edges add theirs
    agreed: ClassVar[float]  # states no further apart are the same
    technology: Technology
    cells: int = 1
    steps: int
    seed: int = 0
    period: float
    temperature: float | None = None  # degrees Celsius; None: the technology's
    beta: float = 3e-10
    shifts: Shifts = field(default_factory=dict)
    rows: tuple[Array, Array] | None = None
    tolerances: Tolerances = LATCH
    power_up: bool = True  # start every node from 0 V; False: from the operating point

    @property
    @abstractmethod
    def driven(self) -> dict[str, Array]:
        """Input currents (A) by stage, [steps, cells]; among them `positive` and `negative`."""

    @property
    @abstractmethod
    def memory(self) -> LatchBank | Integrator:
        """The stage to look at."""

    @abstractmethod
    def expected(self) -> Array:
        """States at the frames' ends, [steps, cells]."""

    @abstractmethod
    def read(self, data: RawData) -> R:
        """A finished run."""

    def moves(self, random: np.random.Generator, held: float) -> Array:
        """Random moves in -1, 0, 1, a share of them 0, [steps, cells]."""
        # Long runs of one direction, so that both ends of a wide range are reached.
        drift = np.repeat(random.uniform(-0.8, 0.8, (self.steps // 12 + 1, self.cells)), 12, axis=0)
        shape = (self.steps, self.cells)
        return np.where(
            random.random(shape) < held, 0.0, np.sign(drift[: self.steps] + random.uniform(-1, 1, shape))
        )

    def diode_units(self, name: str) -> int:
        """Of an input stage."""
        return self.technology.latch_units

    @property
    def uncopied(self) -> Units:
        """Zeros, [cells]."""
        return np.zeros(self.cells, dtype=np.int64)

    @cached_property
    def comparator(self) -> WindowComparator:
        """The comparators."""
        return WindowComparator(
            name="comparator", polarity="p", diode_units=self.technology.latch_units, copied=self.uncopied,
            positive="positive", negative="negative", i_threshold=np.full(self.cells, self.beta), clock=CLOCK,
        )  # fmt: skip

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """Inputs as in `driven`, the comparators and the memory."""
        inputs = (
            Input(name=name, polarity="p", diode_units=self.diode_units(name), copied=self.uncopied)
            for name in self.driven
        )
        return (*inputs, self.comparator, self.memory)

    @property
    def signals(self) -> dict[str, Stage]:
        """Stages by name."""
        return {stage.name: stage for stage in self.stages}

    @property
    def supply(self) -> float:
        """V."""
        return self.technology.supply

    @property
    def clock(self) -> BankClock:
        """The one layer's clock."""
        return BankClock.for_layer(self.period, copying=isinstance(self.memory, Integrator))

    @property
    def clocks(self) -> dict[str, BankClock]:
        """The clock by name."""
        return {CLOCK: self.clock}

    @cached_property
    def starts(self) -> Array:
        """Starts of the frames and the end of the last, s."""
        return np.asarray(self.period * np.arange(len(self.driven["positive"]) + 1), dtype=np.float64)

    def devices(self) -> dict[str, DeviceArray]:
        """Every transistor by `{stage}.{part}`."""
        return devices_of(self.stages, self.technology)

    def draw(self, seed: int, scale: float = 1.0) -> dict[str, Array]:
        """Threshold shifts of one mismatched chip a cell (V)."""
        random = np.random.default_rng(seed)
        drawn = draw_shifts(self.devices(), self.technology, [random], scale)
        return {name: array[0] for name, array in drawn.items()}

    def mismatched(self, seed: int, scale: float = 1.0) -> Self:
        """The same bench with every cell a chip of its own."""
        return replace(self, shifts=self.draw(seed, scale))

    @property
    def title(self) -> str:
        """What the deck is called."""
        return f"{self.memory.name}, {self.cells} cells, {self.supply:g} V, {self.period:g} s"

    def circuit(self) -> Circuit:
        """The deck's circuit: stages, sources and clock as in a design."""
        return assemble(self, self.title, self._currents, self.starts, self.shifts, {})

    @cached_property
    def _currents(self) -> dict[str, list[Array]]:
        return {
            name: [waveform(column, self.starts[:-1], RAMP) for column in values.T]
            for name, values in self.driven.items()
        }

    def job(self) -> Job:
        """The bench as one run."""
        kept = [*self.memory.state_vectors(), *ammeters(self.memory), *self._decided()]
        return Job(
            title=self.title,
            netlist=str(self.circuit()),
            analysis=Transient(
                stop=float(self.starts[-1]),
                max_step=min(self.period / self.steps_a_frame, LONGEST_STEP),
                print_step=self.period / 50,
                uic=self.power_up,
                corners=tuple(corners(self, self._currents, self.starts).tolist()),
            ),
            save=tuple(dict.fromkeys([*kept, *supplies(self), *clock_drives(self)])),
            tolerances=self.tolerances,
            initial={} if self.power_up else initial_voltages(self),
            temperature=self.technology.temperature_celsius if self.temperature is None else self.temperature,
            files=includes(self),
            time_limit=60.0 + SECONDS_A_FRAME * (len(self.starts) - 1) * self.cells,
        )

    def _decided(self) -> list[str]:
        return [f"v({net})" for net in self.comparator.decisions()]

    def at_ends(self, data: RawData, vectors: list[str]) -> Array:
        """Vectors at the frames' ends, [steps, vectors]."""
        # The next frame's inputs move from its start on, so read just before.
        sampled = data.sample(self.starts[1:] - 1e-6 * self.period, vectors)
        return np.stack([sampled[name] for name in vectors], axis=-1)

    def decisions(self, data: RawData) -> Array:
        """Up less down at the frames' ends, [steps, cells]."""
        said = self.at_ends(data, self._decided()).reshape(-1, self.cells, 2) > self.supply / 2
        return said[..., 0].astype(np.float64) - said[..., 1]

    def power(self, data: RawData) -> dict[str, float]:
        """By block. A clock driver's power is the charge it delivers times the supply: none is recovered."""
        inside = data.time >= self.starts[1] if len(self.starts) > 2 else data.time >= 0
        time = data.time[inside]

        def watts(vector: str, least: float = -np.inf) -> float:
            drawn = np.maximum(-data[vector][inside], least)
            return float(np.trapezoid(drawn, time) * self.supply / ((time[-1] - time[0]) * self.cells))

        sources = [f"{stage.name}{RAILS[net]}" for stage in self.stages for net in rails(stage)]
        power = {name: watts(f"i(v{name})") for name in sources}
        for clock, phase in clock_phases(self):
            power[phase] = watts(f"i(v{clock_net(clock, phase)})", 0.0)
        power["output"] = -sum(watts(meter) for meter in ammeters(self.memory))
        power[self.memory.name] -= power["output"]
        return power

    def run(self) -> R:
        """In ngspice."""
        return run_benches([self])[0]

    def run_twice(
        self, sets: tuple[Tolerances, Tolerances] = (LATCH, STRICT), workers: int | None = None
    ) -> R:
        """The run with the second of two tolerance sets. Raises SimulationError where they disagree."""
        return self.agreed_run(*run_benches([replace(self, tolerances=each) for each in sets], workers))

    def agreed_run(self, first: R, second: R) -> R:
        """The second of two runs of the bench. Raises SimulationError where they disagree."""
        apart = ~(np.abs(first.state - second.state) <= self.agreed)
        if apart.any():
            at = frame, cell = tuple(np.argwhere(apart)[0])
            raise SimulationError(
                f"{self.memory.name} bench: the two tolerance sets disagree in {apart.sum()} states, first "
                f"in frame {frame}, cell {cell}: {first.state[at]:g} and {second.state[at]:g}"
            )
        return second


def run_benches(
    benches: Iterable[Bench[R]],
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[R]:
    """Benches in ngspice, as many at a time as there are workers."""
    listed = list(benches)
    results = run_many((bench.job() for bench in listed), workers, progress)
    return [bench.read(data) for bench, data in zip(listed, results, strict=True)]
