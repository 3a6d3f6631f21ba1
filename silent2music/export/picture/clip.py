"""A video clip: its frames, its timecode, and where its sound lies beside the picture. Read by PyAV, nothing decoded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from silent2music import audio
from silent2music.audio import MIN_SECONDS, Recorded, Recording
from silent2music.audio.decoding import check_file, stated_seconds
from silent2music.config import AmbientConfig
from silent2music.errors import AudioError, require

ALIGNED_SECONDS = 0.001
"""Sound that begins so near to the picture begins with it."""

LOST_SECONDS = 0.5
"""Of a picture whose frames nobody counted, so much may be missing at the end of what it says."""

SILENT_BLOCK = 2**20


@dataclass(frozen=True)
class Clip:
    """What is known of a clip.

    Attributes:
        path: of its file.
        rate: frames a second, on average.
        begin: when the first frame is shown, on the file's own time axis, in seconds.
        shown_seconds: `[n]` when each frame is shown, after the first.
        seconds: length of the picture, to the end of its last frame.
        timecode: of the first frame; empty where the file has none.
        sound_begin: when the sound begins, in seconds after the picture; None without sound.
    """

    path: Path
    rate: Fraction
    begin: Fraction
    shown_seconds: tuple[float, ...]
    seconds: Fraction
    timecode: str
    sound_begin: float | None

    @property
    def n_frames(self) -> int:
        """How many frames are shown."""
        return len(self.shown_seconds)

    @property
    def is_variable(self) -> bool:
        """Whether some frames are shown for longer than others."""
        lengths = np.diff(self.shown_seconds)
        return bool(len(lengths)) and float(lengths.max() - lengths.min()) > 0.25 / float(self.rate)

    def shows(self, other: Clip) -> bool:
        """Whether another clip has as many frames and, to less than half a frame, the same length."""
        return self.n_frames == other.n_frames and abs(self.seconds - other.seconds) < 1 / (2 * self.rate)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A clip's PyAV container; what fails in this block because of the clip is told in a sentence.

    Raises:
        AudioError: if it is no clip, or damaged.
    """
    av = require("av", "video")
    check_file(path, "a video clip")
    try:
        with av.open(str(path)) as container:
            yield container
    except av.FFmpegError as error:
        raise AudioError(
            f"{path} cannot be read as a video clip ({error.strerror}); export it again."
        ) from error


def picture(container: Any, path: Path) -> Any:
    """The stream of a clip's picture; a cover of sound is none.

    Raises:
        AudioError: if there is none.
    """
    import av

    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        raise AudioError(
            f"{path} has no picture; expected a video clip: of sound alone make music by s2m infer."
        )
    return streams[0]


def packets(container: Any, stream: Any) -> Iterator[Any]:
    """The packets of one stream; the last that PyAV gives is empty."""
    return (packet for packet in container.demux(stream) if packet.size)


def inspect(path: Path, track: int = 0) -> Clip:
    """Look at a clip without decoding its picture.

    Args:
        track: which of its sound tracks is meant, from 0.

    Raises:
        AudioError: if it is no clip or damaged, too short, or has no such track.
    """
    with opened(path) as container:
        stream = picture(container, path)
        n_packets, spans = 0, []
        for packet in packets(container, stream):
            n_packets += 1
            at = packet.dts if packet.pts is None else packet.pts
            if at is not None and not packet.is_discard:
                spans.append((at, packet.duration or 0))
        base, spans = stream.time_base, sorted(spans)
        if len(spans) < 2:
            raise AudioError(f"{path} holds {len(spans)} frames; expected a video clip, export it again.")
        times = np.array([pts for pts, _ in spans])
        (last, length), usual = spans[-1], int(np.median(np.diff(times)))
        seconds = Fraction(last - times[0].item() + (length or usual)) * base
        promised = stated_seconds(stream)
        if n_packets < stream.frames or promised - float(seconds) > max(LOST_SECONDS, 0.02 * promised):
            raise AudioError(
                f"{path} is damaged: its picture ends after {float(seconds):.2f} of {promised:.2f} s; export it again."
            )
        begin, code = times[0].item() * base, _timecode(container, stream)
        rate = stream.average_rate or len(spans) / seconds
    if seconds < MIN_SECONDS:
        raise AudioError(f"{path} lasts {float(seconds):.2f} s; expected a clip of at least {MIN_SECONDS} s.")
    shown = tuple(((times - times[0]) * float(base)).tolist())
    return Clip(path, Fraction(rate), begin, shown, seconds, code, _sound_begin(path, track, begin))


def _timecode(container: Any, stream: Any) -> str:
    """The timecode that a file gives its first frame."""
    for metadata in (stream.metadata, container.metadata, *(s.metadata for s in container.streams)):
        for name, value in metadata.items():
            if name.lower() == "timecode":
                return str(value)
    return ""


def _sound_begin(path: Path, track: int, begin: Fraction) -> float | None:
    """When the first sample that is played lies after the first frame."""
    with opened(path) as container:
        streams = container.streams.audio
        if not streams:
            return None
        if track >= len(streams):
            raise AudioError(f"{path} has {len(streams)} sound tracks; there is no track {track + 1}.")
        for frame in container.decode(streams[track]):
            return 0.0 if frame.time is None else frame.time - float(begin)
    return None


def silence(clip: Clip) -> Recorded:
    """A room of digital silence, as long as a clip."""
    rate = AmbientConfig().sample_rate
    room, n_left = Recording(1, rate), round(clip.seconds * rate)
    while n_left:
        n = min(n_left, SILENT_BLOCK)
        room.append(np.zeros((1, n), np.float32))
        n_left -= n
    return room.whole() if room.seconds <= audio.WHOLE_SECONDS else room


def room_of(clip: Clip, reading: dict[str, Any]) -> Recorded:
    """What is heard of a clip's sound from its first frame on; what lacks before the sound begins is silence.

    Args:
        clip: with sound.
    """
    room = audio.open_recording(clip.path, **reading)
    offset = clip.sound_begin or 0.0
    if abs(offset) < ALIGNED_SECONDS:
        return room
    n_offset = round(offset * room.sample_rate)
    if room.n_samples + n_offset < MIN_SECONDS * room.sample_rate:
        raise AudioError(f"{clip.path} has its sound beside its picture, not with it; export it again.")
    aligned = Recording(1, room.sample_rate)
    aligned.append(np.zeros((1, max(0, n_offset)), np.float32))
    for start in range(max(0, -n_offset), room.n_samples, SILENT_BLOCK):
        aligned.append(room.slice(start, start + SILENT_BLOCK))
    aligned.notes, aligned.recorded_channels = room.notes, room.recorded_channels
    return aligned.whole() if aligned.seconds <= audio.WHOLE_SECONDS else aligned
