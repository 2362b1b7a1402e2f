"""What belongs to the cells alone: limits of epsilon, exact states, margins, noise, projection."""

import pytest
import torch

from cmru_hw.nn.fq_bmru import FQBMRUCell
from cmru_hw.nn.units import AlphaCMRUCell, BMRUCell, CMRUCell

THRESHOLD_CELLS = [
    lambda: BMRUCell(3, 5),
    lambda: CMRUCell(3, 5, levels=2),
    lambda: AlphaCMRUCell(3, 5, input_dependent_threshold=True),
    lambda: FQBMRUCell(3, 5),
    lambda: AlphaCMRUCell(3, 5, rails=2.0),
]


def same_weights(source, target):
    target.load_state_dict(source.state_dict())
    return target


@pytest.mark.parametrize("moving", [False, True])
def test_epsilon_one_is_the_cmru_and_zero_the_bmru(moving):
    torch.manual_seed(0)
    x = 4 * torch.randn(6, 40, 3)
    annealed = BMRUCell(3, 5, epsilon=1.0, input_dependent_threshold=moving)
    cmru = same_weights(annealed, CMRUCell(3, 5, input_dependent_threshold=moving))
    torch.testing.assert_close(annealed(x), cmru(x), rtol=0, atol=0)
    assert annealed(x)[0].abs().max() > 1
    annealed.epsilon = 0.0
    bmru = same_weights(annealed, BMRUCell(3, 5, input_dependent_threshold=moving))
    torch.testing.assert_close(annealed(x), bmru(x), rtol=0, atol=0)
    assert set(bmru(x)[0].unique().tolist()) == {-1.0, 1.0}


def test_levels_beyond_reach_change_nothing():
    torch.manual_seed(0)
    x = 4 * torch.randn(6, 40, 3)
    free = CMRUCell(3, 5)
    torch.testing.assert_close(free(x), same_weights(free, CMRUCell(3, 5, levels=100))(x))
    assert same_weights(free, CMRUCell(3, 5, levels=2))(x)[1].abs().max() <= 2


def test_rails_beyond_reach_change_nothing_and_nearer_ones_hold_the_state():
    torch.manual_seed(0)
    x = 4 * torch.randn(6, 40, 3)
    free = AlphaCMRUCell(3, 5)
    torch.testing.assert_close(free(x), same_weights(free, AlphaCMRUCell(3, 5, rails=1e4))(x))
    h = same_weights(free, AlphaCMRUCell(3, 5, rails=2.5))(x)[0].detach()
    assert h.abs().max() == 2.5
    assert not torch.equal(h, h.round())


def test_packets_are_uneven_by_unit_in_training_only():
    """Steps up and down are (1 + d/2) a and (1 - d/2) a, with one d a unit and pass."""
    torch.manual_seed(0)
    cell = AlphaCMRUCell(3, 2000).double()
    with torch.no_grad():
        cell.candidate.bias.zero_()
        cell.threshold.zero_()
        cell.initial_state.zero_()
    x = torch.randn(1, 1, 3, dtype=torch.float64)
    x = torch.cat([x, -x], 1)  # every unit up and down, or down and up
    even = cell(x)[0].diff(dim=1, prepend=torch.zeros(1, 1, 2000))
    cell.packet_asymmetry = 0.08
    ratios = []
    for _ in range(2):
        uneven = cell(x)[0].diff(dim=1, prepend=torch.zeros(1, 1, 2000)) / even
        up, down = torch.where(even > 0, uneven, 0).sum(1), torch.where(even < 0, uneven, 0).sum(1)
        torch.testing.assert_close(up + down, torch.full_like(up, 2.0))
        ratios.append(up - down)
    assert abs(ratios[0].std().item() - 0.08) < 0.004
    assert abs(ratios[0].mean().item()) < 0.006
    assert not torch.equal(*ratios)
    assert torch.equal(cell.eval()(x)[0].diff(dim=1, prepend=torch.zeros(1, 1, 2000)), even)


@pytest.mark.parametrize("make", [lambda: BMRUCell(3, 5), *THRESHOLD_CELLS[1:], lambda: CMRUCell(3, 5)])
def test_a_holdable_state_is_the_nearest_and_is_held(make):
    torch.manual_seed(0)
    cell = make().eval()
    s = torch.linspace(-4, 4, 320).reshape(-1, 5)
    held = cell.holdable(s)
    assert torch.equal(cell.holdable(held), held)
    idle = torch.zeros(len(s), 3, 3)
    with torch.no_grad():
        for parameter in (cell.candidate.weight, cell.candidate.bias):
            parameter.zero_()
        if isinstance(cell, FQBMRUCell):
            cell.candidate.bias.fill_(float(cell.threshold_low.max()) + 0.01)
    assert torch.equal(cell(idle, held)[0], held.unsqueeze(1).expand(-1, 3, -1)), "nothing moves it"
    states = {
        BMRUCell: torch.tensor([-1.0, 1.0]),
        CMRUCell: torch.arange(-9.0, 10.0),
        AlphaCMRUCell: torch.linspace(-9, 9, 7201),
        FQBMRUCell: torch.tensor([0.0, 1.0]),
    }[type(cell)]
    if getattr(cell, "rails", None):
        states = torch.zeros(1)  # an integrator wakes halfway between its rails
    states = states[states.abs() <= (getattr(cell, "levels", None) or 9)]
    best = (s.unsqueeze(-1) - states).abs().min(-1).values
    torch.testing.assert_close((s - held).abs(), best, rtol=0, atol=3e-3)


def test_fq_state_is_exactly_zero_or_one_through_training_and_keeps_its_hysteresis():
    torch.manual_seed(0)
    cell = FQBMRUCell(1, 1)
    with torch.no_grad():
        cell.candidate.weight.fill_(1)
        cell.candidate.bias.fill_(0)
        cell.threshold_low.fill_(0.25)
        cell.width.fill_(0.5)
        cell.gain.fill_(3)
    c = torch.tensor([0.0, 0.5, 0.74, 0.75, 0.5, 0.25, 0.24, 0.5]).reshape(1, -1, 1)
    h, s = cell(c)
    assert h.flatten().tolist() == [0, 0, 0, 3, 3, 3, 0, 0]
    assert s.item() == 0
    assert cell(torch.full((1, 3, 1), 0.5), torch.ones(1, 1))[1].item() == 1
    long = FQBMRUCell(4, 16)(torch.rand(2, 2000, 4))[0].unique()
    assert set(long.tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("make", THRESHOLD_CELLS)
def test_margin_is_the_distance_to_a_flip(make):
    """A candidate pushed past its margin towards the threshold changes sides; one pushed less does not."""
    torch.manual_seed(0)
    cell, x = make(), torch.rand(4, 6, 3)
    c = cell.candidate(x)
    margin = cell.margin(c, x)
    assert margin.shape == c.shape
    assert (margin >= 0).all()
    if isinstance(cell, FQBMRUCell):
        thresholds = torch.stack([cell.threshold_low, cell.threshold_low + cell.width])
        want = (c.unsqueeze(0) - thresholds[:, None, None]).abs().min(0).values
    else:
        beta = cell.beta(x).expand_as(c)
        want = torch.minimum((c - beta).abs(), (c + beta).abs())
    torch.testing.assert_close(margin, want)


def test_margin_of_a_moving_threshold_needs_the_input():
    with pytest.raises(ValueError, match="needs the input x, got None"):
        THRESHOLD_CELLS[2]().margin(torch.zeros(1, 1, 5))


@pytest.mark.parametrize("make", THRESHOLD_CELLS)
def test_candidate_noise_acts_in_training_only(make):
    torch.manual_seed(0)
    cell, x = make(), 2 * torch.randn(8, 20, 3).relu()
    quiet = cell(x)[0]
    cell.candidate_noise = 1.0
    assert not torch.equal(cell(x)[0], quiet)
    torch.testing.assert_close(cell.eval()(x)[0], quiet, rtol=0, atol=0)


def test_projection_clamps_the_currents_of_the_fq_and_nothing_else():
    cell = FQBMRUCell(3, 4)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.fill_(-1)
    cell.project_()
    assert {name for name, value in cell.named_parameters() if (value == 0).all()} == {
        "threshold_low",
        "width",
        "gain",
    }
    signed = CMRUCell(3, 4)
    before = {name: value.clone() for name, value in signed.state_dict().items()}
    signed.project_()
    assert all(torch.equal(value, before[name]) for name, value in signed.state_dict().items())


def test_published_starting_values():
    fq = FQBMRUCell(3, 1000)
    assert (fq.candidate.bias == 0.5).all()
    assert 0.12 <= fq.threshold_low.min() < 0.13
    assert 0.17 < fq.threshold_low.max() <= 0.18
    assert 0.28 <= fq.width.min() < 0.29
    assert 0.41 < fq.width.max() <= 0.42
    assert (fq.gain == 1).all()
    assert (fq.initial_state == 0).all()
    assert "initial_state" not in dict(fq.named_parameters())
    bmru = BMRUCell(3, 1000)
    assert (bmru.threshold == 1).all()
    assert set(bmru.initial_state.tolist()) == {-1.0, 1.0}
    assert bmru.initial_state.requires_grad
