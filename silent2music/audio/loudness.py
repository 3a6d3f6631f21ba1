"""Loudness and true peak (ITU-R BS.1770-4), a limiter that holds the one under the other, and a leveller."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from itertools import islice

import numpy as np

from silent2music.arrays import DoubleArray, FloatArray
from silent2music.audio.waveform import FLOOR_DBFS, Waveform, db_to_gain
from silent2music.filters import OVERSAMPLING, REACH, Biquads, k_weighting, oversampled, overshoot

GATING_SECONDS, HOP_SECONDS = 0.4, 0.1
"""Length and hop of gating blocks."""

ABSOLUTE_GATE_LUFS, RELATIVE_GATE_LU = -70.0, -10.0
SURROUND_WEIGHT = 1.41

SPAN, SPANS_AT_ONCE = 256, 64
"""Samples that are oversampled or passed over together, and how many such stretches fit a processor's cache."""

LEFT_APART = 0.5
"""Share of how far, in dB, music is from the loudness that is wanted of it that a leveller leaves: a ratio of 2 to 1."""

MOST_UP_DB, MOST_DOWN_DB = 6.0, 10.0
"""By how much a leveller turns music up or down."""

FAST_SECONDS, SLOW_SECONDS = 0.03, 2.0
"""Time constants of a leveller: of the level as it falls, and of the usual distance from what is wanted."""

FRAME_SECONDS = 0.01
"""Time in which a leveller takes the level as one; its gain goes straight from one end of it to the next."""

AHEAD_FRAMES = 4
"""So many frames ahead a leveller hears attacks: as early as a codec's windows smear them, so that what it turns down
does not begin with a foot that it turned up."""

SOUNDING_DBFS, RESTING_DB = -70.0, 30.0
"""What is quieter than the first, or by the second than music usually is where it is wanted as loud, is a rest to a
leveller, and left alone."""

YOUNG_SECONDS, RISE_DB = 0.5, 6.0
"""If so early in the music the level rises by so much, what came before was but the beginning of an attack."""


class Leveller:
    """Brings music nearer to a course of loudness, and keeps its state from block to block.

    A feed-forward compressor with logarithms of smoothed power (Giannoulis, Massberg and Reiss, J. Audio Eng. Soc. 60,
    2012), whose threshold is no level but the loudness that is wanted. Only how that changes counts: as loud as music
    usually is beside it, it stays.

    Args:
        sample_rate: in Hz.
        wanted_db: loudness by and by, in dB, each asked for when the sound comes to it; the last goes on, and without any
            all sound is left alone.
        wanted_hz: its rate.
        n_ahead: frames of `FRAME_SECONDS` by which attacks are heard ahead, and the sound comes later.
    """

    def __init__(
        self,
        sample_rate: int,
        wanted_db: Iterable[float],
        wanted_hz: float,
        n_ahead: int = AHEAD_FRAMES,
    ) -> None:
        self._n_ahead = n_ahead
        self._n_frame = round(FRAME_SECONDS * sample_rate)
        self._wanted_db, self._n_each, self._n_known = iter(wanted_db), sample_rate / wanted_hz, 0.0
        self._now_db = self._smooth_db = math.nan
        self._fast = math.exp(-FRAME_SECONDS / FAST_SECONDS)
        self._slow = math.exp(-FRAME_SECONDS / SLOW_SECONDS)
        self._power = self._usual = self._weight = self._gain_db = 0.0
        # Not levelled so far: samples, and of each of their frames the length and the mean square.
        self._held = np.zeros((1, 0), np.float32)
        self._frames: deque[tuple[int, float]] = deque()

    def __call__(self, samples: FloatArray) -> FloatArray:
        """Take the next block `[C, n]`, and give what can be levelled by now: all but the last `n_ahead` frames.

        All blocks but the last are of whole frames of `FRAME_SECONDS`.
        """
        self._held = np.concatenate([self._held, samples], axis=1) if self._held.size else samples
        for begin in range(0, samples.shape[1], self._n_frame):
            frame = samples[:, begin : begin + self._n_frame]
            self._frames.append((frame.shape[1], float(np.square(frame, dtype=np.float64).mean())))
        return self._levelled(max(0, len(self._frames) - self._n_ahead))

    def rest(self) -> FloatArray:
        """What is not levelled so far, `[C, n]`, after the last block."""
        return self._levelled(len(self._frames))

    def _levelled(self, n_frames: int) -> FloatArray:
        """The next frames."""
        ends, gains_db = [0], [self._gain_db]
        for _ in range(n_frames):
            while self._n_known < 0.5:  # samples for which what is wanted is known
                self._now_db = next(self._wanted_db, self._now_db)
                self._n_known += self._n_each
            heard = max(power for _, power in islice(self._frames, self._n_ahead + 1))
            n_samples, _ = self._frames.popleft()
            self._n_known -= n_samples
            ends.append(ends[-1] + n_samples)
            gains_db.append(self._next_gain_db(heard))
        self._gain_db = gains_db[-1]
        samples, held = np.split(self._held, ends[-1:], axis=1)
        self._held = held.copy()  # of a block that may be long, or written over
        gain_db = np.interp(np.arange(1, ends[-1] + 1), ends, gains_db)
        return np.asarray(samples * 10.0 ** (gain_db / 20.0), np.float32)

    def _next_gain_db(self, power: float) -> float:
        """The gain at the end of the next frame, where that mean square is heard."""
        # As smooth as levels that fall, so that the two are of one time; attacks are heard at once.
        if math.isnan(self._smooth_db):
            self._smooth_db = self._now_db
        self._smooth_db = self._fast * self._smooth_db + (1.0 - self._fast) * self._now_db
        self._power = max(power, self._fast * self._power + (1.0 - self._fast) * power)
        level = 10.0 * math.log10(self._power + 1e-10)
        if level < SOUNDING_DBFS or math.isnan(self._now_db):
            return 0.0
        above = level - self._smooth_db
        if self._weight * FRAME_SECONDS < YOUNG_SECONDS and above > self._usual + RISE_DB:
            self._weight = 0.0
        usual = self._usual if self._weight else above
        if above < usual - RESTING_DB:
            return 0.0
        most_below, most_above = MOST_UP_DB / (1.0 - LEFT_APART), MOST_DOWN_DB / (1.0 - LEFT_APART)
        apart = min(max(above - usual, -most_below), most_above)
        self._weight = self._slow * self._weight + 1.0
        moved = apart / self._weight  # a mean whose weights sink by the age of what it is of
        self._usual = usual + moved
        return (LEFT_APART - 1.0) * (apart - moved)


class LoudnessMeter:
    """Integrated loudness (ITU-R BS.1770-4) of a stream of blocks.

    The weighting has the standard's own coefficients, as ffmpeg and libebur128 have it. Filters designed anew read
    0.04 dB less at 48 kHz and 0.08 dB less at 24 kHz.

    Args:
        sample_rate: in Hz.
        n_channels: C: left, right, centre and two surrounds, which count 1.5 dB more; any others do not count.
    """

    def __init__(self, sample_rate: int, n_channels: int) -> None:
        self._weighted = Biquads(k_weighting(sample_rate), n_channels)
        self._rate, self._n_samples = sample_rate, 0
        self._n_hop = round(HOP_SECONDS * sample_rate)
        self._rest: DoubleArray = np.zeros(0)
        self._hops: list[DoubleArray] = []

    def add(self, samples: FloatArray) -> None:
        """Measure the next `[C, n]`."""
        self._n_samples += samples.shape[1]
        squares = np.square(self._weighted(samples)[:5])
        squares[3:] *= SURROUND_WEIGHT
        power = np.concatenate([self._rest, squares.sum(axis=0)])
        n_whole = len(power) // self._n_hop * self._n_hop
        self._hops.append(power[:n_whole].reshape(-1, self._n_hop).sum(axis=1))
        self._rest = power[n_whole:]

    def blocks(self) -> DoubleArray:
        """Loudness `[B]` in LUFS of all gating blocks, 0.1 s apart; of anything shorter than one, of the whole."""
        per_block = round(GATING_SECONDS / HOP_SECONDS)
        hops = np.concatenate([np.zeros(0), *self._hops])
        if len(hops) < per_block:
            return _lufs(np.array([hops.sum() + self._rest.sum()]) / max(1, self._n_samples))
        return _lufs(np.convolve(hops, np.ones(per_block), "valid") / (per_block * self._n_hop))

    def integrated(self) -> float:
        """Integrated loudness in LUFS so far; `-inf` for silence."""
        return gated(self.blocks())


def gated(blocks: DoubleArray) -> float:
    """Integrated loudness in LUFS of gating blocks `[B]` in LUFS; `-inf` if none is heard."""
    loud = blocks[blocks > gate(blocks)]
    return float(_lufs(_mean_square(loud).mean())) if len(loud) else float("-inf")


def gate(blocks: DoubleArray) -> float:
    """The level in LUFS that blocks `[B]` must exceed to count, 10 LU under all that exceed the absolute gate."""
    heard = blocks[blocks > ABSOLUTE_GATE_LUFS]
    if len(heard) == 0:
        return ABSOLUTE_GATE_LUFS
    return max(ABSOLUTE_GATE_LUFS, float(_lufs(_mean_square(heard).mean())) + RELATIVE_GATE_LU)


def _mean_square(lufs: DoubleArray) -> DoubleArray:
    return np.asarray(10.0 ** ((lufs + 0.691) / 10.0))


def _lufs(power: DoubleArray | float) -> DoubleArray:
    return np.asarray(-0.691 + 10.0 * np.log10(np.maximum(power, 1e-30)))


def integrated_lufs(waveform: Waveform) -> float:
    """Integrated loudness in LUFS (ITU-R BS.1770-4); `-inf` for silence.

    A signal shorter than a gating block of 0.4 s is padded by repetition. Blocks are 0.1 s apart, and what is left
    over at the end is not measured, as the standard has it.
    """
    return gated(loudness_blocks(waveform))


def loudness_blocks(waveform: Waveform) -> DoubleArray:
    """Loudness `[B]` in LUFS of its gating blocks, as `integrated_lufs` has them."""
    n_block = int(GATING_SECONDS * waveform.sample_rate) + 1
    meter = LoudnessMeter(waveform.sample_rate, waveform.n_channels)
    meter.add(np.tile(waveform.samples, (1, -(-n_block // waveform.n_samples))))
    return meter.blocks()


def true_peak_dbtp(waveform: Waveform) -> float:
    """True peak in dBTP by 4 times oversampling (ITU-R BS.1770-4, annex 2), not below `FLOOR_DBFS`."""
    return peak_dbtp(oversampled_peaks(waveform.samples, float(np.abs(waveform.samples).max())))


def peak_dbtp(peaks: FloatArray) -> float:
    """The largest of `peaks` in dBTP, not below `FLOOR_DBFS`."""
    return max(FLOOR_DBFS, 20.0 * float(np.log10(max(float(peaks.max()), 1e-12))))


def oversampled_peaks(samples: FloatArray, above: float = 0.0) -> FloatArray:
    """`[N]` largest magnitude over the channels of `[C, N]` from each sample to the next, 4 times oversampled.

    Stretches in which nothing can be larger than `above` have the magnitudes of the samples alone: most of music lies
    far below its peaks, and oversampling it is the larger part of all measuring.
    """
    peaks = np.abs(samples).max(axis=0)
    n_samples = samples.shape[1]
    n_spans = -(-n_samples // SPAN)
    spans = np.pad(peaks, (0, n_spans * SPAN - n_samples)).reshape(n_spans, SPAN).max(axis=1)
    around = np.pad(spans, 1)
    around = np.maximum(np.maximum(around[:-2], around[1:-1]), around[2:])
    padded = np.pad(samples, ((0, 0), (REACH, n_spans * SPAN - n_samples + REACH)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, SPAN + 2 * REACH, axis=1)[:, ::SPAN]
    high = np.flatnonzero(around * overshoot() >= above)
    found = np.pad(peaks, (0, n_spans * SPAN - n_samples)).reshape(n_spans, SPAN)
    for begin in range(0, len(high), SPANS_AT_ONCE):
        some = high[begin : begin + SPANS_AT_ONCE]
        stretch = windows[:, some]
        over = np.abs(oversampled(stretch.reshape(-1, SPAN + 2 * REACH))[:, :, REACH:-REACH])
        over = over.reshape(len(samples), len(some), OVERSAMPLING, SPAN).max(axis=(0, 2))
        found[some] = np.maximum(found[some], over)
    return np.asarray(found.reshape(-1)[:n_samples])


def normalised(waveform: Waveform, lufs: float, true_peak: float) -> Waveform:
    """A waveform brought to an integrated loudness in LUFS, limited to a true peak in dBTP.

    Peaks above the limit are turned down by a look-ahead gain, so that loudness is kept where it can be. A
    silent waveform comes back unchanged.
    """
    loudness = integrated_lufs(waveform)
    if not np.isfinite(loudness):
        return waveform
    samples = waveform.samples * np.float32(db_to_gain(lufs - loudness))
    return limited(samples, waveform.sample_rate, true_peak)


def limited(samples: FloatArray, sample_rate: int, true_peak: float) -> Waveform:
    """Samples `[C, N]`, which may exceed 1, limited to a true peak in dBTP by `limiter_gain`."""
    gain = limiter_gain(samples, sample_rate, true_peak)
    if gain is not None:
        samples = samples * gain
    return Waveform(np.clip(samples, -1.0, 1.0).astype(np.float32), sample_rate)


def limiter_gain(samples: FloatArray, sample_rate: int, true_peak: float) -> FloatArray | None:
    """The gain `[N]` of a limiter on samples `[C, N]`, which may exceed 1; None where nothing reaches the true peak.

    It is the minimum filter of the needed reduction over 10 ms, smoothed over 5 ms: at every peak it
    is already down, and it never moves faster than that.
    """
    from scipy.ndimage import minimum_filter1d, uniform_filter1d

    ceiling = db_to_gain(true_peak - 0.1)
    over = oversampled_peaks(samples, ceiling)
    if over.max() <= ceiling:
        return None
    width = max(3, int(0.005 * sample_rate))
    needed = np.minimum(1.0, ceiling / np.maximum(over, 1e-9))
    return np.asarray(uniform_filter1d(minimum_filter1d(needed, 2 * width + 1), width), np.float32)
