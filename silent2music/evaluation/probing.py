"""What takes the model itself: its music for a room and for none, its likelihood, drift, diversity, tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from silent2music.audio import Waveform
from silent2music.config import SamplingConfig
from silent2music.data.pairs import Pair, load_pair
from silent2music.evaluation import metrics, originality
from silent2music.evaluation.features import describe
from silent2music.evaluation.pieces import (
    EvalConfig,
    Item,
    Piece,
    Progress,
    first_seconds,
    inspect,
    inspect_all,
)
from silent2music.evaluation.tables import GROUP, plain_interval
from silent2music.model import Silent2Music

FloatArray = NDArray[np.float64]
Codes = NDArray[np.int64]
Report = dict[str, Any]

LIKELIHOOD_SECONDS = 8.0
LONG_SECONDS = 120.0
DIVERSITY_SECONDS = 10.0


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: its steps are too small to share, and the figures must not depend on the cores."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def generated(
    model: Silent2Music, items: Sequence[Item], sampling: SamplingConfig, config: EvalConfig, tell: Progress
) -> tuple[dict[str, list[Piece | None]], list[Codes]]:
    """The model's music for the true room and for none, partners sharing a seed; and first-codebook tokens."""
    every = range(len(items))
    music = _music(model, items, every, sampling, config, tell)
    if config.quick:
        return {"model": [*inspect_all(music, "pieces", config, tell)]}, []
    # Without a room, partners get the same piece: the first of each is enough.
    dropped = _music(model, items, every[::2], sampling, config, tell, drop_room=True)
    tokens = [encoded(model, piece)[0] for piece in music]
    unheard = inspect_all(dropped, "pieces without a room", config, tell)
    pieces: dict[str, list[Piece | None]] = {
        "model": [*inspect_all(music, "pieces", config, tell)],
        "dropped": [unheard[i // 2] for i in every],
    }
    return pieces, tokens


def _music(
    model: Silent2Music,
    items: Sequence[Item],
    wanted: Sequence[int],
    sampling: SamplingConfig,
    config: EvalConfig,
    tell: Progress,
    drop_room: bool = False,
) -> list[Waveform]:
    """The model's music for some of the items, in batches."""
    made: list[Waveform] = []
    for start in range(0, len(wanted), config.batch_size):
        batch = wanted[start : start + config.batch_size]
        seeds = [config.seed + i // 2 for i in batch]
        made += model.generate_batch([items[i].room for i in batch], sampling, seeds, drop_room=drop_room)
        tell("music without a room" if drop_room else "music", len(made), len(wanted))
    return made


def through_codec(
    model: Silent2Music, reals: Sequence[Waveform], config: EvalConfig, tell: Progress
) -> tuple[list[Piece | None], list[Codes]]:
    """Real music after the codec, the ceiling of any model on it; and its codes `[K, T]`."""
    codes = [encoded(model, music) for music in reals]
    decoded = []
    for music, own in zip(reals, codes, strict=True):
        with torch.inference_mode():
            samples = model.codec.decode(torch.from_numpy(own)[None])[0].cpu().numpy()
        n_samples = round(music.seconds * model.codec.sample_rate)
        decoded.append(Waveform(np.clip(samples[:, :n_samples], -1.0, 1.0), model.codec.sample_rate))
    return [*inspect_all(decoded, "codec", config, tell)], codes


def encoded(model: Silent2Music, music: Waveform) -> Codes:
    """Codes `[K, T]` of the codebooks that the model writes."""
    samples = music.mono().resampled(model.codec.sample_rate).samples
    samples = np.repeat(samples, model.codec.channels, axis=0)
    with torch.inference_mode():
        codes = model.codec.encode(torch.from_numpy(samples)[None])[0, : model.config.decoder.n_codebooks]
    return np.asarray(codes.cpu().numpy(), np.int64)


def likelihood(
    model: Silent2Music,
    items: Sequence[Item],
    codes: Sequence[Codes],
    config: EvalConfig,
    tell: Progress,
) -> Report:
    """The model as judge: rank of the true room among up to 32 by the teacher-forced loss of the real music.

    The first `LIKELIHOOD_SECONDS` of each pair count, in nats a token; `shuffled` is the mean over the others.
    """
    n_frames = int(min(LIKELIHOOD_SECONDS * model.codec.frame_rate, *(c.shape[1] for c in codes)))
    order = np.random.default_rng(config.seed).permutation(len(items))[: config.n_likelihood]
    found: list[FloatArray] = []
    losses: dict[str, list[float]] = {"true": [], "shuffled": [], "dropped": []}
    done = 0
    for chosen in np.array_split(order, max(1, len(order) // GROUP)):
        features = [model.features(items[i].room) for i in chosen]
        frames = torch.stack([torch.from_numpy(f.frames[:n_frames]) for f in features])
        scalars = torch.stack([torch.from_numpy(f.scalars) for f in features])
        mask = torch.ones(len(chosen), n_frames, dtype=torch.bool)
        with torch.inference_mode():
            conditioning = model.condition(frames, scalars, mask)
            null = model.null(conditioning)
            matrix = []
            for i in chosen:
                own = torch.from_numpy(codes[i][:, :n_frames])[None].expand(len(chosen), -1, -1)
                matrix.append(model.token_nll(own, mask, conditioning).mean(dim=1).double().numpy())
                done += 1
                tell("likelihood", done, len(order))
            own = torch.stack([torch.from_numpy(codes[i][:, :n_frames]) for i in chosen])
            losses["dropped"] += model.token_nll(own, mask, null).mean(dim=1).double().tolist()
        loss = np.array(matrix)
        found.append(metrics.ranks(-loss))
        losses["true"] += np.diagonal(loss).tolist()
        others = (loss.sum(axis=1) - np.diagonal(loss)) / max(1, len(chosen) - 1)
        losses["shuffled"] += others.tolist()
    ranks = np.concatenate(found)
    values = {name: np.array(v) for name, v in losses.items()}
    return {
        "among": len(found[0]),
        "recall_at_1": plain_interval(metrics.bootstrap_mean((ranks <= 1.0).astype(np.float64), config.seed)),
        "mean_reciprocal_rank": float((1.0 / ranks).mean()),
        "chance_recall_at_1": 1.0 / len(found[0]),
        "loss": {name: float(v.mean()) for name, v in values.items()},
        "shuffled - true": plain_interval(
            metrics.paired_difference(values["shuffled"], values["true"], config.seed)
        ),
        "dropped - true": plain_interval(
            metrics.paired_difference(values["dropped"], values["true"], config.seed)
        ),
    }


def token_runs(
    model: Silent2Music,
    folder: Path,
    training: Sequence[Pair],
    tokens: Mapping[str, Sequence[Codes]],
    config: EvalConfig,
    tell: Progress,
) -> Report:
    """Longest run of first-codebook tokens that stands in the training music too, of every piece."""
    rows = []
    for i, pair in enumerate(training):
        rows.append(encoded(model, first_seconds(load_pair(folder, pair)[1], config.seconds))[0])
        tell("training tokens", i + 1, len(training))
    if not rows:
        return {}
    runs = {
        name: [originality.longest_shared_run(own, rows) for own in those] for name, those in tokens.items()
    }
    return {**runs, "frame_rate": model.codec.frame_rate}


def drift(
    model: Silent2Music, items: Sequence[Item], sampling: SamplingConfig, config: EvalConfig, tell: Progress
) -> Report:
    """What becomes of a piece of two minutes: figures of each quarter, and last over first."""
    chosen = np.unique(np.linspace(0, len(items) - 1, min(config.n_long, len(items))).astype(int))
    if not chosen.size or config.n_long < 1:
        return {}
    tell("long pieces", 0, 1)
    music = model.generate_batch(
        [items[i].room for i in chosen],
        sampling,
        [config.seed + int(i) for i in chosen],
        seconds=LONG_SECONDS,
    )
    quarters = []
    for piece in music:
        size = piece.n_samples // 4
        parts = [Waveform(piece.samples[:, k * size : (k + 1) * size], piece.sample_rate) for k in range(4)]
        quarters.append([inspect(part).faults for part in parts])
    tell("long pieces", 1, 1)
    names = ("level_dbfs", "key_clarity", "beat_strength", "flatness", "silent_share")
    return {name: [float(np.mean([q[k][name] for q in quarters])) for k in range(4)] for name in names}


def diversity(
    model: Silent2Music, items: Sequence[Item], sampling: SamplingConfig, config: EvalConfig, tell: Progress
) -> Report:
    """Distance of each piece to the nearest of the others: for one room under many seeds, and for real music."""
    if config.n_diverse < 2:
        return {}
    tell("diversity", 0, 1)
    seeds = [config.seed + 1000 + k for k in range(config.n_diverse)]
    room = first_seconds(items[0].room, DIVERSITY_SECONDS)
    music = model.generate_batch([room] * len(seeds), sampling, seeds)
    groups = {
        "one room, many seeds": [originality.fingerprint(describe(m)) for m in music],
        "real music": [originality.fingerprint(item.real.features) for item in items[: len(seeds)]],
    }
    result = {}
    for name, prints in groups.items():
        nearest = [
            originality.nearest(own, {str(j): p for j, p in enumerate(prints) if j != i})
            for i, own in enumerate(prints)
        ]
        result[name] = float(np.median([n.distance for n in nearest if n is not None]))
    tell("diversity", 1, 1)
    return result
