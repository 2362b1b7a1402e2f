"""docs/speed.md and its picture, made from what the benchmarks printed to benchmarks/results.

    python benchmarks/page.py [benchmarks/results] [docs]

Equal results give equal bytes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from cmru_hw.config import write_atomically
from cmru_hw.report.plots import BEHAVIORAL, INK, SPICE, styled, svg

ROOT = Path(__file__).resolve().parents[1]
WORKERS = 1000  # as `many_chips.py` reckons
SAME = {
    "fq_bmru": "FQ-BMRU, 9T",
    "cmru": "CMRU, K = 2",
    "sky130_fq_bmru": "FQ-BMRU, 9T, sky130",
    "sky130_cmru": "CMRU, K = 2, sky130",
}


def read(folder: Path) -> dict[str, Any]:
    """Results by benchmark."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def table(head: list[str], rows: list[list[str]]) -> str:
    """In Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]) + "\n"


def share(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def times(ratio: float) -> str:
    return f"{ratio:.3g} x" if ratio < 100 else f"{ratio:.0f} x"


def same_chips(found: dict[str, Any]) -> str:
    """Both engines on the same mismatched chips."""
    both = {
        title: found[f"same_chips_{name}"] for name, title in SAME.items() if f"same_chips_{name}" in found
    }

    def row(title: str, cell: Any) -> list[str]:
        return [title, *(cell(one) for one in both.values())]

    def blocks(one: dict[str, Any]) -> str:
        drawn = {k: v for k, v in one["block_error"].items() if v == v and not k.endswith("/bias")}
        worst = max(drawn, key=lambda key: abs(drawn[key]))
        return f"{100 * drawn[worst]:+.1f} % ({worst})"

    rows = [
        row("chips, each with an utterance of its own", lambda one: str(one["chips"])),
        row("decisions equal", lambda one: f"{one['decisions_equal']} of {one['chips']}"),
        row("right, behavioural; ngspice", lambda one: "{}; {}".format(*one["right"])),
        row("state samples equal", lambda one: share(one["states_equal"])),
        row(
            "those that differ: static, dynamic, inherited",
            lambda one: ", ".join(str(one["kinds"][kind]) for kind in ("static", "dynamic", "inherited")),
        ),
        row(
            "margin of the decision, rms difference; spread over chips",
            lambda one: f"{one['margin_rms_difference']:.2f}; {one['margin_sd'][1]:.2f}",
        ),
        row("margins of one distribution? KS, p", lambda one: f"{one['margin_ks_p']:.2f}"),
        row(
            "supply power, mean error; of a chip at most",
            lambda one: (
                f"{100 * one['power_error']['mean']:+.2f} %; {100 * one['power_error']['worst']:.1f} %"
            ),
        ),
        row("worst block", blocks),
    ]
    return table(["", *both], rows)


def scans(found: dict[str, Any]) -> str:
    one_core = {tuple(row["shape"]): row for row in found["scan_one_core"]["rows"]}
    rows = []
    for row in found["scan"]["rows"]:
        alone = one_core.get(tuple(row["shape"]))
        rows.append(
            [
                ", ".join(map(str, row["shape"])),
                f"{row['milliseconds']['linear_scan']:.2f}",
                times(row["over_memory_bound"]),
                times(row["faster_than_lax_scan"]),
                times(row["faster_than_associative_scan"]),
                times(alone["faster_than_associative_scan"]) if alone else "",
            ]
        )
    head = [
        "B, T, N", "ms", "over the memory bound", "faster than `lax.scan`", "than `associative_scan`",
        "the same, one core",
    ]  # fmt: skip
    return table(head, rows)


def chips(found: dict[str, Any]) -> str:
    ways = {
        "chips": "behavioural model, all cores",
        "one_thread": "one thread",
        "jax": "JAX, nodes from the kernels' table",
        "jax_newton": "JAX, Newton's method from a formula's guess",
        "plain": "JAX, the trained network's equations alone",
        "numpy": "NumPy, a chip and a frame at a time, nodes from the kernels' table",
        "numpy_newton": "NumPy, Newton's method from a formula's guess",
    }
    alone = found.get("monte_carlo_one_core")
    rows = [
        [
            title,
            f"{found['monte_carlo']['nanoseconds_a_chip_step'][way]:.0f}",
            f"{alone['nanoseconds_a_chip_step'][way]:.0f}" if alone else "",
        ]
        for way, title in ways.items()
    ]
    return table(["", "ns a chip, input and frame", "on one core"], rows)


def many_chips(many: dict[str, Any]) -> str:
    rows = [
        [
            str(row["chips"]), f"{row['seconds']:.1f}", f"{row['ms_a_chip']:.1f}", f"{row['peak_mb']:.0f}",
            f"{row['peak_mb_a_worker']:.0f}",
        ]
        for row in many["rows"]
    ]  # fmt: skip
    return table(["chips", "s", "ms a chip", "peak MB", "of a worker, MB"], rows)


def decks(found: dict[str, Any]) -> str:
    rows = [
        [
            SAME[record["unit"]] + (f", {record['layers']} layers" if record["layers"] > 1 else ""),
            str(row["cells"]),
            str(row["unit_transistors"]),
            f"{row['flat_s_a_frame']:.2f}",
            f"{row['parted_s_a_frame']:.2f}",
            times(row["ratio"]),
            times(row["ratio_by_the_clock"]),
            f"{1e6 * row['behavioral_s_a_frame']:.1f}",
            f"{row['flat_s_a_frame'] / row['behavioral_s_a_frame']:.1e}",
            f"{row['states_differ']} of {row['states']}",
        ]
        for record in measured_decks(found)
        for row in record["rows"]
    ]
    head = [
        "cells", "of a layer", "unit transistors", "one deck, s a frame", "in parts, s a frame", "ratio",
        "by the clock", "behavioural, us", "times less than one deck", "states differ",
    ]  # fmt: skip
    return table(head, rows)


def measured_decks(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [found[name] for name in ("spice", "spice_fq_bmru", "spice_two_layers")]


def races(found: dict[str, Any]) -> str:
    """Where the first state of a cell differed: how near its candidate came to a threshold."""
    firsts = [
        one for record in measured_decks(found) for row in record["rows"] for one in row["first_differences"]
    ]
    if not firsts:
        return "No state differed."
    near = ", ".join(f"{1e12 * one['least_a']:.2g}" for one in firsts)
    return (
        f"Cells whose state differed, {len(firsts)} in all, had a candidate that came this near to a threshold "
        f"within the frame where they first did (pA): {near}."
    )


@styled
def growth(found: dict[str, Any]) -> Figure:
    """Time over T, over chips and over cells."""
    made = Figure(figsize=(9.6, 3.0), layout="constrained")
    steps, many, cells = made.subplots(1, 3)
    rows = sorted((r for r in found["scan"]["rows"] if r["shape"][0] == 8), key=lambda r: r["shape"][1])
    for name, colour, label in (
        ("linear_scan", SPICE, "linear_scan"),
        ("lax_scan", BEHAVIORAL, "lax.scan"),
        ("associative_scan", INK, "associative_scan"),
    ):
        steps.loglog(
            [r["shape"][1] for r in rows], [r["milliseconds"][name] for r in rows], "o-", color=colour,
            label=label,
        )  # fmt: skip
    steps.set(xlabel="T of [8, T, 64]", ylabel="ms, forward and backward", title="scan")
    over = found["monte_carlo"]["growth_seconds"]["chips"]
    numbers = np.array([int(n) for n in over])
    many.loglog(numbers, list(over.values()), "o-", color=SPICE, label="measured")
    many.loglog(numbers, list(over.values())[-1] * numbers / numbers[-1], "--", color=INK, label="linear")
    inputs, frames = found["monte_carlo"]["inputs"], found["monte_carlo"]["frames"]
    many.set(xlabel=f"chips, of {inputs} inputs of {frames} frames", ylabel="s", title="Monte Carlo")
    for key, colour, label in (("flat", BEHAVIORAL, "one deck"), ("parted", SPICE, "in parts")):
        rows = found["spice"]["rows"]
        cells.loglog(
            [r["cells"] for r in rows], [r[f"{key}_s_a_frame"] for r in rows], "o-", color=colour, label=label
        )
    cells.set(xlabel="CMRU cells of a layer", ylabel="processor s a frame", title="ngspice")
    for axes in (steps, many, cells):
        axes.legend(fontsize=7)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
    return made


def page(found: dict[str, Any]) -> str:
    """The whole page."""
    scan, training, carlo = found["scan"]["machine"], found["training"], found["monte_carlo"]
    many = found["many_chips"]
    million = many["million"]
    return f"""# How accurate, how fast

This page is made by `benchmarks/page.py` from what the benchmarks printed to `benchmarks/results`, on {scan["cores"]} cores. Ratios are measured in turn within one run; times are of that machine.

![Time over steps, chips and cells](images/speed.svg)

## The same chips in both engines

`benchmarks/same_chips.py`: chips of one seeded draw of thresholds and current factors, each with an utterance of the test set of at most 12 frames (of the CMRU on sky130 9), in the behavioural model and in ngspice.

{same_chips(found)}
The clockless FQ-BMRU's `dynamic` differences are hazards: what a latch caught while a frame spread ([circuits.md](circuits.md)). How near the mapped thresholds come to the trained ones, over current, temperature and supply, and the noise of nodes against `.noise`, is in [circuits.md](circuits.md) too.

## Scan

`benchmarks/scan.py`: s_t = a_t s_(t-1) + b_t in float32, forward and backward, against JAX {scan["jax"]}: how many times longer than moving the arrays involved at the bandwidth of a copy, and how many times faster than JAX.

{scans(found)}
A copy reads each cache line that it then overwrites. Gradients of 8 MiB and more are written past the caches, without, so that a large scan can take less time than a copy of as many bytes.

## Training

`benchmarks/training.py`: an epoch of the demo network ({training["parameters"]["fq_bmru"]} parameters, two layers) takes {1e3 * training["seconds_an_epoch"]["fq_bmru"]:.0f} ms, one of an `nn.GRU` with {training["parameters"]["gru"]} parameters in the same trainer {1e3 * training["seconds_an_epoch"]["gru"]:.0f} ms: {training["faster_than_gru"]:.2f} times as fast ({training["spread"][0]:.2f} to {training["spread"][1]:.2f} in single rounds). With the candidate noise and the margin that the shipped model is trained with, {training["as_shipped_faster_than_gru"]:.2f} times.

## Chips

`benchmarks/monte_carlo.py`: {carlo["chips"]} chips of a 13-4-4-2 FQ-BMRU network, {carlo["inputs"]} inputs, {carlo["frames"]} frames.

{chips(found)}
The same equations are mirrors with their output curves, nodes where they settle, and calibrated latches, vmapped, jitted and in float32 in JAX; all ways give the same decisions. The kernels look a node's current up in a table over its two sums; JAX with that table is {carlo["faster_than_jax"]:.1f} times slower, with six steps from a formula {carlo["faster_than_jax_newton"]:.1f} times; NumPy, a chip and a frame at a time, {carlo["faster_than_numpy"]:.0f} and {carlo["faster_than_numpy_newton"]:.0f} times. The equations take {carlo["slower_than_plain_jax"]:.0f} times as long as relu(W x + b) and two thresholds: that is what the agreement above costs. Peak memory, of the process and its workers, was {carlo["peak_mb"]["100"]:.0f} MB with 100 chips and {carlo["peak_mb"][str(carlo["chips"])]:.0f} MB with {carlo["chips"]}.

## Many chips, many machines

`benchmarks/many_chips.py`: chips of the demo network, {many["inputs"]} utterances of {many["frames"]} frames in all for each, on all cores, with a store.

{many_chips(many)}
Every sweep's jobs run on processes of one machine, or, with `--scheduler tcp://HOST:PORT`, on the workers of a Dask cluster that has the same version of cmru-hw (`pip install "cmru-hw[cluster]"`; `dask scheduler`, `dask worker tcp://HOST:PORT --nthreads 1`). Results are the same bytes wherever they ran; each finished job is a file in the store, a worker that dies has its jobs done again, and a repeated command goes on from what is there.

10^6 chips are {million["jobs"]} jobs of {million["cpu_s_a_job"]:.2f} s of a processor, {million["hours_of_a_processor"]:.1f} hours in all: {60 * million["minutes_on_workers"]:.0f} s on {WORKERS} workers with one thread each. A worker gets the design and the inputs once, {million["context_bytes"] / 1e6:.1f} MB, which is {WORKERS * million["context_bytes"] / 1e9:.1f} GB from the scheduler in all, and holds {many["rows"][-1]["peak_mb_a_worker"]:.0f} MB; the scheduler hands out {million["jobs"] / (60 * million["minutes_on_workers"]):.0f} jobs a second, and the store grows to {million["store_mb"]:.0f} MB.

## ngspice

`benchmarks/spice.py`: networks with random weights, the whole design in one deck and part by part, {found["spice"]["frames"]} frames of the CMRU, {found["spice_fq_bmru"]["frames"]} and {found["spice_two_layers"]["frames"]} of the FQ-BMRU; seconds of the processor, and by the clock on all cores.

{decks(found)}
{races(found)} In a clocked cell most of ngspice's steps are at the edges of its own clock, which parts do not save. Two workers take {found["spice_fq_bmru"]["two_workers"]["inputs"]} short inputs of four cells {found["spice_fq_bmru"]["two_workers"]["ratio"]:.2f} times as fast as one (CMRU, {found["spice"]["two_workers"]["inputs"]} inputs: {found["spice"]["two_workers"]["ratio"]:.2f}).

A frame of the behavioural model is one of a chip and an input in a job of `robustness`, 50 chips with 100 inputs each, the chips drawn, on one thread. Small decks without a clock are quick in ngspice too, {1e3 * found["spice_fq_bmru"]["rows"][0]["flat_s_a_frame"]:.0f} ms a frame of four FQ-BMRUs; there the model is not a million times as fast, but from some twenty cells on.
"""


def main() -> None:
    results = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "benchmarks" / "results"
    docs = Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "docs"
    found = read(results)
    write_atomically(docs / "images" / "speed.svg", svg(growth(found)))
    write_atomically(docs / "speed.md", page(found))


if __name__ == "__main__":
    main()
