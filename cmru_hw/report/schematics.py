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
from cmru_hw.primitives.integrator import Integrator
from cmru_hw.primitives.latch_bank import bank_geometry
from cmru_hw.report.plots import INK
from cmru_hw.technology import Geometry, Technology

ACROSS, DOWN, HIGH = 5.2, 2.7, 1.5  # from column to column and from row to row; of a transistor
FLIPPED = "~"
"""Before the name of a transistor that is drawn upside down: a switch."""
Columns = Sequence[Sequence[str | None]]


@dataclass(frozen=True)
class Transistor:
    """One of a cell: polarity, nets at drain, gate and source, and its size as written beside it."""

    polarity: str
    drain: str
    gate: str
    source: str
    size: str


@dataclass(frozen=True)
class Capacitor:
    """From a net to ground."""

    net: str
    size: str


Parts = Mapping[str, Transistor | Capacitor]


def parts(file: str, cell: str, sizes: Mapping[str, float | str]) -> dict[str, Transistor | Capacitor]:
    """Of a cell in `circuits/`, by name M1, M2, ..., CS; `sizes` its parameters, W and L in um.

    Capacitors without a size in `sizes` stand for wires and are left out.
    """
    text = packaged("circuits", file).read_text(encoding="utf-8")
    body = re.search(rf"^\.subckt {cell} (.*?)^\.ends {cell}$", text, re.MULTILINE | re.DOTALL)
    if body is None:
        raise ConfigError(f"circuits/{file}: has no cell {cell}")
    found: dict[str, Transistor | Capacitor] = {}
    pattern = r"^X(\d+) +(\S+) +(\S+) +(\S+) +\S+ +([np])fet +W={(\w+)} +L={(\w+)} +M={?(\w+)}?"
    for number, drain, gate, source, polarity, w, l, m in re.findall(pattern, body[1], re.MULTILINE):  # noqa: E741
        units = sizes[m] if m in sizes else int(m)
        one = f"{sizes[w]}/{sizes[l]}"
        size = one if units == 1 else f"{units} x {one}"
        found[f"M{number}"] = Transistor(polarity, drain, gate, source, size)
    for name, net, value in re.findall(r"^(C\w) (\S+) +0 {(\w+)}", body[1], re.MULTILINE):
        if value in sizes:
            found[name] = Capacitor(net, str(sizes[value]))
    return found


def latch(technology: Technology) -> str:
    """The nine-transistor latch, D unit transistors in its output diode, as SVG."""
    sizes = (
        _wl("", technology.unit) | _wl("S", technology.switch) | {"U": technology.latch_units, "UOUT": "D"}
    )
    cell = parts("latch_9t.sub", "latch_9t", sizes)
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
    cell = parts("window_comparator.sub", "current_comparator", sizes | {"U": technology.latch_units})
    return draw(cell, [["M1", "M4"], ["M2", "M5"], ["M3", None], [None, "M6"]])


def bank_unit(technology: Technology) -> str:
    """A set-reset unit of a latch bank, as SVG."""
    cell = parts("latch_bank.sub", "set_reset", _wl("", bank_geometry(technology).logic))
    return draw(
        cell,
        [["M5", "M4", "M1", "M2"], ["M6", None, "M3", None], ["M11", "M10", "M7", "M8"],
         ["M12", None, "M9", None]],
    )  # fmt: skip


def integrator_memory(technology: Technology) -> str:
    """Both memories of an integrator, their switches, and the reset, as SVG."""
    return _integrator(
        "memory",
        [["M5", "M2", "M1"], ["M6", "~M7"], [None, "M4", None, "CT"], [None, "M3", None, "M9"], [None, "M8"],
         [None, "CS"]],
        technology,
    )  # fmt: skip


def integrator_packet(technology: Technology) -> str:
    """An integrator's packets up and down, as SVG."""
    return _integrator(
        "packet",
        [["M1", "M2"], ["M4", "M6", "M8"], [None, "M11"], ["~M9", "~M7", "~M5", "M3"], [None, None, "M10"]],
        technology,
    )


def integrator_rails(technology: Technology) -> str:
    """What takes off an integrator's steps past the rails, as SVG."""
    return _integrator("rails", [["M3", "M1"], ["M4", "M2"], ["M6", "M5"], ["M7", "M8"]], technology)


def integrator_phases(technology: Technology) -> str:
    """An integrator's phases from strobe, reset and decisions, as SVG: gates of two inputs and inverters."""
    gap = [None, None, None, None]
    return _integrator(
        "phases",
        [["M3", "M1", "M2", None, "M14", "M13"], ["M4", None, None, None, "M16", "M15"],
         ["M7", "M5", "M6", None, "M18", "M17"], ["M8", None, None, None, "M22", "M21", "M19"],
         ["M11", "M9", "M10", None, None, None, "M20"], ["M12", None, None, None, "M26", "M25", "M23"],
         [*gap, None, None, "M24"]],
        technology,
    )  # fmt: skip


def _integrator(name: str, columns: Columns, technology: Technology) -> str:
    sizes: dict[str, float | str] = {}
    for key, value in Integrator.sizes(name, technology).items():
        farad = key.startswith("C")
        sizes[key] = f"{float(str(value)) * 1e12:g} pF" if farad else str(value).removesuffix("u")
    cell = parts("integrator.sub", f"integrator_{name}", sizes)
    return draw(cell, columns)


DRAWINGS: dict[str, dict[str, Callable[[Technology], str]]] = {
    "mirror": {"mirror": mirror},
    "latch": {"latch": latch},
    "comparator": {"comparator": comparator},
    "latch_bank": {"bank_unit": bank_unit},
    "integrator": {
        part.__name__: part
        for part in (integrator_memory, integrator_packet, integrator_rails, integrator_phases)
    },
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


def draw(cell: Parts, columns: Columns) -> str:
    """Transistors and capacitors in columns, top to bottom, as SVG; the same for the same cell."""
    import schemdraw
    from schemdraw import elements as elm

    drawing = schemdraw.Drawing(canvas="svg", show=False)
    drawing.config(
        fontsize=11, font="DejaVu Sans, Verdana, sans-serif", color=INK, lw=1.3, bgcolor="white", margin=0.4
    )

    def wire(*points: tuple[float, float]) -> None:
        for start, end in pairwise(points):
            drawing.add(elm.Line().at(start).to(end))

    def dot(x: float, y: float) -> None:
        drawing.add(elm.Dot(radius=0.06).at((x, y)))

    def text(words: str, x: float, y: float, side: Literal["left", "right"] = "left") -> None:
        drawing.add(elm.Label().theta(0).at((x, y)).label(words, loc="center", halign=side, ofst=(0, 0)))

    nodes: dict[tuple[float, float], str] = {}  # by place
    loops: list[tuple[float, float]] = []  # corners of the diodes' wires

    def end(net: str, x: float, y: float) -> None:
        if net in ("vdd", "0"):
            drawing.add((elm.Vdd() if net == "vdd" else elm.Ground()).at((x, y)))
        elif nodes.setdefault((round(x, 6), round(y, 6)), net) != net:
            raise ValueError(f"{net} is drawn where {nodes[round(x, 6), round(y, 6)]} is")

    for column, names in enumerate(columns):
        x = column * ACROSS
        for row, placed in enumerate(names):
            if placed is None:
                continue
            name, y = placed.removeprefix(FLIPPED), -row * DOWN
            one = cell[name]
            if isinstance(one, Capacitor):
                drawing.add(elm.Capacitor().at((x, y + DOWN / 2)).to((x, y - DOWN / 2)))
                upper, lower = one.net, "0"
            else:
                fet: Any = (elm.PFet if one.polarity == "p" else elm.NFet)()
                drawing.add(fet.theta(0).reverse().anchor("center").at((x, y)))
                gate = fet.absanchors["gate"]
                source_above = (one.polarity == "p") != placed.startswith(FLIPPED)
                upper, lower = (one.source, one.drain) if source_above else (one.drain, one.source)
                for way in (1, -1):
                    wire((x, y + way * HIGH / 2), (x, y + way * DOWN / 2))
                if one.gate == one.drain:
                    corner = (gate[0], y + (DOWN / 2 if upper == one.drain else -DOWN / 2))
                    wire((gate[0], gate[1]), corner, (x, corner[1]))
                    loops.append(corner)
                else:
                    text(one.gate, gate[0] - 0.2, gate[1] - 0.1, "right")
            end(upper, x, y + DOWN / 2)
            end(lower, x, y - DOWN / 2)
            text(name, x + 0.35 if isinstance(one, Capacitor) else x + 0.2, y + 0.22)
            text(one.size, x + 0.35 if isinstance(one, Capacitor) else x + 0.2, y - 0.22)
    for (x, y), net in nodes.items():
        dot(x, y)
        above, beside = (x, round(y + DOWN, 6)), (round(x + ACROSS, 6), y)
        if nodes.get(above) == net:
            wire((x, y), above)
        if nodes.get(beside) == net:
            wire((x, y), beside)
            for corner in loops:
                if x < corner[0] < beside[0] and corner[1] == y:
                    dot(*corner)
        elif nodes.get(above) != net:
            text(net, x + 0.12, y - 0.3)
    return drawing.get_imagedata("svg").decode("utf-8")
