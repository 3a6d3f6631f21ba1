"""Runs a recipe from its data folders to a model folder, in stages that continue where they were stopped.

| stage | makes | from |
|---|---|---|
| `pairs` | `pairs/` | the recipe's data folders |
| `codec` | `codec/` | the music of the training pairs |
| `tokens` | `tokens/` | pairs and codec |
| `model` | `training/`, and from it `model/` | tokens and codec |
| `eval` | the report in `model/` | model and held-out pairs |
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from silent2music.config import RecipeConfig
from silent2music.errors import ConfigError, DataError
from silent2music.processes import Progress, StepProgress

if TYPE_CHECKING:
    from silent2music.training.learner import Fitting


def train_recipe(
    recipe: RecipeConfig,
    shards: Path,
    codec: Path | None,
    out: Path,
    resume: bool = False,
    start: Path | None = None,
    fitting: Fitting | None = None,
    progress: StepProgress | None = None,
) -> Path:
    """Train what a recipe trains, the model, the composer or the sketch, on prepared pairs; returns its folder.

    Args:
        recipe: sizes and training settings.
        shards: folder written by `data.shards.prepare`.
        codec: that the shards were prepared with; a composer needs none, and a sketch that starts from a model none
            beside that one's.
        out: where state, log, TensorBoard events and the folder of what is trained go.
        resume: go on from the state in `out`.
        start: what to start from, see `loop.train`, `composer.train_composer` and `sketch.train_sketch`.
        fitting: what is trained and written in place of all weights.

    Raises:
        ConfigError: if the recipe trains something else, or a model has no codec.
    """
    rest = (out, resume, start, fitting, progress)
    if recipe.trains == "composer":
        from silent2music.training.composer import train_composer

        return train_composer(recipe, shards, *rest)
    if recipe.trains == "sketch":
        from silent2music.training.sketch import train_sketch

        return train_sketch(recipe, shards, codec, *rest)
    from silent2music.training.loop import train

    if recipe.trains != "model":
        raise ConfigError(f"The recipe trains '{recipe.trains}'; expected model, composer or sketch.")
    if codec is None:
        raise ConfigError(
            "A model is trained with a codec; give --codec with the folder of the shards' codec."
        )
    return train(recipe, shards, codec, *rest)


@dataclass(frozen=True)
class _Run:
    """What stages share: the recipe, the output folder and the progress callback."""

    recipe: RecipeConfig
    out: Path
    tell: Progress

    @property
    def codec(self) -> Path:
        """The codec that the recipe names, or the one fitted here."""
        return Path(self.recipe.run.codec) if self.recipe.run.codec else self.out / "codec"

    @property
    def pairs(self) -> Path:
        """The pair folder."""
        return self.out / "pairs"


def run_recipe(
    recipe: RecipeConfig, out: Path, stages: Sequence[str] = (), progress: Progress | None = None
) -> Path:
    """Run a recipe, or some of its stages.

    Stages that are complete are passed over quickly, so the same command again goes on after a kill. Under
    `accelerate launch` give the stage `model` alone: the others need one process.

    Args:
        stages: which of `STAGES`, in their order; all by default.

    Returns:
        The model folder, `out/model`.

    Raises:
        ConfigError: on an unknown stage.
        DataError: if an earlier stage has not been run.
    """
    for stage in stages:
        if stage not in STAGES:
            raise ConfigError(f"Stage '{stage}' is unknown; expected some of {', '.join(STAGES)}.")
    run = _Run(recipe, out, progress or (lambda stage, done, total: None))
    for name, stage_function in STAGES.items():
        if not stages or name in stages:
            stage_function(run)
    return out / "model"


def _build_pairs(run: _Run) -> None:
    from silent2music.factory.build import build

    settings = run.recipe.run
    told = partial(run.tell, "pairs")
    build(run.recipe.data, run.pairs, settings.hours, settings.seed, settings.workers, told)


def _fit_codec(run: _Run) -> None:
    from silent2music.codec import save_codec
    from silent2music.data.pairs import music_files
    from silent2music.training.codec import fit_codec

    if (run.codec / "config.json").exists():
        return
    _need(run.pairs / "pairs.jsonl", "pairs")
    codec = fit_codec(
        music_files(run.pairs),
        run.recipe.codec,
        run.recipe.run.seed,
        run.recipe.run.codec_hours,
        lambda stage, share: run.tell(f"codec: {stage}", round(100 * share), 100),
    )
    save_codec(codec, run.codec)


def _encode_tokens(run: _Run) -> None:
    from silent2music.codec import load_codec
    from silent2music.data.shards import prepare

    _need(run.pairs / "pairs.jsonl", "pairs")
    _need(run.codec / "config.json", "codec")
    prepare(
        run.pairs,
        run.out / "tokens",
        load_codec(run.codec),
        run.recipe.ambient,
        run.recipe.run.workers,
        progress=partial(run.tell, "tokens"),
        n_codebooks=run.recipe.run.n_codebooks or None,
    )


def _train_model(run: _Run) -> None:
    from silent2music.plotting import plot_losses
    from silent2music.training.loop import train
    from silent2music.training.running import LOG_FILE, STATE_FILE

    _need(run.out / "tokens" / "meta.json", "tokens")
    training = run.out / "training"
    start = Path(run.recipe.run.start) if run.recipe.run.start else None
    resume = (training / STATE_FILE).exists()
    model = train(run.recipe, run.out / "tokens", run.codec, training, resume, start)
    attribution = run.pairs / "ATTRIBUTION.md"
    try:
        shutil.copytree(model, run.out / "model", dirs_exist_ok=True)
        if attribution.exists():
            shutil.copy(attribution, run.out / "model")
    except OSError as error:
        raise DataError(
            f"{run.out / 'model'} cannot be written ({error.strerror or error}); make room and run it again."
        ) from error
    plot_losses(training / LOG_FILE, run.out / "model" / "loss.png")


def _evaluate(run: _Run) -> None:
    from silent2music.evaluation.benchmark import EvalConfig, evaluate

    _need(run.out / "model" / "config.json", "model")
    config = EvalConfig(n=run.recipe.run.n_eval, seed=run.recipe.run.seed, scores=run.recipe.data.scores)
    evaluate(run.out / "model", run.pairs, run.out / "model", config, progress=run.tell)


def _need(file: Path, stage: str) -> None:
    """Raise an error if the output of an earlier stage is missing."""
    if not file.exists():
        raise DataError(f"{file} is missing; run the stage '{stage}' first.")


STAGES: dict[str, Callable[[_Run], None]] = {
    "pairs": _build_pairs,
    "codec": _fit_codec,
    "tokens": _encode_tokens,
    "model": _train_model,
    "eval": _evaluate,
}
"""The stages in their order."""
