"""Five folders of the kinds that `s2m tune` takes, made of licence-clean scores and recordings: a test of tuning.

    python recipes/tune/folders.py guitar-harp --scores scores --out guitar-harp

| folder | kind | style |
|---|---|---|
| `guitar-harp` | MIDI alone | solo guitar and harp |
| `recordings` | music alone | real recordings of single instruments, joined to pieces |
| `koto` | pairs by hand | plucked strings of Japan, each beside a room of its own |
| `trumpets` | performances | trumpets and horns, with room tone before them |
| `rooms` | rooms alone | near-silent recordings; tune with `--set data.scores=FOLDER` |
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from silent2music import audio
from silent2music.audio import Waveform, db_to_gain, rms_dbfs
from silent2music.errors import S2MError
from silent2music.factory.chain import coloured_noise
from silent2music.factory.own_folder import onsets_of
from silent2music.factory.rendering import render
from silent2music.score import Score, read_midi, write_midi

RATE = 24_000
NYLON_GUITAR, HARP = 24, 46


def chosen(scores: Path, pattern: str, most: int) -> list[tuple[str, Score]]:
    """Scores whose parts all have names that a regular expression fits, with their first minute."""
    found = []
    with (scores / "index.tsv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["path"].startswith("mutopia/")]
    for row in rows:
        if row["parts"] and all(re.match(pattern, part.strip()) for part in row["parts"].split(",")):
            try:
                score = read_midi(scores / row["path"])
            except S2MError:
                continue
            if score.seconds > 15 and score.n_notes > 40:
                found.append((Path(row["path"]).stem, score.slice(0.0, min(60.0, score.seconds))))
    return found[:most]


def as_program(score: Score, program: int) -> Score:
    """The same notes on one instrument."""
    parts = tuple(
        replace(part, program=program, name="harp" if program == HARP else "guitar") for part in score.parts
    )
    return replace(score, parts=parts)


def tone(rng: np.random.Generator, seconds: float, dbfs: float, knocks: np.ndarray) -> np.ndarray:
    """Room tone `[N]` at a level, with a knock at each of some moments in seconds."""
    samples = coloured_noise(rng, round(seconds * RATE), float(rng.uniform(0.5, 1.6)))
    time = np.arange(RATE // 4) / RATE
    for at in knocks:
        first = round(at * RATE)
        burst = 12.0 * rng.standard_normal(time.size) * np.exp(-time / 0.02)
        samples[first : first + time.size] += burst[: max(0, samples.size - first)].astype(np.float32)
    return samples * np.float32(db_to_gain(dbfs) / np.sqrt(np.mean(np.square(samples))))


def guitar_harp(options: argparse.Namespace) -> None:
    """MIDI files of solo guitar, every other one given to the harp."""
    for index, (name, score) in enumerate(chosen(options.scores, r"Nylon Guitar", options.pieces or 60)):
        write_midi(options.out / f"{name}.mid", as_program(score, (NYLON_GUITAR, HARP)[index % 2]))


def recordings(options: argparse.Namespace) -> None:
    """Each recording of single notes or phrases joined to pieces of half a minute, as it is and at other speeds."""
    files = sorted(options.music.glob("*.wav"))
    for number, file in enumerate(files):
        rng, sound = np.random.default_rng(number), audio.read(file, mono=True)
        pieces = []
        while sum(len(piece) for piece in pieces) < 30 * RATE:
            # Faster or slower by semitones of a pentatonic scale, as a sampler plays.
            step = float(2.0 ** (rng.choice((-7, -5, -3, 0, 0, 2, 4)) / 12))
            faster = Waveform(sound.samples, round(sound.sample_rate * step)).resampled(RATE).samples[0]
            pieces.append(faster[: round(rng.uniform(0.5, 3.0) * RATE)])
        joined = np.concatenate(pieces)[: 30 * RATE]
        audio.write(options.out / f"{file.stem}.wav", Waveform(joined[None], RATE))


def koto(options: argparse.Namespace) -> None:
    """Rooms with knocks on notes of the music, beside koto and shamisen."""
    for index, (name, score) in enumerate(chosen(options.scores, r"(Koto|Shamisen)", options.pieces or 24)):
        rng, music = np.random.default_rng(index), render(score, options.soundfont)
        times, _ = onsets_of(music)
        knocks = times[np.flatnonzero(np.diff(times, prepend=-1.0) > 0.4)]
        room = tone(rng, music.seconds, float(rng.uniform(-66, -48)), knocks[knocks < music.seconds - 0.3])
        audio.write(options.out / f"{name}.room.wav", Waveform(room[None], RATE))
        audio.write(options.out / f"{name}.music.wav", music)


def trumpets(options: argparse.Namespace) -> None:
    """Some seconds of room tone, then the music in the same room."""
    for index, (name, score) in enumerate(chosen(options.scores, r"(Trumpet|Horn)", options.pieces or 30)):
        rng, music = np.random.default_rng(index), render(score, options.soundfont).mono()
        before = float(rng.uniform(3.0, 5.0))
        room = tone(rng, before + music.seconds, float(rng.uniform(-64, -52)), np.zeros(0))
        whole = room + np.concatenate([np.zeros(room.size - music.n_samples, np.float32), music.samples[0]])
        audio.write(options.out / f"{name}.wav", Waveform(whole[None], RATE))


def rooms(options: argparse.Namespace) -> None:
    """Long recordings of places, turned down to near-silence."""
    for index, file in enumerate(sorted(options.ambience.glob("*.ogg"))):
        sound = audio.read(file, mono=True).resampled(RATE)
        target = float(np.random.default_rng(index).uniform(-66, -48))
        gain = np.float32(db_to_gain(target - rms_dbfs(sound.samples)))
        audio.write(options.out / f"{file.stem}.wav", Waveform(sound.samples[:, : 60 * RATE] * gain, RATE))


FOLDERS: dict[str, Callable[[argparse.Namespace], None]] = {
    "guitar-harp": guitar_harp,
    "recordings": recordings,
    "koto": koto,
    "trumpets": trumpets,
    "rooms": rooms,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", choices=FOLDERS)
    parser.add_argument("--scores", type=Path, help="folder of scores with index.tsv and mutopia/")
    parser.add_argument("--music", type=Path, help="folder of recordings of single instruments")
    parser.add_argument("--ambience", type=Path, help="folder of recordings of places")
    parser.add_argument("--pieces", type=int, help="at most so many of scores")
    parser.add_argument("--soundfont", type=Path, default=Path("/usr/share/sounds/sf2/FluidR3_GM.sf2"))
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    FOLDERS[given.folder](given)
