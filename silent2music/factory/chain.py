"""Turns a mixed scene into a recording: room response, recording chain, 16-bit quantisation, measured level."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from silent2music.arrays import DoubleArray, FloatArray
from silent2music.audio import db_to_gain, level_curve_dbfs
from silent2music.factory.rooms import SAMPLE_RATE
from silent2music.score import ENERGY_RATE_HZ


def in_room(
    foreground: FloatArray, background: FloatArray, response: FloatArray, background_too: bool
) -> FloatArray:
    """Foreground and background `[N]` together in a room.

    Args:
        background: convolved if `background_too`, else added as it is.
        response: `[R]` of the room, starting with its direct sound.
    """
    from scipy.fft import irfft, next_fast_len, rfft

    n = foreground.size
    size = next_fast_len(n + response.size, real=True)
    wet = irfft(rfft(foreground, size) * rfft(response, size), size)[:n].astype(np.float32)
    # A response of energy 1 spreads a click over time; the direct sound's share brings its peak back.
    wet /= np.float32(max(0.15, float(np.abs(response[: SAMPLE_RATE // 200]).max())))
    if background_too:
        # Convolved in a circle: the background has always been there and must not build up at the start.
        spectrum = rfft(background, n) * rfft(fitted(response, n), n)
        background = irfft(spectrum, n).astype(np.float32)
    return np.asarray(wet + background)


def recording_chain(samples: FloatArray, rng: np.random.Generator, probability: float) -> FloatArray:
    """Microphone and recorder as they may be: each augmentation comes with `probability`.

    A peaking equaliser, a high-pass, a low-pass and narrow-band or coded recording. EMSYNC (Sulun et al. 2025)
    describes how a model otherwise overfits to the filters of one chain. All filters are causal with less than
    a few milliseconds of delay, or of zero phase, so that events stay where they are.
    """
    import soxr
    from scipy.signal import butter, sosfilt, tf2sos

    sections: list[DoubleArray] = []
    for _ in range(2):
        if rng.random() < probability:
            b, a = _peaking(
                float(np.exp(rng.uniform(np.log(80), np.log(8000)))), float(rng.uniform(-8, 8)), rng
            )
            sections.append(tf2sos(b, a))
    if rng.random() < probability:
        sections.append(butter(2, float(rng.uniform(25, 120)), "highpass", fs=SAMPLE_RATE, output="sos"))
    if rng.random() < probability / 2:
        sections.append(butter(2, float(rng.uniform(4000, 11000)), fs=SAMPLE_RATE, output="sos"))
    if sections:
        samples = sosfilt(np.concatenate(sections).astype(np.float32), samples).astype(np.float32)
    if rng.random() < probability / 4:
        rate = int(rng.choice((11_025, 16_000)))
        narrow = soxr.resample(samples, SAMPLE_RATE, rate, quality="MQ")
        samples = fitted(soxr.resample(narrow, rate, SAMPLE_RATE, quality="MQ"), samples.size)
    if rng.random() < probability / 4:
        samples = coded(samples, float(rng.uniform(14, 26)))
    return samples


def _peaking(
    frequency_hz: float, gain_db: float, rng: np.random.Generator
) -> tuple[DoubleArray, DoubleArray]:
    """Filter coefficients `b [3]`, `a [3]` of a peaking equaliser (Bristow-Johnson, Audio EQ Cookbook)."""
    w = 2 * np.pi * frequency_hz / SAMPLE_RATE
    amplitude, alpha = 10 ** (gain_db / 40), np.sin(w) / (2 * float(rng.uniform(0.4, 1.5)))
    b = np.array([1 + alpha * amplitude, -2 * np.cos(w), 1 - alpha * amplitude])
    a = np.array([1 + alpha / amplitude, -2 * np.cos(w), 1 - alpha / amplitude])
    return b / a[0], a / a[0]


def coded(samples: FloatArray, headroom_db: float) -> FloatArray:
    """Imitate a lossy coder on `[N]` samples: coefficients far below the peak of their band and frame are removed.

    A windowed transform of 1024 samples; 24 bands; coefficients more than `headroom_db` under their band's
    largest are set to zero, and nothing is kept above 10 kHz.
    """
    from scipy.fft import irfft, rfft

    size, hop = 1024, 512
    window = np.sin(np.pi * (np.arange(size, dtype=np.float32) + 0.5) / size)
    padded = np.pad(samples, (hop, size))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop] * window
    spectrum = rfft(frames, axis=1)
    magnitude = np.abs(spectrum)
    edges = np.unique(np.geomspace(2, size // 2, 25).astype(int))
    for low, high in pairwise(edges):
        band = magnitude[:, low:high]
        spectrum[:, low:high][band < band.max(axis=1, keepdims=True) * db_to_gain(-headroom_db)] = 0
    spectrum[:, round(10_000 / SAMPLE_RATE * size) :] = 0
    pieces = irfft(spectrum, size, axis=1).astype(np.float32) * window
    out = np.zeros((pieces.shape[0] + 1, hop), np.float32)
    out[:-1] += pieces[:, :hop]
    out[1:] += pieces[:, hop:]
    return fitted(out.reshape(-1)[hop:], samples.size)


def quantised(samples: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Samples quantised to 16 bits, with triangular dither of two steps' width."""
    dither = rng.random(samples.shape, np.float32) - rng.random(samples.shape, np.float32)
    return in_16_bits(samples + dither / np.float32(32768))


def in_16_bits(samples: FloatArray) -> FloatArray:
    """Samples rounded to 16 bits: FLAC stores the empty low bits of a 24-bit file at no cost."""
    steps = np.clip(np.round(samples * np.float32(32768)), -32768, 32767)
    return np.asarray(steps / np.float32(32768), np.float32)


def measured_energy_db(samples: FloatArray) -> DoubleArray:
    """`[seconds * ENERGY_RATE_HZ]` RMS of `[N]` samples in dBFS, in frames of 100 ms, not below the floor."""
    frame = round(SAMPLE_RATE / ENERGY_RATE_HZ)
    n_frames = max(1, round(samples.size / frame))
    return level_curve_dbfs(fitted(samples, n_frames * frame), frame)


def coloured_noise(rng: np.random.Generator, n: int, slope: float) -> FloatArray:
    """`[n]` Gaussian noise of RMS 1 whose power falls with frequency to the power of `slope`, flat under 40 Hz."""
    noise = shaped_noise(
        rng, n, lambda frequency_hz: np.maximum(frequency_hz, np.float32(40)) ** np.float32(-slope / 2)
    )
    return np.asarray(noise / np.float32(rms(noise)))


def shaped_noise(rng: np.random.Generator, n: int, gain: Callable[[FloatArray], FloatArray]) -> FloatArray:
    """`[n]` Gaussian noise whose spectrum has the gain that the function gives for frequencies in Hz."""
    from scipy.fft import irfft, next_fast_len, rfftfreq

    size = next_fast_len(n, real=True)
    spectrum = gain(rfftfreq(size, 1 / SAMPLE_RATE).astype(np.float32)).astype(np.complex64)
    # The spectrum of white noise is white noise: real and imaginary parts are drawn as such.
    parts = rng.standard_normal(2 * spectrum.size, dtype=np.float32)
    spectrum *= parts.view(np.complex64) * np.float32(np.sqrt(size / 2))
    return np.asarray(irfft(spectrum, size)[:n], np.float32)


def frame_powers(samples: FloatArray, frame: int) -> FloatArray:
    """`[N // frame]` mean square of consecutive frames of `[N]` samples; what is left over at the end is left out."""
    n_frames = samples.size // frame
    return np.asarray(np.square(samples[: n_frames * frame]).reshape(n_frames, frame).mean(axis=1))


def rms(samples: FloatArray) -> float:
    """Root mean square, plus a tiny constant so that it can be divided by."""
    return float(np.sqrt(np.dot(samples, samples) / max(samples.size, 1))) + 1e-12


def fitted(samples: FloatArray, n: int) -> FloatArray:
    """Cut or zero-padded to `n` samples."""
    return samples[:n] if samples.size >= n else np.pad(samples, (0, n - samples.size))
