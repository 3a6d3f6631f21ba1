"""The layout that the design fixes: heavy imports stay where they belong. `lint-imports` sees that all run downward."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "silent2music"

HOMES = {
    "typer": ("cli/",),
    "soundfile": ("audio/formats.py", "audio/decoding.py"),
    "av": ("audio/decoding.py", "audio/formats.py", "export/picture/clip.py", "export/picture/sound.py"),
    "accelerate": ("training/",),
    "encodec": ("codec.py", "_torchaudio.py", "training/codec", "evaluation/codec_bench"),
    "transformers": ("codec.py", "training/codec", "evaluation/"),
}
"""Packages that are imported in these places alone."""


NOT_FOR_INFER = (
    "accelerate",
    "datasets",
    "encodec",
    "huggingface_hub",
    "jsonschema",
    "librosa",
    "matplotlib",
    "mir_eval",
    "numba",
    "pandas",
    "pyarrow",
    "pyloudnorm",
    "pyroomacoustics",
    "rich",
    "scipy.interpolate",
    "scipy.linalg",
    "scipy.optimize",
    "scipy.signal",
    "scipy.stats",
    "silent2music.data",
    "silent2music.evaluation",
    "silent2music.factory",
    "silent2music.training",
    "sklearn",
    "symusic",
    "sympy",
    "tensorboard",
    "torch._dynamo",
    "torch._inductor",
    "torchaudio",
    "transformers",
)
"""What the main job can do without, and each takes from a tenth of a second to several to import."""


@cache
def imports(path: Path) -> set[str]:
    """Top-level names of all that a module imports, at any depth of its code."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def modules_after(statement: str) -> set[str]:
    """Modules that a fresh interpreter has loaded after a statement."""
    code = f"{statement}\nimport sys; print('\\n'.join(sys.modules))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return set(done.stdout.split("\n"))


@pytest.mark.parametrize("package", HOMES)
def test_a_package_is_imported_in_its_home_alone(package: str) -> None:
    users = {
        path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if package in imports(path)
    }
    assert {user for user in users if not user.startswith(HOMES[package])} == set()
    assert users or package == "encodec"


def test_help_loads_nothing_heavy() -> None:
    loaded = modules_after(
        "import sys\nfrom silent2music.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    )
    assert "silent2music.cli" in loaded
    assert not loaded & {"torch", "numpy", "scipy", "soundfile", "rich", "silent2music.audio"}


def test_infer_loads_no_module_that_it_does_not_use(
    room_file: Path, model_folder: Path, tmp_path: Path
) -> None:
    command = ["infer", str(room_file), "-o", str(tmp_path / "out.wav"), "--model", str(model_folder)]
    loaded = modules_after(
        f"from silent2music.cli import main\ntry: main({command!r})\nexcept SystemExit: pass"
    )
    assert "torch" in loaded
    assert not {name for name in loaded if name.startswith(NOT_FOR_INFER)}


def test_every_package_is_listed_for_installation() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in PACKAGE.rglob("__init__.py")
    }
    assert found <= set(settings["packages"])
    assert settings["package-dir"]["silent2music.checkpoints"] == "checkpoints"
    assert settings["package-dir"]["silent2music.recipes"] == "recipes"
    recipes = {f"silent2music.recipes.{path.parent.name}" for path in ROOT.glob("recipes/*/recipe.toml")}
    assert recipes <= set(settings["packages"]) & set(settings["package-data"])


def test_readme_has_exactly_two_commands_that_set_up() -> None:
    blocks = (ROOT / "README.md").read_text(encoding="utf-8").split("```bash\n")[1:]
    main_job, tests = (block.split("```")[0] for block in blocks)
    assert main_job.rstrip().endswith(".venv/bin/s2m demo")
    assert tests.rstrip().endswith(".venv/bin/lint-imports && .venv/bin/pytest")
    assert "readme_command" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
