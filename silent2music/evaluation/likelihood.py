"""How much a room tells the model: likelihood of held-out music under its own room, another room and none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from silent2music.data.shards import PairDataset, batches
from silent2music.errors import CheckpointError, DataError
from silent2music.evaluation.statistics import bootstrap_mean, interval_text, paired_difference
from silent2music.evaluation.tables import Figures
from silent2music.model import Silent2Music

ROOMS = ("true", "shuffled", "dropped")


@torch.inference_mode()
def room_contrast(
    model: Silent2Music,
    shards: Path,
    n_pairs: int = 256,
    crop_seconds: float = 16.0,
    batch_size: int = 8,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Figures:
    """Teacher-forced losses of validation music, a crop of each pair, under its own room, another and none.

    The shuffled room is that of another pair of the same batch, whatever its kind.

    Args:
        batch_size: pairs at once, at least 2; fewer if there are fewer.

    Returns:
        `n_pairs` measured; `losses` under each of `ROOMS`, in nats a token, the mean over codebooks and frames of a
        pair; `shuffled_minus_true` and `dropped_minus_true`, paired differences: above zero, the true room helps;
        `by_kind`, the same two differences for each scene kind. All with intervals, as JSON values.

    Raises:
        CheckpointError: if the shards were prepared with another codec than the model's.
        DataError: if there are fewer than two pairs.
    """
    dataset = PairDataset(shards, "validation", crop_seconds, seed, model.config.controls)
    if dataset.meta["codec_checksum"] != model.codec_checksum:
        raise CheckpointError(
            f"{shards} was prepared with codec tokens {dataset.meta['codec_checksum']} and the model speaks "
            f"{model.codec_checksum}; prepare the pairs again with the model's codec."
        )
    batch_size = min(batch_size, n_pairs, len(dataset))
    if batch_size < 2:
        raise DataError(
            f"{shards} has {len(dataset)} validation pairs, of which {batch_size} were asked for; expected two at "
            "least, for another one's room."
        )
    n_batches = min(n_pairs, len(dataset)) // batch_size
    found: dict[str, list[float]] = {name: [] for name in ROOMS}
    kinds: list[str] = []
    for batch, _ in zip(batches(dataset, batch_size, epoch=0), range(n_batches), strict=False):
        batch = batch.to(model.device)
        losses = model.contrast(batch.codes, batch.signals)
        for name in ROOMS:
            found[name] += losses[name].float().cpu().tolist()
        kinds += batch.kinds
        if progress is not None:
            progress(len(kinds), n_batches * batch_size)
    under = {name: np.asarray(values) for name, values in found.items()}

    def differences(rows: Any) -> list[Figures]:
        return [paired_difference(under[name][rows], under["true"][rows], seed) for name in ROOMS[1:]]

    shuffled, dropped = differences(slice(None))
    return {
        "n_pairs": len(kinds),
        "losses": {name: bootstrap_mean(values, seed) for name, values in under.items()},
        "shuffled_minus_true": shuffled,
        "dropped_minus_true": dropped,
        "by_kind": {kind: differences(np.asarray(kinds) == kind) for kind in sorted(set(kinds))},
    }


def contrast_text(found: Figures) -> str:
    """What `room_contrast` found, in a few lines."""
    lines = [f"{found['n_pairs']} held-out pairs, nats a token, mean [95 % interval]"]
    lines += [f"  {name:9s} {interval_text(found['losses'][name])}" for name in ROOMS]
    lines += [
        f"  shuffled - true {interval_text(found['shuffled_minus_true'])}",
        f"  dropped - true  {interval_text(found['dropped_minus_true'])}",
    ]
    for kind, (shuffled, dropped) in found["by_kind"].items():
        lines.append(
            f"  {kind:9s} n={shuffled['n']:3d}  shuffled - true {interval_text(shuffled)}  "
            f"dropped - true {interval_text(dropped)}"
        )
    return "\n".join(lines)
