"""Weights on disk: safetensors, read strictly and written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from silent2music.errors import CheckpointError
from silent2music.files import atomic_path


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, on the CPU.

    Raises:
        CheckpointError: if it is missing, may not be read, or is damaged.
    """
    if not file.exists():
        raise CheckpointError(f"{file} is missing; get the folder again.")
    try:
        return load_file(file)
    except OSError as error:
        raise CheckpointError(
            f"{file} cannot be read ({error.strerror or error}); check its permissions."
        ) from error
    except SafetensorError as error:
        raise CheckpointError(f"{file} is damaged ({error}); get the folder again.") from error


def read_metadata(file: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file."""
    with safe_open(file, "pt") as opened:
        return dict(opened.metadata() or {})


@torch.no_grad()
def fill(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], file: Path) -> None:
    """Copy `tensors`, as read from `file`, into a module's tensors in place: all of them or none.

    Args:
        own: what to fill, by name, as in a module's `state_dict()`.
        tensors: the same names and shapes; types and devices may differ.
        file: where they are from, for the error.

    Raises:
        CheckpointError: naming the first that is missing, unknown or of another shape.
    """
    for name in sorted(own.keys() ^ tensors.keys()):
        where = "is missing from" if name in own else "is not known to the code but stands in"
        raise CheckpointError(
            f"Weight '{name}' {where} {file}; its config is of other sizes or another version wrote it."
        )
    for name, value in own.items():
        if value.shape != tensors[name].shape:
            raise CheckpointError(
                f"Weight '{name}' in {file} has shape {tuple(tensors[name].shape)}; its config expects "
                f"{tuple(value.shape)}: the two do not belong together."
            )
    for name, value in own.items():
        value.copy_(tensors[name])


def as_stored(tensor: Tensor) -> Tensor:
    """A tensor as it is written to disk: floating point in 16 bits, contiguous, on the CPU."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor.half() if tensor.is_floating_point() else tensor


def write_weights(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write weights in 16 bits, replacing the file whole or not at all."""
    write_tensors({name: as_stored(tensor) for name, tensor in tensors.items()}, file, {"format": "pt"})


def write_tensors(tensors: Mapping[str, Tensor], file: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors in their own precision with metadata, replacing the file whole or not at all."""
    # Cloned: safetensors refuses tensors that share memory.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with atomic_path(file, force=True) as temporary:
        try:
            save_file(plain, temporary, dict(metadata))
        except SafetensorError as error:
            raise CheckpointError(f"{file} cannot be written ({error}); is the disk full?") from error
