"""The factory: pairs that depend on seed and index alone, whatever happens to the build."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from library import write_ambience, write_rooms, write_scores

from silent2music.audio import read, rms_dbfs
from silent2music.config import DataConfig, load_recipe, to_dict
from silent2music.data.pairs import check, read_pairs
from silent2music.errors import AudioError, ConfigError, DataError
from silent2music.factory.build import attribution, build, make_pair, open_factory
from silent2music.factory.repertoire import open_repertoire
from silent2music.factory.scenes import FROM_MUSIC, KINDS, RECORDED
from silent2music.files import claimed

SECONDS = 6.0

pytestmark = [
    pytest.mark.skipif(shutil.which("fluidsynth") is None, reason="fluidsynth is not installed"),
    pytest.mark.skipif(
        not Path(DataConfig().soundfont[0]).is_file(), reason="FluidR3_GM.sf2 is not installed"
    ),
]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    folder = tmp_path_factory.mktemp("sources")
    return DataConfig(
        ambience=str(write_ambience(folder / "ambience")),
        scores=str(write_scores(folder / "scores")),
        rooms=str(write_rooms(folder / "rooms")),
        seconds=SECONDS,
        validation_share=0.25,
    )


@pytest.fixture(scope="module")
def built(config: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pairs, made in this process."""
    out = tmp_path_factory.mktemp("built")
    build(config, out, 4 * SECONDS / 3600, seed=3)
    return out


def fresh(built: Path, out: Path) -> Path:
    """A new pair folder that need not decode the library again."""
    shutil.copytree(built / "library", out / "library")
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_what_is_built_is_a_sound_pair_folder(built: Path, config: DataConfig) -> None:
    pairs = read_pairs(built)
    assert [pair.silent for pair in pairs] == [f"audio/{i:06d}.silent.flac" for i in range(4)]
    assert [pair.split for pair in pairs] == ["train", "train", "train", "validation"]
    assert check(built) == []
    for pair in pairs:
        assert pair.music is not None
        silent, music = read(built / pair.silent), read(built / pair.music)
        assert (silent.n_channels, music.n_channels) == (1, 2)
        assert silent.n_samples == music.n_samples == round(SECONDS * 24_000)
        assert rms_dbfs(silent.samples) == pytest.approx(pair.labels["level_dbfs"], abs=0.01)
        assert rms_dbfs(music.samples) > -45
        for samples in (silent.samples, music.samples):
            np.testing.assert_array_equal(samples * 32768, np.round(samples * 32768))


def test_settings_do_not_say_where_sources_lie(built: Path, config: DataConfig) -> None:
    text = (built / "build.json").read_text(encoding="utf-8")
    assert all(Path(place).is_absolute() for place in config.scores)
    assert json.loads(text)["data"]["scores"] == [Path(place).name for place in config.scores]
    for source in (config.ambience, *config.scores, config.rooms, *config.soundfont):
        assert not source or str(Path(source).parent) not in text


def test_labels_are_complete_and_of_one_time_axis(built: Path) -> None:
    for pair in read_pairs(built):
        labels = pair.labels
        assert labels["kind"] in (*KINDS, *RECORDED, *FROM_MUSIC)
        for name in ("beats", "bars", "boundaries", "event_seconds", "pulse", "scene_boundaries"):
            assert all(0 <= t <= SECONDS for t in labels[name]), name
            assert labels[name] == sorted(labels[name])
        for name in ("valence", "arousal"):
            assert len(labels[name]) == 60
        assert labels["caption"]
        assert labels["instruments"]
        assert {source["role"] for source in labels["sources"]} >= {"recording", "score"}
        assert all(source["licence"] for source in labels["sources"])


def test_no_recording_room_or_score_is_in_both_splits(built: Path, config: DataConfig) -> None:
    factory = open_factory(config, built, 3)
    train, validation = factory.stocks["train"], factory.stocks["validation"]
    assert not {c.source for c in train.library.clips} & {c.source for c in validation.library.clips}
    assert not {r.name for r in train.library.rooms} & {r.name for r in validation.library.rooms}
    assert not {work.name for work in train.repertoire.works} & {
        work.name for work in validation.repertoire.works
    }
    assert len(validation.repertoire)


def test_two_workers_write_the_same_bytes_as_one(built: Path, config: DataConfig, tmp_path: Path) -> None:
    out = fresh(built, tmp_path / "two")
    done: list[tuple[int, int]] = []
    build(config, out, 4 * SECONDS / 3600, seed=3, workers=2, progress=lambda n, of: done.append((n, of)))
    assert contents(out) == contents(built)
    assert done[0] == (0, 4)
    assert done[-1] == (4, 4)


def test_a_build_killed_hard_ends_as_if_it_had_not_been(
    built: Path, config: DataConfig, tmp_path: Path
) -> None:
    out = fresh(built, tmp_path / "killed")
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)), encoding="utf-8")
    code = (
        "import json, sys; from pathlib import Path; from silent2music.config import DataConfig;"
        "from silent2music.factory.build import build;"
        f"config = DataConfig(**json.load(open({str(tmp_path / 'config.json')!r})));"
        f"build(config, Path({str(out)!r}), {4 * SECONDS / 3600!r}, 3)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parent.parent)
    try:
        patience = time.monotonic() + 120
        while not list(out.glob("labels/*.json")) and time.monotonic() < patience:
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    complete = len(list(out.glob("labels/*.json")))
    assert 1 <= complete < 4
    # What a kill in the middle of a write leaves behind: a temporary file, and audio without its label.
    (out / "audio" / ".s2m-half.flac").write_bytes(b"fLaC")
    (out / "audio" / "000003.silent.flac").write_bytes(b"half a file")
    build(config, out, 4 * SECONDS / 3600, seed=3)
    assert contents(out) == contents(built)


def test_more_hours_add_pairs_and_keep_the_old(built: Path, config: DataConfig, tmp_path: Path) -> None:
    out = tmp_path / "grown"
    shutil.copytree(built, out)
    build(config, out, 5 * SECONDS / 3600, seed=3)
    assert len(read_pairs(out)) == 5
    old, new = contents(built), contents(out)
    assert all(new[name] == old[name] for name in old if name.startswith(("audio", "labels")))


def test_another_seed_or_setting_needs_another_folder(built: Path, config: DataConfig) -> None:
    with pytest.raises(DataError, match="was built with another seed"):
        build(config, built, 0.01, seed=4)
    with pytest.raises(DataError, match="was built with another seconds"):
        build(dataclasses.replace(config, seconds=7.0), built, 0.01, seed=3)


def test_another_seed_or_index_gives_another_pair(built: Path, config: DataConfig) -> None:
    factory = open_factory(config, built, 3)
    one, other = make_pair(factory, 0)[1], make_pair(factory, 1)[1]
    elsewhere = make_pair(dataclasses.replace(factory, seed=4), 0)[1]
    assert not np.array_equal(one.samples, other.samples)
    assert not np.array_equal(one.samples, elsewhere.samples)


@pytest.mark.parametrize("kind", FROM_MUSIC)
def test_kinds_made_from_the_music_are_built_too(built: Path, config: DataConfig, kind: str) -> None:
    only = dataclasses.replace(config, kinds={kind: 1.0})
    silent, music, score, pair = make_pair(open_factory(only, built, 3), 0)
    assert pair.labels["kind"] == kind
    assert len(pair.labels["event_seconds"]) >= 2
    assert silent.n_samples == music.n_samples
    assert pair.labels["instruments"] == [part.name for part in score.parts]


def test_attribution_names_every_source_once_under_its_licence(built: Path) -> None:
    text = (built / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for pair in read_pairs(built):
        for source in pair.labels["sources"]:
            assert text.count(f"- {source['path']} ({source['role']})") == 1
    assert "rain_unlicensed.wav" in text.split("no licence is stated")[1]
    assert "## CC0" in text
    assert "no licence is stated" not in attribution([], ())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ambience": ""}, "No ambience folder is set"),
        ({"scores": ()}, "No scores folder is set"),
        ({"soundfont": ()}, "No soundfont is set"),
        ({"scores": "nowhere"}, "The scores folder nowhere does not exist"),
        ({"soundfont": "nowhere.sf2"}, "soundfont nowhere.sf2 does not exist"),
        ({"kinds": {"cave": 1.0}}, "Scene kind 'cave' is unknown"),
    ],
)
def test_unusable_settings_are_named(
    config: DataConfig, built: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    out = fresh(built, tmp_path / "bad")
    with pytest.raises(DataError, match=message):
        build(dataclasses.replace(config, **changes), out, 0.01, seed=0)  # type: ignore[arg-type]


def test_scores_without_a_licence_are_refused(config: DataConfig, built: Path, tmp_path: Path) -> None:
    scores = tmp_path / "scores"
    shutil.copytree(config.scores[0], scores)
    (scores / "index.tsv").write_text("path\tlicence\npiece0.mid\t\n", encoding="utf-8")
    with pytest.raises(DataError, match="holds no score"):
        open_factory(dataclasses.replace(config, scores=str(scores)), built, 0)


def test_scores_in_a_linked_folder_are_found(config: DataConfig, tmp_path: Path) -> None:
    def paths(folder: Path) -> list[str]:
        return [work.credit.path for work in open_repertoire([folder], 0.0)[0]["train"].works]

    scores, known = tmp_path / "scores", paths(Path(config.scores[0]))
    scores.mkdir()
    (scores / "linked").symlink_to(Path(config.scores[0]).absolute(), target_is_directory=True)
    rows = "".join(f"linked/{path}\tCC0\n" for path in known)
    (scores / "index.tsv").write_text(f"path\tlicence\nlinked/gone.mid\tCC0\n{rows}", encoding="utf-8")
    assert paths(scores) == [f"linked/{path}" for path in known]
    assert make_pair(open_factory(dataclasses.replace(config, scores=str(scores)), tmp_path, 3), 0)


def test_hours_seed_and_workers_are_checked(config: DataConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hours is 0"):
        build(config, tmp_path, 0, seed=0)
    with pytest.raises(ConfigError, match="workers 0"):
        build(config, tmp_path, 1, seed=0, workers=0)


def test_a_second_build_is_refused_and_a_refused_one_claims_nothing(
    config: DataConfig, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with claimed(out), pytest.raises(AudioError, match="out is being written by another command"):
        build(config, out, 0.01, seed=0)
    for changes in ({"scores": "nowhere"}, {"soundfont": "nowhere.sf2"}):
        with pytest.raises(DataError):
            build(dataclasses.replace(config, **changes), out, 0.01, seed=0)  # type: ignore[arg-type]
    assert not out.exists()


def test_a_folder_of_other_pairs_is_left_alone(config: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="pairs that were not built here"):
        build(config, tmp_path, 1, seed=0)


def test_the_base_recipe_reads_and_knows_its_kinds() -> None:
    recipe = load_recipe(Path(__file__).parent.parent / "recipes" / "base")
    assert set(recipe.data.kinds) == {*KINDS, *RECORDED, *FROM_MUSIC}
    assert not recipe.data.normalise_key


def test_several_folders_of_scores_are_one_repertoire(config: DataConfig, tmp_path: Path) -> None:
    more = write_scores(tmp_path / "more", 2)
    both = dataclasses.replace(config, scores=(*config.scores, str(more)))
    train = open_repertoire([Path(folder) for folder in both.scores], 0.0)[0]["train"]
    assert len(train) == 6
    assert {work.file.parent for work in train.works} == {Path(config.scores[0]), more}


def test_each_pair_draws_one_of_several_soundfonts_and_all_are_named(
    config: DataConfig, built: Path, tmp_path: Path
) -> None:
    second = tmp_path / "second.sf2"
    second.symlink_to(Path(config.soundfont[0]).absolute())
    two = dataclasses.replace(
        config, soundfont=(*config.soundfont, str(second)), kinds={"nothing": 1.0, "room": 1.0}, seconds=2.0
    )
    factory = open_factory(two, fresh(built, tmp_path / "out"), 1)
    pairs = [make_pair(factory, index)[-1] for index in range(8)]
    names = {pair.labels["soundfont"] for pair in pairs}
    assert names == {"second.sf2", Path(config.soundfont[0]).name}
    text = attribution([pair.to_line() for pair in pairs], ())
    assert f"soundfonts {', '.join(sorted(names))}" in text
