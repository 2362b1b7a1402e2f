"""Mismatched chips through the 13-4-4-2 FQ-BMRU network, against JAX and NumPy; prints one JSON object.

    pip install jax
    python benchmarks/monte_carlo.py --chips 1000 --inputs 100 --frames 101

Decisions of all chips for all inputs, the same equations (mirrors, nodes where they settle, latches) in
turn, `--rounds` times: `chips`, as `robustness` does it, on all cores, and on one thread; JAX, jitted
and vmapped over chips and inputs with a scan over frames, in float32 and in the best of three numbers of
chips at a time, with the kernels' tables of nodes (`jax`) and with Newton's steps from a guess
(`jax_newton`); and NumPy, a chip and a frame at a time, both ways, on a part of the chips. `plain` is JAX on
the trained network's equations alone, relu(W x + b) and two thresholds: what the physics costs. Ratios are
of medians. Then seconds over the number of chips, of frames and of inputs, and peak memory over chips.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch

from cmru_hw import __version__
from cmru_hw.analysis.robustness.lot import CHIPS_A_JOB, Lot, chip_accuracies
from cmru_hw.behavioral import BehavioralModel
from cmru_hw.config import cores
from cmru_hw.design import Design
from cmru_hw.farm import Farm
from cmru_hw.mapping import MappingConfig, map_network
from cmru_hw.nn.network import Network, NetworkConfig
from cmru_hw.primitives import node
from cmru_hw.primitives.latch import Latch
from cmru_hw.primitives.mirror import Mirror
from cmru_hw.stimulus import Stimulus, make_stimulus
from cmru_hw.technology import Polarity, Technology, load_technology
from cmru_hw.variation import draw

_OTHER: dict[Polarity, Polarity] = {"n": "p", "p": "n"}
NEWTON = 6  # steps from a guess, enough for the decisions of the kernels


def problem(inputs: int, frames: int) -> tuple[Design, Stimulus]:
    """The network with random weights, and random inputs."""
    torch.manual_seed(0)
    config = NetworkConfig(
        unit="fq_bmru", input_size=13, model_size=4, hidden_size=4, num_layers=1, num_classes=2
    )
    design, _ = map_network(Network(config).eval(), load_technology("generic180"), MappingConfig())
    x = np.random.default_rng(0).normal(0, 1, (inputs, frames, 13))
    return design, make_stimulus(x, 13, design.facts.frame_period)


# --- the same equations, written once for NumPy and JAX -----------------------------------------------------


def forward(
    xp: Any, design: Design, chip: dict[str, Any], x: dict[str, Any], states: dict[str, Any], steps: int
) -> Any:
    """One frame: logits and new states; x by input stage, [..., n]. Nodes take so many steps of Newton's
    method, or 0 and the kernels' table.
    """
    technology, drives, values, after = design.technology, {}, dict(x), {}
    mirrored = {gate for stage in design.stages for gate in stage.mirrors()}
    for stage in design.stages:
        currents = chip[stage.name]
        if isinstance(stage, Mirror):
            sums = {}
            for positive in (True, False):
                polarity = stage.transistor_polarity(positive)
                sums[positive] = currents["bias", positive]
                for term in stage.terms:
                    if (term.source, positive) in currents:
                        gains = currents[term.source, positive]
                        sums[positive] = sums[positive] + drives[term.source, polarity] @ gains.T
            values[stage.name] = settled(
                xp, technology, stage.polarity, sums[True], sums[False], stage.diode_units, steps
            )
        elif isinstance(stage, Latch):
            c = values[stage.candidate] * currents["candidate"]
            bit = xp.where(c >= currents["up"], 1.0, xp.where(c < currents["down"], 0.0, states[stage.name]))
            after[stage.name], values[stage.name] = bit, bit * currents["gain"]
        value, units = values[stage.name], stage.diode_units
        known = node.tables(technology, stage.polarity)
        for polarity, table in ((stage.polarity, known.raised), (stage.other, known.copied)):
            if (stage.name, polarity) in mirrored:
                drives[stage.name, polarity] = looked_up(xp, known, value, units, table)
    return [values[name] for name in design.facts.outputs], after


def looked_up(xp: Any, known: node.Tables, current: Any, units: int, table: Any) -> Any:
    scaled = xp.maximum(current / units, known.least)
    at = (xp.log2(scaled) - node.FIRST) * (1 << node.BITS)
    i = at.astype("int32")
    table = xp.asarray(numbers(table))
    low = xp.take(table, i)
    return units * scaled * (low + (at - i) * (xp.take(table, i + 1) - low))


def settled(
    xp: Any, technology: Technology, polarity: Polarity, plus: Any, minus: Any, units: int, steps: int
) -> Any:
    """The node's current from the kernels' table, or by steps of Newton's method on a grid of V.

    They begin with V of a diode that carries what is left, or of a transistor that has left saturation.
    """
    plus, minus = plus / units, minus / units
    if steps == 0:
        return units * from_table(xp, node.tables(technology, polarity), plus, minus)
    at = guessed(xp, technology, polarity, plus, minus)
    columns = grid(technology.name, polarity)
    curves, last = [xp.asarray(column) for column in columns], len(columns[0]) - 2
    for _ in range(steps):
        k = xp.clip(at.astype("int32"), 0, last)
        over, under, own = (xp.take(curve, k) for curve in curves)
        over_1, under_1, own_1 = (xp.take(curve, k + 1) for curve in curves)
        here = plus * over - minus * under - own
        there = plus * over_1 - minus * under_1 - own_1
        at = k + here / xp.maximum(here - there, 1e-30)
    return units * xp.maximum(own + (at - k) * (own_1 - own), 0.0)


def from_table(xp: Any, known: node.Tables, plus: Any, minus: Any) -> Any:
    """What a unit diode carries."""
    total = xp.maximum(plus + minus, 1e-17)
    x = (plus - minus) / total
    y = (xp.sign(x) * xp.sqrt(xp.abs(x)) + 1.0) * (node.SHARES / 2)
    at = (xp.log2(total) - node.SUM_FIRST) * (1 << node.SUM_BITS)
    i, j = at.astype("int32"), xp.clip(y.astype("int32"), 0, node.SHARES - 1)
    table, first = xp.asarray(numbers(known.besides).ravel()), i * (node.SHARES + 1) + j
    low = xp.take(table, first) + (y - j) * (xp.take(table, first + 1) - xp.take(table, first))
    first = first + node.SHARES + 1
    high = xp.take(table, first) + (y - j) * (xp.take(table, first + 1) - xp.take(table, first))
    return xp.maximum(plus - minus, 0.0) + plus * (low + (at - i) * (high - low))


def numbers(table: node.Pairs) -> Any:
    """A table's, without the steps beside them."""
    return table.view(np.float32).reshape(*table.shape, 2)[..., 0]


@lru_cache
def grid(name: str, polarity: Polarity) -> list[Any]:
    """f(V_DD - V), f(V) and what a unit diode carries (A), every `VOLTS`, of a card as it is."""
    technology, other = load_technology(name), _OTHER[polarity]
    at = np.arange(0.0, technology.supply + node.VOLTS / 2, node.VOLTS)
    over, under = technology.saturation(other, technology.supply - at), technology.saturation(polarity, at)
    slope = technology.slope_factor.of(polarity) * technology.thermal_voltage
    gate = 1e-9 * np.exp((at - technology.gate_voltage_at_1na.of(polarity)) / slope)
    return [over, under, gate * under]


def guessed(xp: Any, technology: Technology, polarity: Polarity, plus: Any, minus: Any) -> Any:
    """V in steps of the grid, as formulas have it."""
    slope, at_1na = technology.slope_factor.of(polarity), technology.gate_voltage_at_1na.of(polarity)
    carried = at_1na + slope * technology.thermal_voltage * xp.log(xp.maximum(plus - minus, 1e-17) / 1e-9)
    taken = -technology.thermal_voltage * xp.log1p(-xp.minimum(plus / xp.maximum(minus, 1e-18), 0.999))
    return xp.where(plus - minus > 0.03 * plus, xp.maximum(carried, 0.0), taken) / node.VOLTS


def naive(design: Design, stimulus: Stimulus, shifts: dict[str, Any], steps: int) -> Any:
    """Decisions, a chip and a frame at a time; nodes as in `forward`."""
    encoded, found = design.encode(stimulus.x), []
    for chip in range(len(next(iter(shifts.values())))):
        own = {name: array[chip] for name, array in shifts.items()}
        currents = {s.name: s.currents(design.signals, own, design.technology) for s in design.stages}
        states = {m.name: np.broadcast_to(m.start(), (len(stimulus), m.size)) for m in design.memories}
        scores = 0.0
        for t in range(stimulus.x.shape[1]):
            frame = {name: current[:, t] for name, current in encoded.items()}
            outputs, states = forward(np, design, currents, frame, states, steps)
            scores = scores + (outputs[0] - sum(outputs[1:]))
        found.append(np.argmax(scores, axis=-1))
    return np.array(found)


def in_jax(
    design: Design, stimulus: Stimulus, shifts: dict[str, Any], together: int, steps: int
) -> Callable[[], Any]:
    """The same in JAX, `together` chips at a time."""
    import jax
    import jax.numpy as jnp

    currents = {s.name: s.currents(design.signals, shifts, design.technology) for s in design.stages}
    chips = len(next(iter(shifts.values())))
    given = {
        stage: {key: jnp.asarray(np.broadcast_to(v, (chips, *np.shape(v)[-base(v, chips):])), jnp.float32)
                for key, v in (each or {}).items()}
        for stage, each in currents.items()
    }  # fmt: skip
    encoded = {
        name: jnp.asarray(np.moveaxis(x, 1, 0), jnp.float32) for name, x in design.encode(stimulus.x).items()
    }
    start = {
        m.name: jnp.broadcast_to(jnp.asarray(m.start(), jnp.float32), (len(stimulus), m.size))
        for m in design.memories
    }

    def decide(chip: Any, inputs: Any) -> Any:
        def step(states: Any, frame: Any) -> Any:
            outputs, states = forward(jnp, design, chip, frame, states, steps)
            return states, outputs[0] - sum(outputs[1:])

        _, logits = jax.lax.scan(step, start, inputs)
        return jnp.argmax(logits.sum(axis=0), axis=-1)

    run = jax.jit(
        lambda given, inputs: jax.lax.map(lambda chip: decide(chip, inputs), given, batch_size=together)
    )
    return lambda: np.asarray(run(given, encoded))


def base(value: Any, chips: int) -> int:
    """Dimensions of a parameter without the one for chips."""
    shape = np.shape(value)
    return len(shape) - 1 if shape and shape[0] == chips else len(shape)


def plain_jax(chips: int, inputs: int, frames: int) -> Callable[[], Any]:
    """The trained network's equations with a gain of its own on every weight of every chip."""
    import jax
    import jax.numpy as jnp

    random = np.random.default_rng(0)
    sizes = {"input": (4, 13), "candidate": (4, 4), "readout": (2, 4)}
    weights = {k: jnp.asarray(random.normal(0, 1, (chips, *s)), jnp.float32) for k, s in sizes.items()}
    x = jnp.asarray(random.normal(0, 1, (frames, inputs, 13)), jnp.float32)

    def decide(chip: Any) -> Any:
        def step(bit: Any, frame: Any) -> Any:
            hidden = frame @ chip["input"].T
            c = jnp.maximum(hidden @ chip["candidate"].T, 0.0)
            bit = jnp.where(c >= 1.0, 1.0, jnp.where(c < 0.5, 0.0, bit))
            return bit, (hidden + bit) @ chip["readout"].T

        _, logits = jax.lax.scan(step, jnp.zeros((inputs, 4), jnp.float32), x)
        return jnp.argmax(logits.sum(axis=0), axis=-1)

    run = jax.jit(lambda weights: jax.lax.map(decide, weights, batch_size=50))
    return lambda: np.asarray(run(weights))


# --- measuring ----------------------------------------------------------------------------------------------


def seconds(work: Callable[[], object]) -> float:
    """Wall time of a call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def ours(design: Design, stimulus: Stimulus, chips: int, workers: int) -> None:
    """Accuracies as `robustness` finds them."""
    labels = np.zeros(len(stimulus), dtype=np.int64)
    chip_accuracies(Lot(design, stimulus, labels, 0), range(chips), Farm(workers))


def memory(chips: int, inputs: int, frames: int) -> float:
    """Peak resident size (MB) of a process of its own."""
    asked = ["--peak", "--chips", str(chips), "--inputs", str(inputs), "--frames", str(frames)]
    return float(subprocess.run([sys.executable, __file__, *asked], check=True, capture_output=True).stdout)


def peak(chips: int, inputs: int, frames: int) -> float:
    """Peak resident sizes (MB) of this process and its workers after the work, added up."""
    ours(*problem(inputs, frames), chips, cores())
    own = os.getpid()
    all_of = [own, *Path(f"/proc/{own}/task/{own}/children").read_text(encoding="utf-8").split()]
    states = [Path(f"/proc/{one}/status").read_text(encoding="utf-8") for one in all_of]
    return sum(float(state.partition("VmHWM:")[2].split()[0]) for state in states) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--chips", type=int, default=1000)
    parser.add_argument("--inputs", type=int, default=100)
    parser.add_argument("--frames", type=int, default=101)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", action="store_true", help="print the peak memory of one run and stop")
    given = parser.parse_args()
    if given.peak:
        print(peak(given.chips, given.inputs, given.frames))
        return
    design, stimulus = problem(given.inputs, given.frames)
    some = max(given.chips // 50, 2)
    few = draw(design, range(some), 0)
    for workers in (1, cores()):  # compiles, starts processes
        ours(design, stimulus, 2 * CHIPS_A_JOB, workers)
    expected = BehavioralModel(design, few).decisions(stimulus)
    numpy = {"numpy": partial(naive, design, stimulus, few, 0),
             "numpy_newton": partial(naive, design, stimulus, few, NEWTON)}  # fmt: skip
    agree = {way: float((run() == expected).mean()) for way, run in numpy.items()}
    shifts = draw(design, range(given.chips), 0)
    jax, best = {}, {}
    for way, steps in (("jax", 0), ("jax_newton", NEWTON)):
        tried = {together: in_jax(design, stimulus, shifts, together, steps) for together in (10, 50, 250)}
        for together, run in tried.items():
            agree[f"{way}, {together} at a time"] = float((run()[:some] == expected).mean())
        best[way] = min(tried, key=lambda together: seconds(tried[together]))
        jax[way] = tried[best[way]]
    plain = plain_jax(given.chips, given.inputs, given.frames)
    plain()
    ways = ("chips", "one_thread", *jax, "plain", *numpy)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(given.rounds):
        ours(design, stimulus, 2 * CHIPS_A_JOB, cores())  # processes that were idle for long have ended
        found["chips"].append(seconds(lambda: ours(design, stimulus, given.chips, cores())))
        found["one_thread"].append(seconds(lambda: ours(design, stimulus, given.chips, 1)))
        for way, run in jax.items():
            found[way].append(seconds(run))
        found["plain"].append(seconds(plain))
        for way, run in numpy.items():
            found[way].append(seconds(run) * given.chips / some)
    middle = {way: statistics.median(times) for way, times in found.items()}
    steps = given.chips * given.inputs * given.frames
    ours(design, stimulus, 2 * CHIPS_A_JOB, cores())
    growth = {
        "chips": {n: seconds(lambda n=n: ours(design, stimulus, n, cores())) for n in (30, 100, 300, 1000)},
        "inputs": {
            n: seconds(lambda n=n: ours(design, stimulus.select(range(n)), 100, cores()))
            for n in (given.inputs // 10, given.inputs // 3, given.inputs)
        },
        "frames": {
            n: seconds(lambda n=n: ours(*problem(given.inputs, n), 100, cores())) for n in (30, 100, 300)
        },
    }
    print(
        json.dumps(
            {
                "network": "13-4-4-2, fq_bmru",
                "chips": given.chips, "inputs": given.inputs, "frames": given.frames,
                "seconds": middle,
                "nanoseconds_a_chip_step": {way: 1e9 * t / steps for way, t in middle.items()},
                "faster_than_jax": middle["jax"] / middle["chips"],
                "faster_than_jax_newton": middle["jax_newton"] / middle["chips"],
                "faster_than_numpy": middle["numpy"] / middle["chips"],
                "faster_than_numpy_newton": middle["numpy_newton"] / middle["chips"],
                "slower_than_plain_jax": middle["chips"] / middle["plain"],
                "threads": middle["one_thread"] / middle["chips"],
                "jax_chips_at_a_time": best,
                "equal_decisions": agree,
                "growth_seconds": growth,
                "peak_mb": {n: memory(n, given.inputs, given.frames) for n in (100, given.chips)},
                "machine": {
                    "processor": platform.processor() or platform.machine(), "cores": cores(),
                    "load": os.getloadavg()[0], "numpy": np.__version__, "numba": numba.__version__,
                    "jax": __import__("jax").__version__, "cmru_hw": __version__,
                },
            },
            indent=1,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
