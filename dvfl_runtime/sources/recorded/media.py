"""Videos that are not files on disk: bytes, binary file objects, and addresses."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

from dvfl_runtime.errors import SourceError
from dvfl_runtime.errors.addresses import printable, reason_of, shown

NAMELESS = "video"  # name of bytes


@runtime_checkable
class Readable(Protocol):
    """A binary file object, such as `open(path, "rb")` or `io.BytesIO`."""

    def read(self, size: int, /) -> bytes: ...  # noqa: D102 - these are io.BufferedIOBase's

    def seek(self, offset: int, whence: int = 0, /) -> int: ...  # noqa: D102

    def tell(self) -> int: ...  # noqa: D102


class Opened(Readable, Protocol):
    """A file object that is read until it is closed."""

    def close(self) -> None: ...  # noqa: D102


class Media(Protocol):
    """A video that can be read as often as it is opened.

    Attributes:
        name: how predictions and log lines call it.
        advice: what may help if it cannot be decoded; empty for the advice for any file.
    """

    name: str
    advice: str

    def open(self) -> Opened:
        """Return a file object at its beginning.

        Raises:
            SourceError: if it cannot be read.
        """
        ...

    def stop(self) -> None:
        """End a read that is waiting; may be called from any thread."""
        ...


Video: TypeAlias = Path | Media


class FileObject:
    """The caller's binary file object, read from its beginning; it stays open.

    Raises:
        SourceError: if it is a text file, closed, or cannot be read twice, as a pipe cannot.
    """

    advice = ""

    def __init__(self, file: Readable) -> None:
        self.name = media_name(file)
        self._file = file
        problem = None
        if isinstance(file, io.TextIOBase):
            problem = "is open as text; open it with 'rb'"
        elif getattr(file, "closed", False):
            problem = "is closed; open it again"
        elif not getattr(file, "seekable", lambda: True)():
            problem = "cannot be read from its beginning again; pass the bytes, file.read()"
        if problem:
            raise SourceError(f"the file object {self.name} {problem}")

    def open(self) -> Opened:
        """Return it at its beginning."""
        try:
            self._file.seek(0)
        except (OSError, ValueError) as err:
            raise SourceError(f"cannot read the file object {self.name}: {err}") from err
        return CheckedReader(self._file, self.name)

    def stop(self) -> None:
        """Do nothing: how long a read takes is up to the object."""


class CheckedReader:
    """A file object as libav reads one: what it raises is an OSError, and its data are checked.

    Args:
        file: to read.
        name: of the video.
        close: what closes it; nothing if the object is the caller's.
    """

    def __init__(self, file: Readable, name: str, close: Callable[[], None] = lambda: None) -> None:
        self.name = f"video{os.path.splitext(name)[1]}"  # libav looks at the suffix
        self._file = file
        self.seek = file.seek
        self.tell = file.tell
        self.close = close

    def read(self, size: int, /) -> bytes:
        """Read up to `size` bytes.

        Raises:
            OSError: if the object fails, or returns anything but that.
        """
        try:
            data = self._file.read(size)
        except Exception as err:  # it was closed, or is a storage with errors of its own
            raise OSError(reason_of(err) or type(err).__name__) from err
        if not isinstance(data, bytes) or len(data) > size:
            raise OSError(f"its read({size}) has to return at most {size} bytes")
        return data


def media_name(source: object) -> str:
    """Return the name of bytes or of a file object."""
    name = getattr(source, "name", None)
    return shown(name) if isinstance(name, str) and name else NAMELESS


def advice_of(video: Video, otherwise: str) -> str:
    """Return what may help if a video cannot be decoded."""
    return otherwise if isinstance(video, Path) else video.advice or otherwise


def name_of(video: Video) -> str:
    """Return what predictions and log lines call a video."""
    return printable(str(video)) if isinstance(video, Path) else video.name
