"""The fast model: a design's stages as NumPy equations on currents, one step a frame, for many chips at once.

Each frame is read when it has settled, so what happens inside a frame (delay, hazards) is not in this
model; `compare` shows what that costs against SPICE.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmru_hw.design import Design, Pooled, block_of
from cmru_hw.primitives.device import Array, Shifts
from cmru_hw.primitives.noise_source import Noise
from cmru_hw.primitives.signal import Frame, over_batch
from cmru_hw.result import Result
from cmru_hw.stimulus import Stimulus


class BehavioralModel:
    """A design's gains and thresholds, ideal or of the given chips, ready to step.

    `noise`, by stage, adds to the current of every diode of the stage; `seed` draws it, equal for all chips.
    """

    def __init__(
        self,
        design: Design,
        shifts: Shifts | None = None,
        noise: Mapping[str, Noise] | None = None,
        seed: int = 0,
    ) -> None:
        self.design = design
        self._noise, self._seed = design.named(noise or {}), seed
        given = shifts or {}
        self._currents: dict[str, Any] = {
            stage.name: stage.currents(design.signals, given, design.technology) for stage in design.stages
        }

    def thresholds(self, layer: int, values: Mapping[str, Array] | None = None) -> tuple[Array, Array]:
        """Upper and lower threshold of a layer, in A at the candidate's diode: [..., N] each.

        `values` are the currents of the rows that the thresholds follow, where they follow the input.
        """
        decider = self.design.deciders[layer]
        return decider.thresholds(self._currents[decider.name], values or {})

    def frames(self, x: Array) -> Iterator[Frame]:
        """Step through x [B, T, I], a frame at a time."""
        design = self.design
        currents = design.encode(x)
        states = {
            stage.name: np.broadcast_to(over_batch(start), (*start.shape[:-1], len(x), stage.size))
            for stage in design.stages
            if (start := stage.start(self._currents[stage.name])) is not None
        }
        added = self._drawn_noise(x)
        for t in range(x.shape[1]):
            values = {name: current[:, t] for name, current in currents.items()}
            frame = Frame(technology=design.technology, clocks=design.clocks, before=states, values=values)
            for stage in design.stages:
                name = stage.name
                stage.advance(frame, self._currents[name])
                if name in added:
                    frame.values[name] = np.maximum(frame.values[name] + added[name][..., t], 0.0)
                for polarity, drive in stage.drives(
                    frame.values[name], design.facts.supply, design.technology
                ).items():
                    frame.drives[name, polarity] = drive
            states = frame.states
            yield frame

    def _drawn_noise(self, x: Array) -> dict[str, Array]:
        """Noise currents (A) by stage, [B, N, T]."""
        drawn = {}
        for number, (name, noise) in enumerate(sorted(self._noise.items())):
            random = np.random.default_rng([self._seed, number])
            shape = (len(x), self.design.signals[name].size, x.shape[1])
            period = self.design.facts.frame_period
            drawn[name] = noise.source.frame_noise(random, shape, period, noise.pole)
        return drawn

    def run(self, stimulus: Stimulus) -> Result:
        """Everything about the inputs."""
        design, facts, lengths = self.design, self.design.facts, stimulus.lengths
        pooled = Pooled(facts.pool, lengths)
        logits = []
        power: dict[str, Array] = {}
        layers = list(zip(design.memories, design.deciders, strict=True))
        states: list[list[Array]] = [[] for _ in layers]
        candidates: list[list[Array]] = [[] for _ in layers]
        thresholds: list[list[Array]] = [[] for _ in layers]
        constant = {
            f"{block_of(stage.name)}/{part}": 0.0 for stage in design.stages for part in ("bias", "clock")
        }
        for stage in design.stages:
            block = block_of(stage.name)
            constant[f"{block}/bias"] += stage.bias_current
            constant[f"{block}/clock"] += stage.clock_current(
                facts.frame_period, facts.supply, design.technology
            )
        for t, frame in enumerate(self.frames(stimulus.x)):
            logits.append(design.decode(frame.values))
            pooled.add(t, logits[-1])
            for layer, (memory, decider) in enumerate(layers):
                states[layer].append(frame.states[memory.name])
                candidates[layer].append(decider.candidates(frame.values))
                if decider.threshold_row:
                    thresholds[layer].append(self.thresholds(layer, frame.values)[0])
            for stage in design.stages:
                key = f"{block_of(stage.name)}/{stage.kind}"
                power[key] = (
                    power.get(key, 0.0) + facts.supply * frame.drawn[stage.name] * stimulus.shares[:, t]
                )
        power |= {
            key: np.asarray(facts.supply * current)
            for key, current in constant.items()
            if current or key.endswith("/bias")
        }
        past = (np.arange(stimulus.x.shape[1]) >= lengths[:, None])[..., None]
        shape = pooled.decision.shape
        power = {key: np.broadcast_to(watts, shape) for key, watts in power.items()}

        def stacked(frames: list[Array]) -> Array:
            return np.where(past, np.nan, np.stack(frames, axis=-2))

        return Result(
            logits=stacked(logits),
            decision=pooled.decision,
            states=[
                np.where(past, memory.absent, np.stack(layer, axis=-2) / memory.unit).astype(memory.dtype)
                for layer, (memory, _) in zip(states, layers, strict=True)
            ],
            candidates=[stacked(layer) for layer in candidates],
            thresholds={k: stacked(layer) for k, layer in enumerate(thresholds) if layer},
            supply_power=np.sum(list(power.values()), axis=0),
            breakdown=power,
        )

    def decisions(self, stimulus: Stimulus) -> NDArray[np.int64]:
        """The decisions alone, in memory that does not grow with T."""
        pooled = Pooled(self.design.facts.pool, stimulus.lengths)
        for t, frame in enumerate(self.frames(stimulus.x)):
            pooled.add(t, self.design.decode(frame.values))
        return pooled.decision
