"""Writes the example's folder: loops of an electric piano, bass and drums, made of chance and four-chord progressions.

    python recipes/lofi-muted/make.py --out lofi

Nobody's work is in them: they are in the public domain (CC0).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from silent2music.score import Part, Score, write_midi

LOOPS = (
    ((2, "m7"), (7, "7"), (0, "maj7"), (9, "m7")),
    ((0, "maj7"), (9, "m7"), (5, "maj7"), (7, "7")),
    ((5, "maj7"), (4, "m7"), (2, "m7"), (0, "maj7")),
    ((9, "m7"), (5, "maj7"), (0, "maj7"), (4, "m7")),
)
QUALITIES = {"maj7": (0, 4, 7, 11), "m7": (0, 3, 7, 10), "7": (0, 4, 7, 10)}
ELECTRIC_PIANO, FINGERED_BASS = 4, 33
KICK, SNARE, HAT = 36, 38, 42


def loop(rng: np.random.Generator, seconds: float) -> Score:
    """A piece of some seconds: soft seventh chords a little late, roots below, swung hats, kick and snare."""
    bpm = float(rng.uniform(68, 84))
    beat, swing = 60.0 / bpm, float(rng.uniform(0.56, 0.64))
    notes: dict[str, list[tuple[float, float, int, int]]] = {"piano": [], "lead": [], "bass": [], "drums": []}
    chords, key = LOOPS[int(rng.integers(len(LOOPS)))], int(rng.integers(-3, 4))
    n_bars = int(seconds / (4 * beat))
    for bar in range(n_bars):
        root, quality = chords[bar % 4]
        start, tones = 4 * beat * bar, [48 + key + root + step for step in QUALITIES[quality]]
        for index, pitch in enumerate(tones):
            late = 0.02 + 0.012 * index
            voiced = pitch + 12 * int(pitch < 54)
            notes["piano"].append((start + late, start + 3.6 * beat, voiced, int(rng.integers(46, 60))))
        notes["bass"].append((start, start + 1.4 * beat, 36 + key + root, 70))
        notes["bass"].append((start + 2.5 * beat, start + 3.6 * beat, 36 + key + root, 62))
        for step in range(8):
            at = start + beat * (step // 2 + (swing if step % 2 else 0.0))
            notes["drums"].append((at, at + 0.05, HAT, int(rng.integers(30, 52))))
            if rng.random() < 0.35:
                pitch = int(rng.choice(tones)) + 24
                notes["lead"].append(
                    (at, at + beat * float(rng.choice((0.4, 0.9))), pitch, int(rng.integers(50, 66)))
                )
        for hit, own in ((KICK, (0.0, 2.5)), (SNARE, (1.0, 3.0))):
            notes["drums"] += [
                (start + beat * b, start + beat * b + 0.1, hit, int(rng.integers(58, 76))) for b in own
            ]
    parts = [
        _part("electric piano", ELECTRIC_PIANO, "harmony", notes["piano"]),
        _part("electric piano", ELECTRIC_PIANO, "melody", notes["lead"]),
        _part("bass", FINGERED_BASS, "bass", notes["bass"]),
        _part("drums", 0, "percussion", notes["drums"]),
    ]
    ends = max(float(part.end_seconds.max()) for part in parts if len(part.pitches))
    beats = np.arange(4 * n_bars) * beat
    return Score(
        max(ends, 4 * beat * n_bars),
        tuple(p for p in parts if len(p.pitches)),
        beat_seconds=beats,
        bar_seconds=beats[::4],
    )


def _part(name: str, program: int, role: str, notes: list[tuple[float, float, int, int]]) -> Part:
    rows = np.array(sorted(notes), np.float64).reshape(-1, 4)
    starts, ends, pitches, velocities = rows.T
    return Part(
        name,
        program,
        name == "drums",
        role,
        starts,
        ends,
        pitches.astype(np.int64),
        velocities.astype(np.int64),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pieces", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    for number in range(options.pieces):
        write_midi(
            options.out / f"loop-{number:02d}.mid",
            loop(np.random.default_rng(number), options.seconds),
            force=True,
        )
