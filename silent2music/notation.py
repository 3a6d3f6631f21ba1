"""A score as a composer writes it: events on the codec's frames, and what is remembered of those written before.

An event is a mark of time (the start of a section, a bar or a beat) or a note, five fields of which each is a choice
among a few: the symbol (the mark, or the instrument with its role), the place within the frame, and of a note pitch,
length and velocity. Times are kept to a place, 10 ms at 25 frames a second, and lengths to a tenth. A composer writes in
C major or A minor; a score is moved there to be heard, and away from there to any key.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np

from silent2music.arrays import DoubleArray, FloatArray, IntArray
from silent2music.keys import estimate_key, key_shift
from silent2music.score import ENERGY_RATE_HZ, Part, Score

N_PLACES = 4
"""Places of an event within a codec frame."""

PART_ROLES = ("bass", "harmony", "melody", "percussion", "")
"""Roles in the order in which the notes of a frame are written: from what carries the harmony on."""

N_PROGRAMS, DRUMS = 129, 128
"""General MIDI programs, and drums, which have none."""

INSTRUMENT_NAMES = (
    """
piano, bright piano, electric grand piano, honky-tonk piano, electric piano, chorused electric piano,
harpsichord, clavinet, celesta, glockenspiel, music box, vibraphone, marimba, xylophone, tubular bells, dulcimer,
drawbar organ, percussive organ, rock organ, church organ, reed organ, accordion, harmonica, bandoneon,
nylon guitar, steel guitar, jazz guitar, clean electric guitar, muted electric guitar, overdriven guitar,
distortion guitar, guitar harmonics, acoustic bass, fingered bass, picked bass, fretless bass, slap bass,
popped slap bass, synth bass, second synth bass, violin, viola, cello, double bass, tremolo strings,
pizzicato strings, harp, timpani, strings, slow strings, synth strings, second synth strings, choir, voice, synth voice,
orchestra hit, trumpet, trombone, tuba, muted trumpet, French horn, brass, synth brass, second synth brass,
soprano saxophone, alto saxophone, tenor saxophone, baritone saxophone, oboe, English horn, bassoon, clarinet,
piccolo, flute, recorder, pan flute, bottle, shakuhachi, whistle, ocarina, square lead, sawtooth lead, calliope lead,
chiff lead, charang lead, voice lead, fifths lead, bass and lead, new age pad, warm pad, polysynth pad, choir pad,
bowed pad, metallic pad, halo pad, sweep pad, rain, soundtrack, crystal, atmosphere, brightness, goblins, echoes,
science fiction, sitar, banjo, shamisen, koto, kalimba, bagpipe, fiddle, shehnai, tinkle bell, agogo, steel drums,
woodblock, taiko, melodic tom, synth drum, reverse cymbal, fret noise, breath, seashore, bird, telephone, helicopter,
applause, gunshot, drums
""".strip()
    .replace("\n", " ")
    .split(", ")
)
"""In plain words, by program."""

STRIKES = np.isin(
    np.arange(N_PROGRAMS), [*range(16), *range(24, 40), 45, 46, 47, *range(104, 109), *range(112, 120), DRUMS]
)
"""`[129]` whether a program's notes begin all at once and fade: struck or plucked. Others are held."""

END, SECTION, BAR, BEAT = range(4)
FIRST_PART = 4
N_SYMBOLS = FIRST_PART + len(PART_ROLES) * N_PROGRAMS
"""Symbols: the end of a frame, the marks, and `FIRST_PART + role * N_PROGRAMS + program`."""

LENGTHS_SECONDS = np.geomspace(0.04, 12.0, 32)
N_VELOCITIES = 16

FIELDS = {
    "symbol": N_SYMBOLS,
    "place": N_PLACES,
    "pitch": 128,
    "length": len(LENGTHS_SECONDS),
    "velocity": N_VELOCITIES,
}
"""Number of choices of each field of an event, in the order in which they are made; a mark has the first two."""

Event = tuple[int, int, int, int, int]
"""The fields; those that a mark lacks are 0."""

N_KEYS = len(PART_ROLES) * 128
"""Pitches of all roles, `role * 128 + pitch`."""

N_HELD = 4 * N_KEYS
"""Width of what `Memory` says of single notes: that one sounds, how new it is, how long it will last, and the last one
of each role."""

_DECAY_SECONDS = (1.0, 4.0, 16.0, 2.0)
"""Over which pitch classes are forgotten: of all notes three times, then of the bass."""

HABITS = ("recent", "known", "a bar ago", "two bars ago")
"""What `Memory.habits` says of each part's symbol that has played, and in their places of bars and beats: how near the
moment is at which one is due by the interval before, whether that has passed, and nothing."""

_RECENT_SECONDS, _KNOWN_SECONDS, _FORGOTTEN_SECONDS = 2.0, 12.0, 30.0

REFERENCES = ("top", "bottom", "here")
"""Pitches that a note's pitch is compared with, see `Memory.voices`."""

N_ECHOES = 2
"""Bars back that notes are remembered as patterns."""

NO_PITCH = -1

N_METRICAL = 19
N_SCALARS = 12 * len(_DECAY_SECONDS) + N_METRICAL
"""Width of what `Memory` says of the music as a whole."""


def symbol_of(role: str, program: int, is_drum: bool) -> int:
    """The symbol of an instrument in a role."""
    return FIRST_PART + PART_ROLES.index(role) * N_PROGRAMS + (DRUMS if is_drum else program)


def part_of(symbol: int) -> tuple[int, int]:
    """Index of the role, and program, of a part's symbol."""
    return divmod(symbol - FIRST_PART, N_PROGRAMS)


def nearest_lengths(seconds: DoubleArray | float) -> IntArray:
    """The indices `[n]` in `LENGTHS_SECONDS` of the nearest lengths, by ratio, to some above 0 s, `[n]`."""
    found: IntArray = np.abs(np.log(LENGTHS_SECONDS) - np.log(np.atleast_1d(seconds))[:, None]).argmin(axis=1)
    return found


@dataclass(frozen=True)
class Written:
    """Events in the order in which they are written: by frame, then marks before notes, symbols and pitches ascending.

    Attributes:
        frames: `[N]` int64.
        fields: `[N, 5]` int64, see `FIELDS`.
    """

    frames: IntArray
    fields: IntArray

    def slice(self, begin: int, end: int) -> Written:
        """Events of frames `begin` to before `end`, frames counted from `begin`."""
        first, last = np.searchsorted(self.frames, (begin, end))
        return Written(self.frames[first:last] - begin, self.fields[first:last])

    def transposed(self, semitones: int) -> Written:
        """All but drums moved, by octaves less or more where that leaves the range of MIDI."""
        moved = self.fields[:, 2] + semitones
        moved = np.where(moved < 0, moved + 12, np.where(moved > 127, moved - 12, moved))
        symbols = self.fields[:, 0]
        pitched = (symbols >= FIRST_PART) & ((symbols - FIRST_PART) % N_PROGRAMS != DRUMS)
        fields = self.fields.copy()
        fields[:, 2] = np.where(pitched, moved, fields[:, 2])
        return _ordered(self.frames, fields)


def _ordered(frames: IntArray, fields: IntArray) -> Written:
    """Events put in order, each note and mark of a frame once."""
    key = (frames * N_SYMBOLS + fields[:, 0]) * 128 + fields[:, 2]
    # Of two that are one, the first in time stays.
    order = np.argsort(key * N_PLACES + fields[:, 1], kind="stable")
    first = np.append(True, np.diff(key[order]) > 0) if len(order) else np.zeros(0, bool)
    chosen = order[first]
    return Written(frames[chosen], fields[chosen])


def write_down(score: Score, frame_rate: float) -> Written:
    """The events of a score, its times rounded to places.

    Marks at one time are one: a section's start is a bar's too if it is one, and a bar line is a beat.
    """
    rows: list[IntArray] = []
    marks = {SECTION: score.boundary_seconds, BAR: score.bar_seconds, BEAT: score.beat_seconds}
    places = {symbol: _places(seconds, frame_rate) for symbol, seconds in marks.items()}
    places[BEAT] = np.setdiff1d(places[BEAT], places[BAR])
    for symbol, own in places.items():
        zeros = np.zeros(len(own), np.int64)
        rows.append(np.stack([own, zeros + symbol, zeros, zeros, zeros], axis=1))
    for part in score.parts:
        symbol = symbol_of(part.role, part.program, part.is_drum)
        lasting = np.maximum(part.end_seconds - part.start_seconds, 1e-3)
        lengths = nearest_lengths(lasting)
        velocities = part.velocities * N_VELOCITIES // 128
        own = _places(part.start_seconds, frame_rate)
        rows.append(np.stack([own, np.full_like(own, symbol), part.pitches, lengths, velocities], axis=1))
    place, symbol, *rest = np.concatenate(rows).astype(np.int64).T
    frames, within = np.divmod(place, N_PLACES)
    written = _ordered(frames, np.stack([symbol, within, *rest], axis=1))
    return written.slice(0, math.ceil(score.seconds * frame_rate - 1e-6))


def home_shift(score: Score) -> int:
    """Semitones, -6 to 5, by which a score is moved to C major or A minor, where the composer hears and writes it.

    So it need not learn every chord twelve times over; what it has written is moved to any key.
    """
    pitched = [part for part in score.parts if not part.is_drum]
    if not pitched:
        return 0
    pitches = np.concatenate([part.pitches for part in pitched])
    lasting = np.concatenate([part.end_seconds - part.start_seconds for part in pitched])
    return key_shift(*estimate_key(pitches, lasting))


def moved(event: Event, semitones: int) -> Event:
    """An event, its pitch moved as by `Written.transposed`."""
    symbol, place, pitch, length, velocity = event
    if symbol < FIRST_PART or part_of(symbol)[1] == DRUMS:
        return event
    pitch += semitones
    return symbol, place, pitch + 12 if pitch < 0 else pitch - 12 if pitch > 127 else pitch, length, velocity


def _places(seconds: DoubleArray, frame_rate: float) -> IntArray:
    return np.rint(np.asarray(seconds, np.float64) * (frame_rate * N_PLACES)).astype(np.int64)


def read_back(written: Written, seconds: float, frame_rate: float, gain_db: Sequence[float] = ()) -> Score:
    """The score of events.

    A note ends when its part strikes the same pitch again, and at the end of the piece.

    Args:
        frame_rate: in Hz.
        gain_db: loudness automation of each frame, if there is any.
    """
    times = (written.frames * N_PLACES + written.fields[:, 1]) / (frame_rate * N_PLACES)
    symbols = written.fields[:, 0]
    inside = times < seconds
    marks = {symbol: times[inside & (symbols == symbol)] for symbol in (SECTION, BAR, BEAT)}
    parts = []
    for symbol in np.unique(symbols[inside & (symbols >= FIRST_PART)]):
        own = inside & (symbols == symbol)
        order = np.argsort(times[own], kind="stable")
        starts, (pitches, lengths, velocities) = times[own][order], written.fields[own][order, 2:].T
        ends = np.minimum(starts + LENGTHS_SECONDS[lengths], seconds)
        for pitch in np.unique(pitches):
            (same,) = np.nonzero(pitches == pitch)
            ends[same[:-1]] = np.minimum(ends[same[:-1]], starts[same[1:]])
        # Pitches that were moved by an octave to stay in range may meet others.
        lasting = ends > starts
        starts, ends, pitches, lengths, velocities = (
            column[lasting] for column in (starts, ends, pitches, lengths, velocities)
        )
        role, program = part_of(int(symbol))
        is_drum = program == DRUMS
        parts.append(
            Part(
                name=INSTRUMENT_NAMES[program],
                program=0 if is_drum else program,
                is_drum=is_drum,
                role=PART_ROLES[role],
                start_seconds=starts,
                end_seconds=ends,
                pitches=pitches,
                velocities=(velocities * 2 + 1) * 64 // N_VELOCITIES,
            )
        )
    curve = np.zeros(0)
    if len(gain_db):
        at = np.arange(math.ceil(seconds * ENERGY_RATE_HZ - 1e-6)) / ENERGY_RATE_HZ
        curve = np.interp(at, np.arange(len(gain_db)) / frame_rate, gain_db)
    return Score(
        seconds=seconds,
        parts=tuple(parts),
        gain_db=curve,
        beat_seconds=np.union1d(marks[BAR], marks[BEAT]),
        bar_seconds=marks[BAR],
        boundary_seconds=marks[SECTION][marks[SECTION] > 0],
    )


def gain_of_frames(score: Score, begin: int, end: int, frame_rate: float) -> FloatArray:
    """The loudness automation of a score in dB at frames `begin` to before `end`; 0 where it has none."""
    if not len(score.gain_db):
        return np.zeros(end - begin, np.float32)
    at = np.arange(begin, end) / frame_rate
    return np.interp(at, np.arange(len(score.gain_db)) / ENERGY_RATE_HZ, score.gain_db).astype(np.float32)


@dataclass
class _Held:
    """A note that sounds: its key, start and end in seconds."""

    key: int
    start: float
    end: float


class Memory:
    """What is remembered of the music written so far: the notes that sound, recent pitch classes, the place in the bar.

    The same in training and in writing, so it is a function of the events alone.

    Args:
        frame_rate: in Hz.
    """

    def __init__(self, frame_rate: float) -> None:
        self._rate = frame_rate
        self.held: dict[tuple[int, int], _Held] = {}
        """The notes that sound, by symbol and pitch."""
        self._last: dict[int, tuple[int, float]] = {}
        self._played: dict[int, dict[int, list[int]]] = {}
        """By symbol the pitches of its notes by the frame in which they begin."""
        self._classes = np.zeros((len(_DECAY_SECONDS), 12))
        self._decay = np.exp(-1.0 / (frame_rate * np.array(_DECAY_SECONDS)))[:, None]
        self._frame = 0
        self._section = self._bar = self._beat = self._onset = -1e3
        self._bar_interval, self._beat_interval = 2.4, 0.6
        self._n_beats = self._n_bars = 0

    @property
    def frame(self) -> int:
        """The present frame."""
        return self._frame

    def advance(self, frame: int) -> None:
        """Go on to a frame, and forget the notes that have ended by then."""
        now = frame / self._rate
        self._classes *= self._decay ** (frame - self._frame)
        self._frame = frame
        ended = [name for name, note in self.held.items() if note.end <= now]
        for name in ended:
            del self.held[name]
        if frame % 64 == 0:
            oldest = frame - _FORGOTTEN_SECONDS * self._rate
            for symbol, begun in list(self._played.items()):
                self._played[symbol] = {when: pitches for when, pitches in begun.items() if when >= oldest}
                if not self._played[symbol]:
                    del self._played[symbol]

    def write(self, event: Event) -> None:
        """Remember an event of the present frame."""
        symbol, place, pitch, length, _ = event
        seconds = (self._frame + place / N_PLACES) / self._rate
        if symbol >= FIRST_PART:
            role, program = part_of(symbol)
            key = role * 128 + pitch
            self.held[symbol, pitch] = _Held(key, seconds, seconds + float(LENGTHS_SECONDS[length]))
            self._last[role] = key, seconds
            self._played.setdefault(symbol, {}).setdefault(self._frame, []).append(pitch)
            self._onset = seconds
            if program != DRUMS:
                self._classes[:3, pitch % 12] += 1.0
                self._classes[3, pitch % 12] += role == 0
        elif symbol == SECTION:
            self._section, self._n_bars = seconds, 0
        else:
            self._beat_interval = _interval(seconds - self._beat, self._beat_interval)
            self._beat = seconds
            self._n_beats += 1
            if symbol == BAR:
                self._bar_interval = _interval(seconds - self._bar, self._bar_interval)
                self._bar, self._n_beats = seconds, 0
                self._n_bars += 1

    def ahead(self) -> Memory:
        """A copy to be advanced on trial: of what it says of the future, `keys` and `scalars` are known."""
        other = copy(self)
        other.held, other._classes, other._played = dict(self.held), self._classes.copy(), {}
        return other

    def keys(self) -> tuple[list[int], list[float]]:
        """Indices below `N_HELD` of what is known of single notes, and how much each counts."""
        now = self._frame / self._rate
        indices, weights = [], []
        for note in self.held.values():
            indices += [note.key, N_KEYS + note.key, 2 * N_KEYS + note.key]
            weights += [1.0, math.exp(note.start - now), min(1.0, (note.end - now) / 2.0)]
        for key, seconds in self._last.values():
            indices.append(3 * N_KEYS + key)
            weights.append(math.exp((seconds - now) / 4.0))
        return indices, weights

    def habits(self) -> list[tuple[int, list[float]]]:
        """`HABITS` by symbol: of parts how lately they played, and whether a bar and two bars ago."""
        found = []
        for symbol, begun in self._played.items():
            since = (self._frame - next(reversed(begun))) / self._rate
            echoes = [float(bool(self._echo(begun, n))) for n in range(1, N_ECHOES + 1)]
            found.append(
                (symbol, [math.exp(-since / _RECENT_SECONDS), math.exp(-since / _KNOWN_SECONDS), *echoes])
            )
        for symbol, last, interval in (
            (BAR, self._bar, self._bar_interval),
            (BEAT, self._beat, self._beat_interval),
        ):
            # In frames from the middle of this one, whose places a mark may have.
            late = self._frame + 0.5 - (last + interval) * self._rate
            if last >= 0.0 and late > -1.5:
                found.append((symbol, [max(0.0, 1.0 - abs(late)), float(late >= 1.0), *(0.0,) * N_ECHOES]))
        return found

    def voices(self, symbol: int) -> tuple[tuple[int, int, int], list[tuple[int, int]]]:
        """What a symbol's next note is compared with.

        Returns:
            `REFERENCES`: the highest and the lowest of the notes that it began last, before this frame, and the last of
            those that it has begun in it; `NO_PITCH` where there is none. Then bar (from 0 on, backwards) and pitch of
            its notes one and two bars ago.
        """
        begun = self._played.get(symbol, {})
        here = begun.get(self._frame)
        earlier = [when for when in begun if when < self._frame]
        last = begun[max(earlier)] if earlier else [NO_PITCH]
        echoes = [(n - 1, pitch) for n in range(1, N_ECHOES + 1) for pitch in self._echo(begun, n)]
        return (max(last), min(last), here[-1] if here else NO_PITCH), echoes

    def since(self, symbol: int) -> dict[int, float]:
        """Seconds since a symbol began each of the pitches that it has begun lately, before this frame."""
        begun = self._played.get(symbol, {})
        return {
            pitch: (self._frame - frame) / self._rate
            for frame, pitches in begun.items()  # of the same pitch the last one counts
            if frame < self._frame
            for pitch in pitches
        }

    def _echo(self, begun: dict[int, list[int]], n_bars: int) -> set[int]:
        """Pitches that began some bars before this frame, or in a frame beside that."""
        then = self._frame - round(n_bars * self._bar_interval * self._rate)
        return {pitch for when in (then - 1, then, then + 1) for pitch in begun.get(when, ())}

    def scalars(self) -> list[float]:
        """`N_SCALARS` values of order one."""
        now = self._frame / self._rate
        values = np.log1p(self._classes).ravel().tolist()
        for since in (self._section, self._bar, self._beat, self._onset):
            values.append(math.log1p(min(now - since, 30.0)) / 2.0)
        for since, interval in ((self._bar, self._bar_interval), (self._beat, self._beat_interval)):
            phase = min((now - since) / interval, 2.0)
            turn = 2.0 * math.pi * phase
            values += [phase, math.sin(turn), math.cos(turn), math.sin(2 * turn), math.cos(2 * turn)]
        values += [math.log2(self._beat_interval / 0.6), math.log2(self._bar_interval / 2.4)]
        values += [min(self._n_beats, 8) / 4.0, min(self._n_bars, 16) / 8.0]
        values.append(math.log1p(len(self.held)) / 2.0)
        return values


def _interval(seconds: float, before: float) -> float:
    """The time between two marks, or that before them if it is none that is felt as one."""
    return seconds if 0.1 <= seconds <= 12.0 else before


@dataclass(frozen=True)
class Remembered:
    """What `Memory` says in a stretch of T frames.

    Attributes:
        keys: of each frame, indices and weights as `Memory.keys` gives them.
        scalars: `[T, N_SCALARS]`.
        habits: rows (frame, symbol, the values of `HABITS`).
        references: `[n, 3]`, of each event of the stretch; `NO_PITCH` for marks.
        echoes: rows (event, bar, pitch).
    """

    keys: list[tuple[list[int], list[float]]]
    scalars: FloatArray
    habits: list[tuple[float, ...]]
    references: list[tuple[int, int, int]]
    echoes: list[tuple[int, int, int]]


def remembered(written: Written, begin: int, end: int, frame_rate: float) -> Remembered:
    """What is remembered before the frames `begin` to before `end`, and before each of their events."""
    memory, position = Memory(frame_rate), 0
    frames, events = written.frames.tolist(), written.fields.tolist()
    found = Remembered([], np.empty((end - begin, N_SCALARS), np.float32), [], [], [])
    for frame in range(end):
        memory.advance(frame)
        if frame >= begin:
            found.keys.append(memory.keys())
            found.scalars[frame - begin] = memory.scalars()
            found.habits.extend((frame - begin, symbol, *values) for symbol, values in memory.habits())
        while position < len(frames) and frames[position] == frame:
            if frame >= begin:
                references, echoes = memory.voices(events[position][0])
                found.echoes.extend((len(found.references), *echo) for echo in echoes)
                found.references.append(references)
            memory.write(events[position])
            position += 1
    return found
