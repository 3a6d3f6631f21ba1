from pathlib import Path

import numpy as np
import pytest
import symusic

from silent2music.errors import DataError
from silent2music.factory.scores import (
    Wish,
    all_notes,
    load_score,
    phrase_starts,
    pick_passage,
)

TPQ = 480
MAJOR_SCALE = (0, 2, 4, 5, 7, 9, 11)


def write_midi(path: Path, tracks, signatures=((0, 4, 4),), bpm=90.0) -> Path:
    """`tracks`: (name, program, [(start, duration, pitch) in quarters]); a track named "Drums" is a drum kit."""
    score = symusic.Score(TPQ)
    score.tempos.append(symusic.Tempo(time=0, qpm=bpm))
    for quarter, numerator, denominator in signatures:
        score.time_signatures.append(symusic.TimeSignature(int(quarter * TPQ), numerator, denominator))
    for name, program, notes in tracks:
        track = symusic.Track(name=name, program=program, is_drum=name == "Drums")
        for start, duration, pitch in notes:
            track.notes.append(symusic.Note(int(start * TPQ), int(duration * TPQ), pitch, 80))
        score.tracks.append(track)
    path.parent.mkdir(parents=True, exist_ok=True)
    score.dump_midi(path)
    return path


def melody(n_quarters: int, base: int = 60, start: float = 0.0) -> list[tuple[float, float, int]]:
    return [(start + q, 1.0, base + MAJOR_SCALE[q % 7]) for q in range(n_quarters)]


@pytest.mark.parametrize(
    ("name", "program", "sung"),
    [
        ("Singstimme", 0, True),
        ("Voice", 0, True),
        ("Soprano II.", 0, True),
        ("Ténor", 0, True),
        ("Bass I", 0, True),
        ("", 52, True),
        ("Alto Saxophone", 65, False),
        ("Bass", 32, False),
        ("Strings", 48, False),
        ("Oboe", 68, False),
        ("", 68, False),
    ],
)
def test_vocal_parts_are_dropped(tmp_path, name, program, sung):
    path = write_midi(tmp_path / "a.mid", [(name, program, melody(8, 72)), ("Piano", 0, melody(8, 48))])
    score = load_score(path)
    assert [part.name for part in score.parts] == (["Piano"] if sung else [name, "Piano"])


def test_index_tells_a_stand_in_voice_from_an_oboe_behind_a_link_too(tmp_path):
    tracks = [("", 68, melody(8, 72)), ("", 0, melody(8, 48))]
    sung, played = (write_midi(tmp_path / "songs" / name, tracks) for name in ("sung.mid", "played.mid"))
    index = "path\tparts\nsongs/sung.mid\tSingstimme, Pianoforte\nsongs/played.mid\tOboe, Piano\n"
    (tmp_path / "index.tsv").write_text(index)
    assert [part.program for part in load_score(sung).parts] == [0]
    assert [part.program for part in load_score(played).parts] == [68, 0]
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "linked").symlink_to(tmp_path / "songs", target_is_directory=True)
    (tmp_path / "here" / "index.tsv").write_text(
        index.replace("songs/played", "linked/sung").replace("songs/sung", "linked/played")
    )
    (tmp_path / "index.tsv").unlink()
    assert [part.program for part in load_score(tmp_path / "here" / "linked" / "played.mid").parts] == [0]


def test_a_vocal_line_alone_is_kept_for_the_piano(tmp_path):
    score = load_score(write_midi(tmp_path / "a.mid", [("Voice", 52, melody(8))]))
    assert [part.program for part in score.parts] == [0]
    assert score.n_beats == 8


def test_vocal_lines_are_kept_apart_for_instruments_to_play(tmp_path):
    path = write_midi(tmp_path / "a.mid", [("Voice", 52, melody(8, 72)), ("Piano", 0, melody(8, 48))])
    score = load_score(path)
    assert [part.name for part in score.sung] == ["Voice"]
    assert [part.name for part in score.with_voices().parts] == ["Voice", "Piano"]


def test_drums_are_no_part_but_go_with_the_passage(tmp_path):
    hits = [(q / 2, 0.1, 36 if q % 2 else 42) for q in range(64)]
    path = write_midi(tmp_path / "a.mid", [("Piano", 0, melody(32)), ("Drums", 0, hits)])
    score = load_score(path)
    assert [part.name for part in score.parts] == ["Piano"]
    passage = pick_passage(score, 8, np.random.default_rng(0))
    assert len(passage.drums.starts) == 16
    assert set(passage.drums.pitches) == {36, 42}
    alone = load_score(write_midi(tmp_path / "b.mid", [("Drums", 0, hits)]))
    assert alone.parts == ()
    assert len(pick_passage(alone, 40, np.random.default_rng(0)).drums.starts) == 80, "drumming goes round"


@pytest.mark.parametrize(
    ("name", "pitches", "shift"),
    [
        ("Contrabass", (48, 50, 52), -12),
        ("Contrabass", (36, 38, 43), 0),
        ("Kontrabas", (48, 50, 52), -12),
        ("Contrabass Clarinet", (48, 50, 52), 0),
        ("Piccolo", (74, 79, 81), 12),
        ("Flauto piccolo", (74, 79, 81), 12),
        ("Piccolo", (86, 91, 98), 0),
        ("Violin", (48, 50, 52), 0),
    ],
)
def test_instruments_at_written_pitch_are_moved_to_where_they_sound(tmp_path, name, pitches, shift):
    notes = [(float(q), 1.0, pitches[q % 3]) for q in range(12)]
    score = load_score(write_midi(tmp_path / "a.mid", [(name, 0, notes)]))
    assert sorted(set(score.parts[0].pitches)) == [p + shift for p in pitches]


@pytest.mark.parametrize(("bpm", "expected"), [(90.0, 90.0), (600.0, 300.0), (20.0, 40.0)])
def test_a_tempo_that_nobody_plays_is_halved_or_doubled(tmp_path, bpm, expected):
    score = load_score(write_midi(tmp_path / "a.mid", [("Piano", 0, melody(16))], bpm=bpm))
    assert score.tempo_bpm == pytest.approx(expected, rel=1e-3)


def test_a_passage_of_the_wanted_density_and_end_is_preferred(tmp_path):
    notes = [*melody(30), *((32 + q / 4, 0.2, 60 + q % 5) for q in range(128)), *melody(30, start=64)]
    score = load_score(write_midi(tmp_path / "a.mid", [("Piano", 0, notes)]))

    def rate(wanted: float) -> float:
        passages = [pick_passage(score, 12, np.random.default_rng(s), Wish("", wanted)) for s in range(30)]
        return float(np.mean([len(passage.notes.starts) / 12 for passage in passages]))

    assert rate(4.0) > 2 * rate(1.0)
    closing = [pick_passage(score, 32, np.random.default_rng(s), Wish(closes=True)).n_beats for s in range(3)]
    assert closing == [32] * 3


def test_beats_are_those_of_the_metre(tmp_path):
    # One bar of 4/4, two of 6/8, one of 2/2: 4 + 2 * 2 + 2 beats.
    signatures = ((0, 4, 4), (4, 6, 8), (10, 2, 2))
    notes = [(0.0, 1.0, 60), (4.0, 1.5, 62), (5.5, 0.5, 64), (10.0, 4.0, 65)]
    score = load_score(write_midi(tmp_path / "a.mid", [("Piano", 0, notes)], signatures, bpm=90.0))
    assert score.n_beats == 10
    assert score.bar_beats.tolist() == [0, 4, 6, 8]
    np.testing.assert_allclose(score.parts[0].start_beats, [0.0, 4.0, 5.0, 8.0], atol=1e-6)
    np.testing.assert_allclose(score.parts[0].end_beats, [1.0, 5.0, 5.0 + 1 / 3, 10.0], atol=1e-6)
    assert score.tempo_bpm == pytest.approx(90.0, rel=1e-3)


def test_tempo_counts_the_beats_of_the_metre(tmp_path):
    path = write_midi(tmp_path / "a.mid", [("Piano", 0, melody(12))], ((0, 6, 8),), bpm=90.0)
    assert load_score(path).tempo_bpm == pytest.approx(60.0, rel=1e-3)


def test_phrases_start_after_rests(tmp_path):
    notes = [*melody(14), *melody(14, start=16.0), *melody(16, start=32.0)]
    score = load_score(write_midi(tmp_path / "a.mid", [("Piano", 0, notes)]))
    assert phrase_starts(score) == [0, 16, 32]
    assert score.n_beats == 48


@pytest.mark.parametrize("n_beats", [1, 7, 16, 100])
def test_a_passage_has_the_asked_length(tmp_path, n_beats):
    notes = [*melody(14), *melody(14, start=16.0)]
    score = load_score(write_midi(tmp_path / "a.mid", [("Piano", 0, notes)]))
    passage = pick_passage(score, n_beats, np.random.default_rng(0))
    again = pick_passage(score, n_beats, np.random.default_rng(0))
    assert passage.n_beats == n_beats
    assert passage.bar_beats[0] == 0
    assert (np.diff(passage.bar_beats) > 0).all()
    assert passage.notes.starts.min() >= 0
    assert passage.notes.ends.max() <= n_beats + 1e-6
    np.testing.assert_array_equal(passage.notes.pitches, again.notes.pitches)
    if n_beats == 100:
        assert len(passage.notes.starts) > 2 * len(all_notes(score.parts).starts), "a short score is repeated"


def test_a_passage_of_the_wanted_mode_is_preferred(tmp_path):
    minor = [
        (s, d, p)
        for s, d, p in zip(range(32, 64), [1.0] * 32, [57, 60, 64, 68, 69, 62, 65, 57] * 4, strict=True)
    ]
    score = load_score(write_midi(tmp_path / "a.mid", [("Piano", 0, [*melody(30), *minor])]))
    modes = [
        pick_passage(score, 12, np.random.default_rng(seed), Wish(mode="minor")).mode for seed in range(40)
    ]
    plain = [
        pick_passage(score, 12, np.random.default_rng(seed), Wish(mode="major")).mode for seed in range(40)
    ]
    assert modes.count("minor") > plain.count("minor") + 8


def test_errors_name_the_file(tmp_path):
    with pytest.raises(DataError, match=r"gone\.mid does not exist"):
        load_score(tmp_path / "gone.mid")
    text = tmp_path / "text.mid"
    text.write_text("no music")
    with pytest.raises(DataError, match=r"text\.mid cannot be read as MIDI"):
        load_score(text)
    empty = write_midi(tmp_path / "empty.mid", [("Piano", 0, [])])
    with pytest.raises(DataError, match=r"empty\.mid holds no notes"):
        load_score(empty)
    truncated = tmp_path / "truncated.mid"
    whole = write_midi(tmp_path / "whole.mid", [("Piano", 0, melody(8))]).read_bytes()
    truncated.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"truncated\.mid"):
        load_score(truncated)
