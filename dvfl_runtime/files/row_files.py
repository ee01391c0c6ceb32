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
from dvfl_runtime.errors.outputs import cannot_write
from dvfl_runtime.files.places import PathLike, Place
from dvfl_runtime.interrupts import asked_to_end, uninterrupted

POLL_MS = 100  # between two checks of whether the process is asked to end
GRACE_S = 1.0  # once it is asked: how long the reader of a pipe may take for the rest


class ByteSink(Protocol):
    """Whatever rows are written to."""

    def write(self, data: bytes, /) -> bool:
        """Write all of the data and return whether somebody can still read it."""


class Descriptor:
    """Writes bytes whole; waits for a slow reader, but not for long when the process is to end.

    Args:
        number: of the open descriptor.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        # writing to a file never waits for a reader, and Windows has no `poll`
        self._blocking = stat.S_ISREG(os.fstat(number).st_mode) or not hasattr(select, "poll")

    def write(self, data: bytes) -> bool:
        """Write all of the data; return whether it was taken.

        Raises:
            OSError: if it cannot be written; a regular file is then cut back to its earlier length.
        """
        try:
            if self._blocking:
                self._write_file(data)
                return True
            rest = memoryview(data)
            while rest and self._wait_until_writable():
                with contextlib.suppress(BlockingIOError):
                    rest = rest[os.write(self.number, rest[: select.PIPE_BUF]) :]
            return not rest
        except BrokenPipeError:
            return False
        except OSError as err:
            if self._blocking or err.errno != errno.EIO:
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

    def _wait_until_writable(self) -> bool:
        """Block until something can be written; return False if the process has to end before."""
        poll = select.poll()
        poll.register(self.number, select.POLLOUT)
        give_up_s = None
        while not poll.poll(POLL_MS):
            if asked_to_end():
                give_up_s = give_up_s or time.monotonic() + GRACE_S
                if time.monotonic() > give_up_s:
                    return False
        return True


class RowStream:
    """Text that is written row by row; each row has left this process when `write` returns.

    Args:
        out: where the encoded rows go.
        name: of the stream, for errors.
        encoding: of the text.

    Attributes:
        reader_gone: whether nobody reads any more; rows written after that are dropped.
    """

    def __init__(self, out: ByteSink, name: str, encoding: str = "utf-8") -> None:
        self._out = out
        self._name = name
        self._encoding = encoding
        self.reader_gone = False

    def write(self, text: str) -> None:
        """Write one or more rows, whole.

        Raises:
            OutputError: if they cannot be written for another reason than a closed pipe.
        """
        if self.reader_gone:
            return
        try:
            data = text.encode(self._encoding, "backslashreplace")  # names need not be valid text
            with uninterrupted():
                self.reader_gone = not self._write_bytes(data)
        except OSError as err:
            self.reader_gone = True
            raise OutputError(f"cannot write to {self._name}: {err.strerror}") from err

    def _write_bytes(self, data: bytes) -> bool:
        return self._out.write(data)


class RowFile(RowStream):
    """A file of rows, written in place under its own name.

    The rows of an existing file stay until the first new row is written. A new file that has no
    row when the block fails is removed.

    Args:
        path: of the file.
        append: continue the rows that are there.

    Attributes:
        continues: whether there are rows before the first new one.

    Raises:
        OutputError: if it cannot be written.
    """

    def __init__(self, path: PathLike, *, append: bool = False) -> None:
        self._place = place = Place(path)
        try:
            self._number = place.open(os.O_APPEND)
        except OSError as err:
            raise cannot_write(path, err) from err
        super().__init__(Descriptor(self._number), str(path))
        self.continues = bool(append and place.regular and place.found and place.found.st_size)
        self._begun = False

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            os.close(self._number)
        except OSError as err:  # a file system of the network may report errors only now
            if kind is None:
                raise cannot_write(self._place.path, err) from err
        if kind is not None and not self._begun and self._place.found is None:
            self._place.target.unlink(missing_ok=True)

    def _write_bytes(self, data: bytes) -> bool:
        if not self._begun:
            self._begun = True
            if self.continues:
                data = b"\n" + data if self._last_row_is_torn() else data
            elif self._place.regular:
                os.ftruncate(self._number, 0)
        return super()._write_bytes(data)

    def _last_row_is_torn(self) -> bool:
        """Return whether the last row has no end, as after a power cut."""
        with contextlib.suppress(OSError), self._place.target.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() != b"\n"
        return False
