"""Notes in sound: by an outside judge, Spotify's basic-pitch, and the line that someone hums or plays."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from silent2music.arrays import DoubleArray
from silent2music.audio import Waveform, read, write
from silent2music.errors import DataError, S2MError, require

EXTRA = "transcribe"

ONSET_THRESHOLD, FRAME_THRESHOLD, MIN_FRAMES = 0.5, 0.3, 11
"""The judge's own defaults: likelihood of an onset and of a note that goes on, and 128 ms."""


class Notes(NamedTuple):
    """Notes by start: `start_seconds` and `end_seconds` `[n]`, and `pitches` `[n]` as MIDI numbers."""

    start_seconds: DoubleArray
    end_seconds: DoubleArray
    pitches: DoubleArray


HOW_TO_INSTALL = f"pip install 'silent2music[{EXTRA}]' && pip install --no-deps basic-pitch"
"""basic-pitch without what it asks for, an old TensorFlow: it runs on onnxruntime."""


def can_transcribe() -> bool:
    """Whether the outside judge is installed."""
    return find_spec("basic_pitch") is not None and find_spec("onnxruntime") is not None


def transcribe(music: Waveform) -> Notes:
    """Notes that basic-pitch hears in music (Bittner et al., ICASSP 2022), at its own thresholds.

    Raises:
        S2MError: if basic-pitch or what it runs on is not installed, with how to install it.
    """
    judge = _judge()
    with tempfile.TemporaryDirectory(prefix="s2m-") as folder:
        file = Path(folder) / "music.wav"
        write(file, music.mono())
        with _quiet():
            heard = require("basic_pitch.inference", EXTRA).run_inference(file, judge)
    creation = require("basic_pitch.note_creation", EXTRA)
    found = creation.output_to_notes_polyphonic(
        heard["note"],
        heard["onset"],
        ONSET_THRESHOLD,
        FRAME_THRESHOLD,
        MIN_FRAMES,
        True,
        max_freq=None,
        min_freq=None,
    )
    times = creation.model_frames_to_time(len(heard["note"]) + 1)
    rows = sorted((float(times[first]), float(times[last]), float(pitch)) for first, last, pitch, _ in found)
    columns = np.array(rows, np.float64).reshape(-1, 3)
    return Notes(columns[:, 0], columns[:, 1], columns[:, 2])


@lru_cache(maxsize=1)
def _judge() -> Any:
    """The judge with the weights of its package, on one thread: processes are the parallelism."""
    if not can_transcribe():
        raise S2MError(f"basic-pitch is not installed; install it by: {HOW_TO_INSTALL}")
    with _quiet():
        package = require("basic_pitch", EXTRA)
        runtime = require("onnxruntime", EXTRA)
        inference = require("basic_pitch.inference", EXTRA)
        weights = str(package.build_icassp_2022_model_path(package.FilenameSuffix.onnx))
        judge = inference.Model(weights)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    judge.model = runtime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
    return judge


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the package's warnings of the runtimes that it could have used instead."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


# ---- a melody ----

LOWEST_HZ, HIGHEST_HZ = 65.4, 2093.0
"""What is hummed, sung, whistled or played lies between C2 and C7."""

PITCH_RATE, HOP = 22_050, 256
LEAST_SECONDS = 0.08
"""A shorter note belongs to the one before, and a shorter gap is none."""

SURE, AUDIBLE = 0.25, 0.05
"""Likelihood of a voice, and share of the highest level, below which there is no note."""

DIP = 0.6
"""Where sound falls below this share of what is around it, a note of the same pitch is struck again."""

Line = tuple[tuple[float, float, float, float], ...]
"""Notes `(start, end, pitch, velocity)`, one at a time, in seconds and as MIDI numbers."""


def heard_line(path: Path) -> Line:
    """The melody of a recording, hummed, sung or played: by basic-pitch where it is installed, else by pYIN.

    Raises:
        AudioError: if it cannot be read.
        DataError: if no line is heard in it.
        S2MError: if librosa is not installed.
    """
    music = read(path, mono=True)
    line = _top_line(transcribe(music)) if can_transcribe() else pitch_line(music)
    if not line:
        raise DataError(f"No line is heard in {path}; expected one voice that hums, sings or plays a melody.")
    return line


def _top_line(notes: Notes) -> Line:
    """The highest of the notes that sound at a time."""
    line: list[tuple[float, float, float, float]] = []
    for start, end, pitch in sorted(zip(*notes, strict=True)):
        if line and line[-1][1] > start:
            if line[-1][2] > pitch:
                continue
            line[-1] = (line[-1][0], start, *line[-1][2:])
        line.append((float(start), float(end), float(pitch), 80.0))
    return tuple(note for note in line if note[1] - note[0] >= LEAST_SECONDS)


def pitch_line(music: Waveform) -> Line:
    """The notes of one voice, by pYIN (Mauch and Dixon, ICASSP 2014) as librosa has it.

    Pitches are rounded after the voice's own tuning was taken out. A note begins where the pitch moves on to another
    key, after a gap, and where the sound rises again after a dip.

    Args:
        music: mono, `[1, N]`.
    """
    librosa = require("librosa")

    samples = music.resampled(PITCH_RATE).samples[0].astype(np.float64)
    if len(samples) < 4 * 2048 or not np.abs(samples).max() > 0:
        return ()
    hz, voiced, sure = librosa.pyin(samples, fmin=LOWEST_HZ, fmax=HIGHEST_HZ, sr=PITCH_RATE, hop_length=HOP)
    level = librosa.feature.rms(y=samples, frame_length=1024, hop_length=HOP)[0][: len(hz)]
    voiced &= (sure >= SURE) & (level >= AUDIBLE * level.max())
    n_least = round(LEAST_SECONDS * PITCH_RATE / HOP)
    pitches = np.where(voiced, 69.0 + 12.0 * np.log2(np.nan_to_num(hz, nan=440.0) / 440.0), np.nan)
    # How far the voice is from equal temperament at 440 Hz, as a circular mean.
    turns = np.exp(2j * np.pi * pitches[voiced])
    tuning = float(np.angle(turns.mean()) / (2.0 * np.pi)) if voiced.any() else 0.0
    keys = np.where(voiced, np.rint(_smoothed(pitches, n_least) - tuning), -1).astype(np.int64)
    edges = np.flatnonzero(np.diff(keys, prepend=-2, append=-2))
    runs = [(int(a), int(b), int(keys[a])) for a, b in pairwise(edges)]
    notes: list[list[int]] = []
    for first, last, key in runs:
        near = bool(notes) and first - notes[-1][1] < n_least
        if key >= 0 and near and key == notes[-1][2]:
            notes[-1][1] = last
        elif key >= 0 and last - first >= n_least:
            notes.append([first, last, key])
        elif key >= 0 and near:
            notes[-1][1] = last
    loudest = float(level.max())
    line = []
    for first, last, key in notes:
        cuts = [first, *_dips(level, first, last, n_least), last]
        for begin, end in pairwise(cuts):
            loudness = float(level[begin:end].max()) / loudest
            times = (begin * HOP / PITCH_RATE, end * HOP / PITCH_RATE)
            line.append((*times, float(key), float(np.clip(round(30.0 + 80.0 * loudness), 1, 127))))
    return tuple(line)


def _smoothed(values: DoubleArray, n: int) -> DoubleArray:
    """The running median over n or one more, without what is no number."""
    padded = np.pad(values, n // 2, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * (n // 2) + 1)
    found = np.full(len(values), np.nan)
    known = np.isfinite(windows).any(axis=1)
    found[known] = np.nanmedian(windows[known], axis=1)
    return np.asarray(np.nan_to_num(found, nan=-1.0))


def _dips(level: DoubleArray, first: int, last: int, n_least: int) -> list[int]:
    """Frames within a note at which its level is lowest between two rises."""
    found: list[int] = []
    for at in range(first + n_least, last - n_least):
        around = slice(at - n_least // 2, at + n_least // 2 + 1)
        if level[at] > level[around].min() or (found and at - found[-1] < n_least):
            continue
        before, after = level[max(first, at - 3 * n_least) : at].max(), level[at : at + 3 * n_least].max()
        if level[at] < DIP * min(before, after):
            found.append(at)
    return found
