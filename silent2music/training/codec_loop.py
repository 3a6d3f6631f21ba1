"""The codec's training loop: what the closed form left, by gradient.

Every random choice of a step (files, crops, gains, dropped codebooks) is a function of the seed and the step,
so that a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from silent2music import audio, distances
from silent2music._torchaudio import ensure_torchaudio
from silent2music.bundled_codec import BundledCodec
from silent2music.codec import Codec, SeanetCodec, load_codec, save_codec
from silent2music.config import CodecTrainingConfig, RecipeConfig, to_dict
from silent2music.errors import CheckpointError, ConfigError, require
from silent2music.training import codec_losses
from silent2music.training.codec_trainers import (
    BundledTrainer,
    CodedSoundTrainer,
    MagnitudeTrainer,
    SeanetTrainer,
)
from silent2music.training.excerpts import code_music, crops
from silent2music.training.state import resolved_precision

STATE_FILE = "state.safetensors"
STEP_FILE = "state.json"
LOG_FILE = "log.jsonl"
CODEC_FOLDER = "codec"
MUSIC_FOLDER = "music"

TrainableCodec = BundledCodec | SeanetCodec


def train_codec(
    recipe: RecipeConfig,
    files: Sequence[Path],
    validation_files: Sequence[Path],
    out: Path,
    start: Path | None = None,
    resume: bool = False,
) -> Path:
    """Train a codec on music.

    Args:
        recipe: `codec_training` is the loop's; `seanet` the network's; of `codec` the corrections' sizes.
        files: music to train on.
        validation_files: other music.
        out: where state, log, TensorBoard events and the codec folder go.
        start: codec folder to start from: the closed form of the bundled codec (needed), or a trained SEANet.
        resume: go on from the state in `out`.

    Returns:
        The codec folder, with averaged weights.

    Raises:
        ConfigError: on an unknown kind, or a bundled codec without `start`.
        CheckpointError: if `out` holds a run and `resume` is not set, or the other way round.
        DataError: if no file can be read.
    """
    config = recipe.codec_training
    if (out / STEP_FILE).exists() and not resume:
        raise CheckpointError(f"{out} holds a run already; give --resume to go on, or choose another folder.")
    require("tensorboard", "train")  # accelerate would leave the log out and fail later
    accelerator = Accelerator(
        mixed_precision=resolved_precision(config.mixed_precision),
        log_with="tensorboard",
        project_config=ProjectConfiguration(project_dir=str(out), logging_dir=str(out)),
    )
    accelerator.init_trackers("tensorboard")
    torch.manual_seed(config.seed)
    codec, average = _make(recipe, start), _make(recipe, start)
    average.load_state_dict(codec.state_dict())
    if config.objective not in ("sound", "coded_sound", "magnitudes"):
        raise ConfigError(
            f"codec_training.objective is '{config.objective}'; expected sound, coded_sound or magnitudes."
        )
    run = _Run if config.objective == "sound" else _CodedRun
    return run(accelerator, config, codec, average, files, validation_files, out).go(resume)


def _make(recipe: RecipeConfig, start: Path | None) -> TrainableCodec:
    """The codec to train: what `start` holds, with the corrections that the recipe asks for."""
    kind = recipe.codec_training.kind
    if kind not in ("bundled", "seanet"):
        raise ConfigError(f"codec_training.kind is '{kind}'; expected bundled or seanet.")
    if kind == "seanet":
        return cast(SeanetCodec, load_codec(start)) if start else SeanetCodec(recipe.seanet)
    if start is None:
        raise ConfigError(
            "Training the bundled codec needs a fitted one; run 's2m codec fit' first and give it."
        )
    fitted = load_codec(start)
    if not isinstance(fitted, BundledCodec):
        raise ConfigError(f"{start} holds another kind of codec; expected a bundled one.")
    names = ("encoder_layers", "decoder_layers", "correction_dim", "refiner_layers")
    sizes = {name: getattr(recipe.codec, name) for name in names}
    if fitted.config.gain_bands:
        # Its tokens are relative to what the correction gives, which has to stay as it is.
        for name in names[:3]:
            if getattr(fitted.config, name) != sizes[name]:
                raise ConfigError(
                    f"codec.{name} is {sizes[name]} and {start} has {getattr(fitted.config, name)}; a codec of gains "
                    "keeps what they are relative to: set the same."
                )
    codec = BundledCodec(type(fitted.config)(**{**to_dict(fitted.config), **sizes}))
    own = codec.state_dict()
    known = {k: v for k, v in fitted.state_dict().items() if k in own and own[k].shape == v.shape}
    codec.load_state_dict(known, strict=False)
    return codec


class _Run:
    """One run with everything that a step touches."""

    def __init__(
        self,
        accelerator: Accelerator,
        config: CodecTrainingConfig,
        codec: TrainableCodec,
        average: TrainableCodec,
        files: Sequence[Path],
        validation_files: Sequence[Path],
        out: Path,
    ) -> None:
        self.accelerator, self.config, self.out = accelerator, config, out
        self.codec, self.average = codec, average.requires_grad_(False).eval()
        self.files, self.validation_files = list(files), list(validation_files)
        self.step = 0
        trainer = self._make_trainer()
        rate = config.learning_rate
        weights = [p for p in trainer.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=rate, betas=(0.8, 0.99), weight_decay=1e-3)
        self.trainer, self.optimizer = accelerator.prepare(trainer, optimizer)
        self.plain = accelerator.unwrap_model(self.trainer)
        self.average.to(accelerator.device)
        shares = {"mel": config.mel_weight, "stft": config.stft_weight}
        self.judge: nn.Module | None = None
        if config.adversarial:
            ensure_torchaudio()
            from encodec.msstftd import MultiScaleSTFTDiscriminator

            judge = MultiScaleSTFTDiscriminator(filters=config.discriminator_filters)
            judge_optimizer = torch.optim.AdamW(judge.parameters(), lr=rate, betas=(0.5, 0.9))
            self.judge, self.judge_optimizer = accelerator.prepare(judge, judge_optimizer)
            shares |= {"adversarial": config.adversarial_weight, "feature": config.feature_weight}
        self.balancer = codec_losses.Balancer(shares)

    def _make_trainer(self) -> nn.Module:
        """The codec as a function to train."""
        if isinstance(self.codec, BundledCodec):
            return BundledTrainer(self.codec, self.config)
        return SeanetTrainer(self.codec, self.config)

    def go(self, resume: bool) -> Path:
        """Train until `max_steps` or `max_minutes`, whichever is first."""
        if resume:
            self._load()
        config = self.config
        begun = saved = time.monotonic()
        done = self.step >= config.max_steps
        while not done:
            self.trainer.train()
            figures = self._update()
            self.step += 1
            done = self.step >= config.max_steps or 0 < config.max_minutes <= (time.monotonic() - begun) / 60
            if self.step % 20 == 0 or done:
                self._log(figures)
            if (self.step % config.validate_every == 0 or done) and self.accelerator.is_main_process:
                self._log(self._validate())
            if done or time.monotonic() - saved > 60 * config.checkpoint_minutes:
                saved = time.monotonic()
                if self.accelerator.is_main_process:
                    self._save()
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        return self.out / CODEC_FOLDER

    def _update(self) -> dict[str, float]:
        """One step of the codec and, if there is one, of the discriminator."""
        config, accelerator = self.config, self.accelerator
        rng = np.random.default_rng([config.seed, self.step, accelerator.process_index])
        torch.manual_seed(config.seed * 1_000_003 + self.step * 1009 + accelerator.process_index)
        sound = crops(
            self.files, config.batch_size, self._crop_samples(), self.codec.sample_rate, rng, config.quiet_db
        )
        sound = sound.to(accelerator.device)
        n_books = self._draw_books(rng)
        for group in self.optimizer.param_groups:
            group["lr"] = _learning_rate(self.step, config)
        with accelerator.autocast():
            decoded, commitment = self.trainer(sound, n_books)
        leaf = decoded.detach().float().requires_grad_()
        losses = {
            "mel": distances.log_mel_distance(sound, leaf, self.codec.sample_rate).mean(),
            "stft": distances.stft_distance(sound, leaf).mean(),
        }
        figures = {"commitment": float(commitment)}
        if self.judge is not None:
            figures["discriminator"] = self._judge_step(sound, leaf.detach())
            fake, fake_maps = self.judge(leaf[:, None])
            with torch.no_grad():
                _, real_maps = self.judge(sound[:, None])
            losses["adversarial"] = codec_losses.generator_loss(fake)
            losses["feature"] = codec_losses.feature_loss(real_maps, fake_maps)
        total = (
            decoded.float() * self.balancer.gradient(losses, leaf)
        ).sum() + config.commitment_weight * commitment
        self._descend(total)
        return self._finite(figures | {name: float(loss.detach()) for name, loss in losses.items()})

    def _draw_books(self, rng: np.random.Generator) -> int:
        """How many codebooks a step decodes: all, a core of vectors alone as often, and sometimes any number."""
        n_books, n_core = self.codec.n_codebooks, self._n_core()
        gains = isinstance(self.codec, BundledCodec) and self.codec.config.gain_bands > 0
        if rng.random() < self.config.codebook_dropout:
            # What gains change is all that can be learned of a codec that has some.
            return int(rng.integers(n_core + 1 if gains else 1, n_books + 1))
        return n_core if n_core and not gains and rng.random() < 0.5 else n_books

    def _n_core(self) -> int:
        """Codebooks that a token model writes, or 0 where nothing sets some apart."""
        return self.codec.config.n_core_codebooks if isinstance(self.codec, BundledCodec) else 0

    def _descend(self, total: Tensor) -> None:
        """A step of the optimiser down the gradient of a loss, and what follows it."""
        self.optimizer.zero_grad()
        self.accelerator.backward(total)
        self.accelerator.clip_grad_norm_(self.trainer.parameters(), self.config.gradient_clip)
        self.optimizer.step()
        self.plain.settle()
        self._follow()

    def _finite(self, figures: dict[str, float]) -> dict[str, float]:
        """The figures, if they are such."""
        if not all(math.isfinite(value) for value in figures.values()):
            raise ConfigError(
                f"The loss is not finite at step {self.step}; lower codec_training.learning_rate "
                f"(now {self.config.learning_rate}) and resume from the last checkpoint."
            )
        return figures

    def _judge_step(self, sound: Tensor, decoded: Tensor) -> float:
        """One step of the discriminator; its loss."""
        judge = cast(nn.Module, self.judge)
        real, _ = judge(sound[:, None])
        fake, _ = judge(decoded[:, None])
        loss = codec_losses.discriminator_loss(real, fake)
        self.judge_optimizer.zero_grad()
        self.accelerator.backward(loss)
        self.judge_optimizer.step()
        return float(loss.detach())

    def _crop_samples(self) -> int:
        """Samples of a crop: whole codec frames."""
        span = self.codec.config.samples_per_code
        return max(span, round(self.config.crop_seconds * self.codec.sample_rate) // span * span)

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the averaged weights; buffers (the quantiser) are followed at once, being averages themselves."""
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        for mean, weight in zip(self.average.parameters(), self.codec.parameters(), strict=True):
            mean.lerp_(weight.detach(), 1.0 - decay)
        for kept, value in zip(self.average.buffers(), self.codec.buffers(), strict=True):
            kept.copy_(value)

    def _validate(self) -> dict[str, float]:
        """Distance of unseen music through the averaged codec, and how much of each codebook it uses.

        Where there is a core, `log_mel_core` is the distance by its codebooks alone.
        """
        config = self.config
        rng = np.random.default_rng(config.seed)
        n_samples, rate = self._crop_samples(), self.codec.sample_rate
        sound = crops(self.validation_files, config.n_validation_crops, n_samples, rate, rng, 0.0)
        sound = sound[:, None].to(self.accelerator.device)
        codes, n_core = self.average.encode(sound), self._n_core()
        figures = measure(self.average, sound, codes)
        if n_core:
            figures["log_mel_core"] = measure(self.average, sound, codes[:, :n_core])["log_mel"]
        return figures

    def _log(self, values: dict[str, float]) -> None:
        """To TensorBoard and, as a line, to `log.jsonl`."""
        self.accelerator.log(values, step=self.step)
        if self.accelerator.is_main_process:
            with (self.out / LOG_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": self.step, "time": round(time.time(), 1), **values}) + "\n")

    def _modules(self) -> dict[str, tuple[nn.Module, torch.optim.Optimizer | None]]:
        """What a checkpoint holds, by name."""
        modules: dict[str, tuple[nn.Module, torch.optim.Optimizer | None]] = {
            "trainer": (self.plain, self.optimizer),
            "average": (self.average, None),
        }
        if self.judge is not None:
            modules["judge"] = (self.accelerator.unwrap_model(self.judge), self.judge_optimizer)
        return modules

    def _save(self) -> None:
        """State for resuming, and the averaged codec as a codec folder."""
        tensors = {"balancer.norms": self.balancer.norms, "balancer.mass": self.balancer.mass}
        for name, (module, optimizer) in self._modules().items():
            tensors |= {f"{name}.{k}": v for k, v in module.state_dict().items()}
            for parameter_name, parameter in module.named_parameters():
                for key, value in (optimizer.state.get(parameter, {}) if optimizer else {}).items():
                    tensors[f"moment.{name}.{key}.{parameter_name}"] = value
        self.out.mkdir(parents=True, exist_ok=True)
        with audio.atomic_path(self.out / STATE_FILE, force=True) as file:
            save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, file)
        with audio.atomic_path(self.out / STEP_FILE, force=True) as file:
            state = {"step": self.step, "settings": to_dict(self.config)}
            file.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        save_codec(cast(Codec, self.average), self.out / CODEC_FOLDER)

    def _load(self) -> None:
        """Everything that `_save` wrote."""
        try:
            state = load_file(self.out / STATE_FILE)
            self.step = int(json.loads((self.out / STEP_FILE).read_text(encoding="utf-8"))["step"])
            self.balancer.norms, self.balancer.mass = state["balancer.norms"], state["balancer.mass"]
            for name, (module, optimizer) in self._modules().items():
                own = {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
                module.load_state_dict(own)
                for parameter_name, parameter in module.named_parameters() if optimizer else ():
                    moments = {k: state.get(f"moment.{name}.{k}.{parameter_name}") for k in _MOMENTS}
                    if all(value is not None for value in moments.values()):
                        cast(Any, optimizer).state[parameter] = {
                            k: v if k == "step" else cast(Tensor, v).to(parameter.device)
                            for k, v in moments.items()
                        }
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0]
            raise CheckpointError(
                f"{self.out} has no state to resume from that fits the recipe ({reason})."
            ) from error


class _CodedRun(_Run):
    """The decoder's correction trained on music that is coded beforehand."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        codec, config = cast(BundledCodec, self.codec), self.config
        folder = self.out / MUSIC_FOLDER
        with self.accelerator.main_process_first():
            self.music = code_music(codec, self.files, config.cached_minutes, config.seed, folder)

    def _make_trainer(self) -> nn.Module:
        if not isinstance(self.codec, BundledCodec) or not self.config.freeze_tokens:
            raise ConfigError(
                "Only the bundled codec with freeze_tokens can be trained on music that is coded beforehand."
            )
        trainer = CodedSoundTrainer if self.config.objective == "coded_sound" else MagnitudeTrainer
        return trainer(self.codec, self.config)

    def _update(self) -> dict[str, float]:
        """One step on excerpts of the coded music, some of them as if heard from farther away."""
        config, codec = self.config, cast(BundledCodec, self.codec)
        rng = np.random.default_rng([config.seed, self.step, self.accelerator.process_index])
        n_excerpts, _, n_kept = self.music.codes.shape
        n_frames = min(n_kept, max(1, round(config.crop_seconds * codec.frame_rate)))
        rows = rng.integers(n_excerpts, size=config.batch_size).tolist()
        # A run of predicted gains can be decoded from its start on only.
        run = codec.config.gain_run
        start = run * int(rng.integers((n_kept - n_frames) // run + 1))
        gain_db = config.quiet_db * rng.random(config.batch_size) * (rng.random(config.batch_size) < 0.25)
        gain = torch.from_numpy(10.0 ** (gain_db / 20.0)).float()[:, None, None]
        n_books = self._draw_books(rng)
        for group in self.optimizer.param_groups:
            group["lr"] = _learning_rate(self.step, config)
        distances_at = self._sound_losses if config.objective == "coded_sound" else self._magnitude_losses
        losses = distances_at(rows, start, n_frames, n_books, gain)
        weights = {name: getattr(config, f"{name}_weight") for name in losses}
        self._descend(torch.stack([weight * losses[name] for name, weight in weights.items()]).sum())
        return self._finite({name: float(loss.detach()) for name, loss in losses.items()})

    def _magnitude_losses(
        self, rows: list[int], start: int, n_frames: int, n_books: int, gain: Tensor
    ) -> dict[str, Tensor]:
        """Of magnitudes: no phases, no transforms. The gain `[B, 1, 1]` is one of amplitude."""
        codec, device = cast(BundledCodec, self.codec), self.accelerator.device
        codes, features = self.music.crops(codec, rows, start, n_frames)
        gain = gain.pow(codec.config.power)
        guess = self.trainer(codes[:, :n_books].to(device), gain.to(device))
        n_bins = codec.config.n_fft // 2 + 1
        wanted, got = (x.reshape(len(x), -1, n_bins) for x in ((features * gain).to(device), guess))
        return distances.magnitude_distances(wanted, got, codec.config.power, codec.sample_rate)

    def _sound_losses(
        self, rows: list[int], start: int, n_frames: int, n_books: int, gain: Tensor
    ) -> dict[str, Tensor]:
        """Of the sound that is heard in the end. The gain `[B, 1, 1]` is one of amplitude."""
        codec, device = cast(BundledCodec, self.codec), self.accelerator.device
        codes, sound = self.music.sound_crops(codec, rows, start, n_frames)
        guess = self.trainer(codes[:, :n_books].to(device), gain.pow(codec.config.power).to(device))
        sound = (sound * gain[:, 0]).to(device)
        names = [name for name in distances.SOUND_DISTANCES if getattr(self.config, f"{name}_weight")]
        return distances.sound_distances(sound, guess, codec.sample_rate, names)


_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def _learning_rate(step: int, config: CodecTrainingConfig) -> float:
    """Linear warm-up, then half a cosine down to 5 % of the peak at `max_steps`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.max_steps - config.warmup_steps)
    return config.learning_rate * (0.05 + 0.95 * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done))))


@torch.no_grad()
def measure(codec: Codec | TrainableCodec, sound: Tensor, codes: Tensor | None = None) -> dict[str, float]:
    """Figures for a model card from music `[B, C, N]` through a codec, or through those of its codes that are given.

    Returns:
        `log_mel`, the distance over four scales; `level_error_db`, the mean absolute error of each row's RMS
        level; `usage` and `entropy_bits`, the share of entries used and the bits of a code, means over codebooks.
    """
    if codes is None:
        codes = codec.encode(sound)
    decoded = codec.decode(codes)[..., : sound.shape[-1]]
    rows = [x.flatten(0, 1) for x in (sound, decoded)]
    level = [10.0 * (x.square().mean(1) + 1e-9).log10() for x in rows]
    counts = torch.stack(
        [torch.bincount(c.flatten(), minlength=codec.codebook_size) for c in codes.unbind(1)]
    )
    share = counts / counts.sum(1, keepdim=True)
    return {
        "log_mel": float(distances.log_mel_distance(rows[0], rows[1], codec.sample_rate).mean()),
        "level_error_db": float((level[0] - level[1]).abs().mean()),
        "usage": float((counts > 0).float().mean()),
        "entropy_bits": float(torch.special.entr(share).sum(1).mean() / math.log(2.0)),
    }
