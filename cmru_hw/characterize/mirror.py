"""Mirrors over current, count, temperature and size: what arrives of what the count promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cmru_hw.characterize.point import AT, Point, Row
from cmru_hw.report.plots import BEHAVIORAL, SPICE, engineering, styled
from cmru_hw.spice.job import LATCH, Job, OperatingPoint
from cmru_hw.spice.netlist import MODELS
from cmru_hw.spice.rawfile import RawData
from cmru_hw.technology import Polarity, Technology

DIODE = 16  # unit transistors
COUNTS = (1, 4, 16, 64, 128)
CURRENTS = np.geomspace(3e-11, 1e-8, 11)  # A
DRAIN = 0.4  # V of V_DS, as of the output curve


def points(technology: Technology) -> list[Point]:
    """One operating point a condition and polarity holds all currents and counts."""
    found = []
    for celsius, unit_area in _conditions(technology):
        for polarity in ("n", "p"):
            at: dict[str, float | str] = {"celsius": celsius, "unit_area": unit_area, "polarity": polarity}
            found.append(Point(at, _job(technology.sized(unit_area), polarity, celsius), _read))
    return found


def _conditions(technology: Technology) -> list[tuple[float, float]]:
    """Degrees Celsius, and the area of the unit transistor: the card's, and the ends of each."""
    where, nominal = technology.conditions, technology.temperature_celsius
    heat = [(celsius, 1.0) for celsius in dict.fromkeys((where.celsius[0], nominal, where.celsius[-1]))]
    sizes = (area for area in (where.unit_area[0], where.unit_area[-1]) if area != 1)
    return heat + [(nominal, area) for area in sizes]


def _job(technology: Technology, polarity: Polarity, celsius: float) -> Job:
    sign = 1 if polarity == "n" else -1
    size = f"W={technology.unit.w_um:g}u L={technology.unit.l_um:g}u"
    lines = [f".include {MODELS}", "Vs s 0 0"]
    for k, current in enumerate(CURRENTS):
        lines += [
            f"I{k} {f'0 g{k}' if sign > 0 else f'g{k} 0'} {float(current)!r}",
            f"Xdiode{k} g{k} g{k} s s {polarity}fet {size} M={DIODE}",
        ]
        for count in COUNTS:
            lines += [
                f"Vd{k}_{count} d{k}_{count} 0 {sign * DRAIN}",
                f"X{k}_{count} d{k}_{count} g{k} s s {polarity}fet {size} M={count}",
            ]
    return Job(
        title=f"{polarity} mirrors, {celsius:g} C",
        netlist="\n".join(lines) + "\n",
        analysis=OperatingPoint(),
        save=tuple(f"i(vd{k}_{count})" for k in range(len(CURRENTS)) for count in COUNTS),
        tolerances=LATCH,
        temperature=celsius,
        files={MODELS: technology.model_text},
    )


def _read(data: RawData) -> Row:
    return {
        "gain": [
            [abs(float(data[f"i(vd{k}_{count})"][0])) / current / (count / DIODE) for count in COUNTS]
            for k, current in enumerate(CURRENTS)
        ]
    }


def content(technology: Technology, rows: list[Row]) -> dict[str, Any]:
    """Output over input, 1 where it is the ratio of counts, [currents, counts]."""
    return {
        "diode_units": DIODE,
        "drain_volts": DRAIN,
        "current": CURRENTS.tolist(),
        "count": COUNTS,
        "rows": rows,
    }


_LINES: tuple[Any, ...] = ("--", "-", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))


@styled
def draw(technology: Technology, content: Mapping[str, Any]) -> Figure:
    """Gain over current at each condition; it depends on V_DS - V_GS, hardly on the count."""
    made = Figure(figsize=(5.2, 3.2), layout="constrained")
    axes = made.subplots()
    for row in content["rows"]:
        colour = SPICE if row[AT]["polarity"] == "n" else BEHAVIORAL
        condition = row[AT]["celsius"], row[AT]["unit_area"]
        label = f"{row[AT]['polarity']} {condition[0]:g} °C, size {condition[1]:g}"
        line = _LINES[_conditions(technology).index(condition)]
        for column in np.array(row["gain"]).T:
            axes.semilogx(
                content["current"], column, color=colour, linestyle=line, linewidth=0.8, label=label
            )
            label = "_"
    axes.set(xlabel="input current", ylabel="output, 1: as counted", ylim=(0.98, 1.1))
    engineering(axes.xaxis, "A")
    axes.legend(ncols=2, fontsize=7)
    return made
