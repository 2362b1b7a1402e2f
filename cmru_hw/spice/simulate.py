"""Run a design in ngspice, one deck an input, and read it at the end of every frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from cmru_hw.design import Design, Pooled
from cmru_hw.errors import ConfigError, SimulationError
from cmru_hw.farm import Arrays, Farm, Finished, Store, digest, run_jobs
from cmru_hw.primitives.device import Array, Shifts
from cmru_hw.primitives.noise_source import Noise
from cmru_hw.primitives.signal import Decider
from cmru_hw.result import Result, stacked
from cmru_hw.spice.job import COPYING, FAST, LATCH, QUICK, Job, Tolerances, Transient
from cmru_hw.spice.netlist import (
    ammeters,
    build,
    clock_drives,
    corners,
    includes,
    initial_voltages,
    supplies,
    waveform,
)
from cmru_hw.spice.ngspice import Steps, drive, find_ngspice
from cmru_hw.spice.partition import SOURCE_ABSTOL, Waves, run_parts
from cmru_hw.spice.rawfile import RawData
from cmru_hw.stimulus import Stimulus
from cmru_hw.variation import chip_count, one_chip

POINTS_A_FRAME = 20  # of the waveforms that are kept
STEPS_A_FRAME = 10  # at least
SECONDS_A_FRAME = 60.0  # time limit, of 10000 unit transistors
LONGEST_STEP = 2e-3
"""s, of clocked designs. ngspice merges breakpoints closer than 5e-5 of the largest step, so a longer one
would blur clock edges: in frames of 2.5 s it made comparators decide wrongly."""


WIDE = 32
"""Latches without a clock from which on a design runs in parts. One deck of 32 takes three times as long; one
of a few is as quick, and hazards between layers are those of a single circuit."""


def first_tolerances(design: Design) -> Tolerances:
    """Of an input's first run: FAST, of clocked designs QUICK, where they integrate COPYING."""
    if not design.clocks:
        return FAST
    return QUICK if all(memory.whole for memory in design.memories) else COPYING


def job(
    design: Design,
    stimulus: Stimulus,
    index: int,
    shifts: Shifts | None = None,
    tolerances: Tolerances | None = None,
    noise: Mapping[str, Noise] | None = None,
) -> Job:
    """The deck of one input, over its valid frames. Default tolerances: those of a first run."""
    currents, starts = _driven(design, stimulus, index)
    # Noise is drawn so often that no step is long, and its own corners are many and anywhere.
    turns = () if noise else tuple(corners(design, currents, starts).tolist())
    asked = _asked(design, index, starts, tolerances, turns)
    return replace(asked, netlist=str(build(design, currents, starts, shifts, noise)))


def _asked(
    design: Design, index: int, starts: Array, tolerances: Tolerances | None, turns: tuple[float, ...] = ()
) -> Job:
    """The deck of an input, but for the netlist; its sources turn at `turns`."""
    frames = len(starts) - 1
    read = dict.fromkeys([*design.facts.outputs, *_candidate_rows(design)])
    saved = [name for row in read for name in ammeters(design.signals[row])]
    saved += [name for memory in design.memories for name in memory.state_vectors()]
    saved += [*supplies(design), *clock_drives(design)]
    frame = float(np.diff(starts).min())
    longest = frame / STEPS_A_FRAME
    if design.clocks:
        cells = sum(memory.size for memory in design.memories)
        tolerances = replace(tolerances or first_tolerances(design), abstol=SOURCE_ABSTOL * cells)
        longest = min(longest, LONGEST_STEP)
    return Job(
        title=f"input {index}, {frames} frames",
        netlist="",
        analysis=Transient(stop=float(starts[-1]), max_step=longest, print_step=frame / 50, corners=turns),
        save=tuple(dict.fromkeys(saved)),
        tolerances=tolerances or FAST,
        initial=initial_voltages(design),
        temperature=design.technology.temperature_celsius,
        files=includes(design),
        time_limit=60.0 + SECONDS_A_FRAME * frames * max(1.0, design.transistors / 10000),
    )


def _driven(design: Design, stimulus: Stimulus, index: int) -> tuple[dict[str, list[Array]], Array]:
    """Waveforms of the input currents by stage, and the starts of the frames with the end of the last."""
    frames = int(stimulus.lengths[index])
    starts = stimulus.starts[: frames + 1]
    if np.diff(starts).min() <= design.facts.ramp:
        raise ConfigError(f"times: a frame must last longer than the ramp of {design.facts.ramp:g} s")
    encoded = design.encode(stimulus.x[index, :frames])
    currents = {
        name: [waveform(column, starts[:-1], design.facts.ramp) for column in values.T]
        for name, values in encoded.items()
    }
    return currents, starts


def simulate(
    design: Design,
    stimulus: Stimulus,
    shifts: Shifts | None = None,
    farm: Farm | None = None,
    progress: Callable[[int], None] | None = None,
    keep: Path | None = None,
    noise: Mapping[str, Noise] | None = None,
    checked: int | None = None,
    partition: bool | None = None,
) -> Result:
    """Every input through ngspice, as many at a time as the farm has workers.

    `shifts` are those of one chip, or of several, [chips, ...] each as `variation.draw` gives them; the
    result then has a leading axis, and no waveforms. `progress` is told how many inputs are done.
    `partition` runs a design part by part (see `partition`), or as one deck where it is False; by default
    clocked designs and those of `WIDE` latches or more, without noise, are parted. Of a clocked design,
    `checked` inputs (evenly spaced; default all) run a second time, in one deck with tighter tolerances, and
    those runs are the result. `noise` is as in `netlist.build`; ngspice cannot repeat its numbers, so nothing
    is then checked. With a folder `keep`, each finished run is kept there, in a `Store`, and not run again.
    Raises SimulationError (with the deck and the simulator's line) if a run fails, or if the two runs of an
    input do not tell the same states.
    """
    inputs = len(stimulus)
    count = 0 if noise or not design.clocks else min(inputs if checked is None else checked, inputs)
    twice = set() if count == 0 else set(np.linspace(0, inputs - 1, count).round().astype(int).tolist())
    if noise and partition:
        raise ConfigError("partition: a design with noise runs as one deck")
    wide = bool(design.clocks) or sum(memory.size for memory in design.memories) >= WIDE
    parted = wide and not noise if partition is None else partition

    chips, many = _chips(design, shifts)
    # The longest first, so that none is left alone at the end.
    tight = [(chip, index, True) for chip in range(len(chips)) for index in sorted(twice)]
    plan = tight + [(chip, index, False) for chip in range(len(chips)) for index in range(inputs)]
    work = _Work(design, stimulus, noise)
    ones = [
        _One(chips[chip], index, LATCH if again else None, parted and not again)
        for chip, index, again in plan
    ]
    jobs = {
        f"{f'chip_{chip:04d}_' if many else ''}input_{index:04d}_{work.digest(one)}": one
        for (chip, index, _), one in zip(plan, ones, strict=True)
    }

    def done(runs: int) -> None:
        if progress:
            progress(runs * len(chips) * inputs // len(plan))

    store = Store(keep, {"ngspice": find_ngspice()[1]}) if keep else None
    found = run_jobs(_Work.run, work, jobs, farm, store, done, here=_here)
    runs = {entry: Run.of(arrays) for entry, arrays in zip(plan, found.values(), strict=True)}
    for chip, index, _ in tight:
        name = f"chip {chip}, input {index}" if many else f"input {index}"
        _refuse_disagreement(design, name, runs[chip, index, False], runs[chip, index, True])
    results = [
        collect(design, stimulus, [runs[chip, index, index in twice] for index in range(inputs)])
        for chip in range(len(chips))
    ]
    return stacked(results) if many else results[0]


def _chips(design: Design, shifts: Shifts | None) -> tuple[list[Shifts | None], bool]:
    """The chips that shifts are of, and whether they have an axis for it."""
    if not shifts or (count := chip_count(design, shifts)) is None:
        return [shifts], False
    return [one_chip(shifts, k) for k in range(count)], True


def _refuse_disagreement(design: Design, name: str, loose: Run, tight: Run) -> None:
    """Raise SimulationError, naming the first frame, if two runs of an input do not tell the same states."""
    for layer, memory in enumerate(design.memories):
        differs = np.abs(loose.states[layer] - tight.states[layer]) > memory.resolution
        if differs.any():
            frame, cell = (int(at) for at in np.argwhere(differs)[0])
            raise SimulationError(
                f"{name}: two tolerance sets disagree, first in frame {frame}, {memory.name} {cell}: "
                f"{loose.states[layer][frame, cell]:g} with reltol {first_tolerances(design).reltol:g}, "
                f"{tight.states[layer][frame, cell]:g} with {LATCH.reltol:g}; neither is a result"
            )


@dataclass(frozen=True, eq=False)
class _One:
    """One run: a chip's shifts, an input, tolerances (default those of a first run), in parts or one deck."""

    shifts: Shifts | None
    index: int
    tolerances: Tolerances | None
    parted: bool


@dataclass(frozen=True, eq=False)
class _Work:
    """What all runs of a call share."""

    design: Design
    stimulus: Stimulus
    noise: Mapping[str, Noise] | None

    def steps(self, one: _One) -> Steps[Run]:
        """Its decks, and what they tell."""
        data: RawData | Waves
        if one.parted:
            currents, starts = _driven(self.design, self.stimulus, one.index)
            whole = _asked(self.design, one.index, starts, one.tolerances)
            data = yield from run_parts(self.design, whole, currents, starts, one.shifts or {})
        else:
            given = one.index, one.shifts, one.tolerances, self.noise
            (data,) = yield [partial(job, self.design, self.stimulus, *given)]
        return read_run(self.design, self.stimulus, one.index, data)

    def run(self, one: _One) -> Arrays:
        """A run by itself, on one process."""
        ((_, found),) = drive([self.steps(one)], 1)
        return found.arrays()

    def digest(self, one: _One) -> str:
        """Short hash of all that a run's outcome depends on, besides the program and the simulator."""
        stimulus, frames = self.stimulus, int(self.stimulus.lengths[one.index])
        shifts = one.shifts or {}
        arrays = [shifts[name] for name in sorted(shifts)]
        settings = repr((sorted(shifts), one.tolerances, one.parted, sorted((self.noise or {}).items())))
        text = np.frombuffer((self._design + settings).encode(), dtype=np.uint8)
        return digest(text, stimulus.x[one.index, :frames], stimulus.starts[: frames + 1], *arrays)

    @cached_property
    def _design(self) -> str:
        return self.design.fingerprint


def _here(work: _Work, ones: Mapping[str, _One], workers: int) -> Finished:
    """Runs on as many processes of ngspice; the parts of one share them."""
    keys = list(ones)
    for number, found in drive((work.steps(one) for one in ones.values()), workers):
        yield keys[number], found.arrays()


@dataclass(frozen=True, eq=False)
class Run:
    """One input's run as read: arrays over its T valid frames, and waveforms over their points."""

    logits: Array  # [T, C]
    states: list[Array]  # [T, N] by layer
    candidates: list[Array]  # A, [T, N]
    thresholds: dict[str, Array]  # A, [T, N] by layer, where they follow the input
    power: dict[str, Array]  # W
    waveforms: dict[str, Array]
    rung: int

    def arrays(self) -> dict[str, Array]:
        """Its content by name, as a store keeps it."""
        arrays = {"logits": self.logits, "rung": np.array(self.rung)}
        arrays |= {f"states.{layer}": bits for layer, bits in enumerate(self.states)}
        arrays |= {f"candidates.{layer}": amperes for layer, amperes in enumerate(self.candidates)}
        arrays |= {f"thresholds.{key}": amperes for key, amperes in self.thresholds.items()}
        arrays |= {f"power.{key}": np.asarray(watts) for key, watts in self.power.items()}
        arrays |= {f"waveforms.{key}": values for key, values in self.waveforms.items()}
        return arrays

    @staticmethod
    def of(arrays: Arrays) -> Run:
        """A run from its arrays."""

        def group(prefix: str) -> dict[str, Array]:
            return {name.partition(".")[2]: a for name, a in arrays.items() if name.startswith(f"{prefix}.")}

        states, candidates = (
            [found[str(layer)] for layer in range(len(found))]
            for found in map(group, ("states", "candidates"))
        )
        return Run(
            arrays["logits"], states, candidates, group("thresholds"), group("power"), group("waveforms"),
            int(arrays["rung"]),
        )  # fmt: skip


def read_run(design: Design, stimulus: Stimulus, index: int, data: RawData | Waves) -> Run:
    """Frame-end values, average power and waveforms of a finished run."""
    facts = design.facts
    frames = int(stimulus.lengths[index])
    ends = stimulus.starts[1 : frames + 1]
    edges = stimulus.starts[: frames + 1]
    points = np.interp(np.arange(frames * POINTS_A_FRAME + 1) / POINTS_A_FRAME, np.arange(frames + 1), edges)

    def sampled(vectors: list[str], at: Array) -> Array:
        found = data.sample(at, vectors)
        return np.stack([found[name] for name in vectors], axis=-1)

    def row(name: str, at: Array) -> Array:
        return sampled(ammeters(design.signals[name]), at)

    def logits(at: Array) -> Array:
        return design.decode({name: row(name, at) for name in facts.outputs})

    def candidates(decider: Decider, at: Array) -> Array:
        return decider.candidates({name: row(name, at) for name in decider.candidate_rows()})

    power: dict[str, Any] = {}
    # What a clock's driver gives is lost, what a supply gets back is not.
    for vectors, of in ((supplies(design), np.negative), (clock_drives(design), _given)):
        for vector, key in vectors.items():
            power[key] = power.get(key, 0.0) + facts.supply * data.average(vector, of)
    waveforms = {"time": points, "logits": logits(points)}
    thresholds = {}
    for layer, (memory, decider) in enumerate(zip(design.memories, design.deciders, strict=True)):
        waveforms[f"candidate_{layer}"] = candidates(decider, points)
        waveforms[f"stored_{layer}"] = sampled(memory.state_vectors(), points)
        if beta := decider.threshold_row:
            thresholds[str(layer)] = design.thresholds(layer, {beta: row(beta, ends)})[0]
    return Run(
        logits=logits(ends),
        states=[
            memory.read_state(sampled(memory.state_vectors(), ends), facts.supply)
            for memory in design.memories
        ],
        candidates=[candidates(decider, ends) for decider in design.deciders],
        thresholds=thresholds,
        power=power,
        waveforms=waveforms,
        rung=data.rung,
    )


def _given(current: Array) -> Array:
    return np.maximum(-current, 0.0)


def collect(design: Design, stimulus: Stimulus, runs: list[Run]) -> Result:
    """Runs of all inputs, in order, as one result."""
    facts, frames = design.facts, stimulus.x.shape[1]
    pooled = Pooled(facts.pool, stimulus.lengths)
    logits = _padded([run.logits for run in runs], frames)
    for t in range(frames):
        pooled.add(t, logits[:, t])
    layers = range(len(facts.states))
    longest = max(len(run.waveforms["time"]) for run in runs)
    waveforms = {
        name: _padded([run.waveforms[name] for run in runs], longest)
        for name in runs[0].waveforms
        if name != "time"
    }
    parts = dict.fromkeys([*supplies(design).values(), *clock_drives(design).values()])
    power = {key: np.array([run.power[key] for run in runs]) for key in parts}
    absent = [memory.absent for memory in design.memories]
    states = [_padded([run.states[layer] for run in runs], frames, absent[layer]) for layer in layers]
    return Result(
        logits=logits,
        decision=pooled.decision,
        states=[held.astype(memory.dtype) for held, memory in zip(states, design.memories, strict=True)],
        candidates=[_padded([run.candidates[layer] for run in runs], frames) for layer in layers],
        thresholds={
            int(layer): _padded([run.thresholds[layer] for run in runs], frames)
            for layer in runs[0].thresholds
        },
        supply_power=np.sum(list(power.values()), axis=0),
        breakdown=power,
        waveforms={"time": max((run.waveforms["time"] for run in runs), key=len), **waveforms},
        rungs=np.array([run.rung for run in runs]),
    )


def _candidate_rows(design: Design) -> list[str]:
    return [name for decider in design.deciders for name in decider.candidate_rows()]


def _padded(arrays: list[Array], length: int, past: float = np.nan) -> Array:
    """Arrays [T_b, n] stacked to [B, length, n], `past` after their ends."""
    out = np.full((len(arrays), length, *arrays[0].shape[1:]), past)
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = array
    return out
