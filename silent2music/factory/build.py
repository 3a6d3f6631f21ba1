"""The pair factory: scenes on one side, arranged and rendered scores on the other, written as a pair folder.

Every pair follows from the seed and its own index alone, so that the same seed gives the same bytes whatever
the number of workers and however often the build was killed. A pair is complete when its label file exists;
`pairs.jsonl` lists the complete ones in order and can be read while the build goes on.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from silent2music import config as settings
from silent2music.audio import FloatArray, Waveform, atomic_path, write
from silent2music.config import DataConfig
from silent2music.data.pairs import MANIFEST, Pair
from silent2music.errors import ConfigError, DataError
from silent2music.factory.arrangement import ENERGY_RATE_HZ, Arrangement, SceneTruth
from silent2music.factory.arranging import arrange
from silent2music.factory.foley import pick_room
from silent2music.factory.rendering import render
from silent2music.factory.scenes import (
    FROM_MUSIC,
    Levels,
    Scene,
    free_truth,
    leak_scene,
    make_scene,
    muted_scene,
    usable_kinds,
)
from silent2music.factory.scores import Score, load_score
from silent2music.factory.sources import Credit, Library, held_out, open_library, read_licences

Progress = Callable[[int, int], None]
"""Is called with the number of complete pairs and the number of all."""

SETTINGS_FILE = "build.json"
ATTRIBUTION_FILE = "ATTRIBUTION.md"
MAX_SCORE_TRIES = 12
MANIFEST_SECONDS = 20.0
"""How often the manifest is renewed while building."""

LOADERS: dict[str, Callable[[Path], Score]] = {".mid": load_score, ".midi": load_score}
"""How a score is read, by suffix."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Stock:
    """What the pairs of one split are made from: recordings and rooms, scores, and the mix of kinds."""

    library: Library
    scores: tuple[Credit, ...]
    kinds: tuple[str, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Factory:
    """All that a worker needs; made once a process.

    Attributes:
        config: the data section of the recipe.
        out: pair folder.
        seed: of the whole set.
        stocks: by split; `validation` is missing where nothing could be set aside.
        refused: files left out because they have no licence entry.
    """

    config: DataConfig
    out: Path
    seed: int
    stocks: dict[str, Stock]
    refused: tuple[str, ...]


def build(
    config: DataConfig, out: Path, hours: float, seed: int, workers: int = 1, progress: Progress | None = None
) -> None:
    """Build pairs, or go on with a build that was stopped.

    Writes `audio/` (FLAC, 16-bit steps: silent side mono, music side stereo), `labels/`, `pairs.jsonl`,
    `ATTRIBUTION.md` and `build.json`. More hours than last time add pairs; another seed or other settings need
    another folder.

    Args:
        config: the data section of the recipe.
        out: pair folder, made if missing.
        hours: how much to have in all.
        seed: 0 or more.
        workers: processes; 1 builds in this one.
        progress: see `Progress`.

    Raises:
        ConfigError: if hours, seed or workers are out of range.
        DataError: if the sources are missing or unusable, or `out` was built with other settings.
    """
    if not hours > 0 or not math.isfinite(hours):
        raise ConfigError(f"hours is {hours}; expected more than 0.")
    if seed < 0 or workers < 1:
        raise ConfigError(
            f"seed is {seed} and workers {workers}; expected a seed from 0 and at least 1 worker."
        )
    n_pairs = math.ceil(hours * 3600 / config.seconds - 1e-9)
    _claim(config, out, seed)
    factory = open_factory(config, out, seed)
    missing = [index for index in range(n_pairs) if not _label_path(out, index).exists()]
    report = progress or (lambda done, total: None)
    report(n_pairs - len(missing), n_pairs)
    renewed = monotonic()
    for count, _ in enumerate(_built(factory, missing, workers), start=n_pairs - len(missing) + 1):
        report(count, n_pairs)
        if monotonic() - renewed > MANIFEST_SECONDS:
            _write_manifest(factory)
            renewed = monotonic()
    _write_manifest(factory)


def open_factory(config: DataConfig, out: Path, seed: int) -> Factory:
    """Read the sources and divide them into splits.

    Raises:
        DataError: if a folder is missing or nothing in it can be used.
    """
    ambience, scores = _folder(config.ambience, "ambience"), _folder(config.scores, "scores")
    rooms = _folder(config.rooms, "rooms") if config.rooms else None
    if not Path(config.soundfont).is_file():
        raise DataError(f"The soundfont {config.soundfont} does not exist; install it or set data.soundfont.")
    library = open_library(ambience, rooms, out / "library")
    credits, refused = licensed_scores(scores)
    aside = held_out([[credit.path for credit in credits]], config.validation_share)
    stocks = {}
    for split, part in zip(("train", "validation"), library.split(config.validation_share), strict=True):
        chosen = tuple(c for c in credits if (c.path in aside) is (split == "validation"))
        kinds = usable_kinds(part, config.kinds)
        if chosen and kinds:
            stocks[split] = Stock(part, chosen, tuple(kinds), tuple(kinds.values()))
    if "train" not in stocks:
        raise DataError(
            f"{ambience} and {scores} leave nothing to train on; add recordings, scores or kinds."
        )
    return Factory(config, out, seed, stocks, (*library.refused, *refused))


def make_pair(factory: Factory, index: int) -> tuple[Waveform, Waveform, Pair]:
    """One pair by its index: silent side, music side, and its line for the manifest.

    Raises:
        DataError: if no score could be arranged in `MAX_SCORE_TRIES` tries.
    """
    config = factory.config
    rng, music_rng = (
        np.random.default_rng(sequence) for sequence in np.random.SeedSequence([factory.seed, index]).spawn(2)
    )
    split = _split_of(factory, index)
    stock = factory.stocks[split]
    shares = np.asarray(stock.shares) / sum(stock.shares)
    kind = stock.kinds[int(rng.choice(len(stock.kinds), p=shares))]
    levels = Levels(config.level_min_dbfs, config.level_max_dbfs)
    scene = None
    if kind not in FROM_MUSIC:
        scene = make_scene(kind, stock.library, rng, config.seconds, levels)
    room = pick_room(stock.library, rng, 0.2, 1.2) if kind == "muted" else None
    truth = scene.truth if scene else free_truth(kind, rng, config.seconds, room)
    score, arrangement = _arranged(factory, stock, truth, music_rng)
    if kind == "muted":
        scene = muted_scene(arrangement, stock.library, rng, levels, room)
    music = render(
        arrangement,
        Path(config.soundfont),
        sample_rate=config.sample_rate,
        room_response=scene.room_response if scene else None,
    )
    if scene is None:
        scene = leak_scene(arrangement, music, stock.library, rng, levels)
    name = _name(index)
    labels = _labels(scene, arrangement, score, factory.seed)
    pair = Pair(f"audio/{name}.silent.flac", f"audio/{name}.music.flac", split=split, labels=labels)
    return scene.audio, music, pair


# --- one pair ------------------------------------------------------------------------------------------------


def _arranged(
    factory: Factory, stock: Stock, truth: SceneTruth, rng: np.random.Generator
) -> tuple[Credit, Arrangement]:
    """A score of the split arranged to a scene; scores that do not serve (too short, unreadable) are passed over."""
    folder = Path(factory.config.scores)
    reason: DataError | None = None
    for _ in range(MAX_SCORE_TRIES):
        credit = stock.scores[int(rng.integers(len(stock.scores)))]
        try:
            path = folder / credit.path
            score = LOADERS[path.suffix.lower()](path)
            return credit, arrange(score, truth, rng, normalise_key=factory.config.normalise_key)
        except DataError as error:
            reason = error
    raise DataError(f"No score of {MAX_SCORE_TRIES} could be arranged; the last one said: {reason}")


def _split_of(factory: Factory, index: int) -> str:
    """Validation pairs are spread evenly by index, so that any number of pairs has its share."""
    share = factory.config.validation_share
    validation = math.floor((index + 1) * share) > math.floor(index * share)
    return "validation" if validation and "validation" in factory.stocks else "train"


def _labels(scene: Scene, arrangement: Arrangement, score: Credit, seed: int) -> dict[str, Any]:
    """Everything that is known of a pair, as plain JSON values."""
    truth = scene.truth
    sources = [{**_credit(c), "role": "recording"} for c in scene.sources]
    if scene.room_credit is not None:
        sources.append({**_credit(scene.room_credit), "role": "room"})
    return {
        "kind": truth.kind,
        "tempo_bpm": round(float(arrangement.tempo_bpm), 3),
        "beats": _rounded(arrangement.beat_seconds),
        "bars": _rounded(arrangement.bar_seconds),
        "boundaries": _rounded(arrangement.boundary_seconds),
        "scene_boundaries": _rounded(truth.boundary_seconds),
        "pulse": _rounded(truth.beat_seconds),
        "valence": _rounded(arrangement.valence, 3),
        "arousal": _rounded(arrangement.arousal, 3),
        "instruments": [part.name for part in arrangement.parts],
        "key": arrangement.key,
        "melody_chroma": melody_chroma(arrangement),
        "caption": arrangement.caption,
        "rt60_seconds": None if truth.rt60_seconds is None else round(truth.rt60_seconds, 4),
        "level_dbfs": round(truth.level_dbfs, 3),
        "event_seconds": _rounded(truth.event_seconds),
        "event_strengths": _rounded(truth.event_strengths, 3),
        "sources": [*sources, {**_credit(score), "role": "score"}],
        "score": score.path,
        "seed": seed,
    }


def melody_chroma(arrangement: Arrangement) -> list[int]:
    """The melody's pitch class at every step of `1 / ENERGY_RATE_HZ`: 0 is C, -1 is a rest."""
    classes = np.full(round(arrangement.seconds * ENERGY_RATE_HZ), -1)
    for part in arrangement.parts:
        if part.role == "melody" and not part.is_drum:
            for start, end, pitch in zip(part.start_seconds, part.end_seconds, part.pitches, strict=True):
                first = round(float(start) * ENERGY_RATE_HZ)
                classes[first : max(first + 1, round(float(end) * ENERGY_RATE_HZ))] = int(pitch) % 12
    return [int(value) for value in classes]


def _credit(credit: Credit) -> dict[str, str]:
    return {"path": credit.path, "licence": credit.licence, "author": credit.author}


def _rounded(values: Any, digits: int = 4) -> list[float]:
    return [round(float(value), digits) for value in values]


def _save(factory: Factory, index: int) -> None:
    """Make a pair and write it; the label file comes last and says that the rest is there."""
    silent, music, pair = make_pair(factory, index)
    write(factory.out / pair.silent, silent, force=True)
    write(factory.out / pair.music, Waveform(_in_16_bits(music.samples), music.sample_rate), force=True)
    with atomic_path(_label_path(factory.out, index), force=True) as temporary:
        temporary.write_text(pair.to_line() + "\n", encoding="utf-8")


def _in_16_bits(samples: FloatArray) -> FloatArray:
    """Samples on the steps of 16 bits: FLAC stores the empty low bits of a 24-bit file for nothing."""
    return np.clip(np.round(samples * np.float32(32768)), -32768, 32767).astype(np.float32) / np.float32(
        32768
    )


# --- many pairs ----------------------------------------------------------------------------------------------


_worker: Factory | None = None
"""The factory of a worker process, set once by `_start_worker`."""


def _start_worker(config: DataConfig, out: Path, seed: int) -> None:
    global _worker
    _worker = open_factory(config, out, seed)


def _work(index: int) -> int:
    assert _worker is not None
    _save(_worker, index)
    return index


def _built(factory: Factory, indices: list[int], workers: int) -> Iterator[int]:
    """Build pairs in this process or in several; yields each index as it is complete."""
    if workers == 1 or len(indices) < 2:
        for index in indices:
            _save(factory, index)
            yield index
        return
    with _single_threaded():
        # Spawned, not forked: a forked child of a process that has run torch or a synthesiser can hang.
        context = multiprocessing.get_context("spawn")
        arguments = (factory.config, factory.out, factory.seed)
        with ProcessPoolExecutor(workers, context, _start_worker, arguments) as pool:
            yield from _in_flight(pool, indices, 4 * workers)


def _in_flight(pool: ProcessPoolExecutor, indices: list[int], limit: int) -> Iterator[int]:
    """Submit a few at a time, so that a fault or an interrupt does not wait for thousands."""
    waiting = iter(indices)
    running: set[Future[int]] = {pool.submit(_work, index) for index in islice(waiting, limit)}
    try:
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                following = next(waiting, None)
                if following is not None:
                    running.add(pool.submit(_work, following))
                yield future.result()
    finally:
        for future in running:
            future.cancel()


@contextmanager
def _single_threaded() -> Iterator[None]:
    """One numerical thread a worker: the processes are the parallelism."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# --- the folder ----------------------------------------------------------------------------------------------


def _claim(config: DataConfig, out: Path, seed: int) -> None:
    """Make the folder this build's own, or refuse it; temporary files of a killed build are removed."""
    wanted = json.loads(json.dumps({"seed": seed, "data": settings.to_dict(config)}))
    path = out / SETTINGS_FILE
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != wanted:
            names = sorted(
                {key for key in wanted["data"] if found.get("data", {}).get(key) != wanted["data"][key]}
                | ({"seed"} if found.get("seed") != seed else set())
            )
            raise DataError(
                f"{out} was built with another {', '.join(names)}; choose another folder or the same values."
            )
    elif (out / MANIFEST).exists():
        raise DataError(f"{out} holds pairs that were not built here; choose another folder.")
    try:
        for name in ("audio", "labels", "library"):
            (out / name).mkdir(parents=True, exist_ok=True)
            for leftover in (out / name).glob(".s2m-*"):
                leftover.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{out} cannot be written ({error.strerror}); choose another place.") from error
    if not path.exists():
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")


def _write_manifest(factory: Factory) -> None:
    """Renew the manifest and the attribution from all complete pairs, in order of index."""
    lines = [path.read_text(encoding="utf-8") for path in sorted((factory.out / "labels").glob("*.json"))]
    with atomic_path(factory.out / MANIFEST, force=True) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
    with atomic_path(factory.out / ATTRIBUTION_FILE, force=True) as temporary:
        temporary.write_text(attribution(lines, factory.refused, factory.config.soundfont), encoding="utf-8")


def attribution(lines: list[str], refused: tuple[str, ...], soundfont: str) -> str:
    """The text of `ATTRIBUTION.md`: every source used, by licence, with its author."""
    used: dict[str, set[tuple[str, str, str]]] = {}
    for line in lines:
        for source in json.loads(line)["labels"]["sources"]:
            used.setdefault(source["licence"], set()).add((source["role"], source["path"], source["author"]))
    text = [
        "# Attribution",
        "",
        "These pairs were put together from the following works. Recordings were cut, mixed, filtered and "
        "attenuated; scores were cut, retimed, transposed and orchestrated anew.",
        "",
        f"Synthesised with the soundfont {Path(soundfont).name}.",
    ]
    for licence in sorted(used):
        text += ["", f"## {licence}", ""]
        text += [
            f"- {path} ({role}){': ' + author if author else ''}"
            for role, path, author in sorted(used[licence])
        ]
    if refused:
        text += [
            "",
            "## Not used, because no licence is stated",
            "",
            *(f"- {name}" for name in sorted(refused)),
        ]
    return "\n".join(text) + "\n"


def licensed_scores(folder: Path) -> tuple[list[Credit], list[str]]:
    """Scores of a folder that have a licence entry, and the names of those that have none."""
    licences = read_licences(folder)
    found = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix.lower() in LOADERS)
    credits = [licences[name] for name in found if name in licences]
    if not credits:
        raise DataError(
            f"{folder} holds no score ({', '.join(LOADERS)}) with a licence entry in its index.tsv; "
            "add one or set data.scores."
        )
    return credits, [name for name in found if name not in licences]


def _folder(value: str, name: str) -> Path:
    if not value:
        raise DataError(f"No {name} folder is set; give one in the recipe or with --set data.{name}=FOLDER.")
    if not Path(value).is_dir():
        raise DataError(
            f"The {name} folder {value} does not exist; set another with --set data.{name}=FOLDER."
        )
    return Path(value)


def _name(index: int) -> str:
    return f"{index:06d}"


def _label_path(out: Path, index: int) -> Path:
    return out / "labels" / f"{_name(index)}.json"
