"""Distances on embeddings, with tiny random weights: no real ones are needed to know what must hold."""

from pathlib import Path

import numpy as np
import pytest

from silent2music._torchaudio import ensure_torchaudio
from silent2music.audio import Waveform
from silent2music.errors import CheckpointError
from silent2music.evaluation import embeddings
from silent2music.evaluation.stages import Stages

RATE = 16_000


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wav2vec2 of a few thousand weights, as transformers saves it."""
    import torch

    ensure_torchaudio()
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    config = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(16, 16),
        conv_stride=(40, 8),
        conv_kernel=(40, 8),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    Wav2Vec2Model(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=RATE).save_pretrained(folder)
    return folder


def sounds(n: int, noisy: bool) -> list[Waveform]:
    """Pieces of 10 s: noise, or chords of sines."""
    t = np.arange(10 * RATE) / RATE
    made = []
    for seed in range(n):
        rng = np.random.default_rng(seed)
        tones = np.sin(2 * np.pi * rng.uniform(100, 800, (3, 1)) * t).sum(axis=0)
        samples = 0.1 * (rng.standard_normal(t.size) if noisy else tones)
        made.append(Waveform(np.clip(samples, -1, 1)[None].astype(np.float32), RATE))
    return made


def test_noise_is_farther_than_the_other_half(weights: Path) -> None:
    real = sounds(8, noisy=False)
    with Stages() as stages:
        found = embeddings.embedding_distances(
            weights, {"real": real, "noise": sounds(8, noisy=True)}, stages
        )
    assert found["model"] == "wav2vec2"
    distances = found["distances"]
    assert distances["real"]["n_rows"] == 8
    for figure in ("frechet", "kernel"):
        assert distances["noise"][figure] > distances["real"][figure]


def test_a_folder_without_weights_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no audio model of transformers"):
        embeddings.load_embedder(str(tmp_path))
    with pytest.raises(CheckpointError, match="is no folder"):
        embeddings.load_embedder(str(tmp_path / "none"))
