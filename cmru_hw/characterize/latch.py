"""The 9T latch over currents, temperature, supply, corner and size: thresholds, output, delay, leakage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cmru_hw.characterize.point import AT, Point, Row
from cmru_hw.report.plots import SPICE, engineering, styled
from cmru_hw.spice.job import Job, Transient
from cmru_hw.spice.latch_bench import CAPACITANCE, TOLERANCES, LatchBench
from cmru_hw.spice.rawfile import RawData
from cmru_hw.technology import TYPICAL, Technology

THRESHOLDS = np.geomspace(3e-11, 1e-8, 11)  # A
RATIOS = np.array(
    [0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 1.01, 1.02, 1.03, 1.05]
)
Condition = dict[str, float | str]
OVERDRIVES = (1.05, 1.2, 1.5, 2.0)  # candidate over the upper threshold, of the delay


def conditions(technology: Technology) -> list[Condition]:
    """The nominal one, others through it along each axis, and temperatures at every corner of the process."""
    nominal: Condition = {
        "celsius": technology.temperature_celsius, "supply": technology.supply, "corner": TYPICAL,
        "unit_area": 1.0,
    }  # fmt: skip
    axes = {
        axis: [value for value in getattr(technology.conditions, axis) if value != nominal[axis]]
        for axis in ("celsius", "supply", "unit_area")
    }
    found = [nominal, *(nominal | {axis: value} for axis, values in axes.items() for value in values)]
    for corner in technology.corners:
        there = nominal | {"corner": corner}
        found += [there, *(there | {"celsius": celsius} for celsius in axes["celsius"])]
    return found


def points(technology: Technology) -> list[Point]:
    """Hysteresis of all widths at each threshold and condition; delays at each threshold."""
    found = []
    for condition in conditions(technology):
        changes = {
            "temperature_celsius": condition["celsius"], "supply": condition["supply"],
            "corner": condition["corner"],
        }  # fmt: skip
        card = technology.sized(float(condition["unit_area"])).model_copy(update=changes)
        for i_threshold in THRESHOLDS:
            row = np.full(len(RATIOS), i_threshold)
            bench = LatchBench(technology=card, i_threshold=row, i_width=RATIOS * row, i_gain=row)
            at: dict[str, float | str] = {
                "sweep": "hysteresis", **condition, "i_threshold": float(i_threshold)
            }  # fmt: skip
            found.append(Point(at, bench.job(), partial(_read_hysteresis, bench)))
    for i_threshold in THRESHOLDS[::2]:
        bench, job, stop = _delay(technology, float(i_threshold))
        at = {"sweep": "delay", "i_threshold": float(i_threshold)}
        found.append(Point(at, job, partial(_read_delay, bench, stop)))
    return found


def _read_hysteresis(bench: LatchBench, data: RawData) -> Row:
    """Thresholds over I_thresh by ratio; output over I_gain when set at half width, and when reset."""
    curves, i_threshold = bench.read(data), float(bench.i_threshold[0])
    middle = int(np.argmin(np.abs(RATIOS - 0.5)))
    return {
        "up": (curves.up / i_threshold).tolist(),
        "down": (curves.down / i_threshold).tolist(),
        "output": float(curves.output[curves.turn, middle] / i_threshold),
        "off": float(np.abs(curves.output[0]).max()),
    }


def _delay(technology: Technology, i_threshold: float) -> tuple[LatchBench, Job, float]:
    """Latches whose candidates step over the threshold at a tenth of the run."""
    row = np.full(len(OVERDRIVES), i_threshold)
    bench = LatchBench(technology=technology, i_threshold=row, i_width=0.5 * row, i_gain=row)
    stop = 200 * CAPACITANCE * technology.supply / i_threshold
    levels = [(0.5 * i_threshold, over * i_threshold) for over in OVERDRIVES]
    waves = [
        np.array([[0.0, low], [0.1 * stop, low], [0.1 * stop + 1e-3 * stop, high], [stop, high]])
        for low, high in levels
    ]
    netlist = str(bench.circuit(waves, stop))
    corners = tuple(waves[0][1:3, 0].tolist())
    analysis = Transient(stop=stop, max_step=stop / 500, print_step=stop / 500, corners=corners)
    return bench, replace(bench.job(), title="delay of latches", netlist=netlist, analysis=analysis), stop


def _read_delay(bench: LatchBench, stop: float, data: RawData) -> Row:
    """From the step to v0 at half the supply, s; None where it never set."""
    found = []
    for j in range(bench.latch.size):
        is_set = data[f"v({bench.latch.stored(j)})"] > bench.technology.supply / 2
        found.append(float(data.time[np.argmax(is_set)] - 0.1 * stop) if is_set.any() else None)
    return {"delay": found}


def content(technology: Technology, rows: list[Row]) -> dict[str, Any]:
    """The calibration: tables [thresholds, ratios] by temperature, supply, corner and size."""
    tables = []
    for condition in conditions(technology):
        own = [row for row in rows if condition.items() <= row[AT].items()]
        tables.append(condition | {key: [row[key] for row in own] for key in ("up", "down", "output", "off")})
    delays = [row for row in rows if row[AT]["sweep"] == "delay"]
    return {
        "threshold": THRESHOLDS.tolist(),
        "ratio": RATIOS.tolist(),
        "gain": THRESHOLDS.tolist(),
        "tables": tables,
        "delay": {
            "threshold": [row[AT]["i_threshold"] for row in delays],
            "overdrive": list(OVERDRIVES),
            "capacitance": CAPACITANCE,
            "seconds": [row["delay"] for row in delays],
        },
        "tolerances": TOLERANCES.settings(),
    }


def _along(tables: list[dict[str, Any]], axis: str) -> dict[float, dict[str, Any]]:
    """Tables that differ from the nominal one along an axis alone, by their place on it."""
    others = [name for name in ("celsius", "supply", "corner", "unit_area") if name != axis]
    found = {table[axis]: table for table in tables if all(table[k] == tables[0][k] for k in others)}
    return dict(sorted(found.items()))


@styled
def draw(technology: Technology, content: Mapping[str, Any]) -> Figure:
    """Upper threshold over the programmed current by temperature, over size by current, and the delay."""
    made = Figure(figsize=(5.2, 7.0), layout="constrained")
    ups, sized, delays = made.subplots(3)
    middle = int(np.argmin(np.abs(RATIOS - 0.5)))
    heat, sizes = (_along(content["tables"], axis) for axis in ("celsius", "unit_area"))
    for celsius, table in heat.items():
        up = np.array(table["up"])[:, middle]
        ups.semilogx(THRESHOLDS, up, "o-", markersize=3, color=SPICE, linewidth=0.8)
        ups.annotate(
            f"{celsius:g} °C",
            (THRESHOLDS[0], up[0]),
            (-4, 0),
            "data",
            "offset points",
            fontsize=7,
            ha="right",
        )
    for i, i_threshold in list(enumerate(THRESHOLDS))[::2]:
        values = [table["up"][i][middle] for table in sizes.values()]
        sized.semilogx(list(sizes), values, "o-", markersize=3, color=SPICE, linewidth=0.8)
        sized.annotate(
            f"{1e9 * i_threshold:.2g} nA",
            (max(sizes), values[-1]),
            (6, -2),
            "data",
            "offset points",
            fontsize=7,
        )
    sized.set(xlabel="area of the unit transistor, 1: the card's", xlim=(0.9 * min(sizes), 1.6 * max(sizes)))
    sized.set_xticks(list(sizes), [f"{size:g}" for size in sizes])
    sized.minorticks_off()
    sized.set_ylabel("upper threshold over I_thresh")
    ups.set(xlabel="I_thresh", ylabel="upper threshold over I_thresh", xlim=(1.3e-11, 1.2e-8))
    engineering(ups.xaxis, "A")
    delay = content["delay"]
    for over, seconds in zip(delay["overdrive"], zip(*delay["seconds"], strict=True), strict=True):
        values = [np.nan if s is None else s for s in seconds]
        delays.loglog(delay["threshold"], values, "o-", markersize=3, label=f"{over:g}")
    delays.set(xlabel="I_thresh", ylabel="delay of candidate over I_thresh")
    engineering(delays.xaxis, "A")
    engineering(delays.yaxis, "s")
    delays.legend(fontsize=7)
    return made
