"""Test rooms with their references, measured pieces of music, and the functions that read both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from silent2music import audio
from silent2music.acoustics import AcousticProfile, analyze
from silent2music.arrays import DoubleArray
from silent2music.audio import Waveform
from silent2music.config import Precision, SamplingConfig
from silent2music.data.pairs import Pair, load_pair, score_of, silent_side
from silent2music.evaluation import quality
from silent2music.evaluation.features import (
    GRID_HZ,
    TONAL_RATE_HZ,
    MusicFeatures,
    music_features,
    power_spectrum,
    quality_features,
)
from silent2music.evaluation.following import RoomReference, references_of
from silent2music.evaluation.stages import Stages
from silent2music.score import Score

Maker = Callable[[], Waveform | None]
"""Reads or makes a piece of music in whichever process it is called, so that only figures travel back."""

ROOM_DBFS = -60.0
"""RMS to which recordings are turned down, as near-silent as the rooms that were trained on; never up."""

ROOM_SECONDS = 20.0


@dataclass(frozen=True)
class EvalConfig:
    """Settings of an evaluation. The defaults take about an hour of one core, with the transcription of notes.

    Attributes:
        n: held-out pairs; seed: of everything drawn; seconds: used of each pair, None for all.
        batch_size: rooms generated at once.
        n_train: training pairs that originality and the retrieval baseline look at.
        n_arranged: rooms for which the rule-based arranger plays.
        n_likelihood: pairs ranked by the model's own likelihood.
        n_long: pieces of two minutes, for drift; n_diverse: seeds of one room.
        n_performed: pairs whose score is performed; n_contrasted: those of them also performed under another's score
            and under none.
        workers: processes that make and measure music; the result does not depend on their number.
            A script that asks for more than one guards its main module, as `multiprocessing` wants it.
        quick: the model beside the real music alone, for comparing settings: no piece without a room, no
            baselines and anchors, no likelihood, originality, drift or diversity.
        precision: how weights are held while the model plays; the model's default if None.
        sampling: how tokens are drawn, but for the seed, which is the one above.
        scores: folders of scores for the arranger, those that the pairs say by default.
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
    n_performed: int = 128
    n_contrasted: int = 32
    workers: int = 2
    quick: bool = False
    precision: Precision | None = None
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    scores: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inspected:
    """Measurements of a piece of music, kept in place of its samples."""

    features: MusicFeatures
    quality: DoubleArray
    faults: dict[str, float]


@dataclass(frozen=True)
class Item:
    """A test room with its acoustic profile and its references, and the score of its music if that is known."""

    name: str
    kind: str
    room: Waveform
    profile: AcousticProfile
    references: dict[str, RoomReference]
    score: Score | None = None


def inspect(music: Waveform) -> Inspected:
    """Measure a piece once: features, rows of quality features, and faults such as silence or clipping."""
    features = music_features(music)
    mono = np.asarray(music.mono().samples[0], np.float64)
    sounds, power = bool(features.chroma.any()), power_spectrum(music)
    faults = {
        "silent_share": quality.silent_share(features.energy_db),
        "clipping_share": quality.clipping_share(mono),
        "dc_offset_dbfs": quality.dc_offset_dbfs(mono),
        "flatness": quality.spectral_flatness(power),
        "repetition": quality.repetition(features.chroma, TONAL_RATE_HZ) if sounds else 1.0,
        "key_clarity": quality.key_clarity(features.chroma) if sounds else 0.0,
        "beat_strength": features.beat_strength,
        "level_dbfs": audio.rms_dbfs(music.samples),
        "still_partial_seconds": quality.longest_still_partial(power, *GRID_HZ) if sounds else 0.0,
        "spectral_likeness": quality.spectral_likeness(power, TONAL_RATE_HZ) if sounds else 1.0,
    }
    return Inspected(features, quality_features(music), faults)


def inspect_made(make: Maker) -> Inspected | None:
    """Measure the music that a function makes; None if it makes none."""
    music = make()
    return None if music is None else inspect(music)


def load_items(
    folder: Path, pairs: Sequence[Pair], config: EvalConfig, stages: Stages
) -> tuple[list[Item], list[Inspected], list[Waveform]]:
    """Read test pairs: items, real music measured and as sound; rhythmic rooms first, so that partners are alike."""
    found = stages.run("pairs", partial(_read_item, folder, config.seconds), pairs)
    found.sort(key=lambda those: not those[0].references["measured"].rhythmic)
    return [item for item, _, _ in found], [piece for _, piece, _ in found], [music for _, _, music in found]


def _read_item(folder: Path, seconds: float | None, pair: Pair) -> tuple[Item, Inspected, Waveform]:
    room, real = (first_seconds(side, seconds) for side in load_pair(folder, pair))
    return _item_of(folder, pair, room), inspect(real), real.mono()


def read_room(folder: Path, seconds: float | None, pair: Pair) -> Item:
    """The room of a pair, or its first seconds, measured; with the score, as long as the room."""
    return _item_of(folder, pair, first_seconds(silent_side(folder, pair), seconds))


def _item_of(folder: Path, pair: Pair, room: Waveform) -> Item:
    profile, score = analyze(room), score_of(folder, pair)
    if score is not None:
        score = score.slice(0.0, room.seconds) if score.seconds > room.seconds else score
        score = replace(score, seconds=room.seconds)
    return Item(pair.id, pair.kind, room, profile, references_of(profile, pair.labels), score)


def load_rooms(folder: Path, files: Sequence[Path], config: EvalConfig, stages: Stages) -> list[Item]:
    """Read test recordings without music, `config.seconds` long and at `ROOM_DBFS`; rhythmic rooms first."""
    items = stages.run("rooms", partial(_read_room, folder, config.seconds or ROOM_SECONDS), files)
    return sorted(items, key=lambda item: not item.references["measured"].rhythmic)


def _read_room(folder: Path, seconds: float, file: Path) -> Item:
    # The model's module loads torch, which the other jobs of this module can do without.
    from silent2music.listening import repeated

    room = first_seconds(repeated(audio.read(file), seconds), seconds)
    gain = audio.db_to_gain(min(0.0, ROOM_DBFS - audio.rms_dbfs(room.samples)))
    room = Waveform(room.samples * np.float32(gain), room.sample_rate)
    profile = analyze(room)
    return Item(file.relative_to(folder).as_posix(), "", room, profile, references_of(profile, {}))


def read_file(file: Path, seconds: float | None) -> Waveform:
    """A file, or its first seconds."""
    return first_seconds(audio.read(file), seconds)


def read_music(folder: Path, pair: Pair, seconds: float | None) -> Waveform:
    """The music side of a pair, or its first seconds."""
    return first_seconds(load_pair(folder, pair)[1], seconds)


def first_seconds(waveform: Waveform, seconds: float | None) -> Waveform:
    """The beginning of a waveform, or all of it."""
    if seconds is None or waveform.seconds <= seconds:
        return waveform
    return Waveform(waveform.samples[:, : round(seconds * waveform.sample_rate)], waveform.sample_rate)
