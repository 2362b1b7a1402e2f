"""Nodes and mirrors from tables against the equations themselves, solved by scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from cmru_hw.primitives.node import arrive, copied, mirrored, settle
from cmru_hw.technology import Polarity, Technology, load_technology

GENERIC = load_technology("generic180")
CARDS = {
    "as it is": GENERIC,
    "hot": GENERIC.at(85.0),
    "cold": GENERIC.at(-20.0),
    "low": GENERIC.at(supply=0.6),
    "sky130": load_technology("sky130"),
}
polarities = st.sampled_from(["n", "p"])
cards = st.sampled_from(sorted(CARDS))
amperes = st.floats(-13, -7.5).map(lambda exponent: 10**exponent)


def curve(card: Technology, polarity: Polarity, volts: float) -> float:
    return float(np.interp(volts, card.output_curve.volts, getattr(card.output_curve, polarity)))


def gate_current(card: Technology, polarity: Polarity, volts: float) -> float:
    slope = card.slope_factor.of(polarity) * card.thermal_voltage
    return 1e-9 * math.exp((volts - card.gate_voltage_at_1na.of(polarity)) / slope)


def diode_volts(card: Technology, polarity: Polarity, current: float) -> float:
    """V of a unit diode that carries a current."""
    return brentq(
        lambda v: gate_current(card, polarity, v) * curve(card, polarity, v) - current, 0.0, 1.8, xtol=1e-12
    )


@settings(deadline=None)
@given(card=cards, polarity=polarities, current=amperes, units=st.integers(1, 32))
def test_a_mirror_takes_the_diodes_gate_voltage(
    card: str, polarity: Polarity, current: float, units: int
) -> None:
    technology = CARDS[card]
    volts = diode_volts(technology, polarity, current / units)
    expected = units * gate_current(technology, polarity, volts)
    found = mirrored(technology, polarity, np.array([current]), units).item()
    assert found == pytest.approx(expected, rel=2e-4)


@settings(deadline=None)
@given(card=cards, polarity=polarities, current=st.floats(-11, -8).map(lambda x: 10**x))
def test_a_copy_is_a_mirror_into_a_diode_of_the_other_polarity(
    card: str, polarity: Polarity, current: float
) -> None:
    technology, other = CARDS[card], "n" if polarity == "p" else "p"
    native = gate_current(technology, polarity, diode_volts(technology, polarity, current))
    below = technology.gate_voltage(other, np.array(current)).item()  # type: ignore[arg-type]
    arrives = native * curve(technology, polarity, technology.supply - below)
    expected = gate_current(technology, other, diode_volts(technology, other, arrives))  # type: ignore[arg-type]
    found = copied(technology, polarity, np.array([current]), 1).item()
    assert found == pytest.approx(expected, rel=3e-4)


@settings(deadline=None)
@given(card=cards, polarity=polarities, plus=amperes, ratio=st.floats(-3, 3), units=st.integers(1, 32))
@example(card="hot", polarity="n", plus=10**-11.56, ratio=2.855, units=32)
def test_a_node_settles_where_its_currents_balance(
    card: str, polarity: Polarity, plus: float, ratio: float, units: int
) -> None:
    """What arrives within 0.03 %, the diode's within 0.03 % of sum+, 1 % of itself or 1 fA."""
    technology, other = CARDS[card], "n" if polarity == "p" else "p"
    supply, minus = technology.supply, plus * 10**ratio

    def arriving(volts: float) -> float:
        return plus * curve(technology, other, supply - volts)  # type: ignore[arg-type]

    def carried(volts: float) -> float:
        return units * gate_current(technology, polarity, volts) * curve(technology, polarity, volts)

    volts = brentq(
        lambda v: arriving(v) - minus * curve(technology, polarity, v) - carried(v), 0.0, supply, xtol=1e-13
    )
    given = technology, polarity, np.array([plus]), np.array([minus]), units
    assert arrive(*given).item() == pytest.approx(arriving(volts), rel=3e-4)
    assert settle(*given).item() == pytest.approx(carried(volts), rel=1e-2, abs=max(3e-4 * plus, 1e-15))


@pytest.mark.parametrize("polarity", ["n", "p"])
def test_a_node_without_currents_is_off(polarity: Polarity) -> None:
    nothing = np.zeros(3)
    given = GENERIC, polarity, nothing, np.array([0.0, 1e-9, 1e-15]), 4
    assert np.array_equal([settle(*given), arrive(*given)], [nothing, nothing])
    leak = GENERIC.leakage.of(polarity)
    assert 0 < mirrored(GENERIC, polarity, nothing, 1)[0] < 3 * leak


def test_what_is_not_a_number_stays_so() -> None:
    nan = np.array([np.nan, 1e-9])
    given = GENERIC, "n", nan, nan[::-1].copy(), 4
    assert np.isnan([settle(*given), arrive(*given)]).all()
    signed = np.array([np.nan, -np.nan])
    assert np.isnan([mirrored(GENERIC, "n", signed, 4), copied(GENERIC, "n", signed, 4)]).all()


def test_all_that_arrives_goes_into_the_diode_where_nothing_is_taken() -> None:
    plus = np.geomspace(1e-17, 1e-7, 201)
    value, arriving = (of(GENERIC, "p", plus, np.zeros_like(plus), 4) for of in (settle, arrive))
    np.testing.assert_allclose(value, arriving, rtol=3e-7)


def test_shapes_are_kept_and_broadcast() -> None:
    plus, minus = np.full((3, 1, 4), 2e-9), np.full((5, 4), 1e-9)
    value = settle(GENERIC, "p", plus, minus, 4)
    assert value.shape == arrive(GENERIC, "p", plus, minus, 4).shape == (3, 5, 4)
    assert np.ptp(value) == 0.0
    assert mirrored(GENERIC, "p", plus, 4).shape == plus.shape
