"""Decisions from the logs of the testbenches: `python3 check.py`. Needs Python alone.

Reads `out_STAGE_J_frame_T` (A) from every TESTBENCH.log, or Xyce's TESTBENCH.mt0, and compares with
expected.json. Ends with 1 if a decision is another.
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def logits(measured: dict[str, float], expected: dict[str, Any], frame: int) -> list[float]:
    """Of a frame, from the currents of the output stages."""
    signs = [1.0, -1.0]
    values = [
        sum(
            sign * measured[f"out_{stage}_{j}_frame_{frame}"]
            for sign, stage in zip(signs, expected["outputs"], strict=False)
        )
        / expected["logit_current_a"]
        for j in range(expected["size"])
    ]
    if expected["readout"] is None:
        return values
    weight, bias = expected["readout"]
    return [
        sum(w * v for w, v in zip(row, values, strict=True)) + b for row, b in zip(weight, bias, strict=True)
    ]


def first_best(scores: Sequence[float]) -> int:
    """The winning class; ties go to the lowest."""
    return scores.index(max(scores))


def decision(rows: list[list[float]], pool: str) -> int:
    """Of logits by frame."""
    if pool == "last":
        return first_best(rows[-1])
    if pool == "vote":
        won = [first_best(row) for row in rows]
        return first_best([won.count(k) for k in range(len(rows[0]))])
    return first_best([sum(column) for column in zip(*rows, strict=True)])


def main() -> None:
    """Print a line an input."""
    expected = json.loads((HERE / "expected.json").read_text())
    wrong = 0
    for bench in expected["testbenches"]:
        found = [HERE / f"{bench['file']}.{end}" for end in ("log", "mt0")]
        told = [path.read_text() for path in found if path.exists()]
        if not told:
            sys.exit(f"{found[0].name}: is not there; run the testbench first")
        text = "\n".join(told).lower()
        measured = {k: float(v) for k, v in re.findall(r"^(out_\w+)\s*=\s*([-+.\de]+)", text, re.MULTILINE)}
        try:
            rows = [logits(measured, expected, t) for t in range(bench["frames"])]
        except KeyError as missing:
            sys.exit(f"{found[0].name}: says nothing of {missing}")
        got = decision(rows, expected["pool"])
        wrong += got != bench["decision"]
        print(f"{bench['file']}: decision {got}, expected {bench['decision']}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
