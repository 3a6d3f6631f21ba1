"""Loudness and true peak (ITU-R BS.1770-4), and a limiter that holds the one under the other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from silent2music.arrays import FloatArray
from silent2music.audio.waveform import FLOOR_DBFS, Waveform, db_to_gain
from silent2music.filters import oversampled


def loudness_meter(sample_rate: int) -> Any:
    """pyloudnorm's meter with the weighting of ITU-R BS.1770's own coefficients, as ffmpeg and libebur128 have it.

    Its default filters, designed anew, read 0.04 dB less at 48 kHz and 0.08 dB less at 24 kHz.
    """
    import pyloudnorm

    return pyloudnorm.Meter(sample_rate, filter_class="DeMan")


def integrated_lufs(waveform: Waveform) -> float:
    """Integrated loudness in LUFS (ITU-R BS.1770-4, pyloudnorm); `-inf` for silence.

    A signal shorter than a gating block of 0.4 s is padded by repetition. Blocks are 0.1 s apart, and what is left
    over at the end is not measured, as the standard has it.
    """
    samples, hop = waveform.samples, 0.1 * waveform.sample_rate
    block = int(4 * hop) + 1
    if samples.shape[1] < block:
        samples = np.tile(samples, (1, -(-block // samples.shape[1])))
    n_whole = math.ceil(int(samples.shape[1] / hop + 1e-6) * hop)
    samples = samples[:5, : max(block, n_whole)]
    if not samples.any():
        return float("-inf")
    with np.errstate(divide="ignore"):
        meter = loudness_meter(waveform.sample_rate)
        return float(meter.integrated_loudness(samples.T.astype(np.float64)))


def true_peak_dbtp(waveform: Waveform) -> float:
    """True peak in dBTP by 4 times oversampling (ITU-R BS.1770-4, annex 2), not below `FLOOR_DBFS`."""
    return peak_dbtp(oversampled_peaks(waveform.samples))


def peak_dbtp(peaks: FloatArray) -> float:
    """The largest of `peaks` in dBTP, not below `FLOOR_DBFS`."""
    return max(FLOOR_DBFS, 20.0 * float(np.log10(max(float(peaks.max()), 1e-12))))


def oversampled_peaks(samples: FloatArray) -> FloatArray:
    """`[N]` largest magnitude over the channels of `[C, N]` from each sample to the next, 4 times oversampled."""
    over = np.abs(oversampled(samples)).max(axis=(0, 1))
    return np.asarray(np.maximum(over, np.abs(samples).max(axis=0)))


def normalised(waveform: Waveform, lufs: float, true_peak: float) -> Waveform:
    """Bring to an integrated loudness in LUFS under a true peak in dBTP.

    Peaks above the limit are turned down by a look-ahead gain, so that loudness is kept where it can be. A
    silent waveform comes back unchanged.
    """
    loudness = integrated_lufs(waveform)
    if not np.isfinite(loudness):
        return waveform
    samples = waveform.samples * np.float32(db_to_gain(lufs - loudness))
    return limited(samples, waveform.sample_rate, true_peak)


def limited(
    samples: FloatArray, sample_rate: int, true_peak: float, window_seconds: float = 0.005
) -> Waveform:
    """Hold samples `[C, N]`, which may exceed 1, under a true peak in dBTP.

    The gain is the minimum filter of the needed reduction over twice the window, smoothed over the window:
    at every peak it is already down, and it never moves faster than the window.
    """
    from scipy.ndimage import minimum_filter1d, uniform_filter1d

    ceiling = db_to_gain(true_peak - 0.1)
    over = oversampled_peaks(samples)
    if over.max() > ceiling:
        width = max(3, int(window_seconds * sample_rate))
        needed = np.minimum(1.0, ceiling / np.maximum(over, 1e-9))
        gain = uniform_filter1d(minimum_filter1d(needed, 2 * width + 1), width)
        samples = samples * gain.astype(np.float32)
    return Waveform(np.clip(samples, -1.0, 1.0).astype(np.float32), sample_rate)
