"""Codecs: the `Codec` protocol, its implementations, and codec folders.

`encodec` and `transformers` are imported only when a codec that needs them is used.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

from silent2music.bandwidth import BandExtension
from silent2music.bundled_codec import DECODE_BLOCK, BundledCodec, digest
from silent2music.config import CodecConfig, SeanetConfig, from_dict, read_values, to_dict
from silent2music.errors import CheckpointError, ConfigError, shown
from silent2music.files import remove_leavings, write_text
from silent2music.hub import find_folder
from silent2music.weights import CONFIG_FILE, WEIGHTS_FILE, build, fill, read_weights, write_weights


class Codec(Protocol):
    """Encodes sound to tokens and decodes tokens to sound, deterministically.

    Attributes:
        sample_rate: of the sound taken and given, in Hz.
        frame_rate: codec frames per second.
        channels: C, of the sound taken and given.
        n_codebooks: K, codes in a codec frame.
        codebook_size: V, entries of a codebook.
        extension: continues the sound above the codec's band, at twice its rate; None if its folder has none.
    """

    sample_rate: int
    frame_rate: float
    channels: int
    n_codebooks: int
    codebook_size: int
    extension: BandExtension | None

    def token_checksum(self, n_codebooks: int = 0) -> str:
        """Identifies all that decides the codes of the first `n_codebooks`, 0 for all; the decoder may change."""

    @property
    def decoder_version(self) -> str:
        """Identifies the decoder, which may improve while tokens stay the same."""

    def encode(self, audio: Tensor, n_codebooks: int = 0) -> Tensor:
        """Samples `[B, C, N]` in [-1, 1] to codes `[B, K, T]` int64, `T = ceil(N / samples per frame)`.

        With `n_codebooks` only those of so many first codebooks.
        """

    def decode(self, codes: Tensor) -> Tensor:
        """Codes `[B, K, T]`, or those of the first codebooks alone, to samples `[B, C, T * samples per frame]`."""

    def codebook_vectors(self) -> Tensor:
        """The vector of each code, `[K, V, D]` float32, on which a token model builds its embeddings."""


# Codecs of others, behind the same protocol


class SeanetCodec(nn.Module):
    """EnCodec's causal SEANet encoder and decoder with its residual vector quantiser, from the `encodec` package.

    For those with the compute to train it; from random weights until then.
    """

    kind = "seanet"
    channels = 1
    extension: BandExtension | None = None

    def __init__(self, config: SeanetConfig) -> None:
        super().__init__()
        from silent2music._torchaudio import ensure_torchaudio

        ensure_torchaudio()
        from encodec.modules import SEANetDecoder, SEANetEncoder
        from encodec.quantization.core_vq import ResidualVectorQuantization

        self.config = config
        self.sample_rate, self.frame_rate = config.sample_rate, config.sample_rate / config.samples_per_code
        self.n_codebooks, self.codebook_size = config.n_codebooks, config.codebook_size
        sizes: dict[str, Any] = {
            "channels": 1,
            "dimension": config.dim,
            "n_filters": config.n_filters,
            "ratios": list(config.ratios),
            "causal": True,
            "norm": "weight_norm",
        }
        self.encoder = SEANetEncoder(**sizes)
        self.decoder = SEANetDecoder(**sizes)
        self.quantizer = ResidualVectorQuantization(
            num_quantizers=config.n_codebooks,
            dim=config.dim,
            codebook_size=config.codebook_size,
            kmeans_iters=10,
        )

    def token_checksum(self, n_codebooks: int = 0) -> str:
        """Of the encoder and the first codebooks, 0 for all."""
        n_codebooks = n_codebooks or self.n_codebooks
        values = {"kind": self.kind, **to_dict(self.config), "n_codebooks": n_codebooks}
        tensors = {f"encoder.{k}": v for k, v in self.encoder.state_dict().items()}
        return digest(values, {**tensors, "codebooks": self.codebook_vectors()[:n_codebooks]})

    @property
    def decoder_version(self) -> str:
        """Of the decoder's weights."""
        return "seanet-" + digest({}, self.decoder.state_dict())

    def codebook_vectors(self) -> Tensor:
        """`[K, V, D]` float32."""
        return torch.stack([layer.codebook.detach() for layer in self.quantizer.layers]).float()

    @torch.no_grad()
    def encode(self, audio: Tensor, n_codebooks: int = 0) -> Tensor:
        """Codes `[B, K, T]` of samples `[B, 1, N]`."""
        padded = functional.pad(audio, (0, -audio.shape[-1] % self.config.samples_per_code))
        n_codebooks = n_codebooks or self.n_codebooks
        return cast(Tensor, self.quantizer.encode(self.encoder(padded), n_q=n_codebooks)).transpose(0, 1)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Samples `[B, 1, T * samples_per_code]` of codes `[B, K, T]`."""
        n_samples = codes.shape[-1] * self.config.samples_per_code
        return cast(Tensor, self.decoder(self.quantizer.decode(codes.transpose(0, 1))))[..., :n_samples]


class EncodecCodec(nn.Module):
    """Official EnCodec weights, through `transformers.EncodecModel`.

    Args:
        model: the loaded model; it must code without overlapping chunks and without normalisation, as the
            24 kHz and 32 kHz models do.
        n_codebooks: how many of its codebooks to use; 0 for as many as its highest bandwidth has.

    Raises:
        ConfigError: if the model codes in normalised or overlapping chunks, or has fewer codebooks.
    """

    kind = "encodec"
    extension: BandExtension | None = None

    def __init__(self, model: Any, n_codebooks: int = 0) -> None:
        super().__init__()
        settings = model.config
        if settings.normalize or settings.chunk_length_s is not None:
            raise ConfigError("This EnCodec model codes normalised chunks; expected a 24 kHz or 32 kHz one.")
        available = len(model.quantizer.layers)
        if n_codebooks > available:
            raise ConfigError(f"n_codebooks is {n_codebooks}; this EnCodec model has {available}.")
        self.model = model.eval()
        self.n_codebooks = n_codebooks or available
        self.sample_rate = int(settings.sampling_rate)
        self.channels = int(settings.audio_channels)
        self.codebook_size = int(settings.codebook_size)
        self.samples_per_code = math.prod(settings.upsampling_ratios)
        self.frame_rate = self.sample_rate / self.samples_per_code

    def token_checksum(self, n_codebooks: int = 0) -> str:
        """Of the encoder and the first codebooks, 0 for all."""
        books = self.codebook_vectors()[: n_codebooks or self.n_codebooks]
        tensors = {f"encoder.{k}": v for k, v in self.model.encoder.state_dict().items()}
        return digest({"kind": self.kind}, {**tensors, "codebooks": books})

    @property
    def decoder_version(self) -> str:
        """Of the decoder's weights."""
        return "encodec-" + digest({}, self.model.decoder.state_dict())

    def codebook_vectors(self) -> Tensor:
        """`[K, V, D]` float32."""
        layers = self.model.quantizer.layers[: self.n_codebooks]
        return torch.stack([layer.codebook.embed.detach() for layer in layers]).float()

    @torch.no_grad()
    def encode(self, audio: Tensor, n_codebooks: int = 0) -> Tensor:
        """Codes `[B, K, T]` of samples `[B, C, N]`."""
        padded = functional.pad(audio, (0, -audio.shape[-1] % self.samples_per_code))
        residual, codes = self.model.encoder(padded), []
        for layer in self.model.quantizer.layers[: n_codebooks or self.n_codebooks]:
            codes.append(layer.encode(residual))
            residual = residual - layer.decode(codes[-1])
        return torch.stack(codes, dim=1)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Samples `[B, C, T * samples_per_code]` of codes `[B, K, T]`."""
        quantised = self.model.quantizer.decode(codes.transpose(0, 1))
        return cast(Tensor, self.model.decoder(quantised))[..., : codes.shape[-1] * self.samples_per_code]


# Files


def save_codec(codec: Codec, folder: Path | str) -> None:
    """Write a codec to `config.json` and `model.safetensors` in a folder, weights in 16 bits, beside its extension.

    Raises:
        AudioError: if the folder cannot be written.
    """
    folder = Path(folder)
    remove_leavings(folder)
    values: dict[str, Any] = {"kind": cast(Any, codec).kind}
    if isinstance(codec, EncodecCodec):
        values |= {"n_codebooks": codec.n_codebooks, "model": codec.model.config.to_dict()}
    else:
        values |= {"settings": to_dict(cast(Any, codec).config)}
    values |= {"checksum": codec.token_checksum(), "decoder_version": codec.decoder_version}
    write_weights(cast(nn.Module, codec).state_dict(), folder / WEIGHTS_FILE)
    if codec.extension is not None:
        codec.extension.save(folder)
    write_text(folder / CONFIG_FILE, json.dumps(values, indent=2, default=str) + "\n")


def load_codec(name: Path | str, download: bool = False) -> Codec:
    """Read what `save_codec` wrote, or a folder of official EnCodec weights.

    Args:
        name: of the folder. With `download` it may be a repository of the Hugging Face hub, such as
            `facebook/encodec_24khz`, or `encodec_24khz` or `encodec_32khz` for short.
        download: ask the hub if there is no such folder.

    Raises:
        CheckpointError: if a file is missing, truncated or does not fit, naming file and field.
    """
    folder = find_folder(name, "codec", download)
    file, weights = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    if not file.exists():
        raise CheckpointError(
            f"{file} is missing; expected a codec folder with {CONFIG_FILE} and {WEIGHTS_FILE}."
        )
    try:
        values = read_values(file)
    except ConfigError as error:
        raise CheckpointError(f"{error} Get the folder again.") from error
    if values.get("model_type") == "encodec":
        return EncodecCodec(_pretrained(folder, values))
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in CODECS:
        raise CheckpointError(f"{file}: field 'kind' is {shown(kind)}; expected one of {', '.join(CODECS)}.")
    with _fitting(file):
        codec = build(lambda: CODECS[kind](values), weights)
    fill(codec.state_dict(), read_weights(weights), weights)
    stated, found = values.get("checksum"), cast(Codec, codec).token_checksum()
    if stated != found:
        raise CheckpointError(
            f"{file}: field 'checksum' is {shown(stated)} and {WEIGHTS_FILE} has {found!r}; "
            "the two files do not belong together, get the folder again."
        )
    loaded = cast(Codec, codec.eval())
    loaded.extension = BandExtension.load(folder)
    return loaded


@contextmanager
def _fitting(file: Path) -> Iterator[None]:
    """Name the config in what its settings raise; those of other programs are checked by nobody before."""
    try:
        yield
    except _MISFITS as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise CheckpointError(
            f"{file}: the settings do not fit this version ({reason}); get the folder again."
        ) from error


_MISFITS = (
    *(ConfigError, SafetensorError, ArithmeticError, AttributeError, LookupError, OSError, RuntimeError),
    *(TypeError, ValueError),
)


def _make_encodec(values: Mapping[str, Any]) -> nn.Module:
    return EncodecCodec(_encodec_model(values["model"]), int(values["n_codebooks"]))


def _encodec_model(settings: Mapping[str, Any]) -> Any:
    """EnCodec of `transformers` by its config, with weights at random."""
    from transformers import EncodecConfig, EncodecModel

    for name, value in settings.items():
        least, most = int("ratio" in name), MAX_LAYERS if "layers" in name else MAX_SETTING
        for number in value if isinstance(value, list) else (value,):
            if isinstance(number, int | float) and not least <= number <= most:
                raise ConfigError(f"{name} is {shown(value)}; expected {least} to {most}")
    try:
        return EncodecModel(EncodecConfig.from_dict(dict(settings)))
    except Exception as error:  # the library's own checks raise what they like
        raise ConfigError(" ".join(str(error).split())[:200] or type(error).__name__) from error


MAX_SETTING, MAX_LAYERS = 768_000, 64
"""No number in a config of EnCodec is more: the highest is a sample rate."""


CODECS: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "bundled": lambda values: BundledCodec(from_dict(CodecConfig, values["settings"], "settings")),
    "seanet": lambda values: SeanetCodec(from_dict(SeanetConfig, values["settings"], "settings")),
    "encodec": _make_encodec,
}
"""Codecs by kind: from the values of a `config.json` to the codec, its weights still to be loaded."""


def _pretrained(folder: Path, values: Mapping[str, Any]) -> Any:
    """Official EnCodec weights: as safetensors, for the others are pickles, which may run any program."""
    from transformers import EncodecModel

    weights = folder / WEIGHTS_FILE
    pickles = [
        path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".th", ".ckpt")
    ]
    if pickles and not weights.exists():
        raise CheckpointError(
            f"{folder / pickles[0]} is a pickle, which may run any program when it is opened; expected "
            f"{WEIGHTS_FILE}: get the weights as safetensors."
        )
    with _fitting(folder / CONFIG_FILE):
        with torch.device("meta"):
            n_asked = sum(tensor.numel() for tensor in _encodec_model(values).state_dict().values())
        if not weights.is_file() or n_asked > weights.stat().st_size:
            raise CheckpointError(
                f"{weights} does not hold the {n_asked} weights that {CONFIG_FILE} asks for; get the folder again."
            )
        with quiet_transformers():
            model, report = EncodecModel.from_pretrained(
                str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    if report["missing_keys"]:
        name = sorted(report["missing_keys"])[0]
        raise CheckpointError(f"Weight '{name}' is missing from {weights}; get the folder again.")
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise CheckpointError(f"Weight '{name}' in {weights} is not finite; get the folder again.")
    return model


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without the bars and reports of `transformers`, which would stand before our sentence."""
    from transformers.utils import logging

    level, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if has_bars:
            logging.enable_progress_bar()


# Piece by piece


FIRST_BLOCKS = (20, 8, 8, 16, 32)
"""Codec frames decoded at once at the start of a stream: small blocks give early sound, large ones cost less."""


def decode_stream(codec: Codec, codes: Iterable[Tensor], live: bool = False) -> Iterator[Tensor]:
    """Decode codes that come a few frames at a time, `[B, K, n]`, to samples `[B, C, n]` as soon as possible.

    Args:
        codec: only the bundled codec can stream; another one decodes everything at the end.
        live: give sound after each frame, with fewer iterations of phase reconstruction.
    """
    if not isinstance(codec, BundledCodec):
        every = list(codes)
        if every:
            yield codec.decode(torch.cat(every, dim=-1))
        return
    if live:
        yield from codec.live().decode_stream(codes)
        return
    yield from codec.decode_stream(_blocks(iter(codes)))


def _blocks(codes: Iterator[Tensor]) -> Iterator[Tensor]:
    """The same frames in blocks, the first ones small, so that sound comes soon."""
    sizes = itertools.chain(FIRST_BLOCKS, itertools.repeat(DECODE_BLOCK))
    size, known = next(sizes), list[Tensor]()
    for frame in itertools.chain.from_iterable(torch.split(piece, 1, dim=-1) for piece in codes):
        known.append(frame)
        if len(known) == size:
            yield torch.cat(known, dim=-1)
            size, known = next(sizes), []
    if known:
        yield torch.cat(known, dim=-1)
