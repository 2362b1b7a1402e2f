"""The fast model: a design's stages as equations on currents, one step a frame, for many chips at once.

Each frame is read when it has settled, so what happens inside a frame (delay, hazards) is not in this
model; `compare` shows what that costs against SPICE.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cmru_hw.design import Decisions, Design, Pooled, Stage
from cmru_hw.primitives.branch_noise import Spectrum
from cmru_hw.primitives.device import Array, Shifts, Single
from cmru_hw.primitives.integrator import Integrator
from cmru_hw.primitives.noise_source import Noise
from cmru_hw.primitives.signal import Decider, Frame, Memory, block_of, node_capacitances, over_batch
from cmru_hw.result import Result
from cmru_hw.stimulus import Stimulus
from cmru_hw.technology import Polarity
from cmru_hw.variation import chip_count

ROWS = 32768
"""Of a block, about: chips times inputs times frames. Many enough for NumPy, few enough for a cache."""


class BehavioralModel:
    """A design's gains and thresholds, ideal or of the given chips, ready to step.

    `noise`, by stage, adds to the current of every diode of the stage. With `intrinsic` the circuit's own
    noise acts where the network is read: on candidates as they are decided on and on the outputs. `seed`
    draws both, equal for all chips.
    """

    def __init__(
        self,
        design: Design,
        shifts: Shifts | None = None,
        noise: Mapping[str, Noise] | None = None,
        seed: int = 0,
        intrinsic: bool = False,
        stuck: Mapping[str, Array] | None = None,
        capacitance: float = 1.0,
    ) -> None:
        self.design, self._intrinsic = design, intrinsic
        self._technology = design.technology
        if capacitance != 1:
            self._technology = design.technology.with_capacitances(capacitance)
        self._capacitances = node_capacitances(design.signals, self._technology) if intrinsic else {}
        self._noise, self._seed = design.named(noise or {}), seed
        self._gates: dict[str, set[Polarity]] = {}  # that are mirrored, by row
        for stage in design.stages:
            for name, polarity in stage.mirrors():
                self._gates.setdefault(name, set()).add(polarity)
        given = shifts or {}
        self._chips = chip_count(design, given) or 1
        self._currents: dict[str, Any] = {
            stage.name: _single(stage.currents(design.signals, given, self._technology))
            for stage in design.stages
        }
        for name, states in design.named(stuck or {}).items():
            self._currents[name] = {**self._currents[name], "stuck": np.asarray(states, Single)}
            self._chips = max(self._chips, len(states))

    def thresholds(self, layer: int, values: Mapping[str, Array] | None = None) -> tuple[Array, Array]:
        """Upper and lower threshold of a layer, in A at the candidate's diode: [..., N] each.

        `values` are the currents of the rows that the thresholds follow, where they follow the input.
        """
        decider = self.design.deciders[layer]
        return decider.thresholds(self._currents[decider.name], values or {})

    def start(self, batch: int) -> dict[str, Array]:
        """What stages hold before the first frame, [..., batch, size]."""
        found = {}
        for stage in self.design.stages:
            currents = self._currents[stage.name]
            if (start := stage.start(currents)) is not None:
                states = np.broadcast_to(over_batch(start), (*start.shape[:-1], batch, stage.size))
                found[stage.name] = stage.held(states, currents) if isinstance(stage, Memory) else states
        return found

    def blocks(
        self,
        x: Array,
        lengths: Decisions | None = None,
        metered: bool = True,
        start: Mapping[str, Array] | None = None,
    ) -> Iterator[Block]:
        """Take x [B, T, I] through the design, a block of frames at a time; by default inputs last T frames.

        Blocks have `drawn` if `metered`. `start` is what stages hold before, [..., B, size]; by default
        `self.start`.

        A stage without a state takes all frames of a block at once, as nothing in a design looks back but
        the states; the others go from frame to frame.
        """
        last = np.full(len(x), x.shape[1]) if lengths is None else lengths
        order = np.argsort(-last, kind="stable")
        alive = (last[order][:, None] > np.arange(last.max())).sum(axis=0)
        inputs, added = _single(self.design.encode(x[order])), self._drawn_noise(x[order], order)
        deviates = self._deviates(x, order) if self._intrinsic else {}
        given = self.start(len(x)) if start is None else start
        states = {name: held[..., order, :] for name, held in given.items()}
        first = 0
        while first < len(alive):
            rows = np.cumsum(alive[first:])
            count = max(1, int(np.searchsorted(rows, ROWS // self._chips, side="right")))
            block = Block(first, order, np.concatenate([[0], rows[:count]]), metered)
            self._fill(block, inputs, states, added, deviates)
            yield block
            states = {name: block.frame(values, -1) for name, values in block.states.items()}
            first += count

    def _fill(
        self,
        block: Block,
        inputs: Mapping[str, Array],
        states: Mapping[str, Array],
        added: Mapping[str, Array],
        deviates: Mapping[str, Array],
    ) -> None:
        """Take all stages through a block; `states` hold what it begins with."""
        design, technology = self.design, self._technology
        whole = Frame(
            technology=technology, clocks=design.clocks, before={}, drives={},
            values={name: block.gather(current) for name, current in inputs.items()},
            metered=block.metered, states=block.states, drawn=block.drawn, noise=block.noise,
            capacitances=self._capacitances,
        )  # fmt: skip
        for stage in design.stages:
            name = stage.name
            if self._intrinsic and isinstance(stage, Decider):
                noise = np.sqrt(stage.candidate_noise(whole, self._currents[name]))
                noise = noise * block.gather(deviates[name])
                whole.values[stage.shaken] = whole.values[stage.shaken] + noise
            if name in states:
                self._follow(block, whole, stage, states[name])
            else:
                stage.advance(whole, self._currents[name])
            if name in added:
                whole.values[name] = np.maximum(whole.values[name] + block.gather(added[name]), 0.0)
            value = whole.values[name]
            for polarity in self._gates.get(name, ()):
                whole.drives[name, polarity] = stage.drive(value, polarity, technology)
            if self._intrinsic:
                stage.fluctuate(whole, self._currents[name])
                if name in design.facts.outputs:
                    noise = np.sqrt(whole.noise[name, stage.polarity].variance)
                    value = np.maximum(value + noise * block.gather(deviates[name]), 0.0)
            # A row that takes from none is as constant as its biases.
            rows = int(block.ends[-1])
            whole.values[name] = np.broadcast_to(value, (*value.shape[:-2], rows, stage.size))
            if block.metered:
                drawn = whole.drawn[name]
                whole.drawn[name] = np.broadcast_to(drawn, (*np.shape(drawn)[:-1], rows))
        block.values = whole.values

    def _follow(self, block: Block, whole: Frame, stage: Stage, state: Array) -> None:
        """Take a stage with a state from frame to frame."""
        taken = [name for name, _ in stage.taken()]
        found: list[Frame] = []
        for k in range(len(block.ends) - 1):
            count = block.ends[k + 1] - block.ends[k]
            frame = Frame(
                technology=whole.technology, clocks=whole.clocks, metered=whole.metered,
                before={stage.name: state[..., :count, :]},
                values={name: block.frame(whole.values[name], k) for name in taken},
                states={name: block.frame(whole.states[name], k) for name in taken if name in whole.states},
            )  # fmt: skip
            stage.advance(frame, self._currents[stage.name])
            state = frame.states[stage.name]
            found.append(frame)
        for kind, axis in (("values", -2), ("states", -2), *([("drawn", -1)] if whole.metered else [])):
            parts = [getattr(frame, kind)[stage.name] for frame in found]
            getattr(whole, kind)[stage.name] = _joined(parts, block.counts, axis)

    def _deviates(self, x: Array, order: Decisions) -> dict[str, Array]:
        """Standard normal numbers, [B, T, N], for the stages where the circuit's own noise is read."""
        stages = [*self.design.deciders, *(self.design.signals[name] for name in self.design.facts.outputs)]
        return {
            stage.name: np.random.default_rng([self._seed, number, 1]).standard_normal(
                (len(x), x.shape[1], stage.size)
            )[order]
            for number, stage in enumerate(stages)
        }

    def _drawn_noise(self, x: Array, order: Decisions) -> dict[str, Array]:
        """Noise currents (A) by stage, [B, T, N]."""
        drawn = {}
        for number, (name, noise) in enumerate(sorted(self._noise.items())):
            random = np.random.default_rng([self._seed, number])
            shape = (len(x), self.design.signals[name].size, x.shape[1])
            period = self.design.facts.frame_period
            currents = noise.source.frame_noise(random, shape, period, noise.pole)
            drawn[name] = np.swapaxes(currents, 1, 2)[order]
        return drawn

    def run(self, stimulus: Stimulus) -> Result:
        """Everything about the inputs."""
        design, facts, lengths = self.design, self.design.facts, stimulus.lengths
        shape = stimulus.x.shape[:2]
        pooled = Pooled(facts.pool, lengths)
        logits = _Padded(shape)
        states, candidates = ([_Padded(shape) for _ in design.memories] for _ in range(2))
        thresholds = {k: _Padded(shape) for k, one in enumerate(design.deciders) if one.threshold_row}
        power: dict[str, Any] = {}
        for stage in design.stages:
            block_name = block_of(stage.name)
            for part, current in (
                ("bias", stage.bias_current),
                ("clock", stage.clock_current(facts.frame_period, facts.supply, design.technology)),
            ):
                if current or part == "bias":
                    key = f"{block_name}/{part}"
                    power[key] = power.get(key, 0.0) + facts.supply * current
        for block in self.blocks(stimulus.x, lengths):
            decoded = design.decode(block.values)
            logits.put(block, decoded)
            for t, count, frame in block.frames(decoded):
                pooled.add(t, _scattered(frame, block.order[:count], len(lengths)))
            for layer, (memory, decider) in enumerate(zip(design.memories, design.deciders, strict=True)):
                states[layer].put(block, block.states[memory.name] / memory.unit)
                candidates[layer].put(block, decider.candidates(block.values))
                if layer in thresholds:
                    thresholds[layer].put(block, self.thresholds(layer, block.values)[0])
            shares = block.gather(stimulus.shares[block.order][..., None])[:, 0]
            for stage in design.stages:
                key = f"{block_of(stage.name)}/{stage.kind}"
                watts = facts.supply * block.drawn[stage.name] * shares
                for _, count, frame in block.frames(watts[..., None]):
                    more = _scattered(frame, block.order[:count], len(lengths))[..., 0]
                    power[key] = power.get(key, 0.0) + more
        powers = {key: np.broadcast_to(watts, pooled.decision.shape) for key, watts in power.items()}
        return Result(
            logits=logits.filled(np.nan),
            decision=pooled.decision,
            states=[
                states[layer].filled(memory.absent).astype(memory.dtype)
                for layer, memory in enumerate(design.memories)
            ],
            candidates=[padded.filled(np.nan) for padded in candidates],
            thresholds={layer: padded.filled(np.nan) for layer, padded in thresholds.items()},
            supply_power=np.sum(list(powers.values()), axis=0),
            breakdown=powers,
        )

    def decisions(self, stimulus: Stimulus) -> Decisions:
        """The decisions alone, in memory that does not grow with T."""
        return self._pooled(stimulus).decision

    def margins(self, stimulus: Stimulus, labels: Decisions) -> Array:
        """How clearly each input is decided right, [..., B]: see `Pooled.margins`."""
        return self._pooled(stimulus).margins(labels)

    def _pooled(self, stimulus: Stimulus) -> Pooled:
        pooled = Pooled(self.design.facts.pool, stimulus.lengths)
        for block in self.blocks(stimulus.x, stimulus.lengths, metered=False):
            for t, count, frame in block.frames(self.design.decode(block.values)):
                pooled.add(t, _scattered(frame, block.order[:count], len(stimulus)))
        return pooled

    def final(self, stimulus: Stimulus) -> dict[str, Array]:
        """What stages hold at the end of each input, [..., B, size]."""
        found = dict(self.start(len(stimulus)))
        for block in self.blocks(stimulus.x, stimulus.lengths, metered=False):
            for name, rows in block.states.items():
                states = found[name]
                for t, count, frame in block.frames(rows):
                    inputs = block.order[:count]
                    ends = stimulus.lengths[inputs] == t + 1
                    if ends.any():
                        states = np.array(np.broadcast_to(states, (*frame.shape[:-2], *states.shape[-2:])))
                        states[..., inputs[ends], :] = frame[..., ends, :]
                found[name] = states
        return found

    def rest(self, start: Mapping[str, Array]) -> tuple[dict[str, Array], Array]:
        """States after a frame without input that begins with `start`, and its logits [..., B, C]."""
        batch = next(iter(start.values())).shape[-2]
        (block,) = self.blocks(np.zeros((batch, 1, self.design.facts.input_size)), start=start)
        back = np.argsort(block.order)
        states = {name: rows[..., back, :] for name, rows in block.states.items()}
        return states, self.design.decode(block.values)[..., back, :]

    def rested(
        self, before: Mapping[str, Array], after: Mapping[str, Array], frames: int
    ) -> dict[str, Array] | None:
        """States so many frames of rest after `after`; None while cells are moving.

        `before` and `after` are those around a frame without input. Where it moved nothing none after it
        will, but for what integrators lose.
        """
        found = dict(after)
        for memory in self.design.memories:
            held = after[memory.name]
            moved = held - before[memory.name]
            if isinstance(memory, Integrator):
                idle = after[memory.decider] == 0
                kept = memory.kept(frames * self.design.facts.frame_period, self._technology)
                faded = memory.faded(held, self._currents[memory.name], kept)
                moved, found[memory.name] = np.where(idle, 0.0, moved), np.where(idle, faded, held)
            if (np.abs(moved) > 1e-9 * np.abs(memory.extremes).max()).any():
                return None
        return found


@dataclass(eq=False)
class Block:
    """Frames `first` and following of all inputs that have not ended, in rows; [..., rows, size] each.

    Frame k has the rows `ends[k]` to `ends[k + 1]`, one an input, longest inputs first: row i of a frame is
    input `order[i]`. `drawn` is [..., rows]; `noise`, of the circuit's own, by row and polarity of the gates.
    """

    first: int
    order: Decisions
    ends: Decisions
    metered: bool = True
    values: dict[str, Array] = field(default_factory=dict)
    states: dict[str, Array] = field(default_factory=dict)
    drawn: dict[str, Array] = field(default_factory=dict)
    noise: dict[tuple[str, Polarity], Spectrum] = field(default_factory=dict)

    @property
    def counts(self) -> Decisions:
        """Inputs in each frame."""
        return np.diff(self.ends)

    def frame(self, rows: Array, k: int) -> Array:
        """Rows of frame k of the block."""
        k %= len(self.ends) - 1
        return rows[..., self.ends[k] : self.ends[k + 1], :]

    def frames(self, rows: Array) -> Iterator[tuple[int, int, Array]]:
        """Number, inputs and rows of each frame."""
        for k, count in enumerate(self.counts):
            yield self.first + k, int(count), self.frame(rows, k)

    def gather(self, ordered: Array) -> Array:
        """Rows of an array [B, T, n] whose inputs are in the block's order; in memory, element by element."""
        frames = [ordered[:count, self.first + k].T for k, count in enumerate(self.counts)]
        return np.concatenate(frames, axis=1).T


class _Padded:
    """An array [..., B, T, n] put together from blocks."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._shape, self._blocks = shape, list[tuple[Block, Array]]()

    def put(self, block: Block, rows: Array) -> None:
        self._blocks.append((block, rows))

    def filled(self, past: float) -> Array:
        """With `past` beyond the inputs' ends."""
        leading, size = np.broadcast_shapes(*(rows.shape[:-2] for _, rows in self._blocks)), 0
        size = self._blocks[0][1].shape[-1]
        out = np.full((*leading, *self._shape, size), past)
        for block, rows in self._blocks:
            for t, count, frame in block.frames(rows):
                out[..., block.order[:count], t, :] = frame
        return out


def _single(currents: Any) -> Any:
    """Currents by what they are, in single precision."""
    return currents and {key: np.asarray(each, Single) for key, each in currents.items()}


def _joined(parts: Sequence[Array], counts: Decisions, axis: int) -> Array:
    """Frames end to end along the axis of inputs, and with the chips that any of them has."""
    leading = np.broadcast_shapes(*(part.shape[:axis] for part in parts))
    last = parts[0].shape[axis + 1 :] if axis < -1 else ()
    shaped = [np.broadcast_to(p, (*leading, n, *last)) for p, n in zip(parts, counts, strict=True)]
    return np.concatenate(shaped, axis=axis)


def _scattered(frame: Array, inputs: Decisions, batch: int) -> Array:
    """Rows [..., inputs, n] at their places among all inputs, else 0."""
    out = np.zeros((*frame.shape[:-2], batch, frame.shape[-1]))
    out[..., inputs, :] = frame
    return out
