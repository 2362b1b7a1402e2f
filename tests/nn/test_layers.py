"""The layers against the reference equations, and their call against torch.nn.GRU."""

import functools
import itertools
import re

import nn_reference as reference
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cmru_hw.nn import BMRU, CMRU, FQBMRU, LRU, AlphaCMRU, MinGRU

LAYERS = {
    "bmru": (BMRU, {}),
    "bmru annealing": (BMRU, {"epsilon": 0.3, "input_dependent_threshold": True}),
    "cmru": (CMRU, {"input_dependent_threshold": True}),
    "saturating cmru": (CMRU, {"levels": 2}),
    "alpha_cmru": (AlphaCMRU, {}),
    "alpha_cmru with moving threshold": (AlphaCMRU, {"input_dependent_threshold": True}),
    "alpha_cmru between rails": (AlphaCMRU, {"rails": 2.7}),
    "fq_bmru": (FQBMRU, {}),
    "fq_bmru annealing": (FQBMRU, {"epsilon": 0.7}),
    "lru": (LRU, {}),
    "min_gru": (MinGRU, {}),
}
STEPS = {
    BMRU: reference.bmru,
    CMRU: reference.cmru,
    AlphaCMRU: reference.alpha_cmru,
    FQBMRU: reference.fq_bmru,
    LRU: reference.lru,
    MinGRU: reference.min_gru,
}


def make(name, *sizes, **arguments):
    layer, options = LAYERS[name]
    return layer(*sizes, **arguments, **options)


def start_of(layer, index):
    cell = layer.cells[index]
    if hasattr(cell, "initial_state"):
        return cell.initial_state.detach().double().numpy()
    return np.zeros(cell.hidden_size)


@pytest.mark.parametrize("name", LAYERS)
@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 2**31), steps=st.integers(1, 12), bidirectional=st.booleans(), given_h=st.booleans()
)
def test_layer_equals_the_equations(name, seed, steps, bidirectional, given_h):
    """Double precision, so that both sides take every threshold decision from the same number."""
    torch.manual_seed(seed)
    layer = make(name, 3, 4, 2, bidirectional=bidirectional, dtype=torch.float64)
    directions = 1 + bidirectional
    x = 3 * torch.randn(steps, 2, 3, dtype=torch.float64)
    h_0 = torch.randint(0, 2, (2 * directions, 2, 4)).double() if given_h else None
    output, h_n = layer(x, h_0)
    options = {k: v for k, v in LAYERS[name][1].items() if k in ("epsilon", "levels", "rails")}
    for sequence in range(2):
        signal = x[:, sequence].numpy()
        for level in range(2):
            shown = []
            for direction in range(directions):
                index = level * directions + direction
                s = start_of(layer, index) if h_0 is None else h_0[index, sequence].numpy()
                fed = signal[::-1] if direction else signal
                p = reference.parameters(layer.cells[index])
                h, states = reference.run(STEPS[type(layer)], p, fed, s, **options)
                shown.append(h[::-1] if direction else h)
                np.testing.assert_allclose(h_n[index, sequence].detach().numpy(), states[-1], atol=1e-9)
            signal = np.concatenate(shown, axis=1)
        np.testing.assert_allclose(output[:, sequence].detach().numpy(), signal, atol=1e-9)


@functools.cache
def gru_shapes(shape, given_h, **arguments):
    gru, x = nn.GRU(3, 4, **arguments), torch.zeros(shape)
    output, h_n = gru(x)
    if given_h:
        output, h_n = gru(x, torch.zeros_like(h_n))
    return output.shape, h_n.shape


@torch.no_grad()
@pytest.mark.parametrize("name", LAYERS)
def test_shapes_are_those_of_gru(name):
    for batch_first, layers, both, batched, given_h, bias in itertools.product(
        (False, True), (1, 3), (False, True), (False, True), (False, True), (False, True)
    ):
        arguments = dict(num_layers=layers, bias=bias, batch_first=batch_first, bidirectional=both)
        ours = make(name, 3, 4, **arguments)
        x = torch.randn(5, 6, 3) if batched else torch.randn(5, 3)
        batch = (5 if batch_first else 6,) if batched else ()
        h_0 = torch.zeros(layers * (1 + both), *batch, 4) if given_h else None
        output, h_n = ours(x, h_0)
        assert (output.shape, h_n.shape) == gru_shapes(x.shape, given_h, **arguments)
        assert ours(x, h_n)[0].shape == output.shape


@pytest.mark.parametrize("name", LAYERS)
def test_a_sequence_in_two_pieces_equals_the_whole(name):
    layer, x = make(name, 3, 4, 2), torch.randn(9, 2, 3)
    whole, last = layer(x)
    first, state = layer(x[:4])
    second, state = layer(x[4:], state)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(state, last)


@pytest.mark.parametrize("name", LAYERS)
def test_every_parameter_gets_a_finite_gradient(name):
    torch.manual_seed(0)
    layer = make(name, 3, 4, 2, bidirectional=True)
    layer(torch.randn(9, 5, 3))[0].pow(2).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("name", LAYERS)
def test_wrong_shapes_are_refused_as_gru_refuses_them(name):
    ours, gru = make(name, 3, 4, 2), nn.GRU(3, 4, 2)
    good = torch.zeros(5, 6, 3)
    for x, h_0 in [
        (torch.zeros(3), None),
        (torch.zeros(1, 5, 6, 3), None),
        (torch.zeros(5, 6, 2), None),
        (torch.zeros(0, 6, 3), None),
        (good.double(), None),
        (good, torch.zeros(2, 4)),
        (good, torch.zeros(1, 6, 4)),
        (good, torch.zeros(2, 5, 4)),
        (torch.zeros(5, 3), torch.zeros(2, 6, 4)),
    ]:
        with pytest.raises((ValueError, RuntimeError)):
            gru(x, h_0)
        with pytest.raises(ValueError, match=r"must .*, got"):
            ours(x, h_0)


def test_packed_sequence_is_refused_with_the_way_out():
    packed = nn.utils.rnn.pack_sequence([torch.zeros(3, 3), torch.zeros(2, 3)])
    with pytest.raises(TypeError, match="pad_packed_sequence"):
        CMRU(3, 4)(packed)


def test_wrong_arguments():
    for arguments in ({"num_layers": 0}, {"dropout": 1.5}, {"levels": 0}, {"hidden_size": 0}):
        with pytest.raises(ValueError, match=r"must be .*, got"):
            CMRU(**{"input_size": 3, "hidden_size": 4} | arguments)
    with pytest.raises(ValueError, match=re.escape("epsilon must be between 0 and 1, got 1.5")):
        BMRU(3, 4, epsilon=1.5)
    with pytest.raises(ValueError, match="radius must be"):
        LRU(3, 4, radius=(0.9, 0.1))
    for rails in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="rails must be positive and finite"):
            AlphaCMRU(3, 4, rails=rails)
    with pytest.raises(TypeError, match="levels"):
        BMRU(3, 4, levels=3)
    with pytest.warns(UserWarning, match="does nothing with num_layers=1"):
        CMRU(3, 4, dropout=0.5)


def test_dropout_acts_between_layers_in_training_only():
    torch.manual_seed(0)
    layer, x = MinGRU(3, 64, 2, dropout=0.5), torch.randn(4, 2, 3)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])


def test_long_lru_keeps_its_phase():
    """T = 5000 in float32 against the same recurrence stepped in double precision."""
    torch.manual_seed(1)
    layer = LRU(1, 2, radius=(0.999, 0.9999))
    x = torch.randn(5000, 1)
    p = reference.parameters(layer.cells[0])
    _, states = reference.run(reference.lru, p, x.double().numpy(), np.zeros(2))
    np.testing.assert_allclose(layer(x)[1][0].detach().numpy(), states[-1], rtol=2e-3, atol=2e-3)
