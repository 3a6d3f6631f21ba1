"""Serves the page on this machine alone, with uploads, files, music while it is made, and live sound."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import webbrowser
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from silent2music.errors import AudioError, S2MError, require
from silent2music.files import atomic_path
from silent2music.studio import session as sessions
from silent2music.studio.layout import build
from silent2music.studio.project import Project
from silent2music.studio.session import Desk, Session

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


class Doors:
    """What the page's script asks for beside Gradio's own: files in and out, sound, and to be forgotten.

    Args:
        desk: whose files and sound these are.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self) -> list[Any]:
        """Of an ASGI application."""
        from starlette.routing import Route

        own = Path(__file__).parent
        return [
            Route("/studio/studio.js", _own(own / "studio.js", "text/javascript")),
            Route("/studio/studio.css", _own(own / "studio.css", "text/css")),
            Route("/studio/{token}/upload", self._of_tab(self._upload), methods=["POST"]),
            Route("/studio/{token}/file/{name}", self._of_tab(self._file)),
            Route("/studio/{token}/stream/{number:int}", self._of_tab(self._stream)),
            Route("/studio/{token}/live", self._of_tab(self._begin_live), methods=["POST"]),
            Route("/studio/{token}/live/{number:int}", self._of_tab(self._live), methods=["POST"]),
            Route("/studio/{token}/leave", self._of_tab(self._leave), methods=["POST"]),
        ]

    def _of_tab(self, answer: Callable[..., Any]) -> Callable[..., Any]:
        """An endpoint for a tab that is open; errors are sentences."""
        from starlette.responses import JSONResponse

        async def endpoint(request: Any) -> Any:
            tab = self._desk.sessions.get(request.path_params["token"])
            if tab is None:
                return JSONResponse({"error": "The page has been closed meanwhile; load it again."}, 404)
            try:
                return await answer(request, tab)
            except S2MError as error:
                return JSONResponse({"error": str(error)}, 400)

        return endpoint

    async def _upload(self, request: Any, tab: Session) -> Any:
        from starlette.requests import ClientDisconnect
        from starlette.responses import JSONResponse

        name, is_room = request.query_params.get("name", ""), request.query_params.get("kind") == "room"
        path = self._desk.place(tab, name, is_room)
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

    async def _file(self, request: Any, tab: Session) -> Any:
        from starlette.responses import FileResponse, JSONResponse

        path = self._desk.file_of(tab, request.path_params["name"])
        if path is None:
            return JSONResponse({"error": "There is no such file in this piece."}, 404)
        return FileResponse(path, filename=path.name, content_disposition_type="inline")

    async def _stream(self, request: Any, tab: Session) -> Any:
        from starlette.concurrency import iterate_in_threadpool
        from starlette.responses import JSONResponse, StreamingResponse

        job = tab.jobs.get(request.path_params["number"])
        if job is None:
            return JSONResponse({"error": "There is no such music."}, 404)

        async def until_gone() -> AsyncIterator[bytes]:
            try:
                async for block in iterate_in_threadpool(job.heard()):
                    yield block
            finally:
                if job.live:
                    self._desk.hands.cancel(job)

        return StreamingResponse(until_gone(), media_type="application/octet-stream")

    async def _begin_live(self, request: Any, tab: Session) -> Any:
        from starlette.responses import JSONResponse

        words = ["infer", "-", "--stream", "--raw", *self._desk.model_words]
        job = self._desk.run(tab, words, self._desk.hands, self._desk.folder, live=True)
        return JSONResponse({"number": job.number})

    async def _live(self, request: Any, tab: Session) -> Any:
        from starlette.responses import JSONResponse

        job = tab.jobs.get(request.path_params["number"])
        if job is None or job.ended.is_set():
            return JSONResponse({"said": job.said if job else "", "over": True})
        self._desk.hands.hear(job, await request.body())
        return JSONResponse({})

    async def _leave(self, request: Any, tab: Session) -> Any:
        from starlette.responses import Response

        self._desk.leave(tab.token)
        return Response(status_code=204)


def _own(path: Path, kind: str) -> Callable[..., Any]:
    """A file of the package."""

    async def endpoint(request: Any) -> Any:
        from starlette.responses import FileResponse

        return FileResponse(path, media_type=kind, headers={"cache-control": "no-cache"})

    return endpoint


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
    app.router.routes.extend(Doors(desk).routes())
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
