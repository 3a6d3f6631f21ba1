"""The bundled codec: tokens of compressed STFT magnitudes, fitted in closed form.

Tokens code magnitudes alone. A token model could hardly predict phases, so the decoder rebuilds them:

    samples -> |STFT| ** 0.4 -> two frames stacked -> principal components -> learned encoder
            -> residual vector quantiser -> codes
    codes -> vectors summed -> components inverted -> learned correction -> ** 2.5 -> magnitudes -> phase -> samples

Frame t of the codes covers samples `[t * 960, (t + 1) * 960)`: its STFT frames are centred inside that span.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from silent2music.bandwidth import BandExtension
from silent2music.config import CodecConfig
from silent2music.correction import SILENCE_NORM, SpectrumCorrection, VectorEncoder
from silent2music.errors import AudioError
from silent2music.phase import context_frames, rebuild, stft
from silent2music.weights import as_stored

SILENCE_CODE = 0
"""Entry of the first codebook that is exact silence, whatever the other codes are."""

DECODE_BLOCK = 100
"""Codec frames decoded at once, to bound memory."""

SEARCH_BLOCK = 1024
"""Codec frames quantised at once, to bound memory."""

LIVE_ITERATIONS = 1
"""Iterations of phase reconstruction for live sound: each adds 80 ms of lookahead."""

_TOKEN_SETTINGS = (
    "sample_rate", "n_fft", "hop", "frames_per_code", "power", "n_components", "n_codebooks", "codebook_size",
    "n_candidates",
)  # fmt: skip
"""Settings that decide which tokens a sound gets, beside those of the encoder; the others belong to the decoder."""


class BundledCodec(nn.Module):
    """The bundled codec: principal components of compressed magnitudes, coded by a residual vector quantiser.

    `training.codec.fit_codec` fits it; `training.codec_loop.train_codec` learns what comes before and after it.

    The components are taken about zero, not about the mean, so that silence is the zero vector and a change
    of level scales a vector. The first codebook codes level and coarse shape. Each of its entries has a scale, and the
    other codebooks quantise the residual divided by it, so that a quiet frame is coded as finely as a loud one and a
    wrong code can never be loud in it. Entry `SILENCE_CODE` is zero with scale zero.

    Attributes:
        components: `[P, F]`, orthonormal rows, `F = frames_per_code * (n_fft / 2 + 1)`.
        codebooks: `[K, V, P]`.
        scales: `[V]`, by the code of the first codebook.
        encoder: learned change of the vectors before they are quantised; None if `encoder_layers` is 0.
        decoder: learned correction of decoded magnitudes; None if `decoder_layers` is 0.
    """

    kind = "bundled"
    channels = 1
    extension: BandExtension | None = None
    components: Tensor
    codebooks: Tensor
    scales: Tensor

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.sample_rate, self.frame_rate = config.sample_rate, config.frame_rate
        self.n_codebooks, self.codebook_size = config.n_codebooks, config.codebook_size
        n_bins = config.n_fft // 2 + 1
        self.register_buffer("components", torch.zeros(config.n_components, config.frames_per_code * n_bins))
        self.register_buffer(
            "codebooks", torch.zeros(config.n_codebooks, config.codebook_size, config.n_components)
        )
        self.register_buffer("scales", torch.zeros(config.codebook_size))
        self.encoder = VectorEncoder(config) if config.encoder_layers else None
        self.decoder = SpectrumCorrection(config) if config.decoder_layers else None
        self._waits = True

    def token_checksum(self, n_codebooks: int = 0) -> str:
        """Of the transform, the components, the encoder and the quantiser, as stored in 16 bits.

        It is the same for any number of codebooks: all are searched together, so that each code depends on all.

        Raises:
            AudioError: if the codec has not so many codebooks.
        """
        self._check_number(n_codebooks or self.n_codebooks)
        values = {name: getattr(self.config, name) for name in _TOKEN_SETTINGS}
        tensors = {name: getattr(self, name) for name in ("components", "codebooks", "scales")}
        if self.encoder is not None:
            values |= {name: getattr(self.config, name) for name in ("encoder_layers", "encoder_dim")}
            tensors |= {f"encoder.{name}": value for name, value in self.encoder.state_dict().items()}
        return digest({"kind": self.kind, **values}, tensors)

    @property
    def decoder_version(self) -> str:
        """Identifies the learned correction, the phase method and its number of iterations."""
        learned = "" if self.decoder is None else digest({}, self.decoder.state_dict()) + "-"
        return f"{learned}phase-gradient-griffin-lim-{self.config.griffin_lim_iterations}"

    def codebook_vectors(self) -> Tensor:
        """The codebooks `[K, V, P]` float32; all but the first are relative to its scale."""
        return self.codebooks.float()

    # ---- from sound to codes ----

    @torch.no_grad()
    def encode(self, audio: Tensor, n_codebooks: int = 0) -> Tensor:
        """Codes `[B, K, T]` int64 of samples `[B, 1, N]` in [-1, 1], `T = ceil(N / samples_per_code)`.

        Args:
            audio: the samples.
            n_codebooks: of how many codebooks, the first ones; 0 for all.

        Raises:
            AudioError: on another shape, or if the codec has fewer codebooks.
        """
        if audio.ndim != 3 or audio.shape[1] != 1 or audio.shape[2] < 1:
            raise AudioError(f"The codec got samples of shape {tuple(audio.shape)}; expected [B, 1, N].")
        n_codebooks = n_codebooks or self.n_codebooks
        self._check_number(n_codebooks)
        return self.quantise(self.project(audio[:, 0].float())).transpose(1, 2)[:, :n_codebooks]

    def _check_number(self, n_codebooks: int) -> None:
        if not 1 <= n_codebooks <= self.n_codebooks:
            raise AudioError(f"{n_codebooks} codebooks were asked for; the codec has {self.n_codebooks}.")

    def features(self, audio: Tensor) -> Tensor:
        """Compressed magnitudes `[B, T, F]` of samples `[B, N]`."""
        config = self.config
        missing = -audio.shape[-1] % config.samples_per_code
        spectrum = stft(functional.pad(audio, (0, missing)), config.n_fft, config.hop)
        return spectrum.abs().pow(config.power).reshape(len(audio), -1, self.components.shape[1])

    def project(self, audio: Tensor) -> Tensor:
        """The vectors `[B, T, P]` that are quantised, of samples `[B, N]`."""
        vectors = self.features(audio) @ self.components.T
        return vectors if self.encoder is None else cast(Tensor, self.encoder(vectors))

    def quantise(self, vectors: Tensor) -> Tensor:
        """Codes `[B, T, K]` of vectors `[B, T, P]`."""
        codes = torch.cat([self._search(block) for block in torch.split(vectors.flatten(0, 1), SEARCH_BLOCK)])
        return codes.reshape(*vectors.shape[:2], self.n_codebooks)

    def _search(self, vectors: Tensor) -> Tensor:
        """Codes `[n, K]` of vectors `[n, P]` by beam search: the best partial paths are kept from book to book."""
        n_paths = min(self.config.n_candidates, self.codebook_size)
        rows = torch.arange(len(vectors), device=vectors.device)[:, None]
        first = self.codebooks[0]
        score = vectors @ first.T - first.square().sum(-1) / 2
        # Nothing can be added to silence, so it must not stand in for a sound (louder than a sine of -80 dBFS)
        # unlike all that was fitted.
        score[vectors.norm(dim=1) > SILENCE_NORM, SILENCE_CODE] = -math.inf
        best = score.topk(n_paths, dim=1).indices
        codes = best[..., None]
        scale = self.scales[best]
        residual = vectors[:, None] - first[best]
        for k in range(1, self.n_codebooks):
            book = self.codebooks[k]
            # |r - s c|^2 for every path and entry
            error = residual.square().sum(-1, keepdim=True) - 2.0 * scale[..., None] * (residual @ book.T)
            error += scale.square()[..., None] * book.square().sum(-1)
            n_kept = n_paths if k + 1 < self.n_codebooks else 1
            chosen = error.flatten(1).topk(n_kept, dim=1, largest=False).indices
            path, entry = chosen // len(book), chosen % len(book)
            codes = torch.cat([codes[rows, path], entry[..., None]], dim=-1)
            scale = scale[rows, path]
            residual = residual[rows, path] - scale[..., None] * book[entry]
        return torch.where(codes[:, 0, :1] == SILENCE_CODE, SILENCE_CODE, codes[:, 0])

    # ---- from codes to sound ----

    def decode(self, codes: Tensor) -> Tensor:
        """Samples `[B, 1, T * samples_per_code]` of codes `[B, K, T]`, or of those of the first codebooks alone.

        Raises:
            AudioError: on another shape or a code out of range.
        """
        blocks = (codes[..., i : i + DECODE_BLOCK] for i in range(0, max(1, codes.shape[-1]), DECODE_BLOCK))
        return torch.cat(list(self.decode_stream(blocks)), dim=-1)

    @torch.no_grad()
    def decode_stream(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Decode block by block at constant memory; joined, the pieces equal `decode` of the joined blocks.

        Args:
            blocks: codes `[B, K, t]` of successive stretches of any length, or of the first codebooks alone.

        Yields:
            Samples `[B, 1, n]`, as soon as no later code can change them: `lookahead_seconds` behind.

        Raises:
            AudioError: on another shape or a code out of range.
        """
        config = self.config
        magnitudes = (self._expanded(features) for features in self._corrected_stream(blocks))
        for audio in rebuild(magnitudes, config.n_fft, config.hop, config.griffin_lim_iterations):
            yield audio[:, None]

    def live(self) -> BundledCodec:
        """A copy with shared weights and minimal lookahead, for live sound.

        Phase reconstruction has fewer iterations, and the correction repeats the newest vector for those to come.
        """
        other = copy.copy(self)
        other.config = dataclasses.replace(self.config, griffin_lim_iterations=LIVE_ITERATIONS)
        other._waits = False
        return other

    @property
    def lookahead_seconds(self) -> float:
        """The delay of the sound that `decode_stream` gives after its codes."""
        config = self.config
        n_frames = context_frames(config.n_fft, config.hop, config.griffin_lim_iterations) + 1
        if self._waits and self.decoder is not None:
            n_frames += config.frames_per_code * self.decoder.ahead
        return n_frames * config.hop / config.sample_rate

    def vectors(self, codes: Tensor) -> Tensor:
        """The quantised vectors `[B, T, P]` of codes `[B, K, T]`, or of those of the first codebooks alone."""
        first = self.codebooks[0][codes[:, 0]]
        rest = torch.zeros_like(first)
        for k in range(1, codes.shape[1]):
            rest = rest + self.codebooks[k][codes[:, k]]
        return first + self.scales[codes[:, 0]][..., None] * rest

    def compressed(self, vectors: Tensor, n_codebooks: int = 0) -> Tensor:
        """Compressed magnitudes `[B, T, F]` of quantised vectors `[B, T, P]`, the learned correction included.

        Args:
            vectors: as `vectors` gives them.
            n_codebooks: how many codebooks they are the sum of; 0 for all.
        """
        features = vectors @ self.components
        if self.decoder is None:
            return features.clamp(min=0.0)
        return cast(Tensor, self.decoder(vectors, features, n_codebooks or self.n_codebooks))

    def magnitudes(self, vectors: Tensor, n_codebooks: int = 0) -> Tensor:
        """Magnitudes `[B, T * frames_per_code, n_fft / 2 + 1]` of quantised vectors; arguments as for `compressed`."""
        return self._expanded(self.compressed(vectors, n_codebooks))

    def _expanded(self, features: Tensor) -> Tensor:
        """Magnitudes `[B, T * frames_per_code, n_fft / 2 + 1]` of compressed ones `[B, T, F]`."""
        frames = features.reshape(len(features), -1, self.config.n_fft // 2 + 1)
        return frames.pow(1.0 / self.config.power)

    def _corrected_stream(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Compressed magnitudes `[B, n, F]` of blocks of codes, each frame as soon as its correction can be made.

        The correction depends on frames before and after. Those before are kept from block to block; those after are
        waited for or, live, the newest one is repeated.
        """
        behind, ahead = (0, 0) if self.decoder is None else (self.decoder.behind, self.decoder.ahead)
        n_awaited = ahead if self._waits else 0
        n_codebooks = 0
        known: Tensor | None = None  # vectors from `behind` frames before the next to be given on
        n_given = 0  # of those, what was given
        for codes in blocks:
            n_codebooks = self._checked(codes, n_codebooks).shape[1]
            vectors = self.vectors(codes)
            known = vectors if known is None else torch.cat([known, vectors], dim=1)
            n_ready = known.shape[1] - n_awaited
            if n_ready > n_given:
                held = known[:, -1:].expand(-1, ahead - n_awaited, -1)
                yield self.compressed(torch.cat([known, held], dim=1), n_codebooks)[:, n_given:n_ready]
                known, n_given = known[:, max(0, n_ready - behind) :], min(n_ready, behind)
        if known is not None and n_awaited:
            yield self.compressed(known, n_codebooks)[:, n_given:]

    def _checked(self, codes: Tensor, n_codebooks: int) -> Tensor:
        """The codes, after checking their range and that blocks have equally many codebooks (0: first block)."""
        if codes.ndim != 3 or not 1 <= codes.shape[1] <= self.n_codebooks or codes.shape[2] < 1:
            raise AudioError(
                f"The codec got codes of shape {tuple(codes.shape)}; expected [B, 1 to {self.n_codebooks}, T]."
            )
        if n_codebooks not in (0, codes.shape[1]):
            raise AudioError(
                f"The codec got a block of codes of {codes.shape[1]} codebooks after one of {n_codebooks}; expected "
                "as many in each."
            )
        if codes.min() < 0 or codes.max() >= self.codebook_size:
            raise AudioError(
                f"The codec got a code outside 0 to {self.codebook_size - 1}; is it another codec's?"
            )
        return codes


def digest(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """The first 16 hex digits of the SHA-256 of settings and tensors as stored."""
    sha = hashlib.sha256(json.dumps(dict(values), sort_keys=True).encode())
    for name in sorted(tensors):
        sha.update(name.encode())
        sha.update(as_stored(tensors[name]).numpy().tobytes())
    return sha.hexdigest()[:16]
