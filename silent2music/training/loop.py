"""The training loop of the model: prepared shards in, a model folder out.

Every random choice (order, crops, dropped controls, dropout) is a function of the seed and the step, and the
learning rate of the step alone. So a resumed run equals an uninterrupted one.

Likelihood alone does not say what is drawn: a model that is unsure spreads over more than music is, and what it has
drawn leads it on. So a trained model can be trained further by self-play (SPIN: Chen et al., "Self-Play Fine-Tuning
Converts Weak Language Models to Strong Language Models", 2024): beside the likelihood of real music counts by how much
more likely than before it has become than what the model drew before for the same rooms.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import ProjectConfiguration
from torch import Tensor
from torch.nn import functional

from silent2music.codec import Codec, load_codec
from silent2music.config import ModelConfig, RecipeConfig, SamplingConfig, TrainingConfig, to_dict
from silent2music.data.shards import Batch, PairDataset, batches, collate
from silent2music.errors import CheckpointError, ConfigError, require
from silent2music.model import Silent2Music
from silent2music.sampling import generate_codes
from silent2music.signals import ROOM, Signals, draw_kept, members
from silent2music.training.state import (
    STATE_FILE,
    Optimizers,
    learning_rate,
    read_state,
    resolved_precision,
    update_ema,
    write_state,
)

LOG_FILE = "log.jsonl"
MODEL_FOLDER = "model"
N_STATISTICS = 256
"""Pairs that standardisation and the limits of sampling are measured on."""


def train(
    recipe: RecipeConfig,
    shards: Path,
    codec_folder: Path,
    out: Path,
    resume: bool = False,
    start: Path | None = None,
) -> Path:
    """Train a model on prepared pairs.

    Args:
        recipe: sizes and training settings; the decoder's codebook settings follow the codec.
        shards: folder written by `data.shards.prepare`.
        codec_folder: the codec that the shards were prepared with.
        out: where state, log, TensorBoard events and the model folder go.
        resume: go on from the state in `out`.
        start: model folder whose weights to start from, of the recipe's sizes and the same codec; fresh weights
            without.

    Returns:
        The model folder, with the averaged weights of the last checkpoint.

    Raises:
        CheckpointError: if `out` holds a run and `resume` is not set, or the other way round, or codec and shards
            do not belong together.
        ConfigError: if there are fewer pairs than a step uses, or self-play has no `start` to play against.
    """
    config = recipe.training
    codec = load_codec(codec_folder)
    dataset, validation = (
        PairDataset(shards, split, config.crop_seconds, config.seed, recipe.controls)
        for split in ("train", "validation")
    )
    n_codebooks = min(dataset.meta["n_codebooks"], codec.n_codebooks)
    checksum = codec.token_checksum(n_codebooks)
    if dataset.meta["codec_checksum"] != checksum:
        raise CheckpointError(
            f"{shards} was prepared with codec tokens {dataset.meta['codec_checksum']} and {codec_folder} makes "
            f"{checksum}; prepare the pairs again with this codec."
        )
    if config.selfplay_weight > 0 and start is None:
        raise ConfigError(
            "training.selfplay_weight is above 0 and there is no model to play against; give --start with one."
        )
    if (out / STATE_FILE).exists() and not resume:
        raise CheckpointError(f"{out} holds a run already; give --resume to go on, or choose another folder.")
    require("tensorboard", "train")  # accelerate would leave the log out and fail later
    accelerator = Accelerator(
        mixed_precision=resolved_precision(config.mixed_precision),
        gradient_accumulation_steps=config.gradient_accumulation,
        log_with="tensorboard",
        project_config=ProjectConfiguration(project_dir=str(out), logging_dir=str(out)),
        # A batch may have no row with a control that few pairs have.
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=bool(set(recipe.controls) - members([ROOM])))
        ],
    )
    if len(dataset) < config.batch_size * accelerator.num_processes:
        raise ConfigError(
            f"{shards} has {len(dataset)} training pairs; training.batch_size={config.batch_size} on "
            f"{accelerator.num_processes} processes needs at least as many as one step uses."
        )
    accelerator.init_trackers("tensorboard")
    torch.manual_seed(config.seed)
    model = build_model(recipe, codec, n_codebooks)
    chosen = np.unique(np.linspace(0, len(dataset) - 1, N_STATISTICS).astype(int))
    examples = [dataset.crop(int(i)) for i in chosen]
    if start is None:
        model.embedder.set_statistics(collate(examples).signals)
    else:
        model.load_weights(start)
    former = deepcopy(model) if config.selfplay_weight > 0 else None
    pieces = [torch.from_numpy(example.codes[:n_codebooks]) for example in examples]
    model.decoder.set_cell_radii(torch.cat(pieces, dim=1))
    model.decoder.set_rests(pieces)
    return _Run(accelerator, config, model, dataset, validation, out, former).go(resume)


def build_model(recipe: RecipeConfig, codec: Codec, n_codebooks: int) -> Silent2Music:
    """A model with fresh weights, its decoder fitted to the codec's first codebooks."""
    _, size, width = codec.codebook_vectors().shape
    own = {"n_codebooks": n_codebooks, "codebook_size": size, "codebook_dim": width}
    config = ModelConfig(
        controls=recipe.controls,
        ambient=recipe.ambient,
        decoder=replace(recipe.decoder, **own),
        codec_checksum=codec.token_checksum(n_codebooks),
    )
    return Silent2Music(config, codec)


class _Run:
    """A training run: model, averaged weights, optimiser, data and log."""

    def __init__(
        self,
        accelerator: Accelerator,
        config: TrainingConfig,
        model: Silent2Music,
        dataset: PairDataset,
        validation: PairDataset,
        out: Path,
        former: Silent2Music | None,
    ) -> None:
        self.accelerator, self.config, self.out = accelerator, config, out
        self.dataset, self.validation = dataset, validation
        self.opponent = None if former is None else _Opponent(former.to(accelerator.device))
        self.step = 0
        weights = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in weights if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95))
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.plain: Silent2Music = accelerator.unwrap_model(self.model, keep_torch_compile=False)
        self.average: Silent2Music = deepcopy(self.plain).requires_grad_(False).eval()

    def go(self, resume: bool) -> Path:
        """Train until `max_steps` or `max_minutes`, whichever is first."""
        if resume:
            self._load()
        config, accelerator = self.config, self.accelerator
        if self.step >= config.max_steps:
            accelerator.end_training()
            return self.out / MODEL_FOLDER
        begun = saved = time.monotonic()
        # Dropout would blur what is compared with the opponent's.
        self.model.train(self.opponent is None)
        for batch in self._batches():
            losses = self._update(batch)
            self.step += 1
            minutes = (time.monotonic() - begun) / 60
            done = self.step >= config.max_steps or 0 < config.max_minutes <= minutes
            if self.step % 20 == 0:
                rate = self._learning_rate()
                self._log({"loss": float(losses.mean()), "first_codebook": float(losses[0]), "rate": rate})
            if self.step % config.validate_every == 0 or done:
                self._log(self._validate())
            if done or time.monotonic() - saved > 60 * config.checkpoint_minutes:
                saved = time.monotonic()
                if accelerator.is_main_process:
                    self._save()
            if done:
                break
        accelerator.wait_for_everyone()
        accelerator.end_training()
        return self.out / MODEL_FOLDER

    def _batches(self) -> Iterator[list[Batch]]:
        """The micro-batches of each step from `self.step` on, for this process."""
        config, accelerator = self.config, self.accelerator
        n_parts, world = config.gradient_accumulation, accelerator.num_processes
        per_epoch = len(self.dataset) // (config.batch_size * world)
        index = self.step * n_parts
        parts: list[Batch] = []
        while True:
            epoch, start = divmod(index, per_epoch)
            rank = accelerator.process_index
            for batch in batches(self.dataset, config.batch_size, epoch, start, rank, world):
                index += 1
                parts.append(batch)
                if len(parts) == n_parts:
                    yield parts
                    parts = []

    def _learning_rate(self) -> float:
        """The learning rate of the next step."""
        config = self.config
        return learning_rate(self.step, config.learning_rate, config.warmup_steps, config.max_steps)

    def _update(self, parts: list[Batch]) -> Tensor:
        """One optimiser step; returns the loss per codebook `[K]`."""
        config, accelerator = self.config, self.accelerator
        torch.manual_seed(config.seed * 1_000_003 + self.step * 1009 + accelerator.process_index)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        total = torch.zeros(())
        for part in parts:
            with accelerator.accumulate(self.model):
                losses, wanted = self._losses(part.to(accelerator.device))
                accelerator.backward(wanted)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(self.model.parameters(), config.gradient_clip)
                self.optimizer.step()
                self.optimizer.zero_grad()
            total = total + losses.detach().cpu() / len(parts)
        if not torch.isfinite(total).all():
            raise ConfigError(
                f"The loss is not finite at step {self.step}; lower training.learning_rate "
                f"(now {config.learning_rate}) and resume from the last checkpoint."
            )
        update_ema(self.average, self.plain, self.step, config.ema_decay)
        return total

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss of real music per codebook `[K]`, and the loss to be minimised."""
        config, n_rows, mask = self.config, len(batch.ids), batch.signals.mask
        names = self.plain.config.controls
        signals = batch.signals.kept(draw_kept(names, config.control_dropout, n_rows, mask.device))
        if self.opponent is None:
            with self.accelerator.autocast():
                losses = self.model(batch.codes, signals)
            return losses.mean(dim=0), losses.mean()
        seed = int(torch.randint(2**40, ()))  # by the generator that the step has set
        drawn = self.opponent.draw(signals, seed)  # at the precision that music is made with
        with self.accelerator.autocast():
            codes, twice = torch.cat([batch.codes, drawn]), signals.rows([*range(n_rows)] * 2)
            losses, before = self.model(codes, twice), self.opponent.losses(codes, twice)
        n_tokens = batch.codes.shape[1] * mask.sum(dim=1)
        gained = (before - losses).mean(dim=1)
        margin = n_tokens * (gained[:n_rows] - gained[n_rows:])
        # Over beta, and by the token: at weight 1 its gradient starts with half the strength of the likelihood's.
        beaten = functional.softplus(-config.selfplay_beta * margin) / (config.selfplay_beta * n_tokens)
        real = losses[:n_rows]
        return real.mean(dim=0), real.mean() + config.selfplay_weight * beaten.mean()

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Loss of the averaged weights under the true room, another and none."""
        device = self.accelerator.device
        size = min(self.config.batch_size, self.config.n_validation_pairs, len(self.validation))
        found: dict[str, list[Tensor]] = {}
        n_batches = max(1, self.config.n_validation_pairs // max(1, size))
        for i, batch in enumerate(batches(self.validation, size, epoch=0)):
            if i == n_batches:
                break
            batch = batch.to(device)
            with self.accelerator.autocast():
                contrast = self.average.room_contrast(batch.codes, batch.signals)
            for name, values in contrast.items():
                found.setdefault(name, []).append(values.cpu())
        return {f"validation_{name}": float(torch.cat(values).mean()) for name, values in found.items()}

    def _log(self, values: dict[str, float]) -> None:
        """Write values to TensorBoard and, as a line, to `log.jsonl`."""
        self.accelerator.log(values, step=self.step)
        if self.accelerator.is_main_process:
            with (self.out / LOG_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": self.step, "time": round(time.time(), 1), **values}) + "\n")

    def _save(self) -> None:
        """Write the resume file, and the averaged weights as a model folder."""
        settings = {"training": to_dict(self.config)}
        write_state(self.out / STATE_FILE, self.step, settings, *self._state())
        self.average.save_pretrained(self.out / MODEL_FOLDER)

    def _load(self) -> None:
        """Load the last resume file."""
        self.step = read_state(self.out / STATE_FILE, *self._state())

    def _state(self) -> tuple[dict[str, dict[str, Tensor]], Optimizers]:
        """The contents of a resume file, as `write_state` takes them."""
        parts = {"model": self.plain.own_state(), "average": self.average.own_state()}
        return parts, {"model": (self.plain, self.optimizer)}


class _Opponent:
    """The opponent in self-play: the model that a run started from, frozen.

    It draws from its whole distribution: from draws without the unlikely tokens, the new model would learn no more than
    to give those tokens their probability back.
    """

    def __init__(self, model: Silent2Music) -> None:
        self._model = model.requires_grad_(False).eval()
        self._sampling = SamplingConfig(temperature=1.0, top_k=0, guidance=1.0, constraints=())

    @torch.no_grad()
    def draw(self, signals: Signals, seed: int) -> Tensor:
        """Codes `[B, K, T]` for the rooms of a batch; filler where a row is padded."""
        given, null = self._model.steer(signals)
        seeds = [seed * signals.n_rows + row for row in range(signals.n_rows)]
        return generate_codes(self._model.packed_decoder(), given, null, self._sampling, seeds)

    @torch.no_grad()
    def losses(self, codes: Tensor, signals: Signals) -> Tensor:
        """The opponent's losses, as `Silent2Music.forward` gives them."""
        found: Tensor = self._model(codes, signals)
        return found
