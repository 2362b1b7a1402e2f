"""The netlist: readable, deterministic, and the same chip as the behavioural model's."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hardware_networks import random_input, random_network

from cmru_hw.analysis.agreement import agreement
from cmru_hw.behavioral import BehavioralModel
from cmru_hw.design import Design
from cmru_hw.mapping import map_network
from cmru_hw.spice.netlist import build, initial_voltages, waveform
from cmru_hw.spice.simulate import job, simulate
from cmru_hw.stimulus import make_stimulus
from cmru_hw.technology import load_technology
from cmru_hw.variation import draw, one_chip

NETWORK = random_network(1, skip=True)


@pytest.fixture(scope="module")
def design() -> Design:
    return map_network(NETWORK, load_technology("generic180"))[0]


@pytest.fixture(scope="module")
def text(design: Design) -> str:
    currents = {name: [np.zeros((1, 2))] * design.signals[name].size for name in design.facts.inputs}
    return str(build(design, currents, np.array([0.0, 1e-2])))


def test_there_is_one_cell_a_stage_and_one_instance_of_it(design: Design, text: str) -> None:
    cells = re.findall(r"^\.subckt (\S+)", text, re.MULTILINE)
    assert cells == [stage.name for stage in design.stages]
    assert len(re.findall(r"^\.ends", text, re.MULTILINE)) == len(cells)
    for name in cells:
        assert len(re.findall(rf"^X{name} ", text, re.MULTILINE)) == 1


def test_comments_give_the_trained_weights(text: str) -> None:
    weight = NETWORK.state_dict()["layers.1.unit.candidate.weight"].numpy()
    for j, row in enumerate(weight):
        (comment,) = re.findall(rf"^\* layer1_candidate_{j} = (.*)$", text, re.MULTILINE)
        found = {int(i): float(v) for v, i in re.findall(r"([+-]\S+) layer1_x\[(\d+)\]", comment)}
        assert found == {i: pytest.approx(float(v)) for i, v in enumerate(row) if v}


def test_the_deck_is_the_same_each_time(design: Design) -> None:
    stimulus = make_stimulus(random_input(1), 3, 1e-2)
    assert job(design, stimulus, 1).deck() == job(design, stimulus, 1).deck()
    assert job(design, stimulus, 1).deck() != job(design, stimulus, 2).deck()


def test_latches_start_at_the_trained_bit(design: Design) -> None:
    for layer in range(2):
        for j, bit in enumerate(NETWORK.state_dict()[f"layers.{layer}.unit.initial_state"]):
            assert initial_voltages(design)[f"layer{layer}_latch_{j}_v0"] == 0.8 * bit
    assert len(initial_voltages(design)) == 8


def test_every_shift_of_a_chip_is_in_the_netlist_once(design: Design) -> None:
    """Each number drawn for a transistor that exists appears, and no other."""
    chip = one_chip(draw(design, [0], seed=0), 0)
    currents = {name: [np.zeros((1, 2))] * design.signals[name].size for name in design.facts.inputs}
    text = str(build(design, currents, np.array([0.0, 1e-2]), chip))
    written = [v for v in re.findall(r"(?:dvt|D\d)=(\S+)", text) if float(v)]
    drawn = [value for name, array in chip.items() for value in array.ravel() if value]
    assert sorted(map(float, written)) == sorted(drawn)


def test_a_waveform_moves_within_the_ramp_after_a_frame_starts() -> None:
    points = waveform(np.array([1.0, 1.0, 3.0, 0.0]), np.array([0.0, 0.1, 0.2, 0.5]), 0.01)
    np.testing.assert_allclose(points, [[0, 1], [0.2, 1], [0.21, 3], [0.5, 3], [0.51, 0]])
    assert waveform(np.array([2.0, 2.0]), np.array([0.0, 0.1]), 0.01).tolist() == [[0, 2]]


def test_a_chip_in_ngspice_is_the_chip_of_the_behavioural_model(design: Design) -> None:
    """At three sigma: its candidates are off by what the model says, its power changes as the model says."""
    stimulus = make_stimulus(random_input(1, batch=2, frames=6), 3, 1e-2)
    shifts = draw(design, [5], seed=2, scale=3.0)
    spice = simulate(design, stimulus, one_chip(shifts, 0))
    model = BehavioralModel(design, shifts).run(stimulus)
    nominal = BehavioralModel(design).run(stimulus)
    states = [layer[0] for layer in model.states]
    same = np.mean([np.mean(a == b) for a, b in zip(states, spice.states, strict=True)])
    assert same >= 0.95
    first, plain = model.candidates[0][0], nominal.candidates[0]
    on = (plain > 1e-10) & (spice.candidates[0] > 1e-10)
    moved = np.abs(first - plain)[on]
    assert moved.max() > 5e-11
    assert np.abs(spice.candidates[0] - first)[on].max() < 0.3 * moved.max()
    power = spice.supply_power / model.supply_power[0]
    np.testing.assert_allclose(power, 1, atol=0.03)
    assert np.abs(model.supply_power[0] / nominal.supply_power - 1).max() > 0.005


def test_agreement_of_nominal_models_on_a_quiet_and_a_busy_input(design: Design) -> None:
    x = random_input(1, batch=2, frames=6)
    x[0] *= 0.1
    stimulus = make_stimulus(x, 3, 1e-2, np.array([6, 4]))
    spice, model = simulate(design, stimulus), BehavioralModel(design).run(stimulus)
    assert np.isnan(spice.logits[1, 4:]).all()
    assert (spice.states[0][1, 4:] == -1).all()
    found = agreement(design, model, spice)
    assert found.samples == (6 + 4) * 8
    assert found.state_fraction >= 0.95
    np.testing.assert_allclose(spice.supply_power, model.supply_power, rtol=0.03)
    assert set(spice.breakdown) == set(model.breakdown)
