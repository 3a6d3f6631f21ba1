"""The report of a benchmark as JSON, as Markdown for reading, and as pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from silent2music.errors import AudioError
from silent2music.evaluation.statistics import interval_text
from silent2music.evaluation.tables import N_HALVES, Figures
from silent2music.export import provenance
from silent2music.files import write_text
from silent2music.plotting import new_figure, save

SYSTEMS = {
    "real": "paired real music (ceiling)",
    "real, shuffled": "real music of another room",
    "codec": "real music through the codec",
    "arranger": "rule-based arranger",
    "arranger, shuffled": "arranger, another room's",
    "retrieval": "nearest training room's music",
    "retrieval, shuffled": "nearest training room's, wrong room",
    "composer": "composed scores by fluidsynth",
    "composer, shuffled": "composed scores by fluidsynth, another room's",
    "played": "the real scores by fluidsynth alike",
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
    "composer": "tab:purple",
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


FOLLOW = ("real", "real, shuffled", "model", "model, shuffled", "dropped")
CONTRASTS = (
    "real - real, shuffled",
    "model - model, shuffled",
    "model - dropped",
    "composer - composer, shuffled",
)
REPORT = "report"
"""Name of the report of `s2m eval`, as JSON and as text."""

BASELINES = (
    "codec",
    "arranger",
    "arranger, shuffled",
    "retrieval",
    "retrieval, shuffled",
    "composer",
    "composer, shuffled",
)
"""Columns of the tables of what follows the room."""

SIDES = {
    "labelled": "Does the music follow the room? (true events, tempo and boundaries of the room)",
    "measured": "The same, with the room's side measured on its audio",
}


def check_report(out: Path, name: str, force: bool = True) -> None:
    """Refuse to write a report of this name to a folder, before the work for it.

    Args:
        name: of the figures, a JSON file, and of the text beside them.
        force: replace a report that is there, if this program made it.

    Raises:
        AudioError: if something else is there, or the folder cannot be written.
    """
    place = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise AudioError(
            f"{out} cannot be written, as {place} is no folder or not yours; choose another place."
        )
    figures, text = out / f"{name}.json", out / f"{name}.md"
    provenance.check_replaceable(figures, force)
    if text.exists() and not figures.exists():
        raise AudioError(f"{text} is there without {figures.name}; move it away or choose another folder.")


def write_report(report: Figures, out: Path) -> None:
    """Write `report.json`, `report.md` and, where there is something to draw, `summary.png` and `kinds.png`.

    Raises:
        AudioError: if the folder cannot be written.
        S2MError: if there is something to draw and matplotlib is not installed.
    """
    write_text(out / f"{REPORT}.json", json.dumps(report, indent=1, allow_nan=False) + "\n")
    pictures = []
    if report.get("follow", {}).get("measured"):
        _draw_summary(report, out / "summary.png")
        pictures.append("summary")
    if report.get("kinds", {}).get("real"):
        _draw_kinds(report["kinds"], out / "kinds.png")
        pictures.append("kinds")
    write_text(out / f"{REPORT}.md", markdown(report, pictures))


def markdown(report: Figures, pictures: Sequence[str] = ()) -> str:
    """The report for reading, with the pictures of these names."""
    model = report.get("model", {})
    parts = [f"# Evaluation of {model.get('name', 'outputs')}", _preamble(report)]
    parts += [f"![{name}]({name}.png)" for name in pictures]
    if targets := report.get("targets"):
        rows = [[t["name"], t["aim"], t["found"], "yes" if t["met"] else "**no**"] for t in targets]
        met = f"{sum(t['met'] for t in targets)} of {len(targets)} met."
        parts += ["## Targets", met, table(["", "aim", "found", "met"], rows)]
    parts += follow_text(report)
    for section in (_judges, _scores, _performance, _kinds, _quality, _faults, _drift, _own, _ruler):
        parts += section(report)
    return "\n\n".join(part for part in parts if part) + "\n"


def _preamble(report: Figures) -> str:
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


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _named(systems: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    """Key, title and value of each system that there is, in the order of `SYSTEMS`."""
    return [(key, title, systems[key]) for key, title in SYSTEMS.items() if key in systems]


def follow_text(report: Mapping[str, Any]) -> list[str]:
    """For each side headings and tables of the scores: the ceiling, the model and their nulls, then baselines."""
    parts = []
    for side, heading in SIDES.items():
        means, differences = (report.get(part, {}).get(side, {}) for part in ("follow", "differences"))
        columns = [key for key in FOLLOW if means.get(key)]
        if not columns:
            continue
        contrasts = [key for key in CONTRASTS if key in differences]
        rows = []
        for score, first in means[columns[0]].items():
            cells = [interval_text(means[key].get(score)) for key in columns]
            for found in (differences[key].get(score) for key in contrasts):
                bold = "**" if found and found["excludes_zero"] else ""
                cells.append(f"{bold}{interval_text(found)}{bold}")
            rows.append([score, str(first["n"]), *cells])
        parts += [f"## {heading}", table(["", "n", *(SYSTEMS[key] for key in columns), *contrasts], rows)]
        if others := [key for key in BASELINES if means.get(key)]:
            rows = []
            for score in means["real"]:
                values = [means[key].get(score) for key in others]
                rows.append([score, *(f"{value['mean']:.3f}" if value else "" for value in values)])
            parts.append(table(["baselines", *(SYSTEMS[key] for key in others)], rows))
    return parts


def _judges(report: Figures) -> Iterator[str]:
    if report.get("retrieval"):
        names = list(next(iter(report["retrieval"].values())))
        rows = [[title, *(f"{v[n]:.3f}" for n in names)] for _, title, v in _named(report["retrieval"])]
        yield "## Retrieval"
        yield "From the music alone, find its room by energy, onsets and boundaries."
        yield table(["", *names], rows)
    if judge := report.get("likelihood"):
        loss = judge["loss"]
        yield "## The model's own likelihood"
        yield (
            f"True room first among {judge['among']} by teacher-forced loss of the real music: "
            f"{interval_text(judge['recall_at_1'])} (chance {judge['chance_recall_at_1']:.3f}), mean reciprocal rank "
            f"{judge['mean_reciprocal_rank']:.3f}. Loss in nats a token: true {loss['true']:.4f}, shuffled "
            f"{loss['shuffled']:.4f}, no room {loss['dropped']:.4f}; shuffled - true "
            f"{interval_text(judge['shuffled - true'])}, no room - true {interval_text(judge['dropped - true'])}."
        )


PERFORMED = {
    "real": "the real music: its score by fluidsynth (ceiling)",
    "codec": "real music through the codec (ceiling)",
    "own": "**the model, the pair's own score**",
    "other": "the model, another piece's score, same room",
    "none": "the model, no score",
    "chance": "real music of another room (chance)",
}


def _scores(report: Figures) -> Iterator[str]:
    yield " ".join(report.get("left_out", ()))
    if found := report.get("scores"):
        from silent2music.evaluation.scores import scores_text

        yield "## Composed scores"
        yield (
            "As notes, without any sound; `dropped` is composed without a room, `shuffled` for another one, and `real` "
            "is what the factory arranged. Their kernel distance and how they follow by ear stand in the tables of "
            "baselines."
        )
        yield f"```\n{scores_text(found)}\n```"


def _performance(report: Figures) -> Iterator[str]:
    if found := report.get("performance"):
        figures = list(found["systems"]["real"])
        rows = [
            [
                title,
                str(found["systems"][key][figures[0]]["n"]),
                *(interval_text(own.get(f)) for f in figures),
            ]
            for key, title in PERFORMED.items()
            if (own := found["systems"].get(key))
        ]
        rows += [
            [name, "", *(interval_text(own.get(f)) for f in figures)]
            for name, own in found["differences"].items()
        ]
        yield "## Performing a given score"
        yield (
            "chroma: mean cosine with the paired real music; onset_f: F of onsets with its onsets at 50 ms; note_f: F of "
            "the notes that basic-pitch transcribes against the score's, onset within 50 ms and pitch equal; "
            "note_level: correlation of the notes' loudness with their level in the sound."
        )
        yield table(["", "n", *figures], rows)


def _kinds(report: Figures) -> Iterator[str]:
    if kinds := report.get("kinds"):
        descriptors = list(next(iter(next(iter(kinds.values())).values())))
        rows = [
            [title, kind, *(f"{v[d]:.2f}" for d in descriptors)]
            for key, title, by_kind in _named(kinds)
            if key in ("real", "model", "outputs")
            for kind, v in by_kind.items()
        ]
        yield "## Kinds of rooms and their music"
        yield table(["", "kind", *descriptors], rows)
        yield "\n".join(
            f"- {SYSTEMS[system]}, {what}: {interval_text(value)}"
            for system, checks in report.get("kind_checks", {}).items()
            for what, value in checks.items()
        )


def _quality(report: Figures) -> Iterator[str]:
    if quality := report.get("quality"):
        rows = [
            [
                title,
                f"{v['kernel']:.2f} ± {v['kernel_deviation']:.2f}",
                f"{v['frechet']:.1f}",
                f"{v['n_rows']:.0f}",
            ]
            for _, title, v in _named(quality)
        ]
        yield "## How it sounds"
        yield (
            "Distance of one half of the pieces to the other half of the held-out real music, on the feature set of "
            f"version {report['quality_version']}: mean, and standard deviation, over {N_HALVES} divisions by chance, "
            "of which two partners are never in one half. Real music is the floor, the codec the ceiling."
        )
        yield table(["", "kernel (KAD)", "Fréchet", "windows of 5 s"], rows)
    if learned := report.get("embeddings"):
        distances = _named(learned["distances"])
        rows = [[title, f"{v['kernel']:.3f}", f"{v['frechet']:.3f}"] for _, title, v in distances]
        yield f"The same distances on the embeddings of {learned['model']}:"
        yield table(["", "kernel (KAD)", "Fréchet"], rows)


def _faults(report: Figures) -> Iterator[str]:
    if faults := report.get("faults"):
        systems = _named(faults)
        rows = []
        for _, title, found in systems:
            beyond = [f" ({f['beyond_real']:.0%})" if "beyond_real" in f else "" for f in found.values()]
            means = [f"{f['mean']:.3f}" for f in found.values()]
            rows.append([title, *(mean + share for mean, share in zip(means, beyond, strict=True))])
        yield "## What goes wrong"
        yield "Means; in brackets the share of pieces beyond the real music's 1st or 99th percentile, on the bad side."
        yield table(["", *systems[0][2]], rows)
        loops = [
            f"{title} {found['repetition']['beyond_real_95']:.0%}"
            for _, title, found in systems
            if "beyond_real_95" in found["repetition"]
        ]
        still = [
            f"{title} {found['still_partial_seconds']['whistling']:.1%}"
            for _, title, found in systems
            if "still_partial_seconds" in found
        ]
        if still:
            yield f"A partial stands still (within 3 dB and 25 cents) for 3 s or more in: {', '.join(still)}."
        yield "\n".join(
            f"- Likeness of spectra a second apart, {name}: {interval_text(value)}"
            for name, value in report.get("spectral_likeness", {}).items()
        )
        if loops:
            yield f"Repetition beyond the real music's 95th percentile: {', '.join(loops)}."


def _drift(report: Figures) -> Iterator[str]:
    if drift := report.get("drift"):
        rows = [
            [name, *(f"{v:.3f}" for v in (*f["quarters"], f["first_seconds"], f["last_seconds"]))]
            for name, f in drift["figures"].items()
        ]
        end = f"{drift['end_seconds']:g} s"
        yield "## Two minutes"
        yield f"Means of {drift['n']} pieces of two minutes, each for a room that comes round until they are full."
        yield table(["", "1st quarter", "2nd", "3rd", "4th", f"first {end}", f"last {end}"], rows)


def _own(report: Figures) -> Iterator[str]:
    found, tokens = report.get("originality", {}), None
    if found.get("n_training"):
        distance, tokens = found["distance"], found.get("tokens")
        yield "## Originality"
        yield (
            f"Nearest of {found['n_training']} training pieces by chroma and onsets, in any key: median distance "
            f"{distance['model']['median']:.3f}, of held-out real music {distance['real']['median']:.3f} (1st "
            f"percentile {found['limit']:.3f}). Outputs nearer than that: {len(found['too_near'])} of {found['n']}."
        )
        yield "\n".join(
            f"- {near['output']} is {near['distance']:.3f} from {near['training']}"
            for near in found["too_near"]
        )
        if tokens:
            model, real = (_runs(tokens[name], tokens["frame_rate"]) for name in ("model", "real"))
            yield (
                f"Longest run of first-codebook tokens shared with the training music, in seconds: {model}; held-out "
                f"real music {real}."
            )
    if diversity := report.get("diversity"):
        text = (
            f"Median distance to the nearest of the others, by chroma and onsets: one room under {diversity['n']} "
            f"seeds {diversity['one room, many seeds']:.3f}, as many pieces of real music "
            f"{diversity['real music']:.3f}."
        )
        if tokens:
            runs = _runs(diversity["longest_shared_run"], tokens["frame_rate"])
            text += f" Longest run of tokens shared with another seed, in seconds: {runs}."
        yield "## Diversity"
        yield text


def _runs(lengths: Mapping[str, float], frame_rate: float) -> str:
    return f"median {lengths['median'] / frame_rate:.2f}, most {lengths['max'] / frame_rate:.2f}"


def _ruler(report: Figures) -> Iterator[str]:
    """Whether the metrics discriminate: the ceiling from its null, and noise from all other systems."""
    lines = []
    for side in SIDES:
        if gains := report.get("differences", {}).get(side, {}).get("real - real, shuffled", {}):
            blunt = [name for name, gain in gains.items() if not gain["low"] > 0]
            lines.append(
                f"- Paired real music ({side} rooms) is above that of another room, the interval above zero, in "
                f"{len(gains) - len(blunt)} of {len(gains)} scores"
                + (f"; not in {', '.join(blunt)}." if blunt else ".")
            )
    quality, faults = report.get("quality", {}), report.get("faults", {})
    if "noise" in quality:
        columns = {figure: {k: v[figure] for k, v in quality.items()} for figure in ("kernel", "frechet")}
        for figure, sign in (("flatness", 1), ("key_clarity", -1), ("beat_strength", -1)):
            columns[figure] = {k: sign * v[figure]["mean"] for k, v in faults.items()}
        worst = {figure: max(values, key=values.__getitem__) for figure, values in columns.items()}
        others = [f"{figure} ({name})" for figure, name in worst.items() if name != "noise"]
        found = f"all but {', '.join(others)}" if others else f"{', '.join(worst)}"
        lines.append(f"- Noise is the worst of all in {found}.")
    if copies := report.get("originality", {}).get("copies"):
        lines.append(
            f"- Training pieces, cut and sent through the codec, found out by name: {copies['named']} of {copies['n']}."
        )
    if lines:
        yield "## The ruler itself"
        yield "\n".join(lines)


def _draw_summary(report: Figures, path: Path) -> None:
    """One picture: how far each system follows, and how far each is from real music."""
    labelled = report["follow"].get("labelled", {})
    followed = labelled if any(labelled.values()) else report["follow"]["measured"]
    figure = new_figure(15, 5)
    left, right = figure.subplots(1, 2, width_ratios=(3, 1))
    systems = [(key, title, means) for key, title, means in _named(followed) if means and key in COLOURS]
    names = [name for name in HEADLINE if any(name in means for _, _, means in systems)]
    width = 0.85 / max(1, len(systems))
    for i, (key, title, means) in enumerate(systems):
        shown = {x: means[name] for x, name in enumerate(names) if name in means}
        places = [x + (i - (len(systems) - 1) / 2) * width for x in shown]
        low, heights, high = np.array([[v["low"], v["mean"], v["high"]] for v in shown.values()]).T
        errors = np.maximum([heights - low, high - heights], 0.0)
        style = {"color": COLOURS[key], "ecolor": "0.4", "label": title.strip("*")}
        left.bar(places, heights, width, yerr=errors, **style)
    left.set_xticks(range(len(names)), [name.replace("_", " ") for name in names])
    left.set(title="follows the room (mean and 95 % interval)")
    left.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.07))
    bars = _named(report.get("quality", {}))
    right.barh([key for key, _, _ in bars], [max(v["kernel"], 0.1) for _, _, v in bars], log=True)
    right.set_visible(bool(bars))
    right.invert_yaxis()
    right.set(title="kernel distance to real music")
    save(figure, path)


def _draw_kinds(kinds: Mapping[str, Any], path: Path) -> None:
    """The descriptors of the music by kind of room, real beside the model's."""
    names = [name for name in next(iter(kinds["real"].values())) if name != "n"]
    figure = new_figure(14, 3.2)
    for axis, name in zip(figure.subplots(1, len(names)), names, strict=True):
        for system, marker in (("real", "o"), ("model", "x")):
            means = {kind: v[name] for kind, v in kinds.get(system, {}).items()}
            axis.plot(list(means), list(means.values()), marker, label=SYSTEMS[system].strip("*"))
        axis.set(title=name)
        axis.tick_params(axis="x", rotation=90)
    figure.axes[0].legend(fontsize=7)
    save(figure, path)
