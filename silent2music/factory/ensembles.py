"""Which instruments play for which scene, in which range, and how each of them plays.

Few, fixed ensembles per kind, so that a small model can learn them, from dark and thin to bright and full:
the louder the section, the fuller its ensemble. Successive sections never share one, and that change is what
makes a boundary audible.
"""

from __future__ import annotations

from dataclasses import dataclass


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
        Instrument("vibraphone", 11, 53, 89, 0.2),
        Instrument("marimba", 12, 45, 91, -0.2),
        Instrument("xylophone", 13, 65, 96, 0.2),
        Instrument("celesta", 8, 60, 96, 0.2),
        Instrument("church organ", 19, 36, 91),
        Instrument("accordion", 21, 53, 89, 0.15),
        Instrument("guitar", 25, 40, 79, -0.25),
        Instrument("ukulele", 24, 60, 81),
        Instrument("bass", 32, 28, 55),
        Instrument("violin", 40, 55, 93, -0.2),
        Instrument("viola", 41, 48, 81, 0.1),
        Instrument("cello", 42, 36, 69, 0.2),
        Instrument("double bass", 43, 28, 55, 0.25),
        Instrument("pizzicato strings", 45, 40, 88, 0.1),
        Instrument("harp", 46, 35, 96, 0.3),
        Instrument("strings", 48, 36, 91),
        Instrument("choir", 52, 48, 79),
        Instrument("tuba", 58, 29, 55),
        Instrument("bassoon", 70, 34, 69, 0.1),
        Instrument("clarinet", 71, 50, 86, -0.15),
        Instrument("flute", 73, 60, 93, -0.15),
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
            `arpeggio`, `roots` (bass on strong onsets), `ostinato` (bass on every beat), `hits` (a drum on
            events) or `kit`.
        centre: MIDI note number around which it plays; of `hits` the drum's key.
        level: added to velocity.
    """

    instrument: str
    role: str
    texture: str
    centre: int = 60
    level: int = 0


@dataclass(frozen=True)
class Style:
    """Musical style of a scene kind: tempo, density, articulation, dynamics and ensembles.

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
        ensembles: instruments with their duties, from dark and thin to bright and full.
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
    ensembles: tuple[tuple[Voice, ...], ...]


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
    # One instrument alone, with its own bass notes if it can play several at once.
    "muted": (
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
    ),
    "leak": (
        "cello: melody line 53 4, strings: harmony pad 48 -12, double bass: bass roots 36",
        "violin: melody line 76 4, piano: harmony chords 62, cello: bass roots 45",
        "flute: melody line 84 8, accordion: harmony chords 69 -6, guitar: bass roots 52 4, "
        "drums: percussion kit",
    ),
}
"""By scene kind; a voice is written `instrument: role texture centre level`, see `Voice`."""

_MANNERS = {
    # the fields of `Style` in their order, without the ensembles
    "room": ((52.0, 84.0), 0.62, 0.7, 0.3, 3.0, 5.0, 52, 24.0, "", False),
    "hall": ((50.0, 72.0), 1.4, 0.5, 0.35, 1.5, 8.0, 66, 16.0, "minor", False),
    "steps": ((70.0, 140.0), 0.3, 0.2, 0.1, 0.8, 1.2, 78, 24.0, "", True),
    "street": ((92.0, 132.0), 0.25, 0.5, 0.16, 0.75, 1.5, 78, 18.0, "major", False),
    "weather": ((60.0, 92.0), 0.5, 0.6, 0.25, 0.95, 4.0, 66, 16.0, "minor", False),
    "machine": ((80.0, 130.0), 0.26, 0.4, 0.12, 0.6, 1.0, 72, 20.0, "minor", True),
    "muted": ((60.0, 120.0), 0.22, 1.0, 0.12, 0.9, 3.0, 74, 20.0, "", False),
    "leak": ((66.0, 120.0), 0.22, 1.0, 0.12, 0.9, 3.0, 76, 18.0, "", False),
}


def _voices(ensemble: str) -> tuple[Voice, ...]:
    """The voices of an ensemble as it is written above."""
    voices = []
    for voice in ensemble.split(", "):
        instrument, duty = voice.split(": ")
        role, texture, *numbers = duty.split()
        voices.append(Voice(instrument, role, texture, *(int(number) for number in numbers)))
    return tuple(voices)


STYLES = {
    kind: Style(*_MANNERS[kind], tuple(_voices(ensemble) for ensemble in ensembles))
    for kind, ensembles in _ENSEMBLES.items()
}
"""How each scene kind sounds."""
