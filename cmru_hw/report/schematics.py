"""Schematics of the primitives' cells, with a technology's sizes. Needs `pip install 'cmru-hw[drawings]'`.

Connections and parameters are read off the cells in `circuits/`, so only the places are given here. Nets
that meet bear the same name; a bulk is at its rail.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, Literal

from cmru_hw.config import packaged
from cmru_hw.errors import ConfigError
from cmru_hw.primitives.comparator import comparator_geometry
from cmru_hw.primitives.latch_bank import bank_geometry
from cmru_hw.report.plots import INK
from cmru_hw.technology import Geometry, Technology

ACROSS, DOWN, HIGH = 4.4, 2.7, 1.5  # from column to column and from row to row; of a transistor
Columns = Sequence[Sequence[str | None]]


@dataclass(frozen=True)
class Transistor:
    """One of a cell: polarity, nets at drain, gate and source, and its size as written beside it."""

    polarity: str
    drain: str
    gate: str
    source: str
    size: str


def transistors(file: str, cell: str, sizes: Mapping[str, float | str]) -> dict[str, Transistor]:
    """Of a cell in `circuits/`, by name M1, M2, ...; `sizes` its parameters, W and L in um."""
    text = packaged("circuits", file).read_text(encoding="utf-8")
    body = re.search(rf"^\.subckt {cell} (.*?)^\.ends {cell}$", text, re.MULTILINE | re.DOTALL)
    if body is None:
        raise ConfigError(f"circuits/{file}: has no cell {cell}")
    found = {}
    pattern = r"^X(\d+) +(\S+) +(\S+) +(\S+) +\S+ +([np])fet +W={(\w+)} +L={(\w+)} +M={?(\w+)}?"
    for number, drain, gate, source, polarity, w, l, m in re.findall(pattern, body[1], re.MULTILINE):  # noqa: E741
        units = sizes[m] if m in sizes else int(m)
        one = f"{sizes[w]}/{sizes[l]}"
        size = one if units == 1 else f"{units} x {one}"
        found[f"M{number}"] = Transistor(polarity, drain, gate, source, size)
    return found


def latch(technology: Technology) -> str:
    """The nine-transistor latch, D unit transistors in its output diode, as SVG."""
    sizes = (
        _wl("", technology.unit) | _wl("S", technology.switch) | {"U": technology.latch_units, "UOUT": "D"}
    )
    cell = transistors("latch_9t.sub", "latch_9t", sizes)
    return draw(cell, [["M1", None, "M2"], ["M9", None, None], ["M7", "M6", "M8"], ["M4", "M3", "M5"]])


def mirror(technology: Technology) -> str:
    """A node with a pMOS diode and a node with an nMOS diode, each with both signs, as SVG.

    D unit transistors in the diode, k for a weight of k / D.
    """
    size = f"{technology.unit.w_um:g}/{technology.unit.l_um:g}"
    k, d = f"k x {size}", f"D x {size}"
    cell = {
        "plus": Transistor("n", "node_p", "source_n", "0", k),
        "minus": Transistor("p", "node_p", "source_p", "vdd", k),
        "diode": Transistor("p", "node_p", "node_p", "vdd", d),
        "plus'": Transistor("p", "node_n", "source_p", "vdd", k),
        "minus'": Transistor("n", "node_n", "source_n", "0", k),
        "diode'": Transistor("n", "node_n", "node_n", "0", d),
    }
    return draw(cell, [["minus", "plus"], ["diode", None], ["plus'", "minus'"], [None, "diode'"]])


def comparator(technology: Technology) -> str:
    """One half of a window comparator, as SVG."""
    geometry = comparator_geometry(technology)
    sizes = _wl("", technology.unit) | _wl("P", geometry.pair) | _wl("E", geometry.equaliser)
    cell = transistors("window_comparator.sub", "current_comparator", sizes | {"U": technology.latch_units})
    return draw(cell, [["M1", "M4"], ["M2", "M5"], ["M3", None], [None, "M6"]])


def bank_unit(technology: Technology) -> str:
    """A set-reset unit of a latch bank, as SVG."""
    cell = transistors("latch_bank.sub", "set_reset", _wl("", bank_geometry(technology).logic))
    return draw(
        cell,
        [["M5", "M4", "M1", "M2"], ["M6", None, "M3", None], ["M11", "M10", "M7", "M8"],
         ["M12", None, "M9", None]],
    )  # fmt: skip


DRAWINGS: dict[str, dict[str, Callable[[Technology], str]]] = {
    "mirror": {"mirror": mirror},
    "latch": {"latch": latch},
    "comparator": {"comparator": comparator},
    "latch_bank": {"bank_unit": bank_unit},
}
"""By the primitive's kind and the name of the drawing."""


def left_out() -> str | None:
    """What to say where schematics cannot be drawn."""
    if find_spec("schemdraw"):
        return None
    return "schematics, as schemdraw is not installed: pip install 'cmru-hw[drawings]'"


def drawings(kinds: Collection[str], technology: Technology) -> dict[str, str]:
    """SVG by file name, of the primitives of these kinds that have a drawing."""
    return {
        f"{name}.svg": drawn(technology)
        for kind, made in DRAWINGS.items()
        if kind in kinds
        for name, drawn in made.items()
    }


def _wl(suffix: str, size: Geometry) -> dict[str, float | str]:
    return {f"W{suffix}": f"{size.w_um:g}", f"L{suffix}": f"{size.l_um:g}"}


def draw(cell: Mapping[str, Transistor], columns: Columns) -> str:
    """Transistors in columns, top to bottom, as SVG; the same for the same cell."""
    import schemdraw
    from schemdraw import elements as elm

    drawing = schemdraw.Drawing(canvas="svg", show=False)
    drawing.config(
        fontsize=11, font="DejaVu Sans, Verdana, sans-serif", color=INK, lw=1.3, bgcolor="white", margin=0.4
    )

    def wire(*points: tuple[float, float]) -> None:
        for start, end in pairwise(points):
            drawing.add(elm.Line().at(start).to(end))

    def text(words: str, x: float, y: float, side: Literal["left", "right"] = "left") -> None:
        drawing.add(elm.Label().theta(0).at((x, y)).label(words, loc="center", halign=side, ofst=(0, 0)))

    nodes: dict[tuple[float, float], str] = {}
    for column, names in enumerate(columns):
        x = column * ACROSS
        for row, name in enumerate(names):
            if name is None:
                continue
            one, y = cell[name], -row * DOWN
            fet: Any = (elm.PFet if one.polarity == "p" else elm.NFet)()
            drawing.add(fet.theta(0).reverse().anchor("center").at((x, y)))
            gate = fet.absanchors["gate"]
            upper, lower = (one.source, one.drain) if one.polarity == "p" else (one.drain, one.source)
            for net, way in ((upper, 1), (lower, -1)):
                end = y + way * DOWN / 2
                wire((x, y + way * HIGH / 2), (x, end))
                if net in ("vdd", "0"):
                    drawing.add((elm.Vdd() if net == "vdd" else elm.Ground()).at((x, end)))
                else:
                    nodes[round(x, 6), round(end, 6)] = net
            if one.gate == one.drain:
                end = y + (DOWN / 2 if one.polarity == "n" else -DOWN / 2)
                wire((gate[0], gate[1]), (gate[0], end), (x, end))
            else:
                text(one.gate, gate[0] - 0.08, gate[1], "right")
            text(name, x + 0.2, y + 0.22)
            text(one.size, x + 0.2, y - 0.22)
    for (x, y), net in nodes.items():
        drawing.add(elm.Dot(radius=0.06).at((x, y)))
        text(net, x + 0.12, y - 0.22)
        below = (x, round(y - DOWN, 6))
        if nodes.get(below) == net:
            wire((x, y), below)
        beside = (round(x + ACROSS, 6), y)
        if nodes.get(beside) == net:
            wire((x, y), beside)
    return drawing.get_imagedata("svg").decode("utf-8")
