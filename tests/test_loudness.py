"""The meter reads what pyloudnorm and ffmpeg read, whatever the blocks that it is given."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from silent2music import audio
from silent2music.audio import Leveller, LoudnessMeter, Waveform
from silent2music.audio.loudness import AHEAD_FRAMES, LEFT_APART, MOST_DOWN_DB, MOST_UP_DB

CASES = [(1, 8_000), (2, 22_050), (1, 24_000), (2, 44_100), (2, 48_000), (5, 48_000), (6, 24_000)]


def music(n_channels: int, sample_rate: int, seconds: float = 6.3) -> Waveform:
    """Noise that swells and fades, so that blocks lie on either side of both gates."""
    rng = np.random.default_rng(n_channels + sample_rate)
    n = round(seconds * sample_rate)
    level_db = np.interp(np.arange(n) / sample_rate, np.arange(8), [-20, -75, -15, -30, -28, -90, -12, -40])
    samples = (
        rng.standard_normal((n_channels, n))
        * 10 ** (level_db / 20)
        * np.linspace(1, 0.5, n_channels)[:, None]
    )
    return Waveform(samples.clip(-1, 1).astype(np.float32), sample_rate)


@pytest.mark.parametrize(("n_channels", "sample_rate"), CASES)
@pytest.mark.parametrize("seconds", [0.4, 0.93, 6.3])
def test_pyloudnorm_reads_the_same(n_channels: int, sample_rate: int, seconds: float) -> None:
    from pyloudnorm import Meter

    sound = music(n_channels, sample_rate, seconds)
    hop = 0.1 * sample_rate
    n_whole = max(int(4 * hop) + 1, int(int(sound.n_samples / hop + 1e-6) * hop))
    padded = (
        np.tile(sound.samples, (1, 2))[:5, :n_whole]
        if sound.n_samples < n_whole
        else sound.samples[:5, :n_whole]
    )
    expected = Meter(sample_rate, filter_class="DeMan").integrated_loudness(padded.T.astype(np.float64))
    assert audio.integrated_lufs(sound) == pytest.approx(expected, abs=0.01)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize(("n_channels", "sample_rate"), [case for case in CASES if case[0] <= 2])
def test_ffmpeg_reads_the_same(n_channels: int, sample_rate: int, tmp_path: Path) -> None:
    audio.write(tmp_path / "music.wav", music(n_channels, sample_rate))
    command = ["ffmpeg", "-hide_banner", "-nostats", "-i", tmp_path / "music.wav", "-af"]
    command += ["ebur128=metadata=1,ametadata=print:key=lavfi.r128.I:file=-", "-f", "null", "-"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = float(re.findall(r"lavfi\.r128\.I=(\S+)", said)[-1])
    assert audio.integrated_lufs(audio.read(tmp_path / "music.wav")) == pytest.approx(found, abs=0.02)


@pytest.mark.parametrize("n_block", [160, 1111, 10**6])
@pytest.mark.parametrize("seconds", [0.43, 2.0])
def test_blocks_change_nothing(n_block: int, seconds: float) -> None:
    sound = music(2, 8_000, seconds)
    meter = LoudnessMeter(8_000, 2)
    for begin in range(0, sound.n_samples, n_block):
        meter.add(sound.slice(begin, begin + n_block))
    assert meter.integrated() == pytest.approx(audio.integrated_lufs(sound), abs=1e-9)


def test_a_stream_shorter_than_a_gating_block_is_measured_as_it_is() -> None:
    sound = music(1, 24_000, 0.2)
    meter = LoudnessMeter(24_000, 1)
    meter.add(sound.samples)
    assert meter.integrated() == pytest.approx(audio.integrated_lufs(sound), abs=1.0)


def test_silence_has_no_loudness() -> None:
    meter = LoudnessMeter(24_000, 1)
    meter.add(np.zeros((1, 24_000), np.float32))
    assert meter.integrated() == float("-inf")


def levelled(sound: np.ndarray, wanted_db: Iterable[float]) -> np.ndarray:
    leveller = Leveller(24_000, wanted_db, 10.0)
    return np.concatenate([leveller(sound), leveller.rest()], axis=1)


def test_a_leveller_leaves_half_of_what_is_apart_from_what_is_wanted() -> None:
    hum = np.sin(2.0 * np.pi * 1000.0 * np.arange(16 * 24_000) / 24_000)[None].astype(np.float32)
    # Of tenths of a second; each step is shorter than the time of the usual distance.
    steps = np.repeat([0.0, -12.0] * 20, 4)
    loud = (0.1 * hum * 10.0 ** (np.repeat(steps, 2400) / 20.0)).astype(np.float32)

    def apart(wanted_db: np.ndarray, sound: np.ndarray = loud) -> float:
        done = levelled(sound, wanted_db)
        parts = done.reshape(40, -1)[
            20:, 4800 : -240 * (AHEAD_FRAMES + 1)
        ]  # when it has settled, before the next
        levels = 10.0 * np.log10(np.square(parts).mean(axis=1))
        return float((levels[::2] - levels[1::2]).mean())

    assert apart(np.zeros(160)) == pytest.approx(LEFT_APART * 12.0, abs=0.3), "what is steady is wanted"
    assert apart(steps) == pytest.approx(12.0, abs=0.3), "what is there is wanted"
    assert apart(steps - 30.0) == pytest.approx(12.0, abs=0.3), "only how it changes counts"
    assert apart(steps, 0.1 * hum) == pytest.approx((1.0 - LEFT_APART) * 12.0, abs=0.3), (
        "steady sound is made to change"
    )


def test_a_leveller_leaves_alone_what_is_silent_steady_or_of_no_score() -> None:
    hum = np.sin(2.0 * np.pi * 1000.0 * np.arange(4 * 24_000) / 24_000)[None].astype(np.float32)
    np.testing.assert_array_equal(levelled(hum, []), hum)
    steady = np.concatenate([np.zeros((1, 24_000), np.float32), 0.1 * hum], axis=1)
    left = levelled(steady, [-6.0])
    assert left.dtype == np.float32
    assert not left[:, :24_000].any()
    sounding = np.abs(steady) > 0.01
    assert np.abs(left[sounding] / steady[sounding] - 1.0).max() < 0.02


def test_a_leveller_turns_down_and_up_by_so_much_at_most() -> None:
    hum = np.sin(2.0 * np.pi * 1000.0 * np.arange(3 * 24_000) / 24_000)[None].astype(np.float32)
    for change_db, most_db in ((-40.0, -MOST_DOWN_DB), (20.0, MOST_UP_DB)):
        done = levelled(0.01 * hum, [0.0] * 20 + [change_db])
        # 0.3 s after what is wanted has changed, before that is usual.
        gain_db = 20.0 * np.log10(np.abs(done[:, 55_000:56_000]).max() / 0.01)
        assert gain_db == pytest.approx(most_db, abs=2.0) and abs(gain_db) <= abs(most_db) + 0.01


@pytest.mark.parametrize("rest_dbfs", [-120.0, -60.0])
def test_rests_neither_are_turned_up_nor_change_what_comes_after_them(rest_dbfs: float) -> None:
    hum = np.sin(2.0 * np.pi * 1000.0 * np.arange(7 * 24_000) / 24_000)[None]
    levels_db = np.repeat([-10.0, rest_dbfs, -10.0], [48_000, 72_000, 48_000])
    sound = (hum * 10.0 ** (levels_db / 20.0)).astype(np.float32)
    done = levelled(sound, [0.0])
    gains = np.abs(done) / np.maximum(np.abs(sound), 1e-9)
    heard = np.abs(hum) > 0.1
    # Until the level has fallen it is a quiet note.
    assert gains[:, 60_000:119_000][heard[:, 60_000:119_000]].max() <= 1.01
    after = gains[:, 120_000:][heard[:, 120_000:]]
    assert after.max() < 1.02 and after.min() > 10.0 ** (-3.0 / 20.0)


@pytest.mark.parametrize("foot_dbfs", [-65.0, -50.0])
def test_what_comes_before_the_first_attack_is_not_the_usual_level(foot_dbfs: float) -> None:
    hum = np.sin(2.0 * np.pi * 1000.0 * np.arange(2 * 24_000) / 24_000)[None]
    levels_db = np.repeat([foot_dbfs, -20.0], [2_400, 45_600])
    sound = (hum * 10.0 ** (levels_db / 20.0)).astype(np.float32)
    done = levelled(sound, [0.0])
    heard = np.abs(sound) > 0.01
    assert np.abs(done[heard] / sound[heard] - 1.0).max() < 0.02


@pytest.mark.parametrize(
    ("sample_rate", "size"), [(24_000, 240), (24_000, 320), (44_100, 1024), (22_050, 882)]
)
def test_what_is_wanted_is_asked_for_in_time(sample_rate: int, size: int) -> None:
    asked = 0

    def wanted():
        nonlocal asked
        while True:
            asked += 1
            yield 0.0

    leveller = Leveller(sample_rate, wanted(), 10.0)
    n_added = n_samples = 0
    while n_samples < 10 * sample_rate:
        n_samples += leveller(np.full((1, size), 0.1, np.float32)).shape[1]
        n_added += size
        assert asked == pytest.approx(n_samples / sample_rate * 10.0 + 0.5, abs=0.7)
        assert 0 <= n_added - n_samples <= (AHEAD_FRAMES + 1) * 0.01 * sample_rate
    assert n_samples + leveller.rest().shape[1] == n_added and not leveller.rest().size


@pytest.mark.parametrize("n_frames", [1, 7])
def test_a_leveller_does_not_heed_where_blocks_end(n_frames: int) -> None:
    sound = music(2, 24_000, 2.01).samples
    wanted_db = np.linspace(-20.0, 0.0, 15)
    whole, part = levelled(sound, wanted_db), Leveller(24_000, wanted_db, 10.0)
    size = 240 * n_frames
    pieces = [part(sound[:, i : i + size]) for i in range(0, sound.shape[1], size)]
    np.testing.assert_array_equal(np.concatenate([*pieces, part.rest()], axis=1), whole)
    assert np.abs(whole - sound).max() > 0.0


def test_what_comes_before_an_attack_is_turned_down_as_the_attack_is() -> None:
    hum = np.sin(2.0 * np.pi * 1000.0 * np.arange(6 * 24_000) / 24_000)[None]
    # Struck each half second: a foot of 40 ms, 20 dB below, and a quick decay.
    age = np.arange(6 * 24_000) / 24_000 % 0.5
    levels_db = np.where(age < 0.04, -40.0, -20.0 - 60.0 * (age - 0.04))
    sound = (hum * 10.0 ** (levels_db / 20.0)).astype(np.float32)
    gains_db = 20.0 * np.log10(np.abs(levelled(sound, [0.0])) / np.maximum(np.abs(sound), 1e-9) + 1e-9)
    gains_db = np.where(np.abs(hum) > 0.3, gains_db, np.nan)[0].reshape(12, -1)[4:]
    foot, attack = gains_db[:, 240:960], gains_db[:, 960:1200]
    assert np.nanmax(np.abs(foot - np.nanmean(attack))) < 0.5
    assert np.nanmean(gains_db[:, 6000:]) > np.nanmean(attack) + 2.0, "decays are turned up"
    at_once = Leveller(24_000, [0.0], 10.0, n_ahead=0)
    late = at_once(sound)
    assert late.shape == sound.shape and not at_once.rest().size, "nothing is waited for"
    feet = 20.0 * np.log10(np.abs(late).max() / np.abs(sound).max()) - np.nanmean(attack)
    assert feet > 1.0, "what is heard late is turned down late"
