"""What stands on the page, as Gradio's Blocks, and which handler each part calls."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from typing import Any

from silent2music.errors import S2MError, require
from silent2music.notation import INSTRUMENT_NAMES
from silent2music.studio.commands import KNOBS
from silent2music.studio.page import SUFFIXES, Page, View, said
from silent2music.studio.session import Desk

HEAD = '<link rel="stylesheet" href="/studio/studio.css"><script src="/studio/studio.js"></script>'

Parts = dict[str, Any]
"""Components of the page by name."""

SHOWN = (
    "token", "pieces", "room", "heard", "player", "made", "steer", "roll", "edited", "taken", "command", "files",
)  # fmt: skip
"""Components that handlers give new values to."""

OPTIONS = {
    "show_progress": "hidden",
    "concurrency_limit": None,
    "trigger_mode": "multiple",
    "api_visibility": "private",
}
"""Of every event: the queue is the worker's, and a page is never covered."""


def _knobs(desk: Desk) -> list[dict[str, Any]]:
    """The controls that the command line has, for the page's script."""
    known = desk.options.get("infer", frozenset()) | desk.options.get("compose", frozenset())
    return [vars(knob) | {"choices": list(knob.choices)} for knob in KNOBS if f"--{knob.name}" in known]


def _statement(desk: Desk) -> str:
    """What this model can do of what stands on the page."""
    if desk.composes:
        return ""
    if desk.writes_scores:
        return (
            "This model plays for the room alone: what is asked for here goes into the notes that Edit composes. "
            "Of the music it follows only how it is drawn."
        )
    return "This model plays for the room alone; it has no composer that could be asked for anything."


def _of_playing(desk: Desk) -> str:
    if desk.soundfont is not None:
        return f"Notes are played by fluidsynth with {desk.soundfont.name}."
    if desk.plays_scores:
        return "Notes are played by the model."
    return (
        "This model has no sketch, so it cannot play notes; they can be edited and taken as MIDI. "
        "Start the studio with --model and one that plays scores, or with --soundfont."
    )


def _custom(gr: Any, name: str, label: str, value: Any = None, **props: Any) -> Any:
    """A part that the page's script draws."""
    return gr.HTML(
        value=value,
        html_template=f'<div class="s2m-{name}" role="group" aria-label="{label}"></div>',
        js_on_load=f'window.studio.mount("{name}", element, props, trigger, watch)',
        head=HEAD,
        elem_id=name,
        apply_default_css=False,
        **props,
    )


def _status(gr: Any, name: str) -> Any:
    return gr.HTML("", elem_id=name, elem_classes=["status"], apply_default_css=False)


def _hearing(gr: Any, parts: Parts) -> None:
    """The room and its music."""
    with gr.Row(elem_id="top"):
        gr.HTML("<h1>silent2music <span>studio</span></h1>", elem_id="title", apply_default_css=False)
        parts["pieces"] = gr.Dropdown([], label="Pieces in this folder", elem_id="pieces", interactive=True)
    with gr.Column(elem_id="hear"):
        parts["room"] = _custom(gr, "room", "Room")
        parts["heard"] = _status(gr, "heard")
    with gr.Column(elem_id="listen"):
        parts["player"] = _custom(gr, "player", "Takes")


def _wishing(gr: Any, desk: Desk, parts: Parts) -> None:
    """What is asked for, and the button that makes it."""
    with gr.Column(elem_id="wish"):
        with gr.Row(elem_id="making"):
            parts["make"] = gr.Button("Make", variant="primary", elem_id="make")
            parts["cancel"] = gr.Button("Cancel", elem_id="cancel")
        with gr.Row(elem_id="numbers"):
            parts["seed"] = gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="seed", min_width=70)
            parts["count"] = gr.Number(
                1, label="Candidates", precision=0, minimum=1, maximum=26, elem_id="count", min_width=70
            )
            parts["seconds"] = gr.Textbox(
                label="Length", placeholder="as the room", max_lines=1, min_width=90
            )
        parts["made"] = _status(gr, "made")
        parts["steer"] = _custom(gr, "steer", "Steer", {}, knobs=_knobs(desk), statement=_statement(desk))


def _editing(gr: Any, desk: Desk, parts: Parts) -> None:
    """The notes."""
    plays = desk.plays_scores or desk.soundfont is not None
    with gr.Tab("Edit", id="edit"):
        parts["roll"] = _custom(gr, "roll", "Piano roll", {}, instruments=list(INSTRUMENT_NAMES))
        with gr.Row(elem_classes=["buttons"]):
            parts["perform"] = gr.Button("Perform", variant="primary", elem_id="perform", interactive=plays)
            parts["again"] = gr.Button("Write stretch again", interactive=desk.writes_scores)
            parts["compose"] = gr.Button("Compose notes", elem_id="compose", interactive=desk.writes_scores)
            parts["save"] = gr.Button("Keep as MIDI", elem_id="save")
        parts["edited"] = _status(gr, "edited")
        gr.HTML(f"<p class='note'>{html.escape(_of_playing(desk))}</p>", apply_default_css=False)


def _taking(gr: Any, desk: Desk, parts: Parts) -> None:
    """Files, and the command that makes them."""
    kinds = [*SUFFIXES, "loop", "picture of the room", "picture of the music", "picture of the score"]
    kinds += ["stems"] if desk.composes else []
    with gr.Tab("Take", id="take"):
        with gr.Row(elem_classes=["buttons"]):
            parts["what"] = gr.Dropdown(
                kinds, value="FLAC", label="Make also", elem_id="what", interactive=True
            )
            parts["length"] = gr.Textbox(label="Length of a loop", placeholder="8bars or 12s", max_lines=1)
            parts["take"] = gr.Button("Make it", elem_id="make-it")
        parts["clip"] = _custom(gr, "clip", "Clip to score")
        parts["taken"] = _status(gr, "taken")
        parts["command"] = gr.Textbox(
            label="The command that gives the same bytes", lines=3, interactive=False, buttons=["copy"],
            elem_id="command",
        )  # fmt: skip
        parts["files"] = gr.HTML("<p>Nothing yet.</p>", elem_id="files", apply_default_css=False)


def build(desk: Desk) -> Any:
    """The page as Gradio's Blocks."""
    gr: Any = require("gradio", "studio")
    page = Page(desk)
    parts: Parts = {}
    with gr.Blocks(title="silent2music studio", analytics_enabled=False, fill_width=True) as blocks:
        parts["token"] = gr.State("")
        with gr.Column(elem_id="desk"):
            _hearing(gr, parts)
            _wishing(gr, desk, parts)
            with gr.Tabs(elem_id="tabs"):
                _editing(gr, desk, parts)
                _taking(gr, desk, parts)
                with gr.Tab("Live", id="live"):
                    _custom(gr, "live", "Live")

        def left(request: Any) -> None:
            desk.leave(desk.tabs.pop(request.session_hash, ""))

        # Annotations by hand, since Gradio is known within this function alone.
        left.__annotations__ = {"request": gr.Request}
        blocks.unload(left)
        _from_script(gr, page, parts)
        _from_buttons(gr, page, parts)
    return blocks


def _shows(gr: Any, handler: Callable[..., Iterator[View]], where: str) -> Callable[..., Any]:
    """A handler as Gradio calls it: with changes in the order of the outputs, and an error in its place."""

    def run(*values: Any) -> Iterator[list[Any]]:
        try:
            for view in handler(*values):
                yield [view.get(name, gr.skip()) for name in SHOWN]
        except S2MError as error:
            yield [said(str(error), True) if name == where else gr.skip() for name in SHOWN]

    return run


def _told(gr: Any, show: Callable[..., Any], fields: tuple[str, ...]) -> Callable[..., Any]:
    """A handler as Gradio calls it for an event with data, some fields of which it takes."""

    def run(event: Any, request: Any) -> Iterator[list[Any]]:
        data = {**(event._data or {}), "tab": request.session_hash}
        yield from show(*(data.get(name, "") for name in fields))

    run.__annotations__ = {"event": gr.EventData, "request": gr.Request}
    return run


def _from_script(gr: Any, page: Page, parts: Parts) -> None:
    """Handlers of what the page's script tells."""
    for event, handler, where, fields in (
        (parts["room"].submit, page.room, "heard", ("token", "name", "kind")),
        (parts["room"].focus, page.enter, "heard", ("known", "tab")),
        (parts["roll"].submit, page.tune, "edited", ("token", "name")),
        (parts["player"].select, page.pick, "made", ("token", "file")),
        (parts["clip"].submit, page.clip, "taken", ("token", "name", "seed")),
    ):
        run = _told(gr, _shows(gr, handler, where), fields)
        event(run, None, [parts[name] for name in SHOWN], **OPTIONS)


def _from_buttons(gr: Any, page: Page, parts: Parts) -> None:
    """Handlers of buttons, and the components whose values they take."""
    for event, handler, where, names in (
        (parts["pieces"].input, page.open, "heard", "token pieces"),
        (parts["make"].click, page.make, "made", "token steer seed count seconds"),
        (parts["cancel"].click, page.cancel, "made", "token"),
        (parts["compose"].click, page.compose, "edited", "token steer seed seconds"),
        (parts["save"].click, page.save, "edited", "token roll"),
        (parts["perform"].click, page.perform, "edited", "token roll steer seed"),
        (parts["again"].click, page.again, "edited", "token roll steer seed player"),
        (parts["take"].click, page.take, "taken", "token player what length"),
    ):
        inputs = [parts[name] for name in names.split()]
        event(_shows(gr, handler, where), inputs, [parts[name] for name in SHOWN], **OPTIONS)
