"""One network, trained from its seed: what a study is made of."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from cmru_hw.config import validate
from cmru_hw.farm import Arrays
from cmru_hw.nn.network import Network, NetworkConfig
from cmru_hw.training.config import TrainingConfig
from cmru_hw.training.tasks import Task, TaskConfig, TaskOptions, load_task
from cmru_hw.training.trainer import train

SOLVED = 0.95
"""Accuracy from which a task counts as solved."""

NETWORK = "network/"
"""What the names of weights begin with in a trial's result."""


@dataclass(frozen=True)
class Trial:
    """A network to train: its section without `input_size` and `num_classes`, which follow from the task.

    `training.seed` draws initial weights and batches, `task_seed` the data; `init_scale` multiplies the
    initial matrices (not biases, thresholds or gains).
    """

    network: Mapping[str, Any]
    task: TaskConfig | TaskOptions
    training: TrainingConfig
    init_scale: float = 1.0
    task_seed: int = 0

    def load_task(self) -> Task:
        """The data, kept from the last call: trials that share them may run one after another."""
        return _load_task(self.task, self.task_seed)

    def config(self) -> NetworkConfig:
        """The network with the sizes of its task. Raises ConfigError for a section that is none."""
        task = self.load_task()
        sizes = {"input_size": task.input_size, "num_classes": task.num_classes}
        return validate(NetworkConfig, {**self.network, **sizes}, "trial: network")

    def build(self) -> Network:
        """The network before training; the global generator is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.training.seed)
            network = Network(self.config())
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(self.init_scale)
        return network

    def trained(self, result: Arrays) -> Network:
        """The network that `run_trial` left, at the end of its annealing."""
        network = self.build()
        weights = {
            name.removeprefix(NETWORK): torch.from_numpy(np.array(value))
            for name, value in result.items()
            if name.startswith(NETWORK)
        }
        network.load_state_dict(weights)
        return network.eval()

    def plain(self) -> dict[str, Any]:
        """Everything that decides the result, as plain values."""
        return asdict(self) | {
            "network": dict(self.network),
            "task": self.task.model_dump(mode="json"),
            "training": self.training.model_dump(mode="json"),
        }


def run_trial(context: None, trial: Trial) -> Arrays:
    """Train and test, on one thread: a job for `run_jobs`. Follows from the trial alone, but for `seconds`.

    `test_accuracy`, `parameters`, `seconds`, `steps` [E] with `loss` and `validation_accuracy` [E] (NaN
    without a validation split), `solved_after` (the first of the steps from which on, epsilon being 0, the
    validation accuracy stays at `SOLVED` or above; -1 if none) and the weights as `network/...`.
    """
    with one_thread():
        began = time.process_time()
        network = trial.build()
        result = train(network, trial.load_task(), trial.training)
        seconds = time.process_time() - began
    history = result.history
    accuracies = [row["validation_accuracy"] for row in history]
    found: dict[str, Any] = {
        "test_accuracy": np.float64(result.metrics["test_accuracy"]),
        "parameters": np.int64(network.num_parameters()),
        "seconds": np.float64(seconds),
        "steps": np.array([row["step"] for row in history]),
        "loss": np.array([row["loss"] for row in history]),
        "validation_accuracy": np.array([np.nan if one is None else one for one in accuracies]),
        "solved_after": np.int64(_solved_after(history)),
    }
    weights: dict[str, Tensor] = network.state_dict()
    return found | {NETWORK + name: value.detach().numpy().copy() for name, value in weights.items()}


def _solved_after(history: list[dict[str, Any]]) -> int:
    first = -1
    for row in history:
        accuracy = row["validation_accuracy"]
        solved = accuracy is not None and accuracy >= SOLVED and row["epsilon"] == 0
        first = (row["step"] if first < 0 else first) if solved else -1
    return first


@contextmanager
def one_thread() -> Iterator[None]:
    """Networks of a study are too small to share out, and their sums should not depend on it."""
    before = numba.get_num_threads(), torch.get_num_threads()
    numba.set_num_threads(1)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        numba.set_num_threads(before[0])
        torch.set_num_threads(before[1])


@lru_cache(maxsize=2)
def _load_task(config: TaskConfig | TaskOptions, seed: int) -> Task:
    return load_task(config, seed)
