"""Run a design in ngspice, one deck an input, and read it at the end of every frame."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmru_hw.config import write_atomically
from cmru_hw.design import Design, Pooled, Stage, block_of
from cmru_hw.errors import ConfigError
from cmru_hw.primitives.device import Array, Shifts
from cmru_hw.primitives.latch import Latch
from cmru_hw.result import Result, write_arrays
from cmru_hw.spice.job import FAST, Job, Tolerances, Transient
from cmru_hw.spice.netlist import (
    ammeters,
    build,
    includes,
    initial_voltages,
    supplies,
    waveform,
)
from cmru_hw.spice.ngspice import find_ngspice, imap
from cmru_hw.spice.rawfile import RawData
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
    if np.diff(starts).min() <= design.facts.ramp:
        raise ConfigError(f"times: a frame must last longer than the ramp of {design.facts.ramp:g} s")
    encoded = design.encode(stimulus.x[index, :frames])
    currents = {
        name: [waveform(column, starts[:-1], design.facts.ramp) for column in values.T]
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
    progress: Callable[[int], None] | None = None,
    keep: Path | None = None,
) -> Result:
    """Every input through ngspice, as many at a time as there are cores; `shifts` are those of one chip.

    With a folder `keep`, each finished run is written there under a name that holds a hash of its deck,
    and is not run again. Raises SimulationError (with the deck and the simulator's line) if a run fails.
    """
    jobs = [job(design, stimulus, index, shifts, tolerances) for index in range(len(stimulus))]
    paths = [keep / f"input_{i:04d}_{deck_hash(one)}.npz" if keep else None for i, one in enumerate(jobs)]
    runs = {i: Run.load(path) for i, path in enumerate(paths) if path is not None and path.exists()}
    missing = [i for i in range(len(jobs)) if i not in runs]
    for number, data in imap((jobs[i] for i in missing), workers):
        index = missing[number]
        runs[index] = read_run(design, stimulus, index, data)
        if (path := paths[index]) is not None:
            runs[index].save(path)
        if progress:
            progress(len(runs))
    return collect(design, stimulus, [runs[index] for index in range(len(jobs))])


def deck_hash(run: Job) -> str:
    """Short hash of all that a run's outcome depends on: deck, included files, the simulator's version."""
    digest = hashlib.sha256(run.deck().encode())
    for name, content in sorted(run.files.items()):
        digest.update(
            name.encode() + (content.encode() if isinstance(content, str) else content.read_bytes())
        )
    digest.update(str(find_ngspice()[1]).encode())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Run:
    """One input's run as read: arrays over its T valid frames, and waveforms over their points."""

    logits: Array  # [T, C]
    states: list[Array]  # [T, N] by layer
    candidates: list[Array]  # A, [T, N]
    power: dict[str, Array]  # W
    waveforms: dict[str, Array]
    rung: int

    def save(self, path: Path) -> None:
        """Write an `.npz`."""
        arrays = {"logits": self.logits, "rung": np.array(self.rung)}
        arrays |= {f"states.{layer}": bits for layer, bits in enumerate(self.states)}
        arrays |= {f"candidates.{layer}": amperes for layer, amperes in enumerate(self.candidates)}
        arrays |= {f"power.{key}": watts for key, watts in self.power.items()}
        arrays |= {f"waveforms.{key}": values for key, values in self.waveforms.items()}
        write_arrays(path, arrays)

    @staticmethod
    def load(path: Path) -> Run:
        """A run saved before. Raises ConfigError if the file is not whole."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
                arrays = {name: content[name] for name in content.files}
            groups: dict[str, dict[str, Array]] = {
                "states": {},
                "candidates": {},
                "power": {},
                "waveforms": {},
            }
            for name, array in arrays.items():
                group, _, key = name.partition(".")
                if key:
                    groups[group][key] = array
            states, candidates = (
                [groups[name][str(layer)] for layer in range(len(groups[name]))]
                for name in ("states", "candidates")
            )
            return Run(
                arrays["logits"],
                states,
                candidates,
                groups["power"],
                groups["waveforms"],
                int(arrays["rung"]),
            )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ConfigError(f"{path}: not a finished run: {error}; delete it to run it again") from error


def read_run(design: Design, stimulus: Stimulus, index: int, data: RawData) -> Run:
    """Frame-end values, average power and waveforms of a finished run."""
    facts = design.facts
    frames = int(stimulus.lengths[index])
    ends = stimulus.starts[1 : frames + 1]
    edges = stimulus.starts[: frames + 1]
    points = np.interp(np.arange(frames * POINTS_A_FRAME + 1) / POINTS_A_FRAME, np.arange(frames + 1), edges)

    def currents(stage: Stage, at: Array) -> Array:
        names = ammeters(stage)
        sampled = data.sample(at, names)
        return np.stack([sampled[name] for name in names], axis=-1)

    def stored(latch: Latch, at: Array) -> Array:
        names = [f"v({latch.stored(j)})" for j in range(latch.size)]
        sampled = data.sample(at, names)
        return np.stack([sampled[name] for name in names], axis=-1)

    def logits(at: Array) -> Array:
        return design.decode({name: currents(design.signals[name], at) for name in facts.outputs})

    power: dict[str, Array] = {}
    for name, (own, references) in supplies(design).items():
        for vector, primitive in ((own, design.signals[name].kind), (references, "bias")):
            drawn = -np.trapezoid(data[vector], data.time) / edges[-1]
            key = f"{block_of(name)}/{primitive}"
            power[key] = power.get(key, 0.0) + facts.supply * drawn
    waveforms = {"time": points, "logits": logits(points)}
    for layer, latch in enumerate(design.latches):
        waveforms[f"candidate_{layer}"] = currents(design.signals[latch.candidate], points)
        waveforms[f"v0_{layer}"] = stored(latch, points)
    return Run(
        logits=logits(ends),
        states=[(stored(latch, ends) > facts.supply / 2).astype(float) for latch in design.latches],
        candidates=[currents(design.signals[latch.candidate], ends) for latch in design.latches],
        power=power,
        waveforms=waveforms,
        rung=data.rung,
    )


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
    power = {key: np.array([run.power[key] for run in runs]) for key in runs[0].power}
    states = [_padded([run.states[layer] for run in runs], frames) for layer in layers]
    return Result(
        logits=logits,
        decision=pooled.decision,
        states=[np.where(np.isnan(bits), -1, bits).astype(np.int8) for bits in states],
        candidates=[_padded([run.candidates[layer] for run in runs], frames) for layer in layers],
        supply_power=np.sum(list(power.values()), axis=0),
        breakdown=power,
        waveforms={"time": max((run.waveforms["time"] for run in runs), key=len), **waveforms},
        rungs=np.array([run.rung for run in runs]),
    )


def _padded(arrays: list[Array], length: int) -> Array:
    """Arrays [T_b, n] stacked to [B, length, n], NaN past their ends."""
    out = np.full((len(arrays), length, *arrays[0].shape[1:]), np.nan)
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = array
    return out


def write_deck(run: Job, folder: Path) -> None:
    """The deck of a run with its models, so that `ngspice -b deck.cir` runs it in that folder."""
    for name, content in run.files.items():
        text = content if isinstance(content, str) else content.read_text(encoding="utf-8")
        write_atomically(folder / name, text)
    write_atomically(folder / ".spiceinit", "set num_threads=1\n")
    write_atomically(folder / "deck.cir", run.deck())
