"""Chips counted: accuracy by chip, yield and its interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hardware_networks import random_input, random_network

from cmru_hw.analysis.robustness import Lot, chip_accuracies, summarize
from cmru_hw.analysis.robustness import lot as lots
from cmru_hw.behavioral import BehavioralModel
from cmru_hw.errors import ConfigError
from cmru_hw.farm import Farm
from cmru_hw.mapping import map_network
from cmru_hw.stimulus import make_stimulus
from cmru_hw.technology import load_technology

DESIGN, _ = map_network(random_network(2), load_technology("generic180"))
STIMULUS = make_stimulus(random_input(2, batch=16), 3, 1e-2)
NOMINAL = BehavioralModel(DESIGN).decisions(STIMULUS)


def lot(sigma_scale: float, seed: int = 1) -> Lot:
    """Chips of the design that are asked for what it decides without mismatch."""
    return Lot(DESIGN, STIMULUS, NOMINAL, seed, sigma_scale)


def test_accuracy_of_a_chip_does_not_depend_on_how_many_run_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for some in (1, 4, 20):
        monkeypatch.setattr(lots, "ROWS_A_FRAME", some * len(STIMULUS))
        found.append(chip_accuracies(lot(4.0), range(10)))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
    assert found[0].min() < 1, "four sigma must cost some chip a decision"
    later = chip_accuracies(lot(4.0), range(3, 8, 4))
    assert np.array_equal(later, found[0][[3, 7]])


def test_accuracy_of_a_chip_does_not_depend_on_the_number_of_processes() -> None:
    found = [chip_accuracies(lot(4.0), range(120), Farm(workers)) for workers in (1, 2, 3)]
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_without_mismatch_every_chip_is_the_nominal_one() -> None:
    labels = NOMINAL.copy()
    labels[:4] = 1 - labels[:4]
    assert chip_accuracies(Lot(DESIGN, STIMULUS, labels, 0, 0.0), range(3)).tolist() == [0.75] * 3


def test_more_mismatch_costs_accuracy() -> None:
    means = [chip_accuracies(lot(scale, seed=0), range(30)).mean() for scale in (0.5, 4.0)]
    assert means[1] < means[0] - 0.02


def test_progress_counts_the_chips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lots, "CHIPS_A_JOB", 2)
    seen: list[int] = []
    chip_accuracies(lot(1.0), range(5), Farm(1), progress=seen.append)
    assert seen == [0, 2, 4, 5]


def test_summary_of_known_chips() -> None:
    """9 of 10 chips good: Clopper-Pearson by solving the binomial tails, 0.5550 .. 0.9975."""
    accuracies = np.array([0.95] * 9 + [0.5])
    found = summarize(accuracies, seed=3, sigma_scale=1.5, yield_target=0.9)
    assert found.yield_ == 0.9
    assert found.mean_accuracy == pytest.approx(0.905)
    assert found.std_accuracy == pytest.approx(0.135)
    assert found.p05_accuracy == pytest.approx(0.5 + 0.45 * 0.45)
    low, high = found.yield_ci95
    above = sum(math.comb(10, k) * low**k * (1 - low) ** (10 - k) for k in (9, 10))
    below = sum(math.comb(10, k) * high**k * (1 - high) ** (10 - k) for k in range(10))
    assert above == pytest.approx(0.025, abs=1e-6)
    assert below == pytest.approx(0.025, abs=1e-6)
    assert set(found.to_json()) == {
        "chips", "seed", "sigma_scale", "mean_accuracy", "std_accuracy", "p05_accuracy", "yield",
        "yield_target", "yield_ci95",
    }  # fmt: skip


@pytest.mark.parametrize("target", [-0.1, 1.1, float("nan")])
def test_a_yield_target_that_is_no_share_is_refused(target: float) -> None:
    with pytest.raises(ConfigError, match="yield_target"):
        summarize(np.ones(3), 0, 1.0, target)
