"""Music as a stream: equal to the whole, soon there, steady, and quick to follow a live room."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from conftest import RATE, steps_room

from silent2music import listening
from silent2music.ambient import AmbientFeatures, n_features, n_scalars
from silent2music.audio import Waveform
from silent2music.config import AmbientConfig, DecoderConfig, ModelConfig, SamplingConfig
from silent2music.errors import AudioError
from silent2music.listening import embed_stream, listen, listen_live, span
from silent2music.model import Silent2Music
from silent2music.signals import Embedder, read_signals

SAMPLING = SamplingConfig(seed=3, guidance=1.5)
AMBIENT = AmbientConfig(dim=16, n_layers=2, n_mels=8, n_fft=512, n_global_tokens=1)
CONFIG = ModelConfig(ambient=AMBIENT, decoder=DecoderConfig(dim=24))


@pytest.fixture(scope="module")
def model(model_folder):
    return Silent2Music.from_pretrained(model_folder)


def room(seconds=2.0, interval=0.5, rate=RATE):
    return Waveform(steps_room(seconds, rate, interval=interval), rate)


def frames_of(pieces) -> np.ndarray:
    """Ambient features `[S, n_features]` of pieces of signals."""
    return np.concatenate([piece.along["room_frames"][0].numpy() for piece in pieces])


def joined(pieces) -> np.ndarray:
    return np.concatenate([piece.samples for piece in pieces], axis=1)


@pytest.mark.parametrize("seconds", [0.5, 1.237, 14.0])
def test_the_stream_is_the_whole_bit_for_bit(model, seconds):
    pieces = list(model.stream(room(), SAMPLING, seconds))
    assert np.array_equal(joined(pieces), model.generate(room(), SAMPLING, seconds).samples)
    assert joined(pieces).shape[1] == round(seconds * RATE)
    assert len(pieces) > 3 or seconds < 2


def test_the_first_sound_needs_few_frames(model):
    done = []
    stream = model.stream(room(4.0), SAMPLING, progress=lambda frame, n: done.append((frame, n)))
    assert next(stream).n_samples > 0
    assert done[-1][0] < 37 and done[-1][1] == 100
    stream.close()


def test_a_stream_equals_a_batch_but_for_rounding(model):
    batch = model.generate_batch([room(), room(3.0, 0.3)], SAMPLING, [3, 4])
    np.testing.assert_allclose(joined(model.stream(room(), SAMPLING)), batch[0].samples, atol=1e-4)


@pytest.fixture
def short_windows(monkeypatch):
    monkeypatch.setattr(listening, "WINDOW_SECONDS", 6.0)
    monkeypatch.setattr(listening, "OVERLAP_SECONDS", 2.0)


@pytest.mark.parametrize("seconds", [5.0, 7.3, 23.0])
def test_windows_cover_every_step_once(short_windows, seconds):
    pieces = list(listen(room(23.0), seconds, CONFIG))
    assert len(frames_of(pieces)) == sum(piece.n_frames for piece in pieces) == int(np.ceil(seconds * 25))


def test_where_windows_meet_nothing_jumps(short_windows):
    pieces = list(listen(room(23.0), 23.0, CONFIG))
    whole = frames_of(pieces)
    alone = frames_of(listen(span(room(23.0), 0, 6 * RATE), 6.0, CONFIG))
    np.testing.assert_allclose(whole[:95], alone[:95], atol=1e-5)
    scalars = np.concatenate([piece.whole["room_scalars"].numpy() for piece in pieces])
    assert np.abs(np.diff(scalars, axis=0)).max() <= np.abs(scalars - scalars[0]).max()
    energy = whole[:, listening_column("energy_absolute")]
    expected = _unwindowed(room(23.0))[:, listening_column("energy_absolute")]
    assert np.median(np.abs(energy - expected)) < 0.05


def _unwindowed(take: Waveform) -> np.ndarray:
    from silent2music.acoustics import analyze
    from silent2music.ambient import ambient_features

    return ambient_features(take, analyze(take), AMBIENT).frames


def listening_column(name: str) -> int:
    from silent2music.acoustics import PROFILE_CURVES

    return 2 * AMBIENT.n_mels + PROFILE_CURVES.index(name)


def test_any_span_of_a_loop_is_cut_from_it():
    one = room(1.4)
    whole = listening.repeated(one, 9.0)
    for begin, end in ((0, 1000), (33_000, 34_900), (100_000, 200_001)):
        assert np.array_equal(span(one, begin, end).samples, whole.samples[:, begin:end])


@pytest.mark.parametrize("sizes", [(40,), (1, 7, 32), (20, 20)])
def test_embedding_piece_by_piece_equals_the_whole(sizes):
    torch.manual_seed(0)
    embedder = Embedder(CONFIG).eval()
    rng = np.random.default_rng(0)
    frames = rng.standard_normal((40, n_features(AMBIENT))).astype(np.float32)
    scalars = rng.standard_normal(n_scalars(AMBIENT)).astype(np.float32)
    signals = read_signals(CONFIG.controls, {"room": AmbientFeatures(frames, scalars)}, 0, 40)
    starts = np.cumsum((0, *sizes))

    def embed(s):
        return embedder(s), embedder(s.without("room"))

    with torch.inference_mode():
        whole, null = embed(signals)
        pieces = (signals.slice(a, b) for a, b in itertools.pairwise(starts))
        parts = list(embed_stream(pieces, embed, embedder.lookahead_frames))
    for i, expected in enumerate((whole, null)):
        found = torch.cat([part[i].frames for part in parts], dim=1)
        torch.testing.assert_close(found, expected.frames, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(whole.frames, null.frames)


# ---- live ----


def chunked(samples: np.ndarray, fed: list[float], chunk: int = RATE // 25) -> Iterator[Waveform]:
    for start in range(0, samples.shape[1], chunk):
        fed[0] = min(start + chunk, samples.shape[1]) / RATE
        yield Waveform(samples[:, start : start + chunk], RATE)


def test_live_music_is_as_long_as_what_was_heard_and_steady(model):
    fed = [0.0]
    lags = []
    n_samples = 0
    for piece in model.stream(chunked(room(4.0).samples, fed), SAMPLING):
        n_samples += piece.n_samples
        lags.append(fed[0] - n_samples / RATE)
    assert n_samples == 4 * RATE
    assert max(lags[10:]) < 0.5


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_live_music_is_as_long_at_other_rates(model, rate):
    """What the resampler still holds when the sound ends belongs to it."""
    heard = room(2.0, rate=rate)
    chunks = (Waveform(part, rate) for part in np.array_split(heard.samples, 50, axis=1))
    assert sum(piece.n_samples for piece in model.stream(chunks, SAMPLING)) == 2 * RATE


def test_live_music_answers_a_change_within_half_a_second(model):
    quiet = room(4.0).samples
    changed = quiet.copy()
    changed[:, 2 * RATE :] += 0.1 * np.random.default_rng(0).standard_normal((1, 2 * RATE)).astype(np.float32)
    runs = []
    for samples in (quiet, changed):
        fed, pieces = [0.0], []
        for piece in model.stream(chunked(np.clip(samples, -1, 1), fed), SAMPLING):
            pieces.append((fed[0], piece.samples))
        runs.append(pieces)
    differing = [
        heard
        for (heard, a), (_, b) in zip(*runs, strict=True)
        if a.shape != b.shape or not np.array_equal(a, b)
    ]
    assert 2.0 <= differing[0] <= 2.5


def test_live_steps_are_those_of_the_recording_where_nothing_is_to_come():
    fed = [0.0]
    take = room(3.0)
    frames = frames_of(listen_live(chunked(take.samples, fed, 1000), CONFIG))
    assert len(frames) == 75
    offline = frames_of(listen(take, 3.0, CONFIG))
    level, expected = (f[20:, : 2 * AMBIENT.n_mels].mean(axis=1) for f in (frames, offline))
    assert np.corrcoef(level, expected)[0, 1] > 0.9


def test_live_input_of_another_rate_or_none_is_refused():
    with pytest.raises(AudioError, match="from 24000 to 16000 Hz"):
        list(listen_live([room(1.0), room(1.0, rate=16_000)], CONFIG))
    with pytest.raises(AudioError, match=r"ended within 0\.5 s"):
        list(listen_live([], CONFIG))
