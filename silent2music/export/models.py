"""A model folder as the commands use it: found, loaded on first use, and described in records."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from silent2music.audio import MIN_SECONDS, open_recording
from silent2music.config import (
    COMPOSER_FOLDER,
    SKETCH_FOLDER,
    DeliveryConfig,
    ModelConfig,
    SamplingConfig,
    default_model,
    from_dict,
    read_values,
)
from silent2music.controls import Controls
from silent2music.errors import CheckpointError, ConfigError
from silent2music.export.beside import Beside
from silent2music.export.provenance import sha256
from silent2music.files import atomic_folder
from silent2music.hub import find_folder

if TYPE_CHECKING:
    from silent2music.adapters import Adapter
    from silent2music.model import Silent2Music
    from silent2music.writing import Blend


Other = tuple[Path, float, float]
"""Another room with its share at the beginning and at the end, see `writing.Blend`."""


def blend_of(other: Other | None, reading: Mapping[str, Any]) -> Blend | None:
    """The other room, opened."""
    from silent2music.writing import Blend

    return None if other is None else Blend(open_recording(other[0], **reading), *other[1:])


def described_blend(other: Other | None) -> dict[str, Any]:
    """What a record says of another room."""
    if other is None:
        return {}
    return {"blend": {"file": other[0].name, "sha256": sha256(other[0]), "begin": other[1], "end": other[2]}}


@dataclass(frozen=True)
class Request:
    """Settings of the music to make, the same for all rooms.

    Attributes:
        sampling: how tokens are drawn.
        seconds: length of the music, by default the room's own.
        controls: what steers the model beside the room, by name.
        reading: how recordings are opened: `strict`, `track` and `channel` of `audio.open_recording`.
        delivery: what the files are like.
        asked: what the user wishes of what is composed.
        other: another room that is mixed in, with its share at the beginning and at the end.
        beside: what is written beside the music.
    """

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seconds: float | None = None
    controls: Mapping[str, Any] = field(default_factory=dict)
    reading: Mapping[str, Any] = field(default_factory=dict)
    delivery: DeliveryConfig = field(default_factory=DeliveryConfig)
    asked: Controls | None = None
    other: Other | None = None
    beside: Beside = field(default_factory=Beside)

    def __post_init__(self) -> None:
        if self.seconds is not None and not (math.isfinite(self.seconds) and self.seconds >= MIN_SECONDS):
            raise ConfigError(f"--seconds is {self.seconds}; expected at least {MIN_SECONDS}.")


kept: dict[tuple[Any, ...], Silent2Music] | None = None
"""A model that stays loaded, where a process that runs many commands makes this a dict."""


class LazyModel:
    """A model folder whose weights are loaded on first use, so that a bad recording is told before.

    Args:
        folder: a model folder, by default the one that ships.
        device: `cpu`, `cuda` or `mps`, by default CUDA if there is one, else the CPU.
        download: ask the Hugging Face hub if there is no such folder.
        adapters: what is added to it, as `adapters.parse_adapter` takes it.

    Raises:
        CheckpointError: if the folder is none, or an adapter cannot be read.
    """

    def __init__(
        self,
        folder: Path | None = None,
        device: str | None = None,
        download: bool = False,
        adapters: Sequence[str] = (),
    ) -> None:
        self.folder = find_folder(folder, "model", download) if folder else default_model()
        self._device = device
        for name in ("config.json", "model.safetensors"):
            if not (self.folder / name).is_file():
                raise CheckpointError(
                    f"{self.folder} is no model folder: it has no {name}; expected config.json, "
                    "model.safetensors and a codec."
                )
        self.adapters: tuple[Adapter, ...] = ()
        if adapters:
            from silent2music.adapters import read_adapters

            self.adapters = read_adapters(adapters, download)

    @cached_property
    def sha256(self) -> str:
        """The digest of the weights' file."""
        return sha256(self.folder / "model.safetensors")

    @cached_property
    def parts(self) -> dict[str, str]:
        """The digests of the weights and configs of codec, composer and sketch, by path within the folder."""
        files = sorted([*self.folder.glob("*/*.safetensors"), *self.folder.glob("*/config.json")])
        return {file.relative_to(self.folder).as_posix(): sha256(file) for file in files}

    def made(self, record: Mapping[str, Any]) -> bool:
        """Whether a record is of music by this model and these adapters; one without `parts` is of 0.2.0 or older."""
        own = record["model"]
        is_same: bool = own["sha256"] == self.sha256 and own.get("parts", self.parts) == self.parts
        return is_same and own.get("adapters", []) == self.adapters_described()

    @cached_property
    def config(self) -> ModelConfig:
        """The model's settings, read without its weights."""
        return from_dict(ModelConfig, read_values(self.folder / "config.json"))

    @property
    def composes(self) -> bool:
        """Whether the model writes a score of its own to play it, as its folder says."""
        return (self.folder / COMPOSER_FOLDER).is_dir() and self.plays_scores

    @property
    def plays_scores(self) -> bool:
        """Whether the model plays scores, as its folder says."""
        return (self.folder / SKETCH_FOLDER).is_dir()

    @cached_property
    def device(self) -> str:
        """Where the model runs.

        Raises:
            ConfigError: if the device is unknown or torch cannot reach it.
        """
        import torch

        there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        name = self._device or ("cuda" if there["cuda"] else "cpu")
        if name not in there:
            raise ConfigError(f"Device '{name}' is unknown; expected one of {', '.join(there)}.")
        if not there[name]:
            raise ConfigError(f"Device '{name}' is not available to torch here; use --device cpu.")
        return name

    @cached_property
    def model(self) -> Silent2Music:
        """The loaded model, in evaluation mode.

        Raises:
            CheckpointError: if the folder is incomplete or does not fit the code.
            ConfigError: as `device`.
        """
        import torch

        if self.device == "cuda":
            # Launchers number the processes of a machine: each takes its own card.
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        return self._loaded() if kept is None else self._kept(kept)

    def _kept(self, models: dict[tuple[Any, ...], Silent2Music]) -> Silent2Music:
        """The model of this folder, with its adapters, as it is now: loaded once in the life of the process."""
        times = sorted(
            (str(file), file.stat().st_mtime_ns) for file in self.folder.rglob("*") if file.is_file()
        )
        key = (self.device, *((a.sha256, a.strength) for a in self.adapters), *times)
        if key not in models:
            models.clear()  # one at a time: they are large
            models[key] = self._loaded()
        return models[key]

    def _loaded(self) -> Silent2Music:
        from silent2music.model import Silent2Music

        model = Silent2Music.from_pretrained(self.folder)
        if self.adapters:
            from silent2music.adapters import apply_adapters

            apply_adapters(model, self.folder, self.adapters)
        return model.to(self.device)

    def adapters_described(self) -> list[dict[str, Any]]:
        """What a record says of the adapters."""
        return [adapter.described() for adapter in self.adapters]

    def settled(self, sampling: SamplingConfig, seed: int) -> SamplingConfig:
        """Sampling by a seed, with the model's own strengths where none were asked for."""
        return dataclasses.replace(sampling.resolved(self.config), seed=seed)

    def described(self) -> dict[str, Any]:
        """What a record says of the model."""
        return {
            "name": self.model.config.name,
            "sha256": self.sha256,
            "parts": self.parts,
            "codec_checksum": self.model.codec_checksum,
            **({"adapters": self.adapters_described()} if self.adapters else {}),
        }


def merge_adapters(base: Path, adapters: Sequence[Adapter], out: Path) -> None:
    """Write a model folder with adapters added to its weights; its card says which.

    Args:
        base: model folder that the adapters were tuned from.
        adapters: from `adapters.read_adapters`.
        out: the new folder, which must not be there.

    Raises:
        CheckpointError: if an adapter does not belong to the base, or there is such a folder.
    """
    from silent2music.adapters import apply_adapters
    from silent2music.model import Silent2Music

    if out.exists():
        raise CheckpointError(f"{out} exists already; choose another folder.")
    model = Silent2Music.from_pretrained(base)
    apply_adapters(model, base, adapters)
    with atomic_folder(out) as temporary:
        model.save_pretrained(temporary)
        lines = [
            f"- {one['name']} at {one['strength']:g}: {adapter.config.data or 'data not stated'}, licence "
            f"{adapter.config.licence} (sha256 {one['sha256'][:12]})"
            for adapter in adapters
            for one in [adapter.described()]
        ]
        text = f"# {out.name}\n\nThe silent2music model '{model.config.name}' with these adapters merged:\n\n"
        (temporary / "README.md").write_text(text + "\n".join(lines) + "\n", encoding="utf-8")
