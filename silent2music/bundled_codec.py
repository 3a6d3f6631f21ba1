"""The bundled codec: tokens of compressed magnitudes, fitted in closed form.

Its tokens say which magnitudes the sound has, and no phase, which a token model would have to guess; the phase
is rebuilt at the decoder:

    samples -> |STFT| ** 0.4 -> two frames stacked -> principal components -> residual vector quantiser -> codes
    codes -> vectors summed -> components inverted -> ** 2.5 -> magnitudes -> phase -> samples

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

from silent2music.config import CodecConfig
from silent2music.correction import SILENCE_NORM, SpectrumCorrection, VectorCorrection
from silent2music.errors import AudioError, ConfigError
from silent2music.phase import context_frames, rebuild, stft

SILENCE_CODE = 0
"""Entry of the bundled codec's first codebook that is exact silence, whatever the other codebooks say."""


DECODE_BLOCK = 250
"""Codec frames decoded at once, to bound memory."""


LIVE_ITERATIONS = 1
"""Projections of the phase where sound must come soon: each looks 80 ms further ahead."""


_TOKEN_SETTINGS = (
    "sample_rate", "n_fft", "hop", "frames_per_code", "power", "n_components", "n_codebooks", "codebook_size",
    "n_candidates",
)  # fmt: skip
"""Settings that decide which tokens a sound gets; the others belong to the decoder."""


class BundledCodec(nn.Module):
    """Principal components of compressed magnitudes, quantised residually; fitted by `training.codec.fit_codec`.

    The components are taken about zero, not about the mean, so that silence is the zero vector and a change
    of level scales a vector. The first codebook says level and coarse shape; each of its entries has a scale,
    and the other codebooks quantise what is left in that scale, so that a quiet frame is coded as finely as a
    loud one and a wrong code can never be loud in it. Entry `SILENCE_CODE` is zero with scale zero.

    Attributes:
        components: `[P, frames_per_code * (n_fft / 2 + 1)]`, orthonormal rows.
        codebooks: `[K, V, P]`.
        scales: `[V]`, by the code of the first codebook.
    """

    kind = "bundled"
    channels = 1
    components: Tensor
    codebooks: Tensor
    scales: Tensor

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        if config.n_fft % config.hop or config.n_fft % 2:
            raise ConfigError(
                f"codec.hop is {config.hop}; expected a divisor of the even codec.n_fft {config.n_fft}."
            )
        if not 0 <= config.n_core_codebooks <= config.n_codebooks:
            raise ConfigError(
                f"codec.n_core_codebooks is {config.n_core_codebooks}; expected 0 to codec.n_codebooks "
                f"({config.n_codebooks})."
            )
        self.config = config
        n_features = config.frames_per_code * (config.n_fft // 2 + 1)
        self.register_buffer("components", torch.zeros(config.n_components, n_features))
        self.register_buffer(
            "codebooks", torch.zeros(config.n_codebooks, config.codebook_size, config.n_components)
        )
        self.register_buffer("scales", torch.zeros(config.codebook_size))
        n_components, dim = config.n_components, config.correction_dim
        self._waits = True
        self.encoder = (
            VectorCorrection(n_components, dim, config.encoder_layers) if config.encoder_layers else None
        )
        self.decoder = (
            SpectrumCorrection(
                n_components,
                config.n_codebooks,
                config.frames_per_code,
                config.n_fft // 2 + 1,
                dim,
                config.decoder_layers,
            )
            if config.decoder_layers
            else None
        )

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        return self.config.sample_rate

    @property
    def frame_rate(self) -> float:
        """Codec frames per second."""
        return self.config.frame_rate

    @property
    def n_codebooks(self) -> int:
        """K."""
        return self.config.n_codebooks

    @property
    def codebook_size(self) -> int:
        """V."""
        return self.config.codebook_size

    @property
    def checksum(self) -> str:
        """Of the transform, the components and the quantiser, as stored in 16 bits."""
        return self.token_checksum(self.n_codebooks)

    def token_checksum(self, n_codebooks: int) -> str:
        """As `checksum`, of what decides the codes of the first codebooks: the core, or all if more are asked for.

        Raises:
            AudioError: if the codec has not so many codebooks.
        """
        if not 1 <= n_codebooks <= self.n_codebooks:
            raise AudioError(f"{n_codebooks} codebooks were asked for; the codec has {self.n_codebooks}.")
        values = {name: getattr(self.config, name) for name in _TOKEN_SETTINGS}
        tensors = {k: v for k, v in self.state_dict().items() if not k.startswith("decoder.")}
        n_core = self.config.n_core_codebooks
        if n_codebooks <= n_core:
            values["n_codebooks"] = n_core
            tensors["codebooks"] = self.codebooks[:n_core]
        elif n_core:
            values["n_core_codebooks"] = n_core
        return digest({"kind": self.kind, **values}, tensors)

    @property
    def decoder_version(self) -> str:
        """The learned correction, phase method and its effort."""
        learned = "" if self.decoder is None else digest({}, self.decoder.state_dict()) + "-"
        return f"{learned}phase-gradient-griffin-lim-{self.config.griffin_lim_iterations}"

    def codebook_vectors(self) -> Tensor:
        """`[K, V, P]` float32: the first codebook as it is, the others relative to its scale."""
        return self.codebooks.float()

    def features(self, audio: Tensor) -> Tensor:
        """Compressed magnitudes `[B, T, frames_per_code * (n_fft / 2 + 1)]` of samples `[B, N]`."""
        config = self.config
        missing = -audio.shape[-1] % config.samples_per_code
        spectrum = stft(functional.pad(audio, (0, missing)), config.n_fft, config.hop)
        compressed = spectrum.abs().pow(config.power)
        return compressed.reshape(len(audio), -1, self.components.shape[1])

    @torch.no_grad()
    def encode(self, audio: Tensor) -> Tensor:
        """Codes `[B, K, T]` int64 of samples `[B, 1, N]` in [-1, 1], `T = ceil(N / samples_per_code)`.

        Raises:
            AudioError: on another shape.
        """
        if audio.ndim != 3 or audio.shape[1] != 1 or audio.shape[2] < 1:
            raise AudioError(f"The codec got samples of shape {tuple(audio.shape)}; expected [B, 1, N].")
        return self.quantise(self.project(audio[:, 0].float())).transpose(1, 2)

    def project(self, audio: Tensor) -> Tensor:
        """The vectors `[B, T, P]` that are quantised, of samples `[B, N]`."""
        vectors = self.features(audio) @ self.components.T
        return vectors if self.encoder is None else cast(Tensor, self.encoder(vectors))

    def quantise(self, vectors: Tensor) -> Tensor:
        """Codes `[B, T, K]` of vectors `[B, T, P]`, in blocks of frames to bound memory."""
        flat = vectors.flatten(0, 1)
        codes = torch.cat([self._search(flat[i : i + 1024]) for i in range(0, len(flat), 1024)])
        return codes.reshape(*vectors.shape[:2], self.n_codebooks)

    def _search(self, vectors: Tensor) -> Tensor:
        """Codes `[n, K]` of vectors `[n, P]` by the M best: M partial paths are kept from book to book.

        After the core's last book only the best path goes on.
        """
        first = self.codebooks[0]
        n_kept = [min(self.config.n_candidates, first.shape[0])] * self.n_codebooks
        n_kept[self.config.n_core_codebooks - 1] = n_kept[-1] = 1
        score = vectors @ first.T - first.square().sum(-1) / 2
        # Nothing can be added to silence, so it must not stand in for a sound (louder than a sine of -80 dBFS)
        # unlike all that was fitted.
        score[vectors.norm(dim=1) > SILENCE_NORM, SILENCE_CODE] = -math.inf
        best = score.topk(n_kept[0], dim=1).indices
        codes = best[..., None]
        residual = vectors[:, None] - first[best]
        scale = self.scales[best]
        for k in range(1, self.n_codebooks):
            book = self.codebooks[k]
            # |r - s c|^2 for every path and entry
            error = residual.square().sum(-1, keepdim=True) - 2.0 * scale[..., None] * (residual @ book.T)
            error += scale.square()[..., None] * book.square().sum(-1)
            chosen = error.flatten(1).topk(n_kept[k], dim=1, largest=False).indices
            path, entry = chosen // self.codebook_size, chosen % self.codebook_size
            rows = torch.arange(len(vectors), device=vectors.device)[:, None]
            codes = torch.cat([codes[rows, path], entry[..., None]], dim=-1)
            scale = scale[rows, path]
            residual = residual[rows, path] - scale[..., None] * book[entry]
        return torch.where(codes[:, 0, :1] == SILENCE_CODE, SILENCE_CODE, codes[:, 0])

    def vectors(self, codes: Tensor) -> Tensor:
        """What codes `[B, K, T]`, or those of the first codebooks alone, stand for, `[B, T, P]`."""
        rest = sum(
            (self.codebooks[k][codes[:, k]] for k in range(1, codes.shape[1])),
            start=torch.zeros((), device=codes.device),
        )
        return self.codebooks[0][codes[:, 0]] + self.scales[codes[:, 0]][..., None] * rest

    def magnitudes(self, vectors: Tensor, n_codebooks: int = 0) -> Tensor:
        """Short-time magnitudes `[B, T * frames_per_code, n_fft / 2 + 1]` of quantised vectors `[B, T, P]`.

        Args:
            vectors: as `vectors` gives them.
            n_codebooks: how many codebooks they are the sum of; 0 for all.
        """
        features = self.compressed(vectors, n_codebooks)
        frames = features.reshape(len(vectors), -1, self.config.n_fft // 2 + 1)
        return frames.pow(1.0 / self.config.power)

    def compressed(self, vectors: Tensor, n_codebooks: int = 0) -> Tensor:
        """Compressed magnitudes `[B, T, frames_per_code * (n_fft / 2 + 1)]`, from what `magnitudes` takes."""
        features = vectors @ self.components
        if self.decoder is None:
            return features.clamp(min=0.0)
        return cast(Tensor, self.decoder(vectors, features, n_codebooks or self.n_codebooks))

    def decode(self, codes: Tensor) -> Tensor:
        """Samples `[B, 1, T * samples_per_code]` of codes `[B, K, T]`, or of those of the first codebooks alone.

        Raises:
            AudioError: on another shape or a code out of range.
        """
        blocks = (codes[..., i : i + DECODE_BLOCK] for i in range(0, max(1, codes.shape[-1]), DECODE_BLOCK))
        return torch.cat(list(self.decode_stream(blocks)), dim=-1)

    def live(self) -> BundledCodec:
        """The same codec, weights shared, that gives sound as early as it can.

        The phase makes less effort, and the correction waits for nothing: the newest vector stands for those to come.
        """
        other = copy.copy(self)
        other.config = dataclasses.replace(self.config, griffin_lim_iterations=LIVE_ITERATIONS)
        other._waits = False
        return other

    @property
    def lookahead_seconds(self) -> float:
        """How far behind the codes `decode_stream` gives sound."""
        config = self.config
        n_frames = context_frames(config.n_fft, config.hop, config.griffin_lim_iterations) + 1
        if self.decoder is not None and self._waits:
            n_frames += config.frames_per_code * self.decoder.ahead
        return n_frames * config.hop / config.sample_rate

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
        for audio in rebuild(
            self._magnitude_stream(blocks), config.n_fft, config.hop, config.griffin_lim_iterations
        ):
            yield audio[:, None]

    def _magnitude_stream(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Magnitudes in order, each as soon as the vectors that its correction looks ahead to are known."""
        behind, ahead = (0, 0) if self.decoder is None else (self.decoder.behind, self.decoder.ahead)
        n_awaited = ahead if self._waits else 0
        span, n_codebooks = self.config.frames_per_code, 0
        known: Tensor | None = None  # vectors from `behind` before the next to be given on
        n_given = 0  # of those, whose magnitudes were given
        for block in blocks:
            vectors, n_codebooks = self.vectors(self._checked(block)), block.shape[1]
            known = vectors if known is None else torch.cat([known, vectors], dim=1)
            n_ready = known.shape[1] - n_awaited
            if n_ready > n_given:
                held = known[:, -1:].expand(-1, ahead - n_awaited, -1)
                yield self.magnitudes(torch.cat([known, held], dim=1), n_codebooks)[
                    :, n_given * span : n_ready * span
                ]
                known, n_given = known[:, max(0, n_ready - behind) :], min(n_ready, behind)
        if known is not None and n_awaited:
            yield self.magnitudes(known, n_codebooks)[:, n_given * span :]

    def _checked(self, codes: Tensor) -> Tensor:
        """The codes, if they can be this codec's."""
        if codes.ndim != 3 or not 1 <= codes.shape[1] <= self.n_codebooks or codes.shape[2] < 1:
            raise AudioError(
                f"The codec got codes of shape {tuple(codes.shape)}; expected [B, 1 to {self.n_codebooks}, T]."
            )
        if codes.min() < 0 or codes.max() >= self.codebook_size:
            raise AudioError(
                f"The codec got a code outside 0 to {self.codebook_size - 1}; is it another codec's?"
            )
        return codes


def as_stored(tensor: Tensor) -> Tensor:
    """As it is written to disk: floating point in 16 bits, on the CPU."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor.half() if tensor.is_floating_point() else tensor


def digest(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """The first 16 hex digits of the SHA-256 of settings and tensors as stored."""
    sha = hashlib.sha256(json.dumps(dict(values), sort_keys=True).encode())
    for name in sorted(tensors):
        sha.update(name.encode())
        sha.update(as_stored(tensors[name]).numpy().tobytes())
    return sha.hexdigest()[:16]
