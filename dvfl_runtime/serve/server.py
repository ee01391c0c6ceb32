"""The server of the page: a thread of its own, which is given frames and predictions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dvfl_runtime.results import Event, Info, Prediction
from dvfl_runtime.serve.app import HEADERS, make_app
from dvfl_runtime.serve.connections import (
    MAX_HEAD_BYTES,
    accept,
    limited_protocol,
    max_connections,
)
from dvfl_runtime.serve.desk import ClipDesk
from dvfl_runtime.serve.state import PageState
from dvfl_runtime.sources.observed import ObservedSource

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette

FAREWELL_S = 1  # at the end: how long a browser may take for the last events
JOIN_S = 2.0  # after that: how long the thread may take


class PageServer:
    """Serves the page.

    Args:
        listening: the socket, which is closed with the server.
        host: the name or address that it is bound to.
        token: that every request needs; `None` for none.
        info: what runs; `None` if nothing is recognised.
        labels: names of the classes.
        desk: where clips are recorded; `None` if they are not.
    """

    def __init__(
        self,
        listening: socket.socket,
        host: str,
        token: str | None,
        *,
        info: Info | None = None,
        labels: Sequence[str] = (),
        desk: ClipDesk | None = None,
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._state = PageState(info, labels, self._loop, desk)
        # asyncio warns of each browser that leaves during an answer
        logging.getLogger("asyncio").setLevel(logging.ERROR)
        self._most = max_connections()
        self._server = _uvicorn_server(make_app(self._state, token, host), self._most + 1)
        self._socket = listening
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="dvfl-server", daemon=True)
        self._thread.start()

    def watch(self, source: ObservedSource) -> None:
        """Show a source, whose name no other one has, from its first frame on."""
        self._state.watch(source)

    def write(self, prediction: Prediction) -> None:
        """Show one prediction."""
        self._state.write(prediction)

    def write_event(self, event: Event) -> None:
        """Show the start or the end of an action among the last events."""
        self._state.write_event(event)

    def close(self) -> None:
        """Send the last events to the browsers and end; further calls do nothing."""
        if self._closed:
            return
        self._closed = True
        # uvicorn logs an error for each browser that is cut off before it takes the last events
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(self._stop)
        self._thread.join(FAREWELL_S + JOIN_S)
        self._socket.close()

    def _stop(self) -> None:
        self._state.stop()
        self._server.should_exit = True

    def _run(self) -> None:
        """Serve until `close`, in the thread of the server."""
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        background = [
            asyncio.ensure_future(self._state.report_states()),
            asyncio.ensure_future(self._accept()),
        ]
        await self._server.serve(sockets=[])
        for task in background:
            task.cancel()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _accept(self) -> None:
        """Accept connections from the moment when uvicorn is ready for them."""
        config, state = self._server.config, self._server.server_state
        while not state.default_headers:  # set at the end of its start
            await asyncio.sleep(0.01)
        protocol = limited_protocol(self._most)
        await accept(
            self._socket, lambda: protocol(config=config, server_state=state, app_state={})
        )


def _uvicorn_server(app: Starlette, limit: int) -> uvicorn.Server:
    import uvicorn

    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level=logging.ERROR,
        access_log=False,
        headers=HEADERS,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limit,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        timeout_graceful_shutdown=FAREWELL_S,
    )
    return uvicorn.Server(config)
