"""Textures: how an instrument plays a passage, as a line, a pad, chords, a bass or hits."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from silent2music.arrays import DoubleArray
from silent2music.factory.ensembles import INSTRUMENTS, Manner, Voice
from silent2music.factory.scores import Notes, Passage
from silent2music.factory.timing import Section, Slots, thin_out
from silent2music.factory.written import INNER, LOWER, UPPER, at_slots, layers
from silent2music.score import ENERGY_RATE_HZ, Part

RELEASE_SECONDS = 0.03
"""All notes end this long before their section does."""

DRUM_SECONDS = 0.1
BASS_DRUM, STICK, SNARE, HI_HAT = 36, 37, 38, 42
"""Keys of General MIDI's drum kit."""


@dataclass
class Draft:
    """Notes of one instrument while they are being written: (start, end, pitch, velocity)."""

    instrument: str
    role: str
    notes: list[tuple[float, float, int, int]] = field(default_factory=list)

    def finished(self, seconds: float) -> Part:
        """The part, sorted, cut at the end of the pair; notes shorter than 20 ms are dropped."""
        notes = [(start, min(end, seconds), pitch, velocity) for start, end, pitch, velocity in self.notes]
        notes = [note for note in notes if note[0] >= 0.0 and note[1] - note[0] > 0.02]
        notes.sort(key=lambda note: (note[0], note[2]))
        starts, ends, pitches, velocities = np.array(notes, np.float64).reshape(-1, 4).T
        instrument = INSTRUMENTS[self.instrument]
        return Part(
            name=instrument.name,
            program=instrument.program,
            is_drum=instrument.is_drum,
            role=self.role,
            start_seconds=starts.copy(),
            end_seconds=ends.copy(),
            pitches=pitches.astype(np.int64),
            velocities=velocities.astype(np.int64),
        )


@dataclass(frozen=True)
class SectionMusic:
    """One section of music with the notes, onsets, manner and loudness that textures are written from.

    Attributes:
        section: its time map.
        passage: the music that fills it.
        slots: where notes start.
        manner: how it moves.
        loudness: `[seconds * ENERGY_RATE_HZ]` of the whole pair, 0 to 1.
        rng: for what a player varies.
        drums: real drumming, in beats from the start of the section; empty where there is none.
    """

    section: Section
    passage: Passage
    slots: Slots
    manner: Manner
    loudness: DoubleArray
    rng: np.random.Generator
    drums: Notes = field(default_factory=lambda: Notes.joined([]))

    @functools.cached_property
    def layers(self) -> dict[int | None, Notes]:
        """The passage's notes by layer; the whole of it is None."""
        notes = self.passage.notes
        layer = layers(notes)
        return {None: notes, **{which: notes.at(layer == which) for which in (LOWER, INNER, UPPER)}}

    @property
    def stop_seconds(self) -> float:
        """When the section's last notes end."""
        return self.section.stop_seconds - RELEASE_SECONDS

    def loudness_at(self, seconds: float) -> float:
        """Relative loudness at a time from 0 on."""
        return float(self.loudness[min(int(seconds * ENERGY_RATE_HZ), len(self.loudness) - 1)])


@dataclass(frozen=True)
class Player:
    """A voice of the ensemble in a section; what it plays goes into the draft of its part."""

    music: SectionMusic
    voice: Voice
    draft: Draft

    def velocity(self, seconds: float, strength: float, accent: float) -> float:
        """Velocity from the manner, the scene's energy at that moment, the event's strength and the metre."""
        energy = 18.0 * (self.music.loudness_at(seconds) - 0.5)
        level = self.music.manner.velocity + self.voice.level + energy + 14.0 * strength + accent
        return level + self.music.rng.uniform(-3.0, 3.0)

    def play(
        self, start: float, end: float, pitches: Iterable[int], strength: float = 0.0, accent: float = 0.0
    ) -> None:
        """Notes struck together, in the instrument's range, which end before the section does."""
        velocity = self.velocity(start, strength, accent)
        for pitch in pitches:
            self._add(start, min(end, self.music.stop_seconds), self.in_range(pitch), velocity)

    def strike(self, start: float, key: int, strength: float = 0.0, accent: float = 0.0) -> None:
        """A drum."""
        self._add(start, start + DRUM_SECONDS, key, self.velocity(start, strength, accent))

    def _add(self, start: float, end: float, pitch: int, velocity: float) -> None:
        """A note, at least 40 ms long, with a velocity of 12 to 124."""
        limited = min(max(round(velocity), 12), 124)
        self.draft.notes.append((start, max(end, start + 0.04), int(pitch), limited))

    def in_range(self, pitch: int, headroom: int = 0) -> int:
        """A pitch moved by octaves into the instrument's range, or into all of it but its highest semitones."""
        instrument = INSTRUMENTS[self.voice.instrument]
        return in_range(pitch, instrument.low, instrument.high - headroom)

    def near(self, pitch_class: int, below: int = 0) -> int:
        """The pitch of a class nearest to the voice's centre, or to so many semitones below it."""
        centre = self.voice.centre - below
        return centre + (pitch_class - centre + 6) % 12 - 6

    def outer_notes(self, beats: Sequence[float], highest: bool) -> list[int | None]:
        """The score's highest or lowest note at each position, all by the octaves that bring them near the centre."""
        picked = [_outer_note(self.music.passage.notes, beat, highest) for beat in beats]
        pitches = [pitch for pitch in picked if pitch is not None]
        shift = 12 * round((self.voice.centre - float(np.median(pitches))) / 12.0) if pitches else 0
        return [None if pitch is None else pitch + shift for pitch in picked]


def in_range(pitch: int, low: int, high: int) -> int:
    """A pitch moved by octaves into a range of at least an octave."""
    while pitch < low:
        pitch += 12
    while pitch > high:
        pitch -= 12
    return pitch


def _outer_note(notes: Notes, beat: float, highest: bool) -> int | None:
    """The outer note that starts near a position, else the one that sounds there, else the last before it."""
    if not len(notes.starts):
        return None
    near = np.abs(notes.starts - beat) <= 0.26
    if not near.any():
        near = (notes.starts <= beat) & (notes.ends > beat)
    if not near.any():
        return int(notes.pitches[int(np.abs(notes.starts - beat).argmin())])
    return int(notes.pitches[near].max() if highest else notes.pitches[near].min())


def _sounding_until(music: SectionMusic, beats: DoubleArray) -> DoubleArray:
    """For each position the time in seconds at which the score next falls silent for over half a beat."""
    if not len(music.passage.notes.starts):
        return music.section.seconds_at(beats)
    ends = np.maximum.accumulate(music.passage.notes.ends)
    last = np.append(music.passage.notes.starts[1:] - ends[:-1] > 0.5, True)
    stops = ends[last]
    index = np.minimum(np.searchsorted(stops, beats + 1e-6), len(stops) - 1)
    return music.section.seconds_at(np.maximum(stops[index], beats))


TRIADS = np.array([(root, (root + third) % 12, (root + 7) % 12) for root in range(12) for third in (4, 3)])
"""`[24, 3]` pitch classes of the major and minor triads, root first."""


def _triad(notes: Notes, start: float, end: float) -> tuple[int, ...]:
    """Pitch classes, root first, of the triad that best covers a stretch in beats; a root in the bass counts more."""
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


def _chords_of(music: SectionMusic) -> Iterator[tuple[float, float, tuple[int, ...]]]:
    """Stretches in beats with one harmony each, and its triad: bars, or half bars where those last long enough."""
    edges = [*music.passage.bar_beats.astype(float), float(music.passage.n_beats)]
    for start, end in pairwise(edges):
        seconds = float(np.diff(music.section.seconds_at(np.array([start, end])))[0])
        middle = start + round((end - start) / 2.0)
        cuts = [start, middle, end] if seconds >= 3.2 and start < middle < end else [start, end]
        for first, last in pairwise(cuts):
            yield first, last, _triad(music.passage.notes, first, last)


def _line(player: Player) -> None:
    """The score's upper line at the slots."""
    music = player.music
    slots, manner, stop = music.slots, music.manner, music.stop_seconds
    until = _sounding_until(music, slots.beats)
    last = -1.0
    for index, pitch in enumerate(player.outer_notes(list(slots.beats), highest=True)):
        start = float(slots.seconds[index])
        if pitch is None or start - last < 0.11:
            continue
        following = float(slots.seconds[index + 1]) if index + 1 < len(slots.seconds) else stop
        length = min(max((following - start) * manner.articulation, 0.09), manner.longest_seconds)
        rest = max(float(until[index]), start + 0.25) if manner.articulation <= 1.0 else stop
        accent = 5.0 if np.isclose(slots.beats[index], np.round(slots.beats[index]), atol=0.02) else 0.0
        player.play(start, min(start + length, rest), [pitch], float(slots.strengths[index]), accent)
        last = start


def _strong_slots(music: SectionMusic, gap_seconds: float) -> Iterator[tuple[int, float, float]]:
    """Slots at bar starts and events first, others where nothing strong is near: index, start, time to the next."""
    slots = music.slots
    on_bar = np.isin(np.round(slots.beats), music.passage.bar_beats) & (np.abs(slots.beats % 1.0 - 0.5) > 0.2)
    strong = thin_out(slots.seconds, slots.strengths + 0.6 * on_bar, gap_seconds)
    starts = [*(float(slots.seconds[index]) for index in strong), music.stop_seconds]
    for index, (start, following) in zip(strong, pairwise(starts), strict=True):
        yield int(index), start, following - start


def _roots(player: Player) -> None:
    """Bass notes at the strong slots, held until the next."""
    slots, manner = player.music.slots, player.music.manner
    strong = list(_strong_slots(player.music, max(0.55, 1.6 * manner.gap_seconds)))
    pitches = player.outer_notes([slots.beats[index] for index, _, _ in strong], highest=False)
    for (index, start, space), pitch in zip(strong, pitches, strict=True):
        if pitch is not None:
            length = min(space * manner.articulation, 1.5 * manner.longest_seconds)
            player.play(start, start + length, [pitch], 0.6 * float(slots.strengths[index]))


def _chords(player: Player) -> None:
    """Short triads at the strong slots."""
    slots, manner = player.music.slots, player.music.manner
    for index, start, space in _strong_slots(player.music, max(0.42, 1.4 * manner.gap_seconds)):
        beat = float(slots.beats[index])
        length = min(space * manner.articulation, manner.longest_seconds)
        pitches = [player.near(p) for p in _triad(player.music.passage.notes, beat - 0.5, beat + 1.5)]
        player.play(start, start + length, pitches, 0.6 * float(slots.strengths[index]))


def _pad(player: Player) -> None:
    """Held triads, a new one where the harmony changes; a note common to both is held on."""
    music = player.music
    stop = music.stop_seconds
    held: dict[int, tuple[float, float]] = {}
    for start_beat, end_beat, triad in _chords_of(music):
        start, end = (float(t) for t in music.section.seconds_at(np.array([start_beat, end_beat])))
        start, end = max(start, 0.0), min(end, stop)
        if start >= stop or end <= 0.0:
            break
        pitches = {player.in_range(player.near(p)) for p in triad}
        longest = music.manner.longest_seconds
        for pitch in [p for p in held if p not in pitches or start - held[p][0] > longest]:
            player.play(*held.pop(pitch), [pitch])
        for pitch in pitches:
            held[pitch] = (held[pitch][0] if pitch in held else start, end)
    for pitch in sorted(held):
        player.play(*held[pitch], [pitch])


def _even_steps(
    player: Player, step_seconds: float
) -> Iterator[tuple[float, float, tuple[int, ...], int, float]]:
    """Even parts of the beat, about so long, each moved onto an event near it, some left out where it is quiet.

    Gives start and length in seconds, the harmony, the number of the step and the strength of its event.
    """
    music = player.music
    section, slots = music.section, music.slots
    period = float(np.median(np.diff(section.beat_seconds)))
    step = 1.0 / max(1, round(period / step_seconds))
    events, strengths = (column[slots.strengths > 0.0] for column in (slots.seconds, slots.strengths))
    number = itertools.count()
    for start_beat, end_beat, triad in _chords_of(music):
        if not triad:
            continue
        beats = np.arange(start_beat, end_beat - 1e-6, step)
        for start, turn in zip(section.seconds_at(beats).tolist(), number, strict=False):
            strength = 0.0
            rests = music.rng.random() > 0.45 + 0.9 * music.loudness_at(max(start, 0.0))
            if not 0.0 <= start < section.stop_seconds - 0.3 or rests:
                continue
            if len(events):
                nearest = int(np.abs(events - start).argmin())
                if abs(events[nearest] - start) < 0.5 * step * period:
                    start, strength = float(events[nearest]), float(strengths[nearest])
            yield start, step * period, triad, turn, strength


def _arpeggio(player: Player) -> None:
    """Broken triads up and down over two octaves, on even parts of the beat and on every event."""
    for start, length, triad, turn, strength in _even_steps(player, 0.36):
        base = sorted(player.in_range(player.near(p, below=4), headroom=12) for p in triad)
        ladder = [*base, *(p + 12 for p in base)]
        ladder = ladder + ladder[-2:0:-1]
        player.play(start, start + 4.0 * length, [ladder[turn % len(ladder)]], strength)


def _pulse(player: Player) -> None:
    """Tones of the harmony repeated on even parts of the beat, in a cell of eight steps that the section keeps."""
    rng = player.music.rng
    cell = [
        sorted(rng.choice(3, size=int(n), replace=False).tolist()) for n in rng.choice((1, 1, 2, 2, 3), 8)
    ]
    heeds = player.music.manner.rhythmic and bool((player.music.slots.strengths > 0.0).any())
    for start, length, triad, turn, strength in _even_steps(player, 0.48 if heeds else 0.24):
        tones = sorted(player.near(p) for p in triad)
        accent = 6.0 if turn % 8 == 0 else 0.0
        player.play(start, start + 0.9 * length, [tones[i] for i in cell[turn % 8]], strength, accent)


def _written(layer: int | None) -> Callable[[Player], None]:
    """Plays a layer of the score as it is written, moved by the octaves that bring it near the centre."""

    def texture(player: Player) -> None:
        music = player.music
        notes = music.layers[layer]
        if not len(notes.starts):
            return
        shift = 12 * round((player.voice.centre - float(np.median(notes.pitches))) / 12.0)
        usual = float(np.median(notes.velocities))
        share = min(music.manner.articulation, 1.0)
        longest = music.manner.longest_seconds
        for start, end, pitch, velocity, strength in at_slots(
            notes, music.slots, music.section, layer, music.stop_seconds, longest
        ):
            accent = min(max(0.6 * (velocity - usual), -15.0), 15.0)
            player.play(start, start + share * (end - start), [pitch + shift], strength, accent)

    return texture


def _ostinato(player: Player) -> None:
    """Bass notes on every beat, root and fifth of the bar's harmony."""
    section, stop = player.music.section, player.music.stop_seconds
    for start_beat, end_beat, triad in _chords_of(player.music):
        for count, beat in enumerate(np.arange(start_beat, end_beat - 1e-6) if triad else ()):
            start, end = (float(t) for t in section.seconds_at(np.array([beat, beat + 0.55])))
            if 0.0 <= start < stop:
                pitch = player.near(triad[0 if count % 4 != 2 else 2])
                player.play(start, end, [pitch], accent=8.0 if count == 0 else 0.0)


def _hits(player: Player, key: int | None = None) -> None:
    """A drum on every event."""
    slots = player.music.slots
    for start, strength in zip(slots.seconds, slots.strengths, strict=True):
        if strength > 0.0:
            player.strike(float(start), player.voice.centre if key is None else key, float(strength))


def _kit(player: Player) -> None:
    """Real drumming where there is some, else bass drum, snare and hi-hat; with a stick on the events."""
    if len(player.music.drums.starts):
        _drumming(player)
    else:
        _plain_kit(player)


def _drumming(player: Player) -> None:
    """A drummer's hits in their own timing and force; those near an event meet it, a stick meets the other events."""
    music = player.music
    drums, slots = music.drums, music.slots
    is_event = slots.strengths > 0.0
    events, strengths = slots.seconds[is_event], slots.strengths[is_event]
    starts = music.section.seconds_at(drums.starts)
    # Where events must be heard, and where it is quiet, a drummer plays no ghost notes.
    softest = 72.0 if music.manner.rhythmic and len(events) else 20.0
    met = np.zeros(len(events), bool)
    for start, key, velocity in zip(
        starts.tolist(), drums.pitches.tolist(), drums.velocities.tolist(), strict=True
    ):
        if not max(0.0, music.section.start_seconds) <= start < music.stop_seconds - 0.05:
            continue
        strength = 0.0
        nearest = int(np.abs(events - start).argmin()) if len(events) else -1
        if nearest >= 0 and abs(events[nearest] - start) < 0.05:
            start, strength = float(events[nearest]), float(strengths[nearest])
            met[nearest] = True
        elif velocity < softest + 25.0 * (0.5 - music.loudness_at(start)):
            continue
        player.strike(start, key, strength, 0.6 * (velocity - 80.0))
    for start, strength in zip(events[~met].tolist(), strengths[~met].tolist(), strict=True):
        player.strike(start, STICK, strength)


def _plain_kit(player: Player) -> None:
    """Bass drum, snare and hi-hat over the bars, with a stick on the events."""
    section, bars = player.music.section, player.music.passage.bar_beats
    for beat in range(section.n_beats):
        in_bar = beat - int(bars[np.searchsorted(bars, beat, side="right") - 1])
        start, half = (float(t) for t in section.seconds_at(np.array([beat, beat + 0.5])))
        if not 0.0 <= start < section.stop_seconds - 0.05:
            continue
        key = BASS_DRUM if in_bar % 2 == 0 else SNARE
        player.strike(start, key, accent=6.0 if in_bar == 0 else 0.0)
        if half < section.stop_seconds - 0.3 and player.music.rng.random() < 0.6:
            player.strike(half, HI_HAT, accent=-14.0)
    _hits(player, STICK)


TEXTURES = {
    "line": _line,
    "pad": _pad,
    "chords": _chords,
    "arpeggio": _arpeggio,
    "roots": _roots,
    "ostinato": _ostinato,
    "hits": _hits,
    "kit": _kit,
    "pulse": _pulse,
    "whole": _written(None),
    "upper": _written(UPPER),
    "inner": _written(INNER),
    "lower": _written(LOWER),
}
"""What a `Voice` may do, by name."""
