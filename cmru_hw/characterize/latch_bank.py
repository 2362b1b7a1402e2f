"""The latch bank over temperature, supply and size: does it count, and what does it draw."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from cmru_hw.characterize.point import AT, Point, Row
from cmru_hw.report.plots import engineering, styled
from cmru_hw.spice.bank_bench import BankBench
from cmru_hw.spice.job import QUICK
from cmru_hw.spice.rawfile import RawData
from cmru_hw.technology import Technology

CONDITIONS = (
    *((c, v, 1.0, 1e-3) for c in (-20.0, 27.0, 85.0) for v in (0.6, 0.7, 0.8, 0.9)),
    (27.0, 0.8, 0.2, 1e-3),
    (27.0, 0.8, 2.0, 1e-3),
    (27.0, 0.8, 4.0, 2e-3),
)
"""Degrees Celsius, V, area of the unit transistor in mirrors and outputs, and s of a frame.

At 1 ms the inputs of a size of 4 have not settled when the comparator decides.
"""
LEVELS, STEPS = 4, 24


def points(technology: Technology) -> list[Point]:
    """Random steps of one bank at each condition."""
    found = []
    for celsius, supply, unit_area, period in CONDITIONS:
        card = technology.sized(unit_area).model_copy(update={"supply": supply})
        bench = BankBench(
            technology=card, levels=LEVELS, steps=STEPS, period=period, temperature=celsius, seed=3,
            tolerances=QUICK,
        )  # fmt: skip
        at: dict[str, float | str] = {
            "celsius": celsius, "supply": supply, "unit_area": unit_area, "period": period
        }  # fmt: skip
        found.append(Point(at, bench.job(), partial(_read, bench)))
    return found


def _read(bench: BankBench, data: RawData) -> Row:
    run = bench.read(data)
    return {"steps": STEPS, "wrong": int(run.errors.sum()), "power": run.power}


def content(technology: Technology, rows: list[Row]) -> dict[str, Any]:
    """Wrong steps and power (W) by block."""
    return {"levels": LEVELS, "rows": rows}


@styled
def draw(technology: Technology, content: Mapping[str, Any]) -> Figure:
    """Power of latches, logic and clock over temperature."""
    made = Figure(figsize=(5.2, 3.2), layout="constrained")
    axes = made.subplots()
    rows = [row for row in content["rows"] if row[AT]["unit_area"] == 1]
    for supply in sorted({row[AT]["supply"] for row in rows}):
        own = [row for row in rows if row[AT]["supply"] == supply]
        own_blocks = ("bank", "bank_logic", "pe", "ph", "p1", "rst")
        watts = [sum(row["power"][block] for block in own_blocks) for row in own]
        axes.plot([row[AT]["celsius"] for row in own], watts, "o-", label=f"{supply:g} V")
    axes.set(xlabel="temperature (°C)", ylabel="latches, logic and clock", ylim=(0, None))
    engineering(axes.yaxis, "W")
    axes.legend()
    return made
