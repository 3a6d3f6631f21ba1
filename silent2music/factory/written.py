"""The score as it is written: which of its notes are the melody, the bass and what lies between, set to onsets."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from silent2music.arrays import IntArray
from silent2music.factory.scores import Notes
from silent2music.factory.timing import Section, Slots

LOWER, INNER, UPPER = 0, 1, 2

MAX_STRUCK = {LOWER: 1, INNER: 3, UPPER: 1, None: 7}
"""Notes struck together at most, by layer; doublings in octaves go first. None is the whole score."""

SHORTEST_SECONDS = 0.05

WrittenNote = tuple[float, float, int, int, float]
"""Start and end in seconds, pitch, velocity, strength of the event that it meets."""


def layers(notes: Notes) -> IntArray:
    """For each note `[n]` whether it is of the melody (`UPPER`), the bass (`LOWER`) or between them (`INNER`).

    The melody is the highest note that starts at a moment, if nothing that still sounds is higher; the bass likewise.
    What is both belongs to the melody.
    """
    layer = np.full(len(notes.starts), INNER, np.int64)
    onsets = np.round(notes.starts, 3)
    edges = [*np.flatnonzero(np.diff(onsets, prepend=-1.0)).tolist(), len(onsets)]
    sounding: list[tuple[float, int]] = []
    for first, last in pairwise(edges):
        beat = float(onsets[first])
        # A note that is about to end is no bound: players overlap.
        sounding = [(end, pitch) for end, pitch in sounding if end > beat + 0.1]
        held = [pitch for _, pitch in sounding]
        pitches = notes.pitches[first:last]
        highest, lowest = int(pitches.argmax()), int(pitches.argmin())
        if pitches[lowest] <= min(held, default=127):
            layer[first + lowest] = LOWER
        if pitches[highest] >= max(held, default=0):
            layer[first + highest] = UPPER
        sounding += zip(notes.ends[first:last].tolist(), pitches.tolist(), strict=True)
    return layer


def at_slots(
    notes: Notes,
    slots: Slots,
    section: Section,
    layer: int | None,
    stop_seconds: float,
    longest_seconds: float,
) -> Iterator[WrittenNote]:
    """The notes of a layer at the onsets that a section has room for; what starts elsewhere is left out.

    An onset that an event asks for and at which no note of melody, bass or whole score starts strikes again what
    sounds there. A note lasts as long as it is written, and until the next if those between were left out.

    Args:
        notes: of the layer, or of the whole score, in beats.
        layer: `LOWER`, `INNER`, `UPPER`, or None for the whole score.
        stop_seconds: when the section's last notes end.
    """
    if not len(notes.starts):
        return
    onsets = np.round(notes.starts, 3)
    wanted = np.round(slots.beats, 3)
    first, last = np.searchsorted(onsets, wanted, "left"), np.searchsorted(onsets, wanted, "right")
    struck = last > first
    # Of two slots that come from one moment of the score the first has its notes.
    struck[1:] &= wanted[1:] != wanted[:-1]
    again = ~struck & (slots.strengths > 0.0) & (layer != INNER)
    played = np.flatnonzero(struck | again)
    moments = np.unique(onsets)
    n_written = np.searchsorted(moments, wanted, "left")
    for place, slot in enumerate(played):
        start, strength = float(slots.seconds[slot]), float(slots.strengths[slot])
        following = int(played[place + 1]) if place + 1 < len(played) else -1
        index = (
            np.arange(first[slot], last[slot])
            if struck[slot]
            else _sounding(notes, float(wanted[slot]), layer)
        )
        index = _most_telling(notes, index, MAX_STRUCK[layer])
        ends = section.seconds_at(notes.ends[index])
        if following >= 0:
            left_out = n_written[following] - n_written[slot] - int(struck[slot]) > 0
            until = float(slots.seconds[following])
            if left_out and layer != INNER:
                ends = np.maximum(ends, until)
            if layer in (UPPER, LOWER):
                ends = np.minimum(ends, until)
        elif layer != INNER and n_written[slot] + 1 < len(moments):
            ends = np.maximum(ends, min(stop_seconds, start + 1.0))
        for end, note in zip(ends, index, strict=True):
            end = min(max(float(end), start + SHORTEST_SECONDS), start + longest_seconds)
            yield start, end, int(notes.pitches[note]), int(notes.velocities[note]), strength


def _sounding(notes: Notes, beat: float, layer: int | None) -> IntArray:
    """Indices of what sounds at a position, else of the last note before it, else of the first."""
    index = np.flatnonzero((notes.starts <= beat + 0.02) & (notes.ends > beat + 0.02))
    if not len(index):
        index = np.array([max(0, int(np.searchsorted(notes.starts, beat, "right")) - 1)])
    # Of a whole score only the outer notes are struck again.
    order = index[np.argsort(notes.pitches[index], kind="stable")]
    return np.unique(order[[0, -1]]) if layer is None else order[-1:]


def _most_telling(notes: Notes, index: IntArray, n_max: int) -> IntArray:
    """At most so many of the notes struck together: each pitch once, the outer ones and new pitch classes first."""
    if len(index) <= 1:
        return index
    pitches = notes.pitches[index]
    _, once = np.unique(pitches, return_index=True)
    index, pitches = index[once], pitches[once]
    if len(index) <= n_max:
        return index
    _, classes = np.unique(pitches % 12, return_index=True)
    rank = np.full(len(index), 2)
    rank[classes] = 1
    rank[[0, -1]] = 0
    return index[np.sort(np.lexsort((-notes.ends[index], rank))[:n_max])]
