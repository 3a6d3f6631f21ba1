"""The command line `s2m`: parse, call one library function, print.

Nothing heavy is imported before a command runs, so that `s2m --help` answers at once. typer stands here and
nowhere else; its help is plain text, since importing rich for it would take longer than all the rest.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import io
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Annotated, Any

import typer
from typer import Option

from silent2music import __version__
from silent2music.cli.codec import codec_app
from silent2music.cli.common import complain
from silent2music.cli.data import data_app
from silent2music.cli.evaluation import bench, evaluate, evaluate_scores, validate
from silent2music.cli.making import ambience, analyze, check_ambience, compose, demo, infer, perform
from silent2music.cli.options import DELIVERED, DRAW, HEARD, PLAYED_BY, WISHES, taking
from silent2music.cli.picture import score_clip
from silent2music.cli.studio import studio
from silent2music.cli.training import merge, run_recipe, train, tune
from silent2music.errors import S2MError, shown
from silent2music.processes import Interrupted, interruptible, return_large_arrays

app = typer.Typer(
    name="s2m",
    help="Instrumental music that belongs to a room, from a near-silent recording of it.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(value: bool) -> None:
    if value:
        print(f"silent2music {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


COMMANDS: dict[str, Callable[..., None]] = {
    "infer": taking(
        infer,
        "seconds count control score_guidance adherence redo of keep_melody keep_harmony as_json force",
        *(DRAW, WISHES, DELIVERED, HEARD, PLAYED_BY),
    ),
    "score-clip": taking(
        score_clip, DRAW, HEARD, PLAYED_BY, "control loudness stems stems_by sign certificate as_json force"
    ),
    "perform": taking(perform, "score_guidance adherence as_json force", DRAW, DELIVERED, HEARD, PLAYED_BY),
    "compose": taking(
        compose,
        "seconds seed count musicxml guidance temperature control model adapter device as_json force",
        *(WISHES, HEARD),
    ),
    "demo": taking(demo, "seed", PLAYED_BY),
    "studio": studio,
    "ambience": taking(
        ambience, "tempo controls loudness seed as_json force overrides", HEARD, PLAYED_BY, loudness=None
    ),
    "check-ambience": check_ambience,
    "analyze": taking(analyze, HEARD),
    "tune": tune,
    "merge": merge,
    "train": train,
    "run": run_recipe,
    "validate": validate,
    "bench": bench,
    "eval": taking(evaluate, "guidance temperature top_k top_p"),
    "eval-scores": taking(evaluate_scores, "guidance temperature"),
}
"""In the order of the help."""

for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(codec_app, name="codec")
app.add_typer(data_app, name="data")


def _collect_less() -> None:
    """Let Python's garbage collector run seldom while the process starts, and not at all when it ends.

    What torch brings along are 200,000 objects that all stay: going through them again and again takes a tenth of
    a short command, and going through them once more before the process ends a quarter of a second.
    """
    gc.set_threshold(50_000)
    atexit.register(gc.freeze)


UsageError: Any = typer.BadParameter.__mro__[1]
"""Of whatever click typer runs on."""


def _explained(error: Any) -> str:
    """What is wrong with a command line, in a sentence that says where its options are listed."""
    message = " ".join(error.format_message().split()).removeprefix("Invalid value: ").rstrip(".")
    command = error.ctx.command_path if error.ctx is not None else "s2m"
    return f"{message}; see {command} --help."


INTERRUPTED = 130
"""Exit code after Ctrl-C, `kill`, or a terminal that was closed; 0 is all made, 1 something failed, 2 wrong usage."""


def _is_interruption(error: BaseException | None) -> bool:
    """Whether the process was asked to end, if then something failed too, such as writing to a closed terminal."""
    while error is not None and not isinstance(error, Interrupted):
        error = error.__context__
    return error is not None


@lru_cache
def command_line() -> Any:
    """All commands with their options, made once: that takes longer than parsing a line by them."""
    return typer.main.get_command(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; what is wrong becomes one sentence on standard error: exit 1, or 2 for wrong usage.

    Args:
        arguments: by default those of the process, which is then the command's own.
    """
    if arguments is None:
        _collect_less()
        return_large_arrays()
    for stream in (sys.stdout, sys.stderr):
        # A console of few characters, such as Windows' cp1252, gets the others escaped.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if "" in (sys.argv[1:] if arguments is None else arguments):
        # A path of no letters is the current folder to Python, and seldom to whoever typed it.
        complain("One of the words of the command is empty; is a variable of your shell not set?")
        sys.exit(2)
    try:
        with interruptible():
            code = command_line()(arguments, prog_name="s2m", standalone_mode=False)
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message(), file=sys.stderr)
        else:
            complain(_explained(error))
        sys.exit(2)
    except S2MError as error:
        complain(str(error))
        sys.exit(1)
    except (Interrupted, KeyboardInterrupt, typer.Abort, OSError) as error:
        if isinstance(error, OSError) and not _is_interruption(error):
            if error.errno != errno.ENAMETOOLONG:
                raise
            complain(f"{shown(error.filename)} has a name that is too long for this file system; check it.")
            sys.exit(1)
        with contextlib.suppress(OSError):  # the terminal may be gone
            complain("Interrupted; what was finished is whole.")
        sys.exit(INTERRUPTED)
    if isinstance(code, int) and code != 0:
        sys.exit(code)
