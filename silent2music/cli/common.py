"""Progress bars, settings and messages that the commands share."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from silent2music import processes
from silent2music.config import RecipeConfig, apply_overrides, from_dict, load_recipe
from silent2music.processes import FractionProgress, Progress, StepProgress


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


def print_json(values: Any, alone: bool = True) -> None:
    """Print a result as JSON: readable if it is the only one, else as a line."""
    print(json.dumps(values, indent=2 if alone else None, allow_nan=False), flush=True)


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


def warn(record: Mapping[str, Any]) -> None:
    """Say what is odd about a recording or its music."""
    output = record["output"]
    for note in record["input"]["notes"]:
        complain(f"{record['input']['file']} {note}.")
    if output["nearly_nothing"]:
        complain(f"{output['file']} is nearly nothing, as this room is; its level was left as it is.")


def described_music(record: Mapping[str, Any]) -> str:
    """Length, level and seed of music, in words."""
    output = record["output"]
    level = "below -70 LUFS" if output["lufs"] is None else f"{output['lufs']:.1f} LUFS"
    return f"{output['seconds']:.2f} s, {level}, seed {record['settings']['seed']}"
