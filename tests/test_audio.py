from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from silent2music import audio
from silent2music.audio import Waveform
from silent2music.errors import AudioError
from silent2music.files import atomic_path

RATE = 24_000


def sine(hz: float, seconds: float, gain: float = 1.0, rate: int = RATE) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    return (gain * np.sin(2 * np.pi * hz * t))[None].astype(np.float32)


class TestWaveform:
    def test_its_figures(self) -> None:
        waveform = Waveform(np.zeros((3, 12_000)), RATE)
        assert (waveform.n_channels, waveform.n_samples, waveform.seconds) == (3, 12_000, 0.5)
        assert waveform.samples.dtype == np.float32

    @pytest.mark.parametrize("shape", [(100,), (0, 100), (1, 0), (1, 2, 3)])
    def test_wrong_shapes(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(AudioError, match=r"expected \[channels, samples\]"):
            Waveform(np.zeros(shape, np.float32), RATE)

    def test_wrong_rate(self) -> None:
        with pytest.raises(AudioError, match="sample rate of 0 Hz"):
            Waveform(np.zeros((1, 10), np.float32), 0)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_not_finite(self, bad: float) -> None:
        samples = np.zeros((2, 10), np.float32)
        samples[1, 3:5] = bad
        with pytest.raises(AudioError, match="2 samples that are not finite"):
            Waveform(samples, RATE)

    def test_mono_is_the_mean(self) -> None:
        waveform = Waveform(np.array([[0.5, 0.5], [0.0, -0.5]], np.float32), RATE)
        assert waveform.mono().samples.tolist() == [[0.25, 0.0]]
        assert waveform.mono().n_channels == 1

    @pytest.mark.parametrize("rate", [8000, 11_025, 44_100, 48_000, 96_000])
    def test_resampling_keeps_length_pitch_and_level(self, rate: int) -> None:
        waveform = Waveform(np.concatenate([sine(440, 1.37), sine(1000, 1.37, 0.1)]), RATE)
        out = waveform.resampled(rate)
        assert out.sample_rate == rate
        assert out.n_samples == round(waveform.n_samples * rate / RATE)
        t = np.arange(out.n_samples) / rate
        middle = slice(out.n_samples // 10, -out.n_samples // 10)
        assert np.abs(out.samples[1] - 0.1 * np.sin(2 * np.pi * 1000 * t))[middle].max() < 1e-3
        assert waveform.resampled(RATE) is waveform


class TestLevel:
    def test_rms(self) -> None:
        assert audio.rms_dbfs(np.ones((2, 10), np.float32)) == pytest.approx(0.0)
        assert audio.rms_dbfs(sine(100, 1.0, 0.001)) == pytest.approx(-63.01, abs=0.01)
        assert audio.rms_dbfs(np.zeros((1, 10), np.float32)) == audio.FLOOR_DBFS
        assert audio.db_to_gain(-20) == pytest.approx(0.1)

    @pytest.mark.parametrize("n_channels", [1, 2])
    def test_level_curve(self, n_channels: int) -> None:
        samples = np.concatenate([sine(1000, 0.5, 0.5), np.zeros((1, RATE // 10), np.float32)], axis=1)
        both = np.concatenate([samples, 0 * samples])[:n_channels]
        curve = audio.level_curve_dbfs(both, RATE // 10)
        expected = 20 * np.log10(0.5 / np.sqrt(2 * n_channels))
        np.testing.assert_allclose(curve, [expected] * 5 + [audio.FLOOR_DBFS], atol=1e-6)
        assert np.array_equal(audio.level_curve_dbfs(samples[0], RATE // 10)[:5] > -10, [True] * 5)
        assert len(audio.level_curve_dbfs(both[:, :-1], RATE // 10)) == 5
        assert audio.level_curve_dbfs(both, 10**6) == pytest.approx([audio.rms_dbfs(both)])

    def test_loudness_of_the_standards_sine(self) -> None:
        """A full-scale 997 Hz sine in one channel reads -3.01 LUFS (BS.1770-4)."""
        waveform = Waveform(sine(997, 5.0, rate=48_000), 48_000)
        assert audio.integrated_lufs(waveform) == pytest.approx(-3.01, abs=0.01)

    def test_loudness_of_little_and_of_nothing(self) -> None:
        assert audio.integrated_lufs(Waveform(np.zeros((1, RATE), np.float32), RATE)) == float("-inf")
        short, long = (audio.integrated_lufs(Waveform(sine(997, s, 0.1), RATE)) for s in (0.1, 3.0))
        assert short == pytest.approx(long, abs=0.3)

    def test_true_peak_lies_between_samples(self) -> None:
        """A sine at a quarter of the rate, sampled at 45 degrees, peaks 3 dB above its samples."""
        phase = np.pi / 2 * np.arange(4000) + np.pi / 4
        waveform = Waveform((0.5 * np.sin(phase))[None].astype(np.float32), RATE)
        assert 20 * np.log10(np.abs(waveform.samples).max()) == pytest.approx(-9.03, abs=0.01)
        assert audio.true_peak_dbtp(waveform) == pytest.approx(-6.02, abs=0.3)
        assert audio.true_peak_dbtp(Waveform(np.zeros((1, 10), np.float32), RATE)) == audio.FLOOR_DBFS

    def test_normalised(self) -> None:
        rng = np.random.default_rng(0)
        quiet = Waveform((0.003 * rng.standard_normal((2, 3 * RATE))).astype(np.float32), RATE)
        out = audio.normalised(quiet, lufs=-23.0, true_peak=-1.0)
        assert audio.integrated_lufs(out) == pytest.approx(-23.0, abs=0.1)
        assert audio.true_peak_dbtp(out) <= -1.0
        silent = Waveform(np.zeros((1, RATE), np.float32), RATE)
        assert audio.normalised(silent, -18.0, -1.0) is silent

    @pytest.mark.parametrize("true_peak", [-1.0, -6.0])
    def test_limited_clicks_leave_the_rest_alone(self, true_peak: float) -> None:
        samples = sine(200, 2.0, 0.1)
        samples[0, 24_000:24_010] += 2.5
        out = audio.limited(samples, RATE, true_peak)
        assert audio.true_peak_dbtp(out) <= true_peak
        assert np.array_equal(out.samples[:, :20_000], samples[:, :20_000])
        assert np.array_equal(out.samples[:, 30_000:], samples[:, 30_000:])

    def test_what_is_under_the_limit_is_untouched(self) -> None:
        samples = sine(200, 1.0, 0.5)
        assert np.array_equal(audio.limited(samples, RATE, -1.0).samples, samples)


class TestFiles:
    @pytest.mark.parametrize(("suffix", "tolerance"), [(".wav", 2**-23), (".flac", 2**-23), (".ogg", 0.05)])
    @pytest.mark.parametrize("n_channels", [1, 2])
    def test_round_trip(self, suffix: str, tolerance: float, n_channels: int, tmp_path: Path) -> None:
        waveform = Waveform(np.repeat(sine(440, 1.0, 0.5), n_channels, axis=0), RATE)
        path = tmp_path / f"new folder/sound{suffix}"
        audio.write(path, waveform)
        back = audio.read(path)
        assert (back.sample_rate, back.samples.shape) == (RATE, waveform.samples.shape)
        assert np.abs(back.samples - waveform.samples).max() <= tolerance
        assert [p.name for p in path.parent.iterdir()] == [path.name]

    def test_24_bits_carry_near_silence(self, tmp_path: Path) -> None:
        waveform = Waveform(sine(440, 1.0, 10 ** (-110 / 20)), RATE)
        audio.write(tmp_path / "quiet.wav", waveform)
        assert soundfile.info(tmp_path / "quiet.wav").subtype == "PCM_24"
        assert audio.rms_dbfs(audio.read(tmp_path / "quiet.wav").samples) == pytest.approx(-113.0, abs=0.5)

    @pytest.mark.parametrize(("rate", "n_channels"), [(8000, 1), (192_000, 2), (48_000, 8), (22_050, 6)])
    def test_any_rate_and_channels(self, rate: int, n_channels: int, tmp_path: Path) -> None:
        samples = np.random.default_rng(0).uniform(-0.5, 0.5, (n_channels, rate))
        soundfile.write(tmp_path / "in.wav", samples.T, rate, subtype="PCM_16")
        back = audio.read(tmp_path / "in.wav")
        assert (back.sample_rate, back.n_channels, back.seconds) == (rate, n_channels, 1.0)
        assert np.abs(back.samples - samples).max() < 2**-14

    @pytest.mark.parametrize("name", ["in.mp3", "in.aiff", "in.au", "in.caf", "in.w64"])
    def test_any_format(self, name: str, tmp_path: Path) -> None:
        soundfile.write(tmp_path / name, sine(440, 2.0, 0.5, 44_100).T, 44_100)
        back = audio.read(tmp_path / name)
        assert back.sample_rate == 44_100
        assert back.seconds == pytest.approx(2.0, abs=0.06)
        assert audio.rms_dbfs(back.samples) == pytest.approx(-9.03, abs=0.5)

    def test_overs_are_kept_until_they_are_written(self, tmp_path: Path) -> None:
        soundfile.write(tmp_path / "hot.wav", 3 * sine(440, 1.0).T, RATE, subtype="FLOAT")
        hot = audio.read(tmp_path / "hot.wav")
        assert audio.rms_dbfs(hot.samples) == pytest.approx(20 * np.log10(3) - 3.01, abs=0.01)
        assert np.abs(hot.resampled(48_000).samples).max() > 2.9
        soundfile.write(tmp_path / "hot.mp3", np.sign(sine(440, 1.0)).T, RATE)
        assert np.abs(soundfile.read(tmp_path / "hot.mp3")[0]).max() > 1.05
        assert np.abs(audio.read(tmp_path / "hot.mp3").samples).max() == 1.0
        audio.write(tmp_path / "written.wav", hot)
        assert np.abs(audio.read(tmp_path / "written.wav").samples).max() == pytest.approx(1.0, abs=2**-22)


class TestBadFiles:
    def wav(self, path: Path, seconds: float = 1.0, subtype: str = "PCM_16") -> Path:
        soundfile.write(path, sine(440, seconds, 0.5).T, RATE, subtype=subtype)
        return path

    def test_missing_folder_empty(self, tmp_path: Path) -> None:
        with pytest.raises(AudioError, match="does not exist"):
            audio.read(tmp_path / "none.wav")
        with pytest.raises(AudioError, match="is a folder"):
            audio.read(tmp_path)
        (tmp_path / "empty.wav").touch()
        with pytest.raises(AudioError, match="is empty"):
            audio.read(tmp_path / "empty.wav")

    def test_text_by_the_name_of_wav(self, tmp_path: Path) -> None:
        (tmp_path / "notes.wav").write_text("These are my notes.\n" * 50)
        with pytest.raises(AudioError, match=r"notes\.wav cannot be read as audio"):
            audio.read(tmp_path / "notes.wav")

    @pytest.mark.parametrize("share", [0.03, 0.5, 0.95])
    @pytest.mark.parametrize("suffix", [".wav", ".flac", ".aiff"])
    def test_truncated(self, suffix: str, share: float, tmp_path: Path) -> None:
        whole = tmp_path / f"whole{suffix}"
        soundfile.write(whole, np.random.default_rng(0).uniform(-0.5, 0.5, 3 * RATE), RATE)
        data = whole.read_bytes()
        cut = tmp_path / f"cut{suffix}"
        cut.write_bytes(data[: int(share * len(data))])
        with pytest.raises(AudioError, match=r"is cut: .* s are missing; copy or export it again"):
            audio.read(cut, strict=True)

    def test_a_header_and_no_samples(self, tmp_path: Path) -> None:
        soundfile.write(tmp_path / "none.wav", np.zeros((0, 1)), RATE)
        with pytest.raises(AudioError, match="no samples"):
            audio.read(tmp_path / "none.wav")

    def test_a_streamed_header_promises_nothing(self, tmp_path: Path) -> None:
        """Recorders that write to a pipe leave the lengths open."""
        path = self.wav(tmp_path / "piped.wav")
        data = bytearray(path.read_bytes())
        at = data.index(b"data")
        data[4:8] = data[at + 4 : at + 8] = struct.pack("<I", 0xFFFFFFFF)
        path.write_bytes(data)
        assert audio.read(path).n_samples == RATE

    def test_too_short(self, tmp_path: Path) -> None:
        with pytest.raises(AudioError, match=r"lasts 0\.40 s; expected at least 0\.5 s"):
            audio.read(self.wav(tmp_path / "short.wav", 0.4))
        assert audio.read(self.wav(tmp_path / "enough.wav", 0.5)).seconds == 0.5

    def test_not_finite(self, tmp_path: Path) -> None:
        samples = sine(440, 1.0).T.copy()
        samples[100:103] = np.nan
        soundfile.write(tmp_path / "nan.wav", samples, RATE, subtype="FLOAT")
        with pytest.raises(AudioError, match=r"nan\.wav.*3 samples that are not finite"):
            audio.read(tmp_path / "nan.wav")

    def test_folders(self, tmp_path: Path) -> None:
        with pytest.raises(AudioError, match="holds no audio file"):
            audio.find_audio(tmp_path)
        (tmp_path / "b").mkdir()
        for name in ("b/one.WAV", "two.flac", "notes.txt", ".hidden.wav"):
            (tmp_path / name).touch()
        assert [p.name for p in audio.find_audio(tmp_path)] == ["one.WAV", "two.flac"]


class TestWriting:
    waveform = Waveform(sine(440, 0.5, 0.1), RATE)

    def test_unknown_suffix(self, tmp_path: Path) -> None:
        with pytest.raises(AudioError, match=r"suffix '\.mp4'; expected one of \.wav"):
            audio.write(tmp_path / "out.mp4", self.waveform)

    def test_existing_files_need_force(self, tmp_path: Path) -> None:
        path = tmp_path / "out.wav"
        path.write_text("mine")
        with pytest.raises(AudioError, match="exists already; give --force"):
            audio.write(path, self.waveform)
        assert path.read_text() == "mine"
        audio.write(path, self.waveform, force=True)
        assert audio.read(path).n_samples == self.waveform.n_samples

    def test_a_place_that_cannot_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(AudioError, match="cannot be written"):
            audio.write(tmp_path / "file" / "out.wav", self.waveform)

    def test_whole_or_not_at_all(self, tmp_path: Path) -> None:
        path = tmp_path / "out.wav"
        path.write_text("before")
        with (
            pytest.raises(RuntimeError, match="in the middle"),
            atomic_path(path, force=True) as temporary,
        ):
            temporary.write_text("half")
            raise RuntimeError("in the middle")
        assert path.read_text() == "before"
        assert [p.name for p in tmp_path.iterdir()] == ["out.wav"]

    def test_a_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What libsndfile raises when the disk fills becomes one sentence, and nothing is left behind."""

        def fail(file: soundfile.SoundFile, samples: object) -> None:
            raise soundfile.LibsndfileError(2)

        monkeypatch.setattr(soundfile.SoundFile, "write", fail)
        with pytest.raises(AudioError, match="is the disk full"):
            audio.write(tmp_path / "out.wav", self.waveform)
        assert list(tmp_path.iterdir()) == []
