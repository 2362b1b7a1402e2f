"""How long states are held: no input for seconds to hours, in the map of one frame.

At rest the input is constant, so a layer's candidates depend only on the states of layers before it, and
bits, signs and counts stop moving after a few frames: then a frame gives back the states that it began with,
and so do all that follow. What an integrator holds falls to h exp(-n r T) in n frames of T without a
decision, r the card's droop. Thresholds, and so what holds, are each chip's own at its temperature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cmru_hw.analysis.robustness.analysis import Analysis, Results, keyed, under
from cmru_hw.analysis.robustness.lot import Lot, Task
from cmru_hw.behavioral import BehavioralModel
from cmru_hw.errors import ConfigError, MappingError
from cmru_hw.farm import Arrays, chunks
from cmru_hw.primitives.device import Array
from cmru_hw.primitives.integrator import Integrator
from cmru_hw.variation import draw

SECONDS = (1.0, 10.0, 60.0, 600.0, 3600.0, 36000.0)
CELSIUS = (27.0, 85.0)
CHIPS_A_JOB = 20

States = Mapping[str, Array]


def hold(
    model: BehavioralModel, start: States, frames: Sequence[int]
) -> list[tuple[dict[str, Array], Array]]:
    """States and logits [..., B, C] after so many frames (rising, >= 1) without input, from given states.

    Where an integrator's fall moves later layers, leaps are no longer than the time before them.
    """
    states, done = dict(start), 0
    fall = any(isinstance(memory, Integrator) for memory in model.design.memories[:-1])
    found: list[tuple[States, Array]] = []
    for target in frames:
        while done < target:
            following, logits = model.rest(states)
            done += 1
            skipped = min(target - done - 1, done if fall else target)
            if skipped > 0 and (later := model.rested(states, following, skipped)) is not None:
                following, done = later, done + skipped
            states = following
        found.append((states, logits))
    return found


@dataclass(frozen=True)
class Hold(Task):
    """Numbered chips that hold what each input left behind, for `seconds` at a temperature."""

    numbers: range
    celsius: float
    seconds: Sequence[float]
    scale: float = 1.0

    def run(self, lot: Lot) -> Arrays:
        """Share of states `kept`, [chips, seconds], and of `decisions` that the first frame of rest gave."""
        there = lot.at(self.celsius)
        design, period = there.design, there.design.facts.frame_period
        frames = [max(1, round(seconds / period)) for seconds in self.seconds]
        kept, decisions = [], []
        for few in there.batches(self.numbers):
            model = BehavioralModel(design, draw(design, few, lot.seed, self.scale * lot.sigma_scale))
            start = model.final(lot.stimulus)
            (_, first), *after = hold(model, start, [1, *frames])
            shape = (len(few), len(lot.stimulus))
            same = np.zeros((len(few), len(frames)))
            cells = sum(memory.size for memory in design.memories)
            for memory in design.memories:
                before = np.broadcast_to(start[memory.name], (*shape, memory.size))
                for k, (states, _) in enumerate(after):
                    off = np.abs(states[memory.name] - before) / memory.unit
                    same[:, k] += (off <= memory.resolution).mean(axis=1).sum(axis=-1) / cells
            told = first.argmax(axis=-1)
            equal = [(logits.argmax(axis=-1) == told).mean(axis=-1) for _, logits in after]
            kept.append(same)
            decisions.append(np.broadcast_to(np.stack(equal, axis=-1), same.shape))
        return {"kept": np.concatenate(kept), "decisions": np.concatenate(decisions)}


@dataclass(frozen=True)
class Retention(Analysis):
    """States kept over time and chips, at each temperature."""

    name: ClassVar[str] = "retention"
    lot: Lot
    chips: int
    seconds: Sequence[float] = SECONDS
    celsius: Sequence[float] = CELSIUS

    def _refused(self, celsius: float) -> str | None:
        try:
            self.lot.design.at(celsius)
        except (ConfigError, MappingError) as error:
            return str(error)
        return None

    def tasks(self) -> dict[str, Task]:
        """The nominal circuit and the chips."""
        times = "_".join(f"{seconds:g}" for seconds in self.seconds)
        found: dict[str, Task] = {}
        for celsius in self.celsius:
            if self._refused(celsius) is None:
                each: dict[str, Task] = {"nominal": Hold(range(1), celsius, tuple(self.seconds), 0.0)}
                for key, few in chunks(range(self.chips), CHIPS_A_JOB, "chips").items():
                    each[key] = Hold(few, celsius, tuple(self.seconds))
                found |= keyed(f"{self.name}_{times}_{celsius:+g}C", each)
        return found

    def summary(self, results: Results) -> dict[str, Any]:
        """By temperature, over time: share of states as the input left them, and of decisions at rest."""
        times = "_".join(f"{seconds:g}" for seconds in self.seconds)
        found, refused = [], []
        for celsius in self.celsius:
            if (reason := self._refused(celsius)) is not None:
                refused.append({"celsius": celsius, "reason": reason})
                continue
            prefix = f"{self.name}_{times}_{celsius:+g}C"
            nominal = results[f"{prefix}_nominal"]
            chips = under(f"{prefix}_chips", results).values()
            kept, decisions = (np.concatenate([one[key] for one in chips]) for key in ("kept", "decisions"))
            found.append(
                {
                    "celsius": celsius,
                    "nominal_states_kept": nominal["kept"][0].tolist(),
                    "nominal_decisions_kept": nominal["decisions"][0].tolist(),
                    "states_kept": kept.mean(axis=0).tolist(),
                    "states_kept_worst_chip": kept.min(axis=0).tolist(),
                    "decisions_kept": decisions.mean(axis=0).tolist(),
                    "decisions_kept_worst_chip": decisions.min(axis=0).tolist(),
                }
            )
        integrates = any(isinstance(memory, Integrator) for memory in self.lot.design.memories)
        return {
            "chips": self.chips,
            "seconds": list(self.seconds),
            "droops": integrates,
            "temperatures": found,
            "refused": refused,
        }
