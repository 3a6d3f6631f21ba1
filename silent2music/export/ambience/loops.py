"""Seamless loops: the model draws two laps of tokens, and a lap's end is drawn again to lead into its beginning.

```
lap 1                    lap 2                            the circle           the file
|---------------|--------|---------======|--------|--     |------------======|  |--======|------------|
                fold               tail  one lap later    fold           tail  start  fold
```

The room's lap is repeated, and so is a circular score if there is one, so that the conditioning is periodic, and the
model writes two laps of it: a take. A lap's
worth of tokens is taken from where the second lap is most like the first and nothing is struck: the fold. Its last
second, the tail, is written several times; those are tried first after which the model finds the loop's own beginning
likeliest: sampling from the past, weighted by the future. The wave is closed on the circle, and what will be heard of
it is measured; a fold that is heard gives way to the next ending, and at last to the next fold. Each loop of a set has
a fold of its own. The circle is then turned so that all begin at the same place of the room's lap, on a beat where
there is a pulse, chosen so that the file's ends meet where nothing stands out either.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from silent2music.arrays import DoubleArray, FloatArray
from silent2music.audio import Leveller, Waveform
from silent2music.audio.loudness import AHEAD_FRAMES, FRAME_SECONDS
from silent2music.codec import Codec
from silent2music.config import SamplingConfig
from silent2music.decoder import Conditioning
from silent2music.export.ambience.circle import is_struck, repeated_circle
from silent2music.export.ambience.lap import Grid, Layer, lap_events, repeated_lap, steered
from silent2music.export.ambience.seam import (
    percentiles_at,
    prominences,
    remarkable,
    stands_out,
    strongest_near,
)
from silent2music.filters import mel_filters
from silent2music.guide import Guide, sharpened
from silent2music.listening import listen_whole
from silent2music.phase import inverse_stft, stft
from silent2music.processes import one_thread
from silent2music.sampling import generate_codes
from silent2music.score import ENERGY_RATE_HZ, Score
from silent2music.sketch import sketch_score

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

AROUND_SECONDS = 12.0
"""Before and after a lap so much of it is decoded and measured again at most, as it comes round."""

SETTLED_SECONDS = 10.0
"""For so long a lap is levelled before the lap that is kept: its end then leads to its beginning within 0.1 dB."""

N_PROJECTIONS = 8
HOPS_PER_FRAME, OVERLAPS = 2, 4
RISE = 2.0
"""A bin that grows by more than this from one frame to the next is struck anew and brings its own phase."""

Hear = Callable[[FloatArray], Iterable[FloatArray]]
"""From sound `[N]` at the codec's rate to all that is heard of it, `[M]` each at the rate of the files."""


@dataclass(frozen=True)
class Take:
    """Two laps of music by one layer and one seed, before a lap is cut out of them.

    Attributes:
        conditioning: periodic, `frames [1, S, D]` with S steps for three laps.
        null: the same for no room.
        codes: `[K, 2 n_frames + margin]`.
        sound: `[N]`, the codes decoded, and levelled to the score.
        heard: `[M]`, what is heard of it, at the rate of the files.
        onsets: `[T]`, the prominences of what is heard.
        grid: the lap.
        sampling: with the guidance and the seed that they were drawn with.
        hear: what will be heard of it as a file.
        circle: the score that was played, if one was, whose strokes on bar lines are no faults.
    """

    conditioning: Conditioning
    null: Conditioning
    codes: Tensor
    sound: FloatArray
    heard: FloatArray
    onsets: DoubleArray
    grid: Grid
    sampling: SamplingConfig
    hear: Hear
    circle: Score | None = None

    def figures_at(self, frame: float) -> tuple[float, ...]:
        """What is usual there: the place's figures in the music before it is closed, as `seam.Seam` has them.

        Nothing without a score, where no place has to be a striking one.
        """
        return figures_of([self], frame) if self.circle is not None else ()

    def onset_at(self, frame: float) -> float:
        """The strongest onset near a codec frame, as `seam.Seam` has it."""
        at = self.grid.samples_of(np.array([frame]))
        return round(float(strongest_near(self.onsets, self.grid.sample_rate, at)[0]), 4)

    def is_struck_at(self, frame: float) -> bool:
        """Whether an onset near a codec frame is the music's own: it was there before, or a note begins there."""
        by_score = self.circle is not None and is_struck(
            self.circle, frame / self.grid.frame_rate, self.grid.lap_seconds
        )
        return by_score or self.onset_at(frame) > 0


def figures_of(takes: Sequence[Take], frame: float) -> tuple[float, ...]:
    """The figures, as `seam.Seam` has them, of a codec frame in what is heard of takes together before it is closed."""
    grid = takes[0].grid
    heard = np.sum([take.heard for take in takes], axis=0)
    begin = int(grid.samples_of(np.array([max(0, frame - grid.n_frames // 2)]))[0])
    lap = heard[begin : begin + grid.n_samples]
    return percentiles_at(lap, grid.sample_rate, int(grid.samples_of(np.array([frame]))[0]) - begin)


@dataclass(frozen=True)
class Loop:
    """A closed lap at the codec's rate.

    Attributes:
        samples: `[N]`; its end leads into its beginning.
        take: that it was cut from.
        begin_frame: place in the take at which it begins, in codec frames, a bar line not always at a whole one.
        fold_frame: codec frame of the take at which its own end was folded onto its beginning.
        head_nll: nats a token at which the model finds what follows the fold after the tail that was chosen.
        natural_nll: the same after the tail that it would have gone on with.
        stands_out: by how much its fold or its ends are unlike other places, 0 if they are not.
    """

    samples: FloatArray
    take: Take
    begin_frame: float
    fold_frame: int
    head_nll: float
    natural_nll: float
    stands_out: float

    @property
    def fold(self) -> float:
        """Where the fold is, as a share of the lap."""
        n_frames = self.take.grid.n_frames
        return (self.fold_frame - self.begin_frame) % n_frames / n_frames


@one_thread()
def write_takes(
    model: Silent2Music,
    lap: Waveform,
    grid: Grid,
    layer: Layer,
    sampling: SamplingConfig,
    seeds: Sequence[int],
    hears: Sequence[Hear],
    progress: Callable[[int, int], None] | None = None,
    circles: Sequence[Score] = (),
) -> list[Take]:
    """Draw two successive laps of tokens for each seed, all side by side, and decode them.

    Args:
        lap: of the room, as `lap.room_lap` makes it.
        layer: how the room is heard; multiplies the guidance.
        sampling: how tokens are drawn, but for the seed.
        seeds: one for each take.
        hears: for each seed what will be heard of its loop, by which that is judged.
        circles: for each seed a circular score to play; then the room is heard as it is.
    """
    room = repeated_lap(lap if circles else steered(lap, lap_events(lap), layer))
    sampling = model.resolved(sampling)
    sampling = dataclasses.replace(sampling, guidance=cast(float, sampling.guidance) * layer.guidance)
    with torch.inference_mode():
        signals = listen_whole(room, room.seconds, model.config).to(model.device)
        conditioning, null = model.steer(signals)
        own = [conditioning] * len(seeds)
        together = conditioning.expand(len(seeds))
        if circles:
            sketch, one = model._own_sketch(), torch.ones(1, dtype=torch.bool, device=model.device)
            played = (
                torch.cat(
                    list(sketch_score(sketch, repeated_circle(c, 3), [signals], signals.n_frames)), dim=1
                )
                for c in circles
            )
            guides = [sharpened(model.decoder.guided(v, one), v, 0) for v in played]
            own = [dataclasses.replace(conditioning, guide=guide) for guide in guides]
            joined = (torch.cat([getattr(g, f.name) for g in guides]) for f in dataclasses.fields(Guide))
            together = dataclasses.replace(together, guide=Guide(*joined))
        n_frames = 2 * grid.n_frames + grid.frames_of(LIKENESS_SECONDS)
        given, without = together.slice(0, n_frames), null.slice(0, n_frames).expand(len(seeds))
        codes = generate_codes(model.packed_decoder(), given, without, sampling, seeds, progress)
        decoded = [model.codec.decode(row[None])[0, 0].cpu().numpy() for row in codes]
    takes = []
    scores: Sequence[Score | None] = circles or [None] * len(seeds)
    rate = model.codec.sample_rate
    sounds = [levelled(sound, circle, rate) for sound, circle in zip(decoded, scores, strict=True)]
    for heeded, row, sound, seed, hear, circle in zip(own, codes, sounds, seeds, hears, scores, strict=True):
        heard = next(iter(hear(sound)))
        onsets = prominences(heard, grid.sample_rate)
        drawn = dataclasses.replace(sampling, seed=seed)
        takes.append(Take(heeded, null, row, sound, heard, onsets, grid, drawn, hear, circle))
    return takes


@one_thread()
@torch.inference_mode()
def close_set(model: Silent2Music, takes: Sequence[Take], n_candidates: int) -> list[Loop]:
    """Make a loop of each take of a set; all begin at the same place of the lap.

    Args:
        takes: two laps each, on one grid.
        n_candidates: tails to write for each fold, the natural one apart.
    """
    circles = [_closed(model, take, n_candidates) for take in takes]
    sets: list[list[Loop]] = []
    for start in _choose_starts(circles, takes[0].grid)[:MAX_STARTS]:
        sets.append([_begun_at(start, circle) for circle in circles])
        if _worst(sets[-1]) == 0:
            break
    return min(sets, key=_worst)


def _worst(loops: Sequence[Loop]) -> float:
    return max(loop.stands_out for loop in loops)


def _closed(model: Silent2Music, take: Take, n_candidates: int) -> Loop:
    """Close a lap at the first fold that is inaudible, else at the least audible one; the lap then begins there."""
    found: list[Loop] = []
    for fold in _choose_folds(take, model.codec.sample_rate)[:MAX_FOLDS]:
        lap, tails, heads = _write_tails(model, take, fold, n_candidates)
        nll = [round(head, 4) for head in heads.tolist()]
        for i in heads.argsort()[:MAX_TAILS].tolist():
            closed = circular_sound(model.codec, torch.cat([lap[:, : -tails.shape[2]], tails[i]], dim=1))
            # It begins where the score has gone on from its own beginning as far as the fold.
            samples = levelled(
                closed, take.circle, model.codec.sample_rate, fold / take.grid.frame_rate, goes_round=True
            )
            # Turned by half a lap, so that the fold is not where a lossy file ends.
            turned = take.hear(np.roll(samples, len(samples) // 2))
            usual = take.is_struck_at(fold), take.figures_at(fold)
            out = stands_out(turned, take.grid.sample_rate, 0.5, *usual)
            found.append(Loop(samples, take, fold, fold, nll[i], nll[0], out))
            if out == 0:
                return found[-1]
    return min(found, key=lambda loop: loop.stands_out)


def levelled(
    sound: FloatArray, circle: Score | None, sample_rate: int, begin: float = 0.0, goes_round: bool = False
) -> FloatArray:
    """Sound `[N]` levelled to the circle that it was drawn under, as all music is.

    Args:
        begin: of the sound, in seconds of the circle.
        goes_round: whether the sound is a lap, which comes after itself; else nothing comes before it.
    """
    if circle is None or not len(circle.gain_db):
        return sound
    n_laps = 1 + math.ceil(SETTLED_SECONDS * sample_rate / len(sound)) * goes_round
    # Each frame by itself, since a lap need not be of whole tenths.
    at = begin + np.arange(math.ceil(n_laps * len(sound) / sample_rate / FRAME_SECONDS)) * FRAME_SECONDS
    tenths = (at % (circle.seconds / 2.0) * ENERGY_RATE_HZ + 1e-6).astype(np.int64)
    wanted_db = circle.gain_db[np.minimum(tenths, len(circle.gain_db) - 1)]
    leveller = Leveller(sample_rate, wanted_db, 1.0 / FRAME_SECONDS)
    # A lap's end hears ahead how the next one begins.
    n_ahead = round((AHEAD_FRAMES + 1) * FRAME_SECONDS * sample_rate) * goes_round
    whole = leveller(np.resize(sound, n_laps * len(sound) + n_ahead)[None]), leveller.rest()
    return np.concatenate(whole, axis=1)[0, (n_laps - 1) * len(sound) :][: len(sound)]


def _choose_folds(take: Take, codec_rate: int) -> list[int]:
    """Codec frames to fold a take at, the best first: both laps are alike there, and no onset is near.

    The model has the first half of the first lap to find in.
    """
    grid = take.grid
    margin = grid.frames_of(LIKENESS_SECONDS)
    frames = np.arange(max(margin, grid.n_frames // 2), grid.n_frames + 1)
    hop = round(codec_rate / grid.frame_rate)
    spectrum = stft(torch.from_numpy(take.sound), 2 * hop, hop).abs().numpy()
    filters = mel_filters(codec_rate, 2 * hop, 32, low_hz=40.0, no_empty=True).astype(np.float32)
    bands = np.asarray((spectrum @ filters.T) ** 0.4, dtype=np.float64)
    change = np.linalg.norm(bands[grid.n_frames :] - bands[: len(bands) - grid.n_frames], axis=1)
    smooth = np.convolve(change, np.ones(2 * margin + 1) / (2 * margin + 1), "same")
    costs = smooth[frames] / max(float(np.median(smooth)), 1e-9)
    costs += 2.0 * remarkable(take.heard, grid.sample_rate, grid.samples_of(frames))
    return [int(frame) for frame in _apart(frames.astype(np.float64), costs, margin // 2)]


def _apart(frames: DoubleArray, costs: DoubleArray, least: int) -> list[float]:
    """Frames by rising cost, those left out that are nearer than `least` to one before."""
    chosen: list[float] = []
    for frame in frames[np.argsort(costs, kind="stable")].tolist():
        if all(abs(frame - other) >= least for other in chosen):
            chosen.append(frame)
    return chosen


def _write_tails(
    model: Silent2Music, take: Take, fold: int, n_candidates: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw several tails (the last second) for the lap of a take that begins at a fold.

    Returns:
        The lap `[K, n_frames]`, tails `[1 + n_candidates, K, w]`, the natural one first, and `[1 + n_candidates]` nats
        a token at which the lap's beginning follows them.
    """
    grid, n_rows = take.grid, 1 + n_candidates
    n_tail, n_head = grid.frames_of(TAIL_SECONDS), grid.frames_of(HEAD_SECONDS)
    n_context = min(round(CONTEXT_SECONDS * grid.frame_rate), grid.n_frames - n_tail)
    first = fold + grid.n_frames - n_tail - n_context
    lap, context = take.codes[:, fold : fold + grid.n_frames], take.codes[:, first : first + n_context]
    until = first + n_context + n_tail
    given, without = (c.slice(first, until).expand(n_candidates) for c in (take.conditioning, take.null))
    seeds = [take.sampling.seed + 1 + i for i in range(n_candidates)]
    prefix = context.expand(n_candidates, -1, -1)
    written = generate_codes(model.packed_decoder(), given, without, take.sampling, seeds, prefix=prefix)
    tails = torch.cat([lap[None, :, -n_tail:], written[:, :, n_context:]])
    before, head = context.expand(n_rows, -1, -1), lap[:, :n_head].expand(n_rows, -1, -1)
    codes = torch.cat([before, tails, head], dim=2)
    conditioning = take.conditioning.slice(first, until + n_head).expand(n_rows)
    return lap, tails, model.frame_nll(codes, conditioning)[:, :, -n_head:].mean(dim=(1, 2))


def _choose_starts(circles: Sequence[Loop], grid: Grid) -> list[float]:
    """Places of the lap, in codec frames, at which all loops of a set may begin, the least conspicuous first.

    With a score it is a bar line. With a pulse it is a beat, and the loop's bars begin with it: the room tells beats,
    not which of them is the first of a bar. Otherwise it is any frame.
    """
    starts = grid.beat_frames if grid.bars else np.arange(float(grid.n_frames))
    if circles[0].take.circle is not None:
        starts = starts[:: grid.beats_per_bar]
    costs = np.zeros(len(starts))
    for circle in circles:
        heard = next(iter(circle.take.hear(circle.samples)))
        at = (starts - circle.fold_frame) % grid.n_frames / grid.n_frames * len(heard)
        found = remarkable(np.tile(heard, 3), grid.sample_rate, np.round(at + len(heard)).astype(np.int64))
        costs = np.maximum(costs, found)
    return _apart(starts, costs, 1 if grid.bars else grid.frames_of(LIKENESS_SECONDS) // 2)


def _begun_at(start: float, circle: Loop) -> Loop:
    """A loop that began at its fold, turned to begin at a place of the lap, in codec frames."""
    grid, n = circle.take.grid, len(circle.samples)
    offset = (start - circle.fold_frame) % grid.n_frames
    samples = np.roll(circle.samples, -round(offset / grid.n_frames * n))
    loop = dataclasses.replace(circle, samples=samples, begin_frame=circle.fold_frame + offset)
    take, out = circle.take, 0.0
    heard = list(take.hear(samples))
    for at, frame in ((0.0, loop.begin_frame), (loop.fold, loop.fold_frame))[: 1 + (loop.fold > 0)]:
        usual = take.is_struck_at(frame), take.figures_at(frame)
        out += stands_out(heard, grid.sample_rate, at, *usual)
    return dataclasses.replace(loop, stands_out=out)


# ---- the wave on the circle ----


@torch.inference_mode()
def circular_sound(codec: Codec, codes: Tensor) -> FloatArray:
    """The sound `[N]` of a lap of codes `[K, T]` that is repeated for ever, cut once.

    Decoded with what lies around it, the lap hears itself before and after. What sounds on through the seam then has
    another phase than the beginning, by `d`; from its last attack on, its phase is turned back steadily, by `d` in
    all, which detunes it by less than half a cycle over that stretch. Projections on the circle make a wave of it.
    """
    n_around = min(codes.shape[1], round(AROUND_SECONDS * codec.frame_rate))
    around = torch.cat([codes[:, -n_around:], codes, codes[:, :n_around]], dim=1)
    sound = codec.decode(around[None])[0, 0].float()
    hop = round(codec.sample_rate / codec.frame_rate) // HOPS_PER_FRAME
    n, before = codes.shape[1] * HOPS_PER_FRAME, n_around * HOPS_PER_FRAME
    spectrum = stft(sound, OVERLAPS * hop, hop)
    lap, follows = spectrum[before : before + n], spectrum[before + n : before + n + OVERLAPS]
    magnitudes = lap.abs()
    near = _over_lobe(follows * lap[:OVERLAPS].conj()).sum(dim=0)
    turn = torch.where(near.abs() > 0, near.angle(), torch.zeros_like(near.real))
    level = _over_lobe(magnitudes.square()).sqrt() + 1e-5
    struck = level > RISE * level.roll(1, dims=0)
    steps = torch.arange(n, device=sound.device)[:, None]
    since = torch.where(struck, steps, 0).amax(dim=0)
    share = ((steps - since) / (n - since)).clamp(0.0, 1.0)
    # A bin that is struck at the beginning needs no past.
    turn = torch.where(struck[0], torch.zeros_like(turn), turn)
    phases = torch.polar(torch.ones_like(share), lap.angle() - turn * share)
    for _ in range(N_PROJECTIONS):
        phases = torch.sgn(_circular_stft(_circular_inverse(magnitudes * phases, hop), hop))
    closed = _circular_inverse(magnitudes * phases, hop)
    return np.asarray(closed.clamp(-1.0, 1.0).cpu().numpy(), dtype=np.float32)


def _over_lobe(values: Tensor) -> Tensor:
    """The sum over two bins on either side, which a partial's main lobe shares, of `[..., F]`."""
    return torch.nn.functional.pad(values, (2, 2)).unfold(-1, 5, 1).sum(dim=-1)


def _circular_stft(sound: Tensor, hop: int) -> Tensor:
    n_fft = OVERLAPS * hop
    return stft(torch.cat([sound[-n_fft:], sound, sound[:n_fft]]), n_fft, hop)[OVERLAPS:-OVERLAPS]


def _circular_inverse(spectrum: Tensor, hop: int) -> Tensor:
    n_fft = OVERLAPS * hop
    around = torch.cat([spectrum[-OVERLAPS:], spectrum, spectrum[:OVERLAPS]])
    return inverse_stft(around, n_fft, hop)[n_fft:-n_fft]
