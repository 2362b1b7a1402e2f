"""Figures from plain data: arrays and dictionaries in SI units in, a matplotlib `Figure` out.

No global pyplot state, no user style: equal data give equal SVG bytes (`svg`). Blue is always SPICE or
measured, orange the behavioural model, grey what was asked for.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike, NDArray

from cmru_hw.errors import ConfigError

Floats = NDArray[np.float64]
P = ParamSpec("P")

SPICE, BEHAVIORAL, ASKED, INK, FAINT = "#2f6690", "#d1752c", "#6b7280", "#262a31", "#e3e6ea"

WIDTH = 5.2  # inch; narrow, so that the text stays readable on a page 400 px wide

STYLE = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": "#9aa1ab",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 9.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "svg.hashsalt": "cmru-hw",
    "svg.fonttype": "path",
}

PREFIXES = {-15: "f", -12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G"}


def si(values: ArrayLike, unit: str) -> tuple[float, str]:
    """Factor and label that bring the largest of `values` (in `unit`) between 1 and 1000: (1e12, "pA")."""
    finite = np.abs(np.asarray(values, dtype=np.float64))
    finite = finite[np.isfinite(finite)]
    largest = float(finite.max()) if finite.size else 0.0
    exponent = 0 if largest == 0 else int(np.floor(np.log10(largest * (1 + 1e-9)) / 3)) * 3
    exponent = min(max(exponent, min(PREFIXES)), max(PREFIXES))
    return 10.0**-exponent, PREFIXES[exponent] + unit


def svg(figure: Figure) -> str:
    """The figure as SVG text, the same for the same data."""
    buffer = io.BytesIO()
    with matplotlib.style.context(["default", STYLE]):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue().decode("utf-8")


def png(figure: Figure, dpi: int = 144) -> bytes:
    """The figure as PNG."""
    buffer = io.BytesIO()
    with matplotlib.style.context(["default", STYLE]):
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.style.context(["default", STYLE]):
            figure = draw(*args, **kwargs)
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # laid out once, so that drawing it twice gives the same
            return figure

    return drawn


def engineering(axis: Axis, unit: str) -> None:
    """Ticks with prefixes: 100 pA."""
    axis.set_major_formatter(EngFormatter(unit))
    axis.set_minor_formatter(NullFormatter())


def _axes(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _array(name: str, values: ArrayLike, *shape: int | None) -> Floats:
    """`values` as finite floats of `shape` (None: any length, but not zero)."""
    array = np.asarray(values, dtype=np.float64)
    fits = array.ndim == len(shape) and all(
        want == have if want is not None else have > 0 for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits:
        want = "x".join("?" if size is None else str(size) for size in shape)
        raise ConfigError(
            f"{name}: shape must be {want}, got {'x'.join(map(str, array.shape)) or 'a number'}"
        )
    if not np.isfinite(array).all():
        raise ConfigError(f"{name}: must be finite")
    return array


@styled
def hysteresis(
    input_a: ArrayLike,
    output_up_a: ArrayLike,
    output_down_a: ArrayLike,
    thresholds: Mapping[str, tuple[float, float]],
) -> Figure:
    """A latch in SPICE: output (A) against input (A), swept up and down.

    `input_a` ascends for both outputs. `thresholds` maps "programmed" and "measured" to (up, down) in A.
    """
    x = _array("input_a", input_a, None)
    up, down = _array("output_up_a", output_up_a, len(x)), _array("output_down_a", output_down_a, len(x))
    figure, axes = _axes(3.1)
    fx, unit_x = si(x, "A")
    fy, unit_y = si([up, down], "A")
    axes.grid(color=FAINT, linewidth=0.6)
    for name, (high, low) in thresholds.items():
        color, dashes = (SPICE, ":") if name == "measured" else (ASKED, "--")
        label = f"{name}: {low * fx:.4g}, {high * fx:.4g} {unit_x}"
        for place, text in ((high, label), (low, None)):
            axes.axvline(place * fx, color=color, linestyle=dashes, linewidth=1.1, label=text)
    axes.plot(x * fx, up * fy, color=SPICE, label="input rising")
    axes.plot(x * fx, down * fy, color=BEHAVIORAL, label="input falling")
    axes.set_xlabel(f"input ({unit_x})")
    axes.set_ylabel(f"output ({unit_y})")
    figure.legend(loc="outside upper left", ncols=2)
    return figure


@styled
def waveforms(
    time_s: ArrayLike,
    spice_a: ArrayLike,
    behavioral_a: ArrayLike,
    frame_period: float,
    names: Sequence[str],
) -> Figure:
    """Currents of one utterance in both models, one small panel each.

    `spice_a` [T, n] at `time_s` [T]; `behavioral_a` [frames, n], each value held for `frame_period` (s).
    """
    count = len(names)
    t = _array("time_s", time_s, None)
    spice = _array("spice_a", spice_a, len(t), count)
    steps = _array("behavioral_a", behavioral_a, None, count)
    ft, unit_t = si([t[-1], len(steps) * frame_period], "s")
    fy, unit_y = si([np.abs(spice).max(), np.abs(steps).max()], "A")
    edges = np.arange(len(steps) + 1) * frame_period * ft
    figure = Figure(figsize=(WIDTH, 0.75 + 0.72 * count), layout="constrained")
    panels = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    for j, (axes, name) in enumerate(zip(panels, names, strict=True)):
        if len(steps) <= 60:
            axes.vlines(
                edges, 0, 1, transform=axes.get_xaxis_transform(), color=FAINT, linewidth=0.6, zorder=0
            )
        axes.plot(t * ft, spice[:, j] * fy, color=SPICE, linewidth=1.2, label="SPICE")
        axes.stairs(
            steps[:, j] * fy,
            edges,
            baseline=None,
            color=BEHAVIORAL,
            linewidth=1.4,
            alpha=0.85,
            label="behavioural",
        )
        axes.set_title(name, loc="left", fontsize=8.5, pad=2)
        axes.yaxis.set_major_locator(MaxNLocator(2, steps=[1, 2, 5, 10]))
        axes.margins(x=0, y=0.12)
    panels[-1].set_xlabel(f"time ({unit_t})")
    figure.supylabel(f"current ({unit_y})", fontsize=9.5)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


@styled
def states(spice: ArrayLike, behavioral: ArrayLike, names: Sequence[str]) -> Figure:
    """States of some cells at the frames' ends in both models, [frames, n] each, one small panel a cell."""
    count = len(names)
    measured = _array("spice", spice, None, count)
    modelled = _array("behavioral", behavioral, len(measured), count)
    frames = np.arange(len(measured)) + 1
    figure = Figure(figsize=(WIDTH, 0.75 + 0.55 * count), layout="constrained")
    panels = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    for j, (axes, name) in enumerate(zip(panels, names, strict=True)):
        axes.stairs(
            modelled[:, j],
            np.arange(len(frames) + 1) + 0.5,
            baseline=None,
            color=BEHAVIORAL,
            linewidth=1.4,
            label="behavioural",
        )
        axes.plot(frames, measured[:, j], ".", color=SPICE, markersize=5, label="SPICE")
        axes.set_title(name, loc="left", fontsize=8.5, pad=2)
        axes.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        axes.margins(x=0.01)
        low, high = (float(end([measured[:, j], modelled[:, j]])) for end in (np.min, np.max))
        room = 0.2 * max(high - low, 1.0)
        axes.set_ylim(low - room, max(high, low + 1.0) + room)
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[-1].set_xlabel("frame")
    figure.supylabel("state", fontsize=9.5)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


@styled
def confusion(matrix: ArrayLike, labels: Sequence[str] | None = None) -> Figure:
    """Counts [true class, decision], shaded by the share of the true class."""
    counts = _array("matrix", matrix, None, None)
    size = len(counts)
    if counts.shape != (size, size):
        raise ConfigError(f"matrix: must be square, got {size}x{counts.shape[1]}")
    ticks = [str(k) for k in range(size)] if labels is None else list(labels)
    if len(ticks) != size:
        raise ConfigError(f"labels: {size} needed, got {len(ticks)}")
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = _axes(min(max(0.34 * size + 1.0, 2.4), 5.0))
    cells = np.arange(size + 1) - 0.5
    axes.pcolormesh(cells, cells, share, cmap="Blues", vmin=0, vmax=1.25, edgecolors="white", linewidth=0.5)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.set_xticks(range(size), ticks, rotation=90 if max(map(len, ticks)) > 3 else 0)
    axes.set_yticks(range(size), ticks)
    axes.set_xlabel("decision")
    axes.set_ylabel("true class")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if size <= 20:
        for row, column in np.argwhere(counts > 0):
            color = "white" if share[row, column] > 0.6 else INK
            axes.text(
                column, row, f"{counts[row, column]:g}", ha="center", va="center", color=color, fontsize=8
            )
    return figure


@styled
def power_breakdown(behavioral: Mapping[str, float], spice: Mapping[str, float] | None = None) -> Figure:
    """Horizontal bars of the power (W) of each "layer/primitive"; a key that one model lacks has no bar."""
    models = {"SPICE": (spice or {}, SPICE), "behavioural": (behavioral, BEHAVIORAL)}
    models = {name: entry for name, entry in models.items() if entry[0]}
    keys = list(dict.fromkeys(key for values, _ in models.values() for key in values))
    if not keys:
        raise ConfigError("power breakdown: no entries")
    values = _array("power", [v for entry, _ in models.values() for v in entry.values()], None)
    factor, unit = si(values, "W")
    figure, axes = _axes(0.95 + 0.36 * len(keys))
    height = 0.8 / len(models)
    for place, (name, (entry, color)) in enumerate(models.items()):
        offset = (place - (len(models) - 1) / 2) * height
        rows = [(k + offset, entry[key] * factor) for k, key in enumerate(keys) if key in entry]
        total, total_unit = si([sum(entry.values())], "W")
        label = f"{name}, {sum(entry.values()) * total:.3g} {total_unit} in all"
        axes.barh([y for y, _ in rows], [x for _, x in rows], height * 0.92, color=color, label=label)
        for y, x in rows:
            axes.annotate(f"{x:.3g}", (x, y), (3, 0), textcoords="offset points", va="center", fontsize=7.5)
    axes.set_yticks(range(len(keys)), [key.replace("_", " ").replace("/", " · ") for key in keys])
    axes.set_ylim(len(keys) - 0.5, -0.5)
    axes.margins(x=0.1)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_xlabel(f"power ({unit})")
    figure.legend(loc="outside upper left", ncols=2)
    return figure


@styled
def accuracy_over_chips(accuracies: ArrayLike, nominal: float, yield_target: float) -> Figure:
    """Histogram of the accuracies (0 to 1) of mismatched chips, with the nominal one and the target."""
    values = 100 * _array("accuracies", accuracies, None)
    target = 100 * yield_target
    low, high = values.min(), values.max()
    apart = np.diff(np.unique(np.round(values, 6)))
    grain = float(apart.min()) if apart.size else 1.0
    step = grain * max(np.ceil((high - low) / grain / 30), 1)
    edges = (
        target - 1e-7 + step * np.arange(np.floor((low - target) / step), np.ceil((high - target) / step) + 2)
    )
    figure, axes = _axes(2.9)
    passed = values >= target - 1e-9
    for chosen, color, verdict in ((~passed, "#b9bec7", "fail"), (passed, SPICE, "reach it")):
        label = f"{chosen.sum()} chips {verdict}"
        axes.hist(values[chosen], edges, color=color, label=label, edgecolor="white", linewidth=0.5)
    axes.axvline(target, color=INK, linestyle="--", linewidth=1.2, label=f"target {target:.4g} %")
    axes.axvline(
        100 * nominal, color=BEHAVIORAL, linewidth=1.6, label=f"without mismatch {100 * nominal:.4g} %"
    )
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("accuracy (%)")
    axes.set_ylabel("chips")
    figure.legend(loc="outside upper left", ncols=2)
    return figure


@styled
def aware_training(
    scales: ArrayLike,
    yields: Mapping[str, ArrayLike],
    accuracies: Mapping[str, ArrayLike],
    yield_target: float,
) -> Figure:
    """Yield and mean accuracy (0 to 1) over factors on sigma [S], by recipe `plain` and `aware`: [seeds, S].

    Seeds are thin lines, their means thick ones. Above: the area of transistors with such sigmas.
    """
    at = _array("scales", scales, None)
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    rows = figure.subplots(2, 1, sharex=True)
    target = f"{100 * yield_target:.4g} %"
    for axes, found, label in (
        (rows[0], yields, f"chips with {target} accuracy (%)"),
        (rows[1], accuracies, "mean accuracy (%)"),
    ):
        for recipe, color in (("plain", ASKED), ("aware", SPICE)):
            each = 100 * _array(recipe, found[recipe], None, len(at))
            axes.plot(at, each.T, color=color, linewidth=0.6, alpha=0.6)
            axes.plot(at, each.mean(axis=0), color=color, linewidth=2, label=f"{recipe} training")
        axes.set_ylabel(label)
        axes.grid(color=FAINT)
    rows[1].axhline(100 * yield_target, color=INK, linestyle="--", linewidth=1.0)
    rows[1].set_xlabel("sigma of mismatch, over that of the card's transistors")
    rows[0].set_ylim(-3, 103)
    above = rows[0].secondary_xaxis("top")
    above.set_xticks(at, [f"{1 / s**2:.2g}" if s > 0 else "" for s in at])
    above.set_xlabel("area of as good transistors")
    rows[0].legend(loc="lower left")
    return figure


@styled
def sizing_front(
    optimised: Sequence[Mapping[str, Any]], uniform: Sequence[Mapping[str, Any]], least_yield: float
) -> Figure:
    """Yield over power times area, and power over area: optimised designs and those of one size everywhere.

    Each has `yield`, `yield_ci95`, `power_w` and `area_m2`. Below, designs that yield less are hollow.
    """
    figure = Figure(figsize=(WIDTH, 6.0), layout="constrained")
    above, below = figure.subplots(2, 1)
    for points, color, marker, label in (
        (uniform, ASKED, "s", "one size everywhere"),
        (optimised, SPICE, "o", "optimised"),
    ):
        shares = _array("yield", [point["yield"] for point in points], None)
        low, high = _array("yield_ci95", [point["yield_ci95"] for point in points], len(shares), 2).T
        watts = _array("power_w", [point["power_w"] for point in points], len(shares)) * 1e9
        areas = _array("area_m2", [point["area_m2"] for point in points], len(shares)) * 1e12
        bars = 100 * np.stack([shares - low, high - shares]).clip(min=0)
        above.errorbar(
            watts * areas,
            100 * shares,
            bars,
            fmt=marker,
            color=color,
            markersize=4,
            linewidth=0.8,
            label=label,
        )
        enough = shares >= least_yield
        below.scatter(areas, watts, s=18, marker=marker, edgecolors=color, facecolors="none", linewidths=0.8)
        below.scatter(areas[enough], watts[enough], s=18, marker=marker, color=color)
    above.axhline(100 * least_yield, color=INK, linestyle="--", linewidth=0.8)
    above.set(xscale="log", xlabel="power times area (nW um²)", ylabel="chips that reach the accuracy (%)")
    below.set(xscale="log", xlabel="area (um²)", ylabel="power (nW)", ylim=(0, None))
    for axes in (above, below):
        axes.grid(color=FAINT)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
        axes.minorticks_off()
    figure.legend(*above.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


@styled
def training_curve(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Losses and accuracies over "step": one row a record, as `history.csv` has them.

    Draws every key that ends in "loss" (upper panel) or "accuracy" (lower panel); None is a gap.
    """
    if not history:
        raise ConfigError("training history: no rows")
    steps = [row["step"] for row in history]
    keys = list(dict.fromkeys(key for row in history for key in row))
    groups = {kind: [key for key in keys if key.endswith(kind)] for kind in ("loss", "accuracy")}
    groups = {kind: found for kind, found in groups.items() if found}
    if not groups:
        raise ConfigError(f"training history: no loss or accuracy among {', '.join(keys)}")
    figure = Figure(figsize=(WIDTH, 0.6 + 1.55 * len(groups)), layout="constrained")
    panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (kind, found) in zip(panels, groups.items(), strict=True):
        axes.grid(color=FAINT, linewidth=0.6)
        percent = 100.0 if kind == "accuracy" else 1.0
        for key in found:
            rows = [
                (step, row[key]) for step, row in zip(steps, history, strict=True) if row.get(key) is not None
            ]
            color = BEHAVIORAL if "validation" in key or "test" in key else SPICE
            label = {"loss": "training batches", "batch_accuracy": "training batches"}.get(key)
            label = label or key.removesuffix(kind).strip("_") or key
            marker = "o" if len(rows) == 1 else None
            axes.plot(
                [s for s, _ in rows],
                [percent * v for _, v in rows],
                color=color,
                marker=marker,
                ms=3,
                label=label,
            )
        axes.set_ylabel("accuracy (%)" if kind == "accuracy" else "loss")
        axes.legend()
    panels[-1].set_xlabel("step")
    return figure
