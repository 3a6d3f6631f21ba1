"""`s2m compose`: a recording of a room in, a MIDI file of the score out, with the record of how it was made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from silent2music import audio
from silent2music.config import ComposingConfig
from silent2music.controls import Controls
from silent2music.errors import AudioError, ConfigError, DataError
from silent2music.export import batch, provenance
from silent2music.export.models import LazyModel, Other, blend_of, described_blend
from silent2music.export.musicxml import MUSICXML_SUFFIX, musicxml_bytes
from silent2music.files import atomic_paths
from silent2music.processes import Progress
from silent2music.score import MIDI_SUFFIXES, midi_bytes, read_midi


def compose(
    room: Path,
    out: Path,
    model: LazyModel,
    composing: ComposingConfig | None = None,
    seconds: float | None = None,
    count: int = 1,
    begun: Path | None = None,
    controls: Mapping[str, Any] | None = None,
    reading: Mapping[str, Any] | None = None,
    force: bool = False,
    progress: Progress | None = None,
    asked: Controls | None = None,
    other: Other | None = None,
    musicxml: bool = False,
) -> list[dict[str, Any]]:
    """Compose scores for one room, each written with its record, whole or not at all.

    Args:
        room: the recording.
        out: the MIDI or MusicXML file; of several scores the first one's name is `out.1.mid`.
        model: a model with a composer.
        composing: how notes are drawn, with the seed of the first score; each next one has the next seed.
        seconds: length of the score, by default the room's.
        count: how many scores.
        begun: MIDI file that is gone on with.
        controls: what steers the composer beside the room, by name.
        reading: as `audio.open_recording` takes it.
        force: replace files that exist.
        progress: told of every step.
        asked: what the music is to be, beside what the room says.
        other: another room that is mixed in.
        musicxml: write notation beside a MIDI file.

    Returns:
        The records, as written beside the scores.

    Raises:
        AudioError: if the recording cannot be read, or an output exists or cannot be written.
        CheckpointError: if the model has no composer.
        ConfigError: on a length or a number of scores that is none, or a wish that does not fit the piece.
        DataError: if `begun` is no MIDI file, or longer than what is asked for.
    """
    composing = composing or ComposingConfig()
    if count < 1:
        raise ConfigError(f"--count is {count}; expected 1 or more.")
    if seconds is not None and not audio.MIN_SECONDS <= seconds < float("inf"):
        raise ConfigError(f"--seconds is {seconds}; expected at least {audio.MIN_SECONDS}.")
    numbers = [batch.take_number(take, count) for take in range(count)]
    outs = [out.with_name(out.stem + number + out.suffix) for number in numbers]
    inputs = [room] if begun is None else [room, begun]
    for path in outs:
        _check_target(path, musicxml, force, inputs)
    recorded = audio.open_recording(room, **(reading or {}))
    first = None if begun is None else read_midi(begun)
    wanted = seconds or recorded.seconds
    if asked is not None:
        asked.check(wanted)
    if first is not None and first.seconds >= wanted:
        raise DataError(
            f"{begun} lasts {first.seconds:.1f} s and the score is to last {wanted:.1f} s; give --seconds with more."
        )
    from silent2music.acoustics.unsuited import room_warnings
    from silent2music.listening import Measured

    measured = Measured(recorded, model.model.config.ambient)
    blend = blend_of(other, reading or {})
    records = []
    for take, path in enumerate(outs):
        settings = dataclasses.replace(composing, seed=composing.seed + take)
        label = path.name
        step = None if progress is None else lambda done, total, label=label: progress(label, done, total)
        score = model.model.compose(
            recorded,
            wanted,
            settings,
            begun=first,
            progress=step,
            measured=measured,
            asked=asked,
            blend=blend,
            **(controls or {}),
        )
        profile = measured.profile()
        record = {
            "output": {
                "file": path.name,
                "seconds": score.seconds,
                "notes": score.n_notes,
                "parts": [part.name for part in score.parts],
            },
            "input": provenance.described_input(room.name, room, recorded, room_warnings(recorded, profile)),
            "model": model.described(),
            "settings": {
                **dataclasses.asdict(settings),
                "controls": {**(asked.to_dict() if asked else {}), **(controls or {})},
                **described_blend(other),
                "seconds": wanted,
                "continues": None if begun is None else provenance.sha256(begun),
                **provenance.described_reading(reading or {}),
                "device": model.device,
            },
            "versions": provenance.versions(),
            "room": profile.to_dict(),
        }
        with atomic_paths(*_places(path, musicxml), force=force) as (first_path, sidecar, *notation):
            if path.suffix.lower() == MUSICXML_SUFFIX:
                notation.append(first_path)
            else:
                first_path.write_bytes(midi_bytes(score))
            for file in notation:
                file.write_bytes(musicxml_bytes(score, path.stem))
            record["output"]["sha256"] = provenance.sha256(first_path)
            if musicxml and notation[0] != first_path:
                own = {
                    "file": path.with_suffix(MUSICXML_SUFFIX).name,
                    "sha256": provenance.sha256(notation[0]),
                }
                record["musicxml"] = own
            sidecar.write_bytes(provenance.to_text(record).encode())
        records.append(record)
    return records


def _places(out: Path, musicxml: bool) -> list[Path]:
    """The score, its record, and notation beside it."""
    notation = out.with_suffix(MUSICXML_SUFFIX)
    return [out, provenance.sidecar_path(out), *([notation] if musicxml and notation != out else [])]


def _check_target(out: Path, musicxml: bool, force: bool, inputs: Sequence[Path]) -> None:
    """Refuse an output that is no score's file, or that exists, before any work is done for it."""
    suffixes = (*MIDI_SUFFIXES, MUSICXML_SUFFIX)
    if out.suffix.lower() not in suffixes:
        raise AudioError(f"{out} has the suffix '{out.suffix}'; expected one of {', '.join(suffixes)}.")
    for path in _places(out, musicxml):
        provenance.check_replaceable(path, force, inputs)
