"""Handlers of the page: which command each of its buttons runs, and what is on the screen then.

Every handler takes what the page holds, builds the words of a command (`commands`), lets a worker run them, and gives
back what is on the screen after each bit of news. Handlers are generators, so a page is never blocked.
"""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from silent2music.errors import AudioError, DataError, S2MError, require
from silent2music.export.infer import DEMO_ROOM
from silent2music.export.redo import OF_THE_WHOLE
from silent2music.files import atomic_path
from silent2music.score import read_midi, write_midi
from silent2music.studio import commands
from silent2music.studio.commands import KNOBS, option, shown, wish_words
from silent2music.studio.project import Project, read_roll, score_of
from silent2music.studio.session import Desk, Session
from silent2music.studio.worker import Job, Worker

WAIT_SECONDS = 0.25
"""A page that waits for a command looks for news so often."""

SUFFIXES = ("FLAC", "OGG", "MP3", "M4A")

STAGES = ("Listening to the room", "Making", "Setting the level and writing")

View = dict[str, Any]
"""New values of the page's components, by their names; a component that is not named stays as it is."""


def said(text: str, is_wrong: bool = False, fraction: float | None = None) -> str:
    """A line of status, as the page shows it."""
    bar = (
        "" if fraction is None else f'<progress max="1" value="{fraction:.3f}" aria-label="done"></progress>'
    )
    kind = "wrong" if is_wrong else "news"
    return f'<p class="{kind}">{html.escape(text)}</p>{bar}' if text or bar else ""


def told(job: Job, folder: Path) -> str:
    """What a command said, as it stands on the page: without the folder that everything is in."""
    lines = [line.strip() for line in job.said.replace(f"{folder}/", "").splitlines() if line.strip()]
    return " ".join(lines)


class Page:
    """Handlers of the page.

    Args:
        desk: what it works on.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    # ---- what every handler needs ----

    def _session(self, token: str) -> Session:
        session = self.desk.sessions.get(token)
        if session is None:
            raise AudioError("The page has been closed meanwhile; load it again.")
        return session

    def _project(self, session: Session) -> Project:
        if session.project is None:
            raise AudioError("There is no room yet; drop or record one first.")
        return session.project

    def _waited(self, job: Job, worker: Worker, where: str, stage: Callable[[Job], str]) -> Iterator[View]:
        """News of a command until it ends, for the line of status `where`."""
        before = ""
        while not job.ended.is_set():
            ahead = worker.ahead(job)
            _, done, total = job.steps
            fraction = None if ahead or not total else done / total
            text = f"Waiting for {ahead} other command{'s' * (ahead > 1)}." if ahead else stage(job)
            now = said(text, fraction=fraction or 0.0)
            if now != before:
                yield {where: now}
            before = now
            job.ended.wait(WAIT_SECONDS)

    def _player(self, session: Session, current: str = "", job: Job | None = None) -> View:
        """What the player shows: all takes, and the command whose sound is heard as it is made."""
        takes = session.project.takes() if session.project else []
        current = current or (takes[-1]["file"] if takes else "")
        stream = None if job is None else job.number
        return {"token": session.token, "takes": takes, "current": current, "stream": stream}

    def _shown(self, session: Session, file: str) -> View:
        """What belongs to a take: its command, its score and the files of the piece."""
        project = self._project(session)
        words = project.command_of(file)
        view: View = {
            "command": shown(words, project.folder) if words else "",
            "files": self._files(session),
        }
        take = next((t for t in project.takes() if t["file"] == file), None)
        if take and take["score"]:
            view["roll"] = read_roll(project.folder / take["score"])
        return view

    def _files(self, session: Session) -> str:
        """Links to the files of the piece."""
        names = session.project.files() if session.project else []
        items = "".join(
            f'<li><a href="/studio/{session.token}/file/{html.escape(name, quote=True)}" download>'
            f"{html.escape(name)}</a></li>"
            for name in names
        )
        return f"<ul>{items}</ul>" if items else "<p>Nothing yet.</p>"

    # ---- Listen ----

    def enter(self, known: str, tab: str) -> Iterator[View]:
        """A tab has come; `known` is the piece that it had before it was loaded again."""
        session = self.desk.enter(tab)
        yield {"token": session.token, "player": self._player(session), "pieces": self._choices()}
        if known:
            try:
                self.desk.opened(session, known)
            except S2MError:
                return
            yield from self._listened(session)

    def _choices(self, value: str | None = None) -> Any:
        return require("gradio", "studio").update(choices=list(self.desk.pieces()), value=value)

    def room(self, token: str, name: str, kind: str) -> Iterator[View]:
        """A recording has come, by upload or microphone, or the one that ships is wanted."""
        session = self._session(token)
        if kind == "bundled":
            shutil.copyfile(DEMO_ROOM, self.desk.place(session, DEMO_ROOM.name, is_room=True))
            name = DEMO_ROOM.name
        folder = session.pending
        if folder is None or not (folder / name).is_file() or Path(name).name != name:
            raise AudioError("The recording has not arrived; send it again.")
        before, session.project, session.pending = session.project, Project(folder, name), None
        yield from self._listened(session, before, is_new=True)

    def open(self, token: str, name: str) -> Iterator[View]:
        """An earlier piece is wanted."""
        session = self._session(token)
        if session.project is not None and session.project.folder.name == name:
            return
        before = session.project
        self.desk.opened(session, name)
        yield from self._listened(session, before)

    def _listened(
        self, session: Session, before: Project | None = None, is_new: bool = False
    ) -> Iterator[View]:
        """Measure the room of the tab's piece and show all that is there.

        Where that fails the tab has the piece `before` again, and a new recording that is none is dropped.
        """
        project = self._project(session)
        words = ["analyze", project.room, "--json"]
        job = self.desk.run(session, words, self.desk.ears, project.folder)
        yield from self._waited(job, self.desk.ears, "heard", lambda job: "Listening to the room")
        if job.code != 0:
            session.project = before
            if is_new and not job.is_cancelled:
                shutil.rmtree(project.folder, ignore_errors=True)
            yield {"heard": said(told(job, project.folder), True)}
            return
        project.note("room", words)
        profile = json.loads(job.printed)
        takes = project.takes()
        view: View = {
            "heard": said(told(job, project.folder)),
            "room": {**profile, "token": session.token, "room": project.room, "project": project.folder.name},
            "player": self._player(session),
            "pieces": self._choices(project.folder.name),
            "roll": {"file": "", "seconds": profile["seconds"], "parts": []},
            "made": "",
        }
        scores = project.scores()
        shown_now = self._shown(session, takes[-1]["file"] if takes else "room")
        if scores and "roll" not in shown_now:
            shown_now["roll"] = read_roll(project.folder / scores[0])
        yield view | shown_now

    # ---- Make ----

    def _wishes(
        self, session: Session, wishes: Any, command: str, stem: str, without: Sequence[str] = ()
    ) -> list[str]:
        """Options of what is wished for; a drawn mood curve becomes a file of the piece."""
        wishes = {k: v for k, v in wishes.items() if k not in without} if isinstance(wishes, Mapping) else {}
        project = self._project(session)
        only: tuple[str, ...] | None = None
        if command == "perform":
            only = commands.OF_PERFORMANCE
        elif command == "infer" and not self.desk.composes:
            only = tuple(knob.name for knob in KNOBS if knob.draws)
        known = self.desk.options.get(command, frozenset())
        try:
            words = wish_words(wishes, known, only)
            if commands.MOOD_FILE in words:
                name = f"{stem}.{commands.MOOD_FILE}"
                with atomic_path(project.folder / name, force=True) as file:
                    file.write_text(commands.curve_text(wishes["curve"]), encoding="utf-8")
                words[words.index(commands.MOOD_FILE)] = name
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"What is wished for cannot be read ({error}); load the page again.") from error
        return words

    def make(self, token: str, wishes: Any, seed: float, count: float, seconds: str) -> Iterator[View]:
        """Make music for the room."""
        session = self._session(token)
        project = self._project(session)
        stem = project.next_stem("take")
        n = int(count or 1)
        words = ["infer", project.room, "-o", f"{stem}.wav", "--seed", str(int(seed or 0))]
        words += ["--count", str(n)] if n > 1 else []
        words += option("seconds", seconds.strip()) if seconds and seconds.strip() else []
        words += self._wishes(session, wishes, "infer", stem) + self.desk.model_words
        first = f"{stem}{'.1' if n > 1 else ''}.wav"
        yield from self._played(session, stem, words, first, "made", n)

    def _played(
        self, session: Session, stem: str, words: list[str], first: str, where: str, n: int = 1
    ) -> Iterator[View]:
        """Run a command that makes music, let its first sound be heard at once, and show what came of it."""
        project = self._project(session)
        project.commands[stem] = words  # so that nothing else takes this name
        job = self.desk.run(session, words, self.desk.hands, project.folder)
        # The page asks for the sound before there is any, so that it is heard as soon as there is.
        yield {"command": shown(words, project.folder), "player": self._player(session, job=job)}

        def stage(job: Job) -> str:
            _, done, total = job.steps
            which = (
                f" {'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[min(job.n_pieces, n) - 1]} of {n}"
                if n > 1 and job.n_pieces
                else ""
            )
            return STAGES[0 if not total else 2 if done >= total else 1] + which

        yield from self._waited(job, self.desk.hands, where, stage)
        if job.code == 0:
            project.note(stem, words)
            yield {
                "player": self._player(session, first, job),
                where: said(told(job, project.folder) or "Made."),
            }
            yield self._shown(session, first) | {"pieces": self._choices(project.folder.name)}
        else:
            project.commands.pop(stem, None)
            text = said(told(job, project.folder), not job.is_cancelled)
            yield {where: text, "player": self._player(session)}

    def pick(self, token: str, file: str) -> Iterator[View]:
        """Another take is listened to."""
        yield self._shown(self._session(token), file)

    def cancel(self, token: str) -> Iterator[View]:
        """End what this tab is making."""
        self.desk.cancel(self._session(token))
        yield {}

    # ---- Edit ----

    def compose(self, token: str, wishes: Any, seed: float, seconds: str) -> Iterator[View]:
        """Write notes alone."""
        session = self._session(token)
        project = self._project(session)
        stem = project.next_stem("notes")
        words = ["compose", project.room, "-o", f"{stem}.mid", "--seed", str(int(seed or 0))]
        words += option("seconds", seconds.strip()) if seconds and seconds.strip() else []
        words += self._wishes(session, wishes, "compose", stem) + self.desk.model_words
        yield from self._written(session, stem, words)

    def _written(
        self, session: Session, stem: str, words: list[str], joined: Callable[[Path], Path] | None = None
    ) -> Iterator[View]:
        """Run a command that writes notes, and show them."""
        project = self._project(session)
        job = self.desk.run(session, words, self.desk.hands, project.folder)
        yield {"command": shown(words, project.folder)}
        yield from self._waited(job, self.desk.hands, "edited", lambda job: "Writing notes")
        if job.code != 0:
            yield {"edited": said(told(job, project.folder), True)}
            return
        project.note(stem, words)
        path = project.folder / f"{stem}.mid"
        roll = read_roll(path if joined is None else joined(path))
        yield {"roll": roll, "edited": said(told(job, project.folder)), "files": self._files(session)}

    def save(self, token: str, roll: Any) -> Iterator[View]:
        """Keep the notes of the roll as a MIDI file."""
        session = self._session(token)
        name = self._saved(session, roll)
        yield {"edited": said(f"Kept as {name}, see Take."), "files": self._files(session)}

    def _saved(self, session: Session, roll: Any) -> str:
        """Write the roll as a MIDI file of the piece; its name."""
        project = self._project(session)
        if not isinstance(roll, Mapping) or not roll.get("file") or roll["file"] not in project.scores():
            raise DataError("There are no notes yet; make a piece, compose, or drop a MIDI file.")
        if not roll.get("changed"):
            return str(roll["file"])
        base = read_midi(project.folder / str(roll["file"]))
        name = f"{project.next_stem('edit')}.mid"
        write_midi(project.folder / name, score_of(roll, base))
        return name

    def perform(self, token: str, roll: Any, wishes: Any, seed: float) -> Iterator[View]:
        """Play the notes of the roll in the room."""
        session = self._session(token)
        project = self._project(session)
        tune, stem = self._saved(session, roll), project.next_stem("take")
        words = ["perform", tune, "--room", project.room, "-o", f"{stem}.wav", "--seed", str(int(seed or 0))]
        words += ["--seconds", commands.number(roll["seconds"])]
        if self.desk.soundfont is not None:
            words += ["--soundfont", str(self.desk.soundfont.absolute())]
        else:
            words += self._wishes(session, wishes, "perform", stem) + self.desk.model_words
        yield from self._played(session, stem, words, f"{stem}.wav", "edited")

    def again(self, token: str, roll: Any, wishes: Any, seed: float, player: Any) -> Iterator[View]:
        """Write the selected stretch again: of a take's music where the command line can, else of the notes."""
        session = self._session(token)
        project = self._project(session)
        stretch = roll.get("selected") if isinstance(roll, Mapping) else None
        if not stretch or not 0 <= float(stretch[0]) < float(stretch[1]):
            raise DataError("No stretch is selected; drag along the upper edge of the piano roll first.")
        begin, end = (float(t) for t in stretch)
        seeds = ["--seed", str(int(seed or 0) + 1)]
        take = self._current(project, player)
        if (
            take
            and take["score"] == roll.get("file")
            and not roll.get("changed")
            and self.desk.composes
            and project.command_of(take["file"])[:1] == ["infer"]
        ):
            stem = project.next_stem("take")
            words = ["infer", project.room, "-o", f"{stem}.wav", *seeds]
            words += ["--redo", f"{commands.number(begin)}:{commands.number(end)}", "--of", take["file"]]
            words += self._wishes(session, wishes, "infer", stem, OF_THE_WHOLE) + self.desk.model_words
            yield from self._played(session, stem, words, f"{stem}.wav", "edited")
            return
        name, stem = self._saved(session, roll), project.next_stem("notes")
        score = read_midi(project.folder / name)
        words = [
            "compose",
            project.room,
            "-o",
            f"{stem}.mid",
            *seeds,
            "--seconds",
            commands.number(score.seconds),
        ]
        if begin > 0:
            first = f"{project.next_stem('begin')}.mid"
            write_midi(project.folder / first, score.slice(0.0, begin))
            words += ["--continue", first]
        words += self._wishes(session, wishes, "compose", stem) + self.desk.model_words

        def joined(path: Path) -> Path:
            merged = spliced(read_roll(project.folder / name), read_roll(path), begin, end)
            place = project.folder / f"{project.next_stem('edit')}.mid"
            write_midi(place, score_of(merged, score))
            return place

        yield from self._written(session, stem, words, joined)

    def tune(self, token: str, name: str) -> Iterator[View]:
        """A MIDI file was dropped in."""
        session = self._session(token)
        project = self._project(session)
        if name not in project.scores():
            raise DataError(f"{name} has no suffix of a MIDI file; expected .mid or .midi.")
        yield {
            "roll": read_roll(project.folder / name),
            "edited": said(f"{name} is shown."),
            "files": self._files(session),
        }

    # ---- Take ----

    def _current(self, project: Project, player: Any) -> View | None:
        """The take that the player shows."""
        file = player.get("current") if isinstance(player, Mapping) else None
        return next((take for take in project.takes() if take["file"] == file), None)

    def take(self, token: str, player: Any, what: str, length: str) -> Iterator[View]:
        """Make another file of what is on the screen."""
        session = self._session(token)
        project = self._project(session)
        known = self._current(project, player)
        if what not in ("loop", "picture of the room") and known is None:
            raise DataError("There is no music yet; make some first.")
        if what == "loop":
            stem = project.next_stem("loop")
            words = ["ambience", project.room, "--out", stem, "--seed", str(known["seed"] if known else 0)]
            words += option("loop", length.strip()) if length and length.strip() else []
            words += self.desk.model_words
        elif what.startswith("picture"):
            stem = project.next_stem("picture")
            words = ["analyze", project.room, "--plot", f"{stem}.png"]
            if known is not None and what != "picture of the room":
                words += [
                    "--music",
                    known["score"] if what == "picture of the score" and known["score"] else known["file"],
                ]
        else:
            file, seed = (known["file"], known["seed"]) if known else ("", 0)
            suffix = ".wav" if what == "stems" else f".{what.lower()}"
            # A name of its own, since notes and record beside it would have those of the take.
            stem = project.next_stem("stems") if what == "stems" else f"{Path(file).stem}-{suffix[1:]}"
            words = repeated(project.command_of(file), f"{stem}{suffix}", seed)
            words += ["--stems"] if what == "stems" else []
        job = self.desk.run(session, words, self.desk.hands, project.folder)
        yield {"command": shown(words, project.folder)}
        yield from self._waited(job, self.desk.hands, "taken", lambda job: f"Making {what}")
        if job.code == 0:
            project.note(stem, words)
        if what == "loop" and job.code == 0:
            for path in sorted((project.folder / stem).rglob("*")):
                if path.is_file():
                    shutil.copyfile(path, project.folder / f"{stem}.{path.name}")
        text = told(job, project.folder) or f"{stem} is there."
        yield {"taken": said(text, job.code != 0), "files": self._files(session)}

    def clip(self, token: str, name: str, seed: float) -> Iterator[View]:
        """A clip was dropped in, to be scored by its own sound."""
        session = self._session(token)
        project = self._project(session)
        if Path(name).name != name or name not in project.files():
            raise AudioError("The clip has not arrived; send it again.")
        stem = project.next_stem("scored")
        words = [
            "score-clip",
            name,
            "-o",
            f"{stem}.mp4",
            "--seed",
            str(int(seed or 0)),
            *self.desk.model_words,
        ]
        yield from self._played(session, stem, words, f"{stem}.wav", "taken")


def repeated(words: list[str], out: str, seed: int) -> list[str]:
    """A command that made one take, or several by as many seeds, as the one that makes it into another file.

    Example:
        >>> repeated(["infer", "a.wav", "-o", "take-1.wav", "--seed", "4", "--count", "3"], "take-1.2.flac", 5)
        ['infer', 'a.wav', '-o', 'take-1.2.flac', '--seed', '5']
    """
    if not words:
        raise DataError("The command that made this take is not known any more; make it again.")
    words = list(words)
    words[words.index("-o") + 1] = out
    if "--count" in words:
        words[words.index("--seed") + 1] = str(seed)
        at = words.index("--count")
        del words[at : at + 2]
    return words


def spliced(old: Mapping[str, Any], new: Mapping[str, Any], begin: float, end: float) -> dict[str, Any]:
    """The notes of a roll with those of another one that begin within a stretch."""
    parts = [dict(part, notes=[n for n in part["notes"] if not begin <= n[0] < end]) for part in old["parts"]]
    for part in new["parts"]:
        notes = [[a, min(b, end), *rest] for a, b, *rest in part["notes"] if begin <= a < end]
        own = next((p for p in parts if (p["program"], p["drum"]) == (part["program"], part["drum"])), None)
        if own is None:
            parts.append(dict(part, notes=notes))
        else:
            own["notes"] = sorted([*own["notes"], *notes])
    return dict(old, parts=parts)
