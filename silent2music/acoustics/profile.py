"""The measured facts of one recording, with their confidences and their JSON form."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Event:
    """A transient: onset time, strength above the local noise floor, confidence (0 to 1)."""

    seconds: float
    strength_db: float
    confidence: float


@dataclass(frozen=True)
class Boundary:
    """A change of scene: its time and confidence (0 to 1)."""

    seconds: float
    confidence: float


@dataclass(frozen=True)
class AcousticProfile:
    """All measurements of one recording. Times are seconds from its start.

    Attributes:
        seconds: duration.
        sample_rate: of the recording, in Hz.
        n_channels: of the recording.
        level_dbfs: RMS of what is heard of its channels (`Waveform.downmix`), without what lies below 25 Hz.
        peak_dbfs: largest sample of the same.
        noise_floor_dbfs: 5th percentile of the energy curve.
        spectral_centroid_hz: power-weighted mean frequency.
        spectral_tilt_db_per_octave: slope of the power density, 100 Hz to 8 kHz; 0 for white noise, -3 for pink.
        rt60_seconds: blind estimate of the reverberation time, None without a usable decay.
        rt60_confidence: 0 to 1.
        events: ascending in time.
        tempo_bpm, pulse_phase_seconds: of the pulse and its first beat, None where there is none.
        pulse_confidence: 0 to 1.
        pulse_seconds: the beats, which follow a drifting pulse; empty where there is none.
        curve_rate_hz: rate of `energy_dbfs`.
        energy_dbfs: RMS of each tenth of a second; entry k covers k/10 to (k+1)/10 s.
        boundaries: ascending in time.
    """

    seconds: float
    sample_rate: int
    n_channels: int
    level_dbfs: float
    peak_dbfs: float
    noise_floor_dbfs: float
    spectral_centroid_hz: float
    spectral_tilt_db_per_octave: float
    rt60_seconds: float | None
    rt60_confidence: float
    events: tuple[Event, ...]
    tempo_bpm: float | None
    pulse_phase_seconds: float | None
    pulse_confidence: float
    pulse_seconds: tuple[float, ...]
    curve_rate_hz: float
    energy_dbfs: tuple[float, ...]
    boundaries: tuple[Boundary, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)
