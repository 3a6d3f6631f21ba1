"""The command that opens the page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from silent2music.cli.common import say
from silent2music.cli.options import Device, Model

STUDIO = Path("s2m-studio")


def studio(
    context: typer.Context,
    folder: Annotated[Path, Option(help="Where pieces are kept, each in a folder of its own.")] = STUDIO,
    port: Annotated[int, Option(min=0, max=65_535, help="Of this machine; 0 takes any that is free.")] = 7860,
    is_opened: Annotated[bool, Option("--open", help="Open the page in this machine's browser.")] = False,
    model: Model = None,
    device: Device = None,
    soundfont: Annotated[Path | None, Option(help="Play notes with these samples, by fluidsynth.")] = None,
) -> None:
    """Open a page on this machine to listen, steer, make, edit and take away; nothing leaves the machine."""
    from silent2music.cli import main
    from silent2music.errors import DataError
    from silent2music.export.infer import DEMO_ROOM
    from silent2music.studio.server import quiet_gradio, serve
    from silent2music.studio.session import Desk

    quiet_gradio(folder)
    if soundfont is not None and not soundfont.is_file():
        raise DataError(f"{soundfont} is no file; expected a soundfont, SF2 or SF3.")
    warm = ["infer", str(DEMO_ROOM), "-o", "warm.wav", "--seconds", "1"]
    serve(Desk(folder, main, _options(context), model, device, soundfont, warm), port, is_opened, say)


def _options(context: typer.Context) -> dict[str, frozenset[str]]:
    """The options of each command, so that the page offers what this command line has."""
    above: Any = context.parent
    return {
        name: frozenset(option for parameter in command.params for option in parameter.opts)
        for name, command in above.command.commands.items()
    }
