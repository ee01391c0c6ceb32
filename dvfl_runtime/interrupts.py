"""Ctrl-C and requests to terminate, which must not tear what is being written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """The process was asked to end.

    Args:
        number: of the signal that asked.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class _Requests:
    """What the signal handler shares with the code that it interrupts."""

    def __init__(self) -> None:
        self.depth = 0  # of `uninterrupted` blocks in the main thread
        self.waiting: int | None = None

    def arrive(self, number: int, _: FrameType | None) -> None:
        if self.depth and self.waiting is None:
            self.waiting = number
        else:  # also a second request, which does not wait for a block that hangs
            self.waiting = None
            raise Interrupted(number)


_requests = _Requests()


@contextmanager
def interruptible() -> Iterator[None]:
    """Makes SIGINT and SIGTERM raise `Interrupted` in the block; for the main thread."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, _requests.arrive) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Lets the block run to its end: a request that arrives meanwhile raises behind it.

    Signals are handled in the main thread alone, so in others there is nothing to do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _requests.depth += 1
    try:
        yield
    finally:
        _requests.depth -= 1
        if not _requests.depth and _requests.waiting is not None:
            number, _requests.waiting = _requests.waiting, None
            raise Interrupted(number)
