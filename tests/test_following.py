"""`follow_score` on rooms and music whose answers are known, and what is said where the extra is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from silent2music import audio
from silent2music.audio import Waveform
from silent2music.errors import S2MError, require
from silent2music.evaluation.following import MIN_EVENTS, SCORES, follow_score

RATE, SECONDS = 24_000, 12.0


def bursts(times: np.ndarray, gain: float, decay: float, floor: float, seed: int = 0) -> Waveform:
    """Bursts of noise at `times` over a floor of noise."""
    rng = np.random.default_rng(seed)
    samples = floor * rng.standard_normal(int(SECONDS * RATE))
    t = np.arange(RATE // 4) / RATE
    for first in (times * RATE).astype(int):
        samples[first : first + t.size] += gain * rng.standard_normal(t.size) * np.exp(-t / decay)
    return Waveform(np.clip(samples, -1, 1)[None].astype(np.float32), RATE)


def test_music_on_the_steps_follows_and_the_shifted_room_does_not(tmp_path: Path) -> None:
    times = np.cumsum(np.random.default_rng(3).uniform(0.4, 0.9, 16))
    times = times[times < SECONDS - 0.3]
    room, music = bursts(times, 0.005, 0.02, 1e-4), bursts(times, 0.3, 0.1, 1e-4, seed=1)
    audio.write(tmp_path / "room.wav", room)
    own = follow_score(tmp_path / "room.wav", music)
    shifted = Waveform(np.roll(room.samples, int(3.35 * RATE), axis=1), RATE)
    null = follow_score(shifted, music)
    assert own["onset_hit_rate"] > 0.9 and own["energy_pearson"] > 0.5
    assert null["onset_hit_rate"] < 0.4 and null["energy_pearson"] < own["energy_pearson"] - 0.2
    assert set(own) <= set(SCORES)


def test_a_room_without_events_asks_for_energy_alone() -> None:
    silent = Waveform(np.zeros((1, 3 * RATE), np.float32), RATE)
    assert follow_score(silent, silent) == {"energy_pearson": 0.0, "energy_spearman": 0.0}
    few = bursts(np.arange(1, MIN_EVENTS) * 2.0, 0.005, 0.02, 1e-4)
    assert "onset_hit_rate" not in follow_score(few, few)


def test_a_missing_extra_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert require("json", "eval").dumps([]) == "[]"
    monkeypatch.setitem(sys.modules, "mir_eval", None)
    with pytest.raises(S2MError, match=r"mir_eval is not installed.*pip install 'silent2music\[eval\]'"):
        follow_score(*[bursts(np.arange(1.0, 11.0), 0.005, 0.02, 1e-4)] * 2)
