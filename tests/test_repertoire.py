"""The repertoire: what each score is, which are drawn, and that no work is in two splits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from library import write_scores

from silent2music.errors import DataError
from silent2music.factory.repertoire import (
    DRUMMING,
    MAX_SCORE_TRIES,
    PIECE,
    PROGRESSION,
    Repertoire,
    Work,
    open_repertoire,
    usable_score,
)
from silent2music.factory.scores import load_score
from silent2music.factory.sources import Credit


def work(path: str, author: str = "A. Composer", title: str = "", parts: str = "", mood: str = "") -> Work:
    return Work(Path(path), Credit(path, "CC0", author), title, parts, mood)


def write_index(folder: Path, rows: list[tuple[str, str, str, str]]) -> None:
    """`rows`: path, composer, title, parts."""
    lines = ["path\tcomposer\ttitle\tparts\tlicence", *("\t".join((*row, "CC0")) for row in rows)]
    (folder / "index.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_index_and_moods_tell_what_a_score_is(tmp_path: Path) -> None:
    scores = write_scores(tmp_path / "scores", 3)
    parts = ("Piano", "Drums", "Piano")
    write_index(scores, [(f"piece{i}.mid", "Tester", f"Piece {i}", parts[i]) for i in range(3)])
    (scores / "moods.tsv").write_text("path\tmood\npiece2.mid\tHopeful Calm\n", encoding="utf-8")
    train = open_repertoire([scores], 0.0)[0]["train"]
    assert [w.sort for w in train.works] == [PIECE, DRUMMING, PROGRESSION]
    assert [w.mood for w in train.works] == ["", "", "Hopeful Calm"]
    rng = np.random.default_rng(0)
    assert {train.draw(rng, sort).file.name for sort in (PIECE,) for _ in range(5)} == {"piece0.mid"}
    assert train.draw(rng, DRUMMING).file.name == "piece1.mid"
    assert train.draw(rng, PROGRESSION).mood == "Hopeful Calm"


def test_editions_and_movements_of_a_work_are_in_one_split(tmp_path: Path) -> None:
    scores = write_scores(tmp_path / "scores", 24)
    titles = [f"Work {i // 3}" + ("", ", Allegro", " - Finale")[i % 3] for i in range(24)]
    composers = ["Maria Szymanowska" if i % 2 else "Szymanowska, Maria" for i in range(24)]
    write_index(scores, [(f"piece{i}.mid", composers[i], titles[i], "Piano") for i in range(24)])
    splits, refused = open_repertoire([scores], 0.25)
    names = {split: {w.name for w in found.works} for split, found in splits.items()}
    assert not names["train"] & names["validation"]
    assert {split: len(found) for split, found in splits.items()} == {"train": 18, "validation": 6}
    assert refused == []


def test_small_collections_are_drawn_more_often_than_by_their_size() -> None:
    works = [work(f"large/{i}.mid") for i in range(400)] + [work(f"small/{i}.mid") for i in range(4)]
    repertoire, rng = Repertoire(tuple(works)), np.random.default_rng(0)
    drawn = Counter(repertoire.draw(rng).collection for _ in range(2000))
    assert drawn["small"] / 2000 == pytest.approx(1 / 11, abs=0.03)


def test_scores_that_are_written_for_a_style_are_preferred() -> None:
    works = [work(f"{i}.mid", parts="Guitar" if i < 10 else "Piano") for i in range(100)]
    repertoire, rng = Repertoire(tuple(works)), np.random.default_rng(0)
    drawn = Counter(repertoire.draw(rng, PIECE, "guitar").parts for _ in range(500))
    assert drawn["Guitar"] > 350
    assert drawn["Piano"] > 30
    assert repertoire.draw(rng, PIECE, "theremin").parts, "without one for it, any serves"
    assert repertoire.draw(rng, PROGRESSION).sort == PIECE


def test_drums_alone_are_no_repertoire(tmp_path: Path) -> None:
    scores = write_scores(tmp_path / "scores", 2)
    write_index(scores, [(f"piece{i}.mid", "Tester", "Beat", "Drums") for i in range(2)])
    with pytest.raises(DataError, match="holds no score"):
        open_repertoire([scores], 0.0)


def test_scores_that_do_not_serve_are_passed_over(tmp_path: Path) -> None:
    scores = write_scores(tmp_path / "scores", 1)
    good, tried = work(str(scores / "piece0.mid")), []

    def draw() -> Work:
        tried.append(None)
        return good if len(tried) == 3 else work(str(tmp_path / "gone.mid"))

    found, n_parts = usable_score(draw, lambda score: len(score.parts))
    assert (found, n_parts, len(tried)) == (good, len(load_score(good.file).parts), 3)
    with pytest.raises(DataError, match=f"No score of {MAX_SCORE_TRIES}"):
        usable_score(lambda: work(str(tmp_path / "gone.mid")), lambda score: score)
