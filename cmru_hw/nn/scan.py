"""The linear scan s_t = a_t s_{t-1} + b_t: every recurrent unit of this package is one of these."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor
from torch.autograd.function import once_differentiable

from cmru_hw.nn.buffers import empty_like
from cmru_hw.nn.uncached import fence, streams, write_row

LANES = 128
"""Units that one job of the CPU kernels walks through time with: a few cache lines of each array."""

PARALLEL_FROM = 2**17
"""Elements from which a scan runs parallel: below, waking threads costs more than they save."""


def linear_scan(a: Tensor, b: Tensor, s0: Tensor) -> Tensor:
    """s_t = a_t s_{t-1} + b_t along axis 1, for t = 0 .. T-1 with s_{-1} = s0.

    a, b: [B, T, N], T >= 1; s0: [B, N]; one floating dtype and one device for all three. Returns [B, T, N].
    Float32 and float64 on the CPU run compiled, parallel over batch and units; every other tensor runs a
    log-depth scan in torch (Hillis & Steele 1986), half precision being accumulated in float32.
    Gradients flow to a, b and s0, once: g_t = dL/ds_t + a_{t+1} g_{t+1}, da_t = g_t s_{t-1}, db_t = g_t,
    ds0 = a_0 g_0. Raises ValueError for shapes, dtypes or devices that do not fit.

    >>> import torch
    >>> linear_scan(torch.full((1, 3, 1), 0.5), torch.ones(1, 3, 1), torch.zeros(1, 1)).flatten().tolist()
    [1.0, 1.5, 1.75]
    """
    check_scan_input("linear_scan", b, s0, a=a)
    result: Tensor = _LinearScan.apply(a, b, s0)
    return result


def check_scan_input(name: str, b: Tensor, s0: Tensor, **others: Tensor) -> None:
    """Raise ValueError unless b and `others` are [B, T, N], s0 is [B, N] and all are floats of one kind."""
    if b.dim() != 3 or b.shape[1] == 0:
        raise ValueError(f"{name}: b must be [B, T, N] with T >= 1, got {list(b.shape)}")
    expected = {key: (value, list(b.shape)) for key, value in others.items()}
    expected["s0"] = (s0, [b.shape[0], b.shape[2]])
    if not b.is_floating_point():
        raise ValueError(f"{name}: b must be real floating point, got {b.dtype}")
    for key, (value, shape) in expected.items():
        if list(value.shape) != shape:
            got = list(value.shape)
            raise ValueError(f"{name}: {key} must be {shape} to fit b {list(b.shape)}, got {got}")
        if value.dtype != b.dtype:
            raise ValueError(f"{name}: {key} must have the dtype of b, {b.dtype}, got {value.dtype}")
        if value.device != b.device:
            raise ValueError(f"{name}: {key} must be on the device of b, {b.device}, got {value.device}")


def runs_compiled(tensor: Tensor) -> bool:
    """Whether the numba kernels take this tensor."""
    return tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64)


class Kernel:
    """A numba kernel compiled twice: serial for small tensors, parallel for large ones.

    Two kernels, not one with fewer threads: asking OpenMP for another number of threads than torch's own
    loops do makes it rebuild its team at every call, and the idle threads then spin.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        assert isinstance(function, FunctionType)
        serial = FunctionType(function.__code__, function.__globals__, function.__name__ + "_serial")
        serial.__qualname__ = function.__qualname__ + "_serial"  # a cache file of its own
        serial.__module__ = function.__module__
        self._serial = njit(cache=True)(serial)
        self._parallel = njit(parallel=True, cache=True)(function)

    def __call__(self, *arguments: Any) -> None:
        """Run on tensors or arrays; the last is [B, T, N] and its size decides."""
        arrays = [value.numpy() if isinstance(value, Tensor) else value for value in arguments]
        large = arrays[-1].size >= PARALLEL_FROM
        (self._parallel if large else self._serial)(*arrays)


class _LinearScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, s0: Tensor) -> Tensor:
        if runs_compiled(b):
            a, b, s0 = a.contiguous(), b.contiguous(), s0.contiguous()
            s = empty_like(b)
            _forward_kernel(a, b, s0, s)
        else:
            s = tree_scan(a, b, s0)
        ctx.save_for_backward(a, s, s0)
        return s

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        a, s, s0 = ctx.saved_tensors
        if runs_compiled(s):
            da, db = empty_like(s), empty_like(s)
            _backward_kernel(streams(da, db), a, s, s0, grad.contiguous(), da, db)
        else:
            da, db = tree_backward(a, s, s0, grad)
        return da, db, a[:, 0] * db[:, 0] if ctx.needs_input_grad[2] else None


@Kernel
def _forward_kernel(a, b, s0, s):  # type: ignore[no-untyped-def]
    batch, _, units = b.shape
    blocks = (units + LANES - 1) // LANES
    for job in prange(batch * blocks):
        i, first = job // blocks, job % blocks * LANES
        _forward_job(first, min(first + LANES, units), a[i], b[i], s0[i], s[i])


@Kernel
def _backward_kernel(streaming, a, s, s0, grad, da, db):  # type: ignore[no-untyped-def]
    batch, _, units = s.shape
    blocks = (units + LANES - 1) // LANES
    for job in prange(batch * blocks):
        i, first = job // blocks, job % blocks * LANES
        last = min(first + LANES, units)
        if streaming:
            _streaming_job(first, last, a[i], s[i], s0[i], grad[i], da[i], db[i])
        else:
            _backward_job(first, last, a[i], s[i], s0[i], grad[i], da[i], db[i])


# A job takes units `first` to `last` of one sequence through time: s0 [N], the others [T, N].


@njit(cache=True)
def _forward_job(first, last, a, b, s0, s):  # type: ignore[no-untyped-def]
    before = s0[first:last]
    for t in range(len(s)):
        at, bt, st = a[t, first:last], b[t, first:last], s[t, first:last]
        for n in range(last - first):
            st[n] = at[n] * before[n] + bt[n]
        before = st


@njit(cache=True)
def _backward_job(first, last, a, s, s0, grad, da, db):  # type: ignore[no-untyped-def]
    a_next, g_next = np.zeros(last - first, s.dtype), np.zeros(last - first, s.dtype)
    for t in range(len(s) - 1, -1, -1):
        before = s[t - 1, first:last] if t else s0[first:last]
        gt, dat, dbt = grad[t, first:last], da[t, first:last], db[t, first:last]
        for n in range(last - first):
            g = gt[n] + a_next[n] * g_next[n]
            dbt[n] = g
            dat[n] = g * before[n]
        a_next, g_next = a[t, first:last], dbt


@njit(cache=True)
def _streaming_job(first, last, a, s, s0, grad, da, db):  # type: ignore[no-untyped-def]
    a_next, g = np.zeros(last - first, s.dtype), np.zeros(last - first, s.dtype)
    row = np.empty_like(g)
    for t in range(len(s) - 1, -1, -1):
        before = s[t - 1, first:last] if t else s0[first:last]
        gt = grad[t, first:last]
        for n in range(last - first):
            g[n] = gt[n] + a_next[n] * g[n]
            row[n] = g[n] * before[n]
        write_row(db[t, first:last], g)
        write_row(da[t, first:last], row)
        a_next = a[t, first:last]
    fence()


def tree_scan(a: Tensor, b: Tensor, s0: Tensor) -> Tensor:
    """The scan in torch operations only, log2(T) passes: the path of GPUs and half precision."""
    dtype = b.dtype
    if dtype in (torch.float16, torch.bfloat16):
        a, b, s0 = a.float(), b.float(), s0.float()
    reach = 1
    while reach < b.shape[1]:
        later = a[:, reach:]
        b = torch.cat([b[:, :reach], b[:, reach:] + later * b[:, :-reach]], dim=1)
        a = torch.cat([a[:, :reach], later * a[:, :-reach]], dim=1)
        reach *= 2
    return (b + a * s0.unsqueeze(1)).to(dtype)


def tree_backward(a: Tensor, s: Tensor, s0: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """(da, db) of the scan by a scan that runs backwards in time."""
    from_next = torch.cat([a[:, 1:], torch.zeros_like(a[:, :1])], dim=1)
    db = tree_scan(from_next.flip(1), grad.flip(1), torch.zeros_like(s0)).flip(1)
    before = torch.cat([s0.unsqueeze(1), s[:, :-1]], dim=1)
    return db * before, db
