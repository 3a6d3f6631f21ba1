"""Features of music on signals whose answers are known."""

import numpy as np
import pytest

from silent2music.audio import Waveform
from silent2music.evaluation import features
from silent2music.evaluation.features import music_features

RATE = 24_000


def wave(samples: np.ndarray, rate: int = RATE) -> Waveform:
    return Waveform(samples[None].astype(np.float32), rate)


def plucks(times: np.ndarray, seconds: float = 20.0, decay: float = 0.08, midi: int = 69) -> np.ndarray:
    """Decaying tones that start at `times`, with a 5 ms attack."""
    samples = np.zeros(int(seconds * RATE))
    t = np.arange(RATE) / RATE
    for i, start in enumerate(times):
        hz = 440.0 * 2.0 ** ((midi + (0, 4, 7)[i % 3] - 69) / 12)
        tone = sum(np.sin(2 * np.pi * hz * k * t) / k for k in (1, 2, 3, 4))
        tone = 0.2 * tone * np.exp(-t / decay) * np.minimum(t / 0.005, 1.0)
        first = int(start * RATE)
        n = min(tone.size, samples.size - first)
        samples[first : first + n] += tone[:n]
    return samples


@pytest.mark.parametrize("bpm", [60.0, 97.0, 128.0])
def test_onsets_and_tempo_of_regular_notes(bpm: float) -> None:
    times = np.arange(0.5, 19.5, 60.0 / bpm)
    found = music_features(wave(plucks(times)))
    assert found.onset_seconds.size == times.size
    assert np.abs(found.onset_seconds - times).max() < 0.025
    assert found.tempo_bpm == pytest.approx(bpm, rel=0.01)
    assert found.beat_strength > 0.8
    assert found.density_hz == pytest.approx(times.size / 20.0)


@pytest.mark.parametrize("gain", [1.0, 0.01])
def test_gain_changes_energy_alone(gain: float) -> None:
    samples = plucks(np.arange(0.5, 19.5, 0.7))
    loud, quiet = music_features(wave(samples)), music_features(wave(gain * samples))
    np.testing.assert_allclose(quiet.onset_seconds, loud.onset_seconds)
    np.testing.assert_allclose(quiet.chroma, loud.chroma, atol=1e-4)
    sounding = loud.energy_db > -60
    np.testing.assert_allclose((quiet.energy_db - loud.energy_db)[sounding], 20 * np.log10(gain), atol=0.01)
    a, b = (features.quality_features(wave(g * samples)) for g in (1.0, gain))
    np.testing.assert_allclose(a, b, atol=0.05)


@pytest.mark.parametrize("rate", [8_000, 44_100, 192_000])
def test_rate_and_channels_do_not_move_onsets(rate: int) -> None:
    times = np.arange(0.5, 9.5, 0.5)
    mono = wave(plucks(times, 10.0)).resampled(rate)
    found = music_features(Waveform(np.repeat(mono.samples, 3, axis=0), rate))
    assert found.onset_seconds.size == times.size
    assert np.abs(found.onset_seconds - times).max() < 0.025


def test_silence_is_defined() -> None:
    found = music_features(wave(np.zeros(5 * RATE)))
    assert found.onset_seconds.size == found.boundary_seconds.size == 0
    assert found.tempo_bpm is None
    assert (found.energy_db == -120.0).all()
    assert not found.chroma.any()
    assert {getattr(found, name) for name in features.KIND_DESCRIPTORS} == {0.0}
    assert np.isfinite(features.quality_features(wave(np.zeros(5 * RATE)))).all()


def test_half_a_second_is_enough() -> None:
    found = music_features(wave(plucks(np.array([0.1]), 0.5)))
    assert found.energy_db.size == 5
    assert found.tempo_bpm is None
    assert features.quality_features(wave(plucks(np.array([0.1]), 0.5))).shape[0] == 1


def test_chroma_of_a_tone() -> None:
    sine = 0.5 * np.sin(2 * np.pi * 440.0 * np.arange(3 * RATE) / RATE)
    found = music_features(wave(sine))
    assert (found.chroma[:, 5:-5].argmax(axis=0) == 9).all()
    assert found.register_midi == pytest.approx(69, abs=1.0)
    assert found.brightness_hz == pytest.approx(440.0, abs=60.0)


def test_boundary_where_the_music_changes() -> None:
    before = plucks(np.arange(0.2, 11.5, 0.5), 12.0, decay=0.3, midi=45)
    after = plucks(np.arange(0.0, 11.5, 0.25), 12.0, decay=0.05, midi=81)
    found = music_features(wave(np.concatenate([before, after])))
    assert found.boundary_seconds.size == 1
    assert found.boundary_seconds[0] == pytest.approx(12.0, abs=0.3)
    assert music_features(wave(np.concatenate([before, before]))).boundary_seconds.size == 0


def test_clicks_are_percussive_and_tones_are_not() -> None:
    clicks = np.zeros(10 * RATE)
    clicks[RATE // 2 :: RATE // 2] = 0.9
    tone = 0.3 * np.sin(2 * np.pi * 440.0 * np.arange(10 * RATE) / RATE)
    assert music_features(wave(clicks)).percussiveness > 0.9
    assert music_features(wave(tone)).percussiveness < 0.1


@pytest.mark.parametrize("rt60", [0.5, 1.5, 3.0])
def test_reverberance_of_exponential_decays(rt60: float) -> None:
    rng = np.random.default_rng(0)
    t = np.arange(2 * RATE) / RATE
    decay = rng.standard_normal(t.size) * 10.0 ** (-3.0 * t / rt60) * 0.1
    found = music_features(wave(np.tile(decay, 6)))
    assert found.reverberance_seconds == pytest.approx(rt60, rel=0.2)


def test_quality_features_are_deterministic_and_tell_noise_from_notes() -> None:
    notes = plucks(np.arange(0.5, 19.5, 0.5))
    first = features.quality_features(wave(notes))
    assert first.shape == (4, 2 * (32 + 13 + 12 + 6 + 7) + 6)
    np.testing.assert_array_equal(first, features.quality_features(wave(notes)))
    noise = features.quality_features(wave(0.1 * np.random.default_rng(0).standard_normal(notes.size)))
    spread = first.std(axis=0) + 1.0
    assert (
        np.abs((noise - first.mean(axis=0)) / spread).mean()
        > 3 * np.abs((first - first.mean(axis=0)) / spread).mean()
    )


def test_transposing_by_an_octave_hardly_moves_chroma_features() -> None:
    low, high = (
        features.quality_window(plucks(np.arange(0.5, 9.5, 0.5), 10.0, midi=m)[: 5 * RATE])["chroma_mean"]
        for m in (57, 60)
    )
    np.testing.assert_allclose(low, high, atol=0.05)
