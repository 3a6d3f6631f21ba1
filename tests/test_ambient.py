import numpy as np
import pytest
import torch

from silent2music.acoustics import analyze
from silent2music.ambient import (
    FrameEncoder,
    ScalarEncoder,
    Standardise,
    ambient_features,
    n_features,
    n_scalars,
)
from silent2music.audio import Waveform
from silent2music.config import AmbientConfig
from silent2music.errors import ConfigError

CONFIG = AmbientConfig(dim=16, n_mels=24)


def noise(seconds: float, level_db: float = -60.0, seed: int = 0, rate: int = 24_000) -> Waveform:
    samples = np.random.default_rng(seed).standard_normal((1, int(seconds * rate)))
    return Waveform((samples * 10 ** (level_db / 20)).astype(np.float32), rate)


def features(room: Waveform):
    return ambient_features(room, analyze(room), CONFIG)


@pytest.mark.parametrize(("seconds", "rate"), [(2.0, 24_000), (2.01, 24_000), (1.337, 44_100), (0.5, 8_000)])
def test_a_step_for_each_started_codec_frame(seconds, rate):
    room = noise(seconds, rate=rate)
    found = features(room)
    expected = int(np.ceil(room.resampled(24_000).n_samples / 960))
    assert found.frames.shape == (expected, n_features(CONFIG))
    assert found.scalars.shape == (n_scalars(CONFIG),)
    assert np.isfinite(found.frames).all() and np.isfinite(found.scalars).all()


@pytest.mark.parametrize("second", [0.62, 1.0, 1.703])
def test_an_event_shows_in_the_step_it_falls_into(second):
    room = noise(3.0, -75.0)
    start = int(second * 24_000)
    room.samples[0, start : start + 240] += noise(0.01, -30.0, 1).samples[0]
    mel = features(room).frames[:, : 2 * CONFIG.n_mels].mean(axis=1)
    assert abs(int(mel.argmax()) - int(second * 25)) <= 1


def test_frames_ignore_gain_and_scalars_do_not():
    quiet, loud = noise(2.0, -70.0), noise(2.0, -50.0)
    a, b = features(quiet), features(loud)
    mel = slice(0, 2 * CONFIG.n_mels)
    np.testing.assert_allclose(a.frames[:, mel], b.frames[:, mel], atol=0.02)
    np.testing.assert_allclose(b.scalars[: CONFIG.n_mels] - a.scalars[: CONFIG.n_mels], 1.0, atol=0.02)


def test_digital_silence_has_features():
    found = features(Waveform(np.zeros((1, 48_000), np.float32), 24_000))
    assert np.isfinite(found.frames).all() and np.isfinite(found.scalars).all()


def test_mel_levels_are_in_dbfs():
    t = np.arange(48_000) / 24_000
    room = Waveform((0.01 * np.sin(2 * np.pi * 1000 * t))[None].astype(np.float32), 24_000)
    median_db = features(room).scalars[: CONFIG.n_mels] * 20 - 80
    assert median_db.max() == pytest.approx(20 * np.log10(0.01 / np.sqrt(2)), abs=3.0)


def make_encoder() -> FrameEncoder:
    torch.manual_seed(0)
    return FrameEncoder(CONFIG, out_dim=8).eval()


def inputs(b: int, s: int):
    g = torch.Generator().manual_seed(0)
    return torch.randn(b, s, n_features(CONFIG), generator=g), torch.ones(b, s, dtype=torch.bool)


def test_shapes_of_the_embeddings():
    assert make_encoder()(*inputs(2, 30)).shape == (2, 30, 8)
    scalars = torch.randn(2, n_scalars(CONFIG))
    assert ScalarEncoder(CONFIG, out_dim=8)(scalars).shape == (2, CONFIG.n_global_tokens, 8)


def test_a_padded_row_equals_a_single_one():
    encoder = make_encoder()
    frames, mask = inputs(2, 30)
    mask[1, 18:] = False
    torch.testing.assert_close(encoder(frames, mask)[1:, :18], encoder(frames[1:, :18], mask[1:, :18]))


def test_the_lookahead_is_bounded_and_used():
    encoder = make_encoder()
    frames, mask = inputs(1, 200)
    changed = frames.clone()
    changed[:, 100:] += 1.0
    a, b = encoder(frames, mask)[0], encoder(changed, mask)[0]
    first = 100 - encoder.lookahead_frames
    assert encoder.lookahead_frames <= 50
    torch.testing.assert_close(a[:first], b[:first])
    assert not torch.allclose(a[first + 5], b[first + 5])


def test_too_long_a_lookahead_is_named():
    with pytest.raises(ConfigError, match=r"looks .* s ahead"):
        FrameEncoder(AmbientConfig(n_layers=9), out_dim=8)


def test_statistics_standardise():
    values = inputs(4, 100)[0].flatten(0, 1) * 3 + 1
    standardise = Standardise(n_features(CONFIG))
    standardise.fit(values)
    torch.testing.assert_close(standardise.mean, values.mean(0))
    found = standardise(values)
    torch.testing.assert_close(found.mean(0), torch.zeros(n_features(CONFIG)), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.std(0), torch.ones(n_features(CONFIG)), atol=1e-3, rtol=0)
    assert float(standardise(values + 1e6).max()) == 8.0
