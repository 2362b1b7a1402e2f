"""Free factors: the rescaled network is the same function, and rounds better."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hardware_networks import UNITS, random_input, random_network
from hypothesis import given, settings
from hypothesis import strategies as st

from cmru_hw.mapping import MappingConfig, equalize, weight_units
from cmru_hw.nn.network import Network, NetworkConfig
from cmru_hw.scaling import Weights, has_free_factors, rescale

LARGEST = 8.0


def grid(network: Network) -> dict[str, int]:
    """Units that make a weight of 1, by matrix."""
    return weight_units(network.config, MappingConfig(units=UNITS))


GRID = grid(random_network(0))


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


VARIANTS: list[dict[str, Any]] = [
    {"unit": "fq_bmru"},
    *({"unit": "bmru", "input_dependent_threshold": moving} for moving in (False, True)),
    {"unit": "cmru"},
    *({"unit": "cmru", "levels": 2, "input_dependent_threshold": moving} for moving in (False, True)),
    *({"unit": "alpha_cmru", "rails": 1.7, "input_dependent_threshold": moving} for moving in (False, True)),
]


def network_of(variant: dict[str, Any], seed: int, **changes: Any) -> Network:
    """A network off the grid with any unit, gains of both signs where the unit allows them."""
    if variant["unit"] == "fq_bmru":
        return random_network(seed, on_grid=False, **changes)
    sizes = {"input_size": 3, "model_size": 4, "hidden_size": 4, "num_layers": 2, "num_classes": 2}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Network(NetworkConfig.model_validate({**sizes, **variant, **changes}))
        with torch.no_grad():
            for name, value in network.named_parameters():
                if not name.endswith("initial_state"):
                    value.copy_(0.8 * torch.randn_like(value))
    return network.eval()


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join(map(str, variant.values())))
@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 10_000), skip=st.booleans(), layers=st.integers(1, 3))
def test_the_rescaled_network_is_the_same_function(
    variant: dict[str, Any], seed: int, skip: bool, layers: int
) -> None:
    network = network_of(variant, seed, skip=skip, num_layers=layers)
    scaled, factor = rescale(weights_of(network), layers, grid(network), LARGEST)
    exact = 1e-9 if variant["unit"] == "alpha_cmru" else 0
    x = torch.from_numpy(random_input(seed, batch=3, frames=15))
    with torch.no_grad():
        before = with_weights(network, weights_of(network)).trace(x)
        after = with_weights(network, scaled).trace(x)
    for expected, found in zip(before["states"], after["states"], strict=True):
        torch.testing.assert_close(found, expected, rtol=exact, atol=exact)
    torch.testing.assert_close(after["logits"] / factor, before["logits"], rtol=1e-9, atol=1e-12)
    assert torch.equal(after["logits"].mean(1).argmax(1), before["logits"].mean(1).argmax(1))
    assert any(not np.array_equal(scaled[name], value) for name, value in weights_of(network).items())
    for name, value in weights_of(network).items():
        assert np.array_equal(np.sign(scaled[name]), np.sign(value)), name
        if name.endswith("initial_state"):
            assert np.array_equal(scaled[name], value), "a state is a count, a sign or a charge"


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join(map(str, variant.values())))
def test_every_unit_rounds_better(variant: dict[str, Any]) -> None:
    before, after = [], []
    for seed in range(6):
        weights = weights_of(network_of(variant, seed))
        before.append(rounding_loss(weights))
        after.append(rounding_loss(rescale(weights, 2, GRID, LARGEST)[0]))
    assert np.mean(after) < 0.9 * np.mean(before)


def test_only_the_mappable_blocks_have_free_factors() -> None:
    def has(unit: str, **options: Any) -> bool:
        sizes = {"input_size": 3, "model_size": 4, "hidden_size": 4, "num_layers": 1, "num_classes": 2}
        return has_free_factors(NetworkConfig.model_validate({"unit": unit, **sizes, **options}))

    assert all(has(variant["unit"]) for variant in VARIANTS)
    assert not any(has(unit) for unit in ("lru", "min_gru"))
    assert not has("cmru", norm="layer")
    assert not has("cmru", glu=True)


def test_rescaled_networks_lose_less_in_rounding() -> None:
    before, after = [], []
    for seed in range(12):
        weights = weights_of(random_network(seed, on_grid=False))
        before.append(rounding_loss(weights))
        after.append(rounding_loss(rescale(weights, 2, GRID, LARGEST)[0]))
    assert np.mean(after) < 0.8 * np.mean(before)
    assert max(np.array(after) / np.array(before)) <= 1


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_a_network_on_the_grid_comes_back_unchanged(seed: int) -> None:
    weights = weights_of(random_network(seed))
    scaled, factor = rescale(weights, 2, GRID, LARGEST)
    assert factor == 1.0
    for name, value in weights.items():
        assert np.array_equal(scaled[name], value)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_no_factor_pushes_a_weight_beyond_the_largest_ratio(seed: int) -> None:
    weights = weights_of(random_network(seed, on_grid=False))
    largest = max(np.abs(value).max() for value in weights.values() if value.ndim == 2)
    scaled, _ = rescale(weights, 2, GRID, largest)
    assert max(np.abs(value).max() for value in scaled.values() if value.ndim == 2) <= largest * (1 + 1e-12)


def test_rescaling_leaves_its_argument_alone() -> None:
    weights = weights_of(random_network(3, on_grid=False))
    copies = {name: value.copy() for name, value in weights.items()}
    rescale(weights, 2, GRID, LARGEST)
    for name, value in copies.items():
        assert np.array_equal(weights[name], value)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join(map(str, variant.values())))
def test_equalize_keeps_the_logits_themselves(variant: dict[str, Any]) -> None:
    network = network_of(variant, 5)
    x = torch.from_numpy(random_input(5)).float()
    with torch.no_grad():
        before = network.trace(x)
        equalize(network, grid(network), LARGEST)
        after = network.trace(x)
    torch.testing.assert_close(after["logits"], before["logits"], rtol=1e-4, atol=1e-5)
    for expected, found in zip(before["states"], after["states"], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
