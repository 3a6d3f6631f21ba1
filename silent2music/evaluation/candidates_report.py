"""The report of `s2m bench --candidates`: JSON and a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from silent2music.evaluation.bench_files import Report, write_files


def write_candidates(report: Report, folder: Path, force: bool = False) -> str:
    """Write `candidates.json` and `candidates.md` to a folder; see `bench_files.write_files`.

    Returns:
        The text of `candidates.md`.
    """
    return write_files(folder, "candidates", report, table(report), force=force)


def table(report: Report) -> str:
    """The report as Markdown."""
    host, rate = report["machine"], report["frame_rate"]
    lines = [
        f"{report['model']} on {host['cores']} cores ({host['capability']}), one thread, torch {host['torch']}; "
        f"guidance as two rows of one batch, attention window full, medians of {report['n_rounds']} blocks.",
        "",
        "| step | steps a second | times real time | once, s | ready, s | memory, MiB | disk, MiB | installed, MiB "
        "| largest error of a logit | RMS | other argmax |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in report["candidates"].items():
        if "missing" in row:
            lines.append(f"| {name} | {row['missing']} |" + " |" * 9)
        else:
            lines.append(f"| {name} | {_cells(row, rate)} |")
    return "\n".join([*lines, "", NOTES])


NOTES = """\
`once`: to export, compile or convert, on one machine or on each. `ready`: in a process that has the model, from
importing the runtime to the end of the first step. `memory`: peak over that of a process that only loads the
model. Errors are those of guided logits on a piece's own tokens against the whole decoder in fp32, `other argmax`
the share of tokens whose most likely value is another. "No guidance" computes another function: it is what
distilling guidance away could gain at most."""


def _cells(row: Mapping[str, float], frame_rate: float) -> str:
    """The figures of a row."""
    rate = row["steps_per_second"]
    figures = [
        f"{rate:.0f}",
        f"{rate / frame_rate:.1f}",
        f"{row['once_seconds']:.1f}",
        f"{row['ready_seconds']:.2f}",
    ]
    figures += [f"{row[name]:.0f}" for name in ("extra_mib", "disk_mib", "package_mib")]
    if "rms_logit_error" not in row:
        return " | ".join([*figures, "", "", ""])
    errors = (f"{row[name]:.2g}" for name in ("largest_logit_error", "rms_logit_error"))
    return " | ".join([*figures, *errors, f"{100 * row['argmax_differs']:.2f} %"])
