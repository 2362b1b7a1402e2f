"""Rare failures: subset simulation against known probabilities and against counting."""

from __future__ import annotations

import numpy as np
import pytest
from hardware_networks import random_input, random_network
from scipy.stats import norm

from cmru_hw.analysis.robustness.analysis import run_analyses
from cmru_hw.analysis.robustness.lot import Chips, Lot
from cmru_hw.analysis.robustness.rare import Rare, chip_score, estimate, subset_simulation, wrong_to_fail
from cmru_hw.behavioral import BehavioralModel
from cmru_hw.errors import ConfigError
from cmru_hw.farm import Farm
from cmru_hw.mapping import map_network
from cmru_hw.primitives.device import Array
from cmru_hw.stimulus import make_stimulus
from cmru_hw.technology import load_technology
from cmru_hw.variation import Transistors


@pytest.mark.parametrize("probability", [1e-2, 1e-4, 1e-6])
def test_a_linear_limit_in_many_dimensions(probability: float) -> None:
    """P(b - a z < 0) = Phi(-b), whatever the dimension; 1/20 of what counting 100 failures of 1e-4 takes."""
    direction = np.random.default_rng(0).normal(size=400)
    direction /= np.linalg.norm(direction)
    bound = -norm.ppf(probability)

    def score(deviates: Array) -> Array:
        return bound - deviates @ direction

    runs = [subset_simulation(score, 400, 1000, np.random.default_rng([5, k])) for k in range(8)]
    assert sum(run.chips for run in runs) < 50000 * max(1.0, np.log10(1e-4 / probability))
    mean, low, high = estimate(np.array([run.probability for run in runs]))
    assert probability / 1.5 < mean < 1.5 * probability
    assert low < probability < high


def test_two_ways_to_fail_are_both_found() -> None:
    """P(|z_1| > 3) = 2 Phi(-3)."""
    runs = [
        subset_simulation(lambda z: 3.0 - np.abs(z[:, 0]), 50, 1000, np.random.default_rng(k))
        for k in range(6)
    ]
    mean = np.mean([run.probability for run in runs])
    assert mean == pytest.approx(2 * norm.sf(3.0), rel=0.3)


def test_what_never_fails_ends() -> None:
    assert subset_simulation(lambda z: np.ones(len(z)), 3, 100, np.random.default_rng(0)).probability == 0
    far = subset_simulation(lambda z: 50.0 - z[:, 0], 3, 100, np.random.default_rng(0), levels=4)
    assert (far.probability, far.levels) == (0.0, 4)


def lot(sigma_scale: float) -> Lot:
    """A tiny network and eight inputs that it decides clearly."""
    design, _ = map_network(random_network(2, num_layers=1), load_technology("generic180"))
    x = random_input(2, batch=60, frames=3)
    every = make_stimulus(x, 3, design.facts.frame_period)
    labels = BehavioralModel(design).decisions(every)
    clear = np.argsort(-BehavioralModel(design).margins(every, labels))[:8]
    return Lot(design, every.select(clear.tolist()), labels[clear], 0, sigma_scale)


def test_the_score_says_which_chips_fail() -> None:
    some = lot(20.0)
    every = Transistors.of(some.design, 20.0)
    deviates = np.random.default_rng(1).standard_normal((300, len(every)))
    accuracy = (some.margins(every.shifts(deviates)) >= 0).mean(axis=1)
    for target in (0.5, 0.75, 1.0):
        failed = accuracy < target
        assert failed.any()
        assert not failed.all()
        assert np.array_equal(chip_score(some, target)(deviates) < 0, failed)


def test_a_tiny_design_counted_and_estimated() -> None:
    some = lot(8.0)
    counted = (Chips(range(12000)).run(some)["accuracy"] < 1).mean()
    assert 2e-3 < counted < 2e-2
    found = run_analyses(some, [Rare(some, 1.0, 250)], Farm(1))["rare"]
    assert found["chips"] < 12000 / 2
    assert counted / 1.5 < found["failure_probability"] < 1.5 * counted
    low, high = found["failure_ci95"]
    assert low < counted < high


def test_wrong_decisions_that_make_a_chip_fail() -> None:
    assert wrong_to_fail(10, 1.0) == 1
    assert wrong_to_fail(10, 0.9) == 2
    assert wrong_to_fail(370, 0.9) == 38
    with pytest.raises(ConfigError, match="no chip can miss"):
        wrong_to_fail(10, 0.0)
    with pytest.raises(ConfigError, match="yield_target"):
        wrong_to_fail(10, -0.1)
