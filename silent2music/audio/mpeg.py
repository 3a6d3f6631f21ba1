"""MPEG audio, frame by frame: how long a file is whose header does not say so, and where its streams begin.

An MP3 file is a row of frames that each state their own length (ISO/IEC 11172-3, 2.4.1.3; 13818-3 for the lower
rates); the length of the whole stands in the first frame at most, by a custom of encoders (Xing, LAME). A decoder
that believes in it, or guesses it from the bit rate, reads too little or promises too much.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from mmap import mmap
from typing import NamedTuple

Bytes = bytes | mmap

_LOW = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
BITRATES_KBPS = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): _LOW,
    (False, 3): _LOW,
}
"""By version 1 or a later one, and layer; index 1 is the first."""

RATES_HZ = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
"""By the two bits of the version: 1, 2 and 2.5."""

N_CHAIN = 3
"""Frames that must follow one another before any of them is believed."""

JUNK_BYTES = 2**16
"""How much may stand before the first frame of what is not said to be MPEG audio."""

ID3 = b"ID3\x03\0\0\0\0\0\x0a" + bytes(10)
"""An ID3v2 tag that says nothing: libsndfile knows MPEG audio by it, also without a suffix."""


class Frame(NamedTuple):
    """What the header of a frame says."""

    n_bytes: int
    n_samples: int
    kind: tuple[int, int, int, bool]  # version, layer, rate in Hz, mono

    @property
    def info_offset(self) -> int:
        """Where a layer III frame holds its Xing or Info tag: after the header and the side information."""
        version, _, _, mono = self.kind
        return 4 + ((17 if mono else 32) if version == 3 else (9 if mono else 17))


@dataclass
class Stream:
    """Frames of one kind.

    Attributes:
        kind: as of its frames.
        info: bytes of the frame that says how long it is, or none.
        header: the first frame's first four bytes.
        spans: where its frames are in the file, without what lies between them.
        n_frames: all of them, without `info`.
    """

    kind: tuple[int, int, int, bool]
    info: bytes
    header: bytes
    spans: list[tuple[int, int]] = field(default_factory=list)
    n_frames: int = 0


def frame_at(data: Bytes, at: int) -> Frame | None:
    """The frame whose header is at `at`, if there is one; free format is none."""
    return _frame(bytes(data[at : at + 4])) if data[at : at + 1] == b"\xff" else None


@lru_cache(maxsize=4096)
def _frame(header: bytes) -> Frame | None:
    if len(header) < 4 or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    rate_index, bitrate_index = header[2] >> 2 & 3, header[2] >> 4
    if version == 1 or layer == 4 or rate_index == 3 or bitrate_index in (0, 15):
        return None
    rate, padding = RATES_HZ[version][rate_index], header[2] >> 1 & 1
    bits = 1000 * BITRATES_KBPS[version == 3, layer][bitrate_index - 1]
    kind = (version, layer, rate, header[3] >> 6 == 3)
    if layer == 1:
        return Frame((12 * bits // rate + padding) * 4, 384, kind)
    n_samples = 576 if layer == 3 and version != 3 else 1152
    return Frame(n_samples // 8 * bits // rate + padding, n_samples, kind)


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
        is_new = frame is not None and (not found or frame.kind != found[-1].kind)
        if frame is None or (is_new and first_frame(data, at, at + 1) is None):
            at = tag_end(data, at) or first_frame(data, at + 1, end)
            continue
        if at + frame.n_bytes > end:
            break
        info = _is_info(data, at, frame)
        if info or is_new:
            whole = bytes(data[at : at + frame.n_bytes])
            found.append(Stream(frame.kind, whole if info else b"", whole[:4]))
        if not info:
            stream = found[-1]
            stream.n_frames += 1
            if stream.spans and stream.spans[-1][1] == at:
                stream.spans[-1] = (stream.spans[-1][0], at + frame.n_bytes)
            else:
                stream.spans.append((at, at + frame.n_bytes))
        at += frame.n_bytes
    return [stream for stream in found if stream.n_frames]


def _is_info(data: Bytes, at: int, frame: Frame) -> bool:
    """Whether a frame holds no sound but the length of what follows."""
    place = at + frame.info_offset
    return frame.kind[1] == 3 and (
        data[place : place + 4] in (b"Xing", b"Info") or data[at + 36 : at + 40] == b"VBRI"
    )


def n_announced(stream: Stream) -> int:
    """How many frames a stream's own header says that it has; 0 if it does not."""
    if stream.info[36:40] == b"VBRI":
        return int.from_bytes(stream.info[50:54], "big")
    tag = stream.info[_frame_of(stream).info_offset :]
    return int.from_bytes(tag[8:12], "big") if tag[7:8] and tag[7] & 1 else 0


def _frame_of(stream: Stream) -> Frame:
    frame = _frame(stream.header)
    assert frame is not None
    return frame


def info_frame(stream: Stream) -> bytes:
    """The frame that says how long a stream is, mended where it is wrong; empty if there is none that decoders know.

    In LAME's own part the encoder's delay is kept; what it says of padding at the end does not hold for an end that
    is not there (LAME Tag revision 1, gabriel.mp3-tech.org).
    """
    info, announced, place = bytearray(stream.info), n_announced(stream), _frame_of(stream).info_offset
    if not announced or info[36:40] == b"VBRI":
        return b""
    if abs(announced - stream.n_frames) > 1:
        flags = info[place + 7]
        info[place + 8 : place + 12] = stream.n_frames.to_bytes(4, "big")
        if flags & 2:
            n_bytes = len(info) + sum(end - begin for begin, end in stream.spans)
            info[place + 12 : place + 16] = n_bytes.to_bytes(4, "big")
        # After frames, bytes, a table and a quality, each if its flag is set, LAME's 21st byte and the next two.
        place += 8 + sum(size for bit, size in ((1, 4), (2, 4), (4, 100), (8, 4)) if flags & bit) + 21
        if len(info) > place + 2:
            info[place + 1] &= 0xF0
            info[place + 2] = 0
    return bytes(info)
