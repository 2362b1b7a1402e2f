"""Block diagram of a mapped network: a box a stage, an arrow from each stage that it takes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cmru_hw.report.plots import BEHAVIORAL, FAINT, INK, SPICE, styled

WIDE, HIGH = 1.75, 0.62  # inch, of a box
ACROSS, DOWN = 2.1, 1.15  # inch, from box to box
SIDE = 0.7  # inch, for arrows around boxes


@dataclass(frozen=True)
class Box:
    """A stage: its primitive, size, unit transistors and the stages it takes from."""

    primitive: str
    size: int
    transistors: int
    taken: Sequence[str]
    holds_state: bool = False


@styled
def block_diagram(boxes: Mapping[str, Box]) -> Figure:
    """Signals flow down; boxes in signal order by name. Stages that hold the state are orange."""
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
    figure = Figure(figsize=(widest * ACROSS + 2 * SIDE, len(levels) * DOWN))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-SIDE, widest * ACROSS + SIDE), ylim=(-len(levels) * DOWN, 0))
    axes.axis("off")
    middle = widest * ACROSS / 2
    for name, box in boxes.items():
        x, y = at[name]
        for source in box.taken:
            from_x, from_y = at[source]
            far = rows[name] - rows[source] > 1
            bend = (0.35 if from_x <= middle else -0.35) if far else 0.0  # around what lies between
            axes.annotate(
                "", (x, y + HIGH / 2), (from_x, from_y - HIGH / 2), zorder=1,
                arrowprops={"arrowstyle": "->", "color": "#9aa1ab", "lw": 0.9,
                            "connectionstyle": f"arc3,rad={bend}"},
            )  # fmt: skip
        colour = BEHAVIORAL if box.holds_state else SPICE
        corner = (x - WIDE / 2, y - HIGH / 2)
        axes.add_patch(Rectangle(corner, WIDE, HIGH, facecolor=FAINT, edgecolor=colour, lw=1.2, zorder=2))
        axes.text(x, y + 0.11, name, ha="center", va="center", fontsize=8.5, color=INK, zorder=3)
        told = f"{box.size} x {box.primitive}, {box.transistors} tr."
        axes.text(x, y - 0.14, told, ha="center", va="center", fontsize=7, color=INK, zorder=3)
    return figure
