"""What is audible where a loop's end meets its beginning: figures of the seam among those of the rest.

A loop has no beginning, so that all is computed on the circle, at places 10 ms apart of which the seam is the
first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from silent2music.audio import FloatArray

FloatArray64 = NDArray[np.float64]

PLACE_SECONDS = 0.01
WINDOW_SECONDS = 0.02
NEAR_SECONDS = 0.001
FLOOR = 1e-5
FIGURES = ("level_jump", "spectral_flux", "derivative")


@dataclass(frozen=True)
class Seam:
    """Where the figures of a seam stand among those of all other places in the loop, 0 to 1.

    Attributes:
        level_jump: of the change of level from the 20 ms before to the 20 ms after.
        spectral_flux: of the growth of magnitudes between the same.
        derivative: of the largest step from sample to sample within 1 ms.
    """

    level_jump: float
    spectral_flux: float
    derivative: float

    @property
    def excess(self) -> float:
        """How far the worst figure lies outside of the 5th to 95th percentile; 0 if none does."""
        figures = (self.level_jump, self.spectral_flux, self.derivative)
        return max(max(0.0, 0.05 - p, p - 0.95) for p in figures)


def places(samples: FloatArray, sample_rate: int) -> FloatArray64:
    """The figures `[len(FIGURES), P]` of all places in a loop `[N]`, the seam first.

    Level jumps are in dB; flux is the half-wave rectified difference of magnitudes (Dixon 2006, Onset Detection
    Revisited) relative to the loop's RMS; steps are in sample values.
    """
    n = len(samples)
    window = round(WINDOW_SECONDS * sample_rate)
    at = np.round(np.arange(0, n - 0.5 * PLACE_SECONDS * sample_rate, PLACE_SECONDS * sample_rate)).astype(
        int
    )
    circle = samples[(np.arange(-window, n + window)) % n].astype(np.float64)
    before = circle[at[:, None] + np.arange(window)]
    after = circle[at[:, None] + window + np.arange(window)]
    rms = [np.sqrt(np.mean(np.square(part), axis=1)) + FLOOR for part in (before, after)]
    jump = np.abs(20.0 * np.log10(rms[1] / rms[0]))
    hann = np.hanning(window)
    spectra = [np.abs(np.fft.rfft(part * hann, axis=1)) for part in (before, after)]
    flux = np.maximum(spectra[1] - spectra[0], 0.0).sum(axis=1)
    near = max(1, round(NEAR_SECONDS * sample_rate))
    steps = np.abs(np.diff(circle))
    derivative = steps[at[:, None] + window - 1 + np.arange(-near, near + 1)].max(axis=1)
    return np.stack([jump, flux, derivative])


def measure_seam(samples: FloatArray, sample_rate: int) -> Seam:
    """The seam of a loop `[N]` or `[C, N]` (the mean of its channels).

    Example:
        >>> t = np.arange(48000) / 48000
        >>> measure_seam(np.sin(2 * np.pi * 441.5 * t).astype(np.float32), 48000).derivative
        1.0
    """
    mono = samples if samples.ndim == 1 else samples.mean(axis=0)
    figures = places(mono, sample_rate)
    return Seam(*(round(float(_percentile(row[:1], row[1:])[0]), 4) for row in figures))


def _percentile(values: FloatArray64, among: FloatArray64) -> FloatArray64:
    """The share of `among` below each value, ties counting half, 0 to 1."""
    ordered = np.sort(among)
    ranks = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return np.asarray(ranks / (2.0 * len(ordered)), dtype=np.float64)


def unremarkable(samples: FloatArray, sample_rate: int, at: NDArray[np.int64]) -> FloatArray64:
    """How far from remarkable places `[A]` of a sound `[N]` are: 0 within the 20th to 80th percentile, to 1."""
    figures = places(samples, sample_rate)
    nearest = np.minimum(np.round(at / (PLACE_SECONDS * sample_rate)).astype(int), figures.shape[1] - 1)
    percentiles = np.stack([_percentile(row[nearest], row) for row in figures])
    return np.asarray(
        np.clip((np.abs(percentiles - 0.5) - 0.3) / 0.2, 0.0, 1.0).max(axis=0), dtype=np.float64
    )
