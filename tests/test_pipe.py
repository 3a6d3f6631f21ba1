"""Music to a pipe, while it is made."""

import errno
import io

import numpy as np
import pytest
import soundfile
from rooms import RATE, steps_room

from silent2music import audio
from silent2music.config import SamplingConfig
from silent2music.errors import AudioError
from silent2music.export.models import LazyModel, Request
from silent2music.export.streaming import LIVE, send, wav_header
from silent2music.model import Silent2Music

SAMPLING = SamplingConfig(seed=3, guidance=1.5)


def sent(room_file, model_folder, source=b"", seconds=None, raw=False):
    sink = io.BytesIO()
    request = Request(SAMPLING, seconds)
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


def test_live_sound_comes_on_standard_input(model_folder):
    heard = (steps_room(1.0)[0] * 32767).astype("<i2").tobytes()
    assert len(sent(LIVE, model_folder, heard, raw=True)) == len(heard)
    header = sent(LIVE, model_folder, heard)[:44]
    assert header == wav_header(RATE, 1, None)


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
