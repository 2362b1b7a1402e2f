"""Figures of studies: shares of runs, accuracies of seeds, gradients over time, accuracy over length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from cmru_hw.report.plots import ASKED, BEHAVIORAL, FAINT, INK, SPICE, WIDTH, styled

COLOURS = (SPICE, BEHAVIORAL, INK, "#4a9c6d", "#7b5ea7", "#b0413e", "#6fa3c7", "#a08a2c", ASKED, "#c77fa8")


@styled
def solved_grid(
    titles: Sequence[str], columns: Sequence[str], groups: Sequence[str], solved: Sequence[Sequence[float]],
    texts: Sequence[Sequence[str]], label: str,
) -> Figure:  # fmt: skip
    """Shares 0 to 1 as a shaded table: a row a title, columns repeated in each group."""
    shares = np.asarray(solved, dtype=float)
    rows, width = shares.shape
    figure = Figure(figsize=(max(WIDTH, 2.2 + 0.45 * width), 1.1 + 0.32 * rows), layout="constrained")
    axes = figure.add_subplot()
    axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1.25, edgecolors="white", linewidth=0.5)
    axes.invert_yaxis()
    axes.set_yticks(np.arange(rows) + 0.5, titles)
    axes.set_xticks(np.arange(width) + 0.5, columns)
    each = width // len(groups)
    for number, name in enumerate(groups):
        axes.text((number + 0.5) * each, -0.25, name, ha="center", va="bottom", fontsize=8.5)
        if number:
            axes.axvline(number * each, color="white", linewidth=3)
    axes.set_xlabel(label)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for row in range(rows):
        for column in range(width):
            colour = "white" if shares[row, column] > 0.6 else INK
            axes.text(
                column + 0.5, row + 0.5, texts[row][column], ha="center", va="center", color=colour,
                fontsize=7.5,
            )  # fmt: skip
    return figure


@styled
def accuracies_of_seeds(
    titles: Sequence[str], panels: Mapping[str, Sequence[Sequence[float]]], level: float
) -> Figure:
    """Accuracy (0 to 1) of every seed, a row a title, a panel a task; a dashed line at `level`."""
    figure = Figure(
        figsize=(max(WIDTH, 1.6 + 1.7 * len(panels)), 1.0 + 0.27 * len(titles)), layout="constrained"
    )
    every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (name, rows) in zip(every, panels.items(), strict=True):
        axes.axvline(100 * level, color=ASKED, linestyle="--", linewidth=0.8)
        for number, values in enumerate(rows):
            aside = np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else np.zeros(1)
            axes.plot(
                100 * np.asarray(values), number + aside, "o", ms=3.2, color=SPICE, alpha=0.7,
                markeredgewidth=0,
            )  # fmt: skip
        axes.set_title(name.replace("_", " "), loc="left")
        axes.set_xlim(-3, 104)
        axes.grid(color=FAINT, linewidth=0.6)
        axes.set_xlabel("test accuracy (%)")
    every[0].set_yticks(range(len(titles)), titles)
    every[0].set_ylim(len(titles) - 0.5, -0.5)
    return figure


@styled
def gradient_reach(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Gradient norms [T], oldest frame first, over the distance from the end, by title and label."""
    figure = Figure(figsize=(WIDTH, 0.8 + 2.1 * len(panels)), layout="constrained")
    every = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    largest = max(max(values) for lines in panels.values() for values in lines.values())
    for axes, (title, lines) in zip(every, panels.items(), strict=True):
        for number, (name, values) in enumerate(lines.items()):
            norms = np.asarray(values, dtype=float)[::-1]
            colour = COLOURS[number % len(COLOURS)]
            shown = np.maximum(norms, largest * 1e-10)
            axes.plot(np.arange(len(norms)), shown, color=colour, label=name)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(largest * 1e-10, largest * 3)
        axes.set_title(title, loc="left")
        axes.set_ylabel("|d loss / d x|")
        axes.grid(color=FAINT, linewidth=0.6)
    every[-1].set_xlabel("frames before the last")
    figure.legend(*every[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


@styled
def lines_of_seeds(
    x: Sequence[float], lines: Mapping[str, Sequence[Sequence[float]]], label: str, chance: float,
    logarithmic: bool = True, trained: float | None = None,
) -> Figure:  # fmt: skip
    """Mean accuracy (0 to 1) over x, a line each with the range of its seeds [seeds, len(x)] shaded."""
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, seeds) in enumerate(lines.items()):
        each = 100 * np.asarray(seeds, dtype=float)
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(x, each.mean(0), "o-", ms=3.5, color=colour, label=name)
        axes.fill_between(x, each.min(0), each.max(0), color=colour, alpha=0.12, linewidth=0)
    axes.axhline(100 * chance, color=ASKED, linestyle="--", linewidth=0.8)
    if trained is not None:
        axes.axvline(trained, color=ASKED, linestyle=":", linewidth=1.0)
    if logarithmic:
        axes.set_xscale("log")
    axes.set_xticks(list(x), [f"{value:,g}".replace(",", " ") for value in x])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0, 103)
    axes.set_xlabel(label)
    axes.set_ylabel("accuracy (%)")
    axes.grid(color=FAINT, linewidth=0.6)
    figure.legend(loc="outside upper left", ncols=3)
    return figure
