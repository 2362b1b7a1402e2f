"""Device sizes: unit transistors of another area and numbers of them row by row, in both engines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hardware_networks import random_input, random_network
from test_clocked_mapping import small

from cmru_hw.analysis.agreement import agreement, run_trained
from cmru_hw.behavioral import BehavioralModel
from cmru_hw.characterize import transistor
from cmru_hw.design import Design, load_design
from cmru_hw.errors import ConfigError, MappingError
from cmru_hw.mapping import MappingConfig, map_network, weight_units
from cmru_hw.spice.netlist import build
from cmru_hw.spice.ngspice import run
from cmru_hw.spice.simulate import simulate
from cmru_hw.stimulus import make_stimulus
from cmru_hw.technology import Conditions, Polarity, Technology, load_technology
from cmru_hw.variation import draw, one_chip

GENERIC = load_technology("generic180")
FQ_ROWS = {"input": 8, "layer0_x": 12, "layer0_latch": 6, "layer1": 20, "readout_x": 24, "projection_neg": 24}


# --- the card --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit_area", [0.2, 0.5, 3.0])
def test_area_and_pelgrom_sigma_follow_the_size_at_constant_w_over_l(unit_area: float) -> None:
    card = GENERIC.at(unit_area=unit_area)
    assert card.unit_area == unit_area
    for name in ("unit", "switch"):
        was, found = getattr(GENERIC, name), getattr(card, name)
        assert found.w_um / found.l_um == pytest.approx(was.w_um / was.l_um)
        assert found.w_um * found.l_um == pytest.approx(unit_area * was.w_um * was.l_um)
    network = random_network(0)
    choices = MappingConfig(unit_area=unit_area)
    nominal, sized = (map_network(network, GENERIC, one)[0] for one in (MappingConfig(), choices))
    assert sized.area == pytest.approx(unit_area * nominal.area)
    volts = np.std(draw(sized, range(400), 0)["layer0_candidate.diode"])
    slope = card.slope_factor.p * card.thermal_voltage
    units_um2 = 2 * unit_area * 5.0  # two units of 1/5 um
    expected = np.hypot(4.0e-3, slope * 1e-2) / np.sqrt(units_um2)  # 4 mV um, 1 % um
    assert volts == pytest.approx(expected, rel=0.05)


def test_small_transistors_are_those_that_ngspice_has(generic: Technology) -> None:
    """Between measured sizes: gate voltage, curve and leakage of a fresh sweep at 0.25 and 3."""
    between = Conditions(celsius=[27.0], supply=[0.8], unit_area=[0.25, 1.0, 3.0], frame_period=1e-3)
    checked = set()
    for point in transistor.points(generic.model_copy(update={"conditions": between})):
        if point.at["unit_area"] == 1:
            continue
        card, found = generic.at(unit_area=float(point.at["unit_area"])), point.read(run(point.job))
        polarity: Polarity = "n" if point.at["polarity"] == "n" else "p"
        checked |= set(found)
        if "volts_at_1na" in found:
            volts = card.gate_voltage_at_1na.of(polarity)
            assert found["volts_at_1na"] == pytest.approx(volts, abs=3e-4)
            assert found["leakage"] == pytest.approx(card.leakage.of(polarity), rel=0.02)
        if "curve" in found:
            curve = card.saturation(polarity, np.array(transistor.VOLTS))
            np.testing.assert_allclose(found["curve"], curve, atol=5e-4)
        if point.at.get("load") == "diode":
            assert found["capacitance"] == pytest.approx(card.diode_capacitance.of(polarity), rel=0.01)
    assert {"volts_at_1na", "curve", "capacitance"} <= checked


def test_a_size_keeps_through_a_change_of_temperature_and_the_other_way_round() -> None:
    once, back = GENERIC.at(60.0, unit_area=0.5), GENERIC.at(unit_area=0.5).at(60.0)
    assert once == back
    hot, small_card = GENERIC.at(60.0), GENERIC.at(unit_area=0.5)
    volts = [card.gate_voltage_at_1na.n for card in (once, hot, small_card, GENERIC.at(unit_area=1.0001))]
    assert volts[0] == pytest.approx(volts[1] + volts[2] - volts[3], abs=1e-5)


@pytest.mark.parametrize("unit_area", [0.1, 5.0])
def test_sizes_that_were_not_characterised_are_refused_with_the_range(unit_area: float) -> None:
    with pytest.raises(ConfigError, match=rf"unit_area: .* from 0\.2 to 4, not at {unit_area:g}"):
        map_network(random_network(0), GENERIC, MappingConfig(unit_area=unit_area))


# --- rows ------------------------------------------------------------------------------------------------


def test_weights_are_whole_units_of_the_row_that_they_take_from() -> None:
    network = random_network(1)
    choices = MappingConfig(rows=FQ_ROWS, bias_rows={"layer0": 2, "layer1_y": 10}, latch_units=3)
    design, _ = map_network(network, GENERIC, choices)
    units = {name: stage.diode_units for name, stage in design.signals.items()}
    assert units == {
        "input_pos": 8, "input_neg": 8, "projection_pos": 8, "projection_neg": 24, "layer0_x": 12,
        "layer0_candidate": 3, "layer0_latch": 6, "layer0_y": 8, "layer1_x": 20, "layer1_candidate": 3,
        "layer1_latch": 20, "layer1_y": 20, "readout_x": 24, "readout_pos": 16, "readout_neg": 16,
    }  # fmt: skip
    biases = {name: getattr(stage, "bias_units", None) for name, stage in design.signals.items()}
    assert [biases[f"layer0_{row}"] for row in ("candidate", "y")] == [2, 2]
    assert [biases[f"layer1_{row}"] for row in ("candidate", "y")] == [4, 10]
    assert weight_units(network.config, choices) == {
        "projection": 8, "layers.0.unit.candidate": 12, "layers.0.unit.threshold": 12,
        "layers.0.unit.amplitude": 12, "layers.0.output": 6, "layers.1.unit.candidate": 20,
        "layers.1.unit.threshold": 20, "layers.1.unit.amplitude": 20, "layers.1.output": 20, "readout": 24,
    }  # fmt: skip
    devices = design.devices()
    assert (devices["layer0_latch.m1"].units == 3).all()
    assert (devices["layer1_y.bias_positive"].units[design.signals["layer1_y"].bias > 0] == 10).all()


@pytest.mark.parametrize("skip", [True, False])
def test_the_ideal_circuit_is_the_trained_network_where_the_rows_units_divide(
    ideal: Technology, skip: bool
) -> None:
    """Sixteenths are whole units of 16, 32 and 48; other rows only carry currents 1:1."""
    network = random_network(3, skip=skip)
    rows = {"input": 32, "layer0_x": 48, "layer1_latch": 32, "readout_x": 32, "projection_pos": 5,
            "projection_neg": 32 if skip else 7, "layer0_y": 3, "readout_pos": 9}  # fmt: skip
    design, report = map_network(network, ideal, MappingConfig(rows=rows, latch_units=5))
    assert max(report.quantization_error.values()) < 1e-9
    stimulus = make_stimulus(random_input(3), 3, 1e-2)
    trained, found = run_trained(network, design, stimulus), BehavioralModel(design).run(stimulus)
    for expected, states in zip(trained.states, found.states, strict=True):
        assert np.array_equal(expected, states)
    np.testing.assert_allclose(found.logits, trained.logits, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["cmru", "cmru_input_dependent", "bmru", "alpha_cmru", "fq_clocked"])
def test_rows_of_clocked_units_have_their_own_numbers(ideal: Technology, name: str) -> None:
    network, mapping = small(name)
    rows = {"input": 32, "layer0_x": 48, "projection_pos": 5}
    if name != "fq_clocked":
        rows["layer0_below"] = 48
    if name != "alpha_cmru":
        rows["layer0_bank"] = 8
    plain, sized = (
        map_network(network, ideal, MappingConfig(**(mapping | more)))[0]
        for more in ({}, {"rows": rows, "latch_units": 4})
    )
    assert sized.signals["layer0_x"].diode_units == 48
    stimulus = make_stimulus(random_input(3), 3, 1e-2)
    first, second = (BehavioralModel(design).run(stimulus) for design in (plain, sized))
    np.testing.assert_allclose(second.logits, first.logits, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("choices", "complaint"),
    [
        ({"rows": {"layer2_x": 8}}, r"mapping\.rows: layer2_x: no row .* layer0_x"),
        ({"rows": {"layer0_candidate": 8}}, r"mapping\.rows: layer0_candidate: no row whose units can be"),
        ({"bias_rows": {"layer0_latch": 8}}, r"mapping\.bias_rows: layer0_latch: no row"),
        ({"rows": {"input_pos": 8}}, "input_pos and input_neg have 8 and 16 units.*projection"),
        ({"rows": {"readout_x": 8}}, "readout_x and projection_neg have 8 and 16 units.*readout"),
    ],
)
def test_choices_that_no_row_can_have_are_refused_by_name(choices: Any, complaint: str) -> None:
    with pytest.raises(MappingError, match=complaint):
        map_network(random_network(0), GENERIC, MappingConfig(**choices))


def test_an_integrator_of_another_size_than_measured_is_refused() -> None:
    network, mapping = small("alpha_cmru")
    with pytest.raises(MappingError, match=r"layer0_integrator: .* of unit_area 1, not 0\.5"):
        map_network(network, GENERIC, MappingConfig(unit_area=0.5, **mapping))


# --- designs ---------------------------------------------------------------------------------------------


def test_sizes_are_saved_and_loaded_and_drawn_in_the_netlist(tmp_path: Path) -> None:
    choices = MappingConfig(unit_area=0.25, rows=FQ_ROWS, latch_units=3)
    design, _ = map_network(random_network(1), GENERIC, choices)
    design.save(tmp_path)
    loaded = load_design(tmp_path)
    assert loaded.facts == design.facts
    assert (loaded.facts.unit_area, loaded.facts.latch_units) == (0.25, 3)
    assert loaded.technology.unit.w_um == pytest.approx(0.5)
    assert loaded.area == pytest.approx(design.area)
    assert loaded.at(60.0).technology.unit_area == 0.25
    waves = {name: [np.array([[0.0, 1e-9]])] * 3 for name in design.facts.inputs}
    texts = [str(build(one, waves, np.array([0.0, 1e-2]))) for one in (design, loaded)]
    assert texts[0] == texts[1]
    transistors, latches = (
        {
            tuple(re.search(rf"\b{key}=(\S+)", line, re.I).group(1) for key in keys)  # type: ignore[union-attr]
            for line in re.findall(rf"^X.* {cell} .*", texts[0], re.M)
        }
        for cell, keys in (("[np]fet", ("W", "L")), ("latch_9t", ("W", "L", "WS", "LS", "U")))
    )
    assert transistors == {("0.5u", "2.5u")}
    assert latches == {("0.5u", "2.5u", "0.25u", "2.5u", "3")}


def check_in_ngspice(design: Design, frames: int, shifts: dict[str, np.ndarray] | None = None) -> None:
    """States and decisions equal, power within 2 %."""
    stimulus = make_stimulus(1.5 * random_input(1, batch=1, frames=frames), 3, design.facts.frame_period)
    spice = simulate(design, stimulus, shifts, checked=0)
    model = BehavioralModel(design, shifts).run(stimulus)
    found = agreement(design, model, spice)
    assert found.states == found.samples
    assert found.decisions == found.inputs
    np.testing.assert_allclose(model.supply_power, spice.supply_power, rtol=0.02)
    assert found.logit_error_a < 0.03 * design.facts.unit_current
    assert any(np.ptp(states[0], axis=0).any() for states in spice.states), "some latch must switch"


@pytest.mark.parametrize(
    ("unit_area", "rows", "latch_units"), [(0.2, {}, None), (0.2, FQ_ROWS, 4), (3.0, FQ_ROWS, 1)]
)
def test_a_network_of_other_sizes_is_the_one_in_ngspice(
    unit_area: float, rows: dict[str, int], latch_units: int | None
) -> None:
    choices = MappingConfig(unit_area=unit_area, rows=rows, latch_units=latch_units)
    check_in_ngspice(map_network(random_network(5), GENERIC, choices)[0], frames=6)


def test_a_chip_of_small_transistors_is_the_same_chip_in_ngspice() -> None:
    choices = MappingConfig(unit_area=0.5, rows=FQ_ROWS, latch_units=4)
    design, _ = map_network(random_network(5), GENERIC, choices)
    check_in_ngspice(design, frames=4, shifts=one_chip(draw(design, [2], 0), 0))


@pytest.mark.parametrize(
    ("unit_area", "rows", "latch_units"),
    [(0.2, {"layer0": 24, "layer0_bank": 6, "input": 8}, 4), (3.0, {}, None)],
)
def test_a_cmru_of_other_sizes_is_the_one_in_ngspice(
    unit_area: float, rows: dict[str, int], latch_units: int | None
) -> None:
    network, mapping = small("cmru", seed=1)
    choices = MappingConfig(unit_area=unit_area, rows=rows, latch_units=latch_units, **mapping)
    check_in_ngspice(map_network(network, GENERIC, choices)[0], frames=5)
