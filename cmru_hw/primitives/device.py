"""Transistor arrays: what mismatch acts on, what area is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cmru_hw.technology import Geometry, Polarity, Technology

Array = NDArray[np.float64]
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

    def drawn(self, random: np.random.Generator, technology: Technology, scale: float = 1.0) -> Array:
        """One draw of the transistors' shifts (V), [...]; 0 where there is none.

        Pelgrom: thresholds and current factors, independent, of sigma A_VT / sqrt(W L M) and
        A_beta / sqrt(W L M), times `scale`. A generator in the same state gives the same transistors at
        every temperature.
        """
        area_um2 = self.geometry.w_um * self.geometry.l_um * np.maximum(self.units, 1)
        threshold, factor = random.standard_normal((2, *self.units.shape)) * scale / np.sqrt(area_um2)
        slope = technology.slope_factor.of(self.polarity) * technology.thermal_voltage
        volts = 1e-3 * technology.a_vt_mv_um.of(self.polarity) * threshold
        volts -= slope * 1e-2 * technology.a_beta_percent_um.of(self.polarity) * factor
        return np.where(self.units > 0, volts, 0.0)


def strength(shift: Array | float, polarity: Polarity, technology: Technology) -> Array:
    """Relative subthreshold current of a shifted transistor, exp(-dV_T / (n U_T)) at equal gate voltage."""
    return np.exp(-np.asarray(shift) / (technology.slope_factor.of(polarity) * technology.thermal_voltage))
