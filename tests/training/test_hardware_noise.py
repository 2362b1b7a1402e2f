"""`training.hardware_noise` in the loop: what it changes, that it resumes, what it refuses."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from cmru_hw.errors import ConfigError, TrainingError
from cmru_hw.nn.network import Network, NetworkConfig
from cmru_hw.technology import load_technology
from cmru_hw.training import Planned, Task, TaskConfig, TrainingConfig, load_task, train
from cmru_hw.training.config import HardwareNoiseConfig
from cmru_hw.training.hardware import Hardware

CARD = load_technology("generic180")
NOISE = {"scale": 2.0, "anneal": 10, "chips": 4, "branch_noise": True, "temperature_celsius": [0.0, 60.0]}
EVERYTHING: dict[str, Any] = {
    "steps": 24, "batch_size": 16, "learning_rate": 1e-2, "epsilon_hold": 4, "epsilon_anneal": 8,
    "hardware_noise": NOISE, "candidate_noise": 0.05, "margin": {"distance": 0.1, "weight": 0.5},
    "quantization": {"units": 16, "max_ratio": 2.0, "steps": 12}, "evaluate_every": 5,
}  # fmt: skip


def config(**changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({**EVERYTHING, **changes})


@pytest.fixture(scope="module")
def task() -> Task:
    options = {"length": 6, "classes": 3, "train_size": 90, "test_size": 60, "validation_fraction": 0.2}
    return load_task(TaskConfig.model_validate({"name": "copy_first_input", **options}), seed=0)


def network(seed: int = 0, **options: Any) -> Network:
    torch.manual_seed(seed)
    sizes = {"input_size": 3, "model_size": 6, "hidden_size": 6, "num_layers": 1, "num_classes": 3}
    return Network(NetworkConfig.model_validate({"unit": "fq_bmru", **sizes, **options}))


def run(net: Network, task: Task, given: TrainingConfig, folder: Path | None = None, **options: Any) -> Any:
    return train(net, task, given, folder, planned=Planned(unit_current=5e-10), technology=CARD, **options)


def weights(net: Network) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


UNITS: list[dict[str, Any]] = [
    {}, {"unit": "bmru"}, {"unit": "cmru", "levels": 2}, {"unit": "alpha_cmru", "rails": 1.5},
]  # fmt: skip


@pytest.mark.parametrize("options", UNITS)
@pytest.mark.parametrize("stop", [7, 31])
def test_resumed_equals_uninterrupted(task: Task, tmp_path: Path, options: dict[str, Any], stop: int) -> None:
    class Stopper(Network):
        steps = 0

        def project_(self) -> None:
            super().project_()
            self.steps += 1
            if self.steps == stop:
                os.kill(os.getpid(), signal.SIGINT)

    whole = network(**options)
    expected = run(whole, task, config())
    stopped = Stopper(network(**options).config)
    stopped.load_state_dict(network(**options).state_dict())
    with pytest.raises(KeyboardInterrupt):
        run(stopped, task, config(), tmp_path)
    resumed = network(seed=99, **options)
    torch.manual_seed(1234)
    result = run(resumed, task, config(), tmp_path)
    assert equal(weights(resumed), weights(whole))
    assert result.history == expected.history


def test_the_errors_grow_and_only_then_is_a_network_kept(task: Task) -> None:
    noise = HardwareNoiseConfig(scale=2.0, anneal=10)
    assert [noise.strength(step) for step in (0, 5, 10, 100)] == [0.0, 1.0, 2.0, 2.0]
    assert HardwareNoiseConfig(scale=2.0, anneal=0).strength(0) == 2.0
    late = config(quantization=None, hardware_noise={**NOISE, "anneal": 22})
    result = run(network(), task, late)
    assert result.metrics["best_step"] == 24
    assert {row["step"] for row in result.history} == {5, 10, 15, 20, 24}


@pytest.mark.parametrize(
    "change", ["scale", "chips", "branch_noise", "temperature_celsius", "anneal", "planned"]
)
def test_every_choice_tells(task: Task, change: str) -> None:
    changes: dict[str, Any] = {
        "scale": 1.0, "chips": 8, "branch_noise": False, "temperature_celsius": [0.0, 50.0], "anneal": 5,
    }  # fmt: skip
    first = network()
    run(first, task, config())
    other, planned = network(), Planned(unit_current=5e-10, copy_units=4 if change == "planned" else 8)
    noise = NOISE if change == "planned" else {**NOISE, change: changes[change]}
    train(other, task, config(hardware_noise=noise), planned=planned, technology=CARD)
    assert not equal(weights(first), weights(other))


def test_it_learns_to_bear_its_chips(task: Task) -> None:
    """Large errors from the first step on: trained with them, the loss under them is the lower one."""
    losses = {}
    for name, noise in (("plain", None), ("aware", {"scale": 8.0, "anneal": 100, "chips": 4})):
        net = network()
        given = config(
            steps=250, quantization=None, margin=None, candidate_noise=0.0, hardware_noise=noise,
            evaluate_every=250,
        )  # fmt: skip
        run(net, task, given)
        hardware = Hardware(net, Planned(unit_current=5e-10), CARD)
        parameters = dict(net.named_parameters())
        with torch.no_grad():
            torch.manual_seed(0)
            chips = hardware.draw(parameters, 8.0 * hardware.deviates(50))
            x = torch.from_numpy(np.tile(task.test.x, (50, 1, 1)))
            scores, _, _ = hardware.run(x, None, parameters, chips)
        y = torch.from_numpy(np.tile(task.test.y, 50))
        losses[name] = float(torch.nn.functional.cross_entropy(scores, y))
    assert losses["aware"] < 0.8 * losses["plain"]


def test_a_checkpoint_of_another_plan_is_refused(task: Task, tmp_path: Path) -> None:
    run(network(), task, config(), tmp_path)
    with pytest.raises(TrainingError, match=r"hardware\.copy_units = 8, now 4"):
        train(
            network(),
            task,
            config(),
            tmp_path,
            planned=Planned(unit_current=5e-10, copy_units=4),
            technology=CARD,
        )


def test_it_takes_the_place_of_other_mismatch() -> None:
    for name in ("weight_noise", "packet_asymmetry"):
        with pytest.raises(ValidationError, match=f"{name} must be 0 with hardware_noise"):
            config(**{name: 0.1})
    with pytest.raises(ValidationError, match=r"batch_size must be a multiple of hardware_noise.chips \(5\)"):
        config(hardware_noise={**NOISE, "chips": 5})
    with pytest.raises(ValidationError, match="must be the lowest and the highest"):
        config(hardware_noise={**NOISE, "temperature_celsius": [60.0, 0.0]})


def test_what_has_no_chips_is_refused(task: Task) -> None:
    with pytest.raises(ConfigError, match="needs a technology"):
        train(network(), task, config())
    with pytest.raises(ConfigError, match="a GRU has no circuit"):
        run(torch.nn.GRU(3, 4), task, config())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"network\.glu: must be False"):
        run(network(glu=True), task, config())
    with pytest.raises(ConfigError, match=r"a batch of 72 sequences, all there are, cannot"):
        run(network(), task, config(batch_size=80, hardware_noise={**NOISE, "chips": 16}))
    with pytest.raises(ConfigError, match=r"characterised from .* not at 200 C"):
        run(network(), task, config(hardware_noise={**NOISE, "temperature_celsius": [0.0, 200.0]}))
