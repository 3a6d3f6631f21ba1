"""Phase reconstruction: STFT, phases estimated from magnitudes, and a few Griffin-Lim iterations.

The phases start from what magnitudes tell of them, so that four projections do better than sixty from random
phases, and everything has a finite context: a sound can be rebuilt piece by piece, and is the same.

Phases are counted at the middle of a frame: there all bins of a partial's main lobe agree, and those of a click
at the middle too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import torch
from torch import Tensor
from torch.nn import functional

RISE = 2.0
"""A bin that grows by more than this from one frame to the next belongs to an attack."""

MAGNITUDE_FLOOR = 1e-5
"""-100 dBFS: below it, how a magnitude changes means nothing."""

HANN_GAMMA = 0.25645
"""A Hann window of n samples is nearest to the Gaussian exp(-pi t^2 / gamma) with gamma = 0.25645 n^2."""


@lru_cache(maxsize=8)
def _hann(n_fft: int, device: torch.device) -> Tensor:
    window: Tensor = torch.hann_window(n_fft, device=device)
    return window


def stft(audio: Tensor, n_fft: int, hop: int) -> Tensor:
    """Short-time spectra with frame j centred on sample `(j + 0.5) * hop`, so that no frame hangs over an end.

    Args:
        audio: `[..., L * hop]`.
        n_fft: length of the periodic Hann window and of the transform, in samples.
        hop: samples between frames; divides `n_fft`.

    Returns:
        `[..., L, n_fft / 2 + 1]` complex, scaled so that a sine of amplitude 1 has magnitude 1 at its bin.
    """
    margin = (n_fft - hop) // 2
    frames = functional.pad(audio, (margin, margin)).unfold(-1, n_fft, hop)
    spectrum: Tensor = torch.fft.rfft(frames * (_hann(n_fft, audio.device) * (4.0 / n_fft)))
    return spectrum


@lru_cache(maxsize=8)
def _overlap_weight(n_frames: int, n_fft: int, hop: int, device: torch.device) -> Tensor:
    """`[n_frames + n_fft / hop - 1, hop]`, the sum of the squared windows of overlapping frames."""
    n_overlaps = n_fft // hop
    squares = _hann(n_fft, device).square().reshape(n_overlaps, hop)
    weight = squares.new_zeros(n_frames + n_overlaps - 1, hop)
    for i in range(n_overlaps):
        weight[i : i + n_frames] += squares[i]
    return weight.clamp(min=1e-8)


def inverse_stft(spectrum: Tensor, n_fft: int, hop: int) -> Tensor:
    """Least-squares inverse of `stft` (Griffin and Lim, 1984): `[..., L, n_fft / 2 + 1]` to `[..., L * hop]`."""
    n_frames, n_overlaps, margin = spectrum.shape[-2], n_fft // hop, (n_fft - hop) // 2
    frames: Tensor = torch.fft.irfft(spectrum, n=n_fft) * (_hann(n_fft, spectrum.device) * (n_fft / 4.0))
    pieces = frames.reshape(*frames.shape[:-1], n_overlaps, hop)
    audio = functional.pad(pieces[..., 0, :], (0, 0, 0, n_overlaps - 1))
    for i in range(1, n_overlaps):
        audio[..., i : i + n_frames, :] += pieces[..., i, :]
    audio = (audio / _overlap_weight(n_frames, n_fft, hop, spectrum.device)).flatten(-2)
    return audio[..., margin : margin + n_frames * hop]


@dataclass(frozen=True)
class Carry:
    """The last frame of the block before, from which phases continue.

    Attributes:
        magnitudes: `[B, 1, F]`.
        advances: `[B, 1, F]`, the phase that each bin's partial gains in a hop.
        phases: `[B, F]`, at the frame's middle.
    """

    magnitudes: Tensor
    advances: Tensor
    phases: Tensor


def estimate_phases(
    magnitudes: Tensor, n_fft: int, hop: int, carry: Carry | None = None, after: Tensor | None = None
) -> tuple[Tensor, Carry]:
    """Estimate phases from magnitudes by integrating along time in partials and along frequency in attacks.

    A bin belongs to the nearest peak of its frame. Its phase continues from that of the bin where the peak was a frame
    ago, at the frequency of a parabola through the peak (single pass spectrogram inversion: Beauregard, Harish and
    Wyse, 2015). A bin that has just risen has no past: its phase is computed from its neighbours' by the group delay,
    which is the slope of the log-magnitude in time (phase gradient: Prusa, Balazs and Sondergaard, 2017).

    Args:
        magnitudes: `[B, L, F]`, scaled as `stft` does, `F = n_fft / 2 + 1`.
        n_fft, hop: as for `stft`.
        carry: of the frames before; none at the start of a sound.
        after: `[B, 1, F]` magnitudes of the next frame; none at the end of a sound.

    Returns:
        Unit phasors `[B, L, F]` with phases as those of `stft`, and the carry for the next frames.
    """
    before = torch.zeros_like(magnitudes[:, :1]) if carry is None else carry.magnitudes
    owner, advances = _partials(magnitudes, n_fft, hop)
    advances_before = torch.cat(
        [advances[:, :1] if carry is None else carry.advances, advances[:, :-1]], dim=1
    )
    steps = (0.5 * (advances + advances_before.gather(2, owner))).remainder(2.0 * math.pi)
    rising = (magnitudes > RISE * torch.cat([before, magnitudes[:, :-1]], dim=1)).gather(2, owner)
    attacks = _attack_phases(magnitudes, n_fft, hop, None if carry is None else before, after)
    phases = torch.empty_like(magnitudes)
    last = torch.zeros_like(magnitudes[:, 0]) if carry is None else carry.phases
    for i in range(magnitudes.shape[1]):
        moved = (last.gather(1, owner[:, i]) + steps[:, i]).remainder(2.0 * math.pi)
        last = torch.where(rising[:, i], attacks[:, i], moved)
        phases[:, i] = last
    carry = Carry(magnitudes[:, -1:], advances[:, -1:], last)
    alternating = math.pi * torch.arange(magnitudes.shape[2], device=magnitudes.device)
    return torch.polar(torch.ones_like(phases), phases - alternating), carry


def _partials(magnitudes: Tensor, n_fft: int, hop: int) -> tuple[Tensor, Tensor]:
    """For every bin its nearest peak and the phase which that peak gains in a hop, both `[B, L, F]`."""
    n_bins = magnitudes.shape[2]
    rounded = magnitudes.pow(0.4)  # nearer to a parabola over a main lobe than the magnitude is
    low, middle, high = rounded[..., :-2], rounded[..., 1:-1], rounded[..., 2:]
    peak = functional.pad((middle > low) & (middle >= high), (1, 1))
    bend = low - 2.0 * middle + high
    offset = torch.where(bend < -1e-9, 0.5 * (low - high) / bend, torch.zeros_like(bend)).clamp(-0.5, 0.5)
    bins = torch.arange(n_bins, device=magnitudes.device, dtype=torch.int32).expand_as(magnitudes)
    below = torch.where(peak, bins, -n_bins).cummax(2).values
    above = torch.where(peak, bins, 2 * n_bins).flip(2).cummin(2).values.flip(2)
    owner = torch.where(bins - below <= above - bins, below, above)
    owner = torch.where((owner < 0) | (owner >= n_bins), bins, owner).long()
    frequency = bins + functional.pad(offset, (1, 1))
    return owner, frequency.gather(2, owner) * (2.0 * math.pi * hop / n_fft)


def _attack_phases(
    magnitudes: Tensor, n_fft: int, hop: int, before: Tensor | None, after: Tensor | None
) -> Tensor:
    """Phases `[B, L, F]` by the group delay alone, from bin 0 upwards."""
    before = magnitudes[:, :1] if before is None else before
    after = magnitudes[:, -1:] if after is None else after
    level = torch.cat([before, magnitudes, after], dim=1).add(MAGNITUDE_FLOOR).log()
    slope = (level[:, 2:] - level[:, :-2]) / (2.0 * hop)
    delay = (HANN_GAMMA * n_fft**2 / (2.0 * math.pi) * slope).clamp(-n_fft / 2, n_fft / 2)
    phases: Tensor = (-2.0 * math.pi / n_fft * delay).cumsum(2)
    return phases


def griffin_lim(magnitudes: Tensor, phases: Tensor, n_fft: int, hop: int, n_iterations: int) -> Tensor:
    """Fast Griffin-Lim: a sound `[B, L * hop]` whose STFT magnitudes are near the given ones.

    With momentum 0.99 (Perraudin, Balazs and Sondergaard, 2013).

    Args:
        magnitudes: `[B, L, n_fft / 2 + 1]`, scaled as `stft` does.
        phases: unit phasors of the same shape to start from.
        n_fft, hop: as for `stft`.
    """
    previous: Tensor | None = None
    for _ in range(n_iterations):
        rebuilt = stft(inverse_stft(magnitudes * phases, n_fft, hop), n_fft, hop)
        phases = torch.sgn(rebuilt if previous is None else torch.add(rebuilt, previous, alpha=-0.99 / 1.99))
        previous = rebuilt
    return inverse_stft(magnitudes * phases, n_fft, hop)


def context_frames(n_fft: int, hop: int, n_iterations: int) -> int:
    """Number of STFT frames on each side that a sample of `rebuild` depends on, initial phases apart.

    An iteration reaches as far as frames overlap, the last inverse transform half as far.
    """
    n_overlaps = n_fft // hop
    return n_overlaps * n_iterations + n_overlaps // 2 + 1


def rebuild(blocks: Iterable[Tensor], n_fft: int, hop: int, n_iterations: int) -> Iterator[Tensor]:
    """Rebuild sound from magnitudes block by block; the division into blocks changes nothing but rounding.

    Args:
        blocks: of magnitudes `[B, L_i, n_fft / 2 + 1]`, in order.
        n_fft, hop: as for `stft`.

    Yields:
        Samples `[B, n]`, all that are final after each block; those of the last `context_frames` and one more
        come when the blocks have ended.
    """
    context = context_frames(n_fft, hop, n_iterations)
    blocks = iter(blocks)
    magnitudes = next(blocks, None)  # of the frames from n_before before the next to be given on
    if magnitudes is None:
        return
    phases = magnitudes[:, :0].to(
        torch.complex64
    )  # of the same frames but the last, which waits for its successor
    carry: Carry | None = None
    n_before = 0
    for block in chain([magnitudes[:, :0]], blocks):
        magnitudes = torch.cat([magnitudes, block], dim=1)
        new, after = magnitudes[:, phases.shape[1] : -1], magnitudes[:, -1:]
        if new.shape[1] == 0:
            continue
        estimated, carry = estimate_phases(new, n_fft, hop, carry, after)
        phases = torch.cat([phases, estimated], dim=1)
        n_final = phases.shape[1] - context
        if n_final > n_before:
            audio = griffin_lim(magnitudes[:, :-1], phases, n_fft, hop, n_iterations)
            yield audio[:, n_before * hop : n_final * hop]
            n_dropped = max(0, n_final - context)
            magnitudes, phases = magnitudes[:, n_dropped:], phases[:, n_dropped:]
            n_before = n_final - n_dropped
    estimated, _ = estimate_phases(magnitudes[:, phases.shape[1] :], n_fft, hop, carry)
    phases = torch.cat([phases, estimated], dim=1)
    yield griffin_lim(magnitudes, phases, n_fft, hop, n_iterations)[:, n_before * hop :]
