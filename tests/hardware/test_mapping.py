"""Networks to designs: the same function where nothing rounds, honest numbers, and refusals by name."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hardware_networks import UNITS, random_input, random_network
from pydantic import ValidationError

from cmru_hw.analysis.agreement import run_trained
from cmru_hw.behavioral import BehavioralModel
from cmru_hw.errors import MappingError
from cmru_hw.mapping import MappingConfig, map_network
from cmru_hw.nn.network import Network, NetworkConfig
from cmru_hw.spice.netlist import build
from cmru_hw.stimulus import make_stimulus
from cmru_hw.technology import Technology

LENGTHS = np.array([12, 5, 1, 9])


def set_value(network: Network, name: str, index: tuple[int, ...], value: float) -> Network:
    with torch.no_grad():
        network.state_dict()[name][index] = value
    return network


# --- the same function -----------------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", ["full", "core"])
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("pool", ["mean", "last", "vote"])
def test_ideal_circuit_of_a_grid_network_is_the_trained_network(
    ideal: Technology, boundary: Any, skip: bool, pool: str
) -> None:
    for seed in range(3):
        network = random_network(seed, skip=skip, pool=pool, num_layers=3)
        design, report = map_network(network, ideal, MappingConfig(boundary=boundary))
        assert report.clipped == []
        stimulus = make_stimulus(random_input(seed), 3, 1e-2, LENGTHS)
        trained, found = run_trained(network, design, stimulus), BehavioralModel(design).run(stimulus)
        for expected, states in zip(trained.states, found.states, strict=True):
            assert np.array_equal(expected, states)
        np.testing.assert_allclose(found.logits, trained.logits, rtol=1e-5, atol=2e-6)
        assert np.array_equal(found.decision, trained.decision)
        assert sum(np.ptp(states[0], axis=0).sum() for states in found.states) > 0, "some latch must switch"


@pytest.mark.parametrize("boundary", ["full", "core"])
def test_off_the_grid_only_rounding_is_lost(ideal: Technology, boundary: Any) -> None:
    """With 256 units a weight is off by at most 1/512; logits follow (states that flip are few)."""
    network = random_network(11, on_grid=False)
    design, report = map_network(network, ideal, MappingConfig(boundary=boundary, units=256))
    stimulus = make_stimulus(random_input(11), 3, 1e-2)
    trained, found = run_trained(network, design, stimulus), BehavioralModel(design).run(stimulus)
    same = np.all([(a == b).all(-1) for a, b in zip(trained.states, found.states, strict=True)], axis=0)
    assert same.mean() > 0.9
    np.testing.assert_allclose(found.logits[same], trained.logits[same], atol=0.03)
    assert 0 < max(report.quantization_error.values()) < 0.005


def test_unit_current_scales_currents_and_nothing_else(ideal: Technology) -> None:
    """To single precision, of currents up to 5 nA."""
    network, stimulus = random_network(2), make_stimulus(random_input(2), 3, 1e-2)
    results = [
        BehavioralModel(map_network(network, ideal, MappingConfig(unit_current=amperes))[0]).run(stimulus)
        for amperes in (1e-9, 2e-9)
    ]
    np.testing.assert_allclose(results[0].logits, results[1].logits, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(2 * results[0].candidates[0], results[1].candidates[0], rtol=5e-7, atol=2e-15)


# --- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["lru", "min_gru"])
def test_units_without_a_circuit_are_refused(generic: Technology, unit: Any) -> None:
    config = NetworkConfig(unit=unit, input_size=3, model_size=4, hidden_size=4, num_layers=1, num_classes=2)
    with pytest.raises(MappingError, match=unit):
        map_network(Network(config), generic)


@pytest.mark.parametrize(
    ("option", "value"), [("norm", "layer"), ("glu", True), ("dropout", 0.1), ("epsilon", 0.5)]
)
def test_blocks_that_no_circuit_serves_are_refused_by_name(
    generic: Technology, option: str, value: Any
) -> None:
    config = random_network(0).config.model_copy(update={option: value})
    with pytest.raises(MappingError, match=f"{option}.*{value}"):
        map_network(Network(config), generic)


@pytest.mark.parametrize(
    ("tensor", "index"),
    [
        ("projection.weight", (1, 2)), ("layers.1.unit.candidate.weight", (3, 0)),
        ("layers.0.output.weight", (2, 2)), ("readout.weight", (1, 3)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("sign", [1, -1])
def test_a_weight_beyond_the_largest_ratio_is_refused_with_its_place(
    generic: Technology, tensor: str, index: tuple[int, int], sign: int
) -> None:
    network = set_value(random_network(0), tensor, index, sign * 40.0)
    with pytest.raises(MappingError, match=re.escape(f"{tensor}{list(index)}: {sign * 40}")):
        map_network(network, generic)


def test_a_tiny_hysteresis_is_built_as_a_comparator_and_reported(ideal: Technology) -> None:
    network = set_value(random_network(0), "layers.1.unit.width", (2,), 1e-4)
    design, report = map_network(network, ideal)
    (clip,) = report.clipped
    assert (clip.tensor, clip.index, clip.built) == ("layers.1.unit.width", [2], 0.0)
    assert clip.trained == pytest.approx(1e-4)
    assert design.signals["layer1_latch"].i_width[2] == 0
    up, down = BehavioralModel(design).thresholds(1)
    low = network.state_dict()["layers.1.unit.threshold_low"][2].item()
    assert up[2] == pytest.approx(1e-9 * (low + 0.5e-4), rel=1e-6)
    assert down[2] == pytest.approx(up[2], rel=5e-3)


@pytest.mark.parametrize(("low", "reason"), [(50.0, "characterised range"), (0.001, "never resets")])
def test_a_threshold_that_cannot_be_programmed_is_clipped_and_reported(
    ideal: Technology, low: float, reason: str
) -> None:
    network = set_value(random_network(0), "layers.0.unit.threshold_low", (1,), low)
    _, report = map_network(network, ideal)
    (clip,) = report.clipped
    assert (clip.tensor, clip.index) == ("layers.0.unit.threshold_low", [1])
    assert clip.trained == pytest.approx(low)
    assert reason in clip.reason
    assert clip.built == 0.0 if low < 1 else 5 < clip.built < 10


@pytest.mark.parametrize(
    ("name", "value"),
    [("width", 1e-4), ("threshold_low", 50.0), ("threshold_low", 0.001), ("gain", 30.0)],
)
def test_strict_refuses_what_would_be_clipped(generic: Technology, name: str, value: float) -> None:
    network = set_value(random_network(0), f"layers.0.unit.{name}", (1,), value)
    assert map_network(network, generic)[1].clipped
    with pytest.raises(MappingError, match=re.escape(f"layers.0.unit.{name}[1]: {value:g} would become")):
        map_network(network, generic, MappingConfig(strict=True))


def test_a_gain_beyond_the_characterised_range_is_clipped_at_it(ideal: Technology) -> None:
    network = set_value(random_network(0), "layers.0.unit.gain", (1,), 30.0)
    design, report = map_network(network, ideal)
    (clip,) = report.clipped
    assert (clip.tensor, clip.index) == ("layers.0.unit.gain", [1])
    assert design.signals["layer0_latch"].i_gain[1] == pytest.approx(1e-8)
    assert clip.built == pytest.approx(10.0)


# --- the report ------------------------------------------------------------------------------------------


def transistors_in_the_netlist(netlist: str, technology: Technology) -> tuple[int, float]:
    """Unit transistors and their gate area (m^2), counted in the text of the cells."""
    count, area = 0, 0.0
    switch = technology.switch.w_um * technology.switch.l_um
    for line in netlist.splitlines():
        values = dict(re.findall(r"(\w+)=(\S+)", line))
        if not line.startswith("X"):
            continue
        one = float(values["W"].rstrip("u")) * float(values["L"].rstrip("u")) if "W" in values else 0.0
        if "nfet" in line or "pfet" in line:
            units = int(values["M"])
            count, area = count + units, area + units * one
        elif "latch_9t" in line:
            units = 6 * int(values["U"]) + int(values["UOUT"])  # M1, M2, M5, M7, M8, M9 and M4
            count, area = count + units + 2, area + units * one + 2 * switch  # M3 and M6
    return count, area * 1e-12


@pytest.mark.parametrize("boundary", ["full", "core"])
@pytest.mark.parametrize("skip", [True, False])
def test_transistors_and_area_are_those_of_the_netlist(
    generic: Technology, boundary: Any, skip: bool
) -> None:
    design, report = map_network(random_network(1, skip=skip), generic, MappingConfig(boundary=boundary))
    currents = {name: [np.zeros((1, 2))] * design.signals[name].size for name in design.facts.inputs}
    count, area = transistors_in_the_netlist(str(build(design, currents, np.array([0.0, 1e-2]))), generic)
    assert report.transistors == count == sum(report.transistors_by_stage.values()) == design.transistors
    assert report.area_m2 == pytest.approx(area, rel=1e-9)


def test_histogram_and_rounding_of_a_grid_network(generic: Technology) -> None:
    network = random_network(1)
    _, report = map_network(network, generic)
    matrices = [m.numpy() for name, m in network.state_dict().items() if m.ndim == 2]
    units = np.concatenate([np.abs(np.rint(m * UNITS)).astype(int).ravel() for m in matrices])
    assert report.unit_histogram == dict(zip(*np.unique(units, return_counts=True), strict=True))
    assert len(report.quantization_error) == len(matrices) == 6
    assert max(report.quantization_error.values()) == 0


def test_a_candidate_resting_at_its_threshold_is_reported(generic: Technology) -> None:
    """Layer 0 rests at relu(W_c relu(b_p) + b_c); put it 5 pA below beta_lo, inside the 10 pA margin."""
    network = random_network(1)
    state = {name: value.double().numpy() for name, value in network.state_dict().items()}
    rested = state["layers.0.unit.candidate.weight"] @ np.maximum(state["projection.bias"], 0)
    low = state["layers.0.unit.threshold_low"][2]
    set_value(network, "layers.0.unit.candidate.bias", (2,), low - 0.005 - rested[2])
    _, report = map_network(network, generic)
    points = [point for point in report.rest_points if point.tensor == "layers.0.unit"]
    assert [point.index for point in points] == [[2]]
    assert points[0].threshold == pytest.approx(low * 1e-9)
    assert points[0].candidate == pytest.approx((low - 0.005) * 1e-9, rel=1e-5)
    assert report.smallest_rest_margin == pytest.approx(5e-12, rel=1e-3)


def test_report_is_plain_json(generic: Technology, tmp_path: Path) -> None:
    _, report = map_network(random_network(1, on_grid=False), generic)
    report.save(tmp_path)
    content = json.loads((tmp_path / "mapping.json").read_text())
    assert content["transistors"] == report.transistors
    assert all(math.isfinite(value) for value in content["quantization_error"].values())


def test_mapping_is_deterministic_and_leaves_the_network_alone(generic: Technology, tmp_path: Path) -> None:
    network = random_network(6, on_grid=False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for name in ("a", "b"):
        map_network(network, generic)[0].save(tmp_path / name)
    for file in ("design.yaml", "design.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    for name, value in network.state_dict().items():
        assert torch.equal(before[name], value)


def test_a_width_that_cannot_be_programmed_is_clipped_and_reported(ideal: Technology) -> None:
    network = set_value(random_network(0), "layers.0.unit.width", (1,), 100.0)
    _, report = map_network(network, ideal)
    (clip,) = report.clipped
    assert (clip.tensor, clip.index, clip.trained) == ("layers.0.unit.width", [1], 100.0)
    assert 0.0 < clip.built < 20.0
    with pytest.raises(MappingError, match=r"width\[1\]: 100"):
        map_network(network, ideal, MappingConfig(strict=True))


def test_a_bias_current_out_of_weak_inversion_is_refused(ideal: Technology) -> None:
    network = set_value(random_network(0), "readout.bias", (1,), 1e6)
    with pytest.raises(MappingError, match=r"readout\.bias\[1\]: 1e\+06 needs a bias current"):
        map_network(network, ideal)


def test_a_ramp_longer_than_the_frame_is_refused() -> None:
    with pytest.raises(ValidationError, match="ramp must be shorter"):
        MappingConfig(frame_period=5e-4, ramp=1e-3)
