"""The fast model: chips that are themselves whoever else is drawn, and power that adds up by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hardware_networks import random_input, random_network

from cmru_hw.analysis.power import power
from cmru_hw.behavioral import BehavioralModel
from cmru_hw.design import Design, Facts
from cmru_hw.errors import ConfigError
from cmru_hw.mapping import map_network
from cmru_hw.primitives.latch import Latch
from cmru_hw.primitives.mirror import Input, Mirror, Term
from cmru_hw.spice.simulate import simulate
from cmru_hw.stimulus import Stimulus, make_stimulus
from cmru_hw.technology import Technology, load_technology
from cmru_hw.variation import draw, one_chip

NANO = 1e-9


@pytest.fixture(scope="module")
def design() -> Design:
    return map_network(random_network(8), load_technology("generic180"))[0]


@pytest.fixture(scope="module")
def stimulus() -> Stimulus:
    return make_stimulus(random_input(8), 3, 1e-2, np.array([12, 4, 7, 1]))


# --- chips -----------------------------------------------------------------------------------------------


def test_a_chip_is_the_same_whichever_others_are_drawn(design: Design, stimulus: Stimulus) -> None:
    together = BehavioralModel(design, draw(design, range(6), seed=3)).run(stimulus)
    for chips in ([4], [4, 0], [5, 4, 3]):
        some = BehavioralModel(design, draw(design, chips, seed=3)).run(stimulus)
        row = chips.index(4)
        assert np.array_equal(some.decision[row], together.decision[4])
        np.testing.assert_allclose(some.logits[row], together.logits[4], rtol=1e-12)
        np.testing.assert_allclose(some.supply_power[row], together.supply_power[4], rtol=1e-12)


def test_chips_and_seeds_differ(design: Design, stimulus: Stimulus) -> None:
    first = BehavioralModel(design, draw(design, [0, 1], seed=3)).run(stimulus).logits
    other = BehavioralModel(design, draw(design, [0], seed=4)).run(stimulus).logits
    assert np.nanmax(np.abs(first[0] - first[1])) > 1e-3
    assert np.nanmax(np.abs(first[0] - other[0])) > 1e-3


def test_zero_sigma_is_the_nominal_design(design: Design, stimulus: Stimulus) -> None:
    nominal = BehavioralModel(design).run(stimulus)
    chips = BehavioralModel(design, draw(design, range(3), seed=0, scale=0.0)).run(stimulus)
    for chip in range(3):
        np.testing.assert_allclose(chips.logits[chip], nominal.logits, rtol=1e-12)
        np.testing.assert_allclose(chips.supply_power[chip], nominal.supply_power, rtol=1e-12)
        for layer, states in enumerate(nominal.states):
            assert np.array_equal(chips.states[layer][chip], states)


def test_drawn_shifts_have_the_pelgrom_sigma(design: Design, generic: Technology) -> None:
    """Of thresholds and current factors, computed here from the card; 3000 samples know sigma to 1.3 %."""
    shifts = draw(design, range(1000), seed=0, scale=2.0)
    for part, polarity, units, size in (
        ("input_pos.diode", "n", 16, generic.unit),
        ("layer0_latch.m9", "p", 2, generic.unit),
        ("layer0_latch.m6", "n", 1, generic.switch),
    ):
        slope = generic.slope_factor.of(polarity) * generic.thermal_voltage  # type: ignore[arg-type]
        factor = 1e-2 * generic.a_beta_percent_um.of(polarity) * slope  # type: ignore[arg-type]
        both = np.hypot(1e-3 * generic.a_vt_mv_um.of(polarity), factor)  # type: ignore[arg-type]
        expected = 2.0 * both / np.sqrt(size.w_um * size.l_um * units)
        samples = shifts[part][:, :3]
        assert samples.std() == pytest.approx(expected, rel=0.06)
        assert abs(samples.mean()) < 5 * expected / np.sqrt(samples.size)
    assert set(shifts) == set(design.devices())
    assert np.abs(np.corrcoef(shifts["layer0_latch.m9"].T) - np.eye(4)).max() < 0.15


def test_a_chip_is_the_same_at_every_temperature(design: Design) -> None:
    """Only what stands for the current factor grows with it, as U_T n does: a tenth of the sigma at most."""
    part = "layer0_latch.m9"
    cold, warm, hot = (draw(design.at(celsius), range(200), seed=4)[part] for celsius in (-20.0, 27.0, 85.0))
    thermal = [design.at(celsius).technology for celsius in (-20.0, 27.0, 85.0)]
    slopes = [each.slope_factor.p * each.thermal_voltage for each in thermal]
    expected = cold + (hot - cold) * (slopes[1] - slopes[0]) / (slopes[2] - slopes[0])
    np.testing.assert_allclose(warm, expected, atol=1e-12)
    assert 0.005 < (hot - cold).std() / warm.std() < 0.1


def test_absent_transistors_have_no_shift(design: Design) -> None:
    shifts = draw(design, [0], seed=0)
    for name, array in design.devices().items():
        assert np.array_equal(shifts[name][0] != 0, array.units > 0)


@pytest.mark.parametrize("scale", [-1.0, float("nan")])
def test_a_negative_sigma_is_refused(design: Design, scale: float) -> None:
    with pytest.raises(ConfigError, match="scale"):
        draw(design, [0], seed=0, scale=scale)


def test_one_chip_is_a_row_of_the_draw(design: Design) -> None:
    shifts = draw(design, [7, 8], seed=1)
    for name, array in one_chip(shifts, 1).items():
        assert np.array_equal(array, shifts[name][1])


def test_decisions_alone_are_those_of_the_whole_result(design: Design, stimulus: Stimulus) -> None:
    for shifts in (None, draw(design, range(5), seed=2, scale=3.0)):
        model = BehavioralModel(design, shifts)
        assert np.array_equal(model.decisions(stimulus), model.run(stimulus).decision)


def test_what_lies_past_an_inputs_end_does_not_matter(design: Design) -> None:
    x, lengths = random_input(8), np.array([12, 4, 7, 1])
    other = np.where((np.arange(12) < lengths[:, None])[..., None], x, np.nan)
    results = [BehavioralModel(design).run(make_stimulus(v, 3, 1e-2, lengths)) for v in (x, other)]
    for name in ("logits", "decision", "supply_power"):
        np.testing.assert_array_equal(getattr(results[0], name), getattr(results[1], name))
    assert np.isnan(results[0].logits[1, 4:]).all()
    assert (results[0].states[0][1, 4:] == -1).all()
    for row, length in enumerate(lengths):
        alone = BehavioralModel(design).run(make_stimulus(x[row : row + 1, :length], 3, 1e-2))
        np.testing.assert_allclose(alone.supply_power[0], results[0].supply_power[row], rtol=1e-12)
        np.testing.assert_allclose(alone.logits[0], results[0].logits[row, :length], rtol=1e-12)


# --- power -----------------------------------------------------------------------------------------------


def one_latch(technology: str) -> Design:
    """Two inputs, one node with a negative bias, one latch, one node behind it."""
    none = np.zeros(1, dtype=np.int64)
    one = 16 * np.ones((1, 1), dtype=np.int64)
    stages = (
        Input(name="input_pos", polarity="n", diode_units=16, copied=none),
        Input(name="input_neg", polarity="n", diode_units=16, copied=none),
        Mirror(
            name="layer0_candidate", polarity="p", diode_units=2, copied=none,
            terms=(Term("input_pos", one, one / 16.0),), bias=np.array([-0.5 * NANO]), bias_units=4,
            read=True,
        ),
        Latch(
            name="layer0_latch", polarity="p", diode_units=16, copied=none, candidate="layer0_candidate",
            i_threshold=np.array([0.8 * NANO]), i_width=np.array([0.3 * NANO]), i_gain=np.array([1.2 * NANO]),
            initial_state=none, capacitance=2e-14,
        ),
        Mirror(
            name="readout_pos", polarity="n", diode_units=8, copied=none,
            terms=(Term("layer0_latch", one // 2, one / 32.0),), bias=np.array([0.4 * NANO]), bias_units=4,
            read=True,
        ),
    )  # fmt: skip
    facts = Facts(
        technology=technology, unit="fq_bmru", boundary="full", pool="last", num_classes=1, input_size=1,
        unit_current=NANO, logit_scale=1.0, quiescent_current=0.0, frame_period=1e-2, ramp=1e-4, supply=0.8,
        temperature_celsius=27.0,
        inputs=["input_pos", "input_neg"], outputs=["readout_pos"], states=["layer0_latch"],
    )  # fmt: skip
    return Design(facts, stages)


# Frames: x = 2 sets the latch (c = 1.5 >= 0.8), x = 1.1 holds it (c = 0.6), x = -1 resets it (c = 0).
X = np.array([[[2.0], [1.1], [-1.0]]])
BY_HAND = {  # nA from the supply, frame by frame
    "input/input": [2.0, 1.1, 1.0],
    "layer0/mirror": [2.0, 1.1, 0.0],  # all that the node's nMOS takes
    # v0 takes min(c + I_width, I_thresh); the feedback's diode I_width and the output I_gain while set
    "layer0/latch": [0.8 + 0.3 + 1.2, 0.8 + 0.3 + 1.2, 0.0],
    "readout/mirror": [0.4 + 0.6, 0.4 + 0.6, 0.4],
    "layer0/bias": [0.5 + 0.8 + 0.3 + 1.2] * 3,
    "readout/bias": [0.4] * 3,
}


def test_power_of_one_latch_adds_up_by_hand(ideal: Technology) -> None:
    design = one_latch(ideal.name)
    result = BehavioralModel(design).run(make_stimulus(X, 1, 1e-2))
    assert result.states[0][0, :, 0].tolist() == [1, 1, 0]
    for key, nanoamperes in BY_HAND.items():
        assert result.breakdown[key][0] == pytest.approx(0.8 * NANO * np.mean(nanoamperes), rel=2e-3), key
    assert result.supply_power[0] == pytest.approx(0.8 * NANO * np.sum(list(BY_HAND.values())) / 3, rel=2e-3)
    assert result.supply_power[0] == pytest.approx(sum(value[0] for value in result.breakdown.values()))


def test_ngspice_draws_the_power_that_adds_up_by_hand(generic: Technology) -> None:
    """What is left is the time the latch takes within a frame, and output conductance."""
    design, stimulus = one_latch(generic.name), make_stimulus(X, 1, 1e-2)
    spice, model = simulate(design, stimulus), BehavioralModel(design).run(stimulus)
    assert spice.states[0][0, :, 0].tolist() == [1, 1, 0]
    for key, nanoamperes in BY_HAND.items():
        watts = 0.8 * NANO * np.mean(nanoamperes)
        assert spice.breakdown[key][0] == pytest.approx(watts, rel=0.08), key
        assert spice.breakdown[key][0] == pytest.approx(model.breakdown[key][0], rel=0.06), key
    assert spice.supply_power[0] == pytest.approx(model.supply_power[0], rel=0.02)


def test_power_over_frames_of_unequal_length_is_a_time_average(ideal: Technology) -> None:
    """Frames of 10, 30 and 60 ms."""
    design = one_latch(ideal.name)
    stimulus = make_stimulus(X, 1, 6e-2, times=np.array([0.0, 1e-2, 4e-2]))
    result = BehavioralModel(design).run(stimulus)
    assert result.breakdown["input/input"][0] == pytest.approx(0.8 * NANO * (0.2 + 0.33 + 0.6))
    found = power(result, stimulus)
    assert found["energy_per_inference_j"] == pytest.approx(found["power_w"] * 0.1)


def test_mismatch_leaves_ideal_reference_branches_alone(design: Design, stimulus: Stimulus) -> None:
    chips = BehavioralModel(design, draw(design, range(4), seed=0, scale=3.0)).run(stimulus)
    nominal = BehavioralModel(design).run(stimulus)
    for key in nominal.breakdown:
        if key.endswith("/bias"):
            np.testing.assert_allclose(
                np.broadcast_to(chips.breakdown[key], (4, 4)), np.broadcast_to(nominal.breakdown[key], (4, 4))
            )
    assert chips.supply_power.shape == (4, 4)
    assert chips.supply_power.std(axis=0).min() > 0
