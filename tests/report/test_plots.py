"""Figures: right numbers in the drawing, the same bytes for the same data, no global state."""

from __future__ import annotations

import sys

import matplotlib
import numpy as np
import pytest

from cmru_hw.errors import ConfigError
from cmru_hw.report import plots

RNG = np.random.default_rng(1)
CHIPS = 0.9 + 0.01 * RNG.integers(-4, 5, 200)
AWARE = (
    [0.0, 1.0, 2.0],
    {"plain": [[1.0, 0.9, 0.5], [1.0, 0.7, 0.3]], "aware": [[1.0, 1.0, 0.9], [1.0, 1.0, 1.0]]},
    {"plain": [[0.95, 0.92, 0.9], [0.95, 0.9, 0.8]], "aware": [[0.97, 0.96, 0.95], [0.98, 0.97, 0.96]]},
)
HISTORY = [
    {"step": s, "loss": 1 / (s + 1), "batch_accuracy": 0.5, "epsilon": 0.0, "validation_accuracy": v}
    for s, v in ((0, None), (100, 0.4), (200, 0.6))
]


def hysteresis():
    x = np.linspace(0, 600e-12, 50)
    marks = {"programmed": (350e-12, 150e-12), "measured": (343e-12, 152e-12)}
    return plots.hysteresis(x, 5e-10 * (x > 343e-12), 5e-10 * (x > 152e-12), marks)


def waveforms():
    t = np.linspace(0, 0.05, 200)
    return plots.waveforms(
        t, np.tile(1e-9 * (t > 0.02), (3, 1)).T, np.eye(5, 3) * 1e-9, 0.01, ["a", "b", "c_$0"]
    )


DRAWINGS = {
    "hysteresis": hysteresis,
    "waveforms": waveforms,
    "confusion": lambda: plots.confusion([[5, 1], [0, 4]], ["<no>", "yes"]),
    "power_breakdown": lambda: plots.power_breakdown({"a/x": 1e-9}, {"a/x": 1.1e-9, "b": 2e-9}),
    "accuracy_over_chips": lambda: plots.accuracy_over_chips(CHIPS, 0.93, 0.9),
    "aware_training": lambda: plots.aware_training(*AWARE, 0.9),
    "training_curve": lambda: plots.training_curve(HISTORY),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_equal_data_give_equal_bytes_whatever_the_user_has_set(name):
    first = DRAWINGS[name]()
    drawn = plots.svg(first)
    with matplotlib.rc_context({"font.size": 31, "axes.facecolor": "black", "svg.hashsalt": "other"}):
        assert plots.svg(DRAWINGS[name]()) == drawn
        assert matplotlib.rcParams["font.size"] == 31
    assert drawn.startswith("<?xml")
    assert plots.png(first).startswith(b"\x89PNG")
    assert plots.svg(first) == drawn


def test_no_pyplot():
    assert "matplotlib.pyplot" not in vars(plots)
    assert "plt" not in vars(plots)
    assert "cmru_hw.report.plots" in sys.modules


@pytest.mark.parametrize(
    ("values", "unit", "factor", "label"),
    [
        ([350e-12, 1e-12], "A", 1e12, "pA"),
        ([1e-9], "A", 1e9, "nA"),
        ([-999e-12], "A", 1e12, "pA"),
        ([0.25], "s", 1e3, "ms"),
        ([41e-9], "W", 1e9, "nW"),
        ([0.0], "W", 1.0, "W"),
        ([], "W", 1.0, "W"),
        ([1e-30], "A", 1e15, "fA"),
    ],
)
def test_prefixes(values, unit, factor, label):
    found, text = plots.si(values, unit)
    assert found == pytest.approx(factor)
    assert text == label


def test_axes_are_labelled_with_prefixes():
    axes = hysteresis().axes[0]
    assert axes.get_xlabel() == "input (pA)"
    assert axes.get_ylabel() == "output (pA)"
    labels = [text.get_text() for text in hysteresis().legends[0].get_texts()]
    assert "measured: 152, 343 pA" in labels
    panels = waveforms().axes
    assert panels[-1].get_xlabel() == "time (ms)"
    assert [panel.get_title(loc="left") for panel in panels] == ["a", "b", "c_$0"]


def test_power_has_no_bar_where_a_model_has_no_value():
    axes = DRAWINGS["power_breakdown"]().axes[0]
    assert [len(bars) for bars in axes.containers] == [2, 1]
    assert [bar.get_width() for bar in axes.containers[0]] == pytest.approx([1.1, 2.0])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a · x", "b"]
    only = plots.power_breakdown({"a": 1e-9}).axes[0]
    assert len(only.containers) == 1


@pytest.mark.parametrize("target", [0.9, 0.905, 0.5, 0.99])
def test_histogram_counts_every_chip_once_on_the_right_side(target):
    axes = plots.accuracy_over_chips(CHIPS, 0.93, target).axes[0]
    heights = [[bar.get_height() for bar in bars] for bars in axes.containers]
    assert sum(map(sum, heights)) == len(CHIPS)
    assert sum(heights[1]) == np.count_nonzero(target - 1e-12 < CHIPS)
    failing = [bar for bar in axes.containers[0] if bar.get_height()]
    assert all(bar.get_x() + bar.get_width() <= 100 * target + 1e-6 for bar in failing)


def test_one_accuracy_for_all_chips():
    axes = plots.accuracy_over_chips([0.95] * 7, 0.95, 0.9).axes[0]
    assert max(bar.get_height() for bar in axes.containers[1]) == 7


def test_aware_training_draws_every_seed_and_their_mean():
    above, below = plots.aware_training(*AWARE, 0.9).axes
    assert [np.asarray(line.get_ydata()).tolist() for line in above.lines[:3]] == [
        [100, 90, 50], [100, 70, 30], [100, 80, 40],
    ]  # fmt: skip
    assert len(above.lines) == 6
    assert len(below.lines) == 7, "and the target"


def test_training_curve_leaves_gaps_out():
    loss, accuracy = DRAWINGS["training_curve"]().axes
    assert len(loss.lines) == 1
    assert [list(line.get_xdata()) for line in accuracy.lines] == [[0, 100, 200], [100, 200]]


@pytest.mark.parametrize(
    ("draw", "rule"),
    [
        (lambda: plots.confusion([[1, 2, 3], [1, 2, 3]]), "square"),
        (lambda: plots.confusion([[1, 0], [0, 1]], ["a"]), "2 needed, got 1"),
        (lambda: plots.accuracy_over_chips([], 0.9, 0.9), "shape"),
        (lambda: plots.accuracy_over_chips([np.nan], 0.9, 0.9), "finite"),
        (lambda: plots.power_breakdown({}), "no entries"),
        (lambda: plots.training_curve([]), "no rows"),
        (lambda: plots.training_curve([{"step": 1, "x": 2}]), "no loss or accuracy"),
        (lambda: plots.hysteresis([0, 1], [0, 1, 2], [0, 1], {}), "output_up_a: shape must be 2, got 3"),
        (lambda: plots.waveforms([0, 1], [[0], [1]], [[0]], 0.01, ["a", "b"]), r"spice_a: shape must be 2x2"),
    ],
)
def test_wrong_data_are_refused(draw, rule):
    with pytest.raises(ConfigError, match=rule):
        draw()
