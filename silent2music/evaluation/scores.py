"""The benchmark of a composer: whether its scores follow their rooms, and how like real ones they are.

Scores are judged as notes, and as sound where fluidsynth plays them, beside those that the factory arranged for the same
rooms, played in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from silent2music.config import ComposingConfig
from silent2music.data.pairs import Pair, read_pairs, score_of, spread_pairs
from silent2music.errors import CheckpointError, DataError
from silent2music.evaluation import baselines, probing
from silent2music.evaluation.following import MIN_EVENTS, onset_scores
from silent2music.evaluation.notes import (
    NOTE_STATISTICS,
    chord_shares,
    instrument_shares,
    note_statistics,
    onset_times,
)
from silent2music.evaluation.originality import compare_scores
from silent2music.evaluation.pieces import EvalConfig, Item, inspect_made, read_music, read_room
from silent2music.evaluation.probing import Subject
from silent2music.evaluation.stages import Stages
from silent2music.evaluation.statistics import (
    Interval,
    bootstrap_mean,
    bootstrap_ratio,
    interval_text,
    paired_difference,
)
from silent2music.evaluation.tables import Figures, partners_of, stated, tabulate
from silent2music.processes import Progress, one_thread
from silent2music.score import Score
from silent2music.signals import ROOM

NOTHING = "nothing"
"""Kind of rooms in which there is nothing to play to."""

STILL_KINDS = ("room", "hall")
"""Kinds of rooms that ask for few notes."""

MOST_TRAINING = 8
"""Training scores looked at for every training piece of music: they are read and compared in no time."""

N_NAMED = 4
"""Chords and instruments that the text names for each kind."""


def evaluate_scores(
    model_dir: Path | str,
    folder: Path,
    config: EvalConfig | None = None,
    composing: ComposingConfig | None = None,
    soundfonts: Sequence[Path] = (),
    progress: Progress | None = None,
) -> Figures:
    """Compose for held-out rooms and judge the scores.

    Args:
        folder: pairs with scores, with or without music; of those held out, `config.n` spread over the manifest.
        config: `n`, `seed`, `seconds`, `n_train`, `n_likelihood` and `workers` count.
        soundfonts: for judging the sound, one for each room in turn; notes alone without.

    Returns:
        What `judge_scores` gives, and `sound`: as `tables.tabulate` has it, `composer` and the real score `played`
        alike by fluidsynth. As JSON values, with intervals.

    Raises:
        CheckpointError: if the model has no composer.
        DataError: if there are fewer than two held-out pairs with scores.
    """
    config = config or EvalConfig()
    everything = [pair for pair in read_pairs(folder) if pair.score is not None]
    pairs = [pair for pair in everything if pair.split == "validation"]
    with one_thread(), Stages(config.workers, progress) as stages:
        subject = probing.subject(model_dir, config, stages)
        if not subject.composes:
            raise CheckpointError(f"The model '{subject.model.config.name}' has no composer to evaluate.")
        if len(pairs) < 2:
            raise DataError(f"{folder} has {len(pairs)} held-out pairs with scores; expected 2 or more.")
        held_out = spread_pairs(pairs, config.n)
        items = stages.run("pairs", partial(read_room, folder, config.seconds), held_out)
        items.sort(key=lambda item: not item.references["measured"].rhythmic)
        composed = subject.scores_of(items, composing)
        training = [pair for pair in everything if pair.split == "train"]
        report = {"n": len(items), "config": stated(config)}
        report |= judge_scores(subject, folder, items, composed, training, composing)
        if soundfonts:
            systems = baselines.played_scores(items, composed, soundfonts, config, stages)
            if all(pair.music is not None for pair in held_out):
                of = {pair.id: pair for pair in held_out}
                music = [partial(read_music, folder, of[item.name], config.seconds) for item in items]
                systems["real"] = stages.run("real music", inspect_made, music)
            report["sound"] = tabulate(items, systems, config)
    return report


def judge_scores(
    subject: Subject,
    folder: Path,
    items: Sequence[Item],
    composed: Sequence[Score],
    training: Sequence[Pair],
    composing: ComposingConfig | None = None,
) -> Figures:
    """Judge composed scores as notes.

    Args:
        items: rooms with the scores that were arranged for them.
        training: pairs from which the model may have learned; those with a score serve originality.

    Returns:
        `notes`: by system (`model`, `dropped`, without a room, and `real`) and kind the means of `NOTE_STATISTICS`;
        `chords` and `instruments`: by system and kind the commonest; `onsets`: hit rate and precision of rhythmic
        rooms' events by the notes of each system, of `shuffled`, the model's for another room, and the differences;
        `density`: onsets of rooms and halls, the model's over the real; `nothing`: notes a second of rooms of that
        kind; `likelihood`: how often the true room is first among others; `originality`: runs of melody shared with
        training scores. As JSON values, with intervals.
    """
    seed = subject.config.seed
    reals = [item.score for item in items if item.score is not None]
    scores = {"real": reals, "model": composed, "dropped": subject.scores_of(items, composing, (ROOM,))}
    chosen = [pair for pair in training if pair.score is not None][: MOST_TRAINING * subject.config.n_train]
    read = subject.stages.run("training scores", partial(score_of, folder), chosen)
    library = {pair.id: score for pair, score in zip(chosen, read, strict=True) if score is not None}
    names = [item.name for item in items]
    return {
        "notes": {name: _by_kind(items, own, _mean_statistics) for name, own in scores.items()},
        "chords": {name: _by_kind(items, scores[name], chord_shares) for name in ("real", "model")},
        "instruments": {name: _by_kind(items, scores[name], instrument_shares) for name in ("real", "model")},
        "onsets": _onsets(items, scores, seed),
        "density": _density(items, scores, seed),
        "nothing": _of_nothing(items, scores, seed),
        "likelihood": probing.rank_rooms_by_score(subject, items, reals),
        "originality": compare_scores(dict(zip(names, composed, strict=True)), reals, library),
    }


def _by_kind(
    items: Sequence[Item], scores: Sequence[Score], found: Callable[[Sequence[Score]], dict[str, float]]
) -> dict[str, dict[str, float]]:
    """What a function gives of all scores, and of those of each kind of room."""
    kinds = sorted({item.kind for item in items if item.kind})
    return {
        kind: found([s for item, s in zip(items, scores, strict=True) if kind in ("all", item.kind)])
        for kind in ("all", *kinds)
    }


def _mean_statistics(scores: Sequence[Score]) -> dict[str, float]:
    """Means of note statistics, and the number of scores."""
    rows = [note_statistics(score) for score in scores]
    values = {name: [row[name] for row in rows if name in row] for name in NOTE_STATISTICS}
    return {name: float(np.mean(those)) for name, those in values.items() if those} | {"n": float(len(rows))}


def _onsets(items: Sequence[Item], scores: Mapping[str, Sequence[Score]], seed: int) -> Figures:
    """How many events of rhythmic rooms are met by notes, and how many of the notes meet events, by system."""
    rooms = [item.references.get("labelled", item.references["measured"]) for item in items]
    asked = [i for i, room in enumerate(rooms) if room.rhythmic and len(room.event_seconds) >= MIN_EVENTS]
    if len(asked) < 2:
        return {"n": len(asked)}
    # Partners are rhythmic too, so that the null is as dense.
    other = {asked[k]: asked[p] for k, p in enumerate(partners_of(len(asked)))}
    played = {name: [onset_times(score) for score in own] for name, own in scores.items()}

    def matches(name: str, of: Callable[[int], int]) -> Any:
        pairs = [(rooms[i].event_seconds, played[name][of(i)]) for i in asked]
        found = [onset_scores(events, notes) if len(notes) else (0.0, 0.0, 0.0) for events, notes in pairs]
        return np.array(found)

    by_system = {name: matches(name, lambda i: i) for name in scores}
    by_system["shuffled"] = matches("model", other.__getitem__)
    result: Figures = {"n": len(asked)}
    for column, figure in enumerate(("hit_rate", "precision")):
        values = {name: found[:, column] for name, found in by_system.items()}
        result[figure] = {name: bootstrap_mean(own, seed) for name, own in values.items()}
        for null in ("shuffled", "dropped"):
            result[figure][f"model - {null}"] = paired_difference(values["model"], values[null], seed)
    return result


def _density(items: Sequence[Item], scores: Mapping[str, Sequence[Score]], seed: int) -> Figures:
    """Onsets a second of composed scores over those of real ones, in rooms and halls, and in all."""
    result: Figures = {}
    for name, kinds in (("rooms and halls", STILL_KINDS), ("all", None)):
        rows = [i for i, item in enumerate(items) if kinds is None or item.kind in kinds]
        if not rows:
            continue
        own, real = (
            np.array([len(onset_times(scores[system][i])) / scores[system][i].seconds for i in rows])
            for system in ("model", "real")
        )
        if real.any():
            result[name] = {"n": len(rows), "model_over_real": bootstrap_ratio(own, real, seed)}
    return result


def _of_nothing(items: Sequence[Item], scores: Mapping[str, Sequence[Score]], seed: int) -> Figures:
    """Notes a second for rooms in which there is nothing."""
    rows = [i for i, item in enumerate(items) if item.kind == NOTHING]
    if not rows:
        return {"n": 0}
    rates = {name: np.array([own[i].n_notes / own[i].seconds for i in rows]) for name, own in scores.items()}
    return {"n": len(rows), "notes_hz": {name: bootstrap_mean(own, seed) for name, own in rates.items()}}


def _interval_lines(title: str, values: Mapping[str, Interval]) -> list[str]:
    return [f"  {title}, {name}: {interval_text(value)}" for name, value in values.items()]


def scores_text(report: Figures) -> str:
    """A report of `judge_scores`, with its sound where there is one, in some lines."""
    lines = [f"{report['n']} held-out rooms; mean [95 % interval]"] if "n" in report else []
    for figure in ("hit_rate", "precision"):
        lines += _interval_lines(f"onset {figure}", report["onsets"].get(figure, {}))
    likelihood = report["likelihood"]
    lines.append(
        f"  true room first of {likelihood['among']} by likelihood: {interval_text(likelihood['recall_at_1'])}"
    )
    lines += _interval_lines("notes a second where there is nothing", report["nothing"].get("notes_hz", {}))
    for name, value in report["density"].items():
        lines.append(f"  onsets composed / real, {name}: {interval_text(value['model_over_real'])}")
    for side, differences in report.get("sound", {}).get("differences", {}).items():
        for name, scores in differences.items():
            if name.startswith("composer") and "energy_pearson" in scores:
                lines.append(f"  energy ({side}) {name}: {interval_text(scores['energy_pearson'])}")
    for name, found in report.get("sound", {}).get("quality", {}).items():
        lines.append(f"  kernel distance {name}: {found['kernel']:.2f} ({found['n_rows']:.0f} rows)")
    if (near := report["originality"]).get("n"):
        runs = near["longest_shared_run"]
        lines.append(
            f"  longest run of melody shared with {near['n_training']} training scores: median "
            f"{runs['model']['median']:.0f} notes, most {runs['model']['max']:.0f}; real scores "
            f"{runs['real']['median']:.0f}, {runs['real']['max']:.0f}; beyond these {len(near['too_near'])}"
        )
    lines.append("")
    kinds = list(report["notes"]["real"])
    lines.append(f"  {'':22s}" + "".join(f"{kind:>16s}" for kind in kinds) + "   (model / real)")
    for figure in NOTE_STATISTICS:
        cells = []
        for kind in kinds:
            own, real = (report["notes"][name][kind].get(figure) for name in ("model", "real"))
            cells.append("/".join("-" if v is None else f"{v:.2f}" for v in (own, real)))
        lines.append(f"  {figure:22s}" + "".join(f"{cell:>16s}" for cell in cells))
    for what in ("chords", "instruments"):
        lines += ["", f"  commonest {what}"]
        for kind in kinds:
            for name in ("model", "real"):
                common = list(report[what][name][kind].items())[:N_NAMED]
                text = ", ".join(f"{one} {share:.0%}" for one, share in common)
                lines.append(f"    {kind:10s} {name:6s} {text}")
    return "\n".join(lines)
