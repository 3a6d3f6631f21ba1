"""Writes music of any length to a file at the target loudness and under the true-peak limit, block by block.

The music waits in a temporary file until its loudness is known. Blocks overlap where the limiter looks around,
so that the result is the same as if the whole had been limited at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from silent2music import audio, processes
from silent2music.arrays import FloatArray
from silent2music.audio import LoudnessMeter, Recording, Waveform
from silent2music.config import DeliveryConfig
from silent2music.errors import AudioError

DELIVERY = DeliveryConfig()

NEARLY_NOTHING_LUFS = -50.0
"""Music that the model left quieter than this is meant to be nearly nothing, and is not turned up."""

BLOCK_SECONDS = 10
MARGIN_SECONDS = 0.05
"""More than the limiter and the oversampling of true peaks look to either side."""


def write_music(
    path: Path,
    pieces: Iterable[Waveform],
    config: DeliveryConfig = DELIVERY,
    as_made: bool = False,
) -> dict[str, Any]:
    """Write music at a loudness (ITU-R BS.1770) and under a true peak, as measured on the decoded file.

    Lossy coding moves peaks, so the limit is lowered by the excess and the file written again until it holds.

    Args:
        path: with one of the suffixes that `audio.write` knows; replaced if it exists.
        pieces: the music, one after another.
        config: has loudness and true peak.
        as_made: leave its level as the model made it, for a room that is digital silence.

    Returns:
        Figures of the file: `seconds`, `n_samples`, `sample_rate`, `channels`, `lufs` (None for silence),
        `true_peak_dbtp` and `nearly_nothing`, which says that the level was left as the model made it.

    Raises:
        AudioError: if it cannot be written.
    """
    pieces = iter(pieces) if processes.follower is None else processes.follower.music(iter(pieces))
    first = next(pieces, None)
    if first is None:
        raise AudioError("There is no music to write.")
    rate, n_channels = first.sample_rate, first.n_channels
    samples = (piece.samples for piece in chain([first], pieces))
    made, made_lufs = _measured(samples, Recording(n_channels, rate, path.parent))
    nearly_nothing = as_made or made_lufs < NEARLY_NOTHING_LUFS
    limit = config.true_peak
    for _ in range(5):
        gain = 1.0 if nearly_nothing else _gain(made, made_lufs, config.lufs, limit)
        blocks = limited_blocks(made, gain, None if nearly_nothing else limit)
        audio.write_blocks(path, blocks, rate, n_channels, force=True)
        read = audio.read_blocks(path, BLOCK_SECONDS * rate)
        back, lufs = _measured(read, Recording(n_channels, rate, path.parent))
        peak = max(_peak_dbtp(samples, own) for samples, own in _overlapping(back))
        if peak < config.true_peak:
            break
        limit -= peak - config.true_peak + 0.1
    if back.n_samples != made.n_samples:
        raise AudioError(f"{path} holds {back.n_samples} samples of {made.n_samples}; is the disk full?")
    return {
        "seconds": made.seconds,
        "n_samples": made.n_samples,
        "sample_rate": rate,
        "channels": n_channels,
        "lufs": rounded_lufs(lufs),
        "true_peak_dbtp": round(peak, 2),
        "nearly_nothing": nearly_nothing,
    }


def rounded_lufs(lufs: float) -> float | None:
    """A loudness as records have it, None for silence."""
    return round(lufs, 2) if math.isfinite(lufs) else None


def _measured(blocks: Iterable[FloatArray], recording: Recording) -> tuple[Recording, float]:
    """A recording of blocks `[C, n]`, and its integrated loudness in LUFS."""
    meter = LoudnessMeter(recording.sample_rate, recording.n_channels)
    for block in blocks:
        meter.add(block)
        recording.append(block)
    return recording, meter.integrated()


def _overlapping(recording: Recording) -> Iterator[tuple[FloatArray, slice]]:
    """Blocks `[C, n]` with a margin on either side, and which of their samples are the block's own."""
    margin, n_block = round(MARGIN_SECONDS * recording.sample_rate), BLOCK_SECONDS * recording.sample_rate
    for begin in range(0, recording.n_samples, n_block):
        end, first = min(begin + n_block, recording.n_samples), max(0, begin - margin)
        yield recording.slice(first, end + margin), slice(begin - first, end - first)


def _peak_dbtp(samples: FloatArray, own: slice) -> float:
    """True peak in dBTP of a block's own samples."""
    highest = float(np.abs(samples[:, own]).max())
    return audio.peak_dbtp(audio.oversampled_peaks(samples, highest)[own])


def limited_blocks(recording: Recording, gain: float, true_peak: float | None) -> Iterator[FloatArray]:
    """Blocks `[C, n]` times `gain`, limited to a true peak in dBTP if one is given."""
    for samples, own in _overlapping(recording):
        louder = samples * np.float32(gain)
        if true_peak is not None:
            louder = audio.limited(louder, recording.sample_rate, true_peak).samples
        yield louder[:, own]


def _gain(recording: Recording, lufs: float, wanted: float, true_peak: float) -> float:
    """The gain from a loudness to the wanted one: what the limiter takes is asked for again, as far as it goes."""
    target, step, before = wanted, 0.0, 0.0
    for _ in range(10):
        gain = audio.db_to_gain(target - lufs)
        meter = LoudnessMeter(recording.sample_rate, recording.n_channels)
        for block in limited_blocks(recording, gain, true_peak):
            meter.add(block)
        missing = wanted - meter.integrated()
        if abs(missing) < 0.05:
            break
        # Under the limiter a decibel gives less than one: as much as the last one gave.
        given = (before - missing) / step if step else 1.0
        step, before = missing / max(given, 0.25), missing
        target += step
    return gain
