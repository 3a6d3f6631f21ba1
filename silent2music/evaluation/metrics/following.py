"""Does the music follow the room? Onsets, tempo, energy, boundaries and retrieval.

Times are seconds, ascending. The reference is the room's side, the estimate is the music's.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


class MatchScores(NamedTuple):
    """Of a one-to-one matching: share of the reference met, share of the estimate that meets, harmonic mean."""

    hit_rate: float
    precision: float
    f_measure: float


class LorisScores(NamedTuple):
    """Beats coverage score, beats hit score and their harmonic mean."""

    bcs: float
    bhs: float
    f1: float


class TempoAgreement(NamedTuple):
    """Each 1.0 or 0.0: within 4 % or 8 %, as it stands or with half and double allowed."""

    within_4_percent: float
    within_8_percent: float
    within_4_percent_octave: float
    within_8_percent_octave: float


class EnergyCorrelation(NamedTuple):
    """Correlations in -1 to 1, each at its best lag, and the lag of Pearson's in seconds (music late: > 0)."""

    pearson: float
    spearman: float
    lag_seconds: float


class RetrievalScores(NamedTuple):
    """Share of queries whose own item comes first or among the first five, mean reciprocal rank; and by chance."""

    recall_at_1: float
    recall_at_5: float
    mean_reciprocal_rank: float
    chance_recall_at_1: float
    chance_recall_at_5: float
    chance_mean_reciprocal_rank: float


def validate_times(reference_seconds: FloatArray, estimated_seconds: FloatArray) -> bool:
    """Check two lists of times; True where both have entries.

    Warns:
        UserWarning: where a list is empty; the metric is then its worst.

    Raises:
        ValueError: if a list is not one-dimensional, not finite, negative or not ascending.
    """
    for name, times in (("reference", reference_seconds), ("estimated", estimated_seconds)):
        if times.ndim != 1 or not np.isfinite(times).all() or (times < 0).any() or (np.diff(times) < 0).any():
            raise ValueError(
                f"{name} times must be one ascending list of finite seconds >= 0, got {times!r}."
            )
        if times.size == 0:
            warnings.warn(f"{name} times are empty; the score is 0.", stacklevel=3)
    return bool(reference_seconds.size and estimated_seconds.size)


def onset_scores(
    reference_onset_seconds: FloatArray, estimated_onset_seconds: FloatArray, window_seconds: float = 0.05
) -> MatchScores:
    """Hit rate, precision and F of onsets, matched one to one within ±50 ms.

    `mir_eval.onset.f_measure` (Raffel et al., "mir_eval", ISMIR 2014), its recall called hit rate: the share of
    the room's events that meet a note.

    Example:
        >>> onset_scores(np.array([1.0, 2.0]), np.array([1.04, 3.0]))
        MatchScores(hit_rate=0.5, precision=0.5, f_measure=0.5)
    """
    import mir_eval

    if not validate_times(reference_onset_seconds, estimated_onset_seconds):
        return MatchScores(0.0, 0.0, 0.0)
    f_measure, precision, recall = mir_eval.onset.f_measure(
        reference_onset_seconds, estimated_onset_seconds, window=window_seconds
    )
    return MatchScores(float(recall), float(precision), float(f_measure))


def loris_beat_scores(
    reference_onset_seconds: FloatArray, estimated_onset_seconds: FloatArray, seconds: float
) -> LorisScores:
    """BCS and BHS in the definition of LORIS: onsets put into bins of 1 s, a bin counted once.

    BCS is hit bins over the music's bins, BHS hit bins over the reference's (Yu et al., "Long-term rhythmic video
    soundtracker", ICML 2023, after Zhu et al., D2M-GAN, 2022). A bin of 1 s is coarse: dense music scores high
    against anything, so read it only beside `onset_scores` and a shuffled null.

    Args:
        reference_onset_seconds: onsets of the reference.
        estimated_onset_seconds: onsets of the music.
        seconds: duration of both; later onsets are left out.
    """
    if not validate_times(reference_onset_seconds, estimated_onset_seconds):
        return LorisScores(0.0, 0.0, 0.0)
    n_bins = max(1, int(np.ceil(seconds)))
    reference, estimated = (
        np.bincount(times[times < n_bins].astype(int), minlength=n_bins) > 0
        for times in (reference_onset_seconds, estimated_onset_seconds)
    )
    n_hits = int((reference & estimated).sum())
    bcs, bhs = n_hits / max(1, int(estimated.sum())), n_hits / max(1, int(reference.sum()))
    return LorisScores(bcs, bhs, 2 * bcs * bhs / (bcs + bhs) if n_hits else 0.0)


def validate_tempi(reference_bpm: float | None, estimated_bpm: float | None) -> bool:
    """Check two tempi; True where both are known.

    Warns:
        UserWarning: where one is None; the metric is then its worst.

    Raises:
        ValueError: if a tempo is not finite and positive.
    """
    for name, bpm in (("reference", reference_bpm), ("estimated", estimated_bpm)):
        if bpm is None:
            warnings.warn(f"{name} tempo is not known; the score is 0.", stacklevel=3)
        elif not (np.isfinite(bpm) and bpm > 0):
            raise ValueError(f"{name} tempo must be finite and positive, got {bpm} bpm.")
    return reference_bpm is not None and estimated_bpm is not None


def tempo_agreement(reference_bpm: float | None, estimated_bpm: float | None) -> TempoAgreement:
    """Whether tempi agree within 4 % (accuracy 1) or 8 %, and with half and double allowed (accuracy 2, octaves).

    Gouyon et al., "An experimental comparison of audio tempo induction algorithms", IEEE TASLP 14(5), 2006,
    without their ratios of three.

    Example:
        >>> tempo_agreement(100.0, 52.0)
        TempoAgreement(within_4_percent=0.0, within_8_percent=0.0, within_4_percent_octave=1.0, \
within_8_percent_octave=1.0)
    """
    if not validate_tempi(reference_bpm, estimated_bpm) or reference_bpm is None or estimated_bpm is None:
        return TempoAgreement(0.0, 0.0, 0.0, 0.0)
    strict = abs(estimated_bpm / reference_bpm - 1.0)
    octave = min(abs(estimated_bpm / (reference_bpm * factor) - 1.0) for factor in (0.5, 1.0, 2.0))
    edge = 1e-9
    return TempoAgreement(*(float(error <= t + edge) for error in (strict, octave) for t in (0.04, 0.08)))


def validate_curves(reference_db: FloatArray, estimated_db: FloatArray) -> bool:
    """Check two energy curves; True where both have at least 3 frames and vary.

    Warns:
        UserWarning: where a curve is too short or constant; the metric is then its worst.

    Raises:
        ValueError: if a curve is not one-dimensional or not finite.
    """
    for name, curve in (("reference", reference_db), ("estimated", estimated_db)):
        if curve.ndim != 1 or not np.isfinite(curve).all():
            raise ValueError(
                f"{name} curve must be one list of finite levels in dB, got shape {curve.shape}."
            )
        if curve.size < 3 or np.ptp(curve) < 1e-9:
            warnings.warn(f"{name} curve is too short or constant; the score is 0.", stacklevel=3)
    return all(curve.size >= 3 and np.ptp(curve) >= 1e-9 for curve in (reference_db, estimated_db))


def energy_correlation(
    reference_db: FloatArray,
    estimated_db: FloatArray,
    rate_hz: float = 10.0,
    max_lag_seconds: float = 1.0,
    range_db: float = 60.0,
    ranked: bool = True,
) -> EnergyCorrelation:
    """Pearson and Spearman correlation of level in dB per frame, each at its best lag within ±1 s.

    Levels more than `range_db` below a curve's own maximum count as that far below, so that a rest in the music
    weighs as silence and not as the number of zeros in it. Independent curves score above 0 because the lag is
    chosen: compare with a shuffled null. 0 where a curve is constant, as nothing follows or is followed there.

    Args:
        reference_db: `[F]` of the room; estimated_db: `[G]` of the music; the longer one is cut.
        rate_hz: frames per second of both.
        max_lag_seconds: how far the music may be early or late.
        range_db: dynamic range that counts.
        ranked: whether to compute Spearman's too, which takes nearly all of the time; else it is NaN.
    """
    n_frames = min(reference_db.size, estimated_db.size)
    if not validate_curves(reference_db[:n_frames], estimated_db[:n_frames]):
        return EnergyCorrelation(0.0, 0.0, 0.0)
    reference, estimated = (
        np.maximum(curve[:n_frames], curve[:n_frames].max() - range_db)
        for curve in (reference_db, estimated_db)
    )
    max_lag = min(round(max_lag_seconds * rate_hz), n_frames // 2)
    # Nearest lag first, so that of two equal ones the nearer is reported.
    lags = sorted(range(-max_lag, max_lag + 1), key=abs)
    overlaps = [_shifted(reference, estimated, lag) for lag in lags]
    pearson = [_pearson(*overlap) for overlap in overlaps]
    spearman = max(_pearson(*map(_rank, overlap)) for overlap in overlaps) if ranked else float("nan")
    best = int(np.argmax(pearson))
    return EnergyCorrelation(pearson[best], spearman, lags[best] / rate_hz)


def _shifted(reference: FloatArray, estimated: FloatArray, lag: int) -> tuple[FloatArray, FloatArray]:
    """The overlapping parts when the estimate is `lag` frames late."""
    n = reference.size
    return reference[max(0, -lag) : n - max(0, lag)], estimated[max(0, lag) : n - max(0, -lag)]


def _rank(values: FloatArray) -> FloatArray:
    """Ranks, ties sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - 0.5 * (counts - 1))[inverse], np.float64)


def _pearson(x: FloatArray, y: FloatArray) -> float:
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 1e-12 else 0.0


def boundary_scores(
    reference_boundary_seconds: FloatArray,
    estimated_boundary_seconds: FloatArray,
    seconds: float,
    window_seconds: float = 0.5,
) -> MatchScores:
    """Hit rate, precision and F of section boundaries, start and end of the piece left out.

    `mir_eval.segment.detection(trim=True)`; windows of 0.5 s (Turnbull et al., ISMIR 2007) and 3 s (Levy and
    Sandler, IEEE TASLP 2008) are usual.

    Args:
        reference_boundary_seconds: boundaries strictly inside the recording.
        estimated_boundary_seconds: likewise of the music.
        seconds: duration of both.
        window_seconds: tolerance either way.
    """
    import mir_eval

    if not validate_times(reference_boundary_seconds, estimated_boundary_seconds):
        return MatchScores(0.0, 0.0, 0.0)
    intervals = []
    for times in (reference_boundary_seconds, estimated_boundary_seconds):
        inside = np.unique(times[(times > 0) & (times < seconds)])
        intervals.append(mir_eval.util.boundaries_to_intervals(np.concatenate([[0.0], inside, [seconds]])))
    precision, recall, f_measure = mir_eval.segment.detection(*intervals, window=window_seconds, trim=True)
    return MatchScores(float(recall), float(precision), float(f_measure))


def validate_similarities(similarities: FloatArray) -> bool:
    """Check a square matrix of similarities; True where it has entries.

    Warns:
        UserWarning: where it is empty; the metric is then its worst.

    Raises:
        ValueError: if it is not square or not finite.
    """
    if similarities.ndim != 2 or similarities.shape[0] != similarities.shape[1]:
        raise ValueError(f"similarities must be [n, n], got shape {similarities.shape}.")
    if not np.isfinite(similarities).all():
        raise ValueError("similarities must be finite.")
    if similarities.size == 0:
        warnings.warn("similarities are empty; the score is 0.", stacklevel=3)
    return bool(similarities.size)


def ranks(similarities: FloatArray) -> FloatArray:
    """Rank, from 1, of the true item for each query, the true item being on the diagonal.

    Ties take their middle rank, so that a judge that says the same of everything is at chance and not first.

    Args:
        similarities: `[n, n]`, row = query (music), column = item (room), larger = more alike.
    """
    own = np.diagonal(similarities)[:, None]
    return np.asarray(
        1.0 + (similarities > own).sum(axis=1) + 0.5 * ((similarities == own).sum(axis=1) - 1.0)
    )


def retrieval_scores(similarities: FloatArray) -> RetrievalScores:
    """R@1, R@5 and MRR of finding the room from the music, with what chance would give.

    Args:
        similarities: `[n, n]` as in `ranks`.
    """
    if not validate_similarities(similarities):
        return RetrievalScores(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    found = ranks(similarities)
    n = found.size
    harmonic = float(np.mean(1.0 / np.arange(1, n + 1)))
    return RetrievalScores(
        float((found <= 1.0).mean()),
        float((found <= 5.0).mean()),
        float((1.0 / found).mean()),
        1.0 / n,
        min(1.0, 5.0 / n),
        harmonic,
    )
