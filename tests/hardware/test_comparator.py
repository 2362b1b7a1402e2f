"""The clocked window comparator: where it trips in ngspice, under mismatch, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cmru_hw.errors import MappingError
from cmru_hw.primitives.comparator import WindowComparator, comparator_geometry
from cmru_hw.primitives.device import Array
from cmru_hw.primitives.mirror import Input
from cmru_hw.spice.bank_bench import BankBench, BankRun
from cmru_hw.technology import load_technology

GENERIC = load_technology("generic180")
NANO = 1e-9
NONE = np.zeros(2, dtype=np.int64)


def comparator(**changes: Any) -> WindowComparator:
    given: dict[str, Any] = {
        "name": "window", "polarity": "p", "diode_units": 2, "copied": NONE, "positive": "plus",
        "negative": "minus", "i_threshold": np.array([0.3, 0.5]) * NANO, "clock": "clock",
    }  # fmt: skip
    return WindowComparator(**(given | changes))


def rows() -> dict[str, Any]:
    return {
        name: Input(name=name, polarity="p", diode_units=units, copied=NONE)
        for name, units in (("plus", 2), ("minus", 2), ("beta", 4))
    }


def bench(positive: Array, negative: Array, beta: float, **changes: Any) -> BankBench:
    """Single latches on [steps, cells] currents, started from an operating point."""
    return BankBench(
        technology=GENERIC, levels=1, single=True, initial=-1, cells=positive.shape[1], beta=beta,
        rows=(positive, negative), power_up=False, **changes,
    )  # fmt: skip


def trips(run: BankRun, swept: Array) -> Array:
    """First swept current at which each cell decides, [cells]; every cell must decide once and for all."""
    decided = np.abs(run.decisions) > 0
    assert np.array_equal(decided, np.logical_or.accumulate(decided))
    assert decided[-1].all()
    assert not decided[0].any()
    return swept[np.argmax(decided, axis=0), np.arange(swept.shape[1])]


@pytest.mark.parametrize(
    ("beta", "low", "up", "period"),
    [(0.1, 0.1, True, 10e-3), (0.3, 0.02, False, 1e-3), (0.3, 0.5, True, 1e-3), (1.0, 0.3, True, 1e-3)],
)
def test_it_trips_at_beta(beta: float, low: float, up: bool, period: float) -> None:
    """Cells 1 % apart around low + beta, in nA: those above it decide, those below do not."""
    edge = (low + beta) * NANO * np.array([0.97, 0.98, 0.99, 1.0, 1.01, 1.02, 1.03])
    high, low_row = np.tile(edge, (2, 1)), np.full((2, len(edge)), low * NANO)
    positive, negative = (high, low_row) if up else (low_row, high)
    run = bench(positive, negative, beta * NANO, period=period).run()
    sign = 1.0 if up else -1.0
    np.testing.assert_array_equal(run.decisions[-1, [0, 1, 5, 6]], [0, 0, sign, sign])
    np.testing.assert_array_equal(np.diff(sign * run.decisions[-1]) >= 0, True)


@pytest.mark.slow
def test_mismatched_comparators_trip_where_their_shifts_say() -> None:
    """A ramp of P in steps of 1.5 % on chips of twice the usual mismatch."""
    chips, low = 6, 0.1 * NANO
    ramp = 0.4 * NANO * np.geomspace(0.6, 1.6, 66)
    positive = np.repeat(ramp[:, None], chips, axis=1)
    made = bench(positive, np.full_like(positive, low), 0.3 * NANO).mismatched(3, scale=2.0)
    currents = made.comparator.currents(made.signals, made.shifts, GENERIC)
    win, lose, threshold = (currents[key][:, 0] for key in ("win", "lose", "threshold"))
    expected = (lose * low + threshold) / win
    assert np.ptp(expected) > 0.15 * 0.4 * NANO
    np.testing.assert_allclose(trips(made.run(), positive), expected, rtol=0.03)


def test_decisions_follow_the_equation() -> None:
    signals = rows()
    currents = comparator().currents(signals, {}, GENERIC)
    positive = np.array([[0.5, 0.5], [0.1, 0.9], [0.5, 0.9], [0.25, 0.1]]) * NANO
    negative = np.array([[0.1, 0.1], [0.5, 0.1], [0.3, 0.5], [0.5, 0.9]]) * NANO
    decided = comparator().step(positive, negative, currents)
    np.testing.assert_array_equal(decided, [[1, 0], [-1, 1], [0, 0], [0, -1]])


def test_a_threshold_may_come_from_a_row_of_currents() -> None:
    signals = rows()
    window = comparator(i_threshold=np.zeros(2), threshold_signal="beta")
    assert window.bias_current == 0
    assert "diode" not in window.devices(GENERIC)
    currents = window.currents(signals, {}, GENERIC)
    positive, negative = np.array([[0.5, 0.5]]) * NANO, np.array([[0.1, 0.1]]) * NANO
    beta = np.array([[0.7, 0.9]]) * NANO  # in diodes of four transistors: half of it arrives
    np.testing.assert_array_equal(window.step(positive, negative, currents, beta), [[1, 0]])
    netlist = str(window.subcircuit(signals, {}, GENERIC))
    assert "plus_1 minus_1 beta_1 clock_pe window_1_up vdd current_comparator" in netlist
    assert "Ithreshold" not in netlist


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"i_threshold": np.array([0.3e-9, 0.0])}, "window: unit 1: beta must be > 0"),
        ({"i_threshold": np.array([np.nan, 1e-9])}, "window: unit 0: beta must be > 0"),
        ({"threshold_signal": "beta"}, "window: unit 0: beta must be 0, as beta sets it"),
        ({"polarity": "n"}, "pMOS"),
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(MappingError, match=complaint):
        comparator(**changes)


def test_a_technology_without_comparator_is_refused() -> None:
    other = GENERIC.model_copy(update={"cells": {}})
    with pytest.raises(MappingError, match="generic180: has no window comparator"):
        comparator().devices(other)


def test_twelve_transistors_a_cell() -> None:
    parts = comparator().devices(GENERIC)
    drawn = sum(array.units.astype(bool).sum() for name, array in parts.items() if name != "diode")
    assert drawn == 12 * 2
    assert parts["pair_out"].geometry == comparator_geometry(GENERIC).pair


@pytest.mark.parametrize("part", ["win", "lose", "threshold", "pair_out", "pair_rest", "diode"])
def test_each_shift_moves_the_threshold_the_right_way(part: str) -> None:
    """A weaker winner or a stronger loser, threshold or own pair transistor asks for more current."""
    window, signals = comparator(), rows()
    sizes = {f"window.{name}": array.units.shape for name, array in window.devices(GENERIC).items()}
    sizes |= {f"{name}.diode": (2,) for name in signals}
    shifts = {name: np.zeros(shape) for name, shape in sizes.items()}

    def trip(given: dict[str, Array]) -> Array:
        currents = window.currents(signals, given, GENERIC)
        low = 0.2 * NANO
        return (currents["lose"][:, 0] * low + currents["threshold"][:, 0]) / currents["win"][:, 0]

    weaker = shifts | {f"window.{part}": np.full(sizes[f"window.{part}"], 2e-3)}
    rises = part in ("win", "pair_rest", "diode")
    assert ((trip(weaker) > trip(shifts)) == rises).all()
    chips = {name: np.stack([array, weaker[name]]) for name, array in shifts.items()}
    np.testing.assert_allclose(trip_of_chips(window, signals, chips), [trip(shifts), trip(weaker)])


def trip_of_chips(window: WindowComparator, signals: dict[str, Any], chips: dict[str, Array]) -> Array:
    currents = window.currents(signals, chips, GENERIC)
    return (currents["lose"][..., 0] * 0.2 * NANO + currents["threshold"][..., 0]) / currents["win"][..., 0]


def test_behavioural_decisions_are_those_of_ngspice() -> None:
    """Random currents, some within 5 % of a threshold; currents and supply of the model against SPICE."""
    random = np.random.default_rng(5)
    positive, negative = random.uniform(0.02, 0.8, (2, 12, 5)) * NANO
    made = bench(positive, negative, 0.3 * NANO, period=2e-3)
    run = made.run()
    window = made.comparator
    currents = window.currents(made.signals, {}, GENERIC)
    decided = window.step(positive, negative, currents)
    clear = np.abs(np.abs(positive - negative) - 0.3 * NANO) > 0.01 * NANO
    np.testing.assert_array_equal(run.decisions[clear], decided[clear])
    assert {-1, 0, 1} == set(run.decisions.ravel())
    supply = window.supply_current(
        decided[:-1], decided[1:], positive[1:], negative[1:], window.i_threshold, made.clock, made.supply,
        GENERIC,
    )  # fmt: skip
    modelled = made.supply * supply.mean() / made.cells
    assert run.power["comparator"] == pytest.approx(modelled, rel=0.05)
