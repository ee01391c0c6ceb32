"""Where the page is served: HOST:PORT, and whether others can reach it there."""

from __future__ import annotations

import argparse
import ipaddress
import re
import socket
from dataclasses import dataclass

from dvfl_runtime.errors import ArgumentError, DvflError
from dvfl_runtime.errors.packages import needed

LOOPBACK = "127.0.0.1"
TOKEN_VARIABLE = "DVFL_TOKEN"  # of the environment, for a command line without a token
MAX_PORT = 65535
BACKLOG = 1024  # with the usual 128, a rush of connections makes clients retry after a second
_HOST_AND_PORT = re.compile(r"(?:(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]*):)?([0-9]{1,5})")


@dataclass(frozen=True)
class Address:
    """A host and a port to listen at.

    Attributes:
        host: a name or an IP address, IPv6 without brackets.
        port: 0 for any free one.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return the address of PORT, :PORT or HOST:PORT.

        Raises:
            ArgumentError: for any other text.
        """
        match = _HOST_AND_PORT.fullmatch(text)
        if match is None or int(match[2]) > MAX_PORT:
            raise ArgumentError(
                f"must be PORT or HOST:PORT with a port from 0 to {MAX_PORT}, got {text!r}"
            )
        return cls((match[1] or LOOPBACK).strip("[]"), int(match[2]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether it can be reached from this machine only."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # any other name may stand for another address tomorrow
            return False


def address_argument(text: str) -> Address:
    """Read an address, for argparse."""
    try:
        return Address.parse(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(str(err)) from err


def listen(address: Address, token: str | None) -> tuple[socket.socket, Address]:
    """Return a listening socket, and its address with the port that it got.

    Args:
        address: where to listen.
        token: that every request will need; `None` for none.

    Raises:
        DvflError: if others can reach the address and there is no token, if the address is taken or
            not one of this machine, or if a package for serving is not installed.
    """
    if token is None and not address.is_loopback:
        raise DvflError(
            f"{address.host} can be reached by others: pass --token TOKEN or set {TOKEN_VARIABLE}, "
            f"which they have to know, or serve at {LOOPBACK}"
        )
    with needed("--serve", "starlette", "uvicorn"):
        import starlette  # noqa: F401 - used later; imported here to fail before any work
        import uvicorn  # noqa: F401
    # localhost is not looked up, so that it cannot become another address
    host = LOOPBACK if address.host.lower() == "localhost" else address.host
    try:
        family, *_, where = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM)[0]
        opened = socket.create_server(where, family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as err:
        # Python adds the address a second time, in brackets
        reason = str(getattr(err, "strerror", None) or err).partition(" (while ")[0]
        raise DvflError(
            f"cannot serve at {address}: {reason}; choose an address of this machine and a free "
            "port, or port 0 for any free one"
        ) from err
    return opened, Address(address.host, opened.getsockname()[1])
