"""Options, progress bars, settings and error messages that the commands share."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from silent2music import processes
from silent2music.config import (
    DeliveryConfig,
    RecipeConfig,
    SamplingConfig,
    apply_overrides,
    from_dict,
    load_recipe,
    loudness_target,
)
from silent2music.errors import ConfigError
from silent2music.processes import FractionProgress, Progress, StepProgress

if TYPE_CHECKING:
    from silent2music.export.beside import Beside
    from silent2music.export.signing import Signing

SAMPLING = SamplingConfig()
DELIVERY = DeliveryConfig()

MAX_WORKERS, MAX_HOURS, MAX_COUNT = 1024, 100_000, 10_000

TIME = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:\.\d*)?)")


def parse_seconds(text: str) -> float:
    """Seconds of `42.5`, `0:30` or `1:02:03.5`.

    Example:
        >>> parse_seconds("42.5"), parse_seconds("0:30"), parse_seconds("1:02:03.5")
        (42.5, 30.0, 3723.5)
    """
    match = TIME.fullmatch(text.strip())
    if match and int(match[2]) < 60 and float(match[3]) < 60:
        return 3600.0 * int(match[1] or 0) + 60.0 * int(match[2]) + float(match[3])
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if math.isfinite(seconds):
        return seconds
    raise typer.BadParameter(f"'{text}' is no length of time; expected one such as 42.5, 0:30 or 1:02:03.5.")


def within(low: float, high: float) -> Callable[[Any], Any]:
    """A callback that refuses numbers out of bounds, or that are none; an option that is not given passes."""

    def check(value: float | None) -> float | None:
        if value is not None and not low <= value <= high:
            raise typer.BadParameter(f"{value:g} is out of range; expected {low:g} to {high:g}.")
        return value

    return check


def parse_loudness(text: str) -> tuple[float, float | None]:
    """LUFS and, of a preset, dBTP."""
    try:
        return loudness_target(text)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None


Rooms = Annotated[list[Path], typer.Argument(metavar="ROOM...", help="Recordings, or folders of them.")]
Recipe = Annotated[Path, typer.Argument(help="Recipe folder, TOML file, or the name of a recipe that ships.")]
PairFolder = Annotated[Path, typer.Argument(help="Pair folder.")]
Seconds = Annotated[
    float | None,
    typer.Option(
        "--seconds",
        parser=parse_seconds,
        metavar="TIME",
        help="Length of the music, such as 42.5, 0:30 or 1:02:03.5; the room's own by default.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Decides every random choice.")]
Loudness = Annotated[
    Any,
    typer.Option(
        "--loudness",
        "--lufs",
        parser=parse_loudness,
        metavar="game|film|stream|podcast|LUFS",
        help="Integrated loudness, of a preset also the true peak.",
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        "--guidance", help="How strongly the room is followed (1 is off); the model's own by default."
    ),
]
ScoreGuidance = Annotated[
    float | None,
    typer.Option(
        "--score-guidance", help="How strongly the score is followed (1 is off); the model's own by default."
    ),
]
Adherence = Annotated[
    float | None,
    typer.Option(
        "--adherence", help="How closely the sound keeps to the score (0 is off); the model's own by default."
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
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        metavar="ADAPTER[=STRENGTH]",
        help="Add what `s2m tune` made, at a strength of 0 to 2; may be repeated.",
    ),
]
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
Count = Annotated[
    int,
    typer.Option(
        "--count", min=1, max=MAX_COUNT, help="Pieces for each room, by this seed and those after it."
    ),
]
Stems = Annotated[
    bool,
    typer.Option(
        "--stems", help="A file for each role, or part where a score has no roles; they add up to the music."
    ),
]
StemsBy = Annotated[
    str | None,
    typer.Option(
        "--stems-by", metavar="role|part", help="A file for each of these; they add up to the music."
    ),
]
MusicXml = Annotated[
    bool, typer.Option("--musicxml", help="The score as notation too, for engraving programs.")
]
Project = Annotated[
    str | None,
    typer.Option(
        "--project",
        metavar="reaper|dawproject",
        help="A session with stems, notes, tempo map and markers.",
    ),
]
Sign = Annotated[
    Path | None,
    typer.Option("--sign", metavar="KEY", help="Sign the music by C2PA with this private key (PEM)."),
]
Certificate = Annotated[
    Path | None,
    typer.Option(
        "--certificate", metavar="CERT", help="The key's certificate and those that vouch for it (PEM)."
    ),
]
Mono = Annotated[
    bool, typer.Option("--mono", help="One channel as the model made it, without the room's reverberation.")
]
FadeIn = Annotated[float, typer.Option("--fade-in", metavar="SECONDS", callback=within(0, 3600))]
FadeOut = Annotated[float, typer.Option("--fade-out", metavar="SECONDS", callback=within(0, 3600))]
SampleRate = Annotated[
    int, typer.Option("--sample-rate", metavar="HZ", callback=within(8000, 192_000), help="Of the files.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON in place of text; of several, a line each.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse recordings that are cut off.")]
Track = Annotated[int, typer.Option("--track", min=1, help="Sound track of a video, from 1.")]
Channel = Annotated[
    int | None,
    typer.Option("--channel", min=1, help="Hear this channel alone, from 1; by default all that live."),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Replace what silent2music made before; never a recording or another's file."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a setting; may be repeated."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the state in OUT.")]
Workers = Annotated[int, typer.Option("--workers", min=1, max=MAX_WORKERS, help="Processes.")]


@contextmanager
def progress_bar() -> Iterator[Progress | None]:
    """A progress bar on standard error with rate and time left; nothing where that is no terminal."""
    if processes.follower is not None or not sys.stderr.isatty():
        yield None if processes.follower is None else processes.follower.progress
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def step(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(escaped(name), total=total)
            bar.update(tasks[name], completed=done)
            if done >= total:
                bar.remove_task(tasks.pop(name))

        yield step


def named(steps: Progress | None, name: str) -> StepProgress | None:
    """A callback `(done, total)` for a library function, shown by the progress bar under a name."""
    return None if steps is None else lambda done, total: steps(name, done, total)


def fractions(steps: Progress | None) -> FractionProgress | None:
    """A callback `(stage, fraction)` for a library function, shown by the progress bar in percent."""
    return None if steps is None else lambda stage, fraction: steps(stage, round(100 * fraction), 100)


def settings_of(path: Path | None, overrides: Sequence[str] | None) -> RecipeConfig:
    """The settings of a recipe, which may be the bare name of one that ships, or the defaults, with overrides."""
    if path is not None:
        return load_recipe(path, overrides or ())
    return from_dict(RecipeConfig, apply_overrides({}, overrides or ()))


def beside_of(options: Mapping[str, Any]) -> Beside:
    """What options ask for beside the music."""
    from silent2music.export.beside import Beside

    by = options["stems_by"]
    if by not in (None, "role", "part"):
        raise typer.BadParameter(f"--stems-by is '{by}'; expected role or part.")
    return Beside(
        by or ("auto" if options["stems"] else ""),
        options.get("musicxml", False),
        options.get("project") or "",
        signing_of(options["sign"], options["certificate"]),
    )


def signing_of(key: Path | None, certificate: Path | None) -> Signing | None:
    """By whom files are signed, if the options name both."""
    if key is None and certificate is None:
        return None
    if key is None or certificate is None:
        raise typer.BadParameter(
            "a signature needs a key and its certificate; give --sign KEY --certificate CERT"
        )
    from silent2music.export.signing import Signing

    return Signing(key, certificate)


@contextmanager
def options_checked() -> Iterator[None]:
    """Settings made of options in this block are refused as wrong usage where they are out of range."""
    try:
        yield
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error


def print_json(values: Any, alone: bool = True) -> None:
    """Print a result as JSON: readable if it is the only one, else as a line."""
    print(json.dumps(values, indent=2 if alone else None, allow_nan=False), flush=True)


def reading_of(strict: bool, track: int, channel: int | None) -> dict[str, Any]:
    """Options of `audio.open_recording`, which counts from 0."""
    return {"strict": strict, "track": track - 1, "channel": None if channel is None else channel - 1}


def model_folder(model: Path | None, download: bool) -> Path:
    """The folder of the model that was named, from the hub only if that was asked for; the shipped one by default."""
    from silent2music.config import default_model
    from silent2music.hub import find_folder

    return default_model() if model is None else find_folder(model, "model", download)


def escaped(text: str) -> str:
    """Text that moves no cursor and sets no colour, whatever the names in it hold: control characters are escaped.

    Example:
        >>> escaped("a\\x1b[2J.wav")
        'a\\\\x1b[2J.wav'
    """
    return "".join(c if c.isprintable() or c == " " else c.encode("unicode_escape").decode() for c in text)


def say(sentence: str) -> None:
    """Print a line on standard output."""
    print(escaped(sentence), flush=True)


def complain(sentence: str) -> None:
    """Print an error message on standard error."""
    print(escaped(sentence), file=sys.stderr)
