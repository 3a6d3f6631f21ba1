"""The bundled codec: tokens of compressed magnitudes, fitted in closed form.

Its tokens say which magnitudes the sound has, and no phase, which a token model would have to guess; the phase
is rebuilt at the decoder:

    samples -> |STFT| ** 0.4 -> two frames stacked -> principal components -> residual vector quantiser -> codes
    codes -> vectors summed -> components inverted -> ** 2.5 -> magnitudes -> phase -> samples

The codebooks after a core can hold gains of bands instead, relative to the magnitudes that the core's codes decode
to: errors are heard, and measured, on a logarithmic scale, and what the decoder has guessed already needs no bits.

Frame t of the codes covers samples `[t * 960, (t + 1) * 960)`: its STFT frames are centred inside that span.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from silent2music.config import CodecConfig
from silent2music.correction import SILENCE_NORM, GainRefinement, SpectrumCorrection, VectorCorrection
from silent2music.distances import MEL_FLOOR
from silent2music.errors import AudioError, ConfigError
from silent2music.filters import mel_filters
from silent2music.phase import context_frames, rebuild, stft

SILENCE_CODE = 0
"""Entry of the bundled codec's first codebook that is exact silence, whatever the other codebooks say."""


DECODE_BLOCK = 250
"""Codec frames decoded at once, to bound memory."""


LIVE_ITERATIONS = 1
"""Projections of the phase where sound must come soon: each looks 80 ms further ahead."""


MAX_GAIN = 4.0
"""Of a band in nepers of its amplitude, that is coded: 35 dB."""


MAX_STEP = 1.5
"""Of what a gain is predicted from, in nepers: what is farther off is no held note."""


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
        codebooks: `[K, V, P]`; with gains, those after the core have them in their first places.
        scales: `[V]`, by the code of the first codebook.
        prediction: `[2, frames_per_code * G]`, of gains that are predicted: how much counts what the frame before was
            lifted by, and how much the step from it, lifted, to this frame.
        bands: `[G, n_fft / 2 + 1]`, triangles on the mel scale that the gains are of.
        hats: the same shape, which interpolate gains of bands to bins.
    """

    kind = "bundled"
    channels = 1
    components: Tensor
    codebooks: Tensor
    scales: Tensor
    prediction: Tensor
    bands: Tensor
    hats: Tensor

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
        n_gains = config.frames_per_code * config.gain_bands
        n_behind = config.n_codebooks - config.n_core_codebooks if config.n_core_codebooks else 0
        if n_gains and not (n_behind and n_gains <= config.n_components):
            raise ConfigError(
                f"codec.gain_bands is {config.gain_bands}; expected gains of codebooks after a core, "
                f"{config.n_components // config.frames_per_code} at most."
            )
        if config.gain_run < 1:
            raise ConfigError(f"codec.gain_run is {config.gain_run}; expected 1 codec frame or more.")
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
        if n_gains and config.gain_run > 1:
            self.register_buffer("prediction", torch.zeros(2, n_gains))
        n_bins = config.n_fft // 2 + 1
        self.refiner = (
            GainRefinement(config.gain_bands, config.frames_per_code, n_bins, dim, config.refiner_layers)
            if config.gain_bands and config.refiner_layers
            else None
        )
        bands = torch.from_numpy(
            mel_filters(config.sample_rate, config.n_fft, max(1, config.gain_bands))
        ).float()
        self.register_buffer("bands", bands, persistent=False)
        # Between the middles of bands gains are interpolated, beyond the outermost they are these bands'.
        hats = bands / bands.sum(0).clamp(min=1e-6)
        hats[0, 0] = hats[-1, -1] = 1.0
        self.register_buffer("hats", hats, persistent=False)

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
        """Of the transform, the components, the quantiser and, with gains, the correction, as stored in 16 bits."""
        return self.token_checksum(self.n_codebooks)

    def token_checksum(self, n_codebooks: int) -> str:
        """As `checksum`, of what decides the codes of the first codebooks: the core, or all if more are asked for.

        Raises:
            AudioError: if the codec has not so many codebooks.
        """
        if not 1 <= n_codebooks <= self.n_codebooks:
            raise AudioError(f"{n_codebooks} codebooks were asked for; the codec has {self.n_codebooks}.")
        values = {name: getattr(self.config, name) for name in _TOKEN_SETTINGS}
        tensors = self.closed_form()
        n_core = self.config.n_core_codebooks
        if n_codebooks <= n_core:
            tensors.pop("prediction", None)
            values["n_codebooks"] = n_core
            tensors["codebooks"] = self.codebooks[:n_core]
        elif n_core:
            values["n_core_codebooks"] = n_core
        if n_codebooks > n_core and self.config.gain_bands:
            # The gains are relative to what the core decodes to.
            names = ("gain_bands", "gain_emphasis", *(("gain_run",) if self.config.gain_run > 1 else ()))
            values |= {name: getattr(self.config, name) for name in names}
            tensors |= {k: v for k, v in self.state_dict().items() if k.startswith("decoder.")}
        return digest({"kind": self.kind, **values}, tensors)

    def closed_form(self) -> dict[str, Tensor]:
        """The tensors by name, without what a decoder learns."""
        learned = ("decoder.", "refiner.")
        return {k: v for k, v in self.state_dict().items() if not k.startswith(learned)}

    @property
    def decoder_version(self) -> str:
        """The learned corrections, phase method and its effort."""
        networks = [m for m in (self.decoder, self.refiner) if m is not None]
        learned = "".join(digest({}, network.state_dict()) + "-" for network in networks)
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
    def encode(self, audio: Tensor, n_codebooks: int = 0) -> Tensor:
        """Codes `[B, K, T]` int64 of samples `[B, 1, N]` in [-1, 1], `T = ceil(N / samples_per_code)`.

        With `n_codebooks` those of so many first codebooks alone; what a core does not need is not computed.

        Raises:
            AudioError: on another shape, or if the codec has fewer codebooks.
        """
        if audio.ndim != 3 or audio.shape[1] != 1 or audio.shape[2] < 1:
            raise AudioError(f"The codec got samples of shape {tuple(audio.shape)}; expected [B, 1, N].")
        n_codebooks = n_codebooks or self.n_codebooks
        if n_codebooks > self.n_codebooks:
            raise AudioError(f"{n_codebooks} codebooks were asked for; the codec has {self.n_codebooks}.")
        features = self.features(audio[:, 0].float())
        codes = self.quantise(self.projected(features)).transpose(1, 2)
        if n_codebooks > codes.shape[1]:
            codes = torch.cat([codes, self._gain_codes(*self.wanted_gains(features, codes))], dim=1)
        return codes[:, :n_codebooks]

    def project(self, audio: Tensor) -> Tensor:
        """The vectors `[B, T, P]` that are quantised, of samples `[B, N]`."""
        return self.projected(self.features(audio))

    def projected(self, features: Tensor) -> Tensor:
        """As `project`, of features `[B, T, F]`."""
        vectors = features @ self.components.T
        return vectors if self.encoder is None else cast(Tensor, self.encoder(vectors))

    @property
    def n_vector_codebooks(self) -> int:
        """Codebooks of vectors: the core where the others hold gains, otherwise all."""
        return self.config.n_core_codebooks if self.config.gain_bands else self.n_codebooks

    def quantise(self, vectors: Tensor) -> Tensor:
        """Codes `[B, T, n_vector_codebooks]` of vectors `[B, T, P]`, in blocks of frames to bound memory."""
        flat = vectors.flatten(0, 1)
        codes = torch.cat([self._search(flat[i : i + 1024]) for i in range(0, len(flat), 1024)])
        return codes.reshape(*vectors.shape[:2], self.n_vector_codebooks)

    def _search(self, vectors: Tensor) -> Tensor:
        """Codes `[n, K]` of vectors `[n, P]` by the M best: M partial paths are kept from book to book.

        After the core's last book only the best path goes on.
        """
        first = self.codebooks[0]
        n_kept = [min(self.config.n_candidates, first.shape[0])] * self.n_vector_codebooks
        n_kept[self.config.n_core_codebooks - 1] = n_kept[-1] = 1
        score = vectors @ first.T - first.square().sum(-1) / 2
        # Nothing can be added to silence, so it must not stand in for a sound (louder than a sine of -80 dBFS)
        # unlike all that was fitted.
        score[vectors.norm(dim=1) > SILENCE_NORM, SILENCE_CODE] = -math.inf
        best = score.topk(n_kept[0], dim=1).indices
        codes = best[..., None]
        residual = vectors[:, None] - first[best]
        codes = _search_on(codes, residual, self.scales[best], self.codebooks[1 : len(n_kept)], n_kept[1:])
        return torch.where(codes[:, 0, :1] == SILENCE_CODE, SILENCE_CODE, codes[:, 0])

    @torch.no_grad()
    def wanted_gains(self, features: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logarithmic gains that bring what the core decodes to nearest to the music, and how much each counts.

        Args:
            features: of the music, `[B, T, F]`.
            codes: of it, `[B, K, T]`.

        Returns:
            The gains, what they count (1 for the loudest band of a codec frame) and the levels that they are of, each
            `[B, T, frames_per_code * G]`.
        """
        blocks = torch.split(codes[:, : self.config.n_core_codebooks], DECODE_BLOCK, dim=-1)
        levels = [self.levels(magnitudes) for magnitudes in self._magnitude_stream(blocks, waits=True)]
        frames = features.reshape(len(features), -1, self.config.n_fft // 2 + 1)
        wanted = [self.levels(block.pow(1.0 / self.config.power)) for block in torch.split(frames, 1024, 1)]
        music, core = (torch.cat(x, dim=1).reshape(*features.shape[:2], -1) for x in (wanted, levels))
        counts = (self.config.gain_emphasis * (music - music.amax(-1, keepdim=True))).exp()
        return (music - core).clamp(-MAX_GAIN, MAX_GAIN), counts, core

    def levels(self, magnitudes: Tensor) -> Tensor:
        """Natural logarithms of the amplitudes in bands, `[..., G]`, of magnitudes `[..., n_fft / 2 + 1]`."""
        return (magnitudes @ self.bands.T).clamp(min=MEL_FLOOR).log()

    def _gain_codes(self, gains: Tensor, counts: Tensor, levels: Tensor) -> Tensor:
        """Codes `[B, K - n_core_codebooks, T]` of what `wanted_gains` gives; 0 where the core is silent.

        The runs that predictions reach through are coded side by side.
        """
        n_rows, n_frames, n_gains = gains.shape
        run = self.config.gain_run
        missing = -n_frames % run
        # Beyond the end is silence.
        parts = zip(
            *(
                torch.split(functional.pad(x, (0, 0, 0, missing), value=fill).reshape(-1, run, n_gains), 1024)
                for x, fill in ((gains, 0.0), (counts, 0.0), (levels, math.log(MEL_FLOOR)))
            ),
            strict=True,
        )
        found = torch.cat([self.search_gains(*part)[0] for part in parts])
        return found.reshape(n_rows, n_frames + missing, -1)[:, :n_frames].transpose(1, 2)

    def search_gains(self, gains: Tensor, counts: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and predictions of the gains of runs, by the M best in each frame.

        Args:
            gains, counts, levels: as `wanted_gains` gives them, `[n, gain_run, frames_per_code * G]`.

        Returns:
            Codes `[n, gain_run, K - n_core_codebooks]`, 0 where the core is silent, and `[n, gain_run, 2,
            frames_per_code * G]`, what the predictions were made of.
        """
        books = self.codebooks[self.n_vector_codebooks :, :, : gains.shape[-1]]
        n_kept = [min(self.config.n_candidates, self.codebook_size)] * (len(books) - 1) + [1]
        heard = is_heard(levels)
        codes: list[Tensor] = []
        nothing = torch.zeros(len(gains), 1, 0, dtype=torch.int64, device=gains.device)

        def chosen(t: int, predicted: Tensor) -> Tensor:
            rest = (gains[:, t] - predicted)[:, None]
            found = _search_on(nothing, rest, rest.new_ones(rest.shape[:2]), books, n_kept, counts[:, t])[
                :, 0
            ]
            codes.append(torch.where(heard[:, t], found, 0))
            return torch.stack([books[k][found[:, k]] for k in range(len(books))]).sum(0)

        grounds = self._run_gains(levels, chosen)[2]
        return torch.stack(codes, dim=1), grounds

    def _run_gains(
        self,
        levels: Tensor,
        quantised: Callable[[int, Tensor], Tensor],
        start: int = 0,
        past: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Gains frame by frame: what is predicted of each, and what is coded of the rest.

        A gain of a held note goes on as it was, and so does the note's level; how much each of the two is worth in a
        band is what `prediction` holds.

        Args:
            levels: of the core, `[B, T, frames_per_code * G]`.
            quantised: gives, for a frame and what is predicted of its gains `[B, n]`, what is added to that.
            start: number of the first frame in the whole sound.
            past: `[B, 2, G]` levels of the last STFT frame before, with gains and without; none at the start.

        Returns:
            Gains `[B, T, n]`, the past of what follows, and what the predictions were made of, `[B, T, 2, n]`.
        """
        span, run = self.config.frames_per_code, self.config.gain_run
        heard = is_heard(levels)
        gains, grounds = torch.zeros_like(levels), levels.new_zeros(*levels.shape[:2], 2, levels.shape[2])
        for t in range(levels.shape[1]):
            level = levels[:, t]
            predicted = torch.zeros_like(level)
            if past is not None and (start + t) % run:
                after, before = (x.repeat(1, span) for x in past.unbind(1))
                grounds[:, t] = torch.stack([after - before, after - level], 1).clamp(-MAX_STEP, MAX_STEP)
                predicted = (self.prediction * grounds[:, t]).sum(1)
            gains[:, t] = torch.where(heard[:, t], predicted + quantised(t, predicted), 0.0)
            if run > 1:
                last, gain = (x.reshape(len(x), span, -1)[:, -1] for x in (level, gains[:, t]))
                past = torch.stack([last + gain, last], 1)
        return gains, past, grounds

    def vectors(self, codes: Tensor) -> Tensor:
        """What codes `[B, K, T]`, or those of the first codebooks alone, stand for, `[B, T, P]`.

        Behind the vectors come gains, `[B, T, P + frames_per_code * G]`, if there are codes of some.
        """
        n_vectors = min(codes.shape[1], self.n_vector_codebooks)
        nothing = torch.zeros((), device=codes.device)
        rest = sum((self.codebooks[k][codes[:, k]] for k in range(1, n_vectors)), start=nothing)
        vectors = self.codebooks[0][codes[:, 0]] + self.scales[codes[:, 0]][..., None] * rest
        if codes.shape[1] == n_vectors:
            return vectors
        n_gains = self.config.frames_per_code * self.config.gain_bands
        books = range(n_vectors, codes.shape[1])
        gains = sum((self.codebooks[k, :, :n_gains][codes[:, k]] for k in books), start=nothing)
        return torch.cat([vectors, gains], dim=-1)

    def magnitudes(self, vectors: Tensor, n_codebooks: int = 0) -> Tensor:
        """Short-time magnitudes `[B, T * frames_per_code, n_fft / 2 + 1]` of quantised vectors `[B, T, P]`.

        Args:
            vectors: as `vectors` gives them, from the start of a sound or of a run of predicted gains on.
            n_codebooks: how many codebooks they are the sum of; 0 for all.
        """
        return self._expanded(self.compressed(vectors, n_codebooks))

    def compressed(self, vectors: Tensor, n_codebooks: int = 0) -> Tensor:
        """Compressed magnitudes `[B, T, frames_per_code * (n_fft / 2 + 1)]`, from what `magnitudes` takes."""
        core = self._core(vectors, n_codebooks)
        n_features = self.components.shape[1]
        if core.shape[-1] == n_features:
            return core
        features, coded = core.tensor_split([n_features], dim=-1)
        gains, _, _ = self._run_gains(self._levels_of(features), _as_coded(coded))
        return self._refined(torch.cat([features, gains], dim=-1))

    def _core(self, vectors: Tensor, n_codebooks: int = 0) -> Tensor:
        """As `compressed`, by the core alone; what is coded of gains comes behind, as it is."""
        n_codebooks = min(n_codebooks or self.n_codebooks, self.n_vector_codebooks)
        vectors, coded = vectors.tensor_split([self.config.n_components], dim=-1)
        features = vectors @ self.components
        if self.decoder is None:
            features = features.clamp(min=0.0)
        else:
            features = cast(Tensor, self.decoder(vectors, features, n_codebooks))
        return torch.cat([features, coded], dim=-1)

    def _refined(self, core: Tensor) -> Tensor:
        """Compressed magnitudes `[B, T, F]` of those of the core and gains of bands behind them."""
        features, gains = core.tensor_split([self.components.shape[1]], dim=-1)
        bands = gains.reshape(*gains.shape[:2], self.config.frames_per_code, -1)
        if self.refiner is None:
            return self._lifted(features, bands @ self.hats)
        bands, besides, hidden = self.refiner(bands, self._levels_of(features).reshape(bands.shape))
        lifted = self._lifted(features, bands @ self.hats + besides)
        # Silence stays silent beside sound.
        return torch.where(features > 0.0, self.refiner.blend.mixed(lifted, hidden).clamp(min=0.0), 0.0)

    def _lifted(self, features: Tensor, gains: Tensor) -> Tensor:
        """Compressed magnitudes `[B, T, F]` by gains of bins, `[B, T, frames_per_code, n_fft / 2 + 1]`."""
        gains = gains.reshape(features.shape).clamp(-2.0 * MAX_GAIN, 2.0 * MAX_GAIN)
        return features * (self.config.power * gains).exp()

    def _levels_of(self, features: Tensor) -> Tensor:
        """Levels in bands `[B, T, frames_per_code * G]` of compressed magnitudes `[B, T, F]`."""
        return self.levels(self._expanded(features)).reshape(*features.shape[:2], -1)

    def _expanded(self, features: Tensor) -> Tensor:
        """Magnitudes `[B, T * frames_per_code, n_fft / 2 + 1]` of compressed ones `[B, T, F]`."""
        frames = features.reshape(len(features), -1, self.config.n_fft // 2 + 1)
        return frames.pow(1.0 / self.config.power)

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
        """How far behind the codes of all codebooks `decode_stream` gives sound; behind those of a core a little less."""
        config = self.config
        n_frames = context_frames(config.n_fft, config.hop, config.griffin_lim_iterations) + 1
        if self._waits:
            ahead = sum(network.ahead for network in (self.decoder, self.refiner) if network is not None)
            n_frames += config.frames_per_code * ahead
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
            self._magnitude_stream(blocks, self._waits),
            config.n_fft,
            config.hop,
            config.griffin_lim_iterations,
        ):
            yield audio[:, None]

    def _magnitude_stream(self, blocks: Iterable[Tensor], waits: bool) -> Iterator[Tensor]:
        """Magnitudes in order, each as soon as the vectors that its correction looks ahead to are known.

        If it does not wait for them, the newest stands for those.
        """
        blocks = iter(blocks)
        first = next(blocks, None)
        if first is None:
            return
        n_codebooks = self._checked(first).shape[1]
        vectors = self._vector_stream(chain([first], blocks), n_codebooks)
        core = _windowed(vectors, self.decoder, waits, lambda x: self._core(x, n_codebooks))
        if n_codebooks > self.n_vector_codebooks:
            core = _windowed(self._gain_stream(core), self.refiner, waits, self._refined)
        for features in core:
            yield self._expanded(features)

    def _vector_stream(self, blocks: Iterable[Tensor], n_codebooks: int) -> Iterator[Tensor]:
        """What `vectors` gives, block by block."""
        for block in blocks:
            codes = self._checked(block)
            if codes.shape[1] != n_codebooks:
                raise AudioError(
                    "The codec got blocks of codes of fewer or more codebooks than those before."
                )
            yield self.vectors(codes)

    def _gain_stream(self, core: Iterator[Tensor]) -> Iterator[Tensor]:
        """What `_core` gives, block by block, with the gains in place of what is coded of them."""
        past: Tensor | None = None
        start = 0
        for block in core:
            features, coded = block.tensor_split([self.components.shape[1]], dim=-1)
            levels = self._levels_of(features)
            gains, past, _ = self._run_gains(levels, _as_coded(coded), start, past)
            start += block.shape[1]
            yield torch.cat([features, gains], dim=-1)

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


def is_heard(levels: Tensor) -> Tensor:
    """`[..., 1]`: whether levels `[..., n]` are of anything."""
    return (levels > math.log(MEL_FLOOR) + 1e-4).any(-1, keepdim=True)


def _as_coded(coded: Tensor) -> Callable[[int, Tensor], Tensor]:
    """For a frame of `[B, T, n]` what is coded of it, whatever was predicted."""
    return lambda t, predicted: coded[:, t]


def _windowed(
    blocks: Iterable[Tensor],
    network: SpectrumCorrection | GainRefinement | None,
    waits: bool,
    function: Callable[[Tensor], Tensor],
) -> Iterator[Tensor]:
    """A function of frames and those around them, on blocks `[B, n, X]` in order, each frame as soon as it can be.

    Args:
        blocks: of frames.
        network: says how many frames around a frame count; none, if none.
        waits: for those ahead; otherwise the newest stands for them.
        function: from `[B, n, X]` to `[B, n, Y]`.
    """
    behind, ahead = (0, 0) if network is None else (network.behind, network.ahead)
    n_awaited = ahead if waits else 0
    known: Tensor | None = None  # frames from `behind` before the next to be given on
    n_given = 0  # of those, what was given
    for block in blocks:
        known = block if known is None else torch.cat([known, block], dim=1)
        n_ready = known.shape[1] - n_awaited
        if n_ready > n_given:
            held = known[:, -1:].expand(-1, ahead - n_awaited, -1)
            yield function(torch.cat([known, held], dim=1))[:, n_given:n_ready]
            known, n_given = known[:, max(0, n_ready - behind) :], min(n_ready, behind)
    if known is not None and n_awaited:
        yield function(known)[:, n_given:]


def _search_on(
    codes: Tensor,
    residual: Tensor,
    scale: Tensor,
    books: Tensor,
    n_kept: Sequence[int],
    weights: Tensor | None = None,
) -> Tensor:
    """Paths `[n, n_kept[-1], k + len(books)]` that go on from paths `[n, M, k]` through more codebooks.

    Args:
        codes: of the paths so far.
        residual: what they leave, `[n, M, P]`.
        scale: of the codebooks' entries, `[n, M]`.
        books: `[K, V, P]`.
        n_kept: how many paths are kept at each codebook.
        weights: of the squared errors, `[n, P]`; all alike without.
    """
    rows = torch.arange(len(codes), device=codes.device)[:, None]
    for book, n_paths in zip(books, n_kept, strict=True):
        # |r - s c|^2 for every path and entry
        weighted = residual if weights is None else weights[:, None] * residual
        error = (weighted * residual).sum(-1, keepdim=True) - 2.0 * scale[..., None] * (weighted @ book.T)
        squares = book.square().sum(-1) if weights is None else (weights @ book.square().T)[:, None]
        error += scale.square()[..., None] * squares
        chosen = error.flatten(1).topk(n_paths, dim=1, largest=False).indices
        path, entry = chosen // len(book), chosen % len(book)
        codes = torch.cat([codes[rows, path], entry[..., None]], dim=-1)
        scale = scale[rows, path]
        residual = residual[rows, path] - scale[..., None] * book[entry]
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
