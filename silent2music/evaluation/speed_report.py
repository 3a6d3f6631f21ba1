"""The report of `s2m bench`: JSON, tables and a picture."""

from __future__ import annotations

from pathlib import Path

from silent2music.evaluation.bench_files import Report, write_files
from silent2music.evaluation.speed import growth


def write_speed_report(report: Report, folder: Path, force: bool = False) -> str:
    """Write `speed.json`, `speed.md` and `speed.png` to a folder; see `bench_files.write_files`.

    Returns:
        The text of `speed.md`.
    """
    return write_files(folder, "speed", report, table(report), _draw, force=force)


def table(report: Report) -> str:
    """The report as Markdown."""
    machine, limit = report["machine"], report["limit"]
    lines = [
        f"{report['model']} on {machine['cores']} cores ({machine['capability']}), torch {machine['torch']}",
        "",
        "| | times real time | by processor time | ms per second of music |",
        "|---|---:|---:|---:|",
    ]
    for group in ("stages", "steps"):
        for name, figures in report[group].items():
            if name != "first audio":
                label = f"steps, {name}" if group == "steps" else name
                rate = figures["times_real_time"]
                busy = rate * figures["wall_seconds"] / figures["cpu_seconds"]
                lines.append(f"| {label} | {rate:.1f} | {busy:.1f} | {1000 / rate:.1f} |")
    lines.append(
        f"| limit of a step | {limit['times_real_time']:.1f} | | {1000 / limit['times_real_time']:.1f} |"
    )
    best = max(f["times_real_time"] for name, f in report["steps"].items() if "thread" in name)
    share = best / limit["times_real_time"]
    lines += [
        "",
        f"A step reads {limit['bytes_per_step'] / 1e6:.1f} MB at {limit['bytes_per_second'] / 1e9:.1f} GB/s and "
        f"makes {limit['multiply_adds_per_step'] / 1e6:.1f} M multiply-adds at "
        f"{limit['multiply_adds_per_second'] / 1e9:.1f} G/s; the steps reach {100 * share:.0f} % of that limit.",
    ]
    if "MusicGen" in report["steps"]:
        ratio = best / report["steps"]["MusicGen"]["times_real_time"]
        lines.append(f"Steps take a {ratio:.1f}th of the time of MusicGen's of the same size.")
    first = report["stages"]["first audio"]["wall_seconds"]
    lines += [f"First audio of a warm stream after {1000 * first:.0f} ms.", ""]
    lines += ["| batch | seconds of music a second | ms per row and second |", "|---:|---:|---:|"]
    for name, figures in report["batch"].items():
        rate = figures["times_real_time"]
        lines.append(f"| {name} | {rate:.1f} | {1000 / rate:.1f} |")
    lines += ["", "| music | `s2m infer` from start to end | peak memory |", "|---:|---:|---:|"]
    for name, run in report["runs"].items():
        lines.append(f"| {float(name):g} s | {run['seconds']:.2f} s | {run['peak_mib']:.0f} MiB |")
    lines.append(f"\n`s2m --help` answers in {report['help_seconds']:.2f} s.")
    for length, cost, _ in growth(report["runs"]):
        lines.append(f"\nUp to {length:g} s, each further second of music takes {1000 * cost:.1f} ms.")
    lines += [
        "",
        "| weights | largest error of a logit | RMS | nats a token |",
        "|---|---:|---:|---:|",
    ]
    for name, figures in report["parity"].items():
        largest, rms = figures["largest_logit_error"], figures["rms_logit_error"]
        low, high = figures["nll_interval"]
        lines.append(
            f"| {name} | {largest:.2g} | {rms:.2g} | {figures['nll']:.4f} ({low:.2f} to {high:.2f}) |"
        )
    return "\n".join(lines)


def _draw(report: Report, path: Path) -> None:
    """Speed by stage and kind, and growth with batch and length."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    stages, batch, length = figure.subplots(1, 3, width_ratios=(2, 1, 1))
    bars = {name: f["times_real_time"] for name, f in report["stages"].items() if name != "first audio"}
    bars |= {f"steps, {name}": f["times_real_time"] for name, f in report["steps"].items()}
    bars["limit of a step"] = report["limit"]["times_real_time"]
    stages.barh(list(bars), list(bars.values()), color="#4a7ba6")
    stages.invert_yaxis()
    stages.set_xscale("log")
    stages.axvline(1.0, color="black", linewidth=0.8)
    stages.set_xlabel("times real time")
    sizes = [int(name) for name in report["batch"]]
    rates = [f["times_real_time"] for f in report["batch"].values()]
    batch.plot(sizes, rates, "o-", color="#4a7ba6")
    batch.plot(sizes, [rates[0]] * len(sizes), ":", color="grey")
    batch.set_xlabel("rows in a batch")
    batch.set_ylabel("seconds of music a second")
    batch.set_ylim(bottom=0)
    lengths = [float(name) / 60 for name in report["runs"]]
    length.plot(lengths, [run["seconds"] / 60 for run in report["runs"].values()], "o-", color="#4a7ba6")
    length.set_xlabel("minutes of music")
    length.set_ylabel("minutes of work")
    memory = length.twinx()
    memory.plot(lengths, [run["peak_mib"] for run in report["runs"].values()], "s--", color="#b5654a")
    memory.set_ylabel("peak memory, MiB", color="#b5654a")
    memory.set_ylim(bottom=0)
    figure.savefig(path, dpi=130, format="png")
