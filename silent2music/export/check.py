"""Loops as others find them: a folder that `s2m ambience` wrote, measured by readers and meters that are not ours.

Sample counts come from ffprobe, chunks from a parser of this module's own, tags from mutagen, loudness and true peak
from ffmpeg's ebur128, onsets from librosa. The figures of two places are measured anew on the files: the seam, where the
file's end meets its beginning, and the fold, where the music was made to lead into its beginning.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from silent2music import audio
from silent2music.audio import FloatArray, Waveform
from silent2music.errors import AudioError, require
from silent2music.export.layers import LAYERS
from silent2music.export.manifest import MANIFEST, check_manifest
from silent2music.export.onsets import NEAR_SECONDS
from silent2music.export.seam import GREATEST_SHARE, LEAST_SHARE, N_LAPS, measure_seam

MAX_LUFS_ERROR = 0.1


@dataclass(frozen=True)
class PlaceCheck:
    """What was found of a place in a loop.

    Attributes:
        name: `seam` or `fold`.
        level_jump, spectral_flux, derivative: among those of the loop's other places, 0 to 1.
        onsets: seconds from the place of onsets within 50 ms, in three laps.
        is_in_music: whether there was an onset before the loop was made, by the manifest.
    """

    name: str
    level_jump: float
    spectral_flux: float
    derivative: float
    onsets: tuple[float, ...]
    is_in_music: bool

    @property
    def faults(self) -> list[str]:
        """What is not as it should be, in sentences."""
        figures = {
            "level jump": self.level_jump,
            "spectral flux": self.spectral_flux,
            "derivative": self.derivative,
        }
        found = [
            f"the {self.name}'s {name} is at {value:.3f} of the loop's own"
            for name, value in figures.items()
            if not LEAST_SHARE <= value <= GREATEST_SHARE
        ]
        if self.onsets and not self.is_in_music:
            found.append(f"an onset {self.onsets[0]:+.3f} s from the {self.name} was not in the music")
        return found


@dataclass(frozen=True)
class FileCheck:
    """What was found of one file.

    Attributes:
        file: path below the folder.
        room: its room's folder.
        layer: `loop`, or the intensity layer.
        variation: from 1.
        lufs: integrated loudness of the file by ebur128; None if it is nearly nothing.
        lufs_looped: of it played eight times, by our own meter.
        true_peak_dbtp: by ebur128.
        seam, fold: the two places.
        onset_cover: share of the lap within 50 ms of an onset: how often a place drawn by chance has one.
        onsets_per_second: of a lap.
        lufs_made: loudness before levels were matched.
        faults: what is not as it should be, in sentences.
    """

    file: str
    room: str
    layer: str
    variation: int
    lufs: float | None
    lufs_looped: float
    true_peak_dbtp: float
    seam: PlaceCheck
    fold: PlaceCheck
    onset_cover: float
    onsets_per_second: float
    lufs_made: float | None
    faults: tuple[str, ...]


def check_ambience(folder: Path) -> list[FileCheck]:
    """Measure all files that the manifest of a folder lists.

    Raises:
        AudioError: if there is no manifest, it does not fit its schema, or ffmpeg is not installed.
    """
    path = folder / MANIFEST
    if shutil.which("ffmpeg") is None or shutil.which("ffprobe") is None:
        raise AudioError("ffmpeg and ffprobe are not installed; install them to check loops.")
    require("librosa")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AudioError(f"{path} cannot be read ({error}); expected a folder of s2m ambience.") from error
    check_manifest(manifest)
    return [_check_file(folder, room, entry) for room in manifest["rooms"] for entry in room["files"]]


def layer_densities(folder: Path, checks: Sequence[FileCheck]) -> dict[str, dict[str, float]]:
    """Onsets a second of the intensity layers of each room that has several, in its first variation.

    The layers, which are equally loud, are joined before onsets are looked for: librosa's threshold is a share of the
    strongest onset, so that a layer of its own would be measured by another scale.
    """
    from librosa.onset import onset_detect

    rooms: dict[str, dict[str, str]] = {}
    for check in checks:
        if check.layer in LAYERS and check.variation == 1:
            rooms.setdefault(check.room, {}).setdefault(check.layer, check.file)
    densities: dict[str, dict[str, float]] = {}
    for room, files in rooms.items():
        names = [name for name in LAYERS if name in files]
        sounds = [audio.read(folder / files[name]) for name in names]
        if len(names) > 1:
            joined = np.concatenate([_mono(sound.samples) for sound in sounds])
            found = onset_detect(y=joined, sr=sounds[0].sample_rate, units="time") / sounds[0].seconds
            n_onsets = np.bincount(found.astype(int), minlength=len(names))
            densities[room] = {
                n: round(float(c) / sounds[0].seconds, 2) for n, c in zip(names, n_onsets, strict=True)
            }
    return densities


def _mono(samples: FloatArray) -> FloatArray:
    """`[N]` of `[C, N]`: W of an AmbiX field, else the mean."""
    return np.asarray(samples[0] if len(samples) == 4 else samples.mean(axis=0))


def _check_file(folder: Path, room: Mapping[str, Any], entry: Mapping[str, Any]) -> FileCheck:
    path = folder / room["folder"] / entry["file"]
    sound = audio.read(path)
    mono = _mono(sound.samples)
    onsets = three_laps_onsets(mono, sound.sample_rate)
    seam = _check_place(mono, sound.sample_rate, onsets, "seam", 0, entry["seam"])
    fold = _check_place(mono, sound.sample_rate, onsets, "fold", entry["fold"]["sample"], entry["fold"])
    inside = onsets[(onsets >= sound.seconds) & (onsets < 2 * sound.seconds)]
    chance = sound.seconds + np.arange(0.0, sound.seconds, 0.01)
    cover = np.abs(chance[:, None] - onsets[None]).min(axis=1, initial=np.inf) <= NEAR_SECONDS
    lufs, true_peak = _ebur128(path, entry["spatial"])
    faults = [*_container_faults(path, room["grid"]), *seam.faults, *fold.faults]
    if not entry["nearly_nothing"] and not abs(lufs - room["levels"]["lufs"]) <= MAX_LUFS_ERROR:
        faults.append(f"it has {lufs:.2f} LUFS, not {room['levels']['lufs']:g}")
    if true_peak > room["levels"]["true_peak_dbtp"]:
        faults.append(f"its true peak is {true_peak:.1f} dBTP")
    repeated = Waveform(
        np.tile(sound.samples[:1] if len(sound.samples) == 4 else sound.samples, (1, 8)), sound.sample_rate
    )
    return FileCheck(
        file=f"{room['folder']}/{entry['file']}",
        room=room["folder"],
        layer=entry["layer"],
        variation=entry["variation"],
        lufs=None if entry["nearly_nothing"] else round(lufs, 3),
        lufs_looped=round(audio.integrated_lufs(repeated), 3),
        true_peak_dbtp=true_peak,
        seam=seam,
        fold=fold,
        onset_cover=round(float(cover.mean()), 3),
        onsets_per_second=round(len(inside) / sound.seconds, 2),
        lufs_made=entry["lufs_made"],
        faults=tuple(faults),
    )


def _check_place(
    samples: FloatArray, sample_rate: int, onsets: FloatArray, name: str, at: int, entry: Mapping[str, Any]
) -> PlaceCheck:
    figures = measure_seam(samples, sample_rate, at)
    passes = (at + len(samples) * np.arange(1, N_LAPS)) / sample_rate
    away = (onsets[None] - passes[:, None]).flatten()
    return PlaceCheck(
        name,
        figures.level_jump,
        figures.spectral_flux,
        figures.derivative,
        tuple(round(float(t), 3) for t in away if abs(t) <= NEAR_SECONDS),
        entry["onset_before"] > 0,
    )


def three_laps_onsets(samples: FloatArray, sample_rate: int) -> FloatArray:
    """Times in seconds of the onsets that librosa finds in three laps of `[N]`."""
    from librosa.onset import onset_detect

    laps = np.tile(samples, N_LAPS)
    return np.asarray(onset_detect(y=laps, sr=sample_rate, units="time"))


def _ebur128(path: Path, spatial: str) -> tuple[float, float]:
    """Integrated loudness in LUFS and true peak in dBTP by ffmpeg; loudness of AmbiX is that of its W."""
    loudness, peak = _ffmpeg(path, "ebur128=peak=true:metadata=1"), None
    if spatial == "ambix":
        peak, loudness = loudness[1], _ffmpeg(path, "pan=mono|c0=c0,ebur128=peak=true:metadata=1")
    return loudness[0], loudness[1] if peak is None else peak


def _ffmpeg(path: Path, meter: str) -> tuple[float, float]:
    chain = f"{meter},ametadata=print:key=lavfi.r128.I:file=-"
    done = subprocess.run(
        ["ffmpeg", "-hide_banner", "-nostats", "-i", path, "-af", chain, "-f", "null", "-"],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    loudness = re.findall(r"lavfi\.r128\.I=(\S+)", done.stdout)
    peaks = re.findall(r"Peak:\s+(\S+) dBFS", done.stderr)
    if done.returncode != 0 or not loudness or not peaks:
        raise AudioError(f"{path} cannot be measured by ffmpeg ({done.stderr.strip()[-200:]}).")
    return float(loudness[-1]), float(peaks[-1])


def _container_faults(path: Path, grid: Mapping[str, Any]) -> list[str]:
    """What readers of the file find other than the manifest says: samples, rate, loop points, bars."""
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
        import mutagen

        tags = mutagen.File(path).tags
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


def described(folder: Path, checks: Sequence[FileCheck]) -> str:
    """The figures of all files as a table, what they come to, and each fault in a line."""
    head = f"{'file':<44} {'LUFS':>7} {'looped':>7} {'peak':>6} {'onsets/s':>8}"
    lines = [head + "".join(f"  {name + ': jump, flux, deriv., onsets':<38}" for name in ("seam", "fold"))]
    for c in checks:
        lufs = "quiet" if c.lufs is None else f"{c.lufs:.2f}"
        line = f"{c.file[-44:]:<44} {lufs:>7} {c.lufs_looped:7.2f} {c.true_peak_dbtp:6.1f} {c.onsets_per_second:8.2f}"
        for p in (c.seam, c.fold):
            onsets = f"{len(p.onsets)}{', in the music' if p.is_in_music else ''}" if p.onsets else "-"
            line += f"  {p.level_jump:6.3f} {p.spectral_flux:6.3f} {p.derivative:6.3f}  {onsets:<16}"
        lines.append(line.rstrip())
    lines += [
        f"{room}: "
        + " < ".join(f"{name} {density:.2f}" for name, density in layers.items())
        + " onsets a second?"
        for room, layers in layer_densities(folder, checks).items()
    ]
    n_by_chance = sum(c.onset_cover for c in checks)
    struck = {name: [p for p in (getattr(c, name) for c in checks) if p.onsets] for name in ("seam", "fold")}
    found = " and ".join(
        f"{len(places)} with an onset at the {name}, of which {sum(p.is_in_music for p in places)} were in the music"
        for name, places in struck.items()
    )
    lines.append(f"{len(checks)} files, {found}; at places drawn by chance {n_by_chance:.1f} would have one.")
    lines += [f"{c.file}: {fault}." for c in checks for fault in c.faults]
    return "\n".join(lines)
