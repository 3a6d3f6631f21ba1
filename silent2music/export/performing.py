"""`s2m perform`: a score in, a file of music out, in the room that it was written for.

The performer is the model, or the synthesiser fluidsynth with a soundfont of the user's choice, whose instruments keep
the places between left and right that the score gives them. Both stand in the room's own measured reverberation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from silent2music import audio
from silent2music.acoustics import AcousticProfile
from silent2music.acoustics.unsuited import room_warnings
from silent2music.arrays import DoubleArray, FloatArray
from silent2music.audio import Recorded, Waveform
from silent2music.config import SKETCH_FOLDER, AmbientConfig, DeliveryConfig, SamplingConfig
from silent2music.errors import CheckpointError, ConfigError, DataError
from silent2music.export import provenance
from silent2music.export.beside import Beside, Take, write_take
from silent2music.export.delivery import delivered, faded, in_front, resampled
from silent2music.export.fitting import set_to_room
from silent2music.export.infer import check_length
from silent2music.export.levelling import summed
from silent2music.export.models import LazyModel
from silent2music.export.space import Placement, placed
from silent2music.export.stems import on_disk, perform_stems, split
from silent2music.files import atomic_paths
from silent2music.listening import Measured
from silent2music.processes import Progress, StepProgress
from silent2music.score import Score, read_midi

MAX_SYNTHESISER_RATE = 96_000
"""fluidsynth plays at no higher one; above it, the music is resampled."""

COMMENT = "Score performed by silent2music with a soundfont"
PLAYED_COMMENT = "Score performed by silent2music"


def perform(
    tune: Path,
    out: Path,
    performer: Path | LazyModel,
    room: Path | None = None,
    delivery: DeliveryConfig | None = None,
    seconds: float | None = None,
    sampling: SamplingConfig | None = None,
    reading: Mapping[str, Any] | None = None,
    force: bool = False,
    fit: bool = False,
    progress: Progress | None = None,
    beside: Beside | None = None,
) -> dict[str, Any]:
    """Play a MIDI file and write the music, with its tags and its record, which is returned; whole or not at all.

    Args:
        tune: the MIDI file, with any General MIDI instruments, of any length.
        out: the music, of a suffix that `audio.write` knows; its record is the `.json` beside it.
        performer: a model, or an SF2 or SF3 file for the synthesiser.
        room: a recording of the room that the music stands in, and that a model follows; without one it has the
            synthesiser's reverberation, or that of the music that the model has learned.
        seconds: length of the music; by default until the last note has died away.
        sampling: how a model draws tokens; its seed is the room's reverberation's, too.
        delivery, reading, beside: as in `models.Request`.
        force: replace what this program made before, and play very long music, as `infer.check_length` has it.
        fit: set the score to the room first, see `fitting.set_to_room`.

    Raises:
        DataError: if the tune is no MIDI file or has no notes, or soundfont or synthesiser do not serve.
        AudioError: if the room cannot be read or the music not be written.
        CheckpointError, ConfigError: if the model has no sketch, or there is no room to fit the score to.
    """
    delivery, sampling = delivery or DeliveryConfig(), sampling or SamplingConfig()
    beside = beside or Beside()
    beside.check(out, has_score=True)
    score = _playable(tune, performer, fit and room is None)
    soundfont = performer if isinstance(performer, Path) else None
    recording = None if room is None else audio.open_recording(room, **(reading or {}))
    profile = None if recording is None else Measured(recording, AmbientConfig()).profile()
    described = {"file": tune.name, "sha256": provenance.sha256(tune), **provenance.described_score(score)}
    if fit and profile is not None:
        score = set_to_room(score, profile, sampling.seed)
        described["fitted"] = provenance.described_score(score)
    length = score.seconds if seconds is None else seconds
    check_length(tune.name, out, length, delivery, force)
    inputs, places = [file for file in (tune, soundfont, room) if file], beside.places(out, with_midi=False)
    for path in places.values():
        provenance.check_replaceable(path, force, inputs)
    where = None if profile is None or delivery.mono else in_front(profile)
    if isinstance(performer, LazyModel):
        sampling = performer.settled(sampling, sampling.seed)
    made = {
        "input": _heard(room, recording, profile),
        "score": {"by": "given", **described},
        "performer": _performer(performer),
        "settings": {
            **({"seed": sampling.seed} if soundfont else dataclasses.asdict(sampling)),
            "seconds": seconds,
            "fit": fit,
            **provenance.described_reading(reading or {}),
            "delivery": dataclasses.asdict(delivery),
            **beside.described(),
        },
        "versions": provenance.versions(),
    }
    with atomic_paths(*places.values(), force=force) as opened:
        temporary = dict(zip(places, opened, strict=True))
        step = None if progress is None else lambda done, total: progress(tune.name, done, total)
        take = _take(score, performer, recording, sampling, seconds, delivery, where, profile, beside, step)
        output = write_take(
            take, places, temporary, made, delivery,
            as_made=profile is not None and profile.level_dbfs <= audio.FLOOR_DBFS,
            signing=beside.signing, comment=COMMENT if soundfont else PLAYED_COMMENT, force=force, inputs=inputs,
        )  # fmt: skip
        output |= {} if where is None else {"space": dataclasses.asdict(where)}
        record = {"output": output, **made, "room": None if profile is None else profile.to_dict()}
        temporary["record"].write_text(provenance.to_text(record), encoding="utf-8")
    return record


def _playable(tune: Path, performer: Path | LazyModel, fits_nothing: bool) -> Score:
    """The score of a MIDI file that has notes, for a performer that plays scores."""
    if fits_nothing:
        raise ConfigError("--fit sets the score to a room, and there is none; give --room.")
    if isinstance(performer, LazyModel) and not performer.plays_scores:
        raise CheckpointError(
            f"{performer.folder} has no {SKETCH_FOLDER}/, so it plays for rooms and no score; give --model with one that "
            "has, or --soundfont."
        )
    score = read_midi(tune)
    if not score.n_notes:
        raise DataError(f"{tune} holds no notes; expected a MIDI file with at least one.")
    return score


def _take(
    score: Score,
    performer: Path | LazyModel,
    room: Recorded | None,
    sampling: SamplingConfig,
    seconds: float | None,
    delivery: DeliveryConfig,
    where: Placement | None,
    profile: AcousticProfile | None,
    beside: Beside,
    step: StepProgress | None,
) -> Take:
    """A score as its performer plays it, whole or stem by stem."""
    if isinstance(performer, Path):
        is_dry = profile is not None
        return _synthesised(score, performer, delivery, where, seconds, sampling.seed, is_dry, beside)
    model, length = performer.model, score.seconds if seconds is None else seconds
    where = where or in_front(profile)
    if not beside.stems:
        pieces = model.stream(room, sampling, length, score=score, progress=step)
        return Take(delivered(pieces, model.codec, delivery, where, sampling.seed, length), lambda: score)
    scores = split(score, beside.stems)
    parts = list(scores.values())
    measured = None if room is None else Measured(room, model.config.ambient)
    stems = perform_stems(
        model, room, score, parts, sampling, length, delivery, where, measured=measured, progress=step
    )
    return Take(summed(stems), lambda: score, dict(zip(scores, stems, strict=True)), scores)


def _synthesised(
    score: Score,
    soundfont: Path,
    delivery: DeliveryConfig,
    where: Placement | None,
    seconds: float | None,
    seed: int,
    is_dry: bool,
    beside: Beside,
) -> Take:
    """A score as the synthesiser plays it, whole or stem by stem, at the synthesiser's level."""
    from silent2music.factory.rendering import heard_as, play

    rate = min(delivery.sample_rate, MAX_SYNTHESISER_RATE)
    n_in, n_out = (round(fade * delivery.sample_rate) for fade in (delivery.fade_in, delivery.fade_out))

    def in_place(
        own: Score, seconds: float | None, levelling: DoubleArray | None = None
    ) -> Iterator[Waveform]:
        sound: Iterator[Waveform] = play(own, soundfont, rate, not is_dry, seconds, levelling)
        if delivery.mono:
            sound = (piece.mono() for piece in sound)
        elif where is not None:
            sound = in_room(sound, where, seed)
        n_samples = None if seconds is None else round(seconds * delivery.sample_rate)
        return faded(resampled(sound, delivery.sample_rate), n_samples, n_in, n_out)

    if not beside.stems:
        return Take(in_place(score, seconds), lambda: score)
    scores = split(score, beside.stems)
    length, levelling = heard_as(score, soundfont, rate, not is_dry, seconds)
    stems = [on_disk(in_place(own, length, levelling)) for own in scores.values()]
    return Take(summed(stems), lambda: score, dict(zip(scores, stems, strict=True)), scores)


def in_room(pieces: Iterable[Waveform], where: Placement, seed: int = 0) -> Iterator[Waveform]:
    """Stereo `[2, n]` that keeps its image, in the diffuse sound of a room; the share of power is `space.placed`'s.

    Args:
        pieces: of one rate.
        where: the music stands, of which the direction is left to the music.
    """
    dry: FloatArray = np.zeros((2, 0), np.float32)

    def sums() -> Iterator[Waveform]:
        nonlocal dry
        for piece in pieces:
            dry = np.concatenate([dry, piece.samples], axis=1)
            yield piece.mono()

    share = where.diffuse_share
    # What comes from the middle has twice the power of its mean in two channels, and the room's sound has it once.
    direct, diffuse = np.float32(np.sqrt(1.0 - share)), np.float32(np.sqrt(2.0 * share))
    for wet in placed(sums(), dataclasses.replace(where, diffuse_share=1.0), seed):
        n = wet.n_samples
        yield Waveform(direct * dry[:, :n] + diffuse * wet.samples, wet.sample_rate)
        dry = dry[:, n:]


def _heard(
    path: Path | None, recording: Recorded | None, profile: AcousticProfile | None
) -> dict[str, Any] | None:
    """What the record says of the room's recording, if there is one."""
    if path is None or recording is None or profile is None:
        return None
    return provenance.described_input(path.name, path, recording, room_warnings(recording, profile))


def _performer(performer: Path | LazyModel) -> dict[str, Any]:
    """What the record says of the model, or of synthesiser and soundfont."""
    if isinstance(performer, LazyModel):
        return {**performer.described(), "device": performer.device}
    from silent2music.factory.rendering import synthesiser_version

    version, digest = synthesiser_version(performer), provenance.sha256(performer)
    return {"synthesiser": version, "soundfont": performer.name, "sha256": digest}
