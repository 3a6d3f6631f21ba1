"""What the bytes of a sound file promise, and what of it is there.

Decoders repair a wrong length silently, refuse the file, or stop where a header says so. Here lengths alone are
read; where a header would mislead libsndfile, it is given the same file with a true one.
"""

from __future__ import annotations

import io
import mmap
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, Literal

from silent2music.audio import mpeg

Span = tuple[int, int]
Parts = tuple[bytes | Span | int, ...]
"""A file as bytes that we wrote, spans of a file that is there, and bytes at the end that are only claimed."""

TAIL_BYTES = 4096
"""What decoders look at for tags at the end."""

MOST_BITRATES = 64
"""The highest bit rate of MPEG audio by the lowest, and more."""

Order = Literal["little", "big"]

SOX_UNKNOWN, STREAMED = 0x7FFFF000, 2**31
"""What sox and arecord write into the length of a stream."""

MP3_IN_WAV = (0x50, 0x55)
"""WAVE_FORMAT_MPEG and WAVE_FORMAT_MPEGLAYER3 (RFC 2361)."""


@dataclass(frozen=True)
class Layout:
    """What a file consists of.

    Attributes:
        pieces: of a file, each a whole file to a decoder, which follow one another; empty: it is for PyAV.
        share: of the bytes or frames that are promised, how many are there.
        promised_seconds: how long the file says that it is; 0 if it does not.
        lost_seconds: at least so much of an Ogg stream is missing.
        has_end: false for an Ogg stream that was never ended, whose length nobody knows.
        frame_seconds: the longest frame of a codec: less than that is nothing to speak of.
    """

    pieces: tuple[Parts, ...]
    share: float = 1.0
    promised_seconds: float = 0.0
    lost_seconds: float = 0.0
    has_end: bool = True
    frame_seconds: float = 0.0


def _length(part: bytes | Span | int) -> int:
    if isinstance(part, int):
        return part
    return len(part) if isinstance(part, bytes) else part[1] - part[0]


class Spliced(io.RawIOBase):
    """Parts of a file one after another, as one file to read from.

    Args:
        file: an open file, which stays open.
        parts: bytes, and spans `[begin, end)` of the file. A number is a length that is claimed: it counts for the
            size, but reading ends before it, and its very last bytes are zeros.
    """

    def __init__(self, file: BinaryIO, parts: Parts) -> None:
        self._file, self._parts, self._at = file, parts, 0
        self._begins = [0, *accumulate(_length(part) for part in parts)]

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The place in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        self._at = max(0, offset + (0, self._at, self._begins[-1])[whence])
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a buffer from here, as far as there is anything."""
        n_read = 0
        while n_read < len(buffer) and self._at < self._begins[-1]:
            index = bisect_right(self._begins, self._at) - 1
            part, skipped = self._parts[index], self._at - self._begins[index]
            n_bytes = min(self._begins[index + 1] - self._at, len(buffer) - n_read)
            if isinstance(part, bytes):
                data = part[skipped : skipped + n_bytes]
            elif isinstance(part, int):
                data = bytes(n_bytes) if part - skipped <= TAIL_BYTES else b""
            else:
                data = _bytes_at(self._file, part[0] + skipped, n_bytes)
            if not data:
                break
            buffer[n_read : n_read + len(data)] = data
            n_read += len(data)
            self._at += len(data)
        return n_read


def layout(path: Path) -> Layout:
    """What a file is made of; one whose kind is not known is one piece."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
        for magic, at, reader in READERS:
            if head[at : at + len(magic)] == magic and (found := reader(file, size)):
                return found
        if video_kind(head):
            return Layout(())
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            # libsndfile skips no more than one ID3 tag, and looks at no more than the first bytes.
            begin = 0
            while (end := mpeg.tag_end(data, begin)) is not None and end < size:
                begin = end
            if data[begin : begin + 4] == b"fLaC":
                return Layout((((begin, size),),))
            known = path.suffix.lower() in (".mp3", ".mp2")
            start = mpeg.first_frame(data, begin, size if known else min(size, begin + mpeg.JUNK_BYTES))
            if start is not None:
                return _mpeg(data, start, size) or _whole(size)
    return _whole(size)


def _whole(size: int) -> Layout:
    return Layout((((0, size),),))


def _mpeg(data: mpeg.Bytes, begin: int, end: int) -> Layout | None:
    streams = mpeg.streams(data, begin, end)
    pieces: list[Parts] = []
    for stream in streams:
        if stream.announced_seconds >= max(stream.least_seconds, 1e-9):
            pieces.append((mpeg.ID3, stream.info, *stream.spans))
        else:
            # Without a length libsndfile reads as far as a file of this size would last at the first bit rate.
            claimed = MOST_BITRATES * sum(end - begin for begin, end in stream.spans)
            pieces.append((mpeg.ID3, *stream.spans, claimed))
    promised = sum(max(stream.announced_seconds, stream.least_seconds) for stream in streams)
    return Layout(tuple(pieces), promised_seconds=promised) if pieces else None


def _bytes_at(file: BinaryIO, at: int, n_bytes: int) -> bytes:
    """What is there, which is nothing beyond the end."""
    file.seek(min(at, 2**62))
    return file.read(n_bytes)


def _chunks(file: BinaryIO, begin: int, order: Order, wide: bool = False) -> Iterator[tuple[bytes, int, int]]:
    """Name, first byte and length of each chunk (EA IFF 85; RIFF; `wide`: CAF, with lengths of 64 bits)."""
    n_length = 8 if wide else 4
    while len(header := _bytes_at(file, begin, 4 + n_length)) == 4 + n_length:
        n_bytes = int.from_bytes(header[4:], order)
        start = begin + len(header)
        yield header[:4], start, n_bytes
        begin = start + n_bytes + (0 if wide else n_bytes % 2)


def _unknown(n_bytes: int) -> bool:
    """Whether a length is what writers leave that do not know it: nothing, or about 2 or 4 GiB."""
    near = any(0 <= limit - n_bytes <= 256 for limit in (STREAMED, 2**32, 2**64))
    return n_bytes <= 0 or n_bytes == SOX_UNKNOWN or near


def _sized(
    file: BinaryIO, size: int, start: int, field: tuple[int, int, Order], n_own: int = 0, magic: bytes = b""
) -> Layout:
    """A file whose sound begins at `start`; a length that is not true, or unknown, is replaced by the true one.

    Args:
        field: first byte, number of bytes and order of the length.
        n_own: how much of a header the length counts too.
        magic: other first bytes for the file.
    """
    at, n_field, order = field
    n_bytes = int.from_bytes(_bytes_at(file, at, n_field), order) - n_own
    there = size - start
    promised = there if _unknown(n_bytes) else n_bytes
    if n_bytes == promised <= there and not magic:
        return _whole(size)
    length = min(min(there, promised) + n_own, 2 ** (8 * n_field) - 1).to_bytes(n_field, order)
    share = min(1.0, there / max(1, promised))
    return Layout(((magic, (len(magic), at), length, (at + n_field, size)),), share)


def _wave(file: BinaryIO, size: int) -> Layout | None:
    """WAV, RF64 (EBU Tech 3306) and BW64 (ITU-R BS.2088), whose long length is in a chunk `ds64` that comes first."""
    magic = _bytes_at(file, 0, 4)
    order: Order = "big" if magic == b"RIFX" else "little"
    codec = 0
    for name, start, n_bytes in _chunks(file, 12, order):
        if name == b"fmt ":
            codec = int.from_bytes(file.read(2), order)
        elif name == b"data":
            if n_bytes == 0 and _are_chunks(file, start, size, order):
                return _whole(size)
            if codec in MP3_IN_WAV:
                end = size if _unknown(n_bytes) else start + n_bytes
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    found = _mpeg(data, start, min(size, end))
                return found and replace(found, share=min(1.0, (size - start) / (end - start)))
            if magic in (b"RF64", b"BW64") and n_bytes == 2**32 - 1:
                return _sized(file, size, start, (28, 8, order), magic=b"RF64" if magic == b"BW64" else b"")
            if _unknown(n_bytes) and size - start >= 2**32 - 1 and order == "little":
                return _wide(size, start)
            return _sized(file, size, start, (start - 4, 4, order))
    return None


def _wide(size: int, start: int) -> Layout:
    """A WAV file whose sound, from `start` on, is longer than its length can say, as RF64 (EBU Tech 3306)."""
    lengths = b"".join(n_bytes.to_bytes(8, "little") for n_bytes in (size + 28, size - start, 0))
    head = b"RF64\xff\xff\xff\xffWAVEds64" + (28).to_bytes(4, "little") + lengths + bytes(4)
    return Layout(((head, (12, start - 4), b"\xff\xff\xff\xff", (start, size)),))


def _are_chunks(file: BinaryIO, begin: int, size: int, order: Order) -> bool:
    """Whether from here to the end there are chunks: then a length of 0 is true."""
    end = begin
    for name, start, n_bytes in _chunks(file, begin, order):
        if not (name.isascii() and name.decode("ascii").isprintable()):
            return False
        end = start + n_bytes
    return end in (size, size - 1)


def _aiff(file: BinaryIO, size: int) -> Layout | None:
    """AIFF and AIFF-C."""
    for name, start, _ in _chunks(file, 12, "big"):
        if name == b"SSND":
            return _sized(file, size, start, (start - 4, 4, "big"))
    return None


def _w64(file: BinaryIO, size: int) -> Layout | None:
    """Sony Wave64: names of 16 bytes, lengths of 64 bits that count their own header of 24, all on 8 bytes."""
    begin = 40
    while len(header := _bytes_at(file, begin, 24)) == 24:
        if header[:4] == b"data":
            return _sized(file, size, begin + 24, (begin + 16, 8, "little"), n_own=24)
        n_bytes = int.from_bytes(header[16:], "little")
        begin += max(24, n_bytes + -n_bytes % 8)
    return None


def _au(file: BinaryIO, size: int) -> Layout | None:
    """Sun AU: the place of the sound and its length, which may be unknown, stand at bytes 4 and 8."""
    head = _bytes_at(file, 0, 8)
    order: Order = "big" if head[:1] == b"." else "little"
    start = int.from_bytes(head[4:], order)
    return _sized(file, size, start, (8, 4, order)) if 24 <= start < size else None


def _caf(file: BinaryIO, size: int) -> Layout | None:
    """Apple Core Audio Format, whose last chunk may have a length of -1."""
    for name, start, _ in _chunks(file, 8, "big", wide=True):
        if name == b"data":
            return _sized(file, size, start, (start - 8, 8, "big"))
    return None


def _ogg(file: BinaryIO, size: int) -> Layout | None:
    """Ogg (RFC 3533): pages, of which the first of a stream and the last one are marked; streams may be chained.

    Times are counted at 48 kHz for Opus (RFC 7845, 4), and at the stream's own rate for Vorbis.
    """
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        begins: list[int] = []
        at, was_first, has_end, time, rate, lost = 0, False, True, 0, 0, 0.0
        while (at := data.find(b"OggS", at)) >= 0 and at + 27 <= size:
            flags, n_lacing = data[at + 5], data[at + 26]
            granule = int.from_bytes(data[at + 6 : at + 14], "little", signed=True)
            end = at + 27 + n_lacing + sum(data[at + 27 : at + 27 + n_lacing])
            is_first = bool(flags & 2)
            if is_first and not was_first:
                begins.append(at)
                body = data[at + 27 + n_lacing : at + 27 + n_lacing + 16]
                rate = 48_000 if body[:8] == b"OpusHead" else int.from_bytes(body[12:16], "little")
                rate, time = rate if body[1:7] == b"vorbis" or body[:4] == b"Opus" else 0, 0
            was_first, has_end = is_first, bool(flags & 4)
            if end > size or at + 27 + n_lacing > size:
                lost = max(0, granule - time) / rate if rate else 0.0
                break
            time, at = max(time, granule), end
    if not begins:
        return None
    spans = [(a, b) for a, b in zip(begins, [*begins[1:], size], strict=True)]
    return Layout(tuple((span,) for span in spans), 1.0, 0.0, lost, has_end)


VIDEO_KINDS: tuple[tuple[int, bytes, str], ...] = (
    (4, b"ftyp", "MP4, MOV or M4A"),
    (4, b"moov", "MOV"),
    (4, b"mdat", "MOV"),
    (4, b"wide", "MOV"),
    (0, b"\x1a\x45\xdf\xa3", "Matroska or WebM"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMA or WMV"),
    (0, b"\x0b\x77", "AC-3"),
    (0, b"ADIF", "AAC"),
    (0, b"\x00\x00\x01\xba", "MPEG program stream"),
    (0, b"FLV\x01", "FLV"),
    (8, b"AVI ", "AVI"),
    (0, b"#!AMR", "AMR"),
)
"""Place, first bytes and name of what libsndfile does not read."""


def video_kind(head: bytes) -> str:
    """What a file is by its first bytes, if it is one of those that only PyAV reads."""
    for at, magic, name in VIDEO_KINDS:
        if head[at : at + len(magic)] == magic:
            return name
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:  # layer 0, which MPEG audio has not
        return "AAC"
    return ""


Reader = Callable[[BinaryIO, int], Layout | None]
READERS: Sequence[tuple[bytes, int, Reader]] = (
    (b"WAVE", 8, _wave),
    (b"AIF", 8, _aiff),
    (b"riff\x2e\x91\xcf\x11", 0, _w64),
    (b".snd", 0, _au),
    (b"dns.", 0, _au),
    (b"caff", 0, _caf),
    (b"OggS", 0, _ogg),
)
