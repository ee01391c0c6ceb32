"""Connections to the page: how many there may be, and how long one may stay idle."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 100  # fewer if this process may not open many files
REQUEST_S = 10.0  # for a whole request, from the connection or the previous answer on
UNREAD_S = 60  # a client that reads nothing for so long is cut off
MAX_HEAD_BYTES = 16 * 1024  # of a request: its first line and its headers
ACCEPT_PAUSE_S = 0.2  # after an error
WARNING_S = 60.0  # between two warnings about it


def max_connections() -> int:
    """Return the most connections: up to a quarter of the files that this process may open."""
    try:
        import resource  # not on Windows
    except ImportError:
        return MAX_CONNECTIONS
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if files < 0 else max(1, min(MAX_CONNECTIONS, files // 4))


async def accept(listening: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
    """Accept connections one after the other, until cancelled.

    Args:
        listening: the socket.
        protocol: makes the protocol of one connection.
    """
    loop = asyncio.get_running_loop()
    listening.setblocking(False)
    warned_s = -math.inf
    while True:
        try:
            connection, _ = await loop.sock_accept(listening)
            try:
                if hasattr(socket, "TCP_USER_TIMEOUT"):
                    option = socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT
                    connection.setsockopt(*option, UNREAD_S * 1000)
                await loop.connect_accepted_socket(protocol, connection)
            except BaseException:
                connection.close()
                raise
        except OSError as err:
            if loop.time() - warned_s > WARNING_S:
                warned_s = loop.time()
                logger.warning("the page cannot take a connection: %s", err.strerror or err)
            await asyncio.sleep(ACCEPT_PAUSE_S)


def limited_protocol(most: int) -> type[H11Protocol]:
    """Return a protocol that closes connections without a request.

    Of more than `most` connections, the one that has waited for the longest without a request is
    closed; if all are busy, uvicorn answers the newest with 503.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class LimitedProtocol(H11Protocol):
        deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            _make_room(self.connections - {self}, most)
            self._set_deadline()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._set_deadline()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._set_deadline()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._clear_deadline()

        def _set_deadline(self) -> None:
            """Start the timer unless a request is being answered; bytes do not reset it."""
            if self.cycle is not None and not self.cycle.response_complete:
                self._clear_deadline()
            elif self.deadline is None:
                self.deadline = self.loop.call_later(REQUEST_S, self.transport.abort)

        def _clear_deadline(self) -> None:
            if self.deadline is not None:
                self.deadline.cancel()
                self.deadline = None

    return LimitedProtocol


def _make_room(others: Iterable[Any], most: int) -> None:
    """Close the connection that has waited for the longest if one more would be too many."""
    connected = [other for other in others if not other.transport.is_closing()]
    waiting = [other for other in connected if other.deadline is not None]
    if len(connected) >= most and waiting:
        min(waiting, key=lambda other: other.deadline.when()).transport.abort()
