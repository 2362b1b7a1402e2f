"""What a chip does to a network, drawn anew in each training step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmru_hw.nn.threshold_cell import ThresholdCell

EXACT = "initial_state"
"""Not a current: a latch is reset to its exact state."""


def perturb(parameters: dict[str, Tensor], sigma: float) -> dict[str, Tensor]:
    """Each parameter times exp(sigma N(0, 1)), one draw per element.

    A threshold-voltage shift multiplies a subthreshold current by exp(dV / (n U_T)), so a weight, bias,
    threshold, width or gain, each a current or a ratio of two, errs by a log-normal factor. The tensors
    given are not changed and gradients reach them.
    """
    if sigma == 0:
        return parameters
    return {
        name: value if name.endswith(EXACT) else value * torch.exp(sigma * torch.randn_like(value))
        for name, value in parameters.items()
    }


def set_candidate_noise(network: nn.Module, std: float) -> None:
    """White noise (model units) on the candidates of every threshold unit, in training mode."""
    for module in network.modules():
        if isinstance(module, ThresholdCell):
            module.candidate_noise = std
