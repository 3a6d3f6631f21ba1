"""The processes of `accelerate launch`, which wait for one another and tell what they did; one process without it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

from silent2music.export.batch import Worker, this_worker

T = TypeVar("T")

PATIENCE = timedelta(days=30)
"""How long a worker that has finished waits for the others."""


class Workers:
    """Which process this is among how many.

    Attributes:
        index: from 0; the first one writes what is common to all.
        count: how many there are.
    """

    def __init__(self) -> None:
        self._state: Any = None
        self.index, self.count = 0, 1
        if this_worker().count > 1:
            import torch
            from accelerate import PartialState

            self._state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
            self.index, self.count = self._state.process_index, self._state.num_processes

    @property
    def device(self) -> str | None:
        """The accelerator that this process was given, if any."""
        if self._state is None or self._state.device.type == "cpu":
            return None
        return str(self._state.device)

    @property
    def worker(self) -> Worker:
        """This process, as `batch.run` takes it."""
        return Worker(self.index, self.count)

    def gathered(self, items: Sequence[T]) -> list[T]:
        """The items of all processes, in each of them, once all have come here."""
        if self._state is None:
            return list(items)
        from accelerate.utils import gather_object

        return list(gather_object(list(items)))

    def wait(self) -> None:
        """Until all have come here."""
        if self._state is not None:
            self._state.wait_for_everyone()
