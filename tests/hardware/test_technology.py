"""The card: what it says about the transistors is what ngspice measures on its models."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from cmru_hw.errors import ConfigError
from cmru_hw.spice.job import LATCH, DcSweep, Job, OperatingPoint
from cmru_hw.spice.netlist import MODELS
from cmru_hw.spice.ngspice import run
from cmru_hw.technology import Polarity, Technology, known_technologies, load_technology


def drain_currents(
    card: Technology, polarity: str, gate: float, low: float, high: float, step: float
) -> tuple:
    """|I_D| (A) of one unit transistor at gate voltage `gate` over |V_DS|."""
    sign = 1 if polarity == "n" else -1
    size = f"W={card.unit.w_um}u L={card.unit.l_um}u M=1"
    netlist = f".include models.lib\nVg g 0 {sign * gate}\nVd d 0 0\nX1 d g 0 0 {polarity}fet {size}\n"
    data = run(
        Job(
            title="transistor", netlist=netlist, analysis=DcSweep("Vd", sign * low, sign * high, sign * step),
            save=("i(vd)",), temperature=card.temperature_celsius, files={"models.lib": card.model_text},
        )
    )  # fmt: skip
    return np.abs(data.abscissa), np.abs(data["i(vd)"])


@pytest.mark.parametrize("polarity", ["n", "p"])
def test_gate_voltage_slope_and_output_curve_are_those_of_the_models(
    generic: Technology, polarity: str
) -> None:
    """The slope below 1 nA, above which the transistor leaves weak inversion; the curve from 0.05 V on."""
    one = np.array([1e-9])
    gate = generic.gate_voltage(polarity, one).item()  # type: ignore[arg-type]
    volts, current = drain_currents(generic, polarity, gate, 0.35, 0.8, 0.05)
    assert current[0] == pytest.approx(1e-9, rel=0.03)
    for below in (0.0, 0.08):
        volts, swept = drain_currents(generic, polarity, gate - below, 0.05, 0.8, 0.05)
        relative = swept / np.interp(0.4, volts, swept)
        curve = generic.saturation(polarity, volts)  # type: ignore[arg-type]
        np.testing.assert_allclose(relative[0], curve[0], rtol=0.01)
        np.testing.assert_allclose(relative[1:], curve[1:], rtol=0.001)
    lower = drain_currents(generic, polarity, gate - 0.08, 0.35, 0.4, 0.05)[1][0]
    slope = generic.slope_factor.of(polarity) * generic.thermal_voltage  # type: ignore[arg-type]
    assert np.log(current[0] / lower) == pytest.approx(0.08 / slope, rel=0.03)


def test_thermal_voltage_is_26_mv_at_room_temperature(generic: Technology) -> None:
    assert generic.thermal_voltage == pytest.approx(25.865e-3, rel=1e-4)


@pytest.mark.parametrize("name", ["nothing", "../generic180", "", "Generic180", "generic180/"])
def test_an_unknown_technology_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match="generic180"):
        load_technology(name)


def test_generic180_is_known() -> None:
    assert "generic180" in known_technologies()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("supply", -1.0),
        ("supply", "0.8"),
        ("latch_units", 0),
        ("slope_factor", {"n": 1.4}),
        ("colour", "red"),
    ],
)
def test_a_wrong_card_is_refused_by_field(technologies: Path, key: str, value: object) -> None:
    path = technologies / "generic180" / "card.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {key: value}))
    with pytest.raises(ConfigError, match=f"card.yaml: {key}"):
        load_technology("generic180")


@pytest.mark.parametrize("polarity", ["n", "p"])
def test_a_current_factor_is_a_threshold_shift_in_weak_inversion(
    generic: Technology, polarity: Polarity
) -> None:
    """2 % more mobility, by BSIM's own multiplier, against a shift of -n U_T ln 1.02: 0.1 % in current."""
    sign = 1 if polarity == "n" else -1
    volts = generic.gate_voltage_at_1na.of(polarity) - 0.04  # about 0.3 nA
    slope = generic.slope_factor.of(polarity) * generic.thermal_voltage
    size = f"W={generic.unit.w_um:g}u L={generic.unit.l_um:g}u"
    lines = [f".include {MODELS}", f"Vd d 0 {sign * 0.4}", f"Vg g 0 {sign * volts!r}"]
    for name, extra in (("a", ""), ("b", "mulu0=1.02"), ("c", f"delvto={-sign * slope * math.log(1.02)!r}")):
        lines += [f"V{name} d d{name} 0", f"M{name} d{name} g 0 0 {polarity}mos18 {size} {extra}"]
    found = run(
        Job(
            title="mobility", netlist="\n".join(lines) + "\n", analysis=OperatingPoint(),
            save=("i(va)", "i(vb)", "i(vc)"), tolerances=LATCH, files={MODELS: generic.model_text},
        )
    )  # fmt: skip
    nominal, mobile, shifted = (float(found[f"i(v{name})"].item()) for name in "abc")
    assert mobile / nominal == pytest.approx(1.02, rel=1e-3)
    assert shifted / nominal == pytest.approx(mobile / nominal, rel=1e-3)
