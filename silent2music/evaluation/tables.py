"""Computes the figures of a report from measured pieces: following, kinds, retrieval, quality, faults."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from silent2music.arrays import IntArray
from silent2music.evaluation.features import KIND_DESCRIPTORS, QUALITY_VERSION, MusicFeatures
from silent2music.evaluation.following import (
    SCORES,
    RoomReference,
    follow_scores,
    retrieval_scores,
    similarity,
)
from silent2music.evaluation.pieces import EvalConfig, Inspected, Item
from silent2music.evaluation.quality import evaluate_distances
from silent2music.evaluation.statistics import (
    figure_differences,
    mean_difference,
    mean_figures,
    paired_difference,
)

Figures = dict[str, Any]
"""A report or a part of it, as JSON values."""

Pieces = Sequence[Inspected | None]
"""What a system played for each item, where it played."""

REPORT_VERSION = 2

N_HALVES = 16
"""Divisions of the pieces into halves over which distances are averaged."""

GROUP = 32
"""Rooms among which the true one is to be found."""

WHISTLE_SECONDS = 3.0
"""A partial that stands still for so long whistles."""

LOWER_IS_A_FAULT = ("key_clarity", "beat_strength")
"""Faults whose low end is the bad one; of level both ends are, of the others the high one."""


def tabulate(
    items: Sequence[Item],
    systems: Mapping[str, Pieces],
    config: EvalConfig,
    anchors: Mapping[str, Pieces] | None = None,
) -> Figures:
    """All figures that need no model: following, kinds, retrieval, quality and faults of each system."""
    anchors = anchors or {}
    systems = {name: pieces for name, pieces in systems.items() if any(pieces)}
    heard = {name: [p.features if p else None for p in pieces] for name, pieces in systems.items()}
    kinds = {name: _by_kind(items, pieces) for name, pieces in systems.items()}
    checks = {name: _kind_checks(kinds[name], config.seed) for name in ("real", "model") if name in kinds}
    limits = fault_limits(_faults(systems.get("real", ())))
    report = {
        "version": REPORT_VERSION,
        "quality_version": QUALITY_VERSION,
        "n": len(items),
        "config": stated(config),
        **follow_tables([item.references for item in items], heard, config.seed),
        "kinds": {
            name: {kind: mean_descriptors(own) for kind, own in by_kind.items()}
            for name, by_kind in kinds.items()
        },
        "kind_checks": {name: found for name, found in checks.items() if found},
        "retrieval": {
            name: _retrieval(items, [p for p in pieces if p])
            for name, pieces in systems.items()
            if name != "codec" and all(pieces)
        },
    }
    if "real" in systems:
        report["quality"] = _quality(_with_shuffled(systems) | dict(anchors), config.seed)
    faults = {name: _faults(pieces) for name, pieces in (systems | dict(anchors)).items()}
    report["faults"] = {name: fault_table(those, limits) for name, those in faults.items()}
    alike = {name: [f["spectral_likeness"] for f in those] for name, those in faults.items()}
    report["spectral_likeness"] = {
        f"{name} - real": paired_difference(np.array(alike[name]), np.array(alike["real"]), config.seed)
        for name in ("model", "codec")
        if "real" in alike and len(alike.get(name, ())) == len(items)
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

    Returns:
        `follow`: by side and system the mean of every score; `differences`: by side the mean of every score of a
        system over that of its null, item by item. All with intervals.
    """
    report: Figures = {"follow": {}, "differences": {}}
    for side in ("measured", "labelled"):
        scores = {
            name: [
                follow_scores(room[side], played) if played and side in room else {}
                for room, played in zip(references, music, strict=True)
            ]
            for name, music in _with_shuffled(systems).items()
        }
        contrasts = [(name, f"{name}, shuffled") for name in scores if f"{name}, shuffled" in scores]
        contrasts += [("model", "dropped")] if "dropped" in scores else []
        report["follow"][side] = {name: mean_figures(rows, SCORES, seed) for name, rows in scores.items()}
        report["differences"][side] = {
            f"{a} - {b}": figure_differences(scores[a], scores[b], SCORES, seed) for a, b in contrasts
        }
    return report


def stated(config: EvalConfig) -> Figures:
    """The settings that decide a report's figures, as the report states them."""
    values = dataclasses.asdict(config)
    return {name: value for name, value in values.items() if name not in ("workers", "sampling")}


def partners_of(n: int) -> list[int]:
    """Index of the other room for each room: neighbours swap; of an odd number the last one gets the first."""
    partner = [i ^ 1 for i in range(n)]
    if n % 2:
        partner[-1] = 0
    return partner


def _with_shuffled(systems: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """Adds to each system that depends on the room its shuffled null, the music for another room."""
    result: dict[str, Sequence[Any]] = {}
    for name, pieces in systems.items():
        result[name] = pieces
        if name not in ("dropped", "codec"):
            result[f"{name}, shuffled"] = [pieces[j] for j in partners_of(len(pieces))]
    return result


def mean_descriptors(pieces: Sequence[Inspected]) -> dict[str, float]:
    """Mean of each kind descriptor, and the number of pieces."""
    means = {name: np.mean([getattr(p.features, name) for p in pieces]) for name in KIND_DESCRIPTORS}
    return {name: float(mean) for name, mean in means.items()} | {"n": float(len(pieces))}


def _by_kind(items: Sequence[Item], pieces: Pieces) -> dict[str, list[Inspected]]:
    """Music by the kind of its room, in the order of their names."""
    kinds: dict[str, list[Inspected]] = {}
    for item, piece in sorted(zip(items, pieces, strict=True), key=lambda those: those[0].kind):
        if piece:
            kinds.setdefault(item.kind, []).append(piece)
    return kinds


def _kind_checks(kinds: Mapping[str, Sequence[Inspected]], seed: int) -> Figures:
    """`steps` more percussive than `room`, `hall` more reverberant than `room`: differences of means."""
    result = {}
    for kind, descriptor in (("steps", "percussiveness"), ("hall", "reverberance_seconds")):
        if kind in kinds and "room" in kinds:
            own, room = (
                np.array([getattr(p.features, descriptor) for p in kinds[k]]) for k in (kind, "room")
            )
            result[f"{kind} - room: {descriptor}"] = mean_difference(own, room, seed)
    return result


def _retrieval(items: Sequence[Item], pieces: Sequence[Inspected]) -> Figures:
    """Retrieval of a piece's room among up to 32, by features of the music and without any model."""
    order = np.random.default_rng(0).permutation(len(items))
    groups = []
    for chosen in (order[group] for group in grouped(len(items))):
        rooms = [items[i].references["measured"] for i in chosen]
        matrix = [[similarity(room, pieces[i].features) for room in rooms] for i in chosen]
        groups.append(retrieval_scores(np.array(matrix)))
    means = {name: float(np.mean([group[name] for group in groups])) for name in groups[0]}
    return means | {"among": len(grouped(len(items))[0])}


def grouped(n: int) -> list[IntArray]:
    """Numbers 0 to n - 1 in groups of `GROUP` or a few more; one group if there are fewer."""
    return [group.astype(np.int64) for group in np.array_split(np.arange(n), max(1, n // GROUP))]


def _quality(systems: Mapping[str, Pieces], seed: int) -> dict[str, dict[str, float]]:
    """Distances of one half of each system's pieces to the real music of the other half; `real` is the floor.

    Of two partners chance decides which is in which half, `N_HALVES` times, since a distance of one half alone depends
    on which that is: figures are means, `kernel_deviation` is the standard deviation. Rows are standardised by the real
    half and limited to ±10, so that no single dimension decides; the median bandwidth is the real half's too.
    """
    rng, n = np.random.default_rng(seed), len(systems["real"])
    drawn: dict[str, list[dict[str, float]]] = {name: [] for name in systems}
    for _ in range(N_HALVES):
        made = (np.arange(0, n - 1, 2) + rng.integers(2, size=n // 2)).tolist()
        real = (systems["real"][i] for i in sorted(set(range(n)) - set(made)))
        reference = np.concatenate([p.quality for p in real if p])
        mean, deviation = reference.mean(axis=0), reference.std(axis=0) + 1e-6
        for name, pieces in systems.items():
            if name.endswith(", shuffled") and name != "retrieval, shuffled":
                continue  # the same pieces in another order
            rows = [p.quality for i in made if (p := pieces[i])]
            both = (reference, np.concatenate([reference[:0], *rows]))
            if found := evaluate_distances(*(np.clip((x - mean) / deviation, -10.0, 10.0) for x in both)):
                drawn[name].append(found)
    result = {}
    for name, every in drawn.items():
        if every:
            means = {key: float(np.mean([one[key] for one in every])) for key in every[0]}
            result[name] = means | {"kernel_deviation": float(np.std([one["kernel"] for one in every]))}
    return result


def _faults(pieces: Pieces) -> list[dict[str, float]]:
    return [piece.faults for piece in pieces if piece]


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
        if name == "still_partial_seconds":
            table[name]["whistling"] = float((values >= WHISTLE_SECONDS).mean())
        if "high_95" in limits.get(name, {}):
            table[name]["beyond_real_95"] = float((values > limits[name]["high_95"] + 1e-9).mean())
    return table
