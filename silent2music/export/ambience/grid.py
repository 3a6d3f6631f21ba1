"""How long a loop is and where its bars lie: planned once for a room, shared by all its layers and variations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from silent2music.acoustics import AcousticProfile
from silent2music.config import AmbienceConfig
from silent2music.errors import AudioError, ConfigError

MIN_LOOP_SECONDS = 2.0
"""Shorter, an ending and the beginning that it must lead to would be the same music."""


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
    def bar_samples(self) -> tuple[int, ...]:
        """Where the bars begin in the files; the beginning alone where there are none."""
        return tuple(round(i * self.n_samples / max(1, self.bars)) for i in range(max(1, self.bars)))

    @property
    def beat_frames(self) -> tuple[int, ...]:
        """The nearest codec frame of each beat of a lap; none where there is no pulse."""
        n_beats = self.bars * self.beats_per_bar
        return tuple(round(i * self.n_frames / n_beats) for i in range(n_beats))


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


def plan_grid(profile: AcousticProfile, config: AmbienceConfig, frame_rate: float, max_frames: int) -> Grid:
    """The lap for a room: by bars where it has a pulse, by seconds otherwise.

    Asked for bars, a bar is brought to the nearest whole codec frame, under 1 % of its length. Asked for seconds,
    the tempo moves so that whole bars fill them.

    Args:
        profile: of the room.
        config: what is asked for.
        frame_rate: of the codec, in Hz.
        max_frames: the longest lap that the model can hold together.

    Raises:
        AudioError: if whole bars do not fit the length, or the loop is too long or too short.
    """
    tempo, beats = profile.tempo_bpm, config.beats_per_bar
    bars, bpm, seconds = 0, None, config.seconds
    asked = f"A loop of {seconds:g} s"
    if tempo is not None and config.bars:
        bars = config.bars
        bar_frames = max(1, round(beats * 60.0 / tempo * frame_rate))
        seconds = bars * bar_frames / frame_rate
        bpm = 60.0 * beats * frame_rate / bar_frames
        asked = f"A loop of {bars} bars at {bpm:.1f} bpm, which is {seconds:.2f} s,"
    elif tempo is not None:
        bar = beats * 60.0 / tempo
        bars = max(1, round(seconds / bar))
        bpm = 60.0 * beats * bars / seconds
        if abs(bpm / tempo - 1.0) > config.tempo_tolerance:
            fitting = sorted({max(1, int(seconds / bar)), int(seconds / bar) + 1})
            raise AudioError(
                f"A loop of {seconds:g} s holds {seconds / bar:.2f} bars of {beats} beats at {tempo:.1f} bpm, and "
                f"whole bars would move the tempo by {100 * abs(bpm / tempo - 1):.0f} %, more than "
                f"{100 * config.tempo_tolerance:g} %; ask for "
                + " or ".join(f"{n * bar:.2f} s ({n}bars)" for n in fitting)
                + "."
            )
    n_frames = round(seconds * frame_rate)
    if n_frames > max_frames:
        raise AudioError(
            f"{asked} is longer than the model can hold together; expected at most {max_frames / frame_rate:g} s."
        )
    if seconds < MIN_LOOP_SECONDS:
        raise AudioError(f"{asked} is too short; expected at least {MIN_LOOP_SECONDS:g} s.")
    n_samples = round(seconds * config.sample_rate)
    return Grid(n_frames, frame_rate, n_samples, config.sample_rate, bpm, bars, beats)
