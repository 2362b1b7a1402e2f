"""Figures of the robustness analyses, from their summaries: plain values in, a matplotlib `Figure` out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from cmru_hw.report.plots import (
    ASKED,
    BEHAVIORAL,
    FAINT,
    INK,
    SPICE,
    WIDTH,
    accuracy_over_chips,
    engineering,
    styled,
)

Summary = Mapping[str, Any]
BARS = 12


def mismatch(summary: Summary) -> Figure:
    """Accuracies of the chips."""
    return accuracy_over_chips(summary["accuracies"], summary["nominal_accuracy"], summary["yield_target"])


@styled
def sensitivity(summary: Summary) -> Figure:
    """Shares of the margin's variance: the first transistors, and all stages."""
    transistors = [(one["transistor"], one["variance_share"]) for one in summary["by_margin"][:BARS]]
    stages = [(one["name"], one["variance_share"]) for one in summary["stages"][:BARS]]
    figure = Figure(figsize=(WIDTH, 1.4 + 0.22 * (len(transistors) + len(stages))), layout="constrained")
    panels = figure.subplots(2, 1, height_ratios=[len(transistors), len(stages)])
    for axes, rows, title in zip(panels, (transistors, stages), ("transistors", "stages"), strict=True):
        names, shares = zip(*rows, strict=True)
        axes.barh(range(len(rows)), [100 * share for share in shares], color=BEHAVIORAL)
        axes.set_yticks(range(len(rows)), names, fontsize=6.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=FAINT, linewidth=0.6)
        axes.set_title(title, loc="left")
        axes.set_xlim(left=0)
    panels[-1].set_xlabel("share of the margin's variance (%)")
    return figure


def _logarithmic(axes: Axes) -> None:
    """An x axis with plain numbers at the decades."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _accuracy_over(axes: Axes, x: Sequence[float], points: Sequence[Summary], target: float) -> None:
    """Mean, 5th percentile and yield with its interval over x, all in %."""
    rates = np.array([point["yield"] for point in points])
    bounds = np.array([point["yield_ci95"] for point in points])
    off = np.maximum(np.abs(bounds - rates[:, None]).T, 0.0)
    axes.errorbar(
        x, 100 * rates, 100 * off, fmt="s-", color=SPICE, ms=3.5, capsize=2, label=f"yield at {target:.4g}"
    )
    for key, style, name in (
        ("mean_accuracy", "o-", "mean accuracy"),
        ("p05_accuracy", "--", "5th percentile"),
    ):
        axes.plot(x, [100 * point[key] for point in points], style, color=BEHAVIORAL, ms=3.5, label=name)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_ylabel("%")


@styled
def scale(summary: Summary) -> Figure:
    """Accuracy and yield over Pelgrom's sigmas, and over one spread of all currents."""
    figure = Figure(figsize=(WIDTH, 4.8), layout="constrained")
    panels = figure.subplots(2, 1)
    labels = {
        "pelgrom": (1.0, "mismatch over that of the sizes"),
        "three_sigma": (100.0, "3 sigma of every current (%)"),
    }
    for axes, (key, (factor, label)) in zip(panels, labels.items(), strict=True):
        points = [point for point in summary["points"] if key in point]
        if points:
            _accuracy_over(axes, [factor * point[key] for point in points], points, summary["yield_target"])
        axes.set_xlabel(label)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


@styled
def corners(summary: Summary) -> Figure:
    """Mean accuracy of the chips at every condition, shaded, in brackets the nominal circuit's.

    Of the nominal circuit alone where there are no chips.
    """
    rows = summary["conditions"]
    with_chips = all("mean_accuracy" in row for row in rows)
    places = list(dict.fromkeys((row["corner"], row["supply"]) for row in rows))
    heats = sorted({row["celsius"] for row in rows})
    shown, nominal = np.full((2, len(places), len(heats)), np.nan)
    for row in rows:
        at = places.index((row["corner"], row["supply"])), heats.index(row["celsius"])
        nominal[at] = 100 * row["nominal_accuracy"]
        shown[at] = 100 * row["mean_accuracy"] if with_chips else nominal[at]
    figure = Figure(figsize=(WIDTH, 1.1 + 0.3 * len(places)), layout="constrained")
    axes = figure.add_subplot()
    low = float(np.nanmin(shown))
    edges = np.arange(len(heats) + 1) - 0.5, np.arange(len(places) + 1) - 0.5
    axes.pcolormesh(
        *edges, shown, cmap="Blues", vmin=low - 0.2 * (100 - low), vmax=130 - 0.3 * low, edgecolors="white"
    )
    for (row, column), value in np.ndenumerate(shown):
        text = "–" if np.isnan(value) else f"{value:.2f}"
        text += f"  ({nominal[row, column]:.2f})" if with_chips and not np.isnan(value) else ""
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=INK)
    axes.set_xticks(range(len(heats)), [f"{celsius:g} °C" for celsius in heats])
    axes.set_yticks(range(len(places)), [f"{corner}  {volts:g} V" for corner, volts in places])
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    title = "mean accuracy of the chips, in brackets without mismatch (%)"
    axes.set_title(title if with_chips else "accuracy without mismatch (%)", loc="left")
    return figure


@styled
def noise(summary: Summary) -> Figure:
    """Accuracy with the circuit's noise over its bandwidth, and over the unit current."""
    series = {
        "bandwidth": ("factor", "bandwidth over that of the layout"),
        "unit_current": ("amperes", "unit current"),
    }
    kept = {name: labels for name, labels in series.items() if summary[name]}
    figure = Figure(figsize=(WIDTH, 0.6 + 2.1 * len(kept)), layout="constrained")
    panels = figure.subplots(len(kept), 1, squeeze=False)[:, 0]
    for axes, (name, (key, label)) in zip(panels, kept.items(), strict=True):
        points = summary[name]
        x = [point[key] for point in points]
        mean, spread = (
            100 * np.array([point[k] for point in points]) for k in ("mean_accuracy", "std_accuracy")
        )
        axes.errorbar(
            x,
            mean,
            spread,
            fmt="o-",
            color=BEHAVIORAL,
            ms=3.5,
            capsize=2,
            label="with noise, 1 sd over draws",
        )
        axes.plot(x, [100 * point["silent_accuracy"] for point in points], "--", color=ASKED, label="without")
        _logarithmic(axes)
        axes.grid(color=FAINT, linewidth=0.6)
        axes.set_xlabel(label)
        axes.set_ylabel("accuracy (%)")
        if key == "amperes":
            engineering(axes.xaxis, "A")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


@styled
def retention(summary: Summary) -> Figure:
    """Shares of states and decisions over the time without input, by temperature."""
    figure = Figure(figsize=(WIDTH, 3.1), layout="constrained")
    axes = figure.add_subplot()
    styles = {
        "kept": ("o-", "as the input left it"),
        "held": ("s--", f"as after {summary['seconds'][0]:g} s"),
        "decisions": ("^:", "its decisions"),
    }
    for number, one in enumerate(summary["temperatures"]):
        color = (SPICE, BEHAVIORAL, ASKED)[number % 3]
        for key, (style, name) in styles.items():
            values = [100 * share for share in one[key]]
            label = f"{name}, {one['celsius']:g} °C"
            axes.plot(summary["seconds"], values, style, color=color, ms=3.5, linewidth=1.2, label=label)
    _logarithmic(axes)
    axes.set_xlabel("time without input (s)")
    axes.set_ylabel("mean over chips (%)")
    axes.grid(color=FAINT, linewidth=0.6)
    figure.legend(loc="outside upper left", ncols=2, fontsize=7.5)
    return figure


@styled
def stuck(summary: Summary) -> Figure:
    """Accuracy with each cell stuck at its lowest and its highest state."""
    cells = sorted({(one["layer"], one["cell"]) for one in summary["faults"]})
    figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
    axes = figure.add_subplot()
    for level, color, marker in (("low", SPICE, "v"), ("high", BEHAVIORAL, "^")):
        own = {
            (one["layer"], one["cell"]): 100 * one["accuracy"]
            for one in summary["faults"]
            if one["stuck"] == level
        }
        axes.plot(
            range(len(cells)),
            [own[cell] for cell in cells],
            marker,
            color=color,
            ms=6,
            label=f"stuck {level}",
        )
    axes.axhline(100 * summary["nominal_accuracy"], color=ASKED, linewidth=1.0, label="without a fault")
    axes.axhline(100 * summary["yield_target"], color=INK, linestyle="--", linewidth=1.0, label="target")
    axes.set_xticks(range(len(cells)), [f"{layer}.{cell}" for layer, cell in cells], fontsize=7.5)
    axes.set_xlabel("layer.cell")
    axes.set_ylabel("accuracy (%)")
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    figure.legend(loc="outside upper left", ncols=4)
    return figure


@styled
def rare(summary: Summary) -> Figure:
    """The runs' estimates of the failure probability, their mean and its interval."""
    figure = Figure(figsize=(WIDTH, 1.8), layout="constrained")
    axes = figure.add_subplot()
    met = [value for value in summary["runs"] if value > 0]
    axes.plot(met, np.zeros(len(met)), "o", color=BEHAVIORAL, ms=5, alpha=0.6, label="runs")
    if summary["failure_probability"]:
        low, high = summary["failure_ci95"]
        axes.plot([low, high], [0.5, 0.5], color=SPICE, linewidth=3, label="95 % interval")
        axes.plot(summary["failure_probability"], 0.5, "s", color=SPICE, ms=6, label="mean")
        _logarithmic(axes)
        figure.legend(loc="outside upper left", ncols=3)
    else:
        axes.text(
            0.5, 0.5, f"no failure met: below {summary['below']:.0e}", ha="center", transform=axes.transAxes
        )
    axes.set_ylim(-0.5, 1)
    axes.set_yticks([])
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_xlabel(f"share of chips with an accuracy below {summary['yield_target']:.4g}")
    return figure


@styled
def verify(summary: Summary) -> Figure:
    """Margins of the circuits that ran again, in both engines."""
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.add_subplot()
    pairs = np.concatenate([np.array(row["margins"]) for row in summary["suspects"]], axis=1)
    ends = [min(pairs.min(), 0.0), max(pairs.max(), 0.0)]
    axes.plot(ends, ends, color=FAINT, linewidth=1.2)
    for row in summary["suspects"]:
        axes.plot(*row["margins"], "o", ms=5, alpha=0.8, label=row["suspect"])
    for line in (axes.axvline, axes.axhline):
        line(0, color=INK, linewidth=0.6, linestyle=":")
    axes.set_xlabel("margin, behavioural (model units)")
    axes.set_ylabel("margin, ngspice")
    figure.legend(loc="outside upper left", ncols=3, fontsize=7.5)
    return figure


FIGURES: dict[str, Callable[[Summary], Figure]] = {
    "mismatch": mismatch,
    "sensitivity": sensitivity,
    "scale": scale,
    "corners": corners,
    "noise": noise,
    "retention": retention,
    "stuck": stuck,
    "rare": rare,
    "verify": verify,
}
"""By the name of the summary."""
