"""The sounds that a scene is put together from: beds with swells and changes, one-shots on a pulse or scattered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from silent2music.arrays import DoubleArray, FloatArray
from silent2music.audio import db_to_gain
from silent2music.factory.arrangement import Arrangement
from silent2music.factory.chain import coloured_noise, rms
from silent2music.factory.rooms import SAMPLE_RATE
from silent2music.factory.sources import BED, EVENT, Clip, Credit, Library, Room

MIN_SECTION_SECONDS = 8.0
BOUNDARY_SHARE = 0.35
"""Share of the scenes of 24 s and more in which the scene changes once or twice."""

MAX_SPREAD_DB = 4.5
"""Beds of a place are at most this uneven, as far as there are such; see `Clip.spread_db`."""

AUDIBLE_DB = 6.0
"""An event counts as audible if its loudest 10 ms stand this far above the RMS around it."""

Range = tuple[float, float]
"""Lowest and highest value of a uniform draw."""

OneShot = tuple[Clip, FloatArray, int]
"""Where a sound comes from, its samples `[N]`, and how many of them lie before its onset."""


@dataclass
class SceneDraft:
    """A scene in the making, before room and recording chain; levels are relative.

    Attributes:
        kind: scene kind, which chooses the recordings.
        library: of the split that the pair belongs to.
        rng: decides everything.
        seconds: duration.
        background: `[N]` beds, with their swells and steps of level.
        foreground: `[N]` one-shots, or what else comes from a place in the room.
        event_seconds, event_strengths: `[E]` each.
        beat_seconds: `[P]`.
        boundary_seconds: `[J]`.
        room: what the foreground is convolved with.
        background_in_room: whether the background is, too.
        credits: recordings used.
    """

    kind: str
    library: Library
    rng: np.random.Generator
    seconds: float
    background: FloatArray = field(init=False)
    foreground: FloatArray = field(init=False)
    event_seconds: list[float] = field(default_factory=list)
    event_strengths: list[float] = field(default_factory=list)
    beat_seconds: list[float] = field(default_factory=list)
    boundary_seconds: list[float] = field(default_factory=list)
    room: Room | None = None
    background_in_room: bool = False
    credits: list[Credit] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.background = np.zeros(self.n_samples, np.float32)
        self.foreground = np.zeros(self.n_samples, np.float32)

    @property
    def n_samples(self) -> int:
        """Length in samples."""
        return round(self.seconds * SAMPLE_RATE)

    def sections(self) -> Iterator[Range]:
        """Start and end in seconds of the stretches between changes of scene."""
        return pairwise([0.0, *self.boundary_seconds, self.seconds])


def quiet_room(draft: SceneDraft) -> None:
    """Indoor tone: a real bed of the kind `room` or, through a wall, of another kind, with hiss and mains hum."""
    from scipy.signal import butter, sosfilt

    rng = draft.rng
    through_wall = rng.random() < 0.4
    kinds = ("street", "weather", "machine") if through_wall else ("room", "hall")
    clips = [clip for kind in kinds for clip in draft.library.find(kind, BED)]
    # What rattles in a quiet room would be an event that nobody placed.
    clips = [clip for clip in clips if clip.is_still] or clips
    if clips:
        bed = _bed(draft, clips)
        if through_wall:
            wall = butter(2, float(rng.uniform(200, 1000)), fs=SAMPLE_RATE, output="sos")
            bed = sosfilt(wall, bed).astype(np.float32)
        draft.background += bed / np.float32(rms(bed))
    tone = coloured_noise(rng, draft.n_samples, float(rng.uniform(0.5, 2.0)))
    draft.background += tone * np.float32(db_to_gain(rng.uniform(-16, 4)))
    if rng.random() < 0.3:
        time = np.arange(draft.n_samples, dtype=np.float32) / SAMPLE_RATE
        mains_hz = float(rng.choice((50.0, 60.0)))
        for partial in range(1, 5):
            gain = np.float32(db_to_gain(-rng.uniform(12, 30)))
            draft.background += gain * np.sin(2 * np.pi * mains_hz * partial * time + rng.uniform(0, 6))


def noisy_place(draft: SceneDraft, swell_db: Range) -> None:
    """A place that makes its own noise: other beds after each change of scene, with swells.

    Without a bed for the kind it is a quiet room.
    """
    rng, clips = draft.rng, draft.library.find(draft.kind, BED)
    # What comes and goes within a recording is no stated change of scene, and must not sound like one.
    clips = tuple(clip for clip in clips if clip.spread_db < MAX_SPREAD_DB) or clips
    if not clips:
        quiet_room(draft)
    draft.boundary_seconds = boundaries(rng, draft.seconds)
    for start, end in draft.sections() if clips else ():
        bed = _bed(draft, clips)
        if rng.random() < 0.4:
            bed = bed + _bed(draft, clips) * np.float32(db_to_gain(-rng.uniform(3, 12)))
        bed *= np.float32(1 / rms(bed))
        draft.background += bed * _window(draft, start, end) if draft.boundary_seconds else bed
    change_levels(draft)
    swelling(draft, swell_db)
    draft.room = draft.library.pick_room(rng, 0.2, 0.8) if rng.random() < 0.25 else None
    draft.background_in_room = draft.room is not None


def _bed(draft: SceneDraft, clips: Sequence[Clip]) -> FloatArray:
    """`[N]` samples of one clip, begun anywhere; a short one is repeated from other places with crossfades."""
    rng, n = draft.rng, draft.n_samples
    clip = clips[int(rng.integers(len(clips)))]
    draft.credits.append(clip.credit)
    # Long, so that a join is not taken for a change of scene.
    fade = min(int(rng.uniform(1.0, 1.6) * SAMPLE_RATE), clip.n_samples // 3)
    ramp = np.sin(np.linspace(0, np.pi / 2, fade, dtype=np.float32))
    out = np.zeros(n + clip.n_samples, np.float32)
    position = 0
    while position < n:
        latest = clip.n_samples - min(clip.n_samples, max(n - position, clip.n_samples // 2))
        start = int(rng.integers(latest + 1)) if position == 0 else int(rng.integers(clip.n_samples // 4 + 1))
        piece = draft.library.audio(clip, start)
        if position:
            piece[:fade] *= ramp
        piece[piece.size - fade :] *= ramp[::-1]
        out[position : position + piece.size] += piece
        position += piece.size - fade
    return out[:n]


def _window(draft: SceneDraft, start: float, end: float) -> FloatArray:
    """Gain curve: 1 between two changes of scene, 0 elsewhere, with edges of 50 to 250 ms centred on the changes."""
    n = draft.n_samples
    window = np.ones(n, np.float32)
    rise, fall = (round(float(width) * SAMPLE_RATE) for width in draft.rng.uniform(0.05, 0.25, 2))
    if start > 0:
        first = round(start * SAMPLE_RATE) - rise // 2
        window[:first] = 0
        window[first : first + rise] = np.sqrt(np.linspace(0, 1, rise, dtype=np.float32))
    if end < draft.seconds:
        last = round(end * SAMPLE_RATE) - fall // 2
        window[last : last + fall] = np.sqrt(np.linspace(1, 0, fall, dtype=np.float32))
        window[last + fall :] = 0
    return window


def change_levels(draft: SceneDraft, depth_db: Range = (10, 18), direction: float | None = None) -> None:
    """Let the background's level jump at every boundary, up and down by turns, and its colour with it.

    Args:
        depth_db: range of a jump.
        direction: of the first jump, 1 is up and -1 is down; drawn where it is not given.
    """
    from scipy.signal import butter, sosfilt

    rng, original = draft.rng, draft.background
    direction = float(rng.choice((-1.0, 1.0))) if direction is None else direction
    if not draft.boundary_seconds:
        return
    total = np.zeros_like(original)
    for index, (start, end) in enumerate(draft.sections()):
        gain_db, part = 0.0, original
        if index % 2:
            gain_db = direction * float(rng.uniform(*depth_db))
            # A door that opens lets the highs in; a closed one takes them away.
            low_pass = butter(1, float(rng.uniform(600, 2500)), fs=SAMPLE_RATE, output="sos")
            low = sosfilt(low_pass, original).astype(np.float32)
            part = low + (original - low) * np.float32(db_to_gain(direction * rng.uniform(6, 12)))
        total += part * np.float32(db_to_gain(gain_db)) * _window(draft, start, end)
    draft.background = total


def swelling(draft: SceneDraft, depth_db: Range) -> None:
    """Slow swells and gusts on the background."""
    step = SAMPLE_RATE // 10
    n_steps = -(-draft.n_samples // step)
    curve = swell(draft.rng, n_steps + 1, SAMPLE_RATE / step, float(draft.rng.uniform(*depth_db)))
    gain = (10 ** (curve / 20)).astype(np.float32)
    ramp = np.arange(step, dtype=np.float32) / np.float32(step)
    smooth = gain[:-1, None] + np.diff(gain)[:, None] * ramp
    draft.background *= smooth.reshape(-1)[: draft.n_samples]


def swell(rng: np.random.Generator, n: int, rate_hz: float, depth_db: float) -> FloatArray:
    """`[n]` a slow random curve in dB of about ± depth: sines with periods of 6 to 25 s."""
    time = np.arange(n) / rate_hz
    curve = np.zeros(n)
    for period in rng.uniform(6, 25, 4):
        curve += np.sin(2 * np.pi * (time / period + rng.random()))
    return (depth_db * curve / 2).astype(np.float32)


def boundaries(rng: np.random.Generator, seconds: float) -> list[float]:
    """Times of 0, 1 or 2 changes of scene, at least `MIN_SECTION_SECONDS` apart and from the ends."""
    if seconds < 3 * MIN_SECTION_SECONDS or rng.random() >= BOUNDARY_SHARE:
        return []
    count = 2 if rng.random() < 0.35 else 1
    spare = seconds - (count + 1) * MIN_SECTION_SECONDS
    offsets = np.sort(rng.uniform(0, spare, count))
    return [round(float((i + 1) * MIN_SECTION_SECONDS + offset), 3) for i, offset in enumerate(offsets)]


def walk(draft: SceneDraft, tempo_bpm: Range, above_db: Range, steady: float) -> None:
    """Put one-shots on a pulse; after a change of scene the pulse stops, changes or goes on.

    Nothing happens if the library has no one-shot for the kind; so with `scatter`.

    Args:
        draft: gets the events and beats.
        tempo_bpm: range of tempos.
        above_db: range of the events' loudest 10 ms over the background's RMS.
        steady: share of steady pulses; of the rest two thirds drift and one third is irregular.
    """
    if not draft.library.find(draft.kind, EVENT):
        return
    rng, sections = draft.rng, list(draft.sections())
    bpm, above, draw = float(rng.uniform(*tempo_bpm)), float(rng.uniform(*above_db)), rng.random()
    is_steady, is_regular = draw < steady, draw < steady + (1 - steady) * 2 / 3
    shots = _one_shots(draft)
    silent = int(rng.integers(len(sections))) if len(sections) > 1 and rng.random() < 0.5 else -1
    for index, (start, end) in enumerate(sections):
        if index:
            bpm = bpm if rng.random() < 0.5 else float(rng.uniform(*tempo_bpm))
        if index == silent:
            continue
        first = start if index else start + float(rng.uniform(0.1, 0.1 + 60 / bpm))
        beats = _pulse(rng, first, end - 0.15, bpm, is_steady, is_regular)
        if is_regular:
            draft.beat_seconds.extend(beats)
        accent = float(rng.uniform(0, 6))
        for number, beat in enumerate(beats):
            if rng.random() < 0.06 and number:
                continue
            hit = beat + float(np.clip(rng.normal(0, 0.004), -0.012, 0.012))
            gain = above - (accent if number % 2 else 0.0) - float(rng.uniform(0, 3))
            _hit(draft, shots[number % len(shots)], hit, gain, above)


def scatter(draft: SceneDraft, gap_seconds: Range, above_db: Range) -> None:
    """Put single one-shots without a pulse, `gap_seconds` apart on average."""
    if not draft.library.find(draft.kind, EVENT):
        return
    rng = draft.rng
    gap, above = float(rng.uniform(*gap_seconds)), float(rng.uniform(*above_db))
    shots = _one_shots(draft)
    time = float(rng.exponential(gap))
    while time < draft.seconds - 0.3:
        shot = shots[int(rng.integers(len(shots)))]
        _hit(draft, shot, time, above - float(rng.uniform(0, 9)), above)
        time += 0.25 + float(rng.exponential(gap))


def strike(
    draft: SceneDraft, times: DoubleArray, strengths: DoubleArray, above_db: Range, gap_seconds: Range
) -> None:
    """Put one-shots on given times, louder where these are stronger, and at least a drawn gap apart.

    Args:
        times, strengths: `[n]` seconds, ascending, and 0 to 1.
        above_db: range of the strongest events' loudest 10 ms over the background.
        gap_seconds: range of the gap.
    """
    if not draft.library.find(draft.kind, EVENT):
        return
    rng = draft.rng
    gap, above = float(rng.uniform(*gap_seconds)), float(rng.uniform(*above_db))
    shots, last = _one_shots(draft), -np.inf
    for number, (time, strength) in enumerate(zip(times, strengths, strict=True)):
        if time - last >= gap:
            quieter = 9.0 * (1.0 - float(np.clip(strength, 0.0, 1.0)))
            _hit(draft, shots[number % len(shots)], float(time), above - quieter, above)
            last = float(time)


def _pulse(
    rng: np.random.Generator, start: float, end: float, bpm: float, is_steady: bool, is_regular: bool
) -> list[float]:
    """Beat times from `start` to `end`: steady, drifting by up to a sixth of the tempo, or irregular."""
    period = 60 / bpm
    drift = float(rng.uniform(0.06, 0.17)) * float(rng.choice((-1.0, 1.0)))
    times, time = [], start
    while time < end:
        times.append(round(time, 5))
        step = period
        if not is_regular:
            step = period * float(np.clip(rng.lognormal(0, 0.45), 0.4, 2.5))
        elif not is_steady:
            step = period * (1 + drift * ((time - start) / max(end - start, 1e-6)))
        time += step
    return times


def _one_shots(draft: SceneDraft) -> list[OneShot]:
    """Up to eight one-shots of one clip, so that they sound like one cause.

    What is to stand in a room is damped to decay faster than the room, or its own recording's room, not the
    stated one, would be heard.
    """
    rng, clips = draft.rng, draft.library.find(draft.kind, EVENT)
    clip = clips[int(rng.integers(len(clips)))]
    count = min(len(clip.shots), int(rng.integers(2, 9)))
    decay_seconds = 0.5 * draft.room.rt60_seconds if draft.room else np.inf
    shots = []
    for index in rng.choice(len(clip.shots), count, replace=False):
        shot = clip.shots[int(index)]
        samples = draft.library.shot(clip, shot)
        time = np.maximum(np.arange(samples.size, dtype=np.float32) - shot.attack, 0) / SAMPLE_RATE
        damping = (10 ** (-3 * time / max(0.08, decay_seconds))).astype(np.float32)
        shots.append((clip, samples * damping, shot.attack))
    return shots


def _hit(draft: SceneDraft, shot: OneShot, time: float, above_db: float, loudest_db: float) -> None:
    """Add a one-shot whose onset is at `time`, its level `above_db` over the background there, and note it."""
    clip, samples, attack = shot
    n = draft.n_samples
    onset = round(time * SAMPLE_RATE)
    if not 0 <= onset < n - SAMPLE_RATE // 10:
        return
    around = rms(draft.background[max(0, onset - SAMPLE_RATE // 10) : onset + SAMPLE_RATE // 10])
    # Louder where the background is loud, though not by as much: a step does not follow the traffic.
    loudest = (0.5 * around + 0.5 * rms(draft.background)) * db_to_gain(above_db)
    if loudest < around * db_to_gain(AUDIBLE_DB):
        return
    start = max(0, onset - attack)
    piece = samples[max(0, attack - onset) :][: n - start]
    draft.foreground[start : start + piece.size] += piece * np.float32(loudest)
    draft.credits.append(clip.credit)
    draft.event_seconds.append(onset / SAMPLE_RATE)
    draft.event_strengths.append(float(np.clip(1 + (above_db - loudest_db) / 24, 0.05, 1.0)))


def take_notes(
    draft: SceneDraft, arrangement: Arrangement, onsets: DoubleArray, strengths: DoubleArray
) -> None:
    """Take events, beats and boundaries from an arrangement; onsets within 30 ms are one event, the strongest."""
    inside = (onsets >= 0) & (onsets < arrangement.seconds - 0.05)
    for index in np.flatnonzero(inside)[np.argsort(onsets[inside], kind="stable")]:
        time, strength = float(onsets[index]), float(np.clip(strengths[index], 0.05, 1))
        if draft.event_seconds and time - draft.event_seconds[-1] < 0.03:
            draft.event_strengths[-1] = max(strength, draft.event_strengths[-1])
        else:
            draft.event_seconds.append(time)
            draft.event_strengths.append(strength)
    draft.beat_seconds = [float(t) for t in arrangement.beat_seconds]
    draft.boundary_seconds = [float(t) for t in arrangement.boundary_seconds]
