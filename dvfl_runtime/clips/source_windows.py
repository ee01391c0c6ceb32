"""The windows of one source, cut while it is read, or when it pauses."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Generator
from contextlib import closing, suppress

from dvfl_runtime.clips.picking import frames_of
from dvfl_runtime.clips.windows import Window, Windower
from dvfl_runtime.errors import DvflError
from dvfl_runtime.sources import Frame, Source

QUIET_S = 2.0  # a live source without a frame for so long, and for longer than a window, has paused


class SourceWindows:
    """Reads a source and cuts its frames into windows.

    One thread iterates over `read` and then calls `finish`; any thread may call `end_pause`.

    Args:
        windower: cuts the windows; used here alone.
    """

    def __init__(self, windower: Windower) -> None:
        self._windower = windower
        self._pause_s = max(QUIET_S, windower.window_s)
        self._lock = threading.Lock()  # guards the windower and the time of the newest frame
        self._newest_s = math.inf  # when a live source's newest frame came, on the machine's clock

    def read(self, source: Source) -> Generator[list[Window], None, None]:
        """Yield, for each frame of the source, the windows that it completes.

        Raises:
            SourceError: if the source has no frame, or its times go back.
            ClipError: if a picture is not (H, W, 3) uint8.
            Exception: any other error of a source of the caller's.
        """
        with closing(frames_of(source)) as frames:
            for frame in frames:
                with self._lock:
                    windows = self._windower.push(_with_arrival(frame) if source.live else frame)
                    if source.live:  # now: a slow finder of regions is no pause of the source
                        self._newest_s = time.monotonic()
                yield windows

    def finish(self) -> list[Window]:
        """Return the windows that the end of the source completes."""
        with self._lock:
            return self._windower.finish()

    def end_pause(self) -> list[Window]:
        """Return the last windows before a pause, if a live source has paused.

        Otherwise they would come with its next frame, and a camera that sends only while something
        moves may be silent for hours.
        """
        windows: list[Window] = []
        # while a frame is taken, which may take long, the source has not paused
        if self._has_paused() and self._lock.acquire(blocking=False):
            try:
                if self._has_paused():  # no frame has come in between
                    with suppress(DvflError):  # the thread that reads meets the error again
                        windows = self._windower.finish()
            finally:
                self._lock.release()
        return windows

    def _has_paused(self) -> bool:
        return time.monotonic() - self._newest_s > self._pause_s


def _with_arrival(frame: Frame) -> Frame:
    """Return a frame with a time of arrival, which a live source of the caller's may leave out."""
    return frame if frame.arrival_ns else frame.replace(arrival_ns=time.monotonic_ns())
