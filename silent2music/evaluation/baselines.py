"""What a model must be placed among: simpler ways to get music for a room, and sounds that are no music."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from silent2music.acoustics import AcousticProfile
from silent2music.arrays import DoubleArray
from silent2music.audio import Waveform
from silent2music.errors import DataError

HALL_RT60_SECONDS = 1.4
GRAIN_SECONDS = 0.05
NOISE_DBFS = -18.0


def room_vector(profile: AcousticProfile) -> DoubleArray:
    """A room as a few figures on comparable scales, for finding one like it."""
    energy = np.asarray(profile.energy_dbfs, np.float64)
    return np.array(
        [
            profile.level_dbfs / 10.0,
            np.log2(max(profile.spectral_centroid_hz, 20.0)),
            profile.spectral_tilt_db_per_octave / 3.0,
            profile.rt60_seconds or 0.5,
            np.log2(1.0 + 60.0 * len(profile.events) / profile.seconds),
            3.0 * bool(profile.pulse_seconds),
            np.log2(profile.tempo_bpm / 100.0) * 3.0 if profile.tempo_bpm else 0.0,
            energy.std() / 5.0,
            len(profile.boundaries) / profile.seconds * 30.0,
        ]
    )


def nearest_room(room: DoubleArray, others: Sequence[DoubleArray]) -> int:
    """Index of the room vector nearest to `room` in Euclidean distance."""
    return int(np.argmin([np.linalg.norm(room - other) for other in others]))


def arranged(
    room: AcousticProfile, scores: Sequence[Path], soundfont: Path, rng: np.random.Generator
) -> Waveform | None:
    """Music by rule: a score arranged to what `acoustics` measured of the room, and rendered.

    The kind is told from the profile: `steps` with a pulse, `hall` where it reverberates, else `room`.

    Args:
        room: the measured profile.
        scores: MIDI files to draw from.
        soundfont: for the rendering.
        rng: draws the score and all that the arranger leaves open.

    Returns:
        None if none of a few scores could be arranged.

    Raises:
        DataError: if fluidsynth or the soundfont is missing.
    """
    from silent2music.factory.arrangement import SceneTruth
    from silent2music.factory.arranging import arrange
    from silent2music.factory.rendering import render
    from silent2music.factory.scores import load_score

    strengths = np.array([event.strength_db for event in room.events], np.float64)
    reverberant = (room.rt60_seconds or 0.0) >= HALL_RT60_SECONDS
    truth = SceneTruth(
        kind="steps" if room.pulse_seconds else "hall" if reverberant else "room",
        seconds=room.seconds,
        event_seconds=np.array([event.seconds for event in room.events], np.float64),
        event_strengths=np.clip(strengths / 30.0, 0.1, 1.0),
        beat_seconds=np.asarray(room.pulse_seconds, np.float64),
        boundary_seconds=np.array([boundary.seconds for boundary in room.boundaries], np.float64),
        energy_db=np.asarray(room.energy_dbfs, np.float64),
        rt60_seconds=room.rt60_seconds,
        level_dbfs=room.level_dbfs,
    )
    for _ in range(8):
        try:
            arrangement = arrange(load_score(scores[int(rng.integers(len(scores)))]), truth, rng)
        except DataError:
            # Too short or without notes after the voice is dropped: another one serves.
            continue
        return render(arrangement, soundfont)
    return None


def white_noise(seconds: float, sample_rate: int, rng: np.random.Generator) -> Waveform:
    """White noise at `NOISE_DBFS`: what every quality figure must call bad."""
    samples = rng.standard_normal((1, round(seconds * sample_rate))) * 10.0 ** (NOISE_DBFS / 20.0)
    return Waveform(np.clip(samples, -1.0, 1.0).astype(np.float32), sample_rate)


def shuffled_grains(music: Waveform, rng: np.random.Generator) -> Waveform:
    """The music cut into grains of 50 ms, in random order: the right colours without any time."""
    size = round(GRAIN_SECONDS * music.sample_rate)
    samples = music.mono().samples
    n_grains = max(1, samples.shape[1] // size)
    grains = samples[:, : n_grains * size].reshape(1, n_grains, -1)
    return Waveform(
        np.ascontiguousarray(grains[:, rng.permutation(n_grains)].reshape(1, -1)), music.sample_rate
    )
