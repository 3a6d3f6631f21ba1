"""`s2m infer`: recordings of rooms in, files of music out, each with the record of how it was made.

`plan` says what is to be made, `infer_many` goes through it, and `infer` makes one piece: it opens the files, lets
`model.stream` play, brings the music to its level, and lets music and record appear together.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import silent2music
from silent2music import audio
from silent2music.audio import Recorded
from silent2music.config import SamplingConfig
from silent2music.errors import AudioError
from silent2music.export import batch, provenance
from silent2music.export.batch import MUSIC_SUFFIX, Job, Outcome, Progress
from silent2music.export.levelling import write_music
from silent2music.export.models import LazyModel, Request
from silent2music.files import atomic_path, read_json

DEMO_ROOM = Path(silent2music.__file__).parent / "assets" / "walking_on_wood.flac"
"""The near-silent recording that comes with the package."""


def plan(rooms: Sequence[Path], seed: int, out: Path | None = None, folder: Path | None = None) -> list[Job]:
    """Jobs as `batch.plan_jobs` has them: `room.wav` becomes `room.music.wav`.

    Args:
        rooms: files and folders.
        seed: the base seed.
        out: the output file, for a single recording.
        folder: the output folder, by default the current one.
    """
    jobs = batch.plan_jobs(
        rooms, seed, folder or Path(), lambda room: room.with_name(room.stem + MUSIC_SUFFIX)
    )
    return [dataclasses.replace(job, out=out or job.out) for job in jobs]


def infer_many(
    jobs: Sequence[Job],
    model: LazyModel,
    request: Request | None = None,
    force: bool = False,
    progress: Progress | None = None,
    folder: Path | None = None,
) -> Iterator[Outcome]:
    """Make music for many rooms, or for this process's share of them; a bad one does not stop the rest.

    Args:
        jobs: from `plan`.
        model: loaded when the first recording turns out to be good, so that a wrong name is told at once.
        request: each job brings its own seed.
        force: replace files that exist.
        progress: told of every step.
        folder: above all outputs; its `manifest.jsonl` is to list them.

    Yields:
        For each job the record of what was written, or of what was there, or why it failed.

    Raises:
        CheckpointError, ConfigError: if the model, the device or a setting is not usable at all.
    """
    asked = request or Request()

    def outcome(job: Job) -> Outcome:
        record = None if force or not job.found else _kept(job, model, asked)
        if record is not None:
            return Outcome(job, "kept", record)
        again = force or _is_left_over(job, model)
        _check_target(job, again)
        room = audio.open_recording(job.room, **asked.reading)
        return Outcome(job, "made", infer(job, room, model, asked, again, progress))

    manifest = None if folder is None else batch.Manifest(folder)
    for found in batch.outcomes(jobs, outcome):
        if manifest is not None and not found.job.refused:
            manifest.add(found.job.out, _manifest_entry(found))
        yield found
    if manifest is not None and manifest.path.exists():
        manifest.tidy()


def infer(
    job: Job,
    room: Recorded,
    model: LazyModel,
    request: Request,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make music for one room and write it, with its tags and its record, whole or not at all.

    Args:
        job: names and seed.
        room: the recording, as read from `job.room`.
        model: the model.
        request: what is asked for, but for the seed; the file has exactly `round(seconds * rate)` samples.
        force: replace files that exist.
        progress: told of every step.

    Returns:
        The record, as written to the sidecar.

    Raises:
        AudioError: if the output cannot be written.
    """
    from silent2music.acoustics.unsuited import room_warnings
    from silent2music.listening import Measured
    from silent2music.signals import check_controls

    sampling = model.settled(request.sampling, job.seed)
    check_controls(model.model.config, request.controls)
    step = None if progress is None else lambda done, total: progress(job.label, done, total)
    sidecar = provenance.sidecar_path(job.out)
    text = b""
    try:
        # Opened before the music is made: a place that cannot be written is told at once.
        with atomic_path(job.out, force) as audio_path, atomic_path(sidecar, force) as record_path:
            measured = Measured(room, model.model.config.ambient)
            profile = measured.profile()
            music = model.model.stream(
                room, sampling, request.seconds, progress=step, measured=measured, **request.controls
            )
            made: dict[str, Any] = {
                "input": provenance.described_input(job.label, job.room, room, room_warnings(room, profile)),
                "model": model.described(),
                "settings": {**_settings(sampling, request, room.seconds), "device": model.device},
                "versions": provenance.versions(),
            }
            try:
                output = write_music(audio_path, music, as_made=profile.level_dbfs <= audio.FLOOR_DBFS)
                provenance.write_tags(audio_path, made)
            except AudioError as error:
                raise AudioError(f"{job.out} cannot be written; is the disk full?") from error
            output = {"file": job.out.name, **output, "sha256": provenance.sha256(audio_path)}
            record = {"output": output, **made, "room": profile.to_dict()}
            text = provenance.to_text(record).encode()
            record_path.write_bytes(text)
    except AudioError:
        # The record comes to its place first, and goes again where the music cannot follow.
        if text and sidecar.exists() and sidecar.read_bytes() == text:
            sidecar.unlink()
        raise
    return record


def _check_target(job: Job, force: bool) -> None:
    """Refuse an output of an unknown kind, or one that exists, before any work is done for it."""
    out = job.out
    if out.exists() and job.room.exists() and out.samefile(job.room):
        raise AudioError(f"{out} is the recording itself; choose another name for the music.")
    if out.suffix.lower() not in audio.SUFFIX_SUBTYPES:
        known = ", ".join(audio.SUFFIX_SUBTYPES)
        raise AudioError(f"{out} has the suffix '{out.suffix}'; expected one of {known}.")
    for path in (out, provenance.sidecar_path(out)):
        if path.exists() and not force:
            raise AudioError(f"{path} exists already; give --force to replace it or choose another name.")


def _is_left_over(job: Job, model: LazyModel) -> bool:
    """Whether one of the two files is there alone: a record that says so, or by its tag the music of this very job."""
    out, sidecar = job.out, provenance.sidecar_path(job.out)
    try:
        if out.exists() and not sidecar.exists():
            said = (provenance.TAG, provenance.sha256(job.room), model.sha256, f'"seed":{job.seed},')
            music = out.read_bytes()
            return all(words.encode() in music for words in said)
        if sidecar.exists() and not out.exists():
            record = read_json(sidecar)
            return bool(record["output"]["file"] == out.name)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return False


def _kept(job: Job, model: LazyModel, request: Request) -> dict[str, Any] | None:
    """The record of a job's music, if it is there, whole and just what would be made now."""
    sampling = model.settled(request.sampling, job.seed)
    try:
        record: dict[str, Any] = read_json(provenance.sidecar_path(job.out))
        wanted = _settings(sampling, request, record["input"]["seconds"])
        is_same = (
            all(record["settings"][name] == value for name, value in wanted.items())
            and record["input"]["sha256"] == provenance.sha256(job.room)
            and record["model"]["sha256"] == model.sha256
            and record["output"]["sha256"] == provenance.sha256(job.out)
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if is_same else None


def _settings(sampling: SamplingConfig, request: Request, room_seconds: float) -> dict[str, Any]:
    """What a record says of how the music was asked for, as it comes back from JSON."""
    seconds = room_seconds if request.seconds is None else request.seconds
    settings = {
        **dataclasses.asdict(sampling),
        "controls": dict(request.controls),
        "seconds": seconds,
        **provenance.described_reading(request.reading),
    }
    return dict(json.loads(json.dumps(settings)))


def _manifest_entry(outcome: Outcome) -> Mapping[str, Any]:
    """A recording's line in the manifest."""
    record = outcome.record
    if record is None:
        return {"error": outcome.reason}
    output = {name: record["output"][name] for name in ("seconds", "lufs", "sha256")}
    return {"room": record["input"]["file"], "seed": record["settings"]["seed"], **output}
