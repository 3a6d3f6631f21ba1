"""Writes music to a pipe while it is generated, as WAV or raw samples, for a recording or for live sound."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from silent2music import audio
from silent2music.audio import Waveform
from silent2music.errors import AudioError
from silent2music.export.models import LazyModel, Request

LIVE = Path("-")
"""The name of the room that comes on standard input: mono, 16-bit little-endian, at `LIVE_RATE`."""

LIVE_RATE = 24_000
UNKNOWN = 0xFFFFFFFF
"""The length that streaming writers put where it is not known yet."""


def send(
    room: Path,
    source: BinaryIO,
    sink: BinaryIO,
    model: LazyModel,
    request: Request,
    raw: bool = False,
    tell: Callable[[str], None] = lambda sentence: None,
) -> None:
    """Write the music of a room to a stream as it is made, 16 bit, at the level that the model chose.

    Ends quietly where nobody reads on.

    Args:
        room: a recording, or `LIVE` for sound that comes from `source`.
        source: read for a live room only.
        sink: where the music goes.
        model: the model.
        request: what is asked for; live music is as long as what is heard.
        raw: little-endian samples without a WAV header.
        tell: called with what a user should know of the recording.

    Raises:
        AudioError: if the room cannot be read, or the stream not be written.
        CheckpointError, ConfigError: if the model or a setting is not usable.
    """
    recording = None if room == LIVE else audio.open_recording(room, **request.reading)
    for note in recording.notes if recording else ():
        tell(f"{room.name} {note}.")
    codec = model.model.codec
    length = None if recording is None else request.seconds or recording.seconds
    heard = recording or _heard(source, codec.frame_rate)
    pieces = model.model.stream(heard, request.sampling, length, **request.controls)
    try:
        if not raw:
            n_samples = None if length is None else round(length * codec.sample_rate)
            sink.write(wav_header(codec.sample_rate, codec.channels, n_samples))
        for piece in pieces:
            sink.write(np.round(piece.samples.T * 32767.0).astype("<i2").tobytes())
            sink.flush()
    except OSError as error:
        # A pipe that nobody reads is EINVAL on Windows.
        if error.errno not in (None, errno.EPIPE, errno.EINVAL):
            raise AudioError(f"The music cannot be written on ({error.strerror}).") from error


def wav_header(sample_rate: int, n_channels: int, n_samples: int | None) -> bytes:
    """The header of a 16-bit WAV file of `n_samples` in a channel, or of a length to be found out."""
    n_bytes = UNKNOWN if n_samples is None else 2 * n_channels * n_samples
    n_frame = 2 * n_channels
    form = struct.pack("<HHIIHH", 1, n_channels, sample_rate, n_frame * sample_rate, n_frame, 16)
    riff = struct.pack("<4sI4s4sI", b"RIFF", min(UNKNOWN, n_bytes + 36), b"WAVE", b"fmt ", len(form))
    return riff + form + struct.pack("<4sI", b"data", n_bytes)


def _heard(source: BinaryIO, frame_rate: float) -> Iterator[Waveform]:
    """Chunks of live sound, each as long as a codec frame."""
    n_bytes = 2 * round(LIVE_RATE / frame_rate)
    while chunk := source.read(n_bytes):
        samples = np.frombuffer(chunk[: len(chunk) // 2 * 2], "<i2").astype(np.float32) / 32768.0
        if len(samples):
            yield Waveform(samples[None], LIVE_RATE)
