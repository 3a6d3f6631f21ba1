"""The room as one lap of the grid, and as an intensity layer hears it: calmer or busier, followed less or more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from silent2music.acoustics import AcousticProfile
from silent2music.audio import FloatArray, Waveform
from silent2music.export.ambience.grid import Grid

BLEND_SECONDS = 0.25
"""Over this stretch a lap of the room turns into what comes before its own beginning."""

MIN_EVENT_SECONDS, MAX_EVENT_SECONDS = 0.15, 0.6
"""How long an event is taken to sound: up to the next one, within these."""

LEAD_SECONDS = 0.02
"""Before the time of an event, its attack has begun."""

TONE_PERCENTILE = 30
"""Of the level over time: the room tone, into which events sink."""


def room_lap(room: Waveform, profile: AcousticProfile, grid: Grid, sample_rate: int) -> Waveform:
    """One lap of a room, whose end leads into its beginning: what the music of a lap is to follow.

    With a pulse, the room's beats are moved onto the grid and start with the first one; a room with fewer beats
    than the lap is taken up again at a bar line. Without, the lap is a stretch from the room's beginning, or the
    room over and over.

    Args:
        room: the recording.
        profile: its profile.
        grid: the lap.
        sample_rate: of the lap, in Hz.

    Returns:
        `[1, round(n_frames / frame_rate * sample_rate)]`.
    """
    sound = room.mono().resampled(sample_rate)
    samples, seconds = sound.samples[0], grid.n_frames / grid.frame_rate
    n_samples = round(seconds * sample_rate)
    if grid.bars:
        beats = np.array(profile.pulse_seconds)
        n_units, anchors = grid.bars * grid.beats_per_bar, beats
        n_whole = (len(beats) - 1) // grid.beats_per_bar * grid.beats_per_bar or len(beats) - 1
        cycle = float(min(n_units, n_whole))
    else:
        start = float(np.clip(room.seconds - seconds, 0.0, BLEND_SECONDS))
        n_units, anchors = 1, np.array([start, start + seconds])
        cycle = min(1.0, room.seconds / seconds)
    unit_seconds = float(np.median(np.diff(anchors)))
    place = np.arange(n_samples) / n_samples * n_units
    position = place % cycle
    ahead = np.minimum(cycle - position, n_units - place) * unit_seconds
    where = np.interp(position, np.arange(len(anchors)), anchors)
    before = np.abs(anchors[0] - ahead)  # mirrored where the recording has not begun yet
    turn = np.clip(1.0 - ahead / BLEND_SECONDS, 0.0, 1.0) * (np.pi / 2)
    times = np.arange(sound.n_samples) / sample_rate
    lap = np.interp(where, times, samples) * np.cos(turn) + np.interp(before, times, samples) * np.sin(turn)
    return Waveform(np.clip(lap, -1.0, 1.0)[None].astype(np.float32), sample_rate)


@dataclass(frozen=True)
class Layer:
    """How a layer hears the room.

    Attributes:
        event_share: the strongest events that stay, as a share; the others sink into the room tone.
        event_gain_db: what the events that stay gain over the room tone.
        level_db: what the whole room gains.
        guidance: strength of the room, as a multiple of the plain one.
    """

    event_share: float
    event_gain_db: float
    level_db: float
    guidance: float


LAYERS: Mapping[str, Layer] = {
    "calm": Layer(event_share=0.3, event_gain_db=-6.0, level_db=-8.0, guidance=0.75),
    "medium": Layer(event_share=1.0, event_gain_db=0.0, level_db=0.0, guidance=1.0),
    "intense": Layer(event_share=1.0, event_gain_db=6.0, level_db=8.0, guidance=1.5),
}

PLAIN = LAYERS["medium"]
"""What a loop without layers is made of."""


def steered(lap: Waveform, profile: AcousticProfile, layer: Layer) -> Waveform:
    """A lap of the room as a layer hears it; its time axis stays.

    Args:
        lap: `[1, N]`.
        profile: of the lap.
        layer: what to do.
    """
    events = sorted(profile.events, key=lambda e: -e.strength_db)
    n_kept = int(np.ceil(layer.event_share * len(events)))
    above_db = _above_tone_db(lap)
    gain_db = np.zeros(lap.n_samples)
    starts = np.array([e.seconds for e in profile.events])
    for rank, event in enumerate(events):
        later = starts[starts > event.seconds]
        length = np.clip(
            (later[0] if len(later) else np.inf) - event.seconds, MIN_EVENT_SECONDS, MAX_EVENT_SECONDS
        )
        begin = max(0, round((event.seconds - LEAD_SECONDS) * lap.sample_rate))
        span = slice(begin, begin + round(length * lap.sample_rate))
        gain_db[span] = layer.event_gain_db if rank < n_kept else -above_db[span]
    gain: FloatArray = (10.0 ** ((gain_db + layer.level_db) / 20.0)).astype(np.float32)
    return Waveform(np.clip(lap.samples * gain, -1.0, 1.0), lap.sample_rate)


def _above_tone_db(lap: Waveform) -> NDArray[np.float64]:
    """How far each sample's surroundings of 10 ms lie above the room tone, `[N]`, 0 where they do not."""
    from scipy.ndimage import maximum_filter1d, uniform_filter1d

    width = round(0.01 * lap.sample_rate)
    power = uniform_filter1d(np.square(lap.samples[0], dtype=np.float64), width, mode="wrap")
    level_db = 10.0 * np.log10(maximum_filter1d(power, width, mode="wrap") + 1e-12)
    return np.asarray(np.maximum(level_db - np.percentile(level_db, TONE_PERCENTILE), 0.0))
