"""The folders of an ambience job: which rooms go where, which are complete, and how one comes to its place."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from silent2music import audio
from silent2music.errors import AudioError
from silent2music.export import provenance
from silent2music.export.infer import Failure, seed_for
from silent2music.export.manifest import RECORD, read_record


@dataclass(frozen=True)
class RoomJob:
    """One recording and the folder of its loops.

    Attributes:
        room: the recording.
        label: its path below the folder that was named, or its file name.
        folder: to make.
        seed: of its first variation.
    """

    room: Path
    label: str
    folder: Path
    seed: int

    @property
    def partial(self) -> Path:
        """Where the folder is made before it is moved to its place."""
        return self.folder.with_name(f".{self.folder.name}.partial")


def plan_rooms(rooms: Sequence[Path], out: Path, seed: int) -> tuple[list[RoomJob], list[Failure]]:
    """The recordings that were named, in order, and what cannot be made.

    A file named by itself gets `seed`; one found in a folder gets a seed from `seed` and its relative path. What
    lies in `out` is no recording.
    """
    jobs: list[RoomJob] = []
    failures: list[Failure] = []
    for room in rooms:
        try:
            found = audio.find_audio(room) if room.is_dir() else [room]
        except AudioError as error:
            failures.append(Failure(str(room), str(error)))
            continue
        for path in found:
            relative = path.relative_to(room) if room.is_dir() else Path(path.name)
            if room.is_dir() and out.resolve() in path.resolve().parents:
                continue
            own = seed_for(seed, relative) if room.is_dir() else seed
            jobs.append(RoomJob(path, relative.as_posix(), out / relative.with_suffix(""), own))
    taken: dict[Path, Path] = {}
    unique = []
    for job in jobs:
        other = taken.setdefault(job.folder, job.room)
        if other != job.room:
            reason = f"{job.room} and {other} would both be written to {job.folder}; rename one of them."
            failures.append(Failure(str(job.room), reason))
        elif job not in unique:
            unique.append(job)
    return unique, failures


def is_complete(job: RoomJob, origin: Mapping[str, Any], force: bool) -> bool:
    """Whether a room's folder is there, whole and made in the same way.

    Raises:
        AudioError: if something else is there.
    """
    if not job.folder.exists():
        return False
    entry = read_record(job.folder) if job.folder.is_dir() else None
    if entry is None:
        raise AudioError(f"{job.folder} exists already and is no folder of s2m ambience; move it away.")
    names = {f["file"] for f in entry["files"]} | {RECORD}
    foreign = sorted(p.name for p in job.folder.iterdir() if p.name not in names)
    if force and foreign:
        raise AudioError(
            f"{job.folder / foreign[0]} is no file of s2m ambience; move it away before --force."
        )
    if force:
        return False
    same = origin == {
        "input_sha256": entry["input"]["sha256"],
        "model_sha256": entry["model"]["sha256"],
        "seed": entry["seed"],
        "settings": entry["settings"],
        "versions": entry["versions"],
    }
    if not same:
        raise AudioError(
            f"{job.folder} was made of another recording, or with other settings; give --force to replace it."
        )
    for file in entry["files"]:
        path = job.folder / file["file"]
        if not path.exists() or provenance.sha256(path) != file["sha256"]:
            raise AudioError(f"{path} is missing or was changed; give --force to make its folder again.")
    return True


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
