"""Notes in music, transcribed by an outside judge (Spotify's basic-pitch) and held against a score."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from silent2music.arrays import DoubleArray
from silent2music.audio import Waveform, write
from silent2music.errors import S2MError, require
from silent2music.evaluation.following import MatchScores
from silent2music.score import Score

EXTRA = "transcribe"

LOWEST_PITCH, HIGHEST_PITCH = 21, 108
"""What the judge hears: the keys of a piano."""

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


def notes_of(score: Score) -> Notes:
    """What the judge could hear of a score: all but drums, notes of one key within 50 ms of each other as one."""
    parts = [part for part in score.parts if not part.is_drum]
    starts, ends, pitches = (
        np.concatenate([getattr(part, name) for part in parts] or [np.zeros(0)]).astype(np.float64)
        for name in ("start_seconds", "end_seconds", "pitches")
    )
    order = np.lexsort((starts, pitches))
    inside = (pitches >= LOWEST_PITCH) & (pitches <= HIGHEST_PITCH)
    kept: list[int] = []
    for index in order[inside[order]]:
        if not kept or pitches[kept[-1]] != pitches[index] or starts[index] - starts[kept[-1]] > 0.05:
            kept.append(int(index))
    chosen = (
        np.array(kept, np.int64)[np.argsort(starts[kept], kind="stable")] if kept else np.zeros(0, np.int64)
    )
    return Notes(starts[chosen], ends[chosen], pitches[chosen])


def note_scores(reference: Notes, estimated: Notes, window_seconds: float = 0.05) -> MatchScores:
    """Recall, precision and F of notes whose onsets are within 50 ms and whose pitches are equal; ends do not count.

    `mir_eval.transcription.precision_recall_f1_overlap` without offsets (Raffel et al., "mir_eval", ISMIR 2014). Without
    any note on one side the score is 0.
    """
    if not (len(reference.pitches) and len(estimated.pitches)):
        return MatchScores(0.0, 0.0, 0.0)
    sides = []
    for notes in (reference, estimated):
        ends = np.maximum(notes.end_seconds, notes.start_seconds + 1e-3)
        sides += [
            np.stack([notes.start_seconds, ends], axis=1),
            440.0 * 2.0 ** ((notes.pitches - 69.0) / 12.0),
        ]
    precision, recall, f_measure, _ = require("mir_eval.transcription", "eval").precision_recall_f1_overlap(
        *sides, onset_tolerance=window_seconds, offset_ratio=None
    )
    return MatchScores(float(recall), float(precision), float(f_measure))
