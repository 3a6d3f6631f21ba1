"""Adapters: what they change, how several add up, and which are refused, in one sentence each."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

import silent2music as s2m_package
from silent2music.adapters import (
    ADAPTER_CONFIG,
    ADAPTER_FILE,
    PARTS,
    AdapterConfig,
    TunedPart,
    apply_adapters,
    file_digest,
    parse_adapter,
    read_adapter,
    read_adapters,
    write_adapter,
)
from silent2music.composer import ENSEMBLES
from silent2music.errors import CheckpointError, ConfigError
from silent2music.model import Silent2Music

RANK, ALPHA = 2, 6.0
WEIGHTS = {"composer": "state.weight", "sketch": "levels.weight", "decoder": "blocks.0.qkv.weight"}


def ensembles(program: int, n: int, composer) -> dict[str, torch.Tensor]:
    """Tables of a composer in which one instrument plays in `n` rooms, each of its own density."""
    found = {name: torch.zeros_like(getattr(composer, name)) for name in ENSEMBLES}
    found["ensemble_programs"][:n, program] = True
    found["ensemble_amounts"][:n] = torch.arange(1, n + 1, dtype=torch.uint8)[:, None]
    return found


def make_adapter(folder: Path, base: Path, seed: int = 0, n_ensembles: int = 0) -> Path:
    """An adapter of every part, with random changes of a matrix of each, of a bias and of a limit, and maybe tables."""
    rng, model = torch.Generator().manual_seed(seed), Silent2Music.from_pretrained(base)
    tensors = {}
    for part, name in WEIGHTS.items():
        n, m = getattr(model, part).state_dict()[name].shape
        tensors[f"{part}.{name}.lora_A"] = torch.randn(RANK, m, generator=rng)
        tensors[f"{part}.{name}.lora_B"] = torch.randn(n, RANK, generator=rng)
    tensors["composer.state.bias.delta"] = torch.randn(model.composer.state.bias.shape, generator=rng)
    tensors["composer.known_symbols.limit"] = torch.ones_like(model.composer.known_symbols)
    if n_ensembles:
        tables = ensembles(40 + seed, n_ensembles, model.composer)
        tensors |= {f"composer.{name}.taken": table for name, table in tables.items()}
    parts = {part: TunedPart(file_digest(base / file), RANK, ALPHA) for part, file in PARTS.items()}
    write_adapter(folder, AdapterConfig("tiny", parts, "3 scores (1.0 min)", "CC0-1.0"), tensors)
    return folder


@pytest.fixture(scope="module")
def adapter(sketched_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tmp_path_factory.mktemp("adapters") / "own", sketched_folder)


def states(model: Silent2Music) -> dict[str, torch.Tensor]:
    return {f"{part}.{k}": v for part in PARTS for k, v in getattr(model, part).state_dict().items()}


def test_it_adds_its_products_and_nothing_else(sketched_folder, adapter):
    before = states(Silent2Music.from_pretrained(sketched_folder))
    model = s2m_package.load(sketched_folder, adapters=[adapter])
    stored = load_file(adapter / ADAPTER_FILE)
    changed = {name for name, value in states(model).items() if not torch.equal(value, before[name])}
    expected = {f"{part}.{name}" for part, name in WEIGHTS.items()}
    assert changed - {"composer.known_symbols"} == expected | {"composer.state.bias"}
    for name in expected:
        product = stored[f"{name}.lora_B"].float() @ stored[f"{name}.lora_A"].float()
        torch.testing.assert_close(states(model)[name], before[name] + ALPHA / RANK * product)
    assert bool(model.composer.known_symbols.all())


def test_two_add_up_with_their_strengths_and_none_changes_nothing(sketched_folder, adapter, tmp_path):
    other = make_adapter(tmp_path / "other", sketched_folder, seed=1)
    base = Silent2Music.from_pretrained(sketched_folder)
    names = [f"{part}.{name}" for part, name in WEIGHTS.items()]
    alone = [states(s2m_package.load(sketched_folder, adapters=[one])) for one in (adapter, other)]
    both = states(s2m_package.load(sketched_folder, adapters=[f"{adapter}=0.5", f"{other}=0.25"]))
    for name in names:
        own = states(base)[name]
        expected = own + 0.5 * (alone[0][name] - own) + 0.25 * (alone[1][name] - own)
        torch.testing.assert_close(both[name], expected, rtol=1e-4, atol=1e-4)
    off = states(s2m_package.load(sketched_folder, adapters=[f"{adapter}=0"]))
    assert all(torch.equal(value, off[name]) for name, value in states(base).items())
    halves = states(s2m_package.load(sketched_folder, adapters=[f"{adapter}=0.5", f"{adapter}=0.5"]))
    assert all(torch.equal(value, halves[name]) for name, value in alone[0].items())


def test_who_plays_is_shared_out_by_strength(sketched_folder, tmp_path):
    one = make_adapter(tmp_path / "one", sketched_folder, 1, n_ensembles=12)
    two = make_adapter(tmp_path / "two", sketched_folder, 2, n_ensembles=60)

    def shares(*texts: str) -> dict[int, int]:
        model = Silent2Music.from_pretrained(sketched_folder)
        for name, table in ensembles(7, 100, model.composer).items():
            getattr(model.composer, name).copy_(table)
        apply_adapters(model, sketched_folder, read_adapters(texts))
        tables = [getattr(model.composer, name) for name in ENSEMBLES]
        rows, programs = tables[1].nonzero().T
        played = list(zip(programs.tolist(), tables[2][rows, 0].tolist(), strict=True))
        assert rows.tolist() == list(range(len(rows))), "rows that are used come first"
        assert not tables[2][len(rows) :].any()
        assert len(set(played)) == len(played), "no row twice"
        return {program: [p for p, _ in played].count(program) for program, _ in played}

    assert shares(f"{one}") == {41: 12}
    assert shares(f"{one}=0.25") == {7: 36, 41: 12}
    assert shares(f"{one}=0") == {7: 100}
    assert shares(f"{one}=0.25", f"{two}=0.75") == {41: 12, 42: 36}
    assert shares(f"{one}", f"{two}") == {41: 12, 42: 12}
    assert shares(f"{two}=2") == {42: 60}


def test_the_loudness_rule_moves_by_strength(sketched_folder, adapter, tmp_path):
    shutil.copytree(sketched_folder, base := tmp_path / "base")
    composer, own = base / "composer" / "config.json", 0.35
    composer.write_text(json.dumps(json.loads(composer.read_text()) | {"following": own}))
    for name, following in (("loud", 1.0), ("still", 0.0)):
        shutil.copytree(adapter, tmp_path / name)
        file = tmp_path / name / ADAPTER_CONFIG
        file.write_text(json.dumps({**json.loads(file.read_text()), "following": following}))
    loud, still = tmp_path / "loud", tmp_path / "still"

    def found(*texts: str) -> float:
        return s2m_package.load(base, adapters=[*texts]).composer.config.following

    assert found(str(adapter)) == found(f"{loud}=0") == own
    assert found(f"{loud}=0.5") == pytest.approx(0.5 * own + 0.5)
    assert found(f"{loud}=0.5", f"{still}=0.5") == found(f"{still}=0.5", f"{loud}=0.5") == pytest.approx(0.5)
    assert found(f"{loud}=2") == 1.0
    assert found(f"{still}=2") == 0.0
    model = s2m_package.load(base, adapters=[loud])
    model.save_pretrained(tmp_path / "merged")
    assert Silent2Music.from_pretrained(tmp_path / "merged").composer.config.following == 1.0


def test_strengths_are_read_and_bounded():
    assert parse_adapter("C:\\mine") == ("C:\\mine", 1.0)
    assert parse_adapter("a=b") == ("a=b", 1.0)
    with pytest.raises(ConfigError, match=r"The strength of lofi is 3; expected 0 to 2\."):
        parse_adapter("lofi=3")


def spoilt(adapter: Path, folder: Path, what: str, base: Path) -> Path:
    """A copy of an adapter with one fault."""
    shutil.copytree(adapter, folder)
    file, config = folder / ADAPTER_FILE, folder / ADAPTER_CONFIG
    tensors, values = load_file(file), json.loads(config.read_text(encoding="utf-8"))
    if what == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
        return folder
    if what == "base":
        values["parts"]["decoder"]["base"] = "0" * 64
    elif what == "rank":
        values["parts"]["composer"]["rank"] = 3
    elif what == "setting":
        values["colour"] = "red"
    elif what == "part":
        values["parts"]["codec"] = values["parts"].pop("sketch")
    elif what == "key":
        tensors["decoder.blocks.0.qkv.weight.lora_C"] = torch.zeros(2, 2)
    elif what == "layer":
        tensors["decoder.blocks.7.qkv.weight.lora_A"] = tensors["decoder.blocks.0.qkv.weight.lora_A"].clone()
        tensors["decoder.blocks.7.qkv.weight.lora_B"] = tensors["decoder.blocks.0.qkv.weight.lora_B"].clone()
    elif what == "half":
        del tensors["sketch.levels.weight.lora_B"]
    elif what == "table":
        tensors["composer.ensemble_rooms.taken"] = torch.ones(1024, 4, dtype=torch.int8)
    elif what == "tables":
        shape = Silent2Music.from_pretrained(base).composer.ensemble_rooms.shape
        tensors["composer.ensemble_rooms.taken"] = torch.ones(shape, dtype=torch.int8)
    elif what == "following":
        values["following"] = 1.5
    elif what == "nan":
        tensors["composer.state.bias.delta"].fill_(float("nan"))
    config.write_text(json.dumps(values), encoding="utf-8")
    save_file(tensors, file)
    return folder


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "base",
            r"was tuned from a decoder of checksum 000000000000 .*; use the model that it was tuned from\.",
        ),
        ("rank", r"is of rank 2 at .* and its adapter\.json says 3; the two do not belong together\."),
        ("truncated", r"adapter\.safetensors is damaged .*\."),
        ("key", r"lora_C', which no adapter of this version has; get it again or update silent2music\."),
        (
            "layer",
            r"changes decoder\.blocks\.7\.qkv\.weight .*, which its base does not have; get the adapter again\.",
        ),
        ("half", r"without its counterpart; get the adapter again\."),
        (
            "table",
            r"changes composer\.ensemble_rooms of shape \[1024, 4\], which its base does not have; .*\.",
        ),
        (
            "tables",
            r"has ensemble_rooms of the composer; expected all of ensemble_amounts, .*: get the adapter again\.",
        ),
        ("nan", r"values in 'composer\.state\.bias\.delta' that are not finite; tune again\."),
        ("following", r"adapter\.json states a following of 1\.5; expected 0 to 1\."),
        ("setting", r"is no adapter of this version \(Unknown setting 'colour'.*\); check the name\."),
        ("part", r"tunes 'codec' at rank 2; expected composer, sketch, decoder .*\."),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(
    sketched_folder, adapter, tmp_path, room_file, s2m, what, message
):
    bad = spoilt(adapter, tmp_path / "bad", what, sketched_folder)
    model = Silent2Music.from_pretrained(sketched_folder)
    before = {name: value.clone() for name, value in states(model).items()}
    with pytest.raises(CheckpointError, match=message) as error:
        apply_adapters(model, sketched_folder, [read_adapter(adapter), read_adapter(bad)])
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in states(model).items()), "half applied"
    if what == "base":
        out = tmp_path / "out.wav"
        code, _, said = s2m(
            "infer", room_file, "-o", out, "--model", sketched_folder, "--adapter", bad, "--seconds", 0.5
        )
        assert code == 1
        assert said.strip() == str(error.value)
        assert not out.exists()


def test_a_model_without_the_part_is_refused(model_folder, adapter):
    with pytest.raises(CheckpointError, match=r"and .* has none; use the model that it was tuned from\."):
        s2m_package.load(model_folder, adapters=[adapter])


def test_an_adapter_that_is_too_large_is_not_written(tmp_path):
    tensors = {"decoder.a.weight.lora_A": torch.zeros(4, 2**21)}
    with pytest.raises(ConfigError, match=r"would have 16\.0 MiB; expected at most 8: lower tune\.rank"):
        write_adapter(tmp_path / "large", AdapterConfig("x"), tensors)
    assert not (tmp_path / "large").exists()


def test_merged_weights_play_as_the_adapter_does_and_records_name_it(
    sketched_folder, adapter, tmp_path, room_file, s2m
):
    code, said, _ = s2m("merge", f"{adapter}=0.1", "-o", tmp_path / "merged", "--model", sketched_folder)
    assert (code, said) == (0, f"{tmp_path / 'merged'}\n")
    merged = states(Silent2Music.from_pretrained(tmp_path / "merged"))
    added = states(s2m_package.load(sketched_folder, adapters=[f"{adapter}=0.1"]))
    for name, value in added.items():
        torch.testing.assert_close(merged[name], value, rtol=1e-3, atol=1e-3)  # it is stored in 16 bits
    assert (
        "own at 0.1: 3 scores (1.0 min), licence CC0-1.0" in (tmp_path / "merged" / "README.md").read_text()
    )
    (tmp_path / "rooms").mkdir()
    room_file.rename(tmp_path / "rooms" / "room.wav")
    common = ("infer", tmp_path / "rooms", "--out", tmp_path / "out", "--model", sketched_folder)
    common = (*common, "--seconds", 0.5, "--json")
    code, text, _ = s2m(*common, "--adapter", f"{adapter}=0.1")
    (described,) = json.loads(text)["model"]["adapters"]
    assert (described["name"], described["strength"]) == ("own", 0.1)
    assert described["sha256"] == file_digest(adapter / ADAPTER_FILE)
    # The same again is there; by the base alone it is other music.
    assert s2m(*common, "--adapter", f"{adapter}=0.1")[0] == 0
    code, _, refusal = s2m(*common)
    assert code == 1
    assert "exists already" in refusal


def test_what_is_uploaded_holds_none_of_the_data(adapter, tmp_path, monkeypatch):
    from silent2music.training.tuned import push_adapter

    asked: dict[str, dict] = {}
    hub = SimpleNamespace(
        create_repo=lambda repo, **options: asked.update(created=options | {"repo": repo}),
        upload_folder=lambda **options: asked.update(sent=options) or "https://example.org/mine",
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert push_adapter(adapter, "me/mine", token="t") == "https://example.org/mine"
    assert asked["created"] == {"repo": "me/mine", "exist_ok": True, "token": "t"}
    sent = set(asked["sent"]["allow_patterns"])
    assert {"adapter.json", "adapter.safetensors", "README.md"} <= sent
    assert not any("work" in pattern or "*" in pattern for pattern in sent)
    with pytest.raises(CheckpointError, match=r"is no adapter of this version"):
        push_adapter(tmp_path, "me/mine")


def test_names_on_the_command_line_are_read_in_order(adapter):
    found = read_adapters([f"{adapter}=0.5", adapter])
    assert [one.strength for one in found] == [0.5, 1.0]
    with pytest.raises(CheckpointError, match="is no adapter folder"):
        read_adapters(["nowhere/at/all"])
