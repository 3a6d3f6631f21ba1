"""How near a piece is to the training music, by chroma and onsets and by shared runs of tokens and of melody.

A distance says little alone: held-out real music has one to the training music too, and that distribution is
the ruler. What lies nearer than its 1st percentile is named.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from silent2music.arrays import DoubleArray, FloatArray, IntArray
from silent2music.errors import CheckpointError
from silent2music.evaluation.features import ONSET_RATE_HZ, TONAL_RATE_HZ, MusicFeatures
from silent2music.evaluation.notes import melody_moves
from silent2music.evaluation.stages import Stages
from silent2music.evaluation.statistics import spread
from silent2music.files import atomic_path
from silent2music.score import Score

RATE_HZ = 5.0
EXCERPT_SECONDS = 10.0
CHROMA_WEIGHT = 0.7
NEAR_PERCENTILE = 1.0

MELODIES_FILE = "melodies.npz"
"""In a composer's folder."""
WINDOW = 16
"""Of so many stretches of melody that begin one after the other, one is kept."""


class Nearest(NamedTuple):
    """The training piece nearest to an excerpt, and the mean cost per step of the best alignment, 0 (the same) to 1."""

    distance: float
    name: str


def fingerprint(features: MusicFeatures, late: bool = False) -> DoubleArray:
    """`[13, F]` at `RATE_HZ`: chroma of length 1 in rows 0 to 11, onset strength in 0 to 1 in row 12.

    Args:
        late: whether the frames begin half a frame late; a copy that is cut between two frames is found by these.
    """
    tonal, rhythmic = round(TONAL_RATE_HZ / RATE_HZ), round(ONSET_RATE_HZ / RATE_HZ)
    n_frames = max(1, int(features.seconds * RATE_HZ) - late)
    chroma = _pooled(features.chroma[:, late * tonal // 2 :], tonal, n_frames).mean(axis=2)
    length = np.linalg.norm(chroma, axis=0)
    onsets = _pooled(features.onset_envelope[None, late * rhythmic // 2 :], rhythmic, n_frames).max(axis=2)
    onsets = np.minimum(onsets / max(float(np.percentile(onsets, 95)), 1e-9), 1.0)
    return np.concatenate([chroma / np.maximum(length, 1e-9), onsets])


def _pooled(values: DoubleArray, factor: int, n_frames: int) -> DoubleArray:
    """`[R, n_frames, factor]` groups of successive frames of `[R, F]`, padded with the last one."""
    padded = np.pad(values, ((0, 0), (0, max(0, n_frames * factor - values.shape[1]))), mode="edge")
    return np.asarray(padded[:, : n_frames * factor].reshape(len(values), n_frames, factor), np.float64)


def nearest(queries: Sequence[DoubleArray], library: Mapping[str, DoubleArray]) -> Nearest:
    """The training piece nearest to any excerpt of any query, in any of the 12 transpositions.

    Excerpts of `EXCERPT_SECONDS` from start, middle and end of a query are aligned with any stretch of each
    piece by subsequence dynamic time warping with steps (1, 1), (1, 2) and (2, 1), so that tempo may differ by a
    factor of two (Müller, "Fundamentals of Music Processing", 2015, ch. 7.2).

    Args:
        queries: `[13, F]` of `fingerprint`, of one piece: on time, and late if wanted.
        library: the training pieces by name, likewise.

    Returns:
        The distance 1 to nothing, where no piece of the library is long enough for an alignment.
    """
    n_frames = min(query.shape[1] for query in queries)
    n_query = min(n_frames, int(EXCERPT_SECONDS * RATE_HZ))
    starts = sorted({0, (n_frames - n_query) // 2, n_frames - n_query})
    excerpts = [query[:, s : s + n_query].astype(np.float32) for query in queries for s in starts]
    costs = (
        (name, np.concatenate([_costs(excerpt, piece.astype(np.float32)) for excerpt in excerpts]))
        for name, piece in library.items()
        if piece.shape[1] >= 2
    )
    found = (Nearest(float(_aligned(those).min()), name) for name, those in costs)
    return min(found, key=lambda near: near.distance, default=Nearest(1.0, ""))


def _costs(excerpt: FloatArray, piece: FloatArray) -> FloatArray:
    """`[12, n, m]` cost of each frame against each, the excerpt turned through the 12 keys."""
    keys = np.stack([np.roll(excerpt[:12], k, axis=0).T for k in range(12)])
    rhythm = np.abs(excerpt[12][:, None] - piece[12][None])
    return np.asarray(
        np.float32(CHROMA_WEIGHT) * (1 - keys @ piece[:12]) + np.float32(1.0 - CHROMA_WEIGHT) * rhythm
    )


def _aligned(costs: FloatArray) -> FloatArray:
    """`[B]` mean cost per query frame of the best alignment in `[B, n, m]`, begun and ended anywhere in m."""
    n_batch, n_query, n_piece = costs.shape
    # Two columns before the first, which no path comes from.
    before, last, step = (np.full((n_batch, n_piece + 2), np.inf, np.float32) for _ in range(3))
    last[:, 2:] = costs[:, 0]
    for i in range(1, n_query):
        # From one column or two columns back; a skipped query frame still pays its cost.
        best = before[:, 1:-1] + costs[:, i - 1]
        np.minimum(best, last[:, 1:-1], out=best)
        np.minimum(best, last[:, :-2], out=best)
        np.add(best, costs[:, i], out=step[:, 2:])
        before, last, step = last, step, before
    return np.asarray(last.min(axis=1) / n_query)


def longest_shared_run(tokens: IntArray, library: Sequence[IntArray]) -> int:
    """Length of the longest run of tokens that also occurs in the library, by bisection over lengths.

    Args:
        tokens: `[T]` of one codebook; library: any number of such rows.
    """
    own = np.ascontiguousarray(tokens, np.int64)
    rows = [np.ascontiguousarray(row, np.int64) for row in library]
    low, high = 0, own.size
    while low < high:
        length = (low + high + 1) // 2
        wanted = _runs(own, length)
        if any(not wanted.isdisjoint(_runs(row, length)) for row in rows):
            low = length
        else:
            high = length - 1
    return low


def _runs(tokens: IntArray, length: int) -> set[bytes]:
    data, size = tokens.tobytes(), tokens.itemsize
    return {data[i * size : (i + length) * size] for i in range(tokens.size - length + 1)}


def shared_runs(pieces: Sequence[IntArray], library: Sequence[IntArray]) -> list[int]:
    """`longest_shared_run` of each of many short rows with a library, all at once."""
    own, rows = ([np.ascontiguousarray(row, np.int64) for row in those] for those in (pieces, library))
    found, length, left = [0] * len(own), 1, list(range(len(own)))
    while left:
        known = set().union(*(_runs(row, length) for row in rows))
        left = [i for i in left if not known.isdisjoint(_runs(own[i], length))]
        for i in left:
            found[i] = length
        length += 1
    return found


def near_limit(reference_distances: Sequence[float]) -> float:
    """The 1st percentile of the distances that held-out real music has.

    It is one of the distances and not a value between two: else the nearest of few real pieces would count as
    too near itself.
    """
    return float(np.percentile(reference_distances, NEAR_PERCENTILE, method="lower"))


def compare_with_training(
    made: Mapping[str, MusicFeatures],
    reals: Iterable[MusicFeatures],
    library: Mapping[str, MusicFeatures],
    copies: Mapping[str, MusicFeatures],
    stages: Stages,
) -> dict[str, Any]:
    """Distance of every output to the nearest training music, beside that of held-out real music, for a report.

    Like is compared with like: where outputs went through a codec, so should the real music and the library.

    Args:
        made: outputs by their names; reals: held-out real music.
        copies: altered copies of training pieces by their names, which must be found out.
    """
    if not library:
        return {"n_training": 0}
    job = partial(_nearest, {name: fingerprint(features) for name, features in library.items()})
    groups = {"real": list(reals), "model": list(made.values()), "copies": list(copies.values())}
    found = {name: stages.run(f"originality: {name}", job, those) for name, those in groups.items()}
    distances = {name: [near.distance for near in found[name]] for name in ("real", "model")}
    limit = near_limit(distances["real"])
    report: dict[str, Any] = {
        "n_training": len(library),
        "n": len(made),
        "distance": {name: spread(those) for name, those in distances.items()},
        "limit": limit,
        "too_near": [
            {"output": output, "training": near.name, "distance": near.distance}
            for output, near in zip(made, found["model"], strict=True)
            if near.distance < limit
        ],
    }
    if copies:
        caught = [
            near.name == name and near.distance < limit
            for name, near in zip(copies, found["copies"], strict=True)
        ]
        report["copies"] = {"n": len(caught), "named": sum(caught)}
    return report


def compare_scores(
    made: Mapping[str, Score], reals: Sequence[Score], library: Mapping[str, Score]
) -> dict[str, Any]:
    """Longest run of melody, as intervals and lengths in beats, that a score shares with those trained on.

    Held-out real scores are the ruler: what has a longer run than their 99th percentile is named.

    Args:
        made: composed scores by the names of their rooms; reals: held-out ones.
    """
    taught = {name: melody_moves(score) for name, score in library.items()}
    if not taught or not made or not reals:
        return {"n_training": 0}
    runs = {
        name: shared_runs([melody_moves(score) for score in those], list(taught.values()))
        for name, those in (("model", list(made.values())), ("real", list(reals)))
    }
    limit = float(np.percentile(runs["real"], 100.0 - NEAR_PERCENTILE, method="higher"))
    return {
        "n_training": len(taught),
        "n": len(made),
        "longest_shared_run": {name: spread(those) for name, those in runs.items()},
        "limit": limit,
        "too_near": [
            {"output": name, "notes": run}
            for name, run in zip(made, runs["model"], strict=True)
            if run > limit
        ],
    }


@dataclass(frozen=True)
class Melodies:
    """What a composer was taught, as prints of stretches of melody; a file of them lies in its folder.

    A print is four bytes of a hash of `limit + 1` moves in a row (`notes.melody_moves`), and of `WINDOW` neighbours at
    least one is kept (winnowing: Schleimer, Wilkerson and Aiken, 2003). So every shared run of `limit + WINDOW` moves is
    found, and most that are a little shorter, by a file a quarter as large as the melodies, which it does not hold.

    Attributes:
        names: of the works.
        prints: `[n]` of each, ascending; one that several works have is the first one's.
        limit: the longest run of moves that held-out real scores share with them, but for one in a hundred.
    """

    names: tuple[str, ...]
    prints: tuple[IntArray, ...]
    limit: int

    @classmethod
    def of(cls, taught: Sequence[tuple[str, Score]], reals: Sequence[Score]) -> Melodies:
        """Those of scores, each with its work's name, and the limit that held-out ones set."""
        moves = [melody_moves(score) for _, score in taught]
        runs = shared_runs([melody_moves(score) for score in reals], moves) or [0]
        limit = int(np.percentile(runs, 100.0 - NEAR_PERCENTILE, method="higher"))
        first: dict[int, str] = {}
        for (name, _), row in zip(taught, moves, strict=True):
            for _, own in _winnowed(row, limit + 1):
                first.setdefault(own, name)
        names = sorted({name for name, _ in taught})
        found: dict[str, list[int]] = {name: [] for name in names}
        for own in sorted(first):
            found[first[own]].append(own)
        return cls(tuple(names), tuple(np.array(found[name], np.int64) for name in names), limit)

    def write(self, path: Path) -> None:
        """Write them to an NPZ file, whole or not at all."""
        prints = np.concatenate([np.zeros(0, np.int64), *self.prints]).astype(np.uint32)
        values: dict[str, Any] = {
            "names": np.frombuffer("\n".join(self.names).encode(), np.uint8),
            "lengths": np.array([len(own) for own in self.prints], np.uint16),
            "prints": prints,
            "limit": np.array(self.limit),
        }
        with atomic_path(path, force=True) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **values)

    @classmethod
    def read(cls, path: Path) -> Melodies:
        """Read what `write` wrote.

        Raises:
            CheckpointError: if the file is damaged or none of these.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                text, lengths, data, limit = (file[name] for name in ("names", "lengths", "prints", "limit"))
            names, edges = text.tobytes().decode().split("\n") if len(text) else [], np.cumsum(lengths)
            prints = data.astype(np.int64)
            if len(names) != len(lengths) or edges[-1:].sum() != len(prints):
                raise ValueError("its lengths do not add up")
            rows = np.split(prints, edges[:-1]) if len(lengths) else []
            return cls(tuple(names), tuple(rows), int(limit))
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{path} holds no melodies ({reason}); write it again.") from error


def _winnowed(moves: IntArray, length: int) -> list[tuple[int, int]]:
    """Place and print of the stretches of so many moves that are kept: of any `WINDOW` neighbours the least print."""
    moves = np.ascontiguousarray(moves, np.int64)
    places = range(len(moves) - length + 1)
    hashed = [hashlib.blake2b(moves[i : i + length].tobytes(), digest_size=4).digest() for i in places]
    prints = [int.from_bytes(own) for own in hashed]
    begins = range(max(1, len(prints) - WINDOW + 1)) if prints else ()
    kept = {min(range(i, min(i + WINDOW, len(prints))), key=prints.__getitem__) for i in begins}
    return [(i, prints[i]) for i in sorted(kept)]


class NearMelody(NamedTuple):
    """How many notes in a row, at least, a score shares with a work that was taught; 0 where no print is shared."""

    n_notes: int
    name: str


def nearest_melodies(scores: Sequence[Score | None], melodies: Melodies) -> list[NearMelody | None]:
    """What is nearest to each score; None where there is no score."""
    owners = {
        p: name for name, own in zip(melodies.names, melodies.prints, strict=True) for p in own.tolist()
    }
    found: list[NearMelody | None] = []
    for score in scores:
        places: dict[str, list[int]] = {}
        for at, own in [] if score is None else _winnowed(melody_moves(score), melodies.limit + 1):
            if own in owners:
                places.setdefault(owners[own], []).append(at)
        runs = [NearMelody(own[-1] - own[0] + melodies.limit + 1, name) for name, own in places.items()]
        found.append(None if score is None else max(runs, default=NearMelody(0, "none")))
    return found


def _nearest(library: Mapping[str, DoubleArray], features: MusicFeatures) -> Nearest:
    return nearest([fingerprint(features, late) for late in (False, True)], library)
