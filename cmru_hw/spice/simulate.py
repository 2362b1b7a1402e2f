"""Run a design in ngspice, one deck an input, and read it at the end of every frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from cmru_hw.design import Design, Pooled, block_of
from cmru_hw.primitives.device import Array, Shifts
from cmru_hw.result import Result
from cmru_hw.spice.netlist import (
    ammeters,
    build,
    includes,
    initial_voltages,
    primitive_of,
    supplies,
    waveform,
)
from cmru_hw.spice.ngspice import FAST, Job, RawData, Tolerances, Transient, imap
from cmru_hw.stimulus import Stimulus

POINTS_A_FRAME = 20  # of the waveforms that are kept
STEPS_A_FRAME = 10  # at least
SECONDS_A_FRAME = 30.0  # time limit


def job(
    design: Design,
    stimulus: Stimulus,
    index: int,
    shifts: Shifts | None = None,
    tolerances: Tolerances = FAST,
) -> Job:
    """The deck of one input, over its valid frames."""
    frames = int(stimulus.lengths[index])
    starts = stimulus.starts[: frames + 1]
    encoded = design.encode(stimulus.x[index, :frames])
    currents = {
        name: [waveform(column, starts, design.facts.ramp) for column in values.T]
        for name, values in encoded.items()
    }
    read = [design.signals[name] for name in design.facts.outputs]
    read += [design.signals[latch.candidate] for latch in design.latches]
    saved = [name for stage in read for name in ammeters(stage)]
    saved += [f"v({latch.stored(j)})" for latch in design.latches for j in range(latch.size)]
    saved += [name for pair in supplies(design).values() for name in pair]
    frame = float(np.diff(starts).min())
    return Job(
        title=f"input {index}, {frames} frames",
        netlist=str(build(design, currents, shifts)),
        analysis=Transient(stop=float(starts[-1]), max_step=frame / STEPS_A_FRAME, print_step=frame / 50),
        save=tuple(saved),
        tolerances=tolerances,
        initial=initial_voltages(design),
        temperature=design.technology.temperature_celsius,
        files=includes(design),
        time_limit=60.0 + SECONDS_A_FRAME * frames,
    )


def simulate(
    design: Design,
    stimulus: Stimulus,
    shifts: Shifts | None = None,
    tolerances: Tolerances = FAST,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Every input through ngspice; `shifts` are those of one chip.

    Raises SimulationError (with the deck and the simulator's own line) if a run fails.
    """
    rows: dict[int, _Row] = {}
    for index, row in simulate_each(design, stimulus, range(len(stimulus)), shifts, tolerances, workers):
        rows[index] = row
        if progress:
            progress(len(rows), len(stimulus))
    return collect(design, stimulus, [rows[index] for index in range(len(stimulus))])
