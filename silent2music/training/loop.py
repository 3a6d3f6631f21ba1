"""The training loop of the model: prepared shards in, a model folder out.

Likelihood alone does not say what is drawn: an unsure model spreads over more than music, and what it has drawn leads
it on. So a trained model can be trained further by self-play (SPIN: Chen et al., "Self-Play Fine-Tuning Converts Weak
Language Models to Strong Language Models", 2024). Its loss has a second term: real music must gain more likelihood over
the model that the run started from than pieces which that model draws for the same rooms.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.nn import functional

from silent2music.arrays import evenly
from silent2music.codec import Codec, load_codec
from silent2music.config import ModelConfig, RecipeConfig, SamplingConfig, TrainingConfig
from silent2music.data.shards import Batch, PairDataset
from silent2music.errors import CheckpointError, ConfigError
from silent2music.model import Silent2Music, Sketched, read_sketch
from silent2music.processes import StepProgress
from silent2music.sampling import generate_codes
from silent2music.signals import ROOM, Signals, members
from silent2music.sketch import Sketch, SketchNotes
from silent2music.training.learner import N_STATISTICS, Fitting, Task, kept_signals, open_pairs, train_on

MODEL_FOLDER = "model"

FACTORS = {"decoder.guide.log_": 20.0, "decoder.guide.slope": 20.0}
"""Factors on the learning rate of single numbers, which have much further to go than the weights of a matrix."""

MOST_WEIGHTS = 10**10
"""Of a model in training: more than any machine holds with its optimizer."""


def train(
    recipe: RecipeConfig,
    shards: Path,
    codec_folder: Path,
    out: Path,
    resume: bool = False,
    start: Path | None = None,
    fitting: Fitting | None = None,
    progress: StepProgress | None = None,
) -> Path:
    """Train a model on prepared pairs; returns its folder.

    Args:
        recipe: sizes and training settings; the decoder's codebook settings follow the codec.
        start: model folder whose weights to start from, see `Silent2Music.start_from`, and whose sketch the decoder
            learns to follow if it has one; fresh weights and no sketch without.
        shards, codec_folder, out, resume, fitting, progress: as for `recipe.train_recipe`.

    Raises:
        CheckpointError: as `learner.train_on`, or if codec and shards do not belong together.
        ConfigError: as `learner.train_on`, or if self-play has no `start` to play against.
    """
    config = recipe.training
    codec = load_codec(codec_folder)
    sketch = None if start is None else read_sketch(start)
    pairs = open_pairs(recipe, shards, recipe.controls, ("codes",), () if sketch is None else ("score",))
    meta = pairs[0].meta
    n_codebooks = min(meta["n_codebooks"], codec.n_codebooks)
    checksum = codec.token_checksum(n_codebooks)
    if meta["codec_checksum"] != checksum:
        raise CheckpointError(
            f"{shards} was prepared with codec tokens {meta['codec_checksum']} and {codec_folder} makes "
            f"{checksum}; prepare the pairs again with this codec."
        )
    if config.selfplay_weight > 0 and start is None:
        raise ConfigError(
            "training.selfplay_weight is above 0 and there is no model to play against; give --start with one."
        )
    with torch.device("meta"):
        # Settings that contradict each other are told before the run has a folder, and before they take memory.
        model = build_model(recipe, codec, n_codebooks, sketch is not None)
        n_weights = sum(weight.numel() for weight in model.parameters())
    if n_weights > MOST_WEIGHTS:
        raise ConfigError(
            f"decoder.dim={recipe.decoder.dim}, n_layers={recipe.decoder.n_layers} and the other sizes make a model "
            f"of {n_weights} weights; expected at most {MOST_WEIGHTS}."
        )

    def make(accelerator: Accelerator) -> tuple[Silent2Music, Task]:
        model, former = _model_to_train(recipe, codec, n_codebooks, pairs[0], start, sketch, fitting)
        return model, _Playing(accelerator, config, model, former)

    # A batch may have no row with a control that few pairs have.
    has_rare = bool(set(recipe.controls) - members([ROOM]))
    return train_on(
        pairs, f"{shards} has {len(pairs[0])} training pairs", config, out, MODEL_FOLDER, resume, make, FACTORS,
        fitting, progress, kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=has_rare)],
    )  # fmt: skip


def _model_to_train(
    recipe: RecipeConfig,
    codec: Codec,
    n_codebooks: int,
    dataset: PairDataset,
    start: Path | None,
    sketch: Sketch | None,
    fitting: Fitting | None = None,
) -> tuple[Silent2Music, Silent2Music | None]:
    """The model as training begins with it, its statistics measured on the pairs, and its opponent in self-play."""
    model = build_model(recipe, codec, n_codebooks, sketch is not None)
    if sketch is not None:
        model.set_sketch(sketch.requires_grad_(False).eval())
    examples = [dataset.crop(i) for i in evenly(len(dataset), N_STATISTICS)]
    model.embedder.set_statistics(Batch.collate(examples).signals)
    if start is not None:
        model.start_from(start)
    former = deepcopy(model) if recipe.training.selfplay_weight > 0 else None
    if fitting is not None:
        fitting.prepare(model)
        return model, former
    pieces = [example.codes[0, :n_codebooks] for example in examples]
    model.decoder.set_cell_radii(torch.cat(pieces, dim=1))
    model.decoder.set_rests(pieces)
    return model, former


def build_model(
    recipe: RecipeConfig, codec: Codec, n_codebooks: int, takes_sketch: bool = False
) -> Silent2Music:
    """A model with fresh weights, its decoder fitted to the codec's first codebooks."""
    _, size, width = codec.codebook_vectors().shape
    own = {"n_codebooks": n_codebooks, "codebook_size": size, "codebook_dim": width}
    takes_sketch = takes_sketch or recipe.decoder.takes_sketch
    config = ModelConfig(
        controls=recipe.controls,
        ambient=recipe.ambient,
        decoder=replace(recipe.decoder, takes_sketch=takes_sketch, **own),
        codec_checksum=codec.token_checksum(n_codebooks),
    )
    model = Silent2Music(config, codec)
    # Its learned decoder takes no part in the loss, for which several processes in training would wait.
    for weight in cast(nn.Module, model.codec).parameters():
        weight.requires_grad_(False)
    return model


class _Playing:
    """What the model learns, as `learner.Task`: real music, and with self-play to tell it from the opponent's."""

    def __init__(
        self,
        accelerator: Accelerator,
        config: TrainingConfig,
        model: Silent2Music,
        former: Silent2Music | None,
    ) -> None:
        self.accelerator, self.config, self.controls = accelerator, config, model.config.controls
        self.opponent = None if former is None else _Opponent(former.to(accelerator.device))
        # Its own copy: the model's goes to training mode with the model.
        self.sketch = deepcopy(model.sketch)
        if self.sketch is not None:
            self.sketch.to(accelerator.device).eval()

    @torch.no_grad()
    def _sketched(self, batch: Batch) -> Sketched | None:
        """The sketch of a batch's scores, in the rows that have one."""
        if self.sketch is None:
            return None
        n_frames, rate = batch.signals.n_frames, self.sketch.config.ambient.frame_rate
        device = batch.signals.mask.device
        notes = SketchNotes.of(batch.scores, batch.starts, n_frames, rate).to(device)
        return self.sketch(notes, batch.signals).float(), torch.tensor(batch.scored, device=device)

    def losses(self, model: nn.Module, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The loss of real music, of all codebooks and of the first, and the loss to be minimised."""
        real, wanted = self._losses(model, batch)
        return {"loss": real.mean(), "first_codebook": real[0]}, wanted

    def _losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss of real music per codebook `[K]`, and the loss to be minimised."""
        config, n_rows, mask = self.config, len(batch.ids), batch.signals.mask
        signals = kept_signals(batch, self.controls, config)
        with self.accelerator.autocast():
            sketched = self._sketched(batch)
        if sketched is not None:
            vectors, given = sketched
            sketched = vectors, given & (torch.rand(n_rows, device=mask.device) >= config.sketch_dropout)
        if self.opponent is None:
            with self.accelerator.autocast():
                losses = model(batch.codes, signals, sketched)
            return losses.mean(dim=0), losses.mean()
        model.eval()  # dropout would blur what is compared with the opponent's
        seed = int(torch.randint(2**40, ()))  # by the generator that the step has set
        drawn = self.opponent.draw(signals, sketched, seed)  # at the precision that music is made with
        with self.accelerator.autocast():
            codes, twice = torch.cat([batch.codes, drawn]), signals.rows([*range(n_rows)] * 2)
            if sketched is not None:
                sketched = (sketched[0].repeat(2, 1, 1), sketched[1].repeat(2))
            losses, before = model(codes, twice, sketched), self.opponent.losses(codes, twice, sketched)
        n_tokens = batch.codes.shape[1] * mask.sum(dim=1)
        gained = (before - losses).mean(dim=1)
        margin = n_tokens * (gained[:n_rows] - gained[n_rows:])
        # Over beta, and by the token: at weight 1 its gradient starts with half the strength of the likelihood's.
        beaten = functional.softplus(-config.selfplay_beta * margin) / (config.selfplay_beta * n_tokens)
        real = losses[:n_rows]
        return real.mean(dim=0), real.mean() + config.selfplay_weight * beaten.mean()

    def contrast(self, average: nn.Module, batch: Batch, alone: bool) -> dict[str, Tensor]:
        """As `Silent2Music.contrast`."""
        model, own = cast(Silent2Music, average), (batch.codes, batch.signals, self._sketched(batch))
        return {"true": model(*own).mean(dim=1)} if alone else model.contrast(*own)


class _Opponent:
    """The opponent in self-play: the model that a run started from, frozen.

    It draws without top-k: against truncated draws, the trained model would only learn to give probability back to the
    tokens that were cut off.
    """

    def __init__(self, model: Silent2Music) -> None:
        self._model = model.requires_grad_(False).eval()
        self._sampling = SamplingConfig(temperature=1.0, top_k=0, guidance=1.0, constraints=())

    @torch.no_grad()
    def draw(self, signals: Signals, sketched: Sketched | None, seed: int) -> Tensor:
        """Codes `[B, K, T]` for the rooms and scores of a batch; filler where a row is padded."""
        given, null = self._model.steer(signals, sketched=sketched)
        seeds = [seed * signals.n_rows + row for row in range(signals.n_rows)]
        return generate_codes(self._model.packed_decoder(), given, null, self._sampling, seeds)

    @torch.no_grad()
    def losses(self, codes: Tensor, signals: Signals, sketched: Sketched | None) -> Tensor:
        """The opponent's losses, as `Silent2Music.forward` gives them."""
        found: Tensor = self._model(codes, signals, sketched)
        return found
