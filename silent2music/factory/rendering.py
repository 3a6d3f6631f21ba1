"""Renders scores by fluidsynth with a General MIDI soundfont, then sets loudness, room and level."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from silent2music.arrays import DoubleArray, FloatArray
from silent2music.audio import Waveform, db_to_gain, integrated_lufs
from silent2music.audio.loudness import LEFT_APART, MOST_DOWN_DB, MOST_UP_DB, RESTING_DB
from silent2music.errors import DataError
from silent2music.factory.ensembles import INSTRUMENTS
from silent2music.score import ENERGY_RATE_HZ, Part, Score, give_controls

TICKS_PER_SECOND = 2000
"""MIDI time resolution: half a millisecond."""

PAN = 10
"""Number of the controller that places an instrument between left and right."""

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

PIECE_SECONDS = 10.0
"""What `play` holds in memory at once."""

RING_SECONDS = 8.0
DIED_AWAY_POWER = 1e-6
"""Music has died away 60 dB below its loudest moment, or so long after the end of its score."""


def render(
    score: Score,
    soundfont: Path,
    sample_rate: int = 24_000,
    room_response: NDArray[np.floating] | None = None,
) -> Waveform:
    """Play a score, of any General MIDI programs.

    A score with loudness automation is levelled slowly first, so that `gain_db` alone decides how loud the music is
    over seconds; one without keeps the dynamics of its notes and controllers. The mix is brought to `MUSIC_LUFS`,
    reverberated, and given the automation. Nothing exceeds `PEAK_DBFS`.

    Args:
        soundfont: a General MIDI SF2 or SF3 file.
        sample_rate: of the result, in Hz.
        room_response: `[N]` at `sample_rate`; without one the synthesiser's own reverb is used.

    Returns:
        Stereo `[2, N]` with N = round(seconds * sample_rate).

    Raises:
        DataError: if fluidsynth or the soundfont is missing, or the synthesis fails.
    """
    n_samples = round(score.seconds * sample_rate)
    with _synthesised(score, soundfont, sample_rate, reverb=room_response is None) as layers:
        mix = _mixed(layers, 0, n_samples)
    if len(score.gain_db):
        automation = _gain_curve(score.gain_db, sample_rate / ENERGY_RATE_HZ, 0, n_samples)
        hop = sample_rate // 10
        levelling = _levelling_db(_frame_powers(mix, hop))
        mix = mix * (_gain_curve(levelling, hop, 0, n_samples) * automation)
    if room_response is not None:
        mix = _reverberated(mix, room_response)
    mix = mix * np.float32(_final_gain(mix, score, sample_rate))
    return Waveform(np.clip(mix, -1.0, 1.0), sample_rate)


def play(
    score: Score,
    soundfont: Path,
    sample_rate: int,
    reverb: bool = True,
    seconds: float | None = None,
    levelling: DoubleArray | None = None,
) -> Iterator[Waveform]:
    """Play a score of any length piece by piece, at the synthesiser's own level, with loudness automation as `render`.

    With automation it is levelled further than there, by as much as `audio.Leveller` levels what a model plays, but from
    tenth to tenth of a second and knowing the whole.

    Args:
        soundfont: a General MIDI SF2 or SF3 file.
        sample_rate: of the result, in Hz.
        seconds: length of the music; by default until the last note has died away, at most `RING_SECONDS` after the
            end of the score.
        levelling: gains in dB of tenths of a second that even out the loudness before the automation, by default the
            score's own; that of a whole, from `heard_as`, for a part of it.

    Yields:
        Stereo `[2, n]`, of about `PIECE_SECONDS`.
    """
    ringing = score.seconds + RING_SECONDS
    with _synthesised(score, soundfont, sample_rate, reverb, ringing) as layers:
        hop, n_piece = sample_rate // 10, sample_rate // 10 * round(10 * PIECE_SECONDS)
        n_heard, own = _heard(score, soundfont, layers, sample_rate, seconds)
        levelling = own if levelling is None else levelling
        for start in range(0, n_heard, n_piece):
            stop = min(start + n_piece, n_heard)
            piece = _mixed(layers, start, stop)
            if len(score.gain_db):
                automation = _gain_curve(score.gain_db, sample_rate / ENERGY_RATE_HZ, start, stop)
                piece *= _gain_curve(levelling, hop, start, stop) * automation
            yield Waveform(piece, sample_rate)


def heard_as(
    score: Score, soundfont: Path, sample_rate: int, reverb: bool = True, seconds: float | None = None
) -> tuple[float, DoubleArray]:
    """How long `play` plays a score, in seconds, and its `levelling`; arguments as there."""
    with _synthesised(score, soundfont, sample_rate, reverb, score.seconds + RING_SECONDS) as layers:
        n_heard, levelling = _heard(score, soundfont, layers, sample_rate, seconds)
    return n_heard / sample_rate, levelling


def _heard(
    score: Score,
    soundfont: Path,
    layers: Sequence[NDArray[np.float32]],
    sample_rate: int,
    seconds: float | None,
) -> tuple[int, DoubleArray]:
    """How many samples are heard of what was synthesised, and its levelling."""
    hop = sample_rate // 10
    n_piece, n_samples = hop * round(10 * PIECE_SECONDS), round((score.seconds + RING_SECONDS) * sample_rate)
    starts = range(0, n_samples, n_piece)
    powers = np.concatenate([_frame_powers(_mixed(layers, start, start + n_piece), hop) for start in starts])
    if score.n_notes and not powers.any():
        raise DataError(f"{soundfont} has no sound for the score's instruments; choose another soundfont.")
    n_heard = round(score.seconds * sample_rate)
    if seconds is not None:
        n_heard = round(seconds * sample_rate)
    elif powers.any():
        last = int(np.flatnonzero(powers > powers.max() * DIED_AWAY_POWER)[-1])
        n_heard = min(max(n_heard, (last + 1) * hop), n_samples)
    return n_heard, _levelled_further(powers, _levelling_db(powers))


def _final_gain(mix: FloatArray, score: Score, sample_rate: int) -> float:
    """The factor that brings a mix to `MUSIC_LUFS` plus its automation's loud level, or to the peak limit."""
    peak = float(np.abs(mix).max()) if mix.size else 0.0
    if peak < AUDIBLE_PEAK:
        return 0.0
    highest = db_to_gain(PEAK_DBFS - 0.05)
    loudness = integrated_lufs(Waveform(np.clip(mix / peak, -1.0, 1.0), sample_rate))
    if not np.isfinite(loudness):
        return min(1.0, highest / peak)
    loud_db = float(np.percentile(score.gain_db, 98.0)) if len(score.gain_db) else 0.0
    return min(db_to_gain(MUSIC_LUFS + loud_db - loudness), highest) / peak


@functools.lru_cache(maxsize=1)
def _fluidsynth() -> str:
    """The synthesiser's command."""
    command = shutil.which("fluidsynth")
    if command is None:
        raise DataError("fluidsynth is not installed; install it with 'apt-get install fluidsynth'.")
    return command


def _command(soundfont: Path) -> str:
    """The synthesiser's command, if it and the soundfont are there."""
    command = _fluidsynth()
    if not soundfont.is_file():
        raise DataError(
            f"{soundfont} does not exist; install it with 'apt-get install fluid-soundfont-gm' or name another SF2."
        )
    return command


def synthesiser_version(soundfont: Path) -> str:
    """Name and version of the synthesiser that is to play a soundfont, such as "FluidSynth 2.4.4".

    Raises:
        DataError: if one of the two is missing.
    """
    done = subprocess.run(
        [_command(soundfont), "--version"], capture_output=True, encoding="utf-8", errors="replace"
    )
    found = re.search(r"version (\d[\w.]*)", done.stdout)
    return f"FluidSynth {found[1]}" if found else "FluidSynth"


@contextmanager
def _synthesised(
    score: Score, soundfont: Path, sample_rate: int, reverb: bool, seconds: float = 0.0
) -> Iterator[list[NDArray[np.float32]]]:
    """Dry (or fluidsynth-reverberated) sound of a score as layers to be added up, `[n, 2]` each, in temporary files.

    The synthesiser stops with the last event of a score, or after so many seconds if that is later.
    """
    command = _command(soundfont)
    options = {
        "synth.dynamic-sample-loading": 1,  # loads the few samples in use, not the whole soundfont
        "synth.reverb.active": int(reverb),
        "synth.chorus.active": 0,
        "synth.polyphony": 128,
        "synth.lock-memory": 0,
        "synth.default-soundfont": "",  # else it plays another one where ours cannot be loaded
    }
    arguments = [command, "-niq", "-a", "file", "-T", "raw", "-O", "float", "-g", "0.4"]
    arguments += ["-r", str(sample_rate)]
    arguments += [text for key, value in options.items() for text in ("-o", f"{key}={value}")]
    layers: list[NDArray[np.float32]] = []
    with tempfile.TemporaryDirectory(prefix="s2m-") as folder:
        for number, tracks in enumerate(_bands(score.parts)):
            midi, raw = (Path(folder) / f"{number}.{suffix}" for suffix in ("mid", "raw"))
            _write_performance(tracks, midi, seconds)
            done = subprocess.run(
                [*arguments, "-F", str(raw), str(soundfont), str(midi)],
                capture_output=True,
                encoding="utf-8",
                errors="replace",
            )
            said = done.stderr.strip().splitlines()
            # It ends well all the same, in silence.
            refused = [line for line in said if "Failed to load" in line or "not a SoundFont" in line]
            if done.returncode != 0 or not raw.is_file() or refused:
                reason = (refused or said or ["no message"])[0]
                raise DataError(f"fluidsynth failed on {soundfont} ({reason}); is it a valid SF2 soundfont?")
            n_samples = raw.stat().st_size // 8
            if n_samples:
                layers.append(np.memmap(raw, np.float32, "r", shape=(n_samples, 2)))
        try:
            yield [layer[round(LEAD_SECONDS * sample_rate) + LATENCY_SAMPLES :] for layer in layers]
        finally:
            for layer in layers:  # Windows removes no file that is mapped
                layer._mmap.close()  # type: ignore[attr-defined]


def _mixed(layers: Sequence[NDArray[np.float32]], start: int, stop: int) -> FloatArray:
    """The sum of layers from one sample to another, `[2, stop - start]`; nothing sounds after their ends."""
    mix = np.zeros((2, stop - start), np.float32)
    for layer in layers:
        piece = layer[start:stop].T
        mix[:, : piece.shape[1]] += piece
    return mix


def _bands(parts: Sequence[Part]) -> list[list[list[Part]]]:
    """Parts that share a track, and tracks that share a pass of the synthesiser.

    An instrument has one track, however many parts it plays, unless they come with controllers of their own. A pass
    has 15 channels for instruments and one for drums.
    """
    tracks: dict[tuple[object, ...], list[Part]] = {}
    for index, part in enumerate(parts):
        own = index if len(part.control_seconds) else None
        tracks.setdefault((part.name, part.program, part.is_drum, own), []).append(part)
    bands: list[list[list[Part]]] = []
    counts: list[list[int]] = []  # of instruments and of drums in each band
    for track in tracks.values():
        is_drum = int(track[0].is_drum)
        place = next((i for i, count in enumerate(counts) if count[is_drum] < (15, 1)[is_drum]), len(bands))
        if place == len(bands):
            bands.append([])
            counts.append([0, 0])
        bands[place].append(track)
        counts[place][is_drum] += 1
    return bands


def _write_performance(tracks: Sequence[Sequence[Part]], path: Path, seconds: float = 0.0) -> None:
    """A MIDI file for the synthesiser, in which all ticks are of one length; it lasts so many seconds at least.

    A key that is struck again is released just before: MIDI has one note per key, and the release of the
    first would silence the second.
    """
    import symusic

    score = symusic.Score(480)
    score.tempos.append(symusic.Tempo(time=0, qpm=60.0 * TICKS_PER_SECOND / 480.0))
    if seconds:
        score.markers.append(symusic.TextMeta(round((seconds + LEAD_SECONDS) * TICKS_PER_SECOND), "end"))
    for played in tracks:
        name, program, is_drum = played[0].name, played[0].program, played[0].is_drum
        starts = np.concatenate([part.start_seconds for part in played])
        ends = np.concatenate([part.end_seconds for part in played])
        pitches = np.concatenate([part.pitches for part in played]).astype(np.int8)
        velocities = np.concatenate([part.velocities for part in played]).astype(np.int8)
        on, off = (_ticks(times) for times in (starts, ends))
        order = np.lexsort((on, pitches))
        same_key = np.diff(pitches[order]) == 0
        struck_again = np.where(same_key, on[order][1:] - 2, np.iinfo(np.int32).max)
        off[order[:-1]] = np.minimum(off[order[:-1]], struck_again)
        order = order[off[order] > on[order]]
        order = order[np.argsort(on[order], kind="stable")]
        track = symusic.Track(program=program, is_drum=is_drum)
        lengths = off[order] - on[order]
        track.notes = symusic.Note.from_numpy(on[order], lengths, pitches[order], velocities[order])
        own = played[0]
        is_placed = name not in INSTRUMENTS or PAN in own.control_numbers
        pan = 64 if is_placed else round(64 + 63 * INSTRUMENTS[name].pan)
        give_controls(
            track,
            np.append(0, _ticks(own.control_seconds)),
            np.append(PAN, own.control_numbers),
            np.append(pan, own.control_values),
        )
        score.tracks.append(track)
    score.dump_midi(path)


def _ticks(seconds: DoubleArray) -> NDArray[np.int32]:
    """Times in the synthesiser's file."""
    return np.round((seconds + LEAD_SECONDS) * TICKS_PER_SECOND).astype(np.int32)


def _frame_powers(mix: FloatArray, hop: int) -> DoubleArray:
    """Mean power `[n // hop]` of frames of `hop` samples of a mix `[2, n]`."""
    n_frames = mix.shape[1] // hop
    frames = np.square(mix[:, : n_frames * hop]).reshape(2, n_frames, -1)
    return np.asarray(frames.mean(axis=(0, 2)).astype(np.float64))


def _levelling_db(power: DoubleArray) -> DoubleArray:
    """Slow gains in dB `[n]` that even out powers `[n]` of tenths of a second over two seconds, by at most 9 dB.

    What is more than 30 dB below the loudest moment counts as so far below it.
    """
    if not power.any():
        return np.zeros(1)
    window = np.hanning(23)[1:-1]
    slow = np.convolve(power, window, "same") / np.convolve(np.ones(len(power)), window, "same")
    level_db = 10.0 * np.log10(np.maximum(slow, slow.max() * 1e-3))
    return np.asarray(np.clip(np.median(level_db) - level_db, -9.0, 9.0))


def _levelled_further(power: DoubleArray, gain_db: DoubleArray) -> DoubleArray:
    """Gains in dB `[n]` that leave but `LEFT_APART` of how far each tenth is from the usual level after `gain_db`.

    They differ from these within `audio.Leveller`'s limits, and not in rests, `RESTING_DB` below the loudest tenth.

    Args:
        power: `[n]`, of tenths of a second, longer than a window of `_levelling_db`; gain_db: what that makes of it.
    """
    if not power.any():
        return gain_db
    level_db = 10.0 * np.log10(np.maximum(power, 1e-30)) + gain_db
    sounds = level_db > level_db.max() - RESTING_DB
    more_db = (LEFT_APART - 1.0) * (level_db - np.median(level_db[sounds]))
    return np.asarray(gain_db + np.where(sounds, np.clip(more_db, -MOST_DOWN_DB, MOST_UP_DB), 0.0))


def _gain_curve(gain_db: DoubleArray, hop: float, start: int, stop: int) -> FloatArray:
    """Gains in dB of frames of `hop` samples as a factor for each sample from one to another, `[stop - start]`."""
    centres = (np.arange(len(gain_db)) + 0.5) * hop
    return np.asarray(10.0 ** (np.interp(np.arange(start, stop), centres, gain_db) / 20.0), np.float32)


def _reverberated(layer: FloatArray, response: NDArray[np.floating]) -> FloatArray:
    """A layer with its own reverberation mixed in; the response's direct sound is aligned to time 0."""
    from scipy.signal import oaconvolve

    response = response.astype(np.float32)
    if not response.any():
        return layer
    response = response[int(np.abs(response).argmax()) :] / np.sqrt(np.square(response).sum())
    wet = oaconvolve(layer, np.broadcast_to(response, (2, response.size)), axes=1)[:, : layer.shape[1]]
    return np.asarray(np.sqrt(1.0 - WET_SHARE) * layer + np.sqrt(WET_SHARE) * wet, np.float32)
