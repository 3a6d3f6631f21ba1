"""Aims of the model, checked against a report: for each aim what was found, and whether it is reached.

Aims that a report has no figures for are left out, so that a quick one states fewer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from silent2music.evaluation.statistics import interval_text

Target = tuple[str, str, str, bool]
"""What is measured, the aim, what was found, and whether the aim is met."""

FOLLOWING: tuple[tuple[str, str, float | None, float], ...] = (
    ("onset_hit_rate", "onset hit rate, rhythmic rooms", 0.65, 0.20),
    ("tempo_4_octave", "tempo within 4 %, octaves allowed", 0.60, 0.0),
    ("energy_pearson", "energy correlation", 0.45, 0.35),
    ("boundary_f_3", "boundary F at 3 s", None, 0.15),
)
"""Score, what it is called, the least mean, and the least gain over the music of another room; the interval of
every gain must lie above zero too."""

TEMPO_FACTOR = 2.0
"""Tempi met, in units of those that the music of another room meets."""

LEAST_RECALL = 0.50
CODEC_FACTOR = 2.0
MOST_BEYOND = 0.10
MOST_COMPOSER_KERNEL = 1.2
MOST_KERNEL, MOST_BEYOND_OF = 1.4, {"silent_share": 0.05, "repetition": 0.05, "level_dbfs": 0.05}
"""Stricter aims of models that perform scores."""

MOST_WHISTLING = 0.01
MOST_LIKENESS_GAP = 0.01
LEAST_COMPOSED_HITS, LEAST_COMPOSED_ENERGY_GAIN, LEAST_COMPOSED_RECALL = 0.95, 0.65, 0.90
DENSITY = (0.8, 1.2)
MOST_NOTES_OF_NOTHING_HZ = 0.2
LEAST_CHROMA, MOST_ONSET_LOSS, LEAST_NOTE_SHARE, MOST_ABOVE_CHANCE = 0.88, 0.03, 0.8, 0.05
MOST_DRIFT = 0.20

DRIFTING = (("key_clarity", "key clarity"), ("beat_strength", "beat strength"), ("level_dbfs", "level"))


def targets_of(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The aims that the report has figures for, as JSON values.

    Onsets, tempo and boundaries are held against what is true of the room where the pairs say so, else against
    what was measured of it.
    """
    rows = [*_following(report), *_scores(report), *_performance(report), *_sound(report), *_own(report)]
    return [dict(zip(("name", "aim", "found", "met"), row, strict=True)) for row in rows]


def _following(report: Mapping[str, Any]) -> Iterator[Target]:
    follow = report.get("follow", {})
    side = "labelled" if follow.get("labelled", {}).get("model") else "measured"
    model, null = (follow.get(side, {}).get(name, {}) for name in ("model", "model, shuffled"))
    gains = report.get("differences", {}).get(side, {}).get("model - model, shuffled", {})
    # Recordings without music of their own ask only whether they are followed at all.
    alone = "real" not in follow.get(side, {})
    for score, name, least, least_gain in FOLLOWING:
        if score in model and least is not None and not alone:
            mean = model[score]["mean"]
            yield name, f"at least {least:.2f}", f"{mean:.3f}", mean >= least
            if score == "tempo_4_octave" and score in null:
                ratio = mean / max(null[score]["mean"], 1e-9)
                aim = f"{TEMPO_FACTOR:g} times"
                yield f"{name}, over another room's music", aim, f"{ratio:.2f}", ratio >= TEMPO_FACTOR
        if score in gains:
            gain, enough = gains[score], 0.0 if alone else least_gain
            aim = f"at least {enough:.2f}, interval above 0" if enough else "interval above 0"
            met = gain["mean"] >= enough and gain["low"] > 0
            yield f"{name}, above another room's music", aim, _found(gain), met
    if judge := report.get("likelihood"):
        recall = judge["recall_at_1"]["mean"]
        aim = f"at least {LEAST_RECALL:.2f} (chance {judge['chance_recall_at_1']:.3f})"
        yield f"true room first among {judge['among']} by loss", aim, f"{recall:.3f}", recall >= LEAST_RECALL


def _found(value: Mapping[str, Any], style: str = ".3f") -> str:
    """A mean with its interval."""
    return f"{interval_text(dict(value), style)}, n = {value['n']}"


def _scores(report: Mapping[str, Any]) -> Iterator[Target]:
    found, what = report.get("scores"), "composed scores: "
    if not found:
        return
    if kernel := report.get("quality", {}).get("composer", {}).get("kernel"):
        aim = f"at most {MOST_COMPOSER_KERNEL:g}"
        yield f"{what}kernel distance by fluidsynth", aim, f"{kernel:.2f}", kernel <= MOST_COMPOSER_KERNEL
    gains = report.get("differences", {}).get("measured", {}).get("composer - composer, shuffled", {})
    rows = [
        (
            "onset hit rate, rhythmic rooms",
            LEAST_COMPOSED_HITS,
            found["onsets"].get("hit_rate", {}).get("model"),
        ),
        (
            "energy above another room's, by fluidsynth",
            LEAST_COMPOSED_ENERGY_GAIN,
            gains.get("energy_pearson"),
        ),
        ("true room first by likelihood", LEAST_COMPOSED_RECALL, found["likelihood"]["recall_at_1"]),
    ]
    for name, least, value in rows:
        if value:
            yield what + name, f"at least {least:.2f}", _found(value), value["mean"] >= least
    if density := found["density"].get("rooms and halls"):
        ratio, (low, high) = density["model_over_real"], DENSITY
        met = low <= ratio["mean"] <= high
        yield f"{what}onsets in rooms and halls over real", f"{low:g} to {high:g}", _found(ratio), met
    if notes := found["nothing"].get("notes_hz", {}).get("model"):
        met = notes["mean"] <= MOST_NOTES_OF_NOTHING_HZ
        aim = f"at most {MOST_NOTES_OF_NOTHING_HZ:g}"
        yield f"{what}notes a second where there is nothing", aim, _found(notes), met


def _performance(report: Mapping[str, Any]) -> Iterator[Target]:
    found, what = report.get("performance"), "performing a given score: "
    if not found:
        return
    own, codec, other, chance = (
        found["systems"].get(name, {}) for name in ("own", "codec", "other", "chance")
    )
    if value := own.get("chroma"):
        yield f"{what}chroma", f"at least {LEAST_CHROMA:g}", _found(value), value["mean"] >= LEAST_CHROMA
    if (value := own.get("onset_f")) and "onset_f" in codec:
        least = codec["onset_f"]["mean"] - MOST_ONSET_LOSS
        aim = f"at least the codec's less {MOST_ONSET_LOSS:g} ({least:.3f})"
        yield f"{what}onset F", aim, _found(value), value["mean"] >= least
    if (share := found.get("note_f_share")) is not None:
        aim = f"at least {LEAST_NOTE_SHARE:g} of the codec's"
        yield f"{what}transcribed notes, F", aim, f"{share:.2f}", share >= LEAST_NOTE_SHARE
    for figure in ("chroma", "note_f"):
        if figure in other and figure in chance:
            most = chance[figure]["mean"] + MOST_ABOVE_CHANCE
            value = other[figure]
            aim = f"at most chance and {MOST_ABOVE_CHANCE:g} ({most:.3f})"
            yield f"{what}another piece's score, {figure}", aim, _found(value), value["mean"] <= most


def _sound(report: Mapping[str, Any]) -> Iterator[Target]:
    kernels = {name: figures["kernel"] for name, figures in report.get("quality", {}).items()}
    kernel, name = kernels.get("model"), "kernel distance to real music"
    if kernel is not None and "codec" in kernels:
        most = CODEC_FACTOR * kernels["codec"]
        aim = f"at most {CODEC_FACTOR:g} times the codec's ({most:.2f})"
        yield name, aim, f"{kernel:.2f}", kernel <= most
    if kernel is not None and "retrieval, shuffled" in kernels:
        other = kernels["retrieval, shuffled"]
        yield name, f"below retrieval for a wrong room ({other:.2f})", f"{kernel:.2f}", kernel < other
    performs = bool(report.get("performance"))
    if kernel is not None and performs:
        yield name, f"at most {MOST_KERNEL:g}", f"{kernel:.2f}", kernel <= MOST_KERNEL
    faults = report.get("faults", {}).get("model", {})
    for fault, found in faults.items():
        if (share := found.get("beyond_real")) is not None:
            name, most = (
                f"{fault} beyond the real music's 1st or 99th percentile",
                MOST_BEYOND_OF.get(fault, MOST_BEYOND) if performs else MOST_BEYOND,
            )
            yield name, f"at most {most:.0%} of outputs", f"{share:.1%}", share <= most
    if "still_partial_seconds" in faults:
        share = faults["still_partial_seconds"]["whistling"]
        aim = f"at most {MOST_WHISTLING:.0%} of outputs"
        yield "a partial stands still for 3 s", aim, f"{share:.1%}", share <= MOST_WHISTLING
    if gap := report.get("spectral_likeness", {}).get("model - real"):
        met = abs(gap["mean"]) <= MOST_LIKENESS_GAP
        yield (
            "likeness of spectra a second apart",
            f"real within {MOST_LIKENESS_GAP:g}",
            _found(gap, "+.3f"),
            met,
        )


def _own(report: Mapping[str, Any]) -> Iterator[Target]:
    found = report.get("originality", {})
    if found.get("n_training"):
        name = "outputs nearer to the training music than held-out real music's 1st percentile"
        yield name, "none, or named below", f"{len(found['too_near'])} of {found['n']}", True
    figures = report.get("drift", {}).get("figures", {})
    for key, name in DRIFTING:
        if key in figures:
            first, _, _, last = figures[key]["quarters"]
            # Of a level in dB, the amplitude.
            ratio = 10.0 ** ((last - first) / 20.0) if key == "level_dbfs" else last / max(first, 1e-9)
            aim = f"{1 - MOST_DRIFT:.2f} to {1 + MOST_DRIFT:.2f}"
            met = abs(ratio - 1.0) <= MOST_DRIFT
            yield f"{name} of two minutes, last quarter over first", aim, f"{ratio:.3f}", met
