"""From the model's music to the sound of a file: its rate, its room, its length and its fades.

All steps are generators that take pieces of any length and give the same samples however the music is cut, so that a
stream and a file sound alike:

```
model's pieces -> at_rate -> space.placed -> faded -> levelling.write_music, or streaming.send
  24 kHz mono      48 kHz      stereo        exact length
```
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np

from silent2music import processes
from silent2music.acoustics import AcousticProfile
from silent2music.arrays import FloatArray
from silent2music.audio import Waveform
from silent2music.bandwidth import RATE as BAND_RATE
from silent2music.bandwidth import BandExtension
from silent2music.codec import Codec
from silent2music.config import DeliveryConfig
from silent2music.export.space import Placement, find_placement, placed
from silent2music.processes import each_on_one_thread, one_thread

LAP_MARGIN = BAND_RATE // 2
"""Samples of a lap before its beginning and after its end that its extension hears; it looks less far."""


def delivered(
    pieces: Iterable[Waveform],
    codec: Codec,
    config: DeliveryConfig,
    where: Placement,
    seed: int,
    seconds: float | None,
) -> Iterator[Waveform]:
    """The model's music as it is delivered, at the level that the model chose.

    Args:
        pieces: of music, `[1, n]` at the codec's rate.
        codec: that they were decoded by; it may have an extension of their band.
        where: the music stands, unless it is mono.
        seconds: length of the whole, which is then exact to a sample; None if it is not known.

    Yields:
        `[C, n]` at the rate asked for.
    """
    if processes.follower is not None and seconds is not None:
        soon = partial(delivered, codec=codec, config=config, where=where, seed=seed, seconds=None)
        pieces = processes.follower.music(pieces, soon)
    # What is heard at once is not kept waiting by an extension, which looks ahead by a second.
    sound = at_rate(pieces, None if seconds is None else codec.extension, config.sample_rate)
    if not config.mono and codec.channels == 1:
        sound = placed(sound, where, seed)
    n_samples = None if seconds is None else round(seconds * config.sample_rate)
    n_in, n_out = (round(fade * config.sample_rate) for fade in (config.fade_in, config.fade_out))
    return faded(sound, n_samples, n_in, n_out)


def in_front(profile: AcousticProfile | None = None) -> Placement:
    """Music in front of the listener, in the reverberation of a room, or of a plain one for live sound."""
    return find_placement(np.ones((1, 1)), profile, "speakers")


def at_rate(
    pieces: Iterable[Waveform], extension: BandExtension | None, sample_rate: int
) -> Iterator[Waveform]:
    """Music at another rate; above the codec's, by the extension of its band if there is one."""
    if extension is not None and sample_rate > BAND_RATE:
        pieces = each_on_one_thread(extension.extended_stream(pieces))
    return resampled(pieces, sample_rate)


def lap_at_rate(samples: FloatArray, extension: BandExtension | None, n_samples: int) -> FloatArray:
    """A closed lap `[N]` at the codec's rate as a closed lap of more samples: `at_rate` on the circle.

    The lap is extended between what lies before and after it in endless repetition, and resampled once.
    """
    import soxr

    if extension is not None and n_samples > len(samples):
        around = np.arange(-LAP_MARGIN, len(samples) + LAP_MARGIN) % len(samples)
        with one_thread():
            wide = extension.extended(Waveform(samples[around][None], BAND_RATE))
        samples = wide.samples[0, 2 * LAP_MARGIN : -2 * LAP_MARGIN]
    thrice = soxr.resample(np.tile(samples, 3), len(samples), n_samples, quality="VHQ")
    return np.asarray(thrice[n_samples : 2 * n_samples], dtype=np.float32)


def resampled(pieces: Iterable[Waveform], sample_rate: int) -> Iterator[Waveform]:
    """Pieces of one rate at another one (soxr, high quality), each as soon as it is final."""
    import soxr

    stream: soxr.ResampleStream | None = None
    for piece in pieces:
        if piece.sample_rate == sample_rate:
            yield piece
            continue
        if stream is None:
            stream = soxr.ResampleStream(
                piece.sample_rate, sample_rate, piece.n_channels, dtype="float32", quality="HQ"
            )
        samples = stream.resample_chunk(np.ascontiguousarray(piece.samples.T))
        if len(samples):
            yield Waveform(samples.T, sample_rate)
    if stream is not None:
        samples = stream.resample_chunk(np.zeros((0, piece.n_channels), np.float32), last=True)
        if len(samples):
            yield Waveform(samples.T, sample_rate)


def faded(
    pieces: Iterable[Waveform], n_samples: int | None, n_in: int = 0, n_out: int = 0
) -> Iterator[Waveform]:
    """Music of an exact length, faded in and out by raised cosines, so that it begins or ends at zero.

    Args:
        pieces: of music.
        n_samples: length of the whole: what is more is cut, what lacks is silence. None if nobody knows it; then the last
            `n_out` samples so far are always held back.
        n_in, n_out: samples of the fades.
    """
    held: FloatArray | None = None
    rate, begin = 0, 0

    def part(samples: FloatArray, end_of_all: int | None) -> Waveform:
        at = np.arange(begin, begin + samples.shape[1])
        gain = np.ones(len(at))
        if n_in and begin < n_in:
            gain *= 0.5 - 0.5 * np.cos(np.pi * np.minimum(1.0, at / n_in))
        if end_of_all is not None and n_out and begin + len(at) > end_of_all - n_out:
            gain *= 0.5 - 0.5 * np.cos(np.pi * np.minimum(1.0, (end_of_all - 1 - at) / n_out))
        return Waveform(samples * gain.astype(np.float32), rate)

    for piece in pieces:
        rate = piece.sample_rate
        held = piece.samples if held is None else np.concatenate([held, piece.samples], axis=1)
        if n_samples is not None:
            held = held[:, : n_samples - begin]
        n_ready = held.shape[1] - (n_out if n_samples is None else 0)
        if n_ready > 0:
            yield part(held[:, :n_ready], n_samples)
            begin, held = begin + n_ready, held[:, n_ready:]
    if held is None:
        return
    if n_samples is not None:
        held = np.pad(held, ((0, 0), (0, n_samples - begin - held.shape[1])))
    if held.shape[1]:
        yield part(held, begin + held.shape[1])
