"""Noise of a branch: shot, thermal, flicker and telegraph noise, for ngspice and for frames.

    S(f) = W + K / f + 4 s^2 t / (1 + (2 pi f t)^2)    A^2/Hz, one sided

    W = 2 q I of a subthreshold branch, 4 k T g of a conductance; K = W f at the corner frequency
    s^2 = a^2 c e / (c + e)^2, t = c e / (c + e): two levels `a` apart, held for c and e on average

A branch ends in a node, a low-pass with a pole at gm / (2 pi C): it passes white noise in a bandwidth of
gm / (4 C), and of thermal noise leaves kT/C. In weak inversion gm = I / (n U_T), so shot noise behind its own
diode is a fixed share of the current, sqrt(q / (2 n U_T C)): 0.47 % at 100 fF.
In ngspice `trnoise` draws a sample every `step` and joins them by straight lines, so that the spectrum falls
as sinc^4(f step). A pole behind it then sees the share `interpolated(2 pi pole step)` of the variance, 0.81
at 2 us and 39 kHz; `spice` makes up for it. ngspice 39 seeds the white and flicker numbers by its process
number alone: neither `.options seed` nor `setseed` nor `rndseed` repeats such a run (`.options seed` does
repeat a telegraph signal). `waveform` draws the numbers here instead.
Source: W. Schottky, Ann. Phys. 362(23), 1918; H. Nyquist, Phys. Rev. 32, 1928; S. Machlup, J. Appl. Phys. 25,
1954, for telegraph noise; R. Sarpeshkar et al., IEEE Circuits Devices Mag. 9(6), 1993, for shot noise as the
thermal noise of subthreshold transistors; N. J. Kasdin, Proc. IEEE 83(5), 1995, for `trnoise`'s flicker.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
from scipy.fft import next_fast_len
from scipy.signal import lfilter

from cmru_hw.errors import ConfigError
from cmru_hw.primitives.device import Array
from cmru_hw.technology import ZERO_CELSIUS, Polarity, Technology

CHARGE = 1.602176634e-19  # C, exact SI values
BOLTZMANN = 1.380649e-23  # J/K
FINE = 0.2  # samples' spacing in time constants of the node, by default: 9 % of the variance to make up for
SLOW = 30.0  # time constants of the node in that of a telegraph signal: beyond, the node follows its levels
FOLDED = 16  # bands above Nyquist that are added one by one; beyond, their integral


@dataclass(frozen=True, kw_only=True)
class NoiseSource:
    """A noise current of zero mean. All parts are independent of each other.

    >>> NoiseSource.shot(1e-9).rms(0, 69.6e3)
    4.72...e-12
    """

    white: float = 0.0  # A^2/Hz
    flicker: float = 0.0  # A^2, density times frequency
    amplitude: float = 0.0  # A between the levels of a telegraph signal
    capture: float = 1.0  # s, mean time at the lower level
    emission: float = 1.0  # s, mean time at the upper level

    def __post_init__(self) -> None:
        for field in fields(self):
            value, time = getattr(self, field.name), field.name in ("capture", "emission")
            if not (math.isfinite(value) and value >= 0) or (time and value == 0):
                raise ConfigError(f"noise: {field.name} must be {'> 0' if time else '>= 0'}, got {value:g}")

    @classmethod
    def shot(cls, current: float, corner: float = 0.0) -> Self:
        """Of a branch that carries `current` (A); flicker noise equals it at `corner` (Hz)."""
        density = 2 * CHARGE * current
        return cls(white=density, flicker=density * corner)

    @classmethod
    def thermal(cls, conductance: float, temperature_celsius: float = 27.0) -> Self:
        """Of a conductance (S)."""
        return cls(white=4 * BOLTZMANN * (temperature_celsius + ZERO_CELSIUS) * conductance)

    @classmethod
    def telegraph(cls, amplitude: float, capture: float, emission: float) -> Self:
        """Of one trap: `amplitude` A, empty for `capture` s and filled for `emission` s on average."""
        return cls(amplitude=amplitude, capture=capture, emission=emission)

    @property
    def corner(self) -> float:
        """Frequency (Hz) at which flicker noise equals white noise."""
        return self.flicker / self.white if self.white else math.inf

    @property
    def filled(self) -> float:
        """Share of time at the upper level."""
        return self.emission / (self.capture + self.emission)

    @property
    def correlation_time(self) -> float:
        """Time constant (s) of the telegraph signal's autocorrelation."""
        return self.capture * self.filled

    @property
    def telegraph_variance(self) -> float:
        """A^2."""
        return self.amplitude**2 * self.filled * (1 - self.filled)

    def density(self, frequency: Array | float) -> Array:
        """One-sided spectral density (A^2/Hz) at frequencies > 0 Hz."""
        f, t = np.asarray(frequency, dtype=np.float64), self.correlation_time
        lorentzian = 4 * self.telegraph_variance * t / (1 + (2 * np.pi * f * t) ** 2)
        flicker = self.flicker / f if self.flicker else 0.0
        return np.asarray(self.white + flicker + lorentzian)

    def rms(self, low: float, high: float) -> float:
        """A between two frequencies (Hz). Raises ConfigError from 0 Hz up if there is flicker noise."""
        if not 0 <= low < high:
            raise ConfigError(f"noise: frequencies must rise from >= 0, got {low:g} and {high:g} Hz")
        turn = 2 * np.pi * self.correlation_time
        lorentzian = self.telegraph_variance * 2 / np.pi * (np.arctan(turn * high) - np.arctan(turn * low))
        flicker = self.flicker * math.log(high / _above_zero(low)) if self.flicker else 0.0
        return math.sqrt(self.white * (high - low) + flicker + lorentzian)

    def variance(self, pole: float, low: float = 0.0) -> float:
        """A^2 behind a pole (Hz), of flicker noise from `low` (Hz) on."""
        flicker = self.flicker * math.log(math.hypot(1, pole / _above_zero(low))) if self.flicker else 0.0
        return self.white * np.pi / 2 * pole + flicker + self.telegraph_variance * self._passed(pole)

    def _passed(self, pole: float) -> float:
        """Share of the telegraph signal's variance behind a pole."""
        turns = 2 * np.pi * pole * self.correlation_time
        return turns / (1 + turns)

    # --- in frames ---------------------------------------------------------------------------------------

    def samples(self, random: np.random.Generator, shape: tuple[int, ...], step: float) -> Array:
        """Noise (A) every `step` s along the last axis, with this density up to 1 / (2 step).

        A telegraph signal is read as it is at these times, so what it has beyond folds back.
        """
        found = random.standard_normal(shape) * math.sqrt(self.white / (2 * step))
        if self.flicker:
            found += _shaped(random, shape, step, lambda f: self.flicker / f)
        return found + self._levels(random, shape, step)

    def frame_noise(
        self, random: np.random.Generator, shape: tuple[int, ...], frame_period: float, pole: float
    ) -> Array:
        """Noise (A) behind a pole (Hz), read once a frame along the last axis.

        All of the variance behind the pole arrives, folded into the frame rate. White noise keeps what
        correlation the pole gives it; flicker noise has that of its folded spectrum, without what is slower
        than twice the sequence. A telegraph signal at least `SLOW` times slower than the pole keeps its two
        levels; one that is faster becomes Gaussian, with the spectrum that it has behind the pole.
        """
        kept = math.exp(-2 * np.pi * pole * frame_period)
        deviates = random.standard_normal(shape)
        deviates[..., 1:] *= math.sqrt(1 - kept**2)
        found = math.sqrt(self.white * np.pi / 2 * pole) * lfilter([1.0], [1.0, -kept], deviates, axis=-1)
        if self.flicker:
            found = found + _shaped(
                random, shape, frame_period, lambda f: self._folded_flicker(f, frame_period, pole)
            )
        if 2 * math.pi * pole * self.correlation_time >= SLOW:
            return found + math.sqrt(self._passed(pole)) * self._levels(random, shape, frame_period)
        return found + _shaped(
            random, shape, frame_period, lambda f: self._folded_telegraph(f, frame_period, pole)
        )

    def _folded_telegraph(self, frequency: Array, frame_period: float, pole: float) -> Array:
        """Density of the telegraph signal behind a pole, as sampling folds it below 1 / (2 frame_period).

        Its autocorrelation there is s^2 x / (x^2 - 1) (x exp(-u / t) - exp(-x u / t)), x = 2 pi pole t.
        """
        x = 2 * math.pi * pole * self.correlation_time
        x = 1.001 if abs(x - 1) < 1e-3 else x
        turn = np.cos(2 * np.pi * frequency * frame_period)

        def exponential(rate: float) -> Array:
            kept = math.exp(-rate * frame_period)
            return np.asarray(2 * frame_period * (1 - kept**2) / (1 - 2 * kept * turn + kept**2))

        slow, fast = exponential(1 / self.correlation_time), exponential(x / self.correlation_time)
        return self.telegraph_variance * x / (x**2 - 1) * (x * slow - fast)

    def _folded_flicker(self, frequency: Array, frame_period: float, pole: float) -> Array:
        """Density of flicker noise behind a pole, as sampling folds it below 1 / (2 frame_period)."""
        rate = 1 / frame_period
        bands = rate * np.arange(FOLDED)[:, None]
        f = np.concatenate([bands + frequency, bands + (rate - frequency)])
        found = (1 / (f * (1 + (f / pole) ** 2))).sum(axis=0)
        beyond = 2 * frame_period * math.log(math.hypot(1, pole * frame_period / FOLDED))
        return np.asarray(self.flicker * (found + beyond))

    def _levels(self, random: np.random.Generator, shape: tuple[int, ...], step: float) -> Array:
        """The telegraph signal without its mean, sampled exactly.

        After `step` the trap has forgotten its state with probability 1 - exp(-step / t), and is then filled
        with the stationary one.
        """
        if not self.amplitude:
            return np.zeros(shape)
        drawn = random.random(shape) < self.filled
        renewed = random.random(shape) > math.exp(-step / self.correlation_time)
        renewed[..., 0] = True
        last = np.maximum.accumulate(np.where(renewed, np.arange(shape[-1]), 0), axis=-1)
        level = np.take_along_axis(drawn, last, axis=-1).astype(np.float64)
        return self.amplitude * (level - self.filled)

    # --- in ngspice --------------------------------------------------------------------------------------

    def spice(
        self, name: str, plus: str, minus: str, *, pole: float | None = None, step: float | None = None
    ) -> str:
        """A current source `I{name}` that ngspice fills with this noise in a transient analysis.

        `pole` (Hz) is that of the node it drives, for which the variance comes out right; without it the
        density is right, far below 1 / step. `step` (s) between samples: by default `FINE` time constants of
        the node. ngspice stops at every one. A telegraph signal alone needs neither.
        """
        sampled = self.white > 0 or self.flicker > 0
        step = self._step(pole, step) if sampled else 0.0
        white = math.sqrt(self._raised(step, pole).white / (2 * step)) if self.white else 0.0
        values = [white, step, 1.0 if self.flicker else 0.0, math.sqrt(math.pi * self.flicker)]
        if self.amplitude:
            values += [self.amplitude, self.capture, self.emission]
        mean = 0.0 - self.amplitude * self.filled
        return f"I{name} {plus} {minus} dc {mean!r} trnoise({' '.join(repr(float(v)) for v in values)})"

    def waveform(
        self,
        random: np.random.Generator,
        stop: float,
        *,
        pole: float | None = None,
        step: float | None = None,
    ) -> Array:
        """Points (s, A) up to `stop` (s) for a piecewise linear source: as `spice`, but the same every time.

        ngspice searches such a source from its beginning: 16 000 points took 4 times as long as `trnoise`,
        64 000 took 20 times as long.
        """
        step = self._step(pole, step)
        count = math.ceil(stop / step) + 1
        current = self._raised(step, pole).samples(random, (count,), step)
        return np.column_stack([step * np.arange(count), current])

    def _step(self, pole: float | None, step: float | None) -> float:
        if step is None:
            if pole is None:
                raise ConfigError("noise: white and flicker noise need a pole or a step, got neither")
            step = FINE / (2 * np.pi * pole)
        if not step > 0:
            raise ConfigError(f"noise: step must be > 0, got {step:g} s")
        return step

    def _raised(self, step: float, pole: float | None) -> Self:
        """With as much more white noise as a pole does not see of its samples."""
        arrives = 1.0 if pole is None else interpolated(2 * math.pi * pole * step)
        return replace(self, white=self.white / arrives)


@dataclass(frozen=True)
class Noise:
    """A noise source in parallel with each diode of a stage, whose node has a pole at `pole` (Hz)."""

    source: NoiseSource
    pole: float


def interpolated(x: float) -> float:
    """Share of white noise's variance that a pole sees of samples x time constants apart, joined by lines.

    The autocorrelation of the pole, exp(-|u| x), under that of the lines: the cubic B-spline of unit area. So
    (6 - 8 exp(-x) + 2 exp(-2x)) / x^4 - 4 / x^3 + 4 / (3x), which is 1 - 7x/15 + x^2/6 - 31x^3/630 near 0.
    """
    if x < 0.02:
        return 1 - x * (7 / 15 - x * (1 / 6 - x * 31 / 630))
    return (6 - 8 * math.exp(-x) + 2 * math.exp(-2 * x)) / x**4 - 4 / x**3 + 4 / (3 * x)


def branch_pole(current: float, capacitance: float, polarity: Polarity, technology: Technology) -> float:
    """Pole (Hz) of a node with a weak-inversion diode: gm / (2 pi C), gm = I / (n U_T); C (F) in all."""
    conductance = current / (technology.slope_factor.of(polarity) * technology.thermal_voltage)
    return conductance / (2 * math.pi * capacitance)


def relative_shot_noise(capacitance: float, polarity: Polarity, technology: Technology) -> float:
    """Rms of one branch's shot noise behind its diode over its current, whatever that is; C (F) in all."""
    slope = technology.slope_factor.of(polarity) * technology.thermal_voltage
    return math.sqrt(CHARGE / (2 * slope * capacitance))


def _above_zero(low: float) -> float:
    if not low > 0:
        raise ConfigError("noise: flicker noise from 0 Hz on has no finite variance; give a lowest frequency")
    return low


def _shaped(
    random: np.random.Generator, shape: tuple[int, ...], step: float, density: Callable[[Array], Array]
) -> Array:
    """Gaussian noise with a one-sided density. Drawn twice as long: a Fourier sum repeats itself."""
    count = 2 * next_fast_len(shape[-1])
    width = 1 / (count * step)
    share = density(width * np.arange(1, count // 2 + 1)) * width
    parts = random.standard_normal((2, *shape[:-1], count // 2))
    spectrum = np.zeros((*shape[:-1], count // 2 + 1), dtype=np.complex128)
    spectrum[..., 1:] = 0.5 * count * np.sqrt(share) * (parts[0] + 1j * parts[1])
    spectrum[..., -1] = count * np.sqrt(share[-1] / 2) * parts[0, ..., -1]
    return np.asarray(np.fft.irfft(spectrum, count)[..., : shape[-1]])
