"""Process corners: what a card says of them, in both engines."""

from __future__ import annotations

import numpy as np
import pytest
from hardware_networks import random_input, random_network

from cmru_hw.behavioral import BehavioralModel
from cmru_hw.errors import ConfigError, MappingError
from cmru_hw.mapping import MappingConfig, map_network
from cmru_hw.primitives.latch import calibration
from cmru_hw.spice.latch_bench import LatchBench
from cmru_hw.spice.ngspice import run
from cmru_hw.spice.simulate import simulate
from cmru_hw.stimulus import make_stimulus
from cmru_hw.technology import load_technology

GENERIC = load_technology("generic180")
NETWORK = random_network(3, num_layers=1, model_size=3, hidden_size=3)
STIMULUS = make_stimulus(random_input(3, batch=1, frames=6), 3, 1e-2)


def test_a_corner_moves_gate_voltages_and_leakage() -> None:
    fast = GENERIC.at(corner="fs")
    assert fast.gate_voltage_at_1na.n == pytest.approx(GENERIC.gate_voltage_at_1na.n - 0.04)
    assert fast.gate_voltage_at_1na.p == pytest.approx(GENERIC.gate_voltage_at_1na.p + 0.04)
    assert fast.leakage.n / GENERIC.leakage.n == pytest.approx(np.exp(0.04 / (1.39 * 0.025865)), rel=1e-3)
    assert fast.leakage.p < GENERIC.leakage.p
    assert fast.output_curve == GENERIC.output_curve


def test_corner_and_temperature_may_be_set_in_any_order() -> None:
    together = GENERIC.at(85.0, 0.72, "ff")
    for other in (GENERIC.at(corner="ff").at(85.0, 0.72), GENERIC.at(85.0).at(supply=0.72, corner="ff")):
        assert other == together
    back, heated = together.at(27.0, 0.8, "tt"), GENERIC.at(85.0).at(27.0)
    assert back.gate_voltage_at_1na.n == pytest.approx(heated.gate_voltage_at_1na.n)
    assert back.leakage.p == pytest.approx(heated.leakage.p)


def test_an_unknown_corner_and_one_without_measurements_are_refused() -> None:
    with pytest.raises(ConfigError, match="none called 'sz'; there are tt, ff, ss, fs, sf"):
        GENERIC.at(corner="sz")
    network = random_network(1, unit="alpha_cmru", num_layers=1, rails=2.0)
    design, _ = map_network(network, GENERIC, MappingConfig(frame_period=2e-2))
    with pytest.raises(MappingError, match="layer0_integrator: was not measured at corner ss"):
        design.at(corner="ss")


def test_a_design_keeps_its_corner(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from cmru_hw.design import load_design

    design, _ = map_network(NETWORK, GENERIC)
    slow = design.at(corner="ss")
    slow.save(tmp_path)
    assert load_design(tmp_path).technology.corner == "ss"
    assert slow.fingerprint != design.fingerprint
    assert slow.at(corner="tt").fingerprint == design.fingerprint


@pytest.mark.parametrize(("corner", "celsius", "supply"), [("ff", 85.0, 0.8), ("ss", 27.0, 0.72)])
def test_latches_switch_where_the_calibration_says(corner: str, celsius: float, supply: float) -> None:
    """Thresholds between those of the table, in ngspice: within 0.2 %."""
    currents = np.array([2e-10, 2e-10, 1.5e-9])
    ratios = np.array([0.33, 0.77, 0.55])
    raw = {"temperature_celsius": celsius, "supply": supply, "corner": corner}
    card = GENERIC.model_copy(update=raw)
    bench = LatchBench(technology=card, i_threshold=currents, i_width=ratios * currents, i_gain=currents)
    measured = bench.read(run(bench.job()))
    up, down = calibration(GENERIC.at(celsius, supply, corner)).forward(currents, ratios * currents)
    assert np.abs(measured.up - up).max() < 2e-3 * currents.max()
    assert np.abs((measured.up - up) / currents).max() < 2e-3
    assert np.abs((measured.down - down) / currents).max() < 2e-3
    typical, _ = calibration(GENERIC.at(celsius, supply)).forward(currents, ratios * currents)
    assert np.abs((measured.up - typical) / currents).max() > 5e-3


@pytest.mark.parametrize(
    ("where", "largest"),
    [
        ((27.0, 0.8, "ss"), 10e-12),
        pytest.param((27.0, 0.8, "ff"), 30e-12, marks=pytest.mark.slow),
        pytest.param((27.0, 0.8, "fs"), 30e-12, marks=pytest.mark.slow),
        pytest.param((27.0, 0.8, "sf"), 10e-12, marks=pytest.mark.slow),
        pytest.param((-20.0, 0.72, "ss"), 10e-12, marks=pytest.mark.slow),
        pytest.param((85.0, 0.8, "ff"), 120e-12, marks=pytest.mark.slow),
    ],
)
def test_both_engines_follow_a_corner(where: tuple[float, float, str], largest: float) -> None:
    """Candidates of a network within `largest`, states the same; the typical model is further off."""
    typical, _ = map_network(NETWORK, GENERIC)
    design = typical.at(*where)
    model, spice = BehavioralModel(design).run(STIMULUS), simulate(design, STIMULUS)
    off = np.abs(model.candidates[0] - spice.candidates[0]).max()
    assert off < largest
    assert np.abs(BehavioralModel(typical).run(STIMULUS).candidates[0] - spice.candidates[0]).max() > off
    assert np.array_equal(model.states[0], spice.states[0])
    assert model.supply_power[0] == pytest.approx(spice.supply_power[0], rel=0.015)
