"""Analytic signals: what is put in is known, and so is what must come out."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt

from silent2music import audio
from silent2music.acoustics import (
    PROFILE_CURVES,
    PROFILE_SCALARS,
    AcousticProfile,
    Boundary,
    Event,
    analyze,
    profile_curves,
    profile_scalars,
)
from silent2music.acoustics.boundaries import change_probability, find_boundaries, likelihood_ratio
from silent2music.acoustics.peaks import find_peaks
from silent2music.acoustics.spectra import FRAME_RATE, N_BANDS
from silent2music.audio import FLOOR_DBFS, Waveform

RATE = 24_000
Samples = NDArray[np.float64]


def noise(seconds: float, slope: float = 0.0, seed: int = 0) -> Samples:
    """Noise of RMS 1 whose power falls by `slope` powers of the frequency: 0 white, 1 pink, 2 brown."""
    n = round(seconds * RATE)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(n))
    hz = np.maximum(np.fft.rfftfreq(n, 1 / RATE), 20.0)
    shaped = np.fft.irfft(spectrum * hz ** (-slope / 2), n)
    return shaped / shaped.std()


def clicks(
    times: NDArray[np.float64] | list[float],
    seconds: float,
    above_db: float = 20.0,
    rt60: float = 0.05,
    slope: float = 1.0,
    seed: int = 0,
) -> Samples:
    """Bursts of exponentially decaying noise, their start `above_db` over a bed of noise of RMS 1."""
    rng = np.random.default_rng(seed)
    out = noise(seconds, slope, seed + 1)
    n_burst = round(1.2 * rt60 * RATE)
    envelope = 10 ** (above_db / 20) * 10 ** (-3 * np.arange(n_burst) / RATE / rt60)
    for time in times:
        start = round(time * RATE)
        stop = min(start + n_burst, out.size)
        out[start:stop] += (rng.standard_normal(n_burst) * envelope)[: stop - start]
    return out


def at_level(samples: Samples, level_dbfs: float = -60.0, bits: int = 0) -> Waveform:
    """One channel at a level in dBFS RMS, rounded to `bits` if given."""
    scaled = samples * audio.db_to_gain(level_dbfs) / np.sqrt(np.mean(samples**2))
    if bits:
        scaled = np.round(scaled * 2 ** (bits - 1)) / 2 ** (bits - 1)
    return Waveform(scaled[None].astype(np.float32), RATE)


def found(profile: AcousticProfile) -> Samples:
    return np.array([e.seconds for e in profile.events])


def n_matched(reference: Samples, estimated: Samples, tolerance: float) -> int:
    if not estimated.size:
        return 0
    return int((np.abs(reference[:, None] - estimated).min(axis=1) <= tolerance).sum())


class TestLevels:
    def test_a_sine(self) -> None:
        t = np.arange(3 * RATE) / RATE
        profile = analyze(Waveform((0.001 * np.sin(2 * np.pi * 440 * t))[None].astype(np.float32), RATE))
        expected = 20 * np.log10(0.001 / np.sqrt(2))
        assert profile.level_dbfs == pytest.approx(expected, abs=0.05)
        assert profile.noise_floor_dbfs == pytest.approx(expected, abs=0.2)
        assert profile.peak_dbfs == pytest.approx(-60.0, abs=1.0)
        assert profile.spectral_centroid_hz == pytest.approx(440, abs=15)
        assert len(profile.energy_dbfs) == 30
        assert profile.energy_dbfs[5:] == pytest.approx([expected] * 25, abs=0.1)
        assert profile.events == () and profile.tempo_bpm is None

    @pytest.mark.parametrize(("slope", "tilt"), [(0.0, 0.0), (1.0, -3.0), (2.0, -6.0)])
    def test_tilt(self, slope: float, tilt: float) -> None:
        assert analyze(at_level(noise(5, slope))).spectral_tilt_db_per_octave == pytest.approx(tilt, abs=0.7)

    def test_the_floor_is_what_lies_between_events(self) -> None:
        samples = clicks([0.5, 2.2, 3.9], 5, above_db=40, slope=0.0)
        room = at_level(samples, -50)
        bed_dbfs = -50 - 10 * np.log10(np.mean(samples**2))
        profile = analyze(room)
        assert profile.noise_floor_dbfs == pytest.approx(bed_dbfs, abs=1.0)
        assert profile.level_dbfs == pytest.approx(-50, abs=0.3)

    @pytest.mark.parametrize("rate", [8000, 11_025, 44_100])
    def test_the_energy_curve_has_the_recordings_power(self, rate: int) -> None:
        """Cells meet the samples whatever the rate, and across the blocks in which they are read."""
        seconds = 23.45
        n = int(seconds * rate)
        gain = np.where(np.arange(n) < 10.7 * rate, 0.001, 0.01)
        rng = np.random.default_rng(0)
        samples = (gain * rng.standard_normal(n)).astype(np.float32)
        profile = analyze(Waveform(samples[None], rate))
        edges = np.round(np.arange(234) * rate / 10).astype(int)
        direct = [audio.rms_dbfs(samples[None, a:b]) for a, b in itertools.pairwise(edges)]
        assert len(profile.energy_dbfs) in (234, 235)
        assert np.abs(np.array(profile.energy_dbfs[1:233]) - direct[1:]).max() < 0.5

    @pytest.mark.parametrize("offset", [0.0, 0.3])
    def test_silence(self, offset: float) -> None:
        profile = analyze(Waveform(np.full((2, RATE), offset, np.float32), RATE))
        for level in (profile.level_dbfs, profile.peak_dbfs, profile.noise_floor_dbfs, *profile.energy_dbfs):
            assert level == FLOOR_DBFS
        assert (profile.events, profile.pulse_seconds, profile.boundaries) == ((), (), ())
        assert (profile.tempo_bpm, profile.pulse_phase_seconds, profile.rt60_seconds) == (None, None, None)

    def test_an_offset_changes_nothing(self) -> None:
        room = at_level(clicks([0.7, 1.9, 3.3], 5), -50)
        plain, shifted = analyze(room), analyze(Waveform(room.samples + np.float32(0.4), RATE))
        assert found(shifted) == pytest.approx(found(plain), abs=0.002)
        assert shifted.level_dbfs == pytest.approx(plain.level_dbfs, abs=0.1)

    def test_scaling_changes_the_dbfs_fields_alone(self) -> None:
        samples = clicks(np.arange(0.4, 13, 0.6), 14, above_db=30, rt60=0.4)
        samples[10 * RATE :] += 8 * noise(4, 0.0, seed=9)
        loud, quiet = analyze(at_level(samples, -30)), analyze(at_level(samples, -75))
        assert len(quiet.events) >= 15
        assert found(quiet) == pytest.approx(found(loud), abs=1e-3)
        assert [e.strength_db for e in quiet.events] == pytest.approx(
            [e.strength_db for e in loud.events], abs=0.1
        )
        assert quiet.tempo_bpm == pytest.approx(loud.tempo_bpm, rel=1e-3)
        assert quiet.rt60_seconds == pytest.approx(loud.rt60_seconds, rel=1e-2)
        assert [b.seconds for b in quiet.boundaries] == [b.seconds for b in loud.boundaries]
        assert quiet.spectral_centroid_hz == pytest.approx(loud.spectral_centroid_hz, rel=1e-3)
        assert loud.level_dbfs - quiet.level_dbfs == pytest.approx(45, abs=0.01)
        assert loud.noise_floor_dbfs - quiet.noise_floor_dbfs == pytest.approx(45, abs=0.01)


class TestPeaks:
    @pytest.mark.parametrize("seed", range(20))
    def test_they_are_those_of_scipy(self, seed: int) -> None:
        from scipy.signal import find_peaks as expected

        # Few levels: flat tops, equal heights and ties of distance.
        curve = np.random.default_rng(seed).integers(0, 6, 400).astype(np.float64)
        for height, distance in ((0.0, 1), (2.0, 3), (3.0, 14)):
            found = find_peaks(curve, height, distance)
            assert found.tolist() == expected(curve, height=height, distance=distance)[0].tolist()

    @pytest.mark.parametrize("curve", [[1.0], [1.0, 1.0], [0.0, 1.0], [2.0, 1.0, 2.0]])
    def test_ends_are_no_peaks(self, curve: list[float]) -> None:
        assert len(find_peaks(np.array(curve), 0.0, 1)) == 0


class TestEvents:
    @pytest.mark.parametrize("slope", [0.0, 1.0])
    def test_knocks_at_minus_70_dbfs_in_16_bits(self, slope: float) -> None:
        rng = np.random.default_rng(3)
        times = np.cumsum(rng.uniform(0.3, 1.1, 25))
        profile = analyze(at_level(clicks(times, times[-1] + 1, 20, slope=slope), -70, bits=16))
        assert n_matched(times, found(profile), 0.02) >= 0.95 * times.size
        assert n_matched(found(profile), times, 0.02) >= 0.9 * len(profile.events)
        assert (
            np.median(np.abs(found(profile) - times[np.abs(times[:, None] - found(profile)).argmin(0)]))
            < 0.006
        )

    @pytest.mark.parametrize(("low_hz", "high_hz", "above_db"), [(400, 1000, 21), (2000, 4000, 14)])
    def test_knocks_in_a_few_bands(self, low_hz: float, high_hz: float, above_db: float) -> None:
        """A knock or a tick that the level of the whole does not show."""
        times = np.arange(0.7, 11, 0.9)
        samples = noise(12, 0.0)
        band = butter(4, (low_hz, high_hz), "bandpass", fs=RATE, output="sos")
        burst = sosfilt(band, np.random.default_rng(1).standard_normal(RATE // 8)) * 10 ** (above_db / 20)
        burst *= np.exp(-np.arange(burst.size) / RATE / 0.03)
        for time in times:
            samples[round(time * RATE) :][: burst.size] += burst
        profile = analyze(at_level(samples))
        assert n_matched(times, found(profile), 0.02) >= 0.9 * times.size

    def test_stronger_knocks_are_stronger(self) -> None:
        rng = np.random.default_rng(0)
        samples = noise(6, 0.0)
        for time, gain in ((1.0, 4.0), (3.0, 12.0), (5.0, 36.0)):
            samples[round(time * RATE) :][:480] += gain * rng.standard_normal(480)
        strengths = [e.strength_db for e in analyze(at_level(samples)).events]
        assert len(strengths) == 3
        assert np.diff(strengths) == pytest.approx([9.5, 9.5], abs=2.0)

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
    def test_noise_alone_holds_next_to_nothing(self, slope: float, seed: int) -> None:
        profile = analyze(at_level(noise(20, slope, seed), -70, bits=16))
        assert len(profile.events) <= 3
        assert profile.tempo_bpm is None
        assert profile.boundaries == ()
        assert profile.rt60_confidence < 0.3

    def test_a_long_recording_is_heard_as_its_parts_are(self) -> None:
        """Spectra and onsets are made piece by piece; where the pieces meet nothing is lost or doubled."""
        times = np.sort(np.random.default_rng(2).uniform(0.5, 139, 150))
        times = times[np.concatenate([[True], np.diff(times) > 0.15])]
        room = at_level(clicks(times, 140, 25), -65)
        whole = analyze(room)
        assert n_matched(times, found(whole), 0.02) >= 0.97 * times.size
        late = analyze(Waveform(room.samples[:, 50 * RATE : 75 * RATE], RATE))
        inner = found(late)[(found(late) > 5) & (found(late) < 20)] + 50
        assert n_matched(inner, found(whole), 0.002) == inner.size >= 12


class TestPulse:
    @pytest.mark.parametrize("tempo_bpm", [50.0, 75.0, 100.0, 140.0, 180.0])
    def test_steady(self, tempo_bpm: float) -> None:
        times = np.arange(0.37, 19.5, 60 / tempo_bpm)
        profile = analyze(at_level(clicks(times, 20), -70, bits=16))
        assert profile.tempo_bpm == pytest.approx(tempo_bpm, rel=0.02)
        assert profile.pulse_phase_seconds == pytest.approx(0.37, abs=0.02)
        assert profile.pulse_seconds[0] == profile.pulse_phase_seconds
        assert profile.pulse_confidence > 0.8
        assert n_matched(times, np.array(profile.pulse_seconds), 0.03) == times.size

    def test_missing_and_wavering_steps(self) -> None:
        rng = np.random.default_rng(5)
        beats = np.arange(0.3, 24, 0.55)
        steps = beats[rng.random(beats.size) > 0.15]
        steps = steps + rng.normal(0, 0.01, steps.size)
        profile = analyze(at_level(clicks(steps, 25), -65))
        assert profile.tempo_bpm == pytest.approx(60 / 0.55, rel=0.03)
        assert n_matched(beats, np.array(profile.pulse_seconds), 0.05) >= 0.9 * beats.size

    def test_drifting(self) -> None:
        periods = np.linspace(0.7, 0.55, 38)
        times = 0.4 + np.cumsum(periods)
        profile = analyze(at_level(clicks(times, times[-1] + 0.5)))
        beats = np.array(profile.pulse_seconds)
        assert n_matched(times, beats, 0.05) >= 0.9 * times.size
        assert n_matched(beats, times, 0.05) >= 0.9 * beats.size
        assert 60 / 0.7 < (profile.tempo_bpm or 0) < 60 / 0.55

    @pytest.mark.parametrize("seed", range(5))
    def test_irregular_knocks_have_none(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        times = np.sort(rng.uniform(0.3, 24.5, 35))
        profile = analyze(at_level(clicks(times, 25, seed=seed)))
        assert len(profile.events) > 15
        assert profile.tempo_bpm is None
        assert profile.pulse_seconds == ()

    def test_it_ends_with_the_walker(self) -> None:
        times = np.arange(0.5, 10, 0.5)
        beats = analyze(at_level(clicks(times, 25))).pulse_seconds
        assert beats[-1] == pytest.approx(times[-1], abs=0.05)


class TestDecay:
    @pytest.mark.parametrize("rt60", [0.3, 0.6, 1.2, 2.5, 4.0])
    def test_exponential_decays(self, rt60: float) -> None:
        times = np.arange(0.5, 24, max(1.0, 1.5 * rt60))
        profile = analyze(at_level(clicks(times, 26, above_db=35, rt60=rt60), -65, bits=16))
        assert profile.rt60_seconds == pytest.approx(rt60, rel=0.25)
        assert profile.rt60_confidence > 0.4

    def test_decays_cut_short_by_the_next_step(self) -> None:
        profile = analyze(at_level(clicks(np.arange(0.5, 24, 0.6), 25, above_db=35, rt60=1.5)))
        assert profile.rt60_seconds == pytest.approx(1.5, rel=0.25)

    def test_none_without_events(self) -> None:
        profile = analyze(at_level(noise(10, 1.0)))
        assert (profile.rt60_seconds, profile.rt60_confidence) == (None, 0.0)


class TestBoundaries:
    def test_rain_starts(self) -> None:
        samples = noise(25, 2.0)
        samples[12 * RATE :] += noise(13, 0.0, seed=1)
        (boundary,) = analyze(at_level(samples, -70, bits=16)).boundaries
        assert boundary.seconds == pytest.approx(12.0, abs=0.2)
        assert boundary.confidence > 0.5

    def test_a_fan_stops_and_the_walker_goes_on(self) -> None:
        samples = clicks(np.arange(0.4, 24, 0.6), 24, above_db=26)
        samples[: 9 * RATE] += 3 * noise(9, 1.0, seed=1)
        boundaries = analyze(at_level(samples)).boundaries
        assert [b.seconds for b in boundaries] == pytest.approx([9.0], abs=0.2)

    def test_the_walker_stops(self) -> None:
        (boundary,) = analyze(at_level(clicks(np.arange(0.4, 12, 0.6), 24))).boundaries
        assert boundary.seconds == pytest.approx(12.0, abs=0.7)

    def test_steady_steps_have_none(self) -> None:
        assert analyze(at_level(clicks(np.arange(0.4, 24, 0.6), 24))).boundaries == ()

    @pytest.mark.parametrize("step_db", [5.0, -5.0, 10.0])
    def test_a_step_in_the_level_of_a_swelling_wind(self, step_db: float) -> None:
        """At once, where the swell takes seconds for as much."""
        gain_db = self.swell(30) + np.where(np.arange(30 * RATE) < 13.3 * RATE, 0.0, step_db)
        (boundary,) = analyze(at_level(noise(30, 1.5) * 10 ** (gain_db / 20), -65, bits=16)).boundaries
        assert boundary.seconds == pytest.approx(13.3, abs=0.25)

    def test_a_change_of_colour_alone(self) -> None:
        samples, other = noise(26, 1.0), noise(26, 1.6, seed=3)
        samples[14 * RATE :] = other[14 * RATE :]
        (boundary,) = analyze(at_level(samples)).boundaries
        assert boundary.seconds == pytest.approx(14.0, abs=0.25)

    @pytest.mark.parametrize("seed", range(3))
    def test_a_gust_is_none(self, seed: int) -> None:
        """12 dB up and down again within some 12 s."""
        gust_db = 12 * np.exp(-(((np.arange(30 * RATE) / RATE - 14) / 4) ** 2))
        assert analyze(at_level(noise(30, 1.5, seed) * 10 ** (gust_db / 20))).boundaries == ()

    @pytest.mark.parametrize("seed", range(3))
    def test_nothing_is_sure_in_a_storm(self, seed: int) -> None:
        """Rises of 10 dB within two seconds, again and again."""
        room = at_level(noise(30, 1.5, seed) * 10 ** (6 * self.swell(30, seed) / 20))
        assert all(boundary.confidence < 0.5 for boundary in analyze(room).boundaries)

    @pytest.mark.parametrize("rise_db", [12.0, -20.0])
    def test_a_slow_ramp_is_none(self, rise_db: float) -> None:
        gain_db = np.interp(np.arange(30 * RATE) / RATE, [8, 20], [0, rise_db])
        assert analyze(at_level(noise(30, 1.0) * 10 ** (gain_db / 20))).boundaries == ()

    def test_what_passes_is_none(self) -> None:
        """A second of another sound, louder by far, and then all is as it was."""
        samples = noise(24, 1.5)
        samples[11 * RATE : 12 * RATE] += 4 * noise(1, 0.0, seed=1)
        assert analyze(at_level(samples)).boundaries == ()

    def test_an_hour_is_heard_as_its_minutes_are(self) -> None:
        """What is usual is asked of the surroundings: a lively half hour does not hide a change in a quiet one."""
        rng = np.random.default_rng(0)
        bands = rng.exponential(size=(int(600 * FRAME_RATE), N_BANDS)).astype(np.float32)
        bands[: int(300 * FRAME_RATE)] *= np.repeat(rng.uniform(1, 30, 300), int(FRAME_RATE))[:, None]
        bands[int(450 * FRAME_RATE) :, : N_BANDS // 2] *= 5
        late = [b for b in find_boundaries(change_probability(bands), ()) if b.seconds > 330]
        assert [b.seconds for b in late] == pytest.approx([450.0], abs=0.1)

    @staticmethod
    def swell(seconds: float, seed: int = 0) -> Samples:
        """Sines of 8 to 20 s, of order one."""
        time, rng = np.arange(round(seconds * RATE)) / RATE, np.random.default_rng(seed)
        return sum(np.sin(2 * np.pi * (time / period + rng.random())) for period in (8, 13, 20)) / np.sqrt(
            3 / 2
        )


class TestLikelihoodRatio:
    def test_a_step_of_known_size(self) -> None:
        """Of noise of variance 1 that steps by 4: the variance of both together is 1 + 4**2 / 4."""
        features = np.random.default_rng(0).standard_normal((4000, 3))
        features[2000:] += 4.0
        ratio = likelihood_ratio(features, window=1000, variance_floor=1e-6)
        assert len(ratio) == 4001
        assert ratio.argmax() == 2000
        assert ratio[2000] == pytest.approx(np.log(5.0), rel=0.05)
        assert ratio[0] == ratio[-1] == 0.0
        assert np.abs(ratio[[1000, 3000]]).max() < 0.01


class TestAnyRecording:
    times = np.arange(0.4, 7.5, 0.6)

    @pytest.mark.parametrize("rate", [8000, 16_000, 44_100, 192_000])
    def test_any_rate(self, rate: int) -> None:
        room = at_level(clicks(self.times, 8)).resampled(rate)
        profile = analyze(room)
        assert profile.sample_rate == rate
        assert profile.tempo_bpm == pytest.approx(100, rel=0.02)
        assert n_matched(self.times, found(profile), 0.02) >= 0.9 * self.times.size

    @pytest.mark.parametrize(
        ("gains", "level_db"),
        [
            ([1, 0], 0.0),
            ([0, 1], 0.0),
            ([1, -1], 0.0),
            ([1, 0.5], -2.5),
            ([1] * 8, 0.0),
            ([0, 0, 0, 0, 0, 0, 0, 1], 0.0),
        ],
    )
    def test_any_channels(self, gains: list[float], level_db: float) -> None:
        """The level is that of the channels which hear the room; of unlike ones that of their mean, within 0.5 dB."""
        mono = at_level(clicks(self.times, 8, slope=0.0))
        profile = analyze(Waveform(np.array(gains, np.float32)[:, None] * mono.samples, RATE))
        assert profile.n_channels == len(gains)
        assert profile.level_dbfs == pytest.approx(-60 + level_db, abs=0.05)
        assert n_matched(self.times, found(profile), 0.02) >= 0.9 * self.times.size

    @pytest.mark.parametrize("n_samples", [1, 2, 7, 479, 1000, RATE // 2])
    def test_any_length(self, n_samples: int) -> None:
        samples = at_level(clicks([0.2], 1)).samples[:, :n_samples]
        profile = analyze(Waveform(samples, RATE))
        assert len(profile.energy_dbfs) == max(1, round(n_samples / RATE * 10))
        assert np.isfinite(profile_curves(profile, 25.0, 13)).all()
        assert np.isfinite(profile_scalars(profile)).all()

    def test_clipping(self) -> None:
        samples = np.clip(at_level(clicks(self.times, 8, above_db=30)).samples * 3000, -1, 1)
        profile = analyze(Waveform(samples, RATE))
        assert profile.level_dbfs > -10
        assert np.isfinite(profile_curves(profile, 25.0, 200)).all()

    def test_stretches_of_digital_silence(self) -> None:
        samples = at_level(clicks(self.times, 8)).samples.copy()
        samples[:, 3 * RATE : 5 * RATE] = 0
        profile = analyze(Waveform(samples, RATE))
        assert profile.noise_floor_dbfs == FLOOR_DBFS
        outside = self.times[(self.times < 2.9) | (self.times > 5.5)]
        assert n_matched(outside, found(profile), 0.02) >= 0.9 * outside.size

    def test_the_same_twice(self) -> None:
        room = at_level(clicks(self.times, 8))
        assert analyze(room) == analyze(room)


class TestJson:
    def profile(self) -> AcousticProfile:
        return analyze(at_level(clicks(np.arange(0.4, 11, 0.6), 24, above_db=30, rt60=0.4)))

    def test_all_that_was_measured_is_in_it(self) -> None:
        profile = self.profile()
        assert profile.events and profile.boundaries and profile.pulse_seconds and profile.rt60_seconds
        values = json.loads(json.dumps(profile.to_dict(), allow_nan=False))
        assert tuple(Event(**event) for event in values.pop("events")) == profile.events
        assert tuple(Boundary(**boundary) for boundary in values.pop("boundaries")) == profile.boundaries
        for name, value in values.items():
            assert (tuple(value) if isinstance(value, list) else value) == getattr(profile, name)
        assert len(values) == 16


class TestCurves:
    room = at_level(clicks(np.arange(0.43, 11.5, 0.61), 12, above_db=30, rt60=0.3))
    profile = analyze(room)

    def column(self, name: str, frame_rate: float = 25.0, n_frames: int = 300) -> NDArray[np.float32]:
        return profile_curves(self.profile, frame_rate, n_frames)[:, PROFILE_CURVES.index(name)]

    def test_shape_and_bounds(self) -> None:
        assert len(set(PROFILE_CURVES)) == len(PROFILE_CURVES)
        for n_frames in (0, 1, 300, 450):
            curves = profile_curves(self.profile, 25.0, n_frames)
            assert curves.shape == (n_frames, len(PROFILE_CURVES)) and curves.dtype == np.float32
            assert np.isfinite(curves).all() and np.abs(curves).max(initial=0) <= 3.5
        scalars = profile_scalars(self.profile)
        assert scalars.shape == (len(PROFILE_SCALARS),) and scalars.dtype == np.float32
        assert np.abs(scalars).max() <= 3.5

    @pytest.mark.parametrize("frame_rate", [12.5, 25.0, 50.0, 75.0])
    def test_an_event_lies_in_its_frame(self, frame_rate: float) -> None:
        strength = self.column("event_strength", frame_rate, int(12 * frame_rate))
        offset = self.column("event_offset", frame_rate, int(12 * frame_rate))
        frames = np.flatnonzero(strength)
        times = found(self.profile)
        assert list(frames) == [round(t * frame_rate) for t in times]
        assert (frames + offset[frames]) / frame_rate == pytest.approx(times, abs=1e-4)
        assert np.abs(offset).max() <= 0.5

    def test_time_since_and_to_events(self) -> None:
        t = np.arange(300) / 25.0
        times = found(self.profile)
        frame = int(np.ceil((times[3] + 0.2) * 25))
        assert self.column("since_event")[frame] == pytest.approx(np.exp(-(t[frame] - times[3])), rel=1e-4)
        assert self.column("to_event")[frame] == pytest.approx(np.exp(-(times[4] - t[frame])), rel=1e-4)
        assert self.column("since_event")[0] == 0

    def test_the_pulse_turns_once_a_beat(self) -> None:
        confidence = self.profile.pulse_confidence
        beats = np.array(self.profile.pulse_seconds)
        middle = (beats[4] + beats[5]) / 2
        cosine = self.column("pulse_cos", 100.0, 1200)
        assert cosine[round(beats[4] * 100)] == pytest.approx(confidence, abs=0.02)
        assert cosine[round(middle * 100)] == pytest.approx(-confidence, abs=0.02)
        assert np.hypot(self.column("pulse_sin"), self.column("pulse_cos")) == pytest.approx(
            confidence, abs=1e-4
        )
        assert self.column("tempo")[0] == pytest.approx(
            np.log2((self.profile.tempo_bpm or 0) / 100), abs=1e-5
        )

    def test_boundaries(self) -> None:
        samples = noise(20, 2.0)
        samples[10 * RATE :] += noise(10, 0.0, seed=1)
        profile = analyze(at_level(samples))
        (boundary,) = profile.boundaries
        curves = profile_curves(profile, 50.0, 1000)
        proximity = curves[:, PROFILE_CURVES.index("boundary_proximity")]
        distance = curves[:, PROFILE_CURVES.index("boundary_distance")]
        assert abs(int(proximity.argmax()) - boundary.seconds * 50) <= 1
        assert proximity.max() == pytest.approx(boundary.confidence, rel=0.05)
        assert distance[0] > 0.9 and distance[-1] < -0.9

    def test_only_absolute_columns_feel_the_level(self) -> None:
        quieter = analyze(Waveform(self.room.samples * np.float32(0.1), RATE))
        change = profile_curves(quieter, 25.0, 300) - profile_curves(self.profile, 25.0, 300)
        for name, difference in zip(PROFILE_CURVES, change.T, strict=True):
            expected = -1.0 if name in ("energy_absolute", "noise_floor") else 0.0
            assert difference == pytest.approx(expected, abs=0.02), name

    def test_silence_is_plain(self) -> None:
        curves = profile_curves(analyze(Waveform(np.zeros((1, RATE), np.float32), RATE)), 25.0, 25)
        for name in PROFILE_CURVES[: PROFILE_CURVES.index("energy_relative") + 1]:
            assert not curves[:, PROFILE_CURVES.index(name)].any(), name
