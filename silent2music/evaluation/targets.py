"""What the model is meant to reach, read off a report: for each aim what was found, and whether that is enough.

Aims that a report has no figures for are left out, so that a quick one states fewer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

Report = dict[str, Any]

LEAST = {"onset_hit_rate": 0.65, "tempo_4_octave": 0.60, "energy_pearson": 0.45}
LEAST_GAIN = {"onset_hit_rate": 0.20, "tempo_4_octave": 0.0, "energy_pearson": 0.35, "boundary_f_3": 0.15}
"""Over the music of another room; the interval of every gain must lie above zero too."""

TEMPO_FACTOR = 2.0
"""Tempi met, in units of those that the music of another room meets."""

LEAST_RECALL = 0.50
CODEC_FACTOR = 2.0
MOST_BEYOND = 0.10
MOST_DRIFT = 0.20

NAMES = {
    "onset_hit_rate": "onset hit rate, rhythmic rooms",
    "tempo_4_octave": "tempo within 4 %, octaves allowed",
    "energy_pearson": "energy correlation",
    "boundary_f_3": "boundary F at 3 s",
}


@dataclass(frozen=True)
class Target:
    """An aim, what was found, and whether it is met."""

    name: str
    aim: str
    found: str
    met: bool


def targets_of(report: Report) -> list[dict[str, Any]]:
    """The aims that the report has figures for, as JSON values.

    Onsets, tempo and boundaries are held against what is true of the room where the pairs say so, else against
    what was measured of it.
    """
    rows = [*_following(report), *_likelihood(report), *_quality(report), *_faults(report)]
    return [asdict(row) for row in [*rows, *_originality(report), *_drift(report)]]


def _following(report: Report) -> Iterator[Target]:
    follow = report.get("follow", {})
    side = "labelled" if follow.get("labelled", {}).get("model") else "measured"
    model = follow.get(side, {}).get("model", {})
    null = follow.get(side, {}).get("model, shuffled", {})
    gains = report.get("differences", {}).get(side, {}).get("model - model, shuffled", {})
    # Recordings without music of their own ask only whether they are followed at all.
    alone = "real" not in follow.get(side, {})
    for score, name in NAMES.items():
        if score in LEAST and score in model and not alone:
            mean = model[score]["mean"]
            yield Target(name, f"at least {LEAST[score]:.2f}", f"{mean:.3f}", mean >= LEAST[score])
        if score == "tempo_4_octave" and score in model and score in null and not alone:
            ratio = model[score]["mean"] / max(null[score]["mean"], 1e-9)
            yield Target(
                f"{name}, over another room's music",
                f"{TEMPO_FACTOR:g} times",
                f"{ratio:.2f}",
                ratio >= TEMPO_FACTOR,
            )
        if score in gains:
            least = 0.0 if alone else LEAST_GAIN[score]
            gain = gains[score]
            yield Target(
                f"{name}, above another room's music",
                f"at least {least:.2f}, interval above 0" if least else "interval above 0",
                f"{gain['mean']:.3f} [{gain['low']:.3f}, {gain['high']:.3f}], n = {gain['n']}",
                gain["mean"] >= least and gain["low"] > 0,
            )


def _likelihood(report: Report) -> Iterator[Target]:
    if judge := report.get("likelihood"):
        recall = judge["recall_at_1"]["mean"]
        yield Target(
            f"true room first among {judge['among']} by loss",
            f"at least {LEAST_RECALL:.2f} (chance {judge['chance_recall_at_1']:.3f})",
            f"{recall:.3f}",
            recall >= LEAST_RECALL,
        )


def _quality(report: Report) -> Iterator[Target]:
    quality = report.get("quality", {})
    if "model" not in quality:
        return
    kernel = quality["model"]["kernel"]
    if "codec" in quality:
        most = CODEC_FACTOR * quality["codec"]["kernel"]
        yield Target(
            "kernel distance to real music",
            f"at most {CODEC_FACTOR:g} times the codec's ({most:.2f})",
            f"{kernel:.2f}",
            kernel <= most,
        )
    if "retrieval, shuffled" in quality:
        other = quality["retrieval, shuffled"]["kernel"]
        yield Target(
            "kernel distance to real music",
            f"below retrieval for a wrong room ({other:.2f})",
            f"{kernel:.2f}",
            kernel < other,
        )


def _faults(report: Report) -> Iterator[Target]:
    for name, found in report.get("faults", {}).get("model", {}).items():
        if "beyond_real" in found:
            share = found["beyond_real"]
            yield Target(
                f"{name} beyond the real music's 1st or 99th percentile",
                f"at most {MOST_BEYOND:.0%} of outputs",
                f"{share:.1%}",
                share <= MOST_BEYOND,
            )


def _originality(report: Report) -> Iterator[Target]:
    found = report.get("originality", {})
    if found.get("n_training"):
        yield Target(
            "outputs nearer to the training music than held-out real music's 1st percentile",
            "none, or named below",
            f"{len(found['too_near'])} of {found['n']}",
            True,
        )


def _drift(report: Report) -> Iterator[Target]:
    figures: Mapping[str, Any] = report.get("drift", {}).get("figures", {})
    for name, shown in (
        ("key_clarity", "key clarity"),
        ("beat_strength", "beat strength"),
        ("level_dbfs", "level"),
    ):
        if name in figures:
            first, _, _, last = figures[name]["quarters"]
            # Of a level in dB, the amplitude.
            ratio = 10.0 ** ((last - first) / 20.0) if name == "level_dbfs" else last / max(first, 1e-9)
            yield Target(
                f"{shown} of two minutes, last quarter over first",
                f"{1 - MOST_DRIFT:.2f} to {1 + MOST_DRIFT:.2f}",
                f"{ratio:.3f}",
                abs(ratio - 1.0) <= MOST_DRIFT,
            )
