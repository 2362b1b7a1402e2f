"""Area and power as functions of weights and sizes, against the design's own; sizes tied and bounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hardware_networks import random_input, random_network

from cmru_hw.behavioral import BehavioralModel
from cmru_hw.codesign import planned
from cmru_hw.errors import ConfigError
from cmru_hw.mapping import MappingConfig, map_network
from cmru_hw.nn.network import Network
from cmru_hw.stimulus import make_stimulus
from cmru_hw.technology import load_technology
from cmru_hw.training.cost import Cost
from cmru_hw.training.cotraining import Descent, train_with_sizes
from cmru_hw.training.hardware import Hardware
from cmru_hw.training.sizes import Bounds, TrainableSizes
from cmru_hw.training.tasks import Split

GENERIC = load_technology("generic180")
WIDE = Bounds((1, 64), (0.2, 4.0), (1e-10, 2e-9))
CHOICES: list[dict[str, Any]] = [
    {},
    {
        "unit_area": 0.3, "latch_units": 3, "bias_units": 5, "unit_current": 3e-10, "copy_units": 5,
        "rows": {"input": 32, "layer0_x": 48, "layer1_latch": 32, "readout_pos": 7},
    },
]  # fmt: skip
LENGTHS = np.array([12, 5, 1, 9])


def trainable(network: Network, choices: MappingConfig, bounds: Bounds = WIDE) -> TrainableSizes:
    card = GENERIC.at(unit_area=choices.unit_area, latch_units=choices.latch_units)
    return TrainableSizes(Hardware(network, planned(choices), card), bounds)


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("given", CHOICES)
def test_area_is_the_designs_and_power_that_of_the_behavioural_model(
    given: dict[str, Any], skip: bool
) -> None:
    """Area to float32; power within 5 %: drain voltages raise it, by 2 to 4 %."""
    network, choices = random_network(2, skip=skip), MappingConfig(**given)
    design, _ = map_network(network, GENERIC, choices)
    sizes = trainable(network, choices)
    cost, parameters = Cost(sizes.hardware), dict(network.named_parameters())
    assert cost.area(parameters, sizes.sizes()).item() == pytest.approx(design.area, rel=1e-5)
    x = random_input(2)
    result = BehavioralModel(design).run(make_stimulus(x, 3, 1e-2, LENGTHS))
    power = cost.power(
        parameters, sizes.sizes(), sizes.unit_current, torch.tensor(x).float(), torch.tensor(LENGTHS)
    )
    assert power.item() == pytest.approx(result.supply_power.mean(), rel=0.05)


def test_area_has_the_derivative_of_an_area_that_is_linear_in_each_size() -> None:
    """Twice as many units keep weights on the grid: A(2 u) - A(u) is dA / d log u."""
    network = random_network(2)
    sizes = trainable(network, MappingConfig())
    cost, parameters = Cost(sizes.hardware), dict(network.named_parameters())
    before = cost.area(parameters, sizes.sizes())
    before.backward()
    for name in ("log_area", "log_latch", "log_bias", "log_units"):
        parameter = getattr(sizes, name)
        for k in range(parameter.numel()):
            with torch.no_grad():
                parameter.view(-1)[k] += np.log(2)
                after = cost.area(parameters, sizes.sizes())
                parameter.view(-1)[k] -= np.log(2)
            change = (after - before).item()
            assert parameter.grad.view(-1)[k].item() == pytest.approx(change, rel=1e-3), (name, k)


def test_sizes_say_what_mapping_builds_and_the_training_model_is_planned_likewise() -> None:
    network = random_network(2)
    sizes = trainable(network, MappingConfig(rows={"input": 24, "readout_x": 40, "projection_neg": 40}))
    tied = {name: group for group in sizes.groups for name in group}
    assert tied["input_pos"] is tied["input_neg"]
    assert tied["readout_x"] is tied["projection_neg"]
    assert tied["projection_pos"] == ["projection_pos"]
    built = MappingConfig(**sizes.mapping())
    again = trainable(network, built)
    assert again.mapping() == sizes.mapping()
    assert sizes.grid()["readout"] == 40
    design, _ = map_network(network, GENERIC, built)
    for name, units in sizes.mapping()["rows"].items():
        assert design.signals[name].diode_units == units


def test_sizes_stay_within_their_bounds_and_become_whole() -> None:
    sizes = trainable(random_network(2), MappingConfig(), Bounds((4, 10), (0.5, 0.7), (4e-10, 6e-10)))
    assert set(sizes.mapping()["rows"].values()) == {8, 10}
    assert sizes.mapping()["latch_units"] == 4
    with torch.no_grad():
        sizes.log_units.fill_(np.log(6.4))
        sizes.log_area.fill_(np.log(0.61234))
    sizes.round_()
    assert set(sizes.mapping()["rows"].values()) == {6}
    assert sizes.sizes().area.item() == pytest.approx(0.612, rel=1e-5)


def test_costs_make_circuits_smaller_and_weights_end_on_the_grid() -> None:
    """The same random task with and without costs; its classes are signs of the first input."""
    x = random_input(0, batch=32, frames=6).astype(np.float32)
    split = Split(x=x, y=(x[:, :, 0].mean(axis=1) > 0).astype(np.int64), lengths=np.full(32, 6))
    found = []
    for cost in (0.0, 5.0):
        network = random_network(2)
        sizes = trainable(network, MappingConfig())
        costs, parameters = Cost(sizes.hardware), dict(network.named_parameters())
        few, lengths = torch.tensor(x), torch.tensor(split.lengths)
        with torch.no_grad():
            reference = (
                costs.area(parameters, sizes.sizes()).item(),
                costs.power(parameters, sizes.sizes(), sizes.unit_current, few, lengths).item(),
            )
        descent = Descent(
            steps=25, finish_steps=10, learning_rate=3e-3, size_learning_rate=0.05, batch_size=16, chips=4,
            scale=1.0, cost_area=cost, cost_power=cost, max_ratio=4.0, margin=None, seed=3,
        )  # fmt: skip
        train_with_sizes(network, sizes, reference, split, descent)
        for name, units in sizes.grid().items():
            weight = network.get_parameter(f"{name}.weight").detach().numpy() * units
            np.testing.assert_allclose(weight, np.rint(weight), atol=1e-4)
        design, report = map_network(network, GENERIC, MappingConfig(**sizes.mapping()))
        assert max(report.quantization_error.values()) < 1e-6
        found.append((design.area, sizes.unit_current.item()))
    assert found[1][0] < 0.4 * found[0][0]
    assert found[1][1] < 0.7 * found[0][1]


def test_a_unit_whose_power_has_no_model_is_refused() -> None:
    network = random_network(0, unit="cmru", levels=2)
    with pytest.raises(
        ConfigError, match=r"network\.unit: power is modelled for fq_bmru alone, not for cmru"
    ):
        Cost(Hardware(network, planned(MappingConfig()), GENERIC))
