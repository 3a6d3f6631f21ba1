"""Prepared pairs: codec tokens and ambient features as Parquet shards, and the crops that training reads.

A prepared folder holds `meta.json` and shards named `train-00000.parquet`, `validation-00000.parquet`, and so
on, a name by which Hugging Face `datasets` finds the splits on its own. A row is a whole pair:

| column | what |
|---|---|
| `id`, `fingerprint` | name of the pair; hash of its manifest line and file sizes |
| `kind`, `split`, `seconds` | scene kind, split, duration |
| `n_frames` | T, codec frames, which are the steps S of the features too |
| `codes` | `[K * T]` int16, `[K, T]` row by row |
| `features` | `[T * F]` float16, ambient features `[T, F]` row by row |
| `scalars` | `[Q]` float16, of the whole recording |
| `profile`, `labels` | JSON text |

A shard is written whole or not at all, and one whose pairs all still stand in the manifest is never touched
again. So a killed run goes on where it was, and a set can be prepared while it still grows.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from silent2music import audio
from silent2music.config import AmbientConfig
from silent2music.data.pairs import SPLITS, Pair, load_pair, read_pairs
from silent2music.errors import DataError, S2MError, require

if TYPE_CHECKING:
    from torch import Tensor

    from silent2music.codec import Codec

META = "meta.json"
FORMAT_VERSION = 1
PAIRS_PER_SHARD = 256
MAX_CODEBOOK_SIZE = 2**15
"""Codes are stored as int16."""

MAX_FRAME_DIFFERENCE = 2
"""Codec and features may round the last, partial frame of a recording differently by this much."""

Row = dict[str, Any]


@dataclass(frozen=True)
class PrepareReport:
    """What a run of `prepare` did.

    Attributes:
        n_prepared: pairs encoded in this run.
        n_kept: pairs that were there already.
        n_waiting: pairs of the manifest whose files are not there yet.
        seconds: duration of all pairs now in the folder.
        faults: one sentence for each pair that could not be prepared.
    """

    n_prepared: int
    n_kept: int
    n_waiting: int
    seconds: float
    faults: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{self.n_prepared} pairs prepared, {self.n_kept} kept: {self.seconds / 3600:.2f} hours in all"
        if self.n_waiting:
            text += f"; {self.n_waiting} not complete yet"
        return "\n".join([text + ".", *(f"left out: {fault}" for fault in self.faults)])


def prepare(
    folder: Path | str,
    out: Path | str,
    codec: Codec,
    ambient: AmbientConfig | None = None,
    workers: int = 1,
    pairs_per_shard: int = PAIRS_PER_SHARD,
    progress: Callable[[int, int], None] | None = None,
    n_codebooks: int | None = None,
) -> PrepareReport:
    """Encode the pairs of a folder that are complete and not yet prepared.

    Run it again while the folder grows: shards that are done are kept, new pairs go into new shards, and
    shards of pairs that changed or vanished are rebuilt. A pair's row does not depend on the number of workers.

    Args:
        folder: a pair folder.
        out: where the shards go; created if needed.
        codec: the codec that the model will speak; sent to the workers.
        ambient: settings of the ambient features; by default at the codec's frame rate.
        workers: processes, each on one thread.
        pairs_per_shard: rows of a full shard.
        progress: called with (pairs done, pairs to do) after each pair of this run.
        n_codebooks: how many of the codec's codebooks the model will write; all by default.

    Raises:
        AudioError: if the codec has fewer codebooks than asked for.
        DataError: if `out` was prepared with another codec or other features, or the frame rates of codec and
            features differ, or no pair at all could be prepared.
    """
    require("pyarrow", "train")
    root, target = Path(folder), Path(out)
    config = ambient or AmbientConfig(frame_rate=codec.frame_rate)
    meta = _open_target(target, codec, n_codebooks or codec.n_codebooks, config)
    todo, n_waiting = _complete_pairs(root, read_pairs(root, growing=True))
    kept = _keep_good_shards(target, {pair.id: mark for pair, mark in todo})
    todo = [(pair, mark) for pair, mark in todo if pair.id not in kept]
    faults: list[str] = []
    n_prepared = 0
    with _encoder(root, codec, meta["n_codebooks"], config, workers) as encode:
        for split in SPLITS:
            mine = [item for item in todo if item[0].split == split]
            rows: list[Row] = []
            for result in encode(mine):
                if isinstance(result, str):
                    faults.append(result)
                else:
                    rows.append(result)
                n_prepared += not isinstance(result, str)
                if progress is not None:
                    progress(n_prepared + len(faults), len(todo))
                if len(rows) == pairs_per_shard:
                    _write_shard(target, split, rows)
                    rows = []
            if rows:
                _write_shard(target, split, rows)
    counts = _counts(target)
    (target / META).write_text(json.dumps({**meta, "counts": counts}, indent=2) + "\n", encoding="utf-8")
    if faults and not n_prepared and not kept:
        raise DataError(
            f"None of the {len(faults)} pairs in {root} could be prepared; the first: {faults[0]}"
        )
    total = sum(count["seconds"] for count in counts.values())
    return PrepareReport(n_prepared, len(kept), n_waiting, total, tuple(faults))


def read_meta(folder: Path | str) -> dict[str, Any]:
    """What a prepared folder was made with: codec, features, counts.

    Raises:
        DataError: if it is missing or malformed.
    """
    path = Path(folder) / META
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); expected a folder made by `s2m data prepare`."
        ) from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT_VERSION:
        raise DataError(f"{path} does not state format {FORMAT_VERSION}; prepare the pairs again.")
    return meta


def _open_target(target: Path, codec: Codec, n_codebooks: int, config: AmbientConfig) -> dict[str, Any]:
    """Make the folder, or see that what is in it fits; remove what a killed run left half-written."""
    from silent2music import ambient

    if abs(config.frame_rate - codec.frame_rate) > 1e-6:
        raise DataError(
            f"The ambient features have {config.frame_rate:g} frames per second and the codec "
            f"{codec.frame_rate:g}; expected the same, set ambient.frame_rate."
        )
    if codec.codebook_size > MAX_CODEBOOK_SIZE:
        raise DataError(
            f"The codec has {codec.codebook_size} codes a book; shards hold {MAX_CODEBOOK_SIZE} at most."
        )
    meta: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "codec_checksum": codec.token_checksum(n_codebooks),
        "frame_rate": codec.frame_rate,
        "n_codebooks": n_codebooks,
        "codebook_size": codec.codebook_size,
        "feature_version": ambient.FEATURE_VERSION,
        "feature_settings": {
            "sample_rate": config.sample_rate,
            "frame_rate": config.frame_rate,
            "n_mels": config.n_mels,
            "n_fft": config.n_fft,
        },
        "n_features": ambient.n_features(config),
        "n_scalars": ambient.n_scalars(config),
    }
    target.mkdir(parents=True, exist_ok=True)
    if (target / META).exists():
        old = read_meta(target)
        for key, value in meta.items():
            if old.get(key) != value:
                raise DataError(
                    f"{target} was prepared with {key} {old.get(key)!r}; this run has {value!r}, "
                    "choose another folder or remove that one."
                )
    else:
        (target / META).write_text(json.dumps({**meta, "counts": {}}, indent=2) + "\n", encoding="utf-8")
    for leftover in target.glob(".s2m-*.parquet"):
        leftover.unlink()
    return meta


def _complete_pairs(root: Path, pairs: Sequence[Pair]) -> tuple[list[tuple[Pair, str]], int]:
    """Pairs whose files are there, each with its fingerprint; and how many are not."""
    complete = []
    for pair in dict((p.id, p) for p in pairs).values():
        files = [root / pair.silent, root / pair.music]
        try:
            sizes = [file.stat().st_size for file in files]
        except OSError:
            continue
        text = f"{pair.to_line()} {sizes}"
        complete.append((pair, hashlib.sha256(text.encode()).hexdigest()[:16]))
    return complete, len({p.id for p in pairs}) - len(complete)


def _shards(folder: Path, split: str) -> list[Path]:
    """The shards of a split, in order."""
    return sorted(folder.glob(f"{split}-[0-9]*.parquet"))


def _keep_good_shards(target: Path, wanted: dict[str, str]) -> set[str]:
    """Ids in shards that are whole and up to date; all other shards are removed."""
    from pyarrow import ArrowException, parquet

    kept: set[str] = set()
    for shard in (s for split in SPLITS for s in _shards(target, split)):
        try:
            rows = parquet.read_table(shard, columns=["id", "fingerprint"]).to_pylist()
        except (OSError, ArrowException):
            rows = []
        ids = {row["id"] for row in rows}
        if rows and not ids & kept and all(wanted.get(row["id"]) == row["fingerprint"] for row in rows):
            kept |= ids
        else:
            shard.unlink()
    return kept


Encode = Callable[[Sequence[tuple[Pair, str]]], Iterator["Row | str"]]


@contextmanager
def _encoder(
    root: Path, codec: Codec, n_codebooks: int, config: AmbientConfig, workers: int
) -> Iterator[Encode]:
    """A function from pairs to rows (or fault sentences) in the same order, in this process or in a pool."""
    if workers <= 1:
        yield lambda items: (_encode_pair(root, codec, n_codebooks, config, *item) for item in items)
        return
    # Spawned, not forked: a fork of a process whose OpenMP threads have run may hang in the child. The thread
    # count must be in the environment before the child imports numpy.
    saved = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    pool = ProcessPoolExecutor(
        workers, get_context("spawn"), _start_worker, (root, codec, n_codebooks, config)
    )
    try:
        yield lambda items: pool.map(_encode_in_worker, items, chunksize=4)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        if saved is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = saved


_worker: tuple[Path, Codec, int, AmbientConfig]
"""What a worker process was started with; never set in the main process."""


def _start_worker(root: Path, codec: Codec, n_codebooks: int, config: AmbientConfig) -> None:
    import torch

    global _worker
    torch.set_num_threads(1)
    _worker = (root, codec, n_codebooks, config)


def _encode_in_worker(item: tuple[Pair, str]) -> Row | str:
    return _encode_pair(*_worker, *item)


def _encode_pair(
    root: Path, codec: Codec, n_codebooks: int, config: AmbientConfig, pair: Pair, fingerprint: str
) -> Row | str:
    """One row of a shard, or the sentence that says why there is none."""
    import torch

    from silent2music.acoustics import analyze
    from silent2music.ambient import ambient_features

    try:
        silent, music = load_pair(root, pair)
        seconds = min(silent.seconds, music.seconds)
        music = _first_seconds(music.mono().resampled(codec.sample_rate), seconds)
        silent = _first_seconds(silent, seconds)
        with torch.inference_mode():
            codes = codec.encode(torch.from_numpy(music.samples)[None], n_codebooks)[0].cpu().numpy()
        profile = analyze(silent)
        features = ambient_features(silent, profile, config)
    except S2MError as error:
        return f"{pair.id}: {error}"
    n_frames = codes.shape[1]
    return {
        "id": pair.id,
        "fingerprint": fingerprint,
        "kind": pair.kind,
        "split": pair.split,
        "seconds": seconds,
        "n_frames": n_frames,
        "codes": codes.astype(np.int16).ravel(),
        "features": _fit(np.asarray(features.frames), n_frames, pair.id).astype(np.float16).ravel(),
        "scalars": np.asarray(features.scalars).astype(np.float16),
        "profile": json.dumps(profile.to_dict()),
        "labels": json.dumps(dict(pair.labels), ensure_ascii=False),
    }


def _first_seconds(waveform: audio.Waveform, seconds: float) -> audio.Waveform:
    """The first `seconds` of a waveform; itself if it is no longer than that."""
    n_samples = round(seconds * waveform.sample_rate)
    if n_samples >= waveform.n_samples:
        return waveform
    return audio.Waveform(waveform.samples[:, :n_samples], waveform.sample_rate)


def _fit(frames: NDArray[np.float32], n_frames: int, name: str) -> NDArray[np.float32]:
    """Features `[S, F]` as `[n_frames, F]`: the last step is dropped or repeated where rounding differs."""
    difference = n_frames - len(frames)
    if abs(difference) > MAX_FRAME_DIFFERENCE:
        raise DataError(
            f"{name} has {len(frames)} feature steps and {n_frames} codec frames; expected the same."
        )
    if difference > 0:
        return np.concatenate([frames, np.repeat(frames[-1:], difference, axis=0)])
    return frames[:n_frames]


def _write_shard(target: Path, split: str, rows: Sequence[Row]) -> None:
    """Write rows as the next shard of a split, whole or not at all."""
    import datasets

    columns = datasets.Features(
        {
            **{name: datasets.Value("string") for name in ("id", "fingerprint", "kind", "split")},
            "seconds": datasets.Value("float64"),
            "n_frames": datasets.Value("int32"),
            "codes": datasets.Sequence(datasets.Value("int16")),
            "features": datasets.Sequence(datasets.Value("float16")),
            "scalars": datasets.Sequence(datasets.Value("float16")),
            **{name: datasets.Value("string") for name in ("profile", "labels")},
        }
    )
    used = [int(path.stem.rpartition("-")[2]) for path in _shards(target, split)]
    path = target / f"{split}-{max(used, default=-1) + 1:05d}.parquet"
    dataset = datasets.Dataset.from_dict({name: [row[name] for row in rows] for name in columns}, columns)
    with audio.atomic_path(path) as temporary, temporary.open("wb") as file, _quiet_datasets():
        dataset.to_parquet(file, batch_size=32)


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    """Without the progress bars of `datasets`, which would stand inside ours."""
    import datasets

    if datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def _counts(target: Path) -> dict[str, dict[str, Any]]:
    """Pairs, seconds and shards of each split, as they lie in the folder."""
    from pyarrow import parquet

    counts = {}
    for split in SPLITS:
        shards = _shards(target, split)
        seconds = [
            s for shard in shards for s in parquet.read_table(shard, columns=["seconds"])[0].to_pylist()
        ]
        counts[split] = {"pairs": len(seconds), "seconds": float(sum(seconds)), "shards": len(shards)}
    return counts


def load_shards(
    folder: Path | str,
    split: str = "train",
    streaming: bool = False,
    rank: int = 0,
    world_size: int = 1,
    cache_dir: Path | str | None = None,
) -> Any:
    """One rank's share of a prepared split as a Hugging Face dataset.

    Args:
        folder: a prepared folder.
        split: `train` or `validation`.
        streaming: read the Parquet files row by row (`IterableDataset`) instead of memory-mapping them
            (`Dataset`; `datasets` converts them to Arrow once, in its cache).
        rank, world_size: which share of how many.
        cache_dir: where `datasets` keeps the Arrow files, its own default if None.

    Raises:
        DataError: if the folder was not prepared or has no such split.
    """
    import datasets
    from datasets.distributed import split_dataset_by_node

    read_meta(folder)
    files = _existing_shards(Path(folder), split)
    with _quiet_datasets():
        dataset = datasets.load_dataset(
            "parquet",
            data_files={split: [str(file) for file in files]},
            split=split,
            streaming=streaming,
            cache_dir=None if cache_dir is None else str(cache_dir),
        )
    return split_dataset_by_node(dataset, rank, world_size) if world_size > 1 else dataset


def _existing_shards(folder: Path, split: str) -> list[Path]:
    files = _shards(folder, split)
    if not files:
        raise DataError(f"{folder} has no shard of the split '{split}'; expected one of {', '.join(SPLITS)}.")
    return files


@dataclass(frozen=True)
class Example:
    """One crop of one pair.

    Attributes:
        codes: `[K, T]` int64.
        features: `[T, F]` float32, ambient features; step t belongs to codec frame t.
        scalars: `[Q]` float32, of the whole recording.
        id: name of the pair.
        kind: scene kind.
        start: first frame of the crop in the recording.
    """

    codes: NDArray[np.int64]
    features: NDArray[np.float32]
    scalars: NDArray[np.float32]
    id: str
    kind: str
    start: int


class PairDataset:
    """A prepared split, ordered by pair id whatever the layout of its shards, giving crops.

    Fits `torch.utils.data.DataLoader` as a map-style dataset with `collate`. The crop of example `index` in
    `epoch` depends on (seed, epoch, index) alone.

    Args:
        folder: a prepared folder.
        split: `train` or `validation`.
        crop_seconds: length of the crops; None gives whole recordings.
        seed: of the crops and the order.
        in_memory: hold the split in memory (20 hours need about 0.5 GB); otherwise it is memory-mapped.
        cache_dir: see `load_shards`; used for memory-mapping only.

    Raises:
        DataError: if the folder was not prepared or has no such split.
    """

    def __init__(
        self,
        folder: Path | str,
        split: str = "train",
        crop_seconds: float | None = None,
        seed: int = 0,
        in_memory: bool = True,
        cache_dir: Path | str | None = None,
    ) -> None:
        require("pyarrow", "train")
        self.meta = read_meta(folder)
        self.seed = seed
        self.epoch = 0
        self.crop_frames = None
        if crop_seconds is not None:
            self.crop_frames = max(1, round(crop_seconds * self.meta["frame_rate"]))
        columns = _columns(Path(folder), split, in_memory, cache_dir)
        order = sorted(range(len(columns["id"])), key=columns["id"].__getitem__)
        for values in columns.values():
            values[:] = [values[i] for i in order]
        self.ids: list[str] = columns["id"]
        self.kinds: list[str] = columns["kind"]
        self.seconds: list[float] = columns["seconds"]
        self._columns = columns

    def __len__(self) -> int:
        return len(self.ids)

    def set_epoch(self, epoch: int) -> None:
        """Choose the crops of another epoch for `dataset[index]`."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> Example:
        """The crop of pair `index` in the current epoch."""
        return self.crop(index, self.epoch)

    def crop(self, index: int, epoch: int = 0) -> Example:
        """The crop of pair `index` in `epoch`; a pair shorter than the crop comes whole."""
        n_frames = int(self._columns["n_frames"][index])
        start, length = 0, n_frames
        if self.crop_frames is not None and self.crop_frames < n_frames:
            length = self.crop_frames
            start = int(np.random.default_rng((self.seed, epoch, index)).integers(n_frames - length + 1))
        codes = self._columns["codes"][index].reshape(-1, n_frames)[:, start : start + length]
        features = self._columns["features"][index].reshape(n_frames, -1)[start : start + length]
        return Example(
            codes.astype(np.int64),
            features.astype(np.float32),
            self._columns["scalars"][index].astype(np.float32),
            self.ids[index],
            self.kinds[index],
            start,
        )

    def profile(self, index: int) -> dict[str, Any]:
        """The acoustic profile of the silent side, as plain values."""
        return dict(json.loads(self._columns["profile"][index]))

    def labels(self, index: int) -> dict[str, Any]:
        """The labels of the pair."""
        return dict(json.loads(self._columns["labels"][index]))


def _columns(folder: Path, split: str, in_memory: bool, cache_dir: Path | str | None) -> dict[str, list[Any]]:
    """The columns of a split, arrays as numpy views into Arrow memory."""
    from pyarrow import concat_tables, parquet

    if in_memory:
        table = concat_tables(parquet.read_table(shard) for shard in _existing_shards(folder, split))
    else:
        table = load_shards(folder, split, cache_dir=cache_dir).data.table
    columns: dict[str, list[Any]] = {}
    for name in ("id", "kind", "seconds", "n_frames", "profile", "labels"):
        columns[name] = table[name].to_pylist()
    for name in ("codes", "features", "scalars"):
        columns[name] = []
        for chunk in table[name].chunks:
            values, offsets = chunk.values.to_numpy(zero_copy_only=True), chunk.offsets.to_numpy()
            columns[name] += [values[a:b] for a, b in pairwise(offsets)]
    return columns


@dataclass(frozen=True)
class Batch:
    """Examples side by side, padded at the end.

    Attributes:
        codes: `[B, K, T]` int64, zero where padded.
        features: `[B, T, F]` float32, ambient features, zero where padded; step t belongs to codec frame t.
        scalars: `[B, Q]` float32, of the whole recordings.
        mask: `[B, T]` bool, true on frames that exist.
        ids: names of the pairs.
        kinds: scene kinds.
    """

    codes: Tensor
    features: Tensor
    scalars: Tensor
    mask: Tensor
    ids: tuple[str, ...]
    kinds: tuple[str, ...]

    def to(self, device: Any) -> Batch:
        """The same batch on another device."""
        codes, features, scalars, mask = (
            t.to(device, non_blocking=True) for t in (self.codes, self.features, self.scalars, self.mask)
        )
        return Batch(codes, features, scalars, mask, self.ids, self.kinds)


def collate(examples: Sequence[Example]) -> Batch:
    """Pad examples to the longest of them and stack them."""
    import torch

    n_frames = max(example.codes.shape[1] for example in examples)
    n_examples, n_codebooks = len(examples), examples[0].codes.shape[0]
    codes = torch.zeros(n_examples, n_codebooks, n_frames, dtype=torch.int64)
    features = torch.zeros(n_examples, n_frames, examples[0].features.shape[1])
    mask = torch.zeros(n_examples, n_frames, dtype=torch.bool)
    for row, example in enumerate(examples):
        length = example.codes.shape[1]
        codes[row, :, :length] = torch.from_numpy(example.codes)
        features[row, :length] = torch.from_numpy(example.features)
        mask[row, :length] = True
    scalars = torch.from_numpy(np.stack([example.scalars for example in examples]))
    return Batch(
        codes, features, scalars, mask, tuple(e.id for e in examples), tuple(e.kind for e in examples)
    )


def batches(
    dataset: PairDataset, batch_size: int, epoch: int, start: int = 0, rank: int = 0, world_size: int = 1
) -> Iterator[Batch]:
    """The full batches of an epoch for one rank, shuffled, cropped, the incomplete last one left out.

    The order depends on (seed, epoch) alone, so a resumed run continues an epoch exactly by giving `start`,
    the number of batches already used. Ranks share no pair within an epoch.
    """
    order = np.random.default_rng((dataset.seed, epoch)).permutation(len(dataset))
    n_batches = len(order) // (batch_size * world_size)
    for step in range(start, n_batches):
        first = (step * world_size + rank) * batch_size
        yield collate([dataset.crop(int(i), epoch) for i in order[first : first + batch_size]])
