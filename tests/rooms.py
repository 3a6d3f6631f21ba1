"""Synthesised rooms for tests."""

from __future__ import annotations

import numpy as np

from silent2music import audio

RATE = 24_000


def steps_room(
    seconds: float = 2.0, rate: int = RATE, interval: float = 0.5, level_dbfs: float = -60.0
) -> np.ndarray:
    """A near-silent room with a step every `interval` seconds, `[1, N]` at a level in dBFS RMS."""
    rng = np.random.default_rng(round(interval * 1000))
    n_samples = round(seconds * rate)
    t = np.arange(n_samples) / rate
    samples = 0.002 * rng.standard_normal(n_samples)
    for start in np.arange(0.1, seconds, interval):
        after = np.maximum(t - start, 0.0)
        samples += (t >= start) * np.exp(-after / 0.02) * rng.standard_normal(n_samples)
    samples *= audio.db_to_gain(level_dbfs) / np.sqrt(np.mean(samples**2))
    return samples[None].astype(np.float32)
