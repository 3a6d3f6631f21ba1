"""Signals and the table of controls: rows, dropping, and a control that a test adds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from rooms import RATE, steps_room
from torch import Tensor, nn

from silent2music import signals
from silent2music.ambient import AmbientFeatures, n_features, n_scalars
from silent2music.audio import Waveform, write
from silent2music.codec import load_codec
from silent2music.config import (
    ROOM_CONTROLS,
    AmbientConfig,
    DecoderConfig,
    ModelConfig,
    RecipeConfig,
    SamplingConfig,
    TrainingConfig,
)
from silent2music.data.pairs import Pair, write_pairs
from silent2music.data.shards import PairDataset, prepare
from silent2music.decoder import Conditioning, Decoder
from silent2music.errors import ConfigError
from silent2music.listening import listen_whole
from silent2music.model import Silent2Music
from silent2music.signals import CONTROLS, Control, Embedder, Signals, draw_kept, read_signals
from silent2music.training.loop import train

AMBIENT = AmbientConfig(dim=16, n_layers=1, n_mels=8, n_fft=512, n_global_tokens=2, dropout=0.0)
DECODER = DecoderConfig(
    dim=16, n_layers=1, n_heads=2, n_codebooks=2, codebook_size=8, codebook_dim=4, dropout=0.0
)


class Smooth(nn.Module):
    """Two steps a frame, seen with those of the frame before and after."""

    lookahead_frames = 1

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.convolve = nn.Conv1d(1, dim, 6, stride=2, padding=2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.convolve(x.transpose(1, 2)).transpose(1, 2)


class Token(nn.Module):
    """A number as one token."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(1, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x)[:, None]


def read_density(known, begin: int, end: int):
    """Notes a second, or a mistake in a sentence."""
    if "density" not in known:
        return None
    if not 0 <= known["density"] <= 20:
        raise ConfigError(f"density is {known['density']}; expected 0 to 20 notes a second.")
    return np.array([known["density"]], np.float32)


def read_beats(known, begin: int, end: int):
    """Half frames on which a beat falls, at 50 of them a second."""
    if "beats" not in known:
        return None
    steps = np.round(50 * np.asarray(known["beats"])).astype(int)
    return np.isin(np.arange(2 * begin, 2 * end), steps).astype(np.float32)[:, None]


TOYS = {
    "beats": Control("along", read_beats, lambda config, dim: Smooth(dim), rate=2, dropout=0.2),
    "density": Control("whole", read_density, lambda config, dim: Token(dim), dropout=0.3),
}


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Two more entries in the table."""
    for name, control in TOYS.items():
        monkeypatch.setitem(signals.CONTROLS, name, control)
    return (*ROOM_CONTROLS, *TOYS)


def one_row(n_frames: int, seed: int, names: tuple[str, ...], **known: object) -> Signals:
    rng = np.random.default_rng(seed)
    frames = rng.standard_normal((n_frames, n_features(AMBIENT))).astype(np.float32)
    room = AmbientFeatures(frames, rng.standard_normal(n_scalars(AMBIENT)).astype(np.float32))
    return read_signals(names, {"room": room, **known}, 0, n_frames)


def three_rows(names: tuple[str, ...]) -> Signals:
    """Rows of 12, 9 and 12 frames; the second has no beats, the third no density."""
    return Signals.collate(
        [
            one_row(12, 0, names, beats=[0.1, 0.3], density=3.0),
            one_row(9, 1, names, density=5.0),
            one_row(12, 2, names, beats=[0.2]),
        ]
    )


def make_embedder(names: tuple[str, ...]) -> Embedder:
    torch.manual_seed(0)
    embedder = Embedder(ModelConfig(controls=names, ambient=AMBIENT, decoder=DECODER)).eval()
    with torch.no_grad():
        for null in embedder.nulls.values():
            null.normal_()
    return embedder


def make_decoder() -> Decoder:
    torch.manual_seed(1)
    decoder = Decoder(DECODER, torch.randn(2, 8, 4)).eval()
    with torch.no_grad():
        decoder.head.normal_(std=0.1)
    return decoder


def logits(decoder: Decoder, conditioning: Conditioning) -> Tensor:
    codes = torch.randint(0, 8, (3, 2, 12), generator=torch.Generator().manual_seed(0))
    return decoder(decoder.pattern.apply(codes), conditioning)


def test_rows_of_different_lengths_are_padded_and_cut_again(toys) -> None:
    rows = three_rows(toys)
    assert (rows.n_rows, rows.n_frames) == (3, 12)
    assert rows.mask.sum(dim=1).tolist() == [12, 9, 12]
    assert rows.along["beats"].shape == (3, 24, 1)
    assert {name: there.tolist() for name, there in rows.present.items()} == {
        "room_frames": [True, True, True],
        "room_scalars": [True, True, True],
        "beats": [True, False, True],
        "density": [True, True, False],
    }
    assert not rows.along["room_frames"][1, 9:].any() and not rows.along["beats"][1].any()
    part, single = rows.slice(2, 7), one_row(12, 0, toys, beats=[0.1, 0.3], density=3.0).slice(2, 7)
    for name in single.along:
        assert torch.equal(part.along[name][:1], single.along[name])
    again = rows.slice(0, 5).then(rows.slice(5, 12))
    assert all(torch.equal(again.along[name], x) for name, x in rows.along.items())
    assert rows.to("cpu").rows([2, 0]).whole["density"].tolist() == [[0.0], [3.0]]


def test_a_padded_row_embeds_as_a_single_one_and_holds_its_last_step(toys) -> None:
    embedder = make_embedder(toys)
    with torch.inference_mode():
        padded, single = embedder(three_rows(toys)), embedder(one_row(9, 1, toys, density=5.0))
    torch.testing.assert_close(padded.frames[1:2, :9], single.frames)
    torch.testing.assert_close(padded.tokens[1:2], single.tokens)
    assert torch.equal(padded.frames[1, 9:], padded.frames[1, 8:9].expand(3, -1))


@pytest.mark.parametrize("name", [*ROOM_CONTROLS, *TOYS])
def test_a_control_dropped_in_one_row_leaves_the_other_rows_logits_bit_equal(toys, name: str) -> None:
    embedder, decoder, rows = make_embedder(toys), make_decoder(), three_rows(toys)
    dropped = rows.kept({name: torch.tensor([False, True, True])})
    with torch.inference_mode():
        before, after = (logits(decoder, embedder(each)) for each in (rows, dropped))
    assert torch.equal(before[1:], after[1:])
    assert not torch.allclose(before[0], after[0])


@pytest.mark.parametrize("dropped", [*ROOM_CONTROLS, *TOYS, "room"])
def test_dropping_a_control_changes_no_other_controls_embedding(toys, dropped: str) -> None:
    embedder, rows = make_embedder(toys), three_rows(toys)
    members = signals.members([dropped])
    assert members == (set(ROOM_CONTROLS) if dropped == "room" else {dropped})
    without = rows.without(dropped)
    by_row = rows.kept(dict.fromkeys(members, torch.zeros(3, dtype=torch.bool)))
    with torch.inference_mode():
        for name in toys:
            whole = embedder.embed(name, rows)
            for each in (without, by_row):
                found = embedder.embed(name, each)
                if name in members:
                    assert torch.equal(found, embedder.nulls[name].expand_as(found))
                else:
                    assert torch.equal(found, whole)
        assert torch.equal(embedder(without).frames, embedder(by_row).frames)


def test_another_rows_room_leaves_the_other_controls(toys) -> None:
    rows = three_rows(toys)
    other = rows.exchanged(rows.rows([1, 2, 0]), "room")
    assert torch.equal(other.whole["room_scalars"], rows.whole["room_scalars"][[1, 2, 0]])
    assert torch.equal(other.along["beats"], rows.along["beats"])
    assert torch.equal(other.present["density"], rows.present["density"]) and other.mask is rows.mask


def test_each_control_is_dropped_by_itself_and_a_groups_together(toys) -> None:
    torch.manual_seed(0)
    keep = draw_kept(toys, {"density": 0.5, "room_scalars": 0.1}, 20_000, torch.device("cpu"))
    lost = {name: ~there for name, there in keep.items()}
    shares = {name: float(there.float().mean()) for name, there in lost.items()}
    # Of the room's: all of them with 0.15, and the scalars by themselves with 0.1.
    expected = {"room_frames": 0.15, "room_scalars": 0.235, "beats": 0.2, "density": 0.5}
    assert shares == pytest.approx(expected, abs=0.015)
    assert not (lost["room_frames"] & ~lost["room_scalars"]).any()
    both = float((lost["beats"] & lost["density"]).float().mean())
    assert both == pytest.approx(0.1, abs=0.01)
    with pytest.raises(
        ConfigError, match=r"control_dropout names 'tempo'; expected some of room, room_frames"
    ):
        draw_kept(toys, {"tempo": 0.1}, 2, torch.device("cpu"))


def test_an_unknown_control_in_a_config_is_named() -> None:
    with pytest.raises(ConfigError, match=r"Control 'colour' is unknown; expected some of room_frames"):
        Embedder(ModelConfig(controls=("colour",), ambient=AMBIENT, decoder=DECODER))


def test_a_control_is_added_by_an_entry_a_setting_and_an_option(
    toys, codec_folder: Path, tmp_path: Path, s2m
) -> None:
    """From pairs to music: the table (the fixture), `controls` of the recipe, and an option's value."""
    pairs = []
    for i in range(4):
        names = f"{i}.silent.wav", f"{i}.music.wav"
        for name, gain in zip(names, (1.0, 20.0), strict=True):
            write(tmp_path / name, Waveform(gain * steps_room(2.0, interval=0.2 + 0.1 * i), RATE))
        labels = {"density": float(i), "beats": [0.1, 0.6]} if i else {}
        pairs.append(Pair(*names, split="validation" if i == 3 else "train", labels=labels))
    write_pairs(tmp_path, pairs)
    prepare(tmp_path, tmp_path / "shards", load_codec(codec_folder), AMBIENT)
    first = PairDataset(tmp_path / "shards", "train", 1.0).crop(1)
    expected = read_beats({"beats": [0.1, 0.6]}, first.starts[0], first.starts[0] + 25)
    assert np.array_equal(first.signals.along["beats"][0].numpy(), expected)
    recipe = RecipeConfig(
        controls=toys,
        ambient=AMBIENT,
        decoder=DecoderConfig(dim=16, n_layers=1, n_heads=2),
        training=TrainingConfig(
            batch_size=3,
            crop_seconds=1.0,
            max_steps=2,
            warmup_steps=1,
            learning_rate=0.01,
            ema_decay=0.0,
            mixed_precision="no",
            control_dropout={"density": 0.0},
        ),
    )
    folder = train(recipe, tmp_path / "shards", codec_folder, tmp_path / "run")
    model = Silent2Music.from_pretrained(folder)
    assert model.config.controls == toys
    for name in TOYS:
        assert any(weight.any() for weight in model.embedder.controls[name].parameters())
    assert model.embedder.nulls["density"].any()
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():  # Two steps have not taught it to listen.
            weight.add_(0.1 * torch.randn_like(weight))

    room, sampling = Waveform(steps_room(1.0), RATE), SamplingConfig(top_k=0, guidance=1.0)
    plain = model.generate(room, sampling)
    steered = model.generate(room, sampling, density=9.0)
    assert np.array_equal(plain.samples, model.generate(room, sampling).samples)
    assert not np.array_equal(steered.codes, plain.codes)
    on_beats = model.generate(room, sampling, beats=[0.2, 0.4])
    assert not np.array_equal(on_beats.codes, plain.codes)
    # In pieces and at once, with what both embedders along time look ahead to.
    assert np.array_equal(
        model.generate_batch([room], sampling, [0], beats=[0.2, 0.4])[0].codes, on_beats.codes
    )
    ignored = model.generate(room, sampling, density=9.0, without=("density",))
    assert np.array_equal(ignored.codes, plain.codes)
    # Guidance is away from the same without the room, so that a control left out does not come back as what to avoid.
    dense, unknown = (listen_whole(room, 1.0, model.config, known) for known in ({"density": 9.0}, {}))
    with torch.inference_mode():
        for found, expected in zip(model.steer(dense, ["density"]), model.steer(unknown), strict=True):
            assert torch.equal(found.tokens, expected.tokens)
        assert not torch.equal(model.steer(dense)[1].tokens, expected.tokens)
    (batched,) = model.generate_batch([room], sampling, [0], density=9.0)
    assert np.array_equal(batched.codes, steered.codes)
    with pytest.raises(ConfigError, match=r"has no control 'tempo'; expected beats, density"):
        model.generate(room, tempo=1)
    with pytest.raises(ConfigError, match=r"'rooms' is unknown; expected some of room_frames"):
        model.generate(room, without=("rooms",))

    write(tmp_path / "room.wav", room)
    command = ["infer", tmp_path / "room.wav", "-o", tmp_path / "out.wav", "--model", folder, "--json"]
    code, out, err = s2m(*command, "--control", "density=9.0", "--control", "beats=[0.2]")
    assert (code, err) == (0, "")
    assert '"controls": {\n      "density": 9.0,\n      "beats": [\n        0.2\n      ]' in out
    code, _, err = s2m(*command, "--force", "--control", "density=21")
    assert (code, err) == (1, "density is 21; expected 0 to 20 notes a second.\n")


def test_a_new_entry_changes_no_model_that_is_there(monkeypatch, model_folder: Path) -> None:
    room = Waveform(steps_room(1.0), RATE)
    before = Silent2Music.from_pretrained(model_folder).generate(room)
    for name, control in TOYS.items():
        monkeypatch.setitem(CONTROLS, name, dataclasses.replace(control))
    assert np.array_equal(Silent2Music.from_pretrained(model_folder).generate(room).samples, before.samples)
