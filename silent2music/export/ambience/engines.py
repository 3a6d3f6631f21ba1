"""Import files for game engines and audio middleware, which read a folder's `manifest.json`.

Those of Unity, Godot, Unreal and FMOD are scripts that ship in `importers/` and are copied; Wwise imports a table.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from silent2music.errors import AudioError, ConfigError
from silent2music.files import atomic_folder

FOLDER = "engines"

IMPORTERS = Path(__file__).with_name("importers")

WWISE_ROOT = "\\Interactive Music Hierarchy\\Default Work Unit"

WWISE_COLUMNS = (
    "Audio File",
    "Object Path",
    "Object Type",
    "Notes",
    "Property[OverrideClockSettings]",
    "Property[Tempo]",
    "Property[TimeSignatureUpper]",
    "Property[TimeSignatureLower]",
)
"""Headers of Wwise's tab delimited import (Wwise Help, "Importing Media Files from Tab Delimited Text Files"); the
properties are those of a Music Segment in its object reference."""


def _copy(name: str) -> Callable[[Path, Mapping[str, Any]], None]:
    def write(folder: Path, manifest: Mapping[str, Any]) -> None:
        shutil.copytree(
            IMPORTERS / name, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
        )

    return write


def _godot(folder: Path, manifest: Mapping[str, Any]) -> None:
    """The plug-in, and the file that it imports, which changes with the manifest, so that Godot imports it anew."""
    _copy("godot")(folder, manifest)
    digest = hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
    named = json.dumps({"manifest": "../../manifest.json", "content_sha256": digest}) + "\n"
    (folder / "ambience.s2m").write_text(named, encoding="utf-8")


def _wwise(folder: Path, manifest: Mapping[str, Any]) -> None:
    (folder / "silent2music.tsv").write_bytes(wwise_table(manifest).encode())


ENGINES: Mapping[str, Callable[[Path, Mapping[str, Any]], None]] = {
    "unity": _copy("unity"),
    "godot": _godot,
    "unreal": _copy("unreal"),
    "wwise": _wwise,
    "fmod": _copy("fmod"),
}
"""What writes an engine's files into a folder, from the manifest."""


def check_engines(engines: Sequence[str]) -> None:
    """Refuse engines that there are no import files for.

    Raises:
        ConfigError: naming those that there are.
    """
    for name in engines:
        if name not in ENGINES:
            raise ConfigError(f"--engines has '{name}'; expected some of {', '.join(ENGINES)}.")


def write_engines(out: Path, manifest: Mapping[str, Any], engines: Sequence[str]) -> None:
    """Write the import files of engines, each whole or not at all, to `engines/NAME` below a folder.

    Raises:
        AudioError: if they cannot be written.
    """
    for name in engines:
        try:
            with atomic_folder(out / FOLDER / name) as folder:
                ENGINES[name](folder, manifest)
        except OSError as error:
            raise AudioError(
                f"{out / FOLDER / name} cannot be written ({error.strerror or error})."
            ) from error


def wwise_table(manifest: Mapping[str, Any]) -> str:
    """The table that Wwise imports: a playlist for each room, a segment for each variation and extra, tracks for layers.

    Paths are relative to the table, as Wwise takes them.
    """
    text = io.StringIO()
    table = csv.DictWriter(text, WWISE_COLUMNS, delimiter="\t", lineterminator="\r\n", restval="")
    table.writeheader()
    for room in manifest["rooms"]:
        table.writerows(_wwise_room(room))
    for transition in manifest["transitions"]:
        path = f"{WWISE_ROOT}\\<Music Playlist Container>transitions"
        for file in _first_format(transition["files"]):
            table.writerows(_wwise_extra(path, transition["folder"], file, {}))
    return text.getvalue()


def _wwise_room(room: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    grid, path = room["grid"], f"{WWISE_ROOT}\\<Music Playlist Container>{_wwise_name(room['folder'])}"
    clock: dict[str, Any] = {}
    if grid["bpm"] is not None:
        clock = {
            "Property[OverrideClockSettings]": "true",
            "Property[Tempo]": f"{grid['bpm']:.6g}",
            "Property[TimeSignatureUpper]": grid["beats_per_bar"],
            "Property[TimeSignatureLower]": 4,
        }
    segments: dict[str, list[Mapping[str, Any]]] = {}
    for file in room["files"]:
        if file["spatial"] == room["space"]["spatial"]:
            segments.setdefault(f"{room['name']}_{file['variation']}", []).append(file)
    for name, files in segments.items():
        segment = f"{path}\\<Music Segment>{_wwise_name(name)}"
        notes = f"{grid['bars']} bars, exit cue at {1000.0 * grid['seconds']:.3f} ms; play it endlessly."
        yield {"Object Path": segment, "Object Type": "Music Segment", "Notes": notes, **clock}
        for file in _first_format(files):
            yield _wwise_track(segment, file["layer"], room["folder"], file)
    for file in _first_format(room["extras"]):
        if file["spatial"] == room["space"]["spatial"]:
            yield from _wwise_extra(path, room["folder"], file, clock, grid["sample_rate"])


def _wwise_extra(
    path: str, folder: str, file: Mapping[str, Any], clock: Mapping[str, Any], rate: int = 48_000
) -> Iterator[dict[str, Any]]:
    segment = f"{path}\\<Music Segment>{_wwise_name(file['name'])}"
    entry, leave = (1000.0 * file[mark] / rate for mark in ("entry", "exit"))
    notes = f"{file['kind']}: entry cue at {entry:.3f} ms, exit cue at {leave:.3f} ms."
    yield {"Object Path": segment, "Object Type": "Music Segment", "Notes": notes, **clock}
    yield _wwise_track(segment, file["name"], folder, file)


def _wwise_track(segment: str, name: str, folder: str, file: Mapping[str, Any]) -> dict[str, Any]:
    audio = f"..\\..\\{folder}\\{file['file']}".replace("/", "\\")
    path = f"{segment}\\<Music Track>{_wwise_name(name)}"
    return {"Audio File": audio, "Object Path": path, "Object Type": "Music Track"}


def _first_format(files: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The WAV files, which are all that Wwise imports."""
    return (file for file in files if file["file"].endswith(".wav"))


def _wwise_name(name: str) -> str:
    """A name that Wwise takes: letters, digits and underscores."""
    return "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name)
