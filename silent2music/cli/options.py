"""Options that commands share: each stands here once, with its name, its help and its default.

A command of many options takes them as `**options` and is registered by `taking`, which names them.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer import Argument, Option

from silent2music.config import DeliveryConfig, SamplingConfig, loudness_target
from silent2music.errors import ConfigError

if TYPE_CHECKING:
    from silent2music.export.beside import Beside
    from silent2music.export.models import LazyModel
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


def _option(kind: Any, text: str, *names: str, default: Any = None, **more: Any) -> tuple[Any, Any]:
    """An annotation and a default, as typer wants them; without names `taking` gives one."""
    return Annotated[kind, Option(*names, help=text, **more)], default


Rooms = Annotated[list[Path], Argument(metavar="ROOM...", help="Recordings, or folders of them.")]
Recipe = Annotated[Path, Argument(help="Recipe folder, TOML file, or the name of a recipe that ships.")]
PairFolder = Annotated[Path, Argument(help="Pair folder.")]
Seed = Annotated[int, Option("--seed", min=0, max=2**63 - 1, help="Decides every random choice.")]
Model = Annotated[Path | None, Option("--model", help="Model folder; the shipped one by default.")]
Download = Annotated[
    bool,
    Option(
        "--download", help="Ask the Hugging Face hub for a name that is no folder; else nothing is fetched."
    ),
]
Device = Annotated[
    str | None, Option("--device", metavar="cpu|cuda|mps", help="By default CUDA if there is one.")
]
AsJson = Annotated[
    bool, Option("--json", help="Print the result as JSON in place of text; of several, a line each.")
]
Force = Annotated[
    bool,
    Option("--force", help="Replace what silent2music made before; never a recording or another's file."),
]
Set = Annotated[
    list[str] | None,
    Option("--set", metavar="SECTION.KEY=VALUE", help="Override a setting; may be repeated."),
]
Resume = Annotated[bool, Option("--resume", help="Go on from the state in OUT.")]
Workers = Annotated[int, Option("--workers", min=1, max=MAX_WORKERS, help="Processes.")]

OPTIONS: dict[str, tuple[Any, Any]] = {
    "seconds": _option(
        float | None,
        "Length of the music, such as 42.5, 0:30 or 1:02:03.5; the room's own by default.",
        parser=parse_seconds,
        metavar="TIME",
    ),
    "seed": (Seed, SAMPLING.seed),
    "count": _option(
        int, "Pieces for each room, by this seed and those after it.", default=1, min=1, max=MAX_COUNT
    ),
    "guidance": _option(
        float | None, "How strongly the room is followed (1 is off); the model's own by default."
    ),
    "score_guidance": _option(
        float | None, "How strongly the score is followed (1 is off); the model's own by default."
    ),
    "adherence": _option(
        float | None, "How closely the sound keeps to the score (0 is off); the model's own by default."
    ),
    "temperature": _option(float, "Boldness of the draw; 0 is the likeliest.", default=SAMPLING.temperature),
    "top_k": _option(int, "Draw among the K likeliest tokens; 0 is all.", default=SAMPLING.top_k),
    "top_p": _option(
        float, "Draw among the likeliest tokens of this total probability.", default=SAMPLING.top_p
    ),
    "control": _option(
        list[str] | None, "Steer a model by what its config names; may be repeated.", metavar="NAME=VALUE"
    ),
    "loudness": _option(
        Any,
        "Integrated loudness, of a preset also the true peak.",
        "--loudness",
        "--lufs",
        default=DELIVERY.lufs,
        parser=parse_loudness,
        metavar="game|film|stream|podcast|LUFS",
    ),
    "mono": _option(
        bool, "One channel as the model made it, without the room's reverberation.", default=DELIVERY.mono
    ),
    "sample_rate": _option(
        int, "Of the files.", default=DELIVERY.sample_rate, metavar="HZ", callback=within(8000, 192_000)
    ),
    "fade_in": _option(float, "", default=DELIVERY.fade_in, metavar="SECONDS", callback=within(0, 3600)),
    "fade_out": _option(float, "", default=DELIVERY.fade_out, metavar="SECONDS", callback=within(0, 3600)),
    "stems": _option(
        bool,
        "A file for each role, or part where a score has no roles; they add up to the music.",
        default=False,
    ),
    "stems_by": _option(
        str | None, "A file for each of these; they add up to the music.", metavar="role|part"
    ),
    "musicxml": _option(bool, "The score as notation too, for engraving programs.", default=False),
    "project": _option(
        str | None, "A session with stems, notes, tempo map and markers.", metavar="reaper|dawproject"
    ),
    "sign": _option(Path | None, "Sign the music by C2PA with this private key (PEM).", metavar="KEY"),
    "certificate": _option(
        Path | None, "The key's certificate and those that vouch for it (PEM).", metavar="CERT"
    ),
    "strict": _option(bool, "Refuse recordings that are cut off.", default=False),
    "track": _option(int, "Sound track of a video, from 1.", default=1, min=1),
    "channel": _option(int | None, "Hear this channel alone, from 1; by default all that live.", min=1),
    "model": (Model, None),
    "adapter": _option(
        list[str] | None,
        "Add what `s2m tune` made, at a strength of 0 to 2; may be repeated.",
        metavar="ADAPTER[=STRENGTH]",
    ),
    "device": (Device, None),
    "download": (Download, False),
    "as_json": (AsJson, False),
    "force": (Force, False),
    "workers": (Workers, 2),
    "overrides": (Set, None),
    "redo": _option(
        str | None,
        "Write a stretch of finished music again, as 12:20 in seconds or 1:02-1:10; the rest stays bit for bit.",
        metavar="BEGIN:END",
    ),
    "of": _option(
        Path | None,
        "The finished music, WAV or FLAC with its record; ROOM.music.wav by default.",
        metavar="MUSIC",
    ),
    "keep_melody": _option(bool, "Compose the rest again around the melody's notes.", default=False),
    "keep_harmony": _option(
        bool, "Compose the rest again around the notes of bass and harmony.", default=False
    ),
}
"""Annotation and default of each shared option, by the name of its parameter."""

SCENE: dict[str, tuple[Any, Any]] = {
    "tempo": _option(float | None, "Bars, beats and notes on a grid at this tempo.", metavar="BPM"),
    "metre": _option(str | None, "Beats of 6/8 are three eighths.", metavar="3/4"),
    "swing": _option(float | None, "How far off-beat eighths are late, up to a triplet's.", metavar="0..1"),
    "loose": _option(
        float | None, "How far notes may leave the grid towards the room's own times.", metavar="0..1"
    ),
    "key": _option(str | None, "Such as 'F# minor'.", metavar="KEY"),
    "mood": _option(
        str | None,
        "-1 to 1 each, throughout, or a curve of seconds, valence and arousal.",
        "--mood",
        "--mood-curve",
        metavar="VALENCE,AROUSAL|FILE.csv",
    ),
    "cue": _option(
        list[str] | None, "A section and a chord start here; may be repeated.", metavar="TIME[=NAME]|FILE.csv"
    ),
    "ending": _option(
        str | None, "A cadence, a half close, or music until the last moment.", metavar="final|open|cut"
    ),
    "instruments": _option(str | None, "Only these play, such as piano,cello.", metavar="NAMES"),
    "without": _option(str | None, "None of these plays, such as drums.", metavar="NAMES"),
    "style": _option(
        str | None,
        "Instruments that go together: chamber, ambient, ostinato, percussive, ...",
        metavar="NAME",
    ),
    "density": _option(
        str | None,
        "Notes a second, 0.5 being 3.5 and 1 being 19, throughout, or a curve of seconds and density.",
        metavar="0..1|FILE.csv",
    ),
    "dynamics": _option(float | None, "How far loudness follows the room; 1 by default.", metavar="0..1"),
    "melody": _option(
        Path | None, "A line, hummed too, that is set to the room, note for note.", metavar="TUNE.mid|HUM.wav"
    ),
    "chords": _option(
        str | None, "Such as 'Am F C G', a bar each, again and again.", metavar="CHORDS|FILE.lab"
    ),
    "prompt": _option(
        str | None,
        "Such as 'slow, melancholic solo cello, no drums'; what it sets is printed, and options come before it.",
        metavar="WORDS",
    ),
    "controls": _option(
        Path | None,
        "All of these in a file, or the record of a piece; options come before it.",
        metavar="SCENE.toml",
    ),
    "blend": _option(Path | None, "Another room, mixed into this one throughout.", metavar="ROOM"),
    "morph": _option(Path | None, "Another room, into which this one goes over.", metavar="ROOM"),
    "amount": _option(float | None, "Share of the other room of --blend; half by default.", metavar="0..1"),
}
"""Those that say what the music is to be; the room decides the rest."""

WISHES = " ".join(SCENE)
DRAW = "seed guidance temperature top_k top_p"
DELIVERED = "loudness mono sample_rate fade_in fade_out stems stems_by musicxml project sign certificate"
HEARD = "strict track channel"
PLAYED_BY = "model adapter device download"


def taking(command: Callable[..., None], *names: str, **defaults: Any) -> Callable[..., None]:
    """A command that takes shared options beside its own.

    Args:
        command: with `**options`, which gets their values by name.
        names: of `OPTIONS` or `SCENE`, some in a text with spaces between them.
    """
    hints = get_type_hints(command, include_extras=True)
    own = inspect.signature(command).parameters.values()
    parameters = [p.replace(annotation=hints[p.name]) for p in own if p.kind is not p.VAR_KEYWORD]
    known = OPTIONS | SCENE
    for name in " ".join(names).split():
        annotation, default = known[name][0], defaults.get(name, known[name][1])
        (option,) = annotation.__metadata__
        # Without a name of its own a flag would get a twin, --no-flag.
        option.default = f"--{name.replace('_', '-')}" if option.default is ... else option.default
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        )
    command.__signature__ = inspect.Signature(parameters, return_annotation=None)  # type: ignore[attr-defined]
    return command


@contextmanager
def options_checked() -> Iterator[None]:
    """Settings made of options in this block are refused as wrong usage where they are out of range."""
    try:
        yield
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error


def sampling_of(options: Mapping[str, Any]) -> SamplingConfig:
    """How tokens are drawn."""
    return SamplingConfig(**{n: options[n] for n in SamplingConfig.__dataclass_fields__ if n in options})


def levels_of(loudness: Any) -> dict[str, float]:
    """Settings of a loudness option, which its parser made a pair, or left a number by default."""
    lufs, true_peak = loudness if isinstance(loudness, tuple) else (loudness, None)
    return {"lufs": lufs} | ({} if true_peak is None else {"true_peak": true_peak})


def delivery_of(options: Mapping[str, Any]) -> DeliveryConfig:
    """How music is written."""
    own = {name: options[name] for name in ("sample_rate", "mono", "fade_in", "fade_out")}
    return DeliveryConfig(**{**own, **levels_of(options["loudness"])})


def reading_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `audio.open_recording`, which counts from 0."""
    channel = options["channel"]
    own = {"track": options["track"] - 1, "channel": None if channel is None else channel - 1}
    return {"strict": options["strict"], **own}


def model_of(options: Mapping[str, Any]) -> LazyModel:
    """The model, which is loaded when it is first needed."""
    from silent2music.export.models import LazyModel

    adapters = options["adapter"] or ()
    return LazyModel(options["model"], options["device"], options.get("download", False), adapters)


def model_folder(model: Path | None, download: bool) -> Path:
    """The folder of the model that was named, from the hub only if that was asked for; the shipped one by default."""
    from silent2music.config import default_model
    from silent2music.hub import find_folder

    return default_model() if model is None else find_folder(model, "model", download)


def beside_of(options: Mapping[str, Any]) -> Beside:
    """What is asked for beside the music."""
    from silent2music.export.beside import Beside

    by = options["stems_by"]
    if by not in (None, "role", "part"):
        raise typer.BadParameter(f"--stems-by is '{by}'; expected role or part.")
    stems, project = by or ("auto" if options["stems"] else ""), options.get("project") or ""
    return Beside(stems, options.get("musicxml", False), project, signing_of(options))


def signing_of(options: Mapping[str, Any]) -> Signing | None:
    """By whom files are signed, if the options name both."""
    key, certificate = options["sign"], options["certificate"]
    if key is None and certificate is None:
        return None
    if key is None or certificate is None:
        raise typer.BadParameter(
            "a signature needs a key and its certificate; give --sign KEY --certificate CERT"
        )
    from silent2music.export.signing import Signing

    return Signing(key, certificate)
