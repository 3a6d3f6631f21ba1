"""Codecs as differentiable functions, for the training loop.

The phases of the bundled codec's sound are taken as given in the backward pass: what is learned is magnitudes.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from silent2music._torchaudio import ensure_torchaudio
from silent2music.bundled_codec import SILENCE_CODE, BundledCodec
from silent2music.codec import SeanetCodec
from silent2music.config import CodecTrainingConfig
from silent2music.errors import ConfigError
from silent2music.phase import estimate_phases, griffin_lim, inverse_stft, stft


class BundledTrainer(nn.Module):
    """The bundled codec as a differentiable function, its quantiser following by moving averages.

    Args:
        codec: to train; with `freeze_tokens` only its decoder's correction, or if its tokens are relative to what
            that gives, only what refines their gains.
    """

    def __init__(self, codec: BundledCodec, config: CodecTrainingConfig) -> None:
        super().__init__()
        self.codec, self.config = codec, config
        self.books = nn.ModuleList() if config.freeze_tokens else _ema_books(codec)
        if codec.encoder is not None:
            codec.encoder.requires_grad_(not config.freeze_tokens)
        if codec.config.gain_bands:
            if not config.freeze_tokens:
                raise ConfigError("A codec of gains keeps its tokens; set codec_training.freeze_tokens=true.")
            if codec.decoder is not None:
                codec.decoder.requires_grad_(False)
        if not any(p.requires_grad for p in codec.parameters()):
            raise ConfigError(
                "There is nothing to train; set codec.decoder_layers (of a codec of gains: codec.refiner_layers) "
                "to 2, or freeze_tokens to false."
            )

    def forward(self, sound: Tensor, n_books: int) -> tuple[Tensor, Tensor]:
        """Samples `[B, N]` to decoded samples `[B, N]` and the commitment loss, with the first books alone.

        In full precision: tokens must come out as they do at encoding, and the learned part is small.
        """
        with torch.autocast(sound.device.type, enabled=False):
            return self._forward(sound, n_books)

    def _forward(self, sound: Tensor, n_books: int) -> tuple[Tensor, Tensor]:
        codec = self.codec
        if self.books:
            quantised, commitment = self._quantise(codec.project(sound), n_books)
        else:
            codes = codec.encode(sound[:, None], n_books)
            quantised, commitment = codec.vectors(codes), sound.new_zeros(())
        return self._rebuilt(codec.magnitudes(quantised, n_books)), commitment

    def _rebuilt(self, magnitudes: Tensor) -> Tensor:
        """Samples `[B, N]` of magnitudes `[B, L, n_fft / 2 + 1]`, their phases taken as given."""
        config = self.codec.config
        n_fft, hop = config.n_fft, config.hop
        with torch.no_grad():
            phases, _ = estimate_phases(magnitudes, n_fft, hop)
            rebuilt = griffin_lim(magnitudes, phases, n_fft, hop, config.griffin_lim_iterations)
            phases = torch.sgn(stft(rebuilt, n_fft, hop))
        return inverse_stft(magnitudes * phases, n_fft, hop)

    def _quantise(self, vectors: Tensor, n_books: int) -> tuple[Tensor, Tensor]:
        """Quantised vectors `[B, T, P]`, straight through, and how far the encoder is from them.

        Frames of silence keep out of the moving averages, whose entry is exact.
        """
        flat = vectors.flatten(0, 1)
        heard = flat.detach().norm(dim=1) > 1e-3
        if not heard.any():
            return vectors, vectors.new_zeros(())
        known = flat[heard].detach()
        first, codes = self.books[0](known)
        scale = self.codec.scales[codes][:, None].clamp(min=1e-4)
        residual = (known - first) / scale
        total = first
        for book in list(self.books)[1:n_books]:
            part, _ = book(residual)
            residual = residual - part
            total = total + scale * part
        commitment = (
            ((flat[heard] - total) / flat[heard].detach().norm(dim=1, keepdim=True)).square().sum(1).mean()
        )
        quantised = torch.zeros_like(flat)
        quantised[heard] = total
        return vectors + (quantised.reshape(vectors.shape) - vectors).detach(), commitment

    @torch.no_grad()
    def settle(self) -> None:
        """Bring what the moving averages have found into the codec's own tensors."""
        for k, book in enumerate(self.books):
            self.codec.codebooks[k].copy_(cast(Any, book).embed)
        self.codec.codebooks[0, SILENCE_CODE] = 0.0


class MagnitudeTrainer(BundledTrainer):
    """The bundled codec's decoder from codes to magnitudes."""

    def forward(self, codes: Tensor, gain: Tensor) -> Tensor:  # type: ignore[override]
        """Compressed magnitudes `[B, T, F]` of codes `[B, K, T]`, their vectors brought to a gain `[B, 1, 1]`."""
        return self.codec.compressed(_scaled(self.codec, codes, gain), codes.shape[1])


class CodedSoundTrainer(BundledTrainer):
    """The bundled codec's decoder from codes to sound."""

    def forward(self, codes: Tensor, gain: Tensor) -> Tensor:  # type: ignore[override]
        """Samples `[B, N]` of codes `[B, K, T]`, their vectors brought to a gain `[B, 1, 1]`."""
        return self._rebuilt(self.codec.magnitudes(_scaled(self.codec, codes, gain), codes.shape[1]))


def _scaled(codec: BundledCodec, codes: Tensor, gain: Tensor) -> Tensor:
    """What codes `[B, K, T]` stand for, as of a sound with a gain `[B, 1, 1]` on its compressed magnitudes."""
    vectors, gains = codec.vectors(codes).tensor_split([codec.config.n_components], dim=-1)
    return torch.cat([vectors * gain, gains], dim=-1)


def _ema_books(codec: BundledCodec) -> nn.ModuleList:
    """`encodec`'s codebooks with moving averages, started from the codec's."""
    ensure_torchaudio()
    from encodec.quantization.core_vq import EuclideanCodebook

    books = nn.ModuleList()
    for vectors in codec.codebooks:
        # A dead code would be moved to the encoder's output of one batch; the fit has left none.
        book = EuclideanCodebook(vectors.shape[1], len(vectors), decay=0.995, threshold_ema_dead_code=0)
        book.embed.copy_(vectors)
        book.cluster_size.fill_(1.0)
        book.embed_avg.copy_(vectors)
        books.append(book)
    return books


class SeanetTrainer(nn.Module):
    """`encodec`'s network and quantiser as a differentiable function."""

    def __init__(self, codec: SeanetCodec, config: CodecTrainingConfig) -> None:
        super().__init__()
        self.codec = codec
        if config.freeze_tokens:
            codec.encoder.requires_grad_(False)
            codec.quantizer.eval()
        self.frozen = config.freeze_tokens

    def forward(self, sound: Tensor, n_books: int) -> tuple[Tensor, Tensor]:
        """Samples `[B, N]` to decoded samples `[B, N]` and the commitment loss, with the first books alone."""
        codec = self.codec
        if self.frozen:
            codec.quantizer.eval()
        hidden = codec.encoder(sound[:, None])
        with torch.autocast(sound.device.type, enabled=False):  # moving averages need all their digits
            quantised, _, penalties = codec.quantizer(hidden.float(), n_q=n_books)
        return codec.decoder(quantised)[:, 0, : sound.shape[1]], penalties.mean()

    def settle(self) -> None:
        """Nothing to do: the codec's own tensors are the ones trained."""
