"""Which channels of a recording are heard, and how they become one.

Decided once from the whole recording, so that a window of it is mixed as the whole is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from silent2music.arrays import DoubleArray, FloatArray

DEAD_DB = 20.0
"""A channel this far below the loudest one that hears the room holds no more than its own preamplifier's noise."""

CANCELLING = 0.25
"""Channels are of opposite phase if the power of their mean is below this share of what unrelated ones give."""

TOLERANCE_DB = 0.5
"""A mean that loses no more than this is left as it is."""

TONE_DBFS, TONE_SHARE = -30.0, 0.99
"""A line-up tone is at least this loud, and has this share of its channel's power."""

EXCERPT_SECONDS = 0.5
"""How much of every block is searched for tones and timecode: some 12 frames of it."""

HIGH_PASS_SECONDS = 0.04
"""Powers are taken around the means of such spans: neither an offset nor what lies below 25 Hz has a say."""

LTC_RATES = (24, 25, 30)
"""Frames per second of linear timecode; 23.98 and 29.97 are near enough."""

LTC_BITS, LTC_SYNC = 80, "0011111111111101"
"""Bits of a frame, and the word that ends it (SMPTE ST 12-1, 9.2.3)."""


@dataclass(frozen=True)
class Downmix:
    """How C channels become one.

    Attributes:
        weights: `[C]` float32, 0 for what is left out.
        notes: what was left out, each a clause that follows a file's name.
    """

    weights: FloatArray
    notes: tuple[str, ...] = ()

    def __call__(self, samples: FloatArray) -> FloatArray:
        """`[1, n]` of `[C, n]`; one channel after another, so that blocks give what the whole gives."""
        mixed = np.zeros((1, samples.shape[1]), np.float32)
        for channel in np.flatnonzero(self.weights):
            mixed += self.weights[channel] * samples[channel]
        return mixed


class Channels:
    """What a downmix is decided by: the powers of channels and what they have in common, block by block.

    Args:
        n_channels: C.
        sample_rate: in Hz.
    """

    def __init__(self, n_channels: int, sample_rate: int) -> None:
        self._rate, self._n_samples = sample_rate, 0
        self._products = np.zeros((n_channels, n_channels))
        self._found = [Counter[str]() for _ in range(n_channels)]

    def add(self, samples: FloatArray) -> None:
        """Go on with `[C, n]`."""
        n_channels, n_samples = samples.shape
        span = min(n_samples, max(1, int(HIGH_PASS_SECONDS * self._rate)))
        # Not all at once: 64 channels of doubles take room.
        step = max(1, 2**20 // n_channels // span) * span
        for start in range(0, n_samples // span * span, step):
            x = samples[:, start : min(start + step, n_samples // span * span)].astype(np.float64)
            spans = x.reshape(n_channels, -1, span)
            x = (spans - spans.mean(axis=2, keepdims=True)).reshape(n_channels, -1)
            self._products += x @ x.T
        self._n_samples += n_samples
        n_excerpt = min(n_samples, int(EXCERPT_SECONDS * self._rate))
        start = (n_samples - n_excerpt) // 2
        for found, excerpt in zip(self._found, samples[:, start : start + n_excerpt], strict=True):
            found[signal_name(excerpt, self._rate)] += 1

    @property
    def covariance(self) -> DoubleArray:
        """`[C, C]` mean products of channels, around their means."""
        return self._products / max(1, self._n_samples)

    def downmix(self) -> Downmix:
        """The mean of the channels that hear the room, as loud as these are on average.

        Left out are timecode and tones, as long as there is anything else, and channels that are `DEAD_DB` below
        the loudest of the rest. Where the mean would cancel, the channels of opposite phase are turned over.
        """
        covariance = self.covariance
        powers = np.diag(covariance)
        names = [found.most_common(1)[0][0] if found else "" for found in self._found]
        rooms = np.array([not name for name in names]) & (powers > 0)
        notes = []
        if rooms.any():
            notes += [
                f"holds {name} in channel {c}, which is left out" for c, name in enumerate(names, 1) if name
            ]
        else:
            rooms = powers > 0
        if not rooms.any():
            return Downmix(np.full(len(powers), 1.0 / len(powers), np.float32))
        live = rooms & (powers >= 10.0 ** (-DEAD_DB / 10.0) * powers[rooms].max())
        dead = [str(c) for c, name in enumerate(names, 1) if not live[c - 1] and not name]
        if dead:
            channels, they = ("channel", "it is") if len(dead) == 1 else ("channels", "they are")
            notes.append(f"has no sound of the room in {channels} {', '.join(dead)}; {they} left out")
        weights = np.zeros(len(powers), np.float32)
        weights[live] = _equal_power(covariance[np.ix_(live, live)])
        return Downmix(weights, tuple(notes))


def _equal_power(covariance: DoubleArray) -> DoubleArray:
    """Weights `[C]` of one magnitude, whose mix has the channels' mean power."""
    n_channels = len(covariance)
    signs, power = np.ones(n_channels), np.trace(covariance) / n_channels
    if covariance.sum() < CANCELLING * np.trace(covariance):
        scale = np.sqrt(np.diag(covariance))
        leading = np.linalg.eigh(covariance / np.outer(scale, scale))[1][:, -1]
        signs = np.where(leading * leading[np.argmax(scale)] < 0, -1.0, 1.0)
    gain = float(np.sqrt(power / (signs @ covariance @ signs))) * n_channels
    if abs(20.0 * np.log10(gain)) < TOLERANCE_DB:
        gain = 1.0
    # Rounded: sums over other blocks of the same recording differ in their last bits.
    return np.asarray(signs * round(gain, 4) / n_channels)


def signal_name(samples: FloatArray, sample_rate: int) -> str:
    """What samples `[n]` are if they are a technical signal and no room: timecode or a tone; else nothing."""
    if not samples.any():
        return ""
    x = np.ascontiguousarray(samples) - samples.mean(dtype=np.float64)
    power = float(np.mean(np.square(x)))
    # Either has a low crest factor, which is quickly told: 1 for a square wave, 2 for the power of a sine.
    if power == 0.0 or float(np.square(np.abs(x).max())) > 8.0 * power:
        return ""
    if is_timecode(x, sample_rate):
        return "SMPTE timecode (LTC)"
    if 10.0 * np.log10(power) > TONE_DBFS:
        spectrum = np.square(np.abs(np.fft.rfft(x * np.hanning(len(x)))))
        first = max(0, int(spectrum.argmax()) - 3)
        line = spectrum[first : first + 7]
        if line.sum() > TONE_SHARE * spectrum.sum():
            place = first + float(np.average(np.arange(len(line)), weights=line))
            return f"a tone of {place * sample_rate / len(x):.0f} Hz"
    return ""


def is_timecode(samples: FloatArray, sample_rate: int) -> bool:
    """Whether samples `[n]` are linear timecode: biphase marks whose sync words are a frame apart (SMPTE ST 12-1).

    A bit is one crossing of zero after another if it is 0, and has one more in its middle if it is 1.
    """
    before, after = samples[:-1], samples[1:]
    at = np.flatnonzero((before < 0) != (after < 0))
    if len(at) < 2 * LTC_BITS:
        return False
    crossings = at + before[at] / (before[at] - after[at])
    for rate in LTC_RATES:
        lengths = np.diff(crossings) / (sample_rate / (LTC_BITS * rate))
        halves, wholes = np.abs(lengths - 0.5) < 0.2, np.abs(lengths - 1.0) < 0.25
        if np.mean(halves | wholes) > 0.9:
            # Two halves are a one; replaced in this order, halves without a partner end in nothing.
            text = "".join(np.where(wholes, "0", np.where(halves, "h", "x")))
            bits = text.replace("hh", "1")
            found = [i for i in range(len(bits)) if bits.startswith(LTC_SYNC, i)]
            if any(b - a == LTC_BITS for a, b in pairwise(found)):
                return True
    return False
