"""The few filters that every piece of music needs, by numpy alone.

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

SPAN = 64
"""Samples that a recursive filter takes at once: a matrix of this size costs as little as the steps it spares."""

OVERSAMPLING = 4
REACH = 10
"""Samples on either side that an oversampled one depends on."""


class Biquads:
    """Second-order sections one after another, which go on from block to block.

    Args:
        sections: in their order.
        n_channels: C.
    """

    def __init__(self, sections: Sequence[Section], n_channels: int) -> None:
        self._sections = [_Biquad(b, a, n_channels) for b, a in sections]

    def __call__(self, samples: NDArray[np.floating]) -> DoubleArray:
        """The next block `[C, n]`, n >= 1, filtered."""
        out = samples.astype(np.float64)
        for section in self._sections:
            out = section(out)
        return out


class _Biquad:
    """One section, whose recursion is walked in steps of `SPAN` samples; a matrix says what happens within a span.

    The state s is that of the transposed direct form II: `y = b0 x + s[0]`, and from sample to sample
    `s = transition @ s + entry * x`.
    """

    def __init__(self, b: DoubleArray, a: DoubleArray, n_channels: int) -> None:
        transition = np.array([[-a[1], 1.0], [-a[2], 0.0]])
        entry = np.array([b[1] - a[1] * b[0], b[2] - a[2] * b[0]])
        powers = [np.eye(2)]
        for _ in range(SPAN):
            powers.append(transition @ powers[-1])
        self._powers = np.stack(powers)
        self._of_state = self._powers[:SPAN, 0]  # [SPAN, 2], what the state at a span's start adds to it
        self._to_state = self._powers[SPAN - 1 :: -1] @ entry  # [SPAN, 2], what a span leaves in the state
        response = np.append(b[0], self._powers[: SPAN - 1] @ entry @ [1.0, 0.0])
        lags = np.arange(SPAN)[:, None] - np.arange(SPAN)
        self._within = np.where(lags >= 0, response[lags], 0.0)
        self._states = np.zeros((n_channels, 2))

    def __call__(self, samples: DoubleArray) -> DoubleArray:
        n_channels, n_samples = samples.shape
        n_last = (n_samples - 1) % SPAN + 1
        spans = np.pad(samples, ((0, 0), (0, SPAN - n_last))).reshape(n_channels, -1, SPAN)
        starts = np.stack(
            [self._walk(s, left) for s, left in zip(self._states, spans @ self._to_state, strict=True)]
        )
        out = spans @ self._within.T + starts @ self._of_state.T
        passed = starts[:, -1] @ self._powers[n_last].T
        self._states = passed + spans[:, -1, :n_last] @ self._to_state[SPAN - n_last :]
        return np.asarray(out.reshape(n_channels, -1)[:, :n_samples])

    def _walk(self, state: DoubleArray, left: DoubleArray) -> DoubleArray:
        """States `[n, 2]` at the start of spans that leave so much, `[n, 2]`, in it."""
        # Plain numbers: a call of numpy costs more than these four products.
        (p, q), (r, s) = self._powers[SPAN].tolist()
        x, y = state.tolist()
        starts = []
        for dx, dy in left.tolist():
            starts.append((x, y))
            x, y = p * x + q * y + dx, r * x + s * y + dy
        return np.array(starts)


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
