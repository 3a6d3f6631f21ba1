"""The pulse of a recording: tempo, beats that may drift, and whether there is one at all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from silent2music.acoustics.profile import Event
from silent2music.acoustics.spectra import FRAME_RATE
from silent2music.arrays import DoubleArray, IntArray

TEMPO_MIN_BPM, TEMPO_MAX_BPM, TEMPO_CENTRE_BPM = 40.0, 200.0, 110.0
TEMPO_SPREAD_OCTAVES = 1.2
PULSE_RATE_HZ = 100.0
WINDOW_SECONDS = 10.0
MIN_EVENTS = 4
HIT_SECONDS = 0.05
WAKE_SECONDS = 0.2
STRENGTH_RANGE_DB = 30.0
ONSET_SHARE = 0.1
TIGHTNESS = 60.0
"""How much a beat interval that differs from the local period costs; Ellis uses 100 to 400 for music."""
MIN_CONFIDENCE = 0.5


def tempo_of(beats: DoubleArray) -> float:
    """Tempo in bpm: the median over spans of up to four beats, so that single beats may waver."""
    span = min(4, len(beats) - 1)
    return float(60.0 * span / np.median(beats[span:] - beats[:-span]))


def find_pulse(events: tuple[Event, ...], onset: DoubleArray, seconds: float) -> tuple[DoubleArray, float]:
    """Beat times from the first to the last that an event supports, and their confidence.

    Tempo comes from the autocorrelation of the event train with a log-normal prior, followed through the
    recording; beats by dynamic programming along it.

    Returns:
        Beats `[P]` in seconds, empty where the confidence (0 to 1) is below `MIN_CONFIDENCE`.
    """
    nothing = np.zeros(0)
    if len(events) < MIN_EVENTS:
        return nothing, 0.0
    train = _event_train(events, onset, seconds)
    salience, lags, centres = _tempogram(train)
    if salience.max() <= 0:
        return nothing, 0.0
    period = np.interp(np.arange(len(train)), centres, _period_path(salience, lags))
    grid = _track_beats(train, period) / PULSE_RATE_HZ
    beats, hit = _snap_to_events(grid, np.array([e.seconds for e in events]))
    if hit.sum() < MIN_EVENTS:
        return nothing, 0.0
    confidence = _confidence(beats, hit, events)
    return (beats, confidence) if confidence >= MIN_CONFIDENCE else (nothing, confidence)


def _event_weights(events: tuple[Event, ...]) -> DoubleArray:
    """`[E]` weights of events, 0 to 1, by confidence and strength; less shortly after a stronger event.

    A step is heel and toe, a knock has its echo: what follows within 0.2 s does not carry the pulse.
    """
    strengths = np.array([e.strength_db for e in events])
    times = np.array([e.seconds for e in events])
    top = np.percentile(strengths, 90)
    weights = np.array([e.confidence for e in events]) * np.clip(
        1.0 + (strengths - top) / STRENGTH_RANGE_DB, 0.2, 1.0
    )
    weights[1:] *= np.where((np.diff(times) < WAKE_SECONDS) & (strengths[1:] <= strengths[:-1]), 0.2, 1.0)
    return np.asarray(weights, dtype=np.float64)


def _event_train(events: tuple[Event, ...], onset: DoubleArray, seconds: float) -> DoubleArray:
    """Events as Gaussian bumps of 20 ms, with a little of the onset function below them, at `PULSE_RATE_HZ`."""
    from scipy.ndimage import gaussian_filter1d

    n = int(np.ceil(seconds * PULSE_RATE_HZ)) + 1
    train = np.zeros(n)
    for event, weight in zip(events, _event_weights(events), strict=True):
        index = min(n - 1, round(event.seconds * PULSE_RATE_HZ))
        train[index] = max(train[index], weight)
    train = gaussian_filter1d(train, 2.0) * 2.0 * np.sqrt(2 * np.pi)
    fine = np.clip(onset, 0, 8) / 8
    at = np.minimum((np.arange(n) / PULSE_RATE_HZ * FRAME_RATE).astype(int), len(fine) - 1)
    return np.asarray(train + ONSET_SHARE * fine[at], dtype=np.float64)


def _tempogram(train: DoubleArray) -> tuple[DoubleArray, IntArray, IntArray]:
    """Autocorrelation in windows every second: salience `[W, L]`, lags `[L]` and window centres `[W]`.

    What is explained by half or a third of a lag is taken off, so that a steady train counts at its own
    period and not at a multiple.
    """
    from scipy.fft import irfft, rfft

    lags = np.arange(int(PULSE_RATE_HZ * 60 / TEMPO_MAX_BPM), int(PULSE_RATE_HZ * 60 / TEMPO_MIN_BPM) + 1)
    size, step = int(WINDOW_SECONDS * PULSE_RATE_HZ), int(PULSE_RATE_HZ)
    half_size = min(size, len(train)) // 2
    centres = np.arange(half_size, max(len(train) - half_size, half_size) + 1, step)
    rows = []
    for centre in centres:
        piece = train[max(0, centre - half_size) : centre + half_size + 1]
        piece = piece - piece.mean()
        full = irfft(np.abs(rfft(piece, 2 * size)) ** 2)[: lags[-1] + 1]
        full = full / max(full[0], 1e-9) * len(piece) / np.maximum(len(piece) - np.arange(len(full)), 1)
        half = np.maximum.reduce([full[lags // 2], full[(lags + 1) // 2], full[lags // 2 - 1]])
        third = np.maximum(full[lags // 3], full[(lags + 2) // 3])
        rows.append(full[lags] - 0.5 * np.maximum(half, 0) - 0.3 * np.maximum(third, 0))
    octaves = np.log2(60 * PULSE_RATE_HZ / lags / TEMPO_CENTRE_BPM)
    prior = np.exp(-0.5 * (octaves / TEMPO_SPREAD_OCTAVES) ** 2)
    return np.maximum(np.array(rows), 0) * prior, lags, centres


def _period_path(salience: DoubleArray, lags: IntArray) -> DoubleArray:
    """The best slowly changing lag through the tempogram (Viterbi), `[W]` in frames of the train."""
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


def _track_beats(train: DoubleArray, period: DoubleArray) -> IntArray:
    """Beat tracking by dynamic programming (Ellis 2007, Beat Tracking by Dynamic Programming, J. New Music Res.)."""
    local = train / max(float(train.std()), 1e-9)
    n, periods = len(local), np.round(period).astype(int)
    n_before = 2 * int(periods.max())
    score, back = np.concatenate([np.full(n_before, -np.inf), local]), np.full(n, -1)
    begin = 0
    while begin < n:
        # Frames of one period at once, fewer than lie between two beats, so that the beats before them are known.
        tau = int(periods[begin])
        same = periods[begin : begin + tau // 2] == tau
        end = begin + (len(same) if same.all() else int(same.argmin()))
        steps = np.arange(-2 * tau, -(tau // 2) + 1)
        earlier = score[n_before + begin + steps[0] : n_before + end + steps[-1]]
        reach = np.lib.stride_tricks.sliding_window_view(earlier, len(steps))
        reach = reach - TIGHTNESS * np.log(-steps / tau) ** 2
        best, rows = reach.argmax(axis=1), np.arange(end - begin)
        gain = reach[rows, best]
        score[n_before + begin : n_before + end] += np.maximum(gain, 0.0)
        back[begin:end] = np.where(gain > 0, begin + rows + steps[0] + best, -1)
        begin = end
    score = score[n_before:]
    tail = max(0, n - int(1.5 * period[-1]))
    at = tail + int(np.argmax(score[tail:]))
    beats = []
    while at >= 0:
        beats.append(at)
        at = int(back[at])
    return np.array(beats[::-1], dtype=np.int64)


def _snap_to_events(grid: DoubleArray, times: DoubleArray) -> tuple[DoubleArray, NDArray[np.bool_]]:
    """Beats moved onto events within 50 ms, from the first such to the last, and a mask of those that were moved."""
    after = np.clip(np.searchsorted(times, grid), 1, len(times) - 1)
    nearest = np.where(grid - times[after - 1] < times[after] - grid, times[after - 1], times[after])
    hit = np.abs(nearest - grid) < HIT_SECONDS
    beats = np.where(hit, nearest, grid)
    supported = np.flatnonzero(hit)
    if not len(supported):
        return grid[:0], hit[:0]
    span = slice(supported[0], supported[-1] + 1)
    keep = np.concatenate([[True], np.diff(beats[span]) > HIT_SECONDS])
    return beats[span][keep], hit[span][keep]


def _confidence(beats: DoubleArray, hit: NDArray[np.bool_], events: tuple[Event, ...]) -> float:
    """How well beats explain the events, are covered by them, and are regular themselves: 0 to 1."""
    if len(beats) < MIN_EVENTS:
        return 0.0
    times, weights = np.array([e.seconds for e in events]), _event_weights(events)
    inside = (times >= beats[0] - HIT_SECONDS) & (times <= beats[-1] + HIT_SECONDS)
    phase = np.interp(times[inside], beats, np.arange(len(beats)))
    explained = float(np.abs((weights[inside] * np.exp(2j * np.pi * phase)).sum()) / weights[inside].sum())
    change = np.abs(np.diff(np.log(np.diff(beats))))
    regularity = float(np.exp(-np.median(change) / 0.15))
    amount = 1.0 - float(np.exp(-hit.sum() / 5.0))
    return float(np.clip(1.05 * explained * hit.mean() ** 0.8 * regularity * amount, 0.0, 1.0))
