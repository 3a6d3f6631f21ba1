"""Adapters: small files of low-rank changes to a model's weights, read strictly and added to the weights at loading.

`s2m tune` writes a folder with `adapter.json` and `adapter.safetensors`. The first names, for each part of the model that
was tuned, the checksum of the weights' file that the changes belong to. A change of a matrix W `[N, M]` is the product
`alpha / rank * B A` of B `[N, rank]` and A `[rank, M]` (Hu et al., "LoRA", 2021); biases change by a vector. Limits of
drawing, such as the instruments that a composer knows, become the wider of both. Tables of who plays hold rows of the
base and of all adapters in proportion to their strengths: at 1 the adapter's alone. How far loudness follows the room by
rule is a number that moves from the base's to the adapter's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from silent2music.config import COMPOSER_FOLDER, SKETCH_FOLDER, from_dict, read_values
from silent2music.errors import CheckpointError, ConfigError, shown
from silent2music.files import sha256, write_text
from silent2music.hub import find_folder
from silent2music.weights import WEIGHTS_FILE, read_weights, write_weights

ADAPTER_FILE, ADAPTER_CONFIG = "adapter.safetensors", "adapter.json"

MAX_BYTES = 8 * 2**20
"""Of an adapter's weights."""

PARTS = {
    "composer": f"{COMPOSER_FOLDER}/{WEIGHTS_FILE}",
    "sketch": f"{SKETCH_FOLDER}/{WEIGHTS_FILE}",
    "decoder": WEIGHTS_FILE,
}
"""What can be tuned: attributes of `Silent2Music`, with the file of a model folder that holds its weights."""

DOWN, UP, SHIFT, LIMIT, TAKEN = ".lora_A", ".lora_B", ".delta", ".limit", ".taken"
"""Ends of names in the file, after the name of a weight: A, B, the change of a bias, the value of a limit, and a table
whose rows are taken in place of the base's."""

MAX_STRENGTH = 2.0


@dataclass(frozen=True)
class TunedPart:
    """What `adapter.json` says of one part: the SHA-256 of the base's weights' file, and the size of the changes."""

    base: str
    rank: int
    alpha: float


@dataclass(frozen=True)
class AdapterConfig:
    """The whole of `adapter.json`.

    Attributes:
        base: name of the model that was tuned, for messages.
        parts: by name in `PARTS`.
        data: what it was tuned on, in words; licence: as the user stated it.
        following: of its composer, as in `ComposerConfig`; None leaves the base's.
    """

    base: str
    parts: dict[str, TunedPart] = field(default_factory=dict)
    data: str = ""
    licence: str = "not stated"
    following: float | None = None


@dataclass(frozen=True)
class Adapter:
    """An adapter that was read and checked, with the strength at which it is to be added.

    Attributes:
        folder: where it lies.
        config: its `adapter.json`.
        tensors: by part and name in the file.
        strength: a factor on all changes, 1 as trained.
    """

    folder: Path
    config: AdapterConfig
    tensors: dict[str, Tensor] = field(repr=False)
    strength: float = 1.0

    @cached_property
    def sha256(self) -> str:
        """The digest of its weights' file."""
        return file_digest(self.folder / ADAPTER_FILE)

    def described(self) -> dict[str, Any]:
        """What a record says of it."""
        name = self.folder.resolve().name
        return {"name": name, "sha256": self.sha256, "strength": self.strength}

    def of_part(self, part: str) -> dict[str, Tensor]:
        """The tensors of a part, by name without the part's."""
        own = f"{part}."
        return {name.removeprefix(own): x for name, x in self.tensors.items() if name.startswith(own)}


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits.

    Raises:
        CheckpointError: if it cannot be read.
    """
    try:
        return sha256(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}); get it again.") from error


def parse_adapter(text: str) -> tuple[str, float]:
    """Folder and strength of `FOLDER` or `FOLDER=STRENGTH`.

    Raises:
        ConfigError: if the strength is out of range.

    Example:
        >>> parse_adapter("lofi"), parse_adapter("lofi=0.5")
        (('lofi', 1.0), ('lofi', 0.5))
    """
    name, _, number = text.rpartition("=")
    try:
        strength = float(number)
    except ValueError:
        return text, 1.0
    if not name:
        return text, 1.0
    if not 0.0 <= strength <= MAX_STRENGTH:
        raise ConfigError(f"The strength of {name} is {strength:g}; expected 0 to {MAX_STRENGTH:g}.")
    return name, strength


def read_adapters(texts: Sequence[str | Path], download: bool = False) -> tuple[Adapter, ...]:
    """Read adapters as they are named on the command line, see `parse_adapter`.

    Args:
        texts: folders, or repositories of the Hugging Face hub, each with its strength.
        download: ask the hub for a name that is no folder.

    Raises:
        CheckpointError, ConfigError: as `read_adapter` and `parse_adapter`.
    """
    named = [parse_adapter(str(text)) for text in texts]
    return tuple(read_adapter(find_folder(name, "adapter", download), strength) for name, strength in named)


def read_adapter(folder: Path, strength: float = 1.0) -> Adapter:
    """Read an adapter and compare its tensors with what its `adapter.json` says.

    Raises:
        CheckpointError: if a file is missing, damaged, too large, or holds what it should not; in one sentence.
    """
    try:
        values = read_values(folder / ADAPTER_CONFIG)
        stated = values.pop("parts", None)
        if not isinstance(stated, dict):
            raise ConfigError(f"'parts' is {shown(stated)}; expected a table of parts")
        parts = {name: from_dict(TunedPart, part, f"parts.{name}") for name, part in stated.items()}
        config = replace(from_dict(AdapterConfig, values), parts=parts)
    except ConfigError as error:
        raise CheckpointError(f"{folder} is no adapter of this version ({error}); check the name.") from error
    for name, part in parts.items():
        if name not in PARTS or part.rank < 1 or not math.isfinite(part.alpha):
            raise CheckpointError(
                f"{folder / ADAPTER_CONFIG} tunes {shown(name)} at rank {part.rank}; expected {', '.join(PARTS)} and a "
                "rank of 1 or more."
            )
    if config.following is not None and not 0.0 <= config.following <= 1.0:
        raise CheckpointError(
            f"{folder / ADAPTER_CONFIG} states a following of {config.following:g}; expected 0 to 1."
        )
    file = folder / ADAPTER_FILE
    if file.is_file() and file.stat().st_size > MAX_BYTES + 2**20:
        raise CheckpointError(f"{file} has more than {MAX_BYTES // 2**20} MiB; expected an adapter.")
    tensors = read_weights(file)
    for name, tensor in tensors.items():
        _check_tensor(file, name, tensor, parts, tensors)
    return Adapter(folder, config, tensors, strength)


def _check_tensor(
    file: Path, name: str, tensor: Tensor, parts: Mapping[str, TunedPart], tensors: Mapping[str, Tensor]
) -> None:
    """Raise an error if a tensor is of no known kind, of another rank than stated, alone, or not finite."""
    part = parts.get(name.partition(".")[0])
    weight, _, end = name.rpartition(".")
    if part is None or f".{end}" not in (DOWN, UP, SHIFT, LIMIT, TAKEN):
        raise CheckpointError(
            f"{file} holds {shown(name)}, which no adapter of this version has; get it again or update silent2music."
        )
    if f".{end}" in (DOWN, UP):
        other = tensors.get(weight + (UP if f".{end}" == DOWN else DOWN))
        rank = tensor.shape[0 if f".{end}" == DOWN else -1] if tensor.ndim == 2 else None
        if rank != part.rank:
            raise CheckpointError(
                f"{file} is of rank {rank} at {shown(weight)} and its {ADAPTER_CONFIG} says {part.rank}; the two do not "
                "belong together."
            )
        if other is None:
            raise CheckpointError(f"{file} has {shown(name)} without its counterpart; get the adapter again.")
    if tensor.is_floating_point() and not tensor.isfinite().all():
        raise CheckpointError(f"{file} has values in {shown(name)} that are not finite; tune again.")


@torch.no_grad()
def apply_adapters(model: nn.Module, base: Path, adapters: Sequence[Adapter]) -> None:
    """Add adapters to a model's weights, in place and in order; the changes of several are summed.

    Args:
        model: a `Silent2Music` as loaded from `base`.
        base: its folder, whose checksums must be those that the adapters name.
        adapters: from `read_adapters`.

    Raises:
        CheckpointError: if an adapter belongs to another model, before anything was changed.
    """
    checksums: dict[str, str] = {}
    jobs: dict[tuple[str, str], tuple[Tensor, Tensor, str]] = {}
    tables: dict[str, tuple[Tables, list[tuple[float, Tables]]]] = {}
    for adapter in adapters:
        for part, tuned in adapter.config.parts.items():
            file, module = base / PARTS[part], getattr(model, part, None)
            if module is None:
                raise CheckpointError(
                    f"{adapter.folder} tunes the {part} of '{adapter.config.base}', and {base} has none; use the model "
                    "that it was tuned from."
                )
            checksums[part] = checksums.get(part) or file_digest(file)
            if checksums[part] != tuned.base:
                raise CheckpointError(
                    f"{adapter.folder} was tuned from a {part} of checksum {tuned.base[:12]} ('{adapter.config.base}'), "
                    f"and that of {base} has {checksums[part][:12]}; use the model that it was tuned from."
                )
            state = dict(module.state_dict())
            changes = _changes(adapter, part, tuned, state)
            rows = {name: change for name, (_, change, kind) in changes.items() if kind == TAKEN}
            for name, (own, change, kind) in changes.items():
                if kind != TAKEN:
                    # Joined before the weight is touched: two halves of an adapter are the whole of it, to the bit.
                    known = jobs.get((part, name))
                    jobs[part, name] = own, change if known is None else _joined(known[1], change, kind), kind
            if not rows:
                continue
            if rows.keys() != (names := set(getattr(module, "tables", ()))):
                raise CheckpointError(
                    f"{adapter.folder / ADAPTER_FILE} has {', '.join(sorted(rows))} of the {part}; expected all of "
                    f"{', '.join(sorted(names))}: get the adapter again."
                )
            tables.setdefault(part, ({name: state[name] for name in rows}, []))[1].append(
                (adapter.strength, rows)
            )
    composers = [adapter for adapter in adapters if "composer" in adapter.config.parts]
    if composers:
        config = cast(Any, model).composer.config
        stated = [(adapter.strength, adapter.config.following) for adapter in composers]
        moved = sum(strength * (own - config.following) for strength, own in stated if own is not None)
        following = min(1.0, max(0.0, config.following + moved))
        cast(Any, model).composer.config = replace(config, following=following)
    for base_rows, others in tables.values():
        _take(base_rows, others)
    for own, change, kind in jobs.values():
        own.copy_(_joined(own, change.to(own), kind))


def _joined(one: Tensor, other: Tensor, kind: str) -> Tensor:
    """What two changes, or a weight and a change, come to: of limits the wider, else the sum."""
    return torch.maximum(one, other) if kind == LIMIT else one + other


Tables = Mapping[str, Tensor]
"""Of equal length, by name; a row that is zero in all of them is unused."""


def _take(base: Tables, others: Sequence[tuple[float, Tables]]) -> None:
    """Fill tables with their own rows and those of others, as many of each as its share of the strengths.

    No row comes twice, so there are fewer in all where somebody has few; tables that are given twice count once, by the
    sum of their strengths.
    """
    total, found = sum(strength for strength, _ in others), []
    summed: list[tuple[float, Tables]] = []
    for strength, tables in others:
        for at, (known, other) in enumerate(summed):
            if all(torch.equal(tables[name], other[name]) for name in base):
                summed[at] = known + strength, other
                break
        else:
            summed.append((strength, tables))
    for strength, tables in ((max(0.0, 1.0 - total), base), *summed):
        used = torch.stack([table.flatten(1).ne(0).any(dim=1) for table in tables.values()]).any(dim=0)
        if strength > 0 and used.any():
            found.append((strength / max(1.0, total), used.nonzero()[:, 0], tables))
    longest = min([len(next(iter(base.values()))), *(len(rows) / share for share, rows, _ in found)])
    counts = [max(1, int(share * longest + 1e-6)) for share, _, _ in found]
    picked = [rows[torch.arange(n) * len(rows) // n] for n, (_, rows, _) in zip(counts, found, strict=True)]
    for name, table in base.items():
        joined = torch.cat(
            [tables[name][rows].to(table) for rows, (_, _, tables) in zip(picked, found, strict=True)]
        )
        table.zero_()[: len(joined)] = joined[: len(table)]


def _changes(
    adapter: Adapter, part: str, tuned: TunedPart, own: Mapping[str, Tensor]
) -> dict[str, tuple[Tensor, Tensor, str]]:
    """What an adapter changes of a part: weights with what is added to them, limits and tables with the adapter's own."""
    found, tensors = {}, adapter.of_part(part)
    scale = adapter.strength * tuned.alpha / tuned.rank
    for name, tensor in tensors.items():
        weight, _, end = name.rpartition(".")
        kind = f".{end}"
        if kind == DOWN:
            change, kind = scale * (tensors[weight + UP].float() @ tensor.float()), UP
        elif kind == SHIFT:
            change = adapter.strength * tensor.float()
        elif kind in (LIMIT, TAKEN):
            if adapter.strength == 0:
                continue
            change = tensor
        else:
            continue
        target = own.get(weight)
        if (
            target is None
            or target.shape != change.shape
            or target.is_floating_point() is (kind in (LIMIT, TAKEN))
        ):
            raise CheckpointError(
                f"{adapter.folder / ADAPTER_FILE} changes {part}.{weight} of shape {list(change.shape)}, which its base "
                "does not have; get the adapter again."
            )
        found[weight] = target, change, kind
    return found


def write_adapter(folder: Path, config: AdapterConfig, tensors: Mapping[str, Tensor]) -> None:
    """Write an adapter's two files, in 16 bits.

    Raises:
        ConfigError: if it is larger than `MAX_BYTES`.
    """
    size = sum(x.numel() * (2 if x.is_floating_point() else x.element_size()) for x in tensors.values())
    if size > MAX_BYTES:
        raise ConfigError(
            f"The adapter would have {size / 2**20:.1f} MiB; expected at most {MAX_BYTES // 2**20}: lower tune.rank or "
            "name fewer tune.targets."
        )
    write_weights(tensors, folder / ADAPTER_FILE)
    write_text(folder / ADAPTER_CONFIG, json.dumps(asdict(config), indent=2, sort_keys=True) + "\n")
