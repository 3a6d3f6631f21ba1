"""What will be heard of music once it is in its files, before they are written: by this loops are judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from silent2music.audio import FloatArray, Waveform, db_to_gain, ogg_coded
from silent2music.config import AmbienceConfig
from silent2music.export.circle import at_rate
from silent2music.export.formats import LOSSY
from silent2music.export.grid import Grid
from silent2music.export.levels import loudness_of
from silent2music.export.space import Placement, fold_down, place

Hear = Callable[[FloatArray], Iterable[FloatArray]]
"""From sound `[N]` at the codec's rate to all that is heard of it, `[M]` each at the rate of the files."""


def hearing(config: AmbienceConfig, grid: Grid, where: Placement, codec_rate: int, seed: int) -> Hear:
    """Music in its room, once without loss and once as lossy files give it back, as far as either is asked for.

    Without loss it is W of the field, which is what all fold-downs have in common. Lossy coding adds onsets of its
    own, where the file ends and in what is hardly heard, so that it is done. Levels are as they will be but for what
    the true peak asks and some tenths of a dB.

    Args:
        config: the files that are asked for.
        grid: a lap.
        where: the music stands.
        codec_rate: of the music, in Hz.
        seed: of the room's reverberation.
    """
    codings = sorted({suffix in LOSSY for suffix in config.formats})
    lap_seconds = grid.n_frames / grid.frame_rate

    def hear(samples: FloatArray) -> Iterator[FloatArray]:
        n_samples = round(len(samples) / (lap_seconds * codec_rate) * grid.n_samples)
        field = place(at_rate(samples, n_samples), grid.sample_rate, where, seed)
        for is_lossy in codings:
            if is_lossy:
                sound = fold_down(field, config.spatial)
                gain_db = config.lufs - loudness_of(sound, grid.sample_rate)
                if np.isfinite(gain_db):
                    sound = sound * np.float32(db_to_gain(gain_db))
                yield ogg_coded(Waveform(sound, grid.sample_rate)).mono().samples[0]
            else:
                yield field[0]

    return hear
