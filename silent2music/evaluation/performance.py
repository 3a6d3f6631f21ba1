"""How well music performs a given score: harmony, onsets, notes and loudness, beside their nulls and ceilings.

A pair's own score is performed under its room, another piece's under the same room, and none; the same seeds. The
ceilings are the pair's real music, which is the same score played by fluidsynth, and that through the codec. What real
music of another pair scores is chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from silent2music import transcription
from silent2music.arrays import DoubleArray, FloatArray
from silent2music.audio import Waveform
from silent2music.errors import require
from silent2music.evaluation.features import SAMPLE_RATE, onset_seconds
from silent2music.evaluation.following import MatchScores, onset_scores
from silent2music.evaluation.pieces import Item
from silent2music.evaluation.probing import Subject
from silent2music.evaluation.statistics import figure_differences, mean_figures
from silent2music.evaluation.tables import Figures, partners_of
from silent2music.score import ENERGY_RATE_HZ, Score
from silent2music.transcription import Notes

FIGURES = ("chroma", "onset_f", "note_f", "note_level")
"""What `performance_scores` may give, in the order of a report."""

CQT_HOP = 960
CQT_RATE_HZ = SAMPLE_RATE / CQT_HOP
LOWEST_PITCH, N_PITCHES, BINS_PER_PITCH = 24, 84, 3
"""The constant-Q transform: 25 frames a second, seven octaves from C1 on, 36 bins to each."""

HEARD_DB = 60.0
"""Frames that are farther below the loudest one have no harmony."""

ATTACK_SECONDS = 0.2
"""How long after its start a note is looked for at its loudest."""

MIN_NOTES, MIN_SPREAD_DB = 8, 1.0
"""Notes, and their standard deviation in dB, from which loudness is asked of them."""


@dataclass(frozen=True)
class Performed:
    """What is measured of music that performs a score.

    Attributes:
        chroma: `[12, F]` at `CQT_RATE_HZ`, C first.
        magnitude: `[84, F]` of each semitone from C1 on.
        onset_seconds: `[E]`.
        notes: as the outside judge hears them; None without it.
    """

    chroma: FloatArray
    magnitude: FloatArray
    onset_seconds: DoubleArray
    notes: Notes | None


def measure(music: Waveform) -> Performed:
    """Measure a piece: harmony, onsets and, where the extra `[transcribe]` is installed, notes.

    The chroma is librosa's of its constant-Q transform (Schörkhuber and Klapuri, SMC 2010), not normalised.
    """
    mono = music.mono().resampled(SAMPLE_RATE)
    librosa = require("librosa")
    layout = {"bins_per_octave": 12 * BINS_PER_PITCH}
    cqt = np.abs(
        librosa.cqt(
            mono.samples[0],
            sr=SAMPLE_RATE,
            hop_length=CQT_HOP,
            fmin=440.0 * 2.0 ** ((LOWEST_PITCH - 69) / 12.0),
            n_bins=N_PITCHES * BINS_PER_PITCH,
            **layout,
        )
    ).astype(np.float32)
    chroma = librosa.feature.chroma_cqt(C=cqt, sr=SAMPLE_RATE, norm=None, **layout).astype(np.float32)
    # The bins of a semitone lie around it.
    around = np.pad(cqt, ((1, 1), (0, 0)))[: len(cqt)].reshape(N_PITCHES, BINS_PER_PITCH, -1)
    notes = transcription.transcribe(mono) if transcription.can_transcribe() else None
    return Performed(chroma, around.max(axis=1), onset_seconds(mono), notes)


def chroma_cosine(reference_chroma: FloatArray, estimated_chroma: FloatArray) -> float:
    """Mean cosine of chroma, 0 to 1, over the frames in which the reference sounds; 0 if it never does.

    Args:
        reference_chroma: `[12, F]`, not normalised; estimated_chroma: likewise.
    """
    n_frames = min(reference_chroma.shape[1], estimated_chroma.shape[1])
    reference, estimated = (
        np.asarray(chroma[:, :n_frames], np.float64) for chroma in (reference_chroma, estimated_chroma)
    )
    norms = np.linalg.norm(reference, axis=0)
    sounds = norms > max(norms.max(initial=0.0) * 10.0 ** (-HEARD_DB / 20.0), 1e-9)
    if not sounds.any():
        return 0.0
    both = norms * np.linalg.norm(estimated, axis=0)
    cosines = (reference * estimated).sum(axis=0) / np.maximum(both, 1e-12)
    return float(cosines[sounds].mean())


def note_level_correlation(score: Score, magnitude: FloatArray) -> float | None:
    """Correlation over notes of their loudness in the score with their level in the sound, both in dB, -1 to 1.

    In the score, velocity v counts as 40 log10(v / 127) dB (General MIDI 2, 1999) and the loudness automation is added;
    in the sound, a note is as loud as its own semitone at most is within `ATTACK_SECONDS`. Instruments differ in
    loudness, so that even perfect playing is below 1: compare with fluidsynth's.

    Args:
        magnitude: `[84, F]` of the sound, see `Performed`.

    Returns:
        None with fewer than `MIN_NOTES` notes that differ in loudness.
    """
    wanted, found = [], []
    for part in score.parts:
        bins = part.pitches - LOWEST_PITCH
        frames = np.rint(part.start_seconds * CQT_RATE_HZ).astype(np.int64)
        n_frames = 1 + round(ATTACK_SECONDS * CQT_RATE_HZ)
        kept = (bins >= 0) & (bins < N_PITCHES) & (frames < magnitude.shape[1])
        if part.is_drum or not kept.any():
            continue
        bins, frames = bins[kept], frames[kept]
        window = np.minimum(frames[:, None] + np.arange(n_frames), magnitude.shape[1] - 1)
        found.append(magnitude[bins[:, None], window].max(axis=1))
        loudness = 40.0 * np.log10(part.velocities[kept] / 127.0)
        if len(score.gain_db):
            at = np.minimum((part.start_seconds[kept] * ENERGY_RATE_HZ).astype(int), len(score.gain_db) - 1)
            loudness = loudness + score.gain_db[at]
        wanted.append(loudness)
    if not wanted:
        return None
    loudness = np.concatenate(wanted)
    if len(loudness) < MIN_NOTES or loudness.std() < MIN_SPREAD_DB:
        return None
    loudest = np.concatenate(found).astype(np.float64)
    level = 20.0 * np.log10(np.maximum(loudest, max(loudest.max() * 10.0 ** (-HEARD_DB / 20.0), 1e-9)))
    return float(np.corrcoef(loudness, level)[0, 1]) if level.std() > 1e-9 else 0.0


JUDGED_PITCHES = (21, 108)
"""What the judge hears: the keys of a piano."""


def notes_of(score: Score) -> Notes:
    """What the judge could hear of a score: all but drums, notes of one key within 50 ms of each other as one."""
    starts, ends, numbers, _ = score.notes(pitched=True)
    pitches = numbers.astype(np.float64)
    order = np.lexsort((starts, pitches))
    inside = (pitches >= JUDGED_PITCHES[0]) & (pitches <= JUDGED_PITCHES[1])
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


def performance_scores(score: Score, real: Performed, played: Performed) -> dict[str, float]:
    """The `FIGURES` of a performance; those that the score leaves no room for are missing."""
    found = {}
    if score.n_notes:
        found["chroma"] = chroma_cosine(real.chroma, played.chroma)
    if len(real.onset_seconds):
        hits = len(played.onset_seconds) and onset_scores(real.onset_seconds, played.onset_seconds).f_measure
        found["onset_f"] = float(hits)
    reference = notes_of(score)
    if len(reference.pitches) and played.notes is not None:
        found["note_f"] = note_scores(reference, played.notes).f_measure
    level = note_level_correlation(score, played.magnitude)
    if level is not None:
        found["note_level"] = level
    return found


def performance_table(
    scores: Sequence[Score], systems: Mapping[str, Sequence[Performed | None]], seed: int
) -> Figures:
    """The figures of each system and their differences, with intervals.

    Args:
        systems: `real`, `codec`, `own` (its score), `other` (its partner's) and `none`, for each pair where it played.

    Returns:
        `n`; `systems`: by system (`chance`, another pair's real music, added) and figure; `differences` of what is
        read together; `note_f_share`: notes found of the own score over those found through the codec.
    """
    partners = partners_of(len(scores))
    real = systems["real"]
    everything = {**systems, "chance": [real[j] for j in partners]}
    rows: dict[str, list[dict[str, float]]] = {
        name: [
            performance_scores(score, own, heard) if own and heard else {}
            for score, own, heard in zip(scores, real, played, strict=True)
        ]
        for name, played in everything.items()
    }
    report: Figures = {"n": len(scores), "judge": transcription.can_transcribe()}
    report["systems"] = {name: mean_figures(found, FIGURES, seed) for name, found in rows.items()}
    report["differences"] = {
        f"{first} - {second}": table
        for first, second in (("own", "other"), ("own", "none"), ("own", "codec"), ("other", "chance"))
        if {first, second} <= rows.keys()
        and (table := figure_differences(rows[first], rows[second], FIGURES, seed))
    }
    own, codec = (report["systems"].get(name, {}).get("note_f") for name in ("own", "codec"))
    if own and codec and codec["mean"] > 0:
        report["note_f_share"] = own["mean"] / codec["mean"]
    return report


def judge_performance(
    subject: Subject, items: Sequence[Item], sounds: Sequence[Waveform], through_codec: Sequence[Waveform]
) -> Figures:
    """Let a model perform the scores of pairs, and judge it by `performance_table`.

    Args:
        items: rooms with scores, of which `n_performed` count, and `n_contrasted` of them for the nulls.
        sounds: the real music of each; through_codec: that after the model's codec.
    """
    config = subject.config
    n = min(config.n_performed, len(items))
    items, n_nulls = items[:n], min(config.n_contrasted, n)
    # Partners together, and spread over the items, so that every kind has a share.
    twos = np.unique(np.linspace(0, max(0, n // 2 - 1), max(1, n_nulls // 2)).astype(int)).tolist()
    nulls = [i for k in twos for i in (2 * k, 2 * k + 1) if i < n]
    scores = [item.score for item in items if item.score is not None]
    partners = partners_of(n)
    given: dict[str, tuple[list[int], list[Score | None]]] = {
        "own": (list(range(n)), [*scores]),
        "other": (nulls, [_as_long(scores[partners[i]], scores[i].seconds) for i in nulls]),
        "none": (nulls, [None] * len(nulls)),
    }
    systems: dict[str, list[Performed | None]] = {
        "real": [*_measured(subject, "real", sounds[:n])],
        "codec": [*_measured(subject, "codec", through_codec[:n])],
    }
    for name, (chosen, asked) in given.items():
        seeds = [config.seed + i // 2 for i in chosen]
        music = subject.performances(f"{name} score", [items[i] for i in chosen], seeds, asked)
        found = dict(zip(chosen, _measured(subject, f"{name} score", music), strict=True))
        systems[name] = [found.get(i) for i in range(n)]
    return performance_table(scores, systems, config.seed)


def _as_long(score: Score, seconds: float) -> Score:
    """Another piece's score, cut or extended to the length of a room."""
    return replace(score.slice(0.0, seconds) if score.seconds > seconds else score, seconds=seconds)


def _measured(subject: Subject, name: str, music: Sequence[Waveform]) -> list[Performed]:
    return subject.stages.run(f"performance: {name}", measure, music)
