"""Speaker recognition on Japanese Vowels: the FQ-BMRU network against an nn.GRU of its size.

    python benchmarks/speaker_vowels.py [--seeds 5] [--processes 2] [--steps N]

All are trained by the same trainer with the configuration of `models/speaker_vowels_fq_bmru/config.yaml`
and pool the mean logit. The GRU has no candidates or thresholds, so candidate noise and margin do not
reach it; its weights stay continuous and the steps of the quantised phase are added to its main phase.
`fq_bmru_software` is trained in just that way too. The GRU is trained at the size nearest in parameters
and at the next larger one, and at the nearest also without weight noise. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch and numba start their pools
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import numba
import numpy as np
import torch
from torch import Tensor, nn

import cmru_hw
from cmru_hw.codesign import Plan, read_plan, train_network
from cmru_hw.nn.network import Network, pool_scores
from cmru_hw.training import train

CONFIG = Path(__file__).parents[1] / "models" / "speaker_vowels_fq_bmru" / "config.yaml"


class GRUNetwork(nn.Module):
    """nn.GRU, linear readout, mean logit over the valid frames."""

    def __init__(self, input_size: int, hidden_size: int, num_classes: int) -> None:
        super().__init__()
        self.gru = nn.GRU(input_size, hidden_size, batch_first=True)
        self.readout = nn.Linear(hidden_size, num_classes)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return pool_scores(self.readout(self.gru(x)[0]), lengths, "mean")


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def gru_nearest(parameters: int, plan: Plan, larger: bool) -> GRUNetwork:
    """The GRU network nearest in parameters, or the smallest one with at least as many."""
    sizes = [GRUNetwork(plan.network.input_size, n, plan.network.num_classes) for n in range(1, 65)]
    if larger:
        return next(network for network in sizes if count(network) >= parameters)
    return min(sizes, key=lambda network: abs(count(network) - parameters))


def run(job: tuple[str, int, int | None]) -> tuple[str, dict[str, Any]]:
    """Train one model with one seed."""
    name, seed, steps = job
    torch.set_num_threads(1)
    plan = read_plan(CONFIG)
    assert plan.config.training is not None
    training = plan.config.training.model_copy(update={"seed": seed, **({"steps": steps} if steps else {})})
    if name == "fq_bmru_software":
        training = training.model_copy(
            update={
                "steps": training.total_steps,
                "quantization": None,
                "margin": None,
                "candidate_noise": 0.0,
            }
        )
    if name.startswith("fq_bmru"):
        config = plan.config.model_copy(update={"training": training})
        return name, train_network(replace(plan, config=config), None)[1]
    changes: dict[str, Any] = {"steps": training.total_steps, "quantization": None, "margin": None}
    if name == "gru_without_noise":
        changes["weight_noise"] = 0.0
    torch.manual_seed(seed)
    parameters = Network(plan.network).num_parameters()
    torch.manual_seed(seed)
    network = gru_nearest(parameters, plan, larger=name == "gru_larger")
    return name, train(network, plan.task, training.model_copy(update=changes)).metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, help="steps of the main phase, for a quick look")
    arguments = parser.parse_args()
    began = time.perf_counter()
    names = ("fq_bmru", "fq_bmru_software", "gru", "gru_larger", "gru_without_noise")
    jobs = [(name, seed, arguments.steps) for seed in range(arguments.seeds) for name in names]
    metrics: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for name, result in pool.imap(run, jobs):
            metrics[name].append(result)
    models = {}
    for name, results in metrics.items():
        accuracy = [result["test_accuracy"] for result in results]
        models[name] = {
            "parameters": results[0]["parameters"],
            "test_accuracy": [round(value, 4) for value in accuracy],
            "mean": round(float(np.mean(accuracy)), 4),
            "std": round(float(np.std(accuracy)), 4),
            "min": round(min(accuracy), 4),
            "max": round(max(accuracy), 4),
            "seconds_per_seed": round(float(np.mean([r["timing"]["seconds"] for r in results])), 1),
        }
    report = {
        "benchmark": "speaker_vowels",
        "models": models,
        "fq_bmru_minus_gru": round(models["fq_bmru"]["mean"] - models["gru"]["mean"], 4),
        "test_utterances": metrics["fq_bmru"][0]["test_decisions"],
        "seconds": round(time.perf_counter() - began, 1),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {
            "cmru_hw": cmru_hw.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numba": numba.__version__,
            "numpy": np.__version__,
        },
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
