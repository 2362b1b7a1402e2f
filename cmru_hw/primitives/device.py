"""Transistor arrays: what mismatch acts on, what area is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cmru_hw.technology import Geometry, Polarity, Technology

Array = NDArray[np.float64]
Units = NDArray[np.int64]
# Threshold shift (V, positive = weaker) of every transistor of one part, or of every chip's: [chips, ...].
Shifts = Mapping[str, Array]


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

    def sigma_vt(self, technology: Technology) -> Array:
        """Pelgrom: A_VT / sqrt(W L M) in V, 0 where there is no transistor."""
        area_um2 = self.geometry.w_um * self.geometry.l_um * self.units
        a_vt = technology.a_vt_mv_um.of(self.polarity) * 1e-3
        return np.where(self.units > 0, a_vt / np.sqrt(np.maximum(area_um2, 1e-12)), 0.0)


def strength(shift: Array | float, polarity: Polarity, technology: Technology) -> Array:
    """Relative subthreshold current of a shifted transistor, exp(-dV_T / (n U_T)) at equal gate voltage."""
    return np.exp(-np.asarray(shift) / (technology.slope_factor.of(polarity) * technology.thermal_voltage))
