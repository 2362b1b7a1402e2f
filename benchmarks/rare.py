"""Subset simulation against brute force on a mapped design; prints one JSON object.

    python benchmarks/rare.py models/speaker_vowels_fq_bmru

Chips of the shipped design with raised mismatch decide a few short utterances that are clear without it;
a chip fails with any of them wrong. Brute force counts the failures of `--chips` chips; all runs of subset
simulation together have one in `--fewer` of them, at each of `--seeds` seeds. `factor` is how far its
estimate is off, whichever way, and `within` the share of seeds that a factor of 1.5 holds for.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np

from cmru_hw import __version__
from cmru_hw.analysis.robustness.analysis import run_analyses
from cmru_hw.analysis.robustness.lot import Chips, Lot, joined, run_task
from cmru_hw.analysis.robustness.rare import RUNS, SHARE, Rare
from cmru_hw.analysis.robustness.yields import interval
from cmru_hw.behavioral import BehavioralModel
from cmru_hw.codesign import read_plan
from cmru_hw.config import cores
from cmru_hw.farm import chunks, run_jobs
from cmru_hw.mapping import map_folder
from cmru_hw.nn.network import load_network
from cmru_hw.stimulus import make_stimulus
from cmru_hw.variation import Transistors

CHIPS_A_JOB = 10000
SHORT = 50  # inputs among which the clearest are taken


def problem(model: Path, inputs: int, sigma_scale: float) -> Lot:
    """The design, and of its shortest inputs those that are decided right most clearly."""
    plan = read_plan(model / "config.yaml")
    design, _ = map_folder(model, load_network(model), plan.technology, plan.config.mapping)
    split = plan.task.test
    stimulus = make_stimulus(split.x, design.facts.input_size, design.facts.frame_period, split.lengths)
    short = np.argsort(stimulus.lengths, kind="stable")[:SHORT]
    margins = BehavioralModel(design).margins(stimulus.select(short.tolist()), split.y[short])
    chosen = short[np.argsort(-margins, kind="stable")[:inputs]]
    some = stimulus.select(chosen.tolist())
    frames = int(some.lengths.max())
    some = make_stimulus(some.x[:, :frames], design.facts.input_size, design.facts.frame_period, some.lengths)
    return Lot(design, some, split.y[chosen], seed=0, sigma_scale=sigma_scale)


def level_size(budget: int, levels: int) -> int:
    """Chips a level, so that all runs with so many levels stay within the budget."""
    return int(budget / RUNS / (1 + (levels - 1) * (SHARE - 1) / SHARE)) // SHARE * SHARE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--inputs", type=int, default=4)
    parser.add_argument("--sigma-scale", type=float, default=6.0)
    parser.add_argument("--chips", type=int, default=1000000, help="of brute force")
    parser.add_argument("--fewer", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    lot = problem(given.model, given.inputs, given.sigma_scale)
    numbers = chunks(range(given.chips), CHIPS_A_JOB, "chips")
    began = time.perf_counter()
    counted = run_jobs(run_task, lot, {key: Chips(few) for key, few in numbers.items()})
    brute_seconds = time.perf_counter() - began
    failed = int((joined(counted, "accuracy") < 1).sum())
    share = failed / given.chips
    levels = 1 if share == 0 else int(np.ceil(-np.log(share) / np.log(SHARE))) + 1
    chips = level_size(given.chips // given.fewer, levels)
    found, began = [], time.perf_counter()
    for seed in range(given.seeds):
        seeded = Lot(lot.design, lot.stimulus, lot.labels, seed, lot.sigma_scale)
        rare = Rare(seeded, 1.0, chips)
        found.append(run_analyses(seeded, [rare])["rare"])
    seconds = (time.perf_counter() - began) / given.seeds
    estimates = [one["failure_probability"] for one in found]
    factors = [max(one / share, share / one) if one and share else None for one in estimates]
    covered = [one["failure_ci95"][0] <= share <= one["failure_ci95"][1] for one in found]
    print(
        json.dumps(
            {
                "model": given.model.name,
                "inputs": given.inputs,
                "transistors": len(Transistors.of(lot.design)),
                "sigma_scale": given.sigma_scale,
                "brute": {
                    "chips": given.chips, "failed": failed, "probability": share,
                    "ci95": interval(failed, given.chips), "seconds": brute_seconds,
                },
                "subset": {
                    "chips": [one["chips"] for one in found], "probability": estimates,
                    "ci95": [one["failure_ci95"] for one in found], "factor": factors,
                    "interval_covers": sum(covered), "seconds": seconds,
                },
                "within": sum(factor is not None and factor <= 1.5 for factor in factors) / given.seeds,
                "machine": {"cores": cores(), "load": os.getloadavg()[0], "cmru_hw": __version__},
            },
            indent=1,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
