"""Which families of instruments are heard in a sound, by a judge that learns it from phrases that fluidsynth plays.

A kernel ridge regression on the colour of each second. It is no perfect judge, so what it finds is set beside what it
finds in real music whose score is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from silent2music.arrays import DoubleArray, IntArray
from silent2music.audio import Waveform
from silent2music.controls import Controls
from silent2music.errors import require
from silent2music.notation import DRUMS, INSTRUMENT_NAMES, N_PROGRAMS
from silent2music.score import Part, Score

N_FAMILIES = N_PROGRAMS // 8 + 1
"""Those of General MIDI (piano, chromatic percussion, organ, guitar and so on), eight programs each, and drums."""

N_STRETCHES, STRETCH_SECONDS = 600, 3.0
"""What is learned from: so many stretches, in each of which one to three families play."""

HOP, FRAMES = 512, 43
"""Samples between spectra, and spectra of about a second, the colour of which is one example."""

QUIET_DB = 50.0
"""Seconds that are farther below the loudest one tell nothing."""

RIDGE, WIDTH = 0.5, 0.3
"""Regularisation, and the kernel's exponent for a squared difference of one standard deviation in every feature."""


def families(programs: Any) -> np.ndarray:
    """`[17]` bool, the families of programs that play, `[129]`."""
    found = np.zeros(N_FAMILIES, bool)
    found[np.flatnonzero(np.asarray(programs) > 0) // 8] = True
    return found


def lesson(ranges: Mapping[int, IntArray], rng: np.random.Generator, n_stretches: int = N_STRETCHES) -> Score:
    """Lines and chords for one to three families at a time, all as often.

    Args:
        ranges: by program, the pitches that it plays.
    """
    by_family = {number: [p for p in ranges if p // 8 == number] for number in {p // 8 for p in ranges}}
    notes: dict[int, list[tuple[float, ...]]] = {}
    for i in range(n_stretches):
        n_playing = min(int(rng.integers(1, 4)), len(by_family))
        for number in rng.choice(sorted(by_family), n_playing, replace=False):
            program = int(rng.choice(by_family[int(number)]))
            own = _phrase(ranges[program], rng)
            notes.setdefault(program, []).extend((i * STRETCH_SECONDS + at, *rest) for at, *rest in own)
    parts = []
    for program, rows in sorted(notes.items()):
        starts, lengths, pitches, velocities = np.array(rows).T
        columns = (starts, starts + lengths, pitches.astype(np.int64), velocities.astype(np.int64))
        parts.append(Part(INSTRUMENT_NAMES[program], program % DRUMS, program == DRUMS, "", *columns))
    return Score(n_stretches * STRETCH_SECONDS, tuple(parts))


def _phrase(pitches: IntArray, rng: np.random.Generator) -> list[tuple[float, float, int, int]]:
    """Start, length, pitch and velocity of notes: a line, or chords, in small steps."""
    step, held = float(np.exp(rng.uniform(np.log(0.15), np.log(1.5)))), float(rng.uniform(0.5, 1.2))
    size, loud, place = (
        int(rng.choice([1, 1, 3])),
        int(rng.integers(50, 110)),
        int(rng.integers(len(pitches))),
    )
    at, found = float(rng.uniform(0.0, 0.5)), []
    last = STRETCH_SECONDS - 0.1
    while at < last:
        length = min(held * step, last - at)
        place = int(np.clip(place + rng.integers(-4, 5), 0, len(pitches) - 1))
        chord = {int(pitches[min(place + 4 * j, len(pitches) - 1)]) for j in range(size)}
        found += [(at, length, pitch, loud + int(rng.integers(-10, 11))) for pitch in sorted(chord)]
        at += step * float(rng.choice([1.0, 1.0, 2.0]))
    return found


def colours(sound: Waveform) -> tuple[DoubleArray, np.ndarray]:
    """Colour of each second `[n, D]`: cepstrum and its changes, spectral contrast, spectrum; whether it sounds `[n]`."""
    librosa = require("librosa")
    layout = {"sr": sound.sample_rate, "n_fft": 2048, "hop_length": HOP}
    power = librosa.feature.melspectrogram(y=sound.samples[0], n_mels=64, fmax=10_000.0, **layout)
    level = librosa.power_to_db(power, top_db=70.0)
    cepstrum = librosa.feature.mfcc(S=level, n_mfcc=24)
    steps = np.diff(cepstrum, axis=1, prepend=cepstrum[:, :1])
    contrast = librosa.feature.spectral_contrast(y=sound.samples[0], **layout)
    n = cepstrum.shape[1] // FRAMES

    def seconds(values: np.ndarray) -> np.ndarray:
        return np.asarray(values[:, : n * FRAMES].reshape(len(values), n, FRAMES))

    spectrum = seconds(level).mean(axis=2)
    rows = [
        seconds(cepstrum)[1:].mean(axis=2),
        seconds(cepstrum).std(axis=2),
        seconds(steps).std(axis=2),
        seconds(contrast).mean(axis=2),
        spectrum - spectrum.mean(axis=0),
    ]
    sounds = seconds(level).max(axis=(0, 2)) > max(float(level.max(initial=-100.0)) - QUIET_DB, -90.0)
    return np.concatenate(rows).T.astype(np.float64), sounds


@dataclass(frozen=True)
class Judge:
    """Tells families of instruments by ear.

    Attributes:
        known: `[17]` bool, families that it has learned.
        scaler, regression: of scikit-learn.
    """

    known: np.ndarray
    scaler: Any
    regression: Any

    @staticmethod
    def taught(soundfont: Path, ranges: Mapping[int, IntArray], seed: int = 0) -> Judge:
        """One that has learned from a soundfont; `ranges` as for `lesson`."""
        from silent2music.evaluation.heard import play

        score = lesson(ranges, np.random.default_rng(seed))
        rows, sounds = colours(sound := play(score, soundfont))
        playing = np.zeros((len(rows), N_FAMILIES))
        for part in score.parts:
            edges = np.stack([part.start_seconds, part.end_seconds - 0.05]) * sound.sample_rate
            first, last = (edges / (HOP * FRAMES)).astype(np.int64).clip(0, len(rows) - 1)
            for begin, end in zip(first, last, strict=True):
                playing[begin : end + 1, (DRUMS if part.is_drum else part.program) // 8] = 1.0
        scaler = require("sklearn.preprocessing", "eval").StandardScaler().fit(rows[sounds])
        kind = require("sklearn.kernel_ridge", "eval").KernelRidge
        regression = kind(alpha=RIDGE, kernel="rbf", gamma=WIDTH / rows.shape[1])
        known = np.asarray(playing.any(axis=0))
        # Against how often each was played, so that all are alike where nothing is told.
        targets = playing[sounds][:, known]
        regression.fit(scaler.transform(rows[sounds]), targets - targets.mean(axis=0))
        return Judge(known, scaler, regression)

    def evidence(self, sound: Waveform) -> DoubleArray:
        """`[17]` how clearly each family is heard, not a number for those never learned, and for all in silence."""
        found = np.full(N_FAMILIES, np.nan)
        rows, sounds = colours(sound)
        if sounds.any():
            found[self.known] = self.regression.predict(self.scaler.transform(rows[sounds])).mean(axis=0)
        return found

    def told(self, programs: Any, sound: Waveform) -> float:
        """Share of pairs of a family that should play and one that should not of which the first is heard more clearly.

        It is the area under the ROC curve, 0.5 by chance; no number where nothing sounds, or all or none should play.

        Args:
            programs: `[129]` those that should play.
        """
        evidence, wanted = self.evidence(sound), families(programs)
        heard = np.isfinite(evidence)
        more = evidence[wanted & heard][:, None] - evidence[~wanted & heard]
        return float(np.mean((np.sign(more) + 1.0) / 2.0)) if more.size else float("nan")

    def agreement(self, asked: Controls, sound: Waveform) -> float:
        """`told` of the instruments that are asked for."""
        return self.told(asked.programs, sound)
