"""What the benchmark keeps of a piece of music and of a pair under test, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

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
from silent2music.evaluation.pair_stats import RoomReference, labelled_reference, measured_reference

FloatArray = NDArray[np.float64]

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
    items, music = [], []
    for i, pair in enumerate(pairs):
        room, real = (first_seconds(side, config.seconds) for side in load_pair(folder, pair))
        profile, labels = analyze(room), dict(pair.labels)
        references = {"measured": measured_reference(profile, labels)}
        if "event_seconds" in labels:
            references["labelled"] = labelled_reference(profile, labels)
        items.append(Item(pair.id, pair.kind, room, profile, references, inspect(real)))
        music.append(real.mono())
        tell("pairs", i + 1, len(pairs))
    order = sorted(range(len(items)), key=lambda i: not items[i].references["measured"].rhythmic)
    return [items[i] for i in order], [music[i] for i in order]


def load_training(
    folder: Path, pairs: Sequence[Pair], config: EvalConfig, tell: Progress
) -> dict[str, tuple[AcousticProfile, Piece]]:
    """Rooms and music of the training split by name of the music, `n_train` at most."""
    found = {}
    for i, pair in enumerate(pairs[: config.n_train]):
        room, music = (first_seconds(side, config.seconds) for side in load_pair(folder, pair))
        found[pair.music] = analyze(room), inspect(music)
        tell("training pairs", i + 1, min(len(pairs), config.n_train))
    return found


def inspect_files(files: Sequence[Path], tell: Progress) -> list[Piece]:
    """Measure files in their order."""
    found = []
    for i, file in enumerate(files):
        found.append(inspect(audio.read(file)))
        tell("outputs", i + 1, len(files))
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
    found: dict[str, list[Piece]] = {"noise": [], "grains": []}
    for i, music in enumerate(reals[1::2]):
        rng = np.random.default_rng([config.seed, 3, i])
        found["noise"].append(inspect(baselines.noise(music.seconds, music.sample_rate, rng)))
        found["grains"].append(inspect(baselines.shuffled_grains(music, rng)))
        tell("anchors", i + 1, len(reals) // 2)
    return found
