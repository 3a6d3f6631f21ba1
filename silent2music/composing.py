"""Writing a score: the composer's weights packed for fast steps, constraints on what is drawn, and the loop over frames.

A frame costs one step of the transformer and one of the writer, and every field of an event one step of the writer more,
whatever the length of the piece.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from silent2music.acoustics import PROFILE_CURVES, PROFILE_SCALARS
from silent2music.arrays import FloatArray
from silent2music.composer import GAIN_SCALE_DB, HABIT_SCALE, Composer, GatedBlock
from silent2music.config import ComposingConfig, Precision
from silent2music.decoder import Conditioning
from silent2music.errors import ConfigError
from silent2music.notation import (
    DRUMS,
    END,
    FIELDS,
    FIRST_PART,
    HABITS,
    LENGTHS_SECONDS,
    N_PLACES,
    N_VELOCITIES,
    NO_PITCH,
    PART_ROLES,
    Event,
    Memory,
    Written,
    moved,
    part_of,
)
from silent2music.players import has_nothing
from silent2music.signals import Signals
from silent2music.stepping import Linear, PackedBlocks, SpanStepper, pack
from silent2music.traits import SILENT_DBFS, SILENT_GAIN_DB, following_db

SPAN_FRAMES = 5
"""Frames that are computed at once."""

N_PITCHES = FIELDS["pitch"]

EMPTY_SECONDS = 10.0
"""Time between notes where there is nothing to play to: half of the arranged scores of 20 s have none, half have one."""

EMPTY_NOTE_SECONDS = 2.5
"""How long they last at most: a longer one stands still, as nothing does that is played in a room."""

RESTLESS_SECONDS, RESTLESS = 3.5, 3.0
"""After so long a rest notes are the likelier, by so many nats a second: arranged scores rest for at most 5.3 s."""

APART_SECONDS = 0.1
"""Notes begin together, within a place, or so far apart: of onsets in arranged scores 1 % follow another one sooner."""

STALE, STALE_SECONDS = 1.3, 1.5
"""Nats by which a pitch that its part has just begun is less likely, and the time in which that fades to 1/e: with these,
notes come again within a second nearly as often as in arranged scores."""

CLASH = 1.5
"""Nats by which a pitch is less likely that is a semitone, in any octave, from one that sounds: with these as many of the
intervals that sound together are such as in arranged scores, 2.5 % and not three times that."""

RETURN, LOWER, ENOUGH_NOTES = 0.5, 3.6, 4
"""Nats by which a pitch is less likely an octave from where its part is held, with the square of the distance: so many
semitones below the mean of what it has played, once that is so many notes. Without, harmony rises by seven semitones in
half a minute; arranged harmony stays."""

HARDER, SOFTER, SOFTEST, ON_EVENT_SECONDS, ACCENT_SECONDS = 1, 2, 4, 0.06, 1.0
"""Steps of velocity, of about 2 dB each in the middle, by which notes on an event of a room without a pulse are struck
harder, and others within a second of one softer, but no softer than a step at which they are still heard. Where events
come as they will, nothing else tells which notes answer them."""

TO_EVENT = 0.5
"""Nats by which notes on such an event are likelier, and others within a second of one less likely."""

OPENING = 4.0
"""Nats by which a frame is less likely to end before the first note, where the room sounds: with these nearly all music
begins within 0.2 s. Without, four pieces of ten begin later."""

EVENED = 0.3
"""Share that is kept of how much harder or softer a note is struck than its part's notes so far. Drawn note by note these
deviate by twelve steps of MIDI velocity and not by seven as in arranged scores, and loudness would vary with that and not
with the room."""

NO_EVENTS = (math.inf, math.inf)
"""Seconds since and until an event where none is near, or a pulse tells."""

MAX_EVENTS = 64
"""Events of a frame after which it ends, far beyond any in training."""

Chooser = Callable[[str, FloatArray, tuple[int, ...]], int | None]
"""Chooses a field's value: takes the field's name, its logits `[V]` and the fields of the event before it. None where
nothing is allowed, by which the frame ends."""


class Constraint(Protocol):
    """A rule on what is written; its limits were measured on the scores that the weights were trained on."""

    def mask(self, field: str, logits: FloatArray, before: tuple[int, ...]) -> None:
        """Set the logits `[V]` of values that are forbidden to minus infinity, in place.

        Args:
            field: a name in `notation.FIELDS`.
            logits: of its values.
            before: fields of the event that are chosen already.
        """
        ...

    def write(self, event: Event | None) -> None:
        """An event is written, or with None a frame has ended."""
        ...


class Order:
    """Events of a frame ascend by symbol and pitch, as in all that was trained on, so none is there twice."""

    def __init__(self, composer: Composer, memory: Memory, transposition: int) -> None:
        self._last: Event | None = None

    def mask(self, field: str, logits: FloatArray, before: tuple[int, ...]) -> None:
        """No symbol below the last, no mark again, no pitch of the same part again or below it."""
        if self._last is None:
            return
        symbol, pitch = self._last[0], self._last[2]
        if field == "symbol":
            # END is the lowest and stays allowed.
            logits[1 : symbol + (symbol < FIRST_PART or pitch == 127)] = -np.inf
        elif field == "pitch" and before[0] == symbol:
            logits[: pitch + 1] = -np.inf

    def write(self, event: Event | None) -> None:
        """Remember the last event of the frame."""
        self._last = event


class Known:
    """Only instruments, pitches in an instrument's range, and lengths up to its longest that training scores have."""

    def __init__(self, composer: Composer, memory: Memory, transposition: int) -> None:
        self._symbols = ~composer.known_symbols.cpu().numpy()
        self._pitches = ~composer.known_pitches.cpu().numpy()
        self._longest = composer.longest.cpu().numpy()
        self._transposition = transposition

    def mask(self, field: str, logits: FloatArray, before: tuple[int, ...]) -> None:
        """By the event's symbol."""
        if field == "symbol":
            logits[self._symbols] = -np.inf
        elif field == "pitch":
            unknown = self._pitches[before[0]]
            if part_of(before[0])[1] != DRUMS:
                unknown = np.roll(unknown, -self._transposition)
            logits[unknown] = -np.inf
        elif field == "length":
            logits[int(self._longest[before[0]]) + 1 :] = -np.inf

    def write(self, event: Event | None) -> None:
        """Nothing is remembered."""


class Polyphony:
    """No note beyond as many as sound at once in training scores."""

    def __init__(self, composer: Composer, memory: Memory, transposition: int) -> None:
        self._most, self._memory = int(composer.polyphony), memory

    def mask(self, field: str, logits: FloatArray, before: tuple[int, ...]) -> None:
        """Marks alone where as many notes sound."""
        if field == "symbol" and len(self._memory.held) >= self._most:
            logits[FIRST_PART:] = -np.inf

    def write(self, event: Event | None) -> None:
        """The memory counts."""


class Repeats:
    """A part strikes one pitch no more often in a row than in nearly all training scores, so that it moves on."""

    def __init__(self, composer: Composer, memory: Memory, transposition: int) -> None:
        self._most = int(composer.repeats)
        self._runs: dict[int, tuple[int, int]] = {}

    def mask(self, field: str, logits: FloatArray, before: tuple[int, ...]) -> None:
        """Not the pitch that was struck too often, unless the part knows no other."""
        if field == "pitch":
            pitch, count = self._runs.get(before[0], (0, 0))
            if count >= self._most and np.isfinite(np.delete(logits, pitch)).any():
                logits[pitch] = -np.inf

    def write(self, event: Event | None) -> None:
        """Count the notes of one pitch; drums are free."""
        if event is None or event[0] < FIRST_PART or part_of(event[0])[1] == DRUMS:
            return
        pitch, count = self._runs.get(event[0], (event[2], 0))
        self._runs[event[0]] = event[2], count + 1 if pitch == event[2] else 1


class Stale:
    """A part likes a pitch the less, the sooner it comes back to it: drawn note by note it would circle in a few.

    Melodies are free: those of arranged scores repeat every third note.
    """

    def __init__(self, composer: Composer, memory: Memory, transposition: int) -> None:
        self._memory = memory

    def mask(self, field: str, logits: FloatArray, before: tuple[int, ...]) -> None:
        """Prefer other pitches; drums are free, too."""
        if field != "pitch":
            return
        role, program = part_of(before[0])
        if program != DRUMS and PART_ROLES[role] != "melody":
            for pitch, seconds in self._memory.since(before[0]).items():
                logits[pitch] -= STALE * math.exp(-seconds / STALE_SECONDS)

    def write(self, event: Event | None) -> None:
        """The memory counts."""


class Clash:
    """What would rub against a note that sounds is less likely, whoever plays it; drums are free."""

    def __init__(self, composer: Composer, memory: Memory, transposition: int) -> None:
        self._memory = memory

    def mask(self, field: str, logits: FloatArray, before: tuple[int, ...]) -> None:
        """Prefer other pitches than a semitone from one that sounds."""
        if field == "pitch" and part_of(before[0])[1] != DRUMS:
            held = {pitch % 12 for symbol, pitch in self._memory.held if part_of(symbol)[1] != DRUMS}
            for near in {(pitch + step) % 12 for pitch in held for step in (1, 11)}:
                logits[near::12] -= CLASH

    def write(self, event: Event | None) -> None:
        """The memory knows what sounds."""


class Register:
    """A part stays about where its notes have been: drawn note by note its register would drift, mostly upwards."""

    def __init__(self, composer: Composer, memory: Memory, transposition: int) -> None:
        self._played: dict[int, tuple[int, int]] = {}

    def mask(self, field: str, logits: FloatArray, before: tuple[int, ...]) -> None:
        """Prefer pitches near the mean of the part's; drums are free."""
        if field == "pitch" and part_of(before[0])[1] != DRUMS:
            n_notes, total = self._played.get(before[0], (0, 0))
            if n_notes >= ENOUGH_NOTES:
                octaves = (np.arange(N_PITCHES) - total / n_notes + LOWER) / 12.0
                logits -= (RETURN * octaves**2).astype(logits.dtype)

    def write(self, event: Event | None) -> None:
        """Count a note."""
        if event is not None and event[0] >= FIRST_PART:
            n_notes, total = self._played.get(event[0], (0, 0))
            self._played[event[0]] = n_notes + 1, total + event[2]


class Heard:
    """What the rules at the draw need to know of a room, from stretch to stretch of its signals.

    Args:
        n_mels: of the room's features.
        other: another room that is mixed into this one.
        shares: `[T]` its share in each frame, 0 to 1.
    """

    def __init__(self, n_mels: int, other: Heard | None = None, shares: FloatArray | None = None) -> None:
        self._n_mels, self._other, self._shares = n_mels, other, shares
        self._frames: deque[tuple[float | None, bool | None, tuple[float, float]]] = deque()
        self._n_written = 0

    def here(self) -> tuple[float | None, bool | None, tuple[float, float]]:
        """Loudness of the music in the next frame in dB, at most 0, as `traits.following_db` has it, whether the room has
        nothing in it, both None where there is no room, and the seconds since its last event and until its next one."""
        loudness, is_empty, near = self._frames[0]
        if self._other is None or self._shares is None or loudness is None:
            return loudness, is_empty, near
        (theirs, is_other_empty, other_near), share = self._other.here(), float(self._shares[self._n_written])
        mixed = (1.0 - share) * loudness + share * (loudness if theirs is None else theirs)
        return (mixed, is_empty, near) if share < 0.5 else (mixed, is_other_empty, other_near)

    def _go_on(self) -> None:
        self._frames.popleft()
        self._n_written += 1
        if self._other is not None:
            self._other._go_on()

    def hear(self, signals: Iterable[Signals], without: Sequence[str]) -> Iterator[Signals]:
        """Signals of successive stretches of frames, one row, as they come; heard are they without some controls."""
        for piece in signals:
            self._note(piece.without(*without))
            yield piece

    def _note(self, piece: Signals) -> None:
        """Add what a stretch says."""
        if "room_frames" not in piece.along or "room_scalars" not in piece.whole:
            self._frames += [(None, None, NO_EVENTS)] * piece.n_frames
            return
        curves = piece.along["room_frames"][0, :, -len(PROFILE_CURVES) :].double().cpu().numpy()
        scalars = piece.whole["room_scalars"][0, self._n_mels :].double().cpu().numpy()
        known = dict(zip(PROFILE_SCALARS, scalars.tolist(), strict=True))
        spread = 20.0 * known["energy_range"]
        is_empty = has_nothing(scalars)
        level = 20.0 * curves[:, PROFILE_CURVES.index("energy_absolute")] - 60.0
        # The loudness that a frame is given is that of the middle of a tenth of a second which begins with it.
        level = np.append(level[1:], level[-1:])
        low, mean = (20.0 * known[name] - 60.0 for name in ("noise_floor", "level"))
        gain, _ = following_db(level, low, low + spread, mean)
        loudness = np.where(level > SILENT_DBFS, gain, SILENT_GAIN_DB)
        with np.errstate(divide="ignore"):
            apart = -np.log(curves[:, [PROFILE_CURVES.index(name) for name in ("since_event", "to_event")]])
        if known["pulse_confidence"] > 0.0:
            apart[:] = NO_EVENTS
        self._frames += [
            (value, is_empty, (since, until))
            for value, (since, until) in zip(loudness.tolist(), apart.tolist(), strict=True)
        ]

    def follow(
        self,
        frames: Iterable[tuple[tuple[Event, ...], float]],
        share: float,
        rate: float,
        given: Container[int] = (),
        is_plain: bool = True,
        touch: Touch | None = None,
    ) -> Iterator[tuple[tuple[Event, ...], float]]:
        """Composed frames, each of which was heard, as they follow the room.

        By some share their own loudness is replaced by the room's. Notes on events of a room without a pulse are struck
        harder, and others near them softer, unless they are to be plain. Before that notes are evened out by a touch, if
        there is one. Notes of the frames that are given stay as they are.
        """
        for number, (events, gain) in enumerate(frames):
            wanted, _, (since, until) = self.here()
            self._go_on()
            if touch is not None:
                evened = tuple(map(touch.evened, events))  # given notes count as struck, too
                events = events if number in given else evened
            if not is_plain and number not in given and min(since, until) < ACCENT_SECONDS:
                seconds = [event[1] / (N_PLACES * rate) for event in events]
                apart = [min(since + t, abs(until - t)) for t in seconds]
                events = tuple(map(_accented, events, apart))
            yield events, gain if wanted is None else gain + share * (wanted - gain)


class Touch:
    """How hard the parts of a piece have been struck so far, to which their next notes are evened out."""

    def __init__(self) -> None:
        self._struck: dict[int, tuple[int, int]] = {}

    def evened(self, event: Event) -> Event:
        """A note as it is struck, next to the others of its part; drums are free."""
        symbol, velocity = event[0], event[4]
        if symbol < FIRST_PART or part_of(symbol)[1] == DRUMS:
            return event
        n_notes, total = self._struck.get(symbol, (0, 0))
        self._struck[symbol] = n_notes, total = n_notes + 1, total + velocity
        mean = total / n_notes
        return (*event[:4], round(mean + EVENED * (velocity - mean)))


def _accented(event: Event, apart: float) -> Event:
    """A note as it is struck so many seconds from an event of the room."""
    if event[0] < FIRST_PART or apart >= ACCENT_SECONDS:
        return event
    velocity = event[4]
    if apart <= ON_EVENT_SECONDS:
        return (*event[:4], min(velocity + HARDER, N_VELOCITIES - 1))
    return (*event[:4], max(velocity - SOFTER, min(velocity, SOFTEST)))


class Rests:
    """Where there is nothing, a short note now and then at most; elsewhere no rest is longer than in training scores.

    Args:
        heard: says which of the two the room is.
        memory: says which frame it is.
        frame_rate: in Hz.
        may_be_empty: whether there are to be hardly any notes where there is nothing.
        owed: frames in which a chord is asked for, whatever the room.
    """

    def __init__(
        self,
        heard: Heard,
        memory: Memory,
        frame_rate: float,
        may_be_empty: bool = True,
        owed: frozenset[int] = frozenset(),
    ) -> None:
        self._heard, self._memory, self._rate = heard, memory, frame_rate
        self._may_be_empty, self._owed = may_be_empty, owed
        self._last = 0
        self._has_played = False

    def mask(self, field: str, logits: FloatArray, before: tuple[int, ...]) -> None:
        """Forbid notes, or make them the likelier the longer the rest."""
        loudness, is_empty, _ = self._heard.here()
        is_empty = is_empty and self._may_be_empty
        if field == "length" and is_empty:
            logits[LENGTHS_SECONDS > EMPTY_NOTE_SECONDS] = -np.inf
        if field != "symbol":
            return
        rested = (self._memory.frame - self._last) / self._rate
        if is_empty:
            if self._has_played and rested < EMPTY_SECONDS and self._memory.frame not in self._owed:
                logits[FIRST_PART:] = -np.inf
        elif loudness not in (None, SILENT_GAIN_DB):
            logits[FIRST_PART:] += RESTLESS * max(0.0, rested - RESTLESS_SECONDS)

    def write(self, event: Event | None) -> None:
        """Notice notes."""
        if event is not None and event[0] >= FIRST_PART:
            self._last, self._has_played = self._memory.frame, True


class Opening:
    """Music begins at once where there is something to play to, with the marks that belong to its first note.

    Args:
        heard: says whether there is.
    """

    def __init__(self, heard: Heard) -> None:
        self._heard, self._has_begun = heard, False

    def mask(self, field: str, logits: FloatArray, before: tuple[int, ...]) -> None:
        """Make the end of a frame less likely before the first note."""
        if field == "symbol" and not self._has_begun:
            loudness, is_empty, _ = self._heard.here()
            if not is_empty and loudness not in (None, SILENT_GAIN_DB):
                logits[END] -= OPENING

    def write(self, event: Event | None) -> None:
        """Notice the first note."""
        self._has_begun |= event is not None and event[0] >= FIRST_PART


class NearEvents:
    """Near an event of a room without a pulse notes rather begin on it. Such events answer nothing but the room, and what
    was learned of made rooms keeps to those of real recordings too loosely.

    Args:
        heard: says where the events are.
    """

    def __init__(self, heard: Heard) -> None:
        self._heard = heard

    def mask(self, field: str, logits: FloatArray, before: tuple[int, ...]) -> None:
        """Make notes likelier on an event, less likely beside it."""
        apart = min(self._heard.here()[2])
        if field == "symbol" and apart < ACCENT_SECONDS:
            logits[FIRST_PART:] += TO_EVENT if apart <= ON_EVENT_SECONDS else -TO_EVENT

    def write(self, event: Event | None) -> None:
        """Nothing to notice."""


class Together:
    """Notes begin together or apart, but in drawn scores what is meant as one chord begins in one frame after another.

    Args:
        memory: says which frame it is.
        frame_rate: in Hz.
        owed: frames in which a chord is asked for; none of its notes is kept from it.
    """

    def __init__(self, memory: Memory, frame_rate: float, owed: frozenset[int] = frozenset()) -> None:
        self._memory, self._owed = memory, owed
        self._n_apart = int(np.ceil(APART_SECONDS * frame_rate))
        self._began, self._place = -self._n_apart, 0

    def mask(self, field: str, logits: FloatArray, before: tuple[int, ...]) -> None:
        """No notes in the frames after one, nor before one that is owed; the others of a frame begin with its first."""
        frame = self._memory.frame
        if field == "symbol" and frame != self._began and frame not in self._owed:
            soon = range(frame + 1, frame + self._n_apart)
            if frame - self._began < self._n_apart or not self._owed.isdisjoint(soon):
                logits[FIRST_PART:] = -np.inf
        elif field == "place" and frame == self._began and before[0] >= FIRST_PART:
            logits[np.abs(np.arange(len(logits)) - self._place) > 1] = -np.inf

    def write(self, event: Event | None) -> None:
        """Notice the first note of a frame."""
        if event is not None and event[0] >= FIRST_PART and self._began != self._memory.frame:
            self._began, self._place = self._memory.frame, event[1]


MadeConstraint = Callable[[Composer, Memory, int], Constraint]
"""Makes a constraint from a composer, the memory of what is written, and the semitones by which it is moved."""

CONSTRAINTS: dict[str, MadeConstraint] = {
    "order": Order,
    "known": Known,
    "polyphony": Polyphony,
    "repeats": Repeats,
    "stale": Stale,
    "clash": Clash,
    "register": Register,
}
"""Constraints by name."""


class Drawing:
    """Chooses by chance, in the order temperature, top-p; a `Chooser`.

    Whether there is an event at all is drawn as likely as the model says, since cutting off the unlikely would thin the
    music out; top-p decides among the events.

    Args:
        composing: settings; guidance and constraints are not used here.
        seed: decides everything.
    """

    def __init__(self, composing: ComposingConfig, seed: int) -> None:
        for name in composing.top_p:
            if name not in FIELDS:
                raise ConfigError(f"top_p names '{name}'; expected some of {', '.join(FIELDS)}.")
        self._temperature = composing.temperature
        self._top_p = {name: composing.top_p.get(name, 1.0) for name in FIELDS}
        self._rng = np.random.default_rng(seed)

    def __call__(self, field: str, logits: FloatArray, before: tuple[int, ...]) -> int | None:
        """The value drawn; one random number for each."""
        chance = self._rng.random()
        highest = logits.max()
        if not np.isfinite(highest):
            return None
        if self._temperature == 0:
            return int(logits.argmax())
        shares = np.exp((logits - highest) / self._temperature, dtype=np.float64)
        shares /= shares.sum()
        if field == "symbol":
            if chance < shares[END]:
                return END
            chance = (chance - shares[END]) / (1.0 - shares[END])
            shares[END] = 0.0
        order = np.argsort(-shares, kind="stable")
        ranked = shares[order]
        below = np.cumsum(ranked)
        total = below[-1]
        n_kept = int(np.searchsorted(below, self._top_p[field] * total)) + 1
        n_kept = min(n_kept, int(np.count_nonzero(ranked)))
        return int(
            order[min(int(np.searchsorted(below[:n_kept], chance * below[n_kept - 1], "right")), n_kept - 1)]
        )


class Copying:
    """Chooses the events that are given, as a `Chooser`: for continuing a score.

    Args:
        events: of one frame.
    """

    def __init__(self, events: Sequence[Event]) -> None:
        self._events = list(events)

    def __call__(self, field: str, logits: FloatArray, before: tuple[int, ...]) -> int:
        """The next value."""
        value = self._events[0][len(before)] if self._events else END
        is_last = field == "velocity" or (field == "place" and before[0] < FIRST_PART)
        if is_last:
            self._events.pop(0)
        return value


class PackedComposer:
    """A copy of a composer's weights, laid out for writing; later changes of the composer do not reach it.

    Args:
        composer: any.
        precision: of the products; the device's best by default.
    """

    @torch.inference_mode()
    def __init__(self, composer: Composer, precision: Precision | None = None) -> None:
        self.composer = composer
        self.blocks = PackedBlocks(composer.blocks, composer.norm, composer.config, precision)
        self._precision = self.blocks.precision
        events = composer.events
        self.symbols = events.symbols()
        self.keys, self.pitches = events.key.weight, events.pitch.weight
        self.rest: dict[str, Tensor] = {
            name: getattr(events, name).weight for name in ("place", "length", "velocity")
        }
        self.held = composer.held.weight
        self.scalars = self._packed(composer.scalars)
        self.to_stream, self.to_writer = self._packed(composer.to_stream), self._packed(composer.to_writer)
        # One product for both: the writer's context, and in the last column the loudness.
        weights, biases = (
            torch.cat([getattr(layer, name) for layer in (composer.state, composer.gain)])
            for name in ("weight", "bias")
        )
        state = pack(weights, self._precision, biases)
        self.state: Linear = lambda x: state(x).float()
        self.fields = composer.field.weight.unbind(0)
        self.writer = [
            (_packed_norm(block.norm), self._packed(block.gate_up), self._packed(block.down))
            for block in cast(Iterable[GatedBlock], composer.writer)
        ]
        self.writer_norm = _packed_norm(composer.writer_norm)
        self.heads = {name: self._packed(cast(nn.Linear, composer.heads[name])) for name in FIELDS}
        self.symbol_habits, self.pitch_habits = map(
            self._packed, (composer.habits.symbol, composer.habits.pitch)
        )
        self.intervals = HABIT_SCALE * composer.habits.intervals.detach().float().cpu().numpy()
        self.roles = composer.habits.role_of.tolist()

    def _packed(self, linear: nn.Linear) -> Linear:
        """A linear layer as a function of rows."""
        product = pack(linear.weight, self._precision, cast(Tensor | None, linear.bias))
        return product if self._precision != "bf16" else lambda x: product(x).float()

    def value(self, field: str, value: int, symbol: int) -> Tensor:
        """Embedding `[H]` of a field's value, as in `EventEmbedder`."""
        if field == "symbol":
            return self.symbols[value]
        if field != "pitch":
            return self.rest[field][value]
        role, program = part_of(symbol)
        key: Tensor = self.keys[role * 128 + value]
        return key if program == DRUMS else key + self.pitches[value]


def _packed_norm(norm: nn.RMSNorm) -> Linear:
    """The norm of rows `[n, H]` in fewer operations."""
    size = norm.normalized_shape[0]
    weight, epsilon = norm.weight * size**0.5, torch.tensor((cast(float, norm.eps) * size) ** 0.5)
    epsilon = epsilon.to(weight)

    def normed(x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        out: Tensor = (x * weight).div_(length.hypot_(epsilon))
        return out

    return normed


Scored = tuple[FloatArray, FloatArray]
"""Logits `[N_SYMBOLS]` of a symbol without its habits, and the weights of habits by role."""


class _Foreseen(NamedTuple):
    """What is known of a frame before its events: the writer's context `[R, H]`, the first symbol's, loudness in dB."""

    context: Tensor
    scored: Scored
    gain: float


class Scribe:
    """Writes the events of one frame after another.

    For inference mode alone.

    Args:
        packed: the weights.
        given, null: conditioning of the first frames, one row, and "no room" of the same shapes.
        guidance: g of `null + g * (given - null)` on the logits (Ho and Salimans 2022).
        constraints: names in `CONSTRAINTS`.
        transposition: semitones by which all that is written is moved, from C major or A minor.
        rules: make constraints of this piece alone, which come last.
        n_ahead: frames that are computed at once.
        echo: a factor on the habit that bars come again.

    Raises:
        ConfigError: if a constraint is unknown.
    """

    def __init__(
        self,
        packed: PackedComposer,
        given: Conditioning,
        null: Conditioning,
        guidance: float,
        constraints: Sequence[str] = (),
        transposition: int = 0,
        rules: Sequence[MadeConstraint] = (),
        n_ahead: int = SPAN_FRAMES,
        echo: float = 1.0,
    ) -> None:
        for name in constraints:
            if name not in CONSTRAINTS:
                raise ConfigError(
                    f"Constraint '{name}' is unknown; expected some of {', '.join(CONSTRAINTS)}."
                )
        composer = packed.composer
        self._packed, self._guidance, self._guided = packed, guidance, guidance != 1
        self._echo = echo
        self._strengths = np.array([echo if "ago" in habit else 1.0 for habit in HABITS], np.float32)
        self.memory = Memory(composer.config.ambient.frame_rate)
        self._transposition = transposition
        made = [*(CONSTRAINTS[name] for name in constraints), *rules]
        self._constraints = [make(composer, self.memory, transposition) for make in made]
        self._blocks = SpanStepper(packed.blocks, self._rows(given.tokens, null.tokens), n_ahead)
        self._n_ahead, self._begun = n_ahead, 0
        self._frames = given.frames.new_zeros(1 + self._guided, 0, 1)
        self._foreseen: deque[_Foreseen] = deque()
        self._before: Tensor | None = None  # the vectors of the last frame's events, summed
        self.n_frames = 0
        self.begin(given, null)

    def begin(self, given: Conditioning, null: Conditioning) -> None:
        """The next frames are those of this conditioning, and attend to its global tokens."""
        self._blocks.set_tokens(self._rows(given.tokens, null.tokens))
        self._frames, self._begun = self._rows(given.frames, null.frames), self.n_frames
        self._foreseen.clear()

    def _rows(self, given: Tensor, null: Tensor) -> Tensor:
        return torch.cat([given, null]) if self._guided else given

    def frame(self, choose: Chooser) -> tuple[tuple[Event, ...], float]:
        """Write the next frame of those begun.

        Args:
            choose: see `Chooser`.

        Returns:
            Its events as they sound, and the loudness of the music in dB, at most 0.
        """
        self.memory.advance(self.n_frames)
        if not self._foreseen:
            self._foresee()
        foreseen = self._foreseen.popleft()
        habits = self.memory.habits()
        events: list[Event] = []
        inputs: list[Tensor] = []
        context, scored = foreseen.context, foreseen.scored
        while len(events) < MAX_EVENTS:
            made = self._event(context, self._with_habits(scored, habits), choose)
            if made is None:
                break
            event, embedded = made
            events.append(event)
            self.memory.write(event)
            for constraint in self._constraints:
                constraint.write(event)
            inputs.append(functional.gelu(embedded))
            context = context + self._packed.to_writer(inputs[-1])
            scored = self._scored(context[:, None])[0]
        for constraint in self._constraints:
            constraint.write(None)
        self._before = None
        if inputs:
            self._before = self._packed.to_stream(torch.cat(inputs)).sum(dim=0)
            self._foreseen.clear()
        self.n_frames += 1
        return tuple(moved(event, self._transposition) for event in events), foreseen.gain

    def _foresee(self) -> None:
        """What is known before the next frames' events, as long as no event is written, as in most frames none is.

        A step of the transformer and one of the writer for all of them.
        """
        packed, first = self._packed, self.n_frames - self._begun
        n_known = min(self._n_ahead, self._frames.shape[1] - first)
        memory, starts, scalars = self.memory.ahead(), list[int](), list[list[float]]()
        keys, weights = list[int](), list[float]()
        for frame in range(self.n_frames, self.n_frames + self._n_ahead):
            memory.advance(frame)
            own, counts = memory.keys()
            starts.append(len(keys))
            keys += own
            weights += counts
            scalars.append(memory.scalars())
        device = self._frames.device
        known = packed.scalars(torch.tensor(scalars, device=device))
        if keys:
            bags = [torch.tensor(own, device=device) for own in (keys, starts)]
            counted = torch.tensor(weights, device=device)
            known = known + functional.embedding_bag(
                bags[0], packed.held, bags[1], mode="sum", per_sample_weights=counted
            )
        if self._before is not None:
            known[0] += self._before
        frames = self._frames[:, first : first + n_known]
        padded = torch.cat([frames, frames[:, -1:].expand(-1, self._n_ahead - n_known, -1)], dim=1)
        states = packed.state(self._blocks.run(padded + known, self.n_frames).flatten(0, 1))
        states = states.view(len(padded), self._n_ahead, -1)
        gains = np.minimum(0.0, GAIN_SCALE_DB * states[0, :n_known, -1].double().cpu().numpy())
        contexts = states[..., :-1]
        scored = self._scored(contexts)
        for index, gain in enumerate(gains.tolist()):
            self._foreseen.append(_Foreseen(contexts[:, index], scored[index], gain))

    def _written(self, field: str, x: Tensor) -> Tensor:
        """The guided input `[n, H]` of a field's head, by a step of the writer on what is known, `[R * n, H]`."""
        packed = self._packed
        for norm, gate_up, down in packed.writer:
            gate, up = gate_up(norm(x)).chunk(2, dim=1)
            x = x + down(functional.silu(gate).mul_(up))
        normed = packed.writer_norm(x)
        if self._guided:
            given, null = normed.chunk(2)
            normed = torch.lerp(null, given, self._guidance)
        return normed

    def _scored(self, contexts: Tensor) -> list[Scored]:
        """Of contexts `[R, n, H]` the logits of the symbol of the next event, and the weights of its habits."""
        normed = self._written("symbol", (contexts + self._packed.fields[0]).flatten(0, 1))
        logits = self._packed.heads["symbol"](normed).cpu().numpy()
        weights = self._packed.symbol_habits(normed).cpu().numpy()
        return list(zip(logits, HABIT_SCALE * weights.reshape(len(weights), -1, len(HABITS)), strict=True))

    def _with_habits(self, scored: Scored, habits: list[tuple[int, list[float]]]) -> FloatArray:
        """Logits of symbols with their habits, as `Habits.symbols`, of the few symbols that have any."""
        logits, weights = scored
        for symbol, values in habits:
            strong = np.array(values, np.float32) * self._strengths
            logits[symbol] += weights[self._packed.roles[symbol]] @ strong
        return logits

    def _event(self, context: Tensor, symbols: FloatArray, choose: Chooser) -> tuple[Event, Tensor] | None:
        """The next event of the frame with its embedding `[1, H]`; None if there is none."""
        before: tuple[int, ...] = ()
        known: Tensor | None = None
        for index, field in enumerate(FIELDS):
            logits = symbols
            if known is not None:
                logits = self._logits(field, context + self._packed.fields[index] + known, before)
            for constraint in self._constraints:
                constraint.mask(field, logits, before)
            value = choose(field, logits, before)
            if value is None or (field == "symbol" and value == END):
                return None
            before = (*before, value)
            vector = self._packed.value(field, value, before[0])
            known = vector if known is None else known + vector
            if field == "place" and before[0] < FIRST_PART:
                before = (*before, 0, 0, 0)
                break
        assert known is not None
        return cast(Event, before), known[None]

    def _logits(self, field: str, x: Tensor, before: tuple[int, ...]) -> FloatArray:
        """Logits of a field after the symbol, from what is known `[R, H]`."""
        normed, packed = self._written(field, x), self._packed
        logits: FloatArray = packed.heads[field](normed)[0].cpu().numpy()
        if field == "pitch":
            # As `Habits.pitches`, of the few pitches that are compared with.
            references, echoes = self.memory.voices(before[0])
            weights = HABIT_SCALE * packed.pitch_habits(normed)[0].cpu().numpy()
            added = np.zeros_like(logits)
            for tables, reference, weight in zip(packed.intervals, references, weights, strict=False):
                if reference != NO_PITCH:
                    own = tables[packed.roles[before[0]], N_PITCHES - 1 - reference :][:N_PITCHES]
                    added += weight * own
            for bar, pitch in echoes:
                added[pitch] += self._echo * weights[len(references) + bar]
            logits += added
        return logits


@torch.inference_mode()
def write_frames(
    packed: PackedComposer,
    conditioning: Iterable[tuple[Conditioning, Conditioning]],
    composing: ComposingConfig,
    seed: int,
    transposition: int = 0,
    begun: Written | None = None,
    n_begun: int = 0,
    rules: Sequence[MadeConstraint] = (),
    n_ahead: int = SPAN_FRAMES,
) -> Iterator[tuple[tuple[Event, ...], float]]:
    """The events of one codec frame after another, each with the music's loudness in dB.

    Args:
        packed: the composer.
        conditioning: of successive stretches of frames, one row, each with its null, "no room". Frames attend to the
            global tokens of their own stretch.
        composing: settings, with a number for guidance; its `seed` and transposition are not used here.
        seed: of the draws.
        transposition: as for `Scribe`.
        begun: a score that is there already and is gone on with.
        n_begun: its frames, which are copied.
        rules, n_ahead: as for `Scribe`.

    Raises:
        ConfigError: if `composing` leaves the guidance open, or names an unknown field or constraint.
    """
    if composing.guidance is None:
        raise ConfigError("guidance is not given; expected a number, or a composer that has its own.")
    drawing = Drawing(composing, seed)
    copied = None if begun is None else begun.transposed(-transposition)
    scribe: Scribe | None = None
    for given, null in conditioning:
        if scribe is None:
            how = (composing.guidance, composing.constraints, transposition, rules, n_ahead, composing.echo)
            scribe = Scribe(packed, given, null, *how)
        else:
            scribe.begin(given, null)
        for _ in range(given.frames.shape[1]):
            choose: Chooser = drawing
            if copied is not None and scribe.n_frames < n_begun:
                here = copied.slice(scribe.n_frames, scribe.n_frames + 1).fields.tolist()
                choose = Copying([cast(Event, tuple(event)) for event in here])
            yield scribe.frame(choose)
