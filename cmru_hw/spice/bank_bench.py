"""Count with a latch bank in ngspice: random up, down and hold steps against the clipped sum.

>>> run = count(BankBench(technology=load_technology("generic180"), levels=4, steps=60))
>>> run.errors, run.power["comparator"]
(array([0]), 5.6...e-10)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from PySpice.Spice.Netlist import Circuit

from cmru_hw.config import packaged
from cmru_hw.errors import MappingError, SimulationError
from cmru_hw.primitives.clock import PHASES, BankClock, clock_net
from cmru_hw.primitives.comparator import WindowComparator
from cmru_hw.primitives.device import Array, DeviceArray, Shifts, Units
from cmru_hw.primitives.latch_bank import LatchBank
from cmru_hw.primitives.mirror import Input
from cmru_hw.primitives.signal import Signal, gate, source_net
from cmru_hw.spice.job import LATCH, STRICT, Job, Tolerances, Transient
from cmru_hw.spice.netlist import MODELS, RAILS, waveform
from cmru_hw.spice.ngspice import run_many
from cmru_hw.spice.rawfile import RawData
from cmru_hw.spice.simulate import LONGEST_STEP, SOURCE_ABSTOL
from cmru_hw.technology import Technology

CLOCK = "clock"
RAMP = 5e-5  # s, in which inputs move
STEPS_A_FRAME = 8  # at least; clock edges add theirs
SECONDS_A_FRAME = 10.0  # time limit, for each cell


@dataclass(frozen=True, eq=False, kw_only=True)
class BankBench:
    """`cells` banks side by side on one clock, each with a random sequence of its own. SI units.

    `shifts` [cells] (V) as `draw` gives them: one mismatched chip a cell. `rows` overrides the random input
    currents by (P, M), [steps, cells] each, with decisions then taken from them.
    """

    technology: Technology
    levels: int = 4
    single: bool = False
    cells: int = 1
    steps: int = 60
    seed: int = 0
    supply: float = 0.8
    period: float = 1e-3
    temperature: float = 27.0
    beta: float = 3e-10
    margin: float = 5e-11  # A between |P - M| and beta at least
    i_alpha: float = 1e-10
    initial: Units | int | None = None  # [cells] or one for all; None: random
    shifts: Shifts = field(default_factory=dict)
    rows: tuple[Array, Array] | None = None
    tolerances: Tolerances = LATCH
    power_up: bool = True  # start every node from 0 V or random latches; False: from the operating point

    def __post_init__(self) -> None:
        if self.margin >= self.beta:
            raise MappingError(f"bench: margin must be below beta, got {self.margin:g} and {self.beta:g} A")

    @cached_property
    def inputs(self) -> tuple[Array, Array, Array]:
        """P and M in A and the moves they ask for in -1, 0, 1: [steps, cells] each."""
        if self.rows is not None:
            positive, negative = self.rows
            c = positive - negative
            return positive, negative, np.where(np.abs(c) > self.beta, np.sign(c), 0.0)
        random = np.random.default_rng([self.seed, self.levels])
        shape = (self.steps, self.cells)
        # Long runs of one direction, so that both ends of a wide bank are reached.
        drift = np.repeat(random.uniform(-0.8, 0.8, (self.steps // 12 + 1, self.cells)), 12, axis=0)
        moves = np.where(
            random.random(shape) < 0.25, 0.0, np.sign(drift[: self.steps] + random.uniform(-1, 1, shape))
        )
        low = random.uniform(0.05, 0.5, shape) * self.beta
        clear = self.beta + self.margin
        c = np.where(
            moves == 0,
            random.uniform(-1, 1, shape) * (self.beta - self.margin),
            moves * random.uniform(clear, clear + self.beta, shape),
        )
        return np.maximum(c, 0.0) + low, np.maximum(-c, 0.0) + low, moves

    @cached_property
    def stages(self) -> tuple[Input, Input, WindowComparator, LatchBank]:
        """P, M, the comparators and the banks."""
        none, units = np.zeros(self.cells, dtype=np.int64), self.technology.latch_units
        random = np.random.default_rng([self.seed, 7])
        if self.initial is not None:
            start = np.broadcast_to(np.asarray(self.initial, dtype=np.int64), (self.cells,))
        elif self.single:
            start = random.choice(np.array([-1, 1]), self.cells)
        else:
            start = random.integers(-self.levels, self.levels + 1, self.cells)
        positive, negative = (
            Input(name=name, polarity="p", diode_units=units, copied=none)
            for name in ("positive", "negative")
        )
        comparator = WindowComparator(
            name="comparator", polarity="p", diode_units=units, copied=none, positive="positive",
            negative="negative", i_threshold=np.full(self.cells, self.beta), clock=CLOCK,
        )  # fmt: skip
        bank = LatchBank(
            name="bank", polarity="p", diode_units=16, copied=none, comparator="comparator",
            levels=self.levels, holds="sign" if self.single else "count",
            i_alpha=np.full(self.cells, self.i_alpha),
            initial_state=start, clock=CLOCK, read=True,
        )  # fmt: skip
        return positive, negative, comparator, bank

    @property
    def signals(self) -> dict[str, Signal]:
        """Stages by name."""
        return {stage.name: stage for stage in self.stages}

    @property
    def clock(self) -> BankClock:
        """The one layer's clock."""
        return BankClock.for_layer(self.period)

    @property
    def starts(self) -> Array:
        """Starts of the frames and the end of the last, s."""
        return np.asarray(self.period * np.arange(len(self.inputs[2]) + 1), dtype=np.float64)

    def devices(self) -> dict[str, DeviceArray]:
        """Every transistor by `{stage}.{part}`."""
        return {
            f"{stage.name}.{part}": array
            for stage in self.stages
            for part, array in stage.devices(self.technology).items()
        }

    def draw(self, seed: int, scale: float = 1.0) -> dict[str, Array]:
        """Threshold shifts of one mismatched chip a cell (V)."""
        random = np.random.default_rng(seed)
        sigmas = {name: scale * array.sigma_vt(self.technology) for name, array in self.devices().items()}
        return {name: sigma * random.standard_normal(sigma.shape) for name, sigma in sigmas.items()}

    def mismatched(self, seed: int, scale: float = 1.0) -> BankBench:
        """The same bench with every cell a chip of its own."""
        return replace(self, shifts=self.draw(seed, scale))


@dataclass(frozen=True, eq=False)
class BankRun:
    """What a bench counted. Power in W for each cell, by block, averaged over all frames but the first."""

    counted: Array  # s at the frames' ends, [steps, cells]
    expected: Array  # the clipped sum
    output: Array  # A at the frames' ends, [steps, cells]
    units: Array  # node voltages of the latches over the supply, [steps, cells, latches]
    decisions: Array  # up less down at the frames' ends, [steps, cells]
    power: dict[str, float]
    data: RawData

    @property
    def errors(self) -> Units:
        """Frames at whose end the state is not the clipped sum, or a latch is not at a rail: [cells]."""
        undecided = (np.abs(self.units - 0.5) < 0.4).any(axis=-1)
        return ((self.counted != self.expected) | undecided).sum(axis=0)


def expected_states(bench: BankBench) -> Array:
    """The clipped sum of the moves asked for, [steps, cells]."""
    bank = bench.stages[3]
    state, states = bank.initial_state.astype(np.float64), []
    for move in bench.inputs[2]:
        state = bank.step(state, move)
        states.append(state)
    return np.stack(states)


def circuit(bench: BankBench) -> Circuit:
    """The deck's circuit: stages as in a design, with clock sources."""
    made = Circuit(f"latch bank bench, K {bench.levels}")
    made.raw_spice = "".join(f".include {name}\n" for name in _files(bench))
    positive, negative, _, bank = bench.stages
    for stage in bench.stages:
        cell = stage.subcircuit(bench.signals, bench.shifts, bench.technology)
        made.subcircuit(cell)
        nets = [str(node) for node in cell._external_nodes]
        made.X(stage.name, stage.name, *(f"{net}_{stage.name}" if net in RAILS else net for net in nets))
        for rail in (net for net in nets if net in RAILS):
            made.V(f"{stage.name}{RAILS[rail]}", f"{rail}_{stage.name}", made.gnd, bench.supply)
    for j in range(bench.cells):
        made.V(source_net(bank.name, j), f"vdd_{bank.name}", source_net(bank.name, j), 0)
        for row, values in ((positive, bench.inputs[0]), (negative, bench.inputs[1])):
            name, net = f"in_{row.name}_{j}", gate(row.name, j)
            points = [(float(t), float(a)) for t, a in waveform(values[:, j], bench.starts[:-1], RAMP)]
            if len(points) == 1:
                made.I(name, net, made.gnd, repr(points[0][1]))
            else:
                made.PieceWiseLinearCurrentSource(name, net, made.gnd, values=points)
    for phase in _phases(bench):
        points = [(float(t), float(v)) for t, v in bench.clock.waveform(phase, bench.starts, bench.supply)]
        made.PieceWiseLinearVoltageSource(
            f"{CLOCK}_{phase}", clock_net(CLOCK, phase), made.gnd, values=points
        )
    return made


def _phases(bench: BankBench) -> list[str]:
    taken = {clock_net(CLOCK, "pe"), *bench.stages[3].clock_nets()}
    return [phase for phase in PHASES if clock_net(CLOCK, phase) in taken]


def _files(bench: BankBench) -> dict[str, str]:
    cells = {
        name: packaged("circuits", name).read_text("utf-8")
        for name in (WindowComparator.cell_file, LatchBank.cell_file)
    }
    return {MODELS: bench.technology.model_text, **cells}


def job(bench: BankBench) -> Job:
    """The bench as one run. With `power_up` the latches wake in random states and the reset must set them."""
    *_, comparator, bank = bench.stages
    random = np.random.default_rng([bench.seed, 11])
    latches = [net for j in range(bench.cells) for net in bank.stored(j)]
    if bench.power_up:
        initial = {net: bench.supply * float(random.integers(2)) for net in latches}
    else:
        starts = bank.is_set(bank.initial_state).ravel()
        initial = {net: bench.supply * float(bit) for net, bit in zip(latches, starts, strict=True)}
        initial |= dict.fromkeys(comparator.decisions(), 0.0)
    saved = [f"v({net})" for net in latches]
    saved += [f"i(v{source_net(bank.name, j)})" for j in range(bench.cells)]
    saved += [f"i(v{name})" for name in _supplies(bench)]
    saved += [f"v({net})" for net in comparator.decisions()]
    for phase in _phases(bench):
        saved += [f"i(v{CLOCK}_{phase})"]
    end = float(bench.starts[-1])
    return Job(
        title=f"latch bank, K {bench.levels}, {bench.cells} cells, {bench.supply:g} V, {bench.period:g} s",
        netlist=str(circuit(bench)),
        analysis=Transient(
            stop=end,
            max_step=min(bench.period / STEPS_A_FRAME, LONGEST_STEP),
            print_step=bench.period / 50,
            uic=bench.power_up,
        ),
        save=tuple(saved),
        tolerances=replace(bench.tolerances, abstol=SOURCE_ABSTOL * bench.cells),
        initial=initial,
        temperature=bench.temperature,
        files=_files(bench),
        time_limit=60.0 + SECONDS_A_FRAME * len(bench.inputs[2]) * bench.cells,
    )


def _supplies(bench: BankBench) -> list[str]:
    names = []
    for stage in bench.stages:
        names += [stage.name, f"{stage.name}_bias"]
    return [*names, f"{bench.stages[3].name}_logic"]


def read_run(bench: BankBench, data: RawData) -> BankRun:
    """Frame-end states and average power of a finished run."""
    bank = bench.stages[3]
    # The next frame's inputs move from its start on, so read just before.
    ends = bench.starts[1:] - 1e-6 * bench.period
    nets = [f"v({net})" for j in range(bench.cells) for net in bank.stored(j)]
    meters = [f"i(v{source_net(bank.name, j)})" for j in range(bench.cells)]
    comparator = bench.stages[2]
    decided = [f"v({net})" for net in comparator.decisions()]
    sampled = data.sample(ends, [*nets, *meters, *decided])
    said = np.stack([sampled[net] for net in decided], axis=-1).reshape(len(ends), bench.cells, 2)
    up, down = np.moveaxis((said > bench.supply / 2).astype(np.float64), -1, 0)
    volts = (
        np.stack([sampled[net] for net in nets], axis=-1).reshape(len(ends), bench.cells, -1) / bench.supply
    )
    output = np.stack([sampled[net] for net in meters], axis=-1)
    thermometer = (np.diff(volts > 0.5, axis=-1) & (volts[..., 1:] > 0.5)).any(axis=-1)
    counted = np.where(thermometer, np.nan, bank.state((volts > 0.5).astype(np.float64)))
    return BankRun(counted, expected_states(bench), output, volts, up - down, _power(bench, data), data)


def _power(bench: BankBench, data: RawData) -> dict[str, float]:
    """By block. A clock driver's power is the charge it delivers times the supply: nothing is recovered."""
    inside = data.time >= bench.starts[1] if len(bench.starts) > 2 else data.time >= 0
    time = data.time[inside]
    each = bench.supply / ((time[-1] - time[0]) * bench.cells)

    def charge(vector: str) -> Array:
        return -data[f"i(v{vector})"][inside]

    power = {name: float(np.trapezoid(charge(name), time) * each) for name in _supplies(bench)}
    meters = [f"{source_net(bench.stages[3].name, j)}" for j in range(bench.cells)]
    output = -sum(float(np.trapezoid(charge(name), time)) for name in meters) * float(each)
    for phase in _phases(bench):
        drawn = np.maximum(charge(f"{CLOCK}_{phase}"), 0.0)
        power[phase] = float(np.trapezoid(drawn, time) * each)
    power["output"] = output
    power["bank"] -= output
    return power


def count(bench: BankBench) -> BankRun:
    """One bench in ngspice."""
    return count_many([bench])[0]


def count_many(
    benches: Iterable[BankBench],
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[BankRun]:
    """Benches in ngspice, as many at a time as there are workers."""
    listed = list(benches)
    results = run_many((job(bench) for bench in listed), workers, progress)
    return [read_run(bench, data) for bench, data in zip(listed, results, strict=True)]


def counted_twice(
    bench: BankBench, sets: tuple[Tolerances, Tolerances] = (LATCH, STRICT), workers: int | None = None
) -> BankRun:
    """A count on which two tolerance sets agree, of the second. Raises SimulationError where they do not."""
    loose, strict = count_many([replace(bench, tolerances=each) for each in sets], workers)
    if not np.array_equal(loose.counted, strict.counted):
        frames, cells = np.nonzero(loose.counted != strict.counted)
        first = frames[0], cells[0]
        raise SimulationError(
            f"latch bank bench: the two tolerance sets disagree in {len(frames)} states, first in frame "
            f"{first[0]}, cell {first[1]}: {loose.counted[first]:g} and {strict.counted[first]:g}"
        )
    return strict
