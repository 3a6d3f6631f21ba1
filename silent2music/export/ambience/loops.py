"""Seamless loops: two laps in the token loop, the end of the second written so that it leads into its beginning.

```
lap 1                    lap 2                            the circle           the file
|---------------|--------|---------======|--------|--     |------------======|  |--======|------------|
                fold               tail  one lap later    fold           tail  start  fold
```

The room's lap is repeated, so that the conditioning is periodic, and the model writes two laps of it. A lap's
worth of tokens is taken from where the second lap is most like the first and nothing is struck: the fold. Its last
second, the tail, is written several times; those are tried first after which the model finds the loop's own beginning
likeliest: sampling from the past, weighted by the future. The wave is closed on the circle, and what will be heard of
it is measured; a fold that is heard gives way to the next ending, and at last to the next fold. Each loop of a set has
a fold of its own. The circle is then turned so that all begin at the same place of the room's lap, on a beat where
there is a pulse, chosen so that the file's ends meet where nothing stands out either.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from silent2music.acoustics import AcousticProfile, analyze
from silent2music.arrays import DoubleArray, FloatArray, IntArray
from silent2music.audio import Waveform
from silent2music.config import SamplingConfig
from silent2music.decoder import Conditioning
from silent2music.export.ambience.circle import circular_sound
from silent2music.export.ambience.grid import Grid
from silent2music.export.ambience.lap import Layer, steered
from silent2music.export.ambience.seam import prominences, remarkable, stands_out, strongest_near
from silent2music.filters import mel_filters
from silent2music.listening import listen_whole
from silent2music.phase import stft
from silent2music.sampling import generate_codes

if TYPE_CHECKING:
    from silent2music.model import Silent2Music

CONTEXT_SECONDS = 4.0
"""What is heard before the tail when the tail is written anew."""

TAIL_SECONDS = 1.0
HEAD_SECONDS = 1.0
LIKENESS_SECONDS = 0.5
"""Around a place, to compare it with the same place a lap later."""

MAX_FOLDS = 5
"""Places to fold a loop at, tried one after the other until one is not heard."""
MAX_TAILS = 3
"""Endings that are listened to at one fold."""
MAX_STARTS = 6
"""Places for a set of loops to begin at, tried one after the other until none is heard."""

Hear = Callable[[FloatArray], Iterable[FloatArray]]
"""From sound `[N]` at the codec's rate to all that is heard of it, `[M]` each at the rate of the files."""


@dataclass(frozen=True)
class Take:
    """Two laps of music by one layer, before a lap is cut out of them.

    Attributes:
        conditioning: periodic, `frames [1, S, D]` with S steps for three laps.
        null: the same for no room.
        codes: `[V, K, 2 n_frames + margin]`, a row for each variation.
        sounds: `[V, N]`, the codes decoded.
        sampling: with the guidance that they were drawn with.
        seeds: one for each row.
    """

    conditioning: Conditioning
    null: Conditioning
    codes: Tensor
    sounds: FloatArray
    sampling: SamplingConfig
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Loop:
    """A closed lap at the codec's rate.

    Attributes:
        samples: `[N]`; its end leads into its beginning.
        seed: that its take was drawn from.
        fold: where its own end was folded onto its beginning, as a share of the lap.
        head_nll: nats a token at which the model finds what follows the fold after the tail that was chosen.
        natural_nll: the same after the tail that it would have gone on with.
        onset_before: the onset that the music had at the file's beginning before the loop was made, as `seam.Seam`
            has it.
        fold_onset_before: the same at the fold.
        stands_out: by how much its fold or its ends are unlike other places, 0 if they are not.
    """

    samples: FloatArray
    seed: int
    fold: float
    head_nll: float
    natural_nll: float
    onset_before: float
    fold_onset_before: float
    stands_out: float


@dataclass(frozen=True)
class _Circle:
    """A closed lap of one row of a take, before it is known where the file begins.

    Attributes:
        samples: `[N]` from the fold on.
        seed: of the row.
        fold: codec frame of the take.
        head_nll, natural_nll, stands_out: as `Loop` has it, of the fold alone.
    """

    samples: FloatArray
    seed: int
    fold: int
    head_nll: float
    natural_nll: float
    stands_out: float


@dataclass(frozen=True)
class _Music:
    """What is heard of a row of a take.

    Attributes:
        sound: `[M]` at the rate of the files.
        onsets: their prominences.
        grid: the lap.
    """

    sound: FloatArray
    onsets: DoubleArray
    grid: Grid

    def at(self, frames: IntArray) -> IntArray:
        """The samples of codec frames."""
        return np.round(frames / self.grid.n_frames * self.grid.n_samples).astype(np.int64)

    def onset_at(self, frame: int) -> float:
        """The strongest onset near a codec frame, as `seam.Seam` has it."""
        at = self.at(np.array([frame]))
        return round(float(strongest_near(self.onsets, self.grid.sample_rate, at)[0]), 4)


def write_take(
    model: Silent2Music,
    lap: Waveform,
    grid: Grid,
    layer: Layer,
    sampling: SamplingConfig,
    seeds: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
) -> Take:
    """Let the model write two laps, the second in the light of the first.

    Args:
        model: in evaluation mode.
        lap: of the room, as `lap.room_lap` makes it.
        grid: the lap's length.
        layer: how the room is heard; multiplies the guidance.
        sampling: how tokens are drawn.
        seeds: one for each variation.
        progress: called with codec frames done and codec frames in all.
    """
    profile = analyze(_laps(lap, 3))
    first = _first_lap(profile, lap.seconds)
    room = _laps(steered(lap, first, layer), 3)
    guidance = cast(float, model.resolved(sampling).guidance)
    sampling = dataclasses.replace(sampling, guidance=guidance * layer.guidance)
    with torch.inference_mode():
        signals = listen_whole(room, room.seconds, model.config).to(model.device)
        conditioning, null = model.steer(signals)
        n_frames = 2 * grid.n_frames + _steps(LIKENESS_SECONDS, grid)
        given, without = (c.slice(0, n_frames).expand(len(seeds)) for c in (conditioning, null))
        codes = generate_codes(model.packed_decoder(), given, without, sampling, seeds, progress)
        sounds = torch.cat([model.codec.decode(row[None])[:, 0] for row in codes])
    return Take(conditioning, null, codes, sounds.cpu().numpy(), sampling, tuple(seeds))


@torch.inference_mode()
def close_set(
    model: Silent2Music, takes: Sequence[Take], grid: Grid, n_candidates: int, hear: Hear
) -> list[list[Loop]]:
    """The loops of all takes of a set, one for each variation, that begin at the same place of the lap.

    Args:
        model: that wrote the takes.
        takes: two laps each, on one grid.
        grid: the lap's length.
        n_candidates: tails to write for each fold, the natural one apart.
        hear: what will be heard of a closed lap, by which it is judged.
    """
    rows = [(take, row, _music(sound, grid, hear)) for take in takes for row, sound in enumerate(take.sounds)]
    circles = [_close(model, take, row, music, grid, n_candidates, hear) for take, row, music in rows]
    best: list[Loop] = []
    for start in _choose_starts(circles, grid, hear)[:MAX_STARTS]:
        loops = [
            _begun_at(start, circle, music, grid, hear)
            for circle, (_, _, music) in zip(circles, rows, strict=True)
        ]
        if not best or _worst(loops) < _worst(best):
            best = loops
        if _worst(best) == 0:
            break
    found = iter(best)
    return [[next(found) for _ in take.sounds] for take in takes]


def _worst(loops: Sequence[Loop]) -> float:
    return max(loop.stands_out for loop in loops)


def _music(sound: FloatArray, grid: Grid, hear: Hear) -> _Music:
    heard = next(iter(hear(sound)))
    return _Music(heard, prominences(heard, grid.sample_rate), grid)


def _choose_folds(sound: FloatArray, music: _Music, codec_rate: int) -> list[int]:
    """Codec frames to fold a take `[N]` at, the best first: a lap later is like it, and nothing stands out.

    The model has the first half of the first lap to find in.
    """
    grid = music.grid
    margin = _steps(LIKENESS_SECONDS, grid)
    frames = np.arange(max(margin, grid.n_frames // 2), grid.n_frames + 1)
    bands = _bands(sound, codec_rate, grid.frame_rate)
    change = np.linalg.norm(bands[grid.n_frames :] - bands[: len(bands) - grid.n_frames], axis=1)
    smooth = np.convolve(change, np.ones(2 * margin + 1) / (2 * margin + 1), "same")
    costs = smooth[frames] / max(float(np.median(smooth)), 1e-9)
    costs += 2.0 * remarkable(music.sound, grid.sample_rate, music.at(frames))
    return _apart(frames, costs, margin // 2)


def _apart(frames: IntArray, costs: DoubleArray, least: int) -> list[int]:
    """Frames by rising cost, those left out that are nearer than `least` to one before."""
    chosen: list[int] = []
    for frame in frames[np.argsort(costs, kind="stable")].tolist():
        if all(abs(frame - other) >= least for other in chosen):
            chosen.append(frame)
    return chosen


def _close(
    model: Silent2Music, take: Take, row: int, music: _Music, grid: Grid, n_candidates: int, hear: Hear
) -> _Circle:
    """Close the lap of one variation at the first of its folds that is not heard, or the one that is least."""
    found: list[_Circle] = []
    for fold in _choose_folds(take.sounds[row], music, model.codec.sample_rate)[:MAX_FOLDS]:
        lap, tails, heads = _write_tails(model, take, row, grid, fold, n_candidates)
        nll = [round(head, 4) for head in heads.tolist()]
        for i in heads.argsort()[:MAX_TAILS].tolist():
            samples = circular_sound(model, torch.cat([lap[:, : -tails.shape[2]], tails[i]], dim=1))
            # Turned by half a lap, so that the fold is not where a lossy file ends.
            turned = hear(np.roll(samples, len(samples) // 2))
            out = stands_out(turned, grid.sample_rate, 0.5, music.onset_at(fold))
            found.append(_Circle(samples, take.seeds[row], fold, nll[i], nll[0], out))
            if out == 0:
                return found[-1]
    return min(found, key=lambda circle: circle.stands_out)


def _write_tails(
    model: Silent2Music, take: Take, row: int, grid: Grid, fold: int, n_candidates: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Tails for the lap of one row that begins at a fold.

    Returns:
        The lap `[K, n_frames]`, tails `[1 + n_candidates, K, w]`, the natural one first, and `[1 + n_candidates]` nats
        a token at which the lap's beginning follows them.
    """
    n_tail = _steps(TAIL_SECONDS, grid)
    n_context = min(round(CONTEXT_SECONDS * grid.frame_rate), grid.n_frames - n_tail)
    first = fold + grid.n_frames - n_tail - n_context
    lap = take.codes[row, :, fold : fold + grid.n_frames]
    context = take.codes[row, :, first : first + n_context]
    until = first + n_context + n_tail
    given, without = (c.slice(first, until).expand(n_candidates) for c in (take.conditioning, take.null))
    seeds = [take.seeds[row] + 1 + i for i in range(n_candidates)]
    prefix = context.expand(n_candidates, -1, -1)
    written = generate_codes(model.packed_decoder(), given, without, take.sampling, seeds, prefix=prefix)
    tails = torch.cat([lap[None, :, -n_tail:], written[:, :, n_context:]])
    heads = _head_nll(model, take.conditioning, first, context, tails, lap[:, : _steps(HEAD_SECONDS, grid)])
    return lap, tails, heads


def _choose_starts(circles: Sequence[_Circle], grid: Grid, hear: Hear) -> list[int]:
    """Codec frames of the lap at which all loops of a set may begin, the best first: nothing stands out there.

    With a pulse it is a beat, and the loop's bars begin with it: the room tells beats, not which of them is the
    first of a bar. Otherwise it is any frame.
    """
    starts = np.array(grid.beat_frames if grid.bars else range(grid.n_frames))
    costs = np.zeros(len(starts))
    for circle in circles:
        heard = next(iter(hear(circle.samples)))
        at = (starts - circle.fold) % grid.n_frames / grid.n_frames * len(heard)
        found = remarkable(np.tile(heard, 3), grid.sample_rate, np.round(at + len(heard)).astype(np.int64))
        costs = np.maximum(costs, found)
    return _apart(starts, costs, 1 if grid.bars else _steps(LIKENESS_SECONDS, grid) // 2)


def _begun_at(start: int, circle: _Circle, music: _Music, grid: Grid, hear: Hear) -> Loop:
    """The loop that begins at a codec frame of the lap."""
    offset = (start - circle.fold) % grid.n_frames
    samples = np.roll(circle.samples, -round(offset / grid.n_frames * len(circle.samples)))
    fold = (-offset % grid.n_frames) / grid.n_frames
    before, fold_before = music.onset_at(circle.fold + offset), music.onset_at(circle.fold)
    heard = list(hear(samples))
    out = stands_out(heard, grid.sample_rate, 0.0, before)
    out += stands_out(heard, grid.sample_rate, fold, fold_before) if fold > 0 else 0.0
    return Loop(samples, circle.seed, fold, circle.head_nll, circle.natural_nll, before, fold_before, out)


def _head_nll(
    model: Silent2Music, conditioning: Conditioning, first: int, context: Tensor, tails: Tensor, head: Tensor
) -> Tensor:
    """Nats a token `[R]` at which the head `[K, h]` follows each of the tails `[R, K, w]` after `[K, c]`."""
    n_rows, n_codebooks, _ = tails.shape
    codes = torch.cat([context.expand(n_rows, -1, -1), tails, head.expand(n_rows, -1, -1)], dim=2)
    n_frames, n_before = codes.shape[2], codes.shape[2] - head.shape[1]
    grid = model.decoder.pattern.apply(codes)
    logits = model.decoder(grid, conditioning.slice(first, first + n_frames).expand(n_rows))
    nll = torch.stack(
        [
            torch.nn.functional.cross_entropy(
                logits[:, k, n_before + k : n_frames + k].flatten(0, 1).float(),
                codes[:, k, n_before:].flatten(),
                reduction="none",
            ).view(n_rows, -1)
            for k in range(n_codebooks)
        ]
    )
    return nll.mean(dim=(0, 2))


def _laps(lap: Waveform, n: int) -> Waveform:
    return Waveform(np.tile(lap.samples, (1, n)), lap.sample_rate)


def _first_lap(profile: AcousticProfile, seconds: float) -> AcousticProfile:
    """The profile with the events of the middle lap alone, counted from its beginning."""
    events = tuple(
        dataclasses.replace(e, seconds=e.seconds - seconds)
        for e in profile.events
        if seconds <= e.seconds < 2 * seconds
    )
    return dataclasses.replace(profile, events=events)


def _steps(seconds: float, grid: Grid) -> int:
    """Codec frames, at most a quarter of a lap."""
    return max(1, min(round(seconds * grid.frame_rate), grid.n_frames // 4))


def _bands(sound: FloatArray, sample_rate: int, frame_rate: float) -> DoubleArray:
    """Compressed magnitudes in 32 mel bands, `[T, 32]`, one for each codec frame."""
    hop = round(sample_rate / frame_rate)
    spectrum = stft(torch.from_numpy(sound), 2 * hop, hop).abs().numpy()
    filters = mel_filters(sample_rate, 2 * hop, 32, low_hz=40.0, no_empty=True).astype(np.float32)
    return np.asarray((spectrum @ filters.T) ** 0.4, dtype=np.float64)
