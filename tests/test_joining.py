"""What is said of a long recording, from windows that are measured once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rooms import RATE, steps_room

from silent2music import audio, listening
from silent2music.acoustics import AcousticProfile, Boundary, Event, analyze
from silent2music.acoustics.joining import Part, joined
from silent2music.audio import Recording, Waveform
from silent2music.config import AmbientConfig, ModelConfig
from silent2music.listening import Measured, listen

CONFIG = AmbientConfig(dim=16, n_layers=2, n_mels=8, n_fft=512, n_global_tokens=1)
MODEL = ModelConfig(ambient=CONFIG)


@pytest.fixture
def short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "WINDOW_SECONDS", 16.0)
    monkeypatch.setattr(listening, "OVERLAP_SECONDS", 4.0)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of all that is measured."""
    seconds: list[float] = []

    def counting(part: Waveform) -> AcousticProfile:
        seconds.append(part.seconds)
        return analyze(part)

    monkeypatch.setattr(listening, "analyze", counting)
    return seconds


def walk(seconds: float) -> Waveform:
    """Steps, which after two thirds of the time sound in a room 15 dB noisier."""
    samples = steps_room(seconds, interval=0.7, level_dbfs=-45.0)
    after = slice(round(seconds * RATE * 2 / 3), None)
    rng = np.random.default_rng(0)
    samples[:, after] += rng.normal(0, 0.01, samples[:, after].shape).astype(np.float32)
    return Waveform(samples, RATE)


def test_it_is_what_the_whole_would_say(short_windows: None) -> None:
    """Three windows, the last of which shares more with the one before it than the first two do."""
    room = walk(36.0)
    assert [begin / RATE for _, begin, _ in Measured(room, CONFIG).windows(36.0)] == [0.0, 12.0, 20.0]
    whole, found = analyze(room), Measured(room, CONFIG).profile()
    assert (found.seconds, found.sample_rate, found.n_channels) == (36.0, RATE, 1)
    times, expected = (np.array([e.seconds for e in p.events]) for p in (found, whole))
    assert np.allclose(times, expected, atol=0.002) and len(times) > 40
    assert np.allclose(found.energy_dbfs, whole.energy_dbfs, atol=0.1) and len(found.energy_dbfs) == 360
    assert found.level_dbfs == pytest.approx(whole.level_dbfs, abs=0.01)
    assert found.peak_dbfs == pytest.approx(whole.peak_dbfs, abs=0.01)
    assert found.noise_floor_dbfs == pytest.approx(whole.noise_floor_dbfs, abs=0.05)
    assert found.spectral_centroid_hz == pytest.approx(whole.spectral_centroid_hz, rel=0.03)
    assert [b.seconds for b in found.boundaries] == pytest.approx([whole.boundaries[0].seconds], abs=0.1)
    assert found.tempo_bpm == pytest.approx(60 / 0.7, rel=0.01)
    assert np.diff(found.pulse_seconds) == pytest.approx(0.7, abs=0.05)


def test_that_of_a_short_room_is_its_own(counted: list[float]) -> None:
    room = walk(9.0)
    measured = Measured(room, CONFIG)
    list(listen(room, 9.0, MODEL, measured=measured))
    assert measured.profile() == analyze(room)
    assert counted == [9.0]


def test_each_window_is_measured_once(
    tmp_path: Path, short_windows: None, counted: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio.formats, "WHOLE_SECONDS", 1.0)
    audio.write(tmp_path / "room.wav", walk(36.0))
    room = audio.open_recording(tmp_path / "room.wav")
    assert isinstance(room, Recording)
    measured = Measured(room, CONFIG)
    pieces = list(listen(room, 26.0, MODEL, measured=measured))
    assert counted == [16.0, 16.0]  # what the music hears
    measured.profile()
    assert counted == [16.0, 16.0, 16.0]
    alone = list(listen(room, 26.0, MODEL))
    for one, other in zip(pieces, alone, strict=True):
        assert one.along.keys() == other.along.keys() and one.whole.keys() == other.whole.keys()
        for name in one.along:
            assert torch.equal(one.along[name], other.along[name])
        for name in one.whole:
            assert torch.equal(one.whole[name], other.whole[name])


def test_a_room_repeated_for_long_leaves_nothing_behind(short_windows: None, counted: list[float]) -> None:
    room = walk(9.0)
    measured = Measured(room, CONFIG)
    for n_windows in (2, 3):
        list(listen(room, n_windows * 12.0, MODEL, measured=measured))
        assert len(counted) >= n_windows and not measured._profiles
        counted.clear()
    assert measured.profile() == analyze(room)


def blank(seconds: float, level_dbfs: float = -60.0) -> AcousticProfile:
    silence = analyze(Waveform(np.zeros((1, round(seconds * RATE)), np.float32), RATE))
    energy = (level_dbfs,) * len(silence.energy_dbfs)
    return replace(silence, level_dbfs=level_dbfs, energy_dbfs=energy)


def events(*seconds: float) -> tuple[Event, ...]:
    return tuple(Event(s, 20.0, 0.9) for s in seconds)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((8.99,), (3.01,), [8.99]),  # the same, dated on either side of the border at 9 s
        ((9.01,), (2.99,), [8.99]),
        ((8.5, 9.5), (2.5, 3.5), [8.5, 9.5]),  # both heard by both
        ((8.9, 9.1), (2.9, 3.1), [8.9, 9.1]),
        ((8.98,), (3.03,), [8.98, 9.03]),  # two
    ],
)
def test_no_event_is_lost_or_doubled_where_windows_meet(
    before: tuple[float, ...], after: tuple[float, ...], expected: list[float]
) -> None:
    first = replace(blank(12.0), events=events(1.0, *before))
    second = replace(blank(12.0), events=events(*after, 8.0))
    found = joined([Part(0.0, first), Part(6.0, second)])
    assert [e.seconds for e in found.events] == pytest.approx([1.0, *expected, 14.0])


def test_boundaries_and_beats_where_windows_meet() -> None:
    """The second window hears the change 0.6 s later, and beats that are 0.3 s off."""
    beats = tuple(np.arange(0.5, 12.0, 1.0).tolist())
    first = replace(blank(12.0), tempo_bpm=60.0, pulse_seconds=beats, pulse_confidence=0.9)
    first = replace(first, boundaries=(Boundary(8.7, 0.9),))
    shifted = tuple(beat + 0.3 for beat in beats)
    second = replace(first, pulse_seconds=shifted, pulse_confidence=0.6, boundaries=(Boundary(3.3, 0.8),))
    found = joined([Part(0.0, first), Part(6.0, second)])
    assert [b.seconds for b in found.boundaries] == [8.7]
    assert np.diff(found.pulse_seconds).min() > 0.5 and len(found.pulse_seconds) == 18
    assert found.tempo_bpm == pytest.approx(60.0)
    assert found.pulse_confidence == pytest.approx(0.75)
    none = joined([Part(0.0, replace(blank(12.0), pulse_confidence=0.2)), Part(6.0, second)])
    assert none.pulse_phase_seconds == pytest.approx(8.8) and none.pulse_confidence == pytest.approx(0.4)


def test_what_is_weighted() -> None:
    quiet = replace(blank(12.0), spectral_centroid_hz=1000.0, spectral_tilt_db_per_octave=-6.0)
    loud = replace(blank(12.0, -50.0), spectral_centroid_hz=3000.0, spectral_tilt_db_per_octave=0.0)
    found = joined([Part(0.0, quiet), Part(6.0, loud)])
    assert found.level_dbfs == pytest.approx(10 * np.log10((1e-6 + 1e-5) / 2))
    assert found.spectral_centroid_hz == pytest.approx((1000 + 10 * 3000) / 11)
    assert found.spectral_tilt_db_per_octave == pytest.approx(-6 / 11)
    assert found.noise_floor_dbfs == -60.0 and found.energy_dbfs == (-60.0,) * 90 + (-50.0,) * 90
    rooms = [(0.3, 0.2), (None, 0.0), (0.5, 0.9), (2.0, 0.1)]
    parts = [
        Part(6.0 * i, replace(blank(12.0), rt60_seconds=seconds, rt60_confidence=confidence))
        for i, (seconds, confidence) in enumerate(rooms)
    ]
    assert (joined(parts).rt60_seconds, joined(parts).rt60_confidence) == (0.5, 0.9)
    assert joined([Part(0.0, blank(12.0, -120.0)), Part(6.0, blank(12.0, -120.0))]).level_dbfs == -120.0
