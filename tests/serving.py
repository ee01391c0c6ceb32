"""Commands with --serve as a process, and what a client needs to talk to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from artifacts import coloured

from dvfl_runtime.sources import MemorySource
from dvfl_runtime.sources.observed import ObservedSource

READY = re.compile(r"serving at (http://\S+)")
TIMEOUT_S = 60  # of anything: a machine may be busy


class Served:
    """The command in a process of its own; killed at the end if it is still there.

    Attributes:
        url: of the page, as the command says it.
        port: that it found.
        process: the process.
    """

    def __init__(self, *words: object, module: str = "dvfl_runtime.app.cli") -> None:
        command = [sys.executable, "-m", module, *map(str, words)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if match := READY.search(line):
                self.url = match[1]
                break
        else:
            raise RuntimeError(f"it did not begin to serve: exit status {self.process.wait()}")
        self.port = urlsplit(self.url).port or 0

    def interrupt(self) -> int:
        """Ends it as Ctrl-C does and returns its exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(TIMEOUT_S)

    def errors(self) -> str:
        """Return what it wrote to standard error since, up to its end."""
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


@contextlib.contextmanager
def ask(port: int, path: str, **headers: str) -> Iterator[http.client.HTTPResponse]:
    """Yield the answer to a request, whose body may never end."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    with contextlib.closing(connection):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET", path, headers=named)
        with connection.getresponse() as answer:
            yield answer


def status(port: int, path: str, **headers: str) -> int:
    """Return the status of the answer."""
    with ask(port, path, **headers) as answer:
        return answer.status


def events(answer: http.client.HTTPResponse) -> Iterator[tuple[str, str, Any]]:
    """Yield the type, the identity and the data of server-sent events."""
    kind, number = "message", ""
    for line in answer:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name == "event":
            kind = value
        elif name == "id":
            number = value
        elif name == "data":
            yield kind, number, json.loads(value)
            kind, number = "message", ""


def stuck_client(port: int, path: str) -> socket.socket:
    """Return a connection that asks for something and never reads the answer."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return connection


def chromium() -> Path | None:
    """Return the system's Chromium, `None` where there is none."""
    return next((p for p in [Path("/usr/bin/chromium")] if p.is_file()), None)


def recognise(server, recognizer, *sources):
    observed = [ObservedSource(source) for source in sources]
    for source in observed:
        server.watch(source)
    for prediction in recognizer.stream(observed, hop_s=0.1):
        server.write(prediction)


def red(seconds):
    return MemorySource(coloured(("red", round(25 * seconds))), 25.0)
