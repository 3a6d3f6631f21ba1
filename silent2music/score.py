"""Scores: the notes of a piece by instrument, with tempo map, bars, key and cues; MIDI files in and out.

Times are seconds from the start of the piece. A score that was read from a MIDI file keeps the file's tempo map, so
that writing it gives the same ticks again; of a score that was made here, the map follows from its beats and bars.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from silent2music.arrays import DoubleArray, IntArray
from silent2music.errors import DataError, require
from silent2music.files import atomic_path
from silent2music.keys import PITCH_NAMES, estimate_key
from silent2music.tempo_map import DEFAULT_QUARTER_US, TempoMap, map_of_beats

ENERGY_RATE_HZ = 10.0
"""Rate of every energy, loudness, valence and arousal curve."""

ROLES = ("melody", "harmony", "bass", "percussion")
"""What a part may be in the music, which is also the stem that it belongs to."""

PITCH_BEND = 128
"""Stands for the pitch wheel among the numbers of controllers; its values are -8192 to 8191."""

EXPRESSION = 11
"""The controller that carries `Score.gain_db` in MIDI files."""

MIDI_SUFFIXES = (".mid", ".midi")

MAX_SECONDS = 24 * 3600.0
MAX_FILE_BYTES = 64 * 2**20
"""Longer scores and larger files are refused before memory is spent on them."""

END, SECTION, CUE = "end", "section", "cue: "
"""Names of the MIDI markers that carry the end of a score and its boundaries; a cue so named gets the prefix."""


def _empty() -> DoubleArray:
    return np.zeros(0)


def _none() -> IntArray:
    return np.zeros(0, np.int64)


NOTE_COLUMNS = ("start_seconds", "end_seconds", "pitches", "velocities")


@dataclass(frozen=True)
class Cue:
    """A named moment, such as a cut of a film; a marker in MIDI files.

    Attributes:
        seconds: when.
        name: what it is called.
    """

    seconds: float
    name: str


@dataclass(frozen=True)
class Part:
    """One instrument's notes.

    Attributes:
        name: plain instrument name ("piano", "cello", "drums"), or what a file calls it.
        program: General MIDI program, 0 to 127 (of drums, their kit).
        is_drum: whether it plays on MIDI channel 10.
        role: stem it belongs to: `melody`, `harmony`, `bass`, `percussion`, or empty where unknown.
        start_seconds, end_seconds: `[n]` each, start ascending, ends later than starts.
        pitches: `[n]` MIDI note numbers.
        velocities: `[n]` 1 to 127.
        control_seconds, control_numbers, control_values: `[m]` each, times ascending: changes of MIDI controllers
            (64 is the sustain pedal) and of the pitch wheel (`PITCH_BEND`) that a file came with.

    Raises:
        DataError: if the arrays do not fit each other or a value is out of range.
    """

    name: str
    program: int
    is_drum: bool
    role: str
    start_seconds: DoubleArray
    end_seconds: DoubleArray
    pitches: IntArray
    velocities: IntArray
    control_seconds: DoubleArray = field(default_factory=_empty)
    control_numbers: IntArray = field(default_factory=_none)
    control_values: IntArray = field(default_factory=_none)

    def __post_init__(self) -> None:
        what = f"The part '{self.name}'"
        if not 0 <= self.program <= 127 or self.role not in ("", *ROLES):
            raise DataError(
                f"{what} has program {self.program} and role '{self.role}'; expected a program of 0 to 127 and "
                f"one of {', '.join(ROLES)} or nothing."
            )
        notes = (self.start_seconds, self.end_seconds, self.pitches, self.velocities)
        controls = (self.control_seconds, self.control_numbers, self.control_values)
        for name, columns in (("notes", notes), ("controls", controls)):
            if len({column.shape for column in columns}) > 1 or columns[0].ndim != 1:
                raise DataError(f"{what} has {name} as arrays of other lengths; expected one length for all.")
        if len(self.pitches):
            _check_times(self.start_seconds, f"{what} has note starts", before=self.end_seconds)
            _check_range(self.pitches, 0, 127, f"{what} has pitches")
            _check_range(self.velocities, 1, 127, f"{what} has velocities")
        if len(self.control_seconds):
            _check_times(self.control_seconds, f"{what} has controls")
            _check_range(self.control_numbers, 0, PITCH_BEND, f"{what} has controllers")

    def where(self, which: np.ndarray) -> Part:
        """The part with some of its notes, by `[n]` bool, and all its controllers."""
        return replace(self, **{name: getattr(self, name)[which] for name in NOTE_COLUMNS})

    def slice(self, begin: float, end: float) -> Part:
        """What sounds from `begin` to `end`, in seconds after `begin`, with the controllers as they stand there."""
        inside = (self.start_seconds < end) & (self.end_seconds > begin)
        is_set = self.control_seconds < begin
        last = {int(number): index for index, number in enumerate(self.control_numbers) if is_set[index]}
        kept = np.array(sorted(last.values()), np.int64)
        kept = np.concatenate([kept, np.flatnonzero(~is_set & (self.control_seconds < end))])
        return replace(
            self,
            start_seconds=np.maximum(self.start_seconds[inside], begin) - begin,
            end_seconds=np.minimum(self.end_seconds[inside], end) - begin,
            pitches=self.pitches[inside],
            velocities=self.velocities[inside],
            control_seconds=np.maximum(self.control_seconds[kept] - begin, 0.0),
            control_numbers=self.control_numbers[kept],
            control_values=self.control_values[kept],
        )


def _check_times(times: DoubleArray, what: str, before: DoubleArray | None = None) -> None:
    """Refuse times that are not finite, from 0 on, ascending and earlier than others."""
    ends = times if before is None else before
    if not (np.isfinite(times).all() and np.isfinite(ends).all()):
        raise DataError(f"{what} that are not finite; expected seconds from 0 on.")
    if times[0] < 0.0 or (np.diff(times) < 0.0).any():
        raise DataError(f"{what} that are negative or not in order; expected seconds from 0 on, ascending.")
    if before is not None and (before <= times).any():
        raise DataError(f"{what} that are not before the notes' ends; expected every note to last.")


def _check_range(values: IntArray, low: int, high: int, what: str) -> None:
    if values.dtype.kind not in "iu" or values.min() < low or values.max() > high:
        raise DataError(
            f"{what} from {values.min()} to {values.max()}; expected whole numbers of {low} to {high}."
        )


@dataclass(frozen=True)
class Score:
    """A piece of music as notes.

    Attributes:
        seconds: duration.
        parts: the instruments.
        gain_db: `[seconds * ENERGY_RATE_HZ]` loudness automation over all parts, 0 dB at most; empty for none.
        beat_seconds: `[P]`; bar_seconds: `[Q]`, the downbeats; boundary_seconds: `[J]` section starts inside.
        tempo_map: of the MIDI file that it was read from, whose ticks writing then gives again; else None.
        key: tonic and mode such as "A minor", or empty.
        cues: named moments, ascending.

    Raises:
        DataError: if a value is out of range or something lies outside the duration.
    """

    seconds: float
    parts: tuple[Part, ...]
    gain_db: DoubleArray = field(default_factory=_empty)
    beat_seconds: DoubleArray = field(default_factory=_empty)
    bar_seconds: DoubleArray = field(default_factory=_empty)
    boundary_seconds: DoubleArray = field(default_factory=_empty)
    tempo_map: TempoMap | None = None
    key: str = ""
    cues: tuple[Cue, ...] = ()

    def __post_init__(self) -> None:
        if not 0.0 < self.seconds <= MAX_SECONDS:
            raise DataError(f"The score lasts {self.seconds:g} s; expected more than 0 and at most a day.")
        cues = np.array([cue.seconds for cue in self.cues])
        for name, times in (
            ("beats", self.beat_seconds),
            ("bars", self.bar_seconds),
            ("boundaries", self.boundary_seconds),
            ("cues", cues),
        ):
            if len(times):
                _check_times(times, f"The score has {name}")
        ends = [part.end_seconds.max() for part in self.parts if len(part.end_seconds)]
        last = max([0.0, *ends, *(times[-1] for times in (self.boundary_seconds, cues) if len(times))])
        if last > self.seconds + 1e-6:
            raise DataError(f"The score lasts {self.seconds:g} s and has a note or cue until {last:g} s.")
        if self.key and key_signature(self.key) is None:
            raise DataError(f"The key is '{self.key}'; expected one such as 'C major' or 'A minor'.")
        if len(self.gain_db) and not float(self.gain_db.max()) <= 1e-9:
            raise DataError(f"gain_db reaches {self.gain_db.max():g} dB; expected numbers of at most 0.")

    @property
    def n_notes(self) -> int:
        """How many notes all parts have."""
        return sum(len(part.pitches) for part in self.parts)

    def notes(
        self, pitched: bool = False, role: str | None = None
    ) -> tuple[DoubleArray, DoubleArray, IntArray, IntArray]:
        """Starts, ends, pitches and velocities `[n]` of all notes, or of all but drums, or of a role's, by start."""
        parts = [
            part
            for part in self.parts
            if not (pitched and part.is_drum) and (role is None or part.role == role)
        ]
        starts, ends, pitches, velocities = (
            np.concatenate([getattr(part, name) for part in parts] or [np.zeros(0)]) for name in NOTE_COLUMNS
        )
        order = np.argsort(starts, kind="stable")
        return starts[order], ends[order], pitches[order].astype(np.int64), velocities[order].astype(np.int64)

    def heard_key(self) -> str:
        """The key that the notes are in, whatever is stated; empty where there are none."""
        starts, ends, pitches, _ = self.notes(pitched=True)
        if not len(pitches):
            return ""
        tonic, mode = estimate_key(pitches, ends - starts)
        return f"{PITCH_NAMES[tonic]} {mode}"

    def sounding(self, step_seconds: float) -> IntArray:
        """How many notes sound `[n]` at the beginning and each step after it, before the end.

        Example:
            >>> notes = np.array([0.0, 0.4]), np.array([1.0, 0.6]), np.array([60, 64]), np.array([80, 80])
            >>> part = Part("", 0, False, "", *notes)
            >>> Score(1.5, (part,)).sounding(0.5).tolist()
            [1, 2, 0]
        """
        starts, ends, _, _ = self.notes()
        at = np.arange(0.0, self.seconds, step_seconds)
        return np.searchsorted(starts, at, "right") - np.searchsorted(np.sort(ends), at, "right")

    def beats_at(self, seconds: DoubleArray) -> DoubleArray:
        """Positions `[n]` in beats of times `[n]`, 0 at the first beat; tempi go on beyond both ends.

        Example:
            >>> Score(4.0, (), beat_seconds=np.array([1.0, 1.5, 2.0])).beats_at(np.array([0.5, 1.75, 4.0])).tolist()
            [-1.0, 1.5, 6.0]
        """
        return _extended(np.asarray(seconds, np.float64), *self._beat_axis())

    def seconds_at(self, beats: DoubleArray) -> DoubleArray:
        """Times `[n]` of positions in beats `[n]`, the inverse of `beats_at`."""
        times, positions = self._beat_axis()
        return _extended(np.asarray(beats, np.float64), positions, times)

    def _beat_axis(self) -> tuple[DoubleArray, DoubleArray]:
        """Times and positions of at least two beats; at 120 bpm where the score has none."""
        times = np.unique(self.beat_seconds)
        if len(times) < 2:
            first = times[0] if len(times) else 0.0
            times = first + np.array([0.0, DEFAULT_QUARTER_US * 1e-6])
        return times, np.arange(len(times), dtype=np.float64)

    def slice(self, begin: float, end: float) -> Score:
        """What sounds from `begin` to `end`, in seconds after `begin`; notes that reach over an edge are cut there.

        Raises:
            DataError: if nothing of the score lies between the two.
        """
        if not 0.0 <= begin < end or begin >= self.seconds:
            raise DataError(
                f"The range {begin:g} to {end:g} s is not in the score of {self.seconds:g} s; "
                "expected 0 <= begin < end."
            )
        end = min(end, self.seconds)
        first = round(begin * ENERGY_RATE_HZ)
        parts = (part.slice(begin, end) for part in self.parts)

        def inside(times: DoubleArray) -> DoubleArray:
            return np.asarray(times[(times >= begin) & (times < end)] - begin)

        # Only what every score has: subclasses keep labels of the whole.
        return Score(
            seconds=end - begin,
            parts=tuple(part for part in parts if len(part.pitches)),
            gain_db=self.gain_db[first : first + max(1, round((end - begin) * ENERGY_RATE_HZ))],
            beat_seconds=inside(self.beat_seconds),
            bar_seconds=inside(self.bar_seconds),
            boundary_seconds=inside(self.boundary_seconds),
            key=self.key,
            cues=tuple(Cue(c.seconds - begin, c.name) for c in self.cues if begin <= c.seconds < end),
        )


def _extended(x: DoubleArray, xs: DoubleArray, ys: DoubleArray) -> DoubleArray:
    """Linear interpolation that goes on beyond both ends with the slope there."""
    before, after = ((ys[i] - ys[j]) / (xs[i] - xs[j]) for i, j in ((1, 0), (-1, -2)))
    inner = np.interp(x, xs, ys)
    return np.asarray(
        np.where(
            x < xs[0],
            ys[0] + (x - xs[0]) * before,
            np.where(x > xs[-1], ys[-1] + (x - xs[-1]) * after, inner),
        )
    )


def key_signature(key: str) -> tuple[int, int] | None:
    """A key in words as MIDI states it: sharps (flats are negative) and 1 for minor; None if it is no key.

    Example:
        >>> key_signature("Eb major"), key_signature("A minor")
        ((-3, 0), (0, 1))
    """
    tonic, _, mode = key.partition(" ")
    if tonic not in PITCH_NAMES or mode not in ("major", "minor"):
        return None
    is_minor = int(mode == "minor")
    sharps = (PITCH_NAMES.index(tonic) + 3 * is_minor) * 7 % 12
    return sharps - 12 if sharps > 6 else sharps, is_minor


def _key_in_words(sharps: int, is_minor: int) -> str:
    """A MIDI key signature as tonic and mode."""
    return f"{PITCH_NAMES[(7 * sharps - 3 * is_minor) % 12]} {('major', 'minor')[is_minor]}"


# --- MIDI out ------------------------------------------------------------------------------------------------


def write_midi(path: Path | str, score: Score, force: bool = False) -> None:
    """Write a score as a MIDI file, whole or not at all; `read_midi` gives it again.

    Raises:
        AudioError: if the place cannot be written, or is taken and `force` is not set.
    """
    data = midi_bytes(score)
    with atomic_path(Path(path), force=force) as temporary:
        temporary.write_bytes(data)


def midi_bytes(score: Score) -> bytes:
    """A score as a MIDI file of type 1: a track for each part, its role in brackets after its name.

    The loudness automation is expression (controller 11) of every part, boundaries are markers named `section`, cues
    markers of their own names, and the end of the score is a marker named `end`. Notes of one part and key that
    overlap end in the order in which they start, since MIDI has one key for both.
    """
    symusic = require("symusic")

    tempo_map = score.tempo_map or map_of_beats(score.beat_seconds, score.bar_seconds, score.seconds)
    midi = symusic.Score(tempo_map.ticks_per_quarter)
    for tick, quarter_us in zip(tempo_map.tempo_ticks.tolist(), tempo_map.quarter_us.tolist(), strict=True):
        midi.tempos.append(symusic.Tempo(time=tick, mspq=quarter_us))
    for tick, metre in zip(tempo_map.signature_ticks.tolist(), tempo_map.signatures, strict=True):
        midi.time_signatures.append(symusic.TimeSignature(tick, *metre))
    if key := key_signature(score.key):
        midi.key_signatures.append(symusic.KeySignature(0, *key))
    cues = [(cue.seconds, _marker_of(cue.name)) for cue in score.cues]
    markers = sorted([*((float(t), SECTION) for t in score.boundary_seconds), *cues], key=lambda cue: cue[0])
    for seconds, text in [*markers, (score.seconds, END)]:
        midi.markers.append(symusic.TextMeta(int(tempo_map.ticks(np.array([seconds]))[0]), text))
    expression = _expression(score.gain_db, tempo_map)
    for part in score.parts:
        midi.tracks.append(_track(part, tempo_map, expression))
    if not score.parts:
        # Without any track symusic writes what is along time out of order, and times go wrong.
        midi.tracks.append(symusic.Track())
    return bytes(midi.dumps_midi())


def _marker_of(name: str) -> str:
    """A cue's name as a marker that is not taken for something else."""
    return CUE + name if name in (END, SECTION) or name.startswith(CUE) else name


def _expression(gain_db: DoubleArray, tempo_map: TempoMap) -> tuple[IntArray, IntArray]:
    """Ticks and values of controller 11 where a loudness automation changes.

    The gain of a value v is (v / 127) squared (General MIDI, "Recommended Practice RP-003", 1993).
    """
    values = np.clip(np.rint(127.0 * 10.0 ** (gain_db / 40.0)), 1, 127).astype(np.int64)
    changes = np.flatnonzero(np.concatenate([[True], np.diff(values) != 0])) if len(values) else _none()
    return tempo_map.ticks(changes / ENERGY_RATE_HZ), values[changes]


def _track(part: Part, tempo_map: TempoMap, expression: tuple[IntArray, IntArray]) -> Any:
    """A part as a track of symusic."""
    symusic = require("symusic")

    name = f"{part.name} [{part.role}]" if part.role else part.name
    track = symusic.Track(name=name, program=part.program, is_drum=part.is_drum)
    on, off = (tempo_map.ticks(times).astype(np.int32) for times in (part.start_seconds, part.end_seconds))
    order = np.lexsort((part.pitches, on))
    on, lengths = on[order], np.maximum(off - on, 1)[order]
    pitches, velocities = (column[order].astype(np.int8) for column in (part.pitches, part.velocities))
    track.notes = symusic.Note.from_numpy(on, lengths, pitches, velocities)
    shared = np.full(len(expression[0]), EXPRESSION)
    give_controls(
        track,
        np.concatenate([expression[0], tempo_map.ticks(part.control_seconds)]),
        np.concatenate([shared, part.control_numbers]),
        np.concatenate([expression[1], part.control_values]),
    )
    return track


def give_controls(track: Any, ticks: IntArray, numbers: IntArray, values: IntArray) -> None:
    """Set the controllers and pitch bends of a symusic track from arrays `[m]`; those of a tick stay in order."""
    symusic = require("symusic")

    order = np.argsort(ticks, kind="stable")
    ticks, numbers, values = ticks[order].astype(np.int32), numbers[order], values[order]
    is_bend = numbers == PITCH_BEND
    track.pitch_bends = symusic.PitchBend.from_numpy(ticks[is_bend], values[is_bend].astype(np.int32))
    track.controls = symusic.ControlChange.from_numpy(
        ticks[~is_bend], numbers[~is_bend].astype(np.uint8), values[~is_bend].astype(np.uint8)
    )


# --- MIDI in -------------------------------------------------------------------------------------------------


def read_midi(path: Path | str) -> Score:
    """Read a MIDI file of type 0 or 1, with any instruments.

    Each channel of a track is a part, and so is each program on it. A note that the file does not end is left out;
    one without length gets a tick. The bars of a file without time signature are of 4/4.

    Raises:
        DataError: if the file is missing, too large, no MIDI, damaged, longer than `MAX_SECONDS`, or has no notes.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise DataError(f"{path} does not exist or is no file; expected a MIDI file.")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(
                f"{path} has {path.stat().st_size / 2**20:.0f} MiB; expected a MIDI file of at most "
                f"{MAX_FILE_BYTES // 2**20} MiB."
            )
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); expected a MIDI file.") from error
    return parse_midi(data, str(path))


def parse_midi(data: bytes, name: str = "The MIDI data") -> Score:
    """The score in the bytes of a MIDI file, see `read_midi`."""
    symusic = require("symusic")

    if data[:4] == b"RIFF" and data[8:12] == b"RMID":
        data = data[max(data.find(b"MThd"), 0) :]
    try:
        raw = symusic.Score.from_midi(data)
    except Exception as error:
        reason = str(error).removeprefix("MiniMidi: ").removesuffix(": iostream error").rstrip("! ")
        raise DataError(f"{name} cannot be read as MIDI ({reason}); export it again.") from error
    tempo_map = _tempo_map_of(raw, name)
    columns = [(track, track.notes.numpy()) for track in raw.tracks if len(track.notes)]
    for _, notes in columns:
        if notes["time"].min() < 0 or notes["duration"].min() < 0:
            raise DataError(f"{name} has a note beyond what its ticks can count; export it again.")
    markers = sorted(
        (int(marker.time), str(marker.text).strip()) for marker in raw.markers if marker.time >= 0
    )
    ends = [
        int((notes["time"].astype(np.int64) + np.maximum(notes["duration"], 1)).max()) for _, notes in columns
    ]
    end_tick = max([0, *ends, *(tick for tick, _ in markers)])
    seconds = float(tempo_map.seconds(np.array([end_tick]))[0])
    if not columns and END not in (text for _, text in markers):
        raise DataError(f"{name} holds no notes; expected a MIDI file with at least one.")
    if seconds > MAX_SECONDS:
        raise DataError(
            f"{name} lasts {seconds / 3600:.0f} hours; expected at most {MAX_SECONDS / 3600:.0f}."
        )
    try:
        beat_seconds, bar_seconds = tempo_map.beats_and_bars(end_tick)
        gain_db, shared = _gain_of([track for track, _ in columns], tempo_map, seconds)
        return Score(
            seconds=seconds,
            parts=tuple(_part_of(track, notes, tempo_map, shared) for track, notes in columns),
            gain_db=gain_db,
            beat_seconds=beat_seconds,
            bar_seconds=bar_seconds,
            boundary_seconds=tempo_map.seconds(
                np.array([t for t, text in markers if text == SECTION], np.int64)
            ),
            tempo_map=tempo_map,
            key=_key_of(raw),
            cues=_cues_of(markers, tempo_map, end_tick),
        )
    except DataError as error:
        raise DataError(f"{name} cannot be used: {error}") from error


def _tempo_map_of(raw: Any, name: str) -> TempoMap:
    """The tempo map of a file that symusic has read; of two changes at one tick the last counts."""
    if not 1 <= int(raw.tpq) < 2**15:
        raise DataError(f"{name} has {raw.tpq} ticks a quarter note; expected 1 to 32767, export it again.")
    tempos = {int(t.time): int(t.mspq) for t in raw.tempos if t.time >= 0}
    tempos.setdefault(0, DEFAULT_QUARTER_US)
    if min(tempos.values()) <= 0:
        raise DataError(f"{name} has a quarter note of no length; expected a tempo, export it again.")
    signatures = {
        int(s.time): (int(s.numerator), int(s.denominator))
        for s in raw.time_signatures
        if s.time >= 0 and s.numerator > 0 and s.denominator in (1, 2, 4, 8, 16, 32, 64)
    }
    return TempoMap(
        int(raw.tpq),
        np.array(sorted(tempos), np.int64),
        np.array([tempos[tick] for tick in sorted(tempos)], np.int64),
        np.array(sorted(signatures), np.int64),
        tuple(signatures[tick] for tick in sorted(signatures)),
    )


def _part_of(track: Any, notes: dict[str, Any], tempo_map: TempoMap, is_shared: bool) -> Part:
    """A track of symusic as a part; its expression is left out where it is the whole score's."""
    order = np.lexsort((notes["pitch"], notes["time"]))
    starts = notes["time"][order].astype(np.int64)
    ends = starts + np.maximum(notes["duration"][order], 1)
    named = re.fullmatch(rf"(.*) \[({'|'.join(ROLES)})\]", str(track.name), re.DOTALL)
    controls, bends = track.controls.numpy(), track.pitch_bends.numpy()
    used = controls["number"] != EXPRESSION if is_shared else np.ones(len(controls["number"]), bool)
    ticks = np.concatenate([controls["time"][used], bends["time"]]).astype(np.int64)
    numbers = np.concatenate([controls["number"][used], np.full(len(bends["time"]), PITCH_BEND)])
    values = np.concatenate([controls["value"][used], bends["value"]])
    in_time = np.argsort(ticks, kind="stable")
    return Part(
        name=named[1] if named else str(track.name),
        program=int(track.program),
        is_drum=bool(track.is_drum),
        role=named[2] if named else "",
        start_seconds=tempo_map.seconds(starts),
        end_seconds=tempo_map.seconds(ends),
        pitches=notes["pitch"][order].astype(np.int64),
        velocities=notes["velocity"][order].astype(np.int64),
        control_seconds=tempo_map.seconds(ticks[in_time]),
        control_numbers=numbers[in_time].astype(np.int64),
        control_values=values[in_time].astype(np.int64),
    )


def _gain_of(tracks: list[Any], tempo_map: TempoMap, seconds: float) -> tuple[DoubleArray, bool]:
    """The loudness automation of a file, and whether it has one: expression that all tracks share."""
    curves = []
    for track in tracks:
        controls = track.controls.numpy()
        is_expression = controls["number"] == EXPRESSION
        curves.append((controls["time"][is_expression], controls["value"][is_expression]))
    if not curves or not len(curves[0][0]):
        return _empty(), False
    (ticks, values), *others = curves
    if any(not np.array_equal(ticks, t) or not np.array_equal(values, v) for t, v in others):
        return _empty(), False
    n_frames = max(1, int(np.ceil(seconds * ENERGY_RATE_HZ - 1e-3)))
    centres = (np.arange(n_frames) + 0.5) / ENERGY_RATE_HZ
    index = np.searchsorted(tempo_map.seconds(ticks), centres, "right") - 1
    heard = np.where(index < 0, 127, values[np.maximum(index, 0)]).astype(np.float64)
    return np.asarray(40.0 * np.log10(np.maximum(heard, 0.5) / 127.0)), True


def _key_of(raw: Any) -> str:
    """The first key that a file states, or nothing."""
    keys = [(int(k.key), int(k.tonality)) for k in raw.key_signatures]
    return _key_in_words(*keys[0]) if keys and abs(keys[0][0]) <= 7 and keys[0][1] in (0, 1) else ""


def _cues_of(markers: list[tuple[int, str]], tempo_map: TempoMap, end_tick: int) -> tuple[Cue, ...]:
    """Markers that are neither a boundary nor the end."""
    named = [m for m in markers if m[1] and m[1] != SECTION and m != (end_tick, END)]
    times = tempo_map.seconds(np.array([tick for tick, _ in named], np.int64))
    return tuple(Cue(float(t), text.removeprefix(CUE)) for t, (_, text) in zip(times, named, strict=True))
