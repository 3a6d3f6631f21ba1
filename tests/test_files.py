"""Files are whole or not there, and a folder's lock is held by one process at a time, where there are locks."""

from __future__ import annotations

import errno
import logging
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

from silent2music import files
from silent2music.errors import AudioError

ADD_ONE = """
import sys
from pathlib import Path
from silent2music.files import locked
counter = Path(sys.argv[1]) / "counter"
for _ in range(100):
    with locked(counter.parent):
        counter.write_text(str(int(counter.read_text()) + 1))
"""


def test_a_locked_folder_is_one_processs_at_a_time(tmp_path: Path) -> None:
    """Two processes that add one a hundred times lose none of them."""
    (tmp_path / "counter").write_text("0")
    command = [sys.executable, "-c", ADD_ONE, str(tmp_path)]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert (tmp_path / "counter").read_text() == "200"


@pytest.mark.parametrize(
    "failure",
    [OSError(errno.ENOLCK, "No locks available"), NotImplementedError("no flock")],
    ids=["no lock service", "no call"],
)
def test_without_locks_it_goes_on_and_says_so_once(
    failure: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(lock: filelock.BaseFileLock) -> None:
        raise failure

    monkeypatch.setattr(filelock.FileLock, "__enter__", refuse)
    n_entered = 0
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with files.locked(tmp_path):
                n_entered += 1
    assert n_entered == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path} is on a file system without locks; going on without, so let one process at a time write there."
    ]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(AudioError, match=r"cannot be written .*; choose another place"),
        files.locked(tmp_path / "file" / "folder"),
    ):
        pass


def test_what_fails_inside_is_not_taken_for_a_missing_lock(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="mine"), files.locked(tmp_path):
        raise OSError(errno.ENOLCK, "mine")
    with files.locked(tmp_path):  # and it was released
        pass


def test_an_existing_file_needs_force(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    path.write_text("mine")
    with pytest.raises(AudioError, match="exists already; give --force"), files.atomic_path(path):
        pass
    with files.atomic_path(path, force=True) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".json"
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
