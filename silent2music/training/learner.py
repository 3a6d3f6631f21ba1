"""What trains a model on prepared pairs, whichever model it is: steps of the optimizer, averaged weights, validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from silent2music.config import RecipeConfig, TrainingConfig
from silent2music.data.pairs import SPLITS
from silent2music.data.shards import Batch, PairDataset, batches
from silent2music.errors import ConfigError, shown
from silent2music.processes import StepProgress
from silent2music.signals import Signals, draw_kept
from silent2music.training.running import Optimizers, Parts, learning_rate, open_run, train_steps, update_ema

if TYPE_CHECKING:
    from accelerate import Accelerator


N_STATISTICS = 256
"""Pairs that standardisation and the limits of sampling are measured on."""


Pairs = tuple[PairDataset, PairDataset]
"""Pairs to train on, and others to validate on."""


def open_pairs(
    recipe: RecipeConfig,
    shards: Path,
    controls: Sequence[str],
    needs: Sequence[str],
    wants: Sequence[str] = (),
) -> Pairs:
    """Crops of prepared pairs as a recipe has them, with the scores of whole pairs; arguments as of `PairDataset`.

    Raises:
        ConfigError: if they were prepared with other features than the model hears, naming the setting.
    """
    config = recipe.training
    dataset, validation = (
        PairDataset(shards, split, config.crop_seconds, config.seed, controls, needs, True, wants)
        for split in SPLITS
    )
    for name, prepared in dataset.meta["feature_settings"].items():
        own = getattr(recipe.ambient, name, None)
        if own != prepared:
            raise ConfigError(
                f"{shards} was prepared with ambient.{name} {shown(prepared)} and the recipe has {own}; set "
                f"ambient.{name}={shown(prepared)}, or prepare the pairs again."
            )
    return dataset, validation


def kept_signals(batch: Batch, controls: Sequence[str], config: TrainingConfig) -> Signals:
    """The signals of a batch after the conditioning dropout of a step."""
    n_rows, device = len(batch.ids), batch.signals.mask.device
    return batch.signals.kept(draw_kept(controls, config.control_dropout, n_rows, device))


class Task(Protocol):
    """What a model learns."""

    def losses(self, model: nn.Module, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Figures for the log, by name, and the loss to be minimised."""

    def contrast(self, average: nn.Module, batch: Batch, alone: bool) -> dict[str, Tensor]:
        """Losses `[B]` of the averaged weights under the `true` room and, unless it is to stand alone, under another
        (`shuffled`) and none (`dropped`)."""


class Fitting(Protocol):
    """What of a model is trained and written, where that is not all of it."""

    def prepare(self, model: nn.Module) -> None:
        """Make the model, its weights loaded, ready to be trained."""

    def own(self, model: nn.Module) -> dict[str, Tensor]:
        """What is trained, by name."""

    def write(self, model: nn.Module) -> None:
        """Write what was trained."""


def train_on(
    pairs: Pairs,
    found: str,
    config: TrainingConfig,
    out: Path,
    folder: str,
    resume: bool,
    make: Callable[[Accelerator], tuple[nn.Module, Task]],
    factors: Mapping[str, float] | None = None,
    fitting: Fitting | None = None,
    progress: StepProgress | None = None,
    **options: Any,
) -> Path:
    """Train on pairs in a run, or go on with it; returns the folder of the averaged weights of its last checkpoint.

    Args:
        found: what pairs there are, as the sentence begins that says that they are too few.
        out: folder of the run; folder: name in it of what is trained.
        make: the model as training begins with it, and what it learns.
        factors, fitting: as for `Learner`.
        options: for `accelerate.Accelerator`.

    Raises:
        CheckpointError, S2MError: as `running.open_run`.
        ConfigError: if there are fewer pairs than a step uses.
    """
    accumulation = config.gradient_accumulation
    with open_run(config, out, resume, gradient_accumulation_steps=accumulation, **options) as accelerator:
        if len(pairs[0]) < config.batch_size * accelerator.num_processes:
            raise ConfigError(
                f"{found}; training.batch_size={config.batch_size} on {accelerator.num_processes} processes needs at "
                "least as many as one step uses."
            )
        model, task = make(accelerator)
        learner = Learner(accelerator, config, model, task, pairs, out / folder, factors, fitting)
        train_steps(learner, accelerator, config, out, resume, progress)
    return out / folder


class Learner:
    """A model in training, as `running.Trained`.

    Args:
        accelerator: from `running.open_run`.
        model: with `own_state` and `save_pretrained`.
        factors: on the learning rate of weights, by what their names begin with.
        fitting: what is trained and written in place of all weights.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        config: TrainingConfig,
        model: nn.Module,
        task: Task,
        pairs: Pairs,
        folder: Path,
        factors: Mapping[str, float] | None = None,
        fitting: Fitting | None = None,
    ) -> None:
        self.accelerator, self.config, self.folder, self.task = accelerator, config, folder, task
        self.dataset, self.validation = pairs
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                own = [factor for begin, factor in (factors or {}).items() if name.startswith(begin)]
                decay = config.weight_decay if weight.ndim >= 2 else 0.0
                groups.setdefault((own[0] if own else 1.0, decay), []).append(weight)
        optimizer = torch.optim.AdamW(
            [
                {"params": weights, "weight_decay": decay, "factor": factor}
                for (factor, decay), weights in groups.items()
            ],
            lr=config.learning_rate,
            betas=(0.9, 0.95),
        )
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.plain: Any = accelerator.unwrap_model(self.model, keep_torch_compile=False)
        self.average: Any = deepcopy(self.plain).requires_grad_(False).eval()
        self.fitting = fitting
        # Of the validation of the lowest loss: that loss, the step, and how many have come after it.
        self.watch = torch.tensor([float("inf"), 0.0, 0.0])
        self.n_steps = 0
        self.best = (
            {name: x.clone() for name, x in self._own(self.average).items()} if config.patience else {}
        )

    def update(self, step: int) -> dict[str, float]:
        """One optimizer step over all its micro-batches."""
        config, accelerator = self.config, self.accelerator
        rate = learning_rate(step, config.learning_rate, config.warmup_steps, config.max_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.model.train()
        total: dict[str, Tensor] = {}
        for part in range(config.gradient_accumulation):
            batch = self._batch(step * config.gradient_accumulation + part).to(accelerator.device)
            with accelerator.accumulate(self.model):
                figures, wanted = self.task.losses(self.model, batch)
                accelerator.backward(wanted)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(self.model.parameters(), config.gradient_clip)
                self.optimizer.step()
                self.optimizer.zero_grad()
            for name, value in figures.items():
                share = value.detach().cpu() / config.gradient_accumulation
                total[name] = total[name] + share if name in total else share
        update_ema(self.average, self.plain, step, config.ema_decay)
        self.n_steps = step + 1
        return {name: float(value) for name, value in total.items()} | {"rate": rate}

    def _batch(self, index: int) -> Batch:
        """The micro-batch of this process that is the run's `index`-th."""
        world, size = self.accelerator.num_processes, self.config.batch_size
        epoch, start = divmod(index, len(self.dataset) // (size * world))
        return next(batches(self.dataset, size, epoch, start, self.accelerator.process_index, world))

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss of the averaged weights under the true room, another and none; in fine-tuning, whose time is short, the
        first alone."""
        device = self.accelerator.device
        # Two rows at least, for another one's room.
        size = min(max(2, self.config.batch_size), self.config.n_validation_pairs, len(self.validation))
        found: dict[str, list[Tensor]] = {}
        n_batches = max(1, self.config.n_validation_pairs // max(1, size))
        for i, batch in enumerate(batches(self.validation, size, epoch=0)):
            if i == n_batches:
                break
            batch = batch.to(device)
            with self.accelerator.autocast():
                contrast = self.task.contrast(self.average, batch, self.fitting is not None)
            for name, values in contrast.items():
                found.setdefault(name, []).append(values.cpu())
        figures = {f"validation_{name}": float(torch.cat(values).mean()) for name, values in found.items()}
        if self.config.patience:
            self._watch(figures["validation_true"])
            figures["validation_best"] = float(self.watch[0])
        return figures

    def _watch(self, loss: float) -> None:
        """Keep the averaged weights if no validation had a lower loss."""
        if loss < float(self.watch[0]):
            self.watch.copy_(torch.tensor([loss, self.n_steps, 0.0]))
            for name, value in self._own(self.average).items():
                self.best[name].copy_(value)
        else:
            self.watch[2] += 1

    @property
    def turned(self) -> bool:
        """Whether as many validations as are waited for have not lowered the loss."""
        return 0 < self.config.patience <= float(self.watch[2])

    def _own(self, model: Any) -> dict[str, Tensor]:
        """What is trained of a model."""
        if self.fitting is None:
            return dict(model.own_state())
        return {name: value.detach() for name, value in self.fitting.own(model).items()}

    def state(self) -> tuple[Parts, Optimizers]:
        """Weights, averaged weights and the optimizer, and where the best are kept those with their loss."""
        parts = {"model": self._own(self.plain), "average": self._own(self.average)}
        if self.config.patience:
            parts |= {"best": self.best, "watch": {"figures": self.watch}}
        return parts, {"model": (self.plain, self.optimizer)}

    @torch.no_grad()
    def save(self) -> None:
        """The averaged weights, of the lowest held-out loss where that is watched, as a model folder or as `fitting` has
        it."""
        own = self._own(self.average)
        latest = {name: value.clone() for name, value in own.items()} if self.config.patience else {}
        if latest:
            for name, value in self.best.items():
                own[name].copy_(value)
        if self.fitting is None:
            self.average.save_pretrained(self.folder)
        else:
            self.fitting.write(self.average)
        for name, value in latest.items():
            own[name].copy_(value)
