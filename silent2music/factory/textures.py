"""Textures: what an instrument makes of a passage - a line, a pad, chords, a bass, hits."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from silent2music.factory.ensembles import INSTRUMENTS, Style, Voice
from silent2music.factory.arrangement import ENERGY_RATE_HZ, Part
from silent2music.factory.scores import Notes, Passage
from silent2music.factory.timing import Section, Slots

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass
class Draft:
    """Notes of one instrument while they are being written; columns as in `Part`."""

    instrument: str
    role: str
    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    pitches: list[int] = field(default_factory=list)
    velocities: list[int] = field(default_factory=list)

    def add(self, start: float, end: float, pitch: int, velocity: float) -> None:
        """Write a note, at least 40 ms long, with a velocity of 12 to 124."""
        self.starts.append(start)
        self.ends.append(max(end, start + 0.04))
        self.pitches.append(int(pitch))
        self.velocities.append(int(np.clip(round(velocity), 12, 124)))

    def finished(self, seconds: float) -> Part:
        """The part, sorted, cut at the end of the pair; notes shorter than 20 ms are dropped."""
        starts, ends = np.array(self.starts, np.float64), np.minimum(np.array(self.ends, np.float64), seconds)
        pitches, velocities = np.array(self.pitches, np.int64), np.array(self.velocities, np.int64)
        order = np.lexsort((pitches, starts))
        order = order[(starts[order] >= 0.0) & (ends[order] - starts[order] > 0.02)]
        instrument = INSTRUMENTS[self.instrument]
        return Part(
            name=instrument.name,
            program=instrument.program,
            is_drum=instrument.is_drum,
            role=self.role,
            start_seconds=starts[order],
            end_seconds=ends[order],
            pitches=pitches[order],
            velocities=velocities[order],
        )


@dataclass(frozen=True)
class SectionMusic:
    """One section with all that a texture needs.

    Attributes:
        section: its time map.
        passage: the music that fills it, in the score's key; notes: the same, transposed.
        slots: where notes start.
        style: of the scene kind.
        loudness: `[seconds * ENERGY_RATE_HZ]` of the whole pair, 0 to 1.
        rng: for what a player varies.
    """

    section: Section
    passage: Passage
    notes: Notes
    slots: Slots
    style: Style
    loudness: FloatArray
    rng: np.random.Generator

    def velocity(self, voice: Voice, seconds: float, strength: float, accent: float = 0.0) -> float:
        """Velocity from the style, the scene's energy at that moment, the event's strength and the metre."""
        frame = min(int(seconds * ENERGY_RATE_HZ), len(self.loudness) - 1)
        energy = 18.0 * (float(self.loudness[frame]) - 0.5)
        return (
            self.style.velocity
            + voice.level
            + energy
            + 14.0 * strength
            + accent
            + self.rng.uniform(-3.0, 3.0)
        )


def in_range(pitch: int, low: int, high: int) -> int:
    """A pitch moved by octaves into a range of at least an octave."""
    while pitch < low:
        pitch += 12
    while pitch > high:
        pitch -= 12
    return pitch


def _near(pitch_class: int, centre: int) -> int:
    """The pitch of a class nearest to a centre."""
    return centre + (pitch_class - centre + 6) % 12 - 6


def _octave_shift(pitches: IntArray, centre: int) -> int:
    """Octaves, in semitones, that bring the median of pitches nearest to a centre."""
    return 12 * round((centre - float(np.median(pitches))) / 12.0) if len(pitches) else 0


def _picked(music: SectionMusic, beat: float, highest: bool) -> int | None:
    """The outer note that starts near a position, else the one that sounds there, else the last before it."""
    notes = music.notes
    if not len(notes.starts):
        return None
    near = np.abs(notes.starts - beat) <= 0.26
    if not near.any():
        near = (notes.starts <= beat) & (notes.ends > beat)
    if not near.any():
        return int(notes.pitches[int(np.abs(notes.starts - beat).argmin())])
    return int(notes.pitches[near].max() if highest else notes.pitches[near].min())


def _sounding_until(music: SectionMusic, beats: FloatArray) -> FloatArray:
    """For each position the time in seconds at which the score next falls silent for over half a beat."""
    if not len(music.notes.starts):
        return music.section.seconds_at(beats)
    ends = np.maximum.accumulate(music.notes.ends)
    last = np.append(music.notes.starts[1:] - ends[:-1] > 0.5, True)
    stops = ends[last]
    index = np.minimum(np.searchsorted(stops, beats + 1e-6), len(stops) - 1)
    return music.section.seconds_at(np.maximum(stops[index], beats))


TRIADS = np.array([(root, (root + third) % 12, (root + 7) % 12) for root in range(12) for third in (4, 3)])
"""`[24, 3]` pitch classes of the major and minor triads, root first."""


def _triad(music: SectionMusic, start: float, end: float) -> tuple[int, ...]:
    """Pitch classes, root first, of the triad that best covers a stretch in beats; a root in the bass counts more."""
    notes = music.notes
    overlap = np.minimum(notes.ends, end) - np.maximum(notes.starts, start)
    sounding = overlap > 1e-3
    if not sounding.any():
        return ()
    pitches = notes.pitches[sounding]
    weights = np.bincount(pitches % 12, weights=overlap[sounding], minlength=12)
    roots = TRIADS[:, 0]
    in_bass = roots == int(pitches.min()) % 12
    fit = weights[TRIADS].sum(axis=1) + 0.3 * weights[roots] + 0.2 * weights.sum() * in_bass
    return tuple(int(p) for p in TRIADS[int(fit.argmax())])


def _line(music: SectionMusic, voice: Voice, draft: Draft) -> None:
    """The score's upper line at the slots."""
    instrument, slots, style = INSTRUMENTS[voice.instrument], music.slots, music.style
    picked = [_picked(music, beat, True) for beat in slots.beats]
    shift = _octave_shift(np.array([p for p in picked if p is not None]), voice.centre)
    until = _sounding_until(music, slots.beats)
    stop = music.section.stop_seconds - 0.03
    last = -1.0
    for index, pitch in enumerate(picked):
        start = float(slots.seconds[index])
        if pitch is None or start - last < 0.11:
            continue
        following = float(slots.seconds[index + 1]) if index + 1 < len(slots.seconds) else stop
        length = min(max((following - start) * style.articulation, 0.09), style.longest_seconds)
        rest = max(float(until[index]), start + 0.25) if style.articulation <= 1.0 else stop
        end = min(start + length, rest, stop)
        accent = 5.0 if np.isclose(slots.beats[index], np.round(slots.beats[index]), atol=0.02) else 0.0
        velocity = music.velocity(voice, start, float(slots.strengths[index]), accent)
        draft.add(start, end, in_range(pitch + shift, instrument.low, instrument.high), velocity)
        last = start


def _strong_slots(music: SectionMusic, least_seconds: float) -> list[int]:
    """Slots at bar starts and events first, others where nothing strong is near."""
    slots = music.slots
    on_bar = np.isin(np.round(slots.beats), music.passage.bar_beats) & (np.abs(slots.beats % 1.0 - 0.5) > 0.2)
    rank = slots.strengths + 0.6 * on_bar
    kept: list[int] = []
    for index in np.argsort(-rank, kind="stable"):
        if all(abs(slots.seconds[index] - slots.seconds[k]) >= least_seconds for k in kept):
            kept.append(int(index))
    return sorted(kept)


def _roots(music: SectionMusic, voice: Voice, draft: Draft) -> None:
    """Bass notes at the strong slots, held until the next."""
    instrument, slots, style = INSTRUMENTS[voice.instrument], music.slots, music.style
    strong = _strong_slots(music, max(0.55, 1.6 * style.gap_seconds))
    picked = [_picked(music, slots.beats[index], False) for index in strong]
    shift = _octave_shift(np.array([p for p in picked if p is not None]), voice.centre)
    stop = music.section.stop_seconds - 0.03
    for position, (index, pitch) in enumerate(zip(strong, picked, strict=True)):
        if pitch is None:
            continue
        start = float(slots.seconds[index])
        following = float(slots.seconds[strong[position + 1]]) if position + 1 < len(strong) else stop
        length = min((following - start) * style.articulation, 1.5 * style.longest_seconds)
        velocity = music.velocity(voice, start, 0.6 * float(slots.strengths[index]))
        draft.add(
            start,
            min(start + length, stop),
            in_range(pitch + shift, instrument.low, instrument.high),
            velocity,
        )


def _chords(music: SectionMusic, voice: Voice, draft: Draft) -> None:
    """Short triads at the strong slots."""
    instrument, slots, style = INSTRUMENTS[voice.instrument], music.slots, music.style
    strong = _strong_slots(music, max(0.42, 1.4 * style.gap_seconds))
    stop = music.section.stop_seconds - 0.03
    for position, index in enumerate(strong):
        start, beat = float(slots.seconds[index]), float(slots.beats[index])
        following = float(slots.seconds[strong[position + 1]]) if position + 1 < len(strong) else stop
        length = min((following - start) * style.articulation, style.longest_seconds)
        velocity = music.velocity(voice, start, 0.6 * float(slots.strengths[index]))
        for pitch_class in _triad(music, beat - 0.5, beat + 1.5):
            pitch = in_range(_near(pitch_class, voice.centre), instrument.low, instrument.high)
            draft.add(start, min(start + length, stop), pitch, velocity)


def _chord_windows(music: SectionMusic) -> list[tuple[float, float]]:
    """Stretches in beats with one harmony each: bars, or half bars where those last long enough."""
    edges = [*music.passage.bar_beats.astype(float), float(music.passage.n_beats)]
    windows = []
    for start, end in pairwise(edges):
        seconds = float(np.diff(music.section.seconds_at(np.array([start, end])))[0])
        middle = start + round((end - start) / 2.0)
        if seconds >= 3.2 and start < middle < end:
            windows += [(start, middle), (middle, end)]
        else:
            windows.append((start, end))
    return windows


def _pad(music: SectionMusic, voice: Voice, draft: Draft) -> None:
    """Held triads, a new one where the harmony changes; a note common to both is held on."""
    instrument, section = INSTRUMENTS[voice.instrument], music.section
    stop = section.stop_seconds - 0.03
    held: dict[int, tuple[float, float]] = {}
    for start_beat, end_beat in _chord_windows(music):
        start, end = section.seconds_at(np.array([start_beat, end_beat]))
        start, end = max(float(start), 0.0), min(float(end), stop)
        if start >= stop or end <= 0.0:
            break
        pitches = {
            in_range(_near(p, voice.centre), instrument.low, instrument.high)
            for p in _triad(music, start_beat, end_beat)
        }
        for pitch in [
            p for p in held if p not in pitches or start - held[p][0] > music.style.longest_seconds
        ]:
            since, until = held.pop(pitch)
            draft.add(since, until, pitch, music.velocity(voice, since, 0.0))
        for pitch in pitches:
            held[pitch] = (held[pitch][0] if pitch in held else start, end)
    for pitch in sorted(held):
        since, until = held[pitch]
        draft.add(since, until, pitch, music.velocity(voice, since, 0.0))


def _arpeggio(music: SectionMusic, voice: Voice, draft: Draft) -> None:
    """Broken triads up and down over two octaves, on even parts of the beat and on every event."""
    instrument, section, slots = INSTRUMENTS[voice.instrument], music.section, music.slots
    period = float(np.median(np.diff(section.beat_seconds)))
    step = 1.0 / max(1, round(period / 0.36))
    events = slots.seconds[slots.strengths > 0.0]
    strengths = slots.strengths[slots.strengths > 0.0]
    count = 0
    for start_beat, end_beat in _chord_windows(music):
        classes = _triad(music, start_beat, end_beat)
        if not classes:
            continue
        base = sorted(
            in_range(_near(p, voice.centre - 4), instrument.low, instrument.high - 12) for p in classes
        )
        ladder = [*base, *(p + 12 for p in base)]
        ladder = ladder + ladder[-2:0:-1]
        for beat in np.arange(start_beat, end_beat - 1e-6, step):
            start = float(section.seconds_at(np.array([beat]))[0])
            frame = min(max(int(start * ENERGY_RATE_HZ), 0), len(music.loudness) - 1)
            rests = music.rng.random() > 0.45 + 0.9 * music.loudness[frame]
            if not 0.0 <= start < section.stop_seconds - 0.3 or rests:
                count += 1
                continue
            strength = 0.0
            if len(events):
                nearest = int(np.abs(events - start).argmin())
                if abs(events[nearest] - start) < 0.5 * step * period:
                    start, strength = float(events[nearest]), float(strengths[nearest])
            end = min(start + 4.0 * step * period, section.stop_seconds - 0.03)
            draft.add(start, end, ladder[count % len(ladder)], music.velocity(voice, start, strength))
            count += 1


def _ostinato(music: SectionMusic, voice: Voice, draft: Draft) -> None:
    """Bass notes on every beat, root and fifth of the bar's harmony."""
    instrument, section = INSTRUMENTS[voice.instrument], music.section
    stop = section.stop_seconds - 0.03
    for start_beat, end_beat in _chord_windows(music):
        classes = _triad(music, start_beat, end_beat)
        if not classes:
            continue
        for count, beat in enumerate(np.arange(start_beat, end_beat - 1e-6)):
            start, end = (float(t) for t in section.seconds_at(np.array([beat, beat + 0.55])))
            if not 0.0 <= start < stop:
                continue
            pitch = _near(classes[0 if count % 4 != 2 else 2], voice.centre)
            velocity = music.velocity(voice, start, 0.0, 8.0 if count == 0 else 0.0)
            draft.add(start, min(end, stop), in_range(pitch, instrument.low, instrument.high), velocity)


def _hits(music: SectionMusic, voice: Voice, draft: Draft) -> None:
    """A drum on every event."""
    slots = music.slots
    for start, strength in zip(slots.seconds, slots.strengths, strict=True):
        if strength > 0.0:
            draft.add(
                float(start),
                float(start) + 0.1,
                voice.key,
                music.velocity(voice, float(start), float(strength)),
            )


def _kit(music: SectionMusic, voice: Voice, draft: Draft) -> None:
    """Bass drum, snare and hi-hat over the bars, with a stick on the events."""
    section = music.section
    bars = music.passage.bar_beats
    for beat in range(section.n_beats):
        in_bar = beat - int(bars[np.searchsorted(bars, beat, side="right") - 1])
        start, half = (float(t) for t in section.seconds_at(np.array([beat, beat + 0.5])))
        if not 0.0 <= start < section.stop_seconds - 0.05:
            continue
        key = 36 if in_bar % 2 == 0 else 38
        draft.add(start, start + 0.1, key, music.velocity(voice, start, 0.0, 6.0 if in_bar == 0 else 0.0))
        if half < section.stop_seconds - 0.3 and music.rng.random() < 0.6:
            draft.add(half, half + 0.1, 42, music.velocity(voice, half, 0.0, -14.0))
    for start, strength in zip(music.slots.seconds, music.slots.strengths, strict=True):
        if strength > 0.0:
            draft.add(
                float(start), float(start) + 0.1, 37, music.velocity(voice, float(start), float(strength))
            )


TEXTURES = {
    "line": _line,
    "pad": _pad,
    "chords": _chords,
    "arpeggio": _arpeggio,
    "roots": _roots,
    "ostinato": _ostinato,
    "hits": _hits,
    "kit": _kit,
}
"""What a `Voice` may do, by name."""
