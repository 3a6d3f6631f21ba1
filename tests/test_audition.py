"""The audition sheet plays and shows every piece, fetches nothing, and names what is near to a taught melody."""

from __future__ import annotations

import base64
import io
import re
import shutil

import numpy as np
import pytest
import soundfile
from conftest import steps_room
from rooms import RATE

from silent2music import audio
from silent2music.audio import Waveform
from silent2music.errors import AudioError, CheckpointError
from silent2music.evaluation.audition import Auditioned, write_audition
from silent2music.evaluation.originality import WINDOW, Melodies, nearest_melodies
from silent2music.score import Part, Score


def tune(seed: int, n: int = 40) -> Score:
    """A melody in even quarters at 120 bpm."""
    rng = np.random.default_rng(seed)
    starts = 0.5 * np.arange(n)
    part = Part("flute", 73, False, "melody", starts, starts + 0.45, rng.integers(60, 80, n), np.full(n, 80))
    return Score(0.5 * n, (part,), beat_seconds=starts, bar_seconds=starts[::4])


MELODIES = Melodies.of([(f"work {i}", tune(i)) for i in range(6)], [tune(i) for i in range(10, 20)])


def test_what_is_near_is_named(tmp_path) -> None:
    assert MELODIES.limit <= 3
    own = tune(4)
    theirs = own.parts[0]
    moved = Part(
        "cello",
        42,
        False,
        "melody",
        theirs.start_seconds,
        theirs.end_seconds,
        theirs.pitches - 7,
        theirs.velocities,
    )
    found = nearest_melodies([Score(20.0, (moved,), beat_seconds=own.beat_seconds), tune(50), None], MELODIES)
    assert found[0].name == "work 4" and 39 - 2 * WINDOW < found[0].n_notes <= 39
    assert found[1] == (0, "none") and found[2] is None
    assert [near.name for near in nearest_melodies([tune(i) for i in range(6)], MELODIES)] == list(
        MELODIES.names
    )
    path = tmp_path / "melodies.npz"
    MELODIES.write(path)
    again = Melodies.read(path)
    assert again.names == MELODIES.names and again.limit == MELODIES.limit
    assert all(np.array_equal(a, b) for a, b in zip(again.prints, MELODIES.prints, strict=True))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match=r"melodies\.npz holds no melodies"):
        Melodies.read(path)
    assert nearest_melodies([tune(1)], Melodies((), (), 0)) == [(0, "none")]


@pytest.fixture(scope="module")
def sheet(tmp_path_factory):
    """A sheet of three pieces, one near to a taught melody and one without score, whose names want escaping."""
    folder = tmp_path_factory.mktemp("sheet")
    pieces = []
    for name, score, hz in (
        ("a <b>.wav", tune(4, 30), 440.0),
        ("b.wav", tune(50, 8), 660.0),
        ("c.wav", None, 880.0),
    ):
        sound = 0.2 * np.sin(2 * np.pi * hz * np.arange(4 * 24_000) / 24_000)
        audio.write(folder / name, Waveform(sound[None].astype(np.float32), 24_000))
        record = {
            "input": {"file": "room & hall.wav"},
            "settings": {"seed": len(pieces)},
            "output": {"lufs": -18.0},
        }
        pieces.append(Auditioned(folder / name, record, score))
    near = write_audition(folder / "audition.html", pieces, MELODIES)
    assert near[0].name == "work 4" and near[0].n_notes > MELODIES.limit and near[2] is None
    return folder / "audition.html"


def test_the_page_holds_everything(sheet) -> None:
    page = sheet.read_text(encoding="utf-8")
    assert "<b>" not in page and "room &amp; hall.wav" in page
    assert not re.search(r"(?:src|href)=.(?!data:)|url\(|@import|https?:", page)
    sounds = re.findall(r"data:audio/mpeg;base64,([^\"]+)", page)
    assert len(sounds) == 3 == page.count("<svg") == page.count("<audio")
    for code, hz in zip(sounds, (440.0, 660.0, 880.0), strict=True):
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(code)))
        assert rate == 44_100 and len(samples) / rate == pytest.approx(4.0, abs=0.1)
        assert np.argmax(np.abs(np.fft.rfft(samples[:rate]))) == pytest.approx(hz, abs=1.0)
    assert page.count("<rect") == 16
    assert len(re.findall('class="near"', page)) == 1 and re.search(
        "near: [0-9]+ notes in a row of work 4", page
    )
    assert "not compared: there are no notes" in page
    with pytest.raises(AudioError, match="give --force"):
        write_audition(sheet, [])
    write_audition(sheet.with_name("empty.html"), [])


def until(page, is_so) -> None:
    """Wait for a page; its policy forbids playwright's own way, which evaluates text."""
    for _ in range(2000):
        if is_so():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it did not come to be")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed (Debian: chromium)")
def test_a_browser_plays_it_and_fetches_nothing(sheet) -> None:
    api = pytest.importorskip("playwright.sync_api")
    arguments = ["--autoplay-policy=no-user-gesture-required", "--no-sandbox"]
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        page = browser.new_page()
        page.set_default_timeout(180_000)  # a busy machine is slow, and not at fault
        asked, faults = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.goto(sheet.as_uri())
        players = page.locator("audio")
        assert players.count() == 3
        players.evaluate_all("all => all.forEach(player => { player.loop = true; })")
        for index in (0, 1):
            players.nth(index).evaluate("async player => { await player.play(); }")
            until(page, lambda index=index: players.nth(index).evaluate("player => player.currentTime") > 0.2)
        assert players.nth(0).evaluate("player => player.paused") and not players.nth(1).evaluate(
            "p => p.paused"
        )
        assert players.nth(0).evaluate("player => player.duration") == pytest.approx(4.0, abs=0.1)
        until(page, lambda: float(page.locator(".head").nth(1).get_attribute("x1")) > 20)
        for picture in page.locator("svg").all():
            box = picture.bounding_box()
            assert box["width"] > 300 and box["height"] > 40
            assert picture.get_attribute("role") == "img" and picture.get_attribute("aria-label")
        names = [page.locator("section").nth(i).get_attribute("aria-labelledby") for i in range(3)]
        assert all(page.locator(f"#{name}").count() == 1 for name in names)
        assert page.locator("html").get_attribute("lang") == "en" and page.locator("h1").count() == 1
        browser.close()
    assert not faults, faults
    assert all(url.startswith(("data:", sheet.as_uri())) for url in asked), asked


def test_the_command_writes_the_page(s2m, tmp_path, monkeypatch, sketched_folder) -> None:
    monkeypatch.chdir(tmp_path)
    audio.write(tmp_path / "room.wav", Waveform(steps_room(1.0), RATE))
    model = tmp_path / "model"
    shutil.copytree(sketched_folder, model)
    MELODIES.write(model / "composer" / "melodies.npz")
    command = (
        "infer",
        "room.wav",
        "-o",
        "idea.wav",
        "--count",
        2,
        "--audition",
        "audition.html",
        "--model",
        model,
    )
    code, said, wrong = s2m(*command)
    assert code == 0 and "audition.html: 2 pieces" in said, wrong
    page = (tmp_path / "audition.html").read_text(encoding="utf-8")
    assert page.count("<audio") == 2 and "idea.2.wav" in page and "works" in page
    assert s2m(*command)[0] == 1
    assert s2m(*command, "--force")[0] == 0
    (tmp_path / "other.html").write_text("mine", encoding="utf-8")
    for more, status, says in (
        (("--audition", "a.txt"), 2, "expected a file that ends in .html"),
        (("--audition", "other.html", "--force"), 1, "does not say that silent2music made it"),
        (("--audition", "a.html", "-o", "-"), 2, "give -o FILE or --out FOLDER"),
    ):
        code, _, wrong = s2m("infer", "room.wav", "--model", model, *more)
        assert code == status and says in wrong, wrong
