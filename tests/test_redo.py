"""Finished music written again in a stretch, score and sound, or around what is kept of its score."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import RATE, steps_room
from test_compose import make_composer

from silent2music.audio import Waveform, write
from silent2music.config import SamplingConfig
from silent2music.controls import Controls
from silent2music.errors import ConfigError
from silent2music.export import provenance
from silent2music.model import Silent2Music
from silent2music.notation import FIRST_PART, symbol_of, write_down
from silent2music.score import ENERGY_RATE_HZ, Part, Score, midi_bytes, read_midi
from silent2music.steering import Redo

SECONDS = 2.4
ROOM = Waveform(steps_room(SECONDS), RATE)
BEGIN, END = 0.81, 1.62


@pytest.fixture(scope="module")
def folder(tmp_path_factory, sketched_folder) -> Path:
    """A model with composer and sketch whose composer plays in all roles."""
    own = tmp_path_factory.mktemp("redo") / "model"
    shutil.copytree(sketched_folder, own)
    composer = make_composer()
    composer.known_symbols[:] = False
    composer.known_symbols[:FIRST_PART] = True
    for role, program in (("bass", 32), ("harmony", 0), ("melody", 73)):
        composer.known_symbols[symbol_of(role, program, False)] = True
    composer.known_pitches[:, 30:100] = True
    composer.longest[:] = 20
    composer.polyphony.fill_(40)
    composer.repeats.fill_(200)
    composer.save_pretrained(own / "composer")
    return own


@pytest.fixture(scope="module")
def model(folder) -> Silent2Music:
    return Silent2Music.from_pretrained(folder)


@pytest.fixture(scope="module")
def score(model) -> Score:
    return model.compose(ROOM, SECONDS, seed=1)


def notes(score: Score, roles=("bass", "harmony", "melody"), inside: bool | None = None) -> list[tuple]:
    """The notes of some roles, of those that start in the stretch or of the others."""
    found = []
    for part in (p for p in score.parts if p.role in roles):
        rows = zip(part.start_seconds, part.end_seconds, part.pitches, part.velocities, strict=True)
        for start, end, pitch, velocity in rows:
            if inside is None or inside == (BEGIN <= start < END):
                found.append((part.role, part.program, float(start), float(end), int(pitch), int(velocity)))
    return sorted(found)


def test_a_stretch_of_a_score_is_composed_again_and_the_rest_stands(model, score) -> None:
    new = model.compose(ROOM, SECONDS, seed=2, redo=Redo(score, BEGIN, END))
    assert notes(new, inside=False) == notes(score, inside=False)
    assert notes(new, inside=True) != notes(score, inside=True) and notes(new, inside=True)
    assert max(end for _, _, _, end, _, _ in notes(new, inside=True)) <= END
    for name in ("beat_seconds", "bar_seconds", "boundary_seconds", "gain_db"):
        assert np.array_equal(getattr(new, name), getattr(score, name))
    assert midi_bytes(model.compose(ROOM, SECONDS, seed=2, redo=Redo(score, BEGIN, END))) == midi_bytes(new)


def test_where_a_mood_turns_loudness_is_that_of_the_new_notes_in_the_stretch_alone(model, score) -> None:
    asked = Controls.of({"mood": [[0.0, 0.0, -0.8], [SECONDS, 0.0, 0.8]]})
    new = model.compose(ROOM, SECONDS, seed=2, redo=Redo(score, BEGIN, END), asked=asked)
    at = np.arange(len(score.gain_db)) / ENERGY_RATE_HZ
    inside = (at >= BEGIN) & (at < END)
    assert np.array_equal(new.gain_db[~inside], score.gain_db[~inside])
    assert (new.gain_db[inside] != score.gain_db[inside]).all()


@pytest.mark.parametrize("kept", [("melody",), ("bass", "harmony")])
def test_what_is_kept_is_played_note_for_note_and_heard_by_the_composer(model, score, kept) -> None:
    others = tuple({"bass", "harmony", "melody"} - set(kept))
    new = model.compose(ROOM, SECONDS, seed=2, redo=Redo(score, 0.0, SECONDS, kept))
    assert notes(new, kept) == notes(score, kept) and notes(score, kept)
    assert notes(new, others) != notes(score, others) and notes(new, others)
    frames = list(model.compose_frames(ROOM, None, SECONDS, redo=Redo(score, 0.0, SECONDS, kept)))
    written = {(frame, *event[:3]) for frame, (events, _) in enumerate(frames) for event in events}
    given = write_down(Redo(score, 0.0, SECONDS, kept).standing(), 25.0)
    rows = zip(given.frames.tolist(), given.fields.tolist(), strict=True)
    assert {(frame, *event[:3]) for frame, event in rows if event[0] >= FIRST_PART} <= written


def test_a_wish_holds_in_the_stretch(model, score) -> None:
    asked = Controls.of({"instruments": "acoustic bass"})
    new = model.compose(ROOM, SECONDS, seed=2, redo=Redo(score, BEGIN, END), asked=asked)
    assert {program for _, program, *_ in notes(new, inside=True)} == {32}
    assert notes(new, inside=False) == notes(score, inside=False)


def test_new_notes_leave_those_alone_that_reach_into_the_stretch_or_follow() -> None:
    def part(starts, ends, pitches) -> Part:
        n = len(starts)
        columns = (np.array(starts), np.array(ends), np.array(pitches), np.full(n, 64))
        return Part("piano", 0, False, "harmony", *columns)

    old = Score(4.0, (part([0.5, 1.5, 3.0], [2.0, 1.9, 3.5], [60, 64, 67]),))
    new = Score(4.0, (part([1.2, 1.5, 2.4], [1.4, 3.5, 3.9], [60, 62, 67]),))
    merged = Redo(old, 1.0, 3.0).merged(new).parts[0]
    assert merged.pitches.tolist() == [60, 62, 67, 67]  # the new 60 would cut the one that still sounds
    assert merged.end_seconds.tolist() == [2.0, 3.0, 3.0, 3.5]


@pytest.mark.parametrize(
    ("begin", "end"), [(2.0, 1.0), (-1.0, 2.0), (1.0, 1.2), (3.0, 9.0), (0.0, float("nan"))]
)
def test_a_stretch_that_is_none_is_said(score, begin, end) -> None:
    with pytest.raises(
        ConfigError, match=r"cannot be written again; expected at least 0\.5 s within the 2\.4 s"
    ):
        Redo(score, begin, end)


def test_codes_outside_the_stretch_stay(model) -> None:
    piece = model.generate(ROOM, seed=3, without=("score",))
    args = (ROOM, piece.codes, BEGIN, END)
    same, other = (model.redraw(*args, SamplingConfig(seed=seed), SECONDS) for seed in (3, 4))
    first, last = 21, 40
    assert np.array_equal(same[:, :last], piece.codes[:, :last])
    assert np.array_equal(other[:, :first], piece.codes[:, :first])
    assert np.array_equal(other[:, last:], piece.codes[:, last:])
    assert not np.array_equal(other[:, first:last], piece.codes[:, first:last])
    with pytest.raises(ConfigError, match=r"The codes are \(4, 9\); expected \(4, 60\)"):
        model.redraw(ROOM, piece.codes[:, :9], BEGIN, END, SamplingConfig(), SECONDS)


# ---- the command ----


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    write(tmp_path / "room.wav", ROOM)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record_of(path: str) -> dict:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def changed_seconds(one: str, other: str) -> tuple[float, float]:
    """The first and the last moment at which two files differ."""
    (a, rate), (b, _) = (soundfile.read(path, dtype="int32", always_2d=True) for path in (one, other))
    assert a.shape == b.shape
    where = np.flatnonzero((a != b).any(axis=1))
    return where[0] / rate, where[-1] / rate


def test_a_stretch_of_a_finished_piece_is_written_again_bit_for_bit_outside(s2m, here, folder) -> None:
    assert s2m("infer", "room.wav", "--model", folder, "--tempo", "120", "--loudness", "-10")[0] == 0
    command = ("infer", "room.wav", "--redo", f"{BEGIN}:{END}", "--model", folder)
    code, said, wrong = s2m(*command)
    assert code == 0, wrong
    assert "room.music.redo.wav: 0.81 to 1.62 s of 2.40 s" in said
    first, last = changed_seconds("room.music.wav", "room.music.redo.wav")
    assert BEGIN <= first < BEGIN + 0.2 and END - 0.2 < last < END
    old, new = (read_midi(f"room.music{name}.mid") for name in ("", ".redo"))
    assert notes(new, inside=False) == notes(old, inside=False) and notes(new) != notes(old)
    assert np.array_equal(new.tempo_map.tempo_ticks, old.tempo_map.tempo_ticks)
    record = record_of("room.music.redo.json")
    assert record["settings"] == record_of("room.music.json")["settings"]
    assert record["redone"][0]["seed"] == 1 and record["redone"][0]["begin"] == BEGIN
    assert record["score"]["sha256"] == provenance.sha256(here / "room.music.redo.mid")
    before = Path("room.music.redo.wav").read_bytes()
    assert s2m(*command)[0] == 1 and s2m(*command, "--force")[0] == 0
    assert Path("room.music.redo.wav").read_bytes() == before
    # What was written again is music like any other.
    again = ("infer", "room.wav", "--of", "room.music.redo.wav", "--redo", "0:00.5-0:01.1", "-o", "third.wav")
    assert s2m(*again, "--model", folder, "--seed", "9")[0] == 0
    first, last = changed_seconds("room.music.redo.wav", "third.wav")
    assert first >= 0.5 and last < 1.1
    assert [own["seed"] for own in record_of("third.json")["redone"]] == [1, 9]


def test_the_melody_is_kept_and_the_rest_composed_again(s2m, here, folder) -> None:
    assert s2m("infer", "room.wav", "--model", folder, "-o", "one.flac")[0] == 0
    code, _, wrong = s2m(
        *("infer", "room.wav", "--of", "one.flac", "--keep-melody", "-o", "two.flac", "--model", folder)
    )
    assert code == 0, wrong
    old, new = read_midi("one.mid"), read_midi("two.mid")
    assert notes(new, ("melody",)) == notes(old, ("melody",)) and notes(new) != notes(old)


def test_of_a_model_for_rooms_alone_the_sound_is_written_again(s2m, here, model_folder) -> None:
    assert s2m("infer", "room.wav", "--model", model_folder, "--mono")[0] == 0
    assert s2m("infer", "room.wav", "--model", model_folder, "--redo", "1:1.6")[0] == 0
    first, last = changed_seconds("room.music.wav", "room.music.redo.wav")
    assert first >= 1.0 and last < 1.6
    codes = [provenance.codes_of(record_of(f"room.music{name}.json")) for name in ("", ".redo")]
    assert np.array_equal(codes[0][:, :25], codes[1][:, :25])
    assert np.array_equal(codes[0][:, 40:], codes[1][:, 40:])
    for more, said in (
        (("--keep-melody",), "was made for the room alone, without a score"),
        (("--density", "0.5"), "was made for the room alone, without a score"),
        (("--redo", "3:8"), "cannot be written again; expected at least 0.5 s within the 2.4 s"),
        (("-o", "new.mp3"), "new.mp3 is of a kind that cannot keep its samples; expected .wav or .flac"),
        (("--blend", "room.wav"), "was made without another room; leave --blend and --morph out"),
        (("--tempo", "90"), "Bars and sections stand, so tempo cannot be asked of a stretch"),
        (("--adapter", "none"), "none is no adapter folder"),
    ):
        redo = () if "--redo" in more else ("--redo", "1:1.6")
        code, _, wrong = s2m("infer", "room.wav", "--model", model_folder, "--force", *redo, *more)
        assert code == 1 and said in wrong, wrong
    for more, said in (
        (("--redo", "1:2", "--seconds", "3"), "--seconds is of all the music"),
        (("--redo", "1:2", "--stems"), "--stems is of all the music"),
        (("--redo", "soon"), "'soon' is no stretch of time; expected one such as 12:20"),
        (("--redo", "1:2:3"), "no stretch of time"),
    ):
        code, _, wrong = s2m("infer", "room.wav", "--model", model_folder, *more)
        assert code == 2 and said in wrong, wrong


def test_music_that_is_not_that_of_its_record_is_refused(s2m, here, model_folder) -> None:
    write(here / "other.wav", Waveform(steps_room(SECONDS, interval=0.3), RATE))
    assert s2m("infer", "room.wav", "--model", model_folder)[0] == 0
    command = ("--redo", "1:2", "--model", model_folder)
    _, _, wrong = s2m("infer", "other.wav", *command, "--of", "room.music.wav")
    assert "was made for another recording than other.wav" in wrong
    record = record_of("room.music.json")
    Path("room.music.json").write_text(json.dumps({**record, "codes": None}), encoding="utf-8")
    assert "The record's codes cannot be read" in s2m("infer", "room.wav", *command)[2]
    Path("room.music.json").write_text("{}", encoding="utf-8")
    assert "is no record with the codes of room.music.wav" in s2m("infer", "room.wav", *command)[2]
    Path("room.music.json").unlink()
    assert "is no record with the codes of room.music.wav" in s2m("infer", "room.wav", *command)[2]
    assert not Path("room.music.redo.wav").exists()


@pytest.mark.slow
def test_a_page_of_one_room_eight_ways(here, folder, monkeypatch) -> None:
    import runpy

    composer = make_composer()
    composer.known_symbols[:] = True
    composer.known_pitches[:, 30:100] = True
    shutil.copytree(folder, here / "model")
    composer.save_pretrained(here / "model" / "composer")
    script = runpy.run_path(str(Path(__file__).parent.parent / "recipes" / "composer" / "eight_ways.py"))
    table = script["make_page"](here / "room.wav", here / "eight.html", here / "model", 1.5)
    page = (here / "eight.html").read_text(encoding="utf-8")
    assert page.count("data:audio/ogg;base64,") == 9 and page.count("Piano roll.") == 8
    assert "The room" in page and "instruments = [&quot;piano&quot;, &quot;cello&quot;]" in page
    assert len(table.splitlines()) == 10 and "instruments = piano, cello" in table
