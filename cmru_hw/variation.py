"""Chips: one seeded draw of a threshold and a current factor for every transistor of a design."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cmru_hw.design import Design
from cmru_hw.errors import ConfigError
from cmru_hw.primitives.device import Array, Shifts, draw_shifts


def draw(
    design: Design, chips: Sequence[int], seed: int, scale: float = 1.0, relative: float | None = None
) -> dict[str, Array]:
    """Shifts (V) of the numbered chips, by `{stage}.{part}`, each [chips, ...]; sigmas times `scale`.

    With `relative` every transistor's current is off by a log-normal factor of that sigma, whatever its size.
    Chip k of a seed is the same chip in every call, whichever others are drawn with it. Raises ConfigError
    for a scale or a sigma < 0.
    """
    for name, sigma in (("scale", scale), ("relative spread", relative)):
        if sigma is not None and not 0 <= sigma < np.inf:
            raise ConfigError(f"mismatch: {name} must be >= 0, got {sigma}")
    generators = [np.random.default_rng([seed, chip]) for chip in chips]
    return draw_shifts(design.devices(), design.technology, generators, scale, relative)


@dataclass(frozen=True, eq=False)
class Transistors:
    """Every transistor of a design that mismatch acts on, numbered; one normal deviate makes its shift.

    Threshold and current factor act alike, so their sigmas add as squares.
    """

    parts: dict[str, tuple[int, ...]]  # shape of each part, `{stage}.{part}`
    places: dict[str, NDArray[np.int64]]  # flat indices of those that exist, by part
    sigma: Array  # V, [transistors]

    @classmethod
    def of(cls, design: Design, scale: float = 1.0) -> Transistors:
        """Those of a design, sigmas times `scale`."""
        devices = design.devices()
        places = {name: np.flatnonzero(array.units) for name, array in devices.items()}
        sigmas = [
            np.hypot(*array.sigmas(design.technology)).ravel()[places[name]]
            for name, array in devices.items()
        ]
        shapes = {name: array.units.shape for name, array in devices.items()}
        return cls(shapes, places, scale * np.concatenate(sigmas))

    def __len__(self) -> int:
        return len(self.sigma)

    @property
    def names(self) -> list[str]:
        """`{stage}.{part}[index]` of each."""
        return [
            f"{name}[{', '.join(str(int(i)) for i in np.unravel_index(place, self.parts[name]))}]"
            for name, places in self.places.items()
            for place in places
        ]

    @property
    def part_of(self) -> list[str]:
        """`{stage}.{part}` of each."""
        return [name for name, places in self.places.items() for _ in places]

    def shifts(self, deviates: Array) -> dict[str, Array]:
        """Shifts (V) of chips from standard normal deviates [chips, transistors]."""
        volts = self.sigma * deviates
        found: dict[str, Array] = {}
        first = 0
        for name, places in self.places.items():
            shape = self.parts[name]
            flat = np.zeros((len(deviates), int(np.prod(shape))))
            flat[:, places] = volts[:, first : first + len(places)]
            found[name], first = flat.reshape(len(deviates), *shape), first + len(places)
        return found


def chip_count(design: Design, shifts: Shifts) -> int | None:
    """How many chips shifts are of; None if they are one chip's, without an axis for it."""
    for name, array in design.devices().items():
        if name in shifts:
            return len(shifts[name]) if shifts[name].ndim > array.units.ndim else None
    return None


def one_chip(shifts: Shifts, row: int) -> dict[str, Array]:
    """The shifts of a single chip of a draw, as the netlist takes them."""
    return {name: array[row] for name, array in shifts.items()}
