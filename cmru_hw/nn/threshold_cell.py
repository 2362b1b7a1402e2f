"""What the units of this package share: a state that moves when a candidate crosses a threshold."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from cmru_hw.nn.cell import Cell


class ThresholdCell(Cell):
    """A unit driven by a candidate c = W_c x + b_c. Base class.

    `candidate(x)` gives c [B, T, N]; `update(c, x, s0)` the states [B, T, N] that follow from it;
    `margin(c, x)` how far each c is from the nearest threshold; `holdable(s)` the nearest state that
    hardware can be reset to. `candidate_noise` is the standard deviation, in model units, of the white
    Gaussian noise that training mode adds to every c.
    """

    candidate: nn.Linear
    initial_state: Tensor

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.candidate_noise = 0.0

    def start(self, x: Tensor) -> Tensor:
        return self.initial_state.expand(x.shape[0], self.hidden_size)

    def states(self, x: Tensor, s0: Tensor) -> Tensor:
        return self.update(self.candidate(x), x, s0)

    @abstractmethod
    def update(self, c: Tensor, x: Tensor, s0: Tensor) -> Tensor:
        """The states [B, T, N] from candidates c [B, T, N], input x [B, T, I] and s0 [B, N]."""

    @abstractmethod
    def margin(self, c: Tensor, x: Tensor | None = None) -> Tensor:
        """|c - nearest threshold|, like c; a threshold that depends on the input needs x."""

    @abstractmethod
    def holdable(self, s: Tensor) -> Tensor:
        """The nearest state that the unit can hold, elementwise; the shape of s."""

    def disturbed(self, c: Tensor) -> Tensor:
        """c with the candidate noise of training mode."""
        if self.training and self.candidate_noise > 0:
            return c + self.candidate_noise * torch.randn_like(c)
        return c


class Annealed:
    """A unit with epsilon, the share of its state that survives an update: 0 is the unit, 1 a counter."""

    _epsilon: float

    @property
    def epsilon(self) -> float:
        """0 .. 1; annealing it from 1 to 0 trains a bistable unit with a counter's gradients."""
        return self._epsilon

    @epsilon.setter
    def epsilon(self, value: float) -> None:
        if not 0 <= value <= 1:
            raise ValueError(f"epsilon must be between 0 and 1, got {value}")
        self._epsilon = float(value)
