"""Files that are written whole or not at all, and a lock for a folder that several processes write to."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from silent2music.errors import AudioError

log = logging.getLogger(__name__)

LOCK_NAME = ".s2m-lock"

_NO_LOCKS = {
    getattr(errno, name) for name in ("ENOSYS", "ENOLCK", "ENOTSUP", "EOPNOTSUPP") if hasattr(errno, name)
}
"""What file systems without locks answer, by platform."""

_without_lock: set[Path] = set()
"""Folders for which the warning about missing locks was given already."""


SMALL_BYTES = 2**22
"""What a file of settings, or a record, has at most."""


def read_small(path: Path, most: int = SMALL_BYTES) -> bytes:
    """The bytes of a regular file that is not large: never waits for a pipe, never reads a device.

    Raises:
        OSError: if it is none, or larger than `most`.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most // 2**20} MiB")
    return data


def read_json(path: Path) -> Any:
    """The value of a JSON file, as `parse_json` takes it.

    Raises:
        OSError: if it cannot be read, is no regular file or larger than 64 MiB.
        ValueError: if it is no JSON.
    """
    return parse_json(read_small(path, 2**26))


def parse_json(data: bytes) -> Any:
    """The value of a JSON text in UTF-8, with finite numbers, without lone surrogates.

    Raises:
        ValueError: if it is none, in words.
    """
    try:
        text = data.decode("utf-8-sig")
        value = json.loads(text, parse_constant=_refuse_constant)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # of a lone surrogate this is an error
    except (ValueError, RecursionError) as error:
        raise ValueError(malformed(error)) from error
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def malformed(error: Exception) -> str:
    """What is wrong with a text that could not be parsed."""
    if isinstance(error, UnicodeEncodeError):
        return "it holds half a character, a lone surrogate"
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 at byte {error.start}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return " ".join(str(error).split())


@contextmanager
def atomic_path(path: Path, force: bool = False) -> Iterator[Path]:
    """A temporary neighbour of `path` to write to, renamed to `path` if the block ends well, removed if not.

    What is written must be closed within the block: Windows renames no open file.

    Raises:
        AudioError: if `path` exists and `force` is not set, or its folder cannot be written.
    """
    if path.exists() and not force:
        raise AudioError(f"{path} exists already; give --force to replace it or choose another name.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".s2m-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise AudioError(f"{path} cannot be written ({error.strerror}); choose another place.") from error
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)  # mkstemp's files are their owner's alone; on Windows this changes nothing
        temporary.replace(path)
    except OSError as error:
        raise AudioError(
            f"{path} cannot be written ({error.strerror or error}); nothing was left there."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, made if missing; other processes wait, here and on machines that share it.

    The lock is a hidden file that stays, since removing it would let two processes hold two files of one name.
    On a file system without locks the block runs without one, which is said once for each folder.

    Raises:
        AudioError: if the folder cannot be written.
    """
    from filelock import FileLock

    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(folder / LOCK_NAME))
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise AudioError(
                    f"{folder} cannot be written ({error.strerror or error}); choose another place."
                ) from error
            if folder not in _without_lock:
                _without_lock.add(folder)
                log.warning(
                    "%s is on a file system without locks; going on without, so let one process at a time "
                    "write there.",
                    folder,
                )
        yield
