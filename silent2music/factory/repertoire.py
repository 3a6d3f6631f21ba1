"""Scores to draw from: which there are, what each serves, and which split it belongs to.

A folder of scores has an `index.tsv` (columns `path`, `licence`, `composer`, `title`, `parts`); a `moods.tsv` beside
the scores (columns `path`, `mood`) makes those that it lists chord progressions with words for their mood.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from silent2music.arrays import DoubleArray
from silent2music.data.pairs import SPLITS
from silent2music.errors import DataError
from silent2music.factory.scores import SourceScore, load_score
from silent2music.factory.sources import Credit, held_out, licensed

LOADERS: dict[str, Callable[[Path], SourceScore]] = {".mid": load_score, ".midi": load_score}
"""How a score is read, by suffix."""

PIECE, PROGRESSION, DRUMMING = "piece", "progression", "drumming"
"""What a score is: music of one or more parts, a chord progression, or drums alone."""

MAX_SCORE_TRIES = 12

WRITTEN_SHARE = 0.8
"""How often a style that real scores are written for is given one of them."""

Made = TypeVar("Made")


@dataclass(frozen=True)
class Work:
    """A score that can be drawn.

    Attributes:
        file: where it is.
        credit: with its path in the folder of scores.
        title: as the index has it.
        parts: names of its parts, as the index has them.
        mood: words, of a chord progression.
    """

    file: Path
    credit: Credit
    title: str = ""
    parts: str = ""
    mood: str = ""

    @property
    def sort(self) -> str:
        """`PIECE`, `PROGRESSION` or `DRUMMING`."""
        if self.mood:
            return PROGRESSION
        return DRUMMING if re.fullmatch(r"(drum\w*( kit)?(, )?)+", self.parts, re.IGNORECASE) else PIECE

    @property
    def collection(self) -> str:
        """The sub-folder of the folder of scores that it is in."""
        return self.credit.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        """Composer and title in letters and figures: editions of one work, and its movements, share it.

        Example:
            >>> Work(Path(), Credit("a.mid", "CC0", "Fryderyk Chopin"), "Mazurka, op. 7 no. 1").name
            'chopinfryderyk mazurka'
            >>> Work(Path(), Credit("b.mid", "CC0", "Chopin, Fryderyk"), "Mazurka - Vivace").name
            'chopinfryderyk mazurka'
        """
        composer = "".join(sorted(_words(self.credit.author)))
        title = "".join(_words(re.split(r"[,;:\[(]| - | – ", self.title)[0]))
        return f"{composer} {title}" if title else self.credit.path


def _words(text: str) -> list[str]:
    """Lower-case words without accents."""
    plain = unicodedata.normalize("NFKD", text.casefold()).encode("ascii", "ignore").decode("ascii")
    return re.findall(r"[a-z0-9]+", plain)


@dataclass(frozen=True)
class Repertoire:
    """The works of one split.

    A piece is drawn by collection and then in it, where larger collections come up more often, though not by as much
    as they are larger.
    """

    works: tuple[Work, ...]
    _shelves: dict[tuple[str, str], tuple[list[Work], DoubleArray]] = field(
        default_factory=dict, compare=False
    )

    def __len__(self) -> int:
        return len(self.works)

    def has(self, sort: str) -> bool:
        """Whether there is a work of a sort."""
        return any(work.sort == sort for work in self.works)

    def draw(self, rng: np.random.Generator, sort: str = PIECE, written_for: str = "") -> Work:
        """A work of a sort, or of any sort but drums where there is none.

        Args:
            sort: `PIECE`, `PROGRESSION` or `DRUMMING`.
            written_for: a regular expression; works with a part of such a name are preferred, where there are any.
        """
        if written_for and rng.random() >= WRITTEN_SHARE:
            written_for = ""
        works, chances = self._shelf(sort, written_for)
        return works[int(np.searchsorted(chances, rng.random() * chances[-1], side="right"))]

    def _shelf(self, sort: str, written_for: str) -> tuple[list[Work], DoubleArray]:
        """Works to draw from, and their cumulated weights."""
        if (sort, written_for) not in self._shelves:
            works = [work for work in self.works if work.sort == sort]
            works = works or [work for work in self.works if work.sort != DRUMMING]
            named = re.compile(written_for, re.IGNORECASE)
            works = [work for work in works if named.search(work.parts)] or works
            sizes = Counter(work.collection for work in works)
            weights = np.cumsum([sizes[work.collection] ** -0.5 for work in works])
            self._shelves[sort, written_for] = (works, weights)
        return self._shelves[sort, written_for]


def usable_score(draw: Callable[[], Work], use: Callable[[SourceScore], Made]) -> tuple[Work, Made]:
    """A work that is drawn and what is made of its score; those that do not serve are passed over.

    Args:
        use: what to make; raises `DataError` of a score that does not serve.

    Raises:
        DataError: if none of `MAX_SCORE_TRIES` served.
    """
    reason: DataError | None = None
    for _ in range(MAX_SCORE_TRIES):
        work = draw()
        try:
            return work, use(LOADERS[work.file.suffix.lower()](work.file))
        except DataError as error:
            reason = error
    raise DataError(f"No score of {MAX_SCORE_TRIES} could be used; the last one said: {reason}")


def open_repertoire(folders: Sequence[Path], share: float) -> tuple[dict[str, Repertoire], list[str]]:
    """The scores of some folders by split, and the names of those that have no licence entry.

    Works of one name are in one split only; each collection and each sort has its share of both.

    Args:
        folders: of scores, each with its `index.tsv`.

    Raises:
        DataError: if there is no pitched score with a licence entry.
    """
    works: list[Work] = []
    refused: list[str] = []
    for folder in folders:
        credits, unlicensed = licensed(folder, LOADERS)
        refused += unlicensed
        works += _described(folder, credits)
    if all(work.sort == DRUMMING for work in works):
        raise DataError(
            f"{', '.join(map(str, folders))} holds no score ({', '.join(LOADERS)}) with a licence entry in its "
            "index.tsv; add one or set data.scores."
        )
    groups: dict[tuple[str, str], list[str]] = {}
    for work in works:
        groups.setdefault((work.collection, work.sort), []).append(work.name)
    aside = held_out(groups.values(), share)
    validation = [work.name in aside for work in works]
    chosen = {
        split: tuple(
            work for work, is_aside in zip(works, validation, strict=True) if is_aside is (split != "train")
        )
        for split in SPLITS
    }
    return {split: Repertoire(found) for split, found in chosen.items()}, refused


def _described(folder: Path, credits: Iterable[Credit]) -> list[Work]:
    """Works with what index and moods say of them."""
    moods: dict[Path, str] = {}
    for table in sorted(folder.rglob("moods.tsv")):
        for row in _rows(table):
            places = [place / (row.get("path") or "") for place in (folder, table.parent)]
            moods.update((place, row.get("mood") or "") for place in places if place.is_file())
    index = {row.get("path"): row for row in _rows(folder / "index.tsv")}
    works = []
    for credit in credits:
        row = index.get(credit.path, {})
        file = folder / credit.path
        works.append(Work(file, credit, row.get("title") or "", row.get("parts") or "", moods.get(file, "")))
    return works


def _rows(table: Path) -> list[Mapping[str, str]]:
    """The rows of a table with tabs, none where there is no such file."""
    if not table.is_file():
        return []
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))
