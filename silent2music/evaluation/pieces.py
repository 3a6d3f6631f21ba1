"""What the benchmark keeps of a piece of music and of a pair under test, and how they are read."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from silent2music import audio
from silent2music.acoustics import AcousticProfile, analyze
from silent2music.arrays import DoubleArray
from silent2music.audio import Waveform
from silent2music.config import DataConfig, Precision, SamplingConfig, from_dict
from silent2music.data.pairs import Pair, load_pair, read_pairs
from silent2music.errors import S2MError
from silent2music.evaluation import baselines, quality
from silent2music.evaluation.features import (
    TONAL_RATE_HZ,
    MusicFeatures,
    describe,
    power_spectrum,
    quality_features,
)
from silent2music.evaluation.following import RoomReference, measured_reference, references_of
from silent2music.evaluation.stages import Stages

log = logging.getLogger(__name__)

ROOM_DBFS = -60.0
"""RMS to which recordings are turned down, as near-silent as the rooms that were trained on; never up."""

ROOM_SECONDS = 20.0


@dataclass(frozen=True)
class EvalConfig:
    """How much to evaluate. The defaults fit into half an hour on two cores.

    Attributes:
        n: held-out pairs; seed: of everything drawn; seconds: used of each pair, None for all.
        batch_size: rooms generated at once.
        n_train: training pairs that originality and the retrieval baseline look at.
        n_arranged: rooms for which the rule-based arranger plays.
        n_likelihood: pairs ranked by the model's own likelihood.
        n_long: pieces of two minutes, for drift; n_diverse: seeds of one room.
        workers: processes that make and measure music; the result does not depend on their number.
            A script that asks for more than one guards its main module, as `multiprocessing` wants it.
        quick: the model beside the real music alone, for comparing settings: no piece without a room, no
            baselines and anchors, no likelihood, originality, drift or diversity.
        precision: how weights are held while the model plays; the model's default if None.
        sampling: how tokens are drawn, but for the seed, which is the one above.
    """

    n: int = 128
    seed: int = 0
    seconds: float | None = None
    batch_size: int = 16
    n_train: int = 128
    n_arranged: int = 32
    n_likelihood: int = 64
    n_long: int = 32
    n_diverse: int = 16
    workers: int = 2
    quick: bool = False
    precision: Precision | None = None
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


@dataclass(frozen=True)
class Inspected:
    """All that is kept of a piece of music."""

    features: MusicFeatures
    quality: DoubleArray
    faults: dict[str, float]


@dataclass(frozen=True)
class Item:
    """A room under test and what there is to follow in it."""

    name: str
    kind: str
    room: Waveform
    profile: AcousticProfile
    references: dict[str, RoomReference]


def inspect(music: Waveform) -> Inspected:
    """Measure a piece once: features, quality rows, and the figures of what goes wrong."""
    features = describe(music)
    mono = np.asarray(music.mono().samples[0], np.float64)
    sounds = bool(features.chroma.any())
    faults = {
        "silent_share": quality.silent_share(features.energy_db),
        "clipping_share": quality.clipping_share(mono),
        "dc_offset_dbfs": quality.dc_offset_dbfs(mono),
        "flatness": quality.spectral_flatness(power_spectrum(music)),
        "repetition": quality.repetition(features.chroma, TONAL_RATE_HZ) if sounds else 1.0,
        "key_clarity": quality.key_clarity(features.chroma) if sounds else 0.0,
        "beat_strength": features.beat_strength,
        "level_dbfs": audio.rms_dbfs(music.samples),
    }
    return Inspected(features, quality_features(music), faults)


def load_items(
    folder: Path, pairs: Sequence[Pair], config: EvalConfig, stages: Stages
) -> tuple[list[Item], list[Inspected], list[Waveform]]:
    """Items, their real music as measured and as sound; rhythmic rooms first, so that partners are of one sort."""
    found = stages.run("pairs", partial(_read_item, folder, config.seconds), pairs)
    found.sort(key=lambda those: not those[0].references["measured"].rhythmic)
    return [item for item, _, _ in found], [piece for _, piece, _ in found], [music for _, _, music in found]


def _read_item(folder: Path, seconds: float | None, pair: Pair) -> tuple[Item, Inspected, Waveform]:
    room, real = (first_seconds(side, seconds) for side in load_pair(folder, pair))
    profile = analyze(room)
    item = Item(pair.id, pair.kind, room, profile, references_of(profile, pair.labels))
    return item, inspect(real), real.mono()


def load_rooms(folder: Path, files: Sequence[Path], config: EvalConfig, stages: Stages) -> list[Item]:
    """Items of recordings without music, `config.seconds` long and at `ROOM_DBFS`; rhythmic rooms first."""
    items = stages.run("rooms", partial(_read_room, folder, config.seconds or ROOM_SECONDS), files)
    return sorted(items, key=lambda item: not item.references["measured"].rhythmic)


def _read_room(folder: Path, seconds: float, file: Path) -> Item:
    # The model's module loads torch, which the other jobs of this module can do without.
    from silent2music.listening import repeated

    room = first_seconds(repeated(audio.read(file), seconds), seconds)
    gain = audio.db_to_gain(min(0.0, ROOM_DBFS - audio.rms_dbfs(room.samples)))
    room = Waveform(room.samples * np.float32(gain), room.sample_rate)
    profile = analyze(room)
    name = file.relative_to(folder).as_posix()
    return Item(name, "", room, profile, {"measured": measured_reference(profile)})


def recordings_used(folder: Path) -> set[str]:
    """Paths, as the labels state them, of the recordings that the training split of a pair folder was made of."""
    return {
        str(source["path"])
        for pair in read_pairs(folder)
        if pair.split == "train"
        for source in pair.labels.get("sources", ())
        if source.get("role", "recording") == "recording"
    }


def training_music(
    folder: Path, pairs: Sequence[Pair], config: EvalConfig, stages: Stages
) -> dict[str, MusicFeatures]:
    """What is measured of the music of pairs of the training split, by its name."""
    found = stages.run("training music", partial(_describe_music, folder, config.seconds), pairs)
    return dict(zip((pair.music for pair in pairs), found, strict=True))


def _describe_music(folder: Path, seconds: float | None, pair: Pair) -> MusicFeatures:
    return describe(read_music(folder, seconds, pair))


def read_music(folder: Path, seconds: float | None, pair: Pair) -> Waveform:
    """The music side of a pair, or its first seconds."""
    return first_seconds(load_pair(folder, pair)[1], seconds)


def retrieved(
    folder: Path, items: Sequence[Item], training: Sequence[Pair], config: EvalConfig, stages: Stages
) -> list[Inspected | None]:
    """For each room the music of the training room most like it."""
    if not training:
        return [None] * len(items)
    vectors = stages.run("training rooms", partial(_room_vector, folder, config.seconds), training)
    nearest = [baselines.nearest_room(baselines.room_vector(item.profile), vectors) for item in items]
    used = sorted(set(nearest))
    read = partial(_inspect_music, folder, config.seconds)
    pieces = dict(zip(used, stages.run("retrieval", read, [training[i] for i in used]), strict=True))
    return [pieces[i] for i in nearest]


def _room_vector(folder: Path, seconds: float | None, pair: Pair) -> DoubleArray:
    return baselines.room_vector(analyze(first_seconds(load_pair(folder, pair)[0], seconds)))


def _inspect_music(folder: Path, seconds: float | None, pair: Pair) -> Inspected:
    return inspect(read_music(folder, seconds, pair))


def arranged(
    folder: Path, items: Sequence[Item], config: EvalConfig, stages: Stages
) -> list[Inspected | None]:
    """The rule-based arranger for some rooms, if the folder says which scores and sounds it was built from."""
    made: list[Inspected | None] = [None] * len(items)
    try:
        data = from_dict(DataConfig, json.loads((folder / "build.json").read_text(encoding="utf-8"))["data"])
    except (OSError, ValueError, KeyError, S2MError):
        return made
    scores = sorted(Path(data.scores).rglob("*.mid"))
    if not scores or not Path(data.soundfont).exists():
        log.warning(
            "The arranger is left out: %s (relative to the current folder) or %s is not here.",
            data.scores,
            data.soundfont,
        )
        return made
    # Partners together, so that there is a null, and spread over the items, so that every kind has a share.
    n_twos = max(1, min(config.n_arranged, len(items)) // 2)
    chosen = [i for k in np.linspace(0, len(items) // 2 - 1, n_twos).astype(int) for i in (2 * k, 2 * k + 1)]
    jobs = [(items[i].profile, (config.seed, 2, i)) for i in chosen]
    arrange = partial(_arrange, scores, Path(data.soundfont))
    for i, piece in zip(chosen, stages.run("arranger", arrange, jobs), strict=True):
        made[i] = piece
    return made


def _arrange(
    scores: Sequence[Path], soundfont: Path, job: tuple[AcousticProfile, tuple[int, ...]]
) -> Inspected | None:
    profile, seed = job
    music = baselines.arranged(profile, scores, soundfont, np.random.default_rng(seed))
    return inspect(music) if music is not None else None


def inspect_files(files: Sequence[Path], config: EvalConfig, stages: Stages) -> list[Inspected]:
    """Measure files in their order."""
    return stages.run("outputs", partial(_inspect_file, config.seconds), files)


def _inspect_file(seconds: float | None, file: Path) -> Inspected:
    return inspect(first_seconds(audio.read(file), seconds))


def first_seconds(waveform: Waveform, seconds: float | None) -> Waveform:
    """The beginning of a waveform, or all of it."""
    if seconds is None or waveform.seconds <= seconds:
        return waveform
    return Waveform(waveform.samples[:, : round(seconds * waveform.sample_rate)], waveform.sample_rate)


def partners_of(n: int) -> list[int]:
    """Who plays the other room for whom: neighbours swap; of an odd number the last borrows from the first."""
    partner = [i ^ 1 for i in range(n)]
    if n % 2:
        partner[-1] = 0
    return partner


def anchors_of(music: Sequence[Waveform], config: EvalConfig, stages: Stages) -> dict[str, list[Inspected]]:
    """What must score badly: noise, and the real music in grains; of the odd items, which are compared."""
    jobs = [(real, (config.seed, 3, i)) for i, real in enumerate(music[1::2])]
    return {"noise": stages.run("noise", _noise, jobs), "grains": stages.run("grains", _grains, jobs)}


def _noise(job: tuple[Waveform, tuple[int, ...]]) -> Inspected:
    music, seed = job
    return inspect(baselines.white_noise(music.seconds, music.sample_rate, np.random.default_rng(seed)))


def _grains(job: tuple[Waveform, tuple[int, ...]]) -> Inspected:
    music, seed = job
    return inspect(baselines.shuffled_grains(music, np.random.default_rng(seed)))
