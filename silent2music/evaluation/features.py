"""Features of music that the metrics compare: onsets, tempo, energy, boundaries, kind descriptors, quality.

Model-free and deterministic: numpy and scipy alone, so that a figure means the same on every machine. The
room side has its own analysis (`silent2music.acoustics`), made for -70 dBFS; this one is made for music, is
invariant to gain and says nothing of absolute level beyond the energy curve.

All spectra are taken at 24 kHz mono: a short one (1024 samples every 10 ms) for rhythm, a long one (4096
samples every 50 ms) for pitch and colour.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from silent2music.acoustics.boundaries import likelihood_ratio
from silent2music.arrays import DoubleArray, IntArray
from silent2music.audio import Waveform, level_curve_dbfs
from silent2music.filters import mel_filters, triangles
from silent2music.score import ENERGY_RATE_HZ

SAMPLE_RATE = 24_000
ONSET_RATE_HZ = 100.0
TONAL_RATE_HZ = 20.0
"""Frames per second of onset envelope, and of chroma and colour."""

GRID_HZ = (TONAL_RATE_HZ, SAMPLE_RATE / 4096)
"""Frames per second of `power_spectrum`, and the distance of its bins."""

SILENCE_DBFS = -90.0
"""Music whose loudest 0.1 s is below this has no onsets, no tempo and no boundaries."""

TEMPO_RANGE_BPM = (40.0, 220.0)

KIND_DESCRIPTORS = ("density_hz", "percussiveness", "brightness_hz", "register_midi", "reverberance_seconds")
"""What tells kinds of music apart."""

QUALITY_VERSION = 1
"""Raised whenever a figure of `quality_features` changes: distances compare only within one version."""

QUALITY_WINDOW_SECONDS = 5.0

_SHORT_FFT, _SHORT_HOP = 1024, 240
_LONG_FFT, _LONG_HOP = 4096, 1200
_N_MELS = 32
_N_MFCC = 13
_CONTRAST_EDGES_HZ = (0.0, 200.0, 400.0, 800.0, 1600.0, 3200.0, 6400.0, 12000.0)


@dataclass(frozen=True)
class MusicFeatures:
    """What is measured on a piece of music.

    Attributes:
        seconds: duration.
        onset_seconds: `[E]` note onsets, ascending.
        onset_envelope: `[seconds * ONSET_RATE_HZ]` spectral flux, mean 1 unless silent.
        tempo_bpm: most likely tempo, or None for fewer than 4 onsets or no periodicity.
        beat_strength: autocorrelation of the envelope at the beat, 0 (no pulse) to 1.
        energy_db: `[seconds * ENERGY_RATE_HZ]` RMS in dBFS.
        boundary_seconds: `[J]` changes of section strictly inside.
        chroma: `[12, seconds * TONAL_RATE_HZ]`, C first, each frame of sum 1 (0 where silent).
        density_hz: onsets per second.
        percussiveness: share of energy in vertical structures of the spectrogram, 0 to 1.
        brightness_hz: mean spectral centroid, weighted by energy.
        register_midi: energy-weighted median pitch as a MIDI note number.
        reverberance_seconds: time for 60 dB at the steepness of decay, median over the decays.
    """

    seconds: float
    onset_seconds: DoubleArray
    onset_envelope: DoubleArray
    tempo_bpm: float | None
    beat_strength: float
    energy_db: DoubleArray
    boundary_seconds: DoubleArray
    chroma: DoubleArray
    density_hz: float
    percussiveness: float
    brightness_hz: float
    register_midi: float
    reverberance_seconds: float


def music_features(music: Waveform) -> MusicFeatures:
    """Measure everything in `MusicFeatures`; about 0.3 s of computing for 30 s of music.

    Silence gives empty arrays, no tempo and zeros.
    """
    samples = _prepared(music)
    energy = level_curve_dbfs(samples, round(SAMPLE_RATE / ENERGY_RATE_HZ))
    silent = energy.max() < SILENCE_DBFS
    bands = _log_bands(samples)
    envelope = np.zeros(bands.shape[1]) if silent else onset_envelope(bands)
    onsets = pick_onsets(envelope) / ONSET_RATE_HZ
    tempo, strength = estimate_tempo(envelope) if onsets.size >= 4 else (None, 0.0)
    power = _power(samples, _LONG_FFT, _LONG_HOP)
    mel_db = _mel_db(power)
    chroma = chroma_from_power(power)
    return MusicFeatures(
        seconds=samples.size / SAMPLE_RATE,
        onset_seconds=onsets,
        onset_envelope=envelope,
        tempo_bpm=tempo,
        beat_strength=strength,
        energy_db=energy,
        boundary_seconds=np.zeros(0) if silent else section_boundaries(mel_db, chroma),
        chroma=chroma,
        density_hz=onsets.size * SAMPLE_RATE / samples.size,
        percussiveness=0.0 if silent else percussiveness(bands),
        brightness_hz=0.0 if silent else _brightness_hz(power),
        register_midi=0.0 if silent else _register_midi(power),
        reverberance_seconds=0.0 if silent else reverberance_seconds(samples),
    )


def onset_seconds(music: Waveform) -> DoubleArray:
    """`[E]` note onsets alone, as in `MusicFeatures`."""
    samples = _prepared(music)
    if level_curve_dbfs(samples, round(SAMPLE_RATE / ENERGY_RATE_HZ)).max() < SILENCE_DBFS:
        return np.zeros(0)
    return np.asarray(pick_onsets(onset_envelope(_log_bands(samples))) / ONSET_RATE_HZ)


def power_spectrum(music: Waveform) -> DoubleArray:
    """`[2049, seconds * TONAL_RATE_HZ]` power spectrum that pitch and timbre are measured on."""
    return _power(_prepared(music), _LONG_FFT, _LONG_HOP)


def onset_envelope(bands: DoubleArray) -> DoubleArray:
    """SuperFlux onset strength: rise of each band over the loudest neighbour two frames ago.

    The maximum over neighbouring bands keeps vibrato from passing for notes. Böck and Widmer, "Maximum filter
    vibrato suppression for onset detection", DAFx 2013.

    Args:
        bands: `[M, F]` logarithmic band magnitudes at `ONSET_RATE_HZ`.

    Returns:
        `[F]`, of mean 1 unless all zero.
    """
    from scipy.ndimage import maximum_filter1d

    lag = 2
    past = maximum_filter1d(bands, 3, axis=0)[:, :-lag]
    flux = np.zeros(bands.shape[1])
    flux[lag:] = np.maximum(bands[:, lag:] - past, 0.0).mean(axis=0)
    # A rise over two frames peaks one frame late.
    flux = np.concatenate([flux[1:], [0.0]])
    mean = flux.mean()
    return np.asarray(flux / mean if mean > 0 else flux)


def pick_onsets(envelope: DoubleArray, threshold: float = 0.9) -> IntArray:
    """Frames of the envelope that are local maxima and stand out of their surroundings.

    The rule of Böck, Krebs and Schedl, "Evaluating the online capabilities of onset detection methods", ISMIR
    2012: the maximum within ±30 ms, and above the mean from 150 ms before to 100 ms after by `threshold` (in
    units of the envelope's own mean); no two onsets within 40 ms.

    Returns:
        `[E]` frame numbers at `ONSET_RATE_HZ`, ascending.
    """
    from scipy.ndimage import maximum_filter1d

    if envelope.size < 3 or not envelope.any():
        return np.zeros(0, np.int64)
    padded = np.concatenate([np.zeros(15), envelope, np.zeros(10)])
    total = np.concatenate([[0.0], np.cumsum(padded)])
    around = (total[26:] - total[:-26]) / 26.0
    peaks = np.flatnonzero((envelope == maximum_filter1d(envelope, 7)) & (envelope > around + threshold))
    kept: list[int] = []
    for frame in peaks:
        if not kept or frame - kept[-1] >= 4:
            kept.append(int(frame))
    return np.asarray(kept, np.int64)


def estimate_tempo(envelope: DoubleArray) -> tuple[float | None, float]:
    """Tempo from the autocorrelation of an onset envelope, and how strong the beat is.

    Lags are scored by the mean autocorrelation at the lag and its next three multiples, times a log-normal
    preference around 100 bpm one octave wide (Ellis, "Beat tracking by dynamic programming", 2007); the tempo
    is then read at the farthest multiple, where a frame is the smallest share of the lag.

    Returns:
        `(tempo_bpm, beat_strength)`; `(None, 0.0)` without any periodicity.
    """
    from scipy.ndimage import gaussian_filter1d

    rate_hz = ONSET_RATE_HZ
    smooth = gaussian_filter1d(envelope, 0.02 * rate_hz)
    smooth = smooth - smooth.mean()
    n = smooth.size
    spectrum = np.fft.rfft(smooth, 2 * n)
    correlation = np.fft.irfft(np.square(np.abs(spectrum)))[:n]
    if n < 2 * rate_hz or correlation[0] <= 1e-12:
        return None, 0.0
    correlation = correlation / correlation[0] * n / np.maximum(n - np.arange(n), n // 4)
    periods = np.geomspace(60.0 / TEMPO_RANGE_BPM[1], 60.0 / TEMPO_RANGE_BPM[0], 600)
    multiples = [k for k in (1, 2, 3, 4) if 60.0 / TEMPO_RANGE_BPM[0] * k * rate_hz < n / 2] or [1]
    lags = np.arange(n)
    score = np.mean([np.interp(periods * k * rate_hz, lags, correlation) for k in multiples], axis=0)
    weight = np.exp(-0.5 * np.square(np.log2(60.0 / periods / 100.0)))
    best = int(np.argmax(np.maximum(score, 0.0) * weight))
    if score[best] <= 0:
        return None, 0.0
    period = float(periods[best])
    for k in multiples[1:]:
        period = _refined_lag(correlation, period * k * rate_hz, 0.04 * rate_hz) / (k * rate_hz)
    strength = float(np.interp(period * rate_hz, lags, correlation))
    return 60.0 / period, min(max(strength, 0.0), 1.0)


def _refined_lag(correlation: DoubleArray, lag: float, reach: float) -> float:
    """The peak of the autocorrelation next to `lag`, by a parabola through its three highest points."""
    low, high = max(1, round(lag - reach)), min(correlation.size - 2, round(lag + reach))
    if high <= low:
        return lag
    peak = low + int(np.argmax(correlation[low : high + 1]))
    left, middle, right = correlation[peak - 1 : peak + 2]
    curvature = left - 2 * middle + right
    if peak in (low, high) or curvature >= 0:
        return lag
    return float(peak + 0.5 * (left - right) / curvature)


def section_boundaries(
    mel_db: DoubleArray, chroma: DoubleArray, window_seconds: float = 6.0, threshold: float = 0.045
) -> DoubleArray:
    """Times at which the music changes its timbre, texture or harmony lastingly.

    The novelty at t is the generalised likelihood ratio of two Gaussians of diagonal covariance, one for the
    window before t and one for that after it, against a single one for both (Willsky and Jones, IEEE TAC 21(1),
    1976; for audio segments Chen and Gopalakrishnan, 1998), per dimension and frame. The features are the shape
    of the mel spectrum without its level, how fast each band moves, and chroma, so that a crescendo or a rest is
    no boundary. Weights and threshold were set on rendered music whose sections are known.

    Args:
        mel_db: `[M, F]` and chroma: `[12, F]` at `TONAL_RATE_HZ`.
        threshold: the novelty above which a local maximum is a boundary.

    Returns:
        `[J]` seconds, ascending, at least 2.5 s from either end and 4 s from each other.
    """
    from scipy.ndimage import maximum_filter1d

    reach, edge = int(4.0 * TONAL_RATE_HZ), int(2.5 * TONAL_RATE_HZ)
    n_frames = mel_db.shape[1]
    if n_frames <= 2 * edge:
        return np.zeros(0)
    heard = np.maximum(mel_db, mel_db.max() - 60.0) / 10.0
    motion = np.abs(np.diff(heard, axis=1, prepend=heard[:, :1]))
    features = np.concatenate([heard - heard.mean(axis=0), 2.0 * motion, 2.0 * np.sqrt(chroma)])
    novelty = likelihood_ratio(features.T, int(window_seconds * TONAL_RATE_HZ), variance_floor=0.4)[:-1]
    highest = maximum_filter1d(novelty, 2 * reach + 1, mode="constant", cval=-np.inf)
    peaks = np.flatnonzero((novelty == highest) & (novelty >= threshold))
    return np.asarray(peaks[(peaks >= edge) & (peaks <= n_frames - edge)] / TONAL_RATE_HZ, np.float64)


def percussiveness(bands: DoubleArray) -> float:
    """Share of energy that median filtering gives to percussion, 0 (held tones) to 1 (clicks).

    Fitzgerald, "Harmonic/percussive separation using median filtering", DAFx 2010, with soft masks.

    Args:
        bands: `[M, F]` logarithmic band magnitudes at `ONSET_RATE_HZ`.
    """
    magnitude = np.expm1(bands[:, ::2])
    harmonic = _median_of_rows(magnitude, 15)
    percussive = _median_of_rows(magnitude.T, 15).T
    energy = np.square(magnitude)
    mask = np.square(percussive) / (np.square(percussive) + np.square(harmonic) + 1e-12)
    return float((mask * energy).sum() / max(energy.sum(), 1e-12))


def _median_of_rows(values: DoubleArray, size: int) -> DoubleArray:
    """Running median of odd `size` along every row, mirrored at the ends.

    All rows as one line: scipy filters a line several times faster than the rows of a table.
    """
    from scipy.ndimage import median_filter

    padded = np.pad(values, ((0, 0), (size // 2, size // 2)), mode="symmetric")
    line = median_filter(padded.ravel(), size)
    return np.asarray(line.reshape(padded.shape)[:, size // 2 : -(size // 2)])


def reverberance_seconds(samples: DoubleArray) -> float:
    """Apparent reverberation time: 60 dB divided by the median slope of the music's decays.

    Every stretch of at least 0.2 s over which the level, smoothed over 60 ms, falls without rising counts
    with its length. Held notes make any music more reverberant than its room: compare music with music.

    Args:
        samples: `[N]` mono at `SAMPLE_RATE`.
    """
    from scipy.ndimage import uniform_filter1d

    rate_hz = 50.0
    level = uniform_filter1d(level_curve_dbfs(samples, round(SAMPLE_RATE / rate_hz)), 3)
    falling = np.concatenate([[False], np.diff(level) < 0, [False]])
    edges = np.flatnonzero(np.diff(falling.astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    audible = level[starts] > level.max() - 40.0
    long_enough = (ends - starts >= 0.2 * rate_hz) & audible
    starts, ends = starts[long_enough], ends[long_enough]
    if starts.size == 0:
        return 0.0
    ends = np.minimum(ends, level.size - 1)
    steepness = (level[starts] - level[ends]) / ((ends - starts) / rate_hz)
    weights = np.repeat(steepness, ends - starts)
    return float(60.0 / max(np.median(weights), 1.0))


def chroma_from_power(power: DoubleArray) -> DoubleArray:
    """Pitch-class profile from 55 Hz to 3.5 kHz.

    Args:
        power: `[4096 // 2 + 1, F]` power spectrum at `TONAL_RATE_HZ`.

    Returns:
        `[12, F]`, C first, sum 1 where there is sound (less than 60 dB below the loudest frame), else 0.
    """
    folded = np.zeros((12, power.shape[1]))
    notes = _semitone_filterbank() @ np.sqrt(power)
    np.add.at(folded, _SEMITONES % 12, notes)
    total = folded.sum(axis=0)
    silent = total <= max(1e-3 * total.max(), 1e-9)
    return np.asarray(np.where(silent, 0.0, folded / np.where(silent, 1.0, total)))


def quality_features(music: Waveform) -> DoubleArray:
    """The fixed feature set of the distances, one row per window (version `QUALITY_VERSION`).

    Returns:
        `[n, D]`, the entries of `quality_window` in order, for n whole windows (one if the music is shorter).
    """
    samples = _prepared(music)
    size = int(QUALITY_WINDOW_SECONDS * SAMPLE_RATE)
    n_windows = max(1, samples.size // size)
    windows = (quality_window(samples[i * size : (i + 1) * size]) for i in range(n_windows))
    return np.stack([np.concatenate(list(window.values())) for window in windows])


def quality_window(samples: DoubleArray) -> dict[str, DoubleArray]:
    """Quality features of one window `[N]` of music, by name.

    Means and standard deviations over the window of: 32 log-mel bands (dB re the window's mean power, so gain
    does not count), 13 MFCC, chroma (means sorted by strength, so that the key does not count), tonnetz
    (Harte, Sandler and Gasser, 2006; of the chroma rotated to its strongest class), spectral contrast (Jiang
    et al., 2002; 7 bands); then onsets per second, their strength and its spread, median and quartile range
    of the intervals between onsets, and beat strength.
    """
    from scipy.fft import dct

    power = _power(samples, _LONG_FFT, _LONG_HOP)
    mel_db = _mel_db(power) - 10.0 * np.log10(max(float(power.mean()), 1e-20))
    chroma = chroma_from_power(power)
    mean_chroma = chroma.mean(axis=1)
    rotated = np.roll(chroma, -int(np.argmax(mean_chroma)), axis=0)
    curves = {"mel": mel_db, "mfcc": dct(mel_db, axis=0, norm="ortho")[:_N_MFCC], "chroma": rotated}
    curves |= {"tonnetz": _TONNETZ @ rotated, "contrast": _spectral_contrast(power)}
    found = {}
    for name, curve in curves.items():
        found[f"{name}_mean"] = np.sort(mean_chroma)[::-1] if name == "chroma" else curve.mean(axis=1)
        found[f"{name}_std"] = curve.std(axis=1)
    bands = _log_bands(samples)
    envelope = onset_envelope(bands) if samples.any() else np.zeros(bands.shape[1])
    frames = pick_onsets(envelope)
    intervals = np.diff(frames) / ONSET_RATE_HZ if frames.size >= 3 else np.full(2, 2.0)
    strengths = envelope[frames] if frames.size else np.zeros(1)
    density_hz = frames.size * SAMPLE_RATE / samples.size
    quartile_range = float(np.subtract(*np.percentile(intervals, [75, 25])))
    found["onsets"] = np.array([density_hz, strengths.mean(), strengths.std()])
    found["intervals"] = np.array([float(np.median(intervals)), quartile_range])
    found["beat_strength"] = np.array([estimate_tempo(envelope)[1]])
    return found


def _spectral_contrast(power: DoubleArray) -> DoubleArray:
    """`[7, F]` peak over valley in dB per octave-like band, each the mean of the outer 10 % of its bins."""
    level = _level_db(power, 100.0)
    frequencies = np.fft.rfftfreq(_LONG_FFT, 1.0 / SAMPLE_RATE)
    rows = []
    for low, high in pairwise(_CONTRAST_EDGES_HZ):
        band = np.sort(level[(frequencies >= low) & (frequencies < high)], axis=0)
        n_outer = max(1, band.shape[0] // 10)
        rows.append(band[-n_outer:].mean(axis=0) - band[:n_outer].mean(axis=0))
    return np.stack(rows)


def _prepared(music: Waveform) -> DoubleArray:
    """Mono at `SAMPLE_RATE`, `[N]`."""
    return np.asarray(music.mono().resampled(SAMPLE_RATE).samples[0], np.float64)


def _power(samples: DoubleArray, size: int, hop: int) -> DoubleArray:
    """`[size // 2 + 1, n]` power of frames centred on multiples of `hop`, zeros beyond the ends.

    Under a Hann window of sum 1: a sine of amplitude 1 peaks at 1/4.
    """
    from scipy.fft import rfft

    window = np.hanning(size + 1)[:-1].astype(np.float32)
    n_frames = max(1, -(-samples.size // hop))
    padded = np.pad(samples.astype(np.float32), (size // 2, size + hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[: n_frames * hop : hop]
    return np.asarray(np.square(np.abs(rfft(frames * (window / window.sum()), axis=1))).T, np.float64)


def _log_bands(samples: DoubleArray) -> DoubleArray:
    """`[M, F]` `log(1 + x)` of band magnitudes at `ONSET_RATE_HZ`, relative to the loud parts."""
    magnitude = _log_filterbank() @ np.sqrt(_power(samples, _SHORT_FFT, _SHORT_HOP))
    loudest = magnitude.max(axis=0)
    # Of sparse music most frames are silence, and their percentile would say nothing.
    reference = max(float(np.percentile(loudest, 95)), 0.03 * float(loudest.max()), 1e-12)
    return np.asarray(np.log1p(magnitude * (300.0 / reference)))


def _mel_db(power: DoubleArray) -> DoubleArray:
    """`[_N_MELS, F]` mel power in dB, not below 80 dB under its maximum."""
    filters = mel_filters(SAMPLE_RATE, _LONG_FFT, _N_MELS, low_hz=40.0, high_hz=11500.0, norm="sum")
    return _level_db(filters @ power, 80.0)


def _level_db(power: DoubleArray, range_db: float) -> DoubleArray:
    """Power in dB over the range below its maximum, so that gain moves everything alike."""
    floor = max(float(power.max()) * 10.0 ** (-range_db / 10.0), 1e-20)
    return np.asarray(10.0 * np.log10(np.maximum(power, floor)))


def _brightness_hz(power: DoubleArray) -> float:
    frequencies = np.fft.rfftfreq(_LONG_FFT, 1.0 / SAMPLE_RATE)
    magnitude = np.sqrt(power).sum(axis=1)
    return float(frequencies @ magnitude / max(magnitude.sum(), 1e-12))


def _register_midi(power: DoubleArray) -> float:
    notes = (_semitone_filterbank() @ power).sum(axis=1)
    share = np.cumsum(notes) / max(notes.sum(), 1e-30)
    return float(np.interp(0.5, share, _SEMITONES))


_SEMITONES = np.arange(33, 106)
"""MIDI notes that chroma and register look at: A1 (55 Hz) to A7 (3.5 kHz)."""

_CIRCLES = np.outer([7 / 6, 7 / 6, 3 / 2, 3 / 2, 2 / 3, 2 / 3], np.arange(12)) * np.pi
_TONNETZ = np.where(np.arange(6)[:, None] % 2 == 0, np.sin(_CIRCLES), np.cos(_CIRCLES)) * np.array(
    [1.0, 1.0, 1.0, 1.0, 0.5, 0.5]
).reshape(6, 1)
"""Circles of fifths, minor thirds and major thirds (Harte, Sandler and Gasser, 2006)."""


@lru_cache(maxsize=1)
def _log_filterbank() -> DoubleArray:
    """`[M, 513]` triangles, 24 to the octave from 30 Hz to 11 kHz, at least one bin apart."""
    centres = 30.0 * 2.0 ** (np.arange(0, 205) / 24.0)
    bins = np.unique(np.round(centres * _SHORT_FFT / SAMPLE_RATE).astype(int))
    filters = triangles(bins.astype(np.float64), np.arange(_SHORT_FFT // 2 + 1.0))
    return np.asarray(filters / filters.sum(axis=1, keepdims=True))


@lru_cache(maxsize=1)
def _semitone_filterbank() -> DoubleArray:
    """`[73, 2049]` a triangle per note of `_SEMITONES`, a semitone to either side, 1.5 bins at least."""
    centres = 440.0 * 2.0 ** ((_SEMITONES - 69) / 12.0) * _LONG_FFT / SAMPLE_RATE
    half_width = np.maximum(centres * (2.0 ** (1 / 12.0) - 1.0), 1.5)
    distance = np.abs(np.arange(_LONG_FFT // 2 + 1)[None] - centres[:, None])
    return np.asarray(np.maximum(1.0 - distance / half_width[:, None], 0.0))
