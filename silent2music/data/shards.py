"""Prepared pairs: codec tokens and signals as Parquet shards, and the crops that training reads.

A prepared folder holds `meta.json` and shards named `train-00000.parquet`, `validation-00000.parquet`, and so
on, a name by which Hugging Face `datasets` finds the splits on its own. A row is a whole pair:

| column | what |
|---|---|
| `id`, `fingerprint` | name of the pair; hash of its manifest line and file sizes |
| `kind`, `seconds` | scene kind, duration |
| `n_frames` | T, codec frames |
| `codes` | `[K * T]` int16, `[K, T]` row by row; null for a pair without sound |
| `score` | the music's notes as a MIDI file, see `score.midi_bytes`; null for a pair without score |
| `signal.NAME` | float16, for each of `signals.prepared_controls()`: `[T * rate * F]` along time or `[F]`, or null |

A shard is written whole or not at all, and one whose pairs all still stand in the manifest is never touched
again. So a killed run can be continued, and a set can be prepared while it still grows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from silent2music.ambient import FEATURE_SETTINGS, FEATURE_VERSION, AmbientFeatures, ambient_features
from silent2music.arrays import FloatArray, IntArray
from silent2music.audio import Waveform
from silent2music.config import AmbientConfig
from silent2music.data.pairs import MANIFEST, SPLITS, Pair, load_pair, read_pairs, score_of, silent_side
from silent2music.errors import DataError, S2MError, require, shown
from silent2music.files import (
    atomic_path,
    claimed,
    is_claimed,
    locked,
    read_json,
    remove_leavings,
    write_text,
)
from silent2music.processes import Pool, launched, one_thread
from silent2music.score import Score, midi_bytes, parse_midi
from silent2music.signals import CONTROLS, Signals, from_arrays, prepared_controls

if TYPE_CHECKING:
    from silent2music.codec import Codec

META = "meta.json"
FORMAT_VERSION = 3
PAIRS_PER_SHARD = 256
ROWS_PER_GROUP = 32
MAX_CODEBOOK_SIZE = 2**15
"""Codes are stored as int16."""

MAX_FRAME_DIFFERENCE = 2
"""Codec and features may round the last, partial frame of a recording differently by this much."""

LARGE_BYTES = 2 * 2**30
"""Of a split's shards, beyond which it is mapped into memory and not read into it."""

BEGINNING_SHARE = 0.2
"""Of the crops, at least so many begin with the piece."""

MAY_LACK = ("codes", "score")
"""Columns that not every pair has, beside those of the controls."""

META_TYPES: dict[str, Any] = {
    "codec_checksum": str,
    "frame_rate": int | float,
    "n_codebooks": int,
    "codebook_size": int,
    "feature_settings": dict,
    "controls": list,
}

OF_CODEC = ("codec_checksum", "n_codebooks", "codebook_size")
"""What is nothing in a folder of pairs without sound."""

Row = dict[str, Any]


@dataclass(frozen=True)
class PrepareReport:
    """Counts of what a run of `prepare` did.

    Attributes:
        n_prepared: pairs encoded in this run.
        n_kept: pairs that were there already.
        seconds: duration of all pairs now in the folder.
        faults: one sentence for each pair that could not be prepared, as those whose files are not there yet.
    """

    n_prepared: int
    n_kept: int
    seconds: float
    faults: tuple[str, ...]

    def __str__(self) -> str:
        text = (
            f"{self.n_prepared} pairs prepared, {self.n_kept} kept: {self.seconds / 3600:.2f} hours in all."
        )
        return "\n".join([text, *(f"left out: {fault}" for fault in self.faults)])


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
    """Encode the pairs of a folder that are not yet prepared.

    Run it again while the folder grows: shards that are done are kept, new pairs go into new shards, and
    shards of pairs that changed or vanished are rebuilt. A pair's row does not depend on the number of workers. Of the
    processes that a launcher starts, each has its share, and then what is left by one that has ended or was killed.

    Args:
        out: where the shards go; created if needed.
        codec: the codec that the model will speak; sent to the workers.
        ambient: settings of the ambient features; by default at the codec's frame rate.
        n_codebooks: how many of the codec's codebooks the model will write; all by default.

    Raises:
        AudioError: if the codec has fewer codebooks than asked for.
        DataError: if `out` was prepared with another codec or other features, or the frame rates of codec and
            features differ, or no pair at all could be prepared, or `out` was removed on the way.
        S2MError: if another command writes to `out`.
    """
    require("pyarrow", "train")
    root, target = Path(folder), Path(out)
    config = ambient or AmbientConfig(frame_rate=codec.frame_rate)
    meta = shards_meta(config, codec, n_codebooks or codec.n_codebooks)
    marked = _fingerprints(root, read_pairs(root))
    if not marked:
        raise DataError(f"{root / MANIFEST} holds no pair; expected at least one line.")
    index, count = launched()
    with claimed(target, index, count) as give_up:
        with locked(target):
            remove_leavings(target, alone=count == 1)
            check_shards(target, meta)
            kept = _keep_good_shards(target, {pair.id: mark for pair, mark in marked}, meta)
            planned = _plan(target, marked, kept, pairs_per_shard)
        own = [
            shard for shard, owner in _owned(planned, count) if owner == index and not _is_done(target, shard)
        ]
        items = {pair.id: (pair, mark) for pair, mark in marked}
        faults: list[str] = []
        n_prepared, n_todo = 0, sum(len(shard["ids"]) for shard in own)
        with Pool(workers, _start, (root, codec, meta["n_codebooks"], config)) as pool:
            for turn in chain([own], iter(lambda: _left_behind(target, items, index, count, give_up), [])):
                results = pool.map(_encode_pair, [items[name] for shard in turn for name in shard["ids"]])
                for shard in turn:
                    rows: list[Row] = []
                    for result in islice(results, len(shard["ids"])):
                        if isinstance(result, str):
                            faults.append(result)
                        else:
                            rows.append(result)
                            n_prepared += 1
                        if progress is not None:
                            progress(n_prepared + len(faults), max(n_todo, n_prepared + len(faults)))
                    if rows:
                        write_shard(target, shard["split"], rows, meta, shard["number"])
                    else:
                        _note_empty(target, shard)
    if faults and not n_prepared and not kept and count == 1:
        raise DataError(
            f"None of the {len(faults)} pairs in {root} could be prepared; the first: {faults[0]}"
        )
    try:
        shards = [shard for split in SPLITS for shard in _shards(target, split)]
        written = [row["seconds"] for row in _read_rows(shards, "seconds")]
    except OSError as error:
        raise _changed(target) from error
    if len(written) < len(kept) + n_prepared:
        raise _changed(target)
    return PrepareReport(n_prepared, len(kept), sum(written), tuple(faults))


PLAN = "plan.json"
"""While a folder is prepared: which pairs go into which shard, and which shards are done."""


def _plan(
    target: Path, marked: Sequence[tuple[Pair, str]], kept: set[str], pairs_per_shard: int
) -> list[dict[str, Any]]:
    """Which pairs go into which new shard, in the order of the manifest; the caller holds the folder's lock.

    All processes that share the work, and one that goes on after a kill, follow the plan that was made first, so that
    the shards are the same whatever their number, and whoever was killed.
    """
    names = json.dumps([pairs_per_shard, *([pair.id, mark] for pair, mark in marked)])
    of = hashlib.sha256(names.encode()).hexdigest()
    try:
        plan = read_json(target / PLAN)
        if plan["of"] == of:
            return list(plan["shards"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    shards = []
    for split in SPLITS:
        todo = [pair.id for pair, _ in marked if pair.split == split and pair.id not in kept]
        used = [int(path.stem.rpartition("-")[2]) for path in _shards(target, split)]
        for number, first in enumerate(range(0, len(todo), pairs_per_shard), max(used, default=-1) + 1):
            ids = todo[first : first + pairs_per_shard]
            shards.append({"split": split, "number": number, "ids": ids, "empty": False})
    write_text(target / PLAN, json.dumps({"of": of, "shards": shards}))
    return shards


def _is_done(target: Path, shard: Mapping[str, Any]) -> bool:
    """Whether a planned shard is written; of one whose pairs are all faulty there is none."""
    return bool(shard["empty"]) or shard_length(shard_path(target, shard["split"], shard["number"])) > 0


@contextmanager
def _open_plan(target: Path) -> Iterator[dict[str, Any]]:
    """The plan as it is now, under the folder's lock; without shards if another process had nothing left to do."""
    if not target.is_dir():
        raise _changed(target)
    with locked(target):
        yield read_json(target / PLAN) if (target / PLAN).exists() else {"shards": []}


def _note_empty(target: Path, shard: Mapping[str, Any]) -> None:
    """Note in the plan that all pairs of a shard are faulty."""
    with _open_plan(target) as plan:
        for own in plan["shards"]:
            if (own["split"], own["number"]) == (shard["split"], shard["number"]):
                own["empty"] = True
                write_text(target / PLAN, json.dumps(plan))


def _owned(planned: Iterable[dict[str, Any]], count: int) -> list[tuple[dict[str, Any], int]]:
    """Planned shards, and which of `count` processes each is for."""
    return [(shard, shard.get("taken_by", place % count)) for place, shard in enumerate(planned)]


def _left_behind(
    target: Path, known: Collection[str], index: int, count: int, give_up: Callable[[], None]
) -> list[dict[str, Any]]:
    """A shard of known pairs, if there is one, that is not done and that nobody else at work will do.

    Its process has ended or was killed. Or one that started late found the faulty pairs unprepared and planned them
    again, partly for processes that had looked already. If there is no such shard, the claim is given up before anybody
    can look for it, and a plan that is done is removed.
    """
    with _open_plan(target) as plan:
        todo = [own for own in _owned(plan["shards"], count) if not _is_done(target, own[0])]
        for shard, owner in todo:
            is_free = owner == index or not is_claimed(target, owner, count)
            if is_free and all(name in known for name in shard["ids"]):
                shard["taken_by"] = index
                write_text(target / PLAN, json.dumps(plan))
                return [shard]
        if not todo:
            (target / PLAN).unlink(missing_ok=True)
        give_up()
    return []


def _changed(target: Path) -> DataError:
    return DataError(f"{target} was removed or changed while it was written; run the same command again.")


def read_meta(folder: Path | str) -> dict[str, Any]:
    """What a prepared folder was made with: codec, features, controls.

    Raises:
        DataError: if it is missing or malformed.
    """
    path = Path(folder) / META
    try:
        meta = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); expected a folder made by `s2m data prepare`."
        ) from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT_VERSION:
        raise DataError(f"{path} does not state format {FORMAT_VERSION}; prepare the pairs again.")
    has_codes = meta.get("codec_checksum", "") is not None
    for key, expected in META_TYPES.items():
        value = meta.get(key)
        if key in OF_CODEC and not has_codes and not value:
            continue
        if not isinstance(value, expected) or (isinstance(value, int | float) and value <= 0):
            raise DataError(f"{path} has {key} {shown(value)}; prepare the pairs again.")
    return meta


def shards_meta(config: AmbientConfig, codec: Codec | None = None, n_codebooks: int = 0) -> dict[str, Any]:
    """What a folder of shards states in its `meta.json`.

    Args:
        codec: whose codes the pairs have, or None for pairs without sound.

    Raises:
        DataError: if codec and features do not fit each other.
    """
    if codec is not None:
        _check_codec(codec, config)
    return {
        "format": FORMAT_VERSION,
        "codec_checksum": codec.token_checksum(n_codebooks) if codec else None,
        "frame_rate": config.frame_rate,
        "n_codebooks": n_codebooks,
        "codebook_size": codec.codebook_size if codec else 0,
        "feature_version": FEATURE_VERSION,
        "feature_settings": {name: getattr(config, name) for name in FEATURE_SETTINGS},
        "controls": prepared_controls(),
    }


def check_shards(target: Path, meta: Mapping[str, Any]) -> None:
    """Refuse a folder that was prepared with something else."""
    if (target / META).exists():
        old = read_meta(target)
        for key, value in meta.items():
            if old.get(key) != value:
                raise DataError(
                    f"{target} was prepared with {key} {old.get(key)!r}; this run has {value!r}, "
                    "choose another folder or remove that one."
                )


def _check_codec(codec: Codec, config: AmbientConfig) -> None:
    """Raise an error if a codec's codes do not go with the features, or not into shards."""
    if abs(config.frame_rate - codec.frame_rate) > 1e-6:
        raise DataError(
            f"The ambient features have {config.frame_rate:g} frames per second and the codec "
            f"{codec.frame_rate:g}; expected the same, set ambient.frame_rate."
        )
    if codec.codebook_size > MAX_CODEBOOK_SIZE:
        raise DataError(
            f"The codec has {codec.codebook_size} codes a book; shards hold {MAX_CODEBOOK_SIZE} at most."
        )


def _fingerprints(root: Path, pairs: Sequence[Pair]) -> list[tuple[Pair, str]]:
    """The pairs, each once, with what tells whether one has changed."""
    marked = []
    for pair in {pair.id: pair for pair in pairs}.values():
        files = [root / name for name in (pair.silent, pair.music, pair.score) if name is not None]
        text = f"{pair.to_line()} {[file.stat().st_size if file.is_file() else None for file in files]}"
        marked.append((pair, hashlib.sha256(text.encode()).hexdigest()[:16]))
    return marked


def _shards(folder: Path, split: str) -> list[Path]:
    """The shards of a split, in order."""
    return sorted(folder.glob(f"{split}-[0-9]*.parquet"))


def _read_rows(shards: Iterable[Path], *columns: str) -> list[Row]:
    """Some columns of shards."""
    parquet = require("pyarrow.parquet", "train")
    return [row for shard in shards for row in parquet.read_table(shard, columns=list(columns)).to_pylist()]


def _read_shard(shard: Path, names: Sequence[str], meta: Mapping[str, Any]) -> Any:
    """Some columns of a shard as a table that was checked: checksums, types, lengths, and values in their range."""
    arrow, parquet = require("pyarrow", "train"), require("pyarrow.parquet", "train")
    types = _types()
    try:
        table = parquet.read_table(shard, columns=list(names), page_checksum_verification=True)
        table.validate(full=True)
        for name in names:
            if name not in table.column_names or table.schema.field(name).type != types[name]:
                raise ValueError(f"the column '{name}' is missing or of another type")
            if table[name].null_count and not (name in MAY_LACK or name.startswith("signal.")):
                raise ValueError(f"the column '{name}' has empty rows")
        if "n_frames" in names:
            _check_values(table, names, meta)
    except (OSError, ValueError, KeyError, MemoryError, arrow.ArrowException) as error:
        reason = " ".join(str(error).split()).rstrip(".")[:200]
        raise DataError(f"{shard} is damaged ({reason}); run `s2m data prepare` again.") from error
    return table


def _check_values(table: Any, names: Sequence[str], meta: Mapping[str, Any]) -> None:
    """Raise a `ValueError` if codes or signals of a shard are not as many as its frames, or out of their range."""
    compute = require("pyarrow.compute", "train")
    n_frames = table["n_frames"].to_numpy()
    if (n_frames < 1).any():
        raise ValueError("a pair has no frames")
    if "codes" in names:
        codes = compute.list_flatten(table["codes"]).to_numpy()
        lengths = compute.list_value_length(table["codes"]).drop_null().to_numpy()
        n_frames_coded = n_frames[compute.is_valid(table["codes"]).to_numpy()]
        if (lengths != n_frames_coded * meta["n_codebooks"]).any():
            raise ValueError("a pair has other codes than its frames need")
        if len(codes) and not 0 <= codes.min() <= codes.max() < meta["codebook_size"]:
            raise ValueError(f"a code is not within 0 to {meta['codebook_size'] - 1}")
    for name, control in CONTROLS.items():
        if (column := _column(name)) not in names:
            continue
        there = compute.is_valid(table[column]).to_numpy()
        lengths = compute.list_value_length(table[column]).drop_null().to_numpy()
        steps = n_frames[there] * control.rate if control.axis == "along" else np.ones(there.sum(), int)
        if len(lengths) and ((lengths % steps).any() or len(set((lengths // steps).tolist())) > 1):
            raise ValueError(f"a pair has other values of '{name}' than its frames need")
        if not np.isfinite(compute.list_flatten(table[column]).to_numpy()).all():
            raise ValueError(f"a value of '{name}' is not finite")


def _keep_good_shards(target: Path, wanted: dict[str, str], meta: Mapping[str, Any]) -> set[str]:
    """Ids in shards that are whole and up to date; all other shards are removed."""
    kept: set[str] = set()
    for shard in (s for split in SPLITS for s in _shards(target, split)):
        try:
            rows = _read_shard(shard, list(_types()), meta).select(["id", "fingerprint"]).to_pylist()
        except DataError:
            rows = []
        ids = {row["id"] for row in rows}
        if rows and not ids & kept and all(wanted.get(row["id"]) == row["fingerprint"] for row in rows):
            kept |= ids
        else:
            shard.unlink()
    return kept


Setup = tuple[Path, "Codec", int, AmbientConfig]
"""What all pairs of a run are encoded with: their folder, the codec, its first K codebooks, the features."""


def _start(*job: Any) -> Any:
    """In a worker: what it was sent."""
    return job


@one_thread()
def _encode_pair(job: Setup, item: tuple[Pair, str]) -> Row | str:
    """One row of a shard, or the sentence that says why there is none."""
    from silent2music.acoustics import analyze

    (root, codec, n_codebooks, config), (pair, fingerprint) = job, item
    codes = None
    try:
        if pair.music is None:
            silent = silent_side(root, pair)
            seconds = silent.seconds
        else:
            silent, music = load_pair(root, pair)
            seconds = min(silent.seconds, music.seconds)
            music = _first_seconds(music.mono().resampled(codec.sample_rate), seconds)
            silent = _first_seconds(silent, seconds)
            with torch.inference_mode():
                codes = codec.encode(torch.from_numpy(music.samples)[None], n_codebooks)[0].cpu().numpy()
        features = ambient_features(silent, analyze(silent), config)
        score = score_of(root, pair)
        if score is not None and score.seconds > seconds:
            score = score.slice(0.0, seconds)
    except S2MError as error:
        return f"{pair.id}: {error}"
    n_frames = len(features.frames) if codes is None else codes.shape[1]
    room = AmbientFeatures(_fit(features.frames, n_frames, pair.id), features.scalars)
    return {
        "id": pair.id,
        "fingerprint": fingerprint,
        "kind": pair.kind,
        "seconds": seconds,
        "n_frames": n_frames,
        "codes": None if codes is None else codes.astype(np.int16).ravel(),
        "score": None if score is None else midi_bytes(score),
        **signal_columns(room, pair.labels),
    }


def signal_columns(room: AmbientFeatures, labels: Mapping[str, Any]) -> Row:
    """The columns of a row that hold its signals, read from the room's features and the pair's labels."""
    known, n_frames = {**labels, "room": room}, len(room.frames)
    signals = {name: CONTROLS[name].read(known, 0, n_frames) for name in prepared_controls()}
    return {
        _column(name): None if value is None else np.asarray(value, np.float16).ravel()
        for name, value in signals.items()
    }


def _column(control: str) -> str:
    """The name of a control's column."""
    return f"signal.{control}"


def _first_seconds(waveform: Waveform, seconds: float) -> Waveform:
    """At most the first `seconds` of a waveform."""
    return Waveform(waveform.slice(0, round(seconds * waveform.sample_rate)), waveform.sample_rate)


def _fit(frames: FloatArray, n_frames: int, name: str) -> FloatArray:
    """Features `[S, F]` as `[n_frames, F]`: the last step is dropped or repeated where rounding differs."""
    difference = n_frames - len(frames)
    if abs(difference) > MAX_FRAME_DIFFERENCE:
        raise DataError(
            f"{name} has {len(frames)} feature steps and {n_frames} codec frames; expected the same."
        )
    return np.pad(frames, ((0, max(0, difference)), (0, 0)), mode="edge")[:n_frames]


def _types() -> dict[str, Any]:
    """The columns of a shard and their Arrow types."""
    arrow = require("pyarrow", "train")
    return {
        **dict.fromkeys(("id", "fingerprint", "kind"), arrow.string()),
        "seconds": arrow.float64(),
        "n_frames": arrow.int32(),
        "codes": arrow.list_(arrow.int16()),
        "score": arrow.binary(),
        **dict.fromkeys(map(_column, prepared_controls()), arrow.list_(arrow.float16())),
    }


def shard_path(folder: Path, split: str, number: int) -> Path:
    """The file of a split's shard."""
    return folder / f"{split}-{number:05d}.parquet"


def shard_length(path: Path) -> int:
    """How many rows a shard has; 0 where there is none or it is damaged."""
    parquet, arrow = require("pyarrow.parquet", "train"), require("pyarrow", "train")
    try:
        return int(parquet.read_metadata(path).num_rows)
    except (OSError, arrow.ArrowException):
        return 0


def write_shard(target: Path, split: str, rows: Sequence[Row], meta: Mapping[str, Any], number: int) -> None:
    """Write rows as a shard of a split, whole or not at all; before the first one what the folder holds.

    Args:
        split: `train` or `validation`.
        meta: from `shards_meta`.
    """
    arrow, parquet = require("pyarrow", "train"), require("pyarrow.parquet", "train")
    table = arrow.Table.from_pylist(rows, arrow.schema(_types()))
    if not (target / META).exists():
        write_text(target / META, json.dumps(meta, indent=2) + "\n")
    with atomic_path(shard_path(target, split, number), force=True) as temporary:
        parquet.write_table(table, temporary, row_group_size=ROWS_PER_GROUP, write_page_checksum=True)


@dataclass(frozen=True)
class Batch:
    """Crops of pairs side by side, padded at the end.

    Attributes:
        codes: `[B, K, T]` int64, zero where padded; K is 0 where they were not asked for.
        signals: B rows of T codec frames; their mask is that of the codes too.
        ids: names of the pairs.
        kinds: scene kinds.
        starts: first frame of each crop in its recording.
        scores: the music of each crop as notes, in seconds from its start, or of each whole pair where that is asked
            for, and empty for a pair that has none; none where they were not asked for.
        scored: of each of them, whether the pair has a score.
    """

    codes: Tensor
    signals: Signals
    ids: tuple[str, ...]
    kinds: tuple[str, ...]
    starts: tuple[int, ...]
    scores: tuple[Score, ...] = ()
    scored: tuple[bool, ...] = ()

    def to(self, device: Any) -> Batch:
        """The same batch on another device."""
        return replace(self, codes=self.codes.to(device, non_blocking=True), signals=self.signals.to(device))

    @staticmethod
    def collate(rows: Sequence[Batch]) -> Batch:
        """Rows of different lengths in one batch."""
        signals = Signals.collate([row.signals for row in rows])
        codes = [nn.functional.pad(row.codes, (0, signals.n_frames - row.codes.shape[2])) for row in rows]
        ids, kinds, starts, scores, scored = (
            tuple(value for row in rows for value in getattr(row, name))
            for name in ("ids", "kinds", "starts", "scores", "scored")
        )
        return Batch(torch.cat(codes), signals, ids, kinds, starts, scores, scored)


class PairDataset:
    """A prepared split, from which crops are taken; ordered by pair id, whatever the layout of its shards.

    It is held in memory, 20 hours in about 0.5 GB, or where its shards are larger than `LARGE_BYTES` in a memory-mapped
    copy that Hugging Face `datasets` keeps in its cache. The crop of pair `index` in `epoch` depends on (seed, epoch,
    index) alone.

    Args:
        split: `train` or `validation`.
        crop_seconds: length of the crops; None gives whole recordings.
        controls: whose signals to read; all that were prepared by default. Those that follow from a score need scores.
        needs: `codes`, `score` or both: what to read; pairs that lack one of them are left out.
        wants: the same, where pairs that lack it are kept.
        whole_scores: give the scores of whole pairs with their crops, for what is remembered of the music before.

    Raises:
        DataError: if the folder was not prepared, has no such split or control, or no pair has what is needed.
        S2MError: if the split is large and `datasets` is not installed.
    """

    def __init__(
        self,
        folder: Path | str,
        split: str = "train",
        crop_seconds: float | None = None,
        seed: int = 0,
        controls: Sequence[str] | None = None,
        needs: Sequence[str] = ("codes",),
        whole_scores: bool = False,
        wants: Sequence[str] = (),
    ) -> None:
        require("pyarrow", "train")
        folder = Path(folder)
        self.meta = read_meta(folder)
        self.seed = seed
        self.crop_frames = None
        if crop_seconds is not None:
            self.crop_frames = max(1, round(crop_seconds * self.meta["frame_rate"]))
        self.controls = tuple(self.meta["controls"] if controls is None else controls)
        stored = [name for name in self.controls if CONTROLS[name].label is None or "score" not in needs]
        for name in stored:
            if name not in self.meta["controls"]:
                raise DataError(
                    f"{folder} was prepared without the control '{name}'; prepare the pairs again."
                )
        self._whole_scores = whole_scores
        self._columns = _read_columns(folder, split, stored, needs, wants, self.meta)
        self.ids: list[str] = list(self._columns["id"])
        self.kinds: list[str] = list(self._columns["kind"])
        self.seconds: list[float] = list(self._columns["seconds"])

    def __len__(self) -> int:
        return len(self.ids)

    def crop(self, index: int, epoch: int = 0) -> Batch:
        """The crop of pair `index` in `epoch`; a pair shorter than the crop comes whole."""
        n_frames = int(self._columns["n_frames"][index])
        start, length = 0, n_frames
        if self.crop_frames is not None and self.crop_frames < n_frames:
            length = self.crop_frames
            rng = np.random.default_rng((self.seed, epoch, index))
            # Nothing is remembered at the beginning of a piece, and every piece that is made has one.
            start = 0 if rng.random() < BEGINNING_SHARE else int(rng.integers(n_frames - length + 1))
        codes = np.zeros((0, length), np.int64)
        if "codes" in self._columns:
            codes = self._columns["codes"][index].reshape(-1, n_frames)[:, start : start + length]
        score = (
            self.score(index)
            if "score" in self._columns and self._columns["score"][index] is not None
            else None
        )
        scores = (self._part(score, start, length),) if "score" in self._columns else ()
        scored = tuple(score is not None for _ in scores)
        signals = {name: self._signal(name, index, score, n_frames, start, length) for name in self.controls}
        row = torch.from_numpy(codes.astype(np.int64))[None]
        own = (self.ids[index],), (self.kinds[index],), (start,)
        return Batch(row, from_arrays(signals, length), *own, scores, scored)

    def score(self, index: int) -> Score:
        """The score of a whole pair; scores must be among what is needed."""
        return parse_midi(self._columns["score"][index], f"The score of {self.ids[index]}")

    def _part(self, score: Score | None, start: int, length: int) -> Score:
        """The notes of a crop; in what the score does not reach, and without one, nothing is played."""
        if score is None:
            return Score(length / self.meta["frame_rate"], ())
        if self._whole_scores:
            return score
        begin, seconds = (frame / self.meta["frame_rate"] for frame in (start, length))
        if begin >= score.seconds:
            return Score(seconds, ())
        return replace(score.slice(begin, begin + seconds), seconds=seconds)

    def _signal(
        self, name: str, index: int, score: Score | None, n_frames: int, start: int, length: int
    ) -> FloatArray | None:
        """A control's signal for a crop of a pair."""
        control = CONTROLS[name]
        if control.label is not None and score is not None:
            labelled = control.label(score, n_frames, self.meta["frame_rate"])
            if labelled is None or control.axis == "whole":
                return labelled
            return labelled[start : start + length]
        values = self._columns[_column(name)][index]
        if values is None or control.axis == "whole":
            return None if values is None else np.asarray(values, np.float32)
        steps = values.reshape(n_frames * control.rate, -1)
        return np.asarray(steps[start * control.rate : (start + length) * control.rate], np.float32)


def _read_columns(
    folder: Path,
    split: str,
    controls: Sequence[str],
    needs: Sequence[str],
    wants: Sequence[str],
    meta: Mapping[str, Any],
) -> dict[str, _Column]:
    """The columns of a split in order of id."""
    arrow, compute = require("pyarrow", "train"), require("pyarrow.compute", "train")
    shards = _shards(folder, split)
    if not shards:
        raise DataError(f"{folder} has no shard of the split '{split}'; expected one of {', '.join(SPLITS)}.")
    names = ["id", "kind", "seconds", "n_frames", *needs, *wants, *map(_column, controls)]
    tables = (_read_shard(shard, names, meta) for shard in shards)
    if sum(shard.stat().st_size for shard in shards) > LARGE_BYTES:
        for _ in tables:
            pass  # each is checked, and let go
        table = _mapped(shards)
    else:
        table = arrow.concat_tables(tables)
    order = compute.sort_indices(table["id"]).to_numpy()
    for name in needs:
        order = order[compute.is_valid(table[name]).to_numpy()[order]]
    if not len(order):
        raise DataError(
            f"{folder} has no pair with {' and '.join(needs)} in the split '{split}'; prepare pairs that have."
        )
    return {name: _Column(table[name], order) for name in names}


def _mapped(shards: Sequence[Path]) -> Any:
    """The table of shards without taking memory for it: `datasets` writes it to its cache once, and maps that file."""
    datasets = require("datasets", "train")
    files = [str(shard) for shard in shards]
    return datasets.load_dataset("parquet", data_files=files, split="train").data.table


class _Column(Sequence[Any]):
    """A column of a table by row, in an order of rows; lists are numpy views into the table's memory, or its file.

    Args:
        values: a chunked array of Arrow; order: rows `[n]`.
    """

    def __init__(self, values: Any, order: IntArray) -> None:
        self._values, self._order = values, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: Any) -> Any:
        value = self._values[int(self._order[index])]
        return (
            value.values.to_numpy(zero_copy_only=False)
            if hasattr(value, "values") and value.is_valid
            else value.as_py()
        )


def batches(
    dataset: PairDataset, batch_size: int, epoch: int, start: int = 0, rank: int = 0, world_size: int = 1
) -> Iterator[Batch]:
    """The batches of an epoch for one rank, shuffled and cropped; an incomplete last batch is left out.

    The order depends on (seed, epoch) alone, so a resumed run continues an epoch exactly by giving `start`,
    the number of batches already used. Ranks share no pair within an epoch.
    """
    order = np.random.default_rng((dataset.seed, epoch)).permutation(len(dataset))
    n_batches = len(order) // (batch_size * world_size)
    for step in range(start, n_batches):
        first = (step * world_size + rank) * batch_size
        yield Batch.collate([dataset.crop(int(i), epoch) for i in order[first : first + batch_size]])
