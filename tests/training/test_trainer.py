"""Training through its public face: learning, choosing, stopping, resuming, refusing."""

from __future__ import annotations

import csv
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cmru_hw.errors import ConfigError, TrainingError
from cmru_hw.nn.network import Network, NetworkConfig, load_network
from cmru_hw.training import Task, TaskConfig, TrainingConfig, evaluate, load_task, train

EVERYTHING: dict[str, Any] = {
    "steps": 24,
    "batch_size": 16,
    "learning_rate": 1e-2,
    "epsilon_hold": 4,
    "epsilon_anneal": 8,
    "weight_noise": 0.1,
    "candidate_noise": 0.05,
    "margin": {"distance": 0.1, "weight": 0.5},
    "quantization": {"units": 8, "max_ratio": 2.0, "steps": 12},
    "evaluate_every": 5,
}
PLAIN: dict[str, Any] = {"steps": 20, "batch_size": 16, "epsilon_hold": 0, "epsilon_anneal": 0}


def config(base: dict[str, Any], **changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({**base, **changes})


@pytest.fixture(scope="module")
def task() -> Task:
    options = {"length": 6, "classes": 3, "train_size": 90, "test_size": 60, "validation_fraction": 0.2}
    return load_task(TaskConfig.model_validate({"name": "copy_first_input", **options}), seed=0)


def network(seed: int = 0, **options: Any) -> Network:
    torch.manual_seed(seed)
    sizes = {"input_size": 3, "model_size": 6, "hidden_size": 6, "num_layers": 1, "num_classes": 3}
    return Network(NetworkConfig.model_validate({"unit": "fq_bmru", **sizes, **options}))


class PlainGRU(nn.Module):
    """A network that knows nothing of this package."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gru = nn.GRU(3, 6, batch_first=True)
        self.readout = nn.Linear(6, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        hidden = self.gru(x)[0]
        scores: Tensor = self.readout(hidden[torch.arange(len(x)), lengths - 1])
        return scores


class Stopper(Network):
    """Presses Ctrl-C in the middle of its nth training step."""

    def __init__(self, original: Network, after: int) -> None:
        super().__init__(original.config)
        self.load_state_dict(original.state_dict())
        self.calls_left = after

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if self.training:
            self.calls_left -= 1
            if self.calls_left == 0:
                os.kill(os.getpid(), signal.SIGINT)
        return super().forward(x, lengths)


def weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def without_timing(metrics: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metrics.items() if key != "timing"}


@pytest.mark.parametrize("unit", ["fq_bmru", "gru"])
def test_learns_the_task(task: Task, unit: str) -> None:
    net = PlainGRU() if unit == "gru" else network(model_size=8, hidden_size=8)
    result = train(net, task, config(PLAIN, steps=300, learning_rate=1e-2))
    assert result.metrics["test_accuracy"] > 0.9
    assert result.metrics["parameters"] == sum(p.numel() for p in net.parameters())
    assert result.metrics["test_accuracy"] == evaluate(net, task.test).accuracy


def test_run_folder_holds_the_network_and_its_numbers(task: Task, tmp_path: Path) -> None:
    net = network()
    result = train(net, task, config(EVERYTHING), tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics == result.metrics
    assert {"task", "unit", "parameters", "steps", "seed", "test_accuracy"} <= metrics.keys()
    assert (metrics["unit"], metrics["steps"], metrics["test_decisions"]) == ("fq_bmru", 36, 60)
    loaded = load_network(tmp_path)
    assert equal(weights(loaded), weights(net))
    assert loaded.config.epsilon == 0
    assert evaluate(loaded, task.test).accuracy == metrics["test_accuracy"]
    rows = list(csv.DictReader((tmp_path / "history.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [5, 10, 15, 20, 24, 25, 30, 35, 36]


def test_trained_weights_are_whole_units_and_in_range(task: Task) -> None:
    net = network()
    train(net, task, config(EVERYTHING, learning_rate=0.1))
    for name, value in net.named_parameters():
        if name.endswith("weight"):
            assert torch.equal(value * 8, torch.round(value * 8))
            assert value.abs().max() <= 2
    unit = net.layers[0].unit
    assert min(unit.threshold_low.min(), unit.width.min(), unit.gain.min()) >= 0
    assert unit.candidate_noise == 0


SIGNED: list[tuple[str, dict[str, Any]]] = [
    ("bmru", {}),
    ("cmru", {"levels": 2}),
    ("cmru", {"levels": 1, "input_dependent_threshold": True}),
    ("alpha_cmru", {"rails": 1.5}),
]


@pytest.mark.parametrize(("unit", "options"), SIGNED)
def test_the_quantised_phase_ends_with_a_network_that_can_be_built(
    task: Task, tmp_path: Path, unit: str, options: dict[str, Any]
) -> None:
    """What is validated is what is saved: whole units, and initial states that hardware can hold."""
    net = network(unit=unit, **options)
    with torch.no_grad():
        net.units[0].initial_state.copy_(torch.tensor([-3.0, -0.4, -0.1, 0.1, 0.4, 3.0]))
    changes = {"learning_rate": 0.1, "packet_asymmetry": 0.08 if unit == "alpha_cmru" else 0.0}
    result = train(net, task, config(EVERYTHING, **changes), tmp_path)
    chosen = next(row for row in result.history if row["step"] == result.metrics["best_step"])
    assert chosen["validation_accuracy"] == result.metrics["validation_accuracy"]
    assert chosen["validation_loss"] == pytest.approx(evaluate(net, task.validation).loss, rel=1e-6)
    for name, value in load_network(tmp_path).named_parameters():
        assert torch.equal(value, net.get_parameter(name))
        if name.endswith("weight"):
            assert torch.equal(value * 8, torch.round(value * 8))
    cell = net.units[0]
    assert torch.equal(cell.initial_state, cell.holdable(cell.initial_state))
    assert getattr(cell, "packet_asymmetry", 0.0) == 0.0


def test_without_a_quantised_phase_the_initial_state_is_free(task: Task) -> None:
    net = network(unit="cmru", levels=2)
    train(net, task, config(PLAIN, learning_rate=0.05))
    assert not torch.equal(net.units[0].initial_state, net.units[0].initial_state.round())


def test_packet_asymmetry_of_another_unit_is_refused(task: Task, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"packet_asymmetry: 0\.1 belongs to alpha_cmru"):
        train(network(unit="cmru"), task, config(PLAIN, packet_asymmetry=0.1), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_packet_asymmetry_acts_in_training(task: Task) -> None:
    found = []
    for asymmetry in (0.0, 0.1, 0.1):
        net = network(unit="alpha_cmru")
        with torch.no_grad():
            net.units[0].threshold.fill_(0.1)
        train(net, task, config(PLAIN, packet_asymmetry=asymmetry))
        found.append(weights(net))
    even, uneven, again = found
    assert not equal(even, uneven)
    assert equal(uneven, again)


@pytest.mark.parametrize("phases", [PLAIN, EVERYTHING])
def test_constant_thresholds_stay_above_their_floor(task: Task, phases: dict[str, Any]) -> None:
    net = network(unit="cmru", levels=2)
    with torch.no_grad():
        net.units[0].threshold.copy_(torch.tensor([-2.0, -0.1, 0.0, 0.1, 0.5, 2.0]))
    train(net, task, config(phases, learning_rate=0.01, threshold_floor=0.3))
    beta = net.units[0].beta(None).tolist()
    assert 0.3 - 1e-6 <= min(beta) < 0.4
    assert max(beta) > 1.5
    assert net.units[0].threshold[1] < 0, "from below zero it goes no further than the floor"
    for other in (network(), network(unit="cmru", input_dependent_threshold=True)):
        with pytest.raises(ConfigError, match=r"threshold_floor: 0\.3 belongs to bmru, cmru and alpha_cmru"):
            train(other, task, config(PLAIN, threshold_floor=0.3))


def test_weight_limit_holds_in_the_main_phase(task: Task) -> None:
    net = network()
    train(net, task, config(PLAIN, learning_rate=0.5, weight_limit=0.75))
    largest = max(p.abs().max().item() for name, p in net.named_parameters() if name.endswith("weight"))
    assert largest == 0.75


@pytest.mark.parametrize("stop", [7, 24, 31])
@pytest.mark.parametrize("validated", [True, False])
def test_resumed_equals_uninterrupted(task: Task, tmp_path: Path, stop: int, validated: bool) -> None:
    if not validated:
        task = replace(task, validation=None)

    def halve(net: nn.Module) -> None:
        with torch.no_grad():
            net.get_parameter("readout.weight").mul_(0.5)

    whole = network(dropout=0.2)
    expected = train(whole, task, config(EVERYTHING), prepare=halve)

    with pytest.raises(KeyboardInterrupt):
        train(Stopper(network(dropout=0.2), stop), task, config(EVERYTHING), tmp_path, prepare=halve)
    assert not (tmp_path / "metrics.json").exists()
    resumed = network(seed=99, dropout=0.2)
    torch.manual_seed(1234)
    result = train(resumed, task, config(EVERYTHING), tmp_path, prepare=halve)
    assert equal(weights(resumed), weights(whole))
    assert result.history == expected.history
    assert without_timing(result.metrics) == without_timing(expected.metrics)


def test_checkpoints_are_written_on_the_way(task: Task, tmp_path: Path) -> None:
    class Crash(Exception):
        pass

    class Crashing(Stopper):
        def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
            if self.training and self.calls_left == 1:
                raise Crash
            return super().forward(x, lengths)

    whole = network()
    train(whole, task, config(EVERYTHING))
    with pytest.raises(Crash):
        train(Crashing(network(), 20), task, config(EVERYTHING, checkpoint_every=8), tmp_path)
    resumed = network(seed=99)
    train(resumed, task, config(EVERYTHING), tmp_path)
    assert equal(weights(resumed), weights(whole))


def test_equal_runs_are_equal_and_the_callers_generator_is_left_alone(task: Task) -> None:
    torch.manual_seed(5)
    expected_draw = torch.rand(3)
    results = []
    for _ in range(2):
        net = network()
        torch.manual_seed(5)
        train(net, task, config(EVERYTHING))
        assert torch.equal(torch.rand(3), expected_draw)
        results.append(weights(net))
    assert equal(*results)
    other = network()
    train(other, task, config(EVERYTHING, seed=1))
    assert not equal(results[0], weights(other))


def test_finished_run_is_only_read_back(task: Task, tmp_path: Path) -> None:
    net = network()
    first = train(net, task, config(PLAIN), tmp_path)
    stamps = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = network(seed=3)
    second = train(again, task, config(PLAIN), tmp_path)
    assert second == first
    assert equal(weights(again), weights(net))
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == stamps
    third = train(network(), task, config(PLAIN), tmp_path, resume=False)
    assert without_timing(third.metrics) == without_timing(first.metrics)
    assert (tmp_path / "metrics.json").stat().st_mtime_ns != stamps["metrics.json"]


def test_lost_results_are_written_again(task: Task, tmp_path: Path) -> None:
    train(network(), task, config(EVERYTHING), tmp_path)
    before = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").unlink()
    train(network(seed=1), task, config(EVERYTHING), tmp_path)
    assert (tmp_path / "weights.safetensors").read_bytes() == before


def test_checkpoint_of_another_run_is_refused(task: Task, tmp_path: Path) -> None:
    train(network(), task, config(PLAIN), tmp_path)
    with pytest.raises(TrainingError, match=r"checkpoint.*training\.learning_rate = 0\.001, now 0\.002"):
        train(network(), task, config(PLAIN, learning_rate=2e-3), tmp_path)
    with pytest.raises(TrainingError, match=r"network\.hidden_size = 6, now 7"):
        train(network(hidden_size=7), task, config(PLAIN), tmp_path)
    with pytest.raises(TrainingError, match=r"task\.validation = .* now None"):
        train(network(), replace(task, validation=None), config(PLAIN), tmp_path)
    with pytest.raises(TrainingError, match=r"training\.margin = None"):
        train(network(), task, config(PLAIN, margin=EVERYTHING["margin"]), tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_damaged_checkpoint_is_a_config_error_naming_the_file(
    task: Task, tmp_path: Path, share: float
) -> None:
    train(network(), task, config(PLAIN), tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ConfigError, match=r"checkpoint\.safetensors: not a complete checkpoint"):
        train(network(), task, config(PLAIN), tmp_path)


def test_safetensors_file_that_is_no_checkpoint_is_a_config_error(task: Task, tmp_path: Path) -> None:
    train(network(), task, config(PLAIN), tmp_path)
    os.replace(tmp_path / "weights.safetensors", tmp_path / "checkpoint.safetensors")
    with pytest.raises(ConfigError, match="not a complete checkpoint"):
        train(network(), task, config(PLAIN), tmp_path)


def test_damaged_result_is_a_config_error(task: Task, tmp_path: Path) -> None:
    train(network(), task, config(PLAIN), tmp_path)
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(ConfigError, match="damaged result"):
        train(network(), task, config(PLAIN), tmp_path)


def test_loss_that_is_not_finite_names_the_step(task: Task, tmp_path: Path) -> None:
    x = task.train.x.copy()
    x[5] = np.inf
    bad = replace(task, train=replace(task.train, x=x))
    with pytest.raises(TrainingError, match=r"step \d+: loss (nan|inf)"):
        train(network(), bad, config(PLAIN), tmp_path)
    assert not (tmp_path / "metrics.json").exists()


def test_training_without_sequences_is_refused(task: Task) -> None:
    empty = replace(task, train=task.train.take(np.array([], dtype=int)))
    with pytest.raises(ConfigError, match="the training split is empty"):
        train(network(), empty, config(PLAIN))


def test_ending_before_epsilon_is_zero_is_refused(task: Task) -> None:
    with pytest.raises(ConfigError, match="epsilon_hold \\+ epsilon_anneal = 6000"):
        train(network(), task, TrainingConfig(steps=100))
    train(network(unit="cmru"), task, TrainingConfig(steps=2))


def test_keeps_the_best_by_validation_else_the_last(task: Task) -> None:
    learned = PlainGRU()
    train(learned, task, config(PLAIN, steps=200, learning_rate=1e-2))
    unlearning = replace(task, train=replace(task.train, y=(task.train.y + 1) % 3))
    options = config(PLAIN, steps=60, learning_rate=1e-2, evaluate_every=2)

    chosen = PlainGRU()
    chosen.load_state_dict(learned.state_dict())
    result = train(chosen, unlearning, options)
    accuracies = [row["validation_accuracy"] for row in result.history]
    assert result.metrics["validation_accuracy"] == max(accuracies) > accuracies[-1]
    ties = [row for row in result.history if row["validation_accuracy"] == max(accuracies)]
    assert result.metrics["best_step"] == min(ties, key=lambda row: row["validation_loss"])["step"]

    last = PlainGRU()
    last.load_state_dict(learned.state_dict())
    result = train(last, replace(unlearning, validation=None), options)
    assert (result.metrics["best_step"], result.metrics["validation_accuracy"]) == (60, None)
    assert result.metrics["test_accuracy"] < 0.5 < evaluate(chosen, task.test).accuracy


def test_nothing_is_kept_before_epsilon_is_zero(task: Task) -> None:
    net = network()
    result = train(net, task, config(PLAIN, epsilon_hold=5, epsilon_anneal=10, evaluate_every=1))
    assert result.metrics["best_step"] >= 15
    assert [row["epsilon"] for row in result.history[3:8]] == [1, 1, 0.9, 0.8, 0.7]
    assert net.config.epsilon == 0


def test_voting_network_is_trained_on_its_mean_logit(task: Task) -> None:
    voting, mean = network(pool="vote"), network(pool="mean")
    task = replace(task, validation=None)
    train(voting, task, config(PLAIN))
    train(mean, task, config(PLAIN))
    assert voting.config.pool == "vote"
    assert equal(weights(voting), weights(mean))


def test_evaluation_does_not_depend_on_the_batch(task: Task) -> None:
    net = network()
    net.train()
    whole, parts = evaluate(net, task.test), evaluate(net, task.test, batch_size=7)
    assert np.array_equal(whole.decisions, parts.decisions)
    assert whole.loss == pytest.approx(parts.loss, rel=1e-5)
    assert whole.accuracy == np.mean(whole.decisions == task.test.y)
    assert net.training
    with pytest.raises(ConfigError, match="without sequences"):
        evaluate(net, task.test.take(np.array([], dtype=int)))
