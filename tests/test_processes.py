"""The pool of worker processes: order, what workers share, threads, faults and killed workers."""

from __future__ import annotations

import importlib
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from silent2music.errors import DataError, S2MError
from silent2music.processes import (
    THREAD_VARIABLES,
    Interrupted,
    Pool,
    interruptible,
    release_memory,
    run_ahead,
)


def add(shared: list[int], job: int) -> int:
    shared.append(job)
    return shared[0] + job


def slow_first(job: int) -> int:
    import time

    time.sleep(0.2 if job == 0 else 0.0)
    return job


def refuse(job: int) -> int:
    if job == 3:
        raise DataError(f"{job} is not wanted; leave it out.")
    return job


def threads(job: str) -> str | None:
    return os.environ.get(job)


def die(job: int) -> None:
    os._exit(9)


def failing_start(sentence: str) -> None:
    raise DataError(sentence)


def test_what_runs_ahead_comes_in_order_and_waits_for_who_takes_it() -> None:
    begun, ended = [], []

    def numbers() -> Iterator[int]:
        try:
            for number in range(20):
                begun.append((number, threading.current_thread().name))
                yield number
            raise DataError("No more.")
        finally:
            ended.append(threading.current_thread().name)

    with pytest.raises(DataError, match="No more"):
        for expected, number in enumerate(run_ahead(numbers(), 3)):
            assert number == expected and len(begun) <= number + 3 + 1
    assert begun == [(number, "run_ahead") for number in range(20)] and ended == ["run_ahead"]
    taken = run_ahead(numbers(), 3)
    assert [next(taken), next(taken)] == [0, 1]
    taken.close()
    assert ended == ["run_ahead"] * 2 and "run_ahead" not in [t.name for t in threading.enumerate()]
    assert list(run_ahead((n for n in (1, 2)), 1)) == [1, 2]


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other C libraries keep nothing, or cannot be asked"
)
def test_memory_that_was_freed_between_what_is_in_use_is_given_back() -> None:
    held = [bytearray(100_000) for _ in range(2000)]
    del held[:-1]
    before = resident_mib()
    release_memory()
    assert resident_mib() < before - 100


LARGE_ARRAYS = """
import os, pathlib
from silent2music.processes import return_large_arrays

def left_mib():
    "What stays of 30 arrays of 6 MB once all but one that lies between them are freed."
    def resident():
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    before = resident()
    held = [b"x" * 6_000_000 for _ in range(30)]
    del held[:-1]
    return resident() - before

left_mib()  # from then on glibc takes such arrays from its heap
print(left_mib())
return_large_arrays()
print(left_mib())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of other C libraries nothing is asked")
def test_large_arrays_are_given_back_when_they_are_freed() -> None:
    run = subprocess.run(
        [sys.executable, "-c", LARGE_ARRAYS], capture_output=True, text=True, check=True, timeout=60
    )
    kept, returned = map(float, run.stdout.split())
    assert kept > 50.0 and returned < 10.0


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_come_in_the_order_of_the_jobs_with_what_workers_share(workers: int) -> None:
    with Pool(workers, list, ((100,),)) as pool:
        assert list(pool.map(add, range(23))) == [100 + job for job in range(23)]
        assert list(pool.map(add, [])) == []


def test_a_slow_job_does_not_lose_its_place() -> None:
    with Pool(2) as pool:
        assert list(pool.map(slow_first, range(12))) == list(range(12))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_fault_comes_through_and_the_jobs_after_it_are_not_all_taken(workers: int) -> None:
    jobs = iter(range(1000))
    with Pool(workers) as pool, pytest.raises(DataError, match="3 is not wanted"):
        list(pool.map(refuse, jobs))
    assert next(jobs) <= 4 * workers + 4


@pytest.mark.parametrize("workers", [1, 2])
def test_a_fault_at_the_start_of_a_worker_comes_through(workers: int) -> None:
    with (
        Pool(workers, failing_start, ("The folder is gone.",)) as pool,
        pytest.raises(DataError, match="The folder is gone"),
    ):
        list(pool.map(add, [1]))


def test_workers_have_one_thread_each_and_the_environment_is_left_alone(monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with Pool(2) as pool:
        results = pool.map(threads, THREAD_VARIABLES)
        assert next(results) == "1"
        assert os.environ["OMP_NUM_THREADS"] == "7"
        assert "MKL_NUM_THREADS" not in os.environ
        assert set(results) == {"1"}


def test_threads_are_limited_before_numpy_is_imported(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(
        "import os, sys\n"
        "assert 'numpy' not in sys.modules\n"
        "seen = os.environ.get('OMP_NUM_THREADS')\n"
        "import numpy\n"
        "def start():\n    return seen\n"
        "def work(shared, job):\n    return shared\n"
    )
    (tmp_path / "script.py").write_text(
        "from silent2music.processes import Pool\n"
        "if __name__ == '__main__':\n"
        "    import work\n"
        "    with Pool(2, work.start) as pool:\n"
        "        print(*pool.map(work.work, range(3)))\n"
    )
    root = Path(__file__).parent.parent
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{tmp_path}", "OMP_NUM_THREADS": "5"}
    command = [sys.executable, str(tmp_path / "script.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "1 1 1\n"


def test_a_killed_worker_is_told_in_one_sentence() -> None:
    with (
        Pool(2) as pool,
        pytest.raises(S2MError, match=r"One of 2 worker processes was killed.*fewer workers"),
    ):
        list(pool.map(die, range(5)))


def wait_for_ever(folder: str) -> None:
    import time

    try:
        (Path(folder) / f"{os.getpid()}").touch()
        time.sleep(600)
    finally:
        (Path(folder) / f"{os.getpid()}").unlink()


INTERRUPTED = """
import sys
import threading
import time
from collections.abc import Iterator
from test_processes import wait_for_ever
from silent2music.processes import Interrupted, Pool, interruptible, release_memory, run_ahead

if __name__ == "__main__":
    try:
        with interruptible(), Pool(2) as pool:
            list(pool.map(wait_for_ever, [sys.argv[1]] * 20))
    except Interrupted as signal:
        print(signal)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without telling them")
def test_a_pool_that_is_interrupted_ends_its_workers_who_clean_up(tmp_path: Path) -> None:
    root, folder = Path(__file__).parent.parent, tmp_path / "marks"
    folder.mkdir()
    (tmp_path / "script.py").write_text(INTERRUPTED)
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"}
    command = [sys.executable, str(tmp_path / "script.py"), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    while len(list(folder.iterdir())) < 2 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    printed, said = process.communicate(timeout=120)
    assert (printed, said) == (b"SIGTERM\n", b"")
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="os.kill with 0 ends a process on Windows")
def test_workers_do_not_outlive_a_killed_main_process() -> None:
    program = (
        "import os, time\n"
        "from silent2music.processes import Pool\n"
        "if __name__ == '__main__':\n"
        "    with Pool(2) as pool:\n"
        "        print(*pool.map(eval, ['__import__(\"os\").getpid()']), flush=True)\n"
        "        time.sleep(100)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    process.kill()
    process.wait()
    for _ in range(400):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    else:
        raise AssertionError("the worker is still there")
    process.stdout.close()


def test_what_is_ignored_stays_ignored_and_handlers_come_back() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Shells start jobs in the background with SIGINT ignored.
    mine, own = signal.default_int_handler, signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with interruptible():
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
            with pytest.raises(Interrupted, match="SIGINT"):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == mine
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, own)


def test_a_signal_in_an_import_ends_the_block_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raised within an import it may be swallowed, as in the callback that forgets the module's lock."""
    (tmp_path / "slow_to_import.py").write_text(
        "import signal\nsignal.raise_signal(signal.SIGINT)\nDONE = True\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    imported, own = None, signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(Interrupted, match="SIGINT"), interruptible():
            imported = importlib.import_module("slow_to_import")
            time.sleep(20)
    finally:
        signal.signal(signal.SIGINT, own)
    assert imported is not None and imported.DONE
