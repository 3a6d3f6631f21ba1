"""What a game plays beside a loop: stingers, an intro, an ending, and transitions from one room's loop to another's.

Each is a short score of the loop's own notes, chords and instruments, performed from silence in the room:

```
|  pre-entry  |  from the entry to the exit, whole bars  |  tail  |
              entry: a beat or a bar line                exit: a bar line
```

A game starts the file so that its entry meets a beat (of a stinger) or a bar line (of the others) of what plays, and
starts what follows so that it begins at the exit. The sound before and after rings over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from silent2music import audio
from silent2music.arrays import DoubleArray, FloatArray
from silent2music.audio import Waveform
from silent2music.config import AmbienceConfig, SamplingConfig
from silent2music.export import provenance
from silent2music.export.ambience.circle import single_parts, with_notes
from silent2music.export.ambience.lap import Grid
from silent2music.export.ambience.writing import (
    described_channels,
    in_24_bits,
    kinds_of,
    levelled_set,
    loudness_of,
    order_of,
    suffix_of,
    write_sound,
)
from silent2music.export.delivery import at_rate
from silent2music.export.levelling import rounded_lufs
from silent2music.export.space import Placement, fold_down, spatialised
from silent2music.keys import PITCH_NAMES
from silent2music.score import Part, Score

if TYPE_CHECKING:
    from silent2music.model import Silent2Music

LEAD_SECONDS = 1.0
"""So much silence is performed before a piece, so that it is not the model's first second; it is cut off."""
PRE_SECONDS = 0.1
"""A pre-entry without notes: what of an attack is heard before its beat."""
TAIL_SECONDS = 1.5
"""After the last note, beside the room's reverberation."""
FADE_IN_SECONDS, FADE_OUT_SECONDS = 0.005, 0.4

STINGER_SECONDS = (1.0, 4.0)
CHORD_PARTS = 4
"""So many instruments strike a chord, those that play most."""
ATTACK_REACH, ATTACK_SECONDS = 0.08, 0.05
"""Seconds around a beat in which the attack of a stinger is looked for, and how much is compared with as much."""
SPARED_SECONDS, SPARED_DB = 0.04, -24.0
"""So long before a stinger's beat the sound goes down by this: its attack is as long otherwise."""


@dataclass(frozen=True)
class Extra:
    """A piece to be performed, in seconds of its score.

    Attributes:
        name: of the piece, as in its file's name.
        kind: `stinger`, `intro`, `ending` or `transition`.
        score: what is played, `LEAD_SECONDS` of silence first.
        begin, entry, exit, end: of the file.
    """

    name: str
    kind: str
    score: Score
    begin: float
    entry: float
    exit: float
    end: float


# ---- scores ----


def extras_of(circle: Score, layers: Mapping[str, Score], grid: Grid, config: AmbienceConfig) -> list[Extra]:
    """The pieces that are asked for beside a loop, none where nothing was composed.

    Args:
        layers: the same by layer, from calm to intense; one alone where there are none.
    """
    if not circle.parts:
        return []
    found = []
    if "stingers" in config.extras:
        found += [_stinger(circle, grid, number) for number in range(config.stingers)]
    if "intro" in config.extras:
        found.append(_intro(circle, next(iter(layers.values())), grid))
    if "ending" in config.extras:
        found.append(_ending(circle, grid))
    return found


def _stinger(circle: Score, grid: Grid, number: int) -> Extra:
    """A chord on a beat, of the tonic, with notes that rise or fall to it, or none."""
    beat = grid.seconds / grid.n_beats
    entry = LEAD_SECONDS + PRE_SECONDS + 0.5 * beat
    lasting = float(np.clip(0.9 + 0.5 * (number // 3) + beat, *STINGER_SECONDS))
    parts = _chord(circle, 0, entry, entry + lasting, 112, thirds=number % 2 == 1)
    if direction := (1, -1, 0)[number % 3]:
        parts += _run(circle, direction, entry, 0.25 * beat)
    begin = entry - PRE_SECONDS - (0.5 * beat if direction else 0.0)
    end = min(entry + lasting + TAIL_SECONDS, begin + STINGER_SECONDS[1])
    return _extra(f"stinger_{number + 1}", "stinger", parts, (begin, entry, entry + lasting, end), circle)


def _intro(circle: Score, calm: Score, grid: Grid) -> Extra:
    """The last bars of the lap, which lead to its first: the calm layer, then all, growing louder."""
    beat, bar, n_bars = grid.seconds / grid.n_beats, grid.seconds / grid.bars, min(2, grid.bars)
    entry = LEAD_SECONDS + PRE_SECONDS + beat
    n_calm = (n_bars - 1) * bar
    parts = _excerpt(calm, grid, -n_bars * bar - beat, -n_bars * bar + n_calm, entry - beat, (0.6, 0.8))
    parts += _excerpt(circle, grid, -n_bars * bar + n_calm, 0.0, entry + n_calm, (0.8, 1.0))
    leave = entry + n_bars * bar
    return _extra("intro", "intro", parts, (entry - beat - PRE_SECONDS, entry, leave, None), circle)


def _ending(circle: Score, grid: Grid) -> Extra:
    """A bar of the dominant, then the tonic, held for a bar; notes rise to the first."""
    beat, bar = grid.seconds / grid.n_beats, grid.seconds / grid.bars
    entry = LEAD_SECONDS + PRE_SECONDS + 0.5 * beat
    parts = _run(circle, 1, entry, 0.25 * beat) + _chord(circle, 7, entry, entry + bar, 84)
    parts += _chord(circle, 0, entry + bar, entry + 2.0 * bar, 96)
    begin = entry - PRE_SECONDS - 0.5 * beat
    return _extra("ending", "ending", parts, (begin, entry, entry + 2.0 * bar, None), circle)


def transition(name: str, first: tuple[Score, Grid], second: tuple[Score, Grid]) -> Extra:
    """From a bar line of one loop to the beginning of another: a bar of the one, then the last bar of the other.

    Args:
        first, second: circle and lap of both rooms; each bar has its own tempo.
    """
    (before, old), (after, new) = first, second
    old_bar, new_bar = (grid.seconds / grid.bars for grid in (old, new))
    beat, entry = old_bar / old.beats_per_bar, LEAD_SECONDS + PRE_SECONDS
    middle = entry + old_bar
    parts = _excerpt(before, old, 0.0, old_bar, entry, (1.0, 0.5))
    parts += _chord(after, 7, middle - beat, middle, 72)
    parts += _excerpt(after, new, -new_bar, 0.0, middle, (0.6, 1.0))
    return _extra(name, "transition", parts, (entry - PRE_SECONDS, entry, middle + new_bar, None), after)


def _extra(
    name: str,
    kind: str,
    parts: Iterable[Part],
    marks: tuple[float, float, float, float | None],
    circle: Score,
) -> Extra:
    """A piece; without an end of its own it ends when its last note has died away."""
    begin, entry, leave, end = marks
    joined: dict[tuple[str, int, bool, str], list[Part]] = {}
    for part in parts:
        if len(part.pitches):
            joined.setdefault((part.name, part.program, part.is_drum, part.role), []).append(part)
    merged = [_merged(own) for own in joined.values()]
    last = max([leave, *(float(part.end_seconds.max()) for part in merged)])
    end = last + TAIL_SECONDS if end is None else end
    # Attacks may be late, so that the file may end late.
    seconds = max(end, last) + 2.0 * ATTACK_REACH
    return Extra(name, kind, Score(seconds, tuple(merged), key=circle.key), begin, entry, leave, end)


def _merged(parts: Sequence[Part]) -> Part:
    names = ("start_seconds", "end_seconds", "pitches", "velocities")
    starts, ends, pitches, velocities = (np.concatenate([getattr(p, name) for p in parts]) for name in names)
    order = np.lexsort((pitches, starts))
    return with_notes(parts[0], starts[order], ends[order], pitches[order], velocities[order])


def _excerpt(
    circle: Score, grid: Grid, begin: float, end: float, at: float, gains: tuple[float, float]
) -> list[Part]:
    """Notes that start within a stretch of a lap, which may begin before it, played `at` some time.

    Args:
        grid: the lap, by whose files time is counted.
        begin, end: of the stretch.
        at: when it is played.
        gains: of velocities, at the beginning and at the end.
    """
    stretch = grid.seconds / (circle.seconds / 2.0)
    parts = []
    for part in circle.parts:
        starts = (part.start_seconds * stretch - begin + 1e-6) % grid.seconds - 1e-6
        chosen = np.flatnonzero(starts < end - begin - 1e-3)
        chosen = chosen[np.argsort(starts[chosen], kind="stable")]
        own = np.maximum(starts[chosen], 0.0)
        lasting = (part.end_seconds - part.start_seconds)[chosen] * stretch
        gain = np.interp(own, [0.0, end - begin], gains)
        velocities = np.clip(np.rint(part.velocities[chosen] * gain), 1, 127).astype(np.int64)
        parts.append(with_notes(part, at + own, at + own + lasting, part.pitches[chosen], velocities))
    return parts


def _scale(circle: Score) -> tuple[int, tuple[int, ...]]:
    """The tonic as a pitch class, and the steps of its scale."""
    tonic, _, mode = (circle.key or circle.heard_key() or "C major").partition(" ")
    steps = (0, 2, 4, 5, 7, 9, 11) if mode == "major" else (0, 2, 3, 5, 7, 8, 10)
    return PITCH_NAMES.index(tonic), steps


def _chord(
    circle: Score, above_tonic: int, start: float, end: float, velocity: int, thirds: bool = True
) -> list[Part]:
    """A triad, struck by the instruments that play most, each near its usual pitches; drums strike what they do most.

    Args:
        above_tonic: semitones of the root, 0 or 7.
        start, end: of the chord.
        thirds: whether it has a third; an open chord fits most harmonies.
    """
    tonic, steps = _scale(circle)
    root = tonic + above_tonic
    # The dominant of a minor key is major, too.
    third = 4 if above_tonic else steps[2]
    classes = [root, root + 7, root + third if thirds else root]
    by_use = sorted(circle.parts, key=lambda part: -len(part.pitches))
    pitched = sorted((p for p in by_use if not p.is_drum), key=lambda p: float(np.median(p.pitches)))
    parts = []
    for index, part in enumerate(pitched[:CHORD_PARTS]):
        usual = float(np.median(part.pitches))
        wanted = classes[:1] if index == 0 and len(pitched) > 1 else classes
        pitches = sorted({int(np.clip(_nearest(usual, c), 0, 127)) for c in wanted})
        n = len(pitches)
        parts.append(with_notes(part, [start] * n, [end] * n, pitches, [velocity] * n))
    for part in [p for p in by_use if p.is_drum][:1]:
        pitch = int(np.bincount(part.pitches).argmax())
        parts.append(with_notes(part, [start], [min(end, start + 0.3)], [pitch], [velocity]))
    return parts


def _nearest(pitch: float, pitch_class: int) -> int:
    """The pitch of a class that is nearest to another."""
    low = round(pitch) - 6
    return low + (pitch_class - low) % 12


def _run(circle: Score, direction: int, until: float, step: float) -> list[Part]:
    """Two notes of the scale that lead to the tonic, by the highest instrument."""
    pitched = [part for part in circle.parts if not part.is_drum]
    if not pitched:
        return []
    part = max(pitched, key=lambda p: float(np.median(p.pitches)))
    tonic, steps = _scale(circle)
    goal = _nearest(float(np.median(part.pitches)), tonic)
    away = [steps[-1] - 12, steps[-2] - 12] if direction > 0 else [steps[1], steps[2]]
    pitches = [int(np.clip(goal + own, 0, 127)) for own in reversed(away)]
    starts = [until - 2.0 * step, until - step]
    return [with_notes(part, starts, [start + step for start in starts], pitches, [88, 96])]


# ---- performing and writing ----


@dataclass(frozen=True)
class Stage:
    """Where and how pieces are performed.

    Attributes:
        model: with a sketch.
        config: the files that are asked for.
        sampling: how tokens are drawn, with the seed.
        where: the music stands in its room.
        places: of single parts, by the names of `circle.single_parts`; used of AmbiX.
        as_made: leave the level as it is.
    """

    model: Silent2Music
    config: AmbienceConfig
    sampling: SamplingConfig
    where: Placement
    places: Mapping[str, Placement]
    as_made: bool


def around_entry(lap: Waveform, extra: Extra) -> Waveform:
    """The room under a piece: its lap again and again, beginning at the entry."""
    at = np.arange(round(extra.score.seconds * lap.sample_rate)) - round(extra.entry * lap.sample_rate)
    return Waveform(lap.samples[:, at % lap.n_samples], lap.sample_rate)


def write_extra(
    stem: str, extra: Extra, room: Waveform, stage: Stage, tag: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Perform a piece and write its files as `STEM_NAME.SUFFIX`; gives their entries in the manifest."""
    config, rate = stage.config, stage.config.sample_rate
    entries = []
    field, late = _performed(extra, room, stage)
    begin, end, entry, leave = (
        round((t - extra.begin) * rate) for t in (extra.begin, extra.end, extra.entry, extra.exit)
    )
    first = round((extra.begin + late) * rate)
    field = field[:, first : first + end]
    gains = _fades(end, rate) * (landed(end, entry, rate) if extra.kind == "stinger" else 1.0)
    field = np.pad(field, ((0, 0), (0, end - field.shape[1]))) * gains.astype(np.float32)
    for kind in kinds_of(config):
        sound = fold_down(field, kind)
        (held,), (quiet,) = levelled_set([sound], rate, [config.lufs], config.true_peak, stage.as_made)
        channels = described_channels(kind, config)
        for suffix in config.formats:
            path = Path(f"{stem}_{extra.name}{suffix_of(kind, config)}.{suffix}")
            samples = held if suffix == "ogg" else in_24_bits(held, stage.sampling.seed)
            marks = [begin, entry, leave]
            write_sound(path, Waveform(samples, rate), marks, {"extra": extra.name, **channels, **tag})
            back = audio.read(path)
            entries.append(
                {
                    "file": path.name,
                    "sha256": provenance.sha256(path),
                    "name": extra.name,
                    "kind": extra.kind,
                    "spatial": kind,
                    **channels,
                    "channels": back.n_channels,
                    "n_samples": back.n_samples,
                    "entry": entry,
                    "exit": leave,
                    "lufs": rounded_lufs(loudness_of(back.samples, rate)),
                    "true_peak_dbtp": round(audio.true_peak_dbtp(back), 2),
                    "nearly_nothing": quiet,
                    "seed": stage.sampling.seed,
                }
            )
    return entries


def _fades(n_samples: int, rate: int) -> DoubleArray:
    """Gains `[N]` of a file that begins and ends at zero."""
    at = np.arange(n_samples) / rate
    rise = np.clip(at / FADE_IN_SECONDS, 0.0, 1.0)
    fall = np.clip((n_samples / rate - at) / min(FADE_OUT_SECONDS, 0.25 * n_samples / rate), 0.0, 1.0)
    return np.asarray((0.5 - 0.5 * np.cos(np.pi * rise)) * (0.5 - 0.5 * np.cos(np.pi * fall)))


def _performed(extra: Extra, room: Waveform, stage: Stage) -> tuple[FloatArray, float]:
    """The field `[C, N]` of a piece with the room's reverberation after it, and by how much it is late, in seconds."""
    model, config, rate = stage.model, stage.config, stage.config.sample_rate
    in_parts = config.spatial == "ambix" and bool(extra.score.parts)
    voices = single_parts(extra.score) if in_parts else {"": extra.score}
    total: FloatArray | None = None
    dry: FloatArray | None = None
    for name, score in voices.items():
        music = model.generate(room, stage.sampling, score.seconds, score=score)
        pieces = list(at_rate([music], model.codec.extension, rate))
        sound = np.concatenate([piece.samples[0] for piece in pieces])
        ringing = np.pad(sound, (0, round(1.3 * stage.where.rt60_seconds * rate)))
        place = stage.places.get(name, stage.where)
        own = spatialised(ringing, rate, place, stage.sampling.seed, order_of(config))
        total = own if total is None else total + own
        dry = sound if dry is None else dry + sound
    assert total is not None and dry is not None
    return total, attack_near(dry, rate, extra.entry) - extra.entry if extra.kind == "stinger" else 0.0


def attack_near(samples: FloatArray, sample_rate: int, seconds: float) -> float:
    """When most is struck near a time in a sound `[N]`, in seconds: half-way up, where an attack takes its time.

    Mean magnitudes of a stretch after and as much before are compared, so that neither noise nor a codec's slow attacks
    move what is found.

    Example:
        >>> click = np.zeros(48_000, np.float32)
        >>> click[24_480:30_000] = 0.1
        >>> round(attack_near(click, 48_000, 0.5), 2)
        0.51
    """
    width, step = round(0.01 * sample_rate), round(0.001 * sample_rate)
    n, first = round(ATTACK_SECONDS * 1000), round((seconds - ATTACK_REACH - ATTACK_SECONDS) * sample_rate)
    n_frames = 2 * n + round(2000 * ATTACK_REACH)
    begins = first - width // 2 + step * np.arange(n_frames) + width
    padded = np.pad(samples, (width, width + n_frames * step))[begins.clip(0)[:, None] + np.arange(width)]
    levels = np.abs(np.fft.rfft(padded * np.hanning(width), axis=1))
    total = np.cumsum(levels, axis=0)
    rise = np.square(np.maximum(total[2 * n :] - 2.0 * total[n:-n] + total[: -2 * n], 0.0)).sum(axis=1)
    return (first + (n + 0.5 + int(np.argmax(rise))) * step) / sample_rate


def landed(n_samples: int, entry: int, rate: int) -> DoubleArray:
    """Gains `[N]` that spare the moment before a stinger's beat, so that what a codec's attack does early is not heard.

    Example:
        >>> gains = landed(48_000, 24_000, 48_000)
        >>> gains[[20_000, 23_000, 24_000]].round(2).tolist()
        [1.0, 0.06, 1.0]
    """
    away = (entry - np.arange(n_samples)) / rate
    gain_db = np.interp(
        away, [0.0, 0.003, SPARED_SECONDS, 1.5 * SPARED_SECONDS], [0.0, SPARED_DB, SPARED_DB, 0.0]
    )
    return np.asarray(10.0 ** (gain_db / 20.0))
