"""Labels that follow from an arrangement: a caption."""

from __future__ import annotations

from silent2music.arrays import DoubleArray
from silent2music.factory.arrangement import SceneTruth
from silent2music.score import Part


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
