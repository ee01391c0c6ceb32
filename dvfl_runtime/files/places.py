"""Where an output goes: a regular file, there already or not, or something to write into."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from pathlib import Path
from typing import TypeAlias

from dvfl_runtime.errors.outputs import cannot_write
from dvfl_runtime.interrupts import asked_to_end

PathLike: TypeAlias = "str | os.PathLike[str]"

BINARY: int = getattr(os, "O_BINARY", 0)  # without it Windows writes line ends of its own
READER_CHECK_S = 0.1  # between two attempts to open a pipe that has no reader yet


class Place:
    """The place of an output, checked before anything is written.

    Attributes:
        path: as the user wrote it.
        found: the status of what exists there, `None` if nothing does.
        regular: whether it is a regular file, or will be one.
        target: the file that links lead to; for anything else than a regular file, `path`.

    Raises:
        OutputError: if nothing can be written there.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        self.found: os.stat_result | None = None
        try:
            with contextlib.suppress(FileNotFoundError):
                self.found = os.stat(path)
            name = os.fspath(path)
            if not name:
                raise FileNotFoundError(errno.ENOENT, "the name is empty")
            if name.endswith(os.sep) or (self.found and stat.S_ISDIR(self.found.st_mode)):
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
            self._standard_stream = self._find_standard_stream()
            if self.found and self._standard_stream is None and not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except (OSError, ValueError) as err:  # ValueError: a zero byte in the name
            raise cannot_write(path, err) from err
        self.regular = self._standard_stream is None and (
            self.found is None or stat.S_ISREG(self.found.st_mode)
        )
        self.target = Path(os.path.realpath(path)) if self.regular else self.path
        if self.found is None and os.path.lexists(self.target):
            # `realpath` resolves "folder/.." without asking whether there is such a folder
            raise cannot_write(path, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))

    def open(self, flags: int = 0) -> int:
        """Open the place for writing and return the descriptor; wait for the reader of a pipe.

        Raises:
            OSError: if that fails.
        """
        if self._standard_stream is not None:
            return os.dup(self._standard_stream)
        if self.regular:
            flags |= os.O_WRONLY | os.O_CREAT | BINARY
            return os.open(self.target, flags, 0o666)
        assert self.found is not None
        if not stat.S_ISFIFO(self.found.st_mode):
            return os.open(self.target, os.O_WRONLY)
        while True:
            try:
                # without O_NONBLOCK a request to end could not interrupt the wait for a reader
                return os.open(self.target, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as err:
                if err.errno != errno.ENXIO:
                    raise
                if asked_to_end():
                    raise BrokenPipeError(errno.EPIPE, "nobody reads this pipe") from err
            time.sleep(READER_CHECK_S)

    def _find_standard_stream(self) -> int | None:
        """Return 1 or 2 if this is standard output or error by another name, as /dev/stdout is."""
        for number in (1, 2):
            with contextlib.suppress(OSError):
                if self.found and os.path.samestat(self.found, os.fstat(number)):
                    return number
        return None


def file_identity(path: PathLike) -> tuple[int, int] | str:
    """Return what all names of one file have in common: device and inode, else the real path."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return os.path.realpath(path)
    return found.st_dev, found.st_ino
