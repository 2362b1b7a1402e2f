"""Sweep 9T latches up and down in ngspice: where they switch and what they give."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cmru_hw.design import Design, Facts
from cmru_hw.errors import SimulationError
from cmru_hw.primitives.device import Array
from cmru_hw.primitives.latch import Latch
from cmru_hw.primitives.mirror import Input
from cmru_hw.spice.job import LATCH, Job, Transient
from cmru_hw.spice.netlist import ammeters, build, includes, initial_voltages
from cmru_hw.spice.ngspice import run
from cmru_hw.spice.rawfile import RawData
from cmru_hw.technology import Technology, load_technology

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


def bench(
    technology: Technology, i_threshold: Array, i_width: Array, i_gain: Array, sweep: float = 20.0
) -> tuple[Design, Job]:
    """Latches side by side, each driven by a slow triangle of its own candidate current over `sweep` s.

    `i_threshold`, `i_width`, `i_gain` are programmed currents in A, [latches]. The triangle covers 0.8 to
    1.12 of the upper, and down to 0.8 of the lower ideal threshold or a thousandth of the upper one.
    """
    count = len(i_threshold)
    none = np.zeros(count, dtype=np.int64)
    candidate = Input(name="candidate", polarity="p", diode_units=technology.latch_units, copied=none)
    latch = Latch(
        name="latch", polarity="p", diode_units=16, copied=none, candidate="candidate",
        i_threshold=i_threshold, i_width=i_width, i_gain=i_gain, initial_state=none, capacitance=2e-14,
        read=True,
    )  # fmt: skip
    facts = Facts(
        technology=technology.name, unit="fq_bmru", boundary="core", pool="last", num_classes=count,
        input_size=count, unit_current=1e-9, logit_scale=1.0, quiescent_current=0.0,
        frame_period=sweep / 2, ramp=sweep / 4,
        supply=technology.supply, temperature_celsius=load_technology(technology.name).temperature_celsius,
        corner=technology.corner,
        inputs=["candidate", "candidate"], outputs=["latch"], states=["latch"],
    )  # fmt: skip
    design = Design(facts, (candidate, latch))  # the temperature is the job's: no calibration is needed
    bottom, top = _sweep_range(i_threshold, i_width)
    times = np.array([0.0, sweep / 2, sweep])
    waves = [np.column_stack([times, [low, high, low]]) for low, high in zip(bottom, top, strict=True)]
    saved = [f"v({latch.stored(j)})" for j in range(count)]
    job = Job(
        title=f"hysteresis of {count} latches",
        netlist=str(build(design, {"candidate": waves}, np.array([0.0, sweep]))),
        analysis=Transient(stop=sweep, max_step=sweep / STEPS, print_step=sweep / STEPS),
        save=(*saved, *ammeters(latch)),
        tolerances=TOLERANCES,
        initial=initial_voltages(design),
        temperature=technology.temperature_celsius,
        files=includes(design),
    )
    return design, job


def _sweep_range(i_threshold: Array, i_width: Array) -> tuple[Array, Array]:
    """Lowest and highest candidate (A) that a latch is driven with."""
    return 0.8 * np.maximum(i_threshold - i_width, i_threshold / 800), 1.12 * i_threshold


def hysteresis(design: Design, data: RawData) -> Hysteresis:
    """Read thresholds off a bench run. Raises SimulationError if a latch never sets."""
    latch = next(stage for stage in design.stages if isinstance(stage, Latch))
    sweep = data.time[-1]
    bottom, top = _sweep_range(latch.i_threshold, latch.i_width)
    position = 1 - np.abs(2 * data.time / sweep - 1)
    candidate = bottom + position[:, None] * (top - bottom)
    stored = np.stack([data[f"v({latch.stored(j)})"] for j in range(latch.size)], axis=-1)
    output = np.stack([data[name] for name in ammeters(latch)], axis=-1)
    is_set = stored > design.facts.supply / 2
    if is_set[0].any() or not is_set.any(axis=0).all():
        raise SimulationError(f"latch bench: latches {np.flatnonzero(~is_set.any(axis=0))} never set")
    first = np.argmax(is_set, axis=0)
    last = len(is_set) - 1 - np.argmax(is_set[::-1], axis=0)
    columns = np.arange(latch.size)
    down = np.where(is_set[-1], 0.0, candidate[last, columns])
    turn = int(np.argmin(np.abs(data.time - sweep / 2)))
    return Hysteresis(candidate, output, turn, candidate[first, columns], down)


def measure_hysteresis(
    technology: Technology, i_threshold: float, i_width: float, i_gain: float
) -> Hysteresis:
    """One latch in ngspice."""
    design, job = bench(technology, np.array([i_threshold]), np.array([i_width]), np.array([i_gain]))
    return hysteresis(design, run(job))
