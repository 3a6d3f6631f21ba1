"""Which command a choice on the page is: pure functions from what the page holds to words of the command line."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from silent2music.controls import STYLES
from silent2music.keys import PITCH_NAMES
from silent2music.notation import INSTRUMENT_NAMES
from silent2music.traits import ENDINGS

MOOD_FILE = "mood.csv"

METRES = ("2/4", "3/4", "4/4", "5/4", "6/8", "7/4", "9/8", "12/8")


@dataclass(frozen=True)
class Knob:
    """One control of the page, and the option that it is.

    Attributes:
        name: of the wish and, with `--` before it, of the option.
        label: on the page.
        group: heading under which it stands.
        kind: `range`, `choice`, `chips`, `text` or `file`.
        low, high, step, unit: of a range.
        choices: of a choice, or proposals for chips.
        hint: what it does, in a few words.
        draws: whether it says how the model draws, so that it holds for a model that composes nothing, too.
    """

    name: str
    label: str
    group: str
    kind: str
    low: float = 0.0
    high: float = 1.0
    step: float = 0.05
    unit: str = ""
    choices: Sequence[str] = ()
    hint: str = ""
    draws: bool = False


_KEYS = tuple(f"{tonic} {mode}" for mode in ("major", "minor") for tonic in PITCH_NAMES)
_DRAW = "How it is drawn"

KNOBS = (
    Knob("prompt", "Words", "Words", "text", hint="What it is to be, in words"),
    Knob("tempo", "Tempo", "Time", "range", 30, 300, 1, "bpm"),
    Knob("metre", "Metre", "Time", "choice", choices=METRES),
    Knob("swing", "Swing", "Time", "range", hint="of a grid: give a tempo too"),
    Knob("loose", "Loose", "Time", "range", hint="of a grid: give a tempo too"),
    Knob("ending", "Ending", "Time", "choice", choices=tuple(ENDINGS)),
    Knob("key", "Key", "Harmony", "choice", choices=_KEYS),
    Knob("chords", "Chords", "Harmony", "text", hint="Am F C G, a bar each"),
    Knob("style", "Style", "Sound", "choice", choices=tuple(STYLES)),
    Knob("instruments", "Instruments", "Sound", "chips", choices=INSTRUMENT_NAMES, hint="only these play"),
    Knob("without", "Without", "Sound", "chips", choices=INSTRUMENT_NAMES, hint="none of these plays"),
    Knob("density", "Density", "Sound", "range", hint="0.5 is 3.5 notes a second, 1 is 19"),
    Knob("dynamics", "Dynamics", "Sound", "range", hint="how far loudness follows the room"),
    Knob("melody", "Melody", "Files", "file", hint="a MIDI file, set to the room note for note"),
    Knob("blend", "Blend with", "Files", "file", hint="another room, mixed in throughout"),
    Knob("morph", "Go over into", "Files", "file", hint="another room, at the end"),
    Knob("amount", "Share of the other", "Files", "range", hint="of the room that is blended in"),
    Knob("guidance", "Follow the room", _DRAW, "range", 1, 4, 0.05, draws=True),
    Knob("score-guidance", "Follow the score", _DRAW, "range", 1, 4, 0.05),
    Knob("adherence", "Keep to the score", _DRAW, "range", 0, 16, 0.5),
    Knob("temperature", "Boldness", _DRAW, "range", 0, 1.5, 0.05, draws=True),
)
"""In the order of the page. A knob whose option the command line lacks is left out."""

OF_PERFORMANCE = ("guidance", "score-guidance", "adherence", "temperature")


def number(value: object) -> str:
    """A number as it is typed.

    Example:
        >>> number(96.0), number(0.30000000000000004), number(-0.5)
        ('96', '0.3', '-0.5')
    """
    value = float(str(value))
    if not math.isfinite(value):
        raise ValueError(f"{value} is no number")
    return f"{value:.4f}".rstrip("0").rstrip(".")


def option(name: str, value: str) -> list[str]:
    """An option with its value, in one word where the value could be taken for an option."""
    return [f"--{name}={value}"] if value.startswith("-") else [f"--{name}", value]


def wish_words(
    wishes: Mapping[str, Any], known: frozenset[str], only: Sequence[str] | None = None
) -> list[str]:
    """Options of all wishes that a command has.

    Args:
        wishes: by name of the knob; `mood` is a pair, `curve` points of seconds, valence and arousal, and `cues` pairs of
            seconds and names.
        known: options of the command, such as `--tempo`.
        only: names of the knobs that count; by default all.
    """
    words: list[str] = []
    for knob in KNOBS:
        value = wishes.get(knob.name)
        if (
            value in (None, "", [])
            or f"--{knob.name}" not in known
            or (only is not None and knob.name not in only)
        ):
            continue
        if knob.kind == "range":
            text = number(value)
        else:
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        words += option(knob.name, text)
    if only is not None or "--mood" not in known:
        return words
    if wishes.get("curve"):
        words += ["--mood-curve", MOOD_FILE]
    elif wishes.get("mood"):
        words += option("mood", ",".join(map(number, wishes["mood"])))
    for seconds, name in wishes.get("cues") or ():
        words += option("cue", f"{number(seconds)}={name}" if name else number(seconds))
    return words


def curve_text(points: Sequence[Sequence[float]]) -> str:
    """The CSV file of a mood curve."""
    rows = [",".join(map(number, point)) for point in sorted(points, key=lambda point: point[0])]
    return "\n".join(["seconds,valence,arousal", *rows]) + "\n"


def shown(words: Sequence[str], folder: Path) -> str:
    """A command as it is pasted into a shell, which starts where the page's folder is."""
    return f"cd {shlex.quote(str(folder))}\ns2m {shlex.join(words)}"
