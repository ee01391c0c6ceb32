"""The routes of the page, and which requests are refused."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes, urlsplit

from dvfl_runtime.errors import DvflError
from dvfl_runtime.serve.connections import MAX_HEAD_BYTES
from dvfl_runtime.serve.desk import ClipDesk
from dvfl_runtime.serve.state import PageState, SourceOnPage, whole_number

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route
    from starlette.types import ASGIApp, Receive, Scope, Send

PAGE = Path(__file__).parents[1] / "data" / "page.html"
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
PICTURE_WAIT_S = 2.0  # for a new picture; then the last one is sent again
BOUNDARY = "picture"
SAFE_METHODS = ("GET", "HEAD")  # change nothing
HEADERS = [  # of all answers, which are not for other sites, caches or frames
    ("Cache-Control", "no-store"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
]


def make_app(state: PageState, token: str | None, host: str) -> Starlette:
    """Return the application that answers all requests.

    Args:
        state: of the page.
        token: that every request needs; `None` for none.
        host: the name or address that the page is served at.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.routing import Route

    routes = _Routes(state)
    return Starlette(
        routes=[
            Route("/", routes.page),
            Route("/state", routes.state),
            Route("/events", routes.events),
            Route("/picture/{number}.jpg", routes.picture),
            Route("/picture/{number}", routes.pictures),
            *([] if state.desk is None else _desk_routes(state.desk)),
        ],
        middleware=[Middleware(_Guard, token=token, host=host)],
    )


class _Routes:
    def __init__(self, state: PageState) -> None:
        from starlette import responses

        self._responses = responses
        self._state = state
        self._page = PAGE.read_text(encoding="utf-8")

    async def page(self, _: Request) -> Response:
        """Answer with the page, which loads nothing from elsewhere and runs only its own script."""
        nonce = secrets.token_urlsafe(16)
        policy = (
            "default-src 'none'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
            f"form-action 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'"
        )
        page = re.sub(r"<(style|script)>", rf'<\1 nonce="{nonce}">', self._page)
        return self._responses.HTMLResponse(page, headers={"Content-Security-Policy": policy})

    async def state(self, _: Request) -> Response:
        """Answer with what runs and the states of the sources, as JSON."""
        return self._responses.JSONResponse(self._state.snapshot())

    async def events(self, request: Request) -> Response:
        """Answer with predictions and states as they come."""
        events = self._state.events(request.headers.get("last-event-id", ""))
        return self._responses.StreamingResponse(events, media_type="text/event-stream")

    async def picture(self, request: Request) -> Response:
        """Answer with the next picture of a source; without content as long as there was none."""
        jpeg = await self._source(request).next_picture(PICTURE_WAIT_S)
        if jpeg is None:
            return self._responses.Response(status_code=204)
        return self._responses.Response(jpeg, media_type="image/jpeg")

    async def pictures(self, request: Request) -> Response:
        """Answer with the pictures of a source, one after the other (MJPEG)."""
        return self._responses.StreamingResponse(
            self._parts(self._source(request)),
            media_type=f"multipart/x-mixed-replace; boundary={BOUNDARY}",
        )

    async def _parts(self, shown: SourceOnPage) -> AsyncIterator[bytes]:
        # a browser shows a part when the boundary after it arrives, so both are sent at once
        yield f"--{BOUNDARY}\r\n".encode()
        last = None
        while not self._state.stopped and shown.source.state != "ended":
            jpeg = await shown.next_picture(PICTURE_WAIT_S)
            if jpeg is not None and jpeg is not last:
                last = jpeg
                head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                yield head.encode() + jpeg + f"\r\n--{BOUNDARY}\r\n".encode()

    def _source(self, request: Request) -> SourceOnPage:
        from starlette.exceptions import HTTPException

        number = whole_number(request.path_params["number"])
        if number is None or number >= len(self._state.sources):
            raise HTTPException(404, "there is no such source")
        return self._state.sources[number]


def _desk_routes(desk: ClipDesk) -> list[Route]:
    """Return the routes of the part of the page that records clips."""
    from starlette.responses import PlainTextResponse, Response
    from starlette.routing import Route

    async def ask(request: Request) -> Response:
        """Ask for a clip of an action."""
        try:
            desk.ask(request.query_params.get("label", ""))
        except DvflError as err:
            return PlainTextResponse(f"{err}\n", 409)
        return Response(status_code=204)

    async def clip(request: Request) -> Response:
        """Answer with the pictures of a clip."""
        jpeg = desk.strip(whole_number(request.path_params["number"]))
        if jpeg is None:
            return PlainTextResponse("there is no such clip\n", 404)
        return Response(jpeg, media_type="image/jpeg")

    return [Route("/ask", ask, methods=["POST"]), Route("/clip/{number}.jpg", clip)]


class _Guard:
    """Refuses requests that are not allowed.

    If there is a token, these are the requests without it. If there is none, these are the requests
    that pages of other sites make in a browser on this machine: across sites, or under a name that
    was made to lead here (DNS rebinding). What changes something is never done for another site.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, host: str) -> None:
        self._app = app
        self._token = None if token is None else os.fsencode(token)
        self._names = {*LOOPBACK_NAMES, host.lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.requests import Request
        from starlette.responses import PlainTextResponse

        app = self._app
        if scope["type"] == "http":
            refusal = self._refusal(Request(scope))
            if refusal is not None:
                status, reason = refusal
                headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
                app = PlainTextResponse(f"{reason}\n", status, headers)
        await app(scope, receive, send)

    def _refusal(self, request: Request) -> tuple[int, str] | None:
        size = sum(len(name) + len(value) for name, value in request.scope["headers"])
        if size > MAX_HEAD_BYTES:  # h11 refuses them only if they come in parts
            return 431, f"headers may have {MAX_HEAD_BYTES} bytes"
        if self._token is not None:
            if not secrets.compare_digest(_token_in(request.scope), self._token):
                return 401, "this page needs its token: /?token=TOKEN"
        elif _host_name(request.headers.get("host", "")) not in self._names:
            return 400, (
                "without a token this page answers only on its own device, as 127.0.0.1 or "
                "localhost; start it with --token to open it for others"
            )
        site = request.headers.get("sec-fetch-site", "none")
        is_link = request.headers.get("sec-fetch-mode") == "navigate"
        if request.method not in SAFE_METHODS:
            is_link = False  # a form of another site navigates, too
            origin = request.headers.get("origin")
            if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
                return 403, "not for other sites"
        if site not in ("none", "same-origin") and not is_link:
            return 403, "not for other sites"
        return None


def _token_in(scope: Scope) -> bytes:
    """Return the token of a request as the bytes that were sent, which need not be text."""
    for name, value in scope["headers"]:
        scheme, _, token = value.partition(b" ")
        if name == b"authorization" and scheme.lower() == b"bearer":
            return bytes(token)
    for field in scope["query_string"].split(b"&"):
        name, _, value = field.partition(b"=")
        if name == b"token":
            return unquote_to_bytes(value.replace(b"+", b" "))
    return b""


def _host_name(host: str) -> str | None:
    """Return the name in a Host header without the port, in small letters."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
