"""The profile of a long recording, joined from those of overlapping windows, so that memory stays small."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from silent2music.acoustics.boundaries import MIN_DISTANCE_SECONDS
from silent2music.acoustics.events import REFRACTORY_SECONDS
from silent2music.acoustics.profile import AcousticProfile, Boundary, Event
from silent2music.acoustics.pulse import tempo_of
from silent2music.arrays import DoubleArray
from silent2music.audio import to_dbfs

Mark = TypeVar("Mark", Event, Boundary)


class Part(NamedTuple):
    """A window of a recording: where it begins, and its own profile, whose times are from there on."""

    begin_seconds: float
    profile: AcousticProfile

    @property
    def end_seconds(self) -> float:
        """The end of the window."""
        return self.begin_seconds + self.profile.seconds


def joined(parts: Sequence[Part]) -> AcousticProfile:
    """Join the profiles of overlapping windows to that of the whole recording; that of a single window is its own.

    Windows meet in the middle of their overlap, so that each moment is measured by a window that reaches beyond it.
    Events, energy, level, peak and noise floor equal those of the whole, boundaries nearly so. Centroid and tilt are
    means weighted by power. Beats continue from window to window, and a pulse that is present for a part of the time
    is kept; its confidence is a mean over time. The reverberation is that of the window with the median decay time,
    weighted by confidence.

    Args:
        parts: ascending; neighbours overlap, and together they cover the recording.
    """
    if len(parts) == 1:
        return parts[0].profile
    profiles = [part.profile for part in parts]
    end = parts[-1].end_seconds
    borders = [(a.end_seconds + b.begin_seconds) / 2 for a, b in pairwise(parts)]
    shares = np.diff([0.0, *borders, end])
    energy_dbfs = _energy(parts, borders)
    powers = shares * [10.0 ** (profile.level_dbfs / 10.0) for profile in profiles]
    beats = _beats(parts, borders)
    reverberant = _median_decay(profiles)
    return replace(
        profiles[0],
        seconds=end,
        level_dbfs=float(to_dbfs(float(np.mean(10.0 ** (energy_dbfs / 10.0))))),
        peak_dbfs=max(profile.peak_dbfs for profile in profiles),
        noise_floor_dbfs=float(np.percentile(energy_dbfs, 5)),
        spectral_centroid_hz=float(np.average([p.spectral_centroid_hz for p in profiles], weights=powers)),
        spectral_tilt_db_per_octave=float(
            np.average([p.spectral_tilt_db_per_octave for p in profiles], weights=powers)
        ),
        rt60_seconds=reverberant.rt60_seconds,
        rt60_confidence=reverberant.rt60_confidence,
        events=_marks(parts, borders, REFRACTORY_SECONDS / 2, lambda profile: profile.events),
        tempo_bpm=tempo_of(beats) if len(beats) else None,
        pulse_phase_seconds=float(beats[0]) if len(beats) else None,
        pulse_confidence=float(np.average([p.pulse_confidence for p in profiles], weights=shares)),
        pulse_seconds=tuple(beats.tolist()),
        energy_dbfs=tuple(energy_dbfs.tolist()),
        boundaries=_marks(parts, borders, MIN_DISTANCE_SECONDS, lambda profile: profile.boundaries),
    )


def _energy(parts: Sequence[Part], borders: Sequence[float]) -> DoubleArray:
    """The energy curve of the whole in dBFS, each cell from the window on whose side of the borders it lies."""
    rate = parts[0].profile.curve_rate_hz
    cells = np.arange(max(1, round(parts[-1].end_seconds * rate)))
    owners = np.searchsorted(borders, (cells + 0.5) / rate)
    out = np.zeros(len(cells))
    for i, (begin, profile) in enumerate(parts):
        own = owners == i
        at = np.round(cells[own] - begin * rate).astype(np.int64)
        out[own] = np.array(profile.energy_dbfs)[np.clip(at, 0, len(profile.energy_dbfs) - 1)]
    return out


def _marks(
    parts: Sequence[Part],
    borders: Sequence[float],
    gap: float,
    of: Callable[[AcousticProfile], Sequence[Mark]],
) -> tuple[Mark, ...]:
    """Events or boundaries of the whole, of which no two from different windows are nearer than `gap` seconds."""
    found = [[replace(mark, seconds=mark.seconds + begin) for mark in of(p)] for begin, p in parts]
    own = _owned(
        [np.array([mark.seconds for mark in marks]) for marks in found], borders, [gap] * len(borders)
    )
    return tuple(marks[i] for marks, is_own in zip(found, own, strict=True) for i in np.flatnonzero(is_own))


def _beats(parts: Sequence[Part], borders: Sequence[float]) -> DoubleArray:
    """Beats of the whole; across a border of windows, none are nearer than half a beat."""
    found = [begin + np.array(profile.pulse_seconds) for begin, profile in parts]
    gaps = [30.0 / max(a.profile.tempo_bpm or 60.0, b.profile.tempo_bpm or 60.0) for a, b in pairwise(parts)]
    beats = np.concatenate([b[own] for b, own in zip(found, _owned(found, borders, gaps), strict=True)])
    return beats if len(beats) > 1 else np.zeros(0)


def _owned(
    times: Sequence[DoubleArray], borders: Sequence[float], gaps: Sequence[float]
) -> list[NDArray[np.bool_]]:
    """Boolean masks: which of the times found in each window are kept.

    Two windows may date the same thing a little apart, on either side of their border: the second one's count from
    a gap before it, but not within a gap of what the first has there.
    """
    last, chosen = -np.inf, []
    for found, begin, gap, end in zip(
        times, [-np.inf, *borders], [0.0, *gaps], [*borders, np.inf], strict=True
    ):
        chosen.append((found >= max(begin - gap, last + gap)) & (found < end))
        last = max(last, found[chosen[-1]].max(initial=-np.inf))
    return chosen


def _median_decay(profiles: Sequence[AcousticProfile]) -> AcousticProfile:
    """The window whose reverberation is the median, weighted by confidence; the first if none has any."""
    known = sorted((p.rt60_seconds, p.rt60_confidence, i) for i, p in enumerate(profiles) if p.rt60_seconds)
    if not known:
        return profiles[0]
    weights = np.cumsum([confidence for _, confidence, _ in known])
    return profiles[known[int(np.searchsorted(weights, weights[-1] / 2))][2]]
