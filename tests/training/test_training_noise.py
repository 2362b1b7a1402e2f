"""Training noise against its distribution, and the margin penalty against arithmetic by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.func import functional_call

from cmru_hw.errors import ConfigError
from cmru_hw.nn.network import Network, NetworkConfig
from cmru_hw.nn.threshold_cell import ThresholdCell
from cmru_hw.training.config import MarginConfig, TrainingConfig
from cmru_hw.training.margin import margin_penalty
from cmru_hw.training.noise import perturb, set_candidate_noise, set_packet_asymmetry
from cmru_hw.training.tasks import CopyFirstInput, load_task
from cmru_hw.training.trainer import train


def network(unit: str = "fq_bmru", **options: Any) -> Network:
    config = {"unit": unit, "input_size": 2, "model_size": 3, "hidden_size": 4, **options}
    return Network(NetworkConfig.model_validate({**config, "num_layers": 2, "num_classes": 2}))


def test_factor_is_log_normal_with_median_one() -> None:
    torch.manual_seed(0)
    values = -2 * torch.ones(200_000)
    logs = torch.log(perturb({"w": values}, 0.3)["w"] / values)
    assert abs(logs.mean().item()) < 0.003
    assert abs(logs.std().item() - 0.3) < 0.003


def test_noise_draws_anew_and_leaves_the_stored_weights() -> None:
    net = network()
    stored = dict(net.named_parameters())
    before = {name: value.clone() for name, value in stored.items()}
    first, second = perturb(stored, 0.2), perturb(stored, 0.2)
    for name, value in stored.items():
        assert torch.equal(value, before[name])
        nonzero = value != 0
        assert (first[name][nonzero] != second[name][nonzero]).all()
    functional_call(net, first, (torch.randn(2, 5, 2), torch.tensor([5, 3]))).sum().backward()
    assert net.projection.weight.grad is not None
    assert perturb(stored, 0.0) is stored


def test_initial_state_is_exact() -> None:
    stored = dict(network("cmru").named_parameters())
    noisy = perturb(stored, 0.2)
    name = "layers.0.unit.initial_state"
    assert torch.equal(noisy[name], stored[name])
    assert not torch.equal(noisy["layers.0.unit.threshold"], stored["layers.0.unit.threshold"])


def test_noise_reaches_the_weights_of_a_torch_gru() -> None:
    gru, x = nn.GRU(3, 4, batch_first=True), torch.randn(2, 5, 3)
    clean = gru(x)[0]
    noisy = functional_call(gru, perturb(dict(gru.named_parameters()), 0.5), (x,))[0]
    assert (noisy - clean).abs().max() > 1e-3
    assert torch.equal(gru(x)[0], clean)


def test_candidate_noise_is_set_on_every_unit() -> None:
    net = network()
    set_candidate_noise(net, 0.07)
    cells = [module for module in net.modules() if isinstance(module, ThresholdCell)]
    assert [cell.candidate_noise for cell in cells] == [0.07, 0.07]


def test_packet_asymmetry_is_set_on_every_alpha_cmru_and_refused_elsewhere() -> None:
    net = network("alpha_cmru")
    set_packet_asymmetry(net, 0.08)
    assert [unit.packet_asymmetry for unit in net.units] == [0.08, 0.08]
    set_packet_asymmetry(network("cmru"), 0.0)
    for other in (network("cmru"), network("fq_bmru"), nn.GRU(3, 4)):
        with pytest.raises(ConfigError, match=r"training\.packet_asymmetry: 0\.08 belongs to alpha_cmru"):
            set_packet_asymmetry(other, 0.08)


class OneUnit(nn.Module):
    """A threshold unit whose candidate is its input."""

    def __init__(self) -> None:
        super().__init__()
        net = network()
        self.unit = net.layers[0].unit
        with torch.no_grad():
            self.unit.candidate.weight.copy_(torch.eye(4, 3))
            self.unit.candidate.bias.zero_()
            self.unit.threshold_low.fill_(0.2)
            self.unit.width.fill_(0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.unit(x)[0]
        return states


def test_margin_penalty_counts_shortfalls_of_valid_frames() -> None:
    net = OneUnit()
    x = torch.tensor([[[0.25, 0.0, 1.0], [0.5, 0.2, 0.46]], [[0.2, 9.0, 9.0], [0.2, 0.2, 0.2]]])
    with margin_penalty(net, MarginConfig(distance=0.1, weight=2.0), torch.tensor([2, 1]), 0) as penalty:
        net(x)
    # shortfalls of 0.1: 0.25 -> 0.05, 0.5 -> 0.1, 0.2 -> 0.1, 0.46 -> 0.06, then 0.2 -> 0.1; the last
    # frame is padding; 3 valid frames of 4 units
    expected = 2 * (0.05 + 0.1 + 0.1 + 0.06 + 0.1) / 12
    assert penalty().item() == pytest.approx(expected, rel=1e-5)
    penalty().backward()
    assert net.unit.threshold_low.grad is not None
    assert not net.unit.candidate._forward_hooks


@pytest.mark.parametrize("unit", ["bmru", "cmru", "alpha_cmru"])
@pytest.mark.parametrize("moving", [False, True])
def test_margin_penalty_of_signed_units_sees_the_weights_in_use(unit: str, moving: bool) -> None:
    """Against the trace of a network that has those weights, moving thresholds included."""
    torch.manual_seed(0)
    net, used = (network(unit, input_dependent_threshold=moving) for _ in range(2))
    x, lengths = torch.randn(3, 5, 2), torch.tensor([5, 2, 4])
    with margin_penalty(net, MarginConfig(distance=0.7, weight=2.0), lengths, 0) as penalty:
        functional_call(net, dict(used.named_parameters()), (x, lengths))
    trace, valid = used.trace(x), torch.arange(5) < lengths[:, None]
    shortfalls = []
    for cell, fed, c in zip(used.units, trace["inputs"], trace["candidates"], strict=True):
        distance = (c.abs() - cell.beta(fed)).abs()
        shortfalls.append((0.7 - distance).clamp(min=0)[valid].mean())
    assert shortfalls[0] > 0
    assert penalty().item() == pytest.approx(2 * torch.stack(shortfalls).mean().item(), rel=1e-5)
    penalty().backward()
    assert all(cell.candidate.weight.grad.abs().sum() > 0 for cell in used.units)
    assert all(p.grad.abs().sum() > 0 for n, p in used.named_parameters() if "unit.threshold" in n)


@pytest.mark.parametrize(
    ("unit", "margin"), [("fq_bmru", None), ("lru", MarginConfig(distance=0.1, weight=1.0))]
)
def test_no_margin_or_no_threshold_costs_nothing(unit: str, margin: MarginConfig | None) -> None:
    net = network(unit)
    with margin_penalty(net, margin, torch.tensor([2]), 0) as penalty:
        net(torch.zeros(1, 2, 2))
    assert penalty().item() == 0


def test_the_penalty_comes_after_the_hold_and_only_then_is_a_network_kept() -> None:
    late = MarginConfig(distance=0.1, weight=2.0, hold=20, anneal=10)
    assert [late.weight_at(step) for step in (0, 19, 20, 25, 30, 99)] == [0, 0, 0, 1, 2, 2]
    options = CopyFirstInput(length=4, classes=2, train_size=64, test_size=32, validation_fraction=0.25)
    task = load_task(options, 0)
    torch.manual_seed(0)
    net = network("cmru", input_size=task.input_size)
    config = TrainingConfig(steps=35, batch_size=16, evaluate_every=5, margin=late)
    assert train(net, task, config).metrics["best_step"] == 35


def test_a_penalty_that_would_come_after_the_last_step_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"margin.hold \+ margin.anneal must be below steps \(30\)"):
        TrainingConfig(steps=30, margin=MarginConfig(distance=0.1, weight=1.0, hold=20, anneal=10))
