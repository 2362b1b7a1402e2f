"""A design as parts that run one after another, each driven by the waveforms of those before it.

Mirrors couple one way: nothing of what a gate drives comes back to it but through capacitances of a
transistor. So a design falls into rows of mirrors and rows of decisions, and these into cells. Each part is a
deck of its own, whose taken gates are voltage sources that repeat what was simulated before, and whose given
gates carry the transistors of those after it as loads. It pays because ngspice takes every step of a deck
for all of it: a clock edge in a cell then costs that cell alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain, groupby, pairwise

import numpy as np
from numba import njit
from numpy.typing import NDArray
from PySpice.Spice.Netlist import Circuit

from cmru_hw.design import Design, Stage
from cmru_hw.primitives.clock import BankClock
from cmru_hw.primitives.device import Array, Shifts
from cmru_hw.primitives.mirror import Mirror
from cmru_hw.primitives.signal import Decider, Load, Memory, copy_gate, gate, source_net
from cmru_hw.spice.job import Job, Transient
from cmru_hw.spice.netlist import assemble, clock_drives, corners, includes, initial_voltages, supplies
from cmru_hw.spice.rawfile import RawData
from cmru_hw.technology import Polarity, Technology

DRIVE_ERROR = 2e-5
"""V by which a source that repeats a gate's voltage may be off: 0.06 % of a current."""
EVENT, MIRROR_EVENT = 2e-2, 0.3
"""V: a deck of cells, of mirrors, stops where a line between its stops would be this far from a gate that it
repeats. Between them it chooses its steps, as the sources are smooth; stopping at all of their points took it
30 times as many. A pulse of little more than one current sets a cell; of mirrors only edges count."""
MIRROR_STEPS = 50
"""Of a deck of mirrors that repeats gates, in a frame, at least. With fewer and an event at 20 mV, gates were
off by 6 mV at a frame's end in as many steps altogether."""
EVENTS_APART = 1e-3
"""Of a frame: events closer than this are one, and those as close to another corner none."""
GOLDEN = (5**0.5 - 1) / 2
MIRROR_RELTOL = 2e-5
"""Of a deck of mirrors. Alone they would be simulated in few steps; at 1e-3 their gates were off by 3 mV on
the way, which a cell, reading them in the middle of a frame, takes for 8 % of a current."""
LARGEST_ROW = 300
"""Transistors of rows of mirrors in one deck; what has more runs in as many as it takes, side by side."""
SOURCE_ABSTOL = 1e-15
"""A, for each clocked cell of a deck. abstol bounds the current of every source too; on a clock net it is all
charge, and at 1e-16 A some decks did not converge (`timestep too small`). No source holds charge, and signals
are 1e-10 A. What charges a gate is 1e-12 A: with an abstol of 1e-13 A mirrors alone took steps that left
gates 0.1 V behind a ramp."""


@dataclass(frozen=True, eq=False)
class Part:
    """Stages in one deck: rows of mirrors, or elements of rows, from `first` on of those named in `cut`."""

    stages: tuple[Stage, ...]
    signals: Mapping[str, Stage]
    technology: Technology
    clocks: Mapping[str, BankClock]
    first: int = 0
    cut: frozenset[str] = frozenset()

    @property
    def taken(self) -> Iterator[Load]:
        """Gates that it puts on nets of the parts before it."""
        inside = {stage.name for stage in self.stages}
        for stage in self.stages:
            yield from (one for one in stage.loads(self.signals, self.technology) if one.source not in inside)

    def in_design(self, net: str) -> str:
        """What a net of a row of currents is called in the whole design."""
        return self._in_design.get(net, net)

    @cached_property
    def _in_design(self) -> dict[str, str]:
        return {
            kind(name, j): kind(name, self.first + j)
            for name in self.cut
            for j in range(self.signals[name].size)
            for kind in (gate, copy_gate, source_net)
        }

    @property
    def decides(self) -> bool:
        """Whether it is of decisions, rather than of mirrors."""
        return isinstance(self.stages[0], Decider | Memory)

    def vectors(self, design: Design) -> dict[str, str]:
        """What is read of it, each with its name in the whole design."""
        found = {name: name for name in (*supplies(self), *clock_drives(self))}
        for stage in self.stages:
            whole = design.signals[stage.name]
            if stage.measured:
                found |= {f"i(v{net})": f"i(v{self.in_design(net)})" for net in _source_nets(stage)}
            if isinstance(stage, Memory) and isinstance(whole, Memory):
                own, all_of = stage.state_vectors(), whole.state_vectors()
                first = self.first * len(own)
                found |= zip(own, all_of[first : first + len(own)], strict=True)
        return found


def parts(design: Design) -> list[list[Part]]:
    """The parts of a design, in levels: those of one level need nothing of each other."""

    def depth(stage: Stage, least: int) -> int:
        # Mirrors have even depths and decisions odd ones, each after what it takes from.
        return least + (least % 2 != isinstance(stage, Decider | Memory))

    levels = _levels(design.stages, depth)
    found = []
    for level, stages in sorted(levels.items()):
        if level % 2:
            found.append([_cell(design, stages, j) for j in range(stages[0].size)])
        else:
            found += _rows(design, stages)
    return found


def _cell(design: Design, stages: Sequence[Stage], j: int) -> Part:
    """Element j of rows of decisions, and of all that they take from."""
    names = {stage.name for stage in stages} | {name for stage in stages for name, _ in stage.taken()}
    alone = {name: design.signals[name].elements(j, j + 1) for name in names}
    own = tuple(alone[stage.name] for stage in stages)
    return Part(own, alone, design.technology, design.clocks, j, frozenset(names))


def _rows(design: Design, stages: Iterable[Stage]) -> Iterator[list[Part]]:
    """Rows of mirrors as levels: those of many transistors in pieces, the others between them together, or,
    where they are many together, a row each.
    """
    for wide, group in groupby(stages, lambda stage: _pieces(stage, design) > 1):
        rows = tuple(group)
        if wide:
            for stage in rows:
                bounds = np.linspace(0, stage.size, _pieces(stage, design) + 1).round().astype(int).tolist()
                yield [_piece(design, stage, first, last) for first, last in pairwise(bounds)]
        elif sum(_transistors(stage, design) for stage in rows) <= LARGEST_ROW:
            yield [Part(rows, design.signals, design.technology, {})]
        else:
            for _, level in sorted(_levels(rows, lambda _, least: least + 1).items()):
                yield [Part((stage,), design.signals, design.technology, {}) for stage in level]


def _levels(stages: Sequence[Stage], depth: Callable[[Stage, int], int]) -> dict[int, list[Stage]]:
    """Stages by depth, which follows from a stage and the deepest of these stages that it takes from."""
    depths: dict[str, int] = {}
    levels: dict[int, list[Stage]] = {}
    inside = {stage.name for stage in stages}
    for stage in stages:
        least = max((depths[name] for name, _ in stage.taken() if name in inside), default=0)
        depths[stage.name] = depth(stage, least)
        levels.setdefault(depths[stage.name], []).append(stage)
    return levels


def _transistors(stage: Stage, design: Design) -> int:
    arrays = stage.devices(design.technology).values()
    return sum(int(np.count_nonzero(array.units)) for array in arrays)


def _pieces(stage: Stage, design: Design) -> int:
    """Into how many decks a row goes; inputs stay whole, beside the currents that drive them."""
    count = _transistors(stage, design) if isinstance(stage, Mirror) else 0
    return 1 if count <= LARGEST_ROW else min(stage.size, 2 * -(-count // (2 * LARGEST_ROW)))


def _piece(design: Design, stage: Stage, first: int, last: int) -> Part:
    own = stage.elements(first, last)
    signals = {**design.signals, stage.name: own}
    return Part((own,), signals, design.technology, {}, first, frozenset({stage.name}))


def _source_nets(stage: Stage) -> list[str]:
    return [source_net(stage.name, j) for j in range(stage.size)]


class Waves:
    """Vectors of a design as the decks of its parts gave them, each on time points of its own."""

    def __init__(self) -> None:
        self._found: dict[str, list[tuple[RawData, str]]] = {}

    def add(self, data: RawData, names: Mapping[str, str]) -> None:
        """Take in a part's vectors, each with its name in the design."""
        for own, name in names.items():
            self._found.setdefault(name.lower(), []).append((data, own))

    def wave(self, name: str) -> tuple[Array, Array]:
        """Time (s) and values of a vector that one part gave."""
        ((data, own),) = self._found[name.lower()]
        return data.time, data[own]

    def sample(self, at: Array, names: Iterable[str]) -> dict[str, Array]:
        """Each of `names` linearly interpolated at `at`."""
        return {name: np.interp(at, *self.wave(name)) for name in names}

    def average(self, name: str, of: Callable[[Array], Array]) -> float:
        """The time average of `of` a vector's values, summed over the parts that share the source."""
        return sum(data.average(own, of) for data, own in self._found[name.lower()])

    @property
    def rung(self) -> int:
        """The highest rung of the retry ladder that a part took."""
        return max(data.rung for found in self._found.values() for data, _ in found)


def run_parts(
    design: Design, flat: Job, currents: Mapping[str, Sequence[Array]], starts: Array, shifts: Shifts
) -> Generator[Sequence[Callable[[], Job]], list[RawData], Waves]:
    """What makes the jobs of a design's parts, a level at a time, from the results of those before.

    `flat` is a job of the whole design, but for the netlist; currents, starts and shifts are as
    `netlist.assemble` takes them.
    """
    levels = parts(design)
    given: dict[str, Counter[Polarity]] = {}
    for part in chain.from_iterable(levels):
        for load in part.taken:
            given.setdefault(part.in_design(load.net), Counter())[load.polarity] += load.units
    waves = Waves()
    for level in levels:
        kept = [part.vectors(design) | _gates(part, given) for part in level]
        jobs = [
            partial(_job, part, list(names), flat, waves, given, currents, starts, shifts)
            for part, names in zip(level, kept, strict=True)
        ]
        for data, names in zip((yield jobs), kept, strict=True):
            waves.add(data, names)
    return waves


def _gates(part: Part, given: Mapping[str, Counter[Polarity]]) -> dict[str, str]:
    """Gates that later parts take, as vectors, each with its name in the design."""
    nets = (kind(s.name, j) for s in part.stages for j in range(s.size) for kind in (gate, copy_gate))
    return {f"v({net})": f"v({part.in_design(net)})" for net in nets if part.in_design(net) in given}


def _job(
    part: Part, save: list[str], flat: Job, waves: Waves, given: Mapping[str, Counter[Polarity]],
    currents: Mapping[str, Sequence[Array]], starts: Array, shifts: Shifts,
) -> Job:  # fmt: skip
    technology, first = part.technology, part.first
    drawn = {
        f"{stage.name}.{name}": shifts[f"{stage.name}.{name}"][first : first + stage.size]
        for stage in part.stages
        for name in (stage.devices(technology) if shifts else ())
    }
    names = ", ".join(stage.name for stage in part.stages) + (f" from {first}" if part.cut else "")
    circuit = assemble(part, names, currents, starts, drawn, {})
    turns = corners(part, currents, starts)
    beat = _drive(circuit, part, waves, starts, turns)
    _load(circuit, part, given)
    tolerances, analysis = replace(flat.tolerances, abstol=SOURCE_ABSTOL), flat.analysis
    if isinstance(analysis, Transient):
        analysis = replace(analysis, corners=tuple(np.union1d(turns, beat).tolist()))
        if not part.decides and any(part.taken):
            step = float(np.diff(starts).min()) / MIRROR_STEPS
            analysis = replace(analysis, max_step=min(step, analysis.max_step or step))
    if not part.decides:
        tolerances = replace(tolerances, reltol=MIRROR_RELTOL)
    return replace(
        flat, title=f"{flat.title}: {names}", netlist=str(circuit), analysis=analysis, save=tuple(save),
        initial=initial_voltages(part), files=includes(part), tolerances=tolerances,
    )  # fmt: skip


def _drive(circuit: Circuit, part: Part, waves: Waves, starts: Array, turns: Array) -> Array:
    """Sources that repeat the gates which the part takes, and one that makes ngspice stop at their events.

    The sources are functions of time, at whose corners ngspice does not stop. It does at the frames' ends,
    where everything is read, and at `EVENT`s, so that no passing pulse falls between two steps; not at those
    close to where another source turns, as it stops there, and near is not the same (`Transient`). Returns
    the times of the stops.
    """
    apart = float(np.diff(starts).min()) * EVENTS_APART
    events = np.array([])
    for net in dict.fromkeys(load.net for load in part.taken):
        time, volts = waves.wave(f"v({part.in_design(net)})")
        kept = thinned(time, volts[:, None], DRIVE_ERROR)
        points = ", ".join(f"{t:.12g}, {v:.8g}" for t, v in np.stack([time, volts], axis=-1)[kept].tolist())
        circuit.B(f"drive_{net}", net, circuit.gnd, v=f"pwl(time, {points})")
        own = kept[thinned(time[kept], volts[kept, None], EVENT if part.decides else MIRROR_EVENT)]
        events = np.union1d(events, time[own])
    beats = np.union1d(starts, _sparse(events, np.union1d(starts, turns), apart))
    values = [(float(at), 1e-3 * (k % 2)) for k, at in enumerate(beats)]
    circuit.PieceWiseLinearVoltageSource("beat", "beat", circuit.gnd, values=values)
    return beats


def _sparse(times: Array, stops: Array, apart: float) -> Array:
    """Of sorted `times`, some that lie half of `apart` from all stops and from each other.

    They come up to half of it late, by multiples of the golden ratio: the deck that they are from chose its
    steps as the next one will, which must not come upon them by itself (`job.UNEVEN`).
    """
    after = np.searchsorted(stops, times).clip(1, len(stops) - 1)
    kept: list[float] = []
    for time in times[np.minimum(np.abs(stops[after] - times), np.abs(times - stops[after - 1])) >= apart]:
        if not kept or time - kept[-1] >= apart:
            kept.append(time)
    return np.array(kept) + apart / 2 * (GOLDEN * np.arange(1, len(kept) + 1) % 1)


def _load(circuit: Circuit, part: Part, given: Mapping[str, Counter[Polarity]]) -> None:
    """The gates of later parts on those of this one."""
    unit, corner = part.technology.unit, part.technology.corner_shift
    circuit.V("vdd_load", "vdd_load", circuit.gnd, part.technology.supply)
    for vector in _gates(part, given):
        net = vector[2:-1]
        for polarity, units in given[part.in_design(net)].items():
            rail = "0" if polarity == "n" else "vdd_load"
            moved = {"dvt": corner.of(polarity)} if corner.of(polarity) else {}
            circuit.X(
                f"load_{polarity}_{net}", f"{polarity}fet", rail, net, rail, rail,
                W=f"{unit.w_um:g}u", L=f"{unit.l_um:g}u", M=units, **moved,
            )  # fmt: skip


@njit(cache=True)
def thinned(time: Array, values: Array, error: float) -> NDArray[np.int64]:
    """Points of waveforms [points, n] to keep, so that lines between them are within `error` of all."""
    kept = np.empty(len(time), dtype=np.int64)
    kept[0], count, first = 0, 1, 0
    for last in range(2, len(time)):
        span = time[last] - time[first]
        fits = True
        for k in range(first + 1, last):
            at = (time[k] - time[first]) / span
            for i in range(values.shape[1]):
                line = values[first, i] + at * (values[last, i] - values[first, i])
                fits = fits and abs(values[k, i] - line) <= error
            if not fits:
                break
        if not fits:
            first = last - 1
            kept[count] = first
            count += 1
    kept[count] = len(time) - 1
    return kept[: count + 1]
