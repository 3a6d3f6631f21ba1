import dataclasses
import json
import os
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from conftest import RATE, reset_accelerate, steps_room
from resuming import assert_resumes, assert_same_states
from safetensors.torch import load_file
from test_cli import full_disk

from silent2music.audio import Waveform, write
from silent2music.bundled_codec import BundledCodec
from silent2music.codec import load_codec
from silent2music.config import AmbientConfig, DecoderConfig, RecipeConfig, SketchConfig, TrainingConfig
from silent2music.data.pairs import Pair, write_pairs
from silent2music.data.shards import PairDataset, batches, prepare
from silent2music.errors import AudioError, CheckpointError, ConfigError, DataError, S2MError
from silent2music.files import claimed
from silent2music.model import OF_TOKENS, Silent2Music
from silent2music.score import Part, Score, write_midi
from silent2music.sketch import Sketch, SketchNotes
from silent2music.training import learner, running
from silent2music.training.loop import build_model, train
from silent2music.training.running import learning_rate, resolved_precision

AMBIENT = AmbientConfig(dim=32, n_layers=1, n_mels=16, n_fft=512, n_global_tokens=2, dropout=0.1)
RECIPE = RecipeConfig(
    ambient=AMBIENT,
    decoder=DecoderConfig(dim=32, n_layers=2, n_heads=2, attention_window=30, dropout=0.1),
    training=TrainingConfig(
        batch_size=2,
        crop_seconds=1.0,
        learning_rate=3e-3,
        warmup_steps=2,
        max_steps=6,
        validate_every=3,
        n_validation_pairs=2,
        mixed_precision="no",
    ),
)


def with_training(**settings) -> RecipeConfig:
    return dataclasses.replace(RECIPE, training=dataclasses.replace(RECIPE.training, **settings))


@pytest.fixture(scope="module")
def shards(tmp_path_factory, codec_folder):
    """Six pairs whose music sounds exactly at the room's steps."""
    folder = tmp_path_factory.mktemp("pairs")
    pairs = []
    for i in range(6):
        interval = 0.25 + 0.05 * i
        room = steps_room(2.0, interval=interval)
        t = np.arange(2 * RATE) / RATE
        music = 0.3 * np.sin(2 * np.pi * 220 * 2 ** (i / 4) * t) * np.exp(-((t - 0.1) % interval) / 0.1)
        write(folder / f"{i}.silent.wav", Waveform(room, RATE))
        write(folder / f"{i}.music.wav", Waveform(music[None].astype(np.float32), RATE))
        score = f"{i}.mid" if i != 3 else None  # not every pair has one
        if score is not None:
            notes = (np.array([0.1]), np.array([1.5]), np.array([57 + 3 * i]), np.array([90]))
            write_midi(folder / score, Score(2.0, (Part("x", 0, False, "", *notes),)))
        split = "validation" if i > 3 else "train"
        pairs.append(Pair(f"{i}.silent.wav", f"{i}.music.wav", score=score, split=split))
    write_pairs(folder, pairs)
    prepare(folder, folder / "shards", load_codec(codec_folder), AMBIENT)
    return folder / "shards"


def weights(out):
    return load_file(out / "state.safetensors")


def log(out, key):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


def test_a_resumed_run_equals_an_uninterrupted_one(shards, codec_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "my-own-machine")
    # Steps that straddle the end of an epoch of two batches.
    settings = {"gradient_accumulation": 3, "checkpoint_minutes": 0.0}
    assert_resumes(partial(train, with_training(**settings), shards, codec_folder), tmp_path, step=4)
    assert log(tmp_path / "parts", "loss") == log(tmp_path / "whole", "loss")
    events = list((tmp_path / "whole").rglob("events.*"))
    assert events
    for file in events:
        assert "my-own-machine" not in file.name and b"my-own-machine" not in file.read_bytes()


def test_a_few_pairs_are_learned_with_their_rooms(shards, codec_folder, tmp_path):
    recipe = with_training(
        max_steps=150,
        batch_size=4,
        validate_every=150,
        ema_decay=0.9,
        control_dropout={"room": 0.25},
        warmup_steps=10,
    )
    folder = train(recipe, shards, codec_folder, tmp_path / "run")
    model = Silent2Music.from_pretrained(folder)

    batch = next(batches(PairDataset(shards, "train", 1.0), 4, epoch=0))
    with torch.inference_mode():
        contrast = model.contrast(batch.codes, batch.signals)
    uniform = np.log(32)
    assert float(contrast["true"].mean()) < 0.6 * uniform
    assert float(contrast["true"].mean()) < float(contrast["shuffled"].mean()) - 0.05
    assert float(contrast["true"].mean()) < float(contrast["dropped"].mean()) - 0.05
    from silent2music.evaluation.likelihood import contrast_text, room_contrast

    found = room_contrast(model, shards, crop_seconds=1.0, batch_size=2)
    assert found["n_pairs"] == 2
    shuffled, true = found["losses"]["shuffled"], found["losses"]["true"]
    assert true["low"] <= true["mean"] <= true["high"]
    assert found["shuffled_minus_true"]["mean"] == pytest.approx(shuffled["mean"] - true["mean"])
    assert "shuffled - true" in contrast_text(found)
    assert room_contrast(model, shards, crop_seconds=1.0, batch_size=3)["n_pairs"] == 2
    with pytest.raises(DataError, match="has 2 validation pairs"):
        room_contrast(model, shards, n_pairs=1, crop_seconds=1.0)


def test_self_play_prefers_real_music_to_what_was_drawn_before(shards, codec_folder, tmp_path):
    """For draws by other seeds than those of the training, and more than likelihood alone does."""
    from silent2music.training.loop import _Opponent

    recipe = with_training(max_steps=60, batch_size=4, ema_decay=0.9, warmup_steps=10)
    first = train(recipe, shards, codec_folder, tmp_path / "first")
    batch = next(batches(PairDataset(shards, "train", 1.0), 4, epoch=0))
    rows, more_rows = batch.signals, batch.signals.rows([*range(4)] * 4)
    before = _Opponent(Silent2Music.from_pretrained(first))
    drawn = torch.cat([before.draw(rows, None, seed=10_000 + i) for i in range(4)])
    assert torch.equal(drawn[:4], before.draw(rows, None, seed=10_000))
    margins = []
    for weight in (0.0, 1.0):
        settings = {"max_steps": 30, "learning_rate": 1e-3, "batch_size": 4, "ema_decay": 0.9}
        recipe = with_training(**settings, selfplay_weight=weight)
        after = _Opponent(
            Silent2Music.from_pretrained(
                train(recipe, shards, codec_folder, tmp_path / f"{weight}", start=first)
            )
        )
        gained = [
            float((before.losses(codes, own, None) - after.losses(codes, own, None)).mean())
            for codes, own in ((batch.codes, rows), (drawn, more_rows))
        ]
        margins.append(gained[0] - gained[1])
    assert margins[1] > margins[0] + 0.02


def test_self_play_resumes_and_needs_an_opponent(shards, codec_folder, tmp_path):
    first = train(with_training(max_steps=1), shards, codec_folder, tmp_path / "first")
    with pytest.raises(ConfigError, match="give --start"):
        train(with_training(selfplay_weight=1.0), shards, codec_folder, tmp_path / "alone")
    folders = []
    for name, parts in (("whole", (4,)), ("parts", (2, 4))):
        folders.append(tmp_path / name)
        for steps in parts:
            # A rate that does not depend on where the run ends.
            recipe = with_training(selfplay_weight=1.0, max_steps=steps, warmup_steps=100)
            train(recipe, shards, codec_folder, folders[-1], resume=steps != parts[0], start=first)
    whole, parts = map(weights, folders)
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_self_play_draws_in_a_half_precision_run_too(shards, codec_folder, tmp_path):
    recipe = with_training(max_steps=1, mixed_precision="bf16")
    first = train(recipe, shards, codec_folder, tmp_path / "first")
    recipe = with_training(max_steps=2, mixed_precision="bf16", selfplay_weight=1.0)
    second = train(recipe, shards, codec_folder, tmp_path / "second", start=first)
    before, after = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


def test_fine_tuning_starts_from_the_weights_given(shards, codec_folder, tmp_path):
    first = train(RECIPE, shards, codec_folder, tmp_path / "first")
    still = with_training(max_steps=1, learning_rate=0.0)
    second = train(still, shards, codec_folder, tmp_path / "second", start=first)
    before, after = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_fine_tuning_with_other_sizes_is_named(shards, codec_folder, tmp_path):
    first = train(with_training(max_steps=1), shards, codec_folder, tmp_path / "first")
    other = dataclasses.replace(RECIPE, decoder=dataclasses.replace(RECIPE.decoder, dim=48))
    with pytest.raises(CheckpointError, match="expects"):
        train(other, shards, codec_folder, tmp_path / "other", start=first)


@pytest.fixture(scope="module")
def sketched_start(shards, codec_folder, tmp_path_factory):
    """A model folder of other tokens and one layer, with a sketch of this codec beside it."""
    folder = tmp_path_factory.mktemp("start")
    recipe = dataclasses.replace(RECIPE, decoder=dataclasses.replace(RECIPE.decoder, n_layers=1))
    torch.manual_seed(3)
    model = build_model(recipe, load_codec(codec_folder), 2)
    model.save_pretrained(folder / "model")
    codec = load_codec(codec_folder)
    config = SketchConfig(
        ambient=AMBIENT, codec=codec.config, codec_checksum=codec.token_checksum(), note_dim=16, n_harmonics=4,
        n_bands=4, dim=16, n_layers=1, room_dim=4,
    )  # fmt: skip
    Sketch(config, codec.components).save_pretrained(folder / "model" / "sketch")
    return folder / "model"


def test_the_decoder_learns_under_the_sketch_from_a_model_of_other_tokens(
    shards, codec_folder, sketched_start, tmp_path
):
    recipe = with_training(max_steps=4, warmup_steps=100, sketch_dropout=0.5)
    whole = train(recipe, shards, codec_folder, tmp_path / "whole", start=sketched_start)
    short = with_training(max_steps=2, warmup_steps=100, sketch_dropout=0.5)
    train(short, shards, codec_folder, tmp_path / "parts", start=sketched_start)
    parts = train(recipe, shards, codec_folder, tmp_path / "parts", resume=True, start=sketched_start)
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()
    before = Sketch.from_pretrained(sketched_start / "sketch").state_dict()
    model = Silent2Music.from_pretrained(whole)
    assert all(torch.equal(value, before[name]) for name, value in model.sketch.state_dict().items())
    strength = build_model(RECIPE, model.codec, 4, True).decoder.guide.log_strength
    assert not torch.equal(model.decoder.guide.log_strength, strength)
    for name in ("true", "shuffled", "dropped", "other_score", "no_score"):
        values = log(tmp_path / "whole", f"validation_{name}")
        assert values and all(np.isfinite(values))


def test_a_start_of_other_tokens_gives_what_does_not_belong_to_them(shards, codec_folder, sketched_start):
    model = build_model(RECIPE, load_codec(codec_folder), 4, True)
    fresh = {name: value.clone() for name, value in model.own_state().items()}
    model.start_from(sketched_start)
    own, theirs = model.own_state(), load_file(sketched_start / "model.safetensors")
    assert torch.equal(own["decoder.blocks.0.qkv.weight"], theirs["decoder.blocks.0.qkv.weight"].float())
    assert all(torch.equal(own[name], fresh[name]) for name in OF_TOKENS)
    block = model.eval().decoder.blocks[1]
    x = torch.randn(1, 3, 32)
    cos_sin = torch.ones(3, 4), torch.zeros(3, 4)
    assert torch.equal(block(x, torch.ones(3, 3, dtype=torch.bool), 0, *cos_sin)[0], x)


def test_pairs_without_a_score_have_no_sketch(shards):
    dataset = PairDataset(shards, "train", 1.0, wants=("score",), whole_scores=True)
    batch = next(batches(dataset, 4, epoch=0))
    assert list(batch.scored) == [not name.startswith("3.") for name in batch.ids]
    notes = SketchNotes.of(batch.scores, batch.starts, batch.signals.n_frames, 25.0)
    row = batch.ids.index(next(name for name in batch.ids if name.startswith("3.")))
    assert not ((notes.rows // batch.signals.n_frames) == row).any()


def test_validation_reports_three_rooms(shards, codec_folder, tmp_path):
    train(RECIPE, shards, codec_folder, tmp_path / "run")
    for name in ("true", "shuffled", "dropped"):
        values = log(tmp_path / "run", f"validation_{name}")
        assert len(values) == 2 and all(np.isfinite(values))


def test_a_run_is_not_overwritten_by_accident(shards, codec_folder, tmp_path):
    train(with_training(max_steps=1), shards, codec_folder, tmp_path / "run")
    with pytest.raises(CheckpointError, match="--resume"):
        train(RECIPE, shards, codec_folder, tmp_path / "run")


def test_two_runs_in_one_folder_do_not_meet_and_a_refused_one_leaves_nothing(shards, codec_folder, tmp_path):
    with (
        claimed(tmp_path / "run"),
        pytest.raises(AudioError, match="run is being written by another command"),
    ):
        train(RECIPE, shards, codec_folder, tmp_path / "run")
    with pytest.raises(ConfigError, match="has 4 training pairs"):
        train(with_training(batch_size=5), shards, codec_folder, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_other_features_than_the_shards_have_are_named(shards, codec_folder, tmp_path):
    other = dataclasses.replace(RECIPE, ambient=dataclasses.replace(AMBIENT, n_mels=20))
    with pytest.raises(
        ConfigError, match=r"ambient\.n_mels 16 and the recipe has 20; set ambient\.n_mels=16"
    ):
        train(other, shards, codec_folder, tmp_path / "run")


def test_a_finished_run_whose_model_is_gone_is_made_again(shards, codec_folder, tmp_path):
    folder = train(with_training(max_steps=1), shards, codec_folder, tmp_path / "run")
    before = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    shutil.rmtree(folder)
    assert train(with_training(max_steps=1), shards, codec_folder, tmp_path / "run", resume=True) == folder
    assert {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert log(tmp_path / "run", "step") == [1, 1]  # its loss and its validation, once


def test_the_log_has_each_step_once_whatever_was_killed(tmp_path):
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in (20, 40, 60)]
    (tmp_path / "log.jsonl").write_text("\n".join([*lines, '{"step": 80, "lo']))
    running._forget_after(tmp_path / "log.jsonl", 40)
    assert log(tmp_path, "step") == [20, 40]
    running._forget_after(tmp_path / "log.jsonl", 0)
    assert log(tmp_path, "step") == []


def test_a_full_disk_is_one_sentence_and_leaves_the_last_checkpoint(shards, codec_folder, tmp_path):
    train(with_training(max_steps=1), shards, codec_folder, tmp_path / "run")
    before = (tmp_path / "run" / "state.safetensors").read_bytes()
    with full_disk(), pytest.raises(S2MError, match="cannot be written"):
        train(with_training(max_steps=2), shards, codec_folder, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "state.safetensors").read_bytes() == before
    assert not list((tmp_path / "run").rglob(".s2m-*"))
    reset_accelerate()
    assert train(with_training(max_steps=2), shards, codec_folder, tmp_path / "run", resume=True)


def test_a_run_whose_folder_vanishes_says_so(shards, codec_folder, tmp_path, monkeypatch):
    update = learner.Learner.update

    def vanish(trained, step):
        shutil.rmtree(tmp_path / "run")
        return update(trained, step)

    monkeypatch.setattr(learner.Learner, "update", vanish)
    with pytest.raises(S2MError, match="run cannot be written"):
        train(with_training(max_steps=1), shards, codec_folder, tmp_path / "run")


def test_a_damaged_state_is_not_called_missing(shards, codec_folder, tmp_path):
    train(with_training(max_steps=1), shards, codec_folder, tmp_path / "run")
    (tmp_path / "run" / "state.safetensors").write_bytes(b"cut")
    with pytest.raises(
        CheckpointError, match=r"state\.safetensors is damaged .* begin a run in another folder"
    ):
        train(RECIPE, shards, codec_folder, tmp_path / "run", resume=True)


def test_resume_without_a_state_is_named(shards, codec_folder, tmp_path):
    with pytest.raises(CheckpointError, match="no state to resume from"):
        train(RECIPE, shards, codec_folder, tmp_path / "run", resume=True)


def test_resume_with_other_sizes_is_named(shards, codec_folder, tmp_path):
    train(with_training(max_steps=1), shards, codec_folder, tmp_path / "run")
    other = dataclasses.replace(RECIPE, decoder=dataclasses.replace(RECIPE.decoder, dim=48))
    with pytest.raises(CheckpointError, match="does not fit the recipe"):
        train(other, shards, codec_folder, tmp_path / "run", resume=True)


def test_all_weights_in_training_have_a_gradient(shards, codec_folder):
    """Several processes wait for one another's gradients: without one of the codec's learned decoder, too."""
    sizes = dataclasses.replace(load_codec(codec_folder).config, decoder_layers=2, correction_dim=8)
    model = build_model(RECIPE, BundledCodec(sizes), sizes.n_codebooks)
    batch = next(batches(PairDataset(shards, "train", 1.0), 2, epoch=0))
    model(batch.codes, batch.signals).mean().backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.slow
def test_two_processes_train_one_model_and_end_together(shards, codec_folder, tmp_path):
    settings = "[ambient]\ndim = 32\nn_layers = 1\nn_mels = 16\nn_fft = 512\n"
    settings += (
        "[decoder]\ndim = 32\nn_layers = 1\nn_heads = 2\n[training]\nbatch_size = 2\ncrop_seconds = 1.0\n"
    )
    settings += 'max_minutes = 0.02\nvalidate_every = 3\nn_validation_pairs = 2\nmixed_precision = "no"\n'
    (tmp_path / "recipe.toml").write_text(settings)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = ["-m", "silent2music.cli", "train", "recipe.toml", "--shards", shards, "--codec", codec_folder]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*launcher, *command, "--out", "run"], cwd=tmp_path, env=environment, check=True, timeout=300
    )
    steps = log(tmp_path / "run", "step")
    assert steps == sorted(steps) and log(tmp_path / "run", "validation_dropped")
    true, shuffled = (log(tmp_path / "run", f"validation_{name}")[-1] for name in ("true", "shuffled"))
    assert true != shuffled
    assert Silent2Music.from_pretrained(tmp_path / "run" / "model")


@pytest.mark.slow
def test_two_processes_resume_as_they_would_have_gone_on(shards, codec_folder, tmp_path):
    settings = "[ambient]\ndim = 32\nn_layers = 1\nn_mels = 16\nn_fft = 512\n"
    settings += "[decoder]\ndim = 32\nn_layers = 1\nn_heads = 2\n[training]\nbatch_size = 2\n"
    settings += 'crop_seconds = 1.0\nwarmup_steps = 100\nn_validation_pairs = 2\nmixed_precision = "no"\n'
    (tmp_path / "recipe.toml").write_text(settings)
    command = ["train", "recipe.toml", "--shards", str(shards), "--codec", str(codec_folder)]
    lines = [
        [*command, "--out", out, "--set", f"training.max_steps={n_steps}", *more]
        for out, n_steps, more in (("whole", 4, []), ("parts", 2, []), ("parts", 4, ["--resume"]))
    ]
    # Forked by a process that has loaded what they need, and has trained nothing yet, which torch requires; one run
    # after the other in the same two, as the parts of a model are tuned.
    code = (
        "import json, sys\nfrom accelerate import debug_launcher\nfrom torch.utils import tensorboard\n"
        "from silent2music.cli import main\nfrom silent2music.training import loop, recipe\n"
        "def all_of(lines):\n    for line in lines: main(line)\n"
        "debug_launcher(all_of, (json.loads(sys.argv[1]),), num_processes=2)"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-c", code, json.dumps(lines)],
        cwd=tmp_path, env=environment, check=True, timeout=600,
    )  # fmt: skip
    assert_same_states(tmp_path)


def test_a_model_of_the_first_codebooks(shards, codec_folder, tmp_path):
    """Shards decide how many codebooks the model writes; its codec keeps all."""
    prepare(shards.parent, tmp_path / "shards", load_codec(codec_folder), AMBIENT, n_codebooks=2)
    folder = train(with_training(max_steps=1), tmp_path / "shards", codec_folder, tmp_path / "run")
    model = Silent2Music.from_pretrained(folder)
    assert (model.config.decoder.n_codebooks, model.codec.n_codebooks) == (2, 4)


def test_too_few_pairs_for_a_batch_are_named(shards, codec_folder, tmp_path):
    with pytest.raises(ConfigError, match="has 4 training pairs"):
        train(with_training(batch_size=5), shards, codec_folder, tmp_path / "run")


def test_learning_rate_warms_up_and_decays():
    config = {"peak": 1.0, "warmup_steps": 10, "max_steps": 110}
    assert learning_rate(0, **config) == pytest.approx(0.1)
    assert learning_rate(10, **config) == pytest.approx(1.0)
    assert learning_rate(60, **config) == pytest.approx(0.51)
    assert learning_rate(110, **config) == pytest.approx(0.02)
    assert learning_rate(500, **config) == pytest.approx(0.02)


def test_precision_is_decided_by_the_hardware(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True, "amx_bf16": False}, raising=False
    )
    assert resolved_precision("auto") == "no"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    assert resolved_precision("auto") == "bf16"
    assert resolved_precision("no") == "no"
    with pytest.raises(ConfigError, match="'fp8'; expected auto, bf16 or no"):
        resolved_precision("fp8")
