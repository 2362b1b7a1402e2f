"""The training section of a configuration."""

from __future__ import annotations

from typing import Any

import pytest

from cmru_hw.config import to_yaml, validate
from cmru_hw.errors import ConfigError
from cmru_hw.training import TrainingConfig


def read(**content: Any) -> TrainingConfig:
    return validate(TrainingConfig, {"steps": 10, **content}, "config.yaml")


def test_epsilon_is_one_then_linear_then_zero() -> None:
    config = read(epsilon_hold=4, epsilon_anneal=8)
    assert [config.epsilon(step) for step in (0, 3, 4, 6, 8, 12, 1000)] == [1, 1, 1, 0.75, 0.5, 0, 0]
    assert read(epsilon_hold=0, epsilon_anneal=0).epsilon(0) == 0
    assert read(epsilon_hold=2, epsilon_anneal=0).epsilon(2) == 0


def test_survives_yaml() -> None:
    config = read(
        betas=[0.8, 0.9],
        margin={"distance": 0.1, "weight": 1.0},
        quantization={"units": 16, "max_ratio": 4.0, "steps": 5},
    )
    assert config.total_steps == 15
    assert "betas" in to_yaml(config.model_dump(mode="json"))
    assert read(**config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": "many"}, "steps"),
        ({"batch_size": -1}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"betas": [0.9, 1.0]}, "betas"),
        ({"betas": [0.9]}, "betas"),
        ({"weight_noise": -0.1}, "weight_noise"),
        ({"packet_asymmetry": -0.1}, "packet_asymmetry"),
        ({"packet_asymmetry": 0.6}, "packet_asymmetry"),
        ({"margin": {"distance": 0.1}}, "margin.weight"),
        ({"quantization": {"units": 0, "steps": 5}}, "quantization.units"),
        ({"quantization": {"units": 16}}, "quantization.steps"),
        ({"epochs": 3}, "epochs: unknown key"),
    ],
)
def test_bad_value_is_a_config_error_naming_the_field(content: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=f"config.yaml: .*{field}"):
        read(**content)
