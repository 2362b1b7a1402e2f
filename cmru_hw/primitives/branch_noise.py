"""The noise that a design's own transistors make: white, from every branch, in each node's bandwidth.

A branch of current I has the density k 2 q I, k near 1 from the card. A diode's node of conductance g and
capacitance C passes it in a bandwidth of g / (4 C), g = I / (n U_T) and what a transistor out of saturation
adds. From node to node a spectrum is known by its density at low frequency and its variance: their ratio is a
bandwidth, and behind another of width b the variance S B becomes S / (1 / B + 1 / b), exact for two poles.
Two rows that share a source are taken as independent. Left out: flicker, 2 % of the rms at 1 nA, and what an
integrator's switches leave, sqrt(kT/C).

A comparator's pair regenerates as pe falls: it weighs what arrives by exp(-integral (1 - exp(-t/T)) dt / t'),
T the time in which the equaliser's conductance falls by e and t' = C / gm of the pair. That is white noise in
a bandwidth of Gamma(2a) / (2 T 4^a Gamma(a)^2), a = T / t'; it is 1 / (4 t') where pe falls at once.
Source: R. Sarpeshkar et al., IEEE Circuits Devices Mag. 9(6), 1993, for shot noise of subthreshold
transistors; k and the capacitances by `characterize` in ngspice.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from scipy.special import gammaln

from cmru_hw.primitives.device import Array
from cmru_hw.primitives.noise_source import CHARGE
from cmru_hw.technology import Polarity, Technology


class Spectrum(NamedTuple):
    """Noise of currents: one-sided `density` (A^2/Hz) at low frequency, and `variance` (A^2)."""

    density: Array
    variance: Array

    @classmethod
    def white(cls, density: Array, bandwidth: Array) -> Self:
        """White noise in a noise bandwidth (Hz)."""
        return cls(density, density * bandwidth)

    def plus(self, other: Spectrum) -> Self:
        """With independent noise."""
        return type(self)(self.density + other.density, self.variance + other.variance)

    def through(self, bandwidth: Array) -> Self:
        """Behind a low-pass of that noise bandwidth (Hz)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            passed = self.density / (self.density / self.variance + 1 / bandwidth)
        return self._replace(variance=np.where((self.variance > 0) & (bandwidth > 0), passed, 0.0))

    def times(self, gain: Array) -> Self:
        """Of currents `gain` times as large."""
        return type(self)(self.density * gain**2, self.variance * gain**2)


def shot(current: Array, polarity: Polarity, technology: Technology) -> Array:
    """Density (A^2/Hz) of branches that carry `current` (A) in transistors of `polarity`.

    In double precision: what a little noise leaves behind a node is too small a number for single.
    """
    return 2 * CHARGE * technology.noise_factor.of(polarity) * np.asarray(current, np.float64)


def conductance(current: Array, polarity: Polarity, technology: Technology) -> Array:
    """gm (S) in weak inversion."""
    return current / (technology.slope_factor.of(polarity) * technology.thermal_voltage)


def reference_noise(
    current: Array, polarity: Polarity, units: int, loads: int, technology: Technology
) -> Spectrum:
    """Of a reference's diode of `units`, whose gate voltage `loads` unit transistors share."""
    node = units * technology.diode_capacitance.of(polarity)
    node += loads * technology.gate_capacitance.of(polarity)
    bandwidth = conductance(current, polarity, technology) / (4 * node)
    return Spectrum.white(shot(current, polarity, technology), bandwidth)


def decision_bandwidth(current: Array, capacitance: float, fall: float, technology: Technology) -> Array:
    """Noise bandwidth (Hz) of a pair of nMOS transistors with `current` (A) each; pe falls in `fall` s."""
    slope = technology.slope_factor.n * technology.thermal_voltage
    letting_go = fall * slope / technology.supply
    a = letting_go * conductance(current, "n", technology) / capacitance
    a = np.maximum(a, 1e-12)
    return np.exp(gammaln(2 * a) - 2 * gammaln(a) - a * np.log(4.0)) / (2 * letting_go)
