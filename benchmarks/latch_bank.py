"""Count with latch banks in ngspice, every run with two tolerance sets; prints one JSON object.

    python benchmarks/latch_bank.py --steps 1000 --keep counts.jsonl

K = 1, 2, 4, 8 and the single latch, frames of 1 and 10 ms, 0.6 and 0.8 V; a run is a random sequence of
up, down and hold steps in long drifts, from a random state at power-up. A repeated command goes on from
what `--keep` holds.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

from cmru_hw.spice.bank_bench import BankBench
from cmru_hw.spice.job import LATCH, QUICK
from cmru_hw.technology import load_technology

CHUNK = 125  # steps a run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000, help="of each condition")
    parser.add_argument("--levels", type=int, nargs="*", default=[4, 2, 1, 8, 0], help="0: the single latch")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, default=Path("counts.jsonl"))
    arguments = parser.parse_args()
    technology = load_technology("generic180")
    done = {}
    if arguments.keep.exists():
        lines = map(json.loads, arguments.keep.read_text().splitlines())
        done = {tuple(row["condition"]): row["errors"] for row in lines}
    chunks = range(-(-arguments.steps // CHUNK))
    for seed, levels, supply, period in itertools.product(chunks, arguments.levels, (0.8, 0.6), (1e-2, 1e-3)):
        condition = (levels, supply, period, seed)
        if condition in done:
            continue
        bench = BankBench(
            technology=technology.model_copy(update={"supply": supply}), levels=levels or 1,
            single=levels == 0, steps=CHUNK, seed=seed, period=period,
        )  # fmt: skip
        run = bench.run_twice((QUICK, LATCH), arguments.workers)
        done[condition] = int(run.errors.sum())
        with arguments.keep.open("a") as file:
            file.write(json.dumps({"condition": condition, "errors": done[condition]}) + "\n")
    table: dict[str, dict[str, int]] = {}
    for (levels, supply, period, _), errors in sorted(done.items()):
        row = table.setdefault(f"K={levels or 'single'} {supply:g} V {period:g} s", {"steps": 0, "errors": 0})
        row["steps"] += CHUNK
        row["errors"] += errors
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
