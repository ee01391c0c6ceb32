"""Video files at http:// and https:// addresses, read in ranges of bytes."""

from __future__ import annotations

import os
import re
import threading
from typing import TYPE_CHECKING

from dvfl_runtime.errors import SourceError
from dvfl_runtime.errors.addresses import shown
from dvfl_runtime.sources.web import failure_reason, path_of, request

if TYPE_CHECKING:
    from http.client import HTTPResponse

PAUSES_S = (0.5, 1.0, 2.0, 4.0)  # before a lost connection is made again
# Bytes. Up to so far ahead the connection is read on, which is faster than a new request.
MAX_SKIP = 1 << 20


class WebVideo:
    """A video file at an address.

    Attributes:
        name: the address without its secrets.
        advice: what may help if it cannot be decoded.
    """

    def __init__(self, url: str) -> None:
        self.name = shown(url)
        self.advice = ""
        self._url = url
        self._stopped = threading.Event()

    def open(self) -> WebFile:
        """Connect.

        Raises:
            SourceError: if it cannot be opened.
        """
        try:
            file = WebFile(self._url, self._stopped)
        except OSError as err:
            raise SourceError(f"cannot open {self.name}: {err}; check the address") from err
        if file.is_page:
            self.advice = (
                "the server answers with a web page (text/html), not a video; check the address"
            )
        elif not file.seekable():
            self.advice = (
                "its server does not tell its length, so it can only be read if its index is at "
                "its beginning: download it and pass the file"
            )
        return file

    def stop(self) -> None:
        """End a read that is waiting to connect again."""
        self._stopped.set()


class WebFile:
    """A file at an address, with the methods that libav needs: read, seek and tell.

    A server without support for ranges is read from the beginning again for each step back.

    Args:
        url: the address.
        stopped: once it is set, no lost connection is made again.

    Attributes:
        is_page: whether the server calls it a web page.

    Raises:
        SourceError: if the server refuses it.
        OSError: if it cannot be reached.
    """

    def __init__(self, url: str, stopped: threading.Event) -> None:
        self.name = f"video{os.path.splitext(path_of(url))[1]}"  # libav looks at the suffix
        self._url = url
        self._stopped = stopped
        self._position = 0  # of the next read
        self._size: int | None = None
        self._answer: HTTPResponse | None = None
        self._answer_position = 0  # of the next byte that the connection sends
        self._has_ranges = True
        self.is_page: bool = self._request().headers.get_content_type() == "text/html"

    def seekable(self) -> bool:
        """Return whether the size is known."""
        return self._size is not None

    def tell(self) -> int:
        """Return the position of the next read, bytes."""
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        """Set the position of the next read and return it."""
        self._position = offset + (0, self._position, self._size or 0)[whence]
        return self._position

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes; a lost connection is made again.

        Raises:
            OSError: if that does not help.
        """
        from http.client import HTTPException

        for pause_s in (*PAUSES_S, None):
            try:
                return self._read(size)
            except (OSError, HTTPException) as err:
                self.close()
                if pause_s is None or self._stopped.wait(pause_s):
                    reason = failure_reason(err)
                    raise ConnectionError(f"the connection is lost: {reason}") from err
            except SourceError as err:
                raise ConnectionError(str(err)) from err
        raise AssertionError

    def close(self) -> None:
        """Close the connection."""
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.close()

    def _read(self, size: int) -> bytes:
        if self._size is not None and self._position >= self._size:
            return b""
        ahead = self._position - self._answer_position
        if self._answer is None or ahead < 0 or (ahead > MAX_SKIP and self._has_ranges):
            self._request()
        while (skip := self._position - self._answer_position) > 0 and self._receive(skip):
            pass
        data = self._receive(size)
        if not data and self._size is not None:
            raise ConnectionError("it ended too early")
        self._position += len(data)
        return data

    def _receive(self, size: int) -> bytes:
        assert self._answer is not None
        data = self._answer.read1(min(size, MAX_SKIP))
        self._answer_position += len(data)
        return data

    def _request(self) -> HTTPResponse:
        """Request the file from the position of the next read on."""
        self.close()
        self._answer = answer = request(self._url, self._position)
        headers = answer.headers
        found = re.fullmatch(r"bytes ([0-9]+)-[0-9]+/([0-9]+)", headers.get("Content-Range", ""))
        if found and answer.status == 206:
            self._answer_position, self._size = int(found[1]), int(found[2])
        else:  # the whole file
            self._has_ranges = not self._position
            length = headers.get("Content-Length", "")
            self._answer_position, self._size = 0, int(length) if length.isdecimal() else None
        return answer
