"""Which instruments play for which scene, in which range, and how each of them plays.

Few, fixed ensembles per kind, so that a small model can learn them. Successive sections of a piece use
different ensembles of the same kind, and that change is what makes a boundary audible.
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
        sustains: whether a held note sounds on at full strength.
        pan: -1 (left) to 1 (right).
        is_drum: whether it plays on channel 10, `low` and `high` then being any key.
    """

    name: str
    program: int
    low: int
    high: int
    sustains: bool = False
    pan: float = 0.0
    is_drum: bool = False


INSTRUMENTS = {
    i.name: i
    for i in (
        Instrument("piano", 0, 28, 100),
        Instrument("vibraphone", 11, 53, 89, pan=0.2),
        Instrument("marimba", 12, 45, 91, pan=-0.2),
        Instrument("xylophone", 13, 65, 96, pan=0.2),
        Instrument("celesta", 8, 60, 96, pan=0.2),
        Instrument("church organ", 19, 36, 91, True),
        Instrument("accordion", 21, 53, 89, True, 0.15),
        Instrument("guitar", 25, 40, 79, pan=-0.25),
        Instrument("ukulele", 24, 60, 81),
        Instrument("bass", 32, 28, 55),
        Instrument("violin", 40, 55, 93, True, -0.2),
        Instrument("viola", 41, 48, 81, True, 0.1),
        Instrument("cello", 42, 36, 69, True, 0.2),
        Instrument("double bass", 43, 28, 55, True, 0.25),
        Instrument("pizzicato strings", 45, 40, 88, pan=0.1),
        Instrument("harp", 46, 35, 96, pan=0.3),
        Instrument("strings", 48, 36, 91, True),
        Instrument("choir", 52, 48, 79, True),
        Instrument("tuba", 58, 29, 55, True),
        Instrument("bassoon", 70, 34, 69, True, 0.1),
        Instrument("clarinet", 71, 50, 86, True, -0.15),
        Instrument("flute", 73, 60, 93, True, -0.15),
        Instrument("drums", 0, 27, 87, is_drum=True),
    )
}


@dataclass(frozen=True)
class Voice:
    """What one instrument of an ensemble does.

    Attributes:
        instrument: a name in `INSTRUMENTS`.
        role: stem: `melody`, `harmony`, `bass` or `percussion`.
        texture: `line` (the score's upper line), `pad` (held chords), `chords` (short chords on strong onsets),
            `arpeggio`, `roots` (bass on strong onsets), `ostinato` (bass on every beat), `hits` (a drum on
            events) or `kit`.
        centre: MIDI note number around which it plays.
        level: added to velocity.
        key: drum key of `hits`.
    """

    instrument: str
    role: str
    texture: str
    centre: int = 60
    level: int = 0
    key: int = 76


@dataclass(frozen=True)
class Style:
    """How a scene kind sounds.

    Attributes:
        ensembles: instruments with their duties, in the order in which sections use them.
        tempo_bpm: lowest and highest welcome tempo.
        gap_seconds: shortest time between onsets that no event asks for.
        fill: share of the onsets between events that is kept where there are events.
        event_gap_seconds: shortest time between events that are both played.
        articulation: share of the time to the next onset that a note lasts; over 1 overlaps.
        longest_seconds: a note's longest duration.
        velocity: of an unaccented note.
        mode: mode preferred in the choice of a passage, or empty.
        rhythmic: whether every event must be met.
    """

    ensembles: tuple[tuple[Voice, ...], ...]
    tempo_bpm: tuple[float, float]
    gap_seconds: float
    fill: float
    event_gap_seconds: float
    articulation: float
    longest_seconds: float
    velocity: int
    mode: str = ""
    rhythmic: bool = False


def _solo(instrument: str, centre: int, chordal: bool) -> tuple[Voice, ...]:
    """One instrument alone, with its own bass notes if it can play several at once."""
    line = Voice(instrument, "melody", "line", centre)
    return (line, Voice(instrument, "bass", "roots", centre - 17, -12)) if chordal else (line,)


STYLES = {
    "room": Style(
        ensembles=(
            (Voice("piano", "melody", "line", 67), Voice("piano", "bass", "roots", 50, -10)),
            (Voice("piano", "melody", "line", 79, 4), Voice("piano", "harmony", "chords", 64, -14)),
            (Voice("piano", "melody", "line", 60), Voice("piano", "bass", "roots", 40, -4)),
        ),
        tempo_bpm=(52.0, 84.0),
        gap_seconds=0.62,
        fill=0.7,
        event_gap_seconds=0.3,
        articulation=1.1,
        longest_seconds=4.0,
        velocity=52,
    ),
    "hall": Style(
        ensembles=(
            (Voice("strings", "harmony", "pad", 58), Voice("cello", "melody", "line", 55, 6)),
            (
                Voice("church organ", "harmony", "pad", 60, -8),
                Voice("church organ", "bass", "roots", 43, -8),
                Voice("harp", "melody", "line", 76),
            ),
            (
                Voice("choir", "harmony", "pad", 62),
                Voice("double bass", "bass", "roots", 38),
                Voice("celesta", "melody", "line", 79),
            ),
        ),
        tempo_bpm=(50.0, 72.0),
        gap_seconds=1.1,
        fill=0.6,
        event_gap_seconds=0.35,
        articulation=1.0,
        longest_seconds=8.0,
        velocity=66,
        mode="minor",
    ),
    "steps": Style(
        ensembles=(
            (
                Voice("marimba", "melody", "line", 69, 4),
                Voice("bass", "bass", "roots", 40),
                Voice("drums", "percussion", "hits", key=76),
            ),
            (
                Voice("pizzicato strings", "melody", "line", 64, 8),
                Voice("bass", "bass", "roots", 40),
                Voice("drums", "percussion", "hits", key=37),
            ),
            (
                Voice("guitar", "melody", "line", 60, 4),
                Voice("marimba", "harmony", "chords", 60),
                Voice("drums", "percussion", "hits", key=45),
            ),
        ),
        tempo_bpm=(70.0, 140.0),
        gap_seconds=0.3,
        fill=0.2,
        event_gap_seconds=0.1,
        articulation=0.6,
        longest_seconds=0.8,
        velocity=78,
        rhythmic=True,
    ),
    "street": Style(
        ensembles=(
            (
                Voice("accordion", "melody", "line", 72),
                Voice("guitar", "harmony", "chords", 57, -4),
                Voice("bass", "bass", "roots", 40, 6),
                Voice("drums", "percussion", "kit"),
            ),
            (
                Voice("guitar", "melody", "line", 67, 8),
                Voice("bass", "bass", "ostinato", 38, 6),
                Voice("drums", "percussion", "kit", level=8),
            ),
            (
                Voice("violin", "melody", "line", 76),
                Voice("accordion", "harmony", "chords", 62, -8),
                Voice("bass", "bass", "roots", 40, 6),
            ),
        ),
        tempo_bpm=(92.0, 132.0),
        gap_seconds=0.22,
        fill=0.6,
        event_gap_seconds=0.16,
        articulation=0.75,
        longest_seconds=1.5,
        velocity=78,
        mode="major",
    ),
    "weather": Style(
        ensembles=(
            (
                Voice("harp", "harmony", "arpeggio", 62, -4),
                Voice("flute", "melody", "line", 77),
                Voice("strings", "harmony", "pad", 55, -20),
            ),
            (Voice("vibraphone", "harmony", "arpeggio", 67), Voice("cello", "bass", "roots", 45, -4)),
            (
                Voice("harp", "harmony", "arpeggio", 57),
                Voice("clarinet", "melody", "line", 67),
                Voice("strings", "harmony", "pad", 67, -16),
            ),
        ),
        tempo_bpm=(60.0, 92.0),
        gap_seconds=0.5,
        fill=0.6,
        event_gap_seconds=0.25,
        articulation=0.95,
        longest_seconds=4.0,
        velocity=66,
        mode="minor",
    ),
    "machine": Style(
        ensembles=(
            (
                Voice("cello", "bass", "ostinato", 43, 4),
                Voice("marimba", "melody", "line", 64),
                Voice("drums", "percussion", "hits", key=41, level=-10),
            ),
            (Voice("bass", "bass", "ostinato", 36, 10), Voice("vibraphone", "melody", "line", 72)),
            (
                Voice("bassoon", "bass", "ostinato", 46, 4),
                Voice("xylophone", "melody", "line", 76),
                Voice("strings", "harmony", "pad", 52, -20),
            ),
        ),
        tempo_bpm=(80.0, 130.0),
        gap_seconds=0.26,
        fill=0.4,
        event_gap_seconds=0.12,
        articulation=0.6,
        longest_seconds=1.0,
        velocity=72,
        mode="minor",
        rhythmic=True,
    ),
    "muted": Style(
        ensembles=(
            _solo("accordion", 67, True),
            _solo("bass", 43, False),
            _solo("bassoon", 52, False),
            _solo("cello", 53, False),
            _solo("guitar", 64, True),
            _solo("piano", 67, True),
            _solo("tuba", 43, False),
            _solo("ukulele", 69, False),
            _solo("violin", 74, False),
            _solo("flute", 77, False),
            (Voice("drums", "percussion", "kit", level=6),),
        ),
        tempo_bpm=(60.0, 120.0),
        gap_seconds=0.22,
        fill=1.0,
        event_gap_seconds=0.12,
        articulation=0.9,
        longest_seconds=3.0,
        velocity=74,
    ),
    "leak": Style(
        ensembles=(
            (
                Voice("violin", "melody", "line", 74, 4),
                Voice("viola", "harmony", "pad", 60, -8),
                Voice("cello", "bass", "roots", 43),
            ),
            (
                Voice("violin", "melody", "line", 72, 4),
                Voice("piano", "harmony", "chords", 60, -4),
                Voice("cello", "bass", "roots", 43),
            ),
            (
                Voice("guitar", "melody", "line", 67, 6),
                Voice("accordion", "harmony", "pad", 62, -16),
                Voice("bass", "bass", "roots", 40, 6),
                Voice("drums", "percussion", "kit"),
            ),
        ),
        tempo_bpm=(66.0, 120.0),
        gap_seconds=0.22,
        fill=1.0,
        event_gap_seconds=0.12,
        articulation=0.9,
        longest_seconds=3.0,
        velocity=76,
    ),
}
"""How each scene kind sounds."""
