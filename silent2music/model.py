"""The whole model: a room in, music out. This file is the data path."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from silent2music.acoustics import analyze
from silent2music.ambient import AmbientEncoder, AmbientFeatures, ambient_features
from silent2music.audio import Recorded, Recording, Waveform
from silent2music.codec import Codec, decode_stream, load_codec, save_codec
from silent2music.conditioning import Conditioning, NullConditioning, drop
from silent2music.config import ModelConfig, Precision, SamplingConfig, from_dict, to_dict
from silent2music.decoder import Decoder
from silent2music.errors import CheckpointError, S2MError
from silent2music.listening import WINDOW_SECONDS, Measured, embed, listen, listen_live, n_steps_of, repeated
from silent2music.sampling import generate_codes, generate_columns, undelayed
from silent2music.stepping import PackedDecoder, Stepper

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
CODEC_FOLDER = "codec"

Progress = Callable[[int, int], None]


class Silent2Music(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="silent2music",
    license="apache-2.0",
    tags=["music-generation", "audio"],
    coders={ModelConfig: (to_dict, lambda values: from_dict(ModelConfig, values))},
):
    """Ambient encoder, autoregressive decoder and codec.

    Example:
        ```python
        model = Silent2Music.from_pretrained("checkpoints/base")
        music = model.generate(read("room.wav"), SamplingConfig(seed=7))
        ```

    Args:
        config: sizes and names.
        codec: turns tokens into sound; frozen here.

    Attributes:
        precision: of the products that generate; the device's best if None.

    Raises:
        CheckpointError: if the codec is another one than the config was written for.
    """

    def __init__(self, config: ModelConfig, codec: Codec) -> None:
        super().__init__()
        n_codebooks = config.decoder.n_codebooks
        checksum = codec.token_checksum(n_codebooks)
        if config.codec_checksum not in ("", checksum):
            raise CheckpointError(
                f"The model was trained on codec tokens {config.codec_checksum}, and the codec given makes "
                f"{checksum}; use the codec that came with the model."
            )
        if config.ambient.frame_rate != codec.frame_rate:
            raise CheckpointError(
                f"ambient.frame_rate is {config.ambient.frame_rate} Hz and the codec's {codec.frame_rate} Hz; "
                "they must be equal, since feature step and codec frame are one."
            )
        self.config = config
        self.codec = codec
        self.codec_checksum = checksum
        self.ambient = AmbientEncoder(config.ambient, config.decoder.dim)
        self.decoder = Decoder(config.decoder, codec.codebook_vectors()[:n_codebooks])
        self.null = NullConditioning(config.decoder.dim, config.ambient.n_global_tokens)
        self.precision: Precision | None = None
        self._packed: tuple[object, PackedDecoder] | None = None

    # ---- from a room to music ----

    def generate(
        self,
        room: Waveform,
        sampling: SamplingConfig,
        seconds: float | None = None,
        drop_room: bool = False,
        progress: Progress | None = None,
    ) -> Waveform:
        """Music for a room.

        Args:
            room: the recording.
            sampling: how tokens are drawn; its `seed` decides the piece.
            seconds: length of the music, the room's own by default; a shorter room is repeated.
            drop_room: ignore the room (the "no room" null).
            progress: called with steps done and steps in all.

        Returns:
            `[C, round(seconds * sample_rate)]` at the codec's rate, at the level the model chose.
        """
        pieces = [piece.samples for piece in self.stream(room, sampling, seconds, drop_room, progress)]
        return Waveform(np.concatenate(pieces, axis=1), self.codec.sample_rate)

    @torch.inference_mode()
    def stream(
        self,
        room: Recorded | Iterable[Waveform],
        sampling: SamplingConfig,
        seconds: float | None = None,
        drop_room: bool = False,
        progress: Progress | None = None,
        measured: Measured | None = None,
    ) -> Iterator[Waveform]:
        """As `generate`, piece by piece as it is decoded; joined, the pieces are what `generate` gives.

        Memory and cost per second do not grow with the length. Where rooms that are longer than
        `listening.WINDOW_SECONDS`, or repeated for longer, are measured, see there.

        Args:
            room: the recording, best from `audio.open_recording` if it may be long; or for live input its sound
                as it comes, in chunks of any length and one rate, with music as long as what was heard. A change
                is in the music a frame, the delay of the last codebook and the codec's `lookahead_seconds` after
                it was heard, 0.48 s with the bundled codec.
            sampling, seconds, drop_room, progress: as for `generate`; `seconds` is for recordings alone.
            measured: of the room; takes its profiles from there, and leaves them there.

        Yields:
            `[C, n]` at the codec's rate.
        """
        config, rate = self.config.ambient, self.codec.sample_rate
        live = not isinstance(room, Waveform | Recording)
        if isinstance(room, Waveform | Recording):
            seconds = seconds or room.seconds
            heard = embed(self.ambient, listen(room, seconds, config, measured))
            n_columns = n_steps_of(seconds, config) + self.decoder.pattern.n_codebooks - 1
            n_left = round(seconds * rate)
        else:
            heard = embed(self.ambient, listen_live(room, config), live=True)
            n_columns, n_left = 0, sys.maxsize
        codes = self._codes(heard, sampling, drop_room, progress, n_columns)
        for audio in decode_stream(self.codec, codes, live=live):
            samples = audio[0, :, :n_left].cpu().numpy()
            n_left -= samples.shape[1]
            if samples.shape[1]:
                yield Waveform(np.clip(samples, -1.0, 1.0), rate)

    def _codes(
        self,
        heard: Iterator[Conditioning],
        sampling: SamplingConfig,
        drop_room: bool,
        progress: Progress | None,
        n_columns: int,
    ) -> Iterator[Tensor]:
        """Codes `[1, K, 1]` of one frame after another."""
        first = next(heard)
        null = self.null(first)
        stepper = Stepper(self.packed_decoder(), null if drop_room else first, null, sampling.guidance)

        def frames() -> Iterator[Tensor]:
            for piece in itertools.chain([first], heard):
                without = self.null(piece)
                piece = without if drop_room else piece
                stepper.hear(piece, without)
                yield piece.frames

        def columns() -> Iterator[Tensor]:
            written = generate_columns(stepper, frames(), null.frames[0, 0], sampling, [sampling.seed])
            for done, column in enumerate(written, 1):
                yield column
                if progress is not None:
                    progress(done, n_columns)

        return undelayed(columns(), stepper.pattern)

    @torch.inference_mode()
    def generate_batch(
        self,
        rooms: Sequence[Waveform],
        sampling: SamplingConfig,
        seeds: Sequence[int],
        seconds: float | None = None,
        drop_room: bool = False,
        progress: Progress | None = None,
    ) -> list[Waveform]:
        """As `generate`, for several rooms at once, a seed for each; long ones one after another.

        Tokens are drawn from logits that are those of `generate` but for rounding, which depends on the batch.
        """
        lengths = [seconds or room.seconds for room in rooms]
        if max(lengths) > WINDOW_SECONDS or max(room.seconds for room in rooms) > WINDOW_SECONDS:
            settings = [dataclasses.replace(sampling, seed=seed) for seed in seeds]
            own = zip(rooms, settings, strict=True)
            return [self.generate(room, one, seconds, drop_room, progress) for room, one in own]
        features = [self.features(room, length) for room, length in zip(rooms, lengths, strict=True)]
        conditioning = self.condition(*self._collate(features))
        null = self.null(conditioning)
        if drop_room:
            conditioning = null
        codes = generate_codes(self.packed_decoder(), conditioning, null, sampling, seeds, progress)
        pieces = []
        for row, step, length in zip(codes, features, lengths, strict=True):
            audio = self.codec.decode(row[None, :, : len(step.frames)])[0].cpu().numpy()
            n_samples = round(length * self.codec.sample_rate)
            pieces.append(Waveform(np.clip(audio[:, :n_samples], -1.0, 1.0), self.codec.sample_rate))
        return pieces

    def packed_decoder(self) -> PackedDecoder:
        """The decoder's weights laid out for generation: made once, and again after a change of the weights."""
        state = (self.device, self.precision, [weight._version for weight in self.decoder.parameters()])
        if self._packed is None or self._packed[0] != state:
            self._packed = (state, PackedDecoder(self.decoder, self.precision))
        return self._packed[1]

    def features(self, room: Waveform, seconds: float | None = None) -> AmbientFeatures:
        """Ambient features for `seconds` of music: the room's first stretch, or the room repeated."""
        seconds = seconds or room.seconds
        room = repeated(room, seconds)
        features = ambient_features(room, analyze(room), self.config.ambient)
        n_steps = int(np.ceil(seconds * self.codec.frame_rate - 1e-6))
        return AmbientFeatures(features.frames[:n_steps], features.scalars)

    def condition(self, frames: Tensor, scalars: Tensor, mask: Tensor) -> Conditioning:
        """Conditioning embeddings from `[B, S, n_features]`, `[B, n_scalars]` and a mask `[B, S]`."""
        conditioning: Conditioning = self.ambient(frames, scalars, mask)
        return conditioning

    def _collate(self, features: Sequence[AmbientFeatures]) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of different lengths as one padded batch with its mask."""
        n_steps = max(len(f.frames) for f in features)
        frames = np.stack([np.pad(f.frames, ((0, n_steps - len(f.frames)), (0, 0))) for f in features])
        mask = np.stack([np.arange(n_steps) < len(f.frames) for f in features])
        scalars = np.stack([f.scalars for f in features])
        return tuple(torch.from_numpy(a).to(self.device) for a in (frames, scalars, mask))  # type: ignore[return-value]

    # ---- learning ----

    def token_nll(self, codes: Tensor, mask: Tensor, conditioning: Conditioning) -> Tensor:
        """Teacher-forced negative log-likelihood, `[B, K]`, mean over the valid frames, in nats a token.

        Args:
            codes: `[B, K, T]`.
            mask: `[B, T]` bool.
            conditioning: of T steps.
        """
        pattern = self.decoder.pattern
        grid = pattern.apply(codes.masked_fill(~mask[:, None], pattern.filler))
        logits = self.decoder(grid, conditioning)
        n_codebooks = codes.shape[1]
        # What is beyond a cell's own frame is masked by undoing the delay of the loss, not of the logits.
        nll = functional.cross_entropy(
            logits.flatten(0, 2).float(),
            grid.flatten().clamp_max(self.decoder.config.codebook_size - 1),
            reduction="none",
        ).view_as(grid)
        keep = mask[:, None].expand(-1, n_codebooks, -1)
        return (pattern.undo(nll) * keep).sum(dim=2) / keep.sum(dim=2).clamp_min(1)

    def forward(self, codes: Tensor, features: Tensor, scalars: Tensor, mask: Tensor, keep: Tensor) -> Tensor:
        """Training losses of a batch of pairs; feature step s and codec frame s are the same stretch of time.

        Args:
            codes: `[B, K, T]` int64.
            features: `[B, T, n_features]`.
            scalars: `[B, n_scalars]`.
            mask: `[B, T]` bool, false for padding.
            keep: `[B]` bool; the other rows learn "no room".

        Returns:
            `[B, K]`, in nats a token.
        """
        return self.token_nll(codes, mask, self.condition_or_not(features, scalars, mask, keep))

    def condition_or_not(self, features: Tensor, scalars: Tensor, mask: Tensor, keep: Tensor) -> Conditioning:
        """Conditioning embeddings of the rows to `keep` `[B]`, and "no room" for the others."""
        conditioning = self.condition(features, scalars, mask)
        return drop(conditioning, self.null(conditioning), keep)

    def room_contrast(
        self, codes: Tensor, features: Tensor, scalars: Tensor, mask: Tensor
    ) -> dict[str, Tensor]:
        """What the room is worth: `[B]` nats a token under the `true` room, the next row's and none.

        Arguments as in `forward`; at least two rows, or `shuffled` would be `true`.
        """
        conditioning = self.condition(features, scalars, mask)
        other = self.condition(features.roll(1, dims=0), scalars.roll(1, dims=0), mask)
        rooms = {"true": conditioning, "shuffled": other, "dropped": self.null(conditioning)}
        return {name: self.token_nll(codes, mask, room).mean(dim=1) for name, room in rooms.items()}

    # ---- files ----

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.decoder.bias.device

    def own_state(self) -> dict[str, Tensor]:
        """Weights without the codec's and without what is derived from the codec."""
        return {
            name: value
            for name, value in self.state_dict().items()
            if not name.startswith("codec.") and name != "decoder.vectors"
        }

    def _save_pretrained(self, save_directory: Path) -> None:
        """`model.safetensors` in 16 bit, the codec beside it, `config.json` and a model card if there is none."""
        state = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in self.own_state().items()}
        save_file(state, save_directory / WEIGHTS_FILE, metadata={"format": "pt"})
        save_codec(self.codec, save_directory / CODEC_FOLDER)
        values = to_dict(self.config) | {"codec_checksum": self.codec_checksum}
        (save_directory / CONFIG_FILE).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
        card = save_directory / "README.md"
        if not card.exists():
            n_weights = sum(v.numel() for v in state.values())
            card.write_text(
                "---\nlibrary_name: silent2music\nlicense: apache-2.0\ntags: [music-generation, audio]\n---\n\n"
                f"# {self.config.name}\n\nA silent2music model with {n_weights / 1e6:.1f} M weights. "
                "Say here what it was trained on, for how long, and what was measured.\n"
            )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Silent2Music:
        """Load a folder written by `save_pretrained`, or a hub repository if there is no such folder.

        Raises:
            CheckpointError: on a missing, truncated or mismatching file, named.
        """
        folder = Path(pretrained_model_name_or_path)
        if folder.is_dir():
            _check_files(folder)
        model: Silent2Music = super().from_pretrained(pretrained_model_name_or_path, **options)
        return model.eval()

    @classmethod
    def _from_pretrained(cls, *, model_id: str, config: ModelConfig, **options: Any) -> Silent2Music:  # type: ignore[override]
        folder = Path(model_id)
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            keys = ("revision", "cache_dir", "force_download", "local_files_only", "token")
            folder = Path(snapshot_download(model_id, **{k: options[k] for k in keys if k in options}))
            _check_files(folder)
        if isinstance(config, dict):
            # The mixin decodes by annotation, and with postponed annotations it sees only a string.
            config = from_dict(ModelConfig, config)
        model = cls(config, load_codec(folder / CODEC_FOLDER))
        model.load_weights(folder)
        return model

    def load_weights(self, folder: Path) -> None:
        """Take over the weights of a model folder of the same sizes, whose codec makes the same tokens.

        Raises:
            CheckpointError: on a missing, damaged or mismatching file, naming the field.
        """
        _check_files(folder)
        stated = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["codec_checksum"]
        if stated not in ("", self.codec_checksum):
            raise CheckpointError(
                f"{folder} was trained on codec tokens {stated}, and the codec given makes "
                f"{self.codec_checksum}; use the codec that came with the model."
            )
        try:
            state = load_file(folder / WEIGHTS_FILE)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{folder / WEIGHTS_FILE} is damaged ({error}); copy the model folder again."
            ) from error
        _load_strictly(self, state, folder / WEIGHTS_FILE)


def _check_files(folder: Path) -> None:
    """Refuse a folder that lacks a file or whose config is no config, before anything is built from it."""
    for name in (CONFIG_FILE, WEIGHTS_FILE, CODEC_FOLDER):
        if not (folder / name).exists():
            raise CheckpointError(
                f"{folder} has no {name}; expected a model folder with config, weights and codec."
            )
    try:
        from_dict(ModelConfig, json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")))
    except (ValueError, S2MError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE} does not fit this version ({error}).") from error


def _load_strictly(model: Silent2Music, state: dict[str, Tensor], file: Path) -> None:
    """Copy weights in, naming the first that is missing, unknown or of another shape."""
    own = model.own_state()
    for name in sorted(own.keys() ^ state.keys()):
        where = "is missing from" if name in own else "is not known to the code but stands in"
        raise CheckpointError(f"Weight '{name}' {where} {file}; the model was written by another version.")
    for name, value in own.items():
        if value.shape != state[name].shape:
            raise CheckpointError(
                f"Weight '{name}' in {file} has shape {tuple(state[name].shape)}; config.json expects "
                f"{tuple(value.shape)}."
            )
        value.copy_(state[name])
