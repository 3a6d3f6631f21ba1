"""How tokens are drawn from logits, and the token loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from silent2music.conditioning import Conditioning, join
from silent2music.config import SamplingConfig
from silent2music.decoder import Decoder


def draw(logits: Tensor, sampling: SamplingConfig, noise: Tensor) -> Tensor:
    """Tokens from logits by the Gumbel-max trick, in the order temperature, top-k, top-p.

    Args:
        logits: `[..., V]`.
        sampling: temperature 0 takes the most likely token.
        noise: `[..., V]` uniform in [0, 1), one independent draw for each entry.

    Returns:
        `[...]` int64.
    """
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits.float() / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    if sampling.top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        before = ordered.softmax(dim=-1).cumsum(dim=-1) - ordered.softmax(dim=-1)
        outside = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= sampling.top_p)
        logits = logits.masked_fill(outside, float("-inf"))
    gumbel = -torch.log(-torch.log(noise.clamp(1e-20, 1 - 1e-7)))
    return (logits + gumbel).argmax(dim=-1)


def generate_columns(
    decoder: Decoder,
    conditioning: Conditioning,
    null: Conditioning,
    sampling: SamplingConfig,
    seeds: Sequence[int],
) -> Iterator[Tensor]:
    """Grid columns `[B, K]` one by one, `S + K - 1` of them.

    Guidance is `null + g * (conditioned - null)` on the logits, both computed as one batch of two (Ho and
    Salimans 2022). Each row draws from its own generator, so that a row's noise does not depend on its
    neighbours in the batch.
    """
    b, n_frames, _ = conditioning.frames.shape
    device = conditioning.frames.device
    guided = sampling.guidance != 1
    both = join(conditioning, null) if guided else conditioning
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    tables = (decoder.embedding_tables(), decoder.output_tables())
    cache = decoder.start(both.tokens)
    pattern = decoder.pattern
    # A row that ends before the others is followed by filler, as it would be alone.
    mask = conditioning.frames_mask[:, None].expand(-1, pattern.n_codebooks, -1)
    valid = pattern.apply(mask.to(torch.int64)) == 1
    size = decoder.config.codebook_size
    column = torch.full((b, pattern.n_codebooks), pattern.filler, dtype=torch.int64, device=device)
    for t in range(valid.shape[2]):
        frame = both.frames[:, min(t, n_frames - 1)]
        logits = decoder.step(column.repeat(2, 1) if guided else column, frame, cache, tables)
        if guided:
            with_room, without = logits.chunk(2)
            logits = without + sampling.guidance * (with_room - without)
        noise = torch.stack([torch.rand(pattern.n_codebooks, size, generator=g) for g in generators])
        tokens = draw(logits, sampling, noise.to(device))
        column = torch.where(valid[:, :, t], tokens, pattern.filler)
        yield column


@torch.inference_mode()
def generate_codes(
    decoder: Decoder,
    conditioning: Conditioning,
    null: Conditioning,
    sampling: SamplingConfig,
    seeds: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Codes `[B, K, T]` under conditioning of T steps.

    Args:
        decoder: in evaluation mode.
        conditioning: `frames [B, T, D]`.
        null: the same shapes, for "no room".
        sampling: settings; its `seed` is not used here.
        seeds: one for each row.
        progress: called with columns done and columns in all.
    """
    n_columns = conditioning.frames.shape[1] + decoder.pattern.n_codebooks - 1
    columns = []
    for column in generate_columns(decoder, conditioning, null, sampling, seeds):
        columns.append(column)
        if progress is not None:
            progress(len(columns), n_columns)
    return decoder.pattern.undo(torch.stack(columns, dim=-1))
