"""The windows of one source that wait for their turn, and the count of lost frames."""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Sequence

from dvfl_runtime.clips.windows import Window
from dvfl_runtime.results import TrackId


class WindowQueue:
    """Hands the windows of one source, and last of all its end, from its reader to the scheduler.

    A file has to wait while the queue is full: every frame counts. Of a live source the newest
    windows win: those of its latest frame replace the windows that wait, and the frames that no
    prediction will show are counted. Of several tracks the one comes first that had no
    turn for the longest time.

    Args:
        changed: notified of each change; its lock guards all queues of a stream.
        capacity: windows that may wait.

    Attributes:
        closed: whether no more windows will be taken.
        ended: whether the end was added.
        done: whether the end was taken.
        error: the error that ended the source, if there was one.
    """

    def __init__(self, changed: threading.Condition, capacity: int) -> None:
        self.closed = False
        self.ended = False
        self.done = False
        self.error: Exception | None = None
        self._changed = changed
        self._capacity = capacity
        self._waiting: deque[Window | None] = deque()  # None is the end
        self._covered = 0  # number of the first frame after the windows taken or counted so far
        self._taken = 0
        self._turns: dict[TrackId | None, int] = {}  # the number of the window taken last of each
        self._lost = 0  # frames that no prediction will show, since the last window taken

    def __len__(self) -> int:
        """Return how often `take` has something to return, the end included."""
        return len(self._waiting)

    def put(self, windows: Sequence[Window], *, wait: bool = True) -> None:
        """Add windows; block while the queue is full, unless `wait` is false."""
        with self._changed:
            for window in windows:
                if wait:
                    self._changed.wait_for(lambda: self.closed or len(self) < self._capacity)
                self._waiting.append(window)
                self._changed.notify_all()

    def replace(self, windows: Sequence[Window]) -> None:
        """Put newer windows, if there are any, in the place of those that wait."""
        if not windows:
            return
        with self._changed:
            for old in filter(None, self._waiting):
                end = min(old.frames[1], windows[0].frames[0])
                self._lost += old.dropped + max(0, end - max(old.frames[0], self._covered))
                self._covered = max(self._covered, end)
                old.discard()
            self._waiting.clear()
            ids = [_track_id(window) for window in windows]
            self._turns = {track_id: self._turns.get(track_id, 0) for track_id in ids}
            order = sorted(windows, key=lambda w: (w.end_s, self._turns[_track_id(w)]))
            self.put(order, wait=False)

    def end(self, error: Exception | None) -> None:
        """Add the end of the source, which came with an error or properly."""
        with self._changed:
            self.error = error
            self.ended = True
            self._waiting.append(None)
            self._changed.notify_all()

    def take(self) -> Window | None:
        """Return the next window, or `None` for the end; frames lost before it are in `dropped`."""
        with self._changed:
            window = self._waiting.popleft()
            self._changed.notify_all()
            if window is None:
                self.done = True
                return None
            self._covered = max(self._covered, window.frames[1])
            self._taken += 1
            self._turns[_track_id(window)] = self._taken
            lost, self._lost = self._lost, 0
            return dataclasses.replace(window, dropped=window.dropped + lost) if lost else window

    def close(self) -> None:
        """End the waiting of the reader."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()


def _track_id(window: Window | None) -> TrackId | None:
    return None if window is None or window.track is None else window.track.track_id
