"""What a user asks for made exact: rules on what the composer draws, and notes set on a grid.

The composer is told of every wish (`signals.CONTROLS`); what it may still get wrong is forced, forbidden or biased here.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from silent2music.arrays import DoubleArray, FloatArray, IntArray
from silent2music.composer import Composer
from silent2music.controls import SCALES, Controls
from silent2music.errors import ConfigError
from silent2music.keys import DEGREE_TEMPLATES
from silent2music.notation import (
    BAR,
    BEAT,
    DRUMS,
    END,
    FIELDS,
    FIRST_PART,
    INSTRUMENT_NAMES,
    LENGTHS_SECONDS,
    N_PLACES,
    N_PROGRAMS,
    N_SYMBOLS,
    N_VELOCITIES,
    PART_ROLES,
    SECTION,
    STRIKES,
    Event,
    Memory,
    moved,
    nearest_lengths,
    part_of,
    write_down,
)
from silent2music.players import IS_NOTE, PROGRAM_OF
from silent2music.score import ENERGY_RATE_HZ, NOTE_COLUMNS, Part, Score
from silent2music.traits import MODES, TRIADS, chords, melody

ROLE_OF = (np.arange(N_SYMBOLS) - FIRST_PART) // N_PROGRAMS
BASS, HARMONY, MELODY = (PART_ROLES.index(role) for role in ("bass", "harmony", "melody"))

FOREIGN = 4.0
"""Nats by which notes outside the scale are held back, and notes of a melody outside the chord."""

PULL, CLEAR = 60.0, 0.35
"""Nats by which pitches are biased against another key, for each unit of its correlation that is more than so much below
that of the key asked for."""

REFERENCE_DB, QUIETER_DB = -6.0, 15.0
"""Loudness that does not follow the room is this; there, an arousal of -1 is so much below one of 1 in the same piece."""

EVENED_DB, MOST_LOUDER_DB = -10.0, 15.0
"""Level to which notes are evened out where a mood turns, that of one of velocity 71, and by how much louder at most."""

CLOSE_SECONDS = 1.8
"""A last chord without a grid starts so long before the end."""

AROUSED, SHORTER = 2.75, 0.12
"""Nats for each step of velocity and arousal, and how much of it for each step of length."""

PULSE = np.array([-6.0, 1.0, 8.0, 8.0])
"""Nats by which notes are preferred on sixteenths, eighths, beats and bars of a grid, so that it is heard."""

ACCENT, MORE, STRIKE = 0.25, 0.2, 0.5
"""How much of it for each step of velocity, for further notes of a chord, and for instruments that strike."""

HIGHER, LOUDER_DB, BREATH_SECONDS = 0.1, 3.0, 0.3
"""After a cue the music is higher by so many nats a semitone, or louder, than before it, and then the other way round; so
long before it nothing starts."""

TURN_SECONDS = 2.0
"""Where the mood turns to another mode, the tonic's triad lasts so long."""

LAST_BEATS, LAST_SECONDS = 1.5, 1.2
"""A last chord on a grid lasts at least the longer of the two."""

ALL_BEATS = 2**31
"""Beats of a bar that lasts until the next one that is asked for."""

LEAST_STRETCH_SECONDS = 0.5
"""A shorter stretch is not written again."""

SINGER = -1
"""Stands for the symbol that a given melody is played by, which the composer's instruments decide."""


@dataclass(frozen=True)
class Redo:
    """A stretch of a score that is composed again, while the rest stands note for note.

    Bars, beats, sections and cues stand within the stretch, too, so that what follows keeps its place, and so does
    loudness, but where a mood turns, which makes it that of the new notes.

    Attributes:
        score: all of it.
        begin, end: of the stretch, in seconds.
        roles: those in `notation.PART_ROLES` whose notes stand in the stretch, too.

    Raises:
        ConfigError: if the stretch is not within the score, or shorter than `LEAST_STRETCH_SECONDS`.
    """

    score: Score
    begin: float
    end: float
    roles: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_stretch(self.begin, self.end, self.score.seconds)

    def traits(self, n_frames: int, frame_rate: float) -> dict[str, FloatArray]:
        """What stands of melody and harmony, as the composer is told of it."""
        kept = self.standing()
        told = {
            "melody": melody(kept, n_frames, frame_rate) if "melody" in self.roles else None,
            "chords": chords(kept, n_frames, frame_rate) if "harmony" in self.roles else None,
        }
        return {name: value for name, value in told.items() if value is not None}

    def standing(self) -> Score:
        """The score with those parts alone that stand throughout."""
        return replace(self.score, parts=tuple(part for part in self.score.parts if part.role in self.roles))

    def merged(self, composed: Score, is_evened: bool = False) -> Score:
        """The score with the notes of another one that start in the stretch, in place of its own.

        New notes end with the stretch, and none starts on a key that still sounds from before it. Where their loudness
        is evened out, it is theirs within the stretch, too.
        """
        found: dict[tuple[int, bool, str], list[Part]] = {}
        for part in self.score.parts:
            outside = (part.start_seconds < self.begin) | (part.start_seconds >= self.end)
            found.setdefault((part.program, part.is_drum, part.role), []).append(
                part if part.role in self.roles else part.where(outside)
            )
        for part in composed.parts:
            if part.role in self.roles:
                continue
            own = found.setdefault((part.program, part.is_drum, part.role), [])
            sounding = {
                (int(p), float(e)) for o in own for p, e in zip(o.pitches, o.end_seconds, strict=True)
                if e > self.begin
            }  # fmt: skip
            new = part.where((part.start_seconds >= self.begin) & (part.start_seconds < self.end))
            free = [
                all(p != pitch or e <= start or e > self.end for p, e in sounding)
                for start, pitch in zip(new.start_seconds, new.pitches, strict=True)
            ]
            new = new.where(np.array(free, bool))
            new = replace(new, end_seconds=np.minimum(new.end_seconds, self.end))
            own[:] = [_joined(own[0], new), *own[1:]] if own else [new]
        parts = tuple(part for own in found.values() for part in own if len(part.pitches))
        gain_db = self.score.gain_db
        if is_evened and len(gain_db) == len(composed.gain_db):
            at = np.arange(len(gain_db)) / ENERGY_RATE_HZ
            gain_db = np.where((at >= self.begin) & (at < self.end), composed.gain_db, gain_db)
        return replace(self.score, parts=parts, gain_db=gain_db)


def check_stretch(begin: float, end: float, seconds: float) -> None:
    """Refuse a stretch that is not within a piece, or too short to be written again.

    Raises:
        ConfigError: with both.
    """
    if not 0.0 <= begin < end <= seconds + 1e-6 or end - begin < LEAST_STRETCH_SECONDS:
        raise ConfigError(
            f"The stretch from {begin:g} to {end:g} s cannot be written again; expected at least "
            f"{LEAST_STRETCH_SECONDS:g} s within the {seconds:g} s of the piece."
        )


def _joined(part: Part, other: Part) -> Part:
    """A part with the notes of another one, too, in order."""
    columns = {name: np.concatenate([getattr(part, name), getattr(other, name)]) for name in NOTE_COLUMNS}
    order = np.lexsort((columns["pitches"], columns["start_seconds"]))
    ordered: dict[str, Any] = {name: column[order] for name, column in columns.items()}
    return replace(part, **ordered)


@dataclass(frozen=True)
class Plan:
    """What is to be frame by frame, as the composer writes it: in C major or A minor.

    Attributes:
        marks: by frame, the marks that are written there, ascending; with a grid or cues.
        is_free: whether the composer sets bars and beats itself, and sections where none are asked for.
        given: by frame, notes that are played as they are, by `SINGER` those of a melody; pitches as they sound.
        taken: indices of roles in which nothing but these is played.
        programs: `[129]` bool, who may play.
        roots, classes, until: `[T]` the chord's root (12 for none), `[T, 12]` its pitch classes (none: any), and `[T]`
            seconds until the next.
        n_places: `[T]` of a frame's first places, those that come to stand under its chord.
        starts: frames in which a chord must start.
        last: the frame of the last chord, after which nothing starts; T if there is none.
        keys: `[T]` index of the key in `keys.DEGREE_TEMPLATES`, or -1.
        beats: in each bar that the composer sets itself; any number where it is 0.
        loudness: `[T]` nats by which each step of velocity is preferred, and of shortness a part of it.
        pulse: `[T]` nats by which notes are preferred, and of each step of velocity a part of it.
        height: `[T]` nats by which each semitone is preferred.
        breaths: frames in which nothing starts.
    """

    marks: dict[int, list[Event]]
    is_free: bool
    given: dict[int, list[Event]]
    taken: frozenset[int]
    programs: FloatArray
    roots: IntArray
    classes: FloatArray
    until: DoubleArray
    n_places: IntArray
    starts: frozenset[int]
    last: int
    keys: IntArray
    beats: int
    loudness: DoubleArray
    pulse: DoubleArray
    height: DoubleArray
    breaths: frozenset[int]


def plan_of(
    controls: Controls,
    seconds: float,
    n_frames: int,
    frame_rate: float,
    redo: Redo | None = None,
    programs: FloatArray | None = None,
) -> Plan:
    """The plan for a piece, or for a stretch of one that is there; `programs` play, or else those wished.

    Raises:
        ConfigError: if something asked for does not fit into it.
    """
    controls.check(seconds)
    programs = controls.programs if programs is None else programs
    cues = np.array([cue.seconds for cue in controls.cue_marks])
    starts_of_chords = controls.harmony(seconds, n_frames, frame_rate)[2] if controls.chords else np.zeros(0)
    beats, bars = (
        controls.grid(seconds)[:2]
        if controls.has_grid
        else (np.zeros(0), np.union1d(cues, starts_of_chords[starts_of_chords < seconds]))
    )
    marks: dict[int, list[Event]] = {}
    given, taken = _line(controls, n_frames, frame_rate), {MELODY} if controls.melody else set()
    if redo is not None:
        written = write_down(redo.standing(), frame_rate)
        taken |= {PART_ROLES.index(role) for role in redo.roles}
        given = {} if MELODY in taken and "melody" in redo.roles else given
        for frame, event in zip(written.frames.tolist(), written.fields.tolist(), strict=True):
            (marks if event[0] < FIRST_PART else given).setdefault(frame, []).append(tuple(event))
    else:
        for symbol, times in ((SECTION, cues), (BAR, bars), (BEAT, np.setdiff1d(beats, bars))):
            for time in times:
                frame, place = divmod(round(time * frame_rate * N_PLACES), N_PLACES)
                if frame < n_frames:
                    marks.setdefault(frame, []).append((symbol, place, 0, 0, 0))
    # A bar each, and no others between them.
    has_bars = bool(controls.chords) and not controls.chord_seconds
    mood = controls.curve(controls.mood, n_frames, frame_rate)
    keys = np.full(n_frames, -1)
    if controls.tonality is not None and not controls.chords:
        keys[:] = _key_of(controls.tonality[1])
    elif controls.tonality is None and mood is not None:
        keys = _keys_of(mood[:, 0])
    roots, classes, until, n_places, changes, last = _harmony(
        controls, keys, seconds, n_frames, frame_rate, bars
    )
    starts = {round(time * frame_rate) for time in cues} | changes
    at = np.arange(n_frames) / frame_rate
    to_cue = np.append(cues, np.inf)[np.searchsorted(cues, at + 0.5 / frame_rate)] - at
    until = np.minimum(until, to_cue)
    if controls.ending == "cut":
        late = controls.grid(seconds)[2] if controls.has_grid else np.array([seconds - 0.2])
        starts.add(round(float(late[late <= seconds - 0.1][-1]) * frame_rate))
    return Plan(
        marks=marks,
        is_free=not controls.has_grid and redo is None,
        given=given,
        taken=frozenset(taken),
        programs=np.ones(N_PROGRAMS, np.float32) if programs is None else programs,
        roots=roots,
        classes=classes,
        until=until,
        n_places=n_places,
        starts=frozenset(frame for frame in starts if frame < n_frames),
        last=last,
        keys=keys,
        beats=controls.beats_per_bar if controls.metre else ALL_BEATS * has_bars,
        loudness=np.zeros(n_frames) if mood is None else AROUSED * mood[:, 1].astype(np.float64),
        pulse=_pulse(controls, seconds, n_frames, frame_rate),
        height=HIGHER * contrast_of(controls, n_frames, frame_rate),
        breaths=frozenset(np.flatnonzero((to_cue > 0) & (to_cue < BREATH_SECONDS)).tolist()),
    )


def contrast_of(controls: Controls, n_frames: int, frame_rate: float) -> DoubleArray:
    """`[T]` -1 and 1 in turn from section to section; 0 without cues."""
    sections = controls.sections(n_frames, frame_rate)
    return np.asarray((sections % 2 * 2.0 - 1.0) * bool(controls.cues))


def _pulse(controls: Controls, seconds: float, n_frames: int, frame_rate: float) -> DoubleArray:
    """`pulse` of a plan: beats are struck in the frame that they are in, what is near to one is not held back."""
    if not controls.has_grid:
        return np.zeros(n_frames)
    places = controls.grid(seconds)[2]
    weights = PULSE[controls.levels(seconds)] * (1.0 - controls.loose)
    middles = (np.arange(n_frames) + 0.5) / frame_rate
    found = np.minimum(weights[np.abs(places[:, None] - middles).argmin(axis=0)], 0.0)
    frames = np.floor(places * frame_rate + 1e-6).astype(np.int64)
    found[frames[frames < n_frames]] = weights[frames < n_frames]
    return np.asarray(found)


def _harmony(
    controls: Controls, keys: IntArray, seconds: float, n_frames: int, frame_rate: float, bars: DoubleArray
) -> tuple[IntArray, FloatArray, DoubleArray, IntArray, set[int], int]:
    """`roots`, `classes`, `until`, `n_places`, and `last` of a plan, before the last the frames of changes of chord."""
    roots, classes = np.full(n_frames, 12), np.ones((n_frames, 12), np.float32)
    until, n_places = np.full(n_frames, np.inf), np.full(n_frames, N_PLACES)
    changes, last = set(), n_frames
    if controls.chords:
        roots, classes, times = controls.harmony(seconds, n_frames, frame_rate)
        classes[~classes.any(axis=1)] = 1.0
        at = np.arange(n_frames) / frame_rate
        upcoming = np.minimum(np.searchsorted(times, at + 0.5 / frame_rate, "right"), len(times))
        until = np.append(times, seconds)[upcoming] - at
        changes = {round(time * frame_rate) for time in times}
    for turn in (np.flatnonzero(np.diff(keys)) + 1).tolist():
        # What sounds ends, and the new tonic's triad says at once which mode it is.
        stretch = slice(turn, turn + round(TURN_SECONDS * frame_rate))
        roots[stretch], classes[stretch] = keys[turn] % 12, TRIADS[keys[turn]]
        until[:turn] = np.minimum(until[:turn], (turn - np.arange(turn)) / frame_rate)
        changes.add(turn)
    if controls.ending in ("final", "open"):
        last = _close(controls, int(keys[-1]), seconds, bars, frame_rate, roots, classes, until)
        changes = {change for change in changes if change < last} | {last}
    if controls.has_grid and controls.loose == 0.0:
        # What is written will stand on the nearest place, under the chord that is there.
        places = controls.grid(seconds)[2]
        within = np.arange(n_frames * N_PLACES).reshape(n_frames, N_PLACES) / (frame_rate * N_PLACES)
        nearest = np.abs(places[:, None, None] - within).argmin(axis=0)
        n_places = (nearest == nearest[:, :1]).sum(axis=1)
        index = np.rint(places[nearest[:, 0]] * frame_rate).astype(np.int64)
        roots, classes, until = (x[np.minimum(index, n_frames - 1)] for x in (roots, classes, until))
    return roots, classes, until, n_places, changes, last


def _key_of(mode: str) -> int:
    """Index of the key that the composer writes in: C major or A minor."""
    return 0 if mode == "major" else 12 + 9


def _keys_of(valence: FloatArray) -> IntArray:
    """`[T]` the keys of a mood: where its valence turns, the tonic stays and the mode changes, which is heard at once."""
    is_minor = valence < 0.0
    return np.where(is_minor, 12, 0) + _key_of(MODES[int(is_minor[0])]) % 12


def _close(
    controls: Controls,
    key: int,
    seconds: float,
    bars: DoubleArray,
    frame_rate: float,
    roots: IntArray,
    classes: FloatArray,
    until: DoubleArray,
) -> int:
    """Write the last chords into a plan: dominant and tonic, or the dominant alone; the frame of the last one."""
    late = seconds - max(LAST_SECONDS, LAST_BEATS * 60.0 / controls.bpm if controls.has_grid else 0.0)
    at = max(0.0, seconds - CLOSE_SECONDS)
    before = at - 1.5
    if controls.has_grid and (bars <= late).any():
        *_, before, at = [0.0, *bars[bars <= late]]
    tonic = max(key, 0) % 12
    last = round(at * frame_rate)
    third = 4 if key < 12 else 3
    chords = {"final": [(max(0, round(before * frame_rate)), 7, 4), (last, 0, third)], "open": [(last, 7, 4)]}
    if not controls.chords:
        # What begins before the last chord ends with it at the latest.
        until[:last] = np.minimum(until[:last], (last - np.arange(last)) / frame_rate)
    edges = [*(first for first, _, _ in chords[controls.ending][1:]), len(roots)]
    for (first, root, own_third), edge in zip(chords[controls.ending], edges, strict=True):
        if controls.chords:
            break
        roots[first:edge] = (tonic + root) % 12
        classes[first:edge] = np.isin(
            np.arange(12), [(tonic + root + step) % 12 for step in (0, own_third, 7)]
        )
        until[first:edge] = (edge - np.arange(first, edge)) / frame_rate
    return last


def _line(controls: Controls, n_frames: int, frame_rate: float) -> dict[int, list[Event]]:
    """The melody's notes by frame, of which one starts in each."""
    found: dict[int, list[Event]] = {}
    for start, end, pitch, velocity in controls.melody:
        frame, place = divmod(round(start * frame_rate * N_PLACES), N_PLACES)
        length = int(nearest_lengths(end - start)[0])
        if frame < n_frames:
            found[frame] = [(SINGER, place, int(pitch), length, int(velocity) * N_VELOCITIES // 128)]
    return found


class Steering:
    """A constraint (`composing.Constraint`) that keeps to a plan.

    Raises:
        ConfigError: if the composer knows none of the instruments that are asked for.
    """

    def __init__(self, plan: Plan, composer: Composer, memory: Memory, transposition: int) -> None:
        self._plan, self._memory, self._rate = plan, memory, composer.config.ambient.frame_rate
        known = composer.known_symbols.cpu().numpy()
        allowed = known & IS_NOTE & (plan.programs[np.maximum(PROGRAM_OF, 0)] > 0)
        if not allowed.any():
            names = sorted({INSTRUMENT_NAMES[i] for i in PROGRAM_OF[known & IS_NOTE]})
            raise ConfigError(
                f"The composer knows none of these instruments; expected some of {', '.join(names)}."
            )
        sung = any(event[0] == SINGER for events in plan.given.values() for event in events)
        singer = self._lead(allowed) if sung else SINGER
        self._given = {
            frame: [moved((singer if e[0] == SINGER else e[0], *e[1:]), -transposition) for e in events]
            for frame, events in plan.given.items()
        }
        self._barred = IS_NOTE & np.isin(ROLE_OF, list(plan.taken))
        allowed &= ~self._barred
        harmonic = allowed & ((ROLE_OF == BASS) | (ROLE_OF == HARMONY))
        pitched = allowed & (PROGRAM_OF != DRUMS)
        self._chordal = (harmonic, pitched, allowed)
        pitched_symbols = IS_NOTE & (PROGRAM_OF != DRUMS)
        self._reach = composer.known_pitches.cpu().numpy().copy()
        self._reach[pitched_symbols] = np.roll(self._reach[pitched_symbols], -transposition, axis=1)
        self._striking = allowed & STRIKES[np.maximum(PROGRAM_OF, 0)]
        self._key, self._played = int(plan.keys[0]), np.zeros(12)
        self._n_beats = 0
        self._written: list[Event] = []

    @staticmethod
    def _lead(allowed: np.ndarray) -> int:
        """The symbol that a given melody is played by: the melody's part that is known, the lowest program first."""
        own = np.flatnonzero(allowed & (ROLE_OF == MELODY) & (PROGRAM_OF != DRUMS))
        if not len(own):
            raise ConfigError("None of these instruments plays melodies; ask for another one too.")
        return int(own[0])

    def _due(self) -> Event | None:
        """The next given note of this frame."""
        given = self._given.get(self._memory.frame, ())
        return next((event for event in given if event not in self._written), None)

    def _is_first(self) -> bool:
        """Whether the next note is the first of its frame."""
        return all(event[0] < FIRST_PART for event in self._written)

    def mask(self, field: str, logits: FloatArray, before: tuple[int, ...]) -> None:
        """Force, forbid and bias the choices of a field."""
        if field == "symbol":
            self._mask_symbol(logits)
        elif before[0] < FIRST_PART:
            pending = [mark for mark in self._plan.marks.get(self._memory.frame, []) if mark[0] == before[0]]
            if pending:
                _force(logits, pending[0][1])
        elif (due := self._due()) is not None and before[0] == due[0]:
            _force(logits, due[tuple(FIELDS).index(field)])
        elif field == "place":
            logits[self._plan.n_places[self._memory.frame] :] = -np.inf
        elif field == "pitch":
            self._mask_pitch(logits, before[0])
        elif field == "length":
            self._mask_length(logits, before)
        elif field == "velocity":
            louder = self._plan.loudness[self._memory.frame] + ACCENT * self._plan.pulse[self._memory.frame]
            logits += louder * np.arange(N_VELOCITIES)

    def _mask_symbol(self, logits: FloatArray) -> None:
        plan, frame = self._plan, self._memory.frame
        marks = [mark for mark in plan.marks.get(frame, []) if all(e[0] != mark[0] for e in self._written)]
        if marks:
            _force(logits, marks[0][0])
            return
        if not plan.is_free:
            logits[SECTION:FIRST_PART] = -np.inf
        elif plan.beats and self._n_beats:
            logits[BAR if self._n_beats < plan.beats else BEAT] = -np.inf
        logits[self._barred] = -np.inf
        pulse = plan.pulse[frame] * (1.0 if self._is_first() else MORE)
        logits[FIRST_PART:] += pulse
        logits[self._striking] += max(0.0, STRIKE * pulse)
        due = self._due()
        if due is not None:
            if self._written and not self._reach[self._written[-1][0], self._written[-1][2] + 1 :].any():
                logits[
                    self._written[-1][0]
                ] = -np.inf  # of which no pitch is left, by which the frame would end
            # The frame ends no sooner than with this note, which so has the end's chance.
            logits[due[0]] = logits[END]
            logits[due[0] + 1 :] = -np.inf
            logits[END] = -np.inf
        given = self._given.get(frame, ())
        has_chord = any(self._chordal[0][e[0]] or (IS_NOTE[e[0]] and e not in given) for e in self._written)
        own = None
        if frame in plan.starts and not has_chord:
            own = next((some for some in self._chordal if np.isfinite(logits[some]).any()), None)
        if own is not None:
            if frame == plan.last and np.isfinite(logits[own & (ROLE_OF == BASS)]).any():
                own = own & (ROLE_OF == BASS)
            logits[FIRST_PART:][~own[FIRST_PART:]] = -np.inf
            logits[END] = -np.inf
        elif (frame > plan.last or frame in plan.breaths) and due is None:
            logits[FIRST_PART:] = -np.inf

    def _mask_pitch(self, logits: FloatArray, symbol: int) -> None:
        plan, frame = self._plan, self._memory.frame
        role, program = part_of(symbol)
        if program == DRUMS:
            return
        inside = np.resize(plan.classes[frame] > 0, 128)
        root = int(plan.roots[frame])
        logits += plan.height[frame] * np.arange(128)
        if plan.keys[frame] >= 0:
            logits += np.resize(self._pull(int(plan.keys[frame])), 128)
        if root < 12:
            strict = role in (BASS, HARMONY) or frame >= plan.last
            logits[~inside] = (
                -np.inf if strict and np.isfinite(logits[inside]).any() else logits[~inside] - FOREIGN
            )
            if frame in plan.starts and (role == BASS or self._is_first()):
                on_root = np.arange(128) % 12 == root
                logits[~on_root] = -np.inf if np.isfinite(logits[on_root]).any() else logits[~on_root]

    def _pull(self, key: int) -> FloatArray:
        """Nats `[12]` by pitch class: into the scale, and away from the key of what was played since `key` began."""
        if key != self._key:
            self._key, self._played = key, np.zeros(12)
        inside = np.isin((np.arange(12) - key) % 12, SCALES[MODES[key // 12]])
        scale = np.where(inside, 0.0, -FOREIGN)
        centred = self._played - self._played.mean()
        if not centred.any():
            return np.asarray(scale + FOREIGN * DEGREE_TEMPLATES[key])
        fit = DEGREE_TEMPLATES @ centred / float(np.linalg.norm(centred))
        rival = int(np.where(np.arange(24) == key, -np.inf, fit).argmax())
        lead = float(fit[rival] - fit[key])
        return np.asarray(
            scale + PULL * max(0.0, lead + CLEAR) * (DEGREE_TEMPLATES[key] - DEGREE_TEMPLATES[rival])
        )

    def _mask_length(self, logits: FloatArray, before: tuple[int, ...]) -> None:
        """Notes of a chord end with it, and the last ones are held; of aroused music they are shorter."""
        plan, frame = self._plan, self._memory.frame
        logits -= SHORTER * plan.loudness[frame] * np.arange(len(logits))
        until = float(plan.until[frame])
        if np.isfinite(until) and part_of(before[0])[1] != DRUMS:
            # A length is rounded up by a sixth at most.
            fits = np.maximum(np.flatnonzero(1.05 * until >= LENGTHS_SECONDS), 0)
            logits[(int(fits[-1]) if len(fits) else 0) + 1 :] = -np.inf
            if frame == plan.last and len(fits):
                logits[: int(np.flatnonzero(np.isfinite(logits))[-1])] = -np.inf

    def write(self, event: Event | None) -> None:
        """Count what is written."""
        if event is None:
            self._written = []
            return
        self._written.append(event)
        if event[0] in (BAR, BEAT):
            self._n_beats = 1 if event[0] == BAR else self._n_beats + (self._n_beats > 0)
        elif event[0] >= FIRST_PART and part_of(event[0])[1] != DRUMS:
            self._played[event[2] % 12] += float(LENGTHS_SECONDS[event[3]])


def _force(logits: FloatArray, value: int) -> None:
    """Leave one choice."""
    logits[:] = -np.inf
    logits[value] = 0.0


Frame = tuple[tuple[Event, ...], float]
"""The events of a codec frame as they sound, and the music's loudness there, in dB."""


def heard(frames: Iterable[Frame], controls: Controls, seconds: float, frame_rate: float) -> Iterator[Frame]:
    """Composed frames with notes on the nearest places of the grid, as soon as no later note can come to stand in them.

    Notes keep their lengths; of two of one part and pitch in one place the first stays. Loudness follows the room as far
    as is asked for, and for the rest the arousal of a mood that turns.
    """
    if controls.has_grid:
        frames = _on_grid(frames, controls, seconds, frame_rate)
    return _levelled(frames, controls, seconds, frame_rate)


def _on_grid(
    frames: Iterable[Frame], controls: Controls, seconds: float, frame_rate: float
) -> Iterator[Frame]:
    """Frames with notes on the nearest places of the grid."""
    places = controls.grid(seconds)[2]
    unit = frame_rate * N_PLACES
    reach = math.ceil(float(np.diff(places, append=seconds).max()) / 2.0 * frame_rate) + 1
    waiting: dict[int, list[Event]] = {}
    gains: list[float] = []
    for frame, (events, gain) in enumerate(frames):
        gains.append(gain)
        for event in events:
            at, to = frame * N_PLACES + event[1], frame * N_PLACES + event[1]
            if event[0] >= FIRST_PART:
                nearest = float(places[np.abs(places - at / unit).argmin()])
                to = round((nearest + controls.loose * (at / unit - nearest)) * unit)
            own = waiting.setdefault(to // N_PLACES, [])
            if all((e[0], e[2]) != (event[0], event[2]) for e in own):
                own.append((event[0], to % N_PLACES, *event[2:]))
        if frame >= reach:
            yield _ordered(waiting.pop(frame - reach, [])), gains[frame - reach]
    for frame in range(max(0, len(gains) - reach), len(gains)):
        yield _ordered(waiting.pop(frame, [])), gains[frame]


def _levelled(
    frames: Iterable[Frame], controls: Controls, seconds: float, frame_rate: float
) -> Iterator[Frame]:
    """Frames with the loudness that is asked for."""
    n_frames = max(1, math.ceil(seconds * frame_rate))
    mood, contrast = (
        controls.curve(controls.mood, n_frames, frame_rate),
        contrast_of(controls, n_frames, frame_rate),
    )
    arousal = np.zeros(n_frames) if mood is None else mood[:, 1].astype(np.float64)
    # Beside the piece's highest: all of it made quieter would be nearly nothing, and would not be turned up.
    quieter = QUIETER_DB * (arousal.max() - arousal) / 2.0
    if turning := controls.turning(n_frames, frame_rate):
        frames = _evened(frames, turning, frame_rate)
    for frame, (events, gain) in enumerate(frames):
        now = min(frame, n_frames - 1)
        gain += LOUDER_DB * (float(contrast[now]) - 1.0) / 2.0 * bool(controls.cues)
        if controls.dynamics < 1.0:
            gain = REFERENCE_DB + controls.dynamics * (gain - REFERENCE_DB)
            gain -= (1.0 - controls.dynamics) * float(quieter[now])
        yield events, min(gain, 0.0)


def _evened(frames: Iterable[Frame], share: float, frame_rate: float) -> Iterator[Frame]:
    """Frames of which the notes are as loud everywhere, by a share of it in dB.

    Where a mood turns, notes become more and harder, or fewer and softer: it is heard in them, and the room in how loud
    they are together. Velocity v counts as 40 log10(v / 127) dB (General MIDI 2, 1999). What is softer is made louder by
    no more than what comes within a point of a score's loudness, whose attack would be too loud.
    """
    ahead = math.ceil(frame_rate / ENERGY_RATE_HZ)
    # By symbol and pitch the frame in which a note ends, and its power.
    sounding: dict[tuple[int, int], tuple[float, float]] = {}
    louder = 0.0
    waiting: deque[tuple[Frame, float]] = deque()
    for frame, (events, gain) in enumerate(frames):
        for note in [note for note, (end, _) in sounding.items() if end <= frame]:
            del sounding[note]
        for symbol, place, pitch, length, velocity in events:
            if symbol >= FIRST_PART:
                end = frame + place / N_PLACES + float(LENGTHS_SECONDS[length]) * frame_rate
                sounding[symbol, pitch] = end, ((velocity + 0.5) / N_VELOCITIES) ** 4
        if sounding:  # in a rest it stays
            level = 10.0 * math.log10(sum(power for _, power in sounding.values()))
            louder = share * min(EVENED_DB - level, MOST_LOUDER_DB)
        waiting.append(((events, gain), louder))
        if len(waiting) > ahead:
            yield _first_evened(waiting)
    while waiting:
        yield _first_evened(waiting)


def _first_evened(waiting: deque[tuple[Frame, float]]) -> Frame:
    """The first of the frames that wait, taken out, as much louder as the least of them is to be."""
    least = min(louder for _, louder in waiting)
    (events, gain), _ = waiting.popleft()
    return events, gain + least


def _ordered(events: list[Event]) -> tuple[Event, ...]:
    """Events of a frame in the order in which they are written."""
    return tuple(sorted(events, key=lambda event: (event[0], event[2])))


def settled(score: Score, controls: Controls) -> Score:
    """A composed score with its grid exact, and its cues stated.

    Times that were kept to 10 ms, as a composer writes, become those of the grid.
    """
    score = replace(score, cues=controls.cue_marks)
    if not controls.has_grid:
        return score
    beats, bars, places = controls.grid(score.seconds)
    cues = np.array([cue.seconds for cue in controls.cue_marks])
    score = replace(score, beat_seconds=beats, bar_seconds=bars, boundary_seconds=cues[cues > 0])
    if controls.loose:
        return score
    parts = []
    for part in score.parts:
        starts = places[np.abs(places[:, None] - part.start_seconds).argmin(axis=0)]
        ends = np.minimum(starts + part.end_seconds - part.start_seconds, score.seconds)
        parts.append(replace(part, start_seconds=starts, end_seconds=np.maximum(ends, starts + 1e-3)))
    return replace(score, parts=tuple(parts))
