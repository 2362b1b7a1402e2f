"""Weights in whole units: against exact arithmetic, and the straight-through gradient."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cmru_hw.errors import ConfigError
from cmru_hw.nn.network import Network, NetworkConfig
from cmru_hw.training.quantization import bake, fake_quantize, matrix_names, round_to_units


def network() -> Network:
    return Network(
        NetworkConfig(unit="fq_bmru", input_size=3, model_size=4, hidden_size=5, num_layers=2, num_classes=2)
    )


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


@pytest.mark.parametrize(("units", "max_ratio"), [(0, 4.0), (4, 0.1), (4, float("nan"))])
def test_impossible_units_are_refused(units: int, max_ratio: float) -> None:
    with pytest.raises(ConfigError, match="units must be"):
        round_to_units(torch.zeros(1), units, max_ratio)
