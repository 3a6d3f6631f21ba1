"""Files and folders that are written whole or not at all, what dead processes left of them, and locks of folders.

Small files are read here too, with care.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import platform
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from silent2music.errors import AudioError

log = logging.getLogger(__name__)

LOCK_NAME = ".s2m-lock"

_MACHINE = hashlib.sha256(platform.node().encode()).hexdigest()[:6]
_PROCESS = secrets.token_hex(3)
_TEMPORARY = re.compile(r"\.s2m-(?P<machine>[0-9a-f]{6})-(?P<pid>\d+)-(?P<process>[0-9a-f]{6})-.*", re.DOTALL)
"""Temporary names say whose they are, so that a later process knows those of a dead one."""

_NO_LOCKS = {
    getattr(errno, name)
    for name in ("ENOSYS", "ENOLCK", "ENOTSUP", "EOPNOTSUPP", "EINVAL")
    if hasattr(errno, name)
}
"""What file systems without locks answer, by platform."""

_without_lock: set[Path] = set()
"""Folders for which the warning about missing locks was given already."""


# ---- small files ----


SMALL_BYTES = 2**22
"""What a file of settings, or a record, has at most."""


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


# ---- whole or not at all ----


@contextmanager
def atomic_path(path: Path, force: bool = False) -> Iterator[Path]:
    """As `atomic_paths`, for one."""
    with atomic_paths(path, force=force) as (temporary,):
        yield temporary


def write_text(path: Path, text: str) -> None:
    """Write a text file, in UTF-8, in place of one that is there; errors as of `atomic_paths`."""
    with atomic_path(path, force=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def atomic_paths(*paths: Path, force: bool = False) -> Iterator[tuple[Path, ...]]:
    """Temporary neighbours of `paths` to write to, which come to their places together if the block ends well.

    They are renamed one right after the other, in order; if one cannot be, those before it are taken away again.
    If the block fails, nothing is left. What is written must be closed within the block: Windows renames no open
    file.

    Raises:
        AudioError: if one is no regular file, or exists and `force` is not set, or its folder cannot be written.
    """
    temporaries: list[Path] = []
    placed: list[Path] = []
    path = paths[0]
    try:
        for path in paths:
            if path.exists() and not path.is_file():
                kind = "a folder" if path.is_dir() else "no regular file"
                raise AudioError(f"{path} is {kind}; choose another name.")
            if not force and path.exists():
                raise AudioError(f"{path} exists already; give --force to replace it or choose another name.")
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=_prefix(), suffix=path.suffix, dir=path.parent)
            os.close(handle)
            temporaries.append(Path(name))
    except OSError as error:
        _remove(*temporaries)
        raise AudioError(f"{path} cannot be written ({error.strerror}); choose another place.") from error
    except BaseException:
        _remove(*temporaries)
        raise
    try:
        yield tuple(temporaries)
        for temporary in temporaries:
            temporary.chmod(0o644)  # mkstemp's files are their owner's alone; on Windows this changes nothing
        for path, temporary in zip(paths, temporaries, strict=True):
            if not path.exists():
                placed.append(path)
            temporary.replace(path)
        placed.clear()
    except OSError as error:
        raise AudioError(
            f"{path} cannot be written ({error.strerror or error}); nothing was left there."
        ) from error
    finally:
        _remove(*placed, *temporaries)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary neighbour of `folder` to fill, which takes its place if the block ends well; removed if not.

    A folder that is there is moved away right before, and removed right after. Folders above it that were made are
    removed again if they are left empty.

    Raises:
        AudioError, OSError: if it cannot be made or moved.
    """
    made = _make(folder.parent)
    temporary = Path(tempfile.mkdtemp(prefix=_prefix(), dir=folder.parent))
    old = temporary.with_name(f"{temporary.name}.old")
    try:
        yield temporary
        temporary.chmod(0o755)
        if folder.exists():
            folder.replace(old)
        try:
            temporary.replace(folder)
        except OSError:
            if old.exists():
                old.replace(folder)
            raise
    finally:
        _remove(temporary, old)
        _remove_empty(made)


def remove_leavings(folder: Path, alone: bool = False) -> None:
    """Remove temporary files and folders that dead processes left in a folder, not in those below it.

    Args:
        folder: may be missing.
        alone: the caller holds the folder, where nobody else writes: what other machines left goes too.
    """
    try:
        found = [path for path in folder.iterdir() if path.name.startswith(".s2m-")]
    except OSError:
        return
    for path in found:
        owner = _TEMPORARY.fullmatch(path.name)
        if owner is not None and _is_mine(owner):
            continue
        is_dead = owner and owner["machine"] == _MACHINE and not _is_running(int(owner["pid"]))
        if is_dead or (alone and not path.name.startswith(LOCK_NAME)):
            _remove(path)


def _prefix() -> str:
    return f".s2m-{_MACHINE}-{os.getpid()}-{_PROCESS}-"


def _is_mine(owner: re.Match[str]) -> bool:
    return (owner["machine"], int(owner["pid"]), owner["process"]) == (_MACHINE, os.getpid(), _PROCESS)


def _is_running(pid: int) -> bool:
    """Whether there is a process of this number, which another one than this may have had before."""
    if pid == os.getpid():
        return False  # asked of a file that is not this process's own
    if sys.platform == "win32":
        import ctypes

        kernel = ctypes.windll.kernel32
        handle = kernel.OpenProcess(0x0010_0000, False, pid)  # SYNCHRONIZE
        if not handle:
            return bool(kernel.GetLastError() == 5)  # ERROR_ACCESS_DENIED: there, and another user's
        ended = kernel.WaitForSingleObject(handle, 0) == 0
        kernel.CloseHandle(handle)
        return not ended
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def _remove(*paths: Path) -> None:
    """Remove files and folders, as far as that can be done."""
    for path in paths:
        with contextlib.suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


# ---- locks ----


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder` for a moment; other processes wait, here and on machines that share it.

    The folder is made if missing. On a file system without locks the block runs without one, which is said once for
    each folder.

    Raises:
        AudioError: if the folder cannot be written.
    """
    _make(folder)
    with _held(folder / LOCK_NAME):
        yield


@contextmanager
def claimed(folder: Path, index: int = 0, count: int = 1) -> Iterator[Callable[[], None]]:
    """Hold `folder` for as long as a command writes to it: another command on the same folder is refused.

    The folder is made if missing, and removed again if it is left empty. A killed process holds nothing. Yields a
    function that gives the claim up early: call it under `locked`, so that nobody looks in between.

    Args:
        index, count: this process is the `index`-th of `count` that share one command's work, and so the folder.

    Raises:
        AudioError: if another command holds the folder, or it cannot be written.
    """
    made = _make(folder)
    own = _claim_file(folder, index, count)
    with ExitStack() as stack:
        stack.callback(_remove_empty, made)
        claim = stack.enter_context(ExitStack())
        try:
            # Who looks for a claim, as `is_claimed` does among several, holds its file for a moment, under this lock.
            with locked(folder) if count > 1 else nullcontext():
                claim.enter_context(_held(own, timeout=0))
                for other in folder.glob(f"{LOCK_NAME}-*"):
                    if other != own and not other.name.endswith(f"-of-{count}"):
                        with _held(other, timeout=0):
                            pass
        except TimeoutError as error:
            raise AudioError(
                f"{folder} is being written by another command; wait until that one has ended, or choose another "
                "folder."
            ) from error
        yield claim.close


def is_claimed(folder: Path, index: int, count: int) -> bool:
    """Whether the `index`-th of `count` processes that share a command's work holds `folder` now, as by `claimed`.

    The caller holds the folder's lock.
    """
    try:
        with _held(_claim_file(folder, index, count), timeout=0):
            return False
    except TimeoutError:
        return True


def _claim_file(folder: Path, index: int, count: int) -> Path:
    return folder / f"{LOCK_NAME}-{index}-of-{count}"


def _make(folder: Path) -> list[Path]:
    """Make a folder and those above it; gives those that were missing, the deepest first."""
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise AudioError(
            f"{folder} cannot be written (a file is in its way); choose another place."
        ) from error
    except OSError as error:
        raise AudioError(f"{folder} cannot be written ({error.strerror}); choose another place.") from error
    return made


def _remove_empty(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


@contextmanager
def _held(path: Path, timeout: float = -1) -> Iterator[None]:
    """Hold a lock file, which is removed afterwards."""
    from filelock import FileLock

    lock = FileLock(path, timeout=timeout)
    with ExitStack() as stack:
        if os.name == "nt":
            stack.callback(_remove, path)  # in vain, and rightly, while another process has it open
        try:
            stack.enter_context(lock)
        except TimeoutError:
            raise
        except (OSError, NotImplementedError) as error:
            folder = path.parent
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
        else:
            if os.name != "nt":
                # While it is held: who waits for a file that is gone takes the lock of a new one.
                stack.callback(_remove, path)
        yield
