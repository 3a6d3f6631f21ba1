"""Scores: checked once, in seconds and in beats, cut, and as MIDI files, made here or by others, good or hostile."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silent2music.errors import AudioError, DataError
from silent2music.score import (
    ENERGY_RATE_HZ,
    EXPRESSION,
    MAX_SECONDS,
    PITCH_BEND,
    Cue,
    Part,
    Score,
    midi_bytes,
    parse_midi,
    read_midi,
    write_midi,
)
from silent2music.tempo_map import TempoMap, map_of_beats

TICK_SECONDS = 0.001
"""What a made score may be moved by when it is written: half of its ticks of a 960th of a beat."""


def part(
    starts, ends=None, pitches=60, velocities=80, name="piano", program=0, is_drum=False, role=""
) -> Part:
    starts = np.asarray(starts, np.float64)
    ends = starts + 0.2 if ends is None else np.asarray(ends, np.float64)
    return Part(
        name,
        program,
        is_drum,
        role,
        starts,
        ends,
        np.broadcast_to(np.asarray(pitches, np.int64), starts.shape).copy(),
        np.broadcast_to(np.asarray(velocities, np.int64), starts.shape).copy(),
    )


def variable(value: int) -> bytes:
    out = [value & 0x7F]
    while value := value >> 7:
        out.append(0x80 | (value & 0x7F))
    return bytes(reversed(out))


END_OF_TRACK = b"\xff\x2f\x00"


def midi(*tracks: list[tuple[int, bytes]], division: int = 480, kind: int | None = None) -> bytes:
    """A file of tracks of (delta ticks, message)."""
    kind = (0 if len(tracks) == 1 else 1) if kind is None else kind
    out = b"MThd" + struct.pack(">IHHH", 6, kind, len(tracks), division)
    for track in tracks:
        body = b"".join(variable(delta) + message for delta, message in [*track, (0, END_OF_TRACK)])
        out += b"MTrk" + struct.pack(">I", len(body)) + body
    return out


def note(pitch: int = 60, ticks: int = 480, channel: int = 0, velocity: int = 80) -> list[tuple[int, bytes]]:
    return [(0, bytes((0x90 + channel, pitch, velocity))), (ticks, bytes((0x80 + channel, pitch, 0)))]


def full_score() -> Score:
    """Everything that a score may hold."""
    melody = part(
        [0.5, 1.0, 1.0, 2.5], [1.0, 1.5, 3.0, 3.9], [72, 74, 65, 60], [80, 1, 127, 64], role="melody"
    )
    melody = dataclasses.replace(
        melody,
        control_seconds=np.array([0.0, 0.5, 0.5, 2.0, 2.1]),
        control_numbers=np.array([10, 64, PITCH_BEND, 64, PITCH_BEND]),
        control_values=np.array([40, 127, -8192, 0, 8191]),
    )
    drums = part([0.5, 1.5], pitches=[36, 38], name="drums", is_drum=True, role="percussion")
    return Score(
        seconds=4.0,
        parts=(melody, part([0.7], name="Flöte", program=73), drums),
        gain_db=-np.linspace(0.0, 36.0, 40),
        beat_seconds=np.array([0.5, 1.0, 1.5, 2.1, 2.7, 3.3, 3.9]),
        bar_seconds=np.array([0.5, 2.1]),
        boundary_seconds=np.array([2.1]),
        key="Eb major",
        cues=(Cue(0.25, "door"), Cue(1.0, "section"), Cue(2.1, "end"), Cue(3.0, "cue: cut")),
    )


# ---- a score in memory ----


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seconds": 0.0}, "lasts 0 s"),
        ({"seconds": float("nan")}, "lasts nan s"),
        ({"seconds": 1e6}, "at most a day"),
        ({"seconds": 3.0}, "has a note or cue until 3.9 s"),
        ({"beat_seconds": np.array([1.0, 0.5])}, "beats that are negative or not in order"),
        ({"bar_seconds": np.array([-1.0])}, "bars that are negative"),
        ({"boundary_seconds": np.array([np.inf])}, "boundaries that are not finite"),
        ({"cues": (Cue(5.0, "late"),)}, "has a note or cue until 5 s"),
        ({"key": "H major"}, "key is 'H major'"),
        ({"gain_db": np.array([0.0, 3.0])}, "gain_db reaches 3 dB"),
        ({"gain_db": np.array([np.nan])}, "gain_db reaches nan"),
    ],
)
def test_a_score_is_checked_in_one_sentence(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        dataclasses.replace(full_score(), **change)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"program": 128}, "program 128"),
        ({"role": "solo"}, "role 'solo'"),
        ({"pitches": np.array([60])}, "arrays of other lengths"),
        ({"pitches": np.array([60, 128, 60, 60])}, "pitches from 60 to 128"),
        ({"velocities": np.array([0, 1, 1, 1])}, "velocities from 0 to 1"),
        ({"velocities": np.full(4, 0.5)}, "whole numbers"),
        ({"start_seconds": np.array([1.0, 0.5, 1.0, 2.0])}, "not in order"),
        ({"end_seconds": np.array([0.5, 1.5, 3.0, 3.9])}, "not before the notes' ends"),
        ({"start_seconds": np.array([np.nan, 1.0, 1.0, 2.0])}, "not finite"),
        ({"control_numbers": np.array([129, 0, 0, 0, 0])}, "controllers from 0 to 129"),
        ({"control_seconds": np.array([1.0])}, "controls as arrays of other lengths"),
    ],
)
def test_a_part_is_checked_in_one_sentence(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        dataclasses.replace(full_score().parts[0], **change)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_times_and_beats_are_inverse_and_go_on_beyond_both_ends() -> None:
    score = full_score()
    np.testing.assert_allclose(score.beats_at(score.beat_seconds), np.arange(7.0))
    times = np.array([0.0, 0.3, 1.2, 2.4, 3.9])
    np.testing.assert_allclose(score.seconds_at(score.beats_at(times)), times)
    assert score.beats_at(np.array([0.25]))[0] == pytest.approx(-0.5)
    np.testing.assert_allclose(Score(2.0, ()).beats_at(np.array([1.0])), [2.0])  # 120 bpm


def test_a_slice_holds_what_sounds_there_in_its_own_time() -> None:
    cut = full_score().slice(0.8, 2.6)
    assert cut.seconds == pytest.approx(1.8)
    melody, flute, drums = cut.parts
    np.testing.assert_allclose(melody.start_seconds, [0.0, 0.2, 0.2, 1.7])
    np.testing.assert_allclose(melody.end_seconds, [0.2, 0.7, 1.8, 1.8])
    assert melody.pitches.tolist() == [72, 74, 65, 60]
    np.testing.assert_allclose((flute.start_seconds, drums.start_seconds), [[0.0], [0.7]])
    np.testing.assert_allclose(cut.beat_seconds, [0.2, 0.7, 1.3])
    np.testing.assert_allclose(cut.boundary_seconds, [1.3])
    assert [cue.name for cue in cut.cues] == ["section", "end"]
    np.testing.assert_allclose(cut.gain_db, full_score().gain_db[8:26])
    # Pan, pedal and wheel stand at the beginning as they did in the whole.
    assert melody.control_numbers.tolist()[:3] == [10, 64, PITCH_BEND]
    assert melody.control_values.tolist() == [40, 127, -8192, 0, 8191]
    np.testing.assert_allclose(melody.control_seconds, [0.0, 0.0, 0.0, 1.2, 1.3])
    with pytest.raises(DataError, match="is not in the score of 4 s"):
        full_score().slice(4.0, 5.0)


# ---- ticks ----


def test_ticks_and_seconds_are_exact_inverses() -> None:
    rng = np.random.default_rng(0)
    for ticks_per_quarter in (1, 24, 480, 32_767):
        changes = np.concatenate([[0], np.cumsum(rng.integers(1, 10**6, 40))])
        tempi = rng.integers(1, 2**24, 41)
        there = TempoMap(ticks_per_quarter, changes, tempi, np.zeros(0, np.int64), ())
        ticks = np.sort(rng.integers(0, changes[-1] * 2, 2000))
        seconds = there.seconds(ticks)
        assert (np.diff(seconds) >= 0.0).all()
        np.testing.assert_array_equal(there.ticks(seconds), ticks)


@pytest.mark.parametrize(
    ("signature", "beats", "bars"),
    [
        ((4, 4), [0, 1, 2, 3, 4, 5], [0, 4]),
        ((3, 8), [0, 1.5, 3, 4.5], [0, 1.5, 3, 4.5]),
        ((6, 8), [0, 1.5, 3, 4.5], [0, 3]),
        ((2, 2), [0, 2, 4], [0, 4]),
        ((5, 8), [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5], [0, 2.5, 5]),
    ],
)
def test_beats_are_those_of_the_metre(
    signature: tuple[int, int], beats: list[float], bars: list[float]
) -> None:
    there = TempoMap(480, np.array([0]), np.array([10**6]), np.array([0]), (signature,))
    found = there.beats_and_bars(6 * 480)
    np.testing.assert_allclose(found[0], beats)
    np.testing.assert_allclose(found[1], bars)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000))
def test_beats_and_bars_of_made_music_come_back_from_its_map(seed: int) -> None:
    """Sections begin on a bar and cut the last beat of the one before, as the arranger's do."""
    rng = np.random.default_rng(seed)
    beats: list[float] = []
    bars: list[float] = []
    start, metre = float(rng.uniform(0.0, 0.28)), int(rng.integers(1, 6))
    for _ in range(int(rng.integers(1, 4))):
        period = float(rng.uniform(0.3, 1.5))
        lengths = period * rng.uniform(0.95, 1.05, int(rng.integers(3, 12)))
        times = start + np.concatenate([[0.0], np.cumsum(lengths)])
        beats += times.tolist()
        bars += times[::metre].tolist()
        start = float(times[-1]) + period * float(rng.uniform(0.05, 1.0))
    upbeat = float(bars[0])
    seconds = start
    there = map_of_beats(np.array(beats), np.array(bars), seconds)
    end_tick = int(there.ticks(np.array([seconds]))[0])
    found_beats, found_bars = there.beats_and_bars(end_tick)
    np.testing.assert_allclose(found_bars, bars if upbeat > 0.005 else [0.0, *bars[1:]], atol=2e-5)
    for beat in beats:  # all are there; between the last and the end there may be more
        assert np.abs(found_beats - beat).min() < (0.005 if beat < 0.01 else 2e-5)
    assert len(found_beats) - len(beats) <= 1


# ---- MIDI out and in ----


def assert_equal(one: Score, other: Score, within: float) -> None:
    assert len(one.parts) == len(other.parts)
    for a, b in zip(one.parts, other.parts, strict=True):
        assert (a.name, a.program, a.is_drum, a.role) == (b.name, b.program, b.is_drum, b.role)
        order = np.lexsort((a.pitches, np.round(a.start_seconds, 3)))
        for name in ("pitches", "velocities", "start_seconds", "end_seconds"):
            np.testing.assert_allclose(getattr(b, name), getattr(a, name)[order], atol=within)
        assert b.control_numbers.tolist() == a.control_numbers.tolist()
        assert b.control_values.tolist() == a.control_values.tolist()
        np.testing.assert_allclose(b.control_seconds, a.control_seconds, atol=within)
    for name in ("seconds", "beat_seconds", "bar_seconds", "boundary_seconds"):
        np.testing.assert_allclose(getattr(other, name), getattr(one, name), atol=within)
    assert one.key == other.key
    assert [cue.name for cue in one.cues] == [cue.name for cue in other.cues]
    np.testing.assert_allclose([c.seconds for c in other.cues], [c.seconds for c in one.cues], atol=within)


def test_all_that_a_score_holds_comes_back_from_its_file(tmp_path: Path) -> None:
    score, path = full_score(), tmp_path / "a.mid"
    write_midi(path, score)
    back = read_midi(path)
    assert_equal(score, back, TICK_SECONDS)
    # Expression has 127 steps: 0.3 dB at -36 dB.
    np.testing.assert_allclose(back.gain_db, score.gain_db, atol=0.35)
    with pytest.raises(AudioError, match=r"a\.mid exists already"):
        write_midi(path, score)


def test_a_file_that_was_read_is_written_to_the_tick() -> None:
    once = parse_midi(midi_bytes(full_score()))
    twice = parse_midi(midi_bytes(once))
    assert_equal(once, twice, 0.0)
    np.testing.assert_array_equal(once.gain_db, twice.gain_db)
    assert once.tempo_map is not None and twice.tempo_map is not None
    assert once.tempo_map.signatures == twice.tempo_map.signatures
    np.testing.assert_array_equal(once.tempo_map.quarter_us, twice.tempo_map.quarter_us)


def test_other_readers_find_what_was_written() -> None:
    import symusic

    raw = symusic.Score.from_midi(midi_bytes(full_score()))
    assert [(track.name, track.program, track.is_drum) for track in raw.tracks] == [
        ("piano [melody]", 0, False),
        ("Flöte", 73, False),
        ("drums [percussion]", 0, True),
    ]
    assert [(k.key, k.tonality) for k in raw.key_signatures] == [(-3, 0)]
    assert [m.text for m in raw.markers] == [
        "door",
        "cue: section",
        "section",
        "cue: end",
        "cue: cue: cut",
        "end",
    ]
    values = [c.value for c in raw.tracks[1].controls if c.number == EXPRESSION]
    assert values[0] == 127 and values[-1] == 16 and all(np.diff(values) < 0)
    # An upbeat of half a second, then a bar of three beats.
    assert [(s.numerator, s.denominator) for s in raw.time_signatures][:2] == [(7, 32), (3, 4)]


def test_twenty_instruments_have_a_track_each_and_drums_the_tenth_channel() -> None:
    parts = [part([0.1 * i], name=f"p{i}", program=i, pitches=40 + i) for i in range(20)]
    score = Score(4.0, (*parts, part([0.5], name="kit", program=25, is_drum=True)))
    back = parse_midi(midi_bytes(score))
    assert_equal(
        dataclasses.replace(score, beat_seconds=back.beat_seconds, bar_seconds=back.bar_seconds), back, 0.001
    )


def test_a_score_without_notes_keeps_its_length() -> None:
    back = parse_midi(midi_bytes(Score(30.0, ())))
    assert (back.seconds, back.parts) == (30.0, ())
    # An upbeat and a key make events of several kinds in time.
    beats = np.arange(0.15, 29.0, 0.6)
    back = parse_midi(midi_bytes(Score(30.0, (), beat_seconds=beats, bar_seconds=beats[2::4], key="D major")))
    assert back.seconds == pytest.approx(30.0, abs=1e-5)
    assert back.bar_seconds == pytest.approx(beats[2::4], abs=1e-5)


def test_a_key_that_is_struck_again_keeps_both_notes() -> None:
    score = Score(3.0, (part([0.0, 0.5, 0.5, 1.0], [1.5, 1.0, 2.0, 2.5], 60, [10, 20, 30, 40]),))
    (back,) = parse_midi(midi_bytes(score)).parts
    np.testing.assert_allclose(back.start_seconds, [0.0, 0.5, 0.5, 1.0], atol=1e-3)
    assert sorted(back.velocities.tolist()) == [10, 20, 30, 40]
    np.testing.assert_allclose(np.sort(back.end_seconds), [1.0, 1.5, 2.0, 2.5], atol=1e-3)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_any_notes_come_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = []
    for number in range(int(rng.integers(1, 5))):
        n = int(rng.integers(1, 40))
        starts = np.sort(rng.uniform(0.0, 19.0, n))
        # Keys of their own: two notes on one key exchange their ends.
        pitches = rng.permutation(128)[:n]
        ends = starts + rng.uniform(0.01, 1.0, n)
        parts.append(
            part(starts, ends, pitches, rng.integers(1, 128, n), name=f"p{number}", program=number * 40)
        )
    beats = np.cumsum(rng.uniform(0.3, 1.2, 12))
    score = Score(20.0, tuple(parts), beat_seconds=beats, bar_seconds=beats[::3])
    back = parse_midi(midi_bytes(score))
    for a, b in zip(score.parts, back.parts, strict=True):
        order = np.argsort(b.pitches)
        own = np.argsort(a.pitches)
        np.testing.assert_array_equal(b.pitches[order], a.pitches[own])
        np.testing.assert_array_equal(b.velocities[order], a.velocities[own])
        np.testing.assert_allclose(b.start_seconds[order], a.start_seconds[own], atol=1e-3)
        np.testing.assert_allclose(b.end_seconds[order], a.end_seconds[own], atol=1.5e-3)


# ---- files of others ----


def test_a_file_of_type_0_is_split_by_channel_and_program() -> None:
    track = [
        (0, b"\xc0\x05"),
        *note(60),
        (0, b"\xc0\x09"),
        *note(62),
        *note(64, channel=1),
        *note(36, channel=9),
    ]
    score = parse_midi(midi(track))
    found = [(p.program, p.is_drum, p.pitches.tolist()) for p in score.parts]
    assert sorted(found) == [(0, False, [64]), (0, True, [36]), (5, False, [60]), (9, False, [62])]
    np.testing.assert_allclose(sorted(p.start_seconds[0] for p in score.parts), [0.0, 0.5, 1.0, 1.5])


def test_tempo_metre_key_and_markers_of_a_file_are_heard() -> None:
    conductor = [
        (0, b"\xff\x58\x04\x03\x02\x18\x08"),
        (0, b"\xff\x59\x02\xfd\x01"),
        (0, b"\xff\x51\x03" + (10**6).to_bytes(3, "big")),
        (3 * 480, b"\xff\x51\x03" + (500_000).to_bytes(3, "big")),
        (0, b"\xff\x06\x06Chorus"),
    ]
    score = parse_midi(midi(conductor, note(ticks=6 * 480)))
    assert score.seconds == pytest.approx(4.5)
    np.testing.assert_allclose(score.beat_seconds, [0.0, 1.0, 2.0, 3.0, 3.5, 4.0])
    np.testing.assert_allclose(score.bar_seconds, [0.0, 3.0])
    assert score.key == "C minor"
    assert score.cues == (Cue(3.0, "Chorus"),)


def test_expression_is_the_scores_where_all_parts_share_it_and_a_parts_own_elsewhere() -> None:
    def expression(value: int, channel: int) -> tuple[int, bytes]:
        return (0, bytes((0xB0 + channel, EXPRESSION, value)))

    shared = parse_midi(midi([expression(64, 0), *note()], [expression(64, 1), *note(channel=1)]))
    np.testing.assert_allclose(shared.gain_db, 40.0 * np.log10(64 / 127))
    assert len(shared.gain_db) == round(shared.seconds * ENERGY_RATE_HZ)
    assert not any(len(p.control_numbers) for p in shared.parts)
    apart = parse_midi(midi([expression(64, 0), *note()], [expression(32, 1), *note(channel=1)]))
    assert not len(apart.gain_db)
    assert [p.control_values.tolist() for p in apart.parts] == [[64], [32]]


def test_notes_without_length_or_end_do_not_stop_the_rest() -> None:
    track = [(0, b"\x90\x30\x50"), *note(60, ticks=0), *note(62)]  # 48 is never released
    (found,) = parse_midi(midi(track)).parts
    assert found.pitches.tolist() == [60, 62]
    assert (found.end_seconds > found.start_seconds).all()


def test_midi_within_riff_is_read() -> None:
    inside = midi(note())
    wrapped = (
        b"RIFF" + struct.pack("<I", len(inside) + 12) + b"RMIDdata" + struct.pack("<I", len(inside)) + inside
    )
    assert parse_midi(wrapped).n_notes == 1


def tempo(quarter_us: int) -> tuple[int, bytes]:
    return (0, b"\xff\x51\x03" + quarter_us.to_bytes(3, "big"))


HOSTILE = {
    "nothing": (b"", "File size is less than 14"),
    "text": (b"this is no MIDI file at all", "File header is not MThd"),
    "header alone": (b"MThd" + struct.pack(">IHHH", 6, 1, 0, 480), "holds no notes"),
    "no notes": (midi([(480, b"\xb0\x07\x40")]), "holds no notes"),
    "cut": (midi(note())[:-6], "Invalid chunk length"),
    "no ticks": (midi(note(), division=0), "0 ticks a quarter"),
    "too many ticks": (midi(note(), division=0x7FFF | 0x8000), "Division type"),
    "film frames": (midi(note(), division=0xE728), "Division type"),
    "a quarter of no length": (midi([tempo(0), *note()]), "a quarter note of no length"),
    "one note of weeks": (midi(note(ticks=0x0FFFFFFF), division=1), "hours; expected at most 24"),
    "ten years of rests": (
        midi([(0x0FFFFFFF, b"\xb0\x07\x40")] * 7 + note(), division=1),
        "expected at most 24",
    ),
    "more beats than seconds": (
        midi([tempo(1), *note(ticks=0x0FFFFFFF)], division=1),
        "more than 500000 beats",
    ),
    "short bars": (
        midi([(0, b"\xff\x58\x04\x01\x06\x18\x08"), tempo(100), *note(ticks=0x0FFFFFFF)], division=16),
        "more than 500000 beats",
    ),
    "a velocity of 208": (midi([(0, b"\x90\x3c\xd0"), (9, b"\x80\x3c\x00")]), "velocity"),
    "a pitch of 200": (midi([(0, b"\x90\xc8\x50"), (9, b"\x80\xc8\x00")]), "pitch"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_music_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    data, message = HOSTILE[name]
    path = tmp_path / "bad.mid"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        read_midi(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_odd_headers_are_read_or_refused_and_leave_their_mark() -> None:
    odd = [
        (0, b"\xff\x58\x04\x04\xc8\x18\x08"),  # a denominator of 2 to the 200th
        (0, b"\xff\x59\x02\x7f\x05"),  # 127 sharps
        (0, b"\xff\x03\x04\xe9\xe8\xff\xfe"),  # a name that is no UTF-8
        *note(),
    ]
    score = parse_midi(midi(odd))
    assert (score.key, score.n_notes) == ("", 1)
    np.testing.assert_allclose(score.bar_seconds, [0.0])
    assert parse_midi(midi_bytes(score)).n_notes == 1


def test_files_that_are_none_or_too_large_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="does not exist or is no file"):
        read_midi(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        read_midi(tmp_path / "gone.mid")
    monkeypatch.setattr("silent2music.score.MAX_FILE_BYTES", 20)
    (tmp_path / "large.mid").write_bytes(midi(note()))
    with pytest.raises(DataError, match="expected a MIDI file of at most 0 MiB"):
        read_midi(tmp_path / "large.mid")


@pytest.mark.parametrize("seed", range(4))
def test_damaged_bytes_are_read_or_refused_and_nothing_else(seed: int) -> None:
    rng = np.random.default_rng(seed)
    whole = [midi_bytes(full_score()), midi([tempo(400_000), *note(), *note(36, channel=9)], note(channel=3))]
    n_read = 0
    for _ in range(300):
        data = bytearray(whole[int(rng.integers(2))])
        for _ in range(int(rng.choice([1, 2, 10]))):
            place = int(rng.integers(len(data)))
            if rng.random() < 0.7:
                data[place] = int(rng.integers(256))
            else:
                del data[place : place + int(rng.integers(1, 9))]
        try:
            score = parse_midi(bytes(data))
        except DataError as error:
            assert "\n" not in str(error)
            continue
        n_read += 1
        assert score.seconds <= MAX_SECONDS
        again = parse_midi(midi_bytes(score))
        assert again.n_notes == score.n_notes
    assert n_read > 20


def test_a_picture_shows_parts_bars_and_cues(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from rooms import RATE, steps_room

    from silent2music.acoustics import analyze
    from silent2music.audio import Waveform
    from silent2music.plotting import plot_score

    room = analyze(Waveform(steps_room(), RATE))
    sizes = []
    for name, score, under in (
        ("plain", full_score(), None),
        ("room", full_score(), room),
        ("nothing", Score(4.0, ()), None),
    ):
        plot_score(score, tmp_path / f"{name}.png", under)
        data = (tmp_path / f"{name}.png").read_bytes()
        assert data[:4] == b"\x89PNG"
        sizes.append(len(data))
    assert len(set(sizes)) == 3
