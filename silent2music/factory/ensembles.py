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
        ensembles: instruments with their duties, from dark and thin to bright and full.
        tempo_bpm: lowest and highest welcome tempo.
        gap_seconds: shortest time between onsets that no event asks for.
        fill: share of the onsets between events that is kept where there are events.
        event_gap_seconds: shortest time between events that are both played.
        articulation: share of the time to the next onset that a note lasts; over 1 overlaps.
        longest_seconds: a note's longest duration.
        velocity: of an unaccented note.
        mode: mode preferred in the choice of a passage, or empty.
        rhythmic: whether every event must be met.
        range_db: widest range of the loudness automation.
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
    range_db: float = 24.0


def _solo(instrument: str, centre: int, chordal: bool) -> tuple[Voice, ...]:
    """One instrument alone, with its own bass notes if it can play several at once."""
    line = Voice(instrument, "melody", "line", centre)
    return (line, Voice(instrument, "bass", "roots", centre - 17, -12)) if chordal else (line,)


STYLES = {
    "room": Style(
        ensembles=(
            (Voice("piano", "melody", "line", 55), Voice("piano", "bass", "roots", 40, -2)),
            (Voice("piano", "melody", "line", 67), Voice("piano", "bass", "roots", 50, -8)),
            (Voice("piano", "melody", "line", 82, 6), Voice("piano", "harmony", "chords", 67, -8)),
        ),
        tempo_bpm=(52.0, 84.0),
        gap_seconds=0.62,
        fill=0.7,
        event_gap_seconds=0.3,
        articulation=3.0,
        longest_seconds=5.0,
        velocity=52,
    ),
    "hall": Style(
        ensembles=(
            (
                Voice("strings", "harmony", "pad", 50),
                Voice("double bass", "bass", "roots", 36),
                Voice("harp", "melody", "line", 57, 8),
            ),
            (
                Voice("church organ", "harmony", "pad", 60, -8),
                Voice("harp", "melody", "line", 69, 12),
            ),
            (
                Voice("choir", "harmony", "pad", 70, 6),
                Voice("strings", "harmony", "pad", 76, -10),
                Voice("celesta", "melody", "line", 84, 14),
            ),
        ),
        tempo_bpm=(50.0, 72.0),
        gap_seconds=1.4,
        fill=0.5,
        event_gap_seconds=0.35,
        articulation=1.5,
        longest_seconds=8.0,
        velocity=66,
        mode="minor",
        range_db=16.0,
    ),
    "steps": Style(
        ensembles=(
            (
                Voice("pizzicato strings", "melody", "line", 52, 10),
                Voice("bass", "bass", "roots", 36),
                Voice("drums", "percussion", "hits", key=41),
            ),
            (
                Voice("marimba", "melody", "line", 67, 4),
                Voice("bass", "bass", "roots", 40),
                Voice("drums", "percussion", "hits", key=76),
            ),
            (
                Voice("xylophone", "melody", "line", 81),
                Voice("guitar", "harmony", "chords", 62, 4),
                Voice("drums", "percussion", "hits", key=37),
            ),
        ),
        tempo_bpm=(70.0, 140.0),
        gap_seconds=0.3,
        fill=0.2,
        event_gap_seconds=0.1,
        articulation=0.8,
        longest_seconds=1.2,
        velocity=78,
        rhythmic=True,
    ),
    "street": Style(
        ensembles=(
            (
                Voice("guitar", "melody", "line", 55, 8),
                Voice("bass", "bass", "roots", 36, 6),
            ),
            (
                Voice("accordion", "melody", "line", 69),
                Voice("guitar", "harmony", "chords", 57, -4),
                Voice("bass", "bass", "roots", 40, 6),
            ),
            (
                Voice("violin", "melody", "line", 81, 4),
                Voice("accordion", "harmony", "chords", 70, -4),
                Voice("bass", "bass", "roots", 45, -4),
                Voice("drums", "percussion", "kit", level=8),
            ),
        ),
        tempo_bpm=(92.0, 132.0),
        gap_seconds=0.25,
        fill=0.5,
        event_gap_seconds=0.16,
        articulation=0.75,
        longest_seconds=1.5,
        velocity=78,
        mode="major",
        range_db=18.0,
    ),
    "weather": Style(
        ensembles=(
            (
                Voice("harp", "harmony", "arpeggio", 50),
                Voice("strings", "harmony", "pad", 48, -12),
            ),
            (
                Voice("harp", "harmony", "arpeggio", 62),
                Voice("clarinet", "melody", "line", 67),
                Voice("strings", "harmony", "pad", 62, -16),
            ),
            (
                Voice("vibraphone", "harmony", "arpeggio", 74, 8),
                Voice("flute", "melody", "line", 84, 4),
                Voice("strings", "harmony", "pad", 76, -14),
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
        range_db=16.0,
    ),
    "machine": Style(
        ensembles=(
            (
                Voice("double bass", "bass", "ostinato", 36, 8),
                Voice("strings", "harmony", "pad", 46, -8),
                Voice("drums", "percussion", "hits", key=41),
            ),
            (
                Voice("cello", "bass", "ostinato", 45, 4),
                Voice("marimba", "melody", "line", 64, 6),
                Voice("strings", "harmony", "pad", 55, -14),
                Voice("drums", "percussion", "hits", key=45),
            ),
            (
                Voice("bassoon", "bass", "ostinato", 50, 4),
                Voice("xylophone", "melody", "line", 81),
                Voice("strings", "harmony", "pad", 70, -12),
                Voice("drums", "percussion", "hits", key=37),
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
        range_db=20.0,
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
        range_db=20.0,
    ),
    "leak": Style(
        ensembles=(
            (
                Voice("cello", "melody", "line", 53, 4),
                Voice("strings", "harmony", "pad", 48, -12),
                Voice("double bass", "bass", "roots", 36),
            ),
            (
                Voice("violin", "melody", "line", 76, 4),
                Voice("piano", "harmony", "chords", 62),
                Voice("cello", "bass", "roots", 45),
            ),
            (
                Voice("flute", "melody", "line", 84, 8),
                Voice("accordion", "harmony", "chords", 69, -6),
                Voice("guitar", "bass", "roots", 52, 4),
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
        range_db=18.0,
    ),
}
"""How each scene kind sounds."""
