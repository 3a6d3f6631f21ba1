"""Audio files: reading, writing, and reading what is too long for memory.

`soundfile` is imported here and nowhere else.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from silent2music.arrays import FloatArray
from silent2music.audio.waveform import Recorded, Recording, Waveform
from silent2music.errors import AudioError
from silent2music.files import atomic_path

MIN_SECONDS = 0.5
"""The shortest recording that is accepted as a room."""

WHOLE_SECONDS = 60.0
"""Recordings up to this length are held in memory where they are opened; longer ones wait in a temporary file."""

BLOCK_SAMPLES = 2**18

SUFFIX_SUBTYPES = {".wav": "PCM_24", ".flac": "PCM_24", ".ogg": "VORBIS"}
"""What can be written, by suffix, with the sample format used for it."""

READABLE_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64", ".opus")
"""Suffixes that a folder is searched for; a file named by the user is tried whatever its suffix."""


def read(path: Path | str) -> Waveform:
    """Read a file that libsndfile can read (WAV, FLAC, OGG, MP3, AIFF, ...), whatever its rate and channels.

    Samples outside [-1, 1] (floating-point files) are clipped, as a converter would.

    Raises:
        AudioError: if the file is missing, empty, no audio, truncated, holds non-finite samples or is shorter
            than `MIN_SECONDS`.
    """
    path = Path(path)
    with _opened(path) as file:
        announced, rate = file.frames, file.samplerate
        samples = file.read(dtype="float32", always_2d=True).T
    _check_length(path, announced, samples.shape[1], rate)
    return _checked(path, samples, rate)


def open_recording(path: Path | str) -> Recorded:
    """Open a file as `read` does, but keep a long one on disk, so that memory does not grow with the length.

    What is longer than `WHOLE_SECONDS` is decoded once, block by block, to a temporary file of 4 bytes a sample.

    Raises:
        AudioError: as `read`, or if there is no room for the temporary file.
    """
    path = Path(path)
    with _opened(path) as file:
        announced, rate = file.frames, file.samplerate
        if announced <= WHOLE_SECONDS * rate:
            return read(path)
        recording = Recording(file.channels, rate)
        while (block := file.read(BLOCK_SAMPLES, dtype="float32", always_2d=True).T).shape[1]:
            recording.append(_checked(path, block, rate).samples)
    _check_length(path, announced, recording.n_samples, rate)
    if (
        recording.n_samples <= WHOLE_SECONDS * rate
    ):  # a stream whose header promised more than anyone could send
        return Waveform(recording.slice(0, recording.n_samples), rate)
    return recording


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open sound file; failures to open or read it become an `AudioError` of one sentence."""
    import soundfile

    if path.is_dir():
        raise AudioError(f"{path} is a folder; expected an audio file.")
    if not path.exists():
        raise AudioError(f"{path} does not exist; check the name.")
    if path.stat().st_size == 0:
        raise AudioError(f"{path} is empty (0 bytes); record or export it again.")
    try:
        with soundfile.SoundFile(path) as file:
            yield file
    except (soundfile.SoundFileError, RuntimeError) as error:
        reason = str(error).split(": ", 1)[-1].rstrip(".")
        raise AudioError(
            f"{path} cannot be read as audio ({reason}); expected WAV, FLAC, OGG, MP3 or AIFF."
        ) from error


def _checked(path: Path, samples: FloatArray, sample_rate: int) -> Waveform:
    try:
        return Waveform(np.clip(samples, -1.0, 1.0), sample_rate)
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from error


def _check_length(path: Path, announced: int, n_samples: int, sample_rate: int) -> None:
    """Raise an error if a file has fewer samples than it announces, or too few."""
    _check_chunk_length(path)
    if n_samples == 0:
        raise AudioError(f"{path} holds no samples; record or export it again.")
    if 0 < announced < 2**40 and n_samples < announced:
        raise AudioError(
            f"{path} is truncated: its header announces {announced} samples and {n_samples} are there; "
            "copy or export it again."
        )
    if n_samples < MIN_SECONDS * sample_rate:
        raise AudioError(
            f"{path} lasts {n_samples / sample_rate:.2f} s; expected at least {MIN_SECONDS} s, record a longer "
            "take."
        )


def _check_chunk_length(path: Path) -> None:
    """Raise an error if the data chunk of a WAV or AIFF states more bytes than the file has.

    libsndfile repairs such a header silently, and a truncated copy would pass for a short recording.
    Streaming writers leave 0 or 0xFFFFFFFF there, which is no promise.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        container = file.read(4)
        if container not in (b"RIFF", b"FORM"):
            return
        order: Literal["little", "big"] = "little" if container == b"RIFF" else "big"
        file.seek(12)
        while len(header := file.read(8)) == 8:
            n_bytes = int.from_bytes(header[4:], order)
            start = file.tell()
            if header[:4] in (b"data", b"SSND"):
                if n_bytes not in (0, 0xFFFFFFFF) and start + n_bytes > size:
                    raise AudioError(
                        f"{path} is truncated: its header announces {n_bytes} bytes of audio and "
                        f"{size - start} are there; copy or export it again."
                    )
                return
            file.seek(start + n_bytes + n_bytes % 2)


def find_audio(folder: Path) -> list[Path]:
    """Find all audio files below a folder, by suffix, sorted by path; hidden files are left out.

    Raises:
        AudioError: if there is none.
    """
    found = sorted(
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in READABLE_SUFFIXES
        and not any(part.startswith(".") for part in p.relative_to(folder).parts)
        and p.is_file()
    )
    if not found:
        raise AudioError(f"{folder} holds no audio file; expected one of {', '.join(READABLE_SUFFIXES)}.")
    return found


def write(path: Path | str, waveform: Waveform, force: bool = False) -> None:
    """Write WAV (24 bit), FLAC (24 bit) or OGG Vorbis by suffix, whole or not at all.

    Raises:
        AudioError: on an unknown suffix, an existing file without `force`, or a place that cannot be written.
    """
    write_blocks(path, [waveform.samples], waveform.sample_rate, waveform.n_channels, force)


def write_blocks(
    path: Path | str, blocks: Iterable[FloatArray], sample_rate: int, n_channels: int, force: bool = False
) -> None:
    """As `write`, from blocks `[C, n]` of samples as they come."""
    import soundfile

    path = Path(path)
    subtype = SUFFIX_SUBTYPES.get(path.suffix.lower())
    if subtype is None:
        raise AudioError(
            f"{path} has the suffix '{path.suffix}'; expected one of {', '.join(SUFFIX_SUBTYPES)}."
        )
    with atomic_path(path, force) as temporary:
        try:
            with soundfile.SoundFile(temporary, "w", sample_rate, n_channels, subtype) as file:
                for block in blocks:
                    file.write(block.T)
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise AudioError(f"{path} cannot be written ({error}); is the disk full?") from error


def ogg_coded(sound: Waveform) -> Waveform:
    """A waveform after OGG Vorbis coding and decoding in memory."""
    import soundfile

    coded = io.BytesIO()
    soundfile.write(coded, sound.samples.T, sound.sample_rate, format="OGG", subtype="VORBIS")
    coded.seek(0)
    back, _ = soundfile.read(coded, dtype="float32", always_2d=True)
    return Waveform(back.T, sound.sample_rate)


def read_blocks(path: Path | str, n_samples: int) -> Iterator[FloatArray]:
    """Samples `[C, n]` of a file that `write` wrote, in blocks of `n_samples`.

    Raises:
        AudioError: if it cannot be read.
    """
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            for block in file.blocks(n_samples, dtype="float32", always_2d=True):
                yield np.ascontiguousarray(block.T)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise AudioError(f"{path} cannot be read back ({error}); is the disk full?") from error
