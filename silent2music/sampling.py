"""How tokens are drawn from logits, and the token loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from silent2music.conditioning import Conditioning
from silent2music.config import SamplingConfig
from silent2music.decoder import DelayPattern
from silent2music.stepping import PackedDecoder, Stepper

NOISE_BLOCK = 32
"""Columns whose noise is drawn at once."""


N_DRAWS = 8
"""Tokens that are tried for a cell before the least bad of them is taken."""


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


class Cells:
    """Keeps the codes of each frame within the cell of its first one, where those of encoded music lie.

    The later codes of a residual quantiser correct the first, and what they add up to stays near it, or another
    would have been the first. Drawn one after another by a model, they may make the same correction again and again.
    The frame is then louder than any that the model has heard, the next ones go on from there, and in the end
    a single tone covers the music.

    Args:
        packed: of a decoder whose `cell_radii` say how far codes may lead.
        n_rows: B.
    """

    def __init__(self, packed: PackedDecoder, n_rows: int) -> None:
        config, table = packed.decoder.config, packed.refinements
        self._radii, self._table = packed.decoder.cell_radii[:, None], table
        self.n_draws = N_DRAWS if self._radii.isfinite().any() else 1
        self._offsets = torch.arange(config.n_codebooks, device=table.device) * (config.codebook_size + 1)
        # Below any reach, the first draw lowest.
        self._order = torch.arange(-self.n_draws, 0, dtype=table.dtype, device=table.device)
        # What the codes after the first add up to so far, in the frame that each codebook writes next.
        self._sums = table.new_zeros(n_rows, config.n_codebooks, table.shape[1])

    def choose(self, drawn: Tensor) -> Tensor:
        """Of tokens `[B, K, n]` the first ones that stay in their cells, or those that leave it least: `[B, K]`."""
        n_draws = drawn.shape[-1]
        if n_draws == 1:
            return drawn[..., 0]
        steps = functional.embedding(drawn + self._offsets[:, None], self._table)
        reach = (self._sums[:, :, None] + steps).norm(dim=-1)
        chosen = torch.where(reach <= self._radii, self._order[:n_draws], reach).argmin(dim=-1, keepdim=True)
        return drawn.gather(-1, chosen).squeeze(-1)

    def write(self, column: Tensor) -> None:
        """Take note of the column `[B, K]` that was written."""
        if self.n_draws > 1:
            steps = functional.embedding(column + self._offsets, self._table)
            self._sums[:, 1:] = self._sums[:, :-1] + steps[:, :-1]


class Rests:
    """Keeps drawn music from staying quiet for longer than encoded music does.

    A model that has fallen quiet hears quiet music behind it, and is likely to go on with it: with every frame it is
    farther from any music that it has heard. So where nearly all encoded music would have come back, codes that begin a
    frame as quiet are no longer drawn.

    Args:
        packed: of a decoder whose `rest_limits` say how long quiet may last.
        n_rows: B.
    """

    def __init__(self, packed: PackedDecoder, n_rows: int) -> None:
        decoder, loudness = packed.decoder, packed.decoder.first_loudness()
        # Something must be left to draw.
        quiet = (loudness <= decoder.rest_loudness[:, None]) & (loudness < loudness.max())
        self._limits, self._quiet = decoder.rest_limits, quiet
        self._counts = functional.pad(quiet, (0, 1)).t().float()  # filler is no rest
        self._bounded = bool(self._limits.isfinite().any())
        self._lasted = torch.zeros(n_rows, len(quiet), device=quiet.device)

    def end(self, logits: Tensor) -> Tensor:
        """Logits `[B, K, V]` without the first codes by which a rest would last too long."""
        if self._bounded:
            over = (self._lasted >= self._limits)[..., None] & self._quiet
            logits[:, 0].masked_fill_(over.any(dim=1), float("-inf"))
        return logits

    def write(self, column: Tensor) -> None:
        """Take note of the column `[B, K]` that was written."""
        if self._bounded:
            self._lasted = (self._lasted + 1.0) * self._counts[column[:, 0]]


def generate_columns(
    stepper: Stepper,
    frames: Iterable[Tensor],
    null_frame: Tensor,
    sampling: SamplingConfig,
    seeds: Sequence[int],
    n_frames: Sequence[int] | None = None,
    prefix: Tensor | None = None,
) -> Iterator[Tensor]:
    """Grid columns one by one, as many as there are frames and K - 1 more, under the last frame.

    Each row draws from its own generator, so that a row's noise does not depend on its neighbours in the batch.

    Args:
        stepper: at its first column.
        frames: conditioning along time, in pieces `[B, n, D]` of any length.
        null_frame: `[D]`, the frame of "no room".
        sampling: settings; its `seed` is not used here.
        seeds: one for each row.
        n_frames: frames of each row; those beyond are followed by filler, as the row would be alone. All frames
            by default.
        prefix: `[B, K, P]` codes that are written already; the rest goes on from them.

    Yields:
        `[B, K]` int64.
    """
    pattern, size = stepper.pattern, stepper.codebook_size
    b, k, device = len(seeds), pattern.n_codebooks, null_frame.device
    null_frames = null_frame.expand(b, -1)
    ends = torch.tensor(n_frames or [2**62] * b, device=device)
    shortest = int(ends.min())
    codebook = torch.arange(k, device=device)
    noises = _noise(seeds, (k, size), device)
    given = () if prefix is None else pattern.apply(prefix).unbind(dim=2)
    cells, rests = Cells(stepper.packed, b), Rests(stepper.packed, b)
    column = torch.full((b, k), pattern.filler, dtype=torch.int64, device=device)
    for t, (frame, n_seen) in enumerate(_held(frames, k - 1)):
        logits = rests.end(stepper.step(column, frame, null_frames))
        tokens = cells.choose(draw(logits, sampling, next(noises), cells.n_draws))
        if t < len(given):
            tokens = torch.where(given[t] == pattern.filler, tokens, given[t])
        if t < k - 1 or t >= min(shortest, n_seen):
            cell = t - codebook
            valid = (cell >= 0) & (cell < ends.clamp_max(n_seen)[:, None])
            tokens = torch.where(valid, tokens, pattern.filler)
        column = tokens
        cells.write(column)
        rests.write(column)
        yield column


def _held(frames: Iterable[Tensor], n_more: int) -> Iterator[tuple[Tensor, int]]:
    """Frames `[B, D]` of pieces `[B, n, D]`, the last one `n_more` times again; and how many were seen so far."""
    frame, n_seen = None, 0
    for piece in frames:
        for frame in piece.unbind(dim=1):
            n_seen += 1
            yield frame, n_seen
    if frame is not None:
        yield from [(frame, n_seen)] * n_more


def _noise(seeds: Sequence[int], shape: tuple[int, ...], device: torch.device) -> Iterator[Tensor]:
    """Uniform noise `[B, *shape]` without end, from the CPU's generator on every device."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    while True:
        rows = [torch.rand(NOISE_BLOCK, *shape, generator=generator) for generator in generators]
        yield from torch.stack(rows, dim=1).to(device)


def undelayed(columns: Iterable[Tensor], pattern: DelayPattern) -> Iterator[Tensor]:
    """Codes `[B, K, 1]` of one frame after another, each as soon as the last of its tokens was written."""
    recent: deque[Tensor] = deque(maxlen=pattern.n_codebooks)
    for column in columns:
        recent.append(column)
        if len(recent) == pattern.n_codebooks:
            yield pattern.undo(torch.stack(list(recent), dim=-1))


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
    """Codes `[B, K, T]` under conditioning of T steps.

    Args:
        packed: the decoder.
        conditioning: `frames [B, T, D]`, valid up to each row's length.
        null: the same shapes, for "no room", the same frame throughout.
        sampling: settings; its `seed` is not used here.
        seeds: one for each row.
        progress: called with columns done and columns in all.
        prefix: `[B, K, P]` codes that are written already, P at most T; the rest goes on from them.
    """
    stepper = Stepper(packed, conditioning, null, sampling.guidance)
    n_columns = conditioning.frames.shape[1] + stepper.pattern.n_codebooks - 1
    n_frames = conditioning.frames_mask.sum(dim=1).tolist()
    columns = []
    for column in generate_columns(
        stepper, [conditioning.frames], null.frames[0, 0], sampling, seeds, n_frames, prefix
    ):
        columns.append(column)
        if progress is not None:
            progress(len(columns), n_columns)
    return stepper.pattern.undo(torch.stack(columns, dim=-1))
