"""How surely each unit learns to hold a discrete value: over seeds, learning rates and initial scales.

A run has solved its task if the network it leaves, the best on the validation split at epsilon = 0, has a
test accuracy of `SOLVED`. Every unit has the same runs, so the same tuning budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from matplotlib.figure import Figure

from cmru_hw.farm import Arrays
from cmru_hw.nn.network import Network
from cmru_hw.nn.units import SignedCell
from cmru_hw.report.study_plots import accuracies_of_seeds, gradient_reach, solved_grid
from cmru_hw.studies.study import Measurement, Record, Study
from cmru_hw.studies.trial import SOLVED, Trial
from cmru_hw.studies.variants import PUBLISHED, UNITS
from cmru_hw.training.config import TrainingConfig
from cmru_hw.training.tasks import CopyFirstInput, FlipFlop, Parity, TaskOptions

MAIN = "copy_first_input"
"""The task that has the grid; the others are tried at `rate` alone."""

EPSILONS = (0.0, 0.5)
VARIANTS = UNITS | PUBLISHED


@dataclass(frozen=True)
class Gradient:
    """How much of the loss at the end reaches the frames before, in a network that is not trained yet.

    `gradient` [T]: norm of d loss / d x_t over the layer's inputs, mean over sequences, newest frame last,
    as training sees it, that is through the surrogate derivatives. `epsilon` is that of units with one.
    `events`: of signed units, the share of units and frames behind the first in which |c| reaches beta.
    """

    trial: Trial
    epsilon: float
    sequences: int = 64

    def run(self) -> Arrays:
        network = self.trial.build().eval()
        if network.anneals:
            network.set_epsilon(self.epsilon)
        split = self.trial.load_task().test.take(np.arange(self.sequences))
        x, y = torch.from_numpy(split.x), torch.from_numpy(split.y)
        found = {"gradient": gradient_norms(network, x, y).numpy()}
        unit = network.units[0]
        if isinstance(unit, SignedCell):
            with torch.no_grad():
                trace = network.trace(x)
                c, beta = trace["candidates"][0], unit.beta(trace["inputs"][0])
                found["events"] = (c.abs() >= beta)[:, 1:].double().mean().numpy()
        return found


def gradient_norms(network: Network, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """|d loss_b / d x_bt| of the first layer's inputs, mean over b, [T], the last frame deciding."""
    inner = network.projection(x).detach().requires_grad_()
    after, _, _ = network.layers[0](inner)
    for block in network.layers[1:]:
        after, _, _ = block(after)
    scores = network.readout(after[:, -1])
    loss = torch.nn.functional.cross_entropy(scores, y, reduction="sum")
    (found,) = torch.autograd.grad(loss, inner)
    return found.norm(dim=2).mean(0)


@dataclass(frozen=True)
class Stability(Study):
    """`seeds` runs of every unit on each task at `rate`, and on `MAIN` at each other rate.

    On `MAIN` also `grid_seeds` runs at each rate with each other scale of the initial matrices, and for
    `followed` units `seeds` of them at `rate`. `published` units have `seeds` runs on it at `rate` alone.
    """

    name = "stability"

    units: tuple[str, ...] = tuple(UNITS)
    tasks: tuple[TaskOptions, ...] = (
        CopyFirstInput(length=150, classes=8, train_size=2048, test_size=512, validation_fraction=0.125),
        FlipFlop(length=100, train_size=2048, test_size=512, validation_fraction=0.125),
        Parity(length=50, events=5, train_size=2048, test_size=512, validation_fraction=0.125),
    )
    followed: tuple[str, ...] = ("bmru", "annealed_bmru", "cmru", "alpha_cmru")
    published: tuple[str, ...] = tuple(PUBLISHED)
    seeds: int = 10
    grid_seeds: int = 2
    steps: int = 1500
    hold: int = 300
    anneal: int = 600
    size: int = 16
    batch_size: int = 64
    rate: float = 3e-3
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    scales: tuple[float, ...] = (0.3, 1.0, 3.0, 6.0)
    evaluate_every: int = 100
    gradient_scales: tuple[float, ...] = (1.0, 3.0, 6.0)

    @classmethod
    def quick(cls) -> Self:
        """One task, three seeds, fewer steps and frames: a look in three minutes on two cores."""
        task = CopyFirstInput(length=60, classes=4, train_size=1024, test_size=256, validation_fraction=0.125)
        return cls(
            tasks=(task,), followed=(), published=(), seeds=3, grid_seeds=1, steps=600, hold=100, anneal=200,
            size=12, rate=5e-3, rates=(5e-3,), scales=(1.0, 6.0),
        )  # fmt: skip

    def trials(self) -> dict[str, Trial]:
        return {self._key(*point): self._trial(task, *point[1:]) for task, *point in self._points()}

    def measurements(self, trained: Mapping[str, Arrays]) -> dict[str, Measurement]:
        found: dict[str, Measurement] = {}
        task = self.tasks[0]
        for scale in self.gradient_scales:
            for unit in (*self.units, *self.published):
                if VARIANTS[unit].annealed:
                    continue
                trial = self._trial(task, unit, self.rate, scale, 0)
                for epsilon in EPSILONS if unit == "bmru" else (0.0,):
                    found[f"gradient_{unit}_{epsilon:g}_scale{scale:g}"] = Gradient(trial, epsilon)
        return found

    def _points(self) -> Iterator[tuple[Any, ...]]:
        """(task, task's name, unit, rate, scale, seed) of every trial."""
        for task in self.tasks:
            for unit in self.units:
                for rate in self.rates if task.name == MAIN else (self.rate,):
                    for scale in self.scales if task.name == MAIN else (1.0,):
                        whole = scale == 1.0 or (rate == self.rate and unit in self.followed)
                        for seed in range(self.seeds if whole else self.grid_seeds):
                            yield task, task.name, unit, rate, scale, seed
            for unit in self.published if task.name == MAIN else ():
                for seed in range(self.seeds):
                    yield task, task.name, unit, self.rate, 1.0, seed

    def _key(self, task: str, unit: str, rate: float, scale: float, seed: int) -> str:
        return f"{task}_{unit}_rate{rate:g}_scale{scale:g}_seed{seed}"

    def _trial(self, task: TaskOptions, unit: str, rate: float, scale: float, seed: int) -> Trial:
        variant = VARIANTS[unit]
        hold, anneal = variant.schedule(self.hold, self.anneal)
        training = TrainingConfig(
            steps=self.steps, batch_size=self.batch_size, learning_rate=rate, seed=seed,
            evaluate_every=self.evaluate_every, epsilon_hold=hold, epsilon_anneal=anneal,
        )  # fmt: skip
        # The last frame decides and nothing passes the states by: all has to be remembered.
        return Trial(variant.section(self.size, pool="last", skip=False), task, training, scale)

    def summarise(self, results: Mapping[str, Arrays]) -> Record:
        runs: dict[str, Any] = {}
        for _, task, unit, rate, scale, seed in self._points():
            found = results[self._key(task, unit, rate, scale, seed)]
            cell = runs.setdefault(task, {}).setdefault(unit, {}).setdefault(f"{rate:g}", {})
            one = cell.setdefault(f"{scale:g}", {"accuracies": [], "steps_to_solve": []})
            one["accuracies"].append(float(found["test_accuracy"]))
            after = int(found["solved_after"])
            one["steps_to_solve"].append(after if after >= 0 else None)
        for by_unit in runs.values():
            for by_rate in by_unit.values():
                for by_scale in by_rate.values():
                    for one in by_scale.values():
                        one["solved"] = sum(accuracy >= SOLVED for accuracy in one["accuracies"])
                        one["runs"] = len(one["accuracies"])
        first = {unit: next(key for key in results if f"_{unit}_rate" in key) for unit in self.units}
        return {
            "level": SOLVED,
            "units": {unit: UNITS[unit].title for unit in self.units},
            "parameters": {unit: int(results[key]["parameters"]) for unit, key in first.items()},
            "tasks": [task.model_dump(mode="json") for task in self.tasks],
            "rate": self.rate,
            "rates": list(self.rates),
            "scales": list(self.scales),
            "steps": self.steps,
            "runs": runs,
            **self._gradients(results),
        }

    def _gradients(self, results: Mapping[str, Arrays]) -> Record:
        """`gradients`: by scale and title, norms [T]; `events`: by scale and unit, their share."""
        norms: Record = {}
        events: Record = {}
        for key in self.measurements({}):
            _, rest = key.split("_", 1)
            rest, scale = rest.rsplit("_scale", 1)
            unit, epsilon = rest.rsplit("_", 1)
            title = VARIANTS[unit].title + (f", eps = {epsilon}" if unit == "bmru" else "")
            norms.setdefault(scale, {})[title] = results[key]["gradient"].astype(float).tolist()
            if "events" in results[key]:
                events.setdefault(scale, {})[unit] = float(results[key]["events"])
        return {"gradients": norms, "events": events}

    def figures(self, record: Record) -> dict[str, Figure]:
        units, runs = record["units"], record["runs"]
        titles = list(units.values())
        columns = [(f"{scale:g}", f"{rate:g}") for scale in record["scales"] for rate in record["rates"]]
        cells = [[runs[MAIN][unit][rate][scale] for scale, rate in columns] for unit in units]
        rate = f"{record['rate']:g}"
        seeds = {
            task: [by_unit[unit][rate]["1"]["accuracies"] for unit in units] for task, by_unit in runs.items()
        }
        return {
            "stability_grid": solved_grid(
                titles,
                [rate for _, rate in columns],
                [f"scale {scale:g}" for scale in record["scales"]],
                [[cell["solved"] / cell["runs"] for cell in row] for row in cells],
                [[f"{cell['solved']}/{cell['runs']}" for cell in row] for row in cells],
                "learning rate",
            ),
            "stability_accuracy": accuracies_of_seeds(titles, seeds, record["level"]),
            "stability_gradient": gradient_reach(
                {f"initial matrices x {scale}": lines for scale, lines in record["gradients"].items()}
            ),
        }

    def rows(self, record: Record) -> tuple[list[str], list[list[str]]]:
        """Solved runs of each task at each rate, initial matrices as they come."""
        runs, rates = record["runs"], [f"{rate:g}" for rate in record["rates"]]
        columns = [(task, rate) for task in runs for rate in rates if rate in next(iter(runs[task].values()))]
        head = ["unit", "parameters", *(f"{task}, {rate}" for task, rate in columns), "median steps"]
        rows = []
        for unit, title in record["units"].items():
            cells = [runs[task][unit][rate]["1"] for task, rate in columns]
            steps = [step for step in runs[MAIN][unit][f"{record['rate']:g}"]["1"]["steps_to_solve"] if step]
            rows.append(
                [title, str(record["parameters"][unit])]
                + [f"{cell['solved']} of {cell['runs']}" for cell in cells]
                + [f"{np.median(steps):.0f}" if steps else "-"]
            )
        return head, rows
