"""Commands that fine-tune a model on a user's folder, and that put adapters into a model for good."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from silent2music.cli.common import progress_bar, say, settings_of
from silent2music.cli.options import SAMPLING, Download, Model, Seed, Set, model_folder, within


def tune(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Pairs, performances, music, MIDI files or rooms.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="ADAPTER", help="Folder of the adapter.")],
    minutes: Annotated[
        float, typer.Option("--minutes", callback=within(0.1, 100_000), help="How long it may take in all.")
    ] = 60.0,
    instruments: Annotated[
        str, typer.Option("--instruments", help="What plays music without a score, as in 'violin, guitar'.")
    ] = "",
    licence: Annotated[str, typer.Option("--licence", help="Of the folder, for the card.")] = "not stated",
    rooms: Annotated[
        Path | None, typer.Option("--rooms", help="Pairs on whose held-out rooms following is compared.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Train all weights, and write a model to ADAPTER/model.")
    ] = False,
    prepare: Annotated[
        bool,
        typer.Option("--prepare", help="Make the pairs and the plan, and stop; for `accelerate launch`."),
    ] = False,
    push: Annotated[
        str | None,
        typer.Option("--push", metavar="OWNER/NAME", help="Upload it to the Hugging Face hub then."),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="Recipe folder, TOML file, or the name of one that ships.")
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
        list[str], typer.Argument(metavar="ADAPTER[=STRENGTH]...", help="Adapters, each with its strength.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="MODEL", help="Model folder to write.")],
    model: Model = None,
    download: Download = False,
) -> None:
    """Add adapters to their base for good: a model folder for `--model`."""
    from silent2music.adapters import read_adapters
    from silent2music.export.models import merge_adapters

    merge_adapters(model_folder(model, download), read_adapters(adapters, download), output)
    say(str(output))
