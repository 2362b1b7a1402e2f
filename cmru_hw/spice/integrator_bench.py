"""Integrate in ngspice: random up, down and hold packets of random size against the model.

>>> run = IntegratorBench(technology=load_technology("generic180"), steps=20).run()
>>> run.error.max(), run.power["integrator"]
(3.5...e-13, 1.5...e-09)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from cmru_hw.errors import MappingError, SimulationError
from cmru_hw.primitives.clock import BankClock
from cmru_hw.primitives.device import Array
from cmru_hw.primitives.integrator import HIGH, LOW, MIDDLE, Copying, Integrator, integrator_geometry
from cmru_hw.spice.bench import CLOCK, Bench, Run
from cmru_hw.spice.rawfile import RawData
from cmru_hw.technology import Technology

RANGE = (HIGH - LOW) / (2 * MIDDLE)  # rails over I_middle


@dataclass(frozen=True, eq=False, kw_only=True)
class IntegratorRun(Run):
    """What a bench integrated: `state` in A, `expected` of the model of the same chips."""

    @property
    def error(self) -> Array:
        """Of the state, A, [steps, cells]; it adds up over the steps."""
        return np.abs(self.state - self.expected)


@dataclass(frozen=True, eq=False, kw_only=True)
class IntegratorBench(Bench[IntegratorRun]):
    """Integrators. `rows` are the moves in -1, 0, 1 and the amplitudes in A, [steps, cells] each.

    `constant`: packets of one size, `largest`.
    """

    steps_a_frame: ClassVar[int] = 10
    agreed: ClassVar[float] = 1e-12  # A
    steps: int = 40
    period: float = 10e-3
    rails: float = 5.25e-10
    smallest: float = 2e-11  # A, of random amplitudes
    largest: float = 2e-10
    constant: bool = False

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
        moves = self.moves(random, held=0.2)
        if self.constant:
            return moves, np.full(moves.shape, self.largest)
        return moves, np.exp(random.uniform(np.log(self.smallest), np.log(self.largest), moves.shape))

    @property
    def driven(self) -> dict[str, Array]:
        moves, amplitudes = self.inputs
        half = 0.5 * self.beta
        return {
            "positive": np.where(moves > 0, 2 * self.beta + half, half),
            "negative": np.where(moves < 0, 2 * self.beta + half, half),
            "amplitude": amplitudes,
        }

    def diode_units(self, name: str) -> int:
        amplitude = name == "amplitude"
        return integrator_geometry(self.technology).packet_units if amplitude else super().diode_units(name)

    @cached_property
    def memory(self) -> Integrator:
        return Integrator(
            name="integrator", polarity="p", diode_units=16, copied=self.uncopied, comparator="comparator",
            amplitude_signal=None if self.constant else "amplitude",
            i_packet=np.full(self.cells, self.largest if self.constant else 0.0),
            rails=np.full(self.cells, self.rails), clock=CLOCK,
        )  # fmt: skip

    def expected(self) -> Array:
        """The model's states, of the chips where there are shifts, from the reset on."""
        row = self.memory
        currents = row.currents(self.signals, self.shifts, self.technology)
        kept = row.kept(self.period, self.technology)
        state, states = row.woken(currents), []
        for move, a in zip(*self.inputs, strict=True):
            state = row.move(state, move, currents, None if self.constant else a, kept)
            states.append(state)
        return np.stack(states)

    def read(self, data: RawData) -> IntegratorRun:
        vectors = self.at_ends(data, self.memory.state_vectors())
        return IntegratorRun(
            state=self.memory.read_state(vectors, self.supply),
            expected=self.expected(),
            decisions=self.decisions(data),
            power=self.power(data),
            data=data,
        )


def copying_bench(technology: Technology, middle: float) -> IntegratorBench:
    """A run at an I_middle (A) that `copying` is read from."""
    random = np.random.default_rng(1)
    # Up and down through the whole range into both rails, then small and large packets in between.
    moves = np.repeat([0.0, 1.0, -1.0, 1.0], [1, 9, 18, 10])
    sizes = np.full(len(moves), 1 / 7)
    scattered = random.choice([-1.0, -1.0, 1.0], 14)
    moves, sizes = (
        np.concatenate([moves, scattered])[:, None],
        np.concatenate([sizes, random.uniform(0.03, 0.35, 14)])[:, None],
    )
    rails = middle * RANGE
    woken = integrator_geometry(technology).wake_charge / middle
    period = IntegratorBench.period
    period = max(period, woken / BankClock.for_layer(period, copying=True).offset)
    return IntegratorBench(technology=technology, rails=rails, rows=(moves, sizes * rails), period=period)


def copying(bench: IntegratorBench, run: IntegratorRun) -> Copying:
    """What the nominal cell makes of packets at the bench's I_middle.

    Least squares on the steps that stay clear of the rails; the rails, where a step no longer moves. Raises
    SimulationError where none stops.
    """
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
    for key, at in ends.items():
        if not at.size:
            raise SimulationError(
                f"integrator bench: packets at an I_middle of {middle:g} A never stop at the {key} rail"
            )
    low, high = (
        float(x[at[-1]] - powers[at[-1]] @ found[2:] / bench.rails) for at in (ends["low"], ends["high"])
    )
    return Copying(
        middle=middle, up=float(found[0]), down=float(found[1]), error=error,
        start=float(state[0] / bench.rails), low=low, high=high,
    )  # fmt: skip
