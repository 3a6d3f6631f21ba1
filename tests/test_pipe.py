"""Music to a pipe, while it is made."""

import errno
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rooms import RATE, steps_room

from silent2music import audio
from silent2music.config import DeliveryConfig, SamplingConfig
from silent2music.errors import AudioError, ConfigError
from silent2music.export.batch import Job
from silent2music.export.infer import infer
from silent2music.export.models import LazyModel, Request
from silent2music.export.streaming import LIVE, check_pipes, heard, send, wav_header
from silent2music.model import Silent2Music

SAMPLING = SamplingConfig(seed=3, guidance=1.5)


PLAIN = DeliveryConfig(24_000, mono=True, fade_out=0.0)


def sent(room_file, model_folder, source=b"", seconds=None, raw=False, delivery=PLAIN):
    sink = io.BytesIO()
    request = Request(SAMPLING, seconds, delivery=delivery)
    send(room_file, io.BytesIO(source), sink, LazyModel(model_folder, "cpu"), request, raw)
    return sink.getvalue()


def test_what_is_piped_is_what_is_generated(model_folder, room_file):
    expected = (
        Silent2Music.from_pretrained(model_folder).generate(audio.read(room_file), SAMPLING, 1.5).samples
    )
    samples, rate = soundfile.read(io.BytesIO(sent(room_file, model_folder, seconds=1.5)), always_2d=True)
    assert rate == RATE
    np.testing.assert_allclose(samples.T, expected, atol=1e-4)
    raw = sent(room_file, model_folder, seconds=1.5, raw=True)
    assert np.array_equal(np.frombuffer(raw, "<i2") / np.float32(32768), samples[:, 0].astype(np.float32))


def test_a_stream_sounds_as_the_file_does(model_folder, room_file, tmp_path):
    """At another level: 48 kHz stereo in the room's reverberation, with the fade of its end."""
    stream = sent(room_file, model_folder, seconds=1.5, delivery=DeliveryConfig())
    samples, rate = soundfile.read(io.BytesIO(stream), always_2d=True, dtype="float32")
    assert (rate, samples.shape) == (48_000, (72_000, 2))
    assert stream[:44] == wav_header(48_000, 2, 72_000)
    # A limit that is never reached, since a limiter is not in the stream.
    quiet = Request(SAMPLING, 1.5, delivery=DeliveryConfig(lufs=-40.0))
    infer(Job(room_file, tmp_path / "out.wav", 3, "x"), audio.read(room_file), LazyModel(model_folder), quiet)
    file = audio.read(tmp_path / "out.wav").samples.T
    gain = np.vdot(file, samples) / np.vdot(file, file)
    np.testing.assert_allclose(samples, gain * file, atol=1e-4)
    assert np.abs(samples[-1]).max() < 1e-4
    assert np.corrcoef(samples.T)[0, 1] < 0.99  # it is wide


def test_live_sound_comes_on_standard_input(model_folder):
    heard = (steps_room(1.0)[0] * 32767).astype("<i2").tobytes()
    assert len(sent(LIVE, model_folder, heard, raw=True)) == len(heard)
    header = sent(LIVE, model_folder, heard)[:44]
    assert header == wav_header(RATE, 1, None)


def test_live_sound_is_heard_for_as_long_as_asked_and_ends_faded(model_folder):
    heard = (steps_room(2.0)[0] * 32767).astype("<i2").tobytes()
    music = sent(LIVE, model_folder, heard, 1.0, True, DeliveryConfig(24_000, mono=True))
    assert len(music) == RATE * 2
    whole = sent(LIVE, model_folder, heard, 1.0, True)
    samples, unfaded = (np.frombuffer(data, "<i2") for data in (music, whole))
    assert np.array_equal(samples[:-1200], unfaded[:-1200])
    assert samples[-1] == 0


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("size", [None, 0, 0x7FFFF000, 0xFFFFFFFF])
def test_the_header_of_live_sound_is_heeded(subtype, size):
    """Stereo at 48 kHz, with a chunk behind the samples that is no sound where the size is true."""
    file = io.BytesIO()
    sound = np.repeat(steps_room(1.0, 48_000)[0][:, None] * 20, 2, axis=1)
    soundfile.write(file, sound, 48_000, subtype, format="WAV")
    data = bytearray(file.getvalue())
    at = data.index(b"data") + 4
    n_bytes = int.from_bytes(data[at : at + 4], "little")
    del data[at + 4 + n_bytes :]
    if size is None:
        data += b"LIST" + (400).to_bytes(4, "little") + b"\x7f" * 400
    else:
        data[at : at + 4] = size.to_bytes(4, "little")
    chunks = list(heard(io.BytesIO(bytes(data)), 25.0))
    assert {c.sample_rate for c in chunks} == {48_000}
    samples = np.concatenate([c.samples for c in chunks], axis=1)
    assert samples.shape == (1, 48_000)
    np.testing.assert_allclose(samples[0], sound[:, 0], atol=0.01 if subtype == "PCM_U8" else 1e-4)


def test_raw_samples_are_what_has_no_header():
    assert [c.n_samples for c in heard(io.BytesIO(bytes(5000)), 25.0)] == [960, 960, 580]
    assert sum(c.n_samples for c in heard(io.BytesIO(bytes(50_000)), 25.0, 0.5)) == 12_000
    assert list(heard(io.BytesIO(b""), 25.0)) == []


@pytest.mark.parametrize(
    ("begin", "words"),
    [
        (b"fLaC" + bytes(99), "is FLAC; expected WAV or raw samples"),
        (b"OggS" + bytes(99), "is OGG"),
        (
            b"RIFF" + bytes(8) + b"fmt \x10\0\0\0" + b"\x11\0" + bytes(14) + b"data" + bytes(99),
            "begins like a WAV",
        ),
        (b"RIFF" + bytes(8), "begins like a WAV"),
        (b"RIFF" + bytes(8) + b"junk" + b"\xff" * 99, "begins like a WAV"),
    ],
)
def test_other_formats_on_standard_input_are_named(begin, words):
    with pytest.raises(AudioError, match=words):
        list(heard(io.BytesIO(begin), 25.0))


def test_nothing_is_written_for_what_cannot_be_heard(model_folder):
    for source in (b"hello", b"fLaC" + bytes(99)):
        sink = io.BytesIO()
        with pytest.raises(AudioError):
            send(LIVE, io.BytesIO(source), sink, LazyModel(model_folder, "cpu"), Request(SAMPLING))
        assert sink.getvalue() == b""


def test_sound_is_not_written_to_a_terminal_nor_taken_from_one():
    class Terminal(io.BytesIO):
        def isatty(self):
            return True

    check_pipes(Path("room.wav"), "--stream", Terminal(), io.BytesIO())
    with pytest.raises(ConfigError, match=r"is a terminal; .* s2m infer room\.wav --stream \| aplay"):
        check_pipes(Path("room.wav"), "--stream", io.BytesIO(), Terminal())
    with pytest.raises(ConfigError, match="standard input, which is a terminal"):
        check_pipes(LIVE, "--stream", Terminal(), io.BytesIO())


def test_a_player_that_stops_ends_the_music(model_folder, room_file):
    class Closed(io.RawIOBase):
        def __init__(self, error):
            self.error = error

        def write(self, data):
            raise self.error

    for error in (BrokenPipeError(), OSError(errno.EINVAL, "Invalid argument")):  # the latter on Windows
        send(room_file, io.BytesIO(), Closed(error), LazyModel(model_folder), Request())
    with pytest.raises(AudioError, match=r"cannot be written on \(No space left"):
        full = OSError(errno.ENOSPC, "No space left on device")
        send(room_file, io.BytesIO(), Closed(full), LazyModel(model_folder), Request())
