"""What the documents show is there: links, modules, tests, and `s2m` commands, which a test drives on tiny data."""

from __future__ import annotations

import ast
import contextlib
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pytest
from rooms import RATE, steps_room

from silent2music import audio
from silent2music.cli import command_line

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    path
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "samples" / "README.md",
        ROOT / "checkpoints" / "base" / "README.md",
        *sorted(ROOT.glob("recipes/*/README.md")),
    )
    if path.is_file()
]
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
OPERATORS = {"|", "||", "&", "&&", ";", ">", "<", "(", ")", "{", "}"}


@dataclass(frozen=True)
class Shown:
    """A command line in a document: its words after `s2m`, and whether it must be whole, as in a fenced block."""

    document: str
    words: tuple[str, ...]
    whole: bool

    def __str__(self) -> str:
        return f"{self.document}: s2m {' '.join(self.words)}"


def shown_in(path: Path) -> list[Shown]:
    """The commands of fenced blocks, and those in running text that begin with `s2m`."""
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT).as_posix()
    fenced = [words for block in FENCE.findall(text) for words in commands_of(block)]
    spans = [" ".join(span.split()) for span in INLINE.findall(FENCE.sub("", text))]
    inline = [words for span in spans if span.startswith("s2m ") for words in commands_of(span)]
    return [*(Shown(name, words, True) for words in fenced), *(Shown(name, words, False) for words in inline)]


def commands_of(block: str) -> Iterator[tuple[str, ...]]:
    """The words after `s2m` in a block of shell: lines joined at backslashes, variables filled in."""
    block = re.sub(r"\\\n", " ", block)
    variables = {}
    for name, value in re.findall(r'^(\w+)="([^"]*)"', block, re.MULTILINE):
        variables[name] = " ".join(value.split())
    for name, value in variables.items():
        block = block.replace(f"${name}", value)
    for line in block.splitlines():
        if "s2m" not in line and "silent2music.cli" not in line:
            continue
        lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars="|&;<>(){}")
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, ";"]:
            if word in OPERATORS:
                yield from _of_s2m(command)
                command = []
            else:
                command.append(word)


def _of_s2m(command: list[str]) -> Iterator[tuple[str, ...]]:
    """What follows `s2m`, `.venv/bin/s2m` or `-m silent2music.cli`, if the command is one of ours."""
    if command and command[0].rpartition("/")[2] == "s2m":
        yield tuple(command[1:])
    elif "silent2music.cli" in command:
        yield tuple(command[command.index("silent2music.cli") + 1 :])


def parsed(words: tuple[str, ...], whole: bool = True) -> tuple[str, frozenset[str]]:
    """A command line taken apart by the real command line, and not run.

    Returns:
        The command's name, as `data build`, and the names of the options that were given.

    Raises:
        UsageError: of click, if a command or an option does not exist or, in a whole line, something is missing.
    """
    command = command_line()
    context = None
    names, rest = [], list(words)
    while hasattr(command, "commands"):
        context = command.make_context(names[-1] if names else "s2m", rest, parent=context)
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        names.append(name)
    try:
        command.make_context(names[-1], list(rest), parent=context)
    except Exception as error:
        # In running text a command may stand without its arguments, and an option without its value.
        if whole or type(error).__name__ not in ("MissingParameter", "BadOptionUsage"):
            raise
    given = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
    known = {option for parameter in command.params for option in parameter.opts}
    return " ".join(names), frozenset(given & known)


@lru_cache
def driven() -> list[tuple[str, frozenset[str]]]:
    """The commands with their options that `test_commands` runs: the first argument of each call of `drive`."""
    source = (ROOT / "tests" / "test_commands.py").read_text(encoding="utf-8")
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "drive":
            argument = node.args[0]
            pieces = argument.values if isinstance(argument, ast.JoinedStr) else [argument]
            lines.append("".join(p.value if isinstance(p, ast.Constant) else "1" for p in pieces))
    return [parsed(tuple(shlex.split(line))) for line in lines]


def test_commands_are_found_in_shell() -> None:
    block = """
$ s2m infer a.wav -o b.wav  # a comment | s2m no
arecord -t raw | s2m infer - --stream | aplay
s2m data check pairs && .venv/bin/s2m data stats pairs
more="--set a.b=1
  --set c.d=2"
s2m run recipes/base \\
    --out runs $more
accelerate launch -m silent2music.cli infer rooms/ --out music/
pip install s2m
"""
    assert list(commands_of(block)) == [
        ("infer", "a.wav", "-o", "b.wav"),
        ("infer", "-", "--stream"),
        ("data", "check", "pairs"),
        ("data", "stats", "pairs"),
        ("run", "recipes/base", "--out", "runs", "--set", "a.b=1", "--set", "c.d=2"),
        ("infer", "rooms/", "--out", "music/"),
    ]


@pytest.mark.parametrize(
    ("line", "whole"),
    [
        ("sing", False),
        ("data sing", False),
        ("infer room.wav --volume 11", False),
        ("infer", True),
        ("infer room.wav --seed loud", False),
        ("codec fit music", True),
    ],
)
def test_a_command_that_does_not_exist_is_refused(line: str, whole: bool) -> None:
    with pytest.raises(Exception, match=r"[Nn]o such|[Mm]issing|valid"):
        parsed(tuple(line.split()), whole)


def test_options_are_told_from_arguments() -> None:
    assert parsed(("infer", "-", "--stream", "--seed", "1")) == ("infer", frozenset({"--stream", "--seed"}))
    assert parsed(("data", "stats"), whole=False) == ("data stats", frozenset())


def test_the_documents_show_commands() -> None:
    assert {path.relative_to(ROOT).as_posix() for path in DOCUMENTS} >= {
        "README.md",
        "recipes/base/README.md",
    }
    assert len(shown_in(ROOT / "README.md")) > 20


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_command_shown_exists_and_is_driven(path: Path) -> None:
    tried = driven()
    wrong = []
    for shown in shown_in(path):
        try:
            name, options = parsed(shown.words, shown.whole)
        except Exception as error:
            wrong.append(f"{shown}: {type(error).__name__} {error}")
            continue
        if not any(name == other and options <= others for other, others in tried):
            wrong.append(f"{shown}: no test in tests/test_commands.py drives it with these options")
    assert wrong == []


def markdown_files() -> list[Path]:
    """All Markdown files of the project; a checkout may hold those of an environment or of runs too."""
    folders = ("checkpoints", "recipes", "samples", "silent2music", "tests")
    return sorted([*ROOT.glob("*.md"), *(path for name in folders for path in (ROOT / name).rglob("*.md"))])


def anchors(text: str) -> set[str]:
    """What links within a page may name, made from its headings as GitHub does it."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_link_and_picture_of_the_documents_is_there() -> None:
    broken, n_links = [], 0
    for page in markdown_files():
        for link in LINK.findall(INLINE.sub("", FENCE.sub("", page.read_text(encoding="utf-8")))):
            if re.match(r"[a-z]+:", link):
                continue
            n_links += 1
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            found = target.exists()
            if found and anchor:
                found = anchor in anchors(target.read_text(encoding="utf-8"))
            if not found:
                broken.append(f"{page.relative_to(ROOT)}: {link}")
    assert broken == []
    assert n_links > 50


def test_contributing_names_every_module_and_every_test() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    layout = re.search(r"^### Layout\n+```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert layout
    listed = re.findall(r"^  (\S+) ", layout[1], re.MULTILINE)
    package = ROOT / "silent2music"
    modules = [p.name for p in package.glob("*.py")]
    packages = [f"{p.parent.name}/" for p in package.glob("*/__init__.py")]
    assert sorted(listed) == sorted([*modules, *packages, "assets/"])
    assert set(re.findall(r"\btest_\w+\.py", text)) == {p.name for p in (ROOT / "tests").glob("test_*.py")}


def test_contributing_states_the_import_contract() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    assert "\n".join(layers).replace("silent2music.", "") in text


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    """As it stands, with the model that ships, in a folder that has a `room.wav`."""
    (code,) = PYTHON.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    audio.write(tmp_path / "room.wav", audio.Waveform(steps_room(), RATE))
    with contextlib.chdir(tmp_path):
        exec(compile(code, "README.md", "exec"), {})
    assert audio.read(tmp_path / "music.wav").seconds == 2.0
