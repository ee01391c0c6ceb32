"""Text that is written row by row, each row whole, to a file, a pipe or a terminal."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
import time
from typing import Protocol

from dvfl_runtime.errors import OutputError
from dvfl_runtime.interrupts import asked_to_end, uninterrupted

LOOK_MS = 100  # between two looks at whether the process is asked to end
GRACE_S = 1.0  # once it is asked: how long the reader of a pipe may take for the rest


class Taker(Protocol):
    """What rows are handed to."""

    def write(self, data: bytes, /) -> bool:
        """Takes all of it and returns whether it still has a reader."""


class Descriptor:
    """Writes bytes whole; waits for a slow reader, but not for long when the process is to end.

    Args:
        number: of the open descriptor.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._patient = stat.S_ISREG(os.fstat(number).st_mode) or not hasattr(select, "poll")

    def write(self, data: bytes) -> bool:
        """Writes all of it; returns whether it was taken.

        Raises:
            OSError: if it cannot be written; a regular file then ends with what was there before.
        """
        try:
            if self._patient:
                self._write_file(data)
                return True
            rest = memoryview(data)
            while rest and self._is_ready():
                with contextlib.suppress(BlockingIOError):
                    rest = rest[os.write(self.number, rest[: select.PIPE_BUF]) :]
            return not rest
        except BrokenPipeError:
            return False
        except OSError as err:
            if self._patient or err.errno != errno.EIO:
                raise
            return False  # a terminal that was closed

    def _write_file(self, data: bytes) -> None:
        before, rest = os.fstat(self.number), memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self.number, rest) :]
        except OSError:
            if len(rest) < len(data) and stat.S_ISREG(before.st_mode):
                with contextlib.suppress(OSError):
                    os.ftruncate(self.number, before.st_size)
            raise

    def _is_ready(self) -> bool:
        """Waits until something can be written; returns False if the process has to end before."""
        poll = select.poll()
        poll.register(self.number, select.POLLOUT)
        give_up_s = None
        while not poll.poll(LOOK_MS):
            if asked_to_end():
                give_up_s = give_up_s or time.monotonic() + GRACE_S
                if time.monotonic() > give_up_s:
                    return False
        return True


class Rows:
    """Text that is written row by row; each has left this process when `write` returns.

    Args:
        out: takes them.
        name: what it is called.
        encoding: of the text.

    Attributes:
        gone: whether the reader has gone; what is written after that goes nowhere.
    """

    def __init__(self, out: Taker, name: str, encoding: str = "utf-8") -> None:
        self._out = out
        self._name = name
        self._encoding = encoding
        self.gone = False

    def write(self, text: str) -> None:
        """Writes one or more rows, whole.

        Raises:
            OutputError: if they cannot be written for another reason than a closed pipe.
        """
        if self.gone:
            return
        try:
            data = text.encode(self._encoding, "backslashreplace")  # names need not be valid text
            with uninterrupted():
                self.gone = not self._put(data)
        except OSError as err:
            self.gone = True
            raise OutputError(f"cannot write to {self._name}: {err.strerror}") from err

    def flush(self) -> None:
        """Does nothing: `write` has done it."""

    def _put(self, data: bytes) -> bool:
        return self._out.write(data)
