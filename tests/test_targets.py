"""Aims are read off a report as they are stated: at the edge, beyond it, and only where there are figures."""

import copy
import json
from pathlib import Path

import pytest

from silent2music.evaluation.report import markdown
from silent2music.evaluation.targets import targets_of


def interval(mean: float, low: float) -> dict:
    return {"mean": mean, "low": low, "high": 2 * mean - low, "n": 40}


@pytest.fixture
def report() -> dict:
    """Of a model that meets every aim exactly."""
    model = {"onset_hit_rate": 0.65, "tempo_4_octave": 0.60, "energy_pearson": 0.45, "boundary_f_3": 0.2}
    null = {"onset_hit_rate": 0.45, "tempo_4_octave": 0.30, "energy_pearson": 0.10, "boundary_f_3": 0.05}
    gains = {"onset_hit_rate": 0.20, "tempo_4_octave": 0.30, "energy_pearson": 0.35, "boundary_f_3": 0.15}
    systems = {"real": model, "model": model, "model, shuffled": null}
    means = {system: {k: {"mean": v} for k, v in values.items()} for system, values in systems.items()}
    faults = {
        "flatness": {"mean": 0.0, "beyond_real": 0.10},
        "silent_share": {"mean": 0.0, "beyond_real": 0.05},
    }
    faults["still_partial_seconds"] = {"mean": 1.0, "whistling": 0.01}
    performed = {
        "own": {"chroma": 0.88, "onset_f": 0.7, "note_f": 0.4},
        "codec": {"onset_f": 0.73, "note_f": 0.5},
        "other": {"chroma": 0.5, "note_f": 0.07},
        "chance": {"chroma": 0.45, "note_f": 0.02},
    }
    quarters = {"key_clarity": [0.5, 0.1, 0.1, 0.4], "level_dbfs": [-20.0, -90.0, -90.0, -18.5]}
    return {
        "follow": {"labelled": means},
        "differences": {
            "labelled": {"model - model, shuffled": {k: interval(v, 0.01) for k, v in gains.items()}},
            "measured": {"composer - composer, shuffled": {"energy_pearson": interval(0.65, 0.6)}},
        },
        "scores": {
            "onsets": {"hit_rate": {"model": interval(0.95, 0.9)}},
            "density": {"rooms and halls": {"model_over_real": interval(1.2, 1.1)}},
            "nothing": {"notes_hz": {"model": interval(0.2, 0.1)}},
            "likelihood": {"recall_at_1": interval(0.9, 0.8)},
        },
        "performance": {
            "systems": {k: {f: interval(v, 0.0) for f, v in own.items()} for k, own in performed.items()},
            "note_f_share": 0.8,
        },
        "spectral_likeness": {"model - real": interval(-0.01, -0.02)},
        "likelihood": {"among": 32, "recall_at_1": {"mean": 0.5}, "chance_recall_at_1": 1 / 32},
        "quality": {
            k: {"kernel": v}
            for k, v in {"model": 1.4, "codec": 0.7, "retrieval, shuffled": 1.5, "composer": 1.2}.items()
        },
        "faults": {"model": faults},
        "originality": {"n_training": 3, "n": 40, "too_near": []},
        "drift": {"figures": {name: {"quarters": values} for name, values in quarters.items()}},
    }


def test_at_the_edge_everything_is_met(report: dict) -> None:
    targets = targets_of(report)
    assert len(targets) == 30
    assert [t["name"] for t in targets if not t["met"]] == []


@pytest.mark.parametrize(
    ("path", "value", "missed"),
    [
        (("follow", "labelled", "model", "onset_hit_rate", "mean"), 0.649, "onset hit rate, rhythmic rooms"),
        (
            ("follow", "labelled", "model, shuffled", "tempo_4_octave", "mean"),
            0.31,
            "tempo within 4 %, octaves allowed, over another room's music",
        ),
        (
            ("differences", "labelled", "model - model, shuffled", "energy_pearson", "low"),
            -0.01,
            "energy correlation, above another room's music",
        ),
        (
            ("differences", "labelled", "model - model, shuffled", "boundary_f_3", "mean"),
            0.149,
            "boundary F at 3 s, above another room's music",
        ),
        (("likelihood", "recall_at_1", "mean"), 0.49, "true room first among 32 by loss"),
        (("quality", "codec", "kernel"), 0.69, "kernel distance to real music"),
        (("quality", "retrieval, shuffled", "kernel"), 1.4, "kernel distance to real music"),
        (("quality", "composer", "kernel"), 1.21, "composed scores: kernel distance by fluidsynth"),
        (
            ("scores", "onsets", "hit_rate", "model", "mean"),
            0.949,
            "composed scores: onset hit rate, rhythmic rooms",
        ),
        (
            ("differences", "measured", "composer - composer, shuffled", "energy_pearson", "mean"),
            0.64,
            "composed scores: energy above another room's, by fluidsynth",
        ),
        (
            ("scores", "density", "rooms and halls", "model_over_real", "mean"),
            0.79,
            "composed scores: onsets in rooms and halls over real",
        ),
        (
            ("scores", "nothing", "notes_hz", "model", "mean"),
            0.21,
            "composed scores: notes a second where there is nothing",
        ),
        (
            ("scores", "likelihood", "recall_at_1", "mean"),
            0.89,
            "composed scores: true room first by likelihood",
        ),
        (("performance", "systems", "own", "chroma", "mean"), 0.87, "performing a given score: chroma"),
        (("performance", "systems", "own", "onset_f", "mean"), 0.69, "performing a given score: onset F"),
        (("performance", "note_f_share"), 0.79, "performing a given score: transcribed notes, F"),
        (
            ("performance", "systems", "other", "note_f", "mean"),
            0.08,
            "performing a given score: another piece's score, note_f",
        ),
        (
            ("faults", "model", "still_partial_seconds", "whistling"),
            0.02,
            "a partial stands still for 3 s",
        ),
        (("spectral_likeness", "model - real", "mean"), 0.02, "likeness of spectra a second apart"),
        (
            ("faults", "model", "silent_share", "beyond_real"),
            0.06,
            "silent_share beyond the real music's 1st or 99th percentile",
        ),
        (
            ("faults", "model", "flatness", "beyond_real"),
            0.11,
            "flatness beyond the real music's 1st or 99th percentile",
        ),
        (
            ("drift", "figures", "key_clarity", "quarters"),
            [0.5, 0.5, 0.5, 0.39],
            "key clarity of two minutes, last quarter over first",
        ),
        (
            # 2 dB are 26 % of amplitude.
            ("drift", "figures", "level_dbfs", "quarters"),
            [-20.0, -20.0, -20.0, -18.0],
            "level of two minutes, last quarter over first",
        ),
    ],
)
def test_beyond_the_edge_the_aim_is_missed_and_no_other(
    report: dict, path: tuple[str, ...], value: object, missed: str
) -> None:
    changed = copy.deepcopy(report)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert [t["name"] for t in targets_of(changed) if not t["met"]] == [missed]


def test_recordings_without_music_are_asked_only_whether_they_are_followed(report: dict) -> None:
    means = {k: v for k, v in report["follow"]["labelled"].items() if k != "real"}
    alone = {"follow": {"measured": means}, "differences": {"measured": report["differences"]["labelled"]}}
    targets = targets_of(alone)
    assert {t["aim"] for t in targets} == {"interval above 0"}
    assert all(t["met"] for t in targets)


def test_no_figures_no_aims() -> None:
    assert targets_of({}) == []


def test_the_shipped_report_reads_as_it_was_written() -> None:
    """The figures, the aims and the text of the model that ships belong together."""
    folder = Path(__file__).parents[1] / "checkpoints" / "base"
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert targets_of(report) == report["targets"]
    assert markdown(report, ["summary", "kinds"]) == (folder / "report.md").read_text(encoding="utf-8")
