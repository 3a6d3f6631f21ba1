"""Codecs as differentiable functions, for the training loop.

In the backward pass the rebuilt phases of the bundled codec are constants: only magnitudes are learned.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from silent2music.bundled_codec import BundledCodec
from silent2music.codec import SeanetCodec
from silent2music.phase import estimate_phases, griffin_lim, inverse_stft, stft


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
