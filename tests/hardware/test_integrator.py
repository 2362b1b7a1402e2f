"""The integrator adds packets and stops at its rails in ngspice, and its model is that of the same chip."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmru_hw.config import packaged
from cmru_hw.errors import MappingError
from cmru_hw.primitives.clock import BankClock
from cmru_hw.primitives.device import Array
from cmru_hw.primitives.integrator import Integrator, integrator_geometry
from cmru_hw.primitives.mirror import Input
from cmru_hw.primitives.signal import Frame
from cmru_hw.spice.bench import run_benches
from cmru_hw.spice.integrator_bench import IntegratorBench, copying, copying_bench
from cmru_hw.technology import load_technology

GENERIC = load_technology("generic180")
PICO = 1e-12


def bench(moves: list[int] | None = None, packet: float = 75.0, **changes: Any) -> IntegratorBench:
    """With `moves`, one cell that takes packets of so many pA."""
    if moves is not None:
        asked = np.array(moves, dtype=float)[:, None]
        changes["rows"] = (asked, np.full(asked.shape, packet * PICO))
    return IntegratorBench(technology=GENERIC, **changes)


def integrator(**changes: Any) -> Integrator:
    given: dict[str, Any] = {
        "name": "integrator", "polarity": "p", "diode_units": 16, "copied": np.zeros(2, dtype=np.int64),
        "comparator": "window", "i_packet": np.array([50.0, 100.0]) * PICO,
        "rails": np.array([500.0, 600.0]) * PICO, "clock": "clock",
    }  # fmt: skip
    return Integrator(**(given | changes))


# --- in ngspice ------------------------------------------------------------------------------------------


def test_it_adds_equal_packets_and_holds() -> None:
    """From the reset on; steps up and down of 75 pA, in a range of 14 of them, are equal within 2 %."""
    made = bench([0, 1, 1, 0, -1, -1, -1, 1])
    run = made.run()
    np.testing.assert_array_equal(run.decisions, made.inputs[0])
    state = run.state[:, 0] / PICO
    assert abs(state[0]) < 3
    steps = np.diff(state)
    moves = made.inputs[0][1:, 0]
    np.testing.assert_allclose(steps[moves != 0] * moves[moves != 0], 75, rtol=0.02)
    assert abs(steps[2]) < 0.2
    assert run.error.max() < 1 * PICO
    row = made.memory
    drawn = row.supply_current(
        run.state[:-1],
        run.state[1:],
        made.inputs[0][1:],
        made.clock,
        made.supply,
        GENERIC,
        np.array([75e-12]),
    )
    measured = run.power["integrator"] + run.power["integrator_logic"] + run.power["output"]
    assert measured == pytest.approx(made.supply * drawn.mean(), rel=0.03)
    assert measured < 2.3e-9
    assert run.power["integrator_bias"] == pytest.approx(made.supply * row.bias_current, rel=0.01)


def test_it_stops_at_a_rail_and_leaves_it_at_once() -> None:
    """Packets of 200 pA against the upper rail at 525 pA: clipped within 6 pA, the next one down is whole."""
    run = bench([1, 1, 1, 1, 1, -1, -1], packet=200.0).run()
    state = run.state[:, 0] / PICO
    np.testing.assert_allclose(state[2:5], 526, atol=6)
    assert abs(state[4] - state[3]) < 0.2
    np.testing.assert_allclose(np.diff(state)[4:], -200, rtol=0.02)
    assert run.error.max() < 6 * PICO


@pytest.mark.slow
def test_two_tolerance_sets_agree_on_random_packets() -> None:
    made = bench(steps=60, seed=6)
    run = made.run_twice()
    np.testing.assert_array_equal(run.decisions, made.inputs[0])
    assert run.state.max() > 0.9 * made.rails
    assert run.state.min() < -0.9 * made.rails
    assert run.error.max() < 8 * PICO


@pytest.mark.slow
def test_the_model_of_ten_mismatched_chips() -> None:
    """All that mismatch changes, packets, read-out, rails and start, within 15 pA after 24 steps."""
    moves = [0, 1, 1, 1, -1, -1, -1, 1, 1, 1, 1, 1, 1, *[-1] * 10, 1, 1]
    sizes = np.repeat([100.0, 200.0], [7, 18])[:, None] * PICO
    rows = (np.array(moves, dtype=float)[:, None], sizes)
    chips = [bench(rows=rows).mismatched(100 + seed) for seed in range(10)]
    runs = run_benches(chips)
    ratios = []
    for run in runs:
        assert run.error.max() < 15 * PICO
        pair = []
        for state in (run.state[:, 0], run.expected[:, 0]):
            steps = np.diff(state)
            pair.append(-steps[:3].mean() / steps[3:6].mean())
        assert pair[0] == pytest.approx(pair[1], abs=0.01)
        ratios.append(pair[0])
    assert np.std(ratios) < 0.08


@pytest.mark.slow
@pytest.mark.parametrize(("temperature", "up", "down"), [(-20.0, 1.0, 1.0), (85.0, 1.01, 0.98)])
def test_it_integrates_cold_and_hot(temperature: float, up: float, down: float) -> None:
    moves = [0, 1, 1, 1, -1, -1, -1, -1, -1, 0, 1, 1]
    run = bench(moves, temperature=temperature).run()
    state = run.state[:, 0] / PICO
    assert abs(state[0]) < 5
    steps, asked = np.diff(state), np.array(moves[1:])
    np.testing.assert_allclose(steps[asked > 0], 75 * up, rtol=0.015)
    np.testing.assert_allclose(steps[asked < 0], -75 * down, rtol=0.015)
    assert abs(steps[asked == 0]) < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [27.0, 85.0])
def test_a_held_state_drifts_as_modelled(temperature: float) -> None:
    """Five seconds, from 300 pA above and below the middle."""
    moves = np.zeros((7, 2))
    moves[1] = 1, -1
    made = bench(rows=(moves, np.full((7, 2), 300 * PICO)), period=1.0, temperature=temperature)
    run = made.run()
    warm = GENERIC.model_copy(update={"temperature_celsius": temperature})
    kept = made.memory.kept(5.0, warm)
    np.testing.assert_allclose(run.state[6], kept * run.state[1], atol=2 * PICO)
    assert (0.95 if temperature > 80 else 0.9995) < kept < 1


@pytest.mark.slow
def test_constant_packets_of_several_cells_side_by_side() -> None:
    made = bench(cells=3, steps=12, seed=3, constant=True, largest=1e-10)
    run = made.run()
    np.testing.assert_array_equal(run.decisions, made.inputs[0])
    assert run.error.max() < 5 * PICO
    ideal = np.zeros(3)
    for move, state in zip(made.inputs[0], run.state, strict=True):
        ideal = made.memory.step(ideal, move)
        np.testing.assert_allclose(state, ideal, atol=12 * PICO)


@pytest.mark.slow
@pytest.mark.parametrize("packet", [10.0, 450.0, 1000.0])
def test_packets_from_a_hundredth_to_the_whole_range(packet: float) -> None:
    made = bench([0, 1, 1, -1, -1, -1, 1, 0, 1, -1], packet=packet)
    assert made.run().error.max() < 6 * PICO


@pytest.mark.slow
def test_the_card_holds_what_is_measured() -> None:
    known = integrator_geometry(GENERIC).copying[1]
    bench = copying_bench(GENERIC, known.middle)
    found = copying(bench, bench.run())
    assert found.up == pytest.approx(known.up, abs=5e-4)
    assert found.down == pytest.approx(known.down, abs=5e-4)
    np.testing.assert_allclose(found.error, known.error, atol=1e-4)
    np.testing.assert_allclose(
        [found.start, found.low, found.high], [known.start, known.low, known.high], atol=2e-3
    )


# --- behaviour -------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(-1, 1), st.floats(0, 400)), max_size=30))
def test_an_ideal_cell_is_a_clipped_sum(packets: list[tuple[int, float]]) -> None:
    row = integrator(amplitude_signal="a", i_packet=np.zeros(2))
    state, plain = row.start(), 0.0
    for move, size in packets:
        state = row.step(state, np.array([move, 0.0]), np.full(2, size * PICO))
        plain = max(-500.0, min(500.0, plain + move * size))
        np.testing.assert_allclose(state / PICO, [plain, 0.0], atol=1e-9)


def test_the_nominal_cell_is_nearly_ideal() -> None:
    """Each packet within 2 % of its size and 1.5 pA, whatever its sign, size and place."""
    row = integrator()
    currents = row.currents({}, {}, GENERIC)
    for start in np.linspace(-0.8, 0.8, 9):
        state = start * row.rails
        for move in (-1.0, 1.0):
            found = row.move(state, np.full(2, move), currents)
            np.testing.assert_allclose((found - state) * move, row.i_packet, atol=1.5 * PICO, rtol=0.02)
        np.testing.assert_allclose(row.move(state, np.zeros(2), currents), state, atol=1e-18)


def test_a_rail_stops_and_lets_go() -> None:
    row = integrator()
    currents = row.currents({}, {}, GENERIC)
    for sign in (1.0, -1.0):
        state = row.start()
        for _ in range(30):
            state = row.move(state, np.full(2, sign), currents)
        np.testing.assert_allclose(state, sign * row.rails, rtol=0.02)
        left = row.move(state, np.full(2, -sign), currents)
        np.testing.assert_allclose((state - left) * sign, row.i_packet, rtol=0.03)


def test_mismatch_of_each_chip_moves_what_it_should() -> None:
    row = integrator()
    shifts = {f"integrator.{name}": np.zeros((5, 2)) for name in row.devices(GENERIC)}
    shifts["integrator.packet_pull"][1] = 5e-3
    shifts["integrator.packet_push"][2] = 5e-3
    shifts["integrator.memory_output"][3] = 5e-3
    shifts["integrator.reference"][4] = 5e-3
    for immune in ("memory_held", "memory_copy_switch", "memory_track_switch", "packet_up_switch"):
        shifts[f"integrator.{immune}"][:] = 5e-3
    currents = row.currents({}, shifts, GENERIC)
    weaker = 0.87  # of a transistor whose threshold is 5 mV higher
    for key, chip in (("up", 1), ("down", 2), ("read", 3)):
        ratio = currents[key][:, 0] / currents[key][0, 0]
        assert ratio[chip] == pytest.approx(weaker, abs=0.02)
        np.testing.assert_allclose(np.delete(ratio, chip), 1.0)
    for key in ("start", "low", "high"):
        assert currents[key][4, 0] / currents[key][0, 0] == pytest.approx(1 / weaker, abs=0.02)
    state = row.move(np.zeros((5, 3, 2)), np.ones((3, 2)), currents)
    assert state.shape == (5, 3, 2)
    assert (state[1] < state[0]).all()
    np.testing.assert_allclose(row.woken(currents)[0], row.start(), atol=3 * PICO)


def test_up_and_down_differ_by_five_per_cent() -> None:
    made = bench(cells=2000, rows=(np.zeros((1, 2000)), np.full((1, 2000), 1e-10)))
    currents = made.memory.currents(made.signals, made.draw(1), GENERIC)
    assert np.std(currents["up"] / currents["down"]) == pytest.approx(0.05, abs=0.01)


def test_amplitudes_come_through_their_row_s_diodes() -> None:
    row = integrator(amplitude_signal="a", i_packet=np.zeros(2))
    wide = Input(name="a", polarity="p", diode_units=8, copied=np.zeros(2, dtype=np.int64))
    gain = row.currents({"a": wide}, {}, GENERIC)["down"]
    np.testing.assert_allclose(gain, 0.5, rtol=0.01)
    assert row.taken() == [("window", 2), ("a", 2)]


def test_a_frame_moves_the_state_and_draws_current() -> None:
    row = integrator(amplitude_signal="a", i_packet=np.zeros(2))
    amplitude = Input(name="a", polarity="p", diode_units=4, copied=np.zeros(2, dtype=np.int64))
    frame = Frame(
        technology=GENERIC,
        clocks={"clock": BankClock.for_layer(10e-3)},
        before={"integrator": np.zeros((3, 2))},
        values={"a": np.full((3, 2), 100 * PICO)},
        states={"window": np.array([[1.0, 1.0], [0.0, 0.0], [-1.0, -1.0]])},
    )
    row.advance(frame, row.currents({"a": amplitude}, {}, GENERIC))
    np.testing.assert_allclose(frame.states["integrator"][:, 0] / PICO, [100, 0, -100], atol=2)
    np.testing.assert_allclose(frame.values["integrator"], frame.states["integrator"] + row.i_middle)
    drawn = frame.drawn["integrator"]
    assert drawn.shape == (3,)
    assert drawn[0] > drawn[1] > 3 * row.i_middle.sum()


# --- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"polarity": "n"}, "integrator: an integrator's output is a pMOS diode"),
        ({"rails": np.array([1e-10, 0.0])}, "integrator: unit 1: rails must be > 0, got 0 A"),
        ({"i_packet": np.array([0.0, 1e-10])}, "integrator: unit 0: packet must be > 0, got 0 A"),
        (
            {"amplitude_signal": "a"},
            "integrator: unit 0: packet must be 0, as a sets it, got 5e-11 A",
        ),
        (
            {"i_packet": np.array([1e-10, 2e-9])},
            "integrator: unit 1: a packet of 2e-09 A does not fit between rails 1.2e-09 A apart",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MappingError, match=re.escape(message)):
        integrator(**changes)


def test_rails_and_supplies_that_were_not_measured_are_refused() -> None:
    integrator().check_measured(GENERIC)
    with pytest.raises(
        MappingError, match=r"integrator: unit 1: rails must be within 3.75e-10 and 1.05e-09 A"
    ):
        integrator(rails=np.array([5e-10, 1.1e-9])).check_measured(GENERIC)
    with pytest.raises(MappingError, match=r"integrator: measured at 0.8 V, but the supply is 1 V"):
        integrator().check_measured(GENERIC.model_copy(update={"supply": 1.0}))


def test_a_strobe_too_short_for_a_copy_is_refused() -> None:
    row = integrator(rails=np.array([7e-10, 5e-10]))
    row.check_clock(BankClock.for_layer(10e-3, 0, 2), GENERIC)
    with pytest.raises(
        MappingError, match=r"unit 1: with rails of 5e-10 A a copy outlasts the strobe of 0.00095 s"
    ):
        row.check_clock(BankClock.for_layer(5e-3), GENERIC)
    np.testing.assert_allclose(row.wakes_in(GENERIC), [1.34e-3, 1.88e-3], rtol=0.01)


def test_an_integrator_needs_a_comparator_and_pmos_amplitudes() -> None:
    made = bench([1, 1])
    signals = made.signals
    row = replace(made.memory, comparator="positive")
    with pytest.raises(MappingError, match="integrator: positive is not a comparator"):
        row.subcircuit(signals, {}, GENERIC)
    mirrored = signals | {"amplitude": replace(made.stages[2], polarity="n")}
    with pytest.raises(MappingError, match="integrator: amplitude is not a row of pMOS diodes"):
        made.memory.subcircuit(mirrored, {}, GENERIC)


# --- netlist ---------------------------------------------------------------------------------------------


def test_every_transistor_has_its_own_shift_and_its_drawn_size() -> None:
    made = bench(cells=2, steps=1, constant=True)
    row = made.memory
    devices = row.devices(GENERIC)
    number = iter(range(1, 10_000))
    shifts = {
        f"{stage.name}.{part}": np.array([next(number) * 1e-6 for _ in range(array.units.size)]).reshape(
            array.units.shape
        )
        for stage in made.stages
        for part, array in stage.devices(GENERIC).items()
    }
    text = str(replace(made, shifts=shifts).circuit())
    drawn = re.findall(r"(?:dvt|D\d+)=(\S+)", text)
    assert len(set(drawn)) == len(drawn)
    ours = [
        float(value)
        for part, array in devices.items()
        for value, units in zip(shifts[f"integrator.{part}"].ravel(), array.units.ravel(), strict=True)
        if units
    ]
    assert set(ours) <= {float(value) for value in drawn}
    counted = sum(int((array.units > 0).sum()) for array in devices.values())
    assert counted == 2 * (54 + 3)  # a cell, two references and the output diode


def test_subcircuits_are_those_of_devices() -> None:
    text = packaged("circuits", "integrator.sub").read_text("utf-8")
    parts, geometry = integrator().devices(GENERIC), integrator_geometry(GENERIC)
    sizes = {
        "{W}": GENERIC.unit, "{W1}": geometry.memory_n, "{W2}": geometry.memory_p,
        "{WS}": geometry.switch, "{WU}": GENERIC.switch,
    }  # fmt: skip
    for cell in ("phases", "memory", "packet", "rails"):
        body = re.search(rf"\.subckt integrator_{cell} .*?\.ends", text, re.DOTALL)
        assert body is not None
        lines = re.findall(
            r"^X(\d+)\s.* (\w)fet W=(\S+)\s+L=\S+\s+M=(\S+)\s+dvt=\{D(\d+)\}", body[0], re.MULTILINE
        )
        names = [name for name in parts if name.startswith(f"{cell}_")]
        assert [int(line[0]) for line in lines] == list(range(1, len(names) + 1))
        for (at, polarity, width, units, shift), name in zip(lines, names, strict=True):
            assert at == shift
            array = parts[name]
            assert array.polarity == polarity
            drawn = integrator_geometry(GENERIC).logic if cell == "phases" else sizes[width]
            if cell == "packet" and width == "{WS}":
                drawn = integrator_geometry(GENERIC).way
            assert array.geometry == drawn
            assert (array.units == 1).all() == (units == "1")


def test_devices_by_size() -> None:
    devices = integrator().devices(GENERIC)
    assert devices["packet_push"].units.tolist() == [4, 4]
    assert devices["rails_high"].units.tolist() == [14, 14]
    assert devices["memory_middle"].units.tolist() == [8, 8]
    assert devices["rails_low"].units.tolist() == [2, 2]
    assert "packet" not in integrator(amplitude_signal="a", i_packet=np.zeros(2)).devices(GENERIC)
    row = integrator()
    assert row.bias_current == pytest.approx((500 + 600) / 3 * PICO + 150 * PICO)
    assert row.stored(1) == "integrator_1_state"
    assert row.clock_nets() == ["clock_p1", "clock_rst"]
    read: Array = row.read_state(row.output(np.array([1e-10, -2e-10])), 0.8)
    np.testing.assert_allclose(read, [1e-10, -2e-10])
