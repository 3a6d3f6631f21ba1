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


class _Blocks(nn.Module):
    """ConvNeXt blocks (Liu et al., 2022), normalised before they mix, for the decoder's networks."""

    BLOCK_BEHIND, BLOCK_AHEAD = 4, 0
    """Frames that each block sees more."""

    def _make_blocks(self, dim: int, n_layers: int) -> None:
        kernel = self.BLOCK_BEHIND + 1 + self.BLOCK_AHEAD
        self.norm = nn.ModuleList([nn.LayerNorm(dim) for _ in range(n_layers)])
        self.mix = nn.ModuleList([nn.Conv1d(dim, dim, kernel, groups=dim) for _ in range(n_layers)])
        self.widen = nn.ModuleList([nn.Linear(dim, 2 * dim) for _ in range(n_layers)])
        self.narrow = nn.ModuleList([nn.Linear(2 * dim, dim) for _ in range(n_layers)])

    def _through_blocks(self, hidden: Tensor) -> Tensor:
        """`[B, T, dim]` to `[B, T, dim]`."""
        for mix, norm, widen, narrow in zip(self.mix, self.norm, self.widen, self.narrow, strict=True):
            around = functional.pad(norm(hidden).transpose(1, 2), (self.BLOCK_BEHIND, self.BLOCK_AHEAD))
            hidden = hidden + narrow(functional.gelu(widen(mix(around).transpose(1, 2))))
        return hidden


class _Blend(nn.Linear):
    """Compressed magnitudes of the frames around mixed into each frame, by weights for each band of it.

    The errors of successive codes are not alike, so that where a partial is steady their mean is nearer to it and wavers
    less, and where it begins nothing is mixed: so the weights, which come from hidden states, start at nothing.
    """

    BEHIND, AHEAD = 6, 4
    """Codec frames whose magnitudes are mixed into one."""

    N_BANDS = 40
    """Bands with weights of their own, between which these are interpolated."""

    hats: Tensor

    def __init__(self, dim: int, frames_per_code: int, n_bins: int) -> None:
        super().__init__(dim, (self.BEHIND + 1 + self.AHEAD) * frames_per_code * self.N_BANDS)
        self.frames_per_code = frames_per_code
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
        self.register_buffer("hats", _hats(self.N_BANDS, n_bins), persistent=False)

    def mixed(self, features: Tensor, hidden: Tensor) -> Tensor:
        """`[B, T, F]`: each frame of that shape and, by weights from hidden `[B, T, dim]`, those around it."""
        n_rows, n_frames, _ = features.shape
        frames = features.reshape(n_rows, n_frames, self.frames_per_code, -1)
        around = functional.pad(frames, (0, 0, 0, 0, self.BEHIND, self.AHEAD))
        weights = self(hidden).reshape(n_rows, n_frames, self.frames_per_code, -1, self.N_BANDS)
        total = frames
        for i in range(weights.shape[3]):
            total = total + (weights[..., i, :] @ self.hats) * around[:, i : i + n_frames]
        return total.reshape(features.shape)


class SpectrumCorrection(_Blocks):
    """A learned change of compressed magnitudes in the light of the vectors around them, for the decoder.

    First the magnitudes of the frames around are mixed into each frame (`_Blend`). Then every bin gets a gain and an
    added noise floor, in units of its vector's length: what the quantiser leaves out (weak partials, breath, the
    steepness of an attack) is guessed from what it tells, and averages that it makes too small are raised. ConvNeXt
    blocks decide; they look back further than ahead, since only what lies ahead must be waited for.

    Args:
        n_components: P.
        n_codebooks: K; how many of them the vectors are the sum of is told to the blocks.
        frames_per_code: STFT frames in a codec frame.
        n_bins: of an STFT frame.
        dim: width.
        n_layers: blocks.
    """

    ENTER_REACH = 2
    """Frames on either side that the first layer sees."""

    BLOCK_AHEAD = 1

    def __init__(
        self, n_components: int, n_codebooks: int, frames_per_code: int, n_bins: int, dim: int, n_layers: int
    ) -> None:
        super().__init__()
        self.enter = nn.Conv1d(n_components + 1, dim, 2 * self.ENTER_REACH + 1, padding=self.ENTER_REACH)
        self.known = nn.Embedding(n_codebooks, dim)
        self._make_blocks(dim, n_layers)
        self.blend = _Blend(dim, frames_per_code, n_bins)
        self.gain = nn.Linear(dim, frames_per_code * n_bins)
        self.noise = nn.Linear(dim, frames_per_code * n_bins)
        nn.init.zeros_(self.known.weight)
        for layer, start in ((self.gain, 0.0), (self.noise, NOISE_START)):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, start)

    @property
    def behind(self) -> int:
        """Frames before a frame that its correction depends on."""
        return max(self.ENTER_REACH + self.BLOCK_BEHIND * len(self.mix), self.blend.BEHIND)

    @property
    def ahead(self) -> int:
        """Frames after a frame that its correction depends on."""
        return max(self.ENTER_REACH + self.BLOCK_AHEAD * len(self.mix), self.blend.AHEAD)

    def forward(self, vectors: Tensor, features: Tensor, n_codebooks: int) -> Tensor:
        """Compressed magnitudes `[B, T, F]`, 0 or more, of vectors `[B, T, P]` and what they say alone.

        Args:
            vectors: quantised.
            features: `[B, T, F]`, the magnitudes that the components make of them.
            n_codebooks: how many codebooks the vectors are the sum of.
        """
        inputs, length = _direction_and_level(vectors)
        # Entries of a direction are small: brought to about 1.
        inputs = torch.cat([inputs[..., :-1] * vectors.shape[-1] ** 0.5, inputs[..., -1:]], dim=-1)
        hidden = self.enter(inputs.transpose(1, 2)).transpose(1, 2) + self.known.weight[n_codebooks - 1]
        hidden = self._through_blocks(hidden)
        # Under autocast the layers' results have 8 bits, too few for what follows.
        gain = self.gain(hidden).float().clamp(-MAX_LOG_GAIN, MAX_LOG_GAIN).exp()
        noise = self.noise(hidden).float().clamp(max=0.0).exp()
        # Silence stays silent beside sound.
        mixed = torch.where(length > 0.0, self.blend.mixed(features, hidden), 0.0)
        magnitudes: Tensor = mixed.clamp(min=0.0) * gain + length * noise
        return magnitudes


class GainRefinement(_Blocks):
    """What coded gains of bands say of the gains that were meant, for the decoder.

    The gains are quantised frame by frame, so that they waver where the music does not. Each band is smoothed along
    time, by taps of its own, ConvNeXt blocks on the gains and the levels around change the gains of bands and of single
    bins, and the magnitudes that come out are mixed with those around (`_Blend`).

    Args:
        n_bands: gains of an STFT frame.
        frames_per_code: STFT frames in a codec frame.
        n_bins: of an STFT frame.
        dim: width.
        n_layers: blocks.
    """

    ENTER_REACH = 2
    """Frames on either side that the first layer and the taps see."""

    LEVEL_CENTRE, LEVEL_SPREAD = -6.0, 2.5
    """Of natural logarithms of levels, roughly: they are brought to about 1."""

    def __init__(self, n_bands: int, frames_per_code: int, n_bins: int, dim: int, n_layers: int) -> None:
        super().__init__()
        n_gains = frames_per_code * n_bands
        n_taps = 2 * self.ENTER_REACH * frames_per_code + 1
        self.enter = nn.Conv1d(2 * n_gains, dim, 2 * self.ENTER_REACH + 1, padding=self.ENTER_REACH)
        self._make_blocks(dim, n_layers)
        self.taps = nn.Conv1d(n_bands, n_bands, n_taps, padding=n_taps // 2, groups=n_bands, bias=False)
        self.bands = nn.Linear(dim, n_gains)
        self.bins = nn.Linear(dim, frames_per_code * n_bins)
        self.blend = _Blend(dim, frames_per_code, n_bins)
        nn.init.zeros_(self.taps.weight)
        nn.init.ones_(self.taps.weight[..., n_taps // 2])
        for layer in (self.bands, self.bins):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def behind(self) -> int:
        """Frames before a frame that its magnitudes depend on."""
        return self.ENTER_REACH + self.BLOCK_BEHIND * len(self.mix) + self.blend.BEHIND

    @property
    def ahead(self) -> int:
        """Frames after a frame that its magnitudes depend on."""
        return self.ENTER_REACH + self.blend.AHEAD

    def forward(self, gains: Tensor, levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Changed gains of bands `[B, T, frames_per_code, G]`, gains of bins besides, `[B, T, frames_per_code, F]`, and
        hidden states for `blend`.

        Args:
            gains: `[B, T, frames_per_code, G]` as coded, in nepers of amplitude.
            levels: of the same shape, natural logarithms of the amplitudes that the gains are of.
        """
        n_rows, n_frames, span, _ = gains.shape
        level = (levels - self.LEVEL_CENTRE) / self.LEVEL_SPREAD
        inputs = torch.cat([gains.flatten(2), level.flatten(2)], dim=-1)
        hidden = self._through_blocks(self.enter(inputs.transpose(1, 2)).transpose(1, 2))
        smooth = self.taps(gains.flatten(1, 2).transpose(1, 2)).transpose(1, 2).reshape(gains.shape)
        bands = smooth.float() + self.bands(hidden).float().reshape(gains.shape)
        return bands, self.bins(hidden).float().reshape(n_rows, n_frames, span, -1), hidden


def _hats(n_bands: int, n_bins: int) -> Tensor:
    """`[n_bands, n_bins]`: linear interpolation between bands, narrow ones at the bottom as the ear has them."""
    # The mel scale's bend at 700 Hz, for the bins of 24 kHz.
    scale = torch.log1p(torch.arange(n_bins) * (12_000 / 700 / (n_bins - 1)))
    place = scale / scale[-1] * (n_bands - 1)
    return (1.0 - (place - torch.arange(n_bands)[:, None]).abs()).clamp(min=0.0)
