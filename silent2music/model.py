"""The whole model, and the data path from a recording of a room to music.

```
room -> signals -> embeddings -> events -> score          notes, unless they are given
  listening   Composer    composing  notation

score -> sketch                                           the codec's vectors, by regression
     Sketch

room -> signals -> embeddings, with the sketch -> codes -> sound
  listening   Embedder     Decoder.guided        sampling   codec
```

A model without composer or sketch plays for the room alone.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice, tee
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from silent2music.adapters import apply_adapters, read_adapters
from silent2music.arrays import DoubleArray, FloatArray, IntArray
from silent2music.audio import Recorded, Recording, Waveform, open_recording, read
from silent2music.bundled_codec import BundledCodec
from silent2music.codec import Codec, decode_stream, load_codec, save_codec
from silent2music.composer import Composer
from silent2music.composing import Heard, MadeConstraint, PackedComposer, Rests, write_frames
from silent2music.config import (
    COMPOSER_FOLDER,
    SKETCH_FOLDER,
    ComposerConfig,
    ComposingConfig,
    ModelConfig,
    Precision,
    SamplingConfig,
    default_model,
    from_dict,
    read_values,
    to_dict,
)
from silent2music.controls import Controls
from silent2music.decoder import Block, Conditioning, Decoder
from silent2music.errors import AudioError, CheckpointError, ConfigError, require
from silent2music.files import atomic_path, remove_leavings
from silent2music.guide import AHEAD
from silent2music.hub import find_folder
from silent2music.listening import (
    PIECE_STEPS,
    WINDOW_SECONDS,
    Measured,
    embed_stream,
    listen,
    listen_live,
    listen_whole,
    n_steps_of,
)
from silent2music.notation import Event, home_shift, joined, read_back, write_down
from silent2music.players import Ensemble, choose, rule_of
from silent2music.processes import StepProgress, each_on_one_thread, one_thread
from silent2music.sampling import generate_codes, stream_codes
from silent2music.score import Score
from silent2music.signals import ROOM, Embedder, Signals, check_controls, from_arrays
from silent2music.sketch import Sketch, SketchNotes, sketch_score, sketch_stream
from silent2music.steering import Redo, Steering, check_stretch, heard, plan_of, settled
from silent2music.stepping import PackedDecoder
from silent2music.weights import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    build,
    fill,
    read_module_config,
    read_weights,
    write_weights,
)

CODEC_FOLDER = "codec"

SCORE = "score"
"""In `without`: the music is not composed."""

GUIDED_FRAMES = 16
"""Codec frames for which the sketch must be known before the first of them is drawn, beside those that it looks ahead."""

OF_TOKENS = frozenset(
    f"decoder.{name}"
    for name in (
        "embed_in", "embed_table", "project_out", "head", "bias", "cell_radii", "rest_loudness", "rest_limits",
    )
)  # fmt: skip
"""Weights that belong to a codec's tokens."""

Sketched = tuple[Tensor, Tensor]
"""A batch of sketches `[B, S, P]`, and which rows have one `[B]`."""

RecordingLike = Recorded | Path | str | FloatArray
"""A recording, its file, or its samples `[C, N]` or `[N]`, whose rate must then be given too."""


@dataclasses.dataclass(frozen=True)
class Blend:
    """Another room whose embeddings are mixed into the first one's.

    Attributes:
        room: the recording; a shorter one is repeated.
        begin, end: 0 to 1, its share at the beginning and at the end.

    Raises:
        ConfigError: if a share is out of range.
    """

    room: Recorded
    begin: float = 0.5
    end: float = 0.5

    def __post_init__(self) -> None:
        for share in (self.begin, self.end):
            if not 0.0 <= share <= 1.0:
                raise ConfigError(f"The other room's share is {share:g}; expected 0 to 1.")

    def shares(self, n_frames: int) -> FloatArray:
        """The share in each of the frames `[T]`."""
        return np.linspace(self.begin, self.end, n_frames, dtype=np.float32)


@dataclasses.dataclass(frozen=True)
class Piece(Waveform):
    """Generated music, with the codes that it was decoded from.

    Attributes:
        codes: `[K, T]` int64, one row for each codebook that the model writes.
        score: the notes that it plays; None if the room alone decided.
    """

    codes: IntArray
    score: Score | None = None


@dataclasses.dataclass
class Manuscript:
    """What is composed, and what codes are drawn, while music streams.

    Attributes:
        frames: of each codec frame its events and the music's loudness, as `compose_frames` yields them.
        codes: of each codec frame its K codes, as unsigned numbers of two bytes, the lower one first.
    """

    frames: list[tuple[tuple[Event, ...], float]] = dataclasses.field(default_factory=list)
    codes: bytearray = dataclasses.field(default_factory=bytearray)

    def kept(
        self, frames: Iterable[tuple[tuple[Event, ...], float]]
    ) -> Iterator[tuple[tuple[Event, ...], float]]:
        """The same frames, each noted as it passes."""
        for frame in frames:
            self.frames.append(frame)
            yield frame

    def score(self, seconds: float, frame_rate: float) -> Score:
        """All that was noted, as a score of `seconds`."""
        written = joined(events for events, _ in self.frames)
        return read_back(written, seconds, frame_rate, [gain for _, gain in self.frames])


class Silent2Music(nn.Module):
    """A model: the embedder of signals, the autoregressive decoder, the codec, and a composer if it has one.

    Example:
        ```python
        model = s2m.load()
        music = model.generate("room.wav", seed=7)
        ```

    Args:
        config: sizes and names.
        codec: turns tokens into sound; it is not trained here.

    Attributes:
        sketch: turns scores into what steers the decoder; None if the model has none.
        precision: of matrix products in generation; the device's best if None.

    Raises:
        CheckpointError: if codec or composer are others than the config was written for.
    """

    def __init__(
        self,
        config: ModelConfig,
        codec: Codec,
        composer: Composer | None = None,
        sketch: Sketch | None = None,
    ) -> None:
        super().__init__()
        n_codebooks = config.decoder.n_codebooks
        checksum = codec.token_checksum(n_codebooks)
        _check_codec(config.codec_checksum, checksum, "The model")
        if config.ambient.frame_rate != codec.frame_rate:
            raise CheckpointError(
                f"ambient.frame_rate is {config.ambient.frame_rate} Hz and the codec's {codec.frame_rate} Hz; "
                "they must be equal, since feature step and codec frame are one."
            )
        self.config = config
        self.codec = codec
        self.codec_checksum = checksum
        self.embedder = Embedder(config)
        vectors, scales = codec.codebook_vectors()[:n_codebooks], getattr(codec, "scales", None)
        self.decoder = Decoder(config.decoder, vectors, scales)
        if composer is not None:
            _check_features(config, composer.config)
        self._modules["composer"] = composer
        self._composer_folder: Path | None = None
        self.sketch: Sketch | None = None
        if sketch is not None:
            self.set_sketch(sketch)
        self.precision: Precision | None = None
        self._packed: dict[str, tuple[object, Any]] = {}

    @property
    def composer(self) -> Composer | None:
        """Writes scores, with an embedder of its own; None if the model has none.

        Raises:
            CheckpointError: if its weights are read only now, since the model has no sketch, and do not fit.
        """
        if self._composer_folder is not None and self._modules["composer"] is None:
            with torch.inference_mode(False):
                self._modules["composer"] = Composer.from_pretrained(self._composer_folder).to(self.device)
            self._composer_folder = None
        return cast(Composer | None, self._modules["composer"])

    # ---- from a room to music ----

    @one_thread()
    @torch.inference_mode()
    def generate(
        self,
        room: RecordingLike | None,
        sampling: SamplingConfig | None = None,
        seconds: float | None = None,
        *,
        seed: int | None = None,
        score: Score | None = None,
        composing: ComposingConfig | None = None,
        asked: Controls | None = None,
        blend: Blend | None = None,
        without: Sequence[str] = (),
        sample_rate: int | None = None,
        progress: StepProgress | None = None,
        **controls: Any,
    ) -> Piece:
        """Generate music for a room.

        Args:
            room: the recording; None plays a score for no room.
            sampling: how tokens are drawn.
            seconds: length of the music, by default that of the room, or of the score without one; a shorter room is
                repeated.
            seed: of the random draws; by default that of `sampling`, which is 0 by default.
            score: what to play; by default what the composer writes, if the model has composer and sketch.
            composing: how the composer's notes are drawn, but for the seed.
            asked: what the user wishes of what is composed, beside what the room says.
            blend: another room that is heard too.
            without: controls, or groups of them, to leave out; `("room",)` plays for no room at all, `("score",)` without
                the composer.
            sample_rate: in Hz, of a room that is given as samples.
            progress: see `processes.StepProgress`.
            controls: by name, what else steers this model.

        Returns:
            `[C, round(seconds * sample_rate)]` at the codec's rate, at the level the model chose.

        Raises:
            CheckpointError: if a score is given and the model has no sketch.
            ConfigError: if the model has no such control, or there is neither room nor score.
        """
        sampling = sampling or SamplingConfig()
        if seed is not None:
            sampling = dataclasses.replace(sampling, seed=seed)
        recorded = None if room is None else _recorded(room, sample_rate)
        seconds = seconds or _seconds_of(recorded, score)
        manuscript = Manuscript()
        frames = self._write(
            recorded, sampling, seconds, controls, progress,
            score=score, composing=composing, manuscript=manuscript, asked=asked, blend=blend, without=without,
        )  # fmt: skip
        codes = list(frames)
        sound = [piece.samples for piece in self._play(iter(codes), seconds)]
        written = torch.cat(codes, dim=2)[0].cpu().numpy()
        if score is None and self.composes(without):
            score = manuscript.score(seconds, self.config.ambient.frame_rate)
            score = score if asked is None else settled(score, asked)
        return Piece(np.concatenate(sound, axis=1), self.codec.sample_rate, written, score)

    @torch.inference_mode()
    def stream(
        self,
        room: Recorded | Path | str | Iterable[Waveform] | None,
        sampling: SamplingConfig | None = None,
        seconds: float | None = None,
        *,
        score: Score | None = None,
        composing: ComposingConfig | None = None,
        manuscript: Manuscript | None = None,
        asked: Controls | None = None,
        blend: Blend | None = None,
        without: Sequence[str] = (),
        progress: StepProgress | None = None,
        measured: Measured | None = None,
        **controls: Any,
    ) -> Iterator[Waveform]:
        """Generate music piece by piece, as soon as it can be decoded; joined, the pieces equal what `generate` gives.

        Memory and cost per second do not grow with the length: rooms that are longer than
        `listening.WINDOW_SECONDS`, or repeated for longer, are measured in windows.

        Args:
            room: the recording, best its file or from `audio.open_recording` if it may be long; or for live input its
                sound as it comes, in chunks of any length and one rate, with music as long as what was heard. A change
                is in the music a frame, the delay of the last codebook and the codec's `lookahead_seconds` after
                it was heard, 0.48 s with the bundled codec, and with a composer the sketch's `ahead` frames later.
            sampling, seconds, score, composing, asked, blend, without, progress, controls: as for `generate`; `seconds`
                is for recordings and scores alone.
            manuscript: what is composed is added to it.
            measured: profiles of the room that are known already; new ones are added to it.

        Yields:
            `[C, n]` at the codec's rate.
        """
        room = open_recording(room) if isinstance(room, Path | str) else room
        is_whole = room is None or isinstance(room, Waveform | Recording)
        length = (seconds or _seconds_of(cast(Recorded | None, room), score)) if is_whole else None
        codes = self._write(
            room, sampling or SamplingConfig(), length, controls, progress, measured,
            score=score, composing=composing, manuscript=manuscript, asked=asked, blend=blend, without=without,
        )  # fmt: skip
        yield from each_on_one_thread(self._play(codes, length))

    def _write(
        self,
        room: Recorded | Iterable[Waveform] | None,
        sampling: SamplingConfig,
        seconds: float | None,
        controls: Mapping[str, Any],
        progress: StepProgress | None = None,
        measured: Measured | None = None,
        *,
        score: Score | None,
        composing: ComposingConfig | None,
        manuscript: Manuscript | None,
        asked: Controls | None,
        blend: Blend | None,
        without: Sequence[str],
        prefix: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """Codes `[1, K, 1]` of one frame after another; arguments as for `stream`, `prefix` as for `stream_codes`.

        Each step below is a generator that takes from the one before as soon as it can: signals of some codec frames,
        notes, the sketch of the notes, embeddings with and without room and sketch, the codes drawn under them.
        """
        composes = score is None and self.composes(without)
        without = [name for name in without if name != SCORE]
        signals, n_frames = self._heard(room, seconds, controls, measured, composes, asked)
        for_decoder, for_composer, for_sketch = tee(signals, 3)
        others = self._heard_other(blend, seconds, n_frames, controls, composes, asked)
        guide: Iterator[Tensor] | None = None
        if score is not None:
            guide = sketch_score(self._own_sketch(), score, self._without(for_sketch, without), n_frames)
        elif composes:
            composing = dataclasses.replace(composing or ComposingConfig(), seed=sampling.seed)
            events = self._composed(for_composer, composing, without, None, n_frames, asked, blend, others[0])
            events = events if manuscript is None else manuscript.kept(events)
            n_at_once = {} if n_frames else {"n_frames": 1}
            guide = sketch_stream(self._own_sketch(), events, self._without(for_sketch, without), **n_at_once)

        def embed(piece: Signals) -> tuple[Conditioning, Conditioning]:
            return self.steer(piece.to(self.device), without)

        conditioning = embed_stream(for_decoder, embed, self.embedder.lookahead_frames, live=n_frames == 0)
        if blend is not None:
            other = embed_stream(others[1], embed, self.embedder.lookahead_frames)
            conditioning = _blended(conditioning, other, blend, n_frames)
        if guide is not None:
            conditioning = self._sketched(conditioning, guide)
        sampling = self.resolved(sampling)
        codes = stream_codes(self.packed_decoder(), conditioning, sampling, [sampling.seed], prefix=prefix)
        for done, frame in enumerate(codes, start=1):
            if manuscript is not None:
                manuscript.codes += frame[0, :, 0].cpu().numpy().astype("<u2").tobytes()
            if progress is not None:
                progress(done, n_frames)
            yield frame

    def _play(self, codes: Iterator[Tensor], seconds: float | None) -> Iterator[Waveform]:
        """Sound `[C, n]` of codes `[1, K, 1]`, cut to `seconds`; with None (live) uncut and soon."""
        rate = self.codec.sample_rate
        n_left = sys.maxsize if seconds is None else round(seconds * rate)
        for audio in decode_stream(self.codec, codes, live=seconds is None):
            samples = audio[0, :, :n_left].cpu().numpy()
            n_left -= samples.shape[1]
            if samples.shape[1]:
                yield Waveform(np.clip(samples, -1.0, 1.0), rate)

    @torch.inference_mode()
    def play_codes(self, codes: IntArray, seconds: float) -> Iterator[Waveform]:
        """The sound of codes `[K, T]` piece by piece, as `stream` gives it, cut to `seconds`."""
        frames = torch.as_tensor(codes, device=self.device)[None, :, :, None].unbind(dim=2)
        yield from each_on_one_thread(self._play(iter(frames), seconds))

    @one_thread()
    @torch.inference_mode()
    def redraw(
        self,
        room: RecordingLike | None,
        codes: IntArray,
        begin: float,
        end: float,
        sampling: SamplingConfig,
        seconds: float,
        *,
        score: Score | None = None,
        blend: Blend | None = None,
        progress: StepProgress | None = None,
        measured: Measured | None = None,
        **controls: Any,
    ) -> IntArray:
        """Draw the codes of a stretch of music again, under what comes before it; the others stay.

        What follows was drawn after other codes, so the two do not meet smoothly at its beginning.

        Args:
            codes: `[K, T]` of the whole music, as `Piece.codes`.
            begin, end: of the stretch, in seconds; of its codec frames those are drawn that lie within.
            sampling: as for `generate`; by the seed that the music was drawn by, it comes out as it was.
            room, seconds, score, blend, progress, measured, controls: as for `stream`, `score` that of the whole.

        Returns:
            `[K, T]`.

        Raises:
            ConfigError: if the stretch is not within the music, or there are not as many codes as the model draws.
        """
        rate, n_frames = self.config.ambient.frame_rate, n_steps_of(seconds, self.config.ambient)
        check_stretch(begin, end, seconds)
        if codes.shape != (self.config.decoder.n_codebooks, n_frames):
            raise ConfigError(
                f"The codes are {codes.shape}; expected ({self.config.decoder.n_codebooks}, {n_frames}) for "
                f"{seconds:g} s of this model."
            )
        first = int(np.ceil(begin * rate - 1e-6))
        last = n_frames if end > seconds - 1e-6 else int(end * rate + 1e-6)
        frames = self._write(
            None if room is None else _recorded(room),
            sampling, seconds, controls, progress, measured, score=score, composing=None, manuscript=None,
            asked=None, blend=blend, without=(SCORE,) if score is None else (),
            prefix=torch.as_tensor(codes[None, :, :first], device=self.device),
        )  # fmt: skip
        drawn = torch.cat(list(islice(frames, last)), dim=2)[0].cpu().numpy()
        return np.concatenate([drawn, codes[:, last:]], axis=1)

    @one_thread()
    def compose(
        self,
        room: RecordingLike,
        seconds: float | None = None,
        composing: ComposingConfig | None = None,
        *,
        seed: int | None = None,
        without: Sequence[str] = (),
        begun: Score | None = None,
        sample_rate: int | None = None,
        progress: StepProgress | None = None,
        measured: Measured | None = None,
        asked: Controls | None = None,
        blend: Blend | None = None,
        redo: Redo | None = None,
        **controls: Any,
    ) -> Score:
        """Compose a score for a room, as notes.

        Args:
            room: the recording.
            seconds: length of the score, by default that of the room; a shorter room is repeated.
            composing: how notes are drawn.
            seed: of the draws; by default that of `composing`, which is 0 by default.
            begun: a score that is gone on with: its notes stand up to its end.
            without, sample_rate, progress, controls: as for `generate`.
            measured: profiles of the room that are known already; new ones are added to it.
            asked: what the user wishes, beside what the room says.
            blend: another room that is heard too.
            redo: a stretch of a score that is composed again; the rest of the score is given back as it is.

        Raises:
            CheckpointError: if the model has no composer.
            ConfigError: if the model has no such control, or a wish does not fit the piece.
        """
        composing = composing or ComposingConfig()
        if seed is not None:
            composing = dataclasses.replace(composing, seed=seed)
        recorded = _recorded(room, sample_rate)
        seconds = seconds or recorded.seconds
        options: dict[str, Any] = {
            "without": without,
            "begun": begun,
            "progress": progress,
            "asked": asked,
            "blend": blend,
            "redo": redo,
        }
        frames = list(
            self.compose_frames(recorded, composing, seconds, **options, measured=measured, **controls)
        )
        score = Manuscript(frames).score(seconds, self.config.ambient.frame_rate)
        score = score if asked is None else settled(score, asked)
        return score if redo is None else redo.merged(score)

    def compose_frames(
        self,
        room: Recorded | Iterable[Waveform],
        composing: ComposingConfig | None = None,
        seconds: float | None = None,
        *,
        without: Sequence[str] = (),
        begun: Score | None = None,
        progress: StepProgress | None = None,
        measured: Measured | None = None,
        asked: Controls | None = None,
        blend: Blend | None = None,
        redo: Redo | None = None,
        **controls: Any,
    ) -> Iterator[tuple[tuple[Event, ...], float]]:
        """Compose codec frame by codec frame, each as soon as what the composer hears of the room ahead is known.

        Args:
            room: the recording, or for live input its sound as it comes, as for `stream`.
            composing, seconds, without, begun, progress, measured, controls: as for `compose`.
            asked, blend: as for `compose`, for a recording alone; notes are on their grid to 10 ms.
            redo: as for `compose`; the last frame is that of the stretch's end.

        Yields:
            The events of a frame (`notation.Event`), and the music's loudness there, in dB and at most 0.
        """
        self._own_composer()
        signals, n_frames = self._heard(room, seconds, controls, measured, True, asked, redo)
        how = composing or ComposingConfig()
        others = self._heard_other(blend, seconds, n_frames, controls, True, asked)
        written = self._composed(signals, how, without, begun, n_frames, asked, blend, others[0], redo)
        for done, frame in enumerate(each_on_one_thread(written), start=1):
            if progress is not None:
                progress(done, n_frames)
            yield frame

    def composes(self, without: Sequence[str] = ()) -> bool:
        """Whether the model plays a score of its own: it has composer and sketch, and is not told otherwise."""
        return self.sketch is not None and self.composer is not None and SCORE not in without

    def check_controls(self, controls: Iterable[str], composes: bool | None = None) -> None:
        """Raise an error if the model has no such control, those of its composer included if it composes.

        Raises:
            ConfigError: naming it and those that the model has.
        """
        check_controls(self._config_of_all(self.composes() if composes is None else composes), controls)

    def check_asked(self, asked: Controls | None, seconds: float, composes: bool | None = None) -> None:
        """Raise an error if something is asked for that does not fit a piece, or of a model that composes nothing.

        Raises:
            ConfigError: in one sentence.
        """
        if asked is None:
            return
        if not (self.composes() if composes is None else composes):
            raise ConfigError(
                f"The model '{self.config.name}' composes no score, so {', '.join(asked.to_dict())} cannot be asked "
                "of it; give a model with composer and sketch, or leave it out."
            )
        asked.check(seconds)

    def _config_of_all(self, composes: bool) -> ModelConfig:
        """The settings with the controls of the composer, too, if it is to compose."""
        if not composes:
            return self.config
        own = self._own_composer().config.controls
        return dataclasses.replace(self.config, controls=tuple(dict.fromkeys((*self.config.controls, *own))))

    def _heard(
        self,
        room: Recorded | Iterable[Waveform] | None,
        seconds: float | None,
        controls: Mapping[str, Any],
        measured: Measured | None,
        composes: bool,
        asked: Controls | None = None,
        redo: Redo | None = None,
    ) -> tuple[Iterator[Signals], int]:
        """Signals of a room in successive stretches, and the number of codec frames in all, 0 for live sound.

        Raises:
            ConfigError: if something is asked for that the model lacks, or of live sound.
        """
        config = self._config_of_all(composes)
        check_controls(config, controls)
        if asked is not None:
            if not (room is None or isinstance(room, Waveform | Recording)):
                raise ConfigError("What the music is to be can be asked for a recording; this is live sound.")
            length = seconds or cast(Recorded, room).seconds
            self.check_asked(asked, length, composes)
            told = asked.signals(length, n_steps_of(length, config.ambient), config.ambient.frame_rate)
            controls = {**told, **controls}
        if redo is not None and composes:
            n_told = n_steps_of(seconds or cast(Recorded, room).seconds, config.ambient)
            controls = {**redo.traits(n_told, config.ambient.frame_rate), **controls}
        if room is None:
            assert seconds is not None
            n_frames = n_steps_of(seconds, config.ambient)
            begins = range(0, n_frames, PIECE_STEPS)
            return (from_arrays({}, min(PIECE_STEPS, n_frames - begin)) for begin in begins), n_frames
        if isinstance(room, Waveform | Recording):
            seconds = seconds or room.seconds
            return listen(room, seconds, config, controls, measured), n_steps_of(seconds, config.ambient)
        return listen_live(room, config, controls), 0

    def _heard_other(
        self,
        blend: Blend | None,
        seconds: float | None,
        n_frames: int,
        controls: Mapping[str, Any],
        composes: bool,
        asked: Controls | None,
    ) -> tuple[Iterator[Signals], ...]:
        """Signals of the other room, twice; none without one.

        Raises:
            ConfigError: if the first room is live sound.
        """
        if blend is None:
            return iter(()), iter(())
        if not n_frames:
            raise ConfigError("Another room can be mixed into a recording; this is live sound.")
        seconds = seconds or n_frames / self.config.ambient.frame_rate
        return tee(self._heard(blend.room, seconds, controls, None, composes, asked)[0])

    def _without(self, signals: Iterable[Signals], names: Sequence[str]) -> Iterator[Signals]:
        """The signals on the model's device without some controls."""
        return (piece.to(self.device).without(*names) for piece in signals)

    def _composed(
        self,
        signals: Iterable[Signals],
        composing: ComposingConfig,
        without: Sequence[str],
        begun: Score | None,
        n_frames: int,
        asked: Controls | None = None,
        blend: Blend | None = None,
        others: Iterable[Signals] = (),
        redo: Redo | None = None,
    ) -> Iterator[tuple[tuple[Event, ...], float]]:
        """Events and loudness of one codec frame after another, `n_frames` or 0 if live; else as for `compose_frames`."""
        composer, config = self._own_composer(), self.config
        room = Heard(config.ambient.n_mels)
        if blend is not None:
            other = Heard(config.ambient.n_mels)
            others = other.hear(others, without)
            room = Heard(config.ambient.n_mels, other, blend.shares(n_frames))
        signals = room.hear(signals, without)
        wished = asked or Controls()
        if redo is not None:
            begun = redo.score
        ensemble, signals = self._ensemble(signals, without, composing, wished, begun)
        if ensemble is not None:
            others = map(ensemble.tell, others)
        # Who asks for notes has them, whatever the room.
        may_be_empty = not (wished.density_points or wished.chords or wished.melody)
        owed: frozenset[int] = frozenset()
        rules: list[MadeConstraint] = [lambda _, memory, __: Rests(room, memory, rate, may_be_empty, owed)]
        if composing.guidance is None:
            composing = dataclasses.replace(composing, guidance=composer.config.guidance)
        rate = config.ambient.frame_rate
        key, seconds = composing.transposition, n_frames / config.ambient.frame_rate
        if (players := rule_of(ensemble, wished, n_frames, rate)) is not None:
            rules.append(players)
        if asked is not None or redo is not None:
            programs = None if ensemble is None else ensemble.programs
            plan = plan_of(wished, seconds, n_frames, rate, redo, programs)
            owed = plan.starts
            rules.append(partial(Steering, plan))
            key = wished.transposition if key is None else key
        n_copied = 0 if begun is None else n_steps_of(begun.seconds, config.ambient)
        if redo is not None:
            n_copied = int(redo.begin * rate + 1e-6)
        copied = None if begun is None else write_down(begun, rate)
        if key is None:
            # That of what was begun, or else any.
            key = (
                int(np.random.default_rng(composing.seed).integers(-6, 6))
                if begun is None
                else -home_shift(begun)
            )

        @torch.inference_mode()
        def embed(piece: Signals) -> tuple[Conditioning, Conditioning]:
            return composer.steer(piece.to(self.device), without)

        ahead = composer.embedder.lookahead_frames
        conditioning = embed_stream(signals, embed, ahead, live=n_frames == 0)
        if blend is not None:
            conditioning = _blended(conditioning, embed_stream(others, embed, ahead), blend, n_frames)
        written = write_frames(
            self._packed_once("composer", composer, PackedComposer),
            conditioning,
            composing,
            composing.seed,
            key,
            copied,
            n_copied,
            rules,
            **({} if n_frames else {"n_ahead": 1}),
        )
        written = room.follow(written, composing.following)
        if redo is not None:
            written = islice(written, int(np.ceil(redo.end * rate - 1e-6)))
        return written if asked is None else heard(written, asked, seconds, rate)

    def _ensemble(
        self,
        signals: Iterator[Signals],
        without: Sequence[str],
        composing: ComposingConfig,
        wished: Controls,
        begun: Score | None,
    ) -> tuple[Ensemble | None, Iterator[Signals]]:
        """Who plays, by the first stretch of a room's signals; and the signals with that told."""
        first = next(signals, None)
        if first is None:
            return None, signals
        chosen = choose(self._own_composer(), first.without(*without), composing, wished, begun)
        signals = chain([first], signals)
        return chosen, signals if chosen is None else map(chosen.tell, signals)

    @torch.inference_mode()
    def _sketched(
        self, conditioning: Iterable[tuple[Conditioning, Conditioning]], guide: Iterator[Tensor]
    ) -> Iterator[tuple[Conditioning, Conditioning]]:
        """Conditioning with the sketch, in stretches of `GUIDED_FRAMES`, each as soon as its sketch is known."""
        assert self.decoder.guide is not None
        given = torch.ones(1, dtype=torch.bool, device=self.device)
        known = torch.zeros(1, 0, self.config.decoder.codebook_dim, device=self.device)
        n_before = 0  # frames of `known` that are given on already
        for whole, whole_null in conditioning:
            for begin in range(0, whole.frames.shape[1], GUIDED_FRAMES):
                stretch, null = (c.slice(begin, begin + GUIDED_FRAMES) for c in (whole, whole_null))
                end = n_before + stretch.frames.shape[1]
                while known.shape[1] < end + AHEAD and (piece := next(guide, None)) is not None:
                    known = torch.cat([known, piece.to(known)], dim=1)
                known = functional.pad(known, (0, 0, 0, max(0, end - known.shape[1])))
                own = self.decoder.guided(known, given, n_before, end)
                yield dataclasses.replace(stretch, guide=own), null
                n_dropped = max(0, end - self.decoder.guide.behind)
                known, n_before = known[:, n_dropped:], end - n_dropped

    def _own_sketch(self) -> Sketch:
        """The sketch, or a sentence that there is none."""
        if self.sketch is None:
            raise CheckpointError(
                f"The model '{self.config.name}' has no sketch, so it plays for rooms and no score; give a model folder "
                f"with {SKETCH_FOLDER}/ in it, or a soundfont."
            )
        return self.sketch

    def _own_composer(self) -> Composer:
        """The composer, or a sentence that there is none."""
        if self.composer is None:
            raise CheckpointError(
                f"The model '{self.config.name}' has no composer; give a model folder with {COMPOSER_FOLDER}/ in it."
            )
        return self.composer

    @one_thread()
    @torch.inference_mode()
    def generate_batch(
        self,
        rooms: Sequence[Waveform],
        sampling: SamplingConfig,
        seeds: Sequence[int],
        seconds: float | None = None,
        without: Sequence[str] = (),
        progress: StepProgress | None = None,
        **controls: Any,
    ) -> list[Piece]:
        """Generate music for several rooms in one batch, with a seed for each; long rooms, and scores, one after another.

        The logits are those of `generate` but for rounding, which depends on the batch.
        """
        lengths = [seconds or room.seconds for room in rooms]
        longest = max([*lengths, *(room.seconds for room in rooms)])
        if self.composes(without) or longest > WINDOW_SECONDS:
            options: dict[str, Any] = {"without": without, "progress": progress, **controls}
            own = zip(rooms, seeds, strict=True)
            return [self.generate(room, sampling, seconds, seed=seed, **options) for room, seed in own]
        check_controls(self.config, controls)
        without = [name for name in without if name != SCORE]
        heard = [
            listen_whole(room, length, self.config, controls)
            for room, length in zip(rooms, lengths, strict=True)
        ]
        given, null = self.steer(Signals.collate(heard).to(self.device), without)
        sampling = self.resolved(sampling)
        written = generate_codes(self.packed_decoder(), given, null, sampling, seeds, progress)
        pieces = []
        for row, signals, length in zip(written, heard, lengths, strict=True):
            codes = row[:, : signals.n_frames]
            samples = self.decode(codes).slice(0, round(length * self.codec.sample_rate))
            pieces.append(Piece(samples, self.codec.sample_rate, codes.cpu().numpy()))
        return pieces

    def condition(self, signals: Signals, sketched: Sketched | None = None) -> Conditioning:
        """Signals, and the vectors of a sketch if there are any, embedded as conditioning of the decoder."""
        conditioning: Conditioning = self.embedder(signals)
        if sketched is None:
            return conditioning
        return dataclasses.replace(conditioning, guide=self.decoder.guided(*sketched))

    def steer(
        self, signals: Signals, without: Sequence[str] = (), sketched: Sketched | None = None
    ) -> tuple[Conditioning, Conditioning]:
        """Conditioning without some controls, and the null of guidance: the same without room and sketch."""
        given = signals.without(*without)
        return self.condition(given, sketched), self.condition(given.without(ROOM))

    @one_thread()
    @torch.inference_mode()
    def sketched_powers(
        self,
        room: Recorded | None,
        score: Score,
        parts: Sequence[Score],
        seconds: float,
        measured: Measured | None = None,
    ) -> DoubleArray:
        """How loud each of several parts of a score is to be when all play: `[n, T]` powers in codec frames.

        The sketch adds up the energies of notes, which gives each part's share, and has learned how loud the music is
        in which they sound together.

        Args:
            room: that is played for, or None.
            score: all notes.
            parts: n scores that have its notes among them.
            seconds: length of the music.
            measured: as for `stream`.
        """
        sketch, codec = self._own_sketch(), cast(BundledCodec, self.codec)  # the only one that has sketches
        signals, n_frames = self._heard(room, seconds, {}, measured, composes=False)
        rate, found, begin = self.config.ambient.frame_rate, [np.zeros((len(parts), 0))], 0
        for vectors in sketch_score(sketch, score, (piece.to(self.device) for piece in signals), n_frames):
            n = vectors.shape[1]
            spectra = (vectors @ codec.components).clamp_min(0.0)
            total = spectra.pow(2 / codec.config.power).sum(dim=2)
            notes = SketchNotes.of(parts, [begin] * len(parts), n, rate).to(self.device)
            own = sketch.note_powers(notes)
            share = own / own.sum(dim=0).clamp_min(1e-30)
            found.append((share * total).double().cpu().numpy())
            begin += n
        return np.concatenate(found, axis=1)

    def set_sketch(self, sketch: Sketch) -> None:
        """Give the model a sketch.

        Raises:
            CheckpointError: if it is another codec's, or the decoder takes none.
        """
        _check_codec(sketch.config.codec_checksum, self.codec_checksum, "The sketch")
        if not self.config.decoder.takes_sketch:
            raise CheckpointError(
                "The model has a sketch and decoder.takes_sketch is false; train the decoder under the sketch."
            )
        self.sketch = sketch

    def resolved(self, sampling: SamplingConfig | None = None) -> SamplingConfig:
        """The settings, with the model's own strengths where they have none."""
        return (sampling or SamplingConfig()).resolved(self.config)

    def packed_decoder(self) -> PackedDecoder:
        """The decoder's weights packed for generation; packed again when the weights have changed."""
        return cast(PackedDecoder, self._packed_once("decoder", self.decoder, PackedDecoder))

    def _packed_once(self, name: str, module: nn.Module, pack: Callable[[Any, Precision | None], Any]) -> Any:
        """A part's weights packed, again only when they have changed."""
        versions = [weight._version for weight in module.parameters()]
        state = (module, self.device, self.precision, versions)
        if name not in self._packed or self._packed[name][0] != state:
            self._packed[name] = (state, pack(module, self.precision))
        return self._packed[name][1]

    @one_thread()
    @torch.inference_mode()
    def encode(self, music: RecordingLike, sample_rate: int | None = None) -> IntArray:
        """Encode sound to codes `[K, T]`, of the codebooks that the model writes."""
        if isinstance(music, Path | str):
            recorded: Recorded = read(music, mono=True)
        else:
            recorded = _recorded(music, sample_rate)
        mono = recorded.whole().mono()
        samples = np.repeat(mono.resampled(self.codec.sample_rate).samples, self.codec.channels, axis=0)
        codes = self.codec.encode(
            torch.from_numpy(samples)[None].to(self.device), self.config.decoder.n_codebooks
        )
        return cast(IntArray, codes[0].cpu().numpy())

    @one_thread()
    @torch.inference_mode()
    def decode(self, codes: IntArray | Tensor) -> Waveform:
        """Decode codes `[K, T]` to sound."""
        samples = self.codec.decode(torch.as_tensor(codes, device=self.device)[None])[0].cpu().numpy()
        return Waveform(np.clip(samples, -1.0, 1.0), self.codec.sample_rate)

    # ---- learning ----

    def token_nll(self, codes: Tensor, conditioning: Conditioning) -> Tensor:
        """Teacher-forced negative log-likelihood, `[B, K]`, mean over the valid frames, in nats a token.

        Arguments as in `frame_nll`.
        """
        keep = conditioning.mask[:, None]
        return (self.frame_nll(codes, conditioning) * keep).sum(dim=2) / keep.sum(dim=2).clamp_min(1)

    def frame_nll(self, codes: Tensor, conditioning: Conditioning) -> Tensor:
        """Teacher-forced negative log-likelihood of every token, `[B, K, T]` nats.

        Args:
            codes: `[B, K, T]`.
            conditioning: of T steps; its mask says which frames are valid.
        """
        pattern = self.decoder.pattern
        grid = pattern.apply(codes.masked_fill(~conditioning.mask[:, None], pattern.filler))
        logits = self.decoder(grid, conditioning)
        # What is beyond a cell's own frame is masked by undoing the delay of the loss, not of the logits.
        nll = functional.cross_entropy(
            logits.flatten(0, 2).float(),
            grid.flatten().clamp_max(self.decoder.config.codebook_size - 1),
            reduction="none",
        ).view_as(grid)
        return pattern.undo(nll)

    def forward(self, codes: Tensor, signals: Signals, sketched: Sketched | None = None) -> Tensor:
        """Training losses `[B, K]` of a batch of pairs, in nats a token.

        Args:
            codes: `[B, K, T]` int64.
            signals: of T codec frames, those that are dropped in this step absent.
            sketched: the sketch of the same frames, if there is one.
        """
        return self.token_nll(codes, self.condition(signals, sketched))

    def contrast(
        self, codes: Tensor, signals: Signals, sketched: Sketched | None = None
    ) -> dict[str, Tensor]:
        """Losses as `room_contrast`, and under the true room with the next row's score and with none."""
        found = self.room_contrast(codes, signals, sketched)
        if sketched is not None:
            vectors, given = sketched
            found["other_score"] = self(codes, signals, (vectors.roll(-1, dims=0), given)).mean(dim=1)
            found["no_score"] = self(codes, signals).mean(dim=1)
        return found

    def room_contrast(
        self, codes: Tensor, signals: Signals, sketched: Sketched | None = None
    ) -> dict[str, Tensor]:
        """Loss `[B]` in nats a token under the `true` room, the next row's (`shuffled`) and none (`dropped`).

        Arguments as in `forward`; at least two rows, or `shuffled` would be `true`.
        """
        next_rows = signals.rows([*range(1, signals.n_rows), 0])
        rooms = {
            "true": signals,
            "shuffled": signals.exchanged(next_rows, ROOM),
            "dropped": signals.without(ROOM),
        }
        return {name: self(codes, room, sketched).mean(dim=1) for name, room in rooms.items()}

    # ---- files ----

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.decoder.bias.device

    def own_state(self) -> dict[str, Tensor]:
        """The state dict without the tensors of codec, composer and sketch and those derived from them."""
        return {
            name: value
            for name, value in self.state_dict().items()
            if not name.startswith(("codec.", "composer.", "sketch.")) and name != "decoder.vectors"
        }

    def save_pretrained(self, folder: Path | str) -> None:
        """Write a model folder: weights in 16 bits, codec, `config.json`, and a model card if there is none."""
        folder = Path(folder)
        remove_leavings(folder)
        state = self.own_state()
        write_weights(state, folder / WEIGHTS_FILE)
        save_codec(self.codec, folder / CODEC_FOLDER)
        if self.composer is not None:
            self.composer.save_pretrained(folder / COMPOSER_FOLDER)
        if self.sketch is not None:
            self.sketch.save_pretrained(folder / SKETCH_FOLDER)
        values = to_dict(self.config) | {"codec_checksum": self.codec_checksum}
        text = json.dumps(values, indent=2, sort_keys=True) + "\n"
        with atomic_path(folder / CONFIG_FILE, force=True) as file:
            file.write_text(text, encoding="utf-8")
        card = folder / "README.md"
        if not card.exists():
            n_weights = sum(v.numel() for v in state.values())
            own = (
                "---\nlibrary_name: silent2music\nlicense: apache-2.0\ntags: [music-generation, audio]\n---\n\n"
                f"# {self.config.name}\n\nA silent2music model with {n_weights / 1e6:.1f} M weights. "
                "Say here what it was trained on, for how long, and what was measured.\n"
            )
            with atomic_path(card) as file:
                file.write_text(own, encoding="utf-8")

    @classmethod
    def from_pretrained(cls, name: Path | str, download: bool = False, **options: Any) -> Silent2Music:
        """Load a folder written by `save_pretrained`, or a repository of the Hugging Face hub if there is no such folder.

        Args:
            name: of the folder or the repository.
            download: ask the hub if there is no such folder.
            options: for the hub, as `huggingface_hub.snapshot_download` takes them (`revision`, `token`, ...).

        Raises:
            CheckpointError: on a missing, truncated or mismatching file, named, or if the hub does not give it.
        """
        folder = find_folder(name, "model", download, **options)
        config = _read_config(folder)
        sketch, own = read_sketch(folder), folder / COMPOSER_FOLDER
        composer = Composer.from_pretrained(own) if own.is_dir() and sketch is not None else None
        codec = load_codec(folder / CODEC_FOLDER)
        try:
            model = build(lambda: cls(config, codec, composer, sketch), folder / WEIGHTS_FILE, cls.own_state)
        except ConfigError as error:
            raise CheckpointError(f"{folder / CONFIG_FILE} does not fit ({error}).") from error
        model.load_weights(folder)
        if own.is_dir() and sketch is None:
            # Music for the room alone does without its weights.
            _check_features(config, read_module_config(ComposerConfig, own))
            model._composer_folder = own
        return model.eval()

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload a model folder to the Hugging Face hub; returns its address.

        Args:
            repo_id: `owner/name`, created if it is not there.
            options: as `huggingface_hub.upload_folder` takes them (`token`, `commit_message`, ...).
        """
        hub = require("huggingface_hub", "hub")
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            hub.create_repo(repo_id, exist_ok=True, token=options.get("token"))
            return str(hub.upload_folder(repo_id=repo_id, folder_path=folder, **options))

    def load_weights(self, folder: Path) -> None:
        """Load the weights of a model folder with the same sizes and the same codec tokens.

        Raises:
            CheckpointError: on a missing, damaged or mismatching file, naming the field.
        """
        _check_codec(_read_config(folder).codec_checksum, self.codec_checksum, str(folder))
        fill(self.own_state(), read_weights(folder / WEIGHTS_FILE), folder / WEIGHTS_FILE)

    @torch.no_grad()
    def start_from(self, folder: Path) -> None:
        """Take from a model folder what fits, as training starts from it: all that does not belong to its codec's tokens.

        Tables of other tokens are left as they are; so is what the folder's model has not: controls, the sketch's input.
        Layers that are more than its own begin as the identity.

        Raises:
            CheckpointError: on a missing or damaged file, or weights of another shape, naming the first.
        """
        config, file = _read_config(folder), folder / WEIGHTS_FILE
        state, own = read_weights(file), self.own_state()
        sizes = (config.decoder.n_codebooks, config.decoder.codebook_size)
        alike = sizes == (self.config.decoder.n_codebooks, self.config.decoder.codebook_size)
        if not alike or config.codec_checksum != self.codec_checksum:
            state = {name: value for name, value in state.items() if name not in OF_TOKENS}
        n_layers = config.decoder.n_layers
        for block in self.decoder.blocks[n_layers:]:
            for weight in (cast(Block, block).out.weight, cast(Block, block).down.weight):
                weight.zero_()
        new = tuple(f"decoder.blocks.{i}." for i in range(n_layers, self.config.decoder.n_layers))
        missing = {name for name in own.keys() - state.keys() if name in OF_TOKENS or name.startswith(new)}
        missing |= {name for name in own.keys() - state.keys() if name.startswith("decoder.guide.")}
        missing |= {
            name
            for name in own.keys() - state.keys()
            for control in self.config.controls
            if control not in config.controls and name.startswith("embedder.") and f".{control}" in name
        }
        fill({name: value for name, value in own.items() if name not in missing}, state, file)


def load(
    name: Path | str | None = None,
    device: str = "cpu",
    download: bool = False,
    adapters: Sequence[Path | str] = (),
    **options: Any,
) -> Silent2Music:
    """Load a model, ready to generate.

    Args:
        name: a model folder, or with `download` a name on the Hugging Face hub; the model that ships by default.
        device: as torch names it.
        download: ask the hub if there is no such folder; without it no socket is opened.
        adapters: folders that `s2m tune` wrote, each maybe with its strength, as in "lofi=0.5".
        options: as for `Silent2Music.from_pretrained`.

    Raises:
        CheckpointError: if there is none, or a file of it is missing or does not fit.
    """
    folder = find_folder(name or default_model(), "model", download, **options)
    model = Silent2Music.from_pretrained(folder)
    apply_adapters(model, folder, read_adapters(adapters, download))
    return model.to(device)


def read_sketch(folder: Path) -> Sketch | None:
    """The sketch of a model folder, or None if it has none."""
    own = folder / SKETCH_FOLDER
    return Sketch.from_pretrained(own) if own.is_dir() else None


def read_embedder(folder: Path, embedder: Embedder) -> None:
    """Fill an embedder with that of a model folder of the same sizes.

    Raises:
        CheckpointError: on a missing, damaged or mismatching file, naming the weight.
    """
    _read_config(folder)
    state = read_weights(folder / WEIGHTS_FILE)
    part = "embedder."
    own = {name.removeprefix(part): value for name, value in state.items() if name.startswith(part)}
    fill(embedder.state_dict(), own, folder / WEIGHTS_FILE)


Steered = tuple[Conditioning, Conditioning]
"""Conditioning of successive frames, and its null."""


def _blended(
    first: Iterator[Steered], second: Iterator[Steered], blend: Blend, n_frames: int
) -> Iterator[Steered]:
    """Two rooms' conditioning mixed, in stretches in which both are known."""
    shares = blend.shares(n_frames)
    here, there, done = next(first, None), next(second, None), 0
    while here is not None and there is not None:
        n = min(here[0].frames.shape[1], there[0].frames.shape[1])
        share = torch.from_numpy(shares[done : done + n]).to(here[0].frames)[None, :, None]
        given, null = (
            dataclasses.replace(
                own.slice(0, n),
                frames=torch.lerp(own.frames[:, :n], other.frames[:, :n], share),
                tokens=torch.lerp(own.tokens, other.tokens, share.mean()),
            )
            for own, other in zip(here, there, strict=True)
        )
        yield given, null
        done += n
        here, there = (
            next(stream, None) if left[0].frames.shape[1] == n else _rest(left, n)
            for left, stream in ((here, first), (there, second))
        )


def _rest(steered: Steered, begin: int) -> Steered:
    """What comes after some frames."""
    given, null = (part.slice(begin, part.frames.shape[1]) for part in steered)
    return given, null


def _recorded(room: RecordingLike, sample_rate: int | None = None) -> Recorded:
    """A room, given as a path, recording or array, as a recording.

    Raises:
        AudioError: if a file cannot be read, or samples come without their rate or as integers.
    """
    if isinstance(room, Path | str):
        return open_recording(room)
    if isinstance(room, Waveform | Recording):
        return room
    if sample_rate is None:
        raise AudioError("Samples were given without their rate; give sample_rate, in Hz.")
    samples = np.atleast_2d(np.asarray(room))
    if not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(
            f"Samples are {samples.dtype}; expected floats in [-1, 1], scale them by full scale."
        )
    return Waveform(samples.astype(np.float32), sample_rate)


def _seconds_of(room: Recorded | None, score: Score | None) -> float:
    """The length of a room, or of a score without one."""
    if room is not None:
        return room.seconds
    if score is None:
        raise ConfigError("There is neither a room nor a score; expected at least one of them.")
    return score.seconds


def _check_codec(stated: str, own: str, whose: str) -> None:
    """Raise an error if a codec makes other tokens than a config states."""
    if stated not in ("", own):
        raise CheckpointError(
            f"{whose} was trained on codec tokens {stated}, and the codec given makes {own}; use the codec that came "
            "with the model."
        )


def _check_features(config: ModelConfig, composer: ComposerConfig) -> None:
    """Raise an error if a composer hears other features of a room than its model measures."""
    for name in ("sample_rate", "frame_rate", "n_mels", "n_fft"):
        own, theirs = getattr(config.ambient, name), getattr(composer.ambient, name)
        if own != theirs:
            raise CheckpointError(
                f"The composer was trained with ambient.{name} {theirs} and the model with {own}; use the composer "
                "that came with the model."
            )


def _read_config(folder: Path) -> ModelConfig:
    """Read the config of a model folder, after checking that its files are there."""
    for name in (CONFIG_FILE, WEIGHTS_FILE, CODEC_FOLDER):
        if not (folder / name).exists():
            raise CheckpointError(
                f"{folder} has no {name}; expected a model folder with config, weights and codec."
            )
    try:
        return from_dict(ModelConfig, read_values(folder / CONFIG_FILE))
    except ConfigError as error:
        raise CheckpointError(f"{folder / CONFIG_FILE} does not fit this version ({error}).") from error
