"""From measured pieces to the figures of a report: following, kinds, retrieval, quality, faults, originality."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from silent2music.arrays import DoubleArray, IntArray
from silent2music.evaluation import originality
from silent2music.evaluation.features import QUALITY_VERSION, MusicFeatures
from silent2music.evaluation.following import (
    MIN_EVENTS,
    SCORES,
    RoomReference,
    boundary_scores,
    energy_correlation,
    follow_scores,
    onset_scores,
    retrieval_scores,
)
from silent2music.evaluation.pieces import EvalConfig, Inspected, Item, partners_of
from silent2music.evaluation.quality import evaluate_distances
from silent2music.evaluation.stages import Stages
from silent2music.evaluation.statistics import Interval, bootstrap_mean, mean_difference, paired_difference

Figures = dict[str, Any]
"""A report or a part of it, as JSON values."""

Pieces = Sequence[Inspected | None]
"""What a system played for each item, where it played."""

REPORT_VERSION = 1

ANCHORS = ("noise", "grains")

GROUP = 32
"""Rooms among which the true one is to be found."""

LOWER_IS_A_FAULT = ("key_clarity", "beat_strength")
"""Faults whose low end is the bad one; of level both ends are, of the others the high one."""


def tabulate(
    items: Sequence[Item],
    systems: Mapping[str, Pieces],
    config: EvalConfig,
    anchors: Mapping[str, Sequence[Inspected]] | None = None,
) -> Figures:
    """Everything that needs no model: following, kinds, retrieval, quality and faults of each system."""
    anchors, partner = anchors or {}, partners_of(len(items))
    systems = {name: pieces for name, pieces in systems.items() if any(pieces)}
    everything = _with_shuffled(systems, partner) | dict(anchors)
    limits = fault_limits([p.faults for p in systems.get("real", ()) if p])
    report = {
        "version": REPORT_VERSION,
        "quality_version": QUALITY_VERSION,
        "n": len(items),
        "config": stated(config),
        **follow_tables(
            [item.references for item in items],
            {
                name: [piece.features if piece else None for piece in pieces]
                for name, pieces in systems.items()
            },
            config.seed,
        ),
        "kinds": {name: _by_kind(items, pieces) for name, pieces in systems.items()},
        "kind_checks": _kind_checks(items, systems, config.seed),
        "retrieval": {
            name: _retrieval(items, pieces)
            for name, pieces in systems.items()
            if name != "codec" and all(pieces)
        },
    }
    if "real" in systems:
        report["quality"] = _quality(everything)
    report["faults"] = {
        name: fault_table([p.faults for p in pieces if p], limits)
        for name, pieces in (systems | dict(anchors)).items()
    }
    return report | {"fault_limits": limits}


def follow_tables(
    references: Sequence[Mapping[str, RoomReference]],
    systems: Mapping[str, Sequence[MusicFeatures | None]],
    seed: int,
) -> Figures:
    """How far each system follows the rooms, as measured and as labelled, and by how much more than its null.

    Args:
        references: for each room `measured`, and `labelled` where there are labels.
        systems: for each system its music for these rooms, where it played.
        seed: of the intervals.

    Returns:
        `follow`: by side and system the mean of every score; `differences`: by side the mean of every score of a
        system over that of its null, item by item. All with intervals.
    """
    report: Figures = {"follow": {}, "differences": {}}
    partner = partners_of(len(references))
    for side in ("measured", "labelled"):
        scores = {
            name: [
                follow_scores(room[side], played) if played and side in room else {}
                for room, played in zip(references, music, strict=True)
            ]
            for name, music in _with_shuffled(systems, partner).items()
        }
        contrasts = [(name, f"{name}, shuffled") for name in scores if f"{name}, shuffled" in scores]
        contrasts += [("model", "dropped")] if "dropped" in scores else []
        report["follow"][side] = {name: _means(rows, seed) for name, rows in scores.items()}
        report["differences"][side] = {
            f"{a} - {b}": _differences(scores[a], scores[b], seed) for a, b in contrasts
        }
    return report


def stated(config: EvalConfig) -> Figures:
    """What a report says of how it was made: all that decides its figures."""
    values = dataclasses.asdict(config)
    return {name: value for name, value in values.items() if name not in ("workers", "sampling")}


def _with_shuffled(systems: Mapping[str, Sequence[Any]], partner: Sequence[int]) -> dict[str, Sequence[Any]]:
    """Each system that hears the room, beside itself with another room's music."""
    result: dict[str, Sequence[Any]] = {}
    for name, pieces in systems.items():
        result[name] = pieces
        if name not in ("dropped", "codec"):
            result[f"{name}, shuffled"] = [pieces[j] for j in partner]
    return result


def _means(rows: Sequence[Mapping[str, float]], seed: int) -> Figures:
    values = {name: np.array([r[name] for r in rows if name in r]) for name in SCORES}
    return {name: plain_interval(bootstrap_mean(v, seed)) for name, v in values.items() if v.size}


def _differences(
    rows: Sequence[Mapping[str, float]], nulls: Sequence[Mapping[str, float]], seed: int
) -> Figures:
    result = {}
    for name in SCORES:
        both = [(r[name], s[name]) for r, s in zip(rows, nulls, strict=True) if name in r and name in s]
        if len(both) >= 2:
            values, null_values = np.array(both).T
            result[name] = plain_interval(paired_difference(values, null_values, seed))
    return result


def plain_interval(interval: Interval) -> Figures:
    """An interval as JSON values."""
    return dataclasses.asdict(interval) | {"excludes_zero": interval.excludes_zero}


def mean_descriptors(pieces: Sequence[Inspected]) -> dict[str, float]:
    """Mean of each kind descriptor, and the number of pieces."""
    rows = [piece.features.kind_descriptors() for piece in pieces]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} | {"n": float(len(rows))}


def _of_kind(items: Sequence[Item], pieces: Pieces, kind: str) -> list[Inspected]:
    return [piece for item, piece in zip(items, pieces, strict=True) if piece and item.kind == kind]


def _by_kind(items: Sequence[Item], pieces: Pieces) -> dict[str, dict[str, float]]:
    kinds = {kind: _of_kind(items, pieces, kind) for kind in sorted({item.kind for item in items})}
    return {kind: mean_descriptors(own) for kind, own in kinds.items() if own}


def _kind_checks(items: Sequence[Item], systems: Mapping[str, Pieces], seed: int) -> Figures:
    """`steps` more percussive than `room`, `hall` more reverberant than `room`: differences of means."""
    result: Figures = {}
    for name in ("real", "model"):
        for kind, descriptor in (("steps", "percussiveness"), ("hall", "reverberance_seconds")):
            own, room = (
                np.array(
                    [p.features.kind_descriptors()[descriptor] for p in _of_kind(items, systems[name], k)]
                )
                if name in systems
                else np.zeros(0)
                for k in (kind, "room")
            )
            if own.size and room.size:
                found = plain_interval(mean_difference(own, room, seed))
                result.setdefault(name, {})[f"{kind} - room: {descriptor}"] = found
    return result


def _similarity(room: RoomReference, music: MusicFeatures) -> float:
    """How well music fits a room, kind unseen: energy correlation, onset F of a room with events, boundary F."""
    seconds = min(room.seconds, music.seconds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        similarity = energy_correlation(room.energy_db, music.energy_db, ranked=False).pearson
        if room.event_seconds.size >= MIN_EVENTS:
            events, onsets = (t[t < seconds] for t in (room.event_seconds, music.onset_seconds))
            similarity += onset_scores(events, onsets).f_measure
        if room.boundary_seconds.size:
            changes, sections = (t[t < seconds] for t in (room.boundary_seconds, music.boundary_seconds))
            similarity += 0.5 * boundary_scores(changes, sections, seconds, 3.0).f_measure
    return similarity


def _retrieval(items: Sequence[Item], pieces: Pieces) -> Figures:
    """From the music alone, find its room among up to 32, by the features and without any model."""
    order = np.random.default_rng(0).permutation(len(items))
    groups = []
    for chosen in (order[group] for group in grouped(len(items))):
        rooms = [items[i].references["measured"] for i in chosen]
        music = [piece.features for i in chosen if (piece := pieces[i])]
        similarities = np.array([[_similarity(room, m) for room in rooms] for m in music])
        groups.append(retrieval_scores(similarities)._asdict())
    return {name: float(np.mean([g[name] for g in groups])) for name in groups[0]} | {
        "among": len(grouped(len(items))[0])
    }


def grouped(n: int) -> list[IntArray]:
    """Numbers 0 to n - 1 in groups of `GROUP` or a few more; one group if there are fewer."""
    return [group.astype(np.int64) for group in np.array_split(np.arange(n), max(1, n // GROUP))]


def _quality(systems: Mapping[str, Pieces]) -> dict[str, dict[str, float]]:
    """Distances of the odd items of each system to the real music of the even ones; `real` is the floor.

    Anchors were made for the odd items alone. Rows are standardised by the even half and limited to ±10, so that
    no single dimension decides; the median bandwidth is the even half's too.
    """
    reference = np.concatenate([p.quality for p in systems["real"][::2] if p])
    mean, spread = reference.mean(axis=0), reference.std(axis=0) + 1e-6

    def scaled(rows: DoubleArray) -> DoubleArray:
        return np.asarray(np.clip((rows - mean) / spread, -10.0, 10.0))

    result = {}
    for name, all_pieces in systems.items():
        pieces = [p for p in (all_pieces if name in ANCHORS else all_pieces[1::2]) if p]
        if name.endswith(", shuffled") and name != "retrieval, shuffled":
            # The same pieces in another order, or those of the reference itself.
            continue
        rows = np.concatenate([p.quality for p in pieces]) if pieces else reference[:0]
        if found := evaluate_distances(scaled(reference), scaled(rows)):
            result[name] = found
    return result


def fault_limits(faults: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """The 1st and the 99th percentile of every fault in real music; of repetition the 95th too."""
    if not faults:
        return {}
    values = {name: [f[name] for f in faults] for name in faults[0]}
    limits = {
        name: dict(zip(("low", "high"), np.percentile(those, [1, 99]).tolist(), strict=True))
        for name, those in values.items()
    }
    limits["repetition"]["high_95"] = float(np.percentile(values["repetition"], 95))
    return limits


def fault_table(
    faults: Sequence[Mapping[str, float]], limits: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """Mean of each fault and the share of pieces beyond the real music's 1st or 99th percentile, on the bad side."""
    table = {}
    for name in faults[0]:
        values = np.array([f[name] for f in faults])
        table[name] = {"mean": float(values.mean())}
        if name in limits:
            below, above = values < limits[name]["low"] - 1e-9, values > limits[name]["high"] + 1e-9
            bad = below if name in LOWER_IS_A_FAULT else above | below if name == "level_dbfs" else above
            table[name]["beyond_real"] = float(bad.mean())
        if "high_95" in limits.get(name, {}):
            table[name]["beyond_real_95"] = float((values > limits[name]["high_95"] + 1e-9).mean())
    return table


def spread(values: Sequence[float]) -> dict[str, float]:
    """A distribution in five figures."""
    names, shares = ("min", "percentile_5", "median", "percentile_95", "max"), (0, 5, 50, 95, 100)
    return dict(zip(names, np.percentile(values, shares).tolist(), strict=True))


def originality_of(
    items: Sequence[Item],
    made: Pieces,
    reals: Pieces,
    library: Mapping[str, MusicFeatures],
    copies: Mapping[str, MusicFeatures],
    stages: Stages,
) -> Figures:
    """The nearest training excerpt of every output, beside what held-out real music has.

    Like is compared with like: where outputs went through a codec, so should the real music and the library.

    Args:
        items, made, reals: rooms, and the music made and the real music for them.
        library: music that was trained on, by name.
        copies: altered copies of training pieces by their names, which must be found out.
        stages: what runs the work.
    """
    if not library:
        return {"n_training": 0}
    prints = {name: originality.fingerprint(features) for name, features in library.items()}
    own = {
        "real": [piece.features for piece in reals if piece],
        "model": [piece.features for piece in made if piece],
        "copies": list(copies.values()),
    }
    every = [features for those in own.values() for features in those]
    results = iter(stages.run("originality", partial(_nearest, prints), every))
    found = {name: [next(results) for _ in those] for name, those in own.items()}
    distances = {name: [nearest.distance for nearest in those] for name, those in found.items()}
    names = [item.name for item, piece in zip(items, made, strict=True) if piece]
    near = np.flatnonzero(originality.too_near(distances["model"], distances["real"])).tolist()
    limit = originality.near_limit(distances["real"])
    report: Figures = {
        "n_training": len(prints),
        "n": len(names),
        "distance": {name: spread(distances[name]) for name in ("real", "model")},
        "limit": limit,
        "too_near": [
            {
                "output": names[i],
                "training": found["model"][i].name,
                "distance": found["model"][i].distance,
            }
            for i in near
        ],
    }
    if copies:
        caught = [
            n.name == name and n.distance < limit for name, n in zip(copies, found["copies"], strict=True)
        ]
        report["copies"] = {"n": len(caught), "named": sum(caught)}
    return report


def _nearest(library: Mapping[str, DoubleArray], features: MusicFeatures) -> originality.Nearest:
    queries = [originality.fingerprint(features, late) for late in (False, True)]
    # A library of pieces too short for an alignment is as far as can be.
    return originality.nearest(queries, library) or originality.Nearest("", 1.0)
