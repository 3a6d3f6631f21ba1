"""The manifest of an ambience folder: what an engine's importer needs, in the shape of a schema that ships."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import silent2music
from silent2music import audio
from silent2music.errors import AudioError
from silent2music.export import provenance

MANIFEST = "manifest.json"
RECORD = "ambience.json"
"""In the folder of each room: its entry of the manifest, written last, so that it says that the room is complete."""

SCHEMA = Path(__file__).with_name("manifest.schema.json")
FORMAT = "silent2music-ambience"
VERSION = 2

LICENCE = {
    "music": "yours: silent2music claims no rights in what it makes",
    "model": "Apache-2.0",
}


def schema() -> dict[str, Any]:
    """The JSON schema of the manifest (draft 2020-12)."""
    loaded: dict[str, Any] = json.loads(SCHEMA.read_text(encoding="utf-8"))
    return loaded


def check_manifest(manifest: Mapping[str, Any]) -> None:
    """Check a manifest against its schema.

    Raises:
        AudioError: if it does not fit, with the place and the reason.
    """
    import jsonschema

    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema()).iter_errors(manifest))
    if error is not None:
        raise AudioError(f"The manifest does not fit its schema at {error.json_path}: {error.message}.")


def read_record(folder: Path) -> dict[str, Any] | None:
    """The entry of a room's folder, None if there is none.

    Raises:
        AudioError: if it is no JSON.
    """
    path = folder / RECORD
    if not path.exists():
        return None
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AudioError(f"{path} cannot be read ({error}); remove its folder and make it again.") from error
    if not isinstance(entry, dict):
        raise AudioError(f"{path} is no record of a room; remove its folder and make it again.")
    return entry


def write_manifest(out: Path, failures: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Write `manifest.json` from the records of all rooms below `out`, checked.

    Args:
        out: the folder.
        failures: `file` and `reason` of recordings that gave nothing in this run.

    Raises:
        AudioError: if it cannot be written, or a record does not fit the schema.
    """
    folders = sorted(path.parent for path in out.rglob(RECORD) if not _hidden(path.relative_to(out)))
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "generator": f"silent2music {silent2music.__version__}",
        "rooms": [read_record(folder) for folder in folders],
        "failures": [dict(f) for f in failures],
    }
    check_manifest(manifest)
    with audio.atomic_path(out / MANIFEST, force=True) as path:
        path.write_text(provenance.to_text(manifest), encoding="utf-8")
    return manifest


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
