"""What is heard of several channels."""

from __future__ import annotations

import numpy as np
import pytest
from rooms import steps_room

from silent2music.acoustics import analyze
from silent2music.ambient import ambient_features
from silent2music.audio import Waveform, rms_dbfs
from silent2music.audio.downmix import is_timecode, signal_name
from silent2music.config import AmbientConfig
from silent2music.listening import _windowed

RATE = 48_000
ROOM = steps_room(4.0, RATE)[0]
CONFIG = AmbientConfig(dim=16, n_layers=2, n_mels=8, n_fft=512, n_global_tokens=1)


def timecode(seconds: float = 4.0, rate: int = RATE, fps: float = 25.0, level: float = 0.3) -> np.ndarray:
    """Linear timecode: 80 bits a frame as biphase marks, the sync word last, the frame's number in the first bits."""
    halves: list[float] = []
    sign = 1.0
    for frame in range(int(seconds * fps) + 1):
        bits = f"{frame % 25 % 10:04b}"[::-1] + "0" * 60 + "0011111111111101"
        for bit in bits:
            sign = -sign
            halves.append(sign)
            sign = -sign if bit == "1" else sign
            halves.append(sign)
    place = np.arange(round(seconds * rate)) / rate * 160 * fps
    square = np.array(halves)[np.minimum(place.astype(int), len(halves) - 1)]
    smooth = np.convolve(square, np.ones(3) / 3, "same")  # as cables and converters leave it
    return (level * smooth).astype(np.float32)


def tone(hz: float = 1000.0, level: float = 1.0) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hz * np.arange(len(ROOM)) / RATE)).astype(np.float32)


def noise(level_dbfs: float, seed: int = 0) -> np.ndarray:
    samples = np.random.default_rng(seed).standard_normal(len(ROOM))
    return (10 ** (level_dbfs / 20) * samples).astype(np.float32)


def heard(*channels: np.ndarray) -> Waveform:
    return Waveform(np.stack(channels), RATE).downmix()


class TestDownmix:
    def test_channels_in_phase_give_their_mean(self) -> None:
        other = ROOM + noise(-75.0)
        assert np.array_equal(heard(ROOM, ROOM).samples[0], ROOM)
        assert np.allclose(heard(ROOM, other).samples[0], (ROOM + other) / 2, atol=1e-9)
        assert heard(ROOM, other).notes == ()

    @pytest.mark.parametrize("n_channels", [2, 4, 8])
    def test_unrelated_channels_keep_their_level(self, n_channels: int) -> None:
        mixed = heard(*(noise(-60.0, seed) for seed in range(n_channels)))
        assert rms_dbfs(mixed.samples) == pytest.approx(-60.0, abs=0.05)

    @pytest.mark.parametrize("gain", [1.0, 0.4])
    def test_opposite_phase_does_not_cancel(self, gain: float) -> None:
        mixed = heard(ROOM, -gain * ROOM).samples[0]
        assert np.corrcoef(mixed, ROOM)[0, 1] > 0.9999
        expected = 10 * np.log10((1 + gain**2) / 2)
        assert rms_dbfs(mixed) - rms_dbfs(ROOM) == pytest.approx(expected, abs=0.5)

    def test_one_live_channel_decides_the_level(self) -> None:
        hiss = [noise(-95.0, seed) for seed in range(7)]
        mixed = heard(*hiss[:3], ROOM, *hiss[3:])
        assert np.array_equal(mixed.samples[0], ROOM)
        assert mixed.recorded_channels == 8
        (note,) = mixed.notes
        assert note == "has no sound of the room in channels 1, 2, 3, 5, 6, 7, 8; they are left out"

    @pytest.mark.parametrize(
        ("other", "name"),
        [
            (timecode(), "SMPTE timecode (LTC)"),
            (timecode(fps=24.0, level=0.003), "SMPTE timecode (LTC)"),
            (timecode(fps=29.97), "SMPTE timecode (LTC)"),
            (tone(), "a tone of 1000 Hz"),
            (tone(400.0, 0.1), "a tone of 400 Hz"),
        ],
    )
    def test_a_technical_signal_is_named_and_left_out(self, other: np.ndarray, name: str) -> None:
        mixed = heard(ROOM, other)
        assert np.array_equal(mixed.samples[0], ROOM)
        assert mixed.notes == (f"holds {name} in channel 2, which is left out",)

    def test_nothing_but_a_tone_is_what_there_is(self) -> None:
        assert np.allclose(heard(tone(), tone()).samples[0], tone())

    def test_offsets_and_silence(self) -> None:
        assert np.array_equal(heard(ROOM, np.full_like(ROOM, 0.3)).samples[0], ROOM)
        assert not heard(np.zeros_like(ROOM), np.zeros_like(ROOM)).samples.any()
        assert heard(np.zeros_like(ROOM), np.zeros_like(ROOM)).notes == ()

    def test_windows_are_mixed_as_the_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """In its second half the room's channels are of one phase; both halves are heard as the whole decides."""
        monkeypatch.setattr("silent2music.listening.WINDOW_SECONDS", 2.0)
        monkeypatch.setattr("silent2music.listening.OVERLAP_SECONDS", 0.5)
        late = np.arange(len(ROOM)) > 3.5 * RATE
        stereo = Waveform(np.stack([ROOM, np.where(late, ROOM, -ROOM)]), RATE)
        pairs = zip(*(_windowed(room, 4.0, CONFIG, None) for room in (stereo, stereo.downmix())), strict=True)
        for whole, mixed in pairs:
            assert np.array_equal(whole.frames, mixed.frames)

    @pytest.mark.parametrize("other", [-ROOM, timecode(), 0 * ROOM, ROOM])
    def test_profile_and_features_hear_the_same(self, other: np.ndarray) -> None:
        stereo, mono = Waveform(np.stack([ROOM, other]), RATE), Waveform(ROOM[None], RATE)
        profile, expected = analyze(stereo), analyze(mono)
        assert profile.level_dbfs == expected.level_dbfs
        assert profile.events == expected.events
        assert (profile.n_channels, expected.n_channels) == (2, 1)
        features = ambient_features(stereo, profile, CONFIG)
        assert np.array_equal(features.frames, ambient_features(mono, expected, CONFIG).frames)


class TestTimecode:
    @pytest.mark.parametrize("rate", [16_000, 44_100, 96_000])
    @pytest.mark.parametrize("fps", [23.976, 25.0, 30.0])
    def test_it_is_found_at_any_rate(self, rate: int, fps: float) -> None:
        assert is_timecode(timecode(0.5, rate, fps), rate)
        assert is_timecode(-timecode(0.5, rate, fps), rate)

    def test_nothing_else_is(self) -> None:
        rng = np.random.default_rng(0)
        square = np.sign(np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE))
        bits = np.repeat(rng.choice([-1.0, 1.0], 4000), RATE // 4000)
        for samples in (ROOM, noise(-20.0), tone(), square, bits, np.zeros(RATE), timecode()[:2000]):
            assert not is_timecode(samples.astype(np.float32), RATE)
        assert signal_name(ROOM, RATE) == signal_name(noise(-20.0), RATE) == signal_name(ROOM[:0], RATE) == ""
