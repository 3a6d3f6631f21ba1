"""Projects hold the stems, the notes at their times, the tempo map and the markers, in the forms that others read."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from test_compose import made_score
from test_musicxml import free_score

from silent2music.errors import ConfigError
from silent2music.export.beside import Beside
from silent2music.export.project import Session, write_dawproject, write_reaper
from silent2music.score import Score, read_midi, write_midi


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Session:
    folder = tmp_path_factory.mktemp("session")
    stems = {}
    for name in ("bass", 'the "loud" one'):
        place = folder / f"idea.{name[:4]}.wav"
        place.write_bytes(name.encode() * 1000)
        stems[name] = (place, place)
    return Session("idea", free_score(3), stems, 48_000, 2, 480_000)


@pytest.fixture(scope="module")
def midi(session, tmp_path_factory) -> Score:
    path = tmp_path_factory.mktemp("midi") / "a.mid"
    write_midi(path, session.score)
    return read_midi(path)


def check_notes(found: list[tuple[float, float, int]], part) -> None:
    """Notes as beginning and end in seconds and pitch are those of a part that was read from MIDI."""
    theirs = sorted(zip(part.start_seconds, part.end_seconds, part.pitches.tolist(), strict=True))
    assert np.array(sorted(found)) == pytest.approx(np.array(theirs), abs=1e-4)


def test_reapers_parser_finds_what_was_written(session, midi, tmp_path) -> None:
    rpp = pytest.importorskip("rpp")
    path = tmp_path / "idea.rpp"
    write_reaper(path, session)
    project = rpp.loads(path.read_text(encoding="utf-8"))
    assert project.tag == "REAPER_PROJECT"
    tracks = project.findall(".//TRACK")
    assert len(tracks) == 2 + len(session.score.parts)
    names = [track.find("NAME")[1] for track in tracks]
    assert names[:2] == ["bass", 'the "loud" one'] and names[2] == "cello (notes)"
    assert [f[1] for f in project.findall(".//FILE")] == ["idea.bass.wav", "idea.the .wav"]
    assert {item.find("LENGTH")[1] for item in project.findall(".//ITEM")} == {"10.000000000000"}
    markers = [(float(m[2]), m[3]) for m in project.findall("MARKER")]
    assert [name for _, name in markers] == ["door", "section 2"]
    assert markers[0][0] == pytest.approx(session.score.cues[0].seconds)
    points = [(float(p[1]), float(p[2])) for p in project.findall(".//PT")]
    beats = midi.beat_seconds
    tempi = [60.0 / length for length in np.diff(beats)[:4]]
    assert [bpm for at, bpm in points if at > 0.01][:4] == pytest.approx(tempi, rel=1e-4)
    metres = [int(p[4]) for p in project.findall(".//PT") if len(p) > 4]
    assert (4 + (4 << 16)) in metres
    for track, part in zip(tracks[2:], midi.parts, strict=True):
        source = track.find(".//SOURCE")
        quarter, at, begun, notes = int(source.find("HASDATA")[2]), 0, {}, []
        for event in source.findall("E"):
            at += int(event[1])
            kind, pitch = int(event[2], 16), int(event[3], 16)
            if kind >> 4 == 9:
                begun[pitch] = at
            elif kind >> 4 == 8:
                notes.append((begun.pop(pitch), at, pitch))
            assert kind & 15 == (9 if part.is_drum else 0)
        assert quarter == midi.tempo_map.ticks_per_quarter
        seconds = midi.tempo_map.seconds
        check_notes([(float(seconds([a])[0]), float(seconds([b])[0]), p) for a, b, p in notes], part)


def test_a_dawproject_is_what_its_schema_says(session, tmp_path) -> None:
    etree = pytest.importorskip("lxml.etree")
    path = tmp_path / "idea.dawproject"
    write_dawproject(path, session)
    again = tmp_path / "again.dawproject"
    write_dawproject(again, session)
    assert again.read_bytes() == path.read_bytes()
    schemas = [etree.XMLSchema(etree.parse(Path(__file__).with_name("dawproject.xsd")))]
    if "S2M_DAWPROJECT_XSD" in os.environ:
        schemas.append(etree.XMLSchema(etree.parse(os.environ["S2M_DAWPROJECT_XSD"])))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        for place, _ in session.stems.values():
            assert archive.read(f"audio/{place.name}") == place.read_bytes()
        for schema in schemas:
            schema.assertValid(etree.fromstring(archive.read("project.xml")))
        schemas[0].assertValid(etree.fromstring(archive.read("metadata.xml")))
        files = [
            file.get("path") for file in ElementTree.fromstring(archive.read("project.xml")).iter("File")
        ]
        assert set(files) <= set(archive.namelist())
    bare = Session("bare", Score(2.0, ()), {}, 48_000, 2, 96_000)
    write_dawproject(path, bare)  # one without any marker, stem or note
    broken = etree.fromstring(b'<Project version="1.0"><Application name="a" version="b"/></Project>')
    assert not schemas[0].validate(broken)


def test_a_dawprojects_notes_and_markers_are_at_their_times(session, midi, tmp_path) -> None:
    path = tmp_path / "idea.dawproject"
    write_dawproject(path, session)
    with zipfile.ZipFile(path) as archive:
        root = ElementTree.fromstring(archive.read("project.xml"))
    points = [(float(p.get("time")), float(p.get("value"))) for p in root.iter("RealPoint")]

    def seconds(beat: float) -> float:
        total = 0.0
        for (begin, bpm), (end, _) in zip(points, [*points[1:], (np.inf, 0.0)], strict=True):
            total += max(0.0, min(beat, end) - begin) * 60.0 / bpm
        return total

    for own, part in zip(root.iter("Notes"), midi.parts, strict=True):
        notes = [(float(n.get("time")), float(n.get("duration")), int(n.get("key"))) for n in own]
        check_notes([(seconds(at), seconds(at + length), key) for at, length, key in notes], part)
    markers = {m.get("name"): seconds(float(m.get("time"))) for m in root.iter("Marker")}
    assert markers["door"] == pytest.approx(session.score.cues[0].seconds, abs=1e-3)
    assert markers["section 2"] == pytest.approx(session.score.boundary_seconds[0], abs=1e-3)


@pytest.mark.parametrize("kind", ["reaper", "dawproject"])
def test_the_command_writes_a_project(kind, s2m, tmp_path, monkeypatch, sketched_folder) -> None:
    monkeypatch.chdir(tmp_path)
    write_midi("tune.mid", made_score(1.0))
    command = ("perform", "tune.mid", "-o", "idea.wav", "--project", kind, "--model", sketched_folder)
    code, _, wrong = s2m(*command)
    assert code == 0, wrong
    record = json.loads(Path("idea.json").read_text(encoding="utf-8"))
    data = Path(record["project"]["file"]).read_bytes()
    assert all((stem["file"].encode() in data) and Path(stem["file"]).is_file() for stem in record["stems"])
    assert s2m(*command)[0] == 1
    assert s2m(*command, "--force")[0] == 0
    code, _, wrong = s2m(
        "perform", "tune.mid", "-o", "b.wav", "--project", "logic", "--model", sketched_folder
    )
    assert code == 2 and "expected reaper or dawproject" in wrong


def test_another_program_is_named() -> None:
    with pytest.raises(ConfigError, match="The project is 'logic'; expected reaper or dawproject"):
        Beside(project="logic")
    assert Beside(project="reaper").stems == "auto"
