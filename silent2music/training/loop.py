"""The training loop of the model: prepared shards in, a model folder out.

Every random choice (order, crops, dropped rooms, dropout) is a function of the seed and the step, and the
learning rate of the step alone. So a checkpoint is weights, their average, the optimiser's moments and a step
number, and a resumed run equals an uninterrupted one.

Likelihood alone does not say what is drawn: a model that is unsure spreads over more than music is, and what it has
drawn leads it on. So a trained model can be trained further by self-play (SPIN: Chen et al., "Self-Play Fine-Tuning
Converts Weak Language Models to Strong Language Models", 2024): beside the likelihood of real music counts by how much
more likely than before it has become than what the model drew before for the same rooms.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from silent2music.audio import atomic_path
from silent2music.codec import Codec, load_codec
from silent2music.config import ModelConfig, RecipeConfig, SamplingConfig, TrainingConfig, to_dict
from silent2music.data.shards import Batch, Example, PairDataset, batches
from silent2music.errors import CheckpointError, ConfigError, require
from silent2music.model import Silent2Music
from silent2music.sampling import generate_codes

STATE_FILE = "state.safetensors"
STEP_FILE = "state.json"
LOG_FILE = "log.jsonl"
MODEL_FOLDER = "model"


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then half a cosine down to 2 % of the peak at `max_steps`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.max_steps - config.warmup_steps)
    return config.learning_rate * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done))))


def resolved_precision(wanted: str) -> str:
    """`bf16` or `no`, `auto` being decided by what the hardware multiplies natively.

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
    return "bf16" if capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") else "no"


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
    dataset = PairDataset(shards, "train", config.crop_seconds, config.seed)
    validation = PairDataset(shards, "validation", config.crop_seconds, config.seed)
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
    if (out / STEP_FILE).exists() and not resume:
        raise CheckpointError(f"{out} holds a run already; give --resume to go on, or choose another folder.")
    require("tensorboard", "train")  # accelerate would leave the log out and fail later
    accelerator = Accelerator(
        mixed_precision=resolved_precision(config.mixed_precision),
        gradient_accumulation_steps=config.gradient_accumulation,
        log_with="tensorboard",
        project_config=ProjectConfiguration(project_dir=str(out), logging_dir=str(out)),
    )
    if len(dataset) < config.batch_size * accelerator.num_processes:
        raise ConfigError(
            f"{shards} has {len(dataset)} training pairs; training.batch_size={config.batch_size} on "
            f"{accelerator.num_processes} processes needs at least as many as one step uses."
        )
    accelerator.init_trackers("tensorboard")
    torch.manual_seed(config.seed)
    model = build_model(recipe, codec, n_codebooks)
    examples = _sample(dataset)
    if start is None:
        frames = np.concatenate([example.features for example in examples])
        scalars = np.stack([example.scalars for example in examples])
        model.ambient.set_statistics(torch.from_numpy(frames), torch.from_numpy(scalars))
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
    decoder = to_dict(recipe.decoder) | {
        "n_codebooks": n_codebooks,
        "codebook_size": size,
        "codebook_dim": width,
    }
    config = ModelConfig(
        ambient=recipe.ambient,
        decoder=type(recipe.decoder)(**decoder),
        codec_checksum=codec.token_checksum(n_codebooks),
    )
    return Silent2Music(config, codec)


def _sample(dataset: PairDataset, n_pairs: int = 256) -> list[Example]:
    """Crops of evenly chosen pairs."""
    chosen = np.unique(np.linspace(0, len(dataset) - 1, n_pairs).astype(int))
    return [dataset.crop(int(i)) for i in chosen]


class _Run:
    """One run with everything that a step touches."""

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
                rate = learning_rate(self.step, config)
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

    def _update(self, parts: list[Batch]) -> Tensor:
        """One optimiser step; returns the loss per codebook `[K]`."""
        config, accelerator = self.config, self.accelerator
        torch.manual_seed(config.seed * 1_000_003 + self.step * 1009 + accelerator.process_index)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, config)
        total = torch.zeros(())
        for part in parts:
            with accelerator.accumulate(self.model):
                batch = part.to(accelerator.device)
                keep = torch.rand(len(batch.ids), device=accelerator.device) >= config.conditioning_dropout
                losses, wanted = self._losses(batch, keep)
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
        self._follow()
        return total

    def _losses(self, batch: Batch, keep: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of real music per codebook `[K]`, and what is to be made small."""
        rows = (batch.features, batch.scalars, batch.mask, keep)
        if self.opponent is None:
            with self.accelerator.autocast():
                losses = self.model(batch.codes, *rows)
            return losses.mean(dim=0), losses.mean()
        config, n_rows = self.config, len(keep)
        seed = int(torch.randint(2**40, ()))  # by the generator that the step has set
        drawn = self.opponent.draw(*rows, seed=seed)  # at the precision that music is made with
        with self.accelerator.autocast():
            both = (torch.cat([batch.codes, drawn]), *(torch.cat([row, row]) for row in rows))
            losses, before = self.model(*both), self.opponent.losses(*both)
        n_tokens = batch.codes.shape[1] * batch.mask.sum(dim=1)
        gained = (before - losses).mean(dim=1)
        margin = n_tokens * (gained[:n_rows] - gained[n_rows:])
        # Over beta, and by the token: at weight 1 its gradient starts with half the strength of the likelihood's.
        beaten = functional.softplus(-config.selfplay_beta * margin) / (config.selfplay_beta * n_tokens)
        real = losses[:n_rows]
        return real.mean(dim=0), real.mean() + config.selfplay_weight * beaten.mean()

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average; it forgets faster at the start, where there is little worth keeping."""
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        for mean, weight in zip(self.average.parameters(), self.plain.parameters(), strict=True):
            mean.lerp_(weight.detach(), 1.0 - decay)

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
                contrast = self.average.room_contrast(batch.codes, batch.features, batch.scalars, batch.mask)
            for name, values in contrast.items():
                found.setdefault(name, []).append(values.cpu())
        return {f"validation_{name}": float(torch.cat(values).mean()) for name, values in found.items()}

    def _log(self, values: dict[str, float]) -> None:
        """To TensorBoard and, as a line, to `log.jsonl`."""
        self.accelerator.log(values, step=self.step)
        if self.accelerator.is_main_process:
            with (self.out / LOG_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": self.step, "time": round(time.time(), 1), **values}) + "\n")

    def _save(self) -> None:
        """State for resuming, and the averaged weights as a model folder."""
        tensors = {f"model.{k}": v for k, v in self.plain.own_state().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.own_state().items()}
        for name, parameter in self.plain.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{key}.{name}"] = value
        self.out.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.out / STATE_FILE, force=True) as file:
            save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, file)
        with atomic_path(self.out / STEP_FILE, force=True) as file:
            state = {"step": self.step, "training": to_dict(self.config)}
            file.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        self.average.save_pretrained(self.out / MODEL_FOLDER)

    def _load(self) -> None:
        """Weights, average, moments and step of the last checkpoint."""
        try:
            state = load_file(self.out / STATE_FILE)
            self.step = int(json.loads((self.out / STEP_FILE).read_text(encoding="utf-8"))["step"])
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise CheckpointError(
                f"{self.out} has no state to resume from ({error}); start without --resume."
            ) from error
        own: dict[str, Any] = {"model": self.plain.own_state(), "average": self.average.own_state()}
        with torch.no_grad():
            for part, tensors in own.items():
                for name, value in tensors.items():
                    if f"{part}.{name}" not in state or state[f"{part}.{name}"].shape != value.shape:
                        raise CheckpointError(
                            f"The state in {self.out} does not fit the recipe at '{name}'; resume with the "
                            "settings that it was started with."
                        )
                    value.copy_(state[f"{part}.{name}"])
        for name, parameter in self.plain.named_parameters():
            moments = {key: state.get(f"optimizer.{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
            if all(value is not None for value in moments.values()):
                self.optimizer.state[parameter] = {
                    key: value if key == "step" else value.to(parameter.device)
                    for key, value in moments.items()
                    if value is not None
                }


class _Opponent:
    """The model that a run started from, as it was.

    It draws from its whole distribution: of tokens that are cut off at the draw the one that comes after would learn
    no more than to give them back.
    """

    def __init__(self, model: Silent2Music) -> None:
        self._model = model.requires_grad_(False).eval()
        self._model.decoder.cell_radii.fill_(float("inf"))
        self._model.decoder.rest_limits.fill_(float("inf"))
        self._sampling = SamplingConfig(temperature=1.0, top_k=0, guidance=1.0)

    @torch.no_grad()
    def draw(self, features: Tensor, scalars: Tensor, mask: Tensor, keep: Tensor, seed: int) -> Tensor:
        """Codes `[B, K, T]` for the rooms of a batch; filler where a row is padded."""
        conditioning = self._model.condition_or_not(features, scalars, mask, keep)
        null = self._model.null(conditioning)
        seeds = [seed * len(keep) + row for row in range(len(keep))]
        return generate_codes(self._model.packed_decoder(), conditioning, null, self._sampling, seeds)

    @torch.no_grad()
    def losses(self, codes: Tensor, features: Tensor, scalars: Tensor, mask: Tensor, keep: Tensor) -> Tensor:
        """As `Silent2Music.forward`."""
        found: Tensor = self._model(codes, features, scalars, mask, keep)
        return found
