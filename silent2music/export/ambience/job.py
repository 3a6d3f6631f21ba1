"""Ambience for games: rooms in, folders of loops, layers and variations out, with a manifest.

A room's folder is made beside its place under a hidden name and moved there when it is complete, so that a kill, a
full disk or an error leaves it whole or absent, and the next start goes on with the rooms that are not there.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from silent2music import audio
from silent2music.acoustics import AcousticProfile, analyze
from silent2music.acoustics.unsuited import room_warnings
from silent2music.config import AmbienceConfig, SamplingConfig, to_dict
from silent2music.controls import Controls
from silent2music.errors import AudioError, ConfigError
from silent2music.export import batch, provenance
from silent2music.export.ambience.circle import own_tempo
from silent2music.export.ambience.composed import (
    Composed,
    check_wishes,
    compose_room,
    write_extras,
    write_scores,
)
from silent2music.export.ambience.engines import check_engines, write_engines
from silent2music.export.ambience.extras import Stage
from silent2music.export.ambience.lap import LAYERS, MAX_LOOP_SECONDS, PLAIN, Grid, plan_grid, room_lap
from silent2music.export.ambience.loops import Hear, close_set, write_takes
from silent2music.export.ambience.sheet import check_sheet, draw_sheet
from silent2music.export.ambience.transitions import pairs_of, read_transitions, write_transition
from silent2music.export.ambience.writing import Voices, hearing, write_loops
from silent2music.export.batch import LOOPS_MANIFEST, LOOPS_RECORD, Job, Outcome
from silent2music.export.models import LazyModel
from silent2music.export.space import Placement, find_placement, open_room
from silent2music.files import atomic_folder, atomic_path, claimed, locked, read_json, remove_leavings
from silent2music.keys import PITCH_NAMES, estimate_key
from silent2music.processes import Progress, launched

SCHEMA = Path(__file__).with_name("manifest.schema.json")
"""JSON schema (draft 2020-12) of the manifest, for whoever reads it."""

FORMAT, VERSION = "silent2music-ambience", 3

LICENCE = {
    "music": "yours: silent2music claims no rights in what it makes",
    "model": "Apache-2.0",
}


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
    reading: Mapping[str, Any] = MappingProxyType({}),
    asked: Controls | None = None,
    transitions: Sequence[str] = (),
    engines: Sequence[str] = (),
) -> list[Outcome]:
    """Make loops for rooms, or for this process's share of them; a bad one does not stop the rest.

    Args:
        rooms: recordings and folders of them, whose trees are mirrored below `out`.
        out: the folder to write; complete rooms that are there are kept.
        model: loaded when the first room needs it.
        seed: the base seed; a recording in a folder gets one from it and its relative path.
        force: make rooms anew that are there.
        contact_sheet: a PNG with a picture of every room.
        tell: called with sentences that a user should read while it goes on.
        reading: how recordings are opened: `strict`, `track` and `channel` of `audio.open_recording`.
        asked: what is to be composed, but for tempo and metre.
        transitions: pairs of rooms as `FROM:TO`, by their folders below `out`; or `all`.
        engines: names in `engines.ENGINES`, whose import files are written too.

    Raises:
        AudioError: if the folder cannot be written.
        CheckpointError, ConfigError: if the model or the device cannot be used, or something is asked for that the
            model cannot do.
    """
    check_engines(engines)
    _check_composes(config, model, asked, transitions)
    jobs = batch.plan_jobs(rooms, seed, out, lambda relative: relative.with_suffix(""))
    if contact_sheet is not None:
        check_sheet(contact_sheet)
        # Sheets of earlier runs are drawn anew, as the manifest is written anew.
        provenance.check_replaceable(contact_sheet, True, [job.room for job in jobs])
    with claimed(out, *launched()):
        for place in {out, *(job.out.parent for job in jobs)}:
            remove_leavings(place)
        run = _Run(out, config, model, force, progress, tell, reading, asked)
        pairs = pairs_of(transitions, jobs, out)
        outcomes = []
        for outcome in batch.outcomes(jobs, run.outcome):
            outcomes.append(outcome)
            if outcome.status == "failed":
                tell(outcome.reason)
        for pair in pairs:
            write_transition(out, pair, config, model, seed, reading)
        with locked(out):
            manifest = _write_manifest(out, outcomes, {job.label for job in jobs})
            write_engines(out, manifest, engines)
            if contact_sheet is not None:
                draw_sheet(out, manifest, contact_sheet)
    return outcomes


@dataclass(frozen=True)
class _Run:
    """What all rooms of a run share; see `ambience`."""

    out: Path
    config: AmbienceConfig
    model: LazyModel
    force: bool
    progress: Progress | None
    tell: Callable[[str], None]
    reading: Mapping[str, Any]
    asked: Controls | None

    def outcome(self, job: Job) -> Outcome:
        """Keep a room's folder that is complete, else make it; errors say which recording they are about."""
        partial = job.out
        try:
            # What is no file is refused, in a sentence of its own, where it is read.
            origin = self._origin(job) if job.room.is_file() else {}
            record = _complete_record(job.out, origin, self.force) if origin else None
            if record is not None:
                return Outcome(job, "kept", record)
            with atomic_folder(job.out) as partial:
                record = self._make(job, partial, origin)
            return Outcome(job, "made", record)
        except OSError as error:
            raise AudioError(
                f"{job.out} cannot be written ({error.strerror or error}); finished rooms are whole."
            ) from error
        except AudioError as error:
            reason = str(error).replace(str(partial), str(job.out))
            is_named = str(job.room) in reason or str(job.out) in reason
            raise AudioError(reason if is_named else f"{job.room}: {reason}") from error

    def _origin(self, job: Job) -> dict[str, Any]:
        """All that decides the bytes of a room's files, as it comes back from JSON."""
        return {
            "input_sha256": provenance.sha256(job.room),
            "model_sha256": self.model.sha256,
            "model_parts": self.model.parts,
            "seed": job.seed,
            "settings": {
                **json.loads(json.dumps(to_dict(self.config))),
                **provenance.described_reading(self.reading),
                "controls": json.loads(json.dumps(self.asked.to_dict() if self.asked else {})),
            },
            "versions": provenance.versions(),
        }

    def _make(self, job: Job, partial: Path, origin: Mapping[str, Any]) -> dict[str, Any]:
        """Make a room's folder and return its record, which is its entry in the manifest."""
        config, model = self.config, self.model.model
        room, channels = open_room(job.room, config.room_format, self.reading)
        profile = analyze(room)
        grid = self._grid(job, room, profile)
        where = find_placement(channels, profile, config.room_format)
        lap = room_lap(room, profile, grid, model.codec.sample_rate)
        stem, as_made = str(partial / job.out.name), profile.level_dbfs <= audio.FLOOR_DBFS
        tag = {"input": job.label, "bpm": grid.bpm, "bars": grid.bars, **origin}
        loops, composed = self._compose(job, lap, grid, where)
        files, sum_peak = write_loops(
            stem, loops, model.codec.extension, grid, config, job.seed, tag, as_made
        )
        scores, extras = [], []
        if composed is not None:
            sampling = SamplingConfig(temperature=config.temperature, guidance=config.guidance, seed=job.seed)
            stage = Stage(model, config, sampling, where, composed.places, as_made)
            scores = write_scores(stem, composed, grid)
            extras = write_extras(stem, composed, lap, grid, stage, tag)
        key = scores[0]["key"] if scores else _key(loops, model.codec.sample_rate)
        places = {} if composed is None else composed.places
        record = {
            "name": job.out.name,
            "folder": job.out.relative_to(self.out).as_posix(),
            "seed": job.seed,
            "composed": composed is not None,
            "grid": described_grid(grid, key),
            "space": {
                "spatial": config.spatial,
                **dataclasses.asdict(where),
                "parts": [
                    {
                        "part": name,
                        "azimuth_degrees": place.azimuth_degrees,
                        "elevation_degrees": place.elevation_degrees,
                    }
                    for name, place in places.items()
                ],
            },
            "levels": {
                "lufs": config.lufs,
                "true_peak_dbtp": config.true_peak,
                "sum_true_peak_dbtp": sum_peak,
            },
            "files": files,
            "scores": scores,
            "extras": extras,
            "input": provenance.described_input(job.label, job.room, room, room_warnings(room, profile)),
            "profile": profile.to_dict(),
            "settings": origin["settings"],
            "model": self.model.described(),
            "versions": origin["versions"],
            "licence": {**LICENCE, "room": config.licence},
        }
        (partial / LOOPS_RECORD).write_bytes(provenance.to_text(record).encode())
        self._tell_of(job, record)
        return record

    def _tell_of(self, job: Job, record: Mapping[str, Any]) -> None:
        """Sentences on what a user should know of a room that was made."""
        for note in record["input"]["notes"]:
            self.tell(f"{job.label} {note}.")
        quiet = [f["file"] for f in record["files"] if f["nearly_nothing"]]
        if quiet:
            self.tell(
                f"{job.label}: {', '.join(quiet)} nearly nothing, as this room is; level left as it is."
            )
        for file in record["files"]:
            if not file["nearly_nothing"] and abs(file["lufs"] - file["lufs_asked"]) > 0.1:
                self.tell(f"{job.label}: {file['file']} came to {file['lufs']} LUFS under its true peak.")

    def _grid(self, job: Job, room: audio.Recorded, profile: AcousticProfile) -> Grid:
        """The room's lap; that it has fewer bars than were asked for is said."""
        config, model = self.config, self.model.model
        own_bpm, most = None, model.config.decoder.attention_window
        if model.composes():
            most = round(MAX_LOOP_SECONDS * model.codec.frame_rate)
            own_bpm = config.tempo or profile.tempo_bpm or own_tempo(model, room, job.seed)
        grid = plan_grid(profile, config, model.codec.frame_rate, most, own_bpm)
        if 0 < grid.bars < config.bars:
            limit = "loops are composed" if own_bpm else "the model can hold together"
            self.tell(
                f"{job.label}: {config.bars} bars at {grid.bpm:.1f} bpm are longer than {limit}; "
                f"made {grid.bars}, which are {grid.seconds:.2f} s."
            )
        return grid

    def _compose(
        self, job: Job, lap: audio.Waveform, grid: Grid, where: Placement
    ) -> tuple[Mapping[tuple[str, int], Voices], Composed | None]:
        """The voices of each layer and variation, closed, and their scores if the model composes."""
        config, model = self.config, self.model.model
        seeds = [job.seed, *(batch.hashed_seed(job.seed, v) for v in range(2, config.variations + 1))]
        hear_at = functools.partial(hearing, config, grid, where, model.codec, job.seed)
        composed = None
        if model.composes():

            def play_step(done: int, total: int) -> None:
                if self.progress is not None:
                    self.progress(job.label, done, total)

            def say(sentence: str) -> None:
                self.tell(f"{job.label}: {sentence}.")

            composed = compose_room(
                model, lap, grid, config, seeds, where, hear_at, self.asked, play_step, say
            )
            loops = composed.loops
        else:
            loops = self._for_the_room(job, lap, grid, where, seeds, hear_at(config.lufs))
        standing_out = [
            f"{name} {v}"
            for (name, v), voices in loops.items()
            if any(loop.stands_out > 0 for loop, _ in voices)
        ]
        if standing_out:
            self.tell(
                f"{job.label}: of {', '.join(standing_out)} the seam or the fold stands out, whatever ending was "
                "tried; the best is kept. Another seed may have a better one."
            )
        return loops, composed

    def _for_the_room(
        self, job: Job, lap: audio.Waveform, grid: Grid, where: Placement, seeds: Sequence[int], hear: Hear
    ) -> Mapping[tuple[str, int], Voices]:
        """What a model without a score plays for the room alone; a layer is another way to hear it."""
        config, model = self.config, self.model.model
        sampling = SamplingConfig(temperature=config.temperature, guidance=config.guidance)
        layers = {name: LAYERS[name] for name in config.layers} or {"loop": PLAIN}
        takes = []
        for i, layer in enumerate(layers.values()):

            def step(done: int, total: int, before: int = i) -> None:
                if self.progress is not None:
                    self.progress(job.label, before * total + done, len(layers) * total)

            takes += write_takes(model, lap, grid, layer, sampling, seeds, [hear] * len(seeds), step)
        names = [(name, variation) for name in layers for variation in range(1, config.variations + 1)]
        closed = close_set(model, takes, config.candidates)
        return {name: [(loop, where)] for name, loop in zip(names, closed, strict=True)}


def described_grid(grid: Grid, key: str | None) -> dict[str, Any]:
    """What the manifest says of a lap."""
    return {
        "n_samples": grid.n_samples,
        "sample_rate": grid.sample_rate,
        "seconds": grid.seconds,
        "bpm": grid.bpm,
        "bars": grid.bars,
        "beats_per_bar": grid.beats_per_bar,
        "bar_samples": list(grid.bar_samples),
        "key": key,
        "tuning_cents": grid.tuning_cents,
    }


def _check_composes(
    config: AmbienceConfig, model: LazyModel, asked: Controls | None, transitions: Sequence[str]
) -> None:
    """Refuse what only a model that composes can do of one that does not.

    Raises:
        ConfigError: naming it.
    """
    if model.composes:
        check_wishes(asked)
        return
    wanted = {
        "a tempo": config.tempo,
        "what to compose": asked,
        "extras": config.extras,
        "transitions": transitions,
    }
    for what, value in wanted.items():
        if value:
            raise ConfigError(
                f"{model.folder} composes no score, so {what} cannot be asked of it; give --model with one that has "
                "composer and sketch, or leave it out."
            )


def _key(loops: Mapping[tuple[str, int], Voices], sample_rate: int) -> str | None:
    """The key that all loops of a room together are in, None of silence."""
    samples = [loop.samples for voices in loops.values() for loop, _ in voices]
    spectra = [np.abs(np.fft.rfft(sound.astype(np.float64))) for sound in samples]
    hz = np.fft.rfftfreq(len(samples[0]), 1.0 / sample_rate)
    tonal = (hz > 60) & (hz < 2000)
    pitches = np.round(69 + 12 * np.log2(hz[tonal] / 440.0)).astype(np.int64)
    power = np.bincount(pitches, weights=np.square(spectra).sum(axis=0)[tonal])
    if not power.any():
        return None
    # Square roots, so that one loud drone does not outvote all else.
    tonic, mode = estimate_key(np.arange(len(power)), np.sqrt(power))
    return f"{PITCH_NAMES[tonic]} {mode}"


# ---- folders of rooms, and the manifest of all of them ----


def _read_record(folder: Path) -> dict[str, Any]:
    """The record of a room's folder.

    Raises:
        AudioError: if the folder has none, or it cannot be read.
    """
    path = folder / LOOPS_RECORD
    if not path.exists():
        raise AudioError(f"{folder} exists already and is no folder of s2m ambience; move it away.")
    try:
        entry = read_json(path)
    except (OSError, ValueError) as error:
        raise AudioError(f"{path} cannot be read ({error}); remove its folder and make it again.") from error
    if not isinstance(entry, dict):
        raise AudioError(f"{path} is no record of a room; remove its folder and make it again.")
    return entry


def _complete_record(folder: Path, origin: Mapping[str, Any], force: bool) -> dict[str, Any] | None:
    """The record of a room's folder if it is complete and was made by the same settings; else None.

    Args:
        origin: all that decides the bytes of its files.
        force: make it anew whatever is there.

    Raises:
        AudioError: if something else is there.
    """
    if not folder.exists():
        return None
    entry = _read_record(folder)
    if force:
        names = {f["file"] for f in _files(entry)} | {LOOPS_RECORD}
        foreign = sorted(p.name for p in folder.iterdir() if p.name not in names)
        if foreign:
            raise AudioError(
                f"{folder / foreign[0]} is no file of s2m ambience; move it away before --force."
            )
        return None
    made_of = {
        "input_sha256": entry["input"]["sha256"],
        "model_sha256": entry["model"]["sha256"],
        "model_parts": entry["model"].get("parts", origin["model_parts"]),  # a record of 0.2.0 has none
        **{name: entry[name] for name in ("seed", "settings", "versions")},
    }
    if made_of != origin:
        raise AudioError(
            f"{folder} was made of another recording, or with other settings; give --force to replace it."
        )
    for file in _files(entry):
        path = folder / file["file"]
        if not path.exists() or provenance.sha256(path) != file["sha256"]:
            raise AudioError(f"{path} is missing or was changed; give --force to make its folder again.")
    return entry


def _files(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All files that a room's record lists."""
    return [*entry["files"], *entry.get("scores", ()), *entry.get("extras", ())]


def _write_manifest(out: Path, outcomes: Sequence[Outcome], planned: set[str]) -> dict[str, Any]:
    """Write `manifest.json` from the records of all rooms below `out`, whose lock the caller holds.

    Of several processes each writes it when it has done its share, so that the last one's is complete. What the
    others said of failures in their shares stays.

    Args:
        outcomes: of this process.
        planned: labels of the recordings of all processes.

    Raises:
        AudioError: if it cannot be written, or a record cannot be read.
    """
    path = out / LOOPS_MANIFEST
    others = planned - {outcome.job.label for outcome in outcomes}
    failures = {}
    try:
        for failure in read_json(path)["failures"]:
            if failure["file"] in others:
                failures[failure["file"]] = failure["reason"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    for outcome in outcomes:
        if outcome.status == "failed":
            job = outcome.job
            reason = provenance.without_folders(outcome.reason, job.room, job.out, out)
            failures[job.label] = batch.printable(reason)
    records = sorted(
        found.parent
        for found in out.rglob(LOOPS_RECORD)
        if not any(part.startswith(".") for part in found.relative_to(out).parts)
    )
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "generator": provenance.SOFTWARE,
        "rooms": [_read_record(folder) for folder in records],
        "transitions": read_transitions(out),
        "failures": [{"file": name, "reason": reason} for name, reason in sorted(failures.items())],
    }
    with atomic_path(path, force=True) as temporary:
        temporary.write_bytes(provenance.to_text(manifest).encode())
    return manifest
