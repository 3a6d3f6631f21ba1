"""Training of the composer: prepared pairs with scores in, a composer folder out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from silent2music.arrays import evenly
from silent2music.composer import N_ENSEMBLES, Composer, Pages
from silent2music.config import COMPOSER_FOLDER, ROOM_CONTROLS, RecipeConfig, TrainingConfig
from silent2music.data.shards import Batch, PairDataset
from silent2music.model import CODEC_FOLDER, read_embedder
from silent2music.notation import FIELDS
from silent2music.players import gather, scalars_of
from silent2music.processes import StepProgress
from silent2music.signals import CONTROLS, STEER
from silent2music.training.learner import N_STATISTICS, Fitting, Task, kept_signals, open_pairs, train_on

if TYPE_CHECKING:
    from accelerate import Accelerator

N_LIMITS = 2000
"""Scores that the limits of sampling are measured on."""

SLOWER = {f"embedder.{part}.{name}": 0.3 for part in ("controls", "nulls") for name in ROOM_CONTROLS}
"""Factor on the learning rate of the room's encoder where it was trained before."""


def train_composer(
    recipe: RecipeConfig,
    shards: Path,
    out: Path,
    resume: bool = False,
    start: Path | None = None,
    fitting: Fitting | None = None,
    progress: StepProgress | None = None,
) -> Path:
    """Train a composer on prepared pairs that have scores; their sound is not needed. Returns its folder.

    Args:
        start: a composer folder whose weights to start from, with fewer controls maybe, or a model folder whose encoder
            of the room to start from; of the recipe's sizes. Fresh weights without.
        fitting: as for `recipe.train_recipe`; limits of sampling are then widened.
        recipe, shards, out, resume, progress: as for `recipe.train_recipe`.

    Raises:
        CheckpointError: as `learner.train_on`, or if `start` does not fit.
        ConfigError: as `learner.train_on`.
    """
    pairs = open_pairs(recipe, shards, recipe.controls, ("score",))

    def make(accelerator: Accelerator) -> tuple[Composer, Task]:
        composer = _composer_to_train(recipe, pairs[0], start, fitting)
        return composer, _Composing(accelerator, recipe.training, composer)

    return train_on(
        pairs, f"{shards} has {len(pairs[0])} training pairs with scores", recipe.training, out, COMPOSER_FOLDER,
        resume, make, {} if start is None else SLOWER, fitting, progress,
    )  # fmt: skip


def _composer_to_train(
    recipe: RecipeConfig, dataset: PairDataset, start: Path | None, fitting: Fitting | None
) -> Composer:
    """The composer as training begins with it, its statistics and limits measured on the pairs."""
    composer = Composer(replace(recipe.composer, controls=recipe.controls, ambient=recipe.ambient))
    if start is None:
        examples = [dataset.crop(i) for i in evenly(len(dataset), N_STATISTICS)]
        composer.embedder.set_statistics(Batch.collate(examples).signals)
    elif (start / CODEC_FOLDER).exists():
        read_embedder(start, composer.embedder)
    else:
        composer.load_weights(start, may_lack=True)
    scores = [dataset.score(i) for i in evenly(len(dataset), N_LIMITS)]
    composer.set_limits(scores, widen=fitting is not None)
    rows = (dataset.crop(i) for i in evenly(len(dataset), N_ENSEMBLES))
    # Scores come whole with a crop, and rooms are described as wholes.
    found = [(row.scores[0], scalars_of(row.signals)) for row in rows]
    gather(composer, [score for score, _ in found], [room for _, room in found])
    if fitting is not None:
        fitting.prepare(composer)
    return composer


class _Composing:
    """What the composer learns, as `learner.Task`: the likelihood of scores, and their loudness automation."""

    def __init__(self, accelerator: Accelerator, config: TrainingConfig, composer: Composer) -> None:
        self.accelerator, self.config = accelerator, config
        self.controls, self.frame_rate = composer.config.controls, composer.config.ambient.frame_rate

    def losses(self, model: nn.Module, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Nats a second in all and by field, and the loss to be minimised, in nats a frame."""
        signals, pages = kept_signals(batch, self.controls, self.config), self._pages(batch)
        with self.accelerator.autocast():
            found = {name: losses.mean() for name, losses in model(pages, signals).items()}
        figures = {"loss": torch.stack([found[name] for name in FIELDS]).sum().detach(), **found}
        return figures, torch.stack(list(found.values())).sum() / self.frame_rate

    def contrast(self, average: nn.Module, batch: Batch, alone: bool) -> dict[str, Tensor]:
        """As `Composer.contrast` where the room decides alone, and `steered` with every wish told too."""
        composer, pages, signals = cast(Composer, average), self._pages(batch), batch.signals.without(STEER)
        if alone:
            losses = composer(pages, signals)
            return {"true": torch.stack([losses[name] for name in FIELDS]).sum(dim=0)}
        found = composer.contrast(pages, signals)
        if any(CONTROLS[name].group == STEER for name in self.controls):
            losses = composer(pages, batch.signals)
            found["steered"] = torch.stack([losses[name] for name in FIELDS]).sum(dim=0)
        return found

    def _pages(self, batch: Batch) -> Pages:
        pages = Pages.of(batch.scores, batch.starts, batch.signals.n_frames, self.frame_rate)
        return pages.to(batch.signals.mask.device)
