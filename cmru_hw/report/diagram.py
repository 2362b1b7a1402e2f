"""Block diagram of a mapped network: a box a stage, an arrow from each stage that it takes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cmru_hw.design import Design
from cmru_hw.report.plots import BEHAVIORAL, FAINT, INK, SPICE, styled

WIDE, HIGH = 1.75, 0.62  # inch, of a box
ACROSS, DOWN = 2.1, 1.15  # inch, from box to box
LANE = 0.17  # inch, between connections that pass other rows

ARROW = {"arrowstyle": "->", "color": "#9aa1ab", "lw": 0.9, "shrinkA": 0, "shrinkB": 0}


@dataclass(frozen=True)
class Box:
    """A stage: its primitive, size, unit transistors and the stages it takes from."""

    primitive: str
    size: int
    transistors: int
    taken: Sequence[str]
    holds_state: bool = False


def boxes(design: Design) -> dict[str, Box]:
    """Stages of a design by name."""
    return {
        stage.name: Box(
            stage.kind.replace("_", " "), stage.size,
            sum(array.count for array in stage.devices(design.technology).values()),
            [name for name, _ in stage.taken()], stage.name in design.facts.states,
        )
        for stage in design.stages
    }  # fmt: skip


@styled
def block_diagram(boxes: Mapping[str, Box]) -> Figure:
    """Signals flow down; boxes in signal order by name. Stages that hold the state are orange.

    What a stage gives to rows below the next runs beside the boxes, in a lane of its own.
    """
    rows: dict[str, int] = {}
    for name, box in boxes.items():
        rows[name] = 1 + max((rows[source] for source in box.taken), default=-1)
    levels = [[name for name in boxes if rows[name] == row] for row in range(max(rows.values()) + 1)]
    widest = max(map(len, levels))
    at = {
        name: ((k + (widest - len(level)) / 2 + 0.5) * ACROSS, -(row + 0.5) * DOWN)
        for row, level in enumerate(levels)
        for k, name in enumerate(level)
    }
    middle = widest * ACROSS / 2
    far = dict.fromkeys(source for name, box in boxes.items() for source in box.taken
                        if rows[name] - rows[source] > 1)  # fmt: skip
    lanes: dict[int, list[str]] = {-1: [], 1: []}  # left and right, the highest source outermost
    for source in sorted(far, key=rows.__getitem__):
        x = at[source][0]
        shorter = 1 if len(lanes[1]) < len(lanes[-1]) else -1
        lanes[shorter if abs(x - middle) < WIDE / 2 else (1 if x > middle else -1)].append(source)
    side = (max(map(len, lanes.values())) + 1) * LANE
    figure = Figure(figsize=(widest * ACROSS + 2 * side, len(levels) * DOWN))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-side, widest * ACROSS + side), ylim=(-len(levels) * DOWN, 0))
    axes.axis("off")
    style: dict[str, Any] = {"color": "#9aa1ab", "lw": 0.9, "zorder": 1}
    for way, sources in lanes.items():
        for k, source in enumerate(sources):
            inwards = len(sources) - k  # 1: the innermost
            lane = middle + way * (middle + (inwards - 0.5) * LANE)
            (x, y), last = at[source], len(sources) + 1
            spread = way * inwards / last * WIDE / 2
            row = [at[other][0] for other in levels[rows[source]]]
            start = [(x + way * WIDE / 2, y)]
            if way * x < max(way * other for other in row):  # not at that end of its row
                under = y - HIGH / 2 - inwards / last * (DOWN - HIGH) / 2
                start = [(x + spread, y - HIGH / 2), (x + spread, under)]
            for name, box in boxes.items():
                if source in box.taken and rows[name] - rows[source] > 1:
                    to_x, to_y = at[name][0] + spread, at[name][1] + HIGH / 2
                    over = to_y + inwards / last * (DOWN - HIGH) / 2 + 0.1
                    path = [*start, (lane, start[-1][1]), (lane, over), (to_x, over)]
                    axes.plot(*zip(*path, strict=True), **style)
                    axes.annotate("", (to_x, to_y), (to_x, over), zorder=1, arrowprops=ARROW)
    for name, box in boxes.items():
        x, y = at[name]
        for source in box.taken:
            if rows[name] - rows[source] == 1:
                ends = (x, y + HIGH / 2), (at[source][0], at[source][1] - HIGH / 2)
                axes.annotate("", *ends, zorder=1, arrowprops=ARROW)
        colour = BEHAVIORAL if box.holds_state else SPICE
        corner = (x - WIDE / 2, y - HIGH / 2)
        axes.add_patch(Rectangle(corner, WIDE, HIGH, facecolor=FAINT, edgecolor=colour, lw=1.2, zorder=2))
        axes.text(x, y + 0.11, name, ha="center", va="center", fontsize=8.5, color=INK, zorder=3)
        told = f"{box.size} x {box.primitive}, {box.transistors} tr."
        axes.text(x, y - 0.14, told, ha="center", va="center", fontsize=7, color=INK, zorder=3)
    return figure
