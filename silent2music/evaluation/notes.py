"""Statistics of a score that need no sound: density, rests, harmony, melody, repetition."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from silent2music.arrays import DoubleArray, IntArray
from silent2music.keys import PITCH_NAMES
from silent2music.notation import home_shift
from silent2music.score import ENERGY_RATE_HZ, Score
from silent2music.traits import TRIADS

CHORD_SECONDS = 0.5
"""Windows in which a chord is told from the pitches that sound."""

BARS_BACK = 8
"""Earlier bars among which the most similar one is looked for."""

MIN_PART_NOTES = 4
"""An instrument with fewer notes has strayed into the piece."""

SAME_ONSET_SECONDS = 0.03
"""Notes that start closer together are one onset."""

NOTE_STATISTICS = (
    "onsets_hz",
    "notes_hz",
    "rest_share",
    "longest_rest_seconds",
    "polyphony",
    "pitch_class_bits",
    "chord_changes_hz",
    "melodic_interval",
    "melodic_steps",
    "melodic_repeats",
    "bar_repetition",
    "mean_velocity",
    "instruments",
    "stray_instruments",
)
"""What `note_statistics` gives, in the order of a report."""


def onset_times(score: Score) -> DoubleArray:
    """Times at which notes start, those within `SAME_ONSET_SECONDS` of the one before taken as one, ascending."""
    starts, _, _, _ = score.notes()
    kept: list[float] = []
    for start in starts:
        if not kept or start - kept[-1] > SAME_ONSET_SECONDS:
            kept.append(float(start))
    return np.array(kept)


def note_statistics(score: Score) -> dict[str, float]:
    """The figures `NOTE_STATISTICS` of a score; those without meaning, as of the melody of drums, are missing.

    `rest_share` is the share of the time in which nothing sounds, `polyphony` the mean number of notes that sound,
    `pitch_class_bits` the entropy of pitch classes weighted by duration, `chord_changes_hz` how often the best of 24
    triads changes from one window to the next, `melodic_interval` the mean size in semitones between notes of the melody
    in succession, `melodic_steps` and `melodic_repeats` the shares of those of one or two semitones and of none, and
    `bar_repetition` the mean similarity of a bar with the most similar one before it; `instruments` counts those that
    play, and `stray_instruments` is the share of them that have fewer than `MIN_PART_NOTES` notes.
    """
    starts, ends, _, velocities = score.notes()
    onsets = onset_times(score)
    found = {
        "onsets_hz": len(onsets) / score.seconds,
        "notes_hz": len(starts) / score.seconds,
        "polyphony": float((ends - starts).sum()) / score.seconds,
        **_rests(starts, ends, score.seconds),
    }
    if len(starts):
        found["mean_velocity"] = float(velocities.mean())
    starts, ends, pitches, _ = score.notes(pitched=True)
    if len(starts):
        weights = np.bincount(pitches % 12, weights=ends - starts, minlength=12)
        shares = weights[weights > 0] / weights.sum()
        found["pitch_class_bits"] = float(-(shares * np.log2(shares)).sum())
        found["chord_changes_hz"] = _chord_changes(starts, ends, pitches, score.seconds)
    counts: dict[str, int] = {}
    for part in score.parts:
        counts[part.name] = counts.get(part.name, 0) + len(part.pitches)
    played = [count for count in counts.values() if count]
    found["instruments"] = float(len(played))
    if played:
        found["stray_instruments"] = float(np.mean([count < MIN_PART_NOTES for count in played]))
    intervals = np.abs(np.diff(melody(score)))
    if len(intervals):
        found["melodic_interval"] = float(intervals.mean())
        found["melodic_steps"] = float(((intervals >= 1) & (intervals <= 2)).mean())
        found["melodic_repeats"] = float((intervals == 0).mean())
    repetition = bar_repetition(score)
    if repetition is not None:
        found["bar_repetition"] = repetition
    return found


def score_level_db(score: Score) -> DoubleArray:
    """Level `[seconds * ENERGY_RATE_HZ]` in dB of the notes that sound, with the score's loudness automation.

    Velocity v counts as 40 log10(v / 127) dB (General MIDI 2, 1999); -60 dB where nothing sounds.
    """
    n = max(1, round(score.seconds * ENERGY_RATE_HZ))
    at = (np.arange(n) + 0.5) / ENERGY_RATE_HZ
    power = np.full(n, 1e-6)
    for start, end, _, velocity in zip(*score.notes(), strict=True):
        power[slice(*np.searchsorted(at, (start - 0.5 / ENERGY_RATE_HZ, end)))] += (velocity / 127.0) ** 4
    gain = score.gain_db if len(score.gain_db) else np.zeros(1)
    curve = np.interp(at, np.arange(len(gain)) / ENERGY_RATE_HZ, gain)
    return np.asarray(10.0 * np.log10(power) + curve)


def _rests(starts: DoubleArray, ends: DoubleArray, seconds: float) -> dict[str, float]:
    """Share of the time, and longest stretch in seconds, in which nothing sounds."""
    rests, sounding = [], 0.0
    for start, end in [*zip(starts, ends, strict=True), (seconds, seconds)]:
        rests.append(max(0.0, min(start, seconds) - sounding))
        sounding = max(sounding, min(end, seconds))
    return {"rest_share": float(sum(rests)) / seconds, "longest_rest_seconds": float(max(rests))}


def _chords(starts: DoubleArray, ends: DoubleArray, pitches: IntArray, seconds: float) -> IntArray:
    """The triad that fits each window best, 0 to 11 major by root and 12 to 23 minor; silent windows left out."""
    n_windows = max(1, int(seconds / CHORD_SECONDS))
    edges = np.arange(n_windows + 1) * CHORD_SECONDS
    inside = np.minimum(ends[:, None], edges[1:]) - np.maximum(starts[:, None], edges[:-1])
    chroma = np.zeros((12, n_windows))
    np.add.at(chroma, pitches % 12, np.maximum(inside, 0.0))
    return np.asarray((TRIADS @ chroma).argmax(axis=0)[chroma.sum(axis=0) > 0], np.int64)


def _chord_changes(starts: DoubleArray, ends: DoubleArray, pitches: IntArray, seconds: float) -> float:
    """Changes a second of the triad that fits best, windows in which nothing sounds left out."""
    chords = _chords(starts, ends, pitches, seconds)
    if len(chords) < 2:
        return 0.0
    return float((np.diff(chords) != 0).sum()) / (len(chords) * CHORD_SECONDS)


def chord_shares(scores: Sequence[Score]) -> dict[str, float]:
    """Share of the time of each triad, the commonest first, all music moved to C major or A minor."""
    counts = np.zeros(24)
    for score in scores:
        starts, ends, pitches, _ = score.notes(pitched=True)
        if len(starts):
            found = _chords(starts, ends, pitches + home_shift(score), score.seconds)
            counts += np.bincount(found, minlength=24)
    names = [name + mode for mode in ("", "m") for name in PITCH_NAMES]
    order = np.argsort(-counts, kind="stable")
    return {names[i]: float(counts[i] / counts.sum()) for i in order if counts[i]}


def instrument_shares(scores: Sequence[Score]) -> dict[str, float]:
    """Share of the scores in which each instrument plays, the commonest first."""
    names = [name for score in scores for name in {part.name for part in score.parts if len(part.pitches)}]
    found = {name: names.count(name) / len(scores) for name in sorted(set(names))}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def melody(score: Score) -> IntArray:
    """Pitches of the melody in succession: of parts with that role, or else the highest note of every onset."""
    return _melody(score)[1]


def _melody(score: Score) -> tuple[DoubleArray, IntArray]:
    """Starts and pitches of the melody."""
    has_own = any(part.role == "melody" and not part.is_drum for part in score.parts)
    starts, _, pitches, _ = score.notes(pitched=True, role="melody" if has_own else None)
    found: list[tuple[float, int]] = []
    for start, pitch in zip(starts.tolist(), pitches.tolist(), strict=True):
        if not found or start - found[-1][0] > SAME_ONSET_SECONDS:
            found.append((start, pitch))
        else:
            found[-1] = (found[-1][0], max(found[-1][1], pitch))
    times, tones = zip(*found, strict=True) if found else ((), ())
    return np.array(times, np.float64), np.array(tones, np.int64)


def melody_moves(score: Score) -> IntArray:
    """`[n]` each step of the melody as one number: its interval in semitones, and its length in quarters of a beat.

    Neither key nor tempo counts; steps of four beats and more are alike.
    """
    times, pitches = _melody(score)
    lengths = np.clip(np.rint(4.0 * np.diff(score.beats_at(times))), 0, 16).astype(np.int64)
    return np.asarray(17 * np.diff(pitches) + lengths, np.int64)


def bar_repetition(score: Score) -> float | None:
    """Mean over bars of the Jaccard similarity with the most similar of the `BARS_BACK` bars before; None below two.

    A bar is the set of its notes, each as pitch class, part and sixteenth of the bar; bars without notes do not count.
    """
    edges = np.append(score.bar_seconds, score.seconds)
    bars: list[set[tuple[int, int, int]]] = []
    for begin, end in pairwise(edges):
        notes = set()
        for index, part in enumerate(score.parts):
            inside = (part.start_seconds >= begin - 1e-6) & (part.start_seconds < end - 1e-6)
            places = np.rint((part.start_seconds[inside] - begin) / max(end - begin, 1e-3) * 16).astype(int)
            classes = part.pitches[inside] if part.is_drum else part.pitches[inside] % 12
            notes |= {(index, int(c), int(p)) for c, p in zip(classes, places, strict=True)}
        if notes:
            bars.append(notes)
    if len(bars) < 2:
        return None
    best = [
        max(len(bar & other) / len(bar | other) for other in bars[max(0, i - BARS_BACK) : i])
        for i, bar in enumerate(bars)
        if i
    ]
    return float(np.mean(best))
