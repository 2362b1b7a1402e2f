"""The real process: what is shipped of it, and, where the foundry's models are installed, what they do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import yaml
from hardware_networks import random_input, random_network

from cmru_hw.behavioral import BehavioralModel
from cmru_hw.characterize import SWEEPS, points
from cmru_hw.characterize.point import AT
from cmru_hw.codesign import read_plan
from cmru_hw.config import packaged
from cmru_hw.errors import ConfigError
from cmru_hw.export import export
from cmru_hw.foundry import sources
from cmru_hw.mapping import map_folder, map_network
from cmru_hw.nn import load_network
from cmru_hw.primitives.latch import calibration
from cmru_hw.spice.job import LATCH, Job, OperatingPoint
from cmru_hw.spice.latch_bench import LatchBench
from cmru_hw.spice.netlist import MODELS
from cmru_hw.spice.ngspice import run
from cmru_hw.spice.simulate import simulate
from cmru_hw.stimulus import make_stimulus
from cmru_hw.technology import Polarity, Technology, load_technology

SKY = load_technology("sky130")
SHIPPED = SKY.folder / SKY.calibration
NANO = 1e-9
installed = pytest.mark.skipif(SKY.missing() is not None, reason=str(SKY.missing()))


# --- what needs no models --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SWEEPS)
def test_every_sweep_was_measured_on_the_models_that_the_card_names(name: str) -> None:
    content = json.loads((SHIPPED / f"{name}.json").read_text())
    assert content["provenance"]["model_hash"] == SKY.model_hash
    assert (SHIPPED / f"{name}.svg").read_text().startswith("<?xml")


def test_the_card_holds_what_the_transistor_sweep_measured() -> None:
    content = json.loads((SHIPPED / "transistor.json").read_text())
    nominal = content["celsius"].index(SKY.temperature_celsius)
    polarities: tuple[Polarity, Polarity] = ("n", "p")
    for polarity in polarities:
        measured = content[polarity]
        slope = SKY.slope_factor.of(polarity) * SKY.thermal_voltage
        assert measured["volts_a_neper"][nominal] == pytest.approx(slope, rel=2e-3)
        assert measured["volts_at_1na"][nominal] == pytest.approx(
            SKY.gate_voltage_at_1na.of(polarity), abs=1e-3
        )
        curve = SKY.saturation(polarity, np.array(content["volts"]))
        np.testing.assert_allclose(measured["curve"][nominal], curve, rtol=2e-4)


def test_banks_count_and_comparators_trip_where_the_docs_say() -> None:
    """Larger transistors need longer frames: their references have not settled at the first decision."""
    for row in json.loads((SHIPPED / "latch_bank.json").read_text())["rows"]:
        assert (row["wrong"] == 0) == (row[AT]["unit_area"] <= 1), row
    for row in json.loads((SHIPPED / "comparator.json").read_text())["rows"]:
        for key in ("trip_up", "trip_down"):
            assert row[key] == pytest.approx(1.0, abs=0.02), row


def test_networks_are_mapped_and_run_in_the_behavioural_model_without_the_foundry_s_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CMRU_HW_TECHNOLOGIES", str(tmp_path))
    card = load_technology("sky130")
    for unit in ("fq_bmru", "cmru"):
        levels = {"levels": 2} if unit == "cmru" else {}
        design = map_network(random_network(1, unit=unit, **levels), card)[0]
        stimulus = make_stimulus(random_input(1, batch=1, frames=4), 3, design.facts.frame_period)
        assert np.isfinite(BehavioralModel(design).run(stimulus).supply_power).all()
        with pytest.raises(ConfigError, match=r"sky130: no model library at .*`cmru-hw technology install"):
            simulate(design, stimulus)


def test_a_design_beyond_the_models_bins_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unit_area: transistors were characterised from 0.75 to 4"):
        SKY.at(unit_area=8.0)


# --- with the foundry's models ---------------------------------------------------------------------------


@installed
@pytest.mark.parametrize("name", SWEEPS)
def test_every_point_of_a_sweep_is_shipped(name: str) -> None:
    content = json.loads((SHIPPED / f"{name}.json").read_text())
    if "rows" in content:
        assert [row[AT] for row in content["rows"]] == [point.at for point in points(SKY, [name])[name]]


@installed
@pytest.mark.parametrize("i_threshold", [0.1, 0.3, 1.0, 3.0])
def test_a_programmed_latch_is_what_was_asked_for(i_threshold: float) -> None:
    """Thresholds, width and gain within 2 % of target at 27 C, after pre-distortion; three widths each."""
    table = calibration(SKY)
    high = np.full(3, i_threshold * NANO)
    low = high * np.array([0.2, 0.5, 0.8])
    programmed = np.array([table.programmed(*pair) for pair in zip(high, low, strict=True)])
    gain = np.array([table.programmed_gain(one).item() for one in high])
    bench = LatchBench(technology=SKY, i_threshold=programmed[:, 0], i_width=programmed[:, 1], i_gain=gain)
    found = bench.read(run(bench.job()))
    np.testing.assert_allclose(found.up, high, rtol=0.02)
    np.testing.assert_allclose(found.down, low, rtol=0.02)
    np.testing.assert_allclose(found.up - found.down, high - low, rtol=0.02)
    np.testing.assert_allclose(found.output[found.turn], high, rtol=0.02)


@installed
@pytest.mark.parametrize("corner", ["ff", "ss", "fs", "sf"])
def test_a_corner_s_own_models_are_simulated(corner: str) -> None:
    """V_GS of both unit transistors moves as the card says, by the foundry's model and no shift of ours."""
    there = SKY.at(corner=corner)
    for polarity, sign in (("n", 1), ("p", -1)):
        volts = [_gate_voltage(card, polarity, sign) for card in (SKY, there)]
        expected = there.gate_voltage_at_1na.of(polarity) - SKY.gate_voltage_at_1na.of(polarity)  # type: ignore[arg-type]
        assert volts[1] - volts[0] == pytest.approx(expected, abs=1.5e-3)


def _gate_voltage(card: Technology, polarity: str, sign: int) -> float:
    """Of a unit transistor's diode at 1 nA."""
    size = f"W={card.unit.w_um:g}u L={card.unit.l_um:g}u"
    netlist = f".include {MODELS}\nI1 {'0 d' if sign > 0 else 'd 0'} 1e-9\nX1 d d 0 0 {polarity}fet {size}\n"
    found = run(
        Job(
            title="diode", netlist=netlist, analysis=OperatingPoint(), save=("v(d)",), tolerances=LATCH,
            files={MODELS: card.model_text},
        )
    )  # fmt: skip
    return abs(float(found["v(d)"].item()))


@installed
def test_an_exported_design_holds_the_models_or_asks_for_the_designer_s(tmp_path: Path) -> None:
    design = map_network(random_network(1, num_layers=1), SKY)[0]
    stimulus = make_stimulus(random_input(1, batch=1, frames=2), 3, 1e-2)
    export(design, stimulus, tmp_path / "ngspice")
    assert (tmp_path / "ngspice" / MODELS).read_text() == SKY.model_text
    with pytest.raises(ConfigError, match=r"sky130: nshort_model.1: only BSIM3 can be written for spectre"):
        export(design, stimulus, tmp_path / "spectre", "spectre")
    export(design, stimulus, tmp_path / "spectre", "spectre", models="sky130.scs")


@installed
@pytest.mark.slow
@pytest.mark.parametrize("model", ["speaker_vowels_fq_bmru", "speaker_vowels_cmru"])
def test_a_shipped_network_decides_on_the_real_process_as_modelled(model: str) -> None:
    """One utterance in ngspice: decision, at least 95 % of the states, power within 2 %."""
    plan = read_plan(packaged("models", model) / "sky130.yaml")
    assert plan.technology.name == "sky130"
    other = yaml.safe_load((packaged("models", model) / "config.yaml").read_text())
    mine = yaml.safe_load((packaged("models", model) / "sky130.yaml").read_text())
    if model == "speaker_vowels_cmru":
        assert mine["mapping"].pop("frame_period") == 2e-2
    assert mine | {"technology": "generic180"} == other
    network = load_network(packaged("models", model))
    design, _ = map_folder(packaged("models", model), network, plan.technology, plan.config.mapping)
    split = plan.task.test.take(np.array([3]))
    stimulus = make_stimulus(split.x, 12, design.facts.frame_period, split.lengths)
    spice, modelled = simulate(design, stimulus, checked=0), BehavioralModel(design).run(stimulus)
    np.testing.assert_array_equal(spice.decision, modelled.decision)
    same = [
        np.mean(a[0, : split.lengths[0]] == b[0, : split.lengths[0]])
        for a, b in zip(spice.states, modelled.states, strict=True)
    ]
    assert np.mean(same) > 0.95
    np.testing.assert_allclose(spice.supply_power, modelled.supply_power, rtol=0.02)


# --- the foundry's mismatch ------------------------------------------------------------------------------

DRAWS = 100


@installed
@pytest.mark.slow
@pytest.mark.parametrize(("polarity", "volts"), [("n", 0.385), ("p", 0.745)])
def test_mismatch_is_that_of_the_foundry_s_own_monte_carlo(polarity: Polarity, volts: float) -> None:
    """sd of ln I_D at 0.3 nA, and of a 1:1 mirror, of MC_MM_SWITCH = 1: ours within their 99.7 % interval.

    ngspice draws `agauss` for each instance; that it repeats itself from run to run does not matter here.
    """
    texts, _ = sources(SKY)
    log, mirrored = _foundry_draws(texts, polarity, volts)
    area = SKY.unit.w_um * SKY.unit.l_um
    sigma = 1e-3 * SKY.a_vt_mv_um.of(polarity) / np.sqrt(area)
    for drawn, factor in ((log, 1.0), (mirrored, np.sqrt(2))):
        expected = factor * sigma / _slope(polarity, volts)
        error = 3 / np.sqrt(2 * (len(drawn) - 1))
        assert np.std(drawn, ddof=1) == pytest.approx(expected, rel=error)
    modelled = sigma / (SKY.slope_factor.of(polarity) * SKY.thermal_voltage)
    assert modelled == pytest.approx(sigma / _slope(polarity, volts), rel=0.07)


def _slope(polarity: Polarity, volts: float) -> float:
    """dV_GS / d ln I (V) of our unit transistor there, by a shift of its threshold."""
    sign, step = (1 if polarity == "n" else -1), 1e-3
    size = f"W={SKY.unit.w_um:g}u L={SKY.unit.l_um:g}u"
    lines = [f".include {MODELS}", f"Vd d 0 {sign * 0.4}", f"Vg g 0 {sign * volts}"]
    for name, shift in (("a", -step), ("b", step)):
        lines += [f"V{name} d {name} 0", f"X{name} {name} g 0 0 {polarity}fet {size} dvt={shift}"]
    found = _operating_point(lines, ("i(va)", "i(vb)"), {MODELS: SKY.model_text})
    return float(2 * step / np.log(found[0] / found[1]))


def _operating_point(lines: list[str], save: tuple[str, ...], files: Mapping[str, str]) -> np.ndarray:
    found = run(
        Job(
            title="transistors", netlist="\n".join(lines) + "\n", analysis=OperatingPoint(), save=save,
            tolerances=LATCH, files=dict(files),
        )
    )  # fmt: skip
    return np.abs([float(found[name].item()) for name in save])


def _foundry_draws(
    texts: Mapping[str, str], polarity: Polarity, volts: float
) -> tuple[np.ndarray, np.ndarray]:
    """ln I_D at a gate voltage, and ln of a mirror's output over its input, of the foundry's devices."""
    sign, device = (1 if polarity == "n" else -1), f"sky130_fd_pr__{polarity}fet_01v8"
    size = f"w={SKY.unit.w_um:g} l={SKY.unit.l_um:g}"  # in um, by the foundry's option scale
    lines = texts["models_fet.spice"].splitlines()
    first = next(k for k, line in enumerate(lines) if line.split()[:2] == [".subckt", device])
    last = lines.index(f".ends {device}", first)
    files = {
        "device.spice": "\n".join(lines[first : last + 1]) + "\n",
        "corner.spice": texts["parameters_fet_tt.spice"], "global.spice": texts["models_global.spice"],
    }  # fmt: skip
    deck = [
        ".param MC_MM_SWITCH=1 MC_PR_SWITCH=0 corner_factor=1 process_mc_factor=1 mismatch_factor=1",
        ".param sw_rdp=197 sw_rdn=120 sw_pw_rs=3816", *(f".include {name}" for name in files),
        f"Vg g 0 {sign * volts}", f"Vd d 0 {sign * 0.4}",
    ]  # fmt: skip
    current = 3e-10
    for k in range(DRAWS):
        deck += [
            f"V{k} d d{k} 0", f"X{k} d{k} g 0 0 {device} {size}",
            f"I{k} {f'0 m{k}' if sign > 0 else f'm{k} 0'} {current}", f"Xa{k} m{k} m{k} 0 0 {device} {size}",
            f"Vm{k} d o{k} 0", f"Xb{k} o{k} m{k} 0 0 {device} {size}",
        ]  # fmt: skip
    save = tuple(f"i(v{m}{k})" for m in ("", "m") for k in range(DRAWS))
    found = np.log(_operating_point(deck, save, files))
    return found[:DRAWS], found[DRAWS:] - np.log(current)
