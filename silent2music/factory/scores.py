"""Scores: MIDI read into beats, with metre, tempo, key, phrases and passages.

Everything is counted in beats of the metre (a dotted quarter in 6/8, a half in 2/2), so that whoever retimes
a score need not know its time signatures. Vocal lines are dropped; where nothing else is left, they are kept
for an instrument to play.
"""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from silent2music.arrays import DoubleArray, IntArray
from silent2music.errors import DataError
from silent2music.keys import PITCH_NAMES, estimate_key

VOCAL_PROGRAMS = (52, 53, 54)
"""General MIDI's choir aahs, voice oohs and synth voice."""

VOICE_STAND_IN = 68
"""MuseScore plays a singer on the oboe; it counts as a voice where the index names a voice and no oboe."""

VOCAL_NAMES = re.compile(
    r"voice|voix|vocal|sing|gesang|stimme|chant|canto|sopran|mezzo|alt(o|us)?\b|contralto|tenor|ténor|"
    r"barit|bass [i1-2]|basso|choir|chor|women|men\b",
    re.IGNORECASE,
)

INSTRUMENT_NAMES = re.compile(
    r"sax|flute|recorder|clarinet|oboe|bassoon|horn|trumpet|trombone|tuba|viol|cello|bratsche|guitar|piano|"
    r"klavier|organ|harp|cembalo|drum",
    re.IGNORECASE,
)
"""A name such as "alto saxophone" or "tenor horn" is an instrument's."""

MIN_PHRASE_BEATS = 6

MAX_QUARTERS = 50_000
"""Some seven hours; a single event may claim to last for 268 million ticks."""


@dataclass(frozen=True)
class ScorePart:
    """One staff's notes.

    Attributes:
        name: as in the file, may be empty.
        program: General MIDI program, 0 to 127.
        start_beats, end_beats: `[n]` each, starts ascending, ends later than starts.
        pitches: `[n]` MIDI note numbers.
        velocities: `[n]` 1 to 127.
    """

    name: str
    program: int
    start_beats: DoubleArray
    end_beats: DoubleArray
    pitches: IntArray
    velocities: IntArray


@dataclass(frozen=True)
class SourceScore:
    """A piece in beats.

    Attributes:
        source: path of the file as given.
        parts: instrumental parts, none empty.
        n_beats: length.
        bar_beats: `[Q]` beat index of every bar start, ascending.
        tempos: (beat, beats per minute) of every change; never empty.
        tonic: pitch class of the key, 0 is C.
        mode: `major` or `minor`.
    """

    source: str
    parts: tuple[ScorePart, ...]
    n_beats: int
    bar_beats: IntArray
    tempos: tuple[tuple[float, float], ...]
    tonic: int
    mode: str

    @property
    def key(self) -> str:
        """Tonic and mode in words, such as "A minor"."""
        return f"{PITCH_NAMES[self.tonic]} {self.mode}"

    @property
    def tempo_bpm(self) -> float:
        """The tempo that most beats are played at, in beats per minute."""
        starts = np.array([beat for beat, _ in self.tempos])
        lengths = np.diff(np.append(starts, max(float(self.n_beats), float(starts[-1]) + 1.0)))
        return self.tempos[int(np.argmax(lengths))][1]


@dataclass(frozen=True)
class Notes:
    """Notes of all parts together, as parallel arrays `[n]` sorted by start."""

    starts: DoubleArray
    ends: DoubleArray
    pitches: IntArray
    velocities: IntArray

    @staticmethod
    def joined(pieces: Sequence[Notes]) -> Notes:
        """The notes of several pieces, one piece after the other."""
        names = [field.name for field in fields(Notes)]
        return Notes(*(np.concatenate([getattr(piece, name) for piece in pieces]) for name in names))

    def at(self, index: Any) -> Notes:
        """Those of an index or mask `[n]`."""
        return Notes(self.starts[index], self.ends[index], self.pitches[index], self.velocities[index])


@dataclass(frozen=True)
class Passage:
    """A stretch of music cut from a score to a needed length.

    Attributes:
        n_beats: length.
        notes: in beats from the start of the passage, none beyond its end.
        bar_beats: `[Q]` beat index of every bar start inside; the first is 0.
        tonic, mode: the key of the passage itself.
    """

    n_beats: int
    notes: Notes
    bar_beats: IntArray
    tonic: int
    mode: str

    def transposed(self, semitones: int) -> Passage:
        """The passage so many semitones higher."""
        notes = replace(self.notes, pitches=self.notes.pitches + semitones)
        return replace(self, notes=notes, tonic=(self.tonic + semitones) % 12)


def load_score(path: Path) -> SourceScore:
    """Read a MIDI file.

    Vocal parts are told by track name, by General MIDI's voice programs and, for a file listed in an
    `index.tsv` (columns `path` and `parts`) of a folder above, by the parts named there.

    Raises:
        DataError: if the file is missing, is no MIDI or has no notes.
    """
    import symusic

    if not path.is_file():
        raise DataError(f"{path} does not exist; expected a MIDI file.")
    try:
        raw = symusic.Score(path)
    except Exception as error:
        raise DataError(f"{path} cannot be read as MIDI ({error}); export it again.") from error
    if raw.tpq < 1 or int(raw.end()) > MAX_QUARTERS * raw.tpq:
        raise DataError(
            f"{path} has {raw.tpq} ticks a quarter and lasts {int(raw.end())} ticks; expected 1 or more, and at most "
            f"{MAX_QUARTERS} quarters: export it again."
        )
    tracks = [track for track in raw.tracks if len(track.notes) and not track.is_drum]
    if not tracks:
        raise DataError(f"{path} holds no notes; expected a score with at least one pitched part.")
    instrumental = [track for track in tracks if not _is_vocal(track, _listed_parts(path))]
    kept = instrumental or tracks
    beat_ticks, bar_beats = _metre(raw, max(int(track.end()) for track in kept))
    parts = tuple(_part(track, beat_ticks, bool(instrumental)) for track in kept)
    n_beats = max(1, int(np.ceil(max(float(part.end_beats.max()) for part in parts) - 1e-3)))
    tonic, mode = estimate_key(
        np.concatenate([part.pitches for part in parts]),
        np.concatenate([part.end_beats - part.start_beats for part in parts]),
    )
    tempos = _tempos(raw, beat_ticks)
    return SourceScore(str(path), parts, n_beats, bar_beats[bar_beats < n_beats], tempos, tonic, mode)


def _tempos(raw: Any, beat_ticks: DoubleArray) -> tuple[tuple[float, float], ...]:
    """(beat, beats per minute) of every change of tempo."""
    tempos = []
    for tempo in raw.tempos:
        beat = float(np.interp(tempo.time, beat_ticks, np.arange(len(beat_ticks))))
        following, last = min(int(beat) + 1, len(beat_ticks) - 1), min(int(beat), len(beat_ticks) - 2)
        ticks = float(beat_ticks[following] - beat_ticks[last])
        tempos.append((beat, float(tempo.qpm) * float(raw.tpq) / max(ticks, 1.0)))
    return tuple(tempos) or ((0.0, 120.0),)


def _part(track: Any, beat_ticks: DoubleArray, keep_program: bool) -> ScorePart:
    """A symusic track in beats; a vocal line left alone is given to the piano."""
    arrays = track.notes.numpy()
    order = np.lexsort((arrays["pitch"], arrays["time"]))
    starts = arrays["time"][order].astype(np.float64)
    ends = starts + np.maximum(arrays["duration"][order], 1)
    beats = np.arange(len(beat_ticks), dtype=np.float64)
    return ScorePart(
        name=str(track.name),
        program=int(track.program) if keep_program else 0,
        start_beats=np.interp(starts, beat_ticks, beats),
        end_beats=np.interp(ends, beat_ticks, beats),
        pitches=arrays["pitch"][order].astype(np.int64),
        velocities=np.maximum(arrays["velocity"][order], 1).astype(np.int64),
    )


def _metre(raw: Any, end_tick: int) -> tuple[DoubleArray, IntArray]:
    """Beat positions in ticks (one beyond the end) and beat indices of bar starts."""
    tpq = int(raw.tpq)
    changes = [(int(s.time), int(s.numerator), int(s.denominator)) for s in raw.time_signatures]
    changes = [c for c in changes if c[1] > 0 and c[2] > 0]
    if not changes or changes[0][0] > 0:
        changes.insert(0, (0, 4, 4))
    ticks: list[float] = []
    bars: list[int] = []
    for index, (start, numerator, denominator) in enumerate(changes):
        stop = changes[index + 1][0] if index + 1 < len(changes) else end_tick + 4 * tpq
        compound = denominator >= 8 and numerator % 3 == 0
        beat = tpq * 4 / denominator * (3 if compound else 1)
        beats_in_bar = numerator // 3 if compound else numerator
        n_beats = max(0, round((stop - start) / beat))
        bars.extend(len(ticks) + b for b in range(0, n_beats, beats_in_bar))
        ticks.extend(start + beat * b for b in range(n_beats))
    ticks.append(max(float(end_tick), ticks[-1] + 1.0) if ticks[-1] < end_tick else ticks[-1] + tpq)
    return np.array(ticks), np.array(bars, np.int64)


def _is_vocal(track: Any, listed: tuple[str, ...]) -> bool:
    """Whether a track is sung."""
    name, program = str(track.name), int(track.program)
    if INSTRUMENT_NAMES.search(name):
        return False
    if VOCAL_NAMES.search(name) or program in VOCAL_PROGRAMS:
        return True
    names = " ".join(listed).lower()
    has_oboe = any(word in names for word in ("oboe", "hautbois", "ossia"))
    return program == VOICE_STAND_IN and not has_oboe and bool(VOCAL_NAMES.search(names))


def _listed_parts(path: Path) -> tuple[str, ...]:
    """The part names that an `index.tsv` above the file gives for it."""
    path = path.absolute()  # not resolved: a folder of scores may be linked to, and its index names the link
    for folder in list(path.parents)[:3]:
        index = folder / "index.tsv"
        if index.is_file():
            return _read_index(index).get(path.relative_to(folder).as_posix(), ())
    return ()


@functools.lru_cache(maxsize=8)
def _read_index(index: Path) -> dict[str, tuple[str, ...]]:
    """Part names by path."""
    with index.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return {row["path"]: tuple((row.get("parts") or "").split(", ")) for row in rows if row.get("path")}


def all_notes(score: SourceScore) -> Notes:
    """Every note of every part, in beats, sorted by start and then by pitch."""
    notes = Notes.joined([Notes(p.start_beats, p.end_beats, p.pitches, p.velocities) for p in score.parts])
    return notes.at(np.lexsort((notes.pitches, notes.starts)))


def phrase_starts(score: SourceScore) -> list[int]:
    """Beats of the bar lines where a listener hears an end and a new beginning, from 0 on.

    The strength of a bar line is, after the proximity rules of Cambouropoulos' Local Boundary Detection Model
    (2001), the rest before it plus how long over a beat the last onset lies back (a long note, a cadence). A
    phrase starts at a bar line whose strength is at least half a beat, a local maximum and `MIN_PHRASE_BEATS`
    after the start before; after 32 beats at the latest.
    """
    notes = all_notes(score)
    bars = score.bar_beats
    onsets = np.unique(np.round(notes.starts, 3))
    ends = np.maximum.accumulate(notes.ends)
    strength = np.zeros(len(bars))
    for index, bar in enumerate(bars[1:], start=1):
        before = int(np.searchsorted(onsets, bar - 1e-3))
        last = onsets[before - 1] if before else 0.0
        n_started = int(np.searchsorted(notes.starts, bar - 1e-3))
        rest = max(0.0, bar - float(ends[n_started - 1])) if n_started else float(bar)
        strength[index] = rest + max(0.0, float(bar - last) - 1.0)
    starts = [0]
    for index in range(1, len(bars)):
        length = bars[index] - starts[-1]
        strongest = max(0.5, float(strength[max(1, index - 1) : index + 2].max()))
        if (length >= MIN_PHRASE_BEATS and strength[index] >= strongest) or length >= 32:
            starts.append(int(bars[index]))
    return [start for start in starts if start == 0 or score.n_beats - start >= 2]


def pick_passage(score: SourceScore, n_beats: int, rng: np.random.Generator, mode: str = "") -> Passage:
    """A contiguous passage from a phrase start on, going on over the phrases; a short score loops to another.

    Args:
        score: where to take it from.
        n_beats: needed length.
        rng: chooses the phrase.
        mode: `major` or `minor` if passages of that mode are preferred.
    """
    starts, notes = phrase_starts(score), all_notes(score)
    pieces: list[Notes] = []
    bars: list[IntArray] = []
    done = 0
    start = _choose_start(starts, notes, score, n_beats, rng, mode)
    while done < n_beats:
        length = min(n_beats - done, score.n_beats - start)
        inside = notes.at((notes.starts >= start - 1e-6) & (notes.starts < start + length - 1e-6))
        ends = np.minimum(inside.ends, start + length) - start + done
        pieces.append(replace(inside, starts=inside.starts - start + done, ends=ends))
        here = score.bar_beats[(score.bar_beats >= start) & (score.bar_beats < start + length)]
        bars.append(here - start + done)
        done += length
        start = _choose_start(starts, notes, score, n_beats - done, rng, mode)
    whole = Notes.joined(pieces)
    tonic, found_mode = score.tonic, score.mode
    if len(whole.starts):
        tonic, found_mode = estimate_key(whole.pitches, whole.ends - whole.starts)
    return Passage(done, whole, np.concatenate(bars), tonic, found_mode)


def _choose_start(
    starts: list[int], notes: Notes, score: SourceScore, n_beats: int, rng: np.random.Generator, mode: str
) -> int:
    """Start beat of a phrase: long enough to the end, full of notes, in the wanted mode."""
    weights = np.zeros(len(starts))
    for index, start in enumerate(starts):
        stop = min(start + max(n_beats, 8), score.n_beats)
        inside = (notes.starts >= start) & (notes.starts < stop)
        beats = np.unique(notes.starts[inside].astype(np.int64))
        weight = 0.02 + (len(beats) / max(stop - start, 1)) ** 2
        if score.n_beats - start < n_beats:
            weight *= 0.2 * (score.n_beats - start) / n_beats
        if mode and inside.any():
            durations = notes.ends[inside] - notes.starts[inside]
            weight *= 1.0 if estimate_key(notes.pitches[inside], durations)[1] == mode else 0.3
        weights[index] = weight
    return starts[int(rng.choice(len(starts), p=weights / weights.sum()))]
