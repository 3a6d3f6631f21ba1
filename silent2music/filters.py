"""High-pass, K-weighting, oversampling and mel filters, in NumPy alone.

Importing `scipy.signal`, which has them all, takes longer than everything that they do for a ten-second room.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from silent2music.arrays import DoubleArray, FloatArray

Biquad = tuple[DoubleArray, DoubleArray]
"""`b [3]` and `a [3]`, a[0] = 1, of `y[n] = b0 x[n] + b1 x[n-1] + b2 x[n-2] - a1 y[n-1] - a2 y[n-2]`."""

SPAN = 64
"""Samples that a recursive filter computes by one matrix product."""

BLOCK = SPAN**2
"""Products up to this size run on one BLAS thread; further threads, once awake, keep a core busy for nothing."""

OVERSAMPLING = 4
REACH = 10
"""Samples on either side that an oversampled one depends on."""


class Biquads:
    """A cascade of second-order IIR sections that keeps its state from block to block.

    Args:
        n_channels: C.
    """

    def __init__(self, sections: Sequence[Biquad], n_channels: int) -> None:
        self._sections = [_Biquad(b, a, n_channels) for b, a in sections]

    def __call__(self, samples: NDArray[np.floating]) -> DoubleArray:
        """The next block `[C, n]`, n >= 1, filtered."""
        out = samples.astype(np.float64)
        for begin in range(0, out.shape[1], BLOCK):
            block = out[:, begin : begin + BLOCK]
            for section in self._sections:
                block[:] = section(block)
        return out


class _Biquad:
    """One second-order section, computed by matrix products over spans of samples instead of sample by sample.

    The state s is that of the transposed direct form II: `y = b0 x + s[0]`, and from sample to sample
    `s = transition @ s + entry * x`.
    """

    def __init__(self, b: DoubleArray, a: DoubleArray, n_channels: int) -> None:
        transition = np.array([[-a[1], 1.0], [-a[2], 0.0]])
        entry = np.array([b[1] - a[1] * b[0], b[2] - a[2] * b[0]])
        self._powers = _powers(transition, SPAN + 1)
        self._of_state = self._powers[:SPAN, 0]  # [SPAN, 2], what the state at a span's start adds to it
        self._to_state = self._powers[SPAN - 1 :: -1] @ entry  # [SPAN, 2], what a span leaves in the state
        response = np.append(b[0], self._powers[: SPAN - 1] @ entry @ [1.0, 0.0])
        self._within = _lower_triangular(response[:, None, None])
        # The same from span to span: states at the starts of spans, [2 * n], from what each of them leaves.
        jumps = _powers(self._powers[SPAN], BLOCK // SPAN)
        self._first = jumps.reshape(-1, 2)
        self._between = _lower_triangular(np.concatenate([np.zeros((1, 2, 2)), jumps[:-1]]))
        self._states = np.zeros((n_channels, 2))

    def __call__(self, samples: DoubleArray) -> DoubleArray:
        """The next at most `BLOCK` samples `[C, n]`."""
        n_channels, n_samples = samples.shape
        n_last = (n_samples - 1) % SPAN + 1
        if n_last < SPAN:
            samples = np.pad(samples, ((0, 0), (0, SPAN - n_last)))
        spans = samples.reshape(n_channels, -1, SPAN)
        left = (spans @ self._to_state).reshape(n_channels, -1)
        n = left.shape[1]
        starts = self._states @ self._first[:n].T + left @ self._between[:n, :n].T
        starts = starts.reshape(n_channels, -1, 2)
        out = spans @ self._within.T + starts @ self._of_state.T
        passed = starts[:, -1] @ self._powers[n_last].T
        self._states = passed + spans[:, -1, :n_last] @ self._to_state[SPAN - n_last :]
        return np.asarray(out.reshape(n_channels, -1)[:, :n_samples])


def _powers(matrix: DoubleArray, n: int) -> DoubleArray:
    """`[n, 2, 2]` the powers from 0 to n - 1."""
    powers = [np.eye(2)]
    for _ in range(n - 1):
        powers.append(matrix @ powers[-1])
    return np.stack(powers)


def _lower_triangular(blocks: DoubleArray) -> DoubleArray:
    """The block Toeplitz matrix `[n * r, n * r]` whose block (i, j) is `blocks[i - j]`, of `[n, r, r]`."""
    n, r, _ = blocks.shape
    lags = np.arange(n)[:, None] - np.arange(n)
    matrix = np.where((lags >= 0)[..., None, None], blocks[lags], 0.0)
    return np.asarray(matrix.transpose(0, 2, 1, 3).reshape(n * r, n * r))


def high_pass(cutoff_hz: float, sample_rate: float) -> list[Biquad]:
    """Butterworth high-pass of second order, by the bilinear transform."""
    k = math.tan(math.pi * cutoff_hz / sample_rate)
    gain = 1.0 / (1.0 + math.sqrt(2.0) * k + k * k)
    a = np.array([1.0, 2.0 * (k * k - 1.0) * gain, (1.0 - math.sqrt(2.0) * k + k * k) * gain])
    return [(np.array([gain, -2.0 * gain, gain]), a)]


def k_weighting(sample_rate: float) -> list[Biquad]:
    """The K-weighting filters of loudness (ITU-R BS.1770-4, annex 1), for any rate.

    High shelf of 4 dB and high-pass whose coefficients at 48 kHz are the standard's own, by B. De Man, "Evaluation
    of implementations of the EBU R128 loudness measurement", AES 145, 2018; those of ffmpeg and libebur128 too.
    """
    gain = 10.0 ** (3.99984385397 / 20.0)
    damped, square = _warped(1681.9744509555319, 0.7071752369554193, sample_rate)
    slope = gain**0.499666774155 * damped
    whole = 1.0 + damped + square
    shelf = (
        np.array([gain + slope + square, 2.0 * (square - gain), gain - slope + square]) / whole,
        np.array([1.0, 2.0 * (square - 1.0) / whole, (1.0 - damped + square) / whole]),
    )
    damped, square = _warped(38.13547087613982, 0.5003270373253953, sample_rate)
    whole = 1.0 + damped + square
    low_cut = (
        np.array([1.0, -2.0, 1.0]),
        np.array([1.0, 2.0 * (square - 1.0) / whole, (1.0 - damped + square) / whole]),
    )
    return [shelf, low_cut]


def _warped(hz: float, q: float, sample_rate: float) -> tuple[float, float]:
    """k / q and k squared of the bilinear transform's k = tan(pi hz / rate)."""
    k = math.tan(math.pi * hz / sample_rate)
    return k / q, k * k


@lru_cache(maxsize=1)
def _oversampling_taps() -> FloatArray:
    """`[2 * REACH + 1, OVERSAMPLING]`: what each sample around one adds to each of the new ones after it."""
    n_taps = 2 * OVERSAMPLING * REACH + 1
    at = np.arange(n_taps) - OVERSAMPLING * REACH
    low_pass = np.sinc(at / OVERSAMPLING) / OVERSAMPLING * np.kaiser(n_taps, 5.0)
    low_pass = (low_pass / low_pass.sum()).astype(np.float32) * np.float32(OVERSAMPLING)
    return np.asarray(np.pad(low_pass, (0, OVERSAMPLING - 1)).reshape(-1, OVERSAMPLING)[::-1])


def oversampled(samples: FloatArray) -> FloatArray:
    """Samples `[C, N]` oversampled to `[C, OVERSAMPLING, N]`: those from each given one up to the next.

    By a low-pass of linear phase under a Kaiser window (beta 5), as `scipy.signal.resample_poly` does it.
    """
    taps = _oversampling_taps()
    n_channels, n_samples = samples.shape
    padded = np.pad(samples, ((0, 0), (REACH, REACH)))
    out = np.zeros((n_channels, OVERSAMPLING, n_samples), np.float32)
    for phase in range(OVERSAMPLING):
        for i, tap in enumerate(taps[:, phase]):
            out[:, phase] += tap * padded[:, i : i + n_samples]
    return out


def overshoot() -> float:
    """How many times the largest sample an oversampled one can be."""
    return float(np.abs(_oversampling_taps()).sum(axis=0).max())


def triangles(edges: NDArray[np.floating], at: NDArray[np.floating]) -> DoubleArray:
    """Triangular filters `[n, A]` of peak 1 between ascending `edges` `[n + 2]`, at places `[A]` in the same unit."""
    rising = (at - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - at) / (edges[2:] - edges[1:-1])[:, None]
    return np.asarray(np.maximum(0.0, np.minimum(rising, falling)))


@lru_cache(maxsize=32)
def mel_filters(
    sample_rate: int,
    n_fft: int,
    n_mels: int,
    low_hz: float = 0.0,
    high_hz: float | None = None,
    scale: Literal["htk", "slaney"] = "htk",
    norm: Literal["peak", "area", "sum"] = "peak",
    no_empty: bool = False,
) -> DoubleArray:
    """Triangular mel filters `[n_mels, n_fft // 2 + 1]`; cached, so not to be written to.

    Args:
        sample_rate: in Hz.
        n_fft: window of the spectra that they are for, in samples.
        low_hz, high_hz: outer edges of the first and the last band; None is the Nyquist frequency.
        scale: `htk` is `2595 log10(1 + f / 700)` (O'Shaughnessy, Speech Communication, 1987); `slaney` is linear up
            to 1 kHz, 15 mels of 200/3 Hz, and logarithmic beyond, 27 mels for a factor of 6.4 (Auditory Toolbox, 1998).
        norm: of each filter: a `peak` of 1, an `area` of 1 over frequency in Hz, or a `sum` of 1 over the bins.
        no_empty: give the bin nearest to a filter's centre at least 0.5, so that a filter narrower than a bin has one.
    """
    low, high = (_mel(hz, scale) for hz in (low_hz, sample_rate / 2 if high_hz is None else high_hz))
    mels = np.linspace(low, high, n_mels + 2)
    if scale == "htk":
        edges = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    else:
        edges = np.where(mels < 15.0, mels * 200.0 / 3.0, 1000.0 * 6.4 ** ((mels - 15.0) / 27.0))
    bins = np.fft.rfftfreq(n_fft, 1.0 / sample_rate)
    filters = triangles(edges, bins)
    if no_empty:
        nearest = np.abs(bins - edges[1:-1, None]).argmin(axis=1)
        filters[np.arange(n_mels), nearest] = np.maximum(filters[np.arange(n_mels), nearest], 0.5)
    if norm == "area":
        filters *= (2.0 / (edges[2:] - edges[:-2]))[:, None]
    elif norm == "sum":
        filters /= np.maximum(filters.sum(axis=1, keepdims=True), 1e-12)
    return filters


def _mel(hz: float, scale: str) -> float:
    """A frequency on one of the two scales of `mel_filters`."""
    if scale == "htk":
        return 2595.0 * float(np.log10(1.0 + hz / 700.0))
    return hz * 3.0 / 200.0 if hz < 1000.0 else 15.0 + 27.0 * float(np.log(hz / 1000.0) / np.log(6.4))
