"""Codecs as differentiable functions, for the training loop.

In the backward pass the rebuilt phases of the bundled codec are constants: only magnitudes are learned.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from silent2music.bundled_codec import SILENCE_CODE, BundledCodec
from silent2music.codec import SeanetCodec
from silent2music.correction import SILENCE_NORM
from silent2music.phase import estimate_phases, griffin_lim, inverse_stft, stft

MEMORY = 100.0
"""Vectors that an entry of a codebook is as good as the mean of: with fewer it follows faster and wavers more."""


class BundledTrainer(nn.Module):
    """The decoder of the bundled codec, differentiable; tokens are constants."""

    def __init__(self, codec: BundledCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, codes: Tensor, gain: Tensor, to_sound: bool) -> Tensor:
        """Samples `[B, N]` or compressed magnitudes `[B, T, F]`.

        Args:
            codes: `[B, K, T]`, or of the first codebooks alone.
            gain: `[B, 1, 1]` factor on the amplitude of the coded sound.
            to_sound: go on to samples; otherwise stop at magnitudes, which takes little time.
        """
        codec, n_codebooks = self.codec, codes.shape[1]
        vectors = codec.vectors(codes) * gain.pow(codec.config.power)
        if to_sound:
            return self._rebuilt(codec.magnitudes(vectors, n_codebooks))
        return codec.compressed(vectors, n_codebooks)

    def _rebuilt(self, magnitudes: Tensor) -> Tensor:
        """Samples `[B, N]` of magnitudes `[B, L, n_fft / 2 + 1]`, their phases taken as given."""
        config = self.codec.config
        n_fft, hop = config.n_fft, config.hop
        with torch.no_grad():
            phases, _ = estimate_phases(magnitudes, n_fft, hop)
            rebuilt = griffin_lim(magnitudes, phases, n_fft, hop, config.griffin_lim_iterations)
            phases = torch.sgn(stft(rebuilt, n_fft, hop))
        return inverse_stft(magnitudes * phases, n_fft, hop)


class TokenTrainer(nn.Module):
    """The bundled codec from sound to magnitudes, differentiable by the encoder and the correction.

    Gradients pass the quantiser as if it were not there (van den Oord et al., 2017). In training the codebooks follow the
    vectors: each entry moves towards the mean of what the other codebooks leave to it.
    """

    def __init__(self, codec: BundledCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, features: Tensor, n_codebooks: int) -> tuple[Tensor, Tensor, Tensor]:
        """Decoded compressed magnitudes `[B, T, F]` and two errors of the vectors, relative to their lengths.

        Args:
            features: `[B, T, F]`, compressed magnitudes of the sound.

        Returns:
            The magnitudes; the mean squared error between the vectors before and after the quantiser; that between the
            vectors of the closed form and the quantised ones.
        """
        codec = self.codec
        plain = features @ codec.components.T
        moved = plain if codec.encoder is None else codec.encoder(plain)
        with torch.no_grad():
            codes = codec.quantise(moved).transpose(1, 2)
            quantised = codec.vectors(codes)
            heard = codec.vectors(codes[:, :n_codebooks])
            if self.training:
                follow(codec, codes.transpose(1, 2).flatten(0, 1), moved.flatten(0, 1))
        # Straight through: the value of what is quantised, the gradient of what is not.
        decoded = codec.compressed(moved + (heard - moved).detach(), n_codebooks)
        sounds = plain.norm(dim=-1).clamp(min=SILENCE_NORM)
        commitment = ((moved - quantised).norm(dim=-1) / sounds).square().mean()
        linear = (moved - plain + (quantised - moved).detach()).square().sum(-1) / sounds.square()
        return decoded, commitment, linear.mean()


@torch.no_grad()
def follow(codec: BundledCodec, codes: Tensor, vectors: Tensor) -> None:
    """Move the entries of the codebooks, and the scales, towards the vectors that were given their codes.

    An entry moves to the mean of its vectors, as if it were the mean of `MEMORY` earlier ones. The first codebook weighs
    vectors by their length, as in the fit; the others get what all but themselves leave, relative to the scale.

    Args:
        codec: whose codebooks and scales are moved in place.
        codes: `[n, K]`.
        vectors: `[n, P]`.
    """
    books, scales, first = codec.codebooks, codec.scales, codes[:, 0]
    weights = 1.0 / vectors.norm(dim=1).square().clamp(min=SILENCE_NORM**2)
    residual = vectors - books[0][first]
    scale = scales[first].clamp(min=1e-6)[:, None]
    chosen = [book[code] for book, code in zip(books, codes.unbind(1), strict=True)]
    left = residual / scale - torch.stack(chosen[1:]).sum(0) if len(chosen) > 1 else residual
    _towards(scales, first, residual.square().sum(1), square=True)
    _towards(books[0], first, vectors, weights)
    for book, code, entries in zip(books[1:], codes.unbind(1)[1:], chosen[1:], strict=True):
        # What follows silence is arbitrary.
        sounding = first != SILENCE_CODE
        _towards(book, code[sounding], (left + entries)[sounding])
    books[0, SILENCE_CODE] = 0.0
    scales[SILENCE_CODE] = 0.0


def _towards(
    table: Tensor, rows: Tensor, values: Tensor, weights: Tensor | None = None, square: bool = False
) -> None:
    """Move rows of a table to the weighted means of the values `[n, ...]` that fall into them, or to their roots."""
    weights = torch.ones(len(rows), device=rows.device) if weights is None else weights
    counts = torch.bincount(rows, minlength=len(table)).float()
    mass = torch.zeros_like(counts).index_add_(0, rows, weights)
    shape = (-1,) + (1,) * (values.ndim - 1)
    means = torch.zeros_like(table).index_add_(0, rows, values * weights.reshape(shape)) / mass.clamp(
        min=1e-12
    ).reshape(shape)
    rate = (counts / (counts + MEMORY)).reshape(shape)
    kept = table.square() if square else table
    moved = kept + rate * (means - kept)
    table.copy_(moved.sqrt() if square else moved)


class SeanetTrainer(nn.Module):
    """EnCodec's network and quantiser, from sound to sound."""

    def __init__(self, codec: SeanetCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, sound: Tensor, n_codebooks: int) -> tuple[Tensor, Tensor]:
        """Samples `[B, N]` to decoded samples `[B, N]` and the commitment loss, with the first codebooks alone."""
        codec = self.codec
        hidden = codec.encoder(sound[:, None])
        # The quantiser's moving averages need all their digits.
        with torch.autocast(sound.device.type, enabled=False):
            quantised, _, penalties = codec.quantizer(hidden.float(), n_q=n_codebooks)
        return codec.decoder(quantised)[:, 0, : sound.shape[1]], penalties.mean()
