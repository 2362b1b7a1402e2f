"""Several networks trained side by side: configurations and seeds, each run in a folder of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cmru_hw.codesign import Plan, read_plan, seeded, train_network
from cmru_hw.config import write_atomically
from cmru_hw.console import progress_bar
from cmru_hw.errors import ConfigError
from cmru_hw.farm import Arrays, Farm, run_jobs
from cmru_hw.training.log import event_writer


def read_plans(paths: Sequence[Path], device: str | None = None, **task_options: Any) -> dict[str, Plan]:
    """The plans of co-design files by name: the file's, or with its folder's where files share one.

    `device` is used instead of `training.device`, `task_options` instead of those of the task.
    """
    stems = [path.stem for path in paths]
    names = [
        path.stem if stems.count(path.stem) == 1 else f"{path.absolute().parent.name}_{path.stem}"
        for path in paths
    ]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{name}: two configurations of this name; give one of them another")
    plans = {name: read_plan(path, **task_options) for name, path in zip(names, paths, strict=True)}
    return {name: _on(plan, device) for name, plan in plans.items()} if device else plans


def read_seeds(text: str) -> range:
    """`5` for 0 to 4, `2..6` for 2 to 6. Raises ConfigError for anything else."""
    found = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", text)
    if found:
        first, last = (int(found[1]), int(found[2])) if found[2] else (0, int(found[1]) - 1)
        if first <= last:
            return range(first, last + 1)
    raise ConfigError(f"--seeds: must be a number above 0, or FIRST..LAST, got {text!r}")


def train_runs(
    plans: Mapping[str, Plan],
    out: Path,
    seeds: Sequence[int] | None = None,
    farm: Farm | None = None,
    tensorboard: bool = False,
) -> dict[str, Any]:
    """Train every plan with every seed (None: its own) into `out/NAME/seedS`; each resumes as one alone does.

    Returns, and writes to `out/runs.json`, the metrics of all `runs`, and for each name a `summary` over
    seeds: mean, std (of the seeds, ddof 1), min and max of the accuracies.
    """
    import torch

    for name, plan in plans.items():
        if plan.config.training is None:
            raise ConfigError(f"{name}: training: missing from the configuration")
    if tensorboard:
        event_writer()
    jobs = {
        f"{name}_seed{seed}": (name, seed)
        for name, plan in plans.items()
        for seed in (seeds if seeds is not None else [plan.seed])
    }
    context = _Runs(dict(plans), out.absolute(), tensorboard)
    with torch.random.fork_rng(), progress_bar("networks", len(jobs)) as report:
        trained = run_jobs(_Runs.train, context, jobs, farm, progress=report)
    runs = []
    for key, (name, _) in jobs.items():
        metrics = json.loads(trained[key]["metrics"].tobytes())
        runs.append({"network": name, **metrics})
    found = {"runs": runs, "summary": {name: _summary(name, runs) for name in plans}}
    write_atomically(out / "runs.json", json.dumps(found, indent=1) + "\n")
    return found


@dataclass(frozen=True)
class _Runs:
    """Plans by name, and where their runs go."""

    plans: dict[str, Plan]
    out: Path
    tensorboard: bool

    def train(self, job: tuple[str, int]) -> Arrays:
        """The metrics of one run, as JSON."""
        name, seed = job
        plan = seeded(self.plans[name], seed)
        _, metrics = train_network(plan, self.out / name / f"seed{seed}", tensorboard=self.tensorboard)
        del metrics["timing"]
        return {"metrics": np.frombuffer(json.dumps(metrics).encode(), dtype=np.uint8)}


def _on(plan: Plan, device: str) -> Plan:
    if plan.config.training is None:
        return plan
    training = plan.config.training.model_copy(update={"device": device})
    return replace(plan, config=plan.config.model_copy(update={"training": training}))


def _summary(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    mine = [run for run in runs if run["network"] == name]
    found: dict[str, Any] = {key: mine[0][key] for key in ("task", "unit", "parameters")}
    found["seeds"] = len(mine)
    for key in ("train_accuracy", "validation_accuracy", "test_accuracy"):
        values = np.array([run[key] for run in mine if run[key] is not None])
        found[key] = None
        if len(values):
            found[key] = {
                "mean": float(values.mean()),
                "std": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
                "min": float(values.min()),
                "max": float(values.max()),
            }
    return found
