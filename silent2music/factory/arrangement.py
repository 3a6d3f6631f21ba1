"""Data that the two sides of a pair exchange: the ground truth of a scene, and the notes arranged to it.

A scene is made first and states its truth (`SceneTruth`); the arranger writes music to it (`Arrangement`).
For the kinds `muted` and `leak` the order is the reverse: the arrangement comes first and the scene is made
from it. Times are seconds from the start of the pair.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from silent2music.arrays import DoubleArray
from silent2music.score import Score


def _empty() -> DoubleArray:
    return np.zeros(0)


@dataclass(frozen=True)
class SceneTruth:
    """Ground truth of a built scene: its events, pulse, changes and levels.

    Attributes:
        kind: one of the scene kinds (`room`, `hall`, `steps`, `street`, `weather`, `machine`, `muted`, `leak`).
        seconds: duration.
        energy_db: `[seconds * ENERGY_RATE_HZ]` short-term level of the silent side in dBFS, measured on its audio.
        event_seconds: `[E]` onsets of the audible events, ascending.
        event_strengths: `[E]` in 0 to 1.
        beat_seconds: `[P]` the pulse that the events stand on, or empty where there is none.
        boundary_seconds: `[J]` changes of scene strictly inside the recording.
        rt60_seconds: of the room that the scene was convolved with, or None for a dry one.
        level_dbfs: RMS of the silent side.
    """

    kind: str
    seconds: float
    energy_db: DoubleArray
    event_seconds: DoubleArray = field(default_factory=_empty)
    event_strengths: DoubleArray = field(default_factory=_empty)
    beat_seconds: DoubleArray = field(default_factory=_empty)
    boundary_seconds: DoubleArray = field(default_factory=_empty)
    rt60_seconds: float | None = None
    level_dbfs: float = -60.0


@dataclass(frozen=True)
class Arrangement(Score):
    """A score on the time axis of the pair, ready to be rendered, with the labels that follow from it.

    Attributes:
        tempo_bpm: median of the beat intervals.
        valence, arousal: `[seconds * ENERGY_RATE_HZ]` in -1 to 1.
        caption: one line in plain words.
    """

    tempo_bpm: float = 120.0
    valence: DoubleArray = field(default_factory=_empty)
    arousal: DoubleArray = field(default_factory=_empty)
    caption: str = ""
