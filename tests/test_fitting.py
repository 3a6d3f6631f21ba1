"""A user's score set to a room."""

import dataclasses

import numpy as np
import pytest
from conftest import RATE, steps_room

from silent2music.acoustics import analyze
from silent2music.acoustics.profile import Boundary
from silent2music.audio import Waveform
from silent2music.export.fitting import scene_of, set_to_room
from silent2music.score import Cue, Part, Score


def tune(n_beats: int = 32, bpm: float = 100.0) -> Score:
    """A note on each beat, a bar of four."""
    starts = np.arange(n_beats) * 60.0 / bpm
    part = Part(
        "piano", 0, False, "melody", starts, starts + 0.3, 60 + np.arange(n_beats) % 12, np.full(n_beats, 90)
    )
    return Score(
        starts[-1] + 1.0, (part,), beat_seconds=starts, bar_seconds=starts[::4], cues=(Cue(starts[8], "cut"),)
    )


@pytest.fixture(scope="module")
def profile():
    """Steps of two a second."""
    profile = analyze(Waveform(steps_room(12.0, interval=0.5), RATE))
    assert profile.tempo_bpm == pytest.approx(120, rel=0.02)
    return profile


def test_beats_fall_on_the_pulse_and_no_note_is_lost(profile):
    score = tune()
    fitted = set_to_room(score, dataclasses.replace(profile, boundaries=()))
    (part,) = fitted.parts
    assert np.array_equal(part.pitches, score.parts[0].pitches)
    pulse = scene_of(profile, fitted.seconds + 1).beat_seconds
    inside = part.start_seconds[part.start_seconds > profile.pulse_seconds[0]]
    distance = np.abs(inside[:, None] - pulse[None]).min(axis=1)
    assert np.median(distance) < 0.02 and len(inside) > 24
    assert (np.diff(part.start_seconds) > 0.1).all()
    assert fitted.cues[0].name == "cut"
    assert fitted.cues[0].seconds == pytest.approx(part.start_seconds[8], abs=1e-6)


def test_bars_begin_at_the_rooms_changes(profile):
    changed = dataclasses.replace(profile, boundaries=(Boundary(5.0, 1.0),), pulse_seconds=(), tempo_bpm=None)
    fitted = set_to_room(tune(), changed)
    assert fitted.boundary_seconds[0] == pytest.approx(5.0)
    assert np.abs(fitted.bar_seconds - 5.0).min() < 1e-6
    assert fitted.parts[0].pitches.size == 32


def test_loudness_follows_the_energy(profile):
    energy = np.array(profile.energy_dbfs)
    energy[: len(energy) // 2] = -70.0
    energy[len(energy) // 2 :] = -50.0
    louder = dataclasses.replace(profile, energy_dbfs=tuple(energy), boundaries=())
    gain = set_to_room(tune(16), louder).gain_db
    half = len(energy) // 2
    assert gain.max() <= 0 and gain[half + 5 : half + 25].mean() > gain[: half - 5].mean() + 6
