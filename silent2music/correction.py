"""What is learned of the bundled codec: an encoder before the quantiser and a correction after it.

Both start as no change, or nearly none, to the closed form.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from silent2music.config import CodecConfig

SILENCE_NORM = 0.05
"""Length of a vector (that of a sine of about -80 dBFS) below which level says little."""

NOISE_START = -8.0
"""Logarithm of the noise that a new correction adds, relative to a vector's length: below -120 dBFS."""

MAX_LOG_GAIN = 4.0
"""Of one bin, in nepers of its compressed magnitude."""

ENTER_REACH = 2
"""Frames on either side that the first layer sees."""

BLOCK_AHEAD = 1
"""Frames after that each block of the correction sees more: few, since those must be waited for."""

ENCODER_REACH = 3
"""Frames on either side that each block of the encoder sees more."""

BLEND_BEHIND, BLEND_AHEAD = 6, 4
"""Codec frames before and after a frame whose magnitudes are mixed into it."""

HATS_RATE = 24_000
"""Sample rate in Hz for which the bands of the blend are laid out, whatever the codec's."""

N_BLEND_BANDS = 40
"""Bands with mixing weights of their own, between which these are interpolated."""


class FrameNetwork(nn.Module):
    """ConvNeXt blocks (Liu et al., 2022) with pre-normalisation over the vectors of successive codec frames.

    Args:
        dim: width.
        behind: frames before that each block sees more.
        ahead: frames after that each block sees more.
    """

    def __init__(self, config: CodecConfig, dim: int, n_layers: int, behind: int, ahead: int) -> None:
        super().__init__()
        self._around = (behind, ahead)
        self.enter = nn.Conv1d(config.n_components + 1, dim, 2 * ENTER_REACH + 1, padding=ENTER_REACH)
        self.norm = nn.ModuleList([nn.LayerNorm(dim) for _ in range(n_layers)])
        self.mix = nn.ModuleList(
            [nn.Conv1d(dim, dim, behind + 1 + ahead, groups=dim) for _ in range(n_layers)]
        )
        self.widen = nn.ModuleList([nn.Linear(dim, 2 * dim) for _ in range(n_layers)])
        self.narrow = nn.ModuleList([nn.Linear(2 * dim, dim) for _ in range(n_layers)])

    @property
    def behind(self) -> int:
        """Number of frames before a frame that its result depends on."""
        return ENTER_REACH + self._around[0] * len(self.mix)

    @property
    def ahead(self) -> int:
        """Number of frames after a frame that its result depends on."""
        return ENTER_REACH + self._around[1] * len(self.mix)

    def hidden(self, vectors: Tensor, length: Tensor, offset: Tensor | float = 0.0) -> Tensor:
        """Hidden states `[B, T, dim]` of vectors `[B, T, P]`, which are seen as direction and level.

        Args:
            vectors: of successive frames.
            length: `[B, T, 1]`, theirs.
        """
        # Entries of a direction are small: brought to about 1.
        direction = vectors / length.clamp(min=1e-6) * vectors.shape[-1] ** 0.5
        inputs = torch.cat([direction, (length + SILENCE_NORM).log()], dim=-1)
        hidden: Tensor = self.enter(inputs.transpose(1, 2)).transpose(1, 2) + offset
        for mix, norm, widen, narrow in zip(self.mix, self.norm, self.widen, self.narrow, strict=True):
            around = functional.pad(norm(hidden).transpose(1, 2), self._around)
            hidden = hidden + narrow(functional.gelu(widen(mix(around).transpose(1, 2))))
        return hidden


class VectorEncoder(FrameNetwork):
    """Moves each frame's vector before it is quantised, given the frames around it; it starts as no change.

    The quantiser codes each frame alone. Moved vectors let neighbouring frames share the work: what is steady can be
    coded over several frames, and what a frame's codes cannot hold is left out where it is heard least. The move is
    relative to the vector's length, so that silence stays silence.

    Args:
        config: of the codec; `encoder_layers` blocks of width `encoder_dim`.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__(config, config.encoder_dim, config.encoder_layers, ENCODER_REACH, ENCODER_REACH)
        self.move = nn.Linear(config.encoder_dim, config.n_components)
        nn.init.zeros_(self.move.weight)
        nn.init.zeros_(self.move.bias)

    def forward(self, vectors: Tensor) -> Tensor:
        """Vectors to quantise, `[B, T, P]`, of those that the components make of a sound, `[B, T, P]`."""
        length: Tensor = vectors.norm(dim=-1, keepdim=True)
        move = self.move(self.hidden(vectors, length)).float()
        moved: Tensor = vectors + length / vectors.shape[-1] ** 0.5 * move
        return moved


class SpectrumCorrection(FrameNetwork):
    """Corrects decoded magnitudes, given the quantised vectors of the frames around them.

    First the magnitudes of neighbouring frames are mixed into each frame, with weights for each band: the errors of
    successive codes differ, so that where a partial is steady their mean is nearer to it and fluctuates less. Then
    every bin gets a gain and an added noise floor, in units of its vector's length: they restore what the quantiser
    leaves out (weak partials, breath, the steepness of an attack) and raise magnitudes that averaging made too small.

    Args:
        config: of the codec; `decoder_layers` blocks of width `correction_dim`.
    """

    hats: Tensor

    def __init__(self, config: CodecConfig) -> None:
        dim, span = config.correction_dim, config.frames_per_code
        super().__init__(config, dim, config.decoder_layers, config.correction_behind, BLOCK_AHEAD)
        n_bins = config.n_fft // 2 + 1
        self.frames_per_code = span
        # How many codebooks the vectors are the sum of.
        self.known = nn.Embedding(config.n_codebooks, dim)
        self.blend = nn.Linear(dim, (BLEND_BEHIND + 1 + BLEND_AHEAD) * span * N_BLEND_BANDS)
        self.gain = nn.Linear(dim, span * n_bins)
        self.noise = nn.Linear(dim, span * n_bins)
        self.register_buffer("hats", mel_hats(N_BLEND_BANDS, n_bins, HATS_RATE), persistent=False)
        nn.init.zeros_(self.known.weight)
        for layer, start in ((self.blend, 0.0), (self.gain, 0.0), (self.noise, NOISE_START)):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, start)

    @property
    def behind(self) -> int:
        """Number of frames before a frame that its correction depends on."""
        return max(super().behind, BLEND_BEHIND)

    @property
    def ahead(self) -> int:
        """Number of frames after a frame that its correction depends on."""
        return max(super().ahead, BLEND_AHEAD)

    def forward(self, vectors: Tensor, features: Tensor, n_codebooks: int) -> Tensor:
        """Compressed magnitudes `[B, T, F]`, 0 or more, of vectors `[B, T, P]` and their uncorrected features.

        Args:
            features: `[B, T, F]`, the magnitudes that the components make of them.
        """
        length: Tensor = vectors.norm(dim=-1, keepdim=True)
        hidden = self.hidden(vectors, length, self.known.weight[n_codebooks - 1])
        # Under autocast the layers' results have 8 bits, too few for what follows.
        gain = self.gain(hidden).float().clamp(-MAX_LOG_GAIN, MAX_LOG_GAIN).exp()
        noise = self.noise(hidden).float().clamp(max=0.0).exp()
        # Silence stays silent beside sound.
        mixed = torch.where(length > 0.0, self._blended(features, hidden), 0.0)
        magnitudes: Tensor = mixed.clamp(min=0.0) * gain + length * noise
        return magnitudes

    def _blended(self, features: Tensor, hidden: Tensor) -> Tensor:
        """Weighted sums of each frame of `[B, T, F]` and its neighbours, by weights from hidden states `[B, T, dim]`."""
        n_rows, n_frames, _ = features.shape
        frames = features.reshape(n_rows, n_frames, self.frames_per_code, -1)
        around = functional.pad(frames, (0, 0, 0, 0, BLEND_BEHIND, BLEND_AHEAD))
        weights = self.blend(hidden).reshape(n_rows, n_frames, self.frames_per_code, -1, N_BLEND_BANDS)
        total = frames
        for i, weight in enumerate(weights.unbind(3)):
            total = total + (weight @ self.hats) * around[:, i : i + n_frames]
        return total.reshape(features.shape)


def mel_hats(n_bands: int, n_bins: int, sample_rate: int) -> Tensor:
    """`[n_bands, n_bins]`: linear interpolation between bands that are equally wide on the mel scale, from 0 Hz on."""
    # The scale bends at 700 Hz.
    scale = torch.log1p(torch.arange(n_bins) * (sample_rate / 2 / 700 / (n_bins - 1)))
    place = scale / scale[-1] * (n_bands - 1)
    return (1.0 - (place - torch.arange(n_bands)[:, None]).abs()).clamp(min=0.0)
