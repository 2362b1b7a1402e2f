"""Chips of the demo network on its whole test set: time and memory over their number; prints one JSON object.

    python benchmarks/many_chips.py --chips 100 1000 10000

Each number of chips in a process of its own, with a store, on all cores. Then what a million chips take, from
the seconds of the processor for a job and the bytes that its context and its result have.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from cmru_hw import __version__
from cmru_hw.analysis.robustness.lot import CHIPS_A_JOB, Lot, chip_accuracies
from cmru_hw.codesign import read_plan
from cmru_hw.config import cores
from cmru_hw.farm import Store
from cmru_hw.mapping import map_folder
from cmru_hw.nn.network import load_network
from cmru_hw.stimulus import make_stimulus

MANY = 1_000_000
WORKERS = 1000


def demo_lot(config: Path) -> Lot:
    """The demo's design and test set."""
    plan = read_plan(config)
    network = load_network(config.parent)
    design, _ = map_folder(config.parent, network, plan.technology, plan.config.mapping)
    split = plan.task.test
    stimulus = make_stimulus(split.x, design.facts.input_size, design.facts.frame_period, split.lengths)
    return Lot(design, stimulus, split.y, seed=0)


def peak(process: int | str) -> float:
    """Peak resident size of a process, MB."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return float(status.partition("VmHWM:")[2].split()[0]) / 1024


def measured(lot: Lot, chips: int) -> dict[str, Any]:
    """A run on all cores, with its processes warm."""
    chip_accuracies(lot, range(2 * CHIPS_A_JOB))
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        chip_accuracies(lot, range(chips), store=Store(Path(folder), lot.identity))
        seconds = time.perf_counter() - began
        sizes = [path.stat().st_size for path in Path(folder).glob("chips_*")]
    own = os.getpid()
    workers = Path(f"/proc/{own}/task/{own}/children").read_text(encoding="utf-8").split()
    return {
        "chips": chips, "seconds": seconds, "ms_a_chip": 1e3 * seconds / chips, "peak_mb": peak(own),
        "peak_mb_a_worker": max(map(peak, workers), default=0.0), "bytes_a_result": max(sizes),
    }  # fmt: skip


def processor_time() -> float:
    """Seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def million(lot: Lot, row: dict[str, Any]) -> dict[str, Any]:
    """What 10^6 chips take on 1000 workers, from a job on one thread here."""
    (job,) = lot.jobs(range(CHIPS_A_JOB)).values()
    job.run(lot)  # compiles
    began = processor_time()
    with threadpool_limits(1):
        job.run(lot)
    seconds, jobs = processor_time() - began, MANY // CHIPS_A_JOB
    return {
        "jobs": jobs, "cpu_s_a_job": seconds, "context_bytes": len(pickle.dumps(lot)),
        "hours_of_a_processor": jobs * seconds / 3600, "minutes_on_workers": jobs * seconds / WORKERS / 60,
        "store_mb": jobs * row["bytes_a_result"] / 1e6,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("models/speaker_vowels_fq_bmru/config.yaml"))
    parser.add_argument("--chips", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    lot = demo_lot(given.config)
    if given.one:
        print(json.dumps(measured(lot, given.one)))
        return
    rows = []
    for chips in given.chips:
        asked = [sys.executable, __file__, "--config", str(given.config), "--one", str(chips)]
        rows.append(json.loads(subprocess.run(asked, check=True, capture_output=True).stdout))
    machine = {"processor": platform.processor() or platform.machine(), "cores": cores(),
               "load": os.getloadavg()[0], "cmru_hw": __version__}  # fmt: skip
    found = {
        "inputs": len(lot.stimulus), "frames": int(lot.stimulus.lengths.sum()), "rows": rows,
        "million": million(lot, rows[-1]), "machine": machine,
    }  # fmt: skip
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
