"""Training of the composer: shards with scores in, a composer folder out."""

from __future__ import annotations

import dataclasses
import json
from functools import partial

import numpy as np
import pytest
import torch
from conftest import RATE, steps_room
from resuming import assert_resumes
from safetensors.torch import load_file

from silent2music.audio import Waveform, write
from silent2music.codec import load_codec
from silent2music.composer import Composer, Pages
from silent2music.composing import PackedComposer, write_frames
from silent2music.config import AmbientConfig, ComposerConfig, ComposingConfig, RecipeConfig, TrainingConfig
from silent2music.data.pairs import Pair, write_pairs
from silent2music.data.shards import PairDataset, prepare
from silent2music.errors import CheckpointError, ConfigError
from silent2music.model import Silent2Music
from silent2music.notation import FIRST_PART
from silent2music.score import Part, Score, write_midi
from silent2music.training.composer import train_composer
from silent2music.training.recipe import train_recipe
from silent2music.weights import as_stored
from silent2music.writing import Manuscript

AMBIENT = AmbientConfig(dim=32, n_layers=1, n_mels=16, n_fft=512, n_global_tokens=2, dropout=0.0)
SECONDS = 3.0
RECIPE = RecipeConfig(
    trains="composer",
    ambient=AMBIENT,
    composer=ComposerConfig(
        dim=32, n_layers=1, n_heads=2, attention_window=40, dropout=0.0, writer_dim=32, writer_layers=1
    ),
    training=TrainingConfig(
        batch_size=4,
        crop_seconds=2.0,
        learning_rate=1e-2,
        warmup_steps=5,
        max_steps=6,
        validate_every=3,
        n_validation_pairs=2,
        ema_decay=0.9,
        mixed_precision="no",
    ),
)


def with_training(**settings) -> RecipeConfig:
    return dataclasses.replace(RECIPE, training=dataclasses.replace(RECIPE.training, **settings))


def steps_of(index: int) -> np.ndarray:
    """Where room `index` has its steps."""
    return np.arange(0.1, SECONDS - 0.1, 0.3 + 0.06 * index)


@pytest.fixture(scope="module")
def shards(tmp_path_factory, codec_folder):
    """Ten rooms, without sound of music, in whose scores a harp meets each step and plays nothing else."""
    folder = tmp_path_factory.mktemp("pairs")
    pairs = []
    for i in range(10):
        write(folder / f"{i}.wav", Waveform(steps_room(SECONDS, interval=0.3 + 0.06 * i), RATE))
        at = steps_of(i)
        notes = (at, at + 0.2, np.full(len(at), 60 + i % 3), np.full(len(at), 80))
        write_midi(folder / f"{i}.mid", Score(SECONDS, (Part("harp", 46, False, "melody", *notes),)))
        split = "validation" if i in (3, 6) else "train"
        pairs.append(Pair(f"{i}.wav", None, split=split, score=f"{i}.mid"))
    write_pairs(folder, pairs)
    prepare(folder, folder / "shards", load_codec(codec_folder), AMBIENT)
    return folder / "shards"


def test_where_the_held_out_loss_turns_the_best_weights_are_kept(shards, tmp_path, monkeypatch) -> None:
    """Of losses 5, 4, 3, 6, 6 and patience 2, the run ends at step 4 with the weights of step 2."""
    losses = [5.0, 4.0, 3.0, 6.0, 6.0, 1.0]

    seen: list[dict[str, torch.Tensor]] = []

    def contrast(self, average, batch, alone):
        seen.append({name: value.clone() for name, value in average.own_state().items()})
        return {"true": torch.full((2,), losses[len(seen) - 1])}

    monkeypatch.setattr("silent2music.training.composer._Composing.contrast", contrast)
    recipe = with_training(max_steps=20, validate_every=1, patience=2, checkpoint_minutes=0.0)
    folder = train_composer(recipe, shards, tmp_path / "run")
    assert len(seen) == 5
    kept = load_file(folder / "model.safetensors")
    assert all(torch.equal(kept[name].float(), as_stored(value).float()) for name, value in seen[2].items())
    assert any(not torch.equal(seen[2][name], seen[4][name]) for name in seen[2])
    # Resumed after its end, it stays ended.
    train_composer(recipe, shards, tmp_path / "run", resume=True)
    assert len(seen) == 5
    assert all(
        torch.equal(load_file(folder / "model.safetensors")[name], value) for name, value in kept.items()
    )


@pytest.mark.slow
def test_events_met_by_notes_are_learned(shards, tmp_path) -> None:
    recipe = with_training(max_steps=120, validate_every=120, control_dropout={"room": 0.2})
    composer = Composer.from_pretrained(train_composer(recipe, shards, tmp_path / "run"))
    last = json.loads((tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert last["validation_true"] < 0.7 * last["validation_shuffled"]
    assert last["validation_true"] < 0.7 * last["validation_dropped"]

    held_out = PairDataset(shards, "validation", controls=composer.config.controls, needs=("score",))
    hits, others = [], []
    packed = PackedComposer(composer)
    for index, room in enumerate((3, 6)):
        with torch.inference_mode():
            conditioning = composer.steer(held_out.crop(index).signals)
        frames = write_frames(packed, [conditioning], ComposingConfig(guidance=1.0), 0)
        written = Manuscript.of(frames).written()
        onsets = written.frames[written.fields[:, 0] >= FIRST_PART] / 25.0
        for steps, found in ((steps_of(room), hits), (steps_of(9 - room), others)):
            found += [bool(len(onsets)) and np.abs(onsets - step).min() <= 0.06 for step in steps]
    assert np.mean(hits) > np.mean(others) + 0.3
    # What training scores lack is never written.
    assert composer.known_symbols[FIRST_PART:].sum() == 1


def test_a_resumed_run_equals_an_uninterrupted_one(shards, tmp_path) -> None:
    settings = with_training(checkpoint_minutes=0.0, max_steps=4)
    assert_resumes(partial(train_composer, settings, shards), tmp_path, step=2)
    with pytest.raises(CheckpointError, match="holds a run already"):
        train_composer(settings, shards, tmp_path / "parts")


def test_a_start_gives_the_encoder_of_a_model_or_all_of_a_composer(shards, model_folder, tmp_path) -> None:
    sizes = dataclasses.replace(RECIPE, ambient=dataclasses.replace(AMBIENT, dropout=0.1))
    still = dataclasses.replace(
        sizes, training=dataclasses.replace(RECIPE.training, max_steps=1, learning_rate=0.0)
    )
    from_model = train_composer(still, shards, tmp_path / "model", start=model_folder)
    model = Silent2Music.from_pretrained(model_folder)
    composer = Composer.from_pretrained(from_model)
    for name, value in model.embedder.state_dict().items():
        assert torch.equal(composer.embedder.state_dict()[name], value), name
    again = train_composer(still, shards, tmp_path / "composer", start=from_model)
    for name, value in load_file(from_model / "model.safetensors").items():
        assert torch.equal(load_file(again / "model.safetensors")[name], value), name
    wider = dataclasses.replace(still, composer=dataclasses.replace(RECIPE.composer, dim=64))
    with pytest.raises(CheckpointError, match="has shape"):
        train_composer(wider, shards, tmp_path / "wider", start=model_folder)


def test_what_a_recipe_trains_is_named(shards, tmp_path) -> None:
    with pytest.raises(ConfigError, match="trains 'choir'; expected model, composer or sketch"):
        train_recipe(dataclasses.replace(RECIPE, trains="choir"), shards, None, tmp_path / "a")
    with pytest.raises(ConfigError, match="give --codec"):
        train_recipe(dataclasses.replace(RECIPE, trains="model"), shards, None, tmp_path / "b")
    other = dataclasses.replace(RECIPE, ambient=dataclasses.replace(AMBIENT, n_mels=8))
    with pytest.raises(ConfigError, match=r"was prepared with ambient\.n_mels 16 and the recipe has 8"):
        train_composer(other, shards, tmp_path / "c")
    with pytest.raises(ConfigError, match="training pairs with scores"):
        train_composer(with_training(batch_size=64), shards, tmp_path / "c")


def test_losses_of_padding_do_not_count(shards) -> None:
    dataset = PairDataset(shards, "train", controls=RECIPE.controls, needs=("score",), whole_scores=True)
    torch.manual_seed(0)
    composer = Composer(dataclasses.replace(RECIPE.composer, ambient=AMBIENT)).eval()
    crop = dataset.crop(0)
    n_frames = crop.signals.n_frames
    with torch.inference_mode():
        alone = composer(Pages.of(crop.scores, [0], n_frames, 25.0), crop.signals)
        padded = crop.signals.held(10)
        padded = dataclasses.replace(padded, mask=torch.arange(n_frames + 10)[None] < n_frames)
        longer = composer(Pages.of(crop.scores, [0], n_frames + 10, 25.0), padded)
    for name, value in alone.items():
        assert float(longer[name][0]) == pytest.approx(float(value[0]), rel=1e-4), name
