"""One source, read in a thread of its own: opened, cut into windows, and handed to a queue."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import closing

from dvfl_runtime.clips.source_windows import SourceWindows
from dvfl_runtime.sources import Source, SourceLike, display_name, open_source
from dvfl_runtime.streams.window_queue import WindowQueue

_logger = logging.getLogger(__name__)

JOIN_S = 5.0  # how long the thread of a closed source may take to end


class SourceReader(threading.Thread):
    """Reads one source while the engine works.

    Args:
        source: the source; a `Source` of the caller's stays open.
        suffix: text after its name, to tell it from others of the same name.
        windows: reads its frames and cuts them into windows.
        queue: where the windows wait; nothing more is read when it is closed.
        fps: frames per second of sources without timestamps.

    Attributes:
        source_name: name of the source; before it is open, its display name.
    """

    def __init__(
        self,
        source: SourceLike,
        suffix: str,
        windows: SourceWindows,
        queue: WindowQueue,
        fps: float | None,
    ) -> None:
        self.source_name = display_name(source) + suffix
        super().__init__(name=f"dvfl-reader {self.source_name}", daemon=True)
        self._source = source
        self._suffix = suffix
        self._windows = windows
        self._queue = queue
        self._fps = fps
        self._opened: Source | None = None

    def end_pause(self) -> None:
        """Hand over the last windows of a live source that has paused.

        The caller holds the lock of the queue, so that the end cannot come between.
        """
        if not self._queue.ended:
            self._queue.put(self._windows.end_pause(), wait=False)

    def close_source(self) -> None:
        """Close the source, unless it is a `Source` of the caller's."""
        if self._opened is not None and self._opened is not self._source:
            self._opened.close()

    def wait_for_end(self, give_up_s: float) -> None:
        """Block until the thread, whose queue and source are closed, has ended.

        Args:
            give_up_s: the time, `time.monotonic`, at which a source of the caller's is closed too,
                because it keeps the thread waiting.
        """
        if self is threading.current_thread() or not self.is_alive():
            return  # the reader itself ends the stream if it collects it as garbage
        if self._opened is not None and self._opened is self._source:
            self.join(max(0.0, give_up_s - time.monotonic()))
            if self.is_alive():
                self._opened.close()
        self.join(JOIN_S)
        if self.is_alive():
            _logger.warning(
                "%s does not end; its thread goes on in the background", self.source_name
            )

    def run(self) -> None:
        """Read the source to its end, in the thread."""
        error: Exception | None = None
        try:
            try:
                self._read_windows()
            finally:  # the frames read so far count, whatever ended the source
                self._queue.put(self._windows.finish())
        except Exception as err:  # raised again in the thread that asks for predictions
            error = err
        finally:
            self._queue.end(error)

    def _read_windows(self) -> None:
        opened = open_source(self._source, fps=self._fps)
        try:
            self._opened = opened
            self.source_name = opened.name + self._suffix
            hand_over = self._queue.replace if opened.live else self._queue.put
            with closing(self._windows.read(opened)) as found:
                while not self._queue.closed and (windows := next(found, None)) is not None:
                    hand_over(windows)
        finally:
            if opened is not self._source:
                opened.close()
