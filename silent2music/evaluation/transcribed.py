"""Notes that an outside judge transcribes (see `silent2music.transcription`) held against a score."""

from __future__ import annotations

import numpy as np

from silent2music.errors import require
from silent2music.evaluation.following import MatchScores
from silent2music.score import Score
from silent2music.transcription import Notes

LOWEST_PITCH, HIGHEST_PITCH = 21, 108
"""What the judge hears: the keys of a piano."""


def notes_of(score: Score) -> Notes:
    """What the judge could hear of a score: all but drums, notes of one key within 50 ms of each other as one."""
    parts = [part for part in score.parts if not part.is_drum]
    starts, ends, pitches = (
        np.concatenate([getattr(part, name) for part in parts] or [np.zeros(0)]).astype(np.float64)
        for name in ("start_seconds", "end_seconds", "pitches")
    )
    order = np.lexsort((starts, pitches))
    inside = (pitches >= LOWEST_PITCH) & (pitches <= HIGHEST_PITCH)
    kept: list[int] = []
    for index in order[inside[order]]:
        if not kept or pitches[kept[-1]] != pitches[index] or starts[index] - starts[kept[-1]] > 0.05:
            kept.append(int(index))
    chosen = (
        np.array(kept, np.int64)[np.argsort(starts[kept], kind="stable")] if kept else np.zeros(0, np.int64)
    )
    return Notes(starts[chosen], ends[chosen], pitches[chosen])


def note_scores(reference: Notes, estimated: Notes, window_seconds: float = 0.05) -> MatchScores:
    """Recall, precision and F of notes whose onsets are within 50 ms and whose pitches are equal; ends do not count.

    `mir_eval.transcription.precision_recall_f1_overlap` without offsets (Raffel et al., "mir_eval", ISMIR 2014). Without
    any note on one side the score is 0.
    """
    if not (len(reference.pitches) and len(estimated.pitches)):
        return MatchScores(0.0, 0.0, 0.0)
    sides = []
    for notes in (reference, estimated):
        ends = np.maximum(notes.end_seconds, notes.start_seconds + 1e-3)
        sides += [
            np.stack([notes.start_seconds, ends], axis=1),
            440.0 * 2.0 ** ((notes.pitches - 69.0) / 12.0),
        ]
    precision, recall, f_measure, _ = require("mir_eval.transcription", "eval").precision_recall_f1_overlap(
        *sides, onset_tolerance=window_seconds, offset_ratio=None
    )
    return MatchScores(float(recall), float(precision), float(f_measure))
