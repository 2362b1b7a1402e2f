"""Kill a Monte Carlo with -9 at a random moment, run it again, and compare its files with a calm run's.

    python interrupted.py --trials 50

Prints how many trials ended with the same bytes and how much was kept at the kill.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CHIPS, CHIPS_A_JOB = 1000, 50
SCRIPT = Path(__file__)


def work(out: Path) -> None:
    """The run that is killed: chips of a small network on two processes."""
    sys.path.insert(0, str(SCRIPT.parents[1]))
    from hardware.hardware_networks import random_input, random_network

    from cmru_hw.analysis.robustness import Lot, chip_accuracies
    from cmru_hw.config import write_atomically
    from cmru_hw.farm import Farm, Store
    from cmru_hw.mapping import map_network
    from cmru_hw.stimulus import make_stimulus
    from cmru_hw.technology import load_technology

    design, _ = map_network(random_network(2), load_technology("generic180"))
    stimulus = make_stimulus(random_input(2, batch=24), 3, 1e-2)
    lot = Lot(design, stimulus, np.arange(24) % 2, seed=3, sigma_scale=4.0)
    accuracies = chip_accuracies(lot, range(CHIPS), Farm(2), Store(out / "chips", lot.identity))
    write_atomically(out / "accuracies.json", json.dumps(accuracies.tolist()))


@dataclass(frozen=True)
class Trial:
    """`kept` jobs were finished when it was killed."""

    kept: int
    same: bool


def begin(out: Path) -> subprocess.Popen[bytes]:
    """The work in a process of its own."""
    return subprocess.Popen([sys.executable, str(SCRIPT), "--work", str(out)])


def contents(out: Path) -> dict[str, bytes]:
    """Every finished file."""
    files = (path for path in out.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(files)}


def finish(out: Path) -> None:
    """Let the work end by itself."""
    if begin(out).wait() != 0:
        raise RuntimeError(f"{out}: the work failed")


def kept(out: Path) -> int:
    """Jobs that are finished."""
    return len(list((out / "chips").glob("chips_*")))


def trial(out: Path, expected: dict[str, bytes], random: np.random.Generator) -> Trial:
    """Kill the work when some jobs are done, and let it end when it is begun again."""
    process, some = begin(out), random.integers(CHIPS // CHIPS_A_JOB)
    while process.poll() is None and kept(out) < some:
        time.sleep(1e-3)
    time.sleep(random.uniform(0, 0.05 if some else 3.0))
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = kept(out)
    finish(out)
    return Trial(before, contents(out) == expected)


def trials(folder: Path, count: int, seed: int) -> list[Trial]:
    """So many, each killed at a random moment."""
    finish(folder / "calm")
    expected, random = contents(folder / "calm"), np.random.default_rng(seed)
    return [trial(folder / f"trial_{k}", expected, random) for k in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work)
        return
    with tempfile.TemporaryDirectory() as folder:
        found = trials(Path(folder), given.trials, given.seed)
    same = sum(one.same for one in found)
    print(json.dumps({"trials": len(found), "same_bytes": same, "kept_at_the_kill": [t.kept for t in found]}))
    sys.exit(same != len(found))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
