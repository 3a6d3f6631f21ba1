"""Moments of an editor's timeline as cues: tables, CMX 3600 edit lists, Final Cut's XML, cue points of WAV files.

Their times become seconds after the clip's first frame by a `Clock`.
"""

from __future__ import annotations

import csv
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree
from xml.parsers import expat

from silent2music.errors import ConfigError, DataError
from silent2music.export.picture.timecode import Clock, frame_number, is_timecode
from silent2music.files import read_small
from silent2music.score import Cue

MAX_CUES = 10_000
MAX_LABEL_BYTES = 2**20
"""Of the text chunks of a WAV file, no more is read."""

TIME_COLUMNS, NAME_COLUMNS = ("in", "seconds", "time", "start"), ("marker name", "name", "description")
"""Headings of tables: Premiere's first, which also has times of its end and durations."""

_CODE = r"\d\d[:;]\d\d[:;]\d\d[:;.]\d\d"
EVENT = re.compile(rf"\d+\s+\S+\s+\S+\s+\S+(?:\s+\d+)?\s+{_CODE}\s+{_CODE}\s+({_CODE})\s+{_CODE}")
"""A line of a CMX 3600 list: number, reel, track, edit; source in and out, record in and out."""

LOCATOR = re.compile(rf"\*\s*LOC:\s*({_CODE})\s+\S+\s*(.*)")
"""Avid's and Premiere's markers: timecode, colour, name."""

RESOLVE_MARKER = re.compile(r"^\|.*\|M:([^|]*)")
"""Resolve's, in a line below the event where it lies."""

CLIP_NAME = re.compile(r"\*\s*(?:FROM|TO) CLIP NAME:\s*(.*)")
FCPXML_TIME = re.compile(r"(\d+)(?:/([1-9]\d*))?s")


def read_markers(path: Path, clock: Clock) -> tuple[Cue, ...]:
    """The moments that a file names, ascending, as its kind has them.

    Args:
        path: `.edl`, `.fcpxml` (or its bundle `.fcpxmld`), `.wav`, or a table with `seconds,name` or Premiere's columns.
        clock: what its times mean.

    Raises:
        DataError: if it cannot be read or holds no moment.
    """
    if path.is_dir() and (path / "Info.fcpxml").is_file():
        path /= "Info.fcpxml"
    suffix = path.suffix.lower()
    try:
        if suffix == ".wav":
            with path.open("rb") as file:
                found = _wav(file)
        elif suffix in (".fcpxml", ".xml"):
            found = _fcpxml(read_small(path))
        else:
            reader: Callable[[str, Clock], list[Cue]] = _edl if suffix == ".edl" else _table
            found = reader(_text(read_small(path)), clock)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); check the name.") from error
    except (ValueError, ConfigError, ElementTree.ParseError, expat.ExpatError, struct.error) as error:
        raise DataError(f"{path} is no list of markers that can be read: {error}") from error
    if not found:
        raise DataError(f"{path} holds no markers; expected CSV, EDL, FCPXML or WAV with at least one.")
    if len(found) > MAX_CUES:
        raise DataError(f"{path} holds {len(found)} markers; expected {MAX_CUES} at most.")
    return tuple(sorted(found, key=lambda cue: cue.seconds))


def _text(data: bytes) -> str:
    """Text of an editor: UTF-16 where it says so, as Premiere writes it, else UTF-8, else Windows' Latin."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _table(text: str, clock: Clock) -> list[Cue]:
    """Rows of a table: by its headings, or without them `seconds,name`."""
    lines = text.splitlines()
    delimiter = "\t" if lines and "\t" in lines[0] else ","
    rows = [row for row in csv.reader(lines, delimiter=delimiter) if any(field.strip() for field in row)]
    if not rows:
        return []
    heading = [field.strip().lower() for field in rows[0]]
    time = next((heading.index(name) for name in TIME_COLUMNS if name in heading), None)
    names = [heading.index(name) for name in NAME_COLUMNS if name in heading]
    if time is not None:
        rows = rows[1:]
    elif any(character.isdigit() for character in heading[0]):
        time, names = 0, [1]
    else:
        raise ValueError("its first line is neither 'seconds,name' nor a time; expected a table of both")
    found: list[Cue] = []
    for row in rows:
        if len(row) <= time:
            raise ValueError(f"a row has {len(row)} columns; expected a time in column {time + 1}")
        name = next((row[i].strip() for i in names if i < len(row) and row[i].strip()), "")
        found.append(Cue(_seconds(row[time].strip(), clock), name or f"marker {len(found) + 1}"))
    return found


def _seconds(text: str, clock: Clock) -> float:
    """A time of a table; Premiere writes drop-frame timecode with `;` throughout."""
    return clock.seconds(text, drop=is_timecode(text) and ";" in text)


def _edl(text: str, clock: Clock) -> list[Cue]:
    """Locators of an edit list, or where it has none the beginnings of its events, which are cuts.

    A clip without a timecode, or with one that is later than the whole list, begins with the first event.
    """
    drop = re.search(r"^FCM:\s*DROP", text, re.MULTILINE) is not None
    events: list[tuple[str, str]] = []
    marked: list[tuple[str, str]] = []
    for line in map(str.strip, text.splitlines()):
        if match := EVENT.match(line):
            events.append((match[1], f"cut {len(events) + 1}"))
        elif match := LOCATOR.fullmatch(line):
            marked.append((match[1], match[2]))
        elif (match := RESOLVE_MARKER.search(line)) and events:
            marked.append((events[-1][0], match[1].strip()))
        elif (match := CLIP_NAME.fullmatch(line)) and events:
            events[-1] = (events[-1][0], match[1])
    if not events and not marked:
        raise ValueError("it has no line of an edit and no locator of CMX 3600")
    numbers = [frame_number(code, clock.rate, drop) for code, _ in marked or events]
    start = clock.start
    if start is None or max(numbers) < start:
        start = min(frame_number(code, clock.rate, drop) for code, _ in events or marked)
    names = [name for _, name in marked or events]
    first = start if marked else start + 1
    return [
        Cue(float((n - start) / clock.rate), name)
        for n, name in zip(numbers, names, strict=True)
        if n >= first
    ]


def _fcpxml(data: bytes) -> list[Cue]:
    """Markers of the first timeline in Final Cut's XML.

    A marker's time is its clip's own: a clip lies at `offset` on its parent's time axis and begins with `start` on its
    own (Apple, FCPXML Reference: timing attributes).
    """
    _check_xml(data)
    root = ElementTree.fromstring(data)
    if root.tag != "fcpxml":
        raise ValueError(
            f"its first element is {root.tag}; expected fcpxml, as Final Cut and Resolve write it"
        )
    timeline = next(root.iter("sequence"), None)
    if timeline is not None:
        begin = _fcpxml_time(timeline.attrib, "tcStart")
    else:
        timeline = next((element for element in root.iter() if element.tag.endswith("clip")), None)
        if timeline is None:
            return []
        begin = _fcpxml_time(timeline.attrib, "start")
    return list(_markers_of(timeline, -begin))


def _check_xml(data: bytes) -> None:
    """Refuse what XML may do beside holding elements: entities, and document types with contents or from elsewhere.

    Raises:
        ValueError: if it does.
    """

    def doctype(name: str, system: str | None, public: str | None, has_contents: int) -> None:
        if system or public or has_contents:
            raise ValueError("its document type has contents, which are not read; expected <!DOCTYPE fcpxml>")

    def entity(*_: object) -> None:
        raise ValueError("it declares entities, which are not read")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = doctype
    parser.EntityDeclHandler = entity
    parser.Parse(data, True)


def _fcpxml_time(attributes: Mapping[str, str], name: str) -> Fraction:
    """A rational time such as `1001/30000s`, 0 where there is none."""
    value = attributes.get(name, "0s")
    match = FCPXML_TIME.fullmatch(value)
    if match is None:
        raise ValueError(f"{name} is '{value[:40]}'; expected rational seconds such as 1001/30000s")
    return Fraction(int(match[1]), int(match[2] or 1))


def _markers_of(element: ElementTree.Element, shift: Fraction, depth: int = 0) -> Iterator[Cue]:
    """Markers below an element, whose time axis is the timeline's after `shift` is added."""
    if depth > 100:
        raise ValueError("it is nested too deeply")
    for child in element:
        if child.tag in ("marker", "chapter-marker"):
            name = child.get("value") or "marker"
            yield Cue(float(shift + _fcpxml_time(child.attrib, "start")), name)
            continue
        place = shift
        if "offset" in child.attrib:
            place += _fcpxml_time(child.attrib, "offset")
            # Of a secondary storyline the clips' offsets count from its beginning.
            place -= 0 if child.tag == "spine" else _fcpxml_time(child.attrib, "start")
        yield from _markers_of(child, place, depth + 1)


def _wav(file: BinaryIO) -> list[Cue]:
    """Cue points of a WAV file, named by their labels."""
    if file.read(12)[8:] != b"WAVE":
        raise ValueError("it does not begin as a WAV file does")
    rate = 0
    points: dict[int, int] = {}
    labels: dict[int, str] = {}
    while len(head := file.read(8)) == 8:
        name, size = struct.unpack("<4sI", head)
        after = file.tell() + size + size % 2
        if name == b"fmt ":
            (rate,) = struct.unpack("<4xI", file.read(8))
        elif name == b"cue ":
            body = file.read(min(size, 4 + 24 * (MAX_CUES + 1)))
            for at in range(4, len(body) - 23, 24):
                number, *_, place = struct.unpack("<II4sIII", body[at : at + 24])
                points[number] = place
        elif name == b"LIST" and file.read(4) == b"adtl":
            labels |= _labels(file.read(min(size - 4, MAX_LABEL_BYTES)))
        file.seek(after)
    if points and not rate:
        raise ValueError("it has cue points and no sample rate")
    return [Cue(place / rate, labels.get(n) or f"marker {n}") for n, place in points.items()]


def _labels(body: bytes) -> dict[int, str]:
    """Names of cue points by their numbers, of a list of associated data."""
    found: dict[int, str] = {}
    at = 0
    while at + 12 <= len(body):
        name, size, number = struct.unpack("<4sII", body[at : at + 12])
        if name == b"labl":
            found[number] = body[at + 12 : at + 8 + size].split(b"\0")[0].decode("utf-8", errors="replace")
        at += 8 + size + size % 2
    return found
