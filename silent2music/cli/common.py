"""Options, progress bars, settings and error messages that the commands share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from silent2music.config import RecipeConfig, SamplingConfig, apply_overrides, from_dict, load_recipe

Steps = Callable[[str, int, int], None]

SAMPLING = SamplingConfig()

Rooms = Annotated[list[Path], typer.Argument(metavar="ROOM...", help="Recordings, or folders of them.")]
Recipe = Annotated[Path, typer.Argument(help="Recipe folder, TOML file, or the name of a recipe that ships.")]
PairFolder = Annotated[Path, typer.Argument(help="Pair folder.")]
Seconds = Annotated[
    float | None, typer.Option("--seconds", help="Length of the music; the room's own by default.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Decides every random choice.")]
Guidance = Annotated[
    float | None,
    typer.Option(
        "--guidance", help="How strongly the room is followed (1 is off); the model's own by default."
    ),
]
Temperature = Annotated[
    float, typer.Option("--temperature", help="Boldness of the draw; 0 is the likeliest.")
]
TopK = Annotated[int, typer.Option("--top-k", help="Draw among the K likeliest tokens; 0 is all.")]
TopP = Annotated[
    float, typer.Option("--top-p", help="Draw among the likeliest tokens of this total probability.")
]
Model = Annotated[Path | None, typer.Option("--model", help="Model folder; the shipped one by default.")]
Download = Annotated[
    bool,
    typer.Option(
        "--download", help="Ask the Hugging Face hub for a name that is no folder; else nothing is fetched."
    ),
]
Device = Annotated[
    str | None, typer.Option("--device", metavar="cpu|cuda|mps", help="By default CUDA if there is one.")
]
Control = Annotated[
    list[str] | None,
    typer.Option(
        "--control", metavar="NAME=VALUE", help="Steer a model by what its config names; may be repeated."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the record as JSON.")]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse recordings that are cut off.")]
Track = Annotated[int, typer.Option("--track", min=1, help="Sound track of a video, from 1.")]
Channel = Annotated[
    int | None,
    typer.Option("--channel", min=1, help="Hear this channel alone, from 1; by default all that live."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a setting; may be repeated."),
]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the state in OUT.")]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Processes.")]


@contextmanager
def progress_bar() -> Iterator[Steps | None]:
    """A progress bar on standard error with rate and time left; nothing where that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def step(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done)
            if done >= total:
                bar.remove_task(tasks.pop(name))

        yield step


def named(steps: Steps | None, name: str) -> Callable[[int, int], None] | None:
    """A callback `(done, total)` for a library function, shown by the progress bar under a name."""
    return None if steps is None else lambda done, total: steps(name, done, total)


def fractions(steps: Steps | None) -> Callable[[str, float], None] | None:
    """A callback `(stage, fraction)` for a library function, shown by the progress bar in percent."""
    return None if steps is None else lambda stage, fraction: steps(stage, round(100 * fraction), 100)


def settings_of(path: Path | None, overrides: Sequence[str] | None) -> RecipeConfig:
    """The settings of a recipe, which may be the bare name of one that ships, or the defaults, with overrides."""
    if path is not None:
        return load_recipe(path, overrides or ())
    return from_dict(RecipeConfig, apply_overrides({}, overrides or ()))


def write_json(path: Path | None, values: Any, force: bool = True) -> None:
    """Write figures to a file, if one was named."""
    from silent2music.files import atomic_path

    if path is not None:
        with atomic_path(path, force) as temporary:
            temporary.write_bytes(json.dumps(values, indent=2).encode() + b"\n")


def reading_of(strict: bool, track: int, channel: int | None) -> dict[str, Any]:
    """Options of `audio.open_recording`, which counts from 0."""
    return {"strict": strict, "track": track - 1, "channel": None if channel is None else channel - 1}


def model_folder(model: Path | None, download: bool) -> Path:
    """The folder of the model that was named, from the hub only if that was asked for; the shipped one by default."""
    from silent2music.config import default_model
    from silent2music.hub import find_folder

    return default_model() if model is None else find_folder(model, "model", download)


def complain(sentence: str) -> None:
    """Print an error message on standard error."""
    print(sentence, file=sys.stderr)
