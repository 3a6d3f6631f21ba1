"""Notes for a room, codec frame by codec frame: what a piece is asked for, and how rooms, players and rules meet.

`composed` is the composer's part of the data path in `model`: the room's signals tell who plays and how loud, another
room may be mixed in, wishes become rules at the draw, and what stands already is copied.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any

import numpy as np
import torch

from silent2music.arrays import DoubleArray, FloatArray
from silent2music.audio import Recorded, Recording, Waveform
from silent2music.composer import Composer
from silent2music.composing import (
    Heard,
    MadeConstraint,
    NearEvents,
    Opening,
    PackedComposer,
    Rests,
    Together,
    Touch,
    write_frames,
)
from silent2music.config import ComposingConfig
from silent2music.controls import Controls
from silent2music.decoder import Conditioning
from silent2music.errors import ConfigError
from silent2music.listening import Measured, embed_stream, n_steps_of
from silent2music.notation import (
    DRUMS,
    FIELDS,
    FIRST_PART,
    N_PLACES,
    Event,
    Written,
    home_shift,
    nearest_lengths,
    part_of,
    read_back,
    write_down,
)
from silent2music.players import Ensemble, choose, rule_of
from silent2music.score import ENERGY_RATE_HZ, Score
from silent2music.signals import Embedder, Signals
from silent2music.steering import Redo, Steering, heard, plan_of, settled

SCORE = "score"
"""In `without`: the music is not composed."""

SUSTAINED_SECONDS = 2.0
"""Notes last until their part's next ones if these begin so soon."""

Steered = tuple[Conditioning, Conditioning]
"""Conditioning of successive frames, and its null."""


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


Frame = tuple[tuple[Event, ...], float]
"""What is composed for a codec frame: its events, and the music's loudness there, in dB and at most 0."""


class Manuscript:
    """What is composed, and what codes are drawn, while music streams; an hour of it takes a few MiB.

    Attributes:
        codes: of each codec frame its K codes, as unsigned numbers of two bytes, the lower one first.
    """

    def __init__(self) -> None:
        self.codes = bytearray()
        # Of each frame the number of its events and its loudness, and of each event its fields.
        self._counts, self._fields, self._gains_db = array("H"), array("H"), array("d")

    @classmethod
    def of(cls, frames: Iterable[Frame]) -> Manuscript:
        """What is composed for successive codec frames."""
        manuscript = cls()
        for frame in frames:
            manuscript.append(frame)
        return manuscript

    def append(self, frame: Frame) -> None:
        """Note the next codec frame."""
        events, gain_db = frame
        self._counts.append(len(events))
        self._fields.extend(chain.from_iterable(events))
        self._gains_db.append(gain_db)

    def written(self) -> Written:
        """All events."""
        fields = np.array(self._fields, np.int64).reshape(-1, len(FIELDS))
        return Written(np.repeat(np.arange(len(self._counts)), self._counts), fields)

    def score(self, seconds: float, frame_rate: float, asked: Controls | None) -> Score:
        """All that was noted, as a score of `seconds`, settled as it was asked for."""
        score = read_back(self.written(), seconds, frame_rate, self._gains_db)
        return score if asked is None else settled(score, asked)


def noted(frames: Iterable[Frame], place: Manuscript | deque[Frame]) -> Iterator[Frame]:
    """The same frames, each put at the end of a manuscript or queue as it passes."""
    for frame in frames:
        place.append(frame)
        yield frame


def automation_of(frames: deque[Frame], frame_rate: float) -> Iterator[float]:
    """Loudness as `Score.gain_db` will have it, of frames that are composed meanwhile.

    Each is asked for when the frames around it are composed, or else there is none.

    Args:
        frames: those that were composed; those that are no longer needed are taken out.
    """
    n_out = 0
    for index in itertools.count():
        at = index / ENERGY_RATE_HZ * frame_rate
        while len(frames) > 1 and at >= n_out + 1:
            frames.popleft()
            n_out += 1
        around = [frames[0][1], frames[min(1, len(frames) - 1)][1]]
        yield float(np.interp(at, [n_out, n_out + 1], around))


@dataclasses.dataclass(frozen=True)
class Brief:
    """What one piece is made for and of; arguments of `Silent2Music.stream` and `compose` by their names.

    Attributes:
        seconds: length; None for live sound.
        controls: by name, what else steers the model.
    """

    room: Recorded | Iterable[Waveform] | None
    seconds: float | None
    controls: Mapping[str, Any]
    score: Score | None = None
    composing: ComposingConfig | None = None
    asked: Controls | None = None
    blend: Blend | None = None
    without: Sequence[str] = ()
    begun: Score | None = None
    redo: Redo | None = None
    measured: Measured | None = None

    @staticmethod
    def of(room: Recorded | Iterable[Waveform] | None, seconds: float | None, **more: Any) -> Brief:
        """A brief whose length is by default that of the recording, or of the score without one.

        Raises:
            ConfigError: if there is neither room nor score.
        """
        if room is None:
            if more.get("score") is None:
                raise ConfigError("There is neither a room nor a score; expected at least one of them.")
            seconds = seconds or more["score"].seconds
        elif isinstance(room, Waveform | Recording):
            seconds = seconds or room.seconds
        else:
            seconds = None
        return Brief(room, seconds, **more)


def embedded(
    signals: Iterable[Signals],
    embed: Callable[[Signals], Steered],
    embedder: Embedder,
    blend: Blend | None,
    others: Iterable[Signals],
    n_frames: int,
) -> Iterator[Steered]:
    """Conditioning of successive stretches of a room, mixed with that of another one if there is one."""
    ahead = embedder.lookahead_frames
    conditioning = embed_stream(signals, embed, ahead, live=n_frames == 0)
    if blend is None:
        return conditioning
    return _blended(conditioning, embed_stream(others, embed, ahead), blend, n_frames)


def composed(
    composer: Composer,
    packed: PackedComposer,
    signals: Iterable[Signals],
    brief: Brief,
    n_frames: int,
    others: Iterable[Signals],
) -> Iterator[Frame]:
    """Compose one codec frame after another, each as soon as what the composer hears of the room ahead is known.

    Args:
        packed: the composer's weights, packed for writing.
        signals: of the room, in successive stretches; others: of the other one, if the brief has one.
        n_frames: T, or 0 for live sound.
    """
    config, redo, begun = composer.config.ambient, brief.redo, brief.begun
    composing, wished = brief.composing or ComposingConfig(), brief.asked or Controls()
    rate, seconds = config.frame_rate, n_frames / config.frame_rate
    room = Heard(config.n_mels)
    if brief.blend is not None:
        other = Heard(config.n_mels)
        others = other.hear(others, brief.without)
        room = Heard(config.n_mels, other, brief.blend.shares(n_frames))
    signals = room.hear(signals, brief.without)
    begun = begun if redo is None else redo.score
    ensemble, signals = _told_ensemble(composer, signals, brief.without, composing, wished, begun)
    if ensemble is not None:
        others = map(ensemble.tell, others)
    # Who asks for notes has them, whatever the room.
    may_be_empty = not (wished.density_points or wished.chords or wished.melody or wished.has_grid)
    plan, key = None, composing.transposition
    if brief.asked is not None or redo is not None:
        programs = None if ensemble is None else ensemble.everybody
        plan = plan_of(wished, seconds, n_frames, rate, redo, programs)
        key = wished.transposition if key is None else key
    owed: frozenset[int] = frozenset() if plan is None else plan.starts
    rules: list[MadeConstraint] = [lambda _, memory, __: Rests(room, memory, rate, may_be_empty, owed)]
    if not (wished.melody or wished.has_grid):  # which say when notes begin
        rules.append(lambda _, memory, __: Together(memory, rate, owed))
        if n_frames:  # live events are heard when they are over
            rules.append(lambda *_: NearEvents(room))
    if (players := rule_of(ensemble, wished, n_frames, rate)) is not None:
        rules.append(players)
    # But for what a mood brings.
    density = dataclasses.replace(wished, mood=()).density_points
    if not (density or wished.melody or wished.has_grid):
        # After the players, who go by how often notes are likely without.
        rules.append(lambda *_: Opening(room))
    if plan is not None:
        rules.append(partial(Steering, plan))
    if composing.guidance is None:
        # Where a wish says when notes begin, the room's own count for less.
        guidance = composer.config.guidance
        # A mood is kept to no better so, and meets fewer events.
        if wished.has_grid or density:
            guidance = min(guidance, 1.0)
        composing = dataclasses.replace(composing, guidance=guidance)
    n_copied = 0 if begun is None else n_steps_of(begun.seconds, config)
    if redo is not None:
        n_copied = int(redo.begin * rate + 1e-6)
    copied = None if begun is None else write_down(begun, rate)
    if key is None:
        # That of what was begun, or else any.
        drawn = np.random.default_rng(composing.seed)
        key = int(drawn.integers(-6, 6)) if begun is None else -home_shift(begun)

    @torch.inference_mode()
    def embed(piece: Signals) -> Steered:
        return composer.steer(piece.to(composer.device), brief.without)

    written = write_frames(
        packed,
        embedded(signals, embed, composer.embedder, brief.blend, others, n_frames),
        composing, composing.seed, key, copied, n_copied, rules, **({} if n_frames else {"n_ahead": 1}),
    )  # fmt: skip
    following = composer.config.following if composing.following is None else composing.following
    given = frozenset(range(n_copied)) | (frozenset() if plan is None else plan.given.keys())
    # Live events are heard when they are over, asked beats have accents of their own, and dynamics may be unwanted.
    is_plain = not n_frames or wished.has_grid or wished.dynamics == 0.0
    # Moods and beats are told by how hard notes are struck.
    touch = None if wished.mood or wished.has_grid else Touch()
    written = room.follow(written, following, rate, given, is_plain, touch)
    if redo is not None:
        written = islice(written, int(np.ceil(redo.end * rate - 1e-6)))
    if n_frames:  # live, nothing is known of the next notes
        # Aroused music is played short, and nothing rings into another chord.
        most = None if plan is None else np.where(plan.loudness > 0.0, 1e-3, np.maximum(plan.until, 1e-3))
        written = sustained(written, rate, given, most)
    return written if brief.asked is None else heard(written, brief.asked, seconds, rate)


def sustained(
    frames: Iterable[Frame], frame_rate: float, given: Collection[int], most: DoubleArray | None = None
) -> Iterator[Frame]:
    """Frames whose notes last until their part's next ones, as nearly all in training scores do.

    A length is drawn before it is known when the next note begins, so that many are too short for what follows. A frame
    is given on as soon as nothing that is still to be written can make a note in it, or in one before it, longer.

    Args:
        frames: composed.
        given: frames whose notes are played as they are.
        most: `[T]` seconds to which notes that begin in each frame may be made longer; any by default.
    """
    reach = math.ceil(SUSTAINED_SECONDS * frame_rate)
    waiting: deque[tuple[list[Event], float]] = deque()
    # Of each part the frame of its last notes, while these may be made longer, and how long at most.
    latest: dict[int, tuple[int, list[Event], float]] = {}
    for frame, (events, gain) in enumerate(frames):
        here = list(events)
        for symbol in {event[0] for event in events if event[0] >= FIRST_PART}:
            if part_of(symbol)[1] == DRUMS:
                continue
            place = min(event[1] for event in events if event[0] == symbol)
            begun, notes, longest = latest.pop(symbol, (frame, [], 0.0))
            for index, event in enumerate(notes):
                if event[0] == symbol:
                    until = (frame - begun + (place - event[1]) / N_PLACES) / frame_rate
                    length = int(nearest_lengths(min(until, longest))[0])
                    notes[index] = (*event[:3], max(event[3], length), event[4])
            longest = SUSTAINED_SECONDS if most is None else min(SUSTAINED_SECONDS, float(most[frame]))
            shortest = min(event[3] for event in events if event[0] == symbol)
            if frame not in given and shortest < nearest_lengths(longest)[0]:
                latest[symbol] = frame, here, longest
        waiting.append((here, gain))
        latest = {symbol: last for symbol, last in latest.items() if last[0] > frame + 1 - reach}
        n_open = frame + 1 - min((begun for begun, *_ in latest.values()), default=frame + 1)
        while len(waiting) > n_open:
            first, its_gain = waiting.popleft()
            yield tuple(first), its_gain
    for last, its_gain in waiting:
        yield tuple(last), its_gain


def _told_ensemble(
    composer: Composer,
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
    chosen = choose(composer, first.without(*without), composing, wished, begun)
    signals = chain([first], signals)
    return chosen, signals if chosen is None else map(chosen.tell, signals)


@torch.inference_mode()
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
