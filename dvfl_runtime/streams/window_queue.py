"""The windows of one source that wait for their turn, and the count of the frames that are lost."""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Sequence

from dvfl_runtime.clips.windows import Window


class WindowQueue:
    """Hands the windows of one source, and then its end, from its reader to the scheduler.

    A file has to wait while the queue is full: every frame counts. Of a live source the newest
    windows win: those of its latest frame replace the windows that wait, and the frames that no
    prediction will show are counted.

    Args:
        changed: notified of each change; its lock guards all queues of a stream.
        capacity: windows that may wait.

    Attributes:
        closed: whether nobody will take windows any more.
        ended: whether the source has ended; windows of it may still wait.
        error: what ended the source, if that was an error.
    """

    def __init__(self, changed: threading.Condition, capacity: int) -> None:
        self.closed = False
        self.ended = False
        self.error: Exception | None = None
        self._changed = changed
        self._capacity = capacity
        self._waiting: deque[Window] = deque()
        self._covered = 0  # number of the first frame after the windows taken or counted so far
        self._lost = 0  # frames that no prediction will show, since the last window taken

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, windows: Sequence[Window]) -> None:
        """Add windows; block while the queue is full."""
        with self._changed:
            for window in windows:
                self._changed.wait_for(lambda: self.closed or len(self) < self._capacity)
                if self.closed:
                    return
                self._waiting.append(window)
                self._changed.notify_all()

    def put_over_capacity(self, windows: Sequence[Window]) -> None:
        """Add windows at once, however many wait."""
        with self._changed:
            self._waiting.extend(windows)
            self._changed.notify_all()

    def replace(self, windows: Sequence[Window]) -> None:
        """Put newer windows, if there are any, in the place of those that wait."""
        if not windows:
            return
        with self._changed:
            for old in self._waiting:
                end = min(old.frames[1], windows[0].frames[0])
                self._lost += old.dropped + max(0, end - max(old.frames[0], self._covered))
                self._covered = max(self._covered, end)
                old.discard()
            self._waiting = deque(windows)
            self._changed.notify_all()

    def take(self) -> Window:
        """Return the next window; frames lost since the one before count as dropped."""
        with self._changed:
            window = self._waiting.popleft()
            self._covered = max(self._covered, window.frames[1])
            lost, self._lost = self._lost, 0
            self._changed.notify_all()
        return dataclasses.replace(window, dropped=window.dropped + lost)

    def end(self, error: Exception | None) -> None:
        """Note that the source has ended, with an error or properly."""
        with self._changed:
            self.ended, self.error = True, error
            self._changed.notify_all()

    def close(self) -> None:
        """End the waiting of the reader."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()
