"""One lap (one pass of a loop): its length and bars, and the room cut to it and changed for an intensity layer."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from silent2music.acoustics import AcousticProfile, Event, analyze
from silent2music.arrays import DoubleArray, IntArray
from silent2music.audio import Recorded, Waveform
from silent2music.config import AmbienceConfig
from silent2music.errors import AudioError, ConfigError

MIN_LOOP_SECONDS = 2.0
"""Shorter, an ending and the beginning that it must lead to would be the same music."""

MAX_LOOP_SECONDS = 120.0
"""The longest loop that is composed; one that a model plays for the room alone is as long as it looks back."""

EXACT_SHARE = 1e-6
"""Rounding of a tempo that is asked for."""

MAX_WARP = 1.4
"""A room whose pulse is another than the lap's tempo by more than this ratio is taken as it is."""

BLEND_SECONDS = 0.25
"""Over this stretch a lap of the room turns into what comes before its own beginning."""

MIN_EVENT_SECONDS, MAX_EVENT_SECONDS = 0.15, 0.6
"""How long an event is taken to sound: up to the next one, within these."""

MARGIN_SECONDS = 1.0
"""So much more of the room is read than a lap needs, for the filter that resamples it."""

LEAD_SECONDS = 0.02
"""Before the time of an event, its attack has begun."""

TONE_PERCENTILE = 30
"""Of the level over time: the room tone, into which events sink."""


@dataclass(frozen=True)
class Grid:
    """One lap.

    Attributes:
        n_frames: length in codec frames.
        frame_rate: of the codec, in Hz.
        n_samples: length of the files in samples, exact.
        sample_rate: of the files, in Hz.
        bpm: tempo, None where the room has no pulse.
        bars: 0 where there is no pulse.
        beats_per_bar: of the grid.
    """

    n_frames: int
    frame_rate: float
    n_samples: int
    sample_rate: int
    bpm: float | None
    bars: int
    beats_per_bar: int

    @property
    def seconds(self) -> float:
        """Length of the files."""
        return self.n_samples / self.sample_rate

    @property
    def tuning_cents(self) -> float:
        """By how much whole codec frames, played in the exact length, sound higher."""
        n_exact = self.n_samples * self.frame_rate / self.sample_rate
        return round(1200.0 * float(np.log2(self.n_frames / n_exact)), 2)

    @property
    def bar_samples(self) -> tuple[int, ...]:
        """Where the bars begin in the files; the beginning alone where there are none."""
        return tuple(round(i * self.n_samples / max(1, self.bars)) for i in range(max(1, self.bars)))

    @property
    def n_beats(self) -> int:
        """Beats of a lap; 0 where there is no pulse."""
        return self.bars * self.beats_per_bar

    @property
    def lap_seconds(self) -> float:
        """Length of the whole codec frames."""
        return self.n_frames / self.frame_rate

    @property
    def bar_seconds(self) -> float:
        """Length of a bar in `lap_seconds`."""
        return self.lap_seconds / self.bars

    @property
    def beat_frames(self) -> DoubleArray:
        """Where the beats of a lap are, in codec frames, most of them between two; none where there is no pulse."""
        return np.linspace(0.0, self.n_frames, self.n_beats, endpoint=False)

    def frames_of(self, seconds: float) -> int:
        """Codec frames, at least one and at most a quarter of a lap."""
        return max(1, min(round(seconds * self.frame_rate), self.n_frames // 4))

    def samples_of(self, frames: IntArray | DoubleArray) -> IntArray:
        """The samples of the files at places in codec frames."""
        return np.round(frames / self.n_frames * self.n_samples).astype(np.int64)


def parse_loop(text: str) -> Mapping[str, Any]:
    """Settings that `8bars`, `12s` or `12.5` stand for.

    Raises:
        ConfigError: on anything else.

    Example:
        >>> parse_loop("8bars"), parse_loop("12.5s")
        ({'bars': 8}, {'seconds': 12.5, 'bars': 0})
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|bars?)?", text.strip())
    if match and match[2] in (None, "s"):
        return {"seconds": float(match[1]), "bars": 0}
    if match and match[1].isdigit() and int(match[1]) > 0:
        return {"bars": int(match[1])}
    raise ConfigError(f"--loop is '{text}'; expected seconds such as 12.5, or bars such as 8bars.")


def plan_grid(
    profile: AcousticProfile,
    config: AmbienceConfig,
    frame_rate: float,
    max_frames: int,
    own_bpm: float | None = None,
) -> Grid:
    """The lap for a room: by bars where there is a tempo, by seconds otherwise.

    The tempo is the one asked for, exact, else that of the room's pulse, else the composer's own. Asked for bars, a bar
    of a pulse is brought to the nearest whole codec frame, under 1 % of its length; where they are longer than can be
    made, half as many are made, and half of these, until they fit. Asked for seconds, the tempo of a pulse or of a
    composer moves so that whole bars fill them.

    Args:
        frame_rate: of the codec, in Hz.
        max_frames: the longest lap that can be made.
        own_bpm: of what is composed for a room without a pulse.

    Raises:
        AudioError: if whole bars do not fit the length, or the loop is too long or too short.
    """
    tempo, beats = config.tempo or profile.tempo_bpm or own_bpm, config.beats_per_bar
    bars, bpm, seconds = 0, None, config.seconds
    asked = f"A loop of {seconds:g} s"
    if tempo is not None and config.bars:
        bars, bar_frames = config.bars, beats * 60.0 / tempo * frame_rate
        if config.tempo is None:
            bar_frames = max(1, round(bar_frames))
        while bars > 1 and bars * bar_frames > max_frames:
            bars //= 2
        seconds = bars * bar_frames / frame_rate
        bpm = 60.0 * beats * frame_rate / bar_frames
        asked = f"A loop of {bars} bars at {bpm:.1f} bpm, which is {seconds:.2f} s,"
    elif tempo is not None:
        bars = max(1, round(seconds / (beats * 60.0 / tempo)))
        bpm = 60.0 * beats * bars / seconds
        tolerance = EXACT_SHARE if config.tempo else config.tempo_tolerance
        if (config.tempo or profile.tempo_bpm) and abs(bpm / tempo - 1.0) > tolerance:
            raise AudioError(_bars_that_fit(config, tempo, bpm, tolerance, frame_rate, max_frames))
    n_frames = round(seconds * frame_rate)
    if n_frames > max_frames:
        limit = "than loops are composed" if own_bpm is not None else "than the model can hold together"
        raise AudioError(f"{asked} is longer {limit}; expected at most {max_frames / frame_rate:g} s.")
    if seconds < MIN_LOOP_SECONDS:
        fits = MIN_LOOP_SECONDS <= 2 * seconds <= max_frames / frame_rate
        more = f", or {2 * bars}bars" if bars and fits else ""
        raise AudioError(f"{asked} is too short; expected at least {MIN_LOOP_SECONDS:g} s{more}.")
    n_samples = round(seconds * config.sample_rate)
    return Grid(n_frames, frame_rate, n_samples, config.sample_rate, bpm, bars, beats)


def _bars_that_fit(
    config: AmbienceConfig, tempo: float, bpm: float, tolerance: float, frame_rate: float, max_frames: int
) -> str:
    """A sentence on seconds that hold no whole bars at a tempo, with lengths that do."""
    seconds, beats = config.seconds, config.beats_per_bar
    bar = beats * 60.0 / tempo
    n_least, bar_frames = math.ceil(MIN_LOOP_SECONDS * frame_rate), round(bar * frame_rate)
    fitting = [
        n
        for n in sorted({max(1, int(seconds / bar)), int(seconds / bar) + 1})
        if all(n_least <= n_frames <= max_frames for n_frames in (n * bar_frames, n * bar * frame_rate))
    ]
    exact = config.tempo is not None  # then seconds of two digits would be refused again
    advice = " or ".join(f"{n}bars" if exact else f"{n * bar:.2f} s ({n}bars)" for n in fitting)
    allowed = "and it was asked for" if exact else f"more than {100 * tolerance:g} %"
    return (
        f"A loop of {seconds:g} s holds {seconds / bar:.2f} bars of {beats} beats at {tempo:.1f} bpm, and "
        f"whole bars would move the tempo by {100 * abs(bpm / tempo - 1):.0f} %, {allowed}; "
        + (f"ask for {advice}." if advice else "set ambience.beats_per_bar to fewer beats.")
    )


def room_lap(room: Recorded, profile: AcousticProfile, grid: Grid, sample_rate: int) -> Waveform:
    """One lap of a room, whose end leads into its beginning: what the music of a lap is to follow.

    With a pulse, the room's beats are moved onto the grid and start with the first one; a room with fewer beats
    than the lap is taken up again at a bar line. Without, the lap is a stretch from the room's beginning, or the
    room over and over.

    Args:
        room: the recording, `[1, N]`; read as far as the lap goes.

    Returns:
        `[1, round(n_frames / frame_rate * sample_rate)]`.
    """
    seconds = grid.n_frames / grid.frame_rate
    n_samples = round(seconds * sample_rate)
    beats = np.array(profile.pulse_seconds)
    pulse = 60.0 / float(np.median(np.diff(beats))) if len(beats) > 1 else 0.0
    if grid.bpm is not None and 1 / MAX_WARP < pulse / grid.bpm < MAX_WARP:
        n_units, anchors = grid.bars * grid.beats_per_bar, beats
        n_whole = (len(beats) - 1) // grid.beats_per_bar * grid.beats_per_bar or len(beats) - 1
        cycle = float(min(n_units, n_whole))
    else:
        start = float(np.clip(room.seconds - seconds, 0.0, BLEND_SECONDS))
        n_units, anchors = 1, np.array([start, start + seconds])
        cycle = min(1.0, room.seconds / seconds)
    last = float(np.interp(cycle, np.arange(len(anchors)), anchors)) + MARGIN_SECONDS
    sound = Waveform(room.slice(0, round(last * room.sample_rate)), room.sample_rate).resampled(sample_rate)
    samples = sound.samples[0]
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
    """How the room is changed for an intensity layer before the model hears it.

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


def repeated_lap(lap: Waveform) -> Waveform:
    """A lap three times over."""
    return Waveform(np.tile(lap.samples, (1, 3)), lap.sample_rate)


def lap_events(lap: Waveform) -> Sequence[Event]:
    """The events of a lap that is repeated for ever, counted from its beginning."""
    lapped = [
        dataclasses.replace(e, seconds=e.seconds - lap.seconds) for e in analyze(repeated_lap(lap)).events
    ]
    return [event for event in lapped if 0.0 <= event.seconds < lap.seconds]


def steered(lap: Waveform, events: Sequence[Event], layer: Layer) -> Waveform:
    """A lap `[1, N]` of the room with its levels and events changed for an intensity layer; times stay."""
    from scipy.ndimage import maximum_filter1d, uniform_filter1d

    # How far the 10 ms around each sample lie above the room tone, in dB.
    width = round(0.01 * lap.sample_rate)
    power = uniform_filter1d(np.square(lap.samples[0], dtype=np.float64), width, mode="wrap")
    above_db: DoubleArray = 10.0 * np.log10(maximum_filter1d(power, width, mode="wrap") + 1e-12)
    above_db = np.maximum(above_db - np.percentile(above_db, TONE_PERCENTILE), 0.0)
    n_kept = int(np.ceil(layer.event_share * len(events)))
    gain_db = np.zeros(lap.n_samples)
    for rank, event in enumerate(sorted(events, key=lambda e: -e.strength_db)):
        until_next = min(
            (e.seconds - event.seconds for e in events if e.seconds > event.seconds), default=np.inf
        )
        length = np.clip(until_next, MIN_EVENT_SECONDS, MAX_EVENT_SECONDS)
        begin = max(0, round((event.seconds - LEAD_SECONDS) * lap.sample_rate))
        span = slice(begin, begin + round(length * lap.sample_rate))
        gain_db[span] = layer.event_gain_db if rank < n_kept else -above_db[span]
    gain = (10.0 ** ((gain_db + layer.level_db) / 20.0)).astype(np.float32)
    return Waveform(np.clip(lap.samples * gain, -1.0, 1.0), lap.sample_rate)
