import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from silent2music.audio import db_to_gain, integrated_lufs, rms_dbfs
from silent2music.config import DataConfig
from silent2music.errors import DataError
from silent2music.evaluation.features import music_features
from silent2music.evaluation.following import energy_correlation, onset_scores
from silent2music.factory import rendering
from silent2music.factory.arrangement import Arrangement, SceneTruth
from silent2music.factory.arranging import arrange
from silent2music.factory.rendering import MUSIC_LUFS, PEAK_DBFS, render
from silent2music.factory.scores import ScorePart, SourceScore
from silent2music.score import ENERGY_RATE_HZ, Part

SOUNDFONT = Path(os.environ.get("S2M_SOUNDFONT", DataConfig().soundfont[0]))
RATE = 24_000

needs_synthesiser = pytest.mark.skipif(
    shutil.which("fluidsynth") is None or not SOUNDFONT.is_file(),
    reason="needs the command fluidsynth and a General MIDI soundfont (Debian: fluidsynth fluid-soundfont-gm)",
)


def part(
    starts, name="piano", program=0, role="melody", pitch=60, velocity=90, length=0.4, is_drum=False
) -> Part:
    starts = np.asarray(starts, np.float64)
    pitches = np.full(len(starts), pitch)
    velocities = np.full(len(starts), velocity)
    return Part(name, program, is_drum, role, starts, starts + length, pitches, velocities)


def arrangement(*parts: Part, seconds: float = 4.0, gain_db=0.0) -> Arrangement:
    curve = np.broadcast_to(np.asarray(gain_db, np.float64), (round(seconds * ENERGY_RATE_HZ),))
    return Arrangement(seconds, parts, curve, key="C major", caption="caption")


def make_score() -> SourceScore:
    """Eighths over a chord in every bar of 4/4, 40 bars long."""
    eighths, bars = np.arange(320) / 2.0, np.repeat(np.arange(0.0, 160.0, 4.0), 3)
    pitches = np.concatenate([np.resize([72, 76, 79, 84, 79, 76], 320), np.resize([48, 55, 64], len(bars))])
    starts, ends = np.concatenate([eighths, bars]), np.concatenate([eighths + 0.45, bars + 3.8])
    order = np.lexsort((pitches, starts))
    line = ScorePart("", 0, starts[order], ends[order], pitches[order], np.full(len(order), 80))
    tempo = ((0.0, 100.0),)
    return SourceScore("a.mid", (line,), 160, np.arange(0, 160, 4), tempo, 0, "major")


def block(starts, **options) -> Part:
    return part(starts, "drums", 0, "percussion", 76, is_drum=True, **options)


def attack_seconds(samples: np.ndarray, near: float) -> float:
    """When the sound after `near` - 0.1 s first passes a tenth of its local peak."""
    first = int((near - 0.1) * RATE)
    piece = np.abs(samples[:, first : first + RATE // 4]).max(axis=0)
    return (first + int(np.argmax(piece > 0.1 * piece.max()))) / RATE


@needs_synthesiser
@pytest.mark.parametrize("sample_rate", [16_000, 24_000, 44_100])
def test_length_is_exact_and_sound_is_stereo(sample_rate):
    music = render(arrangement(part([0.0, 1.0, 2.9], length=0.2), seconds=3.1), SOUNDFONT, sample_rate)
    assert music.samples.shape == (2, round(3.1 * sample_rate))
    assert music.sample_rate == sample_rate
    assert music.samples.any()


@needs_synthesiser
def test_onsets_are_heard_when_they_are_written():
    times = [0.3, 1.1234, 2.5, 3.7777]
    music = render(arrangement(block(times, length=0.2)), SOUNDFONT, room_response=np.ones(1))
    for time in times:
        assert attack_seconds(music.samples, time) == pytest.approx(time, abs=0.005)


@needs_synthesiser
def test_a_key_struck_again_while_held_sounds_on():
    held = render(
        arrangement(part([0.0, 1.0], "church organ", 19, length=1.5)), SOUNDFONT, room_response=np.ones(1)
    )
    first, second = (rms_dbfs(held.samples[:, int(t * RATE) : int((t + 0.3) * RATE)]) for t in (0.5, 2.0))
    assert second == pytest.approx(first, abs=4.0)


@needs_synthesiser
def test_a_note_at_zero_is_not_lost():
    music = render(arrangement(block([0.0])), SOUNDFONT, room_response=np.ones(1))
    loud = np.abs(music.samples).max(axis=0)
    assert np.argmax(loud > 0.1 * loud.max()) < 0.005 * RATE


@needs_synthesiser
def test_pitch_is_right():
    music = render(arrangement(part([0.0], pitch=69, length=3.5)), SOUNDFONT)
    spectrum = np.abs(np.fft.rfft(music.samples.mean(axis=0)[RATE // 2 : RATE * 5 // 2]))
    assert np.argmax(spectrum) / 2.0 == pytest.approx(440.0, abs=3.0)


@needs_synthesiser
def test_loudness_and_peak_are_controlled():
    held = [part([0.0], "strings", 48, pitch=p, length=4.0) for p in (48, 55, 64)]
    music = render(arrangement(*held), SOUNDFONT)
    assert integrated_lufs(music) == pytest.approx(MUSIC_LUFS, abs=0.5)
    clicks = render(arrangement(block(np.arange(0.1, 3.9, 1.3))), SOUNDFONT)
    assert np.abs(clicks.samples).max() <= db_to_gain(PEAK_DBFS)


@needs_synthesiser
def test_quiet_scenes_stay_quieter():
    held = part([0.0], "strings", 48, length=4.0)
    loud, quiet = (integrated_lufs(render(arrangement(held, gain_db=g), SOUNDFONT)) for g in (0.0, -12.0))
    assert loud - quiet == pytest.approx(12.0, abs=0.5)


@needs_synthesiser
def test_level_follows_the_automation():
    seconds = 20.0
    time = np.arange(round(seconds * ENERGY_RATE_HZ)) / ENERGY_RATE_HZ
    gain_db = -9.0 + 9.0 * np.sin(2.0 * np.pi * time / 7.0)
    starts = np.arange(0.0, 20.0, 0.5)
    music = render(arrangement(part(starts, length=0.5), seconds=seconds, gain_db=gain_db), SOUNDFONT)
    frames = music.samples.mean(axis=0).reshape(len(time), -1)
    level_db = 10.0 * np.log10(np.square(frames).mean(axis=1) + 1e-10)
    assert np.corrcoef(level_db, gain_db)[0, 1] > 0.85


def test_a_performance_is_levelled_half_of_the_way_but_within_limits_and_not_in_rests():
    def levelled(level_db: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Levels in dB after what is slow, and the gain that comes further."""
        power = 10.0 ** (level_db / 10.0)
        slow_db = rendering._levelling_db(power)
        return level_db + slow_db, rendering._levelled_further(power, slow_db) - slow_db

    level_db = np.tile([0.0, -4.0, -8.0, -12.0, -26.0], 40)
    level_db[100:120] = -45.0
    found, more_db = levelled(level_db)
    assert not more_db[102:118].any(), "a rest"
    usual = np.median(found[found > found.max() - 30.0])
    near = (np.abs(found - usual) < 12.0) & (np.abs(np.arange(200) - 110) > 20)
    assert near.sum() > 100
    np.testing.assert_allclose(more_db[near], -0.5 * (found - usual)[near], atol=1e-9)
    assert more_db.max() == 6.0
    level_db[50] = 30.0
    assert levelled(level_db)[1].min() == -10.0
    assert not levelled(np.full(30, -np.inf))[1].any()


@needs_synthesiser
@pytest.mark.parametrize("seconds", [0.5, 1.0, 2.0])
def test_short_scores_with_automation_are_played(seconds):
    notes = part([0.0], length=0.3)
    music = render(arrangement(notes, seconds=seconds, gain_db=-6.0), SOUNDFONT)
    assert music.seconds == seconds and np.abs(music.samples).max() > 1e-3


@needs_synthesiser
def test_a_room_rings_on_and_keeps_the_onset():
    time = np.arange(2 * RATE) / RATE
    noise = np.random.default_rng(0).standard_normal(2 * RATE)
    response = 0.05 * noise * np.exp(-6.9 * time / 2.0)
    response[0] = 1.0
    late = np.concatenate([np.zeros(500), response])
    dry, wet = (render(arrangement(block([1.0])), SOUNDFONT, room_response=r) for r in (np.ones(1), late))
    tail = slice(int(2.0 * RATE), int(2.5 * RATE))
    assert rms_dbfs(wet.samples[:, tail]) > rms_dbfs(dry.samples[:, tail]) + 20.0
    assert attack_seconds(wet.samples, 1.0) == pytest.approx(1.0, abs=0.005)


@needs_synthesiser
def test_nothing_to_play_is_silence():
    music = render(arrangement(), SOUNDFONT)
    assert music.samples.shape == (2, 4 * RATE)
    assert not music.samples.any()


@needs_synthesiser
def test_rendering_is_deterministic():
    music = arrangement(part([0.1, 0.7]), block([0.4]))
    first, second = (render(music, SOUNDFONT) for _ in range(2))
    np.testing.assert_array_equal(first.samples, second.samples)


@needs_synthesiser
def test_many_parts_keep_their_instruments():
    """More parts than a band has; each must sound at its own pitch."""
    pitches = range(48, 48 + 24, 2)
    music = render(
        arrangement(
            *(part([0.0], "strings", 48 + i % 3, pitch=p, length=4.0) for i, p in enumerate(pitches))
        ),
        SOUNDFONT,
        room_response=np.ones(1),
    )
    spectrum = np.abs(np.fft.rfft(music.samples.mean(axis=0)[RATE : 3 * RATE]))
    for pitch in pitches:
        bin_ = 2.0 * 440.0 * 2.0 ** ((pitch - 69) / 12.0)
        around = spectrum[round(bin_) - 3 : round(bin_) + 4].max()
        between = np.median(spectrum[round(bin_) - 60 : round(bin_) + 60])
        assert around > 5.0 * between


@needs_synthesiser
@pytest.mark.parametrize("manner", ["steady", "irregular"])
def test_music_to_steps_is_heard_on_the_steps(manner):
    """From score to sound: onsets found in the audio, and its level, follow the scene and not another."""
    rng = np.random.default_rng(3)
    steps = np.arange(0.4, 19.7, 0.61) if manner == "steady" else 0.4 + np.cumsum(rng.uniform(0.35, 1.5, 19))
    steps = steps[steps < 19.7]
    time = (np.arange(200) + 0.5) / ENERGY_RATE_HZ
    after = time[:, None] - steps[None, :] + 0.05
    decays = np.where(after >= 0.0, np.exp(-np.maximum(after, 0.0) / 0.04), 0.0)
    energy_db = 10.0 * np.log10(1e-7 + 1e-5 * decays.sum(axis=1))
    truth = SceneTruth(
        "steps",
        20.0,
        event_seconds=steps,
        event_strengths=np.full(len(steps), 0.8),
        beat_seconds=steps if manner == "steady" else np.zeros(0),
        energy_db=energy_db,
        level_dbfs=-58.0,
    )
    tail = 0.05 * rng.standard_normal(RATE // 2) * np.exp(-6.9 * np.arange(RATE // 2) / (0.6 * RATE))
    response = np.concatenate([[1.0], tail])
    heard = music_features(render(arrange(make_score(), truth, rng), SOUNDFONT, room_response=response))
    hits, _, _ = onset_scores(steps, heard.onset_seconds)
    between, _, _ = onset_scores(steps[:-1] + 0.5 * np.diff(steps), heard.onset_seconds)
    assert hits >= 0.9
    assert between <= 0.5
    assert energy_correlation(energy_db, heard.energy_db).pearson >= 0.65


def test_missing_soundfont_says_how_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(rendering, "_fluidsynth", lambda: "fluidsynth")
    with pytest.raises(DataError, match=r"gone\.sf2 does not exist; install it with 'apt-get install fluid"):
        render(arrangement(part([0.0])), tmp_path / "gone.sf2")


def test_missing_fluidsynth_says_how_to_install(monkeypatch):
    rendering._fluidsynth.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda command: None)
    with pytest.raises(
        DataError, match="fluidsynth is not installed; install it with 'apt-get install fluidsynth'"
    ):
        render(arrangement(part([0.0])), SOUNDFONT)


@needs_synthesiser
def test_a_soundfont_that_is_none_is_named(tmp_path):
    fake = tmp_path / "fake.sf2"
    fake.write_bytes(b"no soundfont at all")
    with pytest.raises(DataError, match=r"fake\.sf2"):
        render(arrangement(part([0.0])), fake)
