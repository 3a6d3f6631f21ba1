"""The folders of an ambience job: which are complete, how one comes to its place, and the manifest of all of them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import silent2music
from silent2music.errors import AudioError
from silent2music.export import provenance
from silent2music.export.batch import LOOPS_RECORD, Job, Outcome
from silent2music.files import atomic_path

MANIFEST = "manifest.json"
SCHEMA = Path(__file__).with_name("manifest.schema.json")
"""JSON schema (draft 2020-12) of the manifest, for whoever reads it."""

FORMAT = "silent2music-ambience"
VERSION = 2


def partial_folder(folder: Path) -> Path:
    """Where a folder is made before it is moved to its place."""
    return folder.with_name(f".{folder.name}.partial")


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a room's folder, which is its entry in the manifest.

    Raises:
        AudioError: if the folder has none, or it cannot be read.
    """
    path = folder / LOOPS_RECORD
    if not path.exists():
        raise AudioError(f"{folder} exists already and is no folder of s2m ambience; move it away.")
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AudioError(f"{path} cannot be read ({error}); remove its folder and make it again.") from error
    if not isinstance(entry, dict):
        raise AudioError(f"{path} is no record of a room; remove its folder and make it again.")
    return entry


def complete_record(job: Job, origin: Mapping[str, Any], force: bool) -> dict[str, Any] | None:
    """The record of a room's folder if it is there, whole and made in the same way; None if it is to be made.

    Args:
        job: the room and its folder.
        origin: all that decides the bytes of its files.
        force: make it anew whatever is there.

    Raises:
        AudioError: if something else is there.
    """
    if not job.out.exists():
        return None
    entry = read_record(job.out)
    if force:
        names = {f["file"] for f in entry["files"]} | {LOOPS_RECORD}
        foreign = sorted(p.name for p in job.out.iterdir() if p.name not in names)
        if foreign:
            raise AudioError(
                f"{job.out / foreign[0]} is no file of s2m ambience; move it away before --force."
            )
        return None
    made_of = {
        "input_sha256": entry["input"]["sha256"],
        "model_sha256": entry["model"]["sha256"],
        **{name: entry[name] for name in ("seed", "settings", "versions")},
    }
    if made_of != origin:
        raise AudioError(
            f"{job.out} was made of another recording, or with other settings; give --force to replace it."
        )
    for file in entry["files"]:
        path = job.out / file["file"]
        if not path.exists() or provenance.sha256(path) != file["sha256"]:
            raise AudioError(f"{path} is missing or was changed; give --force to make its folder again.")
    return entry


def move_into_place(partial: Path, folder: Path) -> None:
    """Put a complete folder in its place, in one step where there was none."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.replace(old)
    partial.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def check_writable(out: Path) -> None:
    """Refuse a folder that cannot be written, before anything is made.

    Raises:
        AudioError: if so.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".s2m-", dir=out)
        os.close(handle)
        Path(name).unlink()
    except OSError as error:
        raise AudioError(f"{out} cannot be written ({error.strerror}); choose another folder.") from error


def write_manifest(out: Path, outcomes: Sequence[Outcome], planned: Collection[str]) -> dict[str, Any]:
    """Write `manifest.json` from the records of all rooms below `out`, under its lock.

    Of several processes each writes it when it has done its share, so that the last one's is complete. What the
    others said of failures in their shares stays.

    Args:
        out: the folder.
        outcomes: of this process.
        planned: names of the recordings of all processes.

    Raises:
        AudioError: if it cannot be written, or a record cannot be read.
    """
    path = out / MANIFEST
    failures = {}
    done = {outcome.name for outcome in outcomes}
    try:
        for failure in json.loads(path.read_text(encoding="utf-8"))["failures"]:
            if failure["file"] in planned and failure["file"] not in done:
                failures[failure["file"]] = failure["reason"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    failures |= {outcome.name: outcome.reason for outcome in outcomes if outcome.status == "failed"}
    records = sorted(
        found.parent
        for found in out.rglob(LOOPS_RECORD)
        if not any(part.startswith(".") for part in found.relative_to(out).parts)
    )
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "generator": f"silent2music {silent2music.__version__}",
        "rooms": [read_record(folder) for folder in records],
        "failures": [{"file": name, "reason": reason} for name, reason in sorted(failures.items())],
    }
    with atomic_path(path, force=True) as temporary:
        temporary.write_bytes(provenance.to_text(manifest).encode())
    return manifest
