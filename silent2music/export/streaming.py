"""Writes music to a pipe while it is generated, as WAV or raw samples, for a recording or for live sound."""

from __future__ import annotations

import errno
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from silent2music import audio
from silent2music.arrays import FloatArray
from silent2music.audio import Waveform
from silent2music.errors import AudioError, ConfigError
from silent2music.export.delivery import delivered, in_front
from silent2music.export.models import LazyModel, Request, blend_of

LIVE = Path("-")
"""The name of the room that comes on standard input: WAV, or mono 16-bit little-endian samples at `LIVE_RATE`."""

LIVE_RATE = 24_000
UNKNOWN = 0xFFFFFFFF
"""The length that streaming writers put where it is not known yet."""

ENDLESS = 0x7FFFF000
"""Sizes from here on are what writers to a pipe put (ffmpeg, sox, arecord): the sound goes on to its end."""

FOREIGN = {
    b"fLaC": "FLAC",
    b"OggS": "OGG",
    b"ID3": "MP3",
    b"FORM": "AIFF",
    b"caff": "CAF",
    b".snd": "AU",
    b"riff": "W64",
}
"""First bytes of formats that cannot be taken for samples alone, nor be decoded as they come."""

EXTENSIBLE = 0xFFFE
"""The format tag of WAV files that have the true one further on."""

MAX_HEADER_BYTES = 2**20
"""No chunk before the samples is longer than this."""

FORMATS = {(1, 8): "u1", (1, 16): "<i2", (1, 24): "u1", (1, 32): "<i4", (3, 32): "<f4", (3, 64): "<f8"}
"""How samples of a WAV file lie, by its format tag and bits; those of 24 bits as bytes."""


def check_pipes(room: Path, option: str, source: IO[Any], sink: IO[Any]) -> None:
    """Refuse to write sound to a terminal, as an option asks, or to take it from one.

    Raises:
        ConfigError: saying how to pipe it.
    """
    if sink.isatty():
        raise ConfigError(
            f"{option} writes sound to standard output, which is a terminal; pipe it to a player or a file, as in: "
            f"s2m infer {room} {option} | aplay"
        )
    if room == LIVE and source.isatty():
        raise ConfigError(
            "The room - is live sound on standard input, which is a terminal; pipe it in, as in: "
            "arecord -t raw -f S16_LE -r 24000 | s2m infer - --stream | aplay"
        )


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
        request: what is asked for; live music is as long as what is heard, or at most `seconds`.
        raw: little-endian samples without a WAV header.
        tell: called with what a user should know of the recording.

    Raises:
        AudioError: if the room cannot be read, or the stream not be written.
        CheckpointError, ConfigError: if the model or a setting is not usable.
    """
    from silent2music.listening import Measured

    recording = None if room == LIVE else audio.open_recording(room, **request.reading)
    for note in recording.notes if recording else ():
        tell(f"{room.name} {note}.")
    codec, delivery = model.model.codec, request.delivery
    if recording is None:
        pieces = model.model.stream(
            heard(source, codec.frame_rate, request.seconds),
            request.sampling,
            asked=request.asked,
            **request.controls,
        )
        length, where = None, in_front()
    else:
        measured = Measured(recording, model.model.config.ambient)
        length, where = request.seconds or recording.seconds, in_front(measured.beginning())
        pieces = model.model.stream(
            recording,
            request.sampling,
            length,
            measured=measured,
            asked=request.asked,
            blend=blend_of(request.other, request.reading),
            **request.controls,
        )
    music = delivered(pieces, codec, delivery, where, request.sampling.seed, length)
    try:
        n_samples = None if length is None else round(length * delivery.sample_rate)
        # With the first music, so that nothing is written for what cannot be heard.
        header = b"" if raw else wav_header(delivery.sample_rate, delivery.n_channels, n_samples)
        for piece in music:
            samples = np.clip(piece.samples.T, -1.0, 1.0)
            sink.write(header + np.round(samples * 32767.0).astype("<i2").tobytes())
            sink.flush()
            header = b""
    except OSError as error:
        # A pipe that nobody reads is EINVAL on Windows.
        if error.errno not in (None, errno.EPIPE, errno.EINVAL):
            raise AudioError(f"The music cannot be written on ({error.strerror}).") from error


def wav_header(sample_rate: int, n_channels: int, n_samples: int | None) -> bytes:
    """The header of a 16-bit WAV file of `n_samples` in a channel, or of a length to be found out."""
    n_bytes = UNKNOWN if n_samples is None else min(UNKNOWN, 2 * n_channels * n_samples)
    n_frame = 2 * n_channels
    form = struct.pack("<HHIIHH", 1, n_channels, sample_rate, n_frame * sample_rate, n_frame, 16)
    riff = struct.pack("<4sI4s4sI", b"RIFF", min(UNKNOWN, n_bytes + 36), b"WAVE", b"fmt ", len(form))
    return riff + form + struct.pack("<4sI", b"data", n_bytes)


def heard(source: BinaryIO, frame_rate: float, seconds: float | None = None) -> Iterator[Waveform]:
    """Chunks of live sound, each as long as a codec frame, to its end or for some seconds.

    What begins with the header of a WAV file is taken as that says; what begins with no header is mono, 16-bit
    little-endian, at `LIVE_RATE`.

    Raises:
        AudioError: if it is neither.
    """
    begin = source.read(4)
    for magic, name in FOREIGN.items():
        if begin.startswith(magic):
            raise AudioError(
                f"Standard input is {name}; expected WAV or raw samples, so convert it, as in: "
                "ffmpeg -i room -f wav - | s2m infer - --stream"
            )
    rate, n_channels, kind, bits, n_left = LIVE_RATE, 1, "<i2", 16, sys.maxsize
    if begin in (b"RIFF", b"RF64", b"BW64"):
        rate, n_channels, kind, bits, n_left = _read_wav_header(source)
        begin = b""
    n_frame = n_channels * bits // 8
    if seconds is not None:
        n_left = min(n_left, round(seconds * rate) * n_frame)
    n_chunk = n_frame * round(rate / frame_rate)
    while n_left > 0:
        wanted = min(n_chunk, n_left)
        chunk = begin + source.read(wanted - len(begin))
        begin, n_left = b"", n_left - len(chunk)
        samples = _samples(chunk[: len(chunk) // n_frame * n_frame], kind, bits)
        if len(samples):
            yield Waveform(samples.reshape(-1, n_channels).T, rate).mono()
        if len(chunk) < wanted:
            return


def _read_wav_header(source: BinaryIO) -> tuple[int, int, str, int, int]:
    """Rate, channels, type and bits of the samples, and their bytes, of a WAV file that is read past `RIFF`."""
    source.read(8)
    layout: tuple[int, int, int, int] | None = None
    while len(head := source.read(8)) == 8:
        name, size = struct.unpack("<4sI", head)
        if name == b"data" and layout is not None:
            tag, n_channels, rate, bits = layout
            if (tag, bits) not in FORMATS or n_channels == 0 or rate < 1000:
                break
            return rate, n_channels, FORMATS[tag, bits], bits, size if 0 < size < ENDLESS else sys.maxsize
        if size > MAX_HEADER_BYTES:
            break
        body = source.read(size + size % 2)
        if name == b"fmt " and len(body) >= 16:
            tag, n_channels, rate, _, _, bits = struct.unpack("<HHIIHH", body[:16])
            if tag == EXTENSIBLE and len(body) >= 26:
                (tag,) = struct.unpack("<H", body[24:26])
            layout = tag, n_channels, rate, bits
    raise AudioError(
        "Standard input begins like a WAV file and holds no samples that can be taken as they come; expected PCM or "
        "32-bit float, so convert it, as in: ffmpeg -i room -f wav - | s2m infer - --stream"
    )


def _samples(data: bytes, kind: str, bits: int) -> FloatArray:
    """Bytes of samples as floats, 1 being full scale."""
    if bits == 24:
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        data, kind, bits = padded.tobytes(), "<i4", 32
    values = np.frombuffer(data, kind)
    if kind == "u1":
        return ((values.astype(np.float32) - 128.0) / 128.0).astype(np.float32)
    scale = 1.0 if kind in ("<f4", "<f8") else 2.0 ** (bits - 1)
    return np.asarray(values / scale, dtype=np.float32)
