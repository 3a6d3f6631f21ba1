"""Projects of audio workstations: stems, notes, tempo map and markers as a session of REAPER or a DAWproject file.

REAPER's project is a text that names the stems beside it. DAWproject (github.com/bitwig/dawproject, version 1.0; read by
Bitwig Studio, Cubase and Studio One) is a ZIP archive with the stems in it.
"""

from __future__ import annotations

import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np

from silent2music import __version__
from silent2music.export.musicxml import readable
from silent2music.score import Part, Score
from silent2music.tempo_map import TempoMap, map_of_beats

MOST_BPM = 2000.0
"""What tempo parameters state as their range."""


@dataclass(frozen=True)
class Session:
    """What a project holds.

    Attributes:
        title: its name.
        score: notes, tempo map, sections and cues.
        stems: by name the place of each and where its bytes are for now.
        sample_rate, n_channels, n_samples: of the stems.
    """

    title: str
    score: Score
    stems: Mapping[str, tuple[Path, Path]]
    sample_rate: int
    n_channels: int
    n_samples: int

    @property
    def seconds(self) -> float:
        """The length of the stems."""
        return self.n_samples / self.sample_rate

    @property
    def tempo_map(self) -> TempoMap:
        """That of the score's MIDI file."""
        score = self.score
        return score.tempo_map or map_of_beats(score.beat_seconds, score.bar_seconds, score.seconds)

    def markers(self) -> list[tuple[float, str]]:
        """Sections and cues in seconds."""
        sections = [(float(t), f"section {n}") for n, t in enumerate(self.score.boundary_seconds, start=2)]
        return sorted([*sections, *((cue.seconds, readable(cue.name)) for cue in self.score.cues)])

    def tempi(self) -> list[tuple[int, float]]:
        """Ticks and quarters a minute."""
        own = self.tempo_map
        return [(int(t), 60e6 / us) for t, us in zip(own.tempo_ticks, own.quarter_us.tolist(), strict=True)]

    def metres(self) -> list[tuple[int, tuple[int, int]]]:
        """Ticks and time signatures, the first at 0."""
        own = self.tempo_map
        found = list(zip(own.signature_ticks.tolist(), own.signatures, strict=True))
        return found if found and found[0][0] == 0 else [(0, (4, 4)), *found]


# ---- REAPER ----


def write_reaper(path: Path, session: Session) -> None:
    """A REAPER project: a track for each stem, and one for each part's notes."""
    path.write_text("\n".join(_reaper_lines(session)) + "\n", encoding="utf-8")


def _reaper_lines(session: Session) -> Iterator[str]:
    tempi, metres = session.tempi(), dict(session.metres())
    (numerator, denominator), tempo_map = metres[0], session.tempo_map
    yield f'<REAPER_PROJECT 0.1 "7.0/silent2music-{__version__}" 0'
    yield f"  SAMPLERATE {session.sample_rate} 1 0"
    yield f"  TEMPO {tempi[0][1]:.10f} {numerator} {denominator}"
    for number, (seconds, name) in enumerate(session.markers(), start=1):
        yield f"  MARKER {number} {seconds:.12f} {_quoted(name)} 0"
    yield "  <TEMPOENVEX"
    yield "    ACT 1 -1"
    yield "    DEFSHAPE 1 -1 -1"
    bpm = 0.0
    by_tick = dict(tempi)
    for tick in sorted({*by_tick, *metres}):
        bpm = by_tick.get(tick, bpm)
        seconds = float(tempo_map.seconds(np.array([tick]))[0])
        # The shape 1 holds a tempo up to the next point; a metre is numerator and denominator in one number.
        metre = f" {metres[tick][0] + (metres[tick][1] << 16)} 0 1" if tick in metres else ""
        yield f"    PT {seconds:.12f} {bpm:.10f} 1{metre}"
    yield "  >"
    for name, (place, _) in session.stems.items():
        yield from _reaper_track(
            session, name, [f"<SOURCE {_source(place)}", f"  FILE {_quoted(place.name)}", ">"]
        )
    for part in session.score.parts:
        yield from _reaper_track(session, f"{part.name} (notes)", list(_reaper_notes(session, part)))
    yield ">"


def _source(place: Path) -> str:
    return "FLAC" if place.suffix.lower() == ".flac" else "WAVE"


def _reaper_track(session: Session, name: str, source: Sequence[str]) -> Iterator[str]:
    own = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{session.title}/{name}/{len(source)}")).upper()
    yield f"  <TRACK {{{own}}}"
    yield f"    NAME {_quoted(name)}"
    yield f"    NCHAN {max(2, session.n_channels)}"
    yield "    <ITEM"
    yield "      POSITION 0"
    yield f"      LENGTH {session.seconds:.12f}"
    yield "      LOOP 0"
    yield f"      NAME {_quoted(name)}"
    yield from (f"      {line}" for line in source)
    yield "    >"
    yield "  >"


def _reaper_notes(session: Session, part: Part) -> Iterator[str]:
    """A part as events in hexadecimal, each after so many ticks of a quarter note."""
    tempo_map, channel = session.tempo_map, 9 if part.is_drum else 0
    events = [(0, 0, f"{0xC0 + channel:02x} {part.program:02x}")]
    ticks = (tempo_map.ticks(times).tolist() for times in (part.start_seconds, part.end_seconds))
    for on, off, pitch, velocity in zip(*ticks, part.pitches.tolist(), part.velocities.tolist(), strict=True):
        events.append((on, 2, f"{0x90 + channel:02x} {pitch:02x} {velocity:02x}"))
        events.append((max(off, on + 1), 1, f"{0x80 + channel:02x} {pitch:02x} 00"))
    end = max([int(tempo_map.ticks(np.array([session.seconds]))[0]), *(tick for tick, _, _ in events)])
    events.append((end, 3, f"{0xB0 + channel:02x} 7b 00"))
    yield "<SOURCE MIDI"
    yield f"  HASDATA 1 {tempo_map.ticks_per_quarter} QN"
    before = 0
    for tick, _, message in sorted(events):
        # Two bytes of a program's change have a third that counts for nothing.
        yield f"  E {tick - before} {message}{' 00' if len(message) == 5 else ''}"
        before = tick
    yield ">"


def _quoted(text: str) -> str:
    """A text as REAPER's projects have it, in quotes that it does not hold itself."""
    text = readable(" ".join(text.split()))
    quote = next((mark for mark in "\"'`" if mark not in text), None)
    return f"{quote}{text}{quote}" if quote else f"`{text.replace('`', chr(39))}`"


# ---- DAWproject ----


def write_dawproject(path: Path, session: Session) -> None:
    """A DAWproject archive, the same bytes for the same session."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, root in (("project.xml", _project_xml(session)), ("metadata.xml", _metadata_xml(session))):
            indent(root)
            text = '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode")
            archive.writestr(_entry(name, zipfile.ZIP_DEFLATED), text.encode())
        for place, file in session.stems.values():
            with (
                archive.open(_entry(f"audio/{place.name}", zipfile.ZIP_STORED), "w") as sink,
                file.open("rb") as source,
            ):
                while block := source.read(2**20):
                    sink.write(block)


def _entry(name: str, compression: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)  # of 1980, whenever it is written
    entry.compress_type = compression
    return entry


def _metadata_xml(session: Session) -> Element:
    root = Element("MetaData")
    SubElement(root, "Title").text = readable(session.title)
    SubElement(root, "Comment").text = f"Made by silent2music {__version__}"
    return root


def _project_xml(session: Session) -> Element:
    """The project: a track for each stem, in seconds, and one for each part's notes, in quarters."""
    root = Element("Project", version="1.0")
    SubElement(root, "Application", name="silent2music", version=__version__)
    transport = SubElement(root, "Transport")
    (_, bpm), (_, metre) = session.tempi()[0], session.metres()[0]
    _parameter(transport, "Tempo", "tempo", "bpm", bpm, 1.0, MOST_BPM)
    SubElement(transport, "TimeSignature", id="metre", numerator=str(metre[0]), denominator=str(metre[1]))
    structure = SubElement(root, "Structure")
    arrangement = SubElement(root, "Arrangement", id="arrangement")
    lanes = SubElement(arrangement, "Lanes", id="lanes", timeUnit="beats")
    for index, (name, (place, _)) in enumerate(session.stems.items()):
        _track(structure, f"stem{index}", name, "audio", session.n_channels)
        clip = _clip(lanes, f"stem{index}", "seconds", session.seconds)
        audio = SubElement(
            clip, "Audio", channels=str(session.n_channels), sampleRate=str(session.sample_rate),
            duration=repr(session.seconds),
        )  # fmt: skip
        SubElement(audio, "File", path=f"audio/{place.name}")
    for index, part in enumerate(session.score.parts):
        _track(structure, f"part{index}", f"{part.name} (notes)", "notes", 2)
        _notes(lanes, f"part{index}", session, part)
    _track(structure, "master", "Master", "audio notes", 2)
    tempo_map, quarter = session.tempo_map, session.tempo_map.ticks_per_quarter
    if markers := session.markers():
        own = SubElement(arrangement, "Markers", id="markers", timeUnit="beats")
        ticks = tempo_map.ticks(np.array([seconds for seconds, _ in markers]))
        for tick, (_, name) in zip(ticks.tolist(), markers, strict=True):
            SubElement(own, "Marker", name=name, time=repr(tick / quarter))
    points = _points(arrangement, "TempoAutomation", "tempo", unit="bpm")
    for tick, bpm in session.tempi():
        SubElement(points, "RealPoint", time=repr(tick / quarter), value=f"{bpm:.9f}", interpolation="hold")
    points = _points(arrangement, "TimeSignatureAutomation", "metre")
    for tick, (numerator, denominator) in session.metres():
        values = {"numerator": str(numerator), "denominator": str(denominator)}
        SubElement(points, "TimeSignaturePoint", {"time": repr(tick / quarter), **values})
    return root


def _parameter(
    parent: Element, tag: str, name: str, unit: str, value: float, least: float, most: float
) -> None:
    SubElement(parent, tag, id=name, unit=unit, value=f"{value:.9f}", min=repr(least), max=repr(most))


def _track(structure: Element, name: str, title: str, content: str, n_channels: int) -> None:
    """A track with its channel, which leads to the master's."""
    track = SubElement(structure, "Track", contentType=content, id=name, loaded="true", name=readable(title))
    leads = {"role": "master"} if name == "master" else {"role": "regular", "destination": "master-channel"}
    channel = SubElement(
        track, "Channel", {"id": f"{name}-channel", "audioChannels": str(n_channels), **leads}
    )
    _parameter(channel, "Volume", f"{name}-volume", "linear", 1.0, 0.0, 2.0)


def _clip(lanes: Element, track: str, unit: str, length: float) -> Element:
    """A clip on a track of its own from the beginning on."""
    lane = SubElement(lanes, "Lanes", id=f"{track}-lanes", track=track, timeUnit=unit)
    clips = SubElement(lane, "Clips", id=f"{track}-clips")
    return SubElement(clips, "Clip", time="0.0", duration=repr(length), contentTimeUnit=unit, playStart="0.0")


def _notes(lanes: Element, track: str, session: Session, part: Part) -> None:
    tempo_map, quarter = session.tempo_map, session.tempo_map.ticks_per_quarter
    on, off = (tempo_map.ticks(times) for times in (part.start_seconds, part.end_seconds))
    length = max([int(tempo_map.ticks(np.array([session.seconds]))[0]), *off.tolist()])
    own = SubElement(_clip(lanes, track, "beats", length / quarter), "Notes", id=f"{track}-notes")
    for start, end, pitch, velocity in zip(
        on.tolist(), off.tolist(), part.pitches.tolist(), part.velocities.tolist(), strict=True
    ):
        SubElement(
            own, "Note", time=repr(start / quarter), duration=repr(max(end - start, 1) / quarter),
            channel=str(9 if part.is_drum else 0), key=str(pitch), vel=f"{velocity / 127:.6f}",
        )  # fmt: skip


def _points(arrangement: Element, tag: str, parameter: str, **unit: str) -> Element:
    points = SubElement(arrangement, tag, {"id": f"{parameter}-automation", "timeUnit": "beats", **unit})
    SubElement(points, "Target", parameter=parameter)
    return points


PROJECTS: dict[str, tuple[str, Callable[[Path, Session], None]]] = {
    "reaper": (".rpp", write_reaper),
    "dawproject": (".dawproject", write_dawproject),
}
"""Suffix and writer of each kind of project."""
