"""Chips in the training step against the mapped design's own: `variation.draw` and the behavioural model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmru_hw.behavioral import BehavioralModel
from cmru_hw.design import Design
from cmru_hw.mapping import MappingConfig, map_network
from cmru_hw.nn.network import Network
from cmru_hw.primitives.device import strength
from cmru_hw.stimulus import make_stimulus
from cmru_hw.technology import load_technology
from cmru_hw.training.circuit import Planned
from cmru_hw.training.hardware import Hardware
from cmru_hw.variation import draw

sys.path.insert(0, str(Path(__file__).parents[1] / "hardware"))
from hardware_networks import random_input, random_network  # noqa: E402

UNITS: list[dict[str, Any]] = [
    {"unit": "fq_bmru"},
    {"unit": "fq_bmru", "skip": False},
    {"unit": "bmru"},
    {"unit": "cmru", "levels": 2},
    {"unit": "cmru", "levels": 2, "input_dependent_threshold": True, "num_layers": 1},
    {"unit": "cmru", "levels": 1, "skip": False},
    {"unit": "alpha_cmru", "rails": 1.5, "num_layers": 1},
]
CARD = load_technology("generic180")
PERIOD = 4e-2


def mapped(options: dict[str, Any], seed: int = 3) -> tuple[Network, Design, Hardware]:
    network = random_network(seed, **options)
    choices = MappingConfig(frame_period=PERIOD)
    design, _ = map_network(network, CARD, choices)
    return network, design, Hardware(network, Planned(frame_period=PERIOD), CARD)


def same_chips(hardware: Hardware, design: Design, shifts: dict[str, np.ndarray]) -> torch.Tensor:
    """The deviates of given chips: every transistor's log strength over its sigma."""
    devices, columns = design.devices(), hardware.mismatch.columns
    found = np.zeros((len(next(iter(shifts.values()))), hardware.mismatch.count))

    def normal(name: str) -> np.ndarray:
        array = devices[name]
        slope = CARD.slope_factor.of(array.polarity) * CARD.thermal_voltage
        sigma = np.hypot(*array.sigmas(CARD)) / slope
        return np.log(strength(shifts[name], array.polarity, CARD)) / np.where(sigma > 0, sigma, 1)

    for name, index in columns.items():
        stage, part = name.split(".")
        if part == "bias":
            each = [
                (normal(f"{stage}.bias_{s}") - normal(f"{stage}.bias_reference_{s}")) / np.sqrt(2)
                for s in ("positive", "negative")
            ]
            found[:, index] = sum(each)
        elif part.startswith("from_"):
            both = sum(normal(f"{name}_{s}") for s in ("positive", "negative"))
            diagonal = both.ndim == 3 and index.ndim == 1
            found[:, index] = np.diagonal(both, axis1=1, axis2=2) if diagonal else both
        elif name in devices:  # a comparator has no copies
            found[:, index] = normal(name)
    return torch.tensor(found)


@pytest.mark.parametrize("options", UNITS, ids=lambda o: "-".join(map(str, o.values())))
def test_every_transistor_of_the_design_that_counts_is_drawn(options):
    """The columns cover the design's parts but for logic, switches and the bank's and pair's clocked ones."""
    _, design, hardware = mapped(options)
    known = {name.replace("bias_reference", "bias") for name in design.devices()}
    ours = set(hardware.mismatch.columns)
    for name in ours - {
        f"layer{layer}_comparator.{part}" for layer in range(2) for part in ("copy", "copy_diode")
    }:
        assert name in known or any(f"{name}_{s}" in known for s in ("positive", "negative")), name
    assert sorted(np.concatenate([c.ravel() for c in hardware.mismatch.columns.values()])) == list(
        range(hardware.mismatch.count)
    )
    from_rows = {
        name.removesuffix("_positive") for name in known if ".from_" in name and "negative" not in name
    }
    assert from_rows <= ours


@pytest.mark.parametrize("options", UNITS, ids=lambda o: "-".join(map(str, o.values())))
def test_without_errors_it_is_the_network(options):
    network, _, hardware = mapped(options)
    network.double()
    hardware = Hardware(network, Planned(frame_period=PERIOD), CARD)
    x = torch.tensor(random_input(5, 6, 20))
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        chips = hardware.draw(parameters, torch.zeros(3, hardware.mismatch.count))
        scores, margins, states = hardware.run(x, None, parameters, chips)
        trace = network.trace(x)
    for ours, theirs in zip(states, trace["states"], strict=True):
        assert torch.allclose(ours, theirs, atol=1e-9)
    assert torch.allclose(scores, network(x), atol=1e-9)
    for layer, (ours, cell) in enumerate(zip(margins, network.units, strict=True)):
        inner = trace["inputs"][layer].relu() if cell.rectifies_input else trace["inputs"][layer]
        assert torch.allclose(ours, cell.margin(trace["candidates"][layer], inner), atol=1e-9)


@pytest.mark.parametrize("options", UNITS, ids=lambda o: "-".join(map(str, o.values())))
def test_one_chip_decides_as_the_behavioural_model_of_it(options):
    network, design, _ = mapped(options)
    network.double()
    hardware = Hardware(network, Planned(frame_period=PERIOD), CARD)
    x, chips, scale = random_input(7, 12, 25), 20, 3.0
    shifts = draw(design, range(chips), 1, scale)
    stimulus = make_stimulus(x, 3, PERIOD)
    nominal = BehavioralModel(design).run(stimulus)
    model = BehavioralModel(design, shifts).run(stimulus)
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        drawn = hardware.draw(parameters, same_chips(hardware, design, shifts))
        every = torch.tensor(np.tile(x, (chips, 1, 1)))
        scores, _, states = hardware.run(every, None, parameters, drawn)
        ideal = network.trace(torch.tensor(x))
    for layer in range(len(states)):
        print([k for k in UNITS if k == options], layer)
        ours = states[layer].numpy().reshape(model.states[layer].shape)
        fits = np.mean(np.abs(ours - model.states[layer]) < 0.1)
        base = np.mean(np.abs(ideal["states"][layer].numpy() - nominal.states[layer]) < 0.1)
        moved = np.mean(np.abs(model.states[layer] - nominal.states[layer]) < 0.1)
        print(f"states: chip {fits:.4f}, nominal {base:.4f}, unlike nominal {moved:.4f}")
    assert (scores.argmax(1).numpy().reshape(chips, -1) == model.decision).mean() > 0
    print(
        "decisions",
        (scores.argmax(1).numpy().reshape(chips, -1) == model.decision).mean(),
        (model.decision == nominal.decision).mean(),
        (network(torch.tensor(x)).argmax(1).numpy() == nominal.decision).mean(),
    )
    d = np.nanmean(model.logits, axis=2)
    print(
        "logit err",
        np.std(scores.numpy().reshape(d.shape) - d),
        "of",
        np.std(d - np.nanmean(nominal.logits, axis=1)),
        "nominal",
        np.std(np.nanmean(nominal.logits, axis=1) - network(torch.tensor(x)).detach().numpy()),
    )
