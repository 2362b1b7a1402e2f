"""Every unit on every task at equal parameter counts: accuracy, spread and a paired test.

The network has two layers with skip connections, of which the last frame's logits decide. Learning rates are
chosen by unit, task and size: one network at each of `rates`, with a seed used for nothing else; the rate
with the best validation accuracy, of equals the lower final loss, is then used with `seeds` other seeds.
A seed draws data, validation split, initial weights and batches, the same data for every unit, so that
differences between units are paired. Every unit has the same budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from cmru_hw.farm import Arrays
from cmru_hw.nn.sizing import sized
from cmru_hw.report.benchmark_plots import accuracy_over_size
from cmru_hw.studies.study import Measurement, Record, Study
from cmru_hw.studies.trial import NETWORK, Trial, run_trial
from cmru_hw.studies.variants import UNITS, Variant
from cmru_hw.training.config import TrainingConfig
from cmru_hw.training.tasks import TaskConfig

COMPARED: dict[str, Variant] = {
    name: UNITS[name]
    for name in ("cmru", "alpha_cmru", "annealed_bmru", "annealed_fq_bmru", "lru", "min_gru")
} | {"gru": Variant("GRU", "gru")}

REFERENCES = ("lru", "min_gru")
"""The better one of these, by mean test accuracy, is what others are compared with."""

OURS = ("cmru", "alpha_cmru")
TUNING_SEED = 1000


def _generated(name: str, **options: Any) -> TaskConfig:
    sizes = {"train_size": 2048, "test_size": 512, "validation_fraction": 0.125}
    return TaskConfig.model_validate({"name": name, **sizes, **options})


def _tasks() -> tuple[TaskConfig, ...]:
    return (
        _generated("copy_first_input", length=60),
        _generated("flip_flop", length=60),
        TaskConfig.model_validate({"name": "japanese_vowels", "validation_fraction": 0.2}),
        TaskConfig.model_validate({"name": "basic_motions", "validation_fraction": 0.3}),
        TaskConfig.model_validate({"name": "digits", "validation_fraction": 0.125}),
        _generated("shapes_1d"),
        _generated("expressions", digits=5, depth=2, arguments=3, length=16, train_size=4096),
    )


@dataclass(frozen=True)
class Scored:
    """A trial of which the weights are not kept."""

    trial: Trial

    def run(self) -> Arrays:
        found = run_trial(None, self.trial)
        return {name: value for name, value in found.items() if not name.startswith(NETWORK)}


@dataclass(frozen=True)
class Benchmarks(Study):
    """`parameters` are the sizes; a network has the nearest count that its unit allows."""

    name = "benchmarks"

    units: tuple[str, ...] = tuple(COMPARED)
    tasks: tuple[TaskConfig, ...] = field(default_factory=_tasks)
    parameters: tuple[int, ...] = (500, 2000, 10000)
    seeds: int = 5
    rates: tuple[float, ...] = (6e-4, 2e-3, 6e-3, 2e-2)
    steps: int = 1000
    hold: int = 200
    anneal: int = 400
    batch_size: int = 32
    evaluate_every: int = 100

    @classmethod
    def quick(cls) -> Self:
        """Two tasks, one size, two seeds and fewer steps: a look in three minutes on two cores."""
        tasks = (
            _generated("flip_flop", length=30, train_size=1024),
            TaskConfig.model_validate({"name": "japanese_vowels", "validation_fraction": 0.2}),
        )
        return cls(
            tasks=tasks, parameters=(500,), seeds=2, rates=(6e-3, 2e-2), steps=300, hold=60, anneal=120
        )

    def trials(self) -> dict[str, Trial]:
        return {
            f"{task.name}_{size}_{unit}_rate{rate:g}": self._trial(task, size, unit, rate, TUNING_SEED)
            for task in self.tasks
            for size in self.parameters
            for unit in self.units
            for rate in self.rates
        }

    def measurements(self, trained: Mapping[str, Arrays]) -> dict[str, Measurement]:
        def scored(task: TaskConfig, size: int, unit: str, seed: int) -> Scored:
            return Scored(self._trial(task, size, unit, self._chosen(task, size, unit, trained), seed))

        return {key: scored(*point) for key, point in self._final().items()}

    def trained_again(self) -> dict[str, Trial]:
        return {
            key: self._trial(task, size, unit, self.rates[0], seed)
            for key, (task, size, unit, seed) in self._final().items()
        }

    def _final(self) -> dict[str, tuple[TaskConfig, int, str, int]]:
        """Task, size, unit and seed of the runs at the chosen rates."""
        return {
            f"{task.name}_{size}_{unit}_seed{seed}": (task, size, unit, seed)
            for task in self.tasks
            for seed in range(self.seeds)
            for size in self.parameters
            for unit in self.units
        }

    def summarise(self, results: Mapping[str, Arrays]) -> Record:
        rows: list[Record] = []
        for task in self.tasks:
            for size in self.parameters:
                rows += self._compared([self._scores(task, size, unit, results) for unit in self.units])
        return {
            "units": {unit: COMPARED[unit].title for unit in self.units},
            "tasks": {task.name: task.model_dump(mode="json") for task in self.tasks},
            "parameters": list(self.parameters),
            "rates": list(self.rates),
            "steps": self.steps,
            "batch_size": self.batch_size,
            "seeds": self.seeds,
            "rows": rows,
            "at_or_above": {str(size): self._at_or_above(rows, size) for size in self.parameters},
            "over_tasks": [
                self._over_tasks(rows, size, unit)
                for size in self.parameters
                for unit in self.units
                if unit not in REFERENCES
            ],
        }

    def figures(self, record: Record) -> dict[str, Figure]:
        titles = record["units"]
        panels = {
            task: {
                titles[unit]: (
                    [
                        row["parameters"]
                        for row in record["rows"]
                        if (row["task"], row["unit"]) == (task, unit)
                    ],
                    [
                        row["accuracies"]
                        for row in record["rows"]
                        if (row["task"], row["unit"]) == (task, unit)
                    ],
                )
                for unit in titles
            }
            for task in record["tasks"]
        }
        return {"benchmarks": accuracy_over_size(panels, record["parameters"])}

    def rows(self, record: Record) -> tuple[list[str], list[list[str]]]:
        """Mean and standard deviation in percent; * for p < 0.05 against the better of LRU and minGRU."""
        heads = ["task", "parameters", *record["units"].values()]
        table = []
        for task in record["tasks"]:
            for size in record["parameters"]:
                cells = [task, str(size)]
                for row in record["rows"]:
                    if (row["task"], row["size"]) == (task, size):
                        star = "*" if row["p"] is not None and row["p"] < 0.05 else ""
                        cells.append(f"{100 * row['mean']:.1f} ± {100 * row['spread']:.1f}{star}")
                table.append(cells)
        return heads, table

    def _trial(self, task: TaskConfig, size: int, unit: str, rate: float, seed: int) -> Trial:
        variant = COMPARED[unit]
        hold, anneal = variant.schedule(self.hold, self.anneal)
        training = TrainingConfig(
            steps=self.steps, batch_size=self.batch_size, learning_rate=rate, seed=seed,
            evaluate_every=self.evaluate_every, epsilon_hold=hold, epsilon_anneal=anneal,
        )  # fmt: skip
        section = {"unit": variant.unit, "num_layers": 2, "pool": "last", **variant.options}
        empty = Trial(section, task, training, task_seed=seed)
        data = empty.load_task()
        config = sized(size, data.input_size, data.num_classes, section)
        sizes = {"model_size": config.model_size, "hidden_size": config.hidden_size}
        return Trial(section | sizes, task, training, task_seed=seed)

    def _chosen(self, task: TaskConfig, size: int, unit: str, results: Mapping[str, Arrays]) -> float:
        """The rate with the best validation accuracy at epsilon 0; of equals, the lowest last loss."""

        def merit(rate: float) -> tuple[float, float]:
            found = results[f"{task.name}_{size}_{unit}_rate{rate:g}"]
            annealed = found["steps"] >= (self.hold + self.anneal if COMPARED[unit].annealed else 0)
            return float(found["validation_accuracy"][annealed].max()), -float(found["loss"][-1])

        return max(self.rates, key=merit)

    def _scores(self, task: TaskConfig, size: int, unit: str, results: Mapping[str, Arrays]) -> Record:
        found = [results[f"{task.name}_{size}_{unit}_seed{seed}"] for seed in range(self.seeds)]
        accuracies = [float(one["test_accuracy"]) for one in found]
        return {
            "task": task.name,
            "size": size,
            "unit": unit,
            "parameters": int(found[0]["parameters"]),
            "rate": self._chosen(task, size, unit, results),
            "accuracies": accuracies,
            "mean": float(np.mean(accuracies)),
            "spread": float(np.std(accuracies, ddof=1)) if self.seeds > 1 else 0.0,
        }

    def _compared(self, cell: list[Record]) -> list[Record]:
        """The rows of one task and size, with the paired t test over seeds against the better reference."""
        best = max((row for row in cell if row["unit"] in REFERENCES), key=lambda row: row["mean"])
        return [
            row | {
                "reference": best["unit"],
                "difference": row["mean"] - best["mean"],
                "p": None if row["unit"] == best["unit"]
                else paired_t(row["accuracies"], best["accuracies"]),
            }
            for row in cell
        ]  # fmt: skip

    def _at_or_above(self, rows: list[Record], size: int) -> list[str]:
        """Tasks on which the CMRU or the alphaCMRU has at least the mean of the better reference."""
        return [
            task.name
            for task in self.tasks
            if any(
                (row["task"], row["size"]) == (task.name, size)
                and row["unit"] in OURS
                and row["difference"] >= 0
                for row in rows
            )
        ]

    def _over_tasks(self, rows: list[Record], size: int, unit: str) -> Record:
        """The mean difference over tasks, and Wilcoxon's signed-rank test of the tasks' differences."""
        differences = [row["difference"] for row in rows if (row["size"], row["unit"]) == (size, unit)]
        apart = any(differences)
        return {
            "size": size,
            "unit": unit,
            "mean_difference": float(np.mean(differences)),
            "p": float(stats.wilcoxon(differences).pvalue) if apart else None,
        }


def paired_t(one: list[float], other: list[float]) -> float | None:
    """Two-sided p of Student's paired t test; None where all differences are equal, which tell no spread."""
    difference = np.subtract(one, other)
    if len(difference) < 2 or np.ptp(difference) == 0:
        return None
    return float(stats.ttest_rel(one, other).pvalue)
