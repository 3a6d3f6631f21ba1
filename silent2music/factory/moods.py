"""Labels that follow from an arrangement: valence and arousal, and a caption."""

from __future__ import annotations

import numpy as np

from silent2music.arrays import DoubleArray
from silent2music.factory.arrangement import SceneTruth
from silent2music.score import ENERGY_RATE_HZ, Part

RULE_WINDOW_SECONDS = 4.0
"""Density, register and articulation are heard over about this long."""


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


def describe(
    parts: tuple[Part, ...], truth: SceneTruth, tempo_bpm: float, valence: DoubleArray, arousal: DoubleArray
) -> str:
    """A caption such as "slow, melancholic solo cello in a large hall"."""
    names = list(dict.fromkeys(part.name for part in parts))
    if not names:
        return "near silence"
    v, a = float(valence.mean()), float(arousal.mean())
    tempo = "slow" if tempo_bpm < 76 else "unhurried" if tempo_bpm < 104 else "lively"
    if v >= 0:
        mood = "joyful" if a > 0.15 else "warm" if a > -0.3 else "peaceful"
    else:
        mood = "restless" if a > 0.15 else "pensive" if a > -0.3 else "melancholic"
    players = f"solo {names[0]}" if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{tempo}, {mood} {players} {_place(truth)}"


def _place(truth: SceneTruth) -> str:
    """Where it sounds, from the decay time, else from the kind."""
    rt60 = truth.rt60_seconds
    if rt60 is None:
        return "without a room"
    if truth.kind == "leak":
        return "behind a wall"
    return "in a large hall" if rt60 >= 1.6 else "in a room" if rt60 >= 0.45 else "in a small dry room"
