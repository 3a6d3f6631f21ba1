"""How work is spread: one thread for torch's small steps, one that runs ahead, worker processes, a launcher's; its end.

Workers are spawned on every platform: a fork of a process that has run torch may wait for threads that it does
not have, and Windows cannot fork. What is sent to them must be picklable: functions of modules, no lambdas.
"""

from __future__ import annotations

import _thread
import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from itertools import islice
from multiprocessing.context import SpawnContext, SpawnProcess
from queue import SimpleQueue
from types import FrameType
from typing import Any, NoReturn, Protocol, TypeVar, cast

from silent2music.errors import ConfigError, S2MError

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""Environment variables that limit the threads of numerical libraries, read when these are imported."""

LAUNCHERS = (
    ("RANK", "WORLD_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
)
"""Where launchers say which process this is: torch's, Open MPI's, MPICH's and Intel's."""

ENDING_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
"""Names of the signals that ask a process to end: Ctrl-C, `kill`, a terminal that is closed, Ctrl-Break."""

RETRY_SECONDS = 0.05
"""A signal that comes while a module is imported is heard so much later, or after the import."""

Progress = Callable[[str, int, int], None]
"""Called with the name of what is being done, steps done and steps in all."""

StepProgress = Callable[[int, int], None]
"""Called with steps done and steps in all."""

Followed = TypeVar("Followed")


class Follower(Protocol):
    """Who follows commands from within the process that runs them."""

    def progress(self, name: str, done: int, total: int) -> None:
        """As `Progress`."""

    def music(
        self, pieces: Iterable[Followed], heard: Callable[[Iterator[Followed]], Iterator[Followed]]
    ) -> Iterator[Followed]:
        """The same pieces of music, each after what `heard` makes of it was listened to."""


follower: Follower | None = None
"""Set once by a process that runs commands for others."""

FractionProgress = Callable[[str, float], None]
"""Called with the name of what is being done and the fraction of it done."""

Item = TypeVar("Item")


def launched(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Which process this is, from 0, and of how many that a launcher started; (0, 1) without a launcher.

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
            return int(values[0]), int(values[1])
    return 0, 1


def share(items: Sequence[Item], environment: Mapping[str, str] = os.environ) -> Sequence[Item]:
    """The items of this process, every n-th of n that a launcher started; all of them without a launcher.

    Example:
        >>> share("abcdefg", {"RANK": "1", "WORLD_SIZE": "3"})
        'be'
    """
    index, count = launched(environment)
    return items[index::count]


class Interrupted(BaseException):
    """The process was asked to end; no `Exception`, so that nothing but the command line catches it."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the block a signal that ends the process raises `Interrupted`, so that temporary files are removed.

    What is ignored, as a closed terminal under `nohup`, stays so. Outside of the main thread nothing is changed.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ENDING_SIGNALS:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise `Interrupted`, or while a module is imported do so a little later, since an import may swallow it."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            again = threading.Timer(RETRY_SECONDS, _thread.interrupt_main, (number,))
            again.daemon = True
            again.start()
            return
        frame = frame.f_back
    raise Interrupted(signal.Signals(number).name)


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread, and afterwards on as many as before.

    The matrices of a decoding step are too small to be worth sharing, waiting threads starve busy machines, and what
    is computed must not depend on the number of cores.
    """
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def each_on_one_thread(items: Iterator[Item]) -> Iterator[Item]:
    """The items of an iterator, each computed under `one_thread`; the caller's setting holds between them."""
    while True:
        with one_thread():
            try:
                item = next(items)
            except StopIteration:
                return
        yield item


def release_memory() -> None:
    """Give freed memory back to the system, of which glibc keeps what lies between pieces that are in use.

    Worth it before something that takes much memory at once, and now and then only. Other C libraries are left alone.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def return_large_arrays() -> None:
    """Let glibc give arrays of 4 MiB or more back to the system whenever they are freed (`M_MMAP_THRESHOLD`, mallopt(3)).

    On its own it takes them from its heap before long, where they lie between what stays, so that ten minutes of music
    need more memory than one. Smaller arrays are too many: their pages would have to be cleared again and again. For a
    process that is one's own; other C libraries are left alone.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(-3, 4 << 20)


def run_ahead(items: Generator[Item, None, None], n_most: int, n_first: int = 0) -> Iterator[Item]:
    """The items of a generator, which runs in a thread of its own, up to `n_most` items ahead of who takes them.

    The first `n_first` are computed when they are taken, so that nothing else delays them. Worth it where the one who
    takes them computes without Python's lock. What the generator raises comes through, and the thread has ended when
    this iterator is closed or at its end.
    """
    import torch

    yield from islice(items, n_first)
    found: SimpleQueue[tuple[Item | None, BaseException | None]] = SimpleQueue()
    free, is_closed = threading.Semaphore(n_most), threading.Event()
    inference = torch.is_inference_mode_enabled()

    def run() -> None:
        error: BaseException | None = StopIteration()
        try:
            with torch.inference_mode(inference), one_thread(), closing(items):
                while free.acquire() and not is_closed.is_set():
                    found.put((next(items), None))
        except BaseException as raised:
            error = raised
        found.put((None, error))

    thread = threading.Thread(target=run, name="run_ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = found.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield cast(Item, item)
            free.release()
    finally:
        is_closed.set()
        free.release()
        thread.join()


class Pool:
    """Runs a function over jobs, in this process or in several worker processes; a context manager.

    Args:
        workers: processes; with one or less, everything runs in this process.
        start: called once in every worker, before its first job, for what all its jobs share (an open folder, a
            model). Its result is given to the function before each job. A function of a module.
        arguments: what `start` is called with.

    Example:
        >>> with Pool(1, dict, ([("a", 1)],)) as pool:
        ...     list(pool.map(dict.get, ["a", "b"]))
        [1, None]
    """

    def __init__(
        self, workers: int = 1, start: Callable[..., Any] | None = None, arguments: tuple[Any, ...] = ()
    ) -> None:
        self._workers, self._start, self._arguments = workers, start, arguments
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Pool:
        if self._workers > 1:
            # As bytes, so that a worker imports what they name (numpy, torch) after its threads are limited.
            sent = pickle.dumps((self._start, self._arguments))
            self._executor = ProcessPoolExecutor(self._workers, _Spawn(), _initialise, (sent,))
        return self

    def __exit__(self, *error: object) -> None:
        if self._executor is not None:
            if len(error) > 1 and not isinstance(error[1], Exception | None):
                for child in multiprocessing.active_children():
                    if isinstance(child, _Process):
                        child.terminate()  # jobs may take minutes
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def map(self, function: Callable[..., Any], jobs: Iterable[Any]) -> Iterator[Any]:
        """Yield the function's results in the order of the jobs, each as soon as it and those before it are ready.

        Args:
            function: of a module. Called with a job, after the result of `start` where there is one.
            jobs: taken a few at a time, so that a fault or an interrupt does not wait for thousands.

        Raises:
            S2MError: if a worker was killed. What the function raises comes through as it is.
        """
        if self._executor is None:
            shared = _shared(self._start, self._arguments) if self._start else ()
            return (function(*shared, job) for job in jobs)
        return self._in_flight(self._executor, function, iter(jobs))

    def _in_flight(
        self, executor: ProcessPoolExecutor, function: Callable[..., Any], jobs: Iterator[Any]
    ) -> Iterator[Any]:
        running: deque[Future[Any]] = deque()
        try:
            running.extend(executor.submit(_call, function, job) for job in islice(jobs, 4 * self._workers))
            while running:
                yield running.popleft().result()
                running.extend(executor.submit(_call, function, job) for job in islice(jobs, 1))
        except (BrokenProcessPool, _Ended) as error:
            raise S2MError(
                f"One of {self._workers} worker processes was killed, often for want of memory; "
                "run again with fewer workers."
            ) from error
        finally:
            for future in running:
                future.cancel()


class _Ended(SystemExit):
    """A worker was asked to end: its job, if it has one, removes what it has begun, and the process ends quietly."""


class _Process(SpawnProcess):
    """A worker process whose numerical libraries use one thread: the processes are the parallelism."""

    def start(self) -> None:
        """Start with the limits in the environment, which is as before afterwards."""
        before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
        try:
            super().start()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


class _Spawn(SpawnContext):
    """The spawn context of multiprocessing, with single-threaded workers."""

    Process = _Process


_sent = b""
_state: tuple[Any, ...] | None = None
_is_ended = False
"""What a worker was started with, what came of it, and whether it was asked to end; never set in the main process."""


def _initialise(sent: bytes) -> None:
    global _sent
    _sent = sent
    threading.Thread(target=_end_with_the_main_process, daemon=True).start()
    for name in ENDING_SIGNALS:
        if hasattr(signal, name):
            # Ctrl-C reaches all processes of a terminal; the main one tells its workers.
            signal.signal(getattr(signal, name), signal.SIG_IGN if name == "SIGINT" else _end)


def _end_with_the_main_process() -> None:
    """Wait for the main process: if it is killed, nobody else tells a worker, which would wait for jobs for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    global _is_ended
    _is_ended = True
    raise _Ended(128 + number)


def _call(function: Callable[..., Any], job: Any) -> Any:
    """A job in a worker. The first one calls `start`, whose errors so reach the main process as a job's do."""
    global _state
    if _is_ended:
        raise _Ended
    if _state is None:
        start, arguments = pickle.loads(_sent)
        _state = _shared(start, arguments) if start else ()
    return function(*_state, job)


def _shared(start: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return (start(*arguments),)
