"""A penalty on candidates that come to rest near a threshold, where noise or mismatch flips the state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cmru_hw.nn.threshold_cell import ThresholdCell
from cmru_hw.training.config import MarginConfig


@contextmanager
def margin_penalty(
    network: nn.Module, config: MarginConfig | None, lengths: Tensor
) -> Iterator[Callable[[], Tensor]]:
    """Watch the candidates of a forward pass; yields a function that gives the penalty afterwards.

    weight * mean(relu(distance - |c - nearest threshold|)) over the valid frames of every unit; 0 for a
    network without thresholds.
    """
    found: list[Tensor] = []
    cells = [module for module in network.modules() if isinstance(module, ThresholdCell)]
    if config is None or not cells:
        yield lambda: torch.zeros((), device=lengths.device)
        return

    def watch(cell: ThresholdCell) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def see(module: nn.Module, inputs: tuple[Tensor, ...], candidate: Tensor) -> None:
            shortfall = (config.distance - cell.margin(candidate, inputs[0])).relu()
            valid = torch.arange(shortfall.shape[1], device=lengths.device) < lengths[:, None]
            found.append((shortfall * valid[..., None]).sum() / (valid.sum() * shortfall.shape[2]))

        return see

    handles = [cell.candidate.register_forward_hook(watch(cell)) for cell in cells]
    try:
        yield lambda: config.weight * torch.stack(found).mean()
    finally:
        for handle in handles:
            handle.remove()
