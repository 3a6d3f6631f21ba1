"""Pictures of a codec bench: learning curves, and spectrograms of what is coded worst."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from silent2music.audio import atomic_path
from silent2music.distances import spectrum
from silent2music.errors import DataError

FloatArray = NDArray[np.float32]

N_FFT = 1024
RANGE_DB = (-90.0, 0.0)


def plot_curves(runs: Mapping[str, Path], path: Path) -> None:
    """Held-out log-mel distance over minutes of training, of runs by name, from their `log.jsonl`.

    Raises:
        DataError: if a run has no log with a validation in it.
    """
    figure, axes = _figure(1, (7.0, 4.0))
    for name, folder in runs.items():
        try:
            text = (folder / "log.jsonl").read_text(encoding="utf-8")
            lines = [json.loads(line) for line in text.splitlines()]
        except (OSError, ValueError) as error:
            raise DataError(f"{folder} holds no log of a codec's training ({error}).") from error
        points = [line for line in lines if "log_mel" in line]
        if not points:
            raise DataError(f"{folder / 'log.jsonl'} holds no validation yet; train longer.")
        minutes = [(point["time"] - lines[0]["time"]) / 60.0 for point in points]
        axes[0].plot(minutes, [point["log_mel"] for point in points], marker=".", label=name)
    axes[0].set(xlabel="minutes", ylabel="log-mel distance, held out", yscale="log")
    axes[0].legend()
    axes[0].grid(alpha=0.3, which="both")
    _save(figure, path)


def plot_worst(clips: Sequence[tuple[str, FloatArray, FloatArray]], sample_rate: int, path: Path) -> None:
    """Spectrograms of originals (left) and what came back (right), a row for each of `(title, in, out)`."""
    figure, axes = _figure(2 * len(clips), (10.0, 2.2 * len(clips)), columns=2)
    for i, (title, *sounds) in enumerate(clips):
        for side, samples in enumerate(sounds):
            level = spectrum(torch.from_numpy(np.ascontiguousarray(samples))[None], N_FFT)[0]
            picture = 20.0 * np.log10(np.maximum(level.numpy(), 1e-6))
            extent = (0.0, len(samples) / sample_rate, 0.0, sample_rate / 2000.0)
            place = axes[2 * i + side]
            place.imshow(
                picture, origin="lower", aspect="auto", extent=extent, vmin=RANGE_DB[0], vmax=RANGE_DB[1]
            )
            place.set_title(title if side == 0 else "decoded", fontsize=8)
            place.set_ylabel("kHz" if side == 0 else "", fontsize=8)
            place.tick_params(labelsize=7)
    _save(figure, path)


def _figure(n_axes: int, size: tuple[float, float], columns: int = 1) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(np.ravel(figure.subplots(n_axes // columns, columns)))


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path, force=True) as temporary:
        figure.savefig(temporary, dpi=80)
