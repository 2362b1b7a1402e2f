"""Transistor arrays: what mismatch acts on, what area is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmru_hw.technology import Geometry, Polarity, Technology

Array = NDArray[np.floating[Any]]
Single = np.float32
"""Of currents in the behavioural model; of integrators' states and of noise they are double."""
Units = NDArray[np.int64]
Shifts = Mapping[str, Array]
"""Threshold shift (V, positive = weaker) of every transistor by part, or of every chip's: [chips, ...].

A current factor off by e counts as one of -n U_T e: in weak inversion, where I ~ factor exp(V_GS / (n U_T)),
the two are the same.
"""


@dataclass(frozen=True, eq=False)
class DeviceArray:
    """Transistors of one polarity and size; `units` holds how many are in parallel (0: none)."""

    polarity: Polarity
    units: Units
    geometry: Geometry

    @property
    def count(self) -> int:
        """Unit transistors in all."""
        return int(self.units.sum())

    @property
    def area(self) -> float:
        """Active (gate) area in m^2."""
        return self.count * self.geometry.w_um * self.geometry.l_um * 1e-12

    def sigmas(self, technology: Technology) -> tuple[Array, Array]:
        """Of thresholds, A_VT / sqrt(W L M), and of current factors, n U_T A_beta / sqrt(W L M); both in V.

        Pelgrom's, and 0 where there is no transistor.
        """
        area_um2 = self.geometry.w_um * self.geometry.l_um * np.maximum(self.units, 1)
        each = (self.units > 0) / np.sqrt(area_um2)
        slope = technology.slope_factor.of(self.polarity) * technology.thermal_voltage
        threshold = 1e-3 * technology.a_vt_mv_um.of(self.polarity)
        return threshold * each, slope * 1e-2 * technology.a_beta_percent_um.of(self.polarity) * each

    def spread(self, technology: Technology, relative: float) -> Array:
        """Sigma of thresholds (V) that makes currents off by `relative`, whatever the size."""
        slope = technology.slope_factor.of(self.polarity) * technology.thermal_voltage
        return np.where(self.units > 0, slope * relative, 0.0)


def draw_shifts(
    devices: Mapping[str, DeviceArray],
    technology: Technology,
    generators: Sequence[np.random.Generator],
    scale: float = 1.0,
    relative: float | None = None,
) -> dict[str, Array]:
    """Shifts (V) of chips, one a generator, by part, [chips, ...]; sigmas times `scale`.

    With `relative` currents are off by factors exp(relative z), z normal, instead of by Pelgrom's sigmas.
    A generator in the same state gives the same transistors at every temperature.
    """
    count = 2 * sum(array.units.size for array in devices.values())
    deviates = scale * np.stack([generator.standard_normal(count) for generator in generators])
    shifts: dict[str, Array] = {}
    first = 0
    for name, array in devices.items():
        last = first + 2 * array.units.size
        own = deviates[:, first:last].reshape(len(generators), 2, *array.units.shape)
        threshold, factor = array.sigmas(technology)
        if relative is not None:
            threshold, factor = array.spread(technology, relative), np.zeros(array.units.shape)
        shifts[name], first = threshold * own[:, 0] - factor * own[:, 1], last
    return shifts


def strength(shift: Array | float, polarity: Polarity, technology: Technology) -> Array:
    """Relative subthreshold current of a shifted transistor, exp(-dV_T / (n U_T)) at equal gate voltage."""
    return np.exp(-np.asarray(shift) / (technology.slope_factor.of(polarity) * technology.thermal_voltage))
