"""Contact sheets: pictures of each room's profile, of the seam of its loop, and of the levels of its layers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from silent2music import audio
from silent2music.errors import AudioError, require
from silent2music.export.provenance import picture_metadata
from silent2music.export.space import omni_of
from silent2music.files import atomic_path

ROOMS_PER_SHEET = 24
N_COLUMNS = 1200
COLOURS = {"loop": "tab:blue", "calm": "tab:green", "medium": "tab:blue", "intense": "tab:red"}


def check_sheet(path: Path) -> None:
    """Raise an error at once if the path is no PNG or matplotlib is missing.

    Raises:
        AudioError: if the suffix is another one.
        S2MError: if matplotlib is not installed.
    """
    require("matplotlib", "plot")
    if path.suffix.lower() != ".png":
        raise AudioError(f"{path} has the suffix '{path.suffix}'; expected a picture, .png.")


def draw_sheet(out: Path, manifest: Mapping[str, Any], path: Path) -> None:
    """Draw the rooms of a manifest, 24 to a sheet: `sheet.png`, then `sheet-2.png` and so on; old ones are replaced.

    Args:
        path: of the first sheet.

    Raises:
        AudioError: if a file cannot be read or written.
    """
    figure_of = require("matplotlib.figure", "plot").Figure
    for first in range(0, len(manifest["rooms"]), ROOMS_PER_SHEET):
        page = manifest["rooms"][first : first + ROOMS_PER_SHEET]
        figure = figure_of(figsize=(15, 1.9 * len(page) + 0.4), layout="constrained")
        rows = figure.subplots(len(page), 3, squeeze=False, width_ratios=(1, 1.4, 1.4))
        for (profile, seam, layers), room in zip(rows, page, strict=True):
            _draw_profile(profile, room)
            _draw_seam(seam, out, room)
            _draw_layers(layers, out, room)
        for axes in rows.flat:
            axes.tick_params(labelsize=6)
        sheet = path if first == 0 else path.with_stem(f"{path.stem}-{first // ROOMS_PER_SHEET + 1}")
        with atomic_path(sheet, force=True) as temporary:
            figure.savefig(temporary, dpi=90, metadata=picture_metadata(path))


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


def _draw_seam(axes: Any, out: Path, room: Mapping[str, Any]) -> None:
    """The first loop turned by half, so that its seam stands in the middle, and its fold dotted."""
    file, half = room["files"][0], room["grid"]["seconds"] / 2
    samples = omni_of(out, room, file).samples[0]
    turned = np.roll(samples, len(samples) // 2)
    n = max(1, len(turned) // N_COLUMNS)
    columns = turned[: len(turned) // n * n].reshape(-1, n)
    x = np.linspace(-half, half, len(columns))
    axes.fill_between(x, columns.min(axis=1), columns.max(axis=1), color=COLOURS[file["layer"]], linewidth=0)
    axes.axvline(0.0, color="black", linewidth=0.8, linestyle="--")
    for fold in (own["sample"] / room["grid"]["sample_rate"] for own in file["folds"]):
        axes.axvline(fold if fold <= half else fold - 2 * half, color="black", linewidth=0.8, linestyle=":")
    figures = ", ".join(
        f"{name} {100 * file['seam'][name]:.0f}" for name in ("level_jump", "spectral_flux", "derivative")
    )
    axes.set_title(f"{file['file']}, seam in the middle: {figures} (percentiles)", fontsize=7, loc="left")


def _draw_layers(axes: Any, out: Path, room: Mapping[str, Any]) -> None:
    """Levels over time of the layers of the first variation, over each other, with the bars."""
    grid = room["grid"]
    for file in room["files"]:
        if file["variation"] == 1 and file["spatial"] == room["space"]["spatial"]:
            samples = omni_of(out, room, file).samples
            n = max(1, samples.shape[1] // 200)
            levels = audio.level_curve_dbfs(samples, n)
            x = np.arange(len(levels)) * n / grid["sample_rate"]
            label = f"{file['layer']} {file['lufs']} LUFS"
            axes.plot(x, np.maximum(levels, -90), color=COLOURS[file["layer"]], linewidth=0.9, label=label)
    for bar in grid["bar_samples"]:
        axes.axvline(bar / grid["sample_rate"], color="grey", linewidth=0.5)
    axes.legend(fontsize=6, loc="lower right")
    axes.set_ylabel("dBFS", fontsize=6)
