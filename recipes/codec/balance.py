"""Give back what performing takes away: the spectrum's balance of a model's music, by its codec's correction.

    python recipes/codec/balance.py MODEL PAIRS --soundfont FILE --out CODEC

A regression of compressed magnitudes shrinks what it cannot foretell, most of all high bands, and drawn tokens lose a
little more. Music of training pairs is compared with what the model makes of the same scores, and scores that it composes
for their rooms with fluidsynth's rendering of them. The mean loss of each band, in dB relative to the whole, is added to
the bias of the gain that the codec's correction has for each bin. Tokens do not depend on it.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch

from silent2music.arrays import DoubleArray
from silent2music.audio import Waveform
from silent2music.bundled_codec import BundledCodec
from silent2music.codec import save_codec
from silent2music.correction import mel_hats
from silent2music.data.pairs import read_pairs
from silent2music.evaluation.pieces import read_music, read_room
from silent2music.export.delivery import in_front
from silent2music.export.performing import in_room
from silent2music.factory.rendering import play
from silent2music.model import Silent2Music

N_BANDS = 16


def levels(sound: Waveform, codec: BundledCodec) -> DoubleArray:
    """`[N_BANDS]` levels in dB of the bands of a sound at the codec's rate, relative to the whole."""
    samples = torch.from_numpy(np.ascontiguousarray(sound.samples))
    power = codec.features(samples).pow(2.0 / codec.config.power).mean(dim=(0, 1))
    power = power.reshape(codec.config.frames_per_code, -1).mean(dim=0)
    bands = mel_hats(N_BANDS, len(power), codec.sample_rate) @ power
    return (10.0 * torch.log10(bands / power.sum() + 1e-9)).double().numpy()


def main() -> None:
    """Measure, print, and write the codec."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--soundfont", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=48, help="training pairs")
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    model = Silent2Music.from_pretrained(given.model)
    codec = model.codec
    assert isinstance(codec, BundledCodec) and codec.decoder is not None
    pairs = [pair for pair in read_pairs(given.pairs) if pair.split == "train"]
    lost = []
    for seed in range(given.n):
        pair = pairs[seed * len(pairs) // given.n]
        item = read_room(given.pairs, given.seconds, pair)
        if item.score is None or not item.score.n_notes:
            continue
        composed = model.compose(item.room, given.seconds, seed=seed)
        if not composed.n_notes:
            continue
        rendered = play(composed, given.soundfont, codec.sample_rate, reverb=False, seconds=given.seconds)
        placed = [piece.samples for piece in in_room(rendered, in_front(item.profile), seed)]
        references = (
            (item.score, read_music(given.pairs, pair, given.seconds)),
            (composed, Waveform(np.concatenate(placed, axis=1), codec.sample_rate)),
        )
        for score, reference in references:
            made = model.generate(item.room, seconds=given.seconds, seed=seed, score=score)
            lost.append(levels(reference, codec) - levels(made, codec))
        print(seed, *(f"{value:.1f}" for value in np.mean(lost, axis=0)), flush=True)
    n_bins = codec.config.n_fft // 2 + 1
    gain_db = mel_hats(N_BANDS, n_bins, codec.sample_rate).T @ torch.from_numpy(np.mean(lost, axis=0)).float()
    nepers = codec.config.power * math.log(10.0) / 20.0 * gain_db
    codec.decoder.gain.bias.data += nepers.repeat(codec.config.frames_per_code)
    save_codec(codec, given.out)


if __name__ == "__main__":
    main()
