"""Count with a latch bank in ngspice: random up, down and hold steps against the clipped sum.

>>> run = BankBench(technology=load_technology("generic180"), levels=4, steps=60).run()
>>> run.errors, run.power["comparator"]
(array([0]), 5.6...e-10)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from cmru_hw.errors import MappingError
from cmru_hw.primitives.device import Array, Units
from cmru_hw.primitives.latch_bank import LatchBank
from cmru_hw.spice.bench import CLOCK, Bench, Run
from cmru_hw.spice.job import Job
from cmru_hw.spice.netlist import ammeters
from cmru_hw.spice.rawfile import RawData
from cmru_hw.spice.simulate import SOURCE_ABSTOL


@dataclass(frozen=True, eq=False, kw_only=True)
class BankRun(Run):
    """What a bench counted: `expected` is the clipped sum, `state` NaN where no state is held."""

    output: Array  # A at the frames' ends, [steps, cells]
    units: Array  # node voltages of the latches over the supply, [steps, cells, latches]

    @property
    def errors(self) -> Units:
        """Frames at whose end the state is not the clipped sum, or a latch is not at a rail: [cells]."""
        undecided = (np.abs(self.units - 0.5) < 0.4).any(axis=-1)
        return ((self.state != self.expected) | undecided).sum(axis=0)


@dataclass(frozen=True, eq=False, kw_only=True)
class BankBench(Bench[BankRun]):
    """Banks; with `power_up` latches wake in random states and the reset must set them.

    `rows` are the input currents (P, M), [steps, cells] each, with decisions then taken from them.
    """

    steps_a_frame: ClassVar[int] = 8
    agreed: ClassVar[float] = 0.0
    steps: int = 60
    period: float = 1e-3
    levels: int = 4
    single: bool = False
    margin: float = 5e-11  # A between |P - M| and beta at least
    i_alpha: float = 1e-10
    initial: Units | int | None = None  # [cells] or one for all; None: random

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
        moves = self.moves(random, held=0.25)
        low = random.uniform(0.05, 0.5, moves.shape) * self.beta
        clear = self.beta + self.margin
        c = np.where(
            moves == 0,
            random.uniform(-1, 1, moves.shape) * (self.beta - self.margin),
            moves * random.uniform(clear, clear + self.beta, moves.shape),
        )
        return np.maximum(c, 0.0) + low, np.maximum(-c, 0.0) + low, moves

    @property
    def driven(self) -> dict[str, Array]:
        return dict(zip(("positive", "negative"), self.inputs[:2], strict=True))

    @cached_property
    def memory(self) -> LatchBank:
        random = np.random.default_rng([self.seed, 7])
        if self.initial is not None:
            start = np.broadcast_to(np.asarray(self.initial, dtype=np.int64), (self.cells,))
        elif self.single:
            start = random.choice(np.array([-1, 1]), self.cells)
        else:
            start = random.integers(-self.levels, self.levels + 1, self.cells)
        return LatchBank(
            name="bank", polarity="p", diode_units=16, copied=self.uncopied, comparator="comparator",
            levels=self.levels, holds="sign" if self.single else "count",
            i_alpha=np.full(self.cells, self.i_alpha), initial_state=start, clock=CLOCK, read=True,
        )  # fmt: skip

    def expected(self) -> Array:
        state, states = self.memory.start(), []
        for move in self.inputs[2]:
            state = self.memory.step(state, move)
            states.append(state)
        return np.stack(states)

    def job(self) -> Job:
        made = super().job()
        tolerances = replace(self.tolerances, abstol=SOURCE_ABSTOL * self.cells)
        if not self.power_up:
            return replace(made, tolerances=tolerances)
        random = np.random.default_rng([self.seed, 11])
        latches = [net for j in range(self.cells) for net in self.memory.stored(j)]
        woken = {net: self.supply * float(random.integers(2)) for net in latches}
        return replace(made, tolerances=tolerances, initial=woken)

    def read(self, data: RawData) -> BankRun:
        bank = self.memory
        units = self.at_ends(data, bank.state_vectors()).reshape(-1, self.cells, bank.latches) / self.supply
        bits = units > 0.5
        unordered = (bits[..., 1:] & ~bits[..., :-1]).any(axis=-1)
        return BankRun(
            state=np.where(unordered, np.nan, bank.state(bits.astype(np.float64))),
            expected=self.expected(),
            decisions=self.decisions(data),
            power=self.power(data),
            data=data,
            output=self.at_ends(data, ammeters(bank)),
            units=units,
        )
