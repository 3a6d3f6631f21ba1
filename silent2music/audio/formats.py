"""Recordings of rooms from files, and files of music."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silent2music.arrays import FloatArray
from silent2music.audio.decoding import INSTALL, Decoding, decoding
from silent2music.audio.downmix import Channels
from silent2music.audio.waveform import Recorded, Recording, Waveform
from silent2music.errors import AudioError
from silent2music.files import atomic_path

MIN_SECONDS = 0.5
"""The shortest recording that is accepted as a room."""

WHOLE_SECONDS = 60.0
"""Recordings up to this length are held in memory where they are opened; longer ones wait in a temporary file."""

NEGLIGIBLE_SECONDS = 0.1
"""Nothing is said of so little that is missing at the end: a byte, or a part of a frame."""

MAX_SAMPLE = 2.0**31
"""Whole numbers of 32 bits that were written as floating-point samples reach this; what is more is no sound."""

SUFFIX_SUBTYPES = {
    ".wav": "PCM_24",
    ".flac": "PCM_24",
    ".ogg": "VORBIS",
    ".mp3": "MPEG_LAYER_III",
    ".m4a": "AAC",
}
"""What can be written, by suffix, with the sample format used for it; AAC by PyAV, all others by libsndfile."""

LOSSY_SUFFIXES = (".ogg", ".mp3", ".m4a")
BROADCAST_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
"""Sample rates in Hz that MP3 and M4A have (ISO 13818-3; AAC has more, which few players know)."""

MP3_OPTIONS = {"bitrate_mode": "VARIABLE", "compression_level": 0.0}
"""LAME's best variable rate, V0: about 245 kbit/s in stereo."""

AAC_BIT_RATE = 128_000
"""Of each channel, in bit/s."""

MAX_WAV_BYTES = 2**32 - 2**16
"""Sizes in a WAV file have 32 bits; some room is left for its tags."""


def read(
    path: Path | str, strict: bool = False, track: int = 0, channel: int | None = None, mono: bool = False
) -> Waveform:
    """Read a sound file of any format, rate and channels, or the sound of a video.

    What is there is read: a length in a header is believed only so far as it tells that the file is cut, which is
    then among the waveform's `notes`. Samples beyond full scale are kept if the file holds floating-point ones.

    Args:
        path: the file.
        strict: refuse a file that is cut.
        track: which of a video's sound tracks, from 0.
        channel: read this channel alone, from 0.
        mono: give the mean of the channels, as `read(...).mono()` but in the memory of one of them.

    Raises:
        AudioError: if the file is missing, empty, no audio, holds non-finite samples or is shorter than
            `MIN_SECONDS`; with `strict` also if it is cut.
    """
    path = Path(path)
    with decoding(path, track) as source:
        chosen = _chosen(path, channel, source.n_channels)
        checked = (_checked(path, block[chosen]) for block in source)
        blocks = [block.mean(axis=0, keepdims=True) if mono else block for block in checked]
    notes = _lengths_checked(path, source, strict)
    samples = np.concatenate(blocks, axis=1)
    return Waveform(samples, source.sample_rate, notes=notes, recorded_channels=source.n_channels)


def open_recording(
    path: Path | str, strict: bool = False, track: int = 0, channel: int | None = None
) -> Recorded:
    """What is heard of a room's recording, `[1, N]`: as `read(...).downmix()`, in memory that does not grow.

    The file is decoded block by block, twice if it has several channels: once to weigh them, and once to mix them
    down. What is longer than `WHOLE_SECONDS` goes to a temporary file of 4 bytes a sample.

    Raises:
        AudioError: as `read`, or if there is no room for the temporary file.
    """
    path = Path(path)
    with decoding(path, track) as source:
        chosen = _chosen(path, channel, source.n_channels)
        is_mixed = channel is None and source.n_channels > 1
    mix = compare_channels(path, track).downmix() if is_mixed else None
    with decoding(path, track) as source:
        recording = Recording(1, source.sample_rate)
        for block in source:
            samples = _checked(path, block[chosen])
            recording.append(mix(samples) if mix else samples)
    recording.notes = (*_lengths_checked(path, source, strict), *(mix.notes if mix else ()))
    recording.recorded_channels = source.n_channels
    return recording.whole() if recording.seconds <= WHOLE_SECONDS else recording


def compare_channels(path: Path | str, track: int = 0) -> Channels:
    """The levels of a file's channels and what they have in common, in memory that does not grow.

    Raises:
        AudioError: as `read`, but not of a file that is too short or cut.
    """
    path = Path(path)
    with decoding(path, track) as source:
        channels = Channels(source.n_channels, source.sample_rate)
        for block in source:
            channels.add(_checked(path, block))
    return channels


def _chosen(path: Path, channel: int | None, n_channels: int) -> slice:
    """Which channels are wanted."""
    if channel is None:
        return slice(None)
    if not 0 <= channel < n_channels:
        raise AudioError(f"{path} has {n_channels} channels; there is no channel {channel + 1}.")
    return slice(channel, channel + 1)


def _checked(path: Path, samples: FloatArray) -> FloatArray:
    """The same samples, if they can be samples."""
    peak = float(np.abs(samples).max())  # of a block with NaN it is NaN
    if not np.isfinite(peak):
        bad = int((~np.isfinite(samples)).sum())
        raise AudioError(
            f"{path} holds {bad} samples that are not finite (NaN or infinite); export it again."
        )
    if peak > MAX_SAMPLE:
        raise AudioError(
            f"{path} holds samples of {peak:.3g}; expected about 1 at full scale, export it again."
        )
    return samples


def _lengths_checked(path: Path, source: Decoding, strict: bool) -> tuple[str, ...]:
    """What a user should know of a file's length, which was read to its end."""
    layout, seconds, fault = source.layout, source.seconds, ""
    by_share = seconds / layout.share - seconds if layout.share > 0 else 0.0
    missing = max(by_share, layout.promised_seconds - seconds, layout.lost_seconds)
    if missing > max(NEGLIGIBLE_SECONDS, layout.frame_seconds):
        fault = f"is cut: {missing:.2f} of {seconds + missing:.2f} s are missing"
        if not layout.has_end:
            fault = f"is cut: after {seconds:.2f} s at least {missing:.2f} s are missing"
    elif not layout.has_end:
        fault = "breaks off: its stream was not ended, so that nobody knows how much is missing"
    if fault and strict:
        raise AudioError(f"{path} {fault}; copy or export it again, or leave out --strict.")
    if source.n_samples == 0:
        raise AudioError(f"{path} holds no samples; record or export it again.")
    if fault and seconds < MIN_SECONDS:
        raise AudioError(f"{path} {fault}; expected at least {MIN_SECONDS} s, copy or export it again.")
    if seconds < MIN_SECONDS:
        raise AudioError(
            f"{path} lasts {seconds:.2f} s; expected at least {MIN_SECONDS} s, record a longer take."
        )
    return (f"{fault}; what is there is used",) if fault else ()


def write(path: Path | str, waveform: Waveform, force: bool = False) -> None:
    """Write WAV (24 bit), FLAC (24 bit), OGG Vorbis, MP3 or M4A (AAC) by suffix, whole or not at all.

    Raises:
        AudioError: on an unknown suffix, an existing file without `force`, or a place that cannot be written.
    """
    write_blocks(path, [waveform.samples], waveform.sample_rate, waveform.n_channels, force)


def check_writable(path: Path, sample_rate: int, n_channels: int, seconds: float = 0.0) -> None:
    """Refuse what no file of this suffix can hold, or what is not installed to write it.

    Raises:
        AudioError: naming what to ask for instead.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIX_SUBTYPES:
        raise AudioError(
            f"{path} has the suffix '{path.suffix}'; expected one of {', '.join(SUFFIX_SUBTYPES)}."
        )
    if suffix in (".mp3", ".m4a") and sample_rate not in BROADCAST_RATES:
        rates = ", ".join(map(str, BROADCAST_RATES))
        raise AudioError(f"{path} cannot have a sample rate of {sample_rate} Hz; expected one of {rates}.")
    if suffix == ".m4a" and not find_spec("av"):
        raise AudioError(f"{path} needs PyAV to be written; install it with: {INSTALL}.")
    if suffix == ".wav" and seconds * sample_rate * n_channels * 3 > MAX_WAV_BYTES:
        hours = MAX_WAV_BYTES / (sample_rate * n_channels * 3 * 3600)
        raise AudioError(
            f"{path} would be longer than a WAV file can be, {hours:.1f} h at this rate; choose .flac."
        )


def write_blocks(
    path: Path | str,
    blocks: Iterable[FloatArray | NDArray[np.int32]],
    sample_rate: int,
    n_channels: int,
    force: bool = False,
) -> None:
    """As `write`, from blocks `[C, n]` of samples as they come; of int32, full scale is 2**31 and nothing is rounded."""
    import soundfile

    path = Path(path)
    check_writable(path, sample_rate, n_channels)
    suffix = path.suffix.lower()
    clipped: Iterator[Any] = (b if b.dtype == np.int32 else np.clip(b, -1.0, 1.0) for b in blocks)
    with atomic_path(path, force) as temporary:
        if suffix == ".m4a":
            _write_aac(path, temporary, clipped, sample_rate, n_channels)
            return
        options = MP3_OPTIONS if suffix == ".mp3" else {}
        try:
            with soundfile.SoundFile(
                temporary, "w", sample_rate, n_channels, SUFFIX_SUBTYPES[suffix], **options
            ) as file:
                for block in clipped:
                    file.write(block.T)
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise AudioError(f"{path} cannot be written ({error}); is the disk full?") from error


def _write_aac(
    path: Path, temporary: Path, blocks: Iterable[FloatArray], sample_rate: int, n_channels: int
) -> None:
    """AAC in an MP4 container, whose edit list has the exact length and nothing of the time of writing."""
    import av

    # The length is in units of this, milliseconds by default.
    options = {"fflags": "+bitexact", "movie_timescale": str(sample_rate)}
    layout = "stereo" if n_channels == 2 else "mono"
    try:
        with av.open(str(temporary), "w", format="ipod", options=options) as container:
            stream = container.add_stream("aac", rate=sample_rate, layout=layout)
            stream.bit_rate = AAC_BIT_RATE * n_channels
            n_samples = 0
            for block in blocks:
                samples = np.ascontiguousarray(block, np.float32)
                frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
                frame.sample_rate, frame.pts = sample_rate, n_samples
                n_samples += block.shape[1]
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    except (av.FFmpegError, OSError) as error:
        raise AudioError(f"{path} cannot be written ({error}); is the disk full?") from error


def ogg_coded(sound: Waveform) -> Waveform:
    """A waveform after OGG Vorbis coding and decoding in memory."""
    import soundfile

    coded = io.BytesIO()
    soundfile.write(coded, sound.samples.T, sound.sample_rate, format="OGG", subtype="VORBIS")
    coded.seek(0)
    back, _ = soundfile.read(coded, dtype="float32", always_2d=True)
    return Waveform(back.T, sound.sample_rate)


def read_blocks(path: Path | str, n_samples: int, dtype: str = "float32") -> Iterator[FloatArray]:
    """Samples `[C, n]` of a file that `write` wrote, in blocks of at most `n_samples`.

    As `int32` the upper bits are those that the file has, which `write_blocks` writes again as they are.

    Raises:
        AudioError: if it cannot be read.
    """
    import soundfile

    path = Path(path)
    if path.suffix.lower() == ".m4a":
        # The last frame is longer than what its file says of the length.
        with decoding(path) as source:
            n_left = round(source.layout.promised_seconds * source.sample_rate)
            for block in source:
                if n_left:
                    yield block[:, :n_left]
                n_left -= min(n_left, block.shape[1])
        return
    try:
        with soundfile.SoundFile(path) as file:
            # Else soundfile seeks to where it is after each block, and a decoder of MP3 then lacks the bits that
            # earlier frames have left for later ones: what follows is misread.
            file.seekable = lambda: False
            while len(block := file.read(n_samples, dtype=dtype, always_2d=True)):
                yield np.ascontiguousarray(block.T)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise AudioError(f"{path} cannot be read back ({error}); is the disk full?") from error
