"""The codec's training loop: what the closed form left, by gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from silent2music import distances
from silent2music._torchaudio import ensure_torchaudio
from silent2music.bundled_codec import BundledCodec
from silent2music.codec import Codec, SeanetCodec, load_codec, save_codec
from silent2music.config import CodecTrainingConfig, RecipeConfig, to_dict
from silent2music.errors import ConfigError, require
from silent2music.model import CODEC_FOLDER
from silent2music.training.codec_trainers import BundledTrainer, SeanetTrainer, TokenTrainer
from silent2music.training.excerpts import code_music, crops, random_equalisers
from silent2music.training.running import Optimizers, Parts, learning_rate, open_run, train_steps, update_ema

MUSIC_FOLDER = "music"

LOWEST_RATE = 0.05
"""Learning rate at the last step, as a share of the highest."""

TrainableCodec = BundledCodec | SeanetCodec


def train_codec(
    recipe: RecipeConfig,
    files: Sequence[Path],
    validation_files: Sequence[Path],
    out: Path,
    start: Path | None = None,
    resume: bool = False,
    correction: Path | None = None,
) -> Path:
    """Train a codec on music: the bundled codec's correction, its encoder if asked, or all of EnCodec's network.

    Args:
        recipe: `codec_training` is the loop's; `seanet` the network's; of `codec` the sizes of what is learned.
        out: where state, log, TensorBoard events and the codec folder go.
        start: codec folder to start from: a fitted bundled codec (needed), or a trained SEANet.
        resume: go on from the state in `out`.
        correction: bundled codec folder whose correction to start from, in place of that of `start`.

    Returns:
        The codec folder, with averaged weights.

    Raises:
        ConfigError: on settings that do not go together, or a bundled codec without `start`.
        CheckpointError: if `out` holds a run and `resume` is not set, or the other way round.
        DataError: if no file can be read.
    """
    config = recipe.codec_training
    require("tensorboard", "train")  # what lacks is told before what is wrong with the settings
    _check(recipe)
    with open_run(config, out, resume) as accelerator:
        codec, average = _codec_to_train(recipe, start), _codec_to_train(recipe, start)
        if correction is not None:
            take_correction(codec, correction)
        average.load_state_dict(codec.state_dict())
        trained = _TrainedCodec(accelerator, config, codec, average, files, validation_files, out)
        train_steps(trained, accelerator, config, out, resume)
    return out / CODEC_FOLDER


def _check(recipe: RecipeConfig) -> None:
    """Raise an error if settings contradict each other."""
    config = recipe.codec_training
    for name, known in (("kind", ("bundled", "seanet")), ("objective", ("sound", "magnitudes"))):
        if getattr(config, name) not in known:
            raise ConfigError(
                f"codec_training.{name} is '{getattr(config, name)}'; expected {' or '.join(known)}."
            )
    if config.objective == "magnitudes" and (config.kind == "seanet" or config.adversarial_weight):
        raise ConfigError(
            "Only the bundled codec without a discriminator is trained on magnitudes; set "
            "codec_training.objective=sound."
        )
    if config.learn_tokens and (config.objective != "magnitudes" or not recipe.codec.encoder_layers):
        raise ConfigError(
            "Tokens are learned on magnitudes by an encoder; set codec_training.objective=magnitudes and "
            "codec.encoder_layers to 1 or more."
        )
    if config.kind == "bundled" and not recipe.codec.decoder_layers:
        raise ConfigError("There is nothing to train; set codec.decoder_layers to 2 or more.")


def _codec_to_train(recipe: RecipeConfig, start: Path | None) -> TrainableCodec:
    """The codec to train: what `start` holds, with the networks that the recipe asks for."""
    if recipe.codec_training.kind == "seanet":
        return cast(SeanetCodec, load_codec(start)) if start else SeanetCodec(recipe.seanet)
    if start is None:
        raise ConfigError(
            "Training the bundled codec needs a fitted one; run 's2m codec fit' first and give it."
        )
    fitted = load_codec(start)
    if not isinstance(fitted, BundledCodec):
        raise ConfigError(f"{start} holds another kind of codec; expected a bundled one.")
    learned = ["decoder_layers", "correction_dim", "correction_behind"]
    if recipe.codec_training.learn_tokens:
        learned += ["encoder_layers", "encoder_dim"]
    sizes = {name: getattr(recipe.codec, name) for name in learned}
    codec = BundledCodec(type(fitted.config)(**{**to_dict(fitted.config), **sizes}))
    own = codec.state_dict()
    # Networks of other sizes begin anew where they differ.
    known = {k: v for k, v in fitted.state_dict().items() if k in own and own[k].shape == v.shape}
    codec.load_state_dict(known, strict=False)
    return codec


@torch.no_grad()
def take_correction(codec: TrainableCodec, folder: Path) -> None:
    """Start a codec's correction from that of another bundled codec, whose components may be others.

    It does what the other did, as far as the components span the same spectra: further layers and more of the past
    begin as nothing.

    Raises:
        ConfigError: if one of the two has no correction, or spectra, width or number of layers do not fit.
    """
    other = load_codec(folder)
    if not isinstance(other, BundledCodec) or other.decoder is None:
        raise ConfigError(f"{folder} holds no bundled codec with a correction; expected one to start from.")
    if not isinstance(codec, BundledCodec) or codec.decoder is None:
        raise ConfigError(
            "Only a bundled codec's correction can start from another's; leave --correction out."
        )
    same = ("sample_rate", "n_fft", "hop", "frames_per_code", "power", "correction_dim")
    unlike = [name for name in same if getattr(codec.config, name) != getattr(other.config, name)]
    if unlike or codec.decoder.ahead < other.decoder.ahead or codec.decoder.behind < other.decoder.behind:
        raise ConfigError(
            f"The correction in {folder} does not fit; expected the same {', '.join(same)}, and no fewer layers or "
            "frames before than it has."
        )
    own, found = codec.decoder.state_dict(), other.decoder.state_dict()
    for layer in codec.decoder.narrow[other.config.decoder_layers :]:
        nn.init.zeros_(cast(nn.Linear, layer).weight)
        nn.init.zeros_(cast(nn.Linear, layer).bias)
    for name, value in found.items():
        if name == "enter.weight":
            # What a direction is on the other's components.
            bases = other.components @ codec.components.T
            own[name][:, :-1] = torch.einsum("dpk,pq->dqk", value[:, :-1], bases)
            own[name][:, -1] = value[:, -1]
        elif name == "known.weight":
            own[name][: len(value)] = value[: len(own[name])]
        elif name.startswith("mix.") and name.endswith(".weight"):
            own[name].zero_()[..., own[name].shape[2] - value.shape[2] :] = value
        else:
            own[name].copy_(value)


def discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Hinge loss of the discriminator, from the logits of each scale (Défossez et al., 2022, equation 6)."""
    terms = [
        functional.relu(1 - r).mean() + functional.relu(1 + f).mean() for r, f in zip(real, fake, strict=True)
    ]
    return torch.stack(terms).mean()


def generator_loss(fake: Sequence[Tensor]) -> Tensor:
    """Adversarial loss of the codec (Défossez et al., 2022, section 3.4)."""
    return torch.stack([functional.relu(1 - f).mean() for f in fake]).mean()


def feature_loss(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """Feature matching loss: relative distance of the discriminator's features (Défossez et al., 2022, equation 5)."""
    terms = [
        (r - f).abs().mean() / r.abs().mean().clamp(min=1e-6)
        for real_maps, fake_maps in zip(real, fake, strict=True)
        for r, f in zip(real_maps, fake_maps, strict=True)
    ]
    return torch.stack(terms).mean()


class Balancer:
    """EnCodec's loss balancer: scales gradients so that each loss's share is its weight, whatever its scale.

    Défossez et al. (2022), equation 7: each gradient with respect to the sound is divided by the running mean
    of its norm.

    Args:
        weights: share of each loss, by name.
    """

    def __init__(self, weights: Mapping[str, float], decay: float = 0.99) -> None:
        self.weights, self.decay = dict(weights), decay
        self.norms = torch.zeros(len(self.weights))
        self.mass = torch.zeros(())

    def gradient(self, losses: Mapping[str, Tensor], sound: Tensor) -> Tensor:
        """The balanced gradient with respect to `sound`, a leaf that the losses depend on."""
        gradients = [
            torch.autograd.grad(losses[name], [sound], retain_graph=True)[0] for name in self.weights
        ]
        norms = torch.stack([g.norm().cpu() for g in gradients])
        self.norms = self.decay * self.norms + (1.0 - self.decay) * norms
        self.mass = self.decay * self.mass + (1.0 - self.decay)
        means = (self.norms / self.mass).clamp(min=1e-12)
        total = torch.zeros_like(sound)
        for (name, weight), gradient in zip(self.weights.items(), gradients, strict=True):
            index = list(self.weights).index(name)
            total = total + gradient * (weight / sum(self.weights.values()) / float(means[index]))
        return total


class _TrainedCodec:
    """A codec in training, as `running.Trained`."""

    turned = False  # a codec is trained for as long as it was asked to be

    def __init__(
        self,
        accelerator: Any,
        config: CodecTrainingConfig,
        codec: TrainableCodec,
        average: TrainableCodec,
        files: Sequence[Path],
        validation_files: Sequence[Path],
        out: Path,
    ) -> None:
        self.accelerator, self.config, self.out = accelerator, config, out
        self.codec, self.average = codec, average.requires_grad_(False).eval().to(accelerator.device)
        self.files, self.validation_files = list(files), list(validation_files)
        trainer: nn.Module
        if isinstance(codec, SeanetCodec):
            trainer = SeanetTrainer(codec)
        elif config.learn_tokens:
            trainer = TokenTrainer(codec)
        else:
            trainer = BundledTrainer(codec)
            if codec.encoder is not None:
                codec.encoder.requires_grad_(False)
        rate = config.learning_rate
        learned = [p for p in trainer.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(learned, lr=rate, betas=(0.8, 0.99), weight_decay=1e-3)
        self.trainer, self.optimizer = accelerator.prepare(trainer, optimizer)
        if isinstance(codec, BundledCodec):
            folder = out / MUSIC_FOLDER
            with accelerator.main_process_first():
                # Where tokens are learned, the equalisers are drawn at each step.
                equaliser_db = 0.0 if config.learn_tokens else config.equaliser_db
                self.music = code_music(
                    codec, self.files, config.cached_minutes, config.seed, folder, equaliser_db
                )
        self.balancer = Balancer(
            {"spectral": 1.0, "adversarial": config.adversarial_weight, "feature": config.feature_weight}
        )
        self.discriminator: nn.Module | None = None
        if config.adversarial_weight:
            ensure_torchaudio()
            from encodec.msstftd import MultiScaleSTFTDiscriminator

            judge = MultiScaleSTFTDiscriminator(filters=config.discriminator_filters)
            judge_optimizer = torch.optim.AdamW(judge.parameters(), lr=rate, betas=(0.5, 0.9))
            self.discriminator, self.discriminator_optimizer = accelerator.prepare(judge, judge_optimizer)

    def update(self, step: int) -> dict[str, float]:
        """One step of the codec and, if there is one, of the discriminator."""
        config = self.config
        rate = learning_rate(step, config.learning_rate, config.warmup_steps, config.max_steps, LOWEST_RATE)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.trainer.train()
        seeds = (config.seed, step, self.accelerator.process_index)
        decoded, wanted, figures = self._decode(np.random.default_rng(seeds))
        errors = [getattr(config, f"{name}_weight") * value for name, value in figures.items()]
        if self.discriminator is None:
            losses = self._distances(wanted, decoded)
            loss = losses["spectral"]
        else:
            # The balancer needs each loss's own gradient by the sound.
            leaf = decoded.detach().float().requires_grad_()
            figures["discriminator"] = self._train_discriminator(wanted, leaf.detach())
            losses = self._distances(wanted, leaf) | self._adversarial_losses(wanted, leaf)
            loss = (decoded.float() * self.balancer.gradient(losses, leaf)).sum()
        self.optimizer.zero_grad()
        self.accelerator.backward(torch.stack([loss, *errors]).sum())
        self.accelerator.clip_grad_norm_(self.trainer.parameters(), config.gradient_clip)
        self.optimizer.step()
        update_ema(self.average, self.codec, step, config.ema_decay)
        for kept, value in zip(self.average.buffers(), self.codec.buffers(), strict=True):
            kept.copy_(value)  # codebooks are averages themselves
        return {name: float(value.detach()) for name, value in (figures | losses).items()}

    def _decode(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Decoded music, its reference, and errors of the quantiser by name.

        Both are samples `[B, N]` or compressed magnitudes `[B, T, F]`. Some of the music is attenuated.
        """
        config, codec, device = self.config, self.codec, self.accelerator.device
        n_codebooks = codec.n_codebooks
        if rng.random() < config.codebook_dropout:
            n_codebooks = int(rng.integers(1, n_codebooks + 1))
        if isinstance(codec, SeanetCodec):
            n_samples = self._crop_frames() * codec.config.samples_per_code
            sound = crops(self.files, config.batch_size, n_samples, codec.sample_rate, rng, config.quiet_db)
            sound = sound.to(device)
            decoded, commitment = self.trainer(sound, n_codebooks)
            return decoded, sound, {"commitment": commitment}
        n_excerpts, _, n_kept = self.music.codes.shape
        n_frames = min(n_kept - 2, self._crop_frames())
        rows = rng.integers(n_excerpts, size=config.batch_size).tolist()
        # A frame's window hangs over its neighbours' samples, so one frame more is read on either side.
        codes, sound = self.music.crops(rows, int(rng.integers(n_kept - n_frames - 1)), n_frames + 2)
        gain_db = config.quiet_db * rng.random(config.batch_size) * (rng.random(config.batch_size) < 0.25)
        gain = torch.from_numpy(10.0 ** (gain_db / 20.0)).float()[:, None]
        sound = (sound * gain).to(device)
        to_sound, span = config.objective == "sound", codec.config.samples_per_code
        if config.learn_tokens:
            n_bins = codec.config.n_fft // 2 + 1
            change = random_equalisers(len(sound), n_bins, config.equaliser_db, rng).to(device)
            # A gain of amplitude is one of compressed magnitudes too.
            change = change.pow(codec.config.power).repeat(1, codec.config.frames_per_code)[:, None]
            wanted = codec.features(sound)[:, 1:-1] * change
            decoded, commitment, linear = self.trainer(wanted, n_codebooks)
            return decoded, wanted, {"commitment": commitment, "linear": linear}
        decoded = self.trainer(codes[:, :n_codebooks, 1:-1].to(device), gain[..., None].to(device), to_sound)
        wanted = sound[:, span:-span] if to_sound else codec.features(sound)[:, 1:-1]
        return decoded, wanted, {}

    def _crop_frames(self) -> int:
        """Codec frames of a crop."""
        return max(1, round(self.config.crop_seconds * self.codec.frame_rate))

    def _distances(self, wanted: Tensor, decoded: Tensor) -> dict[str, Tensor]:
        """Spectral distances, each alone and as `spectral` their weighted sum."""
        codec = self.codec
        if self.config.objective == "magnitudes" and isinstance(codec, BundledCodec):
            n_bins, power = codec.config.n_fft // 2 + 1, codec.config.power
            frames = [x.reshape(len(x), -1, n_bins) for x in (wanted, decoded)]
            found = distances.magnitude_distances(frames[0], frames[1], power, codec.sample_rate)
        else:
            names = [name for name in distances.SOUND_DISTANCES if getattr(self.config, f"{name}_weight")]
            found = distances.sound_distances(wanted, decoded, codec.sample_rate, names)
        weighted = [getattr(self.config, f"{name}_weight") * loss for name, loss in found.items()]
        return {**found, "spectral": torch.stack(weighted).sum()}

    def _adversarial_losses(self, wanted: Tensor, decoded: Tensor) -> dict[str, Tensor]:
        """Losses of decoded samples `[B, N]` by the discriminator."""
        judge = cast(nn.Module, self.discriminator)
        fake, fake_maps = judge(decoded[:, None])
        with torch.no_grad():
            _, real_maps = judge(wanted[:, None])
        return {"adversarial": generator_loss(fake), "feature": feature_loss(real_maps, fake_maps)}

    def _train_discriminator(self, wanted: Tensor, decoded: Tensor) -> Tensor:
        """One step of the discriminator; its loss."""
        judge = cast(nn.Module, self.discriminator)
        loss = discriminator_loss(judge(wanted[:, None])[0], judge(decoded[:, None])[0])
        self.discriminator_optimizer.zero_grad()
        self.accelerator.backward(loss)
        self.discriminator_optimizer.step()
        return loss.detach()

    def validate(self) -> dict[str, float]:
        """Distance of unseen music through the averaged codec, and how much of each codebook it uses."""
        rng, codec = np.random.default_rng(self.config.seed), self.codec
        n_samples = self._crop_frames() * codec.config.samples_per_code
        n_crops = self.config.n_validation_crops
        sound = crops(self.validation_files, n_crops, n_samples, codec.sample_rate, rng, 0.0)
        return measure(self.average, sound[:, None].to(self.accelerator.device))

    def state(self) -> tuple[Parts, Optimizers]:
        """Codec, averaged codec, balancer and discriminator, and the optimizers of two of them."""
        parts = {
            "codec": self.codec.state_dict(),
            "average": self.average.state_dict(),
            "balancer": {"norms": self.balancer.norms, "mass": self.balancer.mass},
        }
        optimizers = {"codec": (cast(nn.Module, self.codec), self.optimizer)}
        if self.discriminator is not None:
            judge = self.accelerator.unwrap_model(self.discriminator)
            parts["discriminator"] = judge.state_dict()
            optimizers["discriminator"] = (judge, self.discriminator_optimizer)
        return parts, optimizers

    def save(self) -> None:
        """The averaged codec as a codec folder."""
        save_codec(cast(Codec, self.average), self.out / CODEC_FOLDER)


@torch.no_grad()
def measure(codec: Codec | TrainableCodec, sound: Tensor) -> dict[str, float]:
    """Distances between music `[B, C, N]` and what a codec decodes of it.

    Returns:
        `log_mel`, the distance over four scales; `level_error_db`, the mean absolute error of each row's RMS
        level; `usage` and `entropy_bits`, the share of entries used and the bits of a code, means over codebooks.
    """
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
