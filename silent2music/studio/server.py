"""Serves the page on this machine alone, with uploads, files, music while it is made, and live sound."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import webbrowser
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from silent2music.errors import AudioError, S2MError, require
from silent2music.export.streaming import wav_header
from silent2music.files import atomic_path
from silent2music.studio import session as sessions
from silent2music.studio.page import build
from silent2music.studio.project import Project
from silent2music.studio.session import Desk

HOST = "127.0.0.1"

NAMES = ("127.0.0.1", "localhost")
"""Any other name of this machine is refused: a page of another site might have given it that name."""

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; connect-src 'self'; "
    "worker-src 'self' blob:; frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
)
"""What the browser may load, which is nothing from outside."""

CLOSED = ("/gradio_api/upload", "/gradio_api/file", "/gradio_api/proxy", "/gradio_api/stream")
"""Doors of Gradio that this page does not use."""


class Guard:
    """ASGI middleware: answers this machine alone, with a policy that keeps the page to itself.

    Args:
        app: what is guarded.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1").rpartition(":")[0]
        if host not in NAMES or scope["path"].startswith(CLOSED):
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [
                    (b"content-security-policy", POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                ]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        await self._app(scope, receive, answer)


def routes(desk: Desk) -> list[Any]:
    """What the page's script asks for beside Gradio's own: files in and out, sound, and to be forgotten."""
    from starlette.requests import ClientDisconnect
    from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    def of_tab(answer: Callable[..., Any]) -> Callable[..., Any]:
        async def endpoint(request: Any) -> Any:
            tab = desk.sessions.get(request.path_params["token"])
            if tab is None:
                return JSONResponse({"error": "The page has been closed meanwhile; load it again."}, 404)
            try:
                return await answer(request, tab)
            except S2MError as error:
                return JSONResponse({"error": str(error)}, 400)

        return endpoint

    async def upload(request: Any, tab: Any) -> Any:
        name, is_room = request.query_params.get("name", ""), request.query_params.get("kind") == "room"
        path = desk.place(tab, name, is_room)
        most = min(sessions.MAX_UPLOAD_BYTES, shutil.disk_usage(path.parent).free - sessions.SPARE_BYTES)
        n_bytes = 0
        try:
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                async for chunk in request.stream():
                    n_bytes += len(chunk)
                    if n_bytes > most:
                        raise AudioError(
                            f"{path.name} has more than {most / 1e6:,.0f} MB, too large for this page or disk."
                        )
                    file.write(chunk)
        except (ClientDisconnect, S2MError) as error:
            if is_room:
                shutil.rmtree(path.parent, ignore_errors=True)
            return JSONResponse({"error": str(error)}, 400)
        if is_room:
            Project(path.parent, path.name).save()  # from now on it is not lost
        return JSONResponse({"name": path.name})

    async def file(request: Any, tab: Any) -> Any:
        path = desk.file_of(tab, request.path_params["name"])
        if path is None:
            return JSONResponse({"error": "There is no such file in this piece."}, 404)
        return FileResponse(path, filename=path.name, content_disposition_type="inline")

    async def stream(request: Any, tab: Any) -> Any:
        job = tab.jobs.get(int(request.path_params["number"]))
        if job is None:
            return JSONResponse({"error": "There is no such music."}, 404)

        def sound() -> Iterator[bytes]:
            is_first = not job.live
            for block in job.heard():
                if is_first:
                    n = round(float(request.query_params.get("seconds", 0)) * job.sample_rate) or None
                    yield wav_header(job.sample_rate, job.n_channels, n)
                    is_first = False
                yield block

        async def until_gone() -> AsyncIterator[bytes]:
            from starlette.concurrency import iterate_in_threadpool

            try:
                async for block in iterate_in_threadpool(sound()):
                    yield block
            finally:
                if job.live:
                    desk.hands.cancel(job)

        return StreamingResponse(until_gone(), media_type="audio/wav")

    async def live(request: Any, tab: Any) -> Any:
        if "number" not in request.path_params:
            words = ["infer", "-", "--stream", "--raw", *desk.model_words]
            job = desk.run(tab, words, desk.hands, desk.folder, live=True)
            return JSONResponse({"number": job.number, "words": words})
        job = tab.jobs.get(int(request.path_params["number"]))
        if job is not None:
            desk.hands.hear(job, await request.body())
        return JSONResponse({"said": job.said, "over": True} if job is None or job.ended.is_set() else {})

    async def leave(request: Any, tab: Any) -> Any:
        desk.leave(tab.token)
        return Response(status_code=204)

    def own(name: str, kind: str) -> Callable[..., Any]:
        async def endpoint(request: Any) -> Any:
            return FileResponse(
                Path(__file__).parent / name, media_type=kind, headers={"cache-control": "no-cache"}
            )

        return endpoint

    return [
        Route("/studio/studio.js", own("studio.js", "text/javascript")),
        Route("/studio/studio.css", own("studio.css", "text/css")),
        Route("/studio/{token}/upload", of_tab(upload), methods=["POST"]),
        Route("/studio/{token}/file/{name}", of_tab(file)),
        Route("/studio/{token}/stream/{number:int}", of_tab(stream)),
        Route("/studio/{token}/live", of_tab(live), methods=["POST"]),
        Route("/studio/{token}/live/{number:int}", of_tab(live), methods=["POST"]),
        Route("/studio/{token}/leave", of_tab(leave), methods=["POST"]),
    ]


def quiet_gradio(folder: Path) -> Any:
    """Gradio, which sends nothing to anybody and keeps its files in a folder: it reads both when it is imported.

    Raises:
        S2MError: if it is not installed.
    """
    os.environ.update({"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"})
    os.environ["GRADIO_TEMP_DIR"] = str(folder.absolute() / ".gradio")
    return require("gradio", "studio")


def application(desk: Desk) -> Any:
    """The whole as an ASGI application."""
    gr = quiet_gradio(desk.folder)
    from fastapi import FastAPI

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.router.routes.extend(routes(desk))
    fonts = ("ui-sans-serif", "system-ui", "sans-serif")
    theme = gr.themes.Base(
        primary_hue="teal", neutral_hue="slate", font=fonts, font_mono=("ui-monospace", "monospace"),
        spacing_size="sm", radius_size="sm", text_size="sm",
    )  # fmt: skip
    gr.mount_gradio_app(
        app, build(desk), "/", server_name=HOST, theme=theme, footer_links=[], ssr_mode=False, show_error=False,
        enable_monitoring=False, pwa=False, mcp_server=False,
    )  # fmt: skip
    return Guard(app)


def serve(desk: Desk, port: int, is_opened: bool, tell: Callable[[str], None]) -> None:
    """Serve the page until the process is asked to end.

    Args:
        desk: what it works on; closed at the end.
        port: of this machine; 0 takes any that is free.
        is_opened: open it in the browser of this machine.
        tell: told where the page is.

    Raises:
        S2MError: if gradio is not installed, or the port is taken.
    """
    try:
        quiet_gradio(desk.folder)
        import uvicorn

        try:
            listener = socket.create_server((HOST, port), reuse_port=False)
        except OSError as error:
            raise AudioError(
                f"Port {port} cannot be used ({error.strerror}); give --port with another one."
            ) from error
        with listener:
            address = f"http://{HOST}:{listener.getsockname()[1]}"
            app = application(desk)
            tell(f"The studio is at {address}; its pieces are in {desk.folder}. Ctrl-C ends it.")
            if is_opened:
                webbrowser.open(address)
            config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
            uvicorn.Server(config).run([listener])
    finally:
        desk.close()
        sys.stdout.flush()
