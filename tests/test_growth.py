"""`s2m bench --growth`: what a further second costs, and the files it writes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rooms import RATE

from silent2music import audio
from silent2music.audio import Waveform
from silent2music.config import SamplingConfig
from silent2music.evaluation import growth, speed
from silent2music.listening import span
from silent2music.model import Silent2Music


def test_costs_of_further_seconds_and_files(
    s2m, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With runs that cost 4 s and 0.1 s a second, and a slow one among the short ones."""
    ran: list[float] = []

    def run(folder: Path, room: object, seconds: float, room_seconds: float) -> dict[str, float]:
        ran.append(seconds)
        assert room_seconds == seconds
        slow = 10.0 if len(ran) == 1 else 0.0
        return {"seconds": 4 + 0.1 * seconds + slow, "cpu_seconds": 3 + 0.05 * seconds, "peak_mib": 500.0}

    def minutes(folder: Path, room: object, n_minutes: int, progress: object) -> list[dict[str, float]]:
        assert n_minutes == 60
        costs = ((2, 10.1), (60, 10.3))
        return [{"minute": m, "seconds": seconds, "short_seconds": 10.0} for m, seconds in costs]

    monkeypatch.setattr(growth, "command_run", run)
    monkeypatch.setattr(growth, "minutes_beside_short_pieces", minutes)
    out = tmp_path / "out"
    code, printed, _ = s2m("bench", "--growth", "--out", out, "--model", model_folder)
    assert code == 0
    assert ran == [10, 60, 10, 60, 600, 10, 60, 3600, 10, 60]
    report = json.loads((out / "growth.json").read_text())
    assert [step["to_seconds"] for step in report["further"]] == [60, 600, 3600]
    assert [step["seconds"] for step in report["further"]] == pytest.approx([0.1] * 3)
    assert [step["cpu_seconds"] for step in report["further"]] == pytest.approx([0.05] * 3)
    assert printed.count("100.0 ms | 50.0 ms") == 3 and "| 60 min | 1 |" in printed
    assert "takes 1.020 [1.010, 1.030] times" in printed and "(minutes 2, 60)" in printed
    assert (out / "growth.png").stat().st_size > 10_000
    code, _, told = s2m("bench", "--growth", "--out", out, "--model", model_folder)
    assert code == 1 and "growth.json exists already; give --force" in told
    assert len(ran) == 10  # told before anything is measured
    code, _, _ = s2m("bench", "--growth", "--out", out, "--model", model_folder, "--force")
    assert code == 0 and len(ran) == 20


def test_minutes_stand_beside_pieces_made_just_before_and_after(
    model_folder: Path, room_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that slows down steadily, and on one where a piece costs more the longer it is."""
    now = slowing = growing = 0.0

    def stream(self: Silent2Music, room: audio.Recording, sampling: SamplingConfig) -> Iterator[Waveform]:
        nonlocal now
        for second in range(round(room.seconds)):
            now += 1.0 + slowing * now + growing * second
            yield Waveform(np.zeros((1, self.codec.sample_rate), np.float32), self.codec.sample_rate)

    monkeypatch.setattr(growth, "N_MINUTES", 3)
    monkeypatch.setattr(growth, "SHORT_SECONDS", 6.0)
    room = audio.read(room_file)
    unpatched = growth.minutes_beside_short_pieces(model_folder, room, 4, lambda *told: None)
    assert [row["minute"] for row in unpatched] == [2, 3, 4]
    assert all(row["seconds"] > 0 and row["short_seconds"] > 0 for row in unpatched)
    monkeypatch.setattr(growth, "SHORT_SECONDS", 2.0)
    monkeypatch.setattr(Silent2Music, "stream", stream)
    monkeypatch.setattr(growth.time, "perf_counter", lambda: now)
    slowing = 0.01
    rows = growth.minutes_beside_short_pieces(model_folder, room, 5, lambda *told: None)
    assert [row["seconds"] / row["short_seconds"] for row in rows] == pytest.approx([1.0] * 3, abs=0.002)
    slowing, growing = 0.0, 0.1
    rows = growth.minutes_beside_short_pieces(model_folder, room, 5, lambda *told: None)
    assert [row["minute"] for row in rows] == [2, 4, 5]
    assert [row["seconds"] for row in rows] == pytest.approx([2.5, 3.3, 3.7])
    assert [row["short_seconds"] for row in rows] == pytest.approx([2.1] * 3)


def test_a_command_is_given_a_recording_as_long_as_its_music(
    room_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In blocks of a second of a room of two, which goes on in a loop, crossfaded where it begins again."""
    room, given = audio.read(room_file), []

    def seen(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        given.append(audio.read(command[command.index("infer") + 1]))
        return subprocess.CompletedProcess(command, 0, "listening\n\n1.5 0.5 2048\n")

    monkeypatch.setattr(speed.subprocess, "run", seen)
    monkeypatch.setattr(speed, "PIECE_SECONDS", 1.0)
    run = speed.command_run(tmp_path, room, 3.5, room_seconds=3.5)
    whole = span(room, 0, round(3.5 * room.sample_rate))
    assert given[0].n_samples == whole.n_samples
    error = np.abs(given[0].samples - whole.samples)[0]
    assert max(error[: round(1.9 * RATE)].max(), error[2 * RATE :].max()) < 2**-22
    assert run["cpu_seconds"] == 0.5 and run["peak_mib"] == 2.0 and run["seconds"] > 0


def test_one_thing_is_measured_at_a_time(s2m, tmp_path: Path) -> None:
    code, _, told = s2m("bench", "--growth", "--candidates", "--out", tmp_path / "out")
    assert code == 2 and "not both" in told
    assert not (tmp_path / "out").exists()
