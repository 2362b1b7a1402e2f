"""What every recurrent unit is: one direction of one layer, over a whole sequence."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Cell(nn.Module, ABC):
    """A recurrent unit with `hidden_size` N states, fed `input_size` I features. Base class.

    A subclass gives `states` (x [B, T, I], s0 [B, N] -> [B, T, N]) and, if its output is not its state,
    `read` (states, x -> h [B, T, N]). State is handed in and returned, never kept between calls.
    """

    rectifies_input = False
    """Whether the unit is fed relu(x); the block or layer that holds the cell applies the relu."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.input_size = input_size
        self.hidden_size = hidden_size

    def forward(self, x: Tensor, s0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [B, T, I], s0 [B, N] (the cell's own initial state if None) -> (h [B, T, N], s_T [B, N])."""
        s = self.states(x, self.start(x) if s0 is None else s0)
        return self.read(s, x), s[:, -1]

    def start(self, x: Tensor) -> Tensor:
        """The initial state [B, N] for a batch x: zeros unless the unit has one of its own."""
        return torch.zeros(x.shape[0], self.hidden_size, dtype=x.dtype, device=x.device)

    @abstractmethod
    def states(self, x: Tensor, s0: Tensor) -> Tensor:
        """The state after every step, [B, T, N]."""

    def read(self, s: Tensor, x: Tensor) -> Tensor:
        """The output h [B, T, N] that the states show."""
        return s

    @torch.no_grad()
    def project_(self) -> None:
        """Put parameters back into the range the unit allows; call it after each optimiser step."""
