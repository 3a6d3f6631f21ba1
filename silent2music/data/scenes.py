"""The silent side of a pair: near-silent scenes put together from real recordings, with their ground truth.

A scene kind is a function that sketches a scene: beds and one-shots of the library on a time axis with a pulse
and changes of scene. `KINDS` holds those that come before the music, `FROM_MUSIC` those that are made from an
arrangement. What all have in common happens afterwards, in the order of a real recording: the room, the
recording chain, the level, the microphone's own noise, 16-bit steps. Levels and energy are measured on the
result.

A new kind is one function here and one line in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from silent2music.audio import FLOOR_DBFS, FloatArray, Waveform, db_to_gain, rms_dbfs
from silent2music.data.muted import mechanical_noise
from silent2music.data.plan import ENERGY_RATE_HZ, Arrangement, SceneTruth
from silent2music.data.sources import BED, EVENT, SAMPLE_RATE, Clip, Credit, Library, Room
from silent2music.errors import DataError

Times = NDArray[np.float64]

MIN_SECTION_SECONDS = 8.0
BOUNDARY_SHARE = 0.35
"""Share of the scenes of 24 s and more in which the scene changes once or twice."""

AUDIBLE_DB = 6.0
"""An event counts as audible if its loudest 10 ms stand this far above the RMS around it."""


@dataclass(frozen=True)
class Scene:
    """The silent side of a pair.

    Attributes:
        audio: mono, 24 kHz, in 16-bit steps.
        truth: what is known because it was made so.
        sources: credits of all recordings used, in order of path.
        room_response: `[N]` the response that the scene was convolved with, or None.
        room_credit: its credit, or None for a simulated room.
    """

    audio: Waveform
    truth: SceneTruth
    sources: tuple[Credit, ...]
    room_response: FloatArray | None = None
    room_credit: Credit | None = None


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


@dataclass(frozen=True)
class Levels:
    """How loud the silent side is, and how much its recording chain varies.

    Attributes:
        min_dbfs, max_dbfs: range of the RMS of a whole scene.
        chain: probability of each augmentation of the recording chain.
    """

    min_dbfs: float = -75.0
    max_dbfs: float = -40.0
    chain: float = 0.35


def make_scene(
    kind: str, library: Library, rng: np.random.Generator, seconds: float, levels: Levels | None = None
) -> Scene:
    """Make a scene of one of `KINDS`.

    Args:
        kind: name of the kind.
        library: of the split that the pair belongs to.
        rng: decides everything.
        seconds: duration.
        levels: range of levels and strength of the recording chain.

    Raises:
        DataError: if the kind is unknown or the library has nothing for it.
    """
    if kind not in KINDS:
        raise DataError(f"Scene kind '{kind}' is unknown; expected one of {', '.join(KINDS)}.")
    return _record(kind, KINDS[kind](library, rng, seconds), rng, levels or Levels())


def muted_scene(
    arrangement: Arrangement, library: Library, rng: np.random.Generator, levels: Levels | None = None
) -> Scene:
    """The mechanical noise of the arrangement's instruments played silently, in a small, quiet room."""
    n = _n_samples(arrangement.seconds)
    noise, onsets, strengths = mechanical_noise(arrangement.parts, n, rng)
    loudness = float(np.sqrt(np.mean(np.square(noise)))) + 1e-9
    sketch = _quiet_room(library, rng, n)
    # The noise of playing is what is heard; the room tone lies 10 to 26 dB under its mean level.
    sketch.background *= np.float32(loudness * db_to_gain(-rng.uniform(10, 26)) / _rms(sketch.background))
    sketch.foreground = noise
    _from_notes(sketch, arrangement, onsets, strengths)
    _change_levels(sketch, rng, depth_db=(8, 15))
    sketch.room = _pick_room(library, rng, 0.2, 1.2)
    return _record("muted", sketch, rng, levels or Levels())


def leak_scene(
    arrangement: Arrangement,
    music: Waveform,
    library: Library,
    rng: np.random.Generator,
    levels: Levels | None = None,
) -> Scene:
    """The music through a wall: low-passed, 45 to 65 dB down, under the room's own noise.

    Args:
        arrangement: of the music.
        music: rendered, any channel count; its rate is 24 kHz.
        library: of the split.
        rng: decides everything.
        levels: range of levels.
    """
    from scipy.signal import butter, sosfilt

    n = _n_samples(arrangement.seconds)
    cutoff_hz = float(rng.uniform(250, 900))
    low_pass = butter(3, cutoff_hz, fs=SAMPLE_RATE, output="sos")
    leaked = sosfilt(low_pass, _fitted(music.mono().samples[0], n)).astype(np.float32)
    leaked *= np.float32(db_to_gain(-rng.uniform(45, 65)))
    sketch = _quiet_room(library, rng, n)
    sketch.background *= np.float32(
        (_rms(leaked) + 1e-6) * db_to_gain(rng.uniform(-6, 9)) / _rms(sketch.background)
    )
    sketch.foreground = leaked
    heard = [part for part in arrangement.parts if not part.is_drum]
    # A note is heard through the wall if its fundamental, or at least a low partial's neighbour, comes through.
    highest = 69 + 12 * np.log2(cutoff_hz * 1.5 / 440)
    low = [np.asarray(part.pitches) <= highest for part in heard]
    starts = np.concatenate(
        [part.start_seconds[m] for part, m in zip(heard, low, strict=True)] or [np.zeros(0)]
    )
    velocities = np.concatenate(
        [part.velocities[m] for part, m in zip(heard, low, strict=True)] or [np.zeros(0)]
    )
    _from_notes(sketch, arrangement, starts, velocities / 127)
    _change_levels(sketch, rng, depth_db=(8, 15))
    level_dbfs = rms_dbfs(sketch.background[None] + leaked[None])
    return _record("leak", sketch, rng, levels or Levels(), level_dbfs=level_dbfs)


def free_truth(kind: str, rng: np.random.Generator, seconds: float) -> SceneTruth:
    """A truth without a scene, for the kinds that come after the music: an energy curve to play to, no more."""
    n = round(seconds * ENERGY_RATE_HZ)
    boundaries = _boundaries(rng, seconds)
    energy = -50 + _swell(rng, n, ENERGY_RATE_HZ, float(rng.uniform(2, 6)))
    for time in boundaries:
        energy[round(time * ENERGY_RATE_HZ) :] += rng.choice((-1.0, 1.0)) * rng.uniform(4, 8)
    return SceneTruth(
        kind,
        seconds,
        boundary_seconds=np.array(boundaries),
        energy_db=energy.astype(np.float64),
        level_dbfs=-50.0,
    )


# --- the kinds -----------------------------------------------------------------------------------------------


def room(library: Library, rng: np.random.Generator, seconds: float) -> Sketch:
    """A quiet indoor tone; at times a clock, at times a door or a rustle."""
    sketch = _quiet_room(library, rng, _n_samples(seconds))
    sketch.room = _pick_room(library, rng, 0.2, 1.0)
    sketch.boundary_seconds = _boundaries(rng, seconds)
    _change_levels(sketch, rng, depth_db=(10, 18))
    _swelling(sketch, rng, (1, 4))
    if rng.random() < 0.4:
        _walk(sketch, library, rng, "room", tempo_bpm=(50, 126), above_db=(10, 22), steady=0.9)
    else:
        _scatter(sketch, library, rng, "room", gap_seconds=(3, 9), above_db=(12, 26))
    return sketch


def hall(library: Library, rng: np.random.Generator, seconds: float) -> Sketch:
    """A large, empty space: little happens, and it rings for long."""
    sketch = _quiet_room(library, rng, _n_samples(seconds))
    walked = rng.random() < 0.25
    # Steps in the longest reverberation drown in their own echoes.
    sketch.room = _pick_room(library, rng, 1.2, 2.4 if walked else 4.0)
    sketch.background_in_room = True
    sketch.boundary_seconds = _boundaries(rng, seconds)
    _change_levels(sketch, rng, depth_db=(10, 18))
    _swelling(sketch, rng, (1, 4))
    if walked:
        _walk(sketch, library, rng, "hall", tempo_bpm=(46, 84), above_db=(14, 28), steady=0.8)
    else:
        _scatter(sketch, library, rng, "hall", gap_seconds=(2.5, 8), above_db=(16, 32))
    return sketch


def steps(library: Library, rng: np.random.Generator, seconds: float) -> Sketch:
    """Footsteps, knocks, ticks, tools on a steady, drifting or irregular pulse; the walker may stop or change."""
    sketch = _quiet_room(library, rng, _n_samples(seconds))
    sketch.room = _pick_room(library, rng, 0.2, 2.2)
    sketch.boundary_seconds = _boundaries(rng, seconds)
    _change_levels(sketch, rng, depth_db=(8, 15))
    _swelling(sketch, rng, (1, 3))
    _walk(sketch, library, rng, "steps", tempo_bpm=(50, 140), above_db=(14, 30), steady=0.7)
    return sketch


def street(library: Library, rng: np.random.Generator, seconds: float) -> Sketch:
    """Busy: traffic, voices, passers-by, swelling and ebbing."""
    sketch = _place(library, rng, "street", seconds, depth_db=(9, 16), swell_db=(3, 8))
    if rng.random() < 0.5:
        _walk(sketch, library, rng, "street", tempo_bpm=(80, 130), above_db=(10, 20), steady=0.6)
    else:
        _scatter(sketch, library, rng, "street", gap_seconds=(1, 4), above_db=(10, 22))
    return sketch


def weather(library: Library, rng: np.random.Generator, seconds: float) -> Sketch:
    """Rain, wind, sea, fire: gusts and waves, now and then a single sound."""
    sketch = _place(library, rng, "weather", seconds, depth_db=(9, 17), swell_db=(4, 9))
    if rng.random() < 0.6:
        _scatter(sketch, library, rng, "weather", gap_seconds=(2, 7), above_db=(10, 22))
    return sketch


def machine(library: Library, rng: np.random.Generator, seconds: float) -> Sketch:
    """Train, engine, fan: an even bed that starts, stops or changes speed, at times with a beat of its own."""
    sketch = _place(library, rng, "machine", seconds, depth_db=(9, 16), swell_db=(2, 7))
    if rng.random() < 0.5:
        _walk(sketch, library, rng, "machine", tempo_bpm=(60, 140), above_db=(10, 20), steady=0.95)
    return sketch


KINDS: dict[str, Callable[[Library, np.random.Generator, float], Sketch]] = {
    "room": room,
    "hall": hall,
    "steps": steps,
    "street": street,
    "weather": weather,
    "machine": machine,
}
"""Kinds that are made before the music."""

FROM_MUSIC = ("muted", "leak")
"""Kinds that are made from the arrangement, see `muted_scene` and `leak_scene`."""


# --- beds ----------------------------------------------------------------------------------------------------


def _quiet_room(library: Library, rng: np.random.Generator, n: int) -> Sketch:
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
        sketch.background += bed / np.float32(_rms(bed))
    tone = _coloured_noise(rng, n, float(rng.uniform(0.5, 2.0)))
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


def _place(
    library: Library,
    rng: np.random.Generator,
    kind: str,
    seconds: float,
    depth_db: tuple[float, float],
    swell_db: tuple[float, float],
) -> Sketch:
    """A place that makes its own noise: other beds after each change of scene, with swells."""
    n = _n_samples(seconds)
    sketch = Sketch(
        np.zeros(n, np.float32), np.zeros(n, np.float32), boundary_seconds=_boundaries(rng, seconds)
    )
    clips = library.find(kind, BED)
    if not clips:
        raise DataError(
            f"The library holds no bed for '{kind}'; add a recording or take the kind out of the mix."
        )
    edges = [0.0, *sketch.boundary_seconds, seconds]
    for start, end in zip(edges, edges[1:], strict=False):
        bed = _bed(sketch, library, rng, clips, n)
        if rng.random() < 0.4:
            bed = bed + _bed(sketch, library, rng, clips, n) * np.float32(db_to_gain(-rng.uniform(3, 12)))
        sketch.background += bed / np.float32(_rms(bed)) * _window(rng, n, start, end, seconds)
    _change_levels(sketch, rng, depth_db)
    _swelling(sketch, rng, swell_db)
    sketch.room = _pick_room(library, rng, 0.2, 0.8) if rng.random() < 0.25 else None
    sketch.background_in_room = sketch.room is not None
    return sketch


def _bed(
    sketch: Sketch, library: Library, rng: np.random.Generator, clips: Sequence[Clip], n: int
) -> FloatArray:
    """`[n]` samples of one clip, begun anywhere; a short one is repeated from other places with crossfades."""
    clip = clips[int(rng.integers(len(clips)))]
    sketch.credits.append(clip.credit)
    fade = min(int(rng.uniform(0.3, 0.8) * SAMPLE_RATE), clip.n_samples // 4)
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
    return out[:n] if position >= n else _fitted(out, n)


def _window(rng: np.random.Generator, n: int, start: float, end: float, seconds: float) -> FloatArray:
    """1 between two changes of scene, 0 elsewhere, with edges of 50 to 250 ms centred on the changes."""
    time = np.arange(n, dtype=np.float32) / SAMPLE_RATE
    rise, fall = rng.uniform(0.05, 0.25, 2)
    opened = np.clip((time - start) / rise + 0.5, 0, 1) if start > 0 else np.ones(n, np.float32)
    closed = np.clip((end - time) / fall + 0.5, 0, 1) if end < seconds else np.ones(n, np.float32)
    return np.sqrt(opened * closed).astype(np.float32)


def _change_levels(sketch: Sketch, rng: np.random.Generator, depth_db: tuple[float, float]) -> None:
    """Let the background's level jump at every boundary, up and down by turns, and its colour with it."""
    from scipy.signal import butter, sosfilt

    n = sketch.background.size
    edges = [0.0, *sketch.boundary_seconds, n / SAMPLE_RATE]
    direction = rng.choice((-1.0, 1.0))
    original, total = sketch.background, np.zeros(n, np.float32)
    for index, (start, end) in enumerate(zip(edges, edges[1:], strict=False)):
        gain_db = 0.0 if index % 2 == 0 else direction * float(rng.uniform(*depth_db))
        part = original
        if index % 2:
            # A door that opens lets the highs in; a closed one takes them away.
            cutoff_hz = float(rng.uniform(600, 2500))
            low = sosfilt(butter(1, cutoff_hz, fs=SAMPLE_RATE, output="sos"), original).astype(np.float32)
            part = low + (original - low) * np.float32(db_to_gain(direction * rng.uniform(6, 12)))
        total += part * np.float32(db_to_gain(gain_db)) * _window(rng, n, start, end, n / SAMPLE_RATE)
    sketch.background = total


def _swelling(sketch: Sketch, rng: np.random.Generator, depth_db: tuple[float, float]) -> None:
    """Slow swells and gusts on the background."""
    n = sketch.background.size
    points = max(8, n // 2400)
    curve = _swell(rng, points, points / (n / SAMPLE_RATE), float(rng.uniform(*depth_db)))
    smooth = np.interp(np.linspace(0, points - 1, n), np.arange(points), curve)
    sketch.background *= (10 ** (smooth / 20)).astype(np.float32)


def _swell(rng: np.random.Generator, n: int, rate_hz: float, depth_db: float) -> FloatArray:
    """`[n]` a slow random curve in dB of about ± depth: sines with periods of 4 to 25 s."""
    time = np.arange(n) / rate_hz
    curve = np.zeros(n)
    for period in rng.uniform(4, 25, 4):
        curve += np.sin(2 * np.pi * (time / period + rng.random()))
    return (depth_db * curve / 2).astype(np.float32)


def _coloured_noise(rng: np.random.Generator, n: int, slope: float) -> FloatArray:
    """`[n]` Gaussian noise of RMS 1 whose power falls with frequency to the power of `slope`, flat under 40 Hz."""
    from scipy.fft import irfft, next_fast_len, rfft, rfftfreq

    size = next_fast_len(n, real=True)
    spectrum = rfft(rng.standard_normal(size, dtype=np.float32))
    shape = np.maximum(rfftfreq(size, 1 / SAMPLE_RATE), 40.0) ** (-slope / 2)
    noise = irfft(spectrum * shape.astype(np.float32), size)[:n].astype(np.float32)
    return np.asarray(noise / np.float32(_rms(noise)))


# --- events --------------------------------------------------------------------------------------------------


def _boundaries(rng: np.random.Generator, seconds: float) -> list[float]:
    """Times of 0, 1 or 2 changes of scene, at least `MIN_SECTION_SECONDS` apart and from the ends."""
    if seconds < 3 * MIN_SECTION_SECONDS or rng.random() >= BOUNDARY_SHARE:
        return []
    count = 2 if rng.random() < 0.35 else 1
    spare = seconds - (count + 1) * MIN_SECTION_SECONDS
    offsets = np.sort(rng.uniform(0, spare, count))
    return [round(float((i + 1) * MIN_SECTION_SECONDS + offset), 3) for i, offset in enumerate(offsets)]


def _walk(
    sketch: Sketch,
    library: Library,
    rng: np.random.Generator,
    kind: str,
    tempo_bpm: tuple[float, float],
    above_db: tuple[float, float],
    steady: float,
) -> None:
    """Put one-shots on a pulse; after a change of scene the pulse stops, changes or goes on.

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
    edges = [0.0, *sketch.boundary_seconds, seconds]
    bpm = float(rng.uniform(*tempo_bpm))
    above = float(rng.uniform(*above_db))
    draw = rng.random()
    manner = (
        "steady" if draw < steady else "drifting" if draw < steady + (1 - steady) * 2 / 3 else "irregular"
    )
    shots = _walker(sketch, library, rng, kind)
    silent = int(rng.integers(len(edges) - 1)) if len(edges) > 2 and rng.random() < 0.5 else -1
    for index, (start, end) in enumerate(zip(edges, edges[1:], strict=False)):
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


def _scatter(
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
    if not clips:
        raise DataError(
            f"The library holds no event for '{kind}'; add a recording or take the kind out of the mix."
        )
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
    level = 0.5 * _rms(around) + 0.5 * _rms(sketch.background)
    loudest = level * db_to_gain(above_db)
    if loudest < _rms(around) * db_to_gain(AUDIBLE_DB):
        return
    skipped = max(0, -start)
    piece = samples[skipped : skipped + n - max(0, start)]
    sketch.foreground[max(0, start) : max(0, start) + piece.size] += piece * np.float32(loudest)
    if clip.credit not in sketch.credits:
        sketch.credits.append(clip.credit)
    sketch.event_seconds.append(onset / SAMPLE_RATE)
    sketch.event_strengths.append(float(np.clip(1 + (above_db - loudest_db) / 24, 0.05, 1.0)))


def _from_notes(
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


def _pick_room(library: Library, rng: np.random.Generator, shortest: float, longest: float) -> Room | None:
    """A room whose RT60 lies in the range: a measured one in two of five cases, if there is one."""
    rooms = [r for r in library.rooms if shortest <= r.rt60_seconds <= longest]
    measured = [r for r in rooms if r.credit is not None]
    simulated = [r for r in rooms if r.credit is None]
    pool = measured if measured and (not simulated or rng.random() < 0.4) else simulated
    return pool[int(rng.integers(len(pool)))] if pool else None


# --- from the sketch to the recording ------------------------------------------------------------------------


def _record(
    kind: str,
    sketch: Sketch,
    rng: np.random.Generator,
    levels: Levels,
    level_dbfs: float | None = None,
) -> Scene:
    """Room, recording chain, level, self-noise and 16-bit steps; then measure what came out.

    `level_dbfs` is the level that the sketch already has in truth, moved only as far as the range demands.
    """
    mixed = _in_room(sketch)
    mixed = _recording_chain(mixed, rng, levels.chain)
    low, high = levels.min_dbfs, levels.max_dbfs
    target = float(rng.uniform(low, high)) if level_dbfs is None else float(np.clip(level_dbfs, low, high))
    mixed = mixed * np.float32(db_to_gain(target) / _rms(mixed))
    self_noise = _coloured_noise(rng, mixed.size, float(rng.uniform(0, 0.6)))
    mixed = mixed + self_noise * np.float32(db_to_gain(max(-96.0, target - float(rng.uniform(12, 32)))))
    mixed = mixed * np.float32(db_to_gain(target) / _rms(mixed))
    samples = quantised(np.clip(mixed, -0.99, 0.99), rng)
    credits = {credit.path: credit for credit in sketch.credits}
    order = np.argsort(sketch.event_seconds, kind="stable")
    truth = SceneTruth(
        kind=kind,
        seconds=mixed.size / SAMPLE_RATE,
        event_seconds=np.asarray(sketch.event_seconds, np.float64)[order],
        event_strengths=np.asarray(sketch.event_strengths, np.float64)[order],
        beat_seconds=np.asarray(sketch.beat_seconds, np.float64),
        boundary_seconds=np.asarray(sketch.boundary_seconds, np.float64),
        energy_db=measured_energy_db(samples),
        rt60_seconds=None if sketch.room is None else sketch.room.rt60_seconds,
        level_dbfs=rms_dbfs(samples[None]),
    )
    ordered = tuple(credits[path] for path in sorted(credits))
    audio = Waveform(samples[None], SAMPLE_RATE)
    if sketch.room is None:
        return Scene(audio, truth, ordered)
    return Scene(audio, truth, ordered, sketch.room.response, sketch.room.credit)


def _in_room(sketch: Sketch) -> FloatArray:
    """Foreground and background together, convolved with the room as the sketch says, same length."""
    if sketch.room is None:
        return sketch.background + sketch.foreground
    from scipy.fft import irfft, next_fast_len, rfft

    n, response = sketch.foreground.size, sketch.room.response
    size = next_fast_len(n + response.size, real=True)
    spectrum = rfft(sketch.foreground, size) * rfft(response, size)
    wet = irfft(spectrum, size)[:n].astype(np.float32)
    # A response of energy 1 spreads a click over time; the direct sound's share brings its peak back.
    wet /= np.float32(max(0.15, float(np.abs(response[: SAMPLE_RATE // 200]).max())))
    if not sketch.background_in_room:
        return np.asarray(wet + sketch.background)
    # Convolved in a circle: the background has always been there and must not build up at the start.
    circle = _fitted(response, n)
    background = irfft(rfft(sketch.background, n) * rfft(circle, n), n).astype(np.float32)
    return np.asarray(wet + background)


def _recording_chain(samples: FloatArray, rng: np.random.Generator, probability: float) -> FloatArray:
    """Microphone and recorder as they may be: each augmentation comes with `probability`.

    A peaking equaliser, a high-pass, a low-pass and narrow-band or coded recording. EMSYNC (Sulun et al. 2025)
    describes how a model otherwise overfits to the filters of one chain. All filters are causal with less than
    a few milliseconds of delay, or of zero phase, so that events stay where they are.
    """
    import soxr
    from scipy.signal import butter, sosfilt, tf2sos

    sections: list[NDArray[np.float64]] = []
    for _ in range(2):
        if rng.random() < probability:
            b, a = _peaking(
                float(np.exp(rng.uniform(np.log(80), np.log(8000)))), float(rng.uniform(-8, 8)), rng
            )
            sections.append(tf2sos(b, a))
    if rng.random() < probability:
        sections.append(butter(2, float(rng.uniform(25, 120)), "highpass", fs=SAMPLE_RATE, output="sos"))
    if rng.random() < probability / 2:
        sections.append(butter(2, float(rng.uniform(4000, 11000)), fs=SAMPLE_RATE, output="sos"))
    if sections:
        samples = sosfilt(np.concatenate(sections).astype(np.float32), samples).astype(np.float32)
    if rng.random() < probability / 4:
        rate = int(rng.choice((11_025, 16_000)))
        narrow = soxr.resample(samples, SAMPLE_RATE, rate, quality="MQ")
        samples = _fitted(soxr.resample(narrow, rate, SAMPLE_RATE, quality="MQ"), samples.size)
    if rng.random() < probability / 4:
        samples = coded(samples, float(rng.uniform(14, 26)))
    return samples


def _peaking(frequency_hz: float, gain_db: float, rng: np.random.Generator) -> tuple[Times, Times]:
    """Coefficients of a peaking equaliser (Bristow-Johnson, Audio EQ Cookbook)."""
    w = 2 * np.pi * frequency_hz / SAMPLE_RATE
    amplitude, alpha = 10 ** (gain_db / 40), np.sin(w) / (2 * float(rng.uniform(0.4, 1.5)))
    b = np.array([1 + alpha * amplitude, -2 * np.cos(w), 1 - alpha * amplitude])
    a = np.array([1 + alpha / amplitude, -2 * np.cos(w), 1 - alpha / amplitude])
    return b / a[0], a / a[0]


def coded(samples: FloatArray, headroom_db: float) -> FloatArray:
    """What a lossy coder does to `[N]` samples: per band and frame, what lies far below the band's peak is gone.

    A windowed transform of 1024 samples; 24 bands; coefficients more than `headroom_db` under their band's
    largest are set to zero, and nothing is kept above 10 kHz.
    """
    from scipy.fft import irfft, rfft

    size, hop = 1024, 512
    window = np.sin(np.pi * (np.arange(size, dtype=np.float32) + 0.5) / size)
    padded = np.pad(samples, (hop, size))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop] * window
    spectrum = rfft(frames, axis=1)
    magnitude = np.abs(spectrum)
    edges = np.unique(np.geomspace(2, size // 2, 25).astype(int))
    for low, high in zip(edges, edges[1:], strict=False):
        band = magnitude[:, low:high]
        spectrum[:, low:high][band < band.max(axis=1, keepdims=True) * db_to_gain(-headroom_db)] = 0
    spectrum[:, round(10_000 / SAMPLE_RATE * size) :] = 0
    pieces = irfft(spectrum, size, axis=1).astype(np.float32) * window
    out = np.zeros((pieces.shape[0] + 1, hop), np.float32)
    out[:-1] += pieces[:, :hop]
    out[1:] += pieces[:, hop:]
    return _fitted(out.reshape(-1)[hop:], samples.size)


def quantised(samples: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Samples on the steps of 16 bits, with triangular dither of two steps' width."""
    dither = rng.random(samples.shape, np.float32) - rng.random(samples.shape, np.float32)
    return np.clip(np.round(samples * np.float32(32768) + dither), -32768, 32767).astype(
        np.float32
    ) / np.float32(32768)


def measured_energy_db(samples: FloatArray) -> NDArray[np.float64]:
    """`[seconds * ENERGY_RATE_HZ]` RMS of `[N]` samples in dBFS, in frames of 100 ms, not below the floor."""
    frame = round(SAMPLE_RATE / ENERGY_RATE_HZ)
    n_frames = max(1, round(samples.size / frame))
    padded = np.zeros(n_frames * frame, np.float64)
    n_shared = min(samples.size, padded.size)
    padded[:n_shared] = samples[:n_shared]
    power = np.square(padded).reshape(n_frames, frame).mean(axis=1)
    return np.asarray(np.maximum(10 * np.log10(np.maximum(power, 1e-30)), FLOOR_DBFS))


def _n_samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)


def _rms(samples: FloatArray) -> float:
    return float(np.sqrt(np.mean(np.square(samples)))) + 1e-12


def _fitted(samples: FloatArray, n: int) -> FloatArray:
    """Cut or zero-padded to `n` samples."""
    return samples[:n] if samples.size >= n else np.pad(samples, (0, n - samples.size))


def usable_kinds(library: Library, shares: Mapping[str, float]) -> dict[str, float]:
    """The kinds of a mix that a library has recordings for, with their shares.

    Raises:
        DataError: if the mix names an unknown kind.
    """
    usable = {}
    for kind, share in shares.items():
        if kind not in KINDS and kind not in FROM_MUSIC:
            raise DataError(
                f"Scene kind '{kind}' is unknown; expected one of {', '.join((*KINDS, *FROM_MUSIC))}."
            )
        needs_bed = kind in ("street", "weather", "machine") and not library.find(kind, BED)
        needs_event = kind in ("steps", "room", "hall", "street", "machine") and not library.find(kind, EVENT)
        if share > 0 and not needs_bed and not needs_event:
            usable[kind] = share
    return usable
