"""The data path through a score: composed or given, sketched and played, whole and as a stream."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading

import numpy as np
import pytest
from conftest import RATE, make_sketched, steps_room
from test_compose import made_score

from silent2music import model as model_module
from silent2music.audio import Waveform, write
from silent2music.config import SamplingConfig
from silent2music.errors import CheckpointError, ConfigError
from silent2music.export.models import LazyModel
from silent2music.export.provenance import sha256
from silent2music.model import Silent2Music
from silent2music.score import read_midi, write_midi

ROOM = Waveform(steps_room(2.4), RATE)


@pytest.fixture(scope="module")
def model(sketched_folder):
    return Silent2Music.from_pretrained(sketched_folder)


@pytest.fixture(scope="module")
def composed(model):
    return model.generate(ROOM, seed=3)


def test_a_stream_through_composer_and_sketch_is_the_whole(model, composed):
    streamed = list(model.stream(ROOM, SamplingConfig(seed=3)))
    assert len(streamed) > 1
    assert np.array_equal(np.concatenate([p.samples for p in streamed], axis=1), composed.samples)
    assert composed.score.n_notes > 3
    assert composed.score.seconds == pytest.approx(2.4)


def test_a_thread_that_runs_ahead_changes_nothing_and_ends_with_the_music(model, composed, monkeypatch):
    """Its errors are those of the music. It waits for who listens, so with much music left it is still there."""
    music = model.stream(ROOM, SamplingConfig(seed=3), seconds=60.0)
    next(music), next(music)
    assert [t.name for t in threading.enumerate()].count("run_ahead") == 1
    music.close()
    assert "run_ahead" not in [t.name for t in threading.enumerate()]
    monkeypatch.setattr(model_module, "run_ahead", lambda items, *n: items)
    alone = model.generate(ROOM, seed=3)
    assert np.array_equal(alone.codes, composed.codes) and np.array_equal(alone.samples, composed.samples)
    monkeypatch.undo()
    monkeypatch.setattr(model.sketch, "enter_notes", lambda notes: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        model.generate(ROOM, seed=3)
    assert "run_ahead" not in [t.name for t in threading.enumerate()]


def test_the_composed_score_is_that_of_compose_and_is_played(model, composed):
    score = model.compose(ROOM, seed=3)
    for own, other in zip(score.parts, composed.score.parts, strict=True):
        assert np.array_equal(own.start_seconds, other.start_seconds)
        assert np.array_equal(own.pitches, other.pitches)
    again = model.generate(ROOM, seed=3, score=score)
    assert np.array_equal(again.codes, composed.codes)
    alone = model.generate(ROOM, seed=3, without=("score",))
    assert alone.score is None and not np.array_equal(alone.codes, composed.codes)


def test_the_score_decides_and_adherence_says_how_much(model):
    tune = made_score(1.5)
    louder = dataclasses.replace(tune, parts=tune.parts[:1])
    settings = SamplingConfig(seed=1, adherence=1.0)
    one, other = (model.generate(ROOM, settings, score=score) for score in (tune, louder))
    assert not np.array_equal(one.codes, other.codes)
    closer = model.generate(ROOM, SamplingConfig(seed=1, adherence=8.0), score=tune)
    assert not np.array_equal(one.codes, closer.codes)
    assert one.score is tune


def test_a_score_is_played_without_a_room(model):
    piece = model.generate(None, score=made_score(1.5), seed=2)
    assert piece.seconds == pytest.approx(1.5)
    longer = model.generate(None, seconds=2.0, score=made_score(1.5), seed=2)
    assert longer.seconds == pytest.approx(2.0)
    with pytest.raises(ConfigError, match="neither a room nor a score"):
        model.generate(None)


def test_live_sound_is_composed_for(model):
    chunk = RATE // 25
    chunks = [Waveform(ROOM.samples[:, i : i + chunk], RATE) for i in range(0, RATE, chunk)]
    music = list(model.stream(iter(chunks), SamplingConfig(seed=1)))
    assert len(music) > 5
    assert sum(piece.n_samples for piece in music) / music[0].sample_rate == pytest.approx(1.0, abs=0.1)


def test_live_music_that_is_composed_answers_a_change_within_seven_tenths_of_a_second(model):
    chunk, change = RATE // 25, 1.2
    louder = ROOM.samples.copy()
    louder[:, round(change * RATE) :] += 0.1 * np.random.default_rng(0).standard_normal(
        (1, round(1.2 * RATE))
    )
    runs = []
    for samples in (ROOM.samples, louder):
        heard, pieces = [0.0], []

        def chunks(samples=samples, heard=heard):
            for begin in range(0, samples.shape[1], chunk):
                heard[0] = (begin + chunk) / RATE
                yield Waveform(samples[:, begin : begin + chunk], RATE)

        for piece in model.stream(chunks(), SamplingConfig(seed=1)):
            pieces.append((heard[0], piece.samples))
        runs.append(pieces)
    differing = [end for (end, one), (_, other) in zip(*runs, strict=True) if not np.array_equal(one, other)]
    assert change < differing[0] <= change + 0.7


def test_a_model_without_sketch_says_so(model_folder):
    plain = Silent2Music.from_pretrained(model_folder)
    assert not plain.composes()
    with pytest.raises(
        CheckpointError, match=r"has no sketch, so it plays for rooms and no score; .*sketch/"
    ):
        plain.generate(ROOM, score=made_score())


def test_rooms_in_a_batch_are_composed_for(model):
    pieces = model.generate_batch([ROOM, ROOM], SamplingConfig(), [3, 4])
    assert all(piece.score is not None and piece.score.n_notes for piece in pieces)
    assert not np.array_equal(pieces[0].codes, pieces[1].codes)


def test_a_sketch_of_another_codec_or_for_a_decoder_that_takes_none_is_refused(
    sketched_folder, model_folder, codec_folder, tmp_path
):
    sketch = Silent2Music.from_pretrained(sketched_folder).sketch
    with pytest.raises(CheckpointError, match=r"decoder\.takes_sketch is false"):
        Silent2Music.from_pretrained(model_folder).set_sketch(sketch)
    folder = make_sketched(tmp_path / "model", codec_folder)
    config = folder / "sketch" / "config.json"
    values = json.loads(config.read_text(encoding="utf-8")) | {"codec_checksum": "0" * 16}
    config.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(CheckpointError, match="The sketch was trained on codec tokens 0000"):
        Silent2Music.from_pretrained(folder)


# ---- the commands ----


@pytest.fixture
def here(tmp_path, monkeypatch):
    write(tmp_path / "room.wav", ROOM)
    write_midi(tmp_path / "tune.mid", made_score(1.5))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_infer_writes_the_score_beside_the_music(s2m, here, sketched_folder):
    command = ("infer", "room.wav", "--model", sketched_folder, "--seconds", "1.5")
    code, said, wrong = s2m(*command)
    assert code == 0, wrong
    assert "room.music.wav: 1.50 s" in said
    record = json.loads((here / "room.music.json").read_text(encoding="utf-8"))
    score = read_midi(here / "room.music.mid")
    assert record["score"]["by"] == "composer" and record["score"]["notes"] == score.n_notes > 0
    assert record["score"]["sha256"] == sha256(here / "room.music.mid")
    assert record["settings"]["adherence"] == 4.0
    assert s2m(*command)[0] == 1
    before = (here / "room.music.wav").read_bytes()
    assert s2m(*command, "--force")[0] == 0
    assert (here / "room.music.wav").read_bytes() == before
    code, _, wrong = s2m(*command, "--force", "--adherence", "-1")
    assert code == 2 and "adherence is -1.0" in wrong


def test_a_folders_music_is_kept_only_with_its_score(s2m, here, sketched_folder):
    command = ("infer", ".", "--out", "made", "--model", sketched_folder, "--seconds", "1")
    assert s2m(*command)[0] == 0
    assert "there already" in s2m(*command)[1]
    (here / "made" / "room.music.mid").unlink()
    code, said, wrong = s2m(*command, "--force")
    assert code == 0 and "there already" not in said, wrong
    assert (here / "made" / "room.music.mid").is_file()


def test_a_record_names_weights_and_configs_of_composer_and_sketch_too(sketched_folder, tmp_path):
    folder = shutil.copytree(sketched_folder, tmp_path / "model")
    model = LazyModel(folder)
    record = {"model": {"sha256": model.sha256, "parts": model.parts}}
    assert {name.split("/")[0] for name in model.parts} == {"codec", "composer", "sketch"}
    assert model.made(record) and not model.made({"model": record["model"] | {"adapters": [{"name": "a"}]}})
    for name in ("model.safetensors", "config.json"):
        file = folder / "sketch" / name
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + b"!")
        assert not LazyModel(folder).made(record)
        file.write_bytes(whole)
    assert LazyModel(folder).made({"model": {"sha256": model.sha256}})  # as 0.2.0 wrote it


def test_the_model_performs_a_tune_in_a_room_or_in_none(s2m, here, sketched_folder):
    command = ("perform", "tune.mid", "--model", sketched_folder)
    for out, more in (
        ("a.wav", ()),
        ("b.wav", ("--room", "room.wav")),
        ("c.wav", ("--room", "room.wav", "--fit")),
    ):
        code, _, wrong = s2m(*command, "-o", out, *more)
        assert code == 0, wrong
        record = json.loads((here / out).with_suffix(".json").read_text(encoding="utf-8"))
        assert record["score"]["by"] == "given" and record["performer"]["name"] == "tiny"
        assert ("fitted" in record["score"]) == ("--fit" in more)
        assert record["output"]["seconds"] == pytest.approx(
            record["score"].get("fitted", record["score"])["seconds"], abs=1e-3
        )
    code, _, wrong = s2m(*command, "-o", "d.wav", "--fit")
    assert code == 1 and "give --room" in wrong
    assert not (here / "d.wav").exists()


def test_a_model_without_sketch_performs_nothing_and_says_so(s2m, here, model_folder):
    code, _, wrong = s2m("perform", "tune.mid", "-o", "a.wav", "--model", model_folder)
    assert code == 1 and "has no sketch/, so it plays for rooms and no score" in wrong
    assert sorted(p.name for p in here.iterdir()) == ["room.wav", "tune.mid"]
