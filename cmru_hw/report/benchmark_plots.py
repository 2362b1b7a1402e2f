"""The figure of the benchmarks: accuracy over the number of parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from cmru_hw.report.plots import ASKED, BEHAVIORAL, FAINT, INK, SPICE, WIDTH, styled

COLOURS = (SPICE, BEHAVIORAL, "#4a9c6d", "#7b5ea7", ASKED, INK, "#c77fa8")
MARKERS = "osD^vPX"

Line = tuple[Sequence[int], Sequence[Sequence[float]]]
"""Parameters [S] and accuracies 0 to 1 [S, seeds]."""


@styled
def accuracy_over_size(panels: Mapping[str, Mapping[str, Line]], sizes: Sequence[int]) -> Figure:
    """A panel a task, a line a unit: mean accuracy over parameters, bars of one standard deviation.

    `sizes` are the numbers of parameters that were wanted, for the ticks.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(WIDTH, 0.9 + 2.0 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (task, lines) in zip(grid, panels.items(), strict=False):
        for (title, (parameters, accuracies)), colour, marker in zip(
            lines.items(), COLOURS, MARKERS, strict=False
        ):
            values = 100 * np.asarray(accuracies)
            axes.errorbar(
                parameters, values.mean(1), values.std(1, ddof=1 if values.shape[1] > 1 else 0),
                color=colour, marker=marker, markersize=3.5, linewidth=1.1, elinewidth=0.7, label=title,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set_xticks([], minor=True)
        axes.set_title(task, fontsize=8.5)
        axes.grid(color=FAINT)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    figure.supxlabel("parameters", fontsize=9)
    figure.supylabel("test accuracy (%)", fontsize=9)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
    return figure
