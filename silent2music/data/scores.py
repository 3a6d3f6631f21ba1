"""Scores: MIDI read into beats, with metre, tempo, key, phrases and passages.

Everything is counted in beats of the metre (a dotted quarter in 6/8, a half in 2/2), so that whoever retimes
a score need not know its time signatures. Vocal lines are dropped; where nothing else is left, they are kept
for an instrument to play.
"""

from __future__ import annotations

import csv
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silent2music.errors import DataError
from silent2music.keys import PITCH_NAMES, estimate_key

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

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
    start_beats: FloatArray
    end_beats: FloatArray
    pitches: IntArray
    velocities: IntArray


@dataclass(frozen=True)
class Score:
    """A piece in beats.

    Attributes:
        source: path of the file as given.
        parts: instrumental parts, none empty.
        n_beats: length.
        bar_beats: `[Q]` beat index of every bar start, ascending.
        time_signatures: (beat, numerator, denominator) of every change.
        tempos: (beat, beats per minute) of every change; never empty.
        tonic: pitch class of the key, 0 is C.
        mode: `major` or `minor`.
        density: distinct onsets per beat.
        pitch_range: lowest and highest MIDI note number.
    """

    source: str
    parts: tuple[ScorePart, ...]
    n_beats: int
    bar_beats: IntArray
    time_signatures: tuple[tuple[int, int, int], ...]
    tempos: tuple[tuple[float, float], ...]
    tonic: int
    mode: str
    density: float
    pitch_range: tuple[int, int]

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

    starts: FloatArray
    ends: FloatArray
    pitches: IntArray
    velocities: IntArray


@dataclass(frozen=True)
class Phrase:
    """A stretch of a score from bar start to bar start, in beats."""

    start_beat: int
    end_beat: int


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


def load_score(path: Path) -> Score:
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
    tracks = [track for track in raw.tracks if len(track.notes) and not track.is_drum]
    if not tracks:
        raise DataError(f"{path} holds no notes; expected a score with at least one pitched part.")
    instrumental = [track for track in tracks if not _is_vocal(track, _listed_parts(path))]
    kept = instrumental or tracks
    beat_ticks, bar_beats, signatures = _metre(raw, max(int(track.end()) for track in kept))
    parts = tuple(_part(track, beat_ticks, bool(instrumental)) for track in kept)
    return _described(str(path), parts, beat_ticks, bar_beats, signatures, raw)


def _described(
    source: str,
    parts: tuple[ScorePart, ...],
    beat_ticks: FloatArray,
    bar_beats: IntArray,
    signatures: tuple[tuple[int, int, int], ...],
    raw: Any,
) -> Score:
    """A score with everything that follows from its notes."""
    tempos = []
    for tempo in raw.tempos:
        beat = float(np.interp(tempo.time, beat_ticks, np.arange(len(beat_ticks))))
        quarters = (
            beat_ticks[min(int(beat) + 1, len(beat_ticks) - 1)]
            - beat_ticks[min(int(beat), len(beat_ticks) - 2)]
        )
        tempos.append((beat, float(tempo.qpm) * float(raw.tpq) / max(float(quarters), 1.0)))
    pitches = np.concatenate([part.pitches for part in parts])
    durations = np.concatenate([part.end_beats - part.start_beats for part in parts])
    tonic, mode = estimate_key(pitches, durations)
    onsets = np.unique(np.round(np.concatenate([part.start_beats for part in parts]), 3))
    n_beats = max(1, int(np.ceil(max(float(part.end_beats.max()) for part in parts) - 1e-3)))
    return Score(
        source=source,
        parts=parts,
        n_beats=n_beats,
        bar_beats=bar_beats[bar_beats < n_beats],
        time_signatures=signatures,
        tempos=tuple(tempos) or ((0.0, 120.0),),
        tonic=tonic,
        mode=mode,
        density=len(onsets) / n_beats,
        pitch_range=(int(pitches.min()), int(pitches.max())),
    )


def _part(track: Any, beat_ticks: FloatArray, keep_program: bool) -> ScorePart:
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


def _metre(raw: Any, end_tick: int) -> tuple[FloatArray, IntArray, tuple[tuple[int, int, int], ...]]:
    """Beat positions in ticks (one beyond the end), beat indices of bar starts, and the signatures by beat."""
    tpq = int(raw.tpq)
    changes = [(int(s.time), int(s.numerator), int(s.denominator)) for s in raw.time_signatures]
    changes = [c for c in changes if c[1] > 0 and c[2] > 0]
    if not changes or changes[0][0] > 0:
        changes.insert(0, (0, 4, 4))
    ticks: list[float] = []
    bars: list[int] = []
    signatures = []
    for index, (start, numerator, denominator) in enumerate(changes):
        stop = changes[index + 1][0] if index + 1 < len(changes) else end_tick + 4 * tpq
        compound = denominator >= 8 and numerator % 3 == 0
        beat = tpq * 4 / denominator * (3 if compound else 1)
        beats_in_bar = numerator // 3 if compound else numerator
        n_beats = max(0, round((stop - start) / beat))
        if n_beats == 0:
            continue
        signatures.append((len(ticks), numerator, denominator))
        bars.extend(len(ticks) + b for b in range(0, n_beats, beats_in_bar))
        ticks.extend(start + beat * b for b in range(n_beats))
    ticks.append(max(float(end_tick), ticks[-1] + 1.0) if ticks[-1] < end_tick else ticks[-1] + tpq)
    return np.array(ticks), np.array(bars, np.int64), tuple(signatures)


def _is_vocal(track: Any, listed: tuple[str, ...]) -> bool:
    """Whether a track is sung."""
    name, program = str(track.name), int(track.program)
    if INSTRUMENT_NAMES.search(name):
        return False
    if VOCAL_NAMES.search(name):
        return True
    if program in VOCAL_PROGRAMS:
        return True
    names = " ".join(listed).lower()
    has_oboe = any(word in names for word in ("oboe", "hautbois", "ossia"))
    return program == VOICE_STAND_IN and not has_oboe and bool(VOCAL_NAMES.search(names))


def _listed_parts(path: Path) -> tuple[str, ...]:
    """The part names that an `index.tsv` above the file gives for it."""
    for folder in list(path.resolve().parents)[:3]:
        index = folder / "index.tsv"
        if index.is_file():
            return _read_index(index).get(path.resolve().relative_to(folder).as_posix(), ())
    return ()


@functools.lru_cache(maxsize=8)
def _read_index(index: Path) -> dict[str, tuple[str, ...]]:
    """Part names by path."""
    with index.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return {row["path"]: tuple((row.get("parts") or "").split(", ")) for row in rows if row.get("path")}


def all_notes(score: Score) -> Notes:
    """Every note of every part, in beats, sorted by start and then by pitch."""
    starts = np.concatenate([part.start_beats for part in score.parts])
    ends = np.concatenate([part.end_beats for part in score.parts])
    pitches = np.concatenate([part.pitches for part in score.parts])
    velocities = np.concatenate([part.velocities for part in score.parts])
    order = np.lexsort((pitches, starts))
    return Notes(starts[order], ends[order], pitches[order], velocities[order])


def phrases(score: Score) -> list[Phrase]:
    """Split at the bar lines where a listener hears an end.

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
    cuts = [0]
    for index in range(1, len(bars)):
        window = strength[max(1, index - 1) : index + 2]
        far_enough = bars[index] - cuts[-1] >= MIN_PHRASE_BEATS
        heard = far_enough and strength[index] >= max(0.5, float(window.max()))
        if heard or bars[index] - cuts[-1] >= 32:
            cuts.append(int(bars[index]))
    cuts = [cut for cut in cuts if cut == 0 or score.n_beats - cut >= 2]
    return [Phrase(a, b) for a, b in zip(cuts, [*cuts[1:], score.n_beats], strict=True)]


def pick_passage(
    score: Score, n_beats: int, rng: np.random.Generator, mode: str = "", avoid: tuple[int, ...] = ()
) -> Passage:
    """A contiguous passage from a phrase start on, going on over the phrases; a short score loops to another.

    Args:
        score: where to take it from.
        n_beats: needed length.
        rng: chooses the phrase.
        mode: `major` or `minor` if passages of that mode are preferred.
        avoid: start beats already used, less likely to be taken again.
    """
    pieces: list[tuple[int, int]] = []
    candidates = phrases(score)
    notes = all_notes(score)
    start = _choose_start(candidates, notes, score, n_beats, rng, mode, avoid)
    remaining = n_beats
    while remaining > 0:
        taken = min(remaining, score.n_beats - start)
        pieces.append((start, taken))
        remaining -= taken
        start = _choose_start(candidates, notes, score, remaining, rng, mode, ())
    return _joined(score, notes, pieces)


def _choose_start(
    candidates: list[Phrase],
    notes: Notes,
    score: Score,
    n_beats: int,
    rng: np.random.Generator,
    mode: str,
    avoid: tuple[int, ...],
) -> int:
    """Start beat of a phrase: long enough to the end, full of notes, in the wanted mode, not yet used."""
    weights = np.zeros(len(candidates))
    for index, phrase in enumerate(candidates):
        stop = min(phrase.start_beat + max(n_beats, 8), score.n_beats)
        inside = (notes.starts >= phrase.start_beat) & (notes.starts < stop)
        beats = np.unique(notes.starts[inside].astype(np.int64))
        filled = len(beats) / max(stop - phrase.start_beat, 1)
        weight = 0.02 + filled**2
        if score.n_beats - phrase.start_beat < n_beats:
            weight *= 0.2 * (score.n_beats - phrase.start_beat) / n_beats
        if mode and inside.any():
            durations = notes.ends[inside] - notes.starts[inside]
            weight *= 1.0 if estimate_key(notes.pitches[inside], durations)[1] == mode else 0.3
        if phrase.start_beat in avoid:
            weight *= 0.05
        weights[index] = weight
    return candidates[int(rng.choice(len(candidates), p=weights / weights.sum()))].start_beat


def _joined(score: Score, notes: Notes, pieces: list[tuple[int, int]]) -> Passage:
    """Pieces (start beat, beats) of a score set one after the other."""
    columns: list[list[NDArray[np.float64]]] = [[], [], [], []]
    bars: list[IntArray] = []
    offset = 0
    for start, length in pieces:
        inside = (notes.starts >= start - 1e-6) & (notes.starts < start + length - 1e-6)
        columns[0].append(notes.starts[inside] - start + offset)
        columns[1].append(np.minimum(notes.ends[inside], start + length) - start + offset)
        columns[2].append(notes.pitches[inside].astype(np.float64))
        columns[3].append(notes.velocities[inside].astype(np.float64))
        here = score.bar_beats[(score.bar_beats >= start) & (score.bar_beats < start + length)]
        bars.append(here - start + offset)
        offset += length
    starts, ends, pitches, velocities = (np.concatenate(column) for column in columns)
    whole = Notes(starts, ends, pitches.astype(np.int64), velocities.astype(np.int64))
    tonic, mode = (
        estimate_key(whole.pitches, whole.ends - whole.starts) if len(starts) else (score.tonic, score.mode)
    )
    return Passage(offset, whole, np.concatenate(bars), tonic, mode)
