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
from typing import Any, Literal

from silent2music import audio
from silent2music.errors import AudioError, CheckpointError, ConfigError, S2MError, shown
from silent2music.files import atomic_path, locked, parse_json
from silent2music.processes import share

MUSIC_SUFFIX = ".music.wav"
"""`room.wav` becomes `room.music.wav`: what was made is never taken for a recording, nor overwrites one."""

MADE = re.compile(r"\.music(\.[^.]+)?$")
"""At the end of the names, without suffix, of music and its stems."""

LOOPS_RECORD = "ambience.json"
"""In each folder of loops, written last: it says that the folder is complete, and how it was made."""

TRANSITION_RECORD = "transition.json"
"""The same in each folder of a transition between two rooms."""

MUSIC_MANIFEST = "manifest.jsonl"

LOOPS_MANIFEST = "manifest.json"

MAX_NAME_BYTES = 254
"""The longest name of what is made: file systems have 255, and a record's suffix is one longer than its music's."""

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
        """The recording's path, written alike on every platform, in letters that any file may hold."""
        return printable(self.room.as_posix())


@dataclass(frozen=True)
class Outcome:
    """What became of a job: `record` says how its music was made, or `reason` why there is none."""

    job: Job
    status: Literal["made", "kept", "failed"]
    record: Mapping[str, Any] | None = None
    reason: str = ""


def take_number(take: int, count: int) -> str:
    """What stands in a file's name before its suffix: `.2` for take 1 of several, nothing for the only one."""
    return f".{take + 1}" if count > 1 else ""


def plan_jobs(rooms: Sequence[Path], seed: int, folder: Path, renamed: Callable[[Path], Path]) -> list[Job]:
    """What to make of the files and folders that were named, in the order given.

    A folder is searched for recordings; hidden files and what this program made are left out. A file named by itself
    gets `seed`; one found in a folder gets a seed from `seed` and its relative path, so that it does not depend on
    what else lies there. What cannot be made is there as a job that is refused: of two recordings whose music would
    meet in one place, also where that is so only on a file system that compares names without case, the second; a name
    that cannot be written down, or is too long; what cannot be read; and a folder without recordings.

    Args:
        rooms: files and folders; what is named twice is made once.
        folder: of all that is made; the trees of folders are mirrored below it.
        renamed: from a recording's path, relative to the folder that was named, to that of what is made of it.
    """
    jobs: list[Job] = []
    taken: dict[str, Path] = {}
    named: set[tuple[Path, str]] = set()
    for room in rooms:
        is_folder = room.is_dir()
        found = _found_below(room) if is_folder else audio.Found([room])
        for path, reason in found.faults.items():
            label = path.relative_to(room).as_posix() if path != room else room.name
            jobs.append(Job(path, folder, seed, printable(label), path != room, reason))
        for path in found.sounds:
            relative = path.relative_to(room) if is_folder else Path(path.name)
            out = folder / portable(renamed(relative))
            place = unicodedata.normalize("NFC", str(out.absolute())).casefold()
            if (path, place) in named:
                continue
            named.add((path, place))
            other = taken.setdefault(place, path)
            label = printable(relative.as_posix())
            own_seed = hashed_seed(seed, label) if is_folder else seed
            reason = _name_fault(path, relative, out)
            if not reason and other != path:
                reason = f"{path} and {other} would both be written to {out}; rename one of them."
            jobs.append(Job(path, out, own_seed, label, is_folder, reason))
    return jobs


def _name_fault(path: Path, relative: Path, out: Path) -> str:
    """Why a recording's name does not serve for what is made of it; nothing if it does."""
    if printable(str(relative)) != str(relative):
        return f"{printable(str(path))} has a name that is not Unicode; rename it."
    if max(len(os.fsencode(part)) for part in out.parts[-len(relative.parts) :]) > MAX_NAME_BYTES:
        return f"{path} has a name that is too long for what is made of it; give it a shorter one."
    return ""


def passed_over(rooms: Sequence[Path]) -> list[str]:
    """Sentences on what lies beside recordings: files of other suffixes, and links that lead back.

    What is wrong with a folder without any recording is said by its job.
    """
    sentences: list[str] = []
    others: list[Path] = []
    for found in (audio.search(room) for room in rooms if room.is_dir()):
        if found.sounds:
            sentences += found.loops
            others += [path for path in found.others if not _is_made(path)]
    if others:
        suffixes = sorted({printable(path.suffix.lower()) or "none" for path in others})
        some = ", ".join(suffixes[:8]) + (", ..." if len(suffixes) > 8 else "")
        what = ("file was", "its") if len(others) == 1 else ("files were", "their")
        sentences.append(f"{len(others)} {what[0]} passed over because of {what[1]} suffix ({some}).")
    return sentences


def _found_below(folder: Path) -> audio.Found:
    """What a folder holds, without music and loops that were made; to have no recording is a fault."""
    found = audio.search(folder)
    own = [path for path in found.sounds if not _is_made(path)]
    if not found.sounds and not found.faults:
        found.faults[folder] = str(audio.no_audio(folder, found))
    elif not own and not found.faults:
        found.faults[folder] = (
            f"{folder} holds only hidden files and music that silent2music made; expected recordings of rooms."
        )
    return dataclasses.replace(found, sounds=own)


def _is_made(path: Path) -> bool:
    """Whether a file, by its name and place, is music, loops, or a record of them."""
    if path.name in (MUSIC_MANIFEST, LOOPS_MANIFEST) or any(
        path.with_name(record).exists() for record in (LOOPS_RECORD, TRANSITION_RECORD)
    ):
        return True
    return MADE.search(path.stem) is not None


def printable(text: str) -> str:
    """A text in letters that any file may hold; a name of another encoding than the system's has others.

    Example:
        >>> printable("caf\\udce9.wav")
        'caf\\\\udce9.wav'
    """
    return text.encode("utf-8", "backslashreplace").decode()


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


# ---- going through them ----


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
            except OSError as error:
                where = f": {shown(error.filename)}" if error.filename and error.strerror else ""
                reason = (
                    f"{job.room} gave nothing ({error.strerror or error}{where}); check its name and place."
                )
                outcome = Outcome(job, "failed", reason=reason)
        yield outcome


class Manifest:
    """A folder's `manifest.jsonl`: a line of JSON for each file below it, its path as `key`; the newest line counts.

    Lines are added under a lock, so that processes on one file system may share the file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / MUSIC_MANIFEST

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

    def add(self, key: str, entry: Mapping[str, Any]) -> None:
        """Note a file by its path below the folder, or by its label a recording that gave none; at once on disk.

        Raises:
            AudioError: if the manifest cannot be written.
        """
        line = json.dumps({"key": key, **entry}, ensure_ascii=False, allow_nan=False)
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
