"""Command lines in another process, on a machine that lacks something: packages, or what POSIX has."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent

# Python imports it before all else, in every process that is started with its folder in PYTHONPATH: in this one, in
# those of a pool and in those that these start.
_SITECUSTOMIZE = """
import os, sys

def take_away(names):
    for name in [name for name, module in sys.modules.items() if module is None]:
        del sys.modules[name]
    for name in list(sys.modules):
        if name.partition(".")[0] in names:
            del sys.modules[name]
    # None is what import and find_spec take for a module that cannot be found.
    sys.modules.update(dict.fromkeys(names))

take_away(os.environ["S2M_ABSENT"].split(","))
"""

_MAIN = """
import json, sys, traceback
import sitecustomize

if __name__ == "__main__":
    from silent2music.cli import main

    mark, commands = sys.argv[1].encode(), json.loads(sys.argv[2])
    for absent, words in commands:
        sitecustomize.take_away(absent)
        code = 0
        try:
            main(words)
        except SystemExit as end:
            code = end.code or 0
        except Exception:
            traceback.print_exc()
            code = 70
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            stream.buffer.write(mark + b"%d" % code + mark)
            stream.flush()
"""


@dataclass(frozen=True)
class Ran:
    """What a command line gave: exit code (70 after a traceback), standard output, standard error as text."""

    code: int
    out: bytes
    said: str


def run_without(
    commands: Sequence[tuple[Sequence[str], Sequence[object]]],
    folder: Path,
    more: str = "",
    encoding: str = "utf-8",
    **environment: str,
) -> list[Ran]:
    """Run command lines one after the other in one process.

    Args:
        commands: the top-level names of modules that are not to be found, and the arguments of `s2m`.
        folder: where the process runs.
        more: source that its Python runs before all else.
        encoding: of its standard streams.
        environment: more variables.
    """
    site = folder / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(_SITECUSTOMIZE + more, encoding="utf-8")
    (site / "commands.py").write_text(_MAIN, encoding="utf-8")
    mark = secrets.token_hex(16)
    lines = json.dumps([[list(absent), [str(word) for word in words]] for absent, words in commands])
    environment |= {
        "PYTHONPATH": os.pathsep.join((str(site), str(ROOT))),
        "PYTHONIOENCODING": f"{encoding}:strict",
        # What none of the commands may have is missing from the start, also in the processes that they start.
        "S2M_ABSENT": ",".join(set(commands[0][0]).intersection(*(absent for absent, _ in commands))),
    }
    done = subprocess.run(
        [sys.executable, site / "commands.py", mark, lines],
        capture_output=True,
        cwd=folder,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr.decode(encoding)
    out, said = done.stdout.split(mark.encode()), done.stderr.split(mark.encode())
    return [
        Ran(int(out[i + 1]), out[i], said[i].decode(encoding).strip()) for i in range(0, 2 * len(commands), 2)
    ]


def add_many(folder: Path, start: int) -> None:
    """Add fifty entries to a manifest; here, since a process that is spawned imports its function's module."""
    from silent2music.export.batch import Manifest

    for number in range(start, start + 50):
        Manifest(folder).add(f"{number:03}", {"n": number})
