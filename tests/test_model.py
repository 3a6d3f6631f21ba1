import json
import shutil
import sys
import types
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import RATE, steps_room

from silent2music.ambient import AmbientFeatures, n_features, n_scalars
from silent2music.arrays import FloatArray
from silent2music.audio import Leveller, Waveform, write
from silent2music.audio.loudness import AHEAD_FRAMES
from silent2music.config import SamplingConfig
from silent2music.errors import AudioError, CheckpointError, ConfigError, S2MError
from silent2music.listening import repeated
from silent2music.model import Silent2Music
from silent2music.signals import Signals, read_signals

SAMPLING = SamplingConfig(seed=3, guidance=1.5)


@pytest.fixture(scope="module")
def model(model_folder):
    return Silent2Music.from_pretrained(model_folder)


def room(seconds=2.0, interval=0.5):
    return Waveform(steps_room(seconds, interval=interval), RATE)


@pytest.mark.parametrize("seconds", [0.5, 1.0, 1.23457, 3.1])
def test_the_length_is_exact_to_the_sample(model, seconds):
    music = model.generate(room(), SAMPLING, seconds=seconds)
    assert music.samples.shape == (1, round(seconds * RATE))
    assert music.sample_rate == RATE


def test_default_length_is_the_rooms(model):
    take = Waveform(np.tile(steps_room(1.3, 44_100), (8, 1)), 44_100)
    assert model.generate(take, SAMPLING).n_samples == round(take.seconds * RATE)


def test_same_seed_same_music_other_seed_or_room_other_music(model):
    first = model.generate(room(), SAMPLING).samples
    assert np.array_equal(first, model.generate(room(), SAMPLING).samples)
    assert not np.array_equal(first, model.generate(room(), SamplingConfig(seed=4, guidance=1.5)).samples)
    assert not np.array_equal(first, model.generate(room(interval=0.3), SAMPLING).samples)


def test_changed_weights_change_the_music(model_folder):
    model = Silent2Music.from_pretrained(model_folder)
    first = model.generate(room(), SAMPLING).samples
    with torch.no_grad():
        model.decoder.bias.neg_()
    assert not np.array_equal(first, model.generate(room(), SAMPLING).samples)


def test_without_the_room_all_rooms_are_alike(model):
    a = model.generate(room(), SAMPLING, without=("room",)).samples
    b = model.generate(room(interval=0.3), SAMPLING, without=("room",)).samples
    assert np.array_equal(a, b)


def test_a_batch_of_unequal_rooms_equals_single_ones(model):
    rooms = [room(1.0), room(2.0, 0.3)]
    both = model.generate_batch(rooms, SAMPLING, [5, 6])
    for one, seed, music in zip(rooms, (5, 6), both, strict=True):
        alone = model.generate_batch([one], SAMPLING, [seed])[0]
        np.testing.assert_allclose(music.samples, alone.samples, atol=1e-5)


def pairs(model, n=4, frames=20):
    g = torch.Generator().manual_seed(0)
    config = model.config
    codes = torch.randint(
        0, config.decoder.codebook_size, (n, config.decoder.n_codebooks, frames), generator=g
    )
    rows = []
    for _ in range(n):
        features = torch.randn(frames, n_features(config.ambient), generator=g)
        scalars = torch.randn(n_scalars(config.ambient), generator=g)
        room = AmbientFeatures(features.numpy(), scalars.numpy())
        rows.append(read_signals(config.controls, {"room": room}, 0, frames))
    return codes, Signals.collate(rows)


def test_loss_is_the_logits_cross_entropy_in_the_right_cells(model):
    codes, signals = pairs(model, n=1, frames=7)
    with torch.inference_mode():
        conditioning = model.condition(signals)
        nll = model.token_nll(codes, conditioning)
        logits = model.decoder(model.decoder.pattern.apply(codes), conditioning).log_softmax(dim=-1)
    for k in range(codes.shape[1]):
        expected = -sum(logits[0, k, t + k, codes[0, k, t]] for t in range(7)) / 7
        torch.testing.assert_close(nll[0, k], expected)


def test_padding_does_not_count(model):
    codes, signals = pairs(model, n=2)
    short = Signals.collate([signals.rows([0]), signals.rows([1]).slice(0, 12)])
    assert short.mask.sum(dim=1).tolist() == [20, 12]
    with torch.inference_mode():
        padded = model(codes, short)
        single = model(codes[1:, :, :12], signals.rows([1]).slice(0, 12))
    torch.testing.assert_close(padded[1:], single, atol=1e-5, rtol=1e-4)


def test_contrast_names_three_rooms(model):
    with torch.inference_mode():
        contrast = model.contrast(*pairs(model))
    assert set(contrast) == {"true", "shuffled", "dropped"}
    assert not torch.allclose(contrast["true"], contrast["shuffled"])
    assert not torch.allclose(contrast["true"], contrast["dropped"])


def test_a_room_is_given_in_any_form(model, tmp_path):
    take = room()
    write(tmp_path / "room.wav", take)
    expected = model.generate(take, SAMPLING)
    assert np.array_equal(model.generate(take, replace(SAMPLING, seed=9), seed=3).samples, expected.samples)
    for given in (take.samples, take.samples[0]):
        assert np.array_equal(model.generate(given, SAMPLING, sample_rate=RATE).samples, expected.samples)
    stored = model.generate(tmp_path / "room.wav", SAMPLING).samples
    np.testing.assert_allclose(stored, expected.samples, atol=1e-3)
    pieces = [piece.samples for piece in model.stream(str(tmp_path / "room.wav"), SAMPLING)]
    assert np.array_equal(np.concatenate(pieces, axis=1), stored)
    with pytest.raises(AudioError, match="give sample_rate"):
        model.generate(take.samples)
    with pytest.raises(AudioError, match="Samples are int16; expected floats"):
        model.generate((take.samples * 32767).astype(np.int16), sample_rate=RATE)


def test_a_piece_has_the_codes_that_it_was_made_of(model):
    piece = model.generate(room(), SAMPLING)
    assert piece.codes.shape == (4, 50) and piece.codes.dtype == np.int64
    played = [sound.samples for sound in model.play_codes(piece.codes, piece.seconds)]
    np.testing.assert_allclose(np.concatenate(played, axis=1), piece.samples, atol=1e-4)
    (batched,) = model.generate_batch([room()], SAMPLING, [3])
    assert np.array_equal(batched.codes, piece.codes)
    encoded = model.encode(piece)
    assert encoded.shape == piece.codes.shape
    expected = model.codec.encode(torch.from_numpy(piece.samples)[None], 4)[0].numpy()
    assert np.array_equal(encoded, expected)


def test_guidance_is_the_models_own_where_none_is_given(model):
    assert model.resolved(SamplingConfig()).guidance == model.config.guidance == 1.5
    given = model.generate(room(), SamplingConfig(seed=3)).samples
    assert np.array_equal(given, model.generate(room(), SAMPLING).samples)
    assert not np.array_equal(given, model.generate(room(), SamplingConfig(seed=3, guidance=4.0)).samples)


def test_an_unknown_control_is_named(model):
    with pytest.raises(ConfigError, match=r"'tiny' has no control 'tempo'; it follows the room alone"):
        model.generate(room(), tempo=90)


def test_the_hub_is_asked_only_for_names(monkeypatch, model_folder, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    Silent2Music.from_pretrained(model_folder)
    with pytest.raises(CheckpointError, match=r"is no model folder; check the name, or give --download"):
        Silent2Music.from_pretrained("someone/something")
    with pytest.raises(S2MError, match=r"huggingface_hub is not installed.*silent2music\[hub\]"):
        Silent2Music.from_pretrained("someone/something", download=True)

    def snapshot_download(name: str, allow_patterns: list[str], revision: str) -> str:
        assert (name, revision) == ("someone/something", "main")
        assert not any(pattern.endswith((".bin", ".pt", ".py", "*")) for pattern in allow_patterns)
        return str(model_folder)

    hub = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    loaded = Silent2Music.from_pretrained("someone/something", download=True, revision="main")
    assert loaded.config.name == "tiny"
    hub.snapshot_download = lambda name, **_: (_ for _ in ()).throw(OSError("no such repository"))
    with pytest.raises(CheckpointError, match="the hub does not give it"):
        Silent2Music.from_pretrained("someone/something", download=True)


def test_saved_and_loaded_is_the_same(model, tmp_path):
    model.save_pretrained(tmp_path / "copy")
    copy = Silent2Music.from_pretrained(tmp_path / "copy")
    assert copy.config == model.config
    assert np.array_equal(copy.generate(room(), SAMPLING).samples, model.generate(room(), SAMPLING).samples)


@pytest.fixture
def damaged(model_folder, tmp_path):
    return shutil.copytree(model_folder, tmp_path / "damaged")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "codec"])
def test_a_missing_file_is_named(damaged, name):
    path = damaged / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(CheckpointError, match=f"has no {name}"):
        Silent2Music.from_pretrained(damaged)


def test_truncated_weights_are_named(damaged):
    file = damaged / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        Silent2Music.from_pretrained(damaged)


def edit_config(folder, change):
    file = folder / "config.json"
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def test_config_and_weights_that_differ_are_named(damaged):
    edit_config(damaged, lambda v: v["decoder"].update(n_layers=2))
    with pytest.raises(CheckpointError, match=r"'decoder\.blocks\.1\..*' is missing from"):
        Silent2Music.from_pretrained(damaged)


def test_shapes_that_differ_are_named(damaged):
    edit_config(damaged, lambda v: v["ambient"].update(n_global_tokens=3))
    with pytest.raises(CheckpointError, match="has shape"):
        Silent2Music.from_pretrained(damaged)


def test_unknown_setting_is_named(damaged):
    edit_config(damaged, lambda v: v.update(size=3))
    with pytest.raises(CheckpointError, match="Unknown setting 'size'"):
        Silent2Music.from_pretrained(damaged)


def test_another_codec_is_refused(damaged):
    edit_config(damaged, lambda v: v.update(codec_checksum="0123"))
    with pytest.raises(CheckpointError, match="trained on codec tokens 0123"):
        Silent2Music.from_pretrained(damaged)


def test_a_codec_with_more_codebooks_than_the_model_writes(model, damaged):
    torch.manual_seed(0)
    config = replace(model.config, decoder=replace(model.config.decoder, n_codebooks=2))
    Silent2Music(config, model.codec).save_pretrained(damaged)
    few = Silent2Music.from_pretrained(damaged)
    few.save_pretrained(damaged)
    same = Silent2Music.from_pretrained(damaged)
    assert np.array_equal(same.generate(room(), SAMPLING).samples, few.generate(room(), SAMPLING).samples)
    assert json.loads((damaged / "config.json").read_text())["codec_checksum"] == model.codec.token_checksum()


@pytest.mark.parametrize("seconds", [1.0, 1.4, 7.77])
def test_a_short_room_is_repeated_without_a_gap(seconds):
    one = room(1.4, interval=0.2)
    longer = repeated(one, seconds)
    assert longer.n_samples == max(one.n_samples, int(np.ceil(seconds * RATE)))

    def quietest_db(take):
        frames = take.samples[0, : take.n_samples // 2400 * 2400].reshape(-1, 2400)
        return 10 * np.log10((frames**2).mean(axis=1)).min()

    assert quietest_db(longer) > quietest_db(one) - 3.0


def test_live_music_waits_for_no_attack(sketched_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ahead = Silent2Music.from_pretrained(sketched_folder), list[int]()

    class Noted(Leveller):
        def __init__(self, rate: int, wanted_db: Iterable[float], wanted_hz: float, n_ahead: int) -> None:
            ahead.append(n_ahead)
            super().__init__(rate, wanted_db, wanted_hz, n_ahead)

    monkeypatch.setattr("silent2music.model.Leveller", Noted)
    heard = Waveform(steps_room(2.0), RATE)
    live = list(model.stream(Waveform(heard.samples[:, i : i + 960], RATE) for i in range(0, 48_000, 960)))
    assert sum(sound.n_samples for sound in live) == 48_000
    model.generate(heard, seconds=1.0)
    assert ahead == [0, AHEAD_FRAMES]


def test_music_is_levelled_to_its_score_however_it_is_played(sketched_folder: Path) -> None:
    model = Silent2Music.from_pretrained(sketched_folder)
    room, sampling = Waveform(steps_room(3.0), RATE), SamplingConfig(seed=1)
    piece = model.generate(room, sampling)
    assert piece.score is not None and np.ptp(piece.score.gain_db) > 3.0
    before = model.decode(piece.codes).samples[:, : piece.n_samples]
    leveller = Leveller(piece.sample_rate, piece.score.gain_db, 10.0)
    levelled = np.concatenate([leveller(before), leveller.rest()], axis=1)
    assert np.abs(levelled - before).max() > 0.1 * np.abs(before).max()
    # Decoding piece by piece rounds otherwise.
    np.testing.assert_allclose(piece.samples, levelled, atol=1e-5)

    def whole(pieces: Iterable[Waveform]) -> FloatArray:
        return np.concatenate([sound.samples for sound in pieces], axis=1)

    np.testing.assert_array_equal(whole(model.stream(room, sampling)), piece.samples)
    np.testing.assert_array_equal(model.generate(room, sampling, score=piece.score).samples, piece.samples)
    np.testing.assert_array_equal(whole(model.play_codes(piece.codes, 3.0, piece.score)), piece.samples)
    np.testing.assert_allclose(whole(model.play_codes(piece.codes, 3.0)), before, atol=1e-5)
    plain = replace(piece.score, gain_db=np.zeros(0))
    given = model.generate(room, sampling, score=plain)
    np.testing.assert_allclose(
        given.samples, model.decode(given.codes).samples[:, : piece.n_samples], atol=1e-5
    )
