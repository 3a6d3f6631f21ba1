"""What lies in the folder of one piece: a recording, music with its records, scores, and the commands that made them."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from silent2music.errors import DataError
from silent2music.files import atomic_path, read_json
from silent2music.notation import INSTRUMENT_NAMES
from silent2music.score import MIDI_SUFFIXES, Part, Score, read_midi

NOTES_FILE = "studio.json"
"""What the page knows of a piece: its room, and the words of each command by the stem of what it made."""

MAX_NAME, MAX_EDITED_NOTES = 80, 100_000

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def safe_name(name: str) -> str:
    """A file name for this machine, and for a command line, from whatever a browser says.

    Example:
        >>> safe_name("../../etc/pass wd.wav"), safe_name("-o.wav"), safe_name("a\\\\b\\x00c.WAV"), safe_name("..")
        ('pass wd.wav', 'o.wav', 'bc.wav', 'file')
    """
    name = re.split(r"[/\\]", name)[-1]
    stem, dot, suffix = name.rpartition(".")
    stem, suffix = (stem, suffix) if dot else (suffix, "")
    stem = re.sub(r"[^\w .,()+=-]", "", stem).strip(" .-")
    suffix = re.sub(r"\W", "", suffix).lower()[:8]
    safe = (stem[: MAX_NAME - 9] or "file") + (f".{suffix}" if suffix else "")
    return f"_{safe}" if _RESERVED.fullmatch(safe) or safe == NOTES_FILE else safe


@dataclass
class Project:
    """One piece in its folder.

    Attributes:
        folder: of the piece.
        room: name of the recording in it, empty without.
        commands: words of the command line by the stem of the file that they made.
    """

    folder: Path
    room: str = ""
    commands: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def begun(cls, above: Path) -> Project:
        """A new folder, named by day and number."""
        day, number = time.strftime("%Y-%m-%d"), 1
        while True:
            folder = above / f"{day}-{number}"
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                number += 1
                continue
            return cls(folder)

    @classmethod
    def found(cls, folder: Path) -> Project | None:
        """What an earlier session left; None if it is no piece."""
        try:
            known = read_json(folder / NOTES_FILE)
            project = cls(
                folder, str(known["room"]), {k: list(map(str, v)) for k, v in known["commands"].items()}
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        is_plain = safe_name(project.room) == project.room and (folder / project.room).is_file()
        return project if is_plain else None

    @classmethod
    def all_in(cls, above: Path) -> list[Project]:
        """The pieces of a folder, the newest first."""
        folders = [path for path in above.iterdir() if path.is_dir()] if above.is_dir() else []
        found = [project for folder in folders if (project := cls.found(folder)) is not None]
        return sorted(found, key=lambda p: (p.folder / NOTES_FILE).stat().st_mtime, reverse=True)

    def save(self) -> None:
        """Write down room and commands."""
        text = json.dumps({"room": self.room, "commands": self.commands}, indent=1)
        with atomic_path(self.folder / NOTES_FILE, force=True) as file:
            file.write_text(text, encoding="utf-8")

    def note(self, stem: str, words: list[str]) -> None:
        """Remember the command that makes a file."""
        self.commands[stem] = words
        self.save()

    def free_name(self, name: str) -> str:
        """A safe name that no file has yet."""
        path = self.folder / safe_name(name)
        stem, number = path.stem, 2
        while path.exists():
            path, number = path.with_name(f"{stem}-{number}{path.suffix}"), number + 1
        return path.name

    def next_stem(self, kind: str) -> str:
        """`take-3` after `take-2` and `take-1.2`."""
        numbers = [int(m[1]) for name in self._stems() if (m := re.match(rf"{kind}-(\d+)", name))]
        return f"{kind}-{max(numbers, default=0) + 1}"

    def _stems(self) -> Iterator[str]:
        yield from self.commands
        for path in self.folder.iterdir():
            yield path.name

    def command_of(self, file: str) -> list[str]:
        """The words that made a file: of `take-1.2.wav` those of `take-1.2` or of `take-1`."""
        stem = Path(file).stem
        return self.commands.get(stem) or self.commands.get(stem.rpartition(".")[0], [])

    def takes(self) -> list[dict[str, Any]]:
        """Music that was made in the folder, oldest first, by the records beside it; not its copies in other formats."""
        found = []
        for record_path in sorted(self.folder.glob("*.json")):
            try:
                record = read_json(record_path)
                output, settings = record["output"], record["settings"]
                music = self.folder / output.get("music", output)["file"]  # beside a clip, or alone
                if music.parent != self.folder or music.suffix != ".wav" or not music.is_file():
                    continue
                tune = record.get("score") or {}
                found.append(
                    {
                        "file": music.name,
                        "seconds": float(output["seconds"]),
                        "lufs": output.get("lufs"),
                        "seed": settings.get("seed"),
                        "parts": [str(part) for part in tune.get("parts", ())],
                        "score": self._score_of(music, record),
                    }
                )
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
        return sorted(found, key=lambda take: [int(n) for n in re.findall(r"\d+", take["file"])])

    def _score_of(self, music: Path, record: Mapping[str, Any]) -> str:
        """The MIDI file that a piece of music plays, if it lies beside it."""
        own = music.with_suffix(".mid").name
        given = str((record.get("score") or {}).get("file", ""))
        names = [name for name in (given, own) if name and Path(name).name == name]
        return next((name for name in names if (self.folder / name).is_file()), "")

    def scores(self) -> list[str]:
        """The MIDI files of the folder, the newest first."""
        files = [p for p in self.folder.iterdir() if p.suffix.lower() in MIDI_SUFFIXES and p.name[0] != "."]
        return [p.name for p in sorted(files, key=lambda p: p.stat().st_mtime, reverse=True)]

    def files(self) -> list[str]:
        """All that can be taken away, by name."""
        return sorted(
            p.name for p in self.folder.iterdir() if p.is_file() and p.name[0] != "." and p.name != NOTES_FILE
        )


# ---- scores as the piano roll has them ----


def roll_of(score: Score, file: str) -> dict[str, Any]:
    """A score in plain values: of each note start, end, pitch and velocity."""
    parts = []
    for part in score.parts:
        columns = (part.start_seconds.round(4), part.end_seconds.round(4), part.pitches, part.velocities)
        parts.append(
            {
                "name": part.name,
                "program": part.program,
                "drum": part.is_drum,
                "role": part.role,
                "notes": [list(note) for note in zip(*(c.tolist() for c in columns), strict=True)],
            }
        )
    return {
        "file": file,
        "seconds": score.seconds,
        "key": score.key,
        "parts": parts,
        "bars": score.bar_seconds.round(4).tolist(),
        "beats": score.beat_seconds.round(4).tolist(),
        "boundaries": score.boundary_seconds.round(4).tolist(),
    }


def score_of(roll: Mapping[str, Any], base: Score) -> Score:
    """The score that the piano roll shows: another's bars, loudness and key, with the notes of the roll.

    Parts that are muted are left out; controllers stay with parts of the same place.

    Raises:
        DataError: if the roll is none.
    """
    parts = []
    try:
        for index, part in enumerate(roll["parts"]):
            notes = sorted(tuple(map(float, note)) for note in part["notes"])
            if part.get("muted") or not notes:
                continue
            table = np.array(notes, np.float64).reshape(-1, 4)
            program, is_drum = int(part["program"]), bool(part["drum"])
            if not 0 <= program <= 127:
                raise DataError(f"A part has program {program}; expected 0 to 127.")
            name = str(part["name"])[:MAX_NAME] if is_drum else INSTRUMENT_NAMES[program]
            own = base.parts[index] if index < len(base.parts) else None
            same = own is not None and own.program == program and own.is_drum == is_drum
            columns: dict[str, Any] = {
                "start_seconds": table[:, 0],
                "end_seconds": np.minimum(table[:, 1], base.seconds),
                "pitches": table[:, 2].astype(np.int64),
                "velocities": table[:, 3].astype(np.int64),
            }
            if own is not None and same:
                parts.append(dataclasses.replace(own, **columns))
            else:
                parts.append(Part(name, program, is_drum, str(part.get("role", "")), **columns))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"The piano roll holds no notes ({error}); load the page again.") from error
    if not parts:
        raise DataError("The piano roll has no notes that sound; add one, or let a part play again.")
    if sum(len(part.pitches) for part in parts) > MAX_EDITED_NOTES:
        raise DataError(f"The piano roll has more than {MAX_EDITED_NOTES} notes; edit a shorter piece.")
    return dataclasses.replace(base, parts=tuple(parts))


def read_roll(path: Path) -> dict[str, Any]:
    """A MIDI file as the piano roll shows it."""
    return roll_of(read_midi(path), path.name)
