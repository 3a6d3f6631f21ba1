"""The pair factory: scenes on one side, arranged and rendered scores on the other, written as a pair folder.

Every pair follows from the seed and its own index alone, so that the same seed gives the same bytes whatever
the number of workers and however often the build was killed. A pair is complete when its label file exists;
`pairs.jsonl` lists the complete ones in order and can be read while the build goes on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from silent2music import config as settings
from silent2music.audio import Waveform, write
from silent2music.config import DataConfig
from silent2music.data.pairs import MANIFEST, SPLITS, Pair
from silent2music.errors import ConfigError, DataError, require
from silent2music.factory.arrangement import Arrangement, SceneTruth
from silent2music.factory.arranging import arrange
from silent2music.factory.chain import in_16_bits
from silent2music.factory.ensembles import draw_style
from silent2music.factory.rendering import render
from silent2music.factory.repertoire import DRUMMING, Repertoire, Work, open_repertoire, usable_score
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
from silent2music.factory.sources import Library, open_library
from silent2music.files import atomic_path, claimed, locked, read_json, remove_leavings, write_text
from silent2music.processes import Pool, StepProgress, launched, share
from silent2music.score import write_midi

SETTINGS_FILE = "build.json"
ATTRIBUTION_FILE = "ATTRIBUTION.md"
MANIFEST_SECONDS = 20.0
"""How often the manifest is renewed while building."""


@dataclass(frozen=True)
class Stock:
    """What the pairs of one split are made from: recordings and rooms, scores, and the share of each kind."""

    library: Library
    repertoire: Repertoire
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
        out: pair folder, made if missing.
        seed: 0 or more.
        workers: processes; 1 builds in this one.

    Raises:
        ConfigError: if hours, seed or workers are out of range.
        DataError: if the sources are missing or unusable, or `out` was built with other settings.
        S2MError: if another command writes to `out`.
    """
    require("pyroomacoustics", "train")
    n_pairs = checked_count(config, hours, seed, workers)
    soundfonts(config)
    report = progress or (lambda done, total: None)
    with claimed_build(config, out, seed, ("audio", "scores", "labels", "library")) as factory:
        own = share(range(n_pairs))
        missing = [index for index in own if not _label_path(out, index).exists()]
        n_done = len(own) - len(missing)
        report(n_done, len(own))
        renewed = monotonic()
        # A worker opens the sources for itself: sent to it, they would be copied.
        with Pool(min(workers, len(missing)), open_factory, (config, out, seed)) as pool:
            for count, _ in enumerate(pool.map(_save, missing), start=n_done + 1):
                report(count, len(own))
                if monotonic() - renewed > MANIFEST_SECONDS:
                    _write_manifest(factory)
                    renewed = monotonic()
        _write_manifest(factory)


def checked_count(config: DataConfig, hours: float, seed: int, workers: int) -> int:
    """How many pairs some hours are.

    Raises:
        ConfigError: if hours, seed or workers are out of range.
    """
    if not hours > 0 or not math.isfinite(hours):
        raise ConfigError(f"hours is {hours}; expected more than 0.")
    if seed < 0 or workers < 1:
        raise ConfigError(
            f"seed is {seed} and workers {workers}; expected a seed from 0 and at least 1 worker."
        )
    return math.ceil(hours * 3600 / config.seconds - 1e-9)


def open_factory(config: DataConfig, out: Path, seed: int) -> Factory:
    """Read the sources and divide them into splits.

    Raises:
        DataError: if a folder is missing or nothing in it can be used.
    """
    ambience, scores = data_folder(config.ambience, "ambience"), score_folders(config)
    rooms = data_folder(config.rooms, "rooms") if config.rooms else None
    repertoires, refused = open_repertoire(scores, config.validation_share)
    library = open_library(ambience, rooms, out / "library")
    stocks = {}
    for split, part in zip(SPLITS, library.split(config.validation_share), strict=True):
        kinds = usable_kinds(part, config.kinds)
        if kinds and any(work.sort != DRUMMING for work in repertoires[split].works):
            stocks[split] = Stock(part, repertoires[split], kinds)
    if "train" not in stocks:
        raise DataError(
            f"{ambience} and {', '.join(map(str, scores))} leave nothing to train on; add recordings, scores or kinds."
        )
    return Factory(config, out, seed, stocks, (*library.refused, *refused))


def make_pair(factory: Factory, index: int) -> tuple[Waveform, Waveform, Arrangement, Pair]:
    """One pair by its index: silent side, music side, the music's score, and its line for the manifest.

    Raises:
        DataError: if no score could be arranged in some tries.
    """
    config = factory.config
    rng, music_rng = (
        np.random.default_rng(sequence) for sequence in np.random.SeedSequence([factory.seed, index]).spawn(2)
    )
    split = split_of(index, config.validation_share, factory.stocks)
    stock = factory.stocks[split]
    kind = draw_kind(stock, rng)
    levels = Levels(config.level_min_dbfs, config.level_max_dbfs)
    scene, room = None, None
    if kind not in FROM_MUSIC:
        scene = make_scene(kind, stock.library, rng, config.seconds, levels)
        room = scene.room
    elif kind == "muted":
        room = stock.library.pick_room(rng, 0.2, 1.2)
    truth = scene.truth if scene else free_truth(kind, rng, config.seconds, room)
    work, arrangement = compose(stock, truth, music_rng, config.normalise_key)
    if kind == "muted":
        scene = muted_scene(arrangement, stock.library, rng, levels, room)
    fonts = soundfonts(config)
    font = fonts[int(music_rng.integers(len(fonts)))]
    music = render(arrangement, font, config.sample_rate, room.response if room else None)
    if scene is None:
        scene = leak_scene(arrangement, music, stock.library, rng, levels)
    labels = pair_labels(scene, arrangement, work, factory.seed, font)
    silent_file, music_file = (f"audio/{index:06d}.{side}.flac" for side in ("silent", "music"))
    pair = Pair(silent_file, music_file, split=split, labels=labels, score=f"scores/{index:06d}.mid")
    return scene.audio, music, arrangement, pair


def draw_kind(stock: Stock, rng: np.random.Generator, without: Sequence[str] = ()) -> str:
    """A scene kind by the shares of a stock, leaving out some."""
    kinds = {kind: share for kind, share in stock.kinds.items() if kind not in without}
    if not kinds:
        raise DataError(f"data.kinds names {', '.join(stock.kinds)} alone; expected another kind, too.")
    shares = np.asarray(list(kinds.values())) / sum(kinds.values())
    return str(rng.choice(list(kinds), p=shares))


def compose(
    stock: Stock, truth: SceneTruth, rng: np.random.Generator, normalise_key: bool
) -> tuple[Work, Arrangement]:
    """A score of the stock set to a scene in one of its kind's styles, and which score it is.

    Raises:
        DataError: if no score could be arranged in some tries.
    """
    style = draw_style(truth.kind, rng)
    drumming = None
    if style.has_kit and stock.repertoire.has(DRUMMING):
        _, drumming = usable_score(lambda: stock.repertoire.draw(rng, DRUMMING), lambda score: score)
    return usable_score(
        lambda: stock.repertoire.draw(rng, style.sort, style.written_for),
        lambda score: arrange(score, truth, rng, style=style, drumming=drumming, normalise_key=normalise_key),
    )


# --- one pair ------------------------------------------------------------------------------------------------


def split_of(index: int, share: float, stocks: Mapping[str, Any]) -> str:
    """Validation pairs are spread evenly by index, so that any number of them has its share, if there is a stock."""
    validation = math.floor((index + 1) * share) > math.floor(index * share)
    return "validation" if validation and stocks.get("validation") else "train"


def pair_labels(
    scene: Scene, arrangement: Arrangement, work: Work, seed: int, soundfont: Path | None = None
) -> dict[str, Any]:
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
        **({"mood": work.mood} if work.mood else {}),
        "rt60_seconds": None if truth.rt60_seconds is None else round(truth.rt60_seconds, 4),
        "level_dbfs": round(truth.level_dbfs, 3),
        "event_seconds": _rounded(truth.event_seconds),
        "event_strengths": _rounded(truth.event_strengths, 3),
        "sources": [*sources, {**asdict(work.credit), "role": "score"}],
        "score": work.credit.path,
        **({"soundfont": soundfont.name} if soundfont else {}),
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
    write_text(_label_path(factory.out, index), pair.to_line() + "\n")


# --- the folder ----------------------------------------------------------------------------------------------


@contextmanager
def claimed_build(config: DataConfig, out: Path, seed: int, folders: Sequence[str]) -> Iterator[Factory]:
    """Hold a folder, with some folders in it, for this build and its processes alone, and open its sources.

    What a killed build left is removed. A build that is refused leaves nothing.

    Raises:
        DataError: if the folder holds what was built otherwise, or the sources cannot be used.
        S2MError: if another command writes to it.
    """
    index, count = launched()
    with claimed(out, index, count):
        # The first of several processes decodes the sources, for which the others wait.
        with locked(out):
            wanted = _check_unclaimed(config, out, seed)
            for name in (".", *folders):
                remove_leavings(out / name, alone=count == 1)
            factory = open_factory(config, out, seed)
            if not (out / SETTINGS_FILE).exists():
                with atomic_path(out / SETTINGS_FILE) as temporary:
                    temporary.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
        yield factory


def _check_unclaimed(config: DataConfig, out: Path, seed: int) -> dict[str, Any]:
    """The settings of a build as its folder states them; refuses a folder of other pairs."""
    # Pairs are passed on, and where their sources lie on this machine is nobody's concern.
    values = settings.to_dict(config)
    for name in ("ambience", "scores", "rooms", "soundfont"):
        values[name] = _without_folders(values[name])
    wanted: dict[str, Any] = json.loads(json.dumps({"seed": seed, "data": values}))
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


def _without_folders(value: Any) -> Any:
    """A path, or several, with absolute ones as their name alone."""
    if isinstance(value, str):
        return Path(value).name if Path(value).is_absolute() else value
    return [_without_folders(own) for own in value]


def _write_manifest(factory: Factory) -> None:
    """Renew the manifest and the attribution from all complete pairs, in order of index.

    Each process of a launcher does so, and the last one finds all pairs.
    """
    with locked(factory.out):
        lines = [path.read_text(encoding="utf-8") for path in sorted((factory.out / "labels").glob("*.json"))]
        write_text(factory.out / MANIFEST, "".join(lines))
        write_text(factory.out / ATTRIBUTION_FILE, attribution(lines, factory.refused))


def attribution(lines: list[str], refused: tuple[str, ...]) -> str:
    """The text of `ATTRIBUTION.md`: every source used, by licence, with its author, and the soundfonts."""
    used: dict[str, set[tuple[str, str, str]]] = {}
    fonts: set[str] = set()
    for line in lines:
        labels = json.loads(line)["labels"]
        fonts |= {labels["soundfont"]} if "soundfont" in labels else set()
        for source in labels["sources"]:
            used.setdefault(source["licence"], set()).add((source["role"], source["path"], source["author"]))
    text = [
        "# Attribution",
        "",
        "These pairs were put together from the following works. Recordings were cut, mixed, filtered and "
        "attenuated; scores were cut, retimed, transposed and orchestrated anew.",
    ]
    if fonts:
        text += ["", f"Synthesised with the soundfont{'s' * (len(fonts) > 1)} {', '.join(sorted(fonts))}."]
    for licence, sources in sorted(used.items()):
        text += ["", f"## {licence}", ""]
        text += [f"- {path} ({role}){author and ': ' + author}" for role, path, author in sorted(sources)]
    if refused:
        text += ["", "## Not used, because no licence is stated", ""]
        text += [f"- {name}" for name in sorted(refused)]
    return "\n".join(text) + "\n"


def score_folders(config: DataConfig) -> list[Path]:
    """The folders of scores that `config.data` names, at least one."""
    return [data_folder(value, "scores") for value in config.scores or ("",)]


def soundfonts(config: DataConfig) -> list[Path]:
    """The soundfonts that `config.data` names, at least one, all there."""
    if not config.soundfont:
        raise DataError("No soundfont is set; give one in the recipe or with --set data.soundfont=FILE.")
    for value in config.soundfont:
        if not Path(value).is_file():
            raise DataError(f"The soundfont {value} does not exist; install it or set data.soundfont.")
    return [Path(value) for value in config.soundfont]


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
