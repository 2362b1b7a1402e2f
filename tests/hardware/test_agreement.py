"""What counts as agreement: disagreements classified, decisions pooled as the network pools them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hardware_networks import random_input, random_network
from hypothesis import given, settings
from hypothesis import strategies as st

from cmru_hw.analysis.agreement import Trained, agreement, run_trained, select
from cmru_hw.behavioral import BehavioralModel
from cmru_hw.design import Design, Pool, Pooled
from cmru_hw.mapping import map_network
from cmru_hw.nn.network import pool_scores
from cmru_hw.result import Result
from cmru_hw.stimulus import make_stimulus
from cmru_hw.technology import load_technology

FRAMES, CELLS = 5, 4


@pytest.fixture(scope="module")
def design() -> Design:
    network = random_network(0)
    for name, value in network.state_dict().items():
        if name.endswith("initial_state"):
            value.zero_()
    return map_network(network, load_technology("generic180"))[0]


def quiet(design: Design, batch: int = 3) -> tuple[Trained, Result]:
    """Two equal outcomes: no latch is ever set, every candidate at half its lower threshold."""
    states = [np.zeros((batch, FRAMES, CELLS), dtype=np.int8) for _ in range(2)]
    candidates = [
        np.broadcast_to(0.5 * down, (batch, FRAMES, CELLS)).copy()
        for _, down in (BehavioralModel(design).thresholds(layer) for layer in range(2))
    ]
    logits = np.zeros((batch, FRAMES, 2))
    decision = np.zeros(batch, dtype=np.int64)
    result = Result(
        logits=logits, decision=decision, states=[s.copy() for s in states], candidates=candidates,
        supply_power=np.zeros(batch), breakdown={},
    )  # fmt: skip
    return Trained(logits, decision, states), result


def kinds(design: Design, reference: Trained, found: Result) -> list[tuple[int, int, int, int, str]]:
    listed = agreement(design, reference, found).disagreements
    return [(d.input, d.frame, d.layer, d.cell, d.kind) for d in listed]


def test_equal_outcomes_agree_wholly(design: Design) -> None:
    found = agreement(design, *quiet(design))
    assert (found.decision_fraction, found.state_fraction, found.logit_error_a) == (1.0, 1.0, 0.0)
    assert found.samples == found.states == 3 * FRAMES * CELLS * 2
    assert found.disagreements == []


def test_a_candidate_on_the_other_side_is_static_and_what_is_held_of_it_inherited(design: Design) -> None:
    reference, found = quiet(design)
    up, down = BehavioralModel(design).thresholds(0)
    found.states[0][1, 2:4, 0] = 1
    found.candidates[0][1, 2, 0] = 1.1 * up[0]
    found.candidates[0][1, 3, 0] = (up[0] + down[0]) / 2
    assert kinds(design, reference, found) == [(1, 2, 0, 0, "static"), (1, 3, 0, 0, "inherited")]
    first, second = agreement(design, reference, found).disagreements
    assert first.margin == pytest.approx(0.1 * up[0])
    assert second.margin == pytest.approx((up[0] - down[0]) / 2)


def test_a_state_that_its_candidate_does_not_explain_is_dynamic(design: Design) -> None:
    reference, found = quiet(design)
    found.states[0][0, 1, 3] = 1
    assert kinds(design, reference, found) == [(0, 1, 0, 3, "dynamic")]


def test_a_transient_latched_between_the_thresholds_is_dynamic_then_inherited(design: Design) -> None:
    """Between the thresholds a latch keeps its bit, so a bit that changed there was changed by a hazard."""
    reference, found = quiet(design)
    up, down = BehavioralModel(design).thresholds(0)
    found.candidates[0][0, :, 3] = (up[3] + down[3]) / 2
    found.states[0][0, 1:3, 3] = 1
    assert kinds(design, reference, found)[0] == (0, 1, 0, 3, "dynamic")
    assert kinds(design, reference, found)[1] == (0, 2, 0, 3, "inherited")


def test_a_difference_in_the_layer_before_is_inherited_after_it(design: Design) -> None:
    reference, found = quiet(design)
    ups = [BehavioralModel(design).thresholds(layer)[0] for layer in range(2)]
    for layer, cell in ((0, 2), (1, 1)):
        found.states[layer][2, 4, cell] = 1
        found.candidates[layer][2, 4, cell] = 1.1 * ups[layer][cell]
    assert kinds(design, reference, found) == [(2, 4, 0, 2, "static"), (2, 4, 1, 1, "inherited")]


def test_all_kinds_are_counted(design: Design) -> None:
    reference, found = quiet(design)
    ups = [BehavioralModel(design).thresholds(layer)[0] for layer in range(2)]
    for layer, b, t, cell, above in (
        (0, 0, 1, 0, True),
        (1, 0, 1, 0, True),
        (1, 1, 0, 2, True),
        (0, 2, 3, 1, False),
    ):
        found.states[layer][b, t, cell] = 1
        if above:
            found.candidates[layer][b, t, cell] = 1.1 * ups[layer][cell]
    result = agreement(design, reference, found)
    assert result.kinds == {"static": 2, "dynamic": 1, "inherited": 1}
    assert result.states == result.samples - 4
    assert result.to_json()["kinds"] == result.kinds


def test_samples_past_the_end_do_not_count(design: Design) -> None:
    reference, found = quiet(design)
    for outcome in (reference, found):
        outcome.states[0][0, 3:] = -1
        outcome.states[1][0, 3:] = -1
    logits = found.logits.copy()
    logits[0, 3:] = np.nan
    found = replace(found, logits=logits)
    result = agreement(design, reference, found)
    assert result.samples == (3 * FRAMES - 2) * CELLS * 2
    assert result.state_fraction == 1.0
    assert result.logit_error_a == 0.0


def test_logit_error_is_rms_in_amperes(design: Design) -> None:
    reference, found = quiet(design)
    logits = np.zeros_like(found.logits)
    logits[0, 0, 0] = 3.0
    found = replace(found, logits=logits, decision=np.array([1, 0, 0]))
    result = agreement(design, reference, found)
    unit = design.facts.unit_current * design.facts.logit_scale
    assert result.logit_error_a == pytest.approx(3.0 * unit / np.sqrt(logits.size))
    assert (result.decisions, result.decision_fraction) == (2, pytest.approx(2 / 3))


def test_select_takes_inputs_of_an_outcome(design: Design) -> None:
    network = random_network(1)
    stimulus = make_stimulus(random_input(1), 3, 1e-2)
    whole, part = (run_trained(network, design, given) for given in (stimulus, stimulus.select([3, 0])))
    some = select(whole, [3, 0])
    np.testing.assert_array_equal(some.decision, part.decision)
    np.testing.assert_allclose(some.logits, part.logits, atol=1e-6)


# --- pooling ---------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=80)
@given(data=st.data(), pool=st.sampled_from(["mean", "last", "vote"]))
def test_pooled_decisions_are_the_networks(data: st.DataObject, pool: Pool) -> None:
    """Logits in halves, so that ties are common; padding holds NaN, as results do."""
    batch, frames, classes = (data.draw(st.integers(1, most)) for most in (4, 6, 4))
    values = data.draw(
        st.lists(st.integers(-2, 2), min_size=batch * frames * classes, max_size=batch * frames * classes)
    )
    lengths = np.array(data.draw(st.lists(st.integers(1, frames), min_size=batch, max_size=batch)))
    logits = np.array(values, dtype=float).reshape(batch, frames, classes) / 2
    scores = pool_scores(torch.from_numpy(logits), torch.from_numpy(lengths), pool)
    padded = np.where((np.arange(frames) >= lengths[:, None])[..., None], np.nan, logits)
    for shown in (logits, padded, np.stack([padded, padded])):
        pooled = Pooled(pool, lengths)
        for t in range(frames):
            pooled.add(t, shown[..., t, :])
        assert np.array_equal(
            np.broadcast_to(scores.argmax(1).numpy(), pooled.decision.shape), pooled.decision
        )
