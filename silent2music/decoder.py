"""The autoregressive decoder: codec tokens, one delayed column after another, under conditioning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from silent2music.config import ComposerConfig, DecoderConfig
from silent2music.errors import ConfigError
from silent2music.guide import Guide, GuideInput

CELL_QUANTILE = 0.9
"""Quantile, over the frames of encoded music, at which the limits of `sampling.Cells` lie."""

REST_SHARES = (0.01, 0.03, 0.1, 0.3)
"""Shares of the frames of encoded music that count as quiet; `sampling.Rests` has a limit for each of them."""

REST_QUANTILE = 0.97
"""Quantile, over the quiet stretches of encoded music, at which those limits lie."""


@dataclass(frozen=True)
class Conditioning:
    """Embedded signals, as the decoder takes them.

    Attributes:
        frames: `[B, S, D]`, added to the column of each codec frame.
        mask: `[B, S]` bool, false where a row is padding.
        tokens: `[B, G, D]`, global tokens that every column may attend to.
        guide: the sketch of the music, if there is one.
    """

    frames: Tensor
    mask: Tensor
    tokens: Tensor
    guide: Guide | None = None

    def slice(self, begin: int, end: int) -> Conditioning:
        """The conditioning of frames `begin` to before `end`."""
        guide = None if self.guide is None else self.guide.slice(begin, end)
        return Conditioning(self.frames[:, begin:end], self.mask[:, begin:end], self.tokens, guide)

    def expand(self, n_rows: int) -> Conditioning:
        """A single row repeated for `n_rows` rows, without copying."""
        frames, tokens = self.frames.expand(n_rows, -1, -1), self.tokens.expand(n_rows, -1, -1)
        guide = None if self.guide is None else self.guide.expand(n_rows)
        return Conditioning(frames, self.mask.expand(n_rows, -1), tokens, guide)


class DelayPattern:
    """The delay pattern of MusicGen: codebook k is delayed by k columns, so each column has one token of every codebook.

    ```
    codes  k=0  a0 a1 a2          grid  k=0  a0 a1 a2 --
           k=1  b0 b1 b2                k=1  -- b0 b1 b2      (-- is the filler token)
    ```
    Copet et al., "Simple and Controllable Music Generation", 2023. No token is lost at either end.

    Args:
        n_codebooks: K.
        filler: the token in empty cells.
    """

    def __init__(self, n_codebooks: int, filler: int) -> None:
        self.n_codebooks = n_codebooks
        self.filler = filler

    def apply(self, codes: Tensor) -> Tensor:
        """Codes `[B, K, T]` to grid `[B, K, T + K - 1]`."""
        b, k, t = codes.shape
        grid = codes.new_full((b, k, t + k - 1), self.filler)
        for i in range(k):
            grid[:, i, i : i + t] = codes[:, i]
        return grid

    def undo(self, grid: Tensor) -> Tensor:
        """Grid `[B, K, T + K - 1]` back to codes `[B, K, T]`."""
        k = self.n_codebooks
        t = grid.shape[2] - k + 1
        return torch.stack([grid[:, i, i : i + t] for i in range(k)], dim=1)


def rotary_tables(positions: Tensor, n_dims: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine `[T, n_dims / 2]` of rotary position embedding (Su et al., "RoFormer", 2021).

    Angles are counted in 64 bits: in 32, an hour's positions would be off by a hundredth of a turn's pair.
    """
    frequency = base ** (-torch.arange(0, n_dims, 2, dtype=torch.float64) / n_dims)
    angle = positions.to("cpu", torch.float64)[:, None] * frequency
    return angle.cos().float().to(positions.device), angle.sin().float().to(positions.device)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first `2 * cos.shape[-1]` dimensions of `[B, H, T, head_dim]`; the others carry content only."""
    half = cos.shape[-1]
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], dim=-1)


BlockSizes = DecoderConfig | ComposerConfig
"""The settings of a transformer of blocks."""


class Block(nn.Module):
    """Pre-norm attention and gated MLP."""

    def __init__(self, config: BlockSizes) -> None:
        super().__init__()
        self.n_heads, self.head_dim = config.n_heads, config.head_dim
        self.n_rotary = config.head_dim // 2
        hidden = config.hidden_dim
        self.attention_norm = nn.RMSNorm(config.dim, eps=1e-6)
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.out = nn.Linear(config.dim, config.dim, bias=False)
        self.mlp_norm = nn.RMSNorm(config.dim, eps=1e-6)
        self.gate_up = nn.Linear(config.dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, config.dim, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, mask: Tensor, n_tokens: int, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """From `x` `[B, G + T, D]` to the same shape, with keys and values `[B, H, G + T, head_dim]` for the cache.

        Global tokens have no position: the rotary dimensions of their keys are zero, so that attention to them cannot
        depend on the position in the piece.
        """
        shape = (self.n_heads, self.head_dim)
        qkv = self.qkv(self.attention_norm(x)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, shape).transpose(1, 2) for part in qkv)
        q = torch.cat([q[:, :, :n_tokens], rotate(q[:, :, n_tokens:], cos, sin)], dim=2)
        of_tokens = functional.pad(k[:, :, :n_tokens, self.n_rotary :], (self.n_rotary, 0))
        k = torch.cat([of_tokens, rotate(k[:, :, n_tokens:], cos, sin)], dim=2)
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.dropout(self.out(attended.transpose(1, 2).flatten(2)))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.dropout(self.down(functional.silu(gate) * up)), k, v


def make_blocks(config: BlockSizes) -> nn.ModuleList:
    """The blocks of a transformer with fresh weights.

    Raises:
        ConfigError: if the width does not split into heads.
    """
    if config.dim % config.n_heads or config.head_dim % 4:
        raise ConfigError(
            f"decoder.dim={config.dim} does not split into n_heads={config.n_heads} heads of a width divisible by 4."
        )
    blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
    for block in blocks:
        assert isinstance(block, Block)
        for weight in (block.qkv.weight, block.gate_up.weight):
            nn.init.normal_(weight, std=config.dim**-0.5)
        for weight in (block.out.weight, block.down.weight):
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5 / (2 * config.n_layers) ** 0.5)
    return blocks


def run_blocks(blocks: Iterable[nn.Module], x: Tensor, n_tokens: int, config: BlockSizes) -> Tensor:
    """From `x` `[B, G + T, D]`, global tokens first, to the same shape.

    Tokens see tokens; columns see tokens and the latest `attention_window` columns.
    """
    n_columns = x.shape[1] - n_tokens
    column = torch.arange(n_columns, device=x.device)
    distance = column[:, None] - column[None, :]
    mask = torch.zeros(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device)
    mask[:, :n_tokens] = True
    mask[n_tokens:, n_tokens:] = (distance >= 0) & (distance < config.attention_window)
    cos, sin = rotary_tables(column, config.head_dim // 2, config.rope_base)
    for block in blocks:
        x, _, _ = block(x, mask, n_tokens, cos, sin)
    return x


def prefix(blocks: Iterable[nn.Module], tokens: Tensor, config: BlockSizes) -> tuple[Tensor, Tensor]:
    """Keys and values `[L, B, H, G, head_dim]` of global tokens `[B, G, D]`, which attend to one another alone."""
    n_tokens = tokens.shape[1]
    mask = torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=tokens.device)
    nowhere = torch.arange(0, device=tokens.device)
    cos, sin = rotary_tables(nowhere, config.head_dim // 2, config.rope_base)
    x, written = tokens, []
    for block in blocks:
        x, keys, values = block(x, mask, n_tokens, cos, sin)
        written.append((keys, values))
    return torch.stack([keys for keys, _ in written]), torch.stack([values for _, values in written])


class Decoder(nn.Module):
    """Decoder-only transformer over the delayed grid.

    Sliding-window attention with rotary positions, global conditioning as a prefix, time-aligned conditioning
    added to each column. Token embeddings and output logits are built on the codebooks' own vectors: in, a
    learned matrix times the vector plus a table that starts at zero; out, the product of a projection with the
    vectors plus a head that starts at zero. So the model need not learn which codes are alike.

    Args:
        config: sizes.
        codebook_vectors: `[K, V, codebook_dim]` of the codec.
        scales: `[V]` of the codec's first codes, by which the later codebooks' vectors are multiplied; ones without.

    Attributes:
        guide: steers by a sketch; None if the config takes none.

    Raises:
        ConfigError: if the vectors do not have that shape, or the width does not split into heads.
    """

    vectors: Tensor
    vector_rms: Tensor
    cell_radii: Tensor
    rest_loudness: Tensor
    rest_limits: Tensor

    def __init__(self, config: DecoderConfig, codebook_vectors: Tensor, scales: Tensor | None = None) -> None:
        super().__init__()
        expected = (config.n_codebooks, config.codebook_size, config.codebook_dim)
        if tuple(codebook_vectors.shape) != expected:
            raise ConfigError(
                f"The codec has codebooks of shape {tuple(codebook_vectors.shape)}; the decoder's settings "
                f"expect {expected}: set decoder.n_codebooks, codebook_size and codebook_dim to the codec's."
            )
        self.config = config
        self.pattern = DelayPattern(config.n_codebooks, filler=config.codebook_size)
        rms = codebook_vectors.square().mean(dim=(1, 2), keepdim=True).sqrt().clamp_min(1e-8).float()
        self.register_buffer("vectors", (codebook_vectors / rms).float())
        self.register_buffer("vector_rms", rms, persistent=False)
        self.register_buffer("cell_radii", torch.full((config.n_codebooks,), float("inf")))
        self.register_buffer("rest_loudness", torch.zeros(len(REST_SHARES)))
        self.register_buffer("rest_limits", torch.full((len(REST_SHARES),), float("inf")))
        n_codebooks, size, inner = expected
        self.embed_in = nn.Parameter(
            torch.randn(n_codebooks, inner, config.dim) * (inner * n_codebooks) ** -0.5
        )
        self.embed_table = nn.Parameter(torch.zeros(n_codebooks, size + 1, config.dim))
        self.project_out = nn.Parameter(
            torch.randn(n_codebooks, config.dim, inner) * (inner * config.dim) ** -0.5
        )
        self.head = nn.Parameter(torch.zeros(n_codebooks, size, config.dim))
        self.bias = nn.Parameter(torch.zeros(n_codebooks, size))
        self.blocks = make_blocks(config)
        self.norm = nn.RMSNorm(config.dim, eps=1e-6)
        self.dropout = nn.Dropout(config.dropout)
        self.guide = GuideInput(config, codebook_vectors, scales) if config.takes_sketch else None

    def guided(self, vectors: Tensor, given: Tensor, begin: int = 0, end: int | None = None) -> Guide:
        """A sketch as conditioning of frames `begin` to before `end`.

        Args:
            vectors: `[B, S, P]`, best from `guide.behind` frames before to `AHEAD` frames after.
            given: `[B]` bool, whether a row has a sketch.
            begin, end: of S; all of it by default.

        Raises:
            ConfigError: if the decoder takes no sketch.
        """
        if self.guide is None:
            raise ConfigError(
                "The decoder takes no sketch; expected one that was trained with decoder.takes_sketch."
            )
        end = vectors.shape[1] if end is None else end
        vectors = vectors * given[:, None, None]
        frames = self.guide(vectors, self.embed_in[0], self.vector_rms[0, 0, 0], begin, end)
        return Guide(vectors[:, begin:end], frames, given)

    def refinements(self) -> Tensor:
        """The codec vector that each code after the first adds to its frame, `[K, V + 1, codebook_dim]`.

        Zero for the first codebook and for filler.
        """
        table = functional.pad(self.vectors * self.vector_rms, (0, 0, 0, 1))
        table[0] = 0.0
        return table

    def set_cell_radii(self, codes: Tensor) -> None:
        """Set the limits of `sampling.Cells`: how far the later codes of encoded frames move a frame from its first code.

        Args:
            codes: `[K, n]` of encoded music, a few thousand frames.
        """
        codebook = torch.arange(1, len(codes), device=codes.device)[:, None]
        reach = self.refinements()[codebook, codes[1:]].cumsum(dim=0).norm(dim=-1)
        # A sort rather than a quantile, which torch refuses for many values.
        rank = min(reach.shape[1] - 1, int(CELL_QUANTILE * reach.shape[1]))
        self.cell_radii[1:] = reach.sort(dim=1).values[:, rank]

    def first_loudness(self) -> Tensor:
        """Norm of each vector of the first codebook, `[V]`, which tells how loud a frame is that begins with it."""
        loudness: Tensor = (self.vectors[0] * self.vector_rms[0]).norm(dim=-1)
        return loudness

    def set_rests(self, pieces: Sequence[Tensor]) -> None:
        """Set the limits of `sampling.Rests`: how long encoded music stays quiet.

        Args:
            pieces: codes `[K, T]` of encoded music.
        """
        entries = self.first_loudness()
        loudness = [entries[codes[0]] for codes in pieces]
        ranked = torch.cat(loudness).sort().values
        for i, share in enumerate(REST_SHARES):
            threshold = ranked[int(share * (len(ranked) - 1))]
            # Halfway to the next louder entry, so that no rounding makes one quiet or loud.
            louder = entries[entries > threshold]
            if len(louder):
                threshold = (threshold + louder.min()) / 2
            runs = torch.cat([_run_lengths(piece <= threshold) for piece in loudness]).sort().values
            self.rest_loudness[i] = threshold
            self.rest_limits[i] = runs[int(REST_QUANTILE * (len(runs) - 1))].float()

    def embedding_tables(self) -> Tensor:
        """Token embeddings `[K, V + 1, D]`; the last row is the filler's."""
        return self.embed_table + functional.pad(torch.bmm(self.vectors, self.embed_in), (0, 0, 0, 1))

    def output_tables(self) -> Tensor:
        """Output embeddings `[K, V, D]`: their product with a hidden state is the logits before the bias."""
        return self.head + torch.bmm(self.vectors, self.project_out.transpose(1, 2))

    def _embed(self, columns: Tensor, tables: Tensor) -> Tensor:
        """Columns `[B, K, T]` to `[B, T, D]`."""
        offset = torch.arange(columns.shape[1], device=columns.device)[:, None] * tables.shape[1]
        return functional.embedding(columns + offset, tables.flatten(0, 1)).sum(dim=1)

    def _logits(self, x: Tensor, tables: Tensor) -> Tensor:
        """Hidden `[B, T, D]` to `[B, K, T, V]`."""
        logits: Tensor = self.norm(x) @ tables.flatten(0, 1).T
        k, v, _ = tables.shape
        grouped = logits.reshape(*logits.shape[:-1], k, v)
        return grouped.transpose(1, 2) + self.bias[:, None]

    def forward(self, grid: Tensor, conditioning: Conditioning) -> Tensor:
        """Logits of every column from the columns before it.

        Args:
            grid: `[B, K, T']` int64, delayed codes (`DelayPattern.apply`).
            conditioning: `frames [B, S, D]` with S at most T'; the last one is held for the columns after it.

        Returns:
            `[B, K, T', V]`; column t depends on grid columns before t and conditioning frames up to t.
        """
        b, k, n_columns = grid.shape
        shifted = torch.cat([grid.new_full((b, k, 1), self.pattern.filler), grid[:, :, :-1]], dim=2)
        guide = conditioning.guide
        frames = conditioning.frames if guide is None else conditioning.frames + guide.frames
        frames = hold_last(frames, n_columns)
        x = self._embed(shifted, self.embedding_tables()) + frames
        n_tokens = conditioning.tokens.shape[1]
        x = self.dropout(torch.cat([conditioning.tokens.to(x.dtype), x], dim=1))
        x = run_blocks(self.blocks, x, n_tokens, self.config)
        logits = self._logits(x[:, n_tokens:], self.output_tables())
        return logits if guide is None else self._biased(logits, grid, guide)

    def _biased(self, logits: Tensor, grid: Tensor, guide: Guide) -> Tensor:
        """Logits `[B, K, T', V]` with the bias towards a sketch, of each codebook in the columns of its own frames."""
        assert self.guide is not None
        codes, n_frames = self.pattern.undo(grid), guide.vectors.shape[1]
        bias = self.guide.bias(codes[..., :n_frames], guide)
        n_columns = grid.shape[2]
        placed = [
            functional.pad(bias[:, k], (0, 0, k, n_columns - n_frames - k)) for k in range(len(self.bias))
        ]
        return logits + torch.stack(placed, dim=1)


def _run_lengths(marked: Tensor) -> Tensor:
    """Lengths of the runs of marked places of `[n]`."""
    edges = functional.pad(marked.int(), (1, 1)).diff()
    return (edges < 0).nonzero()[:, 0] - (edges > 0).nonzero()[:, 0]


def hold_last(frames: Tensor, n_columns: int) -> Tensor:
    """Frames `[B, S, D]` cut to `[B, n_columns, D]`, or continued to it by repeating the last."""
    n_steps = frames.shape[1]
    if n_steps >= n_columns:
        return frames[:, :n_columns]
    return torch.cat([frames, frames[:, -1:].expand(-1, n_columns - n_steps, -1)], dim=1)
