"""From measured pieces to the figures of a report: following, kinds, retrieval, quality, faults, originality."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silent2music.evaluation import metrics, originality
from silent2music.evaluation.features import QUALITY_VERSION, MusicFeatures
from silent2music.evaluation.metrics import Interval
from silent2music.evaluation.pair_stats import MIN_EVENTS, SCORES, RoomReference, follow_scores
from silent2music.evaluation.pieces import EvalConfig, Item, Piece, Progress

FloatArray = NDArray[np.float64]
Report = dict[str, Any]

REPORT_VERSION = 1

GROUP = 32
"""Rooms among which the true one is to be found."""

LOWER_IS_A_FAULT = ("key_clarity", "beat_strength")
"""Faults whose low end is the bad one; of level both ends are, of the others the high one."""


def tabulate(
    items: Sequence[Item],
    systems: Mapping[str, Sequence[Piece | None]],
    partner: Sequence[int],
    anchors: Mapping[str, Sequence[Piece]],
    config: EvalConfig,
) -> Report:
    """Everything that needs no model: following, kinds, retrieval, quality and faults of each system."""
    systems = {name: pieces for name, pieces in systems.items() if any(p is not None for p in pieces)}
    report: Report = {
        "version": REPORT_VERSION,
        "quality_version": QUALITY_VERSION,
        "n": len(items),
        "config": dataclasses.asdict(config),
        "follow": {},
        "differences": {},
    }
    for side in ("measured", "labelled"):
        scores = {
            name: [
                follow_scores(item.references[side], piece.features)
                if piece and side in item.references
                else {}
                for item, piece in zip(items, pieces, strict=True)
            ]
            for name, pieces in _with_shuffled(systems, partner).items()
        }
        report["follow"][side] = {name: _means(rows, config.seed) for name, rows in scores.items()}
        report["differences"][side] = {
            f"{a} - {b}": _differences(scores[a], scores[b], config.seed) for a, b in _contrasts(scores)
        }
    report["kinds"] = {name: _by_kind(items, pieces) for name, pieces in systems.items()}
    report["kind_checks"] = _kind_checks(items, systems, config.seed)
    report["retrieval"] = {
        name: _retrieval(items, pieces)
        for name, pieces in systems.items()
        if name != "codec" and all(p is not None for p in pieces)
    }
    report["quality"] = _quality(systems, anchors)
    real_faults = [item.real.faults for item in items]
    limits = {
        name: np.percentile([f[name] for f in real_faults], [1, 99]).tolist() for name in real_faults[0]
    }
    report["faults"] = {"limits": limits} | {
        name: fault_table([p.faults for p in pieces if p], limits)
        for name, pieces in (systems | dict(anchors)).items()
    }
    return report


def _with_shuffled(
    systems: Mapping[str, Sequence[Piece | None]], partner: Sequence[int]
) -> dict[str, Sequence[Piece | None]]:
    """Each system that hears the room, beside itself with another room's music."""
    result: dict[str, Sequence[Piece | None]] = {}
    for name, pieces in systems.items():
        result[name] = pieces
        if name not in ("dropped", "codec"):
            result[f"{name}, shuffled"] = [pieces[j] for j in partner]
    return result


def _contrasts(scores: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs = [(name, f"{name}, shuffled") for name in scores if f"{name}, shuffled" in scores]
    return [*pairs, ("model", "dropped")] if "dropped" in scores else pairs


def _means(rows: Sequence[Mapping[str, float]], seed: int) -> dict[str, Any]:
    values = {name: np.array([r[name] for r in rows if name in r]) for name in SCORES}
    return {n: plain_interval(metrics.bootstrap_mean(v, seed)) for n, v in values.items() if v.size}


def _differences(
    rows: Sequence[Mapping[str, float]], nulls: Sequence[Mapping[str, float]], seed: int
) -> dict[str, Any]:
    result = {}
    for name in SCORES:
        both = np.array(
            [(r[name], s[name]) for r, s in zip(rows, nulls, strict=True) if name in r and name in s]
        )
        if len(both) >= 2:
            found = metrics.paired_difference(both[:, 0], both[:, 1], seed)
            result[name] = plain_interval(found)
    return result


def plain_interval(interval: Interval) -> dict[str, Any]:
    """An interval as JSON values."""
    return dataclasses.asdict(interval) | {"excludes_zero": interval.excludes_zero}


def mean_descriptors(pieces: Sequence[Piece]) -> dict[str, float]:
    """Mean of each kind descriptor, and the number of pieces."""
    rows = [piece.features.kind_descriptors() for piece in pieces]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} | {"n": float(len(rows))}


def _by_kind(items: Sequence[Item], pieces: Sequence[Piece | None]) -> dict[str, dict[str, float]]:
    result = {}
    for kind in sorted({item.kind for item in items}):
        own = [p for item, p in zip(items, pieces, strict=True) if p and item.kind == kind]
        if own:
            result[kind] = mean_descriptors(own)
    return result


def _kind_checks(
    items: Sequence[Item], systems: Mapping[str, Sequence[Piece | None]], seed: int
) -> dict[str, dict[str, Any]]:
    """`steps` more percussive than `room`, `hall` more reverberant than `room`: differences of means."""
    result: dict[str, dict[str, Any]] = {}
    for name in ("real", "model"):
        for kind, descriptor in (("steps", "percussiveness"), ("hall", "reverberance_seconds")):
            groups = [
                np.array(
                    [
                        p.features.kind_descriptors()[descriptor]
                        for item, p in zip(items, systems.get(name, ()), strict=False)
                        if p and item.kind == k
                    ]
                )
                for k in (kind, "room")
            ]
            if groups[0].size and groups[1].size:
                found = metrics.mean_difference(groups[0], groups[1], seed)
                result.setdefault(name, {})[f"{kind} - room: {descriptor}"] = plain_interval(found)
    return result


def _similarity(room: RoomReference, music: MusicFeatures) -> float:
    """How well music fits a room, kind unseen: energy correlation, onset F of a room with events, boundary F."""
    asked = dataclasses.replace(
        room, rhythmic=room.event_seconds.size >= MIN_EVENTS, changing=bool(room.boundary_seconds.size)
    )
    scores = follow_scores(asked, music)
    return scores["energy_pearson"] + scores.get("onset_f", 0.0) + 0.5 * scores.get("boundary_f_3", 0.0)


def _retrieval(items: Sequence[Item], pieces: Sequence[Piece | None]) -> dict[str, Any]:
    """From the music alone, find its room among up to 32, by the features and without any model."""
    order = np.random.default_rng(0).permutation(len(items))
    groups = []
    for chosen in np.array_split(order, max(1, len(items) // GROUP))[:2]:
        rooms = [items[i].references["measured"] for i in chosen]
        music = [piece.features for i in chosen if (piece := pieces[i])]
        similarities = np.array([[_similarity(room, m) for room in rooms] for m in music])
        groups.append(metrics.retrieval_scores(similarities)._asdict())
    return {name: float(np.mean([g[name] for g in groups])) for name in groups[0]} | {
        "among": len(items) // max(1, len(items) // GROUP)
    }


def _quality(
    systems: Mapping[str, Sequence[Piece | None]], anchors: Mapping[str, Sequence[Piece]]
) -> dict[str, dict[str, float]]:
    """Distances of the odd items of each system to the real music of the even ones; `real` is the floor.

    Rows are standardised by the even half and limited to ±10, so that no single dimension decides; the median
    bandwidth is the even half's too.
    """
    reference = np.concatenate([p.quality for p in systems["real"][::2] if p])
    mean, spread = reference.mean(axis=0), reference.std(axis=0) + 1e-6

    def scaled(rows: FloatArray) -> FloatArray:
        return np.asarray(np.clip((rows - mean) / spread, -10.0, 10.0))

    own = {name: [p for p in pieces[1::2] if p] for name, pieces in systems.items()}
    own |= {name: list(pieces) for name, pieces in anchors.items()}
    result = {}
    for name, pieces in own.items():
        rows = np.concatenate([p.quality for p in pieces]) if pieces else reference[:0]
        # A covariance or a kernel of one row is none.
        if min(len(rows), len(reference)) >= 2:
            result[name] = {
                "frechet": metrics.frechet_distance(scaled(reference), scaled(rows)),
                "kernel": metrics.kernel_distance(scaled(reference), scaled(rows)),
                "n_rows": float(len(rows)),
            }
    return result


def fault_table(
    faults: Sequence[Mapping[str, float]], limits: Mapping[str, Sequence[float]]
) -> dict[str, dict[str, float]]:
    """Mean of each fault and the share of pieces beyond the real music's 1st or 99th percentile, on the bad side."""
    table = {}
    for name in faults[0]:
        values = np.array([f[name] for f in faults])
        table[name] = {"mean": float(values.mean())}
        if name in limits:
            low, high = limits[name]
            below, above = values < low - 1e-9, values > high + 1e-9
            bad = below if name in LOWER_IS_A_FAULT else above | below if name == "level_dbfs" else above
            table[name]["beyond_real"] = float(bad.mean())
    return table


def originality_of(
    items: Sequence[Item], pieces: Sequence[Piece | None], library: Mapping[str, Piece], tell: Progress
) -> Report:
    """The nearest training excerpt of every output, beside what held-out real music has."""
    prints = {name: originality.fingerprint(piece.features) for name, piece in library.items()}
    if not prints:
        return {"n_training": 0}
    found: dict[str, list[originality.Nearest]] = {"real": [], "model": []}
    for i, (item, piece) in enumerate(zip(items, pieces, strict=True)):
        for name, own in (("real", item.real), ("model", piece)):
            nearest = originality.nearest(originality.fingerprint(own.features), prints) if own else None
            if nearest is not None:
                found[name].append(nearest)
        tell("originality", i + 1, len(items))
    real, made = ([n.distance for n in found[name]] for name in ("real", "model"))
    near = np.flatnonzero(originality.too_near(made, real)).tolist()
    return {
        "n_training": len(prints),
        "distance": {name: [n.distance for n in those] for name, those in found.items()},
        "limit": originality.near_limit(real),
        "too_near": [
            {"output": items[i].name, "training": found["model"][i].name, "distance": made[i]} for i in near
        ],
    }
