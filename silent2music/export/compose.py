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
from silent2music.score import MIDI_SUFFIXES, Score, midi_bytes, read_midi


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
        out: the MIDI or MusicXML file; of several scores the first one's name is `out.1.mid`.
        composing: how notes are drawn, with the seed of the first score; each next one has the next seed.
        seconds, count: length of each score, by default the room's, and how many there are.
        begun: MIDI file that is gone on with.
        controls, reading, asked, other: as in `models.Request`.
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
    if seconds is not None and not audio.MIN_SECONDS <= seconds < float("inf"):
        raise ConfigError(f"--seconds is {seconds}; expected at least {audio.MIN_SECONDS}.")
    outs = _targets(out, count, musicxml, force, [room] if begun is None else [room, begun])
    recorded = audio.open_recording(room, **(reading or {}))
    wanted = seconds or recorded.seconds
    if asked is not None:
        asked.check(wanted)
    first = None if begun is None else _begun(begun, wanted)
    from silent2music.acoustics.unsuited import room_warnings
    from silent2music.listening import Measured

    measured = Measured(recorded, model.model.config.ambient)
    told = {"measured": measured, "asked": asked, "blend": blend_of(other, reading or {}), **(controls or {})}
    records = []
    for take, path in enumerate(outs):
        settings = dataclasses.replace(composing, seed=composing.seed + take)
        label = path.name
        step = None if progress is None else lambda done, total, label=label: progress(label, done, total)
        score = model.model.compose(recorded, wanted, settings, begun=first, progress=step, **told)
        profile = measured.profile()
        record = {
            "output": {"file": path.name, **provenance.described_score(score)},
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
        _write(path, score, record, musicxml, force)
        records.append(record)
    return records


def _begun(path: Path, seconds: float) -> Score:
    """The score that is gone on with, which must end before the whole does."""
    first = read_midi(path)
    if first.seconds >= seconds:
        raise DataError(
            f"{path} lasts {first.seconds:.1f} s and the score is to last {seconds:.1f} s; give --seconds with more."
        )
    return first


def _write(path: Path, score: Score, record: dict[str, Any], musicxml: bool, force: bool) -> None:
    """Write a score, notation beside it if that is asked for, and the record, which learns the digests of both."""
    with atomic_paths(*_places(path, musicxml), force=force) as (first_path, sidecar, *notation):
        if path.suffix.lower() == MUSICXML_SUFFIX:
            notation.append(first_path)
        else:
            first_path.write_bytes(midi_bytes(score))
        for file in notation:
            file.write_bytes(musicxml_bytes(score, path.stem))
        record["output"]["sha256"] = provenance.sha256(first_path)
        if musicxml and notation[0] != first_path:
            place = path.with_suffix(MUSICXML_SUFFIX).name
            record["musicxml"] = {"file": place, "sha256": provenance.sha256(notation[0])}
        sidecar.write_bytes(provenance.to_text(record).encode())


def _places(out: Path, musicxml: bool) -> list[Path]:
    """The score, its record, and notation beside it."""
    notation = out.with_suffix(MUSICXML_SUFFIX)
    return [out, provenance.sidecar_path(out), *([notation] if musicxml and notation != out else [])]


def _targets(out: Path, count: int, musicxml: bool, force: bool, inputs: Sequence[Path]) -> list[Path]:
    """The scores to write; none may be no score's file, or there already, before any work is done for it."""
    if count < 1:
        raise ConfigError(f"--count is {count}; expected 1 or more.")
    suffixes = (*MIDI_SUFFIXES, MUSICXML_SUFFIX)
    if out.suffix.lower() not in suffixes:
        raise AudioError(f"{out} has the suffix '{out.suffix}'; expected one of {', '.join(suffixes)}.")
    outs = [out.with_name(out.stem + batch.take_number(n, count) + out.suffix) for n in range(count)]
    for path in (place for one in outs for place in _places(one, musicxml)):
        provenance.check_replaceable(path, force, inputs)
    return outs
