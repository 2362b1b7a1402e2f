"""One recurrent block: unit, output matrix, relu, skip."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cmru_hw.nn.baselines import GRUCell, LRUCell, MinGRUCell
from cmru_hw.nn.cell import Cell
from cmru_hw.nn.fq_bmru import FQBMRUCell
from cmru_hw.nn.network_config import NetworkConfig
from cmru_hw.nn.threshold_cell import ThresholdCell
from cmru_hw.nn.units import AlphaCMRUCell, BMRUCell, CMRUCell

CELLS: dict[str, Callable[..., Cell]] = {
    "fq_bmru": FQBMRUCell,
    "bmru": BMRUCell,
    "cmru": CMRUCell,
    "alpha_cmru": AlphaCMRUCell,
    "lru": LRUCell,
    "min_gru": MinGRUCell,
    "gru": GRUCell,
}


class Block(nn.Module):
    """h = unit(relu(x) or x); y = relu(W_o h + b_o); x' = y + x. The relu on x is the FQ-BMRU's."""

    unit: Cell

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        size, hidden = config.model_size, config.hidden_size
        self.skip = config.skip
        self.unit = CELLS[config.unit](size, hidden, **config.unit_options())
        self.output = nn.Linear(hidden, size)
        self.norm = nn.LayerNorm(size) if config.norm == "layer" else None
        self.gate = nn.Linear(hidden, size) if config.glu else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, s0: Tensor | None = None) -> tuple[Tensor, Tensor | None, Tensor]:
        """x [B, T, H], s0 [B, N] (the unit's own if None) -> (x', candidates or None, states)."""
        inner = x if self.norm is None else self.norm(x)
        inner = inner.relu() if self.unit.rectifies_input else inner
        s0 = self.unit.start(inner) if s0 is None else s0
        c = None
        if isinstance(self.unit, ThresholdCell):
            c = self.unit.candidate(inner)
            s = self.unit.update(c, inner, s0)
        else:
            s = self.unit.states(inner, s0)
        h = self.unit.read(s, inner)
        y = self.output(h).relu()
        if self.gate is not None:
            y = y * torch.sigmoid(self.gate(h))
        y = self.dropout(y)
        return (y + x if self.skip else y), c, s
