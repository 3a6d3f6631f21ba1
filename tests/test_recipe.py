"""A recipe from data folders to a model folder: every stage for real on small sizes, and resumed."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from library import write_ambience, write_rooms, write_scores

from silent2music.config import (
    AmbientConfig,
    CodecConfig,
    DataConfig,
    DecoderConfig,
    RecipeConfig,
    RunConfig,
    TrainingConfig,
    to_dict,
)
from silent2music.errors import ConfigError
from silent2music.model import Silent2Music
from silent2music.training.recipe import run_recipe
from silent2music.weights import read_metadata

SECONDS = 4.0

pytestmark = [
    pytest.mark.skipif(shutil.which("fluidsynth") is None, reason="fluidsynth is not installed"),
    pytest.mark.skipif(
        not Path(DataConfig().soundfont[0]).is_file(), reason="FluidR3_GM.sf2 is not installed"
    ),
]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> RecipeConfig:
    folder = tmp_path_factory.mktemp("sources")
    return RecipeConfig(
        run=RunConfig(hours=4 * SECONDS / 3600, workers=1, n_eval=2),
        data=DataConfig(
            ambience=str(write_ambience(folder / "ambience")),
            scores=str(write_scores(folder / "scores")),
            rooms=str(write_rooms(folder / "rooms")),
            seconds=SECONDS,
            validation_share=0.25,
            kinds={"room": 1.0, "steps": 1.0},
        ),
        codec=CodecConfig(n_fft=960, n_components=16, n_codebooks=4, codebook_size=32),
        ambient=AmbientConfig(dim=32, n_layers=1, n_mels=16, n_fft=512),
        decoder=DecoderConfig(dim=32, n_layers=1, n_heads=2, attention_window=30),
        training=TrainingConfig(
            batch_size=2, crop_seconds=1.0, max_steps=2, validate_every=2, n_validation_pairs=1
        ),
    )


def test_one_command_goes_from_data_folders_to_a_model_and_on_where_it_was(
    recipe, tmp_path, monkeypatch, s2m
):
    out, folder = tmp_path / "run", tmp_path / "run" / "model"
    (tmp_path / "recipe.json").write_text(json.dumps(to_dict(recipe)))
    command = ("run", tmp_path / "recipe.json", "--out", out)
    code, _, said = s2m(*command, "--stages", "codec")
    assert code == 1
    assert "pairs.jsonl is missing; run the stage 'pairs' first." in said
    assert s2m(*command, "--stages", "pairs,codec") == (0, f"{folder}\n", "")
    told: list[str] = []
    stages = ["pairs", "tokens", "model"]
    assert run_recipe(recipe, out, stages, lambda stage, done, total: told.append(stage)) == folder
    assert {"pairs", "tokens"} <= set(told)
    assert Silent2Music.from_pretrained(folder).config.decoder.n_codebooks == 4
    assert (folder / "ATTRIBUTION.md").exists()
    made = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors") if "model" not in path.parts}

    evaluated: list[tuple[Path, Path, int]] = []
    monkeypatch.setattr(
        "silent2music.evaluation.benchmark.evaluate",
        lambda model, pairs, report, config, progress: evaluated.append((model, report, config.n)),
    )
    assert s2m(*command)[:2] == (0, f"{folder}\n")
    assert evaluated == [(folder, folder, 2)]
    assert made and made == {path: path.stat().st_mtime_ns for path in made}, "a complete stage was run again"

    longer = dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, max_steps=3))
    run_recipe(longer, out, ["model"])
    assert json.loads(read_metadata(out / "training" / "state.safetensors")["run"])["step"] == 3


def test_an_unknown_stage_is_named(recipe, tmp_path):
    with pytest.raises(ConfigError, match="Stage 'songs' is unknown; expected some of pairs, codec, tokens"):
        run_recipe(recipe, tmp_path, ["songs"])
