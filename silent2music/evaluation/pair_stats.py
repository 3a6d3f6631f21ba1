"""`s2m data stats`: what a folder of pairs holds, and how far its music follows its rooms.

That is the ceiling of any model trained on it, by the tables of the benchmark. Everything is measured on the audio
of both sides; beside it stands the same with the room's true events, tempo and boundaries from the labels, so that
a low figure tells whether the music or the measurement is at fault. The null is the music of another pair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from silent2music.acoustics import analyze
from silent2music.data.pairs import Pair, load_pair, read_pairs, silent_side
from silent2music.errors import DataError
from silent2music.evaluation.features import MusicFeatures, music_features
from silent2music.evaluation.following import RoomReference, references_of
from silent2music.evaluation.report import follow_text
from silent2music.evaluation.stages import Stages
from silent2music.evaluation.tables import Figures, follow_tables
from silent2music.processes import Progress

COUNTED = ("kinds", "splits", "licences")


def pair_stats(
    folder: Path | str, n_max: int = 200, seed: int = 0, workers: int = 1, progress: Progress | None = None
) -> Figures:
    """Count the pairs of a folder, and measure how far their music follows their rooms.

    Args:
        folder: with `pairs.jsonl`.
        n_max: pairs to measure at most, drawn from the whole manifest.
        workers: processes; the result does not depend on their number.

    Returns:
        `n_pairs` in the manifest; `n_scores`, those with a score; `n_soundless`, those with a score and no music;
        `n_measured`, pairs whose music was measured; `hours`, of the rooms drawn, scaled to all; `kinds`, `splits`
        and `licences`, how many pairs of each, a pair counting once for each licence among its sources; where music
        was measured, `follow` and `differences` of `tables.follow_tables`. All as JSON values.

    Raises:
        DataError: on an empty or malformed manifest.
        AudioError: if a file cannot be read.
    """
    folder = Path(folder)
    pairs = read_pairs(folder)
    if not pairs:
        raise DataError(f"{folder} holds no pairs; build some with `s2m data build` or write pairs.jsonl.")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(pairs))[:n_max])
    with Stages(workers, progress) as stages:
        measured = stages.run("pairs", partial(_measured, folder), [pairs[i] for i in chosen])
    # Rhythmic rooms first, as in the benchmark, so that partners are of one sort.
    measured.sort(key=lambda those: not those[0]["measured"].rhythmic)
    sounding = [(room, features) for room, features in measured if features is not None]
    licences = [{str(source.get("licence", "")) for source in p.labels.get("sources", ())} for p in pairs]
    seconds = sum(room["measured"].seconds for room, _ in measured)
    counted = ([p.kind for p in pairs], [p.split for p in pairs], [one for own in licences for one in own])
    return {
        "n_pairs": len(pairs),
        "n_scores": sum(pair.score is not None for pair in pairs),
        "n_soundless": sum(pair.music is None for pair in pairs),
        "n_measured": len(sounding),
        "hours": seconds / 3600.0 * len(pairs) / len(measured),
        **{
            title: dict(sorted(Counter(those).items())) for title, those in zip(COUNTED, counted, strict=True)
        },
        **_followed(sounding, seed),
    }


def _followed(sounding: Sequence[tuple[dict[str, RoomReference], MusicFeatures]], seed: int) -> Figures:
    """How far music follows its rooms, if there is any."""
    if not sounding:
        return {}
    references, music = [room for room, _ in sounding], [features for _, features in sounding]
    return follow_tables(references, {"real": music}, seed)


def _measured(folder: Path, pair: Pair) -> tuple[dict[str, RoomReference], MusicFeatures | None]:
    """A pair's room, and its music if it has sound."""
    if pair.music is None:
        return references_of(analyze(silent_side(folder, pair)), pair.labels), None
    room, music = load_pair(folder, pair)
    return references_of(analyze(room), pair.labels), music_features(music)


def stats_text(found: Figures) -> str:
    """What `pair_stats` found as a few lines with the ceiling as a table."""
    lines = [f"{found['n_pairs']} pairs, {found['hours']:.2f} h ({found['n_measured']} measured)"]
    lines.append(f"{found['n_scores']} with a score, {found['n_soundless']} without sound")
    for title in COUNTED:
        lines.append(f"{title}: " + ", ".join(f"{name or 'unknown'} {n}" for name, n in found[title].items()))
    return "\n\n".join(["\n".join(lines), *(follow_text(found) if "follow" in found else ())])
