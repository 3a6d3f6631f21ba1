"""When notes are heard to begin in the model's sound, beside when their score says so.

    python recipes/sketch/attacks.py /usr/share/sounds/sf2/FluidR3_GM.sf2

Onset detectors meet hardly more than half of the notes within 10 ms even in a synthesiser's own sound. Here notes stand
alone, at places throughout the codec's frame, and are heard to begin where the energy around their harmonics passes 10 dB
below its maximum from 50 ms before to 160 ms after a note's start. For listeners it is from 6 to 15 dB below the maximum,
whether a tone is struck or bowed (J. Vos and R. Rasch, "The perceptual onset of musical tones", Perception &
Psychophysics 29, 1981). Beside the model's are a synthesiser's sound, the same through the codec, and as a null the
model's 30 ms late.

    python recipes/sketch/attacks.py --model MODEL --tell

measures at other pitches and velocities how late each instrument is, and writes into the model's sketch by how much
its notes are to be told earlier (`leads_ms`).
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
from silent2music.factory.ensembles import INSTRUMENTS
from silent2music.factory.rendering import play
from silent2music.notation import DRUMS, INSTRUMENT_NAMES, STRIKES
from silent2music.score import Part, Score
from silent2music.sketch import HELD_LEAD_MS, LEAD_MS

RATE, N_FFT, HOP = 24_000, 512, 24
"""A column for each millisecond."""

HEIGHTS, VELOCITIES, N_PLACES = (0.25, 0.5, 0.75), (60, 80, 100), 8
TOLD_HEIGHTS, TOLD_VELOCITIES, N_TOLD_PLACES = (0.1, 0.3, 0.4, 0.6, 0.7, 0.9), (70, 90), 5
"""Notes that are judged, and those by which instruments are told: shares of an instrument's range, velocities by turns,
and places within a frame."""

ANY_RANGE = (36, 84)
"""Pitches of instruments that the factory has not."""

CLEAR_MS, LEAST_MS, LEAST_FOUND = 15, 3, 0.8
"""An instrument is told earlier or later where the middle half of its attacks lies within the one, and where that is by
the other or more other than it is told without; and where of the notes as many were found."""

FRAME_SECONDS, APART_SECONDS, LASTING_SECONDS = 0.04, 0.8, 0.5
BEFORE, AFTER, EARLY = 100, 160, 50
"""Milliseconds about a note's start: from where to where it is looked at, and from when on it may be loudest."""

THRESHOLD = 10.0 ** (-10.0 / 10.0)
NEAR_HZ = 60.0


def tune(
    program: int,
    span: tuple[int, int],
    heights: tuple[float, ...],
    velocities: tuple[int, ...],
    n_places: int,
) -> Score:
    """Single notes at heights of an instrument's range, begun at places throughout a codec frame."""
    pitches = [round(span[0] + height * (span[1] - span[0])) for height in heights]
    index = np.arange(len(pitches) * n_places)
    starts = 0.5 + APART_SECONDS * index + FRAME_SECONDS / n_places * (index % n_places)
    struck = np.array(velocities)[index % len(velocities)]
    notes = (starts, starts + LASTING_SECONDS, np.repeat(pitches, n_places), struck)
    return Score(float(starts[-1]) + 1.5, (Part("", program, False, "melody", *notes),))


def attacks(samples: np.ndarray, score: Score) -> DoubleArray:
    """How many milliseconds after its start each note is heard to begin; NaN where it does not rise so far."""
    (part,) = score.parts
    energy = np.abs(stft(samples, RATE, "hann", N_FFT, N_FFT - HOP)[2]) ** 2 + 1e-20
    bins = np.arange(len(energy)) * RATE / N_FFT
    found = np.full(len(part.pitches), np.nan)
    for index, (start, pitch) in enumerate(zip(part.start_seconds, part.pitches, strict=True)):
        harmonics = 440.0 * 2.0 ** ((pitch - 69) / 12) * np.arange(1, 9)
        near = (np.abs(bins[:, None] - harmonics) <= NEAR_HZ).any(axis=1)
        first = round(1000 * start) - BEFORE
        level = energy[near, first : first + BEFORE + AFTER].sum(axis=0)
        top = BEFORE - EARLY + int(level[BEFORE - EARLY :].argmax())
        heard = THRESHOLD * level[top]
        below = np.flatnonzero(level[:top] < heard)
        if len(below):
            last = int(below[-1])
            part_way = np.log(heard / level[last]) / np.log(level[last + 1] / level[last])
            found[index] = first + last + part_way - 1000 * start
    return found


def played(score: Score, soundfont: Path) -> np.ndarray:
    """A synthesiser's sound, mono."""
    pieces = play(score, soundfont, RATE, reverb=False, seconds=score.seconds)
    return np.concatenate([piece.samples.mean(0) for piece in pieces])


def performed(model: s2m.Silent2Music, score: Score) -> np.ndarray:
    """The model's sound, mono."""
    return model.generate(None, seed=1, seconds=score.seconds, score=score).samples[0]


def tell(folder: Path) -> None:
    """Write into the sketch of a model by how much each instrument is to be told earlier."""
    model = s2m.load(folder)
    now, leads = 1000 * model.sketch.leads, {}
    spans: dict[int, tuple[int, int]] = {}
    for each in INSTRUMENTS.values():
        if not each.is_drum:
            low, high = spans.get(each.program, (each.low, each.high))
            spans[each.program] = min(low, each.low), max(high, each.high)
    for program, name in enumerate(INSTRUMENT_NAMES[:DRUMS]):
        score = tune(program, spans.get(program, ANY_RANGE), TOLD_HEIGHTS, TOLD_VELOCITIES, N_TOLD_PLACES)
        late = attacks(performed(model, score), score)
        lead = usual = LEAD_MS if STRIKES[program] else HELD_LEAD_MS
        found = late[~np.isnan(late)]
        if len(found) >= LEAST_FOUND * len(late):
            low, median, high = np.percentile(found, (25, 50, 75))
            measured = float(np.clip(round(now[program] + median), -MOST_LEAD_MS, MOST_LEAD_MS))
            if high - low <= CLEAR_MS and abs(measured - usual) >= LEAST_MS:
                leads[name] = lead = measured
        print(f"{name:24} {np.nanmedian(late):+6.1f} ms, told {lead:.0f} ms early", flush=True)
    model.sketch.config = dataclasses.replace(model.sketch.config, leads_ms=leads)
    model.sketch.save_pretrained(folder / SKETCH_FOLDER)


def main() -> None:
    """Print a line for each instrument: of each sound the median, and the share of notes within 10 ms."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("soundfont", type=Path, nargs="?")
    parser.add_argument("--model", type=Path, default=Path("checkpoints/base"))
    parser.add_argument("--tell", action="store_true")
    arguments = parser.parse_args()
    if arguments.tell:
        tell(arguments.model)
        return
    model = s2m.load(arguments.model)
    shares: dict[tuple[bool, str], list[float]] = {}
    for name, instrument in INSTRUMENTS.items():
        if instrument.is_drum:
            continue
        span = instrument.low, instrument.high
        score = tune(instrument.program, span, HEIGHTS, VELOCITIES, N_PLACES)
        sounds = {"model": performed(model, score)}
        if arguments.soundfont is not None:
            dry = played(score, arguments.soundfont)
            sounds |= {"synthesiser": dry, "codec": model.decode(model.encode(dry[None], RATE)).samples[0]}
        sounds["30 ms late"] = np.pad(sounds["model"], (round(0.03 * RATE), 0))
        line = f"{name:22}"
        for what, samples in sounds.items():
            late = attacks(samples, score)
            share = float(np.mean(np.abs(late) <= 10.0))
            shares.setdefault((bool(STRIKES[instrument.program]), what), []).append(share)
            line += f"  {what} {np.nanmedian(late):+6.1f} ms {share:.2f}"
        print(line, flush=True)
    for (strikes, what), each in sorted(shares.items()):
        print(
            f"{'struck or plucked' if strikes else 'bowed or blown'}, {len(each)}: {what} {np.mean(each):.2f}"
        )


if __name__ == "__main__":
    main()
