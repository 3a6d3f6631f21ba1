"""The tabs that are open on the page, each with its own piece and its own running commands."""

from __future__ import annotations

import secrets
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from silent2music.config import COMPOSER_FOLDER
from silent2music.errors import AudioError
from silent2music.export.models import LazyModel
from silent2music.studio.project import Project, safe_name
from silent2music.studio.worker import Command, Job, Worker

MAX_UPLOAD_BYTES = 4 * 2**30
"""A WAV file has no more."""

SPARE_BYTES = 2**28
"""So much of the disk stays free."""


@dataclass(eq=False)
class Session:
    """One tab.

    Attributes:
        token: names the tab in addresses; who does not know it gets nothing.
        project: its piece.
        pending: a folder with a recording that has not been listened to yet.
        jobs: commands that were asked for and may still run, by number.
    """

    token: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    project: Project | None = None
    pending: Path | None = None
    jobs: dict[int, Job] = field(default_factory=dict)


class Desk:
    """What all tabs share: the folder, the model, and two processes, one that listens and one that makes.

    Args:
        folder: of all pieces.
        command: runs a command line.
        options: of each command, those that it has.
        model: a model folder, by default the one that ships.
        device: of the model.
        soundfont: plays scores in place of the model.
        warm: words of the command by which the model is loaded.
    """

    def __init__(
        self,
        folder: Path,
        command: Command,
        options: Mapping[str, frozenset[str]],
        model: Path | None = None,
        device: str | None = None,
        soundfont: Path | None = None,
        warm: Sequence[str] = (),
    ) -> None:
        self.folder, self.options, self.soundfont = folder.absolute(), options, soundfont
        lazy = LazyModel(model, device)
        self.model_folder = lazy.folder
        self.composes, self.plays_scores = lazy.composes, lazy.plays_scores
        self.writes_scores = (lazy.folder / COMPOSER_FOLDER).is_dir()
        self.model_words = ["--model", str(model.absolute())] if model else []
        self.model_words += ["--device", device] if device else []
        self.sessions: dict[str, Session] = {}
        self.tabs: dict[str, str] = {}
        self._lock = threading.Lock()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._scratch = self.folder / ".warm"
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir()
        self.ears = Worker(command)
        self.hands = Worker(command, [*warm, *self.model_words] if warm else (), self._scratch)

    def close(self) -> None:
        """End both processes."""
        self.ears.close()
        self.hands.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    # ---- tabs ----

    def enter(self, tab: str) -> Session:
        """A new tab, by its name among Gradio's."""
        session = Session()
        with self._lock:
            self.sessions[session.token] = session
            self.tabs[tab] = session.token
        return session

    def leave(self, token: str) -> None:
        """Forget a tab that was closed, end what it was making, and drop a recording that has not arrived as a whole."""
        with self._lock:
            session = self.sessions.pop(token, None)
        if session is not None:
            self.cancel(session)
            if session.pending is not None and Project.found(session.pending) is None:
                shutil.rmtree(session.pending, ignore_errors=True)

    def opened(self, session: Session, name: str) -> Project:
        """A piece of the folder, for this tab.

        Raises:
            AudioError: if there is none of this name, or another tab has it.
        """
        project = Project.found(self.folder / name) if safe_name(name) == name else None
        if project is None:
            raise AudioError(f"There is no piece '{name}' in {self.folder}; choose one of the list.")
        with self._lock:
            others = [s.project.folder for s in self.sessions.values() if s is not session and s.project]
            if project.folder in others:
                raise AudioError(
                    f"The piece '{name}' is open in another tab; close that one, or choose another piece."
                )
            session.project = project
        return project

    # ---- commands ----

    def run(
        self, session: Session, words: Sequence[str], worker: Worker, folder: Path, live: bool = False
    ) -> Job:
        """Put a command of a tab into the queue."""
        job = worker.run(words, folder, live)
        session.jobs = {n: j for n, j in session.jobs.items() if not j.ended.is_set()} | {job.number: job}
        if session.token not in self.sessions:
            worker.cancel(job)
        return job

    def cancel(self, session: Session) -> None:
        """End all that a tab has asked for."""
        for job in list(session.jobs.values()):
            for worker in (self.ears, self.hands):
                worker.cancel(job)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being made for anybody."""
        return self.ears.is_idle and self.hands.is_idle

    # ---- files ----

    def place(self, session: Session, name: str, is_room: bool) -> Path:
        """Where an uploaded file goes: a recording into a folder of its own, anything else beside the recording.

        Raises:
            AudioError: if there is no recording yet.
        """
        if is_room:
            session.pending = Project.begun(self.folder).folder
            return session.pending / safe_name(name)
        if session.project is None:
            raise AudioError("There is no room yet; drop or record one first.")
        return session.project.folder / session.project.free_name(name)

    def file_of(self, session: Session, name: str) -> Path | None:
        """A file of the tab's piece by its name, None if there is none."""
        project = session.project
        is_own = project is not None and (name in project.files())
        return project.folder / name if project is not None and is_own else None

    def pieces(self) -> Iterator[str]:
        """Names of the pieces of the folder, the newest first."""
        return (project.folder.name for project in Project.all_in(self.folder))
