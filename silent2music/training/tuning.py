"""`s2m tune`: a model fine-tuned on a user's folder, as a small adapter with a page that says what it changed.

```
OUT/adapter.json, adapter.safetensors   what `--adapter OUT` adds to the base
OUT/README.md, report.json              the card, and all figures
OUT/before-after.html                   the same rooms by base and tuned model
OUT/work                                pairs, tokens and states of training; may be removed in the end
```
A killed run goes on with the same command and gives the same adapter: how many steps there are is measured once and kept
in `work/plan.json`. Only where a machine becomes so slow that they do not fit into the time does a part end sooner.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from silent2music.adapters import ADAPTER_CONFIG, PARTS, apply_adapters, read_adapter, write_adapter
from silent2music.audio import Waveform
from silent2music.config import COMPOSER_FOLDER, SKETCH_FOLDER
from silent2music.controls import programs_of
from silent2music.data.pairs import Pair, read_pairs
from silent2music.errors import CheckpointError, ConfigError, DataError, require
from silent2music.evaluation.following import onset_scores
from silent2music.factory.chain import measured_energy_db
from silent2music.factory.own_folder import (
    Found,
    inspect_folder,
    make_pairs,
    onsets_of,
    open_workshop,
    with_roles,
)
from silent2music.factory.rooms import SAMPLE_RATE
from silent2music.files import atomic_folder, claimed, read_json, remove_leavings, write_text
from silent2music.notation import DRUMS, INSTRUMENT_NAMES
from silent2music.processes import Progress
from silent2music.score import ENERGY_RATE_HZ, Part, Score
from silent2music.signals import CONTROLS
from silent2music.training.adapting import AllWeights, LowRank
from silent2music.training.learner import Fitting
from silent2music.training.recipe import train_recipe
from silent2music.training.running import LOG_FILE, STATE_FILE
from silent2music.training.tune_job import FOUND_FILE, PATIENCE, WHOLE, Base, TuneJob, adapter_config
from silent2music.training.tuned import REPORT_FILE, Tell, finish, loss_curve, told_of
from silent2music.transcription import can_transcribe, transcribe
from silent2music.weights import read_weights

PLAN_FILE, JOB_FILE = "plan.json", "job.json"

SHARES = {"composer": 1.0, "sketch": 1.0, "decoder": 2.0}
"""Of the time for training, by part."""

TRAINING_SHARE = 0.75
"""Of the time that is left once the pairs are made; the rest is for the page."""

N_PROBED, N_WARM = 8, 3
"""Steps that are timed, the first of which are slower and do not count."""

N_VALIDATIONS, LEAST_STEPS = 16, 5
"""How often a run validates, and after how many steps at least."""

NEEDS = {"composer": ("score",), "sketch": ("score", "music"), "decoder": ("music",)}
"""What a pair must have to serve a part."""


def tune(job: TuneJob, tell: Tell, progress: Progress | None = None, prepare_only: bool = False) -> Path:
    """Fine-tune a model on a folder, or go on with it; returns `job.out`.

    Under `accelerate launch` the pairs must have been made before, by `prepare_only` in one process.

    Args:
        tell: told, in sentences, what was found, what is done and what came of it.

    Raises:
        DataError: if the folder has faults, or does not serve any part of the base.
        CheckpointError: if `out` was begun with other settings.
        S2MError: if another command writes to `out`.
    """
    if (
        find_spec("peft") is None
    ):  # importing it takes seconds, and what is wrong with the folder is told before
        require("peft", "tune")
    require("pyarrow", "train")
    require("mir_eval", "eval")
    report = progress or (lambda stage, done, total: None)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return _launched(job, tell, report)
    with claimed(job.out):
        for place in (job.out, job.work):
            remove_leavings(place, alone=True)
        if _is_done(job):
            tell(f"{job.out} is finished; remove it to begin anew.")
            return job.out
        begun = time.monotonic()
        pairs = _prepared(job, tell, report)
        plan = _planned(job, pairs, begun, tell)
        if prepare_only:
            tell(f"{job.work} holds the pairs and the plan; the same command without --prepare goes on.")
            return job.out
        for part in plan:
            _train(job, part, plan, tell, report)
        finish(job, plan, tell, report)
    return job.out


def _launched(job: TuneJob, tell: Tell, report: Progress) -> Path:
    """The training of one of several processes; the first one finishes alone."""
    if not (job.work / PLAN_FILE).exists():
        raise ConfigError(
            f"{job.work} has no {PLAN_FILE}; make the pairs first, in one process, with --prepare."
        )
    is_main = os.environ.get("RANK", "0") == "0"
    plan = read_json(job.work / PLAN_FILE)
    for part in plan:
        _train(job, part, plan, tell if is_main else lambda text: None, report)
    if is_main:
        finish(job, plan, tell, report)
    return job.out


def _is_done(job: TuneJob) -> bool:
    """Whether a run of the very same settings has come to its end."""
    stated, path = job.stated(), job.work / JOB_FILE
    if path.exists():
        before = read_json(path)
        if before != stated:
            names = sorted(key for key in stated if before.get(key) != stated[key])
            raise CheckpointError(
                f"{job.out} was begun with another {', '.join(names)}; give the same, or choose another folder."
            )
    elif (job.out / ADAPTER_CONFIG).exists():
        raise CheckpointError(f"{job.out} holds an adapter already; choose another folder.")
    else:
        job.work.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(stated, indent=2) + "\n")
    return (job.out / REPORT_FILE).exists()


# --- data ----------------------------------------------------------------------------------------------------


def _prepared(job: TuneJob, tell: Tell, report: Progress) -> list[Pair]:
    """Pairs and shards of the folder, made or gone on with."""
    from silent2music.codec import load_codec
    from silent2music.data.shards import META, prepare

    found = inspect_folder(job.folder)
    for fault in found.faults:
        tell(fault)
    if found.faults:
        n = len(found.faults)
        raise DataError(f"{job.folder} has {n} fault{'s' * (n > 1)}; mend or remove the files named.")
    base, pairs, shards = Base.of(job.base), job.work / "pairs", job.work / "shards"
    write_text(job.work / FOUND_FILE, str(found))
    _announce(job, base, found, tell)
    config = job.recipe.tune
    transcriber = transcriber_of(job.instruments)
    settings = {"licence": job.licence, "transcriber": transcriber, "seed": job.seed}
    shop = open_workshop(found, pairs, config, job.recipe.data, **settings)
    most = max(2, round(config.pairs_per_minute * job.minutes))
    made = make_pairs(shop, found, most, partial(report, "pairs"))
    if not (shards / META).exists() or not (job.work / PLAN_FILE).exists():
        codec = load_codec(job.base / "codec")
        n_codebooks = base.model.decoder.n_codebooks
        faults = prepare(
            pairs,
            shards,
            codec,
            base.model.ambient,
            progress=partial(report, "tokens"),
            n_codebooks=n_codebooks,
        ).faults
        for fault in faults:
            tell(f"left out: {fault}")
    counts = {split: sum(pair.split == split for pair in made) for split in ("train", "validation")}
    tell(
        f"{counts['train']} pairs to train on, {counts['validation']} held out; "
        f"{sum(pair.score is not None for pair in made)} with notes, {sum(p.music is not None for p in made)} with sound."
    )
    return made


def _announce(job: TuneJob, base: Base, found: Found, tell: Tell) -> None:
    """Say what was found, what will be done, and what it takes."""
    tell(f"Found in {job.folder}: {found}.")
    kinds = found.kinds()
    has_notes = (
        "scores" in kinds or "rooms" in kinds or any(source.score is not None for source in found.sources)
    )
    can = transcriber_of(()) is not None
    has_sound = bool({"pairs", "performances", "music"} & kinds.keys())
    if has_sound and not has_notes and can:
        tell("Music without a score is transcribed by basic-pitch.")
    elif has_sound and not has_notes:
        tell(
            "Music without a score is learned as sound alone; the extra [transcribe] would let the composer learn."
        )
    serves = {"composer": has_notes or can, "sketch": has_sound and (has_notes or can), "decoder": has_sound}
    parts = [part for part in job.recipe.tune.parts if base.has(part) and serves[part]]
    if not parts:
        raise DataError(
            f"{job.folder} serves no part of '{base.model.name}' that may be tuned: its composer learns from notes, its "
            "sketch from notes with sound, its decoder from sound."
        )
    how = "all weights" if job.full else f"low-rank changes, rank {job.recipe.tune.rank}"
    tell(f"To be tuned: {', '.join(parts)} of '{base.model.name}' ({how}).")
    size = sum((job.base / name).stat().st_size for name in PARTS.values() if (job.base / name).exists())
    gib = 1.0 + (12 if job.full else 6) * size / 2**30 + 0.04 * job.recipe.training.batch_size
    tell(f"It takes about {job.minutes:g} minutes at most, and about {gib:.1f} GiB of memory.")


def transcriber_of(instruments: tuple[str, ...]) -> Callable[[Any], Any] | None:
    """A function from music to its notes by basic-pitch, or None where that is not installed.

    Notes of one instrument go to it, of several by pitch, the highest to the first named. Where notes begin elsewhere
    than the sound does, they are not trusted and the function gives None.
    """
    if not can_transcribe():
        return None
    return partial(heard_score, instruments=instruments or ("piano",))


def _usable(pairs: list[Pair], part: str) -> dict[str, int]:
    """How many pairs of each split serve a part."""
    own = [pair for pair in pairs if all(getattr(pair, name) is not None for name in NEEDS[part])]
    return {split: sum(pair.split == split for pair in own) for split in ("train", "validation")}


def _planned(job: TuneJob, pairs: list[Pair], begun: float, tell: Tell) -> dict[str, int]:
    """Steps by part: as planned before a kill, or by the time that a step takes here."""
    path = job.work / PLAN_FILE
    if path.exists():
        return dict(read_json(path))
    base, counts = Base.of(job.base), {part: _usable(pairs, part) for part in job.recipe.tune.parts}
    parts = [part for part, n in counts.items() if base.has(part) and min(n["train"], n["validation"]) >= 1]
    if not parts:
        raise DataError(
            f"The pairs of {job.folder} serve no part of '{base.model.name}' in both splits; add music."
        )
    left = job.minutes * 60.0 - (time.monotonic() - begun)
    costs = {part: _probed(job, part, counts[part]) for part in parts}
    left -= sum(N_PROBED * cost for cost in costs.values())
    whole = sum(SHARES[part] for part in parts)
    plan = {
        part: min(
            job.recipe.tune.max_steps, max(10, int(TRAINING_SHARE * left * SHARES[part] / whole / cost))
        )
        for part, cost in costs.items()
    }
    for part, steps in plan.items():
        tell(f"{part}: up to {steps} steps of {costs[part]:.2f} s.")
    held = require("psutil").Process().memory_info().rss
    tell(f"Peak memory so far {held / 2**30:.1f} GiB.")
    write_text(path, json.dumps(plan) + "\n")
    return plan


class _TimedEnough(Exception):
    """Ends a probe."""


def _probed(job: TuneJob, part: str, counts: Mapping[str, int]) -> float:
    """Seconds that a step of a part takes here."""
    times: list[float] = []

    def note(done: int, total: int) -> None:
        times.append(time.monotonic())
        if done == N_PROBED:
            raise _TimedEnough

    place = job.work / f"probe-{part}"
    shutil.rmtree(place, ignore_errors=True)
    try:
        _run_loop(job, part, N_PROBED + 1, place, note, patience=0)
    except _TimedEnough:
        pass
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return max(1e-3, (times[-1] - times[N_WARM - 1]) / (len(times) - N_WARM))


MIN_AGREEMENT = 0.5
"""F measure of the onsets heard in the notes against those heard in the sound, below which notes are not trusted."""


def heard_score(music: Waveform, instruments: tuple[str, ...]) -> Score | None:
    """The notes of music by basic-pitch, given to instruments by pitch; None where they are not to be trusted.

    Args:
        instruments: in words, from the highest to the lowest; each gets as many notes as the others.

    Raises:
        ConfigError: if nobody plays one of them.
    """
    programs = [min(programs_of([name])) for name in instruments]
    notes = transcribe(music)
    inside = (notes.start_seconds < music.seconds - 0.02) & (notes.end_seconds > notes.start_seconds)
    if not inside.any():
        return None
    times, _ = onsets_of(music)
    starts = np.unique(np.round(notes.start_seconds[inside], 2))
    if not len(times) or onset_scores(times, starts).f_measure < MIN_AGREEMENT:
        return None
    edges = np.quantile(notes.pitches[inside], np.linspace(1.0, 0.0, len(programs) + 1))
    parts = []
    # As loud as the music is a moment after they begin; a velocity v counts as 40 log10(v / 127) dB.
    level = measured_energy_db(music.mono().resampled(SAMPLE_RATE).samples[0])
    at = np.minimum((notes.start_seconds * ENERGY_RATE_HZ).astype(np.int64) + 1, len(level) - 1)
    velocities = np.clip(np.rint(127.0 * 10.0 ** ((level[at] - level.max()) / 40.0)), 24, 127).astype(
        np.int64
    )
    for index, program in enumerate(programs):
        own = inside & (notes.pitches <= edges[index])
        own &= (notes.pitches > edges[index + 1]) | (index + 1 == len(programs))
        if not own.any():
            continue
        parts.append(
            Part(
                name=INSTRUMENT_NAMES[program],
                program=0 if program == DRUMS else program,
                is_drum=program == DRUMS,
                role="",
                start_seconds=notes.start_seconds[own],
                end_seconds=np.minimum(notes.end_seconds[own], music.seconds),
                pitches=notes.pitches[own].astype(np.int64),
                velocities=velocities[own],
            )
        )
    return with_roles(Score(music.seconds, tuple(parts)))


# --- training ------------------------------------------------------------------------------------------------


def _run_loop(
    job: TuneJob,
    part: str,
    steps: int,
    place: Path,
    progress: Callable[[int, int], None] | None,
    patience: int = PATIENCE,
    minutes: float = 0.0,
) -> None:
    """Train a part for some steps in a folder, or with `minutes` above 0 until they are over."""
    counts = _usable(read_pairs(job.work / "pairs"), part)
    base, tuned, own = Base.of(job.base), job.recipe.tune, job.recipe.training
    training = replace(
        own,
        batch_size=min(own.batch_size, counts["train"]),
        crop_seconds=min(own.crop_seconds, tuned.seconds),
        learning_rate=tuned.learning_rate[part],
        warmup_steps=min(own.warmup_steps, max(1, steps // 10)),
        max_steps=steps,
        max_minutes=minutes,
        validate_every=max(LEAST_STEPS, steps // N_VALIDATIONS),
        n_validation_pairs=min(own.n_validation_pairs, counts["validation"]),
        patience=patience,
        seed=job.seed,
    )
    recipe = base.recipe(part, job.recipe)
    controls = recipe.sketch.controls if part == "sketch" else recipe.controls
    known = {*controls, *(CONTROLS[name].group for name in controls)}
    dropped = {name: share for name, share in training.control_dropout.items() if name in known}
    recipe = replace(recipe, training=replace(training, control_dropout=dropped))
    fitting: Fitting = (
        AllWeights(place / WHOLE[part]) if job.full else LowRank(part, tuned, place / f"{part}.safetensors")
    )
    resume, shards = (place / STATE_FILE).exists(), job.work / "shards"
    with _first_process_first():
        start = _start_of(job, part)
    start = start / COMPOSER_FOLDER if part == "composer" else start
    train_recipe(recipe, shards, job.base / "codec", place, resume, start, fitting, progress)


def _start_of(job: TuneJob, part: str) -> Path:
    """The model that a part starts from: of the decoder the base with the sketch as it was tuned just before."""
    tuned = job.work / "sketch" / "done"
    if part != "decoder" or not tuned.exists():
        return job.base
    folder = job.work / "start"
    if not folder.exists():
        with atomic_folder(folder) as temporary:
            shutil.copytree(job.base, temporary, dirs_exist_ok=True)
            _put_sketch(job, temporary / SKETCH_FOLDER)
    return folder


def _put_sketch(job: TuneJob, folder: Path) -> None:
    """Write the sketch as it was tuned."""
    from silent2music.sketch import Sketch

    if job.full:
        shutil.copytree(job.work / "sketch" / SKETCH_FOLDER, folder, dirs_exist_ok=True)
        return
    from torch import nn

    holder = nn.Module()
    holder.sketch = Sketch.from_pretrained(job.base / SKETCH_FOLDER)
    alone = job.work / "sketch" / "alone"
    write_adapter(
        alone, adapter_config(job, ["sketch"]), read_weights(job.work / "sketch" / "sketch.safetensors")
    )
    apply_adapters(holder, job.base, [read_adapter(alone)])
    holder.sketch.save_pretrained(folder)


def _train(job: TuneJob, part: str, plan: Mapping[str, int], tell: Tell, report: Progress) -> None:
    """Train a part to its end, unless that was done, and say how its held-out loss went."""
    place = job.work / part
    if (place / "done").exists():
        return
    minutes = TRAINING_SHARE * job.minutes * SHARES[part] / sum(SHARES[name] for name in plan)
    _run_loop(job, part, plan[part], place, partial(report, part), minutes=minutes)
    if os.environ.get("RANK", "0") == "0":
        curve = loss_curve(place / LOG_FILE)
        tell(told_of(part, curve, plan[part]))
        (place / "done").touch()
    with _first_process_first():
        pass  # what is done is known before any process asks for the next part


def _first_process_first() -> AbstractContextManager[None]:
    """The first of several processes passes the block before the others enter it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return nullcontext()
    from accelerate import PartialState

    first: AbstractContextManager[None] = PartialState().main_process_first()
    return first
