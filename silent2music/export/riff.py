"""Chunks of WAV files (RIFF, Multimedia Programming Interface 1.0)."""

from __future__ import annotations

import struct
from collections.abc import Sequence


def chunk(name: bytes, body: bytes) -> bytes:
    """A chunk, padded to an even length."""
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def cue_chunks(places: Sequence[int], names: Sequence[str] = ()) -> bytes:
    """The chunk `cue ` with points at samples, numbered from 1, and `LIST adtl` with their names; nothing for none."""
    if not places:
        return b""
    points = [struct.pack("<II4sIII", i, at, b"data", 0, 0, at) for i, at in enumerate(places, 1)]
    found = chunk(b"cue ", struct.pack("<I", len(places)) + b"".join(points))
    labels = [chunk(b"labl", struct.pack("<I", i) + own.encode() + b"\0") for i, own in enumerate(names, 1)]
    return found + (chunk(b"LIST", b"adtl" + b"".join(labels)) if labels else b"")
