"""How music performs a score: figures of made signals whose answers are known, and of a model that takes scores."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import RATE

from silent2music import transcription
from silent2music.audio import Waveform
from silent2music.errors import S2MError
from silent2music.evaluation import performance
from silent2music.evaluation.performance import (
    Performed,
    chroma_cosine,
    measure,
    note_level_correlation,
    note_scores,
    notes_of,
    performance_scores,
    performance_table,
)
from silent2music.evaluation.pieces import EvalConfig
from silent2music.evaluation.report import markdown
from silent2music.evaluation.stages import Stages
from silent2music.score import Part, Score
from silent2music.transcription import Notes


def melody(pitches: list[int], velocities: list[int] | None = None, is_drum: bool = False) -> Score:
    """A note every half second, each a quarter of a second long."""
    starts = 0.5 * np.arange(len(pitches)) + 0.1
    loud = np.array(velocities or [80] * len(pitches))
    part = Part("flute", 73, is_drum, "melody", starts, starts + 0.25, np.array(pitches), loud)
    return Score(0.5 * len(pitches) + 0.5, (part,))


def played(score: Score) -> Waveform:
    """Sines for the notes of a score, as loud as their velocities say."""
    samples = np.zeros(round(score.seconds * RATE), np.float32)
    t = np.arange(round(0.25 * RATE)) / RATE
    for part in score.parts:
        for start, pitch, velocity in zip(part.start_seconds, part.pitches, part.velocities, strict=True):
            tone = np.sin(2 * np.pi * 440.0 * 2 ** ((pitch - 69) / 12) * t) * np.exp(-t / 0.1)
            first = round(start * RATE)
            samples[first : first + len(t)] += (0.5 * (velocity / 127) ** 2 * tone).astype(np.float32)
    return Waveform(samples[None], RATE)


SCORE = melody([60, 64, 67, 72, 65, 69, 62, 71, 60, 64], [20, 40, 60, 80, 100, 120, 30, 50, 70, 90])
OTHER = melody([61, 66, 70, 73, 68, 61, 63, 66, 70, 73], [100, 90, 80, 70, 60, 50, 40, 30, 20, 10])


@pytest.fixture(scope="module")
def sounds() -> dict[str, Performed]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transcription, "can_transcribe", lambda: False)
        return {"own": measure(played(SCORE)), "other": measure(played(OTHER))}


def test_the_same_music_scores_one_and_another_key_little(sounds) -> None:
    own = performance_scores(SCORE, sounds["own"], sounds["own"])
    assert own["chroma"] == pytest.approx(1.0) and own["onset_f"] == 1.0
    assert own["note_level"] > 0.95 and "note_f" not in own
    assert performance_scores(SCORE, sounds["own"], sounds["other"])["chroma"] < 0.7


def test_loudness_of_notes_is_heard_where_they_are_and_not_where_the_score_has_none(sounds) -> None:
    assert note_level_correlation(OTHER, sounds["other"].magnitude) > 0.95
    turned = melody(SCORE.parts[0].pitches.tolist(), (128 - SCORE.parts[0].velocities).tolist())
    assert note_level_correlation(turned, sounds["own"].magnitude) < -0.5
    assert note_level_correlation(melody([60] * 10), sounds["own"].magnitude) is None
    assert (
        note_level_correlation(
            melody([38] * 10, [*range(20, 120, 10)], is_drum=True), sounds["own"].magnitude
        )
        is None
    )


def test_silence_has_no_harmony() -> None:
    silent, loud = np.zeros((12, 9), np.float32), np.eye(12, 9, dtype=np.float32)
    assert chroma_cosine(silent, loud) == 0.0 == chroma_cosine(loud, silent)
    assert chroma_cosine(loud, 3.0 * loud) == pytest.approx(1.0)


def test_notes_match_by_onset_and_pitch_alone() -> None:
    reference = notes_of(SCORE)
    late = reference._replace(
        start_seconds=reference.start_seconds + 0.04, end_seconds=reference.end_seconds + 1
    )
    assert note_scores(reference, late).f_measure == 1.0
    assert (
        note_scores(reference, late._replace(start_seconds=reference.start_seconds + 0.06)).f_measure == 0.0
    )
    assert note_scores(reference, late._replace(pitches=reference.pitches + 1)).f_measure == 0.0
    half = Notes(*(column[:5] for column in reference))
    assert note_scores(reference, half)[:2] == (0.5, 1.0)
    assert note_scores(reference, Notes(*(column[:0] for column in reference))).f_measure == 0.0


def test_what_no_judge_could_tell_apart_is_one_note() -> None:
    once = SCORE.parts[0]
    doubled = Score(
        SCORE.seconds, (once, once, melody([36] * 3, is_drum=True).parts[0], melody([12, 110]).parts[0])
    )
    assert [len(column) for column in notes_of(doubled)] == [10, 10, 10]
    assert notes_of(Score(1.0, ())).pitches.size == 0


def test_a_table_sets_a_performance_beside_its_nulls_and_says_so(sounds) -> None:
    own, other = sounds["own"], sounds["other"]
    systems = {
        "real": [own, other],
        "codec": [own, other],
        "own": [own, other],
        "other": [other, own],
        "none": [None] * 2,
    }
    found = performance_table([SCORE, OTHER], systems, seed=0)
    means = {name: figures["chroma"]["mean"] for name, figures in found["systems"].items() if figures}
    assert means["own"] == pytest.approx(1.0) and means["other"] == means["chance"] < 0.7
    difference = found["differences"]["own - other"]["chroma"]
    assert difference["mean"] == pytest.approx(means["own"] - means["other"]) and difference["low"] > 0.3
    assert "own - none" not in found["differences"]
    report = {
        "n": 2,
        "config": {"seed": 0, "seconds": None},
        "performance": found,
        "left_out": ["None of this."],
    }
    text = markdown(json.loads(json.dumps(report)))
    assert "## Performing a given score" in text and "another piece's score, same room" in text
    assert "None of this." in text


def test_the_judge_hears_a_melody() -> None:
    pytest.importorskip("basic_pitch")
    pytest.importorskip("onnxruntime")
    found = note_scores(
        notes_of(SCORE), transcription.transcribe(played(melody(SCORE.parts[0].pitches.tolist())))
    )
    assert found.hit_rate > 0.7


def test_without_the_judge_a_sentence_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcription, "can_transcribe", lambda: False)
    transcription._judge.cache_clear()
    with pytest.raises(
        S2MError, match=r"basic-pitch is not installed; install it by: .*--no-deps basic-pitch"
    ):
        transcription.transcribe(played(SCORE))


def test_another_score_is_cut_or_extended_to_the_room() -> None:
    assert performance._as_long(SCORE, 2.0).seconds == 2.0 and performance._as_long(SCORE, 9.0).n_notes == 10


class Faithful:
    """Stands for a model that performs any score as sines; without one it plays the same piece for every room."""

    config = EvalConfig(n_performed=4, n_contrasted=2, workers=1)
    stages = Stages(1)

    def performances(self, name, items, seeds, scores):
        assert len(items) == len(seeds) == len(scores)
        return [played(OTHER if score is None else score) for score in scores]


def test_a_faithful_performer_is_at_the_ceiling_and_its_nulls_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transcription, "can_transcribe", lambda: False)
    items = [SimpleNamespace(score=score) for score in (SCORE, OTHER, SCORE, OTHER, SCORE)]
    sounds = [played(item.score) for item in items]
    found = performance.judge_performance(Faithful(), items, sounds, sounds)
    systems = found["systems"]
    assert found["n"] == 4
    assert systems["own"]["chroma"]["mean"] == pytest.approx(1.0) and systems["own"]["chroma"]["n"] == 4
    assert systems["other"]["chroma"]["mean"] == pytest.approx(systems["chance"]["chroma"]["mean"], abs=0.1)
    assert systems["other"]["chroma"]["n"] == systems["none"]["chroma"]["n"] == 2
    assert found["differences"]["own - none"]["chroma"]["mean"] > 0.2
