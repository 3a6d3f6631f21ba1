"""What a user asks of a composed score: the wishes, their rules at the draw, and the options."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import test_compose
from conftest import RATE, steps_room

from silent2music import audio, composing, transcription
from silent2music.audio import Waveform
from silent2music.cli.options import SCENE
from silent2music.composer import Composer
from silent2music.config import ComposingConfig
from silent2music.controls import STYLES, Controls, parse_chord, parse_key
from silent2music.data.pairs import Pair, write_pairs
from silent2music.errors import ConfigError, DataError
from silent2music.evaluation import controls as evidence
from silent2music.evaluation import families, heard
from silent2music.evaluation.pieces import EvalConfig
from silent2music.notation import FIRST_PART, INSTRUMENT_NAMES, Event, Memory, nearest_lengths, symbol_of
from silent2music.score import Part, Score, midi_bytes, read_midi, write_midi
from silent2music.steering import BREATH_SECONDS, LOUDER_DB, Steering, contrast_of, plan_of
from silent2music.steering import heard as as_asked
from silent2music.traits import (
    affect_curves,
    chords,
    cues,
    density,
    ending,
    ending_of,
    instruments,
    melody,
    metre,
    mode,
    mood,
    tempo,
)
from silent2music.writing import Blend

composing_folder, model, make_composer = (
    test_compose.composing_folder,
    test_compose.model,
    test_compose.make_composer,
)

ROOT = Path(__file__).parent.parent
SECONDS = 6.0


def part(starts, pitches, lasting=0.4, role="harmony", program=0) -> Part:
    starts = np.asarray(starts, np.float64)
    ends = np.minimum(starts + lasting, SECONDS)
    pitches = np.asarray(pitches, np.int64)
    return Part(
        INSTRUMENT_NAMES[program], program, False, role, starts, ends, pitches, np.full(len(starts), 64)
    )


@pytest.fixture(scope="module")
def player(model):
    """A model whose composer plays anything, and so obeys only what it is forced to."""
    model.composer.known_symbols[:] = False
    model.composer.known_symbols[:FIRST_PART] = True
    for role in ("bass", "harmony", "melody"):
        for program in (0, 42, 48, 71):
            model.composer.known_symbols[symbol_of(role, program, False)] = True
    model.composer.known_pitches[:] = True
    model.composer.longest[:] = 31
    model.composer.polyphony.fill_(40)
    model.composer.repeats.fill_(200)
    return model


def compose(player, seed: int = 0, **wishes) -> tuple[Controls, Score]:
    asked = Controls.of(wishes)
    room = Waveform(steps_room(SECONDS), RATE)
    return asked, player.compose(room, SECONDS, seed=seed, asked=asked)


# ---- labels ----


def a_score() -> Score:
    """C, F, G, C, a second each, moved up by two semitones; a line above; four beats of half a second a bar."""
    roots = [62, 67, 69, 62, 62]
    triads = [part(np.full(3, float(i)), [r, r + 4, r + 7], 0.95) for i, r in enumerate(roots)]
    line = part(np.arange(0, 5, 0.5), [74, 76, 78, 79, 81, 79, 78, 76, 74, 74], 0.45, "melody", 73)
    joined = part(
        np.concatenate([t.start_seconds for t in triads]), np.concatenate([t.pitches for t in triads]), 0.95
    )
    beats = np.arange(0.0, SECONDS, 0.25)
    return Score(
        SECONDS,
        (joined, line),
        beat_seconds=beats,
        bar_seconds=beats[::4],
        boundary_seconds=np.array([2.0]),
    )


def test_labels_are_what_a_score_is_like_in_c_major() -> None:
    score, n = a_score(), 150
    assert mode(score, n, 25.0).tolist() == [1.0, 0.0]
    assert tempo(score, n, 25.0) == pytest.approx(np.log2(240 / 90))
    assert metre(score, n, 25.0).argmax() + 1 == 4
    assert np.flatnonzero(instruments(score, n, 25.0)).tolist() == [0, 73]
    found = chords(score, n, 25.0)
    assert found.shape == (n, 24)
    assert found[::25, 12:].argmax(axis=1).tolist()[:4] == [0, 5, 7, 0]
    assert np.flatnonzero(found[0, :12]).tolist() == [0, 4, 7]
    assert not found[130:].any()  # nothing sounds there
    line = melody(score, n, 25.0)
    assert line[1, :12].argmax() == 0 and line[14, :12].argmax() == 2
    assert line[0, 13] == 1.0 and line[1, 13] == 0.0 and not line[-1].any()
    near = cues(score, n, 25.0)
    assert near[50].tolist() == [1.0, 1.0, 1.0] and not near[51:].any() and (np.diff(near[:51, 0]) > 0).all()
    rate = np.expm1(3.0 * density(score, n, 25.0)[:, 0])
    assert rate[60] == pytest.approx(20 / 4, abs=0.8)  # of five chords of three and a line of ten
    curves = mood(score, n, 25.0)
    gain = np.zeros(60)
    valence, arousal = affect_curves(score.parts, gain, 240.0, "major")
    assert curves[::25, 0] == pytest.approx(np.interp(np.arange(0, n, 25) / 2.5, np.arange(60), valence))
    assert curves[::25, 1] == pytest.approx(np.interp(np.arange(0, n, 25) / 2.5, np.arange(60), arousal))


def test_endings_are_told_apart() -> None:
    score = a_score()
    assert ending_of(score) == "final"
    assert np.flatnonzero(ending(score, 150, 25.0).any(axis=0)).tolist() == [0, 1]
    chordal, line = score.parts
    half = dataclasses.replace(chordal, pitches=np.append(chordal.pitches[:-3], [69, 73, 76]))
    assert ending_of(dataclasses.replace(score, parts=(half, line))) == "open"
    late = part([5.8], [74])
    assert ending_of(dataclasses.replace(score, parts=(*score.parts, late))) == "cut"
    assert ending_of(Score(1.0, ())) is None


# ---- wishes ----


def test_keys_and_chords_are_read() -> None:
    assert parse_key("Db major") == (1, "major") and parse_key("a min") == (9, "minor")
    assert parse_chord("Bbmaj7") == (10, (10, 2, 5, 9)) and parse_chord("C#:min") == (1, (1, 4, 8))
    assert all(Controls(style=name).programs.any() for name in STYLES)


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"tempo": 900}, "tempo is 900; expected 30 to 300"),
        ({"tempo": float("nan")}, "tempo is nan"),
        ({"metre": "13/4"}, "The metre is '13/4'; expected one such as 4/4"),
        ({"key": "H"}, "The key is 'H'; expected one such as C major"),
        ({"mood": [0.2, 1.5]}, "A point of mood is .*valence, arousal of -1 to 1"),
        ({"density": [[3.0, 0.2], [1.0, 0.4]]}, "The points of density are at .*ascending"),
        ({"cues": ["soon"]}, "The cue is 'soon'; expected a time"),
        ({"ending": "loud"}, "The ending is 'loud'; expected one of final, open, cut"),
        ({"instruments": "pianoo"}, "Nobody plays 'pianoo'; .*maybe piano"),
        ({"instruments": "piano, cello", "without": "cello"}, "have cello and so has without"),
        ({"style": "piano", "without": "piano"}, "nobody is left to play"),
        ({"style": "jazz"}, "The style is 'jazz'; expected one of chamber"),
        ({"chords": "C H"}, "The chord is 'H'; expected one such as C, Am"),
        ({"chords": "C", "chord_seconds": [0.0, 1.0]}, "2 times for 1 chords"),
        ({"chords": "F#m", "key": "C major"}, "The chord F#m has no place in C major"),
        ({"swing": 0.5}, "give a tempo too"),
        ({"melody": [[0.0, 0.0, 60, 80]]}, "A note of the melody is"),
        ({"colour": "red"}, "Unknown setting 'colour'; expected one of tempo"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_for_is_said(wishes, said) -> None:
    with pytest.raises(ConfigError, match=said):
        Controls.of(wishes)


def test_what_does_not_fit_the_piece_is_said(player) -> None:
    for wishes, said in (
        ({"cues": ["7"]}, r"The cue at 7 s is outside the piece of 6 s; give --seconds"),
        ({"melody": [[0.0, 8.0, 60, 80]]}, r"The melody lasts 8 s and the piece 6 s"),
        ({"instruments": "banjo"}, "knows none of these instruments; expected some of .*piano"),
    ):
        with pytest.raises(ConfigError, match=said):
            compose(player, **wishes)


def test_plain_values_are_the_same_wishes_again(tmp_path: Path) -> None:
    (tmp_path / "moods.csv").write_text("seconds,valence,arousal\n0,0.5,0\n3,-0.5,0.2\n", encoding="utf-8")
    (tmp_path / "cues.csv").write_text("seconds,name\n1.5,door\n3\n", encoding="utf-8")
    (tmp_path / "song.lab").write_text("0.0 2.0 A:min\n2.0 4.0 F\n4.0 6.0 N\n", encoding="utf-8")
    write_midi(tmp_path / "tune.mid", a_score())
    values = {
        "mood": "moods.csv",
        "cues": "cues.csv",
        "chords": "song.lab",
        "melody": "tune.mid",
        "loose": 0.0,
    }
    asked = Controls.of(values, tmp_path)
    assert asked.mood == ((0.0, 0.5, 0.0), (3.0, -0.5, 0.2))
    assert [(cue.seconds, cue.name) for cue in asked.cue_marks] == [(1.5, "door"), (3.0, "cue")]
    assert asked.chord_seconds == (0.0, 2.0, 4.0) and asked.chords == ("A:min", "F", "N")
    assert [note[2] for note in asked.melody] == [74, 76, 78, 79, 81, 79, 78, 76, 74, 74]
    assert Controls.of(json.loads(json.dumps(asked.to_dict()))) == asked
    with pytest.raises(DataError, match=r"gone\.csv cannot be read"):
        Controls.of({"mood": "gone.csv"}, tmp_path)


def hummed(pitches, lengths, detuned: float = 0.3) -> Waveform:
    """A voice with vibrato and breath, off the usual tuning; a pitch below 0 is a rest."""
    rng, phase, sound = np.random.default_rng(0), 0.0, [np.zeros(RATE // 4)]
    for pitch, length in zip(pitches, lengths, strict=True):
        time = np.arange(round(length * RATE)) / RATE
        keys = pitch + detuned + 0.25 * np.sin(2 * np.pi * 5.5 * time)
        turns = phase + np.cumsum(440.0 * 2.0 ** ((keys - 69.0) / 12.0)) / RATE
        swell = np.minimum(1.0, np.minimum(time, length - time) / 0.04) if pitch >= 0 else np.zeros(len(time))
        sound.append(swell * sum(0.3 / k * np.sin(2 * np.pi * k * turns) for k in (1, 2, 3)))
        phase = turns[-1]
    samples = np.concatenate(sound) + 0.003 * rng.standard_normal(sum(map(len, sound)))
    return Waveform(samples[None].astype(np.float32), RATE)


@pytest.mark.slow
def test_a_hummed_line_is_heard_as_notes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(transcription, "can_transcribe", lambda: False)
    audio.write(
        tmp_path / "hum.wav", hummed([57, 59, 60, -1, 64, 64, 62], [0.4, 0.3, 0.5, 0.3, 0.4, 0.3, 0.5])
    )
    melody = Controls.of({"melody": "hum.wav"}, tmp_path).melody
    assert [note[2] for note in melody] == [57, 59, 60, 64, 64, 62]
    starts = 0.25 + np.array([0.0, 0.4, 0.7, 1.5, 1.9, 2.2])
    assert [note[0] for note in melody] == pytest.approx(starts.tolist(), abs=0.06)
    assert all(note[1] > note[0] and 60 < note[3] <= 110 for note in melody)
    for nothing in (np.zeros((1, RATE)), 0.01 * np.random.default_rng(0).standard_normal((1, RATE))):
        audio.write(tmp_path / "noise.wav", Waveform(nothing.astype(np.float32), RATE), force=True)
        with pytest.raises(DataError, match=r"No line is heard in .*noise\.wav; expected one voice"):
            Controls.of({"melody": "noise.wav"}, tmp_path)


def test_of_notes_that_sound_at_once_the_highest_are_the_line(tmp_path: Path, monkeypatch) -> None:
    heard = transcription.Notes(
        np.array([0.0, 0.1, 0.5, 1.0]), np.array([1.0, 0.4, 0.9, 1.5]), np.array([50.0, 70, 72, 60])
    )
    monkeypatch.setattr(transcription, "can_transcribe", lambda: True)
    monkeypatch.setattr(transcription, "transcribe", lambda music: heard)
    audio.write(tmp_path / "tune.wav", Waveform(np.zeros((1, RATE), np.float32), RATE))
    melody = Controls.of({"melody": "tune.wav"}, tmp_path).melody
    assert [note[:3] for note in melody] == [(0.0, 0.1, 50), (0.1, 0.4, 70), (0.5, 0.9, 72), (1.0, 1.5, 60)]


# ---- rules at the draw ----


def test_nothing_asked_changes_nothing(player) -> None:
    room = Waveform(steps_room(SECONDS), RATE)
    plain, asked = (player.compose(room, SECONDS, seed=3, asked=asked) for asked in (None, Controls()))
    assert plain.n_notes > 5 and midi_bytes(plain) == midi_bytes(asked)


def test_notes_bars_and_beats_stand_on_the_grid(player) -> None:
    asked, score = compose(player, tempo=97.0, metre="3/4", cues=["2.55"])
    beats, bars, places = asked.grid(SECONDS)
    assert np.array_equal(score.beat_seconds, beats) and np.array_equal(score.bar_seconds, bars)
    first = beats[beats < 2.5]
    assert np.diff(first) == pytest.approx(60 / 97) and bars[:2] == pytest.approx([0.0, 180 / 97])
    assert 2.55 in bars and score.boundary_seconds.tolist() == [2.55]
    starts = score.notes()[0]
    assert len(starts) > 5 and np.abs(places[:, None] - starts).min(axis=0).max() < 1e-9
    off = compose(player, tempo=97.0, loose=1.0)[1].notes()[0]
    assert np.abs(Controls(tempo=97.0).grid(SECONDS)[2][:, None] - off).min(axis=0).max() > 0.01


def test_bars_have_the_beats_of_the_metre_without_a_tempo_too(player) -> None:
    for beats in ("3/4", "5/4"):
        asked, score = compose(player, metre=beats)
        assert len(score.bar_seconds) > 1 and evidence.bars_held(asked, score) == 1.0


def test_six_eighths_and_swing_have_their_places() -> None:
    _, bars, places = Controls(tempo=60.0, metre="6/8").grid(4.0)
    assert bars.tolist() == [0.0, 2.0] and places[:7] == pytest.approx(np.arange(7) / 6)
    assert Controls(tempo=60.0, swing=1.0).grid(1.0)[2] == pytest.approx([0, 1 / 3, 2 / 3, 5 / 6])


def test_a_section_and_a_chord_start_on_a_cue(player) -> None:
    for seed in range(3):
        _, score = compose(player, seed, cues=["2.5", "0:04.1=reveal"], density=0.3)
        assert (
            score.boundary_seconds[[0, -1]] == pytest.approx([2.5, 4.1], abs=0.02)
            or len(score.boundary_seconds) > 2
        )
        starts = score.notes(pitched=True)[0]
        for cue in (2.5, 4.1):
            assert np.abs(score.boundary_seconds - cue).min() <= 0.02
            assert np.abs(starts - cue).min() <= 0.05
        assert [cue.name for cue in score.cues] == ["cue", "reveal"]


def test_places_have_the_levels_of_the_metre() -> None:
    found = Controls(tempo=60.0, metre="2/4").levels(4.0)
    assert found.tolist() == [3, 0, 1, 0, 2, 0, 1, 0] * 2
    assert Controls(tempo=60.0, metre="6/8").levels(2.0).tolist() == [3, 0, 1, 0, 1, 0, 2, 0, 1, 0, 1, 0]
    cued = Controls.of({"tempo": 60.0, "cues": ["2.6"]})
    assert cued.levels(4.0)[np.isclose(cued.grid(4.0)[2], 2.6)].tolist() == [3]


def test_beats_have_more_notes_and_louder_ones_than_weak_places(player) -> None:
    def by_strength(**wishes) -> tuple[float, float, float, float]:
        """Shares of strong and of weak places with notes, and the mean velocities of both."""
        places: list[np.ndarray] = [np.zeros((0, 2)), np.zeros((0, 2))]
        for seed in range(3):
            asked, score = compose(player, seed, tempo=100.0, density=0.5, **wishes)
            starts, _, _, velocities = score.notes()
            at, levels = asked.grid(SECONDS)[2], asked.levels(SECONDS)
            nearest = np.abs(at[:, None] - starts).argmin(axis=0)
            for place, level in enumerate(levels):
                own = velocities[nearest == place]
                row = [[float(len(own) > 0), own.mean() if len(own) else np.nan]]
                places[int(level >= 2)] = np.append(places[int(level >= 2)], row, axis=0)
        (weak, soft), (strong, loud) = (np.nanmean(own, axis=0) for own in places)
        return strong, weak, loud, soft

    strong, weak, loud, soft = by_strength()
    assert strong >= 0.9 and strong > 2.0 * weak and loud > soft + 20.0
    strong, weak, *_ = by_strength(loose=1.0)
    assert strong < 0.9 and strong < 2.0 * weak


def test_a_cue_has_a_breath_before_it_and_a_higher_louder_section_after_it(player) -> None:
    rises, cue = [], 3.0
    for seed in range(4):
        asked, score = compose(player, seed, cues=[str(cue)])
        starts, ends, pitches, _ = score.notes()
        # A note that is written in the frame before keeps to its last place at most.
        assert not ((starts > cue - BREATH_SECONDS + 0.04) & (starts < cue - 0.02)).any()
        assert (ends[starts < cue - 0.02] < 1.07 * cue).all()
        rises.append(pitches[starts >= cue - 0.02].mean() - pitches[starts < cue - 0.02].mean())
        contrast = contrast_of(asked, round(SECONDS * 25), 25.0)
        assert contrast[[0, 74, 75, -1]].tolist() == [-1.0, -1.0, 1.0, 1.0]
        frames = [((), -8.0)] * len(contrast)
        gains = [gain for _, gain in as_asked(frames, asked, SECONDS, 25.0)]
        assert gains[75] - gains[74] == pytest.approx(LOUDER_DB) and LOUDER_DB > 1.0
    assert np.mean(rises) > 3.0


def test_only_these_play_and_none_of_those(player) -> None:
    assert {p.program for p in compose(player, instruments="piano, cello")[1].parts} <= {0, 42}
    assert not {p.program for p in compose(player, without="piano, strings")[1].parts} & {0, 48}


def test_a_key_is_kept_to(player) -> None:
    for key in ("F# minor", "Bb major"):
        found = [evidence.key_of(compose(player, seed, key=key)[1]) for seed in range(3)]
        assert found.count(key) >= 2, found


def test_a_key_is_pulled_away_from_the_one_that_was_played(player) -> None:
    plan = plan_of(Controls(key="A minor"), 4.0, 100, 25.0)
    rule = Steering(plan, player.composer, Memory(25.0), 0)
    symbol = symbol_of("harmony", 0, False)

    def liked() -> np.ndarray:
        logits = np.zeros(128, np.float32)
        rule.mask("pitch", logits, (symbol, 0))
        return logits[60:72]

    assert liked()[[9, 0, 4, 8]].min() > liked()[[1, 3, 6, 10]].max() + 2.0
    before = liked()
    for pitch in (60, 64, 67) * 4:
        rule.write((symbol, 0, pitch, 10, 8))
    gains = liked() - before
    assert gains[9] > 5.0 and gains[7] < -5.0  # the tonic, and the fifth of C major
    for pitch in (57, 60, 64) * 16:
        rule.write((symbol, 0, pitch, 10, 8))
    # Once the key is clear there is less to set right.
    assert (np.abs(liked() - before)[[9, 7]] < 0.5 * np.abs(gains[[9, 7]])).all()


def test_where_valence_turns_the_mode_changes_at_once_and_the_tonic_stays(player) -> None:
    turn, room, at_home = 3.0, Waveform(steps_room(SECONDS), RATE), ComposingConfig(transposition=0)
    for seed in range(4):
        first = 0.6 - 1.2 * (seed % 2)
        asked = Controls.of({
            "mood": [[0.0, first, 0.0], [turn - 0.04, first, 0.0], [turn, -first, 0.0]], "density": 0.6,
        })  # fmt: skip
        score = player.compose(room, SECONDS, at_home, seed=seed, asked=asked)
        tonic, was, now = (0, 4, 3) if first > 0 else (9, 3, 4)
        starts, ends, pitches, _ = score.notes()
        before, degrees = starts < turn - 0.02, (pitches - tonic) % 12
        assert 0 in degrees[np.abs(starts - turn) <= 0.05] and (ends[before] < 1.07 * turn).all()
        for own, third, other in ((before, was, now), (~before, now, was)):
            lasting = [(ends - starts)[own & (degrees == degree)].sum() for degree in (third, other)]
            assert lasting[0] > 3.0 * lasting[1]
        soon = [part.where((part.start_seconds >= turn - 0.02) & (part.start_seconds < turn + 1.9))
                for part in score.parts if part.role in ("bass", "harmony")]  # fmt: skip
        at_once = {(int(pitch) - tonic) % 12 for part in soon for pitch in part.pitches}
        assert at_once <= {0, now, 7}


def test_chords_are_played_by_bass_and_harmony(player) -> None:
    asked, score = compose(player, chords="Am, F", tempo=120.0)
    roots = {0: {9, 0, 4}, 1: {5, 9, 0}}
    for own in score.parts:
        if own.role in ("bass", "harmony") and not own.is_drum:
            for start, pitch in zip(own.start_seconds, own.pitches, strict=True):
                assert pitch % 12 in roots[int(start / 2.0 + 1e-6) % 2], start
    assert evidence.chord_overlap(asked, score) > 0.3


def test_a_melody_is_played_note_for_note(player) -> None:
    notes = [[0.5, 0.9, 60, 80], [1.0, 1.6, 64, 90], [2.0, 2.9, 67, 70], [3.02, 4.0, 65, 100]]
    asked, score = compose(player, melody=notes)
    (line,) = [part for part in score.parts if part.role == "melody"]
    assert line.pitches.tolist() == [60, 64, 67, 65]
    assert line.start_seconds == pytest.approx([0.5, 1.0, 2.0, 3.02], abs=0.011)
    assert evidence.melody_cosine(asked, score) > 0.9


def test_a_final_ending_lands_on_the_last_bar_and_then_rests(player) -> None:
    _, score = compose(player, ending="final", tempo=120.0, key="D major")
    starts, _, pitches, _ = score.notes(pitched=True)
    assert starts.max() == 4.0  # the last bar line that leaves time
    assert set((pitches[starts == 4.0] % 12).tolist()) <= {2, 6, 9}
    (bass,) = [
        p.pitches[p.start_seconds == 4.0] for p in score.parts if p.role == "bass" and 4.0 in p.start_seconds
    ][:1]
    assert (bass % 12 == 2).all()


def test_density_is_steered(player) -> None:
    found = [compose(player, density=value)[1].n_notes for value in (0.05, 0.35, 0.65, 0.9)]
    assert found == sorted(found) and found[-1] > 3 * found[0]


def test_dynamics_flatten_the_loudness(player) -> None:
    spread = [np.ptp(compose(player, dynamics=value)[1].gain_db) for value in (1.0, 0.5, 0.0)]
    assert spread[1] == pytest.approx(spread[0] / 2, rel=0.1) and spread[2] == pytest.approx(0.0)


def test_another_room_is_mixed_in(player) -> None:
    here, there = (Waveform(steps_room(SECONDS, interval=at), RATE) for at in (0.3, 0.55))
    plain, other = (midi_bytes(player.compose(room, SECONDS, seed=1)) for room in (here, there))
    assert plain != other
    blended = [
        midi_bytes(player.compose(here, SECONDS, seed=1, blend=Blend(there, a, b)))
        for a, b in ((0, 0), (1, 1))
    ]
    assert blended == [plain, other]
    with pytest.raises(ConfigError, match="share is 2; expected 0 to 1"):
        Blend(there, 2.0)


# ---- warm starts, options, evidence ----


def test_new_controls_add_nothing_at_first(tmp_path: Path) -> None:
    old = make_composer()
    old.save_pretrained(tmp_path)
    names = (*old.config.controls, "tempo", "mood", "chords")
    new = Composer(dataclasses.replace(old.config, controls=names))
    new.load_weights(tmp_path, may_lack=True)
    values = Controls(tempo=90.0, mood=((0.0, 0.5, 0.5),), chords=("C",)).signals(2.0, 50, 25.0)
    from silent2music.signals import from_arrays

    rng = np.random.default_rng(0)
    ambient = old.config.ambient
    room = {
        "room_frames": rng.standard_normal((50, 2 * ambient.n_mels + 20)).astype(np.float32),
        "room_scalars": rng.standard_normal(ambient.n_mels + 14).astype(np.float32),
    }
    plain = Composer.from_pretrained(tmp_path).condition(from_arrays(room, 50))
    told = new.eval().condition(
        from_arrays({**room, **{k: values[k] for k in ("tempo", "mood", "chords")}}, 50)
    )
    assert np.array_equal(plain.frames.detach().numpy(), told.frames.detach().numpy())
    assert np.array_equal(plain.tokens.detach().numpy(), told.tokens.detach().numpy())


def table_of_readme() -> str:
    return (
        (ROOT / "README.md").read_text(encoding="utf-8").partition("| wish | example |")[2].split("\n\n")[0]
    )


def rows_of_readme() -> list[str]:
    return [re.findall(r"`([^`]*)`", row.split("|")[2])[0] for row in table_of_readme().splitlines()[2:]]


def test_the_readme_has_every_wish() -> None:
    options = [f"--{name.replace('_', '-')}" for name in SCENE]
    assert [option for option in options if not re.search(rf"`[^`]*{option}\b", table_of_readme())] == []


@pytest.mark.parametrize("options", rows_of_readme())
def test_every_example_of_the_readme_composes(
    s2m,
    composing_folder,
    room_file: Path,
    tmp_path: Path,
    monkeypatch,
    options: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_midi(tmp_path / "tune.mid", Score(1.5, (part([0.0, 0.5], [60, 64], role="melody"),)))
    (tmp_path / "scene.toml").write_text('tempo = 96\ncues = [1.2, "0:01.6=door"]\n', encoding="utf-8")
    wishes = shlex.split(options)
    if any(option in options for option in ("instruments", "style", "chords", "cue", "controls", "prompt")):
        folder = tmp_path / "model"
        import shutil

        shutil.copytree(composing_folder, folder)
        composer = make_composer()
        composer.known_symbols[:] = True
        composer.known_pitches[:] = True
        composer.save_pretrained(folder / "composer")
        composing_folder = folder
    code, _, complaint = s2m("compose", room_file, "-o", "out.mid", "--model", composing_folder, *wishes)
    assert code == 0, complaint
    assert read_midi(tmp_path / "out.mid").seconds == pytest.approx(2.0, abs=0.01)
    record = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    if "blend" in options:
        assert record["settings"]["blend"]["file"] == "room.wav" and record["settings"]["blend"]["end"] == 0.3
        return
    assert Controls.of(record["settings"]["controls"]) != Controls()
    again = ("--model", composing_folder, "--controls", "out.json", "-o", "again.mid")
    assert s2m("compose", room_file, *again)[0] == 0
    assert (tmp_path / "again.mid").read_bytes() == (tmp_path / "out.mid").read_bytes()


def test_each_control_is_measured_beside_anothers_and_none(player, tmp_path: Path) -> None:
    rows = []
    for i in range(3):
        audio.write(tmp_path / f"{i}.wav", Waveform(steps_room(3.0, interval=0.3 + 0.1 * i), RATE))
        rows.append(Pair(f"{i}.wav", f"{i}.wav", split="validation", labels={"kind": "steps"}))
    write_pairs(tmp_path, rows)
    names = ("tempo", "valence", "arousal")
    report = evidence.evaluate_controls(player, tmp_path, EvalConfig(n=3), names=names)
    found = report["controls"]
    assert report["n"] == 3 and set(found) == set(names)
    assert found["tempo"]["asked"]["mean"] == 1.0 > found["tempo"]["another"]["mean"]
    assert found["tempo"]["asked"]["mean"] > found["tempo"]["dropped"]["mean"]
    assert -1.0 <= found["valence"]["asked"]["mean"] <= 1.0 and found["valence"]["is_ranked"]
    assert "as asked of another" in evidence.controls_text(report)


def sounded(score: Score) -> Waveform:
    """A score as decaying tones of three partials."""
    samples = np.zeros(round(score.seconds * heard.RATE))
    for own in score.parts:
        for start, end, pitch in zip(own.start_seconds, own.end_seconds, own.pitches, strict=True):
            time = np.arange(round((end - start) * heard.RATE)) / heard.RATE
            hz = 440.0 * 2.0 ** ((pitch - 69.0) / 12.0)
            tone = (
                sum(0.08 / k * np.sin(2 * np.pi * k * hz * time) for k in (1, 2, 3))
                * np.exp(-3.0 * time)
                * (1.0 - time / (end - start))
            )
            first = round(start * heard.RATE)
            samples[first : first + len(time)] += tone[: len(samples) - first]
    return Waveform(samples[None].astype(np.float32), heard.RATE)


@pytest.mark.slow
def test_what_was_asked_is_heard_in_the_sound() -> None:
    """Three chords of C major, a second each, twice; a line above in eighths at 120 bpm."""
    roots = [60, 65, 67] * 2
    chordal = part(np.repeat(np.arange(6.0), 3), [r + step for r in roots for step in (0, 4, 7)], 0.9)
    starts = np.arange(0, 6, 0.5)
    line = part(starts, [76, 79, 81, 77, 83, 79] * 2, 0.45, "melody")
    sound = sounded(Score(6.0, (chordal, line)))
    notes = [[float(s), float(s) + 0.45, float(p), 80.0] for s, p in zip(starts, line.pitches, strict=True)]
    changes = [float(i) for i in range(6)]
    for name, right, wrong in (
        ("tempo", {"tempo": 120.0}, {"tempo": 105.0}),
        ("key", {"key": "C major"}, {"key": "F# minor"}),
        (
            "chords",
            {"chords": "C F G C F G", "chord_seconds": changes},
            {"chords": "Ebm", "chord_seconds": [0.0]},
        ),
        ("melody", {"melody": notes}, {"melody": [[s, e, p + 6, v] for s, e, p, v in notes]}),
    ):
        measures = heard.measures_of(name)
        assert measures.keys() == heard.HEARD[name].keys() - (
            set() if find_spec("essentia") else {"multifeature"}
        )
        for measure, is_ranked in measures.values():
            assert not is_ranked
            assert measure(Controls.of(right), sound) > 0.3 + measure(Controls.of(wrong), sound), name
    rates = [heard.HEARD["density"]["onsets"][0](Controls.of({"density": 0.5}), s)[1] for s in (sound, Waveform(
        np.zeros((1, 6 * heard.RATE), np.float32), heard.RATE))]  # fmt: skip
    assert rates[0] == pytest.approx(2.0, abs=0.5) and rates[1] == 0.0
    assert heard.beats_per_minute(np.array([0.1, 0.6, 1.1, 2.1, 2.6])) == pytest.approx(120.0)
    assert np.isnan(heard.beats_per_minute(np.array([0.1, 0.6])))


def test_the_sound_is_judged_beside_anothers_and_none(player, tmp_path: Path, monkeypatch) -> None:
    for i in range(2):
        audio.write(tmp_path / f"{i}.wav", Waveform(steps_room(2.0, interval=0.3 + 0.1 * i), RATE))
    rows = [Pair(f"{i}.wav", f"{i}.wav", split="validation", labels={"kind": "steps"}) for i in range(2)]
    write_pairs(tmp_path, rows)
    monkeypatch.setattr(heard, "play", lambda score, soundfont: score)
    agreement = lambda asked, sound: float(asked.has_grid and evidence.on_grid(asked, sound))  # noqa: E731
    monkeypatch.setitem(heard.HEARD, "tempo", {"beats": (agreement, False)})
    font = tmp_path / "any.sf2"
    report = evidence.evaluate_controls(
        player, tmp_path, EvalConfig(n=2), names=("tempo",), soundfonts=[font]
    )
    found = report["controls"]["tempo"]
    assert found["sound"]["beats"]["asked"]["mean"] == 1.0 > found["sound"]["beats"]["another"]["mean"]
    assert {"hit_rate", "energy"} <= set(found) and abs(found["energy"]["mean"]) <= 2.0
    assert "sound, beats" in evidence.controls_text(report)


@pytest.mark.slow
def test_those_who_play_take_over_the_notes_of_those_who_do_not(player) -> None:
    """Where three of four players are silent the one that is left begins notes about as often as all did."""
    rates = []
    for wishes in ({}, {"instruments": "cello"}):
        scores = [compose(player, seed, **wishes)[1] for seed in range(4)]
        rates.append(np.mean([len(np.unique(score.notes()[0])) for score in scores]))
    assert rates[1] == pytest.approx(rates[0], rel=0.25)


def test_chords_without_a_tempo_keep_the_rooms_own_times(player) -> None:
    asked, score = compose(player, chords="Am F")
    starts = score.notes()[0]
    places = Controls(tempo=90.0).grid(SECONDS)[2]
    assert np.abs(places[:, None] - starts).min(axis=0).max() > 0.02
    bar = 4 * 60.0 / 90.0
    assert score.bar_seconds == pytest.approx(bar * np.arange(len(score.bar_seconds)), abs=0.02)
    assert len(score.bar_seconds) == 3
    assert evidence.chord_overlap(asked, score) > 0.3


def test_mood_and_dynamics_are_in_the_loudness_that_is_played(player) -> None:
    gains = {}
    for name, wishes in (
        ("loud", {"mood": [0.0, 0.8]}),
        ("quiet", {"mood": [0.0, -0.8]}),
        ("sinking", {"mood": [[0.0, 0.0, 0.8], [SECONDS, 0.0, -0.8]], "dynamics": 0.0}),
        ("flat", {"dynamics": 0.0}),
    ):
        room = Waveform(steps_room(SECONDS), RATE)
        frames = player.compose_frames(room, None, SECONDS, asked=Controls.of(wishes))
        gains[name] = np.array([gain for _, gain in frames])
    assert abs(gains["loud"].mean() - gains["quiet"].mean()) < 3.0, "the whole is turned up again anyway"
    # Loudness that is not the room's is the mood's, evenly from 0.8 to -0.8 of 15 dB by 2.
    assert gains["sinking"][0] == gains["flat"][0] and (np.diff(gains["sinking"]) < 0).all()
    assert np.ptp(gains["sinking"]) == pytest.approx(12.0, abs=0.2)
    assert np.ptp(gains["flat"]) == 0.0


def test_where_a_mood_turns_notes_are_evened_out_so_that_the_room_says_how_loud_it_is() -> None:
    """Two notes, a rest, and one of them again at half the velocity, then both."""
    symbols = [symbol_of(role, 89, False) for role in ("harmony", "melody")]
    (second,) = nearest_lengths(1.0)
    frames: list[tuple[tuple[Event, ...], float]] = [((), -20.0)] * 100
    frames[0] = frames[50] = tuple((symbol, 0, 60, second, 12) for symbol in symbols), -20.0
    frames[30] = ((symbols[0], 0, 60, second, 6),), -20.0
    loud, soft = (-30.0 - 10.0 * np.log10(power) for power in (2 * (12.5 / 16) ** 4, (6.5 / 16) ** 4))
    gains = {}
    for name, points in {
        "turns": [[0.0, 0.0, -0.8], [4.0, 0.0, 0.8]],
        "a little": [[0.0, 0.0, 0.0], [4.0, 0.0, 0.25]],
        "later": [[0.0, 0.0, 0.8], [9.0, 0.0, 0.8], [10.0, 0.0, -0.8]],
    }.items():
        asked = Controls.of({"mood": points})
        gains[name] = np.array([gain for _, gain in as_asked(frames, asked, 4.0, 25.0)])
    assert gains["turns"][:29] == pytest.approx(loud), "in a rest it stays"
    # A score's loudness has a point every 2.5 frames: before an attack it is what the attack is to have.
    assert gains["turns"][30:47] == pytest.approx(soft) and gains["turns"][47:] == pytest.approx(loud)
    assert gains["a little"] == pytest.approx(0.5 * (gains["turns"] - 20.0), abs=0.05)
    assert (gains["later"] == -20.0).all()


def test_measures_say_one_of_what_was_asked() -> None:
    score = a_score()
    assert evidence.key_of(score) == "D major"
    asked = Controls.of({"chords": "D G A D D N", "chord_seconds": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]})
    assert evidence.chord_overlap(asked, score) > 0.95
    line = score.parts[1]
    rows = zip(line.start_seconds, line.end_seconds, line.pitches, line.velocities, strict=True)
    notes = [[float(x) for x in row] for row in rows]
    assert evidence.melody_cosine(Controls.of({"melody": notes}), score) == pytest.approx(1.0, abs=0.02)


def coloured(score: Score, soundfont: Path | None = None) -> Waveform:
    """A score as tones whose partials depend on the family of the player: one, odd ones, or all."""
    samples = np.zeros(round(score.seconds * heard.RATE))
    partials = {0: [1], 5: [1, 3, 5, 7, 9], 6: range(1, 9), 8: range(4, 12)}
    for own in score.parts:
        for start, end, pitch in zip(own.start_seconds, own.end_seconds, own.pitches, strict=True):
            time = np.arange(round((end - start) * heard.RATE)) / heard.RATE
            hz = 440.0 * 2.0 ** ((pitch - 69.0) / 12.0)
            first = round(start * heard.RATE)
            waves = [np.sin(2 * np.pi * k * hz * time) for k in partials[own.program // 8] if k * hz < 10_000]
            tone = np.sum([np.zeros(len(time)), *waves], axis=0)
            samples[first : first + len(time)] += 0.05 * tone[: len(samples) - first]
    return Waveform(samples[None].astype(np.float32), heard.RATE)


def test_a_judge_tells_who_plays_and_says_nothing_of_silence(monkeypatch) -> None:
    monkeypatch.setattr(heard, "play", coloured)
    monkeypatch.setattr(families, "N_STRETCHES", 40)
    judge = families.Judge.taught(Path("any.sf2"), {p: np.arange(55, 72) for p in (0, 42, 48)})
    for programs in ([0], [42], [48], [0, 42], [42, 48]):
        lines = [
            part(np.arange(0, 5.5, 0.5), 60 + 2 * i + np.arange(11) % 5, program=p)
            for i, p in enumerate(programs)
        ]
        sound = coloured(Score(SECONDS, tuple(lines)))
        playing, others = np.zeros(129), np.ones(129)
        playing[programs], others[programs] = 1.0, 0.0
        assert judge.told(playing, sound) == 1.0 and judge.told(np.roll(playing, 64), sound) != 1.0
        strangers = np.where(families.families(playing)[np.arange(129) // 8], 0.0, 1.0)
        assert judge.told(strangers, sound) == 0.0
    assert np.isnan(judge.told(np.ones(129), sound)), "nobody is left who should not play"
    silence = Waveform(np.zeros((1, 2 * heard.RATE), np.float32), heard.RATE)
    assert np.isnan(judge.told(playing, silence))


def test_instruments_are_judged_by_ear_beside_real_music(player, tmp_path: Path, monkeypatch) -> None:
    rows = []
    for i, program in enumerate((42, 48)):
        line = part(np.arange(0, 5.5, 0.5), 60 + np.arange(11) % 5, program=program)
        score = Score(SECONDS, (line,))
        audio.write(tmp_path / f"{i}.wav", Waveform(steps_room(SECONDS, interval=0.3 + 0.1 * i), RATE))
        audio.write(tmp_path / f"{i}.music.wav", coloured(score))
        write_midi(tmp_path / f"{i}.mid", score)
        files = {"silent": f"{i}.wav", "music": f"{i}.music.wav", "score": f"{i}.mid"}
        rows.append(Pair(**files, split="validation", labels={"kind": "steps"}))
    write_pairs(tmp_path, rows)
    monkeypatch.setattr(heard, "play", coloured)
    monkeypatch.setattr(families, "N_STRETCHES", 40)
    # Few notes of random weights are told apart by the pitches that these draw.
    for rule in ("STALE", "CLASH"):
        monkeypatch.setattr(composing, rule, 0.0)
    drawn = iter(["cello", "strings"])
    asks = evidence.Tested(lambda *_: {"instruments": next(drawn)}, evidence.only_these)
    monkeypatch.setitem(evidence.TESTED, "instruments", asks)
    config, fonts = EvalConfig(n=2), [tmp_path / "any.sf2"]
    report = evidence.evaluate_controls(player, tmp_path, config, names=("instruments",), soundfonts=fonts)
    sound = report["controls"]["instruments"]["sound"]
    for own in ("families", "real music"):
        assert sound[own]["asked"]["mean"] > 0.8 > 0.5 >= sound[own]["another"]["mean"], own
    assert "sound, real music" in evidence.controls_text(report)
