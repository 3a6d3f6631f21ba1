"""`s2m bench` on a tiny model: every figure is there, and the table is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from silent2music.evaluation import bench
from silent2music.model import Silent2Music


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "STEP_SECONDS", 0.2)
    monkeypatch.setattr(bench, "BATCHES", (2,))
    monkeypatch.setattr(bench, "PIECE_SECONDS", 0.6)


def test_a_report_is_refused_before_the_work(s2m, model_folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(bench, "_tasks", lambda *_: pytest.fail("the work had begun"))
    line = ("bench", "--out", tmp_path / "out", "--model", model_folder, "--force")
    (tmp_path / "out").mkdir()
    for name, text in (("speed.json", '{"mine": 1}'), ("speed.md", "mine")):
        (tmp_path / "out" / name).write_text(text)
        code, printed, told = s2m(*line)
        assert (code, printed, told.count("\n")) == (1, "", 1)
        assert name in told
        assert (tmp_path / "out" / name).read_text() == text
        (tmp_path / "out" / name).unlink()
    (tmp_path / "out" / "speed.json").write_text("mine")
    assert "speed.json exists already; give --force" in s2m(*line[:-1])[2]
    (tmp_path / "file").write_text("kept")
    code, _, told = s2m("bench", "--out", tmp_path / "file" / "out", "--model", model_folder)
    assert code == 1 and "is no folder or not yours" in told


def test_musicgen_of_the_same_size_takes_its_steps(
    model_folder: Path, short, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[torch.Size] = []
    run, real = bench.musicgen_steps(Silent2Music.from_pretrained(model_folder)), bench.draw
    monkeypatch.setattr(bench, "draw", lambda *given: steps.append(given[0].shape) or real(*given))
    with torch.inference_mode():
        run()
    assert steps == [(1, 4, 32)] * (5 + 3)
