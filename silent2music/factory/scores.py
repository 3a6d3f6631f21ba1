"""Scores: MIDI read into beats, with metre, tempo, key, phrases and passages.

Everything is counted in beats of the metre (a dotted quarter in 6/8, a half in 2/2), so that whoever retimes
a score need not know its time signatures. Vocal lines and drums are kept apart from the instruments; where a
score has nothing but vocal lines, instruments are to play them. Faults that converted scores have in common are
mended: contrabasses and piccolos at written pitch, and tempos that nobody could play.
"""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
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

SLOWEST_ONSETS, FASTEST_ONSETS = 0.5, 7.0
"""Moments a second at which notes start, on average over a piece; a tempo that gives others was guessed wrongly."""

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
    """A piece in beats, as it is before it is set to a room.

    Attributes:
        source: path of the file as given.
        parts: instrumental parts, none empty; no part at all where the file holds drums alone.
        n_beats: length.
        bar_beats: `[Q]` beat index of every bar start, ascending.
        tempos: (beat, beats per minute) of every change; never empty.
        tonic: pitch class of the key, 0 is C.
        mode: `major` or `minor`.
        sung: vocal lines, which are in no part.
        drums: drum kits, whose pitches are keys of General MIDI's kit.
    """

    source: str
    parts: tuple[ScorePart, ...]
    n_beats: int
    bar_beats: IntArray
    tempos: tuple[tuple[float, float], ...]
    tonic: int
    mode: str
    sung: tuple[ScorePart, ...] = ()
    drums: tuple[ScorePart, ...] = ()

    def with_voices(self) -> SourceScore:
        """The same with the vocal lines among the instrumental parts."""
        return replace(self, parts=(*self.sung, *self.parts), sung=())

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
        pieces = pieces or [Notes(np.zeros(0), np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64))]
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
        drums: likewise, of the drum kit.
    """

    n_beats: int
    notes: Notes
    bar_beats: IntArray
    tonic: int
    mode: str
    drums: Notes = field(default_factory=lambda: Notes.joined([]))

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
    tracks = [track for track in raw.tracks if len(track.notes)]
    if not tracks:
        raise DataError(f"{path} holds no notes; expected a score with at least one.")
    pitched, listed = [track for track in tracks if not track.is_drum], _listed_parts(path)
    groups: tuple[list[Any], list[Any]] = ([], [])
    for track in pitched:
        groups[_is_vocal(track, listed)].append(track)
    only_sung = not groups[0]
    instrumental, sung = (groups[1], []) if only_sung else groups
    beat_ticks, bar_beats = _metre(raw, max(int(track.end()) for track in tracks))
    parts, sung_parts, drums = (
        tuple(_part(track, beat_ticks, not only_sung) for track in group)
        for group in (instrumental, sung, [track for track in tracks if track.is_drum])
    )
    n_beats = max(1, int(np.ceil(max(float(part.end_beats.max()) for part in parts or drums) - 1e-3)))
    key_notes = Notes.joined([_notes_of(part) for part in parts])
    tonic, mode = (
        estimate_key(key_notes.pitches, key_notes.ends - key_notes.starts) if parts else (0, "major")
    )
    tempos = (
        _playable(_tempos(raw, beat_ticks), key_notes.starts, n_beats) if parts else _tempos(raw, beat_ticks)
    )
    bars = bar_beats[bar_beats < n_beats]
    return SourceScore(str(path), parts, n_beats, bars, tempos, tonic, mode, sung_parts, drums)


def _notes_of(part: ScorePart) -> Notes:
    return Notes(part.start_beats, part.end_beats, part.pitches, part.velocities)


Tempos = tuple[tuple[float, float], ...]


def _playable(tempos: Tempos, starts: DoubleArray, n_beats: int) -> Tempos:
    """Tempos, halved or doubled where the piece would else be faster or slower than any that is played."""
    seconds = sum(
        (after - before) * 60.0 / bpm
        for (before, bpm), after in zip(tempos, [*(beat for beat, _ in tempos[1:]), n_beats], strict=True)
    )
    rate = len(np.unique(np.round(starts, 3))) / max(float(seconds), 1e-3)
    factor = 0.5 if rate > FASTEST_ONSETS else 2.0 if rate < SLOWEST_ONSETS else 1.0
    return tuple((beat, bpm * factor) for beat, bpm in tempos)


def _tempos(raw: Any, beat_ticks: DoubleArray) -> Tempos:
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
        pitches=_sounding(track, arrays["pitch"][order].astype(np.int64)),
        velocities=np.maximum(arrays["velocity"][order], 1).astype(np.int64),
    )


def _sounding(track: Any, pitches: IntArray) -> IntArray:
    """Pitches `[n]` of a track as they sound: a contrabass or a piccolo that is written an octave off is moved.

    Nearly all contrabass parts that sound as noted have their median at or below A2, those at written pitch above
    it; of piccolos the border lies at D#6, and nothing above C#7 is written.
    """
    name = str(track.name).lower()
    if re.search(r"contra ?bass|kontrabas|double ?bass", name) and not re.search(
        "clar|sax|tuba|bassoon", name
    ):
        return pitches - 12 if np.median(pitches) > 45 and pitches.min() >= 24 else pitches
    if re.search(r"piccolo|ottavino", name) and not re.search("violon|clar|tromb|trump|cornet", name):
        return pitches + 12 if np.median(pitches) < 87 and pitches.max() <= 97 else pitches
    return pitches


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


def all_notes(parts: Sequence[ScorePart]) -> Notes:
    """Every note of some parts, in beats, sorted by start and then by pitch."""
    notes = Notes.joined([_notes_of(part) for part in parts])
    return notes.at(np.lexsort((notes.pitches, notes.starts)))


def phrase_starts(score: SourceScore) -> list[int]:
    """Beats of the bar lines where a listener hears an end and a new beginning, from 0 on.

    The strength of a bar line is, after the proximity rules of Cambouropoulos' Local Boundary Detection Model
    (2001), the rest before it plus how long over a beat the last onset lies back (a long note, a cadence). A
    phrase starts at a bar line whose strength is at least half a beat, a local maximum and `MIN_PHRASE_BEATS`
    after the start before; after 32 beats at the latest.
    """
    notes = all_notes(score.parts or score.drums)
    bars = score.bar_beats
    onsets = np.unique(np.round(notes.starts, 3))
    ends = np.maximum.accumulate(notes.ends)
    # Onsets, and notes, that have started before each bar line.
    n_onsets, n_started = (np.searchsorted(times, bars - 1e-3) for times in (onsets, notes.starts))
    last = np.where(n_onsets > 0, onsets[np.maximum(n_onsets - 1, 0)], 0.0)
    ended = np.where(n_started > 0, ends[np.maximum(n_started - 1, 0)], 0.0)
    strength = np.maximum(0.0, bars - ended) + np.maximum(0.0, bars - last - 1.0)
    starts = [0]
    for index in range(1, len(bars)):
        length = bars[index] - starts[-1]
        strongest = max(0.5, float(strength[max(1, index - 1) : index + 2].max()))
        if (length >= MIN_PHRASE_BEATS and strength[index] >= strongest) or length >= 32:
            starts.append(int(bars[index]))
    return [start for start in starts if start == 0 or score.n_beats - start >= 2]


@dataclass(frozen=True)
class Wish:
    """What is welcome in a passage.

    Attributes:
        mode: `major` or `minor`, or empty.
        onsets_per_beat: moments at which notes start, or 0 for any number.
        closes: whether it should end where a phrase ends, as with a cadence.
    """

    mode: str = ""
    onsets_per_beat: float = 0.0
    closes: bool = False


def pick_passage(score: SourceScore, n_beats: int, rng: np.random.Generator, wish: Wish = Wish()) -> Passage:
    """A contiguous passage from a phrase start on, going on over the phrases; a short score loops to another."""
    starts, notes, drums = phrase_starts(score), all_notes(score.parts), all_notes(score.drums)
    pieces: list[Notes] = []
    drummed: list[Notes] = []
    bars: list[IntArray] = []
    done = 0
    start = _choose_start(starts, notes, score, n_beats, rng, wish)
    while done < n_beats:
        length = min(n_beats - done, score.n_beats - start)
        for played, kept in ((notes, pieces), (drums, drummed)):
            kept.append(_cut(played, start, length, done))
        here = score.bar_beats[(score.bar_beats >= start) & (score.bar_beats < start + length)]
        bars.append(here - start + done)
        done += length
        start = _choose_start(starts, notes, score, n_beats - done, rng, wish) if done < n_beats else 0
    whole = Notes.joined(pieces)
    tonic, found_mode = score.tonic, score.mode
    if len(whole.starts):
        tonic, found_mode = estimate_key(whole.pitches, whole.ends - whole.starts)
    return Passage(done, whole, np.concatenate(bars), tonic, found_mode, Notes.joined(drummed))


def _cut(notes: Notes, start: int, length: int, to: int) -> Notes:
    """The notes that start in `length` beats from `start` on, none going on beyond, moved to begin at beat `to`."""
    first, last = np.searchsorted(notes.starts, (start - 1e-6, start + length - 1e-6))
    inside = notes.at(slice(first, last))
    ends = np.minimum(inside.ends, start + length) - start + to
    return replace(inside, starts=inside.starts - start + to, ends=ends)


def _choose_start(
    starts: list[int], notes: Notes, score: SourceScore, n_beats: int, rng: np.random.Generator, wish: Wish
) -> int:
    """Start beat of a phrase: long enough to the end, full of notes, and as wished for."""
    onsets = np.unique(np.round(notes.starts, 3))
    weights = np.zeros(len(starts))
    ends = {*starts, score.n_beats}
    for index, start in enumerate(starts):
        stop = min(start + max(n_beats, 8), score.n_beats)
        inside = onsets[slice(*np.searchsorted(onsets, (start, stop)))]
        beats = np.unique(inside.astype(np.int64))
        weight = 0.02 + (len(beats) / max(stop - start, 1)) ** 2
        if score.n_beats - start < n_beats:
            weight *= 0.2 * (score.n_beats - start) / n_beats
        if wish.onsets_per_beat and len(inside):
            rate = len(inside) / max(stop - start, 1)
            weight *= float(np.exp(-1.5 * abs(np.log2(rate / wish.onsets_per_beat))))
        if wish.closes and any(abs(start + n_beats - end) <= 1 for end in ends):
            weight *= 3.0
        if wish.mode and len(inside):
            here = notes.at(slice(*np.searchsorted(notes.starts, (start, stop))))
            weight *= 1.0 if estimate_key(here.pitches, here.ends - here.starts)[1] == wish.mode else 0.3
        weights[index] = weight
    return starts[int(rng.choice(len(starts), p=weights / weights.sum()))]
