"""Speaker recognition on Japanese Vowels: the FQ-BMRU network against an nn.GRU of at least its size.

    python benchmarks/speaker_vowels.py [--seeds 5] [--processes 2] [--steps N]

All are trained by the same trainer with the configuration of `models/speaker_vowels_fq_bmru/config.yaml`
(its own training settings if that file is absent) and pool the mean logit. The GRU has no candidates or
thresholds, so candidate noise and margin do not reach it; its weights stay continuous and the steps of
the quantised phase are added to its main phase. It is also trained without weight noise, in case that
suits it better. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch and numba start their pools
os.environ["NUMBA_NUM_THREADS"] = "1"

import numba
import numpy as np
import torch
from torch import Tensor, nn

import cmru_hw
from cmru_hw.config import read_yaml, validate
from cmru_hw.nn.network import Network, NetworkConfig, pool_scores
from cmru_hw.training import TaskConfig, TrainingConfig, load_task, train

CONFIG = Path(__file__).parents[1] / "models" / "speaker_vowels_fq_bmru" / "config.yaml"
DEFAULTS: dict[str, Any] = {
    "task": {"name": "japanese_vowels"},
    "network": {
        "unit": "fq_bmru",
        "input_size": 12,
        "model_size": 8,
        "hidden_size": 8,
        "num_layers": 2,
        "num_classes": 9,
        "pool": "mean",
    },
    "training": {
        "steps": 4000,
        "learning_rate": 3e-3,
        "epsilon_hold": 0,
        "epsilon_anneal": 0,
        "weight_noise": 0.2,
        "candidate_noise": 0.1,
        "margin": {"distance": 0.1, "weight": 0.5},
        "quantization": {"units": 16, "max_ratio": 4.0, "steps": 2000, "learning_rate": 1e-3},
    },
}


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


def gru_of_at_least(parameters: int, config: NetworkConfig) -> GRUNetwork:
    """The smallest GRU network that has as many parameters."""
    hidden = 1
    while count(network := GRUNetwork(config.input_size, hidden, config.num_classes)) < parameters:
        hidden += 1
    return network


def run(job: tuple[str, int, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Train one model with one seed."""
    name, seed, content = job
    torch.set_num_threads(1)
    config = validate(NetworkConfig, content["network"], "network")
    training = validate(TrainingConfig, {**content["training"], "seed": seed}, "training")
    torch.manual_seed(seed)
    network: nn.Module = Network(config)
    if name != "fq_bmru":
        network = gru_of_at_least(count(network), config)
        changes: dict[str, Any] = {"steps": training.total_steps, "quantization": None, "margin": None}
        if name == "gru_without_noise":
            changes["weight_noise"] = 0.0
        training = training.model_copy(update=changes)
    task = load_task(validate(TaskConfig, content["task"], "task"), seed)
    return name, train(network, task, training).metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, help="steps of the main phase, for a quick look")
    arguments = parser.parse_args()
    content = {**DEFAULTS, **(read_yaml(CONFIG) if CONFIG.exists() else {})}
    if arguments.steps is not None:
        content["training"] = {**content["training"], "steps": arguments.steps}
    began = time.perf_counter()
    names = ("fq_bmru", "gru", "gru_without_noise")
    jobs = [(name, seed, content) for seed in range(arguments.seeds) for name in names]
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
        "fq_bmru_minus_gru": round(
            models["fq_bmru"]["mean"] - max(models["gru"]["mean"], models["gru_without_noise"]["mean"]), 4
        ),
        "test_utterances": metrics["fq_bmru"][0]["test_decisions"],
        "training": content["training"],
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
