"""The report of a benchmark as JSON, as Markdown for reading, and as pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from silent2music.audio import atomic_path

Report = dict[str, Any]

SYSTEMS = {
    "real": "paired real music (ceiling)",
    "real, shuffled": "real music of another room",
    "codec": "real music through the codec",
    "arranger": "rule-based arranger",
    "arranger, shuffled": "arranger, another room's",
    "retrieval": "nearest training room's music",
    "retrieval, shuffled": "nearest training room's, wrong room",
    "model": "**the model, true room**",
    "model, shuffled": "the model, shuffled room",
    "dropped": "the model, no room",
    "noise": "white noise (bad anchor)",
    "grains": "real music in shuffled 50 ms grains (bad anchor)",
    "outputs": "the files",
}
"""What a system is called in the report, in its order."""

COLOURS = {
    "real": "0.15",
    "real, shuffled": "0.7",
    "codec": "tab:brown",
    "arranger": "tab:green",
    "retrieval": "tab:olive",
    "model": "tab:blue",
    "model, shuffled": "lightskyblue",
    "dropped": "lavender",
}
"""What the summary picture shows, and how."""

DRAWN = ("temperature", "top_k", "top_p", "guidance")

HEADLINE = (
    "onset_hit_rate",
    "onset_precision",
    "onset_f",
    "tempo_4_octave",
    "energy_pearson",
    "boundary_f_3",
)


def write_report(report: Report, out: Path) -> None:
    """Write `report.json`, `report.md` and, where there is something to draw, `summary.png` and `kinds.png`.

    Raises:
        AudioError: if the folder cannot be written.
    """
    with atomic_path(out / "report.json", force=True) as temporary:
        temporary.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    pictures = []
    if report.get("follow", {}).get("measured"):
        _draw_summary(report, out / "summary.png")
        pictures.append("summary.png")
    if report.get("kinds", {}).get("real"):
        _draw_kinds(report["kinds"], out / "kinds.png")
        pictures.append("kinds.png")
    with atomic_path(out / "report.md", force=True) as temporary:
        temporary.write_text(_markdown(report, pictures), encoding="utf-8")


def _markdown(report: Report, pictures: list[str]) -> str:
    model = report.get("model", {})
    title = f"# Evaluation of {model['name']}" if model else "# Evaluation of outputs"
    parts = [title, _preamble(report), *(f"![{p.removesuffix('.png')}]({p})" for p in pictures)]
    parts += _targets(report.get("targets", []))
    for side, heading in (
        ("labelled", "Does the music follow the room? (true events, tempo and boundaries of the room)"),
        ("measured", "The same, with the room's side measured on its audio"),
    ):
        table = report.get("follow", {}).get(side, {})
        if any(table.values()):
            follow = _follow_table(table, report["differences"][side])
            parts += [f"## {heading}", follow, _baseline_table(table)]
    parts += _judges(report)
    if report.get("kinds"):
        parts += ["## Kinds of rooms and their music", _kind_table(report["kinds"]), _checks(report)]
    parts += _sound(report)
    parts += _own(report)
    parts += _ruler(report)
    return "\n\n".join(part for part in parts if part) + "\n"


def _preamble(report: Report) -> str:
    held_out = {True: "held-out ", False: "(not held-out) ", None: ""}[report.get("held_out")]
    seed, seconds = report["config"]["seed"], report["config"]["seconds"]
    what = f"{held_out}pairs"
    if recordings := report.get("recordings"):
        what = f"recordings turned down to {recordings['level_dbfs']:g} dBFS RMS"
    cut = f" of {seconds:g} s" if seconds else ""
    drawn = report.get("model", {}).get("sampling", {})
    settings = "".join(f", {name.replace('_', '-')} {drawn[name]:g}" for name in DRAWN if name in drawn)
    if report["config"].get("precision"):
        settings += f", weights in {report['config']['precision']}"
    return (
        f"{report['n']} {what}{cut}, seed {seed}{settings}. Means with 95 % bootstrap intervals; a difference in bold "
        "excludes zero. Onsets match one to one within 50 ms (mir_eval); onsets and tempo are asked of rhythmic "
        "rooms, boundaries of rooms that change. LORIS's BCS and BHS count bins of 1 s."
    )


def _targets(targets: list[dict[str, Any]]) -> list[str]:
    """The aims of the model and whether they are met."""
    if not targets:
        return []
    rows = [[t["name"], t["aim"], t["found"], "yes" if t["met"] else "**no**"] for t in targets]
    met = sum(t["met"] for t in targets)
    return ["## Targets", f"{met} of {len(targets)} met.", _rows(["", "aim", "found", "met"], rows)]


def _rows(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _named(table: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    """Key, title and value of each system that the table has, in the order of `SYSTEMS`."""
    return [(key, title, table[key]) for key, title in SYSTEMS.items() if key in table]


def _interval(value: Mapping[str, Any] | None) -> str:
    return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]" if value else ""


def _follow_table(table: Mapping[str, Any], differences: Mapping[str, Any]) -> str:
    """A row for each score: the ceiling, the model and its nulls, and the differences."""
    columns = [
        key for key in ("real", "real, shuffled", "model", "model, shuffled", "dropped") if table.get(key)
    ]
    contrasts = [
        key
        for key in ("real - real, shuffled", "model - model, shuffled", "model - dropped")
        if key in differences
    ]
    rows = []
    for score, first in table[columns[0]].items():
        cells = [_interval(table[key].get(score)) for key in columns]
        for key in contrasts:
            found = differences[key].get(score)
            bold = "**" if found and found["excludes_zero"] else ""
            cells.append(f"{bold}{_interval(found)}{bold}")
        rows.append([score, str(first["n"]), *cells])
    return _rows(["", "n", *(SYSTEMS[key] for key in columns), *contrasts], rows)


def _baseline_table(table: Mapping[str, Any]) -> str:
    """A row for each score: the means of the other ways to get music for a room."""
    others = ("codec", "arranger", "arranger, shuffled", "retrieval", "retrieval, shuffled")
    columns = [key for key in others if table.get(key)]
    if not columns:
        return ""
    rows = [
        [score, *(f"{table[key][score]['mean']:.3f}" if score in table[key] else "" for key in columns)]
        for score in table["real"]
    ]
    return _rows(["baselines", *(SYSTEMS[key] for key in columns)], rows)


def _judges(report: Report) -> list[str]:
    parts = []
    if report.get("retrieval"):
        names = list(next(iter(report["retrieval"].values())))
        rows = [[title, *(f"{v[n]:.3f}" for n in names)] for _, title, v in _named(report["retrieval"])]
        text = "From the music alone, find its room by energy, onsets and boundaries."
        parts += ["## Retrieval", text, _rows(["", *names], rows)]
    if judge := report.get("likelihood"):
        loss = judge["loss"]
        parts += [
            "## The model's own likelihood",
            f"True room first among {judge['among']} by teacher-forced loss of the real music: "
            f"{_interval(judge['recall_at_1'])} (chance {judge['chance_recall_at_1']:.3f}), mean reciprocal rank "
            f"{judge['mean_reciprocal_rank']:.3f}. Loss in nats a token: true {loss['true']:.4f}, shuffled "
            f"{loss['shuffled']:.4f}, no room {loss['dropped']:.4f}; shuffled - true "
            f"{_interval(judge['shuffled - true'])}, no room - true {_interval(judge['dropped - true'])}.",
        ]
    return parts


def _kind_table(kinds: Mapping[str, Any]) -> str:
    descriptors = list(next(iter(next(iter(kinds.values())).values())))
    rows = []
    for key, title, table in _named(kinds):
        if key in ("real", "model", "outputs"):
            rows += [[title, kind, *(f"{v[d]:.2f}" for d in descriptors)] for kind, v in table.items()]
    return _rows(["", "kind", *descriptors], rows)


def _checks(report: Report) -> str:
    lines = [
        f"- {SYSTEMS[system]}, {what}: {_interval(value)}"
        for system, table in report.get("kind_checks", {}).items()
        for what, value in table.items()
    ]
    return "\n".join(lines)


def _sound(report: Report) -> list[str]:
    parts = []
    if report.get("quality"):
        rows = [
            [title, f"{v['kernel']:.2f}", f"{v['frechet']:.1f}", f"{v['n_rows']:.0f}"]
            for _, title, v in _named(report["quality"])
        ]
        text = (
            "Distance to one half of the held-out real music, on the feature set of version "
            f"{report['quality_version']}; the other half of the real music is the floor, the codec the ceiling."
        )
        parts += ["## How it sounds", text, _rows(["", "kernel (KAD)", "Fréchet", "windows of 5 s"], rows)]
    if learned := report.get("embeddings"):
        rows = [
            [title, f"{v['kernel']:.3f}", f"{v['frechet']:.3f}"]
            for _, title, v in _named(learned["distances"])
        ]
        parts += [
            f"The same distances on the embeddings of {learned['model']}:",
            _rows(["", "kernel (KAD)", "Fréchet"], rows),
        ]
    if faults := report.get("faults"):
        systems = _named(faults)
        names = list(systems[0][2])
        rows = []
        for _, title, table in systems:
            cells = []
            for name in names:
                beyond = table[name].get("beyond_real")
                cells.append(f"{table[name]['mean']:.3f}" + ("" if beyond is None else f" ({beyond:.0%})"))
            rows.append([title, *cells])
        text = "Means; in brackets the share of pieces beyond the real music's 1st or 99th percentile, on the bad side."
        loops = [
            f"{title} {table['repetition']['beyond_real_95']:.0%}"
            for _, title, table in systems
            if "beyond_real_95" in table["repetition"]
        ]
        more = f"Repetition beyond the real music's 95th percentile: {', '.join(loops)}." if loops else ""
        parts += ["## What goes wrong", text, _rows(["", *names], rows), more]
    if drift := report.get("drift"):
        rows = [
            [name, *(f"{v:.3f}" for v in (*f["quarters"], f["first_seconds"], f["last_seconds"]))]
            for name, f in drift["figures"].items()
        ]
        end = f"{drift['end_seconds']:g} s"
        text = f"Means of {drift['n']} pieces of two minutes, each for a room that comes round until they are full."
        header = ["", "1st quarter", "2nd", "3rd", "4th", f"first {end}", f"last {end}"]
        parts += ["## Two minutes", text, _rows(header, rows)]
    return parts


def _own(report: Report) -> list[str]:
    parts = []
    found = report.get("originality", {})
    if found.get("n_training"):
        distance = found["distance"]
        text = (
            f"Nearest of {found['n_training']} training pieces by chroma and onsets, in any key: median distance "
            f"{distance['model']['median']:.3f}, of held-out real music {distance['real']['median']:.3f} (1st "
            f"percentile {found['limit']:.3f}). Outputs nearer than that: {len(found['too_near'])} of {found['n']}."
        )
        named = [
            f"- {near['output']} is {near['distance']:.3f} from {near['training']}"
            for near in found["too_near"]
        ]
        parts += ["## Originality", text, "\n".join(named)]
        if tokens := found.get("tokens"):
            parts.append(
                "Longest run of first-codebook tokens shared with the training music, in seconds: "
                + _runs(tokens["model"], tokens["frame_rate"])
                + "; held-out real music "
                + _runs(tokens["real"], tokens["frame_rate"])
                + "."
            )
    if diversity := report.get("diversity"):
        text = (
            f"Median distance to the nearest of the others, by chroma and onsets: one room under {diversity['n']} "
            f"seeds {diversity['one room, many seeds']:.3f}, as many pieces of real music "
            f"{diversity['real music']:.3f}."
        )
        if tokens := found.get("tokens"):
            runs = _runs(diversity["longest_shared_run"], tokens["frame_rate"])
            text += f" Longest run of tokens shared with another seed, in seconds: {runs}."
        parts += ["## Diversity", text]
    return parts


def _ruler(report: Report) -> list[str]:
    """Whether the figures tell apart what they must: the ceiling from its null, and noise from everything else."""
    lines = []
    for side in ("labelled", "measured"):
        gains = report.get("differences", {}).get(side, {}).get("real - real, shuffled", {})
        if gains:
            blunt = [name for name, gain in gains.items() if not gain["low"] > 0]
            lines.append(
                f"- Paired real music ({side} rooms) is above that of another room, the interval above zero, in "
                f"{len(gains) - len(blunt)} of {len(gains)} scores"
                + (f"; not in {', '.join(blunt)}." if blunt else ".")
            )
    quality, faults = report.get("quality", {}), report.get("faults", {})
    if "noise" in quality:
        columns = {figure: {k: v[figure] for k, v in quality.items()} for figure in ("kernel", "frechet")}
        columns["flatness"] = {k: v["flatness"]["mean"] for k, v in faults.items()}
        for figure in ("key_clarity", "beat_strength"):
            columns[figure] = {k: -v[figure]["mean"] for k, v in faults.items()}
        worst = {figure: max(values, key=values.__getitem__) for figure, values in columns.items()}
        others = [f"{figure} ({name})" for figure, name in worst.items() if name != "noise"]
        found = f"all but {', '.join(others)}" if others else f"{', '.join(worst)}"
        lines.append(f"- Noise is the worst of all in {found}.")
    if copies := report.get("originality", {}).get("copies"):
        lines.append(
            f"- Training pieces, cut and sent through the codec, found out by name: {copies['named']} of {copies['n']}."
        )
    return ["## The ruler itself", "\n".join(lines)] if lines else []


def _runs(tokens: Mapping[str, float], frame_rate: float) -> str:
    return f"median {tokens['median'] / frame_rate:.2f}, most {tokens['max'] / frame_rate:.2f}"


def _draw_summary(report: Report, path: Path) -> None:
    """One picture: how far each system follows, and how far each is from real music."""
    from matplotlib.figure import Figure

    labelled = report["follow"].get("labelled", {})
    table = labelled if any(labelled.values()) else report["follow"]["measured"]
    figure = Figure(figsize=(15, 5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 1))
    systems = [(key, title, means) for key, title, means in _named(table) if means and key in COLOURS]
    names = [name for name in HEADLINE if any(name in means for _, _, means in systems)]
    width = 0.85 / max(1, len(systems))
    for i, (key, title, means) in enumerate(systems):
        shown = [(x, means[name]) for x, name in enumerate(names) if name in means]
        heights = [value["mean"] for _, value in shown]
        errors = [
            [max(0.0, v["mean"] - v["low"]) for _, v in shown],
            [max(0.0, v["high"] - v["mean"]) for _, v in shown],
        ]
        places = [x + (i - (len(systems) - 1) / 2) * width for x, _ in shown]
        left.bar(
            places, heights, width, yerr=errors, label=title.strip("*"), color=COLOURS[key], ecolor="0.4"
        )
    left.set_xticks(range(len(names)), [name.replace("_", " ") for name in names])
    left.set(title="follows the room (mean and 95 % interval)")
    left.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.07))
    bars = _named(report.get("quality", {}))
    right.barh([key for key, _, _ in bars], [max(v["kernel"], 0.1) for _, _, v in bars], log=True)
    right.set_visible(bool(bars))
    right.invert_yaxis()
    right.set(title="kernel distance to real music")
    with atomic_path(path, force=True) as temporary:
        figure.savefig(temporary, dpi=100, metadata={"Software": None})


def _draw_kinds(kinds: Mapping[str, Any], path: Path) -> None:
    """The descriptors of the music by kind of room, real beside the model's."""
    from matplotlib.figure import Figure

    names = [name for name in next(iter(kinds["real"].values())) if name != "n"]
    figure = Figure(figsize=(14, 3.2), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(names)), names, strict=True):
        for system, marker in (("real", "o"), ("model", "x")):
            table = kinds.get(system, {})
            axis.plot(
                list(table), [v[name] for v in table.values()], marker, label=SYSTEMS[system].strip("*")
            )
        axis.set(title=name)
        axis.tick_params(axis="x", rotation=90)
    figure.axes[0].legend(fontsize=7)
    with atomic_path(path, force=True) as temporary:
        figure.savefig(temporary, dpi=100, metadata={"Software": None})
