"""How far a decoded sound is from the original, as losses to train on and as figures to report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

MEL_SCALES = ((512, 32), (1024, 64), (2048, 80), (4096, 128))
"""Window in samples and number of mel bands of each scale; the hop is a quarter of the window."""

MEL_FLOOR = 1e-4
"""Of a magnitude in which a sine of amplitude 1 is about 1: -80 dBFS."""


@lru_cache(maxsize=16)
def mel_filters(n_fft: int, n_mels: int, sample_rate: int) -> Tensor:
    """Triangles of height 1 on the mel scale `2595 log10(1 + f / 700)`, `[n_mels, n_fft / 2 + 1]`."""
    frequency = torch.linspace(0.0, sample_rate / 2, n_fft // 2 + 1)
    highest = 2595.0 * math.log10(1.0 + sample_rate / 1400.0)
    edges = 700.0 * (10.0 ** (torch.linspace(0.0, highest, n_mels + 2) / 2595.0) - 1.0)
    up = (frequency - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - frequency) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(up, down).clamp(min=0.0)


def spectrum(audio: Tensor, n_fft: int) -> Tensor:
    """Magnitudes `[B, n_fft / 2 + 1, L]` of samples `[B, N]`, a sine of amplitude 1 having 1 at its bin."""
    window: Tensor = torch.hann_window(n_fft, device=audio.device)
    result = torch.stft(audio, n_fft, n_fft // 4, window=window, pad_mode="constant", return_complex=True)
    # The root of the sum of squares has a gradient at zero, which the absolute value has not.
    power = torch.view_as_real(result).square().sum(-1)
    return (power + 1e-14).sqrt() * (4.0 / n_fft)


def log_mel_distance(reference: Tensor, estimate: Tensor, sample_rate: int) -> Tensor:
    """Mean absolute difference of natural log-mel magnitudes over `MEL_SCALES`, floored at `MEL_FLOOR`.

    Args:
        reference, estimate: samples `[B, N]`.
        sample_rate: in Hz.

    Returns:
        `[B]`; 0 for the same sound.

    Example:
        >>> sound = torch.sin(torch.arange(8000) * 0.1)[None]
        >>> round(float(log_mel_distance(sound, sound, 24000)), 6)
        0.0
    """
    total = torch.zeros(len(reference), device=reference.device)
    for n_fft, n_mels in MEL_SCALES:
        filters = mel_filters(n_fft, n_mels, sample_rate).to(reference.device)
        levels = [(filters @ spectrum(x, n_fft)).clamp(min=MEL_FLOOR).log() for x in (reference, estimate)]
        total = total + (levels[0] - levels[1]).abs().mean((1, 2))
    return total / len(MEL_SCALES)


def stft_distance(reference: Tensor, estimate: Tensor) -> Tensor:
    """Mean absolute difference of magnitudes to the power 0.4 at three windows, `[B]` of samples `[B, N]`."""
    differences = [
        (spectrum(reference, n).pow(0.4) - spectrum(estimate, n).pow(0.4)).abs().mean((1, 2))
        for n in (512, 1024, 2048)
    ]
    return torch.stack(differences).mean(0)


def discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Hinge loss of the logits of each scale (Défossez et al., 2022, equation 6)."""
    terms = [
        functional.relu(1 - r).mean() + functional.relu(1 + f).mean() for r, f in zip(real, fake, strict=True)
    ]
    return torch.stack(terms).mean()


def generator_loss(fake: Sequence[Tensor]) -> Tensor:
    """What the discriminator finds wrong (Défossez et al., 2022, section 3.4)."""
    return torch.stack([functional.relu(1 - f).mean() for f in fake]).mean()


def feature_loss(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """Relative distance of the discriminator's inner features (Défossez et al., 2022, equation 5)."""
    terms = [
        (r - f).abs().mean() / r.abs().mean().clamp(min=1e-6)
        for real_maps, fake_maps in zip(real, fake, strict=True)
        for r, f in zip(real_maps, fake_maps, strict=True)
    ]
    return torch.stack(terms).mean()


class Balancer:
    """Makes each loss's share of the gradient its weight, whatever the loss's own scale.

    Défossez et al. (2022), equation 7: each gradient with respect to the sound is divided by the running mean
    of its norm.

    Args:
        weights: share of each loss, by name.
        decay: of the running means.
    """

    def __init__(self, weights: Mapping[str, float], decay: float = 0.99) -> None:
        self.weights, self.decay = dict(weights), decay
        self.norms = torch.zeros(len(self.weights))
        self.mass = torch.zeros(())

    def gradient(self, losses: Mapping[str, Tensor], sound: Tensor) -> Tensor:
        """The balanced gradient, of the shape of `sound`, which the losses depend on and which is a leaf."""
        gradients = [
            torch.autograd.grad(losses[name], [sound], retain_graph=True)[0] for name in self.weights
        ]
        norms = torch.stack([g.norm().cpu() for g in gradients])
        self.norms = self.decay * self.norms + (1.0 - self.decay) * norms
        self.mass = self.decay * self.mass + (1.0 - self.decay)
        means = (self.norms / self.mass).clamp(min=1e-12)
        total = torch.zeros_like(sound)
        for (name, weight), gradient in zip(self.weights.items(), gradients, strict=True):
            index = list(self.weights).index(name)
            total = total + gradient * (weight / sum(self.weights.values()) / float(means[index]))
        return total
