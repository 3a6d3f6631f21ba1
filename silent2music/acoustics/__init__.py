"""What is measurable in near-silence: level, spectrum, events, pulse, decay, energy and changes of scene.

Plain signal processing on one mono signal at 24 kHz: high-passed, and scaled to unit RMS before anything
that must not depend on level. Absolute level is kept in the fields whose names end in `_dbfs`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from silent2music.acoustics.boundaries import change_probability, find_boundaries
from silent2music.acoustics.curves import PROFILE_CURVES, PROFILE_SCALARS, profile_curves, profile_scalars
from silent2music.acoustics.decay import find_decay
from silent2music.acoustics.events import find_events, onset_function
from silent2music.acoustics.profile import AcousticProfile, Boundary, Event
from silent2music.acoustics.pulse import find_pulse, tempo_of
from silent2music.acoustics.spectra import (
    ANALYSIS_RATE,
    CURVE_RATE_HZ,
    prepare_sound,
    spectra,
    spectral_shape,
)
from silent2music.audio import FLOOR_DBFS, Recorded, to_dbfs

__all__ = [
    "PROFILE_CURVES",
    "PROFILE_SCALARS",
    "AcousticProfile",
    "Boundary",
    "Event",
    "analyze",
    "profile_curves",
    "profile_scalars",
]


def analyze(room: Recorded) -> AcousticProfile:
    """The acoustic profile of a recording: level, spectrum, events, pulse, decay, energy curve, changes of scene.

    Of a long recording only band powers, 55 MiB an hour, are held in memory. Deterministic. Scaling the recording
    changes the fields in dBFS alone. Digital silence gives the floor, no events, no pulse and no decay.

    Example:
        >>> from silent2music.audio import Waveform
        >>> analyze(Waveform(np.zeros((1, 24000), np.float32), 24000)).level_dbfs
        -120.0
    """
    sound = prepare_sound(room)
    energy_dbfs = to_dbfs(sound.energy)
    level_dbfs = float(to_dbfs(sound.power))
    events: tuple[Event, ...] = ()
    boundaries: tuple[Boundary, ...] = ()
    beats, pulse_confidence = np.zeros(0), 0.0
    rt60_seconds, rt60_confidence = None, 0.0
    centroid_hz = tilt = 0.0
    if level_dbfs > FLOOR_DBFS:
        bands, spectrum = spectra(sound.signal)
        centroid_hz, tilt = spectral_shape(spectrum, min(room.sample_rate, ANALYSIS_RATE) / 2)
        with ThreadPoolExecutor(1) as beside:  # mostly sorting, for which Python's lock is not held
            changes = beside.submit(change_probability, bands)
            onsets = onset_function(bands)
            events = find_events(sound.signal, bands, onsets)
            beats, pulse_confidence = find_pulse(events, onsets.function, room.seconds)
            rt60_seconds, rt60_confidence = find_decay(bands, events)
        boundaries = find_boundaries(changes.result(), events)
    return AcousticProfile(
        seconds=room.seconds,
        sample_rate=room.sample_rate,
        n_channels=room.recorded_channels,
        level_dbfs=level_dbfs,
        peak_dbfs=float(to_dbfs(sound.peak**2)),
        noise_floor_dbfs=float(np.percentile(energy_dbfs, 5)),
        spectral_centroid_hz=centroid_hz,
        spectral_tilt_db_per_octave=tilt,
        rt60_seconds=rt60_seconds,
        rt60_confidence=rt60_confidence,
        events=events,
        tempo_bpm=tempo_of(beats) if len(beats) else None,
        pulse_phase_seconds=float(beats[0]) if len(beats) else None,
        pulse_confidence=pulse_confidence,
        pulse_seconds=tuple(float(b) for b in beats),
        curve_rate_hz=CURVE_RATE_HZ,
        energy_dbfs=tuple(float(e) for e in energy_dbfs),
        boundaries=boundaries,
    )
