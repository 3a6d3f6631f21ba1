"""Harvest pairs from recordings of performances: the room tone before the music, and the music.

Nearly every recording holds some near-silence: room tone before the first note, a quiet count-in, a pause
between movements. Each such stretch is real audio of the very room that the music then sounds in. It is paired
with the music that follows it, up to the next stretch.

The silent side is never attenuated, since its level is a signal: a stretch louder than the pair format allows is
refused. It is usually shorter than the music, so it is extended: excerpts of the stretch of
random place and length (60 to 100 % of it) are joined with equal-power crossfades, which keep the level of
noise. The excerpts are random because a plain loop would add a pulse to the room. The extension is limited
(`HarvestConfig.max_extension`); beyond it the music is cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from silent2music import audio
from silent2music.arrays import DoubleArray, FloatArray
from silent2music.audio import Waveform, level_curve_dbfs, rms_dbfs
from silent2music.config import HarvestConfig
from silent2music.data.pairs import MANIFEST, MAX_SILENT_DBFS, MIN_MUSIC_DBFS, Pair, write_pairs
from silent2music.errors import AudioError, DataError

BLOCK_SECONDS = 0.05
MIN_ROOM_DBFS = -95.0
"""Below this it is digital silence from an editor, not a room: 16-bit dither alone is louder."""

MAX_DRIFT_DB = 6.0
"""A stretch whose level moves more than this from its first to its last third is a tail or a fade."""

MAX_CLICK_SECONDS = 0.3
"""A louder moment this short inside a stretch (a tap, a breath) belongs to the room."""

CLICK_BELOW_MUSIC_DB = 12.0
PREROLL_SECONDS = 0.02


@dataclass(frozen=True)
class Stretch:
    """A near-silent passage and the music after it, in samples of a recording.

    Attributes:
        start, end: the near-silence.
        music_end: where the music that starts at `end` ends.
    """

    start: int
    end: int
    music_end: int


@dataclass(frozen=True)
class HarvestReport:
    """The pairs that were harvested, and the recordings that gave none.

    Attributes:
        pairs: the pairs written.
        refused: one sentence for each recording that gave none.
    """

    pairs: tuple[Pair, ...]
    refused: tuple[str, ...]


def harvest(
    recordings: Sequence[Path | str],
    out: Path | str,
    config: HarvestConfig | None = None,
    licence: str = "not stated",
    author: str = "not stated",
    progress: Callable[[int, int], None] | None = None,
) -> HarvestReport:
    """Make a pair folder from recordings of performances.

    A recording is in one split as a whole, chosen from its name and the seed. Both sides keep the recording's
    rate and channels (more than 8 are folded to mono) and have the same number of samples.

    Args:
        recordings: audio files, or folders that are searched for audio files.
        out: the pair folder to make; must not hold a manifest yet.

    Raises:
        DataError: if `out` holds pairs already or no recording gave any.
        AudioError: if a folder holds no audio or `out` cannot be written.
    """
    root, settings = Path(out), config or HarvestConfig()
    if (root / MANIFEST).exists():
        raise DataError(f"{root} holds a {MANIFEST} already; choose another folder.")
    files = [f for r in map(Path, recordings) for f in (audio.find_audio(r) if r.is_dir() else [r])]
    pairs: list[Pair] = []
    refused: list[str] = []
    for number, file in enumerate(files):
        try:
            pairs += _harvest_one(file, number, root, settings, licence, author)
        except (AudioError, DataError) as error:
            refused.append(str(error))
        if progress is not None:
            progress(number + 1, len(files))
    if not pairs:
        raise DataError(
            f"None of {len(files)} recordings gave a pair; the first: {(refused or ['none given'])[0]}"
        )
    write_pairs(root, pairs)
    return HarvestReport(tuple(pairs), tuple(refused))


def find_stretches(recording: Waveform, config: HarvestConfig | None = None) -> list[Stretch]:
    """Find near-silent passages of a recording that are followed by music.

    A block of 50 ms is near-silent if it is below -35 dBFS, `below_music_db` below the recording's loud level
    (95th percentile) and at most `above_floor_db` above its quietest half second. Moments of up to 0.3 s that
    are louder, yet well below the music, are accepted. A decay at the start of a stretch is
    the tail of the music before it and is cut off.

    Returns:
        Stretches in order of time; `music_end` is the start of the next near-silence as long, settled or not.
    """
    settings = config or HarvestConfig()
    block = max(1, round(BLOCK_SECONDS * recording.sample_rate))
    levels = level_curve_dbfs(recording.samples, block)
    loud = float(np.percentile(levels, 95))
    quiet = _near_silent(levels, loud, settings)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]]).astype(np.int8)))
    runs = [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
    shortest = round(settings.min_silence_seconds / BLOCK_SECONDS)
    runs = [(a, b) for a, b in runs if b - a >= shortest]
    stretches = []
    for position, (first, last) in enumerate(runs):
        first = _settled(levels, first, last)
        music_end = runs[position + 1][0] if position + 1 < len(runs) else len(levels)
        if last - first < shortest or not _steady(levels[first:last]):
            continue
        if (music_end - last) * BLOCK_SECONDS < settings.min_music_seconds:
            continue
        stretches.append(Stretch(first * block, last * block, min(music_end * block, recording.n_samples)))
    return stretches


def _near_silent(levels: DoubleArray, loud: float, settings: HarvestConfig) -> NDArray[np.bool_]:
    """Which blocks are near-silent, short clicks included."""
    from scipy.ndimage import binary_closing, uniform_filter1d

    room = levels[levels > MIN_ROOM_DBFS]
    if not len(room):
        return np.zeros(len(levels), bool)
    half_second = max(1, round(0.5 / BLOCK_SECONDS))
    floor = float(uniform_filter1d(room, half_second, mode="nearest").min())
    limit = min(MAX_SILENT_DBFS, loud - settings.below_music_db, floor + settings.above_floor_db)
    quiet = (levels <= limit) & (levels > MIN_ROOM_DBFS)
    closed = binary_closing(quiet, np.ones(round(MAX_CLICK_SECONDS / BLOCK_SECONDS) + 1, bool))
    return np.asarray(quiet | (closed & (levels <= loud - CLICK_BELOW_MUSIC_DB) & (levels > MIN_ROOM_DBFS)))


def _settled(levels: DoubleArray, first: int, last: int) -> int:
    """The first block of a run from which on the tail of earlier music is within 3 dB of the run's second half."""
    settled = float(np.median(levels[(first + last) // 2 : last])) + 3.0
    quarter = max(1, round(0.25 / BLOCK_SECONDS))
    while first < last and levels[first : first + quarter].mean() > settled:
        first += 1
    return first


def _steady(levels: DoubleArray) -> bool:
    """Whether a stretch keeps its level, as room tone does and a fade does not."""
    third = max(1, len(levels) // 3)
    return abs(float(np.median(levels[:third]) - np.median(levels[-third:]))) <= MAX_DRIFT_DB


def _harvest_one(
    file: Path, number: int, root: Path, settings: HarvestConfig, licence: str, author: str
) -> list[Pair]:
    """Write the pairs of one recording and return them; one that gives none is an error."""
    recording = audio.read(file)
    if recording.n_channels > 8:
        recording = recording.mono()
    name = f"{number:04d}-{file.stem}"
    digest = hashlib.sha256(f"{settings.seed}:{file.name}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    split = "validation" if rng.random() < settings.validation_share else "train"
    pairs: list[Pair] = []
    for stretch in find_stretches(recording, settings):
        sides = _sides(recording, stretch, settings, rng)
        if sides is None:
            continue
        silent, music = sides
        paths = [f"{side}/{name}-{len(pairs):03d}.flac" for side in ("silent", "music")]
        audio.write(root / paths[0], silent, force=True)
        audio.write(root / paths[1], music, force=True)
        labels = {
            "kind": "harvest",
            "level_dbfs": round(rms_dbfs(silent.samples), 2),
            "silence_seconds": [stretch.start / recording.sample_rate, stretch.end / recording.sample_rate],
            "sources": [{"path": file.name, "licence": licence, "author": author, "role": "recording"}],
        }
        pairs.append(Pair(paths[0], paths[1], split=split, labels=labels))
    if not pairs:
        raise DataError(
            f"{file} gave no pair; expected a near-silent stretch of at least "
            f"{settings.min_silence_seconds:g} s before music of at least {settings.min_music_seconds:g} s."
        )
    return pairs


def _sides(
    recording: Waveform, stretch: Stretch, settings: HarvestConfig, rng: np.random.Generator
) -> tuple[Waveform, Waveform] | None:
    """Both sides of a stretch, of equal length, or None if a level does not fit the pair format."""
    rate = recording.sample_rate
    margin = round(PREROLL_SECONDS * rate)
    # The first note's attack may begin inside the last quiet block: it belongs to the music.
    room = recording.samples[:, stretch.start : stretch.end - margin]
    longest = min(settings.max_seconds, settings.max_extension * room.shape[1] / rate)
    music = recording.samples[:, stretch.end - margin : stretch.music_end][:, : round(longest * rate)]
    if music.shape[1] < settings.min_music_seconds * rate or rms_dbfs(music) < MIN_MUSIC_DBFS:
        return None
    silent = extended(room, music.shape[1], round(settings.crossfade_seconds * rate), rng)
    if rms_dbfs(silent) > MAX_SILENT_DBFS:
        return None
    return Waveform(silent, rate), Waveform(music, rate)


def extended(room: FloatArray, n_samples: int, crossfade: int, rng: np.random.Generator) -> FloatArray:
    """Extend a short passage of room tone to any length.

    The stretch itself comes first and whole. Then follow excerpts of 60 to 100 % of it from random places,
    each laid over the end of what is there with an equal-power crossfade: `cos` and `sin` of a quarter turn,
    whose squares add to one, so uncorrelated noise keeps its power.

    Args:
        room: `[C, N]`, the stretch.
        crossfade: samples of overlap; at most a quarter of the stretch is used.

    Returns:
        `[C, n_samples]`.

    Example:
        >>> room = np.ones((1, 100), np.float32)
        >>> extended(room, 350, 10, np.random.default_rng(0)).shape
        (1, 350)
    """
    length = room.shape[1]
    overlap = max(1, min(crossfade, length // 4))
    turn = np.linspace(0.0, np.pi / 2, overlap, dtype=np.float32)
    out = np.zeros((room.shape[0], max(n_samples, length) + length), np.float32)
    out[:, :length] = room
    filled = length
    while filled < n_samples:
        size = int(rng.integers(round(0.6 * length), length + 1))
        start = int(rng.integers(0, length - size + 1))
        joint = filled - overlap
        out[:, joint:filled] *= np.cos(turn)
        excerpt = room[:, start : start + size].copy()
        excerpt[:, :overlap] *= np.sin(turn)
        out[:, joint : joint + size] += excerpt
        filled = joint + size
    return out[:, :n_samples]
