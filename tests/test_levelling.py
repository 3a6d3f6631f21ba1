"""Loudness and limiting block by block are those of the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from silent2music import audio
from silent2music.audio import Waveform
from silent2music.export import levelling

RATE = 24_000


def music(seconds: float, n_channels: int = 1, seed: int = 0) -> np.ndarray:
    """Noise whose level changes from second to second, with clicks."""
    rng = np.random.default_rng(seed)
    n = round(seconds * RATE)
    level = np.interp(np.arange(n) / RATE, np.arange(int(seconds) + 2), rng.uniform(0, 0.1, int(seconds) + 2))
    samples = rng.standard_normal((n_channels, n)) * level
    samples[:, :: RATE // 3] += 0.9
    return np.clip(samples, -1, 1).astype(np.float32)


def test_mp3_is_read_back_in_blocks_as_it_is_in_one(tmp_path: Path) -> None:
    tones = sum(np.sin(2 * np.pi * hz * np.arange(6 * RATE) / RATE) for hz in (220, 331, 1234)) / 4
    audio.write(tmp_path / "tones.mp3", Waveform(tones[None].astype(np.float32), RATE))
    (whole,) = audio.read_blocks(tmp_path / "tones.mp3", 10 * RATE)
    blocks = list(audio.read_blocks(tmp_path / "tones.mp3", RATE))
    assert len(blocks) == 6
    assert np.array_equal(np.concatenate(blocks, axis=1), whole)


def test_blocks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [Waveform(part, RATE) for part in np.array_split(music(7.3), 5, axis=1)]
    monkeypatch.setattr(levelling, "BLOCK_SECONDS", 8)
    whole = levelling.write_music(tmp_path / "whole.wav", pieces)
    monkeypatch.setattr(levelling, "BLOCK_SECONDS", 1)
    blocks = levelling.write_music(tmp_path / "blocks.wav", pieces)
    assert blocks == whole
    assert (tmp_path / "blocks.wav").read_bytes() == (tmp_path / "whole.wav").read_bytes()
    assert whole["lufs"] == pytest.approx(-18.0, abs=0.1)
    assert audio.true_peak_dbtp(audio.read(tmp_path / "whole.wav")) < -1.0
