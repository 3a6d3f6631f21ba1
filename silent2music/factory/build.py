"""The pair factory: scenes on one side, arranged and rendered scores on the other, written as a pair folder.

Every pair follows from the seed and its own index alone, so that the same seed gives the same bytes whatever
the number of workers and however often the build was killed. A pair is complete when its label file exists;
`pairs.jsonl` lists the complete ones in order and can be read while the build goes on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import numpy as np

from silent2music import config as settings
from silent2music.audio import Waveform, write
from silent2music.config import DataConfig
from silent2music.data.pairs import MANIFEST, SPLITS, Pair
from silent2music.errors import ConfigError, DataError, require
from silent2music.factory.arrangement import Arrangement
from silent2music.factory.arranging import arrange
from silent2music.factory.chain import in_16_bits
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
from silent2music.factory.scores import SourceScore, load_score
from silent2music.factory.sources import Credit, Library, held_out, licensed, open_library
from silent2music.files import atomic_path, claimed, read_json, remove_leavings
from silent2music.processes import Pool, StepProgress
from silent2music.score import write_midi

Made = TypeVar("Made")

SETTINGS_FILE = "build.json"
ATTRIBUTION_FILE = "ATTRIBUTION.md"
MAX_SCORE_TRIES = 12
MANIFEST_SECONDS = 20.0
"""How often the manifest is renewed while building."""

LOADERS: dict[str, Callable[[Path], SourceScore]] = {".mid": load_score, ".midi": load_score}
"""How a score is read, by suffix."""


@dataclass(frozen=True)
class Stock:
    """What the pairs of one split are made from: recordings and rooms, scores by path, and the share of each kind."""

    library: Library
    scores: dict[str, Credit]
    kinds: dict[str, float]


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
    config: DataConfig,
    out: Path,
    hours: float,
    seed: int,
    workers: int = 1,
    progress: StepProgress | None = None,
) -> None:
    """Build pairs, or go on with a build that was stopped.

    Writes `audio/` (FLAC, 16-bit steps: silent side mono, music side stereo), `scores/` (MIDI), `labels/`,
    `pairs.jsonl`, `ATTRIBUTION.md` and `build.json`. More hours than last time add pairs; another seed or other
    settings need another folder.

    Args:
        config: the data section of the recipe.
        out: pair folder, made if missing.
        hours: how much to have in all.
        seed: 0 or more.
        workers: processes; 1 builds in this one.
        progress: see `processes.StepProgress`.

    Raises:
        ConfigError: if hours, seed or workers are out of range.
        DataError: if the sources are missing or unusable, or `out` was built with other settings.
        S2MError: if another command writes to `out`.
    """
    require("pyroomacoustics", "train")
    if not hours > 0 or not math.isfinite(hours):
        raise ConfigError(f"hours is {hours}; expected more than 0.")
    if seed < 0 or workers < 1:
        raise ConfigError(
            f"seed is {seed} and workers {workers}; expected a seed from 0 and at least 1 worker."
        )
    n_pairs = math.ceil(hours * 3600 / config.seconds - 1e-9)
    report = progress or (lambda done, total: None)
    with claimed(out):
        wanted = _check_unclaimed(config, out, seed)
        for name in (".", "audio", "scores", "labels", "library"):
            remove_leavings(out / name, alone=True)
        factory = open_factory(config, out, seed)
        if not (out / SETTINGS_FILE).exists():
            with atomic_path(out / SETTINGS_FILE) as temporary:
                temporary.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
        missing = [index for index in range(n_pairs) if not _label_path(out, index).exists()]
        n_done = n_pairs - len(missing)
        report(n_done, n_pairs)
        renewed = monotonic()
        # A worker opens the sources for itself: sent to it, they would be copied.
        with Pool(min(workers, len(missing)), open_factory, (config, out, seed)) as pool:
            for count, _ in enumerate(pool.map(_save, missing), start=n_done + 1):
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
    ambience, scores = data_folder(config.ambience, "ambience"), data_folder(config.scores, "scores")
    rooms = data_folder(config.rooms, "rooms") if config.rooms else None
    if not Path(config.soundfont).is_file():
        raise DataError(f"The soundfont {config.soundfont} does not exist; install it or set data.soundfont.")
    chosen, refused = scores_by_split(scores, config.validation_share)
    library = open_library(ambience, rooms, out / "library")
    stocks = {}
    for split, part in zip(SPLITS, library.split(config.validation_share), strict=True):
        kinds = usable_kinds(part, config.kinds)
        if chosen[split] and kinds:
            stocks[split] = Stock(part, chosen[split], kinds)
    if "train" not in stocks:
        raise DataError(
            f"{ambience} and {scores} leave nothing to train on; add recordings, scores or kinds."
        )
    return Factory(config, out, seed, stocks, (*library.refused, *refused))


def make_pair(factory: Factory, index: int) -> tuple[Waveform, Waveform, Arrangement, Pair]:
    """One pair by its index: silent side, music side, the music's score, and its line for the manifest.

    Raises:
        DataError: if no score could be arranged in `MAX_SCORE_TRIES` tries.
    """
    config = factory.config
    rng, music_rng = (
        np.random.default_rng(sequence) for sequence in np.random.SeedSequence([factory.seed, index]).spawn(2)
    )
    split = split_of(index, config.validation_share, factory.stocks)
    stock = factory.stocks[split]
    shares = np.asarray(list(stock.kinds.values())) / sum(stock.kinds.values())
    kind = str(rng.choice(list(stock.kinds), p=shares))
    levels = Levels(config.level_min_dbfs, config.level_max_dbfs)
    scene, room = None, None
    if kind not in FROM_MUSIC:
        scene = make_scene(kind, stock.library, rng, config.seconds, levels)
        room = scene.room
    elif kind == "muted":
        room = stock.library.pick_room(rng, 0.2, 1.2)
    truth = scene.truth if scene else free_truth(kind, rng, config.seconds, room)
    path, arrangement = usable_score(
        Path(config.scores),
        list(stock.scores),
        music_rng,
        lambda score: arrange(score, truth, music_rng, normalise_key=config.normalise_key),
    )
    if kind == "muted":
        scene = muted_scene(arrangement, stock.library, rng, levels, room)
    music = render(arrangement, Path(config.soundfont), config.sample_rate, room.response if room else None)
    if scene is None:
        scene = leak_scene(arrangement, music, stock.library, rng, levels)
    labels = _labels(scene, arrangement, stock.scores[path], factory.seed)
    silent_file, music_file = (f"audio/{index:06d}.{side}.flac" for side in ("silent", "music"))
    pair = Pair(silent_file, music_file, split=split, labels=labels, score=f"scores/{index:06d}.mid")
    return scene.audio, music, arrangement, pair


# --- one pair ------------------------------------------------------------------------------------------------


def usable_score(
    folder: Path, paths: Sequence[str], rng: np.random.Generator, use: Callable[[SourceScore], Made]
) -> tuple[str, Made]:
    """A score drawn from a folder and what is made of it; scores that do not serve are passed over.

    Args:
        folder: of the scores.
        paths: of the scores in it.
        rng: draws.
        use: what to make; raises `DataError` of a score that is too short.

    Raises:
        DataError: if none of `MAX_SCORE_TRIES` served.
    """
    reason: DataError | None = None
    for _ in range(MAX_SCORE_TRIES):
        path = paths[int(rng.integers(len(paths)))]
        try:
            return path, use(LOADERS[Path(path).suffix.lower()](folder / path))
        except DataError as error:
            reason = error
    raise DataError(f"No score of {MAX_SCORE_TRIES} could be arranged; the last one said: {reason}")


def split_of(index: int, share: float, stocks: Mapping[str, Any]) -> str:
    """Validation pairs are spread evenly by index, so that any number of them has its share, if there is a stock."""
    validation = math.floor((index + 1) * share) > math.floor(index * share)
    return "validation" if validation and stocks.get("validation") else "train"


def _labels(scene: Scene, arrangement: Arrangement, score: Credit, seed: int) -> dict[str, Any]:
    """Everything that is known of a pair, as plain JSON values."""
    truth = scene.truth
    sources = [{**asdict(c), "role": "recording"} for c in scene.sources]
    if scene.room is not None and scene.room.credit is not None:
        sources.append({**asdict(scene.room.credit), "role": "room"})
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
        "caption": arrangement.caption,
        "rt60_seconds": None if truth.rt60_seconds is None else round(truth.rt60_seconds, 4),
        "level_dbfs": round(truth.level_dbfs, 3),
        "event_seconds": _rounded(truth.event_seconds),
        "event_strengths": _rounded(truth.event_strengths, 3),
        "sources": [*sources, {**asdict(score), "role": "score"}],
        "score": score.path,
        "seed": seed,
    }


def _rounded(values: Any, digits: int = 4) -> list[float]:
    return [round(float(value), digits) for value in values]


def _save(factory: Factory, index: int) -> None:
    """Make a pair and write it; the label file comes last and says that the rest is there."""
    silent, music, arrangement, pair = make_pair(factory, index)
    write(factory.out / pair.silent, silent, force=True)
    if pair.music is not None:
        write(factory.out / pair.music, Waveform(in_16_bits(music.samples), music.sample_rate), force=True)
    if pair.score is not None:
        write_midi(factory.out / pair.score, arrangement, force=True)
    with atomic_path(_label_path(factory.out, index), force=True) as temporary:
        temporary.write_text(pair.to_line() + "\n", encoding="utf-8")


# --- the folder ----------------------------------------------------------------------------------------------


def _check_unclaimed(config: DataConfig, out: Path, seed: int) -> dict[str, Any]:
    """The settings of a build as its folder states them; refuses a folder of other pairs."""
    # Pairs are passed on, and where their sources lie on this machine is nobody's concern.
    sources = {name: Path(getattr(config, name)) for name in ("ambience", "scores", "rooms", "soundfont")}
    named = {name: path.name for name, path in sources.items() if path.is_absolute()}
    values = {"seed": seed, "data": settings.to_dict(config) | named}
    wanted: dict[str, Any] = json.loads(json.dumps(values))
    path = out / SETTINGS_FILE
    if path.exists():
        try:
            found = read_json(path)
            old, new = ({**values["data"], "seed": values["seed"]} for values in (found, wanted))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path} is no record of a build ({error}); choose another folder or remove it."
            ) from error
        if found != wanted:
            names = sorted(key for key in new if old.get(key) != new[key])
            raise DataError(
                f"{out} was built with another {', '.join(names)}; choose another folder or the same values."
            )
    elif (out / MANIFEST).exists():
        raise DataError(f"{out} holds pairs that were not built here; choose another folder.")
    return wanted


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
    for licence, sources in sorted(used.items()):
        text += ["", f"## {licence}", ""]
        text += [f"- {path} ({role}){author and ': ' + author}" for role, path, author in sorted(sources)]
    if refused:
        text += ["", "## Not used, because no licence is stated", ""]
        text += [f"- {name}" for name in sorted(refused)]
    return "\n".join(text) + "\n"


def scores_by_split(folder: Path, share: float) -> tuple[dict[str, dict[str, Credit]], list[str]]:
    """Scores of a folder that have a licence entry, by split and path, and the names of those that have none.

    Raises:
        DataError: if there is no score with a licence entry.
    """
    credits, refused = licensed(folder, LOADERS)
    if not credits:
        raise DataError(
            f"{folder} holds no score ({', '.join(LOADERS)}) with a licence entry in its index.tsv; "
            "add one or set data.scores."
        )
    aside = held_out([[credit.path for credit in credits]], share)
    splits: dict[str, dict[str, Credit]] = {split: {} for split in SPLITS}
    for credit in credits:
        splits["validation" if credit.path in aside else "train"][credit.path] = credit
    return splits, refused


def data_folder(value: str, name: str) -> Path:
    """A folder that `config.data` names, or a sentence that says how to set it."""
    if not value:
        raise DataError(f"No {name} folder is set; give one in the recipe or with --set data.{name}=FOLDER.")
    if not Path(value).is_dir():
        raise DataError(
            f"The {name} folder {value} does not exist; set another with --set data.{name}=FOLDER."
        )
    return Path(value)


def _label_path(out: Path, index: int) -> Path:
    return out / "labels" / f"{index:06d}.json"
