"""Turns a recording, or live sound, into a stream of signals at constant memory.

A recording of up to a minute is measured whole. A longer one, or a room repeated for longer, is measured in
windows of a minute whose features and scalars are crossfaded, so that an hour needs no more than a minute, and
nothing jumps where two windows meet; the profile of the whole recording is joined from the same windows. Live input
is measured again and again over its last seconds, and its newest features stand for the future that the embedders see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np

from silent2music.acoustics import AcousticProfile, analyze
from silent2music.acoustics.joining import WindowProfile, joined
from silent2music.ambient import AmbientFeatures, ambient_features
from silent2music.arrays import FloatArray
from silent2music.audio import MIN_SECONDS, Recorded, Waveform
from silent2music.config import AmbientConfig, ModelConfig
from silent2music.decoder import Conditioning
from silent2music.errors import AudioError
from silent2music.processes import release_memory
from silent2music.signals import Signals, read_signals

WINDOW_SECONDS, OVERLAP_SECONDS = 60.0, 10.0
"""Rooms are measured whole up to the one; neighbouring windows of longer ones share the other."""

PIECE_STEPS = 250
"""Steps that are embedded at once."""

FADE_STEPS = 25
"""Steps of a crossfade that share their scalars."""

LIVE_SECONDS = 8.0
"""Seconds of the latest live input that are measured."""

REFRESH_SECONDS = 0.2
"""Seconds after which live input is measured again; levels and spectra are always up to date."""


def span(room: Recorded, begin: int, end: int, crossfade_seconds: float = 0.05) -> Waveform:
    """Samples `[begin, end)` of a room, in memory; past its end it is looped with equal-power crossfades."""
    if end <= room.n_samples:
        return Waveform(room.slice(begin, end), room.sample_rate, recorded_channels=room.recorded_channels)
    fade = max(1, int(crossfade_seconds * room.sample_rate))
    lap = room.n_samples - fade
    samples = np.asfortranarray(np.concatenate(list(_looped(room, begin, end, lap)), axis=1))
    limit = max(1.0, float(samples.max()), -float(samples.min()))
    tail, ramp = room.slice(lap, lap + fade), np.sqrt(np.linspace(0.0, 1.0, fade, dtype=np.float32))
    for start in range(max(lap, begin // lap * lap), end, lap):
        first, last = max(start, begin), min(start + min(fade, lap), end)
        at = slice(first - start, last - start)
        if first < last:
            samples[:, first - begin : last - begin] *= ramp[at]
            samples[:, first - begin : last - begin] += tail[:, at] * ramp[::-1][at]
    np.clip(samples, -limit, limit, out=samples)
    return Waveform(samples, room.sample_rate, recorded_channels=room.recorded_channels)


def _looped(room: Recorded, begin: int, end: int, lap: int) -> Iterator[FloatArray]:
    """Samples `[begin, end)` of the first `lap` samples of a room again and again, in stretches."""
    while begin < end:
        place = begin % lap
        n_samples = min(end - begin, lap - place)
        yield room.slice(place, place + n_samples)
        begin += n_samples


def repeated(room: Recorded, seconds: float) -> Waveform:
    """A room in memory, looped if it is shorter than `seconds`."""
    if room.seconds >= seconds - 1e-9:
        return room.whole()
    return span(room, 0, int(np.ceil(seconds * room.sample_rate)))


def n_steps_of(seconds: float, config: AmbientConfig) -> int:
    """The number of steps that cover a duration."""
    return int(np.ceil(seconds * config.frame_rate - 1e-6))


class Measured:
    """A room and the profiles of its windows, each measured once, for the music and for the record.

    Args:
        config: gives the frame rate; windows begin at a step.
    """

    def __init__(self, room: Recorded, config: AmbientConfig) -> None:
        self._room, self._config = room.downmix(), config
        self._profiles: dict[tuple[int, int], AcousticProfile] = {}

    def windows(self, seconds: float) -> Iterator[tuple[int, int, int]]:
        """First step, first sample and end of each window of the room, repeated if it is shorter than `seconds`."""
        room, rate = self._room, self._config.frame_rate
        n_samples, n_steps = room.n_samples, n_steps_of(max(room.seconds, seconds), self._config)
        if room.seconds < seconds - 1e-9:
            n_samples = int(np.ceil(seconds * room.sample_rate))
        length, overlap = _window_steps(self._config)
        for start in range(0, max(1, n_steps - overlap), length - overlap):
            first = max(0, min(start, n_steps - length))
            begin, end = (round(step * room.sample_rate / rate) for step in (first, first + length))
            yield first, begin, min(end, n_samples)

    def window(self, begin: int, end: int) -> tuple[Waveform, AcousticProfile]:
        """Samples `[begin, end)`, in memory, and their profile."""
        # Before and after, so that a stream, which goes on meanwhile, needs no more than without.
        release_memory()
        part = span(self._room, begin, end)
        profile = self._profiles.get((begin, end)) or analyze(part)
        release_memory()
        if end <= self._room.n_samples:
            self._profiles[begin, end] = profile
        return part, profile

    def beginning(self) -> AcousticProfile:
        """The profile of the room's first window, which is at hand as soon as music begins."""
        _, begin, end = next(self.windows(self._room.seconds))
        return self._profiles.get((begin, end)) or self.window(begin, end)[1]

    def profile(self) -> AcousticProfile:
        """The profile of the whole room; windows that were not measured so far are measured now."""
        room = self._room
        windows = [(begin, end) for _, begin, end in self.windows(room.seconds)]
        return joined(
            [
                WindowProfile(w[0] / room.sample_rate, self._profiles.get(w) or self.window(*w)[1])
                for w in windows
            ]
        )


def _window_steps(config: AmbientConfig) -> tuple[int, int]:
    """Lengths, in steps, of a window and of its overlap with the next."""
    return round(WINDOW_SECONDS * config.frame_rate), round(OVERLAP_SECONDS * config.frame_rate)


def listen_whole(
    room: Recorded, seconds: float, config: ModelConfig, known: Mapping[str, Any] | None = None
) -> Signals:
    """Signals for `seconds` of music, one row, from the room (cut, or looped if too short) measured as a whole."""
    room = repeated(room, seconds)
    features = ambient_features(room, analyze(room), config.ambient)
    features = AmbientFeatures(features.frames[: n_steps_of(seconds, config.ambient)], features.scalars)
    return next(_read_pieces([features], config, known))


def listen(
    room: Recorded,
    seconds: float,
    config: ModelConfig,
    known: Mapping[str, Any] | None = None,
    measured: Measured | None = None,
) -> Iterator[Signals]:
    """As `listen_whole`, in pieces of at most `PIECE_STEPS` codec frames; long rooms are measured in windows.

    Args:
        room, seconds, config, known: as for `listen_whole`.
        measured: profiles of the room that are known already; new ones are added to it.
    """
    return _read_pieces(_windowed(room, seconds, config.ambient, measured), config, known)


def listen_live(
    chunks: Iterable[Waveform], config: ModelConfig, known: Mapping[str, Any] | None = None
) -> Iterator[Signals]:
    """Signals of live input, codec frame by codec frame, without waiting.

    What is measured of the whole recording offline (scalars, median spectrum, pulse, reverberation) is here measured of
    the last `LIVE_SECONDS`, every `REFRESH_SECONDS`.

    Args:
        chunks: room sound as it comes, in chunks of any length and of one rate; best one codec frame each.
        config, known: as for `listen_whole`.

    Raises:
        AudioError: if the rate changes, or there is nothing at all.
    """
    return _read_pieces(_heard_live(chunks, config.ambient), config, known)


def _read_pieces(
    pieces: Iterable[AmbientFeatures], config: ModelConfig, known: Mapping[str, Any] | None
) -> Iterator[Signals]:
    """Signals of successive pieces of a room, from its features and the user's options."""
    begin = 0
    for features in pieces:
        end = begin + len(features.frames)
        yield read_signals(config.controls, {**(known or {}), "room": features}, begin, end)
        begin = end


def _windowed(
    room: Recorded, seconds: float, config: AmbientConfig, measured: Measured | None
) -> Iterator[AmbientFeatures]:
    """Features for `seconds` of music, in pieces, the windows crossfaded."""
    measured = measured or Measured(room, config)
    n_wanted = n_steps_of(seconds, config)
    length, overlap = _window_steps(config)
    before: AmbientFeatures | None = None  # what the last window says of its last `overlap` steps
    done = 0
    for start, *stretch in measured.windows(seconds):
        window = ambient_features(*measured.window(*stretch), config)
        missing = max(0, length - len(window.frames))
        frames = np.pad(window.frames, ((0, missing), (0, 0)), "edge")
        if before is not None:
            after = AmbientFeatures(frames[done - start : done - start + overlap], window.scalars)
            yield from _crossfade(before, after, n_wanted - done)
            done += overlap
        is_last = start + length >= n_wanted
        end = min(n_wanted, start + length - (0 if is_last else overlap))
        yield from _pieces(frames[done - start : end - start], window.scalars)
        if is_last:
            return
        done = max(done, end)
        before = AmbientFeatures(frames[length - overlap :], window.scalars)


def _pieces(frames: FloatArray, scalars: FloatArray) -> Iterator[AmbientFeatures]:
    for i in range(0, len(frames), PIECE_STEPS):
        yield AmbientFeatures(frames[i : i + PIECE_STEPS], scalars)


def _crossfade(before: AmbientFeatures, after: AmbientFeatures, n_most: int) -> Iterator[AmbientFeatures]:
    """Crossfade between the features that two windows have for the same steps."""
    n_steps = len(before.frames)
    share = ((np.arange(n_steps) + 0.5) / n_steps).astype(np.float32)[:, None]
    frames = before.frames * (1 - share) + after.frames * share
    for i in range(0, min(n_steps, n_most), FADE_STEPS):
        middle = min(1.0, (i + FADE_STEPS / 2) / n_steps)
        scalars = before.scalars * np.float32(1 - middle) + after.scalars * np.float32(middle)
        yield AmbientFeatures(frames[i : min(i + FADE_STEPS, n_most)], scalars)


def _heard_live(chunks: Iterable[Waveform], config: AmbientConfig) -> Iterator[AmbientFeatures]:
    """Features of live input since the last piece."""
    step = config.sample_rate / config.frame_rate
    heard = np.zeros(0, np.float32)  # from `origin` steps on
    origin = n_done = 0
    profile: AcousticProfile | None = None
    measured = 0
    for samples in _resampled(chunks, config.sample_rate):
        heard = np.concatenate([heard, samples])
        n_steps = origin + int(len(heard) / step + 1e-6)
        if n_steps == n_done or len(heard) < MIN_SECONDS * config.sample_rate:
            continue
        if profile is None or n_steps - measured >= REFRESH_SECONDS * config.frame_rate:
            n_old = max(0, int(len(heard) / step - LIVE_SECONDS * config.frame_rate))
            heard, origin, measured = heard[round(n_old * step) :], origin + n_old, n_steps
            profile = analyze(Waveform(heard[None], config.sample_rate))
        whole = heard[: round((n_steps - origin) * step)]
        features = ambient_features(Waveform(whole[None], config.sample_rate), profile, config)
        yield AmbientFeatures(features.frames[n_done - origin :], features.scalars)
        n_done = n_steps
    if n_done == 0:
        raise AudioError(f"The live input ended within {MIN_SECONDS} s; expected a room's sound.")


def _resampled(chunks: Iterable[Waveform], sample_rate: int) -> Iterator[FloatArray]:
    """Mono samples at `sample_rate`, as soon as they are final."""
    import soxr

    stream: soxr.ResampleStream | None = None
    rate = 0
    for chunk in chunks:
        if stream is None:
            rate = chunk.sample_rate
            stream = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality="LQ")
        if chunk.sample_rate != rate:
            raise AudioError(f"The live input went from {rate} to {chunk.sample_rate} Hz; expected one rate.")
        mono = chunk.mono().samples[0]
        yield mono if rate == sample_rate else stream.resample_chunk(mono)
    if stream is not None and rate != sample_rate:
        yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def embed_stream(
    signals: Iterable[Signals],
    embed: Callable[[Signals], tuple[Conditioning, Conditioning]],
    context: int,
    live: bool = False,
) -> Iterator[tuple[Conditioning, Conditioning]]:
    """Embeds a stream of signals, one row, piece by piece as soon as no later signal can change the embeddings.

    Args:
        embed: from signals to conditioning under them and under none of the room.
        context: how far an embedding depends on signals to either side, in codec frames.
        live: do not wait for what lies ahead: the newest signals are held in its place.

    Yields:
        Conditioning of the next frames. `frames [1, n, D]` are as on the whole sequence, but for rounding; `tokens` are
        of the newest signals.
    """
    known: Signals | None = None  # from `context` frames before the next to be given on
    n_given = 0  # of those, what was given
    for piece in chain(signals, (None,)):
        known = piece if known is None else known if piece is None else known.then(piece)
        if known is None:
            return
        n_awaited = 0 if piece is None else context
        n_ready = known.n_frames - (0 if live else n_awaited)
        if n_ready <= n_given:
            continue
        given, null = embed(known.held(n_awaited if live else 0))
        yield given.slice(n_given, n_ready), null.slice(n_given, n_ready)
        n_dropped = max(0, n_ready - context)
        known, n_given = known.slice(n_dropped, known.n_frames), n_ready - n_dropped
