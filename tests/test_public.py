"""`import silent2music as s2m`: what a program uses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rooms import RATE, steps_room

import silent2music as s2m

NAMES = {
    "AcousticProfile", "Piece", "S2MError", "SamplingConfig", "Silent2Music", "Waveform", "__version__", "analyze",
    "follow_score", "load", "normalised", "read", "write",
}  # fmt: skip


def test_dir_lists_all_and_each_is_there() -> None:
    assert set(dir(s2m)) == NAMES
    assert all(getattr(s2m, name) is not None for name in NAMES)
    with pytest.raises(AttributeError, match="no attribute 'compose_all'"):
        _ = s2m.compose_all


def test_names_are_loaded_when_they_are_used() -> None:
    code = (
        "import sys, silent2music; dir(silent2music); print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(s2m.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split() == ["False", "False"]


def test_from_a_recording_to_a_file_and_its_scores(
    model_folder: Path, room_file: Path, tmp_path: Path
) -> None:
    model = s2m.load(model_folder)
    assert not model.training
    piece = model.generate(str(room_file), seed=3, seconds=1.0)
    assert isinstance(piece, s2m.Waveform) and piece.seconds == 1.0
    assert np.array_equal(model.generate(s2m.read(room_file), seed=3, seconds=1.0).samples, piece.samples)
    s2m.write(tmp_path / "music.wav", piece)
    np.testing.assert_allclose(s2m.read(tmp_path / "music.wav").samples, piece.samples, atol=1e-6)


def test_the_model_that_ships_is_loaded_without_a_name() -> None:
    assert s2m.load().config.name == "base"


def test_music_that_sounds_at_the_events_follows_them() -> None:
    """Clicks at the room's steps, and the same moved by half an interval."""
    room = s2m.Waveform(steps_room(6.0, interval=0.5), RATE)
    t = np.arange(6 * RATE) / RATE
    scores = []
    for shift in (0.1, 0.35):
        samples = np.exp(-((t - shift) % 0.5) / 0.05) * np.sin(2 * np.pi * 880 * t)
        scores.append(s2m.follow_score(room, s2m.Waveform(0.3 * samples[None].astype(np.float32), RATE)))
    assert scores[0]["onset_hit_rate"] > 0.7 > 0.2 > scores[1]["onset_hit_rate"]
