"""Loudness of loops: each file at its target, together under one true peak, and whole when it repeats.

Loudness is that of the file, played once, as every meter and every engine's importer reads it. Played for ever it
differs by what lies around the seam, which is measured then and not before: up to 1 LU where few strokes
make a lap's level and one lies there, less than 0.2 LU in most. Each layer of a set is at the target by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from silent2music import audio
from silent2music.audio import HOP_SECONDS, FloatArray, LoudnessMeter, Waveform, gate
from silent2music.export.levelling import NEARLY_NOTHING_LUFS

N_ROUNDS = 12
TOLERANCE_LU = 0.02

GATE_MARGIN_LU = 0.1
"""No gating block that matters lies nearer to the relative gate."""
GATE_STEP_LU = 0.05
"""Blocks at the gate matter where they move loudness by more than this."""


def loudness_of(samples: FloatArray, sample_rate: int) -> float:
    """Integrated LUFS (ITU-R BS.1770) of `[C, N]`; of an AmbiX field its W, which is its mono fold-down."""
    return audio.integrated_lufs(Waveform(_metered(samples), sample_rate))


def _metered(samples: FloatArray) -> FloatArray:
    return samples[:1] if len(samples) == 4 else samples


def off_the_gate(samples: FloatArray, sample_rate: int) -> FloatArray:
    """A lap `[C, N]` whose loudness all meters agree on: none of its gating blocks lies on the relative gate.

    A block there counts or not by the last digit, and where few blocks are loud, loudness is not the same by two
    meters, or before and after coding: with 11 of them, by 0.4 LU. Such a block swells or sinks by some tenths of a dB.
    """
    width = round(4 * HOP_SECONDS * sample_rate)
    swell = GATE_MARGIN_LU * 2.0 * np.hanning(width)
    for _ in range(N_ROUNDS):
        meter = LoudnessMeter(sample_rate, len(_metered(samples)))
        meter.add(_metered(samples))
        blocks = meter.blocks()
        above = blocks - gate(blocks)
        at_gate = np.flatnonzero(np.abs(above) < GATE_MARGIN_LU)
        n_loud = int((above >= GATE_MARGIN_LU).sum())
        if len(at_gate) == 0 or n_loud == 0 or 10.0 * np.log10(1.0 + len(at_gate) / n_loud) < GATE_STEP_LU:
            break
        gain_db = np.zeros(max(width, samples.shape[1]))
        for block in at_gate:
            begin = round(block * HOP_SECONDS * sample_rate)
            gain_db[begin : begin + width] += np.copysign(swell, above[block])[: len(gain_db) - begin]
        samples = samples * (10.0 ** (gain_db[: samples.shape[1]] / 20.0)).astype(np.float32)
    return samples


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
    held, limit = list(sounds), true_peak
    for _ in range(N_ROUNDS):
        louder = [s * audio.db_to_gain(g) for s, g in zip(sounds, gains_db, strict=True)]
        # After the limiter, which may put a block on the gate as well as take one away.
        held = [off_the_gate(h, sample_rate) for h in _held(louder, sample_rate, limit)]
        missing = [
            0.0 if q else t - loudness_of(h, sample_rate) for q, t, h in zip(quiet, lufs, held, strict=True)
        ]
        excess = _true_peak(held) - true_peak
        if max(map(abs, missing)) < TOLERANCE_LU and excess <= 0.0:
            break
        limit -= max(0.0, excess)
        gains_db = [g + m if math.isfinite(m) else g for g, m in zip(gains_db, missing, strict=True)]
    return held, quiet


def _held(sounds: Sequence[FloatArray], sample_rate: int, true_peak: float) -> list[FloatArray]:
    """Sounds under one limiter, which hears each of them and their sum, on the circle."""
    n_channels, n_samples = sounds[0].shape
    together = _with_sum(sounds)
    thrice = audio.limited(np.tile(together, 3), sample_rate, true_peak).samples
    held = thrice[:, n_samples : 2 * n_samples]
    return [held[i * n_channels : (i + 1) * n_channels] for i in range(len(sounds))]


def _true_peak(sounds: Sequence[FloatArray]) -> float:
    """The highest true peak in dBTP of sounds and of their sum, on the circle."""
    return audio.peak_dbtp(audio.oversampled_peaks(np.tile(_with_sum(sounds), 2)))


def _with_sum(sounds: Sequence[FloatArray]) -> FloatArray:
    """Sounds `[C, N]` and their sum, one below the other."""
    return np.concatenate([*sounds, np.sum(sounds, axis=0)]).astype(np.float32)


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
