"""Chips: one seeded draw of a threshold and a current factor for every transistor of a design."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cmru_hw.design import Design
from cmru_hw.errors import ConfigError
from cmru_hw.primitives.device import Array, Shifts, draw_shifts


def draw(design: Design, chips: Sequence[int], seed: int, scale: float = 1.0) -> dict[str, Array]:
    """Shifts (V) of the numbered chips, by `{stage}.{part}`, each [chips, ...]; sigmas times `scale`.

    Chip k of a seed is the same chip in every call, whichever others are drawn with it. Raises ConfigError
    for scale < 0.
    """
    if not scale >= 0:
        raise ConfigError(f"mismatch: scale must be >= 0, got {scale}")
    generators = [np.random.default_rng([seed, chip]) for chip in chips]
    return draw_shifts(design.devices(), design.technology, generators, scale)


def chip_count(design: Design, shifts: Shifts) -> int | None:
    """How many chips shifts are of; None if they are one chip's, without an axis for it."""
    for name, array in design.devices().items():
        if name in shifts:
            return len(shifts[name]) if shifts[name].ndim > array.units.ndim else None
    return None


def one_chip(shifts: Shifts, row: int) -> dict[str, Array]:
    """The shifts of a single chip of a draw, as the netlist takes them."""
    return {name: array[row] for name, array in shifts.items()}
