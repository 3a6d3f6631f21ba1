"""Transitions from a bar line of one room's loop to the beginning of another's, made of both rooms' scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from silent2music import audio
from silent2music.acoustics import analyze
from silent2music.audio import Waveform
from silent2music.config import AmbienceConfig, SamplingConfig
from silent2music.errors import ConfigError
from silent2music.export import batch, provenance
from silent2music.export.ambience.circle import from_file, places_of
from silent2music.export.ambience.extras import Stage, around_entry, transition, write_extra
from silent2music.export.ambience.lap import Grid, room_lap
from silent2music.export.batch import LOOPS_RECORD, TRANSITION_RECORD, Job
from silent2music.export.models import LazyModel
from silent2music.export.space import Placement, open_room
from silent2music.files import atomic_folder, read_json
from silent2music.score import Score, read_midi

FOLDER = "transitions"

Pair = tuple[Job, Job]


def pairs_of(transitions: Sequence[str], jobs: Sequence[Job], out: Path) -> list[Pair]:
    """The pairs of rooms that are asked for, as `FROM:TO` by their folders below `out`, or `all`.

    Raises:
        ConfigError: on something else, or a room that is not among those of this command.
    """
    known = {job.out.relative_to(out).as_posix(): job for job in jobs if not job.refused}
    if list(transitions) == ["all"]:
        return [(first, second) for first in known.values() for second in known.values() if first != second]
    found = []
    for text in transitions:
        names = [name.strip() for name in text.split(":")]
        if len(names) != 2 or not all(name in known for name in names) or names[0] == names[1]:
            rooms = ", ".join(sorted(known)[:8])
            raise ConfigError(f"--transitions has '{text}'; expected FROM:TO of {rooms}, or all.")
        found.append((known[names[0]], known[names[1]]))
    return found


def write_transition(
    out: Path, pair: Pair, config: AmbienceConfig, model: LazyModel, seed: int, reading: Mapping[str, Any]
) -> None:
    """Make the transition between two rooms, unless it is there or one of them is not; whole or not at all.

    Of several processes the one that comes last to a pair finds both rooms; the bytes do not depend on which it is.
    """
    records = []
    for job in pair:
        if not (job.out / LOOPS_RECORD).is_file():
            return
        records.append(read_json(job.out / LOOPS_RECORD))
    if not all(record.get("scores") for record in records):
        return
    names = [record["folder"].replace("/", "_") for record in records]
    name = f"{names[0]}_to_{names[1]}"
    origin: dict[str, Any] = {
        "from": records[0]["folder"],
        "to": records[1]["folder"],
        "seed": batch.hashed_seed(seed, name),
    }
    origin["made_of"] = [provenance.sha256(job.out / LOOPS_RECORD) for job in pair]
    folder = out / FOLDER / name
    if _is_complete(folder, origin):
        return
    (before, first, first_lap), (after, second, second_lap) = (
        _room(job, record, config, model, reading) for job, record in zip(pair, records, strict=True)
    )
    extra = transition(name, (before, first), (after, second))
    middle = extra.entry + first.seconds / first.bars
    heard = around_entry(first_lap, extra).samples
    at = round(middle * second_lap.sample_rate)
    late = round(second.seconds / second.bars * second_lap.sample_rate)
    heard[:, at:] = second_lap.samples[:, (np.arange(heard.shape[1] - at) - late) % second_lap.n_samples]
    space = {key: records[1]["space"][key] for key in Placement.__dataclass_fields__}
    where = Placement(**space)
    places = places_of([before, after], where) if config.spatial == "ambix" else {}
    sampling = SamplingConfig(temperature=config.temperature, guidance=config.guidance, seed=origin["seed"])
    is_silent = all(record["profile"]["level_dbfs"] <= audio.FLOOR_DBFS for record in records)
    stage = Stage(model.model, config, sampling, where, places, is_silent)
    with atomic_folder(folder) as partial:
        room = Waveform(heard, second_lap.sample_rate)
        files = write_extra(str(partial / "transition"), extra, room, stage, origin)
        record = {**origin, "folder": f"{FOLDER}/{name}", "files": files}
        (partial / TRANSITION_RECORD).write_bytes(provenance.to_text(record).encode())


def _is_complete(folder: Path, origin: Mapping[str, Any]) -> bool:
    """Whether a transition is there, of these rooms and whole."""
    try:
        record = read_json(folder / TRANSITION_RECORD)
        return all(record[name] == value for name, value in json.loads(json.dumps(origin)).items()) and all(
            provenance.sha256(folder / file["file"]) == file["sha256"] for file in record["files"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _room(
    job: Job, record: Mapping[str, Any], config: AmbienceConfig, model: LazyModel, reading: Mapping[str, Any]
) -> tuple[Score, Grid, Waveform]:
    """A room's circle and lap, and the lap of its recording, both from where its files begin."""
    own, score, codec = record["grid"], record["scores"][0], model.model.codec
    n_frames = round(own["seconds"] * codec.frame_rate)
    sizes = (own["n_samples"], own["sample_rate"], own["bpm"], own["bars"], own["beats_per_bar"])
    grid = Grid(n_frames, codec.frame_rate, *sizes)
    room, _ = open_room(job.room, config.room_format, reading)
    lap = room_lap(room, analyze(room), grid, codec.sample_rate)
    begin = round(score["begin_bar"] / grid.bars * lap.n_samples)
    circle = from_file(read_midi(job.out / score["file"]))
    return circle, grid, Waveform(np.roll(lap.samples, -begin, axis=1), lap.sample_rate)


def read_transitions(out: Path) -> list[dict[str, Any]]:
    """The records of all transitions below a folder, in order of their names."""
    return [read_json(path) for path in sorted((out / FOLDER).glob(f"*/{TRANSITION_RECORD}"))]
