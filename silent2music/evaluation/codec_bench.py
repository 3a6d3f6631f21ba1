"""Compares codecs on the same music: error of the decoded sound, by instrument family too, and speed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from silent2music import audio
from silent2music.arrays import DoubleArray, FloatArray
from silent2music.audio import Waveform
from silent2music.codec import Codec, load_codec
from silent2music.data.pairs import music_files
from silent2music.errors import ConfigError, DataError, require
from silent2music.evaluation.bench import median_seconds
from silent2music.evaluation.codec_metrics import codec_figures
from silent2music.evaluation.features import quality_features
from silent2music.evaluation.quality import kernel_distance
from silent2music.evaluation.report import table
from silent2music.plotting import draw_spectrogram, new_figure, save
from silent2music.processes import Progress

FIGURES = {
    "log_mel": ("log-mel", ".3f"),
    "chroma": ("chroma", ".3f"),
    "onset_f": ("onset F", ".3f"),
    "roughness": ("roughness added", ".3f"),
    "level_db": ("level dB", "+.1f"),
    "si_sdr_db": ("SI-SDR dB", ".1f"),
}
"""In the tables: the heading and the format of each."""

SPEED_SECONDS, SPEED_ROUNDS = 20.0, 3

N_WORST = 3
"""Excerpts in the picture."""


@dataclass(frozen=True)
class BenchEntry:
    """A codec in the comparison.

    Attributes:
        name: in the tables.
        codec: the codec.
        n_codebooks: how many of its codebooks are decoded.
    """

    name: str
    codec: Codec
    n_codebooks: int

    @property
    def kbit_per_second(self) -> float:
        """Rate of the codes that are decoded."""
        return self.n_codebooks * self.codec.frame_rate * float(np.log2(self.codec.codebook_size)) / 1000.0

    def encode(self, sound: Tensor) -> Tensor:
        """Codes `[1, n_codebooks, T]` of samples `[1, 1, N]`."""
        return self.codec.encode(sound, self.n_codebooks)

    def through(self, samples: FloatArray) -> FloatArray:
        """Samples `[N]` coded and decoded."""
        decoded = self.codec.decode(self.encode(torch.from_numpy(samples)[None, None]))
        return np.asarray(decoded[0, 0, : len(samples)].cpu().numpy())


def parse_entry(text: str, download: bool = False) -> BenchEntry:
    """Parse a codec to compare, given as `NAME=FOLDER` or `NAME=FOLDER:BOOKS`; `download` as of `load_codec`.

    Raises:
        ConfigError: if it is written otherwise or asks for more codebooks than there are.
        CheckpointError: if the folder holds no codec.
    """
    name, _, rest = text.partition("=")
    folder, _, books = rest.rpartition(":") if rest.rpartition(":")[2].isdigit() else (rest, "", "0")
    if not name or not folder:
        raise ConfigError(f"'{text}' names no codec to compare; expected NAME=FOLDER[:BOOKS].")
    codec = load_codec(folder, download)
    n_codebooks = int(books) or codec.n_codebooks
    if n_codebooks > codec.n_codebooks:
        raise ConfigError(f"'{text}' asks for {n_codebooks} codebooks; the codec has {codec.n_codebooks}.")
    return BenchEntry(name, codec, n_codebooks)


def bench_music(
    families: Path | None, pairs: Path | None, real: Path | None, limit: int
) -> dict[str, list[Path]]:
    """Music to compare codecs on, by group: at most `limit` files of each, evenly spread.

    Args:
        families: held-out music of `s2m codec music`.
    """
    music = {
        "families": music_files(families) if families else [],
        "pairs": music_files(pairs, "validation") if pairs else [],
        "real": music_files(real) if real else [],
    }
    return {group: files[:: -(-len(files) // limit)] for group, files in music.items() if files}


def run_bench(
    entries: Sequence[BenchEntry],
    music: Mapping[str, Sequence[Path]],
    out: Path,
    seconds: float = 6.0,
    progress: Progress | None = None,
    pieces: Sequence[Path] = (),
    with_speed: bool = True,
) -> str:
    """Compare codecs and write `bench.json`, `bench.md` and `worst.png`, the last codec's worst excerpts.

    Args:
        music: files by group; the group `families` is divided by the names before the hyphen.
        out: folder, made if missing.
        pieces: music for `kernel_distances`, four files or more; without them these are left out.

    Returns:
        The tables, in Markdown.

    Raises:
        S2MError: if librosa or matplotlib is not installed.
        ConfigError: if the codecs have several sample rates.
        DataError: if there is no music.
    """
    require("librosa")
    require("matplotlib", "plot")
    rates = sorted({entry.codec.sample_rate for entry in entries})
    if len(rates) != 1:
        raise ConfigError(f"The codecs are of {rates} Hz; expected one sample rate for all.")
    clips = [(group, file) for group, files in music.items() for file in files]
    if not clips:
        raise DataError("There is no music to compare codecs on; give files or folders that hold some.")
    originals = [_middle(file, rates[0], seconds) for _, file in clips]
    rows: dict[str, list[dict[str, Any]]] = {entry.name: [] for entry in entries}
    for entry in entries:
        for i, ((group, file), samples) in enumerate(zip(clips, originals, strict=True)):
            figures = codec_figures(samples, entry.through(samples), rates[0])
            family = file.stem.rpartition("-")[0] if group == "families" else group
            rows[entry.name].append({"group": group, "family": family, "file": file.name, **figures})
            if progress is not None:
                progress(entry.name, i + 1, len(clips))
    last = entries[-1]
    errors = [row["log_mel"] for row in rows[last.name]]
    worst = sorted(range(len(clips)), key=lambda i: -errors[i])[:N_WORST]
    titles = [f"{clips[i][1].stem}, {errors[i]:.2f}" for i in worst]
    _plot(titles, [(originals[i], last.through(originals[i])) for i in worst], rates[0], out / "worst.png")
    kernels = kernel_distances(entries, pieces, progress) if pieces else {}
    speeds = measure_speed(entries, originals[0]) if with_speed else {}
    text = _tables(entries, rows, speeds)
    if kernels:
        cells = [[name, *(f"{value:.2f}" for value in found.values())] for name, found in kernels.items()]
        text += f"\nKernel distance of {len(pieces)} pieces to the originals:\n\n"
        text += table(["codec", "odd pieces to even originals", "all to all"], cells) + "\n"
    found = json.dumps({"rows": rows, "speed": speeds, "kernel": kernels}, indent=1)
    (out / "bench.json").write_text(found + "\n", encoding="utf-8")
    (out / "bench.md").write_text(text, encoding="utf-8")
    return text


def kernel_distances(
    entries: Sequence[BenchEntry], pieces: Sequence[Path], progress: Progress | None = None
) -> dict[str, dict[str, float]]:
    """Kernel distances of whole pieces, coded and decoded, to the originals, on the features of `s2m eval`.

    Args:
        pieces: four files or more.

    Returns:
        By codec, and for `no codec`: `odd`, that of the odd pieces to the even originals, as `s2m eval` has it;
        `all`, that of all to all, below 0 where nothing changed.
    """
    rate = entries[0].codec.sample_rate
    originals: list[DoubleArray] = []
    rows: dict[str, list[DoubleArray]] = {entry.name: [] for entry in entries}
    for i, file in enumerate(pieces):
        samples = np.ascontiguousarray(audio.read(file).mono().resampled(rate).samples[0])
        originals.append(quality_features(Waveform(samples[None], rate)))
        for entry in entries:
            rows[entry.name].append(quality_features(Waveform(entry.through(samples)[None], rate)))
        if progress is not None:
            progress("kernel distance", i + 1, len(pieces))

    def distance(found: Sequence[DoubleArray], reference: Sequence[DoubleArray]) -> float:
        wanted = np.concatenate(reference)
        mean, deviation = wanted.mean(axis=0), wanted.std(axis=0) + 1e-6
        scaled = [np.clip((x - mean) / deviation, -10.0, 10.0) for x in (wanted, np.concatenate(found))]
        return kernel_distance(scaled[0], scaled[1])

    return {
        name: {"odd": distance(found[1::2], originals[::2]), "all": distance(found, originals)}
        for name, found in {"no codec": originals, **rows}.items()
    }


def _middle(file: Path, sample_rate: int, seconds: float) -> FloatArray:
    """`[N]`, the middle of a file."""
    samples = audio.read(file, mono=True).resampled(sample_rate).samples[0]
    start = max(0, (len(samples) - round(seconds * sample_rate)) // 2)
    return np.ascontiguousarray(samples[start : start + round(seconds * sample_rate)])


def measure_speed(entries: Sequence[BenchEntry], samples: FloatArray) -> dict[str, list[float]]:
    """Encoding and decoding as multiples of real time, medians of `SPEED_ROUNDS`, on the threads that torch has.

    Beside the entries: the 24 kHz network of the `encodec` package at 3 kbit/s, with random weights.
    """
    from silent2music._torchaudio import ensure_torchaudio

    ensure_torchaudio()
    from encodec import EncodecModel

    encodec = EncodecModel.encodec_model_24khz(pretrained=False).eval()
    encodec.set_target_bandwidth(3.0)
    coders: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]]
    coders = {entry.name: (entry.encode, entry.codec.decode) for entry in entries}
    coders["EnCodec 24 kHz, random weights"] = (encodec.encode, encodec.decode)
    n_samples = round(SPEED_SECONDS * entries[0].codec.sample_rate)
    sound = torch.from_numpy(np.resize(samples, n_samples))[None, None]
    found = {}
    with torch.no_grad():
        for name, (encode, decode) in coders.items():
            runs = {"encoding": partial(encode, sound), "decoding": partial(decode, encode(sound))}
            spent = median_seconds(runs, SPEED_ROUNDS, lambda stage, done, total: None)
            found[name] = [SPEED_SECONDS / seconds for seconds in spent.values()]
    return found


def _tables(
    entries: Sequence[BenchEntry], rows: Mapping[str, list[dict[str, Any]]], speeds: Mapping[str, list[float]]
) -> str:
    """The comparison by group, the last codec by family, and the speeds."""
    name, headings = entries[-1].name, [heading for heading, _ in FIGURES.values()]
    last, parts = rows[name], []
    for group in dict.fromkeys(row["group"] for row in last):
        mine = {name: [row for row in found if row["group"] == group] for name, found in rows.items()}
        cells = [[e.name, f"{e.kbit_per_second:.2g}", *_means(mine[e.name])] for e in entries]
        parts += [f"**{group}** ({len(mine[name])} excerpts)", table(["codec", "kbit/s", *headings], cells)]
    families = dict.fromkeys(row["family"] for row in last)
    cells = [[family, *_means([row for row in last if row["family"] == family])] for family in families]
    parts += [f"**{name}** by family", table(["family", *headings], cells)]
    if speeds:
        cells = [[name, f"{encode:.0f}", f"{decode:.0f}"] for name, (encode, decode) in speeds.items()]
        parts += [f"Speed, {torch.get_num_threads()} threads, times real time:"]
        parts += [table(["codec", "encoding", "decoding"], cells)]
    return "\n\n".join(parts) + "\n"


def _means(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The mean of each figure as text; empty where no excerpt has one."""
    cells = []
    for figure, (_, form) in FIGURES.items():
        values = [row[figure] for row in rows if not np.isnan(row[figure])]
        cells.append(format(float(np.mean(values)), form) if values else "")
    return cells


def _plot(
    titles: Sequence[str], pairs: Sequence[tuple[FloatArray, FloatArray]], sample_rate: int, path: Path
) -> None:
    """Spectrograms of originals (left) and of the decoded sound (right), a row for each excerpt."""
    figure = new_figure(10.0, 2.2 * len(pairs))
    grid = figure.subplots(len(pairs), 2, squeeze=False)
    for row, title, sounds in zip(grid, titles, pairs, strict=True):
        for axes, label, samples in zip(row, (title, "decoded"), sounds, strict=True):
            draw_spectrogram(figure, axes, Waveform(samples[None], sample_rate), (-90.0, 0.0))
            axes.set_title(label, fontsize=8)
    save(figure, path)
