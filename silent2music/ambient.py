"""Features of a room on the codec's time axis, and the networks that embed them.

Level stays absolute: the recording's median spectrum in dBFS is among the scalars and the momentary level in
dBFS among the frames, while the log-mel frames are taken relative to that median, so that a footstep looks the
same at -45 and at -70 dBFS and the network still knows which of the two it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from silent2music.acoustics import (
    PROFILE_CURVES,
    PROFILE_SCALARS,
    AcousticProfile,
    profile_curves,
    profile_scalars,
)
from silent2music.arrays import FloatArray
from silent2music.audio import FLOOR_DBFS, Waveform
from silent2music.config import AmbientConfig
from silent2music.errors import ConfigError
from silent2music.filters import mel_filters

FEATURE_SETTINGS = ("sample_rate", "frame_rate", "n_mels", "n_fft")
"""Settings that decide what a room's features are: pairs, composer and model must have the same."""

FEATURE_VERSION = 1
"""Raised when the meaning or the order of the features changes; shards and checkpoints state it."""

MEL_FRAMES_PER_STEP = 2
LOW_HZ = 40.0
DILATIONS = (1, 2, 4, 8)


@dataclass(frozen=True)
class AmbientFeatures:
    """The features of a recording: along time, and of the whole.

    Attributes:
        frames: `[S, n_features]` float32; step s covers samples from `s / frame_rate` s on.
        scalars: `[n_scalars]` float32, of the whole recording.
    """

    frames: FloatArray
    scalars: FloatArray


def n_features(config: AmbientConfig) -> int:
    """Width of `AmbientFeatures.frames`."""
    return MEL_FRAMES_PER_STEP * config.n_mels + len(PROFILE_CURVES)


def n_scalars(config: AmbientConfig) -> int:
    """Width of `AmbientFeatures.scalars`."""
    return config.n_mels + len(PROFILE_SCALARS)


def ambient_features(room: Waveform, profile: AcousticProfile, config: AmbientConfig) -> AmbientFeatures:
    """Compute the features of a recording on the codec's time axis.

    Args:
        profile: `acoustics.analyze` of the same recording.

    Returns:
        `S = ceil(seconds * frame_rate)` steps. Log-mel is clipped to 60 dB around the recording's median and
        divided by 10 dB; the median spectrum is `(dBFS + 80) / 20`.
    """
    mono = room.downmix().resampled(config.sample_rate).samples[0]
    n_steps = int(np.ceil(len(mono) / config.sample_rate * config.frame_rate - 1e-6))
    mel_db = _log_mel_dbfs(mono, n_steps * MEL_FRAMES_PER_STEP, config)
    median_db = np.median(mel_db, axis=0)
    relative = np.clip((mel_db - median_db) / 10.0, -3.0, 6.0).reshape(n_steps, -1)
    curves = profile_curves(profile, config.frame_rate, n_steps)
    return AmbientFeatures(
        frames=np.concatenate([relative, curves], axis=1).astype(np.float32),
        scalars=np.concatenate([(median_db + 80.0) / 20.0, profile_scalars(profile)]).astype(np.float32),
    )


def _log_mel_dbfs(mono: FloatArray, n_frames: int, config: AmbientConfig) -> FloatArray:
    """Mel band levels in dBFS, `[n_frames, n_mels]`, centred on equal slices of the time axis.

    Works in blocks, so that an hour needs no more memory than a minute.
    """
    hop = config.sample_rate / (config.frame_rate * MEL_FRAMES_PER_STEP)
    window = np.hanning(config.n_fft + 1)[:-1].astype(np.float32)
    padded = np.pad(mono, (config.n_fft // 2, config.n_fft // 2 + int(hop) + 1))
    starts = np.minimum(np.round((np.arange(n_frames) + 0.5) * hop).astype(int), len(padded) - config.n_fft)
    # Bands narrower than a bin take the nearest one, so that none is empty.
    filters = mel_filters(config.sample_rate, config.n_fft, config.n_mels, low_hz=LOW_HZ, no_empty=True)
    filters = filters.astype(np.float32)
    floor_power = 10.0 ** (FLOOR_DBFS / 10.0)
    # One-sided power spectrum whose sum over bins is the mean square of the frame.
    scale = np.float32(2.0 / (np.square(window).sum() * config.n_fft))
    out = np.empty((n_frames, config.n_mels), np.float32)
    views = np.lib.stride_tricks.sliding_window_view(padded, config.n_fft)
    power = np.empty((512, config.n_fft // 2 + 1), np.float32)
    for begin in range(0, n_frames, len(power)):
        n_rows = min(len(power), n_frames - begin)
        # Transforms go by fewer rows than the product: in 64 bits they are what takes the most memory here.
        for row in range(0, n_rows, 256):
            block = views[starts[begin + row : begin + min(row + 256, n_rows)]] * window
            power[row : row + len(block)] = np.square(np.abs(np.fft.rfft(block, axis=1))).astype(np.float32)
        power[:n_rows] *= scale
        out[begin : begin + n_rows] = 10.0 * np.log10(power[:n_rows] @ filters.T + floor_power)
    return out


class _ConvBlock(nn.Module):
    """Depthwise dilated convolution and a pointwise MLP around a residual (ConvNeXt, Liu et al. 2022)."""

    def __init__(self, dim: int, kernel_size: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(
            dim, dim, kernel_size, padding=dilation * (kernel_size // 2), dilation=dilation, groups=dim
        )
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, 3 * dim)
        self.down = nn.Linear(3 * dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`x` `[B, S, D]`, `mask` `[B, S, 1]` float; padding is kept at zero so that a padded row equals a single one."""
        y = self.depthwise((x * mask).transpose(1, 2)).transpose(1, 2)
        y = self.down(functional.gelu(self.up(self.norm(y))))
        out: Tensor = x + self.dropout(y)
        return out


class Standardise(nn.Module):
    """Standardises values `[..., F]` by the mean and deviation that `fit` measured.

    Results are clipped to eight deviations, so that input unlike all training data stays in range.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("std", torch.ones(n_features))

    def fit(self, values: Tensor) -> None:
        """Measure mean and deviation of training values `[n, F]`; fewer than two change nothing."""
        if len(values) < 2:
            return
        self.mean.copy_(values.mean(dim=0))
        self.std.copy_(values.std(dim=0).clamp_min(0.05))

    def forward(self, x: Tensor) -> Tensor:
        """The values `[..., F]`, standardised."""
        return ((x - self.mean) / self.std).clamp(-8.0, 8.0)


class FrameEncoder(nn.Module):
    """Embeds ambient features along time by a stack of dilated convolutions.

    The receptive field is bounded: what lies further ahead than `lookahead_seconds` cannot change an embedding, so live
    input works with that much delay.

    Args:
        out_dim: D, the decoder's width.

    Attributes:
        lookahead_frames: the receptive field on either side, in steps.

    Raises:
        ConfigError: if the stack would look further ahead than it states.
    """

    def __init__(self, config: AmbientConfig, out_dim: int) -> None:
        super().__init__()
        dilations = [DILATIONS[i % len(DILATIONS)] for i in range(config.n_layers)]
        self.lookahead_frames = sum(dilations) * (config.kernel_size // 2)
        if self.lookahead_frames > config.lookahead_seconds * config.frame_rate:
            raise ConfigError(
                f"ambient.n_layers={config.n_layers} with kernel_size={config.kernel_size} looks "
                f"{self.lookahead_frames / config.frame_rate:.2f} s ahead; expected at most "
                f"lookahead_seconds={config.lookahead_seconds}: lower one or raise the other."
            )
        self.standardise = Standardise(n_features(config))
        self.embed = nn.Linear(n_features(config), config.dim)
        self.blocks = nn.ModuleList(
            _ConvBlock(config.dim, config.kernel_size, d, config.dropout) for d in dilations
        )
        self.norm = nn.LayerNorm(config.dim)
        self.project = nn.Linear(config.dim, out_dim)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Embeddings `[B, S, D]` of `frames` `[B, S, n_features]`; `mask` `[B, S]` is false for padding."""
        keep = mask[..., None].to(frames.dtype)
        x = self.embed(self.standardise(frames))
        for block in self.blocks:
            x = block(x, keep)
        out: Tensor = self.project(self.norm(x))
        return out


class ScalarEncoder(nn.Module):
    """Embeds the scalars of a whole recording as global tokens.

    Args:
        out_dim: D, the decoder's width.
    """

    def __init__(self, config: AmbientConfig, out_dim: int) -> None:
        super().__init__()
        self.n_tokens = config.n_global_tokens
        self.standardise = Standardise(n_scalars(config))
        self.layers = nn.Sequential(
            nn.Linear(n_scalars(config), config.dim),
            nn.GELU(),
            nn.Linear(config.dim, config.n_global_tokens * out_dim),
        )

    def forward(self, scalars: Tensor) -> Tensor:
        """Global tokens `[B, G, D]` of scalars `[B, n_scalars]`."""
        tokens: Tensor = self.layers(self.standardise(scalars)).unflatten(1, (self.n_tokens, -1))
        return tokens
