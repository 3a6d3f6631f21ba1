"""Shares of work, the manifest and resuming."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rooms import RATE, steps_room

from silent2music import audio
from silent2music.config import SamplingConfig
from silent2music.errors import ConfigError
from silent2music.export.batch import Manifest, portable, share
from silent2music.export.infer import infer_many, plan
from silent2music.export.models import LazyModel, Request


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


def _add_many(folder: Path, start: int) -> None:
    for i in range(start, start + 50):
        Manifest(folder).add(f"{i:03}", {"n": i})


def test_processes_share_a_manifest(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_add_many, args=(tmp_path, 50 * i)) for i in range(3)]
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
