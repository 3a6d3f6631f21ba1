"""Sound as samples: one checked container, reading, writing, resampling and loudness.

`soundfile` is imported here and nowhere else. Nothing in this module needs torch, so that commands which
only look at audio start at once.
"""

from __future__ import annotations

import io
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from silent2music.errors import AudioError
from silent2music.filters import oversampled

FloatArray = NDArray[np.float32]

FLOOR_DBFS = -120.0
"""The one named floor: anything quieter, digital silence included, counts as this level."""

MIN_SECONDS = 0.5
"""The shortest recording that says anything about a room."""

WHOLE_SECONDS = 60.0
"""Recordings up to this length are held in memory where they are opened; longer ones wait in a temporary file."""

IN_MEMORY_BYTES = 2**24
BLOCK_SAMPLES = 2**18

SUFFIX_SUBTYPES = {".wav": "PCM_24", ".flac": "PCM_24", ".ogg": "VORBIS"}
"""What can be written, by suffix, with the sample format used for it."""

READABLE_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64", ".opus")
"""Suffixes that a folder is searched for; a file named by the user is tried whatever its suffix."""


@dataclass(frozen=True)
class Waveform:
    """Samples with their rate, checked once on making.

    Attributes:
        samples: `[C, N]` float32 in [-1, 1], C channels of N samples.
        sample_rate: samples per second, in Hz.

    Raises:
        AudioError: on a wrong shape, no samples, non-finite samples or a rate below 1 Hz.

    Example:
        >>> Waveform(np.zeros((1, 24000), np.float32), 24000).seconds
        1.0
    """

    samples: FloatArray
    sample_rate: int

    def __post_init__(self) -> None:
        samples = self.samples
        if samples.ndim != 2 or samples.shape[0] < 1 or samples.shape[1] < 1:
            raise AudioError(
                f"Audio has shape {tuple(samples.shape)}; expected [channels, samples], at least one each."
            )
        if self.sample_rate < 1:
            raise AudioError(f"Audio has a sample rate of {self.sample_rate} Hz; expected a positive rate.")
        if samples.dtype != np.float32:
            object.__setattr__(self, "samples", samples.astype(np.float32))
        if not np.isfinite(self.samples).all():
            bad = int((~np.isfinite(self.samples)).sum())
            raise AudioError(
                f"Audio holds {bad} samples that are not finite (NaN or infinite); export it again."
            )

    @property
    def n_channels(self) -> int:
        """C, the number of channels."""
        return int(self.samples.shape[0])

    @property
    def n_samples(self) -> int:
        """N, the number of samples in a channel."""
        return int(self.samples.shape[1])

    @property
    def seconds(self) -> float:
        """The duration in seconds."""
        return self.n_samples / self.sample_rate

    def stretch(self, begin: int, end: int) -> FloatArray:
        """Samples `[C, n]` from `begin` to before `end`, or to where the sound ends."""
        return self.samples[:, begin:end]

    def mono(self) -> Waveform:
        """The mean of the channels, `[1, N]`."""
        if self.n_channels == 1:
            return self
        return Waveform(self.samples.mean(axis=0, keepdims=True, dtype=np.float32), self.sample_rate)

    def resampled(self, sample_rate: int) -> Waveform:
        """The same sound at another rate (soxr, very high quality); itself if the rate is the same."""
        if sample_rate == self.sample_rate:
            return self
        import soxr

        out = soxr.resample(self.samples.T, self.sample_rate, sample_rate, quality="HQ").T
        n_samples = max(1, round(self.n_samples * sample_rate / self.sample_rate))
        fixed = np.zeros((self.n_channels, n_samples), np.float32)
        n_shared = min(n_samples, out.shape[1])
        fixed[:, :n_shared] = out[:, :n_shared]
        return Waveform(np.clip(fixed, -1.0, 1.0), sample_rate)


class Stored:
    """Samples that wait in a temporary file of 32-bit floats, or in memory as long as they are few.

    Args:
        n_channels: C.
    """

    def __init__(self, n_channels: int) -> None:
        self.n_channels, self.n_samples = n_channels, 0
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)  # noqa: SIM115, removed with the object

    def append(self, samples: FloatArray) -> None:
        """Go on with `[C, n]`.

        Raises:
            AudioError: if the disk is full.
        """
        try:
            self._file.seek(4 * self.n_channels * self.n_samples)
            self._file.write(np.ascontiguousarray(samples.T, np.float32).tobytes())
        except OSError as error:
            raise AudioError(
                f"{tempfile.gettempdir()} cannot hold {self.n_samples + samples.shape[1]} samples of "
                f"{self.n_channels} channels ({error.strerror}); name another folder in TMPDIR."
            ) from error
        self.n_samples += samples.shape[1]

    def stretch(self, begin: int, end: int) -> FloatArray:
        """Samples `[C, n]` from `begin` to before `end`, or to where they end."""
        end = min(end, self.n_samples)
        self._file.seek(4 * self.n_channels * begin)
        data = self._file.read(4 * self.n_channels * max(0, end - begin))
        return np.frombuffer(data, np.float32).reshape(-1, self.n_channels).T


class Recording:
    """A long recording: what `Waveform` says of it, and its samples a stretch at a time.

    Args:
        stored: its samples, checked.
        sample_rate: in Hz.
    """

    def __init__(self, stored: Stored, sample_rate: int) -> None:
        self._stored, self.sample_rate = stored, sample_rate
        self.n_channels, self.n_samples = stored.n_channels, stored.n_samples
        self.seconds = self.n_samples / sample_rate
        self.stretch = stored.stretch


Recorded = Waveform | Recording
"""What can be listened to a stretch at a time."""


def rms_dbfs(samples: FloatArray) -> float:
    """RMS level in dB re full scale (a full-scale square wave is 0 dBFS), not below `FLOOR_DBFS`.

    Example:
        >>> round(rms_dbfs(np.sin(np.arange(48000) * 0.1)[None].astype(np.float32)), 1)
        -3.0
    """
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    return max(FLOOR_DBFS, 10.0 * float(np.log10(max(power, 1e-30))))


def db_to_gain(db: float) -> float:
    """The factor on amplitude that changes a level by `db` decibels."""
    return float(10.0 ** (db / 20.0))


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
    """As `read`, in memory that does not grow with the length: what is longer than `WHOLE_SECONDS` is decoded once,
    block by block, to a temporary file of 4 bytes a sample.

    Raises:
        AudioError: as `read`, or if there is no room for the temporary file.
    """
    path = Path(path)
    with _opened(path) as file:
        announced, rate = file.frames, file.samplerate
        if announced <= WHOLE_SECONDS * rate:
            return read(path)
        stored = Stored(file.channels)
        while (block := file.read(BLOCK_SAMPLES, dtype="float32", always_2d=True).T).shape[1]:
            stored.append(_checked(path, block, rate).samples)
    _check_length(path, announced, stored.n_samples, rate)
    if stored.n_samples <= WHOLE_SECONDS * rate:  # a stream whose header promised more than anyone could send
        return Waveform(stored.stretch(0, stored.n_samples), rate)
    return Recording(stored, rate)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A sound file, whose failures to open or to be read are told in a sentence."""
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
    """Refuse a file of fewer samples than it announces, or of too few."""
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
    """Refuse a WAV or AIFF whose data chunk promises more bytes than the file has.

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
    """All audio files below a folder, by suffix, sorted by path; hidden ones are none of them.

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


@contextmanager
def atomic_path(path: Path, force: bool = False) -> Iterator[Path]:
    """A temporary neighbour of `path` to write to, renamed to `path` if the block ends well, removed if not.

    Raises:
        AudioError: if `path` exists and `force` is not set, or its folder cannot be written.
    """
    if path.exists() and not force:
        raise AudioError(f"{path} exists already; give --force to replace it or choose another name.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".s2m-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise AudioError(f"{path} cannot be written ({error.strerror}); choose another place.") from error
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise AudioError(
            f"{path} cannot be written ({error.strerror or error}); nothing was left there."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


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
    """What comes back of an OGG Vorbis file, without writing one."""
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


def loudness_meter(sample_rate: int) -> Any:
    """pyloudnorm's meter with the weighting of ITU-R BS.1770's own coefficients, as ffmpeg and libebur128 have it.

    Its default filters, designed anew, read 0.04 dB less at 48 kHz and 0.08 dB less at 24 kHz.
    """
    import pyloudnorm

    return pyloudnorm.Meter(sample_rate, filter_class="DeMan")


def integrated_lufs(waveform: Waveform) -> float:
    """Integrated loudness in LUFS (ITU-R BS.1770-4, pyloudnorm); `-inf` for silence.

    A signal shorter than a gating block of 0.4 s is padded by repetition. Blocks are 0.1 s apart, and what is left
    over at the end is not measured, as the standard has it.
    """
    samples, hop = waveform.samples, 0.1 * waveform.sample_rate
    block = int(4 * hop) + 1
    if samples.shape[1] < block:
        samples = np.tile(samples, (1, -(-block // samples.shape[1])))
    n_whole = math.ceil(int(samples.shape[1] / hop + 1e-6) * hop)
    samples = samples[:5, : max(block, n_whole)]
    if not samples.any():
        return float("-inf")
    with np.errstate(divide="ignore"):
        meter = loudness_meter(waveform.sample_rate)
        return float(meter.integrated_loudness(samples.T.astype(np.float64)))


def true_peak_dbtp(waveform: Waveform) -> float:
    """True peak in dBTP by 4 times oversampling (ITU-R BS.1770-4, annex 2), not below `FLOOR_DBFS`."""
    return peak_dbtp(oversampled_peaks(waveform.samples))


def peak_dbtp(peaks: FloatArray) -> float:
    """The largest of `peaks` in dBTP, not below `FLOOR_DBFS`."""
    return max(FLOOR_DBFS, 20.0 * float(np.log10(max(float(peaks.max()), 1e-12))))


def oversampled_peaks(samples: FloatArray) -> FloatArray:
    """`[N]` largest magnitude over the channels of `[C, N]` from each sample to the next, 4 times oversampled."""
    over = np.abs(oversampled(samples)).max(axis=(0, 1))
    return np.asarray(np.maximum(over, np.abs(samples).max(axis=0)))


def normalised(waveform: Waveform, lufs: float, true_peak: float) -> Waveform:
    """Bring to an integrated loudness in LUFS under a true peak in dBTP.

    Peaks above the limit are turned down by a look-ahead gain, so that loudness is kept where it can be. A
    silent waveform comes back unchanged.
    """
    loudness = integrated_lufs(waveform)
    if not np.isfinite(loudness):
        return waveform
    samples = waveform.samples * np.float32(db_to_gain(lufs - loudness))
    return limited(samples, waveform.sample_rate, true_peak)


def limited(
    samples: FloatArray, sample_rate: int, true_peak: float, window_seconds: float = 0.005
) -> Waveform:
    """Hold samples `[C, N]`, which may exceed 1, under a true peak in dBTP.

    The gain is the minimum filter of the needed reduction over twice the window, smoothed over the window:
    at every peak it is already down, and it never moves faster than the window.
    """
    from scipy.ndimage import minimum_filter1d, uniform_filter1d

    ceiling = db_to_gain(true_peak - 0.1)
    over = oversampled_peaks(samples)
    if over.max() > ceiling:
        width = max(3, int(window_seconds * sample_rate))
        needed = np.minimum(1.0, ceiling / np.maximum(over, 1e-9))
        gain = uniform_filter1d(minimum_filter1d(needed, 2 * width + 1), width)
        samples = samples * gain.astype(np.float32)
    return Waveform(np.clip(samples, -1.0, 1.0).astype(np.float32), sample_rate)
