"""The studio without a browser: which command a choice is, names, the warm process, the folder of a piece."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rooms import RATE, steps_room

from silent2music import audio
from silent2music.cli import main
from silent2music.errors import DataError
from silent2music.score import Part, Score, read_midi, write_midi
from silent2music.studio.commands import KNOBS, curve_text, shown, wish_words
from silent2music.studio.page import repeated, spliced
from silent2music.studio.project import Project, read_roll, roll_of, safe_name, score_of
from silent2music.studio.worker import Job, Worker

EVERY = frozenset(f"--{knob.name}" for knob in KNOBS) | {"--mood", "--cue"}


# ---- which command it is ----


def test_wishes_are_the_options_of_the_command_line() -> None:
    wishes = {
        "tempo": 96, "key": "F# minor", "mood": [-0.5, 0.25], "cues": [[0.8, ""], [1.4, "reveal"]],
        "instruments": ["piano", "cello"], "swing": 0.30000000000000004, "unknown": 1, "style": "",
    }  # fmt: skip
    words = wish_words(wishes, EVERY)
    assert words == [
        "--tempo", "96", "--swing", "0.3", "--key", "F# minor", "--instruments", "piano,cello",
        "--mood=-0.5,0.25", "--cue", "0.8", "--cue", "1.4=reveal",
    ]  # fmt: skip
    assert wish_words(wishes, EVERY, only=("tempo",)) == ["--tempo", "96"]
    assert wish_words(wishes, EVERY - {"--tempo", "--cue"})[0] == "--swing"
    assert wish_words({"curve": [[0, 0, 1]]}, EVERY) == ["--mood-curve", "mood.csv"]
    assert curve_text([[2, 1, -1], [0, 0.5, 0]]) == "seconds,valence,arousal\n0,0.5,0\n2,1,-1\n"


def test_what_a_browser_says_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="could not convert"):
        wish_words({"tempo": "fast; rm"}, EVERY)
    with pytest.raises(ValueError, match="no number"):
        wish_words({"tempo": "nan"}, EVERY)


def test_every_wish_is_an_option_that_the_command_line_has(s2m) -> None:
    """But for those that a later command line may have."""
    _, said, _ = s2m("compose", "--help")
    _, infer, _ = s2m("infer", "--help")
    lacking = [knob.name for knob in KNOBS if f"--{knob.name}" not in said + infer]
    assert lacking in ([], ["prompt"])


def test_a_command_is_shown_as_a_shell_takes_it(tmp_path: Path) -> None:
    text = shown(["infer", "my room.wav", "--key", "F# minor"], tmp_path / "a b")
    assert text == f"cd '{tmp_path / 'a b'}'\ns2m infer 'my room.wav' --key 'F# minor'"


def test_a_take_of_several_is_made_again_alone() -> None:
    words = ["infer", "r.wav", "-o", "take-1.wav", "--seed", "3", "--count", "4", "--tempo", "90"]
    one = repeated(words, "take-1.3.flac", 5)
    assert one == ["infer", "r.wav", "-o", "take-1.3.flac", "--seed", "5", "--tempo", "90"]
    again = ["infer", "r.wav", "-o", "take-2.wav", "--seed", "1", "--redo", "0:1", "--of", "take-1.wav"]
    assert repeated(again, "x.ogg", 0) == [*again[:3], "x.ogg", *again[4:]]  # its record has the first seed
    with pytest.raises(DataError, match="not known any more"):
        repeated([], "take-1.flac", 0)


# ---- names and folders ----


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "..",
        "",
        "-rf.wav",
        "a\0b.wav",
        "C:\\x\\con.wav",
        "studio.json",
        "é/ü.wav",
        "x" * 400,
    ],
)
def test_a_name_stays_in_its_folder(name: str, tmp_path: Path) -> None:
    safe = safe_name(name)
    assert (tmp_path / safe).parent == tmp_path
    assert (tmp_path / safe).resolve().parent == tmp_path.resolve()
    assert safe
    assert safe[0] not in ".-"
    assert len(safe) <= 90
    assert safe.lower() not in ("con.wav", "studio.json")
    assert safe_name(safe) == safe


def test_a_piece_is_found_again(tmp_path: Path) -> None:
    project = Project.begun(tmp_path)
    assert Project.all_in(tmp_path) == []  # nothing was listened to yet
    (project.folder / "room.wav").write_bytes(b"x")
    project.room = "room.wav"
    project.note("take-1", ["infer", "room.wav"])
    (again,) = Project.all_in(tmp_path)
    assert dataclasses.asdict(again) == dataclasses.asdict(project)
    assert again.command_of("take-1.2.wav") == ["infer", "room.wav"]
    assert again.next_stem("take") == "take-2"
    assert Project.begun(tmp_path).folder != project.folder
    for bad in ("{", "[]", '{"room": "../x", "commands": {}}', '{"room": 1, "commands": []}'):
        (project.folder / "studio.json").write_text(bad, encoding="utf-8")
        assert Project.found(project.folder) is None


# ---- the piano roll ----


def tune() -> Score:
    part = Part(
        "piano",
        0,
        False,
        "melody",
        np.array([0.0, 0.5]),
        np.array([0.4, 1.0]),
        np.array([60, 64]),
        np.array([80, 90]),
    )
    return Score(2.0, (part,), beat_seconds=np.arange(0, 2, 0.5), bar_seconds=np.array([0.0]), key="C major")


def test_an_edited_roll_is_the_score_of_its_notes(tmp_path: Path) -> None:
    write_midi(tmp_path / "a.mid", tune())
    roll, base = read_roll(tmp_path / "a.mid"), read_midi(tmp_path / "a.mid")
    assert score_of(roll, base).parts[0].pitches.tolist() == [60, 64]
    roll["parts"][0]["notes"][1][2] = 67
    roll["parts"][0]["notes"].append([1.0, 9.0, 48, 70])
    roll["parts"].append(
        {"name": "cello", "program": 42, "drum": False, "role": "", "notes": [[0.0, 1.0, 40, 60]]}
    )
    score = score_of(roll, base)
    assert score.parts[0].pitches.tolist() == [60, 67, 48]
    assert score.parts[0].end_seconds[-1] == 2.0
    assert (score.parts[1].name, score.key) == ("cello", "C major")
    roll["parts"][0]["muted"] = True
    assert [part.name for part in score_of(roll, base).parts] == ["cello"]


@pytest.mark.parametrize(
    "parts",
    [[], [{}], [{"notes": [[0, 1]]}], [{"name": "x", "program": 900, "drum": False, "notes": [[0, 1, 60, 80]]}],
     [{"name": "x", "program": 0, "drum": False, "notes": [[0, 1, 600, 80]]}],
     [{"name": "x", "program": 0, "drum": False, "notes": [[1, 0.5, 60, 80]]}], "notes"],
)  # fmt: skip
def test_a_roll_that_is_none_is_refused(parts: object) -> None:
    with pytest.raises(DataError):
        score_of({"parts": parts}, tune())


def test_a_stretch_is_taken_from_another_roll() -> None:
    old = roll_of(tune(), "a.mid")
    new = json.loads(json.dumps(old))
    new["parts"][0]["notes"] = [[0.1, 0.3, 70, 80], [0.6, 3.0, 71, 80]]
    merged = spliced(old, new, 0.5, 1.5)
    assert merged["parts"][0]["notes"] == [[0.0, 0.4, 60, 80], [0.6, 1.5, 71, 80]]


# ---- the warm process ----


def echo(words: list[str]) -> None:
    """A command for the worker, which does what its words say."""
    from silent2music import processes

    kind = words[0]
    if kind == "say":
        print(Path.cwd().name)
        print("a sentence", file=sys.stderr)
    elif kind == "wait":
        assert processes.follower is not None
        processes.follower.progress("room", 1, 2)
        with pytest.MonkeyPatch.context(), interruptible():
            while True:
                time.sleep(0.01)
    elif kind == "fail":
        sys.exit(3)
    elif kind == "stick":
        while True:
            try:
                time.sleep(0.01)
            except BaseException:
                continue
    elif kind == "sound":
        assert processes.follower is not None
        pieces = iter([audio.Waveform(np.full((2, 4), 0.5, np.float32), 48_000)] * 3)
        assert len(list(processes.follower.music(pieces, iter))) == 3
    elif kind == "live":
        while chunk := sys.stdin.buffer.read(2):
            sys.stdout.buffer.write(chunk * 2)
            sys.stdout.buffer.flush()


def interruptible():
    from silent2music.processes import interruptible as within

    return within()


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker(echo)
    yield worker
    worker.close()


def ended(job: Job) -> Job:
    assert job.ended.wait(300)
    return job


@pytest.mark.slow
def test_commands_run_one_after_another_and_say_what_they_say(worker: Worker, tmp_path: Path) -> None:
    job, wrong, sound = (worker.run([kind], tmp_path) for kind in ("say", "fail", "sound"))
    assert (ended(job).code, job.printed.strip(), job.said) == (0, tmp_path.name, "a sentence\n")
    assert ended(wrong).code == 3
    assert b"".join(ended(sound).heard()) == np.full(24, 16384, "<i2").tobytes()
    assert sound.n_pieces == 1
    live = worker.run(["live"], tmp_path, live=True)
    while not live.has_begun:
        time.sleep(0.01)
    worker.hear(live, b"abcd")
    worker.hear(live, b"")
    assert b"".join(live.heard()) == b"ababcdcd"
    assert ended(live).code == 0
    assert worker.is_idle


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wait", "stick"])
def test_a_cancelled_command_ends_and_the_next_one_runs(worker: Worker, tmp_path: Path, kind: str) -> None:
    job, waiting = worker.run([kind], tmp_path), worker.run(["say"], tmp_path)
    while not job.has_begun or (kind == "wait" and not job.steps[2]):
        time.sleep(0.01)
    assert worker.ahead(waiting) == 1
    worker.cancel(waiting)
    worker.cancel(job)
    assert (ended(job).code != 0, job.said) == (True, "Cancelled.")
    assert (ended(waiting).code, waiting.said) == (130, "Cancelled.")
    assert ended(worker.run(["say"], tmp_path)).code == 0


def test_a_missing_soundfont_is_one_sentence(s2m, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio")
    code, _, said = s2m("studio", "--folder", tmp_path, "--soundfont", tmp_path / "no.sf2")
    assert (code, said.count("\n")) == (1, 1)
    assert "expected a soundfont" in said


def test_the_page_has_nothing_from_outside() -> None:
    folder = Path(main.__code__.co_filename).parent.parent / "studio"
    for path in (*folder.glob("*.js"), *folder.glob("*.css"), *folder.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert "https://" not in text, path
        assert "//cdn" not in text, path


def room_bytes(seconds: float = 2.0) -> bytes:
    """A recording of steps, as a file."""
    import io

    import soundfile

    out = io.BytesIO()
    soundfile.write(out, steps_room(seconds).T, RATE, format="WAV", subtype="FLOAT")
    return out.getvalue()
