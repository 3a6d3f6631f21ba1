"""Music of any length to a file at the loudness and under the peak promised, a block at a time.

The music waits in a temporary file until its loudness is known. Blocks overlap where the limiter looks around,
so that the result is the same as if the whole had been limited at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from silent2music import audio
from silent2music.audio import FloatArray, LoudnessMeter, Recording, Waveform
from silent2music.errors import AudioError

TARGET_LUFS = -18.0
"""Integrated loudness of what is written (ITU-R BS.1770)."""

MAX_TRUE_PEAK_DBTP = -1.0
"""What is written stays below this true peak, lossy coding included."""

NEARLY_NOTHING_LUFS = -50.0
"""Music that the model left quieter than this is meant to be nearly nothing, and is not turned up."""

BLOCK_SECONDS = 10
MARGIN_SECONDS = 0.05
"""More than the limiter and the oversampling of true peaks look to either side."""


class _Kept:
    """Music that waits on disk, beside the file that it will become, and its loudness as it was made."""

    def __init__(self, pieces: Iterable[Waveform], folder: Path) -> None:
        meter: LoudnessMeter | None = None
        for piece in pieces:
            if meter is None:
                self.sample_rate, self.n_channels = piece.sample_rate, piece.n_channels
                meter = LoudnessMeter(piece.sample_rate, piece.n_channels)
                self._stored = Recording(piece.n_channels, piece.sample_rate, folder)
            meter.add(piece.samples)
            self._stored.append(piece.samples)
        if meter is None:
            raise AudioError("There is no music to write.")
        self.n_samples, self.lufs = self._stored.n_samples, meter.integrated()

    def blocks(self, gain: float, true_peak: float | None) -> Iterator[FloatArray]:
        """Blocks `[C, n]` times `gain`, limited to a true peak in dBTP if one is given."""
        margin = round(MARGIN_SECONDS * self.sample_rate)
        for begin in range(0, self.n_samples, BLOCK_SECONDS * self.sample_rate):
            end = min(begin + BLOCK_SECONDS * self.sample_rate, self.n_samples)
            first = max(0, begin - margin)
            samples = self._stored.slice(first, end + margin) * np.float32(gain)
            if true_peak is not None:
                samples = audio.limited(samples, self.sample_rate, true_peak).samples
            yield samples[:, begin - first : end - first]


def write_music(path: Path, pieces: Iterable[Waveform], as_made: bool = False) -> dict[str, Any]:
    """Write music at the loudness and under the peak promised, measured on what the file gives back.

    Lossy coding moves peaks, so the limit is lowered by the excess and the file written again until it holds.

    Args:
        path: with one of the suffixes that `audio.write` knows; replaced if it exists.
        pieces: the music, one after another.
        as_made: leave its level as the model made it, for a room that is digital silence.

    Returns:
        Figures of the file: `seconds`, `n_samples`, `sample_rate`, `channels`, `lufs` (None for silence),
        `true_peak_dbtp` and `nearly_nothing`, which says that the level was left as the model made it.

    Raises:
        AudioError: if it cannot be written.
    """
    kept = _Kept(pieces, path.parent)
    nearly_nothing = as_made or kept.lufs < NEARLY_NOTHING_LUFS
    limit = MAX_TRUE_PEAK_DBTP
    for _ in range(5):
        gain = 1.0 if nearly_nothing else _gain(kept, limit)
        blocks = kept.blocks(gain, None if nearly_nothing else limit)
        audio.write_blocks(path, blocks, kept.sample_rate, kept.n_channels, force=True)
        n_samples, lufs, peak = _measured(path, kept)
        if peak < MAX_TRUE_PEAK_DBTP:
            break
        limit -= peak - MAX_TRUE_PEAK_DBTP + 0.1
    if n_samples != kept.n_samples:
        raise AudioError(f"{path} holds {n_samples} samples of {kept.n_samples}; is the disk full?")
    return {
        "seconds": n_samples / kept.sample_rate,
        "n_samples": n_samples,
        "sample_rate": kept.sample_rate,
        "channels": kept.n_channels,
        "lufs": round(lufs, 2) if math.isfinite(lufs) else None,
        "true_peak_dbtp": round(peak, 2),
        "nearly_nothing": nearly_nothing,
    }


def _gain(kept: _Kept, true_peak: float) -> float:
    """The gain to `TARGET_LUFS`: what the limiter takes away is asked for again, as far as it goes."""
    target, step, before = TARGET_LUFS, 0.0, 0.0
    for _ in range(10):
        gain = audio.db_to_gain(target - kept.lufs)
        meter = LoudnessMeter(kept.sample_rate, kept.n_channels)
        for block in kept.blocks(gain, true_peak):
            meter.add(block)
        missing = TARGET_LUFS - meter.integrated()
        if abs(missing) < 0.05:
            break
        # Under the limiter a decibel gives less than one: as much as the last one gave.
        given = (before - missing) / step if step else 1.0
        step, before = missing / max(given, 0.25), missing
        target += step
    return gain


def _measured(path: Path, kept: _Kept) -> tuple[int, float, float]:
    """Samples, loudness in LUFS and true peak in dBTP of a file that was written."""
    meter, n_samples, peak = LoudnessMeter(kept.sample_rate, kept.n_channels), 0, audio.FLOOR_DBFS
    margin = round(MARGIN_SECONDS * kept.sample_rate)
    waiting = np.zeros(
        (kept.n_channels, 0), np.float32
    )  # with a margin on either side of what is to be judged
    n_judged = 0
    for block in audio.read_blocks(path, BLOCK_SECONDS * kept.sample_rate):
        meter.add(block)
        n_samples += block.shape[1]
        waiting = np.concatenate([waiting, block], axis=1)
        is_last = n_samples >= kept.n_samples
        end = waiting.shape[1] - (0 if is_last else margin)
        if end > n_judged:
            peak = max(peak, audio.peak_dbtp(audio.oversampled_peaks(waiting)[n_judged:end]))
            n_dropped = max(0, end - margin)
            waiting, n_judged = waiting[:, n_dropped:], end - n_dropped
    return n_samples, meter.integrated(), peak
