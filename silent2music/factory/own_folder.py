"""A user's own folder as training pairs: what lies in it, and rooms or music for what comes without the other.

| found | pairs |
|---|---|
| `pairs.jsonl`, or `NAME.room.wav` beside `NAME.music.wav` | as they are |
| performances with room tone before the music | by `data.harvest` |
| music | with rooms made to its onsets and its loudness, or the music itself through a wall |
| MIDI | likewise, without sound; or as the score of music or of a pair of the same name |
| near-silent recordings | with the factory's arrangements of `data.scores` |

Each stretch of a source is a pair of a pair folder. Sources, not stretches, are held out for validation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from silent2music import audio
from silent2music.arrays import DoubleArray
from silent2music.audio import Waveform, rms_dbfs
from silent2music.config import DataConfig, HarvestConfig, TuneConfig
from silent2music.data.harvest import find_stretches, harvest
from silent2music.data.pairs import (
    MANIFEST,
    MAX_SILENT_DBFS,
    Pair,
    check,
    load_pair,
    read_pairs,
    score_of,
    silent_side,
    write_pairs,
)
from silent2music.errors import DataError, S2MError, require
from silent2music.factory.arrangement import Arrangement
from silent2music.factory.arranging import automation
from silent2music.factory.build import Stock, compose, score_folders
from silent2music.factory.chain import in_16_bits, measured_energy_db
from silent2music.factory.made_sounds import N_ROOMS, made_ambience
from silent2music.factory.repertoire import open_repertoire
from silent2music.factory.rooms import SAMPLE_RATE
from silent2music.factory.scenes import Scene, free_truth, leak_scene, met_scene, muted_scene, recorded_scene
from silent2music.factory.sources import Credit, Library, held_out, open_library
from silent2music.files import write_text
from silent2music.processes import StepProgress
from silent2music.score import MIDI_SUFFIXES, Score, read_midi, write_midi

SIDES = re.compile(r"(?P<name>.*?)[ ._-]?(?P<side>room|silent|music)", re.IGNORECASE)

PAIRS, PERFORMANCES, MUSIC, SCORES, ROOMS = "pairs", "performances", "music", "scores", "rooms"

MIN_SECONDS = 4.0
"""A stretch that is shorter gives no pair."""

MIN_NOTES = 8

Transcriber = Callable[[Waveform], Score | None]
"""Gives the notes of music, or None where they are not to be trusted."""


@dataclass(frozen=True)
class Source:
    """One piece of a folder: what is held out or trained on as a whole.

    Attributes:
        name: path in the folder.
        kind: what it is, one of the words above.
        seconds: duration.
        room, music, score: its files, as far as there are any.
        pair: its line of the manifest, where the folder has one.
        folder: above all files.
    """

    name: str
    kind: str
    seconds: float
    room: Path | None = None
    music: Path | None = None
    score: Path | None = None
    pair: Pair | None = None
    folder: Path = field(default_factory=Path)


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    Attributes:
        sources: all that can be used, in order of name.
        faults: a sentence for each file that cannot.
    """

    sources: tuple[Source, ...]
    faults: tuple[str, ...]

    def kinds(self) -> dict[str, tuple[int, float]]:
        """Of each kind how many sources there are, and their minutes."""
        found: dict[str, tuple[int, float]] = {}
        for source in self.sources:
            n, minutes = found.get(source.kind, (0, 0.0))
            found[source.kind] = n + 1, minutes + source.seconds / 60
        return found

    def __str__(self) -> str:
        return ", ".join(f"{n} {kind} ({minutes:.1f} min)" for kind, (n, minutes) in self.kinds().items())


def inspect_folder(folder: Path) -> Found:
    """Look at every file of a user's folder.

    Raises:
        DataError: if it is no folder, or holds nothing that can be used.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; expected one with pairs, music, MIDI files or rooms.")
    if (folder / MANIFEST).exists():
        listed = tuple(map(str, check(folder)))
        return Found(() if listed else tuple(_of_manifest(folder)), listed)
    found = audio.search(folder)
    faults = [*found.faults.values()]
    midi = {path for path in found.others if path.suffix.lower() in MIDI_SUFFIXES}
    sources: list[Source] = []
    for name, files in sorted(_grouped(folder, [*found.sounds, *midi]).items()):
        try:
            sources.append(_source_of(folder, name, files))
        except S2MError as error:
            faults.append(str(error))
    if not sources and not faults:
        raise DataError(f"{folder} holds neither sound nor MIDI; expected pairs, music, MIDI files or rooms.")
    return Found(tuple(sources), tuple(faults))


def _of_manifest(folder: Path) -> Iterator[Source]:
    for pair in read_pairs(folder):
        silent = audio.open_recording(folder / pair.silent)
        seconds = (silent.seconds if pair.end is None else pair.end) - (pair.start or 0.0)
        yield Source(pair.id, PAIRS, seconds, pair=pair, folder=folder)


def _grouped(folder: Path, files: Sequence[Path]) -> dict[str, dict[str, Path]]:
    """Files by the name that they share, and in it by what they are: `room`, `music`, `sound` or `score`."""
    groups: dict[str, dict[str, Path]] = {}
    for path in files:
        place = path.parent.relative_to(folder).as_posix()
        match = SIDES.fullmatch(path.stem)
        side, stem = "sound", path.stem
        if match:
            side, stem = match["side"].lower().replace("silent", "room"), match["name"]
        if path.suffix.lower() in MIDI_SUFFIXES:
            side = "score"
        name = "/".join(part for part in (place, stem) if part not in (".", "")) or "."
        if side in groups.setdefault(name, {}):
            name = path.relative_to(folder).as_posix()  # two formats of one name are two pieces
        groups.setdefault(name, {})[side] = path
    whole: dict[str, dict[str, Path]] = {}
    for name, own in groups.items():
        sides = {"room", "music"} & own.keys()
        if len(sides) == 1:
            # A room without its music, or music without its room, is just a file.
            (side,) = sides
            path = own.pop(side)
            key = name if not own.get("sound") else path.relative_to(folder).as_posix()
            whole.setdefault(key, {})["sound"] = path
        if own:
            whole.setdefault(name, {}).update(own)
    return whole


def _source_of(folder: Path, name: str, files: Mapping[str, Path]) -> Source:
    """What the files of one name are."""
    score = files.get("score")
    if score is not None:
        notes = read_midi(score)
        if notes.n_notes < MIN_NOTES:
            raise DataError(f"{score} has {notes.n_notes} notes; expected at least {MIN_NOTES}.")
        if len(files) == 1:
            return Source(name, SCORES, notes.seconds, score=score, folder=folder)
    if "room" in files:
        room, music = (audio.read(files[side]) for side in ("room", "music"))
        level = rms_dbfs(room.samples)
        if level > MAX_SILENT_DBFS:
            raise DataError(
                f"{files['room']} has {level:.1f} dBFS RMS; expected a near-silent room of at most "
                f"{MAX_SILENT_DBFS:.0f}."
            )
        seconds = min(room.seconds, music.seconds)
        return Source(name, PAIRS, seconds, files["room"], files["music"], score, folder=folder)
    sound = audio.read(files["sound"])
    if rms_dbfs(sound.samples) <= MAX_SILENT_DBFS:
        return Source(name, ROOMS, sound.seconds, room=files["sound"], folder=folder)
    kind = PERFORMANCES if score is None and find_stretches(sound) else MUSIC
    return Source(name, kind, sound.seconds, music=files["sound"], score=score, folder=folder)


def in_splits(found: Found, share: float, without_notes: Container[str] = ()) -> dict[str, str]:
    """The split of each source by name: its own where the manifest holds some out, else a share of each kind.

    Args:
        without_notes: names of sources that gave no notes to be trusted. Of these a share is held out, and of the others,
            so that what learns from notes is judged too. Rooms alone are split before anything is arranged to them.
    """
    stated = {source.name: source.pair.split for source in found.sources if source.pair is not None}
    if "validation" in stated.values():
        return stated
    groups: dict[tuple[str, bool], list[str]] = {}
    for source in found.sources:
        lacks = source.kind != ROOMS and source.name in without_notes
        groups.setdefault((source.kind, lacks), []).append(source.name)
    aside = held_out(groups.values(), share)
    return {s.name: "validation" if s.name in aside else "train" for s in found.sources}


# --- pairs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Workshop:
    """All that pairs are made with.

    Attributes:
        out: pair folder.
        library: recordings and responses of rooms that are made.
        config: of the run; data: folders of the factory.
        licence: of the user's folder.
        transcriber: of music without a score, if there is one.
        stocks: for rooms that come alone, by split.
        seed: of all.
    """

    out: Path
    library: Library
    config: TuneConfig
    data: DataConfig
    licence: str = "not stated"
    transcriber: Transcriber | None = None
    stocks: Mapping[str, Stock] = field(default_factory=dict)
    seed: int = 0


def open_workshop(found: Found, out: Path, config: TuneConfig, data: DataConfig, **settings: Any) -> Workshop:
    """Open what rooms are made of: the recordings of `data.ambience`, or sounds that are made here.

    Args:
        settings: further fields of `Workshop`.

    Raises:
        DataError: if there are rooms alone and no scores to arrange to them, or a folder of `data` is not usable.
    """
    ambience = Path(data.ambience) if data.ambience else made_ambience(out / "ambience")
    rooms = Path(data.rooms) if data.rooms else None
    library = open_library(ambience, rooms, out / "library", N_ROOMS)
    stocks = {}
    if ROOMS in found.kinds():
        if not data.scores:
            raise DataError(
                "The folder holds rooms without music, to which the factory arranges scores; give a folder of them with "
                "--set data.scores=FOLDER, or put music beside the rooms."
            )
        repertoires, _ = open_repertoire(score_folders(data), data.validation_share)
        stocks = {split: Stock(library, works, {"field": 1.0}) for split, works in repertoires.items()}
    return Workshop(out, library, config, data, stocks=stocks, **settings)


def make_pairs(shop: Workshop, found: Found, most: int, progress: StepProgress | None = None) -> list[Pair]:
    """Write the pairs of all sources, or go on with it after a kill; returns them.

    A pair follows from the seed and its own name alone. Sources take turns until there are `most`. What is held out is
    decided once it is known which of them have notes.

    Args:
        shop: from `open_workshop`.

    Raises:
        DataError: if there is no pair to train on.
    """
    manifest = shop.out / MANIFEST
    if manifest.exists():
        return read_pairs(shop.out)
    splits = in_splits(found, shop.config.validation_share)
    per_source = max(1, most // max(1, len(found.sources)))
    made: dict[str, list[Pair]] = {}
    for number, source in enumerate(found.sources):
        own = shop.out / "made" / f"{number:05d}.json"
        if own.exists():
            lines = json.loads(own.read_text(encoding="utf-8"))
        else:
            given = _pairs_of(shop, source, number, splits[source.name], per_source)
            lines = [json.loads(pair.to_line()) for pair in given]
            write_text(own, json.dumps(lines))
        made[source.name] = [Pair(**line) for line in lines]
        if progress is not None:
            progress(number + 1, len(found.sources))
    without_notes = {name for name, own in made.items() if not any(pair.score for pair in own)}
    splits = in_splits(found, shop.config.validation_share, without_notes)
    pairs = [replace(pair, split=splits[name]) for name, own in made.items() for pair in own]
    if not any(pair.split == "train" for pair in pairs):
        raise DataError(
            "Nothing of the folder gave a pair; expected stretches of at least 4 s with music in them."
        )
    if not any(pair.split == "validation" for pair in pairs):
        pairs = _with_ends_held_out(pairs)
    write_pairs(shop.out, pairs)
    return pairs


def _with_ends_held_out(pairs: list[Pair]) -> list[Pair]:
    """Of one source alone its last fifth is held out, at least one pair, and never all."""
    n = max(1, round(0.2 * len(pairs)))
    if n >= len(pairs):
        raise DataError(
            f"The folder gives {len(pairs)} pairs; expected at least two, one of them to validate on: add music."
        )
    return [replace(p, split="validation") if i >= len(pairs) - n else p for i, p in enumerate(pairs)]


def _pairs_of(shop: Workshop, source: Source, number: int, split: str, most: int) -> Iterator[Pair]:
    """Make the pairs of one source and write their files."""
    name = f"{number:05d}"
    if source.kind == PERFORMANCES:
        try:
            yield from _harvested(shop, source, name, split, most)
            return
        except DataError:
            source = replace(source, kind=MUSIC)  # what is quiet in it is too short, or no room
    makers = {PAIRS: _given, MUSIC: _with_rooms, SCORES: _with_rooms, ROOMS: _with_music}
    rng = np.random.default_rng([shop.seed, number])
    made = makers[source.kind](shop, source, rng, split)
    for index, (room, music, score, labels) in enumerate(made):
        if index == most:
            return
        stem = f"{name}-{index:04d}"
        silent, sound, notes = f"audio/{stem}.room.flac", f"audio/{stem}.music.flac", f"scores/{stem}.mid"
        audio.write(shop.out / silent, room, force=True)
        if music is not None:
            samples = in_16_bits(music.samples)
            audio.write(shop.out / sound, Waveform(samples, music.sample_rate), force=True)
        if score is not None:
            write_midi(shop.out / notes, score, force=True)
        labels = {**labels, "piece": source.name}
        labels.setdefault("sources", []).append(
            {"path": source.name, "licence": shop.licence, "author": "", "role": "recording"}
        )
        yield Pair(
            silent, None if music is None else sound, split=split, labels=labels,
            score=None if score is None else notes,
        )  # fmt: skip


def _harvested(shop: Workshop, source: Source, name: str, split: str, most: int) -> Iterator[Pair]:
    assert source.music is not None
    place = shop.out / "harvested" / name
    (place / MANIFEST).unlink(missing_ok=True)
    report = harvest([source.music], place, HarvestConfig(seed=shop.seed), shop.licence)
    for index, pair in enumerate(report.pairs[:most]):
        silent, music = (f"harvested/{name}/{file}" for file in (pair.silent, pair.music))
        notes = None
        if shop.transcriber is not None:
            sound = audio.read(shop.out / music)
            score = _notes_of_stretch(shop.transcriber(sound), 0.0, sound.seconds)
            if score is not None:
                notes = f"scores/{name}-{index:04d}.mid"
                write_midi(shop.out / notes, score, force=True)
        labels = {**pair.labels, "piece": source.name}
        yield replace(pair, silent=silent, music=music, score=notes, split=split, labels=labels)


Made = tuple[Waveform, Waveform | None, Score | None, dict[str, Any]]


def _stretches(seconds: float, length: float) -> list[tuple[float, float]]:
    """Begin and end of successive stretches; a rest that is long enough is one, too."""
    begins = np.arange(0.0, seconds, length)
    ends = np.minimum(begins + length, seconds)
    return [
        (float(b), float(e)) for b, e in zip(begins, ends, strict=True) if e - b >= min(MIN_SECONDS, length)
    ]


def _cut(sound: Waveform, begin: float, end: float) -> Waveform:
    return Waveform(
        sound.slice(round(begin * sound.sample_rate), round(end * sound.sample_rate)), sound.sample_rate
    )


def _notes_of_stretch(score: Score | None, begin: float, end: float) -> Score | None:
    """The notes of a stretch, as long as it; None where there are too few."""
    if score is None or begin >= score.seconds:
        return None
    cut = score.slice(begin, end)
    return replace(cut, seconds=end - begin) if cut.n_notes >= MIN_NOTES else None


def _given(shop: Workshop, source: Source, rng: np.random.Generator, split: str) -> Iterator[Made]:
    """Pairs by hand, cut to stretches."""
    if source.pair is not None:
        pair = source.pair
        score = score_of(source.folder, pair)
        if pair.music is None:
            room, music = silent_side(source.folder, pair), None
        else:
            room, music = load_pair(source.folder, pair)
        labels = {key: value for key, value in pair.labels.items() if key == "kind"}
    else:
        assert source.room is not None and source.music is not None
        room, music = audio.read(source.room), audio.read(source.music)
        score = None if source.score is None else with_roles(read_midi(source.score))
        labels = {}
    if score is None and music is not None and shop.transcriber is not None:
        score = shop.transcriber(music)
    for begin, end in _stretches(source.seconds, shop.config.seconds):
        sound = None if music is None else _cut(music, begin, end)
        notes = _notes_of_stretch(score, begin, end)
        if sound is not None or notes is not None:
            yield _cut(room, begin, end), sound, notes, dict(labels)


def _with_rooms(shop: Workshop, source: Source, rng: np.random.Generator, split: str) -> Iterator[Made]:
    """Stretches of music or of a score, each with some rooms that are made for it."""
    score = None if source.score is None else with_roles(read_midi(source.score))
    music = None if source.music is None else audio.read(source.music)
    if score is None and music is not None and shop.transcriber is not None:
        score = shop.transcriber(music)
    stretches = _stretches(source.seconds, shop.config.seconds)
    for begin, end in (stretches[int(i)] for i in rng.permutation(len(stretches))):
        sound, notes = (
            (None if music is None else _cut(music, begin, end)),
            _notes_of_stretch(score, begin, end),
        )
        if (sound is None or rms_dbfs(sound.samples) < -60.0) and notes is None:
            continue
        for turn in range(shop.config.rooms_per_piece):
            arrangement = _as_arrangement(sound, notes, end - begin, rng)
            scene = _room_for(shop.library, arrangement, sound, turn, rng)
            own = notes
            if notes is not None and sound is None:
                # What is heard of music, such as the decay of each plucked string, is no loudness that a room asks for.
                own = replace(notes, gain_db=arrangement.gain_db)
            yield scene.audio, sound, own, _labels_of(scene)


def _as_arrangement(
    sound: Waveform | None, notes: Score | None, seconds: float, rng: np.random.Generator
) -> Arrangement:
    """Music as the scenes that are made from music take it; of a score alone the loudness is drawn."""
    if sound is not None:
        level = measured_energy_db(sound.mono().resampled(SAMPLE_RATE).samples[0])
        gain_db = np.clip(level - level.max(), -36.0, 0.0)
    else:
        gain_db, _ = automation(free_truth("muted", rng, seconds))
    parts, beats = ((), np.zeros(0)) if notes is None else (notes.parts, notes.beat_seconds)
    return Arrangement(seconds, parts, gain_db, beat_seconds=beats)


def _room_for(
    library: Library, arrangement: Arrangement, sound: Waveform | None, turn: int, rng: np.random.Generator
) -> Scene:
    """The room of a stretch: by turns steps on its onsets, the noise of its instruments, and its leak through a wall."""
    kinds = ["met", *(["muted"] if arrangement.parts else []), *(["leak"] if sound is not None else [])]
    kind = kinds[(turn + int(rng.integers(2))) % len(kinds)]
    if kind == "muted":
        return muted_scene(arrangement, library, rng, played_in=library.pick_room(rng, 0.2, 1.2))
    if kind == "leak" and sound is not None:
        return leak_scene(arrangement, sound.resampled(SAMPLE_RATE), library, rng)
    if arrangement.parts:
        starts, _, _, velocities = arrangement.notes()
        return met_scene(arrangement, starts, velocities / 127, library, rng)
    assert sound is not None
    times, strengths = onsets_of(sound)
    return met_scene(arrangement, times, strengths, library, rng)


def onsets_of(sound: Waveform) -> tuple[DoubleArray, DoubleArray]:
    """Moments in seconds at which notes of music begin, and their strengths 0 to 1, by librosa's spectral flux."""
    onset = require("librosa").onset

    mono = sound.mono().resampled(SAMPLE_RATE).samples[0]
    envelope = onset.onset_strength(y=mono, sr=SAMPLE_RATE, hop_length=240)
    frames = onset.onset_detect(onset_envelope=envelope, sr=SAMPLE_RATE, hop_length=240, backtrack=True)
    peaks = np.array([envelope[f : f + 8].max(initial=0.0) for f in frames], np.float64)
    return np.asarray(frames * 0.01, np.float64), peaks / max(1e-9, float(peaks.max(initial=0.0)))


def _with_music(shop: Workshop, source: Source, rng: np.random.Generator, split: str) -> Iterator[Made]:
    """Stretches of a room as it is, each with scores that are arranged to it."""
    assert source.room is not None
    room, stock = audio.read(source.room), shop.stocks[split]
    for begin, end in _stretches(room.seconds, shop.config.seconds):
        scene = recorded_scene(_cut(room, begin, end), Credit(source.name, shop.licence, ""))
        for _ in range(shop.config.rooms_per_piece):
            _, arrangement = compose(stock, scene.truth, rng, shop.data.normalise_key)
            yield scene.audio, None, arrangement, _labels_of(scene)


def _labels_of(scene: Scene) -> dict[str, Any]:
    return {
        "kind": scene.truth.kind,
        "event_seconds": [round(float(t), 4) for t in scene.truth.event_seconds],
        "sources": [{**asdict(credit), "role": "instrument"} for credit in scene.sources],
    }


def with_roles(score: Score) -> Score:
    """A score whose parts have roles, as the composer knows them, where the file states none.

    The highest part is the melody, the lowest the bass if it lies low, others are harmony; drums are percussion.
    """
    pitched = [part for part in score.parts if not part.is_drum and len(part.pitches)]
    ranked = sorted(pitched, key=lambda part: float(np.median(part.pitches)))
    roles = {id(part): "harmony" for part in ranked}
    if ranked and float(np.median(ranked[0].pitches)) < 52 and len(ranked) > 1:
        roles[id(ranked[0])] = "bass"
    if ranked:
        roles[id(ranked[-1])] = "melody"
    parts = [
        part
        if part.role
        else replace(part, role="percussion" if part.is_drum else roles.get(id(part), "harmony"))
        for part in score.parts
    ]
    return replace(score, parts=tuple(parts), tempo_map=None)
