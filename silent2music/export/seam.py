"""What is audible where a loop's end meets its beginning, or where it was folded: figures of a place among the rest.

A loop has no beginning, so that all is computed on the circle, at places 10 ms apart of which the one asked about is
the first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from silent2music.audio import FloatArray
from silent2music.export.onsets import prominences, strongest_near

FloatArray64 = NDArray[np.float64]

PLACE_SECONDS = 0.01
WINDOW_SECONDS = 0.02
NEAR_SECONDS = 0.001
FLOOR = 1e-5
LEAST_SHARE, GREATEST_SHARE = 0.05, 0.95
N_LAPS = 3

SHARE_MARGIN, ONSET_MARGIN = 0.01, 0.02
"""A place is judged before levels are matched and dither is added, which moves its figures by less than this."""
DOUBT = 0.1
"""A fold makes onsets of places that are nearer than this to the threshold of one, often."""
STRUCK = 0.25
"""An onset of the music's own covers a fold, but a place without one far and near is better still."""


@dataclass(frozen=True)
class Seam:
    """Where the figures of a place stand among those of all other places in the loop, 0 to 1, and its onset.

    Attributes:
        level_jump: of the change of level from the 20 ms before to the 20 ms after.
        spectral_flux: of the growth of magnitudes between the same.
        derivative: of the largest step from sample to sample within 1 ms.
        onset: by how much the strongest onset within 50 ms is above the threshold of an onset, as a share of the
            strongest one in three laps; librosa finds none below 0.
    """

    level_jump: float
    spectral_flux: float
    derivative: float
    onset: float

    def excess(self, margin: float = 0.0) -> float:
        """How far the worst of the first three lies outside of the 5th to 95th percentile; 0 if none does."""
        figures = (self.level_jump, self.spectral_flux, self.derivative)
        return max(max(0.0, LEAST_SHARE + margin - p, p - GREATEST_SHARE + margin) for p in figures)


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


def measure_seam(samples: FloatArray, sample_rate: int, at: int = 0, margin: float = 0.0) -> Seam:
    """The seam of a loop `[N]` or `[C, N]` (the mean of its channels), or another place in it.

    Args:
        samples: the loop.
        sample_rate: in Hz.
        at: the sample in question.
        margin: as for `onsets.prominences`.

    Example:
        >>> t = np.arange(48000) / 48000
        >>> measure_seam(np.cos(2 * np.pi * 441.5 * t).astype(np.float32), 48000).derivative
        1.0
    """
    mono = samples if samples.ndim == 1 else samples.mean(axis=0)
    figures = places(np.roll(mono, -at), sample_rate)
    jump, flux, derivative = (round(float(_percentile(row[:1], row[1:])[0]), 4) for row in figures)
    found = prominences(np.tile(mono, N_LAPS), sample_rate, margin)
    passes = at + len(mono) * np.arange(1, N_LAPS)
    onset = float(strongest_near(found, sample_rate, passes).max())
    return Seam(jump, flux, derivative, onset=round(onset, 4))


def stands_out(sounds: Iterable[FloatArray], sample_rate: int, at: float, onset_before: float) -> float:
    """By how much a place in a loop is unlike others in what is heard of it, 0 if it is not, with a margin.

    Args:
        sounds: `[N]` each, what is heard by one way or another.
        sample_rate: of them in Hz.
        at: the place, as a share of the lap.
        onset_before: the onset that the music had there before the loop was made, as `Seam` has it: if there was one,
            there may be one; how hard it is the flux says.
    """
    total = 0.0
    for sound in sounds:
        seam = measure_seam(sound, sample_rate, round(at * len(sound)) % len(sound), ONSET_MARGIN)
        total += seam.excess(SHARE_MARGIN)
        total += max(0.0, seam.onset + ONSET_MARGIN) if onset_before <= 0 else 0.0
    return total


def _percentile(values: FloatArray64, among: FloatArray64) -> FloatArray64:
    """The share of `among` below each value, ties counting half, 0 to 1."""
    ordered = np.sort(among)
    ranks = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return np.asarray(ranks / (2.0 * len(ordered)), dtype=np.float64)


def remarkable(samples: FloatArray, sample_rate: int, at: NDArray[np.int64]) -> FloatArray64:
    """How remarkable places `[A]` of a sound `[N]` are, 0 to 2.

    One comes of the figures, 0 with all of them within the 20th to 80th percentile, and one of an onset that may be
    found there if the sound changes a little, 0 if it is far from that. Where there is one already, it is `STRUCK`.
    """
    figures = places(samples, sample_rate)
    nearest = np.round(at / (PLACE_SECONDS * sample_rate)).astype(int) % figures.shape[1]
    percentiles = np.stack([_percentile(row[nearest], row) for row in figures])
    unlike = np.clip((np.abs(percentiles - 0.5) - 0.3) / 0.2, 0.0, 1.0).max(axis=0)
    onset, likely = (
        strongest_near(prominences(samples, sample_rate, margin), sample_rate, at)
        for margin in (0.0, ONSET_MARGIN)
    )
    doubtful = np.where(onset > 0, STRUCK, np.clip(1.0 + likely / DOUBT, 0.0, 1.0))
    return np.asarray(unlike + doubtful, dtype=np.float64)
