"""Several processes share a folder's work: the same bytes whatever their number, and whoever is killed."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from kills import contents
from rooms import RATE, steps_room

from silent2music import audio
from silent2music.codec import load_codec
from silent2music.config import DataConfig
from silent2music.data.pairs import Pair, write_pairs
from silent2music.export.infer import infer_many, plan
from silent2music.export.models import LazyModel
from silent2music.factory import build as factory

N_PROCESSES = 4
N_KILLS = 4


def make_rooms(folder: Path, n: int = 12) -> Path:
    for i in range(n):
        room = steps_room(0.5, interval=0.1 + 0.02 * i)
        audio.write(folder / ("sub" if i % 3 == 0 else ".") / f"r{i:02}.wav", audio.Waveform(room, RATE))
    return folder


def make_pairs(folder: Path, n: int = 12) -> Path:
    pairs, t = [], np.arange(RATE) / RATE
    for i in range(n):
        music = 0.3 * np.sin(2 * np.pi * 220 * 2 ** (i / 12) * t)[None].astype(np.float32)
        audio.write(
            folder / f"{i}.silent.wav", audio.Waveform(steps_room(1.0, interval=0.2 + 0.02 * i), RATE)
        )
        audio.write(folder / f"{i}.music.wav", audio.Waveform(music, RATE))
        pairs.append(Pair(f"{i}.silent.wav", f"{i}.music.wav", split="validation" if i % 4 == 3 else "train"))
    (folder / "5.music.wav").write_text("no audio")
    write_pairs(folder, pairs)
    return folder


def in_processes(job: Callable[[Path], object], out: Path, kill_after: float | None = None) -> list[int]:
    """Do a job in several processes, as a launcher starts them; gives their exit codes."""
    children = []
    for rank in range(N_PROCESSES):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.environ.update(RANK=str(rank), WORLD_SIZE=str(N_PROCESSES))
                job(out)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    if kill_after is not None:
        time.sleep(kill_after)
        for child in children:
            os.kill(child, signal.SIGKILL)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("command", ["infer", "prepare"])
def test_twelve_killed_four_times_over_four_processes(
    command: str, tmp_path: Path, model_folder: Path, codec_folder: Path
) -> None:
    model, codec = LazyModel(model_folder, "cpu"), load_codec(codec_folder)
    assert model.model  # loaded once for all
    rooms, pairs = make_rooms(tmp_path / "rooms"), make_pairs(tmp_path / "pairs")
    if command == "infer":

        def job(out: Path) -> None:
            for outcome in infer_many(plan([rooms], 7, folder=out), model, folder=out):
                assert outcome.status != "failed", outcome.reason
    else:
        from silent2music.data.shards import prepare

        def job(out: Path) -> None:
            prepare(pairs, out, codec, pairs_per_shard=2)

    begun = time.monotonic()
    job(tmp_path / "alone")
    lasted, rng = time.monotonic() - begun, random.Random(0)
    expected = contents(tmp_path / "alone")
    assert len(expected) == (25 if command == "infer" else 8)
    n_killed, n_rounds = 0, 0
    while n_killed < N_KILLS:
        n_rounds += 1
        assert n_rounds < 40, "the processes always ended before they were killed"
        codes = in_processes(job, tmp_path / "out", rng.uniform(0.0, 0.4 * lasted))
        n_killed += any(code == -signal.SIGKILL for code in codes)
        if all(code == 0 for code in codes) and n_killed < N_KILLS:
            (tmp_path / "out").rename(tmp_path / f"whole-{n_rounds}")
    assert in_processes(job, tmp_path / "out") == [0] * N_PROCESSES
    assert contents(tmp_path / "out") == expected


def test_pairs_are_shared_out_and_the_last_process_lists_them_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a pair is made of is not looked at here: that depends on its index alone."""

    def save(made: SimpleNamespace, index: int) -> None:
        label = {"soundfont": "a.sf2", "sources": []}
        folder = made.out / "labels"
        folder.mkdir(exist_ok=True)
        text = json.dumps({"silent": f"{index}.flac", "labels": label}) + "\n"
        (folder / f"{index:06d}.json").write_text(text, encoding="utf-8")
        done.append(index)

    def open_sources(config: DataConfig, out: Path, seed: int) -> SimpleNamespace:
        return SimpleNamespace(out=out, refused=())

    done: list[int] = []
    monkeypatch.setattr(factory, "_save", save)
    monkeypatch.setattr(factory, "open_factory", open_sources)
    monkeypatch.setattr(factory, "soundfonts", lambda config: [])
    pytest.importorskip("pyroomacoustics")
    config = DataConfig(seconds=10.0)
    hours = 11 * 10.0 / 3600
    shares = []
    for rank in (1, 2, 0):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "3")
        done.clear()
        factory.build(config, tmp_path / "out", hours, 1)
        shares.append(list(done))
    assert sorted(index for share in shares for index in share) == list(range(11))
    assert [len(share) for share in shares] == [4, 3, 4]
    monkeypatch.delenv("RANK")
    factory.build(config, tmp_path / "alone", hours, 1)
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")
