from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import steps_room

from silent2music.acoustics import analyze
from silent2music.audio import Waveform
from silent2music.errors import AudioError, DataError
from silent2music.plotting import plot_losses, plot_profile


@pytest.fixture
def room() -> Waveform:
    return Waveform(steps_room(6.0), 24_000)


def test_a_picture_with_colour_in_it(room: Waveform, tmp_path: Path) -> None:
    from matplotlib.image import imread

    path = tmp_path / "room.png"
    plot_profile(room, analyze(room), path)
    picture = imread(path)
    assert picture.shape[0] > 500 and picture.shape[1] > 1000
    assert picture[..., :3].std() > 0.1
    assert [p.name for p in tmp_path.iterdir()] == ["room.png"]


@pytest.mark.parametrize(
    "samples",
    [np.zeros((1, 24_000), np.float32), np.zeros((8, 4_000), np.float32), np.full((2, 300), 0.5, np.float32)],
)
def test_silence_and_scraps(samples: np.ndarray, tmp_path: Path) -> None:
    room = Waveform(samples, 8000)
    plot_profile(room, analyze(room), tmp_path / "silence.png")
    assert (tmp_path / "silence.png").stat().st_size > 5000


def test_an_older_picture_is_replaced(room: Waveform, tmp_path: Path) -> None:
    path = tmp_path / "room.svg"
    path.write_text("old")
    plot_profile(room, analyze(room), path)
    assert "<svg" in path.read_text()


def test_other_suffixes_are_refused(room: Waveform, tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"suffix '\.wav'.*\.png"):
        plot_profile(room, analyze(room), tmp_path / "room.wav")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(room: Waveform, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AudioError, match="cannot be written"):
        plot_profile(room, analyze(room), tmp_path / "file" / "room.png")


def test_losses_are_drawn_from_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    rows = [{"step": 20, "loss": 5.0}, {"step": 20, "validation_true": 4.9, "validation_shuffled": 5.1}]
    log.write_text("\n".join(json.dumps(row) for row in rows))
    plot_losses(log, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(AudioError, match=r"suffix '\.gif'"):
        plot_losses(log, tmp_path / "loss.gif")
    with pytest.raises(DataError, match="expected the log of a training run"):
        plot_losses(tmp_path / "none.jsonl", tmp_path / "loss.png")
