"""One room, eight ways: the music that a model makes for a recording as it is and under seven wishes, on one page.

    python recipes/composer/eight_ways.py ROOM.wav --out eight.html [--seconds 10] [--model run/model] [--seed 0]

The page holds all sound and pictures. What was asked of each piece, and what came of it, is printed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from silent2music.audio import Waveform, open_recording
from silent2music.config import COMPOSER_FOLDER, DeliveryConfig
from silent2music.controls import Controls
from silent2music.errors import ConfigError
from silent2music.evaluation.audition import Auditioned, write_audition
from silent2music.evaluation.controls import RATE, key_of
from silent2music.evaluation.originality import Melodies
from silent2music.export.infer import infer, plan
from silent2music.export.models import LazyModel, Request
from silent2music.score import Score, read_midi
from silent2music.traits import mood

WAYS: dict[str, dict[str, Any]] = {
    "as the room has it": {},
    "on a grid": {"tempo": 96.0},
    "in another key": {"key": "F# minor"},
    "sad and still": {"mood": [-0.6, -0.6]},
    "glad and lively": {"mood": [0.6, 0.6]},
    "by two players": {"instruments": "piano, cello"},
    "over four chords": {"chords": "Am F C G"},
    "towards a close": {"ending": "final", "key": "C major", "density": 0.3},
}
"""By name what is asked for."""


def make_page(
    room: Path, page: Path, folder: Path | None = None, seconds: float | None = None, seed: int = 0
) -> str:
    """Make all pieces and the page, in place of one that is there; what came of each is given back as a table.

    Raises:
        ConfigError: if the model composes nothing that could be asked for.
    """
    model = LazyModel(folder)
    if not model.composes:
        raise ConfigError(f"{model.folder} composes no score; expected a model with composer and sketch.")
    recorded = open_recording(room)
    rows = [
        "| way | asked | notes | key | valence | arousal | LUFS | instruments |",
        "|---|---|---|---|---|---|---|---|",
    ]
    pieces = []
    with tempfile.TemporaryDirectory(prefix="s2m-") as temporary:
        for name, wishes in WAYS.items():
            (job,) = plan([room], seed, Path(temporary) / f"{name}.wav")
            asked = Controls.of(wishes) if wishes else None
            request = Request(seconds=seconds, asked=asked, delivery=DeliveryConfig(24_000, mono=True))
            record = infer(job, recorded, model, request, force=True)
            score = read_midi(job.out.with_name(record["score"]["file"]))
            pieces.append(Auditioned(job.out, record, score))
            rows.append(_row(name, wishes, record, score))
        melodies = model.folder / COMPOSER_FOLDER / "melodies.npz"
        known = Melodies.read(melodies) if melodies.exists() else None
        begun = recorded.slice(0, round((seconds or recorded.seconds) * recorded.sample_rate))
        heard = Waveform(begun, recorded.sample_rate)
        write_audition(page, pieces, known, force=True, room=heard, suffix=".ogg")
    return "\n".join(rows)


def _row(name: str, wishes: dict[str, Any], record: dict[str, Any], score: Score) -> str:
    asked = ", ".join(f"{key} = {value}" for key, value in wishes.items()) or "nothing"
    found = mood(score, round(score.seconds * RATE), RATE)
    felt = ["", ""] if found is None else [f"{value:.2f}" for value in found.mean(axis=0)]
    players = ", ".join(sorted({part.name for part in score.parts}))
    cells = [
        name,
        asked,
        str(score.n_notes),
        key_of(score),
        *felt,
        f"{record['output']['lufs']:.1f}",
        players,
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("room", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(make_page(given.room, given.out, given.model, given.seconds, given.seed))


if __name__ == "__main__":
    main()
