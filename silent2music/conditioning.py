"""Everything that steers the decoder, in one container, and what "nothing given" looks like."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Conditioning:
    """Conditioning embeddings: along time and for the whole piece.

    Attributes:
        frames: `[B, S, D]`, one embedding for each codec frame.
        frames_mask: `[B, S]` bool, false where a row is padding.
        tokens: `[B, G, D]`, global embeddings that every frame may attend to.
        tokens_mask: `[B, G]` bool.
    """

    frames: Tensor
    frames_mask: Tensor
    tokens: Tensor
    tokens_mask: Tensor

    @property
    def batch_size(self) -> int:
        """B, the number of rows."""
        return int(self.frames.shape[0])


class NullConditioning(nn.Module):
    """The learned embedding of "no room given", for classifier-free guidance and for dropped rows.

    Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022.

    Args:
        dim: D.
        n_tokens: G.
    """

    def __init__(self, dim: int, n_tokens: int) -> None:
        super().__init__()
        self.frame = nn.Parameter(torch.zeros(dim))
        self.tokens = nn.Parameter(torch.zeros(n_tokens, dim))

    def forward(self, like: Conditioning) -> Conditioning:
        """Null conditioning of the same shapes and masks as `like`."""
        return Conditioning(
            frames=self.frame.expand_as(like.frames),
            frames_mask=like.frames_mask,
            tokens=self.tokens.expand_as(like.tokens),
            tokens_mask=like.tokens_mask,
        )


def drop(conditioning: Conditioning, null: Conditioning, keep: Tensor) -> Conditioning:
    """Rows of `conditioning` where `keep` `[B]` is true, of `null` elsewhere."""
    keep = keep[:, None, None]
    return Conditioning(
        frames=torch.where(keep, conditioning.frames, null.frames),
        frames_mask=conditioning.frames_mask,
        tokens=torch.where(keep, conditioning.tokens, null.tokens),
        tokens_mask=conditioning.tokens_mask,
    )


def join(first: Conditioning, second: Conditioning) -> Conditioning:
    """Both one after the other along the batch: `[B1 + B2, ...]`."""
    return Conditioning(
        frames=torch.cat([first.frames, second.frames]),
        frames_mask=torch.cat([first.frames_mask, second.frames_mask]),
        tokens=torch.cat([first.tokens, second.tokens]),
        tokens_mask=torch.cat([first.tokens_mask, second.tokens_mask]),
    )
