"""The data path through a score: composed or given, sketched and played, whole and as a stream."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from conftest import RATE, make_sketched, steps_room
from test_compose import made_score

from silent2music.audio import Waveform
from silent2music.config import SamplingConfig
from silent2music.errors import CheckpointError, ConfigError
from silent2music.model import Silent2Music

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
    with pytest.raises(CheckpointError, match="decoder.takes_sketch is false"):
        Silent2Music.from_pretrained(model_folder).set_sketch(sketch)
    folder = make_sketched(tmp_path / "model", codec_folder)
    config = folder / "sketch" / "config.json"
    values = json.loads(config.read_text(encoding="utf-8")) | {"codec_checksum": "0" * 16}
    config.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(CheckpointError, match="The sketch was trained on codec tokens 0000"):
        Silent2Music.from_pretrained(folder)
