"""Sweep 9T latches up and down in ngspice: where they switch and what they give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from PySpice.Spice.Netlist import Circuit

from cmru_hw.design import Stage
from cmru_hw.errors import SimulationError
from cmru_hw.primitives.clock import BankClock
from cmru_hw.primitives.device import Array, Units
from cmru_hw.primitives.latch import Latch
from cmru_hw.primitives.mirror import Input
from cmru_hw.spice.job import LATCH, Job, Transient
from cmru_hw.spice.netlist import ammeters, assemble, includes, initial_voltages
from cmru_hw.spice.ngspice import run
from cmru_hw.spice.rawfile import RawData
from cmru_hw.technology import Technology

CAPACITANCE = 2e-14  # F on v0
STEPS = 3000  # at least, in a sweep: the candidate moves by 0.07 % of I_thresh in one
# LATCH, but a branch current of an off-state ammeter does not converge to less than 1 fA.
TOLERANCES = replace(LATCH, abstol=1e-15)


@dataclass(frozen=True, eq=False)
class Hysteresis:
    """A latch bench: candidate swept up then down; per latch its thresholds and curves (A)."""

    candidate: Array  # [points, latches]
    output: Array  # [points, latches]
    turn: int  # index of the sweep's top
    up: Array  # [latches]
    down: Array  # [latches]; 0 where it stays set at a thousandth of I_thresh


@dataclass(frozen=True, eq=False, kw_only=True)
class LatchBench:
    """Latches side by side, each with a candidate current of its own, in the technology as it is given.

    `i_threshold`, `i_width`, `i_gain` are programmed currents in A, [latches]. The candidates move by a slow
    triangle over `sweep` s that covers 0.8 to 1.12 of the upper, and down to 0.8 of the lower ideal threshold
    or a thousandth of the upper one.
    """

    technology: Technology
    i_threshold: Array
    i_width: Array
    i_gain: Array
    sweep: float = 20.0

    @property
    def _none(self) -> Units:
        return np.zeros(len(self.i_threshold), dtype=np.int64)

    @cached_property
    def latch(self) -> Latch:
        """The latches."""
        return Latch(
            name="latch", polarity="p", diode_units=16, copied=self._none, candidate="candidate",
            i_threshold=self.i_threshold, i_width=self.i_width, i_gain=self.i_gain, initial_state=self._none,
            capacitance=CAPACITANCE, read=True,
        )  # fmt: skip

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The candidates and the latches."""
        units = self.technology.latch_units
        return Input(name="candidate", polarity="p", diode_units=units, copied=self._none), self.latch

    @property
    def signals(self) -> dict[str, Stage]:
        """Stages by name."""
        return {stage.name: stage for stage in self.stages}

    @property
    def clocks(self) -> dict[str, BankClock]:
        """None."""
        return {}

    def circuit(self, waves: Sequence[Array], stop: float) -> Circuit:
        """The latches with candidates that follow `waves`, of (s, A), until `stop` (s)."""
        title = f"{len(waves)} latches"
        return assemble(self, title, {"candidate": waves}, np.array([0.0, stop]), {}, {})

    def job(self) -> Job:
        """The triangles as one run."""
        bottom, top = self.swept
        times = np.array([0.0, self.sweep / 2, self.sweep])
        waves = [np.column_stack([times, [low, high, low]]) for low, high in zip(bottom, top, strict=True)]
        saved = [f"v({self.latch.stored(j)})" for j in range(self.latch.size)]
        return Job(
            title=f"hysteresis of {self.latch.size} latches",
            netlist=str(self.circuit(waves, self.sweep)),
            analysis=Transient(stop=self.sweep, max_step=self.sweep / STEPS, print_step=self.sweep / STEPS),
            save=(*saved, *ammeters(self.latch)),
            tolerances=TOLERANCES,
            initial=initial_voltages(self),
            temperature=self.technology.temperature_celsius,
            files=includes(self),
        )

    @property
    def swept(self) -> tuple[Array, Array]:
        """Lowest and highest candidate (A) that a latch is driven with."""
        low = np.maximum(self.i_threshold - self.i_width, self.i_threshold / 800)
        return 0.8 * low, 1.12 * self.i_threshold

    def read(self, data: RawData) -> Hysteresis:
        """Thresholds off a finished run. Raises SimulationError if a latch never sets."""
        latch, (bottom, top) = self.latch, self.swept
        position = 1 - np.abs(2 * data.time / data.time[-1] - 1)
        candidate = bottom + position[:, None] * (top - bottom)
        stored = np.stack([data[f"v({latch.stored(j)})"] for j in range(latch.size)], axis=-1)
        output = np.stack([data[name] for name in ammeters(latch)], axis=-1)
        is_set = stored > self.technology.supply / 2
        if is_set[0].any() or not is_set.any(axis=0).all():
            raise SimulationError(f"latch bench: latches {np.flatnonzero(~is_set.any(axis=0))} never set")
        first = np.argmax(is_set, axis=0)
        last = len(is_set) - 1 - np.argmax(is_set[::-1], axis=0)
        columns = np.arange(latch.size)
        down = np.where(is_set[-1], 0.0, candidate[last, columns])
        turn = int(np.argmin(np.abs(data.time - self.sweep / 2)))
        return Hysteresis(candidate, output, turn, candidate[first, columns], down)


def measure_hysteresis(
    technology: Technology, i_threshold: float, i_width: float, i_gain: float
) -> Hysteresis:
    """One latch in ngspice."""
    bench = LatchBench(
        technology=technology, i_threshold=np.array([i_threshold]), i_width=np.array([i_width]),
        i_gain=np.array([i_gain]),
    )  # fmt: skip
    return bench.read(run(bench.job()))
