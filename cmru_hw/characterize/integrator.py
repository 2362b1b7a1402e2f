"""The integrator over I_middle and temperature: packets up and down, what copies add, where the rails are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from cmru_hw.characterize.point import AT, Point, Row
from cmru_hw.report.plots import BEHAVIORAL, SPICE, engineering, styled
from cmru_hw.spice.integrator_bench import IntegratorBench, copying, copying_bench
from cmru_hw.spice.rawfile import RawData
from cmru_hw.technology import Technology

CELSIUS = (-20.0, 27.0, 85.0)
MIDDLES = (5e-10, 7e-10, 1e-9, 1.4e-9)  # A


def points(technology: Technology) -> list[Point]:
    """A run through the range into both rails, then packets of all sizes, at each current."""
    found = []
    for celsius in CELSIUS:
        for middle in MIDDLES:
            bench = replace(copying_bench(technology, middle), temperature=celsius)
            at: dict[str, float | str] = {"celsius": celsius, "middle": middle}
            found.append(Point(at, bench.job(), partial(_read, bench)))
    return found


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
    for celsius, line in zip(CELSIUS, ("--", "-", ":"), strict=True):
        own = [row for row in content["rows"] if row[AT]["celsius"] == celsius]
        for key, colour in (("up", SPICE), ("down", BEHAVIORAL)):
            packets, label = [row[key] for row in own], f"{key}, {celsius:g} °C"
            axes.semilogx(MIDDLES, packets, line, marker="o", color=colour, label=label)
    engineering(axes.xaxis, "A")
    axes.set(xlabel="I_middle", ylabel="packet over a")
    axes.legend(ncols=3, fontsize=7)
    return made
