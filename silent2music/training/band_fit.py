"""The fit of the band extension in closed form: levels above 12 kHz regressed on those below, as the codec gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from silent2music import audio
from silent2music.arrays import FloatArray
from silent2music.bandwidth import (
    CONTEXT,
    HOP,
    N_FFT,
    RATE,
    BandExtension,
    features,
    high_energies,
    lower_half,
)  # fmt: skip
from silent2music.codec import Codec
from silent2music.errors import AudioError, ConfigError, DataError
from silent2music.phase import stft
from silent2music.processes import FractionProgress

NONE_DBFS = -95.0
"""Energy of a band of 1 kHz below which the original has none: how much less does not matter."""

QUANTILE = 0.35
"""What is predicted of the possible levels: below the median, the more so the less the lower bands tell."""

RIDGE = 1e-3
"""Of the ridge regression, on features of variance 1."""

N_ROUNDS = 20
"""Of reweighting the regression."""

SOFTNESS = 0.3
"""Error in nepers of energy, below which the weight of a frame no longer grows."""

MAX_FRAMES = 300_000
"""That the regression is on; of more, half are dropped."""

MIN_FRAMES = 2_000


def fit_extension(
    files: Sequence[Path],
    codec: Codec,
    seed: int = 0,
    max_hours: float = 1.0,
    progress: FractionProgress | None = None,
) -> BandExtension:
    """Fit the extension of a codec's sound to 48 kHz.

    Args:
        files: music of 44.1 kHz or more (others are left out), any number of channels (mixed to one).
        codec: of 24 kHz; the regression is on the levels of its decoded sound, which is what it will meet.
        seed: decides the order of the files and which frames are used.

    Returns:
        The extension, its weights rounded as they are stored.

    Raises:
        ConfigError: if the codec has another rate or several channels.
        DataError: if no file can be used or they hold too little sound.
    """
    if codec.sample_rate != RATE or codec.channels != 1:
        raise ConfigError(
            f"The codec has {codec.channels} channels of {codec.sample_rate} Hz; the extension is for one of {RATE} Hz."
        )
    report = progress or (lambda stage, fraction: None)
    generator = torch.Generator().manual_seed(seed)
    order = [files[i] for i in torch.randperm(len(files), generator=generator).tolist()]
    rows: list[list[Tensor]] = []
    n_frames, share = 0, 1.0
    for sound in _music(order, max_hours, lambda fraction: report("levels", fraction)):
        found = regression_rows(sound, codec)
        rows.append(_thinned(found, share, generator))
        n_frames += len(rows[-1][0])
        if n_frames > MAX_FRAMES:
            share /= 2.0
            rows = [_thinned(row, 0.5, generator) for row in rows]
            n_frames = sum(len(row[0]) for row in rows)
    if n_frames < MIN_FRAMES:
        raise DataError(
            f"The files hold {n_frames} usable frames of music of 44.1 kHz or more; expected at least {MIN_FRAMES}: "
            "give more files, rendered by 's2m codec music --set data.sample_rate=48000'."
        )
    inputs, energies, surroundings = (torch.cat(column) for column in zip(*rows, strict=True))
    report("regression", 0.0)
    return BandExtension(fit_quantile(inputs, energies, surroundings).half().float())


def _thinned(columns: Sequence[Tensor], share: float, generator: torch.Generator) -> list[Tensor]:
    """A random share of the rows of some tensors of equal length."""
    chosen = torch.rand(len(columns[0]), generator=generator) < share
    return [column[chosen] for column in columns]


def _music(files: Sequence[Path], max_hours: float, report: Callable[[float], None]) -> Iterator[FloatArray]:
    """Samples `[N]` at 48 kHz of the usable files, up to the given amount of sound."""
    seconds = 0.0
    for i, file in enumerate(files):
        try:
            waveform = audio.read(file)
        except AudioError:
            continue
        if waveform.sample_rate < 44_100:
            continue
        yield waveform.mono().resampled(2 * RATE).samples[0]
        seconds += waveform.seconds
        report(max((i + 1) / len(files), seconds / (3600.0 * max_hours)))
        if seconds >= 3600.0 * max_hours:
            return


@torch.no_grad()
def regression_rows(samples: FloatArray, codec: Codec) -> tuple[Tensor, Tensor, Tensor]:
    """What the extension is fitted to, of samples `[N]` at 48 kHz, for the n frames that are not silent.

    Returns:
        Features `[n, F]` of the sound through the codec, energies `[n, H]` of the original's bands above 12 kHz, and
        those of the coded sound's surroundings `[n]`.
    """
    low = torch.from_numpy(lower_half(samples))
    decoded = codec.decode(codec.encode(low[None, None]))[0, 0, : len(low)]
    n_kept = len(low) // HOP * HOP
    power = stft(decoded[None, :n_kept], N_FFT, HOP).abs().square()
    original = torch.from_numpy(np.ascontiguousarray(samples[: 2 * n_kept]))[None]
    inputs, surroundings = features(functional.pad(power, (0, 0, CONTEXT, CONTEXT)))
    energies = high_energies(stft(original, 2 * N_FFT, 2 * HOP).abs().square())
    heard = surroundings[0, :, 0] > 10.0 ** (NONE_DBFS / 10.0)
    return inputs[0, heard], energies[0, heard], surroundings[0, heard, 0]


def fit_quantile(inputs: Tensor, energies: Tensor, surroundings: Tensor) -> Tensor:
    """Linear quantile regression of log energies by ridge regressions with changing weights, `[F + 1, H]`.

    An error above zero counts `QUANTILE` and one below `1 - QUANTILE` (Koenker and Bassett, Econometrica, 1978), each
    divided by its size of the round before, so that squares become absolute values. Where the original has none, any
    prediction below `NONE_DBFS` is right.

    Args:
        inputs: `[n, F]`.
        energies: `[n, H]`, of the bands to predict.
        surroundings: `[n]`, energies that these are relative to.
    """
    mean, deviation = inputs.mean(0), inputs.std(0).clamp(min=1e-3)
    design = torch.cat([(inputs - mean) / deviation, torch.ones(len(inputs), 1)], dim=1)
    ridge = torch.eye(design.shape[1]) * RIDGE * len(design)
    none = 10.0 ** (NONE_DBFS / 10.0)
    solved = []
    for energy in energies.T:
        below = energy <= none
        # A start below the floor, so that frames without anything do not hold the others down.
        wanted = (energy.clamp(min=0.1 * none) / surroundings).log()
        weights = torch.ones(len(design))
        for _ in range(N_ROUNDS):
            weighted = design * weights[:, None]
            found = torch.linalg.solve(weighted.T @ design + ridge, weighted.T @ wanted)
            wanted = (energy.clamp(min=none) / surroundings).log()
            error = wanted - design @ found
            side = torch.where(error > 0, QUANTILE, 1.0 - QUANTILE)
            weights = torch.where(below & (error > 0), 0.0, side / (error.abs() + SOFTNESS))
        solved.append(found)
    weights = torch.stack(solved, dim=1)
    slopes = weights[:-1] / deviation[:, None]
    return torch.cat([slopes, (weights[-1] - mean @ slopes)[None]])
