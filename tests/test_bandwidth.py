"""The band extension: levels, silence, streaming, what it must not add, its file, and its fit."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from silent2music import audio
from silent2music.arrays import FloatArray
from silent2music.audio import Waveform
from silent2music.bandwidth import EXTENSION_FILE, HIGH_HZ, N_LOW_BANDS, RATE, BandExtension, lower_half
from silent2music.bundled_codec import BundledCodec
from silent2music.codec import load_codec, save_codec
from silent2music.config import CodecConfig, default_model
from silent2music.errors import AudioError, CheckpointError, ConfigError, DataError
from silent2music.evaluation.band_bench import run_band_bench
from silent2music.training.band_fit import fit_extension


def loud_extension() -> BandExtension:
    """Asks for as much as the surroundings have, whatever these are."""
    return BandExtension(torch.zeros(2 * N_LOW_BANDS + 1, len(HIGH_HZ) - 1))


def noise(seconds: float, n_channels: int = 1, seed: int = 0) -> FloatArray:
    return (0.1 * np.random.default_rng(seed).standard_normal((n_channels, round(seconds * RATE)))).astype(
        np.float32
    )


def energy_above(sound: Waveform, low_hz: float, high_hz: float = 24_000.0) -> float:
    """Share of the energy between two frequencies."""
    power = np.square(np.abs(np.fft.rfft(sound.samples[0] * np.hanning(sound.n_samples))))
    hz = np.fft.rfftfreq(sound.n_samples, 1.0 / sound.sample_rate)
    return float(power[(hz >= low_hz) & (hz < high_hz)].sum() / power.sum())


@pytest.fixture(scope="module")
def shipped() -> BandExtension:
    extension = load_codec(default_model() / "codec").extension
    assert extension is not None
    return extension


def test_below_12_khz_the_sound_stays_as_it_is() -> None:
    silent = BandExtension(
        torch.full((2 * N_LOW_BANDS + 1, len(HIGH_HZ) - 1), 0.0).index_fill(0, torch.tensor(48), -99.0)
    )
    sound = Waveform(noise(1.0, 2), RATE)
    wide = silent.extended(sound)
    assert (wide.sample_rate, wide.n_channels, wide.n_samples) == (48_000, 2, 48_000)
    np.testing.assert_allclose(wide.samples[:, ::2], sound.samples, atol=2e-7)
    assert energy_above(wide, 12_100.0) < 1e-8


def test_noise_goes_on_as_noise_above_12_khz(shipped: BandExtension) -> None:
    wide = loud_extension().extended(Waveform(noise(1.0), RATE))
    assert energy_above(wide, 12_100.0, 22_000.0) > 0.2
    assert energy_above(wide, 22_200.0) < 1e-4
    assert energy_above(shipped.extended(Waveform(noise(1.0), RATE)), 12_100.0) > 0.001


@pytest.mark.parametrize("gain", [0.25, 2.0**-12, 16.0])
def test_a_gain_goes_through(shipped: BandExtension, gain: float) -> None:
    sound = noise(0.7, 2) * np.geomspace(1e-4, 1.0, 16_800, dtype=np.float32)
    plain = shipped.extended(Waveform(sound, RATE)).samples
    np.testing.assert_array_equal(
        shipped.extended(Waveform(sound * np.float32(gain), RATE)).samples, plain * gain
    )
    odd = shipped.extended(Waveform(sound * np.float32(0.3), RATE)).samples
    np.testing.assert_allclose(odd, plain * 0.3, atol=1e-6)


def test_channels_are_alone(shipped: BandExtension) -> None:
    left = noise(0.5)
    both = np.concatenate([left, left * np.float32(0.125)])
    wide = shipped.extended(Waveform(both, RATE)).samples
    np.testing.assert_array_equal(wide[1], wide[0] * 0.125)


def test_silence_stays_silence() -> None:
    assert not loud_extension().extended(Waveform(np.zeros((2, 9999), np.float32), RATE)).samples.any()
    after = np.concatenate([noise(0.5), np.zeros((1, 24_000), np.float32)], axis=1)
    # A window reaches a hundredth of a second beyond the end of the sound.
    assert not loud_extension().extended(Waveform(after, RATE)).samples[:, 24_000 + 960 :].any()


def test_pieces_are_the_whole_bit_for_bit(shipped: BandExtension) -> None:
    sound = noise(2.0, 2)
    whole = shipped.extended(Waveform(sound, RATE)).samples
    edges = [0, 1, 700, 5760, 5761, 30_000, sound.shape[1]]
    pieces = [Waveform(sound[:, a:b], RATE) for a, b in pairwise(edges)]
    came = given = 0
    joined = []

    def counted():
        nonlocal came
        for piece in pieces:
            came += piece.n_samples
            yield piece

    for piece in shipped.extended_stream(counted()):
        given += piece.n_samples
        joined.append(piece.samples)
        waiting = came - given / 2
        if came < sound.shape[1]:
            assert waiting < shipped.lookahead_seconds * RATE + max(p.n_samples for p in pieces)
    np.testing.assert_array_equal(np.concatenate(joined, axis=1), whole)
    assert whole.shape[1] == 2 * sound.shape[1]


@pytest.mark.parametrize("n_samples", [1, 119, 5760, 5761])
def test_any_length(n_samples: int) -> None:
    assert loud_extension().extended(Waveform(noise(1.0)[:, :n_samples], RATE)).n_samples == 2 * n_samples


@pytest.mark.parametrize("hz", [110.0, 440.0, 4000.0])
def test_nothing_is_added_to_a_low_tone(hz: float) -> None:
    tone = np.sin(2.0 * np.pi * hz / RATE * np.arange(RATE)).astype(np.float32)[None]
    # Fades, for the click of a hard edge has energy everywhere.
    tone *= np.hanning(RATE).astype(np.float32)
    assert energy_above(loud_extension().extended(Waveform(tone, RATE)), 11_900.0) < 1e-10


@pytest.mark.parametrize("cutoff_hz", [4_000.0, 8_500.0])
def test_nothing_is_added_to_a_low_passed_sound(cutoff_hz: float) -> None:
    spectrum = np.fft.rfft(noise(1.0)[0])
    spectrum[np.fft.rfftfreq(RATE, 1.0 / RATE) > cutoff_hz] = 0.0
    low = (np.fft.irfft(spectrum, RATE) * np.hanning(RATE)).astype(np.float32)
    assert energy_above(loud_extension().extended(Waveform(low[None], RATE)), 11_900.0) < 3e-8


def test_another_rate_or_other_channels_are_refused() -> None:
    with pytest.raises(AudioError, match="got sound of 48000 Hz; expected 24000 Hz"):
        loud_extension().extended(Waveform(noise(0.1), 48_000))
    with pytest.raises(AudioError, match="a piece of 2 channels after one of 1"):
        list(loud_extension().extended_stream([Waveform(noise(0.1, n), RATE) for n in (1, 2)]))


def test_it_lies_in_the_codec_folder(tmp_path: Path, shipped: BandExtension) -> None:
    codec = load_codec(default_model() / "codec")
    save_codec(codec, tmp_path / "with")
    again = load_codec(tmp_path / "with").extension
    assert again is not None and torch.equal(again.weights, shipped.weights)
    assert (tmp_path / "with" / EXTENSION_FILE).stat().st_size < 8192
    (tmp_path / "with" / EXTENSION_FILE).unlink()
    assert load_codec(tmp_path / "with").extension is None


def test_a_broken_file_gives_a_sentence(tmp_path: Path, shipped: BandExtension) -> None:
    shipped.save(tmp_path)
    file = tmp_path / EXTENSION_FILE
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match=rf"{EXTENSION_FILE} is damaged"):
        BandExtension.load(tmp_path)
    save_file({"other": torch.zeros(3)}, file)
    with pytest.raises(CheckpointError, match=r"holds \['other'\]; expected 'weights' alone"):
        BandExtension.load(tmp_path)
    save_file({"weights": torch.zeros(3)}, file)
    with pytest.raises(CheckpointError, match=r"shape \(3,\); expected finite ones of \(49, 10\)"):
        BandExtension.load(tmp_path)
    save_file({"weights": torch.full((49, 10), float("nan"))}, file)
    with pytest.raises(CheckpointError, match="expected finite ones"):
        BandExtension.load(tmp_path)


class ThroughCodec:
    """A codec that changes nothing, so that what is fitted is known."""

    sample_rate, channels, extension = RATE, 1, None

    def encode(self, sound: torch.Tensor) -> torch.Tensor:
        return sound

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes


def tilted(seconds: float, db_per_khz: float, seed: int) -> FloatArray:
    """Noise at 48 kHz, of slowly changing level, that falls by a fixed tilt above 4 kHz, up to 24 kHz."""
    rng = np.random.default_rng(seed)
    n = round(seconds * 2 * RATE)
    khz = np.fft.rfftfreq(n, 1.0 / (2 * RATE)) / 1000.0
    shape = 10.0 ** (-db_per_khz * np.maximum(khz - 4.0, 0.0) / 20.0)
    samples = np.fft.irfft(np.fft.rfft(rng.standard_normal(n)) * shape, n)
    return (0.1 * samples).astype(np.float32)


def test_the_fit_learns_a_known_tilt(tmp_path: Path) -> None:
    tilts = (0.5, 1.0, 2.0, 3.0)
    for i, tilt in enumerate(tilts):
        audio.write(tmp_path / f"{i}.wav", Waveform(tilted(6.0, tilt, i)[None], 2 * RATE))
    extension = fit_extension(sorted(tmp_path.glob("*.wav")), ThroughCodec())
    for tilt in (0.7, 1.5, 2.5):
        original = Waveform(tilted(2.0, tilt, 9)[None], 2 * RATE)
        wide = extension.extended(Waveform(lower_half(original.samples[0])[None], RATE))
        for low_hz in (12_000.0, 15_000.0, 18_000.0):
            ratio = energy_above(wide, low_hz, low_hz + 3000.0) / energy_above(
                original, low_hz, low_hz + 3000.0
            )
            # A little too low, as a quantile below the median is, and never too high.
            assert -4.0 < 10.0 * np.log10(ratio) < 0.5


def test_the_fit_adds_nothing_to_music_that_has_nothing(tmp_path: Path) -> None:
    for i in range(3):
        samples = np.fft.rfft(tilted(6.0, 1.0, i))
        samples[len(samples) // 2 :] = 0.0
        audio.write(tmp_path / f"{i}.wav", Waveform(np.fft.irfft(samples)[None].astype(np.float32), 2 * RATE))
    extension = fit_extension(sorted(tmp_path.glob("*.wav")), ThroughCodec())
    low = lower_half(tilted(2.0, 1.0, 9))
    assert energy_above(extension.extended(Waveform(low[None], RATE)), 12_100.0) < 1e-6


def test_the_fit_refuses_what_has_nothing_to_teach(tmp_path: Path) -> None:
    audio.write(tmp_path / "low.wav", Waveform(noise(3.0), RATE))
    with pytest.raises(DataError, match="0 usable frames of music"):
        fit_extension([tmp_path / "low.wav"], ThroughCodec())
    other = BundledCodec(
        CodecConfig(sample_rate=16_000, n_components=4, n_codebooks=1, codebook_size=8, decoder_layers=0)
    )
    with pytest.raises(ConfigError, match="1 channels of 16000 Hz; the extension is for one of 24000 Hz"):
        fit_extension([tmp_path / "low.wav"], other)


def test_bench_sees_the_extension_halve_the_error(tmp_path: Path) -> None:
    for i, tilt in enumerate((0.5, 1.0, 2.0)):
        audio.write(tmp_path / f"drums-{i}.wav", Waveform(tilted(6.0, tilt, i)[None], 2 * RATE))
    files = sorted(tmp_path.glob("*.wav"))
    codec = load_codec(default_model() / "codec")
    codec.extension = fit_extension(files, ThroughCodec())
    text = run_band_bench(codec, {"families": files}, tmp_path / "out", seconds=2.0)
    found = json.loads((tmp_path / "out" / "band.json").read_text(encoding="utf-8"))
    for row in found["rows"]:
        assert row["family"] == "drums" and row["original_n_none"] == 0
        assert row["original_extended"] < 0.4 * row["original_resampled"]
    assert "| **families** | 3 |" in text and "decoding and extending" in text
    codec.extension = None
    with pytest.raises(ConfigError, match="has no extension to compare"):
        run_band_bench(codec, {"families": files}, tmp_path / "out")
