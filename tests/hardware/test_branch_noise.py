"""The noise of a design's own transistors in the behavioural model against ngspice's `.noise`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cmru_hw.behavioral import BehavioralModel
from cmru_hw.codesign import read_plan
from cmru_hw.design import Design
from cmru_hw.mapping import map_folder
from cmru_hw.nn.network import load_network
from cmru_hw.primitives.branch_noise import Spectrum, decision_bandwidth
from cmru_hw.primitives.comparator import WindowComparator
from cmru_hw.primitives.latch import Latch
from cmru_hw.primitives.signal import gate
from cmru_hw.spice.job import Noise
from cmru_hw.spice.ngspice import run
from cmru_hw.spice.noise_bench import TOLERANCES
from cmru_hw.spice.simulate import job
from cmru_hw.stimulus import Stimulus, make_stimulus
from cmru_hw.technology import load_technology

MODEL_FOLDERS = Path(__file__).parents[2] / "models"


def front(name: str) -> tuple[Design, Stimulus]:
    """The first stages of a shipped network, up to what decides, and a few frames of its task."""
    folder = MODEL_FOLDERS / name
    plan = read_plan(folder / "config.yaml")
    design, _ = map_folder(folder, load_network(folder), plan.technology, plan.config.mapping)
    first = next(k for k, s in enumerate(design.stages) if isinstance(s, WindowComparator | Latch))
    outputs = [design.deciders[0].candidate_rows()[0]]
    facts = design.facts.model_copy(update={"states": [], "outputs": outputs})
    x = plan.task.test.x[:1, 5:6]
    return Design(facts, design.stages[:first]), make_stimulus(x, facts.input_size, facts.frame_period)


def measured(design: Design, stimulus: Stimulus, row: str, index: int) -> tuple[float, float]:
    """Rms noise voltage at a diode's node and its conductance (S) by `.noise`."""
    deck = job(design, stimulus, 0)
    probe = f"Iprobe 0 {gate(row, index)} dc 0 ac 1\n"
    data = run(
        replace(
            deck, netlist=deck.netlist + probe, analysis=Noise(gate(row, index), "iprobe", 1e-1, 1e9, 20),
            tolerances=TOLERANCES, save=(), initial={},
        )
    )  # fmt: skip
    impedance = data["onoise_spectrum"] / data["inoise_spectrum"]
    return float(data["v(onoise_total)"].item()), 1 / float(impedance[0])


@pytest.mark.parametrize("name", ["speaker_vowels_cmru", "speaker_vowels_fq_bmru"])
def test_noise_of_a_networks_nodes_is_that_of_ngspice(name: str) -> None:
    """Rms at the inputs' diodes and at four nodes of every later row within 10 %, on average within 3 %."""
    design, stimulus = front(name)
    (block,) = BehavioralModel(design, intrinsic=True).blocks(stimulus.x, stimulus.lengths)
    errors = []
    for stage in design.stages:
        values = block.values[stage.name].reshape(-1, stage.size)[0]
        variance = block.noise[stage.name, stage.polarity].variance.reshape(-1, stage.size)[0]
        for index in np.argsort(-values)[: 2 if stage.name in design.facts.inputs else 4]:
            if values[index] > 5e-11:
                volts, conductance = measured(design, stimulus, stage.name, int(index))
                errors.append(np.sqrt(variance[index]) / (volts * conductance) - 1)

    assert len(errors) >= 10
    assert np.abs(errors).max() < 0.1
    assert abs(np.mean(errors)) < 0.03


def test_two_poles_pass_what_the_integral_says() -> None:
    """Of white noise behind p1 and then p2: S (pi / 2) p1 p2 / (p1 + p2)."""
    density, first, second = np.array([3e-28]), np.array([2e4]), np.array([5e3])
    found = Spectrum.white(density, np.pi / 2 * first).through(np.pi / 2 * second)
    frequency = np.linspace(0.0, 4e6, 4_000_001)
    response = 1 / ((1 + (frequency / first) ** 2) * (1 + (frequency / second) ** 2))
    assert found.variance.item() == pytest.approx(
        float(density[0] * np.trapezoid(response, frequency)), rel=1e-3
    )
    none = Spectrum(np.zeros(1), np.zeros(1)).through(np.array([1e3]))
    assert none.variance.item() == 0.0


@pytest.mark.parametrize("fall", [1e-9, 6e-5, 1e-3])
def test_the_bandwidth_of_a_decision_is_that_of_its_weights(fall: float) -> None:
    """B = integral w^2 / (2 (integral w)^2), the integrals done here."""
    technology = load_technology("generic180")
    current, capacitance = 1e-9, 4e-14
    slope = technology.slope_factor.n * technology.thermal_voltage
    constant, letting_go = capacitance * slope / current, fall * slope / technology.supply
    width = 12 * np.sqrt(constant * max(letting_go, constant))
    time = np.linspace(-min(width, 12 * letting_go), 2 * width, 400_001)
    weight = np.exp(-(time + letting_go * np.expm1(-time / letting_go)) / constant)
    expected = np.trapezoid(weight**2, time) / (2 * np.trapezoid(weight, time) ** 2)
    found = decision_bandwidth(np.array([current]), capacitance, fall, technology)
    assert found.item() == pytest.approx(expected, rel=0.02)


def test_noise_is_drawn_by_the_seed_and_shakes_only_what_is_close() -> None:
    """States of 60 utterances: the same for a seed; those with a margin like the noise differ."""
    folder = MODEL_FOLDERS / "speaker_vowels_cmru"
    plan = read_plan(folder / "config.yaml")
    design, _ = map_folder(folder, load_network(folder), plan.technology, plan.config.mapping)
    split = plan.task.test
    facts = design.facts
    stimulus = make_stimulus(split.x[:60], facts.input_size, facts.frame_period, split.lengths[:60])
    quiet, one, again, other = (
        BehavioralModel(design, seed=seed, intrinsic=intrinsic).run(stimulus)
        for seed, intrinsic in ((1, False), (1, True), (1, True), (2, True))
    )
    assert np.array_equal(one.states[0], again.states[0])
    assert not np.array_equal(one.states[0], other.states[0])
    valid = quiet.states[0] > quiet.states[0].min()
    assert 0.9 < (one.states[0] == quiet.states[0])[valid].mean() < 1.0
    np.testing.assert_allclose(one.supply_power, quiet.supply_power, rtol=2e-2)
