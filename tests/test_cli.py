from __future__ import annotations

import contextlib
import json
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rooms import RATE, steps_room

from silent2music import __version__, audio
from silent2music.cli import making
from silent2music.export import beside, levelling
from silent2music.export import infer as job
from silent2music.training.running import STATE_FILE


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def one_sentence(text: str) -> str:
    """The only line of a text, which must end as a sentence does."""
    assert text.count("\n") == 1, text
    assert text.endswith((".\n", "?\n"))
    assert "Traceback" not in text
    return text


# ---- infer ----


def test_infer_writes_music_and_record_and_a_line_when_piped(
    s2m, room_file: Path, model_folder: Path
) -> None:
    line = "room.music.wav: 2.00 s, -18.0 LUFS, seed 0\n"
    assert s2m("infer", room_file, "--model", model_folder) == (0, line, "")
    assert audio.read("room.music.wav").samples.shape == (2, 96_000)
    assert json.loads(Path("room.music.json").read_text())["settings"]["seed"] == 0


def test_infer_takes_every_setting(s2m, room_file: Path, model_folder: Path) -> None:
    line = (
        "--seconds 0:01 --seed 3 --guidance 2.5 --temperature 0.9 --top-k 7 --top-p 0.8 --device cpu --mono"
        " --sample-rate 32000 --loudness film --fade-in 0.1 --fade-out 0.2"
    )
    options = shlex.split(line)
    code, _, _ = s2m("infer", room_file, "-o", "out.flac", "--model", model_folder, *options)
    assert code == 0
    assert json.loads(Path("out.json").read_text())["settings"] == {
        "seconds": 1.0,
        "seed": 3,
        "score_guidance": 1.25,
        "adherence": 4.0,
        "guidance": 2.5,
        "temperature": 0.9,
        "top_k": 7,
        "top_p": 0.8,
        "constraints": ["cells", "rests"],
        "controls": {},
        "track": 1,
        "channel": None,
        "device": "cpu",
        "delivery": {
            "sample_rate": 32_000,
            "mono": True,
            "lufs": -27.0,
            "true_peak": -2.0,
            "fade_in": 0.1,
            "fade_out": 0.2,
        },
    }
    assert audio.read("out.flac").samples.shape == (1, 32_000)


def test_infer_hears_what_it_is_told_to(s2m, room_file: Path, model_folder: Path) -> None:
    """A cut recording is used and said to be cut, or refused; a channel that there is not is named."""
    samples = np.repeat(audio.read(room_file).samples, 2, axis=0)
    audio.write("stereo.wav", audio.Waveform(samples, 24_000))
    Path("cut.wav").write_bytes(Path("stereo.wav").read_bytes()[: 3 * 2 * 30_000])
    options = ("--model", model_folder, "--seconds", 1)
    code, _, said = s2m("infer", "cut.wav", "--channel", 2, *options)
    assert (code, said.count("\n")) == (0, 1)
    assert said.startswith("cut.wav is cut: ")
    record = json.loads(Path("cut.music.json").read_text())
    assert record["settings"]["channel"] == 2
    assert record["input"]["channels"] == 2
    assert f"cut.wav {record['input']['notes'][0]}.\n" == said
    for option, reason in (
        ("--strict", "cut.wav is cut: "),
        ("--channel=3", "cut.wav has 2 channels; there is no channel 3."),
        ("--track=2", "cut.wav has one track"),
    ):
        for command in (("infer", "cut.wav", option, "--force", *options), ("analyze", "cut.wav", option)):
            code, _, said = s2m(*command)
            assert code == 1
            assert reason in said


def test_json_prints_the_sidecar(s2m, room_file: Path, model_folder: Path) -> None:
    code, printed, _ = s2m("infer", room_file, "--model", model_folder, "--json")
    assert code == 0
    assert printed == Path("room.music.json").read_text()


def test_many_inputs_go_on_past_bad_ones_and_name_them(s2m, room_file: Path, model_folder: Path) -> None:
    Path("rooms/sub").mkdir(parents=True)
    shutil.copy(room_file, "rooms/sub/good.wav")
    Path("rooms/bad.wav").write_text("no audio")
    code, printed, said = s2m(
        "infer", "missing.wav", "rooms", room_file, "--out", "out", "--json", "--model", model_folder
    )
    assert code == 1
    assert [json.loads(line)["input"]["file"] for line in printed.splitlines()] == [
        "sub/good.wav",
        "room.wav",
    ]
    first, second, last = said.splitlines()
    assert "rooms/bad.wav cannot be read as audio" in second
    assert first == "missing.wav does not exist; check the name."
    assert last == "2 of 4 recordings gave no music: missing.wav, rooms/bad.wav."
    assert sorted(p.as_posix() for p in Path("out").rglob("[!.]*") if p.is_file()) == [
        "out/manifest.jsonl",
        "out/room.music.json",
        "out/room.music.wav",
        "out/sub/good.music.json",
        "out/sub/good.music.wav",
    ]


def test_force_replaces_our_own_alone(s2m, room_file: Path, model_folder: Path) -> None:
    line = ("infer", room_file, "-o", "out.wav", "--model", model_folder)
    Path("out.wav").write_text("mine")
    code, _, said = s2m(*line, "--force")
    assert (code, Path("out.wav").read_text()) == (1, "mine")
    assert "out.wav does not say that silent2music made it" in one_sentence(said)
    Path("out.wav").unlink()
    assert s2m(*line)[0] == 0
    assert "give --force" in one_sentence(s2m(*line, "--seed", 1)[2])
    assert s2m(*line, "--seed", 1, "--force")[0] == 0
    assert json.loads(Path("out.json").read_text())["settings"]["seed"] == 1


def test_what_can_be_made_of_several_is_made(s2m, room_file: Path, model_folder: Path) -> None:
    options = ("--model", model_folder, "--seconds", 0.5)
    for rooms in ((room_file, "no.wav"), ("no.wav", room_file)):
        code, printed, said = s2m("infer", *rooms, *options)
        assert (code, printed.count("\n")) == (1, 1)
        assert said.splitlines()[-1] == "1 of 2 recordings gave no music: no.wav."
        Path("room.music.wav").unlink()
        Path("room.music.json").unlink()


def test_a_terminal_is_told_how_far_it_is(s2m, room_file: Path, model_folder: Path, monkeypatch) -> None:
    from _pytest.capture import CaptureIO

    monkeypatch.setattr(CaptureIO, "isatty", lambda self: True)
    monkeypatch.setattr(making, "progress_bar", contextlib.nullcontext)
    code, printed, _ = s2m("infer", room_file, "--count", 2, "--model", model_folder, "--seconds", 0.5)
    assert code == 0
    assert [line.partition(",")[0] for line in printed.splitlines()] == [
        "1 of 2: room.1.music.wav: 0.50 s",
        "2 of 2: room.2.music.wav: 0.50 s",
    ]
    code, printed, said = s2m("infer", room_file, "--stream", "--model", model_folder)
    assert (code, printed) == (2, "")
    assert "--stream writes sound to standard output, which is a terminal" in one_sentence(said)
    code, printed, said = s2m("infer", room_file, "-o", "-", "--model", model_folder)
    assert (code, printed) == (2, "")
    assert "-o - writes sound to standard output, which is a terminal" in one_sentence(said)


def test_control_characters_of_names_are_not_obeyed(s2m) -> None:
    code, _, said = s2m("infer", "a\x1b[2J\rb\nc.wav")
    assert code == 1
    assert one_sentence(said) == "a\\x1b[2J\\rb\\nc.wav does not exist; check the name.\n"


@pytest.mark.parametrize(
    ("text", "seconds"), [("0:00.75", 0.75), ("0:01", 1.0), ("0:00:01.5", 1.5), ("1", 1.0), ("7.5e-1", 0.75)]
)
def test_lengths_are_given_as_clocks_have_them(
    s2m, room_file: Path, model_folder: Path, text: str, seconds: float
) -> None:
    assert s2m("infer", room_file, "--model", model_folder, "--seconds", text)[0] == 0
    assert audio.read("room.music.wav").n_samples == 48_000 * seconds


COMMANDS = "infer,demo,ambience,check-ambience,analyze,train,run,validate,bench,eval"
COMMANDS += ",codec,codec fit,codec roundtrip,data,data build,data stats"


@pytest.mark.parametrize("command", ["", *COMMANDS.split(",")])
def test_help_is_a_letter_away(s2m, command: str) -> None:
    code, printed, said = s2m(*command.split(), "-h")
    assert (code, said) == (0, "")
    assert printed.startswith(f"Usage: s2m {command}".rstrip())
    assert s2m(*command.split(), "--help")[1] == printed


def test_shells_can_complete(s2m) -> None:
    _, printed, _ = s2m("--help")
    assert "--install-completion" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seconds", "nan"], "'nan' is no length of time; expected one such as 42.5, 0:30 or 1:02:03.5"),
        (["--seconds", "1:75"], "'1:75' is no length of time"),
        (["--seconds", "-1"], "--seconds is -1.0; expected at least 0.5"),
        (["--seconds", "0"], "expected at least 0.5"),
        (["--stream", "--seconds", "0"], "expected at least 0.5"),
        (["--stream", "--seconds", "nan"], "is no length of time"),
        (["--temperature", "-1"], "temperature is -1.0"),
        (["--temperature", "inf"], "temperature is inf"),
        (["--top-p", "0"], "top_p is 0.0"),
        (["--top-k", "-2"], "top_k is -2"),
        (["--guidance", "-1"], "guidance is -1.0"),
        (["--guidance", "1e39"], "guidance is 1e+39"),
        (["--seed", str(2**63)], "'--seed'"),
        (["--count", "0"], "'--count'"),
        (["--loudness", "loud"], "expected game, film, stream, podcast or a number of LUFS"),
        (["--loudness", "3"], "The loudness is 3 LUFS; expected -70 to -5"),
        (["--loudness", "nan"], "The loudness is nan LUFS"),
        (["--sample-rate", "7"], "7 is out of range; expected 8000 to 192000"),
        (["--fade-in", "-1"], "-1 is out of range"),
        (["--fade-out", "nan"], "nan is out of range"),
        (["--raw"], "--raw belongs to --stream"),
        (["-o", "-", "--json"], "-o - writes one file to standard output"),
        (["--stream", "-o", "x.wav"], "--stream takes one recording"),
    ],
)
def test_options_out_of_range_are_wrong_usage_in_one_sentence(
    s2m, room_file: Path, tmp_path: Path, model_folder: Path, arguments: list[str], words: str
) -> None:
    before = sorted(tmp_path.iterdir())
    code, printed, said = s2m("infer", room_file, "--model", model_folder, *arguments)
    assert (code, printed) == (2, "")
    assert words in one_sentence(said)
    assert said.endswith("; see s2m infer --help.\n")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["data", "build", "base", "--out", "p", "--hours", "nan"],
        ["data", "build", "base", "--out", "p", "--hours", "-1"],
        ["data", "build", "base", "--out", "p", "--hours", "1", "--workers", "1000000"],
        ["codec", "fit", "m", "--out", "c", "--hours", "inf"],
        ["eval", "--pairs", "p", "--out", "r", "--seconds", "nan"],
        ["eval", "--pairs", "p", "--out", "r", "--temperature", "nan"],
        ["codec", "bench", "--codec", "a=b", "--out", "r", "--seconds", "nan"],
        ["ambience", "a.wav", "--out", "o", "--lufs", "3"],
        ["ambience", "a.wav", "--out", "o", "--true-peak", "nan"],
        ["ambience", "a.wav", "--out", "o", "--loop", "soon"],
        ["ambience", "a.wav", "--out", "o", "--variations", "0"],
        ["infer", "-"],
    ],
)
def test_other_commands_refuse_alike(s2m, tmp_path: Path, arguments: list[str]) -> None:
    code, printed, said = s2m(*arguments)
    assert (code, printed) == (2, "")
    one_sentence(said)
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith("tiny")] == []


def test_music_goes_to_standard_output_as_wav(room_file: Path, model_folder: Path, capfdbinary) -> None:
    """Through the process's own standard output, which holds nothing else."""
    from silent2music.cli import main

    main(["infer", str(room_file), "-o", "-", "--seconds", "0.5", "--model", str(model_folder)])
    written = capfdbinary.readouterr().out
    Path("out.wav").write_bytes(written)
    assert audio.read("out.wav").samples.shape == (2, 24_000)
    assert sorted(p.name for p in Path().iterdir() if p.suffix in (".wav", ".json")) == [
        "out.wav",
        "room.wav",
    ]


@pytest.mark.parametrize("folder", ["new/", "there"])
def test_a_folder_given_as_the_output_file_is_the_output_folder(
    s2m, room_file: Path, model_folder: Path, folder: str
) -> None:
    Path("there").mkdir()
    line = f"{Path(folder) / 'room.music.wav'}: 2.00 s, -18.0 LUFS, seed 0\n"
    assert s2m("infer", room_file, "-o", folder, "--model", model_folder) == (0, line, "")
    assert sorted(path.name for path in Path(folder).iterdir()) == ["room.music.json", "room.music.wav"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "music.wav"], "--out names a folder, and music.wav looks like a file; use -o music.wav"),
        (["-o", "a/", "--out", "b"], "-o a/ and --out b both name a folder; give one of them"),
    ],
)
def test_an_output_that_is_not_clear_says_what_to_type(
    s2m, room_file: Path, model_folder: Path, options: list[str], words: str
) -> None:
    code, printed, said = s2m("infer", room_file, "--model", model_folder, *options)
    assert (code, printed) == (2, "")
    assert one_sentence(said) == f"{words}; see s2m infer --help.\n"
    assert [path.name for path in Path().iterdir() if path.name != room_file.name] == []


def test_an_output_folder_that_is_a_file_is_named(s2m, room_file: Path, model_folder: Path) -> None:
    Path("out").write_text("mine")
    line = ["--out", "out", "--model", model_folder]
    code, _, said = s2m("infer", room_file.parent, *line)
    assert (code, one_sentence(said)) == (
        1,
        "out cannot be written (a file is in its way); choose another place.\n",
    )
    code, _, said = s2m("infer", room_file, *line)
    assert code == 1 and "cannot be written" in one_sentence(said)
    assert Path("out").read_text() == "mine"


def test_nearly_nothing_is_said(s2m, room_file: Path, model_folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(levelling, "NEARLY_NOTHING_LUFS", 20.0)
    code, _, said = s2m("infer", room_file, "--model", model_folder)
    assert code == 0
    assert "room.music.wav is nearly nothing" in said


# ---- what bad input gets ----


def _silent_wav(path: Path, samples: np.ndarray) -> None:
    soundfile.write(path, samples, RATE, subtype="FLOAT")


def _bad_rooms(folder: Path) -> dict[str, tuple[Path, str]]:
    """Rooms that cannot be used, each with the words that must be said of it; more are in `hostile.py`."""
    good = steps_room(1.0)[0]
    (folder / "no_audio").mkdir()
    (folder / "no_audio" / "notes.txt").write_text("x")
    soundfile.write(folder / "whole.wav", good, RATE)
    (folder / "truncated.wav").write_bytes((folder / "whole.wav").read_bytes()[:20_000])
    _silent_wav(folder / "short.wav", good[: RATE // 4])
    _silent_wav(folder / "none.wav", good[:0])
    return {
        "missing": (folder / "missing.wav", "does not exist"),
        "folder": (folder / "no_audio", "holds no audio file"),
        "truncated": (
            folder / "truncated.wav",
            "is cut: 0.58 of 1.00 s are missing; expected at least 0.5 s",
        ),
        "short": (folder / "short.wav", "at least 0.5 s"),
        "no samples": (folder / "none.wav", "holds no samples"),
    }


@pytest.mark.parametrize("name", ["missing", "folder", "truncated", "short", "no samples"])
def test_a_bad_room_gets_one_sentence_and_no_output(
    s2m, tmp_path: Path, model_folder: Path, name: str
) -> None:
    (tmp_path / "in").mkdir()
    room, words = _bad_rooms(tmp_path / "in")[name]
    code, printed, said = s2m("infer", room, "--out", "out", "--model", model_folder)
    assert (code, printed) == (1, "")
    assert words in one_sentence(said)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "exists.wav"], "exists.wav exists already; give --force"),
        (["-o", "new.wav"], "new.json exists already; give --force"),
        (["-o", "file/out.wav"], "file/out.wav cannot be written"),
        (["-o", "out.aac"], "suffix '.aac'; expected one of .wav, .flac, .ogg, .mp3, .m4a"),
        (["--device", "tpu"], "Device 'tpu' is unknown"),
        (["--seconds", "1e9", "-o", "out.flac"], "give --force to make them all the same"),
        (["--seconds", "5:00:00"], "would be longer than a WAV file can be, 4.1 h at this rate"),
        (["--model", "nowhere"], "nowhere is no model folder"),
    ],
)
def test_an_impossible_request_gets_one_sentence(
    s2m, room_file: Path, tmp_path: Path, model_folder: Path, arguments: list[str], words: str
) -> None:
    for name in ("exists.wav", "new.json", "file"):
        Path(name).write_text("kept")
    before = sorted(tmp_path.iterdir())
    model = [] if "--model" in arguments else ["--model", model_folder]
    code, printed, said = s2m("infer", room_file, *model, *arguments)
    assert (code, printed) == (1, "")
    assert words in one_sentence(said)
    assert sorted(tmp_path.iterdir()) == before
    assert Path("exists.wav").read_text() == "kept"


def test_an_absent_cuda_device_is_said(s2m, room_file: Path, model_folder: Path, monkeypatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, said = s2m("infer", room_file, "--model", model_folder, "--device", "cuda")
    assert code == 1
    assert "Device 'cuda' is not available" in one_sentence(said)


@contextmanager
def full_disk() -> Iterator[None]:
    """A limit on file size: writes fail half way, as they do on a full disk.

    Around the command alone: pytest's own report may go to a file too, and is longer.
    """
    resource = pytest.importorskip("resource", reason="limits on file size are those of POSIX")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_a_full_disk_gets_one_sentence_and_leaves_nothing(
    s2m, room_file: Path, model_folder: Path, suffix: str
) -> None:
    with full_disk():
        code, printed, said = s2m("infer", room_file, "-o", f"full/out{suffix}", "--model", model_folder)
    assert (code, printed) == (1, "")
    assert f"full/out{suffix} cannot be written; is the disk full?" in one_sentence(said)
    assert list(Path("full").iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["infer"],
        ["infer", "a.wav", "b.wav", "-o", "out.wav"],
        ["infer", "a.wav", "-o", "out.wav", "--out", "folder"],
        ["infer", "a.wav", "--seed", "-1"],
        ["infer", "a.wav", "--seconds", "long"],
        ["infer", "a.wav", "--volume", "11"],
        ["sing"],
        ["data"],
        ["train"],
        ["eval", "--out", "report"],
        ["eval", "--out", "report", "--outputs", "files", "--rooms", "rooms"],
    ],
)
def test_wrong_usage_exits_with_2(s2m, arguments: list[str]) -> None:
    code, _, _ = s2m(*arguments)
    assert code == 2


def test_faults_of_ours_keep_their_traceback(s2m, room_file: Path, model_folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(beside, "write_music", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        s2m("infer", room_file, "-o", "out.wav", "--model", model_folder)
    assert not Path("out.wav").exists()


def test_an_interruption_ends_quietly_and_leaves_nothing(
    s2m, room_file: Path, model_folder: Path, monkeypatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(beside, "write_music", interrupted)
    code, printed, said = s2m("infer", room_file, "--out", "out", "--model", model_folder)
    assert code == 130
    assert printed == ""
    assert "Traceback" not in said
    assert list(Path("out").iterdir()) == []


# ---- the other commands ----


def test_demo_makes_music_from_the_bundled_recording_again_and_again(s2m, model_folder: Path) -> None:
    for _ in range(2):
        code, printed, _ = s2m("demo", "--model", model_folder)
        assert code == 0
        assert "s2m-demo.wav: 12.00 s" in printed
    assert audio.read("s2m-demo.wav").seconds == 12.0


def test_the_bundled_recording_is_near_silent_and_credited() -> None:
    room = audio.read(job.DEMO_ROOM)
    assert -62 < audio.rms_dbfs(room.samples) < -58
    credits = (job.DEMO_ROOM.parent / "README.md").read_text()
    assert all(word in credits for word in (job.DEMO_ROOM.name, "CC BY", "Berklee"))


def test_analyze_prints_and_draws(s2m, room_file: Path) -> None:
    code, printed, _ = s2m("analyze", room_file, "--plot", "room.png")
    assert code == 0
    assert "-60.0 dBFS RMS" in printed
    assert Path("room.png").read_bytes()[:4] == b"\x89PNG"
    code, printed, _ = s2m("analyze", room_file, "--json")
    assert code == 0
    profile = json.loads(printed)
    assert profile["file"] == "room.wav"
    assert [round(e["seconds"], 1) for e in profile["events"]] == [0.1, 0.6, 1.1, 1.6]
    assert s2m("analyze", room_file, "--music", room_file, "--plot", "both.png")[0] == 0
    assert Path("both.png").read_bytes()[:4] == b"\x89PNG"
    code, _, said = s2m("analyze", room_file, "--music", room_file)
    assert code == 2 and "give --plot" in said
    assert s2m("analyze", room_file, room_file, "--plot", "x.png")[0] == 2


def test_analyze_takes_many_files_and_goes_on_past_bad_ones(s2m, room_file: Path) -> None:
    Path("rooms").mkdir()
    shutil.copy(room_file, "rooms/b.wav")
    code, printed, said = s2m("analyze", room_file, "none.wav", "rooms", "--json")
    assert code == 1
    assert [json.loads(line)["file"] for line in printed.splitlines()] == ["room.wav", "b.wav"]
    assert said.splitlines()[-1] == "1 of 3 recordings gave no profile: none.wav."
    code, printed, _ = s2m("analyze", room_file, "rooms")
    assert code == 0
    assert [line for line in printed.splitlines() if line.endswith(":")] == [f"{room_file}:", "rooms/b.wav:"]


def test_a_picture_replaces_a_picture_of_ours_alone(s2m, room_file: Path) -> None:
    before = room_file.read_bytes()
    shutil.copy(room_file, "mine.png")
    for plot, words in (
        ("mine.png", "mine.png does not say that silent2music made it"),
        (room_file, "room.wav is the recording itself"),
        (".", ". is a folder"),
    ):
        code, printed, said = s2m("analyze", room_file, "--plot", plot, "--force")
        assert (code, printed) == (1, "")
        assert words in one_sentence(said)
    assert room_file.read_bytes() == Path("mine.png").read_bytes() == before
    for suffix in ("png", "svg", "pdf"):
        assert s2m("analyze", room_file, "--plot", f"a.{suffix}")[0] == 0
        assert "give --force" in one_sentence(s2m("analyze", room_file, "--plot", f"a.{suffix}")[2])
    assert s2m("analyze", room_file, "--plot", "a.svg", "--force")[0] == 0


def test_analyze_of_a_missing_file_is_one_sentence(s2m) -> None:
    code, printed, said = s2m("analyze", "missing.wav", "--json")
    assert (code, printed) == (1, "")
    assert one_sentence(said) == "missing.wav does not exist; check the name.\n"


def test_codec_fit_and_roundtrip(s2m, codec_folder: Path) -> None:
    music = codec_folder.parent / "music.wav"
    small = ["codec.n_fft=960", "codec.n_components=8", "codec.n_codebooks=2", "codec.codebook_size=16"]
    settings = [word for value in small for word in ("--set", value)]
    assert s2m("codec", "fit", music, "--out", "codec", *settings)[0] == 0
    code, printed, _ = s2m("codec", "roundtrip", music, "back.wav", "--codec", "codec")
    assert (code, printed) == (0, "back.wav: through 0.20 kbit/s\n")
    sound, back = audio.read(music), audio.read("back.wav")
    assert back.n_samples == sound.n_samples
    assert audio.rms_dbfs(back.samples) == pytest.approx(audio.rms_dbfs(sound.samples), abs=3.0)


def test_what_codec_train_lacks_is_named(s2m, codec_folder: Path) -> None:
    music = codec_folder.parent / "music.wav"
    Path("recipe.toml").write_text("[codec]\ndecoder_layers = 1\ncorrection_dim = 8\n")
    command = ["codec", "train", "recipe.toml", music, "--start", codec_folder, "--out", "run"]
    code, _, said = s2m(*command)
    assert code == 1
    assert "no music to validate on" in one_sentence(said)
    Path("run").mkdir()
    Path("run", STATE_FILE).write_bytes(b"")
    code, _, said = s2m(*command, "--validation", music)
    assert code == 1
    assert "holds a run already" in one_sentence(said)


def test_data_check_names_faults_by_line(s2m) -> None:
    Path("pairs").mkdir()
    Path("pairs/pairs.jsonl").write_text('{"silent": "a.wav"}\n')
    code, printed, said = s2m("data", "check", "pairs")
    assert code == 1
    assert "line 1" in printed
    assert "pairs has 1 fault" in one_sentence(said)


def test_settings_that_do_not_exist_are_named(s2m, codec_folder: Path) -> None:
    code, _, said = s2m("codec", "fit", codec_folder.parent, "--out", "c", "--set", "codec.colour=red")
    assert code == 1
    assert "Unknown setting 'codec.colour'" in one_sentence(said)


def test_version(s2m) -> None:
    assert s2m("--version") == (0, f"silent2music {__version__}\n", "")
