"""Integrate in ngspice: random up, down and hold packets of random size against the model.

>>> run = integrate(IntegratorBench(technology=load_technology("generic180"), steps=20))
>>> run.error.max(), run.power["integrator"]
(3.5...e-13, 1.5...e-09)
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
from cmru_hw.primitives.device import Array, DeviceArray, Shifts
from cmru_hw.primitives.integrator import HIGH, LOW, MIDDLE, Copying, Integrator, integrator_geometry
from cmru_hw.primitives.mirror import Input
from cmru_hw.primitives.signal import Signal, gate, source_net
from cmru_hw.spice.job import LATCH, STRICT, Job, Tolerances, Transient
from cmru_hw.spice.netlist import MODELS, RAILS, waveform
from cmru_hw.spice.ngspice import run_many
from cmru_hw.spice.rawfile import RawData
from cmru_hw.spice.simulate import LONGEST_STEP
from cmru_hw.technology import Technology

CLOCK = "clock"
RANGE = (HIGH - LOW) / (2 * MIDDLE)  # rails over I_middle
RAMP = 5e-5  # s, in which inputs move
STEPS_A_FRAME = 10  # at least; clock edges add theirs
SECONDS_A_FRAME = 10.0  # time limit, for each cell


@dataclass(frozen=True, eq=False, kw_only=True)
class IntegratorBench:
    """`cells` integrators side by side on one clock, each with a random sequence of its own. SI units.

    `rows` overrides the random sequence by (moves in -1, 0, 1; amplitudes in A), [steps, cells] each.
    `constant`: packets of one size, `largest`. `shifts` as `draw` gives them: one mismatched chip a cell.
    """

    technology: Technology
    cells: int = 1
    steps: int = 40
    seed: int = 0
    supply: float | None = None  # None: the card's
    period: float = 10e-3
    temperature: float = 27.0
    rails: float = 5.25e-10
    smallest: float = 2e-11  # A, of random amplitudes
    largest: float = 2e-10
    constant: bool = False
    beta: float = 3e-10
    shifts: Shifts = field(default_factory=dict)
    rows: tuple[Array, Array] | None = None
    tolerances: Tolerances = LATCH

    def __post_init__(self) -> None:
        if not 0 < self.smallest <= self.largest:
            raise MappingError(
                f"bench: amplitudes must be > 0 and rise, got {self.smallest:g} and {self.largest:g} A"
            )

    @cached_property
    def inputs(self) -> tuple[Array, Array]:
        """Moves in -1, 0, 1 and amplitudes in A, [steps, cells] each."""
        if self.rows is not None:
            return self.rows
        random = np.random.default_rng([self.seed, 5])
        shape = (self.steps, self.cells)
        # Long runs of one direction, so that both rails are reached.
        drift = np.repeat(random.uniform(-0.8, 0.8, (self.steps // 12 + 1, self.cells)), 12, axis=0)
        moves = np.where(
            random.random(shape) < 0.2, 0.0, np.sign(drift[: self.steps] + random.uniform(-1, 1, shape))
        )
        if self.constant:
            return moves, np.full(shape, self.largest)
        return moves, np.exp(random.uniform(np.log(self.smallest), np.log(self.largest), shape))

    @cached_property
    def stages(self) -> tuple[Input, Input, Input, WindowComparator, Integrator]:
        """P, M, the amplitudes, the comparators and the integrators."""
        none, units = np.zeros(self.cells, dtype=np.int64), self.technology.latch_units
        wide = integrator_geometry(self.technology).packet_units
        positive, negative, amplitude = (
            Input(name=name, polarity="p", diode_units=count, copied=none)
            for name, count in (("positive", units), ("negative", units), ("amplitude", wide))
        )
        comparator = WindowComparator(
            name="comparator", polarity="p", diode_units=units, copied=none, positive="positive",
            negative="negative", i_threshold=np.full(self.cells, self.beta), clock=CLOCK,
        )  # fmt: skip
        integrator = Integrator(
            name="integrator", polarity="p", diode_units=16, copied=none, comparator="comparator",
            amplitude_signal=None if self.constant else "amplitude",
            i_packet=np.full(self.cells, self.largest if self.constant else 0.0),
            rails=np.full(self.cells, self.rails), clock=CLOCK,
        )  # fmt: skip
        return positive, negative, amplitude, comparator, integrator

    @property
    def driven(self) -> dict[str, Array]:
        """Input currents (A) by stage, [steps, cells]."""
        moves, amplitudes = self.inputs
        half = 0.5 * self.beta
        return {
            "positive": np.where(moves > 0, 2 * self.beta + half, half),
            "negative": np.where(moves < 0, 2 * self.beta + half, half),
            "amplitude": amplitudes,
        }

    @property
    def signals(self) -> dict[str, Signal]:
        """Stages by name."""
        return {stage.name: stage for stage in self.stages}

    @property
    def volts(self) -> float:
        """The supply."""
        return self.technology.supply if self.supply is None else self.supply

    @property
    def clock(self) -> BankClock:
        """The one layer's clock."""
        return BankClock.for_layer(self.period)

    @property
    def starts(self) -> Array:
        """Starts of the frames and the end of the last, s."""
        return np.asarray(self.period * np.arange(len(self.inputs[0]) + 1), dtype=np.float64)

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

    def mismatched(self, seed: int, scale: float = 1.0) -> IntegratorBench:
        """The same bench with every cell a chip of its own."""
        return replace(self, shifts=self.draw(seed, scale))


@dataclass(frozen=True, eq=False)
class IntegratorRun:
    """What a bench integrated. Power in W for each cell, by block, averaged over all frames but the first."""

    state: Array  # A at the frames' ends, [steps, cells]
    expected: Array  # A, of the model of the same chips
    decisions: Array  # up less down at the frames' ends, [steps, cells]
    power: dict[str, float]
    data: RawData

    @property
    def error(self) -> Array:
        """Of the state, A, [steps, cells]; it adds up over the steps."""
        return np.abs(self.state - self.expected)


def expected_states(bench: IntegratorBench) -> Array:
    """The model's states, of the chips where there are shifts, from the reset on, [steps, cells]."""
    row = bench.stages[4]
    currents = row.currents(bench.signals, bench.shifts, bench.technology)
    kept = row.kept(bench.period, bench.technology)
    state, states = row.woken(currents), []
    for move, a in zip(*bench.inputs, strict=True):
        state = row.move(state, move, currents, None if bench.constant else a, kept)
        states.append(state)
    return np.stack(states)


def circuit(bench: IntegratorBench) -> Circuit:
    """The deck's circuit: stages as in a design, with clock sources."""
    made = Circuit("integrator bench")
    made.raw_spice = "".join(f".include {name}\n" for name in _files(bench))
    for stage in bench.stages:
        cell = stage.subcircuit(bench.signals, bench.shifts, bench.technology)
        made.subcircuit(cell)
        nets = [str(node) for node in cell._external_nodes]
        made.X(stage.name, stage.name, *(f"{net}_{stage.name}" if net in RAILS else net for net in nets))
        for net in (net for net in nets if net in RAILS):
            made.V(f"{stage.name}{RAILS[net]}", f"{net}_{stage.name}", made.gnd, bench.volts)
    row = bench.stages[4]
    for j in range(bench.cells):
        made.V(source_net(row.name, j), f"vdd_{row.name}", source_net(row.name, j), 0)
        for name, values in bench.driven.items():
            points = [(float(t), float(a)) for t, a in waveform(values[:, j], bench.starts[:-1], RAMP)]
            if len(points) == 1:
                made.I(f"in_{name}_{j}", gate(name, j), made.gnd, repr(points[0][1]))
            else:
                made.PieceWiseLinearCurrentSource(f"in_{name}_{j}", gate(name, j), made.gnd, values=points)
    for phase in _phases(bench):
        points = [(float(t), float(v)) for t, v in bench.clock.waveform(phase, bench.starts, bench.volts)]
        made.PieceWiseLinearVoltageSource(
            f"{CLOCK}_{phase}", clock_net(CLOCK, phase), made.gnd, values=points
        )
    return made


def _phases(bench: IntegratorBench) -> list[str]:
    taken = {net for stage in bench.stages for net in stage.clock_nets()}
    return [phase for phase in PHASES if clock_net(CLOCK, phase) in taken]


def _files(bench: IntegratorBench) -> dict[str, str]:
    names = [stage.cell_file for stage in bench.stages if stage.cell_file]
    cells = {name: packaged("circuits", name).read_text("utf-8") for name in names}
    return {MODELS: bench.technology.model_text, **cells}


def job(bench: IntegratorBench) -> Job:
    """The bench as one run, from 0 V everywhere."""
    *_, comparator, row = bench.stages
    saved = [f"v({row.stored(j)})" for j in range(bench.cells)]
    saved += [*row.state_vectors(), *(f"i(v{name})" for name in _supplies(bench))]
    saved += [f"v({net})" for net in comparator.decisions()]
    saved += [f"i(v{CLOCK}_{phase})" for phase in _phases(bench)]
    return Job(
        title=f"integrator, {bench.cells} cells, {bench.volts:g} V, {bench.period:g} s",
        netlist=str(circuit(bench)),
        analysis=Transient(
            stop=float(bench.starts[-1]),
            max_step=min(bench.period / STEPS_A_FRAME, LONGEST_STEP),
            print_step=bench.period / 50,
            uic=True,
        ),
        save=tuple(saved),
        tolerances=bench.tolerances,
        temperature=bench.temperature,
        files=_files(bench),
        time_limit=60.0 + SECONDS_A_FRAME * len(bench.inputs[0]) * bench.cells,
    )


def _supplies(bench: IntegratorBench) -> list[str]:
    names = []
    for stage in bench.stages:
        names += [stage.name, f"{stage.name}_bias"]
    return [*names, f"{bench.stages[4].name}_logic"]


def read_run(bench: IntegratorBench, data: RawData) -> IntegratorRun:
    """Frame-end states and average power of a finished run."""
    *_, comparator, row = bench.stages
    # The next frame's inputs move from its start on, so read just before.
    ends = bench.starts[1:] - 1e-6 * bench.period
    meters, decided = row.state_vectors(), [f"v({net})" for net in comparator.decisions()]
    sampled = data.sample(ends, [*meters, *decided])
    said = np.stack([sampled[net] for net in decided], axis=-1).reshape(len(ends), bench.cells, 2)
    up, down = np.moveaxis((said > bench.volts / 2).astype(np.float64), -1, 0)
    state = row.read_state(np.stack([sampled[net] for net in meters], axis=-1), bench.volts)
    return IntegratorRun(state, expected_states(bench), up - down, _power(bench, data), data)


def _power(bench: IntegratorBench, data: RawData) -> dict[str, float]:
    """By block. A clock driver's power is the charge it delivers times the supply: nothing is recovered."""
    inside = data.time >= bench.starts[1]
    time = data.time[inside]
    each = bench.volts / ((time[-1] - time[0]) * bench.cells)

    def delivered(vector: str) -> Array:
        return -data[vector][inside]

    power = {name: float(np.trapezoid(delivered(f"i(v{name})"), time) * each) for name in _supplies(bench)}
    row = bench.stages[4]
    output = -sum(float(np.trapezoid(delivered(meter), time)) for meter in row.state_vectors()) * float(each)
    for phase in _phases(bench):
        drawn = np.maximum(delivered(f"i(v{CLOCK}_{phase})"), 0.0)
        power[phase] = float(np.trapezoid(drawn, time) * each)
    power["output"] = output
    power["integrator"] -= output
    return power


def integrate(bench: IntegratorBench) -> IntegratorRun:
    """One bench in ngspice."""
    return integrate_many([bench])[0]


def integrate_many(
    benches: Iterable[IntegratorBench],
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[IntegratorRun]:
    """Benches in ngspice, as many at a time as there are workers."""
    listed = list(benches)
    results = run_many((job(bench) for bench in listed), workers, progress)
    return [read_run(bench, data) for bench, data in zip(listed, results, strict=True)]


def integrated_twice(
    bench: IntegratorBench, within: float = 1e-12, workers: int | None = None
) -> IntegratorRun:
    """A run on which LATCH and STRICT tolerances agree to `within` A, or SimulationError."""
    loose, strict = integrate_many([replace(bench, tolerances=each) for each in (LATCH, STRICT)], workers)
    apart = np.abs(loose.state - strict.state)
    if apart.max() > within:
        frame, cell = np.unravel_index(int(np.argmax(apart)), apart.shape)
        raise SimulationError(
            f"integrator bench: the two tolerance sets disagree by {apart.max():.3g} A in frame {frame}, "
            f"cell {cell}: {loose.state[frame, cell]:g} and {strict.state[frame, cell]:g} A"
        )
    return strict


def measure_copying(technology: Technology, middles: Iterable[float]) -> tuple[Copying, ...]:
    """What the nominal cell makes of packets at each I_middle (A), fitted to one run each."""
    random = np.random.default_rng(1)
    # Up and down through the whole range into both rails, then small and large packets in between.
    moves = np.repeat([0.0, 1.0, -1.0, 1.0], [1, 9, 18, 10])
    sizes = np.full(len(moves), 1 / 7)
    scattered = random.choice([-1.0, -1.0, 1.0], 14)
    moves, sizes = (
        np.concatenate([moves, scattered])[:, None],
        np.concatenate([sizes, random.uniform(0.03, 0.35, 14)])[:, None],
    )
    benches = [
        replace(
            IntegratorBench(technology=technology), rails=each * RANGE, rows=(moves, sizes * each * RANGE)
        )
        for each in middles
    ]
    return tuple(_copying(bench, run) for bench, run in zip(benches, integrate_many(benches), strict=True))


def _copying(bench: IntegratorBench, run: IntegratorRun) -> Copying:
    """Least squares on the steps that stay clear of the rails; the rails, where a step no longer moves."""
    middle = bench.rails / RANGE
    state, (moves, sizes) = run.state[:, 0], (rows[:, 0] for rows in bench.inputs)
    x, step, moved, a = state[1:] / bench.rails, np.diff(state), moves[1:], sizes[1:]
    fits = (moved != 0) & (np.abs(x) < 0.93) & (np.abs(x - step / bench.rails) < 1.1)
    powers = middle * np.stack([np.ones_like(x), x, x**2], axis=-1)
    columns = np.column_stack([np.where(moved > 0, a, 0.0), np.where(moved < 0, -a, 0.0), powers])
    found, *_ = np.linalg.lstsq(columns[fits], step[fits], rcond=None)
    error = [float(value) for value in found[2:5]]
    ends = {
        key: np.flatnonzero((np.abs(step) < 0.05 * a) & (moved == sign))
        for key, sign in (("low", -1), ("high", 1))
    }
    low, high = (
        float(x[at[-1]] - powers[at[-1]] @ found[2:] / bench.rails) for at in (ends["low"], ends["high"])
    )
    return Copying(
        middle=middle, up=float(found[0]), down=float(found[1]), error=error,
        start=float(state[0] / bench.rails), low=low, high=high,
    )  # fmt: skip
