"""Recordings that are no near-silent room, told in a line: too loud, silent, a test signal, music or speech.

Music is made of them all the same. The detectors say nothing when in doubt. Their limits were chosen on every third
of 383 field recordings, 20 pieces of music and 30 readings of a speech synthesiser.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from silent2music.acoustics.profile import AcousticProfile
from silent2music.arrays import DoubleArray
from silent2music.audio import FLOOR_DBFS, Recorded, Waveform
from silent2music.audio.downmix import signal_name

LOUD_DBFS = -35.0
"""Rooms are recorded well below this RMS level."""

SECONDS = 20.0
"""How much of a recording is searched for music and speech: its middle."""

RATE, WINDOW, HOP = 16_000, 1024, 256
FRAME_SECONDS = HOP / RATE

PARTIAL_HZ, N_PARTIALS = (100.0, 4000.0), 10
"""Where partials of notes are looked for, and how many in a frame."""

PARTIAL_DB, PARTIAL_RANGE_DB = 9.0, 45.0
"""A partial stands so far above its surroundings, and no further below the sound's level."""

NOTE_FRAMES, NOTE_CENTS = 9, 25.0
"""A note lasts 0.15 s at least, with a pitch that does not vary by more than this deviation."""

PITCH_HZ, VOICE_HZ = (75.0, 350.0), (70.0, 4000.0)
"""Of voices, and where their harmonics are."""

VOICED, VOICE_RANGE_DB, RUN_FRAMES, RUN_SEMITONES = 0.6, 25.0, 5, 1.5
"""Correlation of a voiced frame with itself a period later; its least level below the loudest; the shortest run of
such frames, and how far its pitch goes in one step."""

SPEECH_DB, SPEECH_SEMITONES = 10.0, 0.3
"""How far speech is above what surrounds it, and how far the pitch of a voiced run moves at least."""

SPEECH_SECONDS, PAUSE_SECONDS = 0.15, 0.8
"""So much of a stretch of speech is voiced at least; longer pauses end it."""


def room_warnings(room: Recorded, profile: AcousticProfile) -> tuple[str, ...]:
    """What makes a recording unlike a near-silent room, and what to do; each goes on after the file's name.

    Args:
        profile: `analyze` of it.
    """
    if profile.level_dbfs <= FLOOR_DBFS:
        return (
            "is digital silence, of which next to nothing can come; check the microphone and its channel",
        )
    found = []
    if profile.level_dbfs > LOUD_DBFS:
        found.append(
            f"is loud for a near-silent room: {profile.level_dbfs:.1f} dBFS RMS, expected at most "
            f"{LOUD_DBFS:.0f}; turn it down if that is not the room's own level"
        )
    middle = _middle(room.downmix())
    if name := signal_name(middle.samples[0], middle.sample_rate):
        found.append(
            f"is {name} and no room; record the room, or name the channel that holds it with --channel"
        )
    elif kind := sounds_like(middle):
        found.append(f"sounds like {kind}; expected a room alone, which is what the music should answer to")
    return tuple(found)


def _middle(room: Recorded) -> Waveform:
    n_samples = min(room.n_samples, round(SECONDS * room.sample_rate))
    start = (room.n_samples - n_samples) // 2
    return Waveform(room.slice(start, start + n_samples), room.sample_rate)


def sounds_like(sound: Waveform) -> str:
    """`music`, `speech` or nothing, of `[1, N]`.

    Music has many steady partials at once, on the pitches of one scale of semitones. Speech has short voiced runs of
    nearby pitches, and its level and its share of high frequencies change quickly.
    """
    samples = sound.resampled(RATE).samples[0].astype(np.float64)
    samples = np.pad(samples - samples.mean(), (0, max(0, 4 * WINDOW - len(samples))))
    if not samples.any():
        return ""
    window = np.hanning(WINDOW)
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP] * window
    notes, voice = _notes(frames), _voice(frames, window)
    if (
        notes.per_second >= 3.0
        and notes.tuned >= 0.45
        and notes.power_share >= 0.15
        and notes.n_pitches >= 8
        and notes.chords >= 0.3
    ):
        return "music"
    if (
        voice.runs_per_second >= 1.0
        and 0.2 <= voice.share <= 0.75
        and 0.7 <= voice.pitch_semitones <= 2.6
        and voice.level_nepers >= 0.9
        and voice.colour_db >= 4.0
        and notes.tuned < 0.6
    ):
        return "speech"
    return ""


@dataclass(frozen=True)
class Notes:
    """Steady partials: how many begin in a second, how well they sit on semitones (0 to 1), their share of the power,
    on how many semitones they are, and the share of time in which three or more sound."""

    per_second: float = 0.0
    tuned: float = 0.0
    power_share: float = 0.0
    n_pitches: int = 0
    chords: float = 0.0


@dataclass(frozen=True)
class Voice:
    """Voiced runs: how many in a second, their share of time, deviation of their pitches in semitones; deviation of
    the level, and of the level above 3 kHz against that below."""

    runs_per_second: float
    share: float
    pitch_semitones: float
    level_nepers: float
    colour_db: float


@dataclass
class _Track:
    """A partial from frame to frame: its first frame, frequencies in Hz and powers."""

    begin: int
    hz: list[float]
    power: list[float]


def _notes(frames: DoubleArray) -> Notes:
    """Of windowed frames `[T, WINDOW]`."""
    power = np.square(np.abs(np.fft.rfft(frames, axis=1)))
    notes = [track for track in _tracks(power) if len(track.hz) >= NOTE_FRAMES]
    cents = [1200.0 * np.log2(np.array(track.hz) / 440.0) for track in notes]
    steady = [i for i, c in enumerate(cents) if np.std(c[1:-1]) < NOTE_CENTS]
    if not steady:
        return Notes()
    notes, pitches = [notes[i] for i in steady], np.array([np.median(cents[i]) for i in steady])
    lengths = np.array([len(note.hz) for note in notes])
    weights = np.minimum(lengths, 40)
    mean = (weights * np.exp(2j * np.pi * pitches / 100.0)).sum() / weights.sum()
    semitones = np.round((pitches - np.angle(mean) / (2 * np.pi) * 100.0) / 100.0)
    sounding = np.zeros(len(power))
    for note in notes:
        sounding[note.begin : note.begin + len(note.hz)] += 1
    return Notes(
        per_second=len(notes) / (len(power) * FRAME_SECONDS),
        tuned=float(np.abs(mean)),
        # A Hann window spreads a partial's power over bins, of which the largest has two thirds.
        power_share=float(1.5 * sum(sum(note.power) for note in notes) / power.sum()),
        n_pitches=len(np.unique(semitones)),
        chords=float(np.mean(sounding >= 3)),
    )


def _tracks(power: DoubleArray) -> list[_Track]:
    """Partials of power spectra `[T, F]`, each joined to the nearest one of the frame before."""
    level = 10.0 * np.log10(power + 1e-12 * power.max())
    peaks = _peaks(level)
    going: list[_Track] = []
    ended: list[_Track] = []
    for t in range(len(level)):
        at = np.flatnonzero(peaks[t])
        at = at[np.argsort(-level[t, at])][:N_PARTIALS]
        below, middle, above = level[t, at - 1], level[t, at], level[t, at + 1]
        # The vertex of the parabola through three bins.
        hz = (at + 0.5 * (below - above) / (below - 2 * middle + above - 1e-9)) * RATE / WINDOW
        free, still = set(range(len(at))), []
        for track in going:
            last = track.hz[-1]
            nearest = min(free, key=lambda i: abs(hz[i] - last), default=None)
            if nearest is None or abs(hz[nearest] - last) >= max(8.0, 0.02 * last):
                ended.append(track)
                continue
            free.remove(nearest)
            track.hz.append(float(hz[nearest]))
            track.power.append(float(power[t, at[nearest]]))
            still.append(track)
        going = still + [_Track(t, [float(hz[i])], [float(power[t, at[i]])]) for i in sorted(free)]
    return ended + going


def _peaks(level: DoubleArray) -> NDArray[np.bool_]:
    """Where spectra `[T, F]` in dB have partials."""
    from scipy.ndimage import uniform_filter1d

    hz = np.arange(level.shape[1]) * RATE / WINDOW
    whole = 10.0 * np.log10((10.0 ** (level / 10.0)).sum(axis=1).mean())
    peaks = np.zeros(level.shape, bool)
    peaks[:, 1:-1] = (level[:, 1:-1] > level[:, :-2]) & (level[:, 1:-1] >= level[:, 2:])
    peaks &= level - uniform_filter1d(level, 31, axis=1) > PARTIAL_DB
    peaks &= (hz > PARTIAL_HZ[0]) & (hz < PARTIAL_HZ[1]) & (level > whole - PARTIAL_RANGE_DB)
    return peaks


def _voice(frames: DoubleArray, window: DoubleArray) -> Voice:
    """Of frames `[T, WINDOW]`."""
    found = _voiced_frames(frames, window)
    spectrum, semitones = found.spectrum, found.semitones
    hz = np.arange(spectrum.shape[1]) * RATE / (2 * WINDOW)
    high = spectrum[:, hz > 3000].sum(axis=1) + 1e-30
    low = spectrum[:, (hz > 100) & (hz < 3000)].sum(axis=1) + 1e-30
    speech_band = np.sqrt(spectrum[:, (hz > 200) & (hz < 3500)].sum(axis=1))
    floor = 1e-4 * np.sqrt(spectrum.sum(axis=1).mean())
    return Voice(
        runs_per_second=len(found.runs) / (len(frames) * FRAME_SECONDS),
        share=sum(len(run) for run in found.runs) / len(frames),
        pitch_semitones=float(np.std([np.median(semitones[run]) for run in found.runs]))
        if found.runs
        else 0.0,
        level_nepers=float(np.std(np.log(speech_band + floor))),
        colour_db=float(np.std(10.0 * np.log10(high / low)[found.loud])),
    )


@dataclass(frozen=True)
class _Voiced:
    """Frames by pitch: power spectra `[T, WINDOW + 1]`, and `[T]` pitch in semitones, level in the band of voices in
    dB, and whether a frame is loud; runs of voiced frames of nearby pitches."""

    spectrum: DoubleArray
    semitones: DoubleArray
    level: DoubleArray
    loud: NDArray[np.bool_]
    runs: list[NDArray[np.int64]]


def _voiced_frames(frames: DoubleArray, window: DoubleArray) -> _Voiced:
    """Of frames `[T, WINDOW]`; pitch is where the autocorrelation, free of the window's own, is highest."""
    spectrum = np.square(np.abs(np.fft.rfft(frames, 2 * WINDOW, axis=1)))
    hz = np.arange(spectrum.shape[1]) * RATE / (2 * WINDOW)
    band = spectrum * ((hz > VOICE_HZ[0]) & (hz < VOICE_HZ[1]))
    taper = np.fft.irfft(np.square(np.abs(np.fft.rfft(window, 2 * WINDOW))))[:WINDOW]
    correlation = np.fft.irfft(band, axis=1)[:, :WINDOW]
    correlation /= correlation[:, :1] * (taper / taper[0]) + 1e-30
    first, last = (int(RATE / pitch) for pitch in PITCH_HZ[::-1])
    lag = correlation[:, first:last].argmax(axis=1) + first
    semitones = 12.0 * np.log2(RATE / lag)
    level = 10.0 * np.log10(band.sum(axis=1) + 1e-30)
    loud = level > np.percentile(level, 95) - VOICE_RANGE_DB
    voiced = (correlation[np.arange(len(lag)), lag] > VOICED) & loud
    goes_on = voiced[1:] & voiced[:-1] & (np.abs(np.diff(semitones)) < RUN_SEMITONES)
    parts = np.split(np.arange(len(lag)), np.flatnonzero(~goes_on) + 1)
    return _Voiced(spectrum, semitones, level, loud, [run for run in parts if len(run) >= RUN_FRAMES])


def speech_spans(sound: Recorded) -> tuple[tuple[float, float], ...]:
    """Beginnings and ends, in seconds, of the stretches in which someone speaks.

    Speech here is voiced runs well above the quietest fifth of their surroundings, whose pitch moves, which that of
    machines does not, with no longer pauses than `PAUSE_SECONDS`.

    Args:
        sound: `[1, N]`, looked at in pieces of `SECONDS`.
    """
    n_piece, window = round(SECONDS * sound.sample_rate), np.hanning(WINDOW)
    runs: list[tuple[float, float]] = []
    for start in range(0, sound.n_samples, n_piece):
        piece = Waveform(sound.slice(start, start + n_piece), sound.sample_rate).resampled(RATE)
        samples = piece.samples[0].astype(np.float64)
        samples = np.pad(samples - samples.mean(), (0, max(0, 4 * WINDOW - len(samples))))
        if not samples.any():
            continue
        found = _voiced_frames(
            np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP] * window, window
        )
        floor = np.percentile(found.level, 20) + SPEECH_DB
        for run in found.runs:
            if np.ptp(found.semitones[run]) > SPEECH_SEMITONES and found.level[run].mean() > floor:
                begin = start / sound.sample_rate + run[0] * FRAME_SECONDS
                runs.append((begin, begin + (len(run) * HOP + WINDOW - HOP) / RATE))
    spans: list[list[float]] = []
    for begin, end in runs:
        if spans and begin - spans[-1][1] < PAUSE_SECONDS:
            spans[-1][1], spans[-1][2] = end, spans[-1][2] + end - begin
        else:
            spans.append([begin, end, end - begin])
    return tuple((begin, end) for begin, end, voiced in spans if voiced > SPEECH_SECONDS)
