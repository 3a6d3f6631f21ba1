"""Blind reverberation time from the free decays that follow events."""

from __future__ import annotations

import numpy as np

from silent2music.acoustics.profile import Event
from silent2music.acoustics.spectra import FRAME_RATE, N_BANDS
from silent2music.arrays import DoubleArray, FloatArray

MAX_DECAYS = 150
"""Number of decays that are fitted, the strongest first: more cost time and add no precision."""
MAX_DECAY_SECONDS = 5.0
MIN_GAP_SECONDS = 0.1
MIN_RANGE_DB = 6.0
START_DB = 4.0
START_FRAMES = 4
NOISE_MARGIN_DB = 3.0
MIN_DECAYS = 2

OCTAVES = ((11, 14), (14, 17), (17, 20), (8, 11), (5, 8), (2, 5))
"""Bands of each octave. The first three (1.2 to 12 kHz) decide if they have enough decays: they dominate the decay of
a broad-band impulse, and rooms hum below them. The others follow in this order."""
N_FIRST = 3
TOP_WEIGHT = 0.5

SHARE = 0.25
"""Quantile of the decays that is returned. A source that rings by itself, a second source or a swell lengthens a decay
and nothing shortens one, so the room's own is among the shorter ones."""


def find_decay(bands: FloatArray, events: tuple[Event, ...]) -> tuple[float | None, float]:
    """Blind RT60 in seconds, None without a usable decay, and its confidence, 0 to 1.

    Each octave of each event's decay is a straight line in dB between its peak and the noise, whose power is
    taken off first (after Lundeby et al. 1995); the answer is a weighted quantile over decays, which follows
    Lollmann et al. 2010, An improved algorithm for blind reverberation time estimation, in its use of many
    short decays.
    """
    rates, weights = np.zeros(0), np.zeros(0)
    for tier in (OCTAVES[:N_FIRST], OCTAVES[N_FIRST : N_FIRST + 1], OCTAVES[N_FIRST + 1 :]):
        for octave in tier:
            fits = _octave_decays(bands[:, slice(*octave)].sum(axis=1, dtype=np.float64), events)
            rates = np.append(rates, [rate for rate, _ in fits])
            top = TOP_WEIGHT if octave[1] == N_BANDS else 1.0
            weights = np.append(weights, [top * weight for _, weight in fits])
        if len(rates) >= MIN_DECAYS + 1:
            break
    if len(rates) < MIN_DECAYS:
        return None, 0.0
    times = np.log(60.0 / rates)
    order = np.argsort(times)
    share = np.cumsum(weights[order]) / weights.sum()
    answer, middle = (float(times[order][np.searchsorted(share, q)]) for q in (SHARE, 0.5))
    agreement = float(np.exp(-max(0.0, 2.0 * (middle - answer) - 0.2)))
    confidence = (1.0 - float(np.exp(-len(rates) / 8.0))) * agreement
    return float(np.clip(np.exp(answer), 0.05, 10.0)), float(np.clip(confidence, 0.0, 1.0))


def _octave_decays(power: DoubleArray, events: tuple[Event, ...]) -> list[tuple[float, float]]:
    """Rate in dB/s and weight of the usable decays in one octave's power `[T]`."""
    if len(power) <= 20:
        return []
    smooth = np.convolve(power, np.ones(3) / 3, mode="same")
    noise = float(np.percentile(np.convolve(power, np.ones(20) / 20, mode="valid"), 3))
    starts = [round(e.seconds * FRAME_RATE) for e in events]
    stops = [start - 4 for start in starts[1:]] + [len(power)]
    usable = [i for i in range(len(events)) if stops[i] - starts[i] > MIN_GAP_SECONDS * FRAME_RATE]
    strongest = sorted(usable, key=lambda i: -events[i].strength_db)[:MAX_DECAYS]
    longest = int(MAX_DECAY_SECONDS * FRAME_RATE)
    fits = (_fit_decay(smooth[starts[i] : min(stops[i], starts[i] + longest)], noise) for i in strongest)
    return [fit for fit in fits if fit is not None]


def _fit_decay(power: DoubleArray, noise: float) -> tuple[float, float] | None:
    """Rate in dB/s and weight of one decay, from just below its peak to just above the noise."""
    if len(power) < 12:
        return None
    peak = int(np.argmax(power[:16]))
    level = 10.0 * np.log10(np.maximum(power[peak:] - noise, 1e-3 * noise + 1e-30))
    ends = np.flatnonzero(level < 10.0 * np.log10(noise + 1e-30) + NOISE_MARGIN_DB)
    end = int(ends[0]) if len(ends) else len(level)
    begins = np.flatnonzero(level[:end] < level[0] - START_DB)
    if not len(begins) or end - max(begins[0], START_FRAMES) < 6:
        return None
    begin = max(int(begins[0]), START_FRAMES)
    reach_db = float(level[begin] - level[end - 4 : end].mean())
    if reach_db < MIN_RANGE_DB:
        return None
    t = np.arange(end - begin) / FRAME_RATE
    t -= t.mean()
    part = level[begin:end] - level[begin:end].mean()
    slope = float(t @ part / (t @ t))
    residual = part - slope * t
    if slope >= -5.0 or residual @ residual > 0.3 * (part @ part):
        return None
    return -slope, min(reach_db, 30.0) * float(np.sqrt(end - begin))
