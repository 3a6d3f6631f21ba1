"""Onsets as librosa finds them, without its import, which takes longer than a loop takes to be made.

The spectral flux of a mel spectrogram in dB and the peak picking of Böck, Krebs and Schedl (2012), with the values and
the frames of `librosa.onset.onset_detect` at its defaults.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from silent2music.audio import FloatArray
from silent2music.filters import mel_filters

FloatArray64 = NDArray[np.float64]

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
NEAR_SECONDS = 0.05
"""Within this, an onset counts as one at a place, as MIREX counts them."""


def onset_strength(samples: FloatArray, sample_rate: int) -> FloatArray64:
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


def prominences(samples: FloatArray, sample_rate: int, margin: float = 0.0) -> FloatArray64:
    """By how much each frame of a sound `[N]` is above the threshold of an onset, `[T]`; `NO_PEAK` is none.

    Those of at least 0 are the onsets. With a margin also those are given that would be onsets in a sound slightly
    different: lower by this than the frames before them, or shortly after another.

    Args:
        samples: the sound.
        sample_rate: in Hz.
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


def strongest_near(found: FloatArray64, sample_rate: int, at: NDArray[np.int64]) -> FloatArray64:
    """Of the prominences `[T]` the highest within 50 ms of each of the samples `[A]`, `[A]`."""
    near = np.abs(np.arange(len(found))[:, None] * HOP - at[None]) <= NEAR_SECONDS * sample_rate
    return np.asarray(np.where(near, found[:, None], NO_PEAK).max(axis=0))
