"""Beats, sections and onsets of an arrangement: the score's beats mapped to the scene's time."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from silent2music.arrays import DoubleArray, IntArray
from silent2music.factory.arrangement import SceneTruth
from silent2music.factory.ensembles import Manner
from silent2music.factory.scores import Passage
from silent2music.score import ENERGY_RATE_HZ

SLOWEST_BPM, FASTEST_BPM = 50.0, 160.0
"""Tempi that are still felt as a beat; a pulse outside them is halved or doubled."""

REPEATED_SHARE = 0.85
"""Share of the onsets that are kept or left out alike in every bar."""

FEW = 0.35
"""Where fewer of the onsets than this are kept, none is left out or kept alike."""

MIN_SECTION_SECONDS = 1.0
"""Boundaries nearer to each other or to an end than this are taken as one."""


@dataclass(frozen=True)
class Section:
    """A stretch between two boundaries.

    Attributes:
        start_seconds, stop_seconds: its edges.
        beat_seconds: `[n + 1]` its beats, from at most `start_seconds` to at least `stop_seconds`. The first
            section may begin before time 0; each later one begins on its boundary.
    """

    start_seconds: float
    stop_seconds: float
    beat_seconds: DoubleArray

    @property
    def n_beats(self) -> int:
        """Beats of music that the section needs."""
        return len(self.beat_seconds) - 1

    def seconds_at(self, beats: DoubleArray) -> DoubleArray:
        """Times of score positions, by straight lines between beats."""
        return np.interp(beats, np.arange(len(self.beat_seconds)), self.beat_seconds)

    def beats_at(self, seconds: DoubleArray) -> DoubleArray:
        """Score positions of times."""
        return np.interp(seconds, self.beat_seconds, np.arange(len(self.beat_seconds)))


@dataclass(frozen=True)
class Slots:
    """Onsets at which notes start, as parallel arrays `[n]` ascending in time.

    Attributes:
        seconds: times.
        beats: positions in the section's passage that the notes come from.
        strengths: 0 to 1; 0 where no event asks for the onset.
    """

    seconds: DoubleArray
    beats: DoubleArray
    strengths: DoubleArray


def section_edges(truth: SceneTruth) -> DoubleArray:
    """Start, boundaries and end in seconds, without boundaries too near to another or to an end."""
    edges = [0.0]
    for boundary in np.sort(truth.boundary_seconds):
        if boundary - edges[-1] >= MIN_SECTION_SECONDS and truth.seconds - boundary >= MIN_SECTION_SECONDS:
            edges.append(float(boundary))
    return np.array([*edges, truth.seconds])


def plan_sections(
    truth: SceneTruth, manner: Manner, score_bpm: float, rng: np.random.Generator
) -> list[Section]:
    """Beats for every section: on the pulse if there is one, else bent to the events, else free.

    A section without a pulse of its own (the walker stops) keeps the tempo of the one before.

    Args:
        score_bpm: the score's own tempo, approached as far as the manner allows.
    """
    tempo_bpm = preferred_tempo(score_bpm, manner, rng)
    edges = section_edges(truth)
    free_period = period = 60.0 / tempo_bpm
    sections = []
    for start, stop in pairwise(edges):
        pulse = truth.beat_seconds[(truth.beat_seconds >= start - 0.03) & (truth.beat_seconds < stop)]
        if len(pulse) >= 3:
            anchors = _at_level(_filled(pulse, float(np.median(np.diff(pulse)))), tempo_bpm)
            period = float(np.median(np.diff(anchors)))
        elif len(truth.beat_seconds) >= 3:
            anchors = pulse[:0]
        else:
            anchors, period = _event_anchors(truth, manner, start, stop, free_period), free_period
        on_pulse = len(truth.beat_seconds) >= 3
        beats = _beats(anchors, float(start), float(stop), period, on_pulse, rng)
        sections.append(Section(float(start), float(stop), beats))
    return sections


def preferred_tempo(score_bpm: float, manner: Manner, rng: np.random.Generator) -> float:
    """The score's tempo, halved or doubled towards the manner's range, then held inside it, a little varied."""
    low, high = manner.tempo_bpm
    tempo = score_bpm
    while tempo < low / 1.2:
        tempo *= 2.0
    while tempo > high * 1.2:
        tempo /= 2.0
    return float(np.clip(tempo * rng.uniform(0.93, 1.07), low, high))


def _filled(beats: DoubleArray, period: float) -> DoubleArray:
    """Beats with the gaps between them filled by evenly spaced ones, about `period` seconds apart."""
    filled = [beats[:1]]
    for before, after in pairwise(beats):
        n_steps = max(1, round((after - before) / period))
        filled.append(np.linspace(before, after, n_steps + 1)[1:])
    return np.concatenate(filled)


def _at_level(pulse: DoubleArray, tempo_bpm: float) -> DoubleArray:
    """The metrical level of a pulse (itself, halves or doubles of its rate) nearest to a tempo."""
    bpm = 60.0 / float(np.median(np.diff(pulse)))
    factors = [f for f in (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0) if SLOWEST_BPM <= bpm * f <= FASTEST_BPM]
    factor = min(factors or [1.0], key=lambda f: abs(np.log2(bpm * f / tempo_bpm)))
    if factor < 1.0:
        every = round(1.0 / factor)
        return np.asarray(pulse[::every])
    positions = np.arange(0.0, len(pulse) - 1 + 1e-9, 1.0 / factor)
    return np.asarray(np.interp(positions, np.arange(len(pulse)), pulse))


def _event_anchors(
    truth: SceneTruth, manner: Manner, start: float, stop: float, period: float
) -> DoubleArray:
    """Events that beats are put on: all for rhythmic kinds, else only if they are far between."""
    events = truth.event_seconds[(truth.event_seconds >= start) & (truth.event_seconds < stop)]
    if not manner.rhythmic and len(events) > (stop - start) / (2.0 * period):
        return events[:0]
    kept: list[float] = []
    for event in events:
        if not kept or event - kept[-1] >= 0.7 * period:
            kept.append(float(event))
    return np.array(kept)


def _beats(
    anchors: DoubleArray, start: float, stop: float, period: float, on_pulse: bool, rng: np.random.Generator
) -> DoubleArray:
    """Beats over a section, through its anchors, about `period` seconds apart."""
    if not len(anchors):
        return _free_beats(start, stop, period, rng, 0.0 if on_pulse else 0.02)
    first = float(anchors[0])
    n_lead = round((first - start) / period)
    if start == 0.0:
        lead = first - period * np.arange(int(np.ceil(first / period)), 0, -1)
    elif n_lead == 0:
        lead, anchors = np.array([start]), anchors[1:] if first - start < 0.5 * period else anchors
    else:
        lead = np.linspace(start, first, n_lead + 1)[:-1]
    beats = _filled(np.concatenate([lead, anchors]), period)
    last = float(beats[-1])
    n_tail = max(1, int(np.ceil((stop - last) / period)))
    return np.concatenate([beats, last + period * np.arange(1, n_tail + 1)])


def _free_beats(
    start: float, stop: float, period: float, rng: np.random.Generator, drift: float
) -> DoubleArray:
    """Beats from `start` on whose tempo breathes slowly by the share `drift`."""
    n_beats = int(np.ceil((stop - start) / period * (1.0 + drift))) + 2
    phase = rng.uniform(0.0, 2.0 * np.pi)
    intervals = period * (1.0 + drift * np.sin(2.0 * np.pi * np.arange(n_beats) / 24.0 + phase))
    beats = start + np.concatenate([[0.0], np.cumsum(intervals)])
    return beats[: int(np.searchsorted(beats, stop)) + 1]


def thin_out(seconds: DoubleArray, weights: DoubleArray, gap_seconds: float) -> IntArray:
    """Indices, ascending, of the times that remain when the one of more weight of two too near ones is kept."""
    order = np.argsort(-weights, kind="stable")
    times = np.asarray(seconds)[order].tolist()
    kept: list[float] = []
    chosen: list[int] = []
    for index, time in zip(order.tolist(), times, strict=True):
        place = bisect.bisect_left(kept, time)
        if (place == 0 or time - kept[place - 1] >= gap_seconds) and (
            place == len(kept) or kept[place] - time >= gap_seconds
        ):
            kept.insert(place, time)
            chosen.append(index)
    return np.array(sorted(chosen), np.int64)


def choose_slots(
    section: Section,
    passage: Passage,
    truth: SceneTruth,
    manner: Manner,
    gap_seconds: float,
    activity: DoubleArray,
    rng: np.random.Generator,
) -> Slots:
    """Onsets of a section: every event, the section's start, and as many of the score's as there is room for.

    The score's onset nearest to an event is moved onto it; where there is none, the note that sounds is split.
    Onsets nearer to an event than a performer would separate are dropped, so that events stay audible.

    Args:
        gap_seconds: shortest time between onsets that no event asks for.
        activity: `[seconds * ENERGY_RATE_HZ]` chance that such an onset is kept.
    """
    start, stop = section.start_seconds, section.stop_seconds
    inside = (truth.event_seconds >= start) & (truth.event_seconds < stop - 0.02)
    seconds, strengths = truth.event_seconds[inside], np.clip(truth.event_strengths[inside], 0.05, 1.0)
    if start > 0.0:
        near = seconds - start < 0.08
        seconds, strengths = np.append(seconds[~near], start), np.append(strengths[~near], 1.0)
    kept = thin_out(seconds, strengths, manner.event_gap_seconds)
    seconds, strengths = seconds[kept], strengths[kept]
    has_events = bool(inside.any())
    candidates = np.unique(np.round(passage.notes.starts, 3))
    times = section.seconds_at(candidates)
    salience = _salience(candidates, passage)
    chance = np.interp(times, np.arange(len(activity)) / ENERGY_RATE_HZ, activity)
    chance = chance * (manner.fill if has_events else 1.0)
    last = stop - (0.5 if stop < truth.seconds else 0.05)
    usable = (
        (times >= max(start, 0.0))
        & (times < last)
        & (_bar_lottery(candidates, passage, chance, rng) < chance)
    )
    if has_events and manner.rhythmic:
        usable &= salience >= 0.5
    if len(seconds):
        usable &= np.abs(seconds[:, None] - times).min(axis=0) >= max(0.17, 0.5 * gap_seconds)
    fill = np.flatnonzero(usable)
    fill = fill[thin_out(times[fill], salience[fill], gap_seconds)]
    every = np.concatenate([seconds, times[fill]])
    order = np.argsort(every, kind="stable")
    beats = np.concatenate([_nearest(section.beats_at(seconds), candidates), candidates[fill]])
    return Slots(every[order], beats[order], np.concatenate([strengths, np.zeros(len(fill))])[order])


def _bar_lottery(
    beats: DoubleArray, passage: Passage, chance: DoubleArray, rng: np.random.Generator
) -> DoubleArray:
    """A draw between 0 and 1 for each position, mostly the same in every bar, so that rhythms repeat as bars do.

    Where hardly any is kept each position has a draw of its own, or one that wins would sound in every bar.
    """
    bars = passage.bar_beats
    places = np.round(24.0 * (beats - bars[np.maximum(np.searchsorted(bars, beats + 1e-3, "right") - 1, 0)]))
    _, place = np.unique(places, return_inverse=True)
    own, in_bar, share = (rng.random(len(places)) for _ in range(3))
    return np.asarray(np.where((share < REPEATED_SHARE) & (chance > FEW), in_bar[place], own))


def _nearest(beats: DoubleArray, candidates: DoubleArray) -> DoubleArray:
    """Each position moved to the nearest candidate if one is within half a beat."""
    if not len(candidates) or not len(beats):
        return beats
    nearest = candidates[np.abs(candidates[None, :] - beats[:, None]).argmin(axis=1)]
    return np.where(np.abs(nearest - beats) <= 0.5, nearest, beats)


def _salience(beats: DoubleArray, passage: Passage) -> DoubleArray:
    """Metrical weight: 1 on a bar's first beat, 0.75 on a beat, 0.5 on its half, 0.25 elsewhere."""
    on_bar = np.isin(np.round(beats, 2), passage.bar_beats)
    off_beat = np.abs(beats - np.round(beats))
    off_half = np.abs(2.0 * beats - np.round(2.0 * beats))
    return np.where(on_bar, 1.0, np.where(off_beat < 0.02, 0.75, np.where(off_half < 0.04, 0.5, 0.25)))
