"""What a user asks for of what is composed, from the options of a command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from silent2music.cli.common import complain
from silent2music.cli.options import parse_seconds
from silent2music.config import read_values
from silent2music.errors import ConfigError

if TYPE_CHECKING:
    from silent2music.controls import Controls


def parse_stretch(text: str) -> tuple[float, float]:
    """Beginning and end of `12:20`, which is in seconds, or `1:02-1:10`.

    Example:
        >>> parse_stretch("12:20"), parse_stretch("0:59.5-1:02")
        ((12.0, 20.0), (59.5, 62.0))
    """
    times = text.split("-") if "-" in text else text.split(":")
    if len(times) != 2:
        raise typer.BadParameter(f"'{text}' is no stretch of time; expected one such as 12:20 or 1:02-1:10.")
    begin, end = (parse_seconds(time) for time in times)
    return begin, end


def kept_roles(melody: bool, harmony: bool) -> tuple[str, ...]:
    """The roles whose notes stand."""
    return ("melody",) * melody + ("bass", "harmony") * harmony


def controls_of(params: Mapping[str, Any]) -> Controls | None:
    """The wishes of a command's parameters, and of its file where one is not given; None where there are none."""
    from silent2music.controls import Controls

    file, cue, melody = (params[name] for name in ("controls", "cue", "melody"))
    own = Controls.__dataclass_fields__.keys() - {"melody"}
    given = {name: params[name] for name in own if params.get(name) is not None}
    given |= {"cues": list(cue)} if cue else {}
    given |= {} if melody is None else {"melody": str(melody.absolute())}
    for name in ("mood", "density", "chords"):
        if str(given.get(name, "")).lower().endswith((".csv", ".lab")):
            given[name] = str(Path(given[name]).absolute())
    given |= {"cues": [_absolute(text) for text in given["cues"]]} if "cues" in given else {}
    values = {} if file is None else read_values(file)
    if isinstance(settings := values.get("settings"), dict):  # the record of a piece
        values = settings.get("controls", {})
    if unknown := sorted(values.keys() - {*Controls.__dataclass_fields__, "prompt"}):
        known = ", ".join((*Controls.__dataclass_fields__, "prompt"))
        raise ConfigError(f"{file} has '{unknown[0]}'; expected some of {known}.")
    prompt = params.get("prompt") or values.pop("prompt", None)
    if prompt is not None:
        from silent2music.words import read_prompt

        told, lines = read_prompt(str(prompt))
        for line in lines:
            complain(line)
        values = {**values, **told}
    if not values and not given:
        return None
    return Controls.of({**values, **given}, Path() if file is None else file.parent)


def _absolute(text: str) -> str:
    return str(Path(text).absolute()) if text.lower().endswith(".csv") else text


def blend_of(params: Mapping[str, Any]) -> tuple[Path, float, float] | None:
    """The other room with its share at the beginning and at the end; None without one."""
    blend, morph, amount = (params[name] for name in ("blend", "morph", "amount"))
    if blend is not None and morph is not None:
        raise typer.BadParameter("--blend and --morph name another room each; give one of them.")
    if amount is not None and (blend is None or not 0.0 <= amount <= 1.0):
        raise typer.BadParameter(f"--amount is {amount:g}; expected 0 to 1, with --blend.")
    if morph is not None:
        return morph, 0.0, 1.0
    share = 0.5 if amount is None else amount
    return None if blend is None else (blend, share, share)
