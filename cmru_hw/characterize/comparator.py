"""The window comparator over beta, temperature, supply and size: where it trips, and how long that takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cmru_hw.characterize.point import AT, Point, Row
from cmru_hw.report.plots import BEHAVIORAL, SPICE, engineering, styled
from cmru_hw.spice.bank_bench import BankBench
from cmru_hw.spice.job import QUICK
from cmru_hw.spice.rawfile import RawData
from cmru_hw.technology import Technology

BETAS = (1e-10, 3e-10, 1e-9)  # A
LOW = 0.2  # of beta: the smaller current of the pair
STEPS = np.concatenate([np.arange(0.94, 1.0601, 0.0025), [1.5, 3.0]])  # c over beta
PERIOD = 4e-3  # s


def points(technology: Technology) -> list[Point]:
    """A slow rise of P through the threshold, and one of M, each in frames of its own."""
    found = []
    for celsius, supply, unit_area in _conditions(technology):
        card = technology.sized(unit_area).model_copy(update={"supply": supply})
        for beta in BETAS:
            bench = _bench(card, celsius, beta)
            at: dict[str, float | str] = {
                "celsius": celsius, "supply": supply, "unit_area": unit_area, "beta": beta
            }  # fmt: skip
            found.append(Point(at, bench.job(), partial(_read, bench)))
    return found


def _conditions(technology: Technology) -> list[tuple[float, float, float]]:
    """Degrees Celsius, V, and the area of the mirrors' unit transistor: the card's, and along each alone."""
    where, nominal = technology.conditions, technology.temperature_celsius
    return [
        *(
            (celsius, technology.supply, 1.0)
            for celsius in dict.fromkeys((where.celsius[0], nominal, where.celsius[-1]))
        ),
        *((nominal, supply, 1.0) for supply in where.supply if supply != technology.supply),
        *(
            (nominal, technology.supply, area)
            for area in (where.unit_area[0], where.unit_area[-1])
            if area != 1
        ),
    ]


def _bench(technology: Technology, celsius: float, beta: float) -> BankBench:
    """Two cells: one is driven up, the other down."""
    low = np.full(len(STEPS), LOW * beta)
    high = low + STEPS * beta
    return BankBench(
        technology=technology, cells=2, single=True, levels=1, steps=len(STEPS), period=PERIOD,
        temperature=celsius, beta=beta, margin=0.5 * beta, initial=np.array([-1, 1]), tolerances=QUICK,
        power_up=False,
        rows=(np.stack([high, low], axis=-1), np.stack([low, high], axis=-1)),
    )  # fmt: skip


def _read(bench: BankBench, data: RawData) -> Row:
    run = bench.read(data)
    trips: list[float | None] = []
    delays: list[float | None] = []
    for cell, (sign, half) in enumerate(((1, "up"), (-1, "down"))):
        said = sign * run.decisions[:, cell] > 0
        first = int(np.argmax(said))
        trips.append(float(STEPS[first - 1 : first + 1].mean()) if said.any() and first else None)
        volts, clock = data[f"v({bench.comparator.decision(cell, half)})"], bench.clock
        for k in range(len(STEPS) - 2, len(STEPS)):
            start, end = bench.starts[k] + np.array([clock.decides, clock.offset + clock.span]) * PERIOD
            high = (data.time >= start) & (data.time < end) & (volts > 0.9 * bench.supply)
            delays.append(float(data.time[np.argmax(high)] - start) if high.any() else None)
    return {"trip_up": trips[0], "trip_down": trips[1], "delay_up": delays[:2], "delay_down": delays[2:]}


def content(technology: Technology, rows: list[Row]) -> dict[str, Any]:
    """Trip points over beta, and delays (s) from the start of pe's fall at c = 1.5 and 3 beta."""
    return {"resolution": float(STEPS[1] - STEPS[0]), "rows": rows}


@styled
def draw(technology: Technology, content: Mapping[str, Any]) -> Figure:
    """Trip points and delays over beta."""
    made = Figure(figsize=(5.2, 4.8), layout="constrained")
    trips, delays = made.subplots(2)
    for condition in _conditions(technology):
        keys = ("celsius", "supply", "unit_area")
        own = [row for row in content["rows"] if tuple(row[AT][key] for key in keys) == condition]
        celsius, supply, unit_area = condition
        label = f"{celsius:g} °C, {supply:g} V, size {unit_area:g}"
        colour = SPICE if supply == technology.supply else BEHAVIORAL
        for key, marker in (("trip_up", "^"), ("trip_down", "v")):
            trips.semilogx(BETAS, _drawn(row[key] for row in own), marker, color=colour)
        seconds = _drawn(row["delay_up"][0] for row in own)
        delays.loglog(BETAS, seconds, "o-", markersize=3, linewidth=0.8, label=label)
    trips.set(xlabel="beta", ylabel="trips at c / beta", ylim=(0.97, 1.03))
    delays.set(xlabel="beta", ylabel="delay at 1.5 beta")
    for axis, unit in ((trips.xaxis, "A"), (delays.xaxis, "A"), (delays.yaxis, "s")):
        engineering(axis, unit)
    delays.legend(fontsize=7)
    return made


def _drawn(values: Iterable[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]
