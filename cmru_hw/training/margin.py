"""Room between candidates and thresholds: near a threshold, noise or mismatch flips the state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cmru_hw.errors import ConfigError
from cmru_hw.nn.threshold_cell import ThresholdCell
from cmru_hw.nn.units import SignedCell
from cmru_hw.training.config import MarginConfig


@contextmanager
def margin_penalty(
    network: nn.Module, config: MarginConfig | None, lengths: Tensor, step: int
) -> Iterator[Callable[[], Tensor]]:
    """Watch the candidates of a forward pass; yields a function that gives the penalty afterwards.

    weight * mean(relu(distance - |c - nearest threshold|)) over the valid frames of every unit, with the
    weight of this step; 0 for a network without thresholds.
    """
    found: list[Tensor] = []
    cells = [module for module in network.modules() if isinstance(module, ThresholdCell)]
    if config is None or not cells:
        yield lambda: torch.zeros((), device=lengths.device)
        return

    def watch(cell: ThresholdCell) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def see(module: nn.Module, inputs: tuple[Tensor, ...], candidate: Tensor) -> None:
            found.append(shortfall(cell.margin(candidate, inputs[0]), config.distance, lengths))

        return see

    handles = [cell.candidate.register_forward_hook(watch(cell)) for cell in cells]
    try:
        yield lambda: config.weight_at(step) * torch.stack(found).mean()
    finally:
        for handle in handles:
            handle.remove()


def shortfall(margin: Tensor, distance: float, lengths: Tensor) -> Tensor:
    """mean(relu(distance - margin)) over the valid frames of margins [B, T, N]."""
    short = (distance - margin).relu()
    valid = torch.arange(short.shape[1], device=lengths.device) < lengths[:, None]
    return (short * valid[..., None]).sum() / (valid.sum() * short.shape[2])


def constant_thresholds(network: nn.Module) -> list[nn.Parameter]:
    """The thresholds of BMRU, CMRU and alphaCMRU that do not depend on the input."""
    found = [module.threshold for module in network.modules() if isinstance(module, SignedCell)]
    return [threshold for threshold in found if isinstance(threshold, nn.Parameter)]


@torch.no_grad()
def raise_thresholds(network: nn.Module, floor: float) -> None:
    """Bring every constant threshold to a magnitude of at least `floor`, in place.

    ConfigError if there is none: an FQ-BMRU has limits of its own, and where a threshold follows the input
    the margin keeps candidates away from it.
    """
    thresholds = constant_thresholds(network)
    if floor > 0 and not thresholds:
        raise ConfigError(
            f"training.threshold_floor: {floor:g} belongs to bmru, cmru and alpha_cmru with constant "
            "thresholds, and the network has none; it must be 0"
        )
    for threshold in thresholds:
        threshold.copy_(torch.where(threshold < 0, -1, 1) * threshold.abs().clamp(min=floor))
