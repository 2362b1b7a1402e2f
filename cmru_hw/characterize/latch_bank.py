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

LEVELS, STEPS = 4, 24


def _conditions(technology: Technology) -> list[tuple[float, float, float, float]]:
    """Degrees Celsius, V, area of the unit transistor in mirrors and outputs, and s of a frame."""
    where, nominal, supply = technology.conditions, technology.temperature_celsius, technology.supply
    heat = dict.fromkeys((where.celsius[0], nominal, where.celsius[-1]))
    # Inputs of a size of 4 take twice as long to settle.
    period = where.frame_period
    sizes = [(area, period * max(1.0, area / 2)) for area in where.unit_area[:1] + where.unit_area[-2:]]
    return [
        *((celsius, volts, 1.0, period) for celsius in heat for volts in where.supply),
        *((nominal, supply, area, longer) for area, longer in dict.fromkeys(sizes) if area != 1),
    ]


def points(technology: Technology) -> list[Point]:
    """Random steps of one bank at each condition."""
    found = []
    for celsius, supply, unit_area, period in _conditions(technology):
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
