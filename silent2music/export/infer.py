"""`s2m infer`: recordings of rooms in, files of music out, each with the record of how it was made.

`plan` says what is to be made, `infer_many` goes through it, and `infer` makes one piece: it opens the files, lets
`model.stream` play, brings the music to its level, and lets music and record appear together.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

import silent2music
from silent2music import audio
from silent2music.arrays import IntArray
from silent2music.audio import Recorded
from silent2music.config import DeliveryConfig, SamplingConfig
from silent2music.errors import AudioError
from silent2music.export import batch, provenance
from silent2music.export.batch import MUSIC_SUFFIX, Job, Outcome
from silent2music.export.beside import Take, write_take
from silent2music.export.delivery import delivered, in_front
from silent2music.export.levelling import summed
from silent2music.export.models import LazyModel, Request, blend_of, described_blend
from silent2music.export.space import Placement
from silent2music.export.stems import perform_stems, split
from silent2music.files import atomic_paths, claimed, read_json, remove_leavings
from silent2music.processes import Progress, StepProgress, launched

if TYPE_CHECKING:
    from silent2music.listening import Measured
    from silent2music.model import Silent2Music
    from silent2music.score import Score

DEMO_ROOM = Path(silent2music.__file__).parent / "assets" / "walking_on_wood.flac"
"""The near-silent recording that comes with the package."""


LONG_SECONDS = 6 * 3600.0
"""Longer music is made only when that is confirmed."""

SECONDS_PER_SECOND = 0.1
"""About what a second of music takes to make on a processor of these years, in seconds; `s2m bench` measures it."""


def plan(
    rooms: Sequence[Path], seed: int, out: Path | None = None, folder: Path | None = None, count: int = 1
) -> list[Job]:
    """Jobs as `batch.plan_jobs` has them: `room.wav` becomes `room.music.wav`.

    Args:
        rooms: files and folders.
        out: the output file, for a single recording.
        folder: the output folder, by default the current one.
        count: how many pieces for each room, by `seed` and the seeds after it; if there are several, the first one's name
            becomes `room.1.music.wav`, or of an output file `out.1.wav`.
    """
    jobs = []
    for take in range(count):
        number = batch.take_number(take, count)

        def renamed(room: Path, number: str = number) -> Path:
            return room.with_name(room.stem + number + MUSIC_SUFFIX)

        for job in batch.plan_jobs(rooms, seed + take, folder or Path(), renamed):
            if out is not None:
                job = dataclasses.replace(job, out=out.with_name(out.stem + number + out.suffix))
            if take == 0 or not job.refused:
                jobs.append(job)
    return jobs


def infer_many(
    jobs: Sequence[Job],
    model: LazyModel,
    request: Request | None = None,
    force: bool = False,
    progress: Progress | None = None,
    folder: Path | None = None,
) -> Generator[Outcome, None, None]:
    """Make music for many rooms, or for this process's share of them; a bad one does not stop the rest.

    Args:
        jobs: from `plan`.
        model: loaded when the first recording turns out to be good, so that a wrong name is told at once.
        request: each job brings its own seed.
        folder: above all outputs; its `manifest.jsonl` is to list them.

    Yields:
        For each job the record of what was written, or of what was there, or why it failed.

    Raises:
        CheckpointError, ConfigError: if the model, the device or a setting is not usable at all.
        AudioError: if another command writes to `folder`, or, after all else, its manifest cannot be written.
    """
    asked = request or Request()
    inputs = [job.room for job in jobs]

    def outcome(job: Job) -> Outcome:
        record = None if force or not job.found else _kept(job, model, asked)
        if record is not None:
            return Outcome(job, "kept", record)
        again = force or _is_left_over(job, model)
        audio.check_writable(job.out, asked.delivery.sample_rate, asked.delivery.n_channels)
        for path in asked.beside.places(job.out, model.composes).values():
            provenance.check_replaceable(path, again, inputs)
        room = audio.open_recording(job.room, **asked.reading)
        return Outcome(job, "made", infer(job, room, model, asked, again, progress))

    with ExitStack() as stack:
        if folder is not None:
            stack.enter_context(claimed(folder, *launched()))
        for place in {job.out.parent for job in jobs}:
            remove_leavings(place)
        found = batch.outcomes(jobs, outcome)
        yield from found if folder is None else _listed(found, folder)


def _listed(outcomes: Iterator[Outcome], folder: Path) -> Iterator[Outcome]:
    """The same outcomes, each after it was noted in the folder's manifest.

    Raises:
        AudioError: after the last outcome, if one could not be noted.
    """
    manifest = batch.Manifest(folder)
    known = manifest.read()
    failure: AudioError | None = None
    for outcome in outcomes:
        job = outcome.job
        made = job.label if job.refused else job.out.relative_to(folder).as_posix()
        # Of music that is there and was not replaced, what was noted of it before stays true.
        is_known = outcome.status == "failed" and made in known and job.out.is_file()
        if not is_known and (job.found or not job.refused):
            try:
                manifest.add(made, _manifest_entry(outcome))
            except AudioError as error:
                failure = error
        yield outcome
    if failure is not None:
        raise failure
    if manifest.path.exists():
        manifest.tidy()


def infer_to(
    sink: BinaryIO,
    room: Path,
    model: LazyModel,
    request: Request,
    progress: Progress | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Make music for one room and write it to a stream as a WAV file, whole or not at all.

    Args:
        model, request, progress: as for `infer`.
        force: make it however long it is.

    Returns:
        Its record, which the file's tags hold too.

    Raises:
        AudioError: if the room cannot be read, or the stream not be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        (job,) = plan([room], request.sampling.seed, folder=Path(folder))
        if job.refused:
            raise AudioError(job.refused)
        record = infer(job, audio.open_recording(room, **request.reading), model, request, force, progress)
        try:
            with job.out.open("rb") as file:
                shutil.copyfileobj(file, sink)
            sink.flush()
        except OSError as error:
            # A pipe that nobody reads is EINVAL on Windows.
            if error.errno not in (errno.EPIPE, errno.EINVAL):
                raise AudioError(f"The music cannot be written on ({error.strerror}).") from error
    return record


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
        request: what is asked for, but for the seed; the file has exactly `round(seconds * rate)` samples.

    Returns:
        The record, as written to the sidecar.

    Raises:
        AudioError: if the output cannot be written.
    """
    from silent2music.acoustics.unsuited import room_warnings
    from silent2music.listening import Measured

    model.model.check_controls(request.controls)
    sampling, delivery = model.settled(request.sampling, job.seed), request.delivery
    seconds = request.seconds or room.seconds
    model.model.check_asked(request.asked, seconds)
    check_length(job.label, job.out, seconds, delivery, force)
    composes = model.model.composes()
    request.beside.check(job.out, composes)
    step = None if progress is None else lambda done, total: progress(job.label, done, total)
    places = request.beside.places(job.out, composes)
    # Opened before the music is made: a place that cannot be written is told at once.
    with atomic_paths(*places.values(), force=force) as opened:
        temporary = dict(zip(places, opened, strict=True))
        measured = Measured(room, model.model.config.ambient)
        where = in_front(measured.beginning())
        take = _performed(room, model.model, request, sampling, seconds, where, measured, step)
        profile = measured.profile()
        made: dict[str, Any] = {
            "input": provenance.described_input(job.label, job.room, room, room_warnings(room, profile)),
            "model": model.described(),
            "settings": {**_settings(sampling, request, room.seconds), "device": model.device},
            "versions": provenance.versions(),
        }
        is_silent_room = profile.level_dbfs <= audio.FLOOR_DBFS
        output = write_take(
            take,
            places,
            temporary,
            made,
            delivery,
            signing=request.beside.signing,
            as_made=is_silent_room,
            force=force,
            inputs=[job.room],
        )
        if not delivery.mono:
            output["space"] = dataclasses.asdict(where)
        record = {"output": output, **made, "room": profile.to_dict()}
        if take.codes is not None:
            record["codes"] = provenance.described_codes(take.codes())
        temporary["record"].write_bytes(provenance.to_text(record).encode())
    return record


def _performed(
    room: Recorded,
    model: Silent2Music,
    request: Request,
    sampling: SamplingConfig,
    seconds: float,
    where: Placement,
    measured: Measured,
    step: StepProgress | None,
) -> Take:
    """The music for a room: whole and as it is made, or stem by stem and made already."""
    from silent2music.listening import n_steps_of
    from silent2music.writing import Manuscript

    rate, asked, delivery = model.config.ambient.frame_rate, request.asked, request.delivery
    heard: dict[str, Any] = {"measured": measured, "blend": blend_of(request.other, request.reading)}
    whole: Score | None = None
    if request.beside.stems:
        whole = model.compose(room, seconds, seed=sampling.seed, asked=asked, **heard, **request.controls)
    if whole is not None and whole.n_notes:
        scores = split(whole, request.beside.stems)
        n_steps = n_steps_of(seconds, model.config.ambient)
        told = {**(asked.signals(seconds, n_steps, rate) if asked else {}), **request.controls}
        own = {name: value for name, value in told.items() if name in model.config.controls}
        stems = perform_stems(
            model, room, whole, list(scores.values()), sampling, seconds, delivery, where,
            controls=own, progress=step, **heard,
        )  # fmt: skip
        return Take(summed(stems), lambda: whole, dict(zip(scores, stems, strict=True)), scores)
    # What has no notes has no stems either.
    manuscript = Manuscript()
    pieces = model.stream(
        room,
        sampling,
        seconds,
        progress=step,
        manuscript=manuscript,
        asked=asked,
        **heard,
        **request.controls,
    )

    def score() -> Score | None:
        return manuscript.score(seconds, rate, asked) if model.composes() else None

    def codes() -> IntArray:
        return np.frombuffer(manuscript.codes, "<u2").reshape(-1, model.config.decoder.n_codebooks).T

    music = delivered(pieces, model.codec, delivery, where, sampling.seed, seconds)
    return Take(music, score, codes=codes)


def check_length(name: str, out: Path, seconds: float, delivery: DeliveryConfig, confirmed: bool) -> None:
    """Refuse music that is longer than its file can be, or so long that it needs to be confirmed.

    Raises:
        AudioError: saying what it would take.
    """
    audio.check_writable(out, delivery.sample_rate, delivery.n_channels, seconds)
    if seconds > LONG_SECONDS and not confirmed:
        # While it is made, 32-bit samples wait in a temporary file; the 24-bit file comes beside them.
        n_bytes = seconds * delivery.sample_rate * delivery.n_channels * (4 + 3)
        raise AudioError(
            f"{seconds:g} s of music for {name} are {_long(seconds)}, which take about "
            f"{_long(SECONDS_PER_SECOND * seconds)} to make and up to {n_bytes / 1e9:,.0f} GB on disk; give --force to "
            "make them all the same."
        )


def _long(seconds: float) -> str:
    """A long time in words."""
    for unit, length in (("years", 365.25 * 86400), ("days", 86400)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds / 3600:.1f} hours"


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
            and model.made(record)
            and record["settings"].get("beside") == wanted.get("beside")
            and ("score" in record) == model.composes
            and all(
                provenance.sha256(job.out.with_name(name)) == digest
                for name, digest in provenance.files_of(record).items()
            )
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if is_same else None


def _settings(sampling: SamplingConfig, request: Request, room_seconds: float) -> dict[str, Any]:
    """What a record says of how the music was asked for, as it comes back from JSON."""
    seconds = room_seconds if request.seconds is None else request.seconds
    settings = {
        **dataclasses.asdict(sampling),
        "controls": {**(request.asked.to_dict() if request.asked else {}), **request.controls},
        **described_blend(request.other),
        "seconds": seconds,
        **provenance.described_reading(request.reading),
        "delivery": dataclasses.asdict(request.delivery),
        **request.beside.described(),
    }
    return dict(json.loads(json.dumps(settings)))


def _manifest_entry(outcome: Outcome) -> Mapping[str, Any]:
    """A recording's line in the manifest."""
    record = outcome.record
    if record is None:
        job = outcome.job
        reason = provenance.without_folders(outcome.reason, job.room, job.out, job.out.parent)
        return {"error": batch.printable(reason)}
    output = {name: record["output"][name] for name in ("seconds", "lufs", "sha256")}
    return {"room": record["input"]["file"], "seed": record["settings"]["seed"], **output}
