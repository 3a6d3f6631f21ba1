"""`s2m ambience`: a folder of rooms in, a folder of loops out, whatever happens on the way."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import chdir
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from rooms import RATE, steps_room
from test_cli import full_disk, one_sentence

from silent2music import audio, config
from silent2music.audio import Waveform
from silent2music.cli import main
from silent2music.config import AmbienceConfig, load_recipe
from silent2music.errors import ConfigError
from silent2music.export.ambience.job import SCHEMA
from silent2music.export.batch import plan_jobs
from silent2music.score import read_midi

ROOT = Path(__file__).parents[1]
SHORT = ["--loop", "2s", "--set", "ambience.candidates=2"]


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def hiss(path: Path, seed: int, n_channels: int = 1) -> None:
    samples = 1e-3 * np.random.default_rng(seed).standard_normal((n_channels, RATE))
    audio.write(path, Waveform(samples.astype(np.float32), RATE))


def bytes_below(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def check_manifest(manifest: dict[str, Any]) -> None:
    """Raise `ValidationError` where a manifest does not fit the schema that ships."""
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8"))).validate(manifest)


# ---- a room ----


def test_layers_and_variations_of_a_room_with_a_pulse(s2m, model_folder: Path, monkeypatch) -> None:
    # An untrained model's music is full of strokes; what stands out is not looked at here.
    monkeypatch.setattr("silent2music.export.ambience.loops.stands_out", lambda *_: 0.0)
    audio.write("walk.wav", Waveform(steps_room(4.0), RATE))
    line = "--loop 1bar --layers calm,intense --variations 2 --formats wav,ogg --rate 44100 --lufs -20"
    code, printed, said = s2m("ambience", "walk.wav", "--out", "out", "--model", model_folder, *line.split())
    assert (code, printed, said) == (0, "out/walk: 8 loops of 2.00 s\n", "")
    manifest = json.loads(Path("out/manifest.json").read_text())
    check_manifest(manifest)
    (room,) = manifest["rooms"]
    assert room["grid"]["bpm"] == pytest.approx(120.0)
    assert (room["grid"]["bars"], room["grid"]["n_samples"]) == (1, 88_200)
    made = {(f["layer"], f["variation"], f["file"].split(".")[-1]) for f in room["files"]}
    assert made == {(x, v, s) for x in ("calm", "intense") for v in (1, 2) for s in ("wav", "ogg")}
    sounds = {}
    for file in room["files"]:
        sound = audio.read(Path("out/walk") / file["file"])
        sounds[file["file"]] = sound.samples
        assert (sound.n_samples, sound.n_channels, sound.sample_rate) == (88_200, 2, 44_100)
        assert (file["loop_start"], file["loop_end"]) == (0, 88_199)
        assert file["lufs"] == pytest.approx(-20.0, abs=0.1)
        assert file["true_peak_dbtp"] < -1.0
    assert room["levels"]["sum_true_peak_dbtp"] < -1.0
    assert len({samples.tobytes() for samples in sounds.values()}) == 8


def test_ambix_comes_with_its_fold_downs_and_takes_the_rooms_direction(s2m, model_folder: Path) -> None:
    hiss(Path("field.wav"), 1, 4)
    w = audio.read("field.wav").samples[0]
    audio.write("field.wav", Waveform(np.stack([w, w, 0 * w, 0 * w]), RATE), force=True)  # from the left
    options = ["--spatial", "ambix", "--room-format", "ambix", "--set", "ambience.fold_downs=true", *SHORT]
    assert s2m("ambience", "field.wav", "--out", "out", "--model", model_folder, *options)[0] == 0
    (room,) = json.loads(Path("out/manifest.json").read_text())["rooms"]
    assert room["space"]["azimuth_degrees"] == pytest.approx(90.0)
    files = {f["spatial"]: f for f in room["files"]}
    assert [files[kind]["channels"] for kind in ("ambix", "stereo", "mono")] == [4, 2, 1]
    assert {round(f["lufs"]) for f in room["files"]} == {-24}
    w, y, z, x = audio.read(Path("out/field") / files["ambix"]["file"]).samples
    assert np.corrcoef(w, y)[0, 1] > 0.8
    assert max(audio.rms_dbfs(z[None]), audio.rms_dbfs(x[None])) < audio.rms_dbfs(y[None]) - 6.0
    left, right = audio.read(Path("out/field") / files["stereo"]["file"]).samples
    assert audio.rms_dbfs(left[None]) > audio.rms_dbfs(right[None]) + 3.0


def test_a_nearly_silent_result_is_left_so_and_said(s2m, model_folder: Path, monkeypatch) -> None:
    monkeypatch.setattr("silent2music.export.ambience.writing.NEARLY_NOTHING_LUFS", 20.0)
    monkeypatch.setattr("silent2music.export.ambience.loops.stands_out", lambda *_: 0.0)
    hiss(Path("a.wav"), 1)
    code, _, said = s2m("ambience", "a.wav", "--out", "out", "--model", model_folder, *SHORT)
    assert code == 0
    assert "a_loop_1.wav nearly nothing, as this room is" in one_sentence(said)
    assert json.loads(Path("out/manifest.json").read_text())["rooms"][0]["files"][0]["nearly_nothing"]


def test_a_seam_that_stands_out_is_said(s2m, model_folder: Path, monkeypatch) -> None:
    monkeypatch.setattr("silent2music.export.ambience.loops.stands_out", lambda *_: 0.25)
    hiss(Path("a.wav"), 1)
    code, _, said = s2m("ambience", "a.wav", "--out", "out", "--model", model_folder, *SHORT)
    assert code == 0
    assert "of loop 1 the seam or the fold stands out" in one_sentence(said)
    (file,) = json.loads(Path("out/manifest.json").read_text())["rooms"][0]["files"]
    assert file["stands_out"] >= 0.25
    (fold,) = file["folds"]
    assert 0 <= fold["sample"] <= file["loop_end"]


# ---- a model that composes ----


@pytest.mark.slow
def test_circular_loops_with_layers_extras_and_a_transition(s2m, sketched_folder: Path) -> None:
    audio.write("walk.wav", Waveform(steps_room(4.0), RATE))
    audio.write("hall.wav", Waveform(steps_room(3.0), RATE))
    line = "--loop 1bar --tempo 120 --layers intense,calm --extras stingers,intro,ending --engines wwise"
    line += " --transitions walk:hall --set ambience.candidates=1 --set ambience.stingers=1"
    words = ["ambience", "walk.wav", "hall.wav", "--out", "out", "--model", sketched_folder, *line.split()]
    assert s2m(*words)[0] == 0
    manifest = json.loads(Path("out/manifest.json").read_text())
    check_manifest(manifest)
    for room in manifest["rooms"]:
        assert (room["grid"]["bpm"], room["grid"]["bars"], room["grid"]["n_samples"]) == (120.0, 1, 96_000)
        sounds = {f["layer"]: audio.read(Path("out", room["folder"], f["file"])) for f in room["files"]}
        total = Waveform(sounds["calm"].samples + sounds["intense"].samples, sounds["calm"].sample_rate)
        calm, whole = audio.integrated_lufs(sounds["calm"]), audio.integrated_lufs(total)
        assert whole - calm == pytest.approx(4.0, abs=0.3), "by one step, whatever the level"
        if not any(file["nearly_nothing"] for file in room["files"]):
            assert whole == pytest.approx(-24.0, abs=0.3)
        for file in room["files"]:
            assert file["nearly_nothing"] or file["lufs"] == pytest.approx(file["lufs_asked"], abs=0.1)
        assert room["levels"]["sum_true_peak_dbtp"] < -1.0
        (score,) = room["scores"]
        assert 0 < score["onsets"]["calm"] < score["onsets"]["intense"]
        folder = Path("out", room["folder"])
        notes = read_midi(folder / score["file"])
        assert notes.seconds == pytest.approx(2.0, abs=1e-3)
        assert {part.name.rpartition("(")[2] for part in notes.parts} == {"calm)", "intense)"}
        assert [e["name"] for e in room["extras"]] == ["stinger_1", "intro", "ending"]
        for extra in room["extras"]:
            sound = audio.read(folder / extra["file"])
            assert 0 < extra["entry"] < extra["exit"] <= sound.n_samples == extra["n_samples"]
        intro = room["extras"][1]
        assert intro["exit"] - intro["entry"] == 96_000
    (transition,) = manifest["transitions"]
    assert (transition["from"], transition["to"]) == ("walk", "hall")
    (file,) = transition["files"]
    assert file["exit"] - file["entry"] == 2 * 96_000
    assert "transition_walk_to_hall.wav" in Path("out/engines/wwise/silent2music.tsv").read_text()
    before = bytes_below(Path("out"))
    assert s2m(*words)[0] == 0
    assert bytes_below(Path("out")) == before


@pytest.mark.slow
def test_parts_stand_in_a_field_of_second_order(s2m, sketched_folder: Path) -> None:
    audio.write("a.wav", Waveform(steps_room(4.0), RATE))
    line = "--loop 1bar --tempo 120 --spatial ambix --order 2 --set ambience.candidates=1"
    assert s2m("ambience", "a.wav", "--out", "out", "--model", sketched_folder, *line.split())[0] == 0
    manifest = json.loads(Path("out/manifest.json").read_text())
    check_manifest(manifest)
    (room,) = manifest["rooms"]
    (file,) = room["files"]
    assert file["file"] == "a_loop_1_ambix2_acn_sn3d.wav"
    stated = {"order": 2, "channel_order": "ACN", "normalisation": "SN3D"}
    assert file["ambisonics"] == stated
    path = Path("out/a", file["file"])
    assert (audio.read(path).n_channels, file["channels"]) == (9, 9)
    assert json.dumps(stated, separators=(",", ":"), sort_keys=True).encode() in path.read_bytes()
    parts = {part["part"] for part in room["space"]["parts"]}
    score = read_midi(Path("out/a", room["scores"][0]["file"]))
    assert parts == {f"{part.name} {part.role}".strip() for part in score.parts}
    assert len(file["folds"]) == len(parts)


def test_wishes_that_a_loop_cannot_have_are_refused(s2m, sketched_folder: Path) -> None:
    hiss(Path("a.wav"), 1)
    line = ["ambience", "a.wav", "--out", "out", "--model", sketched_folder, "--controls", "scene.toml"]
    for wish, words in (
        ("ending = 'final'", "ending cannot be asked of a loop"),
        ("cues = [1.0]", "cues cannot"),
    ):
        Path("scene.toml").write_text(wish + "\n", encoding="utf-8")
        code, _, said = s2m(*line)
        assert code == 1
        assert words in one_sentence(said)
    Path("scene.toml").write_text("key = 'C major'\n", encoding="utf-8")
    for option, words in (
        (["--transitions", "a:b"], "--transitions has 'a:b'; expected FROM:TO of a, or all."),
        (["--loop", "12.3s", "--tempo", "120"], "holds 6.15 bars of 4 beats at 120.0 bpm, and whole bars"),
        (["--loop", "130s", "--tempo", "120"], "is longer than loops are composed; expected at most 120 s"),
    ):
        code, _, said = s2m(*line, *option)
        assert code == 1
        assert words in one_sentence(said)
        assert not list(Path("out").rglob("a*"))


# ---- a folder ----


def test_a_cut_room_is_used_as_it_is_told(s2m, model_folder: Path) -> None:
    hiss(Path("whole.wav"), 1, n_channels=2)
    whole = Path("whole.wav").read_bytes()
    Path("room.wav").write_bytes(whole[: len(whole) * 3 // 4])
    line = ["ambience", "room.wav", "--out", "out", "--model", model_folder, *SHORT, "--variations", 1]
    code, _, said = s2m(*line, "--strict")
    assert (code, "room.wav is cut: " in said) == (1, True)
    code, _, said = s2m(*line, "--channel", 2)
    assert code == 0
    manifest = json.loads(Path("out/manifest.json").read_text())
    check_manifest(manifest)
    (room,) = manifest["rooms"]
    assert room["input"]["channels"] == 2
    assert (room["settings"]["track"], room["settings"]["channel"]) == (1, 2)
    assert room["space"]["azimuth_degrees"] == 0.0
    assert room["input"]["notes"][0].startswith("is cut: ")
    assert f"room.wav {room['input']['notes'][0]}.\n" in said
    code, _, said = s2m(*line)
    assert (code, "was made of another recording, or with other settings" in said) == (1, True)


def folder_of_rooms() -> None:
    rooms = Path("rooms")
    (rooms / "sub").mkdir(parents=True)
    for i in range(3):
        hiss(rooms / ("sub" if i % 2 else ".") / f"r{i}.wav", i)
    (rooms / "corrupt.wav").write_text("no audio")


@pytest.fixture(scope="module")
def undisturbed(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process makes of `folder_of_rooms` by `SHORT`."""
    with chdir(tmp_path_factory.mktemp("undisturbed")):
        folder_of_rooms()
        with pytest.raises(SystemExit):  # one room is corrupt
            main(["ambience", "rooms", "--out", "out", "--model", str(model_folder), *SHORT])
        return bytes_below(Path("out"))


def test_a_tree_is_mirrored_with_its_own_seeds_and_done_rooms_are_kept(s2m, model_folder: Path) -> None:
    folder_of_rooms()
    line = [
        "ambience",
        "rooms",
        "--out",
        "rooms/out",
        "--model",
        model_folder,
        "--contact-sheet",
        "s.png",
        *SHORT,
    ]
    code, _, said = s2m(*line)
    assert code == 1
    assert said.splitlines()[-1] == "1 of 4 recordings gave no loops: rooms/corrupt.wav."
    manifest = json.loads(Path("rooms/out/manifest.json").read_text())
    assert [r["folder"] for r in manifest["rooms"]] == ["r0", "r2", "sub/r1"]
    assert len({r["seed"] for r in manifest["rooms"]}) == 3
    (failure,) = manifest["failures"]
    assert failure["file"] == "corrupt.wav"
    assert failure["reason"].startswith("corrupt.wav cannot be read as audio")
    assert Path("s.png").read_bytes()[:4] == b"\x89PNG"
    before = bytes_below(Path("rooms/out"))
    times = {p: p.stat().st_mtime_ns for p in Path("rooms/out").rglob("*.wav")}
    assert s2m(*line)[0] == 1  # the output below the rooms is not taken for rooms
    assert bytes_below(Path("rooms/out")) == before
    assert {p: p.stat().st_mtime_ns for p in Path("rooms/out").rglob("*.wav")} == times


def test_killed_twice_the_third_start_gives_what_an_undisturbed_run_gives(
    s2m, model_folder: Path, undisturbed: dict[str, bytes]
) -> None:
    folder_of_rooms()
    line = ["ambience", "rooms", "--model", str(model_folder), *SHORT]
    for n_done in (1, 2):
        command = [sys.executable, "-m", "silent2music.cli", *line, "--out", "killed"]
        process = subprocess.Popen(
            command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL
        )
        # Folders vanish while one looks, which os.walk passes over.
        while (
            process.poll() is None
            and sum(
                "ambience.json" in names for at, _, names in os.walk("killed") if Path(at).name[:1] == "r"
            )
            < n_done
        ):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not Path("killed/manifest.json").exists()
    code, _, said = s2m(*line, "--out", "killed")
    assert code == 1
    assert "rooms/corrupt.wav" in said
    assert bytes_below(Path("killed")) == undisturbed


def test_workers_share_the_rooms(
    s2m, model_folder: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of_rooms()
    line = ["ambience", "rooms", "--model", model_folder, *SHORT]
    # Jobs in order: corrupt, r0, r2, sub/r1; the second worker has r0 and sub/r1, the first one what is corrupt.
    for rank, code, n_rooms in ((1, 0, 2), (0, 1, 3), (1, 0, 3)):
        with monkeypatch.context() as patch:
            patch.setenv("RANK", str(rank))
            patch.setenv("WORLD_SIZE", "2")
            assert s2m(*line, "--out", "out")[0] == code
        assert len(json.loads(Path("out/manifest.json").read_text())["rooms"]) == n_rooms
        assert len(list(Path("out").rglob("r?"))) == n_rooms
    # The second worker, which came last, left what the first one had said of the corrupt one.
    assert bytes_below(Path("out")) == undisturbed


# ---- bad input ----


def test_what_is_there_is_not_overwritten_without_force(s2m, model_folder: Path) -> None:
    hiss(Path("a.wav"), 1)
    line = ["ambience", "a.wav", "--out", "out", "--model", model_folder, *SHORT]
    assert s2m(*line)[0] == 0
    before = bytes_below(Path("out/a"))
    code, _, said = s2m(*line, "--seed", "5")
    assert code == 1
    assert "other settings; give --force" in one_sentence(said)
    assert bytes_below(Path("out/a")) == before
    assert s2m(*line, "--seed", "5", "--force")[0] == 0
    assert bytes_below(Path("out/a")) != before
    Path("out/a/mine.txt").write_text("kept")
    assert "mine.txt is no file of s2m ambience" in one_sentence(s2m(*line, "--force")[2])
    Path("out/a/a_loop_1.wav").write_bytes(b"cut")
    assert "a_loop_1.wav is missing or was changed" in one_sentence(s2m(*line, "--seed", "5")[2])
    shutil.rmtree("out/a")
    Path("out/a").mkdir()
    assert "is no folder of s2m ambience" in one_sentence(s2m(*line)[2])


USAGE = ("--loop", "--room-format", "--layers", "--spatial", "--formats", "--rate", "--lufs", "--true-peak")
USAGE += ("--variations", "--order")
"""Options that are wrong usage where they are out of range, whatever the recording."""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--loop", "40s"], "a.wav: A loop of 40 s is longer than the model can hold together"),
        (["--loop", "soon"], "--loop is 'soon'; expected seconds"),
        (["--room-format", "ambix"], "a.wav: The recording has 1 channels; expected the 4"),
        (["--layers", "calm,wild"], "ambience.layers holds 'wild'; expected calm, medium, intense"),
        (["--layers", "calm,calm"], "expected each layer once"),
        (["--spatial", "5.1"], "ambience.spatial holds '5.1'"),
        (["--formats", "mp3"], "MP3 pads its ends and cannot loop"),
        (["--spatial", "ambix", "--formats", "flac"], "AmbiX is written as 4-channel WAV at 48 kHz"),
        (["--order", "3"], "ambience.order is 3, which is of AmbiX; give --spatial ambix too"),
        (["--order", "4"], "ambience.order is 4; expected 1 to 3"),
        (["--extras", "stingers,riffs"], "ambience.extras holds 'riffs'; expected stingers, intro, ending"),
        (["--extras", "intro"], "composes no score, so extras cannot be asked of it; give --model"),
        (["--tempo", "100"], "composes no score, so a tempo cannot be asked of it"),
        (["--tempo", "500"], "ambience.tempo is 500.0; expected 30 to 300"),
        (["--transitions", "all"], "composes no score, so transitions cannot be asked of it"),
        (["--controls", "key.toml"], "composes no score, so what to compose cannot be asked of it"),
        (["--rate", "22050"], "ambience.sample_rate is 22050; expected 44100 or 48000"),
        (["--lufs", "3"], "The loudness is 3 LUFS; expected -70 to -5"),
        (["--true-peak", "3"], "ambience.true_peak is 3.0; expected -20 to 0"),
        (["--variations", "0"], "ambience.variations is 0"),
        (["--preset", "preset.toml"], "Unknown setting 'ambience.louder'; expected one of seconds"),
        (["--preset", "none"], "none is no recipe; expected a folder with recipe.toml"),
        (["--preset", "none.toml"], "none.toml cannot be read"),
        (["--contact-sheet", "sheet.jpg"], "suffix '.jpg'; expected a picture, .png"),
        (["--out", "file/out"], "file/out cannot be written"),
        (["--model", "nowhere"], "nowhere is no model folder"),
        (["--device", "tpu"], "Device 'tpu' is unknown"),
    ],
)
def test_an_impossible_request_gets_one_sentence(
    s2m, model_folder: Path, arguments: list[str], words: str
) -> None:
    hiss(Path("a.wav"), 1)
    Path("file").write_text("kept")
    Path("preset.toml").write_text("[ambience]\nlouder = 3\n")
    Path("key.toml").write_text('key = "C major"\n')
    line = ["ambience", "a.wav", *([] if "--out" in arguments else ["--out", "out"])]
    line += [] if "--model" in arguments else ["--model", model_folder]
    code, printed, said = s2m(*line, *arguments)
    is_usage = arguments[0] in USAGE and "40s" not in arguments and "ambix" not in arguments[:2]
    is_usage |= arguments in (["--tempo", "500"], ["--extras", "stingers,riffs"])
    assert (code, printed) == (2 if is_usage or "flac" in arguments else 1, "")
    assert words in one_sentence(said)
    assert not list(Path().rglob(".s2m-*"))
    assert not list(Path("out").rglob("a*"))


def test_a_disk_that_fills_half_way_leaves_finished_rooms_whole(s2m, model_folder: Path) -> None:
    Path("rooms").mkdir()
    hiss(Path("rooms/a.wav"), 1)
    line = ["ambience", "rooms", "--out", "out", "--model", model_folder, *SHORT]
    assert s2m(*line)[0] == 0
    before = bytes_below(Path("out/a"))
    hiss(Path("rooms/b.wav"), 2)
    with full_disk():
        code, _, said = s2m(*line)
    assert code == 1
    assert "out/b/b_loop_1.wav cannot be written" in said
    assert bytes_below(Path("out/a")) == before
    assert not Path("out/b").exists()
    assert [p.name for p in Path("out").iterdir() if p.name.startswith(".")] == []
    assert s2m(*line)[0] == 0
    assert Path("out/b/ambience.json").exists()


def test_bars_that_are_too_long_are_fewer_and_this_is_said(s2m, model_folder: Path, monkeypatch) -> None:
    """The tiny model holds two seconds together, which are one bar."""
    monkeypatch.setattr("silent2music.export.ambience.loops.stands_out", lambda *_: 0.0)
    audio.write("walk.wav", Waveform(steps_room(4.0), RATE))
    options = ("--loop", "8bars", "--set", "ambience.candidates=2", "--json")
    code, printed, said = s2m("ambience", "walk.wav", "--out", "out", "--model", model_folder, *options)
    assert code == 0
    assert one_sentence(said) == (
        "walk.wav: 8 bars at 120.0 bpm are longer than the model can hold together; made 1, which are 2.00 s.\n"
    )
    record = json.loads(printed)
    assert (record["grid"]["bars"], record["settings"]["bars"]) == (1, 8)


def test_a_sheet_replaces_sheets_alone(s2m, model_folder: Path) -> None:
    hiss(Path("a.wav"), 1)
    line = ["ambience", "a.wav", "--out", "out", "--model", model_folder, *SHORT, "--contact-sheet", "s.png"]
    Path("s.png").write_text("mine")
    code, _, said = s2m(*line)
    assert (code, Path("s.png").read_text()) == (1, "mine")
    assert "s.png does not say that silent2music made it" in one_sentence(said)
    assert not Path("out").exists()
    Path("s.png").unlink()
    for _ in range(2):
        assert s2m(*line)[0] == 0


def test_two_rooms_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for suffix in ("wav", "flac"):
        hiss(tmp_path / f"a.{suffix}", 1)
    first, second = plan_jobs([tmp_path], 0, tmp_path / "out", lambda relative: relative.with_suffix(""))
    assert (first.room.name, first.refused) == ("a.flac", "")
    assert "a.wav and" in second.refused
    assert "rename one of them" in second.refused


# ---- the manifest and the preset ----


def test_a_manifest_that_does_not_fit_is_refused(s2m, model_folder: Path) -> None:
    hiss(Path("a.wav"), 1)
    assert s2m("ambience", "a.wav", "--out", "out", "--model", model_folder, *SHORT)[0] == 0
    manifest = json.loads(Path("out/manifest.json").read_text())
    check_manifest(manifest)
    for spoil in (
        lambda m: m["rooms"][0]["grid"].update(bpm="fast"),
        lambda m: m["rooms"][0]["files"][0].pop("loop_end"),
        lambda m: m["rooms"][0].update(extra=1),
        lambda m: m.update(version=2),
    ):
        spoilt = copy.deepcopy(manifest)
        spoil(spoilt)
        with pytest.raises(jsonschema.ValidationError):
            check_manifest(spoilt)


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(SCHEMA.read_text(encoding="utf-8")))


def test_a_preset_that_ships_is_found_by_its_name(
    s2m, model_folder: Path, monkeypatch, tmp_path: Path
) -> None:
    hiss(Path("a.wav"), 1)
    line = ["ambience", "a.wav", "--out", "out", "--model", model_folder, "--preset", "vr", *SHORT]
    assert s2m(*line, "--layers", "calm", "--variations", "1")[0] == 0
    (room,) = json.loads(Path("out/manifest.json").read_text())["rooms"]
    assert room["settings"]["bars"] == 0  # as --loop 2s says, over the preset's 4
    assert load_recipe(Path("vr")).ambience.layers == ("calm", "medium", "intense")
    # A folder of that name in the current one is meant by it; an installed package has recipes inside.
    Path("vr").mkdir()
    Path("vr/recipe.toml").write_text("[ambience]\nbars = 3\n")
    assert load_recipe(Path("vr")).ambience.bars == 3
    shutil.rmtree("vr")
    inside = tmp_path / "site" / "silent2music"
    (inside / "recipes").mkdir(parents=True)
    shutil.copytree(ROOT / "recipes" / "vr", inside / "recipes" / "vr")
    monkeypatch.setattr(config, "__file__", str(inside / "config.py"))
    assert load_recipe(Path("vr")).ambience.variations == 2
    with pytest.raises(ConfigError, match="base is no recipe; expected a folder"):
        load_recipe(Path("base"))


def test_the_preset_is_valid_and_states_differences_only() -> None:
    preset = load_recipe(ROOT / "recipes" / "vr").ambience
    stated = (ROOT / "recipes" / "vr" / "recipe.toml").read_text()
    for name, value in vars(AmbienceConfig()).items():
        assert (getattr(preset, name) != value) == bool(re.search(rf"^{name} = ", stated, re.MULTILINE)), name
    with pytest.raises(ConfigError, match=r"Unknown setting 'ambience\.loudness'"):
        load_recipe(ROOT / "recipes" / "vr", ["ambience.loudness=3"])


def test_help_names_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["ambience", "--help"])
    assert "--contact-sheet" in capsys.readouterr().out
