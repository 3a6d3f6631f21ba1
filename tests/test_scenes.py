"""Scenes: what they say of themselves is what their audio shows."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from library import RATE, noise_bed, response, write_ambience, write_rooms

from silent2music.acoustics import analyze
from silent2music.audio import Waveform, rms_dbfs, write
from silent2music.errors import DataError
from silent2music.factory.arrangement import Arrangement
from silent2music.factory.chain import coded, in_room, measured_energy_db, quantised
from silent2music.factory.ensembles import STYLES
from silent2music.factory.muted import TOUCHES, mechanical_noise
from silent2music.factory.rooms import measured_rt60
from silent2music.factory.scenes import (
    DEFAULT_LEVELS,
    KINDS,
    Levels,
    Scene,
    free_truth,
    leak_scene,
    make_scene,
    muted_scene,
    usable_kinds,
)
from silent2music.factory.sources import Library, open_library
from silent2music.score import ENERGY_RATE_HZ, Part

SECONDS = 30.0
QUIET_CHAIN = Levels(chain=0.0)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    folder = tmp_path_factory.mktemp("library")
    ambience, rooms = write_ambience(folder / "ambience"), write_rooms(folder / "rooms")
    return open_library(ambience, rooms, folder / "cache", n_simulated=8)


def make(kind: str, library: Library, seed: int, levels: Levels = DEFAULT_LEVELS) -> Scene:
    return make_scene(kind, library, np.random.default_rng(seed), SECONDS, levels)


def part(name: str, starts: list[float], pitch: int = 60, velocity: int = 90, role: str = "melody") -> Part:
    start = np.array(starts)
    count = len(starts)
    return Part(
        name,
        0,
        name == "drums",
        role,
        start,
        start + 0.4,
        np.full(count, pitch, np.int64),
        np.full(count, velocity, np.int64),
    )


def arrangement(parts: tuple[Part, ...], seconds: float = 10.0) -> Arrangement:
    n = round(seconds * ENERGY_RATE_HZ)
    beats = np.arange(0, seconds, 0.5)
    return Arrangement(seconds, parts, np.zeros(n), beats, beats[::4], np.array([4.0]), caption="slow piano")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_keeps_its_word_on_level_length_and_energy(kind: str, library: Library) -> None:
    for seed in range(3):
        scene = make(kind, library, seed)
        truth, samples = scene.truth, scene.audio.samples
        assert samples.shape == (1, round(SECONDS * RATE))
        assert -75.6 <= truth.level_dbfs <= -39.9
        assert truth.level_dbfs == pytest.approx(rms_dbfs(samples), abs=1e-6)
        assert truth.energy_db.shape == (300,)
        assert 10 * np.log10(np.mean(10 ** (truth.energy_db / 10))) == pytest.approx(
            truth.level_dbfs, abs=0.01
        )
        np.testing.assert_array_equal(samples * 32768, np.round(samples * 32768))
        assert (np.diff(truth.event_seconds) >= 0).all()
        assert truth.event_seconds.shape == truth.event_strengths.shape
        assert ((truth.event_strengths > 0) & (truth.event_strengths <= 1)).all()
        assert ((truth.boundary_seconds > 5) & (truth.boundary_seconds < SECONDS - 5)).all()
        assert scene.sources


def rise_db(samples: np.ndarray, time: float) -> float:
    """How much louder the 20 ms after a time are than the 20 ms that end 5 ms before it."""
    at, width = round(time * RATE), RATE // 50
    before = samples[max(0, at - width - RATE // 200) : at - RATE // 200]
    after = samples[at : at + width]
    return float(10 * np.log10((np.square(after).mean() + 1e-12) / (np.square(before).mean() + 1e-12)))


def test_steps_are_heard_where_they_are_said_to_be(library: Library) -> None:
    heard, elsewhere = [], []
    for seed in range(5):
        scene = make("steps", library, seed, QUIET_CHAIN)
        samples = scene.audio.samples[0]
        events = scene.truth.event_seconds
        assert len(events) >= 8
        heard += [rise_db(samples, t) > 3 for t in events[1:]]
        between = (events[:-1] + events[1:]) / 2
        elsewhere += [rise_db(samples, t) > 3 for t in between]
    assert np.mean(heard) > 0.93
    assert np.mean(elsewhere) < 0.05


def test_steady_steps_stand_on_their_beats(library: Library) -> None:
    on_beat, steady = [], 0
    for seed in range(8):
        truth = make("steps", library, seed).truth
        intervals = np.diff(truth.beat_seconds)
        steady += len(intervals) > 8 and np.median(np.abs(intervals - np.median(intervals))) < 1e-3
        if len(truth.beat_seconds):
            on_beat += [np.abs(truth.beat_seconds - t).min() < 0.013 for t in truth.event_seconds]
    assert steady >= 4
    assert np.mean(on_beat) == 1.0


def test_a_change_of_scene_changes_level_or_colour(library: Library) -> None:
    changed = []
    for seed in range(20):
        scene = make("weather", library, seed, QUIET_CHAIN)
        for time in scene.truth.boundary_seconds:
            spectra = []
            for start in (time - 2.2, time + 0.2):
                piece = scene.audio.samples[0, round(start * RATE) : round((start + 2) * RATE)]
                power = np.square(np.abs(np.fft.rfft(piece)))
                bands = np.array_split(power[: 4000 * 2], 8)
                spectra.append(10 * np.log10(np.array([band.mean() for band in bands])))
            changed.append(np.abs(spectra[0] - spectra[1]).max() > 4)
    assert len(changed) >= 5
    assert np.mean(changed) > 0.85


def test_boundaries_come_in_about_a_third_of_long_scenes_and_never_in_short_ones() -> None:
    counts = [len(free_truth("leak", np.random.default_rng(i), 30.0).boundary_seconds) for i in range(400)]
    assert 0.27 < np.mean(np.array(counts) > 0) < 0.43
    assert max(counts) == 2
    assert not any(
        len(free_truth("leak", np.random.default_rng(i), 20.0).boundary_seconds) for i in range(50)
    )


def test_a_room_rings_as_long_as_it_says() -> None:
    click = np.zeros(3 * RATE, np.float32)
    click[RATE // 10] = 1.0
    wet = in_room(click, np.zeros_like(click), response(1.1).astype(np.float32), background_too=False)
    assert wet.shape == click.shape
    assert np.abs(wet).argmax() == RATE // 10
    assert measured_rt60(wet[RATE // 10 :]) == pytest.approx(1.1, rel=0.1)


def test_a_background_in_a_room_does_not_build_up_at_the_start() -> None:
    rng = np.random.default_rng(0)
    background = rng.standard_normal(3 * RATE).astype(np.float32)
    wet = in_room(
        np.zeros_like(background), background, response(2.0).astype(np.float32), background_too=True
    )
    first, all_of_it = np.square(wet[: RATE // 10]).mean(), np.square(wet).mean()
    assert 10 * np.log10(first / all_of_it) == pytest.approx(0, abs=1.0)


def test_the_same_generator_gives_the_same_scene_and_another_another(library: Library) -> None:
    one, two, other = make("street", library, 5), make("street", library, 5), make("street", library, 6)
    np.testing.assert_array_equal(one.audio.samples, two.audio.samples)
    assert not np.array_equal(one.audio.samples, other.audio.samples)


def test_energy_of_a_known_signal() -> None:
    samples = np.concatenate([np.full(2400, 0.1), np.full(2400, 0.01), np.zeros(2400)]).astype(np.float32)
    np.testing.assert_allclose(measured_energy_db(samples), [-20.0, -40.0, -120.0], atol=1e-4)


def test_dither_keeps_the_level_of_what_is_smaller_than_a_step() -> None:
    tone = (0.4 / 32768 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)).astype(np.float32)
    out = quantised(tone, np.random.default_rng(0))
    assert np.dot(out, tone) / np.dot(tone, tone) == pytest.approx(1.0, abs=0.1)


def test_coding_keeps_the_sound_in_place_and_drops_what_is_weak() -> None:
    time = np.arange(RATE) / RATE
    noise = 1e-4 * np.random.default_rng(0).standard_normal(RATE)
    tone = (0.1 * np.sin(2 * np.pi * 440 * time) + noise).astype(np.float32)
    out = coded(tone, 20.0)
    assert out.shape == tone.shape
    middle = slice(2000, -2000)
    assert np.corrcoef(out[middle], tone[middle])[0, 1] > 0.999
    window = np.hanning(RATE - 4000)
    high = [np.abs(np.fft.rfft(x[middle] * window))[-1500:].sum() for x in (out, tone)]
    assert high[0] < 0.05 * high[1]


@pytest.mark.parametrize("name", sorted(TOUCHES))
def test_a_silent_instrument_is_heard_at_its_notes_only(name: str) -> None:
    starts = [0.5, 1.5, 2.5]
    noise, onsets, strengths = mechanical_noise([part(name, starts)], 4 * RATE, np.random.default_rng(0))
    np.testing.assert_allclose(onsets, starts)
    assert (strengths > 0.5).all()
    assert all(rise_db(noise, t) > 20 for t in starts)
    assert np.abs(noise[: int(0.49 * RATE)]).max() == 0


def test_mechanical_noise_follows_velocity_pitch_and_instrument() -> None:
    def played(name: str, pitch: int, velocity: int) -> np.ndarray:
        noise, _, _ = mechanical_noise([part(name, [0.2], pitch, velocity)], RATE, np.random.default_rng(0))
        return noise

    def centroid(samples: np.ndarray) -> float:
        power = np.square(np.abs(np.fft.rfft(samples)))
        return float((power * np.fft.rfftfreq(samples.size, 1 / RATE)).sum() / power.sum())

    assert rms_dbfs(played("piano", 60, 120)[None]) > rms_dbfs(played("piano", 60, 40)[None]) + 8
    assert centroid(played("violin", 84, 90)) > 1.3 * centroid(played("violin", 55, 90))
    assert centroid(played("flute", 60, 90)) > 1.5 * centroid(played("tuba", 60, 90))
    np.testing.assert_array_equal(played("theremin", 60, 90), played("piano", 60, 90))
    muted = [voice for style in STYLES["muted"] for voices in style.ensembles for voice in voices]
    assert {voice.instrument for voice in muted} == set(TOUCHES)


def test_muted_scene_takes_its_truth_from_the_arrangement(library: Library) -> None:
    starts = list(np.arange(0.5, 9.5, 1.0))
    music = arrangement((part("piano", starts), part("cello", [t + 0.01 for t in starts], 48, role="bass")))
    closet = next(room for room in library.rooms if room.credit and room.rt60_seconds < 1)
    scene = muted_scene(music, library, np.random.default_rng(0), QUIET_CHAIN, closet)
    assert scene.truth.kind == "muted"
    np.testing.assert_allclose(scene.truth.event_seconds, starts)
    np.testing.assert_array_equal(scene.truth.beat_seconds, music.beat_seconds)
    np.testing.assert_array_equal(scene.truth.boundary_seconds, [4.0])
    assert all(rise_db(scene.audio.samples[0], t) > 6 for t in starts)
    assert scene.room is closet


def test_a_new_section_is_heard_between_the_keys_too(library: Library) -> None:
    """The room tone jumps with the music's loudness: the quiet moments tell which section it is."""
    # Loud enough for the steps of 16 bits not to be what is quiet.
    levels = Levels(-50.0, -40.0, chain=0.0)
    for sign in (-1.0, 1.0):
        music = arrangement((part("piano", list(np.arange(0.5, 9.5, 1.0))),))
        gain_db = np.where(np.arange(100) < 40, 0.0, 10.0 * sign) - 10.0
        music = dataclasses.replace(music, gain_db=gain_db)
        for seed in range(4):
            scene = muted_scene(music, library, np.random.default_rng(seed), levels)
            level_db = 10 * np.log10(np.square(scene.audio.samples[0]).reshape(-1, RATE // 20).mean(axis=1))
            before, after = (np.percentile(part_db, 20) for part_db in (level_db[:80], level_db[80:]))
            assert sign * (after - before) > 6


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["room", "hall"])
def test_the_microphone_does_not_drown_a_change(kind: str, library: Library) -> None:
    jumps = []
    for seed in range(30):
        scene = make(kind, library, seed, Levels(-50.0, -40.0, chain=0.0))
        level_db = 10 * np.log10(np.square(scene.audio.samples[0]).reshape(-1, RATE // 20).mean(axis=1))
        edges = [0, *(round(20 * t) for t in scene.truth.boundary_seconds), level_db.size]
        quiet = [np.percentile(level_db[a:b], 20) for a, b in pairwise(edges)]
        jumps += [abs(b - a) for a, b in pairwise(quiet)]
    assert len(jumps) >= 8
    # Now and then an event lies at a change, or two stretches of a recording are alike.
    assert np.quantile(jumps, 0.25) > 9


@pytest.mark.parametrize("kind", ["muted", "leak"])
def test_the_room_goes_along_where_the_music_grows_loud(kind: str, library: Library) -> None:
    music = arrangement((part("piano", list(np.arange(0.25, 9.5, 0.5)), 48),))
    gain_db = np.where(np.arange(100) < 40, -14.0, 0.0)
    music = dataclasses.replace(music, gain_db=gain_db)
    time = np.arange(10 * RATE) / RATE
    tone = 0.1 * 10 ** (gain_db.repeat(2400) / 20) * np.sin(2 * np.pi * 131 * time)
    heard = Waveform(tone[None].astype(np.float32), RATE)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        if kind == "muted":
            scene = muted_scene(music, library, rng, QUIET_CHAIN)
        else:
            scene = leak_scene(music, heard, library, rng, QUIET_CHAIN)
        energy = scene.truth.energy_db
        assert np.median(energy[45:]) > np.median(energy[5:35]) + 4


def test_leak_is_the_music_low_passed_far_down_and_in_time(library: Library) -> None:
    from scipy.signal import butter, sosfilt

    time = np.arange(10 * RATE) / RATE
    notes = np.arange(0.5, 9.5, 1.0)
    tone = sum(
        0.3 * (time >= t) * np.exp(-3 * np.maximum(time - t, 0)) * np.sin(2 * np.pi * 131 * time)
        for t in notes
    )
    music = Waveform(np.stack([tone, tone]).astype(np.float32), RATE)
    plan = arrangement((part("piano", list(notes), 48), part("flute", [0.75], 96)))
    correlations = []
    for seed in range(6):
        scene = leak_scene(plan, music, library, np.random.default_rng(seed), QUIET_CHAIN)
        np.testing.assert_allclose(scene.truth.event_seconds, notes)
        assert scene.truth.level_dbfs < -39.9
        low = butter(4, 200, fs=RATE, output="sos")
        correlations.append(np.corrcoef(sosfilt(low, scene.audio.samples[0]), sosfilt(low, tone))[0, 1])
    assert np.median(np.abs(correlations)) > 0.3


def test_a_field_is_a_stretch_of_a_recording_as_it_is(tmp_path: Path) -> None:
    from scipy.signal import correlate

    folder = tmp_path / "ambience"
    folder.mkdir()
    rng = np.random.default_rng(0)
    time = np.arange(40 * RATE) / RATE
    sound = noise_bed(rng, 40.0, 500) * (1.5 + np.sin(2 * np.pi * time / 7)) / 30
    for onset in np.arange(1.0, 40.0, 1.3):
        sound += (
            0.5
            * (time >= onset)
            * np.exp(-np.maximum(time - onset, 0) / 0.02)
            * rng.standard_normal(time.size)
        )
    write(folder / "city.wav", Waveform(np.clip(sound, -1, 1)[None].astype(np.float32), RATE))
    (folder / "index.tsv").write_text("path\tlicence\tauthor\ncity.wav\tCC0\tTester\n", encoding="utf-8")
    library = open_library(folder, None, tmp_path / "cache", n_simulated=1)
    scene = make("field", library, 3, Levels(-52.0, -52.0))
    samples = scene.audio.samples[0]
    assert rms_dbfs(samples[None]) == pytest.approx(-52.0, abs=0.1)
    clip = library.clips[0]
    whole = library.audio(clip)
    place = int(correlate(whole, samples[:RATE], "valid", method="fft").argmax())
    stretch = whole[place : place + samples.size]
    assert np.corrcoef(stretch, samples)[0, 1] > 0.999, "nothing but its level is another"
    profile = analyze(scene.audio)
    np.testing.assert_array_equal(scene.truth.event_seconds, [event.seconds for event in profile.events])
    np.testing.assert_array_equal(scene.truth.boundary_seconds, [b.seconds for b in profile.boundaries])
    assert len(scene.truth.event_seconds) >= 5
    assert [credit.path for credit in scene.sources] == ["city.wav"]


def test_a_field_of_short_recordings_joins_some_of_one_use(library: Library) -> None:
    for seed in range(4):
        scene = make("field", library, seed)
        used = [clip for clip in library.clips if clip.credit in scene.sources]
        assert len({(clip.kinds, clip.role) for clip in used}) == 1
        assert scene.audio.n_samples == round(SECONDS * RATE)
        assert scene.profile is not None


def test_nothing_is_silence_hiss_or_hum_without_any_event(library: Library) -> None:
    scenes = [make("nothing", library, seed) for seed in range(24)]
    silent = [scene for scene in scenes if not scene.audio.samples.any()]
    assert 2 <= len(silent) <= 16
    for scene in scenes:
        assert not len(scene.truth.event_seconds)
        assert not len(scene.truth.boundary_seconds)
        assert not scene.sources
        if scene.audio.samples.any():
            assert -75.5 < scene.truth.level_dbfs < -39.5
            assert np.ptp(scene.truth.energy_db) < 4.0, "it is steady"
    assert all(scene.truth.level_dbfs <= -119.9 for scene in silent)


def test_unknown_kind_is_named_and_missing_recordings_take_a_kind_out(library: Library) -> None:
    with pytest.raises(DataError, match="Scene kind 'cave' is unknown; expected one of room"):
        make("cave", library, 0)
    with pytest.raises(DataError, match="Scene kind 'cave' is unknown"):
        usable_kinds(library, {"cave": 1.0})
    empty = Library((), library.rooms)
    shares = {"steps": 1.0, "leak": 2.0, "room": 0.0, "field": 1.0, "nothing": 0.5}
    assert usable_kinds(empty, shares) == {"leak": 2.0, "nothing": 0.5}
    assert usable_kinds(library, {"field": 1.0}) == {"field": 1.0}
    assert usable_kinds(library, {"steps": 1.0, "weather": 0.5}) == {"steps": 1.0, "weather": 0.5}
