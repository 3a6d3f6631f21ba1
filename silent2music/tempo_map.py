"""The time axis of music in MIDI files: ticks, tempi, beats and bars, read from a file or made from given beats."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from silent2music.arrays import DoubleArray, IntArray
from silent2music.errors import DataError

TICKS_PER_QUARTER = 960
"""Resolution of the MIDI files of scores that have no tempo map of their own: half a millisecond at 120 bpm."""

TICKS_PER_32ND = TICKS_PER_QUARTER // 8

DEFAULT_QUARTER_US = 500_000
"""MIDI's tempo where a file states none, in microseconds a quarter note: 120 bpm."""

SAME_BEAT_SECONDS = 0.005
"""Beats that are nearer to each other are one: a tempo between them would be more than programs can show."""

MAX_BEATS = 500_000
"""Scores with more are refused before memory is spent on them."""


@dataclass(frozen=True)
class TempoMap:
    """The time axis of a MIDI file: its ticks in seconds, and where its beats and bars are.

    Attributes:
        ticks_per_quarter: resolution.
        tempo_ticks: `[n]` where the tempo changes, ascending; the first is 0.
        quarter_us: `[n]` length of a quarter note from there on, in microseconds.
        signature_ticks: `[m]` where the time signature changes, ascending; before the first it is 4/4.
        signatures: m pairs of numerator and denominator.

    Example:
        >>> at_60_bpm = TempoMap(480, np.array([0]), np.array([1_000_000]), np.array([0]), ((3, 4),))
        >>> at_60_bpm.seconds(np.array([480, 720])).tolist()
        [1.0, 1.5]
        >>> [times.tolist() for times in at_60_bpm.beats_and_bars(480 * 4)]
        [[0.0, 1.0, 2.0, 3.0], [0.0, 3.0]]
    """

    ticks_per_quarter: int
    tempo_ticks: IntArray
    quarter_us: IntArray
    signature_ticks: IntArray
    signatures: tuple[tuple[int, int], ...]

    @cached_property
    def _tempo_starts(self) -> IntArray:
        """`[n]` time of each tempo in microseconds times ticks a quarter, exact."""
        return np.concatenate([[0], np.cumsum(np.diff(self.tempo_ticks) * self.quarter_us[:-1])])

    def seconds(self, ticks: IntArray) -> DoubleArray:
        """Times `[n]` of ticks `[n]`."""
        ticks = np.asarray(ticks, np.int64)
        index = np.searchsorted(self.tempo_ticks, ticks, "right") - 1
        exact = self._tempo_starts[index] + (ticks - self.tempo_ticks[index]) * self.quarter_us[index]
        return np.asarray(exact / (1e6 * self.ticks_per_quarter))

    def ticks(self, seconds: DoubleArray) -> IntArray:
        """The ticks `[n]` nearest to times `[n]` in seconds; of the times that `seconds` gave, the same again."""
        scaled = np.asarray(seconds, np.float64) * (1e6 * self.ticks_per_quarter)
        starts = self._tempo_starts
        index = np.maximum(np.searchsorted(starts, scaled, "right") - 1, 0)
        after = np.rint((scaled - starts[index]) / self.quarter_us[index]).astype(np.int64)
        return np.asarray(self.tempo_ticks[index] + after, np.int64)

    def beats_and_bars(self, end_tick: int) -> tuple[DoubleArray, DoubleArray]:
        """Times of beats `[P]` and of bar lines `[Q]` before a tick, in seconds.

        A beat is a dotted note in 6/8, 9/8, 12/16 and the like, and the note of the denominator elsewhere; in 32nds and
        64ths, in which `map_of_beats` writes bars that are cut, it is a quarter. A first bar in 32nds is an upbeat: it
        has no bar line, and its beats are counted back from its end.

        Raises:
            DataError: if there are more than `MAX_BEATS`.
        """
        quarter = float(self.ticks_per_quarter)
        changes = list(zip(self.signature_ticks.tolist(), self.signatures, strict=True))
        if not changes or changes[0][0] > 0:
            changes.insert(0, (0, (4, 4)))
        beats, bars, n_beats = [np.zeros(0)], [np.zeros(0)], 0.0
        for (start, (numerator, denominator)), (stop, _) in pairwise([*changes, (end_tick, (4, 4))]):
            stop = min(stop, end_tick)
            bar = 4.0 * quarter * numerator / denominator
            compound = denominator in (8, 16) and numerator % 3 == 0
            beat = quarter if denominator >= 32 else (3 if compound else 1) * 4.0 * quarter / denominator
            n_beats += max(0.0, (stop - start) / min(beat, bar))
            if n_beats > MAX_BEATS:
                raise DataError(f"The score has more than {MAX_BEATS} beats; cut it into shorter ones.")
            lines = np.arange(start, stop, bar) if stop > start else np.zeros(0)
            inside = np.arange(0.0, bar - 1e-6, beat)
            is_upbeat = start == 0 and denominator == 32 and len(changes) > 1
            if is_upbeat:
                inside = (bar - beat - inside[::-1])[bar - beat - inside[::-1] >= 0.0]
            every = (lines[:, None] + inside).ravel()
            beats.append(every[every < stop])
            bars.append(lines[:0] if is_upbeat else lines)
        return self._between(np.concatenate(beats)), self._between(np.concatenate(bars))

    def _between(self, ticks: DoubleArray) -> DoubleArray:
        """Times of positions in ticks that may lie between two, as beats do at a coarse resolution."""
        whole = np.floor(ticks).astype(np.int64)
        index = np.searchsorted(self.tempo_ticks, whole, "right") - 1
        fraction = (ticks - whole) * self.quarter_us[index] / (1e6 * self.ticks_per_quarter)
        return np.asarray(self.seconds(whole) + fraction)


def map_of_beats(beat_seconds: DoubleArray, bar_seconds: DoubleArray, seconds: float) -> TempoMap:
    """The tempo map whose quarter notes are given beats and whose bar lines are given bars, to a microsecond or so.

    What is before the first beat, after the last, or shorter than a beat since a section was cut there, is so many
    32nds as its length is nearest to, so that the tempo goes on. What is before the first bar is an upbeat, see
    `TempoMap.beats_and_bars`. Without bars they are of four beats; without beats the tempo is MIDI's 120 bpm.

    Args:
        beat_seconds: `[P]` ascending.
        bar_seconds: `[Q]` ascending, each on a beat.
    """
    beats = beat_seconds[np.append(np.diff(beat_seconds) > SAME_BEAT_SECONDS, True)[: len(beat_seconds)]]
    has_lead = len(beats) > 0 and beats[0] > SAME_BEAT_SECONDS
    has_tail = len(beats) > 0 and seconds - beats[-1] > SAME_BEAT_SECONDS
    edges = np.concatenate([[0.0], beats if has_lead else beats[1:], [seconds] if has_tail else []])
    if len(edges) < 2:
        return TempoMap(
            TICKS_PER_QUARTER,
            np.zeros(1, np.int64),
            np.array([DEFAULT_QUARTER_US]),
            np.zeros(0, np.int64),
            (),
        )
    lengths, middles = np.diff(edges), (edges[:-1] + edges[1:]) / 2.0
    inner = np.diff(beats) if len(beats) > 1 else np.array([DEFAULT_QUARTER_US * 1e-6])
    periods = np.interp(
        middles, (beats[:-1] + beats[1:]) / 2.0 if len(beats) > 1 else beats, _running_median(inner)
    )
    places = np.unique([np.abs(edges - bar).argmin() for bar in bar_seconds]).astype(np.int64)
    # A short beat within a bar is a performer's, one before a bar line is what a new section has left of it.
    is_part = (lengths < 0.7 * periods) & np.isin(np.arange(1, len(edges)), places)
    is_part[[i for i, is_there in ((0, has_lead), (-1, has_tail)) if is_there]] = True
    n_32nds = np.where(is_part, np.rint(8.0 * lengths / periods), 8.0)
    if has_lead and lengths[0] < periods[0]:
        n_32nds[0] = min(n_32nds[0], 7.0)
    # MIDI's slowest tempo is a quarter of 16.8 s.
    n_32nds = np.maximum(np.maximum(n_32nds, np.ceil(lengths / 2.0)), 1.0).astype(np.int64)
    quarter_us, done = np.zeros(len(lengths), np.int64), 0.0
    for index, n in enumerate(n_32nds):  # each tempo makes up for the rounding of those before
        quarter_us[index] = np.clip(round((edges[index + 1] - done) * 8e6 / n), 1, 2**24 - 1)
        done += float(quarter_us[index] * n) / 8e6
    ticks = np.concatenate([[0], np.cumsum(n_32nds)]) * TICKS_PER_32ND
    changes = np.concatenate([[True], np.diff(quarter_us) != 0])
    lines = ticks[places] if len(places) else ticks[int(has_lead) :: 4]
    signatures = _signatures(lines[lines < ticks[-1]] // TICKS_PER_32ND, int(ticks[-1]) // TICKS_PER_32ND)
    return TempoMap(
        TICKS_PER_QUARTER,
        ticks[:-1][changes],
        quarter_us[changes],
        np.array(list(signatures), np.int64) * TICKS_PER_32ND,
        tuple(signatures.values()),
    )


def _running_median(values: DoubleArray, reach: int = 4) -> DoubleArray:
    """`[n]` the median of each value and its neighbours."""
    padded = np.pad(values, reach, mode="reflect" if len(values) > reach else "edge")
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1), axis=1))


def _signatures(lines: IntArray, end: int) -> dict[int, tuple[int, int]]:
    """Time signatures, by where they begin, that put bar lines at given places; all counted in 32nds.

    The last bar is at least as long as the one before, so that no line follows. What is before the first is an
    upbeat in 32nds; other bars that are no whole quarters are in 64ths, which tells the two apart.
    """
    lengths = np.diff(np.append(lines, end))
    lengths[-1] = max(lengths[-2:])
    found: dict[int, tuple[int, int]] = {}
    if lines[0] > 0:
        found[0] = (int(lines[0]), 32) if lines[0] < 256 else (4, 4)
    for line, length in zip(lines.tolist(), lengths.tolist(), strict=True):
        signature = (length // 8, 4) if length % 8 == 0 else (2 * length, 64)
        if signature[0] > 255:
            signature = (4, 4)
        if not found or signature != list(found.values())[-1] or line == lines[0]:
            found[line] = signature
    return found
