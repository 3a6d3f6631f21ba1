"""Compares a codec's band extension with plain resampling on held-out music, above 12 kHz; and its speed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from silent2music import audio
from silent2music.arrays import DoubleArray, FloatArray
from silent2music.audio import Waveform
from silent2music.bandwidth import RATE, BandExtension, lower_half
from silent2music.codec import Codec
from silent2music.distances import log_mel_distance, spectrum
from silent2music.errors import ConfigError, DataError
from silent2music.evaluation.bench import median_seconds
from silent2music.evaluation.report import table

NONE_DBFS = -80.0
"""Energy above 12 kHz of a frame below which the original has none there."""

FRAME = 2048
"""Samples of a frame at 48 kHz: 43 ms."""

SPEED_SECONDS, SPEED_ROUNDS = 20.0, 5

SOURCES = ("decoded", "original")
"""What is extended: the sound through the codec, or the original's own lower band."""


def run_band_bench(
    codec: Codec,
    music: Mapping[str, Sequence[Path]],
    out: Path,
    seconds: float = 6.0,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Extend held-out music and write `band.md` and `band.json`.

    Args:
        music: files by group; the group `families` is divided by the names before the hyphen.
        out: folder, made if missing.

    Returns:
        The tables, in Markdown: by family, log-mel distance above 12 kHz of resampling and of the extension, and by how
        much the extension exceeds `NONE_DBFS` where the original does not.

    Raises:
        ConfigError: if the codec has no extension.
        DataError: if no file has 44.1 kHz or more.
    """
    if codec.extension is None:
        raise ConfigError("The codec folder has no extension to compare; fit one by 's2m codec fit-band'.")
    files = [(group, file) for group, found in music.items() for file in found]
    rows: list[dict[str, Any]] = []
    added: dict[str, list[DoubleArray]] = {source: [] for source in SOURCES}
    sound = None
    for i, (group, file) in enumerate(files):
        waveform = audio.read(file)
        if waveform.sample_rate >= 44_100:
            samples = _middle(waveform.mono().resampled(2 * RATE).samples[0], seconds)
            low = lower_half(samples)
            codes = codec.encode(torch.from_numpy(low)[None, None])
            decoded = codec.decode(codes)[0, 0, : len(low)].numpy()
            sound = decoded if sound is None else sound
            row: dict[str, Any] = {"group": group, "file": file.name}
            row["family"] = file.stem.rpartition("-")[0] if group == "families" else group
            for source, lower in zip(SOURCES, (decoded, low), strict=True):
                figures, more = band_figures(samples, lower, codec.extension)
                row |= {f"{source}_{name}": value for name, value in figures.items()}
                added[source].append(more)
            rows.append(row)
        if progress is not None:
            progress(i + 1, len(files))
    if sound is None:
        raise DataError("There is no music of 44.1 kHz or more to compare on; give files or folders of it.")
    speed = measure_speed(codec, sound)
    text = _tables(rows, {source: np.concatenate(found) for source, found in added.items()}, speed)
    out.mkdir(parents=True, exist_ok=True)
    (out / "band.json").write_text(
        json.dumps({"rows": rows, "speed": speed}, indent=1) + "\n", encoding="utf-8"
    )
    (out / "band.md").write_text(text, encoding="utf-8")
    return text


def _middle(samples: FloatArray, seconds: float) -> FloatArray:
    """`[N]`, the middle of samples at 48 kHz, N a multiple of 4."""
    n_samples = min(len(samples), round(seconds * 2 * RATE)) // 4 * 4
    start = (len(samples) - n_samples) // 2
    return np.ascontiguousarray(samples[start : start + n_samples])


def band_figures(
    original: FloatArray, lower: FloatArray, extension: BandExtension
) -> tuple[dict[str, float], DoubleArray]:
    """Figures of the extension of `lower`, `[N / 2]` at 24 kHz, against `original`, `[N]` at 48 kHz.

    Returns:
        `resampled` and `extended`, the log-mel distances above 12 kHz, and `n_none`, the frames in which the original has
        none there; and of those by how many dB the extension exceeds `NONE_DBFS`.
    """
    sound = Waveform(lower[None], RATE)
    made = {"resampled": sound.resampled(2 * RATE), "extended": extension.extended(sound)}
    rows = {name: torch.from_numpy(np.ascontiguousarray(x.samples)) for name, x in made.items()}
    reference = torch.from_numpy(original)[None]
    figures = {
        name: float(log_mel_distance(reference, row, 2 * RATE, above_hz=RATE / 2)[0])
        for name, row in rows.items()
    }
    levels = [_level_above(row) for row in (reference, rows["extended"])]
    none = levels[0] < NONE_DBFS
    more = np.maximum(levels[1][none] - NONE_DBFS, 0.0)
    return figures | {"n_none": int(none.sum()), "n_frames": len(none)}, more


def _level_above(samples: torch.Tensor) -> DoubleArray:
    """Energy above 12 kHz of frames of samples `[1, N]` at 48 kHz, in dBFS."""
    # A quarter more above, so that a window's slope at 12 kHz does not count.
    magnitudes = spectrum(samples, FRAME)[0, FRAME // 4 + 4 :].double()
    return np.asarray(10.0 * (magnitudes.square().sum(0) / 1.5).clamp(min=1e-20).log10().numpy())


def measure_speed(codec: Codec, samples: FloatArray) -> dict[str, float]:
    """Multiples of real time of decoding and of decoding and extending, in turn, medians of `SPEED_ROUNDS`."""
    extension = codec.extension
    assert extension is not None
    sound = torch.from_numpy(np.resize(samples, round(SPEED_SECONDS * RATE)))[None, None]
    codes = codec.encode(sound)

    def both() -> None:
        extension.extended(Waveform(codec.decode(codes)[0].numpy(), RATE))

    runs: dict[str, Callable[[], object]]
    runs = {"decoding": partial(codec.decode, codes), "decoding and extending": both}
    spent = median_seconds(runs, SPEED_ROUNDS, lambda stage, done, total: None)
    return {name: SPEED_SECONDS / value for name, value in spent.items()}


def _tables(
    rows: Sequence[Mapping[str, Any]], added: Mapping[str, DoubleArray], speed: Mapping[str, float]
) -> str:
    """By family and group, of the decoded sound and of the original's lower band."""
    cells = []
    names = [("group", group) for group in dict.fromkeys(row["group"] for row in rows)]
    names += [("family", family) for family in dict.fromkeys(row["family"] for row in rows)]
    for key, name in dict.fromkeys(names):
        mine = [row for row in rows if row[key] == name]
        line = [f"**{name}**" if key == "group" else name, str(len(mine))]
        for source in SOURCES:
            plain, wide = (
                float(np.mean([row[f"{source}_{x}"] for row in mine])) for x in ("resampled", "extended")
            )
            line += [f"{plain:.3f}", f"{wide:.3f}", f"{wide / plain:.2f}" if plain else ""]
        cells.append(line)
    heads = [f"{source}, {x}" for source in SOURCES for x in ("resampled", "extended", "ratio")]
    parts = ["Log-mel distance above 12 kHz:", table(["music", "files", *heads], cells)]
    cells = [
        [s, str(len(x)), f"{x.mean():.2f}", f"{np.percentile(x, 95):.2f}"] if len(x) else [s, "0", "", ""]
        for s, x in added.items()
    ]
    parts += [f"Added above 12 kHz where the original is below {NONE_DBFS:.0f} dBFS, dB over that:"]
    parts += [table(["of", "frames", "mean", "95th percentile"], cells)]
    parts += [f"Speed, {torch.get_num_threads()} threads, times real time:"]
    parts += [table(["step", "speed"], [[name, f"{value:.0f}"] for name, value in speed.items()])]
    return "\n\n".join(parts) + "\n"
