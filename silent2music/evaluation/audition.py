"""An audition sheet: one page with a player and a picture for each of several pieces, which opens from a file.

All is inside the page, sound as MP3 and pictures as SVG, and its policy forbids it to fetch anything.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from silent2music import audio
from silent2music.evaluation.originality import Melodies, NearMelody, nearest_melodies
from silent2music.export import provenance
from silent2music.files import atomic_path
from silent2music.score import Score

MOST_SECONDS = 300.0
"""Of a longer piece the page has the beginning."""

PAGE_RATE, OGG_RATE = 44_100, 24_000

ROOM_LUFS = -20.0

MEDIA_TYPES = {".mp3": "audio/mpeg", ".ogg": "audio/ogg"}

WIDTH, HEIGHT = 1000, 180
"""Of a picture, in its own units."""

COLOURS = {
    "melody": "#d1495b",
    "harmony": "#30638e",
    "bass": "#1b998b",
    "percussion": "#8d6a9f",
    "": "#66717e",
}
"""Of notes, by the role of their part; each can be told from the page in light and in dark."""

QUIETEST_DBFS = -60.0

POLICY = "default-src 'none'; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""Nothing is fetched from anywhere."""

STYLE = """
:root { color-scheme: light dark; --line: #8888; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 1rem; }
section { border-top: 1px solid var(--line); padding: 1rem 0; }
h2 { margin: 0 0 .5rem; overflow-wrap: anywhere; }
audio { width: 100%; }
svg { width: 100%; height: auto; display: block; border: 1px solid var(--line); margin: .5rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; margin: 0; }
dt { opacity: .75; } dd { margin: 0; overflow-wrap: anywhere; }
.near { font-weight: bold; }
"""

KEY_STYLE = ".key { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 .8em; }"
"""Of `legend`."""

SCRIPT = """
const players = [...document.querySelectorAll('audio')];
for (const player of players) {
  const head = player.closest('section').querySelector('.head');
  const total = Number(player.dataset.seconds);
  const move = () => {
    for (const end of ['x1', 'x2']) head.setAttribute(end, 1000 * player.currentTime / total);
  };
  const follow = () => { move(); if (!player.paused) requestAnimationFrame(follow); };
  player.addEventListener('play', () => {
    for (const other of players) if (other !== player) other.pause();
    follow();
  });
  player.addEventListener('seeked', move);
}
"""


@dataclass(frozen=True)
class Auditioned:
    """A piece on the sheet.

    Attributes:
        path: of the music.
        record: how it was made.
        score: its notes, or None.
    """

    path: Path
    record: Mapping[str, Any]
    score: Score | None


def write_audition(
    path: Path,
    pieces: Sequence[Auditioned],
    melodies: Melodies | None = None,
    force: bool = False,
    room: audio.Waveform | None = None,
    suffix: str = ".mp3",
) -> list[NearMelody | None]:
    """Write the sheet of several pieces.

    Args:
        melodies: of the scores that the model was trained on, if they are known.
        room: what the pieces are for, which the page then plays first, as loud as them.
        suffix: in `MEDIA_TYPES`, of the sound in the page; `.ogg` is mono and a third as large.

    Returns:
        For each piece what is nearest to it among the melodies, None where there is nothing to compare.

    Raises:
        AudioError: if the place is taken, or music cannot be read.
    """
    provenance.check_replaceable(path, force, [piece.path for piece in pieces])
    scores = [piece.score for piece in pieces]
    near: list[NearMelody | None] = (
        [None] * len(pieces) if melodies is None else nearest_melodies(scores, melodies)
    )
    sections = [
        _piece(number, piece, found, melodies, suffix)
        for number, (piece, found) in enumerate(zip(pieces, near, strict=True), 1)
    ]
    name = pieces[0].record["input"]["file"] if pieces else ""
    if room is not None:
        turned_up = audio.normalised(room.mono(), ROOM_LUFS, -1.0)
        facts = {"level": f"{audio.rms_dbfs(room.samples):.0f} dBFS, turned up here"}
        sections.insert(0, _section(0, "The room", turned_up, _level(turned_up), facts, suffix))
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="{escape(provenance.SOFTWARE)}">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>Audition of {escape(name)}</title>
<style>{STYLE}{KEY_STYLE}</style>
</head>
<body>
<main>
<h1>{len(pieces)} {"piece" if len(pieces) == 1 else "pieces"} for {escape(name)}</h1>
<p>{legend()}</p>
{"".join(sections)}
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""
    with atomic_path(path, force=force) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return near


def legend() -> str:
    """Which colour is which role."""
    return "".join(
        f'<span class="key" style="background:{colour}"></span>{role or "other parts"}'
        for role, colour in COLOURS.items()
    )


def _piece(
    number: int, piece: Auditioned, near: NearMelody | None, melodies: Melodies | None, suffix: str
) -> str:
    """One piece: its name, player, picture and figures."""
    sound = audio.read(piece.path)
    seconds = min(sound.seconds, MOST_SECONDS)
    part = audio.Waveform(sound.slice(0, round(seconds * sound.sample_rate)), sound.sample_rate)
    name, settings = escape(piece.path.name), piece.record["settings"]
    facts = {
        "file": name,
        "seed": str(settings["seed"]),
        "asked": escape(", ".join(f"{k} = {json.dumps(v)}" for k, v in settings.get("controls", {}).items())),
        "length": f"{sound.seconds:.2f} s"
        + (f", the first {seconds:.0f} s here" if sound.seconds > seconds else ""),
        "loudness": _loudness(piece.record),
        "notes": _notes(piece.score),
        "nearest taught melody": _nearness(piece.score, near, melodies),
    }
    picture = _level(part) if piece.score is None else roll(piece.score, seconds)
    return _section(number, f"{number}. {name}", part, picture, facts, suffix)


def _section(
    number: int, title: str, sound: audio.Waveform, picture: str, facts: Mapping[str, str], suffix: str
) -> str:
    rows = "".join(f"<dt>{fact}</dt><dd>{text}</dd>" for fact, text in facts.items() if text)
    heard = sound.resampled(PAGE_RATE) if suffix == ".mp3" else sound.mono().resampled(OGG_RATE)
    return f"""<section aria-labelledby="piece{number}">
<h2 id="piece{number}">{title}</h2>
<audio controls preload="metadata" aria-label="Play {title}" data-seconds="{sound.seconds:.3f}"
src="{data_url(heard, suffix)}"></audio>
{picture}
<dl>{rows}</dl>
</section>
"""


def data_url(sound: audio.Waveform, suffix: str) -> str:
    """A sound as a file of a suffix in `MEDIA_TYPES`, inside a page's address."""
    with tempfile.TemporaryDirectory(prefix="s2m-") as folder:
        path = Path(folder) / f"sound{suffix}"
        audio.write(path, sound)
        return f"data:{MEDIA_TYPES[suffix]};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _loudness(record: Mapping[str, Any]) -> str:
    lufs = record["output"]["lufs"]
    return "below -70 LUFS" if lufs is None else f"{lufs:.1f} LUFS"


def _notes(score: Score | None) -> str:
    if score is None:
        return "none: the music comes from the room alone, not from a score"
    return f"{score.n_notes} of {escape(', '.join(part.name for part in score.parts)) or 'no instrument'}"


def _nearness(score: Score | None, near: NearMelody | None, melodies: Melodies | None) -> str:
    """How much of a melody that was taught is in the piece, in words."""
    if score is None:
        return "not compared: there are no notes"
    if melodies is None or near is None:
        return "not compared: the model's folder names no scores that it learned from (composer/melodies.npz)"
    ruler = f"real scores share up to {melodies.limit} notes in a row"
    if near.n_notes <= melodies.limit:
        return f"none of {len(melodies.names)} works: {ruler}"
    return f'<span class="near">near: {near.n_notes} notes in a row of {escape(near.name)}; {ruler}</span>'


def _svg(title: str, description: str, inside: str) -> str:
    label = f'role="img" aria-label="{escape(title)}. {escape(description)}"'
    head = f'<line class="head" x1="0" x2="0" y1="0" y2="{HEIGHT}" stroke="currentColor" stroke-width="2"/>'
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" {label}><title>{escape(title)}</title>{inside}{head}</svg>'


def roll(score: Score, seconds: float) -> str:
    """The piano roll of a score."""
    pitches = np.concatenate([np.array([60]), *(part.pitches for part in score.parts)])
    low, high = int(pitches.min()) - 1, int(pitches.max()) + 1
    step, scale = HEIGHT / (high - low + 1), WIDTH / seconds
    bars = "".join(
        f'<line x1="{t * scale:.1f}" x2="{t * scale:.1f}" y1="0" y2="{HEIGHT}" stroke="#8886"/>'
        for t in score.bar_seconds.tolist()
        if t < seconds
    )
    notes = []
    for part in score.parts:
        columns = (part.start_seconds, part.end_seconds, part.pitches, part.velocities)
        for start, end, pitch, velocity in zip(*(column.tolist() for column in columns), strict=True):
            if start < seconds:
                x, width = start * scale, max((min(end, seconds) - start) * scale, 1.0)
                notes.append(
                    f'<rect x="{x:.1f}" y="{(high - pitch) * step:.1f}" width="{width:.1f}" height="{max(step, 1.5):.1f}"'
                    f' fill="{COLOURS[part.role]}" opacity="{0.4 + 0.6 * velocity / 127:.2f}"/>'
                )
    parts = ", ".join(f"{part.name}{f' ({part.role})' if part.role else ''}" for part in score.parts)
    return _svg(
        "Piano roll",
        f"{score.n_notes} notes of {parts or 'no instrument'} in {seconds:.1f} s",
        bars + "".join(notes),
    )


def _level(sound: audio.Waveform) -> str:
    """The level of a sound over time."""
    levels = audio.level_curve_dbfs(sound.samples, max(1, sound.n_samples // 500))
    y = HEIGHT * np.clip(levels / QUIETEST_DBFS, 0.0, 1.0)
    x = (np.arange(len(y)) + 0.5) * WIDTH / len(y)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True))
    shape = f'<polygon points="0,{HEIGHT} {points} {WIDTH},{HEIGHT}" fill="{COLOURS["harmony"]}"/>'
    return _svg(
        "Level", f"from {levels.min():.0f} to {levels.max():.0f} dBFS in {sound.seconds:.1f} s", shape
    )
