"""Whether each control of a composer does what it says: as asked, as asked of another piece, and not asked at all.

For every held-out room each control is given alone, with a value drawn by the seed. What the score then has is set
against what was asked, against what was asked of the next room, and the score to which nothing was asked against the
same, by the notes and by their sound, of fluidsynth or of the model; and so is how far the room is still followed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from silent2music.acoustics import analyze
from silent2music.arrays import DoubleArray, IntArray
from silent2music.audio import Waveform
from silent2music.config import ComposingConfig
from silent2music.controls import Controls
from silent2music.data.pairs import Pair, load_pair, read_pairs, score_of, silent_side, spread_pairs
from silent2music.errors import CheckpointError, ConfigError, DataError
from silent2music.evaluation import heard
from silent2music.evaluation.families import Judge
from silent2music.evaluation.following import (
    MIN_EVENTS,
    RoomReference,
    energy_correlation,
    onset_scores,
    rank_correlation,
    references_of,
)
from silent2music.evaluation.notes import onset_times, score_level_db
from silent2music.evaluation.pieces import EvalConfig
from silent2music.evaluation.statistics import Interval, bootstrap_mean, interval_text, paired_difference
from silent2music.keys import PITCH_NAMES, estimate_key
from silent2music.model import Silent2Music
from silent2music.notation import FIRST_PART, INSTRUMENT_NAMES, home_shift, part_of
from silent2music.processes import Progress, one_thread
from silent2music.score import Score
from silent2music.traits import ENDINGS, MODES, chords, ending_of, instruments, melody, mood

RATE = 25.0
"""Frames a second in which curves are compared."""

NEAR_SECONDS = 0.05
"""A section, and a chord, so near to a cue is on it."""

GRID_SECONDS = 0.010

MODE_WEIGHT = 1.0
"""By how much valence in major is above that in minor, see `traits.affect_curves`."""

TURN_SECONDS = 2.0
"""A mood that turns is followed if the music turns so near to it."""

KOSTKA_PAYNE = np.array(
    [
        [0.748, 0.060, 0.488, 0.082, 0.670, 0.460, 0.096, 0.715, 0.104, 0.366, 0.057, 0.400],
        [0.712, 0.084, 0.474, 0.618, 0.049, 0.460, 0.105, 0.747, 0.404, 0.067, 0.133, 0.330],
    ]
)
"""Key profiles, major and minor, of Temperley, "Music and Probability", MIT Press 2007, ch. 6: others than those that the
labels of training are made with."""

Drawn = Callable[[np.random.Generator, float, Sequence[str]], dict[str, Any]]


@dataclass(frozen=True)
class Tested:
    """How one control is tested.

    Attributes:
        draw: takes a generator, the length of the piece and the instruments that the composer knows, gives what is asked.
        agreement: of a score with what was asked, 0 to 1, no number where a score has none; or what is asked and what is
            found, two numbers that are correlated over the pieces.
        is_ranked: whether it gives two numbers.
    """

    draw: Drawn
    agreement: Callable[[Controls, Score], Any]
    is_ranked: bool = False


def key_of(score: Score) -> str:
    """The key of a score by the profiles of Temperley; empty without pitches."""
    starts, ends, pitches, _ = score.notes(pitched=True)
    if not len(pitches):
        return ""
    weights = np.bincount(pitches % 12, weights=ends - starts, minlength=12)
    fits = [[float(np.corrcoef(np.roll(p, t), weights)[0, 1]) for t in range(12)] for p in KOSTKA_PAYNE]
    mode, tonic = divmod(int(np.nan_to_num(np.array(fits)).argmax()), 12)
    return f"{PITCH_NAMES[tonic]} {MODES[mode]}"


def in_key(asked: Controls, score: Score) -> float:
    """1 if a score is in the key that is asked for; no number without notes."""
    found = key_of(score)
    return float(found == asked.key) if found else float("nan")


def on_grid(asked: Controls, score: Score) -> float:
    """Share of notes within 10 ms of a sixteenth of the tempo that is asked for."""
    starts = score.notes()[0]
    places = asked.grid(score.seconds)[2]
    return (
        float(np.mean(np.abs(places[:, None] - starts).min(axis=0) <= GRID_SECONDS)) if len(starts) else 0.0
    )


def bars_held(asked: Controls, score: Score) -> float:
    """1 if bars have as many beats as is asked for, in the median."""
    counts = np.diff(np.searchsorted(score.beat_seconds, score.bar_seconds - 1e-3))
    return float(len(counts) > 0 and np.median(counts) == asked.beats_per_bar)


def cues_met(asked: Controls, score: Score) -> float:
    """Share of cues with a section, and the start of a note with pitch, within 50 ms."""
    starts = score.notes(pitched=True)[0]
    met = [
        all(
            len(x) > 0 and float(np.abs(x - cue.seconds).min()) <= NEAR_SECONDS + 1e-6
            for x in (starts, score.boundary_seconds)
        )
        for cue in asked.cue_marks
    ]
    return float(np.mean(met))


def only_these(asked: Controls, score: Score) -> float:
    """1 if nobody plays but those who are asked to."""
    assert asked.programs is not None
    return float(not (instruments(score, 1, RATE) > asked.programs).any())


def chord_overlap(asked: Controls, score: Score) -> float:
    """Intersection over union of the triads asked for and found, in time, as JASCO has it: t / (2 - t) of agreement t."""
    n_frames = round(score.seconds * RATE)
    found = chords(score, n_frames, RATE)
    if found is None:
        return 0.0
    _, classes, _ = asked.harmony(score.seconds, n_frames, RATE)
    # Both are read in the key that they were written in.
    shift = (asked.transposition or 0) + home_shift(score)
    wanted = np.roll(classes, shift, axis=1)
    share = float(((found[:, :12] > 0) == (wanted > 0)).all(axis=1).mean())
    return share / (2.0 - share)


def melody_cosine(asked: Controls, score: Score) -> float:
    """Cosine of the pitch classes of the melodies asked for and found, frame by frame."""
    n_frames = round(score.seconds * RATE)
    found = melody(score, n_frames, RATE)
    if found is None or not asked.melody:
        return 0.0 if asked.melody else float("nan")
    wanted = asked.signals(score.seconds, n_frames, RATE)["melody"][:, :12]
    own = np.roll(found[:, :12], -(asked.transposition or 0) - home_shift(score), axis=1)
    return float((own * wanted).sum() / max(np.linalg.norm(own) * np.linalg.norm(wanted), 1e-9))


def _affect(column: int) -> Callable[[Controls, Score], tuple[float, float]]:
    def both(asked: Controls, score: Score) -> tuple[float, float]:
        found = mood(score, round(score.seconds * RATE), RATE)
        return asked.mood[0][1 + column], 0.0 if found is None else float(found[:, column].mean())

    return both


def _turned(column: int) -> Callable[[Controls, Score], float]:
    """1 if valence, or arousal, changes most within 2 s of where it is asked to turn, and the way that is asked for."""

    def turned(asked: Controls, score: Score) -> float:
        n_frames, edge = round(score.seconds * RATE), round(TURN_SECONDS * RATE)
        found = mood(score, n_frames, RATE)
        if found is None:
            return 0.0
        curve = found[:, column].astype(np.float64)
        # The best fit of two levels (Scott and Knott, Biometrics 30, 1974), neither of them shorter than the tolerance.
        before = np.arange(edge, n_frames - edge)
        sums = np.cumsum(curve)
        changes = (sums[-1] - sums[before - 1]) / (n_frames - before) - sums[before - 1] / before
        if column == 0:
            # The rules take the mode from the whole piece; here it is that of the notes before and after.
            starts, ends, pitches, _ = score.notes(pitched=True)
            for i, moment in enumerate(before / RATE):
                sides = [starts >= moment, starts < moment]
                modes = [estimate_key(pitches[own], (ends - starts)[own])[1] for own in sides]
                changes[i] += MODE_WEIGHT * (MODES.index(modes[1]) - MODES.index(modes[0]))
        at = int(np.abs(changes * np.sqrt(before * (n_frames - before))).argmax())
        (_, *first), (turn, *_), (_, *last) = asked.mood[0], asked.mood[-2], asked.mood[-1]
        is_near = abs(before[at] / RATE - turn) <= TURN_SECONDS
        return float(is_near and changes[at] * (last[column] - first[column]) > 0.0)

    return turned


def _draw_turn(rng: np.random.Generator, seconds: float, known: Sequence[str]) -> dict[str, Any]:
    """A mood that turns into its opposite between a third and two thirds of the piece."""
    values = rng.choice([-1.0, 1.0], 2) * rng.uniform(0.4, 0.8, 2)
    at = float(rng.uniform(1 / 3, 2 / 3)) * seconds
    moments = ((0.0, values), (at, values), (at + 1.0 / RATE, -values))
    return {"mood": [[round(t, 2), *own.round(2).tolist()] for t, own in moments]}


def _draw_mood(rng: np.random.Generator, seconds: float, known: Sequence[str]) -> dict[str, Any]:
    return {"mood": rng.uniform(-0.8, 0.8, 2).round(2).tolist()}


def _draw_key(rng: np.random.Generator, seconds: float, known: Sequence[str]) -> dict[str, Any]:
    return {"key": f"{PITCH_NAMES[rng.integers(12)]} {MODES[rng.integers(2)]}"}


def _draw_cues(rng: np.random.Generator, seconds: float, known: Sequence[str]) -> dict[str, Any]:
    return {
        "cues": [f"{at:.2f}" for at in np.array([0.3, 0.7]) * seconds + rng.uniform(-0.1, 0.1, 2) * seconds]
    }


def _draw_instruments(rng: np.random.Generator, seconds: float, known: Sequence[str]) -> dict[str, Any]:
    return {"instruments": rng.choice(known, min(3, len(known)), replace=False).tolist()}


def _draw_chords(rng: np.random.Generator, seconds: float, known: Sequence[str]) -> dict[str, Any]:
    loops = (
        "Am F C G",
        "C G Am F",
        "Dm G C C",
        "Em C G D",
        "Bb F Gm Eb",
        "Bm G D A",
        "Cm Ab Eb Bb",
        "F#m D A E",
    )
    return {"chords": loops[rng.integers(len(loops))]}


def _draw_melody(rng: np.random.Generator, seconds: float, known: Sequence[str]) -> dict[str, Any]:
    tonic, notes, at, degree = int(rng.integers(12)), [], 0.5, 4
    while at < seconds - 1.0:
        length = float(rng.choice([0.4, 0.4, 0.8]))
        degree = int(np.clip(degree + rng.integers(-2, 3), 0, 11))
        pitch = 60 + tonic + 12 * (degree // 7) + (0, 2, 4, 5, 7, 9, 11)[degree % 7]
        notes.append([at, at + 0.9 * length, pitch, 80])
        at += length
    return {"melody": notes}


TESTED: dict[str, Tested] = {
    "tempo": Tested(lambda rng, seconds, known: {"tempo": round(float(rng.uniform(60, 140)), 1)}, on_grid),
    "metre": Tested(
        lambda rng, seconds, known: {"metre": str(rng.choice(["2/4", "3/4", "4/4", "5/4"]))}, bars_held
    ),
    "key": Tested(_draw_key, in_key),
    "valence": Tested(_draw_mood, _affect(0), is_ranked=True),
    "arousal": Tested(_draw_mood, _affect(1), is_ranked=True),
    "valence-turn": Tested(_draw_turn, _turned(0)),
    "arousal-turn": Tested(_draw_turn, _turned(1)),
    "cues": Tested(_draw_cues, cues_met),
    "ending": Tested(
        lambda rng, seconds, known: {"ending": str(rng.choice(ENDINGS)), "key": "C major"},
        lambda asked, score: float(ending_of(score) == asked.ending),
    ),
    "instruments": Tested(_draw_instruments, only_these),
    "without": Tested(
        lambda rng, seconds, known: {"without": rng.choice(known, len(known) // 3, replace=False).tolist()},
        only_these,
    ),
    "density": Tested(
        lambda rng, seconds, known: {"density": round(float(rng.uniform(0.1, 0.8)), 3)},
        lambda asked, score: (asked.density[0][1], score.n_notes / score.seconds),
        is_ranked=True,
    ),
    "chords": Tested(_draw_chords, chord_overlap),
    "melody": Tested(_draw_melody, melody_cosine),
}
"""What is tested, by name."""


def evaluate_controls(
    model: Silent2Music,
    folder: Path,
    config: EvalConfig | None = None,
    composing: ComposingConfig | None = None,
    names: Sequence[str] = tuple(TESTED),
    progress: Progress | None = None,
    soundfonts: Sequence[Path] = (),
    own_sound: bool = False,
) -> dict[str, Any]:
    """Compose for held-out rooms under each control, and say how far it is obeyed.

    Args:
        model: with a composer.
        folder: pairs; of those held out, `config.n` spread over the manifest.
        config: `n`, `seed` and `seconds` count.
        composing: how notes are drawn.
        names: controls to test, in `TESTED`.
        progress: called with the stage, steps done and steps in all.
        soundfonts: the first teaches a judge how families of instruments sound, the others play the scores, one for
            each room in turn; a single one does both.
        own_sound: the model plays the scores, for their rooms. Without it and without soundfonts notes alone are judged.

    Returns:
        `n` rooms, and by control: `asked`, `another` and `dropped`, agreements or Spearman's correlations with intervals;
        the same in `sound`, by the measures in `heard.HEARD` and, of instruments, by the judge of `families`, beside what
        this finds in the pairs' real music, by its own score and by another's; and what asking changes in following,
        `hit_rate`, the share of the events of rhythmic rooms that notes meet, and `energy`, the correlation of loudness
        with the room's; or `refused`, why the composer cannot be asked.

    Raises:
        CheckpointError: if the model has no composer.
        DataError: if there are fewer than two held-out pairs.
    """
    if model.composer is None:
        raise CheckpointError(f"The model '{model.config.name}' has no composer to evaluate.")
    config = config or EvalConfig()
    pairs = _held_out(folder, config)
    rooms, references = _rooms_of(folder, pairs, config)
    report: dict[str, Any] = {"n": len(rooms), "controls": {}}
    ranges = _ranges(model)
    instrument_names = [INSTRUMENT_NAMES[program] for program in ranges]
    players, sounds_too = soundfonts[1:] or soundfonts, own_sound or len(soundfonts) > 0
    with one_thread():
        made: dict[str, list[Score]] = {}

        def composed(label: str, asked: Sequence[Controls | None]) -> list[Score]:
            scores = []
            for i, (room, wish) in enumerate(zip(rooms, asked, strict=True)):
                scores.append(model.compose(room, None, composing, seed=config.seed + i, asked=wish))
                if progress is not None:
                    progress(f"scores under {label}", i + 1, len(rooms))
            return scores

        def played(label: str, scores: Sequence[Score]) -> list[Waveform]:
            sounds = []
            for i, score in enumerate(scores if sounds_too else ()):
                if own_sound:
                    music = model.generate(rooms[i], score=score, seed=config.seed + i)
                    sounds.append(music.mono().resampled(heard.RATE))
                else:
                    sounds.append(heard.play(score, players[i % len(players)]))
                if progress is not None:
                    progress(f"sound under {label}", i + 1, len(scores))
            return sounds

        dropped = composed("no control", [None] * len(rooms))
        plain = played("no control", dropped)
        for name in names:
            tested = TESTED[name]
            rng = np.random.default_rng([config.seed, *tested.draw.__qualname__.encode()])
            values = [tested.draw(rng, room.seconds, instrument_names) for room in rooms]
            asked, known = [Controls.of(value) for value in values], str(values)
            try:
                if known not in made:
                    made[known] = composed(name, asked)
            except ConfigError as error:  # of a composer that knows no such instrument
                report["controls"][name] = {"refused": str(error)}
                continue
            found = _found(tested.agreement, tested.is_ranked, asked, made[known], dropped, config.seed)
            found |= _cost(references, made[known], dropped, config.seed)
            measures = heard.measures_of(name) if sounds_too else {}
            if name == "instruments" and soundfonts:
                judge = Judge.taught(soundfonts[0], ranges, config.seed)
                measures["families"] = (judge.agreement, False)
            sounds = played(name, made[known]) if measures else []
            found["sound"] = {
                label: _found(measure, is_ranked, asked, sounds, plain, config.seed)
                for label, (measure, is_ranked) in measures.items()
            }
            if "families" in measures:
                found["sound"]["real music"] = _in_real_music(judge, folder, pairs, config)
            report["controls"][name] = found
    return report


def _held_out(folder: Path, config: EvalConfig) -> list[Pair]:
    """Held-out pairs, `config.n` spread over the manifest."""
    pairs = [pair for pair in read_pairs(folder) if pair.split == "validation"]
    if len(pairs) < 2:
        raise DataError(f"{folder} has {len(pairs)} held-out pairs; expected 2 or more.")
    return spread_pairs(pairs, config.n)


def _rooms_of(
    folder: Path, pairs: Sequence[Pair], config: EvalConfig
) -> tuple[list[Waveform], list[RoomReference]]:
    """The rooms of pairs, and what is to be followed of each."""
    rooms = [_room(silent_side(folder, pair), config.seconds) for pair in pairs]
    return rooms, [_reference(room, pair.labels) for room, pair in zip(rooms, pairs, strict=True)]


def _ranges(model: Silent2Music) -> dict[int, IntArray]:
    """By program, the pitches that the composer knows it to play."""
    assert model.composer is not None
    found: dict[int, Any] = {}
    pitches = model.composer.known_pitches.cpu().numpy() > 0
    for symbol in np.flatnonzero(model.composer.known_symbols.cpu().numpy()):
        if symbol >= FIRST_PART:
            program = part_of(int(symbol))[1]
            found[program] = found.get(program, False) | pitches[symbol]
    return {program: np.flatnonzero(found[program]) for program in sorted(found) if found[program].any()}


def _in_real_music(judge: Judge, folder: Path, pairs: Sequence[Pair], config: EvalConfig) -> dict[str, Any]:
    """What a judge of instruments finds in the real music of pairs, by its own score and by that of the next one."""
    known = [
        (pair, score) for pair in pairs if (score := score_of(folder, pair)) is not None and score.n_notes
    ]
    own: list[float] = []
    another: list[float] = []
    for i, (pair, score) in enumerate(known):
        music = load_pair(folder, pair)[1].mono().resampled(heard.RATE)
        for scores, values in ((score, own), (known[(i + 1) % len(known)][1], another)):
            values.append(judge.told(instruments(scores, 1, RATE), music))
    result: dict[str, Any] = {"is_ranked": False}
    for label, values in (("asked", own), ("another", another)):
        finite = np.array([value for value in values if np.isfinite(value)])
        if len(finite):
            result[label] = bootstrap_mean(finite, config.seed)
    return result


def _room(room: Waveform, seconds: float | None) -> Waveform:
    if seconds is None or room.seconds <= seconds:
        return room
    return Waveform(room.slice(0, round(seconds * room.sample_rate)), room.sample_rate)


def _reference(room: Waveform, labels: Mapping[str, Any]) -> RoomReference:
    """What is to be followed of a room."""
    references = references_of(analyze(room), labels)
    return references.get("labelled", references["measured"])


def _found(
    measure: Callable[[Controls, Any], Any],
    is_ranked: bool,
    asked: Sequence[Controls],
    made: Sequence[Any],
    dropped: Sequence[Any],
    seed: int,
) -> dict[str, Any]:
    """A measure of scores, or of sounds: as asked, as asked of another piece, dropped."""
    others = [*asked[1:], asked[0]]
    result: dict[str, Any] = {"is_ranked": is_ranked}
    for label, wishes, own in (
        ("asked", asked, made),
        ("another", others, made),
        ("dropped", asked, dropped),
    ):
        values = np.array([measure(wish, each) for wish, each in zip(wishes, own, strict=True)])
        result[label] = (
            _rank_correlation(values, seed)
            if is_ranked
            else bootstrap_mean(values[np.isfinite(values)], seed)
        )
    return result


def _cost(
    rooms: Sequence[RoomReference], scores: Sequence[Score], dropped: Sequence[Score], seed: int
) -> dict[str, Any]:
    """What asking changes in following: events of rhythmic rooms that are met, and the correlation of loudness."""
    rhythmic = [
        i for i, room in enumerate(rooms) if room.rhythmic and len(_times(room, scores[i])) >= MIN_EVENTS
    ]
    result = {}
    for name, rows, of in (("hit_rate", rhythmic, _hits), ("energy", range(len(rooms)), _follows)):
        if len(rows):
            with_wish, without = (
                np.array([of(rooms[i], some[i]) for i in rows]) for some in (scores, dropped)
            )
            result[name] = paired_difference(with_wish, without, seed)
    return result


def _times(room: RoomReference, score: Score) -> DoubleArray:
    return room.event_seconds[room.event_seconds < score.seconds]


def _hits(room: RoomReference, score: Score) -> float:
    times = onset_times(score)
    return float(onset_scores(_times(room, score), times)[0]) if len(times) else 0.0


def _follows(room: RoomReference, score: Score) -> float:
    """Spearman's correlation of the room's level with the loudness that the score has: its notes' and its curve."""
    return energy_correlation(room.energy_db, score_level_db(score)).spearman


def _rank_correlation(values: DoubleArray, seed: int) -> Interval:
    """Spearman's correlation of two columns `[n, 2]`, with its 95 % bootstrap interval over the rows."""
    rng = np.random.default_rng(seed)
    drawn = np.array(
        [rank_correlation(*values[rng.integers(0, len(values), len(values))].T) for _ in range(1000)]
    )
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return {
        "mean": rank_correlation(*values.T),
        "low": float(low),
        "high": float(high),
        "n": len(values),
        "excludes_zero": bool(low > 0 or high < 0),
    }


def controls_text(report: Mapping[str, Any]) -> str:
    """A report of `evaluate_controls` as a table."""
    lines = [f"{report['n']} held-out rooms; mean, or Spearman's correlation (r), [95 % interval]"]
    lines.append(
        f"  {'':18s}{'as asked':>26s}{'as asked of another':>26s}{'dropped':>26s}{'events met, change':>26s}"
        f"{'energy, change':>26s}"
    )
    for name, found in report["controls"].items():
        if "refused" in found:
            lines.append(f"  {name:18s}{found['refused']}")
            continue
        columns = ("asked", "another", "dropped", "hit_rate", "energy")
        for label, own in ((name, found), *((f"  sound, {k}", v) for k, v in found["sound"].items())):
            cells = [interval_text(own[key]) if key in own else "" for key in columns]
            label = f"{label} (r)" if own["is_ranked"] else label
            lines.append(f"  {label:18s}" + "".join(f"{cell:>26s}" for cell in cells).rstrip())
    return "\n".join(lines)
