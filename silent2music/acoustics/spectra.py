"""The signal and its band powers, made block by block so that hours fit in memory."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from silent2music.arrays import DoubleArray, FloatArray, IntArray
from silent2music.audio import WHOLE_SECONDS, Recorded, Recording
from silent2music.filters import Biquads, high_pass

ANALYSIS_RATE = 24_000
WINDOW = 512
HOP = 120
FRAME_RATE = ANALYSIS_RATE / HOP
"""Analysis frames of 21 ms every 5 ms: short enough for onsets and for decays of 0.2 s."""

HIGH_PASS_HZ = 25.0
N_BANDS = 20
BAND_LOW_HZ = 70.0
BLOCK_SECONDS = 10
BLOCK_FRAMES = 2000
MEDIANS = 64
CURVE_RATE_HZ = 10.0


class Signal:
    """The analysed signal `[N]` at `ANALYSIS_RATE`, read a slice at a time: an hour need not be in memory."""

    def __init__(self) -> None:
        self._recording, self._rms = Recording(1, ANALYSIS_RATE), np.float32(1.0)

    def append(self, samples: FloatArray) -> None:
        """Add `[n]` at the end."""
        self._recording.append(samples[None])

    def scale_to_unit_rms(self) -> None:
        """Divide what was appended by its RMS, if it is not silent."""
        step = BLOCK_SECONDS * ANALYSIS_RATE
        slices = (self.slice(i, i + step) for i in range(0, self.size, step))
        rms = float(np.sqrt(sum(np.square(x, dtype=np.float64).sum() for x in slices) / self.size))
        self._rms = np.float32(rms or 1.0)

    @property
    def size(self) -> int:
        """N, the number of samples."""
        return self._recording.n_samples

    def slice(self, begin: int, end: int) -> FloatArray:
        """Samples `[n]` from `begin` to before `end`, or to the end."""
        return np.asarray(self._recording.slice(begin, end)[0] / self._rms)


class Sound(NamedTuple):
    """The signal to be analysed, of unit RMS, with mean power, peak and energy curve on the recording's own scale."""

    signal: Signal
    power: float
    peak: float
    energy: DoubleArray


def _mean(room: Recorded) -> DoubleArray:
    """`[1]` mean of one channel."""
    step = round(WHOLE_SECONDS * room.sample_rate)
    slices = (room.slice(i, i + step) for i in range(0, room.n_samples, step))
    return np.asarray(sum(x.sum(axis=1, dtype=np.float64) for x in slices) / room.n_samples)


def prepare_sound(room: Recorded) -> Sound:
    """Mix down, high-pass, resample and scale a recording, block by block."""
    import soxr

    room = room.downmix()
    rate = room.sample_rate
    mean = _mean(room)
    low_cut = Biquads(high_pass(min(HIGH_PASS_HZ, rate / 8), rate), 1)
    resampler = soxr.ResampleStream(rate, ANALYSIS_RATE, 1, dtype="float32", quality="HQ")
    step = BLOCK_SECONDS * rate
    n_cells = max(1, round(room.seconds * CURVE_RATE_HZ))
    energy, counts, peak, signal = np.zeros(n_cells), np.zeros(n_cells), 0.0, Signal()
    for start in range(0, room.n_samples, step):
        block = low_cut(room.slice(start, start + step) - mean[:, None])
        peak = max(peak, float(np.abs(block).max()))
        power = np.square(block[0])
        n_block_cells = -(-block.shape[1] * int(CURVE_RATE_HZ) // rate)
        edges = np.arange(n_block_cells) * rate // int(CURVE_RATE_HZ)
        first = round(start / rate * CURVE_RATE_HZ)
        cells = np.minimum(first + np.arange(n_block_cells), n_cells - 1)
        np.add.at(energy, cells, np.add.reduceat(power, edges))
        np.add.at(counts, cells, np.diff(np.append(edges, block.shape[1])))
        mixed = block[0].astype(np.float32)
        last = start + step >= room.n_samples
        signal.append(mixed if rate == ANALYSIS_RATE else resampler.resample_chunk(mixed, last=last))
    signal.scale_to_unit_rms()
    total = float(energy.sum() / counts.sum())
    return Sound(signal, total, peak, energy / np.maximum(counts, 1))


def _band_edges() -> IntArray:
    """`[N_BANDS + 1]` FFT bins, evenly spaced on a log axis but at least one bin wide."""
    bin_hz = ANALYSIS_RATE / WINDOW
    edges = np.round(np.geomspace(BAND_LOW_HZ, ANALYSIS_RATE / 2, N_BANDS + 1) / bin_hz).astype(np.int64)
    for i in range(1, len(edges)):
        edges[i] = max(edges[i], edges[i - 1] + 1)
    edges[-1] = WINDOW // 2 + 1
    return edges


def spectra(signal: Signal) -> tuple[FloatArray, DoubleArray]:
    """Band powers `[T, B]` and the mean power spectrum `[WINDOW // 2 + 1]`; frame t is centred on t * HOP."""
    from scipy.fft import rfft

    n_frames = signal.size // HOP + 1
    window = np.hanning(WINDOW + 1)[:-1].astype(np.float32)
    edges = _band_edges()
    bands = np.empty((n_frames, N_BANDS), np.float32)
    spectrum = np.zeros(WINDOW // 2 + 1)
    for start in range(0, n_frames, BLOCK_FRAMES):
        stop = min(start + BLOCK_FRAMES, n_frames)
        first, last = start * HOP - WINDOW // 2, (stop - 1) * HOP + WINDOW // 2
        piece = signal.slice(max(0, first), last)
        piece = np.pad(piece, (max(0, -first), max(0, last - signal.size)), mode="symmetric")
        views = np.lib.stride_tricks.sliding_window_view(piece, WINDOW)[::HOP]
        power = np.abs(rfft(views * window, axis=1)) ** 2
        spectrum += power.sum(axis=0, dtype=np.float64)
        bands[start:stop] = np.add.reduceat(power, edges[:-1], axis=1)
    # Bands that hold nothing (above the Nyquist frequency of an 8 kHz recording) get a common tiny floor.
    widths = np.diff(edges)
    bands += (1e-9 * spectrum.mean() / n_frames * widths).astype(np.float32)
    return bands, spectrum / n_frames


def spectral_shape(spectrum: DoubleArray, nyquist_hz: float) -> tuple[float, float]:
    """Centroid in Hz and tilt in dB per octave."""
    hz = np.arange(len(spectrum)) * ANALYSIS_RATE / WINDOW
    centroid_hz = float((hz * spectrum).sum() / max(spectrum.sum(), 1e-30))
    edges = _band_edges()
    centres = np.sqrt(hz[edges[:-1]] * hz[np.minimum(edges[1:], len(hz) - 1)])
    density_db = 10 * np.log10(
        np.add.reduceat(spectrum, edges[:-1]) / np.diff(edges) + 1e-12 * spectrum.max() + 1e-30
    )
    use = (centres >= 100) & (centres <= min(8000.0, 0.9 * nyquist_hz))
    slope = float(np.polyfit(np.log2(centres[use]), density_db[use], 1)[0]) if use.sum() > 2 else 0.0
    return centroid_hz, slope


def running_percentile(values: DoubleArray, block: int, n_around: int, percentile: float) -> DoubleArray:
    """A percentile of medians of blocks around each frame, `[T, ...]` like `values`, linear in between."""
    from scipy.ndimage import percentile_filter

    # Blocks start at multiples of their length, so that a piece of the recording gets what the whole would.
    n_blocks = max(1, len(values) // block)
    edges = np.append(np.arange(n_blocks) * block, len(values))
    whole = values[: edges[-2]].reshape(-1, block, *values.shape[1:])
    # Some at a time: a median sorts a copy of what it is given.
    parts = [np.median(whole[i : i + MEDIANS], axis=1) for i in range(0, len(whole), MEDIANS)]
    medians = np.concatenate([*parts, np.median(values[edges[-2] :], axis=0)[None]])
    size = (n_around,) + (1,) * (medians.ndim - 1)
    smooth = percentile_filter(medians, percentile, size=size, mode="nearest")
    centres = (edges[:-1] + edges[1:]) / 2
    position = np.clip(np.interp(np.arange(len(values)), centres, np.arange(n_blocks)), 0, n_blocks - 1)
    low = position.astype(int)
    high = np.minimum(low + 1, n_blocks - 1)
    part = (position - low).reshape((-1,) + (1,) * (medians.ndim - 1))
    return np.asarray(smooth[low] * (1 - part) + smooth[high] * part, dtype=np.float64)
