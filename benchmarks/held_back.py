"""What holds the CMRU back in the study of benchmarks: its networks again, one thing changed; prints JSON.

    python benchmarks/held_back.py --seeds 2 --keep out/held_back

The study's tasks, sizes, seeds and data, and the learning rates that it chose for the CMRU, from its record;
`saturating` has levels, `longer` so many times the steps. Neither is tuned, and both are compared with the
CMRU, LRU and minGRU of the same seeds in the record. Jobs that are in `--keep` are not run again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cmru_hw import __version__
from cmru_hw.farm import Farm, Store, run_jobs
from cmru_hw.studies.benchmarks import REFERENCES, Benchmarks, Scored
from cmru_hw.studies.trial import Trial

RECORD = Path(__file__).parent / "results" / "studies" / "benchmarks.json"
POINTS: tuple[tuple[str, int, str], ...] = (
    ("flip_flop", 500, "saturating"),
    ("flip_flop", 2000, "saturating"),
    ("shapes_1d", 2000, "saturating"),
    ("expressions", 2000, "saturating"),
    ("digits", 2000, "saturating"),
    ("digits", 2000, "longer"),
)
LEVELS = 2
TIMES = 4


def changed(trial: Trial, what: str, seed: int) -> Trial:
    """A trial of the CMRU with another seed and one change."""
    training = trial.training.model_copy(update={"seed": seed})
    if what == "longer":
        training = training.model_copy(update={"steps": TIMES * training.steps})
    levels = {"levels": LEVELS} if what == "saturating" else {}
    return replace(trial, network={**trial.network, **levels}, training=training, task_seed=seed)


def run(context: None, scored: Scored) -> Any:
    return scored.run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--keep", type=Path, default=Path("out/held_back"))
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    rows = json.loads(RECORD.read_text(encoding="utf-8"))["rows"]
    record = {(row["task"], row["size"], row["unit"]): row for row in rows}
    trials, jobs = Benchmarks().trials(), {}
    for task, size, what in POINTS:
        tuned = trials[f"{task}_{size}_cmru_rate{record[task, size, 'cmru']['rate']:g}"]
        for seed in range(given.seeds):
            jobs[f"{task}_{size}_{what}_seed{seed}"] = Scored(changed(tuned, what, seed))
    store = Store(given.keep, {"jobs": {key: job.trial.plain() for key, job in jobs.items()}})
    found = run_jobs(run, None, jobs, Farm(given.workers), store)
    results = []
    for task, size, what in POINTS:
        keys = [f"{task}_{size}_{what}_seed{seed}" for seed in range(given.seeds)]
        beside = {
            unit: record[task, size, unit]["accuracies"][: given.seeds] for unit in ("cmru", *REFERENCES)
        }
        accuracies = [float(found[key]["test_accuracy"]) for key in keys]
        results.append(
            {"task": task, "size": size, "changed": what, "accuracies": accuracies, "beside": beside,
             "mean": float(np.mean(accuracies))}
        )  # fmt: skip
    print(json.dumps(
        {"levels": LEVELS, "times": TIMES, "seeds": given.seeds, "rows": results, "cmru_hw": __version__},
        indent=1,
    ))  # fmt: skip


if __name__ == "__main__":
    main()
