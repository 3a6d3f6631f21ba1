from pathlib import Path

import numpy as np
import pytest

from silent2music.arrays import FloatArray
from silent2music.audio import Waveform, read, rms_dbfs, write
from silent2music.config import HarvestConfig
from silent2music.data.harvest import extended, find_stretches, harvest
from silent2music.data.pairs import check, read_pairs
from silent2music.errors import DataError

RATE = 16_000


def room_tone(seconds: float, dbfs: float = -65, seed: int = 1) -> FloatArray:
    samples = np.random.default_rng(seed).standard_normal((1, round(seconds * RATE)))
    return (samples * 10 ** (dbfs / 20)).astype(np.float32)


def notes(seconds: float, tail_seconds: float = 0.0) -> FloatArray:
    """Two struck notes a second; the last rings out with 60 dB in a second, beyond the end if asked to."""
    time = np.arange(round((seconds + tail_seconds) * RATE)) / RATE
    since = np.where(time < seconds, time % 0.5, time - (seconds - 0.5))
    tone = 0.3 * np.sin(2 * np.pi * 440 * time) * 10 ** (-3 * since)
    return tone[None].astype(np.float32)


def take(*parts: FloatArray, dbfs: float = -65) -> Waveform:
    """The parts one after the other, in a room."""
    samples = np.concatenate(parts, axis=1)
    return Waveform(samples + room_tone(samples.shape[1] / RATE, dbfs), RATE)


def nothing(seconds: float) -> FloatArray:
    return np.zeros((1, round(seconds * RATE)), np.float32)


def test_room_tone_and_pauses_are_found_where_they_are() -> None:
    recording = take(nothing(3), notes(10), nothing(3), notes(8))
    found = [(s.start / RATE, s.end / RATE, s.music_end / RATE) for s in find_stretches(recording)]
    assert len(found) == 2
    np.testing.assert_allclose(found[0], (0.0, 3.0, 13.0), atol=0.5)
    np.testing.assert_allclose(found[1], (13.0, 16.0, 24.0), atol=0.5)
    np.testing.assert_allclose([found[0][1], found[1][1]], (3.0, 16.0), atol=0.051)


def test_the_tail_of_earlier_music_is_no_room_tone() -> None:
    recording = take(notes(10, tail_seconds=4), notes(8))
    (stretch,) = find_stretches(recording)
    inside = recording.samples[:, stretch.start : stretch.end]
    assert rms_dbfs(inside) == pytest.approx(-65, abs=1.0)
    assert stretch.end / RATE == pytest.approx(14.0, abs=0.051)


@pytest.mark.parametrize(
    ("recording", "why"),
    [
        (take(notes(20)), "no pause"),
        (take(nothing(1.2), notes(10)), "pause too short"),
        (take(nothing(3), notes(3)), "music too short"),
        (take(nothing(3), notes(10), dbfs=-33), "room too loud"),
        (Waveform(np.concatenate([nothing(3), notes(10)], axis=1), RATE), "an editor's silence"),
        (Waveform(nothing(10), RATE), "nothing at all"),
        (take(nothing(10)), "a room and no music"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_pair_is_left_out(recording: Waveform, why: str) -> None:
    assert find_stretches(recording) == []


def test_a_fade_is_no_room_tone() -> None:
    level = 10 ** (np.linspace(-40, -62, 4 * RATE) / 20)
    fade = (np.random.default_rng(0).standard_normal(4 * RATE) * level)[None].astype(np.float32)
    recording = take(notes(10), fade, notes(8), dbfs=-80)
    assert find_stretches(recording) == []


def test_a_quiet_count_in_belongs_to_the_room() -> None:
    taps = nothing(4)
    for second in (1, 2, 3):
        taps[0, second * RATE : second * RATE + 400] = 0.01 * np.hanning(400)
    (stretch,) = find_stretches(take(taps, notes(10)))
    assert stretch.start == 0
    assert stretch.end / RATE == pytest.approx(4.0, abs=0.051)


def test_extension_keeps_level_and_has_neither_seam_nor_pulse() -> None:
    room = np.concatenate([room_tone(2.0), room_tone(2.0, seed=2)])
    out = extended(room, 30 * RATE, RATE // 4, np.random.default_rng(0))
    assert out.shape == (2, 30 * RATE)
    np.testing.assert_array_equal(out[:, :RATE], room[:, :RATE])
    tenths = np.sqrt(np.square(out[0]).reshape(-1, RATE // 10).mean(axis=1))
    assert np.ptp(20 * np.log10(tenths)) < 2.5
    assert np.abs(np.diff(out)).max() < 1.3 * np.abs(np.diff(room)).max()
    spectrum = np.abs(np.fft.rfft(out[0], 2**20)) ** 2
    correlation = np.fft.irfft(spectrum)[: 10 * RATE]
    assert correlation[RATE // 2 :].max() < 0.5 * correlation[0], (
        "a plain loop would give more than 0.9 at its period"
    )


def test_harvest_writes_a_folder_that_passes_check(tmp_path: Path) -> None:
    stereo = take(nothing(3), notes(10), nothing(3), notes(8))
    write(tmp_path / "in" / "stereo.wav", Waveform(np.repeat(stereo.samples, 2, axis=0), RATE))
    write(tmp_path / "in" / "long.flac", take(nothing(2), notes(40)))
    write(tmp_path / "in" / "busy.wav", take(notes(10)))
    (tmp_path / "in" / "broken.wav").write_text("no audio")

    report = harvest([tmp_path / "in"], tmp_path / "out", licence="CC0", author="A")

    assert check(tmp_path / "out") == []
    assert read_pairs(tmp_path / "out") == list(report.pairs)
    assert len(report.pairs) == 3
    assert sorted(text.split()[0].rpartition("/")[2] for text in report.refused) == ["broken.wav", "busy.wav"]
    for pair in report.pairs:
        silent, music = (read(tmp_path / "out" / path) for path in (pair.silent, pair.music))
        assert silent.samples.shape == music.samples.shape
        assert rms_dbfs(silent.samples) == pytest.approx(-65, abs=1.0)
        assert pair.labels["level_dbfs"] == pytest.approx(rms_dbfs(silent.samples), abs=0.1)
    long = next(p for p in report.pairs if "long" in p.silent)
    assert read(tmp_path / "out" / long.music).seconds == pytest.approx(12 * 1.98, abs=0.1), (
        "12 times the stretch"
    )


def test_harvest_is_deterministic_and_keeps_a_recording_in_one_split(tmp_path: Path) -> None:
    for number in range(6):
        write(tmp_path / "in" / f"{number}.wav", take(nothing(2), notes(6), nothing(2), notes(6)))
    settings = HarvestConfig(validation_share=0.5)
    first = harvest([tmp_path / "in"], tmp_path / "a", settings)
    second = harvest([tmp_path / "in"], tmp_path / "b", settings)
    assert first == second
    for pair in first.pairs:
        assert (tmp_path / "a" / pair.silent).read_bytes() == (tmp_path / "b" / pair.silent).read_bytes()
    assert {pair.split for pair in first.pairs} == {"train", "validation"}
    assert check(tmp_path / "a") == []


def test_harvest_refuses_a_used_folder_and_says_when_nothing_was_found(tmp_path: Path) -> None:
    write(tmp_path / "busy.wav", take(notes(10)))
    with pytest.raises(
        DataError, match=r"None of 1 recordings gave a pair; the first: .*busy\.wav gave no pair"
    ):
        harvest([tmp_path / "busy.wav"], tmp_path / "out")
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out" / "pairs.jsonl").write_text("")
    with pytest.raises(DataError, match="choose another folder"):
        harvest([tmp_path / "busy.wav"], tmp_path / "out")


def test_recordings_are_harvested_and_those_without_a_pause_are_named(s2m, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("takes/take.wav", take(nothing(3), notes(8)))
    write("takes/busy.wav", Waveform(notes(8), RATE))
    code, printed, said = s2m(
        "data", "harvest", "takes", "--out", "pairs", "--licence", "CC0", "--author", "Me"
    )
    assert code == 0
    assert printed == "1 pairs harvested into pairs\n"
    assert "busy.wav gave no pair" in said
    (pair,) = read_pairs("pairs")
    assert pair.labels["sources"] == [
        {"path": "take.wav", "licence": "CC0", "author": "Me", "role": "recording"}
    ]
    assert s2m("data", "check", "pairs") == (0, "", "")
    code, _, said = s2m("data", "harvest", "takes", "--out", "pairs")
    assert code == 1
    assert "choose another folder" in said
