"""Files that game engines loop without a second tool.

WAV carries a `smpl` chunk with one endless forward region and a `cue` chunk with the bars; FLAC and OGG carry the
tags LOOPSTART and LOOPLENGTH, in samples. There is no MP3: it pads its ends.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from silent2music import audio
from silent2music.audio import Waveform
from silent2music.errors import AudioError
from silent2music.export import provenance

LOSSY = ("ogg",)
MIDDLE_C = 60


def sampler_chunk(n_samples: int, sample_rate: int) -> bytes:
    """The body of a `smpl` chunk (RIFF, Multimedia Programming Interface 1.0): one region over the whole file.

    The region is forward, from 0 to the last sample, which is played (the end is inclusive), for ever.
    """
    header = (0, 0, round(1e9 / sample_rate), MIDDLE_C, 0, 0, 0, 1, 0)
    region = (1, 0, 0, n_samples - 1, 0, 0)
    return struct.pack("<9I6I", *header, *region)


def cue_chunk(positions: Sequence[int]) -> bytes:
    """The body of a `cue ` chunk: points at sample positions, numbered from 1."""
    points = b"".join(
        struct.pack("<II4sIII", i, position, b"data", 0, 0, position)
        for i, position in enumerate(positions, 1)
    )
    return struct.pack("<I", len(positions)) + points


def append_chunks(path: Path, chunks: Mapping[bytes, bytes]) -> None:
    """Add chunks, by their four letters, to the end of a RIFF file; its size follows.

    Raises:
        AudioError: if the file cannot be changed.
    """
    try:
        with path.open("r+b") as file:
            end = file.seek(0, 2)
            file.write(b"\0" * (end % 2))
            for name, body in chunks.items():
                file.write(name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2))
            size = file.tell()
            file.seek(4)
            file.write(struct.pack("<I", size - 8))
    except OSError as error:
        raise AudioError(f"{path} cannot be written ({error.strerror}); is the disk full?") from error


def write_wav(path: Path, sound: Waveform, bars: Sequence[int], record: Mapping[str, Any]) -> None:
    """24-bit WAV with `smpl`, `cue` and the record as an ID3 tag."""
    audio.write(path, sound, force=True)
    chunks = {b"cue ": cue_chunk(bars), b"smpl": sampler_chunk(sound.n_samples, sound.sample_rate)}
    append_chunks(path, chunks)
    provenance.write_tags(path, record)


def write_tagged(path: Path, sound: Waveform, bars: Sequence[int], record: Mapping[str, Any]) -> None:
    """24-bit FLAC or OGG Vorbis by suffix, with the loop and the record as Vorbis comments."""
    audio.write(path, sound, force=True)
    tags = {
        "LOOPSTART": "0",
        "LOOPLENGTH": str(sound.n_samples),
        "BARS": " ".join(map(str, bars)),
    }
    provenance.write_tags(path, record, tags)


EXPORTERS: Mapping[str, Callable[[Path, Waveform, Sequence[int], Mapping[str, Any]], None]] = {
    "wav": write_wav,
    "flac": write_tagged,
    "ogg": write_tagged,
}
"""What can be written, by suffix: called with the path, the sound, the bars in samples and the record."""
