"""Matrix weights as whole numbers of unit transistors, and initial states that hardware can be reset to.

A weight is a ratio of mirror transistors: w = m / units with a whole m and |w| <= max_ratio. Biases,
thresholds, widths and gains are bias currents and stay continuous. An initial state is one that the unit
can hold: -1 or 1 in a latch, whole in a bank of latches, 0 on a capacitor, halfway between its rails.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cmru_hw.errors import ConfigError
from cmru_hw.nn.threshold_cell import ThresholdCell


def matrix_names(network: nn.Module) -> list[str]:
    """The parameters that mirrors build: the weight of every `nn.Linear`."""
    return [f"{name}.weight" for name, module in network.named_modules() if isinstance(module, nn.Linear)]


def state_names(network: nn.Module) -> dict[str, ThresholdCell]:
    """The initial states that training moves, each with the unit that starts from it."""
    trained = dict(network.named_parameters())
    cells = {name: module for name, module in network.named_modules() if isinstance(module, ThresholdCell)}
    starts = {f"{name}.initial_state" if name else "initial_state": cell for name, cell in cells.items()}
    return {name: cell for name, cell in starts.items() if name in trained}


def round_to_units(weight: Tensor, units: int, max_ratio: float) -> Tensor:
    """The nearest whole multiple of 1/units within the largest ratio; exact in float32 below 2^24 units."""
    if units < 1 or not max_ratio * units >= 1:
        raise ConfigError(f"units must be >= 1 and max_ratio >= 1/units, got {units} and {max_ratio}")
    largest = math.floor(max_ratio * units)
    return torch.round(weight * units).clamp(-largest, largest) / units


def fake_quantize(weight: Tensor, units: int, max_ratio: float) -> Tensor:
    """`round_to_units` whose gradient is 1 within the largest ratio and 0 beyond (straight-through)."""
    inside = weight.clamp(-max_ratio, max_ratio)
    return inside + (round_to_units(weight, units, max_ratio) - inside).detach()


def fake_hold(state: Tensor, cell: ThresholdCell) -> Tensor:
    """`cell.holdable(state)` with gradient 1 (straight-through)."""
    return cell.holdable(state).detach() + (state - state.detach())


@torch.no_grad()
def bake(network: nn.Module, units: int, max_ratio: float) -> None:
    """Replace every matrix weight by its rounded value and every initial state by one held, in place."""
    for name in matrix_names(network):
        weight = network.get_parameter(name)
        weight.copy_(round_to_units(weight, units, max_ratio))
    for name, cell in state_names(network).items():
        state = network.get_parameter(name)
        state.copy_(cell.holdable(state))
