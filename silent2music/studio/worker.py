"""A process that stays warm and runs commands of the command line, one after another, with their progress and sound.

A command runs there just as in a shell: the same arguments, the same files, the same sentences. What a shell does not
have: the model stays loaded, the music is heard while it is made, and a command can be cancelled, which is Ctrl-C.
"""

from __future__ import annotations

import _thread
import contextlib
import io
import itertools
import multiprocessing
import os
import queue
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from silent2music.audio import Waveform

Command = Callable[[Sequence[str]], None]
"""Runs words of a command line in this process and raises `SystemExit` where they fail."""

PATIENCE_SECONDS = 1.5
"""A cancelled command that has not ended by then is ended with its process."""

TELL_SECONDS = 0.1
"""Progress is told no more often."""


@dataclass(eq=False)
class Job:
    """One command, from when it was asked for.

    Attributes:
        words: of the command line.
        folder: in which it runs.
        live: whether it takes sound while it runs.
        ended: set when it is over.
        code: its exit code; None before.
        printed, said: what it wrote on standard output and on standard error.
        steps: what it is doing, steps done and steps in all.
        n_pieces: pieces of music begun.
        sound: of the first piece, what nobody has heard yet: 16-bit samples of two channels at 48 kHz.
    """

    words: tuple[str, ...]
    folder: Path
    live: bool = False
    number: int = field(default_factory=itertools.count(1).__next__)
    ended: threading.Event = field(default_factory=threading.Event)
    code: int | None = None
    printed: str = ""
    said: str = ""
    steps: tuple[str, int, int] = ("", 0, 0)
    n_pieces: int = 0
    sound: list[bytes] = field(default_factory=list)
    has_begun: bool = False
    is_cancelled: bool = False
    news: threading.Condition = field(default_factory=threading.Condition)

    def tell(self, **changes: Any) -> None:
        """Change what is known of it and wake who waits for news."""
        with self.news:
            for name, value in changes.items():
                setattr(self, name, value)
            self.news.notify_all()

    def end(self, code: int, said: str) -> None:
        """Say that it is over."""
        self.tell(code=code, said=said)
        self.ended.set()
        self.tell()

    def heard(self) -> Iterator[bytes]:
        """The sound of the first piece as it is made, for one who listens: it is not kept."""
        while True:
            with self.news:
                if not self.sound and not self.is_over:
                    self.news.wait(timeout=1.0)
                new, self.sound, is_over = self.sound, [], self.is_over
            yield from new
            if is_over and not new:
                return

    @property
    def is_over(self) -> bool:
        """Whether no more sound of the first piece will come."""
        return self.ended.is_set() or (self.n_pieces > 1 and not self.live)


class Worker:
    """One queue of commands, and the process that runs them.

    Args:
        command: runs a command line; a function of a module.
        warm: words of a command that is run first, in a folder of its own, so that nobody waits for what it loads.
        folder: of that command.
    """

    def __init__(self, command: Command, warm: Sequence[str] = (), folder: Path | None = None) -> None:
        self._command, self._warm, self._folder = command, tuple(warm), folder or Path.cwd()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._waiting: list[Job] = []
        self._lock = threading.Lock()
        self._current: Job | None = None
        self._process: Any = None
        self._pipe: Connection | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        if warm:
            self.run(self._warm, self._folder)

    def run(self, words: Sequence[str], folder: Path, live: bool = False) -> Job:
        """Put a command into the queue."""
        job = Job(tuple(words), folder, live)
        with self._lock:
            self._waiting.append(job)
        self._jobs.put(job)
        return job

    def ahead(self, job: Job) -> int:
        """How many commands are before this one."""
        with self._lock:
            return (
                0
                if job.has_begun or job not in self._waiting
                else self._waiting.index(job) + (self._current is not None)
            )

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        with self._lock:
            return self._current is None and not self._waiting

    def cancel(self, job: Job) -> None:
        """End a command as Ctrl-C does, or take it out of the queue."""
        with self._lock:
            job.is_cancelled = True
            if job in self._waiting:
                self._waiting.remove(job)
                job.end(130, "Cancelled.")
            elif job is self._current:
                self._send(("cancel", job.number))
                threading.Timer(PATIENCE_SECONDS, self._end, (job,)).start()

    def hear(self, job: Job, sound: bytes) -> None:
        """Give live sound to a command; none ends it."""
        with self._lock:
            if job is self._current:
                self._send(("sound", job.number, sound))

    def close(self) -> None:
        """End the process, and all commands."""
        self._closed = True
        self._jobs.put(None)
        process = self._process
        if process is not None:
            process.terminate()
            process.join(PATIENCE_SECONDS)
            if process.is_alive():
                process.kill()
                process.join(PATIENCE_SECONDS)

    def _send(self, message: tuple[Any, ...]) -> None:
        if self._pipe is not None:
            with contextlib.suppress(OSError):  # the process has ended, which `_follow` tells
                self._pipe.send(message)

    def _end(self, job: Job) -> None:
        if not job.ended.is_set() and self._process is not None:
            self._process.kill()

    def _serve(self) -> None:
        """Run the queue's commands, with a new process where one ended."""
        while not self._closed:
            if self._process is None or not self._process.is_alive():
                context = multiprocessing.get_context("spawn")
                self._pipe, other = context.Pipe()
                self._process = context.Process(target=_work, args=(other, self._command), daemon=True)
                self._process.start()
                other.close()
            job = self._jobs.get()
            if job is None:
                return
            with self._lock:
                if job.is_cancelled:
                    continue
                self._waiting.remove(job)
                self._current = job
                self._send(("run", job.number, job.words, str(job.folder), job.live))
            job.tell(has_begun=True)
            try:
                self._follow(job)
            except (EOFError, OSError):
                why = (
                    "Cancelled."
                    if job.is_cancelled
                    else "The process that makes music has ended; make it again."
                )
                self._process.join(PATIENCE_SECONDS)
                with self._lock:
                    self._current = None
                job.end(130 if job.is_cancelled else 1, why)

    def _follow(self, job: Job) -> None:
        """Take what a command tells until it ends."""
        assert self._pipe is not None
        while True:
            kind, number, *values = self._pipe.recv()
            if number != job.number:
                continue
            if kind == "progress":
                job.tell(steps=values[0])
            elif kind == "piece":
                job.tell(n_pieces=job.n_pieces + 1)
            elif kind == "sound":
                if job.n_pieces <= 1 or job.live:
                    with job.news:
                        job.sound.append(values[0])
                        job.news.notify_all()
            elif kind == "end":
                code, job.printed, said = values
                with self._lock:
                    self._current = None
                job.end(code, "Cancelled." if job.is_cancelled and code else said)
                return


# ---- in the process ----


def pcm(piece: Waveform) -> bytes:
    """16-bit samples, as `streaming.send` writes them."""
    return np.round(np.clip(piece.samples.T, -1.0, 1.0) * 32767.0).astype("<i2").tobytes()


class _Teller:
    """The `processes.Follower` of a worker's process."""

    def __init__(self, send: Callable[..., None]) -> None:
        self._send, self._told = send, 0.0

    def progress(self, name: str, done: int, total: int) -> None:
        from time import monotonic

        if done >= total or monotonic() - self._told > TELL_SECONDS:
            self._told = monotonic()
            self._send("progress", (name, done, total))

    def music(self, pieces: Iterable[Any], heard: Callable[[Iterator[Any]], Iterator[Any]]) -> Iterator[Any]:
        self._send("piece")
        made: deque[Any] = deque()

        def passing() -> Iterator[Any]:
            for piece in pieces:
                made.append(piece)
                yield piece

        for block in heard(passing()):
            self._send("sound", pcm(block))
            while made:
                yield made.popleft()
        yield from made


class _Microphone(io.RawIOBase):
    """Standard input of a live command."""

    def __init__(self) -> None:
        self.chunks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            try:
                # In short waits, since a lock that is waited for is no place where Ctrl-C is heard.
                self._rest = self.chunks.get(timeout=0.1)
            except queue.Empty:
                continue
            if not self._rest:
                self.chunks.put(b"")
                return 0
        n = min(len(buffer), len(self._rest))
        buffer[:n], self._rest = self._rest[:n], self._rest[n:]
        return n


class _Loudspeaker(io.RawIOBase):
    """Standard output of a live command, whose samples go out as they come."""

    def __init__(self, send: Callable[..., None]) -> None:
        self._send = send

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._send("sound", bytes(data))
        return len(data)


def _work(pipe: Connection, command: Command) -> None:
    """Run commands that come through a pipe, in the main thread, until the pipe ends."""
    from silent2music import processes
    from silent2music.export import models

    models.kept = {}
    jobs: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
    current: dict[str, Any] = {"number": 0, "microphone": None}
    sending = threading.Lock()

    def send(kind: str, *values: Any) -> None:
        with sending:
            pipe.send((kind, current["number"], *values))

    def listen() -> None:
        while True:
            try:
                kind, number, *values = pipe.recv()
            except (EOFError, OSError):
                os._exit(0)  # the page's process is gone
            if kind == "run":
                jobs.put((number, *values))
            elif number == current["number"] and kind == "cancel":
                _thread.interrupt_main(signal.SIGINT)
            elif number == current["number"] and current["microphone"] is not None:
                current["microphone"].chunks.put(values[0])

    # Between two commands Ctrl-C, which a terminal sends to all its processes, is the main process's affair.
    signal.signal(signal.SIGINT, lambda *_: None)
    threading.Thread(target=listen, daemon=True).start()
    processes.follower = _Teller(send)
    while True:
        number, words, folder, live = jobs.get()
        current["number"], current["microphone"] = number, _Microphone() if live else None
        code, printed, said = _run(command, words, folder, current["microphone"], send)
        send("end", code, printed, said)
        current["number"] = 0


def _run(
    command: Command,
    words: Sequence[str],
    folder: str,
    microphone: _Microphone | None,
    send: Callable[..., None],
) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    out, err, code = io.BytesIO(), io.BytesIO(), 0
    before = sys.stdin, sys.stdout, sys.stderr
    sink: Any = out if microphone is None else io.BufferedWriter(_Loudspeaker(send))
    source: Any = io.BytesIO() if microphone is None else io.BufferedReader(microphone)
    sys.stdin = io.TextIOWrapper(source, encoding="utf-8")
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(file, encoding="utf-8", write_through=True) for file in (sink, err)
    )
    try:
        os.chdir(folder)
        command(words)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException as error:
        traceback.print_exc(file=before[2])
        print(f"It failed by a fault of the program ({type(error).__name__}: {error}).", file=sys.stderr)
        code = 70
    finally:
        streams = sys.stdin, sys.stdout, sys.stderr
        sys.stdin, sys.stdout, sys.stderr = before
        for stream in streams:
            stream.detach()  # flushes, and closes nothing
    if microphone is not None:
        sink.flush()
    return code, out.getvalue().decode(errors="replace"), err.getvalue().decode(errors="replace")
