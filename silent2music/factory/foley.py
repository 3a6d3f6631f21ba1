"""The parts that a scene is sketched with: beds, swells, changes of scene, one-shots on a pulse or scattered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from silent2music.audio import FloatArray, db_to_gain
from silent2music.factory.arrangement import Arrangement
from silent2music.factory.chain import coloured_noise, fitted, rms
from silent2music.factory.rooms import SAMPLE_RATE
from silent2music.factory.sources import BED, EVENT, Clip, Credit, Library, Room

MIN_SECTION_SECONDS = 8.0
BOUNDARY_SHARE = 0.35
"""Share of the scenes of 24 s and more in which the scene changes once or twice."""

MAX_SPREAD_DB = 4.5
"""Beds of a place are at most this uneven, as far as there are such; see `Clip.spread_db`."""

AUDIBLE_DB = 6.0
"""An event counts as audible if its loudest 10 ms stand this far above the RMS around it."""


@dataclass
class Sketch:
    """A scene in the making, before room and recording chain; levels are relative.

    Attributes:
        background: `[N]` beds, with their swells and steps of level.
        foreground: `[N]` one-shots, or what else comes from a place in the room.
        event_seconds, event_strengths: `[E]` each.
        beat_seconds: `[P]`.
        boundary_seconds: `[J]`.
        room: what the foreground is convolved with.
        background_in_room: whether the background is, too.
        credits: recordings used.
    """

    background: FloatArray
    foreground: FloatArray
    event_seconds: list[float] = field(default_factory=list)
    event_strengths: list[float] = field(default_factory=list)
    beat_seconds: list[float] = field(default_factory=list)
    boundary_seconds: list[float] = field(default_factory=list)
    room: Room | None = None
    background_in_room: bool = False
    credits: list[Credit] = field(default_factory=list)


def quiet_room(library: Library, rng: np.random.Generator, n: int) -> Sketch:
    """Indoor tone: a real bed of the kind `room` or, through a wall, of another kind, with hiss and mains hum."""
    from scipy.signal import butter, sosfilt

    sketch = Sketch(np.zeros(n, np.float32), np.zeros(n, np.float32))
    through_wall = rng.random() < 0.4
    kinds = ("street", "weather", "machine") if through_wall else ("room", "hall")
    clips = [clip for kind in kinds for clip in library.find(kind, BED)]
    # What rattles in a quiet room would be an event that nobody placed.
    clips = [clip for clip in clips if clip.is_still] or clips
    if clips:
        bed = _bed(sketch, library, rng, clips, n)
        if through_wall:
            wall = butter(2, float(rng.uniform(200, 1000)), fs=SAMPLE_RATE, output="sos")
            bed = sosfilt(wall, bed).astype(np.float32)
        sketch.background += bed / np.float32(rms(bed))
    tone = coloured_noise(rng, n, float(rng.uniform(0.5, 2.0)))
    sketch.background += tone * np.float32(db_to_gain(rng.uniform(-16, 4)))
    if rng.random() < 0.3:
        time = np.arange(n, dtype=np.float32) / SAMPLE_RATE
        mains_hz = float(rng.choice((50.0, 60.0)))
        for partial in range(1, 5):
            gain = db_to_gain(-rng.uniform(12, 30))
            sketch.background += np.float32(gain) * np.sin(
                2 * np.pi * mains_hz * partial * time + rng.uniform(0, 6)
            )
    return sketch


def place(
    library: Library,
    rng: np.random.Generator,
    kind: str,
    seconds: float,
    depth_db: tuple[float, float],
    swell_db: tuple[float, float],
) -> Sketch:
    """A place that makes its own noise: other beds after each change of scene, with swells.

    Without a bed for the kind it is a quiet room.
    """
    n, clips = n_samples(seconds), library.find(kind, BED)
    # What comes and goes within a recording is no stated change of scene, and must not sound like one.
    clips = tuple(clip for clip in clips if clip.spread_db < MAX_SPREAD_DB) or clips
    sketch = (
        Sketch(np.zeros(n, np.float32), np.zeros(n, np.float32)) if clips else quiet_room(library, rng, n)
    )
    sketch.boundary_seconds = boundaries(rng, seconds)
    for start, end in pairwise([0.0, *sketch.boundary_seconds, seconds]) if clips else ():
        bed = _bed(sketch, library, rng, clips, n)
        if rng.random() < 0.4:
            bed = bed + _bed(sketch, library, rng, clips, n) * np.float32(db_to_gain(-rng.uniform(3, 12)))
        sketch.background += bed / np.float32(rms(bed)) * _window(rng, n, start, end, seconds)
    change_levels(sketch, rng, depth_db)
    swelling(sketch, rng, swell_db)
    sketch.room = pick_room(library, rng, 0.2, 0.8) if rng.random() < 0.25 else None
    sketch.background_in_room = sketch.room is not None
    return sketch


def _bed(
    sketch: Sketch, library: Library, rng: np.random.Generator, clips: Sequence[Clip], n: int
) -> FloatArray:
    """`[n]` samples of one clip, begun anywhere; a short one is repeated from other places with crossfades."""
    clip = clips[int(rng.integers(len(clips)))]
    sketch.credits.append(clip.credit)
    # Long, so that a join is not taken for a change of scene.
    fade = min(int(rng.uniform(1.0, 1.6) * SAMPLE_RATE), clip.n_samples // 3)
    ramp = np.sin(np.linspace(0, np.pi / 2, fade, dtype=np.float32))
    out = np.zeros(n + clip.n_samples, np.float32)
    position = 0
    while position < n:
        latest = clip.n_samples - min(clip.n_samples, max(n - position, clip.n_samples // 2))
        start = int(rng.integers(latest + 1)) if position == 0 else int(rng.integers(clip.n_samples // 4 + 1))
        piece = library.audio(clip, start)
        if position:
            piece[:fade] *= ramp
        piece[piece.size - fade :] *= ramp[::-1]
        out[position : position + piece.size] += piece
        position += piece.size - fade
    return out[:n] if position >= n else fitted(out, n)


def _window(rng: np.random.Generator, n: int, start: float, end: float, seconds: float) -> FloatArray:
    """1 between two changes of scene, 0 elsewhere, with edges of 50 to 250 ms centred on the changes."""
    time = np.arange(n, dtype=np.float32) / SAMPLE_RATE
    rise, fall = rng.uniform(0.05, 0.25, 2)
    opened = np.clip((time - start) / rise + 0.5, 0, 1) if start > 0 else np.ones(n, np.float32)
    closed = np.clip((end - time) / fall + 0.5, 0, 1) if end < seconds else np.ones(n, np.float32)
    return np.sqrt(opened * closed).astype(np.float32)


def change_levels(
    sketch: Sketch, rng: np.random.Generator, depth_db: tuple[float, float], direction: float | None = None
) -> None:
    """Let the background's level jump at every boundary, up and down by turns, and its colour with it.

    Args:
        sketch: whose background it is.
        rng: decides depths, colours and, where it is not given, the first direction.
        depth_db: range of a jump.
        direction: of the first jump, 1 is up and -1 is down.
    """
    from scipy.signal import butter, sosfilt

    n = sketch.background.size
    edges = [0.0, *sketch.boundary_seconds, n / SAMPLE_RATE]
    direction = float(rng.choice((-1.0, 1.0))) if direction is None else direction
    original, total = sketch.background, np.zeros(n, np.float32)
    for index, (start, end) in enumerate(pairwise(edges)):
        gain_db = 0.0 if index % 2 == 0 else direction * float(rng.uniform(*depth_db))
        part = original
        if index % 2:
            # A door that opens lets the highs in; a closed one takes them away.
            cutoff_hz = float(rng.uniform(600, 2500))
            low = sosfilt(butter(1, cutoff_hz, fs=SAMPLE_RATE, output="sos"), original).astype(np.float32)
            part = low + (original - low) * np.float32(db_to_gain(direction * rng.uniform(6, 12)))
        total += part * np.float32(db_to_gain(gain_db)) * _window(rng, n, start, end, n / SAMPLE_RATE)
    sketch.background = total


def swelling(sketch: Sketch, rng: np.random.Generator, depth_db: tuple[float, float]) -> None:
    """Slow swells and gusts on the background."""
    n = sketch.background.size
    points = max(8, n // 2400)
    curve = swell(rng, points, points / (n / SAMPLE_RATE), float(rng.uniform(*depth_db)))
    smooth = np.interp(np.linspace(0, points - 1, n), np.arange(points), curve)
    sketch.background *= (10 ** (smooth / 20)).astype(np.float32)


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


def walk(
    sketch: Sketch,
    library: Library,
    rng: np.random.Generator,
    kind: str,
    tempo_bpm: tuple[float, float],
    above_db: tuple[float, float],
    steady: float,
) -> None:
    """Put one-shots on a pulse; after a change of scene the pulse stops, changes or goes on.

    Nothing happens if the library has no one-shot for the kind; so with `scatter`.

    Args:
        sketch: gets the events and beats.
        library: for the one-shots.
        rng: decides everything.
        kind: whose one-shots.
        tempo_bpm: range of tempos.
        above_db: range of the events' loudest 10 ms over the background's RMS.
        steady: share of steady pulses; of the rest two thirds drift and one third is irregular.
    """
    seconds = sketch.background.size / SAMPLE_RATE
    if not library.find(kind, EVENT):
        return
    edges = [0.0, *sketch.boundary_seconds, seconds]
    bpm = float(rng.uniform(*tempo_bpm))
    above = float(rng.uniform(*above_db))
    draw = rng.random()
    manner = (
        "steady" if draw < steady else "drifting" if draw < steady + (1 - steady) * 2 / 3 else "irregular"
    )
    shots = _walker(sketch, library, rng, kind)
    silent = int(rng.integers(len(edges) - 1)) if len(edges) > 2 and rng.random() < 0.5 else -1
    for index, (start, end) in enumerate(pairwise(edges)):
        if index:
            bpm = bpm if rng.random() < 0.5 else float(rng.uniform(*tempo_bpm))
        if index == silent:
            continue
        first = start if index else start + float(rng.uniform(0.1, 0.1 + 60 / bpm))
        beats = _pulse(rng, first, end - 0.15, bpm, manner)
        if manner != "irregular":
            sketch.beat_seconds.extend(beats)
        accent = float(rng.uniform(0, 6))
        for number, beat in enumerate(beats):
            if rng.random() < 0.06 and number:
                continue
            hit = beat + float(np.clip(rng.normal(0, 0.004), -0.012, 0.012))
            gain = above - (accent if number % 2 else 0.0) - float(rng.uniform(0, 3))
            _hit(sketch, library, shots[number % len(shots)], hit, gain, above, rng)


def scatter(
    sketch: Sketch,
    library: Library,
    rng: np.random.Generator,
    kind: str,
    gap_seconds: tuple[float, float],
    above_db: tuple[float, float],
) -> None:
    """Put single one-shots without a pulse, `gap_seconds` apart on average."""
    seconds = sketch.background.size / SAMPLE_RATE
    if not library.find(kind, EVENT):
        return
    gap, above = float(rng.uniform(*gap_seconds)), float(rng.uniform(*above_db))
    shots = _walker(sketch, library, rng, kind)
    time = float(rng.exponential(gap))
    while time < seconds - 0.3:
        shot = shots[int(rng.integers(len(shots)))]
        _hit(sketch, library, shot, time, above - float(rng.uniform(0, 9)), above, rng)
        time += 0.25 + float(rng.exponential(gap))


def _pulse(rng: np.random.Generator, start: float, end: float, bpm: float, manner: str) -> list[float]:
    """Beat times from `start` to `end`: steady, drifting by up to a sixth of the tempo, or irregular."""
    period = 60 / bpm
    drift = float(rng.uniform(0.06, 0.17)) * float(rng.choice((-1.0, 1.0)))
    times, time = [], start
    while time < end:
        times.append(round(time, 5))
        progress = (time - start) / max(end - start, 1e-6)
        if manner == "steady":
            step = period
        elif manner == "drifting":
            step = period * (1 + drift * progress)
        else:
            step = period * float(np.clip(rng.lognormal(0, 0.45), 0.4, 2.5))
        time += step
    return times


def _walker(
    sketch: Sketch, library: Library, rng: np.random.Generator, kind: str
) -> list[tuple[Clip, FloatArray, int]]:
    """Up to eight one-shots of one clip, so that they sound like one cause: (clip, samples, attack).

    What is to stand in a room is damped to decay faster than the room, or its own recording's room, not the
    stated one, would be heard.
    """
    clips = library.find(kind, EVENT)
    clip = clips[int(rng.integers(len(clips)))]
    count = min(len(clip.shots), int(rng.integers(2, 9)))
    chosen = rng.choice(len(clip.shots), count, replace=False)
    decay_seconds = 0.5 * sketch.room.rt60_seconds if sketch.room else np.inf
    shots = []
    for shot in (clip.shots[int(i)] for i in chosen):
        samples = library.shot(clip, shot)
        time = np.maximum(np.arange(samples.size, dtype=np.float32) - shot.attack, 0) / SAMPLE_RATE
        shots.append(
            (clip, samples * (10 ** (-3 * time / max(0.08, decay_seconds))).astype(np.float32), shot.attack)
        )
    return shots


def _hit(
    sketch: Sketch,
    library: Library,
    shot: tuple[Clip, FloatArray, int],
    time: float,
    above_db: float,
    loudest_db: float,
    rng: np.random.Generator,
) -> None:
    """Add a one-shot whose onset is at `time`, its level `above_db` over the background there, and note it."""
    clip, samples, attack = shot
    n = sketch.foreground.size
    onset = round(time * SAMPLE_RATE)
    start = onset - attack
    if not 0 <= onset < n - SAMPLE_RATE // 10:
        return
    around = sketch.background[max(0, onset - SAMPLE_RATE // 10) : onset + SAMPLE_RATE // 10]
    # Louder where the background is loud, though not by as much: a step does not follow the traffic.
    level = 0.5 * rms(around) + 0.5 * rms(sketch.background)
    loudest = level * db_to_gain(above_db)
    if loudest < rms(around) * db_to_gain(AUDIBLE_DB):
        return
    skipped = max(0, -start)
    piece = samples[skipped : skipped + n - max(0, start)]
    sketch.foreground[max(0, start) : max(0, start) + piece.size] += piece * np.float32(loudest)
    if clip.credit not in sketch.credits:
        sketch.credits.append(clip.credit)
    sketch.event_seconds.append(onset / SAMPLE_RATE)
    sketch.event_strengths.append(float(np.clip(1 + (above_db - loudest_db) / 24, 0.05, 1.0)))


def take_notes(
    sketch: Sketch, arrangement: Arrangement, onsets: NDArray[np.float64], strengths: NDArray[np.float64]
) -> None:
    """Take events, beats and boundaries from an arrangement; onsets within 30 ms are one event, the strongest."""
    inside = (onsets >= 0) & (onsets < arrangement.seconds - 0.05)
    for index in np.flatnonzero(inside)[np.argsort(onsets[inside], kind="stable")]:
        time, strength = float(onsets[index]), float(np.clip(strengths[index], 0.05, 1))
        if sketch.event_seconds and time - sketch.event_seconds[-1] < 0.03:
            sketch.event_strengths[-1] = max(strength, sketch.event_strengths[-1])
        else:
            sketch.event_seconds.append(time)
            sketch.event_strengths.append(strength)
    sketch.beat_seconds = [float(t) for t in arrangement.beat_seconds]
    sketch.boundary_seconds = [float(t) for t in arrangement.boundary_seconds]


def pick_room(library: Library, rng: np.random.Generator, shortest: float, longest: float) -> Room | None:
    """A room whose RT60 lies in the range: a measured one in two of five cases, if there is one."""
    rooms = [r for r in library.rooms if shortest <= r.rt60_seconds <= longest]
    measured = [r for r in rooms if r.credit is not None]
    simulated = [r for r in rooms if r.credit is None]
    pool = measured if measured and (not simulated or rng.random() < 0.4) else simulated
    return pool[int(rng.integers(len(pool)))] if pool else None


def n_samples(seconds: float) -> int:
    """Samples in a duration."""
    return round(seconds * SAMPLE_RATE)
