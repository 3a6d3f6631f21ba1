"""Bandwidth extension: sound of 24 kHz continued above 12 kHz, at 48 kHz.

As spectral band replication does it (Dietz, Liljeryd, Kjörling and Kunz, AES 112, 2002), but with the envelope
predicted where that method sends it:

    samples at 24 kHz -> STFT -> levels of bands below 11 kHz -> linear regression -> levels of bands above 12 kHz
                           |                                                              |
                           +-> copied -------------> below 12 kHz                         v
                           +-> shifted up by 7 and 13 kHz, band by band brought to those levels -> STFT -> 48 kHz

A copy that is shifted by a whole number of cycles to the hop keeps its phases consistent from frame to frame: it is
the lower band, modulated. So it is noise where the lower band is noise, and a click where that has a click.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from silent2music.arrays import FloatArray
from silent2music.audio import Waveform
from silent2music.errors import AudioError, CheckpointError, shown
from silent2music.phase import inverse_stft, stft
from silent2music.weights import read_weights, write_weights

RATE = 24_000
"""Of the sound that is extended, in Hz; the result has twice as much."""

N_FFT, HOP = 480, 120
"""Of the STFT at `RATE`, in samples; twice as many at the other rate. A bin is 50 Hz wide, a hop 5 ms long."""

BIN_HZ = RATE / N_FFT

CONTEXT = 8
"""Frames before and after a frame over which its surroundings are averaged."""

REACH = N_FFT // HOP // 2
"""Frames before and after a hop that overlap it."""

BLOCK = 192
"""Frames that are computed at once, always at multiples of so many, so that streamed sound is the same to the bit.

A second: frames around a block are computed twice."""

N_LOW_BANDS, LOW_HZ = 24, (100.0, 11_000.0)
"""Bands whose levels are known, spaced on the mel scale. What resamplers leave between 11 and 12 kHz varies."""

HIGH_HZ = np.arange(12_000, 22_001, 1000)
"""Edges of the bands whose levels are predicted; above them is nothing."""

SHIFTS_HZ = (7_000, 13_000)
"""The band from 5 to 11 kHz is carried up to 12 and to 18 kHz: whole numbers of cycles to the hop."""

LEVEL_FLOOR = 1e-9
"""Energy of a band, relative to that of its surroundings, below which it counts as none: -90 dB."""

MAX_OVER_TOP = 2.0
"""Energy a Hz above 12 kHz is at most so many times that from 9 to 11 kHz: nothing is above a low-passed sound."""

MAX_GAIN = 10.0
"""Of a carried band: what is hardly there is not made loud."""

EXTENSION_FILE = "extension.safetensors"

_BAND_BINS = round(1000 / BIN_HZ)
_SOURCE, _N_SOURCE_BANDS = round(5_000 / BIN_HZ), 6
_TOP = slice(round(9_000 / BIN_HZ), round(11_000 / BIN_HZ))
_MARGIN = 2 * REACH + CONTEXT


@dataclass(frozen=True)
class BandExtension:
    """Turns sound of 24 kHz into sound of 48 kHz whose spectrum goes on above 12 kHz, to 22 kHz.

    Each channel is extended alone, and a gain on it is a gain on the result, so that a stereo image stays as it is.
    Silence stays silence. `training.band_fit.fit_extension` fits it.

    Attributes:
        weights: `[2 * N_LOW_BANDS + 1, H]` float32, from what `features` gives and 1 to the logarithms of the energies of
            the H bands between `HIGH_HZ`, relative to that of the surroundings.

    Raises:
        CheckpointError: if the weights have another shape or are not finite.
    """

    weights: Tensor

    def __post_init__(self) -> None:
        expected = (2 * N_LOW_BANDS + 1, len(HIGH_HZ) - 1)
        if tuple(self.weights.shape) != expected or not bool(self.weights.isfinite().all()):
            raise CheckpointError(
                f"The weights of the extension have shape {tuple(self.weights.shape)}; expected finite ones of "
                f"{expected}: another version wrote them, fit it again by 's2m codec fit-band'."
            )

    def extended(self, sound: Waveform) -> Waveform:
        """Sound of 24 kHz with C channels as sound of 48 kHz with C channels and twice as many samples.

        Raises:
            AudioError: if the sound has another rate.
        """
        pieces = [piece.samples for piece in self.extended_stream([sound])]
        return Waveform(np.concatenate(pieces, axis=1), 2 * RATE, notes=sound.notes)

    def extended_stream(self, pieces: Iterable[Waveform]) -> Iterator[Waveform]:
        """The same for sound that comes in pieces of any length, at constant memory; joined, bit for bit the same.

        Args:
            pieces: of 24 kHz, all with C channels.

        Yields:
            Pieces at 48 kHz, `lookahead_seconds` behind at most; twice as many samples in all as came.

        Raises:
            AudioError: if a piece has another rate, or other channels than the first.
        """
        step, margin = BLOCK * HOP, _MARGIN * HOP
        held: Tensor | None = None  # from `margin` samples before the next to be given
        n_came = n_given = 0
        for piece in pieces:
            held = torch.zeros(piece.n_channels, margin) if held is None else held
            self._check(piece, len(held))
            held = torch.cat([held, torch.from_numpy(piece.samples)], dim=1)
            n_came += piece.n_samples
            while held.shape[1] >= step + 2 * margin:
                yield self._block(held[:, : step + 2 * margin], step)
                held, n_given = held[:, step:], n_given + step
        while held is not None and n_given < n_came:
            padded = functional.pad(held, (0, max(0, step + 2 * margin - held.shape[1])))
            yield self._block(padded[:, : step + 2 * margin], min(step, n_came - n_given))
            held, n_given = held[:, step:], n_given + step

    @property
    def lookahead_seconds(self) -> float:
        """The most that a given sample waits for later ones, the rest of its block included."""
        return (BLOCK + _MARGIN) * HOP / RATE

    def save(self, folder: Path) -> None:
        """Write the weights beside a codec's, in 16 bits."""
        write_weights({"weights": self.weights}, folder / EXTENSION_FILE)

    @classmethod
    def load(cls, folder: Path) -> BandExtension | None:
        """The extension of a codec folder; None if it has none.

        Raises:
            CheckpointError: if its file is damaged or another version's.
        """
        file = folder / EXTENSION_FILE
        if not file.exists():
            return None
        tensors = read_weights(file)
        if set(tensors) != {"weights"}:
            raise CheckpointError(
                f"{file} holds {shown(sorted(tensors))}; expected 'weights' alone: fit it again by 's2m codec fit-band'."
            )
        try:
            return cls(tensors["weights"].float())
        except CheckpointError as error:
            raise CheckpointError(f"{file}: {error}") from None

    def _check(self, piece: Waveform, n_channels: int) -> None:
        if piece.sample_rate != RATE:
            raise AudioError(
                f"The extension got sound of {piece.sample_rate} Hz; expected {RATE} Hz: resample it instead."
            )
        if piece.n_channels != n_channels:
            raise AudioError(
                f"The extension got a piece of {piece.n_channels} channels after one of {n_channels}; expected as "
                "many in each."
            )

    @torch.no_grad()
    def _block(self, samples: Tensor, n_kept: int) -> Waveform:
        """A block of 48 kHz of samples `[C, N]` around it, cut to so many samples of 24 kHz."""
        spectrum = stft(samples, N_FFT, HOP)[:, REACH:-REACH]
        extended = self.extended_spectrum(spectrum)
        wide = inverse_stft(extended, 2 * N_FFT, 2 * HOP)
        begin = 2 * REACH * HOP
        return Waveform(wide[:, begin : begin + 2 * n_kept].numpy(), 2 * RATE)

    def extended_spectrum(self, spectrum: Tensor) -> Tensor:
        """STFT `[C, L, N_FFT / 2 + 1]` to that of the extended sound `[C, L - 2 * CONTEXT, N_FFT + 1]`."""
        power = spectrum.real.square() + spectrum.imag.square()
        inputs, surroundings = features(power)
        spectrum, power = spectrum[:, CONTEXT:-CONTEXT], power[:, CONTEXT:-CONTEXT]
        wanted = (inputs @ self.weights[:-1] + self.weights[-1]).clamp(max=10.0).exp()
        wanted = (wanted - LEVEL_FLOOR).clamp(min=0.0) * surroundings
        top = power[..., _TOP].mean(-1, keepdim=True) * (_BAND_BINS * MAX_OVER_TOP)
        wanted = torch.minimum(wanted, top)
        out = torch.zeros(*spectrum.shape[:-1], N_FFT + 1, dtype=spectrum.dtype)
        out[..., : N_FFT // 2] = spectrum[..., :-1]
        out[..., N_FFT // 2] = 0.5 * spectrum[..., -1]  # at 12 kHz, of two alike in the wider spectrum
        for shift_hz in SHIFTS_HZ:
            target = _SOURCE + round(shift_hz / BIN_HZ)
            first = (target - N_FFT // 2) // _BAND_BINS
            n_bins = min(_N_SOURCE_BANDS, wanted.shape[-1] - first) * _BAND_BINS
            have, source = (_in_bands(x[..., _SOURCE : _SOURCE + n_bins]) for x in (power, spectrum))
            want = wanted[..., first : first + n_bins // _BAND_BINS]
            gain = (want / have.sum(-1).clamp(min=1e-36)).sqrt().clamp(max=MAX_GAIN)
            out[..., target : target + n_bins] += (source * gain[..., None]).flatten(-2)
        return out


def features(power: Tensor) -> tuple[Tensor, Tensor]:
    """What the levels above 12 kHz are predicted from: levels of bands, of each frame and on average about it.

    Args:
        power: `[C, L, N_FFT / 2 + 1]`, squared magnitudes.

    Returns:
        Logarithms of energies relative to that of the surroundings, `[C, L - 2 * CONTEXT, 2 * N_LOW_BANDS]`, the same for
        any gain; and the energy of the surroundings `[C, L - 2 * CONTEXT, 1]`, the frame's own and the average.
    """
    energies = power @ _low_bands().to(power.dtype)
    sums = functional.avg_pool1d(energies.mT, 2 * CONTEXT + 1, 1).mT
    own = energies[:, CONTEXT:-CONTEXT]
    surroundings = own.sum(-1, keepdim=True) + sums.sum(-1, keepdim=True)
    both = torch.cat([own, sums], dim=-1) / surroundings.clamp(min=1e-36)
    return (both + LEVEL_FLOOR).log(), surroundings


def high_energies(power: Tensor) -> Tensor:
    """Energies `[..., H]` of the bands between `HIGH_HZ`, of squared magnitudes `[..., N_FFT + 1]` at 48 kHz.

    The first two bins count as the mean of their band: the window's main lobe leaks into them from below 12 kHz.
    """
    bins = [round(hz / BIN_HZ) for hz in HIGH_HZ.tolist()]
    bands = _in_bands(power[..., bins[0] : bins[-1]])
    first = bands[..., :1, 2:].sum(-1) * (_BAND_BINS / (_BAND_BINS - 2))
    return torch.cat([first, bands[..., 1:, :].sum(-1)], dim=-1)


def _in_bands(bins: Tensor) -> Tensor:
    """Bins `[..., n * _BAND_BINS]` as `[..., n, _BAND_BINS]`."""
    return bins.reshape(*bins.shape[:-1], -1, _BAND_BINS)


def lower_half(samples: FloatArray) -> FloatArray:
    """Samples `[N]` of 48 kHz as `[N // 2]` of 24 kHz: all that is below 12 kHz, unlike by resampling."""
    samples = samples[: len(samples) // 2 * 2]
    spectrum = np.fft.rfft(samples.astype(np.float64))[: len(samples) // 4 + 1]
    return (0.5 * np.fft.irfft(spectrum, len(samples) // 2)).astype(np.float32)


@lru_cache(maxsize=1)
def _low_bands() -> Tensor:
    """Which bins `[N_FFT / 2 + 1, N_LOW_BANDS]` each of the lower bands holds."""
    first, last = (float(np.log1p(hz / 700.0)) for hz in LOW_HZ)
    mels = np.linspace(first, last, N_LOW_BANDS + 1)
    edges = np.round(700.0 * np.expm1(mels) / BIN_HZ)
    bins = np.arange(N_FFT // 2 + 1)[:, None]
    return torch.from_numpy((bins >= edges[:-1]) & (bins < edges[1:])).float()
