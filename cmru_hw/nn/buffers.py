"""Memory of large tensors, used again: a fresh one is mapped page by page, which takes longer than a scan."""

from __future__ import annotations

import threading
from collections import deque

import torch
from torch import Tensor

LARGE = 2**20
"""Bytes from which a buffer is kept; the C library does as well with smaller ones."""

KEPT = 8
"""Buffers at most, used or not; what is let go of beyond is freed as ever."""

_kept: deque[torch.UntypedStorage] = deque(maxlen=KEPT)
_lock = threading.Lock()


def empty_like(tensor: Tensor) -> Tensor:
    """An uninitialised contiguous CPU tensor like `tensor`, in memory that nothing else refers to."""
    size = tensor.numel() * tensor.element_size()
    if size < LARGE:
        return torch.empty_like(tensor, memory_format=torch.contiguous_format)
    with _lock:
        for storage in reversed(_kept):  # the last used is the likeliest to be in a cache
            if storage.nbytes() == size and torch._C._storage_Use_Count(storage._cdata) == 1:
                _kept.remove(storage)
                break
        else:
            storage = torch.UntypedStorage(size)
        _kept.append(storage)
        return torch.empty(0, dtype=tensor.dtype).set_(storage, 0, tensor.shape)  # type: ignore[call-overload]
