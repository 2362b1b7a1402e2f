"""LRU and minGRU, the published units that the CMRU paper compares with, and the GRU."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cmru_hw.nn.cell import Cell
from cmru_hw.nn.scan import linear_scan


class MinGRUCell(Cell):
    """z = sigmoid(W_z x + b_z); s' = (1 - z) s + z (W_h x + b_h); h = s.

    Feng et al. 2024, "Were RNNs all we needed?", arXiv 2410.01201, in its plain form (the log-space form
    computes the same with a positive candidate). The initial state is zero unless given.
    Parameters: gate.weight, candidate.weight [N, I], gate.bias, candidate.bias [N].

    >>> import torch
    >>> h, s = MinGRUCell(3, 4)(torch.zeros(2, 5, 3))
    >>> torch.equal(h[:, -1], s)
    True
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.gate = nn.Linear(input_size, hidden_size, bias, device, dtype)
        self.candidate = nn.Linear(input_size, hidden_size, bias, device, dtype)

    def states(self, x: Tensor, s0: Tensor) -> Tensor:
        z = torch.sigmoid(self.gate(x))
        return linear_scan(1 - z, z * self.candidate(x), s0)


class GRUCell(Cell):
    """The gated recurrent unit of Cho et al. 2014, arXiv 1406.1078, as `torch.nn.GRU` computes it.

    r = sigmoid(W_r x + b_r + U_r s + c_r); z = sigmoid(W_z x + b_z + U_z s + c_z);
    n = tanh(W_n x + b_n + r (U_n s + c_n)); s' = (1 - z) n + z s; h = s. It goes from frame to frame.
    Parameters: input.weight [3N, I], recurrent.weight [3N, N], their rows in the order r, z, n, and
    input.bias, recurrent.bias [3N]; they start as those of `torch.nn.GRU`.

    >>> import torch
    >>> h, s = GRUCell(3, 4)(torch.zeros(2, 5, 3))
    >>> torch.equal(h[:, -1], s)
    True
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.input = nn.Linear(input_size, 3 * hidden_size, bias, device, dtype)
        self.recurrent = nn.Linear(hidden_size, 3 * hidden_size, bias, device, dtype)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(hidden_size), 1 / math.sqrt(hidden_size))

    def states(self, x: Tensor, s0: Tensor) -> Tensor:
        weights: list[Tensor] = [self.input.weight, self.recurrent.weight]
        biased = self.input.bias is not None
        if biased:
            weights += [self.input.bias, self.recurrent.bias]
        start = s0.unsqueeze(0).contiguous()
        s: Tensor = torch.gru(x, start, weights, biased, 1, 0.0, self.training, False, True)[0]
        return s


class LRUCell(Cell):
    """s' = lambda s + gamma (B x), complex and diagonal; h = Re(C s) + D x + bias.

    Orvieto et al. 2023, "Resurrecting recurrent neural networks for long sequences", arXiv 2303.06349:
    lambda = exp(-exp(nu_log) + i exp(theta_log)), so |lambda| < 1 whatever the parameters; it starts
    uniform on the ring `radius` of the complex plane, and gamma at sqrt(1 - |lambda|^2).
    The state is complex ([B, N], complex64 for float32). Parameters: nu_log, theta_log, gamma_log [N],
    B_re, B_im [N, I], C_re, C_im [N, N], D [N, I], bias [N] (ours, left out by `bias=False`).
    In a frame that turns with lambda's phase the scan is two real ones with a = |lambda|, which is how
    it is computed; the phases are float64, since t theta grows with the sequence.

    >>> import torch
    >>> h, s = LRUCell(3, 4)(torch.zeros(2, 5, 3))
    >>> h.dtype, s.dtype
    (torch.float32, torch.complex64)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        radius: tuple[float, float] = (0.0, 1.0),
        max_phase: float = 2 * math.pi,
    ) -> None:
        super().__init__(input_size, hidden_size)
        if not 0 <= radius[0] < radius[1] <= 1:
            raise ValueError(f"radius must be two rising numbers within 0 .. 1, got {radius}")
        if not 0 < max_phase <= 2 * math.pi:
            raise ValueError(f"max_phase must be above 0 and at most 2 pi, got {max_phase}")

        def normal(*shape: int, fan: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, device=device, dtype=dtype) / math.sqrt(fan))

        low, high = radius
        tiny = 1e-6
        area = torch.rand(hidden_size, device=device, dtype=dtype).clamp(tiny, 1 - tiny)
        squared = area * (high**2 - low**2) + low**2
        phase = max_phase * torch.rand(hidden_size, device=device, dtype=dtype).clamp(min=tiny)
        self.nu_log = nn.Parameter(torch.log(-0.5 * torch.log(squared)))
        self.theta_log = nn.Parameter(torch.log(phase))
        self.gamma_log = nn.Parameter(0.5 * torch.log1p(-squared))
        self.B_re = normal(hidden_size, input_size, fan=2 * input_size)
        self.B_im = normal(hidden_size, input_size, fan=2 * input_size)
        self.C_re = normal(hidden_size, hidden_size, fan=hidden_size)
        self.C_im = normal(hidden_size, hidden_size, fan=hidden_size)
        self.D = normal(hidden_size, input_size, fan=input_size)
        zeros = torch.zeros(hidden_size, device=device, dtype=dtype)
        self.bias = nn.Parameter(zeros) if bias else None

    def start(self, x: Tensor) -> Tensor:
        return torch.zeros(x.shape[0], self.hidden_size, dtype=x.dtype.to_complex(), device=x.device)

    def states(self, x: Tensor, s0: Tensor) -> Tensor:
        gamma = torch.exp(self.gamma_log).unsqueeze(1)
        drive = torch.complex(x @ (gamma * self.B_re).T, x @ (gamma * self.B_im).T)
        turn = self._turn(x.shape[1])
        inward = torch.view_as_real(drive * turn.conj()).flatten(2)
        start = torch.view_as_real(s0.to(drive.dtype)).flatten(1)
        modulus = torch.exp(-torch.exp(self.nu_log)).repeat_interleave(2)
        turning = linear_scan(modulus.expand_as(inward), inward, start)
        return torch.view_as_complex(turning.unflatten(2, (-1, 2))) * turn

    def _turn(self, steps: int) -> Tensor:
        """exp(i (t + 1) theta), [T, N]: how far the frame has turned after each step."""
        time = torch.arange(1, steps + 1, device=self.theta_log.device, dtype=torch.float64)
        angle = torch.outer(time, torch.exp(self.theta_log.double()))
        dtype = self.theta_log.dtype
        return torch.complex(torch.cos(angle).to(dtype), torch.sin(angle).to(dtype))

    def read(self, s: Tensor, x: Tensor) -> Tensor:
        h = s.real @ self.C_re.T - s.imag @ self.C_im.T + x @ self.D.T
        return h if self.bias is None else h + self.bias
