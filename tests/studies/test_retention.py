"""The retention study in a tiny form; long sequences in pieces; margins against counted events."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cmru_hw.config import packaged
from cmru_hw.errors import ConfigError
from cmru_hw.farm import Farm
from cmru_hw.nn.network import load_network
from cmru_hw.studies.catalogue import STUDIES, find_study
from cmru_hw.studies.retention import Retention, margins
from cmru_hw.studies.streaming import PIECE, Endurance, copy_first_input, copy_first_pieces
from cmru_hw.studies.study import run_study
from cmru_hw.studies.trial import Trial, run_trial
from cmru_hw.training import TrainingConfig
from cmru_hw.training.tasks import CopyFirstInput

TRIAL = Trial(
    network={
        "unit": "cmru",
        "model_size": 4,
        "hidden_size": 4,
        "num_layers": 1,
        "pool": "last",
        "skip": False,
    },
    task=CopyFirstInput(length=10, classes=2, train_size=64, test_size=32),
    training=TrainingConfig(steps=60, batch_size=16, evaluate_every=60, learning_rate=1e-2),
)


def test_tiny(tmp_path: Path) -> None:
    study = Retention(
        recipes=("lru", "k4", "annealed"), seeds=2, steps=60, hold=10, anneal=20, size=4, length=50,
        classes=2, train_size=64, rate=1e-2, lengths=(50, 100), sequences=16, noisy_length=50,
        input_noises=(0.1, 0.5), state_noises=(0.1,), noisy_seeds=1,
    )  # fmt: skip
    record = run_study(study, tmp_path, Farm(workers=1))
    assert list(record["recipes"]) == ["lru", "k4", "annealed"]
    k4 = record["recipes"]["k4"]
    assert np.shape(k4["accuracies"]) == (2, 2)
    assert np.shape(k4["input_noise"]) == (1, 2)
    assert len(k4["least_margin"]) == 2
    assert "least_margin" not in record["recipes"]["lru"]
    head, rows = study.rows(record)
    assert all(len(row) == len(head) for row in rows)
    for name in ("plain", "firm", "input", "state"):
        assert (tmp_path / f"retention_{name}.svg").stat().st_size > 3000
    with pytest.raises(ConfigError, match="holds results of settings"):
        run_study(replace(study, lengths=(50, 150)), tmp_path, Farm(workers=1))


def test_a_longer_sequence_begins_like_a_shorter_one() -> None:
    y = np.array([0, 1])
    short = list(copy_first_pieces(copy_first_input(TRIAL), y, PIECE, seed=3))
    long = list(copy_first_pieces(copy_first_input(TRIAL), y, 3 * PIECE, seed=3))
    assert np.array_equal(short[0], long[0])
    assert [piece.shape for piece in long] == [(2, PIECE, 2)] * 3
    assert np.array_equal(long[0][:, 0], np.eye(2))
    assert np.std(np.concatenate(long, 1)[:, 1:]) == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("unit", ["fq_bmru", "bmru", "cmru", "alpha_cmru", "lru", "min_gru", "gru"])
def test_endurance_is_the_accuracy_on_whole_sequences(unit: str) -> None:
    trial = replace(TRIAL, network={**TRIAL.network, "unit": unit})
    trial = replace(
        trial, training=trial.training.model_copy(update={"epsilon_hold": 0, "epsilon_anneal": 0})
    )
    result = run_trial(None, trial)
    found = Endurance(trial, result, (PIECE, 2 * PIECE), 64, 0.1).run()["accuracy"]
    y = np.random.default_rng([0, 6]).integers(2, size=64)
    x = np.concatenate(list(copy_first_pieces(copy_first_input(trial), y, 2 * PIECE, 0)), axis=1)
    with torch.no_grad():
        logits = trial.trained(result).frame_logits(torch.from_numpy(x)).argmax(2).numpy()
    assert found.tolist() == [np.mean(logits[:, frame - 1] == y) for frame in (PIECE, 2 * PIECE)]


def test_state_noise_too_small_to_leave_a_level_changes_nothing() -> None:
    trial = replace(TRIAL, network={**TRIAL.network, "levels": 2})
    # Initial states that the unit can hold: training leaves them between levels.
    result = dict(run_trial(None, trial))
    name = "network/layers.0.unit.initial_state"
    result[name] = np.round(result[name])
    quiet = Endurance(trial, result, (PIECE,), 32, 0.1).run()["accuracy"]
    assert np.array_equal(quiet, Endurance(trial, result, (PIECE,), 32, 0.1, 0.01).run()["accuracy"])


def test_margins_foretell_how_often_noise_sets_off_events() -> None:
    network = replace(TRIAL, init_scale=3.0).build().eval()
    up, down = margins(network, noise_std=0.5)
    x = 0.5 * torch.randn(1, 200_000, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        candidates, unit = network.trace(x)["candidates"][0][0], network.units[0]
        beta = unit.beta(None)
    normal = torch.distributions.Normal(0.0, 1.0)
    for margin, counted in ((up, candidates >= beta), (down, candidates <= -beta)):
        expected = 1 - normal.cdf(margin)
        error = 4 * torch.sqrt(expected / len(candidates)) + 1e-5
        assert ((counted.float().mean(0) - expected).abs() <= error).all()
        assert (expected > 1e-3).any()


def test_an_unknown_study_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="none called 'speed'; there are stability, benchmarks, retention"):
        find_study("speed")


@pytest.mark.parametrize("name", STUDIES)
def test_forms_are_made_of_trials_that_can_be_built(name: str) -> None:
    for quick in (False, True):
        trials = find_study(name, quick).trials()
        assert len({str(trial.plain()) for trial in trials.values()}) == len(trials)
    assert next(iter(trials.values())).build().num_parameters() > 100


def test_the_shipped_firm_network_holds_what_came_first_far_beyond_its_training() -> None:
    """10 000 frames, 150 of which it was trained on; levels and margins are why."""
    network = load_network(packaged("models", "copy_first_firm_cmru"))
    task = CopyFirstInput(name="copy_first_input", length=150, classes=8)
    y = np.random.default_rng(6).integers(8, size=64)
    states: list[torch.Tensor] | None = None
    with torch.no_grad():
        for piece in copy_first_pieces(task, y, 10_000, seed=0):
            logits, states = network.resume(torch.from_numpy(piece), states)
    assert np.array_equal(logits.argmax(1).numpy(), y)
    up, down = margins(network, task.noise_std)
    assert torch.minimum(up, down).min() > 4.5
