"""Metrics of sound quality: distances between sets of features, and faults of a single piece.

Metrics in the shape of mir_eval, as in `following`: where there is nothing to score, they warn and are at their
worst.
"""

from __future__ import annotations

import warnings

import numpy as np

from silent2music.arrays import DoubleArray
from silent2music.evaluation.statistics import validate_values
from silent2music.keys import key_correlations

STILL_DB = 3.0
STILL_CENTS = 25.0
"""A partial stands still while its level and its pitch stay within these, from lowest to highest."""

HEARD_PARTIAL_DB = 40.0
"""Partials farther below the strongest of a piece do not count."""


def validate_features(reference_features: DoubleArray, estimated_features: DoubleArray) -> bool:
    """Whether both sets have at least two rows; they must be `[n, D]` of one D and finite."""
    sets = {"reference": reference_features, "estimated": estimated_features}
    for name, features in sets.items():
        if features.ndim != 2 or not np.isfinite(features).all():
            raise ValueError(f"{name} features must be [n, D] and finite, got shape {features.shape}.")
        if len(features) < 2:
            warnings.warn(
                f"{name} features have fewer than two rows; the distance is infinite.", stacklevel=3
            )
    widths = [features.shape[1] for features in sets.values()]
    if widths[0] != widths[1]:
        raise ValueError(f"features differ in width: {widths[0]} and {widths[1]}.")
    return min(map(len, sets.values())) >= 2


def frechet_distance(reference_features: DoubleArray, estimated_features: DoubleArray) -> float:
    """Fréchet distance of the Gaussians fitted to two sets, 0 (the same mean and covariance) upwards.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)): Dowson and Landau, Journal of Multivariate Analysis 12(3), 1982;
    for audio Kilgour et al., Interspeech 2019. Biased upwards for few rows: compare sets of one size only.

    Args:
        reference_features: `[n, D]`; estimated_features: `[m, D]`, on comparable scales.
    """
    if not validate_features(reference_features, estimated_features):
        return float("inf")
    from scipy.linalg import eigh

    mean_gap = reference_features.mean(axis=0) - estimated_features.mean(axis=0)
    first, second = (np.atleast_2d(np.cov(f, rowvar=False)) for f in (reference_features, estimated_features))
    values, vectors = eigh(first)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    # tr (C1 C2)^(1/2) = tr (C1^(1/2) C2 C1^(1/2))^(1/2), and that product is symmetric.
    cross = np.sqrt(np.maximum(eigh(root @ second @ root, eigvals_only=True), 0.0)).sum()
    return float(max(0.0, mean_gap @ mean_gap + np.trace(first) + np.trace(second) - 2.0 * cross))


def kernel_distance(
    reference_features: DoubleArray, estimated_features: DoubleArray, bandwidth: float | None = None
) -> float:
    """Kernel audio distance: 100 times the unbiased squared MMD under a Gaussian kernel.

    Chung et al., "KAD: no more FAD!", ICML 2025, with the unbiased estimator of Gretton et al., JMLR 13, 2012
    (eq. 3). Two halves of one set score about 0, at times a little below; a set against itself scores below 0.

    Args:
        reference_features: `[n, D]`; estimated_features: `[m, D]`, on comparable scales.
        bandwidth: of the kernel; the median distance between reference rows if not given.
    """
    if not validate_features(reference_features, estimated_features):
        return float("inf")
    from scipy.spatial.distance import cdist, pdist

    if bandwidth is None:
        bandwidth = float(np.median(pdist(reference_features))) or 1.0
    scale = -1.0 / (2.0 * bandwidth**2)

    def mean_kernel(a: DoubleArray, b: DoubleArray, n_pairs: int, n_same: int) -> float:
        return float((np.exp(scale * cdist(a, b, "sqeuclidean")).sum() - n_same) / n_pairs)

    n, m = reference_features.shape[0], estimated_features.shape[0]
    within = mean_kernel(reference_features, reference_features, n * (n - 1), n)
    within += mean_kernel(estimated_features, estimated_features, m * (m - 1), m)
    return 100.0 * (within - 2.0 * mean_kernel(reference_features, estimated_features, n * m, 0))


def evaluate_distances(
    reference_features: DoubleArray, estimated_features: DoubleArray
) -> dict[str, float] | None:
    """Both distances and the number of estimated rows, by name; None where a set has fewer than two rows."""
    if min(len(reference_features), len(estimated_features)) < 2:
        return None
    return {
        "frechet": frechet_distance(reference_features, estimated_features),
        "kernel": kernel_distance(reference_features, estimated_features),
        "n_rows": float(len(estimated_features)),
    }


def silent_share(energy_db: DoubleArray, threshold_dbfs: float = -60.0) -> float:
    """Share of frames whose level in dBFS is below the threshold, 0 to 1; 1 for nothing at all."""
    if not validate_values(energy_db):
        return 1.0
    return float((energy_db < threshold_dbfs).mean())


def clipping_share(samples: DoubleArray, ceiling: float = 0.999) -> float:
    """Share of samples in runs of two or more at or beyond the ceiling, 0 to 1.

    A single sample at full scale is a peak; a run is a flattened one.
    """
    if not validate_values(samples):
        return 1.0
    over = np.abs(samples) >= ceiling
    pairs = over[1:] & over[:-1]
    return float((np.append(pairs, False) | np.insert(pairs, 0, False)).mean())


def dc_offset_dbfs(samples: DoubleArray) -> float:
    """Level of the mean in dBFS, -120 or more; 0 for nothing at all."""
    if not validate_values(samples):
        return 0.0
    return float(20.0 * np.log10(max(abs(float(samples.mean())), 1e-6)))


def spectral_flatness(power: DoubleArray) -> float:
    """Geometric over arithmetic mean of the power spectrum, averaged over frames: 0 (a tone) to 1 (white noise).

    Johnston, IEEE JSAC 6(2), 1988. Frames 60 dB below the loudest do not count.

    Args:
        power: `[bins, frames]`.
    """
    if power.ndim != 2 or not validate_values(power.ravel()):
        return 1.0
    total = power.mean(axis=0)
    heard = total > total.max() * 1e-6
    if not heard.any():
        return 1.0
    log_mean = np.log(np.maximum(power[:, heard], 1e-12 * total.max())).mean(axis=0)
    return float((np.exp(log_mean) / total[heard]).mean())


def validate_power(power: DoubleArray) -> bool:
    """Whether any of a power spectrum sounds; it must be `[bins, frames]`, finite and not negative."""
    if power.ndim != 2 or not np.isfinite(power).all() or (power < 0).any():
        raise ValueError(f"power must be [bins, frames], finite and >= 0, got shape {power.shape}.")
    if not power.any():
        warnings.warn("the power spectrum is empty; the score is the worst.", stacklevel=3)
    return bool(power.any())


def longest_still_partial(power: DoubleArray, rate_hz: float, bin_hz: float) -> float:
    """Seconds for which one partial stays within `STILL_DB` and `STILL_CENTS`: a whistle that real music has not.

    Peaks of the spectrum, refined by a parabola in dB (Smith and Serra, PARSHL, ICMC 1987), are linked from frame
    to frame to the nearest within `STILL_CENTS`; of each line the longest still stretch counts. 0 for silence.

    Args:
        power: `[bins, frames]`; rate_hz: frames per second; bin_hz: distance of bins.
    """
    if not validate_power(power):
        return 0.0
    level = 10.0 * np.log10(np.maximum(power, power.max() * 1e-10))
    heard, limits = level.max() - HEARD_PARTIAL_DB, np.array([STILL_CENTS, STILL_DB])[:, None, None]
    lines = np.zeros((2, 0, 0))  # of each line pitch and level, the latest first, as far as it stood still
    longest = 0
    for column in np.ascontiguousarray(level.T):
        found = _peaks(column, heard, bin_hz)
        if not lines.shape[1]:
            lines = found[:, :, None]
            continue
        last = lines[0, :, 0]
        after = np.searchsorted(last, found[0])
        below, above = np.maximum(after - 1, 0), np.minimum(after, len(last) - 1)
        near = np.where(np.abs(last[below] - found[0]) <= np.abs(last[above] - found[0]), below, above)
        lines = np.concatenate([found[:, :, None], lines[:, near]], axis=2)
        # A stretch that is not still, or that is over (NaN), is cut off with all before it.
        span = np.maximum.accumulate(lines, axis=2) - np.minimum.accumulate(lines, axis=2)
        still = np.logical_and.accumulate((span <= limits).all(axis=0), axis=1)
        longest = max(longest, int(still.sum(axis=1).max(initial=0)))
        lines = np.where(still, lines, np.nan)[:, :, : max(1, int(still.any(axis=0).sum()))]
    return longest / rate_hz


def _peaks(column: DoubleArray, heard: float, bin_hz: float) -> DoubleArray:
    """`[2, n]` pitch in cents and level in dB of a spectrum's peaks from 50 Hz on, ascending."""
    left, middle, right = column[:-2], column[1:-1], column[2:]
    found = np.flatnonzero((middle > left) & (middle >= right) & (middle > heard))
    found = found[found + 1 >= 50.0 / bin_hz]
    rise, fall = middle[found] - left[found], middle[found] - right[found]
    shift = 0.5 * (rise - fall) / np.maximum(rise + fall, 1e-9)
    cents = 1200.0 * np.log2((found + 1 + shift) * bin_hz)
    return np.stack([cents, middle[found] + 0.25 * (rise - fall) * shift])


def spectral_likeness(power: DoubleArray, rate_hz: float, lag_seconds: float = 1.0) -> float:
    """How alike spectra a second apart are: mean cosine of their magnitudes, 0 to 1; 1 for silence.

    Pairs of frames in which one is 60 dB below the loudest do not count.

    Args:
        power: `[bins, frames]`; rate_hz: frames per second; lag_seconds: the distance.
    """
    if not validate_power(power):
        return 1.0
    lag = max(1, round(lag_seconds * rate_hz))
    total = power.sum(axis=0)
    magnitude = np.sqrt(power) / np.sqrt(np.maximum(total, 1e-30))
    sounds = total > total.max() * 1e-6
    both = sounds[lag:] & sounds[:-lag]
    return float((magnitude[:, lag:] * magnitude[:, :-lag]).sum(axis=0)[both].mean()) if both.any() else 0.0


def validate_chroma(chroma: DoubleArray) -> bool:
    """Whether any of a chromagram sounds; it must be `[12, F]`, finite and not negative."""
    if chroma.ndim != 2 or chroma.shape[0] != 12 or not np.isfinite(chroma).all() or (chroma < 0).any():
        raise ValueError(f"chroma must be [12, frames], finite and >= 0, got shape {chroma.shape}.")
    if not chroma.any():
        warnings.warn("chroma is empty; the score is the worst.", stacklevel=3)
    return bool(chroma.any())


def key_clarity(chroma: DoubleArray) -> float:
    """Correlation of the mean chroma with the best of the 24 key profiles, at most 1; 0 for silence.

    Krumhansl, "Cognitive foundations of musical pitch", Oxford 1990, ch. 4.

    Args:
        chroma: `[12, F]`, C first.
    """
    if not validate_chroma(chroma):
        return 0.0
    return float(key_correlations(chroma.mean(axis=1)).max())


def repetition(chroma: DoubleArray, rate_hz: float, min_lag_seconds: float = 2.0) -> float:
    """How exactly the piece repeats itself: highest mean cosine similarity over a lag, 0 to 1.

    The diagonal means of the self-similarity matrix (Foote, ACM Multimedia 1999) of deviations from the mean
    chroma, so that staying in a key is no repetition, and a loop is one. Lags run from `min_lag_seconds` to half
    of the piece; a piece too short for that counts as never repeated, and silence as a loop.

    Args:
        chroma: `[12, F]`; rate_hz: frames per second.
    """
    if not validate_chroma(chroma):
        return 1.0
    n_frames = chroma.shape[1]
    lags = np.arange(max(1, int(min_lag_seconds * rate_hz)), n_frames // 2 + 1)
    if lags.size == 0:
        return 0.0
    deviation = chroma - chroma.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(deviation, axis=0)
    if norms.max() < 1e-9:
        return 1.0
    deviation = deviation / np.maximum(norms, 1e-3 * norms.max())
    # The sums over all lags at once, as the autocorrelation of every chroma row.
    spectrum = np.fft.rfft(deviation, 2 * n_frames, axis=1)
    sums = np.fft.irfft(np.square(np.abs(spectrum)).sum(axis=0))[: n_frames // 2 + 1]
    return float(np.clip((sums[lags] / (n_frames - lags)).max(), 0.0, 1.0))
