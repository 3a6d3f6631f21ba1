"""Onset detection: transients over a noise floor."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from silent2music.acoustics.peaks import find_peaks
from silent2music.acoustics.profile import Event
from silent2music.acoustics.spectra import ANALYSIS_RATE, FRAME_RATE, HOP, Signal, running_percentile
from silent2music.arrays import DoubleArray, FloatArray

REFRACTORY_SECONDS = 0.07
EVENT_THRESHOLD = 4.5
"""Robust standard deviations by which the onset function must stand out of its surroundings."""
NARROW_WEIGHT = 0.5
"""Weight of a rise in three neighbouring bands against one over all bands: the best of many is often high by chance."""
MIN_STRENGTH_DB = 3.0
MAX_STRENGTH_DB = 90.0

ONSET_SHARE = 0.1
"""Share of the energy at a transient's peak at which it starts."""
PIECE_FRAMES, PIECE_MARGIN_FRAMES = 12_000, 2_400
"""Frames that are processed at a time (one minute), and the margin on either side of them."""
BANDS_AT_ONCE = 6
"""Bands whose rises are computed together: all of them at once take 20 MiB."""
FINE_WINDOW, FINE_STEP = 96, 24
"""Windows of 4 ms every 1 ms, for the time of an onset."""


class Onsets(NamedTuple):
    """The onset detection function, with the bands' rises and noise floors in frames that may hold an event.

    Attributes:
        function: `[T]` in robust standard deviations.
        frames: `[n]` those above `EVENT_THRESHOLD`, in order.
        rises: `[n, B]` the same as the function, for each band of these frames.
        floor: `[n, B]` in dB.
    """

    function: DoubleArray
    frames: NDArray[np.intp]
    rises: FloatArray
    floor: FloatArray


def onset_function(bands: FloatArray) -> Onsets:
    """Onset detection function: log spectral flux over a running noise floor, of all bands or of the best three.

    A band's rise is measured in units of that band's usual fluctuation, so that rain, a rattling fan or 16-bit steps
    give no events, and a knock in a few bands still does.

    Args:
        bands: `[T, B]` band powers.
    """
    parts = []
    for start in range(0, len(bands), PIECE_FRAMES):
        onset, rises, floor = _onset_piece(bands, start)
        high = np.flatnonzero(onset >= EVENT_THRESHOLD)
        parts.append(Onsets(onset, start + high, rises[high], floor[high]))
    return Onsets(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _onset_piece(bands: FloatArray, start: int) -> tuple[DoubleArray, FloatArray, FloatArray]:
    """`onset [T]`, `rises [T, B]` and `floor [T, B]` of one piece; margins on both sides make them those of the whole."""
    before = min(start, PIECE_MARGIN_FRAMES)
    piece = bands[start - before : start + PIECE_FRAMES + PIECE_MARGIN_FRAMES]
    rises, floor = np.empty(piece.shape), np.empty(piece.shape, np.float32)
    for band in range(0, piece.shape[1], BANDS_AT_ONCE):
        some = slice(band, band + BANDS_AT_ONCE)
        log_db = 10.0 * np.log10(piece[:, some].astype(np.float64) + 1e-30)
        level = running_percentile(log_db, 50, 9, 40)
        rise = _rise(10.0 * np.log10(1.0 + 10.0 ** ((log_db - level) / 10.0)))
        spread = np.maximum(1.4826 * running_percentile(np.abs(rise), 200, 5, 50), 0.5)
        rises[:, some], floor[:, some] = rise / spread, level
    # Bands that fall count against, those that rise more than anything does not more than enough.
    held = np.clip(rises, -2.0, 12.0)
    total = held.sum(axis=1)
    centre = running_percentile(total, 200, 5, 50)
    deviation = np.maximum(1.4826 * running_percentile(np.abs(total - centre), 200, 5, 50), 1.5)
    narrow = ((held[:, :-2] + held[:, 1:-1] + held[:, 2:]) / np.sqrt(3.0)).max(axis=1)
    onset = np.maximum((total - centre) / deviation, NARROW_WEIGHT * narrow)
    own = slice(before, before + PIECE_FRAMES)
    return onset[own], rises[own].astype(np.float32), floor[own]


def _rise(excess: DoubleArray) -> DoubleArray:
    """How much each band rises, `[T, B]`: the mean of the next 25 ms less that of 40 ms that ended 15 ms before.

    The gap is half an analysis window: what lies in it hears both sides.
    """
    n_after, gap, n_before = 5, 2, 8
    padded = np.pad(excess, ((n_before + gap + 1, n_after - 1), (0, 0)), mode="symmetric")
    sums = np.cumsum(padded, axis=0)
    n, at = len(excess), n_before + gap
    after = (sums[at + n_after : at + n_after + n] - sums[at : at + n]) / n_after
    before = (sums[n_before : n_before + n] - sums[:n]) / n_before
    return np.asarray(after - before, dtype=np.float64)


def find_events(signal: Signal, bands: FloatArray, onsets: Onsets) -> tuple[Event, ...]:
    """Peaks of the onset function that stand above the floor, with their times refined."""
    onset = onsets.function
    peaks = find_peaks(onset, EVENT_THRESHOLD, int(REFRACTORY_SECONDS * FRAME_RATE))
    events: list[Event] = []
    for peak, at in zip(peaks, np.searchsorted(onsets.frames, peaks), strict=True):
        rising = onsets.rises[at] > 1.5
        # The mirrored ends have a kink there that is no event.
        if not 3 <= peak < len(onset) - 3 or not rising.any():
            continue
        after = bands[peak : peak + 6, rising].sum(axis=1, dtype=np.float64).max()
        floor_power = (10.0 ** (onsets.floor[at, rising].astype(np.float64) / 10.0)).sum()
        strength_db = 10.0 * float(np.log10(after / floor_power + 1e-12))
        if strength_db < MIN_STRENGTH_DB:
            continue
        confidence = 1.0 / (1.0 + np.exp(-(onset[peak] - 1.5 * EVENT_THRESHOLD) / EVENT_THRESHOLD * 2.5))
        seconds = _refined_onset(signal, int(peak) * HOP) / ANALYSIS_RATE
        if events and seconds - events[-1].seconds < REFRACTORY_SECONDS / 2:
            continue
        events.append(Event(float(seconds), min(strength_db, MAX_STRENGTH_DB), float(confidence)))
    return tuple(events)


def _refined_onset(signal: Signal, centre: int) -> int:
    """The sample at which the fine energy, whitened by what came just before, starts to rise.

    Searched from 30 ms before to 25 ms after the coarse onset `centre`.
    """
    from scipy.fft import rfft

    start = max(0, centre - 2 * FINE_WINDOW - int(0.060 * ANALYSIS_RATE))
    piece = signal.slice(start, centre + int(0.030 * ANALYSIS_RATE))
    if len(piece) < FINE_WINDOW + 8 * FINE_STEP:
        return min(max(0, centre), signal.size - 1)
    views = np.lib.stride_tricks.sliding_window_view(piece, FINE_WINDOW)[::FINE_STEP]
    power = np.abs(rfft(views * np.hanning(FINE_WINDOW).astype(np.float32), axis=1)) ** 2
    at = (centre - start - FINE_WINDOW // 2) // FINE_STEP
    n_before = max(4, at - 30)
    noise = power[:n_before].mean(axis=0) + 1e-6 * power.max()
    # Frequencies that have risen count, the others do not: a dull knock lies in few of them.
    gained = np.maximum(power[at : at + 25].mean(axis=0) / noise - 1.0, 0.0)
    weights = gained / (1.0 + gained) + 1e-3
    energy = (power / noise) @ (weights / weights.sum())
    base = float(energy[:n_before].mean())
    peak = n_before + int(np.argmax(energy[n_before:]))
    bar = max(base + ONSET_SHARE * (energy[peak] - base), 2.0 * base)
    above = energy[n_before : peak + 1] > bar
    # The first of the unbroken run up to the peak; gaps under 6 ms do not break it.
    first = peak - n_before
    for i in range(peak - n_before, -1, -1):
        if above[i]:
            first = i
        elif first - i > 6:
            break
    return start + (n_before + first) * FINE_STEP + FINE_WINDOW // 2
