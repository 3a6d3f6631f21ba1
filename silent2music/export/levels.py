"""Loudness of loops: each file at its target, together under one true peak, and whole when it repeats."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from silent2music import audio
from silent2music.audio import FloatArray, Waveform
from silent2music.export.levelling import NEARLY_NOTHING_LUFS

N_ROUNDS = 12
TOLERANCE_LU = 0.02


def loudness_of(samples: FloatArray, sample_rate: int) -> float:
    """Integrated LUFS (ITU-R BS.1770) of `[C, N]`; of an AmbiX field its W, which is its mono fold-down."""
    return audio.integrated_lufs(Waveform(samples[:1] if len(samples) == 4 else samples, sample_rate))


def levelled_set(
    sounds: Sequence[FloatArray], sample_rate: int, lufs: Sequence[float], true_peak: float
) -> tuple[list[FloatArray], list[bool]]:
    """Bring the layers `[C, N]` of a set to a loudness each, all of them and their sum under a true peak.

    Where the limit is touched, all layers are turned down together, so that their balance stays. What is nearly
    nothing is meant to be, and stays as it is.

    Returns:
        The layers, and for each whether it is nearly nothing.
    """
    loudness = [loudness_of(s, sample_rate) for s in sounds]
    quiet = [not loud >= NEARLY_NOTHING_LUFS for loud in loudness]
    gains_db = [0.0 if q else t - loud for q, t, loud in zip(quiet, lufs, loudness, strict=True)]
    held = list(sounds)
    for _ in range(N_ROUNDS):
        held = _held(
            [s * audio.db_to_gain(g) for s, g in zip(sounds, gains_db, strict=True)], sample_rate, true_peak
        )
        missing = [
            0.0 if q else t - loudness_of(h, sample_rate) for q, t, h in zip(quiet, lufs, held, strict=True)
        ]
        if max(map(abs, missing)) < TOLERANCE_LU:
            break
        gains_db = [g + m if math.isfinite(m) else g for g, m in zip(gains_db, missing, strict=True)]
    return held, quiet


def _held(sounds: Sequence[FloatArray], sample_rate: int, true_peak: float) -> list[FloatArray]:
    """Sounds under one limiter, which hears each of them and their sum, on the circle."""
    n_channels, n_samples = sounds[0].shape
    together = np.concatenate([*sounds, np.sum(sounds, axis=0)]).astype(np.float32)
    thrice = audio.limited(np.tile(together, 3), sample_rate, true_peak).samples
    held = thrice[:, n_samples : 2 * n_samples]
    return [held[i * n_channels : (i + 1) * n_channels] for i in range(len(sounds))]


def quantised(samples: FloatArray, seed: int, bits: int = 24) -> FloatArray:
    """Samples `[C, N]` on the steps of a PCM format, with triangular dither of two steps (Lipshitz et al., 1992).

    Writing them as PCM changes nothing more. Digital silence stays digital silence.
    """
    if not samples.any():
        return samples
    top = 2 ** (bits - 1)
    noise = np.random.default_rng(seed).random((2, *samples.shape)).sum(axis=0) - 1.0
    steps = np.rint(samples.astype(np.float64) * top + noise)
    return np.asarray(np.clip(steps, -top, top - 1) / top, dtype=np.float32)
