"""What is audible where a loop's end meets its beginning: figures of the seam among those of the rest.

A loop has no beginning, so that all is computed on the circle, at places 10 ms apart of which the seam is the
first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from silent2music.ambient import mel_filters
from silent2music.audio import FloatArray

FloatArray64 = NDArray[np.float64]

PLACE_SECONDS = 0.01
WINDOW_SECONDS = 0.02
NEAR_SECONDS = 0.001
FLOOR = 1e-5
ONSET_SECONDS = 0.05
"""Within this, an onset counts as one at the seam, as MIREX counts them."""
ONSET_WINDOW_SECONDS = 0.043
N_MELS = 128
PEAK_SECONDS, MEAN_SECONDS = 0.03, 0.1
ONSET_DELTA = 0.07
"""An onset is the highest of the 30 ms before it and higher than the mean of 100 ms around it by this share of the
highest of all: the peak picking of Böck, Krebs and Schedl (2012) with the values that librosa chose."""
ONSET_MARGIN = 0.03
"""Other windows, hops and mel scales move the figure of an onset by about this much."""


@dataclass(frozen=True)
class Seam:
    """Where the figures of a seam stand among those of all other places in the loop, 0 to 1, and its onset.

    Attributes:
        level_jump: of the change of level from the 20 ms before to the 20 ms after.
        spectral_flux: of the growth of magnitudes between the same.
        derivative: of the largest step from sample to sample within 1 ms.
        onset: by how much the strongest onset within 50 ms is above the threshold of an onset, as a share of the
            strongest one in the loop; none is found below 0.
    """

    level_jump: float
    spectral_flux: float
    derivative: float
    onset: float

    @property
    def excess(self) -> float:
        """How far the worst of the first three lies outside of the 5th to 95th percentile; 0 if none does."""
        figures = (self.level_jump, self.spectral_flux, self.derivative)
        return max(max(0.0, 0.05 - p, p - 0.95) for p in figures)


def places(samples: FloatArray, sample_rate: int) -> FloatArray64:
    """The figures `[3, P]` of all places in a loop `[N]`, in the order of `Seam`, the seam first.

    Level jumps are in dB; flux is the half-wave rectified difference of magnitudes (Dixon 2006, Onset Detection
    Revisited); steps are in sample values.
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


def onsets(samples: FloatArray, sample_rate: int) -> FloatArray64:
    """How far the strongest onset within 50 ms of each place of a loop `[N]` is above the threshold of one, `[P]`.

    Strength is the mean growth of mel bands in dB, and peaks are picked, as `librosa.onset.onset_detect` does it,
    but on the circle. What is no peak is `-1`.
    """
    hop = PLACE_SECONDS * sample_rate
    at = np.round(np.arange(0, len(samples) - 0.5 * hop, hop)).astype(int)
    window = round(ONSET_WINDOW_SECONDS * sample_rate) // 2 * 2
    around = (at[:, None] + np.arange(-window // 2, window // 2)) % len(samples)
    power = np.abs(np.fft.rfft(samples[around] * np.hanning(window), axis=1)) ** 2
    bands = power @ mel_filters(sample_rate, window, N_MELS).T
    level_db = 10.0 * np.log10(np.maximum(bands, max(1e-12, 1e-8 * float(bands.max()))))
    growth = np.maximum(level_db - np.roll(level_db, 1, axis=0), 0.0).mean(axis=1)
    # A window hears an attack when its end reaches it, half a window before its middle does.
    growth = np.roll(growth, round(window / 2 / hop))
    strength = growth / max(float(growth.max()), 1e-9)
    mean = _around(strength, MEAN_SECONDS, MEAN_SECONDS).mean(axis=0)
    is_peak = strength >= _around(strength, PEAK_SECONDS, 0.0).max(axis=0)
    found = np.where(is_peak, strength - mean - ONSET_DELTA, -1.0)
    return np.asarray(_around(found, ONSET_SECONDS, ONSET_SECONDS).max(axis=0), dtype=np.float64)


def _around(values: FloatArray64, before_seconds: float, after_seconds: float) -> FloatArray64:
    """For each place the values `[W, P]` of the places from some time before it to some time after it."""
    places_before, places_after = (round(s / PLACE_SECONDS) for s in (before_seconds, after_seconds))
    return np.stack([np.roll(values, -i) for i in range(-places_before, places_after + 1)])


def measure_seam(samples: FloatArray, sample_rate: int) -> Seam:
    """The seam of a loop `[N]` or `[C, N]` (the mean of its channels).

    Example:
        >>> t = np.arange(48000) / 48000
        >>> measure_seam(np.cos(2 * np.pi * 441.5 * t).astype(np.float32), 48000).derivative
        1.0
    """
    mono = samples if samples.ndim == 1 else samples.mean(axis=0)
    figures = places(mono, sample_rate)
    jump, flux, derivative = (round(float(_percentile(row[:1], row[1:])[0]), 4) for row in figures)
    return Seam(jump, flux, derivative, onset=round(float(onsets(mono, sample_rate)[0]), 4))


def _percentile(values: FloatArray64, among: FloatArray64) -> FloatArray64:
    """The share of `among` below each value, ties counting half, 0 to 1."""
    ordered = np.sort(among)
    ranks = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return np.asarray(ranks / (2.0 * len(ordered)), dtype=np.float64)


def remarkable(samples: FloatArray, sample_rate: int, at: NDArray[np.int64]) -> FloatArray64:
    """How remarkable places `[A]` of a sound `[N]` are, 0 to 2.

    One comes of the figures, 0 with all of them within the 20th to 80th percentile, and one of an onset.
    """
    figures = places(samples, sample_rate)
    nearest = np.minimum(np.round(at / (PLACE_SECONDS * sample_rate)).astype(int), figures.shape[1] - 1)
    percentiles = np.stack([_percentile(row[nearest], row) for row in figures])
    unlike = np.clip((np.abs(percentiles - 0.5) - 0.3) / 0.2, 0.0, 1.0).max(axis=0)
    struck = np.clip((onsets(samples, sample_rate)[nearest] + ONSET_MARGIN) / 0.1, 0.0, 1.0)
    return np.asarray(unlike + struck, dtype=np.float64)


def onset_at(samples: FloatArray, sample_rate: int, at: int) -> float:
    """The figure of `onsets` at a sample of a sound `[N]`."""
    figures = onsets(samples, sample_rate)
    return float(figures[min(round(at / (PLACE_SECONDS * sample_rate)), len(figures) - 1)])
