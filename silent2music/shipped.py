"""What ships with the package: the model, the recipes and a recording of a room.

An installed package holds them inside; in a checkout they lie at its root.
"""

from __future__ import annotations

from pathlib import Path

from silent2music.errors import CheckpointError, ConfigError

PACKAGE = Path(__file__).parent

DEMO_ROOM = PACKAGE / "assets" / "walking_on_wood.flac"
"""The near-silent recording that comes with the package."""


def shipped(folder: str) -> dict[str, Path]:
    """What lies in `recipes` or `checkpoints`: the path of each entry by its name."""
    places = [root / folder for root in (PACKAGE.parent, PACKAGE) if (root / folder).is_dir()]
    return {path.name: path for place in places for path in sorted(place.iterdir()) if path.is_dir()}


def default_model() -> Path:
    """The folder of the model that ships.

    Raises:
        CheckpointError: if there is none.
    """
    folder = shipped("checkpoints").get("base")
    if folder is None or not (folder / "config.json").exists():
        raise CheckpointError("No model came with this installation; give --model with a model folder.")
    return folder


def find_recipe(given: Path) -> Path:
    """A recipe's folder or file: the one that was named, or of those that ship the one of that bare name.

    Raises:
        ConfigError: if a bare name is neither.
    """
    if given.exists() or len(given.parts) > 1 or given.suffix:
        return given
    recipes = {name: path for name, path in shipped("recipes").items() if (path / "recipe.toml").exists()}
    if given.name not in recipes:
        raise ConfigError(
            f"{given} is no recipe; expected a folder, a TOML file or one of {', '.join(sorted(recipes))}."
        )
    return recipes[given.name]
