"""Options of what a user asks for, shared by the commands that compose."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from silent2music.cli.common import complain, parse_seconds
from silent2music.config import read_values
from silent2music.errors import ConfigError

if TYPE_CHECKING:
    from silent2music.controls import Controls

PANEL = "What the music is to be; the room decides the rest"


def _option(*names: str, metavar: str = "", text: str) -> Any:
    return typer.Option(*names, metavar=metavar or None, help=text, rich_help_panel=PANEL)


Tempo = Annotated[
    float | None, _option("--tempo", metavar="BPM", text="Bars, beats and notes on a grid at this tempo.")
]
Metre = Annotated[str | None, _option("--metre", metavar="3/4", text="Beats of 6/8 are three eighths.")]
Swing = Annotated[
    float | None,
    _option("--swing", metavar="0..1", text="How far off-beat eighths are late, up to a triplet's."),
]
Loose = Annotated[
    float | None,
    _option("--loose", metavar="0..1", text="How far notes may leave the grid towards the room's own times."),
]
Key = Annotated[str | None, _option("--key", metavar="KEY", text="Such as 'F# minor'.")]
Mood = Annotated[
    str | None,
    _option(
        "--mood",
        "--mood-curve",
        metavar="VALENCE,AROUSAL|FILE.csv",
        text="-1 to 1 each, throughout, or a curve of seconds, valence and arousal.",
    ),
]
Cue = Annotated[
    list[str] | None,
    _option(
        "--cue", metavar="TIME[=NAME]|FILE.csv", text="A section and a chord start here; may be repeated."
    ),
]
Ending = Annotated[
    str | None,
    _option(
        "--ending", metavar="final|open|cut", text="A cadence, a half close, or music until the last moment."
    ),
]
Instruments = Annotated[
    str | None, _option("--instruments", metavar="NAMES", text="Only these play, such as piano,cello.")
]
Without = Annotated[
    str | None, _option("--without", metavar="NAMES", text="None of these plays, such as drums.")
]
Style = Annotated[
    str | None,
    _option(
        "--style",
        metavar="NAME",
        text="Instruments that go together: chamber, ambient, ostinato, percussive, ...",
    ),
]
Density = Annotated[
    str | None,
    _option(
        "--density",
        metavar="0..1|FILE.csv",
        text="Notes a second, 0.5 being 3.5 and 1 being 19, throughout, or a curve of seconds and density.",
    ),
]
Dynamics = Annotated[
    float | None,
    _option("--dynamics", metavar="0..1", text="How far loudness follows the room; 1 by default."),
]
Melody = Annotated[
    Path | None,
    _option(
        "--melody",
        metavar="TUNE.mid|HUM.wav",
        text="A line, hummed too, that is set to the room, note for note.",
    ),
]
Chords = Annotated[
    str | None,
    _option("--chords", metavar="CHORDS|FILE.lab", text="Such as 'Am F C G', a bar each, again and again."),
]
BlendWith = Annotated[
    Path | None, _option("--blend", metavar="ROOM", text="Another room, mixed into this one throughout.")
]
MorphTo = Annotated[
    Path | None, _option("--morph", metavar="ROOM", text="Another room, into which this one goes over.")
]
Amount = Annotated[
    float | None,
    _option("--amount", metavar="0..1", text="Share of the other room of --blend; half by default."),
]
Prompt = Annotated[
    str | None,
    _option(
        "--prompt",
        metavar="WORDS",
        text="Such as 'slow, melancholic solo cello, no drums'; what it sets is printed, and options come before it.",
    ),
]
ControlsFile = Annotated[
    Path | None,
    _option(
        "--controls",
        metavar="SCENE.toml",
        text="All of these in a file, or the record of a piece; options come before it.",
    ),
]


Redo = Annotated[
    str | None,
    typer.Option(
        "--redo",
        metavar="BEGIN:END",
        help="Write a stretch of finished music again, as 12:20 in seconds or 1:02-1:10; the rest stays bit for bit.",
    ),
]
Of = Annotated[
    Path | None,
    typer.Option(
        "--of",
        metavar="MUSIC",
        help="The finished music, WAV or FLAC with its record; ROOM.music.wav by default.",
    ),
]
KeepMelody = Annotated[
    bool, typer.Option("--keep-melody", help="Compose the rest again around the melody's notes.")
]
KeepHarmony = Annotated[
    bool, typer.Option("--keep-harmony", help="Compose the rest again around the notes of bass and harmony.")
]


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
    """The wishes of a command's parameters, and of its file where one is not given; None where there are none.

    Raises:
        ConfigError, DataError: as `Controls.of`.
    """
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


def blend_of(
    blend: Path | None, morph: Path | None, amount: float | None
) -> tuple[Path, float, float] | None:
    """The other room with its share at the beginning and at the end; None without one."""
    if blend is not None and morph is not None:
        raise typer.BadParameter("--blend and --morph name another room each; give one of them.")
    if amount is not None and (blend is None or not 0.0 <= amount <= 1.0):
        raise typer.BadParameter(f"--amount is {amount:g}; expected 0 to 1, with --blend.")
    if morph is not None:
        return morph, 0.0, 1.0
    share = 0.5 if amount is None else amount
    return None if blend is None else (blend, share, share)
