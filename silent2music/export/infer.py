"""The main job: recordings of rooms in, files of music out, each with the record of how it was made."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import silent2music
from silent2music import audio
from silent2music.audio import Recorded
from silent2music.config import SamplingConfig
from silent2music.errors import AudioError, CheckpointError, ConfigError
from silent2music.export import batch, provenance
from silent2music.export.levelling import write_music

if TYPE_CHECKING:
    from silent2music.model import Silent2Music

DEMO_ROOM = Path(silent2music.__file__).parent / "assets" / "walking_on_wood.flac"
"""The near-silent recording that comes with the package."""

N_THREADS = 1
"""On the CPU. The matrices of a step are too small to be worth sharing, waiting threads starve busy machines,
and the music must not depend on how many cores there are."""

DEVICES = ("cpu", "cuda", "mps")
OUTPUT_SUFFIX = ".music.wav"
"""`room.wav` becomes `room.music.wav`: what was made is never taken for a recording, nor overwrites one."""

Progress = Callable[[str, int, int], None]
"""Called with a file's name, steps done and steps in all."""


@dataclass(frozen=True)
class Job:
    """One recording and where its music goes.

    Attributes:
        room: the recording.
        out: the file to write; the suffix decides the format.
        seed: what the piece is drawn from.
        label: the recording's name in the record: relative to the folder it was found in, or its file name.
        found: in a folder; such a job is skipped where its music is there already.
    """

    room: Path
    out: Path
    seed: int
    label: str
    found: bool = False


@dataclass(frozen=True)
class Failure:
    """A recording that gave no music, and the sentence that says why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Skipped:
    """A recording whose music is there already, whole and made by the same settings; `record` says how."""

    name: str
    record: Mapping[str, Any]


@dataclass(frozen=True)
class LoadedModel:
    """A model with what its records say of it."""

    model: Silent2Music
    name: str
    sha256: str
    device: str


def plan(
    rooms: Sequence[Path], seed: int, out: Path | None = None, folder: Path | None = None
) -> tuple[list[Job], list[Failure]]:
    """What to make from the files and folders that were named.

    A folder is searched for recordings, and its tree is mirrored below `folder`; files that this program made
    (`*.music.*`) and hidden files are left out. A file named by itself gets `seed`; one found in a folder gets
    a seed from `seed` and its relative path, so that it does not depend on what else lies there.

    Args:
        rooms: files and folders.
        seed: the base seed.
        out: the output file, for a single recording.
        folder: the output folder, by default the current one.

    Returns:
        Jobs in the order given, and what cannot become one.
    """
    folder = folder or Path()
    jobs: list[Job] = []
    failures: list[Failure] = []
    taken: dict[Path, Path] = {}
    for room in rooms:
        try:
            found = _jobs_of(room, seed, out, folder)
        except AudioError as error:
            failures.append(Failure(str(room), str(error)))
            continue
        for job in found:
            other = taken.setdefault(job.out.absolute(), job.room)
            if other == job.room:
                jobs.append(job)
            else:
                reason = (
                    f"{job.room} and {other} would both be written to {job.out}; infer one of them by itself."
                )
                failures.append(Failure(str(job.room), reason))
    return jobs, failures


def _jobs_of(room: Path, seed: int, out: Path | None, folder: Path) -> list[Job]:
    """The jobs of one file or folder."""
    if not room.is_dir():
        return [Job(room, out or folder / (room.stem + OUTPUT_SUFFIX), seed, room.name)]
    made = OUTPUT_SUFFIX.removesuffix(".wav")
    jobs = []
    for path in audio.find_audio(room):
        relative = path.relative_to(room)
        if not path.stem.endswith(made) and not path.name.startswith("."):
            target = folder / relative.with_name(path.stem + OUTPUT_SUFFIX)
            jobs.append(Job(path, target, seed_for(seed, relative), relative.as_posix(), found=True))
    if not jobs:
        raise AudioError(
            f"{room} holds only hidden files and music that silent2music made; expected recordings of rooms."
        )
    return jobs


def seed_for(seed: int, relative: Path) -> int:
    """The seed of a file in a folder: 32 bits of a hash of the base seed and the relative path.

    Example:
        >>> seed_for(0, Path("a/b.wav")) == seed_for(0, Path("a") / "b.wav") != seed_for(1, Path("a/b.wav"))
        True
    """
    return int.from_bytes(hashlib.sha256(f"{seed}\n{relative.as_posix()}".encode()).digest()[:4], "big")


def default_model() -> Path:
    """The folder of the model that ships: inside an installed package, or at the root of a checkout.

    Raises:
        CheckpointError: if neither is there.
    """
    package = Path(silent2music.__file__).parent
    for place in (package / "checkpoints" / "base", package.parent / "checkpoints" / "base"):
        if (place / "config.json").exists():
            return place
    raise CheckpointError("No model came with this installation; give --model with a model folder.")


def load_model(folder: Path | None = None, device: str | None = None) -> LoadedModel:
    """Load a model folder, the shipped one by default, onto a device (CUDA if there is one, else the CPU).

    Raises:
        CheckpointError: if the folder is missing, incomplete or does not fit the code.
        ConfigError: if the device is unknown or not there.
    """
    folder = folder or default_model()
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is no model folder; expected one with config.json, weights and codec."
        )
    import torch

    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    _check_device(name)
    from silent2music.model import WEIGHTS_FILE, Silent2Music

    if name == "cuda":
        # Launchers number the processes of a machine: each takes its own card.
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    torch.set_num_threads(N_THREADS)
    model = Silent2Music.from_pretrained(folder).to(name)
    return LoadedModel(model, model.config.name, provenance.sha256(folder / WEIGHTS_FILE), name)


def _check_device(name: str) -> None:
    """Refuse a device that is unknown or that torch cannot reach."""
    import torch

    if name not in DEVICES:
        raise ConfigError(f"Device '{name}' is unknown; expected one of {', '.join(DEVICES)}.")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[name]:
        raise ConfigError(f"Device '{name}' is not available to torch here; use --device cpu.")


def infer_many(
    jobs: Sequence[Job],
    sampling: SamplingConfig,
    guidance: float | None = None,
    seconds: float | None = None,
    model_folder: Path | None = None,
    device: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
    manifest: Path | None = None,
) -> Iterator[dict[str, Any] | Failure | Skipped]:
    """Make music for many rooms, or for this process's share of them; a bad one does not stop the rest.

    The model is loaded when the first recording turns out to be good, so that a wrong name is told at once.

    Args:
        jobs: from `plan`.
        sampling: how tokens are drawn; each job brings its own seed.
        guidance: strength of the room, the model's own default if None.
        seconds: length of every piece, by default each room's own.
        model_folder: a model, by default the shipped one.
        device: `cpu`, `cuda` or `mps`.
        force: replace files that exist.
        progress: told of every step.
        manifest: a folder above all outputs, whose `manifest.jsonl` is to list them.

    Yields:
        For each job the record of what was written, or what was there, or its failure.

    Raises:
        CheckpointError, ConfigError: if the model, the device or a setting is not usable at all.
    """
    if seconds is not None and not (math.isfinite(seconds) and seconds >= audio.MIN_SECONDS):
        raise ConfigError(f"--seconds is {seconds}; expected at least {audio.MIN_SECONDS}.")
    loaded: LoadedModel | None = None

    def make(job: Job) -> dict[str, Any]:
        nonlocal loaded, sampling
        # A record without its music is what a kill between the two leaves.
        again = force or (job.found and not job.out.exists())
        _check_target(job, again)
        room = audio.open_recording(job.room)
        if loaded is None:
            loaded = load_model(model_folder, device)
            strength = loaded.model.config.guidance if guidance is None else guidance
            sampling = dataclasses.replace(sampling, guidance=strength)
        return infer(job, room, loaded, sampling, seconds, again, progress)

    def made(job: Job) -> dict[str, Any] | None:
        if force or not job.found or not job.out.exists():
            return None
        return _made(job, sampling, guidance, seconds, model_folder or default_model())

    def key(job: Job) -> str:
        return str(job.room) if manifest is None else job.out.relative_to(manifest).as_posix()

    listed = None if manifest is None else batch.Manifest(manifest)
    names = {key(job): str(job.room) for job in jobs}
    for outcome in batch.run(jobs, key, made, make, listed, noted=_noted):
        if outcome.entry is None:
            yield Failure(names[outcome.key], outcome.reason)
        elif outcome.status == "skipped":
            yield Skipped(names[outcome.key], outcome.entry)
        else:
            yield dict(outcome.entry)
    if listed is not None and listed.path.exists():
        listed.tidy()


def _made(
    job: Job, sampling: SamplingConfig, guidance: float | None, seconds: float | None, model_folder: Path
) -> dict[str, Any] | None:
    """The record of a job's music, if it is whole and just what would be made now."""
    try:
        record: dict[str, Any] = json.loads(provenance.sidecar_path(job.out).read_text(encoding="utf-8"))
        made, settings = record["input"], record["settings"]
        wanted = {
            **dataclasses.asdict(dataclasses.replace(sampling, seed=job.seed)),
            "guidance": _own_guidance(model_folder) if guidance is None else guidance,
            "seconds": made["seconds"] if seconds is None else seconds,
        }
        is_same = (
            all(settings[name] == value for name, value in wanted.items())
            and made["sha256"] == provenance.sha256(job.room)
            and record["model"]["sha256"] == _weights_sha256(model_folder)
            and record["output"]["sha256"] == provenance.sha256(job.out)
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if is_same else None


@cache
def _weights_sha256(model_folder: Path) -> str:
    return provenance.sha256(model_folder / "model.safetensors")


@cache
def _own_guidance(model_folder: Path) -> float:
    return float(json.loads((model_folder / "config.json").read_text(encoding="utf-8"))["guidance"])


def _noted(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record's line in the manifest."""
    output = {name: record["output"][name] for name in ("seconds", "lufs", "sha256")}
    return {"room": record["input"]["file"], "seed": record["settings"]["seed"], **output}


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


def infer(
    job: Job,
    room: Recorded,
    loaded: LoadedModel,
    sampling: SamplingConfig,
    seconds: float | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make music for one room and write it, with its tags and its record, whole or not at all.

    Args:
        job: names and seed.
        room: the recording, as read from `job.room`.
        loaded: the model.
        sampling: how tokens are drawn, but for the seed.
        seconds: length of the music; the file has exactly `round(seconds * rate)` samples.
        force: replace files that exist.
        progress: told of every step.

    Returns:
        The record, as written to the sidecar.

    Raises:
        AudioError: if the output cannot be written.
    """
    from silent2music.acoustics.unsuited import room_warnings
    from silent2music.listening import Measured

    sampling = dataclasses.replace(sampling, seed=job.seed)
    step = None if progress is None else lambda done, total: progress(job.label, done, total)
    sidecar = provenance.sidecar_path(job.out)
    # Opened before the music is made: a place that cannot be written is told at once.
    with audio.atomic_path(job.out, force) as audio_path, audio.atomic_path(sidecar, force) as record_path:
        measured = Measured(room, loaded.model.config.ambient)
        profile = measured.profile()
        music = loaded.model.stream(room, sampling, seconds, progress=step, measured=measured)
        made: dict[str, Any] = {
            "input": {
                "file": job.label,
                "sha256": provenance.sha256(job.room),
                "seconds": room.seconds,
                "sample_rate": room.sample_rate,
                "channels": room.recorded_channels,
                "notes": [*room.notes, *room_warnings(room, profile)],
            },
            "model": {
                "name": loaded.name,
                "sha256": loaded.sha256,
                "codec_checksum": loaded.model.codec_checksum,
            },
            "settings": {
                **dataclasses.asdict(sampling),
                "seconds": room.seconds if seconds is None else seconds,
                "device": loaded.device,
            },
            "versions": provenance.versions(),
        }
        try:
            output = write_music(audio_path, music, as_made=profile.level_dbfs <= audio.FLOOR_DBFS)
            provenance.write_tags(audio_path, made)
        except AudioError as error:
            raise AudioError(f"{job.out} cannot be written; is the disk full?") from error
        output = {"file": job.out.name, **output, "sha256": provenance.sha256(audio_path)}
        record = {"output": output, **made, "room": profile.to_dict()}
        record_path.write_text(provenance.to_text(record), encoding="utf-8")
    return record
