"""The terminal of a command: standard output that may lose its reader, and a line of progress."""

from __future__ import annotations

import contextlib
import sys
import time

from dvfl_runtime.arguments import say
from dvfl_runtime.console.output import format_time
from dvfl_runtime.files.row_files import ByteSink, Descriptor, RowStream
from dvfl_runtime.sources import Source


class StandardOutput(RowStream):
    """Standard output, which drops rows quietly once its reader has gone (`... | head`)."""

    def __init__(self) -> None:
        out: ByteSink
        try:
            out, encoding = Descriptor(sys.stdout.fileno()), sys.stdout.encoding
        except (OSError, ValueError):  # an object without a descriptor, as in a notebook
            out, encoding = _StreamObject(), "utf-8"
        with contextlib.suppress(OSError):  # a reader that has gone is noticed at the first row
            sys.stdout.flush()  # text that is still in its buffer comes first
        super().__init__(out, "standard output", encoding)


class _StreamObject:
    """The object in the place of `sys.stdout` that a notebook or a test has put there."""

    def write(self, data: bytes) -> bool:
        sys.stdout.write(data.decode())
        sys.stdout.flush()
        return True


class Progress:
    """One line on the terminal: how much of the source is done, and how long the rest will take.

    It is shown only if standard error is a terminal and the rows do not go to one.

    Args:
        source: the source that is read; `None` for several that run together.
        shown: whether it may share a terminal with standard output, which then gets few rows.
    """

    def __init__(self, source: Source | None, *, shown: bool) -> None:
        self._source = source
        self._shown = sys.stderr.isatty() and (shown or not sys.stdout.isatty())
        self._begin_s = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.hide()

    def hide(self) -> None:
        """Clear the line for other text, until the next `show`."""
        self._put("")

    def show(self, name: str, done_s: float) -> None:
        """Show that the source called `name` is done up to `done_s`."""
        total_s = self._source.duration_s if self._source is not None else None
        if not total_s or done_s <= 0:
            self._put(f"{name}  {format_time(done_s)}")
            return
        part = min(done_s / total_s, 1.0)
        left_s = round((time.monotonic() - self._begin_s) * (1 / part - 1))
        self._put(f"{name}  {part:4.0%}  ETA {left_s // 60}:{left_s % 60:02}")

    def _put(self, text: str) -> None:
        if self._shown:
            say(f"\r\x1b[K{text}")
