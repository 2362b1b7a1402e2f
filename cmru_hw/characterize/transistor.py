"""The unit transistor over temperature and size: gate voltage, slope, leakage, current over V_DS, noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cmru_hw.characterize.point import AT, Point, Row
from cmru_hw.primitives.noise_source import CHARGE
from cmru_hw.report.plots import BEHAVIORAL, SPICE, styled
from cmru_hw.spice.job import LATCH, DcSweep, Job, Noise
from cmru_hw.spice.netlist import MODELS
from cmru_hw.spice.noise_bench import TOLERANCES
from cmru_hw.spice.rawfile import RawData
from cmru_hw.technology import Polarity, Technology

VOLTS = (0.0, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.2, 1.8)
SATURATED = 0.4  # V of V_DS
SLOPE_FROM, SLOPE_TO = 1e-11, 3e-9  # A
NOISE_CURRENT = 3e-10  # A of the diode whose noise is measured
WHITE = 3e3  # Hz, at which its noise is white
LOADS = 8  # gates or drains on its node, to tell their capacitance


def points(technology: Technology) -> list[Point]:
    """Sweeps of the gate and of the drain and a diode's noise, plain and loaded, at each temperature, and at
    each size."""
    found = []
    for celsius, unit_area in _conditions(technology):
        card = technology.sized(unit_area)
        for polarity in ("n", "p"):
            common: dict[str, float | str] = {
                "celsius": celsius, "unit_area": unit_area, "polarity": polarity
            }  # fmt: skip
            for kind in ("gate", "drain"):
                job = _job(card, polarity, celsius, kind)
                found.append(Point(common | {"sweep": kind}, job, _reader(kind)))
            for load in ("diode", "gate", "drain"):
                job = _noise_job(card, polarity, celsius, load)
                found.append(Point(common | {"sweep": "noise", "load": load}, job, _read_noise))
    return found


def _conditions(technology: Technology) -> list[tuple[float, float]]:
    """Temperatures, and sizes at the card's."""
    where, nominal = technology.conditions, technology.temperature_celsius
    heat = [(celsius, 1.0) for celsius in where.celsius]
    return heat + [(nominal, area) for area in where.unit_area if area != 1]


def _job(technology: Technology, polarity: Polarity, celsius: float, kind: str) -> Job:
    sign = 1 if polarity == "n" else -1
    size = f"W={technology.unit.w_um:g}u L={technology.unit.l_um:g}u M=1"
    lines = [f".include {MODELS}", "Vs s 0 0", f"Vd d 0 {sign * SATURATED}"]
    if kind == "gate":
        lines.append("Vg g 0 0")
        analysis = DcSweep("vg", 0.0, sign * max(VOLTS), sign * 0.002)
    else:  # the gate of a diode that carries 0.2 nA
        lines += [f"Ig {'0 g' if sign > 0 else 'g 0'} 2e-10", f"Xdiode g g s s {polarity}fet {size}"]
        analysis = DcSweep("vd", 0.0, sign * max(VOLTS), sign * 0.005)
    lines.append(f"X1 d g s s {polarity}fet {size}")
    return Job(
        title=f"{polarity} transistor of {technology.unit_area:g}, {kind}, {celsius:g} C",
        netlist="\n".join(lines) + "\n",
        analysis=analysis,
        save=("i(vd)",),
        tolerances=LATCH,
        temperature=celsius,
        files={MODELS: technology.model_text},
    )


def _noise_job(technology: Technology, polarity: Polarity, celsius: float, load: str) -> Job:
    """A diode at `NOISE_CURRENT`, and on its node `LOADS` gates of transistors in saturation, or drains."""
    sign = 1 if polarity == "n" else -1
    size = f"W={technology.unit.w_um:g}u L={technology.unit.l_um:g}u"
    lines = [
        f".include {MODELS}", f"X1 d d 0 0 {polarity}fet {size} M=1", f"Ve e 0 {sign * SATURATED}",
        f"Ib {'0 d' if sign > 0 else 'd 0'} {NOISE_CURRENT!r}", "Iprobe 0 d dc 0 ac 1",
    ]  # fmt: skip
    if load != "diode":
        nets = "e d 0 0" if load == "gate" else "d 0 0 0"
        lines.append(f"X2 {nets} {polarity}fet {size} M={LOADS}")
    return Job(
        title=f"noise of a {polarity} diode of {technology.unit_area:g}, {load}, {celsius:g} C",
        netlist="\n".join(lines) + "\n",
        analysis=Noise("d", "iprobe", 1e-1, 1e9, 50),
        tolerances=TOLERANCES,
        temperature=celsius,
        files={MODELS: technology.model_text},
    )


def _read_noise(data: RawData) -> Row:
    impedance = data["onoise_spectrum"] / data["inoise_spectrum"]
    pole = np.exp(np.interp(np.log(np.sqrt(2)), np.log(impedance[0] / impedance), np.log(data.abscissa)))
    density = np.interp(WHITE, data.abscissa, data["inoise_spectrum"] ** 2)
    return {
        "noise_factor": float(density / (2 * CHARGE * NOISE_CURRENT)),
        "capacitance": float(1 / (2 * np.pi * pole * impedance[0])),
    }


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
    """By polarity and temperature: V_GS at 1 nA, n U_T (V), leakage at V_GS = 0 (A), the output curve, noise
    over 2 q I, and what a unit transistor adds to a node by its diode, gate or drain (F). In `sizes` the same
    by size.
    """
    heat = [row for row in rows if row[AT]["unit_area"] == 1]
    nominal, where = technology.temperature_celsius, technology.conditions
    sizes = sorted(
        (row for row in rows if row[AT]["celsius"] == nominal), key=lambda row: float(row[AT]["unit_area"])
    )
    return {
        "celsius": where.celsius,
        "volts": list(VOLTS),
        **_by_polarity(heat),
        "sizes": {"celsius": nominal, "unit_area": where.unit_area, **_by_polarity(sizes)},
    }


def _by_polarity(rows: list[Row]) -> dict[str, dict[str, Any]]:
    """What was measured of each polarity, in the order of the rows."""
    found: dict[str, dict[str, Any]] = {}
    for polarity in ("n", "p"):
        own = [row for row in rows if row[AT]["polarity"] == polarity]
        found[polarity] = {
            key: [row[key] for row in own if key in row]
            for key in ("volts_at_1na", "volts_a_neper", "leakage", "curve")
        }
        noise = {
            load: [row for row in own if row[AT].get("load") == load] for load in ("diode", "gate", "drain")
        }
        found[polarity]["noise_factor"] = [row["noise_factor"] for row in noise["diode"]]
        alone = np.array([row["capacitance"] for row in noise["diode"]])
        found[polarity]["diode_capacitance"] = alone.tolist()
        for load in ("gate", "drain"):
            loaded = np.array([row["capacitance"] for row in noise[load]])
            found[polarity][f"{load}_capacitance"] = ((loaded - alone) / LOADS).tolist()
    return found


@styled
def draw(technology: Technology, content: Mapping[str, Any]) -> Figure:
    """Drain current over V_DS, gate voltage and noise over temperature; gate voltage and curve over size."""
    made = Figure(figsize=(5.2, 9.4), layout="constrained")
    over_drain, over_heat, noise, over_size = made.subplots(4)
    sizes, where = content["sizes"], technology.conditions
    rise = over_size.twinx()
    for polarity, colour in (("n", SPICE), ("p", BEHAVIORAL)):
        for curve, celsius in zip(content[polarity]["curve"], where.celsius, strict=True):
            width = 2.0 if celsius == technology.temperature_celsius else 0.7
            over_drain.plot(VOLTS[2:], curve[2:], color=colour, linewidth=width)
        over_heat.plot(where.celsius, content[polarity]["volts_at_1na"], "o-", color=colour, label=polarity)
        noise.plot(where.celsius, content[polarity]["noise_factor"], "o-", color=colour, label=polarity)
        volts = sizes[polarity]["volts_at_1na"]
        over_size.semilogx(sizes["unit_area"], volts, "o-", color=colour, label=f"{polarity}, V_GS")
        high = np.array(sizes[polarity]["curve"])[:, VOLTS.index(0.8)]
        rise.semilogx(sizes["unit_area"], high, "s:", color=colour, label=f"{polarity}, current")
    over_drain.set(xlabel="V_DS (V)", ylabel="current, 1 at 0.4 V", ylim=(0.9, 1.05))
    over_heat.set(xlabel="temperature (°C)", ylabel="V_GS at 1 nA (V)")
    noise.set(xlabel="temperature (°C)", ylabel="noise over 2 q I", ylim=(0, None))
    over_size.set(xlabel="area of the unit transistor, 1: the card's", ylabel="V_GS at 1 nA (V)")
    over_size.set_xticks(where.unit_area, [f"{area:g}" for area in where.unit_area], minor=False)
    over_size.minorticks_off()
    rise.set(ylabel="current at 0.8 V, 1 at 0.4 V")
    over_heat.legend()
    lines = [*over_size.get_lines(), *rise.get_lines()]
    over_size.legend(lines, [str(line.get_label()) for line in lines], ncols=2, fontsize=7)
    return made
