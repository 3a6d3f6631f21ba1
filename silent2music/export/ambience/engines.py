"""Import files for game engines and audio middleware, which read a folder's `manifest.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ENGINES: dict[str, str] = {}


def check_engines(engines: Sequence[str]) -> None:
    """Refuse unknown engines."""


def write_engines(out: Path, manifest: Mapping[str, Any], engines: Sequence[str]) -> None:
    """Write import files."""
