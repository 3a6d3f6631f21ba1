"""The pair format: a folder with `pairs.jsonl` and audio files.

The factory writes it and a user with a microphone writes it by hand; there is one format. Each line of
`pairs.jsonl` is one JSON object:

    {"silent": "rooms/kitchen.flac", "music": "takes/kitchen.flac", "score": "takes/kitchen.mid",
     "start": 2.0, "end": 32.0, "split": "train", "labels": {"kind": "room", "tempo_bpm": 72.0}}

`silent`, `music` and `score` are paths relative to the folder. `score`, the music's notes as a MIDI file, is optional;
where there is one, `music` may be null: such a pair teaches to compose and not to perform. `start` and `end`, in
seconds, are optional and cut all files alike; `split` is `train` (default) or `validation`; `labels` is free.
Blank lines are ignored.

An entry of `labels.sources` is `{"path", "licence", "author", "role"}`. The optional `role` says what the
source gave: `recording` (the default), `score`, `room` (an impulse response) or `instrument`. Recordings and
scores belong to one split only; rooms and instruments are tools that both splits may share.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from silent2music import audio
from silent2music.arrays import evenly
from silent2music.audio import Waveform
from silent2music.errors import AudioError, DataError, shown
from silent2music.files import parse_json, write_text
from silent2music.score import Score, read_midi

MANIFEST = "pairs.jsonl"
SPLITS = ("train", "validation")
KEYS = ("silent", "music", "score", "start", "end", "split", "labels")
SOURCE_ROLES = ("recording", "score", "room", "instrument")

MAX_LINE_BYTES = 2**22
MAX_SECONDS = 1e6
MAX_LENGTH_DIFFERENCE_SECONDS = 0.05
MAX_SILENT_DBFS = -35.0
MIN_MUSIC_DBFS = -60.0
"""A music side whose RMS is below this counts as silent, so that a microphone's noise floor does not pass for music."""


@dataclass(frozen=True)
class Pair:
    """One line of the manifest.

    Attributes:
        silent: path of the near-silent side, relative to the folder, with forward slashes.
        music: path of the music side, likewise, or None for a pair without sound.
        start: first second used, in both files; None is the beginning.
        end: last second used, in both files; None is the end.
        split: `train` or `validation`.
        labels: what is known of the pair, under free names.
        score: path of the music's score, a MIDI file, or None.
    """

    silent: str
    music: str | None
    start: float | None = None
    end: float | None = None
    split: str = "train"
    labels: Mapping[str, Any] = field(default_factory=dict)
    score: str | None = None

    @property
    def id(self) -> str:
        """The name of the pair in its folder: the paths of both sides (of the score where there is no music) and, if
        cut, the range.

        Example:
            >>> Pair("a.wav", "b.wav", 1.0, 2.5).id
            'a.wav:b.wav@1.0-2.5'
        """
        both = f"{self.silent}:{self.score if self.music is None else self.music}"
        if self.start is None and self.end is None:
            return both
        return f"{both}@{self.start or 0.0}-{'' if self.end is None else self.end}"

    @property
    def kind(self) -> str:
        """The scene kind, or the empty string where the labels do not say."""
        return str(self.labels.get("kind", ""))

    def to_line(self) -> str:
        """The pair as one line of the manifest, without line end and default values.

        Raises:
            DataError: if a label is no JSON value (NaN and infinity included).
        """
        values = {key: value for key in KEYS if (value := getattr(self, key)) is not None or key == "music"}
        try:
            return json.dumps(values, ensure_ascii=False, allow_nan=False, default=_plain)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"The labels of pair {self.id} are no JSON ({error}); use finite plain values."
            ) from error


def _plain(value: Any) -> Any:
    """NumPy values as plain ones, for JSON."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not a JSON value")


@dataclass(frozen=True)
class Fault:
    """One fault of a manifest, with its line.

    Attributes:
        line: line number in `pairs.jsonl`, from 1.
        what: short name of the kind of fault, such as `missing-file`.
        message: one sentence: what was got, what was expected, what to do.
    """

    line: int
    what: str
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}: {self.message}"


def read_pairs(folder: Path | str) -> list[Pair]:
    """Read the manifest of a pair folder; the audio is not looked at.

    Raises:
        DataError: on a missing manifest or the first bad line, with file and line number.
    """
    manifest = Path(folder) / MANIFEST
    pairs = []
    for line, text in _lines(manifest):
        found = _parse(text)
        if not isinstance(found, Pair):
            raise DataError(f"{manifest}, line {line}: {found[0][1]}")
        pairs.append(found)
    return pairs


def sounding_pairs(folder: Path | str) -> list[Pair]:
    """Those pairs of a folder that have music as sound."""
    return [pair for pair in read_pairs(folder) if pair.music is not None]


def spread_pairs(pairs: Sequence[Pair], most: int) -> list[Pair]:
    """At most so many of the pairs, evenly spread over all of them."""
    return [pairs[i] for i in evenly(len(pairs), most)]


def write_pairs(folder: Path | str, pairs: Iterable[Pair]) -> None:
    """Write the manifest of a pair folder, whole or not at all, replacing an older one.

    Raises:
        DataError: if the labels of a pair are no JSON.
        AudioError: if the place cannot be written.
    """
    text = "".join(pair.to_line() + "\n" for pair in pairs)
    write_text(Path(folder) / MANIFEST, text)


def load_pair(folder: Path | str, pair: Pair) -> tuple[Waveform, Waveform]:
    """Read the two sides of a pair that has both, cut to `start` and `end`.

    Raises:
        AudioError: if a file cannot be read or the range lies outside it.
        DataError: if the pair has no music, or a file links out of the folder.
    """
    if pair.music is None:
        raise DataError(f"The pair {pair.id} has no music; expected one with sound.")
    root = Path(folder)
    silent, music = (_cut(audio.read(_inside(root, p)), pair, p) for p in (pair.silent, pair.music))
    return silent, music


def silent_side(folder: Path | str, pair: Pair) -> Waveform:
    """Read the near-silent side of a pair, cut to `start` and `end`."""
    return _cut(audio.read(_inside(Path(folder), pair.silent)), pair, pair.silent)


def score_of(folder: Path | str, pair: Pair) -> Score | None:
    """Read the score of a pair, cut to `start` and `end`; None where it has none.

    Raises:
        DataError: if the file cannot be read, links out of the folder, or the range lies outside it.
    """
    if pair.score is None:
        return None
    score = read_midi(_inside(Path(folder), pair.score))
    if pair.start is None and pair.end is None:
        return score
    return score.slice(pair.start or 0.0, score.seconds if pair.end is None else pair.end)


def _inside(folder: Path, name: str) -> Path:
    """The file of a name in a folder."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"'{name}' links out of the folder; copy the file itself.")
    return path


def _cut(waveform: Waveform, pair: Pair, name: str) -> Waveform:
    """The range of a pair out of one side."""
    if pair.start is None and pair.end is None:
        return waveform
    start = pair.start or 0.0
    end = waveform.seconds if pair.end is None else pair.end
    latest = waveform.seconds + MAX_LENGTH_DIFFERENCE_SECONDS
    if not (0 <= start <= end - audio.MIN_SECONDS and end <= latest):
        raise AudioError(
            f"{name} lasts {waveform.seconds:.2f} s; expected the range {start:g} to {end:g} s to lie inside "
            f"and to hold at least {audio.MIN_SECONDS} s."
        )
    first, last = round(start * waveform.sample_rate), round(end * waveform.sample_rate)
    return Waveform(waveform.samples[:, first:last], waveform.sample_rate)


def music_files(path: Path, split: str = "train") -> list[Path]:
    """The music files of a split: of a pair folder its music sides, of any other folder or file all its audio (training).

    Args:
        path: pair folder, another folder, or an audio file.
        split: `train` or `validation`.
    """
    if (path / MANIFEST).exists():
        names = [pair.music for pair in read_pairs(path) if pair.split == split and pair.music is not None]
        return [_inside(path, name) for name in names]
    if split != "train":
        return []
    return audio.find_audio(path) if path.is_dir() else [path]


def _lines(manifest: Path) -> Iterator[tuple[int, bytes]]:
    """Line numbers and bytes of a manifest, blank lines left out, and of a very long one its beginning."""
    try:
        if not manifest.is_file():
            what = "no regular file" if manifest.exists() else "No such file or directory"
            raise OSError(errno.EINVAL, what)
        with manifest.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                for raw in line.splitlines():
                    number += 1
                    if raw.strip(b"\xef\xbb\xbf \t\r\n"):
                        yield number, raw
                while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE_BYTES + 1)
    except OSError as error:
        raise DataError(
            f"{manifest} cannot be read ({error.strerror}); expected a pair folder with {MANIFEST}."
        ) from error


def _parse(line: bytes) -> Pair | list[tuple[str, str]]:
    """One line as a pair, or all that is wrong about it: kinds of fault with their sentences."""
    if len(line) > MAX_LINE_BYTES:
        return [("malformed-json", f"The line has more than {MAX_LINE_BYTES} bytes; expected one pair.")]
    try:
        values = parse_json(line.strip())
    except ValueError as error:
        return [("malformed-json", f"The line is no JSON ({error}); expected one object a line.")]
    if not isinstance(values, dict):
        found = type(values).__name__
        return [("malformed-json", f"The line is a {found}; expected one JSON object.")]
    if faults := list(_value_faults(values)):
        return faults
    seconds = {key: float(values[key]) for key in ("start", "end") if values.get(key) is not None}
    return Pair(**{**values, **seconds})


def _value_faults(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Faults of the values of one line, without opening files."""

    def wrong(key: str, expected: str, what: str = "wrong-type") -> tuple[str, str]:
        return what, f"'{key}' is {shown(values[key])}; expected {expected}."

    for key in values:
        if key not in KEYS:
            keys = f"{', '.join(KEYS)} (free keys go into labels)"
            yield "unknown-key", f"Unknown key {shown(key)}; expected {keys}."
    for key in ("silent", "music", "score"):
        path = f"the path of {'a MIDI file' if key == 'score' else 'an audio file'}"
        if key not in values:
            if key != "score":
                yield "missing-key", f"The key '{key}' is missing; expected {path}."
        elif values[key] is None and (key == "score" or (key == "music" and values.get("score"))):
            continue
        elif not isinstance(values[key], str) or not values[key]:
            yield wrong(key, path + (", or a score where there is no music" if key == "music" else ""))
        elif not values[key].isprintable():
            yield wrong(key, "a path without control characters")
        elif _escapes(values[key]):
            yield wrong(key, "a relative path that stays in the folder", "outside-folder")
    for key in ("start", "end"):
        value = values.get(key)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (is_number and abs(value) <= MAX_SECONDS):
            yield wrong(key, "a number of seconds")
    start, end = values.get("start") or 0.0, values.get("end")
    if isinstance(start, int | float) and (start < 0 or (isinstance(end, int | float) and end <= start)):
        span = f"The range {shown(start)} to {shown(end)} s is empty or starts before 0"
        yield "bad-range", f"{span}; expected 0 <= start < end."
    if (split := values.get("split", "train")) not in SPLITS:
        yield "unknown-split", f"The split is {shown(split)}; expected {' or '.join(SPLITS)}."
    if not isinstance(values.get("labels", {}), dict):
        yield wrong("labels", "an object")
    else:
        yield from _source_faults(values.get("labels", {}).get("sources", []))


def _escapes(path: str) -> bool:
    """Whether a relative path leaves its folder, on any system."""
    pure = PurePosixPath(path.replace("\\", "/"))
    return pure.is_absolute() or ".." in pure.parts or (len(path) > 1 and path[1] == ":")


def _source_faults(sources: Any) -> Iterator[tuple[str, str]]:
    """Faults of `labels.sources`."""
    if not isinstance(sources, list):
        yield "wrong-type", f"'labels.sources' is {shown(sources)}; expected a list of objects."
        return
    for source in sources:
        if not isinstance(source, dict) or not isinstance(source.get("path"), str):
            expected = "an object with path, licence and author"
            yield "wrong-type", f"A source is {shown(source)}; expected {expected}."
        elif not source.get("licence"):
            lacks = f"The source {shown(source['path'])} has no licence"
            yield "no-licence", f"{lacks}; state one or leave the pair out."
        elif source.get("role", "recording") not in SOURCE_ROLES:
            expected = ", ".join(SOURCE_ROLES)
            yield "wrong-type", f"A source has the role {shown(source['role'])}; expected {expected}."


def check(folder: Path | str) -> list[Fault]:
    """Check a whole pair folder, and list all faults.

    Every line is parsed, every file read; no fault hides another on a different line. The kinds of fault are
    `malformed-json`, `missing-key`, `unknown-key`, `wrong-type`, `outside-folder`, `bad-range`,
    `unknown-split`, `no-licence`, `duplicate`, `file-in-two-splits`, `source-in-two-splits`,
    `score-in-two-splits`, `missing-file`, `unreadable`, `range-outside-audio`, `lengths-differ`,
    `silent-side-loud` and `music-side-silent`.

    Returns:
        The faults by line; empty where the folder is good.

    Raises:
        DataError: if there is no manifest at all.
    """
    root = Path(folder)
    faults: list[Fault] = []
    pairs: list[tuple[int, Pair]] = []
    for line, text in _lines(root / MANIFEST):
        found = _parse(text)
        if isinstance(found, Pair):
            pairs.append((line, found))
        else:
            faults += [Fault(line, *fault) for fault in found]
    faults += _duplicates(pairs)
    faults += _split_leaks(pairs)
    for line, pair in pairs:
        faults += [Fault(line, *fault) for fault in _file_faults(root, pair)]
    if not pairs and not faults:
        faults.append(Fault(1, "empty", f"{root / MANIFEST} holds no pair; expected at least one line."))
    return sorted(faults, key=lambda fault: fault.line)


def _duplicates(pairs: list[tuple[int, Pair]]) -> Iterator[Fault]:
    """Faults: pairs that are in the manifest twice."""
    first: dict[str, int] = {}
    for line, pair in pairs:
        if first.setdefault(pair.id, line) != line:
            yield Fault(
                line, "duplicate", f"The same pair stands on line {first[pair.id]}; remove one of them."
            )


def _split_leaks(pairs: list[tuple[int, Pair]]) -> Iterator[Fault]:
    """Files, recordings and scores that two splits share, named on the first line of the later split."""
    owner: dict[tuple[str, str], tuple[str, int]] = {}
    for line, pair in pairs:
        for what, name in sorted(_belongings(pair)):
            split, first = owner.setdefault((what, name), (pair.split, line))
            if split != pair.split:
                yield Fault(
                    line,
                    f"{what}-in-two-splits",
                    f"The {what} '{name}' is in {pair.split} here and in {split} on line {first}; "
                    "put all its pairs into one split.",
                )


def _belongings(pair: Pair) -> set[tuple[str, str]]:
    """What of a pair may be in one split only, as (kind of thing, name)."""
    things = {("file", str(PurePosixPath(p))) for p in (pair.silent, pair.music, pair.score) if p is not None}
    if pair.labels.get("score"):
        things.add(("score", str(pair.labels["score"])))
    for source in pair.labels.get("sources", []):
        role = source.get("role", "recording")
        if role in ("recording", "score"):
            things.add(("source" if role == "recording" else "score", source["path"]))
    return things


def _file_faults(root: Path, pair: Pair) -> Iterator[tuple[str, str]]:
    """Faults of the audio and the score of a pair."""
    sides: dict[str, Waveform] = {}
    score: Score | None = None
    for side, name in (("silent side", pair.silent), ("music side", pair.music), ("score", pair.score)):
        if name is None:
            continue
        path = root / name
        if not path.is_file():
            yield "missing-file", f"The {side} '{name}' is not there; copy it into the folder."
            continue
        try:
            path = _inside(root, name)
        except DataError as error:
            yield "outside-folder", f"The {side} {error}"
            continue
        try:
            if side == "score":
                score = score_of(root, pair)
                continue
            waveform = audio.read(path)
        except (AudioError, DataError) as error:
            yield "unreadable", str(error)
            continue
        try:
            sides[side] = _cut(waveform, pair, name)
        except AudioError as error:
            yield "range-outside-audio", str(error)
    if len(sides) == 2:
        difference = sides["silent side"].seconds - sides["music side"].seconds
        if abs(difference) > MAX_LENGTH_DIFFERENCE_SECONDS:
            yield (
                "lengths-differ",
                f"The silent side is {difference * 1000:+.0f} ms longer than the music; expected at most "
                f"{MAX_LENGTH_DIFFERENCE_SECONDS * 1000:.0f} ms either way.",
            )
    if score is not None and "silent side" in sides:
        seconds = sides["silent side"].seconds
        if score.seconds > seconds + MAX_LENGTH_DIFFERENCE_SECONDS:
            yield (
                "lengths-differ",
                f"The score lasts {score.seconds:.2f} s and the silent side {seconds:.2f} s; expected it to be no "
                "longer.",
            )
    yield from _level_faults(sides, may_be_silent=pair.kind == "nothing")


def _level_faults(sides: dict[str, Waveform], may_be_silent: bool) -> Iterator[tuple[str, str]]:
    """Sides whose RMS level does not fit their part; music for a room in which there is nothing may be none."""
    if "silent side" in sides and (level := audio.rms_dbfs(sides["silent side"].samples)) > MAX_SILENT_DBFS:
        yield (
            "silent-side-loud",
            f"The silent side has {level:.1f} dBFS RMS; at most {MAX_SILENT_DBFS:.0f} is allowed.",
        )
    if may_be_silent or "music side" not in sides:
        return
    if (level := audio.rms_dbfs(sides["music side"].samples)) < MIN_MUSIC_DBFS:
        yield (
            "music-side-silent",
            f"The music side has {level:.1f} dBFS RMS; expected at least {MIN_MUSIC_DBFS:.0f}, "
            "are the sides swapped?",
        )
