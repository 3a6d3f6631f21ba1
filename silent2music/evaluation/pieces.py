"""What the benchmark keeps of a piece of music and of a pair under test, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from silent2music import audio
from silent2music.acoustics import AcousticProfile, analyze
from silent2music.audio import Waveform
from silent2music.data.pairs import Pair, load_pair
from silent2music.evaluation import baselines, metrics
from silent2music.evaluation.features import (
    TONAL_RATE_HZ,
    MusicFeatures,
    describe,
    power_spectrum,
    quality_features,
)
from silent2music.evaluation.pair_stats import (
    RoomReference,
    labelled_reference,
    mapped,
    measured_reference,
)

FloatArray = NDArray[np.float64]
Found = TypeVar("Found")

Progress = Callable[[str, int, int], None]
"""Is called with a stage, steps done and steps in all."""


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
        workers: processes that measure music; the result does not depend on their number.
        quick: the model beside the real music alone, for comparing settings: no piece without a room, no
            baselines and anchors, no likelihood, originality, drift or diversity.
    """

    n: int = 128
    seed: int = 0
    seconds: float | None = None
    batch_size: int = 16
    n_train: int = 128
    n_arranged: int = 32
    n_likelihood: int = 64
    n_long: int = 4
    n_diverse: int = 16
    workers: int = 2
    quick: bool = False


@dataclass(frozen=True)
class Piece:
    """All that is kept of a piece of music."""

    features: MusicFeatures
    quality: FloatArray
    faults: dict[str, float]


@dataclass(frozen=True)
class Item:
    """A pair under test: the room, what there is to follow in it, and the real music."""

    name: str
    kind: str
    room: Waveform
    profile: AcousticProfile
    references: dict[str, RoomReference]
    real: Piece


def inspect(music: Waveform) -> Piece:
    """Measure a piece once: features, quality rows, and the figures of what goes wrong."""
    features = describe(music)
    mono = np.asarray(music.mono().samples[0], np.float64)
    faults = {
        "silent_share": metrics.silent_share(features.energy_db),
        "clipping_share": metrics.clipping_share(mono),
        "dc_offset_dbfs": metrics.dc_offset_dbfs(mono),
        "flatness": metrics.spectral_flatness(power_spectrum(music)),
        "repetition": metrics.repetition(features.chroma, TONAL_RATE_HZ) if features.chroma.any() else 1.0,
        "key_clarity": metrics.key_clarity(features.chroma) if features.chroma.any() else 0.0,
        "beat_strength": features.beat_strength,
        "level_dbfs": audio.rms_dbfs(music.samples),
    }
    return Piece(features, quality_features(music), faults)


def load_items(
    folder: Path, pairs: Sequence[Pair], config: EvalConfig, tell: Progress
) -> tuple[list[Item], list[Waveform]]:
    """Items and their real music, rhythmic rooms first, so that partners are of one sort where they can be."""
    jobs = [(folder, pair, config.seconds) for pair in pairs]
    found = _told(mapped(_read_item, jobs, config.workers), "pairs", len(jobs), tell)
    found.sort(key=lambda item_and_music: not item_and_music[0].references["measured"].rhythmic)
    return [item for item, _ in found], [music for _, music in found]


def _read_item(job: tuple[Path, Pair, float | None]) -> tuple[Item, Waveform]:
    folder, pair, seconds = job
    room, real = (first_seconds(side, seconds) for side in load_pair(folder, pair))
    profile, labels = analyze(room), dict(pair.labels)
    references = {"measured": measured_reference(profile, labels)}
    if "event_seconds" in labels:
        references["labelled"] = labelled_reference(profile, labels)
    return Item(pair.id, pair.kind, room, profile, references, inspect(real)), real.mono()


def load_training(
    folder: Path, pairs: Sequence[Pair], config: EvalConfig, tell: Progress
) -> dict[str, tuple[AcousticProfile, Piece]]:
    """Rooms and music of the training split by name of the music, `n_train` at most."""
    jobs = [(folder, pair, config.seconds) for pair in pairs[: config.n_train]]
    found = _told(mapped(_read_training, jobs, config.workers), "training pairs", len(jobs), tell)
    return {
        pair.music: profile_and_piece for (_, pair, _), profile_and_piece in zip(jobs, found, strict=True)
    }


def _read_training(job: tuple[Path, Pair, float | None]) -> tuple[AcousticProfile, Piece]:
    folder, pair, seconds = job
    room, music = (first_seconds(side, seconds) for side in load_pair(folder, pair))
    return analyze(room), inspect(music)


def inspect_files(files: Sequence[Path], config: EvalConfig, tell: Progress) -> list[Piece]:
    """Measure files in their order."""
    return _told(mapped(_read_piece, files, config.workers), "outputs", len(files), tell)


def _read_piece(file: Path) -> Piece:
    return inspect(audio.read(file))


def inspect_all(music: Sequence[Waveform], name: str, config: EvalConfig, tell: Progress) -> list[Piece]:
    """Measure pieces in their order."""
    return _told(mapped(inspect, music, config.workers), name, len(music), tell)


def _told(results: Iterable[Found], name: str, total: int, tell: Progress) -> list[Found]:
    """All results, each announced as it comes."""
    found: list[Found] = []
    for result in results:
        found.append(result)
        tell(name, len(found), total)
    return found


def first_seconds(waveform: Waveform, seconds: float | None) -> Waveform:
    """The beginning of a waveform, or all of it."""
    if seconds is None or waveform.seconds <= seconds:
        return waveform
    return Waveform(waveform.samples[:, : round(seconds * waveform.sample_rate)], waveform.sample_rate)


def partners_of(items: Sequence[Item]) -> list[int]:
    """Who plays the other room for whom: neighbours swap; of an odd number the last borrows from the first."""
    partner = [i ^ 1 for i in range(len(items))]
    if len(items) % 2:
        partner[-1] = 0
    return partner


def anchors_of(reals: Sequence[Waveform], config: EvalConfig, tell: Progress) -> dict[str, list[Piece]]:
    """What must score badly: noise, and the real music in grains; of the odd items, which are compared."""
    rngs = [np.random.default_rng([config.seed, 3, i]) for i in range(len(reals) // 2)]
    those = list(zip(reals[1::2], rngs, strict=True))
    made = {
        "noise": [baselines.noise(music.seconds, music.sample_rate, rng) for music, rng in those],
        "grains": [baselines.shuffled_grains(music, rng) for music, rng in those],
    }
    return {name: inspect_all(music, name, config, tell) for name, music in made.items()}
