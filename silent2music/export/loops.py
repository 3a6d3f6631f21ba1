"""Seamless loops: two laps in the token loop, the end of the second written so that it leads into its beginning.

```
lap 1                    lap 2                            the loop
|------------------------|--------a===========|-----      |a==================tail|a====...
                                  '--- one lap ----'
```

The room's lap is repeated, so that the conditioning is periodic, and the model writes two laps of it. A lap's
worth of tokens is taken from where the second lap is most like the first. Its last second, the tail, is written
several times; of all tails the one wins after which the model finds the loop's own beginning likeliest: sampling
from the past, weighted by the future. At last the wave is closed: the phases of what sounds on through the seam
are led to where the beginning has them, and the short-time transform is taken on the circle.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silent2music.acoustics import AcousticProfile, analyze
from silent2music.ambient import mel_filters
from silent2music.audio import FloatArray, Waveform
from silent2music.conditioning import Conditioning
from silent2music.config import SamplingConfig
from silent2music.export.grid import Grid
from silent2music.export.layers import Layer, steered
from silent2music.export.seam import ONSET_MARGIN, measure_seam, onset_at, remarkable
from silent2music.phase import inverse_stft, stft
from silent2music.sampling import generate_codes

if TYPE_CHECKING:
    from silent2music.model import Silent2Music

CONTEXT_SECONDS = 4.0
"""What is heard before the tail when the tail is written anew."""

TAIL_SECONDS = 1.0
HEAD_SECONDS = 1.0
LIKENESS_SECONDS = 0.5
"""Around a place, to compare it with the same place a lap later."""

HARDER = 0.15
"""By this share of the strongest onset a stroke may differ from what it was before the loop was cut and placed."""

N_PROJECTIONS = 8
HOPS_PER_FRAME = 2
OVERLAPS = 4
RISE = 2.0
"""A bin that grows by more than this from one frame to the next is struck anew and brings its own phase."""

Progress = Callable[[int, int], None]
Hear = Callable[[FloatArray], tuple[FloatArray, int]]
"""From a closed lap `[N]` at the codec's rate to what is heard of it and its sample rate."""


@dataclass(frozen=True)
class Take:
    """Two laps of music by one layer, before a lap is cut out of them.

    Attributes:
        conditioning: periodic, `frames [1, S, D]` with S steps for three laps.
        codes: `[V, K, 2 n_frames + margin]`, a row for each variation.
        sounds: `[V, N]`, the codes decoded.
        sampling: with the guidance that they were drawn with.
        seeds: one for each row.
    """

    conditioning: Conditioning
    codes: Tensor
    sounds: FloatArray
    sampling: SamplingConfig
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Loop:
    """A closed lap at the codec's rate.

    Attributes:
        samples: `[N]`; its end leads into its beginning.
        head_nll: nats a token at which the model finds the beginning after the tail that was chosen.
        natural_nll: the same after the tail that it would have gone on with.
        onset_before: the onset that the music had at the seam before it was cut, as `seam.onset_at` has it.
        stands_out: by how much its seam is unlike other places, 0 if it is not.
    """

    samples: FloatArray
    head_nll: float
    natural_nll: float
    onset_before: float
    stands_out: float


def write_take(
    model: Silent2Music,
    lap: Waveform,
    grid: Grid,
    layer: Layer,
    sampling: SamplingConfig,
    seeds: Sequence[int],
    progress: Progress | None = None,
) -> Take:
    """Let the model write two laps, the second in the light of the first.

    Args:
        model: in evaluation mode.
        lap: of the room, as `grid.room_lap` makes it.
        grid: the lap's length.
        layer: how the room is heard; multiplies the guidance.
        sampling: how tokens are drawn.
        seeds: one for each variation.
        progress: called with columns done and columns in all.
    """
    profile = analyze(_laps(lap, 3))
    first = _first_lap(profile, lap.seconds)
    room = _laps(steered(lap, first, layer), 3)
    sampling = dataclasses.replace(sampling, guidance=sampling.guidance * layer.guidance)
    with torch.inference_mode():
        features = model.features(room)
        frames, scalars = torch.from_numpy(features.frames)[None], torch.from_numpy(features.scalars)[None]
        mask = torch.ones(frames.shape[:2], dtype=torch.bool)
        conditioning = model.condition(*(x.to(model.device) for x in (frames, scalars, mask)))
        n_frames = 2 * grid.n_frames + _steps(LIKENESS_SECONDS, grid)
        asked = _stretch(conditioning, 0, n_frames, len(seeds))
        codes = generate_codes(model.packed_decoder(), asked, model.null(asked), sampling, seeds, progress)
        sounds = torch.cat([model.codec.decode(row[None])[:, 0] for row in codes])
    return Take(conditioning, codes, sounds.cpu().numpy(), sampling, tuple(seeds))


def choose_starts(takes: Sequence[Take], grid: Grid, sample_rate: int) -> list[int]:
    """Codec frames at which all loops of a set may be cut, the best first: a lap later is like it, nothing stands out.

    With a pulse it is a beat, and the loop's bars begin with it: the room tells beats, not which of them is the
    first of a bar. Otherwise it is any frame that leaves the model the first half of the first lap to find in.
    """
    margin = _steps(LIKENESS_SECONDS, grid)
    if grid.bars:
        starts = np.array([f for f in grid.beat_frames if f > margin] + [grid.n_frames])
    else:
        starts = np.arange(max(margin, grid.n_frames // 2), grid.n_frames + 1)
    costs = np.zeros(len(starts))
    for take in takes:
        for sound in take.sounds:
            bands = _bands(sound, sample_rate, grid.frame_rate)
            change = np.linalg.norm(bands[grid.n_frames :] - bands[: len(bands) - grid.n_frames], axis=1)
            smooth = np.convolve(change, np.ones(2 * margin + 1) / (2 * margin + 1), "same")
            costs += smooth[starts] / max(float(np.median(smooth)), 1e-9)
            samples_at = np.round(starts / grid.frame_rate * sample_rate).astype(np.int64)
            costs += 2.0 * remarkable(sound, sample_rate, samples_at)
    chosen: list[int] = []
    for frame in starts[np.argsort(costs, kind="stable")].tolist():
        if all(abs(frame - other) >= margin // 2 for other in chosen):
            chosen.append(frame)
    return chosen


@torch.inference_mode()
def close_loops(
    model: Silent2Music, take: Take, grid: Grid, start: int, n_candidates: int, hear: Hear
) -> list[Loop]:
    """Close the lap of every variation that begins at frame `start` of a take.

    Args:
        model: that wrote the take.
        take: two laps.
        grid: the lap's length.
        start: from `choose_starts`.
        n_candidates: tails to write for each variation, the natural one apart.
        hear: what will be heard of a closed lap, by which its seam is judged.
    """
    n_tail = _steps(TAIL_SECONDS, grid)
    n_context = min(_steps(CONTEXT_SECONDS, grid), start + grid.n_frames - n_tail)
    first = start + grid.n_frames - n_tail - n_context
    laps = take.codes[:, :, start : start + grid.n_frames]
    context = take.codes[:, :, first : first + n_context]
    asked = _stretch(take.conditioning, first, n_context + n_tail, len(laps) * n_candidates)
    prefix = context.repeat_interleave(n_candidates, dim=0)
    seeds = [seed + 1 + i for seed in take.seeds for i in range(n_candidates)]
    written = generate_codes(
        model.packed_decoder(), asked, model.null(asked), take.sampling, seeds, prefix=prefix
    )
    loops = []
    start_sample = round(start / grid.frame_rate * model.codec.sample_rate)
    for sound, lap, before, tails in zip(
        take.sounds, laps, context, written[:, :, n_context:].chunk(len(laps)), strict=True
    ):
        tails = torch.cat([lap[None, :, -n_tail:], tails])
        heads = _head_nll(
            model, take.conditioning, first, before, tails, lap[:, : _steps(HEAD_SECONDS, grid)]
        )
        onset = onset_at(sound, model.codec.sample_rate, start_sample)
        loops.append(_best(model, lap, tails, heads, onset, hear))
    return loops


def _best(model: Silent2Music, lap: Tensor, tails: Tensor, heads: Tensor, onset: float, hear: Hear) -> Loop:
    """Of the tails that lead into the head best, the first whose seam does not stand out, or the least that does.

    Args:
        model: that wrote them.
        lap: `[K, T]` codes with their natural tail.
        tails: `[R, K, w]`, the natural one first.
        heads: `[R]` nats a token at which the head follows.
        onset: that the music has there of itself, as `onset_at` has it.
        hear: as for `close_loops`.
    """
    found: list[Loop] = []
    for i in heads.argsort().tolist():
        samples = circular_sound(model, torch.cat([lap[:, : -tails.shape[2]], tails[i]], dim=1))
        seam = measure_seam(*hear(samples))
        # Where the music is struck there of itself the seam may be, about as hard; elsewhere it is surely not.
        allowed = onset + HARDER if onset > ONSET_MARGIN else -ONSET_MARGIN
        stands_out = seam.excess + max(0.0, seam.onset - allowed)
        nll = (round(float(heads[i]), 4), round(float(heads[0]), 4))
        found.append(Loop(samples, *nll, round(onset, 4), stands_out))
        if stands_out == 0:
            break
    return min(found, key=lambda loop: loop.stands_out)


def _head_nll(
    model: Silent2Music, conditioning: Conditioning, first: int, context: Tensor, tails: Tensor, head: Tensor
) -> Tensor:
    """Nats a token `[R]` at which the head `[K, h]` follows each of the tails `[R, K, w]` after `[K, c]`."""
    n_rows, n_codebooks, _ = tails.shape
    codes = torch.cat([context.expand(n_rows, -1, -1), tails, head.expand(n_rows, -1, -1)], dim=2)
    n_frames, n_before = codes.shape[2], codes.shape[2] - head.shape[1]
    grid = model.decoder.pattern.apply(codes)
    logits = model.decoder(grid, _stretch(conditioning, first, n_frames, n_rows))
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


def circular_sound(model: Silent2Music, codes: Tensor) -> FloatArray:
    """The sound `[N]` of a lap of codes `[K, T]` that is repeated for ever, cut once.

    Decoded three times over, the middle lap hears itself before and after. What sounds on through the seam then has
    another phase than the beginning, by `d`; from its last attack on, its phase is turned back steadily, by `d` in
    all, which detunes it by less than half a cycle over that stretch. Projections on the circle make a wave of it.
    """
    with torch.inference_mode():
        sound = model.codec.decode(codes.repeat(1, 3)[None])[0, 0].float()
        hop = round(model.codec.sample_rate / model.codec.frame_rate) // HOPS_PER_FRAME
        n_fft = OVERLAPS * hop
        n = codes.shape[1] * HOPS_PER_FRAME
        spectrum = stft(sound, n_fft, hop)
        lap, follows = spectrum[n : 2 * n], spectrum[2 * n : 2 * n + OVERLAPS]
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
            phases = torch.sgn(_circular_stft(_circular_inverse(magnitudes * phases, n_fft, hop), n_fft, hop))
        closed = _circular_inverse(magnitudes * phases, n_fft, hop)
    return np.asarray(closed.clamp(-1.0, 1.0).cpu().numpy(), dtype=np.float32)


def _over_lobe(values: Tensor) -> Tensor:
    """The sum over two bins on either side, which a partial's main lobe shares, of `[..., F]`."""
    padded = torch.nn.functional.pad(values, (2, 2))
    return padded.unfold(-1, 5, 1).sum(dim=-1)


def _circular_stft(sound: Tensor, n_fft: int, hop: int) -> Tensor:
    margin = n_fft // hop * hop
    return stft(torch.cat([sound[-margin:], sound, sound[:margin]]), n_fft, hop)[
        n_fft // hop : -(n_fft // hop)
    ]


def _circular_inverse(spectrum: Tensor, n_fft: int, hop: int) -> Tensor:
    n = n_fft // hop
    return inverse_stft(torch.cat([spectrum[-n:], spectrum, spectrum[:n]]), n_fft, hop)[n * hop : -n * hop]


def at_rate(samples: FloatArray, n_samples: int) -> FloatArray:
    """A closed lap `[N]` as a closed lap of `n_samples`, resampled once, on the circle."""
    import soxr

    thrice = soxr.resample(np.tile(samples, 3), len(samples), n_samples, quality="VHQ")
    return np.asarray(thrice[n_samples : 2 * n_samples], dtype=np.float32)


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


def _stretch(conditioning: Conditioning, first: int, n: int, n_rows: int) -> Conditioning:
    """Steps `first` to `first + n` for each of `n_rows` rows."""
    return Conditioning(
        frames=conditioning.frames[:, first : first + n].expand(n_rows, -1, -1),
        frames_mask=conditioning.frames_mask[:, first : first + n].expand(n_rows, -1),
        tokens=conditioning.tokens.expand(n_rows, -1, -1),
        tokens_mask=conditioning.tokens_mask.expand(n_rows, -1),
    )


def _bands(sound: FloatArray, sample_rate: int, frame_rate: float) -> NDArray[np.float64]:
    """Compressed magnitudes in 32 mel bands, `[T, 32]`, one for each codec frame."""
    hop = round(sample_rate / frame_rate)
    spectrum = stft(torch.from_numpy(sound), 2 * hop, hop).abs().numpy()
    return np.asarray((spectrum @ mel_filters(sample_rate, 2 * hop, 32).T) ** 0.4, dtype=np.float64)
