"""The fast model: a design's stages as NumPy equations on currents, one step a frame, for many chips at once.

Each frame is read when it has settled, so what happens inside a frame (delay, hazards) is not in this
model; `compare` shows what that costs against SPICE.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmru_hw.design import Design, Pooled, block_of
from cmru_hw.primitives.device import Array, Shifts
from cmru_hw.primitives.mirror import Input, Mirror
from cmru_hw.result import Result
from cmru_hw.stimulus import Stimulus
from cmru_hw.technology import Polarity


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame, by stage: currents (A), bits, and supply current (A) without bias references."""

    values: dict[str, Array]
    bits: dict[str, Array]
    supply: dict[str, Array]


class BehavioralModel:
    """A design's gains and thresholds, ideal or of the given chips, ready to step."""

    def __init__(self, design: Design, shifts: Shifts | None = None) -> None:
        self.design = design
        given = shifts or {}
        technology, signals = design.technology, design.signals
        self._currents: dict[str, Any] = {
            stage.name: stage.currents(signals, given, technology)
            for stage in design.stages
            if not isinstance(stage, Input)
        }

    def thresholds(self) -> list[tuple[Array, Array]]:
        """Upper and lower threshold by layer, in A at the candidate's diode: [..., N] each."""
        found = (self._currents[latch.name] for latch in self.design.latches)
        return [(one["up"] / one["candidate"], one["down"] / one["candidate"]) for one in found]

    def frames(self, x: Array) -> Iterator[Frame]:
        """Step through x [B, T, I], a frame at a time."""
        currents = self.design.encode(x)
        bits = {
            latch.name: np.broadcast_to(latch.initial_state.astype(float), (len(x), latch.size))
            for latch in self.design.latches
        }
        for t in range(x.shape[1]):
            frame = self._step({name: current[:, t] for name, current in currents.items()}, bits)
            bits = frame.bits
            yield frame

    def _step(self, inputs: dict[str, Array], bits: dict[str, Array]) -> Frame:
        design, supply = self.design, self.design.facts.supply
        values, new_bits = dict(inputs), {}
        drawn: dict[str, Array] = {}
        drives: dict[tuple[str, Polarity], Array] = {}
        for stage in design.stages:
            name = stage.name
            if isinstance(stage, Input):
                drawn[name] = stage.supply_current(values[name])
            elif isinstance(stage, Mirror):
                values[name], positive = stage.step(drives, self._currents[name], supply, design.technology)
                drawn[name] = stage.supply_current(values[name], positive)
            else:
                currents, candidate = self._currents[name], values[stage.candidate]
                new_bits[name] = stage.step(bits[name], candidate, currents)
                values[name] = stage.output(new_bits[name], currents)
                drawn[name] = stage.supply_current(new_bits[name], candidate, values[name], currents)
            for polarity, drive in stage.drives(values[name], supply, design.technology).items():
                drives[name, polarity] = drive
        return Frame(values, new_bits, drawn)

    def run(self, stimulus: Stimulus) -> Result:
        """Everything about the inputs."""
        design, facts, lengths = self.design, self.design.facts, stimulus.lengths
        pooled = Pooled(facts.pool, lengths)
        logits = []
        power: dict[str, Array] = {}
        states: list[list[Array]] = [[] for _ in facts.states]
        candidates: list[list[Array]] = [[] for _ in facts.states]
        for t, frame in enumerate(self.frames(stimulus.x)):
            logits.append(design.decode(frame.values))
            pooled.add(t, logits[-1])
            for layer, latch in enumerate(design.latches):
                states[layer].append(frame.bits[latch.name])
                candidates[layer].append(frame.values[latch.candidate])
            for stage in design.stages:
                for primitive, current in (
                    (stage.kind, frame.supply[stage.name]),
                    ("bias", np.asarray(stage.bias_current)),
                ):
                    key = f"{block_of(stage.name)}/{primitive}"
                    power[key] = power.get(key, 0.0) + facts.supply * current * stimulus.shares[:, t]
        past = (np.arange(stimulus.x.shape[1]) >= lengths[:, None])[..., None]
        shape = pooled.decision.shape
        power = {key: np.broadcast_to(watts, shape) for key, watts in power.items()}
        return Result(
            logits=np.where(past, np.nan, np.stack(logits, axis=-2)),
            decision=pooled.decision,
            states=[np.where(past, -1, np.stack(layer, axis=-2)).astype(np.int8) for layer in states],
            candidates=[np.where(past, np.nan, np.stack(layer, axis=-2)) for layer in candidates],
            supply_power=np.sum(list(power.values()), axis=0),
            breakdown=power,
        )

    def decisions(self, stimulus: Stimulus) -> NDArray[np.int64]:
        """The decisions alone, in memory that does not grow with T."""
        pooled = Pooled(self.design.facts.pool, stimulus.lengths)
        for t, frame in enumerate(self.frames(stimulus.x)):
            pooled.add(t, self.design.decode(frame.values))
        return pooled.decision
