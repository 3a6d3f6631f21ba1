"""Training of the sketch: shards with scores and codes in, a sketch folder out."""

from __future__ import annotations

import dataclasses
import json
from functools import partial

import numpy as np
import pytest
import torch
from conftest import RATE, steps_room
from resuming import assert_resumes
from safetensors.torch import load_file, save_file

from silent2music.audio import Waveform, write
from silent2music.codec import load_codec
from silent2music.config import AmbientConfig, RecipeConfig, SketchConfig, TrainingConfig
from silent2music.data.pairs import Pair, write_pairs
from silent2music.data.shards import prepare
from silent2music.errors import CheckpointError, ConfigError
from silent2music.score import Part, Score, write_midi
from silent2music.sketch import Sketch, sketch_score
from silent2music.training import learner
from silent2music.training.recipe import train_recipe
from silent2music.training.sketch import train_sketch

SECONDS = 3.0
RECIPE = RecipeConfig(
    trains="sketch",
    ambient=AmbientConfig(dim=16, n_layers=1, n_mels=16, n_fft=512, n_global_tokens=1),
    sketch=SketchConfig(note_dim=32, n_harmonics=2, n_bands=4, dim=32, n_layers=2, room_dim=8),
    training=TrainingConfig(
        batch_size=4,
        crop_seconds=2.4,
        learning_rate=1e-2,
        warmup_steps=5,
        max_steps=4,
        validate_every=4,
        n_validation_pairs=2,
        ema_decay=0.8,
        mixed_precision="no",
        checkpoint_minutes=0.0,
    ),
)


def with_training(**settings) -> RecipeConfig:
    return dataclasses.replace(RECIPE, training=dataclasses.replace(RECIPE.training, **settings))


def tune(index: int) -> tuple[Score, np.ndarray]:
    """A score of plucked sines, and its sound; silent for its last half second."""
    rng = np.random.default_rng(index)
    starts = np.arange(0.1, SECONDS - 0.6, 0.35) + 0.02 * (index % 4)
    pitches = rng.choice([57, 61, 64, 69, 73], len(starts))
    t = np.arange(round(SECONDS * RATE)) / RATE
    sound = np.zeros_like(t)
    for start, pitch in zip(starts, pitches, strict=True):
        age = np.maximum(t - start, 0.0)
        sound += (
            (t >= start)
            * (age < 0.3)
            * np.exp(-age / 0.15)
            * np.sin(age * 2 * np.pi * 440 * 2 ** ((pitch - 69) / 12))
        )
    notes = (starts, starts + 0.3, pitches.astype(np.int64), np.full(len(starts), 100))
    return Score(SECONDS, (Part("harp", 46, False, "melody", *notes),)), 0.3 * sound[None].astype(np.float32)


@pytest.fixture(scope="module")
def shards(tmp_path_factory, codec_folder):
    folder = tmp_path_factory.mktemp("pairs")
    pairs = []
    for i in range(10):
        score, sound = tune(i)
        write(folder / f"{i}.wav", Waveform(steps_room(SECONDS, interval=0.5), RATE))
        write(folder / f"{i}.music.wav", Waveform(sound, RATE))
        write_midi(folder / f"{i}.mid", score)
        split = "validation" if i in (3, 6) else "train"
        pairs.append(Pair(f"{i}.wav", f"{i}.music.wav", split=split, score=f"{i}.mid"))
    write_pairs(folder, pairs)
    prepare(folder, folder / "shards", load_codec(codec_folder), RECIPE.ambient)
    return folder / "shards"


@pytest.mark.slow
def test_the_own_score_is_heard_and_silence_stays_silent(shards, codec_folder, tmp_path) -> None:
    recipe = with_training(max_steps=100, validate_every=100, checkpoint_minutes=5.0)
    folder = train_recipe(recipe, shards, codec_folder, tmp_path / "run")
    last = json.loads((tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert last["validation_true"] < 0.3, last
    assert last["validation_true"] < 0.5 * last["validation_shuffled"]
    sketch = Sketch.from_pretrained(folder)
    codec = load_codec(codec_folder)
    assert sketch.config.codec_checksum == codec.token_checksum()
    # Decoded as it is, a held-out score sounds at its notes' pitches.
    score, _ = tune(3)
    room = learner.PairDataset(shards, "validation", controls=("room_scalars",)).crop(0).signals
    with torch.inference_mode():
        vectors = torch.cat(list(sketch_score(sketch, score, [room], 75)), dim=1)
        spectra = codec.magnitudes(vectors)[0]
    level = spectra.square().sum(dim=1)
    part = score.parts[0]
    for start, pitch in zip(part.start_seconds, part.pitches, strict=True):
        frame = round((start + 0.08) * 50)
        heard = float(spectra[frame].argmax()) * RATE / codec.config.n_fft
        assert abs(heard - 440.0 * 2 ** ((pitch - 69) / 12)) < 1.5 * RATE / codec.config.n_fft
    assert level[-5:].max() < 1e-3 * level.max()


def test_a_resumed_run_equals_an_uninterrupted_one(shards, codec_folder, tmp_path) -> None:
    assert_resumes(partial(train_sketch, RECIPE, shards, codec_folder), tmp_path, step=2)


def test_a_start_is_a_model_with_its_codec_or_a_sketch(shards, codec_folder, model_folder, tmp_path) -> None:
    still = with_training(max_steps=1, learning_rate=0.0)
    first = train_sketch(still, shards, None, tmp_path / "model", start=model_folder)
    again = train_sketch(still, shards, codec_folder, tmp_path / "sketch", start=first)
    for name, value in load_file(first / "model.safetensors").items():
        assert torch.equal(load_file(again / "model.safetensors")[name], value), name
    wider = dataclasses.replace(still, sketch=dataclasses.replace(RECIPE.sketch, dim=64))
    with pytest.raises(CheckpointError, match="has shape"):
        train_sketch(wider, shards, codec_folder, tmp_path / "wider", start=first)


def test_a_codec_that_is_missing_or_another_is_named(shards, codec_folder, tmp_path) -> None:
    with pytest.raises(ConfigError, match="give --codec"):
        train_sketch(RECIPE, shards, None, tmp_path / "a")
    other = tmp_path / "codec"
    other.mkdir()
    weights = load_file(codec_folder / "model.safetensors")
    save_file({n: x * 2 if n == "scales" else x for n, x in weights.items()}, other / "model.safetensors")
    values = json.loads((codec_folder / "config.json").read_text(encoding="utf-8"))
    values.pop("checksum")
    (other / "config.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(CheckpointError, match="codec"):
        train_sketch(RECIPE, shards, other, tmp_path / "b")
    with pytest.raises(ConfigError, match="training pairs with scores and codes"):
        train_sketch(with_training(batch_size=64), shards, codec_folder, tmp_path / "c")
