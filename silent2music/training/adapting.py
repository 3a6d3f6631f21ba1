"""What of a model is trained when it is fine-tuned: low-rank changes through `peft`, or all weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from silent2music._torchaudio import ensure_torchaudio
from silent2music.adapters import DOWN, LIMIT, SHIFT, TAKEN, UP
from silent2music.composer import ENSEMBLES, LIMITS
from silent2music.config import TuneConfig
from silent2music.errors import ConfigError, require
from silent2music.weights import write_weights

NAME = "default"
"""peft's name of the only adapter of a model in training."""


def import_peft() -> Any:
    """The package peft, which imports torchaudio by way of transformers.

    Raises:
        S2MError: if it is not installed.
    """
    ensure_torchaudio()
    return require("peft", "tune")


class LowRank:
    """Trains low-rank changes of one part of a model, as `learner.Fitting`.

    Args:
        part: name in `adapters.PARTS`.
        file: where the changes are written, under the names that an adapter has.
    """

    def __init__(self, part: str, config: TuneConfig, file: Path) -> None:
        self.part, self.config, self.file = part, config, file
        # Within a whole model the decoder is a module of it.
        self.prefix = "decoder." if part == "decoder" else ""
        self.names: list[str] = []
        self.biases: dict[str, Tensor] = {}

    def prepare(self, model: nn.Module) -> None:
        """Put peft's layers in the place of those that change, and let nothing else be trained.

        Raises:
            ConfigError: if no layer fits the recipe's targets.
            S2MError: if peft is not installed.
        """
        peft = import_peft()
        own, pattern = self.config, f"{self.prefix.replace('.', '[.]')}({self.config.targets[self.part]})"
        settings = peft.LoraConfig(
            r=own.rank,
            lora_alpha=own.alpha,
            lora_dropout=own.dropout,
            target_modules=pattern,
            bias="lora_only",
        )
        try:
            peft.inject_adapter_in_model(settings, model, adapter_name=NAME)
        except ValueError as error:
            raise ConfigError(
                f"tune.targets.{self.part} is '{own.targets[self.part]}', which fits no layer that can change "
                f"({' '.join(str(error).split())[:120]}); see the recipe."
            ) from error
        self.names = [name for name, weight in model.named_parameters() if weight.requires_grad]
        self.biases = {
            name: weight.detach().clone()
            for name, weight in self.own(model).items()
            if name.endswith("base_layer.bias")
        }

    def own(self, model: nn.Module) -> dict[str, Tensor]:
        """What is trained, under peft's names."""
        weights = dict(model.named_parameters())
        return {name: weights[name] for name in self.names}

    def write(self, model: nn.Module) -> None:
        """Write the changes under the names that an adapter has."""
        write_weights(self.tensors(model), self.file)

    def tensors(self, model: nn.Module) -> dict[str, Tensor]:
        """The changes by their names in an adapter's file."""
        found = {}
        for name, value in self.own(model).items():
            layer, _, end = name.removeprefix(self.prefix).rpartition(".base_layer.")
            if layer and end == "bias":
                change = value.detach() - self.biases[name].to(value)
                found[f"{self.part}.{layer}.bias{SHIFT}"] = change
                continue
            layer, _, end = name.removeprefix(self.prefix).rpartition(".lora_")
            found[f"{self.part}.{layer}.weight{DOWN if end.startswith('A') else UP}"] = value
        buffers = dict(model.named_buffers())
        if self.part == "composer":
            found |= {f"composer.{name}{LIMIT}": buffers[name] for name in LIMITS}
            found |= {f"composer.{name}{TAKEN}": buffers[name] for name in ENSEMBLES}
        return found


class AllWeights:
    """Trains all weights of a part, as `learner.Fitting`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self, model: nn.Module) -> None:
        """Nothing is left out."""

    def own(self, model: nn.Module) -> dict[str, Tensor]:
        """The state of the part."""
        return cast(dict[str, Tensor], cast(Any, model).own_state())

    def write(self, model: nn.Module) -> None:
        """Write the part's folder."""
        cast(Any, model).save_pretrained(self.folder)
