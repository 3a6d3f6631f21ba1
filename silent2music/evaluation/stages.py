"""Stages of a benchmark: one function over many jobs in several processes, with progress and timing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from silent2music.processes import Pool, Progress

Input = TypeVar("Input")
Found = TypeVar("Found")

log = logging.getLogger(__name__)


class Stages:
    """Runs stage after stage; a context manager.

    What a stage took goes to the log and never into a report, which holds only what comes out again.

    Args:
        workers: processes; with one, everything runs in this one. The result does not depend on their number.
    """

    def __init__(self, workers: int = 1, tell: Progress | None = None) -> None:
        self._pool = Pool(workers)
        self._tell = tell or (lambda stage, done, total: None)

    def __enter__(self) -> Stages:
        self._pool.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.__exit__(*error)

    def run(self, name: str, function: Callable[[Input], Found], jobs: Sequence[Input]) -> list[Found]:
        """The function's results in the order of the jobs.

        Args:
            function: of a module, so that another process finds it.
        """
        start = time.perf_counter()
        found: list[Found] = []
        for result in self._pool.map(function, jobs):
            found.append(result)
            self._tell(name, len(found), len(jobs))
        if jobs:
            log.info("%s: %d in %.1f s", name, len(jobs), time.perf_counter() - start)
        return found
