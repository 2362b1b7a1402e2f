"""What a training run leaves behind: weights, metrics and history."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from cmru_hw.config import write_atomically
from cmru_hw.errors import ConfigError
from cmru_hw.nn.network import Network, save_network
from cmru_hw.training.config import TrainingConfig
from cmru_hw.training.evaluation import evaluate
from cmru_hw.training.hardware import Hardware
from cmru_hw.training.tasks import Split, Task

Record = dict[str, Any]


@dataclass(frozen=True)
class TrainingResult:
    """`metrics` is what metrics.json holds; `history` has one row per evaluation."""

    history: list[Record]
    metrics: Record


def run_identity(
    network: nn.Module, task: Task, config: TrainingConfig, hardware: Hardware | None = None
) -> Record:
    """What has to be equal for a checkpoint to belong to this run."""
    identity: Record = {
        "training": config.model_dump(mode="json", exclude={"checkpoint_every", "device"}),
        "network": {"parameters": {name: list(p.shape) for name, p in network.named_parameters()}},
        "task": {"name": task.name, "train": _digest(task.train), "validation": _digest(task.validation)},
    }
    if isinstance(network, Network):
        identity["network"] |= network.config.model_dump(mode="json", exclude={"epsilon"})
    if hardware is not None:
        card = hardware.technology
        identity["hardware"] = asdict(hardware.planned) | {"technology": card.model_dump(mode="json")}
    return identity


def summarize(
    network: nn.Module, task: Task, config: TrainingConfig, steps: int, best_step: int, seconds: float
) -> Record:
    """Accuracies of the network as it is now, after `steps` steps."""
    validation = task.validation
    return {
        "task": task.name,
        "unit": network.config.unit if isinstance(network, Network) else type(network).__name__,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "steps": steps,
        "best_step": best_step,
        "seed": config.seed,
        "train_accuracy": evaluate(network, task.train).accuracy,
        "validation_accuracy": evaluate(network, validation).accuracy if validation else None,
        "test_accuracy": evaluate(network, task.test).accuracy,
        "test_decisions": len(task.test),
        "timing": {"seconds": round(seconds, 3)},
    }


def one_line(metrics: Record) -> str:
    """What metrics.json holds, for a person."""
    shares = [
        f"{name} {metrics[key]:.4f}"
        for name in ("train", "validation", "test")
        if metrics[key := f"{name}_accuracy"] is not None
    ]
    return (
        f"{metrics['task']}, {metrics['unit']}, seed {metrics['seed']}: {metrics['parameters']} parameters, "
        f"{metrics['steps']} steps (weights of {metrics['best_step']}), accuracy {', '.join(shares)}, "
        f"{metrics['timing']['seconds']:.1f} s"
    )


def write_finished(run: Path, network: nn.Module, result: TrainingResult) -> None:
    """Weights, and last metrics.json, whose presence says that the run is complete."""
    if isinstance(network, Network):
        save_network(network, run)
    else:
        tensors = {name: value.detach().contiguous() for name, value in network.state_dict().items()}
        write_atomically(run / "weights.safetensors", safetensors.torch.save(tensors))
    write_atomically(run / "metrics.json", json.dumps(result.metrics, indent=2) + "\n")


def read_finished(run: Path, network: nn.Module) -> Record | None:
    """The metrics of a complete run, its weights put into `network`; None if the run is not complete."""
    path, weights = run / "metrics.json", run / "weights.safetensors"
    if not (path.exists() and weights.exists()):
        return None
    try:
        metrics: Record = json.loads(path.read_text(encoding="utf-8"))
        network.load_state_dict(safetensors.torch.load_file(weights))
    except (ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{run}: damaged result ({reason}); delete the folder to start again") from error
    network.eval()
    return metrics


def _digest(split: Split | None) -> str | None:
    if split is None:
        return None
    digest = hashlib.sha256()
    for array in (split.x, split.y, split.lengths):
        digest.update(repr(array.shape).encode() + array.tobytes())
    return digest.hexdigest()[:16]
