"""The measured facts of one recording, with their confidences and their JSON form."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from silent2music.errors import DataError


@dataclass(frozen=True)
class Event:
    """A transient: when it starts, how far it stands above the local noise floor, how sure it is (0 to 1)."""

    seconds: float
    strength_db: float
    confidence: float


@dataclass(frozen=True)
class Boundary:
    """A change of scene: when, and how sure it is (0 to 1)."""

    seconds: float
    confidence: float


@dataclass(frozen=True)
class AcousticProfile:
    """What was measured of one recording. Times are seconds from its start.

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
        """Plain JSON-ready values; `from_dict` is the exact inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AcousticProfile:
        """Build a profile from plain values, strictly.

        Raises:
            DataError: on an unknown or missing key, which is named.
        """
        known = dict(_strict(values, cls, "profile"))
        for name, item in (("events", Event), ("boundaries", Boundary)):
            known[name] = tuple(item(**_strict(row, item, name)) for row in _list(known, name))
        for name in ("pulse_seconds", "energy_dbfs"):
            known[name] = tuple(_list(known, name))
        return cls(**known)


def _strict(values: Mapping[str, Any], cls: type, where: str) -> Mapping[str, Any]:
    """`values` if its keys are exactly the fields of a dataclass."""
    if not isinstance(values, Mapping):
        raise DataError(f"Acoustic {where} is {values!r}; expected a table of values.")
    names = {f.name for f in dataclasses.fields(cls)}
    for key in values:
        if key not in names:
            raise DataError(f"Unknown key '{key}' in acoustic {where}; expected {', '.join(sorted(names))}.")
    missing = sorted(names - set(values))
    if missing:
        raise DataError(f"Key '{missing[0]}' is missing in acoustic {where}; analyse the recording again.")
    return values


def _list(values: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = values[name]
    if not isinstance(value, list | tuple):
        raise DataError(f"Acoustic profile has '{name}' = {value!r}; expected a list.")
    return value
