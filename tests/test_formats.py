"""What engines read of the files: chunks, tags and exact sample counts, by readers that are not this package's."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from pathlib import Path

import mutagen
import numpy as np
import pytest
import soundfile

from silent2music.audio import Waveform
from silent2music.export.ambience.writing import quantised, write_loop

N = 44_111
BARS = (0, 22_056)
RECORD = {"seed": 7}


def written(folder: Path, suffix: str, n_channels: int = 2, rate: int = 44_100) -> tuple[Path, np.ndarray]:
    noise = 0.1 * np.random.default_rng(0).standard_normal((n_channels, N))
    samples = quantised(noise.astype(np.float32), seed=3)
    path = folder / f"loop.{suffix}"
    write_loop(path, Waveform(samples, rate), BARS, RECORD)
    return path, samples


def chunks(path: Path) -> dict[bytes, bytes]:
    """The chunks of a RIFF file, strictly: sizes must meet the file's end."""
    data = path.read_bytes()
    assert data[:4] == b"RIFF"
    assert data[8:12] == b"WAVE"
    assert struct.unpack("<I", data[4:8])[0] == len(data) - 8
    found, at = {}, 12
    while at < len(data):
        name, size = data[at : at + 4], struct.unpack("<I", data[at + 4 : at + 8])[0]
        found[name] = data[at + 8 : at + 8 + size]
        assert len(found[name]) == size
        at += 8 + size + size % 2
    assert at == len(data)
    return found


@pytest.mark.parametrize("n_channels", [1, 2, 4])
def test_wav_has_one_endless_region_and_its_bars(tmp_path: Path, n_channels: int) -> None:
    path, _ = written(tmp_path, "wav", n_channels)
    found = chunks(path)
    assert struct.unpack("<HHIIHH", found[b"fmt "][:16])[1:] == (
        n_channels,
        44_100,
        44_100 * 3 * n_channels,
        3 * n_channels,
        24,
    )
    assert len(found[b"data"]) == N * 3 * n_channels
    header = struct.unpack("<9I", found[b"smpl"][:36])
    assert (header[2], header[7], header[8]) == (22_676, 1, 0)
    _, kind, start, end, fraction, count = struct.unpack("<6I", found[b"smpl"][36:])
    assert (kind, start, end, fraction, count) == (0, 0, N - 1, 0, 0)
    (n_points,) = struct.unpack("<I", found[b"cue "][:4])
    points = [struct.unpack("<II4sIII", found[b"cue "][4 + 24 * i : 28 + 24 * i]) for i in range(n_points)]
    assert [(p[2], p[5]) for p in points] == [(b"data", bar) for bar in BARS]
    assert len({p[0] for p in points}) == n_points


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_other_readers_find_every_sample_and_tag(tmp_path: Path, suffix: str) -> None:
    path, samples = written(tmp_path, suffix)
    info = soundfile.info(path)
    assert (info.frames, info.samplerate, info.channels) == (N, 44_100, 2)
    tags = mutagen.File(path).tags
    if suffix == "wav":
        assert json.loads(str(tags["TXXX:S2M_PROVENANCE"].text[0])) == RECORD
    else:
        assert (tags["LOOPSTART"], tags["LOOPLENGTH"], tags["BARS"]) == (["0"], [str(N)], ["0 22056"])
        assert json.loads(tags["S2M_PROVENANCE"][0]) == RECORD
    back = soundfile.read(path, dtype="int32")[0].T
    if suffix == "ogg":
        assert np.corrcoef(back[0], samples[0])[0, 1] > 0.5  # noise, of which Vorbis keeps little
    else:
        steps = np.rint(samples.astype(np.float64) * 2**23).astype(np.int64)
        assert np.array_equal(back >> 8, steps)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_ffprobe_reads_every_format(tmp_path: Path, suffix: str) -> None:
    if shutil.which("ffprobe") is None:
        pytest.skip("ffprobe is not installed")
    path, _ = written(tmp_path, suffix, rate=48_000)
    command = [
        "ffprobe",
        "-v",
        "error",
        "-show_entries",
        "stream=sample_rate,channels,duration_ts",
        "-of",
        "json",
    ]
    done = subprocess.run([*command, path], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    (stream,) = json.loads(done.stdout)["streams"]
    assert (stream["sample_rate"], stream["channels"], stream["duration_ts"]) == ("48000", 2, N)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_the_same_sound_gives_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert written(tmp_path / "a", suffix)[0].read_bytes() == written(tmp_path / "b", suffix)[0].read_bytes()
