"""The bundled codec's fit in closed form: principal components, then residual k-means."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from silent2music import audio
from silent2music.bundled_codec import SILENCE_CODE, BundledCodec
from silent2music.config import CodecConfig
from silent2music.errors import AudioError, DataError
from silent2music.processes import FractionProgress

MIN_NORM = 0.05
"""Norm (about -90 dBFS) below which the weight of a vector in the fit no longer grows."""

QUIET_SHARE = 0.2
"""Share of the vectors that are scaled down before the fit, so that quiet passages of any music are coded well."""

QUIETEST_DB = -50.0
"""The lowest gain, in dB, that they are scaled by."""

KMEANS_BLOCK = 16_384
"""Vectors whose distances are computed at once, to bound memory."""


def fit_codec(
    files: Sequence[Path],
    config: CodecConfig,
    seed: int = 0,
    max_hours: float = 3.0,
    progress: FractionProgress | None = None,
    n_iterations: int = 12,
    max_vectors: int = 150_000,
) -> BundledCodec:
    """Fit the bundled codec in closed form.

    Args:
        files: music, any rate, any number of channels (mixed to one).
        config: of the codec; what is learned afterwards (`encoder_layers`, `decoder_layers`) is left out.
        seed: decides the order of the files, the vectors used and the start of k-means.
        max_vectors: codec frames that k-means is run on, at most.

    Returns:
        The codec, its tensors rounded as they are stored, so that a saved and loaded one codes alike.

    Raises:
        DataError: if no file can be read or they hold too little sound.
    """
    report = progress or (lambda stage, fraction: None)
    generator = torch.Generator().manual_seed(seed)
    config = replace(config, decoder_layers=0, encoder_layers=0)
    codec = BundledCodec(config)
    order = [files[i] for i in torch.randperm(len(files), generator=generator).tolist()]
    n_features = codec.components.shape[1]
    moment = torch.zeros(n_features, n_features, dtype=torch.float64)
    n_frames = 0
    for features in _features(codec, order, max_hours, lambda f: report("components", f)):
        moment += (features.T @ features).double()
        n_frames += len(features)
    n_needed = 2 * config.codebook_size
    if n_frames < n_needed:
        raise DataError(
            f"The files hold {n_frames} codec frames; expected at least {n_needed} "
            f"({n_needed / config.frame_rate:.0f} s of music): give more files."
        )
    codec.components.copy_(torch.linalg.eigh(moment).eigenvectors[:, -config.n_components :].flip(1).T)
    _round_to_stored(codec)
    kept = []
    for features in _features(codec, order, max_hours, lambda f: report("projection", f)):
        keep = torch.rand(len(features), generator=generator) < max_vectors / n_frames
        kept.append(features[keep] @ codec.components.T)
    vectors = _some_quieter(torch.cat(kept), config.power, generator)
    _fit_quantiser(codec, vectors, generator, n_iterations, report)
    _round_to_stored(codec)
    return codec


def _features(
    codec: BundledCodec, files: Sequence[Path], max_hours: float, report: Callable[[float], None]
) -> Iterator[Tensor]:
    """Features `[n, F]` of the readable files, up to the given amount of sound."""
    seconds = 0.0
    for i, file in enumerate(files):
        try:
            waveform = audio.read(file, mono=True).resampled(codec.sample_rate)
        except AudioError:
            continue
        for block in torch.split(torch.from_numpy(waveform.samples), 120 * codec.sample_rate, dim=1):
            yield codec.features(block)[0]
        seconds += waveform.seconds
        report(max((i + 1) / len(files), seconds / (3600.0 * max_hours)))
        if seconds >= 3600.0 * max_hours:
            return


def _some_quieter(vectors: Tensor, power: float, generator: torch.Generator) -> Tensor:
    """The vectors `[n, P]`, some of them as of a quieter sound: its gain, to the codec's power, is theirs."""
    draws = torch.rand(2, len(vectors), generator=generator)
    gain_db = torch.where(draws[0] < QUIET_SHARE, QUIETEST_DB * draws[1], torch.zeros(()))
    return vectors * torch.pow(10.0, power * gain_db / 20.0)[:, None]


def _fit_quantiser(
    codec: BundledCodec,
    vectors: Tensor,
    generator: torch.Generator,
    n_iterations: int,
    report: FractionProgress,
) -> None:
    """Residual k-means on vectors `[n, P]`, into the codec's codebooks and scales.

    The first codebook minimises the error relative to each vector's length; an entry's scale is the RMS length of its
    residuals, and the other codebooks are fitted to residuals divided by that scale.
    """
    books, size = codec.codebooks, codec.codebook_size
    weights = 1.0 / vectors.norm(dim=1).square().clamp(min=MIN_NORM**2)
    books[0] = kmeans(vectors, size, generator, n_iterations, weights)
    books[0, SILENCE_CODE] = 0.0
    report("codebooks", 1 / len(books))
    nearest = _nearest_centroid(vectors, books[0])
    residual = vectors - books[0][nearest]
    counts = torch.bincount(nearest, minlength=size)
    power = torch.zeros(size).index_add_(0, nearest, residual.square().sum(1))
    # Entries with too few vectors for an estimate take the share of their length that is usual.
    length = books[0].norm(dim=1)
    usual = (power.sum() / length[nearest].square().sum()).sqrt()
    codec.scales.copy_(torch.where(counts > 3, (power / counts.clamp(min=1)).sqrt(), usual * length))
    codec.scales[SILENCE_CODE] = 0.0
    heard = nearest != SILENCE_CODE
    residual = residual[heard] / codec.scales[nearest[heard]].clamp(min=1e-6)[:, None]
    for k in range(1, len(books)):
        books[k] = kmeans(residual, size, generator, n_iterations)
        residual = residual - books[k][_nearest_centroid(residual, books[k])]
        report("codebooks", (k + 1) / len(books))


def kmeans(
    vectors: Tensor,
    n_clusters: int,
    generator: torch.Generator,
    n_iterations: int,
    weights: Tensor | None = None,
) -> Tensor:
    """Lloyd's k-means; an entry left with fewer than three vectors moves to one that is coded badly.

    Args:
        vectors: `[n, P]`.
        n_clusters: V.
        weights: what an error in each vector costs, `[n]`; all alike without.

    Returns:
        Centroids `[V, P]`.
    """
    n_vectors = len(vectors)
    weights = torch.ones(n_vectors) if weights is None else weights
    centroids = vectors[torch.randint(n_vectors, (n_clusters,), generator=generator)].clone()
    energy = vectors.square().sum(1)
    for iteration in range(n_iterations):
        sums, mass = torch.zeros_like(centroids), torch.zeros(n_clusters)
        counts, errors = torch.zeros(n_clusters), torch.empty(n_vectors)
        for start in range(0, n_vectors, KMEANS_BLOCK):
            rows = slice(start, start + KMEANS_BLOCK)
            score, nearest = _scores(vectors[rows], centroids).max(1)
            errors[rows] = (energy[rows] - 2.0 * score).clamp(min=0.0)
            sums.index_add_(0, nearest, vectors[rows] * weights[rows, None])
            mass.index_add_(0, nearest, weights[rows])
            counts += torch.bincount(nearest, minlength=n_clusters)
        centroids = torch.where(mass[:, None] > 0, sums / mass.clamp(min=1e-12)[:, None], centroids)
        dead = (counts < 3).nonzero()[:, 0]
        if len(dead) and iteration + 1 < n_iterations:
            edges = ((errors * weights).double() + 1e-12).cumsum(0)
            draws = torch.rand(len(dead), generator=generator, dtype=torch.float64) * edges[-1]
            centroids[dead] = vectors[torch.searchsorted(edges, draws).clamp(max=n_vectors - 1)]
    return centroids


def _scores(vectors: Tensor, centroids: Tensor) -> Tensor:
    """Half of the energy that subtracting each centroid takes from each vector, `[n, V]`."""
    return vectors @ centroids.T - centroids.square().sum(1) / 2


def _nearest_centroid(vectors: Tensor, centroids: Tensor) -> Tensor:
    """Index of the nearest centroid for each vector, `[n]`."""
    return torch.cat([_scores(block, centroids).argmax(1) for block in torch.split(vectors, KMEANS_BLOCK)])


def _round_to_stored(codec: BundledCodec) -> None:
    """Bring the fitted tensors to what 16 bits on disk can hold."""
    for buffer in codec.buffers():
        buffer.copy_(buffer.half().float())
