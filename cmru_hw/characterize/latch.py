"""The 9T latch: thresholds and output over currents, temperature, supply and corner; delay, leakage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cmru_hw.characterize.point import AT, Point, Row
from cmru_hw.design import Design
from cmru_hw.primitives.latch import Latch
from cmru_hw.report.plots import SPICE, engineering, styled
from cmru_hw.spice.job import Job, Transient
from cmru_hw.spice.latch_bench import TOLERANCES, bench, hysteresis
from cmru_hw.spice.netlist import build
from cmru_hw.spice.rawfile import RawData
from cmru_hw.technology import TYPICAL, Technology

THRESHOLDS = np.geomspace(3e-11, 1e-8, 11)  # A
RATIOS = np.array(
    [0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 1.01, 1.02, 1.03, 1.05]
)
CELSIUS = (27.0, -20.0, 0.0, 60.0, 85.0)
SUPPLIES = (0.8, 0.6, 0.7, 0.9)  # V; the first is that of other temperatures and corners
OVERDRIVES = (1.05, 1.2, 1.5, 2.0)  # candidate over the upper threshold, of the delay
CAPACITANCE = 2e-14  # F on v0


def conditions(technology: Technology) -> list[dict[str, float | str]]:
    """Temperatures at every corner of the process, and supplies at the first temperature."""
    at = [(celsius, SUPPLIES[0], TYPICAL) for celsius in CELSIUS]
    at += [(CELSIUS[0], supply, TYPICAL) for supply in SUPPLIES[1:]]
    at += [(celsius, SUPPLIES[0], corner) for corner in technology.corners for celsius in CELSIUS]
    return [{"celsius": celsius, "supply": supply, "corner": corner} for celsius, supply, corner in at]


def points(technology: Technology) -> list[Point]:
    """Hysteresis of all widths at each threshold and condition; delays at each threshold."""
    found = []
    for condition in conditions(technology):
        card = technology.model_copy(
            update={
                "temperature_celsius": condition["celsius"], "supply": condition["supply"],
                "corner": condition["corner"],
            }
        )  # fmt: skip
        for i_threshold in THRESHOLDS:
            row = np.full(len(RATIOS), i_threshold)
            design, job = bench(card, row, RATIOS * row, row)
            at: dict[str, float | str] = {
                "sweep": "hysteresis", **condition, "i_threshold": float(i_threshold)
            }  # fmt: skip
            found.append(Point(at, job, partial(_read_hysteresis, design, float(i_threshold))))
    for i_threshold in THRESHOLDS[::2]:
        design, job, stop = _delay(technology, float(i_threshold))
        at = {"sweep": "delay", "i_threshold": float(i_threshold)}
        found.append(Point(at, job, partial(_read_delay, design, stop)))
    return found


def _read_hysteresis(design: Design, i_threshold: float, data: RawData) -> Row:
    """Thresholds over I_thresh by ratio; output over I_gain when set at half width, and when reset."""
    curves = hysteresis(design, data)
    middle = int(np.argmin(np.abs(RATIOS - 0.5)))
    return {
        "up": (curves.up / i_threshold).tolist(),
        "down": (curves.down / i_threshold).tolist(),
        "output": float(curves.output[curves.turn, middle] / i_threshold),
        "off": float(np.abs(curves.output[0]).max()),
    }


def _delay(technology: Technology, i_threshold: float) -> tuple[Design, Job, float]:
    """Latches whose candidates step over the threshold at a tenth of the run."""
    row = np.full(len(OVERDRIVES), i_threshold)
    design, job = bench(technology, row, 0.5 * row, row)
    stop = 200 * CAPACITANCE * technology.supply / i_threshold
    levels = [(0.5 * i_threshold, over * i_threshold) for over in OVERDRIVES]
    waves = [
        np.array([[0.0, low], [0.1 * stop, low], [0.1 * stop + 1e-3 * stop, high], [stop, high]])
        for low, high in levels
    ]
    netlist = str(build(design, {"candidate": waves}, np.array([0.0, stop])))
    analysis = Transient(stop=stop, max_step=stop / 500, print_step=stop / 500)
    return design, replace(job, title="delay of latches", netlist=netlist, analysis=analysis), stop


def _read_delay(design: Design, stop: float, data: RawData) -> Row:
    """From the step to v0 at half the supply, s; NaN where it never set."""
    latch = next(stage for stage in design.stages if isinstance(stage, Latch))
    found = []
    for j in range(latch.size):
        is_set = data[f"v({latch.stored(j)})"] > design.facts.supply / 2
        found.append(float(data.time[np.argmax(is_set)] - 0.1 * stop) if is_set.any() else None)
    return {"delay": found}


def content(technology: Technology, rows: list[Row]) -> dict[str, Any]:
    """The calibration: tables [thresholds, ratios] by temperature, supply and corner."""
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


@styled
def draw(technology: Technology, content: Mapping[str, Any]) -> Figure:
    """Upper threshold over the programmed current, and the delay."""
    made = Figure(figsize=(5.2, 4.8), layout="constrained")
    ups, delays = made.subplots(2)
    middle = int(np.argmin(np.abs(RATIOS - 0.5)))
    for table in content["tables"]:
        if (table["supply"], table["corner"]) == (technology.supply, TYPICAL):
            up = np.array(table["up"])[:, middle]
            ups.semilogx(THRESHOLDS, up, "o-", markersize=3, color=SPICE, linewidth=0.8)
            label = f"{table['celsius']:g} °C"
            ups.annotate(
                label, (THRESHOLDS[0], up[0]), (-4, 0), "data", "offset points", fontsize=7, ha="right"
            )
    delay = content["delay"]
    for over, seconds in zip(delay["overdrive"], zip(*delay["seconds"], strict=True), strict=True):
        values = [np.nan if s is None else s for s in seconds]
        delays.loglog(delay["threshold"], values, "o-", markersize=3, label=f"{over:g}")
    ups.set(xlabel="I_thresh", ylabel="upper threshold over I_thresh", xlim=(1.5e-11, 1.2e-8))
    delays.set(xlabel="I_thresh", ylabel="delay of candidate over I_thresh")
    engineering(ups.xaxis, "A")
    engineering(delays.xaxis, "A")
    engineering(delays.yaxis, "s")
    delays.legend(fontsize=7)
    return made
