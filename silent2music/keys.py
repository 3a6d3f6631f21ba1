"""Musical keys: their names, and the one that pitches are in."""

from __future__ import annotations

import numpy as np

from silent2music.arrays import DoubleArray, IntArray

PITCH_NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")

MAJOR_PROFILE = np.array([6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88])
MINOR_PROFILE = np.array([6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17])
"""Probe-tone profiles of Krumhansl & Kessler, Psychological Review 89 (1982), from the tonic upwards."""


def _key_templates(major: DoubleArray, minor: DoubleArray) -> DoubleArray:
    """`[24, 12]` both profiles on every tonic, of mean 0 and length 1, so that products rank as correlations do."""
    rows = np.array([np.roll(p, tonic) for p in (major, minor) for tonic in range(12)])
    rows = rows - rows.mean(axis=1, keepdims=True)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


KEY_TEMPLATES = _key_templates(MAJOR_PROFILE, MINOR_PROFILE)
"""Major keys from C to B, then minor keys."""

DEGREE_TEMPLATES = _key_templates(
    np.array([3.0, 0, 1, 0, 2, 1, 0, 3, 0, 1, 0, 1]), np.array([3.0, 0, 1, 2, 0, 1, 0, 3, 1, 0, 0.5, 0.5])
)
"""Likewise of degrees: the scale's own, and above them the third, and above it tonic and fifth. By the profiles above
tonic and minor third alone are a minor key already, though they belong as well to the major key a third below."""


def key_correlations(weights: DoubleArray) -> DoubleArray:
    """`[24]` correlation of pitch-class weights `[12]`, C first, with each key's profile; 0 if all weigh the same.

    Keys are in the order of `KEY_TEMPLATES`. Krumhansl, "Cognitive Foundations of Musical Pitch", Oxford 1990, ch. 4.
    """
    centred = weights - weights.mean()
    length = float(np.linalg.norm(centred))
    return np.zeros(24) if length < 1e-12 else np.asarray(KEY_TEMPLATES @ centred / length)


def estimate_key(pitches: IntArray, durations: DoubleArray) -> tuple[int, str]:
    """Tonic pitch class and mode: the Krumhansl-Kessler profile that best correlates with the pitch classes.

    Args:
        pitches: `[n]` MIDI note numbers.
        durations: `[n]` weights, in beats or seconds.

    Example:
        >>> estimate_key(np.array([57, 60, 64, 57, 59, 62, 68, 57]), np.ones(8))
        (9, 'minor')
    """
    profile = np.bincount(pitches % 12, weights=durations, minlength=12)
    profile = profile - profile.mean()
    if not profile.any():
        return 0, "major"
    mode, tonic = divmod(int((KEY_TEMPLATES @ profile).argmax()), 12)
    return tonic, ("major", "minor")[mode]


def key_shift(tonic: int, mode: str) -> int:
    """Semitones, -6 to 5, to the nearest C major or A minor."""
    return ((0 if mode == "major" else 9) - tonic + 6) % 12 - 6
