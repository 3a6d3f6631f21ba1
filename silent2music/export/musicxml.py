"""A score as notation: MusicXML 4.0, which every engraving program reads.

A performer's times are rarely those of note values. So each note begins at the coarsest value that is within
`TOLERANCE_SECONDS` of when it sounds: music on a grid looks as one would write it, and free music looks as fine as it
is. Tempi are those of the score's MIDI file, so that notation and MIDI agree in time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np

from silent2music.arrays import DoubleArray, IntArray
from silent2music.score import Part, Score, key_signature
from silent2music.tempo_map import DEFAULT_QUARTER_US, TempoMap, map_of_beats

MUSICXML_SUFFIX = ".musicxml"

TOLERANCE_SECONDS = 0.008
"""How far a note may be written from when it sounds."""

END_TOLERANCE = 0.25
"""How far its end may be, as a share of its length: what is written short is easier to read."""

DIVISIONS = 384
"""Of a quarter: down to 512th notes, and to triplets of 64ths."""

GRIDS = (1, 2, 4, 3, 8, 6, 16, 12, 32, 64, 128)
"""Parts of a quarter at which notes may begin, the easiest to read first."""

MOST_VOICES = 4
"""Of a part: what programs can show on a staff. Where more notes sound, the one that began first ends earlier."""

SHARPS, FLATS, MIXED = (
    names.split()
    for names in (
        "C C# D D# E F F# G G# A A# B",
        "C Db D Eb E F Gb G Ab A Bb B",
        "C C# D Eb E F F# G G# A Bb B",
    )
)
"""How pitches are spelled in keys with sharps, with flats and with neither."""

TYPES = (
    "breve",
    "whole",
    "half",
    "quarter",
    "eighth",
    *(f"{n}th" for n in (16,)),
    "32nd",
    "64th",
    "128th",
    "256th",
)
VALUES = {name: 8 * DIVISIONS / 2**i for i, name in enumerate((*TYPES, "512th", "1024th"))}
"""Note values in divisions."""


@dataclass
class _Note:
    """A note or chord as it is written: beginning and end in divisions, pitches, and how hard it is struck."""

    start: int
    end: int
    pitches: list[int]
    velocity: int


@dataclass(frozen=True)
class _Bar:
    """A measure: where it begins and ends in divisions, the time signature if it is new, and whether it is cut."""

    start: int
    end: int
    signature: tuple[int, int] | None
    is_cut: bool


def musicxml_bytes(score: Score, title: str = "") -> bytes:
    """A score as a MusicXML file: a part for each of the score's, with its instrument, bars, key, tempi and cues."""
    tempo_map = score.tempo_map or map_of_beats(score.beat_seconds, score.bar_seconds, score.seconds)
    written = [_written(part, tempo_map) for part in score.parts]
    last = max(
        [
            _divisions(tempo_map, tempo_map.ticks(np.array([score.seconds])))[0],
            1,
            *(n.end for p in written for n in p),
        ]
    )
    bars = list(_bars(tempo_map, int(last)))
    root = Element("score-partwise", version="4.0")
    if title:
        SubElement(SubElement(root, "work"), "work-title").text = readable(title)
    encoding = SubElement(SubElement(root, "identification"), "encoding")
    SubElement(encoding, "software").text = "silent2music"
    listed = SubElement(root, "part-list")
    key = key_signature(score.key) or key_signature(score.heard_key()) or (0, 0)
    for index, (part, notes) in enumerate(zip(score.parts, written, strict=True)):
        _list_part(listed, part, f"P{index + 1}", index)
        voices = _voices(notes)
        own = SubElement(root, "part", id=f"P{index + 1}")
        marks = _marks(score, tempo_map) if index == 0 else []
        for number, bar in enumerate(bars, start=1):
            inside = [
                (at, mark)
                for at, mark in marks
                if bar.start <= at < bar.end or (bar is bars[-1] and at >= bar.end)
            ]
            _measure(own, part, f"P{index + 1}", number, bar, voices, inside, key)
    indent(root)
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return (head + tostring(root, encoding="unicode") + "\n").encode()


def readable(text: str) -> str:
    """A text without what XML cannot hold, such as control characters in the names of MIDI files.

    Example:
        >>> readable("Flute\\x00 1")
        'Flute 1'
    """
    return "".join(c for c in text if c.isprintable())


def _divisions(tempo_map: TempoMap, ticks: IntArray) -> IntArray:
    """Ticks `[n]` in divisions, rounded."""
    return np.asarray(np.rint(ticks * (DIVISIONS / tempo_map.ticks_per_quarter)), np.int64)


def _written(part: Part, tempo_map: TempoMap) -> list[_Note]:
    """A part's notes as they are written, chords joined, in order."""
    allowed = END_TOLERANCE * (part.end_seconds - part.start_seconds)
    starts = _snapped(tempo_map, part.start_seconds, np.full(len(allowed), TOLERANCE_SECONDS))
    ends = _snapped(tempo_map, part.end_seconds, np.maximum(allowed, TOLERANCE_SECONDS))
    ends = np.maximum(ends, starts + DIVISIONS // GRIDS[-1])
    notes: dict[tuple[int, int], _Note] = {}
    for start, end, pitch, velocity in zip(
        starts.tolist(), ends.tolist(), part.pitches.tolist(), part.velocities.tolist(), strict=True
    ):
        chord = notes.setdefault((start, end), _Note(start, end, [], velocity))
        if pitch not in chord.pitches:
            chord.pitches.append(pitch)
    return sorted(notes.values(), key=lambda note: (note.start, note.end))


def _snapped(tempo_map: TempoMap, seconds: DoubleArray, tolerance: DoubleArray) -> IntArray:
    """Times `[n]` as divisions, each on the first of `GRIDS` that is near enough in seconds, else the nearest."""
    ticks, quarter = tempo_map.ticks(seconds), tempo_map.ticks_per_quarter
    quarters, true = ticks / quarter, tempo_map.seconds(ticks)
    found = np.rint(quarters * DIVISIONS).astype(np.int64)
    left = np.ones(len(quarters), bool)
    for grid in GRIDS:
        near = np.rint(quarters * grid) / grid
        # Tempi may change between the two.
        error = tempo_map.seconds(np.rint(near * quarter).astype(np.int64)) - true
        fits = left & (np.abs(error) <= tolerance)
        found[fits] = np.rint(near[fits] * DIVISIONS).astype(np.int64)
        left &= ~fits
    return np.asarray(found, np.int64)


def _voices(notes: list[_Note]) -> list[list[_Note]]:
    """Notes in as few voices as they need, none of which has two at once."""
    voices: list[list[_Note]] = [[]]
    for note in notes:
        free = next((voice for voice in voices if not voice or voice[-1].end <= note.start), None)
        if free is None and len(voices) < MOST_VOICES:
            voices.append(free := [])
        if free is None:
            # One that begins with it is as full a chord as its own; else what began first gives way.
            free = min(voices, key=lambda voice: voice[-1].start)
            if free[-1].start == note.start:
                free[-1].pitches += [pitch for pitch in note.pitches if pitch not in free[-1].pitches]
                continue
            free[-1].end = note.start
        free.append(note)
    return voices


def _bars(tempo_map: TempoMap, last: int) -> Iterator[_Bar]:
    """Measures up to a position in divisions."""
    changes = list(
        zip(_divisions(tempo_map, tempo_map.signature_ticks).tolist(), tempo_map.signatures, strict=True)
    )
    if not changes or changes[0][0] > 0:
        changes.insert(0, (0, (4, 4)))
    for (start, signature), stop in zip(changes, [*(at for at, _ in changes[1:]), None], strict=True):
        length = max(1, 4 * DIVISIONS * signature[0] // signature[1])
        given: tuple[int, int] | None = signature
        while start < (last if stop is None else min(stop, last)):
            end = start + length if stop is None else min(start + length, stop)
            yield _Bar(start, end, given, end - start < length or (signature[1] == 32 and start == 0))
            start, given = end, None


def _marks(score: Score, tempo_map: TempoMap) -> list[tuple[int, tuple[str, str]]]:
    """Tempi in quarters a minute, sections and cues, by position in divisions."""
    ticks, quarters = (
        (tempo_map.tempo_ticks, tempo_map.quarter_us)
        if len(tempo_map.tempo_ticks)
        else ([0], [DEFAULT_QUARTER_US])
    )
    found = [
        (int(at), ("tempo", f"{60e6 / us:.6f}"))
        for at, us in zip(_divisions(tempo_map, np.asarray(ticks)), quarters, strict=True)
    ]
    boundaries = _divisions(tempo_map, tempo_map.ticks(score.boundary_seconds))
    found += [(int(at), ("rehearsal", str(n))) for n, at in enumerate(boundaries.tolist(), start=2)]
    cues = _divisions(tempo_map, tempo_map.ticks(np.array([cue.seconds for cue in score.cues])))
    found += [
        (int(at), ("words", readable(cue.name))) for at, cue in zip(cues.tolist(), score.cues, strict=True)
    ]
    return sorted(found, key=lambda mark: mark[0])


def _list_part(listed: Element, part: Part, name: str, index: int) -> None:
    """Name and instruments of a part; of drums each key is an instrument."""
    own = SubElement(listed, "score-part", id=name)
    SubElement(own, "part-name").text = readable(part.name) or f"Part {index + 1}"
    keys = sorted(set(part.pitches.tolist())) if part.is_drum else [None]
    ids = [f"{name}-I{1 if key is None else key + 1}" for key in keys]
    for one, key in zip(ids, keys, strict=True):
        instrument = SubElement(own, "score-instrument", id=one)
        SubElement(instrument, "instrument-name").text = (
            readable(part.name) if key is None else f"{readable(part.name)} {key}"
        )
    # Channel 10 is the drums'.
    channel = 10 if part.is_drum else (index % 15 + 1) + (index % 15 >= 9)
    for one, key in zip(ids, keys, strict=True):
        played = SubElement(own, "midi-instrument", id=one)
        SubElement(played, "midi-channel").text = str(channel)
        SubElement(played, "midi-program").text = str(part.program + 1)
        if key is not None:
            SubElement(played, "midi-unpitched").text = str(key + 1)


def _measure(
    parent: Element,
    part: Part,
    name: str,
    number: int,
    bar: _Bar,
    voices: list[list[_Note]],
    marks: list[tuple[int, tuple[str, str]]],
    key: tuple[int, int],
) -> None:
    """One measure of a part: its attributes, its marks, and its voices one after another."""
    cut = {"implicit": "yes"} if bar.is_cut else {}
    measure = SubElement(parent, "measure", {"number": str(number), **cut})
    if number == 1 or bar.signature:
        _attributes(measure, part, bar, key, number == 1)
    at = bar.start
    for place, (kind, text) in marks:
        place = min(place, bar.end)
        at = _moved(measure, at, place)
        if kind == "tempo":
            SubElement(measure, "sound", tempo=text)
        else:
            direction = SubElement(measure, "direction", placement="above")
            SubElement(SubElement(direction, "direction-type"), kind).text = text
    for index, voice in enumerate(voices):
        inside = [note for note in voice if note.start < bar.end and note.end > bar.start]
        if index and not inside:
            continue
        at = _moved(measure, at, bar.start)
        for note in inside:
            start, end = max(note.start, bar.start), min(note.end, bar.end)
            at = _rested(measure, at, start, index)
            _sounded(measure, part, name, note, start, end, index, key[0])
            at = end
        if not index:
            at = _rested(measure, at, bar.end, index)
    _moved(measure, at, bar.end)


def _attributes(measure: Element, part: Part, bar: _Bar, key: tuple[int, int], is_first: bool) -> None:
    """Divisions, key and clef in the first measure, and the time signature."""
    attributes = SubElement(measure, "attributes")
    if is_first:
        SubElement(attributes, "divisions").text = str(DIVISIONS)
        own = SubElement(attributes, "key")
        SubElement(own, "fifths").text = str(0 if part.is_drum else key[0])
        SubElement(own, "mode").text = ("major", "minor")[key[1]]
    if bar.signature:
        time = SubElement(attributes, "time")
        SubElement(time, "beats").text = str(bar.signature[0])
        SubElement(time, "beat-type").text = str(bar.signature[1])
    if is_first:
        clef = SubElement(attributes, "clef")
        low = len(part.pitches) > 0 and float(np.median(part.pitches)) < 60
        sign, line = ("percussion", "3") if part.is_drum else ("F", "4") if low else ("G", "2")
        SubElement(clef, "sign").text = sign
        SubElement(clef, "line").text = line


def _moved(measure: Element, at: int, to: int) -> int:
    """Move to another place in the measure; gives that."""
    if to != at:
        move = SubElement(measure, "forward" if to > at else "backup")
        SubElement(move, "duration").text = str(abs(to - at))
    return to


def _rested(measure: Element, at: int, to: int, voice: int) -> int:
    """Be silent up to a place: in rests in the first voice, unseen in others; gives that place."""
    if voice:
        return _moved(measure, at, to)
    for value in _values(to - at):
        note = SubElement(measure, "note")
        SubElement(note, "rest")
        _timed(note, value, voice)
    return to


def _sounded(
    measure: Element,
    part: Part,
    name: str,
    note: _Note,
    start: int,
    end: int,
    voice: int,
    fifths: int,
) -> None:
    """A note or chord from one place to another, tied to what it was before and will be after."""
    for value in _values(end - start):
        for index, pitch in enumerate(sorted(note.pitches)):
            own = SubElement(measure, "note", dynamics=f"{100.0 * note.velocity / 90.0:.2f}")
            if index:
                SubElement(own, "chord")
            _pitched(own, part, pitch, fifths)
            ties = [
                kind
                for kind, there in (("stop", start > note.start), ("start", start + value[0] < note.end))
                if there
            ]
            _timed(own, value, voice, ties, f"{name}-I{pitch + 1}" if part.is_drum else "")
        start += value[0]


def _pitched(note: Element, part: Part, pitch: int, fifths: int) -> None:
    """The pitch of a note; drums have a place on the staff."""
    octave, tone = divmod(pitch, 12)
    spelled = (MIXED, SHARPS, FLATS)[(fifths > 0) - (fifths < 0)][tone]
    kind, prefix = ("unpitched", "display-") if part.is_drum else ("pitch", "")
    own = SubElement(note, kind)
    SubElement(own, f"{prefix}step").text = spelled[0]
    if len(spelled) > 1 and not part.is_drum:
        SubElement(own, "alter").text = "1" if spelled[1] == "#" else "-1"
    SubElement(own, f"{prefix}octave").text = str(octave - 1)


def _timed(
    note: Element,
    value: tuple[int, str, int, bool],
    voice: int,
    ties: list[str] | None = None,
    instrument: str = "",
) -> None:
    """The length of a note or rest, and its ties, in the order that the schema wants."""
    length, kind, n_dots, is_triplet = value
    SubElement(note, "duration").text = str(length)
    for tie in ties or ():
        SubElement(note, "tie", type=tie)
    if instrument:
        SubElement(note, "instrument", id=instrument)
    SubElement(note, "voice").text = str(voice + 1)
    SubElement(note, "type").text = kind
    for _ in range(n_dots):
        SubElement(note, "dot")
    if is_triplet:
        time = SubElement(note, "time-modification")
        SubElement(time, "actual-notes").text = "3"
        SubElement(time, "normal-notes").text = "2"
    if ties:
        notations = SubElement(note, "notations")
        for tie in ties:
            SubElement(notations, "tied", type=tie)


def _values(length: int) -> Iterator[tuple[int, str, int, bool]]:
    """A length in divisions as note values: divisions, type, dots and whether it is one of a triplet.

    Example:
        >>> [(kind, dots, triplet) for _, kind, dots, triplet in _values(5 * DIVISIONS // 4)]
        [('quarter', 0, False), ('16th', 0, False)]
        >>> [(kind, triplet) for _, kind, _, triplet in _values(DIVISIONS // 3)]
        [('eighth', True)]
    """
    if length % 3:
        # What is left by one value of a triplet is a multiple of 3, and so of plain values.
        of_triplet = [(round(value * 2 / 3), kind) for kind, value in VALUES.items()]
        fits = [(own, kind) for own, kind in of_triplet if own <= length and (length - own) % 3 == 0]
        own, kind = max(fits)
        yield own, kind, 0, True
        length -= own
    while length:
        plain = [(int(value), kind, 0) for kind, value in VALUES.items() if value.is_integer()]
        dotted = [(3 * own // 2, kind, 1) for own, kind, _ in plain if own % 2 == 0]
        own, kind, n_dots = max(value for value in plain + dotted if value[0] <= length and value[0] % 3 == 0)
        yield own, kind, n_dots, False
        length -= own
