"""Figures of what a codec does to music, on sounds whose answers are known; codecs side by side; medleys."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from library import write_scores

from silent2music import audio
from silent2music.audio import Waveform
from silent2music.bundled_codec import BundledCodec
from silent2music.codec import load_codec
from silent2music.config import CodecConfig, DataConfig, from_dict, read_values
from silent2music.errors import ConfigError, DataError
from silent2music.evaluation import codec_bench
from silent2music.evaluation.codec_bench import (
    BenchEntry,
    bench_music,
    kernel_distances,
    parse_entry,
    run_bench,
)
from silent2music.evaluation.codec_metrics import (
    chroma_similarity,
    codec_figures,
    held_modulation,
    si_sdr_db,
)
from silent2music.factory.medleys import FAMILIES, render_medleys

RATE = 24_000
NO_ONSETS = np.zeros(0)


@pytest.fixture(autouse=True)
def little_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec_bench, "SPEED_SECONDS", 0.5)
    monkeypatch.setattr(codec_bench, "SPEED_ROUNDS", 1)


def tone(frequency_hz: float, seconds: float = 2.0) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * frequency_hz * t)).astype(np.float32)


def test_the_same_sound_is_perfect() -> None:
    notes = np.concatenate([tone(f, 0.5) * np.exp(-np.arange(12_000) / 6000) for f in (262, 330, 392, 523)])
    figures = codec_figures(notes.astype(np.float32), notes.astype(np.float32), RATE)
    assert figures["log_mel"] == 0.0
    assert figures["chroma"] == pytest.approx(1.0)
    assert figures["onset_f"] == 1.0
    assert figures["roughness"] == 0.0
    assert figures["level_db"] == 0.0
    assert codec_figures(notes.astype(np.float32), 0.5 * notes.astype(np.float32), RATE)[
        "level_db"
    ] == pytest.approx(-6.02, abs=0.01)
    assert figures["si_sdr_db"] > 90.0


def test_noise_has_the_ratio_that_it_was_added_at() -> None:
    noise = np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32)
    sound = tone(440.0)
    noise *= np.sqrt(np.mean(sound**2) / np.mean(noise**2))
    assert si_sdr_db(sound, 0.5 * (sound + 0.1 * noise)) == pytest.approx(20.0, abs=0.2)


@pytest.mark.parametrize(("semitones", "low", "high"), [(0, 0.999, 1.0), (12, 0.95, 1.0), (6, 0.0, 0.3)])
def test_chroma_hears_pitch_classes(semitones: int, low: float, high: float) -> None:
    other = tone(261.63 * 2 ** (semitones / 12))
    assert low <= chroma_similarity(tone(261.63), other, RATE) <= high + 1e-6


@pytest.mark.parametrize(("rate_hz", "expected"), [(0.0, 0.0), (40.0, 0.5 / np.sqrt(2)), (5.0, 0.0)])
def test_modulation_of_a_held_tone_is_that_which_it_was_given(rate_hz: float, expected: float) -> None:
    """A depth of one half has an RMS of 0.35, the window of a band smooths it; 5 Hz is no roughness."""
    t = np.arange(2 * RATE) / RATE
    held = tone(1000.0)
    shaken = (held * (1.0 + 0.5 * np.sin(2 * np.pi * rate_hz * t))).astype(np.float32)
    assert np.median(held_modulation(shaken, NO_ONSETS, RATE, held)) == pytest.approx(expected, abs=0.04)


def test_short_notes_are_not_held() -> None:
    assert held_modulation(tone(1000.0), np.arange(0.0, 2.0, 0.2), RATE, tone(1000.0)).size == 0


def test_codecs_side_by_side(codec_folder: Path, tmp_path: Path) -> None:
    entries = [parse_entry(f"{name}={codec_folder}{rest}") for name, rest in (("all", ""), ("one", ":1"))]
    assert [entry.n_codebooks for entry in entries] == [4, 1]
    assert entries[0].kbit_per_second == pytest.approx(4 * 25 * 5 / 1000)
    shutil.copy(codec_folder.parent / "music.wav", tmp_path / "drums-1.wav")
    music = {"real": [codec_folder.parent / "music.wav"], "families": [tmp_path / "drums-1.wav"]}
    text = run_bench(entries, music, tmp_path / "out", seconds=2.0)
    rows = json.loads((tmp_path / "out" / "bench.json").read_text())["rows"]
    assert rows["all"][0]["log_mel"] < rows["one"][0]["log_mel"]
    for name in ("all | 0.5", "one | 0.12", "EnCodec 24 kHz", "drums |"):
        assert f"| {name}" in text
    assert (tmp_path / "out" / "worst.png").stat().st_size > 1000
    with pytest.raises(DataError, match="no music to compare"):
        run_bench(entries, {}, tmp_path / "out")
    other = load_codec(codec_folder)
    other.sample_rate = 32_000
    with pytest.raises(ConfigError, match=r"of \[24000, 32000\] Hz; expected one sample rate"):
        run_bench([*entries, BenchEntry("other", other, 4)], music, tmp_path / "out")


def test_the_kernel_distance_tells_a_worse_codec(codec_folder: Path, tmp_path: Path) -> None:
    """Of a codec that changes nothing it is that of the originals; fewer codebooks are farther away."""
    rng = np.random.default_rng(0)
    files = []
    for i in range(6):
        notes = [
            tone(220 * 2 ** (n / 12), 0.5) * np.linspace(1, 0, 12_000) for n in rng.integers(24, size=20)
        ]
        files.append(tmp_path / f"{i}.wav")
        audio.write(files[-1], Waveform(np.concatenate(notes).astype(np.float32)[None], RATE))

    class Nothing:
        sample_rate, frame_rate, channels, n_codebooks, codebook_size = RATE, 25.0, 1, 1, 2

        def encode(self, sound: torch.Tensor, n_codebooks: int = 0) -> torch.Tensor:
            return sound

        decode = encode

    codec = load_codec(codec_folder)
    entries = [BenchEntry("nothing", cast(Any, Nothing()), 1)]
    entries += [BenchEntry(f"{k} books", codec, k) for k in (1, 4)]
    found = kernel_distances(entries, files)
    assert found["nothing"] == found["no codec"]
    assert found["no codec"]["all"] < 0.0
    assert found["1 books"]["all"] > found["4 books"]["all"] > found["no codec"]["all"]


def test_held_out_music_is_evenly_spread(tmp_path: Path) -> None:
    for i in range(7):
        audio.write(tmp_path / f"{i}.wav", Waveform(tone(220.0, 0.1)[None], RATE))
    found = bench_music(None, None, tmp_path, 3)
    assert {group: [f.name for f in files] for group, files in found.items()} == {
        "real": ["0.wav", "3.wav", "6.wav"]
    }


@pytest.mark.parametrize("text", ["folder", "=x", "a="])
def test_an_entry_is_written_in_one_way(text: str) -> None:
    with pytest.raises(ConfigError, match="expected NAME=FOLDER"):
        parse_entry(text)


def test_an_entry_has_the_codebooks_it_asks_for(codec_folder: Path) -> None:
    with pytest.raises(ConfigError, match="asks for 5 codebooks; the codec has 4"):
        parse_entry(f"a={codec_folder}:5")


@pytest.mark.slow
def test_candidates_are_fitted_compared_and_foretold(
    codec_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the recipe's script, on tiny data."""
    file = Path(__file__).parents[1] / "recipes" / "codec" / "candidates.py"
    spec = importlib.util.spec_from_file_location("candidates", file)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "SIZE", replace(script.SIZE, dim=32, n_layers=1, n_heads=2))
    rng = np.random.default_rng(0)
    for name in ("fit", "real"):
        (tmp_path / name).mkdir()
        for i in range(2):
            notes = [
                tone(220 * 2 ** (n / 12), 0.5) * np.linspace(1, 0, 12_000) for n in rng.integers(24, size=20)
            ]
            samples = np.concatenate(notes).astype(np.float32)[None]
            audio.write(tmp_path / name / f"{i}.wav", Waveform(samples, RATE))
    (tmp_path / "some.toml").write_text(
        "[coarse]\nn_codebooks = 2\ncodebook_size = 8\nn_components = 16\n"
        '["very fine"]\nn_codebooks = 4\ncodebook_size = 32\nn_components = 16\n'
    )
    command = [str(tmp_path / "some.toml"), str(tmp_path / "fit"), "--real", str(tmp_path / "real")]
    command += ["--out", str(tmp_path / "out"), "--steps", "20", "--minutes", "1.5"]
    command += ["--codec", f"made before={codec_folder}"]
    script.main(command)
    text = (tmp_path / "out" / "bench.md").read_text()
    assert capsys.readouterr().out == text + "\n"
    rows = json.loads((tmp_path / "out" / "bench.json").read_text())["rows"]
    assert rows["very fine"][0]["log_mel"] < rows["coarse"][0]["log_mel"]
    assert load_codec(tmp_path / "out" / "very_fine").n_codebooks == 4
    per_second, per_token = map(float, text.splitlines()[-1].strip("| ").split(" | ")[1:])
    assert 0.0 < per_token < 5.0  # those of a draw from 32 entries
    assert per_second == pytest.approx(per_token * 4 * 25, abs=1.0)
    assert text.index("made before") < text.index("coarse")
    assert "| made before | " in text.split("Bits a second")[1]
    (tmp_path / "some.toml").write_text("[odd]\nbooks = 2\n")
    with pytest.raises(ConfigError, match=r"Unknown setting 'odd\.books'"):
        script.main(command)


def test_the_recipes_candidates_are_settings_of_codecs() -> None:
    values = read_values(Path(__file__).parents[1] / "recipes" / "codec" / "candidates.toml")
    for name, table in values.items():
        BundledCodec(from_dict(CodecConfig, table, name))


def test_medleys_have_every_family_and_are_kept(tmp_path: Path) -> None:
    scores = write_scores(tmp_path / "scores")
    config = DataConfig(scores=str(scores), validation_share=0.5)
    render_medleys(config, tmp_path / "out", len(FAMILIES) + 1, seed=3)
    files = sorted((tmp_path / "out").rglob("*.flac"))
    assert {f.stem.rpartition("-")[0] for f in files} == set(FAMILIES)
    assert {f.parent.name for f in files} == {"train", "validation"}
    assert all(audio.read(f).samples.any() for f in files)
    sources = dict(line.split("\t") for line in (tmp_path / "out" / "sources.tsv").read_text().splitlines())
    used = {
        split: {s for f, s in sources.items() if f.startswith(split)} for split in ("train", "validation")
    }
    assert not used["train"] & used["validation"]
    before = [f.stat().st_mtime_ns for f in files]
    render_medleys(config, tmp_path / "out", len(FAMILIES) + 1, seed=3)
    assert [f.stat().st_mtime_ns for f in files] == before
    with pytest.raises(DataError, match="No scores folder is set"):
        render_medleys(DataConfig(), tmp_path / "other", 1, seed=0)
