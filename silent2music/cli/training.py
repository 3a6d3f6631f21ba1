"""Commands that train the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from silent2music.cli.common import progress_bar, settings_of
from silent2music.cli.options import Download, Recipe, Resume, Set
from silent2music.errors import require


def train(
    recipe: Recipe,
    shards: Annotated[Path, typer.Option("--shards", help="Folder written by `s2m data prepare`.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", help="Folder of the run; the model goes to OUT/model, OUT/composer or OUT/sketch."
        ),
    ],
    codec: Annotated[
        Path | None, typer.Option("--codec", help="Codec folder that the shards were prepared with.")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--start",
            help="Model, composer or sketch folder to fine-tune, of the recipe's sizes; of a model a composer takes the "
            "encoder of the room, and a sketch the codec.",
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
    out: Annotated[
        Path, typer.Option("--out", help="Folder of all that is made; the model goes to OUT/model.")
    ],
    stages: Annotated[
        str, typer.Option("--stages", help="Some of pairs,codec,tokens,model,eval; all by default.")
    ] = "",
    overrides: Set = None,
) -> None:
    """Run a recipe from its data folders to a model with its report; a stopped run continues with the same command."""
    from silent2music.training.recipe import run_recipe as carry_out

    with progress_bar() as steps:
        made = carry_out(settings_of(recipe, overrides), out, [s for s in stages.split(",") if s], steps)
    print(made)
