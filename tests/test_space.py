"""The Ambisonic field, where a room's sound comes from, and the levels of a set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rooms import RATE, steps_room

from silent2music import audio
from silent2music.acoustics import analyze
from silent2music.audio import Waveform
from silent2music.errors import AudioError, ConfigError
from silent2music.export.ambience.writing import in_24_bits, levelled_set, loudness_of
from silent2music.export.space import (
    LAYOUT_AZIMUTHS,
    Placement,
    W,
    X,
    Y,
    Z,
    diffuse_response,
    find_placement,
    fold_down,
    harmonics,
    omni,
    open_room,
    plane_wave,
    spatialised,
)

TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(48_000) / 48_000)).astype(np.float32)
NOISE = (0.1 * np.random.default_rng(9).standard_normal(48_000)).astype(np.float32)
RING = np.arange(0, 360, 15.0)


def decode_to_ring(field: np.ndarray, azimuths_degrees: np.ndarray) -> np.ndarray:
    """Speaker signals `[M, N]` of a field on a ring, with the max-rE weight of first order (Gerzon, 1992)."""
    angles = np.radians(azimuths_degrees)[:, None]
    directed = np.cos(angles) * field[X] + np.sin(angles) * field[Y]
    return (field[W] + 2.0 * np.sqrt(0.5) * directed) / len(angles)


def db(samples: np.ndarray) -> float:
    return audio.rms_dbfs(np.atleast_2d(samples))


# ---- the field ----


def test_a_tone_to_the_left_is_in_w_and_y_alone() -> None:
    field = plane_wave(TONE, 90.0)
    assert np.array_equal(field[W], TONE)
    assert np.allclose(field[Y], field[W], rtol=0, atol=1e-7)  # SN3D: as loud as W, and positive to the left
    assert max(db(field[X]), db(field[Z])) < -60.0
    assert np.allclose(plane_wave(TONE, -90.0)[Y], -TONE, rtol=0, atol=1e-7)
    assert np.allclose(plane_wave(TONE, 0.0)[X], TONE, rtol=0, atol=1e-7)
    assert np.allclose(plane_wave(TONE, 30.0, 90.0)[Z], TONE, rtol=0, atol=1e-7)


@pytest.mark.parametrize("azimuth", [0.0, 45.0, 90.0, -120.0, 180.0])
def test_a_ring_is_loudest_where_the_music_was_placed(azimuth: float) -> None:
    dry = decode_to_ring(plane_wave(TONE, azimuth), RING)
    wet = decode_to_ring(spatialised(NOISE, 48_000, Placement(azimuth, 0.0, 0.3, 0.6)), RING)
    for ring in (dry, wet):
        assert RING[np.square(ring).mean(axis=1).argmax()] == azimuth % 360


DIRECTIONS = [
    (a, e) for e, many in ((0, 6), (35, 3), (-40, 2), (80, 1)) for a in np.arange(many) * 360 / many + 17
]
"""Twelve places of a tone."""


@pytest.mark.parametrize("order", [1, 2, 3])
def test_sounds_at_twelve_places_are_decoded_where_they_are(order: int) -> None:
    """By the max-rE beam of the order, steered over the whole sphere in steps of four degrees.

    Dry sounds, tones too, are where they were placed; so is noise in a room, by every order. What is diffuse of a single
    tone is a standing wave, which only the many channels of third order tell from the tone itself.
    """
    weights = {1: (1.0, 0.577), 2: (1.0, 0.775, 0.400), 3: (1.0, 0.861, 0.612, 0.305)}[order]
    scale = np.repeat([(2 * n + 1) * w for n, w in enumerate(weights)], [2 * n + 1 for n in range(order + 1)])
    sphere = [(a, e) for e in range(-88, 92, 4) for a in range(-180, 180, 4)]
    beams = np.array([harmonics(a, e, order) for a, e in sphere]) * scale
    points = np.array([harmonics(a, e, 1)[[X, Y, Z]] for a, e in sphere])
    noise = (0.1 * np.random.default_rng(order).standard_normal(4_800)).astype(np.float32)
    for index, (azimuth, elevation) in enumerate(DIRECTIONS):
        tone = (0.3 * np.sin(2 * np.pi * (300 + 70 * index) * np.arange(4_800) / 48_000)).astype(np.float32)
        wet = ((noise, 0.3, 5.0), (tone, 0.1, 10.0), (tone, 0.3, 15.0))[: 3 if order == 3 else 1]
        for sound, share, most in ((tone, 0.0, 3.0), *wet):
            where = Placement(azimuth, elevation, share, 0.5)
            field = spatialised(sound, 48_000, where, seed=index, order=order)
            assert field.shape == ((order + 1) ** 2, 4_800)
            covariance = field.astype(np.float64) @ field.T
            found = points[np.einsum("pc,cd,pd->p", beams, covariance, beams, optimize=True).argmax()]
            true = harmonics(azimuth, elevation, 1)[[X, Y, Z]]
            assert np.degrees(np.arccos(np.clip(found @ true, -1, 1))) < most, (azimuth, elevation, share)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_sn3d_ratios_are_exact(order: int) -> None:
    """Schmidt semi-normalised: of each degree the squares of all channels add up to 1, wherever the wave is from."""
    for azimuth, elevation in DIRECTIONS:
        own = harmonics(azimuth, elevation, order)
        assert len(own) == (order + 1) ** 2
        for degree in range(order + 1):
            assert np.square(own[degree**2 : (degree + 1) ** 2]).sum() == pytest.approx(1.0, abs=1e-12)
    response = diffuse_response(9_600, 48_000, 0.5, seed=1, order=order)
    energy = [np.square(response[d**2 : (d + 1) ** 2]).sum(axis=1) for d in range(order + 1)]
    for degree, own in enumerate(energy):
        assert own == pytest.approx(1.0 / (2 * degree + 1))


def test_harmonics_are_those_of_scipy() -> None:
    from scipy.special import lpmv

    for azimuth, elevation in DIRECTIONS:
        a, z, own = np.radians(azimuth), np.sin(np.radians(elevation)), []
        for n in range(4):
            for m in range(-n, n + 1):
                factorials = np.prod(np.arange(n - abs(m) + 1, n + abs(m) + 1), dtype=float)
                norm = (-1) ** m * np.sqrt((1 if m == 0 else 2) / factorials)
                turn = np.cos(m * a) if m >= 0 else np.sin(-m * a)
                own.append(norm * lpmv(abs(m), n, z) * turn)
        assert harmonics(azimuth, elevation, 3) == pytest.approx(own, abs=1e-12)


def test_diffuse_sound_comes_from_everywhere_and_decays_by_the_rt60() -> None:
    response = diffuse_response(96_000, 48_000, 1.0, seed=1)
    energy = np.square(response).sum(axis=1)
    assert energy == pytest.approx([1.0, 1 / 3, 1 / 3, 1 / 3])
    assert np.abs(np.corrcoef(response) - np.eye(4)).max() < 0.05
    from scipy.signal import butter, sosfilt

    low = sosfilt(butter(4, 1_000, fs=48_000, output="sos"), response[W])
    decay_db = db(low[4_800:9_600]) - db(low[28_800:33_600])
    assert decay_db == pytest.approx(30.0, abs=3.0)  # half a second of an RT60 of one


def test_a_placed_loop_is_a_loop_still() -> None:
    """Turning the loop turns the field: the room is convolved on the circle."""
    where = Placement(30.0, 0.0, 0.4, 3.0)
    field = spatialised(TONE * np.linspace(0, 1, 48_000, dtype=np.float32), 48_000, where)
    turned = spatialised(np.roll(TONE * np.linspace(0, 1, 48_000, dtype=np.float32), 12_345), 48_000, where)
    assert np.allclose(np.roll(field, 12_345, axis=1), turned, rtol=0, atol=1e-5)
    assert not np.array_equal(field, spatialised(TONE, 48_000, where, seed=1))


@pytest.mark.parametrize("azimuth", [0.0, 60.0, 90.0, 180.0])
def test_fold_downs_keep_the_level(azimuth: float) -> None:
    field = spatialised(NOISE, 48_000, Placement(azimuth, 0.0, 0.3, 0.5))
    mono, stereo = fold_down(field, "mono"), fold_down(field, "stereo")
    assert (mono.shape, stereo.shape, fold_down(field, "ambix").shape) == (
        (1, 48_000),
        (2, 48_000),
        (4, 48_000),
    )
    assert np.square(stereo).sum() == pytest.approx(np.square(mono).sum(), rel=1e-4)
    assert np.corrcoef(stereo.sum(axis=0), mono[0])[0, 1] > 0.9999
    if azimuth == 90.0:
        assert db(stereo[0]) > db(stereo[1]) + 6.0


# ---- where a room's sound comes from ----


def noise(n_channels: int = 1) -> np.ndarray:
    return (1e-3 * np.random.default_rng(n_channels).standard_normal((n_channels, RATE))).astype(np.float32)


@pytest.mark.parametrize(("azimuth", "elevation"), [(0.0, 0.0), (135.0, 0.0), (-70.0, 40.0)])
def test_b_format_tells_its_direction(azimuth: float, elevation: float) -> None:
    room = Waveform(plane_wave(noise()[0], azimuth, elevation), RATE)
    found = find_placement(audio.channels_of(room).covariance, analyze(room), "ambix")
    assert (found.azimuth_degrees, found.elevation_degrees) == pytest.approx((azimuth, elevation), abs=0.5)
    assert found.diffuse_share == pytest.approx(0.1)  # as dry as it gets
    assert np.array_equal(omni(room, "ambix").samples[0], noise()[0])


def test_diffuse_b_format_is_diffuse() -> None:
    field = noise(4)
    field[1:] /= np.sqrt(3.0)
    room = Waveform(field, RATE)
    assert find_placement(
        audio.channels_of(room).covariance, analyze(room), "ambix"
    ).diffuse_share == pytest.approx(0.6)


@pytest.mark.parametrize(("n_channels", "channel"), [(2, 0), (2, 1), (4, 3), (6, 5), (8, 6)])
def test_speakers_tell_the_direction_of_the_loudest(n_channels: int, channel: int) -> None:
    samples = np.zeros((n_channels, RATE), np.float32)
    samples[channel] = noise()[0]
    room = Waveform(samples, RATE)
    expected = LAYOUT_AZIMUTHS[n_channels][channel]
    assert find_placement(
        audio.channels_of(room).covariance, analyze(room), "speakers"
    ).azimuth_degrees == pytest.approx(expected, abs=0.01)


def test_one_channel_and_silence_are_in_front() -> None:
    for room in (Waveform(steps_room(), RATE), Waveform(np.zeros((2, RATE), np.float32), RATE)):
        assert (
            find_placement(audio.channels_of(room).covariance, analyze(room), "speakers").azimuth_degrees
            == 0.0
        )


def test_b_format_needs_four_channels(tmp_path: Path) -> None:
    path = tmp_path / "room.wav"
    audio.write(path, Waveform(noise(2), RATE))
    with pytest.raises(AudioError, match="has 2 channels; expected the 4 of first-order B-format"):
        open_room(path, "ambix", {})
    with pytest.raises(ConfigError, match="--channel hears one channel, --room-format ambix all four"):
        open_room(path, "ambix", {"channel": 0})
    room, channels = open_room(path, "speakers", {})
    assert (room.n_channels, room.recorded_channels, channels.shape) == (1, 2, (2, 2))
    room, channels = open_room(path, "speakers", {"channel": 1})
    assert (room.recorded_channels, channels.shape) == (2, (1, 1))
    assert np.array_equal(room.slice(0, RATE), audio.read(path).samples[1:, :RATE])


# ---- levels ----


def test_layers_reach_one_loudness_and_their_sum_stays_under_the_peak() -> None:
    rng = np.random.default_rng(0)
    sounds = [(g * rng.standard_normal((2, 96_000))).astype(np.float32) for g in (0.002, 0.05, 0.3)]
    for sound in sounds:
        sound[:, 40_000] = 30 * sound.std()
    held, quiet = levelled_set(sounds, 48_000, [-16.0, -16.0, -16.0], -1.0)
    assert quiet == [False, False, False]
    for sound in held:
        assert loudness_of(sound, 48_000) == pytest.approx(-16.0, abs=0.05)
    assert audio.true_peak_dbtp(Waveform(np.sum(held, axis=0), 48_000)) < -1.0


def test_what_is_nearly_nothing_stays_so() -> None:
    whisper = (1e-4 * np.random.default_rng(0).standard_normal((1, 96_000))).astype(np.float32)
    for sound in (whisper, np.zeros((1, 96_000), np.float32)):
        (held,), (quiet,) = levelled_set([sound], 48_000, [-24.0], -1.0)
        assert quiet
        assert np.array_equal(held, sound)
    (held,), (quiet,) = levelled_set([300 * whisper], 48_000, [-24.0], -1.0, as_made=True)
    assert quiet
    assert np.array_equal(held, 300 * whisper)


def test_the_loudness_of_a_field_is_that_of_its_mono_fold_down() -> None:
    field = spatialised(TONE, 48_000, Placement(90.0, 0.0, 0.3, 0.5))
    assert loudness_of(field, 48_000) == loudness_of(fold_down(field, "mono"), 48_000)


def test_dither_is_that_of_24_bits_once() -> None:
    steady = np.full((1, 48_000), 0.3 + 0.3 / 2**23, np.float32)
    steps = in_24_bits(steady, seed=1).astype(np.float64) * 2**23
    assert np.abs(steps - np.rint(steps)).max() == 0.0
    errors = np.rint(steps) - steady.astype(np.float64) * 2**23
    assert abs(errors.mean()) < 0.02
    assert errors.var() == pytest.approx(3 / 12, rel=0.05)  # rounding and triangular dither
    assert not in_24_bits(np.zeros((1, 9), np.float32), 0).any()
