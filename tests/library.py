"""A tiny library for tests of the pair factory: synthesised recordings, rooms and scores with their indices."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from silent2music.audio import Waveform, write

RATE = 24_000

BEDS = ("ambiance_1", "radiator_1", "city", "crowd", "rain_1", "storm", "wind", "fan_1", "vacuum")
EVENTS = ("walking_1", "footsteps", "clock-tick_1", "key_1", "door_1", "old_door_1")


def noise_bed(rng: np.random.Generator, seconds: float, cutoff: float) -> np.ndarray:
    """Steady low-passed noise, `[N]`."""
    noise = rng.standard_normal(round(seconds * RATE))
    spectrum = np.fft.rfft(noise)
    spectrum /= 1 + np.fft.rfftfreq(noise.size, 1 / RATE) / cutoff
    bed = np.fft.irfft(spectrum, noise.size)
    return 0.1 * bed / bed.std()


def clicks(rng: np.random.Generator, seconds: float, onsets: np.ndarray) -> np.ndarray:
    """Decaying noise bursts at `onsets` in seconds over a low floor, `[N]`."""
    time = np.arange(round(seconds * RATE)) / RATE
    out = 1e-4 * rng.standard_normal(time.size)
    for onset in onsets:
        after = np.maximum(time - onset, 0)
        out += 0.3 * (time >= onset) * np.exp(-after / 0.02) * rng.standard_normal(time.size)
    return np.clip(out, -1, 1)


def write_ambience(folder: Path) -> Path:
    """A folder of short beds and events, all with a licence but one (`unlicensed.wav`)."""
    folder.mkdir(parents=True)
    rows = ["path\tlicence\tauthor"]
    for index, name in enumerate((*BEDS, *EVENTS)):
        rng = np.random.default_rng(index)
        if name in BEDS:
            samples = noise_bed(rng, 4.0, 300 * (index + 1))
        else:
            samples = clicks(rng, 4.0, np.array([0.5, 1.25, 2.0, 2.75, 3.5]))
        write(folder / f"{name}.wav", Waveform(samples[None].astype(np.float32), RATE))
        rows.append(f"{name}.wav\tCC0\tTester")
    write(folder / "rain_unlicensed.wav", Waveform(np.full((1, RATE), 0.1, np.float32), RATE))
    (folder / "index.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def response(rt60_seconds: float, seed: int = 0) -> np.ndarray:
    """A room response `[N]`: a direct sound and exponentially decaying noise of a known RT60."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(1.2 * rt60_seconds * RATE)) / RATE
    out = 0.1 * rng.standard_normal(time.size) * 10 ** (-3 * time / rt60_seconds)
    out[0] = 0.9
    return out


def write_rooms(folder: Path) -> Path:
    """Two measured rooms with a licence."""
    folder.mkdir(parents=True)
    rows = ["path\tlicence\tauthor"]
    for name, rt60 in (("closet", 0.5), ("church", 2.0)):
        write(folder / f"{name}.wav", Waveform(response(rt60)[None].astype(np.float32), RATE))
        rows.append(f"{name}.wav\tCC-BY-4.0\tTester")
    (folder / "index.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def write_scores(folder: Path, count: int = 4) -> Path:
    """A few MIDI files of 48 bars in C major: a melody in crotchets over minims in the bass."""
    folder.mkdir(parents=True)
    rows = ["path\tcomposer\ttitle\tparts\tlicence"]
    for index in range(count):
        (folder / f"piece{index}.mid").write_bytes(_midi(np.random.default_rng(index), 48))
        rows.append(f"piece{index}.mid\tTester\tPiece {index}\tPianoforte\tCC0")
    (folder / "index.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def _midi(rng: np.random.Generator, n_bars: int) -> bytes:
    """A type 0 file, 480 ticks to the beat, 4/4 at 96 bpm."""
    scale = np.array([60, 62, 64, 65, 67, 69, 71, 72])
    events: list[tuple[int, bytes]] = []
    degree = 0
    for beat in range(4 * n_bars):
        degree = int(np.clip(degree + rng.integers(-2, 3), 0, 7)) if beat % 4 else int(rng.choice((0, 2, 4)))
        notes = [(int(scale[degree]), 470, 80)]
        if beat % 2 == 0:
            notes.append((int(scale[degree % 7]) - 24, 940, 64))
        for pitch, ticks, velocity in notes:
            events.append((480 * beat, bytes((0x90, pitch, velocity))))
            events.append((480 * beat + ticks, bytes((0x80, pitch, 0))))
    # 500,000 microseconds to a beat at 120 bpm; 625,000 at 96.
    body = (
        b"\x00\xff\x51\x03" + (625_000).to_bytes(3, "big") + b"\x00\xff\x58\x04\x04\x02\x18\x08\x00\xc0\x00"
    )
    before = 0
    for tick, message in sorted(events):
        body += _variable_length(tick - before) + message
        before = tick
    body += b"\x00\xff\x2f\x00"
    header = b"MThd" + (6).to_bytes(4, "big") + b"\x00\x00\x00\x01" + (480).to_bytes(2, "big")
    return header + b"MTrk" + len(body).to_bytes(4, "big") + body


def _variable_length(value: int) -> bytes:
    out = [value & 0x7F]
    while value := value >> 7:
        out.append(0x80 | (value & 0x7F))
    return bytes(reversed(out))
