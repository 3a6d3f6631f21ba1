"""How a sketch of the music, a vector for each codec frame, steers the codes that are drawn.

It does so in two ways. Its vectors are added to the decoder's columns, so that the decoder knows what is to come. And the
logits of each codebook have a bias by how near each entry brings the frame to the sketch: with the delay pattern the
earlier codes of a frame are drawn before the later ones, so what they leave of the sketch is known. How strong this bias
is, is learned for each codebook, and is a dial when music is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from silent2music.config import DecoderConfig

AHEAD = 2
"""Frames after that which a column begins whose sketch the column is told."""

FLOOR = 0.1
"""What is added to a frame's energy, by which errors are measured, as a share of the mean of the first codebook's
entries: a sketch that is silent a frame too long must not forbid all sound."""

ATTACK_RISE, BEFORE_ATTACK, ATTACK_FLOOR = 1.2, 0.7, 1e-3
"""Where a frame of the sketch has so many times the energy of the one before, or of this floor, so much of the one before
is aimed at in drawing."""

COLUMN_GAIN = 0.3
FIRST_STRENGTH, LATER_STRENGTH = 4.0, 2.0
"""Where learning starts, in nats for an error as large as the frame."""


@dataclass(frozen=True)
class Guide:
    """A sketch as the decoder takes it.

    Attributes:
        vectors: `[B, S, P]`, the codec's own, zero where a row has no sketch.
        frames: `[B, S, D]`, what is added to the columns, zero where a row has no sketch.
        given: `[B]` bool, whether the row has a sketch.
    """

    vectors: Tensor
    frames: Tensor
    given: Tensor

    def slice(self, begin: int, end: int) -> Guide:
        """Frames `begin` to before `end`."""
        return Guide(self.vectors[:, begin:end], self.frames[:, begin:end], self.given)

    def expand(self, n_rows: int) -> Guide:
        """A single row repeated for `n_rows` rows, without copying."""
        shape = (n_rows, -1, -1)
        return Guide(self.vectors.expand(shape), self.frames.expand(shape), self.given.expand(n_rows))


def sharpened(guide: Guide, vectors: Tensor, begin: int) -> Guide:
    """A guide that is drawn by: notes begin in it as sharply as in music, where a sketch, a mean, blurs them over frames.

    Args:
        guide: of the sketch's frames from `begin` on.
        vectors: `[B, S, P]`, the sketch, best from a frame before those of the guide to one after them.
    """
    n = guide.vectors.shape[1]
    energy = vectors[:, max(0, begin - 1) : begin + n + 1].square().sum(dim=-1) + ATTACK_FLOOR
    missing = (int(begin == 0), int(begin + n == vectors.shape[1]))
    energy = functional.pad(energy[:, None], missing, "replicate")[:, 0]
    rises = energy[:, 1:] > ATTACK_RISE * energy[:, :-1]
    softer = rises[:, 1:] & ~rises[:, :-1]
    return replace(guide, vectors=guide.vectors * torch.where(softer, BEFORE_ATTACK, 1.0)[..., None])


class GuideInput(nn.Module):
    """Embeds a sketch for the columns, and biases logits towards it.

    The error of entry v of codebook k is `|r - s c_v|^2`, where r is what the frame's earlier codes leave of the sketch
    and s the scale of its first code, 1 for the first codebook itself. The bias is `-strength * error / norm`. The norm
    is the energy of the sketch, or for later codebooks the mean energy of their entries at this scale and that of r.

    Args:
        vectors: `[K, V, P]` of the codec.
        scales: `[V]`, by the first code; ones for a codec without.
    """

    books: Tensor
    scales: Tensor
    energies: Tensor
    mean_energies: Tensor

    def __init__(self, config: DecoderConfig, vectors: Tensor, scales: Tensor | None = None) -> None:
        super().__init__()
        n_codebooks, size, width = vectors.shape
        self.behind = n_codebooks - 1
        books = vectors.float()
        scales = torch.ones(size, device=books.device) if scales is None else scales.float()
        self.register_buffer("books", books, persistent=False)
        self.register_buffer("scales", scales, persistent=False)
        self.register_buffer("energies", books.square().sum(dim=-1), persistent=False)
        means = self.energies.mean(dim=1).clamp_min(1e-8)
        self.register_buffer("mean_energies", means, persistent=False)
        self.columns = nn.Conv1d(width, config.dim, self.behind + 1 + AHEAD, bias=False)
        nn.init.zeros_(self.columns.weight)
        self.log_gain = nn.Parameter(torch.tensor(COLUMN_GAIN).log())
        strengths = torch.full((n_codebooks,), LATER_STRENGTH)
        strengths[0] = FIRST_STRENGTH
        self.log_strength = nn.Parameter(strengths.log())
        self.slope = nn.Parameter(torch.zeros(n_codebooks))

    def forward(self, vectors: Tensor, embed: Tensor, rms: Tensor, begin: int, end: int) -> Tensor:
        """What is added to the columns of frames `begin` to before `end`, `[B, end - begin, D]`.

        Args:
            vectors: `[B, S, P]`; beyond both ends there is nothing.
            embed: `[P, D]`, the matrix by which the first codebook's vectors are embedded.
            rms: of those vectors, by which they were divided.
            begin, end: of S.
        """
        missing = (max(0, self.behind - begin), max(0, end + AHEAD - vectors.shape[1]))
        known = vectors[:, max(0, begin - self.behind) : end + AHEAD]
        known = functional.pad(known, (0, 0, *missing)) / rms
        own = self.log_gain.exp() * (known[:, self.behind : self.behind + end - begin] @ embed)
        seen: Tensor = self.columns(known.transpose(1, 2)).transpose(1, 2)
        return own + seen

    def weights(self, residuals: Tensor, scales: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
        """The bias of entry v is `a * (r @ c_v) - b * |c_v|^2`: both factors, `[B, K, T]`.

        Args:
            residuals: r, `[B, K, T, P]`, what the earlier codes leave of the sketch.
            scales: s, `[B, K, T]`.
            levels: energy of the sketch of each frame, `[B, K, T]`.
        """
        means = self.mean_energies[:, None]
        floored = levels / means[0] + FLOOR
        own = scales.square() * means + residuals.square().sum(dim=-1)
        norms = torch.cat([(floored * means[0])[:, :1], own[:, 1:] + 1e-6 * means[0]], dim=1)
        strengths = (self.log_strength[:, None] + self.slope[:, None] * floored.log()).exp()
        b = strengths * scales / norms
        return 2 * b, b * scales

    def bias(self, codes: Tensor, guide: Guide) -> Tensor:
        """The bias of teacher-forced logits, `[B, K, T, V]`; filler codes leave nothing to the later codebooks.

        Args:
            codes: `[B, K, T]`, those of the music.
            guide: of T frames.
        """
        residuals, scales, levels = self._left(codes, guide.vectors.float())
        a, b = self.weights(residuals, scales, levels)
        a, b = (x * guide.given[:, None, None] for x in (a, b))
        return a[..., None] * (residuals @ self.books.transpose(1, 2)) - b[..., None] * self.energies[:, None]

    def _left(self, codes: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Residuals `[B, K, T, P]`, scales and levels `[B, K, T]` before each code."""
        books, scales = self.tables()
        scale = scales[codes[:, 0]]
        left, found = vectors, []
        for k in range(codes.shape[1]):
            found.append(left)
            part = functional.embedding(codes[:, k], books[k])
            left = left - (part if k == 0 else scale[..., None] * part)
        n_later = codes.shape[1] - 1
        ones = torch.ones_like(scale)[:, None]
        all_scales = torch.cat([ones, scale[:, None].expand(-1, n_later, -1)], dim=1)
        levels = vectors.square().sum(dim=-1)[:, None].expand_as(all_scales)
        return torch.stack(found, dim=1), all_scales, levels

    def tables(self) -> tuple[Tensor, Tensor]:
        """Vectors `[K, V + 1, P]` and scales `[V + 1]`, zero for filler."""
        return functional.pad(self.books, (0, 0, 0, 1)), functional.pad(self.scales, (0, 1))
