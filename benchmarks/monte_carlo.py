"""Chips that the behavioural model takes through a network; prints one JSON object.

    python benchmarks/monte_carlo.py models/speaker_vowels_cmru

A chip-step is one chip, one input, one frame. The same model three ways in turn, `--rounds` times: `naive`, a
chip and a frame at a time, `blocked`, as `robustness` does it, on one thread, and on all cores. Then blocked
over chips, frames and inputs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numba
import numpy as np

from cmru_hw import __version__, behavioral
from cmru_hw.analysis.robustness import chip_accuracies
from cmru_hw.behavioral import BehavioralModel
from cmru_hw.codesign import read_plan
from cmru_hw.config import cores
from cmru_hw.design import Design
from cmru_hw.mapping import map_folder
from cmru_hw.nn.network import load_network
from cmru_hw.stimulus import Stimulus, make_stimulus
from cmru_hw.variation import draw


def seconds(work: Callable[[], object]) -> float:
    """Wall time of a call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def naive(design: Design, stimulus: Stimulus, chips: int) -> None:
    """A chip at a time, a frame at a time."""
    with mock.patch.object(behavioral, "ROWS", 1):
        for chip in range(chips):
            BehavioralModel(design, draw(design, [chip], 0)).decisions(stimulus)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--chips", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    plan, network = read_plan(given.model / "config.yaml"), load_network(given.model)
    design, _ = map_folder(given.model, network, plan.technology, plan.config.mapping)
    split = plan.task.test
    stimulus = make_stimulus(split.x, design.facts.input_size, design.facts.frame_period, split.lengths)

    def blocked(some: Stimulus, chips: int, workers: int) -> float:
        labels = np.zeros(len(some), dtype=np.int64)
        return seconds(lambda: chip_accuracies(design, some, labels, range(chips), 0, workers=workers))

    blocked(stimulus, 2, 1)  # compiles
    steps = given.chips * int(stimulus.lengths.sum())
    found: dict[str, list[float]] = {"naive": [], "blocked": [], "cores": []}
    for _ in range(given.rounds):
        found["naive"].append(seconds(lambda: naive(design, stimulus, given.chips)))
        found["blocked"].append(blocked(stimulus, given.chips, 1))
        found["cores"].append(blocked(stimulus, given.chips, cores()))
    middle = {way: statistics.median(times) for way, times in found.items()}
    ratios = [slow / fast for slow, fast in zip(found["naive"], found["blocked"], strict=True)]
    growth = {
        "chips": {n: blocked(stimulus, n, 1) / n for n in (4, 16, 64)},
        "inputs": {n: blocked(stimulus.select(range(n)), 8, 1) / n for n in (10, 100, len(stimulus))},
    }
    print(
        json.dumps(
            {
                "model": given.model.name,
                "chips": given.chips,
                "chip_steps": steps,
                "chip_steps_a_s": {way: steps / t for way, t in middle.items()},
                "blocked_over_naive": middle["naive"] / middle["blocked"],
                "spread": [min(ratios), max(ratios)],
                "cores_over_one": middle["blocked"] / middle["cores"],
                "seconds_each": growth,
                "machine": {
                    "processor": platform.processor() or platform.machine(), "cores": cores(),
                    "load": os.getloadavg()[0], "numpy": np.__version__, "numba": numba.__version__,
                    "cmru_hw": __version__,
                },
            },
            indent=1,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
