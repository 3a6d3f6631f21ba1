"""Pairs without sound: shards that depend on seed and number alone, whatever happens to the build."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from library import write_ambience, write_rooms, write_scores

from silent2music.acoustics import analyze
from silent2music.ambient import ambient_features
from silent2music.config import AmbientConfig, DataConfig
from silent2music.data.shards import PairDataset, check_shards, shards_meta
from silent2music.errors import ConfigError, DataError
from silent2music.factory import soundless
from silent2music.factory.build import open_factory
from silent2music.factory.scenes import Levels, make_scene
from silent2music.factory.soundless import build_soundless, soundless_pairs
from silent2music.score import Score

SECONDS = 4.0
N_PAIRS = 12
FEATURES = AmbientConfig(n_mels=16)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundless, "SCORES_PER_ROOM", 2)
    monkeypatch.setattr(soundless, "ROOMS_PER_BLOCK", 4)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    folder = tmp_path_factory.mktemp("sources")
    return DataConfig(
        ambience=str(write_ambience(folder / "ambience")),
        scores=str(write_scores(folder / "scores")),
        rooms=str(write_rooms(folder / "rooms")),
        soundfont="no/soundfont/is/needed.sf2",
        seconds=SECONDS,
        validation_share=0.25,
    )


@pytest.fixture
def built(config: DataConfig, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two blocks, of which the second is not full, with a library that was decoded once for all tests."""
    kept = tmp_path_factory.getbasetemp() / "soundless-built"
    if not kept.exists():
        build_soundless(config, kept, N_PAIRS * SECONDS / 3600, 3, FEATURES)
    return Path(shutil.copytree(kept, tmp_path / "built"))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def labels(folder: Path) -> list[dict]:
    files = sorted((folder / "labels").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_build_gives_shards_with_rooms_and_scores(built: Path) -> None:
    names = {path.name for path in built.glob("*.parquet")}
    assert names == {"train-00000.parquet", "validation-00000.parquet", "train-00001.parquet"}
    train, validation = (PairDataset(built, split, needs=("score",)) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (10, 2)
    crop = train.crop(0)
    assert crop.signals.present["room_frames"].all()
    assert crop.signals.n_frames == SECONDS * FEATURES.frame_rate
    assert isinstance(crop.scores[0], Score)
    assert crop.scores[0].seconds == pytest.approx(SECONDS)
    known = labels(built)
    assert [line["id"] for line in known] == [f"{i:07d}" for i in range(N_PAIRS)]
    assert {line["split"] for line in known[:2]} == {"train"}
    assert all(source["licence"] for line in known for source in line["labels"]["sources"])
    assert "## CC0" in (built / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert not any(line["labels"]["kind"] == "leak" for line in known)


def test_a_room_stands_in_several_pairs_with_other_music(built: Path, config: DataConfig) -> None:
    factory = open_factory(dataclasses.replace(config, kinds={"steps": 1.0}), built, 3)
    (one, first, known), (two, second, _) = soundless_pairs(factory, 0, FEATURES)
    assert one is two
    starts = [np.concatenate([part.start_seconds for part in score.parts]) for score in (first, second)]
    assert not np.array_equal(*starts)
    rng = np.random.default_rng(np.random.SeedSequence([3, 0]).spawn(2)[0])
    rng.choice(1, p=[1.0])
    scene = make_scene("steps", factory.stocks["train"].library, rng, SECONDS, Levels())
    assert known["event_seconds"] == [round(float(t), 4) for t in scene.truth.event_seconds]
    expected = ambient_features(scene.audio, analyze(scene.audio), FEATURES)
    np.testing.assert_array_equal(one.frames, expected.frames)


def test_a_silent_instrument_has_a_room_for_each_score(built: Path, config: DataConfig) -> None:
    factory = open_factory(dataclasses.replace(config, kinds={"muted": 1.0}), built, 3)
    (one, _, first), (two, _, second) = soundless_pairs(factory, 0, FEATURES)
    assert not np.array_equal(one.frames, two.frames)
    assert first["kind"] == second["kind"] == "muted"
    with pytest.raises(DataError, match="expected another kind"):
        list(
            soundless_pairs(
                open_factory(dataclasses.replace(config, kinds={"leak": 1.0}), built, 3), 0, FEATURES
            )
        )


def test_two_workers_write_the_same_bytes_as_one(built: Path, config: DataConfig, tmp_path: Path) -> None:
    # Workers know nothing of the small blocks of this test: blocks as they are, of which one is built.
    soundless.SCORES_PER_ROOM, soundless.ROOMS_PER_BLOCK = 6, 40
    folders = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        shutil.copytree(built / "library", out / "library")
        build_soundless(config, out, 6 * SECONDS / 3600, 3, FEATURES, workers)
        folders.append(contents(out))
    assert folders[0] == folders[1]


def test_what_is_missing_is_built_again_and_what_is_there_is_kept(built: Path, config: DataConfig) -> None:
    before = contents(built)
    # What a kill leaves: a shard without its labels, a temporary file, a damaged shard.
    (built / "labels" / "00001.jsonl").unlink()
    (built / "labels" / ".s2m-half.jsonl").write_text("{", encoding="utf-8")
    (built / "validation-00000.parquet").write_bytes(b"PAR1")
    kept = (built / "library").stat().st_mtime
    done: list[tuple[int, int]] = []
    build_soundless(
        config, built, N_PAIRS * SECONDS / 3600, 3, FEATURES, progress=lambda n, of: done.append((n, of))
    )
    assert contents(built) == before
    assert done == [(0, 12), (8, 12), (12, 12)]
    assert (built / "library").stat().st_mtime == kept


def test_more_hours_add_pairs_and_fill_the_last_block(built: Path, config: DataConfig) -> None:
    before = labels(built)
    build_soundless(config, built, (N_PAIRS + 4) * SECONDS / 3600, 3, FEATURES)
    after = labels(built)
    assert len(after) == N_PAIRS + 4
    assert after[:N_PAIRS] == before
    assert len(PairDataset(built, "train", needs=("score",))) == 12
    assert len(PairDataset(built, "validation", needs=("score",))) == 4


def test_another_seed_setting_or_feature_needs_another_folder(built: Path, config: DataConfig) -> None:
    with pytest.raises(DataError, match="was built with another seed"):
        build_soundless(config, built, 0.01, 4, FEATURES)
    with pytest.raises(DataError, match="was prepared with feature_settings"):
        build_soundless(config, built, 0.01, 3, AmbientConfig(n_mels=8))
    with pytest.raises(DataError, match="was prepared with feature_settings"):
        check_shards(built, shards_meta(AmbientConfig(n_mels=8)))
    with pytest.raises(ConfigError, match="hours is 0"):
        build_soundless(config, built, 0.0, 3, FEATURES)
