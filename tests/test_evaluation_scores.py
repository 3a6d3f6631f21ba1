"""Statistics of scores, and the benchmark of a composer."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from conftest import RATE, steps_room
from test_compose import make_composer

from silent2music import transcription
from silent2music.audio import Waveform, write
from silent2music.data.pairs import Pair, write_pairs
from silent2music.errors import CheckpointError, DataError
from silent2music.evaluation import baselines, benchmark, probing
from silent2music.evaluation.notes import (
    bar_repetition,
    chord_shares,
    instrument_shares,
    melody,
    melody_moves,
    note_statistics,
    onset_times,
)
from silent2music.evaluation.originality import compare_scores, shared_runs
from silent2music.evaluation.pieces import EvalConfig
from silent2music.evaluation.scores import evaluate_scores, scores_text
from silent2music.score import Part, Score, write_midi


def part(starts, pitches, lasting=0.4, role="melody", is_drum=False) -> Part:
    starts = np.asarray(starts, np.float64)
    n = len(starts)
    return Part("piano", 0, is_drum, role, starts, starts + lasting, np.asarray(pitches), np.full(n, 64))


def test_statistics_of_a_score_whose_figures_are_known() -> None:
    # C major for two seconds, then A minor: eight onsets in four seconds, half of the time silent but for a drum.
    melody_part = part(np.arange(8) * 0.5, [60, 64, 67, 60, 69, 72, 76, 69], lasting=0.25)
    drum = part([3.5], [36], lasting=0.5, role="percussion", is_drum=True)
    found = note_statistics(Score(4.0, (melody_part, drum), bar_seconds=np.array([0.0, 2.0])))
    assert found["onsets_hz"] == 2.0 and found["notes_hz"] == 9 / 4
    assert found["rest_share"] == pytest.approx((4.0 - 8 * 0.25 - 0.25) / 4.0)
    assert found["longest_rest_seconds"] == pytest.approx(0.25)
    assert found["polyphony"] == pytest.approx((8 * 0.25 + 0.5) / 4.0)
    assert found["melodic_interval"] == pytest.approx(np.mean([4, 3, 7, 9, 3, 4, 7]))
    assert found["melodic_steps"] == found["melodic_repeats"] == 0.0
    shares = np.array([3, 2, 1, 2]) / 8  # C, E, G and A
    assert found["pitch_class_bits"] == pytest.approx(-(shares * np.log2(shares)).sum())
    assert found["mean_velocity"] == 64


def test_chords_are_told_apart_and_one_that_stands_does_not_change() -> None:
    still = part([0.0, 0.0, 0.0], [60, 64, 67], lasting=4.0)
    assert note_statistics(Score(4.0, (still,)))["chord_changes_hz"] == 0.0
    moving = part(np.repeat(np.arange(4.0), 3), [60, 64, 67, 65, 69, 72, 67, 71, 74, 60, 64, 67], lasting=1.0)
    assert note_statistics(Score(4.0, (moving,)))["chord_changes_hz"] == pytest.approx(3 / 4)


def test_an_empty_score_is_one_rest() -> None:
    found = note_statistics(Score(5.0, ()))
    assert found["rest_share"] == 1.0 and found["longest_rest_seconds"] == 5.0 and found["onsets_hz"] == 0.0
    assert "pitch_class_bits" not in found and "bar_repetition" not in found


def test_a_bar_that_comes_again_is_a_repetition() -> None:
    bars = np.arange(4.0)
    same = part(np.add.outer(bars, [0.0, 0.5]).ravel(), [60, 62] * 4)
    assert bar_repetition(Score(4.0, (same,), bar_seconds=bars)) == 1.0
    other = part(np.add.outer(bars, [0.0, 0.5]).ravel(), [60, 61, 62, 63, 64, 65, 66, 67])
    assert bar_repetition(Score(4.0, (other,), bar_seconds=bars)) == 0.0


def test_the_melody_is_its_part_or_the_highest_line() -> None:
    low, high = part([0.0, 1.0], [40, 41], role="bass"), part([0.01, 1.0], [70, 71], role="")
    assert melody(Score(2.0, (low, high))).tolist() == [70, 71]
    own = part([0.0, 1.0], [50, 52])
    assert melody(Score(2.0, (low, high, own))).tolist() == [50, 52]
    assert onset_times(Score(2.0, (low, high))).tolist() == [0.0, 1.0]


def test_an_instrument_of_few_notes_has_strayed() -> None:
    steady, stray = part(np.arange(8.0), [60] * 8), part([0.0], [72])
    found = note_statistics(Score(9.0, (steady, dataclasses.replace(stray, name="harp"))))
    assert found["instruments"] == 2 and found["stray_instruments"] == 0.5


def test_chords_and_instruments_are_named_by_their_share() -> None:
    # Three seconds of D major and one of G major: in C, these are C and F.
    chords = part(np.repeat(np.arange(4.0), 3), [62, 66, 69] * 3 + [67, 71, 74], lasting=1.0)
    score = Score(4.0, (chords,))
    assert chord_shares([score]) == {"C": 0.75, "F": 0.25}
    assert instrument_shares([score, Score(4.0, ())]) == {"piano": 0.5}


def test_a_borrowed_melody_is_found_in_any_key_and_tempo() -> None:
    tune, rhythm = (
        np.array([60, 62, 64, 67, 65, 64, 62, 71, 60]),
        np.array([0, 1, 1.5, 2, 4, 5, 6, 6.5, 7]) * 0.5,
    )
    beats = np.arange(0.0, 8.0, 0.5)
    taught = Score(8.0, (part(rhythm, tune),), beat_seconds=beats)
    borrowed = Score(8.0, (part(1.5 * rhythm[1:], tune[1:] + 5),), beat_seconds=1.5 * beats[:10])
    own = Score(8.0, (part(rhythm, 60 + np.arange(9) * 5 % 7),), beat_seconds=beats)
    assert shared_runs([melody_moves(borrowed), melody_moves(own)], [melody_moves(taught)]) == [7, 1]
    found = compare_scores({"a": borrowed, "b": own}, [own, own], {"tune": taught})
    assert found["too_near"] == [{"output": "a", "notes": 7}] and found["limit"] == 1.0
    assert compare_scores({"a": own}, [own], {}) == {"n_training": 0}


def beeps(at: np.ndarray) -> np.ndarray:
    """Three seconds with a tone at each time."""
    music = np.zeros((1, 3 * RATE), np.float32)
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(RATE // 5) / RATE) * np.linspace(1, 0, RATE // 5)
    for start in np.rint(at * RATE).astype(int):
        music[0, start : start + len(tone)] += tone
    return music


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Held-out rooms with steps, one with nothing, and scores that meet every step."""
    folder = tmp_path_factory.mktemp("scored")
    rows = []
    for i in range(5):
        interval = 0.3 + 0.07 * i
        at = np.arange(0.1, 2.6, interval)
        kind = "nothing" if i == 4 else "steps"
        room = steps_room(3.0, interval=interval) if i < 4 else np.zeros((1, 3 * RATE), np.float32)
        write(folder / f"{i}.wav", Waveform(room, RATE))
        score = Score(3.0, () if i == 4 else (part(at, 60 + np.arange(len(at)) % 5),))
        write_midi(folder / f"{i}.mid", score)
        labels = {"kind": kind, "event_seconds": [] if i == 4 else at.tolist()}
        write(folder / f"{i}.music.wav", Waveform(beeps(at if i < 4 else at[:0]), RATE))
        rows.append(Pair(f"{i}.wav", f"{i}.music.wav", split="validation", labels=labels, score=f"{i}.mid"))
    write_pairs(folder, rows)
    return folder


@pytest.fixture(scope="module")
def model(model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated") / "model"
    shutil.copytree(model_folder, folder)
    make_composer().save_pretrained(folder / "composer")
    return folder


def test_a_composer_is_judged_beside_real_scores_other_rooms_and_none(model, pairs) -> None:
    report = evaluate_scores(model, pairs, EvalConfig(n=5, workers=1))
    hits = report["onsets"]["hit_rate"]
    assert report["onsets"]["n"] == 4
    assert hits["real"]["mean"] == 1.0 and report["onsets"]["precision"]["real"]["mean"] == 1.0
    assert hits["model"]["mean"] < 1.0
    difference = hits["model"]["mean"] - hits["shuffled"]["mean"]
    assert hits["model - shuffled"]["mean"] == pytest.approx(difference)
    assert report["nothing"]["notes_hz"]["real"]["mean"] == 0.0
    assert report["nothing"]["notes_hz"]["model"]["n"] == 1
    assert set(report["notes"]["model"]) == {"all", "steps", "nothing"}
    assert 0 <= report["likelihood"]["recall_at_1"]["mean"] <= 1 and report["likelihood"]["among"] == 5
    ratio = report["density"]["all"]["model_over_real"]
    onsets = {name: report["notes"][name]["all"]["onsets_hz"] for name in ("model", "real")}
    assert ratio["mean"] == pytest.approx(onsets["model"] / onsets["real"])
    assert report["originality"] == {"n_training": 0}
    assert report["instruments"]["real"]["steps"] == {"piano": 1.0}
    assert "sound" not in report
    text = scores_text(report)
    assert "onset hit_rate" in text and "notes a second where there is nothing, model" in text
    assert report == evaluate_scores(model, pairs, EvalConfig(n=5, workers=1))


def test_what_cannot_be_judged_is_said(model, pairs, model_folder, tmp_path) -> None:
    with pytest.raises(CheckpointError, match="has no composer"):
        evaluate_scores(model_folder, pairs)
    write_pairs(tmp_path, [])
    with pytest.raises(DataError, match="0 held-out pairs with scores; expected 2 or more"):
        evaluate_scores(model, tmp_path)


def test_the_command_writes_the_figures(s2m, model, pairs) -> None:
    options = ("--model", model, "--pairs", pairs, "--n", 3, "--workers", 1)
    code, said, complaint = s2m("eval-scores", *options)
    assert code == 0, complaint
    assert "3 held-out rooms" in said
    assert json.loads(s2m("eval-scores", *options, "--json")[1])["n"] == 3


def test_the_benchmark_has_sections_on_scores_where_a_model_composes_and_performs(
    model, pairs, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def perform(folder, precision, sampling, job) -> Waveform:
        return Waveform(beeps(np.zeros(0) if job[1] is None else onset_times(job[1])), RATE)

    monkeypatch.setattr(probing, "_perform", perform)
    monkeypatch.setattr(probing.Subject, "performs", True)
    for module in (transcription, benchmark):
        monkeypatch.setattr(module, "can_transcribe", lambda: False)
    monkeypatch.setattr(baselines, "soundfonts_of", lambda folder: [])
    report = benchmark.evaluate(model, pairs, tmp_path, EvalConfig(n=4, n_long=0, n_diverse=0, workers=1))
    assert report["scores"]["onsets"]["hit_rate"]["real"]["mean"] == 1.0
    found = report["performance"]["systems"]
    assert found["own"]["onset_f"]["mean"] > 0.9 > 0.5 > found["other"]["onset_f"]["mean"]
    assert found["none"]["onset_f"]["mean"] == 0.0
    names = {target["name"].partition(":")[0] for target in report["targets"]}
    assert {"composed scores", "performing a given score"} <= names
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert (
        "## Composed scores" in text and "## Performing a given score" in text and "nan" not in text.lower()
    )
    assert len(report["left_out"]) == 1 and "--no-deps basic-pitch" in report["left_out"][0]
