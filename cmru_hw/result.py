"""What either engine gives."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmru_hw.config import write_atomically
from cmru_hw.primitives.device import Array


@dataclass(frozen=True, eq=False)
class Result:
    """B inputs of T frames through a design; with a leading axis where chips were given.

    logits [B, T, C] in model units and decision [B]; by layer, states [B, T, N] (at the end of each frame)
    and candidates [B, T, N] (A, at the candidate's diode; P - M of a pair), and thresholds [B, T, N] (A) of
    those layers whose threshold follows the input; supply_power [B] in W averaged over the valid frames,
    breakdown {"block/primitive": [B]} in W. Frames past an input's length hold NaN, and in whole states one
    less than the lowest (-1 for bits). `waveforms` (ngspice only): {"time" [P] in s, "logits" [B, P, C],
    "candidate_l" [B, P, N] in A, "stored_l" [B, P, M]: the M voltages (V) that hold a layer's state}.
    `rungs` [B]: the rung of the retry ladder that each run needed (ngspice only).
    """

    logits: Array
    decision: NDArray[np.int64]
    states: list[NDArray[Any]]
    candidates: list[Array]
    supply_power: Array
    breakdown: dict[str, Array]
    thresholds: dict[int, Array] = field(default_factory=dict)
    waveforms: dict[str, Array] = field(default_factory=dict)
    rungs: NDArray[np.int64] | None = None

    def save(self, path: Path) -> None:
        """Write an `.npz` with one array a field: state_0, candidate_0, power.layer0/latch, ..."""
        arrays: dict[str, NDArray[np.generic]] = {
            "logits": self.logits,
            "decision": self.decision,
            "supply_power": self.supply_power,
        }
        for layer, (states, candidates) in enumerate(zip(self.states, self.candidates, strict=True)):
            arrays[f"state_{layer}"] = states
            arrays[f"candidate_{layer}"] = candidates
        arrays |= {f"threshold_{layer}": amperes for layer, amperes in self.thresholds.items()}
        arrays |= {f"power.{key}": value for key, value in self.breakdown.items()}
        arrays |= {f"waveform.{key}": value.astype(np.float32) for key, value in self.waveforms.items()}
        if self.rungs is not None:
            arrays["rung"] = self.rungs
        write_arrays(path, arrays)


def stacked(results: Sequence[Result]) -> Result:
    """Results of chips as one, with a leading axis; without waveforms."""

    def one(arrays: Iterable[NDArray[Any]]) -> NDArray[Any]:
        return np.stack(list(arrays))

    first = results[0]
    rungs = None if first.rungs is None else one(r.rungs for r in results if r.rungs is not None)
    return Result(
        logits=one(r.logits for r in results),
        decision=one(r.decision for r in results),
        states=[one(r.states[k] for r in results) for k in range(len(first.states))],
        candidates=[one(r.candidates[k] for r in results) for k in range(len(first.candidates))],
        supply_power=one(r.supply_power for r in results),
        breakdown={key: one(r.breakdown[key] for r in results) for key in first.breakdown},
        thresholds={k: one(r.thresholds[k] for r in results) for k in first.thresholds},
        rungs=rungs,
    )


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a compressed `.npz` atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_atomically(path, buffer.getvalue())
