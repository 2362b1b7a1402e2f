"""The saturating sum s_t = clip(s_{t-1} + b_t, -limit, limit): what a bank of latches or a capacitor does."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor
from torch.autograd.function import once_differentiable

from cmru_hw.nn.buffers import empty_like
from cmru_hw.nn.scan import LANES, Kernel, check_scan_input, runs_compiled, tree_scan


def clipped_scan(b: Tensor, s0: Tensor, limit: float) -> Tensor:
    """s_t = clip(s_{t-1} + b_t, -limit, limit) along axis 1, with s_{-1} = s0.

    b: [B, T, N], T >= 1; s0: [B, N]; limit > 0. Returns [B, T, N].
    The gradient passes, as in `torch.clamp`, where the sum is not clipped (|s_{t-1} + b_t| <= limit).
    Off the CPU the scan is log-depth: clamped additions compose, (d1, l1, h1) then (d2, l2, h2) being
    (d1 + d2, clip(l1 + d2, l2, h2), clip(h1 + d2, l2, h2)).
    Raises ValueError for shapes, dtypes or devices that do not fit, or a limit that is not positive.

    >>> import torch
    >>> clipped_scan(torch.ones(1, 4, 1), torch.zeros(1, 1), 2.0).flatten().tolist()
    [1.0, 2.0, 2.0, 2.0]
    """
    check_scan_input("clipped_scan", b, s0)
    if not 0 < limit < float("inf"):
        raise ValueError(f"clipped_scan: limit must be positive and finite, got {limit}")
    result: Tensor = _ClippedScan.apply(b, s0, float(limit))
    return result


class _ClippedScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, b: Tensor, s0: Tensor, limit: float) -> Tensor:
        if runs_compiled(b):
            b, s0 = b.contiguous(), s0.contiguous()
            s = empty_like(b)
            _forward_kernel(_scalar(limit, b), b, s0, s)
        else:
            s = tree_clipped_scan(b, s0, limit)
        ctx.save_for_backward(b, s, s0)
        ctx.limit = limit
        return s

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        b, s, s0 = ctx.saved_tensors
        if runs_compiled(s):
            db = empty_like(s)
            limit = _scalar(ctx.limit, b)
            _backward_kernel(limit, b, s, s0, grad.contiguous(), db)
        else:
            db = tree_clipped_backward(b, s, s0, ctx.limit, grad)
        return db, db[:, 0].clone() if ctx.needs_input_grad[1] else None, None


def _scalar(value: float, like: Tensor) -> Any:
    """`value` in the precision of `like`: a wider one would make the whole kernel wider."""
    return like.numpy().dtype.type(value)


@Kernel
def _forward_kernel(limit, b, s0, s):  # type: ignore[no-untyped-def]
    batch, _, units = b.shape
    blocks = (units + LANES - 1) // LANES
    for job in prange(batch * blocks):
        i, first = job // blocks, job % blocks * LANES
        _forward_job(limit, first, min(first + LANES, units), b[i], s0[i], s[i])


@Kernel
def _backward_kernel(limit, b, s, s0, grad, db):  # type: ignore[no-untyped-def]
    batch, _, units = s.shape
    blocks = (units + LANES - 1) // LANES
    for job in prange(batch * blocks):
        i, first = job // blocks, job % blocks * LANES
        _backward_job(limit, first, min(first + LANES, units), b[i], s[i], s0[i], grad[i], db[i])


@njit(cache=True)
def _forward_job(limit, first, last, b, s0, s):  # type: ignore[no-untyped-def]
    before = s0[first:last]
    for t in range(len(s)):
        bt, st = b[t, first:last], s[t, first:last]
        for n in range(last - first):
            st[n] = min(max(before[n] + bt[n], -limit), limit)
        before = st


@njit(cache=True)
def _backward_job(limit, first, last, b, s, s0, grad, db):  # type: ignore[no-untyped-def]
    nothing = limit - limit
    later = np.zeros(last - first, s.dtype)
    for t in range(len(s) - 1, -1, -1):
        before = s[t - 1, first:last] if t else s0[first:last]
        bt, gt, dbt = b[t, first:last], grad[t, first:last], db[t, first:last]
        for n in range(last - first):
            dbt[n] = gt[n] + later[n] if abs(before[n] + bt[n]) <= limit else nothing
        later = dbt


def tree_clipped_scan(b: Tensor, s0: Tensor, limit: float) -> Tensor:
    """The scan in torch operations only, log2(T) passes over (sum, lower, upper)."""
    dtype = b.dtype
    if dtype in (torch.float16, torch.bfloat16):
        b, s0 = b.float(), s0.float()
    total, low, high = b, torch.full_like(b, -limit), torch.full_like(b, limit)
    reach = 1
    while reach < b.shape[1]:
        add, floor, ceiling = total[:, reach:], low[:, reach:], high[:, reach:]
        early = (total[:, :reach], low[:, :reach], high[:, :reach])
        late = (
            total[:, :-reach] + add,
            torch.clamp(low[:, :-reach] + add, floor, ceiling),
            torch.clamp(high[:, :-reach] + add, floor, ceiling),
        )
        total, low, high = (torch.cat(pair, dim=1) for pair in zip(early, late, strict=True))
        reach *= 2
    return torch.clamp(s0.unsqueeze(1) + total, low, high).to(dtype)


def tree_clipped_backward(b: Tensor, s: Tensor, s0: Tensor, limit: float, grad: Tensor) -> Tensor:
    """db of the clipped scan: a linear scan backwards in time, opened where the sum was not clipped."""
    before = torch.cat([s0.unsqueeze(1), s[:, :-1]], dim=1)
    passes = ((before + b).abs() <= limit).to(grad.dtype)
    from_next = torch.cat([passes[:, 1:], torch.zeros_like(passes[:, :1])], dim=1)
    return passes * tree_scan(from_next.flip(1), grad.flip(1), torch.zeros_like(s0)).flip(1)
