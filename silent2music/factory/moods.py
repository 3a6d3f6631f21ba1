"""Labels that follow from an arrangement: a caption."""

from __future__ import annotations

from silent2music.arrays import DoubleArray
from silent2music.factory.arrangement import SceneTruth
from silent2music.score import Part
from silent2music.words import caption_words


def describe(
    parts: tuple[Part, ...], truth: SceneTruth, tempo_bpm: float, valence: DoubleArray, arousal: DoubleArray
) -> str:
    """A caption such as "slow, melancholic solo cello in a large hall"."""
    names = list(dict.fromkeys(part.name for part in parts))
    if not names:
        return "near silence"
    tempo, mood = caption_words(tempo_bpm, float(valence.mean()), float(arousal.mean()))
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
