"""Music in a room: an Ambisonic field of up to third order, where its sound comes from, and its fold-downs.

AmbiX (Nachbar, Zotter, Deleflie and Sontacchi, 2011): channels in ACN order W, Y, Z, X, ..., SN3D normalised, so that a
plane wave from azimuth a (counter-clockwise, +90 degrees is left) and elevation e has

    W = s,  Y = s sin(a) cos(e),  Z = s sin(e),  X = s cos(a) cos(e), and those of `harmonics`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from silent2music import audio
from silent2music.acoustics import AcousticProfile
from silent2music.arrays import DoubleArray, FloatArray
from silent2music.audio import Recorded, Waveform
from silent2music.errors import AudioError, ConfigError

W, Y, Z, X = range(4)
"""ACN channel numbers."""

LAYOUT_AZIMUTHS: Mapping[int, Sequence[float | None]] = {
    1: (0.0,),
    2: (30.0, -30.0),
    3: (30.0, -30.0, 0.0),
    4: (45.0, -45.0, 135.0, -135.0),
    5: (30.0, -30.0, 0.0, 110.0, -110.0),
    6: (30.0, -30.0, 0.0, None, 110.0, -110.0),
    8: (30.0, -30.0, 0.0, None, 135.0, -135.0, 90.0, -90.0),
}
"""Azimuths in degrees of the channels of the usual layouts, in WAV order (ITU-R BS.775); None is the LFE."""

DEFAULT_RT60_SECONDS = 0.4
RT60_RANGE = (0.2, 4.0)
PREDELAY_SECONDS = 0.012
HIGH_BAND_HZ = 3000.0
HIGH_BAND_RT60 = 0.6
"""The high band decays in this share of the RT60, as air and walls make it."""
DIFFUSE_RANGE = (0.1, 0.6)

BLOCK = 2048
"""Samples of a stream that are placed at once; twice or four times as many where reverberation is long."""

MAX_PARTS = 32
"""Of a response, each a block long."""

PINK_FROM_HZ = 50.0
"""Where the spectrum begins that stands for music which is not known yet: pink, equal power in each octave."""


@dataclass(frozen=True)
class Placement:
    """Where music stands in its room.

    Attributes:
        azimuth_degrees: counter-clockwise from the front.
        elevation_degrees: upwards.
        diffuse_share: of the power that comes from everywhere, 0 to 1.
        rt60_seconds: of the room, or of a plain one where none was found.
    """

    azimuth_degrees: float
    elevation_degrees: float
    diffuse_share: float
    rt60_seconds: float


def omni(sound: Waveform, channels: str) -> Waveform:
    """What a listener without direction hears of music, `[1, N]`: W of an `ambix` field, else the channels' mean."""
    return Waveform(sound.samples[:1], sound.sample_rate) if channels == "ambix" else sound.mono()


def open_room(path: Path, room_format: str, reading: Mapping[str, Any]) -> tuple[Recorded, DoubleArray]:
    """What a listener without direction hears of a recording, `[1, N]`, and `[C, C]` what its channels have in common.

    Args:
        room_format: `ambix`, of which W is heard, or `speakers`.

    Raises:
        AudioError: as `audio.open_recording`, or if it does not have the channels of the B-format that it is said
            to be.
        ConfigError: if one channel alone is asked for of that.
    """
    if room_format == "ambix":
        if reading.get("channel") is not None:
            raise ConfigError(
                "--channel hears one channel, --room-format ambix all four; give one of the two."
            )
        room = audio.open_recording(path, **{**reading, "channel": W})
        if room.recorded_channels != 4:
            raise AudioError(
                f"The recording has {room.recorded_channels} channels; expected the 4 of first-order B-format "
                "(AmbiX: W, Y, Z, X): leave out --room-format ambix."
            )
    else:
        room = audio.open_recording(path, **reading)
        if room.recorded_channels == 1 or reading.get("channel") is not None:
            return room, np.ones((1, 1))
    return room, audio.compare_channels(path, reading.get("track", 0)).covariance


def omni_of(folder: Path, room: Mapping[str, Any], file: Mapping[str, Any]) -> Waveform:
    """What a listener without direction hears of a file, by its entry and its room's in the folder's manifest."""
    return omni(audio.read(folder / room["folder"] / file["file"]), file["spatial"])


def find_placement(channels: DoubleArray, profile: AcousticProfile | None, room_format: str) -> Placement:
    """Where the energy of a recording comes from, and how diffuse the room is.

    Of B-format by the active intensity (DirAC: Pulkki, 2007), of other channels by the energy vector of their
    speakers (Gerzon, 1992). One channel has no direction: the front, more diffuse the longer the RT60.

    Args:
        channels: `[C, C]` mean products of the recording's channels.
        profile: its profile, None where it is not known.
        room_format: `ambix` or `speakers`.
    """
    rt60 = profile.rt60_seconds if profile is not None else None
    rt60 = float(np.clip(DEFAULT_RT60_SECONDS if rt60 is None else rt60, *RT60_RANGE))
    vector, share = np.array([1.0, 0.0, 0.0]), 0.1 + 0.2 * rt60
    if room_format == "ambix":
        intensity, energy = channels[W, [X, Y, Z]], 0.5 * float(np.trace(channels))
        if energy > 0 and np.linalg.norm(intensity) > 1e-6 * energy:
            vector, share = intensity, 1.0 - float(np.linalg.norm(intensity)) / energy
    elif len(channels) > 1 and len(channels) in LAYOUT_AZIMUTHS:
        azimuths = np.array(LAYOUT_AZIMUTHS[len(channels)], np.float64)
        known = np.isfinite(azimuths)  # all but the LFE
        power = np.diag(channels)[known]
        if power.any():
            angles, weights = np.radians(azimuths[known]), power / sum(power)
            energy_vector = np.array([weights @ np.cos(angles), weights @ np.sin(angles), 0.0])
            if np.linalg.norm(energy_vector) > 1e-6:
                vector, share = energy_vector, 1.0 - float(np.linalg.norm(energy_vector))
    x, y, z = vector
    return Placement(
        azimuth_degrees=round(float(np.degrees(np.arctan2(y, x))), 2),
        elevation_degrees=round(float(np.degrees(np.arctan2(z, np.hypot(x, y)))), 2),
        diffuse_share=round(float(np.clip(share, *DIFFUSE_RANGE)), 4),
        rt60_seconds=round(rt60, 3),
    )


def harmonics(azimuth_degrees: float, elevation_degrees: float = 0.0, order: int = 1) -> DoubleArray:
    """Real spherical harmonics `[(order + 1) ** 2]` in ACN order, SN3D, of a direction; order 0 to 3.

    Example:
        >>> harmonics(90.0, order=2).round(3).tolist()
        [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, -0.5, 0.0, -0.866]
    """
    a, e = np.radians(azimuth_degrees), np.radians(elevation_degrees)
    x, y, z = np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)
    third, middle = np.sqrt(5 / 8), np.sqrt(3 / 8) * (5 * z**2 - 1)
    degrees = [
        (1.0,),
        (y, z, x),
        np.sqrt(3) * np.array([x * y, y * z, (3 * z**2 - 1) / np.sqrt(12), x * z, (x**2 - y**2) / 2]),
        (
            *(third * y * (3 * x**2 - y**2), np.sqrt(15) * x * y * z, middle * y, z * (5 * z**2 - 3) / 2),
            *(middle * x, np.sqrt(15) / 2 * z * (x**2 - y**2), third * x * (x**2 - 3 * y**2)),
        ),
    ]
    return np.concatenate(degrees[: order + 1])


def plane_wave(
    samples: FloatArray, azimuth_degrees: float, elevation_degrees: float = 0.0, order: int = 1
) -> FloatArray:
    """A plane wave: samples `[N]` to AmbiX `[(order + 1) ** 2, N]`.

    Example:
        >>> plane_wave(np.ones(1, np.float32), 90.0)[:2, 0].round(6).tolist()
        [1.0, 1.0]
    """
    gains = harmonics(azimuth_degrees, elevation_degrees, order)
    return np.asarray(gains[:, None] * samples, dtype=np.float32)


def reverberation(sample_rate: int, rt60_seconds: float, seed: int, n_channels: int = 4) -> DoubleArray:
    """Late reverberation from everywhere as a response `[n_channels, n]`, the first channels in ACN order.

    Independent noise in each channel, decaying by 60 dB in the RT60, faster in the high band.
    """
    n = round(sample_rate * (PREDELAY_SECONDS + 1.2 * rt60_seconds))
    t = np.arange(n) / sample_rate - PREDELAY_SECONDS
    noise = np.random.default_rng(seed).standard_normal((max(4, n_channels), n))[:n_channels]
    # A Butterworth low-pass of second order by its magnitude alone: the phases of noise are noise.
    pass_band = 1.0 / np.sqrt(1.0 + (np.fft.rfftfreq(n, 1.0 / sample_rate) / HIGH_BAND_HZ) ** 4)
    low = np.fft.irfft(np.fft.rfft(noise, axis=1) * pass_band, n=n, axis=1)
    decay = [np.where(t >= 0, 10.0 ** (-3.0 * t / (rt60_seconds * s)), 0.0) for s in (1.0, HIGH_BAND_RT60)]
    return np.asarray(low * decay[0] + (noise - low) * decay[1])


def diffuse_response(
    n_samples: int, sample_rate: int, rt60_seconds: float, seed: int, order: int = 1
) -> DoubleArray:
    """`reverberation` on the circle, `[(order + 1) ** 2, n_samples]`: what is longer than the loop comes round again.

    So it is when the loop has played for long. W has unit energy, and of degree l each channel 1 / (2 l + 1) of it, as a
    diffuse field in SN3D has.
    """
    n_channels = (order + 1) ** 2
    response = reverberation(sample_rate, rt60_seconds, seed, n_channels)
    folded = np.pad(response, ((0, 0), (0, -response.shape[1] % n_samples)))
    folded = folded.reshape(n_channels, -1, n_samples).sum(axis=1)
    folded /= np.sqrt(np.square(folded).sum(axis=1, keepdims=True))
    for degree in range(1, order + 1):
        folded[degree**2 : (degree + 1) ** 2] /= np.sqrt(2.0 * degree + 1.0)
    return np.asarray(folded)


def spatialised(
    samples: FloatArray, sample_rate: int, where: Placement, seed: int = 0, order: int = 1
) -> FloatArray:
    """A loop `[N]` as a field `[(order + 1) ** 2, N]` in its room, a loop still: the room is circular too."""
    direct = plane_wave(samples, where.azimuth_degrees, where.elevation_degrees, order)
    response = diffuse_response(len(samples), sample_rate, where.rt60_seconds, seed, order)
    spectrum, diffuse = np.fft.rfft(samples.astype(np.float64)), response
    for channel in diffuse:  # one after another: sixteen spectra of a long loop take room
        channel[:] = np.fft.irfft(spectrum * np.fft.rfft(channel), n=len(samples))
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    # Noise responses colour, so that the share of power is met by measuring: each channel of degree l says what W would
    # have, and their mean counts, since at the frequency of a single tone any one of them may have next to nothing.
    degrees = np.sqrt(np.arange(len(diffuse))).astype(np.int64)
    found = float(np.mean((2 * degrees + 1) * [np.mean(np.square(channel)) for channel in diffuse]))
    diffuse *= np.sqrt(power / found) if found > 0 else 0.0
    share = where.diffuse_share
    return np.asarray(np.sqrt(1.0 - share) * direct + np.sqrt(share) * diffuse, dtype=np.float32)


def fold_down(field: FloatArray, spatial: str) -> FloatArray:
    """A field `[C, N]` as `stereo` `[2, N]` or `mono` `[1, N]`, of the power that W has; `ambix` stays.

    Stereo is two virtual cardioids to the left and the right, whose sum is W again.
    """
    if spatial == "ambix":
        return field
    if spatial == "mono":
        return field[[W]]
    pair = 0.5 * np.stack([field[W] + field[Y], field[W] - field[Y]])
    power = [float(np.square(s, dtype=np.float64).sum()) for s in (field[W], pair)]
    return np.asarray(pair * (np.sqrt(power[0] / power[1]) if power[1] > 0 else 1.0), dtype=np.float32)


def placed(pieces: Iterable[Waveform], where: Placement, seed: int = 0) -> Iterator[Waveform]:
    """Music `[1, n]` that comes in pieces, of any length, as stereo `[2, n]` in its room: a stream's `spatialised`.

    What is measured of a loop to meet the share of power is here what a pink spectrum would give, since nobody knows
    what is still to come. The samples do not depend on how the music is cut.

    Args:
        pieces: of one rate.
    """
    rest: FloatArray = np.zeros(0, np.float32)
    room: _StereoRoom | None = None
    rate = 0
    for piece in pieces:
        if room is None:
            rate = piece.sample_rate
            room = _StereoRoom(where, rate, seed)
        rest = np.concatenate([rest, piece.samples[0]])
        n_whole = len(rest) // room.n_block * room.n_block
        if n_whole:
            blocks = [room(block) for block in rest[:n_whole].reshape(-1, room.n_block)]
            yield Waveform(np.concatenate(blocks, axis=1), rate)
            rest = rest[n_whole:]
    if room is not None and len(rest):
        yield Waveform(room(np.pad(rest, (0, room.n_block - len(rest))))[:, : len(rest)], rate)


class _StereoRoom:
    """Blocks of `n_block` samples of music to as much stereo in a room, by partitioned overlap-save convolution.

    The response is cut into blocks, whose spectra are multiplied with those of the last blocks of music (Stockham, 1966;
    uniform partitions).
    """

    def __init__(self, where: Placement, sample_rate: int, seed: int) -> None:
        response = reverberation(sample_rate, where.rt60_seconds, seed, 2)
        hz = np.fft.rfftfreq(response.shape[1], 1.0 / sample_rate)
        pink = np.divide(1.0, hz, out=np.zeros_like(hz), where=hz > PINK_FROM_HZ)
        power = np.square(np.abs(np.fft.rfft(response, axis=1))) @ pink / pink.sum()
        response /= np.sqrt(power)[:, None] * np.sqrt([[1.0], [3.0]])
        self.n_block = BLOCK
        while response.shape[1] > MAX_PARTS * self.n_block:
            self.n_block *= 2
        n_parts = -(-response.shape[1] // self.n_block)
        parts = np.pad(response, ((0, 0), (0, n_parts * self.n_block - response.shape[1])))
        share, azimuth = where.diffuse_share, np.radians(where.azimuth_degrees)
        # Two cardioids to the left and the right, of the power that W has.
        self._side = float(np.sin(azimuth) * np.cos(np.radians(where.elevation_degrees)))
        y_power = (1.0 - share) * self._side**2 + share / 3.0
        gain = np.sqrt(0.5 / (1.0 + y_power))
        self._direct, diffuse = gain * np.sqrt(1.0 - share), gain * np.sqrt(share)
        spectra = np.fft.rfft(parts.reshape(2, n_parts, -1) * diffuse, 2 * self.n_block, axis=2)
        self._spectra = spectra.astype(np.complex64)
        self._heard = np.zeros(
            (2 * n_parts, self.n_block + 1), np.complex64
        )  # each twice, so that all lie in a row
        self._next = 0
        self._before: FloatArray = np.zeros(self.n_block, np.float32)

    def __call__(self, block: FloatArray) -> FloatArray:
        """The next block, `[n_block]` to `[2, n_block]`."""
        n_parts = len(self._heard) // 2
        self._next = (self._next - 1) % n_parts
        spectrum = np.fft.rfft(np.concatenate([self._before, block]))
        self._before = block
        self._heard[[self._next, self._next + n_parts]] = spectrum
        last = self._heard[self._next : self._next + n_parts]
        w, y = np.fft.irfft(np.einsum("cpf,pf->cf", self._spectra, last), axis=1)[:, self.n_block :]
        w, y = w + self._direct * block, y + self._direct * self._side * block
        return np.stack([w + y, w - y]).astype(np.float32)
