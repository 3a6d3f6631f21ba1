"""Whether the sound of a score has what was asked of it, by tools that the product does not use.

Each measure takes what was asked and the sound, and gives an agreement of 0 to 1, no number where it hears none, or two
numbers, what is asked and what is found, that are correlated over the pieces.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from silent2music.arrays import DoubleArray, FloatArray
from silent2music.audio import Waveform
from silent2music.controls import Controls
from silent2music.errors import require
from silent2music.evaluation.features import music_features
from silent2music.evaluation.following import boundary_scores
from silent2music.keys import PITCH_NAMES, estimate_key
from silent2music.score import ENERGY_RATE_HZ, Part, Score
from silent2music.traits import MODES, TRIADS, affect_curves
from silent2music.transcription import can_transcribe, transcribe

RATE, HOP = 22_050, 512

TEMPO_TOLERANCE = 0.01
TEMPO_LEVELS = (0.25, 1 / 3, 0.5, 1.0, 2.0, 3.0, 4.0)
"""A tracker may find beats of another level of the metre."""

VELOCITY = 70
"""Of transcribed notes, whose loudness is that of the sound."""

ALBRECHT_SHANAHAN = np.array(
    [
        [0.238, 0.006, 0.111, 0.006, 0.137, 0.094, 0.016, 0.214, 0.009, 0.080, 0.008, 0.081],
        [0.220, 0.006, 0.104, 0.123, 0.019, 0.103, 0.012, 0.214, 0.062, 0.022, 0.061, 0.052],
    ]
)
"""Key profiles, major and minor, of Albrecht and Shanahan, "The Use of Large Corpora to Train a New Type of Key-Finding
Algorithm", Music Perception 31(1), 2013."""

Measure = Callable[[Controls, Waveform], Any]


def play(score: Score, soundfont: Path, reverb: bool = False) -> Waveform:
    """A score by fluidsynth, mono at `RATE`."""
    from silent2music.factory.rendering import play as rendered

    pieces = [p.samples.mean(axis=0) for p in rendered(score, soundfont, RATE, reverb, seconds=score.seconds)]
    return Waveform(np.clip(np.concatenate(pieces), -1.0, 1.0)[None].astype(np.float32), RATE)


def beats_per_minute(beat_seconds: DoubleArray) -> float:
    """The tempo of beats that were tracked, by a line through their times; beats that were missed are counted."""
    if len(beat_seconds) < 3:
        return float("nan")
    steps = np.diff(beat_seconds)
    index = np.append(0, np.cumsum(np.maximum(np.rint(steps / np.median(steps)), 1)))
    return 60.0 / float(np.polyfit(index, beat_seconds, 1)[0])


def _tempo_held(beats: Callable[[Any], DoubleArray]) -> Measure:
    """1 if the tempo that a tracker finds is within 1 % of that asked for, or of another level of its metre."""

    def held(asked: Controls, sound: Waveform) -> float:
        found = beats_per_minute(beats(_samples(sound)))
        near = [abs(found / (asked.bpm * level) - 1.0) <= TEMPO_TOLERANCE for level in TEMPO_LEVELS]
        return float(any(near))

    return held


def _tracked(samples: FloatArray) -> DoubleArray:
    """Beats by dynamic programming (Ellis, "Beat Tracking by Dynamic Programming", JNMR 2007)."""
    librosa = require("librosa")
    found = librosa.beat.beat_track(y=samples, sr=RATE, hop_length=HOP, units="time")[1]
    return np.asarray(found, np.float64)


def _pulses(samples: FloatArray) -> DoubleArray:
    """Peaks of the predominant local pulse (Grosche and Mueller, "Extracting Predominant Local Pulse", TASLP 2011)."""
    librosa = require("librosa")
    pulse = librosa.beat.plp(y=samples, sr=RATE, hop_length=HOP)
    return np.asarray(
        librosa.frames_to_time(np.flatnonzero(librosa.util.localmax(pulse)), sr=RATE, hop_length=HOP)
    )


def _multifeature(samples: FloatArray) -> DoubleArray:
    """Beats on which five onset functions agree most (Zapata et al., "Multi-Feature Beat Tracking", TASLP 2014)."""
    if not samples.any():
        return np.zeros(0)  # it would hear beats in silence
    require("essentia").log.infoActive = False  # or it speaks of models that are not used here
    algorithm = require("essentia.standard").BeatTrackerMultiFeature
    own_rate = 44_100  # the only one that it knows
    found = algorithm()(Waveform(samples[None], RATE).resampled(own_rate).samples[0])[0]
    return np.asarray(found, np.float64)


def _key_heard(asked: Controls, sound: Waveform) -> float:
    """1 if the mean chroma is nearest to the profile of the key that is asked for."""
    mean = _chroma(sound).mean(axis=1)
    if not mean.any():
        return float("nan")
    far = [
        float(np.linalg.norm(np.roll(profile / profile.sum(), tonic) - mean / mean.sum()))
        for profile in ALBRECHT_SHANAHAN
        for tonic in range(12)
    ]
    mode, tonic = divmod(int(np.argmin(far)), 12)
    return float(f"{PITCH_NAMES[tonic]} {MODES[mode]}" == asked.key)


def _boundaries_heard(asked: Controls, sound: Waveform) -> float:
    """F of section boundaries at cues, within 0.5 s."""
    cues = np.array([cue.seconds for cue in asked.cue_marks])
    return boundary_scores(cues, music_features(sound).boundary_seconds, sound.seconds).f_measure


def _chords_heard(asked: Controls, sound: Waveform) -> float:
    """Intersection over union of the triads asked for and heard, in time, as `controls.chord_overlap`."""
    librosa = require("librosa")
    chroma = librosa.decompose.nn_filter(_chroma(sound), aggregate=np.median, metric="cosine")
    _, classes, _ = asked.harmony(sound.seconds, chroma.shape[1], RATE / HOP)
    wanted = np.asarray(np.roll(classes, asked.transposition or 0, axis=1) > 0)
    heard = np.asarray(TRIADS)[(TRIADS @ chroma).argmax(axis=0)]
    share = float((heard == wanted).all(axis=1).mean())
    return share / (2.0 - share)


def _melody_heard(asked: Controls, sound: Waveform) -> float:
    """Cosine of the pitch classes of the melody asked for and the strongest heard, frame by frame, where it has notes."""
    chroma = _chroma(sound)
    n_frames = chroma.shape[1]
    wanted = asked.signals(sound.seconds, n_frames, RATE / HOP)["melody"][:, :12]
    wanted = np.roll(wanted, asked.transposition or 0, axis=1)
    heard = np.eye(12)[chroma.argmax(axis=0)] * np.asarray(chroma.max(axis=0) > 0)[:, None]
    heard = heard * np.asarray(wanted.any(axis=1))[:, None]
    return float((heard * wanted).sum() / max(np.linalg.norm(heard) * np.linalg.norm(wanted), 1e-9))


def _onset_rate(asked: Controls, sound: Waveform) -> tuple[float, float]:
    librosa = require("librosa")
    found = librosa.onset.onset_detect(y=_samples(sound), sr=RATE, hop_length=HOP)
    return asked.density[0][1], len(found) / sound.seconds


def _affect(column: int) -> Measure:
    """Valence or arousal by the rules, of notes that basic-pitch transcribes and of the sound's level and beats."""

    def both(asked: Controls, sound: Waveform) -> tuple[float, float]:
        notes = transcribe(sound)
        if not len(notes.pitches):
            return asked.mood[0][1 + column], 0.0
        lasting = np.maximum(notes.end_seconds - notes.start_seconds, 0.02)
        pitches = notes.pitches.astype(np.int64)
        velocities = np.full(len(pitches), VELOCITY)
        columns = (notes.start_seconds, notes.start_seconds + lasting, pitches, velocities)
        samples, n = _samples(sound), int(np.ceil(sound.seconds * ENERGY_RATE_HZ))
        frames = np.array_split(samples.astype(np.float64), n)
        level = 10.0 * np.log10(np.array([np.mean(frame**2) for frame in frames]) + 1e-6) + 20.0
        bpm = beats_per_minute(_tracked(samples))
        mode = estimate_key(pitches, lasting)[1]
        part = Part("notes", 0, False, "", *columns)
        found = affect_curves((part,), level, 90.0 if np.isnan(bpm) else bpm, mode)[column]
        return asked.mood[0][1 + column], float(found.mean())

    return both


def _samples(sound: Waveform) -> FloatArray:
    return np.asarray(sound.samples[0])


def _chroma(sound: Waveform) -> DoubleArray:
    """`[12, n]` by the constant-Q transform, silent frames zero."""
    chroma = require("librosa").feature.chroma_cqt(y=_samples(sound), sr=RATE, hop_length=HOP, tuning=0.0)
    return np.asarray(np.nan_to_num(chroma), np.float64)


HEARD: dict[str, dict[str, tuple[Measure, bool]]] = {
    "tempo": {
        "beats": (_tempo_held(_tracked), False),
        "multifeature": (_tempo_held(_multifeature), False),
        "pulse": (_tempo_held(_pulses), False),
    },
    "key": {"chroma": (_key_heard, False)},
    "cues": {"boundaries": (_boundaries_heard, False)},
    "density": {"onsets": (_onset_rate, True)},
    "chords": {"chroma": (_chords_heard, False)},
    "melody": {"chroma": (_melody_heard, False)},
    "valence": {"notes": (_affect(0), True)},
    "arousal": {"notes": (_affect(1), True)},
}
"""By control the measures of its sound, and whether they give two numbers."""


def measures_of(name: str) -> dict[str, tuple[Measure, bool]]:
    """The measures of a control's sound that can be taken here: some need what not every installation has."""
    can: dict[str, Callable[[], bool]] = {
        "notes": can_transcribe,
        "multifeature": lambda: find_spec("essentia") is not None,
    }
    return {
        label: measure for label, measure in HEARD.get(name, {}).items() if label not in can or can[label]()
    }
