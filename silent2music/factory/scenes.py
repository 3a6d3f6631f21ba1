"""The silent side of a pair: near-silent scenes put together from real recordings, with their ground truth.

A scene kind is a function that drafts a scene: beds and one-shots of the library on a time axis with a pulse
and changes of scene. `KINDS` holds those that come before the music, `FROM_MUSIC` those that are made from an
arrangement. What all have in common happens afterwards, in the order of a real recording: the room, the
recording chain, the level, the microphone's own noise, 16-bit steps. Levels and energy are measured on the
result. `RECORDED` are kinds that are not put together: a real recording as it is, and one of nothing.

A new kind is one function here and one line in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from silent2music.acoustics import AcousticProfile, analyze
from silent2music.arrays import DoubleArray, FloatArray
from silent2music.audio import Waveform, db_to_gain, rms_dbfs
from silent2music.errors import DataError
from silent2music.factory.arrangement import Arrangement, SceneTruth
from silent2music.factory.chain import (
    coloured_noise,
    fitted,
    frame_powers,
    in_room,
    measured_energy_db,
    quantised,
    recording_chain,
    rms,
)
from silent2music.factory.foley import (
    SceneDraft,
    boundaries,
    change_levels,
    noisy_place,
    quiet_room,
    scatter,
    strike,
    swell,
    swelling,
    take_notes,
    walk,
)
from silent2music.factory.muted import mechanical_noise
from silent2music.factory.rooms import SAMPLE_RATE
from silent2music.factory.sources import Clip, Credit, Library, Room
from silent2music.score import ENERGY_RATE_HZ

WHOLE_STRETCH_SHARE = 0.6
"""How often a `field` scene is of one of the recordings that are long enough."""

DIGITAL_SILENCE_SHARE = 0.3
"""Of the scenes of `nothing`."""

LOUDEST_EVENT_DB = 24.0
"""An event this far above the noise around it is as strong as any."""

NOISE_MARGIN_DB = 6.0
"""So far under the quietest section of a scene that changes stays the microphone's own noise."""


@dataclass(frozen=True)
class Scene:
    """The silent side of a pair.

    Attributes:
        audio: mono, 24 kHz, in 16-bit steps.
        truth: what is known because it was made so.
        sources: credits of all recordings used, in order of path.
        room: the one that the scene was convolved with, or None.
        profile: what `acoustics` hears in it, where that is its truth, or None.
    """

    audio: Waveform
    truth: SceneTruth
    sources: tuple[Credit, ...]
    room: Room | None = None
    profile: AcousticProfile | None = None


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


DEFAULT_LEVELS = Levels()


def make_scene(
    kind: str, library: Library, rng: np.random.Generator, seconds: float, levels: Levels = DEFAULT_LEVELS
) -> Scene:
    """Make a scene of one of `KINDS` or of `RECORDED`.

    Args:
        levels: range of levels and strength of the recording chain.

    Raises:
        DataError: if the kind is unknown or the library has nothing for it.
    """
    if kind in RECORDED:
        return RECORDED[kind](library, rng, seconds, levels)
    if kind not in KINDS:
        raise DataError(f"Scene kind '{kind}' is unknown; expected one of {', '.join((*KINDS, *RECORDED))}.")
    draft = SceneDraft(kind, library, rng, seconds)
    KINDS[kind](draft)
    return _record(draft, levels)


def muted_scene(
    arrangement: Arrangement,
    library: Library,
    rng: np.random.Generator,
    levels: Levels = DEFAULT_LEVELS,
    played_in: Room | None = None,
) -> Scene:
    """The mechanical noise of the arrangement's instruments played silently.

    Args:
        levels: range of levels and strength of the recording chain.
        played_in: the room, or None for a dry one.
    """
    draft = SceneDraft("muted", library, rng, arrangement.seconds, room=played_in)
    draft.foreground, onsets, strengths = mechanical_noise(arrangement.parts, draft.n_samples, rng)
    quiet_room(draft)
    # The noise of playing is what is heard; the room tone lies 10 to 26 dB under its mean level.
    loudness = float(np.sqrt(np.mean(np.square(draft.foreground)))) + 1e-9
    gain = loudness * db_to_gain(-rng.uniform(10, 26)) / rms(draft.background)
    draft.background *= np.float32(gain)
    take_notes(draft, arrangement, onsets, strengths)
    # A door opens as the louder section begins: keys and bows alone would hardly tell the sections apart.
    change_levels(draft, depth_db=(8, 15), direction=_first_jump(arrangement))
    # Softly played passages are touched softly, and the room goes along.
    for track in (draft.foreground, draft.background):
        track *= _gain_of(arrangement, draft.n_samples, slope=0.6)
    return _record(draft, levels)


def leak_scene(
    arrangement: Arrangement,
    music: Waveform,
    library: Library,
    rng: np.random.Generator,
    levels: Levels = DEFAULT_LEVELS,
) -> Scene:
    """The music through a wall: low-passed, 45 to 65 dB down, under the room's own noise.

    Args:
        music: rendered, any channel count; its rate is 24 kHz.
        levels: range of levels.
    """
    from scipy.signal import butter, sosfilt

    draft = SceneDraft("leak", library, rng, arrangement.seconds)
    n = draft.n_samples
    cutoff_hz = float(rng.uniform(250, 900))
    low_pass = butter(3, cutoff_hz, fs=SAMPLE_RATE, output="sos")
    leaked = sosfilt(low_pass, fitted(music.mono().samples[0], n)).astype(np.float32)
    leaked *= np.float32(db_to_gain(-rng.uniform(45, 65)))
    draft.foreground = leaked
    quiet_room(draft)
    loudness = (rms(leaked) + 1e-6) * db_to_gain(rng.uniform(-6, 9))
    draft.background *= np.float32(loudness / rms(draft.background))
    # A note is heard through the wall if its fundamental, or at least a low partial's neighbour, comes through.
    highest = 69 + 12 * np.log2(cutoff_hz * 1.5 / 440)
    heard = [(part, part.pitches <= highest) for part in arrangement.parts if not part.is_drum]
    starts = np.concatenate([part.start_seconds[low] for part, low in heard] or [np.zeros(0)])
    velocities = np.concatenate([part.velocities[low] for part, low in heard] or [np.zeros(0)])
    take_notes(draft, arrangement, starts, velocities / 127)
    # The room's own noise goes along, or it would say the opposite of the music wherever it covers it.
    draft.background *= _gain_of(arrangement, n, slope=0.8)
    return _record(draft, levels, level_dbfs=rms_dbfs(draft.background[None] + leaked[None]))


def met_scene(
    arrangement: Arrangement,
    onset_seconds: DoubleArray,
    strengths: DoubleArray,
    library: Library,
    rng: np.random.Generator,
) -> Scene:
    """Steps, ticks or knocks on some of the music's own onsets, in a room tone that follows its loudness.

    Args:
        arrangement: of the music; its beats and its loudness count, and it may be without notes.
        onset_seconds: `[n]` moments at which notes begin, ascending.
        strengths: `[n]` 0 to 1.
        library: of the split; without one-shots nothing but the room tone is left.
    """
    draft = SceneDraft("steps", library, rng, arrangement.seconds)
    quiet_room(draft)
    draft.background *= _gain_of(arrangement, draft.n_samples, slope=0.8)
    draft.room = library.pick_room(rng, 0.2, 1.2)
    strike(draft, onset_seconds, strengths, above_db=(14, 28), gap_seconds=(0.2, 0.9))
    draft.beat_seconds = [float(t) for t in arrangement.beat_seconds]
    draft.boundary_seconds = [float(t) for t in arrangement.boundary_seconds]
    return _record(draft, DEFAULT_LEVELS)


def recorded_scene(audio: Waveform, credit: Credit) -> Scene:
    """A near-silent recording of any rate and channels, at its own level; its truth is what `acoustics` hears in it."""
    return _as_heard(audio.mono().resampled(SAMPLE_RATE), (credit,))


def free_truth(kind: str, rng: np.random.Generator, seconds: float, room: Room | None = None) -> SceneTruth:
    """Ground truth before there is a scene, for kinds that are made from the music: an energy curve alone.

    Args:
        kind: one of `FROM_MUSIC`.
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
        energy.astype(np.float64),
        boundary_seconds=np.array(changes),
        rt60_seconds=room.rt60_seconds if room else None,
        level_dbfs=-50.0,
    )


def _gain_of(arrangement: Arrangement, n: int, slope: float) -> FloatArray:
    """`[n]` factors that follow the arrangement's loudness, `slope` dB for each of its own, around its median."""
    gain_db = arrangement.gain_db
    relative_db = slope * np.clip(gain_db - np.median(gain_db), -24, 24)
    centres = (np.arange(gain_db.size) + 0.5) / ENERGY_RATE_HZ
    return (10 ** (np.interp(np.arange(n) / SAMPLE_RATE, centres, relative_db) / 20)).astype(np.float32)


def _quietest_dbfs(draft: SceneDraft, samples: FloatArray) -> float:
    """Level of the quietest section between changes of scene, in its quieter moments, in dBFS of 50 ms."""
    power = frame_powers(samples, SAMPLE_RATE // 20)
    sections = (power[round(start * 20) : round(end * 20)] for start, end in draft.sections())
    quiet = min(float(np.percentile(section, 20)) for section in sections if section.size)
    return 10 * float(np.log10(quiet + 1e-12))


def _first_jump(arrangement: Arrangement) -> float:
    """1 if the arrangement gets louder at its first change of section, or has none, and -1 if softer."""
    edges = [round(t * ENERGY_RATE_HZ) for t in (0.0, *arrangement.boundary_seconds, arrangement.seconds)]
    before, after = (arrangement.gain_db[slice(*edges[i : i + 2])] for i in (0, 1))
    is_softer = len(edges) > 2 and before.size and after.size and np.median(after) < np.median(before)
    return -1.0 if is_softer else 1.0


# --- the kinds -----------------------------------------------------------------------------------------------


def room(draft: SceneDraft) -> None:
    """A quiet indoor tone; at times a clock, at times a door or a rustle."""
    quiet_room(draft)
    _indoors(draft, rt60_seconds=(0.2, 1.0), swell_db=(1, 4))
    if draft.rng.random() < 0.4:
        walk(draft, tempo_bpm=(50, 126), above_db=(10, 22), steady=0.9)
    else:
        scatter(draft, gap_seconds=(3, 9), above_db=(12, 26))


def hall(draft: SceneDraft) -> None:
    """A large, empty space: little happens, and it rings for long."""
    quiet_room(draft)
    walked = draft.rng.random() < 0.25
    # Steps in the longest reverberation drown in their own echoes.
    _indoors(draft, rt60_seconds=(1.2, 2.4 if walked else 4.0), swell_db=(1, 4))
    draft.background_in_room = True
    if walked:
        walk(draft, tempo_bpm=(46, 84), above_db=(14, 28), steady=0.8)
    else:
        scatter(draft, gap_seconds=(2.5, 8), above_db=(16, 32))


def steps(draft: SceneDraft) -> None:
    """Footsteps, knocks, ticks, tools on a steady, drifting or irregular pulse; the walker may stop or change."""
    quiet_room(draft)
    _indoors(draft, rt60_seconds=(0.2, 2.2), swell_db=(1, 3))
    walk(draft, tempo_bpm=(50, 140), above_db=(14, 30), steady=0.7)


def street(draft: SceneDraft) -> None:
    """Busy: traffic, voices, passers-by, swelling and ebbing."""
    noisy_place(draft, swell_db=(3, 8))
    if draft.rng.random() < 0.5:
        walk(draft, tempo_bpm=(80, 130), above_db=(10, 20), steady=0.6)
    else:
        scatter(draft, gap_seconds=(1, 4), above_db=(10, 22))


def weather(draft: SceneDraft) -> None:
    """Rain, wind, sea, fire: gusts and waves, now and then a single sound."""
    noisy_place(draft, swell_db=(4, 9))
    if draft.rng.random() < 0.6:
        scatter(draft, gap_seconds=(2, 7), above_db=(10, 22))


def machine(draft: SceneDraft) -> None:
    """Train, engine, fan: an even bed that starts, stops or changes speed, at times with a beat of its own."""
    noisy_place(draft, swell_db=(2, 7))
    if draft.rng.random() < 0.5:
        walk(draft, tempo_bpm=(60, 140), above_db=(10, 20), steady=0.95)


def _indoors(draft: SceneDraft, rt60_seconds: tuple[float, float], swell_db: tuple[float, float]) -> None:
    """A room around a quiet tone that changes and swells."""
    draft.room = draft.library.pick_room(draft.rng, *rt60_seconds)
    draft.boundary_seconds = boundaries(draft.rng, draft.seconds)
    change_levels(draft)
    swelling(draft, swell_db)


KINDS: dict[str, Callable[[SceneDraft], None]] = {
    "room": room,
    "hall": hall,
    "steps": steps,
    "street": street,
    "weather": weather,
    "machine": machine,
}
"""Kinds that are made before the music."""


def field(library: Library, rng: np.random.Generator, seconds: float, levels: Levels) -> Scene:
    """A stretch of a real recording, attenuated as a whole; its truth is what `acoustics` hears in it.

    Where no recording of the kind that was drawn is long enough, recordings of one kind and use follow each other.
    """
    clips, n = list(library.clips), round(seconds * SAMPLE_RATE)
    if not clips:
        raise DataError("The library holds no recording; a scene of the kind 'field' needs one.")
    long = [clip for clip in clips if clip.n_samples >= n]
    if long and rng.random() < WHOLE_STRETCH_SHARE:
        used = [long[int(rng.integers(len(long)))]]
        start = int(rng.integers(used[0].n_samples - n + 1))
        samples = library.audio(used[0], start, start + n)
    else:
        samples, used = _joined_recordings(library, clips[int(rng.integers(len(clips)))], rng, n)
    target_dbfs = float(rng.uniform(levels.min_dbfs, levels.max_dbfs))
    samples = quantised(
        np.clip(samples * np.float32(db_to_gain(target_dbfs) / rms(samples)), -0.99, 0.99), rng
    )
    credits = {clip.credit for clip in used}
    return _as_heard(
        Waveform(samples[None], SAMPLE_RATE), tuple(sorted(credits, key=lambda credit: credit.path))
    )


def _as_heard(audio: Waveform, sources: tuple[Credit, ...]) -> Scene:
    """A scene of mono audio at `SAMPLE_RATE`, with what is heard in it as its truth."""
    profile, samples = analyze(audio), audio.samples[0]
    strengths = np.array([event.strength_db for event in profile.events]) / LOUDEST_EVENT_DB
    truth = SceneTruth(
        kind="field",
        seconds=audio.seconds,
        energy_db=measured_energy_db(samples),
        event_seconds=np.array([event.seconds for event in profile.events]),
        event_strengths=np.clip(strengths, 0.05, 1.0),
        beat_seconds=np.array(profile.pulse_seconds, np.float64),
        boundary_seconds=np.array([boundary.seconds for boundary in profile.boundaries]),
        rt60_seconds=profile.rt60_seconds,
        level_dbfs=rms_dbfs(samples[None]),
    )
    return Scene(audio, truth, sources, None, profile)


def _joined_recordings(
    library: Library, first: Clip, rng: np.random.Generator, n: int
) -> tuple[FloatArray, list[Clip]]:
    """`[n]` samples of recordings of one use, the first of them given, with short crossfades, and which they are."""
    alike = [clip for clip in library.clips if clip.kinds == first.kinds and clip.role == first.role]
    order = [first, *(alike[int(i)] for i in rng.permutation(len(alike)) if alike[int(i)] is not first)]
    fade = SAMPLE_RATE // 10
    ramp = np.sin(np.linspace(0, np.pi / 2, fade, dtype=np.float32))
    samples = np.zeros(n, np.float32)
    used: list[Clip] = []
    position = 0
    while position < n:
        clip = order[len(used) % len(order)]
        spare = max(0, clip.n_samples - (n - position))
        piece = library.audio(clip, int(rng.integers(spare + 1)))
        if position:
            piece[:fade] *= ramp[: piece.size]
        if piece.size < n - position:
            piece[-fade:] *= ramp[::-1][-piece.size :]
        piece = piece[: n - position]
        samples[position : position + piece.size] += piece
        position += max(piece.size - fade, fade)
        used.append(clip)
    return samples, used


def nothing(library: Library, rng: np.random.Generator, seconds: float, levels: Levels) -> Scene:
    """Nothing to hear: digital silence, or a steady hiss or hum."""
    n = round(seconds * SAMPLE_RATE)
    samples = np.zeros(n, np.float32)
    draw = rng.random()
    if draw >= DIGITAL_SILENCE_SHARE:
        noise = coloured_noise(rng, n, float(rng.uniform(0, 1)))  # brown noise would come and go
        if draw > 0.65:
            time = np.arange(n, dtype=np.float32) / SAMPLE_RATE
            mains_hz = float(rng.choice((50.0, 60.0, rng.uniform(80, 400))))
            noise *= np.float32(db_to_gain(-rng.uniform(3, 30)))
            for partial in range(1, int(rng.integers(2, 7))):
                gain = np.float32(db_to_gain(-rng.uniform(0, 24)))
                noise += gain * np.sin(
                    np.float32(2 * np.pi * mains_hz * partial) * time + np.float32(rng.uniform(0, 6))
                )
        target_dbfs = float(rng.uniform(levels.min_dbfs, levels.max_dbfs))
        samples = quantised(noise * np.float32(db_to_gain(target_dbfs) / rms(noise)), rng)
    energy_db = measured_energy_db(samples)
    truth = SceneTruth("nothing", seconds, energy_db, level_dbfs=rms_dbfs(samples[None]))
    return Scene(Waveform(samples[None], SAMPLE_RATE), truth, ())


RECORDED: dict[str, Callable[[Library, np.random.Generator, float, Levels], Scene]] = {
    "field": field,
    "nothing": nothing,
}
"""Kinds whose silent side is as it was recorded."""

FROM_MUSIC = ("muted", "leak")
"""Kinds that are made from the arrangement, see `muted_scene` and `leak_scene`."""


def _record(draft: SceneDraft, levels: Levels, level_dbfs: float | None = None) -> Scene:
    """Room, recording chain, level, self-noise and 16-bit steps; then measure what came out.

    `level_dbfs` is the level that the draft already has in truth, moved only as far as the range demands.
    """
    rng = draft.rng
    mixed = draft.foreground + draft.background
    if draft.room is not None:
        mixed = in_room(draft.foreground, draft.background, draft.room.response, draft.background_in_room)
    mixed = recording_chain(mixed, rng, levels.chain)
    low, high = levels.min_dbfs, levels.max_dbfs
    target = float(rng.uniform(low, high)) if level_dbfs is None else float(np.clip(level_dbfs, low, high))
    mixed = mixed * np.float32(db_to_gain(target) / rms(mixed))
    self_noise = coloured_noise(rng, mixed.size, float(rng.uniform(0, 0.6)))
    noise_dbfs = target - float(rng.uniform(12, 32))
    if draft.boundary_seconds:
        # A change into what the microphone drowns would be one that nobody hears.
        noise_dbfs = min(noise_dbfs, _quietest_dbfs(draft, mixed) - NOISE_MARGIN_DB)
    mixed = mixed + self_noise * np.float32(db_to_gain(max(-96.0, noise_dbfs)))
    mixed = mixed * np.float32(db_to_gain(target) / rms(mixed))
    samples = quantised(np.clip(mixed, -0.99, 0.99), rng)
    order = np.argsort(draft.event_seconds, kind="stable")
    truth = SceneTruth(
        kind=draft.kind,
        seconds=mixed.size / SAMPLE_RATE,
        energy_db=measured_energy_db(samples),
        event_seconds=np.asarray(draft.event_seconds, np.float64)[order],
        event_strengths=np.asarray(draft.event_strengths, np.float64)[order],
        beat_seconds=np.asarray(draft.beat_seconds, np.float64),
        boundary_seconds=np.asarray(draft.boundary_seconds, np.float64),
        rt60_seconds=None if draft.room is None else draft.room.rt60_seconds,
        level_dbfs=rms_dbfs(samples[None]),
    )
    sources = tuple(sorted(set(draft.credits), key=lambda credit: credit.path))
    return Scene(Waveform(samples[None], SAMPLE_RATE), truth, sources, draft.room)


def usable_kinds(library: Library, shares: Mapping[str, float]) -> dict[str, float]:
    """The kinds of a mix that a library has recordings for, with their shares; those from music need none.

    Raises:
        DataError: if the mix names an unknown kind.
    """
    known = (*KINDS, *RECORDED, *FROM_MUSIC)
    if unknown := [kind for kind in shares if kind not in known]:
        raise DataError(f"Scene kind '{unknown[0]}' is unknown; expected one of {', '.join(known)}.")
    found = {kind for clip in library.clips for kind in clip.kinds}.union(FROM_MUSIC, ["nothing"])
    found |= {"field"} if library.clips else set()
    return {kind: share for kind, share in shares.items() if share > 0 and kind in found}
