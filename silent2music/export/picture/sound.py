"""The sound of a scored clip: the clip's own under the music, muxed with its picture; and the music as Broadcast Wave.

The picture's packets are copied as they are. Times are the picture's: it begins at zero, and so does the sound.
"""

from __future__ import annotations

import hashlib
import shutil
import struct
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from silent2music import audio
from silent2music.arrays import DoubleArray, FloatArray
from silent2music.audio import Recording, Waveform
from silent2music.audio.decoding import decoding
from silent2music.audio.formats import AAC_BIT_RATE
from silent2music.errors import AudioError
from silent2music.export.delivery import resampled
from silent2music.export.levelling import limited_blocks
from silent2music.export.picture.clip import Clip, opened, packets, picture
from silent2music.export.provenance import SOFTWARE
from silent2music.export.riff import chunk, cue_chunks
from silent2music.export.space import LAYOUT_AZIMUTHS
from silent2music.processes import StepProgress
from silent2music.score import Cue

SOUND_CODECS = {".mp4": "aac", ".m4v": "aac", ".mov": "pcm_s24le", ".mkv": "pcm_s24le"}
"""What a clip can be written as, by suffix, with the coding of its sound."""

DUCK_DB = -12.0
"""Music goes down by this where someone speaks."""

DUCK_SECONDS, RELEASE_SECONDS = 0.2, 0.6
"""How long it takes to go down, before the first word, and to come back after the last."""

BLOCK = 2**14


def mixed(
    music: Path, sample_rate: int, under: Recording | None, ducked: DoubleArray, under_db: float
) -> Recording:
    """The music over a clip's own sound.

    Args:
        music: a file of `audio.write`, `[2, N]`.
        under: `[2, M]` at that rate; None for the music alone.
        ducked: `[2, n]` times in seconds and the share, 0 to 1, to which the music is down then; straight in between.
        under_db: gain of the clip's sound. Where the music is down, the sound has its own level, if that is louder.
    """
    mix = Recording(2, sample_rate)
    for block in audio.read_blocks(music, BLOCK):
        start, n = mix.n_samples, block.shape[1]
        share = np.interp((start + np.arange(n)) / sample_rate, *ducked)
        block = block * db_to_gains(DUCK_DB * share)
        if under is not None:
            own = under.slice(start, start + n)
            gain_db = under_db + share * max(0.0, -under_db)
            block[:, : own.shape[1]] += own * db_to_gains(gain_db)[: own.shape[1]]
        mix.append(block)
    return mix


def db_to_gains(db: Any) -> FloatArray:
    """Factors of gains in dB."""
    return np.asarray(10.0 ** (db / 20.0), np.float32)


def envelope(spans: Sequence[tuple[float, float]]) -> DoubleArray:
    """`[2, n]` times and shares of ducking, for `mixed`, of the spans in which someone speaks; they may be none."""
    joined: list[list[float]] = []
    for begin, end in spans:
        if joined and begin - joined[-1][1] < DUCK_SECONDS + RELEASE_SECONDS:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([begin, end])
    points = [(-1.0, 0.0)]
    for begin, end in joined:
        points += [(begin - DUCK_SECONDS, 0.0), (begin, 1.0), (end, 1.0), (end + RELEASE_SECONDS, 0.0)]
    return np.array(points).T


def own_sound(clip: Clip, track: int, channel: int | None, sample_rate: int) -> Recording:
    """A clip's sound as stereo `[2, N]`, beginning with its picture.

    Surround is folded down by ITU-R BS.775: centre and surrounds at -3 dB, without the LFE.
    """
    with decoding(clip.path, track) as source:
        fold = fold_gains(source.n_channels) if channel is None else np.eye(source.n_channels)[[channel] * 2]
        pieces = (Waveform((fold @ block).astype(np.float32), source.sample_rate) for block in source)
        sound, offset = Recording(2, sample_rate), round((clip.sound_begin or 0.0) * sample_rate)
        sound.append(np.zeros((2, max(0, offset)), np.float32))
        n_skipped = max(0, -offset)
        for piece in resampled(pieces, sample_rate):
            sound.append(piece.samples[:, n_skipped:])
            n_skipped = max(0, n_skipped - piece.n_samples)
    return sound


def fold_gains(n_channels: int) -> FloatArray:
    """`[2, C]` gains of the usual layouts' channels in left and right; of unknown ones their mean."""
    azimuths = LAYOUT_AZIMUTHS.get(n_channels)
    if azimuths is None:
        return np.full((2, n_channels), 1.0 / n_channels, np.float32)
    if n_channels == 1:
        return np.ones((2, 1), np.float32)
    gains = np.zeros((2, n_channels), np.float32)
    for i, azimuth in enumerate(azimuths):
        if azimuth is not None:
            gain = 1.0 if 0 < abs(azimuth) <= 45 else np.sqrt(0.5)
            gains[0, i], gains[1, i] = gain * (azimuth >= 0), gain * (azimuth <= 0)
    return gains


def mux(clip: Clip, out: Path, mix: Recording, true_peak: float, progress: StepProgress | None = None) -> str:
    """Write a clip's picture, as it is, with another sound.

    Chapters and all that the file says of itself are kept; rotation and timecode among them.

    Args:
        clip: that is scored.
        out: written with a suffix of `SOUND_CODECS`.
        mix: `[2, N]`, limited where it is written.
        true_peak: limit in dBTP.

    Returns:
        SHA-256 of the packets' bytes, in order.

    Raises:
        AudioError: if the picture's coding does not go into such a file, or it cannot be written.
    """
    import av

    digest = hashlib.sha256()
    with opened(clip.path) as source:
        stream = picture(source, clip.path)
        options = _options(source, out.suffix, mix.sample_rate)
        try:
            with av.open(str(out), "w", options=options) as target:
                copy = target.add_stream_from_template(stream, opaque=True)
                copy.metadata.update(stream.metadata)
                target.metadata.update(source.metadata)
                target.set_chapters(source.chapters())
                sound = _encoded(target, SOUND_CODECS[out.suffix.lower()], mix, true_peak)
                first, seconds = round(clip.begin / stream.time_base), 0.0
                for number, packet in enumerate(packets(source, stream), 1):
                    digest.update(bytes(packet))
                    for time in ("pts", "dts"):
                        if getattr(packet, time) is not None:
                            setattr(packet, time, getattr(packet, time) - first)
                    if packet.dts is not None:
                        seconds = float(packet.dts * stream.time_base)
                    packet.stream = copy
                    for packets_of_sound in sound:
                        target.mux(packets_of_sound)
                        if (
                            packets_of_sound
                            and packets_of_sound[-1].dts * packets_of_sound[-1].time_base > seconds
                        ):
                            break
                    target.mux(packet)
                    if progress is not None:
                        progress(min(number, clip.n_frames), clip.n_frames)
                for packets_of_sound in sound:
                    target.mux(packets_of_sound)
        except (av.FFmpegError, ValueError, OSError) as error:
            raise AudioError(
                f"{clip.path} cannot be written as {out.suffix} ({error}); choose another of "
                f"{', '.join(SOUND_CODECS)}, or is the disk full?"
            ) from error
    return digest.hexdigest()


def _options(source: Any, suffix: str, sample_rate: int) -> dict[str, str]:
    """How a file is written: nothing of the time of writing, lengths to the sample, and all that a camera said."""
    options = {"fflags": "+bitexact"}
    if suffix != ".mkv":
        options["movie_timescale"] = str(sample_rate)
        if any(name.startswith("com.") for name in source.metadata):
            options["movflags"] = "use_metadata_tags"
    return options


def _encoded(target: Any, codec: str, mix: Recording, true_peak: float) -> Iterator[list[Any]]:
    """Packets of the sound, coded as they are asked for."""
    import av

    stream = target.add_stream(codec, rate=mix.sample_rate, layout="stereo")
    if codec == "aac":
        stream.bit_rate = 2 * AAC_BIT_RATE
    form = "fltp" if codec == "aac" else "s32"

    def coded() -> Iterator[list[Any]]:
        n_samples = 0
        for samples in limited_blocks(mix, 1.0, true_peak):
            for start in range(0, samples.shape[1], BLOCK):
                block: Any = np.ascontiguousarray(samples[:, start : start + BLOCK], np.float32)
                if form == "s32":
                    block = np.rint(block.T.astype(np.float64) * 2**31).clip(-(2**31), 2**31 - 1)
                    block = block.astype(np.int32).reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(block, format=form, layout="stereo")
                frame.sample_rate, frame.pts = mix.sample_rate, n_samples
                n_samples += frame.samples
                yield stream.encode(frame)
        yield stream.encode(None)

    return coded()


def write_broadcast(
    source: Path,
    target: Path,
    cues: Sequence[Cue],
    start_seconds: Fraction | None,
    lufs: float | None = None,
    peak_dbtp: float | None = None,
) -> None:
    """Copy a WAV file with its cues as cue points and, if its time is known, a `bext` chunk (EBU Tech 3285, version 2).

    Args:
        source, target: paths.
        cues: ascending.
        start_seconds: from midnight to its first sample; None where nobody knows.
        lufs: its integrated loudness, None for silence or if not known.
        peak_dbtp: its true peak, None if not known.

    Raises:
        AudioError: if it cannot be written.
    """
    try:
        with source.open("rb") as file, target.open("wb") as copy:
            head = file.read(36)
            (rate,) = struct.unpack("<I", head[24:28])
            chunks = cue_chunks([round(cue.seconds * rate) for cue in cues], [cue.name for cue in cues])
            if start_seconds is not None:
                chunks = _broadcast_chunk(round(start_seconds * rate), lufs, peak_dbtp) + chunks
            copy.write(head[:4] + struct.pack("<I", source.stat().st_size - 8 + len(chunks)) + head[8:12])
            copy.write(chunks + head[12:])
            shutil.copyfileobj(file, copy, BLOCK)
    except OSError as error:
        raise AudioError(f"{target} cannot be written ({error.strerror}); is the disk full?") from error


def _broadcast_chunk(reference: int, lufs: float | None, peak_dbtp: float | None) -> bytes:
    """The `bext` chunk: where the first sample lies after midnight, and loudness. No date, since bytes tell no time."""
    unknown = 0x7FFF
    loudness = unknown if lufs is None else round(100 * lufs)
    peak = unknown if peak_dbtp is None else max(-32768, min(32766, round(100 * peak_dbtp)))
    body = struct.pack("<256s32s32s10s8s", b"", SOFTWARE.encode(), b"", b"", b"")
    body += struct.pack("<QH64s5h", reference, 2, b"", loudness, unknown, peak, unknown, unknown)
    return chunk(b"bext", body + bytes(180))
