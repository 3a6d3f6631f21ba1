"""Sound files in blocks of samples, from the beginning to where they end, through libsndfile or PyAV.

libsndfile decodes whatever it can, so that a file gives the same samples with PyAV installed or not.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from silent2music.arrays import FloatArray
from silent2music.audio.containers import Layout, Spliced, layout, video_kind
from silent2music.audio.waveform import block_samples
from silent2music.errors import AudioError, shown

INSTALL = "pip install 'silent2music[video]'"

TIMESTAMP_SECONDS = 0.25
"""How far a video's stated length may be from that of its sound."""

UNKNOWN_SAMPLES = 2**36
"""So many or more are what libsndfile says of a FLAC file that does not know its length."""

RATES_HZ = (1000, 1_000_000)
"""The sample rates that are believed."""

FLAC_FRAME = 4608
"""The longest frame that encoders make of FLAC, in samples; what is short of one is nothing to speak of."""


@dataclass
class Decoding:
    """A file that is being decoded.

    Attributes:
        sample_rate: in Hz.
        n_channels: C.
        blocks: `[C, n]` float32, one after another, once.
        layout: what the file promises.
        n_samples: how many samples of a channel came so far.
    """

    sample_rate: int
    n_channels: int
    blocks: Iterator[FloatArray]
    layout: Layout
    n_samples: int = 0

    def __iter__(self) -> Iterator[FloatArray]:
        """The blocks, counted."""
        for block in self.blocks:
            self.n_samples += block.shape[1]
            yield block

    @property
    def seconds(self) -> float:
        """Of what came so far."""
        return self.n_samples / self.sample_rate


@contextlib.contextmanager
def decoding(path: Path, track: int = 0) -> Iterator[Decoding]:
    """Open a sound file or a video's sound.

    Args:
        track: which of the sound tracks of a video, from 0.

    Raises:
        AudioError: if there is no such file, or it holds no sound that can be decoded here.
    """
    check_file(path)
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
            found = layout(path)
        except OSError as error:
            raise AudioError(f"{path} cannot be opened ({error.strerror}); check its permissions.") from error
        reason = ""
        if found.pieces:
            try:
                sources = _opened(path, file, found, stack)
            except RuntimeError as error:
                reason = str(error).split(": ", 1)[-1].rstrip(".")
            else:
                if track:
                    raise AudioError(f"{path} has one track; expected track 1, not {track + 1}.")
                first = sources[0]
                _check_rate(path, first.samplerate)
                if first.format == "FLAC" and first.frames < UNKNOWN_SAMPLES:
                    promised, frame = first.frames / first.samplerate, FLAC_FRAME / first.samplerate
                    found = replace(found, promised_seconds=promised, frame_seconds=frame)
                yield Decoding(first.samplerate, first.channels, _sndfile_blocks(sources), found)
                return
        yield _video(path, file, track, reason, stack)


def check_file(path: Path, expected: str = "an audio file") -> None:
    """Refuse what is no regular file with something in it.

    Raises:
        AudioError: if it is not.
    """
    try:
        if path.is_dir():
            raise AudioError(f"{path} is a folder; expected {expected}.")
        if not path.exists():
            raise AudioError(f"{path} does not exist; check the name.")
        if not path.is_file():
            raise AudioError(f"{path} is no file but a pipe or a device; record it to a file first.")
        if path.stat().st_size == 0:
            raise AudioError(f"{path} is empty (0 bytes); record or export it again.")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AudioError(f"{shown(str(path))} cannot be opened ({reason}); check the name.") from error


def _check_rate(path: Path, sample_rate: int) -> None:
    """Refuse what is no sample rate of sound: a few hertz would make hours of a short file."""
    lowest, highest = RATES_HZ
    if not lowest <= sample_rate <= highest:
        raise AudioError(
            f"{path} has a sample rate of {sample_rate} Hz; expected {lowest} to {highest}, export it again."
        )


def _opened(path: Path, file: BinaryIO, found: Layout, stack: contextlib.ExitStack) -> list[Any]:
    """A `SoundFile` for each piece."""
    import soundfile

    sources = []
    for parts in found.pieces:
        # By its name, which is faster, unless parts are changed or soundfile would take it for samples alone.
        by_name = parts == ((0, path.stat().st_size),) and path.suffix.lower() != ".raw"
        with _quiet_libraries():
            source = soundfile.SoundFile(path if by_name else Spliced(file, parts))
        stack.enter_context(source)
        # Else soundfile seeks after each block, which streams of unknown length cannot and others need not.
        source.seekable = lambda: False
        sources.append(source)
    return sources


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Without the lines that libmpg123 prints on standard error, past Python, of files that are damaged."""
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        yield
        return
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _sndfile_blocks(sources: list[Any]) -> Iterator[FloatArray]:
    """Blocks of all pieces, at the rate and with the channels of the first."""
    rate, n_channels = sources[0].samplerate, sources[0].channels
    for source in sources:
        convert = _converter(source.samplerate, source.channels, rate, n_channels)
        for block in _blocks(source):
            yield convert(block)


def _blocks(source: Any) -> Iterator[FloatArray]:
    """Blocks `[C, n]` of one `SoundFile`, up to its end or to where it cannot be decoded any more."""
    size, has_headroom = block_samples(source.channels), source.subtype in ("FLOAT", "DOUBLE")
    while True:
        buffer = np.full((size, source.channels), np.nan, np.float32)
        try:
            with _quiet_libraries() if source.format == "MP3" else contextlib.nullcontext():
                n_samples = len(source.read(size, dtype="float32", always_2d=True, out=buffer))
            failed = False
        except RuntimeError:
            # What was decoded before the fault is in the buffer.
            n_samples, failed = int(np.argmax(np.append(np.isnan(buffer[:, 0]), True))), True
        if n_samples:
            yield _limited(buffer[:n_samples].T, has_headroom)
        if failed or n_samples == 0:
            return


def _limited(block: FloatArray, has_headroom: bool) -> FloatArray:
    """What a recorder wrote beyond full scale is level; what a lossy coder adds to a clipped sound is not."""
    return block if has_headroom else np.asarray(np.clip(block, -1.0, 1.0, out=block))


def _converter(
    rate: int, n_channels: int, wanted_rate: int, n_wanted: int
) -> Callable[[FloatArray], FloatArray]:
    """What makes blocks of a later piece fit the first one; of other channels their mean is taken."""
    import soxr

    stream = soxr.ResampleStream(rate, wanted_rate, n_wanted, dtype="float32", quality="HQ")

    def convert(block: FloatArray) -> FloatArray:
        if n_channels != n_wanted:
            block = np.repeat(block.mean(axis=0, keepdims=True), n_wanted, axis=0)
        return block if rate == wanted_rate else np.asarray(stream.resample_chunk(block.T)).T

    return convert


def _video(path: Path, file: BinaryIO, track: int, reason: str, stack: contextlib.ExitStack) -> Decoding:
    """The sound of what libsndfile does not read, for a `reason` unless it was not asked."""
    kind = video_kind(file.read(64))
    expected = "expected WAV, FLAC, OGG, MP3 or AIFF"
    try:
        import av
    except ImportError as error:
        if kind:
            raise AudioError(f"{path} is {kind}, which needs PyAV; install it with: {INSTALL}.") from error
        raise AudioError(
            f"{path} cannot be read as audio ({reason}); {expected}, or for other formats install PyAV with: "
            f"{INSTALL}."
        ) from error
    file.seek(0)
    try:
        container = stack.enter_context(av.open(file))
        streams = container.streams.audio
        if not streams:
            raise ValueError("no sound in it")
        if not 0 <= track < len(streams):
            raise AudioError(f"{path} has {len(streams)} sound tracks; there is no track {track + 1}.")
        stream = streams[track]
        frames = container.decode(stream)
        first = next(frames)
    except (av.FFmpegError, StopIteration, ValueError) as error:
        why = reason or getattr(error, "strerror", None) or "no sound in it"
        raise AudioError(f"{path} cannot be read as audio ({why}); {expected}, or a video.") from error
    _check_rate(path, first.sample_rate)
    promised = stated_seconds(stream)
    found = Layout((), promised_seconds=promised, frame_seconds=TIMESTAMP_SECONDS)
    has_headroom = stream.codec_context.name.startswith("pcm_f")
    blocks = (_limited(block, has_headroom) for block in _video_blocks(first, frames))
    return Decoding(first.sample_rate, len(first.layout.channels), blocks, found)


def stated_seconds(stream: Any) -> float:
    """How long a track says that it is; 0 if it does not. Matroska has it in a tag."""
    if stream.duration is not None:
        return float(stream.duration * Fraction(stream.time_base))
    try:
        hours, minutes, seconds = stream.metadata.get("DURATION", "0:0:0").split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return 0.0


def _video_blocks(first: Any, frames: Iterator[Any]) -> Iterator[FloatArray]:
    """Blocks `[C, n]` of decoded frames, up to the end or to where they cannot be decoded any more."""
    import av

    size = block_samples(len(first.layout.channels))
    convert = av.AudioResampler("fltp", first.layout, first.sample_rate, frame_size=size)

    def all_frames() -> Iterator[Any]:
        yield first
        with contextlib.suppress(av.FFmpegError):
            yield from frames
        yield None  # what the converter still holds

    for frame in all_frames():
        for block in convert.resample(frame):
            yield block.to_ndarray()
