"""Windows and macOS, of which no machine is at hand: what they lack is not called, and is taken away and tried."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from elsewhere import Ran, run_without
from library import write_ambience, write_rooms, write_scores
from rooms import RATE, steps_room

from silent2music import audio
from silent2music.config import DataConfig

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "silent2music"

MODULES_OF_ONE_PLATFORM = {
    *("_posixsubprocess", "crypt", "curses", "fcntl", "grp", "nis", "ossaudiodev", "posix", "pty", "pwd"),
    *("readline", "resource", "spwd", "syslog", "termios", "tty"),
    *("_winapi", "msvcrt", "nt", "winreg", "winsound"),
}

CALLS_OF_POSIX = {
    "os": {
        *(
            "chown",
            "chroot",
            "confstr",
            "copy_file_range",
            "eventfd",
            "fchmod",
            "fchown",
            "fdatasync",
            "fork",
        ),
        *("forkpty", "getegid", "geteuid", "getgid", "getgroups", "getloadavg", "getpgid", "getpgrp"),
        *("getpriority", "getresuid", "getsid", "getuid", "getxattr", "initgroups", "killpg", "lchown"),
        *("listxattr", "lockf", "memfd_create", "mkfifo", "mknod", "nice", "openpty", "pathconf", "pipe2"),
        *("posix_fadvise", "posix_fallocate", "posix_spawn", "pread", "pwrite", "register_at_fork"),
        *("sched_getaffinity", "sched_setaffinity", "sched_yield", "sendfile", "setgid", "setpgid"),
        *("setpriority", "setsid", "setuid", "setxattr", "splice", "statvfs", "symlink", "sync", "sysconf"),
        *("tcgetpgrp", "uname", "wait", "wait3", "wait4", "waitid", "WNOHANG"),
        *("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_SYNC"),
        # A descriptor is opened as text on Windows, and a folder not at all; a name that exists is not renamed to.
        *("open", "rename", "renames"),
    },
    "signal": {
        *("SIGALRM", "SIGCHLD", "SIGHUP", "SIGIO", "SIGKILL", "SIGPIPE", "SIGPROF", "SIGQUIT", "SIGSTOP"),
        *("SIGTSTP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "alarm", "pause", "pthread_kill", "pthread_sigmask"),
        *("setitimer", "sigpending", "sigtimedwait", "sigwait"),
    },
    "socket": {"AF_UNIX", "socketpair"},
    "time": {"clock_gettime", "tzset"},
    "tempfile": {"mktemp", "NamedTemporaryFile"},  # Windows opens no file that is open already
    "multiprocessing": {"Pool", "Process", "Queue", "Manager", "Pipe", "Lock", "Semaphore", "Value", "Array"},
}
"""Attributes of modules that are absent from Windows, or do something else there. `getattr` with a default may
ask for them."""

PATHS_OF_POSIX = ("/tmp", "/var/tmp", "/dev/", "/proc/", "/etc/")


def strangers(source: str) -> list[str]:
    """What of a module's source cannot be on Windows, as `line: what`; docstrings are prose."""
    tree = ast.parse(source)
    expressions = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]
    prose = {id(value) for value in expressions if isinstance(value, ast.Constant)}
    found: list[str] = []
    for node in ast.walk(tree):
        if id(node) not in prose:
            found += [f"{getattr(node, 'lineno', 0)}: {what}" for what in _strange(node)]
    return found


def _strange(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.split(".")[0] in MODULES_OF_ONE_PLATFORM:
                yield f"import {alias.name}"
    elif isinstance(node, ast.ImportFrom) and node.module:
        if node.module.split(".")[0] in MODULES_OF_ONE_PLATFORM:
            yield f"from {node.module} import"
        for alias in node.names:
            if alias.name in CALLS_OF_POSIX.get(node.module, ()):
                yield f"from {node.module} import {alias.name}"
    elif isinstance(node, ast.Attribute):
        if isinstance(node.value, ast.Name) and node.attr in CALLS_OF_POSIX.get(node.value.id, ()):
            yield f"{node.value.id}.{node.attr}"
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        if node.value.startswith(PATHS_OF_POSIX):
            yield f"the path {node.value!r}"
        elif "import " in node.value and "\n" in node.value:
            yield from _strange_code(node.value)
    elif isinstance(node, ast.Call):
        yield from _strange_call(node)


def _strange_code(text: str) -> list[str]:
    """What is strange in a program that is held as text, for another process; prose is none."""
    try:
        return [f"a program as text, line {found}" for found in strangers(text)]
    except SyntaxError:
        return []


def _strange_call(call: ast.Call) -> Iterator[str]:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    given = {keyword.arg for keyword in call.keywords}
    first = call.args[0] if call.args else None
    if name == "open" and getattr(owner, "id", "") not in (
        "av",
        "os",
        "soundfile",
        "wave",
        "tarfile",
        "gzip",
        "webbrowser",
        "archive",  # a file within a ZIP file is bytes
    ):
        mode = [*call.args[1 if owner is None else 0 :], None][0]
        mode = next((keyword.value for keyword in call.keywords if keyword.arg == "mode"), mode)
        binary = isinstance(mode, ast.Constant) and "b" in str(mode.value)
        if not binary and "encoding" not in given:
            yield "open() as text without an encoding"
    elif name in ("read_text", "write_text") and "encoding" not in given and owner is not None:
        yield f"{name}() without an encoding"
    elif name == "rename" and owner is not None:
        yield "rename(), which replaces nothing on Windows; use replace()"
    elif name in ("run", "Popen", "check_output", "check_call") and given & {"text", "universal_newlines"}:
        if "encoding" not in given:
            yield f"{name}() as text without an encoding"
    elif name == "get_context" and not (isinstance(first, ast.Constant) and first.value == "spawn"):
        yield "get_context() of another method than spawn"
    elif name == "ProcessPoolExecutor" and len(call.args) < 2 and "mp_context" not in given:
        yield "ProcessPoolExecutor() without the spawn context"
    elif name == "DataLoader" and "num_workers" in given and "multiprocessing_context" not in given:
        yield "DataLoader() with workers and without the spawn context"
    for option in given & {"preexec_fn", "pass_fds", "start_new_session", "process_group"}:
        yield f"{name}({option}=...)"


@pytest.mark.parametrize(
    "source",
    [
        "import fcntl",
        "def f():\n    from resource import getrusage",
        "import os\nos.fork()",
        "from os import getuid",
        "import os\nos.rename('a', 'b')",
        "path.rename(other)",
        "import os\nos.open('folder', os.O_RDONLY)",
        "import signal\nsignal.signal(signal.SIGHUP, f)",
        "open('a')",
        "open('a', 'w')",
        "path.open()",
        "path.open('a')",
        "path.open(mode='w')",
        "path.read_text()",
        "path.write_text('x')",
        "file = '/tmp/x'",
        "Path('/dev/null')",
        "subprocess.run(['ffmpeg'], text=True)",
        "subprocess.run(['ffmpeg'], preexec_fn=f)",
        "multiprocessing.Process(target=f)",
        "get_context()",
        "get_context('fork')",
        "ProcessPoolExecutor(2)",
        "tempfile.NamedTemporaryFile()",
        "CODE = '''\nimport os\nos.wait4(0, 0)\n'''",
    ],
)
def test_what_is_of_posix_alone_is_found(source: str) -> None:
    assert strangers(source)


@pytest.mark.parametrize(
    "source",
    [
        '"""Writes to /tmp, as fcntl would.\n\nimport resource\n"""',
        "import os\nos.replace('a', 'b')",
        "path.replace(other)",
        "import signal\nhangup = getattr(signal, 'SIGHUP', None)\nsignal.signal(signal.SIGINT, f)",
        "open('a', 'rb')",
        "open('a', encoding='utf-8')",
        "path.open('r+b')",
        "path.open('a', encoding='utf-8')",
        "path.read_text(encoding='utf-8')",
        "path.write_text(text, encoding='utf-8')",
        "soundfile.open(path)",
        "subprocess.run(['ffmpeg'], text=True, encoding='utf-8')",
        "ProcessPoolExecutor(2, get_context('spawn'))",
        "ProcessPoolExecutor(2, mp_context=get_context('spawn'))",
        "DataLoader(pairs, batch_size=2)",
    ],
)
def test_what_every_platform_has_is_left_alone(source: str) -> None:
    assert strangers(source) == []


def test_the_package_uses_nothing_that_is_of_posix_alone() -> None:
    found = [
        f"{path.relative_to(ROOT).as_posix()}:{what}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for what in strangers(path.read_text(encoding="utf-8"))
    ]
    assert found == []


# ---- what they lack, taken away ----

ABSENT = ("fcntl", "grp", "pwd", "resource", "syslog", "termios")

TAKEN_AWAY = """
import multiprocessing, signal, warnings

for name in ("fork", "forkpty", "getuid", "getpgid", "killpg", "mkfifo", "sched_getaffinity", "statvfs", "wait4"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
    if hasattr(signal, name):
        delattr(signal, name)
multiprocessing.set_start_method("spawn")
warnings.filterwarnings("error", category=EncodingWarning, module="silent2music")
"""


def run_elsewhere(folder: Path, *commands: list[object]) -> list[Ran]:
    """Run command lines in one process on a machine that has no POSIX and a console of Western Europe."""
    without = [(ABSENT, command) for command in commands]
    return run_without(without, folder, TAKEN_AWAY, "cp1252", PYTHONWARNDEFAULTENCODING="1")


def legal_on_windows(name: str) -> bool:
    return not set(name) & set('<>:"\\|?*') and name[-1] not in ". "


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    """Rooms by names that cp1252 has no letters for, and two that differ in case alone."""
    sound = audio.Waveform(steps_room(), RATE)
    for name in ("Küche/комната 静か.wav", "case/a/Hall.wav", "case/b/hall.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        audio.write(tmp_path / name, sound)
    return tmp_path


def test_infer_and_ambience_run_without_posix(rooms: Path, model_folder: Path) -> None:
    model = ["--model", model_folder]
    # Candidates are few, for speed.
    loops = ["--loop", "2s", "--set", "ambience.candidates=1"]
    first, *rest = run_elsewhere(
        rooms,
        ["infer", "Küche", "--out", "music", "--json", *model],
        ["infer", "Küche", "--out", "music", *model],
        ["infer", "case/a/Hall.wav", "case/b/hall.wav", "--out", "case/out", *model],
        ["infer", "Küche/тишина.wav", *model],
        ["ambience", "Küche", "--out", "loops", *loops, *model],
        ["ambience", "case/a/Hall.wav", "case/b/hall.wav", "--out", "case/loops", *loops, *model],
    )
    # The second time all is there already; of names that differ in case alone the first one is made.
    said = "\n".join(ran.said for ran in (first, *rest))
    assert [ran.code for ran in (first, *rest)] == [0, 0, 1, 1, 0, 1], said
    assert json.loads(first.out.decode("cp1252"))["input"]["file"] == "комната 静か.wav"
    assert (rooms / "music" / "комната 静か.music.wav").is_file()
    assert (rooms / "music" / "manifest.jsonl").is_file()
    assert "Traceback" not in said
    assert "does not exist; check the name." in rest[2].said
    for ran, folder in ((rest[1], "case/out"), (rest[4], "case/loops")):
        assert "would both be written to" in ran.said
        made = sorted(path.relative_to(rooms / folder).as_posix() for path in (rooms / folder).rglob("*"))
        assert any("Hall" in name for name in made) and not any("hall" in name for name in made)
    assert list((rooms / "loops").rglob("*.wav"))
    assert all(legal_on_windows(path.name) for path in rooms.rglob("*"))


@pytest.mark.skipif(shutil.which("fluidsynth") is None, reason="fluidsynth is not installed")
@pytest.mark.skipif(not Path(DataConfig().soundfont[0]).is_file(), reason="FluidR3_GM.sf2 is not installed")
def test_data_build_runs_without_posix(tmp_path: Path) -> None:
    folder = tmp_path / "Quellen – звук"
    sources = {
        "ambience": write_ambience(folder / "ambience"),
        "scores": write_scores(folder / "scores"),
        "rooms": write_rooms(folder / "rooms"),
    }
    settings = [f"data.{name}={path}" for name, path in sources.items()]
    settings += ["data.seconds=4.0", "data.validation_share=0.0", "data.kinds={steps = 1.0}"]
    (tmp_path / "recipe.toml").write_text("", encoding="utf-8")
    options = [word for setting in settings for word in ("--set", setting)]
    hours = 2 * 4.0 / 3600
    built, checked = run_elsewhere(
        tmp_path,
        ["data", "build", "recipe.toml", "--out", "Paare", "--hours", hours, "--workers", "2", *options],
        ["data", "check", "Paare"],
    )
    assert (built.code, checked.code) == (0, 0), built.said + checked.said
    assert len((tmp_path / "Paare" / "pairs.jsonl").read_text(encoding="utf-8").splitlines()) == 2
