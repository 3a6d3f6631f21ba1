from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path

import mutagen
import numpy as np
import pytest

from silent2music import audio
from silent2music.errors import AudioError
from silent2music.export import provenance


def read_tag(path: Path) -> dict[str, object]:
    """The record in a file's tags, by another reader than the writer's."""
    tags = mutagen.File(path).tags
    if path.suffix == ".m4a":
        return json.loads(bytes(tags[f"----:silent2music:{provenance.TAG}"][0]))
    found = tags[f"TXXX:{provenance.TAG}"].text if path.suffix in (".wav", ".mp3") else tags[provenance.TAG]
    return json.loads(str(found[0]))


SUFFIXES = [".wav", ".flac", ".ogg", ".mp3", *([".m4a"] if find_spec("av") else [])]
RECORD = {"settings": {"seed": 7}, "input": {"file": "Küche.wav"}}


def tone(path: Path) -> Path:
    t = np.arange(24_000) / 24_000
    samples = 0.1 * np.sin(2 * np.pi * 440 * t)[None].astype(np.float32)
    audio.write(path, audio.Waveform(samples, 24_000), force=True)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_tags_come_back_and_the_sound_stays(tmp_path: Path, suffix: str) -> None:
    path = tone(tmp_path / f"tone{suffix}")
    before = audio.read(path).samples
    provenance.write_tags(path, RECORD)
    assert read_tag(path) == RECORD
    np.testing.assert_array_equal(audio.read(path).samples, before)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_tagged_files_have_the_same_bytes_every_time(tmp_path: Path, suffix: str) -> None:
    first, second = tone(tmp_path / f"a{suffix}"), tone(tmp_path / f"b{suffix}")
    for path in (first, second):
        provenance.write_tags(path, RECORD)
    assert first.read_bytes() == second.read_bytes()


def test_wav_stays_a_riff_file_whose_length_is_right(tmp_path: Path) -> None:
    path = tone(tmp_path / "tone.wav")
    provenance.write_tags(path, RECORD)
    data = path.read_bytes()
    assert data[:4] == b"RIFF"
    assert int.from_bytes(data[4:8], "little") == len(data) - 8


def test_tagging_what_cannot_be_tagged_is_an_audio_error(tmp_path: Path) -> None:
    path = tmp_path / "text.flac"
    path.write_text("no audio")
    with pytest.raises(AudioError, match="cannot be tagged"):
        provenance.write_tags(path, RECORD)


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc" * 100_000)
    assert provenance.sha256(path) == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_record_text_refuses_what_json_cannot_hold() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        provenance.to_text({"lufs": float("-inf")})


def test_a_file_says_whether_it_is_ours(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        path = tone(tmp_path / f"tone{suffix}")
        assert not provenance.is_ours(path)
        provenance.write_tags(path, RECORD)
        assert provenance.is_ours(path)
    cut, record = tone(tmp_path / "cut.wav"), tmp_path / "cut.json"
    for text in ("", "[]", "{}", '{"versions": {"silent2music": "0"}}', '{"versions": 3}'):
        record.write_text(text)
        assert not provenance.is_ours(cut)
        assert provenance.is_ours(record) == ("0" in text)
    record.write_text('{"versions": {"silent2music": "0"}, "output": {"file": "cut.wav"}}')
    assert provenance.is_ours(cut)
    assert not provenance.is_ours(tmp_path / "none.wav")


def test_a_tag_across_two_reads_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "SCANNED_BYTES", 32)
    for before in range(20, 34):
        (tmp_path / "x.ogg").write_bytes(b"x" * before + provenance.TAG.encode() + b"x" * 50)
        assert provenance.is_ours(tmp_path / "x.ogg"), before
