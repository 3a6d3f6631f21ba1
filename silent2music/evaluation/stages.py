"""The stages of a benchmark: one function over many jobs, by several processes, told step by step and timed."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from typing import TypeVar

Job = TypeVar("Job")
Found = TypeVar("Found")

Progress = Callable[[str, int, int], None]
"""Is called with a stage, steps done and steps in all."""

THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

log = logging.getLogger(__name__)


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: its steps are too small to share, and the figures must not depend on the cores."""
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


@contextmanager
def process_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes of one thread each: several threads in each of them would wait for each other.

    They are spawned, not forked: a fork of one that has run torch may wait for threads that it does not have.
    """
    before = {name: os.environ.get(name) for name in THREAD_SETTINGS}
    os.environ.update(dict.fromkeys(THREAD_SETTINGS, "1"))
    try:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            yield pool
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Stages:
    """Runs stage after stage; a context manager.

    What a stage took goes to the log and never into a report, which holds only what comes out again.

    Args:
        workers: processes; with one, everything runs in this one. The result does not depend on their number.
        tell: called with the stage, steps done and steps in all.
    """

    def __init__(self, workers: int = 1, tell: Progress | None = None) -> None:
        self._workers = workers
        self._tell = tell or (lambda stage, done, total: None)
        self._stack = ExitStack()
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Stages:
        if self._workers > 1:
            self._pool = self._stack.enter_context(process_pool(self._workers))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        self._pool = None

    def run(self, name: str, function: Callable[[Job], Found], jobs: Sequence[Job]) -> list[Found]:
        """The function's results in the order of the jobs.

        Args:
            name: of the stage.
            function: of a module, so that another process finds it.
            jobs: what it is called with.
        """
        start = time.perf_counter()
        found: list[Found] = []
        for result in map(function, jobs) if self._pool is None else self._pool.map(function, jobs):
            found.append(result)
            self._tell(name, len(found), len(jobs))
        if jobs:
            log.info("%s: %d in %.1f s", name, len(jobs), time.perf_counter() - start)
        return found
