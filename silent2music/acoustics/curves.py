"""The acoustic profile as network input: curves on a time axis, and global scalars, all of order one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from silent2music.acoustics.profile import AcousticProfile
from silent2music.arrays import DoubleArray, FloatArray

PROFILE_CURVES: tuple[str, ...] = (
    "event_strength",
    "event_offset",
    "event_confidence",
    "since_event",
    "to_event",
    "event_density",
    "pulse_sin",
    "pulse_cos",
    "tempo",
    "pulse_confidence",
    "energy_relative",
    "energy_absolute",
    "boundary_proximity",
    "boundary_distance",
    "rt60",
    "rt60_confidence",
    "noise_floor",
    "spectral_tilt",
    "spectral_centroid",
    "snr",
)
"""Columns of `profile_curves`, in order."""

_SCALARS: dict[str, Callable[[AcousticProfile], Any]] = {
    "level": lambda p: (p.level_dbfs + 60.0) / 20.0,
    "noise_floor": lambda p: (p.noise_floor_dbfs + 60.0) / 20.0,
    "snr": lambda p: (p.peak_dbfs - p.noise_floor_dbfs) / 40.0,
    "spectral_tilt": lambda p: p.spectral_tilt_db_per_octave / 6.0,
    "spectral_centroid": lambda p: np.log2(max(p.spectral_centroid_hz, 125.0) / 1000.0),
    "rt60": lambda p: 0.0 if p.rt60_seconds is None else np.log2(p.rt60_seconds),
    "rt60_confidence": lambda p: p.rt60_confidence,
    "tempo": lambda p: 0.0 if p.tempo_bpm is None else np.log2(p.tempo_bpm / 100.0),
    "pulse_confidence": lambda p: 0.0 if p.tempo_bpm is None else p.pulse_confidence,
    "event_rate": lambda p: np.log2(1.0 + len(p.events) / p.seconds),
    "event_strength": lambda p: np.mean([e.strength_db for e in p.events]) / 20.0 if p.events else 0.0,
    "energy_range": lambda p: (np.percentile(p.energy_dbfs, 95) - np.percentile(p.energy_dbfs, 5)) / 20.0,
    "boundary_rate": lambda p: np.log2(1.0 + 10.0 * len(p.boundaries) / p.seconds),
    "duration": lambda p: np.log2(p.seconds / 30.0) / 3.0,
}

PROFILE_SCALARS = tuple(_SCALARS)
"""Entries of `profile_scalars`, in order."""


def profile_curves(profile: AcousticProfile, frame_rate: float, n_frames: int) -> FloatArray:
    """The profile on a time axis, `[n_frames, len(PROFILE_CURVES)]`, all roughly within -3 to 3.

    Frame f stands for the time f / frame_rate; an event at t seconds lies in frame round(t * frame_rate).

    Args:
        frame_rate: frames per second.
        n_frames: number of frames; beyond the recording's end its last energy is held.
    """
    t = np.arange(n_frames) / frame_rate
    out = np.zeros((n_frames, len(PROFILE_CURVES)), np.float32)
    column = {name: out[:, i] for i, name in enumerate(PROFILE_CURVES)}
    times = np.array([e.seconds for e in profile.events])
    for event in profile.events:
        frame = round(event.seconds * frame_rate)
        strength = np.float32(np.clip(event.strength_db / 20.0, 0.05, 3.0))
        if 0 <= frame < n_frames and strength > column["event_strength"][frame]:
            column["event_strength"][frame] = strength
            column["event_offset"][frame] = event.seconds * frame_rate - frame
            column["event_confidence"][frame] = event.confidence
    if len(times):
        after = np.searchsorted(times, t, side="right")
        since = np.where(after > 0, t - times[np.maximum(after - 1, 0)], np.inf)
        coming = np.where(after < len(times), times[np.minimum(after, len(times) - 1)] - t, np.inf)
        column["since_event"][:] = np.exp(-since)
        column["to_event"][:] = np.exp(-coming)
        within = np.searchsorted(times, t + 1.0, side="right") - np.searchsorted(times, t - 1.0)
        column["event_density"][:] = np.minimum(within / 4.0, 3.0)
    _pulse_columns(profile, t, column)
    centres = (np.arange(len(profile.energy_dbfs)) + 0.5) / profile.curve_rate_hz
    energy = np.interp(t, centres, profile.energy_dbfs)
    column["energy_relative"][:] = np.clip((energy - np.median(profile.energy_dbfs)) / 10.0, -3.0, 3.0)
    column["energy_absolute"][:] = (energy + 60.0) / 20.0
    if profile.boundaries:
        boundaries = np.array([b.seconds for b in profile.boundaries])
        confidences = np.array([b.confidence for b in profile.boundaries])
        gaps = boundaries[None, :] - t[:, None]
        nearest = np.argmin(np.abs(gaps), axis=1)
        gap = gaps[np.arange(n_frames), nearest]
        column["boundary_proximity"][:] = np.exp(-np.abs(gap) / 0.5) * confidences[nearest]
        column["boundary_distance"][:] = np.tanh(gap / 2.0)
    scalars = dict(zip(PROFILE_SCALARS, profile_scalars(profile), strict=True))
    for name in ("rt60", "rt60_confidence", "noise_floor", "spectral_tilt", "spectral_centroid", "snr"):
        column[name][:] = scalars[name]
    return out


def _pulse_columns(profile: AcousticProfile, t: DoubleArray, column: dict[str, FloatArray]) -> None:
    """Fill in phase, tempo and confidence of the pulse; the beat grid continues on both sides at its end intervals."""
    if profile.tempo_bpm is None or len(profile.pulse_seconds) < 2:
        return
    beats = np.array(profile.pulse_seconds)
    first, last = np.median(np.diff(beats[:5])), np.median(np.diff(beats[-5:]))
    phase = np.interp(t, beats, np.arange(len(beats), dtype=np.float64))
    phase = np.where(t < beats[0], (t - beats[0]) / first, phase)
    phase = np.where(t > beats[-1], len(beats) - 1 + (t - beats[-1]) / last, phase)
    column["pulse_sin"][:] = np.sin(2 * np.pi * phase) * profile.pulse_confidence
    column["pulse_cos"][:] = np.cos(2 * np.pi * phase) * profile.pulse_confidence
    column["tempo"][:] = np.log2(profile.tempo_bpm / 100.0)
    column["pulse_confidence"][:] = profile.pulse_confidence


def profile_scalars(profile: AcousticProfile) -> FloatArray:
    """The profile's globals, `[len(PROFILE_SCALARS)]`, all roughly within -3 to 3."""
    return np.array([np.clip(scalar(profile), -3.5, 3.5) for scalar in _SCALARS.values()], np.float32)
