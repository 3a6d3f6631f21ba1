"""MPEG audio, frame by frame: how long a file is whose header does not say so, and where its streams begin.

An MP3 file is a row of frames that each state their own length (ISO/IEC 11172-3, 2.4.1.3; 13818-3 for the lower
rates); the length of the whole stands in the first frame at most, by a custom of encoders (Xing, LAME). A decoder
that believes in it, or guesses it from the bit rate, reads too little or promises too much.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from functools import lru_cache
from mmap import mmap
from typing import NamedTuple

Bytes = bytes | mmap

N_CHAIN = 3
"""Frames that must follow one another before any of them is believed."""

JUNK_BYTES = 2**16
"""How much may stand before the first frame of what is not said to be MPEG audio."""

DELAY_FRAMES = 4
"""An encoder adds fewer frames at the beginning and the end than that, which its length leaves out."""

ID3 = b"ID3\x03\0\0\0\0\0\x0a" + bytes(10)
"""An ID3v2 tag that says nothing: libsndfile knows MPEG audio by it, also without a suffix."""


class Frame(NamedTuple):
    """What the header of a frame says."""

    n_bytes: int
    n_samples: int
    kind: tuple[float, int, int, int]  # version, layer, rate in Hz, channels


@dataclass
class Stream:
    """Frames of one kind.

    Attributes:
        frame: one of them.
        info: bytes of the frame that says how long it is, or none.
        announced_seconds: what that says, without the encoder's delay and padding; 0 if there is none.
        spans: where its frames are in the file, without what lies between them, and without `info`.
        n_frames: all of these.
    """

    frame: Frame
    info: bytes = b""
    announced_seconds: float = 0.0
    spans: list[tuple[int, int]] = field(default_factory=list)
    n_frames: int = 0

    @property
    def least_seconds(self) -> float:
        """Of its frames, if some of them are delay and padding."""
        return (self.n_frames - DELAY_FRAMES) * self.frame.n_samples / self.frame.kind[2]


def frame_at(data: Bytes, at: int) -> Frame | None:
    """The frame whose header is at `at`, if there is one; free format is none."""
    return _frame(bytes(data[at : at + 4])) if data[at : at + 1] == b"\xff" else None


@lru_cache(maxsize=4096)
def _frame(header: bytes) -> Frame | None:
    from mutagen.mp3 import HeaderNotFoundError, MPEGFrame

    try:
        frame = MPEGFrame(io.BytesIO(header))
    except HeaderNotFoundError:
        return None
    kind = (frame.version, frame.layer, frame.sample_rate, frame.channels)
    if frame.layer == 1:
        return Frame((12 * frame.bitrate // frame.sample_rate + frame.padding) * 4, 384, kind)
    n_samples = 576 if frame.layer == 3 and frame.version != 1 else 1152
    return Frame(n_samples // 8 * frame.bitrate // frame.sample_rate + frame.padding, n_samples, kind)


def first_frame(data: Bytes, begin: int, end: int) -> int | None:
    """Where `N_CHAIN` frames of a kind follow one another from, in `[begin, end)`."""
    at = begin - 1
    while (at := data.find(b"\xff", at + 1, end)) >= 0:
        place = at
        kinds = set()
        for _ in range(N_CHAIN):
            frame = frame_at(data, place)
            if frame is None:
                break
            kinds.add(frame.kind)
            place += frame.n_bytes
        else:
            if len(kinds) == 1:
                return at
    return None


def tag_end(data: Bytes, at: int) -> int | None:
    """Where a tag that begins at `at` ends (ID3v2.4 section 3.1, ID3v1, APEv2), or none if there is none."""
    if data[at : at + 3] == b"ID3":
        size = 0
        for byte in data[at + 6 : at + 10]:
            size = size << 7 | byte & 0x7F
        return at + 10 + size + (10 if data[at + 5] & 0x10 else 0)
    if data[at : at + 3] == b"TAG":
        return at + 128
    if data[at : at + 8] == b"APETAGEX":
        return at + 32 + int.from_bytes(data[at + 12 : at + 16], "little")
    return None


def streams(data: Bytes, begin: int, end: int) -> list[Stream]:
    """All streams in `[begin, end)`: a new one begins where the kind changes or a length is announced anew.

    Tags and junk between frames are left out, and so is a frame that is not all there.
    """
    found: list[Stream] = []
    at: int | None = begin
    while at is not None and at < end:
        frame = frame_at(data, at)
        is_new = frame is not None and (not found or frame.kind != found[-1].frame.kind)
        if frame is None or (is_new and first_frame(data, at, at + 1) is None):
            at = tag_end(data, at) or first_frame(data, at + 1, end)
            continue
        if at + frame.n_bytes > end:
            break
        announced = _announced_seconds(data, at, frame)
        if announced is not None:
            found.append(Stream(frame, bytes(data[at : at + frame.n_bytes]), announced))
        else:
            if is_new:
                found.append(Stream(frame))
            spans = found[-1].spans
            if spans and spans[-1][1] == at:
                spans[-1] = (spans[-1][0], at + frame.n_bytes)
            else:
                spans.append((at, at + frame.n_bytes))
            found[-1].n_frames += 1
        at += frame.n_bytes
    return [stream for stream in found if stream.n_frames]


def _announced_seconds(data: Bytes, at: int, frame: Frame) -> float | None:
    """How long what follows is, of a frame that holds no sound but this (Xing, LAME, VBRI); 0 if it does not say."""
    if frame.kind[1] != 3 or not re.search(b"Xing|Info|VBRI", data[at : at + 40]):
        return None
    from mutagen.mp3 import MPEGFrame

    parsed = MPEGFrame(io.BytesIO(data[at : at + frame.n_bytes]))
    return None if parsed.sketchy else getattr(parsed, "length", 0.0)
