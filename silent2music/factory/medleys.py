"""Music of every family of instruments for the codec: passages of scores given to other General MIDI programs.

A codec meets what the pairs' ensembles do not play: organs, brass, synthesisers, drum kits, in every register and
level, dry and in rooms. Scores are divided into splits as for pairs, so that one held-out piece is held out of both.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from silent2music import audio
from silent2music.config import DataConfig
from silent2music.errors import DataError, require
from silent2music.factory.arrangement import Arrangement
from silent2music.factory.build import score_folders, soundfonts, split_of
from silent2music.factory.rendering import render
from silent2music.factory.repertoire import open_repertoire, usable_score
from silent2music.factory.rooms import simulated_room
from silent2music.factory.scores import ScorePart, SourceScore
from silent2music.score import Part

FAMILIES = {
    "piano": range(8),
    "mallets": range(8, 16),
    "organ": range(16, 24),
    "guitar": range(24, 32),
    "bass": range(32, 40),
    "strings": range(40, 48),
    "ensemble": range(48, 56),
    "brass": range(56, 64),
    "reed": range(64, 72),
    "pipe": range(72, 80),
    "synth": range(80, 96),
    "plucked": range(104, 112),
    "drums": range(0),
    "mixed": range(112),
}
"""General MIDI programs of each family; a piece of `mixed` has one of any for each part, and often drums."""

SECONDS = 20.0

DRUM_KEYS = (36, 38, 42, 46, 41, 45, 48, 49, 51, 56, 60, 61, 64, 75)
"""Kick, snare, hats, toms, cymbals, bell, bongos, conga, claves."""


def render_medleys(
    config: DataConfig,
    out: Path,
    n_pieces: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write `train/FAMILY-NNNN.flac` and `validation/FAMILY-NNNN.flac`, mono, `SECONDS` long, family after family.

    A third of the pieces is dry, a third has the synthesiser's reverberation, a third a simulated room. A piece
    depends on seed and number alone; pieces that exist are kept. `sources.tsv` names each piece's score.

    Args:
        config: `scores`, `soundfont`, `sample_rate` and `validation_share` count.
        out: folder, made if missing.
        seed: 0 or more.

    Raises:
        DataError: if the scores or the synthesiser are missing or unusable.
    """
    require("pyroomacoustics", "train")
    fonts = soundfonts(config)
    repertoires, _ = open_repertoire(score_folders(config), config.validation_share)
    lines = []
    for number in range(n_pieces):
        rng = np.random.default_rng([seed, number])
        family = list(FAMILIES)[number % len(FAMILIES)]
        split = split_of(number // len(FAMILIES), config.validation_share, repertoires)
        arranged = partial(_arrangement, family=family, rng=rng)
        work, arrangement = usable_score(partial(repertoires[split].draw, rng), arranged)
        path = out / split / f"{family}-{number:04d}.flac"
        lines.append(f"{path.relative_to(out)}\t{work.credit.path}\n")
        if not path.exists():
            response = (None, np.zeros(1), simulated_room(rng, rng.uniform(0.3, 2.5)))[int(rng.integers(3))]
            music = render(
                arrangement, fonts[int(rng.integers(len(fonts)))], config.sample_rate, room_response=response
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            audio.write(path, music.mono())
        if progress is not None:
            progress(number + 1, n_pieces)
    (out / "sources.tsv").write_text("".join(lines), encoding="utf-8")


def _arrangement(score: SourceScore, family: str, rng: np.random.Generator) -> Arrangement:
    """A passage with at least twelve notes for instruments of a family, at a level between loud and 20 dB below."""
    parts = _parts(score, family, rng)
    if sum(len(part.pitches) for part in parts) < 12:
        raise DataError(f"The passage of {score.source} has hardly any notes; expected at least 12.")
    gain_db = np.full(int(10 * SECONDS), -20.0 * rng.random())
    return Arrangement(SECONDS, parts, gain_db, tempo_bpm=score.tempo_bpm, key=score.key)


def _parts(score: SourceScore, family: str, rng: np.random.Generator) -> tuple[Part, ...]:
    """The notes of a random window of `SECONDS`, each staff for an instrument of its own."""
    seconds_per_beat = 60.0 / float(np.clip(score.tempo_bpm, 50.0, 170.0))
    last = max(0.0, score.n_beats * seconds_per_beat - SECONDS)
    start = rng.uniform(0.0, last)
    parts = []
    for staff in score.parts:
        program = int(rng.choice(FAMILIES[family])) if family != "drums" else 0
        parts.append(_part(staff, program, family == "drums", start, seconds_per_beat, rng))
    if family == "mixed" and score.parts and rng.random() < 0.6:
        staff = score.parts[int(rng.integers(len(score.parts)))]
        parts.append(_part(staff, 0, True, start, seconds_per_beat, rng))
    return tuple(part for part in parts if len(part.pitches))


def _part(
    staff: ScorePart,
    program: int,
    is_drum: bool,
    start: float,
    seconds_per_beat: float,
    rng: np.random.Generator,
) -> Part:
    """One staff's notes in the window, moved into the instrument's register, played with uneven force."""
    on = staff.start_beats * seconds_per_beat - start
    off = staff.end_beats * seconds_per_beat - start
    inside = (on >= 0.0) & (on < SECONDS - 0.1)
    on, off, pitches = on[inside], np.minimum(off[inside], SECONDS), staff.pitches[inside]
    if is_drum:
        keys = rng.permutation(DRUM_KEYS)
        pitches = keys[pitches % len(keys)]
    else:
        bass = program in FAMILIES["bass"]
        octaves = 12 * (int(rng.integers(-1, 2)) - (2 if bass else 0))
        pitches = pitches + octaves
        pitches = np.where(pitches < 24, pitches + 24, np.where(pitches > 103, pitches - 24, pitches))
    velocity = rng.uniform(45, 110) + rng.normal(0, 9, len(on))
    name = "drums" if is_drum else f"program {program}"
    velocities = np.clip(velocity, 20, 127).astype(np.int64)
    return Part(name, program, is_drum, "melody", on, off, pitches.astype(np.int64), velocities)
