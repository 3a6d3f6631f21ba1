"""Notation says when notes sound as MIDI and the sound do, is what the schema of MusicXML allows, and reads well."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import steps_room
from rooms import RATE
from test_compose import made_score
from test_performing import needs_synthesiser, part, played

from silent2music import audio
from silent2music.audio import Waveform
from silent2music.export.musicxml import DIVISIONS, musicxml_bytes
from silent2music.score import Cue, Part, Score, midi_bytes, parse_midi, read_midi, write_midi


def read_back(data: bytes) -> tuple[list[list[tuple[float, float, int]]], ElementTree.Element]:
    """Notes of each part as onset and end in seconds and pitch, by the file's own tempi; ties are joined."""
    root = ElementTree.fromstring(data)
    tempi, parts = {}, []
    for own in root.iter("part"):
        at = begin = 0
        notes, open_ties = [], {}
        for measure in own.iter("measure"):
            at = end = begin
            for item in measure:
                length = int(item.findtext("duration") or 0)
                if item.tag == "sound" and item.get("tempo"):
                    tempi[at] = float(item.get("tempo"))
                elif item.tag in ("forward", "backup"):
                    at += length if item.tag == "forward" else -length
                elif item.tag == "note":
                    start = at if item.find("chord") is None else at - length
                    pitch = pitch_of(item)
                    if pitch is not None:
                        kinds = {tie.get("type") for tie in item.iter("tie")}
                        key = (item.findtext("voice"), pitch)
                        first = open_ties.pop(key) if "stop" in kinds else start
                        if "start" in kinds:
                            open_ties[key] = first
                        else:
                            notes.append((first, start + length, pitch))
                    at = start + length
                end = max(end, at)
            begin = end
        assert not open_ties
        parts.append(sorted(notes))
    places = sorted(tempi)
    assert places[0] == 0

    def seconds(divisions: int) -> float:
        total = 0.0
        for place, after in zip(places, [*places[1:], None], strict=True):
            stop = divisions if after is None else min(divisions, after)
            total += max(0, stop - place) / DIVISIONS * 60.0 / tempi[place]
        return total

    return [[(seconds(a), seconds(b), pitch) for a, b, pitch in notes] for notes in parts], root


def pitch_of(note: ElementTree.Element) -> int | None:
    instrument = note.find("instrument")
    if instrument is not None:
        return int(instrument.get("id").split("-I")[1]) - 1
    pitch = note.find("pitch")
    if pitch is None:
        return None
    step = "C D EF G A B".index(pitch.findtext("step"))
    return 12 * (int(pitch.findtext("octave")) + 1) + step + int(pitch.findtext("alter") or 0)


def check_agreement(score: Score, data: bytes) -> None:
    """Every note of the MIDI file is in the notation, its onset within 10 ms."""
    written, _ = read_back(data)
    midi = parse_midi(midi_bytes(score))
    for own, other in zip(written, midi.parts, strict=True):
        theirs = list(zip(other.start_seconds, other.pitches.tolist(), strict=True))
        assert len(own) == len(theirs)
        for pitch in {pitch for _, pitch in theirs}:
            a, b = sorted(t for t, _, p in own if p == pitch), sorted(t for t, p in theirs if p == pitch)
            assert a == pytest.approx(b, abs=0.010)


def free_score(seed: int = 0, is_free: bool = True) -> Score:
    """Three parts over beats that breathe, on a grid of sixteenths or at any time."""
    rng = np.random.default_rng(seed)
    beats = np.cumsum(rng.uniform(0.45, 0.6, 17)) - 0.2
    score = Score(float(beats[-1] + 0.4), (), beat_seconds=beats, bar_seconds=beats[::4])
    places = np.sort(rng.choice(60, 24, replace=False)) / 4.0
    starts = score.seconds_at(places)
    starts = np.sort(starts + rng.uniform(-0.03, 0.03, 24)) if is_free else starts
    parts = []
    for name, program, is_drum in (("cello", 42, False), ("fl\x00ute", 73, False), ("kit", 0, True)):
        ends = starts + rng.uniform(0.1, 0.9, 24)
        pitches = rng.permutation(24) + (36 if is_drum else 50)
        parts.append(
            Part(
                name, program, is_drum, "", starts, np.minimum(ends, score.seconds), pitches, np.full(24, 80)
            )
        )
    cues = (Cue(float(beats[5]), "do\x01or"),)
    return dataclasses.replace(
        score, parts=tuple(parts), key="Eb major", cues=cues, boundary_seconds=beats[8:9]
    )


@pytest.mark.parametrize("is_free", [True, False])
def test_notation_and_midi_agree_and_the_grid_is_seen(is_free) -> None:
    score = free_score(is_free=is_free)
    data = musicxml_bytes(score, "idea")
    check_agreement(score, data)
    _, root = read_back(data)
    types = Counter(kind.text for kind in root.iter("type"))
    if not is_free:
        # Onsets are on sixteenths, and nothing finer is needed but for what is cut at the end.
        assert sum(types[kind] for kind in ("128th", "256th", "512th", "1024th")) <= 0.05 * sum(
            types.values()
        ), types
    assert root.findtext("work/work-title") == "idea"
    assert next(p.text for p in root.iter("midi-program")) == "43"
    assert root.find("part/measure/attributes/key/fifths").text == "-3"
    assert [w.text for w in root.iter("words")] == ["door"] and [r.text for r in root.iter("rehearsal")] == [
        "2"
    ]


def test_beats_of_any_length_keep_the_times() -> None:
    """A note beside a beat of 10 ms is not moved to where beats are long."""
    beats = np.array([0.03, 0.08, 0.15, 0.21, 0.35, 0.59, 0.61, 0.71, 0.75, 0.87, 0.88, 0.92, 0.96])
    starts = np.array([0.09, 0.27, 0.43, 0.59, 0.65, 0.70, 0.79, 0.87])
    drums = Part("kit", 0, True, "", starts, starts + 0.05, np.arange(36, 44), np.full(8, 80))
    score = Score(1.0, (drums,), beat_seconds=beats, bar_seconds=beats[[0, 4, 5, 7, 9]])
    check_agreement(score, musicxml_bytes(score))


def test_chords_voices_and_upbeats_are_written() -> None:
    starts = np.array([0.0, 0.0, 0.0, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0])
    ends = np.array([1.0, 1.0, 2.0, 1.5, 3.0, 1.1, 1.2, 1.4, 1.6, 1.9])
    pitches = np.arange(60, 70)
    notes = Part("organ", 19, False, "", starts, ends, pitches, np.full(10, 90))
    score = Score(4.0, (notes,), beat_seconds=np.arange(0.5, 4.0, 0.5), bar_seconds=np.array([1.0, 3.0]))
    data = musicxml_bytes(score)
    (written,), root = read_back(data)
    assert sorted(pitch for _, _, pitch in written) == pitches.tolist()
    assert len({voice.text for voice in root.iter("voice")}) <= 4
    assert root.find("part/measure").get("implicit") == "yes"
    assert sum(1 for _ in root.iter("chord")) >= 1
    assert musicxml_bytes(Score(1.0, ())).startswith(b"<?xml")


def test_the_files_of_others_keep_their_metres(tmp_path) -> None:
    score = free_score(1)
    write_midi(tmp_path / "a.mid", score)
    again = read_midi(tmp_path / "a.mid")
    data = musicxml_bytes(again)
    check_agreement(again, data)
    _, root = read_back(data)
    lengths = []
    for measure in root.find("part"):
        here = [
            int(n.findtext("duration"))
            for n in measure.iter("note")
            if n.findtext("voice") == "1" and n.find("chord") is None
        ]
        lengths.append(Fraction(sum(here), DIVISIONS))
    assert set(lengths[1:-1]) <= {Fraction(4), Fraction(0)} or all(length <= 4 for length in lengths)


XML, XLINK = (
    f'<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema" targetNamespace="http://www.w3.org/{name}">'
    + "".join(f'<xs:attribute name="{attribute}" type="xs:string"/>' for attribute in attributes.split())
    + "</xs:schema>"
    for name, attributes in (
        ("XML/1998/namespace", "lang space"),
        ("1999/xlink", "type href role title show actuate"),
    )
)
"""What MusicXML's schema takes from others, which it would fetch."""


def test_an_independent_reader_takes_it_and_the_schema_allows_it(tmp_path) -> None:
    partitura = pytest.importorskip("partitura")
    etree = pytest.importorskip("lxml.etree")
    score = free_score(2)
    path = tmp_path / "a.musicxml"
    path.write_bytes(musicxml_bytes(score, "a"))
    text = (Path(partitura.__file__).parent / "assets" / "musicxml.xsd").read_text(encoding="utf-8")
    for name, others in (
        ("musicxml", text.replace("http://www.musicxml.org/xsd/", "")),
        ("xml", XML),
        ("xlink", XLINK),
    ):
        (tmp_path / f"{name}.xsd").write_text(others, encoding="utf-8")
    etree.XMLSchema(etree.parse(tmp_path / "musicxml.xsd")).assertValid(etree.parse(path))
    read = partitura.load_musicxml(path)
    mine, _ = read_back(path.read_bytes())
    for own, other in zip(mine[:2], read.parts, strict=False):
        notes = other.note_array()
        assert sorted(notes["pitch"].tolist()) == sorted(pitch for _, _, pitch in own)


@needs_synthesiser
def test_notation_and_sound_agree() -> None:
    starts = np.array([0.31, 0.97, 1.52, 2.13, 2.71])
    blocks = part(starts, length=0.1, pitch=76, program=115, name="woodblock")
    score = Score(4.0, (blocks,), beat_seconds=np.arange(0.2, 4.0, 0.53))
    (written,), _ = read_back(musicxml_bytes(score))
    sound = np.abs(played(score, seconds=4.0)).max(axis=0)
    for onset, _, _ in written:
        near = sound[round((onset - 0.05) * RATE) : round((onset + 0.05) * RATE)]
        heard = onset - 0.05 + np.flatnonzero(near > 0.1 * near.max())[0] / RATE
        assert heard == pytest.approx(onset, abs=0.010)


def test_commands_write_notation(s2m, tmp_path, monkeypatch, sketched_folder) -> None:
    monkeypatch.chdir(tmp_path)
    audio.write(tmp_path / "room.wav", Waveform(steps_room(2.0), RATE))
    write_midi(tmp_path / "tune.mid", made_score(1.5))
    model = ("--model", sketched_folder)
    for command in (
        ("compose", "room.wav", "--musicxml"),
        ("compose", "room.wav", "-o", "alone.musicxml"),
        ("infer", "room.wav", "-o", "music.wav", "--musicxml", "--seconds", 1),
        ("perform", "tune.mid", "-o", "played.wav", "--musicxml"),
    ):
        code, _, wrong = s2m(*command, *model)
        assert code == 0, wrong
    for name in ("room", "alone", "music", "played"):
        notes, _ = read_back((tmp_path / f"{name}.musicxml").read_bytes())
        assert sum(map(len, notes)) > 0
    check_agreement(read_midi(tmp_path / "music.mid"), (tmp_path / "music.musicxml").read_bytes())
    assert not (tmp_path / "alone.mid").exists()
    record = json.loads((tmp_path / "music.json").read_text(encoding="utf-8"))
    assert record["musicxml"]["file"] == "music.musicxml"
    assert (
        s2m("infer", "room.wav", "-o", "music.wav", "--musicxml", "--force", "--seconds", 1, *model)[0] == 0
    )
    code, _, wrong = s2m("compose", "room.wav", "-o", "a.xml", *model)
    assert code == 1 and "expected one of .mid, .midi, .musicxml" in wrong
