"""The parts of the benchmark that run the model: music with and without a room, likelihood, drift, diversity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from silent2music.arrays import DoubleArray, IntArray
from silent2music.audio import Waveform
from silent2music.composer import Pages
from silent2music.config import ComposingConfig, Precision, SamplingConfig
from silent2music.data.pairs import Pair
from silent2music.evaluation import originality
from silent2music.evaluation.features import MusicFeatures, music_features
from silent2music.evaluation.following import ranks
from silent2music.evaluation.likelihood import ROOMS
from silent2music.evaluation.pieces import EvalConfig, Inspected, Item, first_seconds, inspect, read_music
from silent2music.evaluation.stages import Stages
from silent2music.evaluation.statistics import bootstrap_mean, paired_difference, spread
from silent2music.evaluation.tables import GROUP, Figures, grouped
from silent2music.listening import listen_whole
from silent2music.model import Silent2Music
from silent2music.score import Score
from silent2music.signals import ROOM, Signals

LIKELIHOOD_SECONDS = 8.0
LONG_SECONDS = 120.0
END_SECONDS = 10.0
INAUDIBLE_DBFS = -60.0
"""Quieter parts of long pieces count as this in the mean of levels, which one silent part would decide else."""
DIVERSITY_SECONDS = 10.0
N_QUERIES = 8
"""Pieces of music that one job of the likelihood asks about."""


@lru_cache(maxsize=1)
def loaded(folder: str) -> Silent2Music:
    """The model of a folder, read once in each process."""
    return Silent2Music.from_pretrained(folder)


@dataclass(frozen=True)
class Subject:
    """The model under test.

    Attributes:
        folder: where it is; sampling: how it draws; config: how much; stages: what runs the work.
    """

    folder: str
    sampling: SamplingConfig
    config: EvalConfig
    stages: Stages = field(repr=False)

    @property
    def model(self) -> Silent2Music:
        """The model itself, in this process."""
        return loaded(self.folder)

    def play(
        self,
        name: str,
        rooms: Sequence[Waveform],
        seeds: Sequence[int],
        seconds: float | None = None,
        without: Sequence[str] = (),
        batch_size: int | None = None,
    ) -> list[Waveform]:
        """The model's music for rooms, for each a seed; by default as long as the room.

        What is in a batch does not depend on the number of processes.
        """
        size = batch_size or self.config.batch_size
        jobs = [(rooms[i : i + size], seeds[i : i + size]) for i in range(0, len(rooms), size)]
        play = partial(_play, self.folder, self.config.precision, self.sampling, seconds, without)
        return [music for batch in self.stages.run(name, play, jobs) for music in batch]

    def music_of(self, items: Sequence[Item]) -> list[Waveform]:
        """The model's music for every room, partners sharing a seed."""
        seeds = [self.config.seed + i // 2 for i in range(len(items))]
        return self.play("music", [item.room for item in items], seeds)

    def without_rooms(self, items: Sequence[Item]) -> tuple[list[Waveform], list[Inspected]]:
        """Music of the same seeds without a room, one piece for each two partners; and for each room its piece."""
        rooms = [item.room for item in items[::2]]
        seeds = [self.config.seed + i for i in range(len(rooms))]
        music = self.play("music without a room", rooms, seeds, without=(ROOM,))
        found = self.stages.run("pieces without a room", inspect, music)
        return music, [found[i // 2] for i in range(len(items))]

    @property
    def composes(self) -> bool:
        """Whether the model writes scores."""
        return self.model.composer is not None

    @property
    def performs(self) -> bool:
        """Whether the model plays a score that it is given."""
        return getattr(self.model, "sketch", None) is not None

    def scores_of(
        self, items: Sequence[Item], composing: ComposingConfig | None = None, without: Sequence[str] = ()
    ) -> list[Score]:
        """The model's score for every room, partners sharing a seed; without the room, one serves both partners."""
        chosen = items[::2] if ROOM in without else items
        step = 1 if ROOM in without else 2
        jobs = [(item.room, self.config.seed + i // step) for i, item in enumerate(chosen)]
        name = "scores without a room" if ROOM in without else "scores"
        job = partial(_compose, self.folder, self.config.precision, composing, without)
        found = self.stages.run(name, job, jobs)
        return [found[i * step // 2] for i in range(len(items))] if ROOM in without else found

    def performances(
        self, name: str, items: Sequence[Item], seeds: Sequence[int], scores: Sequence[Score | None]
    ) -> list[Waveform]:
        """The model's music for rooms under given scores; None stands for none."""
        jobs = [(item.room, score, seed) for item, score, seed in zip(items, scores, seeds, strict=True)]
        job = partial(_perform, self.folder, self.config.precision, self.sampling)
        return self.stages.run(name, job, jobs)

    def tokens(self, name: str, music: Sequence[Waveform]) -> list[IntArray]:
        """Encode music to codes `[K, T]`."""
        return self.stages.run(name, partial(_encode, self.folder), music)

    def through_codec(self, codes: Sequence[IntArray], music: Sequence[Waveform]) -> list[Waveform]:
        """Real music after the codec, the ceiling of any model that writes its tokens."""
        jobs = [(own, real.seconds) for own, real in zip(codes, music, strict=True)]
        return self.stages.run("codec", partial(_decode, self.folder), jobs)

    def stated(self) -> Figures:
        """Name and sampling settings of the model, for the report."""
        return {"name": self.model.config.name, "sampling": asdict(self.sampling)}


def subject(folder: Path | str, config: EvalConfig, stages: Stages) -> Subject:
    """Load the model of a folder to test it.

    Raises:
        CheckpointError: if the model does not load.
    """
    # The folder may hold another model than when it was read last.
    loaded.cache_clear()
    sampling = loaded(str(folder)).resolved(replace(config.sampling, seed=config.seed))
    return Subject(str(folder), sampling, config, stages)


def _play(
    folder: str,
    precision: Precision | None,
    sampling: SamplingConfig,
    seconds: float | None,
    without: Sequence[str],
    job: tuple[Sequence[Waveform], Sequence[int]],
) -> list[Waveform]:
    model = loaded(folder)
    model.precision = precision
    return [*model.generate_batch(job[0], sampling, job[1], seconds, without)]


def _compose(
    folder: str,
    precision: Precision | None,
    composing: ComposingConfig | None,
    without: Sequence[str],
    job: tuple[Waveform, int],
) -> Score:
    model = loaded(folder)
    model.precision = precision
    return model.compose(job[0], None, composing, seed=job[1], without=without)


def _perform(
    folder: str,
    precision: Precision | None,
    sampling: SamplingConfig,
    job: tuple[Waveform, Score | None, int],
) -> Waveform:
    """The one place that asks a model to perform a given score, or to play without any."""
    room, score, seed = job
    model = loaded(folder)
    model.precision = precision
    asked: dict[str, Any] = {"without": ("score",)} if score is None else {"score": score}
    return model.generate(room, sampling, seed=seed, **asked)


def _encode(folder: str, music: Waveform) -> IntArray:
    return loaded(folder).encode(music)


def _decode(folder: str, job: tuple[IntArray, float]) -> Waveform:
    codes, seconds = job
    return first_seconds(loaded(folder).decode(codes), seconds)


def rank_rooms(subject: Subject, items: Sequence[Item], codes: Sequence[IntArray]) -> Figures:
    """Rank of the true room among up to 32 by the model's teacher-forced loss of the real music.

    The first `LIKELIHOOD_SECONDS` of each pair count, in nats a token; `shuffled` is the mean over the others.
    """
    shortest = min(own.shape[1] for own in codes)
    n_frames = int(min(LIKELIHOOD_SECONDS * subject.model.codec.frame_rate, shortest))
    return _ranked(subject, items, [own[:, :n_frames] for own in codes], "likelihood", _losses)


def rank_rooms_by_score(subject: Subject, items: Sequence[Item], scores: Sequence[Score]) -> Figures:
    """The same by the composer's loss of the real scores, in nats a second."""
    return _ranked(subject, items, scores, "likelihood of scores", _score_losses)


def _ranked(
    subject: Subject,
    items: Sequence[Item],
    asked: Sequence[Any],
    name: str,
    losses: Callable[[str, tuple[list[Signals], list[Any]]], list[DoubleArray]],
) -> Figures:
    """Ranks of true rooms, `losses` giving for each of some pieces its loss under every room and under none."""
    seed = subject.config.seed
    order = np.random.default_rng(seed).permutation(len(items))[: subject.config.n_likelihood]
    rooms = [items[i].room for i in order]
    features = subject.stages.run("features of rooms", partial(_signals, subject.folder), rooms)
    groups = grouped(len(order))
    jobs = [
        ([features[k] for k in group], [asked[order[k]] for k in queries])
        for group in groups
        for queries in np.array_split(group, -(-len(group) // N_QUERIES))
    ]
    rows = [row for found in subject.stages.run(name, partial(losses, subject.folder), jobs) for row in found]
    columns = []
    for group in groups:
        # A row: the loss of one piece under every room of the group, then under none.
        each, none = np.split(np.stack([rows[k] for k in group]), [-1], axis=1)
        own = np.diagonal(each)
        shuffled = (each.sum(axis=1) - own) / max(1, len(group) - 1)
        columns.append(np.stack([ranks(-each), own, shuffled, none[:, 0]]))
    found, true, shuffled, dropped = np.concatenate(columns, axis=1)
    means = (float(loss.mean()) for loss in (true, shuffled, dropped))
    return {
        "among": min(GROUP, len(groups[0])),
        "n": len(order),
        "recall_at_1": bootstrap_mean((found <= 1.0).astype(np.float64), seed),
        "mean_reciprocal_rank": float((1.0 / found).mean()),
        "chance_recall_at_1": 1.0 / len(groups[0]),
        "loss": dict(zip(ROOMS, means, strict=True)),
        "shuffled - true": paired_difference(shuffled, true, seed),
        "dropped - true": paired_difference(dropped, true, seed),
    }


def _signals(folder: str, room: Waveform) -> Signals:
    return listen_whole(room, room.seconds, loaded(folder).config)


@torch.inference_mode()
def _losses(folder: str, job: tuple[list[Signals], list[IntArray]]) -> list[DoubleArray]:
    """For each piece its loss under every room, then under none."""
    rooms, codes = job
    model = loaded(folder)
    signals = Signals.collate(rooms).slice(0, codes[0].shape[1])
    every = torch.stack([torch.from_numpy(own) for own in codes])
    no_room = model.condition(signals.without(ROOM).rows(range(len(codes))))
    dropped = model.token_nll(every, no_room).mean(dim=1).double().numpy()
    conditioning = model.condition(signals)
    rows = []
    for own, none in zip(every, dropped, strict=True):
        nll = model.token_nll(own[None].expand(len(rooms), -1, -1), conditioning)
        rows.append(np.append(nll.mean(dim=1).double().numpy(), none))
    return rows


@torch.inference_mode()
def _score_losses(folder: str, job: tuple[list[Signals], list[Score]]) -> list[DoubleArray]:
    """For each score its loss under every room, then under none, in nats a second."""
    rooms, scores = job
    composer = loaded(folder).composer
    assert composer is not None
    signals = Signals.collate(rooms)
    rate = composer.config.ambient.frame_rate
    asked = [composer.condition(signals.rows([k])) for k in range(len(rooms))]
    asked.append(composer.condition(signals.rows([0]).without(ROOM)))
    rows = []
    for score in scores:
        pages = Pages.of([score], [0], signals.n_frames, rate)
        row = []
        for conditioning in asked:
            nats = composer.field_nll(pages, composer.states(pages, conditioning))
            row.append(sum(float(own.sum()) for _, own in nats.values()) * rate / signals.n_frames)
        rows.append(np.array(row))
    return rows


def training_music(
    subject: Subject, folder: Path, training: Sequence[Pair], skipped: float = 0.0
) -> tuple[dict[str, MusicFeatures], list[IntArray]]:
    """Training music after the codec, as the model learned it: features by name, and codes.

    Args:
        folder: of the pairs; training: those whose music is read.
        skipped: share of each piece that is left out at its beginning: a copy may begin anywhere.
    """
    job = partial(_taught, subject.folder, folder, subject.config.seconds, skipped)
    found = subject.stages.run("copies" if skipped else "training music", job, training)
    names = (str(pair.music) for pair in training)
    return dict(zip(names, (features for features, _ in found), strict=True)), [codes for _, codes in found]


def _taught(
    model_folder: str, folder: Path, seconds: float | None, skipped: float, pair: Pair
) -> tuple[MusicFeatures, IntArray]:
    music = read_music(folder, pair, seconds).mono()
    music = Waveform(
        np.ascontiguousarray(music.samples[:, int(skipped * music.n_samples) :]), music.sample_rate
    )
    codes = _encode(model_folder, music)
    return music_features(_decode(model_folder, (codes, music.seconds))), codes


def token_runs(
    subject: Subject, library: Sequence[IntArray], tokens: Mapping[str, Sequence[IntArray]]
) -> Figures:
    """Longest run of first-codebook tokens of every piece that also occurs in the training music."""
    rows = [codes[0] for codes in library]
    if not rows:
        return {}
    report: Figures = {"frame_rate": subject.model.codec.frame_rate}
    for name, those in tokens.items():
        report[name] = spread([originality.longest_shared_run(own[0], rows) for own in those])
    return report


def drift(subject: Subject, items: Sequence[Item]) -> Figures:
    """How pieces of two minutes change: every fault by quarter of the piece, and at both ends.

    The room comes round until the two minutes are full, so that every quarter hears the same where a room lasts
    as long as a quarter.
    """
    n = min(subject.config.n_long, len(items))
    if n < 1:
        return {}
    chosen = np.unique(np.linspace(0, len(items) - 1, n).astype(int))
    rooms, seeds = [items[i].room for i in chosen], [subject.config.seed + int(i) for i in chosen]
    # Few long pieces: small batches let every process have one.
    music = subject.play("long pieces", rooms, seeds, LONG_SECONDS, batch_size=4)
    parts = [part for piece in music for part in _parts(piece)]
    faults = [piece.faults for piece in subject.stages.run("parts of long pieces", inspect, parts)]
    table = {}
    for name in faults[0]:
        own = np.array([f[name] for f in faults])
        if name == "level_dbfs":
            own = own.clip(min=INAUDIBLE_DBFS)
        values = own.reshape(len(music), 6).mean(axis=0).tolist()
        table[name] = {"quarters": values[:4], "first_seconds": values[4], "last_seconds": values[5]}
    return {"n": len(music), "end_seconds": END_SECONDS, "figures": table}


def _parts(piece: Waveform) -> list[Waveform]:
    """The four quarters, the beginning and the end."""
    quarter, end = piece.n_samples // 4, min(round(END_SECONDS * piece.sample_rate), piece.n_samples)
    cuts = [*((k * quarter, (k + 1) * quarter) for k in range(4)), (0, end), (-end, None)]
    return [Waveform(piece.samples[:, first:last], piece.sample_rate) for first, last in cuts]


def diversity(subject: Subject, items: Sequence[Item], reals: Sequence[Inspected]) -> Figures:
    """Distance of each piece to the nearest other one, for one room under many seeds and for real music."""
    n = subject.config.n_diverse
    if n < 2:
        return {}
    seeds = [subject.config.seed + 1000 + k for k in range(n)]
    room = first_seconds(items[0].room, DIVERSITY_SECONDS)
    music = subject.play("one room, many seeds", [room] * n, seeds, batch_size=8)
    rows = [own[0] for own in subject.tokens("tokens of many seeds", music)]
    runs = [originality.longest_shared_run(own, rows[:i] + rows[i + 1 :]) for i, own in enumerate(rows)]
    return {
        "n": n,
        "one room, many seeds": _median_nearest(subject.stages.run("many seeds", music_features, music)),
        "real music": _median_nearest([piece.features for piece in reals[:n]]),
        "longest_shared_run": spread(runs),
    }


def _median_nearest(pieces: Sequence[MusicFeatures]) -> float:
    n_frames = int(DIVERSITY_SECONDS * originality.RATE_HZ)
    prints = [originality.fingerprint(features)[:, :n_frames] for features in pieces]
    others = [{str(j): those for j, those in enumerate(prints) if j != i} for i in range(len(prints))]
    nearest = [originality.nearest([own], library) for own, library in zip(prints, others, strict=True)]
    return float(np.median([near.distance for near in nearest]))
