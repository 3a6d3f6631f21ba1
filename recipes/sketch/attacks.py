"""How far attacks in the model's sound lie from those that a synthesiser gives the same notes.

    python recipes/sketch/attacks.py /usr/share/sounds/sf2/FluidR3_GM.sf2

Onset detectors meet hardly more than half of the notes within 10 ms even in a synthesiser's own sound. Here notes stand
alone, at places throughout the codec's frame, and an attack is the moment at which the energy around a note's harmonics
has risen half way. The ceiling is the synthesiser again in its reverberation, the null its sound 30 ms late; the sound
that went through the codec says what the codec blurs.

    python recipes/sketch/attacks.py SOUNDFONT... --model MODEL --tell

measures at other pitches how late each instrument that is struck or plucked is, and writes into the model's sketch by how
much its notes are to be told earlier (`leads_ms`).
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
from scipy.signal import stft

import silent2music as s2m
from silent2music.arrays import DoubleArray
from silent2music.config import MOST_LEAD_MS, SKETCH_FOLDER
from silent2music.factory.rendering import play
from silent2music.notation import DRUMS, INSTRUMENT_NAMES, STRIKES
from silent2music.score import Part, Score

RATE, N_FFT, HOP = 24_000, 1024, 24
"""A column for each millisecond."""

PROGRAMS = {
    "piano": 0,
    "marimba": 12,
    "guitar": 24,
    "harp": 46,
    "flute": 73,
    "violin": 40,
    "strings": 48,
    "trumpet": 56,
}
PITCHES, TOLD_PITCHES = (52, 59, 66), (43, 48, 53, 58, 63, 68, 73)
CLEAR_MS = 15
"""An instrument is told earlier or later where the middle half of its attacks lies within so much."""

FRAME_SECONDS, N_PLACES, N_TOLD_PLACES = 0.04, 8, 5
APART_SECONDS, LASTING_SECONDS = 0.8, 0.5
BEFORE, AFTER = 100, 160
"""Milliseconds about a note's onset among which its attack is looked for."""


def tune(program: int, each: tuple[int, ...] = PITCHES, n_places: int = N_PLACES) -> Score:
    """Single notes of each pitch, begun at places throughout a codec frame."""
    index = np.arange(len(each) * n_places)
    starts = 0.5 + APART_SECONDS * index + FRAME_SECONDS / n_places * (index % n_places)
    pitches = np.repeat(each, n_places)
    velocities = np.full(len(index), 84)
    part = Part("", program, False, "melody", starts, starts + LASTING_SECONDS, pitches, velocities)
    return Score(float(starts[-1]) + 1.5, (part,))


def attacks(samples: np.ndarray, score: Score) -> DoubleArray:
    """When each note's energy has risen half way, in milliseconds; NaN where it does not rise."""
    (part,) = score.parts
    energy = np.abs(stft(samples, RATE, "hann", N_FFT, N_FFT - HOP)[2]) ** 2
    bins = np.arange(len(energy)) * RATE / N_FFT
    found = np.full(len(part.pitches), np.nan)
    for index, (start, pitch) in enumerate(zip(part.start_seconds, part.pitches, strict=True)):
        harmonics = 440.0 * 2.0 ** ((pitch - 69) / 12) * np.arange(1, 9)
        near = (np.abs(bins[:, None] - harmonics) <= 30.0).any(axis=1)
        first = round(1000 * start) - BEFORE
        level = energy[near, first : first + BEFORE + AFTER].sum(axis=0)
        top = BEFORE // 2 + int(level[BEFORE // 2 :].argmax())
        half = 0.5 * (level[:top].min() + level[top])
        below = np.flatnonzero(level[:top] < half)
        if len(below):
            last = int(below[-1])
            found[index] = first + last + (half - level[last]) / (level[last + 1] - level[last])
    return found


def played(score: Score, soundfont: Path, reverb: bool = False) -> np.ndarray:
    """A synthesiser's sound, mono."""
    pieces = play(score, soundfont, RATE, reverb=reverb, seconds=score.seconds)
    return np.concatenate([piece.samples.mean(0) for piece in pieces])


def performed(model: s2m.Silent2Music, score: Score) -> np.ndarray:
    """The model's sound, mono."""
    return model.generate(None, seed=1, seconds=score.seconds, score=score).samples[0]


def tell(folder: Path, soundfonts: list[Path]) -> None:
    """Write into the sketch of a model by how much each struck or plucked instrument is to be told earlier."""
    model = s2m.load(folder)
    now, leads = model.sketch.leads, {}
    for program in np.flatnonzero(STRIKES).tolist():
        if program == DRUMS:
            continue
        score = tune(program, TOLD_PITCHES, N_TOLD_PLACES)
        own = attacks(performed(model, score), score)
        late = own - np.nanmean([attacks(played(score, font), score) for font in soundfonts], axis=0)
        low, median, high = np.nanpercentile(late, (25, 50, 75))
        told, name = "", INSTRUMENT_NAMES[program]
        if high - low <= CLEAR_MS:  # not where nothing was found, which is NaN
            leads[name] = float(np.clip(round(1000 * now[program] + median), -MOST_LEAD_MS, MOST_LEAD_MS))
            told = f", told {leads[name]:.0f} ms earlier"
        print(f"{name:24} {median:+6.1f} ms [{low:+.1f}, {high:+.1f}]{told}", flush=True)
    model.sketch.config = dataclasses.replace(model.sketch.config, leads_ms=leads)
    model.sketch.save_pretrained(folder / SKETCH_FOLDER)


def main() -> None:
    """Print a line for each instrument and sound: median, quartiles, and the share of notes within 10 ms."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("soundfonts", type=Path, nargs="+", help="without --tell only the first is played")
    parser.add_argument("--model", type=Path, default=Path("checkpoints/base"))
    parser.add_argument("--tell", action="store_true")
    arguments = parser.parse_args()
    if arguments.tell:
        tell(arguments.model, arguments.soundfonts)
        return
    model = s2m.load(arguments.model)
    for name, program in PROGRAMS.items():
        score = tune(program)
        dry = played(score, arguments.soundfonts[0])
        sounds = {
            "model": performed(model, score),
            "codec": model.decode(model.encode(dry[None], RATE)).samples[0],
            "reverberation": played(score, arguments.soundfonts[0], reverb=True),
            "30 ms late": np.pad(dry, (round(0.03 * RATE), 0)),
        }
        true = attacks(dry, score)
        for what, samples in sounds.items():
            late = attacks(samples[: len(dry)], score) - true
            low, median, high = np.nanpercentile(late, (25, 50, 75))
            share = float(np.mean(np.abs(late) <= 10.0))
            print(
                f"{name:8} {what:14} {median:+6.1f} ms [{low:+.1f}, {high:+.1f}], within 10 ms {share:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
