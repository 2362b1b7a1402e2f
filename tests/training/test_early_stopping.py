"""Ending a phase early: when, where it goes on, and that an interruption changes nothing."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cmru_hw.errors import ConfigError
from cmru_hw.nn.network import Network, NetworkConfig
from cmru_hw.training import Task, TaskConfig, TrainingConfig, TrainingResult, load_task, train

STEPS: dict[str, Any] = {
    "steps": 60, "batch_size": 16, "learning_rate": 1e-2, "epsilon_hold": 4, "epsilon_anneal": 8,
    "evaluate_every": 2,
}  # fmt: skip
QUANTIZED = {"units": 8, "steps": 30}


@pytest.fixture(scope="module")
def task() -> Task:
    """Training on classes that validation contradicts: the longer, the worse."""
    options = {"length": 6, "classes": 3, "train_size": 90, "test_size": 60, "validation_fraction": 0.2}
    task = load_task(TaskConfig.model_validate({"name": "copy_first_input", **options}), seed=0)
    return replace(task, train=replace(task.train, y=(task.train.y + 1) % 3))


def config(**changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({**STEPS, **changes})


def network(kind: type[Network] = Network) -> Network:
    torch.manual_seed(0)
    sizes = {"input_size": 3, "model_size": 6, "hidden_size": 6, "num_layers": 1, "num_classes": 3}
    return kind(NetworkConfig.model_validate({"unit": "fq_bmru", **sizes}))


class Stopped(Network):
    """Presses Ctrl-C in its 50th training step."""

    calls = 0

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if self.training:
            self.calls += 1
            if self.calls == self.stop:
                os.kill(os.getpid(), signal.SIGINT)
        return super().forward(x, lengths)

    stop = 0


def patience_used_up(result: TrainingResult, first: int, patience: int) -> int:
    """The step at which a phase that may choose from step `first` on should end, from its history."""
    best, since = None, 0
    for row in result.history:
        if row["step"] < first:
            continue
        score = (row["validation_accuracy"], -row["validation_loss"])
        best, since = (score, 0) if best is None or score > best else (best, since + 1)
        if since == patience:
            return int(row["step"])
    raise AssertionError("patience never ran out")


@pytest.mark.parametrize("patience", [1, 3])
def test_ends_when_validation_has_not_improved_for_so_many_evaluations(task: Task, patience: int) -> None:
    result = train(network(), task, config(early_stopping={"patience": patience}))
    end = patience_used_up(result, 12, patience)
    assert end < 60
    assert result.metrics["steps"] == result.history[-1]["step"] == end
    whole = train(network(), task, config())
    assert whole.history[: len(result.history)] == result.history
    assert whole.metrics["steps"] == 60


def test_never_before_epsilon_is_zero(task: Task) -> None:
    """Validation falls all along; the first weights that may be kept are those of step 12."""
    result = train(network(), task, config(early_stopping={"patience": 1}))
    assert [row["epsilon"] for row in result.history if row["step"] < 12] != []
    assert result.metrics["best_step"] >= 12
    assert result.metrics["steps"] >= 14


def test_the_quantised_phase_follows_with_its_own_patience(task: Task) -> None:
    options = {"quantization": QUANTIZED, "early_stopping": {"patience": 2}}
    net = network()
    result = train(net, task, config(**options))
    first = patience_used_up(result, 12, 2)
    end = patience_used_up(result, first + 1, 2) if result.metrics["steps"] < first + 30 else first + 30
    assert result.metrics["steps"] == result.history[-1]["step"] == end
    assert first < 60
    assert result.metrics["best_step"] > first
    rate = next(row["learning_rate"] for row in result.history if row["step"] > first)
    assert rate == pytest.approx(3e-4, rel=0.01), "the cosine of the phase starts anew"
    for name, value in net.named_parameters():
        if name.endswith("weight"):
            assert torch.equal(value * 8, torch.round(value * 8))


def test_chips_have_all_their_errors_first(task: Task) -> None:
    from cmru_hw.technology import load_technology

    noise = {"scale": 2.0, "anneal": 20, "chips": 4}
    options = {"hardware_noise": noise, "early_stopping": {"patience": 1}}
    result = train(network(), task, config(**options), technology=load_technology("generic180"))
    assert result.metrics["best_step"] > 20
    assert result.metrics["steps"] == patience_used_up(result, 21, 1)


@pytest.mark.parametrize("stop", [13, 20, 26])
def test_resumed_equals_uninterrupted(task: Task, tmp_path: Path, stop: int) -> None:
    options = config(quantization=QUANTIZED, early_stopping={"patience": 3})
    whole = network()
    expected = train(whole, task, options)
    assert expected.metrics["steps"] < 90
    stopped = network(Stopped)
    assert isinstance(stopped, Stopped)
    stopped.stop = stop
    with pytest.raises(KeyboardInterrupt):
        train(stopped, task, options, tmp_path)
    resumed = network()
    result = train(resumed, task, options, tmp_path)
    assert result.history == expected.history
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])
    assert train(network(), task, options, tmp_path).metrics == result.metrics, "a finished run is read back"


def test_without_a_validation_split_it_is_refused(task: Task, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="early_stopping: needs a validation split"):
        train(
            network(),
            replace(task, validation=None),
            config(early_stopping={"patience": 2}),
            tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()
