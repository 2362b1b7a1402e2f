"""The 9T latch: thresholds and output over programmed currents, temperature and supply; delay, leakage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cmru_hw.characterize.point import AT, Point, Row
from cmru_hw.design import Design, Facts
from cmru_hw.errors import SimulationError
from cmru_hw.primitives.device import Array
from cmru_hw.primitives.latch import Latch
from cmru_hw.primitives.mirror import Input
from cmru_hw.report.plots import SPICE, engineering, styled
from cmru_hw.spice.job import LATCH, Job, Transient
from cmru_hw.spice.netlist import ammeters, build, includes, initial_voltages
from cmru_hw.spice.ngspice import run
from cmru_hw.spice.rawfile import RawData
from cmru_hw.technology import Technology, load_technology

THRESHOLDS = np.geomspace(3e-11, 1e-8, 11)  # A
RATIOS = np.array(
    [0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 1.01, 1.02, 1.03, 1.05]
)
STEPS = 3000  # at least, in a sweep: the candidate moves by 0.07 % of I_thresh in one
# LATCH, but a branch current of an off-state ammeter does not converge to less than 1 fA.
TOLERANCES = replace(LATCH, abstol=1e-15)
CONDITIONS = (
    (27.0, 0.8), (-20.0, 0.8), (0.0, 0.8), (60.0, 0.8), (85.0, 0.8), (27.0, 0.6), (27.0, 0.7), (27.0, 0.9)
)  # fmt: skip
OVERDRIVES = (1.05, 1.2, 1.5, 2.0)  # candidate over the upper threshold, of the delay
CAPACITANCE = 2e-14  # F on v0


@dataclass(frozen=True, eq=False)
class Hysteresis:
    """A latch bench: candidate swept up then down; per latch its thresholds and curves (A)."""

    candidate: Array  # [points, latches]
    output: Array  # [points, latches]
    turn: int  # index of the sweep's top
    up: Array  # [latches]
    down: Array  # [latches]; 0 where it stays set at a thousandth of I_thresh


def bench(
    technology: Technology, i_threshold: Array, i_width: Array, i_gain: Array, sweep: float = 20.0
) -> tuple[Design, Job]:
    """Latches side by side, each driven by a slow triangle of its own candidate current over `sweep` s.

    `i_threshold`, `i_width`, `i_gain` are programmed currents in A, [latches]. The triangle covers 0.8 to
    1.12 of the upper, and down to 0.8 of the lower ideal threshold or a thousandth of the upper one.
    """
    count = len(i_threshold)
    none = np.zeros(count, dtype=np.int64)
    candidate = Input(name="candidate", polarity="p", diode_units=technology.latch_units, copied=none)
    latch = Latch(
        name="latch", polarity="p", diode_units=16, copied=none, candidate="candidate",
        i_threshold=i_threshold, i_width=i_width, i_gain=i_gain, initial_state=none, capacitance=2e-14,
        read=True,
    )  # fmt: skip
    facts = Facts(
        technology=technology.name, unit="fq_bmru", boundary="core", pool="last", num_classes=count,
        input_size=count, unit_current=1e-9, logit_scale=1.0, quiescent_current=0.0,
        frame_period=sweep / 2, ramp=sweep / 4,
        supply=technology.supply, temperature_celsius=load_technology(technology.name).temperature_celsius,
        inputs=["candidate", "candidate"], outputs=["latch"], states=["latch"],
    )  # fmt: skip
    design = Design(facts, (candidate, latch))  # the temperature is the job's: no calibration is needed
    bottom, top = _sweep_range(i_threshold, i_width)
    times = np.array([0.0, sweep / 2, sweep])
    waves = [np.column_stack([times, [low, high, low]]) for low, high in zip(bottom, top, strict=True)]
    saved = [f"v({latch.stored(j)})" for j in range(count)]
    job = Job(
        title=f"hysteresis of {count} latches",
        netlist=str(build(design, {"candidate": waves}, np.array([0.0, sweep]))),
        analysis=Transient(stop=sweep, max_step=sweep / STEPS, print_step=sweep / STEPS),
        save=(*saved, *ammeters(latch)),
        tolerances=TOLERANCES,
        initial=initial_voltages(design),
        temperature=technology.temperature_celsius,
        files=includes(design),
    )
    return design, job


def _sweep_range(i_threshold: Array, i_width: Array) -> tuple[Array, Array]:
    """Lowest and highest candidate (A) that a latch is driven with."""
    return 0.8 * np.maximum(i_threshold - i_width, i_threshold / 800), 1.12 * i_threshold


def hysteresis(design: Design, data: RawData) -> Hysteresis:
    """Read thresholds off a bench run. Raises SimulationError if a latch never sets."""
    latch = next(stage for stage in design.stages if isinstance(stage, Latch))
    sweep = data.time[-1]
    bottom, top = _sweep_range(latch.i_threshold, latch.i_width)
    position = 1 - np.abs(2 * data.time / sweep - 1)
    candidate = bottom + position[:, None] * (top - bottom)
    stored = np.stack([data[f"v({latch.stored(j)})"] for j in range(latch.size)], axis=-1)
    output = np.stack([data[name] for name in ammeters(latch)], axis=-1)
    is_set = stored > design.facts.supply / 2
    if is_set[0].any() or not is_set.any(axis=0).all():
        raise SimulationError(f"latch bench: latches {np.flatnonzero(~is_set.any(axis=0))} never set")
    first = np.argmax(is_set, axis=0)
    last = len(is_set) - 1 - np.argmax(is_set[::-1], axis=0)
    columns = np.arange(latch.size)
    down = np.where(is_set[-1], 0.0, candidate[last, columns])
    turn = int(np.argmin(np.abs(data.time - sweep / 2)))
    return Hysteresis(candidate, output, turn, candidate[first, columns], down)


def measure_hysteresis(
    technology: Technology, i_threshold: float, i_width: float, i_gain: float
) -> Hysteresis:
    """One latch in ngspice."""
    design, job = bench(technology, np.array([i_threshold]), np.array([i_width]), np.array([i_gain]))
    return hysteresis(design, run(job))


def points(technology: Technology) -> list[Point]:
    """Hysteresis of all widths at each threshold, temperature and supply; delays at each threshold."""
    found = []
    for celsius, supply in CONDITIONS:
        card = technology.model_copy(update={"temperature_celsius": celsius, "supply": supply})
        for i_threshold in THRESHOLDS:
            row = np.full(len(RATIOS), i_threshold)
            design, job = bench(card, row, RATIOS * row, row)
            at: dict[str, float | str] = {
                "sweep": "hysteresis", "celsius": celsius, "supply": supply, "i_threshold": float(i_threshold)
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
    """The calibration: tables [thresholds, ratios] by temperature and supply."""
    tables = []
    for celsius, supply in CONDITIONS:
        own = [r for r in rows if (r[AT].get("celsius"), r[AT].get("supply")) == (celsius, supply)]
        tables.append(
            {"celsius": celsius, "supply": supply}
            | {key: [row[key] for row in own] for key in ("up", "down", "output", "off")}
        )
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
        if table["supply"] == technology.supply:
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
