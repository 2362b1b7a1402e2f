"""How long each unit holds what it was told once, and through how much noise.

Networks are trained to remember the first of 150 frames, and decide after up to 100 000. What ends a memory
is an event that noise sets off: the margin of a unit, the distance of its candidate at rest from the nearer
threshold over the standard deviation that the input's noise gives it, says how often, and what the unit's
state can become says what one does to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal, Self

import numpy as np
import torch
from matplotlib.figure import Figure

from cmru_hw.farm import Arrays
from cmru_hw.nn.network import Network
from cmru_hw.nn.units import SignedCell
from cmru_hw.report.study_plots import lines_of_seeds
from cmru_hw.studies.streaming import Endurance
from cmru_hw.studies.study import Measurement, Record, Study
from cmru_hw.studies.trial import Trial
from cmru_hw.studies.variants import UNITS, Variant
from cmru_hw.training.config import MarginConfig, TrainingConfig
from cmru_hw.training.tasks import CopyFirstInput


@dataclass(frozen=True)
class Recipe:
    """A variant and what its training adds: a margin in the end or from the beginning, or noise.

    `noise` is a factor on the noise of the training data.
    """

    variant: Variant
    added: str = ""
    margin: Literal["in the end", "at once"] | None = None
    noise: float = 1.0
    candidate_noise: float = 0.0

    @property
    def title(self) -> str:
        return f"{self.variant.title}, {self.added}" if self.added else self.variant.title


def _saturating(levels: int) -> Variant:
    return Variant(f"CMRU, K = {levels}", "cmru", {"levels": levels})


_PLAIN = {
    "cmru": UNITS["cmru"],
    "k1": _saturating(1),
    "k2": _saturating(2),
    "k4": _saturating(4),
    "k8": _saturating(8),
    "annealed": UNITS["annealed_bmru"],
}

RECIPES: dict[str, Recipe] = {
    "lru": Recipe(UNITS["lru"]),
    "min_gru": Recipe(UNITS["min_gru"]),
    "alpha_cmru": Recipe(UNITS["alpha_cmru"]),
    **{name: Recipe(variant) for name, variant in _PLAIN.items()},
    **{f"{name}_firm": Recipe(variant, "firm", "in the end") for name, variant in _PLAIN.items()},
    "k4_at_once": Recipe(_saturating(4), "firm at once", "at once"),
    "k4_louder": Recipe(_saturating(4), "noise x 1.5", noise=1.5),
    "k4_candidate": Recipe(_saturating(4), "candidate noise 0.3", candidate_noise=0.3),
}
"""Plain ones; `firm` ones, which learn first and then push candidates away from thresholds; and others."""


@dataclass(frozen=True)
class Margins:
    """Margins of the units of a trained network with constant thresholds, in standard deviations."""

    trial: Trial
    weights: Arrays
    noise_std: float

    def run(self) -> Arrays:
        """`up` and `down` [N]: how far the candidate at rest is below beta, and above -beta."""
        network = self.trial.trained(self.weights)
        up, down = margins(network, self.noise_std)
        return {"up": up.numpy(), "down": down.numpy()}


@torch.no_grad()
def margins(network: Network, noise_std: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(beta - c) / sd and (beta + c) / sd of the first layer's units for white input noise, c at rest."""
    unit = network.units[0]
    if not isinstance(unit, SignedCell):
        raise ValueError(f"a {network.config.unit} has no two thresholds")
    matrix = unit.candidate.weight @ network.projection.weight
    rest = unit.candidate(network.projection.bias)
    beta, sd = unit.beta(network.projection.bias), noise_std * matrix.norm(dim=1)
    return (beta - rest) / sd, (beta + rest) / sd


@dataclass(frozen=True)
class Retention(Study):
    """`seeds` networks of each recipe, at `lengths`, and at `noisy_length` under noise."""

    name = "retention"

    recipes: tuple[str, ...] = tuple(RECIPES)
    seeds: int = 10
    steps: int = 1500
    hold: int = 300
    anneal: int = 600
    size: int = 16
    length: int = 150
    classes: int = 8
    noise_std: float = 0.1
    train_size: int = 2048
    rate: float = 1e-2
    distance: float = 2.0
    weight: float = 5.0
    learn: int = 600
    firm_up: int = 300
    lengths: tuple[int, ...] = (150, 1000, 10_000, 100_000)
    sequences: int = 128
    noisy_length: int = 1000
    input_noises: tuple[float, ...] = (0.1, 0.15, 0.2, 0.3, 0.5)
    state_noises: tuple[float, ...] = (0.01, 0.03, 0.1, 0.2, 0.3)
    noisy_seeds: int = 3

    @classmethod
    def quick(cls) -> Self:
        """Two seeds of six recipes, fewer steps, to 10 000 frames: in three minutes on two cores."""
        return cls(
            recipes=("lru", "min_gru", "cmru", "k4", "k4_firm", "annealed_firm"), seeds=2, steps=600,
            hold=100, anneal=200, learn=250, firm_up=100, size=12, length=100, classes=4, train_size=1024,
            lengths=(100, 1000, 10_000), input_noises=(0.1, 0.2, 0.4), state_noises=(0.03, 0.1, 0.3),
            noisy_seeds=1, noisy_length=200,
        )  # fmt: skip

    def trials(self) -> dict[str, Trial]:
        return {self._key(name, seed): self._trial(name, seed) for name, seed in self._runs()}

    def measurements(self, trained: Mapping[str, Arrays]) -> dict[str, Measurement]:
        found: dict[str, Measurement] = {}
        for name, seed in self._runs():
            trial, weights = self._trial(name, seed), trained[self._key(name, seed)]
            noise = self.noise_std
            key = f"{name}_seed{seed}"
            found[f"long_{key}"] = Endurance(trial, weights, self.lengths, self.sequences, noise)
            if _has_margins(name):
                found[f"margins_{key}"] = Margins(trial, weights, noise)
            if seed >= self.noisy_seeds:
                continue
            at = (self.noisy_length,)
            for std in self.input_noises:
                found[f"input_{std:g}_{key}"] = Endurance(trial, weights, at, self.sequences, std)
            for std in self.state_noises:
                found[f"state_{std:g}_{key}"] = Endurance(trial, weights, at, self.sequences, noise, std)
        return found

    def summarise(self, results: Mapping[str, Arrays]) -> Record:
        rows: Record = {}
        for name in self.recipes:
            keys = [f"{name}_seed{seed}" for seed in range(self.seeds)]
            noisy = keys[: self.noisy_seeds]
            rows[name] = {
                "title": RECIPES[name].title,
                "parameters": int(results[self._key(name, 0)]["parameters"]),
                "accuracies": [results[f"long_{key}"]["accuracy"].tolist() for key in keys],
                "input_noise": [
                    [float(results[f"input_{std:g}_{key}"]["accuracy"][0]) for std in self.input_noises]
                    for key in noisy
                ],
                "state_noise": [
                    [float(results[f"state_{std:g}_{key}"]["accuracy"][0]) for std in self.state_noises]
                    for key in noisy
                ],
            }
            if _has_margins(name):
                rows[name] |= self._margins([results[f"margins_{key}"] for key in keys])
        return {
            "lengths": list(self.lengths),
            "trained_length": self.length,
            "classes": self.classes,
            "sequences": self.sequences,
            "noisy_length": self.noisy_length,
            "input_noises": list(self.input_noises),
            "state_noises": list(self.state_noises),
            "recipes": rows,
        }

    def _margins(self, found: list[Arrays]) -> Record:
        """By seed: the least margin of a unit, and how many units count either way, or one way only.

        A unit counts where noise sets off an event at least once in the longest sequence on average.
        """
        counts = -_quantile(1 / max(self.lengths))
        near = [np.minimum(one["up"], one["down"]) for one in found]
        far = [np.maximum(one["up"], one["down"]) for one in found]
        return {
            "least_margin": [float(one.min()) for one in near],
            "units_that_count": [int((one < counts).sum()) for one in near],
            "units_that_count_both_ways": [int((one < counts).sum()) for one in far],
        }

    def figures(self, record: Record) -> dict[str, Figure]:
        recipes, chance = record["recipes"], 1 / record["classes"]

        def lines(what: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
            return {one["title"]: one[what] for one in chosen.values()}

        plain = {name: one for name, one in recipes.items() if not RECIPES[name].added}
        firm = {name: one for name, one in recipes.items() if RECIPES[name].added == "firm" or name in BESIDE}
        trained = record["trained_length"]
        return {
            "retention_plain": lines_of_seeds(
                record["lengths"], lines("accuracies", plain), "frames", chance, trained=trained
            ),
            "retention_firm": lines_of_seeds(
                record["lengths"], lines("accuracies", firm), "frames", chance, trained=trained
            ),
            "retention_input": lines_of_seeds(
                record["input_noises"], lines("input_noise", firm),
                "standard deviation of the input's noise", chance,
            ),
            "retention_state": lines_of_seeds(
                record["state_noises"], lines("state_noise", firm),
                "noise of the state in every frame, over its rms", chance,
            ),
        }  # fmt: skip

    def rows(self, record: Record) -> tuple[list[str], list[list[str]]]:
        """Mean accuracy at each length, the worst seed's at the last, and the least margin."""
        head = ["recipe", *(f"T = {length}" for length in record["lengths"]), "worst", "margin, sd"]
        rows = []
        for one in record["recipes"].values():
            each = np.array(one["accuracies"])
            margin = f"{np.median(one['least_margin']):.1f}" if "least_margin" in one else "-"
            rows.append(
                [
                    one["title"],
                    *(f"{value:.3f}" for value in each.mean(0)),
                    f"{each[:, -1].min():.3f}",
                    margin,
                ]
            )
        return head, rows

    def _runs(self) -> list[tuple[str, int]]:
        return [(name, seed) for name in self.recipes for seed in range(self.seeds)]

    def _key(self, name: str, seed: int) -> str:
        return f"trained_{name}_seed{seed}"

    def _trial(self, name: str, seed: int) -> Trial:
        recipe = RECIPES[name]
        task = CopyFirstInput(
            length=self.length, classes=self.classes, train_size=self.train_size,
            test_size=512, validation_fraction=0.125, noise_std=self.noise_std * recipe.noise,
        )  # fmt: skip
        hold, anneal = recipe.variant.schedule(self.hold, self.anneal)
        training = TrainingConfig(
            steps=self.steps, learning_rate=self.rate, seed=seed, evaluate_every=100,
            candidate_noise=recipe.candidate_noise, margin=self._margin(recipe),
            epsilon_hold=hold, epsilon_anneal=anneal,
        )  # fmt: skip
        return Trial(recipe.variant.section(self.size, pool="last", skip=False), task, training)

    def _margin(self, recipe: Recipe) -> MarginConfig | None:
        """The penalty of a recipe, after the task is learnt or from the beginning."""
        if recipe.margin is None:
            return None
        hold, anneal = (self.learn, self.firm_up) if recipe.margin == "in the end" else (0, 0)
        return MarginConfig(distance=self.distance, weight=self.weight, hold=hold, anneal=anneal)


BESIDE = ("lru", "min_gru", "cmru")
"""Recipes that every figure shows."""


def _has_margins(name: str) -> bool:
    return RECIPES[name].variant.unit in ("bmru", "cmru", "alpha_cmru")


def _quantile(share: float) -> float:
    """Of the normal distribution."""
    return NormalDist().inv_cdf(share)
