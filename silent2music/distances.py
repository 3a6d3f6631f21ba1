"""Differentiable distances between sounds, on short-time magnitudes, for training and comparing codecs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from silent2music.filters import mel_filters

MEL_SCALES = ((512, 32), (1024, 64), (2048, 80), (4096, 128))
"""Window in samples and number of mel bands of each scale; the hop is a quarter of the window."""

STFT_SCALES = (512, 1024, 2048)
"""Windows of the distance `stft`, in samples; `MEL_SCALES` has them too."""

PITCH_SCALES = (4096, 8192)
"""Windows of the distance `pitch`, in samples at 24 kHz: a third of a semitone is resolved from 320 and 160 Hz on."""

PITCH_HZ, PITCH_BANDS = (60.0, 4000.0), 218
"""Lowest and highest centre of the bands of `pitch`, spaced by a third of a semitone."""

SOUND_DISTANCES = ("mel", "slope", "stft", "pitch", "level", "roughness")
"""What `sound_distances` knows."""

MEL_FLOOR = 1e-4
"""Of a magnitude in which a sine of amplitude 1 is about 1: -80 dBFS."""


@lru_cache(maxsize=16)
def _mel_bands(n_fft: int, n_mels: int, sample_rate: int) -> Tensor:
    """`filters.mel_filters` of peak 1 from 0 Hz to Nyquist, `[n_mels, n_fft / 2 + 1]`."""
    return torch.from_numpy(mel_filters(sample_rate, n_fft, n_mels)).float()


@lru_cache(maxsize=8)
def _pitch_bands(n_fft: int, sample_rate: int) -> Tensor:
    """Triangular bands `[PITCH_BANDS, n_fft / 2 + 1]` of `PITCH_HZ`, at least two bins to each side."""
    lowest, highest = (math.log10(hz) for hz in PITCH_HZ)
    centres = torch.logspace(lowest, highest, PITCH_BANDS)[:, None]
    bin_hz = sample_rate / n_fft
    half_width = (centres * (2.0 ** (1.0 / 36.0) - 1.0)).clamp(min=2.0 * bin_hz)
    away = (torch.arange(n_fft // 2 + 1) * bin_hz - centres).abs()
    bands: Tensor = (1.0 - away / half_width).clamp(min=0.0)
    return bands


def spectrum(audio: Tensor, n_fft: int) -> Tensor:
    """STFT magnitudes `[B, n_fft / 2 + 1, L]` of samples `[B, N]`; a sine of amplitude 1 has magnitude 1 at its bin."""
    window: Tensor = torch.hann_window(n_fft, device=audio.device)
    result = torch.stft(audio, n_fft, n_fft // 4, window=window, pad_mode="constant", return_complex=True)
    # The root of the sum of squares has a gradient at zero, which the absolute value has not.
    power = torch.view_as_real(result).square().sum(-1)
    return (power + 1e-14).sqrt() * (4.0 / n_fft)


def log_mel_distance(reference: Tensor, estimate: Tensor, sample_rate: int, above_hz: float = 0.0) -> Tensor:
    """Mean absolute difference of natural log-mel magnitudes over `MEL_SCALES`, floored at `MEL_FLOOR`.

    Args:
        reference, estimate: samples `[B, N]`.
        sample_rate: in Hz.
        above_hz: only bands whose lower edge is at this frequency or above count.

    Returns:
        `[B]`; 0 for the same sound.

    Example:
        >>> sound = torch.sin(torch.arange(8000) * 0.1)[None]
        >>> round(float(log_mel_distance(sound, sound, 24000)), 6)
        0.0
    """
    wanted, got = _spectra(reference), _spectra(estimate)
    parts = []
    for n_fft, n_mels in MEL_SCALES:
        # Bins below the frequency have no weight in the bands that count.
        below = _mel_bands(n_fft, n_mels, sample_rate)[:, : math.ceil(above_hz * n_fft / sample_rate)]
        error = _log_mel_error(wanted[n_fft], got[n_fft], n_mels, sample_rate)
        parts.append(error[:, (below == 0.0).all(1)].abs().mean((1, 2)))
    return torch.stack(parts).mean(0)


def _spectra(audio: Tensor) -> dict[int, Tensor]:
    """By window in samples, at all of `MEL_SCALES`."""
    return {n_fft: spectrum(audio, n_fft) for n_fft, _ in MEL_SCALES}


def _log_mel_error(reference: Tensor, estimate: Tensor, n_mels: int, sample_rate: int) -> Tensor:
    """By how much the natural log-mel magnitudes `[B, n_mels, L]` of magnitudes `[B, F, L]` differ."""
    filters = _mel_bands(2 * (reference.shape[1] - 1), n_mels, sample_rate).to(reference.device)
    levels = [(filters @ x).clamp(min=MEL_FLOOR).log() for x in (reference, estimate)]
    return levels[1] - levels[0]


def _mean_error(errors: Sequence[Tensor]) -> Tensor:
    """Mean absolute value over some scales, each counting alike."""
    return torch.stack([error.abs().mean() for error in errors]).mean()


def sound_distances(
    reference: Tensor, estimate: Tensor, sample_rate: int, names: Sequence[str] = SOUND_DISTANCES
) -> dict[str, Tensor]:
    """Several distances between sounds, by name, each a mean over the batch.

    Args:
        reference, estimate: samples `[B, N]`.
        sample_rate: in Hz.

    Returns:
        `mel`, that of `log_mel_distance`; `slope`, the mean absolute change of its errors from frame to frame at each
        scale, which attacks and roughness determine; `stft`, the mean absolute difference of magnitudes to the power 0.4
        over `STFT_SCALES`; `pitch`, that of `pitch_distance`; `level`, that of `level_distance`; `roughness`, that of
        `added_roughness`.
    """
    wanted, got = _spectra(reference), _spectra(estimate)
    errors = [_log_mel_error(wanted[n], got[n], n_mels, sample_rate) for n, n_mels in MEL_SCALES]
    distances = {
        "mel": lambda: _mean_error(errors),
        "slope": lambda: _mean_error([error.diff(dim=2) for error in errors]),
        "stft": lambda: _mean_error([wanted[n].pow(0.4) - got[n].pow(0.4) for n in STFT_SCALES]),
        "pitch": lambda: pitch_distance(reference, estimate, sample_rate).mean(),
        "level": lambda: level_distance(wanted[2048], got[2048], sample_rate).mean(),
        "roughness": lambda: added_roughness(reference, estimate, sample_rate).mean(),
    }
    return {name: distances[name]() for name in names}


def pitch_distance(reference: Tensor, estimate: Tensor, sample_rate: int) -> Tensor:
    """One minus the cosine of spectra in bands of a third of a semitone, which tell pitches apart as chroma does.

    The windows of the other distances are too short to tell neighbouring pitches below middle C apart.

    Args:
        reference, estimate: samples `[B, N]`, best 3 s or more.
        sample_rate: in Hz.

    Returns:
        `[B]`, 0 to 1: mean over the frames in which the reference is within 40 dB of its loudest, and over
        `PITCH_SCALES`. The root of the bands' magnitudes is compared, so that quieter notes of a chord count.
    """
    parts = []
    for n_samples in PITCH_SCALES:
        n_fft = 2 ** round(math.log2(n_samples * sample_rate / 24_000))
        bands = _pitch_bands(n_fft, sample_rate).to(reference.device)
        levels = [bands @ spectrum(audio, n_fft) for audio in (reference, estimate)]
        whole = levels[0].norm(dim=1)
        heard = (whole > 0.01 * whole.amax(1, keepdim=True)) & (whole > MEL_FLOOR)
        roots = [(x + 1e-6).sqrt() for x in levels]
        cosine = functional.cosine_similarity(roots[0], roots[1], dim=1)
        parts.append(((1.0 - cosine) * heard).sum(1) / heard.sum(1).clamp(min=1))
    return torch.stack(parts).mean(0)


def added_roughness(reference: Tensor, estimate: Tensor, sample_rate: int) -> Tensor:
    """How much more fast amplitude modulation (15 Hz and above) a sound has than the reference, relative to its level.

    The envelopes of bands about 190 Hz wide are modulated this fast where partials beat, in attacks, and where errors of
    magnitude or phase change from frame to frame, which makes held notes rough. The amount is compared, not the moment;
    modulation that is missing costs nothing here, since other distances measure it.

    Args:
        reference, estimate: samples `[B, N]`.
        sample_rate: in Hz.

    Returns:
        `[B]`, mean of what is added to the RMS of modulation over a third of a second, over the bands and moments in
        which the reference is within 40 dB of its loudest.
    """
    n_fft = 2 ** round(math.log2(sample_rate / 94.0))
    window = torch.hann_window(n_fft, device=reference.device)
    hop = max(1, sample_rate // 500)
    levels, amounts = [], []
    for audio in (reference, estimate):
        found = torch.stft(audio, n_fft, hop, window=window, pad_mode="constant", return_complex=True)
        envelope = (torch.view_as_real(found).square().sum(-1) + 1e-10).sqrt()
        around = _running_mean(envelope, 0.32 * sample_rate / hop)
        # What is left by a mean over a period of 15 Hz.
        fast = envelope - _running_mean(envelope, sample_rate / hop / 15.0)
        power = _running_mean(fast.square(), 0.32 * sample_rate / hop).clamp(min=0.0)
        levels.append(around)
        amounts.append((power + 1e-14).sqrt() / around.clamp(min=1e-5))
    heard = levels[0] > 0.01 * levels[0].amax((1, 2), keepdim=True)
    added = (amounts[1] - amounts[0]).clamp(0.0, 1.0) * heard
    return added.sum((1, 2)) / heard.sum((1, 2)).clamp(min=1)


def _running_mean(rows: Tensor, length: float) -> Tensor:
    """Of `[B, F, L]` along its last axis, over so many values about each; fewer at the ends."""
    half, n = int(length) // 2, rows.shape[-1]
    sums = functional.pad(rows.cumsum(-1), (1, 0))
    first = (torch.arange(n, device=rows.device) - half).clamp(min=0)
    last = (torch.arange(n, device=rows.device) + half + 1).clamp(max=n)
    return (sums[..., last] - sums[..., first]) / (last - first)


def level_distance(reference: Tensor, estimate: Tensor, sample_rate: int) -> Tensor:
    """Mean absolute difference of natural log levels over a whole crop, of the full band and of mel bands.

    The mean absolute difference of logarithms frame by frame is smallest at medians. These have less energy than values
    that vary about them, so minimising it alone gives sound that is too quiet. Energy over a crop has hardly such a bias.

    Args:
        reference, estimate: magnitudes `[B, n_fft / 2 + 1, L]`.
        sample_rate: in Hz.

    Returns:
        `[B]`, half by the energy of the full band and half by that of each of 32 bands, floored at `MEL_FLOOR`.
    """
    n_bins = reference.shape[1]
    bands = _mel_bands(2 * (n_bins - 1), 32, sample_rate).to(reference.device)
    energies = [x.square().mean(2) for x in (reference, estimate)]
    difference = torch.zeros((), device=reference.device)
    for filters in (bands, bands.new_ones(1, n_bins)):
        levels = [0.5 * (x @ filters.T).clamp(min=MEL_FLOOR**2).log() for x in energies]
        difference = difference + 0.5 * (levels[1] - levels[0]).abs().mean(1)
    return difference


def magnitude_distances(
    reference: Tensor, estimate: Tensor, power: float, sample_rate: int
) -> dict[str, Tensor]:
    """The distances of `sound_distances`, but of compressed magnitudes of one window, without decoding to sound.

    Args:
        reference, estimate: `[B, L, n_fft / 2 + 1]`, magnitudes to the power given, 0 or more.
        sample_rate: in Hz.

    Returns:
        `mel`, the mean absolute difference of natural log-mel magnitudes at two resolutions, floored at
        `MEL_FLOOR`; `slope`, that of their changes from frame to frame; `stft`, that of the compressed magnitudes
        over their mean; `level`, that of `level_distance`.
    """
    # A power above 1 has no slope at zero, from which nothing could be learned.
    plain = [x.add(1e-6).pow(1.0 / power).mT for x in (reference, estimate)]
    errors = [_log_mel_error(plain[0], plain[1], n_mels, sample_rate) for n_mels in (40, 128)]
    return {
        "mel": _mean_error(errors),
        "slope": _mean_error([error.diff(dim=2) for error in errors]),
        "stft": (reference - estimate).abs().mean() / reference.mean().clamp(min=1e-6),
        "level": level_distance(plain[0], plain[1], sample_rate).mean(),
    }
