"""Ambience for games: rooms in, folders of loops, layers and variations out, with a manifest.

A room's folder is made beside its place under a hidden name and moved there when it is complete, so that a kill, a
full disk or an error leaves it whole or absent, and the next start goes on with the rooms that are not there.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from silent2music import audio
from silent2music.acoustics import AcousticProfile, analyze
from silent2music.audio import Waveform
from silent2music.config import AmbienceConfig, SamplingConfig, to_dict
from silent2music.errors import AudioError, CheckpointError, ConfigError, S2MError
from silent2music.export import batch, provenance
from silent2music.export.ambience import folders
from silent2music.export.ambience.grid import Grid, plan_grid
from silent2music.export.ambience.lap import LAYERS, PLAIN, room_lap
from silent2music.export.ambience.loops import Loop, close_set, write_take
from silent2music.export.ambience.space import Placement, check_format, heard, placement
from silent2music.export.ambience.writing import hearing, write_loops
from silent2music.export.batch import LOOPS_RECORD, Job, Outcome, Progress
from silent2music.export.models import LazyModel
from silent2music.files import locked
from silent2music.keys import PITCH_NAMES, estimate_key

LICENCE = {
    "music": "yours: silent2music claims no rights in what it makes",
    "model": "Apache-2.0",
}

Loops = Mapping[tuple[str, int], Loop]
"""By layer and variation."""


@dataclass(frozen=True)
class _Session:
    """What all rooms of a run share; see `ambience`."""

    out: Path
    config: AmbienceConfig
    model: LazyModel
    force: bool
    progress: Progress | None
    tell: Callable[[str], None]


def ambience(
    rooms: Sequence[Path],
    out: Path,
    config: AmbienceConfig,
    model: LazyModel,
    seed: int = 0,
    force: bool = False,
    contact_sheet: Path | None = None,
    progress: Progress | None = None,
    tell: Callable[[str], None] = lambda sentence: None,
) -> list[Outcome]:
    """Make loops for rooms, or for this process's share of them; a bad one does not stop the rest.

    Args:
        rooms: recordings and folders of them, whose trees are mirrored below `out`.
        out: the folder to write; complete rooms that are there are kept.
        config: what to make.
        model: loaded when the first room needs it.
        seed: the base seed; a recording in a folder gets one from it and its relative path.
        force: make rooms anew that are there.
        contact_sheet: a PNG with a picture of every room.
        progress: told of every step.
        tell: called with sentences that a user should read while it goes on.

    Raises:
        AudioError: if the folder cannot be written.
        CheckpointError, ConfigError: if the model or the device cannot be used.
    """
    if contact_sheet is not None:
        from silent2music.export.ambience.sheet import check_sheet, draw_sheet

        check_sheet(contact_sheet)
    folders.check_writable(out)
    jobs, unplanned = batch.plan(rooms, seed, out, lambda relative: relative.with_suffix(""))
    worker = batch.this_worker()
    outcomes = unplanned if worker.index == 0 else []
    for outcome in outcomes:
        tell(outcome.reason)
    session = _Session(out, config, model, force, progress, tell)
    for job in worker.share(jobs):
        outcome = _outcome(job, session)
        outcomes.append(outcome)
        if outcome.status == "failed":
            tell(outcome.reason)
    planned = {job.name for job in jobs} | {outcome.name for outcome in unplanned}
    with locked(out):
        manifest = folders.write_manifest(out, outcomes, planned)
        if contact_sheet is not None:
            draw_sheet(out, manifest, contact_sheet)
    return outcomes


@dataclass(frozen=True)
class _Room:
    """A recording and what is planned for it.

    Attributes:
        job: names and seed.
        origin: all that decides the bytes of its files.
        sound: the recording.
        profile: of what is heard of it.
        grid: the lap.
        where: its music stands.
    """

    job: Job
    origin: Mapping[str, Any]
    sound: Waveform
    profile: AcousticProfile
    grid: Grid
    where: Placement


def _outcome(job: Job, session: _Session) -> Outcome:
    """Keep a room's folder that is complete, else make it."""
    try:
        with _named(job):
            # What is no file is refused, in a sentence of its own, where it is read.
            origin = _origin(job, session) if job.room.is_file() else {}
            record = folders.complete_record(job, origin, session.force) if origin else None
            if record is not None:
                return Outcome(job.name, "kept", record)
            return Outcome(job.name, "made", _make(job, session, origin))
    except (CheckpointError, ConfigError):
        raise
    except S2MError as error:
        return Outcome(job.name, "failed", reason=str(error))


def _origin(job: Job, session: _Session) -> dict[str, Any]:
    """All that decides the bytes of a room's files."""
    settings = to_dict(session.config)
    return {
        "input_sha256": provenance.sha256(job.room),
        "model_sha256": session.model.sha256,
        "seed": job.seed,
        # As they come back from JSON.
        "settings": {name: list(v) if isinstance(v, tuple) else v for name, v in settings.items()},
        "versions": provenance.versions(),
    }


def _make(job: Job, session: _Session, origin: Mapping[str, Any]) -> dict[str, Any]:
    """Make a room's folder and return its record.

    Raises:
        AudioError: if it cannot be made; then there is no trace of it.
    """
    config = session.config
    sound = audio.read(job.room)
    check_format(sound, config.room_format)
    profile = analyze(heard(sound, config.room_format))
    model = session.model.model
    grid = plan_grid(profile, config, model.codec.frame_rate, model.config.decoder.attention_window)
    room = _Room(job, origin, sound, profile, grid, placement(sound, profile, config.room_format))
    partial = folders.partial_folder(job.out)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        loops = _compose(room, session)
        tag = {"input": job.label, "bpm": grid.bpm, "bars": grid.bars, **origin}
        stem = str(partial / job.out.name)
        files, sum_peak = write_loops(stem, loops, grid, room.where, config, job.seed, tag)
        record = _record(room, session, _key(loops, model.codec.sample_rate), files, sum_peak)
        (partial / LOOPS_RECORD).write_bytes(provenance.to_text(record).encode())
        folders.move_into_place(partial, job.out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    quiet = [f["file"] for f in files if f["nearly_nothing"]]
    if quiet:
        session.tell(f"{job.label}: {', '.join(quiet)} nearly nothing, as this room is; level left as it is.")
    for file in files:
        if not file["nearly_nothing"] and abs(file["lufs"] - config.lufs) > 0.1:
            session.tell(f"{job.label}: {file['file']} came to {file['lufs']} LUFS under its true peak.")
    return record


def _compose(room: _Room, session: _Session) -> Loops:
    """A closed loop for each layer and variation."""
    config, model, grid, job = session.config, session.model.model, room.grid, room.job
    sampling = SamplingConfig(temperature=config.temperature, guidance=config.guidance, seed=job.seed)
    lap = room_lap(heard(room.sound, config.room_format), room.profile, grid, model.codec.sample_rate)
    seeds = [job.seed, *(batch.hashed_seed(job.seed, v) for v in range(2, config.variations + 1))]
    layers = {name: LAYERS[name] for name in config.layers} or {"loop": PLAIN}
    takes = []
    for i, layer in enumerate(layers.values()):

        def step(done: int, total: int, before: int = i) -> None:
            if session.progress is not None:
                session.progress(job.label, before * total + done, len(layers) * total)

        takes.append(write_take(model, lap, grid, layer, sampling, seeds, step))
    hear = hearing(config, grid, room.where, model.codec.sample_rate, job.seed)
    closed = close_set(model, takes, grid, config.candidates, hear)
    loops = {
        (name, v): loop
        for name, variations in zip(layers, closed, strict=True)
        for v, loop in enumerate(variations, 1)
    }
    standing_out = [f"{name} {v}" for (name, v), loop in loops.items() if loop.stands_out > 0]
    if standing_out:
        session.tell(
            f"{job.label}: of {', '.join(standing_out)} the seam or the fold stands out, whatever ending was tried; "
            "the best is kept. Another seed may have a better one."
        )
    return loops


def _record(
    room: _Room, session: _Session, key: str | None, files: list[dict[str, Any]], sum_peak: float
) -> dict[str, Any]:
    """The room's entry in the manifest."""
    job, grid, config = room.job, room.grid, session.config
    n_exact = grid.n_samples * grid.frame_rate / grid.sample_rate
    return {
        "name": job.out.name,
        "folder": job.out.relative_to(session.out).as_posix(),
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
            "tuning_cents": round(1200.0 * float(np.log2(grid.n_frames / n_exact)), 2),
        },
        "space": {"spatial": config.spatial, **dataclasses.asdict(room.where)},
        "levels": {
            "lufs": config.lufs,
            "true_peak_dbtp": config.true_peak,
            "sum_true_peak_dbtp": sum_peak,
        },
        "files": files,
        "input": provenance.described_input(job.label, job.room, room.sound),
        "profile": room.profile.to_dict(),
        "settings": room.origin["settings"],
        "model": session.model.described(),
        "versions": room.origin["versions"],
        "licence": {**LICENCE, "room": config.licence},
    }


def _key(loops: Loops, sample_rate: int) -> str | None:
    """The key that all loops of a room together are in, None of silence."""
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


@contextmanager
def _named(job: Job) -> Iterator[None]:
    """Errors say which recording they are about, and of its folder by the name that it would have."""
    try:
        yield
    except OSError as error:
        raise AudioError(
            f"{job.out} cannot be written ({error.strerror or error}); finished rooms are whole."
        ) from error
    except AudioError as error:
        reason = str(error).replace(str(folders.partial_folder(job.out)), str(job.out))
        is_named = str(job.room) in reason or str(job.out) in reason
        raise AudioError(reason if is_named else f"{job.room}: {reason}") from error
