"""`s2m bench --growth`: what a further second costs after ten seconds, a minute, ten minutes and an hour.

Whole commands in fresh processes, each with a recording as long as its music. Short ones are repeated before,
between and after the long ones, so that a machine that gets slower or faster meanwhile shows in both; processor
time, which other programs disturb less, stands beside the time on the wall.

A machine that drifts by a tenth within minutes hides a growth of a few hundredths all the same. So, in one process,
the longest piece is made once more, and while it waits after one of its minutes, that minute and the last are set
beside pieces of a minute, made then and there: the ratio is what cost has grown by.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from silent2music import audio
from silent2music.audio import Waveform
from silent2music.config import SamplingConfig
from silent2music.evaluation.bench_files import Report, write_files
from silent2music.evaluation.metrics.statistics import bootstrap_mean
from silent2music.evaluation.speed import Progress, command_run, machine, write_room
from silent2music.evaluation.stages import one_thread
from silent2music.model import Silent2Music

LENGTHS = (10.0, 60.0, 600.0, 3600.0)
"""Seconds of music."""

SHORT_SECONDS = 60.0
"""What is no longer than this is run before all others and after each of them."""

N_MINUTES = 12
"""Minutes of the longest piece that are set beside pieces of a minute."""


def measure(
    model_folder: Path, room: Waveform, lengths: Sequence[float] = LENGTHS, progress: Progress | None = None
) -> Report:
    """Run `s2m infer` for recordings of several lengths.

    Args:
        model_folder: the model.
        room: repeated to each length.
        lengths: in seconds, at least two.
        progress: called with the stage, steps done and steps in all.

    Returns:
        `machine`; `runs`: for each length medians of `seconds`, `cpu_seconds` and `peak_mib`, and `n_runs`;
        `further`: from each length to the next `seconds` and `cpu_seconds` for a further second of music; `minutes`:
        see `minutes_beside_short_pieces`, of the longest if that has several.
    """
    tell = progress or (lambda stage, done, total: None)
    ordered = schedule(lengths)
    measured: dict[float, list[dict[str, float]]] = {length: [] for length in sorted(set(lengths))}
    for done, length in enumerate(ordered):
        tell("whole commands", done, len(ordered))
        measured[length].append(command_run(model_folder, room, length, room_seconds=length))
    runs = {
        length: {name: float(np.median([run[name] for run in found])) for name in found[0]}
        | {"n_runs": len(found)}
        for length, found in measured.items()
    }
    n_minutes = int(max(lengths) / SHORT_SECONDS)
    return {
        "machine": machine(),
        "runs": {f"{length:g}": figures for length, figures in runs.items()},
        "further": list(_further(runs)),
        "minutes": minutes_beside_short_pieces(model_folder, room, n_minutes, tell) if n_minutes > 2 else [],
    }


def minutes_beside_short_pieces(
    model_folder: Path, room: Waveform, n_minutes: int, progress: Progress
) -> list[dict[str, float]]:
    """What single minutes of a long piece cost beside pieces of one minute.

    Args:
        model_folder: the model.
        room: repeated to the length of the piece.
        n_minutes: of the piece; of its minutes from the second on up to `N_MINUTES` are measured, evenly spread.
        progress: called with the stage, steps done and steps in all.

    Returns:
        For each its number `minute`, from 1; `seconds` it took; `short_seconds`, the mean of two pieces of a minute,
        one made just before and one just after.
    """
    chosen = set(np.unique(np.linspace(2, n_minutes, N_MINUTES).round().astype(int)).tolist())
    found: list[dict[str, float]] = []
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        model = Silent2Music.from_pretrained(model_folder)
        short, long = Path(folder) / "short.wav", Path(folder) / "long.wav"
        write_room(short, room, SHORT_SECONDS)
        write_room(long, room, n_minutes * SHORT_SECONDS)
        piece = _minutes(model, long)
        for minute in range(1, n_minutes + 1):
            if minute not in chosen:
                next(piece)
            else:
                before, itself, after = (
                    next(_minutes(model, short)),
                    next(piece),
                    next(_minutes(model, short)),
                )
                found.append({"minute": minute, "seconds": itself, "short_seconds": (before + after) / 2})
            progress("minutes of a long piece", minute, n_minutes)
    return found


def _minutes(model: Silent2Music, room: Path) -> Iterator[float]:
    """Seconds that each minute of music for the whole of a recording takes, made when it is asked for."""
    n_samples, begun = 0, time.perf_counter()
    per_minute = round(SHORT_SECONDS * model.codec.sample_rate)
    sampling = SamplingConfig(guidance=model.config.guidance)
    for piece in model.stream(audio.open_recording(room), sampling):
        before, n_samples = n_samples, n_samples + piece.n_samples
        if n_samples // per_minute > before // per_minute:
            yield time.perf_counter() - begun
            begun = time.perf_counter()


def schedule(lengths: Sequence[float]) -> list[float]:
    """The order of the runs: short ones twice, then after each long one once.

    Example:
        >>> schedule([600, 10, 60])
        [10, 60, 10, 60, 600, 10, 60]
    """
    short = sorted({length for length in lengths if length <= SHORT_SECONDS})
    long = sorted(set(lengths) - set(short))
    return [*short, *short, *(run for length in long for run in (length, *short))]


def _further(runs: Mapping[float, Mapping[str, float]]) -> Iterator[dict[str, float]]:
    for (a, before), (b, after) in pairwise(runs.items()):
        costs = {name: (after[name] - before[name]) / (b - a) for name in ("seconds", "cpu_seconds")}
        yield {"from_seconds": a, "to_seconds": b, **costs}


def write_growth(report: Report, folder: Path, force: bool = False) -> str:
    """Write `growth.json`, `growth.md` and `growth.png` to a folder; see `bench_files.write_files`.

    Returns:
        The text of `growth.md`.
    """
    return write_files(folder, "growth", report, table(report), _draw, force=force)


def table(report: Report) -> str:
    """The report as Markdown."""
    lines = [
        "| recording and music | runs | start to end | processor | peak memory "
        "| a further second: wall | processor |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    further = {f"{step['to_seconds']:g}": step for step in report["further"]}
    for name, run in report["runs"].items():
        cells = [
            _said(float(name)),
            f"{run['n_runs']}",
            f"{run['seconds']:.1f} s",
            f"{run['cpu_seconds']:.1f} s",
        ]
        cells.append(f"{run['peak_mib']:.0f} MiB")
        costs = further.get(name)
        cells += (
            [f"{1000 * costs[kind]:.1f} ms" for kind in ("seconds", "cpu_seconds")] if costs else ["", ""]
        )
        lines.append(f"| {' | '.join(cells)} |")
    if report["minutes"]:
        lines += ["", _said_of_minutes(report["minutes"])]
    return "\n".join(lines)


def _said_of_minutes(minutes: Sequence[Mapping[str, float]]) -> str:
    """What minutes of the long piece cost beside pieces of one, with a 95 % bootstrap interval of the mean."""
    ratios = np.array([minute["seconds"] / minute["short_seconds"] for minute in minutes])
    numbers = ", ".join(f"{minute['minute']:g}" for minute in minutes)
    return (
        f"A minute of the longest piece takes {bootstrap_mean(ratios)} times what a piece of a "
        f"minute takes that is made just before and just after (minutes {numbers})."
    )


def _said(seconds: float) -> str:
    return f"{seconds:g} s" if seconds < 60 else f"{seconds / 60:g} min"


def _draw(report: Report, path: Path) -> None:
    """What a further second costs, and peak memory, against the length."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    cost, memory = figure.subplots(1, 2)
    borders = [float(name) for name in report["runs"]]
    for kind, label, colour in (("seconds", "wall", "#4a7ba6"), ("cpu_seconds", "processor", "#b5654a")):
        steps = [1000 * step[kind] for step in report["further"]]
        cost.stairs(steps, borders, label=label, color=colour, linewidth=2)
    cost.set_ylabel("ms for a further second of music")
    cost.legend()
    memory.plot(borders, [run["peak_mib"] for run in report["runs"].values()], "o-", color="#4a7ba6")
    memory.set_ylabel("peak memory, MiB")
    for axes in (cost, memory):
        axes.set_xscale("log")
        axes.set_xticks(borders, [_said(length) for length in borders])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("length of recording and music")
        axes.set_ylim(0, 1.1 * axes.dataLim.y1)
    figure.savefig(path, dpi=130, format="png")
