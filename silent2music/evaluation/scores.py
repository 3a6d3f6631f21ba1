"""The benchmark of a composer: whether its scores follow their rooms, and how like real ones they are.

Scores are judged as notes, and as sound where fluidsynth plays them, beside those that the factory arranged for the same
rooms, played in the same way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from silent2music.acoustics import analyze
from silent2music.audio import Waveform
from silent2music.composer import Pages
from silent2music.config import ComposingConfig
from silent2music.data.pairs import Pair, load_pair, read_pairs, score_of, silent_side
from silent2music.decoder import Conditioning
from silent2music.errors import CheckpointError, DataError
from silent2music.evaluation.features import MusicFeatures
from silent2music.evaluation.following import MIN_EVENTS, onset_scores, ranks, references_of
from silent2music.evaluation.notes import NOTE_STATISTICS, note_statistics, onset_times
from silent2music.evaluation.pieces import EvalConfig, Inspected, Item, first_seconds, inspect
from silent2music.evaluation.stages import Stages
from silent2music.evaluation.statistics import bootstrap_mean, interval_text, paired_difference
from silent2music.evaluation.tables import Figures, grouped, partners_of, stated, tabulate
from silent2music.listening import listen_whole
from silent2music.model import Silent2Music
from silent2music.processes import Progress, one_thread
from silent2music.score import Score
from silent2music.signals import Signals

NOTHING = "nothing"
"""Kind of rooms in which there is nothing to play to."""

SAMPLE_RATE = 24_000


@dataclasses.dataclass(frozen=True)
class _Scored:
    """A test room with the score that was arranged for it, and its real music if there is any."""

    item: Item
    score: Score
    music: Waveform | None


def evaluate_scores(
    model: Silent2Music,
    folder: Path,
    config: EvalConfig | None = None,
    composing: ComposingConfig | None = None,
    soundfont: Path | None = None,
    progress: Progress | None = None,
) -> Figures:
    """Compose for held-out rooms and judge the scores.

    Args:
        model: with a composer.
        folder: pairs with scores, with or without music; of those held out, `config.n` spread over the manifest.
        config: `n`, `seed`, `seconds`, `n_likelihood` and `workers` count.
        composing: how notes are drawn.
        soundfont: for judging the sound; notes alone without.
        progress: called with the stage, steps done and steps in all.

    Returns:
        `notes`: by system (`model`, `dropped`, without a room, and `real`) and kind the means of `NOTE_STATISTICS`;
        `onsets`: hit rate and precision of rhythmic rooms' events by the notes of each system, of `shuffled`, the model's
        for another room, and the differences; `nothing`: notes a second of rooms of that kind; `likelihood`: how often
        the true room is first among others; `sound`: as `tables.tabulate` has it, the real score as fluidsynth plays
        it being `arranger`. As JSON values, with intervals.

    Raises:
        CheckpointError: if the model has no composer.
        DataError: if there are fewer than two held-out pairs with scores.
    """
    if model.composer is None:
        raise CheckpointError(f"The model '{model.config.name}' has no composer to evaluate.")
    config = config or EvalConfig()
    pairs = [pair for pair in read_pairs(folder) if pair.split == "validation" and pair.score is not None]
    if len(pairs) < 2:
        raise DataError(f"{folder} has {len(pairs)} held-out pairs with scores; expected 2 or more.")
    chosen = np.unique(np.linspace(0, len(pairs) - 1, min(config.n, len(pairs))).round().astype(int))
    with one_thread(), Stages(config.workers, progress) as stages:
        found = stages.run("pairs", partial(_read, folder, config.seconds), [pairs[i] for i in chosen])
        found.sort(key=lambda scored: not scored.item.references["measured"].rhythmic)
        scores = {
            "real": [scored.score for scored in found],
            "model": _composed(model, found, composing, config.seed, (), progress),
            "dropped": _composed(model, found, composing, config.seed, ("room",), progress),
        }
        items = [scored.item for scored in found]
        report: Figures = {
            "n": len(items),
            "config": stated(config),
            "notes": {name: _by_kind(items, own) for name, own in scores.items()},
            "onsets": _onsets(items, scores, config.seed),
            "nothing": _of_nothing(items, scores, config.seed),
            "likelihood": _true_room_first(model, found, config, progress),
        }
        if soundfont is not None:
            report["sound"] = _as_sound(found, scores, soundfont, config, stages)
    return report


def _read(folder: Path, seconds: float | None, pair: Pair) -> _Scored:
    """A test room, its score and its music."""
    room = first_seconds(silent_side(folder, pair), seconds)
    music = None if pair.music is None else first_seconds(load_pair(folder, pair)[1], seconds).mono()
    score = score_of(folder, pair)
    assert score is not None
    if score.seconds > room.seconds:
        score = score.slice(0.0, room.seconds)
    score = dataclasses.replace(score, seconds=room.seconds)
    profile = analyze(room)
    return _Scored(Item(pair.id, pair.kind, room, profile, references_of(profile, pair.labels)), score, music)


def _composed(
    model: Silent2Music,
    found: Sequence[_Scored],
    composing: ComposingConfig | None,
    seed: int,
    without: Sequence[str],
    progress: Progress | None,
) -> list[Score]:
    """The model's score for each room, by the seeds from `seed` on."""
    scores = []
    for i, scored in enumerate(found):
        scores.append(model.compose(scored.item.room, None, composing, seed=seed + i, without=without))
        if progress is not None:
            progress("scores without a room" if without else "scores", i + 1, len(found))
    return scores


def _by_kind(items: Sequence[Item], scores: Sequence[Score]) -> dict[str, dict[str, float]]:
    """Means of note statistics over all rooms, and over those of each kind."""
    rows = [note_statistics(score) for score in scores]
    kinds = sorted({item.kind for item in items if item.kind})
    result = {}
    for kind in ("all", *kinds):
        own = [row for item, row in zip(items, rows, strict=True) if kind in ("all", item.kind)]
        values = {name: [row[name] for row in own if name in row] for name in NOTE_STATISTICS}
        result[kind] = {name: float(np.mean(those)) for name, those in values.items() if those}
        result[kind]["n"] = float(len(own))
    return result


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


def _of_nothing(items: Sequence[Item], scores: Mapping[str, Sequence[Score]], seed: int) -> Figures:
    """Notes a second for rooms in which there is nothing."""
    rows = [i for i, item in enumerate(items) if item.kind == NOTHING]
    if not rows:
        return {"n": 0}
    rates = {name: np.array([own[i].n_notes / own[i].seconds for i in rows]) for name, own in scores.items()}
    return {"n": len(rows), "notes_hz": {name: bootstrap_mean(own, seed) for name, own in rates.items()}}


@torch.inference_mode()
def _true_room_first(
    model: Silent2Music, found: Sequence[_Scored], config: EvalConfig, progress: Progress | None
) -> Figures:
    """How often the true room makes a real score likelier than the others of its group of up to 32 do."""
    composer = model.composer
    assert composer is not None
    n = min(config.n_likelihood, len(found))
    order = np.random.default_rng(config.seed).permutation(len(found))[:n]
    first, done, sizes = [], 0, []
    rate = composer.config.ambient.frame_rate
    for group in grouped(n):
        chosen = [found[order[i]] for i in group]
        rooms = Signals.collate(
            [listen_whole(scored.item.room, scored.item.room.seconds, model.config) for scored in chosen]
        ).to(model.device)
        conditioning = composer.condition(rooms)
        table = np.empty((len(chosen), len(chosen)))
        for row, scored in enumerate(chosen):
            pages = Pages.of([scored.score], [0], rooms.n_frames, rate).to(model.device)
            for column in range(len(chosen)):
                one = Conditioning(
                    conditioning.frames[column : column + 1],
                    conditioning.mask[column : column + 1],
                    conditioning.tokens[column : column + 1],
                )
                nats = composer.field_nll(pages, composer.states(pages, one))
                table[row, column] = -sum(float(own.sum()) for _, own in nats.values())
            done += 1
            if progress is not None:
                progress("likelihood", done, n)
        first += (ranks(table) <= 1.0).tolist()
        sizes.append(len(chosen))
    return {
        "n": n,
        "among": max(sizes),
        "true_room_first": bootstrap_mean(np.array(first, np.float64), config.seed),
    }


def _as_sound(
    found: Sequence[_Scored],
    scores: Mapping[str, Sequence[Score]],
    soundfont: Path,
    config: EvalConfig,
    stages: Stages,
) -> Figures:
    """What `tables.tabulate` says of the scores as fluidsynth plays them, onsets and sections taken from the notes."""
    items = [scored.item for scored in found]
    played = {
        name: stages.run(f"sound of {name} scores", partial(_inspected, soundfont), own)
        for name, own in scores.items()
    }
    systems: dict[str, Sequence[Inspected | None]] = dict(played)
    if all(scored.music is not None for scored in found):
        systems["arranger"] = played["real"]
        systems["real"] = stages.run("real music", inspect, [s.music for s in found if s.music is not None])
    return tabulate(items, systems, config)


def _inspected(soundfont: Path, score: Score) -> Inspected:
    """Measurements of a score as fluidsynth plays it."""
    from silent2music.factory.rendering import render

    found = inspect(render(score, soundfont, SAMPLE_RATE))
    features: MusicFeatures = dataclasses.replace(
        found.features, onset_seconds=onset_times(score), boundary_seconds=score.boundary_seconds
    )
    return dataclasses.replace(found, features=features)


def scores_text(report: Figures) -> str:
    """A report of `evaluate_scores` in some lines."""
    lines = [f"{report['n']} held-out rooms; mean [95 % interval]"]
    onsets = report["onsets"]
    for figure in ("hit_rate", "precision"):
        for name, value in onsets.get(figure, {}).items():
            lines.append(f"  onset {figure:10s} {name:18s} {interval_text(value)}")
    likelihood = report["likelihood"]
    lines.append(
        f"  true room first of {likelihood['among']} by likelihood: {interval_text(likelihood['true_room_first'])}"
    )
    for name, value in report["nothing"].get("notes_hz", {}).items():
        lines.append(f"  notes a second where there is nothing, {name}: {interval_text(value)}")
    for side, differences in report.get("sound", {}).get("differences", {}).items():
        for name, scores in differences.items():
            if name.startswith("model") and "energy_pearson" in scores:
                lines.append(f"  energy ({side}) {name}: {interval_text(scores['energy_pearson'])}")
    for name, found in report.get("sound", {}).get("quality", {}).items():
        lines.append(f"  kernel distance {name}: {found['kernel']:.2f} ({found['n_rows']:.0f} rows)")
    lines.append("")
    kinds = list(report["notes"]["real"])
    lines.append(f"  {'':22s}" + "".join(f"{kind:>16s}" for kind in kinds) + "   (model / real)")
    for figure in NOTE_STATISTICS:
        cells = []
        for kind in kinds:
            own, real = (report["notes"][name][kind].get(figure) for name in ("model", "real"))
            cells.append("/".join("-" if v is None else f"{v:.2f}" for v in (own, real)))
        lines.append(f"  {figure:22s}" + "".join(f"{cell:>16s}" for cell in cells))
    return "\n".join(lines)
