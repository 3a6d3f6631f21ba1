"""What a user asks of the music beside the room: one checked set of wishes, from options, TOML or Python.

A wish is told to the composer as a signal (`signals.CONTROLS`), and what can be exact is so by rules at the draw
(`steering`). All values are plain, so the record of a piece holds them, and makes it again.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from silent2music.arrays import DoubleArray, FloatArray, IntArray
from silent2music.config import from_dict
from silent2music.errors import ConfigError, DataError, shown
from silent2music.files import read_small
from silent2music.keys import PITCH_NAMES, estimate_key, key_shift
from silent2music.notation import INSTRUMENT_NAMES, N_PROGRAMS
from silent2music.score import MIDI_SUFFIXES, Cue, read_midi
from silent2music.traits import (
    ENDINGS,
    METRES,
    MODES,
    cue_value,
    ending_value,
    line_value,
    tempo_value,
)
from silent2music.transcription import heard_line

DEFAULT_BPM = 90.0
"""Tempo by which a chord lasts a bar where none is asked for."""

FULL_TURN = 0.5
"""By so much arousal a mood turns in full."""

STYLES: dict[str, tuple[str, float | None]] = {
    "chamber": ("violin, viola, cello, double bass, flute, oboe, clarinet, bassoon, French horn", None),
    "orchestral": ("violin, strings, cello, double bass, flute, clarinet, French horn, timpani", None),
    "ambient": (
        "warm pad, choir pad, halo pad, bowed pad, synth strings, electric piano, vibraphone, fretless bass",
        0.25,
    ),
    "ostinato": ("marimba, vibraphone, piano, acoustic bass, double bass, cello, flute", 0.6),
    "percussive": ("pizzicato strings, marimba, xylophone, steel guitar, acoustic bass, drums", 0.55),
    "brass": ("tuba, trombone, trumpet, French horn", None),
    "band": ("drums, synth bass, acoustic bass, electric piano, clean electric guitar, alto saxophone", None),
    "piano": ("piano", None),
    "organ": ("church organ", None),
}
"""Instruments of each style, and how dense it is where that belongs to it."""

QUALITIES = {
    "": (0, 4, 7),
    "maj": (0, 4, 7),
    "m": (0, 3, 7),
    "min": (0, 3, 7),
    "7": (0, 4, 7, 10),
    "maj7": (0, 4, 7, 11),
    "m7": (0, 3, 7, 10),
    "min7": (0, 3, 7, 10),
    "dim": (0, 3, 6),
    "aug": (0, 4, 8),
    "sus2": (0, 2, 7),
    "sus4": (0, 5, 7),
    "5": (0, 7),
}
"""Semitones of chords above their root, by what follows its name."""

SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10, 11)}
"""Semitones of the scales above the tonic, the minor one with its leading note."""


LEAST_SECTION_SECONDS = 0.2
"""A cue nearer to the end of a piece than this is outside it."""


@dataclass(frozen=True)
class Controls:
    """Wishes for one piece; whatever is not asked for, the room decides.

    Attributes:
        tempo: beats a minute, 30 to 300; all bars, beats and notes stand on its grid from the first moment on.
        metre: such as `3/4`; beats of 6/8 and the like are three eighths. Without a tempo the beats are the composer's.
        swing: 0 to 1, how far the second eighth of a beat is delayed, towards a triplet's.
        loose: 0 to 1, how far notes may leave the nearest sixteenth of the grid towards where the composer has them.
        key: such as `F# minor`.
        mood: points `(seconds, valence, arousal)` of a curve, -1 to 1; one point holds throughout.
        cues: moments, as `12.5` or `0:31.2=reveal`, at each of which a section and a chord start.
        ending: `final`, a cadence; `open`, a half close; `cut`, music until the last moment.
        instruments: only these play, in the words of `notation.INSTRUMENT_NAMES`; a word of several names means them all.
        without: none of these plays.
        style: a name in `STYLES`.
        density: points `(seconds, density)`, see `traits.DENSITY_SCALE`.
        dynamics: 0 to 1, how far loudness follows the room; the rest is that of a mood that turns, or none.
        melody: notes `(start, end, pitch, velocity)`, in seconds and as MIDI numbers.
        chords: such as `Am`, `F#m7` or `N` for none; a bar each, again and again, unless `chord_seconds` says when each
            starts.

    Raises:
        ConfigError: on a value that is none, or that another contradicts.
    """

    tempo: float | None = None
    metre: str = ""
    swing: float = 0.0
    loose: float = 0.0
    key: str = ""
    mood: tuple[tuple[float, ...], ...] = ()
    cues: tuple[str, ...] = ()
    ending: str = ""
    instruments: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    style: str = ""
    density: tuple[tuple[float, ...], ...] = ()
    dynamics: float = 1.0
    melody: tuple[tuple[float, ...], ...] = ()
    chords: tuple[str, ...] = ()
    chord_seconds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _in_range("tempo", self.tempo, 30.0, 300.0)
        for name in ("swing", "loose", "dynamics"):
            _in_range(name, getattr(self, name), 0.0, 1.0)
        self._check_curve("mood", self.mood, ("valence", "arousal"), -1.0)
        self._check_curve("density", self.density, ("density",), 0.0)
        _choice("ending", self.ending, ENDINGS)
        _choice("style", self.style, STYLES)
        if (self.swing or self.loose) and not self.has_grid:
            raise ConfigError("swing and loose are of notes on a grid; give a tempo too.")
        if self.chord_seconds and len(self.chord_seconds) != len(self.chords):
            raise ConfigError(
                f"chord_seconds has {len(self.chord_seconds)} times for {len(self.chords)} chords; give one for each."
            )
        for note in self.melody:
            if (
                len(note) != 4
                or not 0 <= note[0] < note[1]
                or not 0 <= note[2] <= 127
                or not 1 <= note[3] <= 127
            ):
                raise ConfigError(f"A note of the melody is {note}; expected start, end, pitch and velocity.")
        # Reading these says what is wrong with them.
        self.programs, self.tonality, self.cue_marks, self.beats_per_bar  # noqa: B018
        self._check_harmony()

    def _check_curve(
        self, name: str, points: tuple[tuple[float, ...], ...], what: tuple[str, ...], low: float
    ) -> None:
        """Refuse points of a curve that are not in order or out of range."""
        for point in points:
            if len(point) != 1 + len(what) or not all(low <= value <= 1.0 for value in point[1:]):
                raise ConfigError(
                    f"A point of {name} is {point}; expected seconds, {', '.join(what)} of {low:g} to 1."
                )
        times = [point[0] for point in points]
        if times != sorted(times) or (times and times[0] < 0):
            raise ConfigError(f"The points of {name} are at {times} s; expected them ascending, from 0 on.")

    def _check_harmony(self) -> None:
        """Refuse a key that most notes of the chords are foreign to."""
        if not (self.key and self.chords):
            return
        tonic, mode = self.tonality or (0, "major")
        scale = {(tonic + step) % 12 for step in SCALES[mode]}
        for name in self.chords:
            classes = parse_chord(name)[1]
            if len(classes) and len(scale & set(classes)) < 2:
                raise ConfigError(f"The chord {name} has no place in {self.key}; leave out one of the two.")

    # ---- what the wishes mean ----

    @property
    def has_grid(self) -> bool:
        """Whether bars and beats stand on a grid of their own."""
        return self.tempo is not None

    @property
    def bpm(self) -> float:
        """The tempo of the grid, and of bars of chords without one."""
        return self.tempo or DEFAULT_BPM

    @property
    def is_compound(self) -> bool:
        """Whether a beat is three eighths."""
        upper, _, lower = self.metre.partition("/")
        return lower in ("8", "16") and int(upper) % 3 == 0

    @property
    def beats_per_bar(self) -> int:
        """Beats a bar, 4 where no metre is asked for."""
        if not self.metre:
            return 4
        match = re.fullmatch(r"(\d{1,2})/(1|2|4|8|16)", self.metre)
        beats = 0 if match is None else int(match[1]) // (3 if self.is_compound else 1)
        if beats not in METRES:
            raise ConfigError(f"The metre is {shown(self.metre)}; expected one such as 4/4, 3/4 or 6/8.")
        return beats

    @property
    def cue_marks(self) -> tuple[Cue, ...]:
        """The cues, ascending."""
        found = []
        for text in self.cues:
            time, _, name = text.partition("=")
            seconds = 0.0
            try:
                for part in time.split(":"):
                    seconds = 60.0 * seconds + float(part)
            except ValueError:
                seconds = -1.0
            if not 0.0 <= seconds < float("inf"):
                raise ConfigError(f"The cue is {shown(text)}; expected a time such as 12.5 or 0:31.2=reveal.")
            found.append(Cue(seconds, name or "cue"))
        return tuple(sorted(found, key=lambda cue: cue.seconds))

    @property
    def tonality(self) -> tuple[int, str] | None:
        """Tonic and mode: of the key, else of the chords or the melody; None where none of them is given."""
        if self.key:
            return parse_key(self.key)
        if self.chords:
            chords = [parse_chord(name) for name in self.chords]
            classes = [c for root, own in chords for c in (*own, *([] if root is None else [root]))]
            return estimate_key(np.array(classes, np.int64), np.ones(len(classes))) if classes else None
        if self.melody:
            notes = np.array(self.melody)
            return estimate_key(notes[:, 2].astype(np.int64), notes[:, 1] - notes[:, 0])
        return None

    @property
    def mode(self) -> str:
        """The mode of the key, or that of the mood's valence; empty where neither is asked for, and where it changes."""
        if self.tonality is not None:
            return self.tonality[1]
        modes = {MODES[int(valence < 0)] for _, valence, _ in self.mood}
        return modes.pop() if len(modes) == 1 else ""

    @property
    def transposition(self) -> int | None:
        """Semitones from C major or A minor, -5 to 6, or None where any key is welcome."""
        return None if self.tonality is None else -key_shift(*self.tonality)

    @property
    def programs(self) -> FloatArray | None:
        """`[129]` 1 for programs, and drums, that may play; None for all."""
        names = self.instruments or tuple(STYLES[self.style][0].split(", ") if self.style else ())
        wanted, barred = (programs_of(some) for some in (names, self.without))
        if both := programs_of(self.instruments) & barred if self.instruments else set():
            raise ConfigError(
                f"The instruments have {INSTRUMENT_NAMES[min(both)]} and so has without; leave out one."
            )
        if not (names or self.without):
            return None
        found = np.zeros(N_PROGRAMS, np.float32)
        found[list((wanted or set(range(N_PROGRAMS))) - barred)] = 1.0
        if not found.any():
            raise ConfigError("Without all of these nobody is left to play; leave out fewer instruments.")
        return found

    @property
    def density_points(self) -> tuple[tuple[float, ...], ...]:
        """Points of the density that is asked for, by the style or by the mood's arousal where it is not given itself."""
        if self.density or (self.style and STYLES[self.style][1] is not None):
            return self.density or ((0.0, float(STYLES[self.style][1] or 0.0)),)
        return tuple((at, 0.45 + 0.25 * arousal) for at, _, arousal in self.mood)

    def check(self, seconds: float) -> None:
        """Refuse what does not fit into a piece of some length.

        Raises:
            ConfigError: naming it.
        """
        for cue in self.cue_marks:
            if cue.seconds >= seconds - LEAST_SECTION_SECONDS:
                raise ConfigError(
                    f"The cue at {cue.seconds:g} s is outside the piece of {seconds:g} s; give --seconds."
                )
        last = max((note[1] for note in self.melody), default=0.0)
        if last > seconds + 0.05:
            raise ConfigError(
                f"The melody lasts {last:g} s and the piece {seconds:g} s; give --seconds {last:g}."
            )

    def sections(self, n_frames: int, frame_rate: float) -> IntArray:
        """`[T]` how many cues there were up to each frame, which is the section that it belongs to."""
        starts = np.rint([cue.seconds * frame_rate for cue in self.cue_marks])
        return np.searchsorted(starts, np.arange(n_frames), "right")

    # ---- the wishes as signals and as a grid ----

    def signals(self, seconds: float, n_frames: int, frame_rate: float) -> dict[str, FloatArray]:
        """What the composer is told, by name in `signals.CONTROLS`, pitches as it writes them."""
        shift = -(self.transposition or 0)
        told: dict[str, FloatArray | None] = {
            "mode": np.eye(2, dtype=np.float32)[MODES.index(self.mode)] if self.mode else None,
            "tempo": tempo_value(self.bpm) if self.has_grid else None,
            "metre": np.eye(len(METRES), dtype=np.float32)[self.beats_per_bar - 1] if self.metre else None,
            "instruments": self.programs if self.instruments or self.style else None,
            "mood": self.curve(self.mood, n_frames, frame_rate),
            "density": self.curve(self.density_points, n_frames, frame_rate),
            "ending": ending_value(self.ending, seconds, n_frames, frame_rate) if self.ending else None,
        }
        if self.tempo is None and self.mood and not self.has_grid:
            told["tempo"] = tempo_value(90.0 + 40.0 * float(np.mean([point[2] for point in self.mood])))
        if self.cues:
            told["cues"] = cue_value(np.array([cue.seconds for cue in self.cue_marks]), n_frames, frame_rate)
        if self.melody:
            notes = np.array(self.melody)
            pitches = notes[:, 2].astype(np.int64) + shift
            told["melody"] = line_value(notes[:, 0], notes[:, 1], pitches, n_frames, frame_rate)
        if self.chords:
            roots, classes, _ = self.harmony(seconds, n_frames, frame_rate)
            told["chords"] = np.concatenate([classes, np.eye(13, dtype=np.float32)[roots][:, :12]], axis=1)
        return {name: value for name, value in told.items() if value is not None}

    def turning(self, n_frames: int, frame_rate: float) -> float:
        """How far the mood's arousal turns within a piece, 0 to 1; from `FULL_TURN` on it is 1."""
        mood = self.curve(self.mood, n_frames, frame_rate)
        return 0.0 if mood is None or not n_frames else min(1.0, float(np.ptp(mood[:, 1])) / FULL_TURN)

    @staticmethod
    def curve(points: tuple[tuple[float, ...], ...], n_frames: int, frame_rate: float) -> FloatArray | None:
        """Points `(seconds, ...)` as values `[T, F]`, linear between them; None for none."""
        if not points:
            return None
        known = np.array(points)
        at = np.arange(n_frames) / frame_rate
        return np.stack([np.interp(at, known[:, 0], own) for own in known[:, 1:].T], axis=1).astype(
            np.float32
        )

    def harmony(
        self, seconds: float, n_frames: int, frame_rate: float
    ) -> tuple[IntArray, FloatArray, DoubleArray]:
        """Chords as the composer writes them: roots `[T]` (12 for none), pitch classes `[T, 12]`, starts in seconds."""
        shift = -(self.transposition or 0)
        chords = [parse_chord(name) for name in self.chords]
        starts = np.array(self.chord_seconds) if self.chord_seconds else self.grid(seconds)[1]
        if not self.chord_seconds:
            chords = [chords[i % len(chords)] for i in range(len(starts))]
        roots, classes = np.full(n_frames, 12), np.zeros((n_frames, 12), np.float32)
        edges = np.append(np.rint(starts * frame_rate).astype(np.int64), n_frames)
        for (root, own), first, last in zip(chords, edges[:-1], edges[1:], strict=True):
            roots[first:last] = 12 if root is None else (root + shift) % 12
            classes[first:last] = np.isin(np.arange(12), [(c + shift) % 12 for c in own])
        return roots, classes, starts

    def grid(self, seconds: float) -> tuple[DoubleArray, DoubleArray, DoubleArray]:
        """Beats, bars, and the places where notes stand, in seconds; a new bar starts at each cue."""
        beat = 60.0 / self.bpm
        within = np.arange(6) / 6.0 if self.is_compound else np.arange(4) / 4.0
        if not self.is_compound:
            within = np.interp(within, [0.0, 0.5, 1.0], [0.0, 0.5 + self.swing / 6.0, 1.0])
        edges = np.unique([0.0, *(cue.seconds for cue in self.cue_marks), seconds])
        beats, bars, places = [], [], []
        for first, last in pairwise(edges):
            # What is left before a cue of less than half a beat belongs to the beat before.
            short = 0.5 * beat if last < seconds else 1e-6
            own = first + beat * np.arange(max(1, int(np.ceil((last - first - short) / beat))))
            every = (own[:, None] + beat * within).ravel()
            beats.append(own)
            bars.append(own[:: self.beats_per_bar])
            places.append(every[every < last - 1e-3])
        return np.concatenate(beats), np.concatenate(bars), np.concatenate(places)

    def levels(self, seconds: float) -> IntArray:
        """Metrical level of each of the grid's places: 3 of a bar, 2 of a beat, 1 of an eighth, else 0.

        The hierarchy of Lerdahl and Jackendoff, "A Generative Theory of Tonal Music", MIT Press 1983, ch. 4.
        """
        beats, bars, places = self.grid(seconds)
        of = np.searchsorted(beats, places + 1e-6, "right") - 1
        within = np.arange(len(places)) - np.searchsorted(places, beats - 1e-6)[of]
        return np.where(within, 1 - within % 2, 2 + np.isin(beats[of], bars)).astype(np.int64)

    def to_dict(self) -> dict[str, Any]:
        """What is asked for, as plain values; `Controls.of` makes the same of them again."""
        default = Controls()
        return {name: value for name, value in asdict(self).items() if value != getattr(default, name)}

    @staticmethod
    def of(values: Mapping[str, Any], folder: Path = Path()) -> Controls:
        """Controls from plain values, as options and TOML have them.

        `mood = [0.5, -0.2]` and `density = 0.4` hold throughout, text there is a CSV file; `melody` may be a MIDI file or
        a recording,
        `chords` a text or a `.lab` file, `cues` may have numbers and a CSV file, and instruments may be one text.

        Args:
            values: by the names of the fields.
            folder: that files are relative to.

        Raises:
            ConfigError: on an unknown name or a value that cannot be used.
            DataError: if a file cannot be read.
        """
        known = {name: value for name, value in values.items() if value is not None}
        for name in ("instruments", "without"):
            if isinstance(known.get(name), str):
                known[name] = tuple(part.strip() for part in known[name].split(",") if part.strip())
        for name in ("mood", "density"):
            known |= {name: _points(known[name], folder)} if name in known else {}
        if isinstance(melody := known.get("melody"), str):
            is_midi = Path(melody).suffix.lower() in MIDI_SUFFIXES
            known["melody"] = read_line(folder / melody) if is_midi else heard_line(folder / melody)
        if isinstance(chords := known.get("chords"), str):
            if chords.endswith(".lab"):
                known["chord_seconds"], known["chords"] = _read_lab(folder / chords)
            else:
                known["chords"] = tuple(re.split(r"[\s,|]+", chords.strip(" ,|")))
        if "cues" in known:
            given = known["cues"] if isinstance(known["cues"], list | tuple) else [known["cues"]]
            known["cues"] = tuple(text for cue in given for text in _cue_texts(cue, folder))
        return from_dict(Controls, known)


def _in_range(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise ConfigError(f"{name} is {value:g}; expected {low:g} to {high:g}.")


def _choice(name: str, value: str, known: Iterable[str]) -> None:
    if value and value not in known:
        raise ConfigError(f"The {name} is {shown(value)}; expected one of {', '.join(known)}.")


def parse_key(text: str) -> tuple[int, str]:
    """Tonic, C being 0, and mode of a key.

    Example:
        >>> parse_key("F# minor"), parse_key("Bb"), parse_key("gm")
        ((6, 'minor'), (10, 'major'), (7, 'minor'))
    """
    match = re.fullmatch(r"([A-Ga-g][#b]?)\s*(major|maj|minor|min|m|)", text.strip())
    if match is None:
        raise ConfigError(f"The key is {shown(text)}; expected one such as C major, F# minor or Bb major.")
    return _pitch_class(match[1]), MODES[int(match[2].startswith("m") and not match[2].startswith("maj"))]


def _pitch_class(name: str) -> int:
    natural = PITCH_NAMES.index(name[0].upper())
    return (natural + name.count("#") - name[1:].count("b")) % 12


def parse_chord(text: str) -> tuple[int | None, tuple[int, ...]]:
    """Root and pitch classes of a chord such as `Am`, `F#m7` or Harte's `A:min`; None and nothing for `N`.

    Example:
        >>> parse_chord("Am"), parse_chord("G:7"), parse_chord("N")
        ((9, (9, 0, 4)), (7, (7, 11, 2, 5)), (None, ()))
    """
    if text in ("N", "X"):
        return None, ()
    match = re.fullmatch(r"([A-G][#b]?):?([a-z0-9]*)(/\S+)?", text)
    if match is None or match[2] not in QUALITIES:
        raise ConfigError(
            f"The chord is {shown(text)}; expected one such as C, Am, G7, F#m7, Bdim or N for none."
        )
    root = _pitch_class(match[1])
    return root, tuple((root + step) % 12 for step in QUALITIES[match[2]])


def programs_of(names: Iterable[str]) -> set[int]:
    """The programs of instruments in words, drums being 128."""
    found: set[int] = set()
    lowered = [name.lower() for name in INSTRUMENT_NAMES]
    for name in names:
        word = name.strip().lower()
        own = {lowered.index(word)} if word in lowered else set()
        own = own or {i for i, known in enumerate(lowered) if word and word in known.split()}
        if not own:
            near = difflib.get_close_matches(word, lowered, 3, 0.5)
            raise ConfigError(
                f"Nobody plays {shown(name)}; expected an instrument of General MIDI"
                f"{', maybe ' + ' or '.join(near) if near else ', such as piano, cello or drums'}."
            )
        found |= own
    return found


def _points(value: Any, folder: Path) -> Any:
    """Points of a curve from one value, one point's values, or a CSV file."""
    if isinstance(value, str):
        try:
            return ((0.0, *(float(part) for part in value.split(","))),)
        except ValueError:
            return tuple(tuple(row) for row in _read_csv(folder / value))
    if isinstance(value, int | float):
        return ((0.0, float(value)),)
    return ((0.0, *value),) if value and not isinstance(value[0], list | tuple) else value


def _cue_texts(value: Any, folder: Path) -> list[str]:
    """Cues as texts, from a number, a text, or a CSV file with seconds and maybe a name in each line."""
    if not (isinstance(value, str) and value.lower().endswith(".csv")):
        return [str(value)]
    lines = csv.reader(_text_of(folder / value).splitlines())
    return ["=".join(part.strip() for part in line[:2]) for line in lines if line and line[0] != "seconds"]


def _read_csv(path: Path) -> list[list[float]]:
    """Numbers of a CSV file; a first line of names is passed over."""
    rows = list(csv.reader(_text_of(path).splitlines()))
    try:
        return [
            [float(cell) for cell in row]
            for row in rows[int(bool(rows) and rows[0][:1] == ["seconds"]) :]
            if row
        ]
    except ValueError as error:
        raise DataError(
            f"{path} has a line that is no numbers ({error}); expected seconds and values."
        ) from error


def _read_lab(path: Path) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Starts and names of the chords of a `.lab` file: start, end and chord in each line."""
    rows = [line.split() for line in _text_of(path).splitlines() if line.strip()]
    try:
        return tuple(float(row[0]) for row in rows), tuple(row[2] for row in rows)
    except (IndexError, ValueError) as error:
        raise DataError(
            f"{path} has a line that is not start, end and chord; expected a .lab file."
        ) from error


def _text_of(path: Path) -> str:
    try:
        return read_small(path).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); expected a text file.") from error


def read_line(path: Path) -> tuple[tuple[float, ...], ...]:
    """The melody of a MIDI file: its part of that role or name, else the highest; one note at a time.

    Raises:
        DataError: if it cannot be read, or has no notes with pitch.
    """
    parts = [part for part in read_midi(path).parts if not part.is_drum and len(part.pitches)]
    if not parts:
        raise DataError(f"{path} has no notes with pitch; expected a MIDI file with a melody.")
    told = [part for part in parts if part.role == "melody" or "melody" in part.name.lower()]
    part = (told or sorted(parts, key=lambda own: -float(np.mean(own.pitches))))[0]
    line: list[tuple[float, ...]] = []
    rows = zip(part.start_seconds, part.end_seconds, part.pitches, part.velocities, strict=True)
    for start, end, pitch, velocity in rows:
        if line and start - line[-1][0] < 0.03:  # of notes that start together the highest counts
            if pitch < line[-1][2]:
                continue
            line.pop()
        if line and line[-1][1] > start:
            line[-1] = (line[-1][0], float(start), *line[-1][2:])
        line.append((float(start), float(end), float(pitch), float(velocity)))
    return tuple(line)
