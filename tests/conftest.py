"""Shared fixtures: a tiny model, made once in a session, and rooms to feed it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Tests run in two processes, which must not each ask for all cores; said before numpy is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from rooms import RATE, steps_room

from silent2music import audio
from silent2music.cli import main


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages are compared as text: no colours, and lines that are never wrapped."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")


def reset_accelerate() -> None:
    """Accelerate lets a process choose its precision once, and tests choose several."""
    if "accelerate.state" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    yield
    reset_accelerate()


@pytest.fixture
def s2m(capsys: pytest.CaptureFixture[str]):
    """Run a command line; gives exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = 0
        try:
            main([str(a) for a in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def room_file(tmp_path: Path) -> Path:
    """A 2 s recording of steps at -60 dBFS."""
    path = tmp_path / "room.wav"
    audio.write(path, audio.Waveform(steps_room(), RATE))
    return path


@pytest.fixture(scope="session")
def codec_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundled codec of 4 codebooks of 32 entries, fitted on tones in noise."""
    return make_codec(tmp_path_factory.mktemp("codec"))


def make_codec(folder: Path) -> Path:
    """The codec of `codec_folder`, made in a folder."""
    from silent2music.codec import save_codec
    from silent2music.config import CodecConfig
    from silent2music.training.codec import fit_codec

    rng = np.random.default_rng(0)
    t = np.arange(20 * RATE) / RATE
    pitch = np.repeat(rng.choice([220.0, 277.2, 329.6, 440.0, 554.4], 80), RATE // 4)
    tones = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / RATE) * np.exp(-(t % 0.25) / 0.15)
    samples = (tones + 0.01 * rng.standard_normal(len(t)))[None].astype(np.float32)
    audio.write(folder / "music.wav", audio.Waveform(samples, RATE))
    config = CodecConfig(
        n_fft=960,
        n_components=16,
        n_codebooks=4,
        codebook_size=32,
        griffin_lim_iterations=4,
    )
    save_codec(fit_codec([folder / "music.wav"], config), folder / "codec")
    return folder / "codec"


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, codec_folder: Path) -> Path:
    """A model folder with random weights: small, and of no musical worth, but whole."""
    return make_model(tmp_path_factory.mktemp("tiny"), codec_folder)


@pytest.fixture(scope="session")
def sketched_folder(tmp_path_factory: pytest.TempPathFactory, codec_folder: Path) -> Path:
    """As `model_folder`, with composer and sketch."""
    return make_sketched(tmp_path_factory.mktemp("sketched") / "model", codec_folder)


def make_sketched(folder: Path, codec_folder: Path) -> Path:
    """The model of `sketched_folder`, made in a folder."""
    import torch
    from test_compose import make_composer

    from silent2music.codec import load_codec
    from silent2music.config import AmbientConfig, SketchConfig
    from silent2music.sketch import Sketch

    make_model(folder, codec_folder, takes_sketch=True)
    make_composer().save_pretrained(folder / "composer")
    codec = load_codec(codec_folder)
    config = SketchConfig(
        ambient=AmbientConfig(dim=16, n_layers=1, n_mels=16, n_fft=512, n_global_tokens=1),
        codec=codec.config, codec_checksum=codec.token_checksum(), note_dim=16, n_harmonics=4, n_bands=4, dim=16,
        n_layers=2, room_dim=4,
    )  # fmt: skip
    torch.manual_seed(0)
    sketch = Sketch(config, codec.components)
    with torch.no_grad():
        for weight in sketch.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    sketch.save_pretrained(folder / "sketch")
    return folder


def make_model(folder: Path, codec_folder: Path, takes_sketch: bool = False) -> Path:
    """The model of `model_folder`, made in a folder."""
    import torch

    from silent2music.codec import load_codec
    from silent2music.config import AmbientConfig, DecoderConfig, ModelConfig
    from silent2music.model import Silent2Music

    codec = load_codec(codec_folder)
    config = ModelConfig(
        name="tiny",
        ambient=AmbientConfig(dim=32, n_layers=1, n_mels=16, n_fft=512, n_global_tokens=2),
        decoder=DecoderConfig(
            dim=32,
            n_layers=1,
            n_heads=2,
            n_codebooks=4,
            codebook_size=32,
            codebook_dim=16,
            attention_window=50,
            takes_sketch=takes_sketch,
        ),
        codec_checksum=codec.token_checksum(),
        guidance=1.5,
    )
    torch.manual_seed(0)
    model = Silent2Music(config, codec)
    with torch.no_grad():
        for weight in model.parameters():
            # Tables that start at zero would leave the tokens to chance and the room without influence.
            weight.add_(0.1 * torch.randn_like(weight))
    model.save_pretrained(folder)
    return folder
