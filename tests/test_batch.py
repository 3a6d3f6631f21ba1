"""Shares of work, the manifest and resuming."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

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
