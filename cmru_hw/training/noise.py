"""What a chip does to a network, drawn anew in each training step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmru_hw.errors import ConfigError
from cmru_hw.nn.threshold_cell import ThresholdCell
from cmru_hw.nn.units import AlphaCMRUCell

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


def set_packet_asymmetry(network: nn.Module, std: float) -> None:
    """The up/down asymmetry of every alphaCMRU, in training mode. ConfigError if there is no such unit."""
    cells = [module for module in network.modules() if isinstance(module, AlphaCMRUCell)]
    if std > 0 and not cells:
        raise ConfigError(
            f"training.packet_asymmetry: {std:g} belongs to alpha_cmru, and the network has no such unit; "
            "it must be 0"
        )
    for cell in cells:
        cell.packet_asymmetry = std
