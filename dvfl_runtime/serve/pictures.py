"""What the page shows of each source: its picture and its state."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.sources import Frame, Source
from dvfl_runtime.sources.live.reconnect import reason_of
from dvfl_runtime.sources.observed import Tap

MAX_PICTURES_HZ = 12.0
MAX_PICTURE_PX = 640  # the longer side
JPEG_QUALITY = 80


class Watched(Tap):
    """A source whose state can be asked; what is recorded comes at the pace of its timestamps.

    Args:
        source: closed with this one.
        look: called with each frame, in the thread that reads the source.

    Attributes:
        error: what ended it, if that was an error.
    """

    def __init__(self, source: Source, look: Callable[[Frame], None]) -> None:
        super().__init__(source, self._pass)
        self._show = look
        self._begin_s: float | None = None
        self._ended = False
        self._closed = threading.Event()
        self.error: str | None = None

    @property
    def state(self) -> str:
        """What the source is doing: a live one says so itself."""
        if self._ended or self._closed.is_set():
            return "ended"
        if self.live:
            return str(getattr(self._source, "state", "live"))
        return "connecting" if self._begin_s is None else "playing"

    def frames(self) -> Iterator[Frame]:
        """Yields the frames of the source."""
        try:
            yield from super().frames()
        except Exception as err:
            self.error = reason_of(err)
            raise
        finally:
            self._ended = True

    def close(self) -> None:
        """Closes the source, and ends a running `frames()` at once."""
        self._closed.set()
        super().close()

    def _pass(self, frame: Frame) -> None:
        if self._begin_s is None:
            self._begin_s = time.monotonic() - frame.time_s
        if not self.live:
            self._closed.wait(max(0.0, self._begin_s + frame.time_s - time.monotonic()))
        self._show(frame)


class Card:
    """One source on the page.

    Pictures are made while somebody waits for one, and at most `MAX_PICTURES_HZ`: a slow browser
    asks less often, and always gets the newest. Nothing is queued.

    Args:
        source: what is to be read.
        loop: of the server; whatever is not said to be for another thread is called in it.

    Attributes:
        name: of the source.
        source: to be read instead.
        dropped_frames: frames that no prediction shows.
    """

    def __init__(self, source: Source, loop: asyncio.AbstractEventLoop) -> None:
        self.name = source.name
        self.source = Watched(source, self._look)
        self.dropped_frames = 0
        self._loop = loop
        self._wanted = False  # set by the server, cleared by the thread that reads
        self._looked_s = -1.0
        self._waiting: list[asyncio.Future[None]] = []
        self._jpeg: bytes | None = None

    def state(self) -> dict[str, Any]:
        """Returns what is to be said of the source apart from its predictions."""
        stats = getattr(self.source, "stats", None)
        state = self.source.state
        outage = getattr(self.source, "outage", None) if state != "ended" else None
        return {
            "source": self.name,
            "live": self.source.live,
            "state": state,
            "error": self.source.error or outage,
            "reconnects": getattr(stats, "reconnects", 0),
            "dropped_frames": self.dropped_frames,
        }

    async def picture(self, patience_s: float) -> bytes | None:
        """Returns the next picture as JPEG, the last one if none comes, `None` if there was none.

        Args:
            patience_s: how long to wait for the next one.
        """
        if self.source.state == "ended":
            return self._jpeg
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(future)
        self._wanted = True
        try:
            await asyncio.wait([future], timeout=patience_s)
        finally:
            if future in self._waiting:
                self._waiting.remove(future)
        return self._jpeg

    def release(self) -> None:
        """Answers everything that waits for a picture with the last one."""
        self._hand_out(self._jpeg)

    def _look(self, frame: Frame) -> None:
        """Takes a frame, in the thread that reads the source."""
        now_s = time.monotonic()
        if not self._wanted or now_s - self._looked_s < 1 / MAX_PICTURES_HZ:
            return
        self._wanted, self._looked_s = False, now_s
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._encode, frame.image)

    def _encode(self, image: NDArray[np.uint8]) -> None:
        if self._waiting:
            done = self._loop.run_in_executor(None, encode_jpeg, image)
            done.add_done_callback(lambda made: self._hand_out(made.result()))

    def _hand_out(self, jpeg: bytes | None) -> None:
        self._jpeg = jpeg
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


def encode_jpeg(image: NDArray[np.uint8], max_px: int = MAX_PICTURE_PX) -> bytes:
    """Returns an (H, W, 3) RGB uint8 picture as JPEG, its longer side at most `max_px`."""
    import cv2

    height, width = image.shape[:2]
    scale = max_px / max(height, width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
    return data.tobytes()
