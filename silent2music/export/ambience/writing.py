"""Writes loops as files that game engines loop as they are, at a loudness each and under one true peak.

WAV carries a `smpl` chunk with one endless forward region and a `cue` chunk with the bars; FLAC and OGG carry the
tags LOOPSTART and LOOPLENGTH, in samples. There is no MP3: it pads its ends.

Loudness is that of the file, played once, as every meter and every engine's importer reads it. Played for ever it
differs by what lies around the seam, which is measured then and not before: up to 1 LU where few strokes
make a lap's level and one lies there, less than 0.2 LU in most. Of layers that are alternatives each is at the target
by itself; of layers of one score their sum is, and each step adds the same number of LU.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from silent2music import audio
from silent2music.arrays import FloatArray
from silent2music.audio import LoudnessMeter, Waveform, db_to_gain, gate
from silent2music.audio.loudness import HOP_SECONDS
from silent2music.bandwidth import BandExtension
from silent2music.codec import Codec
from silent2music.config import AmbienceConfig
from silent2music.errors import AudioError
from silent2music.export import provenance
from silent2music.export.ambience.lap import Grid
from silent2music.export.ambience.loops import Hear, Loop, figures_of
from silent2music.export.ambience.seam import measure_seam
from silent2music.export.delivery import lap_at_rate
from silent2music.export.levelling import NEARLY_NOTHING_LUFS, rounded_lufs
from silent2music.export.riff import chunk, cue_chunks
from silent2music.export.space import Placement, fold_down, omni, spatialised

LOSSY = ("ogg",)
LAYER_STEP_LU = 4.0
"""By which each layer of a score raises the loudness of those before it."""
LEAST_STEP_LU = 1.0
"""What it raises it by at least, where the gate of BS.1770 lets no gain reach the step."""
GAINS_DB = ((40.0, 0.5), (0.5, 0.01))
"""Gains that are tried around one: so far to either side, so far apart."""
MIDDLE_C = 60
MAX_REWRITES = 4

N_ROUNDS = 12
TOLERANCE_LU = 0.02

GATE_MARGIN_LU = 0.1
"""No gating block that matters lies nearer to the relative gate."""
GATE_STEP_LU = 0.05
"""Blocks at the gate matter where they move loudness by more than this."""


def loudness_of(samples: FloatArray, sample_rate: int) -> float:
    """Integrated LUFS (ITU-R BS.1770) of `[C, N]`; of an AmbiX field its W, which is its mono fold-down."""
    return audio.integrated_lufs(Waveform(_metered(samples), sample_rate))


def _metered(samples: FloatArray) -> FloatArray:
    return samples[:1] if len(samples) > 2 else samples


def off_the_gate(samples: FloatArray, sample_rate: int) -> FloatArray:
    """Change a lap `[C, N]` slightly so that no gating block lies on BS.1770's relative gate and all meters agree.

    A block there counts or not by the last digit, and where few blocks are loud, loudness is not the same by two
    meters, or before and after coding: with 11 of them, by 0.4 LU. Such a block swells or sinks by some tenths of a dB.
    """
    width = round(4 * HOP_SECONDS * sample_rate)
    swell = GATE_MARGIN_LU * 2.0 * np.hanning(width)
    for _ in range(N_ROUNDS):
        meter = LoudnessMeter(sample_rate, len(_metered(samples)))
        meter.add(_metered(samples))
        blocks = meter.blocks()
        above = blocks - gate(blocks)
        at_gate = np.flatnonzero(np.abs(above) < GATE_MARGIN_LU)
        n_loud = int((above >= GATE_MARGIN_LU).sum())
        if len(at_gate) == 0 or n_loud == 0 or 10.0 * np.log10(1.0 + len(at_gate) / n_loud) < GATE_STEP_LU:
            break
        gain_db = np.zeros(max(width, samples.shape[1]))
        for block in at_gate:
            begin = round(block * HOP_SECONDS * sample_rate)
            gain_db[begin : begin + width] += np.copysign(swell, above[block])[: len(gain_db) - begin]
        samples = samples * (10.0 ** (gain_db[: samples.shape[1]] / 20.0)).astype(np.float32)
    return samples


def levelled_set(
    sounds: Sequence[FloatArray],
    sample_rate: int,
    lufs: Sequence[float],
    true_peak: float,
    as_made: bool = False,
    adds: bool = False,
) -> tuple[list[FloatArray], list[bool]]:
    """Bring the layers `[C, N]` of a set to a loudness each, all of them and their sum under a true peak.

    Where the limit is touched, all layers are turned down together, so that their balance stays. What is nearly
    nothing is meant to be, and stays as it is; `as_made`, whatever it is, for a room that is digital silence. One of
    layers that add (`adds`) stays so only where it is silent, for their sum says whether they are nearly nothing.

    Returns:
        The layers, and for each whether it is nearly nothing.
    """
    loudness = [loudness_of(s, sample_rate) for s in sounds]
    least = -math.inf if adds else NEARLY_NOTHING_LUFS
    quiet = [(as_made and not adds) or not loud > least for loud in loudness]
    gains_db = [0.0 if q else t - loud for q, t, loud in zip(quiet, lufs, loudness, strict=True)]
    held, limit = list(sounds), true_peak
    for _ in range(N_ROUNDS):
        louder = [s * audio.db_to_gain(g) for s, g in zip(sounds, gains_db, strict=True)]
        # After the limiter, which may put a block on the gate as well as take one away.
        held = [off_the_gate(h, sample_rate) for h in _held(louder, sample_rate, limit)]
        missing = _missing_db(lufs, held, quiet, sample_rate)
        excess = _true_peak(held) - true_peak
        if max(map(abs, missing)) < TOLERANCE_LU and excess <= 0.0:
            break
        limit -= max(0.0, excess)
        gains_db = [g + m if math.isfinite(m) else g for g, m in zip(gains_db, missing, strict=True)]
    return held, quiet


def _missing_db(
    lufs: Sequence[float], sounds: Sequence[FloatArray], quiet: Sequence[bool], sample_rate: int
) -> list[float]:
    """Gain in dB that each sound still needs to reach its loudness in LUFS; 0 if it is nearly silent."""
    return [
        0.0 if is_quiet else target - loudness_of(sound, sample_rate)
        for target, sound, is_quiet in zip(lufs, sounds, quiet, strict=True)
    ]


def _held(sounds: Sequence[FloatArray], sample_rate: int, true_peak: float) -> list[FloatArray]:
    """Sounds after one limiter for all of them and their sum, run across the seam as in endless repetition."""
    n_channels, n_samples = sounds[0].shape
    together = _with_sum(sounds)
    thrice = audio.limited(np.tile(together, 3), sample_rate, true_peak).samples
    held = thrice[:, n_samples : 2 * n_samples]
    return [held[i * n_channels : (i + 1) * n_channels] for i in range(len(sounds))]


def _true_peak(sounds: Sequence[FloatArray]) -> float:
    """The highest true peak in dBTP of sounds and of their sum, repeated endlessly."""
    twice = np.tile(_with_sum(sounds), 2)
    return audio.peak_dbtp(audio.oversampled_peaks(twice, float(np.abs(twice).max())))


def _with_sum(sounds: Sequence[FloatArray]) -> FloatArray:
    """Sounds `[C, N]` and their sum, one below the other."""
    return np.concatenate([*sounds, np.sum(sounds, axis=0)]).astype(np.float32)


def in_24_bits(samples: FloatArray, seed: int) -> FloatArray:
    """Samples `[C, N]` on the steps of 24-bit PCM, with triangular dither of two steps (Lipshitz et al., 1992).

    Writing them as PCM changes nothing more. Digital silence stays digital silence.
    """
    if not samples.any():
        return samples
    top = 2**23
    noise = np.random.default_rng(seed).random((2, *samples.shape)).sum(axis=0) - 1.0
    steps = np.rint(samples.astype(np.float64) * top + noise)
    return np.asarray(np.clip(steps, -top, top - 1) / top, dtype=np.float32)


def hearing(
    config: AmbienceConfig, grid: Grid, where: Placement, codec: Codec, seed: int, lufs: float | None
) -> Hear:
    """A function that gives music as a listener without direction hears its files: losslessly or lossily coded or both.

    Lossy coding adds onsets of its own, where the file ends and in what is hardly heard, so that it is done. Levels
    decide what of a lap is silence, so that they are about as they will be: the true peak may ask for less.

    Args:
        lufs: what the music is brought to; None leaves its level, as of one voice of several, whose balance stays.
    """
    codings = sorted({suffix in LOSSY for suffix in config.formats})

    def hear(samples: FloatArray) -> Iterator[FloatArray]:
        n_samples = round(len(samples) / (grid.lap_seconds * codec.sample_rate) * grid.n_samples)
        sound = lap_at_rate(samples, codec.extension, n_samples)
        field = spatialised(sound, grid.sample_rate, where, seed, order_of(config))
        folded = fold_down(field, config.spatial)
        loudness = loudness_of(folded, grid.sample_rate)
        gain_db = lufs - loudness if lufs is not None and loudness > NEARLY_NOTHING_LUFS else 0.0
        made = Waveform(folded * np.float32(db_to_gain(gain_db)), grid.sample_rate)
        for is_lossy in codings:
            yield omni(audio.ogg_coded(made) if is_lossy else made, config.spatial).samples[0]

    return hear


# ---- files ----


Voices = Sequence[tuple[Loop, Placement]]
"""What sounds together in one file, each voice at its place: the parts of a score, or all of the music."""


def sums_lufs(lufs: float, n_layers: int) -> list[float]:
    """LUFS of one layer, of two together, and so on, of layers that add up to a loudness."""
    return [lufs + above * LAYER_STEP_LU for above in range(1 - n_layers, 1)]


def adding_up(sounds: Sequence[FloatArray], sample_rate: int, lufs: float) -> list[float]:
    """LUFS of each of several layers `[C, N]`, so that each raises the sum of those before it by `LAYER_STEP_LU`.

    Gated loudness does not add up as power does: soft notes in the pauses of loud ones can make a sum read lower than
    its loudest layer. So the sums are measured, at every gain that is tried.
    """
    total: FloatArray = np.zeros_like(sounds[0])
    before, targets = -math.inf, list[float]()
    for sound, own in zip(sounds, sums_lufs(lufs, len(sounds)), strict=True):
        targets.append(own)
        if math.isfinite(loudness_of(sound, sample_rate)):
            gain_db, before = _gain_to(targets[-1], before + LEAST_STEP_LU, total, sound, sample_rate)
            sound = sound * db_to_gain(gain_db)
            total, targets[-1] = total + sound, loudness_of(sound, sample_rate)
    return targets


def _gain_to(
    lufs: float, least: float, below: FloatArray, sound: FloatArray, sample_rate: int
) -> tuple[float, float]:
    """The gain in dB of a sound `[C, N]` at which its sum with another is nearest to a loudness, and the sum's own.

    It is above `least`, which it is at some gain: as that rises, loudness jumps where blocks pass the gate, and rises.
    """
    # In each block the power of a sum of signals is quadratic in the gain of one of them.
    others, own, both = (
        10.0 ** (audio.loudness_blocks(Waveform(_metered(part), sample_rate)) / 10.0)
        for part in (below, sound, below + sound)
    )

    def sum_at(gain_db: float) -> float:
        gain = db_to_gain(gain_db)
        power = others + gain * (both - others - own) + gain**2 * own
        return audio.gated(10.0 * np.log10(np.maximum(power, 1e-30)))

    middle, found = lufs - audio.gated(10.0 * np.log10(own)), dict[float, float]()
    for span, step in GAINS_DB:
        tried = middle + np.arange(-span, span + step, step)
        found |= {gain_db: sum_at(gain_db) for gain_db in tried.tolist()}
        middle = min(found, key=lambda gain_db: (found[gain_db] <= least, abs(found[gain_db] - lufs)))
    return middle, found[middle]


def kinds_of(config: AmbienceConfig) -> list[str]:
    """The channels of the files that are asked for, and of their fold-downs."""
    folded = config.spatial == "ambix" and config.fold_downs
    return [config.spatial, *(("stereo", "mono") if folded else ())]


def suffix_of(kind: str, config: AmbienceConfig) -> str:
    """What a file's name says of its channels: of AmbiX order, sequence and normalisation, as programs assume others."""
    if kind == "ambix":
        return f"_ambix{config.order}_acn_sn3d"
    return "" if kind == config.spatial else f"_{kind}"


def described_channels(kind: str, config: AmbienceConfig) -> dict[str, Any]:
    """The same for tags and manifest."""
    if kind != "ambix":
        return {}
    return {"ambisonics": {"order": config.order, "channel_order": "ACN", "normalisation": "SN3D"}}


def write_loops(
    stem: str,
    loops: Mapping[tuple[str, int], Voices],
    extension: BandExtension | None,
    grid: Grid,
    config: AmbienceConfig,
    seed: int,
    tag: Mapping[str, Any],
    as_made: bool = False,
) -> tuple[list[dict[str, Any]], float]:
    """Write all files of a room, as `STEM_LAYER_VARIATION.SUFFIX`.

    Args:
        loops: by layer and variation.
        extension: of their band, if their codec has one.
        seed: of the room's reverberation and of dither.
        as_made: leave their level as the model made it, for a room that is digital silence.

    Returns:
        The files' entries in the manifest, and the highest true peak in dBTP of a sum of layers.
    """
    entries, sum_peaks = [], []
    for variation in range(1, config.variations + 1):
        layers = {name: voices for (name, v), voices in loops.items() if v == variation}
        fields = [_field(voices, extension, grid, config, seed) for voices in layers.values()]
        adds = len(layers) > 1 and next(iter(layers.values()))[0][0].take.circle is not None
        for kind, suffix in itertools.product(kinds_of(config), config.formats):
            sounds = [fold_down(field, kind) for field in fields]
            targets, is_nothing = [config.lufs] * len(layers), False
            if adds:
                whole = loudness_of(np.sum(sounds, axis=0), grid.sample_rate)
                is_nothing = as_made or not whole > NEARLY_NOTHING_LUFS
                if math.isfinite(whole):
                    targets = adding_up(sounds, grid.sample_rate, whole if is_nothing else config.lufs)
            folded, channels = suffix_of(kind, config), described_channels(kind, config)
            paths = [Path(f"{stem}_{name}_{variation}{folded}.{suffix}") for name in layers]
            tags = [{"layer": name, "variation": variation, **channels, **tag} for name in layers]
            written, quiet, sum_peak = _write_set(
                paths, sounds, grid, config, targets, tags, seed, as_made, adds
            )
            sum_peaks.append(sum_peak)
            for i, (name, voices) in enumerate(layers.items()):
                made = rounded_lufs(loudness_of(sounds[i], grid.sample_rate))
                facts = {
                    "layer": name,
                    "variation": variation,
                    "spatial": kind,
                    **channels,
                    "lufs_made": made,
                }
                facts["lufs_asked"] = round(targets[i], 2)
                entries.append(
                    _file_entry(
                        paths[i], written[i], quiet[i] or is_nothing, facts, [loop for loop, _ in voices]
                    )
                )
    return entries, round(max(sum_peaks), 2)


def order_of(config: AmbienceConfig) -> int:
    """The order of the field that files are folded down from."""
    return config.order if config.spatial == "ambix" else 1


def _field(
    voices: Voices, extension: BandExtension | None, grid: Grid, config: AmbienceConfig, seed: int
) -> FloatArray:
    """The field `[C, N]` of voices, each at its place in their room."""
    total: FloatArray | None = None
    for loop, where in voices:
        sound = lap_at_rate(loop.samples, extension, grid.n_samples)
        own = spatialised(sound, grid.sample_rate, where, seed, order_of(config))
        total = own if total is None else total + own
    assert total is not None
    return total


def _write_set(
    paths: Sequence[Path],
    sounds: Sequence[FloatArray],
    grid: Grid,
    config: AmbienceConfig,
    lufs: Sequence[float],
    tags: Sequence[Mapping[str, Any]],
    seed: int,
    as_made: bool,
    adds: bool,
) -> tuple[list[Waveform], list[bool], float]:
    """Write the layers of one variation at a loudness each, and read back what the files hold.

    Lossy coding moves loudness and peaks, so that the set is written again until what comes back is as asked.

    Returns:
        What the files hold, for each whether it is nearly nothing, and the true peak in dBTP of their sum.
    """
    limit, targets = config.true_peak, list(lufs)
    is_lossy = paths[0].suffix[1:] in LOSSY
    for _ in range(MAX_REWRITES):
        levelled, quiet = levelled_set(sounds, grid.sample_rate, targets, limit, as_made, adds)
        back = []
        for i, (path, samples, tag) in enumerate(zip(paths, levelled, tags, strict=True)):
            samples = samples if is_lossy else in_24_bits(samples, seed + i)
            write_loop(path, Waveform(samples, grid.sample_rate), grid.bar_samples, tag)
            back.append(audio.read(path))
            if back[-1].n_samples != grid.n_samples:
                raise AudioError(f"{path.name} holds {back[-1].n_samples} samples of {grid.n_samples}.")
        sum_peak = audio.true_peak_dbtp(Waveform(np.sum([w.samples for w in back], axis=0), grid.sample_rate))
        over_db = max(sum_peak, *(audio.true_peak_dbtp(w) for w in back)) - config.true_peak
        missing = _missing_db(lufs, [w.samples for w in back], quiet, grid.sample_rate)
        if not is_lossy or (over_db < 0 and max(map(abs, missing)) < TOLERANCE_LU):
            break
        limit -= over_db + 0.1 if over_db >= 0 else 0.0
        targets = [t + m for t, m in zip(targets, missing, strict=True)]
    return back, quiet, sum_peak


def write_loop(path: Path, sound: Waveform, bars: Sequence[int], record: Mapping[str, Any]) -> None:
    """Write 24-bit WAV or FLAC, or OGG Vorbis, by suffix, with the loop, its bars in samples, and a record as tags.

    Raises:
        AudioError: if the file cannot be written.
    """
    loop = {"LOOPSTART": "0", "LOOPLENGTH": str(sound.n_samples), "BARS": " ".join(map(str, bars))}
    _write_tagged(path, sound, loop_chunks(sound.n_samples, sound.sample_rate, bars), record, loop)


def write_sound(path: Path, sound: Waveform, marks: Sequence[int], record: Mapping[str, Any]) -> None:
    """As `write_loop`, of sound that does not loop, with marks in samples."""
    _write_tagged(path, sound, cue_chunks(marks), record, {"MARKS": " ".join(map(str, marks))})


def _write_tagged(
    path: Path, sound: Waveform, chunks: bytes, record: Mapping[str, Any], comments: Mapping[str, str]
) -> None:
    audio.write(path, sound, force=True)
    if path.suffix == ".wav":
        try:
            with path.open("r+b") as file:
                end = file.seek(0, 2)
                file.write(b"\0" * (end % 2) + chunks)
                size = file.tell()
                file.seek(4)
                file.write(struct.pack("<I", size - 8))
        except OSError as error:
            raise AudioError(f"{path} cannot be written ({error.strerror}); is the disk full?") from error
        provenance.write_tags(path, record)
    else:
        provenance.write_tags(path, record, comments)


def loop_chunks(n_samples: int, sample_rate: int, bars: Sequence[int]) -> bytes:
    """Chunks of a WAV file (RIFF, Multimedia Programming Interface 1.0) that say how it loops.

    `cue ` holds points at the bars, numbered from 1, and `smpl` one region over the whole file: forward, from 0 to
    the last sample, which is played (the end is inclusive), for ever.
    """
    sampler = (0, 0, round(1e9 / sample_rate), MIDDLE_C, 0, 0, 0, 1, 0)
    body = struct.pack("<9I6I", *sampler, 1, 0, 0, n_samples - 1, 0, 0)
    return cue_chunks(bars) + chunk(b"smpl", body)


def _file_entry(
    path: Path, sound: Waveform, quiet: bool, facts: Mapping[str, Any], loops: Sequence[Loop]
) -> dict[str, Any]:
    """The entry of a written file, measured on what it gives back; its voices have a fold each."""
    heard, takes = omni(sound, facts["spatial"]).samples[0], [loop.take for loop in loops]

    def place(at: int, frame: float) -> dict[str, Any]:
        usual = list(figures_of(takes, frame)) if takes[0].circle is not None else None
        onset = max(take.onset_at(frame) for take in takes)
        figures = dataclasses.asdict(measure_seam(heard, sound.sample_rate, at))
        return {"sample": at, **figures, "onset_before": onset, "before": usual}

    folds = []
    for loop in loops:
        at = round(loop.fold * sound.n_samples) % sound.n_samples
        own = place(at, loop.fold_frame)
        folds.append({**own, "head_nll": loop.head_nll, "natural_nll": loop.natural_nll})
    return {
        "file": path.name,
        "sha256": provenance.sha256(path),
        **facts,
        "seed": takes[0].sampling.seed,
        "channels": sound.n_channels,
        "loop_start": 0,
        "loop_end": sound.n_samples - 1,
        "lufs": rounded_lufs(loudness_of(sound.samples, sound.sample_rate)),
        "true_peak_dbtp": round(audio.true_peak_dbtp(sound), 2),
        "nearly_nothing": quiet,
        "seam": place(0, loops[0].begin_frame),
        "folds": folds,
        "stands_out": round(max(loop.stands_out for loop in loops), 4),
    }
