"""How conspicuous a loop's seam or fold is: figures of that place as percentile ranks among all places.

A loop has no beginning, so that all is computed on the circle, at places 10 ms apart of which the one asked about is
the first. Onsets are those of `librosa.onset.onset_detect` at its defaults, without its import, which takes longer than
a loop takes to be made: the spectral flux of a mel spectrogram in dB, and the peak picking of Böck, Krebs and Schedl
(2012).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from silent2music.arrays import DoubleArray, FloatArray, IntArray
from silent2music.filters import mel_filters

PLACE_SECONDS = 0.01
WINDOW_SECONDS = 0.02
NEAR_SECONDS = 0.001
FLOOR = 1e-5
"""What is quieter is silence: where a loop rests, the last digits of dither are no figures."""
LEAST_SHARE, GREATEST_SHARE = 0.05, 0.95
N_LAPS = 3

SHARE_MARGIN, ONSET_MARGIN = 0.01, 0.02
"""A place is judged before levels are matched and dither is added, which moves its figures by less than this."""
CHANGE = 0.02
"""Levels, dither and the room's sound move the figures of a striking place by so much."""
DOUBT = 0.1
"""A fold makes onsets of places that are nearer than this to the threshold of one, often."""
STRUCK = 0.25
"""An onset of the music's own covers a fold, but a place without one far and near is better still."""

HOP, WINDOW = 512, 2048
"""In samples, whatever the rate."""
N_MELS = 128
DYNAMIC_RANGE_DB = 80.0
LEAST_POWER = 1e-10
PEAK_SECONDS, MEAN_SECONDS = 0.03, 0.1
DELTA = 0.07
"""An onset is the highest of the 30 ms before it and higher than the mean of 100 ms around it by this share of the
highest of all."""
NO_PEAK = -1.0
ONSET_SECONDS = 0.05
"""Within this, an onset counts as one at a place, as MIREX counts them."""


@dataclass(frozen=True)
class Seam:
    """Percentile ranks (0 to 1) of a place's figures among those of all other places in the loop, and its onset.

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

    def excess(self, margin: float = 0.0, usual: Sequence[float] = ()) -> float:
        """How far the worst of the first three lies outside of the 5th to 95th percentile; 0 if none does.

        Args:
            margin: how far inside it is to lie.
            usual: the place's figures before the loop was made; so far out of range they may lie too, and `CHANGE` more,
                less the margin.
        """
        figures = np.array([self.level_jump, self.spectral_flux, self.derivative])
        known = np.array(usual) if len(usual) else np.full(3, 0.5)
        low = np.minimum(LEAST_SHARE, known - CHANGE) + margin
        high = np.maximum(GREATEST_SHARE, known + CHANGE) - margin
        return float(np.maximum(0.0, np.maximum(low - figures, figures - high)).max())


def place_figures(samples: FloatArray, sample_rate: int) -> DoubleArray:
    """The figures `[3, P]` of all places in a loop `[N]`, in the order of `Seam`, the seam first.

    Level jumps are in dB; flux is the half-wave rectified difference of magnitudes (Dixon 2006, Onset Detection
    Revisited); steps are in sample values.
    """
    n = len(samples)
    window = round(WINDOW_SECONDS * sample_rate)
    distance = PLACE_SECONDS * sample_rate
    at = np.round(np.arange(0, n - 0.5 * distance, distance)).astype(int)
    circle = samples[(np.arange(-window, n + window)) % n].astype(np.float64)
    before = circle[at[:, None] + np.arange(window)]
    after = circle[at[:, None] + window + np.arange(window)]
    rms = [np.maximum(np.sqrt(np.mean(np.square(part), axis=1)), FLOOR) for part in (before, after)]
    jump = np.abs(20.0 * np.log10(rms[1] / rms[0]))
    hann = np.hanning(window)
    least = FLOOR * np.sqrt(window)
    spectra = [np.maximum(np.abs(np.fft.rfft(part * hann, axis=1)), least) for part in (before, after)]
    flux = np.maximum(spectra[1] - spectra[0], 0.0).sum(axis=1)
    near = max(1, round(NEAR_SECONDS * sample_rate))
    steps = np.abs(np.diff(circle))
    derivative = steps[at[:, None] + window - 1 + np.arange(-near, near + 1)].max(axis=1)
    return np.stack([jump, flux, np.maximum(derivative, FLOOR)])


def measure_seam(samples: FloatArray, sample_rate: int, at: int = 0, margin: float = 0.0) -> Seam:
    """The seam of a loop `[N]`, or another place in it.

    Args:
        at: the sample in question.
        margin: as for `prominences`.

    Example:
        >>> t = np.arange(48000) / 48000
        >>> measure_seam(np.cos(2 * np.pi * 441.5 * t).astype(np.float32), 48000).derivative
        1.0
    """
    jump, flux, derivative = percentiles_at(samples, sample_rate, at)
    found = prominences(np.tile(samples, N_LAPS), sample_rate, margin)
    passes = at + len(samples) * np.arange(1, N_LAPS)
    onset = float(strongest_near(found, sample_rate, passes).max())
    return Seam(jump, flux, derivative, onset=round(onset, 4))


def percentiles_at(samples: FloatArray, sample_rate: int, at: int) -> tuple[float, ...]:
    """The first three figures of a `Seam` at a place."""
    figures = place_figures(np.roll(samples, -at), sample_rate)
    return tuple(round(float(_percentile(row[:1], row[1:])[0]), 4) for row in figures)


def stands_out(
    sounds: Iterable[FloatArray],
    sample_rate: int,
    at: float,
    is_struck: bool,
    usual: Sequence[float] = (),
) -> float:
    """By how much a place's figures lie outside of the loop's usual range, less a margin inside it; 0 if none does.

    Args:
        sounds: `[N]` each, what is heard by one way or another.
        at: the place, as a share of the lap.
        is_struck: whether the music has an onset there of its own; how hard it is the flux says.
        usual: as for `Seam.excess`.
    """
    total = 0.0
    for sound in sounds:
        seam = measure_seam(sound, sample_rate, round(at * len(sound)) % len(sound), ONSET_MARGIN)
        total += seam.excess(SHARE_MARGIN, usual)
        total += 0.0 if is_struck else max(0.0, seam.onset + ONSET_MARGIN)
    return total


def _percentile(values: DoubleArray, among: DoubleArray) -> DoubleArray:
    """The share of `among` below each value, ties counting half, 0 to 1."""
    ordered = np.sort(among)
    ranks = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return np.asarray(ranks / (2.0 * len(ordered)), dtype=np.float64)


def remarkable(samples: FloatArray, sample_rate: int, at: IntArray) -> DoubleArray:
    """How conspicuous places `[A]` of a sound `[N]` are, 0 to 2.

    One comes of the figures, 0 with all of them within the 20th to 80th percentile, and one of an onset that may be
    found there if the sound changes a little, 0 if it is far from that. Where there is one already, it is `STRUCK`.
    """
    figures = place_figures(samples, sample_rate)
    nearest = np.round(at / (PLACE_SECONDS * sample_rate)).astype(int) % figures.shape[1]
    percentiles = np.stack([_percentile(row[nearest], row) for row in figures])
    unlike = np.clip((np.abs(percentiles - 0.5) - 0.3) / 0.2, 0.0, 1.0).max(axis=0)
    onset, likely = (
        strongest_near(prominences(samples, sample_rate, margin), sample_rate, at)
        for margin in (0.0, ONSET_MARGIN)
    )
    doubtful = np.where(onset > 0, STRUCK, np.clip(1.0 + likely / DOUBT, 0.0, 1.0))
    return np.asarray(unlike + doubtful, dtype=np.float64)


# ---- onsets ----


def onset_strength(samples: FloatArray, sample_rate: int) -> DoubleArray:
    """The mean growth of mel bands in dB `[T]`, one for each hop of a sound `[N]`, brought to 0 to 1."""
    padded = np.pad(samples.astype(np.float32), WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    # Periodic, as scipy.signal.get_window makes it.
    hann = np.hanning(WINDOW + 1)[:-1].astype(np.float32)
    power = np.square(np.abs(np.fft.rfft(frames * hann, axis=1)))
    filters = mel_filters(sample_rate, WINDOW, N_MELS, scale="slaney", norm="area").astype(np.float32)
    bands_db = 10.0 * np.log10(np.maximum(power @ filters.T, LEAST_POWER))
    bands_db = np.maximum(bands_db, bands_db.max() - DYNAMIC_RANGE_DB)
    growth = np.maximum(np.diff(bands_db, axis=0), 0.0).mean(axis=1)
    # A window hears an attack when its end reaches it, half a window before its middle does.
    strength = np.pad(growth, (1 + WINDOW // (2 * HOP), 0))[: len(frames)].astype(np.float64)
    strength -= strength.min()
    return np.asarray(strength / max(float(strength.max()), float(np.finfo(np.float32).tiny)))


def prominences(samples: FloatArray, sample_rate: int, margin: float = 0.0) -> DoubleArray:
    """By how much each frame of a sound `[N]` exceeds the threshold of an onset, `[T]`; `NO_PEAK` where no peak is.

    Those of at least 0 are the onsets. With a margin also those are given that would be onsets in a sound slightly
    different: lower by this than the frames before them, or shortly after another.

    Args:
        margin: as a share of the highest of all.

    Example:
        >>> click = np.zeros(24_000, np.float32)
        >>> click[12_000:12_400] = 0.5
        >>> abs(int(prominences(click, 24_000).argmax()) * HOP - 12_000) < 1_000
        True
    """
    strength = onset_strength(samples, sample_rate)
    n_peak, n_mean = (int(seconds * sample_rate // HOP) for seconds in (PEAK_SECONDS, MEAN_SECONDS))
    before = np.lib.stride_tricks.sliding_window_view(
        np.pad(strength, (n_peak, 0), constant_values=-np.inf), n_peak + 1
    )
    total = np.concatenate([[0.0], np.cumsum(strength)])
    frames = np.arange(len(strength))
    first, last = np.maximum(frames - n_mean, 0), np.minimum(frames + n_mean + 1, len(strength))
    mean = (total[last] - total[first]) / (last - first)
    is_peak = strength >= before.max(axis=1) - margin
    found = np.where(is_peak & (strength > 0), strength - mean - DELTA, NO_PEAK)
    latest = -n_peak - 1
    for frame in np.flatnonzero(found >= 0).tolist() if margin == 0 else []:
        if frame - latest <= n_peak:  # the next peak within 30 ms of an onset is none
            found[frame] = NO_PEAK
        else:
            latest = frame
    return np.asarray(found)


def strongest_near(found: DoubleArray, sample_rate: int, at: IntArray) -> DoubleArray:
    """Of the prominences `[T]` the highest within 50 ms of each of the samples `[A]`, `[A]`."""
    near = np.abs(np.arange(len(found))[:, None] * HOP - at[None]) <= ONSET_SECONDS * sample_rate
    return np.asarray(np.where(near, found[:, None], NO_PEAK).max(axis=0))
