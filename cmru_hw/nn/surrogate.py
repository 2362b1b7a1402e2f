"""Binary decisions with a derivative to train through: step and sign."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SHARPNESS = 1.0
"""k of the surrogate derivative, per model unit (De Geeter et al., arXiv 2601.09495)."""


@torch.no_grad()
def surrogate_derivative(x: Tensor) -> Tensor:
    """k / (1 + (pi k x)^2), the derivative that stands in for the step's; area one."""
    return (math.pi * SHARPNESS * x).square_().add_(1).reciprocal_().mul_(SHARPNESS)


def step(x: Tensor) -> Tensor:
    """1 where x >= 0, else 0; backwards through `surrogate_derivative`. Any shape, floating point.

    >>> import torch
    >>> step(torch.tensor([-0.1, 0.0, 0.1])).tolist()
    [0.0, 1.0, 1.0]
    """
    result: Tensor = _Step.apply(x)
    return result


def sign(x: Tensor) -> Tensor:
    """+1 where x >= 0, else -1 (never 0); backwards through twice `surrogate_derivative`.

    >>> import torch
    >>> sign(torch.tensor([-0.1, 0.0, 0.1])).tolist()
    [-1.0, 1.0, 1.0]
    """
    return 2 * step(x) - 1


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x >= 0).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return surrogate_derivative(x).mul_(grad)
