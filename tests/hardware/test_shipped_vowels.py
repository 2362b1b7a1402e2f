"""The shipped network of twelve latches a layer: as accurate as its card says, trained and mapped."""

from __future__ import annotations

import numpy as np
import pytest

from cmru_hw.behavioral import BehavioralModel
from cmru_hw.codesign import Plan, read_plan
from cmru_hw.config import packaged
from cmru_hw.design import Design
from cmru_hw.mapping import map_folder
from cmru_hw.nn.network import load_network
from cmru_hw.spice.simulate import simulate
from cmru_hw.stimulus import make_stimulus
from cmru_hw.training import evaluate

MODEL = "speaker_vowels_fq_bmru_12"


@pytest.fixture(scope="module")
def plan() -> Plan:
    return read_plan(packaged("models", MODEL) / "config.yaml")


@pytest.fixture(scope="module")
def design(plan: Plan) -> Design:
    folder = packaged("models", MODEL)
    return map_folder(folder, load_network(folder), plan.technology, plan.config.mapping)[0]


def test_decides_97_percent_with_less_than_2000_parameters(plan: Plan, design: Design) -> None:
    network = load_network(packaged("models", MODEL))
    assert sum(parameter.numel() for parameter in network.parameters()) == 969
    split = plan.task.test
    trained = evaluate(network, split)
    assert trained.accuracy == pytest.approx(361 / 370)
    stimulus = make_stimulus(split.x, design.facts.input_size, design.facts.frame_period, split.lengths)
    decided = BehavioralModel(design).decisions(stimulus)
    assert (decided == split.y).mean() >= 0.97
    assert (decided == trained.decisions).mean() >= 0.99


@pytest.mark.slow
def test_ngspice_decides_as_the_behavioural_model(plan: Plan, design: Design) -> None:
    split = plan.task.test.take(np.array([0, 185]))
    stimulus = make_stimulus(split.x, design.facts.input_size, design.facts.frame_period, split.lengths)
    decided = BehavioralModel(design).decisions(stimulus)
    assert np.array_equal(simulate(design, stimulus).decision, decided)
