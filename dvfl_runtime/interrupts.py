"""Ctrl-C and requests to terminate, which must not cut off an output that is being written."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # the last one is not on every system
REPEAT_S = 2.0  # further requests within this time after one has raised are ignored


class Interrupted(KeyboardInterrupt):
    """The process was asked to end.

    Args:
        number: of the signal that asked.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class Requests:
    """Requests to end, shared by the signal handler and the code that it interrupts.

    Attributes:
        number: of the signal that asked first; `None` before that.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._deferring = 0  # blocks in the main thread that must not be interrupted
        self._held = False
        self._waiting = False
        self._raised_s = -REPEAT_S

    def handle(self, number: int, _: FrameType | None) -> None:
        """Handle a signal: raise `Interrupted`, at once or after a block of `uninterrupted`."""
        if self.number is None:
            self.number = number
        if self._held:
            return
        if self._deferring:
            self._waiting = True
        elif time.monotonic() - self._raised_s >= REPEAT_S:
            self._raised_s = time.monotonic()
            raise Interrupted(self.number)

    def hold(self) -> None:
        """Only remember requests from now on, so that the outputs can be completed."""
        self._held = True

    def release(self) -> None:
        """End `hold`: the next request raises again."""
        self._held = False

    def defer(self) -> None:
        """Hold requests back until `end_deferring` has been called as often."""
        self._deferring += 1

    def end_deferring(self, *, raise_now: bool) -> None:
        """End one `defer`; if `raise_now`, raise `Interrupted` for a request that was held back."""
        self._deferring -= 1
        if raise_now and self._waiting and not (self._deferring or self._held):
            self._waiting = False
            self._raised_s = time.monotonic()
            assert self.number is not None
            raise Interrupted(self.number)


_requests = Requests()


@contextmanager
def interruptible() -> Iterator[Requests]:
    """Make SIGINT, SIGTERM and SIGHUP raise `Interrupted` in the block; for the main thread.

    A signal that was ignored before, as under `nohup`, stays ignored.
    """
    global _requests  # noqa: PLW0603 - a process has one set of signal handlers
    before = {
        number: signal.getsignal(number)
        for name in NAMES
        if (number := getattr(signal, name, None)) is not None
    }
    outer, _requests = _requests, Requests()
    handled = [number for number, handler in before.items() if handler != signal.SIG_IGN]
    for number in handled:
        signal.signal(number, _requests.handle)
    try:
        yield _requests
    finally:
        for number in handled:
            signal.signal(number, before[number] or signal.SIG_DFL)
        _requests = outer


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let the block run to its end: a request that arrives during it raises after it.

    Only the main thread handles signals, so other threads need no protection.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    requests, succeeded = _requests, False
    requests.defer()
    try:
        yield
        succeeded = True
    finally:
        requests.end_deferring(raise_now=succeeded)  # an error of the block comes first


def asked_to_end() -> bool:
    """Return whether a request has arrived, also one that is held back."""
    return _requests.number is not None
