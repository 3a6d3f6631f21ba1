"""Weights on disk: safetensors, read strictly and written whole or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from silent2music.config import from_dict, read_values, to_dict
from silent2music.errors import CheckpointError, ConfigError, shown
from silent2music.files import atomic_path, malformed
from silent2music.processes import one_thread

Shape = tuple[int, ...]
M = TypeVar("M", bound=nn.Module)
C = TypeVar("C")

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def save_module(module: nn.Module, config: Any, folder: Path | str) -> None:
    """Write a folder of a module: weights in 16 bits, and its config as `config.json`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(module.state_dict(), folder / WEIGHTS_FILE)
    text = json.dumps(to_dict(config), indent=2, sort_keys=True) + "\n"
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")


def load_module(make: Callable[[C], M], kind: type[C], folder: Path | str) -> M:
    """A module of a folder written by `save_module`, in evaluation mode.

    Raises:
        CheckpointError: on a missing, truncated or mismatching file, named.
    """
    config_file, weights_file = Path(folder) / CONFIG_FILE, Path(folder) / WEIGHTS_FILE
    config = read_module_config(kind, folder)
    try:
        module = build(lambda: make(config), weights_file)
    except ConfigError as error:
        raise CheckpointError(f"{config_file} does not fit ({error}).") from error
    fill(module.state_dict(), read_weights(weights_file), weights_file)
    return module.eval()


def read_module_config(kind: type[C], folder: Path | str) -> C:
    """The config of a folder written by `save_module`.

    Raises:
        CheckpointError: if it is missing or does not fit.
    """
    file = Path(folder) / CONFIG_FILE
    try:
        return from_dict(kind, read_values(file))
    except ConfigError as error:
        raise CheckpointError(f"{file} does not fit this version ({error}).") from error


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, on the CPU.

    Raises:
        CheckpointError: if it is missing, may not be read, or is damaged.
    """
    with _named(file):
        return load_file(file)


def read_metadata(file: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file."""
    with _named(file), safe_open(file, "pt") as opened:
        return dict(opened.metadata() or {})


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Name the file in what safetensors raises of one that is damaged; only regular files are opened at all."""
    if not file.is_file():
        raise CheckpointError(f"{file} is missing or no regular file; get the folder again.")
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{file} cannot be read ({error.strerror or error}); check its permissions."
        ) from error
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{file} is damaged ({malformed(error)}); get the folder again.") from error


def build(
    make: Callable[[], M], file: Path, own: Callable[[M], Mapping[str, Tensor]] = nn.Module.state_dict
) -> M:
    """Build a module whose weights lie in a file, and compare their shapes with those in the file's header.

    What is allocated is of the file's own size: absurd settings are refused before memory is taken. The weights have no
    values yet.

    Args:
        own: the module's tensors that the file must have, by name.

    Raises:
        CheckpointError: as `fill`, or as `read_weights`.
    """
    with _named(file), safe_open(file, "pt") as opened:
        found = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    with _NoMoreThan(sum(math.prod(shape) for shape in found.values()), file):
        module = make()
    _check_shapes({name: tuple(tensor.shape) for name, tensor in own(module).items()}, found, file)
    return module


class _NoMoreThan(TorchFunctionMode):
    """Refuses to make room for clearly more numbers than a file of weights holds, before memory is taken for them.

    The device `meta` would tell the shapes without memory, but torch loads its compiler for it, which takes a second.
    """

    def __init__(self, n_held: int, file: Path) -> None:
        super().__init__()
        self.n_held, self.n_left, self.file = n_held, n_held + TABLES, file

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _MAKERS:
            size = kwargs.get("size", args[0] if args and not isinstance(args[0], int) else args)
            self.n_left -= math.prod(size)
            if self.n_left < 0:
                raise CheckpointError(
                    f"{self.file} holds {self.n_held} weights and its config asks for more; the two do not belong "
                    "together."
                )
        # What is drawn is overwritten by the file's, and takes as long as reading it.
        if func in _DRAWN:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


_DRAWN = (nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_)

_MAKERS = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)
"""What makes tensors of a given size."""

TABLES = 2**24
"""Numbers that a module may have beside its weights, such as windows and filters."""


def _check_shapes(own: Mapping[str, Shape], found: Mapping[str, Shape], file: Path) -> None:
    """Raise an error that names the first tensor that is missing, unknown or of another shape."""
    for name in sorted(own.keys() ^ found.keys()):
        where = "is missing from" if name in own else "is not known to the code but stands in"
        raise CheckpointError(
            f"Weight {shown(name)} {where} {file}; its config is of other sizes or another version wrote it."
        )
    for name, shape in own.items():
        if shape != found[name]:
            raise CheckpointError(
                f"Weight '{name}' in {file} has shape {shown(found[name])}; its config expects {shape}: the two do "
                "not belong together."
            )


@one_thread()
@torch.no_grad()
def fill(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], file: Path) -> None:
    """Copy `tensors`, as read from `file`, into a module's tensors in place: all of them or none.

    Args:
        own: what to fill, by name, as in a module's `state_dict()`.
        tensors: the same names and shapes; floating-point types of 16 bits or more, and devices, may differ.

    Raises:
        CheckpointError: naming the first that is missing, unknown, of another shape or type, or not finite.
    """
    expected, there = ({name: tuple(t.shape) for name, t in some.items()} for some in (own, tensors))
    _check_shapes(expected, there, file)
    for name, value in own.items():
        found = tensors[name]
        is_alike = value.is_floating_point() and found.is_floating_point() and found.element_size() > 1
        if found.dtype != value.dtype and not is_alike:
            raise CheckpointError(
                f"Weight '{name}' in {file} is {_type(found)}; expected {_type(value)}, get the folder again."
            )
        # Limits that were never measured are infinite in a new module already.
        known = found.isfinite() if found.is_floating_point() else torch.ones(())
        if not known.all() and not (known.bool() | (found.isposinf() & value.isposinf().cpu())).all():
            raise CheckpointError(
                f"Weight '{name}' in {file} is not finite (NaN or infinite); get the folder again or train anew."
            )
    for name, value in own.items():
        value.copy_(tensors[name])


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


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
