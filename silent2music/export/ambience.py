"""Ambience for games: rooms in, folders of loops, layers and variations out, with a manifest.

A room's folder is made beside its place under a hidden name and moved there when it is complete, so that a kill, a
full disk or an error leaves it whole or absent, and the next start goes on with the rooms that are not there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from silent2music import audio
from silent2music.acoustics import AcousticProfile, analyze
from silent2music.audio import FloatArray, Waveform
from silent2music.config import AmbienceConfig, SamplingConfig, to_dict
from silent2music.errors import AudioError, CheckpointError
from silent2music.export import batch, provenance
from silent2music.export.circle import at_rate
from silent2music.export.folders import RoomJob, check_writable, is_complete, move_into_place, plan_rooms
from silent2music.export.formats import EXPORTERS, LOSSY
from silent2music.export.grid import Grid, plan_grid, room_lap
from silent2music.export.hearing import hearing
from silent2music.export.infer import Failure, LoadedModel, Progress, default_model, load_model
from silent2music.export.layers import LAYERS, PLAIN
from silent2music.export.levels import TOLERANCE_LU, levelled_set, loudness_of, quantised
from silent2music.export.loops import Loop, close_set, write_take
from silent2music.export.manifest import LICENCE, RECORD, read_record, write_manifest
from silent2music.export.seam import measure_seam
from silent2music.export.space import Placement, check_format, fold_down, heard, place, placement
from silent2music.export.workers import Workers

Tell = Callable[[str], None]
"""Called with a sentence for the user."""

MAX_REWRITES = 4


@dataclass(frozen=True)
class Report:
    """What came of it: rooms made, rooms that were complete already, and failures."""

    made: list[str]
    kept: list[str]
    failures: list[Failure]


def ambience(
    rooms: Sequence[Path],
    out: Path,
    config: AmbienceConfig,
    seed: int = 0,
    model_folder: Path | None = None,
    device: str | None = None,
    force: bool = False,
    contact_sheet: Path | None = None,
    progress: Progress | None = None,
    tell: Tell | None = None,
) -> Report:
    """Make loops for rooms; a bad one does not stop the rest, and complete ones are kept.

    Args:
        rooms: recordings and folders of them, whose trees are mirrored below `out`.
        out: the folder to write.
        config: what to make.
        seed: the base seed; a recording in a folder gets one from it and its relative path.
        model_folder: a model, by default the shipped one.
        device: `cpu`, `cuda` or `mps`.
        force: make rooms anew that are there.
        contact_sheet: a PNG with a picture of every room.
        progress: told of every step.
        tell: told what a user should know while it goes on.

    Returns:
        The report. Of several processes the first one speaks for all; the others report no failures.

    Raises:
        AudioError: if the folder cannot be written.
        CheckpointError, ConfigError: if the model or the device cannot be used.
    """
    if contact_sheet is not None:
        from silent2music.export.sheet import check_sheet, draw_sheet

        check_sheet(contact_sheet)
    check_writable(out)
    jobs, failures = plan_rooms(rooms, out, seed)
    workers = Workers()
    failures = failures if workers.index == 0 else []
    for failure in failures:
        _say(tell, failure.reason)
    studio = _Studio(config, model_folder, device or workers.device, force, progress, tell)
    labels = {str(job.room): job.label for job in jobs}
    done: dict[str, list[str]] = {"made": [], "skipped": []}
    for outcome in batch.run(
        jobs, lambda job: str(job.room), studio.made, studio.make, worker=workers.worker
    ):
        if outcome.status == "failed":
            failures.append(Failure(outcome.key, outcome.reason))
            _say(tell, outcome.reason)
        else:
            done[outcome.status].append(labels[outcome.key])
    report = Report(
        made=sorted(workers.gathered(done["made"])),
        kept=sorted(workers.gathered(done["skipped"])),
        failures=sorted(workers.gathered(failures), key=lambda failure: failure.name),
    )
    if workers.index == 0:
        manifest = write_manifest(out, [{"file": f.name, "reason": f.reason} for f in report.failures])
        if contact_sheet is not None:
            draw_sheet(out, manifest, contact_sheet)
    workers.wait()
    return report if workers.index == 0 else dataclasses.replace(report, failures=[])


class _Studio:
    """Renders rooms one after the other; the model is loaded when the first one needs it."""

    def __init__(
        self,
        config: AmbienceConfig,
        model_folder: Path | None,
        device: str | None,
        force: bool,
        progress: Progress | None,
        tell: Tell | None,
    ) -> None:
        self.config = config
        self.model_folder = model_folder or default_model()
        weights = self.model_folder / "model.safetensors"
        if not weights.exists():
            raise CheckpointError(
                f"{self.model_folder} is no model folder; expected one with {weights.name}."
            )
        self.model_sha256 = provenance.sha256(weights)
        self.device = device
        self.force = force
        self.progress = progress
        self.tell = tell
        self._loaded: LoadedModel | None = None

    @property
    def loaded(self) -> LoadedModel:
        """The model."""
        if self._loaded is None:
            self._loaded = load_model(self.model_folder, self.device)
        return self._loaded

    def made(self, job: RoomJob) -> dict[str, Any] | None:
        """The record of a room's folder if it is complete already.

        Raises:
            AudioError: if something else is there.
        """
        if not job.folder.exists() or not job.room.is_file():
            return None
        with _named(job):
            return read_record(job.folder) if is_complete(job, self._origin(job), self.force) else None

    def make(self, job: RoomJob) -> dict[str, Any]:
        """Make a room's folder and return its record.

        Raises:
            AudioError: if it cannot be made; then there is no trace of it.
            CheckpointError, ConfigError: if no room can.
        """
        with _named(job):
            return self._make(job)

    def _make(self, job: RoomJob) -> dict[str, Any]:
        room = audio.read(job.room)
        check_format(room, self.config.room_format)
        origin = self._origin(job)
        profile = analyze(heard(room, self.config.room_format))
        model = self.loaded.model
        max_frames = model.config.decoder.attention_window
        grid = plan_grid(profile, self.config, model.codec.frame_rate, max_frames)
        where = placement(room, profile, self.config.room_format)
        partial = job.partial
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            sounds = self._compose(job, room, profile, grid, where)
            files, sum_peak = self._write(job, partial, sounds, grid, where, origin)
            entry = self._entry(
                job,
                room,
                profile,
                grid,
                where,
                origin,
                files,
                sum_peak,
                _key(sounds, model.codec.sample_rate),
            )
            (partial / RECORD).write_text(provenance.to_text(entry), encoding="utf-8")
            move_into_place(partial, job.folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        quiet = [f["file"] for f in files if f["nearly_nothing"]]
        if quiet:
            _say(
                self.tell,
                f"{job.label}: {', '.join(quiet)} nearly nothing, as this room is; level left as it is.",
            )
        for file in files:
            if not file["nearly_nothing"] and abs(file["lufs"] - self.config.lufs) > 0.1:
                _say(
                    self.tell,
                    f"{job.label}: {file['file']} came to {file['lufs']} LUFS under its true peak.",
                )
        return entry

    def _origin(self, job: RoomJob) -> dict[str, Any]:
        """All that decides the bytes of a room's files."""
        return {
            "input_sha256": provenance.sha256(job.room),
            "model_sha256": self.model_sha256,
            "seed": job.seed,
            "settings": _plain(to_dict(self.config)),
            "versions": provenance.versions(),
        }

    def _compose(
        self, job: RoomJob, room: Waveform, profile: AcousticProfile, grid: Grid, where: Placement
    ) -> dict[tuple[str, int], Loop]:
        """A closed loop for each layer and variation."""
        model, config = self.loaded.model, self.config
        guidance = model.config.guidance if config.guidance is None else config.guidance
        sampling = SamplingConfig(temperature=config.temperature, guidance=guidance, seed=job.seed)
        lap = room_lap(heard(room, config.room_format), profile, grid, model.codec.sample_rate)
        seeds = [variation_seed(job.seed, v) for v in range(1, config.variations + 1)]
        layers = {name: LAYERS[name] for name in config.layers} or {"loop": PLAIN}
        takes = {}
        for i, (name, layer) in enumerate(layers.items()):
            steps = self._steps(job, i, len(layers))
            takes[name] = write_take(model, lap, grid, layer, sampling, seeds, steps)
        hear = hearing(config, grid, where, model.codec.sample_rate, job.seed)
        closed = close_set(model, list(takes.values()), grid, config.candidates, hear)
        loops = {
            (name, v): loop
            for name, variations in zip(takes, closed, strict=True)
            for v, loop in enumerate(variations, 1)
        }
        standing_out = [f"{name} {v}" for (name, v), loop in loops.items() if loop.stands_out > 0]
        if standing_out:
            _say(
                self.tell,
                f"{job.label}: of {', '.join(standing_out)} the seam or the fold stands out, whatever ending was tried; "
                "the best is kept. Another seed may have a better one.",
            )
        return loops

    def _steps(self, job: RoomJob, done_layers: int, n_layers: int) -> Callable[[int, int], None] | None:
        if self.progress is None:
            return None
        progress = self.progress
        return lambda done, total: progress(job.label, done_layers * total + done, n_layers * total)

    def _write(
        self,
        job: RoomJob,
        folder: Path,
        loops: Mapping[tuple[str, int], Loop],
        grid: Grid,
        where: Placement,
        origin: Mapping[str, Any],
    ) -> tuple[list[dict[str, Any]], float]:
        """Write all files; their entries, and the highest true peak of a sum of layers in dBTP."""
        config = self.config
        kinds = [config.spatial]
        if config.spatial == "ambix" and config.fold_downs:
            kinds += ["stereo", "mono"]
        entries, sum_peaks = [], []
        for variation in range(1, config.variations + 1):
            names = [name for name, v in loops if v == variation]
            fields = [
                place(
                    at_rate(loops[name, variation].samples, grid.n_samples), grid.sample_rate, where, job.seed
                )
                for name in names
            ]
            for kind in kinds:
                sounds = [fold_down(field, kind) for field in fields]
                for suffix in config.formats:
                    stems = [_stem(job, name, variation, kind, config.spatial) for name in names]
                    paths = [folder / f"{stem}.{suffix}" for stem in stems]
                    tags = [self._tag(job, grid, name, variation, origin) for name in names]
                    written, quiet = self._write_set(paths, sounds, grid, tags, job.seed)
                    total = Waveform(np.sum([w.samples for w in written], axis=0), grid.sample_rate)
                    sum_peaks.append(audio.true_peak_dbtp(total))
                    for name, path, sound, silent, made in zip(
                        names, paths, written, quiet, sounds, strict=True
                    ):
                        facts = {"layer": name, "variation": variation, "spatial": kind}
                        facts["lufs_made"] = _rounded(loudness_of(made, grid.sample_rate))
                        facts["seed"] = variation_seed(job.seed, variation)
                        entries.append(_file_entry(path, sound, silent, facts, loops[name, variation]))
        return entries, round(max(sum_peaks), 2)

    def _write_set(
        self, paths: Sequence[Path], sounds: Sequence[FloatArray], grid: Grid, tags: Sequence[Any], seed: int
    ) -> tuple[list[Waveform], list[bool]]:
        """Write the layers of one variation, and read back what the files hold.

        Lossy coding moves loudness and peaks, so that the set is written again until what comes back is as asked.
        """
        config, limit = self.config, self.config.true_peak
        targets = [config.lufs] * len(paths)
        suffix = paths[0].suffix[1:]
        for _ in range(MAX_REWRITES):
            levelled, quiet = levelled_set(sounds, grid.sample_rate, targets, limit)
            back = []
            for i, (path, samples, tag) in enumerate(zip(paths, levelled, tags, strict=True)):
                samples = samples if suffix in LOSSY else quantised(samples, seed + i)
                EXPORTERS[suffix](path, Waveform(samples, grid.sample_rate), grid.bar_samples, tag)
                back.append(audio.read(path))
                if back[-1].n_samples != grid.n_samples:
                    raise AudioError(f"{path.name} holds {back[-1].n_samples} samples of {grid.n_samples}.")
            total = Waveform(np.sum([w.samples for w in back], axis=0), grid.sample_rate)
            over_db = max(audio.true_peak_dbtp(w) for w in [*back, total]) - config.true_peak
            missing = [config.lufs - loudness_of(w.samples, w.sample_rate) for w in back]
            missing = [0.0 if q else m for q, m in zip(quiet, missing, strict=True)]
            if suffix not in LOSSY or (over_db < 0 and max(map(abs, missing)) < TOLERANCE_LU):
                break
            limit -= over_db + 0.1 if over_db >= 0 else 0.0
            targets = [t + m for t, m in zip(targets, missing, strict=True)]
        return back, quiet

    def _tag(
        self, job: RoomJob, grid: Grid, layer: str, variation: int, origin: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What a file says of itself."""
        return {
            "input": job.label,
            "layer": layer,
            "variation": variation,
            "bpm": grid.bpm,
            "bars": grid.bars,
            **origin,
        }

    def _entry(
        self,
        job: RoomJob,
        room: Waveform,
        profile: AcousticProfile,
        grid: Grid,
        where: Placement,
        origin: Mapping[str, Any],
        files: list[dict[str, Any]],
        sum_peak: float,
        key: str | None,
    ) -> dict[str, Any]:
        """The room's entry in the manifest."""
        exact = grid.n_samples * grid.frame_rate / grid.sample_rate
        return {
            "name": job.folder.name,
            "folder": Path(job.label).with_suffix("").as_posix(),
            "seed": job.seed,
            "grid": {
                "n_samples": grid.n_samples,
                "sample_rate": grid.sample_rate,
                "seconds": grid.seconds,
                "bpm": grid.bpm,
                "bars": grid.bars,
                "beats_per_bar": grid.beats_per_bar,
                "bar_samples": list(grid.bar_samples),
                "key": key,
                "tuning_cents": round(1200.0 * float(np.log2(grid.n_frames / exact)), 2),
            },
            "space": {"spatial": self.config.spatial, **dataclasses.asdict(where)},
            "levels": {
                "lufs": self.config.lufs,
                "true_peak_dbtp": self.config.true_peak,
                "sum_true_peak_dbtp": sum_peak,
            },
            "files": files,
            "input": {
                "file": job.label,
                "sha256": origin["input_sha256"],
                "seconds": room.seconds,
                "sample_rate": room.sample_rate,
                "channels": room.n_channels,
            },
            "profile": profile.to_dict(),
            "settings": origin["settings"],
            "model": {
                "name": self.loaded.name,
                "sha256": origin["model_sha256"],
                "codec_checksum": self.loaded.model.codec.checksum,
            },
            "versions": origin["versions"],
            "licence": {**LICENCE, "room": self.config.licence},
        }


def variation_seed(seed: int, variation: int) -> int:
    """The seed of a variation, the first of which has the room's own."""
    if variation == 1:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}\n{variation}".encode()).digest()[:4], "big")


def _stem(job: RoomJob, layer: str, variation: int, kind: str, spatial: str) -> str:
    folded = "" if kind == spatial else f"_{kind}"
    return f"{job.folder.name}_{layer}_{variation}{folded}"


def _file_entry(
    path: Path, sound: Waveform, quiet: bool, facts: Mapping[str, Any], loop: Loop
) -> dict[str, Any]:
    """The entry of a written file, measured on what it gives back."""
    mono = sound.samples[0] if facts["spatial"] == "ambix" else sound.samples
    fold = round(loop.fold * sound.n_samples) % sound.n_samples
    return {
        "file": path.name,
        "sha256": provenance.sha256(path),
        **facts,
        "channels": sound.n_channels,
        "loop_start": 0,
        "loop_end": sound.n_samples - 1,
        "lufs": _rounded(loudness_of(sound.samples, sound.sample_rate)),
        "true_peak_dbtp": round(audio.true_peak_dbtp(sound), 2),
        "nearly_nothing": quiet,
        "seam": {
            **dataclasses.asdict(measure_seam(mono, sound.sample_rate)),
            "onset_before": loop.onset_before,
        },
        "fold": {
            "sample": fold,
            **dataclasses.asdict(measure_seam(mono, sound.sample_rate, fold)),
            "onset_before": loop.fold_onset_before,
            "head_nll": loop.head_nll,
            "natural_nll": loop.natural_nll,
        },
        "stands_out": round(loop.stands_out, 4),
    }


def _rounded(loudness: float) -> float | None:
    return round(loudness, 2) if np.isfinite(loudness) else None


def _key(loops: Mapping[tuple[str, int], Loop], sample_rate: int) -> str | None:
    """The key that all loops of a room together are in, None of silence."""
    from silent2music.keys import PITCH_NAMES, estimate_key

    spectra = [np.abs(np.fft.rfft(loop.samples.astype(np.float64))) for loop in loops.values()]
    hz = np.fft.rfftfreq(len(next(iter(loops.values())).samples), 1.0 / sample_rate)
    tonal = (hz > 60) & (hz < 2000)
    pitches = np.round(69 + 12 * np.log2(hz[tonal] / 440.0)).astype(np.int64)
    power = np.bincount(pitches, weights=np.square(spectra).sum(axis=0)[tonal])
    if not power.any():
        return None
    # Square roots, so that one loud drone does not outvote all else.
    tonic, mode = estimate_key(np.arange(len(power)), np.sqrt(power))
    return f"{PITCH_NAMES[tonic]} {mode}"


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they come back from JSON."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}


@contextmanager
def _named(job: RoomJob) -> Iterator[None]:
    """Errors say which recording they are about, and of its folder by the name that it would have."""
    try:
        yield
    except OSError as error:
        raise AudioError(
            f"{job.folder} cannot be written ({error.strerror or error}); finished rooms are whole."
        ) from error
    except AudioError as error:
        reason = str(error).replace(str(job.partial), str(job.folder))
        is_named = str(job.room) in reason or str(job.folder) in reason
        raise AudioError(reason if is_named else f"{job.room}: {reason}") from error


def _say(tell: Tell | None, sentence: str) -> None:
    if tell is not None:
        tell(sentence)
