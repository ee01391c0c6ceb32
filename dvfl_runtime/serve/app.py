"""The routes of the page, and which requests are refused."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes, urlsplit

from dvfl_runtime.serve.connections import MAX_HEAD_BYTES
from dvfl_runtime.serve.pictures import Card
from dvfl_runtime.serve.state import Board, whole_number

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

PAGE = Path(__file__).parents[1] / "data" / "page.html"
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
PATIENCE_S = 2.0  # for a new picture; then the last one is sent again
BOUNDARY = "picture"
HEADERS = [  # of all answers: nothing of it is for other sites, caches or frames
    ("Cache-Control", "no-store"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
]


def make_app(board: Board, token: str | None, host: str) -> Starlette:
    """Returns the application.

    Args:
        board: what there is to tell.
        token: what every request has to bring; `None` for none.
        host: that the page is served at.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.routing import Route

    answers = _Answers(board)
    return Starlette(
        routes=[
            Route("/", answers.page),
            Route("/state", answers.state),
            Route("/events", answers.events),
            Route("/picture/{number}.jpg", answers.picture),
            Route("/picture/{number}", answers.pictures),
        ],
        middleware=[Middleware(_Guard, token=token, host=host)],
    )


class _Answers:
    def __init__(self, board: Board) -> None:
        self._board = board
        self._page = PAGE.read_text(encoding="utf-8")

    async def page(self, _: Request) -> Response:
        """The page; what it loads comes from here, and no script runs but its own."""
        from starlette.responses import HTMLResponse

        nonce = secrets.token_urlsafe(16)
        policy = (
            "default-src 'none'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
            f"form-action 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'"
        )
        page = re.sub(r"<(style|script)>", rf'<\1 nonce="{nonce}">', self._page)
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    async def state(self, _: Request) -> Response:
        """What runs and what the sources do, as JSON."""
        from starlette.responses import JSONResponse

        return JSONResponse(self._board.snapshot())

    async def events(self, request: Request) -> Response:
        """Predictions and states as they come."""
        from starlette.responses import StreamingResponse

        events = self._board.events(request.headers.get("last-event-id", ""))
        return StreamingResponse(events, media_type="text/event-stream")

    async def picture(self, request: Request) -> Response:
        """The next picture of a source; no content as long as there was none."""
        from starlette.responses import Response

        jpeg = await self._card(request).picture(PATIENCE_S)
        if jpeg is None:
            return Response(status_code=204)
        return Response(jpeg, media_type="image/jpeg")

    async def pictures(self, request: Request) -> Response:
        """The pictures of a source, one after the other (MJPEG)."""
        from starlette.responses import StreamingResponse

        return StreamingResponse(
            self._parts(self._card(request)),
            media_type=f"multipart/x-mixed-replace; boundary={BOUNDARY}",
        )

    async def _parts(self, card: Card) -> AsyncIterator[bytes]:
        # a browser shows a part when the boundary after it arrives, so both are sent at once
        yield f"--{BOUNDARY}\r\n".encode()
        last = None
        while not self._board.stopped and card.source.state != "ended":
            jpeg = await card.picture(PATIENCE_S)
            if jpeg is not None and jpeg is not last:
                last = jpeg
                head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                yield head.encode() + jpeg + f"\r\n--{BOUNDARY}\r\n".encode()

    def _card(self, request: Request) -> Card:
        from starlette.exceptions import HTTPException

        number = whole_number(request.path_params["number"])
        if number is None or number >= len(self._board.cards):
            raise HTTPException(404, "there is no such source")
        return self._board.cards[number]


class _Guard:
    """Refuses the requests that are not allowed.

    With a token, those without it. Without a token, those that pages of other sites make in a
    browser on this machine: under a name that was made to lead here (DNS rebinding), or across
    sites.
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
        if size > MAX_HEAD_BYTES:  # they came at once; in parts h11 would have refused them
            return 431, f"headers may have {MAX_HEAD_BYTES} bytes"
        if self._token is not None:
            if not secrets.compare_digest(_token_in(request.scope), self._token):
                return 401, "this page needs its token: /?token=TOKEN"
        elif _host_name(request.headers.get("host", "")) not in self._names:
            return 400, "this page is served on loopback only"
        site = request.headers.get("sec-fetch-site", "none")
        is_link = request.headers.get("sec-fetch-mode") == "navigate"
        if site not in ("none", "same-origin") and not is_link:
            return 403, "not for other sites"
        return None


def _token_in(scope: Scope) -> bytes:
    """Returns the token that a request brings, as it was sent: it need not be text."""
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
    """Returns the name in a Host header without the port, in small letters."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
