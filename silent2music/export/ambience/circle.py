"""Circular scores: a lap of notes whose end leads into its beginning, and what it is divided into: layers, and parts.

A circle is a `Score` of twice the lap's length. Its notes start within the lap, and those of the last bar may end after
it: they ring into the first one, when the lap comes round again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from silent2music.arrays import IntArray
from silent2music.audio import Recorded, Waveform
from silent2music.config import ComposingConfig
from silent2music.controls import DEFAULT_BPM, Controls
from silent2music.errors import AudioError
from silent2music.export.ambience.lap import Grid, repeated_lap
from silent2music.export.ambience.seam import ONSET_SECONDS
from silent2music.export.space import Placement
from silent2music.processes import StepProgress
from silent2music.score import ENERGY_RATE_HZ, Part, Score

if TYPE_CHECKING:
    from silent2music.model import Silent2Music

DRAFT_SECONDS = 16.0
"""Of a room without a pulse so much is composed to learn the composer's own tempo."""
SLOWEST_BPM, FASTEST_BPM = 55.0, 140.0
"""A draft's tempo is halved or doubled into these."""

LAYERED_DENSITY = 0.55
"""What layers are made of has to be dense enough to be thinned out twice: some four notes a second."""

ROLE_LAYERS = {"bass": 0, "harmony": 0, "melody": 1, "": 1, "percussion": 2}
"""The lowest layer that a role plays in."""

NEAR = 1e-6
"""Seconds by which rounding may move a time."""

AROUND_DEGREES = (0.0, 60.0, -60.0, 120.0, -120.0, 180.0, 30.0, -30.0, 90.0, -90.0, 150.0, -150.0)
"""Where parts stand around the listener, counted from where the room's energy comes from; the melody first."""
DEGREES_PER_SEMITONE, LOWEST_DEGREES, HIGHEST_DEGREES = 1.0, -20.0, 45.0
"""High parts stand higher, middle C at the height of the ears."""


# ---- composing ----


def own_tempo(model: Silent2Music, room: Recorded, seed: int) -> float:
    """Beats a minute in which the composer would write for a room that has no pulse, of a draft by a seed."""
    draft = model.compose(room, DRAFT_SECONDS, seed=seed)
    if len(draft.beat_seconds) < 4:
        return DEFAULT_BPM
    bpm = 60.0 / float(np.median(np.diff(draft.beat_seconds)))
    while bpm < SLOWEST_BPM:
        bpm *= 2.0
    while bpm > FASTEST_BPM:
        bpm /= 2.0
    return bpm


def compose_circle(
    model: Silent2Music,
    lap: Waveform,
    grid: Grid,
    composing: ComposingConfig,
    asked: Controls | None = None,
    progress: StepProgress | None = None,
) -> Score:
    """Compose for a lap of a room that is repeated, and close the notes to a circle.

    Two laps and a bar are composed. The circle is a lap's worth of bars from where the second lap is most like the
    first: so its end leads to where it began. Each bar keeps its place in the lap.

    Raises:
        AudioError: if chords that are asked for do not go round evenly.
        ConfigError: if the composer cannot do what is asked for.
    """
    asked = asked or Controls()
    if asked.chords and grid.bars % len(asked.chords):
        raise AudioError(
            f"{len(asked.chords)} chords, a bar each, do not go round in {grid.bars} bars; give --loop "
            f"{len(asked.chords)}bars or a multiple."
        )
    bpm = 60.0 * grid.n_beats / grid.lap_seconds
    asked = replace(asked, tempo=bpm, metre=f"{grid.beats_per_bar}/4")
    seconds = 2.0 * grid.lap_seconds + grid.bar_seconds
    written = model.compose(repeated_lap(lap), seconds, composing, asked=asked, progress=progress)
    first = _fold_bar(written, grid)
    gain = written.gain_db
    if len(gain):
        at = np.arange(math.ceil(grid.lap_seconds * ENERGY_RATE_HZ - NEAR)) / ENERGY_RATE_HZ
        source = at + np.where(at < first * grid.bar_seconds - NEAR, grid.lap_seconds, 0.0)
        gain = np.interp(source, np.arange(len(gain)) / ENERGY_RATE_HZ, gain)
    parts = tuple(_closed(part, first * grid.bar_seconds, grid.lap_seconds) for part in written.parts)
    circle = Score(
        2.0 * grid.lap_seconds,
        tuple(part for part in parts if len(part.pitches)),
        gain_db=gain,
        beat_seconds=np.linspace(0.0, grid.lap_seconds, grid.n_beats, endpoint=False),
        bar_seconds=np.linspace(0.0, grid.lap_seconds, grid.bars, endpoint=False),
    )
    return replace(circle, key=circle.heard_key())


def _fold_bar(written: Score, grid: Grid) -> int:
    """Of two laps and a bar, the bar of the first lap's second half from which on the second lap is most like it."""
    sounding = np.zeros((2 * grid.bars + 1, grid.beats_per_bar * 12))
    for part in written.parts:
        beats = ((part.start_seconds + NEAR) / grid.lap_seconds * grid.n_beats).astype(np.int64)
        bars, within = np.divmod(beats, grid.beats_per_bar)
        inside = bars < len(sounding)
        place = (bars[inside], within[inside] * 12 + part.pitches[inside] % 12)
        np.add.at(sounding, place, (part.end_seconds - part.start_seconds)[inside])
    sounding /= np.linalg.norm(sounding, axis=1, keepdims=True) + 1e-9
    alike = np.einsum("bc,bc->b", sounding[: grid.bars + 1], sounding[grid.bars :])
    candidates = np.arange(max(1, (grid.bars + 1) // 2), grid.bars + 1)
    return int(candidates[np.argmax(alike[candidates] + alike[candidates - 1])])


def _closed(part: Part, begin: float, lap_seconds: float, zero: float = 0.0) -> Part:
    """The notes of a part that start within a lap from `begin` on, at their places in the lap, counted from `zero`.

    A note ends when its part strikes the same pitch again, which may be a lap later.
    """
    inside = (part.start_seconds > begin - NEAR) & (part.start_seconds < begin + lap_seconds - NEAR)
    starts = np.mod(part.start_seconds[inside] - zero + NEAR, lap_seconds) - NEAR
    starts = np.maximum(np.round(starts, 9), 0.0)
    lasting = np.minimum((part.end_seconds - part.start_seconds)[inside], lap_seconds)
    order = np.argsort(starts, kind="stable")
    starts, lasting = starts[order], lasting[order]
    pitches, velocities = part.pitches[inside][order], part.velocities[inside][order]
    for pitch in np.unique(pitches):
        (same,) = np.nonzero(pitches == pitch)
        until = np.append(np.diff(starts[same]), lap_seconds + starts[same[0]] - starts[same[-1]])
        lasting[same] = np.minimum(lasting[same], until)
    return with_notes(part, starts, starts + lasting, pitches, velocities)


def with_notes(
    part: Part, starts: ArrayLike, ends: ArrayLike, pitches: ArrayLike, velocities: ArrayLike
) -> Part:
    """A part with other notes, those left out that do not last."""
    lasts = np.asarray(ends) > np.asarray(starts) + NEAR
    kinds = (np.float64, np.float64, np.int64, np.int64)
    columns = zip((starts, ends, pitches, velocities), kinds, strict=True)
    notes: Any = (np.asarray(column, kind)[lasts] for column, kind in columns)
    return Part(part.name, part.program, part.is_drum, part.role, *notes)


# ---- playing it ----


def repeated_circle(circle: Score, n_laps: int) -> Score:
    """A circle played several times round, cut at the end of the last."""
    lap_seconds, seconds = circle.seconds / 2.0, n_laps * circle.seconds / 2.0
    parts = []
    for part in circle.parts:
        offsets = np.repeat(np.arange(n_laps) * lap_seconds, len(part.pitches))
        starts, ends = (np.tile(x, n_laps) + offsets for x in (part.start_seconds, part.end_seconds))
        notes = np.tile(part.pitches, n_laps), np.tile(part.velocities, n_laps)
        parts.append(with_notes(part, starts, np.minimum(ends, seconds), *notes))
    gain = circle.gain_db
    if len(gain):
        at = np.arange(math.ceil(seconds * ENERGY_RATE_HZ - NEAR)) / ENERGY_RATE_HZ
        gain = np.interp(at % lap_seconds, np.arange(len(gain)) / ENERGY_RATE_HZ, gain)
    return Score(seconds, tuple(parts), gain_db=gain, key=circle.key)


def turned(circle: Score, seconds: float) -> Score:
    """A circle that begins some seconds, on a bar line, after where it did."""
    lap_seconds = circle.seconds / 2.0
    gain = np.roll(circle.gain_db, -round(seconds * ENERGY_RATE_HZ))
    parts = tuple(_closed(part, 0.0, lap_seconds, seconds) for part in circle.parts)
    return replace(circle, parts=parts, gain_db=gain)


def as_file(layers: Mapping[str, Score], grid: Grid) -> Score:
    """The lap as it lies in the files, for MIDI: notes that ring over the end are cut there.

    Args:
        layers: circles by name; of several each part bears its layer's.
        grid: the lap, whose files may be a little longer or shorter than whole codec frames are.
    """
    stretch, parts = grid.seconds / grid.lap_seconds, []
    for name, circle in layers.items():
        for part in circle.parts:
            ends = np.minimum(part.end_seconds, grid.lap_seconds) * stretch
            own = with_notes(part, part.start_seconds * stretch, ends, part.pitches, part.velocities)
            parts.append(replace(own, name=f"{part.name} ({name})") if len(layers) > 1 else own)
    beats = np.linspace(0.0, grid.seconds, grid.n_beats, endpoint=False)
    bars = beats[:: grid.beats_per_bar]
    score = Score(grid.seconds, tuple(parts), beat_seconds=beats, bar_seconds=bars)
    return replace(score, key=score.heard_key())


def from_file(score: Score) -> Score:
    """The circle of a lap that was written by `as_file`, all layers together."""
    parts = tuple(replace(part, name=part.name.partition(" (")[0]) for part in score.parts)
    return Score(2.0 * score.seconds, parts, key=score.key)


def is_struck(score: Score, seconds: float, lap_seconds: float) -> bool:
    """Whether a note of a lap that is repeated begins so near to a moment that an onset there may be its own."""
    away = np.concatenate([np.zeros(0), *(part.start_seconds for part in score.parts)]) - seconds
    around = (away + lap_seconds / 2.0) % lap_seconds - lap_seconds / 2.0
    return bool((np.abs(around) <= ONSET_SECONDS).any())


# ---- layers and parts ----


def layered(circle: Score, names: Sequence[str], grid: Grid) -> dict[str, Score]:
    """A circle divided into layers that add to one another: each strikes at many moments at which none before does.

    Onsets are ordered by how strong their place in the bar is; the first layer has the strongest ones, of bass and
    harmony. Melodies join in the second layer and percussion in the third.

    Args:
        names: of the layers, from calm to intense.
    """
    places = [
        np.rint(part.start_seconds / grid.lap_seconds * grid.n_beats * 12).astype(np.int64)
        for part in circle.parts
    ]
    times = np.unique(np.concatenate([*places, np.zeros(0, np.int64)]))
    within = times % (12 * grid.beats_per_bar)
    strength = (within == 0) * 4.0 + (within % 12 == 0) * 2.0 + (within % 6 == 0)
    loudness = [
        float(sum(p.velocities[at == time].sum() for p, at in zip(circle.parts, places, strict=True)))
        for time in times
    ]
    ranks = np.empty(len(times), np.int64)
    ranks[np.lexsort((times, -np.array(loudness), -strength))] = np.arange(len(times))
    edges = np.cumsum(np.arange(1, len(names) + 1)) / (len(names) * (len(names) + 1) / 2)
    by_time = np.searchsorted(edges, (ranks + 0.5) / max(1, len(times)))
    lowest = {role: min(layer, len(names) - 1) for role, layer in ROLE_LAYERS.items()}
    own = [by_time[np.searchsorted(times, at)] for at in places]
    chosen = [np.maximum(layer, lowest[part.role]) for part, layer in zip(circle.parts, own, strict=True)]
    if not _rises(chosen, places, len(names)):
        chosen = own
    found = {}
    for index, name in enumerate(names):
        parts = (
            with_notes(p, p.start_seconds[is_in], p.end_seconds[is_in], p.pitches[is_in], p.velocities[is_in])
            for p, is_in in ((p, layer == index) for p, layer in zip(circle.parts, chosen, strict=True))
        )
        found[name] = replace(circle, parts=tuple(part for part in parts if len(part.pitches)))
    return found


def _rises(layers: Sequence[IntArray], places: Sequence[IntArray], n_layers: int) -> bool:
    """Whether each layer has onsets, and adds half as many moments as those before it have, or more."""
    nowhere = np.zeros(0, np.int64)  # of a room for which nothing is played
    both = list(zip(layers, places, strict=True))
    counts = [
        len(np.unique(np.concatenate([nowhere, *(at[layer <= i] for layer, at in both)])))
        for i in range(n_layers)
    ]
    return counts[0] > 0 and all(2 * after >= 3 * before for before, after in itertools.pairwise(counts))


def n_onsets(circle: Score) -> int:
    """How many different moments notes begin at."""
    starts = [np.rint(part.start_seconds / NEAR / 1e3) for part in circle.parts]
    return len(np.unique(np.concatenate([*starts, np.zeros(0)])))


def single_parts(circle: Score) -> dict[str, Score]:
    """The parts of a circle, each as a circle of its own, by name and role."""
    return {f"{part.name} {part.role}".strip(): replace(circle, parts=(part,)) for part in circle.parts}


def places_of(circles: Sequence[Score], where: Placement) -> dict[str, Placement]:
    """Where each part of some circles stands around the listener, by the names of `single_parts`.

    Melodies stand where the room's energy comes from, the others around the listener, and high ones higher.
    """
    pitches: dict[str, list[float]] = {}
    for circle in circles:
        for name, own in single_parts(circle).items():
            is_drum = own.parts[0].is_drum
            pitches.setdefault(name, []).extend([60.0] if is_drum else own.parts[0].pitches.tolist())
    order = sorted(pitches, key=lambda name: (not name.endswith("melody"), name.endswith("percussion"), name))
    found = {}
    for index, name in enumerate(order):
        azimuth = where.azimuth_degrees + AROUND_DEGREES[index % len(AROUND_DEGREES)]
        height = DEGREES_PER_SEMITONE * (float(np.mean(pitches[name])) - 60.0)
        found[name] = replace(
            where,
            azimuth_degrees=round((azimuth + 180.0) % 360.0 - 180.0, 2),
            elevation_degrees=round(float(np.clip(height, LOWEST_DEGREES, HIGHEST_DEGREES)), 2),
        )
    return found
