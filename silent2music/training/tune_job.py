"""What `s2m tune` is asked for, and the settings of the model that it starts from."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from silent2music.adapters import PARTS, AdapterConfig, TunedPart, file_digest
from silent2music.config import (
    COMPOSER_FOLDER,
    SKETCH_FOLDER,
    ComposerConfig,
    ModelConfig,
    RecipeConfig,
    SketchConfig,
    from_dict,
    read_values,
    to_dict,
)
from silent2music.errors import CheckpointError, ConfigError
from silent2music.weights import CONFIG_FILE

WORK, FOUND_FILE = "work", "found.txt"

WHOLE = {"composer": COMPOSER_FOLDER, "sketch": SKETCH_FOLDER, "decoder": "model"}
"""Where a part is that was trained with all weights, in the folder of its run."""

PATIENCE = 4
"""Validations in a row that may lower nothing."""


@dataclass(frozen=True)
class TuneJob:
    """What is asked for.

    Attributes:
        folder: the user's; out: where the adapter goes; base: model folder.
        recipe: values of `tune`, `training` and `data`.
        minutes: of the whole run; seed: of all.
        full: train all weights, and write a model folder to `out/model` in place of an adapter.
        instruments: what plays music that has no score; empty is left open.
        licence: of the folder, for the card.
        rooms: pairs on whose held-out rooms following is compared; by default rooms that are made here.
    """

    folder: Path
    out: Path
    base: Path
    recipe: RecipeConfig
    minutes: float = 60.0
    seed: int = 0
    full: bool = False
    instruments: tuple[str, ...] = ()
    licence: str = "not stated"
    rooms: Path | None = None

    @property
    def work(self) -> Path:
        """Folder of all that is only needed on the way."""
        return self.out / WORK

    @property
    def found(self) -> str:
        """What the folder held when the run began, in words."""
        return (self.work / FOUND_FILE).read_text(encoding="utf-8")

    def stated(self) -> dict[str, Any]:
        """The settings that the adapter follows from."""
        files = sorted(p for p in self.folder.rglob("*") if p.is_file()) if self.folder.is_dir() else []
        listed = [f"{p.relative_to(self.folder).as_posix()} {p.stat().st_size}" for p in files]
        bases = {
            part: file_digest(self.base / name) for part, name in PARTS.items() if (self.base / name).exists()
        }
        values = {name: getattr(self, name) for name in ("minutes", "seed", "full", "instruments", "licence")}
        stated = {**values, "recipe": to_dict(self.recipe), "files": listed, "bases": bases}
        return dict(json.loads(json.dumps(stated)))


@dataclass(frozen=True)
class Base:
    """The settings of the model that is tuned, by part; None where it has none."""

    model: ModelConfig
    composer: ComposerConfig | None
    sketch: SketchConfig | None

    @staticmethod
    def of(folder: Path) -> Base:
        """Read from a model folder.

        Raises:
            CheckpointError: if it is none.
        """
        try:
            model = from_dict(ModelConfig, read_values(folder / CONFIG_FILE))
            own = [
                from_dict(kind, read_values(folder / name / CONFIG_FILE))
                if (folder / name).is_dir()
                else None
                for name, kind in ((COMPOSER_FOLDER, ComposerConfig), (SKETCH_FOLDER, SketchConfig))
            ]
        except ConfigError as error:
            raise CheckpointError(f"{folder} is no model folder of this version ({error}).") from error
        return Base(model, *own)  # type: ignore[arg-type]

    def has(self, part: str) -> bool:
        """Whether the model has a part."""
        return part == "decoder" or getattr(self, part) is not None

    def recipe(self, part: str, recipe: RecipeConfig) -> RecipeConfig:
        """The recipe that trains a part, with the base's sizes."""
        if part == "composer" and self.composer is not None:
            own = self.composer
            return replace(recipe, trains=part, controls=own.controls, ambient=own.ambient, composer=own)
        if part == "sketch" and self.sketch is not None:
            return replace(recipe, trains=part, ambient=self.sketch.ambient, sketch=self.sketch)
        model = self.model
        return replace(
            recipe, trains="model", controls=model.controls, ambient=model.ambient, decoder=model.decoder
        )


def adapter_config(job: TuneJob, parts: list[str], following: float | None = None) -> AdapterConfig:
    """What an adapter of some parts says of itself."""
    own = job.recipe.tune
    stated = {part: TunedPart(file_digest(job.base / PARTS[part]), own.rank, own.alpha) for part in parts}
    return AdapterConfig(Base.of(job.base).model.name, stated, job.found, job.licence, following)
