"""Free factors: the rescaled network is the same function, and rounds better."""

from __future__ import annotations

import numpy as np
import torch
from hardware_networks import UNITS, random_input, random_network
from hypothesis import given, settings
from hypothesis import strategies as st

from cmru_hw.mapping import equalize
from cmru_hw.nn.network import Network
from cmru_hw.scaling import Weights, rescale

LARGEST = 8.0


def weights_of(network: Network) -> Weights:
    return {name: value.detach().double().numpy() for name, value in network.state_dict().items()}


def with_weights(network: Network, weights: Weights) -> Network:
    """The same network in double precision with other weights."""
    other = Network(network.config).double()
    other.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return other.eval()


def rounding_loss(weights: Weights) -> float:
    """Mean over the matrices of rms error / rms weight."""
    matrices = [value for value in weights.values() if value.ndim == 2]
    return float(
        np.mean([np.sqrt(np.mean((np.rint(m * UNITS) / UNITS - m) ** 2) / np.mean(m**2)) for m in matrices])
    )


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), skip=st.booleans(), layers=st.integers(1, 3))
def test_the_rescaled_network_is_the_same_function(seed: int, skip: bool, layers: int) -> None:
    network = random_network(seed, on_grid=False, skip=skip, num_layers=layers)
    scaled, factor = rescale(weights_of(network), layers, UNITS, LARGEST)
    x = torch.from_numpy(random_input(seed, batch=3, frames=15))
    with torch.no_grad():
        before = with_weights(network, weights_of(network)).trace(x)
        after = with_weights(network, scaled).trace(x)
    for expected, found in zip(before["states"], after["states"], strict=True):
        assert torch.equal(expected, found)
    torch.testing.assert_close(after["logits"] / factor, before["logits"], rtol=1e-9, atol=1e-12)
    assert torch.equal(after["logits"].mean(1).argmax(1), before["logits"].mean(1).argmax(1))
    assert any(not np.array_equal(scaled[name], value) for name, value in weights_of(network).items())


def test_rescaled_networks_lose_less_in_rounding() -> None:
    before, after = [], []
    for seed in range(12):
        weights = weights_of(random_network(seed, on_grid=False))
        before.append(rounding_loss(weights))
        after.append(rounding_loss(rescale(weights, 2, UNITS, LARGEST)[0]))
    assert np.mean(after) < 0.8 * np.mean(before)
    assert max(np.array(after) / np.array(before)) <= 1


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_a_network_on_the_grid_comes_back_unchanged(seed: int) -> None:
    weights = weights_of(random_network(seed))
    scaled, factor = rescale(weights, 2, UNITS, LARGEST)
    assert factor == 1.0
    for name, value in weights.items():
        assert np.array_equal(scaled[name], value)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_no_factor_pushes_a_weight_beyond_the_largest_ratio(seed: int) -> None:
    weights = weights_of(random_network(seed, on_grid=False))
    largest = max(np.abs(value).max() for value in weights.values() if value.ndim == 2)
    scaled, _ = rescale(weights, 2, UNITS, largest)
    assert max(np.abs(value).max() for value in scaled.values() if value.ndim == 2) <= largest * (1 + 1e-12)


def test_rescaling_leaves_its_argument_alone() -> None:
    weights = weights_of(random_network(3, on_grid=False))
    copies = {name: value.copy() for name, value in weights.items()}
    rescale(weights, 2, UNITS, LARGEST)
    for name, value in copies.items():
        assert np.array_equal(weights[name], value)


def test_equalize_keeps_the_logits_themselves() -> None:
    network = random_network(5, on_grid=False)
    x = torch.from_numpy(random_input(5)).float()
    with torch.no_grad():
        before = network.trace(x)
        equalize(network, UNITS, LARGEST)
        after = network.trace(x)
    torch.testing.assert_close(after["logits"], before["logits"], rtol=1e-4, atol=1e-5)
    for expected, found in zip(before["states"], after["states"], strict=True):
        assert torch.equal(expected, found)
