"""Commands that train a model, fine-tune one on a user's folder, and put adapters into a model for good."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from silent2music.cli.common import progress_bar, say, settings_of
from silent2music.cli.options import (
    SAMPLING,
    Download,
    Model,
    Recipe,
    Resume,
    Seed,
    Set,
    model_folder,
    within,
)
from silent2music.errors import require


def train(
    recipe: Recipe,
    shards: Annotated[Path, Option(help="Folder written by `s2m data prepare`.")],
    out: Annotated[
        Path, Option(help="Folder of the run; the model goes to OUT/model, OUT/composer or OUT/sketch.")
    ],
    codec: Annotated[Path | None, Option(help="Codec folder that the shards were prepared with.")] = None,
    start: Annotated[
        Path | None,
        Option(
            help="Model, composer or sketch folder to fine-tune, of the recipe's sizes; of a model a composer takes the "
            "encoder of the room, and a sketch the codec."
        ),
    ] = None,
    resume: Resume = False,
    download: Download = False,
    overrides: Set = None,
) -> None:
    """Train what the recipe trains, the model, the composer or the sketch.

    `accelerate launch -m silent2music.cli train ...` takes the same.
    """
    require("accelerate")
    from silent2music.hub import find_folder
    from silent2music.training.recipe import train_recipe

    settings = settings_of(recipe, overrides)
    codec = None if codec is None else find_folder(codec, "codec", download)
    start = None if start is None else find_folder(start, "model", download)
    print(train_recipe(settings, shards, codec, out, resume, start))


def run_recipe(
    recipe: Recipe,
    out: Annotated[Path, Option(help="Folder of all that is made; the model goes to OUT/model.")],
    stages: Annotated[str, Option(help="Some of pairs,codec,tokens,model,eval; all by default.")] = "",
    overrides: Set = None,
) -> None:
    """Run a recipe from its data folders to a model with its report; a stopped run continues with the same command."""
    from silent2music.training.recipe import run_recipe as carry_out

    with progress_bar() as steps:
        made = carry_out(settings_of(recipe, overrides), out, [s for s in stages.split(",") if s], steps)
    print(made)


def tune(
    folder: Annotated[
        Path, Argument(metavar="FOLDER", help="Pairs, performances, music, MIDI files or rooms.")
    ],
    output: Annotated[Path, Option("-o", "--output", metavar="ADAPTER", help="Folder of the adapter.")],
    minutes: Annotated[
        float, Option(callback=within(0.1, 100_000), help="How long it may take in all.")
    ] = 60.0,
    instruments: Annotated[
        str, Option(help="What plays music without a score, as in 'violin, guitar'.")
    ] = "",
    licence: Annotated[str, Option(help="Of the folder, for the card.")] = "not stated",
    rooms: Annotated[Path | None, Option(help="Pairs on whose held-out rooms following is compared.")] = None,
    full: Annotated[
        bool, Option("--full", help="Train all weights, and write a model to ADAPTER/model.")
    ] = False,
    prepare: Annotated[
        bool, Option("--prepare", help="Make the pairs and the plan, and stop; for `accelerate launch`.")
    ] = False,
    push: Annotated[
        str | None, Option(metavar="OWNER/NAME", help="Upload it to the Hugging Face hub then.")
    ] = None,
    recipe: Annotated[
        Path | None, Option(help="Recipe folder, TOML file, or the name of one that ships.")
    ] = None,
    model: Model = None,
    seed: Seed = SAMPLING.seed,
    download: Download = False,
    overrides: Set = None,
) -> None:
    """Fine-tune a model on your own folder; a run that was stopped continues with the same command.

    The result is a small adapter for `s2m infer --adapter ADAPTER`, with a page that says what it changed.
    """
    from silent2music.config import shipped
    from silent2music.training.tune_job import TuneJob
    from silent2music.training.tuned import push_adapter
    from silent2music.training.tuning import tune as carry_out

    names = tuple(name.strip() for name in instruments.split(",") if name.strip())
    settings = settings_of(recipe or shipped("recipes", "tune"), overrides)
    base = model_folder(model, download)
    job = TuneJob(folder, output, base, settings, minutes, seed, full, names, licence, rooms)
    with progress_bar() as steps:
        carry_out(job, say, steps, prepare)
    if push is not None and not prepare:
        say(push_adapter(output, push))


def merge(
    adapters: Annotated[
        list[str], Argument(metavar="ADAPTER[=STRENGTH]...", help="Adapters, each with its strength.")
    ],
    output: Annotated[Path, Option("-o", "--output", metavar="MODEL", help="Model folder to write.")],
    model: Model = None,
    download: Download = False,
) -> None:
    """Add adapters to their base for good: a model folder for `--model`."""
    from silent2music.adapters import read_adapters
    from silent2music.export.models import merge_adapters

    merge_adapters(model_folder(model, download), read_adapters(adapters, download), output)
    say(str(output))
