"""One room, eight ways: the music that a model makes for a recording as it is and under seven wishes, on one page.

    python recipes/composer/eight_ways.py ROOM.wav --out eight [--model run/model] [--seed 0]

Writes eight pieces with their scores and records, and README.md, which says of each what was asked and what came of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from silent2music.audio import open_recording
from silent2music.controls import Controls
from silent2music.errors import ConfigError
from silent2music.evaluation.controls import key_of
from silent2music.export.batch import Job
from silent2music.export.infer import infer, plan
from silent2music.export.models import LazyModel, Request
from silent2music.score import Score, read_midi

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


def make_page(room: Path, out: Path, folder: Path | None = None, seed: int = 0) -> Path:
    """Make all pieces and the page; what is there already is replaced.

    Raises:
        ConfigError: if the model composes nothing that could be asked for.
    """
    model = LazyModel(folder)
    if not model.composes:
        raise ConfigError(f"{model.folder} composes no score; expected a model with composer and sketch.")
    out.mkdir(parents=True, exist_ok=True)
    recorded = open_recording(room)
    rows = ["| way | asked | notes | instruments | key heard in them |", "|---|---|---:|---|---|"]
    for name, wishes in WAYS.items():
        (job,) = plan([room], seed, out / f"{name.replace(' ', '-')}.ogg")
        asked = Controls.of(wishes) if wishes else None
        record = infer(job, recorded, model, Request(asked=asked), force=True)
        rows.append(_row(name, wishes, job, read_midi(out / record["score"]["file"])))
    page = out / "README.md"
    head = f"# One room, eight ways\n\nMusic for {room.name} by the model {model.config.name}, seed {seed}: "
    lines = "the first as the room has it, the others under one wish or a few.\n\n" + "\n".join(rows) + "\n"
    page.write_text(head + lines, encoding="utf-8")
    return page


def _row(name: str, wishes: dict[str, Any], job: Job, score: Score) -> str:
    asked = ", ".join(f"`{key} = {value!r}`".replace("'", '"') for key, value in wishes.items()) or "nothing"
    players = ", ".join(sorted({part.name for part in score.parts}))
    return f"| [{name}]({job.out.name}) | {asked} | {score.n_notes} | {players} | {key_of(score)} |"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("room", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(make_page(given.room, given.out, given.model, given.seed))


if __name__ == "__main__":
    main()
