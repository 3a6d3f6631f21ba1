"""Changes of scene: where the sound of the next seconds is no longer that of the last."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from silent2music.acoustics.profile import Boundary, Event
from silent2music.acoustics.spectra import CURVE_RATE_HZ, FRAME_RATE, N_BANDS

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]

LASTING_SECONDS, ABRUPT_SECONDS, MIN_SIDE_SECONDS = 6.0, 1.2, 3.0
"""A change of scene lasts, and comes at once: both scales must see it, so that a swell or a passing sound is none."""
ABRUPT_WEIGHT = 0.8
STEP_SECONDS = 0.5
SPECTRAL_THRESHOLD = 1.6
DENSITY_THRESHOLD = 12.0
MIN_DISTANCE_SECONDS = 3.0
SPREAD_FLOOR_DB = 1.0
MAX_DISTANCE = 6.0
CHUNK = 3000


def find_boundaries(bands: Float32Array, events: tuple[Event, ...]) -> tuple[Boundary, ...]:
    """Peaks of the distance between the two sides of a time, in background spectrum or in event density."""
    per_cell = int(FRAME_RATE / CURVE_RATE_HZ)
    n_cells = len(bands) // per_cell
    if n_cells < 2 * _cells(MIN_SIDE_SECONDS):
        return ()
    cells = bands[: n_cells * per_cell].reshape(n_cells, per_cell, N_BANDS)
    background = 10.0 * np.log10(np.median(cells, axis=1) + 1e-12)
    lasting = _spectral_distance(background, _cells(LASTING_SECONDS))
    abrupt = _spectral_distance(background, _cells(ABRUPT_SECONDS))
    step = _step(background)
    found = [
        (_nearby_maximum(step, seconds), confidence)
        for seconds, confidence in _peaks(np.minimum(lasting, ABRUPT_WEIGHT * abrupt), SPECTRAL_THRESHOLD)
    ]
    for seconds, confidence in _peaks(_density_distance(events, n_cells), DENSITY_THRESHOLD):
        if all(abs(seconds - other) >= MIN_DISTANCE_SECONDS for other, _ in found):
            found.append((seconds, confidence))
    return tuple(Boundary(seconds, confidence) for seconds, confidence in sorted(found))


def _cells(seconds: float) -> int:
    return int(seconds * CURVE_RATE_HZ)


def _spectral_distance(background: FloatArray, side: int) -> FloatArray:
    """`[n + 1]` RMS over bands of the difference between the sides in units of the spread within them.

    The level of a side is the 30th percentile of its cells and its spread what lies between the 10th and the
    50th: events and their decays hardly move either.
    """
    n = len(background)
    padded = np.pad(background, ((side, side), (0, 0)), constant_values=np.nan)
    views = np.lib.stride_tricks.sliding_window_view(padded, side, axis=0)
    n_inside = np.minimum(np.minimum(np.arange(len(views)), side), n + side - np.arange(len(views)))
    level, spread = np.empty((len(views), N_BANDS)), np.empty((len(views), N_BANDS))
    for start in range(0, len(views), CHUNK):
        # NaN sorts last, so that the first `n_inside` are the cells of the recording.
        ordered = np.sort(views[start : start + CHUNK], axis=2)
        count = n_inside[start : start + CHUNK]

        def percentile(p: float, ordered: FloatArray = ordered, count: IntArray = count) -> FloatArray:
            at = np.round(p / 100 * np.maximum(count - 1, 0)).astype(np.int64)
            return np.asarray(ordered[np.arange(len(at)), :, at])

        level[start : start + CHUNK] = percentile(30)
        spread[start : start + CHUNK] = (percentile(50) - percentile(10)) / 1.28
    at = np.arange(_cells(MIN_SIDE_SECONDS), n - _cells(MIN_SIDE_SECONDS) + 1)
    within = np.sqrt((spread[at] ** 2 + spread[at + side] ** 2) / 2 + SPREAD_FLOOR_DB**2)
    distance = np.minimum(np.abs(level[at + side] - level[at]) / within, MAX_DISTANCE)
    out = np.zeros(n + 1)
    out[at] = np.sqrt(np.mean(distance**2, axis=1))
    return out


def _step(background: FloatArray) -> FloatArray:
    """`[n + 1]` mean over bands of the difference between the medians of 0.5 s on both sides, in dB."""
    half = _cells(STEP_SECONDS)
    padded = np.pad(background, ((half, half), (0, 0)), mode="edge")
    medians = np.median(np.lib.stride_tricks.sliding_window_view(padded, half, axis=0), axis=2)
    return np.asarray(np.abs(medians[half:] - medians[:-half]).mean(axis=1))


def _nearby_maximum(step: FloatArray, seconds: float) -> float:
    at, reach = round(seconds * CURVE_RATE_HZ), _cells(ABRUPT_SECONDS) - 2
    start = max(0, at - reach)
    return (start + int(np.argmax(step[start : at + reach + 1]))) / CURVE_RATE_HZ


def _density_distance(events: tuple[Event, ...], n_cells: int) -> FloatArray:
    """`[n_cells + 1]` log likelihood ratio (deviance) of two rates of events against one, both Poisson."""
    times = [e.seconds for e in events if e.confidence > 0.5]
    counts = np.histogram(times, bins=np.arange(n_cells + 1) / CURVE_RATE_HZ)[0]
    total = np.concatenate([[0.0], np.cumsum(counts)])
    side, least = _cells(LASTING_SECONDS), _cells(MIN_SIDE_SECONDS)
    at = np.arange(least, n_cells - least + 1)
    start, end = np.maximum(at - side, 0), np.minimum(at + side, n_cells)
    left, right = total[at] - total[start], total[end] - total[at]
    share = (at - start) / (end - start)
    out = np.zeros(n_cells + 1)
    for count, part in ((left, share), (right, 1 - share)):
        out[at] += 2 * count * np.log(np.maximum(count, 1e-9) / np.maximum((left + right) * part, 1e-9))
    return out


def _peaks(curve: FloatArray, threshold: float) -> list[tuple[float, float]]:
    """Times (s) and confidences of the peaks over a threshold: 0.3 at the threshold, 0.8 at twice that."""
    from scipy.signal import find_peaks

    peaks, _ = find_peaks(curve, height=threshold, distance=_cells(MIN_DISTANCE_SECONDS))
    confidences = 1.0 - np.exp(-1.25 * (curve[peaks] / threshold - 0.715))
    return [(float(p) / CURVE_RATE_HZ, float(c)) for p, c in zip(peaks, confidences, strict=True)]
