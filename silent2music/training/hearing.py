"""Notes heard in a user's music, as a score that the composer can learn from."""

from __future__ import annotations

import numpy as np

from silent2music.audio import Waveform
from silent2music.controls import programs_of
from silent2music.evaluation.following import onset_scores
from silent2music.factory.own_folder import onsets_of, with_roles
from silent2music.notation import DRUMS, INSTRUMENT_NAMES
from silent2music.score import Part, Score
from silent2music.transcription import transcribe

MIN_AGREEMENT = 0.5
"""F measure of the onsets heard in the notes against those heard in the sound, below which notes are not trusted."""


def heard_score(music: Waveform, instruments: tuple[str, ...]) -> Score | None:
    """The notes of music by basic-pitch, given to instruments by pitch; None where they are not to be trusted.

    Args:
        instruments: in words, from the highest to the lowest; each gets as many notes as the others.

    Raises:
        ConfigError: if nobody plays one of them.
    """
    programs = [min(programs_of([name])) for name in instruments]
    notes = transcribe(music)
    inside = (notes.start_seconds < music.seconds - 0.02) & (notes.end_seconds > notes.start_seconds)
    if not inside.any():
        return None
    times, _ = onsets_of(music)
    starts = np.unique(np.round(notes.start_seconds[inside], 2))
    if not len(times) or onset_scores(times, starts).f_measure < MIN_AGREEMENT:
        return None
    edges = np.quantile(notes.pitches[inside], np.linspace(1.0, 0.0, len(programs) + 1))
    parts = []
    for index, program in enumerate(programs):
        own = inside & (notes.pitches <= edges[index])
        own &= (notes.pitches > edges[index + 1]) | (index + 1 == len(programs))
        if not own.any():
            continue
        parts.append(
            Part(
                name=INSTRUMENT_NAMES[program],
                program=0 if program == DRUMS else program,
                is_drum=program == DRUMS,
                role="",
                start_seconds=notes.start_seconds[own],
                end_seconds=np.minimum(notes.end_seconds[own], music.seconds),
                pitches=notes.pitches[own].astype(np.int64),
                velocities=np.full(int(own.sum()), 80, np.int64),
            )
        )
    return with_roles(Score(music.seconds, tuple(parts)))
