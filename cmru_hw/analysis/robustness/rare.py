"""Failure probabilities too small to count: subset simulation over the deviates of all transistors.

    P(g < 0) = P(g < b_1) P(g < b_2 | g < b_1) ... P(g < 0 | g < b_L)

g is a chip's score: its k-th smallest margin, k being the number of wrong decisions that make it fail, so
that g < 0 exactly where it fails. A fifth of the chips of a level are below its b; from these Markov chains
go on, z' = r z + sqrt(1 - r^2) w, which leaves a normal z of any dimension as it is, accepted where
g(z') <= b. A run is one estimate; several with seeds of their own make the mean and its interval.
Source: S. K. Au and J. L. Beck, "Estimation of small failure probabilities in high dimensions by subset
simulation", Probabilistic Engineering Mechanics 16, 2001; the chains, I. Papaioannou et al., "MCMC algorithms
for subset simulation", ibid. 41, 2015.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.stats import t as student

from cmru_hw.analysis.robustness.analysis import Analysis, Results, keyed
from cmru_hw.analysis.robustness.lot import Lot, Task
from cmru_hw.analysis.robustness.yields import check_target
from cmru_hw.errors import ConfigError
from cmru_hw.farm import Arrays
from cmru_hw.primitives.device import Array
from cmru_hw.variation import Transistors

SHARE = 5  # one chip of so many goes on to the next level
LEVELS = 11  # at most: nothing is said beyond 1e-7
ACCEPTED = 0.44  # share of moves that the chains aim at
RUNS = 8
CHIPS_A_LEVEL = 200
_STREAM = 3  # of the random numbers, besides those of chips and noise

Score = Callable[[Array], Array]
"""Deviates [chips, dimensions] to scores [chips], < 0 where a chip fails."""


@dataclass(frozen=True)
class Subsets:
    """One run: the estimated probability, 0 if no level reached a failure, and the chips it took."""

    probability: float
    chips: int
    levels: int


def subset_simulation(
    score: Score, dimensions: int, chips: int, random: np.random.Generator, levels: int = LEVELS
) -> Subsets:
    """The probability of a score < 0 over standard normal deviates, from levels of `chips` each."""
    going_on = chips // SHARE
    deviates = random.standard_normal((chips, dimensions))
    scores = score(deviates)
    taken, step = chips, 0.6
    for level in range(levels):
        failed = int((scores < 0).sum())
        order = np.argsort(scores, kind="stable")[:going_on]
        bound = float(scores[order[-1]])
        if bound < 0:
            return Subsets(failed / len(scores) * float(SHARE) ** -level, taken, level + 1)
        if level + 1 == levels or bound == float(scores.max()):
            break
        at, value = deviates[order], scores[order]
        visited, values = [at], [value]
        for _ in range(SHARE - 1):
            fresh = random.standard_normal(at.shape)
            proposed = np.sqrt(1 - step**2) * at + step * fresh
            found = score(proposed)
            taken += len(found)
            accepted = found <= bound
            at, value = np.where(accepted[:, None], proposed, at), np.where(accepted, found, value)
            visited.append(at)
            values.append(value)
            step = float(np.clip(step * np.exp(accepted.mean() - ACCEPTED), 0.05, 1.0))
        deviates, scores = np.concatenate(visited), np.concatenate(values)
    failed = int((scores < 0).sum())
    return Subsets(failed / len(scores) * float(SHARE) ** -level, taken, level + 1)


def wrong_to_fail(inputs: int, target: float) -> int:
    """Wrong decisions that make a chip miss the accuracy. Raises ConfigError where none can."""
    check_target(target)
    wrong = np.arange(inputs + 1)
    misses = (inputs - wrong) / inputs < target
    if not misses.any():
        raise ConfigError(
            f"robustness: no chip can miss a yield_target of {target:g}; rare needs a higher one"
        )
    return int(np.argmax(misses))


def chip_score(lot: Lot, target: float) -> Score:
    """The k-th smallest margin of chips, k wrong decisions making them miss the accuracy."""
    k = wrong_to_fail(len(lot.stimulus), target)
    every = Transistors.of(lot.design, lot.sigma_scale)

    def score(deviates: Array) -> Array:
        found = [
            np.partition(lot.margins(every.shifts(deviates[few.start : few.stop])), k - 1, axis=-1)[:, k - 1]
            for few in lot.batches(range(len(deviates)))
        ]
        return np.concatenate(found)

    return score


@dataclass(frozen=True)
class Run(Task):
    """A numbered run of subset simulation for the share of chips below an accuracy."""

    number: int
    target: float
    chips: int

    def run(self, lot: Lot) -> Arrays:
        """`probability`, `chips` and `levels`."""
        random = np.random.default_rng([lot.seed, self.number, _STREAM])
        score = chip_score(lot, self.target)
        found = subset_simulation(score, len(Transistors.of(lot.design)), self.chips, random)
        return {
            "probability": np.array(found.probability),
            "chips": np.array(found.chips),
            "levels": np.array(found.levels),
        }


@dataclass(frozen=True)
class Rare(Analysis):
    """The share of chips that miss the target accuracy, however small."""

    name: ClassVar[str] = "rare"
    lot: Lot
    yield_target: float
    chips: int = CHIPS_A_LEVEL
    runs: int = RUNS

    def tasks(self) -> dict[str, Task]:
        """Independent runs."""
        wrong_to_fail(len(self.lot.stimulus), self.yield_target)
        runs: dict[str, Task] = {
            f"{number:03d}": Run(number, self.yield_target, self.chips) for number in range(self.runs)
        }
        return keyed(f"{self.name}_{self.yield_target!r}_{self.chips}", runs)

    def summary(self, results: Results) -> dict[str, Any]:
        """`failure_probability` with its interval; `below` where no run met a failure."""
        runs = [float(one["probability"]) for one in results.values()]
        mean, low, high = estimate(np.array(runs))
        below = float(SHARE) ** (1 - min(int(one["levels"]) for one in results.values()))
        return {
            "yield_target": self.yield_target,
            "wrong_decisions": wrong_to_fail(len(self.lot.stimulus), self.yield_target),
            "failure_probability": mean,
            "failure_ci95": [low, high if mean else below],
            "yield": 1 - mean,
            "below": None if mean else below,
            "runs": runs,
            "chips_a_level": self.chips,
            "chips": sum(int(one["chips"]) for one in results.values()),
        }


def estimate(runs: Array) -> tuple[float, float, float]:
    """Mean of independent estimates and its 95 % interval, of Student's t on their logarithms' spread."""
    mean, count = float(runs.mean()), len(runs)
    if mean == 0 or count < 2:
        return mean, 0.0, mean
    relative = float(runs.std(ddof=1)) / mean / np.sqrt(count)
    reach = float(np.exp(student.ppf(0.975, count - 1) * relative))
    return mean, mean / reach, min(mean * reach, 1.0)
