"""`s2m score-clip`: a clip in, the same picture with music of its length out, music, score and record beside it.

The clip's own sound is the room. Its cuts, or an editor's markers, are the cues.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from silent2music.audio import Recorded, Recording
from silent2music.controls import LEAST_SECTION_SECONDS, Controls
from silent2music.errors import AudioError, ConfigError, DataError
from silent2music.export import provenance
from silent2music.export.batch import Job
from silent2music.export.beside import Beside
from silent2music.export.infer import infer
from silent2music.export.models import LazyModel, Request
from silent2music.export.picture.clip import Clip, inspect, room_of, silence
from silent2music.export.picture.cuts import find_cuts
from silent2music.export.picture.markers import read_markers
from silent2music.export.picture.sound import (
    SOUND_CODECS,
    envelope,
    mixed,
    mux,
    own_sound,
    write_broadcast,
)
from silent2music.export.picture.timecode import Clock, frame_number, is_timecode, parse_rate
from silent2music.export.signing import Signing
from silent2music.export.stems import stem_path
from silent2music.files import atomic_paths, remove_leavings
from silent2music.processes import Progress
from silent2music.score import Cue

UNDER_DB = (-60.0, 20.0)
"""Bounds of the gain of a clip's own sound."""

CUTS, NONE = "cuts", "none"
"""What cues may be beside files of markers and times."""


@dataclass(frozen=True)
class ClipSettings:
    """What is asked for of a scored clip, beside its music.

    Attributes:
        cues: each is `cuts`, `none`, a file of `markers.read_markers`, or a time, with `=` and a name behind it or not.
        fps: frame rate of timecodes; by default the clip's.
        timecode: of the clip's first frame; by default what the clip says.
        under_db: gain of the clip's own sound under the music; None leaves it out.
        duck: where someone speaks, turn the music down and the clip's own sound up to its level.
        silent: score a clip that has no sound, from silence and its cues.
        fade_in, fade_out: times; by default those of the delivery.
    """

    cues: Sequence[str] = (CUTS,)
    fps: str | None = None
    timecode: str | None = None
    under_db: float | None = -12.0
    duck: bool = False
    silent: bool = False
    fade_in: str | None = None
    fade_out: str | None = None

    def __post_init__(self) -> None:
        if self.under_db is not None and not UNDER_DB[0] <= self.under_db <= UNDER_DB[1]:
            low, high = UNDER_DB
            raise ConfigError(f"--under is {self.under_db:g} dB; expected {low:g} to {high:g}, or none.")
        if NONE in self.cues and len(self.cues) > 1:
            raise ConfigError("--cue none stands alone; leave it out, or the others.")


def parse_gain(text: str) -> float | None:
    """The gain in dB of `-12dB` or `-12`; None of `none`.

    Raises:
        ConfigError: on anything else.

    Example:
        >>> parse_gain("-12dB"), parse_gain("none")
        (-12.0, None)
    """
    if text == NONE:
        return None
    try:
        return float(text.strip().lower().removesuffix("db"))
    except ValueError:
        raise ConfigError(f"--under is '{text}'; expected decibels such as -12dB, or none.") from None


def score_clip(
    path: Path,
    out: Path,
    model: LazyModel,
    request: Request | None = None,
    settings: ClipSettings | None = None,
    wav: Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make music for a clip and write the scored clip, the music and the record, all or none of them.

    Args:
        out: the scored clip, with a suffix of `SOUND_CODECS`.
        model, request: as for `infer`, but that the music is as long as the clip, and its stems lie beside `wav`.
        settings: what is asked for of the clip.
        wav: the music alone; by default beside the scored clip.

    Returns:
        The record, as written beside the clip: that of `infer`, with `clip` and `cues`.

    Raises:
        AudioError: if the clip cannot be read or has no sound, or an output cannot be written.
        ConfigError: if a time or a rate is none.
        DataError: if a file of markers cannot be read.
    """
    request, settings = request or Request(), settings or ClipSettings()
    signing = request.beside.signing
    request = dataclasses.replace(request, beside=Beside(request.beside.stems))
    if signing is not None:
        signing.check(out)
    wav = wav or out.with_suffix(".wav")
    inputs = [path, *(Path(cue) for cue in settings.cues if Path(cue).is_file())]
    _check_places(out, wav, force, inputs)
    request.beside.check(wav, model.composes)
    clip = _heard_clip(path, request.reading.get("track", 0), settings.silent)
    clock = clock_of(clip, settings)
    request = _timed(request, clip, clock, settings)
    cues, notes = _cues(clip, clock, settings.cues, progress)
    scores = [provenance.score_path(out)] if model.composes else []
    for place in scores:
        provenance.check_replaceable(place, force, [path])
        request = dataclasses.replace(request, asked=_with_cues(request.asked, cues, float(clip.seconds)))
    room = silence(clip) if settings.silent else room_of(clip, dict(request.reading))
    remove_leavings(out.parent)
    with tempfile.TemporaryDirectory() as folder:
        job = Job(path, Path(folder) / "music.wav", request.sampling.seed, path.name)
        record = infer(job, room, model, request, force, progress)
        made = record["output"]
        mix, speech = _mixed(job.out, clip, room, settings, request.reading, made["sample_rate"])
        stems = [stem_path(wav, stem["name"]) for stem in record.get("stems", ())]
        for place in stems:
            provenance.check_replaceable(place, force, inputs)
        with atomic_paths(out, provenance.sidecar_path(out), wav, *stems, *scores, force=force) as places:
            clip_path, record_path, *sounds = places
            for place in scores:
                sounds.pop().write_bytes(provenance.score_path(job.out).read_bytes())
                record["score"]["file"] = place.name
            step = None if progress is None else lambda done, total: progress("picture", done, total)
            digest = mux(clip, clip_path, mix, request.delivery.true_peak, step)
            if not clip.shows(inspect(clip_path)):
                raise AudioError(
                    f"{path} does not keep its length to the frame as {out.suffix}; choose another of "
                    f"{', '.join(SOUND_CODECS)}."
                )
            _write_sounds(job.out, record, [wav, *stems], sounds, cues, clock, signing)
            if signing is not None:
                signing.sign(clip_path, out.name, record, is_composite=True)
            made |= {"file": out.name, "sha256": provenance.sha256(clip_path)}
            # That silence is silent was asked for.
            record["input"]["notes"] = [*([] if settings.silent else record["input"]["notes"]), *notes]
            record["settings"]["clip"] = dataclasses.asdict(settings)
            record["clip"] = {**_described(clip, clock), "packets_sha256": digest, "speech": speech}
            record["cues"] = [dataclasses.asdict(cue) for cue in cues]
            record_path.write_bytes(provenance.to_text(record).encode())
    return record


def _heard_clip(path: Path, track: int, silent: bool) -> Clip:
    """A clip with the sound that it is to have, or without as it is said to be."""
    clip = inspect(path, track)
    has_sound = clip.sound_begin is not None
    if not has_sound and not silent:
        raise AudioError(
            f"{path} has no sound to take for the room; give --silent to score silence and its cues."
        )
    if has_sound and silent:
        raise AudioError(f"{path} has sound, which is the room; leave out --silent.")
    return clip


def _write_sounds(
    music: Path,
    record: dict[str, Any],
    places: Sequence[Path],
    temporary: Sequence[Path],
    cues: Sequence[Cue],
    clock: Clock,
    signing: Signing | None,
) -> None:
    """Write music and stems with cues and time, sign them if that is asked for, and name them in the record."""
    made, stems = record["output"], record.get("stems", ())
    made["music"] = {}
    if signing is not None:
        record["settings"].setdefault("beside", {})["signed"] = signing.described()
    sources = [music, *(music.with_name(stem["file"]) for stem in stems)]
    for named, source, place, path in zip([made["music"], *stems], sources, places, temporary, strict=True):
        loudness = (made["lufs"], made["true_peak_dbtp"]) if source == music else ()
        write_broadcast(source, path, cues, clock.start_seconds, *loudness)
        named["file"] = place.name
        if signing is not None:
            signing.sign(path, place.name, record)
        named["sha256"] = provenance.sha256(path)


def _check_places(out: Path, wav: Path, force: bool, inputs: Sequence[Path]) -> None:
    """Refuse outputs that cannot be, before any work is done for them."""
    if out.suffix.lower() not in SOUND_CODECS:
        raise AudioError(f"{out} has the suffix '{out.suffix}'; expected one of {', '.join(SOUND_CODECS)}.")
    if wav.suffix.lower() != ".wav":
        raise AudioError(f"--wav names {wav}; expected a file that ends in .wav.")
    for place in (out, wav, provenance.sidecar_path(out)):
        provenance.check_replaceable(place, force, inputs)


def clock_of(clip: Clip, settings: ClipSettings) -> Clock:
    """What times mean for a clip: its own rate and timecode, unless others were given.

    Raises:
        ConfigError: if a rate or a timecode is none.
    """
    rate = clip.rate if settings.fps is None else parse_rate(settings.fps)
    if settings.timecode is not None:
        return Clock(rate, frame_number(settings.timecode, rate))
    return Clock(rate, frame_number(clip.timecode, rate) if is_timecode(clip.timecode) else None)


def _timed(request: Request, clip: Clip, clock: Clock, settings: ClipSettings) -> Request:
    """What is asked for of the music, with the clip's length and with fades in seconds."""
    fades: dict[str, Any] = {
        name: clock.seconds(text)
        for name in ("fade_in", "fade_out")
        if (text := getattr(settings, name)) is not None
    }
    delivery = dataclasses.replace(request.delivery, **fades)
    return dataclasses.replace(request, seconds=float(clip.seconds), delivery=delivery)


def _cues(
    clip: Clip, clock: Clock, asked: Sequence[str], progress: Progress | None
) -> tuple[tuple[Cue, ...], list[str]]:
    """The cues that were asked for, and what is to be said of them."""
    found: list[Cue] = []
    for text in asked:
        if text == CUTS:
            step = None if progress is None else lambda done, total: progress("cuts", done, total)
            found += [Cue(t, f"cut {i}") for i, t in enumerate(find_cuts(clip, step), 1)]
        elif text != NONE:
            found += _named(text, clock)
    inside = [cue for cue in found if cue.seconds < clip.seconds]
    if found and not inside:
        raise DataError(
            f"All {len(found)} cues lie after the clip's end at {float(clip.seconds):.2f} s; give --timecode of its "
            "first frame, or other cues."
        )
    left_out = len(found) - len(inside)
    notes = [f"has {left_out} cues after its end, which are left out"] if left_out else []
    return tuple(sorted(inside, key=lambda cue: cue.seconds)), notes


def _with_cues(asked: Controls | None, cues: Sequence[Cue], seconds: float) -> Controls | None:
    """What is asked of the composer, with a section at each cue that leaves room before and after it."""
    inside = tuple(f"{cue.seconds:.3f}" for cue in cues if 0 < cue.seconds < seconds - LEAST_SECTION_SECONDS)
    return dataclasses.replace(asked or Controls(), cues=inside) if inside else asked


def _named(text: str, clock: Clock) -> Sequence[Cue]:
    """Cues of a file, or the one of a time."""
    if Path(text).exists():
        return read_markers(Path(text), clock)
    time, _, name = text.partition("=")
    try:
        return [Cue(clock.seconds(time), name or "cue")]
    except ConfigError as error:
        if any(character.isdigit() for character in time[:1]):
            raise
        raise DataError(
            f"--cue is '{text}', which is no file that is there; expected cuts, none, a file of markers or a time."
        ) from error


def _mixed(
    music: Path,
    clip: Clip,
    room: Recorded,
    settings: ClipSettings,
    reading: Mapping[str, Any],
    sample_rate: int,
) -> tuple[Recording, Sequence[tuple[float, float]]]:
    """The music over the clip's own sound, and when someone speaks in that, if the music is to heed it."""
    from silent2music.acoustics.unsuited import speech_spans

    has_sound = clip.sound_begin is not None
    speech = speech_spans(room) if settings.duck and has_sound else ()
    if settings.under_db is None or not has_sound:
        return mixed(music, sample_rate, None, envelope(speech), 0.0), speech
    own = own_sound(clip, reading.get("track", 0), reading.get("channel"), sample_rate)
    return mixed(music, sample_rate, own, envelope(speech), settings.under_db), speech


def _described(clip: Clip, clock: Clock) -> Mapping[str, Any]:
    """What the record says of a clip."""
    return {
        "seconds": float(clip.seconds),
        "frames": clip.n_frames,
        "fps": str(clip.rate),
        "variable": clip.is_variable,
        "timecode": clip.timecode or None,
        "start_seconds": None if clock.start_seconds is None else float(clock.start_seconds),
        "has_sound": clip.sound_begin is not None,
    }
