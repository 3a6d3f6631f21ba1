"""Sound as samples: one checked container in memory, another on disk for long recordings, and their level."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from silent2music.arrays import DoubleArray, FloatArray
from silent2music.audio.downmix import Channels
from silent2music.errors import AudioError

FLOOR_DBFS = -120.0
"""The one named floor: anything quieter, digital silence included, counts as this level."""

IN_MEMORY_BYTES = 2**24

BLOCK_SAMPLES = 2**18
"""Samples of a channel that are read and looked at in one go."""


def block_samples(n_channels: int) -> int:
    """As many, or fewer of very many channels: some 16 MiB."""
    return max(1, min(BLOCK_SAMPLES, 2**22 // n_channels))


@dataclass(frozen=True)
class Waveform:
    """Samples with their rate, validated on construction.

    Attributes:
        samples: `[C, N]` float32, C channels of N samples, of which 1.0 is full scale. What is louder, as 32-bit
            float recorders write it, is kept: samples are clipped where they are written, not before.
        sample_rate: samples per second, in Hz.
        notes: what a user should know of the file that this was read from; each goes on after the file's name.
        recorded_channels: channels of the recording that this was mixed down from; by default C.

    Raises:
        AudioError: on a wrong shape, no samples, non-finite samples or a rate below 1 Hz.

    Example:
        >>> Waveform(np.zeros((1, 24000), np.float32), 24000).seconds
        1.0
    """

    samples: FloatArray
    sample_rate: int
    notes: tuple[str, ...] = field(default=(), kw_only=True)
    recorded_channels: int = field(default=0, kw_only=True)

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
        if self.recorded_channels == 0:
            object.__setattr__(self, "recorded_channels", samples.shape[0])
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

    def slice(self, begin: int, end: int) -> FloatArray:
        """Samples `[C, n]` from `begin` to before `end`, or to where the sound ends."""
        return self.samples[:, begin:end]

    def whole(self) -> Waveform:
        """All of it in memory, which it is."""
        return self

    def mono(self) -> Waveform:
        """The mean of the channels, `[1, N]`."""
        if self.n_channels == 1:
            return self
        return Waveform(self.samples.mean(axis=0, keepdims=True, dtype=np.float32), self.sample_rate)

    def downmix(self) -> Waveform:
        """What is heard of a room, `[1, N]`: see `Channels.downmix`; itself if it has one channel."""
        if self.n_channels == 1:
            return self
        mix = channels_of(self).downmix()
        return replace(self, samples=mix(self.samples), notes=self.notes + mix.notes)

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
        return replace(self, samples=within_peak(fixed, self.samples), sample_rate=sample_rate)


class Recording:
    """Samples on disk, read a slice at a time: a `Waveform` that is too long for memory.

    They are held in a temporary file of 32-bit floats, in memory as long as they are few. `notes` and
    `recorded_channels` are as of a `Waveform`, and for who appends to set.

    Args:
        n_channels: C.
        sample_rate: in Hz.
        folder: of the temporary file, by default the system's.
    """

    def __init__(self, n_channels: int, sample_rate: int, folder: Path | None = None) -> None:
        self.n_channels, self.sample_rate, self.n_samples = n_channels, sample_rate, 0
        self.notes: tuple[str, ...] = ()
        self.recorded_channels = n_channels
        self._folder = folder
        self._file = tempfile.SpooledTemporaryFile(  # noqa: SIM115, removed with the object
            max_size=IN_MEMORY_BYTES, dir=None if folder is None else str(folder)
        )

    @property
    def seconds(self) -> float:
        """The duration in seconds."""
        return self.n_samples / self.sample_rate

    def append(self, samples: FloatArray) -> None:
        """Add `[C, n]` at the end; the caller has checked them.

        Raises:
            AudioError: if the disk is full.
        """
        try:
            self._file.seek(4 * self.n_channels * self.n_samples)
            self._file.write(np.ascontiguousarray(samples.T, np.float32).tobytes())
        except OSError as error:
            raise AudioError(
                f"{self._folder or tempfile.gettempdir()} cannot hold {self.n_samples + samples.shape[1]} samples of "
                f"{self.n_channels} channels ({error.strerror}); name another folder in TMPDIR."
            ) from error
        self.n_samples += samples.shape[1]

    def slice(self, begin: int, end: int) -> FloatArray:
        """Samples `[C, n]` from `begin` to before `end`, or to where they end."""
        end = min(end, self.n_samples)
        self._file.seek(4 * self.n_channels * begin)
        data = self._file.read(4 * self.n_channels * max(0, end - begin))
        return np.frombuffer(data, np.float32).reshape(-1, self.n_channels).T

    def whole(self) -> Waveform:
        """All of it in memory."""
        samples = self.slice(0, self.n_samples)
        return Waveform(samples, self.sample_rate, notes=self.notes, recorded_channels=self.recorded_channels)

    def downmix(self) -> Recording:
        """What is heard of a room: itself if it has one channel, as `open_recording` makes it."""
        if self.n_channels == 1:
            return self
        mix, mixed = channels_of(self).downmix(), Recording(1, self.sample_rate)
        step = block_samples(self.n_channels)
        for start in range(0, self.n_samples, step):
            mixed.append(mix(self.slice(start, start + step)))
        mixed.notes, mixed.recorded_channels = self.notes + mix.notes, self.recorded_channels
        return mixed


Recorded = Waveform | Recording
"""A recording as `acoustics` and `listening` take it: in memory or on disk."""


def channels_of(room: Recorded) -> Channels:
    """What the channels of a recording have in common."""
    channels = Channels(room.n_channels, room.sample_rate)
    step = block_samples(room.n_channels)
    for start in range(0, room.n_samples, step):
        channels.add(room.slice(start, start + step))
    return channels


def to_dbfs(power: DoubleArray | float) -> DoubleArray:
    """Mean square in dB re full scale, not below `FLOOR_DBFS`."""
    return np.asarray(np.maximum(FLOOR_DBFS, 10.0 * np.log10(np.maximum(power, 1e-30))))


def rms_dbfs(samples: FloatArray) -> float:
    """RMS level in dB re full scale (a full-scale square wave is 0 dBFS), not below `FLOOR_DBFS`.

    Example:
        >>> round(rms_dbfs(np.sin(np.arange(48000) * 0.1)[None].astype(np.float32)), 1)
        -3.0
    """
    return float(to_dbfs(float(np.mean(np.square(samples, dtype=np.float64)))))


def level_curve_dbfs(samples: FloatArray | DoubleArray, n_block: int) -> DoubleArray:
    """`[max(1, N // n_block)]` RMS level of consecutive blocks of `n_block` samples, of `[N]` or over channels `[C, N]`.

    What is left over at the end is dropped; of fewer samples than a block, the level is that of all.
    """
    power = np.square(samples, dtype=np.float64)
    if power.ndim == 2:
        power = power.mean(axis=0)
    n_block = min(n_block, len(power))
    n_blocks = len(power) // n_block
    return to_dbfs(power[: n_blocks * n_block].reshape(n_blocks, n_block).mean(axis=1))


def within_peak(samples: FloatArray, source: FloatArray) -> FloatArray:
    """Samples clipped to full scale, or to the peak of what they were made of if that was beyond it already."""
    limit = max(1.0, float(np.abs(source).max()))
    return np.clip(samples, -limit, limit)


def db_to_gain(db: float) -> float:
    """The factor on amplitude that changes a level by `db` decibels."""
    return float(10.0 ** (db / 20.0))
