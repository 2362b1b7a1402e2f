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
from typing import Any, Self

import numpy as np
import torch
from matplotlib.figure import Figure

from cmru_hw.farm import Arrays
from cmru_hw.nn.network import Network
from cmru_hw.nn.units import SignedCell
from cmru_hw.report.study_plots import lines_of_seeds
from cmru_hw.studies.streaming import Endurance, copy_first_input
from cmru_hw.studies.study import Measurement, Record, Study
from cmru_hw.studies.trial import Trial
from cmru_hw.studies.variants import UNITS, Variant
from cmru_hw.training.config import TrainingConfig
from cmru_hw.training.tasks import CopyFirstInput

RECIPE_NOISE = 0.3
"""Candidate noise in training, model units, of the variants that have it: thrice the input's."""


@dataclass(frozen=True)
class Recipe:
    """A variant and what its training adds."""

    variant: Variant
    candidate_noise: float = 0.0
    threshold_floor: float = 0.0

    @property
    def title(self) -> str:
        extras = [f"noise {self.candidate_noise:g}"] if self.candidate_noise else []
        extras += [f"beta >= {self.threshold_floor:g}"] if self.threshold_floor else []
        return ", ".join([self.variant.title, *extras])


def _saturating(levels: int) -> Variant:
    return Variant(f"CMRU, K = {levels}", "cmru", {"levels": levels})


RECIPES: dict[str, Recipe] = {
    "lru": Recipe(UNITS["lru"]),
    "min_gru": Recipe(UNITS["min_gru"]),
    "alpha_cmru": Recipe(UNITS["alpha_cmru"]),
    "cmru": Recipe(UNITS["cmru"]),
    "k1": Recipe(_saturating(1)),
    "k2": Recipe(_saturating(2)),
    "k4": Recipe(_saturating(4)),
    "k8": Recipe(_saturating(8)),
    "annealed": Recipe(UNITS["annealed_bmru"]),
    "cmru_noise": Recipe(UNITS["cmru"], RECIPE_NOISE),
    "k1_noise": Recipe(_saturating(1), RECIPE_NOISE),
    "k2_noise": Recipe(_saturating(2), RECIPE_NOISE),
    "k4_noise": Recipe(_saturating(4), RECIPE_NOISE),
    "k8_noise": Recipe(_saturating(8), RECIPE_NOISE),
    "annealed_noise": Recipe(UNITS["annealed_bmru"], RECIPE_NOISE),
    "k4_floor": Recipe(_saturating(4), threshold_floor=0.8),
}


@dataclass(frozen=True)
class Margins:
    """Margins of the units of a trained network with constant thresholds, in standard deviations."""

    trial: Trial
    weights: Arrays

    def run(self) -> Arrays:
        """`up` and `down` [N]: how far the candidate at rest is below beta, and above -beta."""
        network = self.trial.trained(self.weights)
        up, down = margins(network, copy_first_input(self.trial).noise_std)
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
    train_size: int = 2048
    rate: float = 3e-3
    lengths: tuple[int, ...] = (150, 1000, 10_000, 100_000)
    sequences: int = 128
    noisy_length: int = 1000
    input_noises: tuple[float, ...] = (0.1, 0.15, 0.2, 0.3, 0.5)
    state_noises: tuple[float, ...] = (0.01, 0.03, 0.1, 0.2, 0.3)
    noisy_seeds: int = 3

    @classmethod
    def quick(cls) -> Self:
        """Three seeds of six recipes, fewer steps, to 10 000 frames: in three minutes on two cores."""
        return cls(
            recipes=("lru", "min_gru", "cmru", "k4", "k4_noise", "annealed_noise"), seeds=2, steps=600,
            hold=100, anneal=200, size=12, length=100, classes=4, train_size=1024, rate=5e-3,
            lengths=(100, 1000, 10_000), input_noises=(0.1, 0.2, 0.4), state_noises=(0.03, 0.1, 0.3),
            noisy_seeds=1, noisy_length=200,
        )  # fmt: skip

    def trials(self) -> dict[str, Trial]:
        return {self._key(name, seed): self._trial(name, seed) for name, seed in self._runs()}

    def measurements(self, trained: Mapping[str, Arrays]) -> dict[str, Measurement]:
        found: dict[str, Measurement] = {}
        for name, seed in self._runs():
            trial, weights = self._trial(name, seed), trained[self._key(name, seed)]
            noise = copy_first_input(trial).noise_std
            key = f"{name}_seed{seed}"
            found[f"long_{key}"] = Endurance(trial, weights, self.lengths, self.sequences, noise)
            if _has_margins(name):
                found[f"margins_{key}"] = Margins(trial, weights)
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

        plain = {name: one for name, one in recipes.items() if not RECIPES[name].candidate_noise}
        noisy = {
            name: one for name, one in recipes.items() if RECIPES[name].candidate_noise or name in BESIDE
        }
        trained = record["trained_length"]
        return {
            "retention_plain": lines_of_seeds(
                record["lengths"], lines("accuracies", plain), "frames", chance, trained=trained
            ),
            "retention_noise": lines_of_seeds(
                record["lengths"], lines("accuracies", noisy), "frames", chance, trained=trained
            ),
            "retention_input": lines_of_seeds(
                record["input_noises"], lines("input_noise", noisy),
                "standard deviation of the input's noise", chance,
            ),
            "retention_state": lines_of_seeds(
                record["state_noises"], lines("state_noise", noisy),
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
        task = CopyFirstInput( length=self.length, classes=self.classes, train_size=self.train_size,
            test_size=512, validation_fraction=0.125,
        )  # fmt: skip
        hold, anneal = recipe.variant.schedule(self.hold, self.anneal)
        training = TrainingConfig(
            steps=self.steps, learning_rate=self.rate, seed=seed, evaluate_every=100,
            candidate_noise=recipe.candidate_noise, threshold_floor=recipe.threshold_floor,
            epsilon_hold=hold,
            epsilon_anneal=anneal,
        )  # fmt: skip
        return Trial(recipe.variant.section(self.size, pool="last", skip=False), task, training)


BESIDE = ("lru", "min_gru", "cmru")
"""Recipes that every figure shows."""


def _has_margins(name: str) -> bool:
    return RECIPES[name].variant.unit in ("bmru", "cmru", "alpha_cmru")


def _quantile(share: float) -> float:
    """Of the normal distribution."""
    return NormalDist().inv_cdf(share)
