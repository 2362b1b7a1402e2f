"""The latch bank: it counts the clipped sum in ngspice, wakes at any level, and is drawn whole."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmru_hw.errors import MappingError
from cmru_hw.primitives.clock import BankClock
from cmru_hw.primitives.device import Array
from cmru_hw.primitives.latch_bank import LatchBank, bank_geometry
from cmru_hw.spice.bank_bench import BankBench, BankRun
from cmru_hw.spice.bench import run_benches
from cmru_hw.spice.job import QUICK
from cmru_hw.technology import load_technology

GENERIC = load_technology("generic180")
NANO = 1e-9


def bench(supply: float = 0.8, **changes: Any) -> BankBench:
    return BankBench(technology=GENERIC.model_copy(update={"supply": supply}), **changes)


def bank(**changes: Any) -> LatchBank:
    given: dict[str, Any] = {
        "name": "bank", "polarity": "p", "diode_units": 16, "copied": np.zeros(2, dtype=np.int64),
        "comparator": "window", "levels": 2, "i_alpha": np.array([0.1, 0.2]) * NANO,
        "initial_state": np.array([0, -2]), "clock": "clock",
    }  # fmt: skip
    return LatchBank(**(given | changes))


def following(moves: list[int]) -> tuple[Array, Array]:
    """P and M (A) that ask for these moves of a bench with beta 0.3 nA, [steps, 1]."""
    asked = np.array(moves, dtype=float)[:, None]
    return np.where(asked > 0, 0.6, 0.15) * NANO, np.where(asked < 0, 0.6, 0.15) * NANO


# --- in ngspice ------------------------------------------------------------------------------------------

END_TO_END = [1, 1, 0, 1, -1, -1, 0, -1, -1, -1, 1, 0]
"""Reaches and pushes against both ends of K = 1 and 2."""


@pytest.mark.parametrize(
    "made",
    [
        bench(levels=1, initial=0, rows=following(END_TO_END), period=10e-3),
        bench(levels=2, initial=0, rows=following(END_TO_END)),
        bench(levels=4, initial=2, rows=following([1, 1, 1, -1, 0, -1, -1, -1])),
        bench(levels=1, single=True, steps=40, period=10e-3),
    ],
    ids=["K1", "K2", "K4", "single"],
)
def test_it_counts_the_clipped_sum(made: BankBench) -> None:
    run = made.run()
    assert run.errors.tolist() == [0]
    np.testing.assert_array_equal(run.state, made.expected())
    assert len(np.unique(run.state)) > made.levels
    check_output(made, run)


def check_output(made: BankBench, run: BankRun) -> None:
    """The output current is the model's, where it has had a frame to settle at a high level."""
    row = made.memory
    modelled = row.output(run.state, row.currents(made.signals, made.shifts, made.technology))
    rising = np.vstack([np.ones_like(run.state[:1]), np.diff(run.state, axis=0)]) >= 0
    high = rising & (modelled > 0.15 * NANO)
    np.testing.assert_allclose(run.output[high], modelled[high], rtol=0.01)
    assert (run.output[modelled == 0] < 0.03 * NANO).all()


def test_power_up_reset_reaches_any_level() -> None:
    """Latches wake at random; five banks side by side that are then held."""
    levels = np.arange(-2, 3)
    still = np.full((1, 5), 0.15 * NANO)
    run = bench(levels=2, cells=5, initial=levels, rows=(still, still)).run()
    np.testing.assert_array_equal(run.state, [levels])
    assert run.errors.sum() == 0


def test_no_pair_is_held_at_its_metastable_point() -> None:
    """Long time steps would do that, silently: the clock must put breakpoints where a pair regenerates."""
    rows = following(END_TO_END)
    made = bench(
        levels=1,
        single=True,
        initial=1,
        rows=rows,
        supply=0.6,
        temperature=-20.0,
        period=10e-3,
        tolerances=QUICK,
    )
    assert made.run().errors.tolist() == [0]


def test_supply_current_is_the_model_s() -> None:
    """Moves, holds and pushes against the end, over 1 ms frames, where charging counts most."""
    rows = following([0, 1, -1, 0, -1, 1, 1, 1])
    made = bench(levels=2, initial=2, rows=rows, power_up=False)
    run = made.run()
    row, comparator = made.memory, made.comparator
    states, moves = run.state, made.inputs[2]
    output = row.output(states, row.currents(made.signals, {}, GENERIC))
    drawn = row.supply_current(
        states[:-1], states[1:], moves[1:], output[1:], made.period, made.supply, GENERIC
    )
    measured = run.power["bank"] + run.power["bank_logic"]
    charged = drawn - output[1:].sum(axis=-1)
    assert measured == pytest.approx(made.supply * charged.mean(), rel=0.2)
    assert run.power["output"] == pytest.approx(made.supply * output[1:].mean(), rel=0.03)
    clock = sum(part.clock_current(made.period, made.supply, GENERIC) for part in (row, comparator))
    assert run.power["pe"] + run.power["ph"] + run.power["p1"] == pytest.approx(made.supply * clock, rel=0.1)
    assert run.power["bank_bias"] == pytest.approx(made.supply * row.bias_current, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("period", [1e-3, 10e-3])
@pytest.mark.parametrize("supply", [0.6, 0.8])
@pytest.mark.parametrize("levels", [1, 2, 4, 8])
def test_two_tolerance_sets_count_alike(levels: int, supply: float, period: float) -> None:
    run = bench(levels=levels, supply=supply, period=period, steps=60, initial=0, seed=1).run_twice()
    assert run.errors.tolist() == [0]


@pytest.mark.slow
@pytest.mark.parametrize(("temperature", "supply"), [(-20.0, 0.8), (85.0, 0.8), (85.0, 0.6)])
def test_it_counts_cold_and_hot(temperature: float, supply: float) -> None:
    run = bench(levels=4, supply=supply, temperature=temperature, steps=40, seed=3, initial=0).run()
    assert run.errors.tolist() == [0]


@pytest.mark.slow
def test_a_thousand_steps() -> None:
    run = bench(levels=4, steps=1000, seed=2).run()
    assert run.errors.tolist() == [0]
    assert set(run.state.ravel()) == set(range(-4, 5))


@pytest.mark.slow
def test_two_hundred_mismatched_chips() -> None:
    """At least 95 % of the chips count without an error; inputs keep half of beta from the threshold.

    A deck a chip: side by side, each chip's edges would cut every other chip's time steps.
    """
    chips = [bench(levels=4, steps=16, seed=seed, margin=0.15 * NANO).mismatched(seed) for seed in range(200)]
    wrong = np.concatenate([run.errors for run in run_benches(chips)])
    assert len(wrong) == 200
    assert (wrong == 0).mean() >= 0.95


@pytest.mark.slow
def test_a_state_is_held_for_ten_seconds_at_85_degrees() -> None:
    still = np.full((4, 5), 0.15 * NANO)
    levels = np.arange(-2, 3)
    run = bench(levels=2, cells=5, initial=levels, rows=(still, still), period=2.5, temperature=85.0).run()
    np.testing.assert_array_equal(run.state, np.tile(levels, (4, 1)))
    assert run.errors.sum() == 0


# --- behaviour -------------------------------------------------------------------------------------------


@given(st.integers(1, 8), st.lists(st.integers(-1, 1), max_size=30), st.integers(-8, 8))
def test_states_are_clipped_sums(levels: int, moves: list[int], start: int) -> None:
    start = max(-levels, min(levels, start))
    row = bank(levels=levels, initial_state=np.array([start, 0]))
    state, plain = row.initial_state.astype(float), start
    for move in moves:
        state = row.step(state, np.array([move, 0.0]))
        plain = max(-levels, min(levels, plain + move))
        assert state.tolist() == [plain, 0]
    np.testing.assert_array_equal(row.state(row.is_set(state)), state)


def test_a_single_latch_keeps_the_last_sign() -> None:
    row = bank(levels=1, holds="sign", initial_state=np.array([-1, 1]))
    state = row.initial_state.astype(float)
    history = []
    for move in ([0, 0], [1, -1], [0, 0], [1, 1], [-1, 0]):
        state = row.step(state, np.array(move))
        history.append(state.tolist())
    assert history == [[-1, 1], [1, -1], [1, -1], [1, 1], [-1, 1]]
    np.testing.assert_array_equal(row.state(row.is_set(state)), state)
    output = row.output(np.array([[-1.0, 1.0]]), row.currents({}, {}, GENERIC))
    np.testing.assert_allclose(output, [[0.0, 0.4 * NANO]], rtol=0.02)


def test_states_that_a_bank_cannot_have_put_out_no_other_current() -> None:
    """The nearest state's, and nothing that is a number for what is not one."""
    row = bank()
    currents = row.currents({}, {}, GENERIC)
    beyond = np.array([[1e4, -1e4], [row.levels + 1, -row.levels - 1], [np.nan, np.nan]])
    found = row.output(beyond, currents)
    np.testing.assert_array_equal(found[:2], row.output(np.tile([row.levels, -row.levels], (2, 1)), currents))
    assert np.isnan(found[2]).all()


def test_output_steps_follow_each_mirror_of_each_chip() -> None:
    row = bank()
    shapes = {name: array.units.shape for name, array in row.devices(GENERIC).items()}
    shifts = {f"bank.{name}": np.zeros((3, *shape)) for name, shape in shapes.items()}
    nominal = row.currents({}, {}, GENERIC)["outputs"]
    shifts["bank.alpha"][1, 0, 2] = 5e-3  # a weak third step
    shifts["bank.reference_alpha"][2, 1] = 5e-3  # a weak reference: all steps of that bank larger
    outputs = row.currents({}, shifts, GENERIC)["outputs"]
    np.testing.assert_allclose(outputs[0], nominal)
    np.testing.assert_allclose(outputs[1, 0, :3], nominal[0, :3])
    assert (outputs[1, 0, 3:] < nominal[0, 3:]).all()
    assert (outputs[2, 1, 1:] > nominal[1, 1:]).all()
    states = np.array([[[-2.0, 2.0], [1.0, 0.0]]] * 3)  # [chips, batch, size]
    found = row.output(states, {"outputs": outputs})
    np.testing.assert_allclose(found[1], [[0.0, nominal[1, 4]], [outputs[1, 0, 3], nominal[1, 2]]])
    np.testing.assert_allclose(row.output(states[0], {"outputs": nominal})[1, 1], nominal[1, 2])


def test_behavioural_states_are_those_of_ngspice_under_mismatch() -> None:
    """Decisions by the comparator model of each chip, and output steps by its mirrors."""
    made = bench(levels=1, single=True, cells=4, steps=10, seed=4, period=4e-3, margin=0.1 * NANO)
    made = made.mismatched(8)
    comparator, row = made.comparator, made.memory
    decided = comparator.currents(made.signals, made.shifts, GENERIC)
    outputs = row.currents(made.signals, made.shifts, made.technology)
    state = row.initial_state.astype(float)
    states, currents = [], []
    for positive, negative in zip(made.inputs[0], made.inputs[1], strict=True):
        state = row.step(state, comparator.step(positive[None], negative[None], decided)[0])
        states.append(state)
        currents.append(row.output(state[None], outputs)[0])
    run = made.run()
    np.testing.assert_array_equal(run.state, states)
    high = np.stack(states) > 0
    np.testing.assert_allclose(run.output[high], np.stack(currents)[high], rtol=0.02)


# --- netlist ---------------------------------------------------------------------------------------------

Transistor = tuple[str, float]  # polarity and threshold shift


def flattened(made: BankBench) -> list[Transistor]:
    """Every transistor of a bench's netlist, by expanding its subcircuits as text; parallel ones once."""
    files = "\n".join(str(text) for text in made.job().files.values())
    definitions: dict[str, tuple[dict[str, str], list[list[str]]]] = {}
    top: list[list[str]] = []
    inside: str | None = None
    text = re.sub(r"\n\+", " ", files + "\n" + str(made.circuit()))
    for line in text.lower().splitlines():
        words = line.split()
        if line.startswith(".subckt"):
            inside = words[1]
            definitions[inside] = (dict(word.split("=") for word in words[2:] if "=" in word), [])
        elif line.startswith(".ends"):
            inside = None
        elif line.startswith("x"):
            (definitions[inside][1] if inside else top).append(words)

    def expand(instances: list[list[str]], given: dict[str, str]) -> Iterator[Transistor]:
        for words in instances:
            plain = [word for word in words if "=" not in word]
            values = dict(word.split("=") for word in words if "=" in word)
            values = {key: given.get(value.strip("{}"), value) for key, value in values.items()}
            if plain[-1] in ("nfet", "pfet"):
                yield plain[-1][0], float(values.get("dvt", "0"))
            else:
                defaults, inner = definitions[plain[-1]]
                yield from expand(inner, defaults | values)

    return list(expand(top, {}))


@pytest.mark.parametrize(
    ("levels", "single", "of_a_cell"), [(1, False, 88), (2, False, 122), (4, False, 190), (1, True, 27)]
)
def test_devices_are_the_transistors_of_the_netlist(levels: int, single: bool, of_a_cell: int) -> None:
    """Each transistor gets a shift of its own, and the netlist holds just these, at the right polarity."""
    made = bench(levels=levels, single=single, cells=2, initial=1)
    devices = made.devices()
    number = iter(range(1, 10_000))
    shifts = {
        name: np.array([next(number) * 1e-6 for _ in range(array.units.size)]).reshape(array.units.shape)
        * (array.units > 0)
        for name, array in devices.items()
    }
    wanted = Counter(
        (array.polarity, float(shift))
        for name, array in devices.items()
        for shift, units in zip(shifts[name].ravel(), array.units.ravel(), strict=True)
        if units
    )
    assert Counter(flattened(replace(made, shifts=shifts))) == wanted
    assert max(wanted.values()) == 1
    plain = flattened(made)
    assert len(plain) == sum(wanted.values())
    # P, M and beta diodes, the I_alpha reference and the output diode come on top, for two cells.
    assert len(plain) == 2 * (of_a_cell + 5)


def test_units_in_parallel_are_those_of_devices() -> None:
    netlist = str(bench(levels=2).circuit())
    devices = bench(levels=2).memory.devices(GENERIC)
    assert devices["alpha"].units.tolist() == [[2] * 4]
    assert re.search(r"output_step .*U=2", netlist)
    assert devices["diode"].units.tolist() == [16]
    assert bench(single=True, levels=1).memory.devices(GENERIC)["alpha"].units.tolist() == [[4]]
    assert devices["set_reset_4"].geometry == bank_geometry(GENERIC).logic
    assert devices["set_reset_4"].polarity == "p"


# --- clock -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_layers_are_strobed_one_after_another(layers: int) -> None:
    """Each decides the same time after the one before has moved, and the last leaves as much to the end."""
    clocks = [BankClock.for_layer(10e-3, layer, layers) for layer in range(layers)]
    gaps = [clocks[0].decides]
    gaps += [after.decides - before.strobes for before, after in pairwise(clocks)]
    gaps += [1 - clocks[-1].strobes]
    np.testing.assert_allclose(gaps, gaps[0])
    assert gaps[0] > 0.1
    for clock in clocks:
        assert clock.decides * clock.frame_period + clock.fall + clock.evaluation == pytest.approx(
            clock.strobes * clock.frame_period
        )


def test_waveforms_keep_their_order_in_frames_of_any_length() -> None:
    clock = BankClock.for_layer(2e-3, 1, 2)
    starts = np.array([0.0, 2e-3, 5e-3, 7e-3])
    points = {phase: clock.waveform(phase, starts, 0.8) for phase in ("pe", "ph", "p1", "rst")}
    for wave in points.values():
        assert (np.diff(wave[:, 0]) > 0).all()
        assert wave[:, 1].min() == 0.0
        assert wave[:, 1].max() == 0.8
        assert wave[-1, 0] < starts[-1]
    times = np.linspace(0, 7e-3, 70_001)
    pe, ph, p1, rst = (np.interp(times, *points[phase].T) for phase in ("pe", "ph", "p1", "rst"))
    assert not ((pe > 0) & (p1 > 0)).any()
    assert (ph[p1 > 0] == 0.8).all()
    assert not ((rst > 0) & ((p1 > 0) | (pe > 0))).any()
    assert all((p1[(times > a) & (times < b)] > 0).any() for a, b in pairwise(starts))


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: BankClock.for_layer(0.9e-3), "a decision and a strobe take 0.0006 s"),
        (lambda: BankClock.for_layer(1e-3, 0, 2), "leaves 0.000386 s"),
        (lambda: BankClock.for_layer(1e-2, 2, 2), "layer must be within 0 and 1"),
        (lambda: BankClock(frame_period=1e-2, offset=0.5, span=0.6), "within the frame"),
        (
            lambda: BankClock.for_layer(1e-2).waveform("pe", np.array([0.0, 1e-2, 1.5e-2]), 0.8),
            "made for frames of 0.01 s or more, got one of 0.005 s",
        ),
        (lambda: bank(levels=0), "bank: levels must be >= 1, got 0"),
        (lambda: bank(holds="sign"), "a sign has levels = 1"),
        (lambda: bank(initial_state=np.array([0, 3])), "unit 1: .* one of -2, -1, 0, 1, 2"),
        (lambda: bank(levels=1, holds="sign", initial_state=np.array([1, 0])), "unit 1: .* one of -1, 1"),
        (lambda: bank(i_alpha=np.array([0.0, 1e-9])), "unit 0: I_alpha must be > 0"),
        (lambda: bank().devices(GENERIC.model_copy(update={"cells": {}})), "generic180: has no latch bank"),
        (
            lambda: bench(beta=0.05 * NANO, margin=0.0).comparator.check_clock(
                BankClock.for_layer(1e-3), GENERIC
            ),
            "comparator: unit 0: a threshold of 5e-11 A takes",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_refused(make: Any, complaint: str) -> None:
    with pytest.raises(MappingError, match=complaint):
        make()
