"""What a score is like, in the terms of the controls of a composer: the labels by which it learns to obey them.

All follow from the notes alone, so whatever has a score can be learned from, and any score can be measured. A trait
along time is `[T, F]` on the codec's frames, one of the whole piece `[F]`, and None where a score does not have it.
Pitches are those of the score moved to C major or A minor, as the composer writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from silent2music.arrays import DoubleArray, FloatArray, IntArray
from silent2music.keys import estimate_key
from silent2music.notation import DRUMS, N_PROGRAMS, home_shift
from silent2music.score import ENERGY_RATE_HZ, Part, Score

RULE_WINDOW_SECONDS = 4.0
"""Density, register and articulation are heard over about this long."""

MODES = ("major", "minor")
METRES = (1, 2, 3, 4, 5, 6, 7)
"""Beats a bar that are told apart."""

DENSITY_SCALE = 3.0
"""A density d is `expm1(DENSITY_SCALE * d)` notes a second: 0.5 is 3.5, and 1 is 19."""

ENDINGS = ("final", "open", "cut")
CUE_SECONDS = (0.5, 2.0, 8.0)
"""The time to what comes next is told as `exp(-time / scale)`, for each of these scales."""

END_SECONDS = (1.0, 6.0)
"""Likewise of the end of the piece."""

CUT_SECONDS = 0.3
"""A piece with a note that starts so late is cut off."""

TRIADS = np.array(
    [np.roll(np.isin(np.arange(12), triad), root) for triad in ((0, 4, 7), (0, 3, 7)) for root in range(12)]
)
"""`[24, 12]` pitch classes of the major triads from C to B, then of the minor ones."""

Trait = Callable[[Score, int, float], FloatArray | None]
"""Takes a score, its length T in codec frames, and the frame rate."""


SILENT_DBFS, SILENT_GAIN_DB = -100.0, -36.0
"""Short-term levels of a room below the one are digital silence, where the music has the other."""

USUAL_RANGE_DB = 21.0
"""Range of the loudness of music that follows a room of unknown kind. By one of 22 dB it deviates by 5.9 dB within a
piece (58 held-out rooms), by one of 28 dB by 7.5; that of arranged scores, each with a range of its kind, by 5.2."""


def following_db(
    level_dbfs: DoubleArray, low: float, high: float, mean_dbfs: float, range_db: float = USUAL_RANGE_DB
) -> tuple[DoubleArray, DoubleArray]:
    """Loudness automation of music that follows a room, and where the room is within its own range.

    That range is compressed to `range_db (1 - exp(-range / 8))`; quiet rooms have up to 8 dB less.

    Args:
        level_dbfs: `[n]` short-term levels of the room.
        low, high: 5th and 95th percentile of such levels, digital silence left out.

    Returns:
        `[n]` dB of at most 0, and `[n]` from -0.3 over 0 and 1, which are the percentiles, to 1.15.
    """
    spread = max(high - low, 1e-3)
    width = range_db * (1.0 - np.exp(-spread / 8.0))
    relative = np.clip((level_dbfs - low) / spread, -0.3, 1.15)
    offset = -8.0 * float(np.clip((-45.0 - mean_dbfs) / 30.0, 0.0, 1.0))
    return np.minimum(0.0, offset + width * (relative - 1.0)), relative


def mode(score: Score, n_frames: int, frame_rate: float) -> FloatArray | None:
    """`[2]` major or minor, by the profiles of Krumhansl and Kessler."""
    starts, ends, pitches, _ = score.notes(pitched=True)
    return None if not len(pitches) else _one_of(MODES.index(estimate_key(pitches, ends - starts)[1]), 2)


def tempo(score: Score, n_frames: int, frame_rate: float) -> FloatArray | None:
    """`[1]` octaves above 90 beats a minute."""
    if len(score.beat_seconds) < 3:
        return None
    return tempo_value(60.0 / float(np.median(np.diff(score.beat_seconds))))


def tempo_value(bpm: float) -> FloatArray:
    """The trait of a tempo."""
    return np.array([math.log2(bpm / 90.0)], np.float32)


def metre(score: Score, n_frames: int, frame_rate: float) -> FloatArray | None:
    """`[7]` beats a bar, 1 to 7."""
    if len(score.bar_seconds) < 3:
        return None
    counts = np.diff(np.searchsorted(score.beat_seconds, score.bar_seconds - 1e-3))
    return _one_of(int(np.clip(np.median(counts), 1, len(METRES))) - 1, len(METRES))


def instruments(score: Score, n_frames: int, frame_rate: float) -> FloatArray:
    """`[129]` General MIDI programs, and drums, that play."""
    found = np.zeros(N_PROGRAMS, np.float32)
    for part in score.parts:
        found[DRUMS if part.is_drum else part.program] = 1.0
    return found


def mood(score: Score, n_frames: int, frame_rate: float) -> FloatArray | None:
    """`[T, 2]` valence and arousal, see `affect_curves`."""
    if len(score.beat_seconds) < 3 or not score.n_notes:
        return None
    n_energies = max(1, math.ceil(n_frames / frame_rate * ENERGY_RATE_HZ))
    gain = np.zeros(n_energies)
    if len(score.gain_db):
        index = np.minimum(np.arange(n_energies), len(score.gain_db) - 1)
        gain = score.gain_db[index]
    bpm = 60.0 / float(np.median(np.diff(score.beat_seconds)))
    starts, ends, pitches, _ = score.notes(pitched=True)
    found = affect_curves(score.parts, gain, bpm, estimate_key(pitches, ends - starts)[1])
    at = np.arange(n_frames) / frame_rate * ENERGY_RATE_HZ
    return np.stack([np.interp(at, np.arange(n_energies), curve) for curve in found], 1).astype(np.float32)


def notes_a_second(densities: ArrayLike) -> DoubleArray:
    """Notes a second that densities stand for, see `DENSITY_SCALE`."""
    return np.asarray(np.expm1(DENSITY_SCALE * np.asarray(densities, np.float64)))


def density(score: Score, n_frames: int, frame_rate: float) -> FloatArray:
    """`[T, 1]` notes a second over `RULE_WINDOW_SECONDS`, see `DENSITY_SCALE`."""
    starts, _, _, _ = score.notes()
    frames = np.clip((starts * frame_rate).astype(np.int64), 0, n_frames - 1)
    total = np.concatenate([[0.0], np.cumsum(np.bincount(frames, minlength=n_frames))])
    index, half = np.arange(n_frames), int(RULE_WINDOW_SECONDS * frame_rate / 2)
    first, last = np.maximum(index - half, 0), np.minimum(index + half, n_frames)
    rate = (total[last] - total[first]) * frame_rate / (last - first)
    return np.asarray(np.log1p(rate) / DENSITY_SCALE, np.float32)[:, None]


def chords(score: Score, n_frames: int, frame_rate: float) -> FloatArray | None:
    """`[T, 24]` pitch classes of the triad that fits a bar best, then its root; nothing where none fits."""
    if not len(score.notes(pitched=True)[0]):
        return None
    sounding = np.zeros((2, n_frames + 1, 12))
    for row, role in enumerate((None, "bass")):
        starts, ends, pitches, _ = score.notes(pitched=True, role=role)
        classes = (pitches + home_shift(score)) % 12
        first, last = (
            np.clip(np.rint(times * frame_rate).astype(np.int64), 0, n_frames) for times in (starts, ends)
        )
        last = np.maximum(last, np.minimum(first + 1, n_frames))
        np.add.at(sounding[row], (first, classes), 1.0)
        np.add.at(sounding[row], (last, classes), -1.0)
    # The bass counts twice.
    sounding[0] += sounding[1]
    heard = np.cumsum(np.cumsum(sounding, axis=1)[:, :-1], axis=1)
    heard = np.concatenate([np.zeros((2, 1, 12)), heard], axis=1)
    bars = score.bar_seconds if len(score.bar_seconds) else np.arange(0.0, n_frames / frame_rate, 2.0)
    edges = np.unique(np.clip(np.rint(np.append(bars, 0.0) * frame_rate), 0, n_frames).astype(np.int64))
    lengths = np.diff(np.append(edges, n_frames))
    chroma, bass = np.diff(heard[:, np.append(edges, n_frames)], axis=1)
    fit = chroma @ TRIADS.T + 0.3 * np.tile(bass, 2)
    best = fit.argmax(axis=1)
    is_clear = (chroma * TRIADS[best]).sum(axis=1) > 0.6 * chroma.sum(axis=1)
    found = np.concatenate([TRIADS[best], np.eye(12, dtype=bool)[best % 12]], axis=1) & is_clear[:, None]
    return np.repeat(found.astype(np.float32), lengths, axis=0)


def melody(score: Score, n_frames: int, frame_rate: float) -> FloatArray | None:
    """`[T, 14]` the highest note of the melody's parts: pitch class, height, and 1 where it starts; rests are 0."""
    starts, ends, pitches, _ = score.notes(pitched=True, role="melody")
    return (
        line_value(starts, ends, pitches + home_shift(score), n_frames, frame_rate) if len(pitches) else None
    )


def line_value(
    starts: DoubleArray, ends: DoubleArray, pitches: IntArray, n_frames: int, frame_rate: float
) -> FloatArray:
    """The trait of a line of notes `[n]`, times in seconds."""
    found = np.zeros((n_frames, 14), np.float32)
    first, last = (np.rint(times * frame_rate).astype(np.int64) for times in (starts, ends))
    # Low notes first, so that the highest stays.
    for i in np.argsort(pitches, kind="stable"):
        stretch = slice(int(first[i]), max(int(last[i]), int(first[i]) + 1))
        found[stretch] = 0.0
        found[stretch, int(pitches[i]) % 12] = 1.0
        found[stretch, 12] = (float(pitches[i]) - 66.0) / 18.0
        found[int(first[i]) : int(first[i]) + 1, 13] = 1.0
    return found


def cues(score: Score, n_frames: int, frame_rate: float) -> FloatArray:
    """`[T, 3]` how near the next start of a section is, see `CUE_SECONDS`."""
    return cue_value(score.boundary_seconds, n_frames, frame_rate)


def cue_value(seconds: DoubleArray, n_frames: int, frame_rate: float) -> FloatArray:
    """The trait of cues; the frame in which one is counts as 0 s before it."""
    frames = np.rint(np.asarray(seconds) * frame_rate).astype(np.int64)
    return _nearness(frames, n_frames, frame_rate, CUE_SECONDS)


def ending(score: Score, n_frames: int, frame_rate: float) -> FloatArray | None:
    """`[T, 6]` how near the end is, see `END_SECONDS`, in the columns of its kind, see `ENDINGS`.

    Music that goes on until the last moment is cut; else it is final if the last notes stand on the tonic and most are of
    its triad, and open if not.
    """
    kind = ending_of(score)
    return None if kind is None else ending_value(kind, score.seconds, n_frames, frame_rate)


def ending_of(score: Score) -> str | None:
    """How a score ends; None if it has no notes with pitch."""
    starts, ends, pitches, _ = score.notes(pitched=True)
    if not len(pitches):
        return None
    all_starts, _, _, _ = score.notes()
    if float(all_starts.max()) > score.seconds - CUT_SECONDS:
        return "cut"
    tonic, tonality = estimate_key(pitches, ends - starts)
    last = pitches[ends > float(starts.max()) + 0.02]
    triad = TRIADS[tonic + 12 * MODES.index(tonality)]
    return "final" if last.min() % 12 == tonic and triad[last % 12].mean() > 0.6 else "open"


def ending_value(kind: str, seconds: float, n_frames: int, frame_rate: float) -> FloatArray:
    """The trait of a kind of ending at a time."""
    near = _nearness(np.array([round(seconds * frame_rate)]), n_frames, frame_rate, END_SECONDS)
    found = np.zeros((n_frames, 2 * len(ENDINGS)), np.float32)
    found[:, 2 * ENDINGS.index(kind) : 2 * ENDINGS.index(kind) + 2] = near
    return found


def _nearness(frames: IntArray, n_frames: int, frame_rate: float, scales: Sequence[float]) -> FloatArray:
    """`[T, n]` `exp(-time / scale)` of the time to the next of ascending frames; 0 after the last."""
    index = np.searchsorted(frames, np.arange(n_frames))
    until = np.append(frames, 2**40)[index] - np.arange(n_frames)
    return np.asarray(np.exp(-until[:, None] / (frame_rate * np.array(scales))).astype(np.float32))


def _one_of(index: int, n: int) -> FloatArray:
    return np.asarray(np.eye(n, dtype=np.float32)[index])


def affect_curves(
    parts: tuple[Part, ...], gain_db: DoubleArray, tempo_bpm: float, mode: str
) -> tuple[DoubleArray, DoubleArray]:
    """Valence and arousal, `[n]` each at `ENERGY_RATE_HZ`, -1 to 1.

    The directions are the primary rules of Livingstone, Muhlberger, Brown & Thompson, "Changing Musical
    Emotion: A Computational Rule System for Modifying Score and Performance", Computer Music Journal 34(1),
    2010: major mode, fast tempo, high register and short notes raise valence; fast tempo, loudness, short
    notes, high register and (Gabrielsson & Lindstroem 2010) a high density of notes raise arousal. Each
    feature is scaled to -1 to 1 over its musical range; the weights, ours, add up to 1.
    """
    n_frames = len(gain_db)
    pitched = [part for part in parts if not part.is_drum and len(part.pitches)]
    tempo = float(np.clip((tempo_bpm - 90.0) / 50.0, -1.0, 1.0))
    happy = 1.0 if mode == "major" else -1.0
    starts = _joined([part.start_seconds for part in parts])
    struck = _framed(starts, np.ones(len(starts)), n_frames)
    density = np.clip(struck / RULE_WINDOW_SECONDS / 3.0 - 1.0, -1.0, 1.0)
    p_starts = _joined([part.start_seconds for part in pitched])
    pitches = _joined([part.pitches.astype(np.float64) for part in pitched])
    lengths = _joined([part.end_seconds - part.start_seconds for part in pitched])
    velocities = _joined([part.velocities.astype(np.float64) for part in parts])
    counts = _framed(p_starts, np.ones(len(p_starts)), n_frames)
    register = _mean(_framed(p_starts, pitches, n_frames), counts, 60.0)
    length = _mean(_framed(p_starts, lengths, n_frames), counts, 1.0)
    velocity = _mean(_framed(starts, velocities, n_frames), struck, 40.0)
    register = np.clip((register - 60.0) / 18.0, -1.0, 1.0)
    staccato = np.clip(-np.log2(np.maximum(length, 0.05) / 0.5) / 2.0, -1.0, 1.0)
    loudness = np.clip((velocity - 70.0) / 40.0 + (gain_db + 10.0) / 20.0, -1.0, 1.0)
    valence = 0.5 * happy + 0.2 * tempo + 0.15 * register + 0.15 * staccato
    arousal = 0.3 * tempo + 0.3 * loudness + 0.2 * density + 0.12 * staccato + 0.08 * register
    return np.clip(valence, -1.0, 1.0), np.clip(arousal, -1.0, 1.0)


def _joined(arrays: list[DoubleArray]) -> DoubleArray:
    return np.concatenate(arrays) if arrays else np.zeros(0)


def _framed(seconds: DoubleArray, values: DoubleArray, n_frames: int) -> DoubleArray:
    """Sums of values over a centred window of `RULE_WINDOW_SECONDS` at every frame."""
    frames = np.clip((seconds * ENERGY_RATE_HZ).astype(np.int64), 0, max(n_frames - 1, 0))
    total = np.concatenate([[0.0], np.cumsum(np.bincount(frames, weights=values, minlength=n_frames))])
    half = int(RULE_WINDOW_SECONDS * ENERGY_RATE_HZ / 2)
    index = np.arange(n_frames)
    return np.asarray(total[np.minimum(index + half, n_frames)] - total[np.maximum(index - half, 0)])


def _mean(sums: DoubleArray, counts: DoubleArray, default: float) -> DoubleArray:
    return np.asarray(np.where(counts > 0, sums / np.maximum(counts, 1.0), default))
