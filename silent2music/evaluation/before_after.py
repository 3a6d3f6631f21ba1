"""What fine-tuning changed: the same rooms and seeds by base and tuned model, beside the user's own held-out music.

- **Distance** of a piece to the user's style: its mean distance to the held-out pieces, in units of their own mean
  distance from one another, so that 1 is as near as they are to each other. Notes are described by the shares of
  instruments and the figures of `notes.NOTE_STATISTICS`, sound by `features.quality_features`; each column is
  standardised over all pieces of the comparison.
- **Following** on rooms that neither model was trained on: hit rate of events, and correlation of levels.
- **Originality**: the longest run of melody that is in one of the user's pieces, or the nearest of them in sound.
"""

from __future__ import annotations

import html
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from silent2music.acoustics import analyze
from silent2music.adapters import PARTS, apply_adapters, read_adapter
from silent2music.arrays import DoubleArray
from silent2music.audio import Waveform, normalised
from silent2music.config import ComposingConfig
from silent2music.data.pairs import Pair, load_pair, read_pairs, score_of, silent_side, spread_pairs
from silent2music.errors import DataError
from silent2music.evaluation.audition import KEY_STYLE, data_url, legend, roll
from silent2music.evaluation.features import music_features, quality_features
from silent2music.evaluation.following import energy_correlation, follow_scores, onset_scores, references_of
from silent2music.evaluation.notes import (
    NOTE_STATISTICS,
    melody_moves,
    note_statistics,
    onset_times,
    score_level_db,
)
from silent2music.evaluation.originality import fingerprint, nearest, shared_runs
from silent2music.evaluation.statistics import bootstrap_mean, interval_text, paired_difference
from silent2music.factory.made_sounds import N_ROOMS, made_ambience
from silent2music.factory.rendering import render
from silent2music.factory.scenes import make_scene, usable_kinds
from silent2music.factory.sources import open_library
from silent2music.model import Silent2Music
from silent2music.processes import Progress
from silent2music.score import Score

N_FAMILIES = 17
"""General MIDI's families of eight programs, and drums."""

MIN_HITS = 4
"""Events that a room has if its hit rate counts."""

NOTHING_SHOWN = "the interval holds zero or worse, so nothing is shown to have been learned"

LOST = 0.05
"""Following that is lost beyond this is told."""

SHARES, NEAR = (0.5, 0.75, 1.0), 0.03
"""Of the rule of loudness, shares that are tried; and how much less levels may follow by the one that is chosen."""

CALIBRATION_SECONDS = 10.0
"""Length of the rooms on which that is measured."""


@dataclass(frozen=True)
class Comparison:
    """What is to be compared.

    Attributes:
        base: model folder; adapter: what was tuned, or None; tuned: model folder that the adapter is added to.
        pairs: the user's pairs, with a split.
        rooms: other pairs for following, or None for rooms that are made here.
        n: pieces by each model; n_played: of them on the page with sound and picture; seed: of all.
        n_followed: rooms on which following is compared.
        soundfonts: for scores that no model plays.
    """

    base: Path
    adapter: Path | None
    tuned: Path
    pairs: Path
    rooms: Path | None
    n: int
    seed: int
    soundfonts: Sequence[str] = ()
    n_followed: int = 24
    n_played: int = 6


@dataclass(frozen=True)
class Room:
    """A room with what is known of its events in seconds."""

    name: str
    sound: Waveform
    labels: Mapping[str, Any]


@dataclass(frozen=True)
class Made:
    """What a model made of a room: notes, sound, or both; `is_played` says that the model itself sounds."""

    score: Score | None
    sound: Waveform | None
    is_played: bool


Figures = dict[str, Any]


def compare(job: Comparison, report: Progress) -> tuple[Figures, list[tuple[Room, Made, Made]]]:
    """Make music by both models and measure it.

    Returns:
        Figures as JSON values with intervals, and some rooms with what both made of them.

    Raises:
        DataError: if no pair is held out.
    """
    pairs = read_pairs(job.pairs)
    held_out = [pair for pair in pairs if pair.split == "validation"]
    if not held_out:
        raise DataError(f"{job.pairs} holds no pair out; expected at least one.")
    rooms = _rooms_of(job.pairs, held_out, job.n)
    followed = _followed(job)
    parts = set(PARTS) if job.adapter is None else set(read_adapter(job.adapter).config.parts)
    # Playing takes longer than composing: what is not heard, and sounds as the base does, is compared by its notes.
    n_sounding = job.n if any(pair.music is not None for pair in held_out) else job.n_played
    made: dict[str, list[Made]] = {}
    follows: dict[str, list[dict[str, float]]] = {}
    for name in ("base", "tuned"):
        model = Silent2Music.from_pretrained(job.base if name == "base" else job.tuned)
        if name == "tuned" and job.adapter is not None:
            apply_adapters(model, job.base, [read_adapter(job.adapter)])
        made[name], follows[name] = [], []
        n_total = job.n + len(followed)
        for index in range(job.n):
            room = rooms[index % len(rooms)]
            made[name].append(_play(job, model, parts, room, job.seed + index, index < n_sounding))
            report(f"page: {name}", index + 1, n_total)
        for index, room in enumerate(followed):
            piece = _play(job, model, parts, room, job.seed + index, parts != {"composer"})
            follows[name].append(_follow(room, piece))
            report(f"page: {name}", job.n + index + 1, n_total)
    figures: Figures = {"n": job.n, "n_rooms": len(rooms), "distance": _distances(job, held_out, made)}
    figures["following"] = {
        key: {
            **{name: _mean(follows[name], key) for name in follows},
            "change": _change(follows["tuned"], follows["base"], key),
        }
        for key in ("hit_rate", "energy")
    }
    figures["originality"] = _originality(job, pairs, made)
    shown = [
        (rooms[i % len(rooms)], made["base"][i], made["tuned"][i]) for i in range(min(job.n_played, job.n))
    ]
    return figures, shown


def _piece(pair: Pair) -> str:
    """The name of the music that a pair was made of."""
    return str(pair.labels.get("piece", pair.id))


# --- rooms and music -----------------------------------------------------------------------------------------


def _rooms_of(folder: Path, pairs: Sequence[Pair], most: int) -> list[Room]:
    """The silent sides of pairs spread over all, each once."""
    return [Room(_piece(pair), silent_side(folder, pair), pair.labels) for pair in spread_pairs(pairs, most)]


def _followed(job: Comparison) -> list[Room]:
    """Rooms for following: the held-out ones of some pairs, or scenes made here that no training uses."""
    if job.rooms is None:
        return _made_rooms(job, 20.0, 8675309)
    pairs = [pair for pair in read_pairs(job.rooms) if pair.split == "validation"]
    return _rooms_of(job.rooms, pairs, min(job.n_followed, len(pairs)))


def _made_rooms(job: Comparison, seconds: float, seed: int) -> list[Room]:
    """As many rooms as following is compared on, made of sounds that are made here."""
    own = job.pairs.parent / "rooms"
    library = open_library(made_ambience(own, seed=1), None, own / "library", N_ROOMS)
    kinds = list(usable_kinds(library, {"steps": 1.0, "room": 1.0, "machine": 1.0, "weather": 1.0}))
    rooms = []
    for index in range(job.n_followed):
        rng = np.random.default_rng([seed, index])
        scene = make_scene(kinds[index % len(kinds)], library, rng, seconds)
        labels = {"kind": scene.truth.kind, "event_seconds": scene.truth.event_seconds.tolist()}
        rooms.append(Room(f"{scene.truth.kind} {index}", scene.audio, labels))
    return rooms


def _play(job: Comparison, model: Silent2Music, tuned: set[str], room: Room, seed: int, sounds: bool) -> Made:
    """What a model makes of a room: a score, and its sound if that is wanted and the model, or a soundfont, plays."""
    if model.composes() and sounds:
        piece = model.generate(room.sound, seed=seed)
        return Made(piece.score, Waveform(piece.samples, piece.sample_rate), True)
    if model.composer is None or ("decoder" in tuned and not model.composes()):
        piece = model.generate(room.sound, seed=seed)
        score = model.compose(room.sound, seed=seed) if model.composer and "composer" in tuned else None
        return Made(score, Waveform(piece.samples, piece.sample_rate), True)
    score = model.compose(room.sound, seed=seed)
    fonts = [Path(name) for name in job.soundfonts if Path(name).is_file()]
    sound = None
    if sounds and fonts and not model.composes() and shutil.which("fluidsynth"):
        sound = render(score, fonts[0])
    return Made(score, sound, False)


# --- following -----------------------------------------------------------------------------------------------


def followed_as_by_base(job: Comparison, report: Progress) -> Figures:
    """How far loudness has to follow rooms by rule for the levels of the tuned model's notes to follow as the base's do.

    A style of rests and single lines goes up and down by itself, and what the composer foretells of loudness was never
    taught where scores have none. Measured on short rooms that are made here and judge nothing else.

    Returns:
        `share`, the least of `SHARES` from the base's own on by which the correlation of levels is within `NEAR` of the
        base's, or else the best; `energy`, that correlation by share; `base`, the base's.
    """
    rooms = _made_rooms(job, CALIBRATION_SECONDS, 24036583)
    levels = [np.asarray(analyze(room.sound).energy_dbfs, np.float64) for room in rooms]
    base, tuned = (Silent2Music.from_pretrained(folder) for folder in (job.base, job.tuned))
    if job.adapter is not None:
        apply_adapters(tuned, job.base, [read_adapter(job.adapter)])
    assert base.composer is not None
    own = base.composer.config.following
    scores: list[list[Score]] = []
    for index, room in enumerate(rooms):
        # Loudness is linear in the share of the rule, and changes no note.
        ends = [
            tuned.compose(room.sound, composing=ComposingConfig(following=end), seed=index)
            for end in (0.0, 1.0)
        ]
        scores.append([base.compose(room.sound, seed=index), *ends])
        report("loudness", index + 1, len(rooms))

    def energy(played: Sequence[Score]) -> float:
        found = [
            energy_correlation(level, score_level_db(score), ranked=False).pearson
            for level, score in zip(levels, played, strict=True)
        ]
        return float(np.mean(found))

    def at(share: float) -> float:
        return energy(
            [
                replace(low, gain_db=low.gain_db + share * (high.gain_db - low.gain_db))
                for _, low, high in scores
            ]
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        wanted = energy([score for score, _, _ in scores])
        found = {share: at(share) for share in sorted({own, *SHARES}) if share >= own}
    near = [share for share, value in found.items() if value >= wanted - NEAR]
    share = near[0] if near else max(found, key=lambda one: found[one])
    return {"share": share, "energy": {f"{one:g}": value for one, value in found.items()}, "base": wanted}


def _follow(room: Room, piece: Made) -> dict[str, float]:
    """Hit rate of the room's events and correlation of levels: of the sound that the model makes, else of its notes."""
    profile = analyze(room.sound)
    references = references_of(profile, room.labels)
    reference = references.get("labelled", references["measured"])
    found: dict[str, float] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if piece.is_played and piece.sound is not None:
            scores = follow_scores(reference, music_features(piece.sound))
            found["energy"] = scores["energy_pearson"]
            if "onset_hit_rate" in scores:
                found["hit_rate"] = scores["onset_hit_rate"]
        elif piece.score is not None:
            if reference.rhythmic and len(reference.event_seconds) >= MIN_HITS:
                onsets = onset_times(piece.score)
                found["hit_rate"] = onset_scores(reference.event_seconds, onsets).hit_rate
            level = score_level_db(piece.score)
            found["energy"] = energy_correlation(reference.energy_db, level, ranked=False).pearson
    return found


def _mean(found: Sequence[Mapping[str, float]], key: str) -> Any:
    values = np.array([one[key] for one in found if key in one])
    return bootstrap_mean(values) if len(values) else None


def _change(tuned: Sequence[Mapping[str, float]], base: Sequence[Mapping[str, float]], key: str) -> Any:
    both = [(t[key], b[key]) for t, b in zip(tuned, base, strict=True) if key in t and key in b]
    return paired_difference(*np.array(both).T) if both else None


# --- distances -----------------------------------------------------------------------------------------------


def style_of(score: Score) -> tuple[DoubleArray, DoubleArray]:
    """What a score is like: shares of the families of instruments `[17]`, and the figures of `NOTE_STATISTICS`."""
    shares = np.zeros(N_FAMILIES)
    for part in score.parts:
        shares[16 if part.is_drum else part.program // 8] += len(part.pitches)
    found = note_statistics(score)
    return shares / max(1.0, shares.sum()), np.array([found.get(name, np.nan) for name in NOTE_STATISTICS])


def sound_of(sound: Waveform) -> tuple[DoubleArray, ...]:
    """What music sounds like: means and spreads of its quality features."""
    rows = quality_features(sound)
    return rows.mean(axis=0), rows.std(axis=0)


def distances(made: Sequence[tuple[DoubleArray, ...]], own: Sequence[tuple[DoubleArray, ...]]) -> DoubleArray:
    """Distance `[n]` of each made piece to the user's, in units of the user's own from one another.

    Blocks of columns count alike, whatever their number; what a piece has no figure for counts as the mean.

    Args:
        made, own: of each piece its blocks, as `style_of` and `sound_of` have them.
    """
    total = np.zeros((len(made), len(own)))
    among = np.zeros((len(own), len(own)))
    for block in range(len(own[0])):
        rows = np.stack([piece[block] for piece in (*made, *own)])
        rows = np.where(np.isfinite(rows), rows, np.nanmean(rows, axis=0))
        spread = rows.std(axis=0)
        rows = (rows - rows.mean(axis=0))[:, spread > 1e-9] / spread[spread > 1e-9]
        ours, theirs = rows[: len(made)], rows[len(made) :]
        for matrix, left in ((total, ours), (among, theirs)):
            matrix += np.square(left[:, None] - theirs[None]).mean(axis=2) if rows.shape[1] else 0.0
    total, among = np.sqrt(total), np.sqrt(among)
    others = among[~np.eye(len(own), dtype=bool)]
    scale = float(others.mean()) if len(others) and others.mean() > 0 else 1.0
    return np.asarray(total.mean(axis=1) / scale)


def _distances(job: Comparison, held_out: Sequence[Pair], made: Mapping[str, Sequence[Made]]) -> Figures:
    """Distances to the user's held-out music, in notes and in sound, with the paired change."""
    found: Figures = {}
    scores = _once([p for p in held_out if p.score is not None])
    if len(scores) >= 1 and all(piece.score is not None for piece in (*made["base"], *made["tuned"])):
        own = [style_of(score) for pair in scores if (score := score_of(job.pairs, pair)) is not None]
        found["notes"] = _both(
            {name: [style_of(piece.score) for piece in made[name] if piece.score] for name in made}, own
        )
    sounds = _once([p for p in held_out if p.music is not None])
    if sounds and all(piece.is_played and piece.sound for piece in (*made["base"], *made["tuned"])):
        own_sound = [sound_of(load_pair(job.pairs, pair)[1]) for pair in sounds]
        found["sound"] = _both(
            {name: [sound_of(piece.sound) for piece in made[name] if piece.sound] for name in made}, own_sound
        )
    return found


def _once(pairs: Sequence[Pair], most: int = 48) -> list[Pair]:
    """Pairs of different music, at most some, spread over all: of the rooms of one stretch the first."""
    kept: dict[Any, Pair] = {}
    for pair in pairs:
        kept.setdefault((_piece(pair), pair.start, pair.music or pair.score), pair)
    return spread_pairs(list(kept.values()), most)


def _both(
    made: Mapping[str, Sequence[tuple[DoubleArray, ...]]], own: Sequence[tuple[DoubleArray, ...]]
) -> Figures:
    """Distances of both models, standardised together, and how much nearer the tuned one is."""
    found = distances([*made["base"], *made["tuned"]], own)
    base, tuned = found[: len(made["base"])], found[len(made["base"]) :]
    return {
        "n_own": len(own),
        "base": bootstrap_mean(base),
        "tuned": bootstrap_mean(tuned),
        "nearer": paired_difference(base, tuned),
    }


def _originality(job: Comparison, pairs: Sequence[Pair], made: Mapping[str, Sequence[Made]]) -> Figures:
    """Runs of melody shared with the user's training scores, and the nearest of the user's pieces in sound.

    What held-out pieces of the user share with the training pieces is the ruler.
    """
    found: Figures = {}
    by_split = {split: [p for p in pairs if p.split == split] for split in ("train", "validation")}
    taught = {
        _piece(p): score
        for p in by_split["train"]
        if p.score is not None and (score := score_of(job.pairs, p)) is not None
    }
    if taught and all(piece.score is not None for piece in made["tuned"]):
        library = [melody_moves(score) for score in taught.values()]
        reals = [score_of(job.pairs, p) for p in by_split["validation"] if p.score is not None]
        groups = {
            "base": [piece.score for piece in made["base"]],
            "tuned": [piece.score for piece in made["tuned"]],
            "held_out": reals,
        }
        runs = {
            name: shared_runs([melody_moves(score) for score in those if score is not None], library)
            for name, those in groups.items()
        }
        found["longest_shared_run"] = {name: max(those, default=0) for name, those in runs.items()}
        longest = int(np.argmax(runs["tuned"]))
        own = melody_moves(made["tuned"][longest].score)  # type: ignore[arg-type]
        shares = {name: shared_runs([own], [moves])[0] for name, moves in zip(taught, library, strict=True)}
        found["nearest_piece"] = max(shares, key=lambda name: shares[name])
        found["copies"] = max(runs["tuned"], default=0) > max(8, 1.5 * max(runs["held_out"], default=0))
    music = _once([p for p in by_split["train"] if p.music], 24)
    if music and "copies" not in found and all(piece.sound for piece in made["tuned"]):

        def print_of(sound: Waveform) -> DoubleArray:
            return fingerprint(music_features(sound))

        shelf = {_piece(p): print_of(load_pair(job.pairs, p)[1]) for p in music}
        real = _once([p for p in by_split["validation"] if p.music], 8)
        limits = [nearest([print_of(load_pair(job.pairs, p)[1])], shelf).distance for p in real]
        near = [nearest([print_of(piece.sound)], shelf) for piece in made["tuned"] if piece.sound]
        closest = min(near, key=lambda one: one.distance)
        found |= {"nearest_piece": closest.name, "nearest_distance": closest.distance}
        found["copies"] = bool(limits) and closest.distance < 0.8 * min(limits)
    return found


# --- words and page ------------------------------------------------------------------------------------------


def sentences(figures: Figures) -> list[str]:
    """What the figures say, in sentences."""
    lines = []
    for what, found in figures["distance"].items():
        base, tuned, nearer = (interval_text(found[name]) for name in ("base", "tuned", "nearer"))
        shown = "." if found["nearer"]["low"] > 0 else f"; {NOTHING_SHOWN}."
        lines.append(
            f"Distance to your {found['n_own']} held-out stretches by {what}: {base} before, {tuned} after, nearer by "
            f"{nearer}{shown}"
        )
    names = {"hit_rate": "hit rate of events", "energy": "correlation of levels"}
    for key, found in figures["following"].items():
        if found["change"] is None:
            continue
        base, tuned, change = (interval_text(found[name]) for name in ("base", "tuned", "change"))
        lost = -found["change"]["mean"]
        told = f"; {lost:.3f} of it was forgotten" if lost > LOST else ""
        lines.append(
            f"Following on rooms of neither, {names[key]}: {base} before, {tuned} after, change {change}{told}."
        )
    if loudness := figures.get("loudness"):
        reached = loudness["energy"][f"{loudness['share']:g}"]
        lines.append(
            f"Loudness follows rooms by {loudness['share']:g} of the rule: on made rooms levels then correlate by "
            f"{reached:.3f}, the base's by {loudness['base']:.3f}."
        )
    own = figures["originality"]
    if "longest_shared_run" in own:
        runs = own["longest_shared_run"]
        lines.append(
            f"Longest run of melody shared with your training pieces: {runs['tuned']} notes, with "
            f"'{own['nearest_piece']}'; the base's {runs['base']}, your own held-out pieces' {runs['held_out']}."
        )
    elif "nearest_piece" in own:
        lines.append(
            f"Nearest of your pieces in sound: '{own['nearest_piece']}' at {own['nearest_distance']:.3f}."
        )
    if own.get("copies"):
        lines.append(
            f"It copies: what it plays is nearer to '{own['nearest_piece']}' than your pieces are to each other."
        )
    return lines


def page(figures: Figures, pieces: Sequence[tuple[Room, Made, Made]], lines: Sequence[str]) -> str:
    """A page in one file, without a script and without anything from elsewhere: players, pictures, figures."""
    rows = []
    for room, before, after in pieces:
        cells = "".join(
            f"<td>{_player(piece.sound)}{roll(piece.score, piece.score.seconds) if piece.score else ''}</td>"
            for piece in (before, after)
        )
        heard = normalised(room.sound.mono(), -30.0, -3.0) if room.sound.samples.any() else None
        rows.append(f"<tr><th>{html.escape(room.name)}<br>{_player(heard)}</th>{cells}</tr>")
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Before and after</title><style>"
        "body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}"
        "table{border-collapse:collapse;width:100%}td,th{border-top:1px solid #ccc;padding:.6rem;vertical-align:top;"
        f"text-align:left}}audio{{width:100%}}svg{{width:100%;height:auto;background:#f4f4f1}}{KEY_STYLE}</style>"
        f"<h1>Before and after</h1><p>{html.escape(figures['base'])}, tuned on {html.escape(figures['data'])} "
        f"(licence as stated: {html.escape(figures['licence'])}).</p><ul>{items}</ul>"
        "<p>The same rooms and the same seeds. The rooms, which are near-silent, are turned up to be heard.</p>"
        f"<p>{legend()}</p>"
        f"<table><tr><th>room</th><th>before</th><th>after</th></tr>{''.join(rows)}</table></html>\n"
    )


def _player(sound: Waveform | None) -> str:
    """Sound inside the page, as Ogg Vorbis."""
    if sound is None or not sound.samples.any():
        return ""
    inside = data_url(normalised(sound.mono(), -20.0, -1.0).resampled(24_000), ".ogg")
    return f'<audio controls preload=none src="{inside}"></audio>'
