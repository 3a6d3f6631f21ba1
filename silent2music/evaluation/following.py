"""Metrics of how far music follows its room: onsets, tempo, energy, boundaries and retrieval.

In the shape of mir_eval: every metric takes `reference_*` (the room's side) before `estimated_*` (the music's),
with the unit in the name, and scores identity best. Its `validate_*` is True where there is something to score;
else it warns, with a `UserWarning`, and the score is 0. Malformed input is a `ValueError`. Times are seconds,
ascending. `follow_scores` evaluates all of them on one piece of music.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from silent2music.acoustics import AcousticProfile, analyze
from silent2music.arrays import DoubleArray
from silent2music.audio import Waveform, read
from silent2music.errors import require
from silent2music.evaluation.features import MusicFeatures, music_features
from silent2music.score import ENERGY_RATE_HZ

RHYTHMIC_KINDS = ("steps", "machine", "muted")
"""Scene kinds whose events a listener would tap to."""

MIN_EVENTS = 4
"""Events that a room has at least if onsets and tempo are asked of it."""

CLEAR_EVENT_DB = 10.0
"""Above its noise floor: an event of an unlabelled recording that a listener would not miss."""

SCORES = (
    "onset_hit_rate",
    "onset_precision",
    "onset_f",
    "loris_bcs",
    "loris_bhs",
    "tempo_4",
    "tempo_8",
    "tempo_4_octave",
    "tempo_8_octave",
    "energy_pearson",
    "energy_spearman",
    "boundary_f_0.5",
    "boundary_f_3",
)
"""What `follow_scores` may give, in the order of a report."""


class MatchScores(NamedTuple):
    """Of a one-to-one matching: share of the reference met, share of the estimate that meets, harmonic mean."""

    hit_rate: float
    precision: float
    f_measure: float


class EnergyCorrelation(NamedTuple):
    """Correlations in -1 to 1, each at its best lag, and the lag of Pearson's in seconds (music late: > 0)."""

    pearson: float
    spearman: float
    lag_seconds: float


def validate_times(reference_seconds: DoubleArray, estimated_seconds: DoubleArray) -> bool:
    """Whether both lists have entries; they must be one-dimensional, finite, ascending and not negative."""
    for name, times in (("reference", reference_seconds), ("estimated", estimated_seconds)):
        if times.ndim != 1 or not np.isfinite(times).all() or (times < 0).any() or (np.diff(times) < 0).any():
            raise ValueError(
                f"{name} times must be one ascending list of finite seconds >= 0, got {times!r}."
            )
        if times.size == 0:
            warnings.warn(f"{name} times are empty; the score is 0.", stacklevel=3)
    return bool(reference_seconds.size and estimated_seconds.size)


def onset_scores(
    reference_onset_seconds: DoubleArray, estimated_onset_seconds: DoubleArray, window_seconds: float = 0.05
) -> MatchScores:
    """Hit rate, precision and F of onsets, matched one to one within ±50 ms.

    `mir_eval.onset.f_measure` (Raffel et al., "mir_eval", ISMIR 2014), its recall called hit rate: the share of
    the room's events that meet a note.

    Example:
        >>> onset_scores(np.array([1.0, 2.0]), np.array([1.04, 3.0]))
        MatchScores(hit_rate=0.5, precision=0.5, f_measure=0.5)
    """
    if not validate_times(reference_onset_seconds, estimated_onset_seconds):
        return MatchScores(0.0, 0.0, 0.0)
    f_measure, precision, recall = require("mir_eval", "eval").onset.f_measure(
        reference_onset_seconds, estimated_onset_seconds, window=window_seconds
    )
    return MatchScores(float(recall), float(precision), float(f_measure))


def loris_beat_scores(
    reference_onset_seconds: DoubleArray, estimated_onset_seconds: DoubleArray, seconds: float
) -> tuple[float, float]:
    """BCS and BHS, 0 to 1, in the definition of LORIS: onsets put into bins of 1 s, a bin counted once.

    BCS is hit bins over the music's bins, BHS hit bins over the reference's (Yu et al., "Long-term rhythmic video
    soundtracker", ICML 2023, after Zhu et al., D2M-GAN, 2022). A bin of 1 s is coarse: dense music scores high
    against anything, so read it only beside `onset_scores` and a shuffled null.

    Args:
        seconds: duration of both; later onsets are left out.
    """
    if not validate_times(reference_onset_seconds, estimated_onset_seconds):
        return 0.0, 0.0
    n_bins = max(1, int(np.ceil(seconds)))
    reference, estimated = (
        np.bincount(times[times < n_bins].astype(int), minlength=n_bins) > 0
        for times in (reference_onset_seconds, estimated_onset_seconds)
    )
    n_hits = int((reference & estimated).sum())
    return n_hits / max(1, int(estimated.sum())), n_hits / max(1, int(reference.sum()))


def validate_tempi(reference_bpm: float | None, estimated_bpm: float | None) -> bool:
    """Whether both tempi are known; they must be finite and positive."""
    for name, bpm in (("reference", reference_bpm), ("estimated", estimated_bpm)):
        if bpm is None:
            warnings.warn(f"{name} tempo is not known; the score is 0.", stacklevel=3)
        elif not (np.isfinite(bpm) and bpm > 0):
            raise ValueError(f"{name} tempo must be finite and positive, got {bpm} bpm.")
    return reference_bpm is not None and estimated_bpm is not None


def tempo_agreement(
    reference_bpm: float | None, estimated_bpm: float | None
) -> tuple[float, float, float, float]:
    """Whether tempi agree: within 4 % (accuracy 1), 8 %, and the same with half and double allowed (accuracy 2).

    Each is 1.0 or 0.0.
    Gouyon et al., "An experimental comparison of audio tempo induction algorithms", IEEE TASLP 14(5), 2006,
    without their ratios of three.

    Example:
        >>> tempo_agreement(100.0, 52.0)
        (0.0, 0.0, 1.0, 1.0)
    """
    if not validate_tempi(reference_bpm, estimated_bpm) or reference_bpm is None or estimated_bpm is None:
        return 0.0, 0.0, 0.0, 0.0
    edge, strict = 1e-9, abs(estimated_bpm / reference_bpm - 1.0)
    octave = min(abs(estimated_bpm / (reference_bpm * factor) - 1.0) for factor in (0.5, 1.0, 2.0))
    met = [float(error <= tolerance + edge) for error in (strict, octave) for tolerance in (0.04, 0.08)]
    return met[0], met[1], met[2], met[3]


def validate_curves(reference_db: DoubleArray, estimated_db: DoubleArray) -> bool:
    """Whether both curves have at least 3 frames and vary; they must be one-dimensional and finite."""
    for name, curve in (("reference", reference_db), ("estimated", estimated_db)):
        if curve.ndim != 1 or not np.isfinite(curve).all():
            raise ValueError(
                f"{name} curve must be one list of finite levels in dB, got shape {curve.shape}."
            )
        if curve.size < 3 or np.ptp(curve) < 1e-9:
            warnings.warn(f"{name} curve is too short or constant; the score is 0.", stacklevel=3)
    return all(curve.size >= 3 and np.ptp(curve) >= 1e-9 for curve in (reference_db, estimated_db))


def energy_correlation(
    reference_db: DoubleArray,
    estimated_db: DoubleArray,
    max_lag_seconds: float = 1.0,
    ranked: bool = True,
) -> EnergyCorrelation:
    """Pearson and Spearman correlation of level in dB per frame, each at its best lag within ±1 s.

    Levels more than 60 dB below a curve's own maximum count as that far below, so that a rest in the music
    weighs as silence and not as the number of zeros in it. Independent curves score above 0 because the lag is
    chosen: compare with a shuffled null. 0 where a curve is constant, as nothing follows or is followed there.

    Args:
        reference_db: `[F]` of the room at `ENERGY_RATE_HZ`; estimated_db: `[G]` of the music; the longer is cut.
        max_lag_seconds: how far the music may be early or late.
        ranked: whether to compute Spearman's too, which takes nearly all of the time; else it is NaN.
    """
    n_frames = min(reference_db.size, estimated_db.size)
    if not validate_curves(reference_db[:n_frames], estimated_db[:n_frames]):
        return EnergyCorrelation(0.0, 0.0, 0.0)
    reference, estimated = (
        np.maximum(curve[:n_frames], curve[:n_frames].max() - 60.0) for curve in (reference_db, estimated_db)
    )
    max_lag = min(round(max_lag_seconds * ENERGY_RATE_HZ), n_frames // 2)
    # Nearest lag first, so that of two equal ones the nearer is reported.
    lags = sorted(range(-max_lag, max_lag + 1), key=abs)
    overlaps = [_shifted(reference, estimated, lag) for lag in lags]
    pearson = [_pearson(*overlap) for overlap in overlaps]
    spearman = max(rank_correlation(*overlap) for overlap in overlaps) if ranked else float("nan")
    best = int(np.argmax(pearson))
    return EnergyCorrelation(pearson[best], spearman, lags[best] / ENERGY_RATE_HZ)


def _shifted(reference: DoubleArray, estimated: DoubleArray, lag: int) -> tuple[DoubleArray, DoubleArray]:
    """The overlapping parts when the estimate is `lag` frames late."""
    n = reference.size
    return reference[max(0, -lag) : n - max(0, lag)], estimated[max(0, lag) : n - max(0, -lag)]


def rank_correlation(x: DoubleArray, y: DoubleArray) -> float:
    """Spearman's correlation, ties sharing their mean rank; 0 where one is constant."""
    from scipy.stats import rankdata

    return _pearson(rankdata(x), rankdata(y))


def _pearson(x: DoubleArray, y: DoubleArray) -> float:
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 1e-12 else 0.0


def boundary_scores(
    reference_boundary_seconds: DoubleArray,
    estimated_boundary_seconds: DoubleArray,
    seconds: float,
    window_seconds: float = 0.5,
) -> MatchScores:
    """Hit rate, precision and F of section boundaries, start and end of the piece left out.

    `mir_eval.segment.detection(trim=True)`; windows of 0.5 s (Turnbull et al., ISMIR 2007) and 3 s (Levy and
    Sandler, IEEE TASLP 2008) are usual.
    """
    if not validate_times(reference_boundary_seconds, estimated_boundary_seconds):
        return MatchScores(0.0, 0.0, 0.0)
    mir_eval, intervals = require("mir_eval", "eval"), []
    for times in (reference_boundary_seconds, estimated_boundary_seconds):
        inside = np.unique(times[(times > 0) & (times < seconds)])
        intervals.append(mir_eval.util.boundaries_to_intervals(np.concatenate([[0.0], inside, [seconds]])))
    precision, recall, f_measure = mir_eval.segment.detection(*intervals, window=window_seconds, trim=True)
    return MatchScores(float(recall), float(precision), float(f_measure))


def validate_similarities(similarities: DoubleArray) -> bool:
    """Whether the matrix has entries; it must be square and finite."""
    if similarities.ndim != 2 or similarities.shape[0] != similarities.shape[1]:
        raise ValueError(f"similarities must be [n, n], got shape {similarities.shape}.")
    if not np.isfinite(similarities).all():
        raise ValueError("similarities must be finite.")
    if similarities.size == 0:
        warnings.warn("similarities are empty; the score is 0.", stacklevel=3)
    return bool(similarities.size)


def ranks(similarities: DoubleArray) -> DoubleArray:
    """Rank, from 1, of the true item for each query, the true item being on the diagonal.

    Ties take their middle rank, so that a judge that says the same of everything is at chance and not first.

    Args:
        similarities: `[n, n]`, row = query (music), column = item (room), larger = more alike.
    """
    own = np.diagonal(similarities)[:, None]
    return np.asarray(
        1.0 + (similarities > own).sum(axis=1) + 0.5 * ((similarities == own).sum(axis=1) - 1.0)
    )


def retrieval_scores(similarities: DoubleArray) -> dict[str, float]:
    """R@1, R@5 and MRR of finding the room from the music, with what chance would give.

    Args:
        similarities: `[n, n]` as in `ranks`.
    """
    n = len(similarities)
    found = ranks(similarities) if validate_similarities(similarities) else np.array([np.inf])
    return {
        "recall_at_1": float((found <= 1.0).mean()),
        "recall_at_5": float((found <= 5.0).mean()),
        "mean_reciprocal_rank": float((1.0 / found).mean()),
        "chance_recall_at_1": 1.0 / max(1, n),
        "chance_recall_at_5": min(1.0, 5.0 / max(1, n)),
        "chance_mean_reciprocal_rank": float((1.0 / np.arange(1, max(1, n) + 1)).mean()),
    }


@dataclass(frozen=True)
class RoomReference:
    """The reference side of the metrics: what music for a room can follow.

    Attributes:
        seconds: duration.
        event_seconds: `[E]`; tempo_bpm: of the pulse or None; energy_db: `[F]` at 10 Hz; boundary_seconds: `[J]`.
        rhythmic: whether onsets and tempo are asked for; changing: whether boundaries are.
    """

    seconds: float
    event_seconds: DoubleArray
    tempo_bpm: float | None
    energy_db: DoubleArray
    boundary_seconds: DoubleArray
    rhythmic: bool
    changing: bool


def references_of(profile: AcousticProfile, labels: Mapping[str, Any]) -> dict[str, RoomReference]:
    """The room as `measured` by `acoustics.analyze` and, where its labels know events, as `labelled`.

    The energy curve is always the measured one, which is its own truth. Labels decide too what is asked of the
    measured room: onsets and tempo of rhythmic kinds, boundaries of scenes that change. Without them `MIN_EVENTS`
    clear events or a measured boundary do: of steps on a stair, too, no steady pulse is asked.
    """
    n_clear = sum(event.strength_db >= CLEAR_EVENT_DB for event in profile.events)
    measured = RoomReference(
        seconds=profile.seconds,
        event_seconds=np.array([event.seconds for event in profile.events], np.float64),
        tempo_bpm=profile.tempo_bpm,
        energy_db=np.asarray(profile.energy_dbfs, np.float64),
        boundary_seconds=np.array([boundary.seconds for boundary in profile.boundaries], np.float64),
        rhythmic=n_clear >= MIN_EVENTS,
        changing=bool(profile.boundaries),
    )
    if "event_seconds" not in labels:
        return {"measured": measured}
    # A hand-written pair may know only where its music changes; the room may have been cut shorter than its labels.
    changes = labels.get("scene_boundaries", labels.get("boundaries", ()))
    events, boundaries = (
        np.sort(np.array([t for t in times if t < profile.seconds], np.float64))
        for times in (labels["event_seconds"], changes)
    )
    labelled = replace(
        measured,
        event_seconds=events,
        tempo_bpm=labels.get("tempo_bpm") or None,
        boundary_seconds=boundaries,
        rhythmic=labels.get("kind") in RHYTHMIC_KINDS and events.size >= MIN_EVENTS,
        changing=bool(boundaries.size),
    )
    measured = replace(measured, rhythmic=labelled.rhythmic, changing=labelled.changing)
    return {"measured": measured, "labelled": labelled}


def follow_scores(room: RoomReference, music: MusicFeatures) -> dict[str, float]:
    """How far music follows a room, by the names of `SCORES`, without those that the room has no reference for.

    Onsets and tempo are asked for by rhythmic rooms, tempo only where the room has one, boundaries only where it
    changes, energy always. Music without any of it scores 0, without a warning.
    """
    scores: dict[str, float] = {}
    seconds = min(room.seconds, music.seconds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if room.rhythmic:
            events, onsets = _before(seconds, room.event_seconds, music.onset_seconds)
            match = onset_scores(events, onsets)
            scores |= {"onset_hit_rate": match.hit_rate, "onset_precision": match.precision}
            scores["onset_f"] = match.f_measure
            scores["loris_bcs"], scores["loris_bhs"] = loris_beat_scores(events, onsets, seconds)
            if room.tempo_bpm is not None:
                names = ("tempo_4", "tempo_8", "tempo_4_octave", "tempo_8_octave")
                scores |= dict(zip(names, tempo_agreement(room.tempo_bpm, music.tempo_bpm), strict=True))
        energy = energy_correlation(room.energy_db, music.energy_db)
        scores |= {"energy_pearson": energy.pearson, "energy_spearman": energy.spearman}
        if room.changing:
            changes, sections = _before(seconds, room.boundary_seconds, music.boundary_seconds)
            for window in (0.5, 3.0):
                scores[f"boundary_f_{window:g}"] = boundary_scores(
                    changes, sections, seconds, window
                ).f_measure
    return scores


def _before(seconds: float, *lists: DoubleArray) -> list[DoubleArray]:
    """The times of each list before the end of the shorter of room and music."""
    return [times[times < seconds] for times in lists]


def similarity(room: RoomReference, music: MusicFeatures) -> float:
    """How well music fits a room of unknown kind: energy correlation plus onset F and boundary F where defined."""
    seconds = min(room.seconds, music.seconds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = energy_correlation(room.energy_db, music.energy_db, ranked=False).pearson
        if room.event_seconds.size >= MIN_EVENTS:
            events, onsets = _before(seconds, room.event_seconds, music.onset_seconds)
            found += onset_scores(events, onsets).f_measure
        if room.boundary_seconds.size:
            changes, sections = _before(seconds, room.boundary_seconds, music.boundary_seconds)
            found += 0.5 * boundary_scores(changes, sections, seconds, 3.0).f_measure
    return found


def follow_score(room: Waveform | Path | str, music: Waveform | Path | str) -> dict[str, float]:
    """How far music follows a recording of a room, measured on the sound of both; 1 is best in every figure.

    No figure means anything without its null, since dense music hits the events of any room and the best lag is
    chosen for energy: compare with `follow_score(other_room, music)`, or with the same room shifted in a circle,
    `np.roll(room.samples, n_samples, axis=1)`, by several seconds that are no whole number of its beats; best with
    the mean over several such rooms.

    Args:
        room: the recording, or the path of its file.
        music: made for it, likewise; both begin together, and the shorter one counts.

    Returns:
        By name: `onset_hit_rate` (share of the room's events that meet a note within 50 ms), `onset_precision`,
        `onset_f`, `loris_bcs` and `loris_bhs`, if the room has at least `MIN_EVENTS` clear events; `tempo_4`,
        `tempo_8`, `tempo_4_octave` and `tempo_8_octave` (1 or 0: within 4 % or 8 %), if it has a pulse too;
        `energy_pearson` and `energy_spearman` (correlation of level, -1 to 1), always; `boundary_f_0.5` and
        `boundary_f_3` (F of changes within 0.5 s or 3 s), if the room changes.

    Raises:
        S2MError: if `mir_eval` is not installed, which the extra `[eval]` brings.
        AudioError: if a file cannot be read.

    Example:
        >>> ticks = np.zeros((1, 96000), np.float32)
        >>> ticks[0, 6000::12000] = 0.5
        >>> ticks += 1e-4 * np.random.default_rng(0).standard_normal(ticks.shape).astype(np.float32)
        >>> follow_score(Waveform(ticks, 24000), Waveform(ticks, 24000))["onset_hit_rate"]
        1.0
    """
    heard, played = (sound if isinstance(sound, Waveform) else read(sound) for sound in (room, music))
    return follow_scores(references_of(analyze(heard), {})["measured"], music_features(played))
