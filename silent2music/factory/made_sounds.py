"""Sounds of rooms that are made here, for whoever has no field recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from silent2music import audio
from silent2music.arrays import DoubleArray
from silent2music.audio import Waveform
from silent2music.factory.chain import coloured_noise
from silent2music.factory.rooms import SAMPLE_RATE
from silent2music.files import write_text

N_ROOMS = 12
"""Responses that are simulated for rooms that are made."""


def made_ambience(folder: Path, seed: int = 0) -> Path:
    """Synthesised room tones, rain, fans, steps, knocks and clocks, as a folder that `sources.open_library` takes.

    They stand in for field recordings where a user has none: noise of several colours, and short damped bursts. Public
    domain, since nobody's work is in them.
    """
    names = {
        **{f"ambiance_{c}": 0.6 + 0.35 * i for i, c in enumerate("abcd")},
        "radiator": 1.4,
        "city": 1.0,
        "rain": 0.1,
        "wind": 1.8,
        "fan": 0.9,
        **dict.fromkeys(
            ("footstep_wood", "footstep_stone", "clock-tick", "door_knock", "key_turn", "stick"), -1.0
        ),
    }
    index = folder / "index.tsv"
    if index.exists():
        return folder
    for number, (name, slope) in enumerate(names.items()):
        rng = np.random.default_rng([seed, number])
        samples = _bed(rng, slope) if slope >= 0 else _bursts(rng)
        audio.write(
            folder / f"{name}.wav", Waveform(samples[None].astype(np.float32), SAMPLE_RATE), force=True
        )
    rows = ["path\tlicence\tauthor", *(f"{name}.wav\tCC0-1.0\tsilent2music" for name in names)]
    write_text(index, "\n".join(rows) + "\n")
    return folder


def _bed(rng: np.random.Generator, slope: float) -> DoubleArray:
    return np.asarray(0.05 * coloured_noise(rng, 12 * SAMPLE_RATE, slope), np.float64)


def _bursts(rng: np.random.Generator, n: int = 14) -> DoubleArray:
    """A second apart, resonances and noise that are struck and die away."""
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    out = [1e-4 * rng.standard_normal(SAMPLE_RATE)]
    pitch_hz, decay = rng.uniform(120, 1800), rng.uniform(0.012, 0.06)
    for _ in range(n):
        strike = rng.standard_normal(SAMPLE_RATE) * np.exp(-time / (0.4 * decay))
        for ratio in rng.uniform(0.9, 3.2, 3):
            strike += (
                rng.uniform(0.3, 1.5) * np.sin(2 * np.pi * pitch_hz * ratio * time) * np.exp(-time / decay)
            )
        out.append(1e-4 * rng.standard_normal(SAMPLE_RATE) + 0.12 * strike)
    return np.clip(np.concatenate(out), -0.95, 0.95)
