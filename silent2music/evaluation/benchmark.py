"""`s2m eval`: does the music follow the room, how does it sound, and is it the model's own?

Every figure stands beside its null and its ceiling. Rooms are taken in twos that share a seed, and the shuffled
music of one is the true music of the other: the same seeds, another room, and nothing generated twice. The room's
side is what `acoustics` measures; where the pairs carry labels, the same figures against the true events,
tempo and boundaries stand beside them. The figures follow from seed and inputs alone.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from silent2music import audio
from silent2music.data.pairs import MANIFEST, Pair, read_pairs, sounding_pairs
from silent2music.errors import DataError
from silent2music.evaluation import baselines, pieces
from silent2music.evaluation.features import MusicFeatures, music_features
from silent2music.evaluation.originality import compare_with_training
from silent2music.evaluation.pieces import EvalConfig, Item, inspect, inspect_made, read_file, read_music
from silent2music.evaluation.report import REPORT, check_report, write_report
from silent2music.evaluation.stages import Stages
from silent2music.evaluation.tables import (
    REPORT_VERSION,
    Figures,
    Pieces,
    fault_table,
    mean_descriptors,
    stated,
    tabulate,
)
from silent2music.evaluation.targets import targets_of
from silent2music.export import provenance
from silent2music.processes import Progress, one_thread
from silent2music.score import Score
from silent2music.transcription import HOW_TO_INSTALL, can_transcribe

__all__ = ["EvalConfig", "evaluate", "evaluate_outputs", "evaluate_rooms"]

log = logging.getLogger(__name__)

N_COPIES = 8
"""Training pieces whose copies must be found out."""

COPIED_FROM = 0.25
"""Share of a piece after which its copy begins: what a model that knew it by heart might give back."""


def evaluate(
    model_dir: Path | str,
    pairs: Path | str,
    out: Path | str,
    config: EvalConfig | None = None,
    embedding: Path | str | None = None,
    progress: Progress | None = None,
) -> Figures:
    """Evaluate a model on the validation pairs of a folder and write `report.json`, `report.md` and pictures.

    Args:
        pairs: a pair folder; its training split serves originality and the retrieval baseline.
        out: folder for the report, made if missing.
        config: how much, and how tokens are drawn; the defaults if not given.
        embedding: folder of an audio model of transformers, for distances on its embeddings too.

    Raises:
        DataError: if the folder has fewer than two pairs.
        CheckpointError: if a model does not load.
    """
    from silent2music.evaluation import probing
    from silent2music.evaluation.performance import judge_performance
    from silent2music.evaluation.scores import judge_scores

    check_report(Path(out), REPORT)
    config, folder = config or EvalConfig(), Path(pairs)
    held_out, training = _splits(folder, config)
    with one_thread(), Stages(config.workers, progress) as stages:
        subject = probing.subject(model_dir, config, stages)
        items, reals, sounds = pieces.load_items(folder, held_out, config, stages)
        music = {"real": sounds, "model": subject.music_of(items)}
        systems: dict[str, Pieces] = {"real": reals, "model": stages.run("pieces", inspect, music["model"])}
        if config.quick:
            report = tabulate(items, systems, config)
        else:
            music["dropped"], systems["dropped"] = subject.without_rooms(items)
            systems["retrieval"] = baselines.retrieved(folder, items, training, config, stages)
            systems["arranger"] = baselines.arranged(folder, items, config, stages)
            scored = all(item.score is not None for item in items)
            composed = subject.scores_of(items) if subject.composes and scored else []
            if composed:
                systems |= _by_fluidsynth(folder, items, composed, config, stages)
            codes = {
                name: subject.tokens(f"tokens of {name} music", music[name]) for name in ("real", "model")
            }
            music["codec"] = subject.through_codec(codes["real"], sounds)
            systems["codec"] = stages.run("pieces through the codec", inspect, music["codec"])
            report = tabulate(items, systems, config, baselines.anchors_of(sounds, config, stages))
            report["likelihood"] = probing.rank_rooms(subject, items, codes["real"])
            library, taught = probing.training_music(subject, folder, training)
            copies, _ = probing.training_music(subject, folder, training[:N_COPIES], COPIED_FROM)
            made, real = _by_name(items, systems["model"]), _by_name(items, systems["codec"])
            report["originality"] = compare_with_training(made, real.values(), library, copies, stages)
            report["originality"]["tokens"] = probing.token_runs(subject, taught, codes)
            report["drift"] = probing.drift(subject, items)
            report["diversity"] = probing.diversity(subject, items, reals)
            report["left_out"] = _left_out(scored, subject.composes, subject.performs)
            if composed:
                report["scores"] = judge_scores(subject, folder, items, composed, training)
            if subject.performs and scored:
                report["performance"] = judge_performance(subject, items, sounds, music["codec"])
        if embedding is not None:
            from silent2music.evaluation.embeddings import embedding_distances

            report["embeddings"] = embedding_distances(embedding, music, stages)
        report["held_out"] = all(pair.split == "validation" for pair in held_out)
        report["model"] = subject.stated()
    return _written(report, out)


def _by_fluidsynth(
    folder: Path, items: Sequence[Item], composed: Sequence[Score], config: EvalConfig, stages: Stages
) -> dict[str, Pieces]:
    """Composed and real scores as fluidsynth plays them, if it and a soundfont are here."""
    soundfonts = baselines.soundfonts_of(folder)
    if not soundfonts or shutil.which("fluidsynth") is None:
        log.warning("Scores are not played: fluidsynth or the soundfonts of %s are not here.", folder)
        return {}
    return {**baselines.played_scores(items, composed, soundfonts, config, stages)}


def _left_out(is_scored: bool, composes: bool, performs: bool) -> list[str]:
    """Why sections on scores are missing from a report, in sentences."""
    reasons = {
        "Scores are not judged, since not every pair has one.": is_scored,
        "Composed scores are not judged, since the model has no composer.": composes,
        "The performance of scores is not judged, since the model performs none.": performs,
        f"Notes are not transcribed; install what does by: {HOW_TO_INSTALL}": can_transcribe()
        or not performs,
    }
    return [reason for reason, holds in reasons.items() if not holds]


def evaluate_outputs(
    outputs: Path | str,
    out: Path | str,
    pairs: Path | str | None = None,
    config: EvalConfig | None = None,
    progress: Progress | None = None,
) -> Figures:
    """Evaluate music that any program made, by the same metrics.

    A file belongs to the pair whose silent or music side has its stem. Without `pairs`, `outputs` is a pair
    folder itself, whose music sides are the outputs; or else only what needs no room is reported.

    Args:
        config: `n`, `seed`, `seconds`, `n_train` and `workers` count.
        progress: as in `evaluate`.

    Raises:
        DataError: if fewer than two files match a pair.
        AudioError: if there is no audio or it cannot be read.
    """
    check_report(Path(out), REPORT)
    config, outputs = config or EvalConfig(), Path(outputs)
    with Stages(config.workers, progress) as stages:
        if pairs is not None:
            report = _with_rooms(outputs, Path(pairs), config, stages)
        elif (outputs / MANIFEST).exists():
            own = sounding_pairs(outputs)[: config.n]
            if len(own) < 2:
                raise DataError(f"{outputs} holds {len(own)} pairs; expected 2 at least.")
            items, reals, _ = pieces.load_items(outputs, own, config, stages)
            report = tabulate(items, {"real": reals}, config)
        else:
            jobs = [
                partial(read_file, file, config.seconds) for file in audio.find_audio(outputs)[: config.n]
            ]
            found = [piece for piece in stages.run("outputs", inspect_made, jobs) if piece]
            report = {"version": REPORT_VERSION, "n": len(found), "config": stated(config)}
            report["faults"] = {"outputs": fault_table([piece.faults for piece in found], {})}
            report["kinds"] = {"outputs": {"all": mean_descriptors(found)}}
    return _written(report, out)


def _with_rooms(outputs: Path, folder: Path, config: EvalConfig, stages: Stages) -> Figures:
    """Evaluate outputs whose file names match the rooms of a pair folder."""
    pairs, heard = sounding_pairs(folder), audio.find_audio(outputs)
    # `s2m infer` writes `room.music.wav` for `room.wav`; a file's exact stem goes first.
    stems = {path.stem.removesuffix(".music"): path for path in heard}
    stems |= {path.stem: path for path in heard}
    named = {p.id: stems.get(Path(p.silent).stem) or stems.get(Path(str(p.music)).stem) for p in pairs}
    files = {name: path for name, path in named.items() if path is not None}
    chosen = [p for p in pairs if p.id in files]
    if len(chosen) < 2:
        raise DataError(
            f"{outputs} matches {len(chosen)} pairs of {folder}; expected 2 or more files named alike."
        )
    items, reals, sounds = pieces.load_items(folder, chosen[: config.n], config, stages)
    jobs = [partial(read_file, files[item.name], config.seconds) for item in items]
    systems: dict[str, Pieces] = {"real": reals, "model": stages.run("outputs", inspect_made, jobs)}
    report = tabulate(items, systems, config, baselines.anchors_of(sounds, config, stages))
    training = [p for p in pairs if p.split == "train" and p.id not in files][: config.n_train]
    music = partial(_music_of, folder, config.seconds)
    library = dict(
        zip((str(p.music) for p in training), stages.run("training music", music, training), strict=True)
    )
    made, real = (_by_name(items, systems[name]) for name in ("model", "real"))
    report["originality"] = compare_with_training(made, real.values(), library, {}, stages)
    return report


def _music_of(folder: Path, seconds: float | None, pair: Pair) -> MusicFeatures:
    return music_features(read_music(folder, pair, seconds))


def _by_name(items: Sequence[Item], made: Pieces) -> dict[str, MusicFeatures]:
    return {item.name: piece.features for item, piece in zip(items, made, strict=True) if piece}


def evaluate_rooms(
    model_dir: Path | str,
    rooms: Path | str,
    out: Path | str,
    pairs: Path | str | None = None,
    config: EvalConfig | None = None,
    progress: Progress | None = None,
) -> Figures:
    """Does a model follow real recordings, which have no music of their own?

    Each is taken as it is but for its level, which is turned down to `ROOM_DBFS`, and for its length: all are
    made equally long, or a null would compare music of one length with rooms of another.

    Args:
        pairs: pair folder the model was trained on: recordings that its training split used are left out.
        config: `n`, `seed`, `seconds`, `batch_size`, `workers` and `sampling` count.
        progress: as in `evaluate`.

    Raises:
        DataError: if fewer than two recordings are left.
        AudioError: if a recording cannot be read.
        CheckpointError: if the model does not load.
    """
    from silent2music.evaluation import probing

    check_report(Path(out), REPORT)
    config = config or EvalConfig()
    config = dataclasses.replace(config, seconds=config.seconds or pieces.ROOM_SECONDS)
    used = _recordings_used(Path(pairs)) if pairs is not None else set()
    files = [file for file in audio.find_audio(Path(rooms)) if file.relative_to(rooms).as_posix() not in used]
    chosen = np.sort(np.random.default_rng(config.seed).permutation(len(files))[: config.n])
    if len(chosen) < 2:
        raise DataError(f"{rooms} holds {len(files)} recordings to test on; expected 2 at least.")
    with one_thread(), Stages(config.workers, progress) as stages:
        subject = probing.subject(model_dir, config, stages)
        items = pieces.load_rooms(Path(rooms), [files[i] for i in chosen], config, stages)
        systems: dict[str, Pieces] = {"model": stages.run("pieces", inspect, subject.music_of(items))}
        if not config.quick:
            _, systems["dropped"] = subject.without_rooms(items)
        report = tabulate(items, systems, config)
        report["recordings"] = {"level_dbfs": pieces.ROOM_DBFS, "names": [item.name for item in items]}
        report["model"] = subject.stated()
    return _written(report, out)


def _recordings_used(folder: Path) -> set[str]:
    """Paths, as the labels state them, of the recordings that the training split of a pair folder was made of."""
    return {
        str(source["path"])
        for pair in read_pairs(folder)
        if pair.split == "train"
        for source in pair.labels.get("sources", ())
        if source.get("role", "recording") == "recording"
    }


def _written(report: Figures, out: Path | str) -> Figures:
    """The report with its targets, written to a folder."""
    report["targets"] = targets_of(report)
    report["versions"] = provenance.versions()
    write_report(report, Path(out))
    return report


def _splits(folder: Path, config: EvalConfig) -> tuple[list[Pair], list[Pair]]:
    """Test pairs and training pairs; if the folder has no validation split, all are test pairs."""
    pairs = sounding_pairs(folder)
    held_out = [pair for pair in pairs if pair.split == "validation"] or pairs
    training = [pair for pair in pairs if pair.split == "train" and pair not in held_out]
    rng = np.random.default_rng(config.seed)
    chosen, library = (
        [those[i] for i in np.sort(rng.permutation(len(those))[:n])]
        for those, n in ((held_out, config.n), (training, config.n_train))
    )
    if len(chosen) < 2:
        raise DataError(f"{folder} holds {len(chosen)} pairs to test on; expected 2 at least.")
    return chosen, library
