"""Keys of cadences, and correlations with key profiles."""

from __future__ import annotations

import numpy as np
import pytest

from silent2music.keys import MINOR_PROFILE, estimate_key, key_correlations


@pytest.mark.parametrize("tonic", range(12))
@pytest.mark.parametrize("mode", ["major", "minor"])
def test_key_of_a_cadence(tonic: int, mode: str) -> None:
    third = 4 if mode == "major" else 3
    tonic_chord, dominant = (0, third, 7), (7, 11, 14)
    subdominant = (5, 5 + third, 12)
    pitches = np.array(
        [60 + tonic + p for chord in (tonic_chord, subdominant, dominant, tonic_chord) for p in chord]
    )
    assert estimate_key(pitches, np.ones(len(pitches))) == (tonic, mode)


def test_key_of_nothing_is_c_major() -> None:
    assert estimate_key(np.zeros(0, np.int64), np.zeros(0)) == (0, "major")


def test_correlations_are_pearsons() -> None:
    weights = np.random.default_rng(0).uniform(size=12)
    found = key_correlations(weights)
    assert found[12 + 9] == pytest.approx(np.corrcoef(weights, np.roll(MINOR_PROFILE, 9))[0, 1])
    assert key_correlations(np.roll(MINOR_PROFILE, 4) * 3.0)[12 + 4] == pytest.approx(1.0)
    assert np.abs(found).max() < 1.0


def test_pitch_classes_that_weigh_the_same_correlate_with_no_key() -> None:
    assert not key_correlations(np.ones(12)).any()
