"""Writes a performance: the music, its score as MIDI, and what is asked for beside it (stems, notation, a project)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from silent2music.arrays import IntArray
from silent2music.audio import Recording, Waveform
from silent2music.config import DeliveryConfig
from silent2music.errors import AudioError, CheckpointError, ConfigError
from silent2music.export import provenance
from silent2music.export.levelling import write_music
from silent2music.export.musicxml import MUSICXML_SUFFIX, musicxml_bytes
from silent2music.export.project import PROJECTS, Session
from silent2music.export.signing import Signing
from silent2music.export.stems import check_stems, stem_path
from silent2music.files import atomic_paths
from silent2music.score import Score, midi_bytes


@dataclass(frozen=True)
class Beside:
    """What is asked for beside the music.

    Attributes:
        stems: one of `stems.STEMS_BY`, or empty for none.
        musicxml: the score as notation.
        project: one of `project.PROJECTS`, which has stems, or empty.
        signing: by whom music and stems are signed, or None.
    """

    stems: str = ""
    musicxml: bool = False
    project: str = ""
    signing: Signing | None = None

    def __post_init__(self) -> None:
        if self.project and self.project not in PROJECTS:
            raise ConfigError(f"The project is '{self.project}'; expected {' or '.join(PROJECTS)}.")
        if self.project and not self.stems:
            object.__setattr__(self, "stems", "auto")

    def __bool__(self) -> bool:
        """Whether files are asked for."""
        return bool(self.stems or self.musicxml or self.project)

    def check(self, out: Path, has_score: bool) -> None:
        """Refuse what cannot be written beside a file.

        Raises:
            CheckpointError: if the music comes from no score.
            ConfigError: in one sentence.
        """
        if self and not has_score:
            raise CheckpointError(
                "The model composes no score, so its music has no parts and no notes to write; give --model with "
                "composer and sketch, or a score to 's2m perform'."
            )
        if self.stems:
            check_stems(self.stems, out)
        if self.signing:
            self.signing.check(out)

    def places(self, out: Path, with_midi: bool) -> dict[str, Path]:
        """Files by what they are: the music, its record, and those beside it whose names are known beforehand."""
        found = {"music": out, "record": provenance.sidecar_path(out)}
        found |= {"midi": provenance.score_path(out)} if with_midi else {}
        found |= {"musicxml": out.with_suffix(MUSICXML_SUFFIX)} if self.musicxml else {}
        return found | ({"project": out.with_suffix(PROJECTS[self.project][0])} if self.project else {})

    def described(self) -> dict[str, Any]:
        """What a record says of what was asked for; nothing if that is nothing."""
        own = {"stems": self.stems, "musicxml": self.musicxml, "project": self.project} if self else {}
        own |= {"signed": self.signing.described()} if self.signing else {}
        return {"beside": own} if own else {}


@dataclass(frozen=True)
class Take:
    """A performance that is to be written.

    Attributes:
        music: the pieces of it.
        score: gives its notes, once all music was taken; None if the room alone decided.
        stems: what the music is the sum of, by name, and `scores` what each plays; empty for music in one.
        codes: gives the codes `[K, T]` that the music was decoded from, once all was taken; None if it is a sum.
    """

    music: Iterable[Waveform]
    score: Callable[[], Score | None]
    stems: Mapping[str, Recording] = field(default_factory=dict)
    scores: Mapping[str, Score] = field(default_factory=dict)
    codes: Callable[[], IntArray] | None = None


def write_take(
    take: Take,
    places: Mapping[str, Path],
    temporary: Mapping[str, Path],
    made: dict[str, Any],
    config: DeliveryConfig,
    *,
    signing: Signing | None = None,
    as_made: bool = False,
    comment: str = provenance.COMMENT,
    force: bool = False,
    inputs: Sequence[Path] = (),
) -> dict[str, Any]:
    """Write a performance and what belongs beside it.

    Args:
        take: the performance.
        places: as `Beside.places` gives them.
        temporary: where to write for now, by the same names.
        made: the record so far, which is stored in the files' tags; what is found out is added.
        config, as_made: as for `write_music`.
        signing: by whom music and stems are signed, or None.
        comment: as for `provenance.write_tags`.
        force, inputs: as for `provenance.check_replaceable`, of the stems.

    Returns:
        What the record says of the music's file.
    """
    out = places["music"]
    with _stem_files(out, take.stems, force, inputs) as files:
        try:
            output = write_music(temporary["music"], take.music, config, as_made, files)
            score = take.score()
            if score is not None and "midi" in temporary:
                temporary["midi"].write_bytes(midi_bytes(score))
                own = _named(places["midi"], temporary["midi"])
                made["score"] = {"by": "composer", **own, **provenance.described_score(score)}
            if score is not None and "musicxml" in temporary:
                temporary["musicxml"].write_bytes(musicxml_bytes(score, out.stem))
                made["musicxml"] = _named(places["musicxml"], temporary["musicxml"])
            provenance.write_tags(temporary["music"], made, None, comment)
            if signing is not None:
                signing.sign(temporary["music"], out.name, made)
            if files:
                made["stems"] = [
                    _tagged(stem_path(out, name), path, name, take.scores[name], made, comment, signing)
                    for name, (path, _) in zip(take.stems, files, strict=True)
                ]
            if score is not None and "project" in temporary:
                stems = {
                    name: (stem_path(out, name), path)
                    for name, (path, _) in zip(take.stems, files, strict=True)
                }
                size = (output["sample_rate"], output["channels"], output["n_samples"])
                suffix = places["project"].suffix
                write = next(write for own, write in PROJECTS.values() if own == suffix)
                write(temporary["project"], Session(out.stem, score, stems, *size))
                made["project"] = _named(places["project"], temporary["project"])
        except AudioError as error:
            raise AudioError(f"{out} cannot be written; is the disk full?") from error
        return {"file": out.name, **output, "sha256": provenance.sha256(temporary["music"])}


@contextmanager
def _stem_files(
    out: Path, stems: Mapping[str, Recording], force: bool, inputs: Sequence[Path]
) -> Iterator[list[tuple[Path, Recording]]]:
    """Temporary places for stems, which come to theirs when the block ends well; nothing for no stems."""
    if not stems:
        yield []
        return
    places = [stem_path(out, name) for name in stems]
    if len({place.name.casefold() for place in places}) < len(places):
        raise ConfigError(f"Two parts would be written to one file beside {out.name}; give them other names.")
    for place in places:
        provenance.check_replaceable(place, force, inputs)
    with atomic_paths(*places, force=force) as temporaries:
        yield list(zip(temporaries, stems.values(), strict=True))


def _tagged(
    place: Path,
    path: Path,
    name: str,
    score: Score,
    made: Mapping[str, Any],
    comment: str,
    signing: Signing | None,
) -> dict[str, Any]:
    """Store the record in a stem's file, sign it, and give what the record says of it."""
    own = {"name": name, "parts": [part.name for part in score.parts]}
    provenance.write_tags(path, {**made, "stem": own}, comment=comment)
    if signing is not None:
        signing.sign(path, place.name, {**made, "stem": own})
    return {**own, **_named(place, path)}


def _named(place: Path, path: Path) -> dict[str, str]:
    return {"file": place.name, "sha256": provenance.sha256(path)}
