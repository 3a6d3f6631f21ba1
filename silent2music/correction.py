"""What the bundled codec learns on top of its closed form; nothing at first, so that it can only get better."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

SILENCE_NORM = 0.05
"""Length of a vector (that of a sine of about -80 dBFS) below which level says little."""

NOISE_START = -8.0
"""Logarithm of the noise that a new correction adds, relative to a vector's length: below -120 dBFS."""

MAX_LOG_GAIN = 4.0
"""Of one bin, in nepers of its compressed magnitude."""


def _direction_and_level(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """A vector's direction with its logarithmic length behind it, `[..., P + 1]`, and its length `[..., 1]`."""
    length: Tensor = vectors.norm(dim=-1, keepdim=True)
    direction = vectors / length.clamp(min=1e-6)
    return torch.cat([direction, (length + SILENCE_NORM).log()], dim=-1), length


class VectorCorrection(nn.Module):
    """A learned change of vectors `[B, T, P]` in the light of those before, for the encoder.

    Causal ConvNeXt blocks (Liu et al., 2022) on each vector's direction and log length; what comes out is
    added in units of that length, so that silence stays silent.
    """

    KERNEL = 5

    def __init__(self, n_components: int, dim: int, n_layers: int) -> None:
        super().__init__()
        self.enter = nn.Linear(n_components + 1, dim)
        self.mix = nn.ModuleList([nn.Conv1d(dim, dim, self.KERNEL, groups=dim) for _ in range(n_layers)])
        self.norm = nn.ModuleList([nn.LayerNorm(dim) for _ in range(n_layers)])
        self.widen = nn.ModuleList([nn.Linear(dim, 3 * dim) for _ in range(n_layers)])
        self.narrow = nn.ModuleList([nn.Linear(3 * dim, dim) for _ in range(n_layers)])
        self.leave = nn.Linear(dim, n_components)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, vectors: Tensor) -> Tensor:
        """`[B, T, P]` to `[B, T, P]`."""
        inputs, length = _direction_and_level(vectors)
        hidden = self.enter(inputs)
        for mix, norm, widen, narrow in zip(self.mix, self.norm, self.widen, self.narrow, strict=True):
            mixed = mix(functional.pad(hidden.transpose(1, 2), (self.KERNEL - 1, 0))).transpose(1, 2)
            hidden = hidden + narrow(functional.gelu(widen(norm(mixed))))
        change: Tensor = self.leave(hidden)
        return vectors + length * change


class SpectrumCorrection(nn.Module):
    """A learned change of compressed magnitudes in the light of the vectors around them, for the decoder.

    Every bin of every STFT frame gets a gain and an added noise floor, in units of its vector's length: what the
    quantiser leaves out (weak partials, breath, the steepness of an attack) is guessed from what it tells, and
    averages that it makes too small are raised. ConvNeXt blocks whose kernels look both ways.
    """

    ENTER_REACH, BLOCK_REACH = 2, 1
    """Frames on either side that the first layer sees, and each block more."""

    def __init__(self, n_components: int, n_features: int, dim: int, n_layers: int) -> None:
        super().__init__()
        self.enter = nn.Conv1d(n_components + 1, dim, 2 * self.ENTER_REACH + 1, padding=self.ENTER_REACH)
        kernel, reach = 2 * self.BLOCK_REACH + 1, self.BLOCK_REACH
        self.norm = nn.ModuleList([nn.LayerNorm(dim) for _ in range(n_layers)])
        self.mix = nn.ModuleList(
            [nn.Conv1d(dim, dim, kernel, groups=dim, padding=reach) for _ in range(n_layers)]
        )
        self.widen = nn.ModuleList([nn.Linear(dim, 2 * dim) for _ in range(n_layers)])
        self.narrow = nn.ModuleList([nn.Linear(2 * dim, dim) for _ in range(n_layers)])
        self.gain = nn.Linear(dim, n_features)
        self.noise = nn.Linear(dim, n_features)
        for layer, start in ((self.gain, 0.0), (self.noise, NOISE_START)):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, start)

    @property
    def reach(self) -> int:
        """Frames on either side that a frame's correction depends on."""
        return self.ENTER_REACH + self.BLOCK_REACH * len(self.mix)

    def forward(self, vectors: Tensor, features: Tensor) -> Tensor:
        """Compressed magnitudes `[B, T, F]`, 0 or more, of vectors `[B, T, P]` and what they say alone."""
        inputs, length = _direction_and_level(vectors)
        # Entries of a direction are small: brought to about 1.
        inputs = torch.cat([inputs[..., :-1] * vectors.shape[-1] ** 0.5, inputs[..., -1:]], dim=-1)
        hidden = self.enter(inputs.transpose(1, 2)).transpose(1, 2)
        for mix, norm, widen, narrow in zip(self.mix, self.norm, self.widen, self.narrow, strict=True):
            mixed = mix(norm(hidden).transpose(1, 2)).transpose(1, 2)
            hidden = hidden + narrow(functional.gelu(widen(mixed)))
        gain = self.gain(hidden).clamp(-MAX_LOG_GAIN, MAX_LOG_GAIN).exp()
        noise = self.noise(hidden).clamp(max=0.0).exp()
        magnitudes: Tensor = features.clamp(min=0.0) * gain + length * noise
        return magnitudes
