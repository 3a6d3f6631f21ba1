"""Every case of the table in `hostile.py`, by the command line: one sentence or the right result, and nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import hostile
import numpy as np
import pytest
from hostile import EITHER, MARK, RATE, SECONDS, SEED, STOCK, Case
from rooms import steps_room

from silent2music.audio import Waveform, write
from silent2music.cli import main

pytestmark = pytest.mark.slow  # one to two minutes in all

SECONDS_AT_MOST = 60
BYTES_AT_MOST = 6 * 2**30

QUIET = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "pickle.find_class"}
"""What a command may not do, as Python's audit events name it."""

watched: list[str] | None = None
"""Events that were seen while a command ran; None while none runs."""


def _watch(event: str, arguments: object) -> None:
    if watched is not None and event in QUIET:
        watched.append(f"{event} {arguments}")


sys.addaudithook(_watch)


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory, codec_folder: Path) -> Path:
    """Good things that cases are made from: a room, music, a codec, a model, pairs and their shards."""
    import torch

    from silent2music.codec import load_codec
    from silent2music.config import AmbientConfig, DecoderConfig, ModelConfig
    from silent2music.data.pairs import Pair, write_pairs
    from silent2music.data.shards import prepare
    from silent2music.model import Silent2Music

    folder = tmp_path_factory.mktemp("hostile") / STOCK
    folder.mkdir()
    write(folder / "room.wav", Waveform(steps_room(SECONDS), RATE))
    shutil.copy(codec_folder.parent / "music.wav", folder)
    shutil.copytree(codec_folder, folder / "codec")
    (folder / "pairs").mkdir()
    pairs = []
    for i in range(4):
        music = 0.3 * np.sin(np.arange(RATE) * (0.05 + 0.02 * i))
        write(folder / f"pairs/{i}.silent.wav", Waveform(steps_room(1.0, interval=0.2 + 0.1 * i), RATE))
        write(folder / f"pairs/{i}.music.wav", Waveform(music[None].astype(np.float32), RATE))
        pairs.append(Pair(f"{i}.silent.wav", f"{i}.music.wav", split="validation" if i > 1 else "train"))
    write_pairs(folder / "pairs", pairs)
    codec = load_codec(codec_folder)
    prepare(folder / "pairs", folder / "shards", codec)
    sizes = {"n_codebooks": codec.n_codebooks, "codebook_size": codec.codebook_size, "codebook_dim": 16}
    config = ModelConfig(
        ambient=AmbientConfig(dim=32, n_layers=1, n_global_tokens=2),
        decoder=DecoderConfig(dim=32, n_layers=1, n_heads=2, attention_window=50, **sizes),
        codec_checksum=codec.token_checksum(),
    )
    torch.manual_seed(0)
    Silent2Music(config, codec).save_pretrained(folder / "model")
    return folder


def contents(folder: Path) -> dict[str, str]:
    """All that a folder holds, by path: what it is, and of files a digest."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path)] = f"link to {path.readlink()}"
        elif path.is_file():
            size = path.stat().st_size
            # A sparse file is not read: it is only an input.
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if size < 2**26 else str(size)
        else:
            found[str(path)] = "folder" if path.is_dir() else "no regular file"
    return found


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """Little memory and little time, where the platform has such limits."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return
    import resource

    def late(number: int, frame: object) -> None:
        raise TimeoutError(f"more than {SECONDS_AT_MOST} s")

    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS_AT_MOST)
    resource.setrlimit(resource.RLIMIT_AS, (BYTES_AT_MOST, before[1]))
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def run(command: list[str]) -> int:
    """The exit code of a command line, run in this process."""
    global watched
    watched = []
    try:
        with limits():
            main(command)
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        events, watched = watched, None
        assert not events, events
    return 0


CASES = hostile.cases(SEED)


def test_the_table_is_large_and_the_same_for_a_seed() -> None:
    assert len(CASES) >= 200
    assert len({case.name for case in CASES}) == len(CASES)
    assert [case.name for case in hostile.cases(SEED)] == [case.name for case in CASES]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_hostile_input_gives_one_sentence_or_the_right_result(
    case: Case, stock: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if case.needs and shutil.which(case.needs) is None:
        pytest.skip(f"needs {case.needs}")
    folder = stock.parent / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        case.setup(folder)
    except (AttributeError, OSError) as error:
        pytest.skip(f"cannot be made here: {error}")
    monkeypatch.chdir(folder)
    before = contents(stock.parent)
    capfd.readouterr()
    with warnings.catch_warnings(record=True) as warned:
        code = run([word.replace("{stock}", f"../{STOCK}") for word in case.command])
    printed, said = capfd.readouterr()
    after = contents(stock.parent)
    assert "Traceback" not in said + printed
    assert not (folder / MARK).exists(), "something was executed"
    assert not [name for name in after if Path(name).name.startswith(".s2m-") and "lock" not in name]
    assert all(after.get(name) == digest for name, digest in before.items() if STOCK in name)
    if code:
        check_refusal(case, code, said)
        made = {path: what for path, what in after.items() if Path(path).name not in case.leaves}
        assert made == before, "a refused command leaves everything as it was"
        assert not [w for w in warned if issubclass(w.category, UserWarning | RuntimeWarning)]
    else:
        assert case.gives == EITHER or not isinstance(case.gives, str), f"accepted; said: {said}{printed}"
        check_result(case, printed, said)


def check_refusal(case: Case, code: int, said: str) -> None:
    """One sentence on standard error that says what is wrong; after a line of usage where a word was wrong."""
    assert case.gives is not True and not isinstance(case.gives, float), said
    *others, sentence = said.splitlines() or [""]
    assert code in (1, 2)
    assert not others or (code == 2 and others[0].startswith("Usage: ")), said
    assert sentence.endswith((".", "?")) or code == 2, sentence
    assert len(sentence) < 600 and sentence.isprintable(), sentence
    if isinstance(case.gives, str) and case.gives != EITHER:
        assert re.search(case.gives, sentence), sentence


def check_result(case: Case, printed: str, said: str) -> None:
    """What `analyze` found is finite and, where it is known, of the length that is there."""
    if case.command[0] != "analyze":
        return
    profile = json.loads(printed, parse_constant=pytest.fail)
    assert 0.5 <= profile["seconds"] < 3600
    if isinstance(case.gives, float):
        # A recording of which a part is missing is used as far as it goes, and that is said.
        assert profile["seconds"] == pytest.approx(abs(case.gives), rel=0.25 if case.gives < 0 else 0.02)
        assert ("is cut: " in said or "breaks off" in said) == (case.gives < 0), said


def test_the_network_is_watched() -> None:
    """The guard sees a socket that connects."""
    import socket

    global watched
    watched = []
    with socket.socket() as one, contextlib.suppress(OSError):
        one.settimeout(0.1)
        one.connect(("127.0.0.1", 9))
    seen, watched = watched, None
    assert any(event.startswith("socket.connect") for event in seen)
    assert os.environ.get("HF_HUB_OFFLINE") is None
