"""Metrics of a codec's decoded music against the original: spectrum, pitches, attacks, roughness, waveform.

Each function compares an estimate with its reference, both `[N]` mono at the same rate; the same sound is perfect.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from silent2music.arrays import DoubleArray, FloatArray
from silent2music.audio import Waveform, rms_dbfs
from silent2music.distances import log_mel_distance
from silent2music.evaluation.features import music_features
from silent2music.evaluation.following import onset_scores

AUDIBLE_DB = 40.0
"""What is this far below the loudest frame (of a band: the loudest band) does not count."""

ONSET_GUARD_SECONDS = 0.08
"""Held notes begin this long after an onset and end as long before the next."""

ROUGHNESS_SECONDS = 0.32
"""Stretches of held notes that modulation is measured on: a third of a second resolves 15 Hz and is steady."""

ROUGHNESS_HZ = (15.0, 100.0)

_BAND_FFT, _BAND_HOP = 256, 48
"""Bands 190 Hz wide at 24 kHz, their envelopes sampled every 2 ms."""


def codec_figures(reference: FloatArray, estimate: FloatArray, sample_rate: int) -> dict[str, float]:
    """All metrics of a decoded sound against its original.

    Returns:
        `log_mel`, `chroma`, `onset_f`, `roughness` (modulation added to held notes), `roughness_reference`,
        `level_db` (RMS of the estimate over that of the reference), `si_sdr_db`. `onset_f` is
        NaN where the reference has no onset, `roughness` where it holds no note.
    """
    rows = [torch.from_numpy(np.ascontiguousarray(x, np.float32))[None] for x in (reference, estimate)]
    onsets = [music_features(Waveform(x[None], sample_rate)).onset_seconds for x in (reference, estimate)]
    rough = [held_modulation(x, onsets[0], sample_rate, reference) for x in (reference, estimate)]
    return {
        "log_mel": float(log_mel_distance(rows[0], rows[1], sample_rate)[0]),
        "chroma": chroma_similarity(reference, estimate, sample_rate),
        "onset_f": onset_scores(onsets[0], onsets[1]).f_measure if len(onsets[0]) else float("nan"),
        "roughness": float(np.maximum(rough[1] - rough[0], 0.0).mean()) if len(rough[0]) else float("nan"),
        "roughness_reference": float(rough[0].mean()) if len(rough[0]) else float("nan"),
        "level_db": rms_dbfs(estimate) - rms_dbfs(reference),
        "si_sdr_db": si_sdr_db(reference, estimate),
    }


def chroma_similarity(reference: FloatArray, estimate: FloatArray, sample_rate: int) -> float:
    """Mean cosine of CQT chroma over the frames in which the reference is audible, 0 to 1.

    36 bins to the octave over seven octaves from C1, hop 1024 (`librosa.feature.chroma_cqt`), unscaled.
    """
    from librosa import cqt
    from librosa.feature import chroma_cqt

    spectra = [
        np.abs(cqt(x, sr=sample_rate, hop_length=1024, n_bins=252, bins_per_octave=36))
        for x in (reference, estimate)
    ]
    level = np.square(spectra[0]).sum(axis=0)
    heard = level > level.max() * 10.0 ** (-AUDIBLE_DB / 10.0)
    if not level.max() > 0.0:
        return 1.0
    first, second = (chroma_cqt(C=c, norm=None, bins_per_octave=36, n_octaves=7)[:, heard] for c in spectra)
    norms = np.linalg.norm(first, axis=0) * np.linalg.norm(second, axis=0)
    return float(((first * second).sum(axis=0) / np.maximum(norms, 1e-12)).mean())


def held_modulation(
    sound: FloatArray, onset_seconds: DoubleArray, sample_rate: int, where: FloatArray
) -> DoubleArray:
    """Amplitude modulation at 15 to 100 Hz of held notes, relative to the mean amplitude of each band.

    A band's envelope between two onsets wavers where partials beat, and where their phases are wrong from frame
    to frame, which sounds rough.

    Args:
        sound: `[N]`.
        sample_rate: in Hz.
        where: `[N]`, decides which bands are audible in each stretch: the reference for both sides.

    Returns:
        `[n]` RMS of the modulation over the mean, for every audible band of every stretch.
    """
    envelopes, audible = (_band_envelopes(x) for x in (sound, where))
    rate = sample_rate / _BAND_HOP
    n_stretch = round(ROUGHNESS_SECONDS * rate)
    edges = np.concatenate([[0.0], onset_seconds, [len(sound) / sample_rate]])
    frequency = np.fft.rfftfreq(n_stretch, 1.0 / rate)
    band = (frequency >= ROUGHNESS_HZ[0]) & (frequency <= ROUGHNESS_HZ[1])
    window = np.hanning(n_stretch)
    threshold = audible.mean(axis=0).max() * 10.0 ** (-AUDIBLE_DB / 20.0)
    found = [np.zeros(0)]
    for begin, end in pairwise(edges):
        first, last = round((begin + ONSET_GUARD_SECONDS) * rate), round((end - ONSET_GUARD_SECONDS) * rate)
        for start in range(first, min(last, len(envelopes)) - n_stretch + 1, n_stretch):
            rows = slice(start, start + n_stretch)
            heard = audible[rows].mean(axis=0) > threshold
            part = envelopes[rows][:, heard]
            mean = np.maximum(part.mean(axis=0), 1e-9)
            spectrum = np.abs(np.fft.rfft((part - mean) * window[:, None], axis=0))[band]
            # Parseval; the window's mean square makes up for what it takes away.
            power = 2.0 * np.square(spectrum).sum(axis=0) / n_stretch**2 / np.square(window).mean()
            found.append(np.sqrt(power) / mean)
    return np.concatenate(found)


def _band_envelopes(sound: FloatArray) -> DoubleArray:
    """Magnitudes `[frames, bands]` of short windows, whose bins are the bands."""
    window = torch.hann_window(_BAND_FFT)
    samples = torch.from_numpy(np.ascontiguousarray(sound, np.float32))
    spectrum = torch.stft(
        samples, _BAND_FFT, _BAND_HOP, window=window, pad_mode="constant", return_complex=True
    )
    return np.asarray(spectrum.abs().T.double().numpy())


def si_sdr_db(reference: FloatArray, estimate: FloatArray) -> float:
    """Scale-invariant signal-to-distortion ratio (Le Roux, Wisdom, Erdogan and Hershey, 2019), in dB."""
    x, y = (np.asarray(v, np.float64) - np.mean(v, dtype=np.float64) for v in (reference, estimate))
    target = x * (np.dot(x, y) / max(float(np.dot(x, x)), 1e-12))
    noise = y - target
    ratio = (np.dot(target, target) + 1e-12) / (np.dot(noise, noise) + 1e-12)
    return float(10.0 * np.log10(ratio))
