"""Which instruments play for which scene, in which range, and how each of them plays.

Each kind of scene has some styles, of which a pair draws one. A style has three ensembles, from dark and thin to
bright and full: the louder the section, the fuller its ensemble. Successive sections never share one, and that
change is what makes a boundary audible; in a style of one soloist the register changes instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from silent2music.errors import DataError


@dataclass(frozen=True)
class Instrument:
    """A General MIDI instrument.

    Attributes:
        name: in plain words.
        program: 0 to 127.
        low, high: MIDI note numbers that it can play.
        pan: -1 (left) to 1 (right).
        is_drum: whether it plays on channel 10, `low` and `high` then being any key.
    """

    name: str
    program: int
    low: int
    high: int
    pan: float = 0.0
    is_drum: bool = False


INSTRUMENTS = {
    i.name: i
    for i in (
        Instrument("piano", 0, 28, 100),
        Instrument("electric piano", 4, 33, 93),
        Instrument("harpsichord", 6, 36, 89),
        Instrument("celesta", 8, 60, 96, 0.2),
        Instrument("glockenspiel", 9, 72, 103, 0.25),
        Instrument("music box", 10, 60, 93, 0.1),
        Instrument("vibraphone", 11, 53, 89, 0.2),
        Instrument("marimba", 12, 45, 91, -0.2),
        Instrument("xylophone", 13, 65, 96, 0.2),
        Instrument("tubular bells", 14, 60, 77, 0.2),
        Instrument("dulcimer", 15, 48, 84, -0.2),
        Instrument("church organ", 19, 36, 91),
        Instrument("reed organ", 20, 36, 89),
        Instrument("accordion", 21, 53, 89, 0.15),
        Instrument("ukulele", 24, 60, 81),
        Instrument("nylon guitar", 24, 40, 83, -0.1),
        Instrument("guitar", 25, 40, 79, -0.25),
        Instrument("electric guitar", 27, 40, 84, -0.25),
        Instrument("bass", 32, 28, 55),
        Instrument("fretless bass", 35, 28, 60),
        Instrument("synth bass", 38, 28, 55),
        Instrument("violin", 40, 55, 93, -0.2),
        Instrument("viola", 41, 48, 81, 0.1),
        Instrument("cello", 42, 36, 69, 0.2),
        Instrument("double bass", 43, 28, 55, 0.25),
        Instrument("tremolo strings", 44, 40, 88),
        Instrument("pizzicato strings", 45, 40, 88, 0.1),
        Instrument("harp", 46, 35, 96, 0.3),
        Instrument("timpani", 47, 38, 57, 0.1),
        Instrument("strings", 48, 36, 91),
        Instrument("slow strings", 49, 36, 91),
        Instrument("synth strings", 50, 36, 91),
        Instrument("choir", 52, 48, 79),
        Instrument("trumpet", 56, 54, 84, 0.15),
        Instrument("trombone", 57, 40, 70, 0.2),
        Instrument("tuba", 58, 29, 55),
        Instrument("french horn", 60, 41, 77, -0.2),
        Instrument("soprano saxophone", 64, 56, 87, -0.1),
        Instrument("alto saxophone", 65, 49, 80, -0.1),
        Instrument("oboe", 68, 58, 91, 0.1),
        Instrument("english horn", 69, 52, 81, 0.15),
        Instrument("bassoon", 70, 34, 69, 0.1),
        Instrument("clarinet", 71, 50, 86, -0.15),
        Instrument("piccolo", 72, 74, 105, -0.2),
        Instrument("flute", 73, 60, 93, -0.15),
        Instrument("recorder", 74, 60, 93, -0.1),
        Instrument("pan flute", 75, 60, 93),
        Instrument("synth pad", 88, 36, 91),
        Instrument("warm pad", 89, 36, 91),
        Instrument("choir pad", 91, 36, 91),
        Instrument("bowed pad", 92, 36, 91),
        Instrument("halo pad", 94, 36, 91),
        Instrument("sweep pad", 95, 36, 91),
        Instrument("kalimba", 108, 53, 84, 0.1),
        Instrument("drums", 0, 27, 87, is_drum=True),
    )
}


@dataclass(frozen=True)
class Voice:
    """One instrument of an ensemble with its role, texture and register.

    Attributes:
        instrument: a name in `INSTRUMENTS`.
        role: stem: `melody`, `harmony`, `bass` or `percussion`.
        texture: `line` (the score's upper line), `pad` (held chords), `chords` (short chords on strong onsets),
            `arpeggio`, `roots` (bass on strong onsets), `ostinato` (bass on every beat), `pulse` (chords repeated
            on even parts of the beat), `hits` (a drum on events) or `kit`; or the score as it is written:
            `whole`, or its `upper`, `inner` or `lower` notes.
        centre: MIDI note number around which it plays; of `hits` the drum's key.
        level: added to velocity.
    """

    instrument: str
    role: str
    texture: str
    centre: int = 60
    level: int = 0


@dataclass(frozen=True)
class Manner:
    """How the music of a scene kind moves.

    Attributes:
        tempo_bpm: lowest and highest welcome tempo.
        gap_seconds: shortest time between onsets that no event asks for.
        fill: share of the onsets between events that is kept where there are events.
        event_gap_seconds: shortest time between events that are both played.
        articulation: share of the time to the next onset that a note lasts; over 1 overlaps.
        longest_seconds: a note's longest duration.
        velocity: of an unaccented note.
        range_db: widest range of the loudness automation.
        mode: mode preferred in the choice of a passage, or empty.
        rhythmic: whether every event must be met.
    """

    tempo_bpm: tuple[float, float]
    gap_seconds: float
    fill: float
    event_gap_seconds: float
    articulation: float
    longest_seconds: float
    velocity: int
    range_db: float
    mode: str
    rhythmic: bool


@dataclass(frozen=True)
class Style:
    """One way to play for a scene kind.

    Attributes:
        manner: how it moves.
        ensembles: instruments with their duties, from dark and thin to bright and full.
        sort: of the scores that it is made from, see `repertoire`.
        written_for: a regular expression; scores with a part of such a name are preferred.
        onset_rate: moments a second at which notes should start in the passages for the thinnest and for the
            fullest ensemble; none is preferred where both are 0.
        keep: 0 to 1, how far a score's own onsets are kept where the scene asks for fewer.
        share: how often it is drawn, in any unit.
    """

    manner: Manner
    ensembles: tuple[tuple[Voice, ...], ...]
    sort: str = "piece"
    written_for: str = ""
    onset_rate: tuple[float, float] = (0.0, 0.0)
    keep: float = 0.0
    share: float = 1.0

    @property
    def has_kit(self) -> bool:
        """Whether a drum kit plays."""
        return any(voice.texture == "kit" for voices in self.ensembles for voice in voices)


_MANNERS = {
    # the fields of `Manner` in their order
    "room": ((52.0, 84.0), 0.62, 0.7, 0.3, 3.0, 5.0, 52, 24.0, "", False),
    "hall": ((50.0, 72.0), 1.4, 0.5, 0.35, 1.5, 8.0, 66, 16.0, "minor", False),
    "steps": ((70.0, 140.0), 0.3, 0.2, 0.1, 0.8, 1.2, 78, 24.0, "", True),
    "street": ((92.0, 132.0), 0.25, 0.5, 0.16, 0.75, 1.5, 78, 18.0, "major", False),
    "weather": ((60.0, 92.0), 0.5, 0.6, 0.25, 0.95, 4.0, 66, 16.0, "minor", False),
    "machine": ((80.0, 130.0), 0.26, 0.4, 0.12, 0.6, 1.0, 72, 20.0, "minor", True),
    "muted": ((60.0, 120.0), 0.22, 1.0, 0.12, 0.9, 3.0, 74, 20.0, "", False),
    "leak": ((66.0, 120.0), 0.22, 1.0, 0.12, 0.9, 3.0, 76, 18.0, "", False),
    "field": ((60.0, 120.0), 0.25, 0.4, 0.1, 0.95, 4.0, 70, 20.0, "", False),
    "nothing": ((50.0, 70.0), 8.0, 1.0, 1.0, 1.5, 6.0, 48, 6.0, "", False),
}
MANNERS = {kind: Manner(*values) for kind, values in _MANNERS.items()}
"""How the music of each scene kind moves, whatever its style."""

_OWN = {"room": 1.0, "hall": 1.0, "steps": 2.0, "street": 1.0, "weather": 1.0, "machine": 2.0, "leak": 1.0}
"""Share of the style whose textures were made for the kind, by kind; the others are drawn once each or as stated."""

_ENSEMBLES = {
    "room": (
        "piano: melody line 55, piano: bass roots 40 -2",
        "piano: melody line 67, piano: bass roots 50 -8",
        "piano: melody line 82 6, piano: harmony chords 67 -8",
    ),
    "hall": (
        "strings: harmony pad 50, double bass: bass roots 36, harp: melody line 57 8",
        "church organ: harmony pad 60 -8, harp: melody line 69 12",
        "choir: harmony pad 70 6, strings: harmony pad 76 -10, celesta: melody line 84 14",
    ),
    "steps": (
        "pizzicato strings: melody line 52 10, bass: bass roots 36, drums: percussion hits 41",
        "marimba: melody line 67 4, bass: bass roots 40, drums: percussion hits 76",
        "xylophone: melody line 81, guitar: harmony chords 62 4, drums: percussion hits 37",
    ),
    "street": (
        "guitar: melody line 55 8, bass: bass roots 36 6",
        "accordion: melody line 69, guitar: harmony chords 57 -4, bass: bass roots 40 6",
        "violin: melody line 81 4, accordion: harmony chords 70 -4, bass: bass roots 45 -4, "
        "drums: percussion kit 60 8",
    ),
    "weather": (
        "harp: harmony arpeggio 50, strings: harmony pad 48 -12",
        "harp: harmony arpeggio 62, clarinet: melody line 67, strings: harmony pad 62 -16",
        "vibraphone: harmony arpeggio 74 8, flute: melody line 84 4, strings: harmony pad 76 -14",
    ),
    "machine": (
        "double bass: bass ostinato 36 8, strings: harmony pad 46 -8, drums: percussion hits 41",
        "cello: bass ostinato 45 4, marimba: melody line 64 6, strings: harmony pad 55 -14, "
        "drums: percussion hits 45",
        "bassoon: bass ostinato 50 4, xylophone: melody line 81, strings: harmony pad 70 -12, "
        "drums: percussion hits 37",
    ),
    "leak": (
        "cello: melody line 53 4, strings: harmony pad 48 -12, double bass: bass roots 36",
        "violin: melody line 76 4, piano: harmony chords 62, cello: bass roots 45",
        "flute: melody line 84 8, accordion: harmony chords 69 -6, guitar: bass roots 52 4, "
        "drums: percussion kit",
    ),
}
"""The textures made for each kind; a voice is written `instrument: role texture centre level`, see `Voice`."""

_SOLOISTS = (
    "accordion: melody line 67, accordion: bass roots 50 -12",
    "bass: melody line 43",
    "bassoon: melody line 52",
    "cello: melody line 53",
    "guitar: melody line 64, guitar: bass roots 47 -12",
    "piano: melody line 67, piano: bass roots 50 -12",
    "tuba: melody line 43",
    "ukulele: melody line 69",
    "violin: melody line 74",
    "flute: melody line 77",
    "drums: percussion kit 60 6",
)
"""One instrument alone, with its own bass notes if it can play several at once: those that `muted` knows."""


def _voices(ensemble: str) -> tuple[Voice, ...]:
    """The voices of an ensemble as it is written above."""
    voices = []
    for voice in ensemble.split(", "):
        instrument, duty = voice.split(": ")
        role, texture, *numbers = duty.split()
        voices.append(Voice(instrument, role, texture, *(int(number) for number in numbers)))
    return tuple(voices)


def _solo(instrument: str, centre: int = 60) -> tuple[str, ...]:
    """Ensembles of one instrument that plays all of a score."""
    return (
        f"{instrument}: melody whole {centre - 5} -6",
        f"{instrument}: melody whole {centre}",
        f"{instrument}: melody whole {centre + 7} 6",
    )


@dataclass(frozen=True)
class _Written:
    """Scores played as they are written, or progressions unfolded: a style for several kinds.

    `changes` are the fields of the kind's `Manner` that differ.
    """

    kinds: str
    ensembles: tuple[str, ...]
    written_for: str = ""
    sort: str = "piece"
    onset_rate: tuple[float, float] = (1.2, 3.5)
    keep: float = 0.75
    changes: tuple[tuple[str, object], ...] = ()
    share: float = 1.0

    def styles(self) -> Iterator[tuple[str, Style]]:
        """The style for each of its kinds."""
        voices = tuple(_voices(ensemble) for ensemble in self.ensembles)
        for kind in self.kinds.split():
            changes, keep, rate = dict(self.changes), self.keep, self.onset_rate
            if kind == "field":
                # A real recording's events are few and weak: music as dense as it is written would cover them.
                for name in ("fill", "gap_seconds"):
                    changes.pop(name, None)
                keep, rate = keep / 2, (0.6 * rate[0], 0.6 * rate[1])
            manner = replace(MANNERS[kind], **changes)  # type: ignore[arg-type]
            yield kind, Style(manner, voices, self.sort, self.written_for, rate, keep, self.share)


_FREE = (("gap_seconds", 0.11), ("fill", 0.9), ("articulation", 1.0), ("longest_seconds", 8.0), ("mode", ""))
"""As written, in a place whose events leave room."""

_STRICT = (("gap_seconds", 0.16), ("articulation", 0.95), ("longest_seconds", 2.5), ("mode", ""))
"""As written, but for the onsets that would stand between the events of a rhythmic place."""

_DRIFTING = (("tempo_bpm", (46.0, 66.0)), ("gap_seconds", 1.2), ("longest_seconds", 12.0), ("mode", ""))
"""Slow, of long notes."""

_WALKING = (("gap_seconds", 0.2), ("mode", ""))

_WRITTEN = (
    _Written("room weather field leak", _solo("piano"), "piano|klavier", changes=_FREE, share=2.0),
    _Written(
        "room weather street field", _solo("nylon guitar", 57), r"guitar|gitar|\blute|vihuela", changes=_FREE
    ),
    _Written("room weather field", _solo("harp", 62), r"harp\b|guitar|\blute|piano", changes=_FREE),
    _Written(
        "hall field leak", _solo("church organ"), "organ|harpsichord|continuo", changes=_FREE, share=1.5
    ),
    _Written("room", _solo("electric piano", 62), "piano", changes=_FREE, share=0.5),
    _Written("room street", _solo("harpsichord", 62), "harpsichord|clav|lute", changes=_FREE, share=0.4),
    _Written(
        "hall weather field leak",
        (
            "cello: bass lower 43, viola: harmony inner 57 -4",
            "violin: melody upper 72 4, viola: harmony inner 60 -4, cello: bass lower 45",
            "violin: melody upper 79 6, strings: harmony inner 67 -6, cello: bass lower 50, "
            "double bass: bass lower 38",
        ),
        "violin|viola",
        changes=_FREE,
        share=1.5,
    ),
    _Written(
        "weather street field leak",
        (
            "bassoon: bass lower 45, french horn: harmony inner 55 -6, clarinet: melody upper 62",
            "bassoon: bass lower 47, clarinet: harmony inner 62 -6, oboe: melody upper 74",
            "bassoon: bass lower 50, clarinet: harmony inner 67 -4, flute: melody upper 84 4, "
            "french horn: harmony pad 60 -14",
        ),
        "flute|oboe|clarinet|bassoon|horn|wind",
        changes=_FREE,
    ),
    _Written(
        "hall weather street field",
        (
            "strings: harmony inner 52 -6, double bass: bass lower 36, french horn: melody upper 60",
            "violin: melody upper 74, strings: harmony inner 60 -8, cello: bass lower 45, "
            "clarinet: harmony inner 67 -6",
            "flute: melody upper 86 4, violin: melody upper 79, strings: harmony inner 67 -4, "
            "french horn: harmony inner 60 -8, double bass: bass lower 40, timpani: bass roots 45 -10",
        ),
        "violin|cello|orch",
        changes=_FREE,
        share=1.5,
    ),
    _Written(
        "hall street",
        (
            "tuba: bass lower 38, trombone: harmony inner 52 -4, french horn: melody upper 60",
            "tuba: bass lower 40, french horn: harmony inner 60 -4, trumpet: melody upper 67",
            "trombone: bass lower 48, french horn: harmony inner 65, trumpet: melody upper 76 4",
        ),
        "trumpet|trombone|horn|brass|tuba",
        changes=_FREE,
    ),
    _Written(
        "room hall weather leak",
        (
            "piano: harmony inner 50 -8, piano: bass lower 38 -4, cello: melody upper 55 6",
            "piano: harmony inner 57 -8, piano: bass lower 43 -6, clarinet: melody upper 67 4",
            "piano: harmony inner 64 -8, piano: bass lower 48 -6, violin: melody upper 79 4",
        ),
        "voice|sing|piano",
        changes=_FREE,
        share=1.5,
    ),
    _Written(
        "room hall weather field",
        (
            "warm pad: harmony pad 50 -6, bowed pad: bass roots 38 -8, electric piano: melody line 52 -4",
            "warm pad: harmony pad 57 -6, halo pad: harmony pad 69 -16, electric piano: melody line 64 -4",
            "choir pad: harmony pad 67 -6, synth strings: harmony pad 60 -14, vibraphone: melody line 79 4, "
            "fretless bass: bass roots 40 -6",
        ),
        sort="progression",
        onset_rate=(0.0, 0.0),
        keep=0.0,
        changes=_DRIFTING,
        share=1.5,
    ),
    _Written(
        "hall weather machine",
        (
            "sweep pad: harmony pad 48 -6, double bass: bass roots 34, harp: harmony arpeggio 50 4",
            "slow strings: harmony pad 57 -6, kalimba: harmony arpeggio 64 6, cello: bass roots 43 -6",
            "choir: harmony pad 69 -2, synth pad: harmony pad 60 -14, glockenspiel: melody line 88 2, "
            "cello: bass roots 48",
        ),
        sort="progression",
        onset_rate=(0.0, 0.0),
        keep=0.0,
        changes=(("tempo_bpm", (60.0, 84.0)), ("longest_seconds", 10.0), ("mode", "")),
    ),
    _Written(
        "steps machine street field",
        (
            "marimba: harmony pulse 55 2, double bass: bass roots 38 4",
            "marimba: harmony pulse 62 4, vibraphone: melody line 72 4, cello: bass ostinato 45",
            "piano: harmony pulse 69 2, marimba: harmony pulse 74 -4, flute: melody line 84 6, bass: bass ostinato 45",
        ),
        sort="progression",
        onset_rate=(0.0, 0.0),
        keep=0.0,
        changes=_WALKING,
        share=0.7,
    ),
    _Written(
        "steps machine street leak",
        (
            "synth bass: bass roots 36 4, electric piano: harmony chords 52, drums: percussion kit",
            "bass: bass lower 40 2, electric piano: harmony chords 62 -4, guitar: melody upper 64, "
            "drums: percussion kit",
            "bass: bass lower 43, electric guitar: harmony chords 67 -4, alto saxophone: melody upper 74 2, "
            "drums: percussion kit 60 4",
        ),
        "drum|bass|guitar",
        onset_rate=(1.5, 4.0),
        keep=0.4,
        changes=_STRICT,
        share=0.8,
    ),
    _Written(
        "steps machine",
        (
            "pizzicato strings: bass lower 43 6, bassoon: melody upper 55",
            "pizzicato strings: harmony inner 60 4, double bass: bass lower 40 6, clarinet: melody upper 69",
            "pizzicato strings: harmony inner 67 6, bassoon: bass lower 48 4, flute: melody upper 82 4, "
            "oboe: melody upper 74 -6",
        ),
        "violin|clarinet|flute",
        onset_rate=(1.5, 4.0),
        keep=0.4,
        changes=_STRICT,
    ),
    _Written("steps", _solo("marimba", 65), "piano|guitar", onset_rate=(1.5, 4.0), keep=0.4, changes=_STRICT),
)
"""Styles that let the score's own texture be heard, or that stand on progressions."""

_LONE_NOTES = ("piano", "vibraphone", "harp", "celesta", "music box", "tubular bells", "electric piano")
"""Who plays the note in ten seconds that an empty recording gets."""


def _styles() -> dict[str, tuple[Style, ...]]:
    """All styles by scene kind."""
    found: dict[str, list[Style]] = {kind: [] for kind in MANNERS}
    for kind, ensembles in _ENSEMBLES.items():
        own = Style(MANNERS[kind], tuple(_voices(ensemble) for ensemble in ensembles), share=_OWN[kind])
        found[kind].append(own)
    for written in _WRITTEN:
        for kind, style in written.styles():
            found[kind].append(style)
    found["muted"] = [Style(MANNERS["muted"], (_voices(solo),) * 3) for solo in _SOLOISTS]
    found["nothing"] = [
        Style(MANNERS["nothing"], (_voices(f"{name}: melody line 72"),) * 3, sort="progression")
        for name in _LONE_NOTES
    ]
    return {kind: tuple(styles) for kind, styles in found.items()}


STYLES = _styles()
"""How each scene kind may sound."""


def draw_style(kind: str, rng: np.random.Generator) -> Style:
    """One of a scene kind's styles.

    Raises:
        DataError: if the kind is unknown.
    """
    if kind not in STYLES:
        raise DataError(f"Scene kind is '{kind}'; expected one of {', '.join(STYLES)}.")
    shares = np.array([style.share for style in STYLES[kind]])
    return STYLES[kind][int(rng.choice(len(shares), p=shares / shares.sum()))]
