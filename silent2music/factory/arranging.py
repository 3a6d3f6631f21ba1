"""The arranger: a score set to a scene, so that its beats, sections, dynamics and instruments follow it."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np

from silent2music.arrays import DoubleArray
from silent2music.errors import DataError
from silent2music.factory.arrangement import Arrangement, SceneTruth
from silent2music.factory.ensembles import INSTRUMENTS, MANNERS, Manner, Style, Voice, draw_style
from silent2music.factory.scores import Notes, Passage, SourceScore, Wish, pick_passage
from silent2music.factory.textures import TEXTURES, Draft, Player, SectionMusic
from silent2music.factory.timing import Section, choose_slots, plan_sections
from silent2music.keys import PITCH_NAMES, key_shift
from silent2music.score import ENERGY_RATE_HZ, Part
from silent2music.traits import SILENT_DBFS, SILENT_GAIN_DB, affect_curves, following_db
from silent2music.words import caption_words

MUSIC_FIRST_KINDS = ("muted", "leak")
"""Kinds whose silent side is made from the music, not the other way round."""

SECTION_GAPS = (1.5, 1.0, 0.75)
"""Factors on the time between onsets, from the thinnest to the fullest sections of a piece that has several."""

NO_MUSIC_SHARE = 0.55
"""How often an empty recording gets no note at all."""

REGISTERS = (-14, 0, 14)
"""Semitones by which a soloist, who has no other ensemble to change to, moves for the same sections."""


VOICES_SHARE = 0.6
"""How often instruments play the vocal lines of a score that has some, too."""

RETURN_SHARE = 0.5
"""How often the third of three sections takes up the first's music."""

CLOSE_SHARE = 0.7
"""How often the last section is to end where a phrase ends."""


def arrange(
    score: SourceScore,
    truth: SceneTruth,
    rng: np.random.Generator,
    *,
    style: Style | None = None,
    drumming: SourceScore | None = None,
    normalise_key: bool = True,
) -> Arrangement:
    """Set a score to a scene.

    Beats are warped in straight lines onto the scene's pulse at the metrical level nearest to the score's
    tempo; without a pulse they bend to its events; without events they run free. Every event is given a note
    onset, sections start on the boundaries with other instruments, register and density, and `gain_db` follows
    the energy curve. For the kinds `muted` and `leak` the scene has no time of its own and the music goes first.

    Args:
        rng: decides everything that is free; the same state gives the same arrangement.
        style: one of the scene kind's; drawn by default.
        drumming: what a drum kit plays where the score has no drums of its own.
        normalise_key: transpose each passage to C major or A minor; else the whole piece goes to any key by chance.

    Raises:
        DataError: on an unknown kind, or of a score that holds drums alone.
    """
    style = style or draw_style(truth.kind, rng)
    if not score.parts:
        raise DataError(f"{score.source} holds drums alone; expected a pitched part.")
    if score.sung and rng.random() < VOICES_SHARE:
        score = score.with_voices()
    manner = style.manner
    gain_db, loudness = automation(truth, manner)
    sections = plan_sections(truth, manner, score.tempo_bpm, rng)
    fullness = section_fullness(sections, truth, rng)
    drafts: dict[tuple[str, str], Draft] = {}
    bars: list[DoubleArray] = []
    keys: list[tuple[float, int, str]] = []
    passages = _passages(score, sections, fullness, style, rng, normalise_key)
    activity = _activity(truth, loudness, rng) ** (1.0 - style.keep)
    for section, rank, passage in zip(sections, fullness, passages, strict=True):
        keys.append((section.stop_seconds - section.start_seconds, passage.tonic, passage.mode))
        gap = manner.gap_seconds * _stillness(truth) * (SECTION_GAPS[rank] if len(sections) > 1 else 1.0)
        slots = choose_slots(section, passage, truth, manner, gap, activity, rng)
        drums = _drums(passage, section, drumming, rng) if style.has_kit else Notes.joined([])
        music = SectionMusic(section, passage, slots, manner, loudness, rng, drums)
        for voice in style.ensembles[rank]:
            if len(set(style.ensembles)) == 1:
                voice = _moved(voice, REGISTERS[rank])
            draft = drafts.setdefault((voice.instrument, voice.role), Draft(voice.instrument, voice.role))
            TEXTURES[voice.texture](Player(music, voice, draft))
        bars.append(section.seconds_at(passage.bar_beats.astype(np.float64)))
    finished = (draft.finished(truth.seconds) for draft in drafts.values())
    parts = tuple(part for part in finished if len(part.pitches))
    beats = _inside(np.concatenate([s.beat_seconds[:-1] for s in sections]), truth.seconds)
    intervals = np.concatenate([np.diff(s.beat_seconds) for s in sections])
    tempo_bpm = 60.0 / float(np.median(intervals))
    _, tonic, mode = max(keys)
    valence, arousal = affect_curves(parts, gain_db, tempo_bpm, mode)
    return Arrangement(
        seconds=truth.seconds,
        parts=parts,
        gain_db=gain_db,
        beat_seconds=beats,
        bar_seconds=_inside(np.concatenate(bars), truth.seconds),
        boundary_seconds=np.array([s.start_seconds for s in sections[1:]]),
        tempo_bpm=tempo_bpm,
        key=f"{PITCH_NAMES[tonic]} {mode}",
        valence=valence,
        arousal=arousal,
        caption=describe(parts, truth, tempo_bpm, valence, arousal),
    )


def _passages(
    score: SourceScore,
    sections: list[Section],
    fullness: list[int],
    style: Style,
    rng: np.random.Generator,
    normalise_key: bool,
) -> list[Passage]:
    """The music of each section, in its key."""
    seeds = rng.integers(2**32, size=len(sections))
    if len(seeds) == 3 and rng.random() < RETURN_SHARE:
        seeds[2] = seeds[0]
    closes, any_key = rng.random() < CLOSE_SHARE, int(rng.integers(12))
    passages: list[Passage] = []
    for index, (section, rank, seed) in enumerate(zip(sections, fullness, seeds, strict=True)):
        low, high = style.onset_rate
        rate = low * (high / low) ** (rank / 2.0) if low else 0.0
        period = float(np.median(np.diff(section.beat_seconds)))
        wish = Wish(style.manner.mode, rate * period, closes and index == len(sections) - 1)
        passages.append(pick_passage(score, section.n_beats, np.random.default_rng(seed), wish))
    shift = (any_key - passages[0].tonic + 6) % 12 - 6
    return [
        passage.transposed(key_shift(passage.tonic, passage.mode) if normalise_key else shift)
        for passage in passages
    ]


def _drums(
    passage: Passage, section: Section, drumming: SourceScore | None, rng: np.random.Generator
) -> Notes:
    """The passage's own drums, else a drummer's, in beats of the section."""
    if len(passage.drums.starts) >= section.n_beats or drumming is None:
        return passage.drums
    return pick_passage(drumming, section.n_beats, rng).drums


def _moved(voice: Voice, semitones: int) -> Voice:
    """A voice in another register, as far as its instrument has one."""
    instrument = INSTRUMENTS[voice.instrument]
    centre = int(np.clip(voice.centre + semitones, instrument.low + 7, instrument.high - 7))
    return dataclasses.replace(voice, centre=centre)


def section_fullness(sections: list[Section], truth: SceneTruth, rng: np.random.Generator) -> list[int]:
    """Which of three ensembles, dark and thin to bright and full, plays each section: the louder, the fuller.

    A scene of one section goes by its level (below -63 dBFS the first, above -52 the last), and music that comes
    before its scene by chance; of several, each is fuller or thinner than the one before as it is louder or
    quieter.
    """
    if len(sections) == 1:
        if truth.kind in MUSIC_FIRST_KINDS:
            return [1 if truth.kind == "muted" else int(rng.integers(3))]
        return [int(np.searchsorted((-63.0, -52.0), truth.level_dbfs))]
    frames = [
        slice(int(s.start_seconds * ENERGY_RATE_HZ), int(s.stop_seconds * ENERGY_RATE_HZ)) for s in sections
    ]
    levels = [float(np.median(truth.energy_db[f])) for f in frames]
    ranks = [2 if levels[0] > levels[1] else 0]
    for before, here in pairwise(levels):
        louder = here > before
        ranks.append((2 if louder else 0) if ranks[-1] != (2 if louder else 0) else 1)
    return ranks


def automation(truth: SceneTruth, manner: Manner | None = None) -> tuple[DoubleArray, DoubleArray]:
    """Loudness automation and relative loudness of the music.

    See `traits.following_db`. Rhythmic kinds keep the scene's curve as it is, the others are smoothed over 0.3 s.

    Returns:
        gain_db: `[n]` at most 0, with the whole scene's level in it (up to 8 dB less for the quietest).
        loudness: `[n]` 0 to 1 within the scene's range.
    """
    manner, level_dbfs = manner or MANNERS[truth.kind], truth.energy_db
    audible = level_dbfs > SILENT_DBFS
    if not audible.any():
        return np.full(len(level_dbfs), SILENT_GAIN_DB), np.zeros(len(level_dbfs))
    low, high = np.percentile(level_dbfs[audible], [5.0, 95.0])
    curve = level_dbfs if manner.rhythmic else smoothed(level_dbfs, 3)
    gain, relative = following_db(curve, float(low), float(high), truth.level_dbfs, manner.range_db)
    gain = np.where(audible, gain, SILENT_GAIN_DB)
    return gain, np.clip(smoothed(relative, 5), 0.0, 1.0)


def smoothed(curve: DoubleArray, width: int) -> DoubleArray:
    """A centred moving mean that does not shrink at the edges."""
    kernel = np.ones(width)
    return np.convolve(curve, kernel, "same") / np.convolve(np.ones(len(curve)), kernel, "same")


def _stillness(truth: SceneTruth) -> float:
    """Factor on the time between onsets: an empty, quiet scene gets sparser music."""
    if truth.kind in MUSIC_FIRST_KINDS or len(truth.event_seconds) > truth.seconds / 4.0:
        return 1.0
    return 1.0 + 0.8 * float(np.clip((-55.0 - truth.level_dbfs) / 20.0, 0.0, 1.0))


def _activity(truth: SceneTruth, loudness: DoubleArray, rng: np.random.Generator) -> DoubleArray:
    """Chance of an onset that no event asks for: fewer where the scene is still, hardly any in digital silence.

    Where there is nothing at all to hear, music is as a rule none, else a note now and then.
    """
    if truth.kind == "nothing":
        return np.full(len(loudness), 0.0 if rng.random() < NO_MUSIC_SHARE else 0.3)
    return np.where(truth.energy_db > SILENT_DBFS, np.clip(0.35 + 1.6 * loudness, 0.0, 1.0), 0.04)


def _inside(times: DoubleArray, seconds: float) -> DoubleArray:
    return times[(times >= 0.0) & (times < seconds)]


def describe(
    parts: tuple[Part, ...], truth: SceneTruth, tempo_bpm: float, valence: DoubleArray, arousal: DoubleArray
) -> str:
    """A caption such as "slow, melancholic solo cello in a large hall"."""
    names = list(dict.fromkeys(part.name for part in parts))
    if not names:
        return "near silence"
    tempo, mood = caption_words(tempo_bpm, float(valence.mean()), float(arousal.mean()))
    players = f"solo {names[0]}" if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{tempo}, {mood} {players} {_place(truth)}"


def _place(truth: SceneTruth) -> str:
    """Where it sounds, from the decay time, else from the kind."""
    rt60 = truth.rt60_seconds
    if rt60 is None:
        return "without a room"
    if truth.kind == "leak":
        return "behind a wall"
    return "in a large hall" if rt60 >= 1.6 else "in a room" if rt60 >= 0.45 else "in a small dry room"
