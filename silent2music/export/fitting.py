"""Sets a score of the user's own to a room: beats to its pulse, sections to its changes, loudness to its energy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from silent2music.acoustics import AcousticProfile
from silent2music.arrays import DoubleArray
from silent2music.factory.arrangement import SceneTruth
from silent2music.factory.arranging import automation
from silent2music.factory.ensembles import MANNERS
from silent2music.factory.scenes import LOUDEST_EVENT_DB
from silent2music.factory.timing import Section, plan_sections
from silent2music.score import ENERGY_RATE_HZ, Cue, Part, Score

USUAL_BAR = 4
"""Beats of a bar where the score has no bars."""

REPEAT_FADE = 0.05
"""Seconds by which a room overlaps itself where it is repeated, as `listening.span` has it."""


def set_to_room(score: Score, profile: AcousticProfile, seed: int = 0) -> Score:
    """A score whose beats fall on a room's pulse or bend to its events, in whole bars between the room's changes.

    No note is left out: where the beats between two changes are not a whole number of bars, the last bar is wider or
    narrower, or without a pulse all of them. A room that is shorter than the score is repeated. The score ends with
    its last note.

    Args:
        seed: of how a free tempo breathes.
    """
    end = max([0.1, *(float(part.end_seconds.max()) for part in score.parts if len(part.pitches))])
    n_beats = float(score.beats_at(np.array([end]))[0])
    bpm = 60.0 / float(np.median(np.diff(score.seconds_at(np.arange(3.0)))))
    if len(score.beat_seconds) > 2:
        bpm = 60.0 / float(np.median(np.diff(score.beat_seconds)))
    # Even at half the tempo the room is then longer than the music; what is too much is cut.
    truth = scene_of(profile, 60.0 / bpm * 2.0 * (n_beats + 8.0) + 10.0)
    manner = dataclasses.replace(MANNERS["field"], tempo_bpm=(bpm, bpm))
    sections = plan_sections(truth, manner, bpm, np.random.default_rng(seed))
    beats, seconds = _beat_axis(sections, _bar_beats(score), len(truth.beat_seconds) >= 3)
    first = min(0.0, float(score.beats_at(np.zeros(1))[0]))

    def moved(times: DoubleArray) -> DoubleArray:
        positions = score.beats_at(np.asarray(times, np.float64)) - first
        return np.interp(positions, beats, seconds)

    length = float(moved(np.array([end]))[0])
    gain_db, _ = automation(truth, manner)
    gain_db = gain_db[: max(1, round(length * ENERGY_RATE_HZ))]
    if len(score.gain_db):
        at = np.interp(
            (np.arange(len(gain_db)) + 0.5) / ENERGY_RATE_HZ, moved(_own_times(score)), score.gain_db
        )
        gain_db = gain_db + at
    inside = [s.start_seconds for s in sections[1:] if s.start_seconds < length]
    return Score(
        length,
        tuple(_moved_part(part, moved) for part in score.parts),
        gain_db,
        beat_seconds=_before(moved(score.beat_seconds), length),
        bar_seconds=_before(moved(score.bar_seconds), length),
        boundary_seconds=np.array(inside),
        key=score.key,
        cues=tuple(Cue(min(length, float(moved(np.array([c.seconds]))[0])), c.name) for c in score.cues),
    )


def scene_of(profile: AcousticProfile, seconds: float) -> SceneTruth:
    """What the arranger needs to know of a room, repeated if it is shorter than `seconds`."""
    lap = max(0.1, profile.seconds - (REPEAT_FADE if seconds > profile.seconds else 0.0))
    n_laps = int(np.ceil(seconds / lap))

    def repeated(times: list[float]) -> DoubleArray:
        own = np.array([time for time in times if time < lap], np.float64)
        found = (own[None] + lap * np.arange(n_laps)[:, None]).ravel()
        return found[found < seconds]

    events = [event for event in profile.events if event.seconds < lap]
    times = repeated([event.seconds for event in events])
    strengths = np.tile(
        [np.clip(event.strength_db / LOUDEST_EVENT_DB, 0.05, 1.0) for event in events], n_laps
    )
    energy = np.asarray(profile.energy_dbfs, np.float64)
    n_energy = max(1, round(seconds * ENERGY_RATE_HZ))
    place = (np.arange(n_energy) / ENERGY_RATE_HZ % lap * profile.curve_rate_hz).astype(np.int64)
    return SceneTruth(
        kind="field",
        seconds=seconds,
        energy_db=energy[place.clip(max=len(energy) - 1)],
        event_seconds=times,
        event_strengths=strengths[: len(times)],
        beat_seconds=repeated(list(profile.pulse_seconds)),
        boundary_seconds=repeated([boundary.seconds for boundary in profile.boundaries]),
        rt60_seconds=profile.rt60_seconds,
        level_dbfs=profile.level_dbfs,
    )


def _bar_beats(score: Score) -> float:
    """Beats of a bar."""
    if len(score.bar_seconds) < 2:
        return USUAL_BAR
    return max(1.0, float(np.round(np.median(np.diff(score.beats_at(score.bar_seconds))))))


def _beat_axis(sections: list[Section], bar: float, on_pulse: bool) -> tuple[DoubleArray, DoubleArray]:
    """Positions in the score and their times, both ascending: the sections' beats, whole bars to each section."""
    positions, times = [np.zeros(0)], [np.zeros(0)]
    done = 0.0
    for section, is_last in zip(sections, [False] * (len(sections) - 1) + [True], strict=True):
        own = section.beat_seconds[section.beat_seconds < section.stop_seconds]
        own = own if len(own) else section.beat_seconds[:1]
        # The part of a beat that the section's end cuts counts.
        n_there = float(section.beats_at(np.array([section.stop_seconds]))[0])
        n_bars = n_there / bar if is_last else max(1.0, np.round(n_there / bar))
        place = np.arange(len(own), dtype=np.float64)
        if not on_pulse or n_there <= bar:
            place = place * (n_bars * bar / n_there)
        else:
            # All bars but the last have their beats; it has what is left.
            rest = (n_bars - 1) * bar
            late = place > rest
            place[late] = rest + (place[late] - rest) * bar / max(n_there - rest, 1e-3)
        positions.append(done + place)
        times.append(own)
        done += n_bars * bar
    where, when = np.concatenate(positions), np.concatenate(times)
    # What begins before the room does begins with it.
    keep = np.concatenate([[True], np.diff(where) > 0])
    where, when = where[keep], np.maximum(when[keep], 0.0)
    return where, when + 1e-9 * np.arange(len(when))


def _own_times(score: Score) -> DoubleArray:
    """The middles of the steps of a score's loudness."""
    return np.asarray((np.arange(len(score.gain_db)) + 0.5) / ENERGY_RATE_HZ, np.float64)


def _before(times: DoubleArray, end: float) -> DoubleArray:
    return np.unique(times[times < end])


def _moved_part(part: Part, move: Callable[[DoubleArray], DoubleArray]) -> Part:
    """A part in other time, every note lasting."""
    starts = move(part.start_seconds)
    return dataclasses.replace(
        part,
        start_seconds=starts,
        end_seconds=np.maximum(move(part.end_seconds), starts + 1e-3),
        control_seconds=move(part.control_seconds),
    )
