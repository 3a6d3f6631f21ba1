"""`s2m data stats`: what a folder of pairs holds, and how far its music follows its rooms.

That is the ceiling of any model trained on it, by the tables of the benchmark. Everything is measured on the audio
of both sides; beside it stands the same with the room's true events, tempo and boundaries from the labels, so that
a low figure tells whether the music or the measurement is at fault. The null is the music of another pair.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from silent2music.acoustics import analyze
from silent2music.data.pairs import Pair, load_pair, read_pairs
from silent2music.errors import DataError
from silent2music.evaluation.features import MusicFeatures, describe
from silent2music.evaluation.following import RoomReference, references_of
from silent2music.evaluation.report import follow_text
from silent2music.evaluation.stages import Progress, Stages
from silent2music.evaluation.tables import Figures, follow_tables


@dataclass(frozen=True)
class PairStats:
    """What `pair_stats` found.

    Attributes:
        n_pairs: in the manifest; n_measured: pairs whose audio was measured.
        hours: of the measured pairs scaled to all.
        kinds, splits, licences: how many pairs of each; a pair counts once for each licence among its sources.
        follow, differences: as `tables.follow_tables` gives them.
    """

    n_pairs: int
    n_measured: int
    hours: float
    kinds: dict[str, int]
    splits: dict[str, int]
    licences: dict[str, int]
    follow: Figures
    differences: Figures

    def to_dict(self) -> Figures:
        """Plain values for JSON."""
        return asdict(self)

    def summary(self) -> str:
        """A few lines of text with the ceiling as a table."""
        lines = [f"{self.n_pairs} pairs, {self.hours:.2f} h ({self.n_measured} measured)"]
        for title, counts in (("kinds", self.kinds), ("splits", self.splits), ("licences", self.licences)):
            lines.append(f"{title}: " + ", ".join(f"{name or 'unknown'} {n}" for name, n in counts.items()))
        return "\n\n".join(["\n".join(lines), *follow_text(self.to_dict())])


def pair_stats(
    folder: Path | str,
    n_max: int = 200,
    seed: int = 0,
    workers: int = 1,
    progress: Progress | None = None,
) -> PairStats:
    """Count a pair folder and measure its ceiling.

    Args:
        folder: with `pairs.jsonl`.
        n_max: pairs to measure at most, drawn from the whole manifest.
        seed: of the draw and the bootstrap.
        workers: processes; the result does not depend on their number.
        progress: called with the stage, pairs done and pairs in all.

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
    references, music = [room for room, _ in measured], [features for _, features in measured]
    licences = Counter(
        licence
        for pair in pairs
        for licence in {str(source.get("licence", "")) for source in pair.labels.get("sources", ())}
    )
    seconds = sum(room["measured"].seconds for room in references)
    return PairStats(
        n_pairs=len(pairs),
        n_measured=len(measured),
        hours=seconds / 3600.0 * len(pairs) / len(measured),
        kinds=dict(sorted(Counter(p.kind for p in pairs).items())),
        splits=dict(sorted(Counter(p.split for p in pairs).items())),
        licences=dict(sorted(licences.items())),
        **follow_tables(references, {"real": music}, seed),
    )


def _measured(folder: Path, pair: Pair) -> tuple[dict[str, RoomReference], MusicFeatures]:
    room, music = load_pair(folder, pair)
    return references_of(analyze(room), pair.labels), describe(music)
