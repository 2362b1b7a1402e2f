"""How long ngspice takes for a network in one deck and in parts; prints one JSON object.

    python benchmarks/spice.py --cells 2 4 8 16 --frames 6
    python benchmarks/spice.py --unit fq_bmru --cells 80 --frames 20 --rounds 1
    python benchmarks/spice.py --unit fq_bmru --layers 2 --cells 64 --frames 10 --rounds 1

CMRU or FQ-BMRU networks with random weights, both ways in turn, `--rounds` times. Seconds are those of the
processor, of ngspice and of Python, so that another load does not tell; the ratio is that of the medians,
`spread` the smallest and largest ratio of a round, `ratio_by_the_clock` that of the time it took on all
cores: one deck has one. Beside it the behavioural model, a chip, an input and a frame among many. Then
`--inputs` of four frames through four cells, with one worker and with two, by the clock: many, as the last is
one worker's alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import time

import numpy as np
import torch

from cmru_hw import __version__
from cmru_hw.analysis.robustness.lot import CHIPS_A_JOB, Lot, chip_accuracies
from cmru_hw.design import Design
from cmru_hw.farm import Farm
from cmru_hw.mapping import MappingConfig, map_network
from cmru_hw.nn.network import Network, NetworkConfig
from cmru_hw.result import Result
from cmru_hw.spice.ngspice import find_ngspice
from cmru_hw.spice.simulate import simulate
from cmru_hw.stimulus import make_stimulus
from cmru_hw.technology import load_technology


def random_design(cells: int, unit: str, levels: int, layers: int) -> Design:
    """A network whose states move: of a CMRU thresholds of half a unit, inputs of the order of one."""
    torch.manual_seed(cells)
    counts = {"levels": levels} if unit == "cmru" else {}
    config = NetworkConfig(
        unit=unit, input_size=8, model_size=8, hidden_size=cells, num_layers=layers, num_classes=4,
        skip=False, **counts,
    )  # fmt: skip
    network = Network(config)
    with torch.no_grad():
        for name, value in network.state_dict().items() if unit == "cmru" else ():
            if name.endswith("threshold"):
                value.fill_(0.5)
            elif name.endswith("initial_state"):
                value.zero_()
            elif name.endswith("gain"):
                value.fill_(0.3)
    return map_network(network.eval(), load_technology("generic180"), MappingConfig())[0]


def processor_time() -> float:
    """Seconds of this process and of those that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def behavioral_time(design: Design) -> float:
    """Processor seconds of the behavioural model for a chip, an input and a frame, on one thread.

    A job of `robustness`: drawn chips, of which each decides a hundred inputs.
    """
    x = np.random.default_rng(0).normal(0, 1, (100, 64, 8))
    stimulus, labels = make_stimulus(x, 8, design.facts.frame_period), np.zeros(100, dtype=np.int64)
    lot = Lot(design, stimulus, labels, 0)
    chip_accuracies(lot, range(1), Farm(1))  # compiles
    began = processor_time()
    chip_accuracies(lot, range(CHIPS_A_JOB), Farm(1))
    return (processor_time() - began) / (CHIPS_A_JOB * 100 * 64)


def differences(design: Design, flat: Result, parted: Result) -> dict[str, object]:
    """How many states differ, and of each that is the first of its cell its layer, and how far (A) from the
    threshold that decided the candidate was: at the frame's end, and at the least during the frame.
    """
    count, firsts = 0, []
    time = flat.waveforms["time"].reshape(-1)
    for layer, (a, b) in enumerate(zip(flat.states, parted.states, strict=True)):
        up, down = design.thresholds(layer, {})
        count += int((a != b).sum())
        for index, frame, cell in np.argwhere((a != b) & (np.cumsum(a != b, axis=1) == 1)):
            passing = flat.waveforms[f"candidate_{layer}"][index, :, cell]
            inside = (time[: len(passing)] >= frame * design.facts.frame_period) & (
                time[: len(passing)] <= (frame + 1) * design.facts.frame_period
            )
            one = passing[inside[: len(passing)]]
            at = flat.candidates[layer][index, frame, cell]
            end, least = (
                float(min(np.abs(value - up[cell]).min(), np.abs(value - down[cell]).min()))
                for value in (np.atleast_1d(at), one)
            )
            firsts.append({"layer": layer, "frame": int(frame), "end_a": end, "least_a": least})
    return {"states_differ": count, "first_differences": firsts}


def two_workers(design: Design, inputs: int, frames: int, rounds: int) -> dict[str, object]:
    """Wall time of some inputs with one worker and with two, in turn."""
    x = np.random.default_rng(1).normal(0, 1, (inputs, frames, 8))
    stimulus = make_stimulus(x, 8, design.facts.frame_period)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for workers in (1, 2):
            began = time.perf_counter()
            simulate(design, stimulus, farm=Farm(workers), checked=0)
            seconds[workers].append(time.perf_counter() - began)
    ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
    return {"inputs": inputs, "ratio": statistics.median(ratios), "spread": [min(ratios), max(ratios)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="*", default=[2, 4, 8, 16])
    parser.add_argument("--unit", choices=("cmru", "fq_bmru"), default="cmru")
    parser.add_argument("--levels", type=int, default=2)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--inputs", type=int, default=96, help="that one worker and two simulate")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    rows = []
    for cells in given.cells:
        design = random_design(cells, given.unit, given.levels, given.layers)
        x = np.random.default_rng(0).normal(0, 1, (1, given.frames, 8))
        stimulus = make_stimulus(x, 8, design.facts.frame_period)
        seconds: dict[bool, list[float]] = {False: [], True: []}
        clock: dict[bool, list[float]] = {False: [], True: []}
        found: dict[bool, Result] = {}
        for _ in range(given.rounds):
            for partition in (False, True):
                began, at = processor_time(), time.perf_counter()
                result = simulate(design, stimulus, checked=0, partition=partition)
                seconds[partition].append(processor_time() - began)
                clock[partition].append(time.perf_counter() - at)
                found[partition] = result
        ratios = [flat / parted for flat, parted in zip(seconds[False], seconds[True], strict=True)]
        rows.append(
            {
                "cells": cells,
                "unit_transistors": design.transistors,
                "flat_s_a_frame": statistics.median(seconds[False]) / given.frames,
                "parted_s_a_frame": statistics.median(seconds[True]) / given.frames,
                "behavioral_s_a_frame": behavioral_time(design),
                "ratio": statistics.median(seconds[False]) / statistics.median(seconds[True]),
                "spread": [min(ratios), max(ratios)],
                "ratio_by_the_clock": statistics.median(clock[False]) / statistics.median(clock[True]),
                "states": sum(states.size for states in found[True].states),
                **differences(design, found[False], found[True]),
            }
        )
    workers = two_workers(random_design(4, given.unit, given.levels, 1), given.inputs, 4, given.rounds)
    machine = {
        "processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
        "load": os.getloadavg()[0], "ngspice": find_ngspice()[1], "cmru_hw": __version__,
    }  # fmt: skip
    print(
        json.dumps(
            {
                "unit": given.unit,
                "levels": given.levels,
                "layers": given.layers,
                "frames": given.frames,
                "rows": rows,
                "two_workers": workers,
                "machine": machine,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
