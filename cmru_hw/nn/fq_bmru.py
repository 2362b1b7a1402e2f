"""FQ-BMRU: the first-quadrant bistable unit, the one that a nine-transistor latch is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmru_hw.nn.scan import linear_scan
from cmru_hw.nn.surrogate import step
from cmru_hw.nn.threshold_cell import Annealed, ThresholdCell

CANDIDATE_BIAS = 0.5
THRESHOLD_LOW = 0.15
WIDTH = 0.35
SPREAD = (0.8, 1.2)
"""Starting values of the publication, model units; thresholds are scattered by a uniform factor."""


class RectifiedLinear(nn.Linear):
    """relu(W x + b)."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu()


class FQBMRUCell(Annealed, ThresholdCell):
    """c = relu(W_c x + b_c); s' = 1 if c >= beta_hi, 0 if c < beta_lo, else s; h = gain s.

    beta_lo = threshold_low, beta_hi = beta_lo + width (arXiv 2605.15216). The unit's full equation has
    relu(W_c relu(x) + b_c): the relu on x belongs to the block or layer that holds the cell, which hands
    the cell relu(x). At eps = 0 the state is exactly 0 or 1; with eps > 0 that share of the state also
    survives a set or a reset, s' = (keep + eps (1 - keep)) s + set.
    Parameters: candidate.weight [N, I] (signed), candidate.bias [N], threshold_low, width, gain [N], all
    three >= 0 (`project_` sees to it); initial_state [N] is a fixed buffer of 0 or 1, zeros at first.

    >>> import torch
    >>> h, s = FQBMRUCell(3, 4)(torch.rand(2, 5, 3))
    >>> set(s.flatten().tolist()) <= {0.0, 1.0}
    True
    """

    rectifies_input = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        epsilon: float = 0.0,
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.candidate = RectifiedLinear(input_size, hidden_size, bias, device, dtype)
        if bias:
            nn.init.constant_(self.candidate.bias, CANDIDATE_BIAS)
        ones = torch.ones(hidden_size, device=device, dtype=dtype)
        self.threshold_low = nn.Parameter(THRESHOLD_LOW * torch.empty_like(ones).uniform_(*SPREAD))
        self.width = nn.Parameter(WIDTH * torch.empty_like(ones).uniform_(*SPREAD))
        self.gain = nn.Parameter(ones)
        self.register_buffer("initial_state", torch.zeros_like(ones))
        self.epsilon = epsilon

    def update(self, c: Tensor, x: Tensor, s0: Tensor) -> Tensor:
        c = self.disturbed(c)
        set_ = step(c - (self.threshold_low + self.width))
        keep = step(c - self.threshold_low) * (1 - set_)
        return linear_scan(keep + self.epsilon * (1 - keep), set_, s0)

    def read(self, s: Tensor, x: Tensor) -> Tensor:
        return self.gain * s

    def margin(self, c: Tensor, x: Tensor | None = None) -> Tensor:
        to_low = (c - self.threshold_low).abs()
        return torch.minimum(to_low, (c - self.threshold_low - self.width).abs())

    def holdable(self, s: Tensor) -> Tensor:
        return (s >= 0.5).to(s.dtype)

    @torch.no_grad()
    def project_(self) -> None:
        for parameter in (self.threshold_low, self.width, self.gain):
            parameter.clamp_(min=0)
