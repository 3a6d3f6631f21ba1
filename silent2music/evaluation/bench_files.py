"""What every part of `s2m bench` leaves in a folder: `NAME.json`, the table `NAME.md`, and `NAME.png` if it draws."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from silent2music.audio import atomic_path
from silent2music.errors import AudioError

Report = dict[str, Any]


def refuse_existing(folder: Path, name: str) -> None:
    """Say before minutes of measuring what writing would say after them.

    Raises:
        AudioError: if the folder has files of that name.
    """
    for path in (folder / f"{name}{suffix}" for suffix in (".json", ".md", ".png")):
        if path.exists():
            raise AudioError(f"{path} exists already; give --force to replace it or choose another folder.")


def write_files(
    folder: Path,
    name: str,
    report: Report,
    text: str,
    draw: Callable[[Report, Path], None] | None = None,
    force: bool = False,
) -> str:
    """Write a report, its table `text` and its picture, each whole or not at all.

    Returns:
        `text`.

    Raises:
        AudioError: if one exists and `force` is not set, or the folder cannot be written.
    """
    if not force:
        refuse_existing(folder, name)
    with atomic_path(folder / f"{name}.json", force) as path:
        path.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    with atomic_path(folder / f"{name}.md", force) as path:
        path.write_text(text + "\n", encoding="utf-8")
    if draw is not None:
        with atomic_path(folder / f"{name}.png", force) as path:
            draw(report, path)
    return text
