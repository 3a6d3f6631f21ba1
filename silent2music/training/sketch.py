"""Training of the sketch: prepared pairs with scores and codes in, a sketch folder out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from silent2music.arrays import evenly
from silent2music.bundled_codec import BundledCodec
from silent2music.codec import load_codec
from silent2music.config import SKETCH_FOLDER, RecipeConfig, TrainingConfig
from silent2music.correction import SILENCE_NORM
from silent2music.data.shards import Batch, PairDataset
from silent2music.errors import CheckpointError, ConfigError
from silent2music.model import CODEC_FOLDER
from silent2music.processes import StepProgress
from silent2music.sketch import Sketch, SketchNotes
from silent2music.training.learner import N_STATISTICS, Fitting, Task, kept_signals, open_pairs, train_on

if TYPE_CHECKING:
    from accelerate import Accelerator

FLOOR_SHARE = 0.05
"""Of a crop's mean square: added to the square of a frame's norm, by which its error is divided."""


def train_sketch(
    recipe: RecipeConfig,
    shards: Path,
    codec: Path | None,
    out: Path,
    resume: bool = False,
    start: Path | None = None,
    fitting: Fitting | None = None,
    progress: StepProgress | None = None,
) -> Path:
    """Train a sketch on prepared pairs that have scores and codes; returns its folder.

    Args:
        codec: folder of the codec that the shards were prepared with; by default that of the model folder `start`.
        start: a sketch folder whose weights to start from, or a model folder, from whose sketch training starts if it
            has one. Fresh weights without.
        recipe, shards, out, resume, fitting, progress: as for `recipe.train_recipe`.

    Raises:
        CheckpointError: as `learner.train_on`, or if `start` or the codec does not fit.
        ConfigError: as `learner.train_on`, or if no codec is given.
    """
    pairs = open_pairs(recipe, shards, recipe.sketch.controls, ("score", "codes"))
    is_model = start is not None and (start / CODEC_FOLDER).exists()
    bundled = _codec_of(pairs[0], codec or (start / CODEC_FOLDER if start and is_model else None), shards)
    if is_model and start is not None:
        start = start / SKETCH_FOLDER if (start / SKETCH_FOLDER).exists() else None

    def make(accelerator: Accelerator) -> tuple[Sketch, Task]:
        sketch = _sketch_to_train(recipe, pairs[0], bundled, start)
        if fitting is not None:
            fitting.prepare(sketch)
        return sketch, _Sketching(accelerator, recipe.training, sketch, bundled)

    found = f"{shards} has {len(pairs[0])} training pairs with scores and codes"
    return train_on(
        pairs, found, recipe.training, out, SKETCH_FOLDER, resume, make, fitting=fitting, progress=progress
    )


def _codec_of(dataset: PairDataset, folder: Path | None, shards: Path) -> BundledCodec:
    """The codec that the pairs' codes are of."""
    if folder is None:
        raise ConfigError(
            "A sketch is trained with a codec; give --codec with the folder of the shards' codec, or --start with a "
            "model folder."
        )
    codec = load_codec(folder)
    if not isinstance(codec, BundledCodec):
        raise ConfigError(f"{folder} holds an EnCodec; a sketch has the vectors of a bundled codec.")
    stated, own = dataset.meta["codec_checksum"], codec.token_checksum(dataset.meta["n_codebooks"])
    if stated != own:
        raise CheckpointError(
            f"{shards} was prepared with codec tokens {stated}, and {folder} makes {own}; give the codec that the "
            "pairs were prepared with."
        )
    return codec


def _sketch_to_train(
    recipe: RecipeConfig, dataset: PairDataset, codec: BundledCodec, start: Path | None
) -> Sketch:
    """The sketch as training begins with it; of fresh weights the room's statistics are measured on the pairs."""
    config = replace(
        recipe.sketch,
        ambient=recipe.ambient,
        codec=codec.config,
        codec_checksum=codec.token_checksum(dataset.meta["n_codebooks"]),
    )
    sketch = Sketch(config, codec.components)
    if start is not None:
        sketch.load_weights(start)
    else:
        examples = [dataset.crop(i) for i in evenly(len(dataset), N_STATISTICS)]
        sketch.embedder.set_statistics(Batch.collate(examples).signals)
    return sketch


class _Sketching:
    """What the sketch learns, as `learner.Task`: the codec's vectors of the music."""

    def __init__(
        self, accelerator: Accelerator, config: TrainingConfig, sketch: Sketch, codec: BundledCodec
    ) -> None:
        self.accelerator, self.config = accelerator, config
        self.controls, self.frame_rate = sketch.config.controls, sketch.config.ambient.frame_rate
        self.behind, self.ahead = sketch.behind, sketch.ahead
        self.codec = codec.to(accelerator.device).requires_grad_(False)

    def losses(self, model: nn.Module, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The normalised squared error, and the loss to be minimised: errors relative to each frame's norm.

        So a quiet frame counts nearly as much as a loud one, and one that is silent as much as one that is soft.
        """
        signals = kept_signals(batch, self.controls, self.config)
        with self.accelerator.autocast():
            found = model(self._notes(batch), signals)
        target = self.codec.vectors(batch.codes)
        known = self._known(batch)
        error, square = ((x.square().sum(dim=-1) * known) for x in (found - target, target))
        mean = square.sum(dim=1, keepdim=True) / known.sum(dim=1, keepdim=True).clamp_min(1.0)
        relative = error / (square + FLOOR_SHARE * mean + SILENCE_NORM**2).sqrt()
        loss = relative.sum() / known.sum().clamp_min(1.0)
        return {"loss": loss.detach(), "error": (error.sum() / square.sum().clamp_min(1e-6)).detach()}, loss

    def contrast(self, average: nn.Module, batch: Batch, alone: bool) -> dict[str, Tensor]:
        """Squared errors `[B]` over the batch's mean square: under the own score (`true`), the next row's (`shuffled`),
        and the own without the room (`dropped`)."""
        target = self.codec.vectors(batch.codes)
        known = self._known(batch)
        mean = (target.square().sum(dim=-1) * known).sum(dim=1).mean().clamp_min(1e-6)
        following = [*range(1, len(batch.ids)), 0]
        other = replace(
            batch,
            scores=tuple(batch.scores[i] for i in following),
            starts=tuple(batch.starts[i] for i in following),
        )
        cases = {
            "true": (batch, batch.signals),
            "shuffled": (other, batch.signals),
            "dropped": (batch, batch.signals.without(*self.controls)),
        }
        found = {}
        for name in ["true"] if alone else cases:
            scored, signals = cases[name]
            error = (average(self._notes(scored), signals).float() - target).square().sum(dim=-1)
            found[name] = (error * known).sum(dim=1) / mean
        return found

    def _notes(self, batch: Batch) -> SketchNotes:
        notes = SketchNotes.of(batch.scores, batch.starts, batch.signals.n_frames, self.frame_rate)
        return notes.to(batch.codes.device)

    def _known(self, batch: Batch) -> Tensor:
        """`[B, T]`: 1 for frames all of whose context is in the crop, or beyond the ends of the piece; else 0."""
        mask = batch.signals.mask
        frame = torch.arange(mask.shape[1], device=mask.device)
        starts = torch.tensor(batch.starts, device=mask.device)[:, None]
        lasting = torch.tensor([score.seconds for score in batch.scores], device=mask.device)[:, None]
        n_valid = mask.sum(dim=1, keepdim=True)
        is_cut = starts + n_valid < lasting * self.frame_rate - 1
        begun = (starts == 0) | (frame >= self.behind)
        return (mask & begun & (~is_cut | (frame < n_valid - self.ahead))).float()
