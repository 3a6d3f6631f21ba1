"""What a composer learned from, as a small file by which audition sheets name a piece that is near to it.

    python recipes/composer/melodies.py SHARDS run/model/composer/melodies.npz

Reads the scores of prepared pairs, those held out too: they say how much real scores have in common.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from silent2music.data.shards import PairDataset
from silent2music.errors import DataError
from silent2music.evaluation.originality import Melodies
from silent2music.score import Score


def scores_of(folder: Path, split: str) -> list[tuple[str, Score]]:
    """The scores of a split, each by the name of its work or pair; one that cannot be read is said and left out."""
    works = {}
    for path in sorted((folder / "labels").glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            works[entry["id"]] = entry["labels"].get("score")
    dataset, found = PairDataset(folder, split, controls=(), needs=("score",)), []
    for index, name in enumerate(dataset.ids):
        try:
            found.append((str(works.get(name) or name), dataset.score(index)))
        except DataError as error:
            print(error)
    return found


def write_melodies(shards: Path, out: Path) -> Melodies:
    """Write the file for the training scores of prepared pairs; gives what it holds."""
    held_out = [score for _, score in scores_of(shards, "validation")]
    melodies = Melodies.of(scores_of(shards, "train"), held_out)
    melodies.write(out)
    return melodies


def main() -> None:
    """Write the file and say what it holds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    melodies = write_melodies(given.shards, given.out)
    print(
        f"{given.out}: {len(melodies.names)} works, {given.out.stat().st_size} bytes; "
        f"real scores share up to {melodies.limit} notes"
    )


if __name__ == "__main__":
    main()
