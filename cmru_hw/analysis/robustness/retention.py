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
from cmru_hw.design import Design
from cmru_hw.errors import ConfigError, MappingError
from cmru_hw.farm import Arrays, chunks
from cmru_hw.primitives.device import Array
from cmru_hw.primitives.integrator import Integrator
from cmru_hw.variation import draw

SECONDS = (1.0, 10.0, 60.0, 600.0, 3600.0, 36000.0)
CELSIUS = (27.0, 85.0)
CHIPS_A_JOB = 20
SHARES = ("kept", "held", "decisions")

States = Mapping[str, Array]


def hold(model: BehavioralModel, start: States, frames: Sequence[int]) -> list[tuple[States, Array]]:
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
        """Shares, [chips, seconds]: of states as the inputs left them (`kept`), of states (`held`) and of
        `decisions` by the frame's logits as they were after the first of the times.
        """
        there = lot.at(self.celsius)
        design, period = there.design, there.design.facts.frame_period
        frames = [max(1, round(seconds / period)) for seconds in self.seconds]
        found: dict[str, list[Array]] = {key: [] for key in SHARES}
        for few in there.batches(self.numbers):
            model = BehavioralModel(design, draw(design, few, lot.seed, self.scale * lot.sigma_scale))
            start = model.final(lot.stimulus)
            after = hold(model, start, frames)
            decided = [logits.argmax(axis=-1) for _, logits in after]
            equal = [(decision == decided[0]).mean(axis=-1) for decision in decided]
            times = [states for states, _ in after]
            shape = (len(few), len(frames))
            found["kept"].append(np.broadcast_to(_same(design, start, times), shape))
            found["held"].append(np.broadcast_to(_same(design, times[0], times), shape))
            found["decisions"].append(np.broadcast_to(np.stack(equal, axis=-1), shape))
        return {key: np.concatenate(parts) for key, parts in found.items()}


def _same(design: Design, before: States, times: Sequence[States]) -> Array:
    """Share of states that are as before, [..., times]."""
    cells = sum(memory.size for memory in design.memories)
    shares = []
    for states in times:
        share: Array | float = 0.0
        for memory in design.memories:
            off = np.abs(states[memory.name] - before[memory.name]) / memory.unit
            share = share + (off <= memory.resolution).mean(axis=-2).sum(axis=-1) / cells
        shares.append(share)
    return np.stack(shares, axis=-1)


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
                numbers = chunks(range(self.chips), CHIPS_A_JOB, "chips")
                each = {key: Hold(few, celsius, tuple(self.seconds)) for key, few in numbers.items()}
                each["nominal"] = Hold(range(1), celsius, tuple(self.seconds), 0.0)
                found |= keyed(f"{self.name}_{times}_{celsius:+g}C", each)
        return found

    def summary(self, results: Results) -> dict[str, Any]:
        """By temperature, over time: shares of the nominal circuit, of all chips, of the worst."""
        times = "_".join(f"{seconds:g}" for seconds in self.seconds)
        found, refused = [], []
        for celsius in self.celsius:
            if (reason := self._refused(celsius)) is not None:
                refused.append({"celsius": celsius, "reason": reason})
                continue
            prefix = f"{self.name}_{times}_{celsius:+g}C"
            nominal = results[f"{prefix}_nominal"]
            chips = under(f"{prefix}_chips", results).values()
            by_chip = {key: np.concatenate([one[key] for one in chips]) for key in SHARES}
            found.append(
                {"celsius": celsius}
                | {f"nominal_{key}": nominal[key][0].tolist() for key in SHARES}
                | {key: shares.mean(axis=0).tolist() for key, shares in by_chip.items()}
                | {f"worst_{key}": shares.min(axis=0).tolist() for key, shares in by_chip.items()}
            )
        integrates = any(isinstance(memory, Integrator) for memory in self.lot.design.memories)
        return {
            "chips": self.chips,
            "seconds": list(self.seconds),
            "droops": integrates,
            "temperatures": found,
            "refused": refused,
        }
