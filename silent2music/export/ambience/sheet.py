"""A contact sheet: for each room what was heard in it, the seam of its loop and its layers, to judge at a glance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silent2music import audio
from silent2music.audio import FloatArray
from silent2music.errors import AudioError, require
from silent2music.export.ambience.space import omni

ROOMS_PER_SHEET = 24
N_COLUMNS = 1200
COLOURS = {"loop": "tab:blue", "calm": "tab:green", "medium": "tab:blue", "intense": "tab:red"}


def draw_sheet(out: Path, manifest: Mapping[str, Any], path: Path) -> list[Path]:
    """Draw the rooms of a manifest, 24 to a sheet: `sheet.png`, then `sheet-2.png` and so on; old ones are replaced.

    Args:
        out: the folder of the manifest.
        manifest: as written there.
        path: of the first sheet.

    Returns:
        The sheets.

    Raises:
        AudioError: if the suffix is no picture's, or a file cannot be read or written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    check_sheet(path)
    rooms = manifest["rooms"]
    sheets = []
    for first in range(0, len(rooms), ROOMS_PER_SHEET):
        page = rooms[first : first + ROOMS_PER_SHEET]
        figure = Figure(figsize=(15, 1.9 * len(page) + 0.4), layout="constrained")
        FigureCanvasAgg(figure)
        rows = figure.subplots(len(page), 3, squeeze=False, gridspec_kw={"width_ratios": [1, 1.4, 1.4]})
        for axes, room in zip(rows, page, strict=True):
            _draw_profile(axes[0], room)
            _draw_seam(axes[1], out, room)
            _draw_layers(axes[2], out, room)
        sheet = path if first == 0 else path.with_stem(f"{path.stem}-{first // ROOMS_PER_SHEET + 1}")
        with audio.atomic_path(sheet, force=True) as temporary:
            figure.savefig(temporary, dpi=90, metadata={"Software": None})
        sheets.append(sheet)
    return sheets


def check_sheet(path: Path) -> None:
    """Refuse what is no PNG, and say at once if nothing can be drawn.

    Raises:
        AudioError: if the suffix is another one.
        S2MError: if matplotlib is not installed.
    """
    require("matplotlib", "plot")
    if path.suffix.lower() != ".png":
        raise AudioError(f"{path} has the suffix '{path.suffix}'; expected a picture, .png.")


def _draw_profile(axes: Any, room: Mapping[str, Any]) -> None:
    """Energy over time with events and beats."""
    profile, grid = room["profile"], room["grid"]
    energy = np.array(profile["energy_dbfs"])
    axes.plot((np.arange(len(energy)) + 0.5) / profile["curve_rate_hz"], energy, color="black", linewidth=0.8)
    for beat in profile["pulse_seconds"]:
        axes.axvline(beat, color="tab:green", linewidth=0.6, alpha=0.6)
    low = axes.get_ylim()[0]
    axes.plot([e["seconds"] for e in profile["events"]], [low] * len(profile["events"]), "|", color="tab:red")
    tempo = "no pulse" if grid["bpm"] is None else f"{grid['bpm']:.1f} bpm, {grid['bars']} bars"
    decay = "RT60 ?" if profile["rt60_seconds"] is None else f"RT60 {profile['rt60_seconds']:.1f} s"
    axes.set_title(f"{room['folder']}: {tempo}, {decay}, {grid['key']}", fontsize=7, loc="left")
    axes.set_ylabel("room dBFS", fontsize=6)
    axes.tick_params(labelsize=6)


def _draw_seam(axes: Any, out: Path, room: Mapping[str, Any]) -> None:
    """The first loop turned by half, so that its seam stands in the middle, and its fold dotted."""
    file = room["files"][0]
    samples = _mono(out, room, file)
    low, high = _outline(np.roll(samples, len(samples) // 2))
    x = np.linspace(-room["grid"]["seconds"] / 2, room["grid"]["seconds"] / 2, len(low))
    axes.fill_between(x, low, high, color=COLOURS[file["layer"]], linewidth=0)
    axes.axvline(0.0, color="black", linewidth=0.8, linestyle="--")
    fold = file["fold"]["sample"] / room["grid"]["sample_rate"]
    fold -= room["grid"]["seconds"] if fold > x[-1] else 0.0
    axes.axvline(fold, color="black", linewidth=0.8, linestyle=":")
    seam = file["seam"]
    figures = ", ".join(
        f"{name} {100 * seam[name]:.0f}" for name in ("level_jump", "spectral_flux", "derivative")
    )
    axes.set_title(f"{file['file']}, seam in the middle: {figures} (percentiles)", fontsize=7, loc="left")
    axes.tick_params(labelsize=6)


def _draw_layers(axes: Any, out: Path, room: Mapping[str, Any]) -> None:
    """Levels over time of the layers of the first variation, over each other, with the bars."""
    grid = room["grid"]
    for file in room["files"]:
        if file["variation"] == 1 and file["spatial"] == room["space"]["spatial"]:
            samples = _mono(out, room, file)
            n = max(1, len(samples) // 200)
            power = np.square(samples[: len(samples) // n * n], dtype=np.float64).reshape(-1, n).mean(axis=1)
            x = np.arange(len(power)) * n / grid["sample_rate"]
            label = f"{file['layer']} {file['lufs']} LUFS"
            axes.plot(
                x, 10 * np.log10(power + 1e-9), color=COLOURS[file["layer"]], linewidth=0.9, label=label
            )
    for bar in grid["bar_samples"]:
        axes.axvline(bar / grid["sample_rate"], color="grey", linewidth=0.5)
    axes.legend(fontsize=6, loc="lower right")
    axes.set_ylabel("dBFS", fontsize=6)
    axes.tick_params(labelsize=6)


def _mono(out: Path, room: Mapping[str, Any], file: Mapping[str, Any]) -> FloatArray:
    return omni(audio.read(out / room["folder"] / file["file"]).samples)


def _outline(samples: FloatArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lowest and highest sample of each of at most `N_COLUMNS` stretches."""
    n = max(1, len(samples) // N_COLUMNS)
    pieces = samples[: len(samples) // n * n].reshape(-1, n).astype(np.float64)
    return pieces.min(axis=1), pieces.max(axis=1)
