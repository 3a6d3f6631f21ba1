"""Long recordings wait in a file, and are heard as if they were in memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rooms import RATE, steps_room

from silent2music import audio, listening
from silent2music.acoustics import analyze, boundaries
from silent2music.acoustics.spectra import FRAME_RATE, N_BANDS
from silent2music.audio import Recording, Waveform
from silent2music.config import AmbientConfig, ModelConfig
from silent2music.errors import AudioError

CONFIG = AmbientConfig(dim=16, n_layers=2, n_mels=8, n_fft=512, n_global_tokens=1)


@pytest.fixture
def short_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything over a second is long, and blocks and windows are short."""
    monkeypatch.setattr(audio.formats, "WHOLE_SECONDS", 1.0)
    monkeypatch.setattr(audio.waveform, "BLOCK_SAMPLES", 5000)
    monkeypatch.setattr(audio.waveform, "IN_MEMORY_BYTES", 10_000)
    monkeypatch.setattr(listening, "WINDOW_SECONDS", 6.0)
    monkeypatch.setattr(listening, "OVERLAP_SECONDS", 2.0)


def stereo(seconds: float) -> np.ndarray:
    left = steps_room(seconds, interval=0.7, level_dbfs=-40.0)
    return np.concatenate([left, 0.5 * steps_room(seconds, interval=0.3, level_dbfs=-40.0)])


def both(path: Path, samples: np.ndarray) -> tuple[Waveform, Recording]:
    audio.write(path, Waveform(samples, RATE))
    recording = audio.open_recording(path)
    assert isinstance(recording, Recording)
    return audio.read(path), recording


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_a_recording_is_the_file_stretch_by_stretch(
    tmp_path: Path, short_recordings: None, suffix: str
) -> None:
    stereo_file, recording = both(tmp_path / f"room{suffix}", stereo(3.1))
    whole = stereo_file.downmix()
    assert (recording.n_channels, recording.recorded_channels) == (1, 2)
    assert (recording.n_samples, recording.seconds) == (whole.n_samples, whole.seconds)
    for begin, end in ((0, 10), (4_990, 5_010), (20_000, 10**9), (0, whole.n_samples)):
        assert np.array_equal(recording.slice(begin, end), whole.slice(begin, end))


def test_a_recording_of_several_channels_is_mixed_down_as_in_memory(short_recordings: None) -> None:
    samples = stereo(3.1)
    recording = Recording(2, RATE)
    recording.append(samples)
    mixed, whole = recording.downmix(), Waveform(samples, RATE).downmix()
    assert (mixed.n_channels, mixed.recorded_channels, mixed.notes) == (1, 2, whole.notes)
    assert np.array_equal(mixed.slice(0, 10**9), whole.samples)
    assert mixed.downmix() is mixed


def test_a_short_one_is_read_whole(tmp_path: Path) -> None:
    audio.write(tmp_path / "room.wav", Waveform(stereo(0.8), RATE))
    assert isinstance(audio.open_recording(tmp_path / "room.wav"), Waveform)


def test_what_cannot_be_heard_is_refused_as_ever(tmp_path: Path, short_recordings: None) -> None:
    path = tmp_path / "room.wav"
    audio.write(path, Waveform(stereo(3.0), RATE))
    path.write_bytes(path.read_bytes()[:-50_000])
    with pytest.raises(AudioError, match=r"is cut: 0\.35 of 3\.00 s are missing"):
        audio.open_recording(path, strict=True)
    broken = stereo(3.0).T
    broken[60_000] = np.nan
    soundfile.write(path, broken, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match="not finite"):
        audio.open_recording(path)
    path.write_bytes(b"no sound")
    with pytest.raises(AudioError, match="cannot be read as audio"):
        audio.open_recording(path)


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    recording = Recording(1, RATE)

    def full(data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recording._file, "write", full)
    with pytest.raises(AudioError, match=r"No space left on device.*TMPDIR"):
        recording.append(np.zeros((1, 10), np.float32))


@pytest.mark.parametrize("seconds", [13.0, 20.0])
def test_it_is_heard_bit_for_bit(tmp_path: Path, short_recordings: None, seconds: float) -> None:
    """Also where it is repeated, beyond its 13 s."""
    whole, recording = both(tmp_path / "room.wav", stereo(13.0))
    config = ModelConfig(ambient=CONFIG)
    pieces = (list(listening.listen(room, seconds, config)) for room in (whole, recording))
    n_steps = 0
    for expected, found in zip(*pieces, strict=True):
        assert expected.along.keys() | expected.whole.keys() == {"room_frames", "room_scalars"}
        assert np.array_equal(expected.along["room_frames"], found.along["room_frames"])
        assert np.array_equal(expected.whole["room_scalars"], found.whole["room_scalars"])
        n_steps += found.n_frames
    assert n_steps == seconds * CONFIG.frame_rate


def test_its_profile_is_that_of_the_whole(tmp_path: Path, short_recordings: None) -> None:
    whole, recording = both(tmp_path / "room.wav", stereo(13.0))
    assert analyze(recording) == analyze(whole)


def test_evidence_of_changes_does_not_depend_on_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    bands = rng.exponential(size=(int(90 * FRAME_RATE), N_BANDS)).astype(np.float32)
    bands[int(45 * FRAME_RATE) :, :10] *= 30
    cells = bands.reshape(-1, 10, N_BANDS)
    whole = boundaries.evidence(cells)
    monkeypatch.setattr(boundaries, "PIECE_CELLS", 400)
    for name, curve in boundaries._evidence_by_pieces(cells).items():
        np.testing.assert_allclose(curve, whole[name], atol=1e-6, rtol=1e-6, err_msg=name)


def test_a_long_recording_needs_little_memory(tmp_path: Path) -> None:
    """Ten minutes in stereo are 110 MiB of samples: neither they nor half a copy may be held."""
    path = tmp_path / "room.wav"
    lap = stereo(20.0)
    audio.write_blocks(path, (lap for _ in range(30)), RATE, 2)
    tracemalloc.start()
    recording = audio.open_recording(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert recording.seconds == 600.0
    assert peak < 30 * 2**20
