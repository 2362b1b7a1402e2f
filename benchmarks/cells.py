"""What a technology card says of its clocked cells, from ngspice; prints the numbers as YAML.

    python benchmarks/cells.py sky130

The card's `cells` give sizes; capacitances may still be guesses. Banks of 2 and 4 levels and single latches
hold, push against their end or move every frame of 1 or 10 ms, and hold for 1 s; what they, the comparators
and the clock's drivers draw is fitted by what charges once a frame and what leaks.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cmru_hw.config import to_yaml
from cmru_hw.primitives.comparator import comparator_geometry, node_capacitance
from cmru_hw.spice.bank_bench import BankBench, BankRun
from cmru_hw.spice.bench import run_benches
from cmru_hw.spice.job import QUICK
from cmru_hw.technology import Technology, load_technology

FRAMES = 9
PERIODS = (1e-3, 1e-2)  # s
LEAKING = 1.0  # s
BETA = 3e-10  # A
HIGH, LOW = 2 * BETA, BETA / 2
MOVES = {"hold": np.zeros(FRAMES), "push": np.ones(FRAMES), "move": (-1.0) ** np.arange(FRAMES)}
SHIFT = 5e-3  # V, of a pair's transistor
EDGE = np.arange(0.80, 1.2, 0.004)  # of the trip's sweep, in units of the nominal threshold


def bench(technology: Technology, levels: int, period: float, moves: NDArray[np.float64]) -> BankBench:
    """K levels, 0 a single latch, from the top of the range."""
    asked = moves[:, None]
    rows = np.where(asked > 0, HIGH, LOW), np.where(asked < 0, HIGH, LOW)
    return BankBench(
        technology=technology, levels=levels or 1, single=levels == 0, period=period, steps=len(moves),
        beta=BETA, initial=levels or 1, rows=rows, power_up=False, tolerances=QUICK,
    )  # fmt: skip


def charges(benches: list[BankBench], runs: list[BankRun]) -> dict[str, float]:
    """As the card's `Draw`: the energy of a frame over V^2, and currents in a unit transistor's leakage."""
    rows, drawn = [], []
    for one, run in zip(benches, runs, strict=True):
        supply, state = one.supply, np.vstack([one.memory.initial_state, run.state])
        decided, moved = one.inputs[2][1:] != 0, np.diff(state, axis=0)[1:] != 0
        leaks = one.technology.leakage.n * supply
        power = run.power["bank"] + run.power["bank_logic"]
        a_frame = supply**2 / one.period * np.array([1.0, decided.mean(), moved.mean()])
        rows.append(np.append(a_frame, [leaks * (not one.single), leaks * one.memory.latches]) / power)
        drawn.append(1.0)
    scale = np.maximum(np.abs(rows).max(axis=0), 1e-300)
    found, *_ = np.linalg.lstsq(np.array(rows) / scale, np.array(drawn), rcond=None)
    found = found / scale
    clock = np.mean([
        (run.power["p1"] + run.power.get("ph", 0.0)) * one.period / one.supply**2
        for one, run in zip(benches, runs, strict=True)
        if one.period in PERIODS
    ])  # fmt: skip
    names = ("held", "decided", "moved", "leakage", "leakage_a_latch")
    return {"clock": float(clock), **dict(zip(names, map(float, found), strict=True))}


def comparator(benches: list[BankBench], runs: list[BankRun]) -> dict[str, float]:
    """Capacitances of its nodes, besides its mirrors' drains, and of its clock, from frames of 1 ms."""
    nodes, clocks = [], []
    for one, run in zip(benches, runs, strict=True):
        if one.period != min(PERIODS):
            continue
        window, technology = one.comparator, one.technology
        positive, negative, _ = one.inputs
        said = window.step(positive, negative, window.currents(one.signals, {}, technology))
        drawn = window.supply_current(
            said[:-1], said[1:], positive[1:], negative[1:], window.i_threshold, one.clock, one.supply,
            technology,
        )  # fmt: skip
        missing = run.power["comparator"] / one.supply - drawn.mean()
        nodes.append(node_capacitance(technology) + missing * one.period / (2 * one.supply))
        clocks.append(run.power["pe"] * one.period / one.supply**2)
    geometry = comparator_geometry(benches[0].technology)
    drains = node_capacitance(benches[0].technology) - geometry.node_capacitance
    return {"node_capacitance": float(np.mean(nodes)) - drains, "clock_capacitance": float(np.mean(clocks))}


def pair_weight(technology: Technology) -> float:
    """d ln(trip) / d ln(strength) of the pair's transistor at the output, from a slow rise of P."""
    swept = (LOW + BETA) * EDGE[:, None] * np.ones((1, 2))
    one = BankBench(
        technology=technology, levels=1, single=True, initial=-1, cells=2, beta=BETA, steps=len(EDGE),
        period=2e-3, rows=(swept, np.full_like(swept, LOW)), power_up=False, tolerances=QUICK,
    )  # fmt: skip
    shifts = {name: np.zeros(array.units.shape) for name, array in one.devices().items()}
    shifts["comparator.pair_out"][1] = SHIFT
    (run,) = run_benches([replace(one, shifts=shifts)])
    trips = swept[np.argmax(run.decisions > 0, axis=0), [0, 1]]
    slope = technology.slope_factor.n * technology.thermal_voltage
    return float(np.log(trips[0] / trips[1]) / (SHIFT / slope))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("technology")
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    technology = load_technology(given.technology)
    found = {}
    groups = {"bank": (2, 4), "single": (0,)}
    for name, levels in groups.items():
        plans = [*itertools.product(levels, PERIODS, MOVES.values())]
        plans += [(k, LEAKING, MOVES["hold"][:3]) for k in levels]
        benches = [bench(technology, *plan) for plan in plans]
        runs = run_benches(benches, given.workers)
        found[name] = charges(benches, runs)
        if name == "single":
            window = comparator(benches, runs)
    window["pair_weight"] = pair_weight(technology)
    print(
        to_yaml(
            {"window_comparator": rounded(window), "latch_bank": {k: rounded(v) for k, v in found.items()}}
        )
    )


def rounded(numbers: dict[str, float]) -> dict[str, float]:
    """To three digits."""
    return {name: float(f"{value:.3g}") for name, value in numbers.items()}


if __name__ == "__main__":
    main()
