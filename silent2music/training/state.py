"""Shared by the training loops of model and codec: the resume file, averaged weights, learning rate, precision.

A run's state is one file: weights, averaged weights, the optimizers' moments, and in its metadata the step and the
settings. It is replaced whole, so that a kill at any time leaves a state whose parts are of one age.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from silent2music.errors import CheckpointError, ConfigError
from silent2music.weights import fill, read_metadata, read_weights, write_tensors

STATE_FILE = "state.safetensors"

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of a parameter."""

_OPTIMIZER = "optimizer."

Parts = Mapping[str, Mapping[str, Tensor]]
"""By name (`model`, `average`, ...): tensors as a `state_dict()` has them."""

Optimizers = Mapping[str, tuple[nn.Module, torch.optim.Optimizer]]
"""By name: an optimizer and the module whose parameters it updates."""


def write_state(
    file: Path,
    step: int,
    settings: Mapping[str, Any],
    tensors: Parts,
    optimizers: Optimizers,
) -> None:
    """Write everything that resuming a run needs, replacing the file whole or not at all.

    Args:
        tensors: see `Parts`.
        optimizers: see `Optimizers`.
    """
    held = {f"{part}.{name}": value for part, own in tensors.items() for name, value in own.items()}
    for part, (module, optimizer) in optimizers.items():
        for name, parameter in module.named_parameters():
            for key, value in optimizer.state.get(parameter, {}).items():
                held[f"{_OPTIMIZER}{part}.{key}.{name}"] = value
    # Under one key: of several the order in the file is chance, and the same state should be the same bytes.
    run = json.dumps({"step": step, "settings": dict(settings)})
    write_tensors(held, file, {"run": run})


def read_state(file: Path, tensors: Parts, optimizers: Optimizers) -> int:
    """Fill parts and optimizers, in place, with what `write_state` wrote; returns the step.

    Raises:
        CheckpointError: if the state is damaged, or was written with other sizes, naming the first tensor.
    """
    try:
        state = read_weights(file)
        step = int(json.loads(read_metadata(file)["run"])["step"])
    except (CheckpointError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{file} is damaged ({error}); copy it back from elsewhere, or begin a run in another folder."
        ) from error
    moments = {name: state.pop(name) for name in list(state) if name.startswith(_OPTIMIZER)}
    own = {f"{part}.{name}": value for part, found in tensors.items() for name, value in found.items()}
    try:
        fill(own, state, file)
    except CheckpointError as error:
        raise CheckpointError(
            f"The state in {file.parent} does not fit the recipe ({error}); resume with the settings that it was "
            "started with."
        ) from error
    for part, (module, optimizer) in optimizers.items():
        for name, parameter in module.named_parameters():
            found = {key: moments.get(f"{_OPTIMIZER}{part}.{key}.{name}") for key in _MOMENTS}
            kept = {key: value for key, value in found.items() if value is not None}
            if len(kept) == len(_MOMENTS):
                # The count of steps stays on the CPU, where AdamW keeps it.
                optimizer.state[parameter] = {
                    key: value if key == "step" else value.to(parameter.device) for key, value in kept.items()
                }
    return step


@torch.no_grad()
def update_ema(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Move the exponential moving average of a model's weights by one step.

    It forgets faster at the start (`(1 + step) / (10 + step)`, if that is less than `decay`), where there is little
    worth keeping.
    """
    decay = min(decay, (1 + step) / (10 + step))
    for mean, weight in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(weight.detach(), 1.0 - decay)


def learning_rate(step: int, peak: float, warmup_steps: int, max_steps: int, floor: float = 0.02) -> float:
    """Linear warm-up, then half a cosine from `peak` down to `floor * peak` at `max_steps`."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    return peak * (floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done))))


def resolved_precision(wanted: str) -> str:
    """The precision `bf16` or `no`; `auto` is bf16 where that is faster: on CUDA and on CPUs with AMX.

    With `avx512_bf16` alone, torch multiplies in bf16 at 0.5 to 0.7 times the speed of float32.

    Raises:
        ConfigError: on any other word.
    """
    if wanted not in ("auto", "bf16", "no"):
        raise ConfigError(f"training.mixed_precision is '{wanted}'; expected auto, bf16 or no.")
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    # Absent before torch 2.10; without an answer, full precision is the safe choice.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16" if capabilities.get("amx_bf16") else "no"
