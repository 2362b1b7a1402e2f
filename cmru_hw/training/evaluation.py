"""What a network answers on a split, without noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from cmru_hw.errors import ConfigError
from cmru_hw.training.tasks import Split


@dataclass(frozen=True)
class Evaluation:
    """Decisions `[B]`, the share of them that is right, and the mean cross-entropy."""

    accuracy: float
    loss: float
    decisions: np.ndarray


def device_of(network: nn.Module) -> torch.device:
    """Where the network's parameters are."""
    return next(network.parameters()).device


def to_tensors(split: Split, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """x, y and lengths of a split."""
    x, y, lengths = (torch.from_numpy(array).to(device) for array in (split.x, split.y, split.lengths))
    return x, y, lengths


@torch.no_grad()
def evaluate(network: nn.Module, split: Split, batch_size: int = 1024) -> Evaluation:
    """Run `network(x, lengths) -> scores [B, C]` in evaluation mode over the split."""
    if len(split) == 0:
        raise ConfigError("cannot evaluate on a split without sequences")
    was_training = network.training
    network.eval()
    try:
        decisions, loss = [], 0.0
        for first in range(0, len(split), batch_size):
            index = np.arange(first, min(first + batch_size, len(split)))
            x, y, lengths = to_tensors(split.take(index), device_of(network))
            scores = network(x, lengths)
            loss += float(nn.functional.cross_entropy(scores, y, reduction="sum"))
            decisions.append(scores.argmax(1).cpu().numpy())
    finally:
        network.train(was_training)
    decided = np.concatenate(decisions)
    return Evaluation(float(np.mean(decided == split.y)), loss / len(split), decided)
