"""Folders of models and codecs by name: one that is there, or one of the Hugging Face hub if that is asked for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from silent2music.errors import CheckpointError, require

SHORT_NAMES = {"encodec_24khz": "facebook/encodec_24khz", "encodec_32khz": "facebook/encodec_32khz"}
"""Official EnCodec weights by short name."""

WANTED = ("*.json", "*.safetensors", "*.md", "*.png")
"""What of a repository is fetched: above all no pickles and no programs."""

_REPOSITORY = re.compile(r"(?=.{1,96}$)[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


def find_folder(name: Path | str, what: str, download: bool = False, **options: Any) -> Path:
    """The folder of a model or a codec: the one of that name, or what the hub has under it.

    Args:
        name: of a folder, or `owner/name` of a repository; a folder that is there comes first.
        what: `model` or `codec`, for the error.
        download: ask the Hugging Face hub if there is no such folder. Without it no socket is opened.
        options: as `huggingface_hub.snapshot_download` takes them (`revision`, `token`, ...).

    Raises:
        CheckpointError: if there is no such folder, and the hub was not asked or does not give it.
    """
    folder = Path(name)
    try:
        is_there = folder.exists()
    except OSError:  # a name that no file system takes
        is_there = False
    if is_there and folder.is_dir():
        return folder
    text = folder.as_posix()
    repository = SHORT_NAMES.get(text, text)
    if is_there or not _REPOSITORY.fullmatch(repository):
        raise CheckpointError(f"{name} is no {what} folder; check the name.")
    if not download:
        raise CheckpointError(
            f"{name} is no {what} folder; check the name, or give --download (download=True in Python) to ask the "
            f"Hugging Face hub for {repository}."
        )
    hub = require("huggingface_hub", "hub")
    try:
        return Path(hub.snapshot_download(repository, allow_patterns=list(WANTED), **options))
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0].rstrip(".")
        raise CheckpointError(
            f"{name} is no folder, and the hub does not give it ({reason}); check the name."
        ) from error
