"""`s2m tune`: a model fine-tuned on a user's folder, as a small adapter with a page that says what it changed.

```
OUT/adapter.json, adapter.safetensors   what `--adapter OUT` adds to the base
OUT/README.md, report.json              the card, and all figures
OUT/before-after.html                   the same rooms by base and tuned model
OUT/work/                               pairs, tokens and states of training; may be removed in the end
```
A killed run goes on with the same command and gives the same adapter: how many steps there are is measured once and kept
in `work/plan.json`.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from silent2music.adapters import (
    ADAPTER_CONFIG,
    ADAPTER_FILE,
    PARTS,
    AdapterConfig,
    TunedPart,
    apply_adapters,
    file_digest,
    read_adapter,
    write_adapter,
)
from silent2music.config import (
    COMPOSER_FOLDER,
    SKETCH_FOLDER,
    ComposerConfig,
    ModelConfig,
    RecipeConfig,
    SketchConfig,
    from_dict,
    read_values,
    to_dict,
)
from silent2music.data.pairs import Pair, read_pairs
from silent2music.errors import CheckpointError, ConfigError, DataError, require
from silent2music.factory.own_folder import (
    Found,
    in_splits,
    inspect_folder,
    make_pairs,
    open_workshop,
)
from silent2music.files import atomic_folder, atomic_path, claimed, read_json
from silent2music.processes import Progress
from silent2music.signals import CONTROLS
from silent2music.training.adapting import AllWeights, LowRank, import_peft
from silent2music.training.learner import Fitting
from silent2music.training.running import LOG_FILE
from silent2music.training.state import STATE_FILE
from silent2music.weights import CONFIG_FILE, WEIGHTS_FILE, read_weights

WORK, PLAN_FILE, JOB_FILE, REPORT_FILE, PAGE_FILE = (
    "work", "plan.json", "job.json", "report.json", "before-after.html",
)  # fmt: skip

SHARES = {"composer": 1.0, "sketch": 1.0, "decoder": 2.0}
"""Of the time for training, by part."""

TRAINING_SHARE = 0.75
"""Of the time that is left once the pairs are made; the rest is for the page."""

N_PROBED, N_WARM = 8, 3
"""Steps that are timed, the first of which are slower and do not count."""

N_VALIDATIONS, PATIENCE = 16, 4
"""How often a run validates, and how many validations in a row may lower nothing."""

NEEDS = {"composer": ("score",), "sketch": ("score", "music"), "decoder": ("music",)}
"""What a pair must have to serve a part."""

WHOLE = {"composer": COMPOSER_FOLDER, "sketch": SKETCH_FOLDER, "decoder": "model"}
"""Where a part is that was trained with all weights, in the folder of its run."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class TuneJob:
    """What is asked for.

    Attributes:
        folder: the user's; out: where the adapter goes; base: model folder.
        recipe: values of `tune`, `training` and `data`.
        minutes: of the whole run; seed: of all.
        full: train all weights, and write a model folder to `out/model` in place of an adapter.
        instruments: what plays music that has no score; empty is left open.
        licence: of the folder, for the card.
        rooms: pairs on whose held-out rooms following is compared; by default rooms that are made here.
    """

    folder: Path
    out: Path
    base: Path
    recipe: RecipeConfig
    minutes: float = 60.0
    seed: int = 0
    full: bool = False
    instruments: tuple[str, ...] = ()
    licence: str = "not stated"
    rooms: Path | None = None

    @property
    def work(self) -> Path:
        """Folder of all that is only needed on the way."""
        return self.out / WORK

    def stated(self) -> dict[str, Any]:
        """The settings that the adapter follows from."""
        files = sorted(p for p in self.folder.rglob("*") if p.is_file()) if self.folder.is_dir() else []
        listed = [f"{p.relative_to(self.folder).as_posix()} {p.stat().st_size}" for p in files]
        bases = {
            part: file_digest(self.base / name) for part, name in PARTS.items() if (self.base / name).exists()
        }
        values = {name: getattr(self, name) for name in ("minutes", "seed", "full", "instruments", "licence")}
        stated = {**values, "recipe": to_dict(self.recipe), "files": listed, "bases": bases}
        return dict(json.loads(json.dumps(stated)))


@dataclass(frozen=True)
class _Base:
    """The settings of the model that is tuned, by part; None where it has none."""

    model: ModelConfig
    composer: ComposerConfig | None
    sketch: SketchConfig | None

    @staticmethod
    def of(folder: Path) -> _Base:
        """Read from a model folder.

        Raises:
            CheckpointError: if it is none.
        """
        try:
            model = from_dict(ModelConfig, read_values(folder / CONFIG_FILE))
            own = [
                from_dict(kind, read_values(folder / name / CONFIG_FILE))
                if (folder / name).is_dir()
                else None
                for name, kind in ((COMPOSER_FOLDER, ComposerConfig), (SKETCH_FOLDER, SketchConfig))
            ]
        except ConfigError as error:
            raise CheckpointError(f"{folder} is no model folder of this version ({error}).") from error
        return _Base(model, *own)  # type: ignore[arg-type]

    def has(self, part: str) -> bool:
        """Whether the model has a part."""
        return part == "decoder" or getattr(self, part) is not None

    def recipe(self, part: str, recipe: RecipeConfig) -> RecipeConfig:
        """The recipe that trains a part, with the base's sizes."""
        if part == "composer" and self.composer is not None:
            own = self.composer
            return replace(recipe, trains=part, controls=own.controls, ambient=own.ambient, composer=own)
        if part == "sketch" and self.sketch is not None:
            return replace(recipe, trains=part, ambient=self.sketch.ambient, sketch=self.sketch)
        model = self.model
        return replace(
            recipe, trains="model", controls=model.controls, ambient=model.ambient, decoder=model.decoder
        )


def tune(job: TuneJob, tell: Tell, progress: Progress | None = None, prepare_only: bool = False) -> Path:
    """Fine-tune a model on a folder, or go on with it; returns `job.out`.

    Under `accelerate launch` the pairs must have been made before, by `prepare_only` in one process.

    Args:
        job: what is asked for.
        tell: told, in sentences, what was found, what is done and what came of it.
        progress: see `processes.Progress`.
        prepare_only: make the pairs and the plan, and stop.

    Raises:
        DataError: if the folder has faults, or does not serve any part of the base.
        CheckpointError: if `out` was begun with other settings.
        S2MError: if another command writes to `out`.
    """
    import_peft()
    require("pyarrow", "train")
    require("mir_eval", "eval")
    report = progress or (lambda stage, done, total: None)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return _launched(job, tell, report)
    with claimed(job.out):
        if _is_done(job):
            tell(f"{job.out} is finished; remove it to begin anew.")
            return job.out
        begun = time.monotonic()
        pairs = _prepared(job, tell, report)
        plan = _planned(job, pairs, begun, tell)
        if prepare_only:
            tell(f"{job.work} holds the pairs and the plan; the same command without --prepare goes on.")
            return job.out
        for part, steps in plan.items():
            _train(job, part, steps, tell, report)
        _finish(job, plan, tell, report)
    return job.out


def _launched(job: TuneJob, tell: Tell, report: Progress) -> Path:
    """The training of one of several processes; the first one finishes alone."""
    if not (job.work / PLAN_FILE).exists():
        raise ConfigError(
            f"{job.work} has no {PLAN_FILE}; make the pairs first, in one process, with --prepare."
        )
    is_main = os.environ.get("RANK", "0") == "0"
    plan = read_json(job.work / PLAN_FILE)
    for part, steps in plan.items():
        _train(job, part, steps, tell if is_main else lambda text: None, report)
    if is_main:
        _finish(job, plan, tell, report)
    return job.out


def _is_done(job: TuneJob) -> bool:
    """Whether a run of the very same settings has come to its end.

    Raises:
        CheckpointError: if the folder is of a run with other settings.
    """
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
        with atomic_path(path, force=True) as temporary:
            temporary.write_text(json.dumps(stated, indent=2) + "\n", encoding="utf-8")
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
    base, pairs, shards = _Base.of(job.base), job.work / "pairs", job.work / "shards"
    _announce(job, base, found, tell)
    config = job.recipe.tune
    splits = in_splits(found, config.validation_share)
    transcriber = transcriber_of(job.instruments) if "music" in found.kinds() else None
    settings = {"licence": job.licence, "transcriber": transcriber, "seed": job.seed}
    shop = open_workshop(found, pairs, config, job.recipe.data, **settings)
    most = max(2, round(config.pairs_per_minute * job.minutes))
    made = make_pairs(shop, found, splits, most, partial(report, "pairs"))
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


def _announce(job: TuneJob, base: _Base, found: Found, tell: Tell) -> None:
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
    from silent2music.evaluation.transcription import can_transcribe

    if not can_transcribe():
        return None
    from silent2music.training.hearing import heard_score

    return partial(heard_score, instruments=instruments or ("acoustic grand piano",))


def _usable(pairs: list[Pair], part: str) -> dict[str, int]:
    """How many pairs of each split serve a part."""
    own = [pair for pair in pairs if all(getattr(pair, name) is not None for name in NEEDS[part])]
    return {split: sum(pair.split == split for pair in own) for split in ("train", "validation")}


def _planned(job: TuneJob, pairs: list[Pair], begun: float, tell: Tell) -> dict[str, int]:
    """Steps by part: as planned before a kill, or by the time that a step takes here."""
    path = job.work / PLAN_FILE
    if path.exists():
        return dict(read_json(path))
    base, counts = _Base.of(job.base), {part: _usable(pairs, part) for part in job.recipe.tune.parts}
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
    tell(f"Peak memory so far {_memory_gib():.1f} GiB.")
    with atomic_path(path, force=True) as temporary:
        temporary.write_text(json.dumps(plan) + "\n", encoding="utf-8")
    return plan


def _memory_gib() -> float:
    """What this process holds in memory."""
    return float(require("psutil").Process().memory_info().rss) / 2**30


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


# --- training ------------------------------------------------------------------------------------------------


def _run_loop(
    job: TuneJob,
    part: str,
    steps: int,
    place: Path,
    progress: Callable[[int, int], None] | None,
    patience: int = PATIENCE,
) -> None:
    """Train a part for some steps in a folder."""
    counts = _usable(read_pairs(job.work / "pairs"), part)
    base, tuned, own = _Base.of(job.base), job.recipe.tune, job.recipe.training
    training = replace(
        own,
        batch_size=min(own.batch_size, counts["train"]),
        crop_seconds=min(own.crop_seconds, tuned.seconds),
        learning_rate=tuned.learning_rate[part],
        warmup_steps=min(own.warmup_steps, max(1, steps // 10)),
        max_steps=steps,
        max_minutes=0.0,
        validate_every=max(1, steps // N_VALIDATIONS),
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
    start = _start_of(job, part)
    if part == "composer":
        from silent2music.training.composer import train_composer

        train_composer(recipe, shards, place, resume, start / COMPOSER_FOLDER, fitting, progress)
    elif part == "sketch":
        from silent2music.training.sketch import train_sketch

        train_sketch(recipe, shards, job.base / "codec", place, resume, start, fitting, progress)
    else:
        from silent2music.training.loop import train

        train(recipe, shards, job.base / "codec", place, resume, start, fitting, progress)


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
        alone, _adapter_config(job, ["sketch"]), read_weights(job.work / "sketch" / "sketch.safetensors")
    )
    apply_adapters(holder, job.base, [read_adapter(alone)])
    holder.sketch.save_pretrained(folder)


def _train(job: TuneJob, part: str, steps: int, tell: Tell, report: Progress) -> None:
    """Train a part to its end, unless that was done, and say how its held-out loss went."""
    place = job.work / part
    if (place / "done").exists():
        return
    _run_loop(job, part, steps, place, partial(report, part))
    if os.environ.get("RANK", "0") == "0":
        curve = loss_curve(place / LOG_FILE)
        tell(_told_of(part, curve))
        (place / "done").touch()


def loss_curve(log: Path) -> list[tuple[int, float]]:
    """Steps and held-out losses of a run's log."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [(line["step"], line["validation_true"]) for line in lines if "validation_true" in line]


def _told_of(part: str, curve: list[tuple[int, float]]) -> str:
    """How a part's held-out loss went, in a sentence."""
    best_step, best = min(curve, key=lambda point: point[1])
    first = "of the base" if curve[0][0] == 0 else f"at step {curve[0][0]}"
    text = f"{part}: held-out loss {curve[0][1]:.4f} {first}, lowest {best:.4f} at step {best_step}"
    if best_step < curve[-1][0]:
        text += (
            f"; it turned after that, so training ended at step {curve[-1][0]} and step {best_step} is kept"
        )
    return text + "."


# --- what comes out ------------------------------------------------------------------------------------------


def _adapter_config(job: TuneJob, parts: list[str]) -> AdapterConfig:
    own = job.recipe.tune
    stated = {part: TunedPart(file_digest(job.base / PARTS[part]), own.rank, own.alpha) for part in parts}
    return AdapterConfig(_Base.of(job.base).model.name, stated, str(inspect_folder(job.folder)), job.licence)


def _finish(job: TuneJob, plan: Mapping[str, int], tell: Tell, report: Progress) -> None:
    """Write the adapter, or with all weights the model, then the page, the figures and the card."""
    from silent2music.evaluation.before_after import Comparison, compare, page, sentences

    if job.full:
        with atomic_folder(job.out / "model") as temporary:
            shutil.copytree(job.base, temporary, dirs_exist_ok=True)
            for part in plan:
                _copy_part(job.work / part, part, temporary)
    else:
        tensors: dict[str, Any] = {}
        for part in plan:
            tensors |= read_weights(job.work / part / f"{part}.safetensors")
        write_adapter(job.out, _adapter_config(job, list(plan)), tensors)
    comparison = Comparison(
        base=job.base,
        adapter=None if job.full else job.out,
        tuned=job.out / "model" if job.full else job.base,
        pairs=job.work / "pairs",
        rooms=job.rooms,
        n=job.recipe.tune.n_compared,
        seed=job.seed,
        soundfonts=job.recipe.data.soundfont,
        n_followed=job.recipe.tune.n_followed,
    )
    figures, pieces = compare(comparison, report)
    curves = {part: loss_curve(job.work / part / LOG_FILE) for part in plan}
    figures |= {
        "base": _Base.of(job.base).model.name,
        "data": str(inspect_folder(job.folder)),
        "licence": job.licence,
        "steps": dict(plan),
        "held_out_loss": {part: [list(point) for point in curve] for part, curve in curves.items()},
        "losses": [_told_of(part, curve) for part, curve in curves.items()],
    }
    lines = [*figures["losses"], *sentences(figures)]
    for line in sentences(figures):
        tell(line)
    _write(job.out / "README.md", card(job, figures, lines))
    _write(job.out / PAGE_FILE, page(figures, pieces, lines))
    # The last: it says that all is there.
    _write(job.out / REPORT_FILE, json.dumps(figures, indent=2) + "\n")
    if not job.full:
        size = (job.out / ADAPTER_FILE).stat().st_size
        tell(
            f"{job.out}: an adapter of {size / 2**20:.2f} MiB; hear what it changed in {job.out / PAGE_FILE}."
        )


def _copy_part(place: Path, part: str, folder: Path) -> None:
    """A part as it was trained with all weights, to its place in a model folder."""
    if part == "decoder":
        shutil.copy(place / WHOLE[part] / WEIGHTS_FILE, folder / WEIGHTS_FILE)
    else:
        shutil.copytree(place / WHOLE[part], folder / part, dirs_exist_ok=True)


def _write(path: Path, text: str) -> None:
    with atomic_path(path, force=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


def card(job: TuneJob, figures: Mapping[str, Any], lines: list[str]) -> str:
    """The text of an adapter's `README.md`: base, data, licence as stated, figures, and how to use it."""
    name = job.out.resolve().name
    return "\n".join(
        [
            "---", "library_name: silent2music", "tags: [music-generation, audio, lora]",
            *([f"license: {json.dumps(job.licence)}"] if job.licence != "not stated" else []), "---", "",
            f"# {name}", "",
            f"An adapter of the silent2music model '{figures['base']}': `s2m infer room.wav --adapter {name}`.",
            "`adapter.json` names the base's weights by checksum; another base is refused.", "",
            "## Data", "", f"{figures['data']}. Licence, as stated by its owner: {job.licence}.", "",
            "## What it changed", "", *(f"- {line}" for line in lines), "",
            f"`{PAGE_FILE}` has the same rooms by base and tuned model, and `{REPORT_FILE}` all figures.", "",
        ]
    )  # fmt: skip


SHARED = (ADAPTER_CONFIG, ADAPTER_FILE, "README.md", REPORT_FILE, PAGE_FILE)
"""What of an adapter's folder is passed on."""


def push_adapter(folder: Path, repo_id: str, **options: Any) -> str:
    """Upload an adapter with card and page, and nothing of its data, to the Hugging Face hub; returns its address.

    Args:
        folder: written by `tune`.
        repo_id: `owner/name`, created if it is not there.
        options: as `huggingface_hub.upload_folder` takes them.

    Raises:
        CheckpointError: if the folder holds no adapter.
    """
    read_adapter(folder)
    hub = require("huggingface_hub", "hub")
    hub.create_repo(repo_id, exist_ok=True, token=options.get("token"))
    return str(hub.upload_folder(repo_id=repo_id, folder_path=folder, allow_patterns=list(SHARED), **options))
