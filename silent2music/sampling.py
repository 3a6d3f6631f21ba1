"""Sampling: tokens drawn from logits, constraints on them, and the token loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional

from silent2music.config import SamplingConfig
from silent2music.decoder import Conditioning, DelayPattern
from silent2music.errors import ConfigError
from silent2music.guide import Guide
from silent2music.stepping import PackedDecoder, Recorded, Stepper

STRETCH = 16
"""Columns that are drawn at once."""

UNRECORDED = 32
"""Columns that are drawn before it is worth while to record how."""

FREE = -1
"""In place of a token: it is to be drawn."""

N_DRAWS = 8
"""Tokens that are tried for a place in a frame before the least bad of them is taken."""


def draw(logits: Tensor, sampling: SamplingConfig, noise: Tensor, n_draws: int = 1) -> Tensor:
    """Tokens from logits by the Gumbel-max trick, in the order temperature, top-k, top-p.

    The first that fits of several is a draw from the distribution restricted to those that fit.

    Args:
        logits: `[..., V]`.
        sampling: temperature 0 takes the most likely token.
        noise: `[..., V]` uniform in [0, 1), one independent draw for each entry.
        n_draws: n, without replacement; at most as many as top-k leaves.

    Returns:
        `[..., n]` int64, in the order drawn.
    """
    size = logits.shape[-1]
    top_k = min(sampling.top_k, size) if sampling.top_k else size
    n_draws = min(n_draws, top_k)
    if sampling.temperature == 0:
        return logits.topk(n_draws, dim=-1).indices
    logits = logits.float() / sampling.temperature
    if top_k == size and sampling.top_p == 1:
        return (logits + gumbel(noise)).topk(n_draws, dim=-1).indices
    # Noise belongs to a token, not to its rank: rounding that swaps two near-equal logits changes nothing.
    logits, tokens = logits.topk(top_k, dim=-1, sorted=sampling.top_p < 1)
    if sampling.top_p < 1:
        probabilities = logits.softmax(dim=-1)
        before = probabilities.cumsum(dim=-1) - probabilities
        logits = logits.masked_fill(before >= sampling.top_p, float("-inf"))
    chosen = (logits + gumbel(noise.gather(-1, tokens))).topk(n_draws, dim=-1).indices
    return tokens.gather(-1, chosen)


def gumbel(noise: Tensor) -> Tensor:
    """Gumbel noise from noise uniform in [0, 1)."""
    return -torch.log(-torch.log(noise.clamp(1e-20, 1 - 1e-7)))


class Constraint(Protocol):
    """A rule on drawn tokens; its limits were measured for the weights that it belongs to."""

    n_candidates: int
    """Number of draws from each codebook that `write` chooses among."""

    state: list[Tensor]
    """Tensors that `write` changes, in place."""

    def mask(self, logits: Tensor) -> Tensor:
        """The logits `[B, K, V]`, with forbidden tokens at minus infinity."""

    def write(self, candidates: Tensor) -> Tensor:
        """Choose among the candidates, and record that the first of those chosen is written.

        Args:
            candidates: `[B, K, n]`, the preferred one first; a token that is given is repeated n times.

        Returns:
            `[B, K, m]`, the chosen ones, m from 1 to n.
        """


class Cells:
    """Keeps the codes of each frame near its first code, in the cell where those of encoded music lie.

    The later codes of a residual quantiser correct the first, so their sum is small, or another code would have been
    the first. A model that draws them one after another may make the same correction again and again. The frame is then
    louder than any in training, the next frames continue from it, and in the end a single tone covers the music. So of
    several draws the first is taken whose sum stays within the radius, or else that with the smallest sum.

    Args:
        packed: of a decoder whose `cell_radii` limit the sums.
        n_rows: B.
    """

    n_candidates = N_DRAWS

    def __init__(self, packed: PackedDecoder, n_rows: int) -> None:
        config, table = packed.decoder.config, packed.refinements
        self._radii, self._table = packed.decoder.cell_radii[:, None], table
        self._offsets = torch.arange(config.n_codebooks, device=table.device)[:, None] * (
            config.codebook_size + 1
        )
        # Below any reach, the first draw lowest.
        self._order = torch.arange(-N_DRAWS, 0, dtype=table.dtype, device=table.device)
        # What the codes after the first add up to so far, in the frame that each codebook writes next.
        self._sums = table.new_zeros(n_rows, config.n_codebooks, table.shape[1])
        self.state = [self._sums]

    def mask(self, logits: Tensor) -> Tensor:
        """The logits as they are: nothing is forbidden before the draw."""
        return logits

    def write(self, candidates: Tensor) -> Tensor:
        """The first candidate within the radius, or else the one with the smallest sum, `[B, K, 1]`."""
        sums = self._sums[:, :, None] + functional.embedding(candidates + self._offsets, self._table)
        reach = sums.norm(dim=-1)
        preferred = torch.where(reach <= self._radii, self._order[: candidates.shape[-1]], reach)
        chosen = preferred.argmin(dim=-1, keepdim=True)
        width = sums.shape[-1]
        self._sums[:, 1:] = sums[:, :-1].gather(2, chosen[:, :-1, :, None].expand(-1, -1, -1, width))[:, :, 0]
        return candidates.gather(-1, chosen)


class Rests:
    """Ends a silence that lasts longer than nearly all silences of encoded music.

    A model that has drawn quiet frames is likely to continue with quiet ones, and with every frame the context is less
    like any in training. So after a time at which nearly all encoded music is louder again, first codes that are as
    quiet are no longer drawn.

    Args:
        packed: of a decoder whose `rest_limits` say how long a silence may last.
        n_rows: B.
    """

    n_candidates = 1

    def __init__(self, packed: PackedDecoder, n_rows: int) -> None:
        decoder, loudness = packed.decoder, packed.decoder.first_loudness()
        # Something must be left to draw.
        quiet = (loudness <= decoder.rest_loudness[:, None]) & (loudness < loudness.max())
        self._limits, self._quiet = decoder.rest_limits, quiet
        self._counts = functional.pad(quiet, (0, 1)).t().float()  # filler is no rest
        self._lasted = torch.zeros(n_rows, len(quiet), device=quiet.device)
        self.state = [self._lasted]

    def mask(self, logits: Tensor) -> Tensor:
        """The logits without the first codes by which a silence would last too long."""
        over = (self._lasted >= self._limits)[..., None] & self._quiet
        logits[:, 0].masked_fill_(over.any(dim=1), float("-inf"))
        return logits

    def write(self, candidates: Tensor) -> Tensor:
        """All candidates."""
        self._lasted.add_(1.0).mul_(self._counts[candidates[:, 0, 0]])
        return candidates


class Nearness:
    """Prefers codes that bring their frame near to the sketch, as `guide.GuideInput` says; in force where there is one.

    The vector of the frame that a column begins is told by `begin` before the column is drawn. A sketch is zero where
    no note sounds or rings; such a frame has the codes of silence.

    Args:
        guide: of B rows, of which it counts whether they have a sketch.
        adherence: multiplies the learned strength.
    """

    n_candidates = 1

    def __init__(self, packed: PackedDecoder, guide: Guide, adherence: float) -> None:
        port = packed.guide
        assert port is not None
        self._port, self._products = port, packed.books
        self._strength = adherence * guide.given[:, None].float()
        (books, self._scales), k = port.tables(), len(port.books)
        self._table, self._offsets = (
            books.flatten(0, 1),
            torch.arange(k, device=books.device) * books.shape[1],
        )
        silence = functional.one_hot(port.energies.argmin(dim=1), port.energies.shape[1])
        self._silence, self._given = silence.to(books.dtype).log(), guide.given[:, None]
        # Of the frame that each codebook writes next: what is left of the sketch, scale of the first code, energy.
        self._left = books.new_zeros(len(guide.given), k, books.shape[2])
        self._scale, self._level = (books.new_ones(len(guide.given), k) for _ in range(2))
        self.state = [self._left, self._scale, self._level]

    def begin(self, vectors: Tensor) -> None:
        """The sketch `[B, P]` of the frame whose first code is drawn next."""
        self._left[:, 0] = vectors
        self._level[:, 0] = vectors.square().sum(dim=-1)

    def mask(self, logits: Tensor) -> Tensor:
        """The logits, those of nearer codes higher, and of silence alone where nothing is to be heard."""
        weights = self._port.weights(self._left[:, :, None], self._scale[..., None], self._level[..., None])
        a, b = (factor * self._strength[..., None] for factor in weights)
        scaled = self._left * a
        products = [product(scaled[:, k]).float() for k, product in enumerate(self._products)]
        biased = logits + torch.stack(products, dim=1) - b * self._port.energies
        return torch.where((self._given & (self._level == 0.0))[..., None], self._silence, biased)

    def write(self, candidates: Tensor) -> Tensor:
        """All candidates."""
        column = candidates[..., 0]
        parts = functional.embedding(column + self._offsets, self._table)
        self._left[:, 1:] = (self._left - self._scale[..., None] * parts)[:, :-1]
        self._scale[:, 1:] = torch.cat([self._scales[column[:, :1]], self._scale[:, 1:-1]], dim=1)
        self._level[:, 1:] = self._level[:, :-1].clone()
        return candidates


CONSTRAINTS: dict[str, Callable[[PackedDecoder, int], Constraint | None]] = {
    "cells": lambda packed, b: Cells(packed, b) if packed.decoder.cell_radii.isfinite().any() else None,
    "rests": lambda packed, b: Rests(packed, b) if packed.decoder.rest_limits.isfinite().any() else None,
}
"""Constraints by name, made from weights and B; None where the weights have no limits for it."""


def constraints_of(packed: PackedDecoder, names: Sequence[str], n_rows: int) -> list[Constraint]:
    """Make the constraints that are named and that the weights have limits for.

    Raises:
        ConfigError: on an unknown name.
    """
    for name in names:
        if name not in CONSTRAINTS:
            raise ConfigError(f"Constraint '{name}' is unknown; expected some of {', '.join(CONSTRAINTS)}.")
    found = [CONSTRAINTS[name](packed, n_rows) for name in names]
    return [constraint for constraint in found if constraint is not None]


class Steps(Protocol):
    """What the token loop needs of a model: logits of the next column, from the column before and its conditioning."""

    pattern: DelayPattern
    codebook_size: int
    device: torch.device
    state: list[Tensor]
    """Tensors that `step` changes, in place."""

    def ready(self, n_columns: int, /) -> None:
        """Called with the number of the next columns before they are drawn."""

    def step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Logits `[B, K, V]`, which the caller may overwrite, after the column `[B, K]` (filler at first)."""


class TokenLoop:
    """Draws columns of tokens one after another, when their conditioning is pushed.

    Each row draws from its own generator, so that a row's noise does not depend on its neighbours in the batch.

    Args:
        model: at its first column; its `step` takes what `push` is given beside the column.
        sampling: settings; its `seed`, guidance and constraints are not used here.
        seeds: one for each row, B of them.
        constraints: on what is drawn, applied in this order.
        lengths: frames of each row; later cells are filler, as for the row alone. Without, all rows last until
            `end`.
        prefix: `[B, K, P]` codes that are given; drawing continues after them.
        near: the one of the constraints that is told the sketch, if there is one.
    """

    def __init__(
        self,
        model: Steps,
        sampling: SamplingConfig,
        seeds: Sequence[int],
        constraints: Sequence[Constraint] = (),
        lengths: Sequence[int] = (),
        prefix: Tensor | None = None,
        near: Nearness | None = None,
    ) -> None:
        pattern, device = model.pattern, model.device
        k = pattern.n_codebooks
        self._model, self._sampling, self._constraints, self._near = model, sampling, constraints, near
        self._n_candidates = max((constraint.n_candidates for constraint in constraints), default=1)
        self._noise_shape = (k, model.codebook_size)
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        shape = (len(seeds), k, 0)
        self._given = torch.empty(shape, dtype=torch.int64) if prefix is None else pattern.apply(prefix)
        self._given = self._given.to(device).masked_fill(self._given == pattern.filler, FREE)
        self._ends = torch.tensor(lengths or [2**62] * len(seeds), device=device)[:, None, None]
        self._codebook = torch.arange(k, device=device)[:, None]
        self._column = torch.full((len(seeds), k), pattern.filler, dtype=torch.int64, device=device)
        self._state = [self._column, *model.state, *(t for rule in constraints for t in rule.state)]
        self._recorded: Recorded | None = None
        self._recent = self._column[..., None][..., :0]
        self.n_columns = 0

    def push(self, *conditioning: Tensor) -> Tensor:
        """Draw the next n columns.

        Args:
            conditioning: `[B, n, ...]` of the columns, as the model's `step` takes it of one, and with `near` the sketch
                `[B, n, P]` last.

        Returns:
            Codes `[B, K, m]` of the frames whose last tokens these columns hold.
        """
        n = conditioning[0].shape[1]
        # From the CPU's generator on every device.
        noises = [torch.rand(n, *self._noise_shape, generator=generator) for generator in self._generators]
        noise = torch.stack(noises, dim=1).to(self._column.device)
        stretches = [self._settled(n), noise, *(one.transpose(0, 1) for one in conditioning)]
        self._model.ready(n)
        if self.n_columns >= UNRECORDED and self._recorded is None:
            self._recorded = Recorded(self._draw, self._state, [stretch[0] for stretch in stretches])
        if self._recorded is None:
            columns = torch.stack([self._draw(*each) for each in zip(*stretches, strict=True)])
        else:
            columns = self._recorded(stretches)
        self.n_columns += n
        known = torch.cat([self._recent, columns.permute(1, 2, 0)], dim=-1)
        n_frames = max(0, known.shape[2] - len(self._codebook) + 1)
        self._recent = known[..., n_frames:]
        return self._model.pattern.undo(known) if n_frames else known[..., :0]

    def _draw(self, settled: Tensor, noise: Tensor, *conditioning: Tensor) -> Tensor:
        """The next column `[B, K]`."""
        if self._near is not None:
            *conditioning_of_model, vectors = conditioning
            self._near.begin(vectors)
            conditioning = tuple(conditioning_of_model)
        logits = self._model.step(self._column, *conditioning)
        for constraint in self._constraints:
            logits = constraint.mask(logits)
        candidates = draw(logits, self._sampling, noise, self._n_candidates)
        candidates = torch.where(settled[..., None] == FREE, candidates, settled[..., None])
        for constraint in self._constraints:
            candidates = constraint.write(candidates)
        return self._column.copy_(candidates[..., 0]).clone()

    def end(self) -> None:
        """No frame follows: the next K - 1 columns end the delay pattern."""
        self._ends = self._ends.clamp_max(self.n_columns)

    def _settled(self, n: int) -> Tensor:
        """Tokens `[n, B, K]` that are given, the prefix, and filler outside of a row's frames; elsewhere `FREE`."""
        t = self.n_columns
        given = self._given[..., t : t + n]
        given = functional.pad(given, (0, n - given.shape[2]), value=FREE)
        frame = torch.arange(t, t + n, device=given.device) - self._codebook
        outside = (frame < 0) | (frame >= self._ends)
        return given.masked_fill(outside, self._model.pattern.filler).permute(2, 0, 1)


def stream_codes(
    packed: PackedDecoder,
    conditioning: Iterable[tuple[Conditioning, Conditioning]],
    sampling: SamplingConfig,
    seeds: Sequence[int],
    lengths: Sequence[int] = (),
    prefix: Tensor | None = None,
) -> Iterator[Tensor]:
    """Codes `[B, K, n]` of successive frames, each K - 1 columns after its conditioning.

    Args:
        conditioning: of successive stretches of frames, each with its null, "no room", of the same shapes. Columns
            attend to the global tokens of their own stretch.
        sampling: settings, with a number for guidance; its `seed` is not used here.
        lengths, prefix: as for `TokenLoop`.

    Raises:
        ConfigError: if `sampling` leaves the guidance open, which only a whole model can decide.
    """
    if sampling.guidance is None:
        raise ConfigError("guidance is not given; a decoder alone has none of its own, expected a number.")
    loop: TokenLoop | None = None
    for given, null in conditioning:
        if loop is None:
            stepper, near, constraints = _begin(packed, given, null, sampling)
            loop = TokenLoop(stepper, sampling, seeds, constraints, lengths, prefix, near)
        stepper.set_tokens(given, null)
        frames = [given.frames, null.frames]
        if near is not None and given.guide is not None:
            frames += [given.guide.frames, given.guide.vectors]
        for stretch in zip(*(torch.split(one, STRETCH, dim=1) for one in frames), strict=True):
            codes = loop.push(*stretch)
            if codes.shape[2]:
                yield codes
    if loop is not None and (n_more := stepper.pattern.n_codebooks - 1):
        loop.end()
        yield loop.push(*(one[:, -1:].expand(-1, n_more, -1) for one in frames))


def _begin(
    packed: PackedDecoder, given: Conditioning, null: Conditioning, sampling: SamplingConfig
) -> tuple[Stepper, Nearness | None, list[Constraint]]:
    """What draws under conditioning as in the first stretch: all stretches have a sketch, or none."""
    guidance = cast(float, sampling.guidance)
    score_guidance = 1.0 if sampling.score_guidance is None else sampling.score_guidance
    stepper = Stepper(packed, given, null, guidance, sketch_guidance=score_guidance)
    # Under a score it is the score that says where rests end.
    names = [name for name in sampling.constraints if given.guide is None or name != "rests"]
    constraints = constraints_of(packed, names, len(given.mask))
    if given.guide is None:
        return stepper, None, constraints
    near = Nearness(packed, given.guide, 1.0 if sampling.adherence is None else sampling.adherence)
    return stepper, near, [*constraints, near]


@torch.inference_mode()
def generate_codes(
    packed: PackedDecoder,
    conditioning: Conditioning,
    null: Conditioning,
    sampling: SamplingConfig,
    seeds: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
    prefix: Tensor | None = None,
) -> Tensor:
    """Draw codes `[B, K, T]` under conditioning of T steps.

    Args:
        packed, sampling, seeds: as for `stream_codes`.
        conditioning: `frames [B, T, D]`, valid up to each row's length.
        null: the same shapes, for "no room".
        prefix: `[B, K, P]` codes that are written already, P at most T; the rest goes on from them.
    """
    lengths = conditioning.mask.sum(dim=1).tolist()
    pieces, done = [], 0
    for codes in stream_codes(packed, [(conditioning, null)], sampling, seeds, lengths, prefix):
        pieces.append(codes)
        for _ in range(codes.shape[2]):
            done += 1
            if progress is not None:
                progress(done, conditioning.frames.shape[1])
    return torch.cat(pieces, dim=-1)
