"""The units as recurrent layers with the call of `torch.nn.GRU`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from cmru_hw.nn.baselines import LRUCell, MinGRUCell
from cmru_hw.nn.cell import Cell
from cmru_hw.nn.fq_bmru import FQBMRUCell
from cmru_hw.nn.threshold_cell import Annealed
from cmru_hw.nn.units import AlphaCMRUCell, BMRUCell, CMRUCell


class RecurrentLayer(nn.Module):
    """A stack of `num_layers` cells, each in one or two directions, called like `torch.nn.GRU`. Base class.

    `output, h_n = layer(x, h_0)`. x is [T, B, I], or [B, T, I] with `batch_first`, or [T, I] unbatched;
    output has D N features, D being 2 if `bidirectional`, else 1, and is what the last layer's units
    show. h_0 and h_n, [D L, B, N] or [D L, N], are the units' states, which a gain sets apart from the
    output; without h_0 each unit starts from its own initial state. `dropout` acts between layers.
    Further keyword arguments are options of the unit. ValueError where shapes or dtypes do not fit,
    TypeError for a PackedSequence.
    """

    cell_type: ClassVar[Callable[..., Cell]]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **unit_options: Any,
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got {num_layers}")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout must be a probability between 0 and 1, got {dropout}")
        if dropout > 0 and num_layers == 1:
            warnings.warn(
                f"dropout acts between layers: dropout={dropout} does nothing with num_layers=1", stacklevel=2
            )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = dropout
        self.bidirectional = bidirectional
        directions = 2 if bidirectional else 1
        self.cells = nn.ModuleList(
            type(self).cell_type(
                input_size if layer == 0 else directions * hidden_size,
                hidden_size,
                bias,
                device,
                dtype,
                **unit_options,
            )
            for layer in range(num_layers)
            for _ in range(directions)
        )

    def forward(self, x: Tensor, h_0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if isinstance(x, PackedSequence):
            raise TypeError("x must be a padded Tensor, got a PackedSequence: call pad_packed_sequence first")
        batched = x.dim() == 3
        self._check(x, h_0)
        if not batched:
            x = x.unsqueeze(0)
            h_0 = None if h_0 is None else h_0.unsqueeze(1)
        elif not self.batch_first:
            x = x.transpose(0, 1)
        x, h_n = self._run(x, h_0)
        if not batched:
            return x.squeeze(0), h_n.squeeze(1)
        return (x if self.batch_first else x.transpose(0, 1)), h_n

    def _run(self, x: Tensor, h_0: Tensor | None) -> tuple[Tensor, Tensor]:
        """x [B, T, I], h_0 [D L, B, N] -> (output [B, T, D N], h_n [D L, B, N])."""
        directions = 2 if self.bidirectional else 1
        last: list[Tensor] = []
        for layer in range(self.num_layers):
            if layer > 0:
                x = nn.functional.dropout(x, self.dropout, self.training)
            outputs = []
            for direction in range(directions):
                index = layer * directions + direction
                cell = self.cells[index]
                fed = x.relu() if cell.rectifies_input else x
                fed = fed.flip(1) if direction == 1 else fed
                h, s = cell(fed, None if h_0 is None else h_0[index])
                outputs.append(h.flip(1) if direction == 1 else h)
                last.append(s)
            x = torch.cat(outputs, dim=2)
        return x, torch.stack(last)

    def _check(self, x: Tensor, h_0: Tensor | None) -> None:
        if x.dim() not in (2, 3):
            raise ValueError(f"x must be 2-D (unbatched) or 3-D, got {list(x.shape)}")
        if x.shape[-1] != self.input_size:
            raise ValueError(f"x must have input_size {self.input_size} features last, got {list(x.shape)}")
        batch_axis = 0 if self.batch_first else 1
        if x.shape[1 - batch_axis if x.dim() == 3 else 0] == 0:
            raise ValueError(f"x must hold at least one time step, got {list(x.shape)}")
        dtype = next(self.parameters()).dtype
        if x.dtype != dtype:
            raise ValueError(f"x must have the dtype of the layer, {dtype}, got {x.dtype}")
        if h_0 is None:
            return
        expected = [len(self.cells), self.hidden_size]
        if x.dim() == 3:
            expected.insert(1, x.shape[batch_axis])
        if list(h_0.shape) != expected:
            raise ValueError(f"h_0 must be {expected} to fit x {list(x.shape)}, got {list(h_0.shape)}")

    def set_epsilon(self, value: float) -> None:
        """Set every unit's epsilon, 0 .. 1. ValueError where the unit has none."""
        for cell in self.cells:
            if not isinstance(cell, Annealed):
                raise ValueError(f"epsilon belongs to FQBMRU and BMRU only, layer is {type(self).__name__}")
            cell.epsilon = value

    def project_(self) -> None:
        """Put parameters back into their allowed range; call it after each optimiser step."""
        for cell in self.cells:
            if isinstance(cell, Cell):
                cell.project_()

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"


class BMRU(RecurrentLayer):
    """z = [|c| >= beta]; s' = z (sign(c) + eps s) + (1 - z) s; h = gain s; see `BMRUCell`.

    Options: `epsilon=0.0`, `input_dependent_threshold=False`.

    >>> import torch
    >>> output, h_n = BMRU(3, 4, num_layers=2)(torch.zeros(10, 5, 3))
    >>> output.shape, h_n.shape
    (torch.Size([10, 5, 4]), torch.Size([2, 5, 4]))
    """

    cell_type = BMRUCell


class CMRU(RecurrentLayer):
    """s' = s + z sign(c), or clip(s + z sign(c), -levels, levels); h = gain s; see `CMRUCell`.

    Options: `levels=None`, `input_dependent_threshold=False`.

    >>> import torch
    >>> output, h_n = CMRU(3, 4, levels=2, bidirectional=True)(torch.zeros(10, 5, 3))
    >>> output.shape, h_n.shape
    (torch.Size([10, 5, 8]), torch.Size([2, 5, 4]))
    """

    cell_type = CMRUCell


class AlphaCMRU(RecurrentLayer):
    """h' = h + z a sign(c), or clip(h + z a sign(c), -rails, rails); a = |W_a x + b_a|; see `AlphaCMRUCell`.

    Options: `rails=None`, `input_dependent_threshold=False`.

    >>> import torch
    >>> output, h_n = AlphaCMRU(3, 4)(torch.zeros(10, 3))
    >>> output.shape, h_n.shape
    (torch.Size([10, 4]), torch.Size([1, 4]))
    """

    cell_type = AlphaCMRUCell


class FQBMRU(RecurrentLayer):
    """c = relu(W_c relu(x) + b_c); s' = 1 if c >= beta_hi, 0 if c < beta_lo, else s; h = gain s.

    Every layer applies the inner relu to what it is fed, so the negative part of x is lost: put a signed
    projection in front. See `FQBMRUCell`. Option: `epsilon=0.0`.

    >>> import torch
    >>> output, h_n = FQBMRU(3, 4, batch_first=True)(torch.zeros(5, 10, 3))
    >>> output.shape, h_n.shape
    (torch.Size([5, 10, 4]), torch.Size([1, 5, 4]))
    """

    cell_type = FQBMRUCell


class LRU(RecurrentLayer):
    """s' = lambda s + gamma (B x), complex; h = Re(C s) + D x + bias; see `LRUCell`. h_n is complex.

    Options: `radius=(0.0, 1.0)`, `max_phase=2 pi`.

    >>> import torch
    >>> output, h_n = LRU(3, 4)(torch.zeros(10, 5, 3))
    >>> output.shape, h_n.shape, h_n.dtype
    (torch.Size([10, 5, 4]), torch.Size([1, 5, 4]), torch.complex64)
    """

    cell_type = LRUCell


class MinGRU(RecurrentLayer):
    """z = sigmoid(W_z x + b_z); s' = (1 - z) s + z (W_h x + b_h); h = s; see `MinGRUCell`.

    >>> import torch
    >>> output, h_n = MinGRU(3, 4)(torch.zeros(10, 5, 3))
    >>> output.shape, h_n.shape
    (torch.Size([10, 5, 4]), torch.Size([1, 5, 4]))
    """

    cell_type = MinGRUCell
