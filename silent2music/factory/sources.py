"""Sources of scenes: ambience clips, one-shots (single sounds) cut from them, and room responses.

A library is a folder of recordings with an `index.tsv` (columns `path`, `licence`, `author`, more are
ignored). A file's name says what it is good for (`ROLES`); a file without a licence entry is refused. All
clips are decoded once to 24 kHz mono and kept in one memory-mapped file, so that any number of workers share
them; the responses of measured and simulated rooms are kept beside them.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from silent2music.arrays import FloatArray
from silent2music.audio import READABLE_SUFFIXES, Waveform, read
from silent2music.errors import AudioError, DataError
from silent2music.factory.chain import frame_powers
from silent2music.factory.rooms import SAMPLE_RATE, measured_rt60, prepared_response, simulated_room
from silent2music.files import atomic_path, write_text

CACHE_VERSION = 7
"""Raised when decoding, cutting or simulating changes, so that an old cache is not taken for a new one."""

N_SIMULATED_ROOMS = 60

MAX_SHOTS = 32

BED = "bed"
EVENT = "event"

_ROLES = (
    ("steps hall street", EVENT, "footstep walking"),
    ("steps street", EVENT, "shoes gravel"),
    ("steps hall", EVENT, "stairs"),
    ("steps hall street", EVENT, "stomp"),
    ("steps room", EVENT, "clock-tick"),
    ("steps street", EVENT, "street_perc"),
    ("steps", EVENT, "stick"),
    ("steps machine", EVENT, "scraping egg_beater"),
    ("street", EVENT, "doorbell"),
    ("room hall street machine", EVENT, "door"),
    ("steps room", EVENT, "key"),
    ("room hall", EVENT, "chair"),
    ("room", EVENT, "blinds"),
    ("room machine", EVENT, "paper"),
    ("machine street", EVENT, "train_brakes"),
    ("weather", EVENT, "wind_chimes"),
    ("steps weather", EVENT, "water_hit"),
    ("steps room", EVENT, "water_glass"),
    ("room", EVENT, "water_bottle"),
    ("weather", EVENT, "water_plunge water_on"),
    ("weather room", EVENT, "water_in"),
    ("weather", EVENT, "water_bubbles watersplash"),
    ("machine", BED, "waterpump coffee_machine"),
    ("street", BED, "coffee-shop"),
    ("street machine", BED, "garbage_truck"),
    ("street", BED, "children crowd city outdoors outside street boston_subway"),
    ("weather street", BED, "birds"),
    ("hall", BED, "hallway"),
    ("room hall", BED, "ambiance background"),
    ("room hall machine", BED, "radiator elevator"),
    ("weather", BED, "rain rainstick storm wind waves sea"),
    ("weather", BED, "waterfall stream fire summer-night shower running_water water"),
    ("machine", BED, "train subway underground engine"),
    ("machine room", BED, "fan"),
    ("machine", BED, "dryer clothesdryer hair-dryer airblower aircompressor"),
    ("machine", BED, "boat car chainsaw helicopter copier vacuum"),
)
ROLES = tuple((stem, kinds, role) for kinds, role, stems in _ROLES for stem in stems.split())
"""Start of a word in a file's or folder's name -> scene kinds, role. The first line that fits decides."""


@dataclass(frozen=True)
class Credit:
    """Where something comes from: path in its folder, licence, author."""

    path: str
    licence: str
    author: str


@dataclass(frozen=True)
class Shot:
    """A one-shot inside a clip: samples from the start of the clip; the onset is `attack` samples after `start`."""

    start: int
    stop: int
    attack: int


@dataclass(frozen=True)
class Clip:
    """A recording: its credit, what it is good for, and where it stands in the cache.

    Attributes:
        credit: path, licence and author.
        source: the source recording; clips of one source are never in two splits.
        kinds: scene kinds that it serves.
        role: `bed` or `event`.
        offset, n_samples: place in the cache.
        gain: factor from cached int16 to samples of RMS 1.
        shots: one-shots found in it; of a bed they tell how busy it is.
        spread_db: standard deviation of its level in frames of half a second.
    """

    credit: Credit
    source: str
    kinds: tuple[str, ...]
    role: str
    offset: int = 0
    n_samples: int = 0
    gain: float = 1.0
    shots: tuple[Shot, ...] = ()
    spread_db: float = 0.0

    @property
    def seconds(self) -> float:
        """The duration in seconds."""
        return self.n_samples / SAMPLE_RATE

    @property
    def is_still(self) -> bool:
        """Whether hardly anything happens in it: less than one one-shot in five seconds, an even level."""
        return len(self.shots) < self.seconds / 5 and self.spread_db < 3


@dataclass(frozen=True)
class Room:
    """A room response `[N]` that starts with its direct sound, of energy 1, with its measured RT60.

    `credit` is None for a simulated room.
    """

    name: str
    response: FloatArray
    rt60_seconds: float
    credit: Credit | None = None


def roles_of(path: str) -> tuple[tuple[str, ...], str] | None:
    """Scene kinds and role of a file by its path, or None if it is of no use.

    A folder named `bed` or `event` inside a folder named after a kind says it outright; otherwise the names
    are looked up in `ROLES`, the file's own name before its folder's.

    Example:
        >>> roles_of("berklee/walking_on_wood.mp3")
        (('steps', 'hall', 'street'), 'event')
        >>> roles_of("mine/hall/bed/foyer.wav")
        (('hall',), 'bed')
    """
    *folders, file = path.lower().split("/")
    if len(folders) > 1 and folders[-1] in (BED, EVENT):
        return (folders[-2],), folders[-1]
    names = [file.rpartition(".")[0], *reversed(folders)]
    for name in names:
        for stem, kinds, role in ROLES:
            if re.search(rf"(?:^|[_+\- ]){re.escape(stem)}", name):
                return tuple(kinds.split()), role
    return None


def source_of(path: str, author: str = "") -> str:
    """The source recording that a file belongs to.

    Names that differ in a trailing number (and letter) are one source. A name that is only numbers, as in
    ESC-10, says nothing; then the author's files in one folder are one source, because neighbouring numbers
    are often one session.

    Example:
        >>> source_of("berklee/fan_1a.mp3") == source_of("berklee/fan_2.mp3") == "berklee/fan"
        True
        >>> source_of("rain/1-17367-A.ogg", "someone")
        'rain/someone'
    """
    folder, _, file = path.rpartition("/")
    name = file.rpartition(".")[0].lower()
    prefix = f"{folder}/" if folder else ""
    if re.fullmatch(r"[\d\-_]+[a-z]?", name):
        return prefix + (author or name.rstrip("abcdefghijklmnopqrstuvwxyz-_"))
    bare = re.sub(r"(?:[_\-. !]*\d+[a-z]?)+$", "", name)
    return prefix + (bare or name)


def licensed(folder: Path, suffixes: Iterable[str]) -> tuple[list[Credit], list[str]]:
    """Files of a folder with their licences, in order of path, and the names of those that have none.

    A folder below that is a symbolic link is not searched, but what the index names in it is found.
    """
    credits = {_plain(name): credit for name, credit in read_licences(folder).items()}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    found |= {credit.path for credit in credits.values() if (folder / credit.path).is_file()}
    names = sorted(name for name in found if Path(name).suffix.lower() in suffixes)
    used = [dataclasses.replace(credits[_plain(n)], path=n) for n in names if _plain(n) in credits]
    return used, [name for name in names if _plain(name) not in credits]


def read_licences(folder: Path) -> dict[str, Credit]:
    """Credits by relative path, from `index.tsv`, or from a `*LICENSE*.md` whose headings are file names.

    Raises:
        DataError: if there is neither, or the table lacks the columns `path` and `licence`.
    """
    table = folder / "index.tsv"
    if not table.is_file():
        pages = sorted(folder.glob("*LICENSE*.md"))
        if not pages:
            raise DataError(
                f"{folder} holds no index.tsv; expected one with the columns path, licence, author."
            )
        return _licences_of_page(pages[0].read_text(encoding="utf-8"))
    with table.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        if not {"path", "licence"} <= set(rows.fieldnames or ()):
            raise DataError(f"{table} has the columns {rows.fieldnames}; expected at least path and licence.")
        return {
            row["path"]: Credit(row["path"], row["licence"], row.get("author") or row.get("composer") or "")
            for row in rows
            if row["path"] and row["licence"]
        }


def _licences_of_page(text: str) -> dict[str, Credit]:
    """Credits from a page in the manner of OpenAIR: `### file`, `By: author`, `under a <licence>`."""
    credits: dict[str, Credit] = {}
    for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        name = _plain(section.splitlines()[0].strip())
        author = re.search(r"^By: (.+)$", section, flags=re.MULTILINE)
        licence = re.search(r"under an? (.+?)(?: License)?\.\s", section)
        if licence:
            credits[name] = Credit(
                name, licence.group(1), re.sub(r"\[|\]\(.*?\)", "", author.group(1)) if author else ""
            )
    return credits


def _plain(name: str) -> str:
    """A name with typographic apostrophes made plain: pages and file systems disagree on them."""
    return name.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")


def held_out(groups: Iterable[Iterable[str]], share: float) -> set[str]:
    """Names set aside for validation: of every group about `share`, at least one (two from eight on), never all.

    The order is by hash, so that a new file does not move the others. A group of one name stays in training.
    """
    chosen: set[str] = set()
    if share <= 0:
        return chosen
    for group in groups:
        names = sorted(set(group), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        wanted = min(len(names) - 1, max(2 if len(names) >= 8 else 1, round(share * len(names))))
        have = len(chosen.intersection(names))
        # Names of earlier groups that would empty this one are rare and harmless: both splits are checked later.
        chosen.update([name for name in names if name not in chosen][: max(0, wanted - have)])
    return chosen


def cut_shots(samples: FloatArray) -> tuple[Shot, ...]:
    """Find events that stand out of a recording `[N]`, 50 to 600 ms each, the loudest `MAX_SHOTS`.

    The level of the high-passed signal in 5 ms frames is searched for rises of at least 8 dB within 30 ms that
    reach 10 dB above the recording's lower quartile. The onset is where the 1 ms envelope passes a quarter of
    the event's peak; an event ends 30 dB under its peak, at the next onset, or after 600 ms.
    """
    from scipy.ndimage import maximum_filter1d, uniform_filter1d
    from scipy.signal import butter, sosfilt

    high = sosfilt(butter(2, 80.0, "highpass", fs=SAMPLE_RATE, output="sos"), samples).astype(np.float32)
    hop = SAMPLE_RATE // 200
    level = 10 * np.log10(frame_powers(high, hop) + 1e-12)
    if level.size < 20:
        return ()
    rise = level - np.concatenate([np.full(6, level[:6].min()), level[:-6]])
    peaks = (rise == maximum_filter1d(rise, 25)) & (rise > 8) & (level > np.percentile(level, 25) + 10)
    frames = np.flatnonzero(peaks)
    envelope = uniform_filter1d(np.abs(high), max(1, SAMPLE_RATE // 1000))
    shots: list[tuple[float, Shot]] = []
    for i, frame in enumerate(frames):
        limit = min(int(frames[i + 1]) - 6 if i + 1 < frames.size else level.size, int(frame) + 120)
        window = level[frame:limit]
        if window.size < 6:
            continue
        peak = int(window[:12].argmax())
        # It ends where it has died away or where something else begins: 6 dB up within 15 ms.
        ended = window[peak:] < window[peak] - 30
        ended[10:] |= window[peak + 10 :] - window[peak + 7 : -3] > 6
        ends = np.flatnonzero(ended)
        stop = (int(frame) + peak + int(ends[0]) if ends.size else limit) * hop
        first = max(0, (int(frame) - 7) * hop)
        near = envelope[first : (int(frame) + peak + 1) * hop]
        onset = first + int(np.flatnonzero(near > 0.25 * near.max())[0])
        start = max(0, onset - SAMPLE_RATE // 200)
        stop = min(max(stop, start + SAMPLE_RATE // 20), samples.size)
        if stop - start >= SAMPLE_RATE // 25:
            shots.append((float(near.max()), Shot(start, stop, onset - start)))
    loudest = sorted(shots, key=lambda item: -item[0])[:MAX_SHOTS]
    return tuple(sorted((shot for _, shot in loudest), key=lambda shot: shot.start))


@dataclass(frozen=True)
class Library:
    """Clips and rooms, of one split or of all, with the decoded samples.

    Attributes:
        clips: in order of path.
        rooms: measured and simulated.
        refused: files left out because they have no licence entry.
        samples: `[N]` int16, all clips one after the other.
    """

    clips: tuple[Clip, ...]
    rooms: tuple[Room, ...]
    refused: tuple[str, ...] = ()
    samples: NDArray[np.int16] = field(default_factory=lambda: np.zeros(0, np.int16), repr=False)

    def find(self, kind: str, role: str) -> tuple[Clip, ...]:
        """Clips that serve a scene kind in a role; event clips only if a one-shot was found in them."""
        return tuple(c for c in self.clips if c.role == role and kind in c.kinds and (role == BED or c.shots))

    def audio(self, clip: Clip, start: int = 0, stop: int | None = None) -> FloatArray:
        """Samples `[N]` of a clip, scaled so that the whole clip has RMS 1."""
        stop = clip.n_samples if stop is None else stop
        piece = self.samples[clip.offset + start : clip.offset + stop]
        return piece.astype(np.float32) * np.float32(clip.gain)

    def shot(self, clip: Clip, shot: Shot) -> FloatArray:
        """A one-shot `[N]` with short fades, whose loudest 10 ms have RMS 1."""
        piece = self.audio(clip, shot.start, shot.stop)
        n_in = max(1, min(shot.attack, SAMPLE_RATE // 300))
        n_out = max(1, min(piece.size // 3, SAMPLE_RATE // 40))
        piece[:n_in] *= np.linspace(0, 1, n_in, dtype=np.float32)
        piece[-n_out:] *= np.linspace(1, 0, n_out, dtype=np.float32)
        frame = SAMPLE_RATE // 100
        frames = np.pad(piece, (0, -piece.size % frame)).reshape(-1, frame)
        return piece / np.float32(np.sqrt(np.square(frames).mean(axis=1).max()) + 1e-9)

    def pick_room(self, rng: np.random.Generator, shortest: float, longest: float) -> Room | None:
        """A room whose RT60 lies in the range: a measured one in two of five cases, if there is one."""
        rooms = [r for r in self.rooms if shortest <= r.rt60_seconds <= longest]
        measured, simulated = ([r for r in rooms if (r.credit is None) is s] for s in (False, True))
        pool = measured if measured and (not simulated or rng.random() < 0.4) else simulated
        return pool[int(rng.integers(len(pool)))] if pool else None

    def split(self, share: float) -> tuple[Library, Library]:
        """This library as (training, validation): sources and measured rooms are in one of the two only."""
        kinds = sorted({kind for clip in self.clips for kind in clip.kinds})
        groups = [[c.source for c in self.find(kind, role)] for kind in kinds for role in (BED, EVENT)]
        aside = held_out(groups, share)
        measured = [room.name for room in self.rooms if room.credit is not None]
        simulated = [room.name for room in self.rooms if room.credit is None]
        rooms_aside = held_out([measured, simulated], share)
        parts = [
            dataclasses.replace(
                self,
                clips=tuple(c for c in self.clips if (c.source in aside) is validation),
                rooms=tuple(r for r in self.rooms if (r.name in rooms_aside) is validation),
            )
            for validation in (False, True)
        ]
        return parts[0], parts[1]


def open_library(
    ambience: Path, rooms: Path | None, cache: Path, n_simulated: int = N_SIMULATED_ROOMS
) -> Library:
    """Read the library of a folder, from the cache if it was made from the same files.

    Args:
        ambience: folder of recordings with `index.tsv`.
        rooms: folder of measured responses with licences, or None for simulated rooms only.
        cache: folder for the decoded clips; made if missing.
        n_simulated: how many rooms are simulated, RT60 from 0.2 to 4 s.

    Raises:
        DataError: if a folder has no index or no usable recording.
    """
    credits, refused = licensed(ambience, READABLE_SUFFIXES)
    measured, refused_rooms = licensed(rooms, (".wav", ".flac")) if rooms else ([], [])
    files = {ambience / credit.path: credit for credit in credits}
    room_files = {rooms / credit.path: credit for credit in measured} if rooms else {}
    path = cache / f"library-{_fingerprint({**files, **room_files}, n_simulated)}"
    if not path.with_suffix(".json").exists():
        _save(path, *_decode(ambience, files), _measured_rooms(room_files) + _simulated_rooms(n_simulated))
    return _load(path, (*refused, *refused_rooms))


def _fingerprint(files: Mapping[Path, Credit], n_simulated: int) -> str:
    """A short hash of what the cache depends on: names, sizes, credits and versions."""
    digest = hashlib.sha256(f"{CACHE_VERSION} {n_simulated} {ROLES}".encode())
    for path, credit in files.items():
        digest.update(f"{credit} {path.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]


def _decode(folder: Path, files: Mapping[Path, Credit]) -> tuple[NDArray[np.int16], list[Clip]]:
    """All usable clips at 24 kHz mono as int16 of full range, with their one-shots."""
    blocks: list[NDArray[np.int16]] = []
    clips: list[Clip] = []
    offset = 0
    for path, credit in files.items():
        roles = roles_of(credit.path)
        if roles is None:
            continue
        try:
            samples = read(path).mono().resampled(SAMPLE_RATE).samples[0]
        except AudioError as error:
            raise DataError(f"{error} Remove it from the ambience folder or from its index.tsv.") from error
        samples = _without_fades(samples - samples.mean(dtype=np.float64).astype(np.float32))
        peak = float(np.abs(samples).max())
        rms = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
        if peak < 1e-4:
            continue
        kinds, role = roles
        blocks.append(np.round(samples * (32767 / peak)).astype(np.int16))
        shots = cut_shots(samples)
        source = source_of(credit.path, credit.author)
        gain, spread_db = peak / rms / 32767, _level_spread_db(samples)
        clips.append(Clip(credit, source, kinds, role, offset, samples.size, gain, shots, spread_db))
        offset += samples.size
    if not clips:
        raise DataError(f"{folder} holds no recording that a scene can use; expected names as in ROLES.")
    return np.concatenate(blocks), clips


def _level_spread_db(samples: FloatArray) -> float:
    """Standard deviation in dB of the level in frames of half a second."""
    power = frame_powers(samples, SAMPLE_RATE // 2)
    return round(float(np.std(10 * np.log10(power + 1e-12))), 3) if power.size else 0.0


def _without_fades(samples: FloatArray) -> FloatArray:
    """A recording without the fades and silence at its ends: what lies 12 dB under its median level there."""
    frame = SAMPLE_RATE // 10
    power = frame_powers(samples, frame)
    loud = np.flatnonzero(power > np.median(power) / 16)
    if loud.size * 2 < power.size:
        return samples
    return samples[loud[0] * frame : (loud[-1] + 1) * frame]


def _measured_rooms(files: Mapping[Path, Credit]) -> list[Room]:
    """Measured responses; of a B-format file the first channel, W, which hears all directions alike."""
    rooms = []
    for path, credit in files.items():
        waveform = read(path)
        if waveform.n_channels == 4:
            waveform = Waveform(waveform.samples[:1], waveform.sample_rate)
        response = prepared_response(waveform.mono().resampled(SAMPLE_RATE).samples[0])
        rooms.append(Room(credit.path, response, round(measured_rt60(response), 4), credit))
    return rooms


def _simulated_rooms(n_rooms: int) -> list[Room]:
    """The bank of simulated rooms, RT60 spread evenly on a logarithmic scale from 0.2 to 4 s."""
    rooms = []
    for index, rt60 in enumerate(np.geomspace(0.2, 4.0, n_rooms)):
        response = simulated_room(np.random.default_rng([2718, index]), float(rt60))
        rooms.append(Room(f"simulated-{index:02d}", response, round(measured_rt60(response), 4)))
    return rooms


def _save(path: Path, samples: NDArray[np.int16], clips: Sequence[Clip], rooms: Sequence[Room]) -> None:
    """Write the cache; the index comes last, so that a cache with an index is complete."""
    responses = np.concatenate([room.response for room in rooms])
    for suffix, array in ((".clips.npy", samples), (".rooms.npy", responses)):
        with atomic_path(path.with_suffix(suffix), force=True) as temporary:
            np.save(temporary, array)
    index = {
        "clips": [dataclasses.asdict(clip) for clip in clips],
        "rooms": [{**dataclasses.asdict(room), "response": room.response.size} for room in rooms],
    }
    write_text(path.with_suffix(".json"), json.dumps(index))


def _load(path: Path, refused: tuple[str, ...]) -> Library:
    """The library of a cache; the clips stay on disk and are mapped."""
    index = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    clips, rooms, start = [], [], 0
    for row in index["clips"]:
        shots = tuple(Shot(**shot) for shot in row["shots"])
        clips.append(
            Clip(**{**row, "credit": Credit(**row["credit"]), "kinds": tuple(row["kinds"]), "shots": shots})
        )
    responses = np.load(path.with_suffix(".rooms.npy"))
    for row in index["rooms"]:
        credit = Credit(**row["credit"]) if row["credit"] else None
        stop = start + row["response"]
        rooms.append(Room(row["name"], responses[start:stop], row["rt60_seconds"], credit))
        start = stop
    samples = np.load(path.with_suffix(".clips.npy"), mmap_mode="r")
    return Library(tuple(clips), tuple(rooms), refused, samples)
