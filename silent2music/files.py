"""Files that are written whole or not at all, and a lock for a folder that several processes write to."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from silent2music.errors import AudioError

log = logging.getLogger(__name__)

LOCK_NAME = ".s2m-lock"

_NO_LOCKS = {
    getattr(errno, name) for name in ("ENOSYS", "ENOLCK", "ENOTSUP", "EOPNOTSUPP") if hasattr(errno, name)
}
"""What file systems without locks answer, by platform."""

_without_lock: set[Path] = set()
"""Folders for which the warning about missing locks was given already."""


@contextmanager
def atomic_path(path: Path, force: bool = False) -> Iterator[Path]:
    """A temporary neighbour of `path` to write to, renamed to `path` if the block ends well, removed if not.

    What is written must be closed within the block: Windows renames no open file.

    Raises:
        AudioError: if `path` is no regular file, or exists and `force` is not set, or its folder cannot be written.
    """
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "no regular file"
        raise AudioError(f"{path} is {kind}; choose another name.")
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
