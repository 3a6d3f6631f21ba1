"""The arranger: a score set to a scene, so that its beats, sections, dynamics and instruments follow it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from silent2music.data.ensembles import INSTRUMENTS, STYLES, Style, Voice
from silent2music.data.moods import affect_curves, describe
from silent2music.data.plan import ENERGY_RATE_HZ, Arrangement, Part, SceneTruth
from silent2music.data.scores import PITCH_NAMES, Notes, Passage, Score, pick_passage
from silent2music.data.timing import Section, Slots, choose_slots, plan_sections
from silent2music.errors import DataError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MUSIC_FIRST_KINDS = ("muted", "leak")
"""Kinds whose silent side is made from the music, not the other way round."""

SILENT_DBFS = -100.0
"""Short-term levels below this are digital silence, and the music is nearly nothing."""

SECTION_GAPS = (1.5, 1.0, 0.75)
"""Factors on the time between onsets, from the thinnest to the fullest sections of a piece that has several."""

REGISTERS = (-14, 0, 14)
"""Semitones by which a soloist, who has no other ensemble to change to, moves for the same sections."""


@dataclass
class _Draft:
    """Notes of one instrument while they are being written; columns as in `Part`."""

    instrument: str
    role: str
    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    pitches: list[int] = field(default_factory=list)
    velocities: list[int] = field(default_factory=list)

    def add(self, start: float, end: float, pitch: int, velocity: float) -> None:
        self.starts.append(start)
        self.ends.append(max(end, start + 0.04))
        self.pitches.append(int(pitch))
        self.velocities.append(int(np.clip(round(velocity), 12, 124)))


@dataclass(frozen=True)
class _Scene:
    """One section with everything that the textures need."""

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


def arrange(
    score: Score, truth: SceneTruth, rng: np.random.Generator, *, normalise_key: bool = True
) -> Arrangement:
    """Set a score to a scene.

    Beats are warped in straight lines onto the scene's pulse at the metrical level nearest to the score's
    tempo; without a pulse they bend to its events; without events they run free. Every event is given a note
    onset, sections start on the boundaries with other instruments, register and density, and `gain_db` follows
    the energy curve. For the kinds `muted` and `leak` the scene has no time of its own and the music goes first.

    Args:
        score: where the notes come from.
        truth: the scene.
        rng: decides everything that is free; the same state gives the same arrangement.
        normalise_key: transpose each passage to C major or A minor.

    Raises:
        DataError: on an unknown kind.
    """
    style = STYLES.get(truth.kind)
    if style is None:
        raise DataError(f"Scene kind is '{truth.kind}'; expected one of {', '.join(STYLES)}.")
    n_frames = round(truth.seconds * ENERGY_RATE_HZ)
    level = energy_levels(truth, n_frames)
    gain_db, loudness = automation(truth, level)
    sections = plan_sections(truth, style, score.tempo_bpm, rng)
    fullness = section_fullness(sections, truth, level, rng)
    drafts: dict[tuple[str, str], _Draft] = {}
    bars: list[FloatArray] = []
    keys: list[tuple[float, int, str]] = []
    solo = int(rng.integers(len(style.ensembles)))
    for section, rank in zip(sections, fullness, strict=True):
        passage = pick_passage(score, section.n_beats, rng, style.mode)
        shift = key_shift(passage.tonic, passage.mode) if normalise_key else 0
        keys.append(
            (section.stop_seconds - section.start_seconds, (passage.tonic + shift) % 12, passage.mode)
        )
        notes = dataclasses.replace(passage.notes, pitches=passage.notes.pitches + shift)
        gap = style.gap_seconds * _stillness(truth) * (SECTION_GAPS[rank] if len(sections) > 1 else 1.0)
        slots = choose_slots(section, passage, truth, style, gap, _activity(level, loudness), rng)
        scene = _Scene(section, passage, notes, slots, style, loudness, rng)
        for voice in style.ensembles[solo if truth.kind == "muted" else rank]:
            if truth.kind == "muted":
                voice = _moved(voice, REGISTERS[rank])
            draft = drafts.setdefault((voice.instrument, voice.role), _Draft(voice.instrument, voice.role))
            TEXTURES[voice.texture](scene, voice, draft)
        bars.append(section.seconds_at(passage.bar_beats.astype(np.float64)))
    parts = tuple(p for p in (_part(draft, truth.seconds) for draft in drafts.values()) if len(p.pitches))
    beats = _inside(np.concatenate([s.beat_seconds[:-1] for s in sections]), truth.seconds)
    intervals = np.concatenate([np.diff(s.beat_seconds) for s in sections])
    tempo_bpm = 60.0 / float(np.median(intervals))
    _, tonic, mode = max(keys)
    valence, arousal = affect_curves(parts, gain_db, tempo_bpm, mode)
    return Arrangement(
        seconds=truth.seconds,
        parts=parts,
        gain_db=gain_db,
        beat_seconds=beats,
        bar_seconds=_inside(np.concatenate(bars), truth.seconds),
        boundary_seconds=np.array([s.start_seconds for s in sections[1:]]),
        tempo_bpm=tempo_bpm,
        key=f"{PITCH_NAMES[tonic]} {mode}",
        valence=valence,
        arousal=arousal,
        caption=describe(parts, truth, tempo_bpm, valence, arousal),
        source=score.source,
    )


def _moved(voice: Voice, semitones: int) -> Voice:
    """A voice in another register, as far as its instrument has one."""
    instrument = INSTRUMENTS[voice.instrument]
    centre = int(np.clip(voice.centre + semitones, instrument.low + 7, instrument.high - 7))
    return dataclasses.replace(voice, centre=centre)


def section_fullness(
    sections: list[Section], truth: SceneTruth, level_dbfs: FloatArray, rng: np.random.Generator
) -> list[int]:
    """Which of three ensembles, dark and thin to bright and full, plays each section: the louder, the fuller.

    A scene of one section goes by its level (below -63 dBFS the first, above -52 the last), and music that comes
    before its scene by chance; of several, each is fuller or thinner than the one before as it is louder or
    quieter.
    """
    if len(sections) == 1:
        if truth.kind in MUSIC_FIRST_KINDS:
            return [1 if truth.kind == "muted" else int(rng.integers(3))]
        return [int(np.searchsorted((-63.0, -52.0), truth.level_dbfs))]
    frames = [
        slice(int(s.start_seconds * ENERGY_RATE_HZ), int(s.stop_seconds * ENERGY_RATE_HZ)) for s in sections
    ]
    levels = [float(np.median(level_dbfs[f])) for f in frames]
    ranks = [2 if levels[0] > levels[1] else 0]
    for before, here in pairwise(levels):
        louder = here > before
        ranks.append((2 if louder else 0) if ranks[-1] != (2 if louder else 0) else 1)
    return ranks


def key_shift(tonic: int, mode: str) -> int:
    """Semitones, -6 to 5, to the nearest C major or A minor."""
    return ((0 if mode == "major" else 9) - tonic + 6) % 12 - 6


def energy_levels(truth: SceneTruth, n_frames: int) -> FloatArray:
    """The scene's short-term level in dBFS on the pair's frames; constant where the scene has no curve."""
    curve = truth.energy_db
    if not len(curve):
        return np.full(n_frames, truth.level_dbfs)
    return np.interp(np.arange(n_frames), np.arange(len(curve)), curve)


def automation(truth: SceneTruth, level_dbfs: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Loudness automation and relative loudness of the music.

    The range of the scene (5th to 95th percentile, silence left out) is compressed to at most
    the style's `range_db` R by `R (1 - exp(-range / 8))`. Rhythmic kinds keep the curve as it is, the others are
    smoothed over 0.3 s.

    Returns:
        gain_db: `[n]` at most 0, with the whole scene's level in it (up to 8 dB less for the quietest).
        loudness: `[n]` 0 to 1 within the scene's range.
    """
    n_frames = len(level_dbfs)
    if not len(truth.energy_db):
        arc = np.sin(np.pi * ((np.arange(n_frames) / ENERGY_RATE_HZ) % 12.0) / 12.0)
        return 4.0 * (arc - 1.0), 0.3 + 0.5 * arc
    audible = level_dbfs > SILENT_DBFS
    if not audible.any():
        return np.full(n_frames, -36.0), np.zeros(n_frames)
    low, high = np.percentile(level_dbfs[audible], [5.0, 95.0])
    spread = max(float(high - low), 1e-3)
    width = STYLES[truth.kind].range_db * (1.0 - np.exp(-spread / 8.0))
    curve = level_dbfs if STYLES[truth.kind].rhythmic else smoothed(level_dbfs, 3)
    relative = np.clip((curve - low) / spread, -0.3, 1.15)
    offset = -8.0 * float(np.clip((-45.0 - truth.level_dbfs) / 30.0, 0.0, 1.0))
    gain = np.minimum(0.0, offset + width * (relative - 1.0))
    gain = np.where(audible, gain, -36.0)
    return gain, np.clip(smoothed(relative, 5), 0.0, 1.0)


def smoothed(curve: FloatArray, width: int) -> FloatArray:
    """A centred moving mean that does not shrink at the edges."""
    kernel = np.ones(width)
    return np.convolve(curve, kernel, "same") / np.convolve(np.ones(len(curve)), kernel, "same")


def _stillness(truth: SceneTruth) -> float:
    """Factor on the time between onsets: an empty, quiet scene gets sparser music."""
    if truth.kind in MUSIC_FIRST_KINDS or len(truth.event_seconds) > truth.seconds / 4.0:
        return 1.0
    return 1.0 + 0.8 * float(np.clip((-55.0 - truth.level_dbfs) / 20.0, 0.0, 1.0))


def _activity(level_dbfs: FloatArray, loudness: FloatArray) -> FloatArray:
    """Chance of an onset that no event asks for: fewer where the scene is still, hardly any in digital silence."""
    return np.where(level_dbfs > SILENT_DBFS, np.clip(0.35 + 1.6 * loudness, 0.0, 1.0), 0.04)


def _inside(times: FloatArray, seconds: float) -> FloatArray:
    return times[(times >= 0.0) & (times < seconds)]


def _part(draft: _Draft, seconds: float) -> Part:
    """The finished part, sorted, cut at the end of the pair."""
    starts, ends = np.array(draft.starts), np.minimum(np.array(draft.ends), seconds)
    pitches, velocities = np.array(draft.pitches, np.int64), np.array(draft.velocities, np.int64)
    order = np.lexsort((pitches, starts)) if len(starts) else np.zeros(0, np.int64)
    order = order[(starts[order] >= 0.0) & (ends[order] - starts[order] > 0.02)] if len(starts) else order
    instrument = INSTRUMENTS[draft.instrument]
    return Part(
        name=instrument.name,
        program=instrument.program,
        is_drum=instrument.is_drum,
        role=draft.role,
        start_seconds=starts[order] if len(starts) else np.zeros(0),
        end_seconds=ends[order] if len(starts) else np.zeros(0),
        pitches=pitches[order],
        velocities=velocities[order],
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


def _picked(scene: _Scene, beat: float, highest: bool) -> int | None:
    """The outer note that starts near a position, else the one that sounds there, else the last before it."""
    notes = scene.notes
    if not len(notes.starts):
        return None
    near = np.abs(notes.starts - beat) <= 0.26
    if not near.any():
        near = (notes.starts <= beat) & (notes.ends > beat)
    if not near.any():
        return int(notes.pitches[int(np.abs(notes.starts - beat).argmin())])
    return int(notes.pitches[near].max() if highest else notes.pitches[near].min())


def _sounding_until(scene: _Scene, beats: FloatArray) -> FloatArray:
    """For each position the time in seconds at which the score next falls silent for over half a beat."""
    if not len(scene.notes.starts):
        return scene.section.seconds_at(beats)
    ends = np.maximum.accumulate(scene.notes.ends)
    last = np.append(scene.notes.starts[1:] - ends[:-1] > 0.5, True)
    stops = ends[last]
    index = np.minimum(np.searchsorted(stops, beats + 1e-6), len(stops) - 1)
    return scene.section.seconds_at(np.maximum(stops[index], beats))


TRIADS = np.array([(root, (root + third) % 12, (root + 7) % 12) for root in range(12) for third in (4, 3)])
"""`[24, 3]` pitch classes of the major and minor triads, root first."""


def _triad(scene: _Scene, start: float, end: float) -> tuple[int, ...]:
    """Pitch classes, root first, of the triad that best covers a stretch in beats; a root in the bass counts more."""
    notes = scene.notes
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


def _line(scene: _Scene, voice: Voice, draft: _Draft) -> None:
    """The score's upper line at the slots."""
    instrument, slots, style = INSTRUMENTS[voice.instrument], scene.slots, scene.style
    picked = [_picked(scene, beat, True) for beat in slots.beats]
    shift = _octave_shift(np.array([p for p in picked if p is not None]), voice.centre)
    until = _sounding_until(scene, slots.beats)
    stop = scene.section.stop_seconds - 0.03
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
        velocity = scene.velocity(voice, start, float(slots.strengths[index]), accent)
        draft.add(start, end, in_range(pitch + shift, instrument.low, instrument.high), velocity)
        last = start


def _strong_slots(scene: _Scene, least_seconds: float) -> list[int]:
    """Slots at bar starts and events first, others where nothing strong is near."""
    slots = scene.slots
    on_bar = np.isin(np.round(slots.beats), scene.passage.bar_beats) & (np.abs(slots.beats % 1.0 - 0.5) > 0.2)
    rank = slots.strengths + 0.6 * on_bar
    kept: list[int] = []
    for index in np.argsort(-rank, kind="stable"):
        if all(abs(slots.seconds[index] - slots.seconds[k]) >= least_seconds for k in kept):
            kept.append(int(index))
    return sorted(kept)


def _roots(scene: _Scene, voice: Voice, draft: _Draft) -> None:
    """Bass notes at the strong slots, held until the next."""
    instrument, slots, style = INSTRUMENTS[voice.instrument], scene.slots, scene.style
    strong = _strong_slots(scene, max(0.55, 1.6 * style.gap_seconds))
    picked = [_picked(scene, slots.beats[index], False) for index in strong]
    shift = _octave_shift(np.array([p for p in picked if p is not None]), voice.centre)
    stop = scene.section.stop_seconds - 0.03
    for position, (index, pitch) in enumerate(zip(strong, picked, strict=True)):
        if pitch is None:
            continue
        start = float(slots.seconds[index])
        following = float(slots.seconds[strong[position + 1]]) if position + 1 < len(strong) else stop
        length = min((following - start) * style.articulation, 1.5 * style.longest_seconds)
        velocity = scene.velocity(voice, start, 0.6 * float(slots.strengths[index]))
        draft.add(
            start,
            min(start + length, stop),
            in_range(pitch + shift, instrument.low, instrument.high),
            velocity,
        )


def _chords(scene: _Scene, voice: Voice, draft: _Draft) -> None:
    """Short triads at the strong slots."""
    instrument, slots, style = INSTRUMENTS[voice.instrument], scene.slots, scene.style
    strong = _strong_slots(scene, max(0.42, 1.4 * style.gap_seconds))
    stop = scene.section.stop_seconds - 0.03
    for position, index in enumerate(strong):
        start, beat = float(slots.seconds[index]), float(slots.beats[index])
        following = float(slots.seconds[strong[position + 1]]) if position + 1 < len(strong) else stop
        length = min((following - start) * style.articulation, style.longest_seconds)
        velocity = scene.velocity(voice, start, 0.6 * float(slots.strengths[index]))
        for pitch_class in _triad(scene, beat - 0.5, beat + 1.5):
            pitch = in_range(_near(pitch_class, voice.centre), instrument.low, instrument.high)
            draft.add(start, min(start + length, stop), pitch, velocity)


def _chord_windows(scene: _Scene) -> list[tuple[float, float]]:
    """Stretches in beats with one harmony each: bars, or half bars where those last long enough."""
    edges = [*scene.passage.bar_beats.astype(float), float(scene.passage.n_beats)]
    windows = []
    for start, end in pairwise(edges):
        seconds = float(np.diff(scene.section.seconds_at(np.array([start, end])))[0])
        middle = start + round((end - start) / 2.0)
        if seconds >= 3.2 and start < middle < end:
            windows += [(start, middle), (middle, end)]
        else:
            windows.append((start, end))
    return windows


def _pad(scene: _Scene, voice: Voice, draft: _Draft) -> None:
    """Held triads, a new one where the harmony changes; a note common to both is held on."""
    instrument, section = INSTRUMENTS[voice.instrument], scene.section
    stop = section.stop_seconds - 0.03
    held: dict[int, tuple[float, float]] = {}
    for start_beat, end_beat in _chord_windows(scene):
        start, end = section.seconds_at(np.array([start_beat, end_beat]))
        start, end = max(float(start), 0.0), min(float(end), stop)
        if start >= stop or end <= 0.0:
            break
        pitches = {
            in_range(_near(p, voice.centre), instrument.low, instrument.high)
            for p in _triad(scene, start_beat, end_beat)
        }
        for pitch in [
            p for p in held if p not in pitches or start - held[p][0] > scene.style.longest_seconds
        ]:
            since, until = held.pop(pitch)
            draft.add(since, until, pitch, scene.velocity(voice, since, 0.0))
        for pitch in pitches:
            held[pitch] = (held[pitch][0] if pitch in held else start, end)
    for pitch in sorted(held):
        since, until = held[pitch]
        draft.add(since, until, pitch, scene.velocity(voice, since, 0.0))


def _arpeggio(scene: _Scene, voice: Voice, draft: _Draft) -> None:
    """Broken triads up and down over two octaves, on even parts of the beat and on every event."""
    instrument, section, slots = INSTRUMENTS[voice.instrument], scene.section, scene.slots
    period = float(np.median(np.diff(section.beat_seconds)))
    step = 1.0 / max(1, round(period / 0.36))
    events = slots.seconds[slots.strengths > 0.0]
    strengths = slots.strengths[slots.strengths > 0.0]
    count = 0
    for start_beat, end_beat in _chord_windows(scene):
        classes = _triad(scene, start_beat, end_beat)
        if not classes:
            continue
        base = sorted(
            in_range(_near(p, voice.centre - 4), instrument.low, instrument.high - 12) for p in classes
        )
        ladder = [*base, *(p + 12 for p in base)]
        ladder = ladder + ladder[-2:0:-1]
        for beat in np.arange(start_beat, end_beat - 1e-6, step):
            start = float(section.seconds_at(np.array([beat]))[0])
            frame = min(max(int(start * ENERGY_RATE_HZ), 0), len(scene.loudness) - 1)
            rests = scene.rng.random() > 0.45 + 0.9 * scene.loudness[frame]
            if not 0.0 <= start < section.stop_seconds - 0.3 or rests:
                count += 1
                continue
            strength = 0.0
            if len(events):
                nearest = int(np.abs(events - start).argmin())
                if abs(events[nearest] - start) < 0.5 * step * period:
                    start, strength = float(events[nearest]), float(strengths[nearest])
            end = min(start + 4.0 * step * period, section.stop_seconds - 0.03)
            draft.add(start, end, ladder[count % len(ladder)], scene.velocity(voice, start, strength))
            count += 1


def _ostinato(scene: _Scene, voice: Voice, draft: _Draft) -> None:
    """Bass notes on every beat, root and fifth of the bar's harmony."""
    instrument, section = INSTRUMENTS[voice.instrument], scene.section
    stop = section.stop_seconds - 0.03
    for start_beat, end_beat in _chord_windows(scene):
        classes = _triad(scene, start_beat, end_beat)
        if not classes:
            continue
        for count, beat in enumerate(np.arange(start_beat, end_beat - 1e-6)):
            start, end = (float(t) for t in section.seconds_at(np.array([beat, beat + 0.55])))
            if not 0.0 <= start < stop:
                continue
            pitch = _near(classes[0 if count % 4 != 2 else 2], voice.centre)
            velocity = scene.velocity(voice, start, 0.0, 8.0 if count == 0 else 0.0)
            draft.add(start, min(end, stop), in_range(pitch, instrument.low, instrument.high), velocity)


def _hits(scene: _Scene, voice: Voice, draft: _Draft) -> None:
    """A drum on every event."""
    slots = scene.slots
    for start, strength in zip(slots.seconds, slots.strengths, strict=True):
        if strength > 0.0:
            draft.add(
                float(start),
                float(start) + 0.1,
                voice.key,
                scene.velocity(voice, float(start), float(strength)),
            )


def _kit(scene: _Scene, voice: Voice, draft: _Draft) -> None:
    """Bass drum, snare and hi-hat over the bars, with a stick on the events."""
    section = scene.section
    bars = scene.passage.bar_beats
    for beat in range(section.n_beats):
        in_bar = beat - int(bars[np.searchsorted(bars, beat, side="right") - 1])
        start, half = (float(t) for t in section.seconds_at(np.array([beat, beat + 0.5])))
        if not 0.0 <= start < section.stop_seconds - 0.05:
            continue
        key = 36 if in_bar % 2 == 0 else 38
        draft.add(start, start + 0.1, key, scene.velocity(voice, start, 0.0, 6.0 if in_bar == 0 else 0.0))
        if half < section.stop_seconds - 0.3 and scene.rng.random() < 0.6:
            draft.add(half, half + 0.1, 42, scene.velocity(voice, half, 0.0, -14.0))
    for start, strength in zip(scene.slots.seconds, scene.slots.strengths, strict=True):
        if strength > 0.0:
            draft.add(
                float(start), float(start) + 0.1, 37, scene.velocity(voice, float(start), float(strength))
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
