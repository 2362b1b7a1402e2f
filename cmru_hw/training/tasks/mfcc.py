"""Mel-frequency cepstral coefficients of 16 kHz speech."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.fft import dct

RATE = 16000  # Hz
WINDOW, HOP, POINTS = 400, 160, 512  # samples: 25 ms, 10 ms, and the length of the Fourier transform
BANDS, COEFFICIENTS = 40, 13
LOWEST, HIGHEST = 20.0, 7600.0  # Hz
FLOOR = 1e-6  # of a band's energy, for samples within -1 .. 1: digital silence stays finite


def mfcc(samples: np.ndarray) -> np.ndarray:
    """The coefficients [T, 13] of samples [N] within -1 .. 1, T = 1 + (N - 400) // 160; a frame looks back.

    Hann window, power spectrum of 512 points, 40 triangles equidistant on the mel scale from 20 to 7600 Hz,
    natural logarithm, orthonormal cosine transform of type 2 (Davis and Mermelstein 1980,
    doi 10.1109/TASSP.1980.1163420). ValueError for less than a window.
    """
    if samples.ndim != 1 or len(samples) < WINDOW:
        raise ValueError(f"samples must be [N] with N >= {WINDOW}, got {list(samples.shape)}")
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW + 1)[:-1], POINTS)) ** 2
    return dct(np.log(power @ bands().T + FLOOR), type=2, norm="ortho", axis=1)[:, :COEFFICIENTS]


def mel(hertz: np.ndarray | float) -> np.ndarray:
    """The mel scale: 2595 log10(1 + f / 700 Hz)."""
    return 2595 * np.log10(1 + np.asarray(hertz) / 700)


@lru_cache(maxsize=1)
def bands() -> np.ndarray:
    """Weights of the spectrum's points in each band [40, 257]: triangles of height 1."""
    edges = 700 * (10 ** (np.linspace(mel(LOWEST), mel(HIGHEST), BANDS + 2) / 2595) - 1)
    frequency = np.arange(POINTS // 2 + 1) * RATE / POINTS
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequency - low) / (middle - low), (high - frequency) / (high - middle)
    return np.maximum(0, np.minimum(rising, falling))
