"""Jobs on many recordings: which to process, where to write, each process's share, and the folder's manifest.

The processes of a launcher (`accelerate launch`, `torchrun`, MPI) never wait for one another: each takes every
n-th recording and adds to the same manifest, so that a process that dies loses its own unfinished recording and no
more, and the same command goes on from there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from silent2music import audio
from silent2music.errors import AudioError, CheckpointError, ConfigError, S2MError
from silent2music.files import atomic_path, locked, parse_json

T = TypeVar("T")

Progress = Callable[[str, int, int], None]
"""Called with a recording's name, steps done and steps in all."""

MUSIC_SUFFIX = ".music.wav"
"""`room.wav` becomes `room.music.wav`: what was made is never taken for a recording, nor overwrites one."""

LOOPS_RECORD = "ambience.json"
"""In each folder of loops, written last: it says that the folder is complete, and how it was made."""

MANIFEST = "manifest.jsonl"

LAUNCHERS = (
    ("RANK", "WORLD_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
)
"""Where launchers say which process this is: torch's, Open MPI's, MPICH's and Intel's."""

WINDOWS_DEVICE = re.compile(r"^(?=(con|prn|aux|nul|com[1-9]|lpt[1-9])(\.|$))", re.IGNORECASE)
"""Before names that no file may have on Windows, whatever its suffix."""


@dataclass(frozen=True)
class Job:
    """One recording and what is to be made of it.

    Attributes:
        room: the recording.
        out: the file or the folder to make.
        seed: what the music is drawn from.
        label: the recording's name in records: relative to the folder it was found in, or its file name.
        found: in a folder; such a job is passed over where its music is there already.
        refused: why nothing can be made of it, for one that only stands for its failure.
    """

    room: Path
    out: Path
    seed: int
    label: str
    found: bool = False
    refused: str = ""

    @property
    def name(self) -> str:
        """The recording's path, written alike on every platform."""
        return self.room.as_posix()


@dataclass(frozen=True)
class Outcome:
    """What became of a job: `record` says how its music was made, or `reason` why there is none."""

    job: Job
    status: Literal["made", "kept", "failed"]
    record: Mapping[str, Any] | None = None
    reason: str = ""


def plan_jobs(rooms: Sequence[Path], seed: int, folder: Path, renamed: Callable[[Path], Path]) -> list[Job]:
    """What to make of the files and folders that were named, in the order given.

    A folder is searched for recordings; hidden files and what this program made are left out. A file named by itself
    gets `seed`; one found in a folder gets a seed from `seed` and its relative path, so that it does not depend on
    what else lies there. Of two recordings whose music would meet in one place, also where that is so only on a file
    system that compares names without case, the second is refused, and so is a folder without recordings.

    Args:
        rooms: files and folders; what is named twice is made once.
        seed: the base seed.
        folder: of all that is made; the trees of folders are mirrored below it.
        renamed: from a recording's path, relative to the folder that was named, to that of what is made of it.
    """
    jobs: list[Job] = []
    taken: dict[str, Path] = {}
    for room in rooms:
        try:
            found = _recordings_below(room) if room.is_dir() else [room]
        except AudioError as error:
            jobs.append(Job(room, folder, seed, room.name, refused=str(error)))
            continue
        for path in found:
            relative = path.relative_to(room) if room.is_dir() else Path(path.name)
            own_seed = hashed_seed(seed, relative.as_posix()) if room.is_dir() else seed
            out = folder / portable(renamed(relative))
            job = Job(path, out, own_seed, relative.as_posix(), room.is_dir())
            place = unicodedata.normalize("NFC", str(out.absolute())).casefold()
            other = taken.get(place)
            if other is None:
                taken[place] = path
                jobs.append(job)
            elif other != path:
                reason = f"{path} and {other} would both be written to {out}; rename one of them."
                jobs.append(dataclasses.replace(job, refused=reason))
    return jobs


def _recordings_below(folder: Path) -> list[Path]:
    """The recordings in a folder, without music and loops that were made.

    Raises:
        AudioError: if there is none.
    """
    made = MUSIC_SUFFIX.removesuffix(".wav")
    found = [
        path
        for path in audio.find_audio(folder)
        if not path.stem.endswith(made) and not path.with_name(LOOPS_RECORD).exists()
    ]
    if not found:
        raise AudioError(
            f"{folder} holds only hidden files and music that silent2music made; expected recordings of rooms."
        )
    return found


def hashed_seed(seed: int, name: object) -> int:
    """32 bits of a hash of a seed and a name: of a file in a folder its relative path, written alike everywhere."""
    return int.from_bytes(hashlib.sha256(f"{seed}\n{name}".encode()).digest()[:4], "big")


def portable(relative: Path) -> Path:
    """A relative path that can be made on every platform: reserved characters and names get underscores.

    Example:
        >>> portable(Path("a: hall./con.wav")).as_posix()
        'a_ hall_/_con.wav'
    """
    parts = [re.sub(r'[<>:"\\|?*\x00-\x1f]|[. ]+$', "_", part) for part in relative.parts]
    return Path(*(WINDOWS_DEVICE.sub("_", part) for part in parts))


# ---- shares ----


def share(items: Sequence[T], environment: Mapping[str, str] = os.environ) -> Sequence[T]:
    """The items of this process, every n-th of n that a launcher started; all of them without a launcher.

    Raises:
        ConfigError: if what the launcher says makes no sense.

    Example:
        >>> share("abcdefg", {"RANK": "1", "WORLD_SIZE": "3"})
        'be'
    """
    for index, count in LAUNCHERS:
        if index in environment and count in environment:
            values = environment[index], environment[count]
            if not all(value.isdecimal() for value in values) or int(values[0]) >= int(values[1]):
                raise ConfigError(
                    f"{index}={values[0]} and {count}={values[1]}; expected a process of so many."
                )
            return items[int(values[0]) :: int(values[1])]
    return items


def outcomes(jobs: Sequence[Job], make: Callable[[Job], Outcome]) -> Iterator[Outcome]:
    """What becomes of this process's share of jobs, one after another; a bad recording does not stop the rest.

    Raises:
        CheckpointError, ConfigError: if the model, the device or a setting is not usable at all.
    """
    for job in share(jobs):
        outcome = Outcome(job, "failed", reason=job.refused)
        if not job.refused:
            try:
                outcome = make(job)
            except (CheckpointError, ConfigError):
                raise
            except S2MError as error:
                outcome = Outcome(job, "failed", reason=str(error))
        yield outcome


class Manifest:
    """A folder's `manifest.jsonl`: a line of JSON for each file below it, its path as `key`; the newest line counts.

    Lines are added under a lock, so that processes on one file system may share the file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / MANIFEST

    def read(self) -> dict[str, dict[str, Any]]:
        """Entries by key; a line that a dying process left unfinished is passed over."""
        entries: dict[str, dict[str, Any]] = {}
        if self.path.is_file():
            for line in self.path.read_bytes().splitlines():
                try:
                    entry = parse_json(line)
                    if isinstance(entry["key"], str):
                        entries[entry["key"]] = entry
                except (ValueError, KeyError, TypeError):
                    continue
        return entries

    def add(self, made: Path, entry: Mapping[str, Any]) -> None:
        """Note a file below the folder, at once on disk.

        Raises:
            AudioError: if the manifest cannot be written.
        """
        values = {"key": made.relative_to(self.folder).as_posix(), **entry}
        line = json.dumps(values, ensure_ascii=False, allow_nan=False)
        with locked(self.folder):
            try:
                with self.path.open("a+b") as file:
                    file.seek(max(0, file.tell() - 1))
                    unfinished = file.read(1) not in (b"", b"\n")
                    file.write(b"\n" * unfinished + line.encode() + b"\n")
            except OSError as error:
                raise AudioError(
                    f"{self.path} cannot be written ({error.strerror}); choose another place."
                ) from error

    def tidy(self) -> dict[str, dict[str, Any]]:
        """Leave one line for each key, sorted, and return them all."""
        with locked(self.folder):
            entries = dict(sorted(self.read().items()))
            lines = (json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries.values())
            with atomic_path(self.path, force=True) as temporary:
                temporary.write_bytes("".join(lines).encode())
        return entries
