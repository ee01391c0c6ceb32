"""The terminal of a command: standard output that may lose its reader, and a line of progress."""

from __future__ import annotations

import contextlib
import sys
import time

from dvfl_runtime.arguments import say
from dvfl_runtime.console.output import format_time
from dvfl_runtime.files.row_files import ByteSink, Descriptor, RowStream
from dvfl_runtime.sources import Source

COUNT_BAR = 20  # characters
REDRAW_S = 0.2


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


class CountProgress:
    """One line on the terminal: how many of many are done, how fast, and how long the rest takes.

    It is shown only if standard error is a terminal.

    Args:
        total: how many there are.
        done: how many of them were done before.
        unit: what is counted, in the plural.
    """

    def __init__(self, total: int, done: int, unit: str) -> None:
        self._total = total
        self._before = self._done = done
        self._unit = unit
        self._shown = sys.stderr.isatty()
        self._begin_s = time.monotonic()
        self._next_s = 0.0

    def __enter__(self) -> CountProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            say("\r\x1b[K")

    def add(self, note: str = "") -> None:
        """Count one more.

        Args:
            note: what else to show.
        """
        self._done += 1
        now_s = time.monotonic()
        if not self._shown or (now_s < self._next_s and self._done < self._total):
            return
        self._next_s = now_s + REDRAW_S
        rate = (self._done - self._before) / max(now_s - self._begin_s, 1e-3)
        left_s = round((self._total - self._done) / rate)
        filled = round(COUNT_BAR * self._done / max(self._total, 1))
        bar = "#" * filled + "-" * (COUNT_BAR - filled)
        say(
            f"\r\x1b[K[{bar}] {self._done}/{self._total} {self._unit}  {rate:.3g}/s  "
            f"ETA {left_s // 3600}:{left_s // 60 % 60:02}:{left_s % 60:02}  {note}"
        )
