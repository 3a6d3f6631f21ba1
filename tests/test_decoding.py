"""Recordings of every kind that recorders, phones, pipes and broken copies leave, each written here byte by byte."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile

from silent2music import audio
from silent2music.audio import containers, decoding, mpeg
from silent2music.audio.containers import Spliced, layout
from silent2music.errors import AudioError

RATE = 16_000
SECONDS = 4.0
SAMPLES = (0.1 * np.random.default_rng(0).standard_normal(round(SECONDS * RATE))).astype(np.float32)


def coded(kind: str, subtype: str | None = None, samples: np.ndarray = SAMPLES, **options: object) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples.T, RATE, format=kind, subtype=subtype, **options)
    return file.getvalue()


def at(data: bytes, place: int, new: bytes) -> bytes:
    """The same bytes with some replaced."""
    return data[:place] + new + data[place + len(new) :]


def data_chunk(data: bytes, name: bytes = b"data") -> int:
    return data.index(name) + 4


def opened(path: Path, data: bytes) -> audio.Recorded:
    path.write_bytes(data)
    room = audio.open_recording(path)
    assert np.array_equal(audio.read(path).downmix().samples, room.slice(0, room.n_samples))
    return room


def is_whole(room: audio.Recorded, seconds: float = SECONDS, tolerance: float = 1e-9) -> None:
    assert room.seconds == pytest.approx(seconds, abs=tolerance)
    assert room.notes == ()


def frames_of(data: bytes) -> list[bytes]:
    """The frames of an MP3 file, the one that holds its length among them."""
    found, place = [], 0
    while (frame := mpeg.frame_at(data, place)) is not None:
        found.append(data[place : place + frame.n_bytes])
        place += frame.n_bytes
    return found


def mp3(**options: object) -> list[bytes]:
    frames = frames_of(coded("MP3", **options))
    assert b"Xing" in frames[0] or b"Info" in frames[0]
    return frames


class TestLengthsThatAreNoPromise:
    @pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFDB, 0xFFFFFFFF])
    @pytest.mark.parametrize("before", [b"", b"JUNK" + struct.pack("<I", 4000) + bytes(4000)])
    def test_wav(self, size: int, before: bytes, tmp_path: Path) -> None:
        data = coded("WAV", "PCM_16")
        place = data_chunk(data)
        data = (
            data[: place - 4] + before + data[place - 4 : place] + struct.pack("<I", size) + data[place + 4 :]
        )
        is_whole(opened(tmp_path / "a.wav", data))

    def test_an_empty_wav_stays_empty(self, tmp_path: Path) -> None:
        data = coded("WAV", "PCM_16", SAMPLES[:0])
        data += b"LIST" + struct.pack("<I", 4 * RATE) + bytes(4 * RATE)
        with pytest.raises(AudioError, match="holds no samples"):
            opened(tmp_path / "a.wav", data)

    @pytest.mark.parametrize("size", [0, 2**64 - 1])
    def test_rf64(self, size: int, tmp_path: Path) -> None:
        is_whole(opened(tmp_path / "a.wav", at(coded("RF64", "PCM_24"), 28, struct.pack("<Q", size))))

    @pytest.mark.parametrize("after", [b"", b"LIST" + struct.pack("<I", 4 * RATE) + bytes(4 * RATE)])
    def test_bw64(self, after: bytes, tmp_path: Path) -> None:
        is_whole(opened(tmp_path / "a.wav", at(coded("RF64", "PCM_24"), 0, b"BW64") + after))

    @pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
    def test_aiff(self, size: int, tmp_path: Path) -> None:
        data = coded("AIFF", "PCM_16")
        is_whole(opened(tmp_path / "a.aiff", at(data, data_chunk(data, b"SSND"), struct.pack(">I", size))))

    @pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
    @pytest.mark.parametrize("endian", ["BIG", "LITTLE"])
    def test_au(self, size: int, endian: str, tmp_path: Path) -> None:
        data = coded("AU", "PCM_16", endian=endian)
        order = ">I" if endian == "BIG" else "<I"
        is_whole(opened(tmp_path / "a.au", at(data, 8, struct.pack(order, size))))

    def test_caf(self, tmp_path: Path) -> None:
        data = coded("CAF", "PCM_16")
        is_whole(opened(tmp_path / "a.caf", at(data, data_chunk(data), b"\xff" * 8)))

    @pytest.mark.parametrize("size", [0, 10, 24, 2**64 - 1])
    def test_w64(self, size: int, tmp_path: Path) -> None:
        data = coded("W64", "PCM_16")
        is_whole(opened(tmp_path / "a.w64", at(data, data_chunk(data) + 12, struct.pack("<Q", size))))

    @pytest.mark.parametrize("tag", [b"", mpeg.ID3])
    def test_flac(self, tag: bytes, tmp_path: Path) -> None:
        data = coded("FLAC")
        data = at(data, 21, bytes([data[21] & 0xF0, 0, 0, 0, 0]))
        is_whole(opened(tmp_path / "a.flac", tag + data))

    def test_chained_ogg(self, tmp_path: Path) -> None:
        once = coded("OGG", "VORBIS")
        is_whole(opened(tmp_path / "a.ogg", once + coded("OGG", "VORBIS", SAMPLES[::2])), 1.5 * SECONDS)

    def test_chained_ogg_of_other_rates_and_channels(self, tmp_path: Path) -> None:
        other = io.BytesIO()
        soundfile.write(other, np.stack([SAMPLES, SAMPLES], 1), 2 * RATE, format="OGG", subtype="VORBIS")
        data = coded("OGG", "OPUS") + other.getvalue()
        room = opened(tmp_path / "a.ogg", data)
        is_whole(room, 1.5 * SECONDS, 0.05)
        assert room.sample_rate == RATE


class TestMp3:
    @pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
    @pytest.mark.parametrize("tail", ["", "ID3v1", "APE", "junk"])
    @pytest.mark.parametrize("head", ["", "ID3v2", "junk"])
    def test_without_a_length(self, mode: str, tail: str, head: str, tmp_path: Path) -> None:
        frames = mp3(bitrate_mode=mode)[1:]
        junk = np.random.default_rng(1).bytes(3000)
        tags = {"": b"", "ID3v1": b"TAG".ljust(128, b"\0"), "ID3v2": mpeg.ID3, "junk": junk}
        tags["APE"] = (
            b"APETAGEX" + struct.pack("<4I", 2000, 100, 1, 0xA0000000) + bytes(8) + b"\xff\xfb\x90\x00" * 500
        )
        expected = len(frames) * 576 / RATE
        is_whole(opened(tmp_path / "a", tags[head] + b"".join(frames) + tags[tail]), expected)

    def test_its_own_length_is_kept(self, tmp_path: Path) -> None:
        """With it come the encoder's delay and padding: the decoded samples are as many as the coded ones."""
        is_whole(opened(tmp_path / "a.mp3", coded("MP3")))

    def test_joined_files(self, tmp_path: Path) -> None:
        once = coded("MP3")
        is_whole(opened(tmp_path / "a.mp3", once + b"TAG".ljust(128, b"\0") + mpeg.ID3 + once), 2 * SECONDS)

    def test_another_kind_follows(self, tmp_path: Path) -> None:
        other = io.BytesIO()
        soundfile.write(other, np.stack([SAMPLES, SAMPLES], 1), 2 * RATE, format="MP3")
        data = b"".join(mp3()[1:]) + b"".join(frames_of(other.getvalue())[1:])
        is_whole(opened(tmp_path / "a.mp3", data), 1.5 * SECONDS, 0.3)

    def test_a_length_that_is_wrong(self, tmp_path: Path) -> None:
        frames = mp3()
        expected = 2 * (len(frames) - 1) * 576 / RATE
        is_whole(opened(tmp_path / "a.mp3", b"".join(frames + frames[1:])), expected)

    @pytest.mark.parametrize("length", ["none", "true", "too long"])
    def test_inside_wav(self, length: str, tmp_path: Path) -> None:
        data = b"".join(mp3()[1:])
        form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, RATE, 4000, 1, 0, 12, 1, 2, 144, 1, 0)
        n_promised = {"none": 0xFFFFFFFF, "true": len(data), "too long": 2 * len(data)}[length]
        parts = (b"fmt ", len(form), form, b"fact", 4, struct.pack("<I", 10**6), b"data", n_promised)
        head = b"RIFF\0\0\0\0WAVE" + b"".join(
            p if isinstance(p, bytes) else struct.pack("<I", p) for p in parts
        )
        room = opened(tmp_path / "a.wav", head + data)
        assert room.seconds == pytest.approx(SECONDS, abs=0.15)
        assert len(room.notes) == (length == "too long")

    def test_a_cut_one_says_how_much_is_missing(self, tmp_path: Path) -> None:
        frames = mp3()
        room = opened(tmp_path / "a.mp3", b"".join(frames[: len(frames) // 2]))
        assert room.seconds == pytest.approx(SECONDS / 2, abs=0.1)
        assert "is cut: 2.0" in room.notes[0]
        is_whole(opened(tmp_path / "b.mp3", b"".join(frames)[:-1]), SECONDS, 0.04)

    def test_layers(self) -> None:
        """Frame lengths of ISO/IEC 11172-3, 2.4.3.1 and 13818-3: 144 (or 72, or 48) times bit rate by rate."""
        frames = {
            b"\xff\xfb\x90\x00": (417, 1152, (1, 3, 44_100, 2)),
            b"\xff\xfb\x92\xc0": (418, 1152, (1, 3, 44_100, 1)),
            b"\xff\xf3\x88\x00": (288, 576, (2, 3, 16_000, 2)),
            b"\xff\xe3\x88\x00": (576, 576, (2.5, 3, 8_000, 2)),
            b"\xff\xfd\xa4\x00": (576, 1152, (1, 2, 48_000, 2)),
            b"\xff\xff\xc4\x00": (384, 384, (1, 1, 48_000, 2)),
        }
        for header, expected in frames.items():
            assert mpeg.frame_at(header, 0) == expected
        for no_frame in (
            b"\xff\xfb\xf0\x00",
            b"\xff\xf9\x90\x00",
            b"\xff\xfb\x9c\x00",
            b"\xff\xeb\x90\x00",
            b"\xff",
        ):
            assert mpeg.frame_at(no_frame, 0) is None


CUT = {
    "wav": lambda: coded("WAV", "PCM_16"),
    "float.wav": lambda: coded("WAV", "FLOAT"),
    "adpcm.wav": lambda: coded("WAV", "IMA_ADPCM"),
    "rf64.wav": lambda: coded("RF64", "PCM_24"),
    "bw64.wav": lambda: at(coded("RF64", "PCM_24"), 0, b"BW64"),
    "w64": lambda: coded("W64", "PCM_16"),
    "aiff": lambda: coded("AIFF", "PCM_16"),
    "au": lambda: coded("AU", "PCM_16"),
    "caf": lambda: coded("CAF", "PCM_16"),
    "flac": lambda: coded("FLAC"),
    "mp3": lambda: coded("MP3"),
}


class TestCutFiles:
    @pytest.mark.parametrize("kind", CUT)
    def test_what_is_there_is_used(self, kind: str, tmp_path: Path) -> None:
        path, data = tmp_path / f"a.{kind}", CUT[kind]()
        assert opened(path, data).notes == ()
        room = opened(path, data[: len(data) // 2])
        assert room.seconds == pytest.approx(SECONDS / 2, abs=0.3)
        missing = SECONDS - room.seconds
        # Of codecs whose bytes are no measure of time the header tells the length less exactly.
        said, of = (float(word) for word in room.notes[0].split()[2:5:2])
        assert said == pytest.approx(missing, abs=0.1)
        assert of == pytest.approx(SECONDS, abs=0.1)
        assert room.notes[0].endswith("s are missing; what is there is used")
        for reader in (audio.read, audio.open_recording):
            with pytest.raises(
                AudioError, match=r"is cut: .* missing; copy or export it again, or leave out --strict"
            ):
                reader(path, strict=True)

    @pytest.mark.parametrize("kind", CUT)
    @pytest.mark.parametrize("n_missing", [1, 3])
    def test_a_byte_or_a_part_of_a_frame_is_nothing_to_speak_of(
        self, kind: str, n_missing: int, tmp_path: Path
    ) -> None:
        path = tmp_path / f"a.{kind}"
        data = CUT[kind]()
        whole = opened(path, data).seconds
        path.write_bytes(data[:-n_missing])
        room = audio.open_recording(path, strict=True)
        assert SECONDS - 0.3 <= room.seconds <= whole + 1e-9
        assert room.notes == ()

    @pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
    def test_ogg_knows_of_its_last_page_alone(self, subtype: str, tmp_path: Path) -> None:
        data = coded("OGG", subtype)
        pages = [i for i in range(len(data)) if data.startswith(b"OggS", i)]
        assert len(pages) > 4
        whole = opened(tmp_path / "a.ogg", data)
        is_whole(whole)
        room = opened(tmp_path / "b.ogg", data[: pages[-2] + 200])
        assert room.notes[0].startswith("is cut: after ")
        said = float(room.notes[0].split()[7])
        assert 0.1 < said <= whole.seconds - room.seconds + 0.01
        room = opened(tmp_path / "c.ogg", data[: pages[-1]])
        assert room.notes[0].startswith("breaks off: its stream was not ended")
        with pytest.raises(AudioError, match="breaks off"):
            audio.read(tmp_path / "c.ogg", strict=True)

    def test_flac_that_is_damaged_in_the_middle(self, tmp_path: Path) -> None:
        data = coded("FLAC")
        room = opened(tmp_path / "a.flac", at(data, len(data) // 2, bytes(3000)))
        assert 1.5 < room.seconds < SECONDS / 2 + 0.1
        assert "s are missing" in room.notes[0]
        assert np.abs(room.slice(0, RATE)[0] - SAMPLES[:RATE]).max() < 2**-15


class TestOtherKinds:
    def test_gsm(self, tmp_path: Path) -> None:
        """It cannot seek, which soundfile asks of it after every block."""
        is_whole(opened(tmp_path / "a.wav", coded("WAV", "GSM610")), SECONDS, 0.03)

    def test_the_content_counts_and_not_the_name(self, tmp_path: Path) -> None:
        for name, data in (("a.raw", coded("WAV")), ("b.wav", coded("MP3")), ("c.mp3", coded("FLAC"))):
            assert opened(tmp_path / name, data).seconds == pytest.approx(SECONDS, abs=1e-9)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_values_that_are_no_samples(self, bad: float, tmp_path: Path) -> None:
        samples = SAMPLES.copy()
        samples[[7, -7]] = bad
        path = tmp_path / "a.wav"
        path.write_bytes(coded("WAV", "FLOAT", samples))
        for reader in (audio.read, audio.open_recording):
            with pytest.raises(AudioError, match=r"holds 2 samples that are not finite \(NaN or infinite\)"):
                reader(path)
        path.write_bytes(coded("WAV", "FLOAT", np.where(np.arange(len(SAMPLES)) == 9, 1e20, SAMPLES)))
        with pytest.raises(AudioError, match=r"holds samples of 1e\+20; expected about 1"):
            audio.read(path)

    def test_levels_beyond_full_scale_are_kept(self, tmp_path: Path) -> None:
        room = opened(tmp_path / "a.wav", coded("WAV", "FLOAT", 300 * SAMPLES))
        assert np.allclose(room.slice(0, 100)[0], 300 * SAMPLES[:100])

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(AudioError, match="is no file but a pipe or a device"):
            audio.read(Path("/dev/zero") if sys.platform != "win32" else Path("NUL"))
        with pytest.raises(AudioError, match=r"cannot be opened \(.*name"):
            audio.read(tmp_path / ("a" * 300))
        with pytest.raises(AudioError, match="has one track; expected track 1, not 3"):
            opened(tmp_path / "a.wav", coded("WAV"))
            audio.read(tmp_path / "a.wav", track=2)


HEADS = {
    "MP4, MOV or M4A": b"\0\0\0\x20ftypM4A ",
    "Matroska or WebM": b"\x1a\x45\xdf\xa3",
    "WMA or WMV": b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
    "AC-3": b"\x0b\x77",
    "AAC": b"\xff\xf1\x50\x80",
}


class TestVideo:
    @pytest.mark.parametrize("kind", HEADS)
    def test_without_pyav_it_says_what_to_install(
        self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "av", None)
        path = tmp_path / "a.bin"
        path.write_bytes(HEADS[kind].ljust(4000, b"\x55"))
        with pytest.raises(
            AudioError, match=rf"a\.bin is {kind}, which needs PyAV; install it with: pip install"
        ):
            audio.read(path)
        path.write_text("These are my notes.\n" * 50)
        with pytest.raises(
            AudioError, match=r"cannot be read as audio \(Format not recognised\); .* install PyAV"
        ):
            audio.read(path)

    def test_folders_are_searched_for_it_where_it_can_be_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "a.m4a").touch()
        monkeypatch.setattr(audio.finding, "find_spec", lambda name: None)
        with pytest.raises(
            AudioError, match=r"holds no audio file; .*; for \.mp4.* install PyAV with: pip install"
        ):
            audio.find_audio(tmp_path)
        monkeypatch.setattr(audio.finding, "find_spec", lambda name: name)
        assert [p.name for p in audio.find_audio(tmp_path)] == ["a.m4a"]

    @pytest.mark.skipif(not find_spec("av") or not shutil.which("ffmpeg"), reason="needs PyAV and ffmpeg")
    @pytest.mark.parametrize(
        "name", ["a.m4a", "a.mov", "a.mkv", "a.webm", "a.wma", "a.aac", "a.ac3", "a.mp4"]
    )
    def test_its_sound_is_decoded(self, name: str, tmp_path: Path) -> None:
        wav, path = tmp_path / "a.wav", tmp_path / name
        wav.write_bytes(coded("WAV"))
        run = ["ffmpeg", "-v", "error", "-i", str(wav)]
        options: list[str] = ["-ar", "48000"] if name.endswith(("webm", "ac3")) else []
        if name == "a.mp4":  # a picture and a second, shorter track
            run += ["-t", "2", "-i", str(wav), "-f", "lavfi", "-i", "color=s=16x16:r=5:d=4"]
            options = ["-map", "2:v", "-map", "0:a", "-map", "1:a", "-movflags", "+faststart"]
        subprocess.run([*run, *options, str(path)], check=True)
        room = audio.open_recording(path)
        is_whole(room, SECONDS, 0.15)
        assert audio.rms_dbfs(room.slice(0, room.n_samples)) == pytest.approx(-20.0, abs=3.0)
        if name == "a.mp4":
            assert audio.read(path, track=1).seconds == pytest.approx(2.0, abs=0.15)
            with pytest.raises(AudioError, match="has 2 sound tracks; there is no track 3"):
                audio.read(path, track=2)
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            assert "is cut" in audio.read(path).notes[0]


def test_spliced_files_are_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(100)))
    parts: containers.Parts = (b"abc", (10, 20), (50, 50), b"d", (90, 100), 10_000)
    whole = b"abc" + bytes(range(10, 20)) + b"d" + bytes(range(90, 100))
    with (tmp_path / "a").open("rb") as file:
        spliced = Spliced(file, parts)
        assert spliced.read() == whole
        for place in (0, 2, 3, 12, 13, 14, 23, 24, 40):
            assert spliced.seek(place) == spliced.tell() == place
            assert spliced.read(7) == whole[place : place + 7]
        assert spliced.seek(-3, io.SEEK_END) == 10_021
        assert spliced.read() == bytes(3)
        assert spliced.seek(1, io.SEEK_CUR) == 10_025


@pytest.mark.parametrize("kind", CUT)
def test_damaged_headers_give_sound_or_one_sentence(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    data, path = CUT[kind](), tmp_path / f"a.{kind}"
    for _ in range(30):
        damaged = bytearray(data[: 2 * RATE])
        for place in rng.integers(0, 100, 3):
            damaged[place] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256))])
        path.write_bytes(damaged)
        try:
            assert audio.read(path).seconds >= audio.MIN_SECONDS
        except AudioError as error:
            assert "\n" not in str(error)


def test_a_minute_of_64_channels_needs_little_memory(tmp_path: Path) -> None:
    """It is 184 MiB of samples at this rate, of which neither half may be held."""
    import tracemalloc

    path = tmp_path / "a.wav"
    block = np.stack([SAMPLES[:RATE]] * 32 + [-SAMPLES[:RATE]] * 32)
    block_bytes = np.round(block.T * 32767).astype("<i2").tobytes()
    path.write_bytes(
        at(coded("WAV", "PCM_16", block[:, :1]), 40, struct.pack("<I", 45 * len(block_bytes)))[:44]
    )
    with path.open("ab") as file:
        file.writelines(block_bytes for _ in range(45))
    tracemalloc.start()
    room = audio.open_recording(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (room.seconds, room.recorded_channels, room.n_channels) == (45.0, 64, 1)
    assert peak < 80 * 2**20
    assert audio.rms_dbfs(room.slice(0, RATE)) == pytest.approx(audio.rms_dbfs(SAMPLES[:RATE]), abs=0.01)


def test_videos_are_decoded_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What PyAV gives, frame by frame, is joined to blocks; a fault ends it."""
    if not find_spec("av"):
        pytest.skip("needs PyAV")
    import av

    def frames(n_frames: int) -> Callable[[], object]:
        for i in range(n_frames):
            frame = av.AudioFrame.from_ndarray(np.full((2, 1000), i, np.float32), "fltp", "stereo")
            frame.sample_rate = RATE
            yield frame
        raise av.InvalidDataError(1, "broken")

    monkeypatch.setattr(decoding, "block_samples", lambda n_channels: 2500)
    source = frames(7)
    blocks = list(decoding._video_blocks(next(source), source))
    assert [block.shape for block in blocks] == [(2, 2500), (2, 2500), (2, 2000)]
    assert np.array_equal(np.concatenate(blocks, axis=1)[1], np.repeat(np.arange(7), 1000))


@pytest.mark.parametrize("n_channels", [2, 6])
def test_channels_are_mixed_as_they_are_read(tmp_path: Path, n_channels: int) -> None:
    samples = np.stack([np.roll(SAMPLES, i) for i in range(n_channels)])
    audio.write(tmp_path / "a.wav", audio.Waveform(np.tile(samples, 9), RATE))
    mixed = audio.read(tmp_path / "a.wav", mono=True)
    assert np.array_equal(mixed.samples, audio.read(tmp_path / "a.wav").mono().samples)
    assert (mixed.n_channels, mixed.recorded_channels) == (1, n_channels)


@pytest.mark.skipif(sys.platform == "win32", reason="a file of zeros takes 4 GiB there")
def test_a_wav_file_of_more_than_4_gib_of_unknown_length(tmp_path: Path) -> None:
    """A pipe's length is 0xFFFFFFFF; what is beyond it, the last bytes here, is sound as well."""
    path, n_frames = tmp_path / "long.wav", 2**30 + 1000
    head = at(coded("WAV", "PCM_16", np.stack([SAMPLES, SAMPLES])), 40, b"\xff" * 4)[:44]
    with path.open("wb") as file:
        file.write(head)
        file.truncate(44 + 4 * n_frames)
        file.seek(-400, 2)
        file.write(b"\x11" * 400)
    (parts,) = layout(path).pieces
    with path.open("rb") as file, soundfile.SoundFile(Spliced(file, parts)) as sound:
        assert sound.frames == n_frames
        sound.seek(n_frames - 101)
        assert sound.read(200)[:, 0].tolist() == [0.0] + [0x1111 / 2**15] * 100
