"""`s2m infer --redo`: a stretch of finished music written again, score and sound, while the rest stays bit for bit.

What is needed of the music lies beside it: its record, with the codes that it was decoded from, and its score if any.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from silent2music import audio
from silent2music.arrays import FloatArray, IntArray
from silent2music.audio import Recorded
from silent2music.config import ComposingConfig, DeliveryConfig, SamplingConfig, from_dict
from silent2music.controls import Controls
from silent2music.errors import AudioError, ConfigError, DataError
from silent2music.export import provenance
from silent2music.export.delivery import delivered
from silent2music.export.levelling import BLOCK_SECONDS, figures_of, limited_blocks, rounded_lufs
from silent2music.export.models import LazyModel, Other, blend_of, described_blend
from silent2music.export.space import Placement
from silent2music.export.stems import on_disk
from silent2music.files import atomic_paths, read_json
from silent2music.processes import Progress
from silent2music.score import Score, midi_bytes, read_midi

if TYPE_CHECKING:
    from silent2music.writing import Blend

LOSSLESS = (".wav", ".flac")
"""Kinds of files whose samples can be written again as they are."""

JOINT_SECONDS = 0.08
"""Old and new sound are crossfaded over so much at either end of the stretch, within it."""

OF_THE_WHOLE = ("tempo", "metre", "cues", "swing", "loose")
"""Wishes that hold for bars and sections, which stand."""


@dataclass(frozen=True)
class Again:
    """What of finished music is written again.

    Attributes:
        begin, end: of the stretch in seconds; end None for that of the music.
        roles: those in `notation.PART_ROLES` whose notes stand within it, too.
        sampling: settings of the draw that differ from the music's own, by the names of `SamplingConfig`; by default the
            seed, one higher each time.
        asked: wishes that differ from the music's own.
        other: another room, which has to be given again where the music has one.
    """

    begin: float = 0.0
    end: float | None = None
    roles: tuple[str, ...] = ()
    sampling: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    asked: Controls | None = None
    other: Other | None = None


def redo(
    room: Path,
    piece: Path,
    out: Path,
    model: LazyModel,
    again: Again,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a stretch of music again and the whole to another file, with its score and its record.

    Args:
        room: the recording that the music was made for.
        piece: the music, a WAV or FLAC file of `s2m infer`, its record and score beside it.
        out: the new music, of the same kind.
        model: of the same codec as the music's.
        again: what is written again, and how.

    Returns:
        The record, as written beside the music. Samples and notes outside of the stretch are those of the piece.

    Raises:
        AudioError: if a file cannot be read or written, or the recording is another one.
        DataError: if the piece's record does not say what is needed.
        ConfigError: if the stretch, or a wish, does not fit the music.
    """
    for path in (piece, out):
        if path.suffix.lower() not in LOSSLESS:
            raise AudioError(
                f"{path} is of a kind that cannot keep its samples; expected {' or '.join(LOSSLESS)}."
            )
    record = _record_of(piece)
    settings = record["settings"]
    scores = [provenance.score_path(out)] if "score" in record else []
    inputs = [room, piece, provenance.sidecar_path(piece), provenance.score_path(piece)]
    for path in (out, provenance.sidecar_path(out), *scores):
        provenance.check_replaceable(path, force, inputs)
    reading: dict[str, Any] = {
        name: None if settings[name] is None else settings[name] - 1 for name in ("track", "channel")
    }
    recorded = audio.open_recording(room, **reading)
    if record["input"]["sha256"] != provenance.sha256(room):
        raise AudioError(f"{piece} was made for another recording than {room}; give that one.")
    if ("blend" in settings) != (again.other is not None):
        raise ConfigError(
            f"{piece} was made {'with' if 'blend' in settings else 'without'} another room; "
            f"{'give --blend or --morph' if 'blend' in settings else 'leave --blend and --morph out'}."
        )
    with atomic_paths(out, provenance.sidecar_path(out), *scores, force=force) as (music, sidecar, *midi):
        step = None if progress is None else lambda done, total: progress(room.name, done, total)
        blend = blend_of(again.other, reading)
        codes, score, made = _rewritten(record, piece, recorded, model, again, blend, step, midi)
        output = _write_joined(music, piece, codes, score, record, model, made["redone"][-1])
        if midi:
            made["score"]["file"] = provenance.score_path(out).name
        provenance.write_tags(music, made)
        output = {**record["output"], **output, "file": out.name, "sha256": provenance.sha256(music)}
        new = {"output": output, **made, "room": record["room"]}
        new["codes"] = provenance.described_codes(codes)
        sidecar.write_bytes(provenance.to_text(new).encode())
    return new


def _record_of(piece: Path) -> dict[str, Any]:
    """The record beside music, which must belong to it and hold its codes.

    Raises:
        AudioError, DataError: if it does not.
    """
    place = provenance.sidecar_path(piece)
    try:
        record: dict[str, Any] = read_json(place)
        stated = record["output"]["sha256"]
        _ = record["codes"], record["output"]["gain_db"], record["settings"]["delivery"], record["input"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{place} is no record with the codes of {piece.name} ({error}); make the music again by s2m infer."
        ) from error
    if not piece.is_file() or provenance.sha256(piece) != stated:
        raise AudioError(f"{piece} is not the music that {place} is the record of; make it again.")
    return record


def _rewritten(
    record: Mapping[str, Any],
    piece: Path,
    room: Recorded,
    model: LazyModel,
    again: Again,
    blend: Blend | None,
    step: Any,
    midi: Sequence[Path],
) -> tuple[IntArray, Score | None, dict[str, Any]]:
    """Codes `[K, T]` of the new music, its score, and its record without output; the score is written to `midi`."""
    from silent2music.listening import Measured
    from silent2music.steering import Redo, check_stretch

    settings, seconds = record["settings"], float(record["settings"]["seconds"])
    if record["model"]["codec_checksum"] != model.model.codec_checksum:
        raise ConfigError(f"{piece} was made by a model of another codec than {model.folder}; give --model.")
    own = {f.name: settings[f.name] for f in dataclasses.fields(SamplingConfig) if f.name in settings}
    earlier = record.get("redone", [])
    sampling = from_dict(SamplingConfig, {**own, "seed": own["seed"] + 1 + len(earlier), **again.sampling})
    wishes = {name: v for name, v in settings["controls"].items() if name in Controls.__dataclass_fields__}
    controls = {name: v for name, v in settings["controls"].items() if name not in wishes}
    end = seconds if again.end is None else again.end
    given = {} if again.asked is None else again.asked.to_dict()
    if whole := [name for name in given if name in OF_THE_WHOLE]:
        raise ConfigError(
            f"Bars and sections stand, so {whole[0]} cannot be asked of a stretch; leave it out."
        )
    measured = Measured(room, model.model.config.ambient)
    made: dict[str, Any] = {name: record[name] for name in ("input", "model", "settings", "versions")}
    changed = {**again.sampling, "seed": sampling.seed}
    of = {"of": record["output"]["sha256"], "begin": again.begin, "end": end, "keep": list(again.roles)}
    who = {"model": model.described(), "versions": provenance.versions()}
    made["redone"] = [*earlier, {**of, **changed, "controls": given, **described_blend(again.other), **who}]
    how: dict[str, Any] = {"blend": blend, "progress": step, "measured": measured, **controls}
    check_stretch(again.begin, end, seconds)
    score = None
    if midi:
        place = provenance.score_path(piece)
        if not place.is_file() or provenance.sha256(place) != record["score"]["sha256"]:
            raise DataError(f"{place} is not the score that {piece.name} was made from; make it again.")
        asked = Controls.of({**wishes, **given}) if wishes or given else None
        before = read_midi(place)  # which is as long as the music to a tick
        stretch = Redo(before, again.begin, min(end, before.seconds), again.roles)
        how_composed = ComposingConfig(seed=sampling.seed)
        score = model.model.compose(room, seconds, how_composed, asked=asked, redo=stretch, **how)
        midi[0].write_bytes(midi_bytes(score))
        described = {"sha256": provenance.sha256(midi[0]), **provenance.described_score(score)}
        made["score"] = {"by": "composer", "file": place.name, **described}
    elif given or again.roles:
        raise ConfigError(
            f"{piece} was made for the room alone, without a score, so there are no notes to keep or to ask for."
        )
    drawn = provenance.codes_of(record)
    codes = model.model.redraw(room, drawn, again.begin, end, sampling, seconds, score=score, **how)
    return codes, score, made


def _write_joined(
    path: Path,
    piece: Path,
    codes: IntArray,
    score: Score | None,
    record: Mapping[str, Any],
    model: LazyModel,
    stretch: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the samples of a piece, those of a stretch from codes; figures of the file as `write_music` gives them."""
    settings, output = record["settings"], record["output"]
    delivery = from_dict(DeliveryConfig, settings["delivery"])
    where = from_dict(Placement, output["space"]) if "space" in output else Placement(0.0, 0.0, 0.0, 0.4)
    codec, rate, n_channels = model.model.codec, output["sample_rate"], output["channels"]
    pieces = model.model.play_codes(codes, settings["seconds"], score)
    parts = delivered(pieces, codec, delivery, where, settings["seed"], settings["seconds"])
    new = on_disk(parts, path.parent)
    quiet = output["nearly_nothing"]
    blocks = limited_blocks(new, 10.0 ** (output["gain_db"] / 20.0), None if quiet else delivery.true_peak)
    begin, end = (round(stretch[name] * rate) for name in ("begin", "end"))
    share = _share(begin, min(end, new.n_samples), new.n_samples, round(JOINT_SECONDS * rate))

    def joined() -> Iterator[Any]:
        at = 0
        for block, old in zip(blocks, audio.read_blocks(piece, BLOCK_SECONDS * rate, "int32"), strict=True):
            weight = share(at, at + old.shape[1])
            # Of 24 bits; where nothing is new the file's own numbers stay.
            sound = weight * np.clip(block, -1.0, 1.0) * (2**23 - 1) + (1.0 - weight) * (old / 256)
            yield np.where(weight > 0, np.rint(sound).astype(np.int32) * 256, old)
            at += old.shape[1]

    audio.write_blocks(path, joined(), rate, n_channels, force=True)
    n_samples, lufs, peak = figures_of(path, rate, n_channels)
    if n_samples != output["n_samples"]:
        raise AudioError(f"{path} holds {n_samples} samples of {output['n_samples']}; is the disk full?")
    return {"lufs": rounded_lufs(lufs), "true_peak_dbtp": round(peak, 2)}


def _share(begin: int, end: int, n_samples: int, n_fade: int) -> Any:
    """The new sound's share of samples `[first, last)`: 0 outside of a stretch, and 1 within but for its fades.

    Where the stretch begins with the music, or ends with it, there is no fade.
    """

    def share(first: int, last: int) -> FloatArray:
        at = np.arange(first, last)
        up = np.ones(len(at)) if begin == 0 else np.clip((at - begin) / n_fade, 0.0, 1.0)
        down = np.ones(len(at)) if end >= n_samples else np.clip((end - 1 - at) / n_fade, 0.0, 1.0)
        inside = (at >= begin) & (at < end)
        return np.asarray(np.where(inside, 0.5 - 0.5 * np.cos(np.pi * np.minimum(up, down)), 0.0))

    return share
