"""BMRU, CMRU and FQ-BMRU on clocked latches, and the BMRU on the 9T latch: the same function, its cost."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hardware_networks import random_input, random_network

from cmru_hw.analysis.agreement import agreement, run_trained
from cmru_hw.behavioral import BehavioralModel
from cmru_hw.design import load_design
from cmru_hw.errors import MappingError
from cmru_hw.mapping import MappingConfig, map_network
from cmru_hw.primitives.integrator import Integrator
from cmru_hw.primitives.latch import Latch
from cmru_hw.primitives.latch_bank import LatchBank
from cmru_hw.spice.simulate import simulate
from cmru_hw.stimulus import make_stimulus
from cmru_hw.technology import Technology
from cmru_hw.variation import draw, one_chip

CLOCKED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "bmru": ({"unit": "bmru"}, {}),
    "bmru_input_dependent": ({"unit": "bmru", "input_dependent_threshold": True}, {}),
    "bmru_9t": ({"unit": "bmru"}, {"latch": "9t"}),
    "cmru": ({"unit": "cmru", "levels": 2}, {}),
    "cmru_input_dependent": ({"unit": "cmru", "levels": 3, "input_dependent_threshold": True}, {}),
    "fq_clocked": ({"unit": "fq_bmru"}, {"latch": "clocked"}),
    "alpha_cmru": ({"unit": "alpha_cmru", "rails": 4.0}, {}),
    "alpha_cmru_input_dependent": (
        {"unit": "alpha_cmru", "rails": 3.0, "input_dependent_threshold": True},
        {},
    ),
}
LENGTHS = np.array([12, 5, 1, 9])


def choices(**more: Any) -> MappingConfig:
    return MappingConfig(ramp=2e-4, **more)


# --- the same function -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLOCKED)
@pytest.mark.parametrize("boundary", ["full", "core"])
@pytest.mark.parametrize("skip", [True, False])
def test_ideal_circuit_of_a_grid_network_is_the_trained_network(
    ideal: Technology, name: str, boundary: Any, skip: bool
) -> None:
    options, mapping = CLOCKED[name]
    for seed in range(3):
        network = random_network(seed, skip=skip, **options)
        design, report = map_network(network, ideal, choices(boundary=boundary, **mapping))
        assert report.clipped == []
        stimulus = make_stimulus(2 * random_input(seed), 3, 1e-2, LENGTHS)
        trained, found = run_trained(network, design, stimulus), BehavioralModel(design).run(stimulus)
        for expected, states in zip(trained.states, found.states, strict=True):
            np.testing.assert_allclose(states, expected, atol=0 if states.dtype == np.int8 else 1e-4)
        np.testing.assert_allclose(
            found.logits, trained.logits, rtol=1e-4, atol=3e-4 if "alpha" in name else 3e-6
        )
        np.testing.assert_array_equal(found.decision, trained.decision)
        moved = sum(np.nansum(np.ptp(states[0], axis=0)) for states in found.states)
        assert moved > 0, "some state must move"


@pytest.mark.parametrize("name", CLOCKED)
def test_designs_come_back_equal_from_their_folder(generic: Technology, name: str, tmp_path: Path) -> None:
    options, mapping = CLOCKED[name]
    design, _ = map_network(random_network(1, **options), generic, choices(**mapping))
    design.save(tmp_path)
    again = load_design(tmp_path)
    stimulus = make_stimulus(random_input(1), 3, 1e-2)
    found, expected = (BehavioralModel(one).run(stimulus) for one in (again, design))
    np.testing.assert_array_equal(found.logits, expected.logits)
    assert found.breakdown.keys() == expected.breakdown.keys()
    assert again.clocks == design.clocks


def test_a_cmru_trained_without_levels_gets_them_from_the_mapping(ideal: Technology) -> None:
    """Until the bank is full, it is the counter without end."""
    network = random_network(3, unit="cmru", num_layers=1)
    with torch.no_grad():
        network.state_dict()["layers.0.unit.initial_state"].zero_()
    design, _ = map_network(network, ideal, choices(levels=12))
    stimulus = make_stimulus(2 * random_input(3), 3, 1e-2)
    trained, found = run_trained(network, design, stimulus), BehavioralModel(design).run(stimulus)
    np.testing.assert_array_equal(found.states[0], trained.states[0])
    shallow, _ = map_network(network, ideal, choices(levels=1))
    assert np.abs(BehavioralModel(shallow).run(stimulus).states[0]).max() == 1


# --- stages ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLOCKED)
def test_the_state_is_held_where_it_was_asked_to_be(generic: Technology, name: str) -> None:
    options, mapping = CLOCKED[name]
    design, _ = map_network(random_network(0, **options), generic, choices(**mapping))
    wanted = Latch if mapping.get("latch") == "9t" else Integrator if "alpha" in name else LatchBank
    assert [type(memory) for memory in design.memories] == [wanted, wanted]
    assert len(design.clocks) == (0 if wanted is Latch else 2)


def test_a_clocked_cell_has_more_transistors_than_a_9t_latch(generic: Technology) -> None:
    """27 and the output diode, with two references, against 9 and three references."""
    network = random_network(0)

    def cell(latch: Any) -> int:
        design, _ = map_network(network, generic, choices(latch=latch))
        parts = [
            name for name in design.devices() if name.startswith(("layer0_latch", "layer0_ban", "layer0_com"))
        ]
        arrays = [design.devices()[name].units for name in parts if "copy" not in name]
        return sum(int((units > 0).sum()) for units in arrays) // 4

    assert (cell("9t"), cell("clocked")) == (9 + 3, 27 + 1 + 2)


def test_layers_decide_one_after_another(generic: Technology) -> None:
    design, _ = map_network(random_network(0, unit="cmru", levels=2, num_layers=3), generic, choices())
    clocks = list(design.clocks.values())
    for before, after in pairwise(clocks):
        assert before.strobes < after.decides


def test_output_steps_are_the_trained_gains(generic: Technology) -> None:
    """I_alpha is pre-distorted so that a full bank's output is 2K gains, whatever the switches cost.

    4 units in the output diode carry a quarter of what 16 would.
    """
    network = random_network(0, unit="cmru", levels=2)
    design, _ = map_network(network, generic, choices())
    bank = design.signals["layer0_bank"]
    full = bank.currents(design.signals, {}, generic)["outputs"][:, -1]
    gain = np.abs(network.state_dict()["layers.0.unit.gain"].double().numpy())
    np.testing.assert_allclose(full, 4 * gain * 1e-9 / 4, rtol=2e-3)


# --- refusals --------------------------------------------------------------------------------------------


def test_a_threshold_of_zero_is_refused_by_layer_and_unit(generic: Technology) -> None:
    network = random_network(0, unit="bmru")
    with torch.no_grad():
        network.state_dict()["layers.1.unit.threshold"][2] = 0.0
    with pytest.raises(MappingError, match=r"layers\.1\.unit\.threshold\[2\]: beta must be > 0"):
        map_network(network, generic, choices())


@pytest.mark.parametrize(
    ("options", "mapping", "complaint"),
    [
        ({"unit": "cmru"}, {}, "levels: a bank of 2K latches"),
        ({"unit": "cmru", "levels": 2}, {"levels": 3}, "mapping.levels: 3, but .* levels 2"),
        ({"unit": "bmru"}, {"levels": 2}, "mapping.levels: belongs to cmru"),
        ({"unit": "cmru", "levels": 2}, {"latch": "9t"}, "mapping.latch: 9t holds one bit"),
        ({"unit": "alpha_cmru", "rails": 4.0}, {"latch": "9t"}, "mapping.latch: 9t holds one bit"),
        ({"unit": "bmru", "input_dependent_threshold": True}, {"latch": "9t"}, "input_dependent_threshold"),
        ({"unit": "bmru"}, {"frame_period": 1e-3}, "layers.0.unit: clock: .* take 0.0006 s"),
        ({"unit": "bmru"}, {"frame_period": 4e-3, "ramp": 1e-3}, "mapping.ramp: layers.0.unit decides"),
        ({"unit": "bmru"}, {"accumulator": "integrator"}, "layers.0.unit is a bmru"),
        (
            {"unit": "fq_bmru"},
            {"accumulator": "latch_bank"},
            "fq_bmru on 9T latches, which are no latch_bank",
        ),
        ({"unit": "bmru"}, {"accumulator": "latch_bank", "latch": "9t"}, "bmru on 9T latches"),
        (
            {"unit": "alpha_cmru", "rails": 4.0},
            {"accumulator": "latch_bank"},
            "layers.0.unit is an alpha_cmru",
        ),
        ({"unit": "alpha_cmru"}, {}, "rails: missing; an integrator stops"),
        ({"unit": "alpha_cmru", "rails": 400.0}, {}, "layers.0.unit: rails of 400"),
        (
            {"unit": "alpha_cmru", "rails": 4.0},
            {"frame_period": 4e-3},
            "rails of 4 .* clock need",
        ),
    ],
)
def test_choices_that_have_no_circuit_are_refused(
    generic: Technology, options: dict[str, Any], mapping: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(MappingError, match=complaint):
        map_network(random_network(0, **options), generic, MappingConfig(**({"ramp": 2e-4} | mapping)))


def test_a_threshold_too_small_for_the_clock_is_refused(generic: Technology) -> None:
    network = random_network(0, unit="bmru")
    with torch.no_grad():
        network.state_dict()["layers.0.unit.threshold"][1] = 1e-3
    with pytest.raises(MappingError, match="layer0_comparator: unit 1: a threshold of 1e-12 A"):
        map_network(network, generic, choices())


def test_packets_wider_than_the_rails_are_refused(generic: Technology) -> None:
    network = random_network(0, unit="alpha_cmru", rails=2.0)
    with torch.no_grad():
        network.state_dict()["layers.1.unit.amplitude.bias"][2] = -4.5
    with pytest.raises(MappingError, match=r"layers\.1\.unit\.amplitude\.bias\[2\]: packets of 4.5"):
        map_network(network, generic, choices())


def test_an_initial_state_off_the_middle_is_not_one_of_an_integrator(generic: Technology) -> None:
    network = random_network(0, unit="alpha_cmru", rails=4.0)
    with torch.no_grad():
        network.state_dict()["layers.1.unit.initial_state"][0] = 0.5
    _, report = map_network(network, generic, choices())
    assert [(clip.tensor, clip.index, clip.built) for clip in report.clipped] == [
        ("layers.1.unit.initial_state", [0], 0.0)
    ]


def test_a_cmru_on_integrators_counts_like_one_on_banks(ideal: Technology) -> None:
    network = random_network(2, unit="cmru", levels=3, num_layers=1)
    with torch.no_grad():
        network.state_dict()["layers.0.unit.initial_state"].zero_()
    stimulus = make_stimulus(2 * random_input(2), 3, 1e-2)
    bank, integrator = (
        BehavioralModel(map_network(network, ideal, choices(accumulator=each, units=256))[0]).run(stimulus)
        for each in ("latch_bank", "integrator")
    )
    np.testing.assert_allclose(integrator.states[0], bank.states[0], atol=1e-6)
    assert np.ptp(bank.states[0]) > 2


def test_an_initial_state_that_no_latch_holds_is_rounded_and_reported(generic: Technology) -> None:
    network = random_network(0, unit="cmru", levels=2)
    with torch.no_grad():
        network.state_dict()["layers.0.unit.initial_state"][3] = 5.2
    design, report = map_network(network, generic, choices())
    assert design.memories[0].start()[3] == 2
    (clip,) = report.clipped
    assert (clip.tensor, clip.index, clip.built) == ("layers.0.unit.initial_state", [3], 2.0)
    with pytest.raises(MappingError, match=r"initial_state\[3\]: 5.2 would become 2"):
        map_network(network, generic, choices(strict=True))


# --- ngspice ---------------------------------------------------------------------------------------------


def small(name: str, seed: int = 0) -> tuple[Any, Any]:
    """A network of three cells in one layer, and its design."""
    options, mapping = CLOCKED[name]
    network = random_network(seed, num_layers=1, hidden_size=3, **options)
    return network, mapping


def test_a_clocked_network_is_the_same_in_ngspice(generic: Technology) -> None:
    network, mapping = small("bmru")
    design, _ = map_network(network, generic, choices(**mapping))
    stimulus = make_stimulus(2 * random_input(0, batch=1, frames=6), 3, 1e-2)
    spice, model = simulate(design, stimulus), BehavioralModel(design).run(stimulus)
    found = agreement(design, model, spice)
    assert found.state_fraction == 1.0
    assert np.ptp(spice.states[0]) == 2
    np.testing.assert_allclose(spice.supply_power, model.supply_power, rtol=0.03)
    assert spice.breakdown.keys() == model.breakdown.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", CLOCKED)
def test_every_clocked_network_is_the_same_chip_in_ngspice(generic: Technology, name: str) -> None:
    """Nominal, and a mismatched chip; samples whose candidate lies within 10 pA of a threshold apart."""
    network, mapping = small(name, seed=1)
    design, _ = map_network(network, generic, choices(**mapping))
    stimulus = make_stimulus(2 * random_input(1, batch=2, frames=8), 3, 1e-2)
    for chips in ({}, draw(design, [3], seed=5)):
        shifts = one_chip(chips, 0)
        spice = simulate(design, stimulus, shifts)
        model = BehavioralModel(design, chips or None).run(stimulus)
        states = model.states[0][0] if chips else model.states[0]
        assert (np.abs(states - spice.states[0]) < 0.5).mean() >= 0.95
        power = model.supply_power[0] if chips else model.supply_power
        np.testing.assert_allclose(spice.supply_power, power, rtol=0.04)
