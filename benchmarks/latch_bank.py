"""Count with latch banks in ngspice; prints one JSON object.

    python benchmarks/latch_bank.py --keep counts.jsonl                  # 1000 steps of each condition
    python benchmarks/latch_bank.py --what corners --keep corners.jsonl  # processes, temperatures
    python benchmarks/latch_bank.py --what chips --keep chips.jsonl      # 200 mismatched chips
    python benchmarks/latch_bank.py --what hold --keep hold.jsonl        # 10 s at 85 C

A run is a random sequence of up, down and hold steps in long drifts, from a random state at power-up, with
two tolerance sets that must tell the same states; of the chips, every tenth runs with both. A repeated
command goes on from what `--keep` holds.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cmru_hw.errors import SimulationError
from cmru_hw.spice.bank_bench import BankBench
from cmru_hw.spice.job import LATCH, QUICK
from cmru_hw.spice.ngspice import imap
from cmru_hw.technology import load_technology

CHUNK = 125  # steps a run
CORNER = 40e-3  # V by which all nMOS, all pMOS thresholds are off
GENERIC = load_technology("generic180")


def bench(levels: int, supply: float, **rest: Any) -> BankBench:
    """Of K levels; 0 is the single latch."""
    technology = GENERIC.model_copy(update={"supply": supply})
    return BankBench(technology=technology, levels=levels or 1, single=levels == 0, **rest)


def at_corner(one: BankBench, n: float, p: float) -> BankBench:
    """Every transistor's threshold raised by `n` or `p` (V)."""
    shifts = {
        name: np.full(array.units.shape, n if array.polarity == "n" else p)
        for name, array in one.devices().items()
    }
    return replace(one, shifts=shifts)


def counts(steps: int, levels: list[int]) -> Iterator[tuple[dict[str, Any], BankBench]]:
    """Random steps in chunks, the first of every condition first."""
    for seed, k, supply, period in itertools.product(
        range(-(-steps // CHUNK)), levels, (0.8, 0.6), (1e-2, 1e-3)
    ):
        condition = {"levels": k, "supply": supply, "period": period, "seed": seed}
        yield condition, bench(k, supply, steps=CHUNK, seed=seed, period=period)


def corners(levels: list[int]) -> Iterator[tuple[dict[str, Any], BankBench]]:
    """Slow, fast and crossed processes at three temperatures."""
    for k, supply, celsius, n, p in itertools.product(
        levels, (0.8, 0.6), (-20.0, 27.0, 85.0), (-CORNER, CORNER), (-CORNER, CORNER)
    ):
        condition = {"levels": k, "supply": supply, "celsius": celsius, "n": n, "p": p}
        one = bench(k, supply, steps=24, seed=5, period=1e-3, temperature=celsius, margin=1.5e-10)
        yield condition, at_corner(one, n, p)


def chips(number: int) -> Iterator[tuple[dict[str, Any], BankBench]]:
    """Mismatched chips; inputs keep half of beta from the threshold, which mismatch moves."""
    for seed in range(number):
        one = bench(4, 0.8, steps=16, seed=seed, period=1e-3, margin=1.5e-10)
        yield {"levels": 4, "supply": 0.8, "seed": seed}, one.mismatched(seed)


def hold() -> Iterator[tuple[dict[str, Any], BankBench]]:
    """A step up, then two frames of 5 s without one, nominal and with thresholds 40 mV low."""
    for k, supply, low in itertools.product((4, 0), (0.8, 0.6), (0.0, -CORNER)):
        rows = np.array([[5e-10, 1e-10, 1e-10]]).T, np.full((3, 1), 1e-10)
        one = bench(k, supply, steps=3, period=5.0, temperature=85.0, initial=-1, rows=rows)
        yield {"levels": k, "supply": supply, "low": low}, at_corner(one, low, low)


def checked(what: str, condition: dict[str, Any]) -> bool:
    """Whether a run has two tolerance sets."""
    return what != "chips" or condition["seed"] % 10 == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--what", choices=["counts", "corners", "chips", "hold"], default="counts")
    parser.add_argument("--steps", type=int, default=1000, help="of each condition of counts")
    parser.add_argument("--number", type=int, default=200, help="of chips")
    parser.add_argument("--levels", type=int, nargs="*", default=[4, 2, 1, 8], help="0: the single latch")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, required=True, help="file of finished runs")
    given = parser.parse_args()
    plans = {
        "counts": lambda: counts(given.steps, given.levels),
        "corners": lambda: corners(given.levels),
        "chips": lambda: chips(given.number),
        "hold": hold,
    }
    done = {}
    if given.keep.exists():
        done = {
            json.dumps(row["condition"]): row for row in map(json.loads, given.keep.read_text().splitlines())
        }
    todo = [(c, one) for c, one in plans[given.what]() if json.dumps(c) not in done]
    plan = [
        (number, replace(one, tolerances=tolerances))
        for number, (condition, one) in enumerate(todo)
        for tolerances in ((LATCH, QUICK) if checked(given.what, condition) else (QUICK,))
    ]
    runs: dict[int, list[Any]] = {}
    for index, data in imap((one.job() for _, one in plan), given.workers):
        number, one = plan[index]
        runs.setdefault(number, []).append(one.read(data))
        condition = todo[number][0]
        if len(runs[number]) < 1 + checked(given.what, condition):
            continue
        found: dict[str, Any] = {"condition": condition, "steps": one.steps}
        try:
            run = one.agreed_run(*runs[number]) if len(runs[number]) == 2 else runs[number][0]
            found["errors"] = int(run.errors.sum())
        except SimulationError as error:
            found["failed"] = str(error)[:200]
        del runs[number]
        done[json.dumps(condition)] = found
        with given.keep.open("a") as file:
            file.write(json.dumps(found) + "\n")
    table: dict[str, dict[str, int]] = {}
    for row in done.values():
        name = " ".join(f"{key}={value}" for key, value in row["condition"].items() if key != "seed")
        total = table.setdefault(
            name, {"runs": 0, "steps": 0, "errors": 0, "runs with errors": 0, "failed": 0}
        )
        total["runs"] += 1
        total["steps"] += row["steps"]
        total["errors"] += row.get("errors", 0)
        total["runs with errors"] += row.get("errors", 0) > 0
        total["failed"] += "failed" in row
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
