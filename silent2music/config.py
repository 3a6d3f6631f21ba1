"""All settings and their defaults.

A checkpoint holds the resolved settings; a recipe (TOML) states only what differs; `--set decoder.dim=512`
overrides one value. Unknown keys and wrong types are errors that name the key. Derived quantities are
properties.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from silent2music.errors import CheckpointError, ConfigError, shown
from silent2music.files import malformed, parse_json, read_small

T = TypeVar("T")

ABOVE_0 = math.ulp(0.0)

MOST = 1e9
"""The bound of settings that `_BOUNDS` does not name."""

MOST_CODEC_WEIGHTS = 2**28
"""Of the bundled codec, a hundred times those of the one that ships."""

_BOUNDS: dict[str, tuple[float, float]] = {
    name: (low, high)
    for low, high, names in (
        # Sizes of networks and codecs: more than anybody has, and less than what a machine dies of.
        (1, 65_536, "codebook_dim codebook_size dim hop n_components note_dim writer_dim"),
        (2, 65_536, "n_fft"),
        (0, 65_536, "correction_dim"),
        (1, 4096, "discriminator_filters n_filters ratios"),
        (1, 1024, "kernel_size n_candidates n_harmonics n_heads n_mels"),
        (2, 1024, "n_bands"),
        (0, 1024, "n_global_tokens griffin_lim_iterations"),
        (1, 256, "frames_per_code n_codebooks n_layers"),
        (0, 256, "decoder_layers"),
        (1, 1e6, "attention_window"),
        (1000, 768_000, "sample_rate"),
        (ABOVE_0, 1000, "frame_rate"),
        (-11, 11, "transposition"),
        (ABOVE_0, 64, "ffn_multiple"),
        (ABOVE_0, 1e12, "rope_base"),
        (ABOVE_0, 1, "power"),
        # Training.
        (1, 65_536, "batch_size gradient_accumulation"),
        (0, 100, "learning_rate weight_decay"),
        (ABOVE_0, 1e6, "gradient_clip"),
        (1, MOST, "validate_every"),
        (1, 1e6, "n_validation_crops n_validation_pairs"),
        (ABOVE_0, 1000, "selfplay_beta"),
        (0, 1, "codebook_dropout control_dropout dropout ema_decay sketch_dropout validation_share"),
        (0, 1e6, "checkpoint_minutes max_minutes"),
        (ABOVE_0, 1e5, "cached_minutes"),
        # Lengths and levels of sound.
        (ABOVE_0, 3600, "crop_seconds max_seconds min_music_seconds min_silence_seconds seconds"),
        (0, 3600, "crossfade_seconds lookahead_seconds max_extension"),
        (-120, 0, "level_min_dbfs level_max_dbfs quiet_db"),
        (0, 24, "equaliser_db"),
        (0, 120, "above_floor_db below_music_db"),
        (-70, -5, "lufs"),
        (-20, 0, "true_peak"),
        # Drawing, loops, and how much of all.
        (0, 100, "adherence echo guidance score_guidance temperature"),
        (ABOVE_0, 1, "top_p"),
        (0, 1, "following"),
        (1, 1024, "candidates variations workers"),
        (1, 64, "stingers"),
        (1, 3, "order"),
        (30, 300, "tempo"),
        (1, 64, "beats_per_bar"),
        (0, 1024, "bars"),
        (0, 0.5, "tempo_tolerance"),
        (0, 1e6, "codec_hours hours n_eval"),
        (0, 2**63 - 1, "seed"),
    )
    for name in names.split()
}
"""What numbers are at least (`ABOVE_0`: more than 0) and at most, by setting; all others are 0 to `MOST`."""


def _check_bounds(config: Any, section: str, **own: tuple[float, float]) -> None:
    """Refuse settings that are out of `_BOUNDS`, NaN among them; those that are None are not given and not checked.

    Args:
        own: bounds that mean something else in this config.
    """
    for field_ in dataclasses.fields(config):
        value = getattr(config, field_.name)
        low, high = own.get(field_.name) or _BOUNDS.get(field_.name, (0, MOST))
        values = (
            value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else (value,)
        )
        for number in values:
            if isinstance(number, int | float) and not low <= number <= high:
                expected = (
                    f"more than 0 and at most {high:.15g}" if low == ABOVE_0 else f"{low} to {high:.15g}"
                )
                raise ConfigError(f"{section}{field_.name} is {shown(number)}; expected {expected}.")


@dataclass(frozen=True)
class CodecConfig:
    """The bundled codec: compressed STFT magnitudes, principal components, residual quantiser, phase.

    `n_candidates` paths are kept in the quantiser's search. The decoder's learned correction exists where
    `decoder_layers` is not 0; `correction_dim` is its width, and each of its layers sees `correction_behind` codec frames
    more of the past. The learned encoder before the quantiser exists where `encoder_layers` is not 0, of width
    `encoder_dim`.
    """

    sample_rate: int = 24_000
    n_fft: int = 1920
    hop: int = 480
    frames_per_code: int = 2
    power: float = 0.4
    n_components: int = 256
    n_codebooks: int = 8
    codebook_size: int = 1024
    n_candidates: int = 4
    griffin_lim_iterations: int = 4
    decoder_layers: int = 0
    correction_dim: int = 192
    correction_behind: int = 4
    encoder_layers: int = 0
    encoder_dim: int = 192

    def __post_init__(self) -> None:
        _check_bounds(self, "codec.")
        if self.n_fft % self.hop or self.n_fft % 2:
            raise ConfigError(
                f"codec.hop is {self.hop}; expected a divisor of the even codec.n_fft {self.n_fft}."
            )
        n_features = self.frames_per_code * (self.n_fft // 2 + 1)
        n_weights = self.n_components * (n_features + self.n_codebooks * self.codebook_size)
        if n_weights > MOST_CODEC_WEIGHTS:
            raise ConfigError(
                f"codec.n_components={self.n_components} with n_codebooks={self.n_codebooks}, "
                f"codebook_size={self.codebook_size} and n_fft={self.n_fft} makes {n_weights} weights; expected at "
                f"most {MOST_CODEC_WEIGHTS}."
            )

    @property
    def samples_per_code(self) -> int:
        """Samples between two codec frames."""
        return self.hop * self.frames_per_code

    @property
    def frame_rate(self) -> float:
        """Codec frames per second."""
        return self.sample_rate / self.samples_per_code


@dataclass(frozen=True)
class SeanetConfig:
    """EnCodec's own network, as the `encodec` package has it."""

    sample_rate: int = 24_000
    dim: int = 128
    n_filters: int = 16
    ratios: tuple[int, ...] = (8, 6, 5, 4)
    n_codebooks: int = 8
    codebook_size: int = 1024

    def __post_init__(self) -> None:
        _check_bounds(self, "seanet.")
        if not self.ratios:
            raise ConfigError("seanet.ratios is empty; expected the stride of each layer.")

    @property
    def samples_per_code(self) -> int:
        """Samples between two codec frames."""
        return math.prod(self.ratios)


@dataclass(frozen=True)
class AmbientConfig:
    """The room's features and the size of the network that embeds them."""

    sample_rate: int = 24_000
    frame_rate: float = 25.0
    n_mels: int = 64
    n_fft: int = 1024
    dim: int = 192
    n_layers: int = 5
    kernel_size: int = 7
    lookahead_seconds: float = 2.0
    n_global_tokens: int = 4
    dropout: float = 0.1

    def __post_init__(self) -> None:
        _check_bounds(self, "ambient.")
        if self.kernel_size % 2 == 0 or self.n_fft % 2:
            raise ConfigError(
                f"ambient.kernel_size is {self.kernel_size} and n_fft {self.n_fft}; expected an odd and an even number."
            )


@dataclass(frozen=True)
class DecoderConfig:
    """The autoregressive transformer over codec tokens; `takes_sketch` says whether a sketch may steer it."""

    dim: int = 320
    n_layers: int = 6
    n_heads: int = 5
    ffn_multiple: float = 4.0
    attention_window: int = 500
    dropout: float = 0.1
    n_codebooks: int = 8
    codebook_size: int = 1024
    codebook_dim: int = 256
    rope_base: float = 10_000.0
    takes_sketch: bool = False

    def __post_init__(self) -> None:
        _check_bounds(self, "decoder.")
        if self.hidden_dim < 1:
            raise ConfigError(
                f"decoder.ffn_multiple is {self.ffn_multiple}, too little for dim={self.dim}; raise it."
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.n_heads

    @property
    def hidden_dim(self) -> int:
        """Width of the gated MLP."""
        return _hidden_dim(self.dim, self.ffn_multiple)


def _hidden_dim(dim: int, multiple: float) -> int:
    """Width of a gated MLP with as many weights as a plain one of `multiple * dim`, a multiple of 16."""
    return int(dim * multiple * 2 / 3) // 16 * 16


COMPOSER_FOLDER, SKETCH_FOLDER = "composer", "sketch"
"""Where a model folder has its composer and its sketch, if it has them."""

ROOM_CONTROLS = ("room_frames", "room_scalars")
"""The controls that are measured from the recording; a model has others only if its config names them."""


@dataclass(frozen=True)
class ModelConfig:
    """A whole model, as stored in its `config.json`.

    `controls` are names in `signals.CONTROLS`. `guidance`, `score_guidance` and `adherence` are the defaults of
    `SamplingConfig`.
    """

    name: str = "base"
    controls: tuple[str, ...] = ROOM_CONTROLS
    ambient: AmbientConfig = field(default_factory=AmbientConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    codec: str = "bundled"
    codec_checksum: str = ""
    guidance: float = 1.25
    score_guidance: float = 1.25
    adherence: float = 4.0

    def __post_init__(self) -> None:
        _check_bounds(self, "")


Precision = Literal["fp32", "fp16", "bf16"]
"""How weights are held while tokens are drawn: `fp16` computes in fp32 between the products, by FBGEMM on x86 CPUs;
`bf16` products are for CUDA."""

PRECISIONS: tuple[Precision, ...] = typing.get_args(Precision)


STRENGTHS = ("guidance", "score_guidance", "adherence")
"""Settings of `SamplingConfig` of which a model has its own."""


@dataclass(frozen=True)
class SamplingConfig:
    """How tokens are drawn; passed with every call.

    A `temperature` of 0 takes the likeliest token; a `top_k` of 0, a `top_p` of 1 and a `guidance` of 1 are off.
    `constraints` are names in `sampling.CONSTRAINTS`, each in force where the weights have limits for it.

    `guidance` is the strength of the room, `score_guidance` that of the score's sketch over the room alone. `adherence`
    says how closely the sound keeps to the score: it multiplies the learned strength by which codes near the sketch are
    preferred; 0 is off. The three are the model's own where they are None.
    """

    temperature: float = 1.0
    top_k: int = 100
    top_p: float = 1.0
    guidance: float | None = None
    seed: int = 0
    constraints: tuple[str, ...] = ("cells", "rests")
    score_guidance: float | None = None
    adherence: float | None = None

    def __post_init__(self) -> None:
        _check_bounds(self, "")

    def resolved(self, model: ModelConfig) -> SamplingConfig:
        """The settings, with the model's own strengths where they have none."""
        own = {name: getattr(model, name) for name in STRENGTHS if getattr(self, name) is None}
        return dataclasses.replace(self, **own)


LOUDNESS: dict[str, tuple[float, float]] = {
    "game": (-24.0, -1.0),
    "film": (-27.0, -2.0),
    "stream": (-14.0, -1.0),
    "podcast": (-16.0, -1.0),
}
"""Integrated loudness in LUFS and limit of the true peak in dBTP that music is delivered with, by name.

- `game`: Sony's recommendation for home consoles (ASWG-R001, 2013), -24 LUFS and -1 dBTP.
- `film`: what video services ask of a mix, -27 LKFS and -2 dBTP (Netflix Sound Mix Specifications); they measure it on
  the dialogue, under which music may lie lower still.
- `stream`: what music services play at, -14 LUFS, and the peak that their lossy coding needs, -1 dBTP (Spotify's and
  YouTube's loudness normalisation).
- `podcast`: Apple Podcasts' authoring requirements, -16 LKFS and -1 dBTP.
"""


@dataclass(frozen=True)
class DeliveryConfig:
    """What a file of music is like; the model itself gives 24 kHz mono at any level.

    Attributes:
        sample_rate: in Hz.
        mono: one channel as the model made it, in place of stereo in the room's own reverberation.
        lufs: integrated loudness in LUFS.
        true_peak: limit in dBTP.
        fade_in, fade_out: in seconds, at the beginning and at the end.
    """

    sample_rate: int = 48_000
    mono: bool = False
    lufs: float = -18.0
    true_peak: float = -1.0
    fade_in: float = 0.0
    fade_out: float = 0.05

    def __post_init__(self) -> None:
        _check_bounds(self, "", sample_rate=(8_000, 192_000))

    @property
    def n_channels(self) -> int:
        """C, the channels of the file."""
        return 1 if self.mono else 2


def loudness_target(text: str) -> tuple[float, float | None]:
    """LUFS and dBTP of a name in `LOUDNESS`, or of a number of LUFS, which says nothing of the peak.

    Raises:
        ConfigError: on anything else.

    Example:
        >>> loudness_target("podcast"), loudness_target("-20")
        ((-16.0, -1.0), (-20.0, None))
    """
    if text in LOUDNESS:
        return LOUDNESS[text]
    try:
        number = float(text)
    except ValueError:
        raise ConfigError(
            f"The loudness is '{text}'; expected {', '.join(LOUDNESS)} or a number of LUFS such as -20."
        ) from None
    low, high = _BOUNDS["lufs"]
    if not low <= number <= high:
        raise ConfigError(f"The loudness is {text} LUFS; expected {low} to {high}.")
    return number, None


@dataclass(frozen=True)
class ComposerConfig:
    """The autoregressive model that writes a room's score, as stored in its `config.json`.

    `controls` are names in `signals.CONTROLS`. A transformer of `dim` has a step for each codec frame; a small network of
    `writer_dim` writes the events of a frame. `guidance` is the default strength of classifier-free guidance, `following`
    the default share of the rule `traits.following_db` in the loudness, 0 to 1; the rest is what the composer foretells.
    """

    controls: tuple[str, ...] = ROOM_CONTROLS
    ambient: AmbientConfig = field(default_factory=AmbientConfig)
    dim: int = 256
    n_layers: int = 4
    n_heads: int = 4
    ffn_multiple: float = 4.0
    attention_window: int = 500
    dropout: float = 0.1
    rope_base: float = 10_000.0
    writer_dim: int = 192
    writer_layers: int = 2
    guidance: float = 1.25
    following: float = 1.0

    def __post_init__(self) -> None:
        _check_bounds(self, "composer.")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.n_heads

    @property
    def hidden_dim(self) -> int:
        """Width of the gated MLP."""
        return _hidden_dim(self.dim, self.ffn_multiple)


MOST_LEAD_MS = 40
"""A codec frame of the bundled codec. A sketch of shorter frames tells notes a frame early at most."""


@dataclass(frozen=True)
class SketchConfig:
    """The regression from notes to the codec's vectors, as stored in its `config.json`.

    Each note is a network of `note_dim` that gives levels of `n_harmonics` and of `n_bands` of noise; convolutions of
    `dim` over codec frames add the rest, each of `n_layers` seeing `behind` frames before and all together `ahead` frames
    after. `room_dim` is the width of what they know of the room, by `controls`, names in `signals.CONTROLS`. `codec` and
    `codec_checksum` are of the codec whose vectors are drawn. `leads_ms` says, for instruments by their names in General
    MIDI, by how many milliseconds their notes are told earlier when they are played, where that was measured.
    """

    controls: tuple[str, ...] = ("room_scalars",)
    ambient: AmbientConfig = field(default_factory=AmbientConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    codec_checksum: str = ""
    note_dim: int = 192
    n_harmonics: int = 32
    n_bands: int = 32
    dim: int = 320
    n_layers: int = 4
    behind: int = 6
    ahead: int = 5
    room_dim: int = 64
    leads_ms: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_bounds(
            self,
            "sketch.",
            behind=(0, 64),
            ahead=(0, 64),
            room_dim=(1, 4096),
            leads_ms=(-MOST_LEAD_MS, MOST_LEAD_MS),
        )


@dataclass(frozen=True)
class ComposingConfig:
    """How a score is drawn; passed with every call.

    A `temperature` of 0 takes the likeliest choice. `top_p` is by field of an event (`notation.FIELDS`); of the symbol it
    says how the instrument is chosen, not whether there is a note. `transposition` is the key, in semitones from C major
    or A minor, drawn by the seed where it is None. `guidance` and `following` are the composer's own where they are
    None; `constraints` are names in `composing.CONSTRAINTS`. With `ensembles`, who plays and how much is drawn from the
    training scores of rooms that are alike, where nobody asks for anything else. `echo` is a factor on the learned habit
    that bars come again.
    """

    temperature: float = 1.0
    top_p: dict[str, float] = field(
        default_factory=lambda: {"symbol": 0.98, "pitch": 0.95, "length": 0.98, "velocity": 0.8}
    )
    transposition: int | None = None
    guidance: float | None = None
    seed: int = 0
    constraints: tuple[str, ...] = ("order", "known", "polyphony", "repeats", "stale", "clash", "register")
    following: float | None = None
    ensembles: bool = True
    echo: float = 2.0

    def __post_init__(self) -> None:
        _check_bounds(self, "")


@dataclass(frozen=True)
class TrainingConfig:
    """The model's training loop.

    `mixed_precision` is `no`, `bf16`, or `auto`: bf16 where that is faster (CUDA, AMX), where it about doubles
    the speed, and not elsewhere, where emulation makes it tens of times slower.

    With a `selfplay_weight` above 0 the real music of each step is set against what the model that the run starts from
    draws for the same rooms; `selfplay_beta` is SPIN's beta, per nat: the higher, the sooner a piece that has become
    likelier than its counterpart counts no more.

    `control_dropout` gives the conditioning dropout of a control or of a group, as a share of the rows, where it differs
    from `signals.CONTROLS` and `signals.GROUP_DROPOUT`; `sketch_dropout` is that of the decoder's sketch.

    With a `patience` above 0 the weights of the lowest held-out loss are kept, and the run ends when that many
    validations in a row have not lowered it.
    """

    batch_size: int = 16
    crop_seconds: float = 20.0
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup_steps: int = 200
    max_steps: int = 10_000
    max_minutes: float = 0.0
    gradient_accumulation: int = 1
    gradient_clip: float = 1.0
    control_dropout: dict[str, float] = field(default_factory=dict)
    sketch_dropout: float = 0.25
    selfplay_weight: float = 0.0
    selfplay_beta: float = 0.02
    ema_decay: float = 0.999
    mixed_precision: str = "auto"
    validate_every: int = 500
    checkpoint_minutes: float = 5.0
    n_validation_pairs: int = 64
    patience: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        _check_bounds(self, "training.")


@dataclass(frozen=True)
class CodecTrainingConfig:
    """The codec's training loop; the closed form comes before it.

    Of the `kind` `bundled` only the decoder's correction is trained, on `cached_minutes` of music that are encoded once.
    Tokens stay as they are, so that a model trained on them still fits; with `learn_tokens` the encoder is trained too
    and the codebooks follow it, which makes new tokens. `linear_weight` keeps their vectors near those of the closed
    form. Of `seanet` everything is trained. The
    `objective` is `sound`, or for the bundled codec `magnitudes`, with many more steps in the same time since no phase
    is rebuilt. The weights belong to `distances.sound_distances`; `pitch_weight` (with crops of 3 s or more) and
    `roughness_weight` apply to sound alone. An
    `adversarial_weight` above 0 adds EnCodec's discriminator: it and `feature_weight` are then shares of the gradient,
    beside 1 for all distances. `equaliser_db` is the spread of random equalisers by which music is changed, so that it is
    also for recordings unlike all that was rendered: all that tokens are learned of, or half of what is coded once.
    """

    kind: str = "bundled"
    objective: str = "sound"
    learn_tokens: bool = False
    cached_minutes: float = 60.0
    batch_size: int = 8
    crop_seconds: float = 2.0
    learning_rate: float = 5e-4
    warmup_steps: int = 100
    max_steps: int = 2000
    max_minutes: float = 0.0
    gradient_clip: float = 1.0
    ema_decay: float = 0.995
    quiet_db: float = -30.0
    equaliser_db: float = 0.0
    mel_weight: float = 2.0
    stft_weight: float = 1.0
    slope_weight: float = 1.0
    pitch_weight: float = 0.0
    level_weight: float = 0.0
    roughness_weight: float = 0.0
    commitment_weight: float = 0.25
    linear_weight: float = 0.25
    adversarial_weight: float = 0.0
    feature_weight: float = 0.67
    discriminator_filters: int = 16
    codebook_dropout: float = 0.1
    mixed_precision: str = "auto"
    validate_every: int = 250
    n_validation_crops: int = 16
    checkpoint_minutes: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        _check_bounds(self, "codec_training.")


@dataclass(frozen=True)
class DataConfig:
    """The pair factory.

    `scores` are folders, and `soundfont` General MIDI files of which each pair draws one; one may be given as plain
    text. `normalise_key` transposes all music to C major or A minor; without it a piece may be in any key. `kinds`
    gives the share of each scene kind, in any unit.
    """

    ambience: str = ""
    scores: tuple[str, ...] = ()
    rooms: str = ""
    soundfont: tuple[str, ...] = ("/usr/share/sounds/sf2/FluidR3_GM.sf2",)
    seconds: float = 30.0
    sample_rate: int = 24_000
    level_min_dbfs: float = -75.0
    level_max_dbfs: float = -40.0
    validation_share: float = 0.1
    normalise_key: bool = True
    kinds: dict[str, float] = field(
        default_factory=lambda: {
            "room": 1.0,
            "hall": 1.0,
            "steps": 2.0,
            "street": 1.0,
            "weather": 1.0,
            "machine": 1.0,
            "muted": 1.0,
            "leak": 0.5,
            "field": 2.0,
            "nothing": 0.5,
        }
    )

    def __post_init__(self) -> None:
        for name in ("scores", "soundfont"):
            if isinstance(value := getattr(self, name), str):
                object.__setattr__(self, name, (value,) if value else ())
        _check_bounds(self, "data.")


@dataclass(frozen=True)
class HarvestConfig:
    """What counts as a pair in an ordinary recording of a performance."""

    min_silence_seconds: float = 1.5
    min_music_seconds: float = 5.0
    max_seconds: float = 30.0
    max_extension: float = 12.0
    below_music_db: float = 25.0
    above_floor_db: float = 12.0
    crossfade_seconds: float = 0.25
    validation_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        _check_bounds(self, "harvest.")


@dataclass(frozen=True)
class RunConfig:
    """Sizes and starting points of a whole run of a recipe.

    `codec` and `start` name folders of a codec and a model that are there already; by default the codec is fitted
    to `codec_hours` of the pairs' music and the model starts from fresh weights. `n_codebooks` of the codec, the
    first ones, are written by the model; 0 for all.
    """

    hours: float = 40.0
    seed: int = 1
    workers: int = 2
    codec: str = ""
    codec_hours: float = 3.0
    n_codebooks: int = 0
    start: str = ""
    n_eval: int = 128

    def __post_init__(self) -> None:
        _check_bounds(self, "run.", n_codebooks=(0, 256))


@dataclass(frozen=True)
class TuneConfig:
    """Fine-tuning of a model on a user's folder.

    Attributes:
        rank, alpha: of the low-rank changes, which count `alpha / rank` times; dropout: on their input.
        targets: by part of the model, a regular expression for each of the layers that change.
        parts: which parts are tuned, of those that the base has and the material serves.
        learning_rate: by part.
        seconds: length of a pair; pairs_per_minute: how many are made at most for a minute of the whole run.
        rooms_per_piece: rooms made for each stretch of music that comes without one.
        validation_share: of the sources, if no split is given.
        max_steps: of each part; fewer if the time does not suffice.
        n_compared: pieces made by base and tuned model; n_followed: further rooms for following.
        n_played: of the pieces, those that the page has with sound and picture.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    targets: dict[str, str] = field(
        default_factory=lambda: {
            "composer": (
                r"blocks\.\d+\.(qkv|out|gate_up|down)|state|to_\w+|writer\.\d+\.(gate_up|down)|"
                r"heads\.\w+|habits\.\w+"
            ),
            "sketch": r"notes\.(features|mix\.1)|levels|enter|layers\.\d+\.(widen|narrow)|leave",
            "decoder": r"blocks\.\d+\.(qkv|out|gate_up|down)",
        }
    )
    parts: tuple[str, ...] = ("composer", "sketch", "decoder")
    learning_rate: dict[str, float] = field(
        default_factory=lambda: {"composer": 2e-3, "sketch": 1e-3, "decoder": 1e-3}
    )
    seconds: float = 20.0
    pairs_per_minute: float = 5.0
    rooms_per_piece: int = 2
    validation_share: float = 0.2
    max_steps: int = 3000
    n_compared: int = 16
    n_followed: int = 24
    n_played: int = 6

    def __post_init__(self) -> None:
        _check_bounds(
            self, "tune.", rank=(1, 256), alpha=(0, 1024), seconds=(2, 120), rooms_per_piece=(1, 64),
            max_steps=(1, MOST), n_compared=(2, 1024), n_followed=(1, 1024), n_played=(0, 64),
        )  # fmt: skip
        for name in self.parts:
            if name not in self.targets or name not in self.learning_rate:
                raise ConfigError(f"tune.parts names '{name}'; expected some of {', '.join(self.targets)}.")


@dataclass(frozen=True)
class AmbienceConfig:
    """Loops and layers for a game engine; the values of `recipes/vr`.

    Attributes:
        seconds: exact length of a loop, where `bars` does not decide.
        bars: exact length of a loop in rooms that have a pulse; 0 leaves it to `seconds` there too.
        beats_per_bar: of the bar grid; a room's first beat is a downbeat.
        tempo_tolerance: how far the tempo may be moved for whole bars to fill `seconds`, as a share.
        layers: intensity layers, any of `calm`, `medium`, `intense`; none is one plain loop.
        variations: pieces by other seeds on the same grid.
        tempo: exact, in beats a minute; by default the room's pulse, or where there is none what is composed.
        extras: any of `stingers`, `intro`, `ending`, what a game plays beside a loop.
        stingers: how many, where `extras` has them.
        spatial: `stereo`, `ambix` (ACN, SN3D) or `mono`.
        order: of AmbiX, 1 to 3.
        fold_downs: beside AmbiX files, also write their stereo and mono fold-downs.
        room_format: `speakers`, or `ambix` for recordings that are first-order B-format already.
        formats: any of `wav`, `flac`, `ogg`.
        sample_rate: of the files, 44100 or 48000 Hz.
        lufs, true_peak: integrated loudness in LUFS of every file, and the limit in dBTP of each and of a sum
            of layers.
        candidates: endings that are written for each fold of a loop.
        guidance: strength of the room, the model's own default where not given.
        temperature: boldness of the draw.
        licence: of the recordings, for the manifest.
    """

    seconds: float = 8.0
    bars: int = 0
    beats_per_bar: int = 4
    tempo_tolerance: float = 0.06
    layers: tuple[str, ...] = ()
    variations: int = 1
    tempo: float | None = None
    extras: tuple[str, ...] = ()
    stingers: int = 3
    spatial: str = "stereo"
    order: int = 1
    fold_downs: bool = False
    room_format: str = "speakers"
    formats: tuple[str, ...] = ("wav",)
    sample_rate: int = 48_000
    lufs: float = -24.0
    true_peak: float = -1.0
    candidates: int = 8
    guidance: float | None = None
    temperature: float = 1.0
    licence: str = "not stated"

    def __post_init__(self) -> None:
        _check_bounds(self, "ambience.")
        if self.sample_rate not in (44_100, 48_000):
            raise ConfigError(f"ambience.sample_rate is {self.sample_rate}; expected 44100 or 48000.")
        if "mp3" in self.formats:
            raise ConfigError("MP3 pads its ends and cannot loop; expected wav, flac or ogg.")
        choices = {
            "layers": ("calm", "medium", "intense"),
            "extras": ("stingers", "intro", "ending"),
            "formats": ("wav", "flac", "ogg"),
            "spatial": ("stereo", "ambix", "mono"),
            "room_format": ("speakers", "ambix"),
        }
        for name, known in choices.items():
            value = getattr(self, name)
            for word in (value,) if isinstance(value, str) else value:
                if word not in known:
                    raise ConfigError(f"ambience.{name} holds '{word}'; expected {', '.join(known)}.")
        if not self.formats or len(set(self.formats)) < len(self.formats):
            raise ConfigError(f"ambience.formats is {list(self.formats)}; expected each format once.")
        for name, what in (("layers", "layer"), ("extras", "extra")):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ConfigError(
                    f"ambience.{name} is {list(getattr(self, name))}; expected each {what} once."
                )
        if self.order > 1 and self.spatial != "ambix":
            raise ConfigError(f"ambience.order is {self.order}, which is of AmbiX; give --spatial ambix too.")
        if self.spatial == "ambix" and (self.formats != ("wav",) or self.sample_rate != 48_000):
            raise ConfigError(
                f"AmbiX is written as {(self.order + 1) ** 2}-channel WAV at 48 kHz; leave formats and sample_rate out."
            )


@dataclass(frozen=True)
class RecipeConfig:
    """All sections of a recipe; `controls` are those of the model. `trains` says what `training` belongs to."""

    trains: str = "model"
    controls: tuple[str, ...] = ROOM_CONTROLS
    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    seanet: SeanetConfig = field(default_factory=SeanetConfig)
    codec_training: CodecTrainingConfig = field(default_factory=CodecTrainingConfig)
    ambient: AmbientConfig = field(default_factory=AmbientConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    composer: ComposerConfig = field(default_factory=ComposerConfig)
    sketch: SketchConfig = field(default_factory=SketchConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
    ambience: AmbienceConfig = field(default_factory=AmbienceConfig)


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON-ready values."""
    return dataclasses.asdict(config)


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build a config, strictly.

    Raises:
        ConfigError: on an unknown key (the valid ones are listed) or a value of the wrong type.

    Example:
        >>> from_dict(DecoderConfig, {"dim": 64}).dim
        64
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where or 'The settings'} is {shown(values)}; expected a table of settings.")
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(typing.cast(Any, cls))]
    known: dict[str, Any] = {}
    for key, value in values.items():
        label = f"{where}.{key}" if where else key
        if key not in names:
            raise ConfigError(f"Unknown setting {shown(label)}; expected one of {', '.join(names)}.")
        hint = hints[key]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise ConfigError(f"Setting '{label}' is {shown(value)}; expected a table of settings.")
            known[key] = from_dict(typing.cast(type, hint), value, label)
        else:
            known[key] = _as_type(value, hint, label)
    return cls(**known)


def _as_type(value: Any, hint: Any, label: str) -> Any:
    """`value` as the annotated type, an int where a float is expected being welcome."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in typing.get_args(hint):
            return None
        hint = next(a for a in typing.get_args(hint) if a is not type(None))
        origin = typing.get_origin(hint)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        # Of more digits than a float has room for, none is expected.
        return float(value) if abs(value) < 2**1000 else math.inf if value > 0 else -math.inf
    if origin is tuple and isinstance(value, str):
        value = (value,) if value else ()
    if origin is tuple and isinstance(value, list | tuple):
        item = typing.get_args(hint)[0]
        return tuple(_as_type(v, item, label) for v in value)
    if origin is dict and isinstance(value, Mapping):
        item = typing.get_args(hint)[1]
        return {str(k): _as_type(v, item, f"{label}.{k}") for k, v in value.items()}
    expected = origin or hint
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        raise ConfigError(f"Setting '{label}' is {shown(value)}; expected {getattr(hint, '__name__', hint)}.")
    if isinstance(value, str) and ("\0" in value or not _is_text(value)):
        raise ConfigError(f"Setting '{label}' is {shown(value)}; expected text that can be written.")
    return value


def _is_text(value: str) -> bool:
    """Whether a text has no lone surrogate, which no file can hold."""
    return value.encode(errors="replace") == value.encode(errors="surrogatepass")


def read_values(path: Path) -> dict[str, Any]:
    """The plain values of a `.toml` or `.json` file.

    Raises:
        ConfigError: if it is missing or malformed.
    """
    expected = "expected TOML or JSON settings"
    try:
        data = read_small(path)
        values = parse_json(data) if path.suffix == ".json" else tomllib.loads(data.decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); {expected}.") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is malformed ({malformed(error)}); {expected}.") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}; expected a table of settings.")
    return values


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Plain values with `section.key=value` overrides applied; the value is read as TOML, else as text.

    Example:
        >>> apply_overrides({"decoder": {"dim": 320}}, ["decoder.dim=64"])
        {'decoder': {'dim': 64}}
    """
    result = dict(values)
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator or not name:
            raise ConfigError(f"Override {shown(override)} is not of the form section.key=value.")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except (tomllib.TOMLDecodeError, RecursionError):
            value = text
        *sections, key = name.strip().split(".")
        table = result
        for section in sections:
            inner = table.get(section, {})
            if not isinstance(inner, dict):
                raise ConfigError(
                    f"Override {shown(override)} goes through '{section}', which is a value, no table."
                )
            # The tables on the way are copied, so that those given stay as they are.
            table[section] = dict(inner)
            table = table[section]
        table[key] = value
    return result


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> RecipeConfig:
    """The settings of a recipe: a folder with `recipe.toml`, such a file, or the bare name of one that ships.

    Raises:
        ConfigError: if there is no such recipe, or it holds a setting that does not exist.
    """
    if not path.exists() and len(path.parts) == 1 and not path.suffix:
        named = shipped("recipes", path.name)
        if named is None:
            raise ConfigError(
                f"{path} is no recipe; expected a folder with recipe.toml, a TOML file, or the name of a recipe "
                "that ships, such as vr."
            )
        path = named
    file = path / "recipe.toml" if path.is_dir() else path
    return from_dict(RecipeConfig, apply_overrides(read_values(file), overrides))


def shipped(kind: str, name: str) -> Path | None:
    """The folder of a model (`checkpoints`) or recipe (`recipes`) that ships, or None.

    Inside an installed package, or at the root of a checkout.
    """
    package = Path(__file__).parent
    places = (package / kind / name, package.parent / kind / name)
    return next((place for place in places if place.is_dir()), None)


def default_model() -> Path:
    """The folder of the model that ships.

    Raises:
        CheckpointError: if there is none.
    """
    folder = shipped("checkpoints", "base")
    if folder is None or not (folder / "config.json").exists():
        raise CheckpointError("No model came with this installation; give --model with a model folder.")
    return folder
