"""The most telling chips and corners again in ngspice: does the behavioural model say the same of them?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from cmru_hw.analysis.agreement import agreement, select
from cmru_hw.analysis.robustness.lot import Lot
from cmru_hw.behavioral import BehavioralModel
from cmru_hw.design import Decisions, Design, Pooled
from cmru_hw.farm import Farm
from cmru_hw.primitives.device import Array
from cmru_hw.result import Result
from cmru_hw.spice.simulate import simulate
from cmru_hw.stimulus import Stimulus
from cmru_hw.variation import draw, one_chip


def telling(accuracies: Array, target: float, count: int) -> list[int]:
    """Chips in turn from the worst, from those nearest to the target and from the median; none twice."""
    rank = [
        np.argsort(accuracies, kind="stable"),
        np.argsort(np.abs(accuracies - target), kind="stable"),
        np.argsort(np.abs(accuracies - np.median(accuracies)), kind="stable"),
    ]
    in_turn = chain.from_iterable(zip_longest(*(ranking.tolist() for ranking in rank)))
    return list(dict.fromkeys(in_turn))[:count]


@dataclass(frozen=True, eq=False)
class Suspect:
    """A circuit to run again: a design at its condition, and the shifts of one chip or none."""

    name: str
    design: Design
    shifts: dict[str, Array] | None


def chip(lot: Lot, number: int) -> Suspect:
    """A numbered chip of a lot."""
    return Suspect(
        f"chip {number}", lot.design, one_chip(draw(lot.design, [number], lot.seed, lot.sigma_scale), 0)
    )


def corner(lot: Lot, condition: dict[str, Any]) -> Suspect:
    """The nominal circuit at a condition of the corners' summary."""
    where = {key: condition[key] for key in ("corner", "supply", "celsius")}
    name = f"{where['corner']}, {where['supply']:g} V, {where['celsius']:g} C"
    return Suspect(name, lot.design.at(where["celsius"], where["supply"], where["corner"]), None)


def verify(
    lot: Lot,
    suspects: Sequence[Suspect],
    inputs: int,
    keep: Path,
    farm: Farm | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Each suspect on the shortest inputs that it decides unlike the nominal circuit, then on the shortest.

    Finished runs stay in `keep`. Of clocked designs no input runs a second time.
    """
    nominal = BehavioralModel(lot.design).decisions(lot.stimulus)
    rows = []
    for number, suspect in enumerate(suspects):
        model = BehavioralModel(suspect.design, suspect.shifts)
        decided = model.decisions(lot.stimulus)
        chosen = np.lexsort((lot.stimulus.lengths, decided == nominal))[:inputs].tolist()
        some, labels = lot.stimulus.select(chosen), lot.labels[chosen]
        behavioral = model.run(some)
        told = partial(_told, progress, number * inputs) if progress else None
        spice = simulate(
            suspect.design, some, suspect.shifts, farm, keep=keep, checked=0,
            progress=told,
        )  # fmt: skip
        found = agreement(suspect.design, select(behavioral, list(range(len(chosen)))), spice)
        margins = [_margins(suspect.design, some, result, labels) for result in (behavioral, spice)]
        rows.append(
            {
                "suspect": suspect.name,
                "accuracy": float((decided == lot.labels).mean()),
                "inputs": chosen,
                "labels": labels.tolist(),
                "nominal": nominal[chosen].tolist(),
                "behavioral": behavioral.decision.tolist(),
                "spice": spice.decision.tolist(),
                "margins": [one.tolist() for one in margins],
                "states": [found.states, found.samples],
                "kinds": found.kinds,
            }
        )
    return {
        "suspects": rows,
        "inputs": sum(len(row["inputs"]) for row in rows),
        "decisions_equal": sum(
            a == b for row in rows for a, b in zip(row["behavioral"], row["spice"], strict=True)
        ),
        "states_equal": [sum(row["states"][k] for row in rows) for k in range(2)],
    }


def _told(progress: Callable[[int], None], before: int, runs: int) -> None:
    progress(before + runs)


def _margins(design: Design, stimulus: Stimulus, result: Result, labels: Decisions) -> Array:
    pooled = Pooled(design.facts.pool, stimulus.lengths)
    for frame in range(result.logits.shape[1]):
        pooled.add(frame, np.nan_to_num(result.logits[:, frame]))
    return pooled.margins(labels)
