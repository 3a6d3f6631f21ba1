"""Who plays, and how much: taken from a training score of a room that sounds alike, where the user does not say.

Whether an instrument plays is one decision for a piece. Drawn note by note, ensembles wander and music thins out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from silent2music.acoustics import PROFILE_SCALARS
from silent2music.arrays import DoubleArray, FloatArray, IntArray
from silent2music.composer import ENSEMBLES, N_ENSEMBLES, ROOM_STEPS, Composer
from silent2music.config import ComposingConfig
from silent2music.controls import Controls
from silent2music.notation import (
    DRUMS,
    END,
    FIRST_PART,
    N_PROGRAMS,
    N_SYMBOLS,
    PART_ROLES,
    STRIKES,
    Event,
    Memory,
)
from silent2music.score import Score
from silent2music.signals import Signals, from_arrays
from silent2music.traits import notes_a_second

PROGRAM_OF = (np.arange(N_SYMBOLS) - FIRST_PART) % N_PROGRAMS
IS_NOTE = np.arange(N_SYMBOLS) >= FIRST_PART

N_ALIKE = 12
"""An ensemble is drawn from those of so many rooms, the most alike."""

STEADY_DB = 2.0
"""A room without events whose short-term level has a narrower range (5th to 95th percentile) is a hiss or a hum:
made ones have up to 1.6 dB, rain and wind 3.8 and more."""

SCANT_HZ = 0.3
"""Scores of fewer notes a second are for rooms in which there is nothing."""

DENSITY_SECONDS, DENSITY_GAIN = 6.0, 3.0
"""Notes are counted over the one; where e times as many as wanted were played in it, fewer are by the other, in nats."""

WHOLE_SECONDS = 20.0
"""As the first, where a density is of a piece as a whole, within which the room decides."""

MILDLY = (-2.5, 2.0)
"""Nats, least and most, by which notes are preferred for the sake of a whole piece's density, so that events are met."""

CHORD_GAIN = 4.0
"""Nats by which further notes of a chord are preferred where chords were e times as small, above one note, as wanted."""

CHORD_SHARE = 0.05
"""Of each chord in how large they have lately been."""

ONSET_SECONDS = 0.04
"""Notes that begin nearer to one another are one chord."""

LEAST_CHORD = 2.0
"""Ensembles for wishes of harmony have at least so many notes at a time."""

LENGTH_GAIN, MOST_LONGER = 0.6, 1.0
"""Nats by which each step of length is preferred where e times too few notes sound at once, or it is silent e times too
often; and the most."""

AMOUNT_STEPS = np.array([10.0, 10.0, 10.0, 255.0])
"""By which the numbers of an ensemble are stored, as whole ones."""

ABSENT_GAIN, ABSENT_SECONDS = 8.0, (2.0, 8.0)
"""Nats by which who has not played is preferred among those who play: none up to the first time, all from the second."""

HANDED = 6.0
"""At most by so many nats the notes of those who play are preferred in place of others' notes."""


@dataclass(frozen=True)
class Ensemble:
    """Who plays, and how much, over the whole piece.

    Attributes:
        programs: `[129]` 1 for programs, and drums, that play.
        notes_hz: notes a second.
        onsets_hz: moments a second in which any begin.
        polyphony: notes that sound at once.
        rest_share: of the time, that in which none sounds.
        other: who plays instead, and how many notes a second, after every second of the cues that are asked for.
    """

    programs: FloatArray
    notes_hz: float
    onsets_hz: float
    polyphony: float
    rest_share: float
    other: Ensemble | None = None

    @property
    def everybody(self) -> FloatArray:
        """`[129]` 1 for those who play in any section."""
        return self.programs if self.other is None else np.maximum(self.programs, self.other.programs)

    @staticmethod
    def of(score: Score) -> Ensemble | None:
        """That of a score; None of one without notes."""
        programs = np.zeros(N_PROGRAMS, np.float32)
        programs[[DRUMS if part.is_drum else part.program for part in score.parts if len(part.pitches)]] = 1.0
        if not score.n_notes:
            return None
        n_onsets = len(np.unique(np.rint(score.notes()[0] / ONSET_SECONDS)))
        sounding = score.sounding(ONSET_SECONDS)
        return Ensemble(
            programs,
            score.n_notes / score.seconds,
            n_onsets / score.seconds,
            float(sounding.mean()),
            float((sounding == 0).mean()),
        )

    def tell(self, piece: Signals) -> Signals:
        """Signals with who plays, where they do not say so already.

        Of how much is played the composer is not told: it then plays where nothing happens in the room, too.
        """
        if "instruments" in piece.whole:
            return piece
        told = from_arrays({"instruments": self.everybody}, piece.n_frames)
        return piece.exchanged(told, "instruments")


def scalars_of(piece: Signals) -> DoubleArray:
    """The scalars `[len(PROFILE_SCALARS)]` of the profile of the room in signals of one row."""
    found: DoubleArray = piece.whole["room_scalars"][0, -len(PROFILE_SCALARS) :].double().cpu().numpy()
    return found


def has_nothing(room: DoubleArray) -> bool:
    """Whether a room, by its scalars as `scalars_of` gives them, is silence, a hiss or a hum."""
    known = dict(zip(PROFILE_SCALARS, room.tolist(), strict=True))
    return bool(20.0 * known["energy_range"] < STEADY_DB and known["event_rate"] == 0.0)


def gather(composer: Composer, scores: Sequence[Score], rooms: Sequence[DoubleArray]) -> None:
    """Give a composer the ensembles of training scores, and the rooms that they are for, as `scalars_of` gives them.

    Scores without notes are passed over; of more than `N_ENSEMBLES` the first count.
    """
    found = [(Ensemble.of(score), room) for score, room in zip(scores, rooms, strict=True)]
    known = [(ensemble, room) for ensemble, room in found if ensemble is not None][:N_ENSEMBLES]
    for name in ENSEMBLES:
        getattr(composer, name).zero_()
    for row, (ensemble, room) in enumerate(known):
        steps = np.clip(np.rint(room * ROOM_STEPS), -127, 127)
        composer.ensemble_rooms[row] = torch.from_numpy(steps.astype(np.int8))
        composer.ensemble_programs[row] = torch.from_numpy(ensemble.programs > 0)
        amounts = np.array([ensemble.notes_hz, ensemble.onsets_hz, ensemble.polyphony, ensemble.rest_share])
        stored = np.clip(np.rint(AMOUNT_STEPS * amounts), [1, 1, 1, 0], 255).astype(np.uint8)
        composer.ensemble_amounts[row] = torch.from_numpy(stored)


def choose(
    composer: Composer,
    piece: Signals,
    composing: ComposingConfig,
    wished: Controls,
    begun: Score | None = None,
) -> Ensemble | None:
    """Who plays and how much, where the user does not say.

    Args:
        composer: whose training scores to choose from.
        piece: signals of the room, one row; where there is none, nothing is chosen.
        composing: its `seed` decides, and its `ensembles` whether there is anything to choose.
        wished: by the user; of listed instruments nobody else plays, and none of those plays who are not to.
        begun: a score that is gone on with, whose players go on.
    """
    if not composing.ensembles or "room_scalars" not in piece.whole:
        return None
    wanted = wished.programs
    if begun is not None and (own := Ensemble.of(begun)) is not None:
        return own if wanted is None else replace(own, programs=wanted)
    rows = composer.ensemble_programs.cpu().numpy()
    may_play = np.ones(N_PROGRAMS, np.float32) if wanted is None else wanted
    known = composer.known_symbols.cpu().numpy()[FIRST_PART:].reshape(len(PART_ROLES), N_PROGRAMS)
    fits = (rows & known.any(axis=0)).any(axis=1) & ~(rows & (may_play == 0)).any(axis=1)
    # Somebody has to play the line, and another one the rest; keys want pitches, chords some notes at a time.
    pitched = np.arange(N_PROGRAMS) != DRUMS
    if wished.key or wished.mood:
        fits &= (rows & pitched).any(axis=1)
    if wished.melody:
        fits &= (rows & pitched & known[PART_ROLES.index("melody")]).any(axis=1) & (rows.sum(axis=1) > 1)
    notes, onsets = (composer.ensemble_amounts.cpu().numpy() / AMOUNT_STEPS).T[:2]
    if not has_nothing(scalars_of(piece)):
        # Steady rain is as near to a hiss as to any other room, and is played to all the same.
        fits &= notes > SCANT_HZ
    if wished.density_points:
        # Who is asked for many notes, or few, plays about as many anyway.
        wanted_hz = notes_a_second(np.mean([value for _, value in wished.density_points]))
        near = fits & (np.abs(np.log((notes + 0.1) / (wanted_hz + 0.1))) < np.log(2.0))
        fits = near if near.any() else fits
    if wished.has_grid:
        fits &= (rows & STRIKES).any(axis=1)
    if wished.chords or wished.cues or wished.ending:
        together = (rows & pitched).any(axis=1) & (notes >= LEAST_CHORD * onsets)
        fits &= together
        if wished.cues and wished.instruments and not fits.any():
            # Nobody plays as some of these alone do; they take turns all the same, and play as much as others.
            fits = together
    own = _drawn(composer, piece, composing.seed, fits)
    if own is not None and (wished.instruments or wished.style):
        own = replace(own, programs=may_play)
        return _in_turns(own, known.any(axis=0) & pitched, composing.seed) if wished.cues else own
    if own is not None and wished.cues:
        fits &= ~(rows & (own.programs > 0)).any(axis=1)
        return replace(own, other=_drawn(composer, piece, composing.seed, fits))
    return own


def _in_turns(ensemble: Ensemble, shared: np.ndarray, seed: int) -> Ensemble:
    """One whose players take turns, in two halves; who is not `shared` plays on, and so do all where one alone is."""
    who = np.random.default_rng(seed).permutation(np.flatnonzero(shared & (ensemble.programs > 0)))
    if len(who) < 2:
        return ensemble
    first, second = ensemble.programs.copy(), ensemble.programs.copy()
    first[who[1::2]], second[who[::2]] = 0.0, 0.0
    return replace(ensemble, programs=first, other=replace(ensemble, programs=second))


def _drawn(composer: Composer, piece: Signals, seed: int, fits: np.ndarray) -> Ensemble | None:
    """That of a training score for a room like this one, of those that fit: the seed chooses among the nearest."""
    if not fits.any():
        return None
    room = scalars_of(piece)
    rooms = composer.ensemble_rooms.cpu().numpy()[fits] / ROOM_STEPS
    distance = (((rooms - room) / (rooms.std(axis=0) + 0.1)) ** 2).sum(axis=1)
    nearest = np.argsort(distance, kind="stable")[:N_ALIKE]
    # Of many rooms and one seed not all have the first, or the second.
    own = np.rint(ROOM_STEPS * (room + 4.0)).astype(np.int64).clip(0)
    chosen = np.flatnonzero(fits)[np.random.default_rng((seed, *own)).choice(nearest)]
    amounts = composer.ensemble_amounts.cpu().numpy()[chosen] / AMOUNT_STEPS
    programs = composer.ensemble_programs.cpu().numpy()[chosen].astype(np.float32)
    return Ensemble(programs, *amounts.tolist())


def rule_of(
    ensemble: Ensemble | None, wished: Controls, n_frames: int, frame_rate: float
) -> Callable[[Composer, Memory, int], Players] | None:
    """The constraint by which an ensemble, or what is wished, is kept to; None if nothing is to be kept to."""
    programs = wished.programs if ensemble is None else ensemble.programs
    curve = Controls.curve(wished.density_points, n_frames, frame_rate)
    turns = [np.ones(N_PROGRAMS, np.float32) if programs is None else programs]
    turn = np.zeros(1, np.int64)
    if ensemble is not None and ensemble.other is not None:
        turns.append(ensemble.other.programs)
        turn = wished.sections(n_frames, frame_rate) % 2
    who = partial(Players, turns, turn, at_once=bool(wished.instruments))
    if curve is not None:
        notes_hz = notes_a_second(curve[:, 0].astype(np.float64))
        return partial(who, notes_hz, None)
    if ensemble is not None:
        amounts = np.array([own.onsets_hz for own in (ensemble, ensemble.other) if own is not None])
        if wished.has_grid:
            amounts = np.maximum(amounts, wished.bpm / 60.0)  # or beats could not be heard
        return partial(who, amounts[turn], ensemble)
    return None if programs is None else partial(who, np.array([np.nan]), None)


class Players:
    """A constraint (`composing.Constraint`): only some play, and about as many notes as wanted.

    Args:
        turns: `[129]` each, 1 for those who play.
        turn: `[T]` which of these each frame has; one for all frames.
        wanted_hz: `[T]` notes a second; one for all frames, or not a number where the composer decides.
        amounts: whose chords, lengths and rests the music has as a whole, and then `wanted_hz` is how often notes begin
            in it, together or alone; without one it is notes from moment to moment that count.
        composer, memory, transposition: as for all constraints.
        at_once: whether who has not played yet is brought in from the first frame on, as who is asked for is.
    """

    def __init__(
        self,
        turns: Sequence[FloatArray],
        turn: IntArray,
        wanted_hz: DoubleArray,
        amounts: Ensemble | None,
        composer: Composer,
        memory: Memory,
        transposition: int,
        at_once: bool = False,
    ) -> None:
        self._wanted_hz, self._amounts, self._turn = wanted_hz, amounts, turn
        self._seconds = DENSITY_SECONDS if amounts is None else WHOLE_SECONDS
        self._memory, self._rate = memory, composer.config.ambient.frame_rate
        known = composer.known_symbols.cpu().numpy() & IS_NOTE
        plays = [programs[np.maximum(PROGRAM_OF, 0)] > 0 for programs in turns]
        self._turns = [(known & own, known & ~own, IS_NOTE & ~own) for own in plays]
        self._last = np.full(N_PROGRAMS, -ABSENT_SECONDS[1] * self._rate if at_once else 0.0)
        self._brings_in = at_once or amounts is not None
        self._recent: deque[int] = deque()
        self._own_rate, self._n_here = 0.0, 0
        self._chord_size = 2.0 if amounts is None else max(1.0, amounts.notes_hz / amounts.onsets_hz)
        self._chord_wanted, self._n_chords = self._chord_size, 0
        self._sounding, self._silent_share = (
            (0.0, 0.0) if amounts is None else (amounts.polyphony, amounts.rest_share)
        )

    def mask(self, field: str, logits: FloatArray, before: tuple[int, ...]) -> None:
        """Bar who does not play, and prefer notes or the end of the frame, and long notes or short ones."""
        if field == "length" and self._amounts is not None:
            logits += self._longer() * np.arange(len(logits))
        if field != "symbol":
            return
        frame = self._memory.frame
        playing, silent, barred = self._turns[self._turn[min(frame, len(self._turn) - 1)]]
        if not self._n_here:
            self._hand_over(logits, playing, silent)
        logits[barred] = -np.inf
        if self._brings_in:
            self._bring_in(logits, playing)
        wanted = float(self._wanted_hz[min(frame, len(self._wanted_hz) - 1)])
        if not (np.isfinite(wanted) and np.isfinite(logits[END])):
            return
        if self._n_here and self._amounts is not None:
            found, asked = (size - 1.0 + 0.1 for size in (self._chord_size, self._chord_wanted))
            logits[END] -= CHORD_GAIN * float(np.log(asked / found))
        else:
            towards = self._towards(wanted, logits) * (0.5 if self._n_here else 1.0)
            logits[END] -= towards if self._amounts is None else np.clip(0.5 * towards, *MILDLY)

    def _longer(self) -> float:
        """Nats by which each step of length is preferred."""
        assert self._amounts is not None
        too_thin = np.log((self._amounts.polyphony + 0.2) / (self._sounding + 0.2))
        too_silent = np.log((self._silent_share + 0.03) / (self._amounts.rest_share + 0.03))
        return float(np.clip(LENGTH_GAIN * (too_thin + too_silent), -MOST_LONGER, MOST_LONGER))

    @staticmethod
    def _hand_over(logits: FloatArray, playing: np.ndarray, silent: np.ndarray) -> None:
        """Let those who play begin a note where one who does not would have, so that the music stays as dense.

        The odds of a note against none are kept; of more notes at a time they are the composer's own.
        """
        if np.isfinite(logits[silent]).any():
            own, others = _log_sum(logits[playing]), _log_sum(logits[silent])
            logits[playing] += min(HANDED, float(np.logaddexp(own, others)) - own)

    def _bring_in(self, logits: FloatArray, playing: np.ndarray) -> None:
        """Prefer those who have not played for long in place of others; the odds of a note against none are kept."""
        before = _log_sum(logits[playing])
        absent = (self._memory.frame - self._last) / self._rate
        preferred = ABSENT_GAIN * np.interp(absent, ABSENT_SECONDS, (0.0, 1.0))
        logits[playing] += preferred[PROGRAM_OF[playing]]
        logits[playing] += before - _log_sum(logits[playing])

    def _towards(self, wanted: float, logits: FloatArray) -> float:
        """Nats by which notes are preferred, so that there are as many as wanted.

        What the composer would write on its own is measured as it goes; the rest is feedback from what was written.
        """
        frame, share = self._memory.frame, 2.0 / (self._seconds * self._rate)
        if not self._n_here:
            odds = np.exp(np.clip(_log_sum(logits[FIRST_PART:]) - logits[END], -50.0, 50.0))
            own = (
                self._rate * float(odds / (1.0 + odds)) * (self._chord_size if self._amounts is None else 1.0)
            )
            self._own_rate += (own - self._own_rate) * max(share, 1.0 / (frame + 1))
        while self._recent and self._recent[0] <= frame - self._seconds * self._rate:
            self._recent.popleft()
        first = max(0, frame + 1 - round(self._seconds * self._rate))
        recently = self._wanted_hz[first : frame + 1].mean() if len(self._wanted_hz) > 1 else wanted
        expected = recently * min(self._seconds, (frame + 1) / self._rate)
        feedback = DENSITY_GAIN * np.log((expected + 1.0) / (len(self._recent) + 1.0))
        return float(np.log((wanted + 0.02) / (self._own_rate + 0.02)) + feedback)

    def write(self, event: Event | None) -> None:
        """Count the notes of a frame."""
        if event is None:
            if self._n_here:
                # The first ones count for as much as the wish, or sparse music would end before it heeds it.
                self._n_chords += 1
                slowly = max(CHORD_SHARE, 1.0 / (self._n_chords + 1.0))
                self._chord_size += slowly * (self._n_here - self._chord_size)
            self._n_here, share = 0, 1.0 / (WHOLE_SECONDS / 2.0 * self._rate)
            self._sounding += share * (len(self._memory.held) - self._sounding)
            self._silent_share += share * ((not self._memory.held) - self._silent_share)
        elif event[0] >= FIRST_PART:
            if self._amounts is None or not self._n_here:
                self._recent.append(self._memory.frame)
            self._n_here += 1
            self._last[PROGRAM_OF[event[0]]] = self._memory.frame


def _log_sum(logits: FloatArray) -> float:
    """The logarithm of the sum of exponentials."""
    highest = max(float(logits.max()), -1e3)
    return highest + float(np.log(np.exp(logits - highest).sum() + 1e-30))
