"""Intensity layers: the same room, heard as calmer or busier than it is, and followed less or more closely."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from silent2music.acoustics import AcousticProfile
from silent2music.audio import FloatArray, Waveform, db_to_gain

MIN_EVENT_SECONDS, MAX_EVENT_SECONDS = 0.15, 0.6
"""How long an event is taken to sound: up to the next one, within these."""


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
    gain_db = np.zeros(lap.n_samples)
    starts = np.array([e.seconds for e in profile.events])
    for rank, event in enumerate(events):
        change_db = layer.event_gain_db if rank < n_kept else -event.strength_db
        later = starts[starts > event.seconds]
        length = np.clip((later[0] if len(later) else np.inf) - event.seconds, *_LENGTHS)
        begin = round((event.seconds - 0.02) * lap.sample_rate)
        gain_db[max(0, begin) : begin + round(length * lap.sample_rate)] = change_db
    width = round(0.01 * lap.sample_rate)
    smooth = np.convolve(np.pad(gain_db, width, mode="wrap"), np.ones(2 * width + 1) / (2 * width + 1), "valid")
    gain: FloatArray = (10.0 ** (smooth / 20.0)).astype(np.float32) * np.float32(db_to_gain(layer.level_db))
    return Waveform(np.clip(lap.samples * gain, -1.0, 1.0), lap.sample_rate)


_LENGTHS = (MIN_EVENT_SECONDS, MAX_EVENT_SECONDS)
