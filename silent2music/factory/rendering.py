"""Renders arrangements by fluidsynth with a General MIDI soundfont, then sets loudness, room and level."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from silent2music.arrays import DoubleArray, FloatArray
from silent2music.audio import Waveform, db_to_gain, integrated_lufs
from silent2music.errors import DataError
from silent2music.factory.arrangement import ENERGY_RATE_HZ, Arrangement, Part
from silent2music.factory.ensembles import INSTRUMENTS

TICKS_PER_SECOND = 2000
"""MIDI time resolution: half a millisecond."""

LEAD_SECONDS = 0.064
"""Silence before the first note, cut away afterwards, in which the soundfont's samples are loaded."""

LATENCY_SAMPLES = 96
"""How late fluidsynth sounds a note: one to two of its blocks of 64 samples, one and a half on average."""

AUDIBLE_PEAK = 1e-5
"""A mix that never exceeds this (-100 dBFS) is silence; the synthesiser's reverberation idles just below."""

MUSIC_LUFS = -20.0
"""Integrated loudness of music at 0 dB of automation."""

PEAK_DBFS = -1.0
"""No sample is louder."""

WET_SHARE = 0.35
"""Share of the reverberated signal's energy in the mix with a room response."""


def render(
    arrangement: Arrangement,
    soundfont: Path,
    sample_rate: int = 24_000,
    room_response: NDArray[np.floating] | None = None,
) -> Waveform:
    """Play an arrangement.

    The synthesised mix is levelled slowly, so that `gain_db` alone decides how loud the music is over
    seconds, brought to `MUSIC_LUFS`, reverberated, and given the automation. Nothing exceeds `PEAK_DBFS`.

    Args:
        arrangement: what to play.
        soundfont: a General MIDI SF2 file.
        sample_rate: of the result, in Hz.
        room_response: `[N]` at `sample_rate`; without one the synthesiser's own reverb is used.

    Returns:
        Stereo `[2, N]` with N = round(seconds * sample_rate).

    Raises:
        DataError: if fluidsynth or the soundfont is missing, or the synthesis fails.
    """
    n_samples = round(arrangement.seconds * sample_rate)
    mix = _synthesise(arrangement.parts, soundfont, sample_rate, n_samples, reverb=room_response is None)
    automation = _gain_curve(arrangement.gain_db, sample_rate / ENERGY_RATE_HZ, n_samples)
    mix = mix * (_levelling_gain(mix, sample_rate) * automation)
    if room_response is not None:
        mix = _reverberated(mix, room_response)
    mix = mix * np.float32(_final_gain(mix, arrangement, sample_rate))
    return Waveform(np.clip(mix, -1.0, 1.0), sample_rate)


def _final_gain(mix: FloatArray, arrangement: Arrangement, sample_rate: int) -> float:
    """The factor that brings a mix to `MUSIC_LUFS` plus its automation's loud level, or to the peak limit."""
    peak = float(np.abs(mix).max()) if mix.size else 0.0
    if peak < AUDIBLE_PEAK:
        return 0.0
    highest = db_to_gain(PEAK_DBFS - 0.05)
    loudness = integrated_lufs(Waveform(np.clip(mix / peak, -1.0, 1.0), sample_rate))
    if not np.isfinite(loudness):
        return min(1.0, highest / peak)
    loud_db = float(np.percentile(arrangement.gain_db, 98.0))
    return min(db_to_gain(MUSIC_LUFS + loud_db - loudness), highest) / peak


@functools.lru_cache(maxsize=1)
def _fluidsynth() -> str:
    """The synthesiser's command."""
    command = shutil.which("fluidsynth")
    if command is None:
        raise DataError("fluidsynth is not installed; install it with 'apt-get install fluidsynth'.")
    return command


def _synthesise(
    parts: Sequence[Part], soundfont: Path, sample_rate: int, n_samples: int, reverb: bool
) -> FloatArray:
    """Dry (or fluidsynth-reverberated) sound of parts, `[2, N]`."""
    command = _fluidsynth()
    out = np.zeros((2, n_samples), np.float32)
    if not soundfont.is_file():
        raise DataError(
            f"{soundfont} does not exist; install it with 'apt-get install fluid-soundfont-gm' or name another SF2."
        )
    with tempfile.TemporaryDirectory(prefix="s2m-") as folder:
        midi, raw = Path(folder) / "music.mid", Path(folder) / "music.raw"
        _write_midi(parts, midi)
        options = {
            "synth.dynamic-sample-loading": 1,  # loads the few samples in use, not the whole soundfont
            "synth.reverb.active": int(reverb),
            "synth.chorus.active": 0,
            "synth.polyphony": 128,
            "synth.lock-memory": 0,
            "synth.default-soundfont": "",  # else it plays another one where ours cannot be loaded
        }
        arguments = [command, "-niq", "-a", "file", "-F", str(raw), "-T", "raw", "-O", "float", "-g", "0.4"]
        arguments += ["-r", str(sample_rate)]
        arguments += [text for key, value in options.items() for text in ("-o", f"{key}={value}")]
        done = subprocess.run(
            [*arguments, str(soundfont), str(midi)], capture_output=True, encoding="utf-8", errors="replace"
        )
        said = done.stderr.strip().splitlines()
        # It ends well all the same, in silence.
        refused = [line for line in said if "Failed to load" in line or "not a SoundFont" in line]
        if done.returncode != 0 or not raw.is_file() or refused:
            reason = (refused or said or ["no message"])[0]
            raise DataError(f"fluidsynth failed on {soundfont} ({reason}); is it a valid SF2 soundfont?")
        samples = np.fromfile(raw, np.float32).reshape(-1, 2).T
    lead = round(LEAD_SECONDS * sample_rate) + LATENCY_SAMPLES
    cut = samples[:, lead : lead + n_samples]
    out[:, : cut.shape[1]] = cut
    return out


def _write_midi(parts: Sequence[Part], path: Path) -> None:
    """A MIDI file with one track per instrument, however many parts it plays.

    A key that is struck again is released just before: MIDI has one note per key, and the release of the
    first would silence the second.
    """
    import symusic

    score = symusic.Score(480)
    score.tempos.append(symusic.Tempo(time=0, qpm=60.0 * TICKS_PER_SECOND / 480.0))
    for name, program, is_drum in dict.fromkeys((part.name, part.program, part.is_drum) for part in parts):
        played = [p for p in parts if (p.name, p.program, p.is_drum) == (name, program, is_drum)]
        starts = np.concatenate([part.start_seconds for part in played])
        ends = np.concatenate([part.end_seconds for part in played])
        pitches = np.concatenate([part.pitches for part in played]).astype(np.int8)
        velocities = np.concatenate([part.velocities for part in played]).astype(np.int8)
        on, off = (np.round((t + LEAD_SECONDS) * TICKS_PER_SECOND).astype(np.int32) for t in (starts, ends))
        order = np.lexsort((on, pitches))
        same_key = np.diff(pitches[order]) == 0
        struck_again = np.where(same_key, on[order][1:] - 2, np.iinfo(np.int32).max)
        off[order[:-1]] = np.minimum(off[order[:-1]], struck_again)
        order = order[off[order] > on[order]]
        order = order[np.argsort(on[order], kind="stable")]
        track = symusic.Track(program=program, is_drum=is_drum)
        lengths = off[order] - on[order]
        track.notes = symusic.Note.from_numpy(on[order], lengths, pitches[order], velocities[order])
        pan = INSTRUMENTS[name].pan if name in INSTRUMENTS else 0.0
        track.controls.append(symusic.ControlChange(0, 10, round(64 + 63 * pan)))
        score.tracks.append(track)
    score.dump_midi(path)


def _levelling_gain(mix: FloatArray, sample_rate: int) -> FloatArray:
    """A slow gain curve `[N]` that evens out the loudness over about two seconds by at most 9 dB.

    What is more than 30 dB below the loudest moment is a rest and is not raised.
    """
    hop = sample_rate // 10
    n_frames = max(1, mix.shape[1] // hop)
    power = np.square(mix[:, : n_frames * hop]).reshape(2, n_frames, -1).mean(axis=(0, 2)).astype(np.float64)
    if mix.shape[1] < hop or not power.any():
        return np.ones(mix.shape[1], np.float32)
    window = np.hanning(23)[1:-1]
    slow = np.convolve(power, window, "same") / np.convolve(np.ones(n_frames), window, "same")
    level_db = 10.0 * np.log10(np.maximum(slow, slow.max() * 1e-3))
    gain_db = np.clip(np.median(level_db) - level_db, -9.0, 9.0)
    return _gain_curve(gain_db, hop, mix.shape[1])


def _gain_curve(gain_db: DoubleArray, hop: float, n_samples: int) -> FloatArray:
    """Gains in dB of frames of `hop` samples as a factor for each sample, `[N]`."""
    centres = (np.arange(len(gain_db)) + 0.5) * hop
    return np.asarray(10.0 ** (np.interp(np.arange(n_samples), centres, gain_db) / 20.0), np.float32)


def _reverberated(layer: FloatArray, response: NDArray[np.floating]) -> FloatArray:
    """A layer with its own reverberation mixed in; the response's direct sound is aligned to time 0."""
    from scipy.signal import oaconvolve

    response = response.astype(np.float32)
    if not response.any():
        return layer
    response = response[int(np.abs(response).argmax()) :] / np.sqrt(np.square(response).sum())
    wet = oaconvolve(layer, np.broadcast_to(response, (2, response.size)), axes=1)[:, : layer.shape[1]]
    return np.asarray(np.sqrt(1.0 - WET_SHARE) * layer + np.sqrt(WET_SHARE) * wet, np.float32)
