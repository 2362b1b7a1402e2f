"""The 9T latch: calibration and its inverse, thresholds in ngspice, and each transistor's mismatch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmru_hw.behavioral import BehavioralModel
from cmru_hw.design import Design, Facts
from cmru_hw.errors import ConfigError
from cmru_hw.primitives.latch import Latch, calibration
from cmru_hw.primitives.mirror import Input
from cmru_hw.spice.latch_bench import measure_hysteresis
from cmru_hw.spice.netlist import ammeters
from cmru_hw.spice.ngspice import run
from cmru_hw.spice.simulate import job
from cmru_hw.stimulus import make_stimulus
from cmru_hw.technology import load_technology
from cmru_hw.variation import draw, one_chip

NANO = 1e-9
TABLE = calibration(load_technology("generic180"))


@pytest.mark.parametrize(("threshold", "width"), [(0.12, 0.05), (0.7, 0.2), (4.0, 3.0), (2.0, 2.19)])
def test_shipped_calibration_is_what_ngspice_measures(threshold: float, width: float) -> None:
    """Off the grid of the calibration; the bench's own resolution is 0.1 %."""
    measured = measure_hysteresis(load_technology("generic180"), threshold * NANO, width * NANO, NANO)
    up, down = TABLE.forward(np.array([threshold * NANO]), np.array([width * NANO]))
    np.testing.assert_allclose(measured.up, up, rtol=5e-3)
    np.testing.assert_allclose(measured.down, down, rtol=1e-2, atol=2e-3 * threshold * NANO)
    assert measured.output[measured.turn, 0] == pytest.approx(
        NANO * TABLE.output_gain(np.array([NANO])).item(), rel=5e-3
    )


@pytest.mark.parametrize("ratio", [0.97, 1.005, 1.05])
def test_the_calibration_knows_where_a_latch_stops_resetting(ratio: float) -> None:
    """Just below and above I_width = I_thresh; the lower threshold to 0.1 % of the upper one."""
    _, down = TABLE.forward(np.array([4.0 * NANO]), np.array([ratio * 4.0 * NANO]))
    measured = measure_hysteresis(load_technology("generic180"), 4.0 * NANO, ratio * 4.0 * NANO, NANO)
    np.testing.assert_allclose(measured.down, down, atol=1e-3 * 4.0 * NANO)


def test_a_latch_of_no_width_is_a_comparator() -> None:
    measured = measure_hysteresis(load_technology("generic180"), NANO, 0.0, NANO)
    assert measured.up[0] == pytest.approx(measured.down[0], rel=5e-3)
    assert measured.up[0] == pytest.approx(NANO, rel=0.03)


@settings(deadline=None, max_examples=60)
@given(st.floats(0.04, 9.0), st.just(0.0) | st.floats(0.01, 0.97))
def test_programmed_is_the_inverse_of_forward(beta_hi: float, share: float) -> None:
    """Any upper threshold of the range with a lower one `share` of it above zero."""
    hi = beta_hi * NANO
    lo = (1 - share) * hi
    i_threshold, i_width = TABLE.programmed(hi, lo)
    up, down = TABLE.forward(np.array(i_threshold), np.array(i_width))
    assert up.item() == pytest.approx(hi, rel=1e-9)
    if share == 0:
        assert i_width == 0
        assert down.item() == pytest.approx(lo, rel=4e-3)  # the calibration's resolution at no width
    else:
        assert down.item() == pytest.approx(lo, rel=1e-6, abs=1e-16)


def test_a_zero_lower_threshold_gets_the_widest_characterised_latch() -> None:
    i_threshold, i_width = TABLE.programmed(NANO, 0.0)
    assert i_width / i_threshold == pytest.approx(TABLE.ratio[-1])
    assert TABLE.forward(np.array(i_threshold), np.array(i_width))[1].item() == pytest.approx(0.0, abs=1e-13)


@pytest.mark.parametrize("beta_hi", [1e-12, 2e-8])
def test_thresholds_outside_the_characterised_range_are_refused(beta_hi: float) -> None:
    with pytest.raises(ValueError, match="outside the characterised range"):
        TABLE.programmed(beta_hi, 0.5 * beta_hi)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_the_upper_range_can_be_programmed_at_any_width(share: float) -> None:
    for beta_hi in TABLE.upper_range():
        i_threshold, _ = TABLE.programmed(beta_hi, share * beta_hi)
        assert TABLE.threshold[0] <= i_threshold <= TABLE.threshold[-1]


def test_a_calibration_of_other_models_is_refused(technologies: Path) -> None:
    models = technologies / "generic180" / "models.lib"
    models.write_text(models.read_text().replace("u0=320", "u0=321"))
    with pytest.raises(ConfigError, match=r"other models.*characterize"):
        calibration(load_technology("generic180"))


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"threshold": "a"}'])
def test_a_damaged_calibration_is_refused(technologies: Path, damage: str) -> None:
    (technologies / "generic180" / "calibration" / "latch.json").write_text(damage)
    with pytest.raises(ConfigError, match=r"latch\.json"):
        calibration(load_technology("generic180"))


def test_a_calibration_with_a_table_of_the_wrong_shape_is_refused(technologies: Path) -> None:
    path = technologies / "generic180" / "calibration" / "latch.json"
    content = json.loads(path.read_text())
    content["tables"][0]["up"] = content["tables"][0]["up"][:-1]
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"latch\.json"):
        calibration(load_technology("generic180"))


# --- mismatch --------------------------------------------------------------------------------------------

I_THRESHOLD, I_WIDTH, I_GAIN = 1.0 * NANO, 0.45 * NANO, 0.8 * NANO
STEPS = 100
FRAME = 0.1


def row_of_latches(count: int) -> Design:
    """Latches side by side, each with a candidate diode of its own, swept by a common triangle."""
    ones = np.ones(count)
    none = np.zeros(count, dtype=np.int64)
    stages = (
        Input(name="candidate", polarity="p", diode_units=2, copied=none),
        Input(name="unused", polarity="n", diode_units=1, copied=none),
        Latch(
            name="latch", polarity="p", diode_units=16, copied=none, candidate="candidate",
            i_threshold=I_THRESHOLD * ones, i_width=I_WIDTH * ones, i_gain=I_GAIN * ones,
            initial_state=none, capacitance=2e-14, read=True,
        ),
    )  # fmt: skip
    facts = Facts(
        technology="generic180", unit="fq_bmru", boundary="full", pool="last", num_classes=count,
        input_size=count, unit_current=NANO, logit_scale=1.0, quiescent_current=0.0, frame_period=FRAME,
        ramp=0.999 * FRAME, supply=0.8, temperature_celsius=27.0,
        inputs=["candidate", "unused"], outputs=["latch"], states=[],
    )  # fmt: skip
    return Design(facts, stages)


def measured_thresholds(design: Design, shifts: dict[str, np.ndarray] | None) -> np.ndarray:
    """Upper threshold, lower threshold and set output of every latch (A), [3, latches]."""
    latch = design.signals["latch"]
    assert isinstance(latch, Latch)
    triangle = np.concatenate([np.linspace(0.3, 1.5, STEPS), np.linspace(1.5, 0.3, STEPS)[1:]])
    x = np.repeat(triangle[:, None], latch.size, axis=1)[None]
    stimulus = make_stimulus(x, latch.size, FRAME)
    run_of = job(design, stimulus, 0, shifts)
    stored = [f"v({latch.stored(j)})" for j in range(latch.size)]
    data = run(run_of.__class__(**{**vars(run_of), "save": (*run_of.save, *stored)}))
    # Frame t moves to triangle[t] within it, so at time t + 1 frames the candidate is triangle[t].
    candidate = NANO * np.interp(data.time / FRAME, np.arange(len(triangle)) + 1, triangle)
    volts = np.stack([data[name] for name in stored])
    output = np.stack([data[name] for name in ammeters(latch)])
    is_set = volts > 0.4
    assert not is_set[:, 0].any()
    assert not is_set[:, -1].any()
    assert is_set.any(axis=1).all()
    first = np.argmax(is_set, axis=1)
    last = volts.shape[1] - 1 - np.argmax(is_set[:, ::-1], axis=1)
    top = int(np.argmax(candidate))
    return np.stack([candidate[first], candidate[last], output[:, top]])


def modelled_thresholds(design: Design, shifts: dict[str, np.ndarray] | None) -> np.ndarray:
    """The same three from the behavioural model."""
    facts = design.facts.model_copy(update={"states": ["latch"]})
    design = Design(facts, design.stages)
    model = BehavioralModel(design, {name: value[None] for name, value in shifts.items()} if shifts else None)
    up, down = model.thresholds(0)
    size = design.signals["latch"].size
    (block,) = model.blocks(np.full((1, 1, size), 3.0))
    return np.stack([np.broadcast_to(v.reshape(-1), size) for v in (up, down, block.values["latch"])])


def test_each_transistor_of_the_latch_shifts_thresholds_as_in_ngspice() -> None:
    """Latch k has +8 mV on its k-th part alone; changes relative to an undisturbed latch."""
    parts = sorted(
        name
        for name, array in row_of_latches(1).devices().items()
        if array.count and not name.startswith("unused")
    )
    assert len(parts) == 13  # M1 to M9, three references, the candidate's diode
    design = row_of_latches(len(parts) + 1)
    shifts = {name: np.zeros(array.units.shape) for name, array in design.devices().items()}
    for k, part in enumerate(parts):
        shifts[part][k] = 8e-3
    spice, model = measured_thresholds(design, shifts), modelled_thresholds(design, shifts)
    spice, model = spice[:, :-1] / spice[:, -1:] - 1, model[:, :-1] / model[:, -1:] - 1
    worst = {
        f"{part} {quantity}": (round(float(spice[q, k]), 4), round(float(model[q, k]), 4))
        for k, part in enumerate(parts)
        for q, quantity in enumerate(("up", "down", "output"))
        if abs(spice[q, k] - model[q, k]) > 0.01
    }
    assert not worst, "relative changes (ngspice, model)"
    moved = {part: np.abs(spice[:, k]).max() for k, part in enumerate(parts)}
    assert sum(change > 0.15 for change in moved.values()) >= 6


def test_chips_of_latches_move_alike() -> None:
    """Ten latches of one chip at two sigma: every transistor at once."""
    design = row_of_latches(10)
    chip = one_chip(draw(design, [0], seed=3, scale=2.0), 0)
    spice = measured_thresholds(design, chip) / measured_thresholds(design, None) - 1
    model = modelled_thresholds(design, chip) / modelled_thresholds(design, None) - 1
    assert (np.abs(spice).max(axis=1) > 0.1).all()
    np.testing.assert_allclose(model, spice, rtol=0, atol=0.01)
