"""The commands that make and judge pairs, driven as a user drives them, on tiny sources."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from library import write_ambience, write_rooms, write_scores

from silent2music.audio import Waveform, read, write
from silent2music.config import DataConfig
from silent2music.data.pairs import read_pairs

needs_synthesiser = pytest.mark.skipif(
    shutil.which("fluidsynth") is None or not Path(DataConfig().soundfont[0]).is_file(),
    reason="fluidsynth or FluidR3_GM.sf2 is not installed",
)


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@needs_synthesiser
def test_pairs_are_built_checked_counted_and_prepared(s2m, tmp_path: Path, codec_folder: Path) -> None:
    write_ambience(tmp_path / "my" / "ambience")
    write_scores(tmp_path / "my" / "scores")
    write_rooms(tmp_path / "my" / "rooms")
    Path("recipe.toml").write_text(
        '[data]\nambience = "my/ambience"\nscores = "my/scores"\nvalidation_share = 0.25\n'
        "[data.kinds]\nroom = 1.0\nsteps = 1.0\n"
    )
    command = ["data", "build", "recipe.toml", "--out", "pairs", "--seed", "3"]
    command += ["--set", "data.seconds=6", "--set", "data.rooms=my/rooms"]
    assert s2m(*command, "--hours", 2 * 6 / 3600) == (0, "", "")
    assert len(read_pairs("pairs")) == 2
    assert s2m(*command, "--hours", 4 * 6 / 3600) == (0, "", "")
    assert [pair.split for pair in read_pairs("pairs")] == ["train", "train", "train", "validation"]
    code, _, said = s2m(*command, "--hours", 0.01, "--seed", 4)
    assert (code, said.count("\n")) == (1, 1)
    assert "pairs was built with another seed" in said

    assert s2m("data", "check", "pairs") == (0, "", "")

    code, printed, _ = s2m("data", "stats", "pairs", "--json", "--plot", "pair.png", "--pair", 2)
    assert code == 0
    assert json.loads(printed)["n_pairs"] == 4
    assert Path("pair.png").read_bytes().startswith(b"\x89PNG")
    code, _, said = s2m("data", "stats", "pairs", "--plot", "pair.png", "--pair", 9)
    assert code == 1
    assert "--pair is 9 and pairs holds 4 pairs" in said

    code, printed, said = s2m("data", "prepare", "pairs", "--out", "tokens", "--codec", codec_folder)
    assert code == 0, said
    assert printed
    assert sorted(path.name for path in Path("tokens").glob("*.parquet"))[0].startswith("train-")


def test_recordings_are_harvested_and_those_without_a_pause_are_named(s2m) -> None:
    rate = 16_000
    rng = np.random.default_rng(0)
    time = np.arange(8 * rate) / rate
    music = 0.3 * np.sin(2 * np.pi * 440 * time) * 10 ** (-3 * (time % 0.5))
    room = 10 ** (-65 / 20) * rng.standard_normal(11 * rate)
    take = room + np.concatenate([np.zeros(3 * rate), music])
    write("takes/take.wav", Waveform(take[None].astype(np.float32), rate))
    write("takes/busy.wav", Waveform(music[None].astype(np.float32), rate))
    code, printed, said = s2m(
        "data", "harvest", "takes", "--out", "pairs", "--licence", "CC0", "--author", "Me"
    )
    assert code == 0
    assert printed == "1 pairs harvested into pairs\n"
    assert "busy.wav gave no pair" in said
    (pair,) = read_pairs("pairs")
    assert pair.labels["sources"] == [
        {"path": "take.wav", "licence": "CC0", "author": "Me", "role": "recording"}
    ]
    assert s2m("data", "check", "pairs") == (0, "", "")
    code, _, said = s2m("data", "harvest", "takes", "--out", "pairs")
    assert code == 1
    assert "choose another folder" in said


@needs_synthesiser
def test_music_of_one_family_after_the_other_is_rendered(s2m, tmp_path: Path) -> None:
    write_scores(tmp_path / "scores")
    assert s2m("codec", "music", "scores", "--out", "music", "--pieces", 2, "--seed", 5) == (0, "", "")
    files = sorted(Path("music").rglob("*.flac"))
    assert [path.name for path in files] == ["mallets-0001.flac", "piano-0000.flac"]
    assert all(read(path).seconds == 20.0 and read(path).samples.any() for path in files)
