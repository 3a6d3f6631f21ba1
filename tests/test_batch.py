"""Shares of work, the manifest and resuming."""

from __future__ import annotations

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
from silent2music.errors import AudioError, CheckpointError, ConfigError
from silent2music.export.batch import Manifest, Outcome, Worker, run, summary, this_worker


def test_shares_cover_everything_once() -> None:
    items = list(range(17))
    shares = [Worker(i, 4).share(items) for i in range(4)]
    assert sorted(x for share in shares for x in share) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_launcher_says_which_process_this_is() -> None:
    assert this_worker({}) == Worker(0, 1)
    assert this_worker({"RANK": "2", "WORLD_SIZE": "3"}) == Worker(2, 3)
    assert this_worker({"PMI_RANK": "1", "PMI_SIZE": "2"}) == Worker(1, 2)
    with pytest.raises(ConfigError, match="RANK=3 and WORLD_SIZE=3"):
        this_worker({"RANK": "3", "WORLD_SIZE": "3"})


def _add_many(folder: Path, start: int) -> None:
    for i in range(start, start + 50):
        Manifest(folder).add(f"{i:03}", {"n": i})


def test_processes_share_a_manifest(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
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


def test_a_bad_item_does_not_stop_the_rest_and_done_ones_are_skipped(tmp_path: Path) -> None:
    calls = []

    def make(item: str) -> dict[str, str]:
        calls.append(item)
        if item == "bad":
            raise AudioError("bad is bad.")
        return {"of": item}

    def made(item: str) -> dict[str, str] | None:
        return {"of": item} if item == "old" else None

    outcomes = list(run(["a", "bad", "old", "z"], str, made, make, Manifest(tmp_path), Worker()))
    assert calls == ["a", "bad", "z"]
    assert [outcome.status for outcome in outcomes] == ["made", "failed", "skipped", "made"]
    assert Manifest(tmp_path).read()["bad"] == {"key": "bad", "error": "bad is bad."}
    assert summary(outcomes) == "2 made, 1 skipped, 1 failed\n  bad: bad is bad."


def test_what_would_stop_every_item_stops_the_run() -> None:
    def make(item: str) -> dict[str, str]:
        raise CheckpointError("no model")

    with pytest.raises(CheckpointError, match="no model"):
        list(run(["a", "b"], str, lambda item: None, make, worker=Worker()))


def test_outcomes_of_nothing() -> None:
    empty: list[Outcome] = []
    assert summary(empty) == "0 made, 0 skipped, 0 failed"


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
        found = contents(tmp_path / name)
        left = {n for n in found if "/.s2m-" in f"/{n}"}
        assert {n: v for n, v in found.items() if n not in left} == expected
        assert not left or name == "killed"
    lines = [json.loads(line) for line in expected["manifest.jsonl"].decode().splitlines()]
    assert [line["key"] for line in lines] == sorted(line["key"] for line in lines)
    assert sum("error" in line for line in lines) == 1 and len(lines) == 5


def test_other_settings_are_not_taken_for_done(rooms: Path, tmp_path: Path, model_folder: Path) -> None:
    from silent2music.config import SamplingConfig
    from silent2music.export.infer import Failure, Skipped, infer_many, plan

    jobs = plan([rooms], 7, folder=tmp_path / "out")[0][1:3]
    first = list(infer_many(jobs, SamplingConfig(), model_folder=model_folder))
    assert all(isinstance(result, dict) for result in first)
    again = list(infer_many(jobs, SamplingConfig(), model_folder=model_folder))
    assert [one.record for one in again if isinstance(one, Skipped)] == json.loads(json.dumps(first))
    jobs[0].out.unlink()
    jobs[1].out.write_bytes(jobs[1].out.read_bytes()[:-1])
    result, refused = infer_many(jobs, SamplingConfig(), model_folder=model_folder)
    assert result == first[0]
    assert isinstance(refused, Failure) and "exists already" in refused.reason
    (other, _) = infer_many(jobs, SamplingConfig(temperature=0.5), model_folder=model_folder)
    assert isinstance(other, Failure) and "give --force" in other.reason
