"""Epochs of the demo network against an nn.GRU of its size; prints one JSON object.

    python benchmarks/training.py [--threads 1] [--epochs 5] [--rounds 5]

Both go through the same trainer on Japanese Vowels with the same batches, weight noise and optimiser: the
FQ-BMRU network as software, and as the shipped model is trained, with candidate noise and margin; and the GRU
with the number of parameters nearest. In turn, `--rounds` times; ratios are of medians. Evaluation is left
out but for the last epoch's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time

THREADS = sys.argv[sys.argv.index("--threads") + 1] if "--threads" in sys.argv else "1"
os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = THREADS  # before the pools start

import torch  # noqa: E402
from speaker_vowels import CONFIG, count, gru_nearest  # noqa: E402

from cmru_hw import __version__  # noqa: E402
from cmru_hw.codesign import read_plan  # noqa: E402
from cmru_hw.nn.network import Network  # noqa: E402
from cmru_hw.training import train  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    plan = read_plan(CONFIG)
    assert plan.config.training is not None
    steps = given.epochs * -(-len(plan.task.train.y) // plan.config.training.batch_size)
    shipped = plan.config.training.model_copy(
        update={"steps": steps, "quantization": None, "evaluate_every": steps, "epsilon_hold": 0,
                "epsilon_anneal": steps // 2}
    )  # fmt: skip
    software = shipped.model_copy(update={"margin": None, "candidate_noise": 0.0})
    nearest = gru_nearest(count(Network(plan.network)), plan, larger=False)
    ways = {
        "fq_bmru": (lambda: Network(plan.network), software),
        "fq_bmru_as_shipped": (lambda: Network(plan.network), shipped),
        "gru": (lambda: gru_nearest(count(nearest), plan, larger=False), software),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(given.rounds + 1):
        for name, (make, training) in ways.items():
            torch.manual_seed(0)
            network = make()
            began = time.perf_counter()
            train(network, plan.task, training)
            found[name].append((time.perf_counter() - began) / given.epochs)
    middle = {name: statistics.median(times[1:]) for name, times in found.items()}  # the first compiles
    ratios = [gru / own for gru, own in zip(found["gru"][1:], found["fq_bmru"][1:], strict=True)]
    print(
        json.dumps(
            {
                "task": "japanese_vowels",
                "parameters": {"fq_bmru": count(Network(plan.network)), "gru": count(nearest)},
                "seconds_an_epoch": middle,
                "faster_than_gru": middle["gru"] / middle["fq_bmru"],
                "spread": [min(ratios), max(ratios)],
                "as_shipped_faster_than_gru": middle["gru"] / middle["fq_bmru_as_shipped"],
                "machine": {
                    "processor": platform.processor() or platform.machine(), "threads": given.threads,
                    "load": os.getloadavg()[0], "torch": torch.__version__, "cmru_hw": __version__,
                },
            },
            indent=1,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
