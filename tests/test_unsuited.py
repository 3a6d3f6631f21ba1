"""Recordings that are no near-silent room."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rooms import steps_room
from test_downmix import timecode

from silent2music.acoustics import analyze
from silent2music.acoustics.unsuited import room_warnings, sounds_like
from silent2music.audio import Waveform, db_to_gain, write

RATE = 16_000


def at_level(samples: np.ndarray, dbfs: float = -60.0) -> Waveform:
    gain = db_to_gain(dbfs) / np.sqrt(np.mean(np.square(samples)))
    return Waveform((gain * samples)[None].astype(np.float32), RATE)


def warnings_of(room: Waveform) -> tuple[str, ...]:
    return room_warnings(room, analyze(room))


def chords(seconds: float = 10.0, tuning_hz: float = 440.0) -> np.ndarray:
    """A progression of plucked triads of harmonic tones, each of half a second."""
    rng = np.random.default_rng(0)
    t = np.arange(round(seconds * RATE)) / RATE
    samples = 1e-3 * rng.standard_normal(len(t))
    triads = ([0, 4, 7], [5, 9, 12], [7, 11, 14], [-3, 0, 4])
    for i, start in enumerate(np.arange(0.0, seconds, 0.5)):
        after = np.maximum(t - start, 0.0)
        for semitone in triads[i % 4]:
            hz = tuning_hz * 2 ** ((semitone - 9) / 12)
            for harmonic in range(1, 5):
                samples += (
                    (t >= start) * np.exp(-after / 0.3) * np.sin(2 * np.pi * harmonic * hz * t) / harmonic**2
                )
    return samples


def syllables(seconds: float = 10.0) -> np.ndarray:
    """Pulses of a voice whose pitch moves, through moving formants, four a second, with hisses between."""
    rng = np.random.default_rng(1)
    t = np.arange(round(seconds * RATE)) / RATE
    pitch = 120.0 * 2 ** (
        np.interp(t, np.arange(0, seconds + 1, 0.25), rng.normal(0, 0.15, 4 * int(seconds) + 4))
    )
    phase = np.cumsum(pitch) / RATE
    vowel = np.sin(np.pi * np.minimum(t % 0.25 / 0.16, 1.0)) ** 0.5
    samples = np.zeros(len(t))
    for harmonic in range(1, 25):
        formant = 400.0 + 300.0 * np.interp(
            t, np.arange(0, seconds + 1, 0.25), rng.random(4 * int(seconds) + 4)
        )
        gain = 1.0 / (1.0 + np.square((harmonic * pitch - formant) / 200.0)) + 0.05
        samples += gain * np.sin(2 * np.pi * harmonic * phase)
    hiss = np.diff(rng.standard_normal(len(t) + 1)) * (t % 0.25 > 0.18) * (t % 1.0 < 0.6)
    pauses = t % 2.5 < 2.0
    return pauses * (vowel * samples + 0.3 * hiss) + 1e-3 * rng.standard_normal(len(t))


def test_a_near_silent_room_is_what_is_wanted() -> None:
    assert warnings_of(Waveform(steps_room(10.0, RATE), RATE)) == ()
    assert warnings_of(Waveform(steps_room(10.0, RATE, level_dbfs=-35.5), RATE)) == ()


def test_a_loud_one_is_named_with_its_level() -> None:
    (warning,) = warnings_of(Waveform(steps_room(10.0, RATE, level_dbfs=-30.0), RATE))
    assert warning.startswith("is loud for a near-silent room: -30.0 dBFS RMS, expected at most -35")


def test_digital_silence_is_said() -> None:
    (warning,) = warnings_of(Waveform(np.zeros((1, RATE), np.float32), RATE))
    assert warning.startswith("is digital silence")


@pytest.mark.parametrize("level_dbfs", [-20.0, -60.0])
@pytest.mark.parametrize("tuning_hz", [440.0, 449.0])
def test_music(level_dbfs: float, tuning_hz: float) -> None:
    found = warnings_of(at_level(chords(tuning_hz=tuning_hz), level_dbfs))
    assert found[-1].startswith("sounds like music; expected a room alone")
    assert len(found) == (2 if level_dbfs > -35 else 1)


def test_speech() -> None:
    assert sounds_like(at_level(syllables())) == "speech"


def test_a_test_signal() -> None:
    (loud, named) = warnings_of(Waveform(timecode(2.0, 48_000)[None], 48_000))
    assert loud.startswith("is loud")
    assert named.startswith("is SMPTE timecode (LTC) and no room")


def test_rooms_with_sounds_of_their_own_are_rooms() -> None:
    """Hum with harmonics, a siren, crickets, wind, steps, one bell, a few samples."""
    rng = np.random.default_rng(2)
    t = np.arange(10 * RATE) / RATE
    noise = rng.standard_normal(len(t))
    slow = np.interp(t, np.arange(11), rng.random(11))
    hum = sum(np.sin(2 * np.pi * 50 * k * t) / k for k in range(1, 12))
    siren = np.sin(2 * np.pi * np.cumsum(600 + 200 * np.sin(2 * np.pi * 0.3 * t)) / RATE)
    crickets = np.sin(2 * np.pi * 4500 * t) * (np.sin(2 * np.pi * 15 * t) > 0)
    bell = np.exp(-t / 2.0) * sum(np.sin(2 * np.pi * f * t) for f in (523.0, 1247.0, 2093.0))
    wind = np.cumsum(noise) * 0.02 * slow
    for samples in (
        noise,
        hum + 0.05 * noise,
        siren + 0.1 * noise,
        crickets + noise,
        bell + 0.01 * noise,
        wind,
    ):
        assert sounds_like(at_level(samples)) == ""
    assert sounds_like(at_level(noise[:100])) == ""


class TestCommandLine:
    @pytest.fixture
    def cut(self, tmp_path: Path) -> Path:
        """A stereo room without its second half, and with timecode in its second channel."""
        path = tmp_path / "cut.wav"
        write(path, Waveform(np.stack([steps_room(4.0, 48_000)[0], timecode(4.0, 48_000)]), 48_000))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return path

    def test_analyze_tells(self, s2m, cut: Path) -> None:
        code, printed, complained = s2m("analyze", cut)
        assert (code, complained.splitlines()) == (
            0,
            [
                f"{cut} is cut: 2.00 of 4.00 s are missing; what is there is used.",
                f"{cut} holds SMPTE timecode (LTC) in channel 2, which is left out.",
            ],
        )
        assert "2.00 s, 2 channels at 48000 Hz" in printed
        code, _, complained = s2m("analyze", cut, "--strict")
        assert (code, complained.count("\n")) == (1, 1)
        assert "is cut: 2.00 of 4.00 s are missing; copy or export it again" in complained
        code, _, complained = s2m("analyze", cut, "--channel", 2)
        assert "is SMPTE timecode (LTC) and no room" in complained
        code, _, complained = s2m("analyze", cut, "--channel", 3)
        assert (code, complained) == (1, f"{cut} has 2 channels; there is no channel 3.\n")

    def test_infer_tells_and_records(self, s2m, cut: Path, model_folder: Path, tmp_path: Path) -> None:
        code, printed, complained = s2m(
            "infer", cut, "-o", tmp_path / "a.wav", "--model", model_folder, "--json"
        )
        assert code == 0
        made = json.loads(printed)["input"]
        assert (made["channels"], made["seconds"]) == (2, pytest.approx(2.0, abs=0.001))
        assert [f"cut.wav {note}." for note in made["notes"]] == complained.splitlines()
        assert "2.00 of 4.00 s are missing" in made["notes"][0]

    def test_digital_silence_is_not_turned_up(self, s2m, model_folder: Path, tmp_path: Path) -> None:
        path = tmp_path / "none.wav"
        write(path, Waveform(np.zeros((1, 2 * RATE), np.float32), RATE))
        code, printed, complained = s2m(
            "infer", path, "-o", tmp_path / "a.wav", "--model", model_folder, "--json"
        )
        assert code == 0
        assert json.loads(printed)["output"]["nearly_nothing"]
        assert "none.wav is digital silence" in complained
        assert "a.wav is nearly nothing, as this room is; its level was left as it is." in complained
