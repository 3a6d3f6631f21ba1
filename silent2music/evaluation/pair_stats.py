"""What a folder of pairs holds, and how far its music follows its rooms: the ceiling of any model trained on it.

Everything is measured on the audio of both sides; beside it stands the same with the room's true events, tempo
and boundaries from the labels, so that a low figure tells whether the music or the measurement is at fault. The
null is the same rooms against the music of other pairs.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from silent2music.acoustics import AcousticProfile, analyze
from silent2music.audio import Waveform
from silent2music.data.pairs import Pair, load_pair, read_pairs
from silent2music.errors import DataError
from silent2music.evaluation import metrics
from silent2music.evaluation.features import MusicFeatures, describe
from silent2music.evaluation.metrics import Interval
from silent2music.evaluation.stages import process_pool

FloatArray = NDArray[np.float64]
Job = TypeVar("Job")
Found = TypeVar("Found")

RHYTHMIC_KINDS = ("steps", "machine", "muted")
"""Scene kinds whose events a listener would tap to; a pair counts with `MIN_EVENTS` of them or more."""

MIN_EVENTS = 4

CLEAR_EVENT_DB = 10.0
"""Above its noise floor: an event of an unlabelled recording that a listener would not miss."""

N_SHUFFLES = 8
"""Other pairs that each room is compared with; the null of a room is their mean."""

SCORES = (
    "onset_hit_rate",
    "onset_precision",
    "onset_f",
    "loris_bcs",
    "loris_bhs",
    "tempo_4",
    "tempo_8",
    "tempo_4_octave",
    "tempo_8_octave",
    "energy_pearson",
    "energy_spearman",
    "boundary_f_0.5",
    "boundary_f_3",
)
"""What `follow_scores` may give, in the order of a report."""


@dataclass(frozen=True)
class RoomReference:
    """What there is to follow in a room.

    Attributes:
        kind: scene kind, or "".
        seconds: duration.
        event_seconds: `[E]`; tempo_bpm: of the pulse or None; energy_db: `[F]` at 10 Hz; boundary_seconds: `[J]`.
        rhythmic: whether onsets and tempo are asked for; changing: whether boundaries are.
    """

    kind: str
    seconds: float
    event_seconds: FloatArray
    tempo_bpm: float | None
    energy_db: FloatArray
    boundary_seconds: FloatArray
    rhythmic: bool
    changing: bool


def measured_reference(profile: AcousticProfile, labels: dict[str, Any] | None = None) -> RoomReference:
    """The room as `acoustics.analyze` measured it.

    Labels, where there are any, decide only what is asked of the room: onsets and tempo of rhythmic kinds,
    boundaries of scenes that change. Without them `MIN_EVENTS` clear events or a measured boundary do: of steps on
    a stair, too, no steady pulse is asked.
    """
    labels = labels or {}
    events = np.array([event.seconds for event in profile.events], np.float64)
    boundaries = np.array([boundary.seconds for boundary in profile.boundaries], np.float64)
    labelled = "event_seconds" in labels
    changes = _labelled_boundaries(labels, profile.seconds) if labelled else boundaries
    n_clear = sum(event.strength_db >= CLEAR_EVENT_DB for event in profile.events)
    return RoomReference(
        kind=str(labels.get("kind", "")),
        seconds=profile.seconds,
        event_seconds=events,
        tempo_bpm=profile.tempo_bpm,
        energy_db=np.asarray(profile.energy_dbfs, np.float64),
        boundary_seconds=boundaries,
        rhythmic=_is_rhythmic(labels, profile.seconds) if labelled else n_clear >= MIN_EVENTS,
        changing=bool(changes.size),
    )


def labelled_reference(profile: AcousticProfile, labels: dict[str, Any]) -> RoomReference:
    """The room as its labels know it; the energy curve is the measured one, which is its own truth."""
    return RoomReference(
        kind=str(labels.get("kind", "")),
        seconds=profile.seconds,
        event_seconds=_times(labels.get("event_seconds", ()), profile.seconds),
        tempo_bpm=labels.get("tempo_bpm") or None,
        energy_db=np.asarray(profile.energy_dbfs, np.float64),
        boundary_seconds=_labelled_boundaries(labels, profile.seconds),
        rhythmic=_is_rhythmic(labels, profile.seconds),
        changing=bool(_labelled_boundaries(labels, profile.seconds).size),
    )


def _times(values: Sequence[float], seconds: float) -> FloatArray:
    """Labelled times inside a room that may have been cut shorter than its labels."""
    times = np.sort(np.asarray(values, np.float64))
    return times[times < seconds]


def _labelled_boundaries(labels: dict[str, Any], seconds: float) -> FloatArray:
    """Where the room changes; a hand-written pair may know only where its music does."""
    return _times(labels.get("scene_boundaries", labels.get("boundaries", ())), seconds)


def _is_rhythmic(labels: dict[str, Any], seconds: float) -> bool:
    n_events = _times(labels.get("event_seconds", ()), seconds).size
    return labels.get("kind") in RHYTHMIC_KINDS and n_events >= MIN_EVENTS


def follow_scores(room: RoomReference, music: MusicFeatures) -> dict[str, float]:
    """How far music follows a room, by the names of `SCORES`; what the room does not ask for is left out.

    Onsets and tempo are asked for by rhythmic rooms, tempo only where the room has one, boundaries only where it
    changes, energy always. Music without any of it scores 0, without a warning.
    """
    seconds = min(room.seconds, music.seconds)
    scores: dict[str, float] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if room.rhythmic:
            events, onsets = (t[t < seconds] for t in (room.event_seconds, music.onset_seconds))
            match = metrics.onset_scores(events, onsets)
            loris = metrics.loris_beat_scores(events, onsets, seconds)
            scores |= {
                f"onset_{name}": v for name, v in zip(("hit_rate", "precision", "f"), match, strict=True)
            }
            scores |= {"loris_bcs": loris.bcs, "loris_bhs": loris.bhs}
            if room.tempo_bpm is not None:
                tempo = metrics.tempo_agreement(room.tempo_bpm, music.tempo_bpm)
                names = ("tempo_4", "tempo_8", "tempo_4_octave", "tempo_8_octave")
                scores |= dict(zip(names, tempo, strict=True))
        energy = metrics.energy_correlation(room.energy_db, music.energy_db)
        scores |= {"energy_pearson": energy.pearson, "energy_spearman": energy.spearman}
        if room.changing:
            changes, sections = (t[t < seconds] for t in (room.boundary_seconds, music.boundary_seconds))
            for window in (0.5, 3.0):
                found = metrics.boundary_scores(changes, sections, seconds, window)
                scores[f"boundary_f_{window:g}"] = found.f_measure
    return scores


@dataclass(frozen=True)
class Comparison:
    """One score of true pairs beside its null, over the n items that ask for it."""

    true: Interval
    shuffled: Interval
    difference: Interval


def compare(
    rooms: Sequence[RoomReference], music: Sequence[MusicFeatures], seed: int = 0
) -> dict[str, Comparison]:
    """Every score of room i with music i, against room i with the music of others of its sort.

    The null of a room is its mean score over `N_SHUFFLES` others, which are rhythmic if it is: the harder null.
    Scores that fewer than two items ask for are left out.
    """
    true = [follow_scores(r, m) for r, m in zip(rooms, music, strict=True)]
    null: list[dict[str, float]] = []
    for i, room in enumerate(rooms):
        others = [j for j in range(len(rooms)) if j != i and (rooms[j].rhythmic or not room.rhythmic)]
        picked = np.random.default_rng([seed, i]).permutation(others)[:N_SHUFFLES].astype(int)
        against = [follow_scores(room, music[j]) for j in picked]
        null.append({n: float(np.mean([a[n] for a in against])) for n in true[i]} if against else {})
    result = {}
    for name in SCORES:
        pairs = np.array(
            [(t[name], s[name]) for t, s in zip(true, null, strict=True) if name in t and name in s]
        )
        if len(pairs) >= 2:
            values, nulls = pairs[:, 0], pairs[:, 1]
            result[name] = Comparison(
                metrics.bootstrap_mean(values, seed),
                metrics.bootstrap_mean(nulls, seed),
                metrics.paired_difference(values, nulls, seed),
            )
    return result


@dataclass(frozen=True)
class PairStats:
    """What `stats` found.

    Attributes:
        n_pairs: in the manifest; hours: of the measured pairs scaled to all.
        n_measured: pairs whose audio was measured.
        kinds, splits, licences: how many pairs of each; a pair counts once for each licence among its sources.
        measured: the ceiling from the audio of both sides.
        labelled: the same with the room's side from the labels.
        by_kind: for each kind the mean of each score, `measured` and `labelled`.
    """

    n_pairs: int
    n_measured: int
    hours: float
    kinds: dict[str, int]
    splits: dict[str, int]
    licences: dict[str, int]
    measured: dict[str, Comparison]
    labelled: dict[str, Comparison]
    by_kind: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    def summary(self) -> str:
        """A few lines of text with the ceiling as a table."""

        def counts(values: dict[str, int]) -> str:
            return ", ".join(f"{name or 'unknown'} {n}" for name, n in values.items())

        lines = [
            f"{self.n_pairs} pairs, {self.hours:.2f} h ({self.n_measured} measured)",
            f"kinds: {counts(self.kinds)}",
            f"splits: {counts(self.splits)}",
            f"licences: {counts(self.licences)}",
        ]
        for title, table in (
            ("measured on both sides", self.measured),
            ("room side from labels", self.labelled),
        ):
            if table:
                lines += ["", f"{title:24}{'n':>5}  {'true pairs':24}{'shuffled pairs':24}difference"]
            lines += [
                f"{name:24}{c.true.n:5d}  {c.true!s:24}{c.shuffled!s:24}{c.difference}"
                for name, c in table.items()
            ]
        return "\n".join(lines)


def stats(
    folder: Path | str,
    n_max: int = 200,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> PairStats:
    """Count a pair folder and measure its ceiling.

    Args:
        folder: with `pairs.jsonl`.
        n_max: pairs to measure at most, drawn from the whole manifest.
        seed: of the draw, the shuffles and the bootstrap.
        workers: processes; the result does not depend on their number.
        progress: called with pairs done and pairs in all.

    Raises:
        DataError: on an empty or malformed manifest.
        AudioError: if a file cannot be read.
    """
    folder = Path(folder)
    pairs = read_pairs(folder)
    if not pairs:
        raise DataError(f"{folder} holds no pairs; build some with `s2m data build` or write pairs.jsonl.")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(pairs))[:n_max])
    jobs = [(folder, pairs[i]) for i in chosen]
    found = []
    for profile_and_music in mapped(_measure, jobs, workers):
        found.append(profile_and_music)
        if progress is not None:
            progress(len(found), len(jobs))
    labels = [dict(pair.labels) for _, pair in jobs]
    music = [m for _, m in found]
    measured = [measured_reference(p, own) for (p, _), own in zip(found, labels, strict=True)]
    known = [
        (labelled_reference(p, own), m)
        for (p, m), own in zip(found, labels, strict=True)
        if "event_seconds" in own
    ]
    return PairStats(
        n_pairs=len(pairs),
        n_measured=len(jobs),
        hours=sum(p.seconds for p, _ in found) / 3600.0 * len(pairs) / len(jobs),
        kinds=dict(sorted(Counter(p.kind for p in pairs).items())),
        splits=dict(sorted(Counter(p.split for p in pairs).items())),
        licences=_licences(pairs),
        measured=compare(measured, music, seed),
        labelled=compare([r for r, _ in known], [m for _, m in known], seed) if known else {},
        by_kind=_by_kind(measured, music, known),
    )


def mapped(function: Callable[[Job], Found], jobs: Sequence[Job], workers: int) -> Iterator[Found]:
    """The function's results in the order of the jobs, by several processes if asked for."""
    if workers <= 1 or len(jobs) <= 1:
        yield from map(function, jobs)
        return
    with process_pool(workers) as pool:
        yield from pool.map(function, jobs)


def _measure(job: tuple[Path, Pair]) -> tuple[AcousticProfile, MusicFeatures]:
    silent, music = load_pair(*job)
    return analyze(silent), describe(music)


def _licences(pairs: Sequence[Pair]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for pair in pairs:
        found.update({str(source.get("licence", "")) for source in pair.labels.get("sources", ())})
    return dict(sorted(found.items()))


def _by_kind(
    measured: Sequence[RoomReference],
    music: Sequence[MusicFeatures],
    known: Sequence[tuple[RoomReference, MusicFeatures]],
) -> dict[str, dict[str, dict[str, float]]]:
    """Mean scores per kind, for finding out where a figure is lost."""
    sides = {"measured": list(zip(measured, music, strict=True)), "labelled": list(known)}
    result: dict[str, dict[str, dict[str, float]]] = {}
    for side, items in sides.items():
        for kind in sorted({room.kind for room, _ in items}):
            scores = [follow_scores(room, m) for room, m in items if room.kind == kind]
            means = {n: [s[n] for s in scores if n in s] for n in SCORES}
            result.setdefault(kind, {})[side] = {n: float(np.mean(v)) for n, v in means.items() if v}
    return result


def write_json(found: PairStats, path: Path) -> None:
    """Write the statistics as JSON."""
    path.write_text(json.dumps(found.to_dict(), indent=2) + "\n", encoding="utf-8")


def plot_pair(silent: Waveform, music: Waveform, labels: dict[str, Any], path: Path | str) -> None:
    """Draw a pair: spectrogram of the silent side over that of the music side, level, events and beats.

    Args:
        silent: the near-silent side; music: the other; both over the same seconds.
        labels: of the pair; events, beats and boundaries are measured where the labels do not have them.
        path: PNG, PDF or SVG to write.
    """
    from matplotlib.figure import Figure

    profile, features = analyze(silent), describe(music)
    events = labels.get("event_seconds", [event.seconds for event in profile.events])
    boundaries = labels.get("boundaries", [boundary.seconds for boundary in profile.boundaries])
    figure = Figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 2))
    for axis, side, title in ((axes[0], silent, "silent side"), (axes[1], music, "music side")):
        # The logarithm of digital silence would be infinite: noise far below 24 bits stands in for it.
        mono = side.mono().samples[0] + 1e-9 * np.random.default_rng(0).standard_normal(side.n_samples)
        axis.specgram(
            mono,
            NFFT=1024,
            Fs=side.sample_rate,
            noverlap=512,
            cmap="magma",
            vmin=-160 if side is silent else -120,
        )
        axis.set(ylabel="Hz", ylim=(0, min(8000, side.sample_rate / 2)), title=title)
    axes[0].eventplot([events], lineoffsets=7400, linelengths=900, colors="cyan", label="events")
    axes[1].eventplot(
        [features.onset_seconds], lineoffsets=7400, linelengths=900, colors="cyan", label="onsets"
    )
    axes[1].eventplot(
        [labels.get("beats", [])], lineoffsets=6300, linelengths=900, colors="lime", label="beats"
    )
    axes[2].plot(
        np.arange(len(profile.energy_dbfs)) / profile.curve_rate_hz, profile.energy_dbfs, label="silent side"
    )
    axes[2].plot(np.arange(features.energy_db.size) / 10.0, features.energy_db, label="music side")
    axes[2].set(xlabel="seconds", ylabel="dBFS", xlim=(0, max(silent.seconds, music.seconds)))
    for axis in axes:
        for boundary in boundaries:
            axis.axvline(boundary, color="white" if axis is not axes[2] else "black", linestyle="--")
        axis.legend(loc="lower right")
    caption = labels.get("caption", "")
    figure.suptitle(f"{labels.get('kind', 'pair')}{': ' + caption if caption else ''}")
    figure.savefig(path, dpi=110)
