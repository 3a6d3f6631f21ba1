"""Writes music of any length to a file at the target loudness and under the true-peak limit, block by block.

The music waits in a temporary file until its loudness is known. Blocks overlap where the limiter looks around,
so that the result is the same as if the whole had been limited at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from silent2music import audio
from silent2music.arrays import FloatArray, IntArray
from silent2music.audio import LoudnessMeter, Recording, Waveform
from silent2music.config import DeliveryConfig
from silent2music.errors import AudioError

DELIVERY = DeliveryConfig()

NEARLY_NOTHING_LUFS = -50.0
"""Music that the model left quieter than this is meant to be nearly nothing, and is not turned up."""

BLOCK_SECONDS = 2
MARGIN_SECONDS = 0.05
"""More than the limiter and the oversampling of true peaks look to either side."""


def write_music(
    path: Path,
    pieces: Iterable[Waveform],
    config: DeliveryConfig = DELIVERY,
    as_made: bool = False,
    stems: Sequence[tuple[Path, Recording]] = (),
) -> dict[str, Any]:
    """Write music at a loudness (ITU-R BS.1770) and under a true peak, as measured on the decoded file.

    Lossy coding moves peaks, so the limit is lowered by the excess and the file written again until it holds.

    Args:
        path: with one of the suffixes that `audio.write` knows; replaced if it exists.
        pieces: the music, one after another.
        config: has loudness and true peak.
        as_made: leave its level as the model made it, for a room that is digital silence.
        stems: what the music is the sum of, each written beside it at the same gain, that of the limiter included, so
            that the files add up to the music's to the bit; `path` must then be WAV or FLAC.

    Returns:
        Figures of the file: `seconds`, `n_samples`, `sample_rate`, `channels`, `lufs` (None for silence),
        `true_peak_dbtp`, `gain_db` before the limiter, and `nearly_nothing`, which says that the level was left as the
        model made it. With stems also `limiter`: by how many dB it turns down at most (`most_db`), and what share of the
        samples (`share`).

    Raises:
        AudioError: if it cannot be written.
    """
    pieces = iter(pieces)
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
        held_under = None if nearly_nothing else limit
        if stems:
            limiter = _write_stems(path, stems, made, gain, held_under)
        else:
            audio.write_blocks(path, limited_blocks(made, gain, held_under), rate, n_channels, force=True)
        n_samples, lufs, peak = figures_of(path, rate, n_channels)
        if peak < config.true_peak:
            break
        limit -= peak - config.true_peak + 0.1
    if n_samples != made.n_samples:
        raise AudioError(f"{path} holds {n_samples} samples of {made.n_samples}; is the disk full?")
    return {
        "seconds": made.seconds,
        "n_samples": made.n_samples,
        "sample_rate": rate,
        "channels": n_channels,
        "lufs": rounded_lufs(lufs),
        "true_peak_dbtp": round(peak, 2),
        "gain_db": round(20.0 * math.log10(gain), 4),
        "nearly_nothing": nearly_nothing,
        **({"limiter": limiter} if stems else {}),
    }


def figures_of(path: Path, sample_rate: int, n_channels: int) -> tuple[int, float, float]:
    """Samples, loudness in LUFS and true peak in dBTP of a file that was written."""
    blocks = audio.read_blocks(path, BLOCK_SECONDS * sample_rate)
    back, lufs = _measured(blocks, Recording(n_channels, sample_rate, path.parent))
    return back.n_samples, lufs, max(_peak_dbtp(samples, own) for samples, own in _overlapping(back))


def summed(stems: Sequence[Recording]) -> Iterator[Waveform]:
    """The sum of recordings of one length, rate and number of channels, in blocks."""
    n_block = BLOCK_SECONDS * stems[0].sample_rate
    for begin in range(0, stems[0].n_samples, n_block):
        total = stems[0].slice(begin, begin + n_block).copy()
        for stem in stems[1:]:
            total += stem.slice(begin, begin + n_block)
        yield Waveform(total, stems[0].sample_rate)


def _write_stems(
    path: Path,
    stems: Sequence[tuple[Path, Recording]],
    mix: Recording,
    gain: float,
    true_peak: float | None,
) -> dict[str, float]:
    """Write stems and the sum of what is written, under one limiter for all of them; gives what that did."""
    rate, n_block = mix.sample_rate, BLOCK_SECONDS * mix.sample_rate
    curve, least, n_held = Recording(1, rate, path.parent), 1.0, 0
    for samples, own in _overlapping(mix):
        first = curve.n_samples - own.start
        held = None
        if true_peak is not None:
            # A stem that another one cancels may be larger than their sum: it has up to full scale.
            below = audio.db_to_gain(true_peak)
            others = (stem.slice(first, first + samples.shape[1]) * np.float32(below) for _, stem in stems)
            every = [samples, *others]
            held = audio.limiter_gain(np.concatenate(every) * np.float32(gain), rate, true_peak)
        held = np.ones(samples.shape[1], np.float32) if held is None else held
        least, n_held = min(least, float(held[own].min())), n_held + int((held[own] < 1.0).sum())
        curve.append(held[None, own] * np.float32(gain))

    def steps(stem: Recording, begin: int) -> IntArray:
        """Samples from `begin` on as whole numbers of 24 bits, `[C, n]`."""
        louder = np.float64(stem.slice(begin, begin + n_block)) * curve.slice(begin, begin + n_block)
        return np.asarray(np.rint(louder * 2**23), np.int64)

    begins = range(0, mix.n_samples, n_block)
    whole = [[own for _, own in stems], *([own] for _, own in stems)]
    for place, parts in zip([path, *(place for place, _ in stems)], whole, strict=True):
        added = (np.sum([steps(stem, begin) for stem in parts], axis=0) for begin in begins)
        blocks = (np.asarray(block << 8, np.int32) for block in added)
        audio.write_blocks(place, blocks, rate, mix.n_channels, force=True)
    return {"most_db": round(-20.0 * math.log10(least), 2), "share": round(n_held / mix.n_samples, 5)}


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
