"""What every study is, and how one is run: trials, measurements on the trained networks, record, figures."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from matplotlib.figure import Figure

from cmru_hw.config import write_atomically
from cmru_hw.console import progress_bar
from cmru_hw.farm import Arrays, Farm, Store, peak_bytes, run_jobs
from cmru_hw.report.plots import svg
from cmru_hw.studies.trial import Trial, one_thread, run_trial

Record = dict[str, Any]
JOBS, RECORD = "jobs", "study.json"


class Measurement(Protocol):
    """Something done with a trained network; can be pickled and follows from itself alone."""

    def run(self) -> Arrays: ...


class Study(ABC):
    """Trials, what is then measured on the networks they leave, and what both show."""

    name: str

    @classmethod
    @abstractmethod
    def quick(cls) -> Self:
        """A smaller form, for three minutes on two cores."""

    @abstractmethod
    def trials(self) -> dict[str, Trial]:
        """By key, a plain name."""

    def measurements(self, trained: Mapping[str, Arrays]) -> dict[str, Measurement]:
        """By key, no trial's; `trained` are the results of the trials."""
        return {}

    def trained_again(self) -> dict[str, Trial]:
        """Measurements that are trainings, each as a trial that takes as long, for `reckon`."""
        return {}

    @abstractmethod
    def summarise(self, results: Mapping[str, Arrays]) -> Record:
        """Plain values for JSON, from the results of trials and measurements; no times."""

    @abstractmethod
    def figures(self, record: Record) -> dict[str, Figure]:
        """By file name without `.svg`, from what `summarise` told."""

    @abstractmethod
    def rows(self, record: Record) -> tuple[list[str], list[list[str]]]:
        """Heads and rows of the table that a person is shown."""


@dataclass(frozen=True)
class Amount:
    """What a study will take: trials, those already done, and for the others seconds of one processor.

    `bytes_a_worker` is the most that the trials tried for it held.
    """

    trials: int
    kept: int
    seconds: float
    bytes_a_worker: int


def run_study(study: Study, folder: Path, farm: Farm | None = None, progress: bool = False) -> Record:
    """Run a study, with jobs kept in `folder`, and write `study.json` and its figures there.

    The same call goes on from finished jobs. Raises ConfigError if the folder holds another study.
    """
    trials = study.trials()
    store = _store(study, folder, trials)
    results = _run(run_trial, trials, farm, store, "training" if progress else None)
    measurements = study.measurements(results)
    results |= _run(_measure, measurements, farm, store, "measuring" if progress else None)
    record: Record = {"study": study.name} | study.summarise(results)
    for name, figure in study.figures(record).items():
        write_atomically(folder / f"{name}.svg", svg(figure))
    write_atomically(folder / RECORD, json.dumps(record, indent=1, allow_nan=False) + "\n")
    return record


def reckon(study: Study, folder: Path, steps: int = 20, progress: bool = False) -> Amount:
    """How long the trials that are left will take, from `steps` steps of one of each kind."""
    trials = study.trials()
    store = _store(study, folder, trials)
    trials = trials | study.trained_again()
    left = {key: trial for key, trial in trials.items() if store.get(key) is None}
    kinds: dict[str, list[Trial]] = {}
    for trial in left.values():
        kind = json.dumps([dict(trial.network), trial.task.model_dump(), trial.training.batch_size])
        kinds.setdefault(kind, []).append(trial)
    total = 0.0
    with progress_bar("timing", len(kinds)) if progress else nullcontext() as report:
        for done, alike in enumerate(kinds.values(), start=1):
            _short_run(alike[0], 1)  # loads and compiles
            seconds = _short_run(alike[0], 1 + steps) - _short_run(alike[0], 1)  # less testing
            total += max(seconds, 0.0) / steps * sum(trial.training.total_steps for trial in alike)
            if report:
                report(done)
    return Amount(len(trials), len(trials) - len(left), total, peak_bytes())


def _short_run(trial: Trial, steps: int) -> float:
    """Seconds of a processor for so many steps."""
    short = {"steps": steps, "epsilon_hold": 0, "epsilon_anneal": 0, "quantization": None}
    training = trial.training.model_copy(update=short)
    shorter = Trial(trial.network, trial.task, training, trial.init_scale, trial.task_seed)
    return float(run_trial(None, shorter)["seconds"])


def _store(study: Study, folder: Path, trials: Mapping[str, Trial]) -> Store:
    plain = {key: trial.plain() for key, trial in trials.items()}
    settings: dict[str, str] = {}
    if is_dataclass(study):
        settings = {one.name: repr(getattr(study, one.name)) for one in fields(study)}
    return Store(folder / JOBS, {"study": study.name, "settings": settings, "trials": plain})


def _measure(context: None, measurement: Measurement) -> Arrays:
    with one_thread():
        return measurement.run()


def _run(
    function: Callable[[None, Any], Arrays], jobs: Mapping[str, Any], farm: Farm | None, store: Store,
    label: str | None,
) -> dict[str, Arrays]:  # fmt: skip
    if not jobs:
        return {}
    with progress_bar(label, len(jobs)) if label else nullcontext() as report:
        return run_jobs(function, None, jobs, farm, store, report)
