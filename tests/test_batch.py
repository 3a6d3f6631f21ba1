"""Shares of work, the manifest and resuming."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from elsewhere import add_many
from rooms import RATE, steps_room

from silent2music import audio
from silent2music.config import AmbienceConfig, ModelConfig, SamplingConfig
from silent2music.errors import AudioError, ConfigError
from silent2music.export.ambience.job import ambience
from silent2music.export.batch import Manifest, passed_over, portable
from silent2music.export.infer import infer_many, plan
from silent2music.export.models import LazyModel, Request
from silent2music.processes import share


def test_shares_cover_everything_once() -> None:
    items = list(range(17))
    shares = [share(items, {"RANK": str(i), "WORLD_SIZE": "4"}) for i in range(4)]
    assert sorted(x for share in shares for x in share) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_launcher_says_which_process_this_is() -> None:
    assert share("abcdefg", {}) == "abcdefg"
    assert share("abcdefg", {"RANK": "2", "WORLD_SIZE": "3"}) == "cf"
    assert share("abcdefg", {"PMI_RANK": "1", "PMI_SIZE": "2"}) == "bdf"
    with pytest.raises(ConfigError, match="RANK=3 and WORLD_SIZE=3"):
        share("abcdefg", {"RANK": "3", "WORLD_SIZE": "3"})


def test_processes_share_a_manifest(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=add_many, args=(tmp_path, 50 * i)) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [entry["n"] for entry in Manifest(tmp_path).tidy().values()] == list(range(150))


def test_a_line_cut_short_by_a_kill_is_passed_over(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path)
    manifest.add("a", {"n": 1})
    with manifest.path.open("a") as file:
        file.write('{"key": "b", "n"')
    manifest.add("c", {"n": 3})
    manifest.add("a", {"n": 4})
    assert {key: entry["n"] for key, entry in manifest.read().items()} == {"a": 4, "c": 3}
    manifest.tidy()
    assert manifest.path.read_text().splitlines() == ['{"key": "a", "n": 4}', '{"key": "c", "n": 3}']


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sub/plain.wav", "sub/plain.wav"),
        ('a<b>:"c|d?e*.wav', "a_b___c_d_e_.wav"),
        ("back\\slash.wav", "back_slash.wav"),
        ("AUX/com1.music.wav", "_AUX/_com1.music.wav"),
        ("ends with. ./x", "ends with_/x"),
        ("console.wav", "console.wav"),
        ("Küche – 雨.wav", "Küche – 雨.wav"),
    ],
)
def test_names_are_made_that_every_platform_takes(name: str, expected: str) -> None:
    assert portable(Path(name)).as_posix() == expected


# ---- a folder of rooms, by several processes ----


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    for i in range(4):
        take = audio.Waveform(steps_room(1.0, interval=0.2 + 0.1 * i), RATE)
        (tmp_path / "rooms" / f"{i % 2}").mkdir(parents=True, exist_ok=True)
        audio.write(tmp_path / "rooms" / f"{i % 2}" / f"{i}.wav", take)
    (tmp_path / "rooms" / "bad.wav").write_text("no audio")
    return tmp_path / "rooms"


def start(rooms: Path, out: Path, model: Path, rank: int = 0, world_size: int = 1) -> subprocess.Popen[bytes]:
    environment = os.environ | {"RANK": str(rank), "WORLD_SIZE": str(world_size), "OMP_NUM_THREADS": "1"}
    arguments = ["infer", str(rooms), "--out", str(out), "--model", str(model), "--seed", "7"]
    command = [sys.executable, "-m", "silent2music.cli", *arguments]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_shared_or_killed_and_resumed_a_folder_is_the_same(
    rooms: Path, tmp_path: Path, model_folder: Path
) -> None:
    alone, killed = (
        start(rooms, tmp_path / "alone", model_folder),
        start(rooms, tmp_path / "killed", model_folder),
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed").rglob("*.music.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    assert alone.wait() == 1
    expected = contents(tmp_path / "alone")
    assert len([name for name in expected if name.endswith(".wav")]) == 4
    shared = [start(rooms, tmp_path / "shared", model_folder, rank, 2) for rank in range(2)]
    # Half a record and a record without its music are what a kill may leave.
    resumed = start(rooms, tmp_path / "killed", model_folder)
    said = resumed.communicate()[1].decode()
    assert "there already" in said and "bad.wav cannot be read" in said
    assert sorted(process.wait() for process in shared) == [0, 1]
    for name in ("shared", "killed"):
        assert contents(tmp_path / name) == expected
    lines = [json.loads(line) for line in expected["manifest.jsonl"].decode().splitlines()]
    assert [line["key"] for line in lines] == sorted(line["key"] for line in lines)
    assert sum("error" in line for line in lines) == 1 and len(lines) == 5


def test_other_settings_are_not_taken_for_done(rooms: Path, tmp_path: Path, model_folder: Path) -> None:
    jobs = plan([rooms], 7, folder=tmp_path / "out")[1:3]
    model = LazyModel(model_folder)
    first = list(infer_many(jobs, model))
    assert [outcome.status for outcome in first] == ["made", "made"]
    again = list(infer_many(jobs, model))
    assert [outcome.status for outcome in again] == ["kept", "kept"]
    assert [outcome.record for outcome in again] == json.loads(json.dumps([o.record for o in first]))
    jobs[0].out.unlink()
    jobs[1].out.write_bytes(jobs[1].out.read_bytes()[:-1])
    result, refused = infer_many(jobs, model)
    assert result == first[0]
    assert refused.status == "failed" and "exists already" in refused.reason
    (other, _) = infer_many(jobs, model, Request(SamplingConfig(temperature=0.5)))
    assert other.status == "failed" and "give --force" in other.reason


@pytest.mark.parametrize("lost", [".music.wav", ".music.json"])
def test_music_without_its_record_is_made_again_and_the_reverse(
    rooms: Path, tmp_path: Path, model_folder: Path, lost: str
) -> None:
    room = rooms / "0" / "0.wav"
    (job,) = plan([room], 7, folder=tmp_path / "out")
    model = LazyModel(model_folder)
    (first,) = infer_many([job], model)
    before = contents(tmp_path / "out")
    assert len(before) == 2
    (tmp_path / "out" / f"0{lost}").unlink()
    (other,) = infer_many([dataclasses.replace(job, seed=8)], model)
    assert other.status == ("failed" if lost == ".music.json" else "made")  # other music is nobody's leftover
    for name in ("0.music.wav", "0.music.json") if other.status == "made" else ():
        (tmp_path / "out" / name).write_bytes(before[name])
    (tmp_path / "out" / f"0{lost}").unlink(missing_ok=True)
    (again,) = infer_many([job], model)
    assert again == first
    assert contents(tmp_path / "out") == before


def test_a_manifest_names_no_folder_of_this_machine(rooms: Path, tmp_path: Path, model_folder: Path) -> None:
    """Neither in the reason of a failure nor elsewhere, whatever spaces the names have."""
    place = tmp_path / "my own place"
    rooms.rename(place)
    (place / "another bad.wav").write_text("no audio")
    out = tmp_path / "an output"
    jobs = [job for job in plan([place], 7, folder=out) if "bad" in job.label]
    list(infer_many(jobs, LazyModel(model_folder), folder=out))
    lines = (out / "manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["error"].partition(" cannot")[0] for line in lines] == [
        "another bad.wav",
        "bad.wav",
    ]
    assert all(str(tmp_path) not in line and "my own place" not in line for line in lines)


def test_a_file_that_is_not_ours_is_not_replaced(rooms: Path, tmp_path: Path, model_folder: Path) -> None:
    (job,) = plan([rooms / "0" / "0.wav"], 7, folder=tmp_path)
    for name in ("0.music.wav", "0.music.json"):
        (tmp_path / name).write_text('{"output": {"file": "another.wav"}}')
        (outcome,) = infer_many([job], LazyModel(model_folder))
        assert f"{name} exists already" in outcome.reason
        (tmp_path / name).unlink()


def test_music_that_cannot_come_to_its_place_takes_its_record_along(
    rooms: Path, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, where a file that a player has open cannot be replaced."""
    replace = Path.replace

    def held(self: Path, target: Path) -> Path:
        if Path(target).name == "0.music.wav":
            raise PermissionError(13, "Permission denied")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", held)
    (job,) = plan([rooms / "0" / "0.wav"], 7, folder=tmp_path / "out")
    (outcome,) = infer_many([job], LazyModel(model_folder))
    assert "0.music.wav cannot be written (Permission denied)" in outcome.reason
    assert list((tmp_path / "out").iterdir()) == []


# ---- what lies in folders ----


def quiet(path: Path) -> None:
    audio.write(path, audio.Waveform(steps_room(0.5), RATE))


def reasons(rooms: Path, out: Path) -> dict[str, str]:
    """Refused recordings and why, by label."""
    return {job.label: job.refused for job in plan([rooms], 0, folder=out) if job.refused}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such names")
def test_names_that_cannot_be_written_down_are_named_and_the_rest_is_made(
    tmp_path: Path, model_folder: Path
) -> None:
    rooms, out = tmp_path / "rooms", tmp_path / "out"
    quiet(rooms / "good.wav")
    for name in ("caf\udce9.wav", "x" * 246 + ".wav", "y" * 251 + ".wav"):
        (rooms / name).write_bytes((rooms / "good.wav").read_bytes())
    outcomes = list(infer_many(plan([rooms], 0, folder=out), LazyModel(model_folder), folder=out))
    assert {outcome.job.label[:3]: outcome.status for outcome in outcomes} == {
        "caf": "failed",
        "goo": "made",
        "xxx": "failed",
        "yyy": "failed",
    }
    found = Manifest(out).read()
    assert "has a name that is not Unicode; rename it." in found["caf\\udce9.wav"]["error"]
    assert "too long" in found["x" * 246 + ".wav"]["error"]
    assert found["good.music.wav"]["room"] == "good.wav"
    long = "z" * 243 + ".wav"  # just not too long
    (rooms / long).write_bytes((rooms / "good.wav").read_bytes())
    (outcome,) = infer_many(plan([rooms / long], 0, folder=out), LazyModel(model_folder))
    assert outcome.status == "made"


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_are_followed_once_and_loops_are_named(tmp_path: Path) -> None:
    rooms, elsewhere = tmp_path / "rooms", tmp_path / "elsewhere"
    quiet(rooms / "a" / "1.wav")
    quiet(elsewhere / "2.wav")
    (rooms / "0_same").symlink_to(rooms / "a")
    (rooms / "linked").symlink_to(elsewhere)
    (rooms / "again").symlink_to(elsewhere)
    (rooms / "a" / "loop").symlink_to(rooms)
    (elsewhere / "back").symlink_to(rooms)
    (rooms / "self").symlink_to(rooms / "self")
    (rooms / "self.wav").symlink_to(rooms / "self.wav")
    (rooms / "broken.wav").symlink_to(tmp_path / "gone.wav")
    (rooms / "file.wav").symlink_to(elsewhere / "2.wav")
    os.mkfifo(rooms / "pipe.wav")
    jobs = plan([rooms], 0, folder=tmp_path / "out")
    assert [job.label for job in jobs if not job.refused] == ["a/1.wav", "again/2.wav", "file.wav"]
    refused = reasons(rooms, tmp_path / "out")
    assert "broken.wav is no file but a link to nothing" in refused["broken.wav"]
    assert "pipe.wav is no file but a pipe or a device" in refused["pipe.wav"]
    assert set(refused) == {"broken.wav", "pipe.wav", "self.wav"}
    loops = passed_over([rooms])
    assert [sentence.split(" is a link to a folder that holds it")[0] for sentence in loops[:-1]] == [
        str(rooms / "a" / "loop"),
        str(rooms / "again" / "back"),
    ]
    assert loops[-1] == "1 file was passed over because of its suffix (none)."


def test_what_is_passed_over_is_counted(tmp_path: Path, model_folder: Path, s2m) -> None:
    rooms = tmp_path / "rooms"
    quiet(rooms / "a.wav")
    for name in ("notes.txt", "sub/picture.JPG", "sub/other.jpg", ".hidden", "README", "made.music.json"):
        (rooms / name).parent.mkdir(exist_ok=True)
        (rooms / name).touch()
    sentence = "4 files were passed over because of their suffix (.jpg, .txt, none)."
    assert passed_over([rooms, rooms / "a.wav"]) == [sentence]
    code, _, said = s2m("infer", rooms, "--out", rooms / "out", "--model", model_folder)
    assert (code, said) == (0, f"{sentence}\n")
    assert s2m("infer", rooms, "--out", rooms / "out", "--model", model_folder)[2].count(sentence) == 1


def test_a_folder_that_cannot_be_searched_or_vanishes_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path
) -> None:
    rooms, out = tmp_path / "rooms", tmp_path / "out"
    for name in ("a", "closed", "gone"):
        quiet(rooms / name / "1.wav")
    iterdir = Path.iterdir

    def closed(self: Path):
        if self.name in ("closed", "gone"):
            raise (
                PermissionError(13, "Permission denied")
                if self.name == "closed"
                else FileNotFoundError(2, "No")
            )
        return iterdir(self)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", closed)
        refused = reasons(rooms, out)
        assert set(refused) == {"closed", "gone"}
        assert "closed cannot be searched (Permission denied); check its permissions." in refused["closed"]
    jobs = plan([rooms], 0, folder=out)
    (rooms / "gone" / "1.wav").unlink()
    (rooms / "gone").rmdir()
    outcomes = list(infer_many(jobs, LazyModel(model_folder), folder=out))
    assert [outcome.status for outcome in outcomes] == ["made", "made", "failed"]
    assert "does not exist" in outcomes[2].reason


def test_a_file_that_the_system_refuses_does_not_end_the_run(
    rooms: Path, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = audio.open_recording

    def refuse(path: Path, **reading):
        if path.name == "2.wav":
            raise OSError(5, "Input/output error")
        return opened(path, **reading)

    monkeypatch.setattr(audio, "open_recording", refuse)
    jobs = plan([rooms / "0"], 7, folder=tmp_path / "out")
    first, second = infer_many(jobs, LazyModel(model_folder), folder=tmp_path / "out")
    assert (first.status, second.status) == ("made", "failed")
    assert "2.wav gave nothing (Input/output error)" in second.reason


def test_a_manifest_that_cannot_be_written_does_not_stop_the_music(
    rooms: Path, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Manifest, key: str, entry: object) -> None:
        raise AudioError("manifest.jsonl cannot be written (No space left on device); choose another place.")

    monkeypatch.setattr(Manifest, "add", full)
    out, made = tmp_path / "out", []
    with pytest.raises(AudioError, match="No space left"):
        for outcome in infer_many(plan([rooms / "0"], 7, folder=out), LazyModel(model_folder), folder=out):
            made.append(outcome.status)
    assert made == ["made", "made"]
    assert len(list(out.glob("*.music.json"))) == 2 and not list(out.glob(".s2m-*"))


def test_another_seed_in_a_finished_folder_leaves_the_manifest_right(
    rooms: Path, tmp_path: Path, model_folder: Path
) -> None:
    out, model = tmp_path / "out", LazyModel(model_folder)
    before = list(infer_many(plan([rooms], 7, folder=out), model, folder=out))
    known = contents(out)
    outcomes = list(infer_many(plan([rooms], 8, folder=out), model, folder=out))
    assert {outcome.status for outcome in outcomes} == {"failed"}
    assert contents(out) == known
    assert {name: entry.get("seed") for name, entry in Manifest(out).read().items()} == {
        outcome.job.out.relative_to(out).as_posix(): outcome.record and outcome.job.seed for outcome in before
    }


def test_a_second_command_on_a_folder_is_refused_and_doubles_nothing(
    rooms: Path, tmp_path: Path, model_folder: Path
) -> None:
    out, model = tmp_path / "out", LazyModel(model_folder)
    first = infer_many(plan([rooms / "0"], 7, folder=out), model, folder=out)
    made = [next(first)]
    with pytest.raises(AudioError, match="out is being written by another command"):
        list(infer_many(plan([rooms / "0"], 7, folder=out), model, folder=out))
    with pytest.raises(AudioError, match="another command"):
        ambience([rooms / "0"], out, AmbienceConfig(), model)
    made += first
    assert [outcome.status for outcome in made] == ["made", "made"]
    assert sorted(contents(out)) == [
        *("0.music.json", "0.music.wav", "2.music.json", "2.music.wav", "manifest.jsonl"),
    ]


def test_a_config_without_guidance_has_the_default(model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "model")
    config = json.loads((model_folder / "config.json").read_text())
    del config["guidance"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    assert LazyModel(tmp_path / "model").config.guidance == ModelConfig.guidance
