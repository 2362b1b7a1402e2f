"""BMRU, CMRU and alphaCMRU: units that move where |c| reaches a threshold."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmru_hw.nn.saturating_scan import clipped_scan
from cmru_hw.nn.scan import linear_scan
from cmru_hw.nn.surrogate import sign, step
from cmru_hw.nn.threshold_cell import Annealed, ThresholdCell

Device = torch.device | str | None


class SignedCell(ThresholdCell):
    """c = W_c x + b_c; beta = |b_b| or |W_b x + b_b|; z = [|c| >= beta]; the event is z sign(c). Base class.

    Parameters: candidate.weight [N, I], candidate.bias [N], initial_state [N] (random +-1, trainable),
    threshold [N], or threshold.weight [N, I] and threshold.bias [N] if `input_dependent_threshold`;
    b_b starts at 1. `bias=False` leaves out the candidate's bias; a threshold always has its level.
    """

    threshold: nn.Parameter | nn.Linear

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        input_dependent_threshold: bool = False,
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.candidate = nn.Linear(input_size, hidden_size, bias, device, dtype)
        self.initial_state = nn.Parameter(
            torch.randint(2, (hidden_size,), device=device).to(dtype or torch.get_default_dtype()) * 2 - 1
        )
        if input_dependent_threshold:
            self.threshold = nn.Linear(input_size, hidden_size, device=device, dtype=dtype)
            nn.init.ones_(self.threshold.bias)
        else:
            self.threshold = nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))

    def beta(self, x: Tensor | None) -> Tensor:
        """The threshold, >= 0: [N], or [B, T, N] where it depends on the input x."""
        if not isinstance(self.threshold, nn.Linear):
            return self.threshold.abs()
        if x is None:
            raise ValueError("a threshold that depends on the input needs the input x, got None")
        level: Tensor = self.threshold(x)
        return level.abs()

    def margin(self, c: Tensor, x: Tensor | None = None) -> Tensor:
        return (c.abs() - self.beta(x)).abs()

    def event(self, c: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """(z, z sign(c)), after the noise of training mode."""
        c = self.disturbed(c)
        z = step(c.abs() - self.beta(x))
        return z, z * sign(c)


class BMRUCell(Annealed, SignedCell):
    """s' = z (sign(c) + eps s) + (1 - z) s; h = gain s. Bistable: at eps = 0 the state is -1 or +1.

    De Geeter et al., arXiv 2601.09495; epsilon: arXiv 2605.15216 (eps = 0 is the BMRU, eps = 1 the CMRU).
    Adds gain [N], starting at 1, to the parameters of `SignedCell`.

    >>> import torch
    >>> h, s = BMRUCell(3, 4)(torch.zeros(2, 5, 3))
    >>> h.shape, s.shape
    (torch.Size([2, 5, 4]), torch.Size([2, 4]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        epsilon: float = 0.0,
        input_dependent_threshold: bool = False,
    ) -> None:
        super().__init__(
            input_size, hidden_size, bias, device, dtype, input_dependent_threshold=input_dependent_threshold
        )
        self.gain = nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))
        self.epsilon = epsilon

    def update(self, c: Tensor, x: Tensor, s0: Tensor) -> Tensor:
        z, event = self.event(c, x)
        return linear_scan(1 - (1 - self.epsilon) * z, event, s0)

    def read(self, s: Tensor, x: Tensor) -> Tensor:
        return self.gain * s

    def holdable(self, s: Tensor) -> Tensor:
        return 2 * (s >= 0).to(s.dtype) - 1


class CMRUCell(SignedCell):
    """s' = s + z sign(c), or clip(s + z sign(c), -levels, levels); h = gain s. A counter of events.

    Brandoit et al., ICML 2026, arXiv 2605.11855. `levels` K is ours: a bank of 2K latches saturates so,
    and training through the clip makes the memory last. Adds gain [N], starting at 1.

    >>> import torch
    >>> h, s = CMRUCell(3, 4, levels=2)(100 * torch.randn(2, 9, 3))
    >>> s.abs().max().item() <= 2
    True
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        levels: int | None = None,
        input_dependent_threshold: bool = False,
    ) -> None:
        super().__init__(
            input_size, hidden_size, bias, device, dtype, input_dependent_threshold=input_dependent_threshold
        )
        if levels is not None and levels < 1:
            raise ValueError(f"levels must be at least 1, or None for a counter without end, got {levels}")
        self.levels = levels
        self.gain = nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))

    def update(self, c: Tensor, x: Tensor, s0: Tensor) -> Tensor:
        _, event = self.event(c, x)
        if self.levels is not None:
            return clipped_scan(event, s0, self.levels)
        return s0.unsqueeze(1) + event.cumsum(1)

    def read(self, s: Tensor, x: Tensor) -> Tensor:
        return self.gain * s

    def holdable(self, s: Tensor) -> Tensor:
        whole = s.round()
        return whole if self.levels is None else whole.clamp(-self.levels, self.levels)


class AlphaCMRUCell(SignedCell):
    """h' = h + z a sign(c), or clip(h + z a sign(c), -rails, rails); a = |W_a x + b_a|.

    Our reading of the "relaxed variant" of Brandoit et al., arXiv 2605.11855, whose abstract gives no
    equation: the input sets the size a of each update, the state is not quantised, and the amplitude takes
    the place of the gain. `rails` is ours: a charge on a capacitor stops there. `packet_asymmetry` is the
    standard deviation of d, drawn for each unit in each pass of training mode: updates upwards are then
    (1 + d/2) a, downwards (1 - d/2) a, as where two currents of unequal transistors make them.
    Adds amplitude.weight [N, I] and amplitude.bias [N], the bias starting at 1, to `SignedCell`.

    >>> import torch
    >>> h, s = AlphaCMRUCell(3, 4, rails=1.5)(100 * torch.randn(2, 9, 3))
    >>> torch.equal(h[:, -1], s), s.abs().max().item() <= 1.5
    (True, True)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        rails: float | None = None,
        input_dependent_threshold: bool = False,
    ) -> None:
        super().__init__(
            input_size, hidden_size, bias, device, dtype, input_dependent_threshold=input_dependent_threshold
        )
        if rails is not None and not 0 < rails < float("inf"):
            raise ValueError(
                f"rails must be positive and finite, or None for a state without end, got {rails}"
            )
        self.rails = rails
        self.packet_asymmetry = 0.0
        self.amplitude = nn.Linear(input_size, hidden_size, device=device, dtype=dtype)
        nn.init.ones_(self.amplitude.bias)

    def update(self, c: Tensor, x: Tensor, s0: Tensor) -> Tensor:
        _, event = self.event(c, x)
        jump = event * self.amplitude(x).abs() * self._packets(event)
        if self.rails is not None:
            return clipped_scan(jump, s0, self.rails)
        return s0.unsqueeze(1) + jump.cumsum(1)

    def holdable(self, s: Tensor) -> Tensor:
        """Halfway between its rails: there an integrator wakes, and there alone they are equally far."""
        return s if self.rails is None else torch.zeros_like(s)

    def _packets(self, event: Tensor) -> Tensor | float:
        """What training mode makes of the size of each event: 1 + d/2 upwards, 1 - d/2 downwards."""
        if self.training and self.packet_asymmetry > 0:
            d = self.packet_asymmetry * torch.randn(self.hidden_size, dtype=event.dtype, device=event.device)
            return 1 + event.detach() * d / 2
        return 1.0
