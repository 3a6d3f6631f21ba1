"""Fitting and training codecs: the closed form first, then the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from silent2music import audio
from silent2music.bundled_codec import SILENCE_CODE, BundledCodec, is_heard
from silent2music.config import CodecConfig
from silent2music.errors import AudioError, ConfigError, DataError

Progress = Callable[[str, float], None]
"""Called with the stage's name and the fraction of it done."""

MIN_NORM = 0.05
"""Vectors shorter than this (about -90 dBFS) count no more in the fit for being quieter still."""


QUIET_SHARE = 0.2
"""Share of the vectors that the fit also hears from farther away, so that a fade-out fades in any music."""

QUIETEST_DB = -50.0
"""By how much, at most."""

N_TURNS = 6
"""Of coding and fitting gains."""

N_SWEEPS = 2
"""Over all codebooks in each turn, since each one's entries depend on the others'."""

MIN_MASS = 0.3
"""Sum of weights from which on a mean says something."""


def fit_codec(
    files: Sequence[Path],
    config: CodecConfig,
    seed: int = 0,
    max_hours: float = 3.0,
    progress: Progress | None = None,
    n_iterations: int = 12,
    max_vectors: int = 150_000,
) -> BundledCodec:
    """Fit the bundled codec in closed form: principal components, then residual k-means.

    Of a codec with gains the core alone is fitted: `extend_codec` adds them when its correction has been learned.

    Args:
        files: music, any rate, any number of channels (mixed to one).
        config: of the codec.
        seed: decides the order of the files, the vectors used and the start of k-means.
        max_hours: stop reading after so much sound.
        progress: called with stage and fraction.
        n_iterations: of k-means, for each codebook.
        max_vectors: codec frames that k-means is run on, at most.

    Returns:
        The codec, its tensors rounded as they are stored, so that a saved and loaded one codes alike.

    Raises:
        DataError: if no file can be read or they hold too little sound.
    """
    report = progress or (lambda stage, fraction: None)
    generator = torch.Generator().manual_seed(seed)
    # What is learned comes later.
    config = replace(config, encoder_layers=0, decoder_layers=0, refiner_layers=0, gain_run=1)
    codec = BundledCodec(config)
    if config.gain_bands:
        # Gains are of what the core decodes to when it has learned that.
        config = replace(config, n_codebooks=config.n_core_codebooks, n_core_codebooks=0, gain_bands=0)
        codec = BundledCodec(config)
    order = [files[i] for i in torch.randperm(len(files), generator=generator).tolist()]
    n_features = codec.components.shape[1]
    moment = torch.zeros(n_features, n_features, dtype=torch.float64)
    n_frames = 0
    for features in _features(codec, order, max_hours, lambda f: report("components", f)):
        moment += (features.T @ features).double()
        n_frames += len(features)
    if n_frames < 2 * config.codebook_size:
        raise DataError(_too_little(n_frames, config))
    codec.components.copy_(torch.linalg.eigh(moment).eigenvectors[:, -config.n_components :].flip(1).T)
    _round(codec)
    kept = []
    for features in _features(codec, order, max_hours, lambda f: report("projection", f)):
        keep = torch.rand(len(features), generator=generator) < max_vectors / n_frames
        kept.append(features[keep] @ codec.components.T)
    vectors = torch.cat(kept)
    vectors = _some_farther_away(vectors, config.power, generator)
    fit_quantiser(codec, vectors, generator, n_iterations, report)
    _round(codec)
    return codec


def extend_codec(
    core: BundledCodec,
    files: Sequence[Path],
    n_codebooks: int,
    seed: int = 0,
    max_hours: float = 3.0,
    progress: Progress | None = None,
    n_iterations: int = 12,
    max_vectors: int = 150_000,
    gain_bands: int = 0,
    gain_emphasis: float = 0.0,
    gain_run: int = 1,
) -> BundledCodec:
    """Give a codec more codebooks, fitted to what its own leave; these become the core, and their codes stay.

    With `gain_bands` they are fitted to the gains that the core's sound still needs in so many bands, its learned
    correction included.

    Args:
        core: the codec; if it has a core already, that stays the core.
        files, seed, max_hours, progress, n_iterations, max_vectors: as for `fit_codec`.
        n_codebooks: how many the result has.
        gain_bands: bands of an STFT frame whose gains the new codebooks hold; 0 for vectors as the core's.
        gain_emphasis: how much more the gains of loud bands count, see `CodecConfig`.
        gain_run: codec frames through which gains are predicted from frame to frame; 1 for none.

    Returns:
        The codec with the new codebooks. Without gains its decoder's correction is left out, being of other
        codebooks; with them it stays, and codebooks after a core that the codec has already are replaced.

    Raises:
        ConfigError: if the codec has as many codebooks already, or codebooks of vectors would follow gains.
        DataError: if the files hold too little sound.
    """
    n_core = (core.config.n_core_codebooks if gain_bands else 0) or core.n_codebooks
    if n_codebooks <= n_core:
        raise ConfigError(f"The codec has {n_core} codebooks already; expected more, not {n_codebooks}.")
    if core.config.gain_bands and not gain_bands:
        raise ConfigError("The codec has codebooks of gains; replace them, with codec.gain_bands above 0.")
    report = progress or (lambda stage, fraction: None)
    generator = torch.Generator().manual_seed(seed)
    codec = _with_room(core, n_core, n_codebooks, gain_bands, gain_emphasis, gain_run)
    order = [files[i] for i in torch.randperm(len(files), generator=generator).tolist()]
    find = _lacking_gains if gain_bands else _projected
    kept = [
        find(codec, features)
        for features in _features(codec, order, max_hours, lambda f: report("projection", f))
    ]
    found = torch.cat(kept) if kept else torch.zeros(0, codec.config.n_components)
    n_each = gain_run if gain_bands else 1
    found = found[torch.randperm(len(found), generator=generator)[: max(1, max_vectors // n_each)]]
    n_frames = int(is_heard(found[:, :, 2]).sum()) if gain_bands and kept else len(found)
    if n_frames < 2 * codec.codebook_size:
        raise DataError(_too_little(n_frames, codec.config))
    if gain_bands:
        _fit_gains(codec, found, generator, n_iterations, report)
    else:
        vectors = _some_farther_away(found, codec.config.power, generator)
        codes = core.quantise(vectors[None])[0]
        scale = codec.scales[codes[:, 0]]
        heard = scale > 0.0
        vectors = (vectors - core.vectors(codes.T[None])[0])[heard] / scale[heard, None]
        _fit_residual(codec, n_core, vectors, generator, n_iterations, report)
    _round(codec)
    return codec


def _with_room(
    core: BundledCodec, n_core: int, n_codebooks: int, gain_bands: int, gain_emphasis: float, gain_run: int
) -> BundledCodec:
    """The codec with the first codebooks alone and room for others; with its learned correction if they hold gains."""
    config = replace(
        core.config,
        n_codebooks=n_codebooks,
        n_core_codebooks=core.config.n_core_codebooks or n_core,
        gain_bands=gain_bands,
        gain_emphasis=gain_emphasis,
        gain_run=gain_run if gain_bands else 1,
        decoder_layers=core.config.decoder_layers if gain_bands else 0,
        refiner_layers=0,
    )
    codec = BundledCodec(config)
    own = codec.state_dict()
    known = core.state_dict() if gain_bands else core.closed_form()
    known["codebooks"] = torch.cat([core.codebooks[:n_core], codec.codebooks[n_core:]])
    if codec.decoder is not None:
        # What is learned of codebooks that are no more has no use.
        room = torch.zeros(n_codebooks, config.correction_dim)
        room[:n_core] = known["decoder.known.weight"][:n_core]
        known["decoder.known.weight"] = room
    known = {k: v for k, v in known.items() if k in own}
    if codec.config.gain_run > 1:
        known["prediction"] = own["prediction"]
    codec.load_state_dict(known)
    return codec


def _projected(codec: BundledCodec, features: Tensor) -> Tensor:
    """Vectors `[n, P]` of features `[n, F]`, as encoding quantises them."""
    return codec.projected(features[None])[0]


def _lacking_gains(codec: BundledCodec, features: Tensor) -> Tensor:
    """Runs of gains that the sound of the core needs to be as features `[T, F]`, with what else coding them takes.

    `[n, gain_run, 3, frames_per_code * G]`: gains, what they count, levels, as `BundledCodec.wanted_gains` gives them.
    """
    codes = codec.quantise(_projected(codec, features)[None]).transpose(1, 2)
    run = codec.config.gain_run
    n_runs = len(features) // run
    found = torch.stack(codec.wanted_gains(features[None], codes), dim=2)[0, : n_runs * run]
    return found.reshape(n_runs, run, *found.shape[1:])


def _fit_gains(
    codec: BundledCodec, runs: Tensor, generator: torch.Generator, n_iterations: int, report: Progress
) -> None:
    """Codebooks of gains and their prediction from runs `[n, gain_run, 3, frames_per_code * G]`.

    Residual k-means on whole gains starts them and, where gains are predicted, once more on what the first prediction
    leaves. Then coding and fitting take turns: what is predicted depends on what was coded before, an entry is best
    by what the other codebooks leave of the frames that chose it, and paths are chosen by all together.
    """
    gains, counts, levels = runs.unbind(2)
    heard = is_heard(levels)[..., 0]
    wanted, weights = gains[heard], counts[heard]
    first = codec.n_vector_codebooks
    _fit_residual(codec, first, wanted, generator, n_iterations, report, weights)
    if codec.config.gain_run > 1:
        _, grounds = _searched(codec, runs, heard)
        codec.prediction.copy_(_least_squares(grounds, wanted, weights))
        rest = wanted - (codec.prediction * grounds).sum(1)
        _fit_residual(codec, first, rest, generator, n_iterations, report, weights)
    for turn in range(N_TURNS):
        codes, grounds = _searched(codec, runs, heard)
        entries = _settle_entries(codec, codes, wanted, grounds, weights)
        if codec.config.gain_run > 1:
            codec.prediction.copy_(_least_squares(grounds, wanted - entries, weights))
        report("turns", (turn + 1) / N_TURNS)


def _searched(codec: BundledCodec, runs: Tensor, heard: Tensor) -> tuple[Tensor, Tensor]:
    """Codes `[m, K]` of the frames that are heard, `heard` `[n, gain_run]`, and what their predictions are made of."""
    found = []
    for part in torch.split(runs, 1024):
        gains, counts, levels = part.unbind(2)
        found.append(codec.search_gains(gains, counts, levels))
    codes, grounds = (torch.cat(each)[heard] for each in zip(*found, strict=True))
    return codes, grounds


def _settle_entries(
    codec: BundledCodec, codes: Tensor, wanted: Tensor, grounds: Tensor, weights: Tensor
) -> Tensor:
    """Move every entry to the mean of what the others leave where it was chosen; what codes `[m, K]` now add up to.

    Args:
        codec: whose codebooks of gains are changed.
        codes: of m frames, by these codebooks.
        wanted, weights: gains and what they count, `[m, frames_per_code * G]`.
        grounds: of their predictions, `[m, 2, frames_per_code * G]`.
    """
    books = [book[:, : wanted.shape[1]] for book in codec.codebooks[codec.n_vector_codebooks :]]
    predicted = (codec.prediction * grounds).sum(1) if codec.config.gain_run > 1 else torch.zeros_like(wanted)
    error = wanted - predicted - torch.stack([b[c] for b, c in zip(books, codes.T, strict=True)]).sum(0)
    for book, chosen in [*zip(books, codes.T, strict=True)] * N_SWEEPS:
        left = error + book[chosen]
        mass = torch.zeros_like(book).index_add_(0, chosen, weights)
        sums = torch.zeros_like(book).index_add_(0, chosen, weights * left)
        # An entry that was hardly chosen stays where it is.
        book.copy_(torch.where(mass > MIN_MASS, sums / mass.clamp(min=MIN_MASS), book))
        error = left - book[chosen]
    return wanted - predicted - error


def _least_squares(grounds: Tensor, wanted: Tensor, counts: Tensor) -> Tensor:
    """`[k, P]` by which grounds `[n, k, P]` come nearest to what is wanted, `[n, P]`, each place on its own."""
    products = torch.einsum("np,nip,njp->pij", counts, grounds, grounds)
    # A place with next to nothing to learn from takes next to nothing.
    products = products + 1e-3 * products.mean(0, keepdim=True)
    found: Tensor = torch.linalg.solve(products, torch.einsum("np,nip,np->pi", counts, grounds, wanted))
    return found.T


def fit_quantiser(
    codec: BundledCodec, vectors: Tensor, generator: torch.Generator, n_iterations: int, report: Progress
) -> None:
    """Residual k-means on vectors `[n, P]`, into the codec's codebooks and scales.

    The first book minimises the error relative to each vector's own length; an entry's scale is the RMS length
    of what it leaves, and the other books are fitted to what is left in that scale.
    """
    books, size = codec.codebooks, codec.codebook_size
    norm = vectors.norm(dim=1)
    weights = 1.0 / norm.square().clamp(min=MIN_NORM**2)
    books[0] = kmeans(vectors, size, generator, n_iterations, weights)
    books[0, SILENCE_CODE] = 0.0
    report("codebooks", 1 / len(books))
    nearest = _nearest(vectors, books[0])
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
    _fit_residual(codec, 1, residual, generator, n_iterations, report)


def _fit_residual(
    codec: BundledCodec,
    first: int,
    residual: Tensor,
    generator: torch.Generator,
    n_iterations: int,
    report: Progress,
    weights: Tensor | None = None,
) -> None:
    """K-means for each codebook from `first` on, on what those before leave, `[n, P]` in its scale."""
    books = codec.codebooks
    for k in range(first, len(books)):
        found = kmeans(residual, codec.codebook_size, generator, n_iterations, weights)
        books[k, :, : found.shape[1]] = found
        residual = residual - found[_nearest(residual, found, weights)]
        report("codebooks", (k + 1) / len(books))


def _some_farther_away(vectors: Tensor, power: float, generator: torch.Generator) -> Tensor:
    """The vectors `[n, P]`, some of them as of a quieter sound: a gain on it is one on them, to the same power."""
    draws = torch.rand(2, len(vectors), generator=generator)
    gain_db = torch.where(draws[0] < QUIET_SHARE, QUIETEST_DB * draws[1], torch.zeros(()))
    return vectors * torch.pow(10.0, power * gain_db / 20.0)[:, None]


def _too_little(n_frames: int, config: CodecConfig) -> str:
    """The sentence that refuses too little music."""
    n_needed = 2 * config.codebook_size
    return (
        f"The files hold {n_frames} codec frames; expected at least {n_needed} "
        f"({n_needed / config.frame_rate:.0f} s of music): give more files."
    )


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
        generator: draws the start and the replacements.
        n_iterations: passes.
        weights: what an error in each vector costs, `[n]`, or in each of its places, `[n, P]`; all alike without.

    Returns:
        Centroids `[V, P]`.
    """
    n_vectors = len(vectors)
    weights = torch.ones(n_vectors) if weights is None else weights
    by_place = weights if weights.ndim == 2 else None
    centroids = vectors[torch.randint(n_vectors, (n_clusters,), generator=generator)].clone()
    energy = (vectors.square() if by_place is None else by_place * vectors.square()).sum(1)
    for iteration in range(n_iterations):
        sums, mass = torch.zeros_like(centroids), torch.zeros(n_clusters, *weights.shape[1:])
        counts, errors = torch.zeros(n_clusters), torch.empty(n_vectors)
        for start in range(0, n_vectors, 16_384):
            rows = slice(start, start + 16_384)
            part = weights[rows] if by_place is not None else weights[rows, None]
            score, nearest = _scores(vectors[rows], centroids, None if by_place is None else part).max(1)
            errors[rows] = (energy[rows] - 2.0 * score).clamp(min=0.0)
            sums.index_add_(0, nearest, vectors[rows] * part)
            mass.index_add_(0, nearest, weights[rows])
            counts += torch.bincount(nearest, minlength=n_clusters)
        shared = mass if by_place is not None else mass[:, None]
        centroids = torch.where(shared > 0, sums / shared.clamp(min=1e-12), centroids)
        dead = (counts < 3).nonzero()[:, 0]
        if len(dead) and iteration + 1 < n_iterations:
            cost = (errors if by_place is not None else errors * weights).double() + 1e-12
            edges = cost.cumsum(0)
            draws = torch.rand(len(dead), generator=generator, dtype=torch.float64) * edges[-1]
            centroids[dead] = vectors[torch.searchsorted(edges, draws).clamp(max=n_vectors - 1)]
    return centroids


def _scores(vectors: Tensor, centroids: Tensor, weights: Tensor | None) -> Tensor:
    """`[n, V]`, half of what each centroid takes from a vector's (weighted) energy."""
    if weights is None:
        return vectors @ centroids.T - centroids.square().sum(1) / 2
    return (weights * vectors) @ centroids.T - weights @ centroids.square().T / 2


def _nearest(vectors: Tensor, centroids: Tensor, weights: Tensor | None = None) -> Tensor:
    """Index of the nearest centroid for each vector, `[n]`; weights as of `kmeans`, but by place."""
    blocks = (slice(i, i + 16_384) for i in range(0, len(vectors), 16_384))
    return torch.cat(
        [_scores(vectors[b], centroids, None if weights is None else weights[b]).argmax(1) for b in blocks]
    )


def _features(
    codec: BundledCodec, files: Sequence[Path], max_hours: float, report: Callable[[float], None]
) -> Iterator[Tensor]:
    """Features `[n, F]` of the readable files, up to the given amount of sound."""
    seconds = 0.0
    for i, file in enumerate(files):
        try:
            waveform = audio.read(file).mono().resampled(codec.sample_rate)
        except AudioError:
            continue
        samples, n_block = torch.from_numpy(waveform.samples), 120 * codec.sample_rate
        for start in range(0, waveform.n_samples, n_block):
            yield codec.features(samples[:, start : start + n_block])[0]
        seconds += waveform.seconds
        report(max((i + 1) / len(files), seconds / (3600.0 * max_hours)))
        if seconds >= 3600.0 * max_hours:
            return


def _round(codec: BundledCodec) -> None:
    """Bring the tensors to what 16 bits on disk can hold."""
    stored = codec.closed_form()  # not what is derived from the settings, which loading derives again in full
    for name, buffer in codec.named_buffers():
        if name in stored:
            buffer.copy_(buffer.half().float())
