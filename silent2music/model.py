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
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import tee
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from silent2music.adapters import apply_adapters, read_adapters
from silent2music.ambient import FEATURE_SETTINGS
from silent2music.arrays import DoubleArray, FloatArray, IntArray
from silent2music.audio import Leveller, Recorded, Recording, Waveform, open_recording, read
from silent2music.audio.loudness import AHEAD_FRAMES
from silent2music.bundled_codec import BundledCodec
from silent2music.codec import Codec, decode_stream, load_codec, save_codec
from silent2music.composer import Composer
from silent2music.composing import PackedComposer
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
from silent2music.files import atomic_path, remove_leavings, write_text
from silent2music.guide import AHEAD, sharpened
from silent2music.hub import find_folder
from silent2music.listening import (
    PIECE_STEPS,
    WINDOW_SECONDS,
    Measured,
    listen,
    listen_live,
    listen_whole,
    n_steps_of,
)
from silent2music.processes import StepProgress, each_on_one_thread, one_thread, run_ahead
from silent2music.sampling import generate_codes, stream_codes
from silent2music.score import ENERGY_RATE_HZ, Score
from silent2music.signals import ROOM, Embedder, Signals, check_controls, contrasts, from_arrays
from silent2music.sketch import (
    LIVE_NOTES_AHEAD,
    Sketch,
    SketchNotes,
    sketch_score,
    sketch_stream,
)
from silent2music.steering import Redo, check_stretch
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
from silent2music.writing import (
    SCORE,
    Blend,
    Brief,
    Frame,
    Manuscript,
    Steered,
    automation_of,
    composed,
    embedded,
    noted,
)

CODEC_FOLDER = "codec"

FIRST_GUIDED_FRAMES, GUIDED_FRAMES = 23, 16
"""Codec frames for which the sketch must be known before the first of them is drawn, beside those that it looks ahead: at
the start of a piece as many as the first sound takes and two steps of the sketch give, later on as many as one step."""

STRETCHES_AHEAD = 8
"""Of so many stretches of such frames at most composer and sketch are ahead of the decoder, in a thread of their own."""

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
class Piece(Waveform):
    """Generated music, with the codes that it was decoded from before it was levelled.

    Attributes:
        codes: `[K, T]` int64, one row for each codebook that the model writes.
        score: the notes that it plays; None if the room alone decided.
    """

    codes: IntArray
    score: Score | None = None


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
        brief = Brief.of(
            recorded, seconds,
            score=score, composing=composing, asked=asked, blend=blend, without=without, controls=controls,
        )  # fmt: skip
        manuscript = Manuscript()
        sound = _joined(self._played(brief, sampling, manuscript, progress))
        if score is None and self.composes(without):
            score = manuscript.score(cast(float, brief.seconds), self.config.ambient.frame_rate, asked)
        written = np.frombuffer(manuscript.codes, "<u2").reshape(-1, self.config.decoder.n_codebooks).T
        return Piece(sound, self.codec.sample_rate, written.astype(np.int64, order="C"), score)

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
                it was heard, 0.32 s with the bundled codec, and with a composer as many frames later as sketch and guide
                look ahead, 0.64 s in all.
            seconds: for recordings and scores alone; this and the others as for `generate`.
            manuscript: what is composed and drawn is added to it.
            measured: profiles of the room that are known already; new ones are added to it.

        Yields:
            `[C, n]` at the codec's rate.
        """
        brief = Brief.of(
            open_recording(room) if isinstance(room, Path | str) else room, seconds,
            score=score, composing=composing, asked=asked, blend=blend, without=without, measured=measured,
            controls=controls,
        )  # fmt: skip
        played = self._played(brief, sampling or SamplingConfig(), manuscript, progress)
        yield from each_on_one_thread(played)

    def _played(
        self,
        brief: Brief,
        sampling: SamplingConfig,
        manuscript: Manuscript | None,
        progress: StepProgress | None,
    ) -> Iterator[Waveform]:
        """The sound of a brief, written and played; arguments as for `stream`."""
        unplayed: deque[Frame] = deque()
        codes = self._write(brief, sampling, manuscript, progress, unplayed=unplayed)
        if brief.score is None and self.composes(brief.without):
            loudness: Iterable[float] = automation_of(unplayed, self.config.ambient.frame_rate)
        else:
            loudness = () if brief.score is None else brief.score.gain_db
        return self._play(codes, brief.seconds, loudness)

    def _write(
        self,
        brief: Brief,
        sampling: SamplingConfig,
        manuscript: Manuscript | None = None,
        progress: StepProgress | None = None,
        prefix: Tensor | None = None,
        unplayed: deque[Frame] | None = None,
    ) -> Iterator[Tensor]:
        """Codes `[1, K, n]` of successive frames; arguments as for `stream`, `prefix` as for `stream_codes`.

        What is composed is added to `unplayed`, each frame before its codes.

        Each step below is a generator that takes from the one before as soon as it can: signals of some codec frames,
        notes, the sketch of the notes, embeddings with and without room and sketch, the codes drawn under them.
        """
        composes = brief.score is None and self.composes(brief.without)
        without = [name for name in brief.without if name != SCORE]
        signals, n_frames = self._heard(brief, composes)
        for_decoder, for_composer, for_sketch = tee(signals, 3)
        sketched = (piece.to(self.device).without(*without) for piece in for_sketch)
        others = self._heard_other(brief, composes)
        guide: Iterator[Tensor] | None = None
        if brief.score is not None:
            guide = sketch_score(self._own_sketch(), brief.score, sketched, n_frames)
        elif composes:
            composing = dataclasses.replace(brief.composing or ComposingConfig(), seed=sampling.seed)
            brief = dataclasses.replace(brief, composing=composing, without=without)
            events = self._composed(for_composer, brief, n_frames, others[0])
            events = events if manuscript is None else noted(events, manuscript)
            events = events if unplayed is None else noted(events, unplayed)
            live = {} if n_frames else {"n_frames": 1, "notes_ahead": LIVE_NOTES_AHEAD}
            guide = sketch_stream(self._own_sketch(), events, sketched, **live)

        def embed(piece: Signals) -> Steered:
            return self.steer(piece.to(self.device), without)

        conditioning: Iterator[Steered] = embedded(
            for_decoder, embed, self.embedder, brief.blend, others[1], n_frames
        )
        if guide is not None:
            conditioning = self._sketched(conditioning, guide)
            if n_frames:  # live sound is not there ahead
                conditioning = run_ahead(conditioning, STRETCHES_AHEAD, 1)
        sampling = self.resolved(sampling)
        codes = stream_codes(self.packed_decoder(), conditioning, sampling, [sampling.seed], prefix=prefix)
        done = 0
        for piece in codes:
            if manuscript is not None:
                manuscript.codes += piece[0].cpu().numpy().T.astype("<u2").tobytes()
            for _ in range(piece.shape[2]):
                done += 1
                if progress is not None:
                    progress(done, n_frames)
            yield piece

    def _play(
        self, codes: Iterator[Tensor], seconds: float | None, loudness: Iterable[float] = ()
    ) -> Iterator[Waveform]:
        """Sound `[C, n]` of codes `[1, K, n]`, cut to `seconds`; with None (live) uncut and soon.

        What is drawn is louder and quieter than its score says, so it is levelled to that.

        Args:
            loudness: as `Score.gain_db`; none for music without a score, or without automation.
        """
        rate = self.codec.sample_rate
        # Live sound waits for no attack.
        levelled = Leveller(rate, loudness, ENERGY_RATE_HZ, 0 if seconds is None else AHEAD_FRAMES)
        n_left = sys.maxsize if seconds is None else round(seconds * rate)

        def blocks() -> Iterator[FloatArray]:
            for audio in decode_stream(self.codec, codes, live=seconds is None):
                yield levelled(audio[0].cpu().numpy())
            yield levelled.rest()

        for block in blocks():
            samples = block[:, :n_left]
            n_left -= samples.shape[1]
            if samples.shape[1]:
                yield Waveform(np.clip(samples, -1.0, 1.0), rate)

    @torch.inference_mode()
    def play_codes(self, codes: IntArray, seconds: float, score: Score | None = None) -> Iterator[Waveform]:
        """The sound of codes `[K, T]` piece by piece, as `stream` gives it, cut to `seconds`.

        Args:
            score: that which they were drawn under, if any.
        """
        whole = torch.as_tensor(codes, device=self.device)[None]
        loudness = () if score is None else score.gain_db
        yield from each_on_one_thread(self._play(iter([whole]), seconds, loudness))

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

        What follows was drawn after other codes, so the two do not meet smoothly at its beginning. Of a note that begins
        with the stretch, up to 40 ms of the attack would lie before it, and are not drawn.

        Args:
            codes: `[K, T]` of the whole music, as `Piece.codes`.
            begin, end: of the stretch, in seconds; of its codec frames those are drawn that lie within.
            sampling: as for `generate`; by the seed that the music was drawn by, it comes out as it was.
            score: that of the whole; this and the others as for `stream`.

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
        recorded, without = None if room is None else _recorded(room), (SCORE,) if score is None else ()
        brief = Brief(recorded, seconds, controls, score, None, None, blend, without, measured=measured)
        prefix = torch.as_tensor(codes[None, :, :first], device=self.device)
        drawn, n_drawn = [codes[:, :0]], 0
        for piece in self._write(brief, sampling, None, progress, prefix):
            drawn.append(piece[0].cpu().numpy())
            n_drawn += piece.shape[2]
            if n_drawn >= last:
                break
        return np.concatenate([np.concatenate(drawn, axis=1)[:, :last], codes[:, last:]], axis=1)

    @one_thread()
    def compose(
        self,
        room: RecordingLike,
        seconds: float | None = None,
        composing: ComposingConfig | None = None,
        *,
        seed: int | None = None,
        asked: Controls | None = None,
        redo: Redo | None = None,
        sample_rate: int | None = None,
        **options: Any,
    ) -> Score:
        """Compose a score for a room, as notes.

        Args:
            room: the recording.
            seconds: length of the score, by default that of the room; a shorter room is repeated.
            composing: how notes are drawn.
            seed: of the draws; by default that of `composing`, which is 0 by default.
            asked: what the user wishes, beside what the room says.
            redo: a stretch of a score that is composed again; the rest of the score is given back as it is.
            sample_rate: in Hz, of a room that is given as samples.
            options: further ones of `compose_frames`, and controls of the model by name.

        Raises:
            CheckpointError: if the model has no composer.
            ConfigError: if the model has no such control, or a wish does not fit the piece.
        """
        composing = composing or ComposingConfig()
        if seed is not None:
            composing = dataclasses.replace(composing, seed=seed)
        recorded = _recorded(room, sample_rate)
        frames = self.compose_frames(recorded, composing, seconds, asked=asked, redo=redo, **options)
        written = Manuscript.of(frames)
        rate = self.config.ambient.frame_rate
        score = written.score(seconds or recorded.seconds, rate, asked)
        if redo is None:
            return score
        return redo.merged(
            score, asked is not None and asked.turning(round(score.seconds * rate), rate) > 0.0
        )

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
    ) -> Iterator[Frame]:
        """Compose codec frame by codec frame, each as soon as what the composer hears of the room ahead is known.

        Args:
            room: the recording, or for live input its sound as it comes, as for `stream`.
            begun: a score that is gone on with: its notes stand up to its end.
            asked, blend: as for `generate`, for a recording alone; notes are on their grid to 10 ms.
            redo: as for `compose`; the last frame is that of the stretch's end.
            composing, seconds, without, progress, measured, controls: as for `stream`.
        """
        self._own_composer()
        brief = Brief.of(
            room, seconds, composing=composing, without=without, begun=begun, measured=measured, asked=asked, blend=blend,
            redo=redo, controls=controls,
        )  # fmt: skip
        signals, n_frames = self._heard(brief, True)
        written = self._composed(signals, brief, n_frames, self._heard_other(brief, True)[0])
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

    def _heard(self, brief: Brief, composes: bool) -> tuple[Iterator[Signals], int]:
        """Signals of a room in successive stretches, and the number of codec frames in all, 0 for live sound."""
        config, controls, seconds = self._config_of_all(composes), brief.controls, brief.seconds
        check_controls(config, controls)
        if seconds is None:
            if brief.asked is not None:
                raise ConfigError("What the music is to be can be asked for a recording; this is live sound.")
            return listen_live(cast(Iterable[Waveform], brief.room), config, controls), 0
        rate, n_frames = config.ambient.frame_rate, n_steps_of(seconds, config.ambient)
        if brief.asked is not None:
            self.check_asked(brief.asked, seconds, composes)
            controls = {**brief.asked.signals(seconds, n_frames, rate), **controls}
        if brief.redo is not None and composes:
            controls = {**brief.redo.traits(n_frames, rate), **controls}
        if brief.room is None:
            begins = range(0, n_frames, PIECE_STEPS)
            return (from_arrays({}, min(PIECE_STEPS, n_frames - begin)) for begin in begins), n_frames
        return listen(cast(Recorded, brief.room), seconds, config, controls, brief.measured), n_frames

    def _heard_other(self, brief: Brief, composes: bool) -> tuple[Iterator[Signals], ...]:
        """Signals of the other room, twice; none without one."""
        if brief.blend is None:
            return iter(()), iter(())
        if brief.seconds is None:
            raise ConfigError("Another room can be mixed into a recording; this is live sound.")
        other = dataclasses.replace(brief, room=brief.blend.room, measured=None, redo=None)
        return tee(self._heard(other, composes)[0])

    def _composed(
        self, signals: Iterable[Signals], brief: Brief, n_frames: int, others: Iterable[Signals]
    ) -> Iterator[Frame]:
        """As `writing.composed`, by the model's composer."""
        composer = self._own_composer()
        packed = self._packed_once("composer", composer, PackedComposer)
        return composed(composer, packed, signals, brief, n_frames, others)

    def _sketched(
        self, conditioning: Iterable[Steered], guide: Iterator[Tensor]
    ) -> Generator[Steered, None, None]:
        """Conditioning with the sketch, in stretches, each as soon as its sketch is known."""
        assert self.decoder.guide is not None
        given = torch.ones(1, dtype=torch.bool, device=self.device)
        known = torch.zeros(1, 0, self.config.decoder.codebook_dim, device=self.device)
        n_before = 0  # frames of `known` that are given on already
        n_wanted = FIRST_GUIDED_FRAMES
        for whole, whole_null in conditioning:
            begin = 0
            while begin < whole.frames.shape[1]:
                stretch, null = (c.slice(begin, begin + n_wanted) for c in (whole, whole_null))
                begin, n_wanted = begin + n_wanted, GUIDED_FRAMES
                end = n_before + stretch.frames.shape[1]
                while known.shape[1] < end + AHEAD and (piece := next(guide, None)) is not None:
                    known = torch.cat([known, piece.to(known)], dim=1)
                known = functional.pad(known, (0, 0, 0, max(0, end - known.shape[1])))
                own = sharpened(self.decoder.guided(known, given, n_before, end), known, n_before)
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
        **controls: Any,
    ) -> list[Piece]:
        """Generate music for several rooms in one batch, with a seed for each; long rooms, and scores, one after another.

        The logits are those of `generate` but for rounding, which depends on the batch.
        """
        lengths = [seconds or room.seconds for room in rooms]
        longest = max([*lengths, *(room.seconds for room in rooms)])
        if self.composes(without) or longest > WINDOW_SECONDS:
            own = zip(rooms, seeds, strict=True)
            options: dict[str, Any] = {"without": without, **controls}
            return [self.generate(room, sampling, seconds, seed=seed, **options) for room, seed in own]
        check_controls(self.config, controls)
        without = [name for name in without if name != SCORE]
        heard = [
            listen_whole(room, length, self.config, controls)
            for room, length in zip(rooms, lengths, strict=True)
        ]
        given, null = self.steer(Signals.collate(heard).to(self.device), without)
        sampling = self.resolved(sampling)
        written = generate_codes(self.packed_decoder(), given, null, sampling, seeds)
        pieces = []
        for row, signals, length in zip(written, heard, lengths, strict=True):
            codes = row[:, : signals.n_frames]
            sound = _joined(self._play(iter([codes[None]]), length))
            pieces.append(Piece(sound, self.codec.sample_rate, codes.cpu().numpy()))
        return pieces

    def condition(self, signals: Signals, sketched: Sketched | None = None) -> Conditioning:
        """Signals, and the vectors of a sketch if there are any, embedded as conditioning of the decoder."""
        conditioning: Conditioning = self.embedder(signals)
        if sketched is None:
            return conditioning
        return dataclasses.replace(conditioning, guide=self.decoder.guided(*sketched))

    def steer(
        self, signals: Signals, without: Sequence[str] = (), sketched: Sketched | None = None
    ) -> Steered:
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
        signals, n_frames = self._heard(Brief(room, seconds, {}, measured=measured), composes=False)
        rate, found, begin = self.config.ambient.frame_rate, [np.zeros((len(parts), 0))], 0
        for vectors in sketch_score(sketch, score, (piece.to(self.device) for piece in signals), n_frames):
            n = vectors.shape[1]
            spectra = (vectors @ codec.components).clamp_min(0.0)
            total = spectra.pow(2 / codec.config.power).sum(dim=2)
            notes = SketchNotes.of(parts, [begin] * len(parts), n, rate, sketch.leads).to(self.device)
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
        """Losses `[B]` in nats a token under the rooms of `signals.contrasts`, and under the true room with other scores.

        Arguments as in `forward`. With a sketch also `other_score`, the next row's, and `no_score`.
        """
        found = {name: self(codes, room, sketched).mean(dim=1) for name, room in contrasts(signals).items()}
        if sketched is not None:
            vectors, given = sketched
            found["other_score"] = self(codes, signals, (vectors.roll(-1, dims=0), given)).mean(dim=1)
            found["no_score"] = self(codes, signals).mean(dim=1)
        return found

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
        write_text(folder / CONFIG_FILE, text)
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


def _joined(pieces: Iterable[Waveform]) -> FloatArray:
    return np.concatenate([piece.samples for piece in pieces], axis=1)


def _recorded(room: RecordingLike, sample_rate: int | None = None) -> Recorded:
    """A room, given as a path, recording or array, as a recording."""
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


def _check_codec(stated: str, own: str, whose: str) -> None:
    """Raise an error if a codec makes other tokens than a config states."""
    if stated not in ("", own):
        raise CheckpointError(
            f"{whose} was trained on codec tokens {stated}, and the codec given makes {own}; use the codec that came "
            "with the model."
        )


def _check_features(config: ModelConfig, composer: ComposerConfig) -> None:
    """Raise an error if a composer hears other features of a room than its model measures."""
    for name in FEATURE_SETTINGS:
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
