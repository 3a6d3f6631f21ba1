"""What is measurable in near-silence: level, spectrum, events, pulse, decay, energy and changes of scene.

Plain signal processing on one mono signal at 24 kHz: high-passed, and scaled to unit RMS before anything
that must not depend on level. Spectra are made block by block, so that hours fit in memory. Absolute level
is kept in the fields whose names end in `_dbfs`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from silent2music.audio import FLOOR_DBFS, Waveform
from silent2music.errors import DataError

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]

ANALYSIS_RATE = 24_000
WINDOW = 512
HOP = 120
FRAME_RATE = ANALYSIS_RATE / HOP
"""Analysis frames of 21 ms every 5 ms: short enough for onsets and for decays of 0.2 s."""

HIGH_PASS_HZ = 25.0
N_BANDS = 20
BAND_LOW_HZ = 70.0
BLOCK_SECONDS = 10
CURVE_RATE_HZ = 10.0

REFRACTORY_SECONDS = 0.07
EVENT_THRESHOLD = 6.0
"""Robust standard deviations by which the onset function must stand out of its surroundings."""
MIN_EVENT_DB = 4.0

TEMPO_MIN_BPM, TEMPO_MAX_BPM, TEMPO_CENTRE_BPM = 40.0, 200.0, 110.0
PULSE_RATE_HZ = 100.0
MIN_PULSE_CONFIDENCE = 0.5

PROFILE_CURVES: tuple[str, ...] = (
    "event_strength",
    "event_offset",
    "event_confidence",
    "since_event",
    "to_event",
    "event_density",
    "pulse_sin",
    "pulse_cos",
    "tempo",
    "pulse_confidence",
    "energy_relative",
    "energy_absolute",
    "boundary_proximity",
    "boundary_distance",
    "rt60",
    "rt60_confidence",
    "noise_floor",
    "spectral_tilt",
    "spectral_centroid",
    "snr",
)
"""Columns of `profile_curves`, in order."""

PROFILE_SCALARS: tuple[str, ...] = (
    "level",
    "noise_floor",
    "snr",
    "spectral_tilt",
    "spectral_centroid",
    "rt60",
    "rt60_confidence",
    "tempo",
    "pulse_confidence",
    "event_rate",
    "event_strength",
    "energy_range",
    "boundary_rate",
    "duration",
)
"""Entries of `profile_scalars`, in order."""


@dataclass(frozen=True)
class Event:
    """A transient: when it starts, how far it stands above the local noise floor, how sure it is (0 to 1)."""

    seconds: float
    strength_db: float
    confidence: float


@dataclass(frozen=True)
class Boundary:
    """A change of scene: when, and how sure it is (0 to 1)."""

    seconds: float
    confidence: float


@dataclass(frozen=True)
class AcousticProfile:
    """What was measured of one recording. Times are seconds from its start.

    Attributes:
        seconds: duration.
        sample_rate: of the recording, in Hz.
        n_channels: of the recording.
        level_dbfs: RMS over time and channels, without what lies below 25 Hz.
        peak_dbfs: largest sample of any channel.
        noise_floor_dbfs: 5th percentile of the energy curve.
        spectral_centroid_hz: power-weighted mean frequency.
        spectral_tilt_db_per_octave: slope of the power density, 100 Hz to 8 kHz; 0 for white noise, -3 for pink.
        rt60_seconds: blind estimate of the reverberation time, None without a usable decay.
        rt60_confidence: 0 to 1.
        events: ascending in time.
        tempo_bpm, pulse_phase_seconds: of the pulse and its first beat, None where there is none.
        pulse_confidence: 0 to 1.
        pulse_seconds: the beats, which follow a drifting pulse; empty where there is none.
        curve_rate_hz: rate of `energy_dbfs`.
        energy_dbfs: RMS of each tenth of a second; entry k covers k/10 to (k+1)/10 s.
        boundaries: ascending in time.
    """

    seconds: float
    sample_rate: int
    n_channels: int
    level_dbfs: float
    peak_dbfs: float
    noise_floor_dbfs: float
    spectral_centroid_hz: float
    spectral_tilt_db_per_octave: float
    rt60_seconds: float | None
    rt60_confidence: float
    events: tuple[Event, ...]
    tempo_bpm: float | None
    pulse_phase_seconds: float | None
    pulse_confidence: float
    pulse_seconds: tuple[float, ...]
    curve_rate_hz: float
    energy_dbfs: tuple[float, ...]
    boundaries: tuple[Boundary, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values; `from_dict` is the exact inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AcousticProfile:
        """Build a profile from plain values, strictly.

        Raises:
            DataError: on an unknown or missing key, which is named.
        """
        known = dict(_strict(values, cls, "profile"))
        known["events"] = tuple(Event(**_strict(e, Event, "events")) for e in known["events"])
        known["boundaries"] = tuple(
            Boundary(**_strict(b, Boundary, "boundaries")) for b in known["boundaries"]
        )
        known["pulse_seconds"] = tuple(known["pulse_seconds"])
        known["energy_dbfs"] = tuple(known["energy_dbfs"])
        return cls(**known)


def _strict(values: Mapping[str, Any], cls: type, where: str) -> Mapping[str, Any]:
    """`values` if its keys are exactly the fields of a dataclass."""
    if not isinstance(values, Mapping):
        raise DataError(f"Acoustic {where} is {values!r}; expected a table of values.")
    names = {f.name for f in dataclasses.fields(cls)}
    for key in values:
        if key not in names:
            raise DataError(f"Unknown key '{key}' in acoustic {where}; expected {', '.join(sorted(names))}.")
    missing = sorted(names - set(values))
    if missing:
        raise DataError(f"Key '{missing[0]}' is missing in acoustic {where}; analyse the recording again.")
    return values


def analyze(room: Waveform) -> AcousticProfile:
    """Measure a recording.

    Deterministic. Scaling the recording changes the fields in dBFS alone. Digital silence gives the floor,
    no events, no pulse and no decay.
    """
    sound = _prepare(room)
    energy_dbfs = _to_dbfs(sound.energy)
    level_dbfs = float(_to_dbfs(np.array(sound.power)))
    plain = AcousticProfile(
        seconds=room.seconds,
        sample_rate=room.sample_rate,
        n_channels=room.n_channels,
        level_dbfs=level_dbfs,
        peak_dbfs=float(_to_dbfs(np.array(sound.peak**2))),
        noise_floor_dbfs=float(np.percentile(energy_dbfs, 5)),
        spectral_centroid_hz=0.0,
        spectral_tilt_db_per_octave=0.0,
        rt60_seconds=None,
        rt60_confidence=0.0,
        events=(),
        tempo_bpm=None,
        pulse_phase_seconds=None,
        pulse_confidence=0.0,
        pulse_seconds=(),
        curve_rate_hz=CURVE_RATE_HZ,
        energy_dbfs=tuple(float(e) for e in energy_dbfs),
        boundaries=(),
    )
    if level_dbfs <= FLOOR_DBFS:
        return plain
    bands, spectrum = _spectra(sound.signal)
    centroid_hz, tilt = _spectral_shape(spectrum, min(room.sample_rate, ANALYSIS_RATE) / 2)
    onset, rises, floor = _onset_function(bands)
    events = _find_events(sound.signal, bands, onset, rises, floor)
    beats, pulse_confidence = _find_pulse(events, onset, room.seconds)
    rt60_seconds, rt60_confidence = _find_decay(bands, events)
    return dataclasses.replace(
        plain,
        spectral_centroid_hz=centroid_hz,
        spectral_tilt_db_per_octave=tilt,
        rt60_seconds=rt60_seconds,
        rt60_confidence=rt60_confidence,
        events=events,
        tempo_bpm=_tempo_of(beats) if len(beats) else None,
        pulse_phase_seconds=float(beats[0]) if len(beats) else None,
        pulse_confidence=pulse_confidence,
        pulse_seconds=tuple(float(b) for b in beats),
        boundaries=_find_boundaries(bands, events, room.seconds),
    )


# --- the signal ---------------------------------------------------------------------------------------


class _Sound(NamedTuple):
    """`signal [N]` at the analysis rate with unit RMS; power, peak and energy cells on the input's scale."""

    signal: Float32Array
    power: float
    peak: float
    energy: FloatArray


def _to_dbfs(power: FloatArray) -> FloatArray:
    return np.maximum(FLOOR_DBFS, 10.0 * np.log10(np.maximum(power, 1e-30)))


def _downmix_weights(room: Waveform, mean: FloatArray) -> Float32Array:
    """Equal weights, or the loudest channel alone where the channels cancel each other."""
    n_channels = room.n_channels
    weights = np.full(n_channels, 1.0 / n_channels)
    if n_channels > 1:
        covariance = np.zeros((n_channels, n_channels))
        step = BLOCK_SECONDS * room.sample_rate
        for start in range(0, room.n_samples, step):
            x = room.samples[:, start : start + step].astype(np.float64) - mean[:, None]
            covariance += x @ x.T
        if weights @ covariance @ weights < 0.1 * np.trace(covariance) / n_channels**2:
            weights = np.eye(n_channels)[int(np.argmax(np.diag(covariance)))]
    return weights.astype(np.float32)


def _prepare(room: Waveform) -> _Sound:
    """High-pass, mix, resample and scale, block by block."""
    import soxr
    from scipy.signal import butter, sosfilt

    rate = room.sample_rate
    mean = room.samples.mean(axis=1, dtype=np.float64)
    weights = _downmix_weights(room, mean)
    sos = butter(2, min(HIGH_PASS_HZ, rate / 8), "highpass", fs=rate, output="sos")
    state = np.zeros((len(sos), room.n_channels, 2))
    resampler = soxr.ResampleStream(rate, ANALYSIS_RATE, 1, dtype="float32", quality="HQ")
    step = BLOCK_SECONDS * rate
    n_cells = max(1, round(room.seconds * CURVE_RATE_HZ))
    energy, counts, peak, mono = np.zeros(n_cells), np.zeros(n_cells), 0.0, []
    for start in range(0, room.n_samples, step):
        block = room.samples[:, start : start + step] - mean[:, None]
        block, state = sosfilt(sos, block, axis=1, zi=state)
        peak = max(peak, float(np.abs(block).max()))
        power = np.einsum("cn,cn->n", block, block) / room.n_channels
        n_block_cells = -(-block.shape[1] * int(CURVE_RATE_HZ) // rate)
        edges = np.arange(n_block_cells) * rate // int(CURVE_RATE_HZ)
        first = round(start / rate * CURVE_RATE_HZ)
        cells = np.minimum(first + np.arange(n_block_cells), n_cells - 1)
        np.add.at(energy, cells, np.add.reduceat(power, edges))
        np.add.at(counts, cells, np.diff(np.append(edges, block.shape[1])))
        mixed = (weights @ block).astype(np.float32)
        last = start + step >= room.n_samples
        mono.append(mixed if rate == ANALYSIS_RATE else resampler.resample_chunk(mixed, last=last))
    signal = np.concatenate(mono)
    total = float(energy.sum() / counts.sum())
    rms = float(np.sqrt(np.mean(np.square(signal, dtype=np.float64))))
    if rms > 0:
        signal /= np.float32(rms)
    return _Sound(signal, total, peak, energy / np.maximum(counts, 1))


def _band_edges() -> IntArray:
    """`[N_BANDS + 1]` FFT bins, evenly spaced on a log axis but at least one bin wide."""
    bin_hz = ANALYSIS_RATE / WINDOW
    edges = np.round(np.geomspace(BAND_LOW_HZ, ANALYSIS_RATE / 2, N_BANDS + 1) / bin_hz).astype(np.int64)
    for i in range(1, len(edges)):
        edges[i] = max(edges[i], edges[i - 1] + 1)
    edges[-1] = WINDOW // 2 + 1
    return edges


def _spectra(signal: Float32Array) -> tuple[Float32Array, FloatArray]:
    """Band powers `[T, B]` and the mean power spectrum `[WINDOW // 2 + 1]`; frame t is centred on t * HOP."""
    from scipy.fft import rfft

    padded = np.pad(signal, WINDOW // 2, mode="symmetric")
    views = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    window = np.hanning(WINDOW + 1)[:-1].astype(np.float32)
    edges = _band_edges()
    bands = np.empty((len(views), N_BANDS), np.float32)
    spectrum = np.zeros(WINDOW // 2 + 1)
    for start in range(0, len(views), 2000):
        power = np.abs(rfft(views[start : start + 2000] * window, axis=1)) ** 2
        spectrum += power.sum(axis=0, dtype=np.float64)
        bands[start : start + 2000] = np.add.reduceat(power, edges[:-1], axis=1)
    # Bands that hold nothing (above the Nyquist frequency of an 8 kHz recording) get a common tiny floor.
    widths = np.diff(edges)
    bands += (1e-9 * spectrum.mean() / len(views) * widths).astype(np.float32)
    return bands, spectrum / len(views)


def _spectral_shape(spectrum: FloatArray, nyquist_hz: float) -> tuple[float, float]:
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


# --- events -------------------------------------------------------------------------------------------


def _running(values: FloatArray, block: int, n_around: int, percentile: float) -> FloatArray:
    """A percentile of medians of blocks around each frame, `[T, ...]` like `values`, linear in between."""
    from scipy.ndimage import percentile_filter

    n_blocks = max(1, len(values) // block)
    edges = np.linspace(0, len(values), n_blocks + 1).astype(int)
    medians = np.stack([np.median(values[a:b], axis=0) for a, b in itertools.pairwise(edges)])
    size = (n_around,) + (1,) * (medians.ndim - 1)
    smooth = percentile_filter(medians, percentile, size=size, mode="nearest")
    centres = (edges[:-1] + edges[1:]) / 2
    position = np.clip(np.interp(np.arange(len(values)), centres, np.arange(n_blocks)), 0, n_blocks - 1)
    low = position.astype(int)
    high = np.minimum(low + 1, n_blocks - 1)
    part = (position - low).reshape((-1,) + (1,) * (medians.ndim - 1))
    return np.asarray(smooth[low] * (1 - part) + smooth[high] * part, dtype=np.float64)


def _onset_function(bands: Float32Array) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Multi-band log flux over the running floor.

    Returns:
        `onset [T]` in robust standard deviations; `rises [T, B]`, the same per band; `floor [T, B]` in dB.
    """
    log_db = 10.0 * np.log10(bands.astype(np.float64) + 1e-30)
    floor = _running(log_db, 50, 9, 40)
    excess = 10.0 * np.log10(1.0 + 10.0 ** ((log_db - floor) / 10.0))
    padded = np.pad(excess, ((5, 2), (0, 0)), mode="edge")
    n = len(excess)
    after = (padded[5 : 5 + n] + padded[6 : 6 + n] + padded[7 : 7 + n]) / 3
    before = (padded[0:n] + padded[1 : 1 + n] + padded[2 : 2 + n]) / 3
    rise = after - before
    spread = np.maximum(1.4826 * _running(np.abs(rise), 200, 5, 50), 0.6)
    rises = rise / spread
    total = np.clip(rises, 0.0, 12.0).sum(axis=1)
    centre = _running(total, 200, 5, 50)
    deviation = np.maximum(1.4826 * _running(np.abs(total - centre), 200, 5, 50), 1.5)
    return (total - centre) / deviation, rises, floor


def _find_events(
    signal: Float32Array, bands: Float32Array, onset: FloatArray, rises: FloatArray, floor: FloatArray
) -> tuple[Event, ...]:
    """Peaks of the onset function that stand above the floor, with their times refined."""
    from scipy.signal import find_peaks

    padded = np.concatenate([[0.0], onset, [0.0]])
    peaks, _ = find_peaks(padded, height=EVENT_THRESHOLD, distance=int(REFRACTORY_SECONDS * FRAME_RATE))
    events: list[Event] = []
    for peak in peaks - 1:
        rising = rises[peak] > 2.0
        # The mirrored ends have a kink there that is no event.
        if not 3 <= peak < len(onset) - 3 or not rising.any():
            continue
        after = bands[peak : peak + 6, rising].sum(axis=1).max()
        floor_power = (10.0 ** (floor[peak, rising] / 10.0)).sum()
        strength_db = 10.0 * float(np.log10(after / floor_power + 1e-12))
        if strength_db < MIN_EVENT_DB:
            continue
        confidence = 1.0 / (1.0 + np.exp(-(onset[peak] - EVENT_THRESHOLD - 1.0) / 2.0))
        seconds = _refined_onset(signal, int(peak) * HOP) / ANALYSIS_RATE
        if events and seconds - events[-1].seconds < REFRACTORY_SECONDS / 2:
            continue
        events.append(Event(float(seconds), min(strength_db, 90.0), float(confidence)))
    return tuple(events)


def _refined_onset(signal: Float32Array, centre: int) -> int:
    """The sample at which the whitened fine energy (4 ms window, 1 ms step) starts to rise."""
    from scipy.fft import rfft

    size, step = 96, 24
    start = max(0, centre - 1200)
    piece = signal[start : centre + 960]
    if len(piece) < size + 8 * step:
        return min(max(0, centre), len(signal) - 1)
    views = np.lib.stride_tricks.sliding_window_view(piece, size)[::step]
    power = np.abs(rfft(views * np.hanning(size).astype(np.float32), axis=1)) ** 2
    n_before = max(4, min(len(power) - 4, (centre - start) // step - 12))
    noise = power[:n_before].mean(axis=0) + 1e-6 * power.max()
    energy = (power / noise).mean(axis=1)
    reach = slice(max(0, n_before - 4), None)
    peak = int(np.argmax(energy[reach])) + (reach.start or 0)
    base = float(np.median(energy[:n_before]))
    low = base + 0.15 * (energy[peak] - base)
    below = np.flatnonzero(energy[:peak] < low)
    first = int(below[-1]) + 1 if len(below) else peak
    return start + first * step + size // 2


# --- pulse --------------------------------------------------------------------------------------------


def _tempo_of(beats: FloatArray) -> float:
    span = min(4, len(beats) - 1)
    return float(60.0 * span / np.median(beats[span:] - beats[:-span]))


def _pulse_train(events: tuple[Event, ...], onset: FloatArray, seconds: float) -> FloatArray:
    """Events as Gaussian bumps of 20 ms, with a little of the onset function below them, at `PULSE_RATE_HZ`."""
    from scipy.ndimage import gaussian_filter1d

    n = int(np.ceil(seconds * PULSE_RATE_HZ)) + 1
    train = np.zeros(n)
    for event in events:
        weight = event.confidence * min(1.0, 0.4 + event.strength_db / 40.0)
        index = min(n - 1, round(event.seconds * PULSE_RATE_HZ))
        train[index] = max(train[index], weight)
    train = gaussian_filter1d(train, 2.0) * 2.0 * np.sqrt(2 * np.pi)
    fine = np.clip(onset, 0, 8) / 8
    at = np.minimum((np.arange(n) / PULSE_RATE_HZ * FRAME_RATE).astype(int), len(fine) - 1)
    return np.asarray(train + 0.1 * fine[at], dtype=np.float64)


def _tempogram(train: FloatArray) -> tuple[FloatArray, IntArray, IntArray]:
    """Autocorrelation over windows of 10 s every second: `[W, L]`, the lags `[L]` and window centres `[W]`."""
    from scipy.fft import irfft, rfft

    lags = np.arange(int(PULSE_RATE_HZ * 60 / TEMPO_MAX_BPM), int(PULSE_RATE_HZ * 60 / TEMPO_MIN_BPM) + 1)
    size, step = int(10 * PULSE_RATE_HZ), int(PULSE_RATE_HZ)
    centres = np.arange(min(size, len(train)) // 2, max(len(train) - size // 2, 0) + 1, step)
    if not len(centres):
        centres = np.array([len(train) // 2])
    rows = []
    for centre in centres:
        piece = train[max(0, centre - size // 2) : centre + size // 2]
        piece = piece - piece.mean()
        spectrum = np.abs(rfft(piece, 2 * size)) ** 2
        full = irfft(spectrum)[: lags[-1] + 1]
        full = full / max(full[0], 1e-9) * len(piece) / np.maximum(len(piece) - np.arange(len(full)), 1)
        half = np.maximum.reduce([full[lags // 2], full[(lags + 1) // 2], full[lags // 2 - 1]])
        third = np.maximum.reduce([full[lags // 3], full[(lags + 2) // 3]])
        rows.append(full[lags] - 0.5 * np.maximum(half, 0) - 0.3 * np.maximum(third, 0))
    prior = np.exp(-0.5 * (np.log2(60 * PULSE_RATE_HZ / lags / TEMPO_CENTRE_BPM) / 1.2) ** 2)
    return np.maximum(np.array(rows), 0) * prior, lags, centres


def _period_path(salience: FloatArray, lags: IntArray) -> FloatArray:
    """The best slowly changing lag through the tempogram (Viterbi), `[W]` in frames of the pulse train."""
    cost = 12.0 * np.abs(np.log2(lags[:, None] / lags[None, :]))
    score, back = salience[0].copy(), []
    for row in salience[1:]:
        reach = score[:, None] - cost
        back.append(np.argmax(reach, axis=0))
        score = reach.max(axis=0) + row
    path = [int(np.argmax(score))]
    for pointers in reversed(back):
        path.append(int(pointers[path[-1]]))
    return np.asarray(lags[path[::-1]], dtype=np.float64)


def _track_beats(train: FloatArray, period: FloatArray, tightness: float = 60.0) -> IntArray:
    """Beat tracking by dynamic programming (Ellis 2007, "Beat Tracking by Dynamic Programming", eq. 5)."""
    local = train / max(float(train.std()), 1e-9)
    n = len(local)
    score, back = local.copy(), np.full(n, -1)
    tables: dict[int, tuple[IntArray, FloatArray]] = {}
    for t in range(n):
        tau = round(float(period[t]))
        if tau not in tables:
            steps = np.arange(-2 * tau, -(tau // 2) + 1)
            tables[tau] = (steps, -tightness * np.log(-steps / tau) ** 2)
        steps, penalty = tables[tau]
        if t + steps[-1] < 0:
            continue
        skip = max(0, -(t + int(steps[0])))
        reach = score[t + steps[0] + skip : t + steps[-1] + 1] + penalty[skip:]
        best = int(np.argmax(reach))
        if reach[best] > 0:
            score[t] += reach[best]
            back[t] = t + steps[0] + skip + best
    tail = max(0, n - int(1.5 * period[-1]))
    at = tail + int(np.argmax(score[tail:]))
    beats = []
    while at >= 0:
        beats.append(at)
        at = int(back[at])
    return np.array(beats[::-1], dtype=np.int64)


def _find_pulse(events: tuple[Event, ...], onset: FloatArray, seconds: float) -> tuple[FloatArray, float]:
    """Beat times and confidence; no beats where the confidence is too low."""
    if len(events) < 4:
        return np.zeros(0), 0.0
    train = _pulse_train(events, onset, seconds)
    salience, lags, centres = _tempogram(train)
    if salience.max() <= 0:
        return np.zeros(0), 0.0
    period = np.interp(np.arange(len(train)), centres, _period_path(salience, lags))
    beats = _track_beats(train, period) / PULSE_RATE_HZ
    times = np.array([e.seconds for e in events])
    if len(beats) < 4:
        return np.zeros(0), 0.0
    nearest = times[np.argmin(np.abs(beats[:, None] - times[None, :]), axis=1)]
    hit = np.abs(nearest - beats) < 0.05
    beats = np.where(hit, nearest, beats)
    supported = np.flatnonzero(hit)
    if len(supported) < 4:
        return np.zeros(0), 0.0
    beats, hit = beats[supported[0] : supported[-1] + 1], hit[supported[0] : supported[-1] + 1]
    beats = np.unique(beats)
    confidence = _pulse_confidence(beats, times, float(hit.mean()))
    return (beats, confidence) if confidence >= MIN_PULSE_CONFIDENCE else (np.zeros(0), confidence)


def _pulse_confidence(beats: FloatArray, times: FloatArray, coverage: float) -> float:
    """How well beats explain events and are regular themselves, 0 to 1."""
    if len(beats) < 4:
        return 0.0
    intervals = np.diff(beats)
    inside = times[(times >= beats[0] - 0.05) & (times <= beats[-1] + 0.05)]
    phase = np.interp(inside, beats, np.arange(len(beats))) % 1.0
    strength = float(np.abs(np.exp(2j * np.pi * phase).mean()))
    change = np.abs(np.diff(np.log(intervals)))
    regularity = float(np.exp(-np.median(change) / 0.08)) if len(change) else 0.0
    amount = 1.0 - np.exp(-len(inside) / 5.0)
    return float(np.clip(strength * np.sqrt(coverage) * regularity * amount * 1.1, 0.0, 1.0))


# --- decay --------------------------------------------------------------------------------------------


def _find_decay(bands: Float32Array, events: tuple[Event, ...]) -> tuple[float | None, float]:
    """Blind RT60 from the free decays after events."""
    groups = [bands[:, i : i + 3].sum(axis=1, dtype=np.float64) for i in range(2, N_BANDS - 2, 3)]
    slopes, weights = [], []
    starts = [round(e.seconds * FRAME_RATE) for e in events]
    for power in groups:
        smooth = np.convolve(power, np.ones(3) / 3, mode="same")
        noise = float(np.percentile(smooth, 10))
        for i, start in enumerate(starts):
            stop = starts[i + 1] - 4 if i + 1 < len(starts) else len(smooth)
            fit = _fit_decay(smooth[start : min(stop, start + int(5 * FRAME_RATE))], noise)
            if fit is not None:
                slopes.append(fit[0])
                weights.append(fit[1])
    if len(slopes) < 3:
        return None, 0.0
    logs, weight = np.log(-60.0 / np.array(slopes)), np.array(weights)
    order = np.argsort(logs)
    share = np.cumsum(weight[order]) / weight.sum()
    low, mid, high = (float(logs[order][np.searchsorted(share, q)]) for q in (0.25, 0.5, 0.75))
    confidence = (1.0 - np.exp(-len(slopes) / 8.0)) * float(np.exp(-max(0.0, high - low - 0.2)))
    return float(np.clip(np.exp(mid), 0.05, 10.0)), float(np.clip(confidence, 0.0, 1.0))


def _fit_decay(power: FloatArray, noise: float) -> tuple[float, float] | None:
    """Slope in dB/s and weight of one band's decay from 5 dB below its peak down to 6 dB above the noise."""
    if len(power) < 12:
        return None
    peak = int(np.argmax(power[:16]))
    clean = np.maximum(power[peak:] - noise, 1e-3 * noise + 1e-30)
    level = 10 * np.log10(clean)
    above = 10 * np.log10(noise + 1e-30) + 6.0
    ends = np.flatnonzero(level < above)
    end = int(ends[0]) if len(ends) else len(level)
    begins = np.flatnonzero(level[:end] < level[0] - 5.0)
    if not len(begins) or end - begins[0] < 6:
        return None
    begin = int(begins[0])
    reach_db = level[0] - 5.0 - level[end - 4 : end].mean()
    if reach_db < 8.0:
        return None
    t = np.arange(end - begin) / FRAME_RATE
    slope, offset = np.polyfit(t, level[begin:end], 1)
    residual = level[begin:end] - (slope * t + offset)
    if slope >= -5.0 or residual.var() > 0.3 * level[begin:end].var():
        return None
    return float(slope), float(min(reach_db, 30.0) * np.sqrt(end - begin))


# --- boundaries ---------------------------------------------------------------------------------------


def _find_boundaries(bands: Float32Array, events: tuple[Event, ...], seconds: float) -> tuple[Boundary, ...]:
    """Changes of scene: distance of the log-band spectra and event densities on the two sides of a time."""
    from scipy.signal import find_peaks

    per_cell = int(FRAME_RATE / CURVE_RATE_HZ)
    n_cells = len(bands) // per_cell
    side = 25
    if n_cells < 2 * side:
        return ()
    cells = bands[: n_cells * per_cell].reshape(n_cells, per_cell, N_BANDS)
    features = 10 * np.log10(np.median(cells, axis=1) + 1e-12)
    views = np.lib.stride_tricks.sliding_window_view(features, side, axis=0)
    middle, spread = np.median(views, axis=2), np.maximum(views.std(axis=2), 1.5)
    n = n_cells - 2 * side + 1
    left, right = slice(0, n), slice(side, side + n)
    distance = np.abs(middle[right] - middle[left]) / np.sqrt((spread[left] ** 2 + spread[right] ** 2) / 2)
    novelty = np.sqrt(np.mean(np.minimum(distance, 6.0) ** 2, axis=1))
    times = np.array([e.seconds for e in events])
    counts, _ = np.histogram(times, bins=np.arange(n_cells + 1) / CURVE_RATE_HZ)
    total = np.concatenate([[0], np.cumsum(counts)])
    before, after = (
        total[side : side + n] - total[:n],
        total[2 * side : 2 * side + n] - total[side : side + n],
    )
    density = np.abs(np.sqrt(after + 0.375) - np.sqrt(before + 0.375)) * 2
    novelty = np.sqrt(novelty**2 + np.maximum(density - 2.0, 0.0) ** 2)
    peaks, _ = find_peaks(np.concatenate([[0], novelty, [0]]), height=1.6, distance=30)
    peaks = peaks - 1
    return tuple(
        Boundary((int(p) + side) / CURVE_RATE_HZ, float(1 - np.exp(-((novelty[p] / 2.5) ** 2))))
        for p in peaks
    )


# --- the profile as network input ---------------------------------------------------------------------


def profile_curves(profile: AcousticProfile, frame_rate: float, n_frames: int) -> Float32Array:
    """The profile on a time axis, `[n_frames, len(PROFILE_CURVES)]`, all roughly within -3 to 3.

    Frame f stands for the time f / frame_rate; an event at t seconds lies in frame round(t * frame_rate).

    Args:
        profile: what was measured.
        frame_rate: frames per second.
        n_frames: number of frames; beyond the recording's end its last energy is held.
    """
    t = np.arange(n_frames) / frame_rate
    out = np.zeros((n_frames, len(PROFILE_CURVES)), np.float32)
    column = {name: out[:, i] for i, name in enumerate(PROFILE_CURVES)}
    times = np.array([e.seconds for e in profile.events])
    for event in profile.events:
        frame = round(event.seconds * frame_rate)
        strength = np.float32(np.clip(event.strength_db / 20.0, 0.05, 3.0))
        if 0 <= frame < n_frames and strength > column["event_strength"][frame]:
            column["event_strength"][frame] = strength
            column["event_offset"][frame] = event.seconds * frame_rate - frame
            column["event_confidence"][frame] = event.confidence
    if len(times):
        after = np.searchsorted(times, t, side="right")
        since = np.where(after > 0, t - times[np.maximum(after - 1, 0)], np.inf)
        coming = np.where(after < len(times), times[np.minimum(after, len(times) - 1)] - t, np.inf)
        column["since_event"][:] = np.exp(-since)
        column["to_event"][:] = np.exp(-coming)
        within = np.searchsorted(times, t + 1.0, side="right") - np.searchsorted(times, t - 1.0)
        column["event_density"][:] = np.minimum(within / 4.0, 3.0)
    _pulse_columns(profile, t, column)
    centres = (np.arange(len(profile.energy_dbfs)) + 0.5) / profile.curve_rate_hz
    energy = np.interp(t, centres, profile.energy_dbfs)
    column["energy_relative"][:] = np.clip((energy - np.median(profile.energy_dbfs)) / 10.0, -3.0, 3.0)
    column["energy_absolute"][:] = (energy + 60.0) / 20.0
    if profile.boundaries:
        boundaries = np.array([b.seconds for b in profile.boundaries])
        confidences = np.array([b.confidence for b in profile.boundaries])
        gaps = boundaries[None, :] - t[:, None]
        nearest = np.argmin(np.abs(gaps), axis=1)
        gap = gaps[np.arange(n_frames), nearest]
        column["boundary_proximity"][:] = np.exp(-np.abs(gap) / 0.5) * confidences[nearest]
        column["boundary_distance"][:] = np.tanh(gap / 2.0)
    scalars = dict(zip(PROFILE_SCALARS, profile_scalars(profile), strict=True))
    for name in ("rt60", "rt60_confidence", "noise_floor", "spectral_tilt", "spectral_centroid", "snr"):
        column[name][:] = scalars[name]
    return out


def _pulse_columns(profile: AcousticProfile, t: FloatArray, column: dict[str, Float32Array]) -> None:
    """Fill in phase, tempo and confidence of the pulse; the grid goes on at its end intervals on both sides."""
    if profile.tempo_bpm is None or len(profile.pulse_seconds) < 2:
        return
    beats = np.array(profile.pulse_seconds)
    first, last = np.median(np.diff(beats[:5])), np.median(np.diff(beats[-5:]))
    phase = np.interp(t, beats, np.arange(len(beats), dtype=np.float64))
    phase = np.where(t < beats[0], (t - beats[0]) / first, phase)
    phase = np.where(t > beats[-1], len(beats) - 1 + (t - beats[-1]) / last, phase)
    column["pulse_sin"][:] = np.sin(2 * np.pi * phase) * profile.pulse_confidence
    column["pulse_cos"][:] = np.cos(2 * np.pi * phase) * profile.pulse_confidence
    column["tempo"][:] = np.log2(profile.tempo_bpm / 100.0)
    column["pulse_confidence"][:] = profile.pulse_confidence


def profile_scalars(profile: AcousticProfile) -> Float32Array:
    """The profile's globals, `[len(PROFILE_SCALARS)]`, all roughly within -3 to 3."""
    energy = np.array(profile.energy_dbfs)
    strengths = [e.strength_db for e in profile.events]
    centroid_hz = max(profile.spectral_centroid_hz, 125.0)
    values = {
        "level": (profile.level_dbfs + 60.0) / 20.0,
        "noise_floor": (profile.noise_floor_dbfs + 60.0) / 20.0,
        "snr": (profile.peak_dbfs - profile.noise_floor_dbfs) / 40.0,
        "spectral_tilt": profile.spectral_tilt_db_per_octave / 6.0,
        "spectral_centroid": np.log2(centroid_hz / 1000.0),
        "rt60": 0.0 if profile.rt60_seconds is None else np.log2(profile.rt60_seconds),
        "rt60_confidence": profile.rt60_confidence,
        "tempo": 0.0 if profile.tempo_bpm is None else np.log2(profile.tempo_bpm / 100.0),
        "pulse_confidence": 0.0 if profile.tempo_bpm is None else profile.pulse_confidence,
        "event_rate": np.log2(1.0 + len(profile.events) / profile.seconds),
        "event_strength": float(np.mean(strengths)) / 20.0 if strengths else 0.0,
        "energy_range": float(np.percentile(energy, 95) - np.percentile(energy, 5)) / 20.0,
        "boundary_rate": np.log2(1.0 + 10.0 * len(profile.boundaries) / profile.seconds),
        "duration": np.log2(profile.seconds / 30.0) / 3.0,
    }
    return np.array([np.clip(values[name], -3.5, 3.5) for name in PROFILE_SCALARS], np.float32)
