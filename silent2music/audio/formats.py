"""Recordings of rooms from files, and files of music."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np

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

SUFFIX_SUBTYPES = {".wav": "PCM_24", ".flac": "PCM_24", ".ogg": "VORBIS"}
"""What can be written, by suffix, with the sample format used for it."""

READABLE_SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64", ".opus"),
    *(".rf64", ".bwf", ".oga", ".mp2", ".aifc", ".snd"),
)
"""Suffixes that a folder is searched for; a file named by the user is tried whatever its suffix."""

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4a", ".mkv", ".webm", ".wma", ".aac", ".ac3", ".3gp", ".m4v")
"""As well, where PyAV is installed."""


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
    """What a user should know of a file's length, which was read to its end.

    Raises:
        AudioError: if it is too short, or cut and `strict` is set.
    """
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


def find_audio(folder: Path) -> list[Path]:
    """Find all audio files below a folder, by suffix, sorted by path; hidden files are left out.

    Raises:
        AudioError: if there is none.
    """
    suffixes = READABLE_SUFFIXES + (VIDEO_SUFFIXES if find_spec("av") else ())
    found = sorted(
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in suffixes
        and not any(part.startswith(".") for part in p.relative_to(folder).parts)
        and p.is_file()
    )
    if not found:
        more = "" if find_spec("av") else f"; for {', '.join(VIDEO_SUFFIXES)} install PyAV with: {INSTALL}"
        raise AudioError(f"{folder} holds no audio file; expected one of {', '.join(suffixes)}{more}.")
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
                    file.write(np.clip(block, -1.0, 1.0).T)
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
