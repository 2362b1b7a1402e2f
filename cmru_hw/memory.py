"""What the C library does with memory that a training step, or a block of frames, lets go of."""

from __future__ import annotations

import ctypes
import functools

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's names for mallopt
KEPT = 2**28
"""Bytes of free memory that a process may keep."""


@functools.cache
def keep_freed_memory() -> None:
    """Let glibc keep what is freed instead of giving it back to the system; other libraries do as they do.

    The arrays of a step, some megabytes, are freed with it. Given back and fetched anew, page by page, they
    cost a fifth of its time.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(TRIM_THRESHOLD, KEPT)
        library.mallopt(MMAP_THRESHOLD, KEPT)
