"""Timecode (SMPTE ST 12-1): `HH:MM:SS:FF` at a frame rate, counted with dropped numbers where its last sign is `;`.

Drop-frame timecode skips frame numbers, not frames: 0 and 1 of each minute but every tenth, at 29.97 frames a second,
so that it keeps up with the clock.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

from silent2music.errors import ConfigError, shown

TIMECODE = re.compile(r"(\d{1,2})([:;])(\d{1,2})([:;])(\d{1,2})([:;.])(\d{2,3})")
NTSC = Fraction(1000, 1001)
RATES = (Fraction(1), Fraction(960))
"""Frame rates that are believed."""

MAX_SECONDS = 100 * 3600.0
"""Timecode has two digits for hours."""


def parse_rate(text: str) -> Fraction:
    """Frames a second of `25`, `29.97` or `30000/1001`; 23.976, 29.97, 59.94 and so on are exactly 1000/1001 of a whole.

    Raises:
        ConfigError: if it is no rate of 1 to 960.

    Example:
        >>> parse_rate("25"), parse_rate("23.98"), parse_rate("30000/1001")
        (Fraction(25, 1), Fraction(24000, 1001), Fraction(30000, 1001))
    """
    try:
        rate = Fraction(text.strip())
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    nominal = math.ceil(rate)
    if rate != nominal and abs(rate - nominal * NTSC) < Fraction(1, 100):
        rate = nominal * NTSC
    if not RATES[0] <= rate <= RATES[1]:
        raise ConfigError(
            f"The frame rate is {shown(text)}; expected one such as 25, 29.97 or 30000/1001, with --fps."
        )
    return rate


def _dropped(rate: Fraction) -> int:
    """How many frame numbers a minute skips in drop-frame counting; 0 where there is no such counting."""
    nominal = math.ceil(rate)
    return nominal // 15 if rate == nominal * NTSC and nominal % 30 == 0 else 0


def is_timecode(text: str) -> bool:
    """Whether a text has the form of timecode: four fields."""
    return TIMECODE.fullmatch(text.strip()) is not None


def frame_number(text: str, rate: Fraction, drop: bool = False) -> int:
    """How many frames after `00:00:00:00` a timecode is.

    Args:
        text: `HH:MM:SS:FF`; `;` or `.` before the frames says that numbers are dropped.
        rate: frames a second.
        drop: numbers are dropped, whatever the signs.

    Raises:
        ConfigError: if it is no timecode, or one that this rate does not have.

    Example:
        >>> frame_number("00:01:00;02", Fraction(30000, 1001)), frame_number("00:01:00:02", Fraction(30))
        (1800, 1802)
    """
    match = TIMECODE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{shown(text)} is no timecode; expected HH:MM:SS:FF, as 01:00:10:12.")
    hours, minutes, seconds, frames = (int(match[i]) for i in (1, 3, 5, 7))
    nominal, drop = math.ceil(rate), drop or match[6] != ":"
    if minutes > 59 or seconds > 59 or frames >= nominal:
        raise ConfigError(
            f"The timecode {text.strip()} does not exist at {float(rate):.5g} frames a second; expected minutes and "
            f"seconds below 60 and frames below {nominal}, or another --fps."
        )
    n_dropped = _dropped(rate) if drop else 0
    if drop and not n_dropped:
        raise ConfigError(
            f"The timecode {text.strip()} is drop-frame, which there is at 29.97 or 59.94 frames a second and not at "
            f"{float(rate):.5g}; write it with : or give --fps."
        )
    if seconds == 0 and minutes % 10 and frames < n_dropped:
        raise ConfigError(
            f"The timecode {text.strip()} is one that drop-frame counting skips; the next is "
            f"{hours:02d}:{minutes:02d}:00;{n_dropped:02d}."
        )
    n_minutes = 60 * hours + minutes
    return nominal * (60 * n_minutes + seconds) + frames - n_dropped * (n_minutes - n_minutes // 10)


@dataclass(frozen=True)
class Clock:
    """What times mean for a clip.

    Attributes:
        rate: frames a second of timecode.
        start: frame number of the timecode of the clip's first frame; None where it has none.
    """

    rate: Fraction
    start: int | None = None

    def seconds(self, text: str, drop: bool = False) -> float:
        """Seconds after the clip's first frame of a timecode, or of `12.5`, `0:31.2` or `1:02:03.5`.

        Timecode counts from the clip's own where that is not later, else from zero.

        Raises:
            ConfigError: if it is none of these.
        """
        if is_timecode(text):
            number = frame_number(text, self.rate, drop)
            begin = self.start if self.start is not None and number >= self.start else 0
            return float((number - begin) / self.rate)
        try:
            fields = [float(field) for field in text.split(":")]
        except ValueError:
            fields = []
        is_valid = 1 <= len(fields) <= 3 and all(f >= 0 and f < 60 for f in fields[1:])
        seconds = sum((field * 60.0**i for i, field in enumerate(reversed(fields))), 0.0)
        if not is_valid or not 0 <= seconds <= MAX_SECONDS:
            raise ConfigError(
                f"{shown(text)} is no time; expected seconds, as 12.5 or 0:31.2, or timecode, as 01:00:10:12."
            )
        return seconds

    @property
    def start_seconds(self) -> Fraction | None:
        """Real seconds from midnight to the clip's first frame by its timecode."""
        return None if self.start is None else self.start / self.rate
