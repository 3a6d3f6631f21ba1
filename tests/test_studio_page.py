"""The studio's real page in Debian's Chromium: what it shows is what the command line makes, and nothing goes out.

One browser and one server for all: the tests use what those before them made.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hostile
import pytest
from test_studio import room_bytes

from silent2music import cli
from silent2music.cli import main
from silent2music.score import read_midi

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WAIT = 300_000  # milliseconds until something that must come is given up; nothing asserts a time

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)"),
]


@dataclass
class Window:
    """A browser with its faults noted, on a server in this process."""

    desk: Any
    address: str
    context: Any
    said: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def tab(self, width: int = 1280) -> Any:
        page = self.context.new_page()
        page.set_default_timeout(WAIT)
        page.set_viewport_size({"width": width, "height": 900})
        page.on("console", lambda m: self.said.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.goto(self.address)
        page.wait_for_function("window.studio && window.studio.token")
        return page


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory, sketched_folder: Path) -> Iterator[Window]:
    pytest.importorskip("gradio", reason="gradio is not installed (extra studio)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
    import typer
    import uvicorn

    from silent2music.studio import server
    from silent2music.studio.session import Desk

    commands: Any = typer.main.get_command(cli.app)
    options = {n: frozenset(o for p in c.params for o in p.opts) for n, c in commands.commands.items()}
    folder = tmp_path_factory.mktemp("studio")
    (folder / "room.wav").write_bytes(room_bytes())
    warm = ["infer", str(folder / "room.wav"), "-o", "warm.wav"]
    desk = Desk(folder / "pieces", main, options, sketched_folder, warm=warm)
    told: list[str] = []
    running: list[uvicorn.Server] = []

    def run(self: uvicorn.Server, sockets: Any) -> None:
        running.append(self)
        __import__("asyncio").run(self.serve(sockets))

    with pytest.MonkeyPatch.context() as patch, playwright.sync_playwright() as p:
        patch.setattr(uvicorn.Server, "run", run)
        patch.setenv("HF_HUB_OFFLINE", "1")  # which the studio sets for its process, and is here put back
        serving = threading.Thread(target=server.serve, args=(desk, 0, False, told.append))
        serving.start()
        while not told or not running or not running[0].started:
            time.sleep(0.05)
        address = told[0].split()[4].rstrip(";")
        sound = f"--use-file-for-fake-audio-capture={folder / 'room.wav'}"
        arguments = [
            "--no-sandbox",
            "--use-fake-ui-for-media-stream",
            "--use-fake-device-for-media-stream",
            sound,
        ]
        browser = p.chromium.launch(executable_path=CHROMIUM, args=arguments)
        window = Window(desk, address, browser.new_context(permissions=["microphone"]))

        def through(route: Any) -> None:
            if route.request.url.startswith((address, "data:", "blob:")):
                route.continue_()
            else:
                window.outside.append(route.request.url)
                route.abort()

        window.context.route("**/*", through)
        yield window
        browser.close()
        running[0].should_exit = True
        serving.join()


@pytest.fixture(scope="module")
def page(window: Window) -> Any:
    return window.tab()


def upload(page: Any, name: str, data: bytes, where: str = ".s2m-room .upload + input") -> None:
    page.locator(where).set_input_files({"name": name, "mimeType": "audio/wav", "buffer": data})


def files_by_command(page: Any, folder: Path, inputs: Path) -> dict[str, bytes]:
    """What the command that the page shows makes, run elsewhere on the same inputs."""
    import shlex

    place, line = page.locator("#command textarea").input_value().split("\n")
    assert place == f"cd {shlex.quote(str(inputs))}"
    words = shlex.split(line)[1:]
    folder.mkdir()
    for path in inputs.iterdir():
        if path.name in words and path.name != words[words.index("-o") + 1]:
            shutil.copy(path, folder)
    before = {path.name for path in folder.iterdir()}
    with contextlib.chdir(folder), contextlib.suppress(SystemExit):
        main(words)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in before}


def downloads_are(page: Any, made: dict[str, bytes]) -> None:
    """The page's links give the same bytes as the command."""
    assert len(made) >= 2
    for name, data in made.items():
        link = page.locator(f"#files a[href$='/{name}']").get_attribute("href")
        got = page.evaluate("async (u) => [...new Uint8Array(await (await fetch(u)).arrayBuffer())]", link)
        assert bytes(got) == data, name


def test_a_room_is_heard_and_answered_by_the_bytes_of_the_command(
    window: Window, page: Any, tmp_path: Path
) -> None:
    upload(page, "../my room.wav", room_bytes())
    page.wait_for_function("window.studio.scene")
    assert page.locator(".facts").inner_text().replace("\n", " ").startswith("length 2.0 s level")
    (project,) = window.desk.pieces()
    inputs = window.desk.folder / project
    # Steered by what a person expects: a slider, a list, chips, a pad, and a cue on the time axis.
    page.locator("#s2m-tempo").fill("96")
    page.locator("#s2m-key").select_option("F# minor")
    page.locator("#s2m-without").fill("drums")
    page.locator("#s2m-without").press("Enter")
    page.locator("#s2m-valence").fill("-0.5")
    page.locator(".moment").fill("0.8")
    page.locator(".marks .cue").click()
    page.locator("#make").click()
    page.wait_for_function(
        "document.querySelector('audio').currentTime > 0.05"
    )  # heard while, or after, it is made
    page.wait_for_selector(".takes button[title='take-1.wav']")
    page.locator("#tabs button[role=tab]", has_text="Take").click()
    page.wait_for_selector("#files a[href$='take-1.wav']")
    line = page.locator("#command textarea").input_value()
    for words in ("--tempo 96", "--key 'F# minor'", "--without drums", "--mood=-0.5,0", "--cue 0.8"):
        assert words in line
    downloads_are(page, files_by_command(page, tmp_path / "again", inputs))


def test_an_edited_note_is_performed(window: Window, page: Any, tmp_path: Path) -> None:
    folder = window.desk.folder / next(iter(window.desk.pieces()))
    page.locator("#tabs button[role=tab]", has_text="Edit").click()
    roll = page.locator(".s2m-roll canvas")
    for key in (".", "ArrowUp", "ArrowUp", "Control+z"):
        roll.press(key)
    assert page.locator(".undo").is_enabled()
    page.locator("#perform").click()
    page.wait_for_selector(".takes button[title='take-2.wav']")
    old, new = (read_midi(folder / name) for name in ("take-1.mid", "edit-1.mid"))
    moved = [
        (int(b) - int(a)) for x, y in zip(old.parts, new.parts, strict=True)
        for a, b in zip(sorted(x.pitches), sorted(y.pitches), strict=True) if a != b
    ]  # fmt: skip
    assert sum(moved) == 1
    page.locator("#tabs button[role=tab]", has_text="Take").click()
    page.wait_for_selector("#files a[href$='take-2.wav']")
    downloads_are(page, files_by_command(page, tmp_path / "again", folder))
    page.locator("#make-it").click()  # FLAC is proposed
    page.wait_for_selector("#files a[href$='take-2-flac.flac']")
    downloads_are(page, files_by_command(page, tmp_path / "flac", folder))


def test_a_microphone_is_a_room_and_is_answered_live_until_the_tab_is_closed(window: Window) -> None:
    tab = window.tab(390)
    tab.locator(".record").click()
    tab.wait_for_timeout(1500)
    tab.locator(".record").click()
    tab.wait_for_function("window.studio.scene")
    assert tab.evaluate("window.studio.scene.level_dbfs") < -40
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.locator("#tabs button[role=tab]", has_text="Live").click()
    tab.locator(".s2m-live button").click()
    tab.wait_for_function("document.querySelector('.s2m-live .news').textContent.includes('answered')")
    assert not window.desk.is_idle
    tab.close()
    idle(window)


def idle(window: Window) -> None:
    """Nothing is made any more, soon."""
    ends = time.monotonic() + WAIT / 1000
    while not window.desk.is_idle and time.monotonic() < ends:
        time.sleep(0.02)
    assert window.desk.is_idle


def test_tabs_do_not_mix_and_a_closed_one_stops(window: Window, page: Any) -> None:
    mine = page.evaluate("window.studio.scene.project")
    tab = window.tab()
    assert tab.evaluate("window.studio.scene") is None
    assert tab.evaluate("window.studio.token") != page.evaluate("window.studio.token")
    tab.locator("#pieces input").click()
    tab.get_by_role("option", name=mine).click()
    tab.wait_for_selector("#heard .wrong")
    assert "open in another tab" in tab.locator("#heard").inner_text()
    there = tab.evaluate("fetch(`/studio/${window.studio.token}/file/take-1.wav`).then((r) => r.status)")
    away = tab.evaluate(
        "fetch(`/studio/${window.studio.token}/file/..%2F..%2Froom.wav`).then((r) => r.status)"
    )
    other = tab.evaluate("fetch('/studio/AAAA/file/take-1.wav').then((r) => r.status)")
    assert (there, away, other) == (404, 404, 404)
    upload(tab, "long.wav", room_bytes())
    tab.wait_for_function("window.studio.scene")
    tab.locator("#count input").fill("26")
    tab.locator("#make").click()
    tab.wait_for_selector("#made progress")
    ends = time.monotonic() + WAIT / 1000
    while not window.desk.hands._current and time.monotonic() < ends:
        time.sleep(0.01)
    theirs = window.desk.folder / tab.evaluate("window.studio.scene.project")
    tab.close(run_before_unload=False)
    idle(window)
    assert len(list(theirs.glob("take-1.*.wav"))) < 26
    assert not [path for path in theirs.iterdir() if path.name.startswith(".s2m")]
    assert page.evaluate("window.studio.scene.project") == mine


def test_a_page_that_is_loaded_again_has_its_piece(page: Any) -> None:
    before = page.evaluate("window.studio.scene.project")
    page.reload()
    page.wait_for_function("window.studio?.scene && document.querySelectorAll('.takes button').length === 2")
    assert page.evaluate("window.studio.scene.project") == before
    assert page.locator(".takes button").all_inner_texts() == ["1", "2"]


def hostile_recordings() -> list[hostile.Case]:
    """Thirty of the table's recordings, without files of gigabytes, pipes and folders."""
    rng = random.Random(1)
    drawn = [*hostile.recordings(rng), *hostile.odd_recordings(rng)]
    single = [case for case in drawn if case.command[0] in ("analyze", "infer") and not case.needs]
    return rng.sample(single, 30)


def test_hostile_uploads_are_answered_by_a_sentence(window: Window, page: Any, tmp_path: Path) -> None:
    n_bad, good = 0, room_bytes(0.6)
    for number, case in enumerate(hostile_recordings()):
        folder = tmp_path / str(number)
        folder.mkdir()
        case.setup(folder)
        paths = [path for path in folder.iterdir() if path.is_file() and not path.is_symlink()]
        if not paths or paths[0].stat().st_size > 2**22:
            continue  # folders, pipes, links and sparse files of gigabytes are not uploaded
        (path, *_) = paths
        before = page.evaluate("window.studio.scene.project")
        upload(page, path.name, path.read_bytes())
        page.wait_for_function(
            "(p) => document.querySelector('#heard .wrong') || window.studio.scene.project !== p", arg=before
        )
        if page.locator("#heard .wrong").count():
            n_bad += 1
            said = page.locator("#heard .wrong").inner_text()
            assert said[-1] in ".;", (case.name, said)
            assert "Traceback" not in said
            assert str(window.desk.folder) not in said
            upload(page, "good.wav", good)
            page.wait_for_function("(p) => window.studio.scene.project !== p", arg=before)
            assert not page.locator("#heard .wrong").count()
    assert n_bad > 5


def test_the_page_can_be_used_by_everybody(page: Any, tmp_path: Path) -> None:
    """Serious faults that axe-core finds, in both themes and at both widths."""
    script = _axe(tmp_path)
    for theme, width in (("light", 1280), ("dark", 390)):
        page.set_viewport_size({"width": width, "height": 900})
        if (page.evaluate("document.body.classList.contains('dark')")) != (theme == "dark"):
            page.locator("button.theme").click()
        page.evaluate(script)
        # What is beside the tabs is the same with each of them.
        for name, where in (("Edit", "html"), ("Take", "#tabs"), ("Live", "#tabs")):
            page.locator("#tabs button[role=tab]", has_text=name).click()
            run = "(where) => axe.run(where, { resultTypes: ['violations'] })"
            found = page.evaluate(run, where)["violations"]
            bad = [
                (v["id"], [node["html"][:160] for node in v["nodes"]])
                for v in found if v["impact"] in ("serious", "critical")
            ]  # fmt: skip
            assert bad == [], (theme, width, name)


def _axe(folder: Path) -> str:
    """axe-core, which is used here alone: where `S2M_AXE` says, or fetched by npm into a temporary folder."""
    named = os.environ.get("S2M_AXE")
    if named is None:
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("axe-core is not there: S2M_AXE names no file and npm is not installed")
        command = [npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "axe-core@4"]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=60)
        except (subprocess.SubprocessError, OSError) as error:
            pytest.skip(f"npm could not fetch axe-core ({type(error).__name__})")
        named = str(folder / "node_modules" / "axe-core" / "axe.min.js")
    return Path(named).read_text(encoding="utf-8")


def test_nothing_went_out_and_the_console_has_no_errors(window: Window) -> None:
    """After all the above."""
    assert window.outside == []
    expected = ("404 (Not Found)",)  # of the files that were asked for in vain above
    assert [text for text in window.said if not any(words in text for words in expected)] == []


def test_a_large_file_and_another_host_are_refused(
    window: Window, page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    from silent2music.studio import session

    monkeypatch.setattr(session, "MAX_UPLOAD_BYTES", 1000)
    before = {p.name for p in window.desk.folder.iterdir()}
    upload(page, "large.wav", room_bytes())
    page.wait_for_selector(".s2m-room .wrong")
    assert "too large" in page.locator(".s2m-room .wrong").inner_text()
    assert (
        len({p.name for p in window.desk.folder.iterdir()} - before) <= 1
    )  # an empty folder, gone with the tab
    for path, host in (("/", "evil.example:80"), ("/gradio_api/file=/etc/passwd", window.address[7:])):
        with pytest.raises(HTTPError, match="403"):
            urlopen(Request(window.address + path, headers={"Host": host}))
