"""The sketch: notes to the codec's vectors, whole and as they are written."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from silent2music.codec import load_codec
from silent2music.config import AmbientConfig, RecipeConfig, SketchConfig, TrainingConfig
from silent2music.data.shards import PairDataset, prepare
from silent2music.errors import CheckpointError, ConfigError
from silent2music.notation import joined, read_back, symbol_of
from silent2music.score import Part, Score
from silent2music.signals import from_arrays
from silent2music.sketch import Sketch, SketchNotes, sketch_score, sketch_stream

RATE = 25.0
AMBIENT = AmbientConfig(dim=16, n_layers=1, n_mels=16, n_fft=512, n_global_tokens=1)


@pytest.fixture(scope="module")
def codec(codec_folder):
    return load_codec(codec_folder)


@pytest.fixture(scope="module")
def sketch(codec):
    """A small sketch of random weights, none of which is without effect."""
    torch.manual_seed(0)
    config = SketchConfig(
        ambient=AMBIENT, codec=codec.config, note_dim=32, n_harmonics=8, n_bands=8, dim=32, n_layers=2, room_dim=8
    )
    made = Sketch(config, codec.components).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return made


def piece(seconds: float = 6.0, seed: int = 0, pitches=(48, 84), gain=True) -> list:
    """Events of frames as a composer writes them: chords on a harp, drums, and a note struck again before its end."""
    rng = np.random.default_rng(seed)
    frames = []
    for frame in range(round(seconds * RATE)):
        events = []
        if frame % 9 == 3:
            symbol = symbol_of("harmony", 46, False)
            for pitch in sorted(rng.choice(np.arange(*pitches), 2, replace=False).tolist()):
                events.append((symbol, int(rng.integers(4)), pitch, 18, int(rng.integers(16))))
        if frame % 7 == 0:
            events.append((symbol_of("melody", 73, False), 1, 72, 15, 9))
        if frame % 25 == 10:
            events.append((symbol_of("percussion", 0, True), 2, 38, 3, 12))
        frames.append((tuple(events), -6.0 * (0.5 + 0.5 * np.sin(frame / 20)) if gain else 0.0))
    return frames


def room_of(n_frames: int, value: float = 0.0):
    from silent2music.ambient import n_scalars

    return from_arrays({"room_scalars": np.full(n_scalars(AMBIENT), value, np.float32)}, n_frames)


def one_note(pitch: int, program: int = 0, is_drum: bool = False, start: float = 1.0, end: float = 2.0) -> Score:
    notes = (np.array([start]), np.array([end]), np.array([pitch]), np.array([100]))
    return Score(8.0, (Part("x", program, is_drum, "", *notes),))


def test_a_stream_of_notes_equals_the_whole_score_bit_for_bit(sketch) -> None:
    frames = piece()
    score = read_back(joined(e for e, _ in frames), len(frames) / RATE, RATE, [g for _, g in frames])
    rooms = [room_of(40, 0.3), room_of(len(frames) - 40, -0.2)]
    for n in (1, 4):
        streamed = torch.cat(list(sketch_stream(sketch, iter(frames), iter(rooms), n)), dim=1)
        whole = torch.cat(list(sketch_score(sketch, score, rooms, len(frames), n)), dim=1)
        assert streamed.shape == (1, len(frames), sketch.config.codec.n_components)
        assert torch.equal(streamed, whole)
    with torch.inference_mode():
        notes = SketchNotes.of([score], [0], 40, RATE)
        batch = sketch(notes, room_of(40, 0.3))
    assert torch.allclose(batch[:, : 40 - sketch.ahead], whole[:, : 40 - sketch.ahead], atol=1e-4)
