"""Room responses: measured ones made ready, simulated ones, and their reverberation time."""

from __future__ import annotations

import numpy as np

from silent2music.arrays import DoubleArray, FloatArray

SAMPLE_RATE = 24_000
"""Rate of everything on the silent side, in Hz."""


def measured_rt60(response: FloatArray) -> float:
    """RT60 in seconds of a room response `[N]`, the mean of the octaves at 500 Hz, 1 kHz and 2 kHz.

    In each octave Schroeder's backward integration, slope from -5 to -25 dB (T20).
    Schroeder 1965, "New method of measuring reverberation time"; ISO 3382-1.
    """
    from scipy.signal import butter, sosfilt

    times = []
    for centre_hz in (500.0, 1000.0, 2000.0):
        edges = (centre_hz / np.sqrt(2), centre_hz * np.sqrt(2))
        band = sosfilt(butter(2, edges, "bandpass", fs=SAMPLE_RATE, output="sos"), response)
        energy = _energy_left(band)
        decay_db = 10 * np.log10(np.maximum(energy / max(energy[0], 1e-30), 1e-12))
        inside = np.flatnonzero((decay_db <= -5) & (decay_db >= -25))
        if inside.size >= 8:
            times.append(-60.0 / float(np.polyfit(inside / SAMPLE_RATE, decay_db[inside], 1)[0]))
    return float(np.mean(times)) if times else 0.0


def _energy_left(samples: FloatArray) -> DoubleArray:
    """`[N]` the energy from each sample on."""
    return np.cumsum(np.square(samples[::-1], dtype=np.float64))[::-1]


def prepared_response(samples: FloatArray) -> FloatArray:
    """A response cut to start at its direct sound, without its empty tail, at energy 1."""
    peak = int(np.abs(samples).argmax())
    # 1 ms before the peak keeps the rise of the direct sound; more would delay every event.
    trimmed = samples[max(0, peak - SAMPLE_RATE // 1000) :].astype(np.float32)
    energy = _energy_left(trimmed)
    n_kept = max(64, int(np.count_nonzero(energy > 1e-6 * energy[0])))
    trimmed = trimmed[:n_kept] / np.float32(np.sqrt(energy[0]) + 1e-12)
    fade = min(n_kept // 4, SAMPLE_RATE // 50)
    trimmed[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    return trimmed


def simulated_room(rng: np.random.Generator, rt60_seconds: float) -> FloatArray:
    """A shoebox room: early reflections by the image source method, then a diffuse tail.

    pyroomacoustics gives the early reflections up to order 8; from 40 to 80 ms on, Gaussian noise that decays
    by 60 dB in `rt60_seconds` (a little faster above 2 kHz, as air and walls have it) takes over at matching level.
    """
    import pyroomacoustics as pra
    from scipy.signal import butter, sosfilt

    size = np.clip(4.0 * rt60_seconds**0.6, 2.2, 14.0) * rng.uniform(0.8, 1.3, 3) * np.array([1.4, 1.1, 0.7])
    size = np.maximum(size, 2.2)
    try:
        absorption, _ = pra.inverse_sabine(rt60_seconds, size)
    except ValueError:
        absorption = 0.9
    room = pra.ShoeBox(size, fs=SAMPLE_RATE, materials=pra.Material(min(absorption, 0.95)), max_order=8)
    room.add_source((rng.uniform(0.15, 0.85, 3) * size).tolist())
    room.add_microphone((rng.uniform(0.15, 0.85, 3) * size).tolist())
    room.compute_rir()
    early = prepared_response(np.asarray(room.rir[0][0], np.float32))
    n = int(SAMPLE_RATE * min(1.1 * rt60_seconds, 4.5)) + SAMPLE_RATE // 10
    time = np.arange(n) / SAMPLE_RATE
    noise = rng.standard_normal(n).astype(np.float32)
    low = sosfilt(butter(1, 2000.0, fs=SAMPLE_RATE, output="sos"), noise)
    decay = 10 ** (-3 * time / rt60_seconds)
    tail = low * decay + (noise - low) * decay ** rng.uniform(1.05, 1.3)
    mixing = rng.uniform(0.015, 0.04)
    early = np.pad(early, (0, max(0, n - early.size)))[:n]
    window = (time > 0.5 * mixing) & (time < 1.5 * mixing)
    level = np.sqrt(np.mean(np.square(early[window])) + 1e-9) / np.sqrt(
        np.mean(np.square(tail[window])) + 1e-9
    )
    rise = np.clip((time - 0.5 * mixing) / mixing, 0, 1)
    mixed = (
        early * np.where(time < mixing, 1.0, decay) * (1 - 0.5 * rise) + np.minimum(level, 1.0) * rise * tail
    )
    return prepared_response(mixed.astype(np.float32))
