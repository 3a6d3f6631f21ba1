"""Checks a folder of `s2m ambience` by other tools than those that wrote it: ffmpeg, librosa, mutagen, a parser.

Sample counts come from ffprobe, chunks from a parser of this module's own, tags from mutagen, loudness and true peak
from ffmpeg's ebur128, onsets from librosa. The figures of two places are measured anew on the files: the seam, where the
file's end meets its beginning, and the folds, where the music was made to lead into its beginning. Of layers that add,
the sums are measured, and of extras where their attacks are.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shutil
import struct
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from silent2music import audio
from silent2music.arrays import DoubleArray, FloatArray
from silent2music.audio import Waveform
from silent2music.errors import AudioError, require
from silent2music.export.ambience.circle import is_struck
from silent2music.export.ambience.lap import LAYERS
from silent2music.export.ambience.seam import (
    CHANGE,
    GREATEST_SHARE,
    LEAST_SHARE,
    N_LAPS,
    ONSET_SECONDS,
    measure_seam,
)
from silent2music.export.ambience.writing import loudness_of
from silent2music.export.batch import LOOPS_MANIFEST
from silent2music.export.space import omni, omni_of
from silent2music.files import read_json
from silent2music.score import Score, read_midi

MAX_LUFS_ERROR = 0.1
MAX_LANDING_SECONDS = 0.01
LANDING_REACH = 0.05
"""Seconds around a stinger's entry in which its attack is looked for."""
LANDING_HOP, LANDING_WINDOW = 48, 512
PLACES = ("seam", "fold")


Check = Mapping[str, Any]
"""What was found of one file, JSON-ready.

`file` (path below the folder), `room` (its folder), `layer` and `variation` name it. `lufs` and `true_peak_dbtp` are by
ebur128, `lufs` None if the file is nearly nothing; `lufs_looped` is of it played eight times, `lufs_made` before levels
were matched. `seam` and `fold` hold `level_jump`, `spectral_flux` and `derivative` of the place among the loop's other
places, 0 to 1, `onsets` within 50 ms of it in three laps, in seconds from it, and `is_in_music`: by the manifest there
was an onset before the loop was made, or by the score a note begins there. `onsets_per_second` are of a lap,
`onset_cover` is the share of it within 50 ms of an onset: how often a place drawn by chance has one. `faults` are
sentences.
"""


Layers = Mapping[str, Mapping[str, float]]
"""Of each room with several layers what `layer_densities` gives."""


def check_ambience(folder: Path) -> tuple[list[Check], Layers, list[Check]]:
    """Measure all files that the manifest of a folder lists.

    Returns:
        The figures of each loop, of each room that has several layers their `layer_densities`, and the `file`,
        `true_peak_dbtp`, `lands_seconds` (of stingers) and `faults` of each extra and transition.

    Raises:
        AudioError: if there is no manifest, a file cannot be read, or ffmpeg is not installed.
    """
    path = folder / LOOPS_MANIFEST
    if shutil.which("ffmpeg") is None or shutil.which("ffprobe") is None:
        raise AudioError("ffmpeg and ffprobe are not installed; install them to check loops.")
    require("librosa")
    try:
        manifest = read_json(path)
        rooms, failures, transitions = manifest["rooms"], manifest["failures"], manifest["transitions"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AudioError(f"{path} cannot be read ({error}); expected a folder of s2m ambience.") from error
    if not rooms:
        raise AudioError(
            f"{folder} holds no loops: {len(failures)} recordings failed; see the reasons in {path.name}."
        )
    checks = [
        _check_file(folder, room, entry, played.get((entry["variation"], entry["layer"])))
        for room in rooms
        for played in (_played(folder, room),)
        for entry in room["files"]
    ]
    densities: dict[str, Mapping[str, float]] = {
        room["folder"]: layer_densities(folder, room) for room in rooms
    }
    for room in rooms:
        own = [check for check in checks if check["room"] == room["folder"]]
        own[0]["faults"].extend(_layer_faults(folder, room, densities[room["folder"]]))
    extras: list[Check] = [
        _check_extra(folder, room["folder"], entry, room["levels"])
        for room in rooms
        for entry in room["extras"]
    ]
    levels = rooms[0]["levels"]
    extras += [_check_extra(folder, t["folder"], entry, levels) for t in transitions for entry in t["files"]]
    return checks, {room: layers for room, layers in densities.items() if len(layers) > 1}, extras


def layer_densities(folder: Path, room: Mapping[str, Any]) -> dict[str, float]:
    """Onsets a second of the intensity layers of a room of the manifest, in its first variation.

    librosa's threshold is a share of the strongest onset, so all layers are measured by that of the strongest of all: by
    its own scale the flutter of a pad would be onsets. Of layers that add these are the moments at which one or another
    is struck that sounds then, found in each file by itself: in their sum the blurred onsets of some hide behind those
    of others. Other layers are joined before onsets are looked for.
    """
    names, laps = _layers(folder, room)
    if not laps:
        return {}
    seconds, rate = laps[0].seconds, laps[0].sample_rate
    if room.get("composed"):
        librosa = require("librosa.onset")
        strengths = [librosa.onset_strength(y=lap.samples[0], sr=rate) for lap in laps]
        most = max(float(strength.max()) for strength in strengths) or 1.0
        struck = [
            librosa.onset_detect(onset_envelope=own / most, sr=rate, normalize=False, units="time")
            for own in strengths
        ]
        heard = (np.sort(np.concatenate(struck[: i + 1])) for i in range(len(laps)))
        n_onsets = [int((np.diff(times, prepend=-1.0) > ONSET_SECONDS).sum()) for times in heard]
    else:
        onsets = librosa_onsets(np.concatenate([lap.samples[0] for lap in laps]), rate)
        n_onsets = np.bincount((onsets / seconds).astype(int), minlength=len(names))[: len(names)].tolist()
    return {name: round(float(n) / seconds, 2) for name, n in zip(names, n_onsets, strict=True)}


def _layers(folder: Path, room: Mapping[str, Any]) -> tuple[list[str], list[Waveform]]:
    """Names and laps of a room's layers, from calm to intense."""
    first = {f["layer"]: f for f in reversed(room["files"]) if f["variation"] == 1}
    names = [name for name in LAYERS if name in first]
    return names, [omni_of(folder, room, first[name]) for name in names]


def _layer_faults(folder: Path, room: Mapping[str, Any], densities: Mapping[str, float]) -> list[str]:
    """What is wrong with layers that add: each must bring more onsets and more loudness, and all stay below the peak."""
    if not room.get("composed") or len(densities) < 2:
        return []
    names, laps = _layers(folder, room)
    faults = []
    for score in room["scores"]:
        counts = [score["onsets"][name] for name in names]
        if min(counts) < 1:
            faults.append(f"a layer of {score['file']} has no notes")
    sums = np.cumsum([lap.samples for lap in laps], axis=0)
    loudness = [loudness_of(sound, laps[0].sample_rate) for sound in sums]
    for what, values in (("onsets", list(densities.values())), ("loudness", loudness)):
        if any(after <= before for before, after in itertools.pairwise(values)):
            figures = ", ".join(f"{value:.2f}" for value in values)
            faults.append(f"its layers do not rise in {what} ({figures})")
    if room["levels"]["sum_true_peak_dbtp"] > room["levels"]["true_peak_dbtp"]:
        faults.append(f"the sum of its layers reaches {room['levels']['sum_true_peak_dbtp']:.1f} dBTP")
    return faults


def _check_extra(folder: Path, place: str, entry: Mapping[str, Any], levels: Mapping[str, Any]) -> Check:
    """What was found of a file that does not loop."""
    path = folder / place / entry["file"]
    sound, faults = audio.read(path), []
    if sound.n_samples != entry["n_samples"] or not 0 <= entry["entry"] < entry["exit"] <= sound.n_samples:
        faults.append(f"it has {sound.n_samples} samples, entry {entry['entry']} and exit {entry['exit']}")
    lufs, true_peak = _ebur128(path, entry["spatial"])
    if not entry["nearly_nothing"] and not abs(lufs - levels["lufs"]) <= MAX_LUFS_ERROR:
        faults.append(f"it has {lufs:.2f} LUFS, not {levels['lufs']:g}")
    if true_peak > levels["true_peak_dbtp"]:
        faults.append(f"its true peak is {true_peak:.1f} dBTP")
    lands = None
    if entry["kind"] == "stinger" and not entry["nearly_nothing"]:
        lands = landing(omni(sound, entry["spatial"]).samples[0], sound.sample_rate, entry["entry"])
        if not abs(lands) <= MAX_LANDING_SECONDS:
            faults.append(f"its attack is {1000 * lands:+.1f} ms from its entry")
        if not 1.0 <= sound.seconds <= 4.0:
            faults.append(f"it lasts {sound.seconds:.2f} s, not 1 to 4")
    name = f"{place}/{entry['file']}"
    return {"file": name, "true_peak_dbtp": true_peak, "lands_seconds": lands, "faults": faults}


def landing(samples: FloatArray, sample_rate: int, entry: int) -> float:
    """By how much the strongest onset near a sample is late, in seconds, by librosa's onset strength.

    Example:
        >>> click = np.zeros(48_000, np.float32)
        >>> click[24_240:26_000] = 0.1 * np.random.default_rng(0).standard_normal(1_760)
        >>> abs(landing(click, 48_000, 24_000) - 0.005) < 0.004
        True
    """
    strength = require("librosa.onset").onset_strength(
        y=samples, sr=sample_rate, hop_length=LANDING_HOP, n_fft=LANDING_WINDOW, n_mels=32
    )
    times = np.arange(len(strength)) * LANDING_HOP / sample_rate
    near = np.abs(times - entry / sample_rate) <= LANDING_REACH
    return float(times[near][np.argmax(strength[near])] - entry / sample_rate) if near.any() else np.inf


def librosa_onsets(samples: FloatArray, sample_rate: int) -> DoubleArray:
    """Times in seconds of the onsets that librosa finds in `[N]`."""
    onset_detect = require("librosa.onset").onset_detect
    return np.asarray(onset_detect(y=samples, sr=sample_rate, units="time"))


def _check_file(
    folder: Path, room: Mapping[str, Any], entry: Mapping[str, Any], score: Score | None
) -> Check:
    path = folder / room["folder"] / entry["file"]
    sound = audio.read(path)
    mono = omni(sound, entry["spatial"]).samples[0]
    onsets = librosa_onsets(np.tile(mono, N_LAPS), sound.sample_rate)
    faults = _container_faults(path, room["grid"])
    places: dict[str, Any] = {}
    found = [("seam", entry["seam"]), *(("fold", fold) for fold in entry["folds"])]
    for name, own in found:
        at, before = own["sample"], own["before"]
        seam = measure_seam(mono, sound.sample_rate, at)
        figures = {key: value for key, value in dataclasses.asdict(seam).items() if key != "onset"}
        passes = (at + len(mono) * np.arange(1, N_LAPS)) / sound.sample_rate
        away = (onsets[None] - passes[:, None]).flatten()
        near = [round(float(t), 3) for t in away if abs(t) <= ONSET_SECONDS]
        is_in_music = own["onset_before"] > 0 or (
            score is not None and is_struck(score, at / sound.sample_rate, sound.seconds)
        )
        # Of several voices' folds the one that is most unlike other places stands in the table.
        if name not in places or seam.excess() > places[name]["excess"]:
            places[name] = {**figures, "onsets": near, "is_in_music": is_in_music, "excess": seam.excess()}
        for index, (figure, share) in enumerate(figures.items()):
            # Where a bar line is struck, it was so before the loop was made.
            low, high = LEAST_SHARE, GREATEST_SHARE
            if before is not None:
                low, high = min(low, before[index] - CHANGE), max(high, before[index] + CHANGE)
            if not low <= share <= high:
                faults.append(f"the {name}'s {figure.replace('_', ' ')} is at {share:.3f} of the loop's own")
        if near and not is_in_music:
            faults.append(f"an onset {near[0]:+.3f} s from the {name} was not in the music")
    lufs, true_peak = _ebur128(path, entry["spatial"])
    if not entry["nearly_nothing"] and not abs(lufs - entry["lufs_asked"]) <= MAX_LUFS_ERROR:
        faults.append(f"it has {lufs:.2f} LUFS, not {entry['lufs_asked']:g}")
    if true_peak > room["levels"]["true_peak_dbtp"]:
        faults.append(f"its true peak is {true_peak:.1f} dBTP")
    inside = onsets[(onsets >= sound.seconds) & (onsets < 2 * sound.seconds)]
    chance = sound.seconds + np.arange(0.0, sound.seconds, 0.01)
    cover = np.abs(chance[:, None] - onsets[None]).min(axis=1, initial=np.inf) <= ONSET_SECONDS
    return {
        "file": f"{room['folder']}/{entry['file']}",
        "room": room["folder"],
        "layer": entry["layer"],
        "variation": entry["variation"],
        "lufs": None if entry["nearly_nothing"] else round(lufs, 3),
        "lufs_looped": round(loudness_of(np.tile(sound.samples, (1, 8)), sound.sample_rate), 3),
        "true_peak_dbtp": true_peak,
        **{name: {k: v for k, v in own.items() if k != "excess"} for name, own in places.items()},
        "onset_cover": round(float(cover.mean()), 3),
        "onsets_per_second": round(len(inside) / sound.seconds, 2),
        "lufs_made": entry["lufs_made"],
        "faults": faults,
    }


def _played(folder: Path, room: Mapping[str, Any]) -> dict[tuple[int, str], Score]:
    """The notes of each variation and layer, if the room has scores."""
    found = {}
    for own in room.get("scores", ()):
        score = read_midi(folder / room["folder"] / own["file"])
        for layer in own["onsets"]:
            parts = tuple(part for part in score.parts if part.name.endswith(f" ({layer})"))
            several = len(own["onsets"]) > 1
            found[own["variation"], layer] = dataclasses.replace(score, parts=parts) if several else score
    return found


def _ebur128(path: Path, spatial: str) -> tuple[float, float]:
    """Integrated loudness in LUFS, of AmbiX that of its W, and true peak in dBTP of all channels, by ffmpeg."""
    figures = []
    for pan in ("", "pan=mono|c0=c0,") if spatial == "ambix" else ("",):
        meter = f"{pan}ebur128=peak=true:metadata=1,ametadata=print:key=lavfi.r128.I:file=-"
        command = ["ffmpeg", "-nostdin", "-hide_banner", "-nostats"]
        command += ["-i", f"{path}", "-af", meter, "-f", "null", "-"]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
        loudness = re.findall(r"lavfi\.r128\.I=(\S+)", done.stdout)
        peaks = re.findall(r"Peak:\s+(\S+) dBFS", done.stderr)
        if done.returncode != 0 or not loudness or not peaks:
            raise AudioError(f"{path} cannot be measured by ffmpeg ({done.stderr.strip()[-200:]}).")
        figures.append((float(loudness[-1]), float(peaks[-1])))
    return figures[-1][0], figures[0][1]


def _container_faults(path: Path, grid: Mapping[str, Any]) -> list[str]:
    """Differences between a file as other tools read it and its manifest entry: samples, rate, loop points, bars."""
    n_samples, bars = grid["n_samples"], list(grid["bar_samples"])
    command = ["ffprobe", "-v", "error", "-show_entries", "stream=sample_rate,duration_ts", "-of", "json"]
    probed = subprocess.run([*command, path], capture_output=True, encoding="utf-8", errors="replace")
    streams = json.loads(probed.stdout or "{}").get("streams", [])
    if probed.returncode != 0 or probed.stderr or len(streams) != 1:
        return [f"ffprobe cannot read it ({probed.stderr.strip()})"]
    expected: dict[str, Any] = {"samples": n_samples, "rate": grid["sample_rate"]}
    found: dict[str, Any] = {"samples": streams[0]["duration_ts"], "rate": int(streams[0]["sample_rate"])}
    if path.suffix == ".wav":
        expected |= {"smpl": (1, 0, 0, n_samples - 1, 0), "cue": bars}
        found |= wav_loop(path.read_bytes())
    else:
        tags = require("mutagen").File(path).tags
        expected |= {"LOOPSTART": ["0"], "LOOPLENGTH": [str(n_samples)], "BARS": [" ".join(map(str, bars))]}
        found |= {name: tags.get(name) for name in ("LOOPSTART", "LOOPLENGTH", "BARS")}
    return [
        f"{name} is {found.get(name)}, not {value}"
        for name, value in expected.items()
        if found.get(name) != value
    ]


def wav_loop(data: bytes) -> dict[str, Any]:
    """Loop points of a WAV file's bytes, by the specification of RIFF alone.

    Returns:
        `smpl`: number of regions, and of the first its type, start, end and play count; `cue`: positions.
    """
    found: dict[str, Any] = {}
    at = 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], struct.unpack("<I", data[at + 4 : at + 8])[0]
        body = data[at + 8 : at + 8 + size]
        if name == b"smpl" and size >= 60:
            _, kind, start, end, _, count = struct.unpack("<6I", body[36:60])
            found["smpl"] = (struct.unpack("<I", body[28:32])[0], kind, start, end, count)
        elif name == b"cue " and size >= 4:
            n_points = struct.unpack("<I", body[:4])[0]
            found["cue"] = [struct.unpack("<I", body[24 + 24 * i : 28 + 24 * i])[0] for i in range(n_points)]
        at += 8 + size + size % 2
    return found


def described(checks: Sequence[Check], densities: Layers, extras: Sequence[Check] = ()) -> str:
    """The figures of all files as a table, a summary, and each fault in a line."""
    head = f"{'file':<44} {'LUFS':>7} {'looped':>7} {'peak':>6} {'onsets/s':>8}"
    lines = [head + "".join(f"  {name + ': jump, flux, deriv., onsets':<38}" for name in PLACES)]
    for c in checks:
        lufs = "quiet" if c["lufs"] is None else f"{c['lufs']:.2f}"
        line = f"{c['file'][-44:]:<44} {lufs:>7} {c['lufs_looped']:7.2f} {c['true_peak_dbtp']:6.1f}"
        line += f" {c['onsets_per_second']:8.2f}"
        for p in (c[name] for name in PLACES):
            onsets = str(len(p["onsets"]) or "-") + (
                ", in the music" if p["onsets"] and p["is_in_music"] else ""
            )
            line += f"  {p['level_jump']:6.3f} {p['spectral_flux']:6.3f} {p['derivative']:6.3f}  {onsets:<16}"
        lines.append(line.rstrip())
    for room, layers in densities.items():
        ordered = " < ".join(f"{name} {density:.2f}" for name, density in layers.items())
        lines.append(f"{room}: {ordered} onsets a second?")
    found = []
    for name in PLACES:
        struck = [c[name]["is_in_music"] for c in checks if c[name]["onsets"]]
        found.append(f"{len(struck)} with an onset at the {name}, of which {sum(struck)} were in the music")
    n_by_chance = sum(c["onset_cover"] for c in checks)
    lines.append(
        f"{len(checks)} files, {' and '.join(found)}; at places drawn by chance {n_by_chance:.1f} would have one."
    )
    for extra in extras:
        lands = extra["lands_seconds"]
        landed = "" if lands is None else f", attack {1000 * lands:+.1f} ms from its beat"
        lines.append(f"{extra['file']}: peak {extra['true_peak_dbtp']:.1f} dBTP{landed}")
    lines += [f"{c['file']}: {fault}." for c in [*checks, *extras] for fault in c["faults"]]
    return "\n".join(lines)
