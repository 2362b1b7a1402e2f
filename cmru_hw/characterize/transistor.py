"""The unit transistor over temperature: gate voltage, slope factor, leakage, and current over V_DS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cmru_hw.characterize.point import AT, Point, Row
from cmru_hw.report.plots import BEHAVIORAL, SPICE, styled
from cmru_hw.spice.job import LATCH, DcSweep, Job
from cmru_hw.spice.netlist import MODELS
from cmru_hw.spice.rawfile import RawData
from cmru_hw.technology import Polarity, Technology

CELSIUS = (-20.0, 0.0, 27.0, 60.0, 85.0)
VOLTS = (0.0, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.2, 1.8)
SATURATED = 0.4  # V of V_DS
SLOPE_FROM, SLOPE_TO = 1e-11, 3e-9  # A


def points(technology: Technology) -> list[Point]:
    """A sweep of the gate and one of the drain at each temperature."""
    found = []
    for celsius in CELSIUS:
        for polarity in ("n", "p"):
            for kind in ("gate", "drain"):
                at: dict[str, float | str] = {"celsius": celsius, "polarity": polarity, "sweep": kind}
                found.append(Point(at, _job(technology, polarity, celsius, kind), _reader(kind)))
    return found


def _job(technology: Technology, polarity: Polarity, celsius: float, kind: str) -> Job:
    sign = 1 if polarity == "n" else -1
    size = f"W={technology.unit.w_um:g}u L={technology.unit.l_um:g}u M=1"
    lines = [f".include {MODELS}", "Vs s 0 0", f"Vd d 0 {sign * SATURATED}"]
    if kind == "gate":
        lines.append("Vg g 0 0")
        analysis = DcSweep("vg", 0.0, sign * 0.7, sign * 0.002)
    else:  # the gate of a diode that carries 0.2 nA
        lines += [f"Ig {'0 g' if sign > 0 else 'g 0'} 2e-10", f"Xdiode g g s s {polarity}fet {size}"]
        analysis = DcSweep("vd", 0.0, sign * max(VOLTS), sign * 0.005)
    lines.append(f"X1 d g s s {polarity}fet {size}")
    return Job(
        title=f"{polarity} transistor, {kind}, {celsius:g} C",
        netlist="\n".join(lines) + "\n",
        analysis=analysis,
        save=("i(vd)",),
        tolerances=LATCH,
        temperature=celsius,
        files={MODELS: technology.model_text},
    )


def _reader(kind: str) -> Any:
    def gate(data: RawData) -> Row:
        volts, amperes = np.abs(data.abscissa), np.abs(data["i(vd)"])
        log = np.log(np.maximum(amperes, 1e-18))
        weak = (amperes >= SLOPE_FROM) & (amperes <= SLOPE_TO)
        return {
            "volts_at_1na": float(np.interp(np.log(1e-9), log, volts)),
            "volts_a_neper": float(np.polyfit(log[weak], volts[weak], 1)[0]),
            "leakage": float(amperes[0]),
        }

    def drain(data: RawData) -> Row:
        volts, amperes = np.abs(data.abscissa), np.abs(data["i(vd)"])
        curve = np.interp(VOLTS, volts, amperes) / np.interp(SATURATED, volts, amperes)
        return {"curve": [0.0, *np.round(curve[1:], 6).tolist()]}

    return gate if kind == "gate" else drain


def content(technology: Technology, rows: list[Row]) -> dict[str, Any]:
    """By polarity: V_GS at 1 nA, n U_T (V), leakage at V_GS = 0 (A) and the output curve, by temperature."""
    found: dict[str, Any] = {"celsius": list(CELSIUS), "volts": list(VOLTS)}
    for polarity in ("n", "p"):
        own = [row for row in rows if row[AT]["polarity"] == polarity]
        found[polarity] = {
            key: [row[key] for row in own if key in row]
            for key in ("volts_at_1na", "volts_a_neper", "leakage", "curve")
        }
    return found


@styled
def draw(technology: Technology, content: Mapping[str, Any]) -> Figure:
    """Drain current over V_DS and gate voltage over temperature."""
    made = Figure(figsize=(5.2, 5.2), layout="constrained")
    over_drain, over_heat = made.subplots(2)
    for polarity, colour in (("n", SPICE), ("p", BEHAVIORAL)):
        for curve, celsius in zip(content[polarity]["curve"], CELSIUS, strict=True):
            width = 2.0 if celsius == technology.temperature_celsius else 0.7
            over_drain.plot(VOLTS[2:], curve[2:], color=colour, linewidth=width)
        over_heat.plot(CELSIUS, content[polarity]["volts_at_1na"], "o-", color=colour, label=polarity)
    over_drain.set(xlabel="V_DS (V)", ylabel="current, 1 at 0.4 V", ylim=(0.9, 1.05))
    over_heat.set(xlabel="temperature (°C)", ylabel="V_GS at 1 nA (V)")
    over_heat.legend()
    return made
