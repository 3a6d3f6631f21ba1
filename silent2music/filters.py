"""The few filters that every piece of music needs, by numpy and BLAS.

Importing `scipy.signal`, which has them all, takes longer than everything that they do for a ten-second room.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]
Section = tuple[DoubleArray, DoubleArray]
"""`b [3]` and `a [3]`, a[0] = 1, of `y[n] = b0 x[n] + b1 x[n-1] + b2 x[n-2] - a1 y[n-1] - a2 y[n-2]`."""

OVERSAMPLING = 4
REACH = 10
"""Samples on either side that an oversampled one depends on."""


class Biquads:
    """Second-order sections one after another, which go on from block to block.

    What a section gives is the solution of a triangular system with two diagonals below the main one, which BLAS
    finds in a single call.

    Args:
        sections: in their order.
        n_channels: C.
    """

    def __init__(self, sections: Sequence[Section], n_channels: int) -> None:
        # The last two samples that went into each section, and that came out.
        self._sections = [(b, a, np.zeros((n_channels, 2)), np.zeros((n_channels, 2))) for b, a in sections]

    def __call__(self, samples: NDArray[np.floating]) -> DoubleArray:
        """The next block `[C, n]`, n >= 1, filtered."""
        from scipy.linalg.blas import dtbsv

        n_samples = samples.shape[1]
        out = samples.astype(np.float64)
        for b, a, before, after in self._sections:
            given = np.concatenate([before, out], axis=1)
            before[:] = given[:, -2:]
            system = np.empty((3, n_samples), order="F")
            system[:] = a[:, None]
            out = b[0] * given[:, 2:] + b[1] * given[:, 1:-1] + b[2] * given[:, :-2]
            out[:, 0] -= a[1] * after[:, 1] + a[2] * after[:, 0]
            out[:, 1:2] -= a[2] * after[:, 1:]
            for channel in out:
                channel[:] = dtbsv(2, system, channel, lower=1, diag=1)
            after[:] = np.concatenate([after, out], axis=1)[:, -2:]
        return out


def high_pass(cutoff_hz: float, sample_rate: float) -> list[Section]:
    """Butterworth's of second order, by the bilinear transform."""
    k = math.tan(math.pi * cutoff_hz / sample_rate)
    gain = 1.0 / (1.0 + math.sqrt(2.0) * k + k * k)
    a = np.array([1.0, 2.0 * (k * k - 1.0) * gain, (1.0 - math.sqrt(2.0) * k + k * k) * gain])
    return [(np.array([gain, -2.0 * gain, gain]), a)]


def k_weighting(sample_rate: float) -> list[Section]:
    """The two filters before a loudness (ITU-R BS.1770-4, annex 1), for any rate, with the values of pyloudnorm.

    High shelf of 4 dB at 1500 Hz and high-pass at 38 Hz, by R. Bristow-Johnson's "Cookbook formulae for audio EQ
    biquad filter coefficients".
    """
    root = 10.0 ** (4.0 / 80.0)  # the square root of the cookbook's A
    gain = root * root
    cos, alpha = _corner(1500.0, math.sqrt(0.5), sample_rate)
    up, down, slope = gain + 1.0, gain - 1.0, 2.0 * root * alpha
    shelf = _section(
        gain * (up + down * cos + slope), -2.0 * gain * (down + up * cos), gain * (up + down * cos - slope),
        up - down * cos + slope, 2.0 * (down - up * cos), up - down * cos - slope,
    )  # fmt: skip
    cos, alpha = _corner(38.0, 0.5, sample_rate)
    low_cut = _section(
        (1.0 + cos) / 2.0, -(1.0 + cos), (1.0 + cos) / 2.0,
        1.0 + alpha, -2.0 * cos, 1.0 - alpha,
    )  # fmt: skip
    return [shelf, low_cut]


def _corner(hz: float, q: float, sample_rate: float) -> tuple[float, float]:
    """The cookbook's cos(w0) and alpha."""
    angle = 2.0 * math.pi * hz / sample_rate
    return math.cos(angle), math.sin(angle) / (2.0 * q)


def _section(b0: float, b1: float, b2: float, a0: float, a1: float, a2: float) -> Section:
    return np.array([b0, b1, b2]) / a0, np.array([1.0, a1 / a0, a2 / a0])


def oversampled(samples: FloatArray) -> FloatArray:
    """`OVERSAMPLING` times as many samples `[C, OVERSAMPLING, N]`: those from each given one up to the next.

    By a low-pass of linear phase under a Kaiser window (beta 5), as `scipy.signal.resample_poly` does it.
    """
    n_taps = 2 * OVERSAMPLING * REACH + 1
    at = np.arange(n_taps) - OVERSAMPLING * REACH
    low_pass = np.sinc(at / OVERSAMPLING) / OVERSAMPLING * np.kaiser(n_taps, 5.0)
    low_pass = (low_pass / low_pass.sum()).astype(np.float32) * np.float32(OVERSAMPLING)
    # [2 * REACH + 1, OVERSAMPLING]: what each sample around adds to each of the new ones.
    taps = np.pad(low_pass, (0, OVERSAMPLING - 1)).reshape(-1, OVERSAMPLING)[::-1]
    n_channels, n_samples = samples.shape
    padded = np.pad(samples, ((0, 0), (REACH, REACH)))
    out = np.zeros((n_channels, OVERSAMPLING, n_samples), np.float32)
    for phase in range(OVERSAMPLING):
        for i, tap in enumerate(taps[:, phase]):
            out[:, phase] += tap * padded[:, i : i + n_samples]
    return out
