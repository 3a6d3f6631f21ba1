"""Many files, one by one, by one process or by several: shares, what is done already, and the list of all of it.

The processes of a launcher (`accelerate launch`, `torchrun`, MPI) never wait for one another: each takes every
n-th item and adds to the same manifest, so that a process that dies loses its own unfinished item and no more,
and the same command goes on from there.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from silent2music.audio import atomic_path
from silent2music.errors import AudioError, CheckpointError, ConfigError, S2MError

T = TypeVar("T")
Entry = Mapping[str, Any]

MANIFEST = "manifest.jsonl"

LAUNCHERS = (
    ("RANK", "WORLD_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
)
"""Where launchers say which process this is: torch's, Open MPI's, MPICH's and Intel's."""


@dataclass(frozen=True)
class Worker:
    """One of `count` processes that share the work."""

    index: int = 0
    count: int = 1

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Every `count`-th item.

        Example:
            >>> Worker(1, 3).share("abcdefg")
            'be'
        """
        return items[self.index :: self.count]


def this_worker(environment: Mapping[str, str] = os.environ) -> Worker:
    """Which process this is, by the launcher's environment; the only one without a launcher.

    Raises:
        ConfigError: if what the launcher says makes no sense.
    """
    for index, count in LAUNCHERS:
        if index in environment and count in environment:
            values = environment[index], environment[count]
            if not all(value.isdecimal() for value in values) or int(values[0]) >= int(values[1]):
                raise ConfigError(
                    f"{index}={values[0]} and {count}={values[1]}; expected a process of so many."
                )
            return Worker(int(values[0]), int(values[1]))
    return Worker()


class Manifest:
    """A folder's `manifest.jsonl`: a line of JSON for each item, found by its `key`; the newest line counts.

    Lines are added under a lock, so that processes on one file system may share the file.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / MANIFEST

    def read(self) -> dict[str, dict[str, Any]]:
        """Entries by key; a line that a dying process left unfinished is passed over."""
        entries: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                    entries[entry["key"]] = entry
                except (ValueError, KeyError, TypeError):
                    continue
        return entries

    def add(self, key: str, entry: Entry) -> None:
        """Note an item, at once on disk.

        Raises:
            AudioError: if the file cannot be written.
        """
        line = json.dumps({"key": key, **entry}, ensure_ascii=False, allow_nan=False)
        with self._locked(), self.path.open("a+b") as file:
            if file.tell() and self._unfinished(file.tell()):
                file.write(b"\n")
            file.write(line.encode() + b"\n")

    def tidy(self) -> dict[str, dict[str, Any]]:
        """Leave one line for each key, sorted, and return them all."""
        with self._locked():
            entries = dict(sorted(self.read().items()))
            with atomic_path(self.path, force=True) as temporary:
                lines = (json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries.values())
                temporary.write_text("".join(lines), encoding="utf-8")
        return entries

    def _unfinished(self, size: int) -> bool:
        with self.path.open("rb") as file:
            file.seek(size - 1)
            return file.read(1) != b"\n"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold a lock on the folder, since the manifest itself is replaced."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX)
                yield
            finally:
                os.close(folder)
        except OSError as error:
            raise AudioError(
                f"{self.path} cannot be written ({error.strerror}); choose another place."
            ) from error


@dataclass(frozen=True)
class Outcome:
    """What became of an item: `entry` is its record, or `reason` the sentence that says why there is none."""

    key: str
    status: Literal["made", "skipped", "failed"]
    entry: Entry | None = None
    reason: str = ""


def run(
    items: Sequence[T],
    key: Callable[[T], str],
    made: Callable[[T], Entry | None],
    make: Callable[[T], Entry],
    manifest: Manifest | None = None,
    worker: Worker | None = None,
    noted: Callable[[Entry], Entry] = dict,
) -> Iterator[Outcome]:
    """Make a worker's share of the items; a bad one does not stop the rest.

    Args:
        items: all of them, in the same order in every process.
        key: names an item, unlike all others.
        made: the entry of an item that is whole already and need not be made, or None.
        make: makes an item, whole or not at all, and returns its entry.
        manifest: where entries and failures are noted.
        worker: this process, by default as the launcher says.
        noted: what of an entry the manifest keeps.

    Raises:
        CheckpointError, ConfigError: from `make`, as they would stop every item.
    """
    for item in (worker or this_worker()).share(items):
        name = key(item)
        try:
            entry = made(item)
            outcome = Outcome(
                name, "made" if entry is None else "skipped", make(item) if entry is None else entry
            )
        except (CheckpointError, ConfigError):
            raise
        except S2MError as error:
            outcome = Outcome(name, "failed", reason=str(error))
        if manifest is not None:
            manifest.add(name, noted(outcome.entry) if outcome.entry else {"error": outcome.reason})
        yield outcome


def summary(outcomes: Sequence[Outcome]) -> str:
    """How many were made, skipped and failed, in a line, and a line for each failure."""
    counts = ((status, sum(o.status == status for o in outcomes)) for status in ("made", "skipped", "failed"))
    lines = [", ".join(f"{n} {status}" for status, n in counts)]
    lines += [f"  {outcome.key}: {outcome.reason}" for outcome in outcomes if outcome.status == "failed"]
    return "\n".join(lines)
