"""Changes of scene: where the sound of the next seconds is no longer that of the last."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from silent2music.acoustics.peaks import find_peaks
from silent2music.acoustics.profile import Boundary, Event
from silent2music.acoustics.spectra import FRAME_RATE, N_BANDS
from silent2music.arrays import DoubleArray, FloatArray, IntArray

CELL_RATE_HZ = 20.0
LASTING_SECONDS, SIDE_SECONDS, COLOUR_SECONDS, ABRUPT_SECONDS = 6.0, 3.0, 1.5, 0.8
"""Time on either side that each feature compares: a change of scene is abrupt, and lasts."""

EVENT_SECONDS = 1.0
"""A shorter rise is an event and not part of the background."""

USUAL_SECONDS = 60.0
"""Evidence is compared with its median over about this time."""

MIN_SIDE_SECONDS = 3.0
MIN_DISTANCE_SECONDS = 3.0
SPREAD_FLOOR_DB = 1.0
VARIANCE_FLOOR_DB2 = 4.0
MAX_DISTANCE, MAX_STEP_DB = 6.0, 12.0
DENSITY_THRESHOLD = 12.0
CHUNK = 200
PIECE_CELLS = 12_000
"""Cells whose evidence is computed at a time (ten minutes)."""

WEIGHTS = {
    "abrupt": 2.4,
    "colour": 2.2,
    "distance": 5.0,
    "likelihood": 2.8,
    "floor_drift": -1.5,
    "level_drift": -1.3,
    "peak_drift": -1.0,
}
BIAS = -9.65
"""Intercept of a logistic regression on the logarithms of `evidence`, fitted to 188 built scenes with known changes."""

MIN_CONFIDENCE = 0.2
"""At this probability about as many changes are missed as are found wrongly."""


def change_probability(bands: FloatArray) -> DoubleArray:
    """`[n + 1]` the probability that the scene changes at each border of n cells; nothing of a sound too short to tell.

    Evidence for a change is a step in single bands that is abrupt and lasts. Evidence against it is a level that drifts
    on both sides in all bands alike: a gust or a swell. A gust that rises 6 dB or more within two seconds of an otherwise
    even background is still taken for two changes.

    Args:
        bands: `[T, N_BANDS]` band powers at `FRAME_RATE`.
    """
    per_cell, edge = int(FRAME_RATE / CELL_RATE_HZ), _cells(MIN_SIDE_SECONDS)
    n_cells = len(bands) // per_cell
    if n_cells < 2 * edge:
        return np.zeros(0)
    logit = np.full(n_cells + 1, BIAS)
    cells = bands[: n_cells * per_cell].reshape(n_cells, per_cell, N_BANDS)
    for name, curve in _evidence_by_pieces(cells).items():
        logit += WEIGHTS[name] * np.log((curve + 0.5) / (_running_median(curve, edge) + 0.5))
    return np.asarray(1.0 / (1.0 + np.exp(-logit)))


def find_boundaries(probability: DoubleArray, events: tuple[Event, ...]) -> tuple[Boundary, ...]:
    """Changes of scene: times at which the sound changes abruptly and for good, with the probability of a change.

    Where the background stays the same, a change is also where the rate of events changes.

    Args:
        probability: as `change_probability` gives it, which is changed.
    """
    n_cells, edge = len(probability) - 1, _cells(MIN_SIDE_SECONDS)
    if n_cells < 0:
        return ()
    density = _density_distance(events, n_cells)
    found: list[Boundary] = []
    for curve, threshold in ((probability, MIN_CONFIDENCE), (density, DENSITY_THRESHOLD)):
        curve[:edge] = curve[n_cells - edge + 1 :] = 0.0
        for at in find_peaks(curve, threshold, _cells(MIN_DISTANCE_SECONDS)):
            seconds = int(at) / CELL_RATE_HZ
            if all(abs(seconds - other.seconds) >= MIN_DISTANCE_SECONDS for other in found):
                sureness = curve[at] if curve is probability else 1.0 - np.exp(-curve[at] / DENSITY_THRESHOLD)
                found.append(Boundary(seconds, float(sureness)))
    return tuple(sorted(found, key=lambda boundary: boundary.seconds))


def _evidence_by_pieces(cells: FloatArray) -> dict[str, DoubleArray]:
    """`evidence`, computed piece by piece with margins, so that it equals that of the whole but for rounding."""
    margin, found = _cells(LASTING_SECONDS + 2 * EVENT_SECONDS), []
    starts = range(0, len(cells), PIECE_CELLS)
    for start in starts:
        before = min(start, margin)
        piece = evidence(cells[start - before : start + PIECE_CELLS + margin])
        # The border after the last cell is the last piece's; others leave theirs to the next.
        end = None if start == starts[-1] else before + PIECE_CELLS
        found.append({name: curve[before:end] for name, curve in piece.items()})
    return {name: np.concatenate([piece[name] for piece in found]) for name in found[0]}


def evidence(cells: FloatArray) -> dict[str, DoubleArray]:
    """Features of the logistic regression, one value for each border of two cells; about 1 to 10 at a change, >= 0.

    Args:
        cells: `[n, frames, N_BANDS]` band powers, `CELL_RATE_HZ` cells to the second.

    Returns:
        `[n + 1]` each, differences of the two sides:
        `abrupt`: step of the background, in dB, as far as it is seen both at once and for long, mean over bands;
        `colour`: how much the step differs from band to band, in dB;
        `distance`: difference in units of the spread within the sides, RMS over bands;
        `likelihood`: likelihood ratio of two Gaussians against one;
        `floor_drift`, `level_drift`, `peak_drift`: how much the background, the middle and the loud moments
        differ in level over all bands, in dB.
    """
    from scipy.ndimage import grey_opening

    quiet = 10.0 * np.log10(np.median(cells, axis=1) + 1e-12)
    loud = 10.0 * np.log10(np.mean(cells, axis=1) + 1e-12)
    # An opening takes away what rises for less than its length, and leaves steps where they are.
    background = grey_opening(quiet, (_cells(EVENT_SECONDS), 1), mode="nearest")
    (brief,) = _steps(background, ABRUPT_SECONDS, 30)
    (colour,) = _steps(background, COLOUR_SECONDS, 30)
    (lasting,) = _steps(background, LASTING_SECONDS, 20)
    level, peak = _steps(loud, LASTING_SECONDS, 50, 85)
    abrupt = np.where(brief * lasting > 0, np.minimum(np.abs(brief), np.abs(lasting)), 0.0)
    return {
        "abrupt": np.minimum(abrupt, MAX_STEP_DB).mean(axis=1),
        "colour": colour.std(axis=1),
        "distance": _distance(quiet),
        "likelihood": likelihood_ratio(loud, _cells(LASTING_SECONDS), VARIANCE_FLOOR_DB2)
        * 1.5
        * CELL_RATE_HZ,
        "floor_drift": np.abs(lasting.mean(axis=1)),
        "level_drift": np.abs(level.mean(axis=1)),
        "peak_drift": np.abs(peak.mean(axis=1)),
    }


def _cells(seconds: float) -> int:
    return int(seconds * CELL_RATE_HZ)


def _running_median(curve: DoubleArray, edge: int) -> DoubleArray:
    """`[n + 1]` medians of blocks of about `USUAL_SECONDS`, interpolated linearly; `edge` values at either end do not
    count."""
    inner = curve[edge : len(curve) - edge]
    n_blocks = max(1, len(inner) // _cells(USUAL_SECONDS))
    borders = np.linspace(0, len(inner), n_blocks + 1).astype(np.int64)
    medians = [float(np.median(inner[a:b])) for a, b in pairwise(borders)]
    return np.interp(np.arange(len(curve)) - edge, (borders[:-1] + borders[1:]) / 2, medians)


def _side_percentiles(
    values: DoubleArray, seconds: float, *percentiles: float
) -> tuple[DoubleArray, DoubleArray]:
    """`[P, n + 1, N_BANDS]` percentiles of what lies before, and after, each border of two cells; 0 of nothing."""
    side, n = _cells(seconds), len(values)
    padded = np.pad(values.astype(np.float32), ((side, side), (0, 0)), constant_values=np.nan)
    views = np.lib.stride_tricks.sliding_window_view(padded, side, axis=0)
    n_inside = np.minimum(np.minimum(np.arange(len(views)), side), n + side - np.arange(len(views)))
    out = np.zeros((len(percentiles), len(views), N_BANDS))
    for start in range(0, len(views), CHUNK):
        # NaN sorts last, so that the first `n_inside` are the cells of the recording.
        ordered = np.sort(views[start : start + CHUNK], axis=2)
        last = np.maximum(n_inside[start : start + CHUNK] - 1, 0)
        for row, percentile in zip(out, percentiles, strict=True):
            at = np.round(percentile / 100 * last).astype(np.int64)
            row[start : start + CHUNK] = ordered[np.arange(len(at)), :, at]
    out[:, n_inside == 0] = 0.0
    return out[:, : n + 1], out[:, side:]


def _steps(values: DoubleArray, seconds: float, *percentiles: float) -> DoubleArray:
    """`[P, n + 1, N_BANDS]` by how much the percentiles after each border exceed those before it."""
    left, right = _side_percentiles(values, seconds, *percentiles)
    return right - left


def _distance(quiet: DoubleArray) -> DoubleArray:
    """`[n + 1]` difference of the 30th percentiles in units of the spread, which is that from the 10th to the 50th.

    Events and their decays hardly move either.
    """
    (left_low, left, left_middle), (right_low, right, right_middle) = _side_percentiles(
        quiet, SIDE_SECONDS, 10, 30, 50
    )
    variance = (((left_middle - left_low) / 1.28) ** 2 + ((right_middle - right_low) / 1.28) ** 2) / 2
    distance = np.abs(right - left) / np.sqrt(variance + SPREAD_FLOOR_DB**2)
    return np.asarray(np.sqrt(np.mean(np.minimum(distance, MAX_DISTANCE) ** 2, axis=1)))


def likelihood_ratio(features: DoubleArray, window: int, variance_floor: float) -> DoubleArray:
    """Log likelihood of two Gaussians of diagonal covariance, one on each side, against a single one for both.

    Willsky and Jones, "A generalized likelihood ratio approach to the detection and estimation of jumps in
    linear systems", IEEE TAC 21(1), 1976. Where one side is shorter, the ratio counts for less.

    Args:
        features: `[T, D]`.
        window: frames that count on either side.
        variance_floor: added to the variance of every dimension.

    Returns:
        `[T + 1]`, at the border before each frame and after the last: per frame, mean over dimensions; 0 at both ends.
    """
    n = len(features)
    total, squares = (
        np.pad(np.cumsum(x, axis=0, dtype=np.float64), ((1, 0), (0, 0)))
        for x in (features, np.square(features, dtype=np.float64))
    )
    at = np.arange(n + 1)
    first, last = np.maximum(at - window, 0), np.minimum(at + window, n)

    def moments(start: IntArray, end: IntArray) -> tuple[DoubleArray, DoubleArray]:
        count = np.maximum(end - start, 1)[:, None]
        mean = (total[end] - total[start]) / count
        return mean, np.maximum((squares[end] - squares[start]) / count - mean**2, 0.0) + variance_floor

    (left, left_variance), (right, right_variance) = moments(first, at), moments(at, last)
    together = (left_variance + right_variance) / 2 + (right - left) ** 2 / 4
    ratio = np.log(together) - np.log(left_variance * right_variance) / 2
    return np.asarray(ratio.mean(axis=1) * np.minimum(at - first, last - at) / window)


def _density_distance(events: tuple[Event, ...], n_cells: int) -> DoubleArray:
    """`[n_cells + 1]` log likelihood ratio (deviance) of two rates of events against one, both Poisson."""
    times = np.array([e.seconds for e in events if e.confidence > 0.5])
    at = np.arange(n_cells + 1) / CELL_RATE_HZ
    start, end = (
        np.maximum(at - LASTING_SECONDS, 0.0),
        np.minimum(at + LASTING_SECONDS, n_cells / CELL_RATE_HZ),
    )
    before, now, after = (np.searchsorted(times, t) for t in (start, at, end))
    left, right = now - before, after - now
    share = (at - start) / (end - start)
    out = np.zeros(n_cells + 1)
    for count, part in ((left, share), (right, 1.0 - share)):
        out += 2 * count * np.log(np.maximum(count, 1e-9) / np.maximum((left + right) * part, 1e-9))
    return out
