"""Several networks trained side by side: configurations and seeds, each run in a folder of its own."""

from __future__ import annotations

import json
import re
import tempfile
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

    Workers of a cluster need not see `out`: they are sent a run's files and give them back when it is done.
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
        if farm and farm.scheduler:
            sent = {key: (*job, context.files(job)) for key, job in jobs.items()}
            run_jobs(_train_away, context.plans, sent, farm, _Folders(context, jobs), report)
            farm = Farm(1)  # which finds every run finished
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
        plan = seeded(self.plans[job[0]], job[1])
        _, metrics = train_network(plan, self.folder(job), tensorboard=self.tensorboard)
        del metrics["timing"]
        return {"metrics": np.frombuffer(json.dumps(metrics).encode(), dtype=np.uint8)}

    def folder(self, job: tuple[str, int]) -> Path:
        """Of one run."""
        return self.out / job[0] / f"seed{job[1]}"

    def files(self, job: tuple[str, int]) -> dict[str, bytes]:
        """What a run has left so far, by name."""
        return _files(self.folder(job))


def _train_away(plans: Mapping[str, Plan], job: tuple[str, int, Mapping[str, bytes]]) -> Arrays:
    """A run begun or gone on with in a folder of the worker's; the files that it left, by name."""
    name, seed, before = job
    with tempfile.TemporaryDirectory(prefix="cmru-hw-") as folder:
        for file, content in before.items():
            Path(folder, file).write_bytes(content)
        train_network(seeded(plans[name], seed), Path(folder))
        return {file: np.frombuffer(content, np.uint8) for file, content in _files(Path(folder)).items()}


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("[!.]*")) if path.is_file()}


@dataclass(frozen=True)
class _Folders:
    """Run folders as a store of what workers elsewhere give back."""

    runs: _Runs
    jobs: Mapping[str, tuple[str, int]]

    def get(self, key: str) -> Arrays | None:
        """Nothing for a run that is finished, which is not sent out again; None for others."""
        return {} if (self.runs.folder(self.jobs[key]) / "metrics.json").exists() else None

    def put(self, key: str, result: Arrays) -> None:
        """Write the files of a run, the one that says that it is finished last."""
        for name in sorted(result, key=lambda name: name == "metrics.json"):
            write_atomically(self.runs.folder(self.jobs[key]) / name, result[name].tobytes())


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
