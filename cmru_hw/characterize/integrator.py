"""The integrator over I_middle and temperature: packets up and down, what copies add, where the rails are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from cmru_hw.characterize.point import AT, Point, Row
from cmru_hw.primitives.integrator import integrator_geometry
from cmru_hw.report.plots import BEHAVIORAL, SPICE, engineering, styled
from cmru_hw.spice.integrator_bench import IntegratorBench, copying, copying_bench
from cmru_hw.spice.rawfile import RawData
from cmru_hw.technology import Technology


def points(technology: Technology) -> list[Point]:
    """A run through the range into both rails, then packets of all sizes, at each current."""
    found = []
    for celsius in _celsius(technology):
        for middle in _middles(technology):
            bench = replace(copying_bench(technology, middle), temperature=celsius)
            at: dict[str, float | str] = {"celsius": celsius, "middle": middle}
            found.append(Point(at, bench.job(), partial(_read, bench)))
    return found


def _celsius(technology: Technology) -> list[float]:
    return integrator_geometry(technology).celsius


def _middles(technology: Technology) -> list[float]:
    """I_middle (A), those that the card tells packets of."""
    return [each.middle for each in integrator_geometry(technology).copying]


def _read(bench: IntegratorBench, data: RawData) -> Row:
    return copying(bench, bench.read(data)).model_dump(exclude={"middle"})


def content(technology: Technology, rows: list[Row]) -> dict[str, Any]:
    """As `cells.integrator.copying` of the card, by temperature."""
    return {"rows": rows}


@styled
def draw(technology: Technology, content: Mapping[str, Any]) -> Figure:
    """Packets over what was asked for."""
    made = Figure(figsize=(5.2, 3.2), layout="constrained")
    axes = made.subplots()
    for celsius, line in zip(_celsius(technology), ("--", "-", ":"), strict=False):
        own = [row for row in content["rows"] if row[AT]["celsius"] == celsius]
        for key, colour in (("up", SPICE), ("down", BEHAVIORAL)):
            packets, label = [row[key] for row in own], f"{key}, {celsius:g} °C"
            axes.semilogx(_middles(technology), packets, line, marker="o", color=colour, label=label)
    engineering(axes.xaxis, "A")
    axes.set(xlabel="I_middle", ylabel="packet over a")
    axes.legend(ncols=3, fontsize=7)
    return made
