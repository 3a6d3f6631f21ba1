"""Stems: the roles or parts of a score performed one by one in the same room, by the same seed, whose sum is the mix.

The model was taught whole pieces, so it plays a part that is alone about as loud as it plays all of them, and may
sound on where the part rests. So each stem is brought to the level that the sketch of the whole score gives its notes,
over a second or so, and is silent where they neither sound nor ring. Then it is placed in the room as all music is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from silent2music.arrays import DoubleArray, FloatArray
from silent2music.audio import LOSSY_SUFFIXES, Recorded, Recording, Waveform
from silent2music.config import DeliveryConfig, SamplingConfig
from silent2music.errors import ConfigError, DataError
from silent2music.export.batch import portable
from silent2music.export.delivery import delivered
from silent2music.export.space import Placement
from silent2music.processes import StepProgress
from silent2music.score import Score

if TYPE_CHECKING:
    from silent2music.listening import Measured
    from silent2music.model import Silent2Music
    from silent2music.writing import Blend

STEMS_BY = ("auto", "role", "part")
"""What a stem is: `auto` is a role where every part has one, and a part elsewhere."""

SMOOTHED_SECONDS = 1.0
"""Over which a stem's level is compared with what it is to be: its notes keep the shape that they were played with."""

MOST_LETTERS = 60
"""Of a stem's name: a file's has 255 bytes at most."""

MOST_GAIN_DB = 12.0
"""A stem is turned up by no more; turned down it may be to silence."""


def check_stems(by: str, out: Path) -> None:
    """Refuse stems by something else, and of a file that cannot be the sum of them.

    Raises:
        ConfigError: in one sentence.
    """
    if by not in STEMS_BY:
        raise ConfigError(f"Stems are asked for by '{by}'; expected one of {', '.join(STEMS_BY)}.")
    if out.suffix.lower() in LOSSY_SUFFIXES:
        raise ConfigError(
            f"{out.name} would be coded with losses, and then stems do not add up to it; choose .wav or .flac."
        )


def split(score: Score, by: str = "auto") -> dict[str, Score]:
    """The score of each stem by its name: a role, or an instrument, numbered where there are several of one name.

    Raises:
        DataError: if the score has no notes, or parts without a role and is to be split by roles.
    """
    sounding = [part for part in score.parts if len(part.pitches)]
    if not sounding:
        raise DataError(
            "The score has no notes, so there are no stems; expected at least one part that plays."
        )
    without = [part.name for part in sounding if not part.role]
    if by == "role" and without:
        raise DataError(
            f"The part '{without[0]}' has no role, as [bass] after its name would say; split the score by parts."
        )
    by_role = by == "role" or (by == "auto" and not without)
    groups: dict[str, list[Any]] = {}
    for part in sounding:
        own = " ".join((part.role if by_role else part.name).split())[:MOST_LETTERS] or "part"
        name, number = own, 1
        while not by_role and name in groups:
            number += 1
            name = f"{own} {number}"
        groups.setdefault(name, []).append(part)
    return {name: dataclasses.replace(score, parts=tuple(parts)) for name, parts in groups.items()}


def stem_path(out: Path, name: str) -> Path:
    """The place of a stem, beside the mix.

    Example:
        >>> stem_path(Path("idea.wav"), "slow strings").name
        'idea.slow-strings.wav'
    """
    safe = portable(Path(name.replace("/", "-").replace(" ", "-"))).name
    return out.with_name(f"{out.stem}.{safe}{out.suffix}")


def perform_stems(
    model: Silent2Music,
    room: Recorded | None,
    score: Score,
    scores: Sequence[Score],
    sampling: SamplingConfig,
    seconds: float,
    delivery: DeliveryConfig,
    where: Placement,
    *,
    measured: Measured | None = None,
    blend: Blend | None = None,
    controls: Mapping[str, Any] | None = None,
    progress: StepProgress | None = None,
) -> list[Recording]:
    """Play the scores of `split` one by one as `model.stream` does, each at the level that it has among all.

    Args:
        scores: those of each stem.
        seconds: length.
        delivery, where: as for `delivery.delivered`.
        measured, blend, controls: as for `model.stream`.
        progress: told of the codec frames of all stems.

    Returns:
        The stems as they are delivered, of one length, at the level that the model chose.
    """
    rate = model.codec.sample_rate
    played = []
    for index, own in enumerate(scores):

        def step(done: int, total: int, index: int = index) -> None:
            if progress is not None:
                progress(index * total + done, len(scores) * total)

        pieces = model.stream(
            room,
            sampling,
            seconds,
            score=own,
            measured=measured,
            blend=blend,
            progress=step,
            **(controls or {}),
        )
        played.append(on_disk(pieces))
    wanted = model.sketched_powers(room, score, scores, seconds, measured)
    frame_rate = model.config.ambient.frame_rate
    hop = rate / frame_rate
    powers = np.stack([powers_of(stem, hop, wanted.shape[1]) for stem in played])
    gains = level_gains(powers, wanted, frame_rate)
    return [
        on_disk(delivered(_levelled(stem, gain, hop), model.codec, delivery, where, sampling.seed, seconds))
        for stem, gain in zip(played, gains, strict=True)
    ]


def on_disk(pieces: Iterable[Waveform], folder: Path | None = None) -> Recording:
    """Pieces of sound joined, on disk if they are long: in a folder, by default the system's."""
    recording: Recording | None = None
    for piece in pieces:
        if recording is None:
            recording = Recording(piece.n_channels, piece.sample_rate, folder)
        recording.append(piece.samples)
    if recording is None:
        raise ConfigError("There is no music to write.")
    return recording


def powers_of(sound: Recording, hop: float, n_frames: int) -> DoubleArray:
    """Mean power `[n_frames]` of stretches of `hop` samples over all channels."""
    edges = np.rint(np.arange(n_frames + 1) * hop).astype(int)
    powers = np.zeros(n_frames)
    for index, (begin, end) in enumerate(pairwise(edges.tolist())):
        samples = sound.slice(begin, end)
        powers[index] = np.square(samples, dtype=np.float64).mean() if samples.size else 0.0
    return powers


def level_gains(played: DoubleArray, wanted: DoubleArray, frame_rate: float) -> DoubleArray:
    """Factors `[n, T]` that bring n sounds of powers `played` to powers that are proportional to `wanted`, `[n, T]`.

    Levels are compared over `SMOOTHED_SECONDS`. All sounds together keep their energy, but for what is silenced.
    """
    n_window = max(3, round(SMOOTHED_SECONDS * frame_rate) | 1)
    window = np.hanning(n_window + 2)[1:-1]
    smooth = [
        np.stack([np.convolve(row, window / window.sum(), "same") for row in powers])
        for powers in (played, wanted)
    ]
    sounding = smooth[1] > 0.0
    scale = smooth[0][sounding].sum() / max(smooth[1].sum(), 1e-30)
    ratio = scale * smooth[1] / np.maximum(smooth[0], 1e-20)
    return np.asarray(np.sqrt(np.minimum(ratio, 10.0 ** (MOST_GAIN_DB / 10.0))))


def _levelled(sound: Recording, gain: DoubleArray, hop: float) -> Iterator[Waveform]:
    """A sound times the gains of its codec frames, linear between their middles."""
    middles = (np.arange(len(gain)) + 0.5) * hop
    n_block = 10 * sound.sample_rate
    for begin in range(0, sound.n_samples, n_block):
        samples = sound.slice(begin, begin + n_block)
        curve: FloatArray = np.interp(np.arange(begin, begin + samples.shape[1]), middles, gain).astype(
            np.float32
        )
        yield Waveform(np.clip(samples * curve, -1.0, 1.0), sound.sample_rate)
