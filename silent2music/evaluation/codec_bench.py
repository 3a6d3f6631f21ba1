"""Codecs side by side on the same music: how near each comes to it, for every family, and how fast it is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from silent2music import audio
from silent2music.bundled_codec import BundledCodec
from silent2music.codec import Codec, load_codec
from silent2music.errors import ConfigError, DataError
from silent2music.evaluation.codec_metrics import compare
from silent2music.evaluation.codec_plots import plot_worst
from silent2music.phase import griffin_lim

Progress = Callable[[str, int, int], None]

FIGURES = ("log_mel", "chroma", "onset_f", "roughness", "level_db", "si_sdr_db")

RANDOM_ITERATIONS = 16
"""Of Griffin-Lim from random phases, for what magnitudes alone would sound like."""

SPEED_SECONDS = 20.0

N_WORST = 3
"""Excerpts in the picture."""


@dataclass(frozen=True)
class Candidate:
    """A codec as it is to be heard.

    Attributes:
        name: in the table.
        codec: its codec.
        n_codebooks: how many of its codebooks are decoded.
        random_phases: rebuild the phase from random ones instead of the codec's own way.
    """

    name: str
    codec: Codec
    n_codebooks: int
    random_phases: bool = False

    @property
    def kbit_per_second(self) -> float:
        """Rate of the codes that are decoded."""
        return self.n_codebooks * self.codec.frame_rate * float(np.log2(self.codec.codebook_size)) / 1000.0

    def through(self, sound: Tensor) -> Tensor:
        """Samples `[1, 1, N]` coded and decoded."""
        return self.decode(self.encode(sound))[..., : sound.shape[-1]]

    def encode(self, sound: Tensor) -> Tensor:
        """Codes `[1, n_codebooks, T]` of samples `[1, 1, N]`."""
        return self.codec.encode(sound, self.n_codebooks)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Samples `[1, 1, N]` of codes `[1, K, T]`."""
        codec = self.codec
        if not self.random_phases or not isinstance(codec, BundledCodec):
            return codec.decode(codes)
        magnitudes = codec.magnitudes(codec.vectors(codes), codes.shape[1])
        angles = 2 * np.pi * torch.rand(magnitudes.shape, generator=torch.Generator().manual_seed(0))
        phases = torch.polar(torch.ones_like(magnitudes), angles)
        n_fft, hop = codec.config.n_fft, codec.config.hop
        return griffin_lim(magnitudes, phases, n_fft, hop, RANDOM_ITERATIONS)[:, None]


def parse_candidate(text: str) -> Candidate:
    """A candidate from `NAME=FOLDER`, `NAME=FOLDER:BOOKS` or either with `@random` behind it.

    Raises:
        ConfigError: if it is written otherwise or asks for more codebooks than there are.
        CheckpointError: if the folder holds no codec.
    """
    name, _, rest = text.partition("=")
    rest, _, phases = rest.partition("@")
    folder, _, books = rest.rpartition(":") if rest.rpartition(":")[2].isdigit() else (rest, "", "0")
    if not name or not folder or phases not in ("", "random"):
        raise ConfigError(f"'{text}' is no candidate; expected NAME=FOLDER[:BOOKS][@random].")
    codec = load_codec(folder)
    n_codebooks = int(books) or codec.n_codebooks
    if n_codebooks > codec.n_codebooks:
        raise ConfigError(f"'{text}' asks for {n_codebooks} codebooks; the codec has {codec.n_codebooks}.")
    return Candidate(name, codec, n_codebooks, phases == "random")


def run_bench(
    candidates: Sequence[Candidate],
    music: Mapping[str, Sequence[Path]],
    out: Path,
    seconds: float = 8.0,
    progress: Progress | None = None,
) -> str:
    """Compare codecs and write `bench.json`, `bench.md` and `worst.png`, what the last codec does worst.

    Args:
        candidates: to compare, all at one sample rate.
        music: files by group; the group `families` is divided by the names before the hyphen.
        out: folder, made if missing.
        seconds: of each file, from its middle.
        progress: called with candidate, files done and files in all.

    Returns:
        The table, in Markdown.

    Raises:
        DataError: if there is no music.
    """
    last = candidates[-1]
    clips = [
        (group, file, _middle(file, 24_000, seconds)) for group, files in music.items() for file in files
    ]
    if not clips:
        raise DataError("There is no music to compare codecs on; give files or folders that hold some.")
    rows: dict[str, list[dict[str, Any]]] = {}
    for candidate in candidates:
        rows[candidate.name] = []
        for i, (group, file, samples) in enumerate(clips):
            decoded = candidate.through(torch.from_numpy(samples)[None, None])[0, 0].cpu().numpy()
            family = file.stem.rpartition("-")[0] if group == "families" else group
            figures = compare(samples, decoded, candidate.codec.sample_rate)
            rows[candidate.name].append({"group": group, "family": family, "file": file.name, **figures})
            if progress is not None:
                progress(candidate.name, i + 1, len(clips))
    worst = np.argsort([-row["log_mel"] for row in rows[last.name]])[:N_WORST]
    pictures = []
    for i in worst:
        decoded = last.through(torch.from_numpy(clips[i][2])[None, None])[0, 0].cpu().numpy()
        pictures.append((f"{clips[i][1].stem}, {rows[last.name][i]['log_mel']:.2f}", clips[i][2], decoded))
    plot_worst(pictures, last.codec.sample_rate, out / "worst.png")
    speeds = measure_speed(candidates, clips[0][2])
    text = _tables(candidates, rows, speeds)
    out.mkdir(parents=True, exist_ok=True)
    table = json.dumps({"rows": rows, "speed": speeds}, indent=1)
    (out / "bench.json").write_text(table + "\n", encoding="utf-8")
    (out / "bench.md").write_text(text, encoding="utf-8")
    return text


def mean_log_mel(folder: Path) -> dict[str, float]:
    """By candidate, the mean over groups of what `run_bench` found and wrote to a folder."""
    rows = json.loads((folder / "bench.json").read_text(encoding="utf-8"))["rows"]
    found = {}
    for name, those in rows.items():
        groups = {row["group"] for row in those}
        means = [np.mean([row["log_mel"] for row in those if row["group"] == group]) for group in groups]
        found[name] = float(np.mean(means))
    return found


def measure_speed(candidates: Sequence[Candidate], samples: Any) -> dict[str, list[float]]:
    """Encoding and decoding as multiples of real time, the faster of two runs each, on the threads that torch has.

    Beside the candidates: the 24 kHz network of the `encodec` package at 3 kbit/s, with random weights.
    """
    n_needed = round(SPEED_SECONDS * 24_000)
    sound = torch.from_numpy(np.resize(samples, n_needed))[None, None]
    jobs: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Any]]]
    jobs = {c.name: (c.encode, c.decode) for c in candidates}
    jobs["EnCodec 24 kHz, random weights"] = _encodec()
    found = {}
    for name, (encode, decode) in jobs.items():
        codes = encode(sound)
        found[name] = [SPEED_SECONDS / _time(encode, sound), SPEED_SECONDS / _time(decode, codes)]
    return found


def _time(function: Callable[[Tensor], Any], argument: Tensor) -> float:
    """Seconds of the faster of two calls."""
    times = []
    for _ in range(2):
        begun = time.perf_counter()
        function(argument)
        times.append(time.perf_counter() - begun)
    return min(times)


def _encodec() -> tuple[Callable[[Tensor], Any], Callable[[Any], Any]]:
    """Encoding and decoding by `encodec`'s own model."""
    from silent2music._torchaudio import ensure_torchaudio

    ensure_torchaudio()
    from encodec import EncodecModel

    model = EncodecModel.encodec_model_24khz(pretrained=False).eval()
    model.set_target_bandwidth(3.0)
    return torch.no_grad()(model.encode), torch.no_grad()(model.decode)


def _middle(file: Path, sample_rate: int, seconds: float) -> Any:
    """`[N]` float32, the middle of a file."""
    samples = audio.read(file).mono().resampled(sample_rate).samples[0]
    start = max(0, (len(samples) - round(seconds * sample_rate)) // 2)
    return np.ascontiguousarray(samples[start : start + round(seconds * sample_rate)])


def _tables(
    candidates: Sequence[Candidate],
    rows: Mapping[str, list[dict[str, Any]]],
    speeds: Mapping[str, list[float]],
) -> str:
    """The comparison by group, the last candidate by family, and the speeds."""
    lines = []
    for group in dict.fromkeys(row["group"] for row in rows[candidates[0].name]):
        mine = {name: [r for r in found if r["group"] == group] for name, found in rows.items()}
        lines += [f"**{group}** ({len(mine[candidates[0].name])} excerpts)", "", _head("codec | kbit/s")]
        lines += [_line(f"{c.name} | {c.kbit_per_second:.2g}", mine[c.name]) for c in candidates]
        lines.append("")
    last = rows[candidates[-1].name]
    lines += [f"**{candidates[-1].name}** by family", "", _head("family")]
    lines += [
        _line(f, [r for r in last if r["family"] == f]) for f in dict.fromkeys(r["family"] for r in last)
    ]
    lines += ["", f"Speed, {torch.get_num_threads()} threads, times real time:", ""]
    lines += ["| codec | encoding | decoding |", "|---|---|---|"]
    lines += [f"| {name} | {encode:.0f} | {decode:.0f} |" for name, (encode, decode) in speeds.items()]
    return "\n".join(lines) + "\n"


def _head(first: str) -> str:
    columns = f"| {first} | log-mel | chroma | onset F | roughness added | level dB | SI-SDR dB |"
    return columns + "\n|" + "---|" * (columns.count("|") - 1)


def _line(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    means = [float(np.nanmean([row[figure] for row in rows])) for figure in FIGURES]
    return (
        f"| {name} | "
        + " | ".join(f"{m:.3f}" for m in means[:-2])
        + " | {:+.1f} | {:.1f} |".format(*means[-2:])
    )
