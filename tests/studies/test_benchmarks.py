"""The benchmarks: equal sizes and budgets, rates chosen by validation alone, a test by its definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from cmru_hw.farm import Arrays
from cmru_hw.studies.benchmarks import COMPARED, OURS, TUNING_SEED, Benchmarks, Scored, paired_t
from cmru_hw.studies.study import run_study
from cmru_hw.studies.trial import run_trial
from cmru_hw.training import TaskConfig

FLIP_FLOP = TaskConfig.model_validate(
    {"name": "flip_flop", "length": 8, "train_size": 64, "test_size": 32, "validation_fraction": 0.25}
)
SHAPES = TaskConfig.model_validate(
    {"name": "shapes_1d", "length": 10, "train_size": 64, "test_size": 32, "validation_fraction": 0.25}
)


def tiny(**options: Any) -> Benchmarks:
    settings: dict[str, Any] = {
        "units": ("cmru", "annealed_bmru", "lru", "min_gru"), "tasks": (FLIP_FLOP, SHAPES),
        "parameters": (200,), "seeds": 2, "rates": (1e-3, 1e-2), "steps": 8, "hold": 2, "anneal": 2,
        "evaluate_every": 2,
    }  # fmt: skip
    return Benchmarks(**settings | options)


def tuned(accuracies: list[float], loss: float) -> Arrays:
    """What a trial with evaluations at steps 2, 4, ... found."""
    steps = 2 * np.arange(1, len(accuracies) + 1)
    return {"steps": steps, "validation_accuracy": np.array(accuracies), "loss": np.full(len(steps), loss)}


def test_the_full_study_gives_each_unit_the_same_and_nearly_equal_sizes() -> None:
    study = Benchmarks()
    trials = study.trials()
    assert len(study.tasks) >= 6
    assert len(study.parameters) == 3
    assert study.seeds >= 5
    assert len(trials) == len(study.tasks) * 3 * len(COMPARED) * len(study.rates)
    for trial in trials.values():
        assert trial.training.steps == study.steps
        assert trial.training.seed == trial.task_seed == TUNING_SEED
    for size, tolerance in zip(study.parameters, (0.2, 0.1, 0.05), strict=True):
        of_size = [trial for key, trial in trials.items() if f"_{size}_" in key]
        for trial in of_size[:: len(study.rates)]:
            assert abs(trial.build().num_parameters() / size - 1) < tolerance


@pytest.mark.parametrize(
    ("slow", "fast", "expected"),
    [
        (tuned([0.5, 0.5, 0.9, 0.8], 1.0), tuned([0.5, 0.5, 0.7, 0.7], 0.1), 1e-3),
        (tuned([0.5, 0.5, 0.7, 0.7], 1.0), tuned([0.5, 0.5, 0.7, 0.7], 0.1), 1e-2),
        (tuned([0.9, 0.5, 0.6, 0.6], 1.0), tuned([0.5, 0.5, 0.7, 0.7], 2.0), 1e-2),
    ],
    ids=["accuracy", "loss of equals", "only at epsilon 0"],
)
def test_the_rate_is_chosen_by_validation(slow: Arrays, fast: Arrays, expected: float) -> None:
    study = tiny(units=("annealed_bmru",), tasks=(FLIP_FLOP,), seeds=1)
    trained = {"flip_flop_200_annealed_bmru_rate0.001": slow, "flip_flop_200_annealed_bmru_rate0.01": fast}
    (measurement,) = study.measurements(trained).values()
    assert isinstance(measurement, Scored)
    assert measurement.trial.training.learning_rate == expected
    assert measurement.trial.training.seed == measurement.trial.task_seed == 0


def test_paired_t_is_the_mean_difference_over_its_standard_error() -> None:
    one, other = [0.9, 0.8, 0.85, 0.7], [0.7, 0.75, 0.8, 0.72]
    difference = np.subtract(one, other)
    t = difference.mean() / (difference.std(ddof=1) / np.sqrt(4))
    assert paired_t(one, other) == pytest.approx(2 * stats.t.sf(abs(t), 3))
    assert paired_t([0.75, 1.0], [0.5, 0.75]) is None


def test_record_is_what_single_trials_give(tmp_path: Path) -> None:
    study = tiny()
    record = run_study(study, tmp_path)
    assert len(record["rows"]) == 2 * 4
    rows = {(row["task"], row["unit"]): row for row in record["rows"]}
    for (task, unit), row in rows.items():
        better = max((rows[task, name] for name in ("lru", "min_gru")), key=lambda one: one["mean"])
        assert row["reference"] == better["unit"]
        assert row["difference"] == pytest.approx(np.mean(row["accuracies"]) - np.mean(better["accuracies"]))
        assert row["spread"] == pytest.approx(np.std(row["accuracies"], ddof=1))
        if unit == better["unit"]:
            assert row["p"] is None
    row = rows["shapes_1d", "cmru"]
    trial = study.trials()[f"shapes_1d_200_cmru_rate{row['rate']:g}"]
    again = study.measurements({key: run_trial(None, one) for key, one in study.trials().items()})
    seeded = again["shapes_1d_200_cmru_seed1"]
    assert isinstance(seeded, Scored)
    assert seeded.trial.training.learning_rate == trial.training.learning_rate
    assert float(run_trial(None, seeded.trial)["test_accuracy"]) == row["accuracies"][1]
    best = [task for task in ("flip_flop", "shapes_1d") if any(
        (task, unit) in rows and rows[task, unit]["difference"] >= 0 for unit in OURS
    )]  # fmt: skip
    assert record["at_or_above"] == {"200": best}
    assert (tmp_path / "benchmarks.svg").stat().st_size > 5000
    heads, table = study.rows(record)
    assert heads == ["task", "parameters", "CMRU", "BMRU, annealed", "LRU", "minGRU"]
    assert [line[:2] for line in table] == [["flip_flop", "200"], ["shapes_1d", "200"]]


def test_quick_form_is_smaller() -> None:
    quick, full = Benchmarks.quick(), Benchmarks()
    assert len(quick.trials()) * quick.steps * 10 < len(full.trials()) * full.steps
