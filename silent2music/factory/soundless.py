"""Pairs without sound: rooms with the scores arranged to them, straight as shards, for learning to compose.

What a composer learns from are the room's features and the notes; rendering, encoding and storing sound takes twenty
times as long. So a room is made and measured once, several scores are arranged to it, and of the sound nothing is
kept. Rooms come in blocks: a block is one shard for each split and depends on the seed and its own number alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from silent2music.acoustics import analyze
from silent2music.ambient import AmbientFeatures, ambient_features
from silent2music.config import AmbientConfig, DataConfig
from silent2music.data.pairs import SPLITS
from silent2music.data.shards import (
    Row,
    check_shards,
    shard_length,
    shard_path,
    shards_meta,
    signal_columns,
    write_shard,
)
from silent2music.errors import require
from silent2music.factory.arrangement import Arrangement
from silent2music.factory.build import (
    ATTRIBUTION_FILE,
    Factory,
    attribution,
    checked_count,
    claimed_build,
    compose,
    draw_kind,
    open_factory,
    pair_labels,
    split_of,
)
from silent2music.factory.scenes import Levels, Scene, free_truth, make_scene, muted_scene
from silent2music.files import locked, write_text
from silent2music.processes import Pool, StepProgress, one_thread, share
from silent2music.score import midi_bytes

SCORES_PER_ROOM = 6

ROOMS_PER_BLOCK = 40

NEEDS_SOUND = ("leak",)
"""Kinds whose silent side is made from rendered music; they are left out."""

LABELS = "labels"
"""Folder with a file of JSON lines for each block: what is known of its pairs."""


def build_soundless(
    config: DataConfig,
    out: Path,
    hours: float,
    seed: int,
    ambient: AmbientConfig | None = None,
    workers: int = 1,
    progress: StepProgress | None = None,
) -> None:
    """Build pairs without sound as shards (see `data.shards`), or go on with a build that was stopped.

    Each room stands in `SCORES_PER_ROOM` pairs with other music; one that is the noise of its own music, in one.
    Shards can be read while the build goes on. More hours than last time add pairs; another seed or other settings
    need another folder.

    Args:
        config: the data section of the recipe; its soundfonts are not used.
        out: folder of shards, made if missing.
        seed: 0 or more.
        workers: processes; 1 builds in this one.

    Raises:
        ConfigError: if hours, seed or workers are out of range.
        DataError: if the sources are missing or unusable, or `out` was built with other settings.
    """
    for module in ("symusic", "pyroomacoustics", "pyarrow"):
        require(module, "train")
    n_pairs = checked_count(config, hours, seed, workers)
    features = ambient or AmbientConfig()
    report = progress or (lambda done, total: None)
    with claimed_build(config, out, seed, (LABELS, "library")) as factory:
        check_shards(out, shards_meta(features))
        blocks = share(_blocks(n_pairs))
        missing = [block for block in blocks if not _is_done(factory, block)]
        n_own = sum(map(len, blocks))
        n_done = n_own - sum(map(len, missing))
        report(n_done, n_own)
        with Pool(min(workers, len(missing)), _open, (config, out, seed, features)) as pool:
            for block, _ in zip(missing, pool.map(_save_block, missing), strict=True):
                n_done += len(block)
                report(n_done, n_own)
        _write_attribution(factory)


def soundless_pairs(
    factory: Factory, room: int, ambient: AmbientConfig
) -> Iterator[tuple[AmbientFeatures, Arrangement, dict[str, Any]]]:
    """The pairs of one room by its number: the room's features, the music's score, the labels.

    Raises:
        DataError: if no score could be arranged in some tries.
    """
    config = factory.config
    rng, music_rng = (
        np.random.default_rng(sequence) for sequence in np.random.SeedSequence([factory.seed, room]).spawn(2)
    )
    stock = factory.stocks[_split(factory, room)]
    kind = draw_kind(stock, rng, NEEDS_SOUND)
    levels = Levels(config.level_min_dbfs, config.level_max_dbfs)
    scene = features = place = None
    if kind == "muted":
        place = stock.library.pick_room(rng, 0.2, 1.2)
    else:
        scene = make_scene(kind, stock.library, rng, config.seconds, levels)
        features = _measured(scene, ambient)
    for _ in range(SCORES_PER_ROOM):
        truth = scene.truth if scene else free_truth(kind, rng, config.seconds, place)
        work, arrangement = compose(stock, truth, music_rng, config.normalise_key)
        heard = scene or muted_scene(arrangement, stock.library, rng, levels, place)
        labels = pair_labels(heard, arrangement, work, factory.seed)
        yield features or _measured(heard, ambient), arrangement, labels


def _measured(scene: Scene, ambient: AmbientConfig) -> AmbientFeatures:
    """What the model is told of a scene."""
    return ambient_features(scene.audio, scene.profile or analyze(scene.audio), ambient)


def _split(factory: Factory, room: int) -> str:
    return split_of(room, factory.config.validation_share, factory.stocks)


def _blocks(n_pairs: int) -> list[range]:
    """The numbers of the pairs of each block."""
    size = ROOMS_PER_BLOCK * SCORES_PER_ROOM
    return [range(first, min(first + size, n_pairs)) for first in range(0, n_pairs, size)]


def _number(block: range) -> int:
    return block.start // (ROOMS_PER_BLOCK * SCORES_PER_ROOM)


def _labels_path(out: Path, block: range) -> Path:
    return out / LABELS / f"{_number(block):05d}.jsonl"


def _is_done(factory: Factory, block: range) -> bool:
    """Whether all of a block's pairs are there: the file of labels comes last."""
    if not _labels_path(factory.out, block).exists():
        return False
    n_rows = sum(shard_length(shard_path(factory.out, split, _number(block))) for split in SPLITS)
    return n_rows == len(block)


def _open(config: DataConfig, out: Path, seed: int, ambient: AmbientConfig) -> tuple[Factory, AmbientConfig]:
    """In a worker: the sources, which are not sent to it, since they would be copied."""
    return open_factory(config, out, seed), ambient


@one_thread()
def _save_block(job: tuple[Factory, AmbientConfig], block: range) -> None:
    """Make the pairs of a block and write them."""
    factory, ambient = job
    rows: dict[str, list[Row]] = {split: [] for split in SPLITS}
    lines = []
    for room in range(block.start // SCORES_PER_ROOM, -(-block.stop // SCORES_PER_ROOM)):
        made = soundless_pairs(factory, room, ambient)
        split = _split(factory, room)
        for index, (features, arrangement, labels) in zip(
            block[room * SCORES_PER_ROOM - block.start :], made, strict=False
        ):
            name = f"{index:07d}"
            rows[split].append(
                {
                    "id": name,
                    "fingerprint": "",
                    "kind": labels["kind"],
                    "seconds": arrangement.seconds,
                    "n_frames": len(features.frames),
                    "codes": None,
                    "score": midi_bytes(arrangement),
                    **signal_columns(features, labels),
                }
            )
            lines.append(
                json.dumps({"id": name, "split": split, "labels": labels}, ensure_ascii=False) + "\n"
            )
    for split, found in rows.items():
        if found:
            write_shard(factory.out, split, found, shards_meta(ambient), _number(block))
    write_text(_labels_path(factory.out, block), "".join(lines))


def _write_attribution(factory: Factory) -> None:
    """Name the sources of all pairs."""
    with locked(factory.out):
        files = sorted((factory.out / LABELS).glob("*.jsonl"))
        lines = [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]
        write_text(factory.out / ATTRIBUTION_FILE, attribution(lines, factory.refused))
