"""Weights in whole units: against exact arithmetic, and the straight-through gradient."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cmru_hw.errors import ConfigError
from cmru_hw.nn.network import Network, NetworkConfig
from cmru_hw.nn.network_config import UnitName
from cmru_hw.training.quantization import (
    bake,
    fake_hold,
    fake_quantize,
    matrix_names,
    round_to_units,
    state_names,
)


def network(unit: UnitName = "fq_bmru", **options: Any) -> Network:
    sizes = {"input_size": 3, "model_size": 4, "hidden_size": 5, "num_layers": 2, "num_classes": 2}
    return Network(NetworkConfig.model_validate({"unit": unit, **sizes, **options}))


@given(
    st.floats(-8, 8, width=32),
    st.sampled_from([1, 2, 4, 8, 16, 32]),
    st.sampled_from([0.5, 1.0, 3.3, 4.0]),
)
def test_rounds_to_the_nearest_whole_number_of_units(value: float, units: int, max_ratio: float) -> None:
    if max_ratio * units < 1:
        return
    rounded = round_to_units(torch.tensor([value]), units, max_ratio).item()
    count = Fraction(rounded) * units
    assert count.denominator == 1
    assert abs(rounded) <= max_ratio
    inside = min(max(Fraction(value), -Fraction(max_ratio)), Fraction(max_ratio))
    assert abs(Fraction(rounded) - inside) <= Fraction(1, 2 * units) or abs(rounded) + 1 / units > max_ratio


def test_gradient_passes_inside_the_range_and_stops_outside() -> None:
    weight = torch.tensor([0.3, -1.0, 2.5, -7.0], requires_grad=True)
    quantized = fake_quantize(weight, units=4, max_ratio=2.0)
    (quantized * torch.arange(1.0, 5.0)).sum().backward()
    assert quantized.tolist() == [0.25, -1.0, 2.0, -2.0]
    assert weight.grad is not None
    assert weight.grad.tolist() == [1.0, 2.0, 0.0, 0.0]


def test_bake_rounds_matrices_and_leaves_bias_currents() -> None:
    net = network()
    before = {name: value.clone() for name, value in net.named_parameters()}
    bake(net, units=16, max_ratio=0.25)
    names = matrix_names(net)
    assert sorted(names) == sorted(
        ["projection.weight", "readout.weight"]
        + [f"layers.{layer}.{part}.weight" for layer in (0, 1) for part in ("unit.candidate", "output")]
    )
    for name, value in net.named_parameters():
        if name in names:
            assert torch.equal(value * 16, torch.round(value * 16))
            assert value.abs().max() <= 0.25
        else:
            assert torch.equal(value, before[name])
    baked = {name: value.clone() for name, value in net.named_parameters()}
    bake(net, units=16, max_ratio=0.25)
    assert all(torch.equal(value, baked[name]) for name, value in net.named_parameters())


@pytest.mark.parametrize(
    ("unit", "options", "held"),
    [
        ("bmru", {}, [-1, -1, 1, 1, 1]),
        ("cmru", {}, [-4, -1, 0, 1, 3]),
        ("cmru", {"levels": 2}, [-2, -1, 0, 1, 2]),
        ("alpha_cmru", {}, [-3.7, -0.6, 0.2, 1.4, 2.6]),
        ("alpha_cmru", {"rails": 2.5}, [0, 0, 0, 0, 0]),
    ],
)
def test_initial_states_become_ones_that_the_unit_can_hold(
    unit: UnitName, options: dict[str, Any], held: list[float]
) -> None:
    net = network(unit, **options)
    names = state_names(net)
    assert list(names) == ["layers.0.unit.initial_state", "layers.1.unit.initial_state"]
    real = torch.tensor([-3.7, -0.6, 0.2, 1.4, 2.6])
    wanted = torch.tensor(held, dtype=torch.float32).tolist()
    for name, cell in names.items():
        state = net.get_parameter(name)
        with torch.no_grad():
            state.copy_(real)
        used = fake_hold(state, cell)
        assert used.tolist() == wanted
        (gradient,) = torch.autograd.grad((used * real).sum(), state)
        assert torch.equal(gradient, real)
        assert torch.equal(state, real)
    bake(net, units=16, max_ratio=4.0)
    for name in names:
        assert net.get_parameter(name).tolist() == wanted


def test_only_initial_states_that_training_moves_are_named() -> None:
    assert state_names(network("fq_bmru")) == {}
    assert state_names(network("lru")) == {}
    assert list(state_names(network("cmru").units[0])) == ["initial_state"]


@pytest.mark.parametrize(("units", "max_ratio"), [(0, 4.0), (4, 0.1), (4, float("nan"))])
def test_impossible_units_are_refused(units: int, max_ratio: float) -> None:
    with pytest.raises(ConfigError, match="units must be"):
        round_to_units(torch.zeros(1), units, max_ratio)
