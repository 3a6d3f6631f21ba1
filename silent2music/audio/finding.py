"""Sound files below a folder, and what is in their way."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from silent2music.audio.decoding import INSTALL
from silent2music.errors import AudioError

READABLE_SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64", ".opus"),
    *(".rf64", ".bwf", ".oga", ".mp2", ".aifc", ".snd"),
)
"""Suffixes that a folder is searched for; a file named by the user is tried whatever its suffix."""

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4a", ".mkv", ".webm", ".wma", ".aac", ".ac3", ".3gp", ".m4v")
"""As well, where PyAV is installed."""


@dataclass
class Found:
    """What a search of a folder came upon.

    Attributes:
        sounds: files by their suffix, sorted by path.
        faults: a sentence for each file or folder that cannot be read, by its path.
        loops: a sentence for each link that leads back to where it lies.
        others: files that were passed over because of their suffix.
    """

    sounds: list[Path] = field(default_factory=list)
    faults: dict[Path, str] = field(default_factory=dict)
    loops: list[str] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)


def find_audio(folder: Path) -> list[Path]:
    """The sound files below a folder, by suffix, sorted by path; see `search` for links and hidden files.

    Raises:
        AudioError: if there is none.
    """
    found = search(folder)
    if not found.sounds:
        raise no_audio(folder, found)
    return found.sounds


def no_audio(folder: Path, found: Found) -> AudioError:
    """What is to be said of a folder in which no sound was found."""
    if folder in found.faults:
        return AudioError(found.faults[folder])
    more = "" if find_spec("av") else f"; for {', '.join(VIDEO_SUFFIXES)} install PyAV with: {INSTALL}"
    return AudioError(f"{folder} holds no audio file; expected one of {', '.join(_suffixes())}{more}.")


def search(folder: Path) -> Found:
    """Look for sound files in a folder and in those below it; hidden ones are left out.

    Each folder is searched once: first those that lie here, then those that links lead to.
    """
    found, seen, suffixes = Found(), set[str](), _suffixes()
    waiting: deque[Path] = deque([folder])
    links: deque[Path] = deque()
    while waiting or links:
        directory = (waiting or links).popleft()
        real = os.path.realpath(directory)
        if real in seen:
            if _is_above(real, directory):
                found.loops.append(f"{directory} is a link to a folder that holds it; it was not followed.")
            continue
        seen.add(real)
        try:
            entries = sorted(path for path in directory.iterdir() if not path.name.startswith("."))
        except OSError as error:
            found.faults[directory] = (
                f"{directory} cannot be searched ({error.strerror}); check its permissions."
            )
            continue
        for path in entries:
            try:
                if path.is_dir():
                    (links if path.is_symlink() else waiting).append(path)
                elif path.suffix.lower() not in suffixes:
                    found.others.append(path)
                elif path.is_file():
                    found.sounds.append(path)
                else:
                    what = "a link to nothing" if path.is_symlink() else "a pipe or a device"
                    found.faults[path] = f"{path} is no file but {what}; mend or remove it."
            except OSError as error:
                found.faults[path] = f"{path} cannot be opened ({error.strerror}); check its permissions."
    found.sounds.sort()
    return found


def _is_above(real: str, link: Path) -> bool:
    """Whether a folder holds a link that leads to it, or was come through on the way there."""
    return any(os.path.realpath(folder) == real for folder in link.parents)


def _suffixes() -> tuple[str, ...]:
    return READABLE_SUFFIXES + (VIDEO_SUFFIXES if find_spec("av") else ())
