"""`s2m bench` on a tiny model: every figure is there, and the report is drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from silent2music import audio
from silent2music.evaluation import speed
from silent2music.evaluation.speed_report import write_speed_report
from silent2music.model import Silent2Music


@pytest.fixture(scope="module")
def short() -> pytest.MonkeyPatch:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "STEP_SECONDS", 0.2)
        patch.setattr(speed, "BATCHES", (1, 2))
        patch.setattr(speed, "N_PARITY_COLUMNS", 5)
        patch.setattr(speed, "PIECE_SECONDS", 0.6)
        patch.setattr(speed, "LARGE", 128)
        yield patch


def test_every_figure_is_there(model_folder: Path, room_file: Path, tmp_path: Path, short) -> None:
    config = speed.BenchConfig(n_rounds=1, seconds=(0.6, 1.2), threads=(1,), musicgen=False)
    report = speed.bench(model_folder, audio.read(room_file), config)
    assert set(report["stages"]) == {"conditioning", "codec", "whole", "first audio"}
    assert {"fp32", "bf16"} <= set(report["steps"])
    timed = [f for group in ("stages", "steps", "batch") for f in report[group].values()]
    assert all(f["cpu_seconds"] > 0 and f["wall_seconds"] > 0 for f in timed)
    assert report["parity"]["fp32"]["largest_logit_error"] == 0
    assert 0 < report["parity"]["bf16"]["rms_logit_error"] < 0.5
    assert report["runs"]["1.2"]["peak_mib"] > 100
    assert 0 < report["help_seconds"] < report["runs"]["0.6"]["seconds"]
    text = write_speed_report(report, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "speed.json").read_text()) == report
    assert "% of that limit" in text and "| 0.6 s |" in text
    assert (tmp_path / "out" / "speed.png").stat().st_size > 10_000


def test_the_limit_counts_the_weights(model_folder: Path) -> None:
    model = Silent2Music.from_pretrained(model_folder)
    found = speed.limit(model)
    blocks = sum(weight.numel() for weight in model.decoder.blocks.parameters())
    head, keys = 4 * 32 * 32, 2 * 2 * 50 * 32
    assert found["multiply_adds_per_step"] == 2 * blocks + head + keys
    assert found["bytes_per_step"] in (2 * (blocks + head) + 4 * keys, 4 * (blocks + head) + 4 * keys)


def test_growth_is_what_further_seconds_cost() -> None:
    runs = {"10": {"seconds": 4.0, "peak_mib": 300.0}, "60": {"seconds": 6.5, "peak_mib": 310.0}}
    assert list(speed.growth(runs)) == [(60.0, 0.05, 310.0)]


def test_musicgen_of_the_same_size_takes_its_steps(model_folder: Path, short) -> None:
    steps = []
    model = Silent2Music.from_pretrained(model_folder)
    run = speed.musicgen_steps(model)
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        real = speed.draw
        patch.setattr(speed, "draw", lambda *given: steps.append(given[0].shape) or real(*given))
        run()
    assert steps == [(1, 4, 32)] * (5 + 3)
