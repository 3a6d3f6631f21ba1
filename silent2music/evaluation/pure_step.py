"""The decoding step as a pure function of tensors of fixed shapes, which compilers and other runtimes take over.

`PureStep` is the function, written once; `StepState` holds what goes in, in buffers that stay where they are, so
that a runtime may bind them; `RingStepper` runs any implementation of the function like a `stepping.Stepper`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from silent2music.conditioning import Conditioning, join
from silent2music.decoder import Block, Decoder, rotary_tables, rotate

Run = Callable[[], tuple[Tensor, Tensor]]
"""One step on the buffers of a `StepState`: what `PureStep.forward` returns. May overwrite its last answer."""

INPUTS = ("column", "frames", "cos", "sin", "mask", "ring")
OUTPUTS = ("logits", "written")


class PureStep(nn.Module):
    """One column from the one before it, the conditioning frame, the cache and the position's rotation.

    Rows are one piece, or the piece under its room and under none (guidance, merged before the output product).
    Weights are copies of the decoder's, in float32 until the module is cast.

    Args:
        decoder: any.
        guidance: g of `null + g * (conditioned - null)`; 1 for a single row.
    """

    tables: Tensor

    def __init__(self, decoder: Decoder, guidance: float) -> None:
        super().__init__()
        config = decoder.config
        self.guidance, self.n_codebooks = guidance, config.n_codebooks
        self.register_buffer("tables", decoder.embedding_tables().detach().clone())
        self.blocks = nn.ModuleList(copy.deepcopy(block) for block in decoder.blocks)
        self.norm = copy.deepcopy(decoder.norm)
        self.head = nn.Linear(config.dim, config.n_codebooks * config.codebook_size)
        with torch.no_grad():
            self.head.weight.copy_(decoder.output_tables().flatten(0, 1))
            self.head.bias.copy_(decoder.bias.flatten())
        self.requires_grad_(False).eval()

    def forward(
        self, column: Tensor, frames: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, ring: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            column: `[1, K]` int64, the previous grid column.
            frames: `[R, D]` conditioning of the column to be written, each row's own.
            cos, sin: `[1, head_dim / 4]` rotation of its position.
            mask: `[P]`, 0 for the places of the ring that are attended to and -inf for the others.
            ring: `[L, 2, R, H, P, head_dim]` keys and values of earlier columns and of the global tokens.

        Returns:
            Guided logits `[1, K, V]`, and this column's keys and values `[L, 2, R, H, head_dim]`.
        """
        offsets = torch.arange(self.n_codebooks, device=column.device) * self.tables.shape[1]
        x = functional.embedding(column + offsets, self.tables.flatten(0, 1)).sum(dim=1) + frames
        written = []
        for index, module in enumerate(self.blocks):
            block = cast(Block, module)
            q, k, v = block._heads(x[:, None])  # [R, H, 1, head_dim]
            q, k = rotate(q, cos, sin) * block.head_dim**-0.5, rotate(k, cos, sin)
            before = q @ ring[index, 0].transpose(-1, -2) + mask
            shares = torch.cat([before, (q * k).sum(dim=-1, keepdim=True)], dim=-1).softmax(dim=-1)
            attended = shares[..., :-1] @ ring[index, 1] + shares[..., -1:] * v
            x = block._after(x[:, None], attended)[:, 0]
            written.append(torch.stack([k[:, :, 0], v[:, :, 0]]))
        x = self.norm(x)
        if self.guidance != 1:
            with_room, without = x.chunk(2)
            x = without + self.guidance * (with_room - without)
        return self.head(x).unflatten(1, (self.n_codebooks, -1)), torch.stack(written)


class StepState:
    """The inputs of `PureStep`, in buffers that are allocated once and changed in place.

    Args:
        decoder: for its sizes and for the keys and values of the global tokens.
        conditioning, null: `tokens` `[1, G, D]` each; without `null` there is one row and no guidance.
        dtype: of what floats.
    """

    def __init__(
        self, decoder: Decoder, conditioning: Conditioning, null: Conditioning | None, dtype: torch.dtype
    ) -> None:
        config = decoder.config
        tokens = (conditioning if null is None else join(conditioning, null)).tokens
        n_rows, self.n_tokens, self.window = len(tokens), tokens.shape[1], config.attention_window
        n_places = self.n_tokens + self.window
        self.config = config
        self.column = torch.full((1, config.n_codebooks), config.codebook_size)
        self.frames = torch.zeros(n_rows, config.dim, dtype=dtype)
        self.cos = torch.zeros(1, config.head_dim // 4, dtype=dtype)
        self.sin = torch.zeros_like(self.cos)
        self.mask = torch.full((n_places,), float("-inf"), dtype=dtype)
        self.mask[: self.n_tokens] = 0
        shape = (config.n_layers, 2, n_rows, config.n_heads, n_places, config.head_dim)
        self.ring = torch.zeros(shape, dtype=dtype)
        for i, side in enumerate(decoder.prefix(tokens)):
            self.ring[:, i, ..., : self.n_tokens, :] = side

    def tensors(self) -> tuple[Tensor, ...]:
        """The buffers in the order of `INPUTS`."""
        return self.column, self.frames, self.cos, self.sin, self.mask, self.ring


class RingStepper:
    """Columns one by one by any implementation of `PureStep`.

    Args:
        state: its buffers, in which nothing was written yet.
        run: the implementation, on these buffers.
    """

    def __init__(self, state: StepState, run: Run) -> None:
        self.state, self.run, self.position = state, run, 0

    def step(self, column: Tensor, frame: Tensor, null_frame: Tensor) -> Tensor:
        """As `stepping.Stepper.step`, of one piece."""
        state = self.state
        place = state.n_tokens + self.position % state.window
        position = torch.tensor([self.position])
        cos, sin = rotary_tables(position, state.config.head_dim // 2, state.config.rope_base)
        state.column.copy_(column)
        state.frames[:1] = frame
        state.frames[1:] = null_frame
        state.cos.copy_(cos)
        state.sin.copy_(sin)
        # What the new column will overwrite has left the window.
        state.mask[place] = float("-inf")
        logits, written = self.run()
        state.ring[..., place, :] = written
        state.mask[place] = 0
        self.position += 1
        return logits.float()
