"""A lap of codes as sound on the circle: its end leads into its beginning without a cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from silent2music.audio import FloatArray
from silent2music.phase import inverse_stft, stft

if TYPE_CHECKING:
    from silent2music.model import Silent2Music

N_PROJECTIONS = 8
HOPS_PER_FRAME = 2
OVERLAPS = 4
RISE = 2.0
"""A bin that grows by more than this from one frame to the next is struck anew and brings its own phase."""


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
