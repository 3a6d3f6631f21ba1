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
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from silent2music.audio import FloatArray, Waveform, db_to_gain, rms_dbfs
from silent2music.errors import DataError
from silent2music.factory.arrangement import ENERGY_RATE_HZ, Arrangement, SceneTruth
from silent2music.factory.chain import (
    coloured_noise,
    fitted,
    in_room,
    measured_energy_db,
    quantised,
    recording_chain,
    rms,
)
from silent2music.factory.foley import (
    Sketch,
    boundaries,
    change_levels,
    n_samples,
    pick_room,
    place,
    quiet_room,
    scatter,
    swell,
    swelling,
    take_notes,
    walk,
)
from silent2music.factory.muted import mechanical_noise
from silent2music.factory.rooms import SAMPLE_RATE
from silent2music.factory.sources import Credit, Library, Room

NOISE_MARGIN_DB = 6.0
"""So far under the quietest section of a scene that changes stays the microphone's own noise."""


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
    arrangement: Arrangement,
    library: Library,
    rng: np.random.Generator,
    levels: Levels | None = None,
    played_in: Room | None = None,
) -> Scene:
    """The mechanical noise of the arrangement's instruments played silently.

    Args:
        arrangement: what is played.
        library: of the split.
        rng: decides everything.
        levels: range of levels and strength of the recording chain.
        played_in: the room, or None for a dry one.
    """
    n = n_samples(arrangement.seconds)
    noise, onsets, strengths = mechanical_noise(arrangement.parts, n, rng)
    loudness = float(np.sqrt(np.mean(np.square(noise)))) + 1e-9
    sketch = quiet_room(library, rng, n)
    # The noise of playing is what is heard; the room tone lies 10 to 26 dB under its mean level.
    sketch.background *= np.float32(loudness * db_to_gain(-rng.uniform(10, 26)) / rms(sketch.background))
    sketch.foreground = noise
    take_notes(sketch, arrangement, onsets, strengths)
    # A door opens as the louder section begins: keys and bows alone would hardly tell the sections apart.
    change_levels(sketch, rng, depth_db=(8, 15), direction=first_jump(arrangement))
    # Softly played passages are touched softly, and the room goes along.
    for track in (sketch.foreground, sketch.background):
        track *= gain_of(arrangement, n, slope=0.6)
    sketch.room = played_in
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

    n = n_samples(arrangement.seconds)
    cutoff_hz = float(rng.uniform(250, 900))
    low_pass = butter(3, cutoff_hz, fs=SAMPLE_RATE, output="sos")
    leaked = sosfilt(low_pass, fitted(music.mono().samples[0], n)).astype(np.float32)
    leaked *= np.float32(db_to_gain(-rng.uniform(45, 65)))
    sketch = quiet_room(library, rng, n)
    sketch.background *= np.float32(
        (rms(leaked) + 1e-6) * db_to_gain(rng.uniform(-6, 9)) / rms(sketch.background)
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
    take_notes(sketch, arrangement, starts, velocities / 127)
    # The room's own noise goes along, or it would say the opposite of the music wherever it covers it.
    sketch.background *= gain_of(arrangement, n, slope=0.8)
    level_dbfs = rms_dbfs(sketch.background[None] + leaked[None])
    return _record("leak", sketch, rng, levels or Levels(), level_dbfs=level_dbfs)


def free_truth(kind: str, rng: np.random.Generator, seconds: float, room: Room | None = None) -> SceneTruth:
    """A truth without a scene, for the kinds that come after the music: an energy curve to play to, no more.

    Args:
        kind: one of `FROM_MUSIC`.
        rng: decides the curve and its jumps.
        seconds: duration.
        room: where the scene is going to be, if that is known.
    """
    n = round(seconds * ENERGY_RATE_HZ)
    changes = boundaries(rng, seconds)
    energy = -50 + swell(rng, n, ENERGY_RATE_HZ, float(rng.uniform(1, 4)))
    direction = float(rng.choice((-1.0, 1.0)))
    for time in changes:
        energy[round(time * ENERGY_RATE_HZ) :] += direction * rng.uniform(10, 16)
        direction = -direction
    return SceneTruth(
        kind,
        seconds,
        boundary_seconds=np.array(changes),
        energy_db=energy.astype(np.float64),
        rt60_seconds=room.rt60_seconds if room else None,
        level_dbfs=-50.0,
    )


def gain_of(arrangement: Arrangement, n: int, slope: float) -> FloatArray:
    """`[n]` factors that follow the arrangement's loudness, `slope` dB for each of its own, around its median."""
    gain_db = np.asarray(arrangement.gain_db, np.float64)
    if gain_db.size == 0:
        return np.ones(n, np.float32)
    relative_db = slope * np.clip(gain_db - np.median(gain_db), -24, 24)
    curve = np.interp(
        np.arange(n) / SAMPLE_RATE, (np.arange(gain_db.size) + 0.5) / ENERGY_RATE_HZ, relative_db
    )
    return (10 ** (curve / 20)).astype(np.float32)


def quietest_dbfs(samples: FloatArray, boundary_seconds: Sequence[float]) -> float:
    """Level of the quietest section between changes of scene, in its quieter moments, in dBFS of 50 ms."""
    window = SAMPLE_RATE // 20
    power = np.mean(np.square(samples[: samples.size // window * window].reshape(-1, window)), axis=1)
    edges = [0, *(round(t * 20) for t in boundary_seconds), power.size]
    quiet = min(float(np.percentile(power[a:b], 20)) for a, b in pairwise(edges) if b > a)
    return 10 * float(np.log10(quiet + 1e-12))


def first_jump(arrangement: Arrangement) -> float:
    """1 if the arrangement gets louder at its first change of section, or has none, and -1 if softer."""
    gain_db = np.asarray(arrangement.gain_db, np.float64)
    edges = [0.0, *arrangement.boundary_seconds, arrangement.seconds]
    first, second, third = (round(t * ENERGY_RATE_HZ) for t in (*edges[:2], edges[min(2, len(edges) - 1)]))
    before, after = gain_db[first:second], gain_db[second:third]
    return -1.0 if before.size and after.size and np.median(after) < np.median(before) else 1.0


# --- the kinds -----------------------------------------------------------------------------------------------


def room(library: Library, rng: np.random.Generator, seconds: float) -> Sketch:
    """A quiet indoor tone; at times a clock, at times a door or a rustle."""
    sketch = quiet_room(library, rng, n_samples(seconds))
    sketch.room = pick_room(library, rng, 0.2, 1.0)
    sketch.boundary_seconds = boundaries(rng, seconds)
    change_levels(sketch, rng, depth_db=(10, 18))
    swelling(sketch, rng, (1, 4))
    if rng.random() < 0.4:
        walk(sketch, library, rng, "room", tempo_bpm=(50, 126), above_db=(10, 22), steady=0.9)
    else:
        scatter(sketch, library, rng, "room", gap_seconds=(3, 9), above_db=(12, 26))
    return sketch


def hall(library: Library, rng: np.random.Generator, seconds: float) -> Sketch:
    """A large, empty space: little happens, and it rings for long."""
    sketch = quiet_room(library, rng, n_samples(seconds))
    walked = rng.random() < 0.25
    # Steps in the longest reverberation drown in their own echoes.
    sketch.room = pick_room(library, rng, 1.2, 2.4 if walked else 4.0)
    sketch.background_in_room = True
    sketch.boundary_seconds = boundaries(rng, seconds)
    change_levels(sketch, rng, depth_db=(10, 18))
    swelling(sketch, rng, (1, 4))
    if walked:
        walk(sketch, library, rng, "hall", tempo_bpm=(46, 84), above_db=(14, 28), steady=0.8)
    else:
        scatter(sketch, library, rng, "hall", gap_seconds=(2.5, 8), above_db=(16, 32))
    return sketch


def steps(library: Library, rng: np.random.Generator, seconds: float) -> Sketch:
    """Footsteps, knocks, ticks, tools on a steady, drifting or irregular pulse; the walker may stop or change."""
    sketch = quiet_room(library, rng, n_samples(seconds))
    sketch.room = pick_room(library, rng, 0.2, 2.2)
    sketch.boundary_seconds = boundaries(rng, seconds)
    change_levels(sketch, rng, depth_db=(10, 18))
    swelling(sketch, rng, (1, 3))
    walk(sketch, library, rng, "steps", tempo_bpm=(50, 140), above_db=(14, 30), steady=0.7)
    return sketch


def street(library: Library, rng: np.random.Generator, seconds: float) -> Sketch:
    """Busy: traffic, voices, passers-by, swelling and ebbing."""
    sketch = place(library, rng, "street", seconds, depth_db=(10, 18), swell_db=(3, 8))
    if rng.random() < 0.5:
        walk(sketch, library, rng, "street", tempo_bpm=(80, 130), above_db=(10, 20), steady=0.6)
    else:
        scatter(sketch, library, rng, "street", gap_seconds=(1, 4), above_db=(10, 22))
    return sketch


def weather(library: Library, rng: np.random.Generator, seconds: float) -> Sketch:
    """Rain, wind, sea, fire: gusts and waves, now and then a single sound."""
    sketch = place(library, rng, "weather", seconds, depth_db=(10, 18), swell_db=(4, 9))
    if rng.random() < 0.6:
        scatter(sketch, library, rng, "weather", gap_seconds=(2, 7), above_db=(10, 22))
    return sketch


def machine(library: Library, rng: np.random.Generator, seconds: float) -> Sketch:
    """Train, engine, fan: an even bed that starts, stops or changes speed, at times with a beat of its own."""
    sketch = place(library, rng, "machine", seconds, depth_db=(10, 18), swell_db=(2, 7))
    if rng.random() < 0.5:
        walk(sketch, library, rng, "machine", tempo_bpm=(60, 140), above_db=(10, 20), steady=0.95)
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


# --- from the sketch to the recording ------------------------------------------------------------------------


def _record(
    kind: str, sketch: Sketch, rng: np.random.Generator, levels: Levels, level_dbfs: float | None = None
) -> Scene:
    """Room, recording chain, level, self-noise and 16-bit steps; then measure what came out.

    `level_dbfs` is the level that the sketch already has in truth, moved only as far as the range demands.
    """
    mixed = sketch.foreground + sketch.background
    if sketch.room is not None:
        response = sketch.room.response
        mixed = in_room(sketch.foreground, sketch.background, response, sketch.background_in_room)
    mixed = recording_chain(mixed, rng, levels.chain)
    low, high = levels.min_dbfs, levels.max_dbfs
    target = float(rng.uniform(low, high)) if level_dbfs is None else float(np.clip(level_dbfs, low, high))
    mixed = mixed * np.float32(db_to_gain(target) / rms(mixed))
    self_noise = coloured_noise(rng, mixed.size, float(rng.uniform(0, 0.6)))
    noise_dbfs = target - float(rng.uniform(12, 32))
    if sketch.boundary_seconds:
        # A change into what the microphone drowns would be one that nobody hears.
        noise_dbfs = min(noise_dbfs, quietest_dbfs(mixed, sketch.boundary_seconds) - NOISE_MARGIN_DB)
    mixed = mixed + self_noise * np.float32(db_to_gain(max(-96.0, noise_dbfs)))
    mixed = mixed * np.float32(db_to_gain(target) / rms(mixed))
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


def usable_kinds(library: Library, shares: Mapping[str, float]) -> dict[str, float]:
    """The kinds of a mix that a library has recordings for, with their shares; those from music need none.

    Raises:
        DataError: if the mix names an unknown kind.
    """
    usable = {}
    for kind, share in shares.items():
        if kind not in KINDS and kind not in FROM_MUSIC:
            raise DataError(
                f"Scene kind '{kind}' is unknown; expected one of {', '.join((*KINDS, *FROM_MUSIC))}."
            )
        if share > 0 and (kind in FROM_MUSIC or any(kind in clip.kinds for clip in library.clips)):
            usable[kind] = share
    return usable
