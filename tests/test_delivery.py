"""From the model's music to the sound of a file: rate, room, length and fades, alike in pieces and at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from rooms import RATE, steps_room

from silent2music import audio, processes
from silent2music.acoustics import analyze
from silent2music.arrays import FloatArray
from silent2music.audio import Waveform
from silent2music.bandwidth import HIGH_HZ, N_LOW_BANDS, BandExtension
from silent2music.codec import Codec
from silent2music.config import LOUDNESS, DeliveryConfig, loudness_target
from silent2music.errors import ConfigError
from silent2music.export.delivery import at_rate, delivered, faded, in_front, lap_at_rate
from silent2music.export.space import Placement, fold_down, placed, spatialised
from silent2music.studio.worker import _Teller, pcm

NOISE = (0.1 * np.random.default_rng(0).standard_normal(60_123)).astype(np.float32)


class Doubling:
    """An extension of the band that can be told from resampling: it holds each sample twice."""

    def extended_stream(self, pieces: Iterable[Waveform]) -> Iterator[Waveform]:
        for piece in pieces:
            yield Waveform(np.repeat(piece.samples, 2, axis=1), 2 * piece.sample_rate)


def codec(extension: Doubling | None = None) -> Codec:
    return cast(Codec, SimpleNamespace(sample_rate=RATE, channels=1, extension=extension))


def cut(samples: FloatArray, places: Iterable[int], rate: int = RATE) -> list[Waveform]:
    return [Waveform(part[None], rate) for part in np.split(samples, list(places))]


def whole(pieces: Iterable[Waveform]) -> FloatArray:
    return np.concatenate([piece.samples for piece in pieces], axis=1)


@pytest.mark.parametrize("rate", [22_050, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("mono", [True, False])
def test_music_in_pieces_is_the_music_at_once(rate: int, mono: bool) -> None:
    config = DeliveryConfig(rate, mono, fade_in=0.3, fade_out=0.4)
    room = in_front(analyze(Waveform(steps_room(), RATE)))
    made = [
        whole(delivered(cut(NOISE, places), codec(), config, room, 3, len(NOISE) / RATE))
        for places in ([], [1, 960, 50_000], range(960, len(NOISE), 960))
    ]
    assert made[0].shape == (1 if mono else 2, round(len(NOISE) / RATE * rate))
    assert np.array_equal(made[0], made[1]) and np.array_equal(made[0], made[2])


def test_a_stream_of_unknown_length_ends_faded_and_is_the_same_before() -> None:
    config = DeliveryConfig(fade_out=0.5)
    options: Any = (codec(), config, in_front(), 0)
    unknown = whole(delivered(cut(NOISE, range(960, len(NOISE), 960)), *options, None))
    known = whole(delivered(cut(NOISE, []), *options, len(NOISE) / RATE))
    n = min(unknown.shape[1], known.shape[1])
    assert abs(unknown.shape[1] - known.shape[1]) <= 1
    assert np.array_equal(unknown[:, : n - 24_001], known[:, : n - 24_001])
    assert np.abs(unknown[:, -1]).max() == 0.0


def test_the_band_is_extended_where_there_is_an_extension() -> None:
    doubling = cast(BandExtension, Doubling())
    assert np.array_equal(
        whole(at_rate(cut(NOISE, [999]), doubling, 48_000)), np.repeat(NOISE[None], 2, axis=1)
    )
    for rate, extension in ((24_000, doubling), (16_000, doubling), (48_000, None)):
        plain = whole(at_rate(cut(NOISE, []), None, rate))
        assert np.array_equal(whole(at_rate(cut(NOISE, []), extension, rate)), plain)
    options: Any = (codec(Doubling()), DeliveryConfig(fade_out=0.0, mono=True), in_front(), 0)
    seconds = len(NOISE) / RATE
    assert np.array_equal(whole(delivered(cut(NOISE, []), *options, seconds))[0], np.repeat(NOISE, 2))
    # What is live does not wait for it.
    live = whole(delivered(cut(NOISE, []), *options, None))
    assert np.array_equal(live, whole(at_rate(cut(NOISE, []), None, 48_000)))


def test_who_follows_hears_music_before_its_band_is_extended_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    extension = BandExtension(torch.zeros(2 * N_LOW_BANDS + 1, len(HIGH_HZ) - 1))
    options: Any = (SimpleNamespace(channels=1, extension=extension), DeliveryConfig(), in_front(), 3)
    seconds, places, sent, came = len(NOISE) / RATE, range(4800, len(NOISE), 4800), [], []

    def pieces() -> Iterator[Waveform]:
        for piece in cut(NOISE, places):
            came.append(len(sent))
            yield piece

    plain, soon = whole(delivered(cut(NOISE, places), *options, seconds)), delivered(pieces(), *options, None)
    heard = b"".join(pcm(piece) for piece in soon)
    came.clear()
    monkeypatch.setattr(processes, "follower", _Teller(lambda kind, *values: sent.extend(values)))
    assert np.array_equal(whole(delivered(pieces(), *options, seconds)), plain)
    assert b"".join(sent) == heard
    assert came[2] > 0  # 0.4 s of music were enough


def test_a_lap_is_extended_on_the_circle() -> None:
    """Turning the lap turns the result, whichever extension: it hears what comes round."""
    weights = 0.1 * torch.randn(2 * N_LOW_BANDS + 1, len(HIGH_HZ) - 1, generator=torch.manual_seed(0))
    extension, n_turn = BandExtension(weights), 48 * 120 * 3  # whole blocks, so that rounding is alike
    lap = np.resize(NOISE, 48 * 120 * 10)
    for n_samples in (2 * len(lap), 2 * len(lap) + 100, len(lap) * 441 // 240):
        wide = lap_at_rate(lap, extension, n_samples)
        turned = lap_at_rate(np.roll(lap, n_turn), extension, n_samples)
        assert wide.shape == (n_samples,)
        if n_samples == 2 * len(lap):
            np.testing.assert_allclose(np.roll(wide, 2 * n_turn), turned, atol=1e-5)
            plain = lap_at_rate(lap, None, n_samples)
            spectra = [np.abs(np.fft.rfft(sound)) for sound in (wide, plain)]
            hz = np.fft.rfftfreq(n_samples, 1 / 48_000)
            assert spectra[0][hz > 13_000].sum() > 10 * spectra[1][hz > 13_000].sum()


def test_resampling_keeps_time_and_level() -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)
    made = whole(at_rate(cut(tone, [5_000]), None, 48_000))[0]
    expected = np.sin(2 * np.pi * 1000 * np.arange(48_000) / 48_000)
    assert np.abs(made[4_800:43_200] - expected[4_800:43_200]).max() < 1e-3


def test_fades_are_raised_cosines_and_lengths_are_exact() -> None:
    ones = [Waveform(np.ones((2, 100), np.float32), RATE)] * 3
    sound = whole(faded(ones, 250, 50, 100))
    assert sound.shape == (2, 250)
    assert sound[0, [0, 25, 50, 149]] == pytest.approx([0.0, 0.5, 1.0, 1.0], abs=1e-6)
    assert sound[1, [199, 249]] == pytest.approx([0.5, 0.0], abs=1e-6)
    assert np.array_equal(whole(faded(ones, 350)), np.pad(np.ones((2, 300)), ((0, 0), (0, 50))))
    assert whole(faded(ones, 20, 50, 50)).shape == (2, 20)  # fades longer than the music meet in it
    assert list(faded([], None, 5, 5)) == []


# ---- the room ----


def test_a_stream_stands_in_the_room_as_a_loop_does() -> None:
    """Without the end that comes round in a loop; the share of power is measured there and expected here."""
    where = Placement(20.0, 0.0, 0.3, 0.3)
    silence = np.zeros(40_000, np.float32)
    stream = whole(placed(cut(NOISE, [777], 48_000), where, seed=1))
    loop = fold_down(spatialised(np.concatenate([NOISE, silence]), 48_000, where, 1), "stereo")
    for ours, theirs in zip(stream, loop[:, : len(NOISE)], strict=True):
        assert np.corrcoef(ours, theirs)[0, 1] > 0.98
        assert audio.rms_dbfs(ours[None]) == pytest.approx(audio.rms_dbfs(theirs[None]), abs=1.0)


def test_music_in_front_is_balanced_and_the_wider_the_longer_the_room_rings() -> None:
    widths = []
    for rt60 in (0.2, 1.0, 3.0):
        where = Placement(0.0, 0.0, 0.1 + 0.2 * rt60, rt60)
        left, right = whole(placed(cut(NOISE, [], 48_000), where))
        assert audio.rms_dbfs(left[None]) == pytest.approx(audio.rms_dbfs(right[None]), abs=1.0)
        widths.append(1.0 - np.corrcoef(left, right)[0, 1])
    assert widths == sorted(widths) and widths[0] > 0.01


def test_the_rooms_own_reverberation_decides() -> None:
    profile = analyze(Waveform(steps_room(), RATE))
    assert in_front(profile).azimuth_degrees == 0.0
    assert in_front() == Placement(0.0, 0.0, 0.18, 0.4)
    click = np.zeros(96_000, np.float32)
    click[100] = 1.0
    response = whole(placed(cut(click, [], 48_000), Placement(0.0, 0.0, 0.3, 1.0)))
    assert np.abs(response[0]).argmax() == 100  # the direct sound is not delayed
    late = [audio.rms_dbfs(response[:, at : at + 4_800]) for at in (9_600, 33_600)]
    assert late[0] - late[1] == pytest.approx(30.0, abs=4.0)  # half a second of an RT60 of one


# ---- loudness by name ----


def test_loudness_has_names() -> None:
    assert set(LOUDNESS) == {"game", "film", "stream", "podcast"}
    assert loudness_target("-23.5") == (-23.5, None)
    for text in ("loud", "nan", "-71", "0", ""):
        with pytest.raises(ConfigError, match=r"^The loudness is"):
            loudness_target(text)
