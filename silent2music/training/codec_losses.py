"""Adversarial losses of a codec (EnCodec's), and the balancing of its losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional


def discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Hinge loss of the discriminator, from the logits of each scale (Défossez et al., 2022, equation 6)."""
    terms = [
        functional.relu(1 - r).mean() + functional.relu(1 + f).mean() for r, f in zip(real, fake, strict=True)
    ]
    return torch.stack(terms).mean()


def generator_loss(fake: Sequence[Tensor]) -> Tensor:
    """Adversarial loss of the codec (Défossez et al., 2022, section 3.4)."""
    return torch.stack([functional.relu(1 - f).mean() for f in fake]).mean()


def feature_loss(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """Feature matching loss: relative distance of the discriminator's features (Défossez et al., 2022, equation 5)."""
    terms = [
        (r - f).abs().mean() / r.abs().mean().clamp(min=1e-6)
        for real_maps, fake_maps in zip(real, fake, strict=True)
        for r, f in zip(real_maps, fake_maps, strict=True)
    ]
    return torch.stack(terms).mean()


class Balancer:
    """EnCodec's loss balancer: scales gradients so that each loss's share is its weight, whatever its scale.

    Défossez et al. (2022), equation 7: each gradient with respect to the sound is divided by the running mean
    of its norm.

    Args:
        weights: share of each loss, by name.
    """

    def __init__(self, weights: Mapping[str, float], decay: float = 0.99) -> None:
        self.weights, self.decay = dict(weights), decay
        self.norms = torch.zeros(len(self.weights))
        self.mass = torch.zeros(())

    def gradient(self, losses: Mapping[str, Tensor], sound: Tensor) -> Tensor:
        """The balanced gradient with respect to `sound`, a leaf that the losses depend on."""
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
