"""The noise that an instrument makes when it is played without sounding: keys, bows, fingers, breath."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from silent2music.arrays import DoubleArray, FloatArray
from silent2music.audio import db_to_gain
from silent2music.factory.chain import shaped_noise
from silent2music.factory.rooms import SAMPLE_RATE
from silent2music.score import Part


@dataclass(frozen=True)
class Touch:
    """How an instrument's mechanics sound.

    Attributes:
        thump_hz: resonance of the body that a key, pad or finger excites.
        click_hz: centre of the click's noise at middle C; it moves with pitch by `follow`.
        follow: share of the pitch's interval that the colour follows, 0 to 1.
        decay_seconds: of the click.
        sustain_db: level of bow or breath noise during the note, relative to the click; None without.
        release_db: level of the noise at the note's end, relative to the click; None without.
    """

    thump_hz: float
    click_hz: float
    follow: float
    decay_seconds: float
    sustain_db: float | None = None
    release_db: float | None = None


TOUCHES: dict[str, Touch] = {
    "piano": Touch(110, 1800, 0.3, 0.030, None, -9),
    "accordion": Touch(260, 2600, 0.2, 0.018, -14, -5),
    "bass": Touch(80, 900, 0.6, 0.040, None, -12),
    "bassoon": Touch(190, 2200, 0.4, 0.016, -9, -8),
    "cello": Touch(130, 1300, 0.6, 0.030, -5, None),
    "guitar": Touch(160, 2400, 0.5, 0.022, None, -14),
    "tuba": Touch(120, 1100, 0.4, 0.028, -7, -7),
    "ukulele": Touch(320, 3200, 0.5, 0.016, None, -16),
    "violin": Touch(290, 2900, 0.6, 0.018, -4, None),
    "flute": Touch(420, 4200, 0.5, 0.012, -3, -9),
    "drums": Touch(180, 3000, 0.0, 0.035, None, None),
}
"""Of the instruments that play silently, by plain name; any other is taken for a keyboard."""


def mechanical_noise(
    parts: Sequence[Part], n: int, rng: np.random.Generator
) -> tuple[FloatArray, DoubleArray, DoubleArray]:
    """The noise of all notes of an arrangement.

    Args:
        n: length in samples at 24 kHz.

    Returns:
        samples `[n]` of peak about 1, note onsets `[E]` in seconds and their strengths `[E]` in 0 to 1.
    """
    out = np.zeros(n, np.float32)
    onsets: list[float] = []
    strengths: list[float] = []
    for part in parts:
        touch = TOUCHES.get(part.name, TOUCHES["piano"])
        notes = zip(part.start_seconds, part.end_seconds, part.pitches, part.velocities, strict=True)
        for start, end, pitch, velocity in notes:
            # 127 is 0 dB and 30 is about -19 dB, half of what the instrument itself would span.
            gain = (float(velocity) / 127) ** 1.5
            _add(out, _click(touch, int(pitch), rng), float(start), gain)
            length = float(end - start)
            if touch.sustain_db is not None and length > 0.06:
                noise = _stroke(touch, int(pitch), min(length, 4.0), rng)
                _add(out, noise, float(start), gain * db_to_gain(touch.sustain_db))
            if touch.release_db is not None and length > 0.08:
                release = _click(touch, int(pitch) - 5, rng)
                fraction = db_to_gain(touch.release_db) * float(rng.uniform(0.5, 1))
                _add(out, release, float(end), gain * fraction)
            onsets.append(float(start))
            strengths.append(float(velocity) / 127)
    return out, np.array(onsets), np.array(strengths)


def _add(out: FloatArray, piece: FloatArray, seconds: float, gain: float) -> None:
    """Add a piece at a time, as far as it lies inside."""
    start = round(seconds * SAMPLE_RATE)
    if 0 <= start < out.size:
        piece = piece[: out.size - start]
        out[start : start + piece.size] += piece * np.float32(gain)


def _colour(touch: Touch, pitch: int) -> float:
    """Centre of the noise in Hz at a pitch."""
    return float(np.clip(touch.click_hz * 2 ** (touch.follow * (pitch - 60) / 12), 150, 9000))


def _click(touch: Touch, pitch: int, rng: np.random.Generator) -> FloatArray:
    """A key, pad or finger: a burst of band noise over a damped resonance of the body, peak 1."""
    n = int(SAMPLE_RATE * 6 * touch.decay_seconds)
    time = np.arange(n, dtype=np.float32) / SAMPLE_RATE
    burst = _band_noise(n, _colour(touch, pitch), 1.2, rng) * np.exp(-time / touch.decay_seconds)
    thump_hz = touch.thump_hz * 2 ** (0.25 * (pitch - 60) / 12)
    thump = np.sin(2 * np.pi * thump_hz * time + 0.3) * np.exp(-time / (1.5 * touch.decay_seconds))
    both = burst / (np.abs(burst).max() + 1e-9) + np.float32(rng.uniform(0.2, 0.7)) * thump
    both[:24] *= np.linspace(0, 1, 24, dtype=np.float32)
    both[-n // 6 :] *= np.linspace(1, 0, both[-n // 6 :].size, dtype=np.float32)
    return np.asarray(both / (np.abs(both).max() + 1e-9), np.float32)


def _stroke(touch: Touch, pitch: int, seconds: float, rng: np.random.Generator) -> FloatArray:
    """Bow or breath: band noise that swells within 40 ms and ebbs with the note, RMS about 1/4."""
    n = max(256, int(SAMPLE_RATE * seconds))
    noise = _band_noise(n, _colour(touch, pitch), 0.9, rng)
    envelope = np.minimum(np.arange(n, dtype=np.float32) / (0.04 * SAMPLE_RATE), 1)
    envelope *= np.linspace(1, 0.4, n, dtype=np.float32)
    fade = min(n // 3, SAMPLE_RATE // 25)
    envelope[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    rms = np.sqrt(np.mean(np.square(noise))) + 1e-9
    return np.asarray(0.25 * noise / rms * envelope, np.float32)


def _band_noise(n: int, centre_hz: float, width: float, rng: np.random.Generator) -> FloatArray:
    """`[n]` noise with a bell-shaped spectrum on a logarithmic axis, `width` octaves wide."""

    def bell(frequency_hz: FloatArray) -> FloatArray:
        octaves = np.log2(np.maximum(frequency_hz, 1.0) / centre_hz)
        return np.asarray(np.exp(-0.5 * (octaves / width) ** 2))

    return shaped_noise(rng, n, bell)
