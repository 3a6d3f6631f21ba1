import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from silent2music.errors import DataError
from silent2music.factory.arrangement import Arrangement, SceneTruth
from silent2music.factory.arranging import arrange, automation, key_shift
from silent2music.factory.ensembles import INSTRUMENTS, MANNERS, STYLES
from silent2music.factory.scores import Notes, ScorePart, SourceScore
from silent2music.factory.textures import in_range
from silent2music.factory.timing import FASTEST_BPM, SLOWEST_BPM, plan_sections, thin_out
from silent2music.factory.written import INNER, LOWER, UPPER, layers
from silent2music.keys import PITCH_NAMES, estimate_key
from silent2music.score import ENERGY_RATE_HZ, Part
from silent2music.traits import affect_curves

SECONDS = 30.0
N_FRAMES = round(SECONDS * ENERGY_RATE_HZ)


def make_score(n_bars: int = 60, tempo_bpm: float = 100.0, transpose: int = 0) -> SourceScore:
    """Chords of I, IV, V, I in 4/4 under a line in eighths, with a rest in every fourth bar."""
    starts, ends, pitches = [], [], []
    rng = np.random.default_rng(0)
    for bar in range(n_bars):
        root = (60, 65, 67, 60)[bar % 4] + transpose
        for pitch in (root - 24, root, root + 4, root + 7):
            starts.append(4.0 * bar)
            ends.append(4.0 * bar + 3.5)
            pitches.append(pitch)
        for eighth in range(6 if bar % 4 == 3 else 8):
            starts.append(4.0 * bar + eighth / 2)
            ends.append(4.0 * bar + eighth / 2 + 0.45)
            pitches.append(root + 12 + int(rng.choice((0, 4, 7, 12))))
    order = np.lexsort((pitches, starts))
    part = ScorePart(
        "Piano",
        0,
        np.array(starts)[order],
        np.array(ends)[order],
        np.array(pitches)[order],
        np.full(len(starts), 80),
    )
    return SourceScore(
        source="songs/a.mid",
        parts=(part,),
        n_beats=4 * n_bars,
        bar_beats=np.arange(0, 4 * n_bars, 4),
        tempos=((0.0, tempo_bpm),),
        tonic=transpose % 12,
        mode="major",
    )


def scene(kind: str, **truth) -> SceneTruth:
    values = {"energy_db": np.full(N_FRAMES, -60.0), "rt60_seconds": 0.5, "level_dbfs": -60.0} | truth
    return SceneTruth(kind, SECONDS, **values)


def pulse(period: float, first: float = 0.2) -> np.ndarray:
    return np.arange(first, SECONDS - 0.2, period)


def onsets(arrangement: Arrangement) -> np.ndarray:
    return np.unique(np.concatenate([part.start_seconds for part in arrangement.parts]))


def distance(times: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """For each time the distance to the nearest target."""
    return np.abs(times[:, None] - targets[None, :]).min(axis=1)


def arranged(truth: SceneTruth, seed: int = 0, score: SourceScore | None = None, **options) -> Arrangement:
    """By the style that is the kind's own, or another that is given; muted soloists are drawn."""
    if truth.kind != "muted" and truth.kind in STYLES:
        options.setdefault("style", STYLES[truth.kind][0])
    return arrange(score or make_score(), truth, np.random.default_rng(seed), **options)


EVERY_STYLE = [(kind, index) for kind in sorted(STYLES) for index in range(len(STYLES[kind]))]


@pytest.mark.parametrize("kind", ["steps", "machine", "street", "room", "hall"])
@pytest.mark.parametrize("period", [0.25, 0.42, 0.6, 1.1, 1.9])
def test_beats_meet_the_pulse(kind, period):
    beats = pulse(period)
    result = arranged(
        scene(kind, beat_seconds=beats, event_seconds=beats, event_strengths=np.ones(len(beats)))
    )
    assert SLOWEST_BPM <= result.tempo_bpm <= FASTEST_BPM
    octaves = np.log2(result.tempo_bpm * period / 60.0)
    assert octaves == pytest.approx(round(octaves), abs=1e-6)
    inside = result.beat_seconds[
        (result.beat_seconds > beats[0] - 1e-6) & (result.beat_seconds < beats[-1] + 1e-6)
    ]
    if 60.0 / result.tempo_bpm >= period - 1e-6:
        assert distance(inside, beats).max() <= 0.020
    else:
        assert distance(beats, inside).max() <= 0.020


@pytest.mark.parametrize("seed", range(3))
def test_beats_follow_a_drifting_pulse(seed):
    rng = np.random.default_rng(seed)
    beats = 0.3 + np.cumsum(0.55 * np.linspace(1.0, 1.15, 48) + rng.normal(0, 0.005, 48))
    beats = beats[beats < SECONDS - 0.2]
    result = arranged(
        scene("steps", beat_seconds=beats, event_seconds=beats, event_strengths=np.ones(len(beats)))
    )
    assert distance(beats, result.beat_seconds).max() <= 0.020


@pytest.mark.parametrize("kind", ["steps", "machine"])
@pytest.mark.parametrize("seed", range(4))
def test_irregular_events_are_met_and_the_music_is_no_carpet(kind, seed):
    events = np.cumsum(np.random.default_rng(seed).uniform(0.3, 1.8, 100))
    events = events[events < SECONDS - 0.2]
    result = arranged(scene(kind, event_seconds=events, event_strengths=np.full(len(events), 0.7)), seed)
    audible = np.concatenate([part.start_seconds[part.velocities >= 40] for part in result.parts])
    assert (distance(events, audible) <= 0.020).mean() >= 0.97
    # Shift the events by half their mean distance: were the onsets everywhere, they would meet those, too.
    shifted = events[:-1] + np.diff(events) / 2
    limit = 0.5 if kind == "steps" else 0.75
    assert (distance(shifted, onsets(result)) <= 0.050).mean() <= limit


@pytest.mark.parametrize("kind", ["room", "hall", "street", "weather"])
def test_sparse_events_are_met(kind):
    events = np.array([2.31, 7.77, 11.02, 19.5, 26.66])
    result = arranged(scene(kind, event_seconds=events, event_strengths=np.ones(5)))
    assert distance(events, onsets(result)).max() <= 0.020


def test_a_walker_who_stops_leaves_rests():
    beats = pulse(0.5)
    walking = beats[beats < 15.0]
    truth = scene(
        "steps",
        beat_seconds=walking,
        event_seconds=walking,
        event_strengths=np.ones(len(walking)),
        boundary_seconds=np.array([15.0]),
        energy_db=np.where(np.arange(N_FRAMES) < 150, -55.0, -70.0),
    )
    starts = onsets(arranged(truth))
    assert (starts >= 15.5).sum() < 0.75 * (starts < 15.0).sum()


@pytest.mark.parametrize(("kind", "index"), EVERY_STYLE)
def test_sections_start_on_the_boundaries(kind, index):
    boundaries = np.array([10.137, 20.911])
    energy = np.repeat([-62.0, -52.0, -66.0], [101, 108, N_FRAMES - 209])
    truth = scene(kind, boundary_seconds=boundaries, energy_db=energy)
    result = arranged(truth, index, style=STYLES[kind][index])
    np.testing.assert_allclose(result.boundary_seconds, boundaries, atol=1e-9)
    assert distance(boundaries, result.bar_seconds).max() <= 0.050
    assert distance(boundaries, onsets(result)).max() <= 0.050
    for boundary in boundaries:
        for part in result.parts:
            across = (part.start_seconds < boundary - 0.1) & (part.end_seconds > boundary + 1e-6)
            assert not across.any(), "no note sounds over a change of scene"


@pytest.mark.parametrize(("kind", "index"), EVERY_STYLE)
def test_a_boundary_changes_the_instruments(kind, index):
    style = STYLES[kind][index]
    energy = np.repeat([-65.0, -52.0], N_FRAMES // 2)
    result = arranged(scene(kind, boundary_seconds=np.array([15.0]), energy_db=energy), style=style)
    before = {part.name for part in result.parts if (part.start_seconds < 14.9).any()}
    after = {part.name for part in result.parts if (part.start_seconds >= 14.9).any()}
    ensembles = {frozenset(voice.instrument for voice in voices) for voices in style.ensembles}
    assert len(ensembles) == 1 or before != after  # the same instruments differ by register


@pytest.mark.parametrize("kind", ["muted", "room"])
def test_a_boundary_changes_the_register_of_a_solo(kind):
    energy = np.repeat([-65.0, -52.0], N_FRAMES // 2)
    truth = scene(kind, boundary_seconds=np.array([15.0]), energy_db=energy)
    for seed in range(20):
        result = arranged(truth, seed)
        part = next((p for p in result.parts if p.role == "melody"), None)
        if part is not None and part.name in ("piano", "guitar", "accordion"):
            before, after = (part.pitches[(part.start_seconds >= 14.9) == later] for later in (False, True))
            assert after.mean() > before.mean() + 6.0
            return
    pytest.fail("no seed gave a polyphonic solo")


@pytest.mark.parametrize("kind", sorted(set(STYLES) - {"nothing"}))
def test_the_automation_follows_the_energy(kind):
    time = np.arange(N_FRAMES) / ENERGY_RATE_HZ
    energy = -62.0 + 8.0 * np.sin(2.0 * np.pi * time / 9.0)
    result = arranged(scene(kind, energy_db=energy))
    assert result.gain_db.shape == (N_FRAMES,)
    assert result.gain_db.max() <= 0.0
    assert np.corrcoef(result.gain_db, energy)[0, 1] > 0.95
    assert 8.0 < np.ptp(result.gain_db) <= 1.6 * MANNERS[kind].range_db


def test_a_steady_room_has_small_dynamics_and_a_loud_one_is_louder():
    steady = -60.0 + 0.2 * np.random.default_rng(0).normal(size=N_FRAMES)
    loud, _ = automation(scene("weather", energy_db=steady + 18.0, level_dbfs=-42.0))
    quiet, _ = automation(scene("weather", energy_db=steady - 12.0, level_dbfs=-72.0))
    assert np.ptp(loud) < 4.0
    assert np.median(loud) - np.median(quiet) == pytest.approx(7.2, abs=1.0)


def test_digital_silence_gets_nearly_nothing():
    silent = scene("room", energy_db=np.full(N_FRAMES, -120.0), level_dbfs=-120.0)
    result = arranged(silent)
    assert sum(len(part.pitches) for part in result.parts) <= 6
    assert result.gain_db.max() <= -30.0
    played = arranged(scene("room"))
    assert sum(len(part.pitches) for part in played.parts) >= 12


def test_a_still_room_is_sparser_than_a_street():
    room = arranged(scene("room", level_dbfs=-72.0, energy_db=np.full(N_FRAMES, -72.0)))
    street = arranged(scene("street", level_dbfs=-45.0, energy_db=np.full(N_FRAMES, -45.0)))
    assert 3 * len(onsets(room)) < len(onsets(street))


def test_steps_are_percussive_and_a_hall_holds_its_notes():
    beats = pulse(0.5)
    steps = arranged(
        scene("steps", beat_seconds=beats, event_seconds=beats, event_strengths=np.ones(len(beats)))
    )
    hall = arranged(scene("hall"))
    assert any(part.is_drum for part in steps.parts)
    lengths = {
        name: np.median(
            np.concatenate([p.end_seconds - p.start_seconds for p in music.parts if not p.is_drum])
        )
        for name, music in (("steps", steps), ("hall", hall))
    }
    assert lengths["hall"] > 4 * lengths["steps"]
    assert {part.name for part in arranged(scene("room")).parts} == {"piano"}


def check_valid(result: Arrangement) -> None:
    for part in result.parts:
        instrument = INSTRUMENTS[part.name]
        assert len(part.pitches) > 0
        assert (np.diff(part.start_seconds) >= 0).all()
        assert part.start_seconds.min() >= 0
        assert part.end_seconds.max() <= result.seconds
        assert (part.end_seconds > part.start_seconds).all()
        assert part.pitches.min() >= instrument.low
        assert part.pitches.max() <= instrument.high
        assert part.velocities.min() >= 1
        assert part.velocities.max() <= 127
        assert part.role in ("melody", "harmony", "bass", "percussion")
        assert part.program == instrument.program
    for curve in (result.valence, result.arousal):
        assert curve.shape == (round(result.seconds * ENERGY_RATE_HZ),)
        assert np.abs(curve).max() <= 1.0
    assert (np.diff(result.beat_seconds) > 0).all()
    assert np.isin(np.round(result.bar_seconds, 6), np.round(result.beat_seconds, 6)).all()
    assert "\n" not in result.caption


@pytest.mark.parametrize(("kind", "index"), EVERY_STYLE)
def test_every_style_gives_valid_notes(kind, index):
    seed = index
    rng = np.random.default_rng(seed)
    events = np.sort(rng.uniform(0, SECONDS, int(rng.integers(0, 60))))
    truth = scene(
        kind,
        event_seconds=events,
        event_strengths=rng.uniform(0, 1, len(events)),
        boundary_seconds=np.sort(rng.uniform(0, SECONDS, int(rng.integers(0, 3)))),
        energy_db=rng.uniform(-75, -40, N_FRAMES),
        rt60_seconds=rng.choice([None, 0.3, 3.0]),
    )
    check_valid(arranged(truth, seed, style=STYLES[kind][index]))


RHYTHMIC_STYLES = [(kind, index) for kind, index in EVERY_STYLE if STYLES[kind][index].manner.rhythmic]


@pytest.mark.parametrize(("kind", "index"), RHYTHMIC_STYLES)
def test_every_style_of_a_rhythmic_kind_meets_the_events(kind, index):
    events = np.cumsum(np.random.default_rng(index).uniform(0.3, 1.8, 100))
    events = events[events < SECONDS - 0.2]
    truth = scene(kind, event_seconds=events, event_strengths=np.full(len(events), 0.7))
    result = arranged(truth, index, style=STYLES[kind][index])
    assert (distance(events, onsets(result)) <= 0.020).mean() >= 0.9


def test_a_score_is_played_as_it_is_written_where_nothing_speaks_against_it():
    style = next(s for s in STYLES["leak"] if s.ensembles[1][0].texture == "whole")
    score = make_score()
    truth = scene("leak", energy_db=np.full(N_FRAMES, -50.0), level_dbfs=-50.0)
    result = arranged(truth, 4, score, style=dataclasses.replace(style, keep=1.0))
    assert [part.name for part in result.parts] == ["piano"]
    part = result.parts[0]
    beats = np.interp(part.start_seconds, result.beat_seconds, np.arange(len(result.beat_seconds)))
    inner = (beats > 0.5) & (beats < len(result.beat_seconds) - 2)
    halves = 2.0 * beats[inner]
    np.testing.assert_allclose(halves, np.round(halves), atol=0.05)
    chords = np.unique(np.round(part.start_seconds, 3), return_counts=True)[1]
    assert (chords >= 4).sum() >= 4, "chords are struck together"
    classes = {
        tuple(sorted(set(part.pitches[np.isclose(part.start_seconds, t)] % 12))) for t in part.start_seconds
    }
    assert any({0, 4, 7} <= set(chord) or {5, 9, 0} <= set(chord) for chord in classes)


def test_layers_are_bass_melody_and_what_lies_between():
    notes = Notes(
        np.array([0.0, 0.0, 0.0, 0.5, 1.0]),
        np.array([2.0, 2.0, 0.5, 1.0, 1.5]),
        np.array([40, 52, 67, 60, 69]),
        np.full(5, 80),
    )
    assert layers(notes).tolist() == [LOWER, INNER, UPPER, UPPER, UPPER]
    alone = notes.at(slice(4, 5))
    assert layers(alone).tolist() == [UPPER]


def test_a_kit_plays_a_drummers_hits_in_their_own_time():
    style = next(s for s in STYLES["leak"] if s.has_kit and s.manner.rhythmic is False and s.sort == "piece")
    style = dataclasses.replace(style, ensembles=(style.ensembles[2],) * 3)
    late = np.arange(0.0, 64.0, 0.5) + 0.07
    hits = ScorePart("Drums", 0, late, late + 0.1, np.full(len(late), 51), np.full(len(late), 90))
    drumming = dataclasses.replace(make_score(16), parts=(), drums=(hits,))
    truth = scene("leak", energy_db=np.full(N_FRAMES, -50.0))
    result = arranged(truth, 1, style=style, drumming=drumming)
    kit = next(part for part in result.parts if part.is_drum)
    assert set(kit.pitches) == {51}
    beats = np.interp(kit.start_seconds, result.beat_seconds, np.arange(len(result.beat_seconds)))
    inner = beats[(beats > 1) & (beats < len(result.beat_seconds) - 2)]
    np.testing.assert_allclose((2 * inner) % 1.0, 0.14, atol=0.03)
    with pytest.raises(DataError, match="holds drums alone"):
        arranged(truth, 1, score=drumming)


def test_where_there_is_nothing_to_hear_there_is_hardly_a_note():
    counts = []
    for seed in range(40):
        truth = scene("nothing", energy_db=np.full(N_FRAMES, -60.0))
        result = arrange(make_score(), truth, np.random.default_rng(seed))
        counts.append(sum(len(part.pitches) for part in result.parts))
    assert np.mean(np.array(counts) == 0) > 0.3
    assert max(counts) <= SECONDS / 6.0
    assert np.mean(counts) <= SECONDS / 10.0


def test_rhythms_repeat_from_bar_to_bar():
    truth = scene("weather", energy_db=np.full(N_FRAMES, -60.0), level_dbfs=-60.0)
    style = next(s for s in STYLES["weather"] if s.ensembles[1][0].texture == "whole")
    result = arranged(truth, 2, style=style)
    part = result.parts[0]
    beats = np.interp(part.start_seconds, result.beat_seconds, np.arange(len(result.beat_seconds)))
    places = [
        set(np.round(2 * (beats[(beats >= b) & (beats < b + 4)] - b)).tolist()) for b in range(4, 24, 4)
    ]
    alike = [len(a & b) / len(a | b) for a, b in pairwise(places) if a | b]
    assert np.mean(alike) > 0.6


@pytest.mark.parametrize("kind", ["muted", "leak", "steps"])
def test_a_scene_that_knows_nothing_gets_free_music(kind):
    result = arranged(SceneTruth(kind, 20.0, np.full(200, -60.0)), 1)
    check_valid(result)
    low, high = MANNERS[kind].tempo_bpm
    assert 0.95 * low <= result.tempo_bpm <= 1.05 * high


@pytest.mark.parametrize("n_bars", [1, 2, 5])
def test_a_short_score_goes_round(n_bars):
    result = arranged(scene("leak"), score=make_score(n_bars))
    check_valid(result)
    assert onsets(result).max() > SECONDS - 6.0


def test_muted_scenes_know_all_the_instruments():
    names = {part.name for seed in range(80) for part in arranged(scene("muted"), seed).parts}
    wanted = "accordion bass bassoon cello guitar piano tuba ukulele violin flute drums"
    assert names == set(wanted.split())


def test_the_same_seed_gives_the_same_arrangement():
    truth = scene("weather", event_seconds=np.array([3.0, 9.0]), event_strengths=np.ones(2))
    first, second, other = arranged(truth, 5), arranged(truth, 5), arranged(truth, 6)
    for a, b in zip(first.parts, second.parts, strict=True):
        for field in dataclasses.fields(Part):
            np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name))
    assert first.caption == second.caption
    assert not np.array_equal(onsets(first), onsets(other))


@pytest.mark.parametrize("transpose", range(-5, 7))
def test_keys_are_normalised(transpose):
    score = make_score(transpose=transpose)
    result = arranged(scene("leak"), score=score)
    assert result.key == "C major"


def test_without_normalising_a_piece_may_be_in_any_key():
    pieces = [arranged(scene("leak"), seed, normalise_key=False) for seed in range(100)]
    assert {piece.key for piece in pieces} == {f"{name} major" for name in PITCH_NAMES}
    for piece in pieces[:8]:
        pitched = [part for part in piece.parts if not part.is_drum]
        pitches = np.concatenate([part.pitches for part in pitched])
        lengths = np.concatenate([part.end_seconds - part.start_seconds for part in pitched])
        tonic, _ = estimate_key(pitches, lengths)
        assert (tonic - PITCH_NAMES.index(piece.key.split()[0])) % 12 in (0, 5, 7), "the notes are in it"


@pytest.mark.parametrize("mode", ["major", "minor"])
def test_key_shift_is_the_nearest(mode):
    for tonic in range(12):
        shift = key_shift(tonic, mode)
        assert -6 <= shift <= 5
        assert (tonic + shift) % 12 == (0 if mode == "major" else 9)


def test_unknown_kind_is_named():
    with pytest.raises(DataError, match="Scene kind is 'cellar'; expected one of room, hall"):
        arranged(scene("cellar"))


def test_thin_out_keeps_the_stronger():
    kept = thin_out(np.array([0.0, 0.05, 1.0, 1.2]), np.array([0.2, 0.9, 0.5, 0.4]), 0.1)
    assert kept.tolist() == [1, 2, 3]


def test_pulse_of_one_section_does_not_bend_the_other():
    first, second = np.arange(0.3, 14.9, 0.5), np.arange(15.0, 29.8, 0.7)
    truth = scene("steps", beat_seconds=np.concatenate([first, second]), boundary_seconds=np.array([15.0]))
    a, b = plan_sections(truth, MANNERS["steps"], 100.0, np.random.default_rng(0))
    assert np.median(np.diff(a.beat_seconds)) == pytest.approx(0.5)
    assert np.median(np.diff(b.beat_seconds)) == pytest.approx(0.7)
    assert b.beat_seconds[0] == 15.0


def test_in_range_keeps_the_pitch_class():
    assert [in_range(p, 60, 72) for p in (40, 60, 72, 73, 90)] == [64, 60, 72, 61, 66]


def solo(pitches, velocities, length=0.4, step=0.5, is_drum=False) -> Part:
    starts = np.arange(len(pitches)) * step
    return Part(
        "piano",
        0,
        is_drum,
        "melody",
        starts,
        starts + length,
        np.array(pitches),
        np.array(velocities, np.int64),
    )


def test_affect_follows_the_rules():
    n = 100
    flat = np.full(n, -6.0)

    def affect(pitch=60, velocity=70, length=0.4, tempo=90.0, mode="major", gain=0.0, step=0.5):
        count = int(10.0 / step)
        part = solo([pitch] * count, [velocity] * count, length, step)
        valence, arousal = affect_curves((part,), flat + gain, tempo, mode)
        return valence.mean(), arousal.mean()

    valence, arousal = affect()
    assert affect(mode="minor")[0] < valence - 0.5
    assert affect(tempo=130.0)[0] > valence
    assert affect(tempo=130.0)[1] > arousal + 0.1
    assert affect(pitch=76)[0] > valence
    assert affect(length=0.1)[1] > arousal
    assert affect(velocity=110)[1] > arousal + 0.1
    assert affect(gain=-12.0)[1] < arousal - 0.1
    assert affect(step=0.2, length=0.2)[1] > arousal


def test_affect_of_nothing_is_defined():
    valence, arousal = affect_curves((), np.full(50, -36.0), 60.0, "minor")
    assert valence.shape == arousal.shape == (50,)
    assert np.isfinite(valence).all()
    assert arousal.max() < -0.3


def test_captions_name_players_mood_and_place():
    captions = {arranged(scene("muted", rt60_seconds=2.5), seed).caption for seed in range(30)}
    assert any("solo cello in a large hall" in caption for caption in captions)
    assert "behind a wall" in arranged(scene("leak")).caption
