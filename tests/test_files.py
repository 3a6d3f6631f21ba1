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


# ---- one command on a folder ----


def test_a_folder_is_held_by_one_command_and_left_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with files.claimed(out):
        with (
            pytest.raises(AudioError, match="out is being written by another command; wait"),
            files.claimed(out),
        ):
            pass
        with files.locked(out):  # for a moment, by the one that holds it
            pass
    assert list(tmp_path.iterdir()) == []
    with files.claimed(out):
        (out / "made.wav").touch()
    assert [path.name for path in out.iterdir()] == ["made.wav"]


def test_processes_of_a_launcher_share_a_folder_that_no_other_command_may_have(tmp_path: Path) -> None:
    with files.claimed(tmp_path, 0, 2), files.claimed(tmp_path, 1, 2):
        for share in ((0, 1), (1, 2), (2, 3)):
            with pytest.raises(AudioError, match="another command"), files.claimed(tmp_path, *share):
                pass
    with files.claimed(tmp_path), pytest.raises(AudioError, match="another"), files.claimed(tmp_path, 1, 2):
        pass
    assert list(tmp_path.iterdir()) == []


HOLD = """
import sys, time
from pathlib import Path
from silent2music.files import atomic_path, claimed
with claimed(Path(sys.argv[1])), atomic_path(Path(sys.argv[1]) / "a.wav") as temporary:
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_process_holds_nothing_and_what_it_left_is_removed(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    with pytest.raises(AudioError, match="another command"), files.claimed(tmp_path):
        pass
    files.remove_leavings(tmp_path)
    assert len(list(tmp_path.glob(".s2m-*.wav"))) == 1, "what is still being written stays"
    holder.kill()
    holder.communicate()
    for name in (".s2m-abcdef-1-abcdef-other_machine.wav", ".s2m-notes.txt", "mine.wav"):
        (tmp_path / name).touch()
    with files.claimed(tmp_path):
        files.remove_leavings(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        ".s2m-abcdef-1-abcdef-other_machine.wav",
        ".s2m-notes.txt",
        "mine.wav",
    }
    with files.claimed(tmp_path):
        files.remove_leavings(tmp_path, alone=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.wav"]
    files.remove_leavings(tmp_path / "missing")


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with (
        pytest.raises(AudioError, match=r"out cannot be written \(a file is in its way\)"),
        files.claimed(tmp_path / "out"),
    ):
        pass


# ---- together or not at all ----


@pytest.mark.parametrize("failure", [PermissionError(13, "Permission denied"), KeyboardInterrupt()])
def test_files_come_to_their_places_together_or_not_at_all(
    failure: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def held(self: Path, target: Path) -> Path:
        if Path(target).name == "second":
            raise failure
        return replace(self, target)

    def write(force: bool = False) -> None:
        with files.atomic_paths(tmp_path / "first", tmp_path / "second", force=force) as written:
            for path in written:
                path.write_text("new")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", held)
        with pytest.raises((AudioError, KeyboardInterrupt)):
            write()
    assert list(tmp_path.iterdir()) == []
    write()
    with pytest.raises(AudioError, match="first exists already"):
        write()
    write(force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


def test_a_folder_takes_its_place_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "sub" / "room"
    with pytest.raises(OSError, match="mine"), files.atomic_folder(folder):
        raise OSError("mine")
    assert list(tmp_path.iterdir()) == []
    for text in ("old", "new"):
        with files.atomic_folder(folder) as temporary:
            (temporary / "a.txt").write_text(text)
    assert (folder / "a.txt").read_text() == "new"
    replace = Path.replace

    def held(self: Path, target: Path) -> Path:
        if Path(target) == folder and (self / "a.txt").read_text() == "newer":
            raise PermissionError(13, "Permission denied")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", held)
    with pytest.raises(PermissionError), files.atomic_folder(folder) as temporary:
        (temporary / "a.txt").write_text("newer")
    assert (folder / "a.txt").read_text() == "new", "the old one is back"
    assert list(folder.parent.iterdir()) == [folder]


def test_names_that_are_too_long_are_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="cannot be written"), files.atomic_path(tmp_path / ("a" * 300)):
        pass
